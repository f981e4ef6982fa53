//! `model`: the local models of this machine: added, fetched, listed, removed.
//!
//! Invariants: nothing here reads a stranger's file but its first four bytes and its hash: what it is says the confined
//! process, of the very copy that is kept. What is added is on disk, whole, before its card says so; what was begun and
//! not finished is gone after the next command, but for parts of what is fetched. One command changes the models at a
//! time.

mod packages;
mod part;
mod pinned;
mod pull;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aaos_core::limits::MAX_WEIGHTS_BYTES;
use aaos_core::name::ModelName;
use aaos_core::quantity::{Bytes, Timestamp};
use aaos_core::wire::{LocalFacts, LocalSetup, LocalTask};
use aaos_runtime::Clock;
use aaos_sandbox::{GroupName, Groups, Sandbox, SandboxError, ZygoteSeed, lock_this_daemon};
use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::cli::{ModelAction, ModelAddArgs, ModelArgs, ModelRemoveArgs};
use crate::exit::{Exit, UsageError};
use crate::render::table::Table;
use crate::render::text::{cut, size};
use crate::render::{Screen, Tone};
use crate::settings::Settings;
use crate::settings::local::{Card, LOCAL, Shelf, local_name};

/// The first bytes of every file of weights.
const MAGIC: &[u8] = b"GGUF";
/// Bytes copied at a time.
const STEP_BYTES: usize = 1024 * 1024;
/// Weights that are not added yet.
const INCOMING: &str = "incoming";
/// A card that is not written yet.
const INCOMING_CARD: &str = "incoming-card";
/// What a command holds while it changes the models.
const LOCK: &str = "lock";
/// Longest text of the file's own that is shown.
const SHOWN_CHARS: usize = 60;

/// A model as it is listed.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    model: &'a Card,
    /// Whether the aliases `smart` and `fast` mean it.
    active: bool,
}

/// `model`.
pub(super) fn model(settings: &Settings, args: &ModelArgs, screen: Screen) -> Result<Exit> {
    match &args.action {
        ModelAction::Add(args) => add(settings, args, screen),
        ModelAction::Pull(args) => pull::pull(settings, args, screen),
        ModelAction::List(args) => list(settings, args.json, screen),
        ModelAction::Remove(args) => remove(settings, args, screen),
    }
}

fn list(settings: &Settings, json: bool, screen: Screen) -> Result<Exit> {
    let cards = Shelf::of(&settings.state_dir).cards()?;
    let active = settings.local.aliases.first().map(|(_, means)| means);
    let listed: Vec<Listed<'_>> =
        cards.iter().map(|model| Listed { model, active: active == Some(&model.name) }).collect();
    if json {
        screen.json(&listed)?;
        return Ok(Exit::Done);
    }
    if listed.is_empty() {
        screen.line(Tone::Plain, "no local model; fetch one with `agentd model pull qwen2.5-coder-1.5b`, or add one with `agentd model add FILE`")?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["NAME", "ACTIVE", "KIND", "PARAMETERS", "SIZE", "WINDOW", "SHA-256"]);
    for Listed { model, active } in &listed {
        let Card { name, sha256, bytes, architecture, parameters, window, .. } = model;
        table.row(&[
            name.as_str(),
            if *active { "yes" } else { "" },
            &cut(architecture, SHOWN_CHARS),
            &millions(*parameters),
            &size(bytes.0),
            &window.to_string(),
            sha256.get(..16).unwrap_or_default(),
        ]);
    }
    screen.table(&table.lines())?;
    Ok(Exit::Done)
}

fn millions(parameters: u64) -> String {
    format!("{} million", parameters / 1_000_000)
}

fn remove(settings: &Settings, args: &ModelRemoveArgs, screen: Screen) -> Result<Exit> {
    let shelf = Shelf::of(&settings.state_dir);
    let _lock = lock(&shelf)?;
    let cards = shelf.cards()?;
    let parts = part::remove_all(&shelf, &args.name)?;
    let Some(card) = cards.iter().find(|card| card.name.as_str() == args.name) else {
        let name = &args.name;
        if parts > 0 {
            screen.note(Tone::Good, &format!("removed what was fetched of {}", cut(name, SHOWN_CHARS)));
            return Ok(Exit::Done);
        }
        bail!("no local model is called {name:?}; `agentd model list` names those that are there");
    };
    fs::remove_file(shelf.card(&card.name)).with_context(|| format!("cannot remove {}", card.name))?;
    if !cards.iter().any(|other| other.name != card.name && other.sha256 == card.sha256) {
        remove_if_there(&shelf.weights(&card.sha256))?;
    }
    sync(shelf.directory())?;
    if args.json {
        screen.json(card)?;
    } else {
        screen.line(Tone::Good, &format!("removed {}", card.name))?;
    }
    Ok(Exit::Done)
}

