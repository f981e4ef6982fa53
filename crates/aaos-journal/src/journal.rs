//! The handle: opening, the pipeline's two journal steps, plain records, reading.
//!
//! Invariants: what `begin` (but for safe effects), `finish` (the same), `record` and `record_all`
//! acknowledged survives `kill -9`; a permit exists only if its intent is durable or, for a safe effect,
//! queued in a journal that has not failed.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, thread};

use aaos_core::effect::{Authorized, Effect, EffectClass};
use aaos_core::event::{Entry, Event, NewEntry};
use aaos_core::id::{CallId, EntryId, Seq};
use aaos_core::limits::{JOURNAL_QUEUE, JOURNAL_READERS, MAX_ENTRY_BYTES, MAX_RECORD_BATCH};
use aaos_core::quantity::Timestamp;
use aaos_core::state::State;
use aaos_core::tool::ToolCall;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::audit;
use crate::chain::{Expected, Header, SALT_BYTES, VerifyReport, body_hash};
use crate::error::JournalError;
use crate::fold::{self, Folded};
use crate::permit::{About, Finished, Permit, Receipt};
use crate::printed;
use crate::read::{Filter, JournalFile};
use crate::resume::Unfinished;
use crate::retain::{self, Pruned};
use crate::sign::{Anchor, HeadKey, HeadSigner};
use crate::signed;
use crate::store::{self, Prepared};
use crate::writer::{Command, Cut, Link, Status, Writer};

/// Where the journal lies and what it does beside recording.
#[derive(Debug, Clone)]
pub struct JournalConfig {
    /// The database; its directory must exist. Beside it lie `-wal`, `-shm` and a lock file (`.lock`).
    pub path: PathBuf,
    /// The file of the key that signs heads; made, readable by its owner alone, with the journal.
    pub key: PathBuf,
    /// Whether each entry, and each signed head, is printed on standard output as a JSON line: from now on, or from the
    /// last one on that was printed before.
    pub audit_stdout: bool,
}

impl JournalConfig {
    /// A journal whose key lies beside it (`.key`), and that prints nothing.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { key: path.with_extension("key"), path, audit_stdout: false }
    }
}

/// How much was committed since the journal was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalStats {
    /// Transactions.
    pub commits: u64,
    /// Entries in them.
    pub entries: u64,
}

/// The journal. Cloning makes another handle to the same one; when the last is dropped, what is queued is
/// still committed.
#[derive(Debug, Clone)]
pub struct Journal {
    queue: mpsc::Sender<Command>,
    head: watch::Receiver<Seq>,
    status: Arc<Status>,
    readers: Arc<Readers>,
    unfinished: Unfinished,
    signer: Arc<HeadSigner>,
    /// Held by whoever archives: one at a time.
    archiving: Arc<Mutex<()>>,
}

impl Journal {
    /// Opens or creates the journal, verifies its chain and folds it into the state it ends in. Blocks.
    ///
    /// # Errors
    /// [`JournalError`]: already open, unknown schema, chain broken (with the first bad entry), or the
    /// files cannot be used.
    pub fn open(config: JournalConfig) -> Result<(Self, State), JournalError> {
        Self::open_printing_to(config, io::stdout())
    }

    pub(crate) fn open_printing_to(
        config: JournalConfig,
        sink: impl Write + Send + 'static,
    ) -> Result<(Self, State), JournalError> {
        let JournalConfig { path, key, audit_stdout } = config;
        let lock = lock(&path)?;
        let connection = store::open_writer(&path)?;
        let signer = Arc::new(HeadSigner::load(&key, !signed::any(&connection)?)?);
        let Folded { state, report } = fold::fold(&connection, Some(signer.key()))?;
        let tip = report.head;
        let signed = signed::last(&connection)?.unwrap_or(report.after.seq);
        let (sender, queue) = mpsc::channel(JOURNAL_QUEUE);
        let printer = match audit_stdout {
            true => {
                let from = printed::recall(&connection, report.after.seq, tip.seq)?;
                let headed = if from == tip.seq { signed } else { from };
                Some(audit::start(&path, from, headed, sink, sender.downgrade())?)
            }
            false => None,
        };
        let (head, followed) = watch::channel(tip.seq);
        let status = Arc::new(Status::default());
        let writer = Writer {
            connection,
            tip,
            queue,
            head,
            status: Arc::clone(&status),
            printer,
            lock,
            signer: Arc::clone(&signer),
            signed,
        };
        thread::Builder::new()
            .name("journal-writer".into())
            .spawn(move || writer.run())
            .map_err(|source| JournalError::files(&path, source))?;
        let readers = Arc::new(Readers::new(path));
        let (unfinished, archiving) = (Unfinished::of(&state), Arc::default());
        Ok((Self { queue: sender, head: followed, status, readers, unfinished, signer, archiving }, state))
    }

