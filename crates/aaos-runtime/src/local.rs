//! The models that this machine runs itself: one confined process, started for whoever asks and ended when nobody does.
//!
//! Invariants: there is one process at a time, with one model in it; another model is loaded when the first has
//! answered. Every start is journalled with its receipt, and every end while the daemon runs. The weights are opened by the daemon, from its own
//! state, and handed over; nobody names a path. A process that is being loaded is loaded
//! even if who asked has gone.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aaos_core::event::Event;
use aaos_core::id::WorkerId;
use aaos_core::limits::MODEL_IDLE_MS;
use aaos_core::model::{ModelFailure, ModelFailureKind, ProviderState, Rates, Standing};
use aaos_core::name::{ModelName, ProviderName};
use aaos_core::quantity::{Bytes, Millis, Timestamp, Tokens};
use aaos_core::route::route;
use aaos_core::wire::{LocalSetup, LocalTask};
use aaos_llm::{Awaited, Connection, Host};
use aaos_sandbox::{FarProcess, LocalModel, SandboxError, WorkerEnd};
use rustix::fs::{Mode, OFlags};
use tokio::sync::oneshot;

use crate::far::start_events;
use crate::kernel::{Kernel, WeakKernel};

/// What a receipt calls its process.
const ROLE: &str = "model";
/// The provider's name.
pub(crate) const PROVIDER: &str = "local";

/// The models that this machine runs itself.
#[derive(Debug, Clone, Default)]
pub struct LocalConfig {
    /// Each of them.
    pub models: Vec<LocalWeights>,
    /// Names that mean one of them, and which.
    pub aliases: Vec<(ModelName, ModelName)>,
    /// Tokens of one conversation.
    pub window: Tokens,
    /// Threads that compute.
    pub threads: u32,
}

/// One of them: where its weights lie in the daemon's own state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalWeights {
    /// What it is called.
    pub name: ModelName,
    /// The file.
    pub file: PathBuf,
    /// Its size when it was added.
    pub bytes: Bytes,
    /// Tokens of one conversation.
    pub window: Tokens,
}

/// The one process, and who it is described as.
#[derive(Debug)]
pub(crate) struct LocalHost {
    provider: ProviderState,
    place: Arc<Place>,
}

#[derive(Debug)]
struct Place {
    config: LocalConfig,
    kernel: WeakKernel,
    held: Mutex<Option<Held>>,
    /// Held while a process is started or ended.
    starting: tokio::sync::Mutex<()>,
}

/// Who waits for a process.
type Asker = oneshot::Sender<Result<Connection, ModelFailure>>;

#[derive(Debug)]
struct Held {
    weights: LocalWeights,
    connection: Connection,
    process: FarProcess,
    worker: WorkerId,
    last_used: Timestamp,
}

impl LocalConfig {
    /// How the provider is described; none where there are no models.
    pub(crate) fn provider(&self, has_program: bool) -> Option<ProviderState> {
        let name = ProviderName::parse(PROVIDER).ok()?;
        let no_program = "the program aaos-model is missing beside agentd: build it, or set AAOS_LIBEXEC_DIR";
        (!self.models.is_empty()).then(|| ProviderState {
            name,
            models: self.models.iter().map(|one| one.name.clone()).collect(),
            aliases: self.aliases.iter().map(|(alias, _)| alias.clone()).collect(),
            any_model: false,
            has_key: false,
            problem: (!has_program).then(|| no_program.to_owned()),
            slots: Some(1),
            rates: Rates::default(),
            // It is started when it is asked.
            standing: if has_program { Standing::Reachable } else { Standing::Unchecked },
        })
    }

    /// Puts the provider among the gateway's: first where the aliases are its own, else before the planner, but never
    /// before the active one.
    pub(crate) fn place_in(&self, providers: &mut Vec<ProviderState>, own: ProviderState) {
        let planner = providers.iter().position(|one| one.name.as_str() == "builtin");
        let place = match (self.aliases.is_empty(), planner) {
            (false, _) => 0,
            (true, Some(planner)) => planner.max(1),
            (true, None) => providers.len(),
        };
        providers.insert(place, own);
    }
}

impl LocalHost {
    /// None where there are no models.
    pub(crate) fn new(kernel: &Kernel) -> Option<Arc<Self>> {
        let config = kernel.config().local.clone();
        let provider = config.provider(kernel.sandbox().has_model_program())?;
        let place = Place {
            config,
            kernel: kernel.downgrade(),
            held: Mutex::default(),
            starting: Default::default(),
        };
        Some(Arc::new(Self { provider, place: Arc::new(place) }))
    }

