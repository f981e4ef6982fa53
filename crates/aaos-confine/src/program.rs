//! A program sandbox, from a fresh child of the zygote to the end of the program and of all that it started.
//!
//! Invariants: this process is the first of its own PID namespace: it reaps, and with it everything in the sandbox
//! ends. It locks itself before anything else is executed, and the program inherits all of the lock-down. Its memory
//! can be read by nothing in the sandbox. Nothing is executed before agentd has read the lock-down back. Of the program
//! it tells its exit status and the text of what it wrote.

use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use aaos_core::confinement::{Boundary, LockedReport};
use aaos_core::program::{Executes, PROGRAM_DESCRIPTORS, PROXY_PORT, ProgramPlan, ProgramReply, Start};

use crate::channel::{CHANNEL_FD, Channel};
use crate::domain::{Allowed, Reach, Tcp};
use crate::filter::{Filter, Meaning};
use crate::loopback;
use crate::mounts::Unchangeable;
use crate::namespaces::{Identity, NamespaceSet, ProcSelf, chdir, enter_user_namespace, write_maps};
use crate::privilege::become_uid;
use crate::probe::{another_port, program_probes};
use crate::program_output::Output;
use crate::program_world::World;
use crate::relay::start_relay;
use crate::rlimits::{self, PROGRAM_LIMITS};
use crate::sys::{AtStep, LockError, answer, execute, exit_now, fork_with, wait_for};
use crate::tables::{PROGRAM_ABSENT, SEALED_REFUSED, program_refused};
use crate::worker::{enter_domain_with, give_up_privilege};

/// Without these there is no program sandbox.
pub const PROGRAM_NAMESPACES: [Boundary; 4] =
    [Boundary::UserNamespace, Boundary::MountNamespace, Boundary::PidNamespace, Boundary::NetNamespace];
/// How much sooner than anything else the machine is to end a program when memory runs out.
const OOM_SCORE: &str = "500";
/// The number on which a script is found by its interpreter.
const SCRIPT_FD: RawFd = 3;
const SCRIPT_PATH: &str = "/dev/fd/3";

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
    script: Option<OwnedFd>,
    doorbell: Option<OwnedFd>,
    shared: Vec<OwnedFd>,
}

/// What a sandbox is once it is locked.
struct Locked {
    report: LockedReport,
    own: Own,
    /// Of the proxy, where there is one.
    listener: Option<OwnedFd>,
}

/// Builds the sandbox, runs its one program and tells how that ended. When it returns, the caller exits, which ends
/// whatever the program left running.
///
/// # Errors
/// Names the step of the lock-down that failed; nothing was executed.
pub(crate) fn serve_program(maker: &ProgramMaker<'_>, channel: &Channel) -> Result<(), LockError> {
    let Handed { plan, program, stdin, script, doorbell, shared } = receive(channel)?;
    // What this makes in its root is for everybody in it to see, and so is what the program makes by default.
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    let opened = Own { program, script };
    let Locked { report, own, listener } = lock_program(maker, &plan, shared, opened)?;
    if let Some((listener, doorbell)) = listener.zip(doorbell) {
        start_relay(&listener, &doorbell)?;
    }
    tell(channel, &ProgramReply::Locked(report))?;
    let (_, extra) = channel.receive::<Start>().map_err(io::Error::other).at("waiting for the start")?;
    if !extra.is_empty() {
        return Err(io::Error::other("no descriptor is due")).at("waiting for the start");
    }
    let Own { program, script } = own;
    let output = Output::new().at("making its pipes")?;
    let [stdout, stderr] = &output.far;
    let reply = match start(&plan, &program, [&stdin, stdout, stderr], script.as_ref()) {
        Ok(pid) => {
            drop((program, script, stdin));
            output.follow(pid).at("waiting for the program")?
        }
        Err(error) => ProgramReply::NotStarted {
            step: error.step.to_owned(),
            errno: error.source.raw_os_error().unwrap_or(libc::EIO),
        },
    };
    tell(channel, &reply)
}

fn tell(channel: &Channel, reply: &ProgramReply) -> Result<(), LockError> {
    channel.send(reply).map_err(io::Error::other).at("answering")
}

