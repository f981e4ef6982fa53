//! The kernel's handle and its shared parts.
//!
//! Invariants: one lock for the table, one for the authority, taken one at a time and never across an await.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use aaos_core::authority::Authority;
use aaos_core::confinement::Boundary;
use aaos_core::event::{Event, NewEntry};
use aaos_core::id::{AgentId, GoalId, TraceId};
use aaos_core::limits::MAX_SURVEYS_AT_ONCE;
use aaos_core::model::{ModelFailure, ModelFailureKind, ProviderState};
use aaos_core::name::{ModelName, ProviderName};
use aaos_core::route;
use aaos_core::tool::CATALOGUE;
use aaos_core::wire::ModelsSetup;
use aaos_journal::{About, Journal};
use aaos_llm::Models;
use aaos_sandbox::{Egress, RootTable, Sandbox};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::appends::AppendTurns;
use crate::cassette::Cassette;
use crate::clock::Clock;
use crate::config::KernelConfig;
use crate::context::Ratios;
use crate::dispatch::Schemas;
use crate::error::KernelError;
use crate::far::Gateways;
use crate::figures::Figures;
use crate::goals::Goal;
use crate::keyfile::KeyFile;
use crate::local::LocalHost;
use crate::places::Places;
use crate::principal::{Principal, Right};
use crate::quiet::Quiet;
use crate::registry::{Agent, Table};
use crate::revocation::RunningCalls;
use crate::schedules::Schedules;
use crate::spans::{SpanExport, Spans};
use crate::standing::Standings;
use crate::unfinished::Unfinished;
use crate::view::{RuntimeStatus, ToolView, UnknownEffect};

/// The kernel; clones share it.
#[derive(Clone, Debug)]
pub struct Kernel {
    inner: Arc<Inner>,
}

/// The kernel, for what it holds itself.
#[derive(Clone, Debug)]
pub(crate) struct WeakKernel(Weak<Inner>);

impl WeakKernel {
    /// The kernel, while there is one.
    pub(crate) fn upgrade(&self) -> Option<Kernel> {
        self.0.upgrade().map(|inner| Kernel { inner })
    }
}

#[derive(Debug)]
struct Inner {
    clock: Clock,
    config: KernelConfig,
    journal: Journal,
    sandbox: Sandbox,
    roots: RootTable,
    authority: Mutex<Authority>,
    table: Mutex<Table>,
    gateways: Gateways,
    local: OnceLock<Option<Arc<LocalHost>>>,
    fetch_places: Places,
    connection_places: Places,
    survey_places: Arc<Semaphore>,
    schemas: Schemas,
    tasks: TaskTracker,
    /// Cancelled first when the kernel closes: nothing new begins, what runs may end.
    closing: CancellationToken,
    /// Cancelled last: whatever still runs ends, unrecorded. Every agent hangs below it.
    halting: CancellationToken,
    closed: AtomicBool,
    budget_changed: Notify,
    running_calls: RunningCalls,
    append_turns: AppendTurns,
    schedules: Schedules,
    /// Held while a goal is accepted, so that one client key can never become two goals.
    submit_gate: tokio::sync::Mutex<()>,
    traces_changed: Notify,
    degraded: Mutex<Vec<Boundary>>,
    unknown: Mutex<Vec<UnknownEffect>>,
    unfinished: Unfinished,
    quiet: Quiet,
    ratios: Ratios,
    standings: Standings,
    figures: Figures,
    /// Spans of model calls, where they are sent.
    spans: Option<Spans>,
    /// What the operator's aliases mean, best first.
    aliases: Vec<(ModelName, ModelName)>,
}

/// What a kernel is built from.
#[derive(Debug)]
pub struct KernelParts {
    /// Configuration.
    pub config: KernelConfig,
    /// The open journal.
    pub journal: Journal,
    /// The launcher of far processes.
    pub sandbox: Sandbox,
    /// Providers, with their keys: handed to the `models` gateway and to nobody else, then erased here.
    pub models: ModelsSetup,
    /// Files with keys of these providers; opened here and read by the `models` gateway alone.
    pub key_files: BTreeMap<ProviderName, KeyFile>,
    /// The file for the traffic with them, where it is recorded or replayed.
    pub cassette: Option<Cassette>,
    /// Where metrics are read, if they are; handed to the `models` gateway, which accepts on it.
    pub metrics: Option<TcpListener>,
    /// Where spans of model calls go, if anywhere.
    pub spans: Option<SpanExport>,
    /// The clock, starting at the journal's last timestamp.
    pub clock: Clock,
}

