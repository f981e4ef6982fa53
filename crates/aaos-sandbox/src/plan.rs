//! From a permitted tool call to what its worker is handed, and from what the worker says to the result.
//!
//! Invariants: descriptors are opened only through the grants that the permit names. Planning changes nothing
//! on disk. What `file_write` puts there is what the journal says was asked for, whatever its worker did.

use std::os::fd::OwnedFd;

use aaos_core::effect::{Access, Denied, FileRight, Need};
use aaos_core::id::{CallId, GrantId};
use aaos_core::limits::{MAX_FILE_BYTES, MAX_READ_MANY_PATHS};
use aaos_core::path::AbsPath;
use aaos_core::quantity::{Amounts, Bytes};
use aaos_core::tool::ToolInput;
use aaos_core::toolio::{
    FileEditInput, FileKind, FileReadInput, FileReadManyInput, FileReadManyOutput, FileWriteInput,
    ToolFailure, ToolFailureKind,
};
use aaos_core::wire::{Handed, Handle, JobOutput, WorkerJob};
use rustix::fs::ResolveFlags;
use serde::Serialize;

use crate::beneath::{Facts, Links, Readable};
use crate::broker::Broker;
use crate::commit::{
    CommitError, Write, WriteMode, check_target, commit, scratch, sealed_content, take_over,
};
use crate::egress::FetchedPage;
use crate::roots::{RootError, RootTable};

/// Number of the first descriptor of a call.
const FIRST: Handle = Handle(0);

/// What a call needs, ready to be sent.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) job: WorkerJob,
    pub(crate) descriptors: Vec<OwnedFd>,
    pub(crate) broker: Option<Broker>,
    pub(crate) commit: Option<PlannedCommit>,
}

/// A write that follows when the worker has filled its memfd.
#[derive(Debug)]
pub(crate) struct PlannedCommit {
    call: CallId,
    repeated: bool,
    table: RootTable,
    scratch: OwnedFd,
    grant: GrantId,
    relative: String,
    shown: AbsPath,
    mode: WriteMode,
    links: Links,
    /// Hash of what the worker has to hand over, where that is known beforehand.
    asked: Option<blake3::Hash>,
}

impl PlannedCommit {
    /// Seals, checks and puts the file in place. The grant must still stand.
    pub(crate) fn run(self, claimed: Bytes) -> Result<(), CommitError> {
        take_over(&self.scratch, claimed.0, MAX_FILE_BYTES)?;
        let content = sealed_content(self.scratch, claimed.0)?;
        if self.asked.is_some_and(|asked| asked != blake3::hash(&content)) {
            let why = "it is not the content that was to be written".to_owned();
            return Err(CommitError::Handover { why });
        }
        let root = self.table.root(self.grant)?;
        let write = Write {
            call: self.call,
            repeated: self.repeated,
            relative: &self.relative,
            shown: self.shown.as_str(),
            content: &content,
            mode: &self.mode,
            links: self.links,
        };
        commit(&self.table, &root, &write)?;
        Ok(())
    }
}

/// What planning looks at.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) call: CallId,
    /// Whether an earlier daemon began this very call and ended before it could say how it went.
    pub(crate) repeated: bool,
    pub(crate) input: ToolInput,
    /// The size of the file that an append goes on from.
    pub(crate) at: Option<Bytes>,
    pub(crate) all: Vec<Access>,
    pub(crate) each: Vec<Result<Access, Denied>>,
    pub(crate) page: Option<FetchedPage>,
    pub(crate) table: RootTable,
    /// What is reserved for it.
    pub(crate) most: Amounts,
}

impl Request {
    /// Whether planning touches the file system and so must not run on an async thread.
    pub(crate) fn blocks(&self) -> bool {
        !matches!(self.input, ToolInput::Echo(_) | ToolInput::WebFetch(_))
    }

    /// Opens the file of a `file_read` where its name and its inode are in memory and its disk is this machine's own: then
    /// nothing is waited for but whoever the operator has watch every opening of a file (fanotify, IMA). None where more
    /// would be waited for, and where something is wrong: the longer way says what.
    pub(crate) fn plan_at_once(&self) -> Option<Plan> {
        let ToolInput::FileRead(input) = &self.input else { return None };
        let way = self.access(FileRight::Read, &input.path).ok()?;
        let root = self.table.root(way.grant).ok()?;
        if !root.local {
            return None;
        }
        let base = root.base(self.table.protection(), input.path.as_str());
        let resolve = root.resolve(way.links) | ResolveFlags::CACHED;
        let location = base.locate(root.target(way.relative).ok()?.as_bytes(), resolve).ok()?;
        if location.facts.kind != FileKind::File {
            return None;
        }
        plan_read(input, base.readable(location).ok()?).ok()
    }