fn receive(channel: &Channel) -> Result<Handed, LockError> {
    let (plan, descriptors) =
        channel.receive::<ProgramPlan>().map_err(io::Error::other).at("receiving its plan")?;
    let wrong =
        || LockError { step: "the descriptors of its plan", source: io::ErrorKind::InvalidInput.into() };
    if descriptors.len() != plan.descriptors() || plan.arguments.is_empty() {
        return Err(wrong());
    }
    let mut descriptors = descriptors.into_iter();
    let mut next = || descriptors.next().ok_or_else(wrong);
    let (program, stdin) = (next()?, next()?);
    let script = plan.script.map(|_| next()).transpose()?;
    let doorbell = plan.proxy.then(&mut next).transpose()?;
    let shared: Vec<OwnedFd> = descriptors.collect();
    assert!(shared.len() + PROGRAM_DESCRIPTORS <= plan.descriptors(), "each descriptor has its place");
    Ok(Handed { plan, program, stdin, script, doorbell, shared })
}

fn lock_program(
    maker: &ProgramMaker<'_>,
    plan: &ProgramPlan,
    shared: Vec<OwnedFd>,
    opened: Own,
) -> Result<Locked, LockError> {
    check_namespaces(maker)?;
    // While the caller has the rights over its network namespace.
    let listener = plan.proxy.then(loopback::listener).transpose().at("listening for its connections")?;
    let filter = match (plan.proxy, plan.executes) {
        (false, Executes::Shown) => Cow::Borrowed(maker.filter),
        (proxied, executes) => {
            Cow::Owned(program_filter(proxied, executes).at("compiling the seccomp filter")?)
        }
    };
    let (mut allowed, own) = enter_world(maker, plan, &shared, opened)?;
    drop(shared);
    for (descriptor, reach) in [(Some(&own.program), Reach::Program), (own.script.as_ref(), Reach::Read)] {
        let copy = descriptor.map(OwnedFd::try_clone).transpose().at("copying the program's descriptor")?;
        allowed.extend(copy.map(|place| Allowed { place, reach }));
    }
    rlimits::apply(PROGRAM_LIMITS).at("resource limits")?;
    give_up_privilege(maker.parent)?;
    let tcp = if plan.proxy { Tcp::ConnectTo(PROXY_PORT) } else { Tcp::Nothing };
    let (domain, landlock_probe) = enter_domain_with(tcp, &allowed)?;
    drop(allowed);
    filter.install().at("the seccomp filter")?;
    // The listener and the doorbell go to the relay.
    let kept = PROGRAM_DESCRIPTORS + usize::from(own.script.is_some()) + 2 * usize::from(plan.proxy);
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
    Ok(Locked { report, own, listener })
}

fn check_namespaces(maker: &ProgramMaker<'_>) -> Result<(), LockError> {
    let Some(missing) = PROGRAM_NAMESPACES.into_iter().find(|kind| !maker.namespaces.has(*kind)) else {
        return Ok(());
    };
    let why = io::Error::other(format!("this machine gives no {missing:?}"));
    Err(why).at("a program sandbox needs its namespaces")
}

/// Identity and root: the maps first where the caller is an ordinary user, the uid last where it is root, because the
/// mounts need the right to make them.
fn enter_world(
    maker: &ProgramMaker<'_>,
    plan: &ProgramPlan,
    shared: &[OwnedFd],
    opened: Own,
) -> Result<(Vec<Allowed>, Own), LockError> {
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
    let world = World::gather(plan, shared, maker.own_uid.map(|_| identity))?;
    let program = Unchangeable::of(opened.program.as_fd()).at("a read-only view of the program")?;
    let script = opened.script.map(|script| Unchangeable::of(script.as_fd())?.open());
    let script = script.transpose().at("a read-only view of the script")?;
    let allowed = world.enter(identity)?;
    let own = Own { program: program.into_shown(), script };
    if let Some(uid) = maker.own_uid {
        // A new user namespace fills the bounding set again; it is emptied in there.
        become_uid(uid).at("the program's own uid")?;
        enter_user_namespace(&proc).at("the user namespace")?;
    }
    Ok((allowed, own))
}

/// Everything that the program's process needs, made before it exists.
struct Call {
    arguments: Vec<CString>,
    environment: Vec<CString>,
    directory: CString,
}

