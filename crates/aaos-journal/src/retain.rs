//! Retention: old entries go to archive files, and the chain goes on from a signed anchor.
//!
//! Invariants: only a beginning of the journal is archived, and never its last entry; nothing is removed that an open
//! goal, an agent alive, its ancestors, or an effect without outcome needs, so that what is left folds to the same
//! state of all of these; an entry is removed only after its archive is on the disk. Archive and database may both
//! hold an entry after a crash, never neither. An archive never replaces a file.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use aaos_core::event::{Event, KeptKey, NewEntry};
use aaos_core::id::{AgentId, EntryId, GoalId, GrantId, Seq};
use aaos_core::limits::{MAX_ARCHIVE_NAMES, PRUNE_STEP};
use aaos_core::quantity::Timestamp;
use aaos_core::state::State;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use crate::chain::{Expected, Hash, Head};
use crate::error::JournalError;
use crate::sign::{Anchor, HeadSigner};
use crate::{export, signed, store};

/// What tells of an archive, in the database.
const PRUNED_KIND: &str = "journal_pruned";

/// What an archiving did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// Entries that were archived and removed.
    pub entries: u64,
    /// The files they lie in, oldest first.
    pub archives: Vec<PathBuf>,
    /// The last entry that lies in an archive; 0 when none does.
    pub through: Seq,
    /// What keeps older entries than asked for from being archived.
    pub held: Option<Held>,
}

/// What needs entries that are old enough to be archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The first entry that is needed.
    pub since: Seq,
    /// By whom.
    pub by: Holder,
}

/// Who can need entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// A goal that is open, that an agent alive belongs to, or that an open one was forked from.
    Goal(GoalId),
    /// An agent alive, an ancestor of one, or one whose call has no outcome.
    Agent(AgentId),
    /// The intent of a call without outcome that belongs to no agent and no goal.
    Intent(EntryId),
}

/// Everybody whose entries the state still rests on.
pub(crate) fn holders(state: &State) -> BTreeSet<Holder> {
    let mut found = BTreeSet::new();
    let mut open: Vec<Holder> = state.open_goals().map(|goal| Holder::Goal(goal.id)).collect();
    open.extend(state.alive().map(|agent| Holder::Agent(agent.id)));
    for pending in state.pending.values() {
        open.extend(pending.agent.map(Holder::Agent));
        open.extend(pending.goal.map(Holder::Goal));
        if pending.agent.is_none() && pending.goal.is_none() {
            open.push(Holder::Intent(pending.intent));
        }
    }
    open.extend(state.questions.values().map(|asked| Holder::Agent(asked.question.agent)));
    open.extend(state.approved.values().map(|approval| Holder::Agent(approval.holder)));
    while let Some(holder) = open.pop() {
        if found.insert(holder) {
            leans_on(state, holder, &mut open);
        }
    }
    found
}

/// Whom a holder's place in the state rests on in turn.
fn leans_on(state: &State, holder: Holder, open: &mut Vec<Holder>) {
    match holder {
        Holder::Goal(goal) => {
            let Some(goal) = state.goals.get(&goal) else { return };
            open.extend(goal.root_agent.map(Holder::Agent));
            // A fork's mind is made of the entries of what was forked.
            let points = goal.fork.iter().flat_map(|fork| &fork.points);
            open.extend(points.map(|point| Holder::Goal(point.goal)));
        }
        Holder::Agent(agent) => {
            let Some(agent) = state.agents.get(&agent) else { return };
            open.extend(agent.parent.map(Holder::Agent));
            open.extend(agent.goal.map(Holder::Goal));
            let parent = |grant: &GrantId| state.grants.get(grant)?.record.parent;
            let above = agent.grants.iter().filter_map(parent).filter_map(|grant| state.grants.get(&grant));
            open.extend(above.map(|grant| Holder::Agent(grant.record.agent)));
        }
        Holder::Intent(_) => {}
    }
}

