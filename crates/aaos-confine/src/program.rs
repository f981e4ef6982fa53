//! A program sandbox, from a fresh child of the zygote to the end of the program and of all that it started.
//!
//! Invariants: this process is the first of its own PID namespace: it reaps, and with it everything in the sandbox
//! ends. It locks itself before anything else is executed, and the program inherits all of the lock-down. Its memory
//! can be read by nothing in the sandbox. Nothing is executed before agentd has read the lock-down back. Of the program
//! it tells its exit status and the text of what it wrote.

use std::borrow::Cow;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aaos_core::confinement::{Boundary, LockedReport};
use aaos_core::program::{Executes, PROGRAM_DESCRIPTORS, PROGRAM_PIPE_ENDS, ProgramPlan, ProgramReply};

use crate::channel::Channel;
use crate::domain::{Allowed, Draft, Reach};
use crate::filter::{Filter, Meaning};
use crate::loopback;
use crate::mounts::{Executed, Unchangeable};
use crate::namespaces::{Identity, NamespaceSet, ProcSelf, enter_user_namespace, write_maps};
use crate::privilege::{become_uid, die_with_parent};
use crate::probe::{another_port, program_probes};
use crate::program_ground::Ground;
use crate::program_start::{ForProgram, Pipes, Waiting};
use crate::program_world::{Granted, IdMaps};
use crate::relay::start_relay;
use crate::rlimits::{self, PROGRAM_LIMITS};
use crate::sys::{AtStep, LockError};
use crate::tables::{PROGRAM_ABSENT, SEALED_REFUSED, program_refused};
use crate::worker::{enter_drafted, give_up_privilege};

/// Without these there is no program sandbox.
pub const PROGRAM_NAMESPACES: [Boundary; 4] =
    [Boundary::UserNamespace, Boundary::MountNamespace, Boundary::PidNamespace, Boundary::NetNamespace];
/// How much sooner than anything else the machine is to end a program when memory runs out.
const OOM_SCORE: &str = "500";

/// What the zygote knows when it makes a program sandbox.
#[derive(Debug)]
pub(crate) struct ProgramMaker<'a> {
    /// The uid to take; `None` where the caller is not root.
    pub(crate) own_uid: Option<u32>,
    /// Namespaces that it is to be in when it is locked.
    pub(crate) namespaces: NamespaceSet,
    /// Who the zygote is.
    pub(crate) zygote: Identity,
    /// What `getppid` answers in it as long as the zygote lives.
    pub(crate) parent: u32,
    /// The compiled table, for programs without a proxy.
    pub(crate) filter: &'a Filter,
}

/// Compiles the table of programs that may execute this.
///
/// # Errors
/// Never for the table of this version.
pub(crate) fn program_filter(proxied: bool, executes: Executes) -> io::Result<Filter> {
    let mut table = program_refused(proxied);
    match executes {
        Executes::Shown => {}
        Executes::Nothing => table.extend_from_slice(SEALED_REFUSED),
    }
    Filter::compile_without(&table, Meaning::DenyList, PROGRAM_ABSENT)
}

/// What is executed, and the script that it reads: by mounts that are read-only. Agentd opened them on the machine's
/// own, through which their owner could change their modes, whatever else is refused.
struct Own {
    program: OwnedFd,
    script: Option<OwnedFd>,
}

/// What came with the plan.
struct Handed {
    plan: ProgramPlan,
    program: OwnedFd,
    stdin: OwnedFd,
    /// Where the program's process waits until it may be the program.
    go: OwnedFd,
    script: Option<OwnedFd>,
    doorbell: Option<OwnedFd>,
    shared: Vec<OwnedFd>,
}

/// What a sandbox is once it is locked.
struct Locked {
    report: LockedReport,
    own: Own,
    pipes: Pipes,
    /// Of the proxy, where there is one.
    listener: Option<OwnedFd>,
}

/// Builds the sandbox, runs its one program and tells how that ended. What is the same for every program is built before
/// the plan is waited for. When it returns, the caller exits, which ends whatever the program left running.
///
/// # Errors
/// Names the step of the lock-down that failed; nothing was executed.
pub(crate) fn serve_program(maker: &ProgramMaker<'_>, channel: &Channel) -> Result<(), LockError> {
    let mut ready = Ready::make(maker)?;
    let (plan, descriptors) = ready.ground.wait(channel)?;
    let Handed { plan, program, stdin, go, script, doorbell, shared } = Handed::of(plan, descriptors)?;
    let opened = Own { program, script };
    let Locked { report, own, pipes, listener } = lock_program(maker, ready, &plan, shared, opened)?;
    if let Some((listener, doorbell)) = listener.zip(doorbell) {
        start_relay(&listener, &doorbell)?;
    }
    tell(channel, &ProgramReply::Locked(report))?;
    let handed = ForProgram { program: own.program, script: own.script, stdin, go };
    let made = Waiting::make(&plan, &handed, pipes);
    drop(handed);
    let reply = match made.and_then(Waiting::started) {
        Ok((pid, output)) => output.follow(pid).at("waiting for the program")?,
        Err(error) => ProgramReply::NotStarted {
            step: error.step.to_owned(),
            errno: error.source.raw_os_error().unwrap_or(libc::EIO),
        },
    };
    tell(channel, &reply)
}

/// A sandbox that nobody has taken: what of it is the same for every program.
struct Ready {
    proc: ProcSelf,
    ground: Ground,
    maps: IdMaps,
}

