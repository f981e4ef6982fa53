//! The kernel of the virtual machine: Debian's own, as it is shipped for clouds, in the version that a file here pins.
//!
//! Invariants: packages come from Debian's archive and are checked against its keys, without touching what apt knows of
//! this machine; what is booted has the pinned hash, and nothing else is booted in its place; a kernel that was unpacked
//! once is used again, so only the first run after a new pin needs a network.

use crate::run::{program, read, say, succeed, works};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The release of Debian whose kernel is taken: the first one that has Landlock's ABI 4, which the policy requires. Its
/// security archive keeps each version for months after the next one.
const SOURCES: &str = "\
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian-security trixie-security main
";
/// The package that always names the newest kernel of that release.
const NEWEST: &str = "linux-image-cloud-amd64";
/// How the package of a kernel begins.
const KERNEL_PACKAGE: &str = "linux-image-";
/// Where the pin is written down, in the checkout.
const PIN: &str = "xtask/vm-kernel.toml";
/// What stands above it there.
const PIN_HEAD: &str = "\
# The kernel that `cargo xtask vm-test` boots: a package of Debian, its version, and the SHA-256 of its file.
# `cargo xtask vm-test --record` runs the tests on Debian's newest one and writes this file when they passed.
";

/// Which kernel is booted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pin {
    package: String,
    version: String,
    sha256: String,
}

/// A kernel that can be booted.
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    pub(super) release: String,
}

impl Pin {
    /// The one of this checkout.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let path = root.join(PIN);
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("read {}", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let pin: Self = toml::from_str(text)?;
        ensure!(pin.package.starts_with(KERNEL_PACKAGE), "{:?} is no kernel's package", pin.package);
        ensure!(is_hash(&pin.sha256), "{:?} is no SHA-256 in lower-case hexadecimal digits", pin.sha256);
        Ok(pin)
    }

    /// Writes it into the checkout.
    pub(super) fn record(&self, root: &Path) -> Result<()> {
        let path = root.join(PIN);
        std::fs::write(&path, self.text()).with_context(|| format!("write {}", path.display()))?;
        say(&format!("vm-test: {PIN} names {} {} now", self.package, self.version));
        Ok(())
    }

    fn text(&self) -> String {
        let Self { package, version, sha256 } = self;
        format!("{PIN_HEAD}package = {package:?}\nversion = {version:?}\nsha256 = {sha256:?}\n")
    }

    /// Where it is kept, unpacked. The folder gets this name when it is whole.
    fn folder(&self, kept: &Path) -> PathBuf {
        kept.join(format!("kernel-{}", self.sha256))
    }
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The pinned kernel, fetched into `kept` if it is not there yet.
pub(super) fn pinned(kept: &Path, pin: &Pin) -> Result<Kernel> {
    let unpacked = pin.folder(kept);
    if !unpacked.is_dir() {
        let apt = Apt::updated(kept)?;
        let file = download(&apt, kept, &pin.package, &pin.version)?;
        let found = sha256(&file)?;
        let Pin { package, version, sha256 } = pin;
        ensure!(
            found == *sha256,
            "{package} {version} has the SHA-256 {found}, and {PIN} says {sha256}: another file stands under this \
             name in Debian's archive, which does not happen by itself; find out why before you change the pin"
        );
        unpack(&file, kept, &unpacked)?;
    }
    bootable(&unpacked)
}

/// The newest kernel of Debian, fetched, and what pins it.
pub(super) fn newest(kept: &Path) -> Result<(Kernel, Pin)> {
    let apt = Apt::updated(kept)?;
    let package = package_named(&read(apt.command("apt-cache", ["depends", NEWEST]))?)?;
    let version = version_of(&read(apt.command("apt-cache", ["--no-all-versions", "show", &package]))?)?;
    let file = download(&apt, kept, &package, &version)?;
    let pin = Pin { sha256: sha256(&file)?, package, version };
    let unpacked = pin.folder(kept);
    if !unpacked.is_dir() {
        unpack(&file, kept, &unpacked)?;
    }
    Ok((bootable(&unpacked)?, pin))
}

fn bootable(unpacked: &Path) -> Result<Kernel> {
    let boot = unpacked.join("boot");
    let listing = std::fs::read_dir(&boot).with_context(|| format!("list {}", boot.display()))?;
    for entry in listing {
        let path = entry.with_context(|| format!("list {}", boot.display()))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(release) = name.strip_prefix("vmlinuz-") {
            return Ok(Kernel { release: release.to_owned(), image: path.clone() });
        }
    }
    bail!("no kernel lies in {}; remove {} to fetch one", boot.display(), unpacked.display())
}

/// Fetches one version of a package, which apt checks against the archive's keys.
fn download(apt: &Apt, kept: &Path, package: &str, version: &str) -> Result<PathBuf> {
    let wanted = format!("{package}={version}");
    ensure!(
        works(apt.command("apt-cache", ["show", &wanted])),
        "Debian's archive does not have {package} {version} any more; run `cargo xtask vm-test --record`, which \
         runs the tests on the newest kernel and, when they pass, writes it into {PIN}; commit that file"
    );
    say(&format!("vm-test: fetching {package} {version}"));
    let packages = kept.join("packages");
    fresh(&packages)?;
    let mut download = apt.command("apt-get", ["-q", "download", &wanted]);
    download.current_dir(&packages);
    succeed(download)?;
    let mut fetched = std::fs::read_dir(&packages).with_context(|| format!("list {}", packages.display()))?;
    Ok(fetched.next().context("apt-get fetched nothing")?.context("list what was fetched")?.path())
}

fn sha256(file: &Path) -> Result<String> {
    let said = read(program("sha256sum", [Path::new("--binary"), file], Path::new("/")))?;
    let hash = said.split_whitespace().next().unwrap_or_default();
    ensure!(is_hash(hash), "sha256sum said {said:?} of {}", file.display());
    Ok(hash.to_owned())
}

fn unpack(file: &Path, kept: &Path, unpacked: &Path) -> Result<()> {
    let half = kept.join("kernel.half");
    fresh(&half)?;
    succeed(program("dpkg-deb", [Path::new("-x"), file, &half], kept))?;
    std::fs::rename(&half, unpacked).with_context(|| format!("make {}", unpacked.display()))
}

/// The kernel's own package, from what `apt-cache depends` says of the one that names the newest.
fn package_named(depends: &str) -> Result<String> {
    let mut words = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let package = words.find(|name| name.starts_with(KERNEL_PACKAGE));
    package.map(str::to_owned).with_context(|| format!("{NEWEST} names no kernel: {depends}"))
}

/// The version, from what `apt-cache show` says of one package.
fn version_of(shown: &str) -> Result<String> {
    let version = shown.lines().find_map(|line| line.strip_prefix("Version: "));
    version.map(|version| version.trim().to_owned()).context("apt-cache names no version")
}

/// Makes an empty directory.
fn fresh(path: &Path) -> Result<()> {
    if path.exists() {
        std::fs::remove_dir_all(path).with_context(|| format!("empty {}", path.display()))?;
    }
    std::fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))
}