    /// Journals that an authorised effect is about to happen, and gives leave to perform it. Waits for the
    /// disk unless the effect is [`EffectClass::Safe`], whose intent goes into the next group commit.
    ///
    /// When this fails, or its future is dropped before it resolves, the effect's charges are refunded; in
    /// the second case the intent may be in the journal all the same, and a restart counts it as spent.
    ///
    /// # Errors
    /// [`JournalError`]: the journal failed or is closed.
    pub async fn begin<E: Effect>(
        &self,
        authorized: Authorized<E>,
        about: About,
    ) -> Result<Permit<E>, JournalError> {
        let intent = prepare(&about.entry(authorized.agent(), E::intent(authorized.parts())))?;
        let id = intent.header.id;
        self.append_effect(authorized.effect().class(), intent).await?;
        // Only now: until here a failure drops the authorisation, which refunds it.
        Ok(Permit::mint(authorized.into_parts(), about, id))
    }

    /// Gives leave again for a tool call that an earlier daemon began and whose outcome nobody recorded: the intent in
    /// the journal is that of this permit. Once for each call that was unfinished when the journal was opened, and
    /// only where its class allows it to be made again or the kernel itself runs it.
    #[must_use]
    pub fn resume(&self, call: CallId) -> Option<Permit<ToolCall>> {
        self.unfinished.take(call)
    }

    /// Journals how an effect ended. Waits for the disk unless the effect is [`EffectClass::Safe`].
    /// Let it run to its end: an outcome whose future is dropped early may be lost.
    ///
    /// # Errors
    /// [`JournalError`]: the journal failed or is closed; the effect then counts as unknown.
    pub async fn finish<E: Effect>(
        &self,
        receipt: Receipt<E>,
        at: Timestamp,
    ) -> Result<Finished<E>, JournalError> {
        let outcome = prepare(&receipt.entry(at))?;
        let id = outcome.header.id;
        self.append_effect(receipt.effect().class(), outcome).await?;
        Ok(receipt.finish(id))
    }

    /// Appends one entry; it is durable when this returns.
    ///
    /// # Errors
    /// [`JournalError`]: the entry is too large, or the journal failed or is closed.
    pub async fn record(&self, entry: NewEntry) -> Result<Entry, JournalError> {
        let mut entries = self.record_all(vec![entry]).await?;
        Ok(entries.pop().unwrap_or_else(|| unreachable!("one entry in, one entry out")))
    }

    /// Appends entries side by side in one transaction: all of them or none. Durable when this returns.
    ///
    /// # Errors
    /// [`JournalError`]: too many, one is too large, or the journal failed or is closed.
    pub async fn record_all(&self, entries: Vec<NewEntry>) -> Result<Vec<Entry>, JournalError> {
        if entries.len() > MAX_RECORD_BATCH {
            return Err(JournalError::BatchTooLarge { entries: entries.len(), limit: MAX_RECORD_BATCH });
        }
        let prepared = entries.iter().map(prepare).collect::<Result<Vec<_>, _>>()?;
        let ids: Vec<_> = prepared.iter().map(|entry| entry.header.id).collect();
        let links = self.append(prepared).await?;
        assert_eq!(links.len(), entries.len(), "every entry was linked");
        let stored = entries.into_iter().zip(ids).zip(links);
        Ok(stored.map(|((entry, id), link)| linked(entry, id, link)).collect())
    }

