//! Hosting a daemon: the lock, the zygote, the journal, the kernel, the socket, and their end.
//!
//! Invariants: the zygote is started while this process has one thread; the state directory belongs to whoever
//! holds `state.lock`, which is given back only when nothing of the daemon is left, its control groups included; a
//! daemon is ready only when everything that the journal recorded has been taken up.

use std::fs::{DirBuilder, File, OpenOptions};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aaos_core::confinement::ConfinementReceipt;
use aaos_core::state::{AgentRecord, State};
use aaos_journal::{Journal, JournalConfig};
use aaos_runtime::{Clock, Closed, Kernel, KernelConfig, KernelParts, Principals};
use aaos_sandbox::{GroupName, Groups, Sandbox, ZygoteSeed};
use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, Mode, flock};
use rustix::process::{Resource, getrlimit, setrlimit, umask};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cassette::Chosen;
use crate::exit::{Exit, UsageError};
use crate::server;
use crate::settings::Settings;

/// Stack of an async worker thread; the default of 2 MiB is more than anything here uses.
const THREAD_STACK: usize = 1024 * 1024;
/// Threads that run file-system work, at most.
const BLOCKING_THREADS: usize = 64;

/// How long a daemon that has the lock may take to listen.
const SOCKET_TIME: Duration = Duration::from_secs(5);
/// Between two looks whether it listens.
const SOCKET_PAUSE: Duration = Duration::from_millis(20);

/// A daemon that owns its state directory and has its zygote, before any thread exists.
struct Groundwork {
    settings: Settings,
    principals: Principals,
    listener: StdListener,
    /// Where metrics are read.
    metrics: Option<TcpListener>,
    seed: ZygoteSeed,
    /// How this process itself is locked.
    own: ConfinementReceipt,
    descriptors: u64,
}

/// The `serve` command.
pub(crate) fn serve(settings: Settings) -> Result<Exit> {
    let state_dir = settings.state_dir.clone();
    let Some(lock) = take_lock(&settings)? else {
        bail!("another agentd owns {}; `agentd status` asks it", state_dir.display());
    };
    let groundwork = lay(settings)?;
    let socket = groundwork.settings.socket.clone();
    lock.hold_while(async move {
        // Before anybody is told that the daemon is ready, so that no signal meets the default action after it.
        let mut signals = Signals::receive()?;
        let (daemon, told) = Daemon::start_unless_hurried(groundwork, &mut signals).await?;
        let exit = if told {
            Exit::Done
        } else {
            tracing::info!(socket = %socket.display(), "agentd is ready");
            crate::commands::notice(&format!("agentd ready socket={}", socket.display()));
            daemon.until_told(&mut signals).await
        };
        match daemon.stop(signals).await {
            Ok(closed) if exit == Exit::Done => Ok(exit_of(closed)),
            Err(error) if exit == Exit::Done => Err(error),
            // It ends because something failed, which has been said.
            Ok(_) | Err(_) => Ok(exit),
        }
    })
}

/// What a daemon that was told to stop ends with.
fn exit_of(closed: Closed) -> Exit {
    match closed {
        Closed::InGoodOrder => Exit::Done,
        Closed::CutShort => {
            crate::commands::notice("some work did not end in time; it goes on after the next start");
            Exit::Failed
        }
    }
}

/// Runs `work` against the daemon that owns the state directory; hosts one for as long as `work` takes when there
/// is none.
pub(crate) fn with_daemon<F, Fut>(mut settings: Settings, work: F) -> Result<Exit>
where
    F: FnOnce(PathBuf) -> Fut,
    Fut: Future<Output = Result<Exit>>,
{
    let socket = settings.socket.clone();
    let Some(lock) = take_lock(&settings)? else {
        if settings.cassette.is_some() {
            return Err(UsageError(
                "--record and --replay need a daemon of their own, and one runs for this state directory; give the \
                 flag to `agentd serve`, or name another directory with --state-dir"
                    .to_owned(),
            )
            .into());
        }
        return start_runtime()?.block_on(async move {
            await_socket(&socket).await?;
            work(socket).await
        });
    };
    settings.serve_nobody_else();
    let groundwork = lay(settings)?;
    lock.hold_while(async move {
        let mut early = Signals::receive()?;
        let (daemon, told) = Daemon::start_unless_hurried(groundwork, &mut early).await?;
        let done = if told {
            Ok(Exit::Cancelled)
        } else {
            tokio::select! {
                done = work(socket) => done,
                () = daemon.lost_zygote() => Ok(Exit::Internal),
            }
        };
        if !matches!(done, Ok(Exit::Cancelled | Exit::Internal)) {
            daemon.outlast_guests().await?;
        }
        // What was sent until now has been heard; one that comes from here on is a further one.
        daemon.stop(Signals::receive()?).await?;
        done
    })
}

