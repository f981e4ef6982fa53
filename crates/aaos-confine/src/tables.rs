//! The system call tables: one call, one reason.
//!
//! Invariants: no call of the worker's table takes a path, makes a process, a socket or executable memory. No
//! number stands twice in a table. Whoever adds a row says why nothing already in the table will do; a row of the
//! worker's that no worker needs fails `aaos-sandbox::used_calls`, one of the gateway's `aaos-gateway::gateway`.

use crate::filter::{Arg, Rule, Test, When};

macro_rules! table {
    ($($call:ident $when:expr, $reason:literal;)*) => {
        &[$(Rule {
            number: libc::$call,
            name: stringify!($call),
            when: $when,
            reason: $reason,
        }),*]
    };
}

use When::{Always, Any};

const EXEC: u32 = libc::PROT_EXEC.unsigned_abs();
/// Third argument: memory that cannot be executed.
const NOT_EXECUTABLE: When = Any(&[&[Arg(2, Test::Clear(EXEC))]]);
/// `fcntl` that asks whether a descriptor is open; no duplicate, lock, owner, signal or seal.
const FLAGS_OF_DESCRIPTORS: When = Any(&[&[Arg(1, Test::Is(libc::F_GETFD.unsigned_abs()))]]);

/// Of a worker: allowed, all else answers EPERM.
pub const WORKER: &[Rule] = table![
    SYS_read Always, "contents of files that were handed over";
    SYS_write Always, "fills the memfd of a write; last words on standard error";
    SYS_lseek Always, "reads a file or a directory again from its start";
    SYS_getdents64 Always, "names in a directory that was handed over";
    SYS_close Always, "descriptors of a call end with it";
    SYS_recvmsg Always, "requests and their descriptors";
    SYS_sendmsg Always, "replies; only on a socket that is connected already";
    SYS_fcntl FLAGS_OF_DESCRIPTORS, "counts descriptors";
    SYS_brk Always, "heap";
    SYS_mmap NOT_EXECUTABLE, "heap";
    SYS_mremap Always, "heap of large buffers that grow; keeps the protection it finds";
    SYS_munmap Always, "heap";
    SYS_futex Always, "locks of the standard library";
    SYS_getrandom Always, "seeds of hash tables";
    SYS_rt_sigaction Always, "a fault restores the default action, or it would come again for ever";
    SYS_rt_sigreturn Always, "return from the handler of a fault";
    SYS_gettid Always, "the panic message names the thread";
    SYS_exit_group Always, "end";
];

/// Only a thread, in the same namespaces. A filter reads `clone`'s flags, not `clone3`'s.
const THREAD_ONLY: When =
    Any(&[&[Arg(0, Test::Set(libc::CLONE_THREAD.unsigned_abs())), Arg(0, Test::Clear(NEW_NAMESPACES))]]);
const NEW_NAMESPACES: u32 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP)
    .unsigned_abs();
/// The type of a socket without its flags (`SOCK_TYPE_MASK` of linux/net.h).
const TYPE_MASK: u32 = 0xf;
const STREAM: u32 = libc::SOCK_STREAM.unsigned_abs();
const DATAGRAM: u32 = libc::SOCK_DGRAM.unsigned_abs();
const INET: u32 = libc::AF_INET.unsigned_abs();
const INET6: u32 = libc::AF_INET6.unsigned_abs();
const UNIX: u32 = libc::AF_UNIX.unsigned_abs();
const TCP: u32 = libc::IPPROTO_TCP.unsigned_abs();
const UDP: u32 = libc::IPPROTO_UDP.unsigned_abs();
/// TCP and UDP, named or as the default of their type: Landlock knows no other transport's ports.
const INTERNET_SOCKETS: When = Any(&[
    &internet(INET, STREAM, 0),
    &internet(INET, STREAM, TCP),
    &internet(INET, DATAGRAM, 0),
    &internet(INET, DATAGRAM, UDP),
    &internet(INET6, STREAM, 0),
    &internet(INET6, STREAM, TCP),
    &internet(INET6, DATAGRAM, 0),
    &internet(INET6, DATAGRAM, UDP),
]);
const fn internet(family: u32, kind: u32, protocol: u32) -> [Arg; 3] {
    [Arg(0, Test::Is(family)), Arg(1, Test::Masked(TYPE_MASK, kind)), Arg(2, Test::Is(protocol))]
}
/// A stream pair stays connected to its other half for good. A datagram socket (which `SOCK_RAW` also makes)
/// could be connected again, to any socket that has a path.
const UNIX_STREAM_PAIR: When =
    Any(&[&[Arg(0, Test::Is(UNIX)), Arg(1, Test::Masked(TYPE_MASK, STREAM)), Arg(2, Test::Is(0))]]);
