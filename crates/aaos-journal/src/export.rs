//! The journal as a file of JSON lines that can be verified by itself: exports and archives.
//!
//! The first line says which head the first entry follows. Then come the entries as they are stored, with salt, body
//! (as the text that was hashed) and hashes, and each signed head after its entry. Invariants: what is written has
//! verified; a file has its name only when it is whole and on the disk; reading trusts nothing and is bounded.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read as _, Write as _};
use std::path::Path;

use aaos_core::id::{AgentId, EntryId, GoalId, Seq, TraceId};
use aaos_core::limits::MAX_ENTRY_BYTES;
use aaos_core::quantity::Timestamp;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use crate::chain::{Broken, Expected, Hash, Head, Header, Problem, VerifyReport};
use crate::check::ChainCheck;
use crate::error::JournalError;
use crate::read::{self, Passed};
use crate::sign::{HeadSigner, SignedHead};
use crate::store::{self, Row};
use crate::{hex, signed};

/// What the lines below mean.
const FORMAT: u32 = 1;
/// Longest line that is read: every byte of a body may be escaped.
const MAX_LINE_BYTES: u64 = 6 * MAX_ENTRY_BYTES as u64 + 4_096;
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

/// Writes entries up to `until`, or all, to `path`; with `seal`, its end is signed. A file there is replaced.
pub(crate) fn write(
    connection: &Connection,
    path: &Path,
    until: Option<Seq>,
    seal: Option<&HeadSigner>,
) -> Result<VerifyReport, JournalError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let failed = |source| JournalError::files(path, source);
    let file = store::create_private(&part)?;
    file.set_len(0).map_err(failed)?;
    let written = write_lines(connection, file, path, until, seal);
    let report = match written {
        Ok(report) => report,
        Err(error) => {
            fs::remove_file(&part).map_err(failed)?;
            return Err(error);
        }
    };
    fs::rename(&part, path).map_err(failed)?;
    store::sync_directory_of(path)?;
    Ok(report)
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
    let after = signed::anchor(&view)?.map_or(Head::EMPTY, |anchor| anchor.head);
    out.line(&Start { journal: FORMAT, after })?;
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
    let Some(Start { after, .. }) = known else {
        let broken = Broken { seq: Seq(1), problem: Problem::Malformed };
        let chain = ChainCheck::after(Head::EMPTY, expected).report(Some(broken));
        return Ok(FileReport { chain, line: 1 });
    };
    let mut check = ChainCheck::after(after, expected);
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
