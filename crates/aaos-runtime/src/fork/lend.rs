//! The conversation that a fork's root agent begins with, made of the entries of what was forked.
//!
//! Invariants: the entries are read anew each time, so that a fork begins with the same mind after every restart; none
//! of them is asked of anybody again; what a lent run used is nobody's here.

use std::ops::ControlFlow;
use std::sync::Arc;

use aaos_agent::{Mind, MindConfig, OpenRun, TAPE_KINDS, Tape, moved, specs_of};
use aaos_core::event::{Entry, Event, ForkPoint};
use aaos_core::id::GoalId;
use aaos_core::name::ToolName;
use aaos_core::state::ForkRecord;
use aaos_journal::Filter;

use super::refused::ForkRefused;
use crate::error::KernelError;
use crate::kernel::Kernel;
use crate::recovery::RunSoFar;
use crate::registry::Agent;
use crate::repeat::RepeatCounts;
use crate::run::Resumption;

/// What a fork's root agent begins with.
#[derive(Debug)]
pub(crate) struct Lent {
    pub(crate) tape: Tape,
    /// Which calls were made how often.
    pub(crate) repeats: RepeatCounts,
}

impl Kernel {
    /// How the first run of a goal's agent begins: with this briefing, or where the goal was forked.
    pub(crate) async fn first_run(
        &self,
        agent: &Arc<Agent>,
        briefing: String,
    ) -> Result<RunSoFar, KernelError> {
        let lent = self.lent_to(agent).await?;
        Ok(lent.map_or(RunSoFar::None(briefing), |lent| RunSoFar::Lent(Box::new(lent))))
    }

    /// What an agent begins with; nothing for any but the root agent of a fork.
    pub(crate) async fn lent_to(&self, agent: &Agent) -> Result<Option<Lent>, KernelError> {
        let Some((goal, fork)) = self.fork_of(agent) else { return Ok(None) };
        self.lend(&fork.points, goal, self.mind_config(agent)).await.map(Some)
    }

    fn fork_of(&self, agent: &Agent) -> Option<(GoalId, Arc<ForkRecord>)> {
        let (goal, None) = (agent.goal?, agent.parent) else { return None };
        let fork = self.table().goals.get(&goal)?.fork.clone()?;
        Some((goal, fork))
    }

    /// Gives `take` what an agent's conversation was lent, as entries of its own goal; nothing for any but the root
    /// agent of a fork.
    pub(crate) async fn each_lent(
        &self,
        agent: &Agent,
        mut take: impl FnMut(Entry) -> Result<(), KernelError>,
    ) -> Result<(), KernelError> {
        let Some((goal, fork)) = self.fork_of(agent) else { return Ok(()) };
        for point in &fork.points {
            self.each_step(*point, |entry| take(moved(&entry, goal))).await?;
        }
        Ok(())
    }

    /// Steps a mind of this make through the entries up to these points, as entries of `goal`.
    pub(super) async fn lend(
        &self,
        points: &[ForkPoint],
        goal: GoalId,
        config: MindConfig,
    ) -> Result<Lent, KernelError> {
        let mut lent = Lent { tape: Tape::lent(config), repeats: RepeatCounts::default() };
        for point in points {
            self.each_step(*point, |entry| {
                let entry = moved(&entry, goal);
                lent.tape.take(&entry, specs_of).map_err(ForkRefused::from)?;
                lent.repeats.recall(&entry.event, &lent.tape);
                Ok(())
            })
            .await?;
            if !lent.tape.is_running() {
                return Err(ForkRefused::Archived(point.goal).into());
            }
        }
        Ok(lent)
    }

    /// Gives `take` what is recorded of the root agent's mind of a goal up to a point.
    pub(super) async fn each_step(
        &self,
        point: ForkPoint,
        mut take: impl FnMut(Entry) -> Result<(), KernelError>,
    ) -> Result<(), KernelError> {
        self.each_until(point, &TAPE_KINDS, |entry| match entry.event {
            Event::BodyErased { .. } => Err(ForkRefused::Erased(entry.seq).into()),
            _ => take(entry).map(ControlFlow::Continue),
        })
        .await
    }

    /// Gives `take` the entries of these kinds of a goal's root agent up to a point, until it wants no more.
    async fn each_until(
        &self,
        point: ForkPoint,
        kinds: &[&str],
        mut take: impl FnMut(Entry) -> Result<ControlFlow<()>, KernelError>,
    ) -> Result<(), KernelError> {
        let kinds = kinds.iter().map(|kind| (*kind).to_owned()).collect();
        let filter = Filter { goal: Some(point.goal), agent: Some(point.root), kinds, ..Filter::default() };
        self.each_entry(filter, |entry| match entry.seq > point.at {
            true => Ok(ControlFlow::Break(())),
            false => take(entry),
        })
        .await
    }

    /// Gives `take` how each child of an agent ended; for the root agent of a fork also what its conversation was lent.
    pub(crate) async fn each_child_ended(
        &self,
        agent: &Agent,
        mut take: impl FnMut(Entry),
    ) -> Result<(), KernelError> {
        const KINDS: [&str; 1] = ["child_ended"];
        let mut take = |entry| {
            take(entry);
            Ok(ControlFlow::Continue(()))
        };
        if let Some((_, fork)) = self.fork_of(agent) {
            for point in &fork.points {
                self.each_until(*point, &KINDS, &mut take).await?;
            }
        }
        let kinds = KINDS.map(str::to_owned).to_vec();
        let filter = Filter { goal: agent.goal, agent: Some(agent.id), kinds, ..Filter::default() };
        self.each_entry(filter, take).await
    }

    /// Gives `take` the entries that match, in their order, until it wants no more.
    pub(crate) async fn each_entry(
        &self,
        mut filter: Filter,
        mut take: impl FnMut(Entry) -> Result<ControlFlow<()>, KernelError>,
    ) -> Result<(), KernelError> {
        loop {
            let entries = self.journal().read(filter.clone()).await?;
            let Some(last) = entries.last() else { return Ok(()) };
            filter.after_seq = Some(last.seq);
            for entry in entries {
                if take(entry)?.is_break() {
                    return Ok(());
                }
            }
        }
    }

    /// Begins a run with what is lent: what is to be recorded of it, its mind, and what that waits for.
    pub(crate) fn take_over(
        &self,
        agent: &Agent,
        lent: Lent,
    ) -> Result<(Event, Mind, OpenRun, Resumption), KernelError> {
        let tools = self.tools_shown(agent);
        let names: Vec<ToolName> = tools.iter().map(|tool| tool.name.clone()).collect();
        let nothing = || KernelError::State(format!("agent {} was lent no conversation", agent.id));
        let (mind, open) = lent.tape.take_over(tools).ok_or_else(nothing)?;
        let resumption = Resumption { repeats: lent.repeats, ..Resumption::default() };
        Ok((Event::AgentExecutionForked { tools: names }, mind, open, resumption))
    }
}