/// Runs `work` against the daemon that owns the state directory; an error when there is none.
pub(crate) fn with_running<F, Fut>(settings: &Settings, work: F) -> Result<Exit>
where
    F: FnOnce(PathBuf) -> Fut,
    Fut: Future<Output = Result<Exit>>,
{
    let socket = settings.socket.clone();
    if !socket.exists() {
        bail!("no agentd listens at {}; start one with `agentd serve`", socket.display());
    }
    start_runtime()?.block_on(work(socket))
}

/// Waits for the socket of a daemon that has the lock and is still starting.
async fn await_socket(socket: &Path) -> Result<()> {
    let appears = async {
        while tokio::net::UnixStream::connect(socket).await.is_err() {
            tokio::time::sleep(SOCKET_PAUSE).await;
        }
    };
    tokio::time::timeout(SOCKET_TIME, appears).await.with_context(|| {
        format!("another agentd owns the state directory, but does not listen at {}", socket.display())
    })
}

fn start_runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("agentd")
        .thread_stack_size(THREAD_STACK)
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .context("cannot start the async runtime")
}

/// The state directory, taken.
struct StateLock(File);

impl StateLock {
    /// Does all of a daemon's work, ends whatever of it still goes on elsewhere, and gives the state directory back.
    ///
    /// Tasks hold the far processes and their control groups, and the next daemon of this state uses groups of the same
    /// name: it may not begin before the last task has ended and they are gone.
    fn hold_while<T>(self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let runtime = start_runtime()?;
        let done = runtime.block_on(work);
        drop(runtime);
        drop(self.0);
        done
    }
}

/// Takes the state directory; `None` when another daemon has it.
fn take_lock(settings: &Settings) -> Result<Option<StateLock>> {
    let directory = &settings.state_dir;
    private_directory(directory)?;
    let path = directory.join("state.lock");
    let lock = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(StateLock(lock))),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

fn private_directory(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the directory {}", path.display()))
}

/// Everything that has to happen while there is one thread.
fn lay(settings: Settings) -> Result<Groundwork> {
    private_directory(&settings.state_dir.join("workspace"))?;
    let descriptors = raise_descriptor_limit();
    let principals = settings.principals()?;
    let listener = bind(&settings.socket, settings.socket_group()?)?;
    let metrics = settings.metrics.map(listen_for_readers).transpose()?;
    if let Some(spans) = &settings.spans {
        spans.check().context("`headers_file` of [otlp] in the configuration file")?;
    }
    let groups = claim_groups(&settings.state_dir)?;
    let seed = ZygoteSeed::start(&settings.worker, Some(&settings.gateway)).with_context(|| {
        format!("cannot start {}; is it beside agentd? (AAOS_LIBEXEC_DIR)", settings.worker.display())
    })?;
    let seed = match settings.model_program.is_file() && !settings.local.models.is_empty() {
        true => seed.with_model(&settings.model_program).context("cannot have local models run")?,
        false => seed,
    };
    let own =
        aaos_sandbox::lock_this_daemon().context("cannot prove that the daemon itself is locked down")?;
    let seed = seed.within(groups);
    Ok(Groundwork { settings, principals, listener, metrics, seed, own, descriptors })
}

/// Control groups for far processes, before any of them exists. What another policy than the default makes of their
/// lack is said where a process is launched.
fn claim_groups(state_dir: &Path) -> Result<Groups> {
    let name =
        GroupName::of_state(state_dir).with_context(|| format!("cannot look at {}", state_dir.display()))?;
    let groups = Groups::claim(&name);
    if let Some(why) = groups.why_none() {
        tracing::info!(%why, "there are no control groups for far processes; their memory is watched instead");
    }
    Ok(groups)
}

/// Opens the port for readers of metrics, while this process still can; the models gateway accepts on it.
fn listen_for_readers(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address)
        .with_context(|| format!("cannot listen at {address} (`listen` of [metrics])"))?;
    let bound = listener.local_addr().context("cannot see where metrics are read")?;
    crate::commands::notice(&format!("agentd metrics=http://{bound}/metrics"));
    Ok(listener)
}

