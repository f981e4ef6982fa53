//! Granted file roots: opened once when a grant is issued, and the only way to any file afterwards.
//!
//! Invariants: a root is opened by path exactly once, for the operator's own grant; a derived root is opened
//! below its parent's. Revoking closes it, and from then on nothing below it is opened or committed. The
//! protected places (see `protect`) are reached through no root.
//!
//! Hard links: a write never goes through one (it replaces the name), and reading one reads the content that
//! somebody with write access to the directory put there; no tool makes one.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use aaos_core::grant::RootIdentity;
use aaos_core::id::GrantId;
use aaos_core::limits::MAX_OBSERVED_OUTPUT_BYTES;
use aaos_core::path::{AbsPath, PathPattern, Reach};
use aaos_core::quantity::{Bytes, Timestamp};
use aaos_core::toolio::{FileKind, ToolFailure, ToolFailureKind};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::beneath::{self, BELOW_NO_LINKS, Base, Facts, Links, Location, open_location};
use crate::protect::{Protection, kernel_path};

/// How the operator's own roots are resolved: any ordinary link is followed, once.
const AMBIENT: ResolveFlags = ResolveFlags::NO_MAGICLINKS;
/// How a root is found again after a restart: its recorded path holds no link.
const AMBIENT_NO_LINKS: ResolveFlags = ResolveFlags::NO_MAGICLINKS.union(ResolveFlags::NO_SYMLINKS);
/// Locks that order writes to one file name; two names may share one.
const COMMIT_LOCKS: usize = 64;
/// Why a root, or something below one, could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// Revoked, suspended or never issued.
    #[error("grant {grant} has no open root: it was revoked or suspended; ask for a new grant")]
    UnknownGrant {
        /// The grant.
        grant: GrantId,
    },
    /// Nothing there.
    #[error("{path:?} does not exist; list the directory to see what does")]
    NotFound {
        /// As it was asked for.
        path: String,
    },
    /// Something else than is needed.
    #[error("{path:?} is {}, which cannot be used here; name a {wanted}", kind_words(*found), wanted = wanted(*found))]
    WrongKind {
        /// As it was asked for.
        path: String,
        /// What it is.
        found: FileKind,
    },
    /// The kernel refused to resolve it below the root.
    #[error(
        "{path:?} leads out of the granted directory (through '..', a link or a mount point); \
         use a path that stays below it"
    )]
    Outside {
        /// As it was asked for.
        path: String,
    },
    /// On a pseudo file system.
    #[error("{path:?} lies on the pseudo file system {kind}, which no grant reaches")]
    Pseudo {
        /// As it was asked for.
        path: String,
        /// The file system.
        kind: &'static str,
    },
    /// aaOS's own.
    #[error("{path:?} belongs to aaOS itself, which no grant reaches")]
    Protected {
        /// As it was asked for.
        path: String,
    },
    /// The real path is not UTF-8, so that no pattern can name it.
    #[error("the real path of {path:?} is not UTF-8; rename it to grant it")]
    NotUtf8 {
        /// As it was asked for.
        path: String,
    },
    /// Not the root that was granted.
    #[error("{path:?} is not the directory that was granted (another inode or birth time); grant it again")]
    Changed {
        /// The root.
        path: String,
    },
    /// Larger than is handled.
    #[error("{path:?} has {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// As it was asked for.
        path: String,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The kernel's error.
    #[error("cannot {action} {path:?}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// As it was asked for.
        path: String,
        /// The kernel's words.
        source: std::io::Error,
    },
}

fn kind_words(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "a file",
        FileKind::Directory => "a directory",
        FileKind::Symlink => "a symbolic link",
        FileKind::Other => "a device, FIFO or socket",
    }
}

fn wanted(found: FileKind) -> &'static str {
    if found == FileKind::File { "directory" } else { "regular file" }
}

impl RootError {
    /// Sorts a kernel error by what it means for a path.
    pub(crate) fn from_errno(action: &'static str, shown: &str, errno: Errno) -> Self {
        let path = shown.to_owned();
        match errno {
            Errno::NOENT => Self::NotFound { path },
            Errno::XDEV | Errno::LOOP => Self::Outside { path },
            Errno::NOTDIR => Self::WrongKind { path, found: FileKind::File },
            other => Self::Io { action, path, source: other.into() },
        }
    }

