//! The journal as a file of JSON lines that can be verified by itself: exports and archives.
//!
//! The first line says which head the first entry follows, signed where that is not the beginning. Then come the entries as they are stored, with salt, body
//! (as the text that was hashed) and hashes, and each signed head after its entry. Invariants: what is written has
//! verified; a file has its name only when it is whole and on the disk,
//! and replaces none; reading trusts nothing and is bounded.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aaos_core::id::{AgentId, EntryId, GoalId, Seq, TraceId};
use aaos_core::limits::MAX_ENTRY_BYTES;
use aaos_core::quantity::Timestamp;
use rusqlite::Connection;
use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::chain::{Broken, Expected, Hash, Head, Header, Problem, VerifyReport};
use crate::check::ChainCheck;
use crate::error::JournalError;
use crate::read::{self, Passed};
use crate::sign::{Anchor, HeadKey, HeadSignature, HeadSigner, SignedHead};
use crate::store::{self, Row};
use crate::{hex, signed};

/// What the lines below mean.
const FORMAT: u32 = 1;
/// Longest line that is read: every byte of a body may be escaped.
const MAX_LINE_BYTES: u64 = 6 * MAX_ENTRY_BYTES as u64 + 4_096;
/// Random bytes in the name of a file that is being written.
const PART_BYTES: usize = 16;
/// How a line with a signed head begins, and no other.
const HEAD_LINE: &[u8] = b"{\"head\":";

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    /// [`FORMAT`].
    journal: u32,
    /// What the first entry follows.
    after: Head,
    /// Who vouches for that; absent where nothing comes before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    anchor: Option<StoredAnchor>,
}

/// An anchor but for its head.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredAnchor {
    /// The latest time of what came before.
    latest: Timestamp,
    /// Who signed.
    key: HeadKey,
    /// Over `aaos-journal-anchor-v1`, a line feed, the head's text, a space and the time.
    signature: HeadSignature,
}

impl Start {
    fn of(anchor: Option<&Anchor>) -> Self {
        let stored = |anchor: &Anchor| StoredAnchor {
            latest: anchor.latest,
            key: anchor.key,
            signature: anchor.signature,
        };
        let after = anchor.map_or(Head::EMPTY, |anchor| anchor.head);
        Self { journal: FORMAT, after, anchor: anchor.map(stored) }
    }

    /// The walk that begins there.
    fn check(self, expected: Expected) -> Result<ChainCheck, Broken> {
        let head = self.after;
        let anchor = match self.anchor {
            Some(StoredAnchor { latest, key, signature }) => Some(Anchor { head, latest, key, signature }),
            None if head == Head::EMPTY => None,
            None => return Err(Broken { seq: head.seq, problem: Problem::Unsigned }),
        };
        ChainCheck::anchored(anchor.as_ref(), expected)
    }
}

/// An entry as stored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredEntry {
    seq: Seq,
    id: EntryId,
    timestamp: Timestamp,
    goal: Option<GoalId>,
    agent: Option<AgentId>,
    trace: Option<TraceId>,
    parent: Option<EntryId>,
    kind: String,
    salt: Option<String>,
    body: Option<String>,
    body_hash: Hash,
    hash: Hash,
}

impl From<Row> for StoredEntry {
    fn from(row: Row) -> Self {
        let Row { seq, header, body, salt, body_hash, hash, previous: _ } = row;
        let Header { id, timestamp, goal, agent, trace, parent, kind } = header;
        let salt = salt.map(|salt| hex::encode(&salt));
        Self { seq, id, timestamp, goal, agent, trace, parent, kind, salt, body, body_hash, hash }
    }
}

impl StoredEntry {
    /// Nothing if its salt is no salt or its number no number of a journal.
    fn into_row(self) -> Option<Row> {
        let Self { seq, id, timestamp, goal, agent, trace, parent, kind, salt, body, body_hash, hash } = self;
        let salt = match salt {
            Some(text) => Some(hex::decode(&text)?),
            None => None,
        };
        let header = Header { id, timestamp, goal, agent, trace, parent, kind };
        i64::try_from(seq.0).ok()?;
        Some(Row { seq, header, body, salt, body_hash, hash, previous: None })
    }
}

/// Writes entries up to `until`, or all, to `path`, where there must be nothing; with `seal`, its end is signed.
pub(crate) fn write(
    connection: &Connection,
    path: &Path,
    until: Option<Seq>,
    seal: Option<&HeadSigner>,
) -> Result<VerifyReport, JournalError> {
    let (file, part) = create_part(path)?;
    let named = write_lines(connection, file, path, until, seal).and_then(|report| {
        give_name(&part, path).map_err(|source| JournalError::files(path, source))?;
        Ok(report)
    });
    if named.is_err() {
        fs::remove_file(&part).map_err(|source| JournalError::files(&part, source))?;
    }
    let report = named?;
    store::sync_directory_of(path)?;
    Ok(report)
}

/// A new file beside `path`, readable by nobody else, under a name that nobody can prepare for.
fn create_part(path: &Path) -> Result<(File, PathBuf), JournalError> {
    let mut random = [0; PART_BYTES];
    getrandom::fill(&mut random).map_err(|source| JournalError::Random { source })?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", hex::encode(&random)));
    let part = path.with_file_name(name);
    let file = create_new(&part).map_err(|source| JournalError::files(path, source))?;
    Ok((file, part))
}

