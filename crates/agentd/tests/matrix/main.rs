//! The crash matrix: one scripted goal, stopped at every entry of its journal and at every wait for the disk.
//!
//! Invariants: each stopped run is compared with one that nobody stopped: the same files, the same journal but for ids,
//! times and what recovery adds, the same model requests plus one for each that was in flight, nobody asked twice.

mod compare;
mod killer;
mod operator;
mod points;
mod scenario;
