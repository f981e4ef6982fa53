//! The kernel's hold on far processes: an agent's worker and the two gateway roles.
//!
//! Invariants: a worker serves one agent for its whole life and runs one call at a time; every start and end
//! of one is journalled with its receipt; when confinement cannot be had the call fails, it never runs here.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use aaos_core::confinement::{Boundary, ConfinementReceipt, ResourceUsage};
use aaos_core::effect::{EffectClass, ToolOutcome};
use aaos_core::event::Event;
use aaos_core::id::{AgentId, CallId, GoalId};
use aaos_core::name::ProviderName;
use aaos_core::path::AbsPath;
use aaos_core::quantity::{Amounts, Millis, Quantity, Timestamp};
use aaos_core::tool::ToolCall;
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use aaos_core::wire::{ModelsSetup, encode_frame};
use aaos_core::world::World;
use aaos_journal::{Permit, Receipt};
use aaos_llm::{Models, ModelsConfig};
use aaos_sandbox::{
    Egress, FarProcess, FetchedPage, GatewayRole, Gauge, OpenedProgram, SandboxError, Worker, WorkerKiller,
};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroize;

use crate::cassette::Cassette;
use crate::dispatch::cancelled;
use crate::error::KernelError;
use crate::kernel::Kernel;
use crate::keyfile::KeyFile;
use crate::recovery::UNKNOWN_OUTCOME;
use crate::registry::Agent;
use crate::spans::SpanExport;

/// What a worker that is lent does.
type Lent<'w, T> = Pin<Box<dyn Future<Output = Result<T, ToolFailure>> + Send + 'w>>;

/// A worker that has had nothing to do for this long is ended.
const WORKER_IDLE: Millis = Millis(30_000);

/// The place for an agent's worker: empty until first need, and again after it was idle or died.
#[derive(Debug, Default)]
pub(crate) struct WorkerSlot {
    /// Held for the length of one call: calls of one agent queue here.
    worker: tokio::sync::Mutex<Option<Held>>,
    shown: Mutex<Shown>,
}

#[derive(Debug)]
struct Held {
    worker: Worker,
    last_used: Timestamp,
}

#[derive(Debug, Default)]
struct Shown {
    receipt: Option<ConfinementReceipt>,
    killer: Option<WorkerKiller>,
    gauge: Option<Gauge>,
    /// The call that runs in it.
    call: Option<CallId>,
}

impl WorkerSlot {
    pub(crate) fn receipt(&self) -> Option<ConfinementReceipt> {
        self.shown().receipt.clone()
    }

    /// What the worker uses of the machine; `None` while there is none.
    pub(crate) fn usage(&self) -> Option<ResourceUsage> {
        let gauge = self.shown().gauge.clone();
        gauge.and_then(|gauge| gauge.read())
    }

    fn shown(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the worker at once if it runs this call.
    pub(crate) fn kill_call(&self, call: CallId) {
        let shown = self.shown();
        if let Some(killer) = shown.killer.as_ref().filter(|_| shown.call == Some(call)) {
            killer.kill();
        }
    }

    /// Ends the worker at once, whatever it does; a call in flight fails.
    pub(crate) fn kill(&self) {
        if let Some(killer) = &self.shown().killer {
            killer.kill();
        }
    }
}

/// The gateway connections, each started on first need and again after it was lost. The `models` role takes the
/// provider keys with it: those that were given are handed over once and erased here, so their providers end with the
/// role; those in files are opened anew for each.
#[derive(Debug)]
pub(crate) struct Gateways {
    setup: Mutex<ModelsSetup>,
    key_files: BTreeMap<ProviderName, KeyFile>,
    cassette: Option<Cassette>,
    /// For readers of metrics; agentd accepts nobody on it, and each `models` role is handed it.
    listener: Option<OwnedFd>,
    /// Where spans go, which the `models` role sends.
    spans: Option<SpanExport>,
    models: tokio::sync::Mutex<Option<Role<Models>>>,
    egress: tokio::sync::Mutex<Option<Role<Egress>>>,
}

/// One gateway role: its client, and the process, which ends when this is dropped.
#[derive(Debug)]
struct Role<C> {
    client: C,
    _process: FarProcess,
}

/// Why a provider whose key was given is not asked by a further `models` role.
const KEY_GONE: &str = "the models gateway ended, and with it the keys that came in the environment; restart agentd with \
                        them, or keep this one in a key file";

impl Gateways {
    pub(crate) fn new(
        setup: ModelsSetup,
        key_files: BTreeMap<ProviderName, KeyFile>,
        cassette: Option<Cassette>,
        listener: Option<OwnedFd>,
        spans: Option<SpanExport>,
    ) -> Self {
        let (models, egress) = (Default::default(), Default::default());
        Self { setup: Mutex::new(setup), key_files, cassette, listener, spans, models, egress }
    }