/// Raises the soft limit of descriptors to the hard one; returns what is in force.
fn raise_descriptor_limit() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => limit.current.unwrap_or(u64::MAX),
        Err(_) => before.unwrap_or(u64::MAX),
    }
}

/// Binds the control socket, mode 0660, of a group if one is to connect. A socket that a dead daemon left is removed:
/// the state lock is ours.
fn bind(path: &Path, group: Option<u32>) -> Result<StdListener> {
    if let Some(parent) = path.parent() {
        socket_directory(parent, group)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                bail!("another daemon listens at {}; set AAOS_SOCKET", path.display());
            }
            std::fs::remove_file(path)
                .with_context(|| format!("cannot remove the old socket {}", path.display()))?;
        }
        Ok(_) => bail!("{} exists and is not a socket; set AAOS_SOCKET", path.display()),
        Err(_) => {}
    }
    let before = umask(Mode::from_raw_mode(0o117));
    let bound = StdListener::bind(path);
    umask(before);
    let listener = bound.with_context(|| format!("cannot listen at {}", path.display()))?;
    if let Some(group) = group {
        give_to_group(path, group)?;
    }
    listener.set_nonblocking(true).context("cannot make the control socket non-blocking")?;
    Ok(listener)
}

/// Makes the socket's directory if it is missing: for the daemon alone, or so that a group can go through it. One that
/// is there is never opened further.
fn socket_directory(path: &Path, group: Option<u32>) -> Result<()> {
    let Some(group) = group else { return private_directory(path) };
    if !path.exists() {
        let missing: Vec<&Path> = path.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
        private_directory(path)?;
        for made in missing {
            give_to_group(made, group)?;
            let mode = std::fs::Permissions::from_mode(0o710);
            std::fs::set_permissions(made, mode)
                .with_context(|| format!("cannot open the directory {} to its group", made.display()))?;
        }
        return Ok(());
    }
    let found = std::fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    let for_group = found.gid() == group && found.mode() & 0o010 != 0;
    if for_group || found.mode() & 0o001 != 0 {
        return Ok(());
    }
    bail!(
        "the members of socket_group cannot go through {0}, where the socket lies; set `socket` to a directory of \
         its own, or run `chgrp {group} {0} && chmod 0710 {0}`",
        path.display()
    )
}

fn give_to_group(path: &Path, group: u32) -> Result<()> {
    std::os::unix::fs::chown(path, None, Some(group))
        .with_context(|| format!("cannot give {} to the group {group} (socket_group)", path.display()))
}

/// The signals that end a daemon.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn receive() -> Result<Self> {
        let receive = |kind| signal(kind).context("cannot receive signals");
        Ok(Self {
            terminate: receive(SignalKind::terminate())?,
            interrupt: receive(SignalKind::interrupt())?,
        })
    }

    /// Resolves at the next of them.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A running daemon.
struct Daemon {
    kernel: Kernel,
    sandbox: Sandbox,
    serving: tokio::task::JoinHandle<()>,
    socket: PathBuf,
}

impl Daemon {
    async fn start(groundwork: Groundwork) -> Result<Self> {
        let Groundwork { mut settings, principals, listener, metrics, seed, own, descriptors } = groundwork;
        let path = settings.state_dir.join("journal.db");
        let opening = JournalConfig { audit_stdout: settings.audit_stdout, ..JournalConfig::at(&path) };
        let (journal, state) = tokio::task::spawn_blocking(move || Journal::open(opening))
            .await
            .context("the journal's opening died")?
            .with_context(|| format!("cannot open the journal {}", path.display()))?;
        if matches!(settings.cassette, Some(Chosen::Replay { .. })) {
            refuse_open_work(&state)?;
        }
        let sandbox = Sandbox::adopt(seed, settings.sandbox()).context("cannot take over the zygote")?;
        let kernel =
            start_kernel(&mut settings, (principals, own, metrics), journal, sandbox.clone(), state).await?;
        sandbox.fill_pool();
        let listener = UnixListener::from_std(listener).context("cannot serve the control socket")?;
        let most = server::connection_limit(descriptors);
        let serving = tokio::spawn(server::serve(kernel.clone(), listener, most));
        Ok(Self { kernel, sandbox, serving, socket: settings.socket })
    }

