//! Launching the process of a local model and handing it its weights.
//!
//! Invariants: it is a worker's equal: nothing is sent to it before it is proved to be confined as the policy asks. It
//! gets one file and no other, and what it says of that file is made harmless. Its memory is bounded by the size of its
//! weights.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use aaos_confine::control::Order;
use aaos_core::confinement::{Boundary, ConfinementReceipt};
use aaos_core::limits::{
    MAX_MODEL_THREADS, MAX_WEIGHTS_BYTES, MODEL_EXTRA_MEMORY_BYTES, MODEL_LOAD_MS, MODEL_PROCESSES,
    WORKER_WEIGHT,
};
use aaos_core::quantity::{Bytes, Millis};
use aaos_core::wire::{LocalFacts, LocalProblem, LocalReply, LocalSetup};
use tokio::net::UnixStream;

use crate::channel::FarChannel;
use crate::error::SandboxError;
use crate::gauge::Bounds;
use crate::launch::{Proved, Sandbox, within};
use crate::leaf::GroupLimits;
use crate::process::{FarProcess, harmless};
use crate::receipt::model_profile;

/// Longest text of the file's own that is shown.
const SHOWN_CHARS: usize = 200;

/// One local model, locked and with its weights taken in.
#[derive(Debug)]
pub struct LocalModel {
    /// Its channel, past `Ready`.
    pub stream: UnixStream,
    /// What the weights are.
    pub facts: LocalFacts,
    /// How it is confined.
    pub receipt: ConfinementReceipt,
    /// Preferred boundaries that it lacks.
    pub missing: Vec<Boundary>,
    /// The process; dropping it ends the model.
    pub process: FarProcess,
}

/// A local model that is locked and has not been handed anything.
#[derive(Debug)]
pub struct LockedModel {
    channel: FarChannel,
    process: FarProcess,
    receipt: ConfinementReceipt,
    missing: Vec<Boundary>,
}

impl Sandbox {
    /// Whether a program of local models was named at the start.
    #[must_use]
    pub fn has_model_program(&self) -> bool {
        self.inner.model.is_some()
    }

    /// Launches the process of a local model for weights of this size and proves that it is confined as the policy asks.
    /// It computes on so many threads.
    ///
    /// # Errors
    /// As [`Sandbox::launch_worker`]; also when no program of local models was named at the start, or the weights are
    /// larger than any.
    pub async fn lock_model(&self, file_bytes: Bytes, threads: u32) -> Result<LockedModel, SandboxError> {
        let program = self.inner.model.as_ref().ok_or_else(|| SandboxError::Launch {
            step: "no program of local models was named at the start",
            source: std::io::ErrorKind::NotFound.into(),
        })?;
        if file_bytes.0 > MAX_WEIGHTS_BYTES {
            return Err(SandboxError::Launch {
                step: "its weights are larger than any may be",
                source: std::io::ErrorKind::FileTooLarge.into(),
            });
        }
        let threads = threads.clamp(1, MAX_MODEL_THREADS);
        let launch = async {
            let profile = model_profile(self.abilities().await?);
            let order = |serial| Order::Model(serial, threads);
            let made = self.make(order, &[program.as_fd()], bounds_of(file_bytes)).await?;
            self.prove(made, profile).await
        };
        let (channel, process, receipt, missing): Proved = within("be locked", launch).await??;
        process.watch();
        Ok(LockedModel { channel, process, receipt, missing })
    }
}

impl LockedModel {
    /// How it is confined.
    #[must_use]
    pub fn receipt(&self) -> &ConfinementReceipt {
        &self.receipt
    }

    /// Preferred boundaries that it lacks.
    #[must_use]
    pub fn missing(&self) -> &[Boundary] {
        &self.missing
    }

    /// Hands it the weights and waits until it has done with them what the setup says.
    ///
    /// # Errors
    /// [`SandboxError::Weights`] where it does not want them; the others say what broke. No process is left.
    pub async fn load(self, weights: OwnedFd, setup: &LocalSetup) -> Result<LocalModel, SandboxError> {
        let Self { mut channel, mut process, receipt, missing } = self;
        let limit = Millis(MODEL_LOAD_MS);
        let load = async {
            channel.send(setup, &[weights.as_fd()]).await?;
            channel.receive().await
        };
        let reply = tokio::time::timeout(Duration::from_millis(limit.0), load).await;
        drop(weights);
        match reply {
            Ok(Ok(LocalReply::Ready(facts))) => {
                let facts = shown(&facts);
                Ok(LocalModel { stream: channel.into_stream(), facts, receipt, missing, process })
            }
            Ok(Ok(LocalReply::Unusable(problem))) => Err(SandboxError::Weights(told(&problem))),
            Ok(Ok(LocalReply::Locked(_))) => {
                Err(SandboxError::Protocol { what: "it said twice that it is locked" })
            }
            Ok(Err(error)) => {
                process.let_end().await;
                if !process.has_ended() {
                    return Err(error);
                }
                let end = process.autopsy().await;
                Err(SandboxError::DiedLoading { reason: end.reason, stderr_tail: end.stderr_tail })
            }
            Err(_) => Err(SandboxError::TimedOut { what: "load its weights", limit }),
        }
    }
}

/// Twice the weights and a little: they are laid out anew for computing, and a conversation is remembered beside them.
fn bounds_of(file_bytes: Bytes) -> Bounds {
    let memory = Bytes(file_bytes.0.saturating_mul(2).saturating_add(MODEL_EXTRA_MEMORY_BYTES));
    Bounds::OneProcess(GroupLimits { memory, processes: MODEL_PROCESSES, weight: WORKER_WEIGHT })
}

fn shown(facts: &LocalFacts) -> LocalFacts {
    LocalFacts {
        architecture: line(&facts.architecture),
        name: facts.name.as_deref().map(line).filter(|name| !name.is_empty()),
        parameters: facts.parameters,
        window: facts.window,
    }
}

fn told(problem: &LocalProblem) -> LocalProblem {
    LocalProblem { kind: problem.kind, message: line(&problem.message) }
}

/// A stranger's text as one line of bounded length.
fn line(text: &str) -> String {
    let start: String = text.chars().take(SHOWN_CHARS).collect();
    harmless(start.as_bytes()).replace('\n', " ").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use aaos_core::quantity::Bytes;

    use super::{SHOWN_CHARS, bounds_of, line};
    use crate::gauge::Bounds;

    #[test]
    fn memory_goes_by_the_weights() {
        const MIB: u64 = 1024 * 1024;
        for (file, memory) in [(0, 128 * MIB), (500 * MIB, 1128 * MIB), (u64::MAX, u64::MAX)] {
            let Bounds::OneProcess(limits) = bounds_of(Bytes(file)) else { panic!("one process") };
            assert_eq!(limits.memory, Bytes(memory));
        }
    }

    #[test]
    fn what_a_file_calls_itself_cannot_drive_a_terminal() {
        assert_eq!(line("a\x1b[2Jb\nc "), "a\\u{1b}[2Jb c");
        assert!(line(&"x".repeat(100_000)).len() == SHOWN_CHARS);
    }
}
