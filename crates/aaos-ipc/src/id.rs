//! Request ids, kept exactly as the client wrote them.
//!
//! Invariant: a [`RequestId`] is the JSON text of one string, number or null of at most
//! [`MAX_REQUEST_ID_BYTES`]. It is never turned into a number and back, so `1.0` and 30 digits survive.

use std::fmt;

use aaos_core::limits::MAX_REQUEST_ID_BYTES;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// The id of one request.
#[derive(Clone, Serialize)]
#[serde(transparent)]
pub struct RequestId(Box<RawValue>);

impl RequestId {
    /// The id of answers to requests whose own id could not be read.
    #[must_use]
    pub fn null() -> Self {
        Self(RawValue::NULL.to_owned())
    }

    /// A numeric id, for clients.
    #[must_use]
    pub fn number(number: u64) -> Self {
        let raw = RawValue::from_string(number.to_string());
        Self(raw.unwrap_or_else(|_| unreachable!("digits are JSON")))
    }

    /// Takes JSON text as an id; `None` when it is an object, an array, a boolean or too long.
    #[must_use]
    pub(crate) fn from_raw(raw: &RawValue) -> Option<Self> {
        let text = raw.get();
        let first = text.bytes().next()?;
        let fits = text == "null" || first == b'"' || first == b'-' || first.is_ascii_digit();
        (fits && text.len() <= MAX_REQUEST_ID_BYTES).then(|| Self(raw.to_owned()))
    }

    /// The id as JSON text.
    #[must_use]
    pub fn as_json(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for RequestId {
    fn eq(&self, other: &Self) -> bool {
        self.as_json() == other.as_json()
    }
}

impl Eq for RequestId {}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_json())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_json())
    }
}

impl<'de> Deserialize<'de> for RequestId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        Self::from_raw(raw).ok_or_else(|| serde::de::Error::custom("an id is a string, a number or null"))
    }
}
