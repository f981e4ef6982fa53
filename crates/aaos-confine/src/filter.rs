//! Seccomp filters, compiled from the tables of [`crate::tables`].
//!
//! Invariants: a call of another architecture kills the process; a number of the x32 ABI, under which every
//! call has a second name that no table knows, answers EPERM; `clone3`, whose flags no filter can read, always
//! answers ENOSYS so that libc falls back to `clone`; what a table does not decide is decided by its default.

use std::io;

use libc::sock_filter;

use crate::bpf::{Answer, Decisions, assemble};
use crate::sys::answer;

/// A test of one argument's low 32 bits, which is all that the kernel reads of the arguments in the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// Equals.
    Is(u32),
    /// Differs.
    Not(u32),
    /// None of these bits is set.
    Clear(u32),
    /// All of these bits are set.
    Set(u32),
    /// The bits under the mask equal the value.
    Masked(u32, u32),
}

/// A test of the argument with this index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arg(pub u8, pub Test);

/// When a rule applies to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Always.
    Always,
    /// When every test of any one row holds.
    Any(&'static [&'static [Arg]]),
}

/// One system call, one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Its number.
    pub number: libc::c_long,
    /// Its name.
    pub name: &'static str,
    /// When the rule applies.
    pub when: When,
    /// Why it is in the table.
    pub reason: &'static str,
}

/// What a table means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// What matches is allowed; all else answers EPERM.
    AllowList,
    /// What matches answers EPERM; all else is allowed.
    DenyList,
}

/// A compiled filter and its hash.
#[derive(Debug, Clone)]
pub struct Filter {
    program: Vec<sock_filter>,
    hash: String,
}

impl Filter {
    pub(crate) fn compile(table: &[Rule], meaning: Meaning) -> io::Result<Self> {
        Self::compile_without(table, meaning, &[])
    }

    /// The same, with further calls that answer as on a kernel that lacks them.
    pub(crate) fn compile_without(
        table: &[Rule],
        meaning: Meaning,
        absent: &[libc::c_long],
    ) -> io::Result<Self> {
        let refused = Answer::errno(libc::EPERM);
        let (matched, other) = match meaning {
            Meaning::AllowList => (Answer::ALLOW, refused),
            Meaning::DenyList => (refused, Answer::ALLOW),
        };
        let absent: Vec<_> = absent.iter().copied().chain([libc::SYS_clone3]).collect();
        let program = assemble(&Decisions { rules: table, matched, other, absent: &absent })?;
        let hash = hash_of(&program);
        Ok(Self { program, hash })
    }

    /// BLAKE3 of the program's bytes, hexadecimal.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Puts the calling thread under it, for good. Needs `no_new_privs`.
    pub(crate) fn install(&self) -> io::Result<()> {
        let length = u16::try_from(self.program.len()).map_err(io::Error::other)?;
        let program = SockProgram { length, filter: self.program.as_ptr() };
        let mode = libc::SECCOMP_SET_MODE_FILTER;
        // SAFETY: the program is as long as it says and outlives the call, which copies it.
        answer(unsafe { libc::syscall(libc::SYS_seccomp, mode, 0_usize, &raw const program) }).map(drop)
    }
}

/// `struct sock_fprog` of linux/filter.h.
#[repr(C)]
struct SockProgram {
    length: u16,
    filter: *const sock_filter,
}

