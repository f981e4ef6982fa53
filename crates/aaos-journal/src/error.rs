//! Everything that can go wrong with the journal.
//!
//! Invariant: an error is cheap to clone, because one failed commit answers everyone who waited for it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aaos_core::id::Seq;

use crate::chain::Broken;
use crate::sign::KeyProblem;

/// Why the journal could not do something.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// Another process, or another handle in this one, has it open.
    #[error("journal {path} is already open; stop the other daemon or use another state directory")]
    AlreadyOpen {
        /// The database.
        path: PathBuf,
    },
    /// A file or directory beside or below the path could not be used.
    #[error("could not use {path}: {}", advice(.source.kind()))]
    Files {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// The database has a layout that this version does not know.
    #[error(
        "journal {path} has schema version {found}, this version knows {known}; \
         use the version that wrote it"
    )]
    UnknownSchema {
        /// The database.
        path: PathBuf,
        /// What it says.
        found: i64,
        /// What we know.
        known: i64,
    },
    /// `SQLite` refused a setting that durability rests on.
    #[error("journal {path} refused {setting}; put it on a local file system")]
    Setting {
        /// The database.
        path: PathBuf,
        /// Which setting.
        setting: &'static str,
    },
    /// The key that signs heads cannot be used.
    #[error("the journal's key {path} {problem}")]
    Key {
        /// The key file.
        path: PathBuf,
        /// Why not.
        problem: KeyProblem,
    },
    /// The chain does not verify.
    #[error("journal does not verify: {broken}; keep the file for inspection and restore a backup")]
    Broken {
        /// The first bad entry.
        broken: Broken,
    },
    /// An entry is intact but says something that this version cannot read.
    #[error("journal entry {seq} cannot be read by this version; use the version that wrote it")]
    Unreadable {
        /// Which entry.
        seq: Seq,
        /// The parser's answer.
        source: Arc<serde_json::Error>,
    },
    /// No space left, or a size limit was reached.
    #[error("no space left for the journal; free space and restart")]
    DiskFull {
        /// `SQLite`'s answer.
        source: Arc<rusqlite::Error>,
    },
    /// The database file is damaged, or is none.
    #[error("the journal's database is damaged; keep the file for inspection and restore a backup")]
    Corrupt {
        /// `SQLite`'s answer.
        source: Arc<rusqlite::Error>,
    },
    /// Any other failure of the database.
    #[error("the journal's database failed")]
    Database {
        /// `SQLite`'s answer.
        source: Arc<rusqlite::Error>,
    },
    /// A commit failed before; nothing more is accepted.
    #[error("the journal stopped accepting entries after a failure; see the cause and restart")]
    Poisoned {
        /// The first failure.
        source: Arc<JournalError>,
    },
    /// Too many commands wait for the writer.
    #[error("the journal's queue of {limit} commands is full; try again")]
    QueueFull {
        /// The bound.
        limit: usize,
    },
    /// One entry's body is too long.
    #[error("an entry of {bytes} bytes is longer than the limit of {limit}")]
    EntryTooLarge {
        /// Its length.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// Too many entries in one transaction.
    #[error("{entries} entries in one transaction are more than the limit of {limit}")]
    BatchTooLarge {
        /// How many.
        entries: usize,
        /// The bound.
        limit: usize,
    },
    /// An event that cannot be written as JSON.
    #[error("the event cannot be encoded")]
    Encode {
        /// The encoder's answer.
        source: Arc<serde_json::Error>,
    },
    /// The kernel gave no random bytes.
    #[error("no random bytes for a salt")]
    Random {
        /// The system's answer.
        source: getrandom::Error,
    },
    /// Reading was to go on from an entry whose successors were archived.
    #[error(
        "the entries up to {through} were archived; read those after {after} in {}, and the others from {through} on",
        .archive.as_ref().map_or("the archives of the state directory".into(), |file| file.display().to_string())
    )]
    Archived {
        /// The entry after which reading was to go on.
        after: Seq,
        /// The last archived entry.
        through: Seq,
        /// The archive that the next entry lies in, unless it was moved away.
        archive: Option<PathBuf>,
    },
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
}

/// What is the matter with a file, and what to do about it.
fn advice(kind: io::ErrorKind) -> &'static str {
    use io::ErrorKind as Kind;
    match kind {
        Kind::StorageFull | Kind::QuotaExceeded => "no space is left for it; free space and try again",
        Kind::FileTooLarge => "it would be larger than files may be here; raise the limit",
        Kind::NotFound => "it, or the directory that it is to lie in, does not exist; check the path",
        Kind::AlreadyExists => "something has that name already; move it away or take another name",
        Kind::PermissionDenied => "it or its directory is closed to this user; check their owner and mode",
        Kind::ReadOnlyFilesystem => "its file system is mounted read-only; take another directory",
        _ => "the system refused it; see the cause",
    }
}

impl JournalError {
    pub(crate) fn files(path: &Path, source: io::Error) -> Self {
        Self::Files { path: path.to_owned(), source: Arc::new(source) }
    }

    pub(crate) fn key(path: &Path, problem: KeyProblem) -> Self {
        Self::Key { path: path.to_owned(), problem }
    }

    pub(crate) fn unreadable(seq: Seq, source: serde_json::Error) -> Self {
        Self::Unreadable { seq, source: Arc::new(source) }
    }
}

impl From<rusqlite::Error> for JournalError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{DatabaseCorrupt, DiskFull, NotADatabase};
        let code = error.sqlite_error_code();
        let source = Arc::new(error);
        match code {
            Some(DiskFull) => Self::DiskFull { source },
            Some(DatabaseCorrupt | NotADatabase) => Self::Corrupt { source },
            _ => Self::Database { source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::JournalError;
    use std::io::{Error, ErrorKind};
    use std::path::Path;

    #[test]
    fn what_failed_is_said() {
        let said = |kind: ErrorKind| JournalError::files(Path::new("/x/j"), Error::from(kind)).to_string();
        assert!(said(ErrorKind::StorageFull).starts_with("could not use /x/j: no space is left"));
        assert!(said(ErrorKind::NotFound).contains("does not exist"));
        assert!(!said(ErrorKind::PermissionDenied).contains("does not exist"), "each has its own");
    }
}
