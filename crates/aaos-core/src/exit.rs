//! How a goal or a command ends, as a number (SPEC §6).
//!
//! Invariant: 0 means that what was asked for was done, and nothing else does.

use std::process::ExitCode;

/// Exit codes of `run`, `submit` and every other command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// The goal or the request failed.
    Failed = 1,
    /// Wrong flags, arguments or settings.
    Usage = 2,
    /// A capability was missing.
    Denied = 3,
    /// The budget is used up.
    Budget = 4,
    /// The model provider failed.
    Provider = 5,
    /// Confinement that is required cannot be had.
    Confinement = 6,
    /// agentd itself is at fault (`EX_SOFTWARE` of sysexits.h).
    Internal = 70,
    /// Cancelled by the operator (128 + SIGINT).
    Cancelled = 130,
}

impl Exit {
    /// Every code.
    const ALL: [Self; 9] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::Denied,
        Self::Budget,
        Self::Provider,
        Self::Confinement,
        Self::Internal,
        Self::Cancelled,
    ];

    /// The exit that a recorded number stands for; one that is none means failed.
    #[must_use]
    pub fn of_number(number: u8) -> Self {
        Self::ALL.into_iter().find(|exit| *exit as u8 == number).unwrap_or(Self::Failed)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::Exit;

    #[test]
    fn codes_are_those_of_the_specification() {
        let codes: Vec<u8> = Exit::ALL.into_iter().map(|exit| exit as u8).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 70, 130]);
        for exit in Exit::ALL {
            assert_eq!(Exit::of_number(exit as u8), exit);
        }
        assert_eq!(Exit::of_number(99), Exit::Failed, "an unknown code is no success");
    }
}
