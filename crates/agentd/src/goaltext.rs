//! What stands literally in a goal's text: output paths and the hosts of URLs (SPEC §8).
//!
//! Invariants: pure text in, candidates out; nothing is guessed: a path has a slash, a URL has `http://` or
//! `https://`. What is unclear (credentials in a URL, a name that is not ASCII, a wildcard) grants nothing.

use aaos_core::capability::{Capability, HostRule, Value, is_public_web};
use aaos_core::path::{AbsPath, PathPattern, Reach};

/// Characters that wrap a path or a URL in prose without being part of it.
const WRAPPING: &[char] =
    &['"', '\'', '`', '“', '”', '‘', '’', '«', '»', '„', '(', ')', '[', ']', '{', '}', '<', '>', '*', '|'];
/// Characters that end a sentence or clause after a path.
const TRAILING: &[char] = &['.', ',', ';', ':', '!', '?', '…', '。', '，', '、', '；', '：', '！', '？'];
/// Pairs that may enclose a path with spaces.
const QUOTES: [(char, char); 5] = [('"', '"'), ('\'', '\''), ('`', '`'), ('“', '”'), ('«', '»')];

/// Where relative paths start, and where writing is granted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ground<'g> {
    /// The working directory.
    pub(crate) directory: &'g AbsPath,
    /// The roots of write grants.
    pub(crate) writes: &'g [PathPattern],
}

/// The paths below a write grant that stand in `goal`, in order, each once, but for those that
/// `is_directory` says are directories.
pub(crate) fn outputs(
    goal: &str,
    ground: Ground<'_>,
    is_directory: impl Fn(&AbsPath) -> bool,
) -> Vec<AbsPath> {
    let mut found = Vec::new();
    for word in words(goal, ground) {
        if let Some(path) = output(word, ground).filter(|path| !found.contains(path) && !is_directory(path)) {
            found.push(path);
        }
    }
    found
}

/// The text's words; a quoted span that is one path with spaces is one word.
fn words<'t>(goal: &'t str, ground: Ground<'_>) -> Vec<&'t str> {
    let mut words = Vec::new();
    let mut rest = goal;
    while let Some((before, inside, after)) = quoted_span(rest) {
        push_words(&mut words, before);
        if is_one_path(inside, ground) {
            words.push(inside)
        } else {
            push_words(&mut words, inside)
        }
        rest = after;
    }
    push_words(&mut words, rest);
    words
}

fn push_words<'t>(words: &mut Vec<&'t str>, text: &'t str) {
    let pieces =
        text.split(|c: char| c.is_whitespace() || c == ',' || c == ';').flat_map(|word| word.split("]("));
    words.extend(pieces.filter(|word| !word.is_empty()));
}

/// The first quoted span on one line: what stands before it, inside and after. An apostrophe opens none.
fn quoted_span(text: &str) -> Option<(&str, &str, &str)> {
    let mut previous = ' ';
    for (at, open) in text.char_indices() {
        let opens = previous.is_whitespace() || WRAPPING.contains(&previous);
        previous = open;
        let Some((_, close)) = QUOTES.iter().find(|(mark, _)| *mark == open && opens) else { continue };
        let inside_at = at + open.len_utf8();
        let line_end = text[inside_at..].find('\n').map_or(text.len(), |end| inside_at + end);
        let Some(end) = closing(&text[inside_at..line_end], *close) else { continue };
        let after = inside_at + end + close.len_utf8();
        return Some((&text[..at], &text[inside_at..inside_at + end], &text[after..]));
    }
    None
}

/// Where the closing mark stands that no letter follows.
fn closing(line: &str, close: char) -> Option<usize> {
    line.match_indices(close).map(|(at, _)| at).find(|at| {
        let next = line[at + close.len_utf8()..].chars().next();
        *at > 0 && next.is_none_or(|next| !next.is_alphanumeric())
    })
}

/// Whether a quoted span with spaces is one path: it leads below a write grant, and none of its later words
/// does.
fn is_one_path(span: &str, ground: Ground<'_>) -> bool {
    let mut pieces = span.split_whitespace();
    let has_spaces = pieces.next().is_some() && pieces.next().is_some();
    let later = span.split_whitespace().skip(1);
    has_spaces
        && output(span, ground).is_some()
        && later.filter(|word| word.contains('/')).all(|word| output(word, ground).is_none())
}

