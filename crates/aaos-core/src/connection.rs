//! One leased piece of a program's connection as an effect.
//!
//! Invariants: a connection needs the right to its very host and port, every lease the room for its bytes; what moved
//! is charged, and where nobody knows what moved, all that was leased.

use std::borrow::Cow;

use crate::effect::{AuthorizedParts, Effect, EffectClass, Need, Needs, Subject};
use crate::event::Event;
use crate::id::CallId;
use crate::limits::{CALL_JOURNAL_BYTES, CONNECTION_LEASE_BYTES, SMALL_LEASE_BYTES};
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
    /// How the journal names such an effect, also one that is refused before anybody said where it was to go.
    pub const LABEL: &str = "connection";

    /// The first lease of a connection: a share of what is free in a purse, so that others find something, too.
    #[must_use]
    pub fn new(under: CallId, host: String, port: u16, free: Option<u64>) -> Self {
        Self { under, host, port, lease: lease(free), continues: None }
    }

    /// The next lease of the connection whose first lease was `first`.
    #[must_use]
    pub fn again(&self, first: CallId, free: Option<u64>) -> Self {
        Self { lease: lease(free), continues: Some(first), ..self.clone() }
    }
}

/// An eighth of what is free, but not so little that it is used up at once. With nothing free it asks for one byte: for that
/// it waits, or is refused where nothing will be free again.
fn lease(free: Option<u64>) -> Bytes {
    let share = |free: u64| (free / 8).clamp(SMALL_LEASE_BYTES, CONNECTION_LEASE_BYTES).min(free).max(1);
    Bytes(free.map_or(CONNECTION_LEASE_BYTES, share))
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
        Self::LABEL
    }

    fn subject(&self) -> Option<Subject> {
        Some(Subject::of(Self::LABEL, serde_json::json!({ "host": self.host, "port": self.port })))
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

#[cfg(test)]
mod tests {
    use super::{Connection, Moved};
    use crate::effect::{AuthorizedParts, Effect, EffectClass, Need};
    use crate::event::Event;
    use crate::id::{AgentId, CallId};
    use crate::limits::{CALL_JOURNAL_BYTES, CONNECTION_LEASE_BYTES, SMALL_LEASE_BYTES};
    use crate::quantity::{Amounts, Bytes, Millis, Quantity};

    fn call(number: u128) -> CallId {
        CallId::from_uuid(uuid::Uuid::from_u128(number))
    }

    fn connection(remaining: Option<u64>) -> Connection {
        Connection::new(call(1), "a.test".to_owned(), 443, remaining)
    }

    fn parts(effect: Connection) -> AuthorizedParts<Connection> {
        let agent = AgentId::from_uuid(uuid::Uuid::from_u128(9));
        AuthorizedParts {
            call: call(2),
            agent,
            effect,
            all: Vec::new(),
            each: Vec::new(),
            charges: Vec::new(),
        }
    }

    #[test]
    fn a_lease_is_a_share_of_what_is_free_and_at_least_one_byte() {
        for (remaining, lease) in [
            (None, CONNECTION_LEASE_BYTES),
            (Some(u64::MAX), CONNECTION_LEASE_BYTES),
            (Some(8 * CONNECTION_LEASE_BYTES), CONNECTION_LEASE_BYTES),
            (Some(8 * CONNECTION_LEASE_BYTES - 8), CONNECTION_LEASE_BYTES - 1),
            (Some(8 * SMALL_LEASE_BYTES), SMALL_LEASE_BYTES),
            (Some(SMALL_LEASE_BYTES + 1), SMALL_LEASE_BYTES),
            (Some(SMALL_LEASE_BYTES - 1), SMALL_LEASE_BYTES - 1),
            (Some(1), 1),
            (Some(0), 1),
        ] {
            let first = connection(remaining);
            assert_eq!(first.lease, Bytes(lease), "{remaining:?}");
            assert_eq!(connection(None).again(call(2), remaining).lease, Bytes(lease), "{remaining:?}");
            let needs = first.needs();
            assert_eq!(needs.amounts.get(Quantity::EgressBytes), lease);
            assert_eq!(needs.amounts.get(Quantity::JournalBytes), CALL_JOURNAL_BYTES);
        }
    }

    #[test]
    fn the_right_to_the_host_is_needed_once() {
        let first = connection(None);
        assert_eq!(first.needs().all, [Need::Host { host: "a.test".to_owned(), port: 443 }]);
        let next = first.again(call(2), None);
        assert_eq!((next.needs().all.len(), next.continues, next.under), (0, Some(call(2)), call(1)));
        assert_eq!((first.class(), first.label()), (EffectClass::Once, "connection"));
        let subject = first.subject().expect("a person can be asked");
        assert_eq!(subject.input, serde_json::json!({ "host": "a.test", "port": 443 }));
    }

    #[test]
    fn what_moved_is_charged_and_all_of_it_where_nobody_knows() {
        let moved = |unknown| Moved {
            sent: Bytes(3),
            received: Bytes(4),
            unknown,
            failure: None,
            elapsed: Millis(5),
        };
        let amounts = |bytes| {
            Amounts::of(Quantity::EgressBytes, bytes).with(Quantity::JournalBytes, CALL_JOURNAL_BYTES)
        };
        let parts = parts(connection(Some(100)));
        assert_eq!(Connection::spent(&parts, &moved(false)), amounts(7));
        assert_eq!(Connection::spent(&parts, &moved(true)), amounts(100));
        let Event::ConnectionEnded { call: ended, sent, received, spent, elapsed, .. } =
            Connection::result(&parts, &moved(false))
        else {
            panic!("an end")
        };
        assert_eq!((ended, sent, received, elapsed), (call(2), Bytes(3), Bytes(4), Millis(5)));
        assert_eq!(spent, amounts(7));
        let Event::ConnectionRequested { call: begun, under, host, port, lease, .. } =
            Connection::intent(&parts)
        else {
            panic!("a beginning")
        };
        assert_eq!((begun, under, host.as_str(), port, lease), (call(2), call(1), "a.test", 443, Bytes(100)));
    }
}