impl Kernel {
    pub(crate) fn assemble(parts: KernelParts, authority: Authority, roots: RootTable) -> Self {
        Self {
            inner: Arc::new(Inner {
                clock: parts.clock,
                config: parts.config,
                journal: parts.journal,
                sandbox: parts.sandbox,
                roots,
                authority: Mutex::new(authority),
                table: Mutex::new(Table::default()),
                aliases: parts.models.aliases.clone(),
                spans: parts.spans.as_ref().map(|spans| Spans::new(spans.words)),
                gateways: Gateways::new(
                    parts.models,
                    parts.key_files,
                    parts.cassette,
                    parts.metrics.map(Into::into),
                    parts.spans,
                ),
                local: OnceLock::new(),
                fetch_places: Places::of_fetches(),
                connection_places: Places::of_connections(),
                survey_places: Arc::new(Semaphore::new(MAX_SURVEYS_AT_ONCE)),
                schemas: Schemas::default(),
                tasks: TaskTracker::new(),
                closing: CancellationToken::new(),
                halting: CancellationToken::new(),
                closed: AtomicBool::new(false),
                budget_changed: Notify::new(),
                running_calls: RunningCalls::default(),
                append_turns: AppendTurns::default(),
                schedules: Schedules::default(),
                submit_gate: tokio::sync::Mutex::new(()),
                traces_changed: Notify::new(),
                degraded: Mutex::new(Vec::new()),
                unknown: Mutex::new(Vec::new()),
                unfinished: Unfinished::default(),
                quiet: Quiet::default(),
                ratios: Ratios::default(),
                standings: Standings::default(),
                figures: Figures::default(),
            }),
        }
    }

