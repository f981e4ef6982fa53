//! Calls that an earlier daemon began and that go on, until each has an outcome.
//!
//! Invariants: a call that goes on has an outcome once the run that would make it again is over, or its agent ends:
//! taken up or not. A child of such a call ends with it. What nobody can know is told as unknown, to the agent and to
//! the operator. A closing daemon settles nothing: then the call goes on after the next start.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aaos_core::effect::{Access, EffectClass, FileRight, Need};
use aaos_core::event::{AgentEnd, Event, NewEntry};
use aaos_core::id::{CallId, EntryId};
use aaos_core::path::AbsPath;
use aaos_core::state::{PendingCall, PendingKind, PendingTool};
use aaos_core::tool::{self, Tool, ToolPlace};
use aaos_core::toolio::{ToolFailure, ToolFailureKind};

use crate::dispatch::Invoked;
use crate::error::KernelError;
use crate::kernel::Kernel;
use crate::recovery::{UNKNOWN_OUTCOME, sent_or_not, settled};
use crate::registry::Agent;
use crate::spawn::off_thread;
use crate::view::UnknownEffect;

/// What is said of a call that can be made again and was not, because nobody asks for it any more.
const NOT_MADE_AGAIN: &str = "agentd was restarted while this ran, and what asked for it ended before it could go on; it is not made again";

/// The calls of an earlier daemon that have no outcome yet and are to have one.
#[derive(Debug, Default)]
pub(crate) struct Unfinished(Mutex<BTreeMap<CallId, PendingCall>>);

impl Unfinished {
    fn calls(&self) -> MutexGuard<'_, BTreeMap<CallId, PendingCall>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn keep(&self, pending: PendingCall) {
        self.calls().insert(pending.call, pending);
    }

    pub(crate) fn get(&self, call: CallId) -> Option<PendingCall> {
        self.calls().get(&call).cloned()
    }

    /// Takes a call out that has its outcome, or is about to get it.
    pub(crate) fn take(&self, call: CallId) -> Option<PendingCall> {
        self.calls().remove(&call)
    }

    fn of(&self, agent: &Agent) -> Vec<CallId> {
        let calls = self.calls();
        calls.values().filter(|pending| pending.agent == Some(agent.id)).map(|pending| pending.call).collect()
    }
}

impl Kernel {
    /// Gives the calls of an agent their outcome that nobody goes on with: what asked for them is over.
    pub(crate) async fn settle_unfinished(&self, agent: &Arc<Agent>) {
        for call in self.unfinished().of(agent) {
            let Some(pending) = self.unfinished().take(call) else { continue };
            self.retire_children_of(&pending).await;
            if let Err(error) = self.settle_as_left(agent, &pending).await {
                tracing::error!(%error, %call, "the outcome of a call could not be journalled");
            }
        }
    }

    /// A call that was to go on and cannot be made out any more gets its outcome, which its model is told. None where it
    /// has one.
    pub(crate) async fn settle_unmade(
        &self,
        agent: &Arc<Agent>,
        call: CallId,
    ) -> Result<Option<Invoked>, KernelError> {
        let Some(pending) = self.unfinished().take(call) else { return Ok(None) };
        self.retire_children_of(&pending).await;
        let (result, entry) = self.settle_as_left(agent, &pending).await?;
        let count = match &pending.kind {
            PendingKind::Tool(made) => made.repeats,
            PendingKind::Inference { .. } | PendingKind::Spawn { .. } | PendingKind::Connection { .. } => 0,
        };
        Ok(Some(Invoked { result, count, entry: Some(entry) }))
    }

