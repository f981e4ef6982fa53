//! Typed inputs and outputs of the built-in tools (SPEC §4), from which their JSON Schemas are made.
//!
//! Invariant: the schema a model is shown and the type that dispatch parses into are one declaration.

mod findings;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::budget::Shortfall;
use crate::event::Outcome;
use crate::id::{AgentId, TraceId};
use crate::limits;
use crate::model::{ModelCallId, RequestedTool, Usage};
use crate::name::AgentName;
use crate::path::AbsPath;
use crate::quantity::Bytes;

pub use findings::{PriorFindings, RecordedResult};

/// Input of `command_run`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandRunInput {
    /// The program, as its grant spells it.
    pub program: AbsPath,
    /// Its arguments, without its name; no shell looks at them.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub args: Vec<String>,
    /// Text for its standard input (up to 1 MiB); empty where absent.
    #[serde(default)]
    #[schemars(length(max = 1_048_576))]
    pub stdin: Option<String>,
    /// The directory to start in (default /).
    #[serde(default)]
    pub directory: Option<AbsPath>,
    /// How long it may run, seconds (up to 600).
    #[serde(default = "command_seconds")]
    #[schemars(range(min = 1, max = 600))]
    pub timeout_seconds: u64,
}

const fn command_seconds() -> u64 {
    limits::COMMAND_SECONDS
}

impl CommandRunInput {
    /// What a schema cannot say: the length of all arguments, and that none holds a NUL.
    ///
    /// # Errors
    /// [`ToolFailure`] (invalid arguments).
    pub fn check(&self) -> Result<(), ToolFailure> {
        let invalid = |why: String| Err(ToolFailure::new(ToolFailureKind::InvalidArguments, why));
        let bytes =
            self.args.iter().map(|arg| arg.len() + 1).sum::<usize>() + self.program.as_str().len() + 1;
        if bytes > limits::MAX_COMMAND_ARGUMENT_BYTES || self.args.len() > limits::MAX_COMMAND_ARGUMENTS {
            return invalid(format!(
                "program and arguments have {bytes} bytes in {} arguments; the limits are {} bytes and {}; put long \
                 text into stdin or a file",
                self.args.len(),
                limits::MAX_COMMAND_ARGUMENT_BYTES,
                limits::MAX_COMMAND_ARGUMENTS
            ));
        }
        if self.args.iter().any(|arg| arg.contains('\0')) {
            return invalid(
                "an argument holds a NUL, which no program can be given; leave it out".to_owned(),
            );
        }
        let stdin = self.stdin.as_ref().map_or(0, String::len);
        if stdin > limits::MAX_COMMAND_STDIN_BYTES {
            let most = limits::MAX_COMMAND_STDIN_BYTES;
            return invalid(format!("stdin has {stdin} bytes, more than {most}; put the text into a file"));
        }
        Ok(())
    }
}

/// Output of `command_run`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandRunOutput {
    /// Its exit code; 128 and the signal's number where a signal ended it.
    pub exit_code: i32,
    /// What it wrote to standard output; bytes that are not UTF-8 are shown as U+FFFD.
    pub stdout: String,
    /// What it wrote to standard error, likewise.
    pub stderr: String,
    /// Whether a part in the middle of either was left out.
    pub truncated: bool,
}

/// Input of `echo`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EchoInput {
    /// Text to be returned.
    pub message: String,
}

/// Output of `echo`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EchoOutput {
    /// The text that was given.
    pub message: String,
}

/// Input of `web_fetch`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebFetchInput {
    /// An http or https URL.
    #[schemars(length(max = 8192))]
    pub url: String,
    /// Longest body wanted, in bytes (up to 5 MiB).
    #[serde(default = "web_fetch_bytes")]
    #[schemars(range(min = 1, max = 5_242_880))]
    pub max_bytes: u64,
}

const fn web_fetch_bytes() -> u64 {
    limits::WEB_FETCH_BYTES
}

