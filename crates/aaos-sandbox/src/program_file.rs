//! The file that a program's path leads to, and for a script its interpreter: found and opened once, read by a worker,
//! shown to a person, and executed.
//!
//! Invariants: agentd hashes what is in them and reads nothing else of it. The file that was looked at is the one that is
//! executed, by the same descriptors; who may change its content meanwhile can still do that. A script is started by an
//! interpreter that is granted, too, and the interpreter is no script.

use std::os::fd::{AsFd, OwnedFd};

use aaos_core::approval::Target;
use aaos_core::limits::MAX_OBSERVED_OUTPUT_BYTES;
use aaos_core::path::AbsPath;
use aaos_core::program::ScriptLine;
use aaos_core::quantity::Bytes;
use aaos_core::toolio::{FileKind, ToolFailure, ToolFailureKind};
use aaos_core::wire::{Handed, Handle, JobOutput, WorkerJob};
use aaos_core::world::World;
use rustix::fs::{OFlags, ResolveFlags};

use crate::beneath::{Base, Location, facts, open_for_io};
use crate::calls::off_thread;
use crate::error::SandboxError;
use crate::observe::hash_file;
use crate::observe::{not_hashed, shown};
use crate::roots::{RootError, RootTable, open_slash};
use crate::worker::Worker;

/// Execute permission for anybody.
const EXECUTABLE: u32 = 0o111;

/// A program that was found.
#[derive(Debug)]
pub(crate) struct ProgramFile {
    pub(crate) path: AbsPath,
    /// To execute it by.
    pub(crate) location: Location,
    /// To read it by, where it may be read.
    pub(crate) content: Option<OwnedFd>,
}

/// What a call would execute: the program, and for a script what it is started by.
#[derive(Debug)]
pub struct OpenedProgram {
    pub(crate) called: ProgramFile,
    pub(crate) by: Option<(ScriptLine, ProgramFile)>,
}

impl OpenedProgram {
    /// Whether no link led to it: it is the file of its own name.
    #[must_use]
    pub fn is_at_its_name(&self) -> bool {
        self.called.location.path == std::path::Path::new(self.called.path.as_str())
    }

    /// What a person is shown of it: which files these are, and their content now. Reads them.
    #[must_use]
    pub fn observe(&self) -> Vec<Target> {
        let called = self.called.observe();
        let Some((line, interpreter)) = &self.by else { return vec![called] };
        // The first line was read by a worker, whose word counts for what a person was shown of it and for nothing else.
        let content_hash = called.content_hash.map(|hash| format!("{hash}, started by {line}"));
        vec![Target { content_hash, ..called }, interpreter.observe()]
    }
}

impl ProgramFile {
    /// Finds it and opens it. Touches the file system.
    pub(crate) fn find(path: &AbsPath, table: &RootTable) -> Result<Self, ToolFailure> {
        let location =
            find_program(path, table, ResolveFlags::empty()).map_err(|error| error.to_failure())?;
        Self::at(path, location)
    }

    /// The same where the names on the way and the file's inode are in memory, and all of it lies on the file system of
    /// the root directory, which is this machine's own: then nothing is waited for. None where more would be waited for,
    /// and where something is wrong: the longer way says what.
    fn find_at_once(path: &AbsPath, table: &RootTable) -> Option<Self> {
        if !table.is_slash_local() {
            return None;
        }
        let location = find_program(path, table, ResolveFlags::NO_XDEV | ResolveFlags::CACHED).ok()?;
        Self::at(path, location).ok()
    }

    /// What was found, if it can be executed; opens it for reading.
    fn at(path: &AbsPath, location: Location) -> Result<Self, ToolFailure> {
        if location.facts.kind != FileKind::File {
            let error = RootError::WrongKind { path: path.to_string(), found: location.facts.kind };
            return Err(error.to_failure());
        }
        if location.facts.mode & EXECUTABLE == 0 {
            let why =
                format!("{path} is not executable; name a program, or its interpreter with it as argument");
            return Err(ToolFailure::new(ToolFailureKind::WrongKind, why));
        }
        // What may be executed and not read is no script: its interpreter could not read it either.
        let content = open_for_io(&location.fd, OFlags::RDONLY).ok();
        Ok(Self { path: path.clone(), location, content })
    }

    fn observe(&self) -> Target {
        let hash = self.hash().unwrap_or_else(|error| format!("unknown: {error}"));
        Target {
            path: self.path.to_string(),
            root: String::new(),
            place: shown(&self.location.path),
            content_hash: Some(hash),
        }
    }

    /// Read by a descriptor of its own: where the other one stands is the worker's matter.
    fn hash(&self) -> Result<String, RootError> {
        let fail = |errno| RootError::from_errno("look at", self.path.as_str(), errno);
        let now = facts(&self.location.fd, b"").map_err(fail)?;
        if now.size > MAX_OBSERVED_OUTPUT_BYTES {
            return Ok(not_hashed(&now));
        }
        let file = open_for_io(&self.location.fd, OFlags::RDONLY).map_err(fail)?;
        let (_, hash) = hash_file(file).map_err(|source| RootError::Io {
            action: "read",
            path: self.path.to_string(),
            source,
        })?;
        Ok(hash)
    }
}

