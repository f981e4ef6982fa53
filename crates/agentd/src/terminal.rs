//! The person at the terminal: lines typed in answer to a question.
//!
//! Invariants: nothing is read unless standard input and standard error are a terminal, and what was typed before a
//! question does not answer it; waiting for a line holds no thread and may be broken off at any point.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::getpgrp;
use rustix::termios::{QueueSelector, tcflush, tcgetpgrp};
use tokio::net::unix::pipe::Receiver;

/// The kernel hands out at most so much of one line.
const LINE_BYTES: usize = 4096;
/// More than this without a line's end is no answer of a person.
const LONGEST_LINE: usize = 4 * LINE_BYTES;
/// Between two looks whether a shell has put this process into the foreground again.
const FOREGROUND_PAUSE: Duration = Duration::from_millis(200);
/// Standard input, to be opened anew: what this program does to its own opening does not change the shell's.
const STDIN: &str = "/proc/self/fd/0";

/// A terminal that a person types at.
#[derive(Debug)]
pub(crate) struct Keyboard {
    typed: Receiver,
    unread: Vec<u8>,
}

impl Keyboard {
    /// The keyboard; `None` where nobody can be asked. Needs the async runtime.
    pub(crate) fn open() -> Option<Self> {
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return None;
        }
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC).bits();
        let flags = i32::try_from(flags).ok()?;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(STDIN);
        // It is no pipe, but is waited for and read as one.
        let typed = opened.and_then(Receiver::from_file_unchecked).ok()?;
        Some(Self { typed, unread: Vec::new() })
    }

    /// Puts a question on the terminal. What was typed before it is forgotten.
    pub(crate) fn ask(&mut self, question: &str) {
        self.unread.clear();
        if self.in_foreground()
            && let Err(error) = tcflush(&self.typed, QueueSelector::IFlush)
        {
            tracing::debug!(%error, "what was typed before cannot be forgotten");
        }
        Self::prompt(question);
    }

    /// Shows a question, again.
    pub(crate) fn prompt(question: &str) {
        let mut shown = io::stderr().lock();
        if let Err(error) = write!(shown, "{question}").and_then(|()| shown.flush()) {
            tracing::debug!(%error, "standard error takes nothing");
        }
    }

    /// The next line, without its end; `None` when there will be none (Ctrl-D, or the terminal is gone). May be
    /// dropped while it waits.
    pub(crate) async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let rest = self.unread.split_off(end + 1);
                let line = std::mem::replace(&mut self.unread, rest);
                return Some(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            self.typed.readable().await.ok()?;
            if !self.in_foreground() {
                tokio::time::sleep(FOREGROUND_PAUSE).await;
                continue;
            }
            let mut bytes = [0; LINE_BYTES];
            match self.typed.try_read(&mut bytes) {
                Ok(0) => return None,
                Ok(_) if self.unread.len() > LONGEST_LINE => return None,
                Ok(count) => self.unread.extend(&bytes[..count]),
                Err(error) if is_passing(&error) => {}
                Err(_) => return None,
            }
        }
    }

    /// Whether reading is allowed: a job in the background would be stopped by it. A terminal that is not the
    /// controlling one stops nobody.
    fn in_foreground(&self) -> bool {
        tcgetpgrp(&self.typed).map_or(true, |group| group == getpgrp())
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