    /// Opens what the call needs.
    pub(crate) fn plan(self) -> Result<Plan, ToolFailure> {
        match &self.input {
            ToolInput::Echo(input) => Ok(bare(WorkerJob::Echo(input.clone()))),
            ToolInput::WebFetch(_) => plan_page(self.page),
            ToolInput::FileRead(input) => plan_read(input, self.open(FileRight::Read, &input.path)?.readable),
            ToolInput::FileList(input) => {
                let (target, descriptor, broker) = self.hand_tree(&input.path)?;
                let job = WorkerJob::FileList { input: input.clone(), target };
                Ok(Plan { descriptors: vec![descriptor], broker, ..bare(job) })
            }
            ToolInput::Grep(input) => {
                let (target, descriptor, broker) = self.hand_tree(&input.path)?;
                let job = WorkerJob::Grep { input: input.clone(), target };
                Ok(Plan { descriptors: vec![descriptor], broker, ..bare(job) })
            }
            ToolInput::FileReadMany(input) => Ok(self.plan_read_many(input)),
            ToolInput::FileWrite(input) => self.plan_write(input),
            ToolInput::FileEdit(input) => self.plan_edit(input),
            ToolInput::Cargo(_) | ToolInput::CommandRun(_) | ToolInput::Git(_) => Err(ToolFailure::new(
                ToolFailureKind::UnknownTool,
                format!("{} runs in a sandbox of its own, not in a worker", self.input.name()),
            )),
            ToolInput::HistoryRead(_)
            | ToolInput::SendMessage(_)
            | ToolInput::SpawnAgent(_)
            | ToolInput::SpawnAgents(_) => Err(ToolFailure::new(
                ToolFailureKind::UnknownTool,
                format!("{} runs in the kernel, not in a worker", self.input.name()),
            )),
        }
    }

    /// How `path` is reached.
    fn access(&self, right: FileRight, path: &AbsPath) -> Result<Way<'_>, ToolFailure> {
        let need = Need::File { right, path: path.clone() };
        let access = self.all.iter().find(|access| access.need == need);
        access.and_then(through).ok_or_else(|| unmet(path))
    }

    fn open(&self, right: FileRight, path: &AbsPath) -> Result<Opened, ToolFailure> {
        let way = self.access(right, path)?;
        open_below(&self.table, way, path).map_err(|error| error.to_failure())
    }

    /// A directory with its broker, or a single file.
    fn hand_tree(&self, path: &AbsPath) -> Result<(Handed, OwnedFd, Option<Broker>), ToolFailure> {
        let Opened { readable, grant, exempt } = self.open(FileRight::Read, path)?;
        if readable.facts.kind == FileKind::File {
            let (handed, descriptor) = hand_file(readable, FIRST, path)?;
            return Ok((handed, descriptor, None));
        }
        let own = readable.fd.try_clone().map_err(|error| out_of_descriptors(&error))?;
        let broker = Broker::new(self.table.clone(), grant, exempt, FIRST, own);
        Ok((Handed::Directory { handle: FIRST }, readable.fd, Some(broker)))
    }

    fn plan_read_many(&self, input: &FileReadManyInput) -> Plan {
        debug_assert!(input.paths.len() <= MAX_READ_MANY_PATHS, "the schema bounds the paths");
        let mut descriptors = Vec::new();
        let mut files = Vec::new();
        for (index, path) in input.paths.iter().enumerate() {
            let number = Handle(u32::try_from(index).unwrap_or(u32::MAX));
            let handed = self.open_each(index, path).and_then(|readable| hand_file(readable, number, path));
            let handed = handed.map_or_else(Handed::Failed, |(handed, descriptor)| {
                descriptors.push(descriptor);
                handed
            });
            files.push((path.clone(), handed));
        }
        Plan { descriptors, ..bare(WorkerJob::FileReadMany { files }) }
    }

    fn open_each(&self, index: usize, path: &AbsPath) -> Result<Readable, ToolFailure> {
        let access = match self.each.get(index) {
            Some(Ok(access)) => access,
            Some(Err(denied)) => {
                let message = format!("{denied}; {}", denied.hint);
                return Err(ToolFailure::new(ToolFailureKind::Denied, message));
            }
            None => return Err(unmet(path)),
        };
        let need = Need::File { right: FileRight::Read, path: path.clone() };
        let way = through(access).filter(|_| access.need == need).ok_or_else(|| unmet(path))?;
        let opened = open_below(&self.table, way, path);
        opened.map(|opened| opened.readable).map_err(|error| error.to_failure())
    }

    fn plan_write(&self, input: &FileWriteInput) -> Result<Plan, ToolFailure> {
        if input.content.len() as u64 > MAX_FILE_BYTES {
            let message = format!(
                "content has {} bytes, more than the limit of {MAX_FILE_BYTES}; write it in parts with append",
                input.content.len()
            );
            return Err(ToolFailure::new(ToolFailureKind::TooLarge, message));
        }
        let at = self.at.map(|at| at.0);
        let mode = if input.append { WriteMode::Append { at } } else { WriteMode::Replace };
        let (mut commit, descriptor) = self.plan_commit(&input.path, mode)?;
        commit.asked = Some(blake3::hash(input.content.as_bytes()));
        let job = WorkerJob::FileWrite { input: input.clone(), scratch: FIRST };
        Ok(Plan { descriptors: vec![descriptor], commit: Some(commit), ..bare(job) })
    }

    fn plan_edit(&self, input: &FileEditInput) -> Result<Plan, ToolFailure> {
        let readable = self.open(FileRight::Read, &input.path)?.readable;
        let mode = WriteMode::Edit(readable.facts.clone());
        let (file, read) = hand_file(readable, FIRST, &input.path)?;
        let (commit, scratch) = self.plan_commit(&input.path, mode)?;
        let job = WorkerJob::FileEdit { input: input.clone(), file, scratch: Handle(FIRST.0 + 1) };
        Ok(Plan { descriptors: vec![read, scratch], commit: Some(commit), ..bare(job) })
    }

    /// Looks at the target of a write and makes the memfd that its worker fills.
    fn plan_commit(&self, path: &AbsPath, mode: WriteMode) -> Result<(PlannedCommit, OwnedFd), ToolFailure> {
        let Way { grant, relative, links } = self.access(FileRight::Write, path)?;
        let root = self.table.root(grant).map_err(|error| error.to_failure())?;
        check_target(&self.table, &root, relative, path.as_str(), links)
            .map_err(|error| error.to_failure())?;
        let own = scratch().map_err(|errno| out_of_descriptors(&errno.into()))?;
        let lent = own.try_clone().map_err(|error| out_of_descriptors(&error))?;
        let commit = PlannedCommit {
            call: self.call,
            repeated: self.repeated,
            table: self.table.clone(),
            scratch: own,
            grant,
            relative: relative.to_owned(),
            shown: path.clone(),
            mode,
            links,
            asked: None,
        };
        Ok((commit, lent))
    }
}

