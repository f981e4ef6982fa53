//! Replay: what the journal holds folds to the state that grew beside it.
