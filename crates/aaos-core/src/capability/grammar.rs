//! From the text of SPEC §2 to capabilities, strictly.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::limits::{MAX_CAPABILITY_ITEMS, MAX_RATE_PER_MINUTE};
use crate::manifest::yaml;
use crate::name::{AgentName, NameError, ToolName};
use crate::path::{AbsPath, PathError, PathPattern, Reach};
use crate::tool::CATALOGUE;

use super::{Capability, Constraints, GrantSpec, HostRule, NameSet, ToolSet};

const FORMS: [&str; 8] =
    ["file_read", "file_write", "tool", "web_search", "network", "spawn_child", "message_send", "exec"];
const CONSTRAINTS: [&str; 6] =
    ["max_invocations", "max_per_minute", "expires_in_seconds", "delegate", "use", "approval_required"];
pub(super) const SPAWN_EXAMPLE: &str = "spawn_child: [reader, writer]";
const MESSAGE_EXAMPLE: &str = "message_send: [keeper]";
const EXEC_EXAMPLE: &str = "exec: /usr/bin/wc";
/// Tools of SPEC §4 that are not built yet.
const LATER_TOOLS: [&str; 4] = ["memory_delete", "memory_query", "memory_store", "skill_read"];
/// Longest host name (RFC 1035), and longest label.
const MAX_HOST_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// What stands after a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// Nothing, or `null`.
    Nothing,
    /// `true` or `false`.
    Flag(bool),
    /// A whole number.
    Number(i64),
    /// Text.
    Text(&'a str),
    /// A list of texts.
    List(Vec<&'a str>),
    /// Something else, in words.
    Other(&'static str),
}

/// Why a capability was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CapabilityError {
    /// No such form.
    #[error("unknown capability {found:?}; nearest: {nearest:?}")]
    UnknownForm {
        /// As written.
        found: String,
        /// The nearest valid spelling.
        nearest: &'static str,
    },
    /// No such constraint or form beside a form.
    #[error("unknown constraint {found:?}; nearest: {nearest:?}")]
    UnknownConstraint {
        /// As written.
        found: String,
        /// The nearest valid spelling.
        nearest: &'static str,
    },
    /// In the grammar, but its effect is not built yet.
    #[error("{what} is not supported in this version")]
    NotSupported {
        /// What.
        what: String,
    },
    /// No such tool.
    #[error("unknown tool {found:?}; nearest: {nearest:?}")]
    UnknownTool {
        /// As written.
        found: String,
        /// The nearest valid spelling.
        nearest: &'static str,
    },
    /// The value has the wrong shape.
    #[error("{key} takes {wanted}, for example `{example}`")]
    Shape {
        /// Form or constraint.
        key: &'static str,
        /// What it takes.
        wanted: &'static str,
        /// A valid entry.
        example: &'static str,
    },
    /// An unusable path or glob.
    #[error("{form}: {source}")]
    Path {
        /// `file_read`, `file_write` or `exec`.
        form: &'static str,
        /// Why.
        source: PathError,
    },
    /// A path that a person cannot see rightly.
    #[error("{form}: {path:?} holds a control character or ends with a space; rename the directory")]
    UnclearPath {
        /// `file_read`, `file_write` or `exec`.
        form: &'static str,
        /// As written.
        path: String,
    },
    /// An unusable name.
    #[error("{form}: {source}")]
    Name {
        /// Which form.
        form: &'static str,
        /// Why.
        source: NameError,
    },
    /// An unusable host.
    #[error("network: {host:?} {why}; nearest: {nearest:?}")]
    Host {
        /// As written.
        host: String,
        /// Why.
        why: &'static str,
        /// The nearest valid spelling.
        nearest: String,
    },
    /// A number out of range.
    #[error("{constraint} is {found}; it must be from 1 to {most}")]
    Range {
        /// Which constraint.
        constraint: &'static str,
        /// As written.
        found: i64,
        /// Largest value.
        most: u32,
    },
    /// An entry without a form, or with two.
    #[error("an entry names exactly one capability, beside constraints; this one names {found}")]
    OneForm {
        /// What it names.
        found: String,
    },
    /// Too many hosts or names in one entry.
    #[error("{form} lists more than {MAX_CAPABILITY_ITEMS} items")]
    TooMany {
        /// Which form.
        form: &'static str,
    },
    /// Neither `form: value` nor a map.
    #[error("not a capability: {problem}")]
    Syntax {
        /// Why.
        problem: String,
    },
}

impl Capability {
    /// Parses one form with its value, for example `("file_read", Value::Text("/data/*"))`.
    ///
    /// # Errors
    /// [`CapabilityError`] naming the nearest valid spelling where there is one.
    pub fn parse(form: &str, value: &Value<'_>) -> Result<Self, CapabilityError> {
        match form {
            "file_read" => Ok(Self::FileRead(path("file_read", value)?)),
            "file_write" => Ok(Self::FileWrite(path("file_write", value)?)),
            "tool" => Ok(Self::Tool(tool(value)?)),
            "web_search" => match value {
                Value::Nothing | Value::Flag(true) | Value::Text("true") => Ok(Self::WebSearch),
                _ => Err(shape("web_search", "no value", "web_search")),
            },
            "network" => Ok(Self::Network(hosts(value)?)),
            "spawn_child" => Ok(Self::SpawnChild(names("spawn_child", SPAWN_EXAMPLE, value)?)),
            "message_send" => Ok(Self::MessageSend(names("message_send", MESSAGE_EXAMPLE, value)?)),
            "exec" => Ok(Self::Exec(program(value)?)),
            other => Err(CapabilityError::UnknownForm { found: cut(other), nearest: nearest(other, &FORMS) }),
        }
    }
}

impl GrantSpec {
    /// Parses one entry as text: `file_read: /data/*`, `web_search`, or the map form in braces.
    ///
    /// # Errors
    /// [`CapabilityError`].
    pub fn parse(text: &str) -> Result<Self, CapabilityError> {
        let text = text.trim();
        if text.starts_with('{') {
            let syntax = |problem: String| CapabilityError::Syntax { problem };
            let node = yaml::parse(text).map_err(|fault| syntax(fault.message))?;
            return yaml::grant_spec(&node).map_err(|(_, error)| error);
        }
        let Some((form, value)) = text.split_once(':') else {
            return Ok(Capability::parse(text, &Value::Nothing)?.into());
        };
        let value = value.trim();
        let list = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let value = match list {
            // An IPv6 literal stands in brackets too.
            Some(inside) if !inside.contains(':') => Value::List(items(inside)),
            _ if value.is_empty() => Value::Nothing,
            _ => Value::Text(value),
        };
        Ok(Capability::parse(form.trim(), &value)?.into())
    }

    /// Parses the keys and values of one map entry. An error carries the position of the key at fault.
    ///
    /// # Errors
    /// The index of the pair, and [`CapabilityError`].
    pub fn from_pairs(pairs: &[(&str, Value<'_>)]) -> Result<Self, (usize, CapabilityError)> {
        let mut capability: Option<Capability> = None;
        let mut constraints = Constraints::default();
        for (at, (key, value)) in pairs.iter().enumerate() {
            if constrain(&mut constraints, key, value).map_err(|error| (at, error))? {
                continue;
            }
            let parsed = Capability::parse(key, value);
            let parsed = match (parsed, &capability) {
                (Ok(second), Some(first)) => {
                    let found = format!("{} and {}", first.form(), second.form());
                    Err(CapabilityError::OneForm { found })
                }
                (Err(CapabilityError::UnknownForm { found, .. }), _) if pairs.len() > 1 => {
                    Err(unknown_key(found, key))
                }
                (parsed, _) => parsed,
            };
            capability = Some(parsed.map_err(|error| (at, error))?);
        }
        let none = || (0, CapabilityError::OneForm { found: "none".to_owned() });
        Ok(Self { capability: capability.ok_or_else(none)?, constraints })
    }
}

/// In a map with several keys an unknown one may be a misspelt form or a misspelt constraint.
fn unknown_key(found: String, key: &str) -> CapabilityError {
    let (form, constraint) = (nearest(key, &FORMS), nearest(key, &CONSTRAINTS));
    if distance(key, form) < distance(key, constraint) {
        CapabilityError::UnknownForm { found, nearest: form }
    } else {
        CapabilityError::UnknownConstraint { found, nearest: constraint }
    }
}

/// Applies a constraint; false when `key` is none.
fn constrain(into: &mut Constraints, key: &str, value: &Value<'_>) -> Result<bool, CapabilityError> {
    match key {
        "max_invocations" => {
            into.max_invocations = Some(count("max_invocations", "max_invocations: 10", u32::MAX, value)?);
        }
        "max_per_minute" => {
            into.max_per_minute =
                Some(count("max_per_minute", "max_per_minute: 5", MAX_RATE_PER_MINUTE, value)?);
        }
        "expires_in_seconds" => {
            let seconds = count("expires_in_seconds", "expires_in_seconds: 3600", u32::MAX, value)?;
            into.expires_in_seconds = Some(seconds);
        }
        "delegate" => into.delegate = flag("delegate", "delegate: false", value)?,
        "use" => into.usable = flag("use", "use: false", value)?,
        "approval_required" => {
            into.approval_required = flag("approval_required", "approval_required: true", value)?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn count(
    constraint: &'static str,
    example: &'static str,
    most: u32,
    value: &Value<'_>,
) -> Result<u32, CapabilityError> {
    let Value::Number(found) = *value else {
        return Err(shape(constraint, "a whole number", example));
    };
    let fits = u32::try_from(found).ok().filter(|count| (1..=most).contains(count));
    fits.ok_or(CapabilityError::Range { constraint, found, most })
}

fn flag(constraint: &'static str, example: &'static str, value: &Value<'_>) -> Result<bool, CapabilityError> {
    match value {
        Value::Flag(flag) => Ok(*flag),
        _ => Err(shape(constraint, "true or false", example)),
    }
}

fn shape(key: &'static str, wanted: &'static str, example: &'static str) -> CapabilityError {
    CapabilityError::Shape { key, wanted, example }
}

fn path(form: &'static str, value: &Value<'_>) -> Result<PathPattern, CapabilityError> {
    let Value::Text(text) = value else {
        return Err(shape(form, "one path", "file_read: /data/*"));
    };
    if text.chars().any(char::is_control) || text.trim() != *text {
        return Err(CapabilityError::UnclearPath { form, path: cut(text) });
    }
    PathPattern::parse(text).map_err(|source| CapabilityError::Path { form, source })
}

/// One program: never a directory of them, since whoever can write there would choose what runs.
fn program(value: &Value<'_>) -> Result<AbsPath, CapabilityError> {
    let one_program = || shape("exec", "the absolute path of one program", EXEC_EXAMPLE);
    if !matches!(value, Value::Text(_)) {
        return Err(one_program());
    }
    let pattern = path("exec", value)?;
    if pattern.reach() == Reach::Exact { Ok(pattern.root().clone()) } else { Err(one_program()) }
}

fn tool(value: &Value<'_>) -> Result<ToolSet, CapabilityError> {
    let Value::Text(text) = value else {
        return Err(shape("tool", "one tool name or *", "tool: file_read"));
    };
    if *text == "*" {
        return Ok(ToolSet::All);
    }
    tool_name(text).map(ToolSet::One)
}

/// The name of a tool that is in the catalogue.
///
/// # Errors
/// [`CapabilityError`] with the nearest name that there is.
pub fn tool_name(text: &str) -> Result<ToolName, CapabilityError> {
    if LATER_TOOLS.contains(&text) {
        return Err(CapabilityError::NotSupported { what: format!("tool `{text}`") });
    }
    let known: Vec<&'static str> = CATALOGUE.iter().map(|tool| tool.name).collect();
    if !known.contains(&text) {
        return Err(CapabilityError::UnknownTool { found: cut(text), nearest: nearest(text, &known) });
    }
    ToolName::parse(text).map_err(|source| CapabilityError::Name { form: "tool", source })
}

pub(super) fn names(
    form: &'static str,
    example: &'static str,
    value: &Value<'_>,
) -> Result<NameSet, CapabilityError> {
    let listed = match value {
        Value::Text(text) => {
            let inside = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            items(inside.unwrap_or(text))
        }
        Value::List(list) => list.clone(),
        _ => return Err(shape(form, "a list of agent names, or [*]", example)),
    };
    if listed == ["*"] {
        return Ok(NameSet::All);
    }
    if listed.is_empty() || listed.contains(&"*") {
        return Err(shape(form, "a list of agent names, or [*] alone", example));
    }
    let parse = |name: &&str| AgentName::parse(name).map_err(|source| CapabilityError::Name { form, source });
    let mut names = bounded(form, &listed)?.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    names.sort();
    names.dedup();
    Ok(NameSet::Only(names))
}

fn hosts(value: &Value<'_>) -> Result<Vec<HostRule>, CapabilityError> {
    let listed = match value {
        Value::Text(text) => items(text),
        Value::List(list) => list.clone(),
        _ => Vec::new(),
    };
    if listed.is_empty() {
        return Err(shape("network", "hosts", "network: example.org, *.example.net, 127.0.0.1:8080"));
    }
    let mut rules =
        bounded("network", &listed)?.iter().map(|text| host(text)).collect::<Result<Vec<_>, _>>()?;
    rules.sort();
    rules.dedup();
    Ok(rules)
}

fn bounded<'v, 'a>(form: &'static str, listed: &'v [&'a str]) -> Result<&'v [&'a str], CapabilityError> {
    if listed.len() > MAX_CAPABILITY_ITEMS { Err(CapabilityError::TooMany { form }) } else { Ok(listed) }
}

fn items(text: &str) -> Vec<&str> {
    if text.trim().is_empty() { Vec::new() } else { text.split(',').map(str::trim).collect() }
}

fn host(text: &str) -> Result<HostRule, CapabilityError> {
    let bad = |why: &'static str, nearest: String| CapabilityError::Host { host: cut(text), why, nearest };
    let lower = text.trim().to_ascii_lowercase();
    if lower == "*" {
        return Err(bad("means every host; write the capability for that", "web_search".to_owned()));
    }
    if let Ok(v6) = lower.parse::<Ipv6Addr>() {
        return Ok(HostRule { host: v6.to_string(), subdomains: false, port: None });
    }
    let example = || plain_host(&lower);
    let (name, port) = split_port(&lower).ok_or_else(|| bad("has no usable port", example()))?;
    if let Some(v6) = name.strip_prefix('[') {
        let inside = v6.strip_suffix(']').and_then(|inside| inside.parse::<Ipv6Addr>().ok());
        let v6 = inside.ok_or_else(|| bad("is no IPv6 address", "[::1]:8080".to_owned()))?;
        return Ok(HostRule { host: v6.to_string(), subdomains: false, port });
    }
    let (name, subdomains) = match name.strip_prefix("*.") {
        Some(apex) => (apex, true),
        None => (name, false),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if !is_host_name(name) {
        return Err(bad("is no host name or address", example()));
    }
    if subdomains && name.parse::<IpAddr>().is_ok() {
        return Err(bad("is an address and has no subdomains", name.to_owned()));
    }
    Ok(HostRule { host: name.to_owned(), subdomains, port })
}

/// Splits `host:port`; `None` for a port that is none.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let after_bracket = text.rfind(']').map_or(0, |at| at + 1);
    let Some(colon) = text[after_bracket..].find(':') else {
        return Some((text, None));
    };
    let (name, port) = text.split_at(after_bracket + colon);
    let digits = &port[1..];
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits.parse::<u16>().ok().filter(|port| plain && *port != 0)?;
    Some((name, Some(port)))
}

/// A dotted IPv4 address, or labels of which the last is not a number (so that no other spelling of an address
/// passes for a name).
pub(super) fn is_host_name(name: &str) -> bool {
    if name.parse::<Ipv4Addr>().is_ok() {
        return true;
    }
    let label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty()
            && label.len() <= MAX_LABEL_BYTES
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    let numeric = last.starts_with(|first: char| first.is_ascii_digit())
        && (last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x"));
    name.len() <= MAX_HOST_BYTES && name.split('.').all(label) && !numeric
}

/// What was probably meant by a URL or a misplaced wildcard.
fn plain_host(lower: &str) -> String {
    let rest = lower.split_once("://").map_or(lower, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#', '@']).next().unwrap_or_default();
    let (name, port) = split_port(host).unwrap_or((host.split(':').next().unwrap_or_default(), None));
    let kept: Vec<&str> = name.split('.').filter(|part| !part.is_empty() && !part.contains('*')).collect();
    let name = kept.join(".");
    match port {
        _ if !is_host_name(&name) => "example.org".to_owned(),
        _ if host.contains('*') => format!("*.{name}"),
        Some(port) => format!("{name}:{port}"),
        None => name,
    }
}

/// The candidate that takes the fewest edits to reach.
///
/// # Panics
/// When there are no candidates.
#[must_use]
pub fn nearest(found: &str, candidates: &[&'static str]) -> &'static str {
    let best = candidates.iter().min_by_key(|candidate| distance(found, candidate));
    best.copied().unwrap_or_else(|| unreachable!("there is something valid to suggest"))
}

/// Levenshtein's distance, case and dashes aside, over at most [`CUT_CHARS`] characters.
fn distance(found: &str, candidate: &str) -> usize {
    let fold = |text: &str| -> Vec<char> {
        let plain = |c: char| if c == '-' { '_' } else { c.to_ascii_lowercase() };
        text.chars().take(CUT_CHARS).map(plain).collect()
    };
    let (from, to) = (fold(found), fold(candidate));
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

/// Most characters of a stranger's text that an error repeats.
const CUT_CHARS: usize = 80;

/// A stranger's text, short enough for an error.
pub(crate) fn cut(text: &str) -> String {
    match text.char_indices().nth(CUT_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
