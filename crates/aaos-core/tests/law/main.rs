//! The law, tested from outside: decisions, charges, narrowing, purses, and the fold that survives a restart.

mod decide;
mod fold;
mod narrow;
mod support;
mod table;
mod tree;
