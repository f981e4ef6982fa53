//! An authorisation minted without the authority.

use aaos_core::effect::{Authorized, AuthorizedParts, RefundQueue, Spawn};

fn mint(parts: AuthorizedParts<Spawn>) -> Authorized<Spawn> {
    Authorized::mint(parts, RefundQueue::default())
}

fn main() {}
