//! Looking at what a write would change: for the person who is asked about it, and for the kernel that orders
//! writes and must know where an append goes on.
//!
//! Invariant: the place is found exactly as the write finds it; nothing is changed by looking.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use aaos_core::approval::Target;
use aaos_core::id::{CallId, GrantId};
use aaos_core::limits::MAX_OBSERVED_OUTPUT_BYTES;
use aaos_core::path::AbsPath;
use aaos_core::quantity::Bytes;
use aaos_core::toolio::FileKind;
use rustix::fs::OFlags;

use crate::beneath::{BELOW_NO_LINKS, Facts, Links, open_for_io, open_location};
use crate::commit::{Target as Found, discard_leftover, find_target};
use crate::protect::kernel_path;
use crate::roots::{RootError, RootTable};

impl RootTable {
    /// What a write to `path` would change. What cannot be looked at is told in words: the write fails on it too.
    #[must_use]
    pub fn observe_target(&self, path: &AbsPath, grant: GrantId, relative: &str) -> Target {
        let mut target = Target {
            path: path.as_str().to_owned(),
            root: String::new(),
            place: String::new(),
            content_hash: None,
        };
        if let Err(error) = self.look_at_target(&mut target, grant, relative) {
            target.content_hash = Some(format!("unknown: {error}"));
        }
        target
    }

    /// The same, but of the content only so much of its beginning: what an append was to go on from.
    #[must_use]
    pub fn observe_start(&self, path: &AbsPath, grant: GrantId, relative: &str, upto: Bytes) -> Target {
        let mut target = self.observe_target(path, grant, relative);
        if target.content_hash.is_some() {
            let hash = self.hash_start(path, grant, relative, upto);
            target.content_hash = Some(hash.unwrap_or_else(|error| format!("unknown: {error}")));
        }
        target
    }

    fn hash_start(
        &self,
        path: &AbsPath,
        grant: GrantId,
        relative: &str,
        upto: Bytes,
    ) -> Result<String, RootError> {
        let target = self.find(path, grant, relative, false)?;
        let fail = |errno| RootError::from_errno("look at", relative, errno);
        let location =
            open_location(&target.directory, target.name.as_bytes(), OFlags::NOFOLLOW, BELOW_NO_LINKS);
        let file = open_for_io(&location.map_err(fail)?, OFlags::RDONLY).map_err(fail)?;
        let (_, hash) = hash_start(file, upto.0.min(MAX_OBSERVED_OUTPUT_BYTES))
            .map_err(|source| RootError::Io { action: "read", path: path.as_str().to_owned(), source })?;
        Ok(hash)
    }

    /// Where a write to `path` really lies. Two calls that write to one file under one root have one place, however
    /// they spell it. `no_links` as in [`aaos_core::effect::Access`].
    ///
    /// # Errors
    /// [`RootError`] saying why nothing can be written there.
    pub fn place_of(
        &self,
        path: &AbsPath,
        grant: GrantId,
        relative: &str,
        no_links: bool,
    ) -> Result<PathBuf, RootError> {
        self.find(path, grant, relative, no_links).map(|target| target.place())
    }

    /// The size of the regular file that an append to `path` would go on from; 0 where nothing is there yet.
    ///
    /// # Errors
    /// [`RootError`] saying why nothing can be written there.
    pub fn append_position(
        &self,
        path: &AbsPath,
        grant: GrantId,
        relative: &str,
        no_links: bool,
    ) -> Result<Bytes, RootError> {
        let target = self.find(path, grant, relative, no_links)?;
        Ok(Bytes(target.existing.map_or(0, |facts| facts.size)))
    }

    /// Removes what an earlier daemon left of a write that is not repeated: the file of this call that was not
    /// renamed to its place. Says whether there was one.
    ///
    /// # Errors
    /// [`RootError`] when the place cannot be reached any more, or the file cannot be removed.
    pub fn discard_unfinished(
        &self,
        path: &AbsPath,
        grant: GrantId,
        relative: &str,
        no_links: bool,
        call: CallId,
    ) -> Result<bool, RootError> {
        let target = self.find(path, grant, relative, no_links)?;
        discard_leftover(&target, call)
            .map_err(|errno| RootError::from_errno("clean up", path.as_str(), errno))
    }

    fn find(
        &self,
        path: &AbsPath,
        grant: GrantId,
        relative: &str,
        no_links: bool,
    ) -> Result<Found, RootError> {
        let links = if no_links { Links::Refuse } else { Links::Follow };
        find_target(self, &*self.root(grant)?, relative, path.as_str(), links)
    }

