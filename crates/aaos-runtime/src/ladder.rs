//! Agents with several models (`models`): which one a run asks, and the runs that follow one that came to nothing.
//!
//! Invariants: a climb is recorded together with the beginning of the run that it is for, so that the journal alone tells
//! which model goes on. Of an agent without a mailbox a run follows another only where a better model is left and its
//! supervision allows it; each is bounded like the first.

use std::sync::Arc;

use aaos_agent::{Mind, RunEnd};
use aaos_core::event::Event;
use aaos_core::ladder::ClimbReason;

use crate::error::KernelError;
use crate::kernel::Kernel;
use crate::recovery::{Over, RunSoFar};
use crate::registry::{Agent, OnlyRun};

impl Kernel {
    /// Has a mind think with the model that is its agent's turn, in the run that begins now; what is to be recorded, where
    /// that is another one than in the run before.
    pub(crate) fn climb(&self, agent: &Agent, mind: &mut Mind) -> Option<Event> {
        let ladder = agent.live().watch.ladder;
        let Some(reason) = ladder.climb(&agent.manifest) else {
            mind.think_with(ladder.rung());
            return None;
        };
        let (from, to) = (ladder.rung(), ladder.rung().saturating_add(1));
        mind.think_with(to);
        let model = |rung| agent.manifest.model_at(rung).clone();
        Some(Event::ModelClimbed { from: model(from), to: model(to), reason })
    }

    /// Runs an agent without a mailbox to the end of its run, from wherever that stands, and then again as long as that
    /// came to nothing and it has a better model.
    pub(crate) async fn run_up(&self, agent: &Arc<Agent>, run: RunSoFar) -> Result<RunEnd, KernelError> {
        let over = match run {
            RunSoFar::Ended(over) => *over,
            run => {
                let (mind, end) = self.run_on(agent, run).await?;
                Over { end, mind: Some(mind), restarted: false }
            }
        };
        self.go_up(agent, over, None).await
    }

    /// Goes on where a run is over that came to nothing, as long as the agent has a better model. Whoever holds the right
    /// to make its runs keeps it until the last of them.
    pub(crate) async fn go_up(
        &self,
        agent: &Arc<Agent>,
        over: Over,
        only_run: Option<OnlyRun>,
    ) -> Result<RunEnd, KernelError> {
        let Over { mut end, mut mind, mut restarted } = over;
        while let Some(own) = mind.take()
            && self.has_another_try(agent, &end, restarted).await?
        {
            let words = words_after(&end);
            let (own, next) = match &only_run {
                Some(only_run) => self.run_alone(Arc::clone(only_run), agent, own, words, None).await?,
                None => self.run_agent(agent, own, words, None).await?,
            };
            end = RunEnd { usage: end.usage.plus(next.usage), ..next };
            (mind, restarted) = (Some(own), false);
        }
        Ok(end)
    }

    /// Whether an agent tries again after a run, with a better model; once its supervision decided so and it has rested.
    async fn has_another_try(
        &self,
        agent: &Arc<Agent>,
        end: &RunEnd,
        restarted: bool,
    ) -> Result<bool, KernelError> {
        let may = {
            let live = agent.live();
            // What a person refused is not asked again.
            !live.was_refused && live.watch.ladder.climb(&agent.manifest).is_some()
        };
        if !may || ClimbReason::of(end.stop_reason).is_none() || agent.cancel.is_cancelled() {
            return Ok(false);
        }
        if !restarted && let Some(why) = self.restart(agent, None, reason_of(end), false).await? {
            tracing::info!(agent = %agent.id, %why, "its better models are not asked");
            return Ok(false);
        }
        tokio::select! {
            rested = self.rested(agent) => Ok(rested),
            () = self.closing().cancelled() => Err(KernelError::ShuttingDown),
        }
    }
}

/// What a run failed with.
fn reason_of(end: &RunEnd) -> String {
    end.error.clone().unwrap_or_else(|| format!("it stopped with {:?}", end.stop_reason))
}

/// What an agent is told whose run came to nothing.
fn words_after(end: &RunEnd) -> String {
    format!(
        "The work so far failed: {}\n\nGo on from where it stands, and do what was asked first.",
        reason_of(end)
    )
}
