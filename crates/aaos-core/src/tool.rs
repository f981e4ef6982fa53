//! The tool interface: name, schema, needs, effect class, limits and where the body runs.
//!
//! Invariant: [`CATALOGUE`] is the only list of tools, sorted by name; dispatch, the model's list and
//! `tool.list` all read it.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::budget::Ceilings;
use crate::capability::Capability;
use crate::cargo::CargoInput;
use crate::effect::{EffectClass, FileRight, Need, Needs};
use crate::git::GitInput;
use crate::known::KnownProgram;
use crate::limits;
use crate::model::ModelCallId;
use crate::name::ToolName;
use crate::path::AbsPath;
use crate::quantity::{Amounts, Bytes, Quantity};
use crate::toolio::{
    CommandRunInput, EchoInput, FileEditInput, FileListInput, FileReadInput, FileReadManyInput,
    FileWriteInput, GrepInput, HistoryReadInput, SendMessageInput, SpawnAgentInput, SpawnAgentsInput,
    ToolFailure, ToolFailureKind, WebFetchInput,
};

/// Where a tool's body runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolPlace {
    /// In the kernel itself (spawning, messages, the agent's own history).
    Kernel,
    /// In the agent's confined worker.
    Worker,
    /// Fetched by the egress gateway, read in the worker.
    EgressAndWorker,
    /// In a program sandbox of its own.
    Program,
}

/// What of a tool's changes to files the journal holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileChanges {
    /// It changes none by itself.
    None,
    /// All of them: from its arguments and its result they can be made again.
    Recorded,
    /// Not all of them: what its calls left behind cannot be made again, and no goal is forked after one.
    Unrecorded,
}

/// Kinds of resource a tool acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceKind {
    /// `file_read` grants.
    FileRead,
    /// `file_write` grants.
    FileWrite,
    /// `network` or `web_search` grants.
    Network,
    /// `spawn_child` grants.
    SpawnChild,
    /// `message_send` grants.
    MessageSend,
    /// `exec` grants.
    Exec,
    /// `exec` grants of a program called `git`.
    Git,
    /// `exec` grants of a program called `cargo`.
    Cargo,
    /// `exec` grants of a program called `rustc`.
    Rustc,
}

impl ResourceKind {
    /// The kind of resource that a capability is over, whatever it names; `None` for the right to a tool.
    #[must_use]
    pub const fn of(capability: &Capability) -> Option<Self> {
        match capability {
            Capability::FileRead(_) => Some(Self::FileRead),
            Capability::FileWrite(_) => Some(Self::FileWrite),
            Capability::WebSearch | Capability::Network(_) => Some(Self::Network),
            Capability::SpawnChild(_) => Some(Self::SpawnChild),
            Capability::MessageSend(_) => Some(Self::MessageSend),
            Capability::Exec(_) => Some(Self::Exec),
            Capability::Tool(_) => None,
        }
    }

    /// Whether a capability is over a resource of this kind.
    #[must_use]
    pub fn is_of(self, capability: &Capability) -> bool {
        match (self, capability) {
            (Self::Git, Capability::Exec(program)) => KnownProgram::Git.is_at(program),
            (Self::Cargo, Capability::Exec(program)) => KnownProgram::Cargo.is_at(program),
            (Self::Rustc, Capability::Exec(program)) => KnownProgram::Rustc.is_at(program),
            (kind, capability) => Self::of(capability) == Some(kind),
        }
    }
}

/// What every tool declares. The body lives where [`ToolPlace`] says.
pub trait Tool {
    /// Its input, from which the schema is made.
    type Input: JsonSchema + DeserializeOwned + Serialize;
    /// The name models call it by.
    const NAME: &'static str;
    /// For the model: what it does, and its limits.
    const DESCRIPTION: &'static str;
    /// What may be done after a crash.
    const CLASS: EffectClass;
    /// Where the body runs.
    const PLACE: ToolPlace;
    /// Resource kinds that it needs grants of.
    const RESOURCES: &'static [ResourceKind];
    /// What of its changes to files the journal holds.
    const FILE_CHANGES: FileChanges;
    /// Whether several calls of one turn may run at once.
    const PARALLEL_SAFE: bool;
    /// Longest JSON text of its result, bytes.
    const OUTPUT_LIMIT: usize;
    /// Resources that this input needs, beside the right to the tool.
    ///
    /// # Errors
    /// [`ToolFailure`] when the input names no usable resource, such as a URL that is not HTTP.
    fn resources(input: &Self::Input) -> Result<Needs, ToolFailure>;
}