/// Apt with lists and a source of its own.
struct Apt {
    folder: PathBuf,
    options: Vec<OsString>,
}

impl Apt {
    /// With fresh lists: a list that cannot be had is a failure, not an archive without packages.
    fn updated(kept: &Path) -> Result<Self> {
        let apt = Self::new(kept)?;
        succeed(apt.command("apt-get", ["-q", "update"]))
            .context("the kernel's package lists could not be fetched; is there a network?")?;
        Ok(apt)
    }

    fn new(folder: &Path) -> Result<Self> {
        let home = folder.join("apt");
        fresh(&home)?;
        for place in ["lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(home.join(place)).context("make apt's folders")?;
        }
        let put = |name: &str, text: &str| -> Result<PathBuf> {
            let path = home.join(name);
            std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            Ok(path)
        };
        let source = put("sources.list", SOURCES)?;
        let status = put("status", "")?;
        let mut options = Vec::new();
        for (name, value) in [
            ("Dir::Etc::SourceList", source.as_path()),
            ("Dir::Etc::SourceParts", Path::new("/dev/null")),
            ("Dir::State", &home),
            ("Dir::State::Lists", &home.join("lists")),
            ("Dir::State::Status", &status),
            ("Dir::Cache", &home.join("cache")),
            ("APT::Architecture", Path::new("amd64")),
            // As root apt would fetch as another user, to whom this folder may be closed.
            ("APT::Sandbox::User", Path::new("root")),
            ("Acquire::Languages", Path::new("none")),
            ("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", Path::new("false")),
            ("Acquire::Retries", Path::new("3")),
            ("APT::Update::Error-Mode", Path::new("any")),
        ] {
            let mut option = OsString::from(format!("{name}="));
            option.push(value);
            options.extend(["-o".into(), option]);
        }
        Ok(Self { folder: home, options })
    }

    fn command<'a>(&self, name: &str, words: impl IntoIterator<Item = &'a str>) -> std::process::Command {
        let mut command = program(name, &self.options, &self.folder);
        command.args(words);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::{Pin, package_named, version_of};

    #[test]
    fn the_newest_kernel_is_named_by_what_depends_on_it() {
        let said =
            "linux-image-cloud-amd64\n  Depends: linux-image-6.12.57+deb13-cloud-amd64\n  Conflicts: x\n";
        assert_eq!(package_named(said).unwrap(), "linux-image-6.12.57+deb13-cloud-amd64");
        assert!(package_named("linux-image-cloud-amd64\n  Suggests: linux-image-x\n").is_err());
        let shown = "Package: linux-image-x\nSource: y (6.12)\nVersion: 6.12.57-1\nInstalled-Size: 9\n";
        assert_eq!(version_of(shown).unwrap(), "6.12.57-1");
        assert!(version_of("Package: x\n").is_err());
    }

    #[test]
    fn a_pin_is_read_as_it_is_written_and_one_that_pins_nothing_is_refused() {
        let pin = Pin {
            package: "linux-image-6.12.57+deb13-cloud-amd64".to_owned(),
            version: "6.12.57-1".to_owned(),
            sha256: "0123456789abcdef".repeat(4),
        };
        assert_eq!(Pin::parse(&pin.text()).unwrap(), pin);
        for (from, to) in
            [("linux-image", "linux-headers"), ("0123", "123"), ("cdef", "CDEF"), ("version", "release")]
        {
            assert!(Pin::parse(&pin.text().replace(from, to)).is_err(), "{to}");
        }
    }

    #[test]
    fn this_checkout_has_a_pin() {
        let text = include_str!("../../vm-kernel.toml");
        let pin = Pin::parse(text).unwrap();
        assert_eq!(pin.text(), text, "as --record writes it");
    }
}