/// Output of `web_fetch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebFetchOutput {
    /// HTTP status.
    pub status: u16,
    /// Media type as the server gave it.
    pub content_type: String,
    /// The body; HTML as readable Markdown text.
    pub body: String,
    /// URL after redirects.
    pub final_url: String,
    /// Whether the body was cut at `max_bytes`.
    pub truncated: bool,
}

/// Input of `file_read`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileReadInput {
    /// The file.
    pub path: AbsPath,
    /// First byte wanted (default 0); moved forward to a character boundary.
    #[serde(default)]
    pub offset: Option<u64>,
    /// Most bytes wanted (up to 1 MiB).
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub limit: Option<u64>,
}

/// Output of `file_read`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReadOutput {
    /// UTF-8 text.
    pub content: String,
    /// Size of the whole file.
    pub size_bytes: Bytes,
}

/// Input of `file_list`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileListInput {
    /// A directory, or a file.
    pub path: AbsPath,
}

/// Kind of a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, FIFO or socket, which no tool opens.
    Other,
}

/// One entry of `file_list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListEntry {
    /// Its name; bytes that are not UTF-8 are shown as U+FFFD.
    pub name: String,
    /// Its kind.
    pub kind: FileKind,
    /// Its size; 0 for anything but a regular file.
    pub size_bytes: Bytes,
}

/// Output of `file_list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileListOutput {
    /// The path as asked.
    pub path: AbsPath,
    /// What it is.
    pub kind: FileKind,
    /// Sorted by name; for a file, the file itself.
    pub entries: Vec<ListEntry>,
    /// Whether there were more than 500.
    pub truncated: bool,
}

/// Input of `file_read_many`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileReadManyInput {
    /// 1 to 16 files, 4 MiB together.
    #[schemars(length(min = 1, max = 16))]
    pub paths: Vec<AbsPath>,
}

/// One file of `file_read_many`, in request order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadManyItem {
    /// The path as asked.
    pub path: AbsPath,
    /// Its content, or why there is none.
    pub result: Result<FileReadOutput, ToolFailure>,
}

/// Output of `file_read_many`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReadManyOutput {
    /// One item a path.
    pub files: Vec<ReadManyItem>,
}

/// Input of `file_write`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileWriteInput {
    /// The file; missing parents below the granted root are created.
    pub path: AbsPath,
    /// UTF-8 text, up to 1 MiB.
    #[schemars(length(max = 1_048_576))]
    pub content: String,
    /// Add to the end instead of replacing.
    #[serde(default)]
    pub append: bool,
}

/// Output of `file_write`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileWriteOutput {
    /// Bytes of `content`.
    pub bytes_written: Bytes,
}

/// Input of `file_edit`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileEditInput {
    /// The file.
    pub path: AbsPath,
    /// Text to be replaced; must occur exactly once unless `replace_all`.
    #[schemars(length(min = 1))]
    pub old_string: String,
    /// Its replacement.
    pub new_string: String,
    /// Replace every occurrence.
    #[serde(default)]
    pub replace_all: bool,
}

/// Output of `file_edit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEditOutput {
    /// The path as asked.
    pub path: AbsPath,
    /// Occurrences replaced.
    pub replacements: u64,
    /// Size before.
    pub bytes_before: Bytes,
    /// Size after.
    pub bytes_after: Bytes,
}

/// Input of `grep`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrepInput {
    /// A regular expression (RE2 syntax, no look-around).
    #[schemars(length(min = 1, max = 4096))]
    pub pattern: String,
    /// A directory (searched with everything below) or a file.
    pub path: AbsPath,
    /// Only files whose path below `path` fits this glob, for example `**/*.rs`.
    #[serde(default)]
    pub glob: Option<String>,
    /// Ignore case.
    #[serde(default)]
    pub case_insensitive: bool,
}

/// One matching line of `grep`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrepMatch {
    /// The file's absolute path as the next call takes it; bytes that are not UTF-8 are shown as U+FFFD.
    pub path: String,
    /// Line number, from 1.
    pub line: u64,
    /// The line, cut when long.
    pub text: String,
}

/// Output of `grep`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrepOutput {
    /// Matches in path order.
    pub matches: Vec<GrepMatch>,
    /// Files searched.
    pub files_searched: u64,
    /// Whether a limit (200 matches, 16 KiB, files, depth) cut the result.
    pub truncated: bool,
}

