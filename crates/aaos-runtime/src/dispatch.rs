//! The one dispatch of tool calls: validate, authorise, begin, act, finish, for every caller.
//!
//! Invariants: arguments are validated against the very schema the model was shown and parsed once; a malformed
//! call touches nothing; a denied one touches nothing and is journalled; once begun, a call's outcome is journalled whatever
//! the caller does meanwhile.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use aaos_core::authority::{Overdraft, Refusal, Settlement};
use aaos_core::budget::Shortfall;
use aaos_core::effect::{Authorized, Denied, Effect, ToolOutcome};
use aaos_core::event::{DeniedBy, Event};
use aaos_core::id::{CallId, EntryId, TraceId};
use aaos_core::limits;
use aaos_core::model::ModelCallId;
use aaos_core::quantity::{Amounts, Bytes, Millis, Quantity};
use aaos_core::state::State;
use aaos_core::tool::{self, CATALOGUE, ToolCall, ToolDescriptor, ToolInput, ToolPlace};
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use aaos_ipc::Schema;
use aaos_journal::{Finished, Permit, Receipt};
use aaos_sandbox::{Fetched, FetchedPage};
use tokio_util::sync::CancellationToken;

use crate::appends::Turn;
use crate::approvals::not_approved;
use crate::denials;
use crate::error::KernelError;
use crate::far::WorkerOwner;
use crate::kernel::Kernel;
use crate::recovery::UNKNOWN_OUTCOME;
use crate::registry::Agent;
use crate::revocation::revoked;
use crate::spawning_tools::Under;
use crate::waits::NotAdmitted;

/// Longest argument text of one call, bytes: a `file_write` of 1 MiB with every byte escaped.
const MAX_ARGUMENT_BYTES: usize = 6 * 1024 * 1024 + 64 * 1024;

/// Why a call is given up whose approval did not hold when it was to be used, again and again.
const CHANGED_ALL_THE_TIME: &str = "what it would change is changed by somebody else all the time";

/// What is said of a call under an approval that was begun before a restart and whose target is not what was approved.
const CHANGED_SINCE_APPROVED: &str = "agentd was killed while this ran, and what it would change is not what was \
    approved any more; whether it took effect is unknown, look before repeating it";

/// The compiled input schemas, made on first use.
#[derive(Debug, Default)]
pub(crate) struct Schemas {
    compiled: OnceLock<HashMap<&'static str, Schema>>,
}

impl Schemas {
    fn of(&self, tool: &ToolDescriptor) -> &Schema {
        let compiled = self.compiled.get_or_init(|| {
            let compile = |tool: &ToolDescriptor| match Schema::compile(&tool.input_schema()) {
                Ok(schema) => (tool.name, schema),
                Err(error) => unreachable!("the schema of {} is our own: {error}", tool.name),
            };
            CATALOGUE.iter().map(compile).collect()
        });
        &compiled[tool.name]
    }
}

/// What came of a call.
#[derive(Debug)]
pub(crate) struct Invoked {
    /// The JSON text of the result.
    pub(crate) result: Result<String, ToolFailure>,
    /// How often the agent made this very call since its last run began, this time included.
    pub(crate) count: u32,
    /// The entry that records just this outcome, where there is one: a call that was not begun has none.
    pub(crate) entry: Option<EntryId>,
}

impl Invoked {
    fn not_begun(failure: ToolFailure) -> Self {
        Self { result: Err(failure), count: 0, entry: None }
    }
}

/// On whose behalf a call is made.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked<'c> {
    /// The agent's model, and which of its calls it is.
    pub(crate) by_model: Option<&'c ModelCallId>,
    /// The delivered message that the agent works on.
    pub(crate) trace: Option<TraceId>,
}

