//! The kernel of the virtual machine: Debian's own, as it is shipped for clouds.
//!
//! Invariants: packages come from Debian's archive and are checked against its keys, without touching what apt knows of
//! this machine; a kernel that was unpacked once is used again, so only the first run needs a network.

use crate::run::{program, read, say, succeed};
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The release of Debian whose kernel is taken: the first one that has Landlock's ABI 4, which the policy requires.
const SOURCE: &str = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main\n";
/// The package that always names the newest kernel of that release.
const NEWEST: &str = "linux-image-cloud-amd64";
/// How the package of a kernel begins.
const KERNEL_PACKAGE: &str = "linux-image-";
/// The folder of an unpacked kernel. It gets this name when it is whole.
const UNPACKED: &str = "kernel";

/// A kernel that can be booted.
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    pub(super) release: String,
}

/// The kernel that is kept in `folder`, fetched if there is none yet.
pub(super) fn stock(folder: &Path) -> Result<Kernel> {
    let unpacked = folder.join(UNPACKED);
    if !unpacked.is_dir() {
        fetch(folder, &unpacked)?;
    }
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

fn fetch(folder: &Path, unpacked: &Path) -> Result<()> {
    let apt = Apt::new(folder)?;
    succeed(apt.command("apt-get", ["-q", "update"]))?;
    let package = package_named(&read(apt.command("apt-cache", ["depends", NEWEST]))?)?;
    say(&format!("vm-test: fetching {package}"));
    let packages = folder.join("packages");
    fresh(&packages)?;
    let mut download = apt.command("apt-get", ["-q", "download", &package]);
    download.current_dir(&packages);
    succeed(download)?;
    let mut fetched = std::fs::read_dir(&packages).with_context(|| format!("list {}", packages.display()))?;
    let file = fetched.next().context("apt-get fetched nothing")?.context("list what was fetched")?.path();
    let half = folder.join("kernel.half");
    fresh(&half)?;
    succeed(program("dpkg-deb", [Path::new("-x"), &file, &half], folder))?;
    std::fs::rename(&half, unpacked).with_context(|| format!("make {}", unpacked.display()))
}

/// The kernel's own package, from what `apt-cache depends` says of the one that names the newest.
fn package_named(depends: &str) -> Result<String> {
    let mut words = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let package = words.find(|name| name.starts_with(KERNEL_PACKAGE));
    package.map(str::to_owned).with_context(|| format!("{NEWEST} names no kernel: {depends}"))
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
        let source = put("sources.list", SOURCE)?;
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
    use super::package_named;

    #[test]
    fn the_newest_kernel_is_named_by_what_depends_on_it() {
        let said =
            "linux-image-cloud-amd64\n  Depends: linux-image-6.12.57+deb13-cloud-amd64\n  Conflicts: x\n";
        assert_eq!(package_named(said).unwrap(), "linux-image-6.12.57+deb13-cloud-amd64");
        assert!(package_named("linux-image-cloud-amd64\n  Suggests: linux-image-x\n").is_err());
    }
}