const DUPLICATES_AND_FLAGS: When = Any(&[
    &[Arg(1, Test::Is(libc::F_GETFD.unsigned_abs()))],
    &[Arg(1, Test::Is(libc::F_SETFD.unsigned_abs()))],
    &[Arg(1, Test::Is(libc::F_GETFL.unsigned_abs()))],
    &[Arg(1, Test::Is(libc::F_SETFL.unsigned_abs()))],
    &[Arg(1, Test::Is(libc::F_DUPFD_CLOEXEC.unsigned_abs()))],
    &[Arg(1, Test::Is(libc::F_GET_SEALS.unsigned_abs()))],
]);
const SET_NAME_ONLY: When = Any(&[&[Arg(0, Test::Is(libc::PR_SET_NAME.unsigned_abs()))]]);
const READ_PENDING_ONLY: When = Any(&[&[Arg(1, Test::Is(NON_BLOCKING))], &[Arg(1, Test::Is(PENDING))]]);
/// `FIONBIO` and `FIONREAD` of asm-generic/ioctls.h.
const NON_BLOCKING: u32 = 0x5421;
const PENDING: u32 = 0x541B;
const OWN_PROCESS: When = Any(&[&[Arg(0, Test::Is(0))]]);

/// Of a gateway role: allowed, all else answers EPERM.
pub const GATEWAY: &[Rule] = table![
    SYS_read Always, "key files, a cassette that is replayed, and sets back a counter of wake-ups that is full";
    SYS_write Always, "sockets, memfds of fetched bodies, a cassette that is recorded, last words on standard error";
    SYS_writev Always, "sockets, from several buffers";
    SYS_close Always, "connections end";
    SYS_fcntl DUPLICATES_AND_FLAGS, "non-blocking sockets and their duplicates";
    SYS_ioctl READ_PENDING_ONLY, "non-blocking sockets, as the standard library makes them";
    SYS_socket INTERNET_SOCKETS, "connections to permitted hosts and name servers";
    SYS_socketpair UNIX_STREAM_PAIR, "wake-ups of the signal driver; reaches nobody else";
    SYS_connect Always, "connections to permitted hosts and name servers";
    SYS_accept4 Always, "readers of metrics, where agentd handed a listener over; none can be made";
    SYS_bind Always, "a random local port for name queries; TCP is refused by Landlock";
    SYS_getpeername Always, "whom a name is asked of over TCP";
    SYS_getsockopt Always, "whether a connection failed";
    SYS_setsockopt Always, "no delay of requests and of name queries over TCP";
    SYS_sendto Always, "name queries, connections";
    SYS_recvfrom Always, "name answers, connections";
    SYS_sendmsg Always, "replies to agentd";
    SYS_recvmsg Always, "requests and their descriptors";
    SYS_shutdown Always, "the orderly end of a connection";
    SYS_epoll_create1 Always, "the runtime's reactor";
    SYS_epoll_ctl Always, "the runtime's reactor";
    SYS_epoll_wait Always, "the runtime's reactor";
    SYS_epoll_pwait Always, "the runtime's reactor";
    SYS_eventfd2 Always, "wakes the reactor";
    SYS_brk Always, "heap";
    SYS_mmap NOT_EXECUTABLE, "heap and stacks of threads";
    SYS_mremap Always, "heap of large buffers that grow; keeps the protection it finds";
    SYS_munmap Always, "heap and stacks of threads";
    SYS_mprotect NOT_EXECUTABLE, "guard pages of stacks";
    SYS_madvise Always, "gives freed heap and stacks back";
    SYS_futex Always, "locks";
    SYS_clone THREAD_ONLY, "threads of the runtime";
    SYS_set_robust_list Always, "start of a thread";
    SYS_rseq Always, "start of a thread";
    SYS_prctl SET_NAME_ONLY, "names of threads";
    SYS_sched_getaffinity OWN_PROCESS, "how many processors there are";
    SYS_sched_yield Always, "spinning locks of the runtime";
    SYS_gettid Always, "names of threads in messages";
    SYS_getrandom Always, "keys of connections, seeds of hash tables";
    SYS_clock_gettime Always, "time, where the vDSO has no clock";
    SYS_rt_sigaction Always, "abort restores the default action";
    SYS_rt_sigprocmask Always, "start of a thread";
    SYS_rt_sigreturn Always, "return from a handler";
    SYS_sigaltstack Always, "the stack-overflow handler's stack";
    SYS_restart_syscall Always, "a call that SIGSTOP and SIGCONT interrupted";
    SYS_exit Always, "end of a thread";
    SYS_exit_group Always, "end";
];

