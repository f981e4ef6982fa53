//! No bytes become a permit.
use aaos_core::effect::Delivery;
use aaos_journal::Permit;
use serde::Deserialize as _;

fn revive(json: &str) -> Permit<Delivery> {
    let mut reader = serde_json::Deserializer::from_str(json);
    Permit::<Delivery>::deserialize(&mut reader).expect("bytes")
}

fn main() {}
