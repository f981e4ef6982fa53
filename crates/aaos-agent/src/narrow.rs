//! What a small model may say next: fewer tools, and arguments taken from what the goal names and the run has seen.
//!
//! Invariants: a pure function of the request and of what never changes about its agent, so that a run that goes on after
//! a crash is narrowed as before. It takes away and never adds: each call fits a tool on offer and its schema, and
//! whether it is permitted is decided where it always is. What the prompt shows depends on the run's message alone,
//! never on what was done since, so that prompts only grow. Where nothing is left to call, the model may answer.

mod past;
mod shown;
mod told;
mod words;

use aaos_core::capability::{Capability, GrantSpec, is_public_web};
use aaos_core::model::{Message, ModelRequest, Narrowed, NarrowedCall, ToolSpec};
use aaos_core::name::{AgentName, ModelName};
use aaos_core::path::{AbsPath, Reach};
use aaos_core::quantity::Tokens;
use aaos_core::tool::host_and_port;
use aaos_core::toolio::FileKind;

use past::Past;
use words::{Looks, Words};

/// Words of a message that mean other agents where a number stands before them,
const COUNTED: [&str; 4] = ["child", "agent", "subagent", "reader"];
/// that give each of them its own,
const APART: [&str; 7] = ["another", "second", "other", "each", "separate", "per", "respectively"];
/// for what lies in a directory as a whole,
const FILES: [&str; 6] = ["file", "director", "folder", "list", "everything", "here"];
/// for what files say,
const CONTENT: [&str; 17] = [
    "contain",
    "mention",
    "combine",
    "join",
    "read",
    "summar",
    "compare",
    "content",
    "say",
    "extract",
    "each",
    "quote",
    "collect",
    "find",
    "translate",
    "tell",
    "merge",
];
/// for a file that is to be there,
const WRITE: [&str; 14] = [
    "write", "writes", "writing", "save", "saves", "saving", "create", "creates", "creating", "store", "put",
    "produce", "copy", "copies",
];
/// for a change of one,
const CHANGE: [&str; 12] = [
    "edit",
    "editing",
    "replace",
    "replacing",
    "change",
    "changing",
    "fix",
    "fixing",
    "correct",
    "rename",
    "update",
    "modify",
];
/// for more in one, said as they stand here: an `address` is nothing more,
const ADD: [&str; 7] = ["add", "adds", "adding", "append", "appends", "appending", "extend"];
/// at another place than its end,
const ELSEWHERE: [&str; 11] = [
    "top",
    "beginning",
    "start",
    "before",
    "between",
    "above",
    "first",
    "under",
    "section",
    "order",
    "sorted",
];
/// for a search.
const SEARCH: [&str; 4] = ["grep", "search", "pattern", "occurrence"];

/// Tools that read a file.
const READS: [&str; 2] = ["file_read", "file_read_many"];
/// Tools that leave a file behind.
const WRITES: [&str; 2] = ["file_write", "file_edit"];
/// Tools that start a child.
const SPAWNS: [&str; 2] = ["spawn_agent", "spawn_agents"];

/// Files of a directory that are all to be read.
const MAX_READ_ALL: usize = 8;
/// Values of one argument.
const MAX_VALUES: usize = 48;
/// Reads of files that the message does not name.
const MAX_EXTRA: usize = 4;
/// Calls of one run; then it answers.
const MAX_CALLS: usize = 30;
/// Failed writes of one output after which it may be given up.
const MAX_FAILURES: usize = 2;
/// Children of one run.
const MAX_CHILDREN: usize = 8;
/// What one read may take of the window: one part in so many of its tokens,
const READ_SHARE: u64 = 5;
/// at so many bytes each.
const BYTES_PER_TOKEN: u64 = 3;
/// The goal is said again where it takes at most this part of the window, a token for each byte of it.
const MAX_GOAL_SHARE: u64 = 8;
/// Characters of a written text: one for so many tokens of the window, since one may take a token,
const CONTENT_SHARE: u64 = 8;
/// and no more than this.
const MAX_CONTENT_CHARS: u64 = 4_000;

