//! A machine that gives no namespaces, made of one that does.
//!
//! Invariant: whatever this process starts inherits it, a zygote too.

/// Every call that would make a namespace answers EPERM from here on, in this process and in all that it starts.
#[expect(unsafe_code, reason = "seccomp has no safe interface")]
pub(crate) fn refuse_namespaces() {
    const LOAD: u16 = 0x20;
    const IF_EQUAL: u16 = 0x15;
    const IF_ANY_BIT: u16 = 0x45;
    const RETURN: u16 = 0x06;
    const NAMESPACES: u32 = 0x7e02_0000;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let number = |call: libc::c_long| u32::try_from(call).expect("a small number");
    let answer = |errno: i32| libc::SECCOMP_RET_ERRNO | errno.unsigned_abs();
    let mut program = [
        step(LOAD, 0, 0, 0),
        step(IF_EQUAL, 6, 0, number(libc::SYS_unshare)),
        step(IF_EQUAL, 4, 0, number(libc::SYS_clone3)),
        step(IF_EQUAL, 0, 2, number(libc::SYS_clone)),
        // The low half of the first argument.
        step(LOAD, 0, 0, 16),
        step(IF_ANY_BIT, 2, 0, NAMESPACES),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        step(RETURN, 0, 0, answer(libc::ENOSYS)),
        step(RETURN, 0, 0, answer(libc::EPERM)),
    ];
    let length = u16::try_from(program.len()).expect("short");
    let filter = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SAFETY: plain numbers, and a program that outlives the call, which copies it.
    let (first, second) = unsafe {
        (
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter),
        )
    };
    assert_eq!((first, second), (0, 0), "the kernel takes the filter");
}
