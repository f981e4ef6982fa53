//! The planner from a goal's first words to its final text, against a small kernel in memory.

mod kernel;
mod manifests;
mod phrasing;
mod shapes;
