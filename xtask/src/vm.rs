//! `cargo xtask vm-test`: the tests of confinement on a stock Debian kernel, in a virtual machine.
//!
//! Invariants: what runs was built from this very source; everything that the machine needs is in its initramfs, so it
//! has neither a disk nor a network; the chore ends with the code that the tests ended with, and a machine that panics,
//! hangs or ends without a word is a failure with the last lines of its console.

mod image;
mod kernel;
mod machine;

use crate::run::{program, read, say, succeed};
use anyhow::{Context, Result, bail, ensure};
use image::Image;
use machine::Machine;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Where the built programs lie in the guest, as they lie in a profile's folder here.
const PROFILE: &str = "programs";
/// What the guest's first program does, one test program a line.
const PLAN: &str = "plan";
/// The user without privilege: nobody.
const NOBODY: u32 = 65_534;

/// Root, and somebody without privilege.
const EVERYBODY: &[u32] = &[0, NOBODY];

/// One program of tests and the users that it runs as.
struct Suite {
    /// Where it lies in a profile's folder.
    place: &'static str,
    args: &'static [&'static str],
    users: &'static [u32],
}

impl Suite {
    fn name(&self) -> &'static str {
        self.place.rsplit_once('/').map_or(self.place, |(_, name)| name)
    }
}

/// What this kernel does and the table of the contest's own machine does not say: it has ports and modules, no vsock.
const CONTEST_ROOT: &[&str] =
    &["--impossible", "vsock=EAFNOSUPPORT", "--possible", "hardware ports", "--possible", "load a module"];
/// The same for somebody without privilege.
const CONTEST_NOBODY: &[&str] = &[
    "--impossible",
    "vsock=EAFNOSUPPORT",
    "--impossible",
    "perf_event_open=EACCES",
    "--impossible",
    "hardware ports=EPERM",
    "--impossible",
    "load a module=EPERM",
    "--impossible",
    "type into a terminal=EIO",
];

/// Everything that runs in the guest.
const SUITES: &[Suite] = &[
    Suite { place: "examples/group_limits", args: &[], users: EVERYBODY },
    Suite { place: "deps/rpc", args: &["worker_memory"], users: EVERYBODY },
    Suite { place: "examples/contest", args: CONTEST_ROOT, users: &[0] },
    Suite { place: "examples/contest", args: CONTEST_NOBODY, users: &[NOBODY] },
    Suite { place: "deps/confinement", args: &[], users: EVERYBODY },
    Suite { place: "deps/calls", args: &[], users: EVERYBODY },
];

/// What this machine has and the tests use. `ldd` says which libraries come with them.
const HOST_PROGRAMS: &[&str] = &[
    "/bin/sh",
    "/bin/cat",
    "/bin/sleep",
    "/bin/true",
    "/usr/bin/head",
    "/usr/bin/tail",
    "/usr/bin/wc",
    "/usr/bin/unshare",
];

/// The tests ended, and not well.
#[derive(Debug, thiserror::Error)]
#[error("the tests in the virtual machine ended with code {0}")]
pub(crate) struct GuestFailed(pub(crate) u8);

/// What one run does.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wish {
    /// Test programs; all of them where none is named.
    names: Vec<String>,
    /// Given to each test program.
    test_args: Vec<String>,
}

impl Wish {
    fn parse(args: &[String]) -> Result<Self> {
        let mut parts = args.splitn(2, |word| word == "--");
        let names = parts.next().unwrap_or_default().to_vec();
        let test_args = parts.next().unwrap_or_default().to_vec();
        let known: Vec<&str> = SUITES.iter().map(Suite::name).collect();
        if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
            bail!("there is no test program {name:?}; there are {}", known.join(", "));
        }
        ensure!(
            !test_args.iter().any(|arg| arg.contains(['\t', '\n'])),
            "no argument may hold a tab or a new line"
        );
        Ok(Self { names, test_args })
    }

    fn suites(&self) -> impl Iterator<Item = &'static Suite> {
        let wants =
            |suite: &&Suite| self.names.is_empty() || self.names.iter().any(|name| name == suite.name());
        SUITES.iter().filter(wants)
    }
}

/// What Cargo says of something that it built.
#[derive(Debug, Deserialize)]
struct Built {
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// A program for the guest and its place in the guest's profile folder.
struct Product {
    built: PathBuf,
    place: String,
}

pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let wish = Wish::parse(args)?;
    let products = build(root)?;
    let folder = kept_folder(&products)?;
    let kernel = kernel::stock(&folder)?;
    let nonce = machine::fresh_nonce()?;
    let initramfs = folder.join("initramfs");
    pack(&products, &wish)?.write(&initramfs)?;
    say(&format!("vm-test: {} with {}", kernel.release, initramfs.display()));
    match (Machine { kernel: &kernel.image, initramfs: &initramfs, nonce: &nonce }).run()? {
        0 => Ok(()),
        code => Err(GuestFailed(code).into()),
    }
}

