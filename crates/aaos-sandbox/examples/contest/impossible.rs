//! What no process of a user can do here, confined or not: the cases that have no control.
//!
//! Invariant: the run fails for a case that stands here and succeeds, and for one that fails and does not
//! stand here.

/// Who cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// An ordinary user.
    User,
    /// Root.
    Root,
}

/// One case without a control.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Impossible {
    pub(crate) who: &'static [Who],
    pub(crate) case: &'static str,
    /// What the kernel answers.
    pub(crate) answer: &'static str,
    /// Why nobody of that kind can here.
    pub(crate) reason: &'static str,
}

macro_rules! impossible {
    ($($who:ident $case:literal $answer:literal, $reason:literal;)*) => {
        &[$(Impossible { who: $who, case: $case, answer: $answer, reason: $reason }),*]
    };
}

const ANYBODY: &[Who] = &[Who::User, Who::Root];
const USER: &[Who] = &[Who::User];

/// All of them, on the machine where the suite is run for every change.
pub(crate) const IMPOSSIBLE: &[Impossible] = impossible![
    ANYBODY "kernel cryptography" "EAFNOSUPPORT", "the kernel was built without it";
    ANYBODY "hardware ports" "ENOSYS", "the kernel was built without it";
    ANYBODY "load a module" "ENOSYS", "the kernel was built without modules";
    USER "make a device node" "EPERM", "needs CAP_MKNOD";
    USER "mount" "EPERM", "needs CAP_SYS_ADMIN; `mount with own users` is the way of an ordinary user";
    USER "fsopen" "EPERM", "needs CAP_SYS_ADMIN";
    USER "clone a mount" "EPERM", "needs CAP_SYS_ADMIN";
    USER "open by handle" "EPERM", "needs CAP_DAC_READ_SEARCH";
    USER "open by a handed file's handle" "EPERM", "needs CAP_DAC_READ_SEARCH";
    USER "open a sysctl for writing" "EACCES", "belongs to root";
    USER "chroot" "EPERM", "needs CAP_SYS_CHROOT";
    USER "pivot_root" "EPERM", "needs CAP_SYS_ADMIN";
    USER "become root again" "EPERM", "was never root";
    USER "unshare mounts" "EPERM", "needs CAP_SYS_ADMIN";
    USER "enter a namespace" "EPERM", "needs CAP_SYS_ADMIN";
    USER "raw socket" "EPERM", "needs CAP_NET_RAW";
    USER "packet socket" "EPERM", "needs CAP_NET_RAW";
    USER "bpf" "EPERM", "kernel.unprivileged_bpf_disabled";
    USER "userfaultfd" "EPERM", "vm.unprivileged_userfaultfd";
    USER "read the kernel's log" "EPERM", "kernel.dmesg_restrict";
    USER "set the clock" "EPERM", "needs CAP_SYS_TIME";
    USER "rename the host" "EPERM", "needs CAP_SYS_ADMIN";
    USER "gain a uid by a set-uid program" "no such program", "only root can make one that is another's";
];

/// What the caller knows of another machine than the table's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Here {
    /// Cases without a control, and what the kernel answers.
    pub(crate) impossible: Vec<(String, String)>,
    /// Cases that have one.
    pub(crate) possible: Vec<String>,
}

impl Here {
    /// What a case answers without confinement where it has no control, and why.
    pub(crate) fn answer(&self, who: Who, case: &str) -> Option<(&str, &'static str)> {
        let told = self.impossible.iter().find(|(name, _)| name == case);
        if let Some((_, answer)) = told {
            return Some((answer, "this machine cannot, as its caller knows"));
        }
        let entry = IMPOSSIBLE.iter().find(|one| one.who.contains(&who) && one.case == case);
        entry.filter(|_| !self.possible.iter().any(|name| name == case)).map(|one| (one.answer, one.reason))
    }
}