    /// The failure that the agent sees.
    #[must_use]
    pub fn to_failure(&self) -> ToolFailure {
        let kind = match self {
            Self::UnknownGrant { .. } => ToolFailureKind::Denied,
            Self::NotFound { .. } => ToolFailureKind::NotFound,
            Self::WrongKind { .. } => ToolFailureKind::WrongKind,
            Self::Outside { .. } | Self::Pseudo { .. } | Self::Protected { .. } | Self::Changed { .. } => {
                ToolFailureKind::OutsideRoot
            }
            Self::NotUtf8 { .. } => ToolFailureKind::NotUtf8,
            Self::TooLarge { .. } => ToolFailureKind::TooLarge,
            Self::Io { .. } => ToolFailureKind::Io,
        };
        ToolFailure::new(kind, self.to_string())
    }
}

/// A root that was just opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedRoot {
    /// The pattern with links resolved.
    pub pattern: PathPattern,
    /// What identifies its directory.
    pub identity: RootIdentity,
}

/// A declared output that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedFile {
    /// Its size.
    pub size_bytes: Bytes,
    /// BLAKE3 of its content, hexadecimal.
    pub content_hash: String,
    /// When its content last changed.
    pub modified: Timestamp,
}

/// One open root.
#[derive(Debug)]
pub(crate) struct Root {
    directory: OwnedFd,
    /// For an exact-file grant: its name in `directory`.
    name: Option<String>,
    exempt: bool,
    /// It, and so everything below it, lies on a disk or in the memory of this machine.
    pub(crate) local: bool,
}

impl Root {
    /// The path below the directory that `relative` means: for an exact-file grant its own name.
    pub(crate) fn target<'r>(&'r self, relative: &'r str) -> Result<&'r str, RootError> {
        match &self.name {
            None => Ok(relative),
            Some(name) if relative.is_empty() => Ok(name),
            Some(_) => Err(RootError::Outside { path: relative.to_owned() }),
        }
    }

    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    pub(crate) fn is_exempt(&self) -> bool {
        self.exempt
    }

    /// Whether the grant names one file, which is then reached without following a link.
    pub(crate) fn is_exact(&self) -> bool {
        self.name.is_some()
    }

    pub(crate) fn base<'b>(&'b self, protection: &'b Protection, shown: &'b str) -> Base<'b> {
        Base { directory: self.directory.as_fd(), protection, exempt: self.exempt, shown }
    }

    /// How paths below it are resolved.
    pub(crate) fn resolve(&self, links: Links) -> ResolveFlags {
        if self.is_exact() { BELOW_NO_LINKS } else { links.resolve() }
    }
}

#[derive(Debug)]
struct Inner {
    roots: RwLock<HashMap<GrantId, Arc<Root>>>,
    protection: Protection,
    commits: [Mutex<()>; COMMIT_LOCKS],
    /// The root directory lies on a disk or in the memory of this machine.
    slash_is_local: bool,
}

/// All open roots, by grant. A cheap handle. Its operations block on the file system: call them off the
/// async threads.
#[derive(Debug, Clone)]
pub struct RootTable(Arc<Inner>);

impl RootTable {
    /// An empty table. `protected` (state directory, configuration, keys, sockets) is reachable through no
    /// grant; a root strictly inside one of `exempt` (the directory of the goals' workspaces) is.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "the table takes over what its caller configured")]
    pub fn new(protected: Vec<PathBuf>, exempt: Vec<PathBuf>) -> Self {
        Self(Arc::new(Inner {
            roots: RwLock::default(),
            protection: Protection::new(&protected, &exempt),
            commits: std::array::from_fn(|_| Mutex::default()),
            slash_is_local: open_slash().is_ok_and(|slash| beneath::is_local(slash).unwrap_or(false)),
        }))
    }

    /// Whether the root directory lies on a disk or in the memory of this machine.
    pub(crate) fn is_slash_local(&self) -> bool {
        self.0.slash_is_local
    }

    /// Opens the root of an operator's own grant. A link is resolved now, and never again.
    /// `create_missing` makes a missing directory (for an exact file: its parent), as a write grant wants.
    ///
    /// # Errors
    /// [`RootError`]; nothing is in the table then.
    pub fn open_root(
        &self,
        grant: GrantId,
        pattern: &PathPattern,
        create_missing: bool,
    ) -> Result<OpenedRoot, RootError> {
        self.open_ambient(grant, pattern, create_missing, AMBIENT)
    }

