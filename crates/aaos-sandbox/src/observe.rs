//! Looking at what a write would change, for the person who is asked about it.
//!
//! Invariant: the place is found exactly as the write finds it; nothing is changed by looking.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aaos_core::approval::Target;
use aaos_core::id::GrantId;
use aaos_core::limits::MAX_OBSERVED_OUTPUT_BYTES;
use aaos_core::path::AbsPath;
use aaos_core::toolio::FileKind;
use rustix::fs::OFlags;

use crate::beneath::{BELOW_NO_LINKS, Links, open_for_io, open_location};
use crate::commit::find_target;
use crate::protect::kernel_path;
use crate::roots::{RootError, RootTable, hash_file};

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
            let (size, changed) = (facts.size, facts.mtime_ns);
            seen.content_hash = Some(format!("not hashed: {size} bytes, last changed at {changed} ns"));
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

/// A path for a person: what is not UTF-8 or not printable is escaped, so that two paths never look alike.
fn shown(path: &Path) -> String {
    match path.to_str() {
        Some(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => path.as_os_str().as_bytes().escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use aaos_core::id::GrantId;
    use aaos_core::path::{AbsPath, PathPattern};
    use testkit::scratch;
    use uuid::Uuid;

    use crate::roots::RootTable;

    const GRANT: GrantId = GrantId::from_uuid(Uuid::from_u128(1));

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
