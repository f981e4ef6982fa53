//! Placeholder: the owner of this module fills it.
