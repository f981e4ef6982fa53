//! What agentd runs with: flags over environment over file over defaults.
//!
//! Invariant: everything is resolved and checked here, once, before anything is started.

pub(crate) mod configuration;
mod entries;
mod file;
mod keys;
pub(crate) mod local;
mod otlp;
mod prices;
mod principals;
pub(crate) mod providers;
pub(crate) mod vars;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use aaos_core::cassette::{Place, PlaceKind};
use aaos_core::confinement::{Boundary, ConfinementPolicy, Substrate};
use aaos_core::limits::{
    MAX_CHILDREN_AT_ONCE, MAX_PARKED_WORKERS, MOST_INFERENCE_SLOTS, PARKED_WORKERS, TOOL_TIME_MS,
};
use aaos_core::manifest::Manifest;
use aaos_core::name::ProviderName;
use aaos_core::path::AbsPath;
use aaos_core::price::PriceTable;
use aaos_core::quantity::Millis;
use aaos_core::wire::ModelsSetup;
use aaos_runtime::{KernelLimits, KeyFile, LocalConfig, Principals, SpanExport};
use aaos_sandbox::SandboxConfig;
use anyhow::{Context, Result, bail};

pub(crate) use entries::{is_key_variable, reserved};
pub(crate) use keys::{Keys, forget as forget_keys, take as take_keys};

use crate::cassette;
use crate::render::entry;

/// The shipped bootstrap agent.
const BOOTSTRAP: &str = include_str!("../../../../manifests/bootstrap.yaml");
const BOOTSTRAP_LOCAL: &str = include_str!("../../../../manifests/bootstrap-local.yaml");

/// Flags that stand before the command.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides {
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) cassette: Option<cassette::Choice>,
    /// The command is one of those about local models: one that is chosen need not be there yet.
    pub(crate) brings_models: bool,
}

/// Resolved settings.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) state_dir: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) worker: PathBuf,
    pub(crate) gateway: PathBuf,
    /// The program of local models; it need not be there.
    pub(crate) model_program: PathBuf,
    pub(crate) limits: KernelLimits,
    pub(crate) policy: ConfinementPolicy,
    pub(crate) substrate: Substrate,
    tool_time: Millis,
    parked_workers: usize,
    pub(crate) audit_stdout: bool,
    pub(crate) models: ModelsSetup,
    pub(crate) key_files: BTreeMap<ProviderName, KeyFile>,
    credentials: Option<PathBuf>,
    /// The models that this machine runs itself.
    pub(crate) local: LocalConfig,
    /// The cassette that the traffic with them goes to, or comes from.
    pub(crate) cassette: Option<cassette::Chosen>,
    /// Where metrics are read, if they are.
    pub(crate) metrics: Option<SocketAddr>,
    /// Where spans of model calls go, if anywhere.
    pub(crate) spans: Option<SpanExport>,
    /// The provider that `smart` and `fast` go to.
    pub(crate) provider: String,
    /// What models cost, by every name that leads to them.
    pub(crate) prices: PriceTable,
    price_file: Option<PathBuf>,
    socket_group: Option<String>,
    principals: Vec<principals::PrincipalEntry>,
    bootstrap: Option<PathBuf>,
    config_home: Option<PathBuf>,
}

