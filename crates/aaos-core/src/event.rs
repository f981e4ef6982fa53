//! Journal entries: what happened, by whom, because of what.
//!
//! Invariants: the kinds of SPEC §5 exist under these names for ever; a kind is never reused with another
//! meaning; a body never holds a key.

mod facts;

use serde::{Deserialize, Serialize};

use crate::approval::{ApprovalGrant, Question};
use crate::budget::Budget;
use crate::capability::GrantSpec;
use crate::confinement::{Boundary, ConfinementReceipt};
use crate::effect::{Access, Charge, Denied, EffectClass};
use crate::grant::GrantRecord;
use crate::id::{AgentId, ApprovalId, CallId, EntryId, GoalId, GrantId, Seq, TraceId, WorkerId};
use crate::ladder::ClimbReason;
use crate::manifest::Manifest;
use crate::model::{ModelCallId, ModelFailure, ModelReply, Usage};
use crate::name::{AgentName, ModelName, ToolName};
use crate::path::AbsPath;
use crate::price::Price;
use crate::quantity::{Amounts, Bytes, Millis, Quantity, Timestamp, Tokens};
use crate::toolio::{SpawnAgentOutput, StopReason, ToolFailure};

pub use facts::{
    AgentEnd, CutCause, DeniedBy, ForkPoint, GoalState, Kept, KeptKey, NotApproved, Opening, Outcome,
    OutputBefore, OutputObserved, Reported, RunCut, Seen, Shortened, SummaryFault,
};

