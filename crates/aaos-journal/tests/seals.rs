//! Nobody outside this crate can make, copy, revive or reuse a permit or a receipt.

/// Each program fails to compile for the one reason that its `.stderr` file shows; all else in it is right.
#[test]
fn the_seals_hold_at_compile_time() {
    trybuild::TestCases::new().compile_fail("tests/seals/*.rs");
}
