//! Why a proxied connection is not made, as the program is told.
//!
//! Invariant: what is told is one short line of plain text; a program learns of no address that its host leads to but
//! the one that was refused.

use aaos_core::toolio::{ToolFailure, ToolFailureKind};

use crate::words::harmless;

/// Why, and with which status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The request is not one.
    BadRequest(String),
    /// It may not be.
    Denied(String),
    /// A body whose length is not said beforehand.
    LengthRequired,
    /// The head is too long, or has too many lines.
    TooLarge,
    /// The host cannot be reached.
    Unreachable(String),
    /// The head took too long.
    Slow,
}

impl From<ToolFailure> for Refusal {
    /// Of a target that cannot be read.
    fn from(failure: ToolFailure) -> Self {
        Self::BadRequest(failure.message)
    }
}

impl Refusal {
    /// The status of its answer.
    pub(super) const fn status(&self) -> u16 {
        match self {
            Self::BadRequest(_) => 400,
            Self::Denied(_) => 403,
            Self::Slow => 408,
            Self::LengthRequired => 411,
            Self::TooLarge => 431,
            Self::Unreachable(_) => 502,
        }
    }

    const fn reason(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "Bad Request",
            Self::Denied(_) => "Forbidden",
            Self::Slow => "Request Timeout",
            Self::LengthRequired => "Length Required",
            Self::TooLarge => "Request Header Fields Too Large",
            Self::Unreachable(_) => "Bad Gateway",
        }
    }

    fn words(&self) -> String {
        match self {
            Self::BadRequest(why) | Self::Denied(why) | Self::Unreachable(why) => harmless(why, None),
            Self::LengthRequired => "a request through this proxy says the length of its body".to_owned(),
            Self::TooLarge => "the head of the request is too large".to_owned(),
            Self::Slow => "the head of the request took too long".to_owned(),
        }
    }

    /// The whole answer.
    pub(super) fn answer(&self) -> Vec<u8> {
        let (status, reason, words) = (self.status(), self.reason(), self.words());
        let length = words.len() + 1;
        format!(
            "HTTP/1.1 {status} {reason}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {length}\r\n\
            connection: close\r\n\r\n{words}\n"
        )
        .into_bytes()
    }

    /// The same for agentd.
    pub(super) fn failure(&self) -> ToolFailure {
        let kind = match self {
            Self::BadRequest(_) | Self::LengthRequired | Self::TooLarge => ToolFailureKind::InvalidArguments,
            Self::Denied(_) => ToolFailureKind::Denied,
            Self::Unreachable(_) => ToolFailureKind::Network,
            Self::Slow => ToolFailureKind::Timeout,
        };
        ToolFailure::new(kind, self.words())
    }
}