/// What never changes about an agent that asks.
#[derive(Debug, Clone, PartialEq)]
pub struct Ground {
    /// Where relative paths of its goal start; none for children.
    pub directory: Option<AbsPath>,
    /// What its goal declares.
    pub outputs: Vec<AbsPath>,
    /// Those of them that were not there when it began.
    pub absent: Vec<AbsPath>,
    /// What it was granted.
    pub grants: Vec<GrantSpec>,
    /// The model that it asks, by the name in its manifest.
    pub model: ModelName,
    /// Its context window: what its manifest gives it, at most what the model has.
    pub window: Tokens,
}

/// The request as a small model is asked it.
#[must_use]
pub fn narrowed(request: ModelRequest, ground: &Ground) -> ModelRequest {
    if request.tools.is_empty() {
        return request;
    }
    let step = Step::of(&request.messages, &request.tools, ground);
    let tools = step.tools(&request.tools);
    let narrowed = step.narrowed(&tools);
    let messages = told::told(&request, ground);
    ModelRequest {
        messages,
        tools: tools.iter().map(shown::short).collect(),
        narrowed: Some(narrowed),
        ..request
    }
}

/// One step of a run.
struct Step<'g> {
    ground: &'g Ground,
    words: Words,
    past: Past,
    /// What the message names and the agent may read.
    named: Vec<(AbsPath, Looks)>,
    urls: Vec<String>,
    /// What it is to write.
    outputs: Vec<AbsPath>,
    /// Whether children are to look at files.
    delegates: bool,
    /// Whether it can tell files and directories apart.
    lists: bool,
}

/// What is still to be looked at.
#[derive(Debug, Default)]
struct Wanted {
    read: Vec<AbsPath>,
    list: Vec<AbsPath>,
    fetch: Vec<String>,
}

impl<'g> Step<'g> {
    /// Of a run as far as these messages go.
    fn of(messages: &[Message], offered: &[ToolSpec], ground: &'g Ground) -> Self {
        let message = messages.iter().rev().find_map(|message| match message {
            Message::User { text } => Some(text.as_str()),
            Message::Assistant { .. } | Message::ToolResults { .. } => None,
        });
        let words = Words::read(message.unwrap_or_default(), ground.directory.as_ref());
        let past = Past::of(messages);
        let urls = words.urls.iter().filter(|url| ground.reaches(url)).cloned().collect();
        let can_spawn = ground.directory.is_some() && ground.may_spawn(&child_name(0));
        let offers = |name: &str| offered.iter().any(|tool| tool.name.as_str() == name);
        let delegates = words.asks_for_agents() && can_spawn && offers("spawn_agent");
        let (named, outputs, lists) = (Vec::new(), Vec::new(), offers("file_list"));
        let mut step = Self { ground, words, past, named, urls, outputs, delegates, lists };
        step.outputs = step.outputs();
        step.named = step.named();
        step
    }

    /// The tools that its message can need.
    fn tools(&self, offered: &[ToolSpec]) -> Vec<ToolSpec> {
        offered.iter().filter(|tool| self.can_need(tool)).cloned().collect()
    }

    /// The declared outputs, else what the message names and only writing is granted of; else, where it says that
    /// something is to be written, the last path that may be.
    fn outputs(&self) -> Vec<AbsPath> {
        let ground = self.ground;
        if !ground.outputs.is_empty() {
            return ground.outputs.clone();
        }
        let paths =
            self.words.paths.iter().filter(|(_, looks)| *looks != Looks::Directory).map(|(path, _)| path);
        let mut paths: Vec<AbsPath> = paths.filter(|path| ground.may_write(path)).cloned().collect();
        if ground.directory.is_none() && paths.is_empty() {
            paths.extend(ground.granted_files(false).cloned());
        }
        let only_written: Vec<AbsPath> =
            paths.iter().filter(|path| !ground.may_read(path)).cloned().collect();
        if !only_written.is_empty() {
            return only_written;
        }
        paths.pop().filter(|_| self.writes()).into_iter().collect()
    }