fn hash_of(program: &[sock_filter]) -> String {
    let mut hasher = blake3::Hasher::new();
    for step in program {
        hasher.update(&step.code.to_le_bytes());
        hasher.update(&[step.jt, step.jf]);
        hasher.update(&step.k.to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::{Filter, Meaning};
    use crate::privilege::set_no_new_privs;
    use crate::sys::in_child;
    use crate::tables::{
        DAEMON_REFUSED, GATEWAY, PROGRAM_ABSENT, PROGRAM_REFUSED, RELAY, SEALED_REFUSED, WORKER,
        program_refused,
    };

    /// The error number of a call, 0 for success.
    fn errno(result: libc::c_long) -> i32 {
        if result >= 0 { 0 } else { std::io::Error::last_os_error().raw_os_error().unwrap_or(-1) }
    }

    fn map(protection: i32) -> i32 {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping.
        errno(unsafe { libc::syscall(libc::SYS_mmap, 0_usize, 4096, protection, flags, -1, 0) })
    }

    fn clone3() -> i32 {
        // SAFETY: an empty argument is refused, by the kernel with EINVAL.
        errno(unsafe { libc::syscall(libc::SYS_clone3, 0_usize, 0_usize) })
    }

    fn clone_thread_in_new_namespace() -> i32 {
        let flags = libc::CLONE_THREAD | libc::CLONE_NEWUSER;
        // SAFETY: the kernel refuses this combination with EINVAL where a filter does not.
        errno(unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) })
    }

    fn stat_by_path() -> i32 {
        let mut into = std::mem::MaybeUninit::<libc::stat>::uninit();
        // SAFETY: path and buffer outlive the call.
        errno(unsafe {
            libc::syscall(libc::SYS_newfstatat, libc::AT_FDCWD, c"/".as_ptr(), into.as_mut_ptr(), 0)
        })
    }

    fn stat_by_descriptor() -> i32 {
        let mut into = std::mem::MaybeUninit::<libc::stat>::uninit();
        // SAFETY: the buffer outlives the call.
        errno(unsafe { libc::syscall(libc::SYS_fstat, 0, into.as_mut_ptr()) })
    }

    fn duplicate() -> i32 {
        // SAFETY: the descriptor is never used; the child ends.
        errno(unsafe { libc::syscall(libc::SYS_fcntl, 0, libc::F_DUPFD_CLOEXEC, 3) })
    }

    fn raw_socket(family: i32, kind: i32) -> i32 {
        socket_of(family, kind, 0)
    }

    fn socket_of(family: i32, kind: i32, protocol: i32) -> i32 {
        // SAFETY: plain numbers.
        errno(unsafe { libc::syscall(libc::SYS_socket, family, kind, protocol) })
    }

    /// Whether a filter refuses `getpid` under its number in the x32 ABI, which the kernel never answers with
    /// EPERM: it runs it, or has no such ABI.
    fn x32_is_refused() -> i32 {
        // SAFETY: takes nothing.
        i32::from(errno(unsafe { libc::syscall(libc::SYS_getpid | 0x4000_0000) }) == libc::EPERM)
    }

    fn execute_nothing() -> i32 {
        let nothing: [*const libc::c_char; 1] = [std::ptr::null()];
        let path = c"/nonexistent".as_ptr();
        // SAFETY: path and arrays outlive the call, which finds no program.
        errno(unsafe { libc::syscall(libc::SYS_execve, path, nothing.as_ptr(), nothing.as_ptr()) })
    }

    fn execute_a_descriptor() -> i32 {
        let nothing: [*const libc::c_char; 1] = [std::ptr::null()];
        let (path, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
        // SAFETY: path and arrays outlive the call, which finds no program behind a closed descriptor.
        errno(unsafe {
            libc::syscall(libc::SYS_execveat, 1000, path, nothing.as_ptr(), nothing.as_ptr(), flags)
        })
    }

    fn execute_below_a_descriptor() -> i32 {
        let nothing: [*const libc::c_char; 1] = [std::ptr::null()];
        let path = c"nonexistent".as_ptr();
        // SAFETY: path and arrays outlive the call, which finds no program below a closed descriptor.
        errno(unsafe { libc::syscall(libc::SYS_execveat, 1000, path, nothing.as_ptr(), nothing.as_ptr(), 0) })
    }

    fn pair(kind: i32) -> i32 {
        let mut pair = [-1_i32; 2];
        // SAFETY: the pair outlives the call; its descriptors end with the child.
        errno(unsafe { libc::syscall(libc::SYS_socketpair, libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) })
    }

    /// A call and the error number it must answer.
    type Expected = (fn() -> i32, i32);

    /// Number of the first expectation that fails under a filter, 0 if none does.
    fn first_wrong(filter: Option<&Filter>, expected: &[Expected]) -> u8 {
        // SAFETY: the child allocates nothing: it makes raw calls and compares numbers.
        let result = unsafe {
            in_child(|| {
                if let Some(filter) = filter
                    && (set_no_new_privs().is_err() || filter.install().is_err())
                {
                    return 100;
                }
                let wrong = expected.iter().position(|(call, errno)| call() != *errno);
                wrong.map_or(0, |place| u8::try_from(place + 1).unwrap_or(101))
            })
        };
        result.expect("a child")
    }

    /// `IPPROTO_UDPLITE` of linux/in.h.
    const UDP_LITE: i32 = 136;
    const EXECUTABLE: i32 = libc::PROT_READ | libc::PROT_EXEC;

    #[test]
    fn without_a_filter_the_kernel_answers() {
        let expected: &[Expected] = &[
            (|| map(EXECUTABLE), 0),
            (clone3, libc::EINVAL),
            (clone_thread_in_new_namespace, libc::EINVAL),
            (stat_by_path, 0),
            (stat_by_descriptor, 0),
            (duplicate, 0),
            (|| raw_socket(libc::AF_UNIX, libc::SOCK_STREAM), 0),
            (|| raw_socket(libc::AF_NETLINK, libc::SOCK_RAW), 0),
            (|| pair(libc::SOCK_DGRAM), 0),
            (|| pair(libc::SOCK_RAW), 0),
            (|| pair(libc::SOCK_SEQPACKET), 0),
            (|| socket_of(libc::AF_INET, libc::SOCK_DGRAM, UDP_LITE), 0),
            (x32_is_refused, 0),
            (execute_nothing, libc::ENOENT),
            (execute_a_descriptor, libc::EBADF),
        ];
        assert_eq!(first_wrong(None, expected), 0);
    }

    #[test]
    fn a_worker_has_heap_and_descriptors_and_nothing_else() {
        let filter = Filter::compile(WORKER, Meaning::AllowList).expect("compiles");
        let expected: &[Expected] = &[
            (|| map(libc::PROT_READ | libc::PROT_WRITE), 0),
            (|| map(EXECUTABLE), libc::EPERM),
            (clone3, libc::ENOSYS),
            (clone_thread_in_new_namespace, libc::EPERM),
            (stat_by_path, libc::EPERM),
            (stat_by_descriptor, libc::EPERM),
            (duplicate, libc::EPERM),
            (|| raw_socket(libc::AF_UNIX, libc::SOCK_STREAM), libc::EPERM),
            (|| raw_socket(libc::AF_INET, libc::SOCK_STREAM), libc::EPERM),
            (|| pair(libc::SOCK_STREAM), libc::EPERM),
        ];
        assert_eq!(first_wrong(Some(&filter), expected), 0);
    }

    #[test]
    fn a_gateway_has_internet_sockets_and_no_others() {
        let filter = Filter::compile(GATEWAY, Meaning::AllowList).expect("compiles");
        let expected: &[Expected] = &[
            (|| raw_socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC), 0),
            (|| raw_socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK), 0),
            (|| raw_socket(libc::AF_INET, libc::SOCK_RAW), libc::EPERM),
            (|| socket_of(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP), 0),
            (|| socket_of(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDP), 0),
            (|| socket_of(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP), libc::EPERM),
            (|| socket_of(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP), libc::EPERM),
            (|| socket_of(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP), libc::EPERM),
            (|| socket_of(libc::AF_INET, libc::SOCK_DGRAM, UDP_LITE), libc::EPERM),
            (|| socket_of(libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_MPTCP), libc::EPERM),
            (x32_is_refused, 1),
            (|| raw_socket(libc::AF_UNIX, libc::SOCK_STREAM), libc::EPERM),
            (|| raw_socket(libc::AF_NETLINK, libc::SOCK_RAW), libc::EPERM),
            (|| pair(libc::SOCK_STREAM), 0),
            (|| pair(libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK), 0),
            (|| pair(libc::SOCK_DGRAM), libc::EPERM),
            (|| pair(libc::SOCK_DGRAM | libc::SOCK_CLOEXEC), libc::EPERM),
            (|| pair(libc::SOCK_RAW), libc::EPERM),
            (|| pair(libc::SOCK_SEQPACKET), libc::EPERM),
            (|| map(EXECUTABLE), libc::EPERM),
            (clone3, libc::ENOSYS),
            (clone_thread_in_new_namespace, libc::EPERM),
            (stat_by_path, libc::EPERM),
        ];
        assert_eq!(first_wrong(Some(&filter), expected), 0);
    }

    fn make_mode(mode: libc::mode_t) -> i32 {
        // SAFETY: a constant path; the file is not there.
        errno(unsafe { libc::syscall(libc::SYS_chmod, c"/nonexistent".as_ptr(), mode) })
    }

    fn open_as(flags: i32, mode: libc::mode_t) -> i32 {
        let path = c"/nonexistent/file";
        // SAFETY: a constant path, which leads nowhere.
        errno(unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, mode) })
    }

    fn openat2() -> i32 {
        // SAFETY: an empty description is refused, by the kernel with EINVAL.
        errno(unsafe { libc::syscall(libc::SYS_openat2, libc::AT_FDCWD, c"/".as_ptr(), 0_usize, 0_usize) })
    }

    fn memfd() -> i32 {
        // SAFETY: a constant name; the descriptor ends with the child.
        errno(unsafe { libc::syscall(libc::SYS_memfd_create, c"x".as_ptr(), 0) })
    }

    fn push_input() -> i32 {
        const TIOCSTI: u32 = 0x5412;
        // SAFETY: the byte outlives the call; the descriptor is none.
        errno(unsafe { libc::syscall(libc::SYS_ioctl, -1, TIOCSTI, c"x".as_ptr()) })
    }

    fn affinity_of(pid: i32) -> i32 {
        let mut mask = [0_u64; 128];
        let size = size_of_val(&mask);
        // SAFETY: the mask outlives the call and is as long as said.
        errno(unsafe { libc::syscall(libc::SYS_sched_getaffinity, pid, size, mask.as_mut_ptr()) })
    }

    fn personality(wanted: u32) -> i32 {
        // SAFETY: a plain number.
        errno(unsafe { libc::syscall(libc::SYS_personality, wanted) })
    }

    /// A call, what the kernel alone answers to it, and what a filter makes of that.
    type Filtered = (fn() -> i32, i32, i32);

    /// Calls that a program's filter refuses or lets pass.
    const PROGRAM_CALLS: &[Filtered] = &[
        (|| raw_socket(libc::AF_UNIX, libc::SOCK_STREAM), 0, libc::EPERM),
        (|| raw_socket(libc::AF_INET, libc::SOCK_STREAM), 0, libc::EPERM),
        (|| pair(libc::SOCK_STREAM | libc::SOCK_CLOEXEC), 0, 0),
        (|| pair(libc::SOCK_DGRAM), 0, libc::EPERM),
        (|| pair(libc::SOCK_RAW | libc::SOCK_CLOEXEC), 0, libc::EPERM),
        (|| pair(libc::SOCK_SEQPACKET), 0, 0),
        (clone3, libc::EINVAL, libc::ENOSYS),
        (openat2, libc::EINVAL, libc::ENOSYS),
        (clone_thread_in_new_namespace, libc::EINVAL, libc::EPERM),
        (memfd, 0, libc::EPERM),
        (push_input, libc::EBADF, libc::EPERM),
        (|| make_mode(0o4755), libc::ENOENT, libc::EPERM),
        (|| make_mode(0o2755), libc::ENOENT, libc::EPERM),
        (|| make_mode(0o1777), libc::ENOENT, libc::ENOENT),
        (|| open_as(libc::O_CREAT | libc::O_WRONLY, 0o4755), libc::ENOENT, libc::EPERM),
        (|| open_as(libc::O_CREAT | libc::O_WRONLY, 0o2755), libc::ENOENT, libc::EPERM),
        (|| open_as(libc::O_TMPFILE | libc::O_WRONLY, 0o4755), libc::ENOENT, libc::EPERM),
        (|| open_as(libc::O_RDONLY, 0o6000), libc::ENOENT, libc::ENOENT),
        (|| open_as(libc::O_CREAT | libc::O_WRONLY, 0o644), libc::ENOENT, libc::ENOENT),
        (|| affinity_of(0), 0, 0),
        (|| affinity_of(i32::MAX), libc::ESRCH, libc::EPERM),
        (|| personality(u32::MAX), 0, 0),
        (|| personality(0x0004_0000), 0, libc::EPERM),
        (stat_by_path, 0, 0),
        (|| map(EXECUTABLE), 0, 0),
        (x32_is_refused, 0, 1),
    ];

    #[test]
    fn a_program_loses_what_leads_out_of_its_sandbox_and_keeps_the_rest() {
        let filter = Filter::compile_without(PROGRAM_REFUSED, Meaning::DenyList, PROGRAM_ABSENT);
        let filter = filter.expect("compiles");
        let outside: Vec<Expected> = PROGRAM_CALLS.iter().map(|(call, kernel, _)| (*call, *kernel)).collect();
        let inside: Vec<Expected> =
            PROGRAM_CALLS.iter().map(|(call, _, filtered)| (*call, *filtered)).collect();
        assert_eq!(first_wrong(None, &outside), 0, "the control");
        assert_eq!(first_wrong(Some(&filter), &inside), 0);
    }

    fn connect_nothing() -> i32 {
        let nowhere = [0_u8; 16];
        // SAFETY: the address outlives the call; the descriptor is none.
        errno(unsafe { libc::syscall(libc::SYS_connect, -1, nowhere.as_ptr(), nowhere.len()) })
    }

    fn listen_nowhere() -> i32 {
        // SAFETY: plain numbers; the descriptor is none.
        errno(unsafe { libc::syscall(libc::SYS_listen, -1, 1) })
    }

    /// Sockets, and what is made of them behind the filter of a program that has a proxy.
    const SOCKET_CALLS: &[Filtered] = &[
        (|| raw_socket(libc::AF_INET, libc::SOCK_STREAM), 0, 0),
        (|| raw_socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK), 0, 0),
        (|| socket_of(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP), 0, 0),
        (connect_nothing, libc::EBADF, libc::EBADF),
        (listen_nowhere, libc::EBADF, libc::EPERM),
        (|| socket_of(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP), 0, libc::EPERM),
        (|| raw_socket(libc::AF_INET, libc::SOCK_DGRAM), 0, libc::EPERM),
        (|| raw_socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC), 0, libc::EPERM),
        (|| raw_socket(libc::AF_INET, libc::SOCK_SEQPACKET), libc::ESOCKTNOSUPPORT, libc::EPERM),
        (|| raw_socket(libc::AF_UNIX, libc::SOCK_STREAM), 0, libc::EPERM),
        (|| raw_socket(libc::AF_NETLINK, libc::SOCK_RAW), 0, libc::EPERM),
        (|| pair(libc::SOCK_STREAM), 0, 0),
        (|| pair(libc::SOCK_DGRAM), 0, libc::EPERM),
        (memfd, 0, libc::EPERM),
    ];

    #[test]
    fn a_program_with_a_proxy_has_sockets_of_tcp_over_ipv4_and_no_others() {
        let filter = Filter::compile_without(&program_refused(true), Meaning::DenyList, PROGRAM_ABSENT);
        let filter = filter.expect("compiles");
        let outside: Vec<Expected> = SOCKET_CALLS.iter().map(|(call, kernel, _)| (*call, *kernel)).collect();
        let inside: Vec<Expected> =
            SOCKET_CALLS.iter().map(|(call, _, filtered)| (*call, *filtered)).collect();
        assert_eq!(first_wrong(None, &outside), 0, "the control");
        assert_eq!(first_wrong(Some(&filter), &inside), 0);
    }

    #[test]
    fn a_relay_moves_bytes_and_makes_no_socket_process_or_program() {
        let filter = Filter::compile(RELAY, Meaning::AllowList).expect("compiles");
        let expected: &[Expected] = &[
            (|| map(libc::PROT_READ | libc::PROT_WRITE), libc::EPERM),
            (|| map(EXECUTABLE), libc::EPERM),
            (|| raw_socket(libc::AF_INET, libc::SOCK_STREAM), libc::EPERM),
            (|| pair(libc::SOCK_STREAM), libc::EPERM),
            (connect_nothing, libc::EPERM),
            (clone3, libc::ENOSYS),
            (clone_thread_in_new_namespace, libc::EPERM),
            (execute_nothing, libc::EPERM),
            (execute_a_descriptor, libc::EPERM),
            (stat_by_path, libc::EPERM),
            (duplicate, libc::EPERM),
        ];
        assert_eq!(first_wrong(Some(&filter), expected), 0);
    }

    #[test]
    fn a_sealed_program_executes_nothing_but_what_its_sandbox_starts() {
        let table = [PROGRAM_REFUSED, SEALED_REFUSED].concat();
        let filter = Filter::compile_without(&table, Meaning::DenyList, PROGRAM_ABSENT).expect("compiles");
        let sealed: &[Expected] = &[
            (execute_nothing, libc::EPERM),
            (execute_a_descriptor, libc::EBADF),
            (execute_below_a_descriptor, libc::EPERM),
            (|| map(EXECUTABLE), 0),
        ];
        assert_eq!(first_wrong(Some(&filter), sealed), 0);
        let free: &[Expected] = &[(execute_nothing, libc::ENOENT), (execute_below_a_descriptor, libc::EBADF)];
        assert_eq!(first_wrong(None, free), 0, "the control");
    }

    #[test]
    fn the_daemon_keeps_files_and_unix_sockets_and_loses_the_network() {
        let filter = Filter::compile(DAEMON_REFUSED, Meaning::DenyList).expect("compiles");
        let expected: &[Expected] = &[
            (stat_by_path, 0),
            (duplicate, 0),
            (|| map(EXECUTABLE), 0),
            (x32_is_refused, 1),
            (|| raw_socket(libc::AF_UNIX, libc::SOCK_STREAM), 0),
            (|| raw_socket(libc::AF_INET, libc::SOCK_STREAM), libc::EPERM),
            (|| raw_socket(libc::AF_INET6, libc::SOCK_DGRAM), libc::EPERM),
            (|| raw_socket(libc::AF_NETLINK, libc::SOCK_RAW), libc::EPERM),
            (|| raw_socket(libc::AF_VSOCK, libc::SOCK_STREAM), libc::EPERM),
            (clone3, libc::ENOSYS),
            (clone_thread_in_new_namespace, libc::EPERM),
            (execute_nothing, libc::EPERM),
            (execute_a_descriptor, libc::EPERM),
        ];
        assert_eq!(first_wrong(Some(&filter), expected), 0);
    }
}
