//! Signed heads: what whoever rewrites the chain cannot make without the key (Ed25519, RFC 8032).
//!
//! Invariants: the secret key lies in one file that only its owner can read, is made once, and is neither
//! shown nor copied; what is signed begins with its purpose, so that no signature serves for another. What is
//! signed is plain text, so that any Ed25519 tool can check it.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::str::FromStr;

use aaos_core::quantity::Timestamp;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::chain::Head;
use crate::error::JournalError;
use crate::{hex, store};

const KEY_BYTES: usize = 32;
const SIGNATURE_BYTES: usize = 64;

/// The text is no key or signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is written as {digits} hexadecimal digits in lower case")]
pub struct HexError {
    what: &'static str,
    digits: usize,
}

/// Fixed bytes that are hexadecimal digits in text.
macro_rules! hex_text {
    ($name:ident, $bytes:expr, $what:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = HexError;

            fn from_str(text: &str) -> Result<Self, HexError> {
                hex::decode(text).map(Self).ok_or(HexError { what: $what, digits: 2 * $bytes })
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }

        impl TryFrom<String> for $name {
            type Error = HexError;

            fn try_from(text: String) -> Result<Self, HexError> {
                text.parse()
            }
        }
    };
}

/// The public half of a journal's key; in text, 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct HeadKey(pub(crate) [u8; KEY_BYTES]);
hex_text!(HeadKey, KEY_BYTES, "a public key");

/// A signature of a head; in text, 128 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct HeadSignature(pub(crate) [u8; SIGNATURE_BYTES]);
hex_text!(HeadSignature, SIGNATURE_BYTES, "a signature");

/// A head that the journal's key vouches for. As a JSON line it begins with its head, as no entry does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedHead {
    /// What is vouched for.
    pub head: Head,
    /// By whom.
    pub key: HeadKey,
    /// Over `aaos-journal-head-v1`, a line feed and the head's text.
    pub signature: HeadSignature,
}

impl SignedHead {
    /// Whether the signature is the key's, over this head.
    #[must_use]
    pub fn is_genuine(&self) -> bool {
        is_signed(&self.key, &self.signature, &head_message(self.head))
    }
}

/// The head after which the database's entries begin, because those before were archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Anchor {
    pub(crate) head: Head,
    /// The latest time that any entry up to the head bears.
    pub(crate) latest: Timestamp,
    pub(crate) key: HeadKey,
    pub(crate) signature: HeadSignature,
}

impl Anchor {
    pub(crate) fn is_genuine(&self) -> bool {
        is_signed(&self.key, &self.signature, &anchor_message(self.head, self.latest))
    }
}

fn head_message(head: Head) -> String {
    format!("aaos-journal-head-v1\n{head}")
}

fn anchor_message(head: Head, latest: Timestamp) -> String {
    format!("aaos-journal-anchor-v1\n{head} {}", latest.0)
}

fn is_signed(key: &HeadKey, signature: &HeadSignature, message: &str) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(&key.0) else { return false };
    key.verify_strict(message.as_bytes(), &Signature::from_bytes(&signature.0)).is_ok()
}

/// Holds the secret key and signs with it.
pub(crate) struct HeadSigner {
    secret: SigningKey,
}

impl fmt::Debug for HeadSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeadSigner").field("key", &self.key()).finish_non_exhaustive()
    }
}

impl HeadSigner {
    pub(crate) fn key(&self) -> HeadKey {
        HeadKey(self.secret.verifying_key().to_bytes())
    }

    pub(crate) fn head(&self, head: Head) -> SignedHead {
        SignedHead { head, key: self.key(), signature: self.sign(&head_message(head)) }
    }

    pub(crate) fn anchor(&self, head: Head, latest: Timestamp) -> Anchor {
        Anchor { head, latest, key: self.key(), signature: self.sign(&anchor_message(head, latest)) }
    }

    fn sign(&self, message: &str) -> HeadSignature {
        HeadSignature(self.secret.sign(message.as_bytes()).to_bytes())
    }

    /// Reads the key file; makes it if it is missing and `may_make`.
    pub(crate) fn load(path: &Path, may_make: bool) -> Result<Self, JournalError> {
        match fs::symlink_metadata(path) {
            Ok(found) => Self::read(path, &found),
            Err(error) if error.kind() == io::ErrorKind::NotFound && may_make => Self::make(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(JournalError::key(path, KeyProblem::Missing))
            }
            Err(error) => Err(JournalError::files(path, error)),
        }
    }