    /// Ends the process if nobody has asked it anything for long.
    pub(crate) async fn end_if_idle(&self, now: Timestamp) {
        // Where one is being started, somebody asks.
        let Ok(_starting) = self.place.starting.try_lock() else { return };
        let idle = {
            let mut held = self.place.held();
            let is_idle = held.as_mut().is_some_and(|one| {
                if !one.connection.is_idle() {
                    one.last_used = now;
                }
                now.since(one.last_used) >= Millis(MODEL_IDLE_MS)
            });
            if is_idle { held.take() } else { None }
        };
        if let (Some(held), Some(kernel)) = (idle, self.place.kernel.upgrade()) {
            bury(&kernel, held.worker, held.process.stop().await).await;
        }
    }

    /// Tokens of one conversation with a model of its own.
    pub(crate) fn window(&self, model: &ModelName) -> Option<Tokens> {
        self.weights(model).map(|weights| weights.window)
    }

    fn weights(&self, model: &ModelName) -> Option<&LocalWeights> {
        let route = route(std::slice::from_ref(&self.provider), model);
        let name = route.map_or_else(|| model.clone(), |route| route.model);
        let config = &self.place.config;
        let means = config.aliases.iter().find(|(alias, _)| *alias == name).map_or(&name, |(_, means)| means);
        config.models.iter().find(|one| one.name == *means)
    }
}

impl Host for LocalHost {
    fn provider(&self) -> &ProviderState {
        &self.provider
    }

    fn connected(&self, model: &ModelName) -> Option<Connection> {
        self.place.connected(self.weights(model)?)
    }

    fn connect<'a>(&'a self, model: &'a ModelName) -> Awaited<'a, Result<Connection, ModelFailure>> {
        Box::pin(async move {
            let weights = self.weights(model).cloned().ok_or_else(|| {
                failure(
                    ModelFailureKind::UnknownModel,
                    &format!(
                        "no local model is called {model}; `agentd model list` names those that are there"
                    ),
                )
            })?;
            let Some(kernel) = self.place.kernel.upgrade() else { return Err(closing()) };
            let (place, tasks) = (Arc::clone(&self.place), kernel.tasks().clone());
            // In a task of its own: who asked may go, and whoever is next finds what was begun.
            let (tell, told) = oneshot::channel();
            drop(tasks.spawn(async move { place.start_for(&kernel, weights, tell).await }));
            told.await.unwrap_or_else(|_| Err(closing()))
        })
    }

    fn lost<'a>(&'a self, connection: &'a Connection, noticed: &'a str) -> Awaited<'a, ModelFailure> {
        Box::pin(async move {
            let Some(kernel) = self.place.kernel.upgrade() else { return closing() };
            let (place, tasks) = (Arc::clone(&self.place), kernel.tasks().clone());
            let connection = connection.clone();
            // In a task of its own: its end is journalled even if who asked goes.
            let lost = async move { place.lose(&kernel, &connection).await };
            let ended = tasks.spawn(lost).await.unwrap_or_default();
            let known = ended.map_or_else(String::new, |reason| format!("; {reason}"));
            let words = format!(
                "the process of the local model is gone ({noticed}{known}); the next call starts another"
            );
            failure(ModelFailureKind::Unavailable, &words)
        })
    }
}

impl Place {
    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connected(&self, weights: &LocalWeights) -> Option<Connection> {
        let now = self.kernel.upgrade()?.clock().now();
        let mut held = self.held();
        let held = held.as_mut().filter(|one| one.weights == *weights && !one.connection.is_closed())?;
        held.last_used = now;
        Some(held.connection.clone())
    }

    /// Ends the process behind this connection, if it is the one that there is, and says how it ended.
    async fn lose(&self, kernel: &Kernel, connection: &Connection) -> Option<String> {
        let _starting = self.starting.lock().await;
        let held = self.held().take_if(|one| one.connection.is(connection))?;
        let end = held.process.bury().await;
        let reason = end.reason.clone();
        bury(kernel, held.worker, end).await;
        Some(reason)
    }

    /// Starts the process of this model for somebody, unless they have gone before it is their turn.
    async fn start_for(&self, kernel: &Kernel, weights: LocalWeights, tell: Asker) {
        let _starting = self.starting.lock().await;
        if !tell.is_closed() {
            // Whoever has gone meanwhile leaves it to the next.
            drop(tell.send(self.start(kernel, weights).await));
        }
    }

    /// Has the process of this model, in the place of whichever there was.
    async fn start(&self, kernel: &Kernel, weights: LocalWeights) -> Result<Connection, ModelFailure> {
        if let Some(connection) = self.connected(&weights) {
            return Ok(connection);
        }
        let earlier = self.held().take();
        if let Some(held) = earlier {
            bury(kernel, held.worker, held.process.stop().await).await;
        }
        let LocalModel { stream, receipt, process, .. } = tokio::select! {
            launched = launch(kernel, &self.config, &weights) => launched?,
            () = kernel.closing().cancelled() => return Err(closing()),
        };
        let connection = Connection::over(stream);
        let (worker, last_used) = (receipt.worker, kernel.clock().now());
        let held = Held { weights, connection: connection.clone(), process, worker, last_used };
        *self.held() = Some(held);
        Ok(connection)
    }
}