    /// Outputs too, unless they were not there when the goal began: nothing that is there is overwritten unread.
    fn named(&self) -> Vec<(AbsPath, Looks)> {
        let may_read =
            |(path, _): &&(AbsPath, Looks)| self.ground.may_read(path) && !self.ground.absent.contains(path);
        let mut named: Vec<_> = self.words.paths.iter().filter(may_read).cloned().collect();
        for path in &self.ground.outputs {
            let declared = (path.clone(), Looks::File);
            if may_read(&&declared) && named.iter().all(|(said, _)| said != path) {
                named.push(declared);
            }
        }
        let is_output = |(path, _): &(AbsPath, Looks)| self.outputs.contains(path);
        // No child is started for the one file that is to be written from what children say.
        let is_report = self.delegates && self.writes() && !self.changes() && self.outputs.len() == 1;
        if is_report && named.len() > 1 {
            named.retain(|one| !is_output(one));
        }
        match &self.ground.directory {
            Some(directory) => {
                let names_none = named.is_empty() || (self.writes() && named.iter().all(is_output));
                let asks = names_none && self.urls.is_empty() && self.words.says(&FILES);
                if asks && self.words.says(&[&CONTENT[..], &["list", "count", "many", "which"]].concat()) {
                    named.push((directory.clone(), Looks::Directory));
                }
            }
            // Whoever granted a child single files meant them.
            None => {
                let granted = self.ground.granted_files(true);
                let new: Vec<_> =
                    granted.filter(|path| named.iter().all(|(known, _)| known != *path)).collect();
                named.extend(new.into_iter().map(|path| (path.clone(), Looks::File)));
            }
        }
        named
    }

    fn changes(&self) -> bool {
        CHANGE.iter().any(|word| self.words.has(word))
    }

    fn writes(&self) -> bool {
        self.adds() || WRITE.iter().any(|word| self.words.has(word))
    }

    /// Whether something is to be added to what stands in a file.
    fn adds(&self) -> bool {
        ADD.iter().any(|word| self.words.has(word))
    }

    /// Whether what is to be written to a file goes to its end: where that is what the message asks for, nothing that
    /// stands there has to be said again.
    fn appends_to(&self, path: &AbsPath) -> bool {
        let is_elsewhere = self.changes() || ELSEWHERE.iter().any(|word| self.words.has(word));
        self.adds() && !is_elsewhere && !self.is_absent(path) && self.is_known(path)
    }

    /// Whether what stands at a path was read, or may not be: then whoever granted the path means it to be replaced.
    fn is_known(&self, path: &AbsPath) -> bool {
        !self.ground.may_read(path) || self.past.succeeded(&READS, path.as_str())
    }

    /// Whether nothing stood at a path: when the goal began, or when it was to be read.
    fn is_absent(&self, path: &AbsPath) -> bool {
        self.ground.absent.contains(path) || self.past.lacks(&READS, path.as_str())
    }

    /// Whether the run can need a tool, by its message alone.
    fn can_need(&self, tool: &ToolSpec) -> bool {
        let name = tool.name.as_str();
        match name {
            "file_read" => !self.named.is_empty() && !self.delegates,
            "file_list" => self.named.iter().any(|(_, looks)| *looks != Looks::File),
            "grep" => !self.named.is_empty() && self.words.says(&SEARCH),
            "web_fetch" => !self.urls.is_empty(),
            "file_write" => !self.outputs.is_empty(),
            "file_edit" => self.changes() && self.named.iter().any(|(path, _)| self.ground.may_write(path)),
            "spawn_agent" => self.delegates && !self.named.is_empty(),
            "spawn_agents" | "file_read_many" => false,
            _ => self.mentions(name),
        }
    }

    /// Whether the message speaks of a tool, or of a program that it may start.
    fn mentions(&self, tool: &str) -> bool {
        let program = |path: &AbsPath| path.split_last().map(|(_, name)| name.to_lowercase());
        match tool {
            "command_run" => {
                let programs = self.ground.programs().filter_map(program);
                programs.into_iter().any(|name| self.words.has(&name))
            }
            "send_message" => ["message", "send", "ask"].iter().any(|word| self.words.has(word)),
            _ => self.words.has(tool),
        }
    }