fn add(settings: &Settings, args: &ModelAddArgs, screen: Screen) -> Result<Exit> {
    let name = chosen_name(args)?;
    let seed = locked_seed(settings, None)?;
    let (source, bytes) = open(&args.file)?;
    let shelf = Shelf::of(&settings.state_dir);
    make_directory(shelf.directory())?;
    let _lock = lock(&shelf)?;
    let earlier = shelf.cards()?.into_iter().find(|card| card.name == name);
    screen.note(Tone::Dim, &format!("copying {}", size(bytes.0)));
    let incoming = Incoming::copy(&shelf, &source, bytes)?;
    if let Some(earlier) = &earlier
        && earlier.sha256 != incoming.sha256
    {
        bail!(
            "{name} is another model already; give this one a --name, or `agentd model remove {name}` first"
        );
    }
    let facts = in_sandbox(settings, seed, async |sandbox| {
        check(settings, sandbox, incoming.reopened()?, bytes).await
    })?;
    let card = card_of(name, incoming.sha256.clone(), bytes, facts);
    keep(&shelf, &incoming.path, &card)?;
    drop(incoming);
    tell_added(&card, args.json, screen)
}

/// The launcher, started before there is any thread, and this process locked like the daemon: before it reads a file, and
/// so that it can open no socket.
fn locked_seed(settings: &Settings, gateway: Option<&Path>) -> Result<ZygoteSeed> {
    if !settings.model_program.is_file() {
        bail!(
            "the program {} is missing: build it with `cargo build --release --manifest-path \
             crates/aaos-model/Cargo.toml`, or set AAOS_LIBEXEC_DIR",
            settings.model_program.display()
        );
    }
    let group = GroupName::of_process().context("cannot look at this process's own PID namespace")?;
    let seed = ZygoteSeed::start(&settings.worker, gateway)?.with_model(&settings.model_program)?;
    let seed = seed.within(Groups::claim(&group));
    lock_this_daemon()?;
    Ok(seed)
}

fn tell_added(card: &Card, json: bool, screen: Screen) -> Result<Exit> {
    if json {
        screen.json(card)?;
        return Ok(Exit::Done);
    }
    let Card { name, architecture, parameters, window, bytes, .. } = card;
    let (kind, parameters, bytes) = (cut(architecture, SHOWN_CHARS), millions(*parameters), size(bytes.0));
    let words =
        format!("added {name}: {kind}, {parameters} parameters, {bytes}, {window} tokens of conversation");
    screen.line(Tone::Good, &words)?;
    screen.note(
        Tone::Dim,
        &format!("agents use it as {name} or {LOCAL}/{name}; a daemon that runs, when it is started again"),
    );
    Ok(Exit::Done)
}

fn card_of(name: ModelName, sha256: String, bytes: Bytes, facts: LocalFacts) -> Card {
    let LocalFacts { architecture, name: title, parameters, window } = facts;
    Card {
        name,
        sha256,
        bytes,
        architecture,
        title,
        parameters,
        window,
        added_at: Clock::starting_at(Timestamp(0)).now(),
        licence: None,
    }
}

/// What was asked for, else the file's own name as far as it can be one.
fn chosen_name(args: &ModelAddArgs) -> Result<ModelName> {
    let usage = |error: anyhow::Error| UsageError(format!("{error}"));
    if let Some(name) = &args.name {
        return Ok(local_name(name).map_err(usage)?);
    }
    let stem = args.file.file_stem().map(|stem| stem.to_string_lossy().to_lowercase()).unwrap_or_default();
    let is_plain = |one: &char| one.is_ascii_alphanumeric() || "._-".contains(*one);
    let plain: String = stem.chars().map(|one| if is_plain(&one) { one } else { '-' }).collect();
    let with = |error: anyhow::Error| UsageError(format!("{error}; choose one with --name"));
    Ok(local_name(&plain).map_err(with)?)
}

/// Opens a file of weights: a regular one that begins like one and is not too large.
fn open(path: &Path) -> Result<(File, Bytes)> {
    let cannot = || format!("cannot read {}", path.display());
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let mut file = OpenOptions::new().read(true).custom_flags(nonblock).open(path).with_context(cannot)?;
    let facts = file.metadata().with_context(cannot)?;
    ensure!(facts.is_file(), "{} is not a regular file", path.display());
    let mut head = [0; MAGIC.len()];
    let is_weights = match file.read_exact(&mut head) {
        Ok(()) => head == MAGIC,
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => false,
        Err(error) => return Err(error).with_context(cannot),
    };
    ensure!(
        is_weights,
        "{} is not a GGUF file: models of other formats have to be converted",
        path.display()
    );
    let most = size(MAX_WEIGHTS_BYTES);
    ensure!(facts.len() <= MAX_WEIGHTS_BYTES, "{} is larger than {most}", path.display());
    Ok((file, Bytes(facts.len())))
}

fn make_directory(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("cannot make the directory {}", path.display()))
}

