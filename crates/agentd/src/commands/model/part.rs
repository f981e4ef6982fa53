//! The part of a model that was fetched so far.
//!
//! Invariants: a part lies among the models, readable by its owner alone, under the name of its model and a mark of what it
//! must become and of its source: what one source sent is never mixed with what another did. It never grows beyond the
//! size of the whole.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aaos_core::quantity::Bytes;
use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{OFlags, statvfs};
use sha2::{Digest, Sha256};

use super::{STEP_BYTES, hexadecimal, make_directory, remove_if_there};
use crate::render::text::size;
use crate::settings::local::Shelf;

/// What stands behind the mark of a part.
const PART: &str = ".part";
/// What stands there for a directory of what a part is made of.
const BESIDE: &str = ".packages";
/// Length of a mark.
const MARK_CHARS: usize = 16;
/// Room that is left on the disk beside what is fetched.
const SPARE_BYTES: u64 = 64 * 1024 * 1024;

/// A part, open for more.
#[derive(Debug)]
pub(super) struct Part {
    path: PathBuf,
    file: File,
    have: u64,
    size: u64,
}

impl Part {
    /// Of a model, from a source that is called so; empty where there is none yet.
    pub(super) fn open(shelf: &Shelf, name: &str, sha256: &str, source: &str, size: Bytes) -> Result<Self> {
        make_directory(shelf.directory())?;
        let mark = hexadecimal(Sha256::new().chain_update(sha256).chain_update(source));
        let file_name = format!("{name}.{}{PART}", mark.get(..MARK_CHARS).unwrap_or_default());
        let path = shelf.directory().join(file_name);
        let cannot = || format!("cannot open {}", path.display());
        let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or(0);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
        let mut file = options.open(&path).with_context(cannot)?;
        let facts = file.metadata().with_context(cannot)?;
        ensure!(facts.is_file(), "{} is not a regular file", path.display());
        file.seek(SeekFrom::End(0)).with_context(cannot)?;
        let mut part = Self { path, file, have: facts.len(), size: size.0 };
        if part.have > part.size {
            part.restart()?;
        }
        Ok(part)
    }

    /// How much is there.
    pub(super) const fn have(&self) -> Bytes {
        Bytes(self.have)
    }

    /// Whether nothing is missing.
    pub(super) const fn is_whole(&self) -> bool {
        self.have == self.size
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Forgets what is there.
    pub(super) fn restart(&mut self) -> Result<()> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.with_context(|| format!("cannot write {}", self.path.display()))?;
        self.have = 0;
        Ok(())
    }

    /// Forgets what is behind so many bytes; all, where there are fewer.
    pub(super) fn cut_to(&mut self, bytes: Bytes) -> Result<()> {
        if bytes.0 > self.have {
            return self.restart();
        }
        let cut = self.file.set_len(bytes.0).and_then(|()| self.file.seek(SeekFrom::End(0)));
        cut.with_context(|| format!("cannot write {}", self.path.display()))?;
        self.have = bytes.0;
        Ok(())
    }

    /// Adds what came next.
    pub(super) fn append(&mut self, piece: &[u8]) -> Result<()> {
        let more = piece.len() as u64;
        assert!(more <= self.size - self.have, "whoever fetches gives no more than the size");
        self.file.write_all(piece).with_context(|| {
            format!("cannot write {}; make room and run the same command again", self.path.display())
        })?;
        self.have += more;
        Ok(())
    }

    /// Leaves no file behind where nothing is there.
    pub(super) fn forget_if_empty(self) -> Result<()> {
        if self.have == 0 { remove_if_there(&self.path) } else { Ok(()) }
    }

    /// The SHA-256 of what is there, once it is on the disk.
    pub(super) fn sha256(&self) -> Result<String> {
        let cannot = || format!("cannot read {}", self.path.display());
        self.file.sync_all().with_context(|| format!("cannot write {}", self.path.display()))?;
        let mut hash = Sha256::new();
        let mut step = vec![0; STEP_BYTES];
        let mut at = 0;
        loop {
            let got = self.file.read_at(&mut step, at).with_context(cannot)?;
            if got == 0 {
                return Ok(hexadecimal(hash));
            }
            hash.update(&step[..got]);
            at += got as u64;
        }
    }

    /// The directory beside it, for what it is made of.
    pub(super) fn beside(&self) -> PathBuf {
        self.path.with_extension(&BESIDE[1..])
    }

    /// Whether the rest, and so much more, have room on the disk.
    pub(super) fn check_room_for(&self, more: u64) -> Result<()> {
        check_room(self.path.parent().unwrap_or(&self.path), (self.size - self.have).saturating_add(more))
    }

