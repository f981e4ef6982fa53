//! The minting function is the journal's own.
use aaos_core::effect::{AuthorizedParts, Delivery};
use aaos_core::id::EntryId;
use aaos_journal::{About, Permit};

fn mint(parts: AuthorizedParts<Delivery>, about: About, intent: EntryId) -> Permit<Delivery> {
    Permit::mint(parts, about, intent)
}

fn main() {}