/// What happened. In JSON, `kind` names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// The daemon opened the journal.
    DaemonStarted {
        /// Package version.
        version: String,
        /// Calls that had begun and go on; nobody will learn how any other unfinished one ended, and what it
        /// reserved is spent.
        resumed: Vec<CallId>,
    },
    /// The daemon is closing in good order.
    DaemonStopped {},
    /// A goal was accepted and will not be forgotten.
    GoalAccepted {
        /// What is asked for.
        goal: String,
        /// Declared outputs.
        outputs: Vec<AbsPath>,
        /// The client's deduplication key.
        client_key: Option<String>,
        /// Deadline.
        deadline: Timestamp,
        /// Purse of the whole goal.
        budget: Budget,
        /// uid of the principal.
        principal: u32,
        /// Higher goes first.
        priority: i64,
        /// The operator's root grant.
        grants: Vec<GrantSpec>,
        /// Its root agent, when not the shipped one.
        manifest: Option<Box<Manifest>>,
        /// Tools of which each use waits for a person, beside those of the root agent's manifest.
        approval_required: Vec<ToolName>,
        /// Against which relative paths of the goal are meant.
        working_directory: Option<AbsPath>,
    },
    /// A goal goes on from a step of another one, under authority of its own; recorded with its acceptance.
    GoalForked {
        /// The goal whose root agent's conversation its own root agent begins with.
        from: GoalId,
        /// That agent.
        root: AgentId,
        /// The last entry of that goal that is taken over.
        at: Seq,
        /// Where that goal, if it is a fork itself, took over what its root agent began with; oldest first.
        earlier: Vec<ForkPoint>,
        /// What had stood at those declared outputs that were written by then, before they were.
        before: Vec<OutputBefore>,
    },
    /// A goal's agent began.
    GoalStarted {
        /// The goal's root agent.
        root_agent: AgentId,
        /// Its workspace.
        workspace: AbsPath,
        /// What stood at its declared outputs.
        before: Vec<OutputBefore>,
    },
    /// A goal ended.
    GoalFinished {
        /// How.
        state: GoalState,
        /// The answer.
        response: String,
        /// Declared outputs as found.
        outputs: Vec<OutputObserved>,
        /// Tokens of the whole tree.
        usage: Usage,
        /// Why it failed.
        error: Option<String>,
        /// Exit code of `run` and `submit` for it (SPEC §6).
        exit_code: u8,
    },
    /// An agent was admitted.
    AgentSpawned {
        /// Its name.
        name: AgentName,
        /// Its parent.
        parent: Option<AgentId>,
        /// 0 for a goal's root agent.
        depth: u32,
        /// Its manifest.
        manifest: Box<Manifest>,
        /// Its purse: the tighter of its manifest's and its goal's.
        budget: Budget,
        /// uid of the principal whose agent it is.
        principal: u32,
        /// The spawn that asked for it; none for an operator's own.
        spawned_by: Option<CallId>,
    },
    /// An agent received a grant.
    CapabilityGranted {
        /// The grant.
        grant: GrantRecord,
    },
    /// An effect was denied; nothing was touched.
    CapabilityDenied {
        /// What was tried: tool or effect name.
        effect: String,
        /// Why.
        denied: Denied,
        /// What stood in the way.
        #[serde(default)]
        by: DeniedBy,
    },
    /// Refused calls of an agent that have no entry of their own, because too many came within a minute.
    DenialsSuppressed {
        /// How many.
        count: u64,
    },
    /// A grant and everything derived from it ended.
    CapabilityRevoked {
        /// The grant.
        grant: GrantId,
        /// uid of the principal who revoked it.
        principal: u32,
        /// Grants that ended with it, itself included.
        ended: Vec<GrantId>,
        /// Calls in flight that were ended, whose results are not delivered.
        cut: Vec<CallId>,
    },
    /// An agent's life ended.
    AgentStopped {
        /// Why.
        end: AgentEnd,
    },
    /// A run of an agent began.
    AgentExecutionStarted {
        /// BLAKE3 of the message, hexadecimal.
        message_hash: String,
        /// The message.
        message: String,
        /// Tools that the model is shown in this run.
        tools: Vec<ToolName>,
        /// What the conversation keeps of earlier runs.
        kept: Kept,
    },
    /// The run that begins with this, and those after it, ask the next model of the agent's manifest.
    ModelClimbed {
        /// The model of the run before.
        from: ModelName,
        /// The next one.
        to: ModelName,
        /// Why.
        reason: ClimbReason,
    },
    /// A run of an agent began with the conversation that its goal took over from another one.
    AgentExecutionForked {
        /// Tools that the model is shown from here on.
        tools: Vec<ToolName>,
    },
    /// A run that a restart cut short goes on.
    AgentExecutionResumed {},
    /// A run of an agent ended.
    AgentExecutionCompleted {
        /// Final text.
        response: String,
        /// Tokens used.
        usage: Usage,
        /// Turns.
        iterations: u32,
        /// Why it stopped.
        stop_reason: StopReason,
        /// What went wrong.
        error: Option<String>,
        /// What cut it short; absent where the model's last reply ended it.
        cut: Option<RunCut>,
        /// BLAKE3 of the mind's state after it, hexadecimal; empty where no mind was there.
        mind_hash: String,
    },
    /// A persistent agent's mailbox loop began.
    AgentLoopStarted {},
    /// A persistent agent's mailbox loop ended.
    AgentLoopStopped {},
    /// An agent failed and goes on. Of one with a mailbox the entry's trace is the message that it failed at; one without
    /// goes on with what it was asked, because it has a better model.
    AgentRestarted {
        /// Restarts in the window of its supervision, this one included.
        restarts: u32,
        /// How long it rests before it goes on.
        after: Millis,
        /// What went wrong.
        reason: String,
        /// Whether its conversation begins anew, because it could not be taken up.
        fresh: bool,
    },
    /// The clock woke a scheduled agent; the message of its schedule was delivered with this.
    ScheduleFired {
        /// The due time, which never fires again.
        due: Timestamp,
    },
    /// Due times of a scheduled agent that nobody fired, or that another one stands for.
    ScheduleMissed {
        /// How many.
        count: u32,
        /// None until then fires any more.
        until: Timestamp,
    },
    /// A persistent agent was paused.
    AgentPaused {},
    /// A persistent agent was resumed.
    AgentResumed {},
    /// A message lies in an agent's mailbox and will not be forgotten.
    MessageDelivered {
        /// The text, as the agent is told it.
        message: String,
        /// The agent that sent it; absent where the operator or the agent's own schedule did.
        from: Option<AgentId>,
        /// The tool call that sent it.
        under: Option<CallId>,
    },
    /// A persistent agent took a message from its mailbox.
    AgentMessageReceived {},
    /// An agent or the operator sent a message.
    MessageSent {
        /// To whom.
        to: AgentId,
    },
    /// Intent of a tool call; durable before the call unless it is safe.
    ToolInvoked {
        /// Joins it with its result.
        call: CallId,
        /// Which tool.
        tool: ToolName,
        /// Its arguments.
        input: serde_json::Value,
        /// After-crash class.
        class: EffectClass,
        /// Grants used.
        access: Vec<Access>,
        /// Items of a batch that were denied, in their order.
        denied: Vec<Denied>,
        /// What was charged.
        charges: Vec<Charge>,
        /// Which call of the agent's model it is; absent where somebody else asked for it.
        model_call: Option<ModelCallId>,
        /// Size of the file that an append goes on from.
        at: Option<Bytes>,
        /// How often the agent made this very call since its run began, this time included.
        repeats: u32,
    },
    /// Outcome of a tool call.
    ToolResult {
        /// Joins it with its intent.
        call: CallId,
        /// Which tool.
        tool: ToolName,
        /// How it ended.
        outcome: Outcome,
        /// BLAKE3 of the result's JSON text, hexadecimal.
        result_hash: String,
        /// Size of the result's JSON text.
        result_bytes: Bytes,
        /// The result's JSON text, if it was done.
        result: Option<String>,
        /// The failure, if it failed.
        failure: Option<ToolFailure>,
        /// The worker that ran it; `confinement_receipt` holds its receipt.
        worker: Option<WorkerId>,
        /// What it used of its reservations.
        spent: Amounts,
        /// How long it took.
        elapsed: Millis,
    },
    /// A call that an agent's model asked for was not begun; the model was told why.
    CallRefused {
        /// Which call.
        model_call: ModelCallId,
        /// What it was told.
        failure: ToolFailure,
        /// How often the agent made this very call since its run began, this time included.
        repeats: u32,
    },
    /// The same tool was called with the same input too often; a hint was added.
    ToolRepeatGuardFired {
        /// Which tool.
        tool: ToolName,
        /// How often.
        count: u32,
    },
    /// Intent of an inference; durable before the request is sent.
    InferenceRequested {
        /// Joins it with its outcome.
        call: CallId,
        /// Model.
        model: ModelName,
        /// Messages sent.
        messages: u64,
        /// Bytes of text sent: bounds from below what it must have cost.
        request_bytes: Bytes,
        /// BLAKE3 of what the agent's mind asked, hexadecimal.
        request_hash: String,
        /// Tokens reserved.
        reserve: Tokens,
        /// What the request was thought to take, of its own conversation's reports; compare with what its reply reports.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        estimate: Option<Tokens>,
        /// What the model costs, where that is known.
        price: Option<Price>,
        /// What was charged.
        charges: Vec<Charge>,
        /// Of a request for a summary of the agent's own conversation: how many of its newest messages are left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        keeps: Option<u64>,
    },
    /// Outcome of an inference.
    InferenceCompleted {
        /// Joins it with its intent.
        call: CallId,
        /// The reply, or the failure.
        result: Result<ModelReply, ModelFailure>,
        /// Attempts made.
        attempts: u32,
        /// Of those, the failed ones that the provider may have billed without a report.
        possibly_billed: u32,
        /// What it used of its reservations.
        spent: Amounts,
        /// How long it took, waits included.
        elapsed: Millis,
    },
    /// A provider told us to wait, or failed; the inference will be tried again.
    InferenceRetried {
        /// Which inference. With `instead` it may be one that never began: its provider wanted no request in time.
        call: CallId,
        /// Why.
        failure: ModelFailure,
        /// How long the wait is.
        wait: Millis,
        /// The model that is asked in its place, where an alias means another one besides.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instead: Option<ModelName>,
    },
    /// A summary stands in the place of the oldest part of an agent's conversation.
    ContextSummarized {
        /// What became of the conversation.
        shortened: Shortened,
    },
    /// There is no summary of the oldest part of an agent's conversation.
    ContextSummarizationFailed {
        /// Why.
        reason: SummaryFault,
        /// Why, in words.
        message: String,
        /// What became of the conversation: the part went all the same. Absent where nothing could go.
        shortened: Option<Shortened>,
    },
    /// What a run used so far.
    UsageReported {
        /// Of this agent alone.
        usage: Usage,
        /// Used of its purse, with its children.
        used: Amounts,
    },
    /// A purse could not cover a request.
    BudgetExceeded {
        /// Of what.
        quantity: Quantity,
        /// What was wanted.
        wanted: u64,
        /// What was left.
        remaining: u64,
    },
    /// More was used than was reserved.
    Overdraft {
        /// Of what.
        quantity: Quantity,
        /// Reserved.
        reserved: u64,
        /// Used, as reported.
        used: u64,
    },
    /// An effect waits for a person.
    HumanApprovalRequested {
        /// The question.
        question: Box<Question>,
        /// When it counts as denied.
        deadline: Timestamp,
    },
    /// A person approved an effect, or more like it.
    HumanApprovalGranted {
        /// What holds from now on.
        approval: ApprovalGrant,
        /// uid of the principal who approved.
        principal: u32,
        /// Why.
        reason: Option<String>,
    },
    /// An effect was not approved.
    HumanApprovalDenied {
        /// The question.
        approval: ApprovalId,
        /// uid of the principal who denied it; absent where nobody answered in time or the agent ended.
        principal: Option<u32>,
        /// Why.
        reason: String,
        /// How it came to that.
        #[serde(default)]
        because: NotApproved,
    },
    /// Intent of a spawn.
    SpawnRequested {
        /// Joins it with its outcome.
        call: CallId,
        /// The child's name.
        child: AgentName,
        /// What was charged.
        charges: Vec<Charge>,
        /// The tool call that spawns.
        under: CallId,
        /// Which of that call's children it is, from 0.
        index: u32,
    },
    /// Outcome of a spawn.
    SpawnCompleted {
        /// Joins it with its intent.
        call: CallId,
        /// The child, if admitted.
        child: Option<AgentId>,
        /// Why not.
        failure: Option<ToolFailure>,
        /// What it used of its reservations.
        spent: Amounts,
    },
    /// A child of a spawning call ended for good, its second attempt included.
    ChildEnded {
        /// The spawning call.
        call: CallId,
        /// Which of its children, from 0.
        index: u32,
        /// The child's name; absent where its manifest could not be read.
        name: Option<AgentName>,
        /// What the parent is told.
        outcome: Result<SpawnAgentOutput, ToolFailure>,
    },
    /// A failed child is tried once more.
    ChildRetried {
        /// The failed child.
        child: AgentId,
        /// Its failure.
        reason: String,
    },
    /// A worker is locked and ready.
    WorkerStarted {
        /// Which.
        worker: WorkerId,
        /// Its pid.
        pid: u32,
    },
    /// The proof of a worker's or gateway's confinement.
    ConfinementReceipt {
        /// The receipt.
        receipt: ConfinementReceipt,
        /// `worker`, `models` or `egress`.
        role: String,
    },
    /// A preferred boundary is missing; policy lets it run.
    ConfinementDegraded {
        /// Which process.
        worker: WorkerId,
        /// What is missing.
        missing: Vec<Boundary>,
    },
    /// A worker ended.
    WorkerStopped {
        /// Which.
        worker: WorkerId,
        /// Exit status or signal, in words.
        reason: String,
        /// The last bytes of its standard error, made harmless.
        stderr_tail: String,
    },
    /// The egress gateway opened a connection for an agent.
    NetworkFetched {
        /// Which call.
        call: CallId,
        /// The URL.
        url: String,
        /// URL after redirects.
        final_url: Option<String>,
        /// Bytes received.
        bytes: Bytes,
    },
    /// Intent of a program's connection, or of a further lease of one.
    ConnectionRequested {
        /// Joins it with its outcome.
        call: CallId,
        /// The tool call whose program connects.
        under: CallId,
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
        /// What it may move, both ways together.
        lease: Bytes,
        /// The first lease of the same connection.
        continues: Option<CallId>,
        /// Grants used.
        access: Vec<Access>,
        /// What was charged.
        charges: Vec<Charge>,
    },
    /// Outcome of a program's connection, or of one lease of it.
    ConnectionEnded {
        /// Joins it with its intent.
        call: CallId,
        /// Bytes to the host.
        sent: Bytes,
        /// Bytes from it.
        received: Bytes,
        /// Why it ended before its time.
        failure: Option<ToolFailure>,
        /// What it used of its reservations.
        spent: Amounts,
        /// How long it lasted.
        elapsed: Millis,
    },
    /// The workspace of a goal that ended long ago was removed.
    WorkspaceRemoved {
        /// Files, directories and whatever else it held.
        entries: u64,
        /// What could not be removed, and why.
        left: Option<String>,
    },
    /// Standard output no longer takes the audit trail; the journal goes on without it.
    AuditStdoutStopped {
        /// The last entry that was printed.
        after: Seq,
        /// Why.
        reason: String,
    },
    /// Older entries lie in an archive and are no longer in the database; recorded in the transaction that removed them.
    JournalPruned {
        /// The last of them.
        through: Seq,
        /// How many this removed.
        entries: u64,
        /// The head that the archive ends with and the next entry follows, `SEQ:HASH`.
        head: String,
        /// The archive's name, in `archive/` of the state directory.
        archive: String,
        /// Client keys of goals that ended not long ago and may lie in an archive now; with the first of several archives.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        client_keys: Vec<KeptKey>,
    },
    /// Stands in an entry whose body was erased; never stored itself.
    BodyErased {
        /// The kind that the entry's header still names.
        original: String,
    },
}