    /// Whether the rest has room on the disk.
    pub(super) fn check_room(&self) -> Result<()> {
        self.check_room_for(0)
    }
}

/// Whether so much more, and a little beside it, has room on the disk of a directory.
fn check_room(directory: &Path, more: u64) -> Result<()> {
    let facts = statvfs(directory).with_context(|| format!("cannot look at {}", directory.display()))?;
    let free = facts.f_bavail.saturating_mul(facts.f_frsize);
    let needed = more.saturating_add(SPARE_BYTES);
    if free < needed {
        bail!(
            "the disk of {} has {} left, and {} are needed; make room, or set AAOS_STATE_DIR to a directory of another \
             disk",
            directory.display(),
            size(free),
            size(needed)
        );
    }
    Ok(())
}

/// Removes every part of the model of this name; gives how many there were.
pub(super) fn remove_all(shelf: &Shelf, name: &str) -> Result<usize> {
    let cannot = || format!("cannot list {}", shelf.directory().display());
    let mut removed = 0;
    for entry in fs::read_dir(shelf.directory()).with_context(cannot)? {
        let entry = entry.with_context(cannot)?;
        if is_of(name, &entry.file_name().to_string_lossy(), BESIDE) {
            let path = entry.path();
            fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            removed += 1;
        } else if is_of(name, &entry.file_name().to_string_lossy(), PART) {
            remove_if_there(&entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn is_of(name: &str, file: &str, kind: &str) -> bool {
    let mark = file.strip_prefix(name).and_then(|rest| rest.strip_prefix('.'));
    let mark = mark.and_then(|rest| rest.strip_suffix(kind)).unwrap_or_default();
    mark.len() == MARK_CHARS && mark.bytes().all(|one| one.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use aaos_core::quantity::Bytes;

    use super::{PART, Part, check_room, is_of, remove_all};
    use crate::settings::local::Shelf;

    const HASH: &str = "00";

    #[test]
    fn what_is_there_is_there_again_and_only_for_the_same_source() {
        let folder = tempfile::tempdir().expect("a folder");
        let shelf = Shelf::of(folder.path());
        let open =
            |source: &str, size| Part::open(&shelf, "small", HASH, source, Bytes(size)).expect("opened");
        let mut part = open("one", 6);
        part.append(b"abc").expect("room");
        drop(part);
        let mut part = open("one", 6);
        assert_eq!((part.have(), part.is_whole()), (Bytes(3), false));
        part.append(b"def").expect("room");
        assert!(part.is_whole());
        assert_eq!(fs::read(part.path()).expect("read"), b"abcdef");
        let mode = fs::metadata(part.path()).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let abcdef = "bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721";
        assert_eq!(part.sha256().expect("hashed"), abcdef);
        assert_eq!(open("two", 6).have(), Bytes(0), "another source");
        assert_eq!(open("one", 5).have(), Bytes(0), "more than there is to be is nothing");
        assert_eq!(remove_all(&shelf, "other").expect("listed"), 0);
        assert_eq!(remove_all(&shelf, "small").expect("removed"), 2);
        assert_eq!(fs::read_dir(shelf.directory()).expect("listed").count(), 0);
    }

    #[test]
    fn a_link_in_the_place_of_a_part_is_not_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let shelf = Shelf::of(folder.path());
        let part = Part::open(&shelf, "small", HASH, "one", Bytes(6)).expect("the control");
        let (path, target) = (part.path().to_owned(), folder.path().join("target"));
        fs::remove_file(&path).expect("removed");
        fs::write(&target, "mine").expect("written");
        symlink(&target, &path).expect("linked");
        assert!(Part::open(&shelf, "small", HASH, "one", Bytes(1)).is_err());
        assert_eq!(fs::read_to_string(&target).expect("read"), "mine");
    }

    #[test]
    fn without_room_nothing_is_begun() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(check_room(folder.path(), 1).is_ok(), "the control");
        let why = check_room(folder.path(), u64::MAX).expect_err("nobody has that").to_string();
        assert!(why.contains("has") && why.contains("make room"), "{why}");
    }

    #[test]
    fn a_part_is_told_from_those_of_longer_names() {
        assert!(is_of("a", "a.0123456789abcdef.part", PART));
        for other in
            ["a.b.0123456789abcdef.part", "a.0123456789abcde.part", "a.json", "a.0123456789abcdex.part"]
        {
            assert!(!is_of("a", other, PART), "{other}");
        }
    }
}
