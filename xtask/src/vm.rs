//! `cargo xtask vm-test`: the tests of confinement on a stock Debian kernel, in a virtual machine.
//!
//! Each user's tests have a machine of their own, and the machines run beside each other.
//!
//! Invariants: what runs was built from this very source, on the kernel that xtask/vm-kernel.toml pins; everything that
//! a machine needs is in its initramfs, so it has neither a disk nor a network; the chore ends with the worst code that
//! tests ended with; a machine that panics, hangs or ends without a word is a failure with the last lines of its console,
//! and so is a program of the plan that ran no test.

mod image;
mod kernel;
mod machine;
mod tally;

use crate::run::{program, read, say, succeed};
use anyhow::{Context, Result, bail, ensure};
use image::Image;
use kernel::Pin;
use machine::{Guest, Machine};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use tally::Tally;

/// Where the built programs lie in the guest, as they lie in a profile's folder here.
const PROFILE: &str = "programs";
/// What the guest's first program does, one test program a line.
const PLAN: &str = "plan";
/// The user without privilege: nobody.
const NOBODY: u32 = 65_534;
/// Asks for the newest kernel, and for it to be pinned.
const RECORD: &str = "--record";

/// Root, and somebody without privilege.
const EVERYBODY: &[u32] = &[0, NOBODY];

/// A machine for each. Root's has room for a program that fills the memory that it may have, and for its control.
static GUESTS: [Guest; 2] =
    [Guest { uid: 0, name: "root", memory: "6144M" }, Guest { uid: NOBODY, name: "nobody", memory: "2048M" }];

/// One program of tests and the users that it runs as.
struct Suite {
    /// Where it lies in a profile's folder.
    place: &'static str,
    args: &'static [&'static str],
    /// What follows them: what this kernel does for this user.
    about: &'static [&'static str],
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

/// A machine that gives no namespaces.
const WITHOUT: &[&str] = &["--without-namespaces"];

const fn suite(place: &'static str, args: &'static [&'static str]) -> Suite {
    Suite { place, args, about: &[], users: EVERYBODY }
}

const fn contest(
    args: &'static [&'static str],
    about: &'static [&'static str],
    users: &'static [u32],
) -> Suite {
    Suite { place: "examples/contest", args, about, users }
}

/// Everything that runs in the guests.
const SUITES: &[Suite] = &[
    suite("examples/group_limits", &[]),
    suite("deps/rpc", &["worker_memory", "program_groups"]),
    contest(&[], CONTEST_ROOT, &[0]),
    contest(&[], CONTEST_NOBODY, &[NOBODY]),
    contest(WITHOUT, CONTEST_ROOT, &[0]),
    contest(WITHOUT, CONTEST_NOBODY, &[NOBODY]),
    suite("deps/confinement", &[]),
    suite("deps/calls", &[]),
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
    kernel: Which,
    /// Test programs; all of them where none is named.
    names: Vec<String>,
    /// Given to each test program.
    test_args: Vec<String>,
}

/// Which kernel is booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Pinned,
    /// Debian's newest, which becomes the pinned one when everything passed.
    Newest,
}

impl Wish {
    fn parse(args: &[String]) -> Result<Self> {
        let mut parts = args.splitn(2, |word| word == "--");
        let mut names = parts.next().unwrap_or_default().to_vec();
        let kernel = if names == [RECORD] { Which::Newest } else { Which::Pinned };
        names.retain(|name| kernel == Which::Pinned || name != RECORD);
        let test_args = parts.next().unwrap_or_default().to_vec();
        ensure!(
            kernel == Which::Pinned || test_args.is_empty(),
            "{RECORD} runs everything: it takes no arguments for the tests"
        );
        let mut known: Vec<&str> = SUITES.iter().map(Suite::name).collect();
        known.dedup();
        if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
            bail!("there is no test program {name:?}; there are {}", known.join(", "));
        }
        ensure!(
            !test_args.iter().any(|arg| arg.contains(['\t', '\n'])),
            "no argument may hold a tab or a new line"
        );
        Ok(Self { kernel, names, test_args })
    }

    /// How many programs of the plan are this user's.
    fn lines(&self, uid: u32) -> usize {
        self.suites().map(|suite| suite.users.iter().filter(|user| **user == uid).count()).sum()
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
    let (kernel, pin) = match wish.kernel {
        Which::Pinned => (kernel::pinned(&folder, &Pin::read(root)?)?, None),
        Which::Newest => kernel::newest(&folder).map(|(kernel, pin)| (kernel, Some(pin)))?,
    };
    let initramfs = folder.join("initramfs");
    pack(&products, &wish)?.write(&initramfs)?;
    machine::need_emulator()?;
    say(&format!("vm-test: {} with {}", kernel.release, initramfs.display()));
    let nonce = machine::fresh_nonce()?;
    let machine = |guest| Machine { kernel: &kernel.image, initramfs: &initramfs, nonce: &nonce, guest };
    run_beside_each_other(&wish, machine)?;
    pin.map_or(Ok(()), |pin| pin.record(root))
}

