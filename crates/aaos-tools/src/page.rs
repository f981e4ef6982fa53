//! Second half of `web_fetch`: bytes that the gateway fetched become text.
//!
//! Invariants: everything here is a stranger's bytes; nothing of it is obeyed, and what cannot be text is named
//! and not shown. A page nested too deeply for the Markdown writer, which recurses, is stripped of its tags
//! instead.

use std::fs::File;
use std::io::Read;
use std::rc::Rc;

use aaos_core::limits::{MAX_PAGE_DEPTH, MAX_WEB_FETCH_BYTES};
use aaos_core::toolio::WebFetchOutput;
use aaos_core::wire::{Handed, JobOutput};
use htmd::{HtmlToMarkdown, Node};

use crate::session::{Session, Stop, io_failure};

/// Elements whose content is no prose.
const SKIPPED: &[&str] = &["script", "style", "noscript", "template", "svg", "iframe"];

/// Most start tags without an end that a page given to the parser has.
const MAX_OPEN_TAGS: usize = 4096;

/// Windows-1252 (what the web means by Latin-1): characters of the bytes 0x80 to 0x9f, after the WHATWG
/// Encoding Standard's index.
const WINDOWS_1252: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}',
    '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// What the gateway said of the page.
#[derive(Debug)]
pub(crate) struct PageFacts {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) final_url: String,
    pub(crate) truncated: bool,
}

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyKind {
    Html,
    Text,
    Opaque,
}

/// Body of the second half of `web_fetch`.
pub(crate) fn read_page(
    session: &mut Session<'_>,
    facts: PageFacts,
    page: Handed,
) -> Result<JobOutput, Stop> {
    let (file, _) = session.file(page)?;
    let bytes = read_all(file).map_err(|error| io_failure("read the page", &error))?;
    let PageFacts { status, content_type, final_url, truncated } = facts;
    let body = match kind_of(&content_type, &bytes) {
        BodyKind::Html => markdown(&decode(&bytes, &content_type)),
        BodyKind::Text => decode(&bytes, &content_type),
        BodyKind::Opaque => {
            format!("[{} bytes of {content_type:?}: not text, not shown]", bytes.len())
        }
    };
    Ok(JobOutput::ReadPage(WebFetchOutput { status, content_type, body, final_url, truncated }))
}

fn read_all(file: File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_WEB_FETCH_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Decides by the media type, and without one by the bytes.
fn kind_of(content_type: &str, bytes: &[u8]) -> BodyKind {
    let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if matches!(media.as_str(), "text/html" | "application/xhtml+xml") {
        return BodyKind::Html;
    }
    let named_text = media.starts_with("text/")
        || media.ends_with("+json")
        || media.ends_with("+xml")
        || matches!(
            media.as_str(),
            "application/json"
                | "application/xml"
                | "application/javascript"
                | "application/x-ndjson"
                | "application/yaml"
                | "application/toml"
        );
    if named_text {
        return BodyKind::Text;
    }
    if !media.is_empty() && media != "application/octet-stream" {
        return BodyKind::Opaque;
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return BodyKind::Opaque };
    let start: String = text.trim_start().chars().take(16).collect::<String>().to_ascii_lowercase();
    if start.starts_with("<!doctype html") || start.starts_with("<html") {
        BodyKind::Html
    } else if text.contains('\0') {
        BodyKind::Opaque
    } else {
        BodyKind::Text
    }
}

/// UTF-8 unless the header names Latin-1; bytes that do not fit become U+FFFD.
fn decode(bytes: &[u8], content_type: &str) -> String {
    let charset = content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"').to_ascii_lowercase();
        name.trim().eq_ignore_ascii_case("charset").then_some(value)
    });
    match charset.as_deref() {
        Some("iso-8859-1" | "latin1" | "l1" | "windows-1252" | "cp1252" | "us-ascii" | "ascii") => {
            bytes.iter().copied().map(latin1).collect()
        }
        _ => String::from_utf8_lossy(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)).into_owned(),
    }
}

fn latin1(byte: u8) -> char {
    match byte {
        0x80..=0x9f => WINDOWS_1252[usize::from(byte - 0x80)],
        _ => char::from(byte),
    }
}

/// Readable Markdown of a page.
fn markdown(html: &str) -> String {
    if surplus_of_tags(html) > MAX_OPEN_TAGS {
        return strip_tags(html);
    }
    let converter = HtmlToMarkdown::builder().skip_tags(SKIPPED.to_vec()).build();
    match converter.html_to_tree(html) {
        Ok(tree) if depth_is_within(&tree, MAX_PAGE_DEPTH) => converter.tree_to_markdown(&tree),
        Ok(_) | Err(_) => strip_tags(html),
    }
}

/// The most start tags that stand open at once, counted roughly: the parser's work for one tag grows with the
/// elements that are open. A page made to escape this count runs into the time limit of its call.
fn surplus_of_tags(html: &str) -> usize {
    let (mut open, mut most) = (0_usize, 0);
    for pair in html.as_bytes().windows(2) {
        match pair {
            b"</" => open = open.saturating_sub(1),
            [b'<', name] if name.is_ascii_alphabetic() => open += 1,
            b"/>" => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

/// Whether no node lies deeper than `limit`; looks without recursion.
fn depth_is_within(tree: &Rc<Node>, limit: usize) -> bool {
    let mut open = vec![(Rc::clone(tree), 0)];
    while let Some((node, depth)) = open.pop() {
        if depth > limit {
            return false;
        }
        open.extend(node.children.borrow().iter().map(|child| (Rc::clone(child), depth + 1)));
    }
    true
}

/// The text between tags, white space collapsed: for pages that the converter cannot take.
fn strip_tags(html: &str) -> String {
    let mut text = String::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        push_words(&mut text, &rest[..at]);
        rest = &rest[at..];
        let skipped = SKIPPED.iter().find(|name| starts_element(rest, name));
        let end = match skipped {
            // Up to its end tag; that tag itself is an ordinary one of the next round.
            Some(name) => find_ignoring_case(&rest[1..], &format!("</{name}")).map(|end| end + 1),
            None => rest.find('>').map(|end| end + 1),
        };
        rest = end.map_or("", |end| &rest[end..]);
    }
    push_words(&mut text, rest);
    text
}

fn starts_element(html: &str, name: &str) -> bool {
    let start = html.get(1..=name.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(name))
        && !html[name.len() + 1..].starts_with(|next: char| next.is_ascii_alphanumeric())
}

fn find_ignoring_case(text: &str, ascii: &str) -> Option<usize> {
    text.as_bytes().windows(ascii.len()).position(|window| window.eq_ignore_ascii_case(ascii.as_bytes()))
}

fn push_words(text: &mut String, piece: &str) {
    for word in piece.split_whitespace() {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(word);
    }
}
