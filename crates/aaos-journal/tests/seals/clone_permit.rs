//! One permit, one effect.
use aaos_core::effect::Delivery;
use aaos_journal::Permit;

fn twice(permit: &Permit<Delivery>) -> Permit<Delivery> {
    Permit::clone(permit)
}

fn main() {}