/// Makes the list of kinds and the kind of each event one declaration.
macro_rules! kinds {
    ($($event:ident => $kind:literal,)+) => {
        /// Every kind there is, in the order of [`Event`]'s variants.
        pub const EVENT_KINDS: &[&str] = &[$($kind),+];

        /// A kind by itself: what is left of an event whose body was erased.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum EventKind {
            $(
                #[doc = concat!("`", $kind, "`.")]
                $event,
            )+
        }

        impl EventKind {
            /// The kind of that name, if there is one.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                match name {
                    $($kind => Some(Self::$event),)+
                    _ => None,
                }
            }

            /// The kind of an event.
            #[must_use]
            pub fn of(event: &Event) -> Self {
                match event {
                    $(Event::$event { .. } => Self::$event,)+
                }
            }
        }

        impl Event {
            /// The `kind` under which it is stored.
            #[must_use]
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Self::$event { .. } => $kind,)+
                }
            }
        }
    };
}

kinds! {
    DaemonStarted => "daemon_started",
    DaemonStopped => "daemon_stopped",
    GoalAccepted => "goal_accepted",
    GoalForked => "goal_forked",
    GoalStarted => "goal_started",
    GoalFinished => "goal_finished",
    AgentSpawned => "agent_spawned",
    CapabilityGranted => "capability_granted",
    CapabilityDenied => "capability_denied",
    DenialsSuppressed => "denials_suppressed",
    CapabilityRevoked => "capability_revoked",
    AgentStopped => "agent_stopped",
    AgentExecutionStarted => "agent_execution_started",
    ModelClimbed => "model_climbed",
    AgentExecutionForked => "agent_execution_forked",
    AgentExecutionResumed => "agent_execution_resumed",
    AgentExecutionCompleted => "agent_execution_completed",
    AgentLoopStarted => "agent_loop_started",
    AgentLoopStopped => "agent_loop_stopped",
    AgentRestarted => "agent_restarted",
    ScheduleFired => "schedule_fired",
    ScheduleMissed => "schedule_missed",
    AgentPaused => "agent_paused",
    AgentResumed => "agent_resumed",
    MessageDelivered => "message_delivered",
    AgentMessageReceived => "agent_message_received",
    MessageSent => "message_sent",
    ToolInvoked => "tool_invoked",
    ToolResult => "tool_result",
    CallRefused => "call_refused",
    ToolRepeatGuardFired => "tool_repeat_guard_fired",
    InferenceRequested => "inference_requested",
    InferenceCompleted => "inference_completed",
    InferenceRetried => "inference_retried",
    ContextSummarized => "context_summarized",
    ContextSummarizationFailed => "context_summarization_failed",
    UsageReported => "usage_reported",
    BudgetExceeded => "budget_exceeded",
    Overdraft => "overdraft",
    HumanApprovalRequested => "human_approval_requested",
    HumanApprovalGranted => "human_approval_granted",
    HumanApprovalDenied => "human_approval_denied",
    SpawnRequested => "spawn_requested",
    SpawnCompleted => "spawn_completed",
    ChildEnded => "child_ended",
    ChildRetried => "child_retried",
    WorkerStarted => "worker_started",
    ConfinementReceipt => "confinement_receipt",
    ConfinementDegraded => "confinement_degraded",
    WorkerStopped => "worker_stopped",
    NetworkFetched => "network_fetched",
    ConnectionRequested => "connection_requested",
    ConnectionEnded => "connection_ended",
    WorkspaceRemoved => "workspace_removed",
    AuditStdoutStopped => "audit_stdout_stopped",
    JournalPruned => "journal_pruned",
    BodyErased => "body_erased",
}

