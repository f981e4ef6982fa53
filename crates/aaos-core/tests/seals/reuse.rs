//! An authorisation used after the journal took it.

use aaos_core::effect::{Authorized, AuthorizedParts, Spawn};

fn twice(authorized: Authorized<Spawn>) -> (AuthorizedParts<Spawn>, AuthorizedParts<Spawn>) {
    (authorized.into_parts(), authorized.into_parts())
}

fn main() {}
