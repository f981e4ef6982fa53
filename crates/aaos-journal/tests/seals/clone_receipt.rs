//! An outcome is journalled once.
use aaos_core::effect::Delivery;
use aaos_journal::Receipt;

fn twice(receipt: &Receipt<Delivery>) -> Receipt<Delivery> {
    Receipt::clone(receipt)
}

fn main() {}
