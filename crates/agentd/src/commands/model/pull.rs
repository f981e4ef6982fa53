//! `model pull`: a model whose SHA-256 is known, from whichever source has it.
//!
//! Invariants: this process opens no socket and trusts no source; the gateway's `egress` role brings the bytes, and only
//! the hash of the whole decides. What came is kept until it is added, found wrong, or removed by the operator, so that an
//! end while it is fetched or looked at loses nothing. Nothing is fetched before it was said what and how much.

use std::fs::File;
use std::net::IpAddr;

use aaos_core::capability::HostRule;
use aaos_core::limits::MAX_WEIGHTS_BYTES;
use aaos_core::name::ModelName;
use aaos_core::quantity::Bytes;
use aaos_core::tool::host_and_port;
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use aaos_sandbox::{DownloadOrder, Egress, GatewayRole, Sandbox};
use anyhow::{Context, Result, bail};

use super::packages::{Order, Packages, PipSettings};
use super::part::{self, Part};
use super::pinned::{PINNED, Pinned};
use super::{STEP_BYTES, card_of, check, in_sandbox, keep, lock, locked_seed, make_directory, tell_added};
use crate::cli::ModelPullArgs;
use crate::exit::{Exit, UsageError};
use crate::render::text::{REASON_CHARS, cut, size};
use crate::render::{Screen, Tone};
use crate::settings::Settings;
use crate::settings::local::{Card, Shelf, local_name};

/// How often a connection of one source may break without the next source being asked; each has to bring something.
const MAX_BREAKS: usize = 16;

/// What `--from` calls the packages.
const PIP: &str = "pip";

/// What is to be fetched.
#[derive(Debug)]
struct Wanted {
    name: ModelName,
    title: String,
    sha256: String,
    size: Bytes,
    licence: Option<&'static str>,
    sources: Vec<Source>,
    /// Addresses that are not public, to which names of sources may lead.
    addresses: Vec<IpAddr>,
}

/// Where it can be had.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    /// The file itself.
    Url(String),
    /// Packages of the index that `pip` is configured with.
    Packages(&'static Packages),
}

impl Source {
    /// What the mark of its parts is made of.
    fn name(&self) -> &str {
        match self {
            Self::Url(url) => url,
            Self::Packages(packages) => packages.stem,
        }
    }

    /// What it is called.
    fn title(&self) -> String {
        match self {
            Self::Url(url) => cut(url, REASON_CHARS),
            Self::Packages(packages) => {
                format!("{} packages, which this machine's own pip brings", packages.wheels.len())
            }
        }
    }

    /// As `--from` says; only what is pinned has packages.
    fn parse(from: &str, packages: Option<&'static Packages>) -> Result<Self, UsageError> {
        if from != PIP {
            host_and_port(from).map_err(|failure| UsageError(failure.message))?;
            return Ok(Self::Url(from.to_owned()));
        }
        let why = || {
            UsageError(format!(
                "--from {PIP} is for models that are pinned: of no other is it known which packages it has"
            ))
        };
        packages.map(Self::Packages).ok_or_else(why)
    }
}

/// Why a source has not given the file.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It lies with the source: the next one is asked.
    There(String),
    /// It lies with this machine: no source helps.
    Here(anyhow::Error),
}

impl From<ToolFailure> for Trouble {
    fn from(failure: ToolFailure) -> Self {
        Self::There(failure.message)
    }
}

impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Self {
        Self::Here(error)
    }
}

/// `model pull`.
pub(super) fn pull(settings: &Settings, args: &ModelPullArgs, screen: Screen) -> Result<Exit> {
    let wanted = Wanted::of(args)?;
    let shelf = Shelf::of(&settings.state_dir);
    if let Some(there) = is_there(&shelf, &wanted)? {
        screen.note(Tone::Dim, &format!("{} is there already", wanted.name));
        if args.json {
            screen.json(&there)?;
        }
        return Ok(Exit::Done);
    }
    let seed = locked_seed(settings, Some(&settings.gateway))?;
    make_directory(shelf.directory())?;
    let _lock = lock(&shelf)?;
    // Another command may have added it meanwhile.
    if is_there(&shelf, &wanted)?.is_some() {
        bail!("{} was added by another command meanwhile", wanted.name);
    }
    screen.note(Tone::Plain, &wanted.announcement());
    let (part, facts) = in_sandbox(settings, seed, async |sandbox| {
        let part = fetch(sandbox, &shelf, &wanted, screen).await?;
        let weights = File::open(part.path()).context("cannot read what was fetched")?;
        let facts = check(settings, sandbox, weights.into(), wanted.size).await?;
        Ok((part, facts))
    })?;
    let mut card = card_of(wanted.name.clone(), wanted.sha256.clone(), wanted.size, facts);
    card.licence = wanted.licence.map(str::to_owned);
    keep(&shelf, part.path(), &card)?;
    // Whatever other sources had begun with.
    part::remove_all(&shelf, wanted.name.as_str())?;
    tell_added(&card, args.json, screen)
}

