//! Launching far processes and proving that they are confined.
//!
//! Invariants: a far process is handed to nobody, and sent nothing, before it said that it is locked and agentd
//! read its lock-down back and held it against the policy. Every launch has one deadline; whatever goes
//! wrong, the process is ended.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aaos_confine::GatewayRole;
use aaos_confine::control::Order;
use aaos_confine::namespaces::Abilities;
use aaos_core::confinement::{Boundary, ConfinementPolicy, ConfinementReceipt, LockedReport};
use aaos_core::id::WorkerId;
use aaos_core::limits::{FAR_LAUNCH_MS, FAR_STOP_MS, LAUNCHES_AT_ONCE, MAX_PROGRAMS_AT_ONCE};
use aaos_core::quantity::Millis;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde::Deserialize;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::channel::FarChannel;
use crate::config::SandboxConfig;
use crate::error::SandboxError;
use crate::gauge::{Bounds, Hold};
use crate::groups::Groups;
use crate::launcher::{Expected, Launcher};
use crate::pool::Pool;
use crate::process::FarProcess;
use crate::receipt::{
    GATEWAY_BOUNDS, Origin, Profile, WORKER_BOUNDS, WORKER_PROFILE, gateway_profile, hold_against, read_proc,
    write_receipt,
};
use crate::spare::Spare;
use crate::worker::Worker;
use crate::zygote::{ZygoteProcess, ZygoteSeed, open_pidfd};

/// How often a child is looked for in the kernel's list.
const FIND_ATTEMPTS: u32 = 16;

/// The launcher of far processes. A clone is another handle on the same zygote; when the last one is dropped
/// the zygote and all it made end.
#[derive(Debug, Clone)]
pub struct Sandbox {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    launcher: Arc<Launcher>,
    zygote: ZygoteProcess,
    /// In how many PID namespaces, of those that agentd sees, the zygote has a pid.
    depth: usize,
    origin: OnceLock<Origin>,
    gateway: Option<OwnedFd>,
    pub(crate) model: Option<OwnedFd>,
    config: SandboxConfig,
    pub(crate) pool: Arc<Pool>,
    pub(crate) spare: Spare,
    /// Turns of those who launch workers: the zygote makes one process at a time, and each launch has a deadline.
    turns: Semaphore,
    tasks: [JoinHandle<()>; 2],
    programs: Arc<Semaphore>,
    /// Dropped last: the tree goes when nobody is in it any more.
    groups: Groups,
}

impl Drop for Inner {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.launcher.everything_ended();
    }
}

impl Inner {
    /// Whether a program sandbox is made before it is needed.
    pub(crate) const fn parks_programs(&self) -> bool {
        self.config.parks_programs
    }
}

/// One gateway role, locked.
#[derive(Debug)]
pub struct Gateway {
    /// Its channel, past `Locked`.
    pub stream: UnixStream,
    /// How it is confined.
    pub receipt: ConfinementReceipt,
    /// Preferred boundaries that it lacks.
    pub missing: Vec<Boundary>,
    /// The process; dropping it ends the role.
    pub process: FarProcess,
}

/// The first frame of every far process.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FirstFrame {
    Locked(LockedReport),
}

/// A far process that was made and has not said anything yet.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) channel: FarChannel,
    process: FarProcess,
    pid: u32,
}

impl Made {
    /// Whether it has not ended yet, asked of the kernel.
    pub(crate) fn runs(&self) -> bool {
        self.process.runs()
    }
}

impl Sandbox {
    /// Takes over a started zygote; inside a tokio runtime.
    ///
    /// # Errors
    /// When its descriptors cannot be watched.
    pub fn adopt(seed: ZygoteSeed, config: impl Into<SandboxConfig>) -> Result<Self, SandboxError> {
        let ZygoteSeed { control, process, gateway, model, groups } = seed;
        let config = config.into();
        let failed = |source| SandboxError::ZygoteStart { step: "adopting it", source };
        let launcher = Arc::new(Launcher::new(control).map_err(failed)?);
        let end = process.end_descriptor().map_err(failed)?;
        // SAFETY: an `OwnedFd` is one open descriptor for as long as it lives.
        let end = unsafe { AsyncFd::register(end) }.map_err(|error| failed(error.into_parts().1))?;
        let depth = pids_of(process.pid()).map_err(failed)?.len();
        let listen = tokio::spawn(Arc::clone(&launcher).listen());
        let watch = tokio::spawn(watch_end(end, Arc::clone(&launcher)));
        Ok(Self {
            inner: Arc::new(Inner {
                launcher,
                zygote: process,
                depth,
                origin: OnceLock::new(),
                gateway,
                model,
                pool: Arc::new(Pool::new(config.parked_workers)),
                spare: Spare::default(),
                turns: Semaphore::new(LAUNCHES_AT_ONCE),
                config,
                tasks: [listen, watch],
                programs: Arc::new(Semaphore::new(MAX_PROGRAMS_AT_ONCE)),
                groups,
            }),
        })
    }