    fn setup(&self) -> std::sync::MutexGuard<'_, ModelsSetup> {
        self.setup.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether metrics are served.
    pub(crate) const fn serves_metrics(&self) -> bool {
        self.listener.is_some()
    }

    /// Calls waiting or running at the `models` role, if it is up and nobody is starting it.
    pub(crate) fn queue_depth(&self) -> usize {
        let held = self.models.try_lock().ok();
        held.and_then(|held| held.as_ref().map(|role| role.client.queue_depth())).unwrap_or(0)
    }

    /// The `models` role, started if need be.
    pub(crate) async fn models(&self, kernel: &Kernel, config: ModelsConfig) -> Result<Models, KernelError> {
        let mut held = self.models.lock().await;
        if let Some(role) = held.as_ref().filter(|role| !role.client.is_closed()) {
            return Ok(role.client.clone());
        }
        let (frame, handed) = self.handover()?;
        let (stream, process) = launch(kernel, GatewayRole::Models, frame, &handed).await?;
        forget_keys(&mut self.setup());
        // What a provider asked for holds for whoever asks it next.
        let client = match held.as_ref() {
            Some(role) => role.client.over_again(stream),
            None => match kernel.local() {
                Some(host) => Models::new(stream, config).beside(host),
                None => Models::new(stream, config),
            },
        };
        *held = Some(Role { client: client.clone(), _process: process });
        Ok(client)
    }

    /// The setup frame and what rides on it: key files, a cassette, a listener, headers. A key file that is not fit is told,
    /// and is its provider's problem.
    fn handover(&self) -> Result<(Vec<u8>, Vec<OwnedFd>), KernelError> {
        let mut setup = self.setup();
        let mut keys = Vec::new();
        for provider in &mut setup.providers {
            let Some(file) = self.key_files.get(&provider.name) else { continue };
            let opened = file.open();
            provider.key_follows = opened.is_ok();
            provider.problem = opened.as_ref().err().map(ToString::to_string);
            match opened {
                Ok(descriptor) => keys.push(descriptor),
                Err(error) => {
                    tracing::error!(provider = %provider.name, %error, "the provider cannot be used")
                }
            }
        }
        if let Some(cassette) = &self.cassette {
            let handed = cassette.hand_over().map_err(|error| KernelError::Sandbox(error.to_string()))?;
            setup.cassette = Some(handed.0);
            keys.push(handed.1);
        }
        if let Some(listener) = &self.listener {
            setup.metrics = true;
            keys.push(listener.try_clone().map_err(|error| KernelError::Sandbox(error.to_string()))?);
        }
        if let Some((spans, headers)) = self.spans.as_ref().map(SpanExport::hand_over) {
            setup.spans = Some(spans);
            keys.extend(headers);
        }
        let frame = encode_frame(&*setup).map_err(|error| KernelError::Sandbox(error.to_string()))?;
        Ok((frame, keys))
    }

    /// The `egress` role, started if need be.
    pub(crate) async fn egress(&self, kernel: &Kernel) -> Result<Egress, KernelError> {
        let mut held = self.egress.lock().await;
        if let Some(role) = held.as_ref().filter(|role| !role.client.is_closed()) {
            return Ok(role.client.clone());
        }
        let (stream, process) = launch(kernel, GatewayRole::Egress, Vec::new(), &[]).await?;
        let client = Egress::new(stream);
        *held = Some(Role { client: client.clone(), _process: process });
        Ok(client)
    }
}

/// Erases the keys that were handed over.
fn forget_keys(setup: &mut ModelsSetup) {
    for provider in &mut setup.providers {
        if let Some(mut key) = provider.key.take() {
            key.zeroize();
            provider.problem = Some(KEY_GONE.to_owned());
        }
    }
}

async fn launch(
    kernel: &Kernel,
    role: GatewayRole,
    setup: Vec<u8>,
    keys: &[OwnedFd],
) -> Result<(UnixStream, FarProcess), KernelError> {
    let gateway = kernel.sandbox().launch_gateway(role, setup, keys).await;
    let gateway = gateway.map_err(|error| KernelError::Sandbox(error.to_string()))?;
    kernel.journal_gateway(&gateway.receipt, role, &gateway.missing).await?;
    Ok((gateway.stream, gateway.process))
}

/// Whom a worker works for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WorkerOwner {
    pub(crate) agent: AgentId,
    pub(crate) goal: Option<GoalId>,
}

