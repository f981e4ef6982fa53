//! An authorisation copied, to be used twice.

use aaos_core::effect::{Authorized, Spawn};

fn copy(authorized: &Authorized<Spawn>) -> Authorized<Spawn> {
    Authorized::<Spawn>::clone(authorized)
}

fn main() {}