    /// What this machine gives to far processes.
    ///
    /// # Errors
    /// When the zygote ended before it found out, or took too long.
    pub async fn abilities(&self) -> Result<Abilities, SandboxError> {
        let mut abilities = self.inner.launcher.abilities();
        let mut gone = self.inner.launcher.gone();
        let found = async {
            tokio::select! {
                found = abilities.wait_for(Option::is_some) => found.ok().and_then(|found| *found),
                _ = gone.wait_for(|gone| *gone) => None,
            }
        };
        within("start its zygote", found).await?.ok_or(SandboxError::ZygoteGone)
    }

    /// Launches a worker and proves that it is confined as the policy asks. Waits for its turn where many are launched.
    ///
    /// # Errors
    /// [`SandboxError::ConfinementUnavailable`] where a required boundary is not proved; the others say what
    /// broke. No process is left.
    pub async fn launch_worker(&self) -> Result<Worker, SandboxError> {
        let _turn = self.inner.turns.acquire().await.map_err(|_| SandboxError::ZygoteGone)?;
        let launch = async {
            let made = self.make(Order::Worker, &[], WORKER_BOUNDS).await?;
            self.prove(made, WORKER_PROFILE).await
        };
        let (channel, process, receipt, missing) = within("be locked", launch).await??;
        Ok(Worker::new(channel, process, receipt, missing, self.inner.config.tool_time))
    }

    /// Launches a gateway role. `setup` is one encoded frame, or empty; it may hold keys, so it is sent last, with the
    /// descriptors that it speaks of: to a role that is proved to be confined as the policy asks.
    ///
    /// # Errors
    /// As [`Sandbox::launch_worker`]; also when no gateway program was named at the start.
    pub async fn launch_gateway(
        &self,
        role: GatewayRole,
        setup: Vec<u8>,
        handed: &[OwnedFd],
    ) -> Result<Gateway, SandboxError> {
        let program = self.inner.gateway.as_ref().ok_or_else(|| SandboxError::Launch {
            step: "no gateway program was named at the start",
            source: io::ErrorKind::NotFound.into(),
        })?;
        let launch = async {
            let profile = gateway_profile();
            let order = |serial| Order::Gateway(serial, role);
            let made = self.make(order, &[program.as_fd()], GATEWAY_BOUNDS).await?;
            let proved = self.prove(made, profile).await?;
            if !setup.is_empty() {
                let handed: Vec<BorrowedFd<'_>> = handed.iter().map(AsFd::as_fd).collect();
                proved.0.send_bytes(&setup, &handed).await?;
            }
            Ok::<_, SandboxError>(proved)
        };
        let (channel, process, receipt, missing) = within("be locked", launch).await??;
        process.watch();
        Ok(Gateway { stream: channel.into_stream(), receipt, missing, process })
    }

    /// What is demanded of confinement.
    #[must_use]
    pub fn policy(&self) -> &ConfinementPolicy {
        &self.inner.config.policy
    }

    /// The zygote's pid, for status.
    #[must_use]
    pub fn zygote_pid(&self) -> u32 {
        self.inner.zygote.pid()
    }

    /// Resolves when the zygote has died, and with it every far process.
    pub async fn wait_zygote_end(&self) {
        let mut gone = self.inner.launcher.gone();
        // The sender lives as long as this handle.
        drop(gone.wait_for(|gone| *gone).await);
    }