/// One tool as data.
#[derive(Clone, Copy)]
pub struct ToolDescriptor {
    /// The name models call it by.
    pub name: &'static str,
    /// For the model.
    pub description: &'static str,
    /// What may be done after a crash.
    pub class: EffectClass,
    /// Where the body runs.
    pub place: ToolPlace,
    /// Resource kinds that it needs grants of.
    pub resources: &'static [ResourceKind],
    /// What of its changes to files the journal holds.
    pub file_changes: FileChanges,
    /// Whether several calls of one turn may run at once.
    pub parallel_safe: bool,
    /// Longest JSON text of its result, bytes.
    pub output_limit: usize,
    schema: fn() -> serde_json::Value,
    parse: fn(serde_json::Value) -> Result<ToolInput, serde_json::Error>,
}

impl std::fmt::Debug for ToolDescriptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ToolDescriptor({})", self.name)
    }
}

impl ToolDescriptor {
    /// The tool's name, typed.
    ///
    /// # Panics
    /// Never: a test parses every name of the catalogue.
    #[must_use]
    pub fn tool_name(&self) -> ToolName {
        ToolName::parse(self.name).unwrap_or_else(|error| unreachable!("catalogue name: {error}"))
    }

    /// JSON Schema (draft 2020-12) of the input: the one the model is shown and dispatch validates against.
    #[must_use]
    pub fn input_schema(&self) -> serde_json::Value {
        (self.schema)()
    }

    /// Parses validated arguments into the typed input.
    ///
    /// # Errors
    /// The parser's error, for arguments that a schema cannot exclude.
    pub fn parse_input(&self, arguments: serde_json::Value) -> Result<ToolInput, serde_json::Error> {
        (self.parse)(arguments)
    }
}

macro_rules! tools {
    ($($marker:ident => $variant:ident($input:ty)),+ $(,)?) => {
        /// The typed input of any built-in tool.
        #[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum ToolInput {
            $(#[doc = concat!("Input of `", stringify!($marker), "`.")] $variant($input)),+
        }

        impl ToolInput {
            /// The tool's name.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => <$marker as Tool>::NAME),+ }
            }

            /// The tool's name, typed.
            #[must_use]
            pub fn tool_name(&self) -> ToolName {
                ToolName::parse(self.name()).unwrap_or_else(|error| unreachable!("catalogue name: {error}"))
            }

            /// The arguments as JSON.
            #[must_use]
            pub fn arguments(&self) -> serde_json::Value {
                match self { $(Self::$variant(input) => serde_json::to_value(input)),+ }
                    .unwrap_or_else(|error| unreachable!("tool inputs are plain JSON: {error}"))
            }

            /// What may be done after a crash.
            #[must_use]
            pub fn class(&self) -> EffectClass {
                match self { $(Self::$variant(_) => <$marker as Tool>::CLASS),+ }
            }

            /// Where the body runs.
            #[must_use]
            pub fn place(&self) -> ToolPlace {
                match self { $(Self::$variant(_) => <$marker as Tool>::PLACE),+ }
            }

            /// The resources this input needs, beside the right to the tool.
            ///
            /// # Errors
            /// [`ToolFailure`] when the input names no usable resource.
            pub fn resources(&self) -> Result<Needs, ToolFailure> {
                match self { $(Self::$variant(input) => <$marker as Tool>::resources(input)),+ }
            }
        }

        /// Every built-in tool, sorted by name.
        pub static CATALOGUE: &[ToolDescriptor] = &[
            $(ToolDescriptor {
                name: <$marker as Tool>::NAME,
                description: <$marker as Tool>::DESCRIPTION,
                class: <$marker as Tool>::CLASS,
                place: <$marker as Tool>::PLACE,
                resources: <$marker as Tool>::RESOURCES,
                file_changes: <$marker as Tool>::FILE_CHANGES,
                parallel_safe: <$marker as Tool>::PARALLEL_SAFE,
                output_limit: <$marker as Tool>::OUTPUT_LIMIT,
                schema: || schema_of::<$input>(),
                parse: |arguments| serde_json::from_value::<$input>(arguments).map(ToolInput::$variant),
            }),+
        ];
    };
}

