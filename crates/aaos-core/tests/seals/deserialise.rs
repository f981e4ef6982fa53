//! An authorisation read from text.

use aaos_core::effect::{Authorized, Spawn};

fn read(text: &str) -> Authorized<Spawn> {
    serde_json::from_str(text).unwrap()
}

fn main() {}
