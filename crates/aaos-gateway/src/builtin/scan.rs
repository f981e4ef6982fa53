//! Walks over a goal's tokens and sorts them: inputs, outputs, what is asked.
//!
//! Invariant: every path and URL of the goal becomes an input, an output or an error.

use super::goal::{GoalError, Input, Topic};
use super::lexicon::{self, Verb};
use super::phrase::{self, Case, Pattern, Phrase, Syntax};
use super::tokens::{Token, looks_like_path};

/// Kinds of work that the goal mentions.
#[derive(Debug, Default)]
pub(super) struct Says {
    pub(super) read: bool,
    pub(super) list: bool,
    pub(super) search: bool,
    pub(super) summary: bool,
    pub(super) compare: bool,
    pub(super) extract: bool,
    pub(super) write: bool,
}

/// What the goal holds.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) says: Says,
    pub(super) inputs: Vec<Input>,
    pub(super) outputs: Vec<String>,
    pub(super) only: Vec<String>,
    pub(super) pattern: Option<Pattern>,
    pub(super) topic: Option<Topic>,
    pub(super) limit: Option<usize>,
    pub(super) remarks: Vec<String>,
}

impl Found {
    /// Whether any verb or result was understood.
    pub(super) fn said_anything(&self) -> bool {
        let says = &self.says;
        says.read || says.list || says.search || says.summary || says.compare || says.extract || says.write
    }

    /// How many different results are asked for.
    pub(super) fn results(&self) -> usize {
        let kinds = [
            self.says.summary,
            self.says.compare,
            self.says.list,
            self.topic.is_some(),
            self.pattern.is_some(),
        ];
        kinds.iter().filter(|said| **said).count()
    }
}

/// Where the next path belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Source,
    Target,
}

struct Scanner<'t> {
    tokens: &'t [Token],
    at: usize,
    verb: Option<Verb>,
    slot: Slot,
    /// Whether an input has been named since the verb and no preposition since.
    after_input: bool,
    inputs_since_verb: usize,
    objects: Vec<Phrase>,
    found: Found,
}

/// Sorts the tokens of a goal.
pub(super) fn scan(tokens: &[Token]) -> Result<Found, GoalError> {
    let mut scanner = Scanner {
        tokens,
        at: 0,
        verb: None,
        slot: Slot::Source,
        after_input: false,
        inputs_since_verb: 0,
        objects: Vec::new(),
        found: Found::default(),
    };
    while let Some(token) = tokens.get(scanner.at) {
        scanner.take(token)?;
        scanner.at += 1;
    }
    scanner.check_objects()?;
    Ok(scanner.found)
}

impl<'t> Scanner<'t> {
    fn take(&mut self, token: &Token) -> Result<(), GoalError> {
        match token {
            Token::Word { lower, .. } => self.word(lower),
            Token::Path(path) => {
                self.path(path);
                Ok(())
            }
            Token::Url(url) => self.url(url),
            Token::Quoted(text) => {
                self.quoted(text);
                Ok(())
            }
            Token::Extension(extension) => {
                self.found.only.push(extension.clone());
                Ok(())
            }
            Token::Mark(_) => Ok(()),
        }
    }

