//! One program in a sandbox of its own: launched and proved, started, bounded in time and output, and ended with all
//! that it started.
//!
//! Invariants: nothing is executed before the sandbox was proved and its receipt was given out. However a call ends, its
//! sandbox ends with it, and the call is over only when nothing in the sandbox runs any more. What a program writes is
//! read and made text within bounds on the far side; here a text that is longer is taken for a broken protocol.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use aaos_confine::PROGRAM_NAMESPACES;
use aaos_confine::control::Order;
use aaos_core::confinement::{Boundary, ConfinementReceipt};
use aaos_core::limits::{FAR_GRACE_MS, MAX_COMMAND_OUTPUT_BYTES, MAX_PROGRAMS_AT_ONCE, PROGRAM_STOP_MS};
use aaos_core::program::{ProgramOrder, ProgramReply, ProgramText};
use aaos_core::tool::ToolInput;
use aaos_core::toolio::{CommandRunInput, CommandRunOutput, ToolFailure, ToolFailureKind};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

use crate::calls::{limited, off_thread};
use crate::channel::FarChannel;
use crate::disk::Disks;
use crate::doorbell::Doorbell;
use crate::error::SandboxError;
use crate::gauge::{Gauge, OutOfMemory};
use crate::launch::{Made, Proved, Sandbox, within};
use crate::process::{ExitStatus, FarProcess, WorkerEnd};
use crate::program_call::ProgramCall;
use crate::program_file::OpenedProgram;
use crate::program_plan::{Around, Planned};
use crate::receipt::{PROGRAM_BOUNDS, PROGRAM_PROFILE, PROXIED_PROFILE, Profile};
use crate::roots::RootTable;

/// A program sandbox that is proved and has executed nothing yet; ended when dropped.
#[derive(Debug)]
pub struct ProgramSandbox {
    channel: FarChannel,
    process: FarProcess,
    receipt: ConfinementReceipt,
    missing: Vec<Boundary>,
    input: CommandRunInput,
    /// A byte in it lets the program start.
    go: OwnedFd,
    feed: Option<JoinHandle<()>>,
    disks: Disks,
    doorbell: Option<Doorbell>,
    _mounts: HeldMounts,
    _place: OwnedSemaphorePermit,
}

/// The mount namespace of a sandbox, held so that its end does not wait for all its mounts to be taken down. Whoever lets
/// go of it last does that, which may take as long as a file system: it is done on a thread that nobody waits for.
#[derive(Debug)]
struct HeldMounts(Option<OwnedFd>);

impl HeldMounts {
    /// Of a process that runs, by this number. Where it cannot be had, the end of the process waits.
    fn of(process: &FarProcess, pid: u32) -> Self {
        let opened = std::fs::File::open(format!("/proc/{pid}/ns/mnt")).ok();
        // The number was its own if it still runs.
        Self(opened.filter(|_| process.runs()).map(OwnedFd::from))
    }
}

impl Drop for HeldMounts {
    fn drop(&mut self) {
        let mounts = self.0.take();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn_blocking(move || drop(mounts)));
        }
    }
}

/// How a program and its sandbox ended.
#[derive(Debug)]
pub struct ProgramEnd {
    /// What it wrote and its exit code, or why there is none.
    pub result: Result<CommandRunOutput, ToolFailure>,
    /// The end of what the sandbox itself printed, made harmless.
    pub words: String,
}

