//! One far process as agentd holds it: the ways to end it, how it ended, and what it printed last.
//!
//! Invariants: dropping a far process ends it. What it prints is drained always, kept to its last bytes, and
//! made harmless before anybody reads it. Its control group is removed when it has ended.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aaos_confine::control::{Order, Serial};
use aaos_core::limits::{FAR_GRACE_MS, FAR_STOP_MS, KEPT_STDERR_BYTES};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};
use tokio::io::AsyncReadExt;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::gauge::{Gauge, Hold, OutOfMemory};
use crate::launcher::Launcher;
use crate::leaf::Leaf;

/// Bytes read from a capturing pipe at a time.
const STDERR_STEP_BYTES: usize = 1024;

/// How a far process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerEnd {
    /// Exit code or signal, in words.
    pub reason: String,
    /// The end of what it printed, made harmless.
    pub stderr_tail: String,
    /// Where it ended for want of memory: whose.
    pub out_of_memory: Option<OutOfMemory>,
}

/// A far process; ended when dropped.
#[derive(Debug)]
pub struct FarProcess {
    serial: Serial,
    launcher: Arc<Launcher>,
    /// Its pid as agentd sees it and a descriptor of it, once known.
    known: Option<(u32, Arc<OwnedFd>)>,
    ended: watch::Receiver<Option<ExitStatus>>,
    stderr: Stderr,
    hold: Hold,
    /// Whether it was ended for the memory that it used.
    overran: Arc<AtomicBool>,
    /// Removes its control group after its end.
    removal: Option<JoinHandle<()>>,
}

impl FarProcess {
    pub(crate) fn new(
        serial: Serial,
        launcher: Arc<Launcher>,
        ended: watch::Receiver<Option<ExitStatus>>,
        stderr: OwnedFd,
        hold: Hold,
    ) -> io::Result<Self> {
        let stderr = Stderr::capture(stderr)?;
        let removal = match &hold {
            Hold::Group(leaf) => Some(tokio::spawn(remove_after(ended.clone(), Arc::clone(leaf)))),
            Hold::Watch { .. } | Hold::Each { .. } => None,
        };
        Ok(Self { serial, launcher, known: None, ended, stderr, hold, overran: Arc::default(), removal })
    }

    /// Remembers who it is, once agentd knows.
    pub(crate) fn identify(&mut self, pid: u32, pidfd: OwnedFd) {
        self.known = Some((pid, Arc::new(pidfd)));
    }