impl Kernel {
    async fn journal_gateway(
        &self,
        receipt: &ConfinementReceipt,
        role: GatewayRole,
        missing: &[Boundary],
    ) -> Result<(), KernelError> {
        let events = receipt_events(receipt, missing, role.name());
        let entries = events.map(|event| self.entry(None, None, event)).collect();
        self.journal().record_all(entries).await?;
        Ok(())
    }

    /// Runs a tool call in the agent's worker, which is started if need be.
    pub(crate) async fn run_in_worker(
        &self,
        slot: &WorkerSlot,
        owner: WorkerOwner,
        cancel: &CancellationToken,
        permit: Permit<ToolCall>,
        page: Option<FetchedPage>,
    ) -> Receipt<ToolCall> {
        let begun = self.clock().now();
        // What the network brought is moved, whatever becomes of it here.
        let moved = Amounts::of(Quantity::EgressBytes, page.as_ref().map_or(0, |page| page.received.0));
        let failed =
            |failure| ToolOutcome { moved, ..ToolOutcome::failed(failure, self.clock().since(begun)) };
        let waited = tokio::select! {
            held = slot.worker.lock() => Some(held),
            () = cancel.cancelled() => None,
        };
        let Some(mut held) = waited else {
            let failure = not_made_again(&permit);
            return permit.settle(failed(failure));
        };
        let filled = match cancel.is_cancelled() {
            true => Err(cancelled()),
            // Given up half-way it leaves the place empty, and no process.
            false => tokio::select! {
                filled = self.fill_slot(slot, &mut held, owner) => filled.map_err(KernelError::into_tool_failure),
                () = cancel.cancelled() => Err(cancelled()),
            },
        };
        // Whoever stops an agent, or revokes a grant, cancels first and kills the worker then: either the killer
        // finds this worker with this call, or the cancellation is seen here.
        slot.shown().call = Some(permit.call());
        let ready = filled.and_then(|()| if cancel.is_cancelled() { Err(cancelled()) } else { Ok(()) });
        if let Err(failure) = ready {
            slot.shown().call = None;
            let failure = if cancel.is_cancelled() { not_made_again(&permit) } else { failure };
            return permit.settle(failed(failure));
        }
        let Some(one) = held.as_mut() else {
            unreachable!("the slot was filled under the same lock");
        };
        let receipt = one.worker.run(permit, self.roots(), page).await;
        slot.shown().call = None;
        one.last_used = self.clock().now();
        // A worker that was killed may look alive for a moment; the next call is not to meet it.
        if !one.worker.is_usable() || cancel.is_cancelled() {
            self.empty_slot(slot, &mut held, owner).await;
        }
        receipt
    }

    /// Opens a program, and where it is a script its interpreter, which the agent's worker finds out; it is started if
    /// need be.
    pub(crate) async fn open_program(
        &self,
        agent: &Agent,
        stop: &CancellationToken,
        program: &AbsPath,
        world: &World,
    ) -> Result<OpenedProgram, ToolFailure> {
        let (program, world, roots) = (program.clone(), world.clone(), self.roots().clone());
        self.lend_worker(agent, stop, |worker| {
            Box::pin(async move { worker.open_program(&program, &world, &roots).await })
        })
        .await
    }

