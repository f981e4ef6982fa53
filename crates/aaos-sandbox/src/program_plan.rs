//! From a permitted `command_run` to the plan of its sandbox: what is executed, and what is around it.
//!
//! Invariants: the program goes as the descriptor that was looked at. Whatever lies in a shown directory and is aaOS's
//! own is hidden; where it could be moved or made by the program, nothing is started. A place that two grants reach has
//! the rights of both.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use aaos_core::effect::FileRight;
use aaos_core::limits::MAX_PROGRAM_ROOTS;
use aaos_core::path::AbsPath;
use aaos_core::program::{Place, PlaceKind, ProgramPlan, SYSTEM_PLACES, proxy_environment};
use aaos_core::toolio::{FileKind, ToolFailure, ToolFailureKind};
use aaos_core::world::{SharedRoot, World};
use rustix::fs::OFlags;

use crate::beneath::{BELOW_NO_LINKS, open_location};
use crate::disk::Disks;
use crate::observe::shown;
use crate::program_call::ProgramCall;
use crate::program_file::OpenedProgram;
use crate::protect::{Protection, kernel_path};
use crate::roots::{RootError, RootTable};

/// Places that a sandbox has of its own: nothing granted is shown there.
const OWN_PLACES: [&str; 3] = ["/proc", "/sys", "/dev"];
/// The one directory of these below which granted ones are shown.
const SHARED_MEMORY: &str = "/dev/shm";

/// A plan and what rides on it.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) plan: ProgramPlan,
    pub(crate) program: OwnedFd,
    pub(crate) script: Option<OwnedFd>,
    pub(crate) shared: Vec<OwnedFd>,
    /// What the program may write to.
    pub(crate) disks: Disks,
}

impl Planned {
    /// Of a call whose program was opened, and what is around it.
    pub(crate) fn new(opened: OpenedProgram, call: &ProgramCall, around: Around) -> Self {
        let ProgramCall { input, world, .. } = call;
        let Around { places, shared, disks } = around;
        let Started { program, script, mut arguments } = Started::of(opened);
        let at = script.as_ref().map(|_| u32::try_from(arguments.len() - 1).unwrap_or(u32::MAX));
        arguments.extend(input.args.iter().cloned());
        let directory = input.directory.clone().unwrap_or_else(|| from_spelling("/"));
        let (mut environment, executes, proxy) = (call.environment.clone(), call.executes, world.network);
        if proxy {
            environment.extend(proxy_environment());
        }
        let plan = ProgramPlan { places, arguments, script: at, directory, environment, executes, proxy };
        Self { plan, program, script, shared, disks }
    }
}

/// What is executed, with the arguments before the caller's own.
struct Started {
    program: OwnedFd,
    script: Option<OwnedFd>,
    arguments: Vec<String>,
}

impl Started {
    fn of(OpenedProgram { called, by }: OpenedProgram) -> Self {
        let name = called.path.to_string();
        let Some((line, by)) = by else {
            return Self { program: called.location.fd, script: None, arguments: vec![name] };
        };
        let interpreter = line.interpreter.to_string();
        let arguments = [interpreter].into_iter().chain(line.argument).chain([name]).collect();
        Self { program: by.location.fd, script: called.content, arguments }
    }
}

/// One granted place.
struct Granted {
    held: OwnedFd,
    is_directory: bool,
    exempt: bool,
    readable: bool,
    writable: bool,
}

/// What is around a program, whichever program it is.
#[derive(Debug)]
pub(crate) struct Around {
    places: Vec<Place>,
    shared: Vec<OwnedFd>,
    /// What may be written to.
    disks: Disks,
}

impl Around {
    /// Opens it. Touches the file system.
    pub(crate) fn open(world: &World, table: &RootTable) -> Result<Self, ToolFailure> {
        let reached = Reached::of(world, table)?;
        let disks = reached.disks()?;
        let (places, shared) = reached.shown(table.protection())?;
        Ok(Self { places, shared, disks })
    }
}

/// All that is granted, by where it is.
struct Reached {
    granted: BTreeMap<AbsPath, Granted>,
    links: BTreeMap<AbsPath, AbsPath>,
}

impl Reached {
    fn of(world: &World, table: &RootTable) -> Result<Self, ToolFailure> {
        let mut reached = Self { granted: BTreeMap::new(), links: BTreeMap::new() };
        for root in &world.roots {
            reached.add(root, table)?;
        }
        if reached.granted.len() > MAX_PROGRAM_ROOTS {
            let why = format!(
                "the agent holds {} granted directories, and a program is shown at most {MAX_PROGRAM_ROOTS}; let a \
                 child with fewer grants start it",
                reached.granted.len()
            );
            return Err(ToolFailure::new(ToolFailureKind::LimitReached, why));
        }
        reached.inherit_rights();
        Ok(reached)
    }

    fn add(&mut self, root: &SharedRoot, table: &RootTable) -> Result<(), ToolFailure> {
        let Some((at, granted)) = open_granted(root, table).map_err(|error| error.to_failure())? else {
            return Ok(());
        };
        check_place(&at)?;
        if let Some(spelled) = root.spelled.as_ref().map(|spelled| spelled.root().clone())
            && spelled != at
            && check_place(&spelled).is_ok()
        {
            self.links.insert(spelled, at.clone());
        }
        let known = self.granted.entry(at).or_insert(granted);
        known.readable |= root.right == FileRight::Read;
        known.writable |= root.right == FileRight::Write;
        Ok(())
    }