    /// Its pid as agentd sees it; `None` before it is known.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.known.as_ref().map(|(pid, _)| *pid)
    }

    /// Whether it was reaped.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        // The sender goes when the zygote does, and with it every far process.
        self.ended.borrow().is_some() || self.ended.has_changed().is_err()
    }

    /// Whether it has not ended yet, asked of the kernel.
    pub(crate) fn runs(&self) -> bool {
        let Some((_, pidfd)) = &self.known else { return false };
        let mut ended = [PollFd::new(&**pidfd, PollFlags::IN)];
        // A descriptor of a process is readable once it has ended; one that cannot be asked is taken for that.
        !self.has_ended() && matches!(poll(&mut ended, Some(&Timespec::default())), Ok(0))
    }

    /// Resolves when it has ended (or nobody can tell any more, because the zygote is gone).
    pub async fn wait_end(&self) {
        let mut ended = self.ended.clone();
        // An error says that the zygote, and with it every far process, is gone.
        drop(ended.wait_for(Option::is_some).await);
    }

    /// Resolves when it runs no more, asked of the kernel. Its launcher, which reaps it, says so and how it ended a little
    /// later.
    pub(crate) async fn wait_exit(&self) {
        let Some((_, pidfd)) = &self.known else { return self.wait_end().await };
        // SAFETY: it is one open descriptor for as long as the `Arc` lives.
        let watched = unsafe { AsyncFd::register(Arc::clone(pidfd)) };
        // A descriptor of a process is readable once it has ended.
        match watched {
            Ok(watched) if watched.readable().await.is_ok() => {}
            _ => self.wait_end().await,
        }
    }

    /// Gives a process that is ending by itself a moment to do so.
    pub(crate) async fn let_end(&self) {
        // Whether it used the moment is seen by whoever kills it next.
        drop(tokio::time::timeout(Duration::from_millis(FAR_GRACE_MS), self.wait_end()).await);
    }

    /// Ends it now.
    pub fn kill(&self) {
        if self.has_ended() {
            return;
        }
        match &self.known {
            // It fails only where the process has ended already.
            Some((_, pidfd)) => end_now(pidfd),
            None => self.launcher.order_now(Order::Kill(self.serial)),
        }
    }

    /// Ends it and says how it ended: on its own, if it had, or killed.
    pub async fn stop(mut self) -> WorkerEnd {
        self.kill();
        self.autopsy().await
    }

    /// The same, after a moment in which it may end by itself: for one that has hung up.
    pub async fn bury(self) -> WorkerEnd {
        self.let_end().await;
        self.stop().await
    }

    /// Says how it ended, once it has or its time is up.
    pub(crate) async fn autopsy(&mut self) -> WorkerEnd {
        let limit = Duration::from_millis(FAR_STOP_MS);
        let in_time = tokio::time::timeout(limit, self.wait_end()).await.is_ok();
        self.stderr.finish(limit).await;
        if let Some(removal) = self.removal.take().filter(|_| in_time) {
            // What it takes longer for goes on by itself.
            drop(tokio::time::timeout(limit, removal).await);
        }
        let out_of_memory = self.out_of_memory();
        let reason = match (&*self.ended.borrow(), in_time) {
            (Some(status), _) => status.words(),
            (None, true) => "ended with its launcher".to_owned(),
            (None, false) => "did not end in time after it was killed".to_owned(),
        };
        let reason = match out_of_memory {
            Some(why) => format!("{why} ({reason})"),
            None => reason,
        };
        WorkerEnd { reason, stderr_tail: self.stderr.tail(), out_of_memory }
    }

    /// The end of what it printed, of one that ran to its end, where nothing else is to be learnt of that: nobody saw it
    /// use too much memory, and no control group has yet to say so.
    pub(crate) async fn last_words(&mut self) -> Option<String> {
        if self.removal.is_some() || self.out_of_memory().is_some() {
            return None;
        }
        self.stderr.finish(Duration::from_millis(FAR_STOP_MS)).await;
        Some(self.stderr.tail())
    }

    /// Ends it because it was seen above the limit of its memory.
    pub(crate) fn end_overrun(&self) {
        self.overran.store(true, Ordering::Relaxed);
        self.kill();
    }

    fn out_of_memory(&self) -> Option<OutOfMemory> {
        let limit = self.hold.limits().memory;
        let by_kernel = match &self.hold {
            Hold::Group(leaf) => leaf.shortage().map(|shortage| OutOfMemory::of(shortage, limit)),
            Hold::Watch { .. } | Hold::Each { .. } => None,
        };
        by_kernel.or(self.overran.load(Ordering::Relaxed).then_some(OutOfMemory::Limit(limit)))
    }

    /// Reads what it uses; `None` before it is known.
    pub(crate) fn gauge(&self) -> Option<Gauge> {
        let (pid, pidfd) = self.known.as_ref()?;
        Some(Gauge { pid: *pid, pidfd: Arc::clone(pidfd), hold: self.hold.clone() })
    }

    /// Watches its memory for its whole life, where no control group bounds it: it works for everybody, at any time.
    pub(crate) fn watch(&self) {
        let Some(gauge) = self.gauge() else { return };
        let (killer, overran) = (self.killer(), Arc::clone(&self.overran));
        drop(tokio::spawn(async move {
            if gauge.overruns().await {
                overran.store(true, Ordering::Relaxed);
                tracing::error!(pid = gauge.pid, "a far process used more memory than it may and is ended");
                killer.kill();
            }
        }));
    }

    /// What holds its resources.
    pub(crate) fn hold(&self) -> &Hold {
        &self.hold
    }
}

/// Waits for the end of a process, then removes its control group.
async fn remove_after(mut ended: watch::Receiver<Option<ExitStatus>>, leaf: Arc<Leaf>) {
    // An error says that the zygote, and with it every far process, is gone.
    drop(ended.wait_for(Option::is_some).await);
    let limit = leaf.limits().memory;
    // It fails where the runtime is closing; the whole tree is removed then.
    if let Ok(Some(shortage)) = tokio::task::spawn_blocking(move || leaf.end()).await {
        let why = OutOfMemory::of(shortage, limit);
        tracing::warn!(%why, "a far process was ended by the kernel");
    }
}

/// Ends a far process from elsewhere, while its owner waits for its answer.
#[derive(Debug, Clone)]
pub struct WorkerKiller(Option<Arc<OwnedFd>>);

impl WorkerKiller {
    /// Ends the process now, if it still runs.
    pub fn kill(&self) {
        if let Some(pidfd) = &self.0 {
            end_now(pidfd);
        }
    }
}