    /// Has an agent's worker do what comes before or after a program, until `stop`; it is started if need be.
    pub(crate) async fn lend_worker<T>(
        &self,
        agent: &Agent,
        stop: &CancellationToken,
        work: impl for<'w> FnOnce(&'w mut Worker) -> Lent<'w, T> + Send,
    ) -> Result<T, ToolFailure> {
        let (slot, owner) = (&agent.worker, WorkerOwner { agent: agent.id, goal: agent.goal });
        let lent = async {
            let mut held = slot.worker.lock().await;
            self.fill_slot(slot, &mut held, owner).await.map_err(KernelError::into_tool_failure)?;
            let Some(one) = held.as_mut() else {
                unreachable!("the slot was filled under the same lock");
            };
            let done = work(&mut one.worker).await;
            one.last_used = self.clock().now();
            if !one.worker.is_usable() {
                self.empty_slot(slot, &mut held, owner).await;
            }
            done
        };
        // Given up half-way it leaves a worker that is replaced before the next call.
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(cancelled()),
            done = lent => done,
        }
    }

    /// Starts an agent's worker before its first call, so that missing confinement is told at once.
    pub(crate) async fn warm_worker(&self, slot: &WorkerSlot, owner: WorkerOwner) -> Result<(), KernelError> {
        let mut held = slot.worker.lock().await;
        self.fill_slot(slot, &mut held, owner).await
    }

    async fn fill_slot(
        &self,
        slot: &WorkerSlot,
        held: &mut Option<Held>,
        owner: WorkerOwner,
    ) -> Result<(), KernelError> {
        match held {
            Some(one) if one.worker.is_usable() => return Ok(()),
            // Its last call was given up half-way.
            Some(_) => self.empty_slot(slot, held, owner).await,
            None => {}
        }
        let worker = self.sandbox().take_worker().await;
        let worker = worker.map_err(|error: SandboxError| KernelError::Sandbox(error.to_string()))?;
        self.journal_start(&worker, owner).await?;
        self.show_degraded(worker.missing());
        *slot.shown() = Shown {
            receipt: Some(worker.receipt().clone()),
            killer: Some(worker.killer()),
            gauge: worker.gauge(),
            call: None,
        };
        *held = Some(Held { worker, last_used: self.clock().now() });
        Ok(())
    }

    async fn journal_start(&self, worker: &Worker, owner: WorkerOwner) -> Result<(), KernelError> {
        // Not waited for: a receipt is a record of what was observed, and the first call that is not safe
        // waits for its own, later entry.
        for event in start_events(worker.receipt(), worker.missing(), "worker") {
            self.journal().note(self.entry(owner.goal, Some(owner.agent), event))?;
        }
        Ok(())
    }

    /// Ends the agent's worker, if it has one.
    pub(crate) async fn end_worker(&self, slot: &WorkerSlot, owner: WorkerOwner) {
        let mut held = slot.worker.lock().await;
        self.empty_slot(slot, &mut held, owner).await;
    }

    /// Ends the agent's worker if it is idle for long and no call runs.
    pub(crate) async fn end_idle_worker(&self, slot: &WorkerSlot, owner: WorkerOwner) {
        let Ok(mut held) = slot.worker.try_lock() else { return };
        if held.as_ref().is_some_and(|one| self.clock().since(one.last_used) >= WORKER_IDLE) {
            self.empty_slot(slot, &mut held, owner).await;
        }
    }

    async fn empty_slot(&self, slot: &WorkerSlot, held: &mut Option<Held>, owner: WorkerOwner) {
        let Some(one) = held.take() else { return };
        *slot.shown() = Shown::default();
        let worker = one.worker.id();
        let end = one.worker.stop().await;
        let event = Event::WorkerStopped { worker, reason: end.reason, stderr_tail: end.stderr_tail };
        self.record_or_log(self.entry(owner.goal, Some(owner.agent), event)).await;
    }
}

/// Why a call that was cancelled before it ran has no result. One that an earlier daemon began may have been done then.
fn not_made_again(permit: &Permit<ToolCall>) -> ToolFailure {
    if permit.is_resumed() && permit.effect().input.class() != EffectClass::Safe {
        return ToolFailure::new(ToolFailureKind::WorkerLost, UNKNOWN_OUTCOME);
    }
    cancelled()
}

/// What the journal says of a worker or a local model that was started: who, how it is confined, and what it lacks.
pub(crate) fn start_events(receipt: &ConfinementReceipt, missing: &[Boundary], role: &str) -> Vec<Event> {
    let started = Event::WorkerStarted { worker: receipt.worker, pid: receipt.pid };
    [started].into_iter().chain(receipt_events(receipt, missing, role)).collect()
}

