//! The lock-down of the process of a local model: a worker's boundaries around a program that was executed.
//!
//! Invariants: called once, while the process is single-threaded; it has been handed nothing yet. Afterwards it has its
//! channel and no other descriptor, an empty root, an empty network, no other process in its sight, and may start
//! threads and nothing else. Threads that it starts later inherit all of it, so they are started afterwards.

use std::ffi::CString;

use aaos_core::confinement::{Boundary, LockedReport};
use aaos_core::limits::MAX_MODEL_THREADS;

use crate::descriptors::close_all_but_granted;
use crate::domain::Tcp;
use crate::filter::{Filter, Meaning};
use crate::namespaces::{
    NamespaceSet, ProcSelf, enter_empty_root, enter_mount_namespace, enter_user_namespace,
};
use crate::privilege::{FarUids, become_uid, drop_bounding_set, parent_pid};
use crate::probe::self_probes;
use crate::rlimits::{self, model_limits};
use crate::sys::{AtStep, LockError};
use crate::tables::MODEL;
use crate::worker::{enter_domain, give_up_privilege};

/// The argument that the zygote gives to the program of a local model; two numbers follow.
const FAR_ARGUMENT: &str = "--far";

/// What the zygote tells the program on its command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelPlan {
    /// Namespaces that it is to be in when it is locked. But for those of users and mounts it was born into them.
    namespaces: NamespaceSet,
    /// The uid to take; `None` where the launcher is not root.
    own_uid: Option<u32>,
}

impl ModelPlan {
    pub(crate) const fn new(namespaces: NamespaceSet, own_uid: Option<u32>) -> Self {
        Self { namespaces, own_uid }
    }

    /// What a command line says, its program left out; `None` where it is not the zygote's.
    #[must_use]
    pub fn from_arguments(arguments: &[String]) -> Option<Self> {
        let [flag, namespaces, uid] = arguments else { return None };
        let uid: u32 = uid.parse().ok()?;
        let own_uid = (uid != 0).then_some(uid);
        let is_far = own_uid.is_none_or(FarUids::any_has);
        let namespaces = NamespaceSet::from_bits(namespaces.parse().ok()?);
        (flag == FAR_ARGUMENT && is_far).then_some(Self { namespaces, own_uid })
    }

    /// Its command line, the program left out.
    pub(crate) fn arguments(self) -> [CString; 3] {
        let texts = [
            FAR_ARGUMENT.to_owned(),
            self.namespaces.bits().to_string(),
            self.own_uid.unwrap_or(0).to_string(),
        ];
        texts.map(|text| CString::new(text).unwrap_or_default())
    }

    /// Whether its threads are counted apart from everybody else's.
    fn is_counted(self) -> bool {
        self.own_uid.is_some() || self.namespaces.has(Boundary::UserNamespace)
    }
}

/// What the program finds in its environment: each library that computes reads a variable of its own.
pub(crate) fn model_environment(threads: u32) -> [CString; 2] {
    assert!((1..=MAX_MODEL_THREADS).contains(&threads), "an order names a possible number");
    let texts = ["RAYON", "CANDLE"].map(|library| format!("{library}_NUM_THREADS={threads}"));
    texts.map(|text| CString::new(text).unwrap_or_default())
}

/// Locks the calling process. Every descriptor above the channel is closed here.
///
/// # Errors
/// Names the step that failed; the process must end at once.
pub fn lock_model(plan: ModelPlan) -> Result<LockedReport, LockError> {
    let parent = parent_pid();
    let filter = Filter::compile(MODEL, Meaning::AllowList).at("compiling the seccomp filter")?;
    let limits = model_limits(plan.is_counted());
    enter_identity(plan)?;
    rlimits::apply(limits).at("resource limits")?;
    give_up_privilege(parent)?;
    close_all_but_granted().at("closing descriptors")?;
    let (domain, landlock_probe) = enter_domain(Tcp::Nothing)?;
    filter.install().at("the seccomp filter")?;
    let mut probes = self_probes(rlimits::descriptors_below(limits));
    probes.extend(landlock_probe);
    Ok(LockedReport {
        landlock_abi: domain.abi,
        landlock_rules_hash: domain.hash,
        seccomp_filter_hash: filter.hash().to_owned(),
        namespaces: plan.namespaces.boundaries(),
        probes,
    })
}

/// Root and identity. As root the uid comes after the mounts, which need the right to make them. Otherwise executing the
/// program took away the rights that its birth in a user namespace gave, and another one inside gives them back.
fn enter_identity(plan: ModelPlan) -> Result<(), LockError> {
    let own_users = plan.namespaces.has(Boundary::UserNamespace);
    let proc = own_users.then(ProcSelf::open).transpose().at("opening /proc/self")?;
    let own_mounts = plan.namespaces.has(Boundary::MountNamespace);
    let Some(uid) = plan.own_uid else {
        proc.as_ref().map_or(Ok(()), enter_user_namespace).at("the user namespace")?;
        return if own_mounts { empty_root() } else { Ok(()) };
    };
    if own_mounts {
        empty_root()?;
    }
    if proc.is_none() {
        drop_bounding_set().at("the bounding set")?;
    }
    become_uid(uid).at("its own uid")?;
    // A new user namespace fills the bounding set again; it is emptied in there.
    proc.as_ref().map_or(Ok(()), enter_user_namespace).at("the user namespace")
}

fn empty_root() -> Result<(), LockError> {
    enter_mount_namespace().and_then(|()| enter_empty_root()).at("the empty root")
}

#[cfg(test)]
mod tests {
    use super::{ModelPlan, model_environment};
    use crate::namespaces::NamespaceSet;

    #[test]
    fn a_plan_survives_its_command_line_and_names_no_stranger() {
        for own_uid in [None, Some(2_000_000_016)] {
            let plan = ModelPlan::new(NamespaceSet::from_bits(u32::MAX), own_uid);
            let words = plan.arguments().map(|word| word.into_string().expect("text"));
            assert_eq!(ModelPlan::from_arguments(&words), Some(plan));
            assert_eq!(ModelPlan::from_arguments(&words[..2]), None);
        }
        let words = |uid: &str| ["--far", "0", uid].map(ToOwned::to_owned);
        assert!(ModelPlan::from_arguments(&words("0")).is_some());
        for stranger in ["1000", "-1", "x"] {
            assert_eq!(ModelPlan::from_arguments(&words(stranger)), None, "{stranger}");
        }
        assert_eq!(ModelPlan::from_arguments(&["--near", "0", "0"].map(ToOwned::to_owned)), None);
    }

    #[test]
    fn every_library_is_told_the_same_number_of_threads() {
        let told = model_environment(3).map(|text| text.into_string().expect("text"));
        assert_eq!(told.iter().filter(|text| text.ends_with("_NUM_THREADS=3")).count(), 2);
    }
}