/// The last entry that may be archived, and what keeps that from being a later one.
pub(crate) fn boundary(
    connection: &Connection,
    state: &State,
    before: Timestamp,
) -> Result<(Seq, Option<Held>), JournalError> {
    let seq = |sql: &str, value: &dyn rusqlite::ToSql| -> Result<Option<Seq>, JournalError> {
        let mut statement = connection.prepare_cached(sql)?;
        let found: Option<i64> = statement.query_row([value], |row| row.get(0))?;
        Ok(found.map(|seq| Seq(seq.cast_unsigned())))
    };
    // The last entry stays, so that there is always one to go on from. What only tells of an archive does not count:
    // archiving again would archive the word about it, and never be done.
    let telling = "SELECT max(seq) FROM entries WHERE kind <> ?1";
    let last = seq(telling, &PRUNED_KIND)?.unwrap_or(Seq(0)).min(state.seq);
    let young = "SELECT min(seq) FROM entries WHERE timestamp >= ?1";
    let old_enough = i64::try_from(before.0).unwrap_or(i64::MAX);
    let first_young = seq(young, &old_enough)?.unwrap_or(last).min(last);
    let mut held: Option<Held> = None;
    for by in holders(state) {
        let since = match by {
            Holder::Goal(goal) => {
                seq("SELECT min(seq) FROM entries WHERE goal = ?1", goal.as_uuid().as_bytes())?
            }
            Holder::Agent(agent) => {
                seq("SELECT min(seq) FROM entries WHERE agent = ?1", agent.as_uuid().as_bytes())?
            }
            Holder::Intent(id) => seq("SELECT min(seq) FROM entries WHERE id = ?1", id.as_uuid().as_bytes())?,
        };
        let earliest = held.map_or(first_young, |held| held.since);
        held = since.filter(|since| *since < earliest).map(|since| Held { since, by }).or(held);
    }
    let first_kept = held.map_or(first_young, |held| held.since);
    Ok((Seq(first_kept.0.saturating_sub(1)), held))
}

/// An archive that is on the disk, and what takes the place of its entries.
pub(crate) struct Archive {
    pub(crate) anchor: Anchor,
    pub(crate) path: PathBuf,
    /// How many entries it holds.
    pub(crate) entries: u64,
}

impl Archive {
    /// What the journal says of it, and with these keys.
    pub(crate) fn told(&self, at: Timestamp, client_keys: Vec<KeptKey>) -> NewEntry {
        let head = self.anchor.head;
        let archive = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let event = Event::JournalPruned {
            through: head.seq,
            entries: self.entries,
            head: head.to_string(),
            archive,
            client_keys,
        };
        NewEntry { timestamp: at, goal_id: None, agent_id: None, trace_id: None, parent_event: None, event }
    }
}

/// Writes the next archive, of entries up to `last` at most, and makes the anchor that may take their place.
pub(crate) fn archive(
    connection: &Connection,
    database: &Path,
    last: Seq,
    signer: &HeadSigner,
) -> Result<Option<Archive>, JournalError> {
    let anchor = signed::anchor(connection)?;
    let from = anchor.map_or(Seq(0), |anchor| anchor.head.seq);
    let through = Seq(last.0.min(from.0 + PRUNE_STEP));
    if through <= from {
        return Ok(None);
    }
    let (path, head) = write_or_reuse(connection, &make_folder(database)?, from, through, signer)?;
    assert_eq!(head.seq, through, "all that will be removed is in the archive");
    let sql = "SELECT max(timestamp) FROM entries WHERE seq <= ?1";
    let latest: i64 = connection.query_row(sql, [through.0.cast_signed()], |row| row.get(0))?;
    let latest = Timestamp(latest.cast_unsigned());
    let latest = anchor.map_or(latest, |anchor| latest.max(anchor.latest));
    let anchor = signer.anchor(head, latest);
    Ok(Some(Archive { anchor, path, entries: through.0 - from.0 }))
}

