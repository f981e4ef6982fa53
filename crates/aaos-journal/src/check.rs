//! The one walk along a chain, whether it comes from the database or from a file.
//!
//! Invariants: every entry that passes follows the one before; what follows an anchor has at least one; every [`HEAD_EVERY`]th has a signed head, and every
//! signed head is genuine, of one key, and of the entry just passed; nothing is looked at after the first fault.

use std::cmp::Ordering;

use aaos_core::id::Seq;
use aaos_core::limits::{HEAD_EVERY, MAX_LISTED_ERASED};

use crate::chain::{Broken, Expected, Head, HeadCheck, Problem, VerifyReport};
use crate::sign::{Anchor, HeadKey, SignedHead};
use crate::store::Row;

/// A walk in progress.
#[derive(Debug)]
pub(crate) struct ChainCheck {
    report: VerifyReport,
    expected: Expected,
}

impl ChainCheck {
    /// A walk that begins after `after`; what comes there is vouched for by nobody yet.
    pub(crate) fn after(after: Head, expected: Expected) -> Self {
        let asked = expected.head.map_or(HeadCheck::NotAsked, |head| match head.seq.cmp(&after.seq) {
            Ordering::Less => HeadCheck::Archived,
            Ordering::Equal if head != after => HeadCheck::Differs,
            Ordering::Equal if head == Head::EMPTY => HeadCheck::Found,
            Ordering::Equal => HeadCheck::Follows,
            Ordering::Greater => HeadCheck::Missing,
        });
        let report = VerifyReport {
            after,
            entries: 0,
            head: after,
            erased_count: 0,
            erased: Vec::new(),
            signed: None,
            key: None,
            broken: None,
            expected: asked,
        };
        Self { report, expected }
    }

    /// A walk that begins after an anchor, or at the first entry.
    pub(crate) fn anchored(anchor: Option<&Anchor>, expected: Expected) -> Result<Self, Broken> {
        let Some(anchor) = anchor else { return Ok(Self::after(Head::EMPTY, expected)) };
        let mut check = Self::after(anchor.head, expected);
        if !anchor.is_genuine() {
            return Err(Broken { seq: anchor.head.seq, problem: Problem::Signature });
        }
        check.trust(anchor.head, anchor.key)?;
        Ok(check)
    }

    /// The last entry that passed.
    pub(crate) fn tip(&self) -> Head {
        self.report.head
    }

    /// The next entry.
    pub(crate) fn entry(&mut self, row: &Row) -> Result<(), Broken> {
        self.signed_where_due()?;
        self.report.head = row.follows(self.report.head)?;
        self.report.entries += 1;
        self.judge_head();
        if row.is_erased() {
            self.report.erased_count += 1;
            if self.report.erased.len() < MAX_LISTED_ERASED {
                self.report.erased.push(row.seq);
            }
        }
        Ok(())
    }

    /// The signed head of the entry just passed.
    pub(crate) fn signed(&mut self, signed: &SignedHead) -> Result<(), Broken> {
        let (tip, head) = (self.report.head, signed.head);
        if head.seq > tip.seq {
            return Err(Broken { seq: Seq(tip.seq.0 + 1), problem: Problem::Missing });
        }
        if head != tip {
            return Err(Broken { seq: head.seq, problem: Problem::Head });
        }
        if !signed.is_genuine() {
            return Err(Broken { seq: head.seq, problem: Problem::Signature });
        }
        self.trust(head, signed.key)
    }

    /// The end of the chain.
    pub(crate) fn end(&self) -> Result<(), Broken> {
        self.signed_where_due()?;
        let VerifyReport { after, head, entries, signed, .. } = &self.report;
        if *entries == 0 && *after != Head::EMPTY {
            // The last entry is never archived, and no archive is empty.
            return Err(Broken { seq: Seq(after.seq.0 + 1), problem: Problem::Missing });
        }
        if self.expected.key.is_some() && signed.is_none() {
            return Err(Broken { seq: head.seq, problem: Problem::Unsigned });
        }
        Ok(())
    }

    /// What was found, with the fault that ended the walk.
    pub(crate) fn report(mut self, broken: Option<Broken>) -> VerifyReport {
        let VerifyReport { entries, head, after, .. } = &self.report;
        assert_eq!(after.seq.0 + entries, head.seq.0, "numbers have no gaps");
        self.report.broken = broken;
        self.report
    }

    fn trust(&mut self, head: Head, key: HeadKey) -> Result<(), Broken> {
        if self.expected.key.or(self.report.key).is_some_and(|known| known != key) {
            return Err(Broken { seq: head.seq, problem: Problem::Key });
        }
        self.report.key = Some(key);
        self.report.signed = Some(head);
        Ok(())
    }

    fn signed_where_due(&self) -> Result<(), Broken> {
        let VerifyReport { head, entries, signed, .. } = &self.report;
        let due = *entries > 0 && head.seq.0.is_multiple_of(HEAD_EVERY);
        if due && *signed != Some(*head) {
            return Err(Broken { seq: head.seq, problem: Problem::Unsigned });
        }
        Ok(())
    }

    fn judge_head(&mut self) {
        let report = &mut self.report;
        if let Some(expected) = self.expected.head.filter(|head| head.seq == report.head.seq) {
            report.expected = if expected == report.head { HeadCheck::Found } else { HeadCheck::Differs };
        }
    }
}