impl Kernel {
    /// Invokes a tool for an agent, whoever asks: its mind, `tool.invoke`, a retry. The call runs on to its
    /// recorded end even if the caller stops waiting. The repeat guard counts all of them alike; a model is told in
    /// words of its own beside the result, a client of the socket by the journal alone.
    ///
    /// Boxed, because a spawning tool runs children, which invoke tools.
    pub(crate) fn invoke<'k>(
        &'k self,
        agent: &'k Arc<Agent>,
        asked: Asked<'k>,
        tool: &'k str,
        arguments: &'k str,
    ) -> Pin<Box<dyn Future<Output = Invoked> + Send + 'k>> {
        Box::pin(async move {
            let count = self.count_call(agent, asked.trace, tool, arguments);
            let call = match self.parse_call(tool, arguments) {
                Ok(call) => asked.by_model.cloned().into_iter().fold(call.made(count), ToolCall::asked_as),
                Err(failure) => return Invoked { count, ..Invoked::not_begun(failure) },
            };
            let (kernel, owned) = (self.clone(), Arc::clone(agent));
            let perform = async move { kernel.perform(&owned, asked.trace, call).await };
            Invoked { count, ..self.tracked(agent, perform).await }
        })
    }

    /// Goes on with a call that an earlier daemon began, under the permit that it had.
    ///
    /// Boxed, because a spawning tool goes on with children, which go on with calls.
    pub(crate) fn resume_call<'k>(
        &'k self,
        agent: &'k Arc<Agent>,
        trace: Option<TraceId>,
        call: CallId,
        earlier: Option<Arc<State>>,
    ) -> Pin<Box<dyn Future<Output = Invoked> + Send + 'k>> {
        Box::pin(async move {
            if earlier.as_deref().is_some_and(|state| is_cut_since(state, call)) {
                return Invoked::not_begun(revoked());
            }
            let Some(permit) = self.journal().resume(call) else { return self.unmade(agent, call).await };
            let count = permit.effect().repeats();
            let (kernel, owned) = (self.clone(), Arc::clone(agent));
            let act = async move {
                let stop = owned.stop_signal();
                match kernel.turn_again(&stop, permit.effect(), permit.all()).await {
                    Ok(_turn) => kernel.act_again(&owned, trace, permit, earlier).await,
                    Err(failure) => Invoked::not_begun(failure),
                }
            };
            Invoked { count, ..self.tracked(agent, act).await }
        })
    }

    /// A call that was begun before a restart and cannot be made out any more.
    async fn unmade(&self, agent: &Arc<Agent>, call: CallId) -> Invoked {
        match self.settle_unmade(agent, call).await {
            Ok(Some(invoked)) => invoked,
            Ok(None) => Invoked::not_begun(ToolFailure::new(ToolFailureKind::WorkerLost, UNKNOWN_OUTCOME)),
            Err(error) => Invoked::not_begun(error.into_tool_failure()),
        }
    }

    /// Acts under a permit from before a restart, where what a person approved still stands.
    async fn act_again(
        &self,
        agent: &Arc<Agent>,
        trace: Option<TraceId>,
        permit: Permit<ToolCall>,
        earlier: Option<Arc<State>>,
    ) -> Invoked {
        let pending = self.unfinished().get(permit.call());
        let stands = match &pending {
            Some(pending) => self.is_as_approved(agent, pending, permit.effect()).await,
            None => Ok(true),
        };
        let failure = match stands {
            Ok(true) => return self.act(agent, trace, permit, earlier).await,
            Ok(false) => ToolFailure::new(ToolFailureKind::WorkerLost, CHANGED_SINCE_APPROVED),
            Err(error) => error.into_tool_failure(),
        };
        let receipt = permit.settle(ToolOutcome::failed(failure, Millis::ZERO));
        self.ended(agent, receipt).await
    }

    async fn ended(&self, agent: &Agent, receipt: Receipt<ToolCall>) -> Invoked {
        match self.finish(agent, receipt).await {
            Ok((outcome, entry)) => Invoked { result: outcome.result, count: 0, entry },
            Err(error) => Invoked::not_begun(error.into_tool_failure()),
        }
    }

    /// Runs a call as a task of its agent, so that whoever retires the agent waits for it and it has its end though
    /// nobody waits for the result any more.
    async fn tracked(
        &self,
        agent: &Arc<Agent>,
        work: impl Future<Output = Invoked> + Send + 'static,
    ) -> Invoked {
        let stop = agent.stop_signal();
        if stop.is_cancelled() {
            return Invoked::not_begun(cancelled());
        }
        let running = agent.tasks.spawn(async move {
            // Asked again inside the tracked task: an agent is retired by cancelling first and then
            // waiting for its tasks, so what gets past here is waited for.
            if stop.is_cancelled() { Invoked::not_begun(cancelled()) } else { work.await }
        });
        running.await.unwrap_or_else(|died| {
            let why = format!("the call died: {died}");
            Invoked::not_begun(ToolFailure::new(ToolFailureKind::WorkerLost, why))
        })
    }

    /// Steps 2: validate and parse. Nothing has happened yet.
    fn parse_call(&self, tool: &str, arguments: &str) -> Result<ToolCall, ToolFailure> {
        let invalid = |why: String| ToolFailure::new(ToolFailureKind::InvalidArguments, why);
        let descriptor = tool::find(tool).ok_or_else(|| {
            let known: Vec<&str> = CATALOGUE.iter().map(|tool| tool.name).collect();
            let message = format!("there is no tool {tool:?}; the tools are {}", known.join(", "));
            ToolFailure::new(ToolFailureKind::UnknownTool, message)
        })?;
        if arguments.len() > MAX_ARGUMENT_BYTES {
            return Err(invalid(format!("arguments of {} bytes are over the limit", arguments.len())));
        }
        let value: serde_json::Value = serde_json::from_str(arguments)
            .map_err(|error| invalid(format!("the arguments of {tool} are not JSON: {error}")))?;
        self.schemas()
            .of(descriptor)
            .validate(&value)
            .map_err(|error| invalid(format!("the arguments of {tool} do not fit its schema: {error}")))?;
        let input = descriptor
            .parse_input(value)
            .map_err(|error| invalid(format!("the arguments of {tool} are not usable: {error}")))?;
        ToolCall::new(input)
    }

    /// Steps 3 to 6.
    async fn perform(&self, agent: &Arc<Agent>, trace: Option<TraceId>, call: ToolCall) -> Invoked {
        let (permit, turn) = match self.begin_tool(agent, trace, call).await {
            Ok(begun) => begun,
            Err(failure) => return Invoked::not_begun(failure),
        };
        let invoked = self.act(agent, trace, permit, None).await;
        drop(turn);
        invoked
    }

    async fn begin_tool(
        &self,
        agent: &Arc<Agent>,
        trace: Option<TraceId>,
        call: ToolCall,
    ) -> Result<(Permit<ToolCall>, Option<Turn>), ToolFailure> {
        let stop = agent.stop_signal();
        let authorized = self.admit_effect(&stop, agent, trace, call).await?;
        let (authorized, turn) = self.positioned(&stop, authorized).await?;
        Ok((self.begin_admitted(agent, trace, authorized).await?, turn))
    }

    /// Steps 5 and 6.
    async fn act(
        &self,
        agent: &Arc<Agent>,
        trace: Option<TraceId>,
        permit: Permit<ToolCall>,
        earlier: Option<Arc<State>>,
    ) -> Invoked {
        let running = self.follow_call(permit.call(), agent);
        let cancel = &running.cancel;
        let receipt = match permit.effect().input.place() {
            ToolPlace::Kernel => {
                let under = Under { call: permit.call(), trace, cancel: cancel.clone(), earlier };
                match self.run_kernel_tool(agent, under, permit).await {
                    Some(receipt) => receipt,
                    // The daemon closes: the call and what it waits for go on after the next start.
                    None => return Invoked::not_begun(cancelled()),
                }
            }
            ToolPlace::Worker => self.run_worker_tool(agent, cancel, permit, None).await,
            ToolPlace::EgressAndWorker => self.run_fetch(agent, cancel, permit).await,
            ToolPlace::Program => self.run_program(agent, trace, cancel, permit).await,
        };
        self.ended(agent, receipt).await
    }

    /// Runs a tool whose body is the kernel's own. None when the daemon closes first.
    async fn run_kernel_tool(
        &self,
        agent: &Arc<Agent>,
        under: Under,
        permit: Permit<ToolCall>,
    ) -> Option<Receipt<ToolCall>> {
        match permit.effect().input.clone() {
            ToolInput::SendMessage(input) => self.run_message_tool(agent, under, permit, input).await,
            ToolInput::HistoryRead(input) => Some(self.run_history_tool(agent, &under, permit, input).await),
            _ => self.run_spawning_tool(agent, under, permit).await,
        }
    }

    /// Authorises an effect and journals its intent; a refusal is journalled. Where a person has to approve it, their
    /// answer is waited for.
    pub(crate) async fn begin<E: Effect + Clone>(
        &self,
        agent: &Agent,
        trace: Option<TraceId>,
        effect: E,
    ) -> Result<Permit<E>, ToolFailure> {
        self.begin_until(&agent.stop_signal(), agent, trace, effect).await
    }

    /// The same, with what ends the waits for a purse and for a person.
    pub(crate) async fn begin_until<E: Effect + Clone>(
        &self,
        stop: &CancellationToken,
        agent: &Agent,
        trace: Option<TraceId>,
        effect: E,
    ) -> Result<Permit<E>, ToolFailure> {
        let authorized = self.admit_effect(stop, agent, trace, effect).await?;
        self.begin_admitted(agent, trace, authorized).await
    }

    /// The same for an effect that waits for nothing, because what it would wait for may be waiting for it. Where a person
    /// would have to be asked it is refused.
    pub(crate) async fn begin_at_once<E: Effect>(
        &self,
        agent: &Agent,
        trace: Option<TraceId>,
        effect: E,
    ) -> Result<Permit<E>, ToolFailure> {
        let (label, call) = (effect.label(), CallId::from_uuid(self.clock().fresh()));
        let decision = {
            let now = self.clock().now();
            self.authority().authorize(agent.id, call, effect, now)
        };
        match decision {
            Ok(authorized) => self.begin_admitted(agent, trace, authorized).await,
            Err(refusal) => {
                let told = self.journal_refusal(agent, label, refusal).await;
                Err(KernelError::from(told).into_tool_failure())
            }
        }
    }

    /// Journals the intent of an effect that was admitted.
    async fn begin_admitted<E: Effect>(
        &self,
        agent: &Agent,
        trace: Option<TraceId>,
        authorized: Authorized<E>,
    ) -> Result<Permit<E>, ToolFailure> {
        let permit = self.journal().begin(authorized, self.about(agent, trace)).await;
        if permit.is_err() {
            self.budget_changed().notify_waiters();
        }
        permit.map_err(|error| KernelError::from(error).into_tool_failure())
    }

    /// Authorises an effect; a refusal is journalled. Waits for a purse and for a person.
    async fn admit_effect<E: Effect + Clone>(
        &self,
        stop: &CancellationToken,
        agent: &Agent,
        trace: Option<TraceId>,
        effect: E,
    ) -> Result<Authorized<E>, ToolFailure> {
        let label = effect.label();
        let mut changed = 0;
        let mut attended = None;
        loop {
            // A question bears the id of the call that asks it: each attempt has its own.
            let call = CallId::from_uuid(self.clock().fresh());
            let authorized = match self.authorize_or_wait(agent, stop, call, &effect).await {
                Ok(authorized) => authorized,
                Err(NotAdmitted::Stopped) => return Err(cancelled()),
                Err(NotAdmitted::Failed(error)) => return Err(error.into_tool_failure()),
                Err(NotAdmitted::Refused(Refusal::Approval(question))) => {
                    attended = self.ask_person(agent, trace, stop, *question).await?;
                    continue;
                }
                Err(NotAdmitted::Refused(refusal)) => {
                    let told = self.journal_refusal(agent, label, refusal).await;
                    return Err(KernelError::from(told).into_tool_failure());
                }
            };
            // The answer is used, and what is left of it can be withdrawn.
            drop(attended.take());
            let checked = self.check_approval(agent, authorized).await;
            if let Some(authorized) = checked.map_err(KernelError::into_tool_failure)? {
                return Ok(authorized);
            }
            // What was dropped gives its charges back, and a revocation waits for it no longer.
            self.budget_changed().notify_waiters();
            changed += 1;
            if changed >= limits::MAX_CHANGED_TARGETS {
                let denied = Denied {
                    missing: "an approval that still holds".to_owned(),
                    reason: CHANGED_ALL_THE_TIME.to_owned(),
                    hint: "go on without it".to_owned(),
                };
                self.journal_refusal(agent, label, Refusal::Denied(denied)).await;
                return Err(not_approved(label, CHANGED_ALL_THE_TIME));
            }
        }
    }

    /// Journals a refusal and gives what the caller is told. The caller waits for the disk: a flood of refused calls
    /// is held back by it. None is left out, but those beyond so many a minute are counted in one entry, and their
    /// callers are told of that limit instead. A purse that does not cover it is always told: it ends a run.
    pub(crate) async fn journal_refusal(&self, agent: &Agent, effect: &str, refusal: Refusal) -> Refusal {
        let is_listed = match refusal {
            Refusal::Budget { .. } | Refusal::Waits { .. } if !self.lists_shortfall(agent) => return refusal,
            Refusal::Budget { .. } | Refusal::Waits { .. } => true,
            Refusal::Denied(_) => self.lists_denial(agent),
            Refusal::Limit(_) | Refusal::UnknownAgent(_) | Refusal::Approval(_) => self.lists_limit(agent),
        };
        if !is_listed {
            return denials::too_many();
        }
        let event = refused(effect, &refusal);
        self.note_denial(agent, &event);
        self.record_or_log(self.agent_entry(agent, event)).await;
        refusal
    }

    /// Remembers for the goal that something was denied; its exit code may tell.
    pub(crate) fn note_denial(&self, agent: &Agent, event: &Event) {
        let Some(goal) = agent.goal else { return };
        if let Some(goal) = self.table().goals.get_mut(&goal) {
            goal.was_denied |= event.is_denial();
        }
    }

    /// Journals an outcome and settles its charges. Gives the entry too, unless it does not say what the caller is told.
    async fn finish(
        &self,
        agent: &Agent,
        receipt: Receipt<ToolCall>,
    ) -> Result<(ToolOutcome, Option<EntryId>), KernelError> {
        let denied = receipt.outcome().result.as_ref().err().and_then(denied_by_the_kernel);
        if let Some(denied) = denied {
            // The outcome below is journalled whatever becomes of this entry.
            if self.lists_denial(agent) {
                let (effect, by) = (receipt.label().to_owned(), DeniedBy::Grants);
                let event = Event::CapabilityDenied { effect, denied, by };
                self.note_denial(agent, &event);
                self.record_or_log(self.agent_entry(agent, event)).await;
            }
        }
        if let Some(Shortfall { quantity, wanted, remaining }) = found_lacking(receipt.outcome()) {
            let event = Event::BudgetExceeded { quantity, wanted, remaining };
            self.record_or_log(self.agent_entry(agent, event)).await;
        }
        // What is not delivered is not kept for anybody to deliver later either.
        let is_cut = self.authority().is_cut(receipt.call());
        let receipt = if is_cut { receipt.withheld(revoked()) } else { receipt };
        let finished = self.journal().finish(receipt, self.clock().now()).await;
        if finished.is_err() {
            self.budget_changed().notify_waiters();
        }
        let finished = finished?;
        // Where an earlier daemon began it, it has its outcome now.
        drop(self.unfinished().take(finished.call));
        let settlement = self.settle(agent, &finished).await?;
        let (mut outcome, entry) = (finished.outcome, finished.entry);
        if settlement.cut {
            outcome.result = Err(revoked());
            return Ok((outcome, None));
        }
        Ok((outcome, Some(entry)))
    }

    /// Settles what a finished effect was charged, and records what it used beyond its reservation.
    pub(crate) async fn settle<E: Effect>(
        &self,
        agent: &Agent,
        finished: &Finished<E>,
    ) -> Result<Settlement, KernelError> {
        let settlement = {
            let now = self.clock().now();
            self.authority().settle(finished.call, &finished.charges, &finished.spent, now)
        };
        self.budget_changed().notify_waiters();
        let bounded = |quantity| {
            let now = self.clock().now();
            let purse = self.authority().purse(agent.id, now);
            purse.is_some_and(|purse| purse.remaining.get(quantity).is_some())
        };
        for Overdraft { quantity, reserved, used } in settlement.overdrafts.iter().copied() {
            // A result is recorded as long as it is; where nobody bounds that, it is no news.
            if quantity == Quantity::JournalBytes && !bounded(quantity) {
                continue;
            }
            let event = Event::Overdraft { quantity, reserved, used };
            self.journal().record(self.agent_entry(agent, event)).await?;
        }
        Ok(settlement)
    }

    async fn run_worker_tool(
        &self,
        agent: &Agent,
        cancel: &CancellationToken,
        permit: Permit<ToolCall>,
        page: Option<FetchedPage>,
    ) -> Receipt<ToolCall> {
        let owner = WorkerOwner { agent: agent.id, goal: agent.goal };
        self.run_in_worker(&agent.worker, owner, cancel, permit, page).await
    }

    /// `web_fetch`: the egress gateway fetches, the worker reads what came.
    async fn run_fetch(
        &self,
        agent: &Agent,
        cancel: &CancellationToken,
        permit: Permit<ToolCall>,
    ) -> Receipt<ToolCall> {
        let begun = self.clock().now();
        let url = match &permit.effect().input {
            ToolInput::WebFetch(input) => input.url.clone(),
            other => unreachable!("{} does not fetch", other.name()),
        };
        let stop = async {
            cancel.cancelled().await;
            cancelled()
        };
        let not_begun = |failure| Fetched { received: Bytes::ZERO, page: Err(failure) };
        let place = tokio::select! {
            place = self.fetch_places().take_in_turn(agent.id) => place,
            () = cancel.cancelled() => Err(cancelled()),
        };
        let Fetched { received, page: fetched } = match place {
            Ok(_place) => match self.egress().await {
                Ok(egress) => egress.fetch(&permit, stop).await,
                Err(error) => not_begun(error.into_tool_failure()),
            },
            Err(failure) => not_begun(failure),
        };
        let event = Event::NetworkFetched {
            call: permit.call(),
            url,
            final_url: fetched.as_ref().ok().map(|page| page.final_url.clone()),
            bytes: received,
        };
        self.record_or_log(self.agent_entry(agent, event)).await;
        match fetched {
            Ok(page) => self.run_worker_tool(agent, cancel, permit, Some(page)).await,
            Err(failure) => {
                let moved = Amounts::of(Quantity::EgressBytes, received.0);
                permit
                    .settle(ToolOutcome { moved, ..ToolOutcome::failed(failure, self.clock().since(begun)) })
            }
        }
    }
}