/// The archive of the entries after `from` up to `through`, and its last head. A file that is there is kept, whatever it
/// is: it is the archive if it holds the same (the daemon was killed before it removed the entries); else the archive
/// gets another name.
fn write_or_reuse(
    connection: &Connection,
    folder: &Path,
    from: Seq,
    through: Seq,
    signer: &HeadSigner,
) -> Result<(PathBuf, Head), JournalError> {
    for number in 1..=MAX_ARCHIVE_NAMES {
        let path = folder.join(file_name(from, through, number));
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let report = export::write(connection, &path, Some(through), Some(signer))?;
                return Ok((path, report.head));
            }
            Err(error) => return Err(JournalError::files(&path, error)),
            Ok(found) if found.is_file() => {
                if let Some(head) = same(connection, &path, through, signer)? {
                    return Ok((path, head));
                }
            }
            Ok(_) => {}
        }
        tracing::warn!(path = %path.display(), "there is another file of an archive's name; it is kept");
    }
    Err(JournalError::files(&folder.join(file_name(from, through, 1)), io::ErrorKind::AlreadyExists.into()))
}

/// The last head of a file that holds the first stored entries up to `through`, with all that they hold here, signed to
/// its end. It is on the disk then.
fn same(
    connection: &Connection,
    path: &Path,
    through: Seq,
    signer: &HeadSigner,
) -> Result<Option<Head>, JournalError> {
    let failed = |source| JournalError::files(path, source);
    let found = export::verify_file(path, Expected { head: None, key: Some(signer.key()) })?.chain;
    let after = signed::anchor(connection)?.map_or(Head::EMPTY, |anchor| anchor.head);
    let sql = "SELECT e.hash, (SELECT count(*) FROM entries WHERE seq <= e.seq AND body IS NULL)
        FROM entries e WHERE e.seq = ?1";
    let (hash, erased): ([u8; 32], i64) =
        connection.query_row(sql, [through.0.cast_signed()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let head = Head { seq: through, hash: Hash::from_bytes(hash) };
    let is_same = found.is_intact()
        && (found.after, found.head, found.signed) == (after, head, Some(head))
        && found.erased_count == erased.cast_unsigned();
    if !is_same {
        return Ok(None);
    }
    fs::File::open(path).and_then(|file| file.sync_all()).map_err(failed)?;
    store::sync_directory_of(path)?;
    Ok(Some(head))
}

/// The name of the archive of the entries after `from` up to `through`, the first or a later one that is tried.
fn file_name(from: Seq, through: Seq, number: u32) -> String {
    let suffix = if number == 1 { String::new() } else { format!(".{number}") };
    format!("journal-{}-{through}{suffix}.jsonl", from.0 + 1)
}

/// The archive that holds this entry, if it still lies where it was written.
pub(crate) fn archive_with(database: &Path, seq: Seq) -> Option<PathBuf> {
    let listing = fs::read_dir(folder(database)).ok()?;
    // Where another file had its name, the archive has a later one.
    let number_of = |path: &PathBuf| {
        let range = path.file_name()?.to_str()?.strip_prefix("journal-")?.strip_suffix(".jsonl")?;
        let (first, last) = range.split_once('-')?;
        let (last, number) = last.split_once('.').unwrap_or((last, "1"));
        let holds = (first.parse::<u64>().ok()?..=last.parse().ok()?).contains(&seq.0);
        if holds { number.parse::<u32>().ok() } else { None }
    };
    let found = listing.filter_map(|entry| Some(entry.ok()?.path()));
    let found = found.filter_map(|path| Some((number_of(&path)?, path)));
    found.max().map(|(_, path)| path)
}

/// Where the archives lie.
fn folder(database: &Path) -> PathBuf {
    database.with_file_name("archive")
}

/// The directory of the archives, made where it is missing.
fn make_folder(database: &Path) -> Result<PathBuf, JournalError> {
    let path = folder(database);
    match fs::DirBuilder::new().mode(0o700).create(&path) {
        Ok(()) => store::sync_directory_of(&path)?,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(JournalError::files(&path, error)),
    }
    Ok(path)
}
