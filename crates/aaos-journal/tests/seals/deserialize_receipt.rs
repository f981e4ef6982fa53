//! No bytes become a receipt.
use aaos_core::effect::Delivery;
use aaos_journal::Receipt;
use serde::Deserialize as _;

fn revive(json: &str) -> Receipt<Delivery> {
    let mut reader = serde_json::Deserializer::from_str(json);
    Receipt::<Delivery>::deserialize(&mut reader).expect("bytes")
}

fn main() {}