/// Of the process of a local model: allowed, all else answers EPERM. It computes on several threads and has nothing but
/// its channel and the weights that were handed to it.
pub const MODEL: &[Rule] = table![
    SYS_pread64 Always, "the weights";
    SYS_write Always, "last words on standard error";
    SYS_close Always, "the weights, once they are loaded";
    SYS_recvmsg Always, "requests, and the weights' descriptor";
    SYS_sendmsg Always, "replies; only on a socket that is connected already";
    SYS_fcntl FLAGS_OF_DESCRIPTORS, "counts descriptors";
    SYS_brk Always, "heap";
    SYS_mmap NOT_EXECUTABLE, "heap, and stacks of threads";
    SYS_mremap Always, "heap of large buffers that grow; keeps the protection it finds";
    SYS_munmap Always, "heap, and stacks of threads";
    SYS_mprotect NOT_EXECUTABLE, "heaps of threads, and guard pages of their stacks";
    SYS_madvise Always, "gives freed heap and stacks back";
    SYS_futex Always, "threads wait for each other";
    SYS_clone THREAD_ONLY, "threads that compute";
    SYS_set_robust_list Always, "start of a thread";
    SYS_rseq Always, "start of a thread";
    SYS_prctl SET_NAME_ONLY, "names of threads";
    SYS_sched_getaffinity OWN_PROCESS, "how many processors there are";
    SYS_sched_yield Always, "a thread that found nothing to do lets others go first";
    SYS_gettid Always, "the panic message names the thread";
    SYS_getrandom Always, "seeds of hash tables and of sampling";
    SYS_clock_gettime Always, "time, where the vDSO has no clock";
    SYS_rt_sigaction Always, "a fault restores the default action, or it would come again for ever";
    SYS_rt_sigprocmask Always, "start of a thread";
    SYS_rt_sigreturn Always, "return from the handler of a fault";
    SYS_sigaltstack Always, "the stack-overflow handler's stack, one a thread";
    SYS_restart_syscall Always, "a wait that SIGSTOP and SIGCONT interrupted";
    SYS_exit Always, "end of a thread";
    SYS_exit_group Always, "end";
];