impl Settings {
    /// Resolves everything.
    pub(crate) fn load(flags: &Overrides, keys: &Keys) -> Result<Self> {
        let config_home = config_home();
        let file = file::load(config_home.as_deref())?;
        let state_dir = state_dir(flags, &file)?;
        let socket = socket_path(flags, &file, &state_dir)?;
        let libexec = path_of(vars::AAOS_LIBEXEC_DIR.name).or_else(|| file.libexec_dir.clone());
        let libexec = libexec.map_or_else(own_directory, Ok)?;
        let sources = sources(&file)?;
        let cassette = flags.cassette.as_ref().map(cassette::Chosen::of).transpose()?;
        let model_program = libexec.join("aaos-model");
        let shelf = local::Shelf::of(&state_dir);
        let (provider, models, local) = match &cassette {
            Some(cassette::Chosen::Replay { models, .. }) => {
                let (provider, models) = recorded(models);
                (provider, models, LocalConfig::default())
            }
            _ => {
                let place = |sources: &providers::Sources| {
                    local::place(sources, keys, &shelf, model_program.is_file())
                };
                match place(&sources) {
                    Err(_) if flags.brings_models && local::is_chosen(&sources) => {
                        place(&unchosen(&sources))?
                    }
                    placed => placed?,
                }
            }
        };
        let key_files = match &cassette {
            // Nobody is reached, so nobody gets a key.
            Some(cassette::Chosen::Replay { .. }) => BTreeMap::new(),
            _ => providers::key_files(&sources, &models),
        };
        let price_file = path_of(vars::AAOS_PRICES.name).or_else(|| file.prices.clone());
        Ok(Self {
            socket,
            worker: libexec.join("aaos-worker"),
            gateway: libexec.join("aaos-gateway"),
            model_program,
            limits: limits(&file)?,
            policy: policy(file.confinement.as_ref())?,
            substrate: substrate(text_of(vars::AAOS_SUBSTRATE.name)?.or_else(|| file.substrate.clone()))?,
            tool_time: tool_time(number(vars::AAOS_TOOL_TIME_MS.name)?.or(file.tool_time_ms))?,
            parked_workers: parked_workers(number(vars::AAOS_PARKED_WORKERS.name)?.or(file.parked_workers))?,
            audit_stdout: switch(vars::AAOS_AUDIT_STDOUT.name)?.or(file.audit_stdout).unwrap_or(false),
            prices: prices::load(price_file.as_deref(), &models, &local)?,
            price_file,
            metrics: file.metrics.listen.as_deref().map(metrics_address).transpose()?,
            spans: spans(&file, cassette.as_ref())?,
            key_files,
            credentials: sources.places.credentials,
            models,
            local,
            cassette,
            provider,
            socket_group: file.socket_group,
            principals: file.principals,
            bootstrap: path_of(vars::AAOS_BOOTSTRAP_MANIFEST.name)
                .or_else(|| file.bootstrap_manifest.clone()),
            config_home,
            state_dir,
        })
    }

    /// Who may speak to the daemon, which is this process.
    pub(crate) fn principals(&self) -> Result<Principals> {
        principals::resolve(&self.principals, rustix::process::geteuid().as_raw())
    }

    /// How far processes are launched and used.
    pub(crate) fn sandbox(&self) -> SandboxConfig {
        let (tool_time, parked_workers) = (self.tool_time, self.parked_workers);
        SandboxConfig {
            policy: self.policy.clone(),
            tool_time,
            parked_workers,
            parks_programs: parked_workers > 0,
        }
    }

    /// The group whose members may connect to the control socket.
    pub(crate) fn socket_group(&self) -> Result<Option<u32>> {
        self.socket_group.as_deref().map(principals::group).transpose()
    }

    /// Serves nobody but the daemon's own user and root: it is hosted for one command.
    pub(crate) fn serve_nobody_else(&mut self) {
        self.socket_group = None;
        self.metrics = None;
        self.principals.clear();
    }

    /// The agent that works on goals.
    pub(crate) fn bootstrap(&self) -> Result<Manifest> {
        let Some(path) = &self.bootstrap else {
            return self.shipped_bootstrap();
        };
        crate::manifests::load(path)
            .and_then(|text| Ok(Manifest::parse(&text)?))
            .with_context(|| format!("the bootstrap manifest {}", path.display()))
    }

    /// The shipped one: where this machine runs the model itself, one with a short prompt and that model's window.
    fn shipped_bootstrap(&self) -> Result<Manifest> {
        let Some(active) = self.local.models.first().filter(|_| self.provider == local::LOCAL) else {
            return Manifest::parse(BOOTSTRAP).context("the shipped bootstrap manifest");
        };
        let mut manifest =
            Manifest::parse(BOOTSTRAP_LOCAL).context("the shipped bootstrap manifest for local models")?;
        manifest.memory.context_window = manifest.memory.context_window.min(active.window);
        Ok(manifest)
    }