impl Sandbox {
    /// Makes and proves the sandbox of a permitted call, for its program as `opening` gives it. What is around the
    /// program is opened meanwhile.
    ///
    /// # Errors
    /// [`ToolFailure`]; nothing was executed, and no process is left.
    pub async fn prepare_program(
        &self,
        call: ProgramCall,
        opening: impl Future<Output = Result<OpenedProgram, ToolFailure>>,
        roots: &RootTable,
    ) -> Result<ProgramSandbox, ToolFailure> {
        self.check_namespaces().await.map_err(|error| unavailable(&error))?;
        self.inner.spare.expect();
        let (world, table) = (call.world.clone(), roots.clone());
        let around = off_thread(move || Around::open(&world, &table));
        let (opened, around) = tokio::join!(opening, around);
        let planned = Planned::new(opened?, &call, around??);
        // Not before, for who opens it may have to wait for the agent's worker.
        let Ok(place) = Arc::clone(self.program_places()).try_acquire_owned() else {
            let why = format!("{MAX_PROGRAMS_AT_ONCE} programs are running; try again when one has ended");
            return Err(ToolFailure::new(ToolFailureKind::LimitReached, why));
        };
        let input = call.input;
        let stdin = Stdin::new(&input).map_err(|error| out_of_descriptors(&error))?;
        let (gate, go) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| out_of_descriptors(&error.into()))?;
        let rings = if planned.plan.proxy { Some(Doorbell::pair()) } else { None };
        let rings = rings.transpose().map_err(|error| unavailable(&error))?;
        let (doorbell, button) = rings.unzip();
        let profile = if planned.plan.proxy { PROXIED_PROFILE } else { PROGRAM_PROFILE };
        let order =
            PlanOrder { planned: &planned, stdin: &stdin, gate: &gate, button: button.as_ref(), profile };
        let launched = self.launch_program(order).await;
        // What the sandbox holds is its alone from here on.
        drop((gate, button));
        let disks = planned.disks;
        let (channel, process, receipt, missing) = launched.map_err(|error| unavailable(&error))?;
        if let Some(boundary) = PROGRAM_NAMESPACES.into_iter().find(|one| !receipt.evidence(*one).is_proof())
        {
            let why = "it could not be read back".to_owned();
            return Err(unavailable(&SandboxError::ConfinementUnavailable { boundary, why }));
        }
        let feed = stdin.feed().map_err(|error| out_of_descriptors(&error))?;
        let _mounts = HeldMounts::of(&process, receipt.pid);
        let _place = place;
        Ok(ProgramSandbox {
            channel,
            process,
            receipt,
            missing,
            input,
            go,
            feed,
            disks,
            doorbell,
            _mounts,
            _place,
        })
    }

    /// Has a sandbox prove that it is as the plan says: the spare one, else one that is made now.
    async fn launch_program(&self, order: PlanOrder<'_>) -> Result<Proved, SandboxError> {
        let lock = async |made: Option<Made>| {
            let made = match made {
                Some(made) => made,
                None => self.make(Order::Program, &[], PROGRAM_BOUNDS).await?,
            };
            order.send(&made.channel).await?;
            self.prove(made, order.profile).await
        };
        let spare = self.inner.spare.take();
        let was_spare = spare.is_some();
        let locked = async {
            let locked = lock(spare).await;
            self.make_spare();
            match locked {
                // It may have ended while it waited. Nothing was executed in it.
                Err(error @ (SandboxError::DiedAtStart { .. } | SandboxError::Closed)) if was_spare => {
                    tracing::warn!(%error, "the sandbox that waited for a program ended; another is made");
                    lock(None).await
                }
                locked => locked,
            }
        };
        within("be locked", locked).await.and_then(|proved| proved)
    }

    /// There is no program sandbox with less than all of its namespaces.
    async fn check_namespaces(&self) -> Result<(), SandboxError> {
        let given = self.abilities().await?.namespaces;
        match PROGRAM_NAMESPACES.into_iter().find(|one| !given.has(*one)) {
            None => Ok(()),
            Some(boundary) => {
                let why = "this machine gives none, and programs are run with no less".to_owned();
                Err(SandboxError::ConfinementUnavailable { boundary, why })
            }
        }
    }
}

/// What a sandbox is sent.
#[derive(Clone, Copy)]
struct PlanOrder<'a> {
    planned: &'a Planned,
    stdin: &'a Stdin,
    /// Where the program's process waits.
    gate: &'a OwnedFd,
    button: Option<&'a OwnedFd>,
    profile: Profile,
}

