//! Reading without understanding: documents, sentences, and what word statistics say about them.
//!
//! Invariant: everything here is deterministic and quotes; nothing is invented.

pub(super) mod compare;
pub(super) mod document;
pub(super) mod extract;
pub(super) mod rank;
mod sentences;
mod words;