const NOT_UNIX: When = Any(&[&[Arg(0, Test::Not(UNIX))]]);
const ANY_NEW_NAMESPACE: When = Any(&[
    &[Arg(0, Test::Set(libc::CLONE_NEWUSER.unsigned_abs()))],
    &[Arg(0, Test::Set(libc::CLONE_NEWNS.unsigned_abs()))],
    &[Arg(0, Test::Set(libc::CLONE_NEWPID.unsigned_abs()))],
    &[Arg(0, Test::Set(libc::CLONE_NEWIPC.unsigned_abs()))],
    &[Arg(0, Test::Set(libc::CLONE_NEWNET.unsigned_abs()))],
    &[Arg(0, Test::Set(libc::CLONE_NEWUTS.unsigned_abs()))],
    &[Arg(0, Test::Set(libc::CLONE_NEWCGROUP.unsigned_abs()))],
]);

/// Of agentd: refused with EPERM, all else is allowed.
pub const DAEMON_REFUSED: &[Rule] = table![
    SYS_socket NOT_UNIX, "the daemon has no network; its own control socket is a Unix socket";
    SYS_execve Always, "the zygote starts whatever is started; recovery is a new process of the service manager";
    SYS_execveat Always, "the same, by descriptor";
    SYS_ptrace Always, "it traces nothing";
    SYS_process_vm_readv Always, "it reads no other process's memory";
    SYS_process_vm_writev Always, "it writes no other process's memory";
    SYS_bpf Always, "kernel attack surface it has no use for";
    SYS_perf_event_open Always, "kernel attack surface it has no use for";
    SYS_userfaultfd Always, "kernel attack surface it has no use for";
    SYS_io_uring_setup Always, "would make sockets past this filter";
    SYS_io_uring_enter Always, "would make sockets past this filter";
    SYS_io_uring_register Always, "would make sockets past this filter";
    SYS_keyctl Always, "kernel keyrings are the operator's";
    SYS_add_key Always, "kernel keyrings are the operator's";
    SYS_request_key Always, "kernel keyrings are the operator's";
    SYS_clone ANY_NEW_NAMESPACE, "namespaces are the zygote's";
    SYS_unshare Always, "namespaces are the zygote's";
    SYS_setns Always, "namespaces are the zygote's";
    SYS_mount Always, "mounts are the zygote's";
    SYS_umount2 Always, "mounts are the zygote's";
    SYS_pivot_root Always, "mounts are the zygote's";
    SYS_chroot Always, "mounts are the zygote's";
    SYS_fsopen Always, "mounts are the zygote's";
    SYS_fsmount Always, "mounts are the zygote's";
    SYS_fsconfig Always, "mounts are the zygote's";
    SYS_fspick Always, "mounts are the zygote's";
    SYS_move_mount Always, "mounts are the zygote's";
    SYS_open_tree Always, "mounts are the zygote's";
    SYS_mount_setattr Always, "mounts are the zygote's";
    SYS_open_by_handle_at Always, "opens files past every path check";
    SYS_init_module Always, "the kernel is the operator's";
    SYS_finit_module Always, "the kernel is the operator's";
    SYS_delete_module Always, "the kernel is the operator's";
    SYS_kexec_load Always, "the machine is the operator's";
    SYS_kexec_file_load Always, "the machine is the operator's";
    SYS_reboot Always, "the machine is the operator's";
    SYS_swapon Always, "the machine is the operator's";
    SYS_swapoff Always, "the machine is the operator's";
    SYS_acct Always, "the machine is the operator's";
    SYS_settimeofday Always, "the clock is the operator's";
    SYS_clock_settime Always, "the clock is the operator's";
    SYS_iopl Always, "hardware is the kernel's";
    SYS_ioperm Always, "hardware is the kernel's";
];

