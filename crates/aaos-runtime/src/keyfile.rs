//! Files that hold the key of a provider.
//!
//! Invariants: agentd opens them, hands the descriptor over and never reads it; a file that others may read is no secret
//! and is refused.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aaos_core::limits::MAX_KEY_BYTES;
use rustix::fs::OFlags;

/// Who keeps others away from a key file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guard {
    /// Its mode alone.
    Mode,
    /// Its directory too, which the service manager made: the mode may name a group to whom it opens nothing.
    Directory,
}

/// Where a provider's key lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile {
    path: PathBuf,
    guard: Guard,
}

/// Why a key file is not used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be opened.
    #[error("cannot open the key file {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a directory, a pipe or a device.
    #[error("the key file {0} is no regular file; name a file that holds the key and nothing else")]
    NotAFile(PathBuf),
    /// Somebody else can change it.
    #[error("the key file {path} belongs to user {owner}; run `chown {own} {path}`")]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who should own it.
        own: u32,
    },
    /// Others may read or change it.
    #[error(
        "others may read or change the key file {path} (mode {mode:04o}); run `chmod 600 {path}`, and take a new key if \
         somebody may have read it"
    )]
    Open {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It holds more than a key.
    #[error("the key file {path} has {bytes} bytes; it may hold one key of at most {MAX_KEY_BYTES}")]
    TooLong {
        /// Which file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
}

impl KeyFile {
    /// A file of the operator's.
    #[must_use]
    pub const fn of_operator(path: PathBuf) -> Self {
        Self { path, guard: Guard::Mode }
    }

    /// A credential that the service manager handed to the daemon.
    #[must_use]
    pub const fn of_service_manager(path: PathBuf) -> Self {
        Self { path, guard: Guard::Directory }
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it, if it is fit to hold a key.
    ///
    /// # Errors
    /// [`KeyFileError`], with what to do.
    pub fn open(&self) -> Result<OwnedFd, KeyFileError> {
        let io = |source| KeyFileError::Io { path: self.path.clone(), source };
        // A pipe that nobody writes to must not hold the daemon up.
        let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or_default();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&self.path).map_err(io)?;
        self.check(&file)?;
        Ok(file.into())
    }

    fn check(&self, file: &File) -> Result<(), KeyFileError> {
        let path = || self.path.clone();
        let found = file.metadata().map_err(|source| KeyFileError::Io { path: path(), source })?;
        if !found.is_file() {
            return Err(KeyFileError::NotAFile(path()));
        }
        let own = rustix::process::geteuid().as_raw();
        if found.uid() != own && found.uid() != 0 {
            return Err(KeyFileError::Foreign { path: path(), owner: found.uid(), own });
        }
        let others = match self.guard {
            Guard::Mode => 0o077,
            Guard::Directory => 0o027,
        };
        if found.mode() & others != 0 {
            return Err(KeyFileError::Open { path: path(), mode: found.mode() & 0o7777 });
        }
        if found.len() > MAX_KEY_BYTES {
            return Err(KeyFileError::TooLong { path: path(), bytes: found.len() });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{KeyFile, KeyFileError};
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    fn put(directory: &Path, mode: u32, bytes: usize) -> PathBuf {
        let path = directory.join("key");
        std::fs::write(&path, "k".repeat(bytes)).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("its mode");
        path
    }

    #[test]
    fn a_file_that_others_may_read_or_change_is_refused_with_what_to_do() {
        let home = tempfile::tempdir().expect("a directory");
        for (mode, alone, credential) in [
            (0o600, true, true),
            (0o400, true, true),
            (0o440, false, true),
            (0o640, false, true),
            (0o660, false, false),
            (0o604, false, false),
            (0o644, false, false),
            (0o602, false, false),
        ] {
            let path = put(home.path(), mode, 9);
            let opened = KeyFile::of_operator(path.clone()).open();
            assert_eq!(opened.is_ok(), alone, "{mode:o}: {opened:?}");
            if let Err(error) = opened {
                let said = error.to_string();
                assert!(said.contains(&format!("{mode:04o}")) && said.contains("chmod 600"), "{said}");
            }
            assert_eq!(KeyFile::of_service_manager(path).open().is_ok(), credential, "{mode:o}");
        }
        let path = put(home.path(), 0o600, 9);
        let mut text = String::new();
        let file = KeyFile::of_operator(path).open().expect("the control");
        std::fs::File::from(file).read_to_string(&mut text).expect("it can be read");
        assert_eq!(text.len(), 9);
    }

    #[test]
    fn what_is_no_key_file_is_refused() {
        let home = tempfile::tempdir().expect("a directory");
        let of = |path: PathBuf| KeyFile::of_operator(path).open().map(drop);
        assert!(matches!(of(home.path().to_owned()), Err(KeyFileError::NotAFile(_))));
        assert!(matches!(of(home.path().join("absent")), Err(KeyFileError::Io { .. })));
        assert!(matches!(of("/dev/null".into()), Err(KeyFileError::NotAFile(_))));
        assert!(of(put(home.path(), 0o600, 4_096)).is_ok(), "the control");
        assert!(matches!(of(put(home.path(), 0o600, 4_097)), Err(KeyFileError::TooLong { .. })));
    }
}