    async fn settle_as_left(
        &self,
        agent: &Agent,
        pending: &PendingCall,
    ) -> Result<(Result<String, ToolFailure>, EntryId), KernelError> {
        let PendingKind::Tool(made) = &pending.kind else {
            unreachable!("only calls of tools go on");
        };
        let result = left_as(pending, made);
        let now = self.clock().now();
        let event = settled(now, pending, made, result.clone());
        let Event::ToolResult { spent, .. } = &event else { unreachable!("it is the outcome of a tool") };
        let spent = *spent;
        let entry = NewEntry {
            trace_id: pending.trace,
            parent_event: Some(pending.intent),
            ..self.agent_entry(agent, event)
        };
        let entry = self.journal().record(entry).await?;
        if result.as_ref().is_err_and(|failure| failure.kind == ToolFailureKind::WorkerLost) {
            self.add_unknown(UnknownEffect::of(pending, made, agent.owner));
        }
        self.authority().settle(pending.call, &pending.charges, &spent, now);
        self.budget_changed().notify_waiters();
        Ok((result, entry.id))
    }

    /// The children that a call still waited for end with it.
    async fn retire_children_of(&self, pending: &PendingCall) {
        let PendingKind::Tool(made) = &pending.kind else { return };
        let waiting = made.children.values().filter(|child| child.outcome.is_none());
        for child in waiting.filter_map(|child| child.agents.last()) {
            let Some(child) = self.table().agent(*child) else { continue };
            // A child's own calls are settled on the way, and so on down.
            Box::pin(self.retire_or_log(&child, AgentEnd::Stopped)).await;
        }
    }

    /// Removes what calls of unknown outcome left beside the files that they were to change, below roots that are
    /// still granted.
    pub(crate) async fn discard_leftovers(&self, leftovers: Vec<Leftover>) {
        for Leftover { call, path, access } in leftovers {
            let roots = self.roots().clone();
            let discard = move || {
                let below = access.relative.as_deref().unwrap_or_default();
                roots.discard_unfinished(&path, access.grant, below, access.no_links, call)
            };
            match off_thread(discard).await {
                Ok(Ok(found)) => tracing::debug!(%call, found, "looked for what a call left"),
                Ok(Err(error)) => tracing::warn!(%error, %call, "what a call left stays where it is"),
                Err(error) => tracing::warn!(%error, %call, "what a call left stays where it is"),
            }
        }
    }
}

/// What a call of unknown outcome may have left beside a file that it was to change.
#[derive(Debug)]
pub(crate) struct Leftover {
    call: CallId,
    path: AbsPath,
    access: Access,
}

impl Leftover {
    /// One for each file that a call was to change.
    pub(crate) fn of(call: CallId, made: &PendingTool) -> impl Iterator<Item = Self> {
        made.access.iter().filter_map(move |access| match &access.need {
            Need::File { right: FileRight::Write, path } => {
                Some(Self { call, path: path.clone(), access: access.clone() })
            }
            _ => None,
        })
    }
}

/// What is known of a call that is not made again.
fn left_as(pending: &PendingCall, made: &PendingTool) -> Result<String, ToolFailure> {
    if made.tool.as_str() == tool::SendMessage::NAME {
        return sent_or_not(made);
    }
    let Some(found) = tool::find(made.tool.as_str()) else {
        return Err(gone(pending, made));
    };
    if pending.class == EffectClass::Safe || found.place == ToolPlace::Kernel {
        return Err(ToolFailure::new(ToolFailureKind::Cancelled, NOT_MADE_AGAIN));
    }
    Err(ToolFailure::new(ToolFailureKind::WorkerLost, UNKNOWN_OUTCOME))
}

/// A call of a tool that this version does not have.
fn gone(pending: &PendingCall, made: &PendingTool) -> ToolFailure {
    let name = &made.tool;
    if pending.class == EffectClass::Safe {
        let why = format!("this version of agentd has no tool {name}; do without it, or use another tool");
        return ToolFailure::new(ToolFailureKind::UnknownTool, why);
    }
    let why = format!(
        "this version of agentd has no tool {name}, and whether the call took effect before the restart is unknown; \
         look what it did, and use another tool"
    );
    ToolFailure::new(ToolFailureKind::WorkerLost, why)
}
