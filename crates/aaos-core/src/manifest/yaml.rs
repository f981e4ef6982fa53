//! YAML read low: a tree with the place of every key and value, within budgets for size, depth and aliases.
//!
//! Invariants: duplicate keys, merge keys and second documents are refused; the tree never holds more than
//! `MAX_MANIFEST_NODES` values.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, MergeKeyPolicy, Options, Spanned};

use crate::capability::{CapabilityError, GrantSpec, Value};
use crate::limits::{
    MAX_BARE_STARS, MAX_MANIFEST_ALIASES, MAX_MANIFEST_BYTES, MAX_MANIFEST_DEPTH, MAX_MANIFEST_NODES,
};

/// A place in the text, from 1; 0 where it is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Line.
    pub line: u64,
    /// Column, in characters.
    pub column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// What stands somewhere.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Content {
    Null,
    Flag(bool),
    Number(i64),
    /// With its digits as written: the binary fraction may not be what the text says.
    Fraction {
        value: f64,
        written: String,
    },
    Text(String),
    List(Vec<Node>),
    /// In the order written.
    Map(Vec<Pair>),
}

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) place: Place,
    /// Where its text starts and how long it is, in bytes; absent where the parser does not say.
    span: Option<(u64, u64)>,
    pub(crate) content: Content,
}

/// A key, its place, and its value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pair {
    pub(crate) key: String,
    pub(crate) at: Place,
    pub(crate) value: Node,
}

/// Why the text is no YAML, or too much of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) place: Place,
    pub(crate) message: String,
}

/// Reads one document.
pub(crate) fn parse(text: &str) -> Result<Node, Fault> {
    if text.len() > MAX_MANIFEST_BYTES {
        let message = format!("the text has {} bytes; the limit is {MAX_MANIFEST_BYTES}", text.len());
        return Err(Fault { place: Place::default(), message });
    }
    let mut text = std::borrow::Cow::Borrowed(text);
    for _ in 0..=MAX_BARE_STARS {
        let fault = match serde_saphyr::from_str_with_options::<Spanned<Content>>(&text, options()) {
            Ok(root) => {
                let mut root = node(root);
                root.keep_digits(&text);
                return Ok(root);
            }
            Err(error) => fault(&error),
        };
        // YAML reads a bare `*` as an alias without a name. The grammar's own forms `tool: *` and `[*]` mean the
        // star, so that very star is quoted and the text read again.
        match quote_bare_star(&text, fault.place) {
            Some(quoted) => text = std::borrow::Cow::Owned(quoted),
            None => return Err(fault),
        }
    }
    Err(Fault { place: Place::default(), message: "too many unquoted stars; write \"*\"".to_owned() })
}

fn options() -> Options {
    let budget = serde_saphyr::budget! {
        max_depth: MAX_MANIFEST_DEPTH,
        flow_nesting_limit: MAX_MANIFEST_DEPTH,
        max_nodes: MAX_MANIFEST_NODES,
        max_events: 4 * MAX_MANIFEST_NODES,
        max_aliases: MAX_MANIFEST_ALIASES,
        max_anchors: MAX_MANIFEST_ALIASES,
        max_recorded_anchor_events: MAX_MANIFEST_NODES,
        max_recorded_anchor_bytes: 4 * MAX_MANIFEST_BYTES,
        max_total_scalar_bytes: 4 * MAX_MANIFEST_BYTES,
        max_documents: 1,
    };
    serde_saphyr::options! {
        budget: budget,
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_MANIFEST_NODES,
            max_replay_stack_depth: MAX_MANIFEST_DEPTH,
            max_alias_expansions_per_anchor: MAX_MANIFEST_ALIASES,
        },
    }
}

fn fault(error: &serde_saphyr::Error) -> Fault {
    let place = error.location().map(|at| Place { line: at.line(), column: at.column() }).unwrap_or_default();
    let message = match error.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("duplicate key {:?}; write it once", crate::capability::cut(key))
        }
        serde_saphyr::Error::MergeKeyNotAllowed { .. } => {
            "merge keys (<<) are not taken; write the fields out".to_owned()
        }
        other => {
            let rendered = other.to_string();
            let line = rendered.lines().next().unwrap_or("not YAML");
            // The place is told once, by whoever shows the fault.
            line.rsplit_once(" at line ").map_or(line, |(message, _)| message).to_owned()
        }
    };
    Fault { place, message }
}

fn quote_bare_star(text: &str, place: Place) -> Option<String> {
    let before = usize::try_from(place.line.checked_sub(1)?).ok()?;
    let start: usize = text.split_inclusive('\n').take(before).map(str::len).sum();
    let line = text.get(start..)?.lines().next()?;
    let column = usize::try_from(place.column.checked_sub(1)?).ok()?;
    // Some errors point at the star, some at what follows it.
    let star = line.char_indices().take(column + 1).filter(|(_, c)| *c == '*').last()?.0;
    let bare_before = line[..star].ends_with([' ', '[', ',', '{']);
    let rest = line[star + 1..].chars().next();
    let bare_after = rest.is_none_or(|c| c.is_whitespace() || matches!(c, ']' | ',' | '}'));
    let near = line[star..].chars().take(3).count() > 0 && column <= line[..star].chars().count() + 2;
    (bare_before && bare_after && near).then(|| {
        let at = start + star;
        format!("{}\"*\"{}", &text[..at], &text[at + 1..])
    })
}

