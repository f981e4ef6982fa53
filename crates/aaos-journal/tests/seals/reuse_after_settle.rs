//! Settling uses the permit up.
use aaos_core::effect::Delivery;
use aaos_journal::{Permit, Receipt};

fn twice(permit: Permit<Delivery>) -> [Receipt<Delivery>; 2] {
    [permit.settle(()), permit.settle(())]
}

fn main() {}
