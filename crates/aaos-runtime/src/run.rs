//! One run of an agent: the mind decides, the kernel acts, until the mind finishes.
//!
//! Invariants: the mind is served through the agent ABI only; what reaches it is in the journal before, so that the run
//! can go on after a restart from there; a run has a recorded end unless the daemon closes, then it has none and goes
//! on later; what a tool returned reaches the mind wrapped as data.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aaos_agent::{
    Command, Mind, MindConfig, MindEvent, OpenRun, RunEnd, TurnCall, Unanswered, event_of, spec_of, told,
};
use aaos_core::authority::Refusal;
use aaos_core::budget::Shortfall;
use aaos_core::event::{CutCause, Event, Kept, NewEntry, RunCut, content_hash};
use aaos_core::id::{CallId, EntryId, TraceId};
use aaos_core::limits::MAX_PARALLEL_CALLS;
use aaos_core::model::{ModelCall, ModelFailure, ModelFailureKind, ToolSpec, Usage};
use aaos_core::name::ToolName;
use aaos_core::quantity::{Amounts, Millis, Quantity};
use aaos_core::services::{AgentServices, ServiceReply, ServiceRequest};
use aaos_core::state::State;
use aaos_core::tool::find;
use aaos_core::toolio::ToolFailure;
use futures_util::stream::{self, StreamExt};
use tokio_util::sync::CancellationToken;

use crate::dispatch::{Asked, Invoked};
use crate::error::KernelError;
use crate::fallback::AskedModel;
use crate::fork::Lent;
use crate::inference::stopped;
use crate::kernel::Kernel;
use crate::meter::RunMeter;
use crate::registry::{Agent, OnlyRun};
use crate::repeat::RepeatCounts;
use crate::view::RunResult;

/// The agent ABI, served in process.
struct InProcess<'k> {
    kernel: &'k Kernel,
    agent: &'k Arc<Agent>,
    trace: Option<TraceId>,
    meter: Arc<RunMeter>,
    /// Cancelled when the agent is stopped or the time of this run is up.
    stop: CancellationToken,
    /// Of a run that goes on after a restart: what the journal said then.
    earlier: Option<Arc<State>>,
    /// Of what the last reply before the restart used so much that it ends the run.
    overdrawn: Option<Quantity>,
}

impl AgentServices for InProcess<'_> {
    async fn serve(&self, request: ServiceRequest) -> ServiceReply {
        let may_go_on = tokio::select! {
            may = self.agent.wait_unpaused() => may && !self.is_stopping(),
            () = self.stop.cancelled() => false,
            () = self.kernel.closing().cancelled() => false,
        };
        if !may_go_on {
            return stopped(self.agent);
        }
        match request {
            ServiceRequest::AskModel(request) => {
                self.ask(AskedModel { request: *request, keeps: None }).await
            }
            ServiceRequest::Summarise { request, keeps } => {
                self.ask(AskedModel { request: *request, keeps: Some(keeps) }).await
            }
            ServiceRequest::InvokeTool(call) => self.invoke(call).await,
            ServiceRequest::ReportUsage(usage) => {
                self.kernel.report_usage(self.agent, usage);
                ServiceReply::Ok
            }
        }
    }
}