impl Call {
    fn new(plan: &ProgramPlan) -> Result<Self, LockError> {
        let text = |text: &str| CString::new(text).map_err(io::Error::other).at("its arguments");
        let texts = |all: &[String]| all.iter().map(|one| text(one)).collect::<Result<Vec<_>, _>>();
        let (mut arguments, environment) = (texts(&plan.arguments)?, texts(&plan.environment)?);
        if let Some(place) = plan.script.and_then(|at| arguments.get_mut(usize::try_from(at).ok()?)) {
            *place = text(SCRIPT_PATH)?;
        }
        Ok(Self { arguments, environment, directory: text(plan.directory.as_str())? })
    }
}

/// Forks and executes the program; gives its pid once it is executed.
fn start(
    plan: &ProgramPlan,
    program: &OwnedFd,
    streams: [&OwnedFd; 3],
    script: Option<&OwnedFd>,
) -> Result<libc::pid_t, LockError> {
    let call = Call::new(plan)?;
    let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(io::Error::from);
    let (failure, report) = pipe.at("making a pipe")?;
    // SAFETY: this process is single-threaded.
    let pid = unsafe { fork_with(0) }.at("making its process")?;
    if pid == 0 {
        let failed = become_program(&call, program, streams, script);
        let code = failed.source.raw_os_error().unwrap_or(libc::EIO);
        let word = [code, i32::from(failed.step == CHANGING_DIRECTORY)].map(i32::to_ne_bytes).concat();
        // With the pipe gone nobody is left to tell.
        drop(rustix::io::write(&report, &word).map_err(io::Error::from));
        exit_now(127);
    }
    drop(report);
    let mut word = [0; 8];
    // The pipe closes without a word when the program is executed.
    match rustix::io::read(&failure, &mut word).map_err(io::Error::from).at("waiting for its start")? {
        0 => Ok(pid),
        _ => {
            wait_for(pid).at("reaping what did not start")?;
            let [code, at] = [0, 4]
                .map(|from| i32::from_ne_bytes([word[from], word[from + 1], word[from + 2], word[from + 3]]));
            let step = if at == 0 { "executing it" } else { CHANGING_DIRECTORY };
            Err(LockError { step, source: io::Error::from_raw_os_error(code) })
        }
    }
}

const CHANGING_DIRECTORY: &str = "changing to its directory";

/// The program's process: its streams on their numbers, nothing else open, then the program. Gives why it is none.
fn become_program(
    call: &Call,
    program: &OwnedFd,
    streams: [&OwnedFd; 3],
    script: Option<&OwnedFd>,
) -> LockError {
    let prepared = (|| {
        chdir(&call.directory).at(CHANGING_DIRECTORY)?;
        for (number, stream) in (0..).zip(streams) {
            put(stream.as_raw_fd(), number).at("arranging its streams")?;
        }
        if let Some(script) = script {
            put(script.as_raw_fd(), SCRIPT_FD).at("arranging its script")?;
        }
        let first = if script.is_some() { SCRIPT_FD + 1 } else { CHANNEL_FD };
        close_on_exec(first).at("closing descriptors")?;
        default_signals().at("its signals")?;
        rustix::process::setsid().map_err(io::Error::from).at("its session")?;
        let [arguments, environment] = [&call.arguments, &call.environment]
            .map(|texts| texts.iter().map(CString::as_c_str).collect::<Vec<&CStr>>());
        execute(program, &arguments, &environment).at("executing it")
    })();
    match prepared {
        Ok(()) => unreachable!("an executed program does not come back"),
        Err(error) => error,
    }
}

fn put(from: RawFd, to: RawFd) -> io::Result<()> {
    assert!(from > SCRIPT_FD, "what came with the plan lies above the channel");
    // SAFETY: plain numbers; this process is about to become another program and owns nothing at them.
    answer(unsafe { libc::syscall(libc::SYS_dup3, from, to, 0) }).map(drop)
}

fn close_on_exec(first: RawFd) -> io::Result<()> {
    // SAFETY: plain numbers.
    answer(unsafe {
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    })
    .map(drop)
}

/// What the Rust runtime ignores, a program does not expect to be ignored.
fn default_signals() -> io::Result<()> {
    // SAFETY: the default action needs no handler.
    match unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
