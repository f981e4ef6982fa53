//! Frames between aaOS's own processes.
//!
//! A frame is a 4-byte little-endian length and that many bytes of JSON. Descriptors ride as `SCM_RIGHTS` on
//! the frame's first byte and only ever from agentd to a far process: agentd receives without a control
//! buffer, so nothing can be pushed back. The receiver knows from the frame how many must have come.
//!
//! Invariant: no frame is longer than [`crate::limits::MAX_FRAME_BYTES`]; a longer one ends the connection.

mod local;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use local::{LocalFacts, LocalProblem, LocalProblemKind, LocalReply, LocalSetup, LocalTask};

use crate::capability::HostRule;
use crate::cargo::{CargoSubcommand, CargoTold};
use crate::cassette::CassetteSetup;
use crate::confinement::{LockedReport, ProbeResult};
use crate::git::GitDrivers;
use crate::limits::MAX_FRAME_BYTES;
use crate::model::{ModelFailure, ModelReply, ModelRequest, Pace, ProviderState, Standing};
use crate::observe::{Measured, Snapshot};
use crate::path::AbsPath;
use crate::program::ScriptLine;
use crate::quantity::{Bytes, Millis};
use crate::span::{BatchFate, CallSpan, SpanSetup};
use crate::toolio::{
    CommandRunOutput, EchoInput, EchoOutput, FileEditInput, FileEditOutput, FileKind, FileListInput,
    FileListOutput, FileReadInput, FileReadManyOutput, FileReadOutput, FileWriteInput, FileWriteOutput,
    GrepInput, GrepOutput, ToolFailure, WebFetchOutput,
};

/// Bytes of a frame's length prefix.
pub const FRAME_HEADER_BYTES: usize = 4;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than the limit.
    #[error("frame of {bytes} bytes is over the limit of {MAX_FRAME_BYTES}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not the JSON that was expected.
    #[error("frame is malformed")]
    Malformed(#[from] serde_json::Error),
}

/// Encodes a frame, header included.
///
/// # Errors
/// [`FrameError`] when the value is too long or cannot be JSON.
pub fn encode_frame<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; FRAME_HEADER_BYTES];
    serde_json::to_writer(&mut bytes, value)?;
    let length = bytes.len() - FRAME_HEADER_BYTES;
    if length > MAX_FRAME_BYTES {
        return Err(FrameError::TooLong { bytes: length });
    }
    let header = u32::try_from(length).map_err(|_| FrameError::TooLong { bytes: length })?;
    bytes[..FRAME_HEADER_BYTES].copy_from_slice(&header.to_le_bytes());
    Ok(bytes)
}

/// Length of the body that a header announces.
///
/// # Errors
/// [`FrameError::TooLong`] beyond the limit.
pub fn frame_length(header: [u8; FRAME_HEADER_BYTES]) -> Result<usize, FrameError> {
    let bytes = u32::from_le_bytes(header) as usize;
    if bytes > MAX_FRAME_BYTES { Err(FrameError::TooLong { bytes }) } else { Ok(bytes) }
}

/// Decodes a frame's body.
///
/// # Errors
/// [`FrameError::Malformed`] when it is not the JSON that was expected.
pub fn decode_frame<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    Ok(serde_json::from_slice(body)?)
}

/// A directory or file that a worker holds, by the number agentd gave it within one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Handle(pub u32);

/// The name of a directory entry: bytes, not necessarily UTF-8, without `/` and NUL, not `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EntryName(pub Vec<u8>);

/// One thing handed to a worker with a call. With `File` and `Directory` one descriptor rides, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handed {
    /// A regular file opened for reading (or a sealed memfd of fetched bytes).
    File {
        /// Its number in this call.
        handle: Handle,
        /// Its size when opened.
        size: Bytes,
    },
    /// A directory opened for listing.
    Directory {
        /// Its number in this call.
        handle: Handle,
    },
    /// Nothing: why it could not be opened. No descriptor rides.
    Failed(ToolFailure),
}