    /// The places whose paths a replay takes for those of the recorded run.
    pub(crate) fn places(&self) -> Vec<Place> {
        let working = std::env::current_dir().ok();
        let home = vars::read(vars::HOME.name).map(PathBuf::from);
        let place = |kind, path: Option<PathBuf>| {
            let path = AbsPath::parse(path?.to_str()?).ok()?;
            Some(Place { kind, path })
        };
        let places = [
            place(PlaceKind::WorkingDirectory, working),
            place(PlaceKind::StateDirectory, Some(self.state_dir.clone())),
            place(PlaceKind::Home, home),
        ];
        places.into_iter().flatten().collect()
    }

    /// Directories and files that no grant reaches. Of the socket only itself: it may lie in a shared directory.
    pub(crate) fn protected(&self) -> Vec<PathBuf> {
        let mut protected = vec![self.state_dir.clone(), PathBuf::from("/etc/aaos")];
        // The programs themselves, and what decides over the root agent: changing them would be a way to run
        // unconfined at the next start.
        protected.extend([self.worker.clone(), self.gateway.clone(), self.model_program.clone()]);
        protected.extend(std::env::current_exe().ok());
        protected.extend(self.bootstrap.clone());
        protected.extend(self.price_file.clone());
        protected.extend(self.credentials.clone());
        protected.extend(self.key_files.values().map(|file| file.path().to_owned()));
        let headers = self.spans.as_ref().and_then(|spans| spans.headers.as_ref());
        protected.extend(headers.map(|file| file.path().to_owned()));
        protected.extend(self.cassette.as_ref().map(|cassette| cassette.path().to_owned()));
        protected.extend(self.config_home.as_ref().map(|home| home.join("aaos")));
        protected.push(self.socket.clone());
        protected
    }
}

/// Where spans go. A replay reaches nobody.
fn spans(file: &file::ConfigFile, cassette: Option<&cassette::Chosen>) -> Result<Option<SpanExport>> {
    let spans = file.otlp.as_ref().map(otlp::export).transpose()?;
    Ok(spans.filter(|_| !matches!(cassette, Some(cassette::Chosen::Replay { .. }))))
}

/// Where metrics are read: on loopback, since whoever reaches the port reads them.
fn metrics_address(text: &str) -> Result<SocketAddr> {
    let bad = "`listen` of [metrics] in the configuration file must be an address of loopback and a port, as in 127.0.0.1:9464";
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(address),
        Ok(address) => bail!("{bad}; {} can be reached from elsewhere", address.ip()),
        Err(_) => bail!("{bad}; it is {text:?}"),
    }
}

/// The boundaries that no policy may leave out (law 5 of DESIGN §2).
const ALWAYS_REQUIRED: [Boundary; 3] = [Boundary::NoNewPrivs, Boundary::Seccomp, Boundary::Landlock];
/// The lowest Landlock ABI that a policy may ask for: the first that governs TCP.
const LOWEST_LANDLOCK_ABI: u32 = 4;

/// What is demanded of confinement: at least what always is.
fn policy(stated: Option<&ConfinementPolicy>) -> Result<ConfinementPolicy> {
    let policy = stated.cloned().unwrap_or_default();
    let missing: Vec<Boundary> =
        ALWAYS_REQUIRED.into_iter().filter(|one| !policy.require.contains(one)).collect();
    if !missing.is_empty() {
        bail!(
            "[confinement] in the configuration file leaves out {} of `require`; add what is missing: no \
             policy runs without no_new_privs, seccomp and landlock",
            entry::boundaries(&missing)
        );
    }
    if policy.landlock_abi < LOWEST_LANDLOCK_ABI {
        bail!(
            "[confinement] in the configuration file asks for Landlock ABI {}; landlock_abi must be \
             {LOWEST_LANDLOCK_ABI} or more",
            policy.landlock_abi
        );
    }
    Ok(policy)
}

