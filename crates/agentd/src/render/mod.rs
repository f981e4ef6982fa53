//! How things look on a terminal: plain lines, colours only where a person looks.
//!
//! Invariants: text that came from a model, a tool or a file never reaches a terminal with its control
//! characters; standard output carries answers, standard error everything said along the way.

pub(crate) mod conversation;
pub(crate) mod entry;
#[cfg(test)]
pub(crate) mod fixture;
mod narrative;
pub(crate) mod progress;
pub(crate) mod receipt;
pub(crate) mod table;
pub(crate) mod text;
pub(crate) mod timeline;

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::settings::vars;

/// Standard output takes nothing more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    /// Its reader went away, as `head` does: it has what it wanted.
    #[error("standard output was closed")]
    ReaderGone,
    /// Anything else, a full disk for example.
    #[error("cannot write to standard output")]
    Io(#[source] io::Error),
}

impl From<io::Error> for OutputError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::ReaderGone } else { Self::Io(error) }
    }
}

/// What a piece of text wants to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it is.
    Plain,
    /// Less important.
    Dim,
    /// A heading.
    Bold,
    /// It went well.
    Good,
    /// It went wrong.
    Bad,
    /// Worth a look.
    Warn,
}

impl Tone {
    /// Select Graphic Rendition parameters of ECMA-48.
    const fn sgr(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Dim => Some("2"),
            Self::Bold => Some("1"),
            Self::Good => Some("32"),
            Self::Bad => Some("31"),
            Self::Warn => Some("33"),
        }
    }

    fn paint(self, text: &str, colours: bool) -> String {
        match self.sgr().filter(|_| colours) {
            Some(sgr) => format!("\u{1b}[{sgr}m{text}\u{1b}[0m"),
            None => text.to_owned(),
        }
    }
}

/// Standard output and standard error. Each line takes the lock for itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    colours_out: bool,
    colours_err: bool,
    /// Whether standard error is a terminal.
    watched: bool,
}

impl Screen {
    /// Colours on terminals, unless `NO_COLOR` is set.
    pub(crate) fn new() -> Self {
        let wanted = vars::read(vars::NO_COLOR.name).is_none();
        Self {
            colours_out: wanted && io::stdout().is_terminal(),
            colours_err: wanted && io::stderr().is_terminal(),
            watched: io::stderr().is_terminal(),
        }
    }

    /// One line or text on standard output, line break added.
    ///
    /// # Errors
    /// [`OutputError`]; a reader that is gone ends a command quietly.
    pub(crate) fn line(self, tone: Tone, text: &str) -> Result<(), OutputError> {
        let mut out = io::stdout().lock();
        Ok(writeln!(out, "{}", tone.paint(text, self.colours_out))?)
    }

    /// Lines on standard output, the first of them a heading.
    ///
    /// # Errors
    /// As [`Self::line`].
    pub(crate) fn table(self, lines: &[String]) -> Result<(), OutputError> {
        for (at, line) in lines.iter().enumerate() {
            self.line(if at == 0 { Tone::Dim } else { Tone::Plain }, line)?;
        }
        Ok(())
    }

    /// A value as one line of JSON on standard output.
    ///
    /// # Errors
    /// As [`Self::line`].
    pub(crate) fn json<T: Serialize + ?Sized>(self, value: &T) -> Result<(), OutputError> {
        let text = serde_json::to_string(value).map_err(io::Error::other)?;
        self.line(Tone::Plain, &text::json(&text))
    }

    /// Something to know on standard error. Nobody can be told when that fails.
    pub(crate) fn note(self, tone: Tone, text: &str) {
        let written = writeln!(io::stderr().lock(), "{}", tone.paint(text, self.colours_err));
        if let Err(error) = written {
            tracing::debug!(%error, "standard error takes nothing");
        }
    }

    /// Whether somebody watches standard error.
    pub(crate) const fn is_watched(self) -> bool {
        self.watched
    }

    /// A line on standard error over which the next one is written: for a terminal that somebody watches.
    pub(crate) fn passing(self, text: &str) {
        let mut err = io::stderr().lock();
        let written = write!(err, "\r\u{1b}[2K{text}").and_then(|()| err.flush());
        if let Err(error) = written {
            tracing::debug!(%error, "standard error takes nothing");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Tone;

    #[test]
    fn colours_come_only_when_wanted_and_always_end() {
        assert_eq!(Tone::Bad.paint("x", false), "x");
        assert_eq!(Tone::Plain.paint("x", true), "x");
        assert_eq!(Tone::Bad.paint("x", true), "\u{1b}[31mx\u{1b}[0m");
    }
}