/// Launches it, records how it is confined, and hands it its weights.
async fn launch(
    kernel: &Kernel,
    config: &LocalConfig,
    weights: &LocalWeights,
) -> Result<LocalModel, ModelFailure> {
    let file = open(weights)?;
    let locked = kernel.sandbox().lock_model(weights.bytes, config.threads).await;
    let locked = locked.map_err(|error| of_launch(&error))?;
    let worker = locked.receipt().worker;
    let events = start_events(locked.receipt(), locked.missing(), ROLE);
    let entries = events.into_iter().map(|event| kernel.entry(None, None, event)).collect();
    if let Err(error) = kernel.journal().record_all(entries).await {
        return Err(failure(ModelFailureKind::Unavailable, &error.to_string()));
    }
    let setup = LocalSetup {
        task: LocalTask::Serve,
        file_bytes: weights.bytes,
        window: config.window,
        threads: config.threads,
    };
    match locked.load(file.into(), &setup).await {
        Ok(model) => Ok(model),
        Err(error) => {
            let end =
                WorkerEnd { reason: error.to_string(), stderr_tail: String::new(), out_of_memory: None };
            bury(kernel, worker, end).await;
            Err(of_launch(&error))
        }
    }
}

/// Opens the weights: the very file that was added, as far as its size says.
fn open(weights: &LocalWeights) -> Result<File, ModelFailure> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(&weights.file, flags, Mode::empty()).map(File::from);
    let is_whole =
        |file: &File| file.metadata().is_ok_and(|facts| facts.is_file() && facts.len() == weights.bytes.0);
    opened.ok().filter(is_whole).ok_or_else(|| {
        let name = &weights.name;
        failure(
            ModelFailureKind::Rejected,
            &format!(
                "the weights of {name} are gone or changed; `agentd model remove {name}` and add them again"
            ),
        )
    })
}

async fn bury(kernel: &Kernel, worker: WorkerId, end: WorkerEnd) {
    let event = Event::WorkerStopped { worker, reason: end.reason, stderr_tail: end.stderr_tail };
    kernel.record_or_log(kernel.entry(None, None, event)).await;
}

fn of_launch(error: &SandboxError) -> ModelFailure {
    let kind = match error {
        SandboxError::Weights(_) => ModelFailureKind::Rejected,
        _ => ModelFailureKind::Unavailable,
    };
    failure(kind, &format!("the local model cannot be started: {error}"))
}

fn closing() -> ModelFailure {
    failure(ModelFailureKind::Unavailable, "the daemon is closing; the local model is not started any more")
}

fn failure(kind: ModelFailureKind, message: &str) -> ModelFailure {
    ModelFailure { kind, message: message.to_owned(), retry_after: None }
}

#[cfg(test)]
mod tests {
    use aaos_core::model::ProviderState;
    use aaos_core::name::{ModelName, ProviderName};
    use aaos_core::quantity::{Bytes, Tokens};

    use super::{LocalConfig, LocalWeights};

    fn model(name: &str) -> ModelName {
        ModelName::parse(name).expect("a name")
    }

    fn local(is_active: bool) -> LocalConfig {
        let aliases = if is_active { vec![(model("smart"), model("small"))] } else { Vec::new() };
        let weights =
            LocalWeights { name: model("small"), file: "/w".into(), bytes: Bytes(1), window: Tokens(1) };
        LocalConfig { models: vec![weights], aliases, ..LocalConfig::default() }
    }

    #[test]
    fn the_active_provider_stands_first_and_the_planner_behind_a_local_model() {
        for (others, is_active, wanted) in [
            (&["builtin"][..], true, &["local", "builtin"][..]),
            (&["builtin"], false, &["builtin", "local"]),
            (&["openai", "builtin"], false, &["openai", "local", "builtin"]),
            (&["openai", "builtin"], true, &["local", "openai", "builtin"]),
            (&["builtin", "openai"], false, &["builtin", "local", "openai"]),
            (&["openai"], false, &["openai", "local"]),
        ] {
            let config = local(is_active);
            let own = config.provider(true).expect("there is a model");
            let of = |name: &&str| ProviderState {
                name: ProviderName::parse(name).expect("a name"),
                ..own.clone()
            };
            let mut providers: Vec<ProviderState> = others.iter().map(of).collect();
            config.place_in(&mut providers, own.clone());
            let names: Vec<&str> = providers.iter().map(|one| one.name.as_str()).collect();
            assert_eq!(names, wanted);
        }
    }

    #[test]
    fn without_models_there_is_no_provider_and_without_a_program_a_problem() {
        assert_eq!(LocalConfig::default().provider(true), None);
        assert_eq!(local(true).provider(true).expect("one").problem, None);
        assert!(
            local(true).provider(false).expect("one").problem.is_some_and(|why| why.contains("aaos-model"))
        );
    }
}
