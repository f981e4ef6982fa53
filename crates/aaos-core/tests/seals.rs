//! The seals hold: each file in `seals/` tries one way round them and must not compile.

use aaos_core::effect::{Authorized, AuthorizedParts, Spawn};

/// The control: the words that the files in `seals/` misuse do compile as they are meant to be used.
fn journal(authorized: Authorized<Spawn>) -> AuthorizedParts<Spawn> {
    authorized.into_parts()
}

#[test]
fn an_authorisation_cannot_be_forged_copied_reused_or_read_from_text() {
    let _honest: fn(Authorized<Spawn>) -> AuthorizedParts<Spawn> = journal;
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/seals/*.rs");
}