    /// The same for a path whose links were resolved and judged: one that is there now is not followed.
    ///
    /// # Errors
    /// [`RootError`]; nothing is in the table then.
    pub fn open_real_root(
        &self,
        grant: GrantId,
        pattern: &PathPattern,
        create_missing: bool,
    ) -> Result<OpenedRoot, RootError> {
        self.open_ambient(grant, pattern, create_missing, AMBIENT_NO_LINKS)
    }

    fn open_ambient(
        &self,
        grant: GrantId,
        pattern: &PathPattern,
        create_missing: bool,
        resolve: ResolveFlags,
    ) -> Result<OpenedRoot, RootError> {
        let shown = pattern.root().as_str();
        let slash = open_slash()?;
        if create_missing {
            self.create_root(&slash, pattern, resolve)?;
        }
        let opener = self.operator(&slash, shown);
        let (root, opened) = opener.open(&shown[1..], pattern.reach(), resolve)?;
        self.insert(grant, root);
        Ok(opened)
    }

    /// Opens the root of a grant derived from `parent`, below the parent's root. Nothing is created.
    ///
    /// # Errors
    /// [`RootError`]; nothing is in the table then.
    pub fn derive(
        &self,
        parent: GrantId,
        grant: GrantId,
        relative: &str,
        reach: Reach,
    ) -> Result<OpenedRoot, RootError> {
        let root = self.root(parent)?;
        let from = kernel_path(root.directory())
            .map_err(|errno| RootError::from_errno("look at", relative, errno))?;
        let target = root.target(relative)?;
        if root.is_exact() && reach == Reach::Subtree {
            return Err(RootError::Outside { path: relative.to_owned() });
        }
        let issuer = Issuer::Parent { exempt: root.exempt };
        let opener = Opener { table: self, issuer, from: root.directory(), above: &from, shown: target };
        let (child, opened) = opener.open(target, reach, root.resolve(Links::Follow))?;
        self.insert(grant, child);
        Ok(opened)
    }

    /// Opens a recorded root again after a restart, if it still is the one that was granted.
    ///
    /// # Errors
    /// [`RootError::Changed`] when it is another; the grant is then without a root: suspended.
    pub fn reopen(
        &self,
        grant: GrantId,
        pattern: &PathPattern,
        identity: &RootIdentity,
    ) -> Result<(), RootError> {
        let shown = pattern.root().as_str();
        let slash = open_slash()?;
        let opener = self.operator(&slash, shown);
        let (root, opened) = opener.open(&shown[1..], pattern.reach(), AMBIENT_NO_LINKS)?;
        if opened.identity != *identity || opened.pattern != *pattern {
            return Err(RootError::Changed { path: shown.to_owned() });
        }
        self.insert(grant, root);
        Ok(())
    }

    /// Closes the root of a grant that ended. Nothing more is opened or committed under it.
    pub fn close(&self, grant: GrantId) {
        self.0.roots.write().unwrap_or_else(PoisonError::into_inner).remove(&grant);
    }

    /// Looks at a declared output: a regular file below the grant's root, reached without any link.
    /// `path` is its name in messages.
    ///
    /// # Errors
    /// [`RootError`] saying why it does not count.
    pub fn observe_output(
        &self,
        path: &AbsPath,
        grant: GrantId,
        relative: &str,
    ) -> Result<ObservedFile, RootError> {
        let root = self.root(grant)?;
        let shown = path.as_str();
        let base = root.base(self.protection(), shown);
        let target = root.target(relative)?;
        let location = base.locate_with(target.as_bytes(), OFlags::NOFOLLOW, BELOW_NO_LINKS)?;
        if location.facts.kind != FileKind::File {
            return Err(RootError::WrongKind { path: shown.to_owned(), found: location.facts.kind });
        }
        let size = location.facts.size;
        if size > MAX_OBSERVED_OUTPUT_BYTES {
            let path = shown.to_owned();
            return Err(RootError::TooLarge { path, size, limit: MAX_OBSERVED_OUTPUT_BYTES });
        }
        let opened = base.readable(location)?;
        let (size, hash) = crate::observe::hash_file(opened.fd).map_err(|source| RootError::Io {
            action: "read",
            path: shown.to_owned(),
            source,
        })?;
        Ok(ObservedFile {
            size_bytes: Bytes(size),
            content_hash: hash,
            modified: Timestamp(u64::try_from(opened.facts.mtime_ns / 1_000_000).unwrap_or(0)),
        })
    }