struct Opened {
    readable: Readable,
    grant: GrantId,
    exempt: bool,
}

/// Through which grant a path is reached, and how.
#[derive(Clone, Copy)]
struct Way<'a> {
    grant: GrantId,
    /// Below the grant's root.
    relative: &'a str,
    links: Links,
}

fn open_below(table: &RootTable, way: Way<'_>, path: &AbsPath) -> Result<Opened, RootError> {
    let Way { grant, relative, links } = way;
    let root = table.root(grant)?;
    let base = root.base(table.protection(), path.as_str());
    let readable = base.open_readable(root.target(relative)?.as_bytes(), root.resolve(links))?;
    Ok(Opened { readable, grant, exempt: root.is_exempt() })
}

fn plan_read(input: &FileReadInput, opened: Readable) -> Result<Plan, ToolFailure> {
    let (file, descriptor) = hand_file(opened, FIRST, &input.path)?;
    let job = WorkerJob::FileRead { input: input.clone(), file };
    Ok(Plan { descriptors: vec![descriptor], ..bare(job) })
}

fn bare(job: WorkerJob) -> Plan {
    Plan { job, descriptors: Vec::new(), broker: None, commit: None }
}

fn plan_page(page: Option<FetchedPage>) -> Result<Plan, ToolFailure> {
    let Some(page) = page else {
        return Err(ToolFailure::new(ToolFailureKind::Network, "the page was not fetched"));
    };
    let job = WorkerJob::ReadPage {
        status: page.status,
        content_type: page.content_type,
        final_url: page.final_url,
        truncated: page.truncated,
        page: Handed::File { handle: FIRST, size: page.bytes },
    };
    Ok(Plan { descriptors: vec![page.memfd], ..bare(job) })
}

fn through(access: &Access) -> Option<Way<'_>> {
    let links = if access.no_links { Links::Refuse } else { Links::Follow };
    Some(Way { grant: access.grant, relative: access.relative.as_deref()?, links })
}

fn unmet(path: &AbsPath) -> ToolFailure {
    ToolFailure::new(ToolFailureKind::Denied, format!("no grant was named for {path}"))
}