impl InProcess<'_> {
    async fn ask(&self, asked: AskedModel) -> ServiceReply {
        if let Some(quantity) = self.overdrawn {
            return self.kernel.stop_overdrawn(self.agent, quantity).await;
        }
        if self.meter.is_spent() {
            let (quantity, wanted) = (Quantity::Tokens, asked.request.max_output_tokens.0);
            let refusal = Refusal::Budget { quantity, wanted, remaining: 0 };
            self.kernel.journal_refusal(self.agent, "inference", refusal).await;
            return ServiceReply::BudgetExceeded { quantity, remaining: 0 };
        }
        let reply = self.kernel.ask_model(self.agent, self.trace, asked).await;
        if let ServiceReply::Model(reply) = &reply {
            self.meter.add(reply.usage);
        }
        reply
    }

    async fn invoke(&self, call: ModelCall) -> ServiceReply {
        let asked = Asked { by_model: Some(&call.id), trace: self.trace };
        let invoked = self.kernel.invoke(self.agent, asked, &call.tool.0, &call.arguments.0).await;
        self.tell(call, invoked).await
    }

    /// Goes on with a call that an earlier daemon began.
    async fn resume(&self, call: ModelCall, begun: CallId) -> ServiceReply {
        let invoked = self.kernel.resume_call(self.agent, self.trace, begun, self.earlier.clone()).await;
        self.tell(call, invoked).await
    }

    /// What the model is told, which the journal holds already or gets now.
    async fn tell(&self, call: ModelCall, invoked: Invoked) -> ServiceReply {
        let Invoked { result, count, entry } = invoked;
        self.agent.live().watch.ladder.note_repeats(count);
        if let Err(ToolFailure { lacks: Some(lacks), .. }) = &result {
            return budget_exceeded(*lacks);
        }
        let recorded = match (&result, entry) {
            (_, Some(entry)) => Some(entry),
            // Nobody is told any more, and the call is made anew if the run goes on later.
            (Err(_), None) if self.is_stopping() => None,
            (Err(failure), None) => self.refused(&call, failure, count).await,
            (Ok(_), None) => unreachable!("what a call gave is recorded"),
        };
        match recorded {
            Some(entry) => ServiceReply::ToolResult(told(&call, entry, result.as_deref(), count)),
            None => stopped(self.agent),
        }
    }

    /// Records what the model is told of a call that never began.
    async fn refused(&self, call: &ModelCall, failure: &ToolFailure, repeats: u32) -> Option<EntryId> {
        let refused = Event::CallRefused { model_call: call.id.clone(), failure: failure.clone(), repeats };
        let entry = about_trace(self.kernel.agent_entry(self.agent, refused), self.trace);
        match self.kernel.journal().record(entry).await {
            Ok(entry) => Some(entry.id),
            Err(error) => {
                tracing::error!(%error, "a refused call was not journalled");
                None
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.stop.is_cancelled() || self.kernel.is_closing()
    }
}

impl Kernel {
    /// What the mind of an agent is made of.
    pub(crate) fn mind_config(&self, agent: &Agent) -> MindConfig {
        MindConfig::of(&agent.manifest)
    }

    /// A mind for an agent that was never spoken to.
    pub(crate) fn mind_for(&self, agent: &Agent) -> Mind {
        Mind::new(self.mind_config(agent))
    }

    /// The tools that an agent may invoke now, as its model is shown them.
    pub(crate) fn tools_shown(&self, agent: &Agent) -> Vec<ToolSpec> {
        let now = self.clock().now();
        let tools = self.authority().tools_of(agent.id, now);
        tools.into_iter().map(spec_of).collect()
    }

    /// [`Kernel::run_alone`], once no other run of the agent goes on.
    pub(crate) async fn run_agent(
        &self,
        agent: &Arc<Agent>,
        mind: Mind,
        message: String,
        trace: Option<TraceId>,
    ) -> Result<(Mind, RunEnd), KernelError> {
        let only_run = agent.only_run().await.ok_or_else(|| being_stopped(agent))?;
        self.run_alone(only_run, agent, mind, message, trace).await
    }

    /// Runs an agent on one message to its end, and journals both. The run goes on even if the caller stops
    /// waiting, and no other begins until its end; stopping the agent ends it. The mind comes back for the next
    /// message.
    pub(crate) async fn run_alone(
        &self,
        only_run: OnlyRun,
        agent: &Arc<Agent>,
        mind: Mind,
        message: String,
        trace: Option<TraceId>,
    ) -> Result<(Mind, RunEnd), KernelError> {
        self.run_tracked(only_run, agent, mind, trace, Beginning::Message(message)).await
    }

    /// Goes on with a run that a restart cut short, to its end.
    pub(crate) async fn resume_run(
        &self,
        agent: &Arc<Agent>,
        mind: Mind,
        open: OpenRun,
        resumption: Resumption,
    ) -> Result<(Mind, RunEnd), KernelError> {
        let only_run = agent.only_run().await.ok_or_else(|| being_stopped(agent))?;
        let trace = open.trace;
        self.run_tracked(only_run, agent, mind, trace, Beginning::Resumed(Box::new((open.waits, resumption))))
            .await
    }

    /// Begins the run of an agent with a conversation that it is lent, to its end.
    pub(crate) async fn run_lent(
        &self,
        agent: &Arc<Agent>,
        lent: Lent,
    ) -> Result<(Mind, RunEnd), KernelError> {
        let only_run = agent.only_run().await.ok_or_else(|| being_stopped(agent))?;
        self.run_tracked(only_run, agent, self.mind_for(agent), None, Beginning::Lent(Box::new(lent))).await
    }

    async fn run_tracked(
        &self,
        only_run: OnlyRun,
        agent: &Arc<Agent>,
        mut mind: Mind,
        trace: Option<TraceId>,
        from: Beginning,
    ) -> Result<(Mind, RunEnd), KernelError> {
        let (kernel, owned) = (self.clone(), Arc::clone(agent));
        let running = agent.tasks.spawn(async move {
            if owned.cancel.is_cancelled() {
                return Err(being_stopped(&owned));
            }
            let end = kernel.run_recorded(&owned, &mut mind, trace, from).await;
            if end.is_ok() {
                kernel.settle_unfinished(&owned).await;
            }
            drop(only_run);
            Ok((mind, end?))
        });
        running.await.map_err(|failed| KernelError::State(format!("the run died: {failed}")))?
    }

    async fn run_recorded(
        &self,
        agent: &Arc<Agent>,
        mind: &mut Mind,
        trace: Option<TraceId>,
        from: Beginning,
    ) -> Result<RunEnd, KernelError> {
        let mut climbed = None;
        let (began, step, resumption) = match from {
            Beginning::Message(message) => {
                climbed = self.climb(agent, mind);
                let (event, step) = self.hear(agent, mind, message);
                (event, step, Resumption::default())
            }
            Beginning::Lent(lent) => {
                let (event, own, open, resumption) = self.take_over(agent, *lent)?;
                *mind = own;
                (event, open.waits, resumption)
            }
            Beginning::Resumed(open) => (Event::AgentExecutionResumed {}, open.0, open.1),
        };
        let began = about_trace(self.agent_entry(agent, began), trace);
        // By the entries' own times, so that the journal's fold counts what the authority counts.
        let clock = self.authority().start_clock(agent.id, began.timestamp);
        let climbed = climbed.map(|climbed| about_trace(self.agent_entry(agent, climbed), trace));
        let began = self.journal().record_all(climbed.into_iter().chain([began]).collect()).await;
        for entry in began.iter().flatten() {
            match &entry.event {
                Event::AgentExecutionStarted { kept, .. } => agent.note_run(entry.seq, *kept),
                Event::AgentExecutionForked { .. } => agent.note_run(entry.seq, Kept::default()),
                _ => {}
            }
        }
        let driven = match (began, clock) {
            (Ok(_), Ok(time)) => self.run_in_time(agent, mind, step, trace, time, resumption).await,
            (Ok(_), Err(refusal)) => {
                self.record_noted(agent, mind, trace).await?;
                Some(self.run_without_time(agent, mind, &step, refusal).await)
            }
            (Err(error), _) => {
                self.authority().stop_clock(agent.id, self.clock().now());
                return Err(error.into());
            }
        };
        let Some((end, cut)) = driven else { return Err(KernelError::ShuttingDown) };
        let completed = about_trace(self.agent_entry(agent, completed(&end, cut, mind)), trace);
        self.authority().stop_clock(agent.id, completed.timestamp);
        self.journal().record(completed).await?;
        agent.live().watch.ladder.note_end(end.stop_reason);
        Ok(end)
    }

    /// Begins a run in the mind: what is to be recorded of it, and what it wants first.
    fn hear(&self, agent: &Agent, mind: &mut Mind, message: String) -> (Event, Unanswered) {
        let tools = self.tools_shown(agent);
        let names: Vec<ToolName> = tools.iter().map(|tool| tool.name.clone()).collect();
        self.teach(mind);
        let step = Unanswered::from(mind.step(MindEvent::Message { text: message.clone(), tools }));
        let message_hash = content_hash(message.as_bytes());
        let kept = mind.kept();
        (Event::AgentExecutionStarted { message_hash, message, tools: names, kept }, step)
    }

    /// Drives the mind to its end, or until the time of the run is up. None when the daemon closes first.
    async fn run_in_time(
        &self,
        agent: &Arc<Agent>,
        mind: &mut Mind,
        step: Unanswered,
        trace: Option<TraceId>,
        time: Option<Millis>,
        resumption: Resumption,
    ) -> Option<(RunEnd, Option<RunCut>)> {
        let meter = self.meter_for(agent, resumption.usage);
        let stop = agent.cancel.child_token();
        {
            let mut live = agent.live();
            live.running = true;
            live.repeats = resumption.repeats;
            live.meter = Some(Arc::clone(&meter));
            live.run_stop = Some(stop.clone());
        }
        let Resumption { earlier, overdrawn, .. } = resumption;
        let services = InProcess { kernel: self, agent, trace, meter, stop, earlier, overdrawn };
        let driven = {
            let driven = self.drive(&services, mind, step);
            tokio::pin!(driven);
            tokio::select! {
                biased;
                end = &mut driven => end,
                () = self.sleep_for(time) => {
                    self.end_run_in_flight(agent, &services.stop).await;
                    driven.await
                }
            }
        };
        let mut live = agent.live();
        live.running = false;
        live.meter = None;
        live.run_stop = None;
        if let Some((end, _)) = &driven {
            live.usage = end.usage;
        }
        driven
    }

    /// For this long; for ever where nothing bounds it.
    async fn sleep_for(&self, time: Option<Millis>) {
        match time {
            Some(time) => self.clock().sleep(Duration::from_millis(time.0)).await,
            None => std::future::pending().await,
        }
    }

    /// The time of a run is up: its inference is cancelled, its worker and those of its children are killed. What was
    /// in flight is settled as usual.
    async fn end_run_in_flight(&self, agent: &Arc<Agent>, stop: &CancellationToken) {
        stop.cancel();
        agent.worker.kill();
        for child in self.descendants(agent.id).iter().filter(|child| child.cancel.is_cancelled()) {
            child.worker.kill();
        }
        let refusal = Refusal::Budget { quantity: Quantity::WallMillis, wanted: 1, remaining: 0 };
        self.journal_refusal(agent, "run", refusal).await;
    }

    /// The end of a run that no time was left for.
    async fn run_without_time(
        &self,
        agent: &Agent,
        mind: &mut Mind,
        step: &Unanswered,
        refusal: Refusal,
    ) -> (RunEnd, Option<RunCut>) {
        let error = format!("nothing was begun: {refusal}");
        self.journal_refusal(agent, "run", refusal).await;
        if let Unanswered::Finish(end) = step {
            return (end.clone(), None);
        }
        let cause = CutCause::BudgetExceeded { quantity: Quantity::WallMillis, remaining: 0 };
        let cut = RunCut { cause, asking: step.asks() };
        match mind.step(event_of(&cut.cause)) {
            Command::Finish(end) => (RunEnd { error: Some(error), ..end }, Some(cut)),
            other => unreachable!("a mind without budget finishes, it does not go on with {other:?}"),
        }
    }

    /// Feeds the mind until it finishes: gives its end and what cut it short. None when the daemon closes first: then
    /// nothing is recorded, and the run goes on after the next start.
    async fn drive(
        &self,
        services: &InProcess<'_>,
        mind: &mut Mind,
        mut step: Unanswered,
    ) -> Option<(RunEnd, Option<RunCut>)> {
        let mut cut = None;
        loop {
            if let Err(error) = self.record_noted(services.agent, mind, services.trace).await {
                tracing::error!(%error, "what became of a conversation was not journalled");
                return None;
            }
            self.note_filling(services.agent, mind);
            let (asking, keeps) = (step.asks(), mind.summarises());
            let event = match step {
                Unanswered::Finish(end) => return Some((end, cut)),
                Unanswered::Ask(request) => {
                    let asked = match keeps {
                        Some(keeps) => ServiceRequest::Summarise { request, keeps },
                        None => ServiceRequest::AskModel(request),
                    };
                    let event = reply_event(services.serve(asked).await);
                    if keeps.is_some() { without_summary(event) } else { event }
                }
                Unanswered::Invoke(calls) => invoke_all(services, calls).await,
                Unanswered::Lacks(lacks) => reply_event(budget_exceeded(lacks)),
            };
            if self.is_closing() {
                return None;
            }
            // A summary that is not to be had ends no run; that has an entry of its own.
            let lacks_summary = keeps.is_some() && matches!(event, MindEvent::ModelFailed(_));
            cut = cause_of(&event).filter(|_| !lacks_summary).map(|cause| RunCut { cause, asking });
            let before = mind.usage();
            step = Unanswered::from(mind.step(event));
            if mind.usage() != before {
                services.serve(ServiceRequest::ReportUsage(mind.usage())).await;
            }
        }
    }

    /// Records what became of the conversation, before anything else is done.
    async fn record_noted(
        &self,
        agent: &Agent,
        mind: &mut Mind,
        trace: Option<TraceId>,
    ) -> Result<(), KernelError> {
        while let Some(noted) = mind.take_noted() {
            self.journal().record(about_trace(self.agent_entry(agent, noted), trace)).await?;
        }
        Ok(())
    }

    fn report_usage(&self, agent: &Agent, usage: Usage) {
        {
            let mut live = agent.live();
            live.usage = usage;
            live.total_usage = usage;
        }
        let now = self.clock().now();
        let used = self.authority().purse(agent.id, now).map_or(Amounts::NONE, |purse| purse.used);
        self.note_or_log(self.agent_entry(agent, Event::UsageReported { usage, used }));
    }
}

/// How a run begins.
enum Beginning {
    /// With a message.
    Message(String),
    /// With a conversation that another agent had.
    Lent(Box<Lent>),
    /// Where a restart cut it short.
    Resumed(Box<(Unanswered, Resumption)>),
}

/// What is known of the part of a run that went by before a restart.
#[derive(Debug, Default)]
pub(crate) struct Resumption {
    /// What it used.
    pub(crate) usage: Usage,
    /// Which calls were made how often.
    pub(crate) repeats: RepeatCounts,
    /// What the journal said then: unfinished spawning calls go on from there.
    pub(crate) earlier: Option<Arc<State>>,
    /// Of what its last reply used more than was reserved, where that ends the run.
    pub(crate) overdrawn: Option<Quantity>,
}

/// What an event cuts short, if it does.
fn cause_of(event: &MindEvent) -> Option<CutCause> {
    match event {
        MindEvent::ModelFailed(failure) => Some(CutCause::ModelFailed(failure.clone())),
        MindEvent::BudgetExceeded { quantity, remaining } => {
            Some(CutCause::BudgetExceeded { quantity: *quantity, remaining: *remaining })
        }
        MindEvent::Cancelled => Some(CutCause::Cancelled),
        MindEvent::Message { .. } | MindEvent::Reply(_) | MindEvent::ToolResults(_) => None,
    }
}

/// What a mind is told that asked for a summary: a purse that does not cover it ends no run, since what is asked without
/// it may take less. That is judged where it is asked.
fn without_summary(event: MindEvent) -> MindEvent {
    match event {
        MindEvent::BudgetExceeded { quantity, remaining } if quantity != Quantity::WallMillis => {
            let (field, left) = (quantity.field(), quantity.show(remaining));
            let message = format!("the budget ({field}) does not cover the summary; {left} left");
            let kind = ModelFailureKind::Rejected;
            MindEvent::ModelFailed(ModelFailure { kind, message, retry_after: None })
        }
        other => other,
    }
}

/// Invokes the calls of one turn: several at once where each of them may run beside others, else in their order.
/// Once one of them ends the turn no other is begun, and those under way come to their end.
async fn invoke_all(services: &InProcess<'_>, calls: Vec<TurnCall>) -> MindEvent {
    let at_once = if calls.iter().all(may_run_beside_others) { MAX_PARALLEL_CALLS } else { 1 };
    let over = AtomicBool::new(false);
    let answers = calls.into_iter().map(|call| answer(services, &over, call));
    let replies: Vec<_> = stream::iter(answers).buffered(at_once).collect().await;
    let mut results = Vec::with_capacity(replies.len());
    for reply in replies {
        match reply {
            ServiceReply::ToolResult(result) => results.push(result),
            ServiceReply::BudgetExceeded { quantity, remaining } => {
                return MindEvent::BudgetExceeded { quantity, remaining };
            }
            _ => return MindEvent::Cancelled,
        }
    }
    if services.stop.is_cancelled() {
        return reply_event(stopped(services.agent));
    }
    MindEvent::ToolResults(results)
}

/// A tool that nobody knows is refused, beside others too.
fn may_run_beside_others(call: &TurnCall) -> bool {
    find(&call.call.tool.0).is_none_or(|tool| tool.parallel_safe)
}

/// Invokes one call of a turn that is not over; what was answered before a restart is not invoked again.
async fn answer(services: &InProcess<'_>, over: &AtomicBool, call: TurnCall) -> ServiceReply {
    let TurnCall { call, result, begun } = call;
    if over.load(Ordering::Relaxed) {
        return ServiceReply::Cancelled;
    }
    let reply = match (result, begun) {
        (Some(result), _) => ServiceReply::ToolResult(result),
        (None, Some(begun)) => services.resume(call, begun).await,
        (None, None) => services.serve(ServiceRequest::InvokeTool(call)).await,
    };
    if !matches!(reply, ServiceReply::ToolResult(_)) {
        over.store(true, Ordering::Relaxed);
    }
    reply
}

const fn budget_exceeded(lacks: Shortfall) -> ServiceReply {
    ServiceReply::BudgetExceeded { quantity: lacks.quantity, remaining: lacks.remaining }
}

fn being_stopped(agent: &Agent) -> KernelError {
    KernelError::State(format!("agent {} is being stopped", agent.id))
}

fn about_trace(mut entry: NewEntry, trace: Option<TraceId>) -> NewEntry {
    entry.trace_id = trace;
    entry
}

fn reply_event(reply: ServiceReply) -> MindEvent {
    match reply {
        ServiceReply::Model(reply) => MindEvent::Reply(reply),
        ServiceReply::ModelFailed(failure) => MindEvent::ModelFailed(failure),
        ServiceReply::BudgetExceeded { quantity, remaining } => {
            MindEvent::BudgetExceeded { quantity, remaining }
        }
        ServiceReply::Cancelled => MindEvent::Cancelled,
        ServiceReply::ToolResult(_) | ServiceReply::Ok => unreachable!("AskModel is answered by a model"),
    }
}

fn completed(end: &RunEnd, cut: Option<RunCut>, mind: &Mind) -> Event {
    Event::AgentExecutionCompleted {
        response: end.response.clone(),
        usage: end.usage,
        iterations: end.iterations,
        stop_reason: end.stop_reason,
        error: end.error.clone(),
        cut,
        mind_hash: mind.digest(),
    }
}

/// A run's end as shown to callers.
pub(crate) fn result_of(end: &RunEnd) -> RunResult {
    RunResult {
        response: end.response.clone(),
        usage: end.usage,
        iterations: end.iterations,
        stop_reason: end.stop_reason,
        error: end.error.clone(),
        failure: end.failure,
    }
}