/// Boots a machine for each user whose tests are wanted, and waits for all of them.
fn run_beside_each_other<'a>(wish: &Wish, machine: impl Fn(&'static Guest) -> Machine<'a>) -> Result<()> {
    let guests = GUESTS.iter().map(|guest| (guest, wish.lines(guest.uid)));
    let wanted: Vec<_> = guests.filter(|(_, lines)| *lines > 0).collect();
    let ends: Vec<Result<(u8, usize)>> = std::thread::scope(|scope| {
        let start = |(guest, lines): (&'static Guest, usize)| {
            let machine = machine(guest);
            scope.spawn(move || {
                let mut tally = Tally::default();
                match machine.run(&mut tally)? {
                    0 => tally.check(lines).map(|()| (0, tally.passed())),
                    code => Ok((code, tally.passed())),
                }
            })
        };
        let running: Vec<_> = wanted.into_iter().map(start).collect();
        let ended = |one: std::thread::ScopedJoinHandle<'_, Result<(u8, usize)>>| {
            one.join().unwrap_or_else(|_| bail!("whoever watched a virtual machine panicked"))
        };
        running.into_iter().map(ended).collect()
    });
    let ends = ends.into_iter().collect::<Result<Vec<_>>>()?;
    say(&format!("vm-test: {} tests and cases passed", ends.iter().map(|(_, passed)| passed).sum::<usize>()));
    match ends.iter().map(|(code, _)| *code).max().unwrap_or(0) {
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
    let own = suite.args.iter().chain(suite.about).copied();
    let args = own.chain(more.iter().map(String::as_str));
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
        assert_eq!([wish.lines(0), wish.lines(NOBODY), wish.lines(1)], [1, 1, 0]);
        assert!(parse(&["call"]).unwrap_err().to_string().contains("calls"));
        assert!(parse(&["--", "a\tb"]).is_err());
    }

    #[test]
    fn the_pin_moves_only_with_everything_run_on_the_newest_kernel() {
        assert_eq!(parse(&[]).unwrap().kernel, Which::Pinned);
        let wish = parse(&[RECORD]).unwrap();
        assert_eq!((wish.kernel, wish.suites().count()), (Which::Newest, SUITES.len()));
        for part in [&[RECORD, "calls"][..], &["calls", RECORD], &[RECORD, "--", "a_name"]] {
            assert!(parse(part).is_err(), "{part:?}");
        }
    }

    #[test]
    fn every_user_of_a_suite_has_a_machine_and_every_argument_is_handed_on() {
        let all = parse(&[]).unwrap();
        let planned: usize = GUESTS.iter().map(|guest| all.lines(guest.uid)).sum();
        let plan: String = all.suites().map(|suite| lines_of(suite, &[])).collect();
        assert_eq!(plan.lines().count(), planned);
        for guest in &GUESTS {
            let starts = format!("{}\t/programs/examples/contest", guest.uid);
            let without = format!("{starts}\t--without-namespaces\t--impossible\tvsock=EAFNOSUPPORT");
            assert_eq!(plan.lines().filter(|line| line.starts_with(&starts)).count(), 2, "{plan}");
            assert_eq!(plan.lines().filter(|line| line.starts_with(&without)).count(), 1, "{plan}");
        }
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