/// The file that a program's path leads to now.
fn find_program(path: &AbsPath, table: &RootTable, how: ResolveFlags) -> Result<Location, RootError> {
    let slash = open_slash()?;
    let shown = path.as_str();
    let base = Base { directory: slash.as_fd(), protection: table.protection(), exempt: false, shown };
    base.locate(&shown.as_bytes()[1..], how | ResolveFlags::NO_MAGICLINKS)
}

impl Worker {
    /// Opens a program, and where it is a script its interpreter, which has to be one of the world's: this worker reads
    /// its first line. Dropping the future condemns the worker.
    ///
    /// # Errors
    /// [`ToolFailure`] saying why it cannot be started; nothing was executed.
    pub async fn open_program(
        &mut self,
        program: &AbsPath,
        world: &World,
        roots: &RootTable,
    ) -> Result<OpenedProgram, ToolFailure> {
        let called = find(program, roots).await?;
        let Some(line) = self.script_line(&called).await? else {
            return Ok(OpenedProgram { called, by: None });
        };
        let interpreter = &line.interpreter;
        if !world.programs.contains(interpreter) {
            let why = format!(
                "{program} is a script for {interpreter}, which may not be started; missing exec: {interpreter}"
            );
            return Err(ToolFailure::new(ToolFailureKind::Denied, why));
        }
        let by = find(interpreter, roots).await?;
        if self.script_line(&by).await?.is_some() {
            let why =
                format!("{interpreter}, the interpreter of {program}, is a script itself; start it by name");
            return Err(ToolFailure::new(ToolFailureKind::WrongKind, why));
        }
        Ok(OpenedProgram { called, by: Some((line, by)) })
    }

    /// What the first line of a program names; nothing where it is no script.
    async fn script_line(&mut self, program: &ProgramFile) -> Result<Option<ScriptLine>, ToolFailure> {
        const PROGRAM: Handle = Handle(0);
        let Some(content) = &program.content else { return Ok(None) };
        let size = Bytes(program.location.facts.size);
        let job = WorkerJob::ScriptLine { program: Handed::File { handle: PROGRAM, size } };
        let copy = content.try_clone().map_err(|error| {
            let why = format!("the daemon is out of descriptors ({error}); try again");
            ToolFailure::new(ToolFailureKind::Io, why)
        })?;
        let path = &program.path;
        let answer = self.ask("a look at a program", job, vec![copy]).await;
        let output = answer.map_err(|failure| {
            let message = format!("{path} cannot be started: {}", failure.message);
            ToolFailure { message, ..failure }
        })?;
        match output {
            JobOutput::ScriptLine(line) if line.as_ref().is_none_or(ScriptLine::is_usable) => Ok(line),
            _ => Err(self.broke(&SandboxError::Protocol { what: "no first line of a program" }).await),
        }
    }
}

async fn find(path: &AbsPath, roots: &RootTable) -> Result<ProgramFile, ToolFailure> {
    if let Some(found) = ProgramFile::find_at_once(path, roots) {
        return Ok(found);
    }
    let (path, roots) = (path.clone(), roots.clone());
    off_thread(move || ProgramFile::find(&path, &roots)).await?
}

#[cfg(test)]
mod tests {
    use aaos_core::path::AbsPath;
    use testkit::scratch;

    use super::{OpenedProgram, ProgramFile};
    use crate::roots::RootTable;

    #[test]
    fn what_is_found_at_once_is_what_the_longer_way_finds() {
        let home = scratch();
        std::os::unix::fs::symlink("/bin/true", home.path().join("link")).expect("made");
        std::fs::write(home.path().join("text"), "no program").expect("written");
        let table = RootTable::new(Vec::new(), Vec::new());
        let path = |text: &str| AbsPath::parse(text).expect("a path");
        for name in ["/usr/bin/true".to_owned(), format!("{}/link", home.path().display())] {
            let found = ProgramFile::find(&path(&name), &table).expect("a program");
            // By now its name is in memory; the machine's programs may lie on another file system than its root.
            if let Some(at_once) = ProgramFile::find_at_once(&path(&name), &table) {
                assert_eq!(at_once.location.facts, found.location.facts);
                assert_eq!(at_once.location.path, found.location.path);
            }
        }
        for name in ["/proc/self/exe", "/etc/none", &format!("{}/text", home.path().display())] {
            assert!(ProgramFile::find_at_once(&path(name), &table).is_none(), "{name}");
        }
    }

    #[test]
    fn a_link_is_not_at_its_name_and_neither_is_what_lies_behind_one() {
        let home = scratch();
        std::os::unix::fs::symlink("/bin/true", home.path().join("link")).expect("made");
        std::os::unix::fs::symlink("/usr/bin", home.path().join("folder")).expect("made");
        let own = home.path().join("own");
        std::fs::copy("/bin/true", &own).expect("copied");
        let is_at_its_name = |name: &str| {
            let path = AbsPath::parse(&format!("{}/{name}", home.path().display())).expect("a path");
            let called =
                ProgramFile::find(&path, &RootTable::new(Vec::new(), Vec::new())).expect("a program");
            OpenedProgram { called, by: None }.is_at_its_name()
        };
        assert!(is_at_its_name("own"), "the control");
        assert!(!is_at_its_name("link") && !is_at_its_name("folder/true"));
    }
}