impl Ready {
    fn make(maker: &ProgramMaker<'_>) -> Result<Self, LockError> {
        check_namespaces(maker)?;
        die_with_parent(maker.parent).at("the parent-death signal")?;
        // What this makes in its root is for everybody in it to see, and so is what the program makes by default.
        rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
        let proc = ProcSelf::open().at("opening /proc/self")?;
        // It fails only where the score is higher already.
        drop(proc.write(c"oom_score_adj", OOM_SCORE));
        let identity = match maker.own_uid {
            Some(uid) => Identity::new(uid, uid),
            None => {
                write_maps(&proc, maker.zygote).at("the maps of the user namespace")?;
                maker.zygote
            }
        };
        let maps =
            IdMaps::new(maker.own_uid.map(|_| identity), maker.zygote).at("showing files as its own")?;
        Ok(Self { proc, ground: Ground::prepare(identity)?, maps })
    }
}

fn tell(channel: &Channel, reply: &ProgramReply) -> Result<(), LockError> {
    channel.send(reply).map_err(io::Error::other).at("answering")
}

impl Handed {
    fn of(plan: ProgramPlan, descriptors: Vec<OwnedFd>) -> Result<Self, LockError> {
        let wrong =
            || LockError { step: "the descriptors of its plan", source: io::ErrorKind::InvalidInput.into() };
        if descriptors.len() != plan.descriptors() || plan.arguments.is_empty() {
            return Err(wrong());
        }
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or_else(wrong);
        let (program, stdin, go) = (next()?, next()?, next()?);
        let script = plan.script.map(|_| next()).transpose()?;
        let doorbell = plan.proxy.then(&mut next).transpose()?;
        let shared: Vec<OwnedFd> = descriptors.collect();
        assert!(shared.len() + PROGRAM_DESCRIPTORS <= plan.descriptors(), "each descriptor has its place");
        Ok(Self { plan, program, stdin, go, script, doorbell, shared })
    }
}

fn lock_program(
    maker: &ProgramMaker<'_>,
    ready: Ready,
    plan: &ProgramPlan,
    shared: Vec<OwnedFd>,
    opened: Own,
) -> Result<Locked, LockError> {
    // While the caller has the rights over its network namespace.
    let listener = plan.proxy.then(loopback::listener).transpose().at("listening for its connections")?;
    let filter = match (plan.proxy, plan.executes) {
        (false, Executes::Shown) => Cow::Borrowed(maker.filter),
        (proxied, executes) => {
            Cow::Owned(program_filter(proxied, executes).at("compiling the seccomp filter")?)
        }
    };
    let (draft, own) = enter_world(maker, ready, plan, &shared, &opened)?;
    drop((shared, opened));
    // Of the program's own user, who may open them again by their names.
    let pipes = Pipes::new().at("making its pipes")?;
    let mut started = Vec::new();
    for (descriptor, reach) in [(Some(&own.program), Reach::Program), (own.script.as_ref(), Reach::Read)] {
        let copy = descriptor.map(OwnedFd::try_clone).transpose().at("copying the program's descriptor")?;
        started.extend(copy.map(|place| Allowed { place, reach }));
    }
    let draft = draft.with(&started).at("the Landlock domain")?;
    drop(started);
    rlimits::apply(PROGRAM_LIMITS).at("resource limits")?;
    give_up_privilege(maker.parent)?;
    let (domain, landlock_probe) = enter_drafted(draft)?;
    filter.install().at("the seccomp filter")?;
    // The listener and the doorbell go to the relay.
    let own_ones = PROGRAM_DESCRIPTORS + usize::from(own.script.is_some()) + PROGRAM_PIPE_ENDS;
    let kept = own_ones + 2 * usize::from(plan.proxy);
    let mut probes = program_probes(kept, rlimits::descriptors_below(PROGRAM_LIMITS), plan.proxy);
    probes.extend(landlock_probe);
    probes.extend((plan.proxy && domain.refuses_ports()).then(another_port));
    let report = LockedReport {
        landlock_abi: domain.abi,
        landlock_rules_hash: domain.hash,
        seccomp_filter_hash: filter.hash().to_owned(),
        namespaces: maker.namespaces.boundaries(),
        probes,
    };
    Ok(Locked { report, own, pipes, listener })
}

fn check_namespaces(maker: &ProgramMaker<'_>) -> Result<(), LockError> {
    let Some(missing) = PROGRAM_NAMESPACES.into_iter().find(|kind| !maker.namespaces.has(*kind)) else {
        return Ok(());
    };
    let why = io::Error::other(format!("this machine gives no {missing:?}"));
    Err(why).at("a program sandbox needs its namespaces")
}

/// Root and identity: the uid last where the caller is root, because the mounts need the right to make them.
fn enter_world(
    maker: &ProgramMaker<'_>,
    ready: Ready,
    plan: &ProgramPlan,
    shared: &[OwnedFd],
    opened: &Own,
) -> Result<(Draft, Own), LockError> {
    let Ready { proc, ground, mut maps } = ready;
    let (view, drafted, (granted, program, script)) = ground.enter(|view| {
        let granted = Granted::gather(plan, shared, &mut maps)?;
        let is_shown = |path: &str| view.shows(path) && !granted.lies_over(path);
        let program = Executed::of(opened.program.as_fd(), is_shown).at("a read-only view of the program")?;
        let script = opened.script.as_ref().map(|script| Unchangeable::of(script.as_fd())?.open());
        let script = script.transpose().at("a read-only view of the script")?;
        Ok((granted, program, script))
    })?;
    let draft = granted.attach(&view, drafted)?;
    let own = Own { program: program.into_shown().at("finding the program in its root")?, script };
    if let Some(uid) = maker.own_uid {
        // A new user namespace fills the bounding set again; it is emptied in there.
        become_uid(uid).at("the program's own uid")?;
        enter_user_namespace(&proc).at("the user namespace")?;
    }
    Ok((draft, own))
}
