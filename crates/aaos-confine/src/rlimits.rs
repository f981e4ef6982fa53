//! Resource limits of far processes.
//!
//! Invariants: soft and hard limit are equal, so that nothing can be raised again. The daemon reads the
//! limits back and compares them with the same tables.

use std::io;

use aaos_core::limits::{MAX_FRAME_DESCRIPTORS, MAX_PROGRAM_PROCESSES, MODEL_ADDRESS_BYTES, MODEL_PROCESSES};

use crate::sys::answer;

const MIB: u64 = 1024 * 1024;

/// One resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// `RLIMIT_*`.
    pub resource: u32,
    /// How /proc/PID/limits calls it.
    pub name: &'static str,
    /// Soft and hard value.
    pub value: u64,
    /// Why this much.
    pub reason: &'static str,
}

/// A coredump to a helper of the host is refused at 1, and one to a file is empty.
pub(crate) const CORE: Limit = Limit {
    resource: libc::RLIMIT_CORE,
    name: "Max core file size",
    value: 1,
    reason: "1 also keeps a core_pattern helper of the host from being run",
};

/// Of agentd.
pub const DAEMON_LIMITS: &[Limit] = &[CORE];

const NO_LOCKED_MEMORY: Limit = Limit {
    resource: libc::RLIMIT_MEMLOCK,
    name: "Max locked memory",
    value: 0,
    reason: "nothing is locked",
};

const NO_MESSAGE_QUEUE: Limit = Limit {
    resource: libc::RLIMIT_MSGQUEUE,
    name: "Max msgqueue size",
    value: 0,
    reason: "no message queue is used",
};

/// The number below which every descriptor of a process under these limits lies.
pub(crate) fn descriptors_below(limits: &[Limit]) -> i32 {
    let limit = limits.iter().find(|limit| limit.resource == libc::RLIMIT_NOFILE);
    limit.and_then(|limit| i32::try_from(limit.value).ok()).unwrap_or(i32::MAX)
}

/// Of a worker.
pub const WORKER_LIMITS: &[Limit] = &[
    Limit {
        resource: libc::RLIMIT_NOFILE,
        name: "Max open files",
        value: 4 * MAX_FRAME_DESCRIPTORS as u64,
        reason: "a walk holds several batches of brokered descriptors",
    },
    Limit {
        resource: libc::RLIMIT_NPROC,
        name: "Max processes",
        value: 0,
        reason: "a worker makes no process and no thread",
    },
    Limit {
        resource: libc::RLIMIT_FSIZE,
        name: "Max file size",
        value: 64 * MIB,
        reason: "a memfd holds the old content of a file, edited",
    },
    Limit {
        resource: libc::RLIMIT_AS,
        name: "Max address space",
        value: 1024 * MIB,
        reason: "the largest frame, decoded, many times over",
    },
    NO_LOCKED_MEMORY,
    NO_MESSAGE_QUEUE,
    CORE,
];

/// Of a program and everything that it starts. Processes are counted in its own user namespace.
pub const PROGRAM_LIMITS: &[Limit] = &[
    Limit {
        resource: libc::RLIMIT_NPROC,
        name: "Max processes",
        value: MAX_PROGRAM_PROCESSES,
        reason: "a build with a compiler for each processor, and their threads",
    },
    Limit {
        resource: libc::RLIMIT_NOFILE,
        name: "Max open files",
        value: 1024,
        reason: "what programs find on an ordinary system",
    },
    Limit {
        resource: libc::RLIMIT_FSIZE,
        name: "Max file size",
        value: 1024 * MIB,
        reason: "no single file fills a disk",
    },
    Limit {
        resource: libc::RLIMIT_AS,
        name: "Max address space",
        value: 8192 * MIB,
        reason: "runtimes that reserve much more than they use",
    },
    NO_LOCKED_MEMORY,
    NO_MESSAGE_QUEUE,
    Limit {
        resource: libc::RLIMIT_SIGPENDING,
        name: "Max pending signals",
        value: 1024,
        reason: "queued signals are memory of the kernel's",
    },
    CORE,
];

/// Of a gateway role that has an own uid.
const OWN_UID_GATEWAY_LIMITS: &[Limit] = &[
    Limit {
        resource: libc::RLIMIT_NPROC,
        name: "Max processes",
        value: 512,
        reason: "a few threads each, for the same role of every daemon on the machine",
    },
    Limit {
        resource: libc::RLIMIT_NOFILE,
        name: "Max open files",
        value: 4096,
        reason: "a connection and a memfd for each fetch in flight",
    },
    Limit {
        resource: libc::RLIMIT_FSIZE,
        name: "Max file size",
        value: 64 * MIB,
        reason: "a memfd holds one fetched body",
    },
    Limit {
        resource: libc::RLIMIT_AS,
        name: "Max address space",
        value: 4096 * MIB,
        reason: "every request in flight with its largest stream, and the stacks of a few threads",
    },
    NO_LOCKED_MEMORY,
    NO_MESSAGE_QUEUE,
    CORE,
];