/// Input of `history_read`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HistoryReadInput {
    /// First turn wanted, from 1.
    #[schemars(range(min = 1))]
    pub from: u64,
    /// Last turn wanted.
    #[schemars(range(min = 1))]
    pub to: u64,
    /// Bytes of the first turn's text to leave out: where an earlier result says to go on.
    #[serde(default)]
    pub offset: Option<u64>,
    /// Most bytes wanted (up to 64 KiB).
    #[serde(default = "history_bytes")]
    #[schemars(range(min = 256, max = 65_536))]
    pub limit: u64,
}

const fn history_bytes() -> u64 {
    limits::HISTORY_BYTES
}

impl HistoryReadInput {
    /// What a schema cannot say: that the range is one.
    ///
    /// # Errors
    /// [`ToolFailure`] (invalid arguments).
    pub fn check(&self) -> Result<(), ToolFailure> {
        let Self { from, to, .. } = self;
        if from <= to {
            return Ok(());
        }
        let why = format!("there are no turns from {from} to {to}; from is the smaller number");
        Err(ToolFailure::new(ToolFailureKind::InvalidArguments, why))
    }
}

/// Who or what spoke in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HistoryRole {
    /// Whoever speaks to the agent.
    User,
    /// Its model.
    Assistant,
    /// Its model, calling a tool; the text is the arguments.
    Call,
    /// A tool; the text is the result's JSON, `{"error":…}` where there is none.
    ToolResult,
}

/// One thing that was said or done in a conversation, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryItem {
    /// The turn that it belongs to.
    pub turn: u64,
    /// Whose it is.
    pub role: HistoryRole,
    /// Which call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<ModelCallId>,
    /// The tool that is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<RequestedTool>,
    /// What came of the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// How many bytes before the text are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Size of the whole text.
    pub size_bytes: Bytes,
    /// The text.
    pub text: String,
}

/// Where to go on reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryPlace {
    /// For `from`.
    pub from: u64,
    /// For `offset`.
    pub offset: u64,
}

/// Output of `history_read`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryReadOutput {
    /// In the order of the conversation.
    pub items: Vec<HistoryItem>,
    /// The last turn that can be read back; later ones stand in the conversation.
    pub last_turn: u64,
    /// Up to which turn something was left out that is older than the agent's `memory.archive_ttl_days`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired_to: Option<u64>,
    /// Where to go on, if more was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<HistoryPlace>,
}

/// Input of `send_message`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SendMessageInput {
    /// Name of the agent that is to get it.
    pub to: AgentName,
    /// The text, up to 1 MiB; the runtime labels it as data from you.
    #[schemars(length(max = 1_048_576))]
    pub message: String,
    /// How long to wait for the reply, seconds (up to 600); not at all where absent.
    #[serde(default)]
    #[schemars(range(max = 600))]
    pub wait_seconds: Option<u64>,
}

/// Output of `send_message`: the reply, or nothing but the trace where there is none yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendMessageOutput {
    /// Which delivery; the operator reads the reply under it.
    pub trace_id: TraceId,
    /// The reply's text.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub response: Option<String>,
    /// Why the run that replied stopped.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stop_reason: Option<StopReason>,
    /// What went wrong with that run, or why there will be no reply.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

impl SendMessageOutput {
    /// Of a message that has no reply yet.
    #[must_use]
    pub const fn without_reply(trace_id: TraceId) -> Self {
        Self { trace_id, response: None, stop_reason: None, error: None }
    }
}

/// Input of `spawn_agent`, and one child of `spawn_agents`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SpawnAgentInput {
    /// The child's manifest, YAML text.
    pub manifest: String,
    /// What the child is asked to do.
    pub message: String,
    /// Data for the child (text, up to 32 KiB); the runtime labels it as quoted data. {"result": `agent_id`} hands on what
    /// an earlier child answered.
    #[serde(default)]
    pub prior_findings: Option<PriorFindings>,
}