/// What a worker is asked to do: the tool, its input, and what it was handed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerJob {
    /// `echo`.
    Echo(EchoInput),
    /// `file_read`.
    FileRead {
        /// Arguments.
        input: FileReadInput,
        /// The file.
        file: Handed,
    },
    /// `file_list`.
    FileList {
        /// Arguments.
        input: FileListInput,
        /// The directory or file.
        target: Handed,
    },
    /// `file_read_many`.
    FileReadMany {
        /// Paths and what was handed for each, in request order.
        files: Vec<(AbsPath, Handed)>,
    },
    /// `file_write`: the worker fills the memfd with `content`; agentd seals and commits it.
    FileWrite {
        /// Arguments.
        input: FileWriteInput,
        /// The empty memfd to fill (rides as a descriptor).
        scratch: Handle,
    },
    /// `file_edit`: the worker reads the file and fills the memfd with the new content.
    FileEdit {
        /// Arguments.
        input: FileEditInput,
        /// The file as it is (rides first).
        file: Handed,
        /// The empty memfd to fill (rides second).
        scratch: Handle,
    },
    /// `grep`.
    Grep {
        /// Arguments.
        input: GrepInput,
        /// The directory or file.
        target: Handed,
    },
    /// `web_fetch`, second half: bytes that the egress gateway fetched, to be made text.
    ReadPage {
        /// HTTP status.
        status: u16,
        /// Media type.
        content_type: String,
        /// URL after redirects.
        final_url: String,
        /// Whether the gateway cut the body.
        truncated: bool,
        /// The bytes.
        page: Handed,
    },
    /// `command_run`, before anything is started: what the first line of a program names to start it by.
    ScriptLine {
        /// The program.
        program: Handed,
    },
    /// One file of a zip archive, whose bytes go into a pipe. For the operator's own commands.
    Unpack {
        /// The archive (rides first).
        archive: Handed,
        /// Which file of it.
        member: String,
        /// How large it may be.
        most: Bytes,
        /// The pipe (rides second).
        sink: Handle,
    },
    /// `git` and `cargo`: what a program wrote that was started for one of them.
    ProgramTold {
        /// What is looked for in it.
        of: ToldBy,
        /// All that it wrote.
        output: CommandRunOutput,
    },
    /// Try to cross boundaries from inside, for receipts and tests.
    Probe {
        /// What to try.
        attempts: Vec<ProbeAttempt>,
    },
}

/// What is looked for in what a program wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToldBy {
    /// The filters that a repository names.
    GitDrivers {},
    /// What the caller of cargo is told, and the tests that were built.
    Cargo {
        /// What cargo was to do.
        subcommand: CargoSubcommand,
        /// Where the tests were built, where they were.
        tests_in: Option<AbsPath>,
    },
}

/// Something that a confined process tries and must be refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeAttempt {
    /// Open this path for reading.
    Open(AbsPath),
    /// `stat` this path.
    Stat(AbsPath),
    /// `socket(AF_UNIX)`.
    UnixSocket,
    /// `socketpair(AF_UNIX, SOCK_DGRAM)`: each half could be connected to a socket that has a path.
    UnixDatagramPair,
    /// `socket(AF_INET)` and connect to loopback.
    InetSocket,
    /// `socket(AF_VSOCK)`; never connects.
    VsockSocket,
    /// `execve` of this path.
    Exec(AbsPath),
    /// `ptrace(PTRACE_ATTACH)` to this pid.
    Ptrace(u32),
    /// `kill(pid, 0)`.
    Signal(u32),
    /// `fork`.
    Fork,
    /// `unshare(CLONE_NEWUSER)`.
    UserNamespace,
    /// `io_uring_setup`.
    IoUring,
    /// `bpf`.
    Bpf,
    /// `setuid(0)`.
    SetUid,
    /// Count descriptors beyond the channel's own.
    ExtraDescriptors,
}

/// From agentd to a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerRequest {
    /// Begin a call. One call runs at a time.
    Call {
        /// Number of the call, growing.
        call: u64,
        /// What to do.
        job: Box<WorkerJob>,
    },
    /// Answer to [`WorkerReply::Children`], in the order of its names.
    Children {
        /// One for each name.
        children: Vec<Child>,
    },
}

/// One child that agentd looked up in a directory the worker holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Child {
    /// It exists and was not opened: not asked for, or neither file nor directory.
    Described {
        /// Its kind (a link is not followed).
        kind: FileKind,
        /// Its size.
        size: Bytes,
    },
    /// It was opened; its descriptor rides, in order.
    Opened(Handed),
    /// It is gone or refused.
    Failed(ToolFailure),
}