    fn narrowed(&self, tools: &[ToolSpec]) -> Narrowed {
        let find = |name: &str| tools.iter().find(|tool| tool.name.as_str() == name);
        if self.past.calls() >= MAX_CALLS {
            return Narrowed { calls: Vec::new(), may_answer: true };
        }
        let wanted = self.wanted();
        let mut calls = self.looking(&wanted, &find);
        if calls.is_empty() {
            calls.extend(self.searching(&find));
        }
        let mut is_due = !calls.is_empty();
        if calls.is_empty() {
            let writes = self.writing(&find);
            is_due = !writes.is_empty() && self.owes_writing();
            calls = [self.acting(tools), writes].concat();
        }
        if calls.is_empty() && self.outputs.is_empty() && !self.delegates {
            calls = self.looking(&self.extra(), &find);
        }
        // Of a shortened conversation nobody knows here what was done.
        Narrowed { calls, may_answer: !is_due || self.past.is_shortened() }
    }

    /// Whether something is to be written yet: a declared output that was not there, or what the message asks for. What
    /// was read may stay as it is once something was written.
    fn owes_writing(&self) -> bool {
        let is_written = |path: &AbsPath| self.past.succeeded(&WRITES, path.as_str());
        if self.outputs.iter().any(|path| self.ground.absent.contains(path) && !is_written(path)) {
            return true;
        }
        let is_missing = |path: &AbsPath| !is_written(path) && !self.past.succeeded(&READS, path.as_str());
        let is_begun = self.outputs.iter().any(is_written);
        self.changes() || (self.writes() && (!is_begun || self.outputs.iter().any(is_missing)))
    }

    /// What the message names and was not looked at.
    fn wanted(&self) -> Wanted {
        let mut wanted = Wanted::default();
        for (path, looks) in &self.named {
            let is_directory = match (looks, self.past.kind_of(path)) {
                (_, Some(kind)) => kind == FileKind::Directory,
                (Looks::File, None) => false,
                (Looks::Open, None) if !self.lists => false,
                (Looks::Directory, None) => true,
                (Looks::Open, None) => {
                    if !self.past.tried(&["file_list"], path.as_str()) {
                        wanted.list.push(path.clone());
                    }
                    continue;
                }
            };
            match is_directory {
                true => self.want_directory(path, &mut wanted),
                false => wanted.read.push(path.clone()),
            }
        }
        wanted.fetch =
            self.urls.iter().filter(|url| !self.past.tried(&["web_fetch"], url)).cloned().collect();
        wanted
    }

    /// A directory, and once it was listed its files, where they are few and what they say is asked for.
    fn want_directory(&self, directory: &AbsPath, wanted: &mut Wanted) {
        if !self.past.tried(&["file_list"], directory.as_str()) {
            wanted.list.push(directory.clone());
            return;
        }
        let entries = self.past.entries_of(directory);
        let files = entries.into_iter().filter(|(path, kind)| {
            *kind == FileKind::File && !self.outputs.contains(path) && self.ground.may_read(path)
        });
        let files: Vec<AbsPath> = files.map(|(path, _)| path).collect();
        let asks = (self.words.says(&CONTENT) || self.delegates) && !self.words.says(&SEARCH);
        if asks && files.len() <= MAX_READ_ALL {
            let known = std::mem::take(&mut wanted.read);
            let new: Vec<AbsPath> = files.into_iter().filter(|path| !known.contains(path)).collect();
            wanted.read = [known, new].concat();
        }
    }

    /// Files and directories that came up and were not looked at.
    fn extra(&self) -> Wanted {
        let mut extra = Wanted::default();
        if self.past.calls_of(&READS) >= self.named.len().saturating_add(MAX_EXTRA) {
            return extra;
        }
        for (path, kind) in self.past.seen() {
            match kind {
                FileKind::File => extra.read.push(path),
                FileKind::Directory => extra.list.push(path),
                FileKind::Symlink | FileKind::Other => {}
            }
        }
        extra
    }