/// The path that a word names, if it lies below a write grant and could be a file.
fn output(word: &str, ground: Ground<'_>) -> Option<AbsPath> {
    let word = unwrapped(word);
    let unclear = word.contains("://") || word.chars().any(|c| c.is_control() || "*?\\".contains(c));
    if unclear || !word.contains('/') || word.ends_with('/') {
        return None;
    }
    let path = AbsPath::resolve(word, Some(ground.directory))?;
    let is_explicit = word.starts_with('/') || word.starts_with("./") || word.starts_with("../");
    let below = |pattern: &PathPattern| {
        let rest = pattern.matches(&path)?;
        let names_root = pattern.reach() == Reach::Subtree && rest.is_empty();
        // In `and/or` the slash makes no path, unless the first part is the granted directory itself.
        let is_meant = is_explicit || has_extension(&path) || pattern.root() != ground.directory;
        (!names_root && is_meant).then_some(())
    };
    ground.writes.iter().find_map(below)?;
    Some(path)
}

fn unwrapped(word: &str) -> &str {
    let mut word = word.trim_start_matches(|c| WRAPPING.contains(&c) || TRAILING[1..].contains(&c));
    loop {
        let shorter = word.trim_end_matches(|c| WRAPPING.contains(&c) || TRAILING.contains(&c));
        let shorter = shorter.strip_suffix("'s").unwrap_or(shorter);
        if shorter.len() == word.len() {
            return word;
        }
        word = shorter;
    }
}

fn has_extension(path: &AbsPath) -> bool {
    let name = path.split_last().map_or_else(String::new, |(_, name)| name.to_owned());
    name.rsplit_once('.').is_some_and(|(stem, extension)| {
        !stem.is_empty() && !extension.is_empty() && extension.chars().all(char::is_alphanumeric)
    })
}

/// The hosts of URLs in a goal: those that may be granted, and those that may not, with the reason.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Hosts {
    /// Granted without a flag.
    pub(crate) granted: Vec<HostRule>,
    /// Not granted: what stands in the goal, and why.
    pub(crate) refused: Vec<(String, Refused)>,
}

/// Why a URL's host is not granted without a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Loopback, private or local: only an explicit flag grants it.
    Local,
    /// It holds credentials, an escape, a name that is not ASCII, or no usable host at all.
    Unclear,
}

/// Finds the hosts of `http://` and `https://` URLs that stand in `goal`.
pub(crate) fn hosts(goal: &str) -> Hosts {
    let mut hosts = Hosts::default();
    for authority in authorities(goal) {
        match host(authority) {
            Ok(rule) if hosts.granted.contains(&rule) => {}
            Ok(rule) => hosts.granted.push(rule),
            Err(why) => {
                let refused = (authority.to_owned(), why);
                if !hosts.refused.contains(&refused) {
                    hosts.refused.push(refused);
                }
            }
        }
    }
    hosts
}

/// What stands between `//` and the path of each URL, sentence punctuation left out.
fn authorities(goal: &str) -> Vec<&str> {
    // ASCII lower-casing keeps every byte offset.
    let lower = goal.to_ascii_lowercase();
    let mut found = Vec::new();
    for (at, _) in lower.match_indices("://") {
        let scheme = &lower[..at];
        if !scheme.ends_with("http") && !scheme.ends_with("https") {
            continue;
        }
        let rest = &goal[at + 3..];
        // A backslash is a slash to some parsers and part of the name to others: the host ends there.
        let stops =
            |c: char| c.is_whitespace() || c.is_control() || "/?#\\\"'`<>(){}|,;，。、；”’»".contains(c);
        let authority = &rest[..rest.find(stops).unwrap_or(rest.len())];
        found.push(authority.trim_end_matches(['.', ':', '!', '*', '…']));
    }
    found
}

fn host(authority: &str) -> Result<HostRule, Refused> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    if authority.is_empty() || !authority.chars().all(is_plain) {
        return Err(Refused::Unclear);
    }
    match Capability::parse("network", &Value::Text(authority)) {
        Ok(Capability::Network(rules)) => match rules.as_slice() {
            // The port is judged apart: the question here is only where the host lies.
            [rule] if is_public_web(&rule.host, 443) => Ok(rule.clone()),
            [_] => Err(Refused::Local),
            _ => Err(Refused::Unclear),
        },
        _ => Err(Refused::Unclear),
    }
}