tools! {
    Cargo => Cargo(CargoInput),
    CommandRun => CommandRun(CommandRunInput),
    Echo => Echo(EchoInput),
    FileEdit => FileEdit(FileEditInput),
    FileList => FileList(FileListInput),
    FileRead => FileRead(FileReadInput),
    FileReadMany => FileReadMany(FileReadManyInput),
    FileWrite => FileWrite(FileWriteInput),
    Git => Git(GitInput),
    Grep => Grep(GrepInput),
    HistoryRead => HistoryRead(HistoryReadInput),
    SendMessage => SendMessage(SendMessageInput),
    SpawnAgent => SpawnAgent(SpawnAgentInput),
    SpawnAgents => SpawnAgents(SpawnAgentsInput),
    WebFetch => WebFetch(WebFetchInput),
}

/// One call of a tool, as an effect. Built by [`ToolCall::new`], so that its needs are known to be sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// The typed input.
    pub input: ToolInput,
    needs: Needs,
    asked: Option<ModelCallId>,
    repeats: u32,
    at: Option<Bytes>,
}

impl ToolCall {
    /// A call of the tool that `input` belongs to.
    ///
    /// # Errors
    /// [`ToolFailure`] (invalid arguments) when the input names no usable resource.
    pub fn new(input: ToolInput) -> Result<Self, ToolFailure> {
        let mut needs = input.resources()?;
        needs.all.insert(0, Need::Tool(input.tool_name()));
        needs.amounts = amounts_of(&input);
        Ok(Self { input, needs, asked: None, repeats: 0, at: None })
    }

    /// The same call, as one that the agent's model asked for.
    #[must_use]
    pub fn asked_as(self, call: ModelCallId) -> Self {
        Self { asked: Some(call), ..self }
    }

    /// Which call of the agent's model it is; none where somebody else asked for it.
    #[must_use]
    pub fn model_call(&self) -> Option<&ModelCallId> {
        self.asked.as_ref()
    }

    /// The same call, made so often by its agent since its run began.
    #[must_use]
    pub fn made(self, repeats: u32) -> Self {
        Self { repeats, ..self }
    }

    /// How often its agent made it since its run began, this time included; 0 where nobody counted.
    #[must_use]
    pub fn repeats(&self) -> u32 {
        self.repeats
    }

    /// The same call, as an append that goes on from this size of its file: made again it is not applied twice.
    #[must_use]
    pub fn positioned(self, at: Bytes) -> Self {
        Self { at: Some(at), ..self }
    }

    /// The size of the file that an append goes on from, once it was looked at.
    #[must_use]
    pub fn at(&self) -> Option<Bytes> {
        self.at
    }

    /// The right to the tool, its resources, and the most that it can move.
    #[must_use]
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// The same call, moving no more than a purse has left: a fetch asks for a shorter body, an edit may leave a
    /// smaller file. What cannot be made smaller stays, and is refused when it is authorised.
    #[must_use]
    pub fn clamped_to(mut self, remaining: &Ceilings) -> Self {
        let quantity = match &self.input {
            ToolInput::WebFetch(_) => Quantity::EgressBytes,
            ToolInput::FileEdit(_) => Quantity::WrittenBytes,
            _ => return self,
        };
        let wanted = self.needs.amounts.get(quantity);
        let Some(left) = remaining.get(quantity).filter(|left| (1..wanted).contains(left)) else {
            return self;
        };
        if let ToolInput::WebFetch(input) = &mut self.input {
            input.max_bytes = left;
        }
        self.needs.amounts = self.needs.amounts.with(quantity, left);
        self
    }
}

