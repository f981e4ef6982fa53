//! Typed reading of single values, each with its place in the error.
//!
//! Invariant: money is read from its text, never through a binary fraction.

use std::collections::BTreeMap;

use crate::capability::nearest;
use crate::limits::{MAX_CAPABILITY_ITEMS, MAX_METADATA, MAX_RUNGS};
use crate::name::ModelName;
use crate::quantity::{MicroUsd, Millis, Tokens};
use crate::variables::Variables;

use super::yaml::{Content, Node, Pair, Place};
use super::{ManifestError, Problem, Share};

pub(super) type Parsed<T> = Result<T, ManifestError>;

pub(super) fn error(at: Place, problem: Problem) -> ManifestError {
    ManifestError { at, problem }
}

pub(super) fn unsupported(at: Place, what: impl Into<String>) -> ManifestError {
    error(at, Problem::NotSupported { what: what.into() })
}

pub(super) fn wrong(node: &Node, field: &'static str, wanted: &'static str) -> ManifestError {
    let found = match &node.content {
        Content::Text(text) => format!("{:?}", crate::capability::cut(text)),
        Content::Number(number) => number.to_string(),
        Content::Fraction { written, .. } if !written.is_empty() => crate::capability::cut(written),
        other => other.kind().to_owned(),
    };
    error(node.place, Problem::Value { field, wanted, found })
}

pub(super) fn unknown(pair: &Pair, within: &'static str, known: &[&'static str]) -> ManifestError {
    let found = crate::capability::cut(&pair.key);
    error(pair.at, Problem::UnknownField { found, within, nearest: nearest(&pair.key, known) })
}

pub(super) fn text<'n>(node: &'n Node, field: &'static str) -> Parsed<&'n str> {
    match &node.content {
        Content::Text(text) => Ok(text),
        _ => Err(wrong(node, field, "text (put it in quotes)")),
    }
}

pub(super) fn map<'n>(node: &'n Node, field: &'static str) -> Parsed<&'n [Pair]> {
    match &node.content {
        Content::Map(pairs) => Ok(pairs),
        Content::Null => Ok(&[]),
        _ => Err(wrong(node, field, "a map")),
    }
}

pub(super) fn list<'n>(node: &'n Node, field: &'static str) -> Parsed<&'n [Node]> {
    match &node.content {
        Content::List(list) => Ok(list),
        Content::Null => Ok(&[]),
        _ => Err(wrong(node, field, "a list")),
    }
}

/// A list of names, sorted, each once.
pub(super) fn names<T: Ord>(
    node: &Node,
    field: &'static str,
    parse: impl Fn(&Node) -> Parsed<T>,
) -> Parsed<Vec<T>> {
    let entries = list(node, field)?;
    if entries.len() > MAX_CAPABILITY_ITEMS {
        return Err(wrong(node, field, "a list of at most 256 names"));
    }
    let mut names = entries.iter().map(parse).collect::<Parsed<Vec<T>>>()?;
    names.sort();
    names.dedup();
    Ok(names)
}

/// The models of `models`, in their order.
pub(super) fn ladder(node: &Node, parse: impl Fn(&Node) -> Parsed<ModelName>) -> Parsed<Vec<ModelName>> {
    let wanted = "a list of 1 to 8 different models";
    let refused = |at: &Node, found| error(at.place, Problem::Value { field: "models", wanted, found });
    let entries = list(node, "models")?;
    if entries.is_empty() || entries.len() > MAX_RUNGS {
        return Err(refused(node, format!("one of {}", entries.len())));
    }
    let mut models = Vec::with_capacity(entries.len());
    for entry in entries {
        let model = parse(entry)?;
        if models.contains(&model) {
            return Err(refused(entry, format!("{model} once more")));
        }
        models.push(model);
    }
    Ok(models)
}

/// A whole number from 1.
pub(super) fn count(node: &Node, field: &'static str) -> Parsed<u64> {
    match node.content {
        Content::Number(number) => {
            let count = u64::try_from(number).ok().filter(|count| *count > 0);
            count.ok_or_else(|| wrong(node, field, "a whole number from 1"))
        }
        _ => Err(wrong(node, field, "a whole number from 1")),
    }
}

/// A whole number of seconds.
pub(super) fn seconds(node: &Node, field: &'static str) -> Parsed<Millis> {
    let fits = u32::try_from(count(node, field)?);
    let seconds = fits.map_err(|_| wrong(node, field, "a whole number of seconds below 2^32"))?;
    Ok(Millis(u64::from(seconds) * 1000))
}

/// An amount of dollars: a number, or text.
pub(super) fn dollars(node: &Node, field: &'static str) -> Parsed<MicroUsd> {
    let amount = match &node.content {
        Content::Text(text) | Content::Fraction { written: text, .. } => MicroUsd::from_decimal(text),
        Content::Number(whole) => MicroUsd::from_decimal(&whole.to_string()),
        Content::Null | Content::Flag(_) | Content::List(_) | Content::Map(_) => None,
    };
    let wanted = "US dollars above zero with at most six decimals, such as \"1.50\" in quotes";
    amount.filter(|amount| *amount > MicroUsd::ZERO).ok_or_else(|| wrong(node, field, wanted))
}

/// A part of a whole: above 0, at most 1.
pub(super) fn share(node: &Node, field: &'static str) -> Parsed<Share> {
    let written = match &node.content {
        Content::Text(text) | Content::Fraction { written: text, .. } => text.clone(),
        Content::Number(whole) => whole.to_string(),
        Content::Null | Content::Flag(_) | Content::List(_) | Content::Map(_) => String::new(),
    };
    let wanted = "a number above 0 and at most 1, with at most four decimals, such as 0.7";
    ten_thousandths(&written).and_then(Share::of).ok_or_else(|| wrong(node, field, wanted))
}

/// `0.7` is 7000: read from its digits.
fn ten_thousandths(written: &str) -> Option<u16> {
    let (whole, decimals) = written.split_once('.').unwrap_or((written, "0"));
    let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !are_digits(whole) || !are_digits(decimals) || decimals.len() > 4 {
        return None;
    }
    format!("{whole}{decimals:0<4}").parse().ok()
}

/// `"128k"`, where k is 1024, or a whole number.
pub(super) fn window(node: &Node, field: &'static str) -> Parsed<Tokens> {
    let Content::Text(text) = &node.content else {
        return count(node, field).map(Tokens);
    };
    let thousands = text.strip_suffix('k').and_then(|digits| digits.parse::<u32>().ok());
    let tokens = thousands.map(|k| u64::from(k) * 1024).filter(|tokens| *tokens > 0);
    tokens.map(Tokens).ok_or_else(|| wrong(node, field, "a number of tokens, such as \"128k\" or 131072"))
}

pub(super) fn metadata(node: &Node) -> Parsed<BTreeMap<String, String>> {
    let pairs = map(node, "metadata")?;
    if pairs.len() > MAX_METADATA {
        return Err(wrong(node, "metadata", "at most 256 entries"));
    }
    pairs.iter().map(|pair| Ok((pair.key.clone(), text(&pair.value, "metadata")?.to_owned()))).collect()
}

pub(super) fn environment(node: &Node) -> Parsed<Variables> {
    let pair = |pair: &Pair| Ok((pair.key.clone(), text(&pair.value, "environment")?.to_owned()));
    let all = map(node, "environment")?.iter().map(pair).collect::<Parsed<BTreeMap<String, String>>>()?;
    Variables::new(all).map_err(|why| error(node.place, Problem::Variables(why)))
}
