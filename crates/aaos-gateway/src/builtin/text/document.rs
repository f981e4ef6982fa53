//! Turns a file or page into a document: title, headings, and units of text worth quoting.
//!
//! Invariants: fenced code, front matter and HTML comments are never units; every unit is one line of bounded
//! length.

use super::sentences;
use crate::builtin::conversation::one_line;

/// Most units kept of one document.
const MAX_UNITS: usize = 4_000;
/// Headings shown.
const SHOWN_HEADINGS: usize = 8;

/// What kind of text a unit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnitKind {
    /// A sentence of a paragraph.
    Sentence,
    /// A list item.
    Item,
    /// A table row, or a line of data.
    Row,
}

/// A piece of text worth quoting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unit {
    /// The text, on one line.
    pub(crate) text: String,
    /// Its kind.
    pub(crate) kind: UnitKind,
    /// Whether it is the first of its section.
    pub(crate) opens_section: bool,
}

/// One file or page, read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Document {
    /// Path or URL for people.
    pub(crate) name: String,
    /// Title, if it has one.
    pub(crate) title: String,
    /// Size of the source in bytes.
    pub(crate) size: u64,
    /// Headings in order.
    pub(crate) headings: Vec<String>,
    /// Units in order.
    pub(crate) units: Vec<Unit>,
    /// The text itself.
    pub(crate) content: String,
}

/// How a text is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Prose,
    Code,
    Data,
}

impl Document {
    /// A file, read by the extension of its name.
    pub(crate) fn of_file(name: &str, extension: &str, content: &str, size: u64) -> Self {
        let form = match extension {
            "rs" | "py" | "js" | "ts" | "tsx" | "jsx" | "c" | "h" | "cc" | "cpp" | "hpp" | "go" | "java"
            | "kt" | "rb" | "php" | "sh" | "bash" | "sql" | "lua" | "zig" | "swift" => Form::Code,
            "json" | "jsonl" | "csv" | "tsv" | "yaml" | "yml" | "toml" | "ini" | "cfg" | "conf" | "xml"
            | "lock" | "log" | "css" => Form::Data,
            _ => Form::Prose,
        };
        Self::read(name, form, content, size)
    }

    /// A page, whose HTML has already become readable text.
    pub(crate) fn of_page(url: &str, content_type: &str, body: &str) -> Self {
        let data = ["json", "csv", "xml;", "yaml"].iter().any(|kind| content_type.contains(kind));
        let form = if data { Form::Data } else { Form::Prose };
        Self::read(url, form, body, body.len() as u64)
    }

    fn read(name: &str, form: Form, content: &str, size: u64) -> Self {
        let mut document =
            Self { name: name.to_owned(), size, content: content.to_owned(), ..Self::default() };
        let text = content.trim_start_matches('\u{feff}');
        match form {
            Form::Prose => Reader::new(&mut document).read(text),
            Form::Code => {
                let comments: Vec<&str> = text.lines().map(comment).collect();
                Reader::new(&mut document).read(&comments.join("\n"));
                // Headings inside comments head parts of them, not the file.
                document.title.clear();
                document.headings.clear();
            }
            Form::Data => {}
        }
        if document.units.is_empty() {
            let lines = text.lines().map(one_line).filter(|line| !line.is_empty());
            let unit = |text| Unit { text, kind: UnitKind::Row, opens_section: false };
            document.units = lines.take(MAX_UNITS).map(unit).collect();
        }
        document
    }

    /// Size and headings, for people.
    pub(crate) fn details(&self) -> Vec<String> {
        let mut details = vec![format!("{} bytes", self.size)];
        let headings: Vec<&str> =
            self.headings.iter().map(String::as_str).filter(|text| *text != self.title).collect();
        if !headings.is_empty() {
            let more = headings.len().saturating_sub(SHOWN_HEADINGS);
            let rest = if more > 0 { format!(" · and {more} more") } else { String::new() };
            let shown = headings[..headings.len() - more].join(" · ");
            details.push(format!("headings: {shown}{rest}"));
        }
        details
    }
}

/// The text of a comment line in the usual languages; nothing for a line of code.
fn comment(line: &str) -> &str {
    let line = line.trim();
    if line.starts_with("#!") || line.starts_with("#[") || line.starts_with("#include") {
        return "";
    }
    for marker in ["//!", "///", "//", "/**", "/*", "* ", "# ", "-- "] {
        if let Some(text) = line.strip_prefix(marker) {
            // Headings of a documentation comment stay headings; "# x" of a shell comment is prose.
            return text.trim_end_matches("*/").trim();
        }
    }
    ""
}

/// Reads Markdown, or plain text, line by line.
struct Reader<'d> {
    document: &'d mut Document,
    paragraph: Vec<String>,
    kind: UnitKind,
    opens_section: bool,
    fence: Option<String>,
    in_comment: bool,
}