fn out_of_descriptors(error: &std::io::Error) -> ToolFailure {
    ToolFailure::new(ToolFailureKind::Io, format!("the daemon is out of descriptors ({error}); try again"))
}

fn hand_file(opened: Readable, handle: Handle, path: &AbsPath) -> Result<(Handed, OwnedFd), ToolFailure> {
    let Readable { fd, facts: Facts { kind, size, .. } } = opened;
    if kind != FileKind::File {
        let error = RootError::WrongKind { path: path.as_str().to_owned(), found: kind };
        return Err(error.to_failure());
    }
    Ok((Handed::File { handle, size: Bytes(size) }, fd))
}

/// Whether the output is of the kind that the job asks for.
pub(crate) fn fits(input: &ToolInput, output: &JobOutput) -> bool {
    match (input, output) {
        (ToolInput::Echo(_), JobOutput::Echo(_))
        | (ToolInput::FileRead(_), JobOutput::FileRead(_))
        | (ToolInput::FileList(_), JobOutput::FileList(_))
        | (ToolInput::FileEdit(_), JobOutput::FileEdit(_))
        | (ToolInput::Grep(_), JobOutput::Grep(_))
        | (ToolInput::WebFetch(_), JobOutput::ReadPage(_)) => true,
        (ToolInput::FileReadMany(input), JobOutput::FileReadMany(output)) => {
            input.paths.iter().eq(output.files.iter().map(|item| &item.path))
        }
        (ToolInput::FileWrite(input), JobOutput::FileWrite(output)) => {
            output.bytes_written.0 == input.content.len() as u64
        }
        _ => false,
    }
}

/// Bytes that the worker says it left in its memfd.
pub(crate) fn claimed_bytes(output: &JobOutput) -> Bytes {
    match output {
        JobOutput::FileWrite(output) => output.bytes_written,
        JobOutput::FileEdit(output) => output.bytes_after,
        _ => Bytes::ZERO,
    }
}

/// The result's JSON text, in the words of SPEC §4.
pub(crate) fn render(output: &JobOutput) -> Result<String, serde_json::Error> {
    match output {
        JobOutput::Echo(output) => serde_json::to_string(output),
        JobOutput::FileRead(output) => serde_json::to_string(output),
        JobOutput::FileList(output) => serde_json::to_string(output),
        JobOutput::FileReadMany(output) => serde_json::to_string(&RenderedMany::from(output)),
        JobOutput::FileWrite(output) => serde_json::to_string(output),
        JobOutput::FileEdit(output) => serde_json::to_string(output),
        JobOutput::Grep(output) => serde_json::to_string(output),
        JobOutput::ReadPage(output) => serde_json::to_string(output),
        JobOutput::ScriptLine(output) => serde_json::to_string(output),
        JobOutput::Unpacked(output) => serde_json::to_string(output),
        JobOutput::GitDrivers(output) => serde_json::to_string(output),
        JobOutput::Cargo(output) => serde_json::to_string(output),
        JobOutput::Probe(output) => serde_json::to_string(output),
    }
}

#[derive(Serialize)]
struct RenderedMany<'o> {
    files: Vec<RenderedItem<'o>>,
    count: usize,
}

#[derive(Serialize)]
struct RenderedItem<'o> {
    path: &'o AbsPath,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'o str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_bytes: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ToolFailureKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'o str>,
}