    /// Queues an entry for the next group commit and does not wait. It is lost if the daemon dies before.
    ///
    /// # Errors
    /// [`JournalError::QueueFull`], or the journal failed or is closed.
    #[expect(clippy::needless_pass_by_value, reason = "an entry is given away, as to `record`")]
    pub fn note(&self, entry: NewEntry) -> Result<(), JournalError> {
        let prepared = prepare(&entry)?;
        self.check()?;
        let command = Command::Append { entries: vec![prepared], reply: None };
        let queued = self.queue.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => JournalError::QueueFull { limit: JOURNAL_QUEUE },
            mpsc::error::TrySendError::Closed(_) => self.gone(),
        });
        self.keep_room();
        queued
    }

    /// Waits until everything that was queued before is durable.
    ///
    /// # Errors
    /// [`JournalError`]: the journal failed or is closed.
    pub async fn flush(&self) -> Result<(), JournalError> {
        self.append(Vec::new()).await.map(drop)
    }

    /// Reads committed entries; those that were only queued may not be there yet.
    ///
    /// # Errors
    /// [`JournalError`] of the database, or for an entry that cannot be read.
    pub async fn read(&self, filter: Filter) -> Result<Vec<Entry>, JournalError> {
        self.readers.with(move |file| file.read(&filter)).await
    }

    /// Walks the whole chain. A chain that does not verify is an answer, not an error.
    ///
    /// # Errors
    /// [`JournalError`] of the database.
    pub async fn verify(&self) -> Result<VerifyReport, JournalError> {
        self.verify_against(Expected::default()).await
    }

    /// As [`Self::verify`], and says whether the chain holds what was seen earlier.
    ///
    /// # Errors
    /// [`JournalError`] of the database.
    pub async fn verify_against(&self, expected: Expected) -> Result<VerifyReport, JournalError> {
        self.readers.with(move |file| file.verify(expected)).await
    }

    /// Whether a commit failed, so that nothing is taken any more.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.status.poisoned().is_some()
    }

    /// Resolves once a commit has failed.
    pub async fn wait_failure(&self) {
        self.status.wait_failure().await;
    }

    /// The key that vouches for this journal's heads.
    #[must_use]
    pub fn key(&self) -> HeadKey {
        self.signer.key()
    }

    /// Archives the oldest entries from before `before`, as far as nothing needs them, into files in `archive` beside
    /// the database, and then removes them; an entry of the time `now` tells of each archive. Cancelling this future
    /// does not stop it.
    ///
    /// # Errors
    /// [`JournalError`]: an archive cannot be written (nothing of it is removed then), or the journal failed.
    pub async fn prune(&self, before: Timestamp, now: Timestamp) -> Result<Pruned, JournalError> {
        let journal = self.clone();
        match tokio::task::spawn_blocking(move || journal.prune_now(before, now)).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(JournalError::Closed),
        }
    }

    fn prune_now(&self, before: Timestamp, now: Timestamp) -> Result<Pruned, JournalError> {
        let _one = self.archiving.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = store::open_reader(&self.readers.path)?;
        let state = fold::fold(&connection, Some(self.key()))?.state;
        let (last, held) = retain::boundary(&connection, &state, before)?;
        let mut pruned = Pruned { entries: 0, archives: Vec::new(), through: Seq(0), held };
        // With the first cut, which no later one of these reaches.
        let mut keys = state.keys_to_keep();
        while let Some(archive) = retain::archive(&connection, &self.readers.path, last, &self.signer)? {
            self.cut(archive.anchor, prepare(&archive.told(now, std::mem::take(&mut keys)))?)?;
            pruned.entries += archive.entries;
            pruned.archives.push(archive.path);
        }
        pruned.through = signed::anchor(&connection)?.map_or(Seq(0), |anchor| anchor.head.seq);
        Ok(pruned)
    }

    fn cut(&self, anchor: Anchor, told: Prepared) -> Result<(), JournalError> {
        let (reply, answer) = oneshot::channel();
        let cut = Cut { anchor, told, reply };
        self.queue.blocking_send(Command::Cut(Box::new(cut))).map_err(|_| self.gone())?;
        self.status.hurry();
        answer.blocking_recv().map_err(|_| self.gone())?
    }

    /// The number of the last durable entry (0 before the first), for followers. The channel closes when
    /// the journal does.
    #[must_use]
    pub fn head(&self) -> watch::Receiver<Seq> {
        self.head.clone()
    }

    /// How much was committed since it was opened.
    #[must_use]
    pub fn stats(&self) -> JournalStats {
        let (commits, entries) = self.status.counts();
        JournalStats { commits, entries }
    }

    /// Commits what is queued, closes the database and frees the lock. Other handles get
    /// [`JournalError::Closed`] from here on.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`] when something that was queued could not be committed.
    pub async fn close(self) -> Result<(), JournalError> {
        let (closer, closed) = oneshot::channel();
        self.readers.clear();
        self.queue.send(Command::Close(closer)).await.map_err(|_| self.gone())?;
        self.status.hurry();
        closed.await.map_err(|_| self.gone())?;
        self.readers.clear();
        self.check()
    }

    async fn append_effect(&self, class: EffectClass, entry: Prepared) -> Result<(), JournalError> {
        match class {
            EffectClass::Safe => {
                self.check()?;
                let command = Command::Append { entries: vec![entry], reply: None };
                self.queue.send(command).await.map_err(|_| self.gone())?;
                self.keep_room();
                self.check()
            }
            EffectClass::Keyed | EffectClass::Paid | EffectClass::Once => {
                self.append(vec![entry]).await.map(drop)
            }
        }
    }

    async fn append(&self, entries: Vec<Prepared>) -> Result<Vec<Link>, JournalError> {
        self.check()?;
        let (reply, answer) = oneshot::channel();
        let command = Command::Append { entries, reply: Some(reply) };
        self.queue.send(command).await.map_err(|_| self.gone())?;
        self.status.hurry();
        answer.await.map_err(|_| self.gone())?
    }

    /// The writer must not wait for company while the queue fills up.
    fn keep_room(&self) {
        if self.queue.capacity() < JOURNAL_QUEUE / 2 {
            self.status.hurry();
        }
    }

    fn check(&self) -> Result<(), JournalError> {
        self.status.poisoned().map_or(Ok(()), Err)
    }

    /// Why the writer no longer answers.
    fn gone(&self) -> JournalError {
        self.status.poisoned().unwrap_or(JournalError::Closed)
    }

    /// Commands that wait for the writer.
    #[cfg(test)]
    pub(crate) fn queued(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    #[cfg(test)]
    pub(crate) fn hook(&self, hook: impl FnOnce(&rusqlite::Connection) + Send + 'static) {
        assert!(self.queue.try_send(Command::Hook(Box::new(hook))).is_ok(), "the queue takes a hook");
    }
}

