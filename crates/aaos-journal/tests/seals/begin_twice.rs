//! One authorisation, one permit.
use aaos_core::effect::{Authorized, Delivery};
use aaos_journal::{About, Journal};

async fn twice(journal: &Journal, authorized: Authorized<Delivery>, about: About) {
    drop(journal.begin(authorized, about).await);
    drop(journal.begin(authorized, about).await);
}

fn main() {}