impl PlanOrder<'_> {
    async fn send(self, channel: &FarChannel) -> Result<(), SandboxError> {
        let Self { planned, stdin, gate, button, .. } = self;
        let mut descriptors: Vec<BorrowedFd<'_>> =
            vec![planned.program.as_fd(), stdin.far.as_fd(), gate.as_fd()];
        descriptors.extend(planned.script.iter().chain(button).chain(&planned.shared).map(AsFd::as_fd));
        assert_eq!(descriptors.len(), planned.plan.descriptors(), "each descriptor has its place");
        channel.send(&ProgramOrder::Plan(planned.plan.clone()), &descriptors).await
    }
}

impl ProgramSandbox {
    /// How it is confined.
    #[must_use]
    pub fn receipt(&self) -> &ConfinementReceipt {
        &self.receipt
    }

    /// Where its connections are announced, if it has a proxy. Gives it once.
    pub fn take_doorbell(&mut self) -> Option<Doorbell> {
        self.doorbell.take()
    }

    /// Preferred boundaries that it lacks.
    #[must_use]
    pub fn missing(&self) -> &[Boundary] {
        &self.missing
    }

    /// Reads what the program and all that it started use.
    #[must_use]
    pub fn gauge(&self) -> Option<Gauge> {
        self.process.gauge()
    }

    /// Starts the program and waits for its end, its time, or `stop`. Nothing in the sandbox runs any more when this
    /// answers.
    pub async fn run(mut self, stop: impl Future<Output = ToolFailure>) -> ProgramEnd {
        let limit = Duration::from_secs(self.input.timeout_seconds);
        let seconds = self.input.timeout_seconds;
        let disks = std::mem::take(&mut self.disks);
        let ended = tokio::select! {
            // What was to stop while the receipt was written is not started at all.
            biased;
            failure = stop => Err(failure),
            answer = self.converse() => answer,
            failure = disks.overfilled() => Err(failure),
            () = tokio::time::sleep(limit) => Err(ToolFailure::new(
                ToolFailureKind::Timeout,
                format!("the program ran longer than {seconds} s; it and all that it started were ended"),
            )),
        };
        if ended.is_ok() {
            // It is ending by itself, and with it whatever the program left running. What does not is killed.
            let grace = Duration::from_millis(FAR_GRACE_MS);
            drop(tokio::time::timeout(grace, self.process.wait_exit()).await);
        }
        self.process.kill();
        let gone =
            tokio::time::timeout(Duration::from_millis(PROGRAM_STOP_MS), self.process.wait_exit()).await;
        let ended = if gone.is_ok() { ended } else { Err(still_there()) };
        if let Some(feed) = self.feed.take() {
            feed.abort();
        }
        self.close(ended).await
    }

    /// What is told of a sandbox in which nothing runs any more, or cannot be ended.
    async fn close(mut self, ended: Result<CommandRunOutput, ToolFailure>) -> ProgramEnd {
        if ended.is_ok()
            && let Some(words) = self.process.last_words().await
        {
            return ProgramEnd { result: ended, words };
        }
        let WorkerEnd { reason, stderr_tail: words, out_of_memory: short } = self.process.autopsy().await;
        let mut result = match short {
            Some(why) => Err(out_of_memory(why)),
            None => ended,
        };
        if let Err(failure) = &mut result
            && failure.kind == ToolFailureKind::WorkerLost
        {
            failure.message = format!("{} ({reason})", failure.message);
        }
        ProgramEnd { result, words }
    }

    async fn converse(&mut self) -> Result<CommandRunOutput, ToolFailure> {
        let lost = |error: SandboxError| {
            let why = format!("the program's sandbox was lost: {error}; what it did is unknown");
            ToolFailure::new(ToolFailureKind::WorkerLost, why)
        };
        // Where nobody waits any more, the sandbox says why.
        drop(rustix::io::write(&self.go, &[0]).map_err(std::io::Error::from));
        match self.channel.receive().await.map_err(lost)? {
            ProgramReply::Ended { status, stdout, stderr } if stdout.is_bounded() && stderr.is_bounded() => {
                Ok(output(ExitStatus(status), stdout, stderr))
            }
            ProgramReply::Ended { .. } => Err(lost(SandboxError::Protocol { what: "a text over its limit" })),
            ProgramReply::TooMuch {} => Err(too_much()),
            ProgramReply::NotStarted { step, errno } => Err(not_started(&self.input, &step, errno)),
            ProgramReply::Locked(_) => {
                Err(lost(SandboxError::Protocol { what: "an answer that was not due" }))
            }
        }
    }
}

