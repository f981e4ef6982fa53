//! The law, tested from outside: decisions, charges, narrowing, purses, and the fold that survives a restart.

mod approvals;
mod decide;
mod fold;
mod machine;
mod model;
mod narrow;
mod programs;
mod properties;
mod purses;
mod recovered;
mod reopen;
mod steps;
mod support;
mod table;
mod told;
mod tree;
mod words;
