//! The lock-down of a worker: from a fresh child of the zygote to a process that holds its channel alone.
//!
//! Invariant: the order below. Identity before the parent-death signal (a change of identity forgets it), the
//! bounding set before the right to drop it is gone, Landlock and seccomp last, since they forbid the rest.

use std::io;

use aaos_core::confinement::{Boundary, LockedReport, ProbeResult};

use crate::descriptors::close_all_but_granted;
use crate::domain::{Domain, Draft, Tcp, open_root};
use crate::filter::{Filter, Meaning};
use crate::namespaces::{
    EmptyMounts, EmptyNetwork, Identity, NamespaceSet, ProcSelf, enter_empty_root, enter_user_namespace,
    write_maps,
};
use crate::privilege::{
    become_uid, die_with_parent, drop_bounding_set, drop_capabilities, set_dumpable, set_no_new_privs,
};
use crate::probe::{errno_name, self_probes};
use crate::rlimits::{self, WORKER_LIMITS};
use crate::sys::{AtStep, LockError};
use crate::tables::WORKER;

/// What the zygote knows when it makes a worker.
#[derive(Debug)]
pub struct WorkerPlan<'a> {
    /// The uid to take; `None` where the caller is not root.
    pub(crate) own_uid: Option<u32>,
    /// Namespaces that the child is to be in when it is locked.
    pub(crate) namespaces: NamespaceSet,
    /// Who the zygote is.
    pub(crate) zygote: Identity,
    /// What `getppid` answers in the child as long as the zygote lives.
    pub(crate) parent: u32,
    /// A network namespace that was made ahead; without one the child was born into its own, if into any.
    pub(crate) network: Option<&'a EmptyNetwork>,
    /// An empty root that was made ahead, of which the child takes a copy; without it the child was born into a mount
    /// namespace, if into any, and empties it.
    pub(crate) mounts: Option<&'a EmptyMounts>,
    /// The compiled table.
    pub(crate) filter: &'a Filter,
}

/// Compiles the worker's table.
///
/// # Errors
/// Never for the table of this version.
pub(crate) fn worker_filter() -> io::Result<Filter> {
    Filter::compile(WORKER, Meaning::AllowList)
}

/// Namespaces that a child is born into; a root zygote's children enter their user namespace later, when they
/// have their own uid.
pub(crate) fn born_into(namespaces: NamespaceSet, root: bool) -> NamespaceSet {
    if root { namespaces.without(&[Boundary::UserNamespace]) } else { namespaces }
}

/// Locks the calling process. Its descriptors are arranged already; whatever else is open is closed here.
///
/// # Errors
/// Names the step that failed; the process must end at once.
pub fn lock_worker(plan: &WorkerPlan<'_>) -> Result<LockedReport, LockError> {
    enter_identity(plan)?;
    rlimits::apply(WORKER_LIMITS).at("resource limits")?;
    give_up_privilege(plan.parent)?;
    close_all_but_granted().at("closing descriptors")?;
    let (domain, landlock_probe) = enter_domain(Tcp::Nothing)?;
    plan.filter.install().at("the seccomp filter")?;
    let mut probes = self_probes(rlimits::descriptors_below(WORKER_LIMITS));
    probes.extend(landlock_probe);
    Ok(LockedReport {
        landlock_abi: domain.abi,
        landlock_rules_hash: domain.hash,
        seccomp_filter_hash: plan.filter.hash().to_owned(),
        namespaces: plan.namespaces.boundaries(),
        probes,
    })
}

fn enter_identity(plan: &WorkerPlan<'_>) -> Result<(), LockError> {
    if let Some(network) = plan.network {
        network.enter().at("its network namespace")?;
    }
    let has_user_namespace = plan.namespaces.has(Boundary::UserNamespace);
    let proc = if has_user_namespace { Some(ProcSelf::open().at("opening /proc/self")?) } else { None };
    if let (None, Some(proc)) = (plan.own_uid, &proc) {
        write_maps(proc, plan.zygote).at("the maps of the user namespace")?;
    }
    if plan.namespaces.has(Boundary::MountNamespace) {
        plan.mounts.map_or_else(enter_empty_root, EmptyMounts::enter_copy).at("the empty root")?;
    }
    if let Some(uid) = plan.own_uid {
        match &proc {
            // A new user namespace fills the bounding set again; it is emptied in there.
            Some(proc) => {
                become_uid(uid).at("the worker's own uid")?;
                enter_user_namespace(proc).at("the user namespace")?;
            }
            None => {
                drop_bounding_set().at("the bounding set")?;
                become_uid(uid).at("the worker's own uid")?;
            }
        }
    }
    Ok(())
}

/// Gives up every privilege of the caller; shared by worker and gateway.
pub(crate) fn give_up_privilege(parent: u32) -> Result<(), LockError> {
    drop_bounding_set().at("the bounding set")?;
    drop_capabilities().at("dropping capabilities")?;
    set_no_new_privs().at("no_new_privs")?;
    set_dumpable(false).at("making memory unreadable")?;
    die_with_parent(parent).at("the parent-death signal")
}

/// Enters the Landlock domain and proves it: what opened before must be refused after.
pub(crate) fn enter_domain(tcp: Tcp) -> Result<(Domain, Option<ProbeResult>), LockError> {
    enter_drafted(Draft::new(tcp).at("the Landlock domain")?)
}

/// The same of a domain that may have rules for places, of which none is the root.
pub(crate) fn enter_drafted(draft: Draft) -> Result<(Domain, Option<ProbeResult>), LockError> {
    open_root().at("the control of the Landlock probe")?;
    let domain = draft.enter().at("the Landlock domain")?;
    if domain.abi == 0 {
        return Ok((domain, None));
    }
    let after = open_root();
    let probe = ProbeResult {
        boundary: Boundary::Landlock,
        attempt: "open(\"/\"), which succeeded just before the domain".to_owned(),
        refused: after.is_err(),
        detail: after
            .map_or_else(|error| errno_name(error.raw_os_error().unwrap_or(0)), |()| "opened".to_owned()),
    };
    Ok((domain, Some(probe)))
}
