//! Files that the operator names: manifests.
//!
//! Invariant: only a regular file of bounded size is read, and a FIFO or device never blocks.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use aaos_core::limits::MAX_MANIFEST_BYTES;

/// Why a named file could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// The system's error.
    #[error("cannot read {path}; check the path and its permissions")]
    Io {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A directory, device, FIFO or socket.
    #[error("{path} is not a regular file")]
    Kind {
        /// Which file.
        path: String,
    },
    /// Over the limit.
    #[error("{path} is longer than {MAX_MANIFEST_BYTES} bytes")]
    TooLong {
        /// Which file.
        path: String,
    },
}

/// Reads a manifest or a prompt file.
pub(crate) fn read_manifest(path: &Path) -> Result<String, FileError> {
    let shown = path.display().to_string();
    let io = |source| FileError::Io { path: shown.clone(), source };
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path).map_err(io)?;
    if !file.metadata().map_err(io)?.is_file() {
        return Err(FileError::Kind { path: shown });
    }
    let mut text = String::new();
    file.take(MAX_MANIFEST_BYTES as u64 + 1).read_to_string(&mut text).map_err(io)?;
    if text.len() > MAX_MANIFEST_BYTES {
        return Err(FileError::TooLong { path: shown });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{FileError, read_manifest};
    use std::path::Path;

    #[test]
    fn only_regular_files_are_read() {
        assert!(matches!(read_manifest(Path::new("/")), Err(FileError::Kind { .. })));
        assert!(matches!(read_manifest(Path::new("/dev/zero")), Err(FileError::Kind { .. })));
        assert!(matches!(read_manifest(Path::new("/no/such")), Err(FileError::Io { .. })));
    }
}