    fn read(path: &Path, found: &fs::Metadata) -> Result<Self, JournalError> {
        if !found.is_file() {
            return Err(JournalError::key(path, KeyProblem::NoFile));
        }
        let mode = found.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(JournalError::key(path, KeyProblem::Open { mode }));
        }
        let mut text = String::new();
        let file = File::open(path).map_err(|error| JournalError::files(path, error))?;
        let read = file.take(MAX_KEY_FILE_BYTES).read_to_string(&mut text);
        let seed = read.ok().and_then(|_| hex::decode(text.trim_end()));
        let seed = seed.ok_or_else(|| JournalError::key(path, KeyProblem::Malformed))?;
        Ok(Self { secret: SigningKey::from_bytes(&seed) })
    }

    /// Makes a key and its file. The file is there whole or not at all, whenever the machine stops.
    fn make(path: &Path) -> Result<Self, JournalError> {
        let mut seed = [0; KEY_BYTES];
        getrandom::fill(&mut seed).map_err(|source| JournalError::Random { source })?;
        let fresh = path.with_extension("key.new");
        let failed = |source| JournalError::files(path, source);
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&fresh).map_err(failed)?;
        file.write_all(format!("{}\n", hex::encode(&seed)).as_bytes()).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        fs::rename(&fresh, path).map_err(failed)?;
        store::sync_directory_of(path)?;
        Ok(Self { secret: SigningKey::from_bytes(&seed) })
    }
}

/// More than this no key file holds.
const MAX_KEY_FILE_BYTES: u64 = 1_024;

/// Why the key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyProblem {
    /// The journal has signed heads, and the key that signed them is gone.
    #[error("is missing, and the journal was signed with it; restore it from a backup")]
    Missing,
    /// A directory, a link or something else.
    #[error("is no regular file; put the key there")]
    NoFile,
    /// Others than its owner can read or change it.
    #[error("is open to others (mode {mode:o}); make it 0600 if nobody can have read it")]
    Open {
        /// Its permissions.
        mode: u32,
    },
    /// It does not hold a key.
    #[error("holds no key; restore it from a backup")]
    Malformed,
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::{HeadKey, HeadSignature, HeadSigner, KeyProblem, SignedHead};
    use crate::chain::{Hash, Head};
    use crate::error::JournalError;
    use aaos_core::id::Seq;
    use aaos_core::quantity::Timestamp;

    fn head(seq: u64) -> Head {
        Head { seq: Seq(seq), hash: Hash::from_bytes([7; 32]) }
    }

    #[test]
    fn a_signature_holds_for_its_head_key_and_purpose_alone() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let signer = HeadSigner::load(&directory.path().join("a.key"), true).expect("made");
        let other = HeadSigner::load(&directory.path().join("b.key"), true).expect("made");
        let signed = signer.head(head(1));
        assert!(signed.is_genuine());
        assert!(!SignedHead { head: head(2), ..signed }.is_genuine());
        assert!(!SignedHead { key: other.key(), ..signed }.is_genuine());
        assert!(!SignedHead { key: HeadKey([0; 32]), ..signed }.is_genuine(), "a weak key signs anything");
        assert!(!SignedHead { signature: HeadSignature([0; 64]), ..signed }.is_genuine());
        let anchor = signer.anchor(head(1), Timestamp(3));
        assert!(anchor.is_genuine());
        assert!(!super::Anchor { latest: Timestamp(4), ..anchor }.is_genuine());
        assert!(!SignedHead { signature: anchor.signature, ..signed }.is_genuine(), "an anchor is no head");
        assert!(!super::Anchor { signature: signed.signature, ..anchor }.is_genuine());
        assert!(!format!("{signer:?}").contains(&crate::hex::encode(&signer.secret.to_bytes())));
    }

    #[test]
    fn the_key_is_made_once_and_private() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("journal.key");
        let load = |may_make| HeadSigner::load(&path, may_make).map(|signer| signer.key());
        let missing = load(false).expect_err("not made");
        assert!(matches!(missing, JournalError::Key { problem: KeyProblem::Missing, .. }), "{missing:?}");
        let made = load(true).expect("made");
        assert_eq!(load(true).expect("read"), made);
        assert_eq!(load(false).expect("read"), made);
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("changed");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 1, "nothing is left beside it");
        for open in [0o640, 0o604, 0o620] {
            mode(open);
            let refused = load(true).expect_err("open to others");
            assert!(matches!(refused, JournalError::Key { problem: KeyProblem::Open { .. }, .. }));
        }
        mode(0o400);
        assert_eq!(load(true).expect("the control: private again"), made);
        let text = fs::read_to_string(&path).expect("read");
        mode(0o600);
        for bad in ["", "00", &text[1..], &format!("0{text}"), &"x".repeat(5_000)] {
            fs::write(&path, bad).expect("written");
            let refused = load(true).expect_err("no key");
            assert!(matches!(refused, JournalError::Key { problem: KeyProblem::Malformed, .. }), "{bad}");
        }
        fs::remove_file(&path).expect("removed");
        symlink("/dev/null", &path).expect("linked");
        let refused = load(true).expect_err("a link");
        assert!(matches!(refused, JournalError::Key { problem: KeyProblem::NoFile, .. }));
    }
}
