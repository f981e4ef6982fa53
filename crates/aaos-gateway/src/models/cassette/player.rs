//! Answers out of a recorded file.
//!
//! Invariants: a request is answered only by the recorded answer to the same request, in the order in which that was
//! recorded, each once; a request without one fails and says where it differs from the nearest that was recorded.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use aaos_core::cassette::Place;
use aaos_core::name::ProviderName;
use serde_json::value::RawValue;

use super::file::{Answered, CassetteError, Contents, Exchange};
use super::mask::{Changes, Masker, Places, shown};

/// Of a request, what a purse clamps: it may differ where children spend at once.
const CLAMPED: [&str; 2] = ["max_tokens", "max_completion_tokens"];
/// Lists whose entries are compared one by one.
const LISTS: [&str; 3] = ["messages", "system", "tools"];
/// Characters shown before and after the place where two requests differ.
const SHOWN_BEFORE: usize = 30;
const SHOWN_AFTER: usize = 50;

/// One named part of a request, masked.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    name: String,
    text: String,
}

/// A request as it is compared.
#[derive(Debug)]
struct Normal {
    parts: Vec<Part>,
    values: Vec<String>,
    digest: blake3::Hash,
}

impl Normal {
    fn new(provider: &ProviderName, body: &str, places: &Places) -> Result<Self, String> {
        let fields: BTreeMap<String, &RawValue> =
            serde_json::from_str(body).map_err(|error| format!("its request is no JSON object: {error}"))?;
        let mut masker = Masker::new(places);
        let mut parts = Vec::new();
        for (name, value) in fields.into_iter().filter(|(name, _)| !CLAMPED.contains(&name.as_str())) {
            let entries =
                LISTS.contains(&name.as_str()).then(|| serde_json::from_str::<Vec<&RawValue>>(value.get()));
            match entries {
                Some(Ok(entries)) => parts.extend(entries.into_iter().enumerate().map(|(at, entry)| Part {
                    name: format!("{name}[{at}]"),
                    text: masker.mask(entry.get()),
                })),
                _ => parts.push(Part { text: masker.mask(value.get()), name }),
            }
        }
        let digest = digest(provider, &parts);
        Ok(Self { parts, values: masker.into_values(), digest })
    }
}

fn digest(provider: &ProviderName, parts: &[Part]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let texts = parts.iter().flat_map(|part| [&part.name, &part.text]).map(String::as_str);
    for text in [provider.as_str()].into_iter().chain(texts) {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    hasher.finalize()
}

/// Recorded exchanges that wait for their request, by what is asked.
type Waiting = HashMap<blake3::Hash, VecDeque<usize>>;

/// A file that is replayed.
#[derive(Debug)]
pub(in crate::models) struct Player {
    exchanges: Vec<Exchange>,
    then: Places,
    now: Places,
    waiting: Mutex<Waiting>,
}

/// A recorded answer, and what to change in the reply that is made of it.
#[derive(Debug)]
pub(super) struct Played {
    pub(super) answer: Answered,
    pub(super) changes: Changes,
}

impl Player {
    pub(super) fn new(contents: Contents, now: &[Place]) -> Result<Self, CassetteError> {
        let (then, now) = (Places::new(&contents.head.places), Places::new(now));
        let mut waiting = Waiting::new();
        for (at, exchange) in contents.exchanges.iter().enumerate() {
            let asked = Normal::new(&exchange.provider, exchange.request.get(), &then)
                .map_err(|why| CassetteError::Line { line: at + 2, why })?;
            waiting.entry(asked.digest).or_default().push_back(at);
        }
        Ok(Self { exchanges: contents.exchanges, then, now, waiting: Mutex::new(waiting) })
    }

    /// The recorded answer to a request, or why there is none.
    pub(super) fn play(&self, provider: &ProviderName, body: &str) -> Result<Played, String> {
        let asked = Normal::new(provider, body, &self.now)?;
        let next = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.get_mut(&asked.digest).map(VecDeque::pop_front)
        };
        match next {
            Some(Some(at)) => {
                let exchange = &self.exchanges[at];
                let then = Normal::new(provider, exchange.request.get(), &self.then)?;
                let changes = Changes::new((then.values, &self.then), (asked.values, &self.now));
                Ok(Played { answer: exchange.answer.clone(), changes })
            }
            Some(None) => {
                Err("the cassette has an answer to this request, and it was given before: the run asks it \
                               more often than the recorded one did"
                    .to_owned())
            }
            None => Err(self.miss(provider, &asked)),
        }
    }

    /// Where a request differs from the recorded one that is most like it.
    fn miss(&self, provider: &ProviderName, asked: &Normal) -> String {
        let of_provider = self.exchanges.iter().enumerate().filter(|(_, one)| one.provider == *provider);
        let nearest = of_provider
            .filter_map(|(at, one)| Some((at, Normal::new(provider, one.request.get(), &self.then).ok()?)))
            .max_by_key(|(at, one)| (likeness(one, asked), Reverse(*at)));
        let Some((at, nearest)) = nearest else {
            return "the cassette holds no request to this provider".to_owned();
        };
        let place = first_difference(&nearest, asked);
        format!(
            "the cassette has no answer to this request; the nearest that was recorded is number {} (line {}), from \
             which it differs first {place}; record the run anew, or undo what changed",
            at + 1,
            at + 2
        )
    }
}

/// How many parts are alike, how far the first that differs is, and how little one has that the other has not.
fn likeness(recorded: &Normal, asked: &Normal) -> (usize, usize, Reverse<usize>) {
    let (recorded, asked) = (&recorded.parts, &asked.parts);
    let alike = recorded.iter().filter(|part| asked.contains(part)).count();
    let differing = recorded.iter().zip(asked).find(|(one, other)| one != other);
    let far = differing.map_or(0, |(one, other)| common(&one.text, &other.text));
    (alike, far, Reverse(recorded.len().abs_diff(asked.len())))
}

/// Characters that two texts have in common at their beginning.
fn common(one: &str, other: &str) -> usize {
    one.chars().zip(other.chars()).take_while(|(one, other)| one == other).count()
}

fn first_difference(recorded: &Normal, asked: &Normal) -> String {
    let differing = recorded.parts.iter().zip(&asked.parts).find(|(one, other)| one != other);
    match differing {
        Some((one, other)) if one.name == other.name => {
            let at = common(&one.text, &other.text);
            let (then, now) = (excerpt(&one.text, at), excerpt(&other.text, at));
            format!("at {}, character {}: recorded `{then}`, now `{now}`", one.name, at + 1)
        }
        Some((one, other)) => format!("where {} was recorded and {} is asked", one.name, other.name),
        None => match recorded.parts.len() < asked.parts.len() {
            true => format!("by {}, which was not there", asked.parts[recorded.parts.len()].name),
            false => format!("by {}, which is missing", recorded.parts[asked.parts.len()].name),
        },
    }
}

fn excerpt(text: &str, at: usize) -> String {
    let from = at.saturating_sub(SHOWN_BEFORE);
    shown(&text.chars().skip(from).take(at - from + SHOWN_AFTER).collect::<String>())
}
