//! Watching a goal: progress as it happens, questions on the way, the answer at the end, Ctrl-C in between.
//!
//! Invariants: the exit code is the one that the daemon recorded; a first interrupt cancels the goal and
//! waits for its recorded end, a second one leaves at once.

use std::path::Path;

use aaos_core::event::{Event, GoalState};
use aaos_core::id::GoalId;
use aaos_core::quantity::Millis;
use aaos_ipc::FrameBody;
use aaos_runtime::GoalView;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::signal::unix::{SignalKind, signal};

use crate::client::{Client, Streamed};
use crate::exit::Exit;
use crate::render::progress::{Clock, Story};
use crate::render::text::{block, span};
use crate::render::{OutputError, Screen, Tone, entry};

use super::asking::Asking;
use super::goal::Submission;
use super::target::OneGoal;

/// How a goal is told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Voice {
    /// Where.
    pub(super) screen: Screen,
    /// The goal as JSON instead of its answer.
    pub(super) json: bool,
    /// Only what goes wrong.
    pub(super) quiet: bool,
}

/// The reply of `agent.submit_streaming` and of `goal.follow`.
#[derive(Debug, Deserialize)]
struct Ended {
    goal: Box<RawValue>,
}

/// One goal being watched.
struct Watch<'w> {
    voice: Voice,
    socket: &'w Path,
    story: Story,
    goal: Option<GoalId>,
    interrupted: bool,
    /// Holds the cancelling request open; its answer is the goal's own end.
    canceller: Option<Client>,
    elapsed: Option<Millis>,
    asking: Asking<'w>,
}

/// Submits a goal, tells its progress and its end.
pub(super) async fn follow(
    client: &mut Client,
    socket: &Path,
    submission: &Submission<'_>,
    voice: Voice,
) -> Result<Exit> {
    follow_call(client, socket, ("agent.submit_streaming", submission), voice).await
}

/// Tells the progress of a goal that was accepted, and its end.
pub(super) async fn follow_goal(
    client: &mut Client,
    socket: &Path,
    goal: &OneGoal,
    voice: Voice,
) -> Result<Exit> {
    follow_call(client, socket, ("goal.follow", goal), voice).await
}

async fn follow_call(
    client: &mut Client,
    socket: &Path,
    (method, params): (&str, &impl Serialize),
    voice: Voice,
) -> Result<Exit> {
    let mut interrupts = signal(SignalKind::interrupt()).context("cannot take Ctrl-C")?;
    let mut terminations = signal(SignalKind::terminate()).context("cannot take SIGTERM")?;
    let request = client.begin(method, params).await?;
    let mut watch = Watch {
        voice,
        socket,
        story: Story::new(Clock::Elapsed),
        goal: None,
        interrupted: false,
        canceller: None,
        elapsed: None,
        asking: Asking::new(socket, voice.screen)?,
    };
    let reply = loop {
        tokio::select! {
            next = client.next(&request) => match next? {
                Streamed::Frame(frame) => watch.frame(&frame).await?,
                Streamed::Reply(reply) => break reply,
            },
            typed = watch.asking.line(), if watch.asking.is_asking() => watch.asking.typed(typed).await,
            _ = interrupts.recv() => watch.interrupt().await?,
            _ = terminations.recv() => watch.interrupt().await?,
        }
    };
    watch.asking.stop();
    watch.end(&reply)
}

impl Watch<'_> {
    async fn frame(&mut self, frame: &FrameBody) -> Result<()> {
        match frame {
            FrameBody::Event(entry) => {
                // What it did is told as it happens, how it ended once the reply is there.
                let is_told_apart =
                    matches!(entry.event, Event::GoalAccepted { .. } | Event::GoalFinished { .. });
                let mut said = self.story.tell(entry);
                said.retain(|said| {
                    let is_trouble = matches!(said.tone, Tone::Bad | Tone::Warn);
                    !is_told_apart && (is_trouble || !self.voice.quiet)
                });
                if !said.is_empty() {
                    let screen = self.voice.screen;
                    self.asking.aside(|| said.iter().for_each(|said| screen.note(said.tone, &said.text)));
                }
                self.asking.hear(entry).await;
                if self.goal.is_none() && entry.goal_id.is_some() {
                    self.goal = entry.goal_id;
                    if self.interrupted {
                        self.cancel().await?;
                    }
                }
            }
            FrameBody::End { elapsed_ms, .. } => self.elapsed = Some(*elapsed_ms),
            FrameBody::Lag { .. } | FrameBody::FinalText { .. } => {}
        }
        Ok(())
    }

    async fn interrupt(&mut self) -> Result<()> {
        if self.interrupted {
            self.voice.screen.note(Tone::Warn, "left at once; the journal says how far the goal came");
            std::process::exit(i32::from(Exit::Cancelled as u8));
        }
        self.interrupted = true;
        self.asking.stop();
        self.voice.screen.note(Tone::Warn, "cancelling the goal; once more leaves at once");
        if self.goal.is_some() { self.cancel().await } else { Ok(()) }
    }

    async fn cancel(&mut self) -> Result<()> {
        let Some(goal_id) = self.goal else { return Ok(()) };
        let mut canceller = Client::connect(self.socket).await.context("cannot cancel the goal")?;
        canceller.begin("goal.cancel", &OneGoal { goal_id }).await?;
        self.canceller = Some(canceller);
        Ok(())
    }

    /// The answer on standard output, what was found on standard error, the recorded exit code.
    fn end(&self, reply: &RawValue) -> Result<Exit> {
        let ended: Ended = serde_json::from_str(reply.get()).context("the goal's end is not understood")?;
        let goal: GoalView =
            serde_json::from_str(ended.goal.get()).context("the goal's end is not understood")?;
        let screen = self.voice.screen;
        let told = self.answer(&goal, &ended.goal);
        for output in &goal.outputs {
            let tone = if output.observed { Tone::Good } else { Tone::Bad };
            screen.note(tone, &entry::output(output));
        }
        let exit = goal.exit_code.map_or(Exit::Failed, Exit::of_number);
        let state = entry::word(&goal.state);
        let took = self.elapsed.map(|time| format!(" in {}", span(time))).unwrap_or_default();
        let usage = entry::tokens(goal.usage);
        // Whole: it may say in several lines what to do.
        let why = goal.error.as_deref().map(|why| format!(": {}", block(why))).unwrap_or_default();
        let tone = if exit == Exit::Done { Tone::Good } else { Tone::Bad };
        screen.note(tone, &format!("goal {state}{took}, {usage}{why}"));
        match told {
            // The goal's exit code stands even if nobody wanted to read the answer.
            Ok(()) | Err(OutputError::ReaderGone) => Ok(exit),
            Err(error) => Err(error.into()),
        }
    }

    /// Standard output holds an answer only if the goal is done; what a failed one said is a note.
    fn answer(&self, goal: &GoalView, raw: &RawValue) -> Result<(), OutputError> {
        let screen = self.voice.screen;
        if self.voice.json {
            return screen.json(raw);
        }
        let Some(answer) = goal.response.as_deref().filter(|answer| !answer.is_empty()) else {
            return Ok(());
        };
        if goal.state == GoalState::Done {
            return screen.line(Tone::Plain, &block(answer));
        }
        screen.note(Tone::Dim, &format!("its agent said: {}", block(answer)));
        Ok(())
    }
}