    fn look_at_target(&self, seen: &mut Target, grant: GrantId, relative: &str) -> Result<(), RootError> {
        let root = self.root(grant)?;
        let fail = |errno| RootError::from_errno("look at", relative, errno);
        seen.root = shown(&kernel_path(root.directory()).map_err(fail)?);
        let target = find_target(self, &root, relative, &seen.path, Links::Follow)?;
        seen.place = shown(&target.place());
        let Some(facts) = &target.existing else { return Ok(()) };
        if facts.kind != FileKind::File {
            return Err(RootError::WrongKind { path: seen.path.clone(), found: facts.kind });
        }
        if facts.size > MAX_OBSERVED_OUTPUT_BYTES {
            seen.content_hash = Some(not_hashed(facts));
            return Ok(());
        }
        let name = target.name.as_bytes();
        let location =
            open_location(&target.directory, name, OFlags::NOFOLLOW, BELOW_NO_LINKS).map_err(fail)?;
        let file = open_for_io(&location, OFlags::RDONLY).map_err(fail)?;
        let (_, hash) = hash_file(file).map_err(|source| RootError::Io {
            action: "read",
            path: seen.path.clone(),
            source,
        })?;
        seen.content_hash = Some(hash);
        Ok(())
    }
}

/// Of a file that is too big to be read for that: what changes with its content.
pub(crate) fn not_hashed(facts: &Facts) -> String {
    format!("not hashed: {} bytes, last changed at {} ns", facts.size, facts.mtime_ns)
}