    fn word_at(&self, at: usize) -> &'t str {
        self.tokens.get(at).and_then(Token::word).unwrap_or_default()
    }

    /// Whether a clause may begin at `at`.
    fn begins_clause(&self, at: usize) -> bool {
        let mut before = at;
        while before > 0 && lexicon::is_adverb(self.word_at(before - 1)) {
            before -= 1;
        }
        match before.checked_sub(1).map(|index| &self.tokens[index]) {
            None | Some(Token::Mark(_)) => true,
            Some(Token::Word { lower, .. }) => lexicon::is_opener(lower),
            Some(_) => false,
        }
    }

    fn verb_at(&self, at: usize) -> Option<Verb> {
        lexicon::verb(self.word_at(at), self.begins_clause(at))
    }

    fn phrase(&self, from: usize, arms: bool) -> Phrase {
        phrase::read(self.tokens, from, arms, |at| self.verb_at(at).is_some())
    }

    fn word(&mut self, word: &str) -> Result<(), GoalError> {
        self.refuse(word)?;
        if let Some(verb) = self.verb_at(self.at) {
            return self.verb(verb, word);
        }
        let searching = self.verb == Some(Verb::Search) && self.found.pattern.is_none();
        if searching && lexicon::is_arming(word) && word != "of" {
            self.search(self.at);
        } else if lexicon::is_topic_trigger(word) {
            self.about();
        } else if self.word_at(self.at + 1) == "well" && word == "as" {
            self.at += 2;
        } else {
            self.preposition(word);
            self.noun(word);
        }
        Ok(())
    }

    /// Refuses what the planner must not pretend to do.
    fn refuse(&self, word: &str) -> Result<(), GoalError> {
        let previous = self.at.checked_sub(1).map_or("", |before| self.word_at(before));
        let bounds = ["no", "not"].contains(&word) && self.word_at(self.at + 1) == "more";
        if lexicon::is_negation(word) && !bounds {
            return Err(GoalError::Exclusion { word: word.to_owned() });
        }
        if lexicon::is_language(word) && ["in", "into", "to"].contains(&previous) {
            return Err(GoalError::Language { word: word.to_owned() });
        }
        if lexicon::is_foreign_verb(word) && self.begins_clause(self.at) {
            return Err(GoalError::ForeignWork { word: word.to_owned() });
        }
        Ok(())
    }

    fn verb(&mut self, verb: Verb, word: &str) -> Result<(), GoalError> {
        let verb = if word == "look" && self.word_at(self.at + 1) == "at" { Verb::Read } else { verb };
        self.verb = Some(verb);
        self.after_input = false;
        self.inputs_since_verb = 0;
        self.slot = if verb == Verb::Write { Slot::Target } else { Slot::Source };
        let says = &mut self.found.says;
        match verb {
            Verb::Read | Verb::Fetch => says.read = true,
            Verb::Summarise => says.summary = true,
            Verb::Compare => says.compare = true,
            Verb::Write => {
                says.write = true;
                let object = self.phrase(self.at + 1, false);
                self.objects.push(object);
            }
            Verb::List => return self.list(),
            Verb::Extract => {
                says.extract = true;
                self.extract();
            }
            Verb::Search => {
                says.search = true;
                self.search(self.at + 1);
            }
            Verb::Tell => {}
        }
        Ok(())
    }

    /// "list the files", "list the headings", "list the differences".
    fn list(&mut self) -> Result<(), GoalError> {
        let object = self.phrase(self.at + 1, false);
        if object.has(lexicon::is_compare) || object.has_points() {
            return Ok(());
        }
        match object.topic() {
            Some(topic @ Topic::Special(_)) => self.found.topic = Some(topic),
            _ if object.all.is_empty() || object.has(lexicon::is_file_noun) => self.found.says.list = true,
            _ => return Err(GoalError::ForeignObject { object: object.all.join(" ") }),
        }
        Ok(())
    }

    fn extract(&mut self) {
        let object = self.phrase(self.at + 1, false);
        if object.has_points() {
            self.found.says.summary = true;
        } else if let Some(topic) = object.topic() {
            self.found.topic = Some(topic);
            self.at = object.end - 1;
        }
    }

    fn about(&mut self) {
        let phrase = self.phrase(self.at + 1, false);
        match phrase.topic() {
            Some(topic) if !phrase.has(lexicon::is_file_noun) => {
                self.found.topic = Some(topic);
                self.at = phrase.end - 1;
            }
            _ => self.slot = Slot::Source,
        }
    }

    /// Captures what is searched for, if it is named from `from` on.
    fn search(&mut self, from: usize) {
        let phrase = self.phrase(from, true);
        let is_result = phrase.has(lexicon::is_compare) || phrase.has_points();
        if !phrase.armed && phrase.quoted.is_empty() && is_result {
            return;
        }
        let files = phrase.words.is_empty() && phrase.has(lexicon::is_file_noun);
        let named = phrase.all.iter().any(|word| !lexicon::extensions_of(word).is_empty());
        if phrase.quoted.is_empty() && phrase.has(lexicon::is_file_noun) && (files || named && !phrase.armed)
        {
            self.found.says.list = true;
            return;
        }
        if let Some(alternatives) = phrase.alternatives() {
            let is_regex = phrase.has(|word| ["regex", "regexp", "regular"].contains(&word));
            let syntax = if is_regex { Syntax::Regex } else { Syntax::Literal };
            let insensitive = self.tokens.iter().filter_map(Token::word).any(|word| {
                word.starts_with("case-insensitiv") || word == "insensitive" || word == "insensitively"
            });
            let case = if insensitive { Case::Insensitive } else { Case::Sensitive };
            self.found.pattern = Some(Pattern { alternatives, syntax, case });
            self.at = phrase.end - 1;
        }
    }

    fn preposition(&mut self, word: &str) {
        let compares = self.verb == Some(Verb::Compare) && self.inputs_since_verb == 1;
        if lexicon::is_target(word) {
            if !(compares && word == "to") {
                self.slot = Slot::Target;
            }
        } else if lexicon::is_source(word) {
            self.slot = Slot::Source;
        } else if lexicon::is_place(word) && self.after_input && self.place_is_target() {
            self.slot = Slot::Target;
        }
    }

    /// Whether "in PATH" after an input names the output.
    fn place_is_target(&self) -> bool {
        let names_file = match self.tokens.get(self.at + 1) {
            Some(Token::Path(path) | Token::Quoted(path)) => {
                path.rsplit('/').next().is_some_and(|name| name.trim_start_matches('.').contains('.'))
            }
            _ => false,
        };
        match self.verb {
            Some(Verb::Write) => true,
            Some(Verb::Summarise | Verb::Compare | Verb::Extract) => names_file,
            _ => false,
        }
    }

    fn noun(&mut self, word: &str) {
        let next = self.word_at(self.at + 1);
        let listed = lexicon::is_file_noun(self.content_after(self.at + 2));
        let says = &mut self.found.says;
        says.summary |=
            lexicon::is_summary(word) || lexicon::is_point_adjective(word) && lexicon::is_point(next);
        says.compare |= lexicon::is_compare(word);
        let listing = ["list", "listing", "inventory"].contains(&word);
        says.list |= listing && next == "of" && listed;
        if self.slot == Slot::Source && ["file", "files", "documents", "sources"].contains(&next) {
            self.found.only.extend(lexicon::extensions_of(word).iter().map(|&end| end.to_owned()));
        }
        let counted = ["sentences", "sentence", "bullets", "bullet", "points", "lines"];
        if word.starts_with(|c: char| c.is_ascii_digit())
            && [word, next].iter().any(|w| w.ends_with("word") || w.ends_with("words"))
        {
            self.found
                .remarks
                .push(format!("a length in words ({word}) is not kept: sentences are quoted whole"));
        }
        if let Some(count) = lexicon::number(word)
            && (counted.contains(&next) || counted.contains(&self.word_at(self.at + 2)))
        {
            self.found.limit = Some(count);
        }
    }

    /// The first word with content from `from` on.
    fn content_after(&self, from: usize) -> &'t str {
        let words = (from..self.tokens.len()).map(|at| self.word_at(at));
        words.into_iter().find(|word| !["the", "all", "every", "a", "my"].contains(word)).unwrap_or_default()
    }

    fn path(&mut self, path: &str) {
        match self.slot {
            Slot::Source => self.input(Input::Path(path.to_owned())),
            Slot::Target => {
                if !self.found.outputs.iter().any(|known| known == path) {
                    self.found.outputs.push(path.to_owned());
                }
            }
        }
    }

    fn input(&mut self, input: Input) {
        self.after_input = true;
        self.inputs_since_verb += 1;
        if !self.found.inputs.contains(&input) {
            self.found.inputs.push(input);
        }
    }

    fn url(&mut self, url: &str) -> Result<(), GoalError> {
        if self.slot == Slot::Target {
            return Err(GoalError::UrlOutput { url: url.to_owned() });
        }
        self.input(Input::Url(url.to_owned()));
        Ok(())
    }

    /// A quotation is a path where a path is expected or where it looks like one.
    fn quoted(&mut self, text: &str) {
        let before = self.at.checked_sub(1).map_or("", |index| self.word_at(index));
        let expected = lexicon::is_preposition(before)
            || ["file", "directory", "folder", "named", "called"].contains(&before)
            || matches!(self.verb, Some(Verb::Read | Verb::List | Verb::Compare | Verb::Summarise));
        if expected || looks_like_path(text) || text.contains('/') {
            self.path(text);
        }
    }

    /// What is written must be something that the planner makes.
    fn check_objects(&self) -> Result<(), GoalError> {
        for object in &self.objects {
            let named = |word: &str| {
                lexicon::is_result(word) || lexicon::is_summary(word) || lexicon::is_compare(word)
            };
            let is_topic = match (&self.found.topic, &self.found.pattern) {
                (Some(_), _) => object.topic().is_some_and(|topic| Some(&topic) == self.found.topic.as_ref()),
                (None, Some(pattern)) => object
                    .alternatives()
                    .is_some_and(|words| words.iter().any(|w| pattern.alternatives.contains(w))),
                (None, None) => false,
            };
            if !object.all.is_empty() && !object.has(named) && !object.has_points() && !is_topic {
                return Err(GoalError::ForeignObject { object: object.all.join(" ") });
            }
        }
        Ok(())
    }
}
