//! The one durable record: intent before, outcome after, replay at start. Sole minter of permits.
//!
//! Invariants: one writer thread owns the database and its lock; an entry is acknowledged only after its
//! commit is on the disk; sequence numbers have no gaps; every entry is chained to the one before by a hash
//! that covers its header and stands for its body, so that bodies that the state does not rest on can
//! be erased and headers cannot be changed; a journal that failed one commit acknowledges nothing more. This crate has no clock.
//!
//! What it promises holds against `kill -9` at any instant. Heads are signed on the way with a key that lies in a
//! file. Cutting off the chain's tail together with its signed heads is detected only by comparing with a [`Head`]
//! that was seen elsewhere ([`Journal::verify_against`], [`verify_file`]).

mod audit;
mod chain;
mod check;
mod error;
mod export;
mod fold;
mod hex;
mod journal;
mod permit;
mod printed;
mod read;
mod resume;
mod retain;
mod sign;
mod signed;
mod store;
#[cfg(test)]
mod tests;
mod writer;

pub use chain::{Broken, Expected, Hash, HashError, Head, HeadCheck, HeadError, Problem, VerifyReport};
pub use error::JournalError;
pub use export::{FileReport, verify_file};
pub use journal::{Journal, JournalConfig, JournalStats};
pub use permit::{About, Finished, Permit, Receipt};
pub use read::{Filter, JournalFile};
pub use resume::may_go_on;
pub use retain::{Held, Holder, Pruned};
pub use sign::{HeadKey, HeadSignature, HexError, KeyProblem, SignedHead};