/// A mode that would give whoever executes a file its owner's or group's rights: what a
/// program makes in a granted directory belongs to the directory's owner, who may be root.
const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const MODE_IS_SECOND: When = Any(&[&[Arg(1, Test::Set(SET_UID))], &[Arg(1, Test::Set(SET_GID))]]);
const MODE_IS_THIRD: When = Any(&[&[Arg(2, Test::Set(SET_UID))], &[Arg(2, Test::Set(SET_GID))]]);
const O_CREATE: u32 = libc::O_CREAT.unsigned_abs();
/// `__O_TMPFILE` of asm-generic/fcntl.h.
const O_UNNAMED: u32 = 0o20_000_000;
/// Flags in the second argument, mode in the third; without one of these flags the mode means nothing.
const OPEN_GIVES_RIGHTS: When = Any(&[
    &[Arg(1, Test::Set(O_CREATE)), Arg(2, Test::Set(SET_UID))],
    &[Arg(1, Test::Set(O_CREATE)), Arg(2, Test::Set(SET_GID))],
    &[Arg(1, Test::Set(O_UNNAMED)), Arg(2, Test::Set(SET_UID))],
    &[Arg(1, Test::Set(O_UNNAMED)), Arg(2, Test::Set(SET_GID))],
]);
/// The same, one argument later.
const OPENAT_GIVES_RIGHTS: When = Any(&[
    &[Arg(2, Test::Set(O_CREATE)), Arg(3, Test::Set(SET_UID))],
    &[Arg(2, Test::Set(O_CREATE)), Arg(3, Test::Set(SET_GID))],
    &[Arg(2, Test::Set(O_UNNAMED)), Arg(3, Test::Set(SET_UID))],
    &[Arg(2, Test::Set(O_UNNAMED)), Arg(3, Test::Set(SET_GID))],
]);
/// Any pair but one that stays connected to its other half for good: of streams, or of packets in sequence, over which
/// the standard library of Rust starts programs.
const NOT_A_STREAM_PAIR: When = Any(&[
    &[Arg(0, Test::Not(UNIX))],
    &[Arg(1, Test::Masked(TYPE_MASK, DATAGRAM))],
    &[Arg(1, Test::Masked(TYPE_MASK, 3))],
    &[Arg(1, Test::Masked(TYPE_MASK, 4))],
    &[Arg(1, Test::Masked(TYPE_MASK, 6))],
    &[Arg(1, Test::Masked(TYPE_MASK, 10))],
]);
/// Any socket but one of TCP over IPv4, named or as the default of its type, which is the lowest bit of the type alone.
const NOT_TCP_OVER_IPV4: When = Any(&[
    &[Arg(0, Test::Not(INET))],
    &[Arg(1, Test::Clear(STREAM))],
    &[Arg(1, Test::Set(2))],
    &[Arg(1, Test::Set(4))],
    &[Arg(1, Test::Set(8))],
    &[Arg(2, Test::Not(0)), Arg(2, Test::Not(TCP))],
]);
const ANOTHER_FIRST: When = Any(&[&[Arg(0, Test::Not(0))]]);
const ANOTHER_SECOND: When = Any(&[&[Arg(1, Test::Not(0))]]);
/// `PER_LINUX`, and the number that only asks.
const ANOTHER_PERSONALITY: When = Any(&[&[Arg(0, Test::Not(0)), Arg(0, Test::Not(u32::MAX))]]);
/// `TIOCSTI` and `TIOCLINUX` of asm-generic/ioctls.h.
const TYPING_FOR_OTHERS: When = Any(&[&[Arg(1, Test::Is(0x5412))], &[Arg(1, Test::Is(0x541C))]]);
/// Newer than the `libc` crate; the same number on every architecture.
const OPEN_TREE_ATTR: libc::c_long = 467;

/// Of a program: calls that it finds absent, as on an older kernel, so that libraries fall back to those that a filter
/// can judge. Both take flags by a pointer. `clone3` is absent everywhere.
pub const PROGRAM_ABSENT: &[libc::c_long] = &[libc::SYS_openat2, OPEN_TREE_ATTR];

/// Of a program that has a proxy: refused instead of what [`PROGRAM_REFUSED`] says of [`PROXIED_CALLS`]. Its network
/// namespace holds a loopback interface and one listener, and Landlock lets it connect to that port alone.
pub const PROXIED_REFUSED: &[Rule] = table![
    SYS_socket NOT_TCP_OVER_IPV4, "the proxy is reached by TCP over IPv4, and nothing else is to be reached";
];
/// Calls without which no program reaches its proxy.
pub const PROXIED_CALLS: [libc::c_long; 2] = [libc::SYS_socket, libc::SYS_connect];

