//! Where tests find the binaries and put their files.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The binaries under test, of the same profile as the running test.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// The daemon and command line.
    pub agentd: PathBuf,
    /// The worker, which is also the zygote.
    pub worker: PathBuf,
    /// The gateway.
    pub gateway: PathBuf,
}

/// The binaries next to the running test's target directory.
///
/// # Panics
/// When one is missing: Cargo builds the binaries of other packages only with the whole workspace.
#[must_use]
pub fn binaries() -> Binaries {
    let folder = profile_folder();
    let find = |name: &str| {
        let path = folder.join(name);
        assert!(path.is_file(), "{} is missing: run `cargo build --workspace` first", path.display());
        path
    };
    Binaries { agentd: find("agentd"), worker: find("aaos-worker"), gateway: find("aaos-gateway") }
}

/// `target/debug` for a test at `target/debug/deps/NAME-HASH`, or for an example or binary beside it.
fn profile_folder() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let folder = test.parent().expect("a program lies in a folder");
    let inner = folder.file_name().is_some_and(|name| name == "deps" || name == "examples");
    let folder = if inner { folder.parent().expect("deps lies in a profile's folder") } else { folder };
    folder.to_path_buf()
}

/// A fresh directory that goes away with the value; its path has no symbolic link in it and is short enough for a
/// socket.
///
/// # Panics
/// When the machine's temporary directory cannot be written.
#[must_use]
pub fn scratch() -> TempDir {
    let base = std::env::temp_dir();
    let base = base.canonicalize().unwrap_or(base);
    tempfile::Builder::new().prefix("aaos-test-").tempdir_in(base).expect("makes a scratch directory")
}

/// Everything that a denied call must leave as it was: names, kinds, modes, times and bytes below a directory.
///
/// Access times are left out, because reading changes them. Compare two with `==`, or see both in `assert_eq!`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    entries: BTreeMap<PathBuf, Recorded>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Recorded {
    mode: u32,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    content: Vec<u8>,
}

impl Snapshot {
    /// Records `root` and everything below it; links are recorded and not followed.
    ///
    /// # Panics
    /// When something cannot be read.
    #[must_use]
    pub fn of(root: &Path) -> Self {
        let mut entries = BTreeMap::new();
        let mut waiting = vec![root.to_path_buf()];
        while let Some(path) = waiting.pop() {
            let about =
                path.symlink_metadata().unwrap_or_else(|error| panic!("look at {}: {error}", path.display()));
            let content = if about.is_dir() {
                let listing = std::fs::read_dir(&path).expect("lists a directory");
                waiting.extend(listing.map(|entry| entry.expect("reads a directory entry").path()));
                Vec::new()
            } else if about.is_symlink() {
                path.read_link().expect("reads a link").into_os_string().into_encoded_bytes()
            } else if about.is_file() {
                std::fs::read(&path).expect("reads a file")
            } else {
                // A device, FIFO or socket: opening it could block.
                Vec::new()
            };
            let (modified, changed) =
                ((about.mtime(), about.mtime_nsec()), (about.ctime(), about.ctime_nsec()));
            entries.insert(
                path,
                Recorded { mode: about.mode(), inode: about.ino(), modified, changed, content },
            );
        }
        Self { entries }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_see_bytes_names_and_links() {
        let home = scratch();
        let file = home.path().join("a");
        std::fs::write(&file, "one").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", home.path().join("l")).unwrap();
        let before = Snapshot::of(home.path());
        assert_eq!(before, Snapshot::of(home.path()));
        std::fs::write(&file, "one").unwrap();
        let rewritten = Snapshot::of(home.path());
        std::fs::write(&file, "two").unwrap();
        assert_ne!(rewritten, Snapshot::of(home.path()), "other bytes");
        std::fs::write(&file, "one").unwrap();
        std::fs::create_dir(home.path().join("d")).unwrap();
        assert_ne!(before, Snapshot::of(home.path()), "a new name");
    }

    #[test]
    fn scratch_directories_are_resolved_and_go_away() {
        let home = scratch();
        let path = home.path().to_path_buf();
        assert_eq!(path.canonicalize().unwrap(), path);
        drop(home);
        assert!(!path.exists());
    }
}