/// The most that a call can move, as a purse counts it.
fn amounts_of(input: &ToolInput) -> Amounts {
    let arguments = input.arguments().to_string().len() as u64;
    let journal = Amounts::of(Quantity::JournalBytes, arguments.saturating_add(limits::CALL_JOURNAL_BYTES));
    match input {
        ToolInput::FileWrite(input) => {
            journal.with(Quantity::WrittenBytes, input.content.len() as u64).with(Quantity::Files, 1)
        }
        ToolInput::FileEdit(_) => {
            journal.with(Quantity::WrittenBytes, limits::MAX_FILE_BYTES).with(Quantity::Files, 1)
        }
        ToolInput::WebFetch(input) => journal.with(Quantity::EgressBytes, input.max_bytes),
        // The text is recorded once more, where it is delivered.
        ToolInput::SendMessage(input) => {
            let delivered = (input.message.len() as u64).saturating_add(limits::CALL_JOURNAL_BYTES);
            journal
                .with(Quantity::JournalBytes, journal.get(Quantity::JournalBytes).saturating_add(delivered))
        }
        _ => journal,
    }
}

/// The descriptor of a tool by name.
#[must_use]
pub fn find(name: &str) -> Option<&'static ToolDescriptor> {
    CATALOGUE.iter().find(|tool| tool.name == name)
}

fn schema_of<T: JsonSchema>() -> serde_json::Value {
    schemars::SchemaGenerator::default().into_root_schema_for::<T>().to_value()
}

fn file(right: FileRight, path: &AbsPath) -> Need {
    Need::File { right, path: path.clone() }
}

fn only(needs: Vec<Need>) -> Result<Needs, ToolFailure> {
    Ok(Needs { all: needs, ..Needs::default() })
}

/// `cargo`.
#[derive(Debug)]
pub struct Cargo;
impl Tool for Cargo {
    type Input = CargoInput;
    const NAME: &'static str = "cargo";
    const DESCRIPTION: &'static str = "Checks, lints, formats or tests a Rust package with the granted toolchain and \
        without network. fmt only checks unless write is true. test builds into target_directory and then runs \
        what was built where nothing can be changed but /tmp; tests in documentation are left out. Packages with \
        build scripts or procedural macros are refused.";
    const CLASS: EffectClass = EffectClass::Once;
    const PLACE: ToolPlace = ToolPlace::Program;
    const RESOURCES: &'static [ResourceKind] =
        &[ResourceKind::FileRead, ResourceKind::Cargo, ResourceKind::Rustc];
    const FILE_CHANGES: FileChanges = FileChanges::Unrecorded;
    const PARALLEL_SAFE: bool = false;
    const OUTPUT_LIMIT: usize = limits::MAX_TOOL_RESULT_BYTES;
    fn resources(input: &CargoInput) -> Result<Needs, ToolFailure> {
        input.check()?;
        let programs = [KnownProgram::Cargo, KnownProgram::Rustc].map(Need::Program);
        let (read, write) = (|path| file(FileRight::Read, path), |path| file(FileRight::Write, path));
        let mut needs = [&programs[..], &[read(&input.directory)]].concat();
        needs.extend(input.write.then(|| write(&input.directory)));
        needs.extend(input.target_directory.iter().flat_map(|target| [read(target), write(target)]));
        only(needs)
    }
}