    /// The open root of a grant.
    pub(crate) fn root(&self, grant: GrantId) -> Result<Arc<Root>, RootError> {
        let roots = self.0.roots.read().unwrap_or_else(PoisonError::into_inner);
        roots.get(&grant).cloned().ok_or(RootError::UnknownGrant { grant })
    }

    pub(crate) fn protection(&self) -> &Protection {
        &self.0.protection
    }

    /// Orders commits to one name in one directory.
    pub(crate) fn commit_lock(&self, directory_inode: u64, name: &str) -> MutexGuard<'_, ()> {
        let mut sum = directory_inode;
        for byte in name.bytes() {
            sum = sum.wrapping_mul(31).wrapping_add(u64::from(byte));
        }
        let index = usize::try_from(sum % COMMIT_LOCKS as u64).unwrap_or(0);
        self.0.commits[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses a path at or below a protected place, unless the root is exempt.
    pub(crate) fn refuse_protected(&self, path: &Path, exempt: bool, shown: &str) -> Result<(), RootError> {
        if !exempt && self.protection().covers(path) {
            return Err(RootError::Protected { path: shown.to_owned() });
        }
        Ok(())
    }

    fn operator<'o>(&'o self, slash: &'o OwnedFd, shown: &'o str) -> Opener<'o> {
        let (issuer, above) = (Issuer::Operator, Path::new("/"));
        Opener { table: self, issuer, from: slash.as_fd(), above, shown }
    }

    fn insert(&self, grant: GrantId, root: Root) {
        let mut roots = self.0.roots.write().unwrap_or_else(PoisonError::into_inner);
        let before = roots.insert(grant, Arc::new(root));
        debug_assert!(before.is_none(), "a grant's root is opened once");
    }

    /// Makes the missing directories of an operator's write root, one at a time, never in a protected place.
    fn create_root(
        &self,
        slash: &OwnedFd,
        pattern: &PathPattern,
        resolve: ResolveFlags,
    ) -> Result<(), RootError> {
        let shown = pattern.root().as_str();
        let wanted = match pattern.reach() {
            Reach::Subtree => pattern.root().clone(),
            Reach::Exact => match pattern.root().split_last() {
                Some((parent, _)) => parent,
                None => return Ok(()),
            },
        };
        let fail = |errno| RootError::from_errno("create", shown, errno);
        let mut current = open_location(slash, b"", OFlags::empty(), resolve).map_err(fail)?;
        for name in wanted.components() {
            let next = open_location(&current, name.as_bytes(), OFlags::DIRECTORY, resolve);
            current = match next {
                Err(Errno::NOENT) => {
                    let path = kernel_path(&current).map_err(fail)?.join(name);
                    self.refuse_protected(&path, self.protection().is_exempt_root(&path), shown)?;
                    if let Some(kind) = beneath::pseudo_file_system(&current).map_err(fail)? {
                        return Err(RootError::Pseudo { path: shown.to_owned(), kind });
                    }
                    match rustix::fs::mkdirat(&current, name, Mode::from_raw_mode(0o777)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(errno) => return Err(fail(errno)),
                    }
                    open_location(&current, name.as_bytes(), OFlags::DIRECTORY, AMBIENT_NO_LINKS)
                        .map_err(fail)?
                }
                other => other.map_err(fail)?,
            };
        }
        Ok(())
    }
}

/// Who issues a root.
enum Issuer {
    /// The operator, by an absolute path.
    Operator,
    /// An agent, below its own root.
    Parent {
        /// Whether that root lies in an exempt place.
        exempt: bool,
    },
}

/// Opens one root below a directory.
struct Opener<'o> {
    table: &'o RootTable,
    issuer: Issuer,
    from: BorrowedFd<'o>,
    /// Kernel path of `from`.
    above: &'o Path,
    shown: &'o str,
}