/// Kinds of SPEC §5 that nothing in this version records yet; their names are taken.
const RESERVED_KINDS: &[&str] = &["memory_queried", "memory_stored", "session_store_error"];

/// Whether entries of this kind exist, now or in a later version.
#[must_use]
pub fn is_kind(name: &str) -> bool {
    EVENT_KINDS.contains(&name) || RESERVED_KINDS.contains(&name)
}

/// Who and what an entry is about. The journal adds sequence number, id and hashes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewEntry {
    /// When, by the runtime's clock.
    pub timestamp: Timestamp,
    /// Which goal.
    pub goal_id: Option<GoalId>,
    /// Which agent.
    pub agent_id: Option<AgentId>,
    /// Which delivered message.
    pub trace_id: Option<TraceId>,
    /// The entry that caused it.
    pub parent_event: Option<EntryId>,
    /// What happened.
    pub event: Event,
}

/// An entry as stored and printed (SPEC §5).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Position, from 1, without gaps.
    pub seq: Seq,
    /// Its id.
    pub id: EntryId,
    /// When: milliseconds since the epoch.
    pub timestamp: Timestamp,
    /// Which goal.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub goal_id: Option<GoalId>,
    /// Which agent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub agent_id: Option<AgentId>,
    /// Which delivered message.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trace_id: Option<TraceId>,
    /// The entry that caused it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parent_event: Option<EntryId>,
    /// What happened.
    pub event: Event,
    /// Hash of the entry before, hexadecimal; 64 zeros for the first.
    pub prev_hash: String,
    /// This entry's hash, hexadecimal.
    pub hash: String,
}