/// What a program is refused.
#[must_use]
pub fn program_refused(proxied: bool) -> Vec<Rule> {
    let judged_anew = |rule: &&Rule| proxied && PROXIED_CALLS.contains(&rule.number);
    let kept = PROGRAM_REFUSED.iter().filter(|rule| !judged_anew(rule));
    kept.chain(PROXIED_REFUSED.iter().filter(|_| proxied)).copied().collect()
}

const SET_NON_BLOCKING: When = Any(&[&[Arg(1, Test::Is(NON_BLOCKING))]]);

/// Of the relay between a program and its proxy: allowed, all else answers EPERM.
pub const RELAY: &[Rule] = table![
    SYS_ppoll Always, "waits for connections, bytes and agentd";
    SYS_restart_syscall Always, "a wait that SIGSTOP and SIGCONT interrupted";
    SYS_accept4 Always, "connections of the program";
    SYS_recvmsg Always, "streams to the proxy, from agentd";
    SYS_sendmsg Always, "asks agentd for a stream";
    SYS_ioctl SET_NON_BLOCKING, "a stream to the proxy does not block";
    SYS_read Always, "bytes of either side";
    SYS_sendto Always, "bytes for either side; only on a socket that is connected already";
    SYS_shutdown Always, "a side that says nothing more";
    SYS_close Always, "connections end";
    SYS_write Always, "last words on standard error";
    SYS_brk Always, "buffers of connections";
    SYS_exit_group Always, "end";
];

/// `AT_EMPTY_PATH` of linux/fcntl.h.
const NOT_BY_DESCRIPTOR: When = Any(&[&[Arg(4, Test::Not(0x1000))]]);

/// Of a program that executes nothing else: refused besides. What its sandbox starts is started by its descriptor.
pub const SEALED_REFUSED: &[Rule] = table![
    SYS_execve Always, "whoever names a program to it, in a configuration or in a file, names it in vain";
    SYS_execveat NOT_BY_DESCRIPTOR, "as for execve";
];