impl FarProcess {
    /// A handle that can end this process and nothing else.
    pub(crate) fn killer(&self) -> WorkerKiller {
        WorkerKiller(self.known.as_ref().map(|(_, pidfd)| Arc::clone(pidfd)))
    }
}

/// Kills what the descriptor refers to; that fails only where the process has ended already.
fn end_now(pidfd: &OwnedFd) {
    if let Err(errno) = pidfd_send_signal(pidfd, Signal::KILL) {
        tracing::debug!(%errno, "a far process had ended before it was killed");
    }
}

impl Drop for FarProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A raw wait status, as the zygote reported it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExitStatus(pub(crate) i32);

impl ExitStatus {
    /// As a shell tells it: the exit code, or 128 and the number of the signal.
    pub(crate) fn code(self) -> i32 {
        if libc::WIFSIGNALED(self.0) { 128 + libc::WTERMSIG(self.0) } else { libc::WEXITSTATUS(self.0) }
    }

    pub(crate) fn words(self) -> String {
        if libc::WIFSIGNALED(self.0) {
            format!("killed by signal {}", libc::WTERMSIG(self.0))
        } else {
            format!("exit code {}", libc::WEXITSTATUS(self.0))
        }
    }
}

/// The capturing end of a far process's standard error.
#[derive(Debug)]
struct Stderr {
    kept: Arc<Mutex<VecDeque<u8>>>,
    drain: Option<JoinHandle<()>>,
}

impl Stderr {
    fn capture(pipe: OwnedFd) -> io::Result<Self> {
        let mut pipe = pipe::Receiver::from_owned_fd(pipe)?;
        let kept = Arc::new(Mutex::new(VecDeque::new()));
        let into = Arc::clone(&kept);
        let drain = tokio::spawn(async move {
            let mut step = [0; STDERR_STEP_BYTES];
            // An error ends the pipe just as its end does.
            while let Ok(got @ 1..) = pipe.read(&mut step).await {
                keep_tail(&mut into.lock().unwrap_or_else(PoisonError::into_inner), &step[..got]);
            }
        });
        Ok(Self { kept, drain: Some(drain) })
    }

    /// Waits until the far process's last words have arrived.
    async fn finish(&mut self, limit: Duration) {
        if let Some(mut drain) = self.drain.take()
            && tokio::time::timeout(limit, &mut drain).await.is_err()
        {
            drain.abort();
        }
    }

    fn tail(&self) -> String {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        harmless(&kept.iter().copied().collect::<Vec<u8>>())
    }
}

impl Drop for Stderr {
    fn drop(&mut self) {
        if let Some(drain) = &self.drain {
            drain.abort();
        }
    }
}

fn keep_tail(kept: &mut VecDeque<u8>, more: &[u8]) {
    kept.extend(more);
    let over = kept.len().saturating_sub(KEPT_STDERR_BYTES);
    kept.drain(..over);
    assert!(kept.len() <= KEPT_STDERR_BYTES, "the tail is bounded");
}

/// Text that a terminal, a log or a model can be shown: control characters are spelled out.
pub(crate) fn harmless(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown = String::with_capacity(text.len());
    for one in text.trim_end().chars() {
        if one == '\n' || !one.is_control() {
            shown.push(one);
        } else {
            shown.extend(one.escape_unicode());
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use aaos_core::limits::KEPT_STDERR_BYTES;

    use super::{ExitStatus, harmless, keep_tail};

    #[test]
    fn only_the_tail_is_kept() {
        let mut kept = VecDeque::new();
        keep_tail(&mut kept, &[b'a'; KEPT_STDERR_BYTES]);
        keep_tail(&mut kept, b"the end");
        assert_eq!(kept.len(), KEPT_STDERR_BYTES);
        assert!(kept.iter().copied().collect::<Vec<u8>>().ends_with(b"the end"));
    }

    #[test]
    fn escape_sequences_are_spelled_out() {
        assert_eq!(harmless(b"a\x1b[2Jb\nc\n"), "a\\u{1b}[2Jb\nc");
        assert_eq!(harmless(b"\xff"), "\u{fffd}");
    }

    #[test]
    fn ends_are_told_in_words() {
        assert_eq!(ExitStatus(9).words(), "killed by signal 9");
        assert_eq!(ExitStatus(70 << 8).words(), "exit code 70");
        assert_eq!((ExitStatus(9).code(), ExitStatus(70 << 8).code()), (137, 70));
    }
}