/// What the journal says of how a far process is confined, and of what it lacks.
pub(crate) fn receipt_events(
    receipt: &ConfinementReceipt,
    missing: &[Boundary],
    role: &str,
) -> impl Iterator<Item = Event> + use<> {
    let told = Event::ConfinementReceipt { receipt: receipt.clone(), role: role.to_owned() };
    let lacking = Event::ConfinementDegraded { worker: receipt.worker, missing: missing.to_vec() };
    [told].into_iter().chain((!missing.is_empty()).then_some(lacking))
}

#[cfg(test)]
mod tests {
    use super::{Gateways, KEY_GONE, forget_keys, start_events};
    use crate::keyfile::KeyFile;
    use aaos_core::confinement::{Boundary, ConfinementReceipt, Substrate};
    use aaos_core::id::WorkerId;
    use aaos_core::name::ProviderName;
    use aaos_core::wire::{ModelsSetup, ProviderSetup, WireFormat};
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;

    fn setup(key: Option<&str>) -> ModelsSetup {
        let provider = ProviderSetup {
            name: ProviderName::parse("openai").expect("name"),
            format: WireFormat::OpenAi,
            base_url: "http://127.0.0.1:1".to_owned(),
            key: key.map(ToOwned::to_owned),
            models: Vec::new(),
            any_model: true,
            headers: Vec::new(),
            slots: None,
            rates: aaos_core::model::Rates::default(),
            problem: None,
            key_follows: false,
        };
        ModelsSetup { providers: vec![provider], ..ModelsSetup::default() }
    }

    #[test]
    fn a_worker_that_lacks_a_preferred_boundary_is_recorded_as_degraded() {
        let receipt = ConfinementReceipt {
            worker: "0190a5e8-7c1b-7000-8000-0123456789ab".parse::<WorkerId>().expect("an id"),
            pid: 7,
            substrate: Substrate::Process,
            landlock_abi: 7,
            landlock_rules_hash: "00".to_owned(),
            seccomp_filter_hash: "00".to_owned(),
            boundaries: Vec::new(),
        };
        let kinds = |missing: &[Boundary]| -> Vec<_> {
            start_events(&receipt, missing, "worker").iter().map(aaos_core::event::Event::kind).collect()
        };
        assert_eq!(kinds(&[]), ["worker_started", "confinement_receipt"]);
        assert_eq!(
            kinds(&[Boundary::NetNamespace]),
            ["worker_started", "confinement_receipt", "confinement_degraded"]
        );
    }

    #[test]
    fn keys_are_handed_over_once() {
        let gateways = |setup| Gateways::new(setup, BTreeMap::new(), None, None, None);
        let with_key = gateways(setup(Some("secret")));
        let holds = |frame: &[u8]| String::from_utf8_lossy(frame).contains("secret");
        let (frame, _) = with_key.handover().expect("a frame");
        assert!(holds(&frame), "the control");
        forget_keys(&mut with_key.setup());
        assert_eq!(with_key.setup().providers[0].problem.as_deref(), Some(KEY_GONE));
        let (frame, _) = with_key.handover().expect("a frame");
        assert!(!holds(&frame));
        let mut without = setup(None);
        forget_keys(&mut without);
        assert_eq!(without, setup(None), "a role without keys can be started again");
    }

    #[test]
    fn a_key_file_is_opened_for_each_role_as_it_is_then() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("key");
        std::fs::write(&path, "secret").expect("written");
        let mode =
            |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
        let setup = setup(None);
        let files = BTreeMap::from([(setup.providers[0].name.clone(), KeyFile::of_operator(path.clone()))]);
        let gateways = Gateways::new(setup, files, None, None, None);
        for (of_file, follows) in [(0o600, true), (0o644, false), (0o600, true)] {
            mode(of_file);
            let (frame, keys) = gateways.handover().expect("a frame");
            let mut setup = gateways.setup();
            forget_keys(&mut setup);
            assert!(!String::from_utf8_lossy(&frame).contains("secret"), "it is never read here");
            assert_eq!((keys.len(), setup.providers[0].key_follows), (usize::from(follows), follows));
            assert_eq!(setup.providers[0].problem.is_none(), follows, "{:?}", setup.providers[0].problem);
        }
    }
}
