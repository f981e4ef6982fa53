//! The one writer: a thread that owns the connection, the chain's tip and the lock file.
//!
//! Invariants: whatever waits in the queue goes into one transaction, and is answered only after its commit;
//! a commit is put off for company only while nobody waits for it; the tip moves only after a commit; after a failed
//! commit nothing is written or acknowledged any more; the head of every [`HEAD_EVERY`]th entry is signed in the
//! transaction that appends it, so that a signature costs no further wait for the disk.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver as Done, SyncSender};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use aaos_core::id::Seq;
use aaos_core::limits::{AUDIT_DRAIN_MS, HEAD_EVERY, JOURNAL_LINGER_MS, JOURNAL_QUEUE};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot, watch};

use crate::chain::{Hash, Head};
use crate::error::JournalError;
use crate::printed;
use crate::sign::{Anchor, HeadSigner};
use crate::signed;
use crate::store::{self, Prepared};

/// Where an entry came to lie in the chain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    pub(crate) seq: Seq,
    pub(crate) previous: Hash,
    pub(crate) hash: Hash,
}

pub(crate) type Reply = oneshot::Sender<Result<Vec<Link>, JournalError>>;

/// What the writer is asked to do.
pub(crate) enum Command {
    /// Append these together; answer after the commit, if anyone waits.
    Append { entries: Vec<Prepared>, reply: Option<Reply> },
    /// Remove the entries up to the anchor, store it, and append the entry that tells of it; they are archived.
    Cut(Box<Cut>),
    /// Take nothing new, commit what is queued, let go of the files, then answer.
    Close(oneshot::Sender<()>),
    /// Lets a test hold the writer or change the connection.
    #[cfg(test)]
    Hook(Box<dyn FnOnce(&Connection) + Send>),
}

/// The removal of archived entries.
pub(crate) struct Cut {
    pub(crate) anchor: Anchor,
    /// The entry that tells of the archive.
    pub(crate) told: Prepared,
    pub(crate) reply: oneshot::Sender<Result<(), JournalError>>,
}

/// What the handles can see of the writer.
#[derive(Debug, Default)]
pub(crate) struct Status {
    poison: OnceLock<JournalError>,
    failed: watch::Sender<bool>,
    commits: AtomicU64,
    entries: AtomicU64,
    /// Set when somebody waits for the disk, or the queue fills up.
    urgent: AtomicBool,
    writer: OnceLock<Thread>,
}

impl Status {
    /// Ends the writer's wait for company. To be called after what is urgent was queued.
    pub(crate) fn hurry(&self) {
        self.urgent.store(true, Ordering::Release);
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    /// The error that everyone gets after a failed commit; `None` while all is well.
    pub(crate) fn poisoned(&self) -> Option<JournalError> {
        self.poison.get().map(|first| JournalError::Poisoned { source: Arc::new(first.clone()) })
    }

    /// Nothing is taken any more from here on; gives the error that everyone gets.
    fn fail(&self, error: impl Into<JournalError>) -> JournalError {
        let first = self.poison.get_or_init(|| error.into()).clone();
        self.failed.send_replace(true);
        first
    }

    /// Resolves once a commit has failed.
    pub(crate) async fn wait_failure(&self) {
        let mut failed = self.failed.subscribe();
        // The sender lives as long as this does.
        if failed.wait_for(|failed| *failed).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Transactions committed and entries in them since the journal was opened.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.commits.load(Ordering::Relaxed), self.entries.load(Ordering::Relaxed))
    }
}

/// The printer of the audit trail, as the writer knows it.
#[derive(Debug)]
pub(crate) struct Printer {
    pub(crate) wake: SyncSender<()>,
    pub(crate) done: Done<()>,
    /// The last entry that was printed.
    pub(crate) printed: Arc<AtomicU64>,
}

pub(crate) struct Writer {
    pub(crate) connection: Connection,
    pub(crate) tip: Head,
    pub(crate) queue: mpsc::Receiver<Command>,
    pub(crate) head: watch::Sender<Seq>,
    pub(crate) status: Arc<Status>,
    pub(crate) printer: Option<Printer>,
    pub(crate) lock: File,
    pub(crate) signer: Arc<HeadSigner>,
    /// The last entry whose head is signed.
    pub(crate) signed: Seq,
}

