//! The lock-down of a gateway role.
//!
//! Invariants: called once, while the process is single-threaded and holds everything it will ever read from
//! files. Afterwards it can open no file, listen on no TCP port, execute nothing and make internet sockets
//! only; Landlock leaves TCP connect open, because a gateway decides by name and address, which Landlock
//! cannot.

use std::str::FromStr;

use aaos_core::confinement::LockedReport;

use crate::descriptors::close_all_but_granted;
use crate::domain::Tcp;
use crate::filter::{Filter, Meaning};
use crate::privilege::{FarUids, become_uid, drop_bounding_set, is_root, parent_pid};
use crate::probe::self_probes;
use crate::rlimits::{self, gateway_limits};
use crate::sys::{AtStep, LockError};
use crate::tables::GATEWAY;
use crate::worker::{enter_domain, give_up_privilege};

/// What one gateway process is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GatewayRole {
    /// Model providers, with their keys.
    Models,
    /// Pages for tools, without any key.
    Egress,
}

impl GatewayRole {
    /// Every role.
    pub const ALL: [Self; 2] = [Self::Models, Self::Egress];

    /// Its name on the gateway's command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Models => "models",
            Self::Egress => "egress",
        }
    }

    /// Its number in a control frame.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Models => 0,
            Self::Egress => 1,
        }
    }

    /// The role with this number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.number() == number)
    }
}

/// The text names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown gateway role; the roles are models and egress")]
pub struct UnknownRole;

impl FromStr for GatewayRole {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.name() == text).ok_or(UnknownRole)
    }
}

/// Locks the calling process into a gateway role. Whatever it needs from files it has read before; every
/// descriptor above the channel is closed here.
///
/// # Errors
/// Names the step that failed; the process must end at once.
pub fn lock_gateway(role: GatewayRole) -> Result<LockedReport, LockError> {
    let parent = parent_pid();
    let filter = Filter::compile(GATEWAY, Meaning::AllowList).at("compiling the seccomp filter")?;
    let own_uid = is_root();
    let limits = gateway_limits(own_uid);
    if own_uid {
        drop_bounding_set().at("the bounding set")?;
        become_uid(FarUids::Wide.of_gateway(role.number()))
            .or_else(|_| become_uid(FarUids::Narrow.of_gateway(role.number())))
            .at("the role's own uid")?;
    }
    rlimits::apply(limits).at("resource limits")?;
    give_up_privilege(parent)?;
    close_all_but_granted().at("closing descriptors")?;
    let (domain, landlock_probe) = enter_domain(Tcp::ConnectOnly)?;
    filter.install().at("the seccomp filter")?;
    let mut probes = self_probes(rlimits::descriptors_below(limits));
    probes.extend(landlock_probe);
    Ok(LockedReport {
        landlock_abi: domain.abi,
        landlock_rules_hash: domain.hash,
        seccomp_filter_hash: filter.hash().to_owned(),
        namespaces: Vec::new(),
        probes,
    })
}

#[cfg(test)]
mod tests {
    use super::GatewayRole;

    #[test]
    fn names_and_numbers_lead_back_to_their_role() {
        for role in GatewayRole::ALL {
            assert_eq!(role.name().parse(), Ok(role));
            assert_eq!(GatewayRole::from_number(role.number()), Some(role));
        }
        assert!("console".parse::<GatewayRole>().is_err());
        assert_eq!(GatewayRole::from_number(9), None);
    }
}