    /// Calls that look at what is wanted: listings first, then the files and pages themselves or children that do it.
    fn looking<'t>(
        &self,
        wanted: &Wanted,
        find: &impl Fn(&str) -> Option<&'t ToolSpec>,
    ) -> Vec<NarrowedCall> {
        let bytes = self.ground.read_bytes();
        let untried = |paths: &[AbsPath], tools: &[&str]| -> Vec<String> {
            let is_new =
                |path: &&AbsPath| !self.past.tried(tools, path.as_str()) && self.ground.may_read(path);
            paths.iter().filter(is_new).map(ToString::to_string).take(MAX_VALUES).collect()
        };
        let mut calls = Vec::new();
        let list = untried(&wanted.list, &["file_list"]);
        if let Some(tool) = find("file_list").filter(|_| !list.is_empty()) {
            calls.push(shown::list(&tool.name, &list));
        }
        // Who gets which file is settled once all of them are known.
        let children = if calls.is_empty() { self.children(&wanted.read) } else { Vec::new() };
        if let Some(tool) = find("spawn_agent").filter(|_| !children.is_empty()) {
            calls.push(shown::spawn(&tool.name, &children));
        }
        let read = untried(&wanted.read, &READS);
        if let Some(tool) = find("file_read").filter(|_| !read.is_empty()) {
            calls.push(shown::read(&tool.name, &read, bytes));
        }
        if let Some(tool) = find("web_fetch").filter(|_| !wanted.fetch.is_empty()) {
            calls.push(shown::fetch(&tool.name, &wanted.fetch, bytes));
        }
        calls
    }

    /// Manifests of children that share these files among them and were not started.
    fn children(&self, files: &[AbsPath]) -> Vec<String> {
        if files.is_empty() {
            return Vec::new();
        }
        let most = MAX_CHILDREN.min(files.len());
        let is_apart = self.words.times("one") > 1 || APART.iter().any(|word| self.words.has(word));
        let count = self.words.count_of(&COUNTED).filter(|_| !is_apart).unwrap_or(files.len()).clamp(1, most);
        let children = files.chunks(files.len().div_ceil(count)).enumerate();
        let manifests = children.map(|(number, files)| self.manifest(number, files));
        manifests.filter(|manifest| !self.past.tried(&SPAWNS, manifest)).collect()
    }

    /// The manifest of a child that may read these files and do nothing else.
    fn manifest(&self, number: usize, files: &[AbsPath]) -> String {
        let (name, model, window) = (child_name(number), &self.ground.model, self.ground.window);
        let grants = files.iter().map(|path| format!("\n- file_read: {}", quoted(path.as_str())));
        format!(
            "name: {name}\nmodel: {model}\nsystem_prompt: Read your files, then answer from them in a few \
             sentences.\nmemory: {{ context_window: {window} }}\ncapabilities:\n- tool: file_read{}",
            grants.collect::<String>()
        )
    }

    /// A search that is asked for and was not made.
    fn searching<'t>(&self, find: &impl Fn(&str) -> Option<&'t ToolSpec>) -> Option<NarrowedCall> {
        let tool = find("grep").filter(|_| self.past.calls_of(&["grep"]) == 0)?;
        let paths: Vec<String> = self.named.iter().map(|(path, _)| path.to_string()).collect();
        Some(shown::search(&tool.name, &paths))
    }

    /// Calls of tools that the message speaks of and that were not tried: an offer, since words may mean anything.
    fn acting(&self, tools: &[ToolSpec]) -> Vec<NarrowedCall> {
        let mut calls = Vec::new();
        for tool in tools.iter().filter(|tool| self.past.calls_of(&[tool.name.as_str()]) == 0) {
            match tool.name.as_str() {
                "grep" | "file_read" | "file_list" | "web_fetch" => {}
                "file_write" | "file_edit" | "spawn_agent" => {}
                "command_run" => {
                    let programs: Vec<String> = self.ground.programs().map(ToString::to_string).collect();
                    calls.push(shown::any(tool, "program", &programs));
                }
                "git" | "cargo" => {
                    let directories = self.named.iter().map(|(path, _)| path).chain(&self.ground.directory);
                    let directories: Vec<String> = directories.map(ToString::to_string).collect();
                    calls.push(shown::any(tool, "directory", &directories));
                }
                _ => calls.push(shown::any(tool, "", &[])),
            }
        }
        calls
    }

    /// Calls that leave behind what is still missing.
    fn writing<'t>(&self, find: &impl Fn(&str) -> Option<&'t ToolSpec>) -> Vec<NarrowedCall> {
        let is_open = |path: &&AbsPath| {
            !self.past.succeeded(&WRITES, path.as_str())
                && self.past.failures(&WRITES, path.as_str()) < MAX_FAILURES
                && self.ground.may_write(path)
        };
        let mut calls = Vec::new();
        let changed = self.named.iter().map(|(path, _)| path).filter(is_open);
        let changed = changed.filter(|path| self.past.succeeded(&READS, path.as_str()));
        let changed: Vec<String> = changed.map(ToString::to_string).collect();
        if let Some(tool) = find("file_edit").filter(|_| !changed.is_empty()) {
            calls.push(shown::edit(&tool.name, &changed, self.ground.content_chars()));
        }
        // What is there and could not be read is left alone. Whoever has children read reads nothing: its report is new.
        let is_free = |path: &&AbsPath| self.delegates || self.is_absent(path) || self.is_known(path);
        let missing = self.outputs.iter().filter(is_open).filter(is_free);
        let (longer, missing): (Vec<&AbsPath>, Vec<&AbsPath>) =
            missing.partition(|path| self.appends_to(path));
        for (paths, appends) in [(longer, true), (missing, false)] {
            let paths: Vec<String> = paths.into_iter().map(ToString::to_string).collect();
            if let Some(tool) = find("file_write").filter(|_| !paths.is_empty()) {
                calls.push(shown::write(&tool.name, &paths, self.ground.content_chars(), appends));
            }
        }
        calls
    }
}