type Append = (Vec<Prepared>, Option<Reply>);

/// What was queued together.
#[derive(Default)]
struct Group {
    appends: Vec<Append>,
    cuts: Vec<Cut>,
    closers: Vec<oneshot::Sender<()>>,
}

impl Group {
    /// Whether somebody waits for anything in it.
    fn is_awaited(&self) -> bool {
        let Self { appends, cuts, closers } = self;
        !closers.is_empty() || !cuts.is_empty() || appends.iter().any(|(_, reply)| reply.is_some())
    }
}

impl Writer {
    /// Runs until every handle is gone or one of them closes the journal.
    pub(crate) fn run(mut self) {
        let mut closers = Vec::new();
        assert!(self.status.writer.set(thread::current()).is_ok(), "there is one writer");
        while let Some(first) = self.queue.blocking_recv() {
            let mut group = Group::default();
            self.gather(first, &mut group);
            if !group.is_awaited() {
                self.linger();
                if let Ok(next) = self.queue.try_recv() {
                    self.gather(next, &mut group);
                }
            }
            self.commit(group.appends);
            for Cut { anchor, told, reply } in group.cuts {
                if reply.send(self.cut(&anchor, &told)).is_err() {
                    tracing::debug!("whoever archived entries did not wait for their removal");
                }
            }
            closers.append(&mut group.closers);
        }
        self.sign_end();
        self.end_printer();
        let Self { connection, head, lock, .. } = self;
        if let Err((_, error)) = connection.close() {
            tracing::warn!(%error, "the journal's database did not close cleanly; it recovers when opened");
        }
        drop(lock);
        for closer in closers {
            if closer.send(()).is_err() {
                tracing::debug!("whoever closed the journal did not wait for it");
            }
        }
        drop(head);
    }

