//! One leased piece of a program's connection as an effect.
//!
//! Invariants: a connection needs the right to its very host and port, every lease the room for its bytes; what moved
//! is charged, and where nobody knows what moved, all that was leased.

use std::borrow::Cow;

use crate::effect::{AuthorizedParts, Effect, EffectClass, Need, Needs, Subject};
use crate::event::Event;
use crate::id::CallId;
use crate::limits::{CALL_JOURNAL_BYTES, CONNECTION_LEASE_BYTES};
use crate::quantity::{Amounts, Bytes, Millis, Quantity};
use crate::toolio::ToolFailure;

/// A program's connection to a host, for as many bytes as were leased. One that moves more takes further leases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// The tool call whose program connects.
    pub under: CallId,
    /// Lower-case host name or IP literal.
    pub host: String,
    /// Port.
    pub port: u16,
    /// What may be moved, both ways together.
    pub lease: Bytes,
    /// The first lease of the same connection; `None` for that one itself.
    pub continues: Option<CallId>,
}

/// How a lease ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Bytes to the host.
    pub sent: Bytes,
    /// Bytes from it.
    pub received: Bytes,
    /// Whether the gateway was lost, so that nobody knows.
    pub unknown: bool,
    /// Why the connection ended before its time.
    pub failure: Option<ToolFailure>,
    /// How long it lasted.
    pub elapsed: Millis,
}

impl Connection {
    /// The first lease of a connection, no larger than what is left of a purse.
    #[must_use]
    pub fn new(under: CallId, host: String, port: u16, remaining: Option<u64>) -> Self {
        Self { under, host, port, lease: lease(remaining), continues: None }
    }

    /// The next lease of the connection whose first lease was `first`.
    #[must_use]
    pub fn again(&self, first: CallId, remaining: Option<u64>) -> Self {
        Self { lease: lease(remaining), continues: Some(first), ..self.clone() }
    }
}

/// With nothing left it asks for one byte, which is refused for want of it.
fn lease(remaining: Option<u64>) -> Bytes {
    Bytes(remaining.map_or(CONNECTION_LEASE_BYTES, |left| left.clamp(1, CONNECTION_LEASE_BYTES)))
}

impl Effect for Connection {
    type Outcome = Moved;

    fn needs(&self) -> Cow<'_, Needs> {
        let host = Need::Host { host: self.host.clone(), port: self.port };
        // The right was asked for with the first lease; its revocation ends the whole connection.
        let all = if self.continues.is_none() { vec![host] } else { Vec::new() };
        let amounts =
            Amounts::of(Quantity::EgressBytes, self.lease.0).with(Quantity::JournalBytes, CALL_JOURNAL_BYTES);
        Cow::Owned(Needs { all, each: Vec::new(), amounts })
    }

    fn class(&self) -> EffectClass {
        EffectClass::Once
    }

    fn label(&self) -> &'static str {
        "connection"
    }

    fn subject(&self) -> Option<Subject> {
        Some(Subject::of("connection", serde_json::json!({ "host": self.host, "port": self.port })))
    }

    fn spent(parts: &AuthorizedParts<Self>, outcome: &Moved) -> Amounts {
        let moved = if outcome.unknown { parts.effect.lease } else { outcome.sent.plus(outcome.received) };
        Amounts::of(Quantity::EgressBytes, moved.0).with(Quantity::JournalBytes, CALL_JOURNAL_BYTES)
    }

    fn intent(parts: &AuthorizedParts<Self>) -> Event {
        let effect = &parts.effect;
        Event::ConnectionRequested {
            call: parts.call,
            under: effect.under,
            host: effect.host.clone(),
            port: effect.port,
            lease: effect.lease,
            continues: effect.continues,
            access: parts.all.clone(),
            charges: parts.charges.clone(),
        }
    }

    fn result(parts: &AuthorizedParts<Self>, outcome: &Moved) -> Event {
        Event::ConnectionEnded {
            call: parts.call,
            sent: outcome.sent,
            received: outcome.received,
            failure: outcome.failure.clone(),
            spent: Self::spent(parts, outcome),
            elapsed: outcome.elapsed,
        }
    }
}
