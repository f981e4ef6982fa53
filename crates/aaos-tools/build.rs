//! Links `aaos-worker` statically, at a place that the kernel draws, however it is built.
//!
//! Cargo cannot give one program of a workspace a `target-feature`, so the linker is told here: `-static-pie`, and a
//! folder that it searches first, in which the names of the C library's shared objects lead to its archives. rustc asks
//! for these names when it thinks that it links dynamically; the same archives are linked when it does not.
//!
//! Invariants: it holds for every profile, wherever cargo is started, as it belongs to the package; without the archives
//! the link fails. The test `linked` reads what came out: a folder with a C library that `RUSTFLAGS` give with `-L` would
//! be searched before this one, and what is linked with a shared object in it does not start.

use std::fs;
use std::io::Error;
use std::path::{Path, PathBuf};

/// The program that is to be static.
const PROGRAM: &str = "aaos-worker";
/// What leads to one archive each, by the name that rustc gives the linker.
const PARTS: [&str; 5] = ["util", "rt", "pthread", "m", "dl"];
/// The C library and the compiler's own, which need each other.
const CORE: &str = "GROUP(-l:libc.a -l:libgcc_eh.a -l:libgcc.a)\n";

fn main() -> Result<(), Error> {
    println!("cargo::rerun-if-changed=build.rs");
    // musl is static of itself, and so is what is built with `crt-static`.
    if variable("CARGO_CFG_TARGET_ENV") != "gnu" || has_static_libc() {
        return Ok(());
    }
    let folder = PathBuf::from(variable("OUT_DIR")).join("archives");
    fs::create_dir_all(&folder)?;
    lead_to_archives(&folder)?;
    println!("cargo::rustc-link-arg-bin={PROGRAM}=-static-pie");
    println!("cargo::rustc-link-arg-bin={PROGRAM}=-L{}", folder.display());
    Ok(())
}

/// Linker scripts: a linker reads text where it looks for a library. `libgcc_s` exists as a shared object alone, so what
/// stands for it has the name of an archive, which is found too where only archives are looked for.
fn lead_to_archives(folder: &Path) -> Result<(), Error> {
    for part in PARTS {
        fs::write(folder.join(format!("lib{part}.so")), format!("INPUT(-l:lib{part}.a)\n"))?;
    }
    fs::write(folder.join("libc.so"), CORE)?;
    fs::write(folder.join("libgcc_s.a"), CORE)
}

fn has_static_libc() -> bool {
    variable("CARGO_CFG_TARGET_FEATURE").split(',').any(|feature| feature == "crt-static")
}

#[expect(clippy::disallowed_methods, reason = "cargo tells a build script by variables")]
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}
