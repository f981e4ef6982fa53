//! The table: everything an escape would need, what it would be good for, and what should stop it.
//!
//! Invariants: each name stands once; each case is stopped, alone, by the boundary that it names (the run checks
//! that wherever the boundary can be had and the control succeeds).

use aaos_core::confinement::Boundary;

use crate::raw::Answer;
use crate::scene::Place;
use crate::{exhaustion, files, handed, kernel, processes, sockets};

/// What stops a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoppedBy {
    /// A boundary around the process, which does so alone.
    Boundary(Boundary),
    /// The daemon opened the descriptor for reading only. The control has one for both.
    ReadOnly,
    /// The daemon sealed the memory file. The control's is open.
    Seal,
    /// The daemon receives without room for descriptors. The control's receiver has room.
    Receiver,
}

impl StoppedBy {
    /// As it stands in the report.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Boundary(boundary) => name_of(boundary),
            Self::ReadOnly => "read-only descriptor".to_owned(),
            Self::Seal => "seal".to_owned(),
            Self::Receiver => "receiver".to_owned(),
        }
    }
}

/// A boundary as the report names it.
pub(crate) fn name_of(boundary: Boundary) -> String {
    serde_json::to_value(boundary)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// One case.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    /// Its name in the report.
    pub(crate) name: &'static str,
    /// What it would be good for.
    pub(crate) good_for: &'static str,
    /// What should stop it.
    pub(crate) by: StoppedBy,
    /// The attempt.
    pub(crate) attempt: fn(&Place) -> Answer,
}

impl Case {
    /// Whether this is the attempt.
    pub(crate) fn attempt_is(&self, attempt: fn(&Place) -> Answer) -> bool {
        std::ptr::fn_addr_eq(self.attempt, attempt)
    }
}

macro_rules! cases {
    ($($name:literal $by:expr, $good_for:literal, $module:ident::$attempt:ident;)*) => {
        &[$(Case { name: $name, good_for: $good_for, by: $by, attempt: $module::$attempt }),*]
    };
}

const LANDLOCK: StoppedBy = StoppedBy::Boundary(Boundary::Landlock);
const SECCOMP: StoppedBy = StoppedBy::Boundary(Boundary::Seccomp);
const CAPABILITIES: StoppedBy = StoppedBy::Boundary(Boundary::NoCapabilities);
const NO_NEW_PRIVS: StoppedBy = StoppedBy::Boundary(Boundary::NoNewPrivs);
const OWN_UID: StoppedBy = StoppedBy::Boundary(Boundary::OwnUid);
const MOUNTS: StoppedBy = StoppedBy::Boundary(Boundary::MountNamespace);
const USERS: StoppedBy = StoppedBy::Boundary(Boundary::UserNamespace);
const PIDS: StoppedBy = StoppedBy::Boundary(Boundary::PidNamespace);
const IPC: StoppedBy = StoppedBy::Boundary(Boundary::IpcNamespace);
const NET: StoppedBy = StoppedBy::Boundary(Boundary::NetNamespace);
const UTS: StoppedBy = StoppedBy::Boundary(Boundary::UtsNamespace);
const CGROUPS: StoppedBy = StoppedBy::Boundary(Boundary::CgroupNamespace);
const RLIMITS: StoppedBy = StoppedBy::Boundary(Boundary::Rlimits);
const CLOSED: StoppedBy = StoppedBy::Boundary(Boundary::ClosedDescriptors);