/// `command_run`.
#[derive(Debug)]
pub struct CommandRun;
impl Tool for CommandRun {
    type Input = CommandRunInput;
    const NAME: &'static str = "command_run";
    const DESCRIPTION: &'static str = "Starts one granted program, without a shell, and waits for its end. It sees \
        the system's programs and libraries, the granted directories at their own paths (those granted for \
        reading alone cannot be changed) and an empty /tmp of its own. It reaches granted hosts through the HTTP proxy \
        that http_proxy and https_proxy name, and no other network; else it has no variables but those of the agent's \
        manifest. \
        Of each of stdout and stderr, the first and the last 64 KiB come back.";
    const CLASS: EffectClass = EffectClass::Once;
    const PLACE: ToolPlace = ToolPlace::Program;
    const RESOURCES: &'static [ResourceKind] = &[ResourceKind::Exec];
    const FILE_CHANGES: FileChanges = FileChanges::Unrecorded;
    const PARALLEL_SAFE: bool = false;
    const OUTPUT_LIMIT: usize = limits::MAX_TOOL_RESULT_BYTES;
    fn resources(input: &CommandRunInput) -> Result<Needs, ToolFailure> {
        input.check()?;
        only(vec![Need::Exec(input.program.clone())])
    }
}

/// `echo`.
#[derive(Debug)]
pub struct Echo;
impl Tool for Echo {
    type Input = EchoInput;
    const NAME: &'static str = "echo";
    const DESCRIPTION: &'static str = "Returns the message it is given.";
    const CLASS: EffectClass = EffectClass::Safe;
    const PLACE: ToolPlace = ToolPlace::Worker;
    const RESOURCES: &'static [ResourceKind] = &[];
    const FILE_CHANGES: FileChanges = FileChanges::None;
    const PARALLEL_SAFE: bool = true;
    const OUTPUT_LIMIT: usize = limits::MAX_TOOL_RESULT_BYTES;
    fn resources(_: &EchoInput) -> Result<Needs, ToolFailure> {
        only(Vec::new())
    }
}

/// `file_edit`.
#[derive(Debug)]
pub struct FileEdit;
impl Tool for FileEdit {
    type Input = FileEditInput;
    const NAME: &'static str = "file_edit";
    const DESCRIPTION: &'static str = "Replaces old_string by new_string in one UTF-8 file of up to 1 MiB. \
        old_string must occur exactly once unless replace_all is true.";
    const CLASS: EffectClass = EffectClass::Once;
    const PLACE: ToolPlace = ToolPlace::Worker;
    const RESOURCES: &'static [ResourceKind] = &[ResourceKind::FileRead, ResourceKind::FileWrite];
    const FILE_CHANGES: FileChanges = FileChanges::Recorded;
    const PARALLEL_SAFE: bool = false;
    const OUTPUT_LIMIT: usize = 16 * 1024;
    fn resources(input: &FileEditInput) -> Result<Needs, ToolFailure> {
        only(vec![file(FileRight::Read, &input.path), file(FileRight::Write, &input.path)])
    }
}

/// `file_list`.
#[derive(Debug)]
pub struct FileList;
impl Tool for FileList {
    type Input = FileListInput;
    const NAME: &'static str = "file_list";
    const DESCRIPTION: &'static str =
        "Lists a directory, or describes one file: names, kinds and sizes, sorted, up to 500 entries.";
    const CLASS: EffectClass = EffectClass::Safe;
    const PLACE: ToolPlace = ToolPlace::Worker;
    const RESOURCES: &'static [ResourceKind] = &[ResourceKind::FileRead];
    const FILE_CHANGES: FileChanges = FileChanges::None;
    const PARALLEL_SAFE: bool = true;
    const OUTPUT_LIMIT: usize = 1024 * 1024;
    fn resources(input: &FileListInput) -> Result<Needs, ToolFailure> {
        only(vec![file(FileRight::Read, &input.path)])
    }
}

/// `file_read`.
#[derive(Debug)]
pub struct FileRead;
impl Tool for FileRead {
    type Input = FileReadInput;
    const NAME: &'static str = "file_read";
    const DESCRIPTION: &'static str = "Reads one UTF-8 file, up to 1 MiB at a time; offset and limit are in bytes. size_bytes is the whole file's.";
    const CLASS: EffectClass = EffectClass::Safe;
    const PLACE: ToolPlace = ToolPlace::Worker;
    const RESOURCES: &'static [ResourceKind] = &[ResourceKind::FileRead];
    const FILE_CHANGES: FileChanges = FileChanges::None;
    const PARALLEL_SAFE: bool = true;
    const OUTPUT_LIMIT: usize = limits::MAX_TOOL_RESULT_BYTES;
    fn resources(input: &FileReadInput) -> Result<Needs, ToolFailure> {
        only(vec![file(FileRight::Read, &input.path)])
    }
}