/// Of a program: refused with EPERM, all else is allowed.
pub const PROGRAM_REFUSED: &[Rule] = table![
    SYS_socket Always, "a path socket of the machine is reachable from every namespace; there is no network";
    SYS_socketpair NOT_A_STREAM_PAIR, "a datagram half could be connected to a path socket";
    SYS_connect Always, "a pair is connected, and there is no other socket";
    SYS_bind Always, "nobody can connect to it";
    SYS_listen Always, "nobody can connect to it";
    SYS_clone ANY_NEW_NAMESPACE, "a namespace of its own would give it rights over mounts and networks";
    SYS_unshare Always, "as for clone";
    SYS_setns Always, "as for clone";
    SYS_mount Always, "its world is made for it";
    SYS_umount2 Always, "would uncover what is hidden";
    SYS_pivot_root Always, "its world is made for it";
    SYS_chroot Always, "its world is made for it";
    SYS_fsopen Always, "its world is made for it";
    SYS_fsmount Always, "its world is made for it";
    SYS_fsconfig Always, "its world is made for it";
    SYS_fspick Always, "its world is made for it";
    SYS_move_mount Always, "its world is made for it";
    SYS_open_tree Always, "its world is made for it";
    SYS_mount_setattr Always, "its world is made for it";
    SYS_open_by_handle_at Always, "opens files past every path check";
    SYS_name_to_handle_at Always, "of use only with the call above";
    SYS_memfd_create Always, "memory that no limit counts, and that could be executed";
    SYS_memfd_secret Always, "memory that no limit counts";
    SYS_shmget Always, "memory that no limit counts";
    SYS_msgget Always, "memory that no limit counts";
    SYS_semget Always, "memory that no limit counts";
    SYS_chmod MODE_IS_SECOND, "no file gives its owner's rights";
    SYS_fchmod MODE_IS_SECOND, "no file gives its owner's rights";
    SYS_fchmodat MODE_IS_THIRD, "no file gives its owner's rights";
    SYS_fchmodat2 MODE_IS_THIRD, "no file gives its owner's rights";
    SYS_creat MODE_IS_SECOND, "no file gives its owner's rights";
    SYS_open OPEN_GIVES_RIGHTS, "no file gives its owner's rights";
    SYS_openat OPENAT_GIVES_RIGHTS, "no file gives its owner's rights";
    SYS_mknod MODE_IS_SECOND, "no file gives its owner's rights";
    SYS_mknodat MODE_IS_THIRD, "no file gives its owner's rights";
    SYS_ioctl TYPING_FOR_OTHERS, "input of a terminal is its user's";
    SYS_io_uring_setup Always, "would do all this past this filter";
    SYS_io_uring_enter Always, "would do all this past this filter";
    SYS_io_uring_register Always, "would do all this past this filter";
    SYS_bpf Always, "kernel attack surface that programs do without";
    SYS_perf_event_open Always, "kernel attack surface that programs do without";
    SYS_userfaultfd Always, "kernel attack surface that programs do without";
    SYS_fanotify_init Always, "kernel attack surface that programs do without";
    SYS_modify_ldt Always, "kernel attack surface that programs do without";
    SYS_lookup_dcookie Always, "kernel attack surface that programs do without";
    SYS_keyctl Always, "kernel keyrings are the operator's";
    SYS_add_key Always, "kernel keyrings are the operator's";
    SYS_request_key Always, "kernel keyrings are the operator's";
    SYS_prlimit64 ANOTHER_FIRST, "limits of others";
    SYS_sched_setaffinity ANOTHER_FIRST, "scheduling of others";
    SYS_sched_getaffinity ANOTHER_FIRST, "scheduling of others";
    SYS_sched_setscheduler ANOTHER_FIRST, "scheduling of others";
    SYS_sched_getscheduler ANOTHER_FIRST, "scheduling of others";
    SYS_sched_setparam ANOTHER_FIRST, "scheduling of others";
    SYS_sched_getparam ANOTHER_FIRST, "scheduling of others";
    SYS_sched_setattr ANOTHER_FIRST, "scheduling of others";
    SYS_sched_getattr ANOTHER_FIRST, "scheduling of others";
    SYS_sched_rr_get_interval ANOTHER_FIRST, "scheduling of others";
    SYS_setpriority ANOTHER_SECOND, "scheduling of others";
    SYS_ioprio_set ANOTHER_SECOND, "scheduling of others";
    SYS_migrate_pages ANOTHER_FIRST, "memory of others";
    SYS_move_pages ANOTHER_FIRST, "memory of others";
    SYS_kcmp Always, "tells about the kernel's memory";
    SYS_personality ANOTHER_PERSONALITY, "turns protections of memory off";
    SYS_syslog Always, "tells about the kernel's memory";
    SYS_quotactl Always, "the machine is the operator's";
    SYS_quotactl_fd Always, "the machine is the operator's";
    SYS_init_module Always, "the kernel is the operator's";
    SYS_finit_module Always, "the kernel is the operator's";
    SYS_delete_module Always, "the kernel is the operator's";
    SYS_kexec_load Always, "the machine is the operator's";
    SYS_kexec_file_load Always, "the machine is the operator's";
    SYS_reboot Always, "the machine is the operator's";
    SYS_swapon Always, "the machine is the operator's";
    SYS_swapoff Always, "the machine is the operator's";
    SYS_acct Always, "the machine is the operator's";
    SYS_vhangup Always, "the machine is the operator's";
    SYS_settimeofday Always, "the clock is the operator's";
    SYS_clock_settime Always, "the clock is the operator's";
    SYS_adjtimex Always, "the clock is the operator's";
    SYS_clock_adjtime Always, "the clock is the operator's";
    SYS_iopl Always, "hardware is the kernel's";
    SYS_ioperm Always, "hardware is the kernel's";
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{
        DAEMON_REFUSED, GATEWAY, MODEL, PROGRAM_ABSENT, PROGRAM_REFUSED, PROXIED_CALLS, RELAY,
        SEALED_REFUSED, WORKER, program_refused,
    };
    use crate::filter::{Filter, Meaning};

    #[test]
    fn each_call_stands_once_and_with_a_reason() {
        let proxied = program_refused(true);
        let others = [DAEMON_REFUSED, PROGRAM_REFUSED, &proxied, RELAY, SEALED_REFUSED];
        for table in [WORKER, GATEWAY, MODEL].into_iter().chain(others) {
            let numbers: BTreeSet<_> = table.iter().map(|rule| rule.number).collect();
            assert_eq!(numbers.len(), table.len());
            assert!(table.iter().all(|rule| rule.reason.len() >= 3), "a reason for each");
        }
    }

    #[test]
    fn what_a_program_finds_absent_is_not_judged_besides() {
        let judged = |number: &libc::c_long| PROGRAM_REFUSED.iter().any(|rule| rule.number == *number);
        assert!(!PROGRAM_ABSENT.iter().any(judged));
    }

    #[test]
    fn with_a_proxy_a_program_is_refused_all_else_as_without_one() {
        let others = |proxied| {
            let mut rules = program_refused(proxied);
            rules.retain(|rule| !PROXIED_CALLS.contains(&rule.number));
            rules
        };
        assert_eq!(program_refused(false), PROGRAM_REFUSED);
        assert_eq!(others(true), others(false));
        assert_eq!(program_refused(true).len(), PROGRAM_REFUSED.len() - 1, "connect alone is not refused");
    }

    #[test]
    fn no_call_of_the_worker_takes_a_path_or_makes_a_process_or_socket() {
        const FORBIDDEN: &[&str] = &[
            "open", "creat", "stat", "link", "access", "chmod", "chown", "utime", "xattr", "chdir", "chroot",
            "mkdir", "rename", "mknod", "mount", "exec", "fork", "clone", "socket", "connect", "bind",
            "accept", "ptrace", "kill", "prctl", "ioctl", "unshare", "setns", "memfd", "dup", "handle",
        ];
        for rule in WORKER {
            let name = rule.name.trim_start_matches("SYS_");
            assert!(!FORBIDDEN.iter().any(|word| name.contains(word)), "{name}");
        }
    }

    #[test]
    fn a_model_may_do_what_a_worker_may_and_run_threads_and_nothing_else() {
        let threads = [
            "pread64",
            "mprotect",
            "madvise",
            "clone",
            "set_robust_list",
            "rseq",
            "prctl",
            "sched_getaffinity",
            "sched_yield",
            "clock_gettime",
            "rt_sigprocmask",
            "sigaltstack",
            "restart_syscall",
            "exit",
        ];
        let worker: BTreeSet<_> = WORKER.iter().map(|rule| rule.name.trim_start_matches("SYS_")).collect();
        let model: BTreeSet<_> = MODEL.iter().map(|rule| rule.name.trim_start_matches("SYS_")).collect();
        let more: BTreeSet<_> = model.difference(&worker).copied().collect();
        assert_eq!(more, threads.into_iter().collect());
        let fewer: Vec<_> = worker.difference(&model).copied().collect();
        assert_eq!(fewer, ["getdents64", "lseek", "read"], "it is handed no directory and reads at places");
    }

    #[test]
    fn tables_compile_and_differ_in_their_hashes() {
        let worker = Filter::compile(WORKER, Meaning::AllowList).expect("compiles");
        let gateway = Filter::compile(GATEWAY, Meaning::AllowList).expect("compiles");
        let again = Filter::compile(WORKER, Meaning::AllowList).expect("compiles");
        assert_eq!(worker.hash(), again.hash());
        assert_ne!(worker.hash(), gateway.hash());
        assert_eq!(worker.hash().len(), 64);
    }
}