/// BLAKE3 of some content, hexadecimal: how the journal names bytes it does not hold.
#[must_use]
pub fn content_hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::{EVENT_KINDS, Event};

    #[test]
    fn the_list_of_kinds_is_what_the_journal_reads_and_writes() {
        // The reader, asked for a kind that there is not, names those that there are.
        let unknown = serde_json::from_str::<Event>(r#"{"kind":"?"}"#).expect_err("no such kind").to_string();
        let (_, expected) = unknown.split_once("expected one of ").expect("the kinds");
        let read: Vec<&str> = expected.split('`').filter(|part| part.contains(char::is_alphabetic)).collect();
        let read: Vec<&str> = read.into_iter().filter(|part| !part.contains(' ')).collect();
        assert_eq!(read, EVENT_KINDS);
        assert!(super::is_kind("memory_stored") && super::is_kind("tool_result"));
        assert!(!super::is_kind("tool_results"));
        assert!(
            super::RESERVED_KINDS.iter().all(|kind| !EVENT_KINDS.contains(kind)),
            "reserved until it is built"
        );
        let mut bare = 0;
        for kind in EVENT_KINDS {
            let text = format!("{{\"kind\":\"{kind}\"}}");
            if let Ok(event) = serde_json::from_str::<Event>(&text) {
                assert_eq!(event.kind(), *kind);
                assert_eq!(serde_json::to_string(&event).expect("JSON"), text);
                bare += 1;
            }
        }
        assert_eq!(bare, 7, "events without a field");
    }
}
