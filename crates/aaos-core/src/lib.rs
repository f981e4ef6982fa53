//! Words and law of aaOS: the nouns every other room speaks, and the one authority that decides.
//!
//! Invariants: this crate is pure. It reads no clock, no environment, no file and no randomness, and it
//! is not async. Time, ids and random bits arrive as arguments. `Authorized<E>` can be minted only by
//! [`authority::Authority`].

pub mod approval;
pub mod authority;
pub mod budget;
pub mod capability;
pub mod cargo;
pub mod cassette;
pub mod confinement;
pub mod connection;
pub mod effect;
pub mod event;
pub mod exit;
pub mod git;
pub mod grant;
pub mod id;
pub mod known;
pub mod ladder;
pub mod limits;
pub mod lint;
pub mod manifest;
pub mod model;
pub mod name;
pub mod observe;
pub mod path;
pub mod price;
pub mod program;
pub mod quantity;
pub mod route;
pub mod schedule;
pub mod services;
pub mod span;
pub mod special;
pub mod state;
pub mod supervision;
pub mod tool;
pub mod toolio;
pub mod variables;
pub mod wire;
pub mod world;