/// `file_read_many`.
#[derive(Debug)]
pub struct FileReadMany;
impl Tool for FileReadMany {
    type Input = FileReadManyInput;
    const NAME: &'static str = "file_read_many";
    const DESCRIPTION: &'static str = "Reads 1 to 16 UTF-8 files in one call, 4 MiB together. A file that cannot be read has an error in its place.";
    const CLASS: EffectClass = EffectClass::Safe;
    const PLACE: ToolPlace = ToolPlace::Worker;
    const RESOURCES: &'static [ResourceKind] = &[ResourceKind::FileRead];
    const FILE_CHANGES: FileChanges = FileChanges::None;
    const PARALLEL_SAFE: bool = true;
    const OUTPUT_LIMIT: usize = limits::MAX_TOOL_RESULT_BYTES;
    fn resources(input: &FileReadManyInput) -> Result<Needs, ToolFailure> {
        let each = input.paths.iter().map(|path| file(FileRight::Read, path)).collect();
        Ok(Needs { each, ..Needs::default() })
    }
}

/// `file_write`.
#[derive(Debug)]
pub struct FileWrite;
impl Tool for FileWrite {
    type Input = FileWriteInput;
    const NAME: &'static str = "file_write";
    const DESCRIPTION: &'static str = "Writes UTF-8 text of up to 1 MiB to a file, replacing it atomically, or adds to \
        its end with append. Missing parent directories are created.";
    const CLASS: EffectClass = EffectClass::Keyed;
    const PLACE: ToolPlace = ToolPlace::Worker;
    const RESOURCES: &'static [ResourceKind] = &[ResourceKind::FileWrite];
    const FILE_CHANGES: FileChanges = FileChanges::Recorded;
    const PARALLEL_SAFE: bool = false;
    const OUTPUT_LIMIT: usize = 16 * 1024;
    fn resources(input: &FileWriteInput) -> Result<Needs, ToolFailure> {
        only(vec![file(FileRight::Write, &input.path)])
    }
}

/// `git`.
#[derive(Debug)]
pub struct Git;
impl Tool for Git {
    type Input = GitInput;
    const NAME: &'static str = "git";
    const DESCRIPTION: &'static str = "Looks into a git repository that the agent may read: one subcommand that only \
        reads, with the arguments that git takes after it. Nothing is changed, and no hook, filter, pager or other \
        program that the repository names is started. shortlog needs a revision such as HEAD.";
    const CLASS: EffectClass = EffectClass::Once;
    const PLACE: ToolPlace = ToolPlace::Program;
    const RESOURCES: &'static [ResourceKind] = &[ResourceKind::FileRead, ResourceKind::Git];
    const FILE_CHANGES: FileChanges = FileChanges::None;
    const PARALLEL_SAFE: bool = true;
    const OUTPUT_LIMIT: usize = limits::MAX_TOOL_RESULT_BYTES;
    fn resources(input: &GitInput) -> Result<Needs, ToolFailure> {
        input.check()?;
        only(vec![Need::Program(KnownProgram::Git), file(FileRight::Read, &input.directory)])
    }
}

/// `grep`.
#[derive(Debug)]
pub struct Grep;
impl Tool for Grep {
    type Input = GrepInput;
    const NAME: &'static str = "grep";
    const DESCRIPTION: &'static str = "Searches a file, or every file below a directory, for lines that match a regular \
        expression; up to 200 matches and 16 KiB. glob limits the files, for example **/*.md.";
    const CLASS: EffectClass = EffectClass::Safe;
    const PLACE: ToolPlace = ToolPlace::Worker;
    const RESOURCES: &'static [ResourceKind] = &[ResourceKind::FileRead];
    const FILE_CHANGES: FileChanges = FileChanges::None;
    const PARALLEL_SAFE: bool = true;
    const OUTPUT_LIMIT: usize = 256 * 1024;
    fn resources(input: &GrepInput) -> Result<Needs, ToolFailure> {
        only(vec![file(FileRight::Read, &input.path)])
    }
}

