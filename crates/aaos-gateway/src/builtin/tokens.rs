//! Cuts a goal into words, paths, URLs and quotations.
//!
//! Invariant: no token is empty, and quoted text is never taken for a keyword.

use super::lexicon;

/// One piece of a goal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A word, as written and in lower case.
    Word {
        /// As written.
        raw: String,
        /// In lower case.
        lower: String,
    },
    /// A path, as written.
    Path(String),
    /// Text with a URL scheme.
    Url(String),
    /// Text in quotation marks.
    Quoted(String),
    /// `*.ext`: only files with this extension.
    Extension(String),
    /// Punctuation that separates.
    Mark(char),
}

impl Token {
    /// The lower-case word, if it is one.
    pub(super) fn word(&self) -> Option<&str> {
        match self {
            Self::Word { lower, .. } => Some(lower),
            _ => None,
        }
    }

    fn from_word(raw: &str) -> Self {
        Self::Word { raw: raw.to_owned(), lower: raw.to_lowercase().replace('’', "'") }
    }
}

/// All tokens of a goal, bare directory names turned into paths.
pub(super) fn tokens(goal: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut rest = goal.trim_start();
    while let Some(first) = rest.chars().next() {
        rest = match quotation(rest, first) {
            Some((inside, after)) => {
                if !inside.trim().is_empty() {
                    found.push(quoted(inside.trim()));
                }
                after
            }
            None => chunk(rest, &mut found),
        }
        .trim_start();
    }
    name_directories(&found)
}

/// The text between quotation marks that open here, and what follows.
fn quotation(rest: &str, first: char) -> Option<(&str, &str)> {
    let close = match first {
        '"' | '\'' | '`' => first,
        '“' | '„' => '”',
        '‘' => '’',
        '«' => '»',
        _ => return None,
    };
    let body = &rest[first.len_utf8()..];
    let ends = |&(at, found): &(usize, char)| {
        found == close
            && body[at + found.len_utf8()..].chars().next().is_none_or(|next| !next.is_alphanumeric())
    };
    let (end, _) = body.char_indices().find(ends)?;
    Some((&body[..end], &body[end + close.len_utf8()..]))
}

fn quoted(text: &str) -> Token {
    if text.contains("://") { Token::Url(text.to_owned()) } else { Token::Quoted(text.to_owned()) }
}

/// Takes one run of visible characters off the front.
fn chunk<'t>(rest: &'t str, found: &mut Vec<Token>) -> &'t str {
    let mut escaped = false;
    let mut end = rest.len();
    for (at, character) in rest.char_indices() {
        if character.is_whitespace() && !escaped {
            end = at;
            break;
        }
        escaped = character == '\\' && !escaped;
    }
    assert!(end > 0, "a chunk begins with a visible character");
    push_chunk(&rest[..end].replace("\\ ", " "), found);
    &rest[end..]
}

fn push_chunk(text: &str, found: &mut Vec<Token>) {
    let inner = text.trim_start_matches(['(', '[', '{', '<']);
    let bare = trim_end(inner);
    if !bare.contains("://") && bare.contains(',') {
        for part in bare.split(',').filter(|part| !part.is_empty()) {
            push_bare(part, found);
            found.push(Token::Mark(','));
        }
        found.pop();
    } else if !bare.is_empty() {
        push_bare(bare, found);
    }
    if let Some(mark) = inner[bare.len()..].chars().find(|mark| ",;:.!?".contains(*mark)) {
        found.push(Token::Mark(mark));
    }
}

/// Without closing punctuation, but `.` and `..` as last path components stay.
fn trim_end(text: &str) -> &str {
    if text.chars().all(|mark| "->=".contains(mark)) {
        return text;
    }
    let mut kept = text;
    loop {
        let is_dot_path = [".", ".."].contains(&kept) || kept.ends_with("/.") || kept.ends_with("/..");
        let cut = kept.trim_end_matches([',', ';', ':', '!', '?', ']', '}', '"', '\'', '>']);
        let cut = if kept.contains('(') { cut } else { cut.trim_end_matches(')') };
        let cut = if is_dot_path { cut } else { cut.trim_end_matches('.') };
        if cut.len() == kept.len() {
            return kept;
        }
        kept = cut;
    }
}

fn push_bare(text: &str, found: &mut Vec<Token>) {
    if text.contains("://") {
        found.push(Token::Url(text.to_owned()));
    } else if let Some(extension) = text.strip_prefix("*.").filter(|rest| is_plain(rest)) {
        found.push(Token::Extension(extension.to_lowercase()));
    } else if let Some((directory, extension)) = text.rsplit_once("/*.").filter(|(_, rest)| is_plain(rest)) {
        found.push(Token::Extension(extension.to_lowercase()));
        found.push(Token::Path(directory.trim_end_matches("/**").to_owned() + "/"));
    } else if let Some(directory) = text.strip_suffix("/*").or_else(|| text.strip_suffix("/**")) {
        found.push(Token::Path(directory.to_owned() + "/"));
    } else if looks_like_path(text) {
        found.push(Token::Path(text.to_owned()));
    } else {
        found.push(Token::from_word(text));
    }
}

fn is_plain(extension: &str) -> bool {
    !extension.is_empty() && extension.chars().all(char::is_alphanumeric)
}