impl Opener<'_> {
    fn open(
        &self,
        relative: &str,
        reach: Reach,
        resolve: ResolveFlags,
    ) -> Result<(Root, OpenedRoot), RootError> {
        match reach {
            Reach::Subtree => {
                let directory = self.directory(relative, resolve)?;
                self.finish(directory, None)
            }
            Reach::Exact => self.open_exact(relative, resolve),
        }
    }

    /// An exact file: its directory and name. Where the file exists, links are resolved first.
    fn open_exact(&self, relative: &str, resolve: ResolveFlags) -> Result<(Root, OpenedRoot), RootError> {
        let outside = || RootError::Outside { path: self.shown.to_owned() };
        let spelled = match self.inspect(relative.as_bytes(), resolve) {
            Ok(found) if found.facts.kind == FileKind::File => {
                let below = found.path.strip_prefix(self.above).map_err(|_| outside())?;
                let below = std::str::from_utf8(below.as_os_str().as_bytes());
                below.map_err(|_| RootError::NotUtf8 { path: self.shown.to_owned() })?.to_owned()
            }
            Ok(found) => {
                return Err(RootError::WrongKind { path: self.shown.to_owned(), found: found.facts.kind });
            }
            Err(RootError::NotFound { .. }) => relative.to_owned(),
            Err(error) => return Err(error),
        };
        let (parent, name) = spelled.rsplit_once('/').unwrap_or(("", &spelled));
        if matches!(name, "" | "." | "..") {
            return Err(outside());
        }
        let directory = self.directory(parent, resolve)?;
        self.finish(directory, Some(name.to_owned()))
    }

    fn directory(&self, relative: &str, resolve: ResolveFlags) -> Result<Location, RootError> {
        let location = self.inspect(relative.as_bytes(), resolve)?;
        match location.facts.kind {
            FileKind::Directory => Ok(location),
            found => Err(RootError::WrongKind { path: self.shown.to_owned(), found }),
        }
    }

    fn inspect(&self, relative: &[u8], resolve: ResolveFlags) -> Result<Location, RootError> {
        let fail = |errno| RootError::from_errno("open", self.shown, errno);
        let fd = open_location(self.from, relative, OFlags::empty(), resolve).map_err(fail)?;
        let exempt = self.is_exempt(&kernel_path(&fd).map_err(fail)?);
        let protection = self.table.protection();
        Base { directory: self.from, protection, exempt, shown: self.shown }.inspect(fd)
    }

    /// Whether protection is lifted at `path`: an agent's wider grant does not become exempt by deriving a
    /// narrower one from it.
    fn is_exempt(&self, path: &Path) -> bool {
        match self.issuer {
            Issuer::Operator => self.table.protection().is_exempt_root(path),
            Issuer::Parent { exempt } => exempt,
        }
    }

    fn finish(&self, location: Location, name: Option<String>) -> Result<(Root, OpenedRoot), RootError> {
        let exempt = self.is_exempt(&location.path);
        let fail = |errno| RootError::from_errno("look at", self.shown, errno);
        if !exempt && self.table.protection().holds_inode_of(&location.fd).map_err(fail)? {
            return Err(RootError::Protected { path: self.shown.to_owned() });
        }
        let path = self.utf8(&location.path)?;
        let (root, reach) = match &name {
            None => (path.clone(), Reach::Subtree),
            Some(name) => {
                let joined = location.path.join(name);
                self.table.refuse_protected(&joined, exempt, self.shown)?;
                (self.utf8(&joined)?, Reach::Exact)
            }
        };
        let identity = identity_of(&location.facts, path);
        let opened = OpenedRoot { pattern: PathPattern::from_parts(root, reach), identity };
        let local = beneath::is_local(&location.fd).map_err(fail)?;
        Ok((Root { directory: location.fd, name, exempt, local }, opened))
    }

    fn utf8(&self, path: &Path) -> Result<AbsPath, RootError> {
        let text = path.to_str().and_then(|text| AbsPath::parse(text).ok());
        text.ok_or_else(|| RootError::NotUtf8 { path: self.shown.to_owned() })
    }
}

pub(crate) fn open_slash() -> Result<OwnedFd, RootError> {
    rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| RootError::from_errno("open", "/", errno))
}

fn identity_of(facts: &Facts, path: AbsPath) -> RootIdentity {
    RootIdentity { path, device: facts.device, inode: facts.inode, birth_ns: facts.birth_ns }
}

#[cfg(test)]
mod tests;