/// From a worker to agentd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerReply {
    /// The lock-down is complete. Always first.
    Locked(LockedReport),
    /// Ask for children of a directory by name (at most `MAX_BROKER_BATCH`).
    Children {
        /// The directory.
        directory: Handle,
        /// Their names.
        names: Vec<EntryName>,
        /// Whether regular files and directories are to be opened, or only described.
        open: bool,
    },
    /// These directories of the call will not be asked about again; agentd closes its side. No answer.
    Close {
        /// The directories.
        directories: Vec<Handle>,
    },
    /// The call is over; every handle of it is closed on both sides.
    Done {
        /// Which call.
        call: u64,
        /// Its result.
        result: Result<JobOutput, ToolFailure>,
    },
}

/// The result of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobOutput {
    /// Of `echo`.
    Echo(EchoOutput),
    /// Of `file_read`.
    FileRead(FileReadOutput),
    /// Of `file_list`.
    FileList(FileListOutput),
    /// Of `file_read_many`.
    FileReadMany(FileReadManyOutput),
    /// Of `file_write`.
    FileWrite(FileWriteOutput),
    /// Of `file_edit`.
    FileEdit(FileEditOutput),
    /// Of `grep`.
    Grep(GrepOutput),
    /// Of `web_fetch`.
    ReadPage(WebFetchOutput),
    /// Of the first line of a program; nothing where it is no script.
    ScriptLine(Option<ScriptLine>),
    /// Of an archive: the size of the file that went into the pipe.
    Unpacked(Bytes),
    /// Of git's list of settings.
    GitDrivers(GitDrivers),
    /// Of a call of cargo.
    Cargo(CargoTold),
    /// Of probes, in order.
    Probe(Vec<ProbeResult>),
}

/// Number of one request on a gateway connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestSerial(pub u64);

/// From agentd to the gateway's `models` role.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelsRequest {
    /// Ask a model once; agentd decides about retries.
    Ask {
        /// Echoed in every answer.
        serial: RequestSerial,
        /// The request.
        request: Box<ModelRequest>,
        /// Give up after this long.
        time: Millis,
    },
    /// Stop a running request; it answers with nothing more.
    Cancel {
        /// Which.
        serial: RequestSerial,
    },
    /// Say what is configured.
    Describe {
        /// Echoed.
        serial: RequestSerial,
    },
    /// Show these figures to whoever reads the metrics. Answered when newer ones are wanted.
    Show {
        /// Echoed.
        serial: RequestSerial,
        /// The figures.
        snapshot: Box<Snapshot>,
    },
    /// Send these spans to the collector. Answered when it took them, or did not; none ask only how things stand.
    Export {
        /// Echoed.
        serial: RequestSerial,
        /// The spans.
        spans: Vec<CallSpan>,
    },
    /// Find out whether a provider answers and takes its key.
    Probe {
        /// Echoed.
        serial: RequestSerial,
        /// Which.
        provider: crate::name::ProviderName,
        /// Give up after this long.
        time: Millis,
    },
}

/// From the gateway's `models` role to agentd.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelsReply {
    /// Locked, and waiting for [`ModelsSetup`]. Always first.
    Locked(LockedReport),
    /// The provider took the request: its answer begins.
    Begun {
        /// Which request.
        serial: RequestSerial,
        /// What it has room for.
        pace: Pace,
    },
    /// A piece of prose, as it arrives.
    Delta {
        /// Which request.
        serial: RequestSerial,
        /// The piece.
        text: String,
    },
    /// The complete reply.
    Done {
        /// Which request.
        serial: RequestSerial,
        /// The reply.
        reply: Box<ModelReply>,
        /// What it took, where that was measured.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        measured: Option<Box<Measured>>,
    },
    /// The failure.
    Failed {
        /// Which request.
        serial: RequestSerial,
        /// Why.
        failure: ModelFailure,
    },
    /// What is configured.
    Described {
        /// Which request.
        serial: RequestSerial,
        /// Every provider.
        providers: Vec<ProviderState>,
    },
    /// Newer figures are wanted than those that were shown.
    Wanted {
        /// Which request showed them.
        serial: RequestSerial,
    },
    /// What became of spans.
    Exported {
        /// Which request sent them.
        serial: RequestSerial,
        /// How many were not taken, and why.
        fate: BatchFate,
    },
    /// How a provider was found.
    Probed {
        /// Which request.
        serial: RequestSerial,
        /// How.
        standing: Standing,
    },
}

/// From the relay of a program sandbox to agentd: a program has connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Knock {}