/// `history_read`.
#[derive(Debug)]
pub struct HistoryRead;
impl Tool for HistoryRead {
    type Input = HistoryReadInput;
    const NAME: &'static str = "history_read";
    const DESCRIPTION: &'static str = "Gives back turns of your own conversation that are no longer shown to you, as they \
        were, by their numbers. Where not all of them fit, next says how to go on.";
    const CLASS: EffectClass = EffectClass::Safe;
    const PLACE: ToolPlace = ToolPlace::Kernel;
    const RESOURCES: &'static [ResourceKind] = &[];
    const FILE_CHANGES: FileChanges = FileChanges::None;
    const PARALLEL_SAFE: bool = true;
    const OUTPUT_LIMIT: usize = limits::MAX_TOOL_RESULT_BYTES;
    fn resources(input: &HistoryReadInput) -> Result<Needs, ToolFailure> {
        input.check()?;
        only(Vec::new())
    }
}

/// `send_message`.
#[derive(Debug)]
pub struct SendMessage;
impl Tool for SendMessage {
    type Input = SendMessageInput;
    const NAME: &'static str = "send_message";
    const DESCRIPTION: &'static str = "Puts a message into the mailbox of another agent, named in `to`. With \
        wait_seconds it waits so long for the reply; without, or when none came in time, it returns the trace_id.";
    const CLASS: EffectClass = EffectClass::Once;
    const PLACE: ToolPlace = ToolPlace::Kernel;
    const RESOURCES: &'static [ResourceKind] = &[ResourceKind::MessageSend];
    const FILE_CHANGES: FileChanges = FileChanges::None;
    const PARALLEL_SAFE: bool = false;
    const OUTPUT_LIMIT: usize = limits::MAX_TOOL_RESULT_BYTES;
    fn resources(input: &SendMessageInput) -> Result<Needs, ToolFailure> {
        only(vec![Need::Message(input.to.clone())])
    }
}

/// `spawn_agent`.
#[derive(Debug)]
pub struct SpawnAgent;
impl Tool for SpawnAgent {
    type Input = SpawnAgentInput;
    const NAME: &'static str = "spawn_agent";
    const DESCRIPTION: &'static str = "Spawns a child agent from a YAML manifest whose capabilities are a subset of \
        yours, gives it the message, waits, and returns its answer. prior_findings is passed to it as quoted data.";
    const CLASS: EffectClass = EffectClass::Once;
    const PLACE: ToolPlace = ToolPlace::Kernel;
    const RESOURCES: &'static [ResourceKind] = &[ResourceKind::SpawnChild];
    const FILE_CHANGES: FileChanges = FileChanges::None;
    const PARALLEL_SAFE: bool = false;
    const OUTPUT_LIMIT: usize = limits::MAX_TOOL_RESULT_BYTES;
    fn resources(_: &SpawnAgentInput) -> Result<Needs, ToolFailure> {
        only(Vec::new())
    }
}

/// `spawn_agents`.
#[derive(Debug)]
pub struct SpawnAgents;
impl Tool for SpawnAgents {
    type Input = SpawnAgentsInput;
    const NAME: &'static str = "spawn_agents";
    const DESCRIPTION: &'static str = "Spawns up to 16 independent child agents, three at a time, and returns their \
        answers in order. One failure does not stop the others.";
    const CLASS: EffectClass = EffectClass::Once;
    const PLACE: ToolPlace = ToolPlace::Kernel;
    const RESOURCES: &'static [ResourceKind] = &[ResourceKind::SpawnChild];
    const FILE_CHANGES: FileChanges = FileChanges::None;
    const PARALLEL_SAFE: bool = false;
    const OUTPUT_LIMIT: usize = limits::MAX_TOOL_RESULT_BYTES;
    fn resources(_: &SpawnAgentsInput) -> Result<Needs, ToolFailure> {
        only(Vec::new())
    }
}

