//! One run of an agent: the mind decides, the kernel acts, until the mind finishes.
//!
//! Invariants: the mind is served through the agent ABI only; a run that began has a recorded end; what a
//! tool returned reaches the mind wrapped as data.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use aaos_agent::{Command, Mind, MindConfig, MindEvent, RunEnd, wrap_tool_result};
use aaos_core::authority::Refusal;
use aaos_core::event::{Event, NewEntry, content_hash};
use aaos_core::id::TraceId;
use aaos_core::limits;
use aaos_core::manifest::Manifest;
use aaos_core::model::{CallResult, ModelCall, ModelRequest, Usage};
use aaos_core::quantity::{Amounts, Millis, Quantity, Tokens};
use aaos_core::services::{AgentServices, ServiceReply, ServiceRequest};
use aaos_core::tool::ToolDescriptor;
use aaos_core::toolio::{StopReason, ToolFailure};
use tokio_util::sync::CancellationToken;

use crate::error::KernelError;
use crate::inference::stopped;
use crate::kernel::Kernel;
use crate::meter::RunMeter;
use crate::registry::{Agent, OnlyRun};
use crate::repeat::{self, RepeatCounts};
use crate::view::RunResult;

/// The agent ABI, served in process.
struct InProcess<'k> {
    kernel: &'k Kernel,
    agent: &'k Arc<Agent>,
    trace: Option<TraceId>,
    meter: Arc<RunMeter>,
    /// Cancelled when the agent is stopped or the time of this run is up.
    stop: CancellationToken,
}

impl AgentServices for InProcess<'_> {
    async fn serve(&self, request: ServiceRequest) -> ServiceReply {
        let may_go_on = tokio::select! {
            may = self.agent.wait_unpaused() => may && !self.stop.is_cancelled(),
            () = self.stop.cancelled() => false,
        };
        if !may_go_on {
            return stopped(self.agent);
        }
        match request {
            ServiceRequest::AskModel(request) => self.ask(*request).await,
            ServiceRequest::InvokeTool(call) => self.invoke(call).await,
            ServiceRequest::ReportUsage(usage) => {
                self.kernel.report_usage(self.agent, usage);
                ServiceReply::Ok
            }
        }
    }
}

impl InProcess<'_> {
    async fn ask(&self, request: ModelRequest) -> ServiceReply {
        if self.meter.is_spent() {
            let (quantity, wanted) = (Quantity::Tokens, request.max_output_tokens.0);
            let refusal = Refusal::Budget { quantity, wanted, remaining: 0 };
            self.kernel.journal_refusal(self.agent, "inference", refusal).await;
            return ServiceReply::BudgetExceeded { quantity, remaining: 0 };
        }
        let reply = self.kernel.ask_model(self.agent, self.trace, request).await;
        if let ServiceReply::Model(reply) = &reply {
            self.meter.add(reply.usage);
        }
        reply
    }

    async fn invoke(&self, call: ModelCall) -> ServiceReply {
        let invoked = self.kernel.invoke(self.agent, self.trace, &call.tool.0, &call.arguments.0).await;
        if let Err(ToolFailure { lacks: Some(lacks), .. }) = &invoked.result {
            return ServiceReply::BudgetExceeded { quantity: lacks.quantity, remaining: lacks.remaining };
        }
        let is_error = invoked.result.is_err();
        let json = invoked.result.unwrap_or_else(|failure| failure_json(&failure));
        // Fresh for each result: what stands inside cannot know it.
        let nonce = self.kernel.clock().fresh().simple().to_string();
        let mut content = wrap_tool_result(&nonce, &call.tool.0, &json);
        // Outside the wrapping: it is the runtime that says it.
        content.extend(repeat::hint(invoked.count));
        ServiceReply::ToolResult(CallResult { id: call.id, tool: call.tool, content, is_error })
    }
}

/// A failure as the JSON that a model is shown.
pub(crate) fn failure_json(failure: &ToolFailure) -> String {
    #[derive(serde::Serialize)]
    struct Shown<'f> {
        error: &'f ToolFailure,
    }
    serde_json::to_string(&Shown { error: failure })
        .unwrap_or_else(|error| unreachable!("a failure is plain JSON: {error}"))
}

impl Kernel {
    /// A fresh mind for an agent.
    pub(crate) fn mind_for(&self, agent: &Agent) -> Mind {
        let manifest: &Manifest = &agent.manifest;
        let now = self.clock().now();
        let tools = self.authority().tools_of(agent.id, now);
        Mind::new(MindConfig {
            model: manifest.model.clone(),
            system_prompt: manifest.system_prompt.clone(),
            tools: tools.into_iter().map(spec_of).collect(),
            context_window: manifest.memory.context_window,
            max_iterations: limits::MAX_ITERATIONS,
            max_reply_tokens: Tokens(limits::MAX_REPLY_TOKENS),
            max_history_messages: manifest.memory.max_history_messages,
        })
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
        mut mind: Mind,
        message: String,
        trace: Option<TraceId>,
    ) -> Result<(Mind, RunEnd), KernelError> {
        let (kernel, owned) = (self.clone(), Arc::clone(agent));
        let running = agent.tasks.spawn(async move {
            if owned.cancel.is_cancelled() {
                return Err(being_stopped(&owned));
            }
            let end = kernel.run_recorded(&owned, &mut mind, message, trace).await;
            drop(only_run);
            Ok((mind, end?))
        });
        running.await.map_err(|failed| KernelError::State(format!("the run died: {failed}")))?
    }