    /// A grant of a directory is one of all that lies below it.
    fn inherit_rights(&mut self) {
        let rights: Vec<(AbsPath, bool, bool)> = self
            .granted
            .iter()
            .filter(|(_, one)| one.is_directory)
            .map(|(at, one)| (at.clone(), one.readable, one.writable))
            .collect();
        for (at, one) in &mut self.granted {
            for (_, readable, writable) in rights.iter().filter(|(above, ..)| at.below(above).is_some()) {
                one.readable |= readable;
                one.writable |= writable;
            }
        }
    }

    /// The file systems that the program may write to.
    fn disks(&self) -> Result<Disks, ToolFailure> {
        let mut disks = Disks::default();
        for (at, one) in self.granted.iter().filter(|(_, one)| one.writable) {
            disks.add(at, &one.held)?;
        }
        Ok(disks)
    }

    /// What a sandbox is told of it, and the descriptors of what it shares.
    fn shown(self, protection: &Protection) -> Result<(Vec<Place>, Vec<OwnedFd>), ToolFailure> {
        let hidden = self.hidden(protection)?;
        let mut places: BTreeMap<AbsPath, PlaceKind> = BTreeMap::new();
        for (at, to) in self.links {
            places.insert(at, PlaceKind::Link { to });
        }
        for at in hidden {
            places.insert(at, PlaceKind::Hidden);
        }
        let mut shared = Vec::new();
        for (at, one) in self.granted {
            let kind = PlaceKind::Shared { readable: one.readable, writable: one.writable };
            places.insert(at, kind);
            shared.push(one.held);
        }
        // Both are in the order of the paths, so that each descriptor meets its place.
        let places = places.into_iter().map(|(at, kind)| Place { at, kind }).collect();
        Ok((places, shared))
    }

    /// aaOS's own in what is shown.
    fn hidden(&self, protection: &Protection) -> Result<Vec<AbsPath>, ToolFailure> {
        let mut hidden: Vec<PathBuf> = Vec::new();
        for own in protection.places() {
            let shows = |at: &str| own.starts_with(at);
            let above: Vec<_> = self.granted.iter().filter(|(at, _)| shows(at.as_str())).collect();
            if let Some((at, _)) = above.iter().find(|(_, one)| one.writable && !one.exempt) {
                let why = format!(
                    "{at} may be changed and holds {}, which belongs to aaOS itself; no program is started with such a \
                     grant, let a child with a narrower one start it",
                    shown(&own)
                );
                return Err(ToolFailure::new(ToolFailureKind::OutsideRoot, why));
            }
            let is_seen =
                above.iter().any(|(_, one)| !one.exempt) || SYSTEM_PLACES.iter().any(|at| shows(at));
            if is_seen && !hidden.iter().any(|above| own.starts_with(above)) {
                hidden.retain(|below| !below.starts_with(&own));
                hidden.push(own);
            }
        }
        hidden.iter().map(|path| path_of(path).map_err(|error| error.to_failure())).collect()
    }
}

fn open_granted(root: &SharedRoot, table: &RootTable) -> Result<Option<(AbsPath, Granted)>, RootError> {
    let text = root.pattern.to_string();
    let held = table.root(root.grant)?;
    let exempt = held.is_exempt();
    let (fd, is_directory) = if held.is_exact() {
        let name = held.target("")?.to_owned();
        let found = open_location(held.directory(), name.as_bytes(), OFlags::NOFOLLOW, BELOW_NO_LINKS);
        let found = found.map_err(|errno| RootError::from_errno("open", &text, errno));
        let location = match found.and_then(|fd| held.base(table.protection(), &text).inspect(fd)) {
            Ok(location) if location.facts.kind == FileKind::File => location,
            // What is not there, or is no file, is not shown.
            Ok(_) | Err(RootError::NotFound { .. } | RootError::Outside { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        (location.fd, false)
    } else {
        let fd = held.directory().try_clone_to_owned();
        (fd.map_err(|source| RootError::Io { action: "hold", path: text.clone(), source })?, true)
    };
    let path = kernel_path(&fd).map_err(|errno| RootError::from_errno("look at", &text, errno))?;
    let granted = Granted { held: fd, is_directory, exempt, readable: false, writable: false };
    Ok(Some((path_of(&path)?, granted)))
}

fn path_of(path: &Path) -> Result<AbsPath, RootError> {
    let text = std::str::from_utf8(path.as_os_str().as_bytes()).ok();
    let parsed = text.and_then(|text| AbsPath::parse(text).ok());
    parsed.ok_or_else(|| RootError::NotUtf8 { path: shown(path) })
}

/// Refuses a granted place that would lie over one of the sandbox's own.
fn check_place(at: &AbsPath) -> Result<(), ToolFailure> {
    let in_shared_memory = at.below(&from_spelling(SHARED_MEMORY)).is_some();
    let in_own = OWN_PLACES.iter().any(|own| at.below(&from_spelling(own)).is_some());
    if at.as_str() != "/" && (!in_own || in_shared_memory) {
        return Ok(());
    }
    let why = format!("a program is not shown {at}; let a child with grants of single directories start it");
    Err(ToolFailure::new(ToolFailureKind::OutsideRoot, why))
}

fn from_spelling(path: &str) -> AbsPath {
    AbsPath::parse(path).unwrap_or_else(|error| unreachable!("{path} is a path: {error}"))
}