/// Of a gateway role. The kernel counts processes by uid: where a role shares the operator's, the operator's
/// own processes would count against it and end it, so only one with a uid of its own has that limit.
#[must_use]
pub fn gateway_limits(own_uid: bool) -> &'static [Limit] {
    match OWN_UID_GATEWAY_LIMITS {
        [processes, others @ ..] if !own_uid => {
            assert_eq!(processes.resource, libc::RLIMIT_NPROC, "the limit by uid stands first");
            others
        }
        all => all,
    }
}

/// Of the process of a local model whose threads are counted apart.
const COUNTED_MODEL_LIMITS: &[Limit] = &[
    Limit {
        resource: libc::RLIMIT_NPROC,
        name: "Max processes",
        value: MODEL_PROCESSES,
        reason: "the threads that compute, and a few beside them",
    },
    Limit {
        resource: libc::RLIMIT_NOFILE,
        name: "Max open files",
        value: 4 * MAX_FRAME_DESCRIPTORS as u64,
        reason: "its channel and the weights, and what a frame could carry",
    },
    Limit { resource: libc::RLIMIT_FSIZE, name: "Max file size", value: 0, reason: "it writes no file" },
    Limit {
        resource: libc::RLIMIT_AS,
        name: "Max address space",
        value: MODEL_ADDRESS_BYTES,
        reason: "the largest weights twice over, and what threads reserve",
    },
    NO_LOCKED_MEMORY,
    NO_MESSAGE_QUEUE,
    CORE,
];

/// Of the process of a local model. Its threads are counted where it has a uid or a user namespace of its own; otherwise
/// the operator's own processes would count against it, as for a gateway role.
#[must_use]
pub fn model_limits(counted: bool) -> &'static [Limit] {
    match COUNTED_MODEL_LIMITS {
        [processes, others @ ..] if !counted => {
            assert_eq!(processes.resource, libc::RLIMIT_NPROC, "the limit by uid stands first");
            others
        }
        all => all,
    }
}

/// Sets every limit of a table; a hard limit that is already lower stays.
pub(crate) fn apply(limits: &[Limit]) -> io::Result<()> {
    for limit in limits {
        let mut now = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
        set_and_get(limit.resource, None, Some(&mut now))?;
        let value = limit.value.min(now.rlim_max);
        set_and_get(limit.resource, Some(&libc::rlimit64 { rlim_cur: value, rlim_max: value }), None)?;
    }
    Ok(())
}

fn set_and_get(
    resource: u32,
    new: Option<&libc::rlimit64>,
    old: Option<&mut libc::rlimit64>,
) -> io::Result<()> {
    let new = new.map_or(std::ptr::null(), std::ptr::from_ref);
    let old = old.map_or(std::ptr::null_mut(), std::ptr::from_mut);
    // SAFETY: both pointers are null or point to a struct that outlives the call; pid 0 is the caller.
    answer(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, new, old) }).map(drop)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Limit, PROGRAM_LIMITS, WORKER_LIMITS, gateway_limits, model_limits};

    fn tables() -> [&'static [Limit]; 6] {
        let (gateway, model) = ([true, false].map(gateway_limits), [true, false].map(model_limits));
        [WORKER_LIMITS, PROGRAM_LIMITS, gateway[0], gateway[1], model[0], model[1]]
    }

    #[test]
    fn each_resource_is_limited_once_and_with_a_reason() {
        for table in tables() {
            let resources: BTreeSet<_> = table.iter().map(|limit| limit.resource).collect();
            assert_eq!(resources.len(), table.len());
            assert!(table.iter().all(|limit| limit.reason.len() > 10));
        }
    }

    #[test]
    fn memory_of_every_far_process_is_bounded_and_processes_only_where_a_uid_is_its_own() {
        let has = |table: &[Limit], resource| table.iter().any(|limit| limit.resource == resource);
        for table in tables() {
            assert!(has(table, libc::RLIMIT_AS));
        }
        assert!(has(gateway_limits(true), libc::RLIMIT_NPROC) && has(PROGRAM_LIMITS, libc::RLIMIT_NPROC));
        assert!(has(model_limits(true), libc::RLIMIT_NPROC));
        assert!(![gateway_limits(false), model_limits(false)].iter().any(|one| has(one, libc::RLIMIT_NPROC)));
    }
}