    async fn run_recorded(
        &self,
        agent: &Arc<Agent>,
        mind: &mut Mind,
        message: String,
        trace: Option<TraceId>,
    ) -> Result<RunEnd, KernelError> {
        let message_hash = content_hash(message.as_bytes());
        let started = Event::AgentExecutionStarted { message_hash, message: message.clone() };
        let started = about_trace(self.agent_entry(agent, started), trace);
        // By the entries' own times, so that the journal's fold counts what the authority counts.
        let clock = self.authority().start_clock(agent.id, started.timestamp);
        let began = self.journal().record(started).await;
        let ended = match (began, clock) {
            (Ok(_), Ok(time)) => Ok(self.run_in_time(agent, mind, message, trace, time).await),
            (Ok(_), Err(refusal)) => Ok(self.run_without_time(agent, refusal).await),
            (Err(error), _) => Err(error),
        };
        let completed = ended.map(|end| {
            let entry = about_trace(self.agent_entry(agent, completed(&end)), trace);
            (end, entry)
        });
        let at = completed.as_ref().map_or_else(|_| self.clock().now(), |(_, entry)| entry.timestamp);
        self.authority().stop_clock(agent.id, at);
        let (end, entry) = completed?;
        self.journal().record(entry).await?;
        Ok(end)
    }

    /// Drives the mind to its end, or until the time of the run is up.
    async fn run_in_time(
        &self,
        agent: &Arc<Agent>,
        mind: &mut Mind,
        message: String,
        trace: Option<TraceId>,
        time: Option<Millis>,
    ) -> RunEnd {
        let meter = self.meter_for(agent);
        let stop = agent.cancel.child_token();
        {
            let mut live = agent.live();
            live.running = true;
            live.repeats = RepeatCounts::default();
            live.meter = Some(Arc::clone(&meter));
            live.run_stop = Some(stop.clone());
        }
        let services = InProcess { kernel: self, agent, trace, meter, stop };
        let end = {
            let driven = self.drive(&services, mind, message);
            tokio::pin!(driven);
            tokio::select! {
                biased;
                end = &mut driven => end,
                () = sleep_for(time) => {
                    self.end_run_in_flight(agent, &services.stop).await;
                    driven.await
                }
            }
        };
        let mut live = agent.live();
        live.running = false;
        live.meter = None;
        live.run_stop = None;
        live.usage = end.usage;
        end
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
    async fn run_without_time(&self, agent: &Agent, refusal: Refusal) -> RunEnd {
        let error = format!("nothing was begun: {refusal}");
        self.journal_refusal(agent, "run", refusal).await;
        RunEnd {
            response: String::new(),
            usage: Usage::default(),
            iterations: 0,
            stop_reason: StopReason::BudgetExceeded,
            error: Some(error),
            failure: None,
        }
    }

    /// Feeds the mind until it finishes.
    async fn drive(&self, services: &InProcess<'_>, mind: &mut Mind, message: String) -> RunEnd {
        let mut commands = VecDeque::from(mind.step(MindEvent::Message { text: message }));
        loop {
            let event = match commands.pop_front() {
                Some(Command::Ask(request)) => {
                    let before = mind.usage();
                    let event = reply_event(services.serve(ServiceRequest::AskModel(request)).await);
                    commands.extend(mind.step(event));
                    if mind.usage() != before {
                        services.serve(ServiceRequest::ReportUsage(mind.usage())).await;
                    }
                    continue;
                }
                Some(Command::Invoke(calls)) => invoke_all(services, calls).await,
                Some(Command::Finish(end)) => return end,
                None => unreachable!("a mind that waits for nothing has finished"),
            };
            commands.extend(mind.step(event));
        }
    }

    fn report_usage(&self, agent: &Agent, usage: Usage) {
        agent.live().usage = usage;
        let now = self.clock().now();
        let used = self.authority().purse(agent.id, now).map_or(Amounts::NONE, |purse| purse.used);
        self.note_or_log(self.agent_entry(agent, Event::UsageReported { usage, used }));
    }
}

/// Invokes the calls of one turn in their order.
async fn invoke_all(services: &InProcess<'_>, calls: Vec<ModelCall>) -> MindEvent {
    let mut results = Vec::with_capacity(calls.len());
    for call in calls {
        match services.serve(ServiceRequest::InvokeTool(call)).await {
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

fn being_stopped(agent: &Agent) -> KernelError {
    KernelError::State(format!("agent {} is being stopped", agent.id))
}

/// For this long; for ever where nothing bounds it.
async fn sleep_for(time: Option<Millis>) {
    match time {
        Some(time) => tokio::time::sleep(Duration::from_millis(time.0)).await,
        None => std::future::pending().await,
    }
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

fn completed(end: &RunEnd) -> Event {
    Event::AgentExecutionCompleted {
        response: end.response.clone(),
        usage: end.usage,
        iterations: end.iterations,
        stop_reason: end.stop_reason,
        error: end.error.clone(),
    }
}

fn spec_of(tool: &ToolDescriptor) -> aaos_core::model::ToolSpec {
    aaos_core::model::ToolSpec {
        name: tool.tool_name(),
        description: tool.description.to_owned(),
        input_schema: tool.input_schema(),
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