/// Its answer, in the order of the knocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Door {
    /// The descriptor of a stream to the proxy rides on it.
    Open,
    /// The connection is to be closed; nothing rides on it.
    Shut,
    /// The same, and no further one is to be accepted.
    Locked,
}

/// From agentd to the gateway's `egress` role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EgressRequest {
    /// Fetch one URL into the memfd that rides as a descriptor.
    Fetch {
        /// Echoed.
        serial: RequestSerial,
        /// What to fetch.
        url: String,
        /// Cut the body here.
        max_bytes: Bytes,
        /// Hosts allowed for the URL and each redirect. A private or loopback address is reached only if it stands
        /// here literally.
        hosts: Vec<HostRule>,
        /// Whether any public host is allowed besides (ports 80 and 443).
        public: bool,
        /// Give up after this long.
        time: Millis,
    },
    /// Bring a large file of known size, over the stream that rides as a descriptor. For the operator's own commands.
    Download {
        /// Echoed.
        serial: RequestSerial,
        /// Where it is.
        url: String,
        /// How much of it is there already: the rest is asked for.
        from: Bytes,
        /// How large it is. Nothing beyond is passed on.
        size: Bytes,
        /// Hosts allowed for the URL and each redirect, as for a fetch.
        hosts: Vec<HostRule>,
        /// Whether any public host is allowed besides (ports 80 and 443).
        public: bool,
    },
    /// Stop a running fetch or download; it answers with nothing more.
    Cancel {
        /// Which.
        serial: RequestSerial,
    },
    /// Serve as the proxy of a program, over the stream that rides as a descriptor. Asks where it wants to go, and
    /// waits for `Open` or `Refuse`.
    Proxy {
        /// Names the connection from here on.
        serial: RequestSerial,
        /// Give up after this long, whatever happens.
        time: Millis,
    },
    /// The connection that was asked for may be opened.
    Open {
        /// Which.
        serial: RequestSerial,
        /// The rules that cover it, as for a fetch.
        hosts: Vec<HostRule>,
        /// Whether any public host is allowed besides (ports 80 and 443).
        public: bool,
        /// What may be moved, both ways together, before more is asked for.
        lease: Bytes,
    },
    /// It may not.
    Refuse {
        /// Which.
        serial: RequestSerial,
        /// Why, for the program.
        why: String,
    },
    /// More may be moved over an open connection.
    Lease {
        /// Which.
        serial: RequestSerial,
        /// How much more.
        bytes: Bytes,
    },
    /// End a proxied connection at once. It answers with `Closed`.
    Close {
        /// Which.
        serial: RequestSerial,
    },
}

/// From the gateway's `egress` role to agentd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EgressReply {
    /// Locked and ready. Always first.
    Locked(LockedReport),
    /// The body lies in the memfd.
    Fetched {
        /// Which request.
        serial: RequestSerial,
        /// HTTP status.
        status: u16,
        /// Media type.
        content_type: String,
        /// URL after redirects.
        final_url: String,
        /// Bytes in the memfd.
        bytes: Bytes,
        /// Whether the body was cut.
        truncated: bool,
    },
    /// It failed.
    Failed {
        /// Which request.
        serial: RequestSerial,
        /// Why.
        failure: ToolFailure,
    },
    /// A download begins: what comes over its stream begins here in the file.
    Delivering {
        /// Which.
        serial: RequestSerial,
        /// Where: as was asked, or 0 from a server that sends only whole files.
        from: Bytes,
    },
    /// A download is over, up to the end of the file.
    Delivered {
        /// Which.
        serial: RequestSerial,
        /// What went over its stream.
        bytes: Bytes,
    },
    /// A fetch was led on by a redirect; its answer, or another one, follows.
    Redirected {
        /// Which.
        serial: RequestSerial,
        /// What came with it, head and body as far as they were taken.
        bytes: Bytes,
    },
    /// Where a program wants to go. Nothing has been looked up yet.
    Wants {
        /// Which connection.
        serial: RequestSerial,
        /// Name or address, lower case, without brackets and final dot.
        host: String,
        /// Port.
        port: u16,
    },
    /// What was leased is used up; the connection stands still until more comes.
    Spent {
        /// Which connection.
        serial: RequestSerial,
        /// Bytes that went out to the host so far.
        sent: Bytes,
        /// Bytes that came from it so far.
        received: Bytes,
    },
    /// A proxied connection is over. Always the last word about it.
    Closed {
        /// Which connection.
        serial: RequestSerial,
        /// Bytes that went out to the host.
        sent: Bytes,
        /// Bytes that came from it.
        received: Bytes,
        /// Why it ended before its time; `None` when both sides were done.
        failure: Option<ToolFailure>,
    },
}

