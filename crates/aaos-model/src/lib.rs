//! The local model: computes a GGUF file's model on the processor.
//!
//! Invariants: the file is a stranger's and is parsed in this crate's process only; nothing here opens a path or a
//! socket; a reply is either text or text and calls of offered tools, whose arguments fit the tools' schemas; what a
//! request uses is counted exactly, token by token.

pub mod cache;
pub mod control;
pub mod decoder;
pub mod engine;
pub mod error;
pub mod form;
pub mod gguf;
pub mod grammar;
pub mod matrix;
pub mod prompt;
pub mod reply;
pub mod sampler;
pub mod serve;
pub mod shape;
pub mod tokens;
pub mod weights;