/// Takes the keys out of the environment, or does not return. What is wrong with the file is told where it is used.
pub(crate) fn hide_keys() -> Result<()> {
    let file = file::load(config_home().as_deref()).unwrap_or_default();
    let arguments = std::env::args_os().filter_map(|one| one.into_string().ok());
    let wanted = crate::commands::wanted_variable(arguments).filter(|name| is_key_variable(name));
    Ok(keys::hide(file.key_variables().chain(wanted.as_deref()))?)
}

fn config_home() -> Option<PathBuf> {
    path_of(vars::XDG_CONFIG_HOME.name).or_else(|| path_of(vars::HOME.name).map(|home| home.join(".config")))
}

/// What is said about providers.
fn sources(file: &file::ConfigFile) -> Result<providers::Sources> {
    let (provider, model) = (text_of(vars::AAOS_PROVIDER.name)?, text_of(vars::AAOS_MODEL.name)?);
    let choice = providers::Choice {
        is_of_environment: provider.is_some() || model.is_some(),
        provider: provider.or_else(|| file.provider.clone()),
        model: model.or_else(|| file.model.clone()),
    };
    Ok(providers::Sources {
        choice,
        urls: file_urls(file)?,
        entries: file.providers.clone(),
        aliases: file.aliases.clone(),
        places: providers::KeyPlaces {
            credentials: path_of(vars::CREDENTIALS_DIRECTORY.name),
            own: config_home().map(|home| home.join("aaos/keys")),
        },
    })
}

/// The providers of a cassette, and the name of the preferred one.
fn recorded(models: &ModelsSetup) -> (String, ModelsSetup) {
    let preferred = models.providers.first().map(|provider| provider.name.to_string());
    (preferred.unwrap_or_default(), models.clone())
}

/// The base URLs, environment over file.
fn file_urls(file: &file::ConfigFile) -> Result<providers::BaseUrls> {
    Ok(providers::BaseUrls {
        deepseek: text_of(vars::DEEPSEEK_BASE_URL.name)?.or_else(|| file.deepseek_base_url.clone()),
        anthropic: text_of(vars::ANTHROPIC_BASE_URL.name)?.or_else(|| file.anthropic_base_url.clone()),
        openai: text_of(vars::OPENAI_BASE_URL.name)?.or_else(|| file.openai_base_url.clone()),
    })
}

/// What is configured, with no provider chosen.
fn unchosen(sources: &providers::Sources) -> providers::Sources {
    providers::Sources { choice: providers::Choice::default(), ..sources.clone() }
}

fn state_dir(flags: &Overrides, file: &file::ConfigFile) -> Result<PathBuf> {
    let home = vars::read(vars::HOME.name).map(PathBuf::from);
    let state_dir = flags
        .state_dir
        .clone()
        .or_else(|| path_of(vars::AAOS_STATE_DIR.name))
        .or_else(|| file.state_dir.clone())
        .or_else(|| path_of(vars::XDG_STATE_HOME.name).map(|state| state.join("aaos")))
        .or_else(|| home.map(|home| home.join(".local/state/aaos")))
        .context("no state directory: set AAOS_STATE_DIR or HOME")?;
    std::path::absolute(&state_dir).context("the state directory's path is not usable")
}

fn socket_path(flags: &Overrides, file: &file::ConfigFile, state_dir: &Path) -> Result<PathBuf> {
    let chosen =
        flags.socket.clone().or_else(|| path_of(vars::AAOS_SOCKET.name)).or_else(|| file.socket.clone());
    let default = || match path_of(vars::XDG_RUNTIME_DIR.name) {
        // A private state directory has its own daemon, so only the default one takes the well-known place.
        Some(runtime) if flags.state_dir.is_none() && path_of(vars::AAOS_STATE_DIR.name).is_none() => {
            runtime.join("aaos/agentd.sock")
        }
        _ => state_dir.join("agentd.sock"),
    };
    let path =
        std::path::absolute(chosen.unwrap_or_else(default)).context("the socket's path is not usable")?;
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        bail!("the socket path {} is longer than {MAX_SOCKET_PATH} bytes; set AAOS_SOCKET", path.display());
    }
    Ok(path)
}

/// `sun_path` of unix(7) without its final NUL.
const MAX_SOCKET_PATH: usize = 107;