/// Every case.
pub(crate) const CASES: &[Case] = cases![
    "read a file" LANDLOCK, "another agent's or the operator's data", files::read_file;
    "read the operator's own file" OWN_UID, "keys and settings that only the operator may read", files::read_private;
    "write a file" LANDLOCK, "plants what somebody else trusts", files::write_file;
    "create a file" LANDLOCK, "plants a start file or a job", files::create_file;
    "truncate a file" LANDLOCK, "destroys data", files::truncate;
    "link a file" LANDLOCK, "brings a file below a granted root", files::link;
    "make a symbolic link" LANDLOCK, "leads somebody else's write astray", files::symlink;
    "rename a file" LANDLOCK, "swaps a file that was judged", files::rename;
    "exchange two files" LANDLOCK, "wins races against a judge", files::exchange;
    "unlink a file" LANDLOCK, "destroys data", files::unlink;
    "make a directory" LANDLOCK, "a place for more", files::make_directory;
    "make a FIFO" LANDLOCK, "a way to talk to another process", files::make_fifo;
    "make a device node" CAPABILITIES, "a disk or memory without its file system", files::make_device;
    "open a device" LANDLOCK, "hardware and drivers", files::open_device;
    "stat a path" SECCOMP, "what exists where; Landlock does not stop it", files::stat;
    "access a path" SECCOMP, "what may be read; Landlock does not stop it", files::access;
    "read a link" MOUNTS, "where things lie; Landlock does not stop it", files::read_link;
    "change a mode" SECCOMP, "opens a file for others; Landlock does not stop it", files::change_mode;
    "change an owner" CAPABILITIES, "gives a file away or takes it", files::change_owner;
    "change times" SECCOMP, "hides a change; Landlock does not stop it", files::change_times;
    "set an attribute" SECCOMP, "marks a file for a program; Landlock does not stop it", files::set_attribute;
    "change the directory" SECCOMP, "a start for relative paths; Landlock does not stop it", files::change_directory;
    "list a directory" LANDLOCK, "what exists where", files::list_directory;
    "watch a directory" SECCOMP, "what others do when; Landlock does not stop it", files::watch;
    "mount" CAPABILITIES, "hides or replaces files", files::mount;
    "fsopen" CAPABILITIES, "the same by the newer interface", files::open_file_system;
    "clone a mount" CAPABILITIES, "files past what covers them", files::clone_mount;
    "open by handle" CAPABILITIES, "a file past every directory above it", files::open_by_handle;
    "open by a handed file's handle" CAPABILITIES, "handles of one file system can be guessed", files::open_by_guessed_handle;
    "read /proc of a process" LANDLOCK, "its environment, with keys", files::read_proc;
    "open a process's memory" LANDLOCK, "reads and changes it", files::open_memory;
    "open what a process has open" MOUNTS, "its files, by the links in /proc", files::open_anothers_file;
    "open a sysctl for writing" LANDLOCK, "core_pattern would run a program as root", files::open_sysctl;
    "read /sys" LANDLOCK, "the machine and its devices", files::read_sys;
    "chroot" CAPABILITIES, "leads set-uid programs astray", files::change_root;
    "pivot_root" CAPABILITIES, "leaves the root that it has", files::pivot_root;
    "kill" PIDS, "ends or disturbs another process", processes::kill;
    "tgkill" PIDS, "the same, one thread", processes::thread_kill;
    "queue a signal" LANDLOCK, "the same, with data", processes::queue_signal;
    "signal by pidfd" LANDLOCK, "the same, by descriptor", processes::signal_by_descriptor;
    "signal everybody" SECCOMP, "the same, all at once", processes::kill_everybody;
    "take a descriptor of a process" PIDS, "its files and sockets", processes::take_descriptor;
    "ptrace" PIDS, "runs code in another process", processes::trace;
    "read a process's memory" USERS, "its keys", processes::read_memory;
    "write a process's memory" PIDS, "runs code in it", processes::write_memory;
    "limits of a process" PIDS, "starves it", processes::limits_of_another;
    "pin a process" PIDS, "slows it down", processes::pin_another;
    "priority of a process" PIDS, "slows it down", processes::slow_another;
    "compare with a process" PIDS, "what it shares, and where the kernel keeps it", processes::compare_with_another;
    "fork" SECCOMP, "a process that nobody counts", processes::fork;
    "clone3" SECCOMP, "a fork whose flags no filter reads", processes::clone3;
    "start a thread" SECCOMP, "races against the kernel's checks", processes::thread;
    "outlive its call" PIDS, "goes on when its time is over, in a session of its own", processes::outlive;
    "execute a program" LANDLOCK, "another program's rights and bugs", processes::execute_program;
    "gain a uid by a set-uid program" NO_NEW_PRIVS, "another user's rights", processes::gain_uid;
    "become root again" CAPABILITIES, "what was given up for a while only", processes::become_root;
    "unshare users" SECCOMP, "all capabilities, over new namespaces", processes::unshare_user;
    "clone with users" SECCOMP, "the same by another call", processes::clone_user;
    "mount with own users" SECCOMP, "capabilities, used", processes::mount_with_own_users;
    "unshare mounts" CAPABILITIES, "mounts over what was judged", processes::unshare_mounts;
    "enter a namespace" PIDS, "leaves its own", processes::enter_namespace;
    "dump core" RLIMITS, "a core_pattern helper runs as root; memory goes to disk", processes::dump_core;
    "connect a path socket" MOUNTS, "a container engine's or a desktop's socket", sockets::path_socket;
    "connect an abstract socket" LANDLOCK, "services that name no file", sockets::abstract_socket;
    "datagram pair to a path socket" MOUNTS, "needs no socket call", sockets::pair_to_path;
    "datagram pair to an abstract socket" LANDLOCK, "needs neither socket call nor path", sockets::pair_to_abstract;
    "TCP connect" LANDLOCK, "the network, and services of the machine", sockets::tcp_connect;
    "TCP listen" LANDLOCK, "lets others in", sockets::tcp_listen;
    "UDP" NET, "the network; Landlock does not stop it", sockets::udp;
    "raw socket" CAPABILITIES, "forged packets", sockets::raw_socket;
    "packet socket" CAPABILITIES, "everybody's packets", sockets::packet;
    "netlink" SECCOMP, "the kernel's own interfaces", sockets::netlink;
    "vsock" SECCOMP, "the machine's host, past every network namespace", sockets::vsock;
    "kernel cryptography" SECCOMP, "kernel code, often attacked", sockets::algorithm;
    "push a descriptor to the daemon" StoppedBy::Receiver, "fills its table, or has it use what it did not open", sockets::push_descriptor;
    "io_uring" SECCOMP, "opens and connects past a filter", kernel::io_uring;
    "bpf" SECCOMP, "code in the kernel", kernel::bpf;
    "userfaultfd" SECCOMP, "wins races against the kernel", kernel::user_faults;
    "add a key" SECCOMP, "kernel keyrings", kernel::add_key;
    "the session's keys" SECCOMP, "the operator's keys", kernel::read_keys;
    "perf_event_open" SECCOMP, "what others compute", kernel::perf;
    "read the kernel's log" SECCOMP, "addresses and names", kernel::kernel_log;
    "hardware ports" CAPABILITIES, "the machine", kernel::ports;
    "load a module" CAPABILITIES, "the kernel", kernel::load_module;
    "set the clock" CAPABILITIES, "deadlines and the journal's times", kernel::set_clock;
    "rename the host" UTS, "what others take the machine for", kernel::host_name;
    "shared memory by key" IPC, "another program's memory", kernel::shared_memory;
    "paths of control groups" CGROUPS, "where the machine runs it", kernel::cgroup_paths;
    "type into a terminal" CLOSED, "commands as the operator", kernel::type_into_terminal;
    "read a leaked descriptor" CLOSED, "whatever its launcher had open", handed::read_leaked;
    "open below a leaked directory" CLOSED, "the same, with everything below", handed::below_leaked;
    "write to a leaked socket" CLOSED, "the launcher's own connections", handed::write_to_leaked_socket;
    "parent of a handed directory by O_PATH" SECCOMP, "climbs out; Landlock does not stop it", handed::parent_by_path_descriptor;
    "file above a handed directory" LANDLOCK, "climbs out", handed::secret_by_parent;
    "stat above a handed directory" SECCOMP, "climbs out; Landlock does not stop it", handed::stat_by_parent;
    "enter a handed directory" SECCOMP, "a start for relative paths", handed::enter_handed_directory;
    "create in a handed directory" LANDLOCK, "it is there to be listed", handed::create_in_handed_directory;
    "mode of a handed file" SECCOMP, "opens it for others; Landlock does not stop it", handed::mode_of_handed;
    "mode above a handed directory" SECCOMP, "climbs out; Landlock does not stop it", handed::mode_beside_handed;
    "owner of a handed file" SECCOMP, "takes it; Landlock does not stop it", handed::owner_of_handed;
    "times of a handed file" SECCOMP, "hides a change; Landlock does not stop it", handed::times_of_handed;
    "attribute of a handed file" SECCOMP, "marks it for a program; Landlock does not stop it", handed::attribute_of_handed;
    "lock a handed file" SECCOMP, "makes others wait", handed::lock_handed;
    "duplicate a handed descriptor" SECCOMP, "hides it", handed::duplicate_handed;
    "open a handed file for writing" LANDLOCK, "by the link in /proc", handed::reopen_handed_for_writing;
    "write a handed file" StoppedBy::ReadOnly, "changes what it may only read", handed::write_handed;
    "map a handed file for writing" StoppedBy::ReadOnly, "the same without a write call", handed::map_handed_for_writing;
    "write after the seal" StoppedBy::Seal, "changes what was hashed", handed::write_late;
    "map after the seal" StoppedBy::Seal, "the same without a write call", handed::map_late;
    "resize after the seal" StoppedBy::Seal, "cuts what was hashed", handed::resize_late;
    "map a memory file to execute" SECCOMP, "code of its own", handed::map_memory_executable;
    "map a handed file to execute" SECCOMP, "code of its own", handed::map_file_executable;
    "map memory to execute" SECCOMP, "code of its own", handed::map_anonymous_executable;
    "turn memory executable" SECCOMP, "code of its own", handed::turn_executable;
    "map an own memory file to execute" SECCOMP, "code of its own", handed::map_own_memory_executable;
    "execute a memory file" SECCOMP, "a program of its own", handed::execute_memory;
    "fork 10,000 children" SECCOMP, "uses up process numbers", exhaustion::fork_many;
    "fill memory" RLIMITS, "starves the machine", exhaustion::fill_memory;
    "fill the disk" RLIMITS, "starves the machine", exhaustion::fill_disk;
    "fill a handed memory file" RLIMITS, "memory that its own limit does not count", exhaustion::fill_handed_memory;
    "fill the descriptor table" RLIMITS, "starves the machine", exhaustion::fill_descriptors;
    "lock memory" SECCOMP, "starves the machine", exhaustion::lock_memory;
    "make a message queue" SECCOMP, "stays when its maker ends", exhaustion::message_queue;
];

/// The case with this name.
pub(crate) fn find(name: &str) -> Option<&'static Case> {
    CASES.iter().find(|case| case.name == name)
}
