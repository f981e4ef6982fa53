//! The launcher of every far process: single-threaded, warm, and without any agent's data.
//!
//! Invariants: it parses only the fixed frames of [`crate::control`]; it is parent and reaper of everything
//! that it made and reports each end; it ends with agentd (parent-death signal, and the end of the control
//! socket), and everything it made ends with it (its PID namespace, or a parent-death signal each).

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use aaos_core::confinement::Boundary;
use aaos_core::program::Executes;
use aaos_core::wire::WorkerReply;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendFlags, recvmsg, sendmsg,
};

use crate::channel::{CHANNEL_FD, Channel};
use crate::control::{CONTROL_BYTES, MAX_CONTROL_DESCRIPTORS, News, Order, Serial};
use crate::descriptors::{StandardInput, arrange, close_all_but_granted, close_all_but_granted_on_exec};
use crate::filter::Filter;
use crate::gateway::GatewayRole;
use crate::model::{ModelPlan, model_environment};
use crate::namespaces::{
    Abilities, EmptyMounts, EmptyNetwork, Identity, NamespaceSet, NetworkMaker, ProcSelf, find_abilities,
    write_maps,
};
use crate::privilege::{die_with_parent, is_root, parent_pid, set_no_new_privs, set_subreaper};
use crate::program::{ProgramMaker, program_filter, serve_program};
use crate::sys::{AtStep, LockError, answer, execute, exit_now, fork_into, last_words, wait_for};
use crate::worker::{WorkerPlan, born_into, lock_worker, worker_filter};

/// Number of the descriptor on which the zygote finds its control socket.
pub const CONTROL_FD: i32 = 0;
/// The argument that makes the worker's program a zygote.
pub const ZYGOTE_ARGUMENT: &str = "--zygote";
/// Exit code of a far process whose lock-down failed.
pub const LOCK_FAILED: i32 = 71;
/// Exit code of a far process that panicked.
const PANICKED: i32 = 101;
/// Exit code of a program that could not be executed.
const NOT_EXECUTED: i32 = 127;

/// Without an order for so long the zygote makes ready what the next launch needs.
const QUIET: Timespec = Timespec { tv_sec: 0, tv_nsec: 3_000_000 };

