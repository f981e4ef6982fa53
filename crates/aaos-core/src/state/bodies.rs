//! Which entries the state cannot do without.
//!
//! Invariant: what [`State::apply`](super::State::apply) goes by, it goes by only if [`needs_body`] says so; a new kind
//! has to decide.

use crate::event::EventKind;

/// Whether a restart goes by what entries of this kind say, so that one without its body means another state. True of
/// all that [`State::apply`] and the minds that are stepped again go by; all else may be erased.
#[must_use]
pub fn needs_body(kind: EventKind) -> bool {
    match kind {
        EventKind::DaemonStarted
        | EventKind::GoalAccepted
        | EventKind::GoalForked
        | EventKind::GoalStarted
        | EventKind::GoalFinished
        | EventKind::AgentSpawned
        | EventKind::CapabilityGranted
        | EventKind::CapabilityDenied
        | EventKind::CapabilityRevoked
        | EventKind::AgentStopped
        | EventKind::AgentExecutionStarted
        | EventKind::AgentExecutionForked
        | EventKind::AgentExecutionResumed
        | EventKind::AgentExecutionCompleted
        | EventKind::AgentRestarted
        | EventKind::ScheduleFired
        | EventKind::ScheduleMissed
        | EventKind::AgentPaused
        | EventKind::AgentResumed
        | EventKind::MessageDelivered
        | EventKind::AgentMessageReceived
        | EventKind::ToolInvoked
        | EventKind::ToolResult
        | EventKind::CallRefused
        | EventKind::InferenceRequested
        | EventKind::InferenceRetried
        | EventKind::InferenceCompleted
        | EventKind::ContextSummarized
        | EventKind::ContextSummarizationFailed
        | EventKind::HumanApprovalRequested
        | EventKind::HumanApprovalGranted
        | EventKind::HumanApprovalDenied
        | EventKind::SpawnRequested
        | EventKind::SpawnCompleted
        | EventKind::ChildEnded
        | EventKind::ConnectionRequested
        | EventKind::ConnectionEnded
        | EventKind::JournalPruned
        // Never recorded: a header that says so was not written by a journal.
        | EventKind::BodyErased => true,
        EventKind::DaemonStopped
        | EventKind::DenialsSuppressed
        | EventKind::ModelClimbed
        | EventKind::AgentLoopStarted
        | EventKind::AgentLoopStopped
        | EventKind::MessageSent
        | EventKind::ToolRepeatGuardFired
        | EventKind::UsageReported
        | EventKind::BudgetExceeded
        | EventKind::Overdraft
        | EventKind::ChildRetried
        | EventKind::WorkerStarted
        | EventKind::ConfinementReceipt
        | EventKind::ConfinementDegraded
        | EventKind::WorkerStopped
        | EventKind::NetworkFetched
        | EventKind::WorkspaceRemoved
        | EventKind::AuditStdoutStopped => false,
    }
}
