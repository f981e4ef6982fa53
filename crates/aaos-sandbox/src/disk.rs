//! The watch over the file systems that a program may write to: nothing else bounds how much it leaves there.
//!
//! Invariants: a file system is asked as a whole, so that no way of writing is left out, and what somebody else writes
//! meanwhile counts, too: it is ended rather too soon than too late. Looked at before the program starts, at the named
//! pause while it runs, and never on an async thread.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use aaos_core::limits::{DISK_WATCH_MS, PROGRAM_DISK_BYTES, PROGRAM_DISK_FILES, PROGRAM_DISK_RESERVE_BYTES};
use aaos_core::path::AbsPath;
use aaos_core::quantity::Bytes;
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use rustix::fs::{fstat, fstatvfs};

use crate::calls::off_thread;
use crate::gauge::mebibytes;

/// Of a small file system the reserve is this part.
const RESERVED_PART: u64 = 20;

/// What is used of a file system, or may be used more of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) bytes: u64,
    pub(crate) files: u64,
}

/// How a file system is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fill {
    used: Used,
    /// Bytes that a program could still write.
    free: u64,
    /// Bytes that it has in all.
    size: u64,
}

/// Why a program is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Grown,
    Full,
}

impl Fill {
    fn of(held: &OwnedFd) -> std::io::Result<Self> {
        let seen = fstatvfs(held)?;
        let bytes = |blocks: u64| blocks.saturating_mul(seen.f_frsize);
        let used = Used {
            bytes: bytes(seen.f_blocks.saturating_sub(seen.f_bfree)),
            files: seen.f_files.saturating_sub(seen.f_ffree),
        };
        Ok(Self { used, free: bytes(seen.f_bavail), size: bytes(seen.f_blocks) })
    }

    /// What a program leaves free of it.
    fn reserve(&self) -> u64 {
        PROGRAM_DISK_RESERVE_BYTES.min(self.size / RESERVED_PART)
    }

    fn over(&self, before: Used, most: Used) -> Option<Over> {
        let grown = self.used.bytes.saturating_sub(before.bytes) > most.bytes
            || self.used.files.saturating_sub(before.files) > most.files;
        match grown {
            true => Some(Over::Grown),
            // One without a size has no end either.
            false => (self.free < self.reserve()).then_some(Over::Full),
        }
    }
}

/// One file system that a program may write to.
#[derive(Debug)]
struct Disk {
    at: AbsPath,
    held: OwnedFd,
    before: Used,
}

impl Disk {
    /// Why the program is to be ended. One that cannot be asked is not trusted with more.
    fn failure(&self, most: Used) -> Option<ToolFailure> {
        let at = &self.at;
        let why = match Fill::of(&self.held).map(|now| now.over(self.before, most)) {
            Ok(None) => return None,
            Ok(Some(Over::Grown)) => format!(
                "the file system of {at} grew by more than {} or {} files while it ran; let it write less at once",
                mebibytes(Bytes(most.bytes)),
                most.files
            ),
            Ok(Some(Over::Full)) => {
                format!("the file system of {at} is almost full; remove what is not needed there")
            }
            Err(error) => format!("the file system of {at} does not say how full it is ({error})"),
        };
        let why = format!("the program was ended with all that it started, what it did stays: {why}");
        Some(ToolFailure::new(ToolFailureKind::LimitReached, why))
    }
}

/// All that one program may write to.
#[derive(Debug)]
pub(crate) struct Disks {
    disks: Vec<Disk>,
    pub(crate) most: Used,
}

impl Default for Disks {
    fn default() -> Self {
        Self { disks: Vec::new(), most: Used { bytes: PROGRAM_DISK_BYTES, files: PROGRAM_DISK_FILES } }
    }
}

impl Disks {
    /// Takes up the file system of a place that may be changed. Touches the file system.
    ///
    /// # Errors
    /// [`ToolFailure`] where it is almost full already, or does not say.
    pub(crate) fn add(&mut self, at: &AbsPath, held: &OwnedFd) -> Result<(), ToolFailure> {
        let unusable = |why: String| {
            let why = format!("the file system of {at} {why}; no program is started that may write there");
            ToolFailure::new(ToolFailureKind::LimitReached, why)
        };
        let known = |held: &OwnedFd| fstat(held).map(|facts| facts.st_dev);
        let device = known(held).map_err(|errno| unusable(format!("cannot be looked at ({errno})")))?;
        if self.disks.iter().any(|disk| known(&disk.held) == Ok(device)) {
            return Ok(());
        }
        let looked = held.try_clone().and_then(|held| Ok((Fill::of(&held)?, held)));
        let (fill, held) =
            looked.map_err(|error| unusable(format!("does not say how full it is ({error})")))?;
        if fill.over(fill.used, self.most).is_some() {
            return Err(unusable("is almost full".to_owned()));
        }
        self.disks.push(Disk { at: at.clone(), held, before: fill.used });
        Ok(())
    }

    /// Resolves when one of them has got too much, with what its program is told.
    pub(crate) async fn overfilled(self) -> ToolFailure {
        if self.disks.is_empty() {
            return std::future::pending().await;
        }
        let disks = Arc::new(self);
        loop {
            tokio::time::sleep(Duration::from_millis(DISK_WATCH_MS)).await;
            let asked = Arc::clone(&disks);
            let look = move || asked.disks.iter().find_map(|disk| disk.failure(asked.most));
            match off_thread(look).await {
                Ok(None) => {}
                Ok(Some(failure)) | Err(failure) => return failure,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use aaos_core::limits::PROGRAM_DISK_RESERVE_BYTES;

    use super::{Fill, Over, Used};

    const GIB: u64 = 1 << 30;
    const MOST: Used = Used { bytes: 100, files: 10 };

    fn fill(bytes: u64, files: u64) -> Fill {
        Fill { used: Used { bytes, files }, free: 100 * GIB, size: 200 * GIB }
    }

    #[test]
    fn growth_counts_and_what_was_there_does_not() {
        let before = Used { bytes: 7_000, files: 70 };
        assert_eq!(fill(7_100, 80).over(before, MOST), None);
        assert_eq!(fill(7_101, 70).over(before, MOST), Some(Over::Grown));
        assert_eq!(fill(7_000, 81).over(before, MOST), Some(Over::Grown));
        assert_eq!(fill(10, 1).over(before, MOST), None, "what was removed is no debt");
    }

    #[test]
    fn a_reserve_stays_free() {
        let free = |free, size| {
            let filled = Fill { free, size, ..fill(0, 0) };
            filled.over(filled.used, MOST)
        };
        assert_eq!(free(PROGRAM_DISK_RESERVE_BYTES, 200 * GIB), None);
        assert_eq!(free(PROGRAM_DISK_RESERVE_BYTES - 1, 200 * GIB), Some(Over::Full));
        assert_eq!((free(50, 1_000), free(49, 1_000)), (None, Some(Over::Full)), "a small one keeps a part");
        assert_eq!(free(0, 0), None, "one without a size has no end");
    }
}
