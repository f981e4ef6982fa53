//! Keys of providers leave the environment before anything is forked.
//!
//! Invariant: after start-up no aaOS process has a key in `/proc/<pid>/environ`. A key given in the environment is
//! written to a memfd and agentd executes itself again without it; the second start reads and closes the memfd. Where
//! that one is process 1 of a PID namespace, it closes the memfd unread, and the agentd that it starts reads it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;

use rustix::fs::MemfdFlags;

use super::vars::{self, KEYS, KEYS_DESCRIPTOR};

/// Most bytes of all keys together.
const MAX_KEY_BYTES: u64 = 64 * 1024;

/// The keys that were given, by variable name.
pub(crate) type Keys = BTreeMap<String, String>;

/// Why the keys could not be taken out of the environment.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeysError {
    /// A key is not text.
    #[error("{name} is not UTF-8")]
    NotText {
        /// Which variable.
        name: String,
    },
    /// The system's error.
    #[error("cannot take the provider keys out of the environment")]
    Io(#[from] io::Error),
    /// The handed-over descriptor does not hold keys.
    #[error("the handed-over provider keys are malformed")]
    Malformed(#[from] serde_json::Error),
}

/// Takes the keys out of the environment, those in variables of the operator's too. If any stand there, this process is
/// replaced by itself without them and this function does not return.
pub(crate) fn hide<'a>(own: impl Iterator<Item = &'a str>) -> Result<(), KeysError> {
    let mut found = Keys::new();
    for name in KEYS.iter().map(|var| var.name).chain(own) {
        if let Some(value) = vars::read(name) {
            let value = value.into_string().map_err(|_| KeysError::NotText { name: name.to_owned() })?;
            found.insert(name.to_owned(), value);
        }
    }
    if found.is_empty() { Ok(()) } else { Err(restart_without(&found)?) }
}

/// Takes the keys that [`hide`] left, once.
pub(crate) fn take() -> Result<Keys, KeysError> {
    let Some(memfd) = handed_over()? else { return Ok(Keys::new()) };
    let mut text = Vec::new();
    File::from(memfd).take(MAX_KEY_BYTES).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Closes what [`hide`] left, unread: somebody else takes it.
pub(crate) fn forget() -> Result<(), KeysError> {
    drop(handed_over()?);
    Ok(())
}

/// The descriptor with the keys, if there is one.
fn handed_over() -> Result<Option<OwnedFd>, KeysError> {
    match vars::read(KEYS_DESCRIPTOR).and_then(|text| text.to_str()?.parse::<i32>().ok()) {
        Some(descriptor) if descriptor > 2 => Ok(Some(aaos_confine::take_inherited(descriptor)?)),
        _ => Ok(None),
    }
}

/// Executes agentd again; returns only the error.
#[expect(clippy::disallowed_methods, reason = "agentd replaces itself; nothing is forked")]
fn restart_without(keys: &Keys) -> Result<KeysError, KeysError> {
    let memfd = rustix::fs::memfd_create("aaos-keys", MemfdFlags::empty()).map_err(io::Error::from)?;
    let mut file = File::from(memfd);
    file.write_all(&serde_json::to_vec(keys)?)?;
    file.seek(SeekFrom::Start(0))?;
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg0(program).args(arguments);
    // An empty one is no key, and stays out of what is found.
    for var in KEYS {
        command.env_remove(var.name);
    }
    command.env(KEYS_DESCRIPTOR, file.as_raw_fd().to_string());
    for name in keys.keys() {
        command.env_remove(name);
    }
    Ok(KeysError::Io(command.exec()))
}