/// Builds everything that goes into the guest, with what the tests expect beside them.
fn build(root: &Path) -> Result<Vec<Product>> {
    let mut bins = program("cargo", ["build", "--quiet", "--bins"], root);
    bins.args(["-p", "agentd", "-p", "aaos-tools", "-p", "aaos-gateway", "--message-format=json"]);
    let mut said = read(bins)?;
    let mut tests = program("cargo", ["build", "--quiet", "--examples", "--message-format=json"], root);
    tests.args(["-p", "aaos-sandbox", "-p", "agentd", "-p", "xtask"]);
    for name in SUITES.iter().filter_map(|suite| suite.place.strip_prefix("deps/")) {
        tests.args(["--test", name]);
    }
    said.push_str(&read(tests)?);
    let built = said.lines().filter_map(|line| serde_json::from_str::<Built>(line).ok());
    let products: Vec<Product> = built.filter_map(product).collect();
    for suite in SUITES {
        let is_built = products.iter().any(|product| product.place == suite.place);
        ensure!(is_built, "cargo built no {}", suite.place);
    }
    Ok(products)
}

fn product(built: Built) -> Option<Product> {
    let (path, target) = (built.executable?, built.target?);
    let place = match target.kind.first()?.as_str() {
        "bin" if is_test(&path) => return None,
        "bin" => target.name,
        "example" => format!("examples/{}", target.name),
        "test" => format!("deps/{}", target.name),
        _ => return None,
    };
    Some(Product { built: path, place })
}

/// Whether Cargo built the unit tests of a program, which it calls by the program's own name.
fn is_test(path: &Path) -> bool {
    path.parent().is_some_and(|folder| folder.ends_with("deps"))
}

/// Where downloads and the image are kept: beside the profile's folder, so that a clean build keeps none of them.
fn kept_folder(products: &[Product]) -> Result<PathBuf> {
    let agentd =
        products.iter().find(|product| product.place == "agentd").context("cargo built no agentd")?;
    let target =
        agentd.built.parent().and_then(Path::parent).context("a program lies in a profile's folder")?;
    let folder = target.join("vm");
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    Ok(folder)
}

fn pack(products: &[Product], wish: &Wish) -> Result<Image> {
    let mut image = Image::default();
    for product in products {
        let path = if product.place == "examples/guest" {
            "init".to_owned()
        } else {
            format!("{PROFILE}/{}", product.place)
        };
        image.add_program(&product.built, &path)?;
    }
    for host in HOST_PROGRAMS {
        image.add_program(Path::new(host), host.trim_start_matches('/'))?;
    }
    image.add_file("etc/passwd", b"root:x:0:0:root:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/bin/sh\n");
    image.add_file("etc/group", b"root:x:0:\nnogroup:x:65534:\n");
    image.add_file("etc/hostname", b"guest\n");
    image.add_file("etc/hosts", b"127.0.0.1 localhost\n");
    for folder in ["proc", "sys", "dev", "tmp"] {
        image.add_folder(folder);
    }
    let plan: String = wish.suites().map(|suite| lines_of(suite, &wish.test_args)).collect();
    image.add_file(PLAN, plan.as_bytes());
    Ok(image)
}

fn lines_of(suite: &Suite, test_args: &[String]) -> String {
    // Only what the test runner starts takes its arguments.
    let more = if suite.place.starts_with("deps/") { test_args } else { &[] };
    let args = suite.args.iter().copied().chain(more.iter().map(String::as_str));
    let args: String = args.map(|arg| format!("\t{arg}")).collect();
    let line = |user: &u32| format!("{user}\t/{PROFILE}/{}{args}\n", suite.place);
    suite.users.iter().map(line).collect()
}

/// Installs what `program` needs with apt, as root or through sudo.
fn install(package: &str) -> Result<()> {
    let here = Path::new("/");
    let is_root = read(program("id", ["-u"], here))?.trim() == "0";
    let words = ["apt-get", "install", "-yq", "--no-install-recommends", package];
    let update = ["apt-get", "update", "-q"];
    for words in [&update[..], &words[..]] {
        let command = match (is_root, words) {
            (true, [name, rest @ ..]) => program(name, rest, here),
            (_, words) => program("sudo", ["-n"].iter().chain(words), here),
        };
        succeed(command).with_context(|| format!("{package} is missing and could not be installed"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Wish> {
        Wish::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn programs_are_named_and_what_follows_two_dashes_is_theirs() {
        let all = parse(&[]).unwrap();
        assert_eq!(all.suites().count(), SUITES.len());
        let wish = parse(&["calls", "--", "--nocapture", "a_name"]).unwrap();
        let plan: String = wish.suites().map(|suite| lines_of(suite, &wish.test_args)).collect();
        assert_eq!(
            plan,
            "0\t/programs/deps/calls\t--nocapture\ta_name\n65534\t/programs/deps/calls\t--nocapture\ta_name\n"
        );
        assert!(parse(&["call"]).unwrap_err().to_string().contains("calls"));
        assert!(parse(&["--", "a\tb"]).is_err());
    }

    #[test]
    fn each_product_has_the_place_where_tests_look_for_it() {
        let place = |line: &str| product(serde_json::from_str(line).unwrap()).map(|product| product.place);
        let of = |path: &str, kind: &str| {
            place(&format!(r#"{{"executable":"/t/{path}","target":{{"name":"one","kind":["{kind}"]}}}}"#))
        };
        assert_eq!(of("debug/one", "bin").unwrap(), "one");
        assert_eq!(of("debug/deps/one-1", "bin"), None);
        assert_eq!(of("debug/examples/one", "example").unwrap(), "examples/one");
        assert_eq!(of("debug/deps/one-1", "test").unwrap(), "deps/one");
        assert_eq!(place(r#"{"executable":null,"target":{"name":"one","kind":["lib"]}}"#), None);
        assert_eq!(place(r#"{"reason":"build-finished"}"#), None);
    }
}