fn own_directory() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("cannot find agentd's own directory; set AAOS_LIBEXEC_DIR")?;
    exe.parent().map(Path::to_owned).context("agentd lies in no directory")
}

fn limits(file: &file::ConfigFile) -> Result<KernelLimits> {
    let default = KernelLimits::default();
    Ok(KernelLimits {
        max_agents: number(vars::AAOS_MAX_AGENTS.name)?.or(file.max_agents).unwrap_or(default.max_agents),
        spawn_batch: spawn_batch(
            number(vars::AAOS_SPAWN_AGENTS_BATCH_CAP.name)?
                .or(file.spawn_agents_batch_cap)
                .unwrap_or(default.spawn_batch),
        )?,
        inference_slots: inference_slots(
            number(vars::AAOS_MAX_CONCURRENT_INFERENCE.name)?
                .or(file.max_concurrent_inference)
                .unwrap_or(default.inference_slots),
        )?,
        inference_gap_ms: number(vars::AAOS_MIN_INFERENCE_DELAY_MS.name)?
            .or(file.min_inference_delay_ms)
            .unwrap_or(default.inference_gap_ms),
        ..default
    })
}

/// Inferences of one provider at once; the gateway has places for no more.
fn inference_slots(wanted: usize) -> Result<usize> {
    if wanted > MOST_INFERENCE_SLOTS {
        let name = vars::AAOS_MAX_CONCURRENT_INFERENCE.name;
        bail!("{name} (max_concurrent_inference) is {wanted}; it may be at most {MOST_INFERENCE_SLOTS}");
    }
    Ok(wanted.max(1))
}

/// What carries a worker: nothing but what can be started.
fn substrate(wanted: Option<String>) -> Result<Substrate> {
    let name = vars::AAOS_SUBSTRATE.name;
    let Some(wanted) = wanted else { return Ok(Substrate::Process) };
    match wanted.parse().with_context(|| format!("{name} (substrate) is {wanted:?}"))? {
        Substrate::Process => Ok(Substrate::Process),
        Substrate::Microvm => bail!(
            "{name} (substrate) is microvm, which this version cannot start yet; set it to process, which confines \
             each worker by the kernel of this machine"
        ),
    }
}

/// Time of one call in a worker; no more than the house's own limit.
fn tool_time(wanted: Option<u64>) -> Result<Millis> {
    let wanted = wanted.unwrap_or(TOOL_TIME_MS);
    if !(1..=TOOL_TIME_MS).contains(&wanted) {
        bail!("{} (tool_time_ms) is {wanted}; it must be 1 to {TOOL_TIME_MS}", vars::AAOS_TOOL_TIME_MS.name);
    }
    Ok(Millis(wanted))
}

/// Workers that wait for an agent.
fn parked_workers(wanted: Option<usize>) -> Result<usize> {
    let wanted = wanted.unwrap_or(PARKED_WORKERS);
    if wanted > MAX_PARKED_WORKERS {
        bail!(
            "{} (parked_workers) is {wanted}; it must be 0 to {MAX_PARKED_WORKERS}",
            vars::AAOS_PARKED_WORKERS.name
        );
    }
    Ok(wanted)
}

/// Children of one call: no more than an agent may have alive at once.
fn spawn_batch(wanted: usize) -> Result<usize> {
    if !(1..=MAX_CHILDREN_AT_ONCE).contains(&wanted) {
        bail!(
            "{} (spawn_agents_batch_cap) is {wanted}; it must be 1 to {MAX_CHILDREN_AT_ONCE}, the most \
             children of one agent at once",
            vars::AAOS_SPAWN_AGENTS_BATCH_CAP.name
        );
    }
    Ok(wanted)
}

fn path_of(name: &str) -> Option<PathBuf> {
    vars::read(name).map(PathBuf::from)
}

fn text_of(name: &str) -> Result<Option<String>> {
    let not_text = |_: OsString| anyhow::anyhow!("{name} is not UTF-8");
    vars::read(name).map(|value| value.into_string().map_err(not_text)).transpose()
}