/// Takes the lock file beside the database. The kernel frees it when the process ends, however it ends.
fn lock(path: &Path) -> Result<std::fs::File, JournalError> {
    let lock_path = path.with_extension("lock");
    let file = store::create_private(&lock_path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(JournalError::AlreadyOpen { path: path.to_owned() }),
        Err(std::fs::TryLockError::Error(source)) => Err(JournalError::files(&lock_path, source)),
    }
}

/// Does for an entry all that needs no place in the chain: id, salt, JSON, body hash.
pub(crate) fn prepare(entry: &NewEntry) -> Result<Prepared, JournalError> {
    assert!(!matches!(entry.event, Event::BodyErased { .. }), "an erased body is shown, never recorded");
    let body = serde_json::to_string(&entry.event)
        .map_err(|source| JournalError::Encode { source: source.into() })?;
    if body.len() > MAX_ENTRY_BYTES {
        return Err(JournalError::EntryTooLarge { bytes: body.len(), limit: MAX_ENTRY_BYTES });
    }
    let mut salt = [0; SALT_BYTES];
    let mut random = [0; 10];
    getrandom::fill(&mut salt).map_err(|source| JournalError::Random { source })?;
    getrandom::fill(&mut random).map_err(|source| JournalError::Random { source })?;
    let id = uuid::Builder::from_unix_timestamp_millis(entry.timestamp.0, &random).into_uuid();
    let header = Header {
        id: EntryId::from_uuid(id),
        timestamp: entry.timestamp,
        goal: entry.goal_id,
        agent: entry.agent_id,
        trace: entry.trace_id,
        parent: entry.parent_event,
        kind: entry.event.kind().to_owned(),
    };
    let body_hash = body_hash(&salt, &body);
    Ok(Prepared { header, body, salt, body_hash })
}

fn linked(entry: NewEntry, id: EntryId, link: Link) -> Entry {
    Entry {
        seq: link.seq,
        id,
        timestamp: entry.timestamp,
        goal_id: entry.goal_id,
        agent_id: entry.agent_id,
        trace_id: entry.trace_id,
        parent_event: entry.parent_event,
        event: entry.event,
        prev_hash: link.previous.to_string(),
        hash: link.hash.to_string(),
    }
}

/// A few reading connections, used off the async threads.
#[derive(Debug)]
struct Readers {
    path: PathBuf,
    slots: Arc<Semaphore>,
    idle: Mutex<Vec<JournalFile>>,
}

impl Readers {
    fn new(path: PathBuf) -> Self {
        Self { path, slots: Arc::new(Semaphore::new(JOURNAL_READERS)), idle: Mutex::new(Vec::new()) }
    }

    async fn with<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&JournalFile) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await else {
            return Err(JournalError::Closed);
        };
        let readers = Arc::clone(self);
        let running = tokio::task::spawn_blocking(move || {
            let idle = readers.idle().pop();
            let file = idle.map_or_else(|| JournalFile::open(&readers.path), Ok)?;
            let result = work(&file);
            readers.idle().push(file);
            drop(slot);
            result
        });
        match running.await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(JournalError::Closed),
        }
    }

    fn clear(&self) {
        self.idle().clear();
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<JournalFile>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
