//! There is no outcome without a permit.
use aaos_core::effect::{AuthorizedParts, Delivery};
use aaos_core::id::EntryId;
use aaos_journal::{About, Receipt};

fn forge(parts: AuthorizedParts<Delivery>, about: About, intent: EntryId) -> Receipt<Delivery> {
    Receipt { parts, about, intent, outcome: () }
}

fn main() {}