/// The card of the very model, if it was added before.
fn is_there(shelf: &Shelf, wanted: &Wanted) -> Result<Option<Card>> {
    let name = &wanted.name;
    match shelf.cards()?.into_iter().find(|card| card.name == *name) {
        Some(card) if card.sha256 == wanted.sha256 => Ok(Some(card)),
        Some(_) => bail!("{name} is another model already; `agentd model remove {name}` first"),
        None => Ok(None),
    }
}

impl Wanted {
    fn of(args: &ModelPullArgs) -> Result<Self> {
        let usage = |error: anyhow::Error| UsageError(format!("{error}"));
        let name = local_name(&args.name).map_err(usage)?;
        let addresses = args.address.clone();
        let from = |packages| -> Result<Vec<Source>, UsageError> {
            args.from.iter().map(|from| Source::parse(from, packages)).collect()
        };
        if let (Some(sha256), Some(bytes)) = (&args.sha256, args.bytes) {
            let sha256 = sha256.to_ascii_lowercase();
            if !is_hash(&sha256) || !(1..=MAX_WEIGHTS_BYTES).contains(&bytes) {
                let most = size(MAX_WEIGHTS_BYTES);
                let why = format!(
                    "--sha256 takes 64 hexadecimal digits, and --bytes 1 to {MAX_WEIGHTS_BYTES} ({most})"
                );
                return Err(UsageError(why).into());
            }
            let (title, size, sources) = (name.to_string(), Bytes(bytes), from(None)?);
            return Ok(Self { name, title, sha256, size, licence: None, sources, addresses });
        }
        let Some(pinned) = PINNED.iter().find(|pinned| pinned.name == args.name) else {
            let known: Vec<&str> = PINNED.iter().map(|pinned| pinned.name).collect();
            let why = format!(
                "no model that is pinned is called {:?}: there are {}; any other needs --sha256, --bytes and --from",
                args.name,
                known.join(" and ")
            );
            return Err(UsageError(why).into());
        };
        let Pinned { title, sha256, bytes, licence, url, packages, .. } = pinned;
        let usual = || vec![Source::Url((*url).to_owned()), Source::Packages(packages)];
        let sources = if args.from.is_empty() { usual() } else { from(Some(packages))? };
        Ok(Self {
            name,
            title: (*title).to_owned(),
            sha256: (*sha256).to_owned(),
            size: *bytes,
            licence: Some(licence),
            sources,
            addresses,
        })
    }

    /// What, how much, and under which licence.
    fn announcement(&self) -> String {
        let licence = self.licence.map_or_else(
            || "its licence is yours to know".to_owned(),
            |licence| format!("its maker gives it away under {licence}"),
        );
        format!("{}: {} are fetched; {licence}", self.title, size(self.size.0))
    }

    /// The rules for a source: its own host, public ones that it leads to, and what the operator named.
    fn order(&self, url: &str, from: Bytes) -> Result<DownloadOrder, ToolFailure> {
        let (host, port) = host_and_port(url)?;
        let mut hosts = vec![HostRule { host, subdomains: false, port: Some(port) }];
        hosts.extend(address_rules(&self.addresses, port));
        Ok(DownloadOrder { url: url.to_owned(), from, size: self.size, hosts, public: true })
    }
}

/// The rules by which names may lead to these addresses, which are not public.
pub(super) fn address_rules(addresses: &[IpAddr], port: u16) -> impl Iterator<Item = HostRule> {
    let rule =
        move |address: &IpAddr| HostRule { host: address.to_string(), subdomains: false, port: Some(port) };
    addresses.iter().map(rule)
}

/// Whether it is a SHA-256 as it is written here.
pub(super) fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|one| one.is_ascii_digit() || (b'a'..=b'f').contains(&one))
}

/// Asks one source after the other until one gave the file.
async fn fetch(sandbox: &Sandbox, shelf: &Shelf, wanted: &Wanted, screen: Screen) -> Result<Part> {
    let gateway = sandbox.launch_gateway(GatewayRole::Egress, Vec::new(), &[]).await?;
    let egress = Egress::new(gateway.stream);
    let _process = gateway.process;
    for source in &wanted.sources {
        let name = source.title();
        let mut part = Part::open(shelf, wanted.name.as_str(), &wanted.sha256, source.name(), wanted.size)?;
        part.check_room()?;
        screen.note(
            Tone::Dim,
            &match part.have().0 {
                0 => format!("from {name}"),
                have => format!("from {name}, of which {} are there", size(have)),
            },
        );
        match from_source((sandbox, &egress), wanted, source, &mut part, screen).await {
            Ok(()) => return Ok(part),
            Err(Trouble::Here(error)) => return Err(error),
            Err(Trouble::There(why)) => {
                screen.note(Tone::Warn, &cut(&why, REASON_CHARS));
                part.forget_if_empty()?;
            }
        }
    }
    bail!(
        "no source gave {}; run the same command again to go on, name another source with --from, or add a file that \
         you have with `agentd model add FILE --name {}`",
        wanted.name,
        wanted.name
    )
}