/// Output of `spawn_agent`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnAgentOutput {
    /// The child; of the second attempt when it was retried. Absent when the child was never admitted.
    pub agent_id: Option<AgentId>,
    /// Its final text.
    pub response: String,
    /// Tokens of all attempts.
    pub usage: Usage,
    /// Turns of the last attempt.
    pub iterations: u32,
    /// Why it stopped; absent when it never ran.
    pub stop_reason: Option<StopReason>,
    /// Whether a second attempt was made.
    pub retried: bool,
    /// What went wrong in the first attempt.
    pub original_error: Option<String>,
    /// What went wrong in the end; absent on success.
    pub error: Option<String>,
}

/// Input of `spawn_agents`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SpawnAgentsInput {
    /// 1 to 16 independent children.
    #[schemars(length(min = 1, max = 16))]
    pub children: Vec<SpawnAgentInput>,
}

/// Output of `spawn_agents`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnAgentsOutput {
    /// How many children there were.
    pub count: u64,
    /// In input order.
    pub children: Vec<SpawnAgentOutput>,
}

/// Why a run stopped (SPEC §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model ended its turn.
    Complete,
    /// It made 50 turns.
    MaxIterations,
    /// The context cannot take another turn.
    MaxTokens,
    /// The last reply was cut at its token limit.
    Truncated,
    /// The purse is empty.
    BudgetExceeded,
    /// It was stopped from outside.
    Cancelled,
    /// Something failed.
    Error,
}

impl StopReason {
    /// Whether the run did what it was asked, as far as the model says.
    #[must_use]
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Complete)
    }
}

/// Kinds of tool failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolFailureKind {
    /// The arguments do not fit the schema; nothing ran.
    InvalidArguments,
    /// No such tool, or not one this agent may invoke.
    UnknownTool,
    /// A capability is missing; nothing ran.
    Denied,
    /// No such file or directory.
    NotFound,
    /// A directory, device, FIFO or socket where a file is needed; or a file where a directory is.
    WrongKind,
    /// The path leads out of the granted root.
    OutsideRoot,
    /// The content is not UTF-8.
    NotUtf8,
    /// A size limit.
    TooLarge,
    /// `old_string` does not occur, or occurs more than once.
    NoUniqueMatch,
    /// A person did not approve it, or nobody answered in time; nothing ran.
    ApprovalDenied,
    /// A grant that the call used was revoked while it ran; its result is not delivered.
    Revoked,
    /// A limit of the runtime (children, depth, agents, mailbox).
    LimitReached,
    /// The purse cannot cover it.
    BudgetExceeded,
    /// The kernel's error on a file.
    Io,
    /// The address is refused (private range, port, scheme), or the network failed.
    Network,
    /// It took too long.
    Timeout,
    /// The call was cancelled.
    Cancelled,
    /// The worker died; the outcome of a write is unknown.
    WorkerLost,
    /// The call took more memory than it may have. A worker wrote nothing then; what a program had done stays.
    OutOfMemory,
    /// No worker can be confined as the policy requires.
    ConfinementUnavailable,
    /// The child agent failed.
    ChildFailed,
}

/// A failed tool call: what failed, why, what to do next, readable by the model and by a person.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ToolFailure {
    /// What kind.
    pub kind: ToolFailureKind,
    /// In words.
    pub message: String,
    /// What the purse lacks, where that is why; it ends the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lacks: Option<Shortfall>,
}

impl ToolFailure {
    /// A failure of `kind`.
    #[must_use]
    pub fn new(kind: ToolFailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), lacks: None }
    }

    /// The failure of a call that its agent's purse does not cover.
    #[must_use]
    pub fn budget(lacks: Shortfall, message: impl Into<String>) -> Self {
        Self { lacks: Some(lacks), ..Self::new(ToolFailureKind::BudgetExceeded, message) }
    }

    /// How the call ended, for the journal.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self.kind {
            ToolFailureKind::Denied | ToolFailureKind::OutsideRoot => Outcome::Denied,
            ToolFailureKind::WorkerLost => Outcome::Unknown,
            _ => Outcome::Failed,
        }
    }
}