/// Whether unquoted text is a path rather than a word.
pub(super) fn looks_like_path(text: &str) -> bool {
    if [".", ".."].contains(&text) || ["/", "./", "../", "~"].iter().any(|start| text.starts_with(start)) {
        return true;
    }
    if lexicon::is_bare_file(text) || has_known_extension(text) {
        return true;
    }
    let either = |part: &str| ["and", "or", "he", "she", "i", "o", ""].contains(&part);
    text.contains('/') && !text.trim_end_matches('/').to_lowercase().split('/').any(either)
}

fn has_known_extension(text: &str) -> bool {
    let name = text.rsplit('/').next().unwrap_or(text);
    name.rsplit_once('.')
        .is_some_and(|(stem, end)| !stem.is_empty() && lexicon::is_extension(&end.to_lowercase()))
}

/// Turns "the docs folder", "the current directory" and "the files in docs" into paths.
fn name_directories(tokens: &[Token]) -> Vec<Token> {
    let mut named: Vec<Token> = Vec::with_capacity(tokens.len());
    for (at, token) in tokens.iter().enumerate() {
        let word = token.word().unwrap_or_default();
        if ["directory", "folder", "dir"].contains(&word) && take_directory(&mut named) {
            continue;
        }
        if word == "here" {
            named.push(Token::Path("./".to_owned()));
        } else if is_bare_directory(tokens, at) {
            named.extend(raw_of(token).map(|raw| Token::Path(format!("{raw}/"))));
        } else {
            named.push(token.clone());
        }
    }
    named
}

fn raw_of(token: &Token) -> Option<&str> {
    match token {
        Token::Word { raw, .. } | Token::Quoted(raw) => Some(raw),
        _ => None,
    }
}

/// Replaces the word before "directory" by the path that it names.
fn take_directory(named: &mut Vec<Token>) -> bool {
    let Some(last) = named.last() else { return false };
    if let Token::Path(path) = last {
        let path = path.trim_end_matches('/').to_owned() + "/";
        named.pop();
        named.push(Token::Path(path));
        return true;
    }
    let Some(raw) = raw_of(last).map(str::to_owned) else { return false };
    let lower = raw.to_lowercase();
    let path = match lower.as_str() {
        "current" | "working" | "this" => "./".to_owned(),
        _ if lexicon::is_noise(&lower) || lexicon::is_preposition(&lower) || lexicon::is_opener(&lower) => {
            return false;
        }
        "whole" | "entire" | "same" | "new" | "list" | "read" => return false,
        _ => format!("{raw}/"),
    };
    named.pop();
    if lower == "working" && named.last().and_then(Token::word) == Some("current") {
        named.pop();
    }
    named.push(Token::Path(path));
    true
}

/// Whether the word at `at` names a directory as in "files in docs and …".
fn is_bare_directory(tokens: &[Token], at: usize) -> bool {
    let (Some(word), Some(raw)) = (tokens[at].word(), raw_of(&tokens[at])) else { return false };
    let back =
        |steps: usize| at.checked_sub(steps).and_then(|index| tokens[index].word()).unwrap_or_default();
    let after_files = ["files", "documents", "everything", "notes", "sources"].contains(&back(2))
        && ["in", "from", "under", "inside", "within"].contains(&back(1));
    let ends = match tokens.get(at + 1) {
        None | Some(Token::Mark(_)) => true,
        Some(Token::Word { lower, .. }) => {
            ["and", "then"].contains(&lower.as_str()) || lexicon::is_preposition(lower)
        }
        Some(_) => false,
    };
    let plain = raw.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c));
    after_files
        && ends
        && plain
        && !lexicon::is_noise(word)
        && !lexicon::is_language(word)
        && word != "english"
}

#[cfg(test)]
mod tests {
    use super::{Token, tokens};

    fn paths(goal: &str) -> Vec<String> {
        tokens(goal)
            .into_iter()
            .filter_map(|token| match token {
                Token::Path(path) => Some(path),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn paths_are_told_from_words() {
        assert_eq!(
            paths("Read ./docs, then ../x/y.md and /etc/hosts."),
            ["./docs", "../x/y.md", "/etc/hosts"]
        );
        assert_eq!(paths("notes.txt and/or README; I/O e.g. node 1.5"), ["notes.txt", "README"]);
        assert_eq!(paths("(see ./a.md)"), ["./a.md"]);
        assert_eq!(paths("a.md,b.md"), ["a.md", "b.md"]);
        assert_eq!(paths("read ."), ["."]);
        assert_eq!(paths(r"read ./my\ file.md now"), ["./my file.md"]);
    }

    #[test]
    fn directories_may_be_bare_words() {
        assert_eq!(paths("the docs folder"), ["docs/"]);
        assert_eq!(paths("the files in docs and more"), ["docs/"]);
        assert_eq!(paths("the current working directory"), ["./"]);
        assert_eq!(paths("everything here"), ["./"]);
        assert_eq!(paths("the files in French"), Vec::<String>::new());
    }

    #[test]
    fn quotations_and_apostrophes() {
        assert_eq!(
            tokens("\"my file.md\" it's «x»"),
            [
                Token::Quoted("my file.md".into()),
                Token::Word { raw: "it's".into(), lower: "it's".into() },
                Token::Quoted("x".into())
            ]
        );
        assert!(tokens("'unclosed").len() == 1, "an unclosed quotation mark is no quotation");
    }

    #[test]
    fn globs_become_a_directory_and_an_extension() {
        assert_eq!(tokens("./docs/*.md"), [Token::Extension("md".into()), Token::Path("./docs/".into())]);
        assert_eq!(tokens("*.rs"), [Token::Extension("rs".into())]);
    }
}