    /// Starts, and says whether a signal has come meanwhile; a second one ends the process.
    async fn start_unless_hurried(groundwork: Groundwork, signals: &mut Signals) -> Result<(Self, bool)> {
        let socket = groundwork.settings.socket.clone();
        let starting = Self::start(groundwork);
        tokio::pin!(starting);
        let mut told = false;
        loop {
            tokio::select! {
                biased;
                () = signals.next() => {
                    if told {
                        end_at_once(&socket);
                    }
                    told = true;
                }
                started = &mut starting => return Ok((started?, told)),
            }
        }
    }

    /// Waits for a reason to end: a signal, or the death of the zygote.
    async fn until_told(&self, signals: &mut Signals) -> Exit {
        tokio::select! {
            () = signals.next() => Exit::Done,
            () = self.lost_zygote() => Exit::Internal,
            () = self.lost_journal() => Exit::Internal,
        }
    }

    /// Resolves when the zygote has died: without it nothing can be confined, so the daemon ends.
    async fn lost_zygote(&self) {
        self.sandbox.wait_zygote_end().await;
        tracing::error!("the zygote died; agentd ends and recovers from the journal at its next start");
    }

    /// Resolves when the journal takes nothing more: what cannot be recorded may not be done, so the daemon ends.
    async fn lost_journal(&self) {
        self.kernel.journal().wait_failure().await;
        tracing::error!(
            "the journal could not be written; agentd ends and goes on with what is recorded at its next start: make \
             room on the disk of the state directory, or mend it"
        );
    }

    /// Stays until the goals of other clients are over, a signal comes, or the zygote dies.
    async fn outlast_guests(&self) -> Result<()> {
        let mut signals = Signals::receive()?;
        tokio::select! {
            biased;
            () = self.kernel.wait_all_goals() => {}
            () = signals.next() => {}
            () = self.lost_zygote() => {}
            () = self.lost_journal() => {}
        }
        Ok(())
    }

    /// Closes in good order. A further signal ends the process at once.
    async fn stop(self, mut signals: Signals) -> Result<Closed> {
        let socket = self.socket.clone();
        let second = tokio::spawn(async move {
            signals.next().await;
            end_at_once(&socket);
        });
        let closed = self.kernel.shutdown().await;
        if let Err(error) = self.serving.await {
            tracing::error!(%error, "the control socket's server died");
        }
        remove_socket(&self.socket);
        second.abort();
        closed.context("the journal could not be closed")
    }
}

/// A replay answers whoever asks: what an earlier run left open would get the answers of another one, or none.
fn refuse_open_work(state: &State) -> Result<(), UsageError> {
    let is_open = state.agents.values().any(AgentRecord::is_alive)
        || state.goals.values().any(|goal| goal.end.is_none());
    if !is_open {
        return Ok(());
    }
    Err(UsageError(
        "this state directory has goals or agents that are not over, which a cassette cannot answer; replay with \
         another directory (--state-dir), or let `agentd serve` end them first"
            .to_owned(),
    ))
}

/// Ends the process, which is as safe as kill -9; only the socket is taken away before, so that nobody connects to it.
fn end_at_once(socket: &Path) -> ! {
    tracing::warn!("a second signal: agentd ends at once, and recovers from the journal at its next start");
    remove_socket(socket);
    std::process::exit(i32::from(Exit::Cancelled as u8))
}

fn remove_socket(socket: &Path) {
    if let Err(error) = std::fs::remove_file(socket) {
        tracing::warn!(%error, socket = %socket.display(), "the socket could not be removed");
    }
}

async fn start_kernel(
    settings: &mut Settings,
    (principals, own, metrics): (Principals, ConfinementReceipt, Option<TcpListener>),
    journal: Journal,
    sandbox: Sandbox,
    state: State,
) -> Result<Kernel> {
    let config = KernelConfig {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: env!("AAOS_COMMIT").to_owned(),
        limits: settings.limits,
        prices: settings.prices.clone(),
        bootstrap: settings.bootstrap()?,
        workspaces: settings.state_dir.join("workspace"),
        protected: settings.protected(),
        principals,
        local: settings.local.clone(),
        daemon_confinement: Some(own),
    };
    let clock = Clock::starting_at(state.latest);
    let models = std::mem::take(&mut settings.models);
    let key_files = std::mem::take(&mut settings.key_files);
    let places = settings.places();
    let cassette = settings.cassette.take().map(|cassette| cassette.load(&models, places)).transpose()?;
    let spans = settings.spans.take();
    let parts = KernelParts { config, journal, sandbox, models, key_files, cassette, metrics, spans, clock };
    Kernel::start(parts, state).await.context("cannot continue from the journal")
}