fn node(spanned: Spanned<Content>) -> Node {
    let at = spanned.referenced;
    // An alias is written elsewhere; the digits are those of its anchor.
    let written = spanned.defined.span();
    let span = written.byte_offset().zip(written.byte_len());
    Node { place: Place { line: at.line(), column: at.column() }, span, content: spanned.value }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }

    fn visit_none<E>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        deserializer.deserialize_any(Self)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Content, E> {
        Ok(Content::Flag(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Content, E> {
        Ok(Content::Number(number))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Content, E> {
        i64::try_from(number).map(Content::Number).map_err(|_| E::custom("the number is too large"))
    }

    fn visit_f64<E>(self, fraction: f64) -> Result<Content, E> {
        Ok(Content::Fraction { value: fraction, written: String::new() })
    }

    fn visit_str<E>(self, text: &str) -> Result<Content, E> {
        Ok(Content::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Content, E> {
        Ok(Content::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element::<Spanned<Content>>()? {
            list.push(node(item));
        }
        Ok(Content::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
        let mut pairs: Vec<Pair> = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let at = Place { line: key.referenced.line(), column: key.referenced.column() };
            if pairs.iter().any(|pair| pair.key == key.value) {
                return Err(A::Error::custom(format!("duplicate key {:?} at {at}", key.value)));
            }
            let value = node(map.next_value::<Spanned<Content>>()?);
            pairs.push(Pair { key: key.value, at, value });
        }
        Ok(Content::Map(pairs))
    }
}

impl Content {
    /// What it is, in words.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Flag(_) => "true or false",
            Self::Number(_) => "a whole number",
            Self::Fraction { .. } => "a fraction",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }

    fn as_value(&self) -> Value<'_> {
        match self {
            Self::Null => Value::Nothing,
            Self::Flag(flag) => Value::Flag(*flag),
            Self::Number(number) => Value::Number(*number),
            Self::Text(text) => Value::Text(text),
            Self::List(list) => {
                let texts = list.iter().map(|item| match &item.content {
                    Self::Text(text) => Some(text.as_str()),
                    _ => None,
                });
                texts.collect::<Option<Vec<_>>>().map_or(Value::Other("a list of other things"), Value::List)
            }
            Self::Fraction { .. } | Self::Map(_) => Value::Other(self.kind()),
        }
    }
}

impl Node {
    /// Gives every fraction the digits that the text has for it; none if its place is not known.
    fn keep_digits(&mut self, text: &str) {
        match &mut self.content {
            Content::Fraction { written, .. } => {
                let bounds = self.span.and_then(|(start, len)| {
                    let start = usize::try_from(start).ok()?;
                    Some(start..start.checked_add(usize::try_from(len).ok()?)?)
                });
                *written = bounds.and_then(|bounds| text.get(bounds)).unwrap_or_default().trim().to_owned();
            }
            Content::List(list) => list.iter_mut().for_each(|item| item.keep_digits(text)),
            Content::Map(pairs) => pairs.iter_mut().for_each(|pair| pair.value.keep_digits(text)),
            Content::Null | Content::Flag(_) | Content::Number(_) | Content::Text(_) => {}
        }
    }

    /// The same as JSON, for `accepts`.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.content {
            Content::Null => serde_json::Value::Null,
            Content::Flag(flag) => (*flag).into(),
            Content::Number(number) => (*number).into(),
            Content::Fraction { value, .. } => (*value).into(),
            Content::Text(text) => text.as_str().into(),
            Content::List(list) => list.iter().map(Self::to_json).collect(),
            Content::Map(pairs) => {
                pairs.iter().map(|pair| (pair.key.clone(), pair.value.to_json())).collect()
            }
        }
    }
}

/// Reads one entry of `capabilities`, in text or map form. The error carries the place at fault.
pub(crate) fn grant_spec(node: &Node) -> Result<GrantSpec, (Place, CapabilityError)> {
    match &node.content {
        Content::Text(text) if !text.trim_start().starts_with('{') => {
            GrantSpec::parse(text).map_err(|error| (node.place, error))
        }
        Content::Map(pairs) => {
            let values: Vec<(&str, Value<'_>)> =
                pairs.iter().map(|pair| (pair.key.as_str(), pair.value.content.as_value())).collect();
            GrantSpec::from_pairs(&values)
                .map_err(|(at, error)| (pairs.get(at).map_or(node.place, |pair| pair.at), error))
        }
        other => {
            let problem = format!("{} where `form: value` is needed", other.kind());
            Err((node.place, CapabilityError::Syntax { problem }))
        }
    }
}
