//! Whether an agent that ended is started again, and after how long.
//!
//! Invariants: pure: the random bits of the jitter and the time are arguments. A window of `within` holds no more
//! restarts than `max_restarts`, as long as each is noted when it happens. An agent that was stopped on purpose is
//! never started again.

use std::collections::VecDeque;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ladder::{ClimbReason, Ladder};
use crate::limits::{
    MAX_RESTARTS, RESTART_BACKOFF_CAP_MS, RESTART_BACKOFF_FIRST_MS, RESTART_WINDOW_SECONDS, RESTARTS,
    SPENDING_NOTES,
};
use crate::quantity::{MicroUsd, Millis, Timestamp};

/// After which ends an agent is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// After none.
    Never,
    /// After a failure.
    #[default]
    OnFailure,
    /// After a failure and after a normal end.
    Always,
}

/// `supervision`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Supervision {
    /// After which ends it is started again.
    pub restart: RestartPolicy,
    /// Most restarts in the window.
    pub max_restarts: u32,
    /// The window.
    pub within: Millis,
    /// Once the agent spent this much in the window, it is not started again; no limit of its own where absent.
    pub max_usd: Option<MicroUsd>,
}

impl Default for Supervision {
    fn default() -> Self {
        Self {
            restart: RestartPolicy::default(),
            max_restarts: RESTARTS,
            within: Millis(RESTART_WINDOW_SECONDS * 1000),
            max_usd: None,
        }
    }
}

impl Supervision {
    /// The same with no more restarts, no more money and no shorter a window than another. After which ends there is
    /// a restart stays this one's own: it says what an agent is for, not how much it may do.
    #[must_use]
    pub fn no_looser_than(self, other: &Self) -> Self {
        Self {
            restart: self.restart,
            max_restarts: self.max_restarts.min(other.max_restarts),
            within: self.within.max(other.within),
            max_usd: match (self.max_usd, other.max_usd) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            },
        }
    }
}

/// How an agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Its work was done.
    Normally,
    /// It failed, or what it ran in died.
    Failed,
    /// Somebody stopped it on purpose.
    Stopped,
}

/// The restarts of one agent that still count, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Restarts(VecDeque<Timestamp>);

impl Restarts {
    /// Notes a restart that happens now, and forgets those that no longer count.
    pub fn note(&mut self, supervision: &Supervision, now: Timestamp) {
        self.0.retain(|at| counts(supervision, *at, now));
        self.0.push_back(now);
        while self.0.len() > MAX_RESTARTS as usize {
            self.0.pop_front();
        }
    }

    /// How many restarts there were in the window that ends now. One that lies ahead counts: the clock was set back.
    #[must_use]
    pub fn within(&self, supervision: &Supervision, now: Timestamp) -> u32 {
        let count = self.0.iter().filter(|at| counts(supervision, **at, now)).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

fn counts(supervision: &Supervision, at: Timestamp, now: Timestamp) -> bool {
    now.since(at) < supervision.within
}

/// What one agent spent in the window, in a bounded number of sums, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Spending(VecDeque<(Timestamp, MicroUsd)>);

impl Spending {
    /// Notes a sum that is spent now. Where no limit asks for it nothing is kept; where too much would be, sums count
    /// as spent together, by the time of the later one.
    pub fn note(&mut self, supervision: &Supervision, spent: MicroUsd, now: Timestamp) {
        if supervision.max_usd.is_none() || spent == MicroUsd::ZERO {
            return;
        }
        self.0.retain(|(at, _)| counts(supervision, *at, now));
        let is_full = self.0.len() >= SPENDING_NOTES;
        match self.0.back_mut().filter(|_| is_full) {
            Some((at, sum)) => (*at, *sum) = (now, sum.plus(spent)),
            None => self.0.push_back((now, spent)),
        }
    }

    /// What was spent in the window that ends now.
    #[must_use]
    pub fn within(&self, supervision: &Supervision, now: Timestamp) -> MicroUsd {
        let counted = self.0.iter().filter(|(at, _)| counts(supervision, *at, now));
        counted.fold(MicroUsd::ZERO, |sum, (_, spent)| sum.plus(*spent))
    }
}

/// What is remembered of one agent to supervise it, to choose its model and to fire its schedule: the fold of the journal
/// and the kernel keep the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watch {
    /// Its restarts.
    pub restarts: Restarts,
    /// What it and its descendants spent.
    pub spending: Spending,
    /// Which of its models it asks.
    pub ladder: Ladder,
    /// Until when it takes no message after a restart.
    pub rests_until: Option<Timestamp>,
    /// The due time of its schedule that was fired or given up last.
    pub scheduled: Option<Timestamp>,
}

impl Watch {
    /// It was restarted after a failure, and rests for so long.
    pub fn restarted(&mut self, supervision: &Supervision, now: Timestamp, after: Millis) {
        self.restarts.note(supervision, now);
        self.ladder.note(ClimbReason::Failed);
        self.rests_until = Some(now.after(after));
    }