/// Why the zygote ended; agentd recovers by starting over.
#[derive(Debug, thiserror::Error)]
pub enum ZygoteError {
    /// A step of its start failed.
    #[error("the zygote cannot start")]
    Start(#[from] LockError),
    /// Agentd sent what is no order.
    #[error("agentd sent something that is no order")]
    Protocol,
    /// The control socket failed.
    #[error("the control socket failed")]
    Control(#[from] io::Error),
}

/// Serves orders until agentd closes the control socket, then ends everything it made.
///
/// `serve` runs in each worker once it is locked and has said so; its result is the worker's exit code.
///
/// # Errors
/// [`ZygoteError`]; the caller exits, which ends every far process.
pub fn run(serve: fn(Channel) -> u8) -> Result<(), ZygoteError> {
    let mut zygote = Zygote::start(serve)?;
    zygote.tell(News::Ready(zygote.abilities))?;
    let result = zygote.serve_orders();
    zygote.end_all();
    result
}

struct Zygote {
    control: OwnedFd,
    ends: OwnedFd,
    children: BTreeMap<libc::pid_t, Serial>,
    abilities: Abilities,
    identity: Identity,
    filter: Filter,
    program_filter: Filter,
    networks: Option<NetworkMaker>,
    /// Made ahead, for the next worker or program and for it alone.
    network: Option<EmptyNetwork>,
    /// Made once; each worker takes a copy.
    mounts: Option<EmptyMounts>,
    launched: u32,
    /// The control group of the process that is being made.
    group: Option<OwnedFd>,
    serve: fn(Channel) -> u8,
}

impl Zygote {
    fn start(serve: fn(Channel) -> u8) -> Result<Self, ZygoteError> {
        die_with_parent(parent_pid()).at("the parent-death signal")?;
        lead_session().at("leading a session")?;
        rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
        set_subreaper().at("becoming the reaper")?;
        set_no_new_privs().at("no_new_privs")?;
        let filter = worker_filter().at("compiling the worker's filter")?;
        let program_filter = program_filter(false, Executes::Shown).at("compiling the filter of programs")?;
        // SAFETY: this process is single-threaded: it was executed to be a zygote and starts no thread.
        let abilities = unsafe { find_abilities() };
        let ends = ends_of_children().at("watching for the ends of children")?;
        // SAFETY: agentd put the control socket on this number, and nothing else of this program takes it.
        let control = unsafe { OwnedFd::from_raw_fd(CONTROL_FD) };
        let identity = Identity::of_caller();
        let makes_networks = is_root() && abilities.namespaces.has(Boundary::NetNamespace);
        // Where it could not come back, each worker is born into its own.
        let networks = if makes_networks { NetworkMaker::new().ok() } else { None };
        let mounts = if is_root() && abilities.namespaces.has(Boundary::MountNamespace) {
            // Where it could not be entered, each worker empties its own.
            // SAFETY: this process is single-threaded, as above.
            unsafe { EmptyMounts::make() }.ok()
        } else {
            None
        };
        Ok(Self {
            control,
            ends,
            children: BTreeMap::new(),
            abilities,
            identity,
            filter,
            program_filter,
            networks,
            network: None,
            mounts,
            launched: 0,
            group: None,
            serve,
        })
    }

    fn serve_orders(&mut self) -> Result<(), ZygoteError> {
        loop {
            let (orders, ends) = self.wait()?;
            if ends {
                self.reap()?;
            }
            if orders {
                let Some((order, descriptors)) = self.next_order()? else { return Ok(()) };
                self.obey(order, descriptors)?;
            }
        }
    }

    /// Waits for something to do. With nothing to do for a moment it makes ready what the next launch will need.
    fn wait(&mut self) -> Result<(bool, bool), ZygoteError> {
        loop {
            let lacks_network = self.network.is_none() && self.networks.is_some();
            let (orders, ends) = self.wait_for(lacks_network.then_some(&QUIET))?;
            if orders || ends {
                return Ok((orders, ends));
            }
            if let Some(networks) = self.networks.take() {
                // Where the machine gives no more of them, workers are born into theirs, or told why there is none.
                self.network = networks.make()?;
                self.networks = self.network.is_some().then_some(networks);
            }
        }
    }

    fn wait_for(&self, limit: Option<&Timespec>) -> Result<(bool, bool), ZygoteError> {
        let mut watched = [PollFd::new(&self.control, PollFlags::IN), PollFd::new(&self.ends, PollFlags::IN)];
        loop {
            match poll(&mut watched, limit) {
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
        Ok((!watched[0].revents().is_empty(), !watched[1].revents().is_empty()))
    }

    /// The next order; `None` once agentd has hung up.
    fn next_order(&self) -> Result<Option<(Order, Vec<OwnedFd>)>, ZygoteError> {
        let mut bytes = [0; CONTROL_BYTES + 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_CONTROL_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let got = match recvmsg(&self.control, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
            Ok(got) => got,
            // Agentd was killed with news unread: its end all the same.
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            Err(errno) => return Err(io::Error::from(errno).into()),
        };
        let descriptors: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(rights) => Some(rights),
                _ => None,
            })
            .flatten()
            .collect();
        if got.bytes == 0 {
            return Ok(None);
        }
        let order = Order::decode(&bytes[..got.bytes]).ok_or(ZygoteError::Protocol)?;
        if order.takes(descriptors.len()) {
            Ok(Some((order, descriptors)))
        } else {
            Err(ZygoteError::Protocol)
        }
    }

    fn obey(&mut self, order: Order, mut descriptors: Vec<OwnedFd>) -> Result<(), ZygoteError> {
        // What comes beyond the order's own descriptors is the control group.
        self.group = if descriptors.len() > order.descriptors() { descriptors.pop() } else { None };
        let (serial, made) = match (order, descriptors.as_slice()) {
            (Order::Worker(serial), [channel, stderr]) => (serial, self.make_worker(channel, stderr)),
            (Order::Gateway(serial, role), [channel, stderr, program]) => {
                (serial, self.make_gateway(role, channel, stderr, program))
            }
            (Order::Program(serial), [channel, stderr]) => (serial, self.make_program(channel, stderr)),
            (Order::Model(serial, threads), [channel, stderr, program]) => {
                (serial, self.make_model(threads, channel, stderr, program))
            }
            (Order::Kill(serial), []) => return self.kill(serial),
            _ => return Err(ZygoteError::Protocol),
        };
        match made {
            Ok(pid) => {
                let earlier = self.children.insert(pid, serial);
                assert!(earlier.is_none(), "a pid is reused only after it was reaped");
                self.tell(News::Launched(serial, pid.unsigned_abs()))
            }
            Err(error) => self.tell(News::Failed(serial, error.raw_os_error().unwrap_or(libc::EIO))),
        }
    }

    fn make_worker(&mut self, channel: &OwnedFd, stderr: &OwnedFd) -> io::Result<libc::pid_t> {
        let namespaces = self.abilities.namespaces;
        let network = self.network.take();
        let plan = WorkerPlan {
            network: network.as_ref(),
            mounts: self.mounts.as_ref(),
            own_uid: self.abilities.own_uids.map(|range| range.of_worker(self.launched)),
            namespaces,
            zygote: self.identity,
            parent: parent_seen_in(namespaces),
            filter: &self.filter,
        };
        self.launched = self.launched.wrapping_add(1);
        let mut born = born_into(namespaces, is_root());
        if network.is_some() {
            born = born.without(&[Boundary::NetNamespace]);
        }
        if self.mounts.is_some() {
            born = born.without(&[Boundary::MountNamespace]);
        }
        // SAFETY: this process is single-threaded.
        let pid = unsafe { fork_into(born.flags(), self.group.as_ref()) }?;
        if pid == 0 {
            let code = catch_unwind(AssertUnwindSafe(|| worker_main(&plan, channel, stderr, self.serve)));
            exit_now(code.unwrap_or(PANICKED));
        }
        Ok(pid)
    }

    fn make_program(&mut self, channel: &OwnedFd, stderr: &OwnedFd) -> io::Result<libc::pid_t> {
        let namespaces = self.abilities.namespaces;
        let network = self.network.take();
        let maker = ProgramMaker {
            filter: &self.program_filter,
            own_uid: self.abilities.own_uids.map(|range| range.of_worker(self.launched)),
            namespaces,
            zygote: self.identity,
            parent: parent_seen_in(namespaces),
        };
        self.launched = self.launched.wrapping_add(1);
        // It makes its mount namespace itself, when it has seen the machine's mounts.
        let mut born = born_into(namespaces, is_root()).without(&[Boundary::MountNamespace]);
        if network.is_some() {
            born = born.without(&[Boundary::NetNamespace]);
        }
        // SAFETY: this process is single-threaded.
        let pid = unsafe { fork_into(born.flags(), self.group.as_ref()) }?;
        if pid == 0 {
            let code =
                catch_unwind(AssertUnwindSafe(|| program_main(&maker, network.as_ref(), channel, stderr)));
            exit_now(code.unwrap_or(PANICKED));
        }
        Ok(pid)
    }

    fn make_gateway(
        &self,
        role: GatewayRole,
        channel: &OwnedFd,
        stderr: &OwnedFd,
        program: &OwnedFd,
    ) -> io::Result<libc::pid_t> {
        // A gateway needs the host's network, and its files until it has locked itself.
        let kept = self.abilities.namespaces.without(&[Boundary::NetNamespace, Boundary::MountNamespace]);
        let become_it = || become_gateway(program, role);
        self.make_executed(kept, channel, stderr, "the gateway could not be executed", become_it)
    }

    fn make_model(
        &mut self,
        threads: u32,
        channel: &OwnedFd,
        stderr: &OwnedFd,
        program: &OwnedFd,
    ) -> io::Result<libc::pid_t> {
        let namespaces = self.abilities.namespaces;
        let own_uid = self.abilities.own_uids.map(|range| range.of_worker(self.launched));
        self.launched = self.launched.wrapping_add(1);
        let plan = ModelPlan::new(namespaces, own_uid);
        // It needs files until it has locked itself.
        let kept = namespaces.without(&[Boundary::MountNamespace]);
        let become_it = || become_model(program, plan, threads);
        self.make_executed(kept, channel, stderr, "the model's program could not be executed", become_it)
    }

    /// Makes a process that is born into these namespaces and executes a program, which locks itself.
    fn make_executed(
        &self,
        namespaces: NamespaceSet,
        channel: &OwnedFd,
        stderr: &OwnedFd,
        failure: &str,
        execute: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<libc::pid_t> {
        let born = born_into(namespaces, is_root());
        let parent = parent_seen_in(born);
        // SAFETY: this process is single-threaded.
        let pid = unsafe { fork_into(born.flags(), self.group.as_ref()) }?;
        if pid == 0 {
            let ready = (|| {
                if born.has(Boundary::UserNamespace) {
                    write_maps(&ProcSelf::open()?, self.identity)?;
                }
                arrange(channel.as_fd(), stderr.as_fd(), StandardInput::Null)?;
                unblock_signals()?;
                die_with_parent(parent)?;
                close_all_but_granted_on_exec()?;
                execute()
            })();
            last_words(failure, &ready);
            exit_now(NOT_EXECUTED);
        }
        Ok(pid)
    }

    fn kill(&self, serial: Serial) -> Result<(), ZygoteError> {
        for (pid, _) in self.children.iter().filter(|(_, one)| **one == serial) {
            kill_now(*pid)?;
        }
        Ok(())
    }

    /// Reaps whatever has ended and reports what it had launched.
    fn reap(&mut self) -> Result<(), ZygoteError> {
        let mut drained = [0_u8; 1024];
        // One read takes all pending signals; what matters is who can be reaped.
        rustix::io::read(&self.ends, &mut drained).map_err(io::Error::from)?;
        loop {
            let mut status = 0;
            // SAFETY: `status` outlives the call.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) };
            if pid <= 0 {
                return Ok(());
            }
            if let Some(serial) = self.children.remove(&pid) {
                self.tell(News::Ended(serial, status))?;
            }
        }
    }

    fn tell(&self, news: News) -> Result<(), ZygoteError> {
        let bytes = news.encode();
        let mut none = SendAncillaryBuffer::default();
        sendmsg(&self.control, &[IoSlice::new(&bytes)], &mut none, SendFlags::NOSIGNAL)
            .map_err(io::Error::from)?;
        Ok(())
    }

    fn end_all(&mut self) {
        for pid in std::mem::take(&mut self.children).into_keys() {
            // Neither can fail for a child that was not reaped, and nobody is left to tell.
            drop(kill_now(pid).and_then(|()| wait_for(pid)));
        }
    }
}

/// A terminal's signals must not reach far processes, so they live in a session of their own.
fn lead_session() -> rustix::io::Result<()> {
    match rustix::process::setsid() {
        Ok(_) => Ok(()),
        // It leads one already.
        Err(rustix::io::Errno::PERM) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// What `getppid` answers in a child: 0 when the zygote is outside the child's PID namespace.
fn parent_seen_in(namespaces: NamespaceSet) -> u32 {
    if namespaces.has(Boundary::PidNamespace) { 0 } else { std::process::id() }
}

fn worker_main(plan: &WorkerPlan<'_>, channel: &OwnedFd, stderr: &OwnedFd, serve: fn(Channel) -> u8) -> i32 {
    let arranged = arrange(channel.as_fd(), stderr.as_fd(), StandardInput::Unreadable)
        .and_then(|()| unblock_signals())
        .at("arranging descriptors");
    let report = match arranged.and_then(|()| lock_worker(plan)) {
        Ok(report) => report,
        Err(error) => {
            let words: Result<(), _> = Err(&error.source);
            last_words(error.step, &words);
            return LOCK_FAILED;
        }
    };
    let channel = Channel::inherited();
    match channel.send(&WorkerReply::Locked(report)) {
        Ok(()) => i32::from(serve(channel)),
        Err(error) => {
            last_words("saying that it is locked", &Err::<(), _>(error));
            LOCK_FAILED
        }
    }
}

/// `network` was made ahead; without one the caller was born into its own.
fn program_main(
    maker: &ProgramMaker<'_>,
    network: Option<&EmptyNetwork>,
    channel: &OwnedFd,
    stderr: &OwnedFd,
) -> i32 {
    let arranged = arrange(channel.as_fd(), stderr.as_fd(), StandardInput::Unreadable)
        .and_then(|()| unblock_signals())
        .and_then(|()| network.map_or(Ok(()), EmptyNetwork::enter))
        .and_then(|()| close_all_but_granted())
        .at("arranging descriptors");
    match arranged.and_then(|()| serve_program(maker, &Channel::inherited())) {
        Ok(()) => 0,
        Err(error) => {
            last_words(error.step, &Err::<(), _>(&error.source));
            LOCK_FAILED
        }
    }
}

fn become_gateway(program: &OwnedFd, role: GatewayRole) -> io::Result<()> {
    assert!(program.as_raw_fd() > CHANNEL_FD, "the program came while lower numbers were taken");
    let role = match role {
        GatewayRole::Models => c"models",
        GatewayRole::Egress => c"egress",
    };
    execute(program, &[c"aaos-gateway", c"--role", role], &[])
}

fn become_model(program: &OwnedFd, plan: ModelPlan, threads: u32) -> io::Result<()> {
    assert!(program.as_raw_fd() > CHANNEL_FD, "the program came while lower numbers were taken");
    let [flag, namespaces, uid] = plan.arguments();
    let environment = model_environment(threads);
    execute(
        program,
        &[c"aaos-model", &flag, &namespaces, &uid],
        &environment.each_ref().map(|text| text.as_c_str()),
    )
}

fn kill_now(pid: libc::pid_t) -> io::Result<()> {
    // SAFETY: plain numbers; the pid is a child that was not reaped yet, so nobody else's.
    answer(unsafe { libc::syscall(libc::SYS_kill, pid, libc::SIGKILL) }).map(drop)
}

fn unblock_signals() -> io::Result<()> {
    let none = 0_u64;
    // SAFETY: the empty kernel signal set outlives the call and is as long as said.
    answer(unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            std::ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    })
    .map(drop)
}

/// Blocks SIGCHLD and gives the descriptor on which it arrives instead.
fn ends_of_children() -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set outlives the calls; the first initialises it.
    let descriptor = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    answer(libc::c_long::from(descriptor))?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