    /// Ends every far process and the zygote, and waits until all are reaped.
    pub async fn shutdown(&self) {
        self.inner.pool.close();
        self.inner.spare.close();
        self.inner.launcher.hang_up();
        let limit = Duration::from_millis(FAR_STOP_MS);
        if tokio::time::timeout(limit, self.wait_zygote_end()).await.is_err() {
            self.inner.zygote.kill();
            // Only a file system that does not answer holds a killed process up; it ends when that does.
            if tokio::time::timeout(limit, self.wait_zygote_end()).await.is_err() {
                tracing::error!("the zygote was killed and is not gone yet; the kernel ends it");
            }
        }
    }

    /// Where programs that run have their places.
    pub(crate) fn program_places(&self) -> &Arc<Semaphore> {
        &self.inner.programs
    }

    /// Orders a process and finds out who it is.
    pub(crate) async fn make(
        &self,
        order: impl FnOnce(aaos_confine::control::Serial) -> Order,
        more: &[BorrowedFd<'_>],
        bounds: Bounds,
    ) -> Result<Made, SandboxError> {
        let launcher = &self.inner.launcher;
        if *launcher.gone().borrow() {
            return Err(SandboxError::ZygoteGone);
        }
        let failed =
            |step| move |errno: rustix::io::Errno| SandboxError::Launch { step, source: errno.into() };
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(failed("making its channel"))?;
        let (words, stderr) = pipe_with(PipeFlags::CLOEXEC).map_err(failed("making its pipe"))?;
        let Expected { serial, launched, ended } = launcher.expect();
        let hold = self.hold(bounds);
        let mut process = FarProcess::new(serial, Arc::clone(launcher), ended, words, hold.clone())
            .map_err(|source| SandboxError::Launch { step: "watching its pipe", source })?;
        let mut descriptors = vec![far.as_fd(), stderr.as_fd()];
        descriptors.extend_from_slice(more);
        if let Hold::Group(leaf) = &hold {
            descriptors.push(leaf.descriptor());
        }
        launcher.order(order(serial), &descriptors).await?;
        drop((far, stderr));
        let inner_pid = launched
            .await
            .map_err(|_| SandboxError::ZygoteGone)?
            .map_err(|source| SandboxError::Launch { step: "cloning it", source })?;
        match self.find(&process, inner_pid).await {
            Ok((pid, pidfd)) => {
                process.identify(pid, pidfd);
                Ok(Made { channel: FarChannel::new(near)?, process, pid })
            }
            Err(source) => {
                Err(self.explain(process, SandboxError::Launch { step: "finding it", source }).await)
            }
        }
    }

    /// What is to hold the resources of a process that is yet to be made. A group that cannot be had is judged with
    /// everything else, when the receipt is held against the policy.
    fn hold(&self, bounds: Bounds) -> Hold {
        let (Bounds::OneProcess(limits) | Bounds::Tree(limits)) = bounds;
        match (self.inner.groups.leaf(limits), bounds) {
            (Ok(leaf), _) => Hold::Group(Arc::new(leaf)),
            (Err(error), Bounds::OneProcess(_)) => Hold::Watch { limits, why: error.to_string() },
            (Err(error), Bounds::Tree(_)) => Hold::Each { limits, why: error.to_string() },
        }
    }

    /// The kernel's list of children may leave one out while others end, so a child that is still running is
    /// looked for again.
    async fn find(&self, process: &FarProcess, inner_pid: u32) -> io::Result<(u32, OwnedFd)> {
        let mut found = find_child(self.inner.zygote.pid(), self.inner.depth, inner_pid);
        for _ in 1..FIND_ATTEMPTS {
            if found.is_ok() || process.has_ended() {
                break;
            }
            tokio::task::yield_now().await;
            found = find_child(self.inner.zygote.pid(), self.inner.depth, inner_pid);
        }
        found
    }

    /// Waits for `Locked`, reads the lock-down back, and holds it against the policy.
    pub(crate) async fn prove(&self, made: Made, profile: Profile) -> Result<Proved, SandboxError> {
        let Made { mut channel, process, pid } = made;
        let report = match channel.receive().await {
            Ok(FirstFrame::Locked(report)) => report,
            Err(error) => return Err(self.explain(process, error).await),
        };
        let policy = &self.inner.config.policy;
        let id = fresh_id()?;
        let hold = process.hold();
        let written = self
            .origin()
            .and_then(|origin| write_receipt(id, pid, origin, Some(hold), &report, profile, policy));
        let receipt = match written {
            Ok(receipt) => receipt,
            Err(source) => {
                return Err(self
                    .explain(process, SandboxError::Launch { step: "reading it back", source })
                    .await);
            }
        };
        let missing = hold_against(policy, &receipt, profile)?;
        Ok((channel, process, receipt, missing))
    }

    /// What every process of the zygote was born with. The zygote has its filters from before it was started and adds
    /// none to itself, so it is asked once.
    fn origin(&self) -> io::Result<&Origin> {
        if let Some(origin) = self.inner.origin.get() {
            return Ok(origin);
        }
        let origin = Origin::read(self.zygote_pid())?;
        Ok(self.inner.origin.get_or_init(|| origin))
    }

    /// The better error, where the process ended by itself and said why.
    async fn explain(&self, mut process: FarProcess, error: SandboxError) -> SandboxError {
        if *self.inner.launcher.gone().borrow() {
            return SandboxError::ZygoteGone;
        }
        process.let_end().await;
        process.kill();
        let end = process.autopsy().await;
        if end.stderr_tail.is_empty() && !process.has_ended() {
            return error;
        }
        SandboxError::DiedAtStart { reason: end.reason, stderr_tail: end.stderr_tail }
    }
}

pub(crate) type Proved = (FarChannel, FarProcess, ConfinementReceipt, Vec<Boundary>);

/// One deadline for a whole launch.
pub(crate) async fn within<T>(
    what: &'static str,
    launch: impl Future<Output = T>,
) -> Result<T, SandboxError> {
    let limit = Millis(FAR_LAUNCH_MS);
    tokio::time::timeout(Duration::from_millis(limit.0), launch)
        .await
        .map_err(|_| SandboxError::TimedOut { what, limit })
}

/// Waits for the zygote's end, reaps it, and tells everybody.
async fn watch_end(end: AsyncFd<OwnedFd>, launcher: Arc<Launcher>) {
    // Readable means ended. An error would mean that it cannot be watched, which is as bad.
    drop(end.readable().await);
    // It is reaped here or, when the handle is dropped, there; either is enough.
    drop(waitid(WaitId::PidFd(end.get_ref().as_fd()), WaitIdOptions::EXITED).map_err(io::Error::from));
    launcher.everything_ended();
}

/// Finds the zygote's child that has this pid in the zygote's PID namespace, and takes hold of it.
///
/// The kernel is asked, not the zygote: /proc lists its children and says who each is in every namespace.
/// Once the descriptor is open the answer is asked for again, so that a reused number cannot be mistaken for
/// it.
fn find_child(zygote: u32, depth: usize, inner_pid: u32) -> io::Result<(u32, OwnedFd)> {
    let children = read_proc(Path::new(&format!("/proc/{zygote}/task/{zygote}/children")))?;
    // The newest stands last.
    for pid in children.split_whitespace().rev().filter_map(|pid| pid.parse::<u32>().ok()) {
        let is_it = |pids: Vec<u32>| pids.get(depth - 1) == Some(&inner_pid);
        // A child that ends while we look has no status any more; it is not the one, or its end is reported.
        if pids_of(pid).is_ok_and(is_it) {
            let pidfd = open_pidfd(pid)?;
            if is_it(pids_of(pid)?) {
                return Ok((pid, pidfd));
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "it had ended before it could be found"))
}

/// The pids of a process, from the outermost namespace that we see to its own.
fn pids_of(pid: u32) -> io::Result<Vec<u32>> {
    let status = read_proc(Path::new(&format!("/proc/{pid}/status")))?;
    let words = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    let pids: Vec<u32> = words.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    if pids.is_empty() { Err(io::Error::other("the kernel tells no NSpid")) } else { Ok(pids) }
}

/// A name for a far process. It says nothing, orders nothing, and so needs no clock.
pub(crate) fn fresh_id() -> Result<WorkerId, SandboxError> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| SandboxError::Launch { step: "naming it", source: errno.into() })?;
    Ok(WorkerId::from_uuid(uuid::Builder::from_random_bytes(bytes).into_uuid()))
}
