//! Serves agentd: one request is computed, few wait, and each can be cancelled.
//!
//! Invariants: every request is answered once with `Done` or `Failed`, but a cancelled one with nothing more; the thread
//! that reads never computes, so that a cancellation is seen at once; what this process is sent by agentd is the only
//! thing that it acts on.

use std::fs::File;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aaos_confine::{Channel, ChannelError};
use aaos_core::model::{ModelFailure, ModelFailureKind, ModelRequest, Pace, Standing};
use aaos_core::quantity::Tokens;
use aaos_core::wire::{
    LocalFacts, LocalProblem, LocalProblemKind, LocalSetup, ModelsReply, ModelsRequest, RequestSerial,
};

use crate::control::{Cancel, Control};
use crate::engine::{Engine, Facts, Settings, check};
use crate::error::{AnswerError, FileError};
use crate::sampler::Choice;

/// Requests that run or wait. agentd sends one at a time; one that was cancelled may not have ended when the next comes.
const MAX_REQUESTS: usize = 16;
/// Exit status when serving broke off, as in `sysexits.h`.
pub const BROKE_OFF: u8 = 70;
/// Bytes of the computing thread's stack; schemas and vocabularies are walked in depth.
const STACK_BYTES: usize = 16 * 1024 * 1024;

/// Why serving ended before the channel did.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The channel broke.
    #[error("the channel to agentd failed")]
    Channel(#[from] ChannelError),
    /// No thread could be started.
    #[error("no thread could be started to compute on")]
    Thread(#[source] std::io::Error),
    /// The computing broke off.
    #[error("the computing broke off; this is a bug in aaOS")]
    BrokeOff,
}

/// What a setup asks for. Tokens are chosen greedily: an agent's next step is no place for chance.
#[must_use]
pub fn settings(setup: &LocalSetup) -> Settings {
    Settings {
        file_bytes: setup.file_bytes.0,
        window: usize::try_from(setup.window.0).unwrap_or(usize::MAX),
        choice: Choice::Greedy,
    }
}

/// Says what a file is, without loading it.
///
/// # Errors
/// What is wrong with it, for a person.
pub fn look(weights: &File, setup: &LocalSetup) -> Result<LocalFacts, LocalProblem> {
    check(weights, settings(setup)).map(|(facts, ..)| told(&facts)).map_err(|error| problem(&error))
}

/// Loads a file.
///
/// # Errors
/// What is wrong with it, for a person.
pub fn load(weights: &File, setup: &LocalSetup) -> Result<(Engine, LocalFacts), LocalProblem> {
    let engine = Engine::load(weights, settings(setup)).map_err(|error| problem(&error))?;
    let facts = told(engine.facts());
    Ok((engine, facts))
}

fn told(facts: &Facts) -> LocalFacts {
    LocalFacts {
        architecture: facts.shape.architecture.name().to_owned(),
        name: facts.name.clone(),
        parameters: facts.parameters,
        window: Tokens(facts.window as u64),
    }
}

fn problem(error: &FileError) -> LocalProblem {
    let kind = match error {
        FileError::Io(_) => LocalProblemKind::Unreadable,
        FileError::Version(_)
        | FileError::Encoding { .. }
        | FileError::Unsupported { .. }
        | FileError::Over { .. } => LocalProblemKind::Unsupported,
        FileError::NotGguf
        | FileError::Cut { .. }
        | FileError::Twice(_)
        | FileError::Missing(_)
        | FileError::Value { .. }
        | FileError::NotText(_)
        | FileError::ValueType { .. }
        | FileError::NoTensor(_)
        | FileError::Tensor { .. }
        | FileError::Vocabulary(_)
        | FileError::Weights(_) => LocalProblemKind::Malformed,
    };
    let message = match error {
        FileError::Io(cause) => format!("{error}: {cause}"),
        other => other.to_string(),
    };
    LocalProblem { kind, message }
}

/// Requests that have not ended, in the order they came.
type Open = Arc<Mutex<Vec<(RequestSerial, Cancel)>>>;

/// One request on its way to the thread that computes.
struct Job {
    serial: RequestSerial,
    request: Box<ModelRequest>,
    cancel: Cancel,
    control: Control,
}

/// Serves until the channel ends.
///
/// # Errors
/// [`ServeError`] when it ends otherwise than between two frames, or nothing can be computed any more.
pub fn serve(channel: Channel, engine: Engine) -> Result<(), ServeError> {
    let channel = Arc::new(channel);
    let open = Open::default();
    let (jobs, queue) = self::channel::<Job>();
    let computing = {
        let (channel, open) = (Arc::clone(&channel), Arc::clone(&open));
        let builder = std::thread::Builder::new().name("computing".to_owned()).stack_size(STACK_BYTES);
        builder.spawn(move || compute(engine, &channel, &queue, &open)).map_err(ServeError::Thread)?
    };
    let ended = read(&channel, &jobs, &open);
    // Nobody is left to answer: what runs ends, and the thread with it.
    lock(&open).iter().for_each(|(_, cancel)| cancel.cancel());
    drop(jobs);
    let computed = computing.join().map_err(|_| ServeError::BrokeOff);
    ended.and(computed)
}

fn read(channel: &Channel, jobs: &Sender<Job>, open: &Open) -> Result<(), ServeError> {
    loop {
        let request = match channel.receive::<ModelsRequest>() {
            Ok((request, _)) => request,
            Err(ChannelError::Closed) => return Ok(()),
            // It hung up before it had read everything.
            Err(ChannelError::Socket(error)) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        match request {
            ModelsRequest::Ask { serial, request, time } => {
                let cancel = Cancel::default();
                if !admit(open, serial, &cancel) {
                    let words =
                        format!("the local model has {MAX_REQUESTS} requests waiting; ask again later");
                    let failure = failure(ModelFailureKind::RateLimited, words);
                    channel.send(&ModelsReply::Failed { serial, failure })?;
                    continue;
                }
                let control = Control::new(cancel.clone(), Duration::from_millis(time.0));
                jobs.send(Job { serial, request, cancel, control }).map_err(|_| ServeError::BrokeOff)?;
            }
            ModelsRequest::Cancel { serial } => {
                let open = lock(open);
                open.iter().filter(|(one, _)| *one == serial).for_each(|(_, cancel)| cancel.cancel());
            }
            ModelsRequest::Describe { serial } => {
                channel.send(&ModelsReply::Described { serial, providers: Vec::new() })?;
            }
            // Metrics and spans are the gateway's alone.
            ModelsRequest::Show { .. } | ModelsRequest::Export { .. } => {}
            // It answers, and there is no key.
            ModelsRequest::Probe { serial, .. } => {
                channel.send(&ModelsReply::Probed { serial, standing: Standing::Reachable })?;
            }
        }
    }
}

/// Takes a request in, if there is room for it and none with its serial.
fn admit(open: &Open, serial: RequestSerial, cancel: &Cancel) -> bool {
    let mut open = lock(open);
    let is_welcome = open.len() < MAX_REQUESTS && open.iter().all(|(one, _)| *one != serial);
    if is_welcome {
        open.push((serial, cancel.clone()));
    }
    is_welcome
}

/// Computes one request after the other. A send that fails means that the channel has ended, which the reading thread
/// sees and ends this one for.
fn compute(mut engine: Engine, channel: &Channel, queue: &Receiver<Job>, open: &Open) {
    for job in queue {
        let serial = job.serial;
        let reply = answer(&mut engine, channel, &job);
        lock(open).retain(|(one, _)| *one != serial);
        let is_broken = reply.is_none();
        let reply = reply.unwrap_or_else(|| {
            let words = "the local model's computing broke off; this is a bug in aaOS";
            ModelsReply::Failed { serial, failure: failure(ModelFailureKind::Unavailable, words.to_owned()) }
        });
        if !job.cancel.is_cancelled() && channel.send(&reply).is_err() {
            return;
        }
        if is_broken {
            // What a panic left behind is not computed with again: the reading thread goes with it, so that nothing more is
            // taken in, and agentd starts another process.
            std::process::exit(i32::from(BROKE_OFF));
        }
    }
}

/// The reply to one request; none where the computing panicked.
fn answer(engine: &mut Engine, channel: &Channel, job: &Job) -> Option<ModelsReply> {
    let serial = job.serial;
    if job.control.check().is_ok()
        && channel.send(&ModelsReply::Begun { serial, pace: Pace::default() }).is_err()
    {
        job.cancel.cancel();
    }
    let mut tell = |text: &str| {
        let delta = ModelsReply::Delta { serial, text: text.to_owned() };
        if !job.cancel.is_cancelled() && channel.send(&delta).is_err() {
            job.cancel.cancel();
        }
    };
    let answered = || engine.answer(&job.request, &job.control, &mut tell);
    Some(match catch_unwind(AssertUnwindSafe(answered)).ok()? {
        Ok(reply) => ModelsReply::Done { serial, reply: Box::new(reply), measured: None },
        Err(error) => ModelsReply::Failed { serial, failure: told_failure(&error) },
    })
}

fn told_failure(error: &AnswerError) -> ModelFailure {
    let kind = match error {
        AnswerError::OutOfTime | AnswerError::Cancelled => ModelFailureKind::Timeout,
        AnswerError::Window { .. }
        | AnswerError::Schema { .. }
        | AnswerError::Grammar(_)
        | AnswerError::NotFinite => ModelFailureKind::Rejected,
        AnswerError::Compute(_) => ModelFailureKind::MalformedReply,
    };
    failure(kind, error.to_string())
}

fn failure(kind: ModelFailureKind, message: String) -> ModelFailure {
    ModelFailure { kind, message, retry_after: None }
}

fn lock(open: &Open) -> std::sync::MutexGuard<'_, Vec<(RequestSerial, Cancel)>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}
