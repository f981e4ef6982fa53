//! Who asks: the peers of the control socket, by uid, and what each of them may ask for.
//!
//! Invariants: the daemon's own uid and root may do everything, and no configuration changes that; any other uid
//! exists only if the operator lists it, and then with a ceiling; a principal without `administer` sees and acts
//! only on its own goals, agents and traces.

use std::collections::BTreeMap;
use std::fmt;

use aaos_core::limits;
use serde::{Deserialize, Serialize};

use crate::ceiling::Ceiling;

/// What a principal may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Right {
    /// To look at its own goals and agents and at what the journal says of them.
    Observe,
    /// To submit goals and to drive its own agents.
    Submit,
    /// To answer approvals.
    Approve,
    /// To act on everybody's objects and to read the whole journal: an operator's right.
    Administer,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Observe => "observe",
            Self::Submit => "submit",
            Self::Approve => "approve",
            Self::Administer => "administer",
        })
    }
}

/// A set of rights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Rights(u8);

impl Rights {
    /// All of them: the operator's.
    pub const ALL: Self = Self(0b1111);

    /// Whether it is among them.
    #[must_use]
    pub const fn holds(self, right: Right) -> bool {
        self.0 & (1 << right as u8) != 0
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<I: IntoIterator<Item = Right>>(rights: I) -> Self {
        Self(rights.into_iter().fold(0, |set, right| set | (1 << right as u8)))
    }
}

/// A peer that the daemon let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Principal {
    uid: u32,
    rights: Rights,
}

impl Principal {
    /// Its uid.
    #[must_use]
    pub fn uid(self) -> u32 {
        self.uid
    }

    /// Whether it has a right.
    #[must_use]
    pub fn may(self, right: Right) -> bool {
        self.rights.holds(right)
    }

    /// Whether it may see and change what `owner` asked for.
    #[must_use]
    pub fn may_touch(self, owner: u32) -> bool {
        self.uid == owner || self.may(Right::Administer)
    }
}

/// A uid that the operator lists.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its uid.
    pub uid: u32,
    /// What it may ask for.
    pub rights: Rights,
    /// The most that it may hand to its agents.
    pub ceiling: Ceiling,
}

/// Why a list of principals cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrincipalsError {
    /// Root or the daemon's own uid.
    #[error(
        "uid {uid} is {who}, which has all rights and no ceiling whatever is listed; leave it out of [[principals]]"
    )]
    Operator {
        /// The uid.
        uid: u32,
        /// In words.
        who: &'static str,
    },
    /// One uid, two entries.
    #[error("uid {uid} is listed twice; keep one of its [[principals]]")]
    Twice {
        /// The uid.
        uid: u32,
    },
}

/// Who may speak to the daemon.
#[derive(Debug, Clone)]
pub struct Principals {
    daemon_uid: u32,
    listed: BTreeMap<u32, (Rights, Ceiling)>,
}

impl Principals {
    /// The daemon's own uid, root, and whom the operator lists.
    ///
    /// # Errors
    /// [`PrincipalsError`] for a uid that is listed twice or needs no listing.
    pub fn new(daemon_uid: u32, listed: impl IntoIterator<Item = Listed>) -> Result<Self, PrincipalsError> {
        let mut principals = Self { daemon_uid, listed: BTreeMap::new() };
        for Listed { uid, rights, ceiling } in listed {
            if uid == 0 {
                return Err(PrincipalsError::Operator { uid, who: "root" });
            }
            if uid == daemon_uid {
                return Err(PrincipalsError::Operator { uid, who: "the daemon's own uid" });
            }
            if principals.listed.insert(uid, (rights, ceiling)).is_some() {
                return Err(PrincipalsError::Twice { uid });
            }
        }
        Ok(principals)
    }