    /// Its due times until then are settled, and never fire again.
    pub fn settle_schedule(&mut self, until: Timestamp) {
        self.scheduled = Some(self.scheduled.map_or(until, |earlier| earlier.max(until)));
    }
}

/// Why an agent is not started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GiveUp {
    /// It was stopped on purpose.
    Stopped,
    /// Its manifest says never.
    Never,
    /// It ended normally, and its manifest asks for a restart only after a failure.
    Done,
    /// It was restarted too often.
    TooOften {
        /// Restarts in the window.
        restarts: u32,
        /// The window.
        within: Millis,
    },
    /// It spent too much.
    TooDear {
        /// Spent in the window.
        spent: MicroUsd,
        /// How much it may spend before it is no longer restarted.
        most: MicroUsd,
        /// The window.
        within: Millis,
    },
}

impl GiveUp {
    /// Whether the supervision would restart it, had there not been too much of that already: somebody has to look.
    #[must_use]
    pub const fn is_exhausted(&self) -> bool {
        matches!(self, Self::TooOften { .. } | Self::TooDear { .. })
    }
}

impl fmt::Display for GiveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("it was stopped on purpose"),
            Self::Never => f.write_str("its supervision says restart: never"),
            Self::Done => f.write_str("it ended normally"),
            Self::TooOften { restarts, within } => {
                write!(f, "it was restarted {restarts} times within {} s", within.0 / 1000)
            }
            Self::TooDear { spent, most, within } => {
                write!(f, "it spent {spent} of {most} within {} s", within.0 / 1000)
            }
        }
    }
}

/// What to do with an agent that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Start it again.
    Restart {
        /// After this long.
        after: Millis,
    },
    /// Leave it.
    GiveUp {
        /// Why.
        why: GiveUp,
    },
}

/// Decides what follows the end of an agent. `spent` is what it spent in the window that ends now; `random` are 64
/// random bits, and with none of them set the back-off is whole.
#[must_use]
pub fn decide(
    supervision: &Supervision,
    restarts: &Restarts,
    ended: Ended,
    now: Timestamp,
    spent: MicroUsd,
    random: u64,
) -> Next {
    match refusal(supervision, restarts, ended, now, spent) {
        Some(why) => Next::GiveUp { why },
        None => Next::Restart { after: back_off(restarts.within(supervision, now), random) },
    }
}

fn refusal(
    supervision: &Supervision,
    restarts: &Restarts,
    ended: Ended,
    now: Timestamp,
    spent: MicroUsd,
) -> Option<GiveUp> {
    let within = supervision.within;
    match (supervision.restart, ended) {
        (_, Ended::Stopped) => return Some(GiveUp::Stopped),
        (RestartPolicy::Never, _) => return Some(GiveUp::Never),
        (RestartPolicy::OnFailure, Ended::Normally) => return Some(GiveUp::Done),
        (RestartPolicy::OnFailure | RestartPolicy::Always, _) => {}
    }
    let count = restarts.within(supervision, now);
    if count >= supervision.max_restarts {
        return Some(GiveUp::TooOften { restarts: count, within });
    }
    let most = supervision.max_usd.filter(|most| spent >= *most)?;
    Some(GiveUp::TooDear { spent, most, within })
}

/// How long to wait before a restart that follows so many others in the window: twice as long each time, up to a cap,
/// less up to half of it by chance, so that what failed together does not come back together.
#[must_use]
pub fn back_off(earlier: u32, random: u64) -> Millis {
    let doubled =
        1_u64.checked_shl(earlier).map_or(u64::MAX, |times| RESTART_BACKOFF_FIRST_MS.saturating_mul(times));
    let whole = doubled.min(RESTART_BACKOFF_CAP_MS);
    Millis(whole - random % (whole / 2 + 1))
}