#[cfg(test)]
mod tests {
    use super::{Ground, Refused, hosts, outputs};
    use aaos_core::path::{AbsPath, PathPattern};

    fn found(goal: &str, writes: &[&str]) -> Vec<String> {
        let directory = AbsPath::parse("/home/u/p").expect("absolute");
        let writes: Vec<_> = writes.iter().map(|text| PathPattern::parse(text).expect("a pattern")).collect();
        let ground = Ground { directory: &directory, writes: &writes };
        let is_directory = |path: &AbsPath| path.as_str().ends_with("/existing-dir");
        outputs(goal, ground, is_directory).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn outputs_are_the_paths_below_the_default_root() {
        let out = |names: &[&str]| -> Vec<String> {
            names.iter().map(|name| format!("/home/u/p/output/{name}")).collect()
        };
        let rows: &[(&str, &[&str])] = &[
            ("Read the files in ./docs and write a summary to ./output/summary.md", &["summary.md"]),
            ("write output/a.md", &["a.md"]),
            ("write /home/u/p/output/a.md", &["a.md"]),
            ("write //home/u/p/./output//a.md", &["a.md"]),
            ("write ./output/a.md.", &["a.md"]),
            ("write ./output/a.md, then ./output/b.md; done", &["a.md", "b.md"]),
            ("write ./output/a.md,./output/b.md", &["a.md", "b.md"]),
            ("write ./output/a.md and again ./output/a.md", &["a.md"]),
            ("write \"./output/a.md\"", &["a.md"]),
            ("write './output/a.md'!", &["a.md"]),
            ("write `./output/a.md`…", &["a.md"]),
            ("write (./output/a.md)", &["a.md"]),
            ("write **./output/a.md**", &["a.md"]),
            ("see [the file](./output/a.md)", &["a.md"]),
            ("write “./output/a.md”", &["a.md"]),
            ("write './output/my file.md' please", &["my file.md"]),
            ("say \"write ./output/a.md now\"", &["a.md"]),
            ("\"./output/a.md and ./output/b.md\"", &["a.md", "b.md"]),
            ("don't write 'x' to ./output/a.md, it's late", &["a.md"]),
            ("./output/a.md's content", &["a.md"]),
            ("write ./output/sub/deep/a.md", &["sub/deep/a.md"]),
            ("write ./output/LICENSE", &["LICENSE"]),
            ("write ./output/x/../a.md", &["a.md"]),
            ("write ./docs/../output/a.md", &["a.md"]),
            ("schreibe ./output/über.md", &["über.md"]),
            ("写到 ./output/a.md。", &["a.md"]),
            ("write\n./output/a.md\n", &["a.md"]),
        ];
        for (goal, expected) in rows {
            assert_eq!(found(goal, &["/home/u/p/output/*"]), out(expected), "{goal:?}");
        }
    }

    #[test]
    fn what_is_no_output_is_left_alone() {
        for goal in [
            "",
            "no path at all",
            "write into ./output",
            "write into ./output/",
            "write into ./output/.",
            "write into ./output/..",
            "write ./output/sub/",
            "write ./output/existing-dir",
            "write ./output/../secret.md",
            "write ./output/../../../../etc/passwd",
            "write ../output/a.md",
            "write /etc/passwd",
            "write ./output-x/a.md",
            "write /home/u/p/outputs/a.md",
            "write ~/output/a.md",
            "write ./output/*",
            "write ./output/*.md",
            "write ./output/a?.md",
            "fetch https://example.org/output/a.md",
            "fetch file:///home/u/p/output/a.md",
            "write ./output/a\u{1b}[31m.md",
            "write .\\output\\a.md",
            "write ./output/a\0.md",
            "output a.md",
        ] {
            assert_eq!(found(goal, &["/home/u/p/output/*"]), [""; 0], "{goal:?}");
        }
    }

    #[test]
    fn other_write_roots_have_their_own_outputs() {
        let rows: &[(&str, &[&str], &[&str])] = &[
            ("write /data/x.md", &["/data/*"], &["/data/x.md"]),
            ("write /data-x/x.md", &["/data/*"], &[]),
            ("write to /data/x.md", &["/data/x.md"], &["/data/x.md"]),
            ("write to /data/y.md", &["/data/x.md"], &[]),
            ("write ../x.md", &["/home/u/*"], &["/home/u/x.md"]),
            // With the working directory writable, prose with slashes must not become outputs.
            ("read and/or write ./x.md", &["/home/u/p/*"], &["/home/u/p/x.md"]),
            ("on 24/7 read/write src/main.rs", &["/home/u/p/*"], &["/home/u/p/src/main.rs"]),
            ("write notes.md", &["/home/u/p/*"], &[]),
        ];
        for (goal, writes, expected) in rows {
            assert_eq!(found(goal, writes), *expected, "{goal:?}");
        }
    }

    #[test]
    fn hosts_are_those_of_urls_that_stand_there() {
        let rows: &[(&str, &[&str])] = &[
            ("fetch https://example.org/a", &["example.org"]),
            ("fetch http://example.org", &["example.org"]),
            ("fetch HTTPS://Example.ORG/", &["example.org"]),
            ("fetch https://example.org.", &["example.org"]),
            ("fetch https://example.org, then rest", &["example.org"]),
            ("fetch (https://example.org)", &["example.org"]),
            ("fetch <https://example.org>", &["example.org"]),
            ("fetch \"https://example.org\"", &["example.org"]),
            ("fetch [it](https://example.org/x)", &["example.org"]),
            ("fetch https://example.org:8443/a", &["example.org:8443"]),
            ("fetch https://example.org:", &["example.org"]),
            ("fetch https://example.org?q=https://other.net", &["example.org", "other.net"]),
            ("compare https://a.org/1 https://a.org/2 http://b.org", &["a.org", "b.org"]),
            ("fetch https://93.184.216.34/", &["93.184.216.34"]),
            ("fetch https://[2606:2800:220:1::1]/", &["[2606:2800:220:1::1]"]),
            ("取 https://example.org。", &["example.org"]),
            ("no url: example.org, www.example.org, ftp://example.org", &[]),
            ("", &[]),
        ];
        for (goal, expected) in rows {
            let granted: Vec<_> = hosts(goal).granted.iter().map(ToString::to_string).collect();
            assert_eq!(granted, *expected, "{goal:?}");
        }
    }

    #[test]
    fn local_and_unclear_hosts_are_never_granted_by_prose() {
        for (goal, why) in [
            ("fetch http://127.0.0.1:8080/x", Refused::Local),
            ("fetch http://localhost/x", Refused::Local),
            ("fetch http://a.localhost:3000/", Refused::Local),
            ("fetch http://LOCALHOST", Refused::Local),
            ("fetch http://10.0.0.1", Refused::Local),
            ("fetch http://192.168.1.1/admin", Refused::Local),
            ("fetch http://169.254.169.254/latest/meta-data", Refused::Local),
            ("fetch http://[::1]:8080/", Refused::Local),
            ("fetch http://[::ffff:127.0.0.1]/", Refused::Local),
            ("fetch http://[fd00::1]/", Refused::Local),
            ("fetch http://printer.local/", Refused::Local),
            ("fetch http://0.0.0.0/", Refused::Local),
            ("fetch http://2130706433/", Refused::Unclear),
            ("fetch http://0x7f.1/", Refused::Unclear),
            ("fetch http://127.1/", Refused::Unclear),
            ("fetch https://good.org@evil.org/", Refused::Unclear),
            ("fetch https://user:pass@evil.org/", Refused::Unclear),
            ("fetch https://%65vil.org/", Refused::Unclear),
            ("fetch https://bücher.de/", Refused::Unclear),
            ("fetch https://exаmple.org/", Refused::Unclear),
            ("fetch https://*.example.org/", Refused::Unclear),
            ("fetch https://example.org:99999/", Refused::Unclear),
            ("fetch https:///x", Refused::Unclear),
        ] {
            let hosts = hosts(goal);
            assert_eq!(hosts.granted, [], "{goal:?}");
            assert_eq!(hosts.refused.iter().map(|(_, why)| *why).collect::<Vec<_>>(), [why], "{goal:?}");
        }
    }

    #[test]
    fn a_backslash_ends_the_host() {
        let granted: Vec<_> =
            hosts("fetch https://a.org\\@b.org/").granted.iter().map(ToString::to_string).collect();
        assert_eq!(granted, ["a.org"]);
    }
}