    /// Waits for company: a commit costs several times what an entry does. Ends at once when somebody waits.
    fn linger(&self) {
        let end = Instant::now() + Duration::from_millis(JOURNAL_LINGER_MS);
        while !self.status.urgent.swap(false, Ordering::Acquire) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::park_timeout(left);
        }
    }

    /// `first` and everything else that is queued, up to the queue's own length.
    fn gather(&mut self, first: Command, group: &mut Group) {
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                Command::Append { entries, reply } => group.appends.push((entries, reply)),
                Command::Cut(cut) => group.cuts.push(*cut),
                Command::Close(closer) => {
                    self.queue.close();
                    group.closers.push(closer);
                }
                #[cfg(test)]
                Command::Hook(hook) => hook(&self.connection),
            }
            next = if group.appends.len() < JOURNAL_QUEUE { self.queue.try_recv().ok() } else { None };
        }
    }

    fn commit(&mut self, group: Vec<Append>) {
        if let Some(poisoned) = self.status.poisoned() {
            return answer(group.into_iter().map(|(_, reply)| (reply, Err(poisoned.clone()))));
        }
        match self.write(&group) {
            Ok((tip, mut links)) => {
                self.grown_to(tip);
                answer(
                    group.into_iter().map(|(_, reply)| (reply, Ok(links.pop_front().unwrap_or_default()))),
                );
            }
            Err(error) => {
                tracing::error!(%error, "the journal failed to commit and accepts nothing more");
                let error = self.status.fail(error);
                answer(group.into_iter().map(|(_, reply)| (reply, Err(error.clone()))));
            }
        }
    }

    /// After a commit: what it appended is there for everyone.
    fn grown_to(&mut self, tip: Head) {
        assert!(tip.seq >= self.tip.seq, "the chain only grows");
        let grew = tip.seq.0 - self.tip.seq.0;
        self.tip = tip;
        if grew > 0 {
            self.status.commits.fetch_add(1, Ordering::Relaxed);
            self.status.entries.fetch_add(grew, Ordering::Relaxed);
            self.head.send_replace(tip.seq);
            self.wake_printer();
        }
    }

    /// One transaction; all of it is on the disk when this returns, or the tip is unchanged.
    fn write(&mut self, group: &[Append]) -> Result<(Head, VecDeque<Vec<Link>>), rusqlite::Error> {
        let mut tip = self.tip;
        let mut signed_through = self.signed;
        let mut links = VecDeque::with_capacity(group.len());
        if group.iter().all(|(entries, _)| entries.is_empty()) {
            return Ok((tip, links));
        }
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (entries, _) in group {
            let mut appended = Vec::with_capacity(entries.len());
            for entry in entries {
                let previous = tip.hash;
                tip = append(&transaction, &self.signer, tip, entry)?;
                if is_signed(tip) {
                    signed_through = tip.seq;
                }
                appended.push(Link { seq: tip.seq, previous, hash: tip.hash });
            }
            links.push_back(appended);
        }
        if let Some(printer) = &self.printer {
            printed::note(&transaction, Seq(printer.printed.load(Ordering::Relaxed)))?;
        }
        transaction.commit()?;
        self.signed = signed_through;
        Ok((tip, links))
    }

    /// Removes archived entries and says so in the journal; a failure is one of the disk, and ends the journal as a
    /// failed commit does.
    fn cut(&mut self, anchor: &Anchor, told: &Prepared) -> Result<(), JournalError> {
        if let Some(poisoned) = self.status.poisoned() {
            return Err(poisoned);
        }
        assert!(anchor.head.seq < self.tip.seq, "the last entry stays");
        match self.write_cut(anchor, told) {
            Ok(tip) => {
                if is_signed(tip) {
                    self.signed = tip.seq;
                }
                self.grown_to(tip);
                Ok(())
            }
            Err(error) => {
                tracing::error!(
                    %error,
                    "the journal failed to remove archived entries and accepts nothing more"
                );
                Err(self.status.fail(error))
            }
        }
    }

    /// One transaction, as [`Self::write`].
    fn write_cut(&mut self, anchor: &Anchor, told: &Prepared) -> Result<Head, rusqlite::Error> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        signed::cut(&transaction, anchor)?;
        let tip = append(&transaction, &self.signer, self.tip, told)?;
        transaction.commit()?;
        Ok(tip)
    }

    /// Signs the last entry's head before the journal closes.
    fn sign_end(&mut self) {
        if self.signed == self.tip.seq || self.status.poisoned().is_some() {
            return;
        }
        let signed = self.signer.head(self.tip);
        let stored = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).and_then(
            |transaction| {
                signed::insert(&transaction, &signed)?;
                transaction.commit()
            },
        );
        if let Err(error) = stored {
            tracing::error!(%error, "the last head of the journal could not be signed");
            self.status.fail(error);
        }
    }

    /// Waits for what is left to be printed, and notes how far that came.
    fn end_printer(&mut self) {
        let Some(Printer { wake, done, printed }) = self.printer.take() else { return };
        drop(wake);
        if done.recv_timeout(Duration::from_millis(AUDIT_DRAIN_MS)).is_err() {
            tracing::warn!(
                "standard output did not take the last audit entries in time; the next start prints them"
            );
        }
        if self.status.poisoned().is_none()
            && let Err(error) = printed::note(&self.connection, Seq(printed.load(Ordering::Relaxed)))
        {
            tracing::warn!(%error, "the next start prints audit entries again that were printed already");
        }
    }

    fn wake_printer(&self) {
        if let Some(printer) = &self.printer {
            // Full means that it is awake already; disconnected, that it gave up and said so.
            match printer.wake.try_send(()) {
                Ok(()) | Err(_) => {}
            }
        }
    }
}

/// Whether the head of this entry is signed with it.
fn is_signed(tip: Head) -> bool {
    tip.seq.0.is_multiple_of(HEAD_EVERY)
}

/// Appends one entry, with its signed head where it is due; gives the tip after it.
fn append(
    transaction: &Transaction<'_>,
    signer: &HeadSigner,
    tip: Head,
    entry: &Prepared,
) -> Result<Head, rusqlite::Error> {
    let tip = store::insert(transaction, tip, entry)?;
    if is_signed(tip) {
        signed::insert(transaction, &signer.head(tip))?;
    }
    Ok(tip)
}

fn answer(replies: impl Iterator<Item = (Option<Reply>, Result<Vec<Link>, JournalError>)>) {
    for (reply, result) in replies {
        if reply.is_some_and(|reply| reply.send(result).is_err()) {
            tracing::debug!("whoever journalled an entry did not wait for it");
        }
    }
}
