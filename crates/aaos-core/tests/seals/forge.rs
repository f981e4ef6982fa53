//! An authorisation written out by hand.

use aaos_core::effect::{Authorized, AuthorizedParts, RefundQueue, Spawn};

fn forge(parts: AuthorizedParts<Spawn>) -> Authorized<Spawn> {
    Authorized { inner: Some(parts), refunds: RefundQueue::default() }
}

fn main() {}