/// Handed to the gateway's `models` role as the first frame on its channel, once it has said that it is
/// locked and agentd has held its receipt against the policy: no unproved process ever has a key, and keys
/// never travel in argv or the environment.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelsSetup {
    /// Providers in order of preference.
    pub providers: Vec<ProviderSetup>,
    /// Aliases (`smart`, `fast`) and the models they mean, in order of preference.
    pub aliases: Vec<(crate::name::ModelName, crate::name::ModelName)>,
    /// The cassette, if there is one; its descriptor rides last on the frame.
    #[serde(default)]
    pub cassette: Option<CassetteSetup>,
    /// Whether metrics are served; the listener rides on the frame after all else.
    #[serde(default)]
    pub metrics: bool,
    /// Where spans go, if anywhere.
    #[serde(default)]
    pub spans: Option<SpanSetup>,
}

/// One provider, with its key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderSetup {
    /// Its name.
    pub name: crate::name::ProviderName,
    /// Its wire format.
    pub format: WireFormat,
    /// Base URL without a trailing slash; empty for `builtin`.
    pub base_url: String,
    /// Its key, where it needs one.
    pub key: Option<String>,
    /// Models it serves; a name served by none goes to the first provider with `any_model`.
    pub models: Vec<crate::name::ModelName>,
    /// Whether it takes any model name.
    pub any_model: bool,
    /// Headers that each request to it has besides.
    #[serde(default)]
    pub headers: Vec<ExtraHeader>,
    /// Inferences of it at once, where it has a number of its own.
    #[serde(default)]
    pub slots: Option<usize>,
    /// What may be asked of it in a minute.
    #[serde(default)]
    pub rates: crate::model::Rates,
    /// Why it cannot be used, where that is known before it is asked.
    #[serde(default)]
    pub problem: Option<String>,
    /// Whether its key is in a file whose descriptor rides on the frame, in the order of the providers.
    #[serde(default)]
    pub key_follows: bool,
}

/// One header of the operator's. Whoever takes it in checks it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraHeader {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Headers that no operator sets: they say whom a request goes to, how it is framed, or who asks.
const RESERVED_HEADERS: [&str; 16] = [
    "accept",
    "accept-encoding",
    "anthropic-version",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "host",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "x-api-key",
];

/// Whether a header of a provider is set by the gateway alone.
#[must_use]
pub fn is_reserved_header(name: &str) -> bool {
    RESERVED_HEADERS.iter().any(|reserved| reserved.eq_ignore_ascii_case(name))
}

impl std::fmt::Debug for ModelsSetup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelsSetup")
            .field("providers", &self.providers)
            .field("aliases", &self.aliases)
            .field("cassette", &self.cassette)
            .finish()
    }
}

impl std::fmt::Debug for ProviderSetup {
    /// Never shows the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProviderSetup")
            .field("name", &self.name)
            .field("format", &self.format)
            .field("base_url", &self.base_url)
            .field("key", &self.key.as_ref().map(|_| "(present)"))
            .field("models", &self.models)
            .finish_non_exhaustive()
    }
}

/// How a provider is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WireFormat {
    /// Anthropic Messages.
    Anthropic,
    /// OpenAI-compatible chat completions.
    OpenAi,
    /// The embedded deterministic planner; no network.
    Builtin,
}

#[cfg(test)]
mod tests {
    use super::{FRAME_HEADER_BYTES, Handle, decode_frame, encode_frame, frame_length};
    use crate::limits::MAX_FRAME_BYTES;

    #[test]
    fn a_frame_round_trips() {
        let frame = encode_frame(&Handle(7)).expect("small");
        let (header, body) = frame.split_at(FRAME_HEADER_BYTES);
        assert_eq!(frame_length(header.try_into().expect("4 bytes")).expect("short"), body.len());
        assert_eq!(decode_frame::<Handle>(body).expect("a handle"), Handle(7));
    }

    #[test]
    fn long_frames_are_refused_both_ways() {
        assert!(encode_frame(&"x".repeat(MAX_FRAME_BYTES)).is_err());
        assert!(frame_length(u32::MAX.to_le_bytes()).is_err());
        assert!(decode_frame::<Handle>(b"{").is_err());
    }
}
