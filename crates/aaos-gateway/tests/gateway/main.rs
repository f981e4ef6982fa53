//! Black-box tests of the gateway: each role over its channel, and the real binary, locked.

mod common;
mod egress;
mod locked;
mod models;
