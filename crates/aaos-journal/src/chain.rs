//! The hash chain: `hash = BLAKE3(previous ‖ header ‖ body hash)`, `body hash = BLAKE3(salt ‖ body)`.
//!
//! Invariants: the header's bytes are canonical (every field preceded by its length, so no two headers have
//! the same bytes); a body and its salt can be erased together without changing any hash, a header cannot be
//! changed without changing its own. The salt keeps an erased short body from being guessed from its hash.

use std::fmt;
use std::str::FromStr;

use aaos_core::id::{AgentId, EntryId, GoalId, Seq, TraceId};
use aaos_core::quantity::Timestamp;
use serde::{Deserialize, Serialize};

use crate::hex;
use crate::sign::HeadKey;

/// Length of a salt, bytes.
pub(crate) const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;

/// A BLAKE3 hash; in text, 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Hash([u8; HASH_BYTES]);

impl Hash {
    /// What the first entry follows.
    pub const ZERO: Self = Self([0; HASH_BYTES]);

    pub(crate) const fn from_bytes(bytes: [u8; HASH_BYTES]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; HASH_BYTES] {
        &self.0
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        hex::decode(text).map(Self).ok_or(HashError)
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for Hash {
    type Error = HashError;

    fn try_from(text: String) -> Result<Self, HashError> {
        text.parse()
    }
}

/// The text is no hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a hash is written as 64 hexadecimal digits in lower case")]
pub struct HashError;

/// The text is no head.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a head is written SEQ:HASH, with 64 hexadecimal digits, not {text:?}")]
pub struct HeadError {
    text: String,
}

/// A point of the chain: everything up to `seq` is as it was when the head had `hash`. In text `SEQ:HASH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Head {
    /// The last entry it covers; 0 before the first.
    pub seq: Seq,
    /// That entry's hash.
    pub hash: Hash,
}

impl Head {
    /// The head of an empty journal.
    pub const EMPTY: Self = Self { seq: Seq(0), hash: Hash::ZERO };
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash)
    }
}

impl FromStr for Head {
    type Err = HeadError;

    fn from_str(text: &str) -> Result<Self, HeadError> {
        let wrong = || HeadError { text: text.chars().take(100).collect() };
        let (seq, hash) = text.split_once(':').ok_or_else(wrong)?;
        let seq = seq.parse().map_err(|_| wrong())?;
        let hash = hash.parse().map_err(|_| wrong())?;
        Ok(Self { seq: Seq(seq), hash })
    }
}

impl From<Head> for String {
    fn from(head: Head) -> Self {
        head.to_string()
    }
}

impl TryFrom<String> for Head {
    type Error = HeadError;

    fn try_from(text: String) -> Result<Self, HeadError> {
        text.parse()
    }
}

/// The fields of an entry that can never be erased, but for its sequence number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) id: EntryId,
    pub(crate) timestamp: Timestamp,
    pub(crate) goal: Option<GoalId>,
    pub(crate) agent: Option<AgentId>,
    pub(crate) trace: Option<TraceId>,
    pub(crate) parent: Option<EntryId>,
    pub(crate) kind: String,
}

impl Header {
    /// This header's hash at position `seq` after `previous`.
    pub(crate) fn hash(&self, previous: Hash, seq: Seq, body_hash: Hash) -> Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(previous.as_bytes());
        let mut field = |bytes: &[u8]| {
            let length = u32::try_from(bytes.len()).unwrap_or_else(|_| unreachable!("fields are short"));
            hasher.update(&length.to_le_bytes()).update(bytes);
        };
        field(&seq.0.to_le_bytes());
        field(self.id.as_uuid().as_bytes());
        field(&self.timestamp.0.to_le_bytes());
        field(self.goal.as_ref().map_or(&[], |id| id.as_uuid().as_bytes()));
        field(self.agent.as_ref().map_or(&[], |id| id.as_uuid().as_bytes()));
        field(self.trace.as_ref().map_or(&[], |id| id.as_uuid().as_bytes()));
        field(self.parent.as_ref().map_or(&[], |id| id.as_uuid().as_bytes()));
        field(self.kind.as_bytes());
        hasher.update(body_hash.as_bytes());
        Hash(*hasher.finalize().as_bytes())
    }
}

/// The hash that stands for a body in its entry.
pub(crate) fn body_hash(salt: &[u8; SALT_BYTES], body: &str) -> Hash {
    Hash(*blake3::Hasher::new().update(salt).update(body.as_bytes()).finalize().as_bytes())
}

/// What is wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Problem {
    /// The entry with this number is missing.
    Missing,
    /// Its header, its stored hash or the entry before it was changed.
    Header,
    /// Its body was changed.
    Body,
    /// Its salt is gone and its body is there, or the reverse.
    HalfErased,
    /// Its body was erased, and the state rests on what it said.
    Erased,
    /// A column does not hold what it must.
    Malformed,
    /// The key vouched for another hash of it.
    Head,
    /// A head that is said to be signed is not.
    Signature,
    /// Its head is signed with another key.
    Key,
    /// Its number asks for a signed head, and there is none.
    Unsigned,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "is missing",
            Self::Header => "was changed, or the entry before it was",
            Self::Body => "has a changed body",
            Self::HalfErased => "is half erased",
            Self::Erased => "lost its body, and with it a part of the state",
            Self::Malformed => "is malformed",
            Self::Head => "is not the one whose head was signed",
            Self::Signature => "has a head with a forged signature",
            Self::Key => "has a head that another key signed",
            Self::Unsigned => "lacks its signed head",
        })
    }
}