/// Whether a revocation ended a call whose result was on record already.
fn is_cut_since(earlier: &State, call: CallId) -> bool {
    earlier.cut.contains(&call) && !earlier.pending.contains_key(&call)
}

/// The entry of a refused call.
fn refused(effect: &str, refusal: &Refusal) -> Event {
    let effect = effect.to_owned();
    match refusal {
        Refusal::Denied(denied) => {
            Event::CapabilityDenied { effect, denied: denied.clone(), by: DeniedBy::Grants }
        }
        Refusal::Budget { quantity, wanted, remaining } => {
            Event::BudgetExceeded { quantity: *quantity, wanted: *wanted, remaining: *remaining }
        }
        Refusal::Waits { .. } | Refusal::Limit(_) | Refusal::UnknownAgent(_) | Refusal::Approval(_) => {
            let denied = Denied {
                missing: format!("a place for {effect}"),
                reason: refusal.to_string(),
                hint: "wait until something ends, or ask for less".to_owned(),
            };
            Event::CapabilityDenied { effect, denied, by: DeniedBy::Limit }
        }
    }
}

/// A path that the kernel of the machine refused to resolve below its root is a denial too.
fn denied_by_the_kernel(failure: &ToolFailure) -> Option<Denied> {
    (failure.kind == ToolFailureKind::OutsideRoot).then(|| Denied {
        missing: "a grant whose root holds the path".to_owned(),
        reason: failure.message.clone(),
        hint: "ask for a grant of the directory that the path leads to".to_owned(),
    })
}

/// What a call that had begun found its purse to lack: how much it moves was known only then.
fn found_lacking(outcome: &ToolOutcome) -> Option<Shortfall> {
    outcome.result.as_ref().err().filter(|_| outcome.worker.is_some())?.lacks
}

/// The failure of a call whose agent is being stopped.
pub(crate) fn cancelled() -> ToolFailure {
    ToolFailure::new(ToolFailureKind::Cancelled, "the agent is being stopped")
}
