//! A permit cannot be put together from its parts.
use aaos_core::effect::{AuthorizedParts, Delivery};
use aaos_core::id::EntryId;
use aaos_journal::{About, Permit};

fn forge(parts: AuthorizedParts<Delivery>, about: About, intent: EntryId) -> Permit<Delivery> {
    Permit { parts, about, intent, resumed: false }
}

fn main() {}
