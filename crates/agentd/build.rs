//! Tells the program which commit it was built from.
//!
//! Invariant: a build outside a checkout works too; it then says `unknown`.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=../../.git/HEAD");
    println!("cargo:rerun-if-changed=../../.git/logs/HEAD");
    println!("cargo:rustc-env=AAOS_COMMIT={}", commit().unwrap_or_else(|| "unknown".to_owned()));
}

#[expect(clippy::disallowed_methods, reason = "a build script runs no agent")]
fn commit() -> Option<String> {
    let told = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
    let text = String::from_utf8(told.stdout).ok()?;
    let text = text.trim();
    (told.status.success() && !text.is_empty()).then(|| text.to_owned())
}