impl<'d> Reader<'d> {
    fn new(document: &'d mut Document) -> Self {
        Self {
            document,
            paragraph: Vec::new(),
            kind: UnitKind::Sentence,
            opens_section: true,
            fence: None,
            in_comment: false,
        }
    }

    fn read(mut self, text: &str) {
        let body = self.front_matter(text);
        for line in body.lines() {
            self.line(line);
        }
        self.flush();
    }

    /// Skips YAML front matter, keeping its title.
    fn front_matter<'t>(&mut self, text: &'t str) -> &'t str {
        let Some(rest) = text.strip_prefix("---\n") else { return text };
        let Some(end) = rest.find("\n---") else { return text };
        let title = rest[..end].lines().find_map(|line| line.strip_prefix("title:"));
        if let Some(title) = title {
            title.trim().trim_matches(['"', '\'']).clone_into(&mut self.document.title);
        }
        rest[end + 4..].split_once('\n').map_or("", |(_, body)| body)
    }

    fn line(&mut self, line: &str) {
        let text = line.trim();
        if self.skips(text) {
            return;
        }
        let underlined =
            !text.is_empty() && (text.chars().all(|c| c == '=') || text.chars().all(|c| c == '-'));
        if text.is_empty() {
            self.flush();
        } else if underlined && text.len() >= 3 {
            self.underline();
        } else if let Some(heading) = heading(text) {
            self.flush();
            self.heading(heading);
        } else if let Some(item) = list_item(text) {
            self.flush();
            self.kind = UnitKind::Item;
            self.paragraph.push(clean(item));
        } else if text.starts_with('|') {
            self.flush();
            self.row(text);
        } else {
            self.paragraph.push(clean(text.trim_start_matches(['>', ' '])));
        }
    }

    /// Whether the line belongs to fenced code or an HTML comment.
    fn skips(&mut self, text: &str) -> bool {
        if let Some(fence) = &self.fence {
            if text.starts_with(fence.as_str()) {
                self.fence = None;
            }
            return true;
        }
        if let Some(mark) = ["```", "~~~"].into_iter().find(|mark| text.starts_with(mark)) {
            self.flush();
            self.fence = Some(mark.to_owned());
            return true;
        }
        let skipped = self.in_comment || text.starts_with("<!--");
        if skipped {
            self.in_comment = !text.contains("-->");
        }
        skipped
    }

    /// A line of `=` or `-` makes the line before it a heading.
    fn underline(&mut self) {
        let single = self.paragraph.len() == 1 && self.kind == UnitKind::Sentence;
        if let Some(title) = self.paragraph.pop().filter(|_| single) {
            self.heading(&title);
        } else {
            self.flush();
        }
    }

    fn heading(&mut self, text: &str) {
        let text = one_line(&clean(text));
        if text.is_empty() {
            return;
        }
        if self.document.title.is_empty() {
            self.document.title.clone_from(&text);
        }
        self.document.headings.push(text);
        self.opens_section = true;
    }

    fn row(&mut self, text: &str) {
        let cells: Vec<String> = text
            .trim_matches('|')
            .split('|')
            .map(|cell| clean(cell.trim()))
            .filter(|cell| !cell.is_empty())
            .collect();
        let rule = cells.iter().all(|cell| cell.chars().all(|c| ":- ".contains(c)));
        if !rule {
            self.push(&cells.join(" — "), UnitKind::Row);
        }
    }

    fn flush(&mut self) {
        let paragraph = std::mem::take(&mut self.paragraph).join(" ");
        let kind = std::mem::replace(&mut self.kind, UnitKind::Sentence);
        for sentence in sentences::split(&paragraph) {
            self.push(&sentence, kind);
        }
    }

    fn push(&mut self, text: &str, kind: UnitKind) {
        let text = one_line(text);
        if self.document.units.len() < MAX_UNITS && text.chars().any(char::is_alphanumeric) {
            self.document.units.push(Unit { text, kind, opens_section: self.opens_section });
            self.opens_section = false;
        }
    }
}

fn heading(text: &str) -> Option<&str> {
    let rest = text.trim_start_matches('#');
    let level = text.len() - rest.len();
    let found = (1..=6).contains(&level) && (rest.is_empty() || rest.starts_with([' ', '\t']));
    found.then(|| rest.trim().trim_end_matches('#').trim_end())
}

fn list_item(text: &str) -> Option<&str> {
    for bullet in ["- ", "* ", "+ ", "• "] {
        if let Some(item) = text.strip_prefix(bullet) {
            let item = item.trim_start();
            let boxed = ["[ ] ", "[x] ", "[X] "].iter().find_map(|mark| item.strip_prefix(mark));
            return Some(boxed.unwrap_or(item));
        }
    }
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let rest = &text[digits..];
    let numbered = (1..=3).contains(&digits) && (rest.starts_with(". ") || rest.starts_with(") "));
    numbered.then(|| rest[2..].trim_start())
}