/// Has one source complete the part, and judges what came.
async fn from_source(
    (sandbox, egress): (&Sandbox, &Egress),
    wanted: &Wanted,
    source: &Source,
    part: &mut Part,
    screen: Screen,
) -> Result<(), Trouble> {
    match source {
        Source::Url(url) => from_url(egress, wanted, url, part, screen).await?,
        Source::Packages(packages) if !part.is_whole() => {
            let settings = PipSettings::read();
            let order = Order::new(packages, &settings, &wanted.addresses, wanted.size)?;
            order.bring(sandbox, egress, part, screen).await?;
        }
        Source::Packages(_) => {}
    }
    let sha256 = part.sha256()?;
    if sha256 != wanted.sha256 {
        part.restart()?;
        let why = format!("what came has the SHA-256 {sha256}, not {}; it was removed", wanted.sha256);
        return Err(Trouble::There(why));
    }
    Ok(())
}

/// Has a server complete the part.
async fn from_url(
    egress: &Egress,
    wanted: &Wanted,
    url: &str,
    part: &mut Part,
    screen: Screen,
) -> Result<(), Trouble> {
    let mut breaks = 0;
    while !part.is_whole() {
        let before = part.have();
        let Err(trouble) = bring(egress, wanted, url, part, screen).await else { break };
        breaks += 1;
        match trouble {
            Trouble::There(why) if part.have() > before && breaks < MAX_BREAKS => {
                screen.note(Tone::Dim, &format!("{}; going on", cut(&why, REASON_CHARS)));
            }
            trouble => return Err(trouble),
        }
    }
    Ok(())
}

/// One connection's worth of it.
async fn bring(
    egress: &Egress,
    wanted: &Wanted,
    url: &str,
    part: &mut Part,
    screen: Screen,
) -> Result<(), Trouble> {
    let mut download = egress.download(wanted.order(url, part.have())?).await?;
    if download.from() != part.have() {
        part.restart()?;
    }
    let show =
        |words: &str| if screen.is_watched() { screen.passing(words) } else { screen.note(Tone::Dim, words) };
    let mut progress = Progress::new(wanted.size, part.have(), screen.is_watched(), &show);
    let mut piece = vec![0; STEP_BYTES];
    loop {
        match download.piece(&mut piece).await {
            Ok(0) => return Ok(()),
            Ok(got) => part.append(&piece[..got])?,
            Err(failure) => {
                if failure.kind == ToolFailureKind::TooLarge {
                    // Nothing of what it sent is believed.
                    part.restart()?;
                }
                return Err(failure.into());
            }
        }
        progress.tell(part.have());
    }
}

/// How far a download is, told now and then. What stands on a terminal goes with it, however the download ends.
struct Progress<'a> {
    size: Bytes,
    told: u64,
    is_watched: bool,
    show: &'a dyn Fn(&str),
}

impl<'a> Progress<'a> {
    fn new(size: Bytes, have: Bytes, is_watched: bool, show: &'a dyn Fn(&str)) -> Self {
        let mut progress = Self { size, told: 0, is_watched, show };
        progress.told = progress.steps(have);
        progress
    }

    /// Each of a hundred where somebody watches, else each of ten.
    fn steps(&self, have: Bytes) -> u64 {
        let parts = if self.is_watched { 100 } else { 10 };
        have.0.saturating_mul(parts) / self.size.0.max(1)
    }

    fn tell(&mut self, have: Bytes) {
        let steps = self.steps(have);
        if steps == self.told {
            return;
        }
        self.told = steps;
        let percent = have.0.saturating_mul(100) / self.size.0.max(1);
        (self.show)(&format!("{percent:>3} %  {} of {}", size(have.0), size(self.size.0)));
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if self.is_watched {
            (self.show)("");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use aaos_core::quantity::Bytes;

    use super::Progress;

    #[test]
    fn the_line_on_a_terminal_ends_before_an_error_is_told() {
        for (is_watched, lines) in
            [(true, &[" 50 %  5 B of 10 B", "", "full"][..]), (false, &[" 50 %  5 B of 10 B", "full"])]
        {
            let said = RefCell::new(Vec::new());
            let show = |words: &str| said.borrow_mut().push(words.to_owned());
            let bring = || -> Result<(), &str> {
                let mut progress = Progress::new(Bytes(10), Bytes::ZERO, is_watched, &show);
                progress.tell(Bytes(5));
                Err("full")
            };
            show(bring().expect_err("no room"));
            assert_eq!(*said.borrow(), lines);
        }
    }
}