/// Fails where anything has that name, a link too.
pub(crate) fn create_new(path: &Path) -> Result<File, io::Error> {
    let no_link = OFlags::NOFOLLOW.bits().cast_signed();
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).custom_flags(no_link).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

/// Renames; what stands at `to` is never replaced.
fn give_name(part: &Path, to: &Path) -> Result<(), io::Error> {
    match renameat_with(CWD, part, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems cannot.
        Err(Errno::INVAL | Errno::NOSYS) => {
            fs::hard_link(part, to)?;
            fs::remove_file(part)
        }
        renamed => Ok(renamed?),
    }
}

fn write_lines(
    connection: &Connection,
    file: File,
    path: &Path,
    until: Option<Seq>,
    seal: Option<&HeadSigner>,
) -> Result<VerifyReport, JournalError> {
    // One view of the database, whatever is appended or archived meanwhile.
    let view = connection.unchecked_transaction()?;
    let mut out = LineWriter { out: BufWriter::new(file), path };
    out.line(&Start::of(signed::anchor(&view)?.as_ref()))?;
    let report = read::check(&view, Expected::default(), until, |passed| match passed {
        Passed::Entry(row) => out.line(&StoredEntry::from(row)),
        Passed::Head(signed) => out.line(&signed),
    })?;
    if let Some(broken) = report.broken {
        return Err(JournalError::Broken { broken });
    }
    if let Some(signer) = seal.filter(|_| report.signed != Some(report.head)) {
        out.line(&signer.head(report.head))?;
    }
    out.end()?;
    view.finish()?;
    Ok(report)
}

/// Writes JSON lines.
struct LineWriter<'p> {
    out: BufWriter<File>,
    path: &'p Path,
}

impl LineWriter<'_> {
    fn line(&mut self, what: &impl Serialize) -> Result<(), JournalError> {
        let written = serde_json::to_writer(&mut self.out, what).map_err(io::Error::from);
        written
            .and_then(|()| self.out.write_all(b"\n"))
            .map_err(|source| JournalError::files(self.path, source))
    }

    /// Brings everything to the disk.
    fn end(self) -> Result<(), JournalError> {
        let Self { out, path } = self;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error);
        file.and_then(|file| file.sync_all()).map_err(|source| JournalError::files(path, source))
    }
}

/// What the verification of a file found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// Of the chain in it.
    pub chain: VerifyReport,
    /// The last line that was looked at; the first is 1.
    pub line: u64,
}

/// Verifies an exported or archived file by itself: neither daemon nor database is needed. Blocks. A chain that does not
/// verify is an answer, not an error.
///
/// # Errors
/// [`JournalError::Files`] when the file cannot be read.
pub fn verify_file(path: &Path, expected: impl Into<Expected>) -> Result<FileReport, JournalError> {
    let file = File::open(path).map_err(|source| JournalError::files(path, source))?;
    let mut lines = Lines { reader: BufReader::new(file), number: 0 };
    verify_lines(&mut lines, expected.into()).map_err(|source| JournalError::files(path, source))
}

fn verify_lines(lines: &mut Lines<impl BufRead>, expected: Expected) -> Result<FileReport, io::Error> {
    let start = lines.next()?.and_then(|line| serde_json::from_slice::<Start>(&line).ok());
    let known = start.filter(|start| start.journal == FORMAT && i64::try_from(start.after.seq.0).is_ok());
    let malformed = Broken { seq: Seq(1), problem: Problem::Malformed };
    let mut check = match known.ok_or(malformed).and_then(|start| start.check(expected)) {
        Ok(check) => check,
        Err(broken) => {
            let chain = ChainCheck::after(Head::EMPTY, expected).report(Some(broken));
            return Ok(FileReport { chain, line: 1 });
        }
    };
    let broken = loop {
        let Some(line) = lines.next()? else { break check.end().err() };
        if let Err(broken) = verify_line(&mut check, &line) {
            break Some(broken);
        }
    };
    Ok(FileReport { chain: check.report(broken), line: lines.number })
}

fn verify_line(check: &mut ChainCheck, line: &[u8]) -> Result<(), Broken> {
    let malformed = Broken { seq: Seq(check.tip().seq.0 + 1), problem: Problem::Malformed };
    if line.starts_with(HEAD_LINE) {
        let signed: SignedHead = serde_json::from_slice(line).map_err(|_| malformed)?;
        return check.signed(&signed);
    }
    let stored = serde_json::from_slice::<StoredEntry>(line).ok().and_then(StoredEntry::into_row);
    check.entry(&stored.ok_or(malformed)?)
}

/// Lines of bounded length.
struct Lines<R> {
    reader: R,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// The next line; nothing at the end. A line without end is given as it is, and what is too long is cut.
    fn next(&mut self) -> Result<Option<Vec<u8>>, io::Error> {
        let mut line = Vec::new();
        let read = (&mut self.reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        Ok(Some(line))
    }
}
