//! Who asks: the peer of the control socket.
//!
//! Invariant: a principal sees and acts only on its own goals, agents and traces; root sees all.

use aaos_core::limits;

/// A peer uid that the daemon let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Principal {
    uid: u32,
}

impl Principal {
    /// The principal of a peer uid, if that uid may speak to a daemon of `daemon_uid`: itself and root.
    #[must_use]
    pub fn admit(peer_uid: u32, daemon_uid: u32) -> Option<Self> {
        (peer_uid == daemon_uid || peer_uid == 0).then_some(Self { uid: peer_uid })
    }

    /// Its uid.
    #[must_use]
    pub fn uid(self) -> u32 {
        self.uid
    }

    /// Whether it may see and change what `owner` asked for.
    #[must_use]
    pub fn may_touch(self, owner: u32) -> bool {
        self.uid == 0 || self.uid == owner
    }
}

/// Whether a message or goal text is of a length that the runtime takes.
pub(crate) fn fits(text: &str) -> bool {
    text.len() <= limits::MAX_MESSAGE_BYTES
}

#[cfg(test)]
mod tests {
    use super::Principal;

    #[test]
    fn strangers_are_not_admitted() {
        assert!(Principal::admit(1000, 1000).is_some());
        assert!(Principal::admit(0, 1000).is_some());
        assert!(Principal::admit(1001, 1000).is_none());
        assert!(Principal::admit(1001, 0).is_none());
    }

    #[test]
    fn only_root_touches_what_another_asked_for() {
        let alice = Principal::admit(1000, 1000).expect("same uid");
        assert!(alice.may_touch(1000));
        assert!(!alice.may_touch(1001));
        assert!(Principal::admit(0, 1000).expect("root").may_touch(1001));
    }
}