    /// The journal.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.inner.journal
    }

    /// The clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    pub(crate) fn config(&self) -> &KernelConfig {
        &self.inner.config
    }

    pub(crate) fn sandbox(&self) -> &Sandbox {
        &self.inner.sandbox
    }

    pub(crate) fn roots(&self) -> &RootTable {
        &self.inner.roots
    }

    pub(crate) fn ratios(&self) -> &Ratios {
        &self.inner.ratios
    }

    pub(crate) fn schemas(&self) -> &Schemas {
        &self.inner.schemas
    }

    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.inner.tasks
    }

    /// Cancelled when the kernel closes: nothing new begins, what runs may end.
    #[must_use]
    pub fn closing(&self) -> &CancellationToken {
        &self.inner.closing
    }

    /// Whether nothing more is begun and no end is told: the daemon closes, or has to, since its journal takes nothing
    /// more. What is open then goes on after the next start.
    pub(crate) fn is_closing(&self) -> bool {
        self.inner.closing.is_cancelled() || self.inner.journal.has_failed()
    }

    /// Cancelled when whatever still runs has to end; every agent hangs below it.
    pub(crate) fn halting(&self) -> &CancellationToken {
        &self.inner.halting
    }

    pub(crate) fn running_calls(&self) -> &RunningCalls {
        &self.inner.running_calls
    }

    pub(crate) fn unfinished(&self) -> &Unfinished {
        &self.inner.unfinished
    }

    pub(crate) fn standings(&self) -> &Standings {
        &self.inner.standings
    }

    pub(crate) fn figures(&self) -> &Figures {
        &self.inner.figures
    }

    pub(crate) fn spans(&self) -> Option<&Spans> {
        self.inner.spans.as_ref()
    }

    /// What an alias means, best first; nothing where the name is none.
    pub(crate) fn meanings(&self, name: &ModelName) -> Vec<&ModelName> {
        let own = &self.config().local.aliases;
        self.inner
            .aliases
            .iter()
            .chain(own)
            .filter(|(alias, _)| alias == name)
            .map(|(_, means)| means)
            .collect()
    }

    pub(crate) fn gateways(&self) -> &Gateways {
        &self.inner.gateways
    }

    /// Every alias, once.
    pub(crate) fn alias_names(&self) -> Vec<&ModelName> {
        let own = &self.config().local.aliases;
        let mut names: Vec<&ModelName> =
            self.inner.aliases.iter().chain(own).map(|(alias, _)| alias).collect();
        names.dedup();
        names
    }

    pub(crate) fn quiet(&self) -> &Quiet {
        &self.inner.quiet
    }

    pub(crate) fn append_turns(&self) -> &AppendTurns {
        &self.inner.append_turns
    }

    pub(crate) fn schedules(&self) -> &Schedules {
        &self.inner.schedules
    }

    pub(crate) fn budget_changed(&self) -> &Notify {
        &self.inner.budget_changed
    }

    pub(crate) fn submit_gate(&self) -> &tokio::sync::Mutex<()> {
        &self.inner.submit_gate
    }

    pub(crate) fn traces_changed(&self) -> &Notify {
        &self.inner.traces_changed
    }

    pub(crate) fn authority(&self) -> MutexGuard<'_, Authority> {
        self.inner.authority.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        self.inner.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn models(&self) -> Result<Models, KernelError> {
        self.inner.gateways.models(self, self.config().limits.models()).await
    }

    /// The models that this machine runs itself, if any.
    pub(crate) fn local(&self) -> Option<Arc<LocalHost>> {
        self.inner.local.get_or_init(|| LocalHost::new(self)).clone()
    }

    pub(crate) fn downgrade(&self) -> WeakKernel {
        WeakKernel(Arc::downgrade(&self.inner))
    }

    pub(crate) async fn egress(&self) -> Result<Egress, KernelError> {
        self.inner.gateways.egress(self).await
    }

    pub(crate) fn fetch_places(&self) -> &Places {
        &self.inner.fetch_places
    }

    pub(crate) fn survey_places(&self) -> &Arc<Semaphore> {
        &self.inner.survey_places
    }

    pub(crate) fn connection_places(&self) -> &Places {
        &self.inner.connection_places
    }

    /// An entry at this moment.
    pub(crate) fn entry(&self, goal: Option<GoalId>, agent: Option<AgentId>, event: Event) -> NewEntry {
        NewEntry {
            timestamp: self.clock().now(),
            goal_id: goal,
            agent_id: agent,
            trace_id: None,
            parent_event: None,
            event,
        }
    }

    /// An entry about an agent at this moment.
    pub(crate) fn agent_entry(&self, agent: &Agent, event: Event) -> NewEntry {
        self.entry(agent.goal, Some(agent.id), event)
    }

    pub(crate) fn about(&self, agent: &Agent, trace: Option<TraceId>) -> About {
        About { timestamp: self.clock().now(), goal_id: agent.goal, trace_id: trace, parent_event: None }
    }

    /// Makes an entry durable where the caller has no way to fail: a journal that refuses it is poisoned and
    /// refuses every later intent too, so here the refusal is only logged.
    pub(crate) async fn record_or_log(&self, entry: NewEntry) {
        if let Err(error) = self.journal().record(entry).await {
            tracing::error!(%error, "an audit entry could not be journalled");
        }
    }

    /// Queues an entry that tells of progress and nothing depends on; when the queue is full it is only logged.
    pub(crate) fn note_or_log(&self, entry: NewEntry) {
        if let Err(error) = self.journal().note(entry) {
            tracing::error!(%error, "an audit entry could not be queued");
        }
    }

    pub(crate) fn show_degraded(&self, missing: &[Boundary]) {
        *self.inner.degraded.lock().unwrap_or_else(PoisonError::into_inner) = missing.to_vec();
    }

    /// Keeps in mind, for `status`, what an earlier daemon began and nobody knows the end of.
    pub(crate) fn show_unknown(&self, effects: Vec<UnknownEffect>) {
        *self.inner.unknown.lock().unwrap_or_else(PoisonError::into_inner) = effects;
    }

    /// One more of them.
    pub(crate) fn add_unknown(&self, effect: UnknownEffect) {
        self.inner.unknown.lock().unwrap_or_else(PoisonError::into_inner).push(effect);
    }

    fn unknown_effects(&self, caller: Principal) -> Vec<UnknownEffect> {
        let unknown = self.inner.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        unknown.iter().filter(|effect| caller.may_touch(effect.owner)).cloned().collect()
    }

    /// Refuses new work while closing.
    pub(crate) fn check_open(&self) -> Result<(), KernelError> {
        if self.inner.closed.load(Ordering::Acquire) || self.inner.journal.has_failed() {
            Err(KernelError::ShuttingDown)
        } else {
            Ok(())
        }
    }

    /// From here on new work is refused.
    pub(crate) fn close_doors(&self) {
        self.inner.closed.store(true, Ordering::Release);
    }

    /// The principal of a peer's uid, if that uid may speak to this daemon.
    #[must_use]
    pub fn admit(&self, uid: u32) -> Option<Principal> {
        self.config().principals.admit(uid)
    }

    /// An agent that this principal may touch.
    pub(crate) fn agent_for(&self, caller: Principal, id: AgentId) -> Result<Arc<Agent>, KernelError> {
        let found = self.table().agent(id).filter(|agent| caller.may_touch(agent.owner));
        found.ok_or_else(|| KernelError::unknown("agent", &id))
    }

    /// Every built-in tool.
    #[must_use]
    pub fn tools(&self) -> Vec<ToolView> {
        CATALOGUE
            .iter()
            .map(|tool| ToolView {
                name: tool.name.to_owned(),
                description: tool.description.to_owned(),
                input_schema: tool.input_schema(),
            })
            .collect()
    }

    /// Providers as the `models` gateway describes them, and this machine's own models among them.
    ///
    /// # Errors
    /// [`KernelError`] when the gateway cannot be started or asked.
    pub async fn providers(&self) -> Result<Arc<[ProviderState]>, KernelError> {
        let models = self.models().await?;
        let others = models.providers().await.map_err(|error| KernelError::Sandbox(error.to_string()))?;
        let local = &self.config().local;
        let Some(own) = local.provider(self.sandbox().has_model_program()) else { return Ok(others) };
        let mut providers = others.to_vec();
        local.place_in(&mut providers, own);
        Ok(Arc::from(providers))
    }

    /// Checks that some provider serves a model (SPEC §1: unknown is an error at spawn, listing what is known).
    pub(crate) async fn check_model(&self, model: &ModelName) -> Result<(), KernelError> {
        let providers = self.providers().await?;
        if route::provider_of(&providers, model).is_some() {
            return Ok(());
        }
        let known: Vec<String> = providers
            .iter()
            .flat_map(|one| one.aliases.iter().chain(&one.models))
            .map(ToString::to_string)
            .collect();
        Err(KernelError::Provider(ModelFailure {
            kind: ModelFailureKind::UnknownModel,
            message: format!("no provider serves the model {model}; known: {}", known.join(", ")),
            retry_after: None,
        }))
    }

    /// What the daemon is and how it stands; of what is not the caller's own, only to an administrator.
    pub async fn status(&self, caller: Principal) -> RuntimeStatus {
        let all = caller.may(Right::Administer);
        let (providers, providers_problem) = match all {
            true => self.provider_states().await,
            false => (Vec::new(), None),
        };
        let (agents, goals_running, goals_queued) = {
            let table = self.table();
            let mine = |goal: &&Goal| caller.may_touch(goal.owner);
            let of_mine = |id: &&GoalId| table.goals.get(id).as_ref().is_some_and(mine);
            (
                table.agents.values().filter(|agent| caller.may_touch(agent.owner)).count(),
                table.goals.values().filter(mine).filter(|goal| goal.is_running()).count(),
                table.queue.iter().filter(of_mine).count(),
            )
        };
        RuntimeStatus {
            version: self.config().version.clone(),
            commit: self.config().commit.clone(),
            providers,
            providers_problem,
            confinement_policy: self.sandbox().policy().clone(),
            daemon_confinement: self.config().daemon_confinement.clone().filter(|_| all),
            confinement_degraded: self.inner.degraded.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            agents,
            goals_running,
            goals_queued,
            inference_queue: all.then(|| self.inner.gateways.queue_depth()),
            calls: if all { self.call_reports() } else { Vec::new() },
            spans: self.spans().filter(|_| all).map(Spans::figures),
            parked_workers: all.then(|| self.sandbox().parked_workers()),
            journal_head: all.then(|| *self.journal().head().borrow()),
            unknown_effects: self.unknown_effects(caller),
            limits: self.config().limits,
        }
    }

    /// Providers with how they were found.
    fn shown(&self, providers: &[ProviderState]) -> Vec<ProviderState> {
        let mut shown = providers.to_vec();
        self.standings().show(&mut shown);
        shown
    }

    async fn provider_states(&self) -> (Vec<ProviderState>, Option<String>) {
        match self.providers().await {
            Ok(providers) => (self.shown(&providers), None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        }
    }
}
