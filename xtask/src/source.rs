//! Rust source seen lexically: where code ends and comments and literals begin, which lines are tests, where functions
//! lie.
//!
//! This is no parser. It is exact about comments, literals and brackets, which is all that the rules need, and it needs
//! no dependency. Invariant: [`Source::code`] has the same length in characters and the same line breaks as the text.

/// One file, prepared for the rules.
#[derive(Debug)]
pub(crate) struct Source {
    /// Path below the checkout.
    pub(crate) path: String,
    /// The file as it is.
    pub(crate) text: String,
    /// The text with every comment and literal blanked out.
    pub(crate) code: Vec<char>,
    /// For each line whether it belongs to a test.
    pub(crate) test_lines: Vec<bool>,
    /// Where each line begins in `code`.
    line_starts: Vec<usize>,
}

/// A function item.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// From 0.
    pub(crate) first_line: usize,
    pub(crate) last_line: usize,
}

impl Source {
    pub(crate) fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        let (path, text) = (path.into(), text.into());
        let code = blank(&text);
        let breaks = code.iter().enumerate().filter(|(_, c)| **c == '\n').map(|(at, _)| at + 1);
        let line_starts: Vec<usize> = std::iter::once(0).chain(breaks).collect();
        let mut source = Self { path, text, code, test_lines: Vec::new(), line_starts };
        source.test_lines = source.mark_tests();
        source
    }

    /// The line, from 0, of a position.
    pub(crate) fn line_of(&self, at: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= at) - 1
    }

    /// The crate's folder name: `crates/NAME/…` or `xtask/…`.
    pub(crate) fn crate_name(&self) -> &str {
        let inside = self.path.strip_prefix("crates/").unwrap_or(&self.path);
        inside.split('/').next().unwrap_or_default()
    }

    /// Whether it belongs to a benchmark.
    pub(crate) fn is_bench(&self) -> bool {
        self.path.contains("/benches/")
    }

    pub(crate) fn is_test_line(&self, line: usize) -> bool {
        self.test_lines.get(line).copied().unwrap_or(false)
    }

    /// The code of each line, comments and literals blanked.
    pub(crate) fn code_lines(&self) -> Vec<String> {
        self.code.split(|c| *c == '\n').map(|line| line.iter().collect()).collect()
    }

    /// Files that are tests as a whole, and the items below `#[cfg(test)]`.
    fn mark_tests(&self) -> Vec<bool> {
        let path = &self.path;
        let whole = path.contains("/tests/") || path.contains("/benches/") || path.ends_with("/tests.rs");
        let mut marks = vec![whole; self.text.lines().count()];
        let pattern: Vec<char> = "#[cfg(test)]".chars().collect();
        let mut at = 0;
        while at + pattern.len() <= self.code.len() {
            if !self.code[at..].starts_with(&pattern) {
                at += 1;
                continue;
            }
            let after = at + pattern.len();
            let end =
                body_start(&self.code, after).and_then(|open| matching(&self.code, open)).unwrap_or(after);
            let lines = self.line_of(at)..=self.line_of(end);
            marks
                .iter_mut()
                .enumerate()
                .filter(|(line, _)| lines.contains(line))
                .for_each(|(_, mark)| *mark = true);
            at = end.max(after);
        }
        marks
    }

    /// Every function with a body, nested ones too.
    pub(crate) fn functions(&self) -> Vec<Function> {
        let starts = words(&self.code).into_iter().filter(|(_, word)| word == "fn");
        starts.filter_map(|(at, _)| self.function_at(at)).collect()
    }

    fn function_at(&self, at: usize) -> Option<Function> {
        let after = at + 2;
        let name: String = self.code[after..]
            .iter()
            .skip_while(|c| c.is_whitespace())
            .take_while(|c| is_word(**c))
            .collect();
        if name.is_empty() {
            // A function pointer type.
            return None;
        }
        let open = body_start(&self.code, after)?;
        let close = matching(&self.code, open)?;
        Some(Function { name, first_line: self.line_of(at), last_line: self.line_of(close) })
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Every word of the code with the position it begins at.
pub(crate) fn words(code: &[char]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < code.len() {
        let word: String = code[at..].iter().take_while(|c| is_word(**c)).collect();
        if word.is_empty() {
            at += 1;
        } else {
            let length = word.chars().count();
            found.push((at, word));
            at += length;
        }
    }
    found
}

/// The brace that opens the body of a function whose name begins at `from`; `None` for a declaration.
fn body_start(code: &[char], from: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in code.iter().enumerate().skip(from) {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.checked_sub(1)?,
            '{' if depth == 0 => return Some(at),
            ';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// The bracket that closes the one at `open`.
pub(crate) fn matching(code: &[char], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in code.iter().enumerate().skip(open) {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// Replaces every comment, string and character literal by spaces; line breaks stay.
fn blank(text: &str) -> Vec<char> {
    let mut chars: Vec<char> = text.chars().collect();
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at);
        if let Some(end) = end {
            chars[at..end].iter_mut().filter(|c| **c != '\n').for_each(|c| *c = ' ');
        }
        at = end.unwrap_or(at + 1);
    }
    chars
}

/// Where the comment or literal that begins at `at` ends; `None` when none begins there.
fn literal_end(chars: &[char], at: usize) -> Option<usize> {
    let rest = &chars[at..];
    let inside_word = at > 0 && is_word(chars[at - 1]);
    match rest {
        ['/', '/', ..] => Some(at + rest.iter().position(|c| *c == '\n').unwrap_or(rest.len())),
        ['/', '*', ..] => Some(at + block_comment_length(rest)),
        ['"', ..] => Some(at + quoted_length(rest, '"')),
        ['\'', '\\', ..] | ['\'', _, '\'', ..] => Some(at + quoted_length(rest, '\'')),
        ['r' | 'b' | 'c', ..] if !inside_word => raw_length(rest).map(|length| at + length),
        _ => None,
    }
}

/// Length of a nested block comment.
fn block_comment_length(rest: &[char]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => {
                depth += 1;
                at += 2;
            }
            ['*', '/', ..] => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    at
}

/// Length of a literal that ends at an unescaped `quote`.
fn quoted_length(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// Length of a raw string `r#"…"#` (also `br`, `cr`); `None` when this is no raw string.
fn raw_length(rest: &[char]) -> Option<usize> {
    let prefix = if rest[0] == 'r' { 1 } else { 2 };
    if rest.get(prefix - 1) != Some(&'r') {
        return None;
    }
    let hashes = rest[prefix..].iter().take_while(|c| **c == '#').count();
    let open = prefix + hashes;
    if rest.get(open) != Some(&'"') {
        return None;
    }
    let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let body = &rest[open + 1..];
    let length = body.windows(close.len()).position(|window| window == close);
    Some(length.map_or(rest.len(), |length| open + 1 + length + close.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        Source::new("crates/x/src/lib.rs", text).code.into_iter().collect()
    }

    #[test]
    fn literals_and_comments_are_blank_and_the_rest_stays() {
        let text = "let a = \"x{\\\"}\"; // }\nlet b = '{'; /* { /* } */ } */ fn f<'a>(x: &'a str) {}\nr#\"{\"}\"# b'\\''";
        let blanked = code(text);
        assert_eq!(blanked.chars().count(), text.chars().count());
        assert_eq!(blanked.matches(['{', '}']).count(), 2, "{blanked}");
        assert!(blanked.contains("fn f<'a>(x: &'a str) {}"));
    }

    #[test]
    fn functions_are_found_with_their_lines() {
        let text = "fn one() {\n  1\n}\ntrait T {\n  fn two(&self) -> [u8; 4];\n}\ntype P = fn(u8);\nfn three<F>(f: F)\nwhere F: Fn() -> [u8; 2] {\n}\n";
        let found = Source::new("crates/x/src/a.rs", text).functions();
        let names: Vec<(&str, usize, usize)> =
            found.iter().map(|f| (f.name.as_str(), f.first_line, f.last_line)).collect();
        assert_eq!(names, [("one", 0, 2), ("three", 7, 9)]);
    }

    #[test]
    fn test_modules_and_test_files_are_marked() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() {}\n}\nfn c() {}\n";
        let source = Source::new("crates/x/src/a.rs", text);
        assert_eq!(source.test_lines, [false, true, true, true, true, false]);
        assert!(Source::new("crates/x/tests/a.rs", text).test_lines.iter().all(|test| *test));
        let declared = Source::new("crates/x/src/a.rs", "#[cfg(test)]\nmod tests;\nfn c() {}\n");
        assert_eq!(declared.test_lines, [true, false, false]);
    }
}