fn output(status: ExitStatus, stdout: ProgramText, stderr: ProgramText) -> CommandRunOutput {
    CommandRunOutput {
        exit_code: status.code(),
        truncated: stdout.truncated || stderr.truncated,
        stdout: stdout.text,
        stderr: stderr.text,
    }
}

/// What the caller of a tool that starts programs is told, as JSON text.
///
/// # Errors
/// [`ToolFailure`] where it is longer than the tool may answer.
pub fn program_text(input: &ToolInput, output: &CommandRunOutput) -> Result<String, ToolFailure> {
    limited(input, serde_json::to_string(output))
}

fn unavailable(error: &SandboxError) -> ToolFailure {
    let kind = match error {
        SandboxError::DiedAtStart { .. } => ToolFailureKind::Io,
        _ => ToolFailureKind::ConfinementUnavailable,
    };
    ToolFailure::new(kind, format!("no program sandbox can be made: {error}"))
}

fn not_started(input: &CommandRunInput, step: &str, errno: i32) -> ToolFailure {
    let program = &input.program;
    let error = std::io::Error::from_raw_os_error(errno);
    let (kind, hint) = match errno {
        libc::ENOENT => {
            (ToolFailureKind::NotFound, "; it, or the loader that it names, is not in its sandbox")
        }
        libc::ENOEXEC => (ToolFailureKind::WrongKind, "; it is no program for this machine"),
        libc::EACCES => (ToolFailureKind::Io, "; its mode lets others than its owner not execute it"),
        _ => (ToolFailureKind::Io, ""),
    };
    ToolFailure::new(kind, format!("{program} was not started ({step}: {error}{hint}); nothing ran"))
}

fn too_much() -> ToolFailure {
    let most = MAX_COMMAND_OUTPUT_BYTES;
    let why = format!("the program wrote more than {most} bytes; it was ended, let it write into a file");
    ToolFailure::new(ToolFailureKind::TooLarge, why)
}

/// Only where a control group holds it; else the program itself is told that there is no more.
fn out_of_memory(why: OutOfMemory) -> ToolFailure {
    let ended = match why {
        OutOfMemory::Limit(_) => " for the program and all that it started; they were ended",
        OutOfMemory::Elsewhere(_) => "; the program and all that it started were ended",
    };
    ToolFailure::new(ToolFailureKind::OutOfMemory, format!("{why}{ended}, what was done stays"))
}

/// Only a file system that does not answer holds a killed process up.
fn still_there() -> ToolFailure {
    let why = format!("the program was killed, and {PROGRAM_STOP_MS} ms later something of it still runs");
    ToolFailure::new(ToolFailureKind::WorkerLost, why)
}

fn out_of_descriptors(error: &std::io::Error) -> ToolFailure {
    ToolFailure::new(ToolFailureKind::Io, format!("the daemon is out of descriptors ({error}); try again"))
}

/// A program's standard input.
struct Stdin {
    /// The program's end.
    far: OwnedFd,
    text: Option<(OwnedFd, String)>,
}

impl Stdin {
    fn new(input: &CommandRunInput) -> std::io::Result<Self> {
        let (far, near) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Self { far, text: input.stdin.clone().map(|text| (near, text)) })
    }

    /// Writes the text, where there is one, as the program reads it.
    fn feed(self) -> std::io::Result<Option<JoinHandle<()>>> {
        self.text.map(|(pipe, text)| feed(pipe, text)).transpose()
    }
}

/// Writes a program's standard input.
fn feed(pipe: OwnedFd, text: String) -> std::io::Result<JoinHandle<()>> {
    let mut pipe = pipe::Sender::from_owned_fd(pipe)?;
    Ok(tokio::spawn(async move {
        // A program that does not read all of it has what it wanted.
        if let Err(error) = pipe.write_all(text.as_bytes()).await {
            tracing::debug!(%error, "a program left some of its standard input unread");
        }
    }))
}

#[cfg(test)]
mod tests;