impl<'o> From<&'o FileReadManyOutput> for RenderedMany<'o> {
    fn from(output: &'o FileReadManyOutput) -> Self {
        let files: Vec<_> = output
            .files
            .iter()
            .map(|item| {
                let (read, failure) = (item.result.as_ref().ok(), item.result.as_ref().err());
                RenderedItem {
                    path: &item.path,
                    content: read.map(|read| read.content.as_str()),
                    size_bytes: read.map(|read| read.size_bytes),
                    error: failure.map(|failure| failure.kind),
                    reason: failure.map(|failure| failure.message.as_str()),
                }
            })
            .collect();
        Self { count: files.len(), files }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use aaos_core::effect::{Access, FileRight, Need};
    use aaos_core::id::{CallId, GrantId};
    use aaos_core::path::{AbsPath, PathPattern};
    use aaos_core::quantity::{Amounts, Bytes};
    use aaos_core::tool::ToolInput;
    use aaos_core::toolio::{FileReadInput, FileWriteInput};
    use testkit::scratch;
    use uuid::Uuid;

    use super::{Plan, Request};
    use crate::commit::CommitError;
    use crate::roots::RootTable;

    const GRANT: GrantId = GrantId::from_uuid(Uuid::from_u128(1));

    /// A call on the one file `path`, by the name that it has below the root.
    fn request(table: &RootTable, right: FileRight, path: &AbsPath, input: ToolInput) -> Request {
        let access = Access {
            need: Need::File { right, path: path.clone() },
            grant: GRANT,
            relative: path.as_str().rsplit('/').next().map(str::to_owned),
            hosts: Vec::new(),
            public: false,
            through: Vec::new(),
            world: None,
            no_links: false,
        };
        Request {
            call: CallId::from_uuid(Uuid::from_u128(2)),
            repeated: false,
            input,
            at: None,
            all: vec![access],
            each: Vec::new(),
            page: None,
            table: table.clone(),
            most: Amounts::default(),
        }
    }

    /// Carries an append of `+new` to `path` out as a worker that does its work would have it.
    fn append(table: &RootTable, path: &AbsPath, at: Option<u64>, repeated: bool) -> Result<(), CommitError> {
        let content = "+new".to_owned();
        let input = FileWriteInput { path: path.clone(), content: content.clone(), append: true };
        let request = Request {
            repeated,
            at: at.map(Bytes),
            ..request(table, FileRight::Write, path, ToolInput::FileWrite(input))
        };
        let Plan { mut descriptors, commit, .. } = request.plan().expect("a plan");
        let mut memfd = fs::File::from(descriptors.remove(0));
        memfd.write_all(content.as_bytes()).expect("filled");
        commit.expect("a write").run(Bytes(content.len() as u64))
    }

    #[test]
    fn a_file_is_opened_at_once_where_nothing_is_waited_for_and_the_longer_way_says_what_is_wrong() {
        // In memory, whatever the file system of other temporary files.
        let home = tempfile::tempdir_in("/dev/shm").expect("a directory");
        let at = |name: &str| AbsPath::parse(&format!("{}/{name}", home.path().display())).expect("a path");
        fs::write(home.path().join("f"), "content").expect("written");
        std::os::unix::fs::symlink("f", home.path().join("link")).expect("a link");
        rustix::fs::mkfifoat(rustix::fs::CWD, home.path().join("fifo"), rustix::fs::Mode::RWXU)
            .expect("a FIFO");
        let table = RootTable::new(Vec::new(), Vec::new());
        let pattern = PathPattern::parse(&format!("{}/*", home.path().display())).expect("a pattern");
        table.open_root(GRANT, &pattern, false).expect("a root");
        let read = |name: &str| {
            let input = FileReadInput { path: at(name), offset: None, limit: None };
            request(&table, FileRight::Read, &at(name), ToolInput::FileRead(input))
        };
        // Reading through a link for the first time changes its time of access, for which the kernel would wait.
        fs::read(home.path().join("link")).expect("read");
        // Mounts that come and go elsewhere can make the kernel want to wait now and then.
        let at_once = |name| (0..1000).find_map(|_| read(name).plan_at_once());
        for name in ["f", "link"] {
            let mut plan = at_once(name).expect("at once");
            let file = fs::File::from(plan.descriptors.remove(0));
            assert_eq!(std::io::read_to_string(file).expect("read"), "content");
        }
        for name in ["missing", "fifo", "f/below"] {
            assert!(read(name).plan_at_once().is_none(), "{name}");
            assert!(read(name).plan().is_err(), "{name}");
        }
        let write = FileWriteInput { path: at("f"), content: String::new(), append: false };
        let write = request(&table, FileRight::Write, &at("f"), ToolInput::FileWrite(write));
        assert!(write.plan_at_once().is_none(), "a write waits for the disk");
    }

    #[test]
    fn a_call_takes_its_position_and_whether_it_is_repeated_to_its_commit() {
        let home = scratch();
        fs::write(home.path().join("f"), "old").expect("written");
        let table = RootTable::new(Vec::new(), Vec::new());
        let pattern = PathPattern::parse(&format!("{}/*", home.path().display())).expect("a pattern");
        table.open_root(GRANT, &pattern, false).expect("a root");
        let path = AbsPath::parse(&format!("{}/f", home.path().display())).expect("a path");
        let there = || fs::read_to_string(home.path().join("f")).expect("text");
        append(&table, &path, Some(3), false).expect("added");
        assert!(matches!(append(&table, &path, Some(3), false), Err(CommitError::ChangedMeanwhile { .. })));
        append(&table, &path, Some(3), true).expect("was added");
        assert_eq!(there(), "old+new");
        assert!(matches!(append(&table, &path, None, true), Err(CommitError::Unpositioned { .. })));
        append(&table, &path, None, false).expect("the control: from wherever it ends");
        assert_eq!(there(), "old+new+new");
    }
}