/// `web_fetch`.
#[derive(Debug)]
pub struct WebFetch;
impl Tool for WebFetch {
    type Input = WebFetchInput;
    const NAME: &'static str = "web_fetch";
    const DESCRIPTION: &'static str = "Fetches an http or https URL. HTML comes back as Markdown text; max_bytes (default \
        50000) cuts the body.";
    const CLASS: EffectClass = EffectClass::Safe;
    const PLACE: ToolPlace = ToolPlace::EgressAndWorker;
    const RESOURCES: &'static [ResourceKind] = &[ResourceKind::Network];
    const FILE_CHANGES: FileChanges = FileChanges::None;
    const PARALLEL_SAFE: bool = true;
    const OUTPUT_LIMIT: usize = limits::MAX_TOOL_RESULT_BYTES;
    fn resources(input: &WebFetchInput) -> Result<Needs, ToolFailure> {
        let (host, port) = host_and_port(&input.url)?;
        only(vec![Need::Host { host, port }])
    }
}

/// Host (lower case, brackets and trailing dot removed) and port of an http(s) URL, by RFC 3986's authority
/// grammar. Stricter than a browser: anything unusual is refused, and the gateway parses the URL again with
/// a full parser and refuses it if the two readings differ.
///
/// # Errors
/// `InvalidArguments` when the URL is not plain http(s) in that grammar.
pub fn host_and_port(url: &str) -> Result<(String, u16), ToolFailure> {
    let bad = |why: &str| {
        ToolFailure::new(ToolFailureKind::InvalidArguments, format!("cannot fetch {url:?}: {why}"))
    };
    if url.len() > limits::MAX_URL_BYTES {
        return Err(bad("the URL is too long"));
    }
    if url.bytes().any(|byte| byte <= b' ' || byte == b'\\' || byte >= 0x7f) {
        return Err(bad("write it in visible ASCII without backslashes"));
    }
    let lower = url.to_ascii_lowercase();
    let (rest, default_port) = match (lower.strip_prefix("https://"), lower.strip_prefix("http://")) {
        (Some(rest), _) => (rest, 443),
        (None, Some(rest)) => (rest, 80),
        (None, None) => return Err(bad("only http:// and https:// are supported")),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(bad("credentials in a URL are refused"));
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => v6.split_once(']').ok_or_else(|| bad("the IPv6 bracket is not closed"))?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => default_port,
        // `parse` alone would take a sign.
        Some(digits) if digits.starts_with('+') => return Err(bad("the port is not a number")),
        Some(digits) => digits.parse().map_err(|_| bad("the port is not a number"))?,
        None => return Err(bad("text after the IPv6 bracket")),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.is_empty() {
        return Err(bad("it names no host"));
    }
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::{CATALOGUE, find, host_and_port};
    use crate::name::ToolName;

    #[test]
    fn the_catalogue_is_sorted_and_well_named() {
        let names: Vec<_> = CATALOGUE.iter().map(|tool| tool.name).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        assert_eq!(names, sorted);
        for name in names {
            assert!(ToolName::parse(name).is_ok(), "{name}");
            assert!(find(name).is_some());
        }
        assert!(find("file_red").is_none());
    }

    #[test]
    fn schemas_are_closed_objects() {
        for tool in CATALOGUE {
            let schema = tool.input_schema();
            assert_eq!(schema["type"], "object", "{}", tool.name);
            assert_eq!(schema["additionalProperties"], false, "{}", tool.name);
        }
    }

    #[test]
    fn hosts_are_read_strictly() {
        assert_eq!(host_and_port("https://Example.org/a").expect("host"), ("example.org".into(), 443));
        assert_eq!(host_and_port("http://[::1]:8080/").expect("host"), ("::1".into(), 8080));
        assert_eq!(host_and_port("http://a.b.:80?x").expect("host"), ("a.b".into(), 80));
        for bad in [
            "ftp://a",
            "http://",
            "http://u:p@h/",
            "http://h:99999/",
            "http://h:+80/",
            "http://h:-80/",
            "http://h:/",
            "http://h\\@x/",
            "http://[::1",
            "//h",
        ] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
    }
}