/// Text without Markdown's inline marks: links keep their text, emphasis and tags go.
fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    let mut rest = text;
    let mut emphasis = 0;
    while let Some(next) = rest.chars().next() {
        let tail = &rest[next.len_utf8()..];
        rest = match next {
            '!' if tail.starts_with('[') => tail,
            '[' => match link(rest) {
                Some((label, after)) => {
                    cleaned.push_str(&clean(label));
                    after
                }
                None => keep(&mut cleaned, next, tail),
            },
            '<' => match tag(rest) {
                Some(after) => after,
                None => keep(&mut cleaned, next, tail),
            },
            '`' => {
                let (code, after) = tail.split_once('`').unwrap_or((tail, ""));
                cleaned.push_str(code);
                after
            }
            '*' if opens(&cleaned, tail) => {
                emphasis += 1;
                tail
            }
            '*' if emphasis > 0 => {
                emphasis -= 1;
                tail
            }
            '_' if tail.starts_with('_') => &tail[1..],
            _ => keep(&mut cleaned, next, tail),
        };
    }
    cleaned
}

/// Whether a `*` stands where emphasis begins: before a word and not after one.
fn opens(before: &str, after: &str) -> bool {
    let follows =
        before.chars().next_back().is_none_or(|last| last.is_whitespace() || "(\"'“—[".contains(last));
    follows && !after.starts_with(char::is_whitespace)
}

fn keep<'t>(cleaned: &mut String, character: char, tail: &'t str) -> &'t str {
    cleaned.push(character);
    tail
}

/// `[label](target)` or `[label][reference]`: the label, and what follows.
fn link(text: &str) -> Option<(&str, &str)> {
    let close = text.find(']')?;
    let label = &text[1..close];
    let after = &text[close + 1..];
    let end = match after.chars().next()? {
        '(' => after.find(')')?,
        '[' => after.find(']')?,
        _ => return None,
    };
    (!label.contains('[')).then_some((label, &after[end + 1..]))
}

/// What follows an HTML tag that begins here.
fn tag(text: &str) -> Option<&str> {
    let inside = text.get(1..)?;
    let begins = inside.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let end = inside.find('>').filter(|_| begins)?;
    let is_tag = !inside[..end].contains("://") && !inside[..end].contains('@');
    is_tag.then(|| &inside[end + 1..])
}

#[cfg(test)]
mod tests {
    use super::{Document, UnitKind, clean};

    const TEXT: &str = "---\ntitle: \"Front\"\n---\n# One\nFirst sentence. Second\nsentence.\n\n- an item\n  goes on\n\
        1. numbered\n\n```rust\nlet code = 1;\n```\n<!-- hidden\nstill -->\n| a | b |\n|---|---|\n| c | d |\n\
        Two\n---\n> quoted [link](http://x.y/z) text\n";

    #[test]
    fn markdown_becomes_units() {
        let document = Document::of_file("a.md", "md", TEXT, 9);
        let units: Vec<&str> = document.units.iter().map(|unit| unit.text.as_str()).collect();
        let expected = [
            "First sentence.",
            "Second sentence.",
            "an item goes on",
            "numbered",
            "a — b",
            "c — d",
            "quoted link text",
        ];
        assert_eq!(units, expected);
        assert_eq!(document.title, "Front");
        assert_eq!(document.headings, ["One", "Two"]);
        assert_eq!(document.units[2].kind, UnitKind::Item);
        assert!(document.units[0].opens_section && !document.units[1].opens_section);
    }

    #[test]
    fn code_gives_its_comments_and_data_its_lines() {
        let code = Document::of_file("a.rs", "rs", "//! Reads things.\nfn main() {}\n/// Says so.\n", 1);
        assert_eq!(code.units[0].text, "Reads things.");
        assert!(code.units.iter().all(|unit| !unit.text.contains("main")));
        let data = Document::of_file("a.json", "json", "{\n\"a\": 1\n}", 1);
        assert_eq!(data.units.len(), 3);
        let bare = Document::of_file("a.rs", "rs", "fn main() {}", 1);
        assert_eq!(bare.units[0].text, "fn main() {}", "code without comments falls back to lines");
    }

    #[test]
    fn inline_marks_go() {
        assert_eq!(
            clean("**bold** `code` *it* 2 * 3 <b>x</b> ![alt](i.png) snake_case"),
            "bold code it 2 * 3 x alt snake_case"
        );
        assert_eq!(clean("`Arc<dyn T>` and `/a/*` or /b/* *c*"), "Arc<dyn T> and /a/* or /b/* c");
        assert_eq!(clean("[a][1] <http://x.y> a < b [not a link]"), "a <http://x.y> a < b [not a link]");
    }
}
