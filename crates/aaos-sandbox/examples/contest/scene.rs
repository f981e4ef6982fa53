//! What an attempt is told: where the things are that an escape would be after.
//!
//! Invariant: the control, the single boundaries and the worker get the same scene, by the same frame, with
//! the same descriptors handed over.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::raw::{Answer, Refusal};

/// Bytes of every secret.
pub(crate) const SECRET: &[u8; 8] = b"a secret";
/// Number under which the secret's descriptor leaks into the launcher.
pub(crate) const LEAKED_FILE: usize = 40;
/// Number under which a directory's descriptor leaks.
pub(crate) const LEAKED_DIRECTORY: usize = 41;
/// Number under which a terminal's descriptor leaks.
pub(crate) const LEAKED_TERMINAL: usize = 42;
/// Number of a path socket's server that leaks.
pub(crate) const LEAKED_SOCKET: usize = 43;

/// The stage, in words and numbers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Scene {
    /// A directory that the user may do anything in. Holds `secret` (for everybody), `private` (for the
    /// stage's user alone), `victim` (to be changed), and the sockets.
    pub(crate) folder: String,
    /// A program whose set-uid bit would make it another user's, or empty.
    pub(crate) set_uid_program: String,
    /// A process of the same user that may be harmed.
    pub(crate) victim: u32,
    /// Where that process has the secret in its memory.
    pub(crate) address: u64,
    /// A listening TCP port on 127.0.0.1.
    pub(crate) tcp: u16,
    /// An open UDP port on 127.0.0.1.
    pub(crate) udp: u16,
    /// The name of a listening abstract socket.
    pub(crate) abstract_name: String,
    /// The name of an abstract datagram socket.
    pub(crate) abstract_datagram: String,
    /// The key of a System V shared memory segment.
    pub(crate) shared_memory: i32,
    /// What /proc/self/cgroup says outside.
    pub(crate) cgroups: String,
    /// Children that the fork case makes.
    pub(crate) children: u32,
}

impl Scene {
    /// A path in the folder.
    pub(crate) fn at(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }
}

/// Where an attempt is made: the scene and what was handed over by it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) scene: Scene,
    /// The secret, opened for reading.
    pub(crate) file: OwnedFd,
    /// A directory of the folder, opened for listing.
    pub(crate) directory: OwnedFd,
    /// A memory file, sealed after it was filled (the control: not sealed).
    pub(crate) memory: OwnedFd,
}

/// From the director to a subject; three descriptors ride on it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Which case.
    pub(crate) case: String,
    pub(crate) scene: Scene,
}

/// From a subject to the director.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Told {
    /// `None`: it was reached.
    pub(crate) refusal: Option<Refusal>,
}

impl From<Answer> for Told {
    fn from(answer: Answer) -> Self {
        Self { refusal: answer.err() }
    }
}
