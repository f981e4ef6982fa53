//! Where tests find the binaries and put their files.

use std::path::PathBuf;
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