/// The first entry at which the chain does not verify.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("entry {seq} {problem}")]
pub struct Broken {
    /// Its number.
    pub seq: Seq,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What became of the head that a verification was told to expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadCheck {
    /// None was named.
    NotAsked,
    /// The chain holds it.
    Found,
    /// The entry is there with another hash: history was rewritten.
    Differs,
    /// The chain ends before it: its tail was cut off.
    Missing,
    /// The chain's first entry follows it. The entry itself is the last of an archive, which is to be verified, too.
    Follows,
    /// The chain begins after it: it lies in an archive, which is to be verified by itself.
    Archived,
}

/// What a verification is told to expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expected {
    /// A head seen earlier, which the chain must hold.
    pub head: Option<Head>,
    /// The key that must have signed every signed head, of which there must be one.
    pub key: Option<HeadKey>,
}

impl From<Option<Head>> for Expected {
    fn from(head: Option<Head>) -> Self {
        Self { head, key: None }
    }
}

/// What a walk over the whole chain found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// What the first entry follows: [`Head::EMPTY`] unless the entries before were archived.
    pub after: Head,
    /// Entries that verified, from the first on.
    pub entries: u64,
    /// The last entry that verified.
    pub head: Head,
    /// How many bodies were erased.
    pub erased_count: u64,
    /// The first of them (at most [`aaos_core::limits::MAX_LISTED_ERASED`]).
    pub erased: Vec<Seq>,
    /// The last head that is signed; what comes after it is vouched for by the chain alone.
    pub signed: Option<Head>,
    /// Who signed.
    pub key: Option<HeadKey>,
    /// The first entry that did not verify; nothing after it was looked at.
    pub broken: Option<Broken>,
    /// What became of the expected head.
    pub expected: HeadCheck,
}

impl VerifyReport {
    /// Whether every entry verified and the expected head, if any, was found or is what the first entry follows.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.broken.is_none()
            && matches!(self.expected, HeadCheck::NotAsked | HeadCheck::Found | HeadCheck::Follows)
    }
}

#[cfg(test)]
mod tests {
    use super::{Hash, Head, Header, body_hash};
    use aaos_core::id::{AgentId, EntryId, GoalId, Seq, TraceId};
    use aaos_core::quantity::Timestamp;
    use uuid::Uuid;

    fn header() -> Header {
        Header {
            id: EntryId::from_uuid(Uuid::from_u128(1)),
            timestamp: Timestamp(2),
            goal: None,
            agent: None,
            trace: None,
            parent: None,
            kind: "daemon_stopped".into(),
        }
    }

    #[test]
    fn every_header_field_changes_the_hash() {
        let body = body_hash(&[0; 16], "{}");
        let base = header().hash(Hash::ZERO, Seq(1), body);
        assert_eq!(base, header().hash(Hash::ZERO, Seq(1), body), "the same input has the same hash");
        let one = Uuid::from_u128(7);
        let changed = [
            Header { id: EntryId::from_uuid(one), ..header() },
            Header { timestamp: Timestamp(3), ..header() },
            Header { goal: Some(GoalId::from_uuid(one)), ..header() },
            Header { agent: Some(AgentId::from_uuid(one)), ..header() },
            Header { trace: Some(TraceId::from_uuid(one)), ..header() },
            Header { parent: Some(EntryId::from_uuid(one)), ..header() },
            Header { kind: "daemon_started".into(), ..header() },
        ];
        let mut hashes: Vec<_> =
            changed.iter().map(|header| header.hash(Hash::ZERO, Seq(1), body).to_string()).collect();
        hashes.push(header().hash(Hash::ZERO, Seq(2), body).to_string());
        hashes.push(header().hash(body, Seq(1), body).to_string());
        hashes.push(header().hash(Hash::ZERO, Seq(1), body_hash(&[1; 16], "{}")).to_string());
        hashes.push(header().hash(Hash::ZERO, Seq(1), body_hash(&[0; 16], "{ }")).to_string());
        hashes.push(base.to_string());
        let count = hashes.len();
        hashes.sort();
        hashes.dedup();
        assert_eq!(hashes.len(), count);
    }

    #[test]
    fn a_head_survives_text_and_nonsense_is_refused() {
        let head = Head { seq: Seq(12), hash: body_hash(&[3; 16], "x") };
        assert_eq!(head.to_string().parse::<Head>().expect("own text"), head);
        for bad in ["", "12", "12:", "x:00", "12:zz", &format!("-1:{}", head.hash)] {
            assert!(bad.parse::<Head>().is_err(), "{bad}");
        }
    }
}
