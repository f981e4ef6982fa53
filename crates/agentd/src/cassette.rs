//! `--record` and `--replay`: the file that the `models` gateway gets.
//!
//! Invariants: a recording never writes over a file; what is replayed is a regular file, so that nobody waits for it; of
//! its content only the head is read here, which is configuration and bounded. Exchanges are the gateway's alone.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aaos_core::cassette::{CassetteHead, Place};
use aaos_core::limits::{MAX_CASSETTE_BYTES, MAX_CASSETTE_HEAD_BYTES};
use aaos_core::wire::ModelsSetup;
use aaos_runtime::Cassette;
use anyhow::{Context, Result};
use clap::Args;

use crate::exit::UsageError;

/// `run` and `serve`.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct CassetteFlags {
    /// Record all traffic with model providers to a new FILE
    #[arg(long, value_name = "FILE", help_heading = "Models")]
    record: Option<PathBuf>,
    /// Replay the traffic that FILE recorded; no provider is asked, no key is needed
    #[arg(long, value_name = "FILE", conflicts_with = "record", help_heading = "Models")]
    replay: Option<PathBuf>,
}

impl CassetteFlags {
    /// What they ask for.
    pub(crate) fn chosen(&self) -> Option<Choice> {
        let record = self.record.clone().map(Choice::Record);
        record.or_else(|| self.replay.clone().map(Choice::Replay))
    }
}

/// A cassette that somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    Record(PathBuf),
    Replay(PathBuf),
}

/// A cassette that is to be used, before the daemon is there.
#[derive(Debug)]
pub(crate) enum Chosen {
    /// A file to be made once the daemon is to start.
    Record(PathBuf),
    /// A file that is open, and who answered when it was recorded.
    Replay { path: PathBuf, file: File, models: ModelsSetup },
}

impl Chosen {
    /// Looks at what was asked for; a file that is to be replayed is opened.
    ///
    /// # Errors
    /// [`UsageError`] when it is no cassette.
    pub(crate) fn of(choice: &Choice) -> Result<Self> {
        let absolute = |path: &Path| std::path::absolute(path).context("the cassette's path is not usable");
        match choice {
            Choice::Record(path) => Ok(Self::Record(absolute(path)?)),
            Choice::Replay(path) => {
                let unusable = || UsageError(format!("cannot replay {}", path.display()));
                let (file, models) = open(path).with_context(unusable)?;
                Ok(Self::Replay { path: absolute(path)?, file, models })
            }
        }
    }

    /// Where its file is.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Record(path) | Self::Replay { path, .. } => path,
        }
    }

    /// What is said before work begins.
    pub(crate) fn notice(&self) -> String {
        match self {
            Self::Record(path) => format!(
                "every prompt and every reply is recorded to {}; keys are left out, all else that the goal's agents \
                 read and write may stand in it",
                path.display()
            ),
            Self::Replay { path, .. } => {
                format!("replies come from {}; no provider is asked and nothing is paid", path.display())
            }
        }
    }

    /// The file, ready for the gateway.
    ///
    /// # Errors
    /// [`UsageError`] when one that is to be recorded exists or cannot be made.
    pub(crate) fn load(self, models: &ModelsSetup, places: Vec<Place>) -> Result<Cassette> {
        match self {
            Self::Record(path) => {
                let head = CassetteHead::of(models, places.clone());
                let unusable = || {
                    UsageError(format!(
                        "cannot record to {}: name a file that does not exist yet, in a directory that does",
                        path.display()
                    ))
                };
                let file = create(&path, &head).with_context(unusable)?;
                Ok(Cassette::to_record(file, places))
            }
            Self::Replay { file, .. } => Ok(Cassette::to_replay(file, places)),
        }
    }
}

fn create(path: &Path, head: &CassetteHead) -> Result<File> {
    let mut file = File::options().create_new(true).append(true).mode(0o600).open(path)?;
    let mut line = serde_json::to_vec(head)?;
    line.push(b'\n');
    file.write_all(&line)?;
    Ok(file)
}

fn open(path: &Path) -> Result<(File, ModelsSetup)> {
    // Without waiting for whoever might write into a pipe of this name.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(UsageError("it is no regular file".to_owned()).into());
    }
    if found.len() > MAX_CASSETTE_BYTES {
        return Err(UsageError(format!("it is longer than {MAX_CASSETTE_BYTES} bytes")).into());
    }
    let mut line = Vec::new();
    let most = MAX_CASSETTE_HEAD_BYTES as u64 + 1;
    BufReader::new(&file).take(most).read_until(b'\n', &mut line)?;
    if line.len() > MAX_CASSETTE_HEAD_BYTES {
        return Err(
            UsageError(format!("its first line is longer than {MAX_CASSETTE_HEAD_BYTES} bytes")).into()
        );
    }
    let head: CassetteHead =
        serde_json::from_slice(&line).context("its first line is not that of a cassette")?;
    if !head.is_readable() {
        return Err(
            UsageError("it was recorded by another version of aaOS; record it anew".to_owned()).into()
        );
    }
    Ok((file, head.models()))
}

#[cfg(test)]
mod tests {
    use super::{Choice, Chosen};
    use crate::exit::{Exit, of_error};
    use aaos_core::limits::{MAX_CASSETTE_BYTES, MAX_CASSETTE_HEAD_BYTES};
    use aaos_core::wire::ModelsSetup;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    fn replayed(path: &Path) -> anyhow::Result<Chosen> {
        Chosen::of(&Choice::Replay(path.to_owned()))
    }

    #[test]
    fn a_recording_is_a_new_private_file_that_can_be_replayed() {
        let folder = testkit::scratch();
        let path = folder.path().join("cassette");
        let record = || Chosen::of(&Choice::Record(path.clone())).expect("a path");
        record().load(&ModelsSetup::default(), Vec::new()).expect("a new file");
        let mode = std::fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let error = record().load(&ModelsSetup::default(), Vec::new()).expect_err("it exists");
        assert_eq!(of_error(&error), Exit::Usage, "{error:#}");
        assert!(format!("{error:#}").contains("does not exist yet"), "{error:#}");
        let Ok(Chosen::Replay { models, .. }) = replayed(&path) else { panic!("it can be replayed") };
        assert!(models == ModelsSetup::default());
    }

    #[test]
    fn what_is_no_cassette_is_refused_without_waiting() {
        let folder = testkit::scratch();
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).expect("a pipe");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("writes");
            path
        };
        let huge = file("huge", "");
        std::fs::File::options()
            .write(true)
            .open(&huge)
            .and_then(|file| file.set_len(MAX_CASSETTE_BYTES + 1))
            .expect("a sparse file");
        for (path, why) in [
            (folder.path().join("none"), "No such file"),
            (folder.path().to_owned(), "regular file"),
            (pipe, "regular file"),
            (huge, "longer than"),
            (file("long", &" ".repeat(MAX_CASSETTE_HEAD_BYTES + 1)), "first line is longer"),
            (file("other", "{}\n"), "not that of a cassette"),
            (file("empty", ""), "not that of a cassette"),
            (
                file("newer", "{\"cassette\":9,\"providers\":[],\"aliases\":[],\"places\":[]}\n"),
                "another version",
            ),
        ] {
            let error = replayed(&path).expect_err(why);
            assert_eq!(of_error(&error), Exit::Usage, "{error:#}");
            assert!(format!("{error:#}").contains(why), "{error:#}");
        }
    }
}