impl Ground {
    /// The most of one read: a part of the window.
    fn read_bytes(&self) -> u64 {
        (self.window.0 / READ_SHARE * BYTES_PER_TOKEN).max(1)
    }

    /// The most of one written text: what surely fits a reply, which may take a quarter of the window.
    fn content_chars(&self) -> u64 {
        (self.window.0 / CONTENT_SHARE).clamp(1, MAX_CONTENT_CHARS)
    }

    fn usable(&self) -> impl Iterator<Item = &Capability> {
        self.grants.iter().filter(|grant| grant.constraints.usable).map(|grant| &grant.capability)
    }

    fn may_read(&self, path: &AbsPath) -> bool {
        let covers = |one: &Capability| matches!(one, Capability::FileRead(at) if at.matches(path).is_some());
        self.usable().any(covers)
    }

    fn may_write(&self, path: &AbsPath) -> bool {
        let covers =
            |one: &Capability| matches!(one, Capability::FileWrite(at) if at.matches(path).is_some());
        self.usable().any(covers)
    }

    fn may_spawn(&self, name: &str) -> bool {
        let Ok(name) = AgentName::parse(name) else { return false };
        self.usable().any(|one| matches!(one, Capability::SpawnChild(names) if names.contains(&name)))
    }

    fn reaches(&self, url: &str) -> bool {
        let Ok((host, port)) = host_and_port(url) else { return false };
        self.usable().any(|one| match one {
            Capability::WebSearch => is_public_web(&host, port),
            Capability::Network(rules) => rules.iter().any(|rule| rule.matches(&host, port)),
            _ => false,
        })
    }

    fn programs(&self) -> impl Iterator<Item = &AbsPath> {
        self.usable().filter_map(|one| match one {
            Capability::Exec(program) => Some(program),
            _ => None,
        })
    }

    /// The single files that it may read, or write.
    fn granted_files(&self, reads: bool) -> impl Iterator<Item = &AbsPath> {
        self.usable()
            .filter_map(move |one| match one {
                Capability::FileRead(pattern) if reads => Some(pattern),
                Capability::FileWrite(pattern) if !reads => Some(pattern),
                _ => None,
            })
            .filter(|pattern| pattern.reach() == Reach::Exact)
            .map(|pattern| pattern.root())
    }
}

fn child_name(number: usize) -> String {
    format!("reader-{}", number + 1)
}

/// As YAML takes any text.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
