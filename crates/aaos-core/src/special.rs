//! Sockets, FIFOs and devices below a granted root, as a person is told of them.
//!
//! Invariants: words for people, by which nothing decides; so many names of so many characters; what was not looked
//! through completely says so, and why.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::{
    MAX_NAMED_SPECIAL_FILES, MAX_SPECIAL_NAME_CHARS, MAX_SURVEY_DEPTH, MAX_SURVEYED_ENTRIES, SURVEY_TIME_MS,
};

/// What is neither a regular file nor a directory nor a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpecialKind {
    /// A Unix socket with a path.
    Socket,
    /// A named pipe.
    Fifo,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
}

impl SpecialKind {
    const fn words(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Fifo => "FIFO",
            Self::CharacterDevice => "character device",
            Self::BlockDevice => "block device",
        }
    }
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecialFile {
    /// What it is.
    pub kind: SpecialKind,
    /// Where below the root, escaped; a long one by its end.
    pub path: String,
}

/// Why there may be more than was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotSeen {
    /// It took too long.
    Time,
    /// It has too many entries.
    Entries,
    /// Directories lie too deep.
    Depth,
    /// A directory could not be read.
    Unreadable,
}

impl fmt::Display for NotSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time => write!(f, "it took longer than {SURVEY_TIME_MS} ms"),
            Self::Entries => write!(f, "it has more than {MAX_SURVEYED_ENTRIES} entries"),
            Self::Depth => write!(f, "directories lie more than {MAX_SURVEY_DEPTH} deep in it"),
            Self::Unreadable => f.write_str("a directory in it could not be read"),
        }
    }
}

/// What stands below a granted root beside files, directories and links.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecialFiles {
    /// The first of them.
    pub named: Vec<SpecialFile>,
    /// How many were seen besides.
    pub more: u64,
    /// Why there may be others; `None` when all was looked through.
    pub not_seen: Option<NotSeen>,
}

impl SpecialFiles {
    /// Adds one, by its path below the root, which whoever looked has made harmless.
    pub fn add(&mut self, kind: SpecialKind, path: &str) {
        if self.named.len() < MAX_NAMED_SPECIAL_FILES {
            self.named.push(SpecialFile { kind, path: end_of(path) });
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    /// Whether there is nothing to tell of.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.named.is_empty() && self.not_seen.is_none()
    }
}

/// The last characters of a path that is too long to be shown whole.
fn end_of(path: &str) -> String {
    match path.chars().count().checked_sub(MAX_SPECIAL_NAME_CHARS) {
        None | Some(0) => path.to_owned(),
        Some(surplus) => std::iter::once('…').chain(path.chars().skip(surplus)).collect(),
    }
}

impl fmt::Display for SpecialFiles {
    /// What is said behind the words of a grant.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, one) in self.named.iter().enumerate() {
            f.write_str(if at == 0 { "holds " } else { ", " })?;
            write!(f, "{} {}", one.kind.words(), one.path)?;
        }
        if self.more > 0 {
            write!(f, " and {} more", self.more)?;
        }
        let Some(why) = self.not_seen else { return Ok(()) };
        if !self.named.is_empty() {
            f.write_str("; ")?;
        }
        write!(f, "was not looked through completely for sockets, FIFOs and devices: {why}")
    }
}

#[cfg(test)]
mod tests {
    use super::{NotSeen, SpecialFiles, SpecialKind};
    use crate::limits::{MAX_NAMED_SPECIAL_FILES, MAX_SPECIAL_NAME_CHARS};

    fn of(all: &[(SpecialKind, &str)]) -> SpecialFiles {
        let mut found = SpecialFiles::default();
        all.iter().for_each(|(kind, path)| found.add(*kind, path));
        found
    }

    #[test]
    fn what_is_there_is_said_with_its_place() {
        let mut found = of(&[(SpecialKind::Socket, "run/x.sock"), (SpecialKind::Fifo, "q")]);
        assert!(!found.is_empty());
        assert_eq!(found.to_string(), "holds socket run/x.sock, FIFO q");
        found.not_seen = Some(NotSeen::Entries);
        assert_eq!(
            found.to_string(),
            "holds socket run/x.sock, FIFO q; was not looked through completely for sockets, FIFOs and devices: \
             it has more than 100000 entries"
        );
        let devices = of(&[(SpecialKind::CharacterDevice, "null"), (SpecialKind::BlockDevice, "sda")]);
        assert_eq!(devices.to_string(), "holds character device null, block device sda");
    }

    #[test]
    fn nothing_is_nothing_to_tell_and_not_having_looked_is_something() {
        assert!(SpecialFiles::default().is_empty(), "the control");
        let whys = [
            (NotSeen::Time, "it took longer than 3000 ms"),
            (NotSeen::Depth, "directories lie more than 64 deep in it"),
            (NotSeen::Unreadable, "a directory in it could not be read"),
        ];
        for (why, words) in whys {
            let found = SpecialFiles { not_seen: Some(why), ..SpecialFiles::default() };
            assert!(!found.is_empty());
            assert!(found.to_string().starts_with("was not looked through completely"), "{found}");
            assert!(found.to_string().ends_with(words), "{found}");
        }
    }

    #[test]
    fn names_are_short_and_not_too_many() {
        let whole = "ä".repeat(MAX_SPECIAL_NAME_CHARS);
        let found = of(&[(SpecialKind::Fifo, &whole), (SpecialKind::Fifo, &format!("cut/{whole}"))]);
        assert_eq!(found.named[0].path, whole);
        assert_eq!(found.named[1].path, format!("…{whole}"));
        let many = of(&[(SpecialKind::Socket, "s"); MAX_NAMED_SPECIAL_FILES + 2]);
        assert_eq!((many.named.len(), many.more), (MAX_NAMED_SPECIAL_FILES, 2));
        assert!(many.to_string().ends_with("socket s and 2 more"), "{many}");
        let all = of(&[(SpecialKind::Socket, "s"); MAX_NAMED_SPECIAL_FILES]);
        assert_eq!(all.more, 0);
        assert!(all.to_string().ends_with("socket s"), "{all}");
    }
}