    /// The principal of a peer's uid, if that uid may speak to this daemon.
    #[must_use]
    pub fn admit(&self, uid: u32) -> Option<Principal> {
        if self.is_operator(uid) {
            return Some(Principal { uid, rights: Rights::ALL });
        }
        self.listed.get(&uid).map(|(rights, _)| Principal { uid, rights: *rights })
    }

    /// What bounds the agents of a uid; nothing for the operator. A uid that is no longer listed gets nothing.
    #[must_use]
    pub(crate) fn ceiling(&self, uid: u32) -> Option<Ceiling> {
        let listed = || self.listed.get(&uid).map_or(Ceiling::NOTHING, |(_, ceiling)| ceiling.clone());
        (!self.is_operator(uid)).then(listed)
    }

    fn is_operator(&self, uid: u32) -> bool {
        uid == self.daemon_uid || uid == 0
    }
}

/// Whether a message or goal text is of a length that the runtime takes.
pub(crate) fn fits(text: &str) -> bool {
    text.len() <= limits::MAX_MESSAGE_BYTES
}

#[cfg(test)]
mod tests {
    use super::{Ceiling, Listed, Principals, PrincipalsError, Right, Rights};

    const EVERY: [Right; 4] = [Right::Observe, Right::Submit, Right::Approve, Right::Administer];

    fn listed(uid: u32, rights: &[Right]) -> Listed {
        Listed { uid, rights: rights.iter().copied().collect(), ceiling: Ceiling::NOTHING }
    }

    #[test]
    fn only_the_operator_and_whom_it_lists_are_admitted() {
        let principals = Principals::new(1000, [listed(1001, &[Right::Observe])]).expect("a list");
        for operator in [0, 1000] {
            let operator = principals.admit(operator).expect("admitted");
            assert!(EVERY.iter().all(|right| operator.may(*right)));
            assert!(principals.ceiling(operator.uid()).is_none());
        }
        let alice = principals.admit(1001).expect("listed");
        assert_eq!(EVERY.map(|right| alice.may(right)), [true, false, false, false]);
        assert!(principals.ceiling(1001).is_some());
        assert!(principals.admit(1002).is_none());
        assert!(principals.ceiling(1002).is_some(), "whoever is not the operator is bounded");
        let alone = Principals::new(1000, []).expect("nobody");
        assert!(alone.admit(1001).is_none(), "the control: unlisted, it stays out");
    }

    #[test]
    fn each_right_is_a_right_of_its_own() {
        for right in EVERY {
            let one: Rights = [right].into_iter().collect();
            assert_eq!(EVERY.map(|other| one.holds(other)), EVERY.map(|other| other == right));
        }
        assert_eq!(EVERY.into_iter().collect::<Rights>(), Rights::ALL);
        assert!(EVERY.iter().all(|right| !Rights::default().holds(*right)));
    }

    #[test]
    fn only_an_administrator_touches_what_another_asked_for() {
        let principals = Principals::new(
            1000,
            [
                listed(1001, &[Right::Observe, Right::Submit, Right::Approve]),
                listed(1002, &[Right::Administer]),
            ],
        )
        .expect("a list");
        let touches = |uid| principals.admit(uid).expect("listed");
        assert!(touches(1001).may_touch(1001));
        assert!(!touches(1001).may_touch(1000) && !touches(1001).may_touch(0));
        assert!(touches(1002).may_touch(1001) && touches(1002).may_touch(1000));
        assert!(touches(1000).may_touch(1001) && touches(0).may_touch(1000));
    }

    #[test]
    fn a_list_that_says_nothing_clear_is_refused() {
        for (uid, who) in [(0, "root"), (1000, "the daemon's own uid")] {
            let error = Principals::new(1000, [listed(uid, &[])]).expect_err("needs no listing");
            assert_eq!(error, PrincipalsError::Operator { uid, who });
        }
        let error = Principals::new(1000, [listed(7, &[]), listed(7, &EVERY)]).expect_err("twice");
        assert_eq!(error, PrincipalsError::Twice { uid: 7 });
    }
}