/// A path for a person: what is not UTF-8 or not printable is escaped, so that two paths never look alike.
pub(crate) fn shown(path: &Path) -> String {
    match path.to_str() {
        Some(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => path.as_os_str().as_bytes().escape_ascii().to_string(),
    }
}

/// Piece in which an output is hashed, bytes.
const HASH_PIECE: usize = 64 * 1024;

/// Size and BLAKE3 of a file, read to its end but never beyond the limit.
pub(crate) fn hash_file(fd: OwnedFd) -> std::io::Result<(u64, String)> {
    hash_start(fd, MAX_OBSERVED_OUTPUT_BYTES)
}

/// The same of no more than so many bytes of its beginning.
fn hash_start(fd: OwnedFd, most: u64) -> std::io::Result<(u64, String)> {
    let mut file = std::fs::File::from(fd).take(most);
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; HASH_PIECE];
    loop {
        let count = file.read(&mut piece)?;
        if count == 0 {
            return Ok((hasher.count(), hasher.finalize().to_hex().to_string()));
        }
        hasher.update(&piece[..count]);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use aaos_core::id::{CallId, GrantId};
    use aaos_core::path::{AbsPath, PathPattern};
    use aaos_core::quantity::Bytes;
    use tempfile::TempDir;
    use testkit::{Snapshot, scratch};
    use uuid::Uuid;

    use crate::roots::{RootError, RootTable};

    const GRANT: GrantId = GrantId::from_uuid(Uuid::from_u128(1));
    const CALL: CallId = CallId::from_uuid(Uuid::from_u128(2));

    /// `data` is granted; it holds `one/f`, a link to `one`, one to the file and one that leads out.
    fn granted() -> (TempDir, RootTable) {
        let home = scratch();
        fs::create_dir_all(home.path().join("data/one")).expect("made");
        fs::create_dir(home.path().join("outside")).expect("made");
        symlink("one", home.path().join("data/way")).expect("linked");
        symlink("one/f", home.path().join("data/link")).expect("linked");
        symlink("../outside", home.path().join("data/out")).expect("linked");
        fs::write(home.path().join("data/one/f"), "text").expect("written");
        fs::write(home.path().join("outside/f"), "outside").expect("written");
        let table = RootTable::new(Vec::new(), Vec::new());
        let pattern = PathPattern::parse(&format!("{}/data/*", home.path().display())).expect("a pattern");
        table.open_root(GRANT, &pattern, false).expect("a root");
        (home, table)
    }

    fn named(home: &TempDir, relative: &str) -> AbsPath {
        AbsPath::parse(&format!("{}/data/{relative}", home.path().display())).expect("a path")
    }

    #[test]
    fn one_file_has_one_place_however_it_is_spelled() {
        let (home, table) = granted();
        let before = Snapshot::of(home.path());
        let place =
            |relative: &str, no_links| table.place_of(&named(&home, relative), GRANT, relative, no_links);
        let real = home.path().canonicalize().expect("there").join("data");
        for spelled in ["one/f", "way/f", "one/../way/f", "one/./f"] {
            assert_eq!(place(spelled, false).expect("a place"), real.join("one/f"), "{spelled}");
        }
        assert_eq!(place("way/new/g", false).expect("a place"), real.join("one/new/g"));
        assert!(matches!(place("way/f", true), Err(RootError::Outside { .. })), "no link is followed");
        assert_eq!(place("one/f", true).expect("the control"), real.join("one/f"));
        assert!(matches!(place("link", false), Err(RootError::WrongKind { .. })));
        assert!(matches!(place("out/f", false), Err(RootError::Outside { .. })));
        assert_eq!(before, Snapshot::of(home.path()), "looking makes nothing");
    }

    #[test]
    fn an_append_goes_on_from_the_size_of_the_file_that_it_would_grow() {
        let (home, table) = granted();
        let before = Snapshot::of(home.path());
        let position = |relative: &str, no_links| {
            table.append_position(&named(&home, relative), GRANT, relative, no_links)
        };
        assert_eq!(position("way/f", false).expect("there"), Bytes(4));
        assert_eq!(position("one/f", true).expect("there"), Bytes(4));
        for missing in ["g", "one/new/deep/g"] {
            assert_eq!(position(missing, false).expect("nothing yet"), Bytes(0), "{missing}");
        }
        for odd in ["link", "one", "out/f", "../outside/f"] {
            let refused = position(odd, false);
            let right = matches!(refused, Err(RootError::WrongKind { .. } | RootError::Outside { .. }));
            assert!(right, "{odd}: {refused:?}");
        }
        assert!(matches!(position("way/f", true), Err(RootError::Outside { .. })));
        assert_eq!(before, Snapshot::of(home.path()), "looking makes nothing");
        table.close(GRANT);
        assert!(matches!(position("one/f", false), Err(RootError::UnknownGrant { .. })));
    }

    #[test]
    fn the_beginning_of_a_file_is_seen_by_itself() {
        let (home, table) = granted();
        let seen = |relative: &str, upto| {
            table.observe_start(&named(&home, relative), GRANT, relative, Bytes(upto)).content_hash
        };
        let hash = |text: &str| Some(blake3::hash(text.as_bytes()).to_hex().to_string());
        assert_eq!([0, 2, 4, 9].map(|upto| seen("way/f", upto)), ["", "te", "text", "text"].map(hash));
        let (path, whole) =
            (named(&home, "one/f"), table.observe_start(&named(&home, "one/f"), GRANT, "one/f", Bytes(4)));
        assert_eq!(whole, table.observe_target(&path, GRANT, "one/f"), "all of it is the file");
        assert_eq!(seen("one/g", 0), None, "nothing is there");
        assert!(seen("out/f", 4).is_some_and(|why| why.starts_with("unknown")), "nothing outside is read");
    }

    #[test]
    fn what_a_call_left_unfinished_is_removed_and_nothing_else() {
        let (home, table) = granted();
        let other = CallId::from_uuid(Uuid::from_u128(3));
        let left = |call: CallId| home.path().join(format!("data/one/.aaos-{call}"));
        fs::write(left(CALL), "half").expect("written");
        fs::write(left(other), "half").expect("written");
        let discard = |relative: &str, call| {
            table.discard_unfinished(&named(&home, relative), GRANT, relative, false, call)
        };
        assert!(!discard("f", CALL).expect("another directory"));
        assert!(!discard("one/new/f", CALL).expect("no such directory"));
        assert!(left(CALL).exists(), "the control");
        assert!(discard("way/f", CALL).expect("removed"));
        assert!(!left(CALL).exists() && left(other).exists());
        assert!(!discard("way/f", CALL).expect("nothing is left"));
        symlink("f", left(CALL)).expect("linked");
        assert!(!discard("one/f", CALL).expect("not a file of ours"));
        assert_eq!(fs::read_link(left(CALL)).expect("it stays").to_str(), Some("f"));
    }

    #[test]
    fn a_target_is_seen_where_the_write_would_put_it() {
        let home = scratch();
        let real = home.path().canonicalize().expect("there");
        fs::create_dir_all(home.path().join("data/one")).expect("made");
        fs::create_dir(home.path().join("data/two")).expect("made");
        symlink("one", home.path().join("data/way")).expect("linked");
        symlink("one/f", home.path().join("data/link")).expect("linked");
        fs::write(home.path().join("data/one/f"), "text").expect("written");
        let table = RootTable::new(Vec::new(), Vec::new());
        let pattern = PathPattern::parse(&format!("{}/data/*", home.path().display())).expect("a pattern");
        table.open_root(GRANT, &pattern, false).expect("a root");
        let look = |relative: &str| {
            let path = AbsPath::parse(&format!("{}/data/{relative}", home.path().display())).expect("a path");
            table.observe_target(&path, GRANT, relative)
        };
        let seen = look("way/f");
        assert_eq!(seen.root, real.join("data").display().to_string());
        assert_eq!(seen.place, real.join("data/one/f").display().to_string());
        assert_eq!(seen.content_hash, Some(blake3::hash(b"text").to_hex().to_string()));
        assert_eq!(look("way/g").content_hash, None, "nothing is there yet");
        assert_eq!(look("way/new/g").place, real.join("data/one/new/g").display().to_string());
        assert!(!home.path().join("data/one/new").exists(), "looking makes nothing");
        for odd in ["link", "one", "../data/one/f"] {
            let words = look(odd).content_hash.expect("words");
            assert!(words.starts_with("unknown: "), "{odd}: {words}");
        }
        // The same spelling leads elsewhere once the link is turned, though nothing is there before and after.
        let before = look("way/g");
        fs::remove_file(home.path().join("data/way")).expect("removed");
        symlink("two", home.path().join("data/way")).expect("linked");
        assert_ne!(look("way/g"), before);
        fs::write(home.path().join("data/two/g"), "new").expect("written");
        assert_eq!(look("way/g").content_hash, Some(blake3::hash(b"new").to_hex().to_string()));
    }
}