fn number<T: FromStr>(name: &str) -> Result<Option<T>> {
    let Some(text) = text_of(name)? else { return Ok(None) };
    text.parse().map(Some).map_err(|_| anyhow::anyhow!("{name}={text:?} is not a whole number"))
}

fn switch(name: &str) -> Result<Option<bool>> {
    match text_of(name)?.as_deref() {
        None => Ok(None),
        Some("1" | "true") => Ok(Some(true)),
        Some("0" | "false") => Ok(Some(false)),
        Some(other) => bail!("{name}={other:?} is neither 0 nor 1"),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        ALWAYS_REQUIRED, LOWEST_LANDLOCK_ABI, parked_workers, policy, spawn_batch, substrate, tool_time,
    };
    use aaos_core::confinement::{Boundary, ConfinementPolicy, Substrate};
    use aaos_core::quantity::Millis;

    #[test]
    fn a_policy_without_a_boundary_that_always_stands_is_refused() {
        assert_eq!(policy(None).expect("the default is enough"), ConfinementPolicy::default());
        let least = ConfinementPolicy {
            require: ALWAYS_REQUIRED.to_vec(),
            prefer: Vec::new(),
            landlock_abi: LOWEST_LANDLOCK_ABI,
        };
        assert_eq!(policy(Some(&least)).expect("enough"), least);
        for (left_out, name) in [
            (Boundary::NoNewPrivs, "leaves out no_new_privs"),
            (Boundary::Seccomp, "leaves out seccomp"),
            (Boundary::Landlock, "leaves out landlock"),
        ] {
            let mut weak = least.clone();
            weak.require.retain(|one| *one != left_out);
            weak.prefer.push(left_out);
            let error = policy(Some(&weak)).expect_err("too weak").to_string();
            assert!(error.contains(name), "{error}");
        }
        let old = ConfinementPolicy { landlock_abi: LOWEST_LANDLOCK_ABI - 1, ..least };
        let error = policy(Some(&old)).expect_err("too old").to_string();
        assert!(error.contains("landlock_abi must be 4"), "{error}");
    }

    #[test]
    fn a_substrate_that_does_not_exist_yet_is_refused_in_words() {
        for wanted in [None, Some("process".to_owned())] {
            assert_eq!(substrate(wanted).expect("it exists"), Substrate::Process);
        }
        let error = substrate(Some("microvm".to_owned())).expect_err("not yet").to_string();
        assert!(error.contains("AAOS_SUBSTRATE") && error.contains("set it to process"), "{error}");
        let error = format!("{:#}", substrate(Some("Process".to_owned())).expect_err("misspelt"));
        assert!(error.contains("\"Process\"") && error.contains("process and microvm"), "{error}");
    }

    #[test]
    fn the_time_of_a_call_is_only_ever_shortened() {
        for (wanted, found) in [(None, 60_000), (Some(1), 1), (Some(60_000), 60_000)] {
            assert_eq!(tool_time(wanted).expect("in range"), Millis(found));
        }
        for wanted in [0, 60_001, u64::MAX] {
            let error = tool_time(Some(wanted)).expect_err("out of range").to_string();
            assert!(error.contains("AAOS_TOOL_TIME_MS") && error.contains("1 to 60000"), "{error}");
        }
    }

    #[test]
    fn parked_workers_are_bounded() {
        for (wanted, found) in [(None, 2), (Some(0), 0), (Some(256), 256)] {
            assert_eq!(parked_workers(wanted).expect("in range"), found);
        }
        let error = parked_workers(Some(257)).expect_err("too many").to_string();
        assert!(error.contains("AAOS_PARKED_WORKERS") && error.contains("0 to 256"), "{error}");
    }

    #[test]
    fn a_batch_is_no_wider_than_the_children_of_one_agent() {
        for wanted in [1, 3] {
            assert_eq!(spawn_batch(wanted).expect("in range"), wanted);
        }
        for wanted in [0, 4, usize::MAX] {
            let error = spawn_batch(wanted).expect_err("out of range").to_string();
            assert!(error.contains("AAOS_SPAWN_AGENTS_BATCH_CAP") && error.contains("1 to 3"), "{error}");
        }
    }
}