/// Held by whoever changes the models; what an earlier command left unfinished is removed.
fn lock(shelf: &Shelf) -> Result<File> {
    make_directory(shelf.directory())?;
    let path = shelf.directory().join(LOCK);
    let lock = OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(&path);
    let lock = lock.with_context(|| format!("cannot open {}", path.display()))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            bail!("another command changes the local models; wait for its end")
        }
        Err(errno) => return Err(errno).with_context(|| format!("cannot lock {}", path.display())),
    }
    for name in [INCOMING, INCOMING_CARD] {
        remove_if_there(&shelf.directory().join(name))?;
    }
    remove_unnamed(shelf)?;
    Ok(lock)
}

/// Removes weights that no card names: a command was stopped between the two.
fn remove_unnamed(shelf: &Shelf) -> Result<()> {
    let named: Vec<PathBuf> = shelf.cards()?.iter().map(|card| shelf.weights(&card.sha256)).collect();
    for entry in fs::read_dir(shelf.directory()).context("cannot list the local models")? {
        let path = entry.context("cannot list the local models")?.path();
        if path.extension().is_some_and(|ending| ending == "gguf") && !named.contains(&path) {
            remove_if_there(&path)?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn sync(directory: &Path) -> Result<()> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.with_context(|| format!("cannot write {}", directory.display()))
}

/// A copy that is not kept yet; it is removed unless it is.
#[derive(Debug)]
struct Incoming {
    path: PathBuf,
    sha256: String,
}

impl Incoming {
    /// Copies exactly as many bytes as the file had when it was opened.
    fn copy(shelf: &Shelf, source: &File, bytes: Bytes) -> Result<Self> {
        let path = shelf.directory().join(INCOMING);
        let cannot = || format!("cannot write {}", path.display());
        let mut into =
            OpenOptions::new().create_new(true).write(true).mode(0o400).open(&path).with_context(cannot)?;
        let mut incoming = Self { path: path.clone(), sha256: String::new() };
        let mut hash = Sha256::new();
        let mut step = vec![0; STEP_BYTES];
        let mut copied = 0;
        while copied < bytes.0 {
            let got = source.read_at(&mut step, copied).context("cannot read the weights")?;
            let got = got.min(usize::try_from(bytes.0 - copied).unwrap_or(usize::MAX));
            ensure!(got > 0, "the file became shorter while it was copied");
            hash.update(&step[..got]);
            into.write_all(&step[..got]).with_context(cannot)?;
            copied += got as u64;
        }
        into.sync_all().with_context(cannot)?;
        incoming.sha256 = hexadecimal(hash);
        Ok(incoming)
    }

    fn reopened(&self) -> Result<OwnedFd> {
        let file = File::open(&self.path);
        Ok(file.with_context(|| format!("cannot read {}", self.path.display()))?.into())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Err(error) = remove_if_there(&self.path) {
            tracing::warn!(%error, "the next command removes it");
        }
    }
}

fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Does `work` beside the launcher, and ends it with all that it made.
fn in_sandbox<T>(
    settings: &Settings,
    seed: ZygoteSeed,
    work: impl AsyncFnOnce(&Sandbox) -> Result<T>,
) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    runtime.block_on(async {
        let sandbox = Sandbox::adopt(seed, settings.sandbox())?;
        let done = work(&sandbox).await;
        sandbox.shutdown().await;
        done
    })
}

/// Has the confined process say what the weights are.
async fn check(
    settings: &Settings,
    sandbox: &Sandbox,
    weights: OwnedFd,
    file_bytes: Bytes,
) -> Result<LocalFacts> {
    let setup = LocalSetup { task: LocalTask::Check, file_bytes, window: settings.local.window, threads: 1 };
    let looked = async {
        let locked = sandbox.lock_model(file_bytes, setup.threads).await?;
        locked.load(weights, &setup).await
    };
    match looked.await.map(|model| model.facts) {
        Ok(facts) => Ok(facts),
        // It says something of the file, not of the confinement.
        Err(error @ (SandboxError::Weights(_) | SandboxError::DiedLoading { .. })) => bail!("{error}"),
        Err(error) => Err(error.into()),
    }
}

/// Gives the copy its name, then writes the card.
fn keep(shelf: &Shelf, whole: &Path, card: &Card) -> Result<()> {
    let weights = shelf.weights(&card.sha256);
    fs::rename(whole, &weights).with_context(|| format!("cannot write {}", weights.display()))?;
    sync(shelf.directory())?;
    let (path, made) = (shelf.card(&card.name), shelf.directory().join(INCOMING_CARD));
    let written = (|| {
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&made)?;
        file.write_all(&serde_json::to_vec(card)?)?;
        file.sync_all()?;
        fs::rename(&made, &path)
    })();
    written.with_context(|| format!("cannot write {}", path.display()))?;
    sync(shelf.directory())
}
