//! Black-box tests of the gateway: each role over its channel, and the real binary, locked.

mod bodies;
mod cassettes;
mod common;
mod downloads;
mod egress;
mod harness;
mod kept;
mod locked;
mod metrics;
mod models;
mod names;
mod paces;
mod proxy;
mod spellings;
mod streams;
mod used_calls;
