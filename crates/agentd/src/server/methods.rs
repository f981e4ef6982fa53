//! Every method of the control socket: typed parameters in, a typed result out.
//!
//! Invariant: a method does nothing but translate; each effect goes through the kernel's one dispatch.

use std::path::Path;
use std::time::Duration;

use aaos_core::capability::{GrantSpec, tool_name};
use aaos_core::event::{EVENT_KINDS, is_kind};
use aaos_core::id::{AgentId, Seq};
use aaos_core::limits;
use aaos_core::manifest::Manifest;
use aaos_core::model::ModelFailure;
use aaos_core::quantity::Timestamp;
use aaos_core::toolio::StopReason;
use aaos_ipc::{ErrorCode, Request, RpcError};
use aaos_journal::{Expected, Filter, JournalError};
use aaos_runtime::{
    Asked, AuditReader, ForkRequest, GoalRequest, Kernel, KernelError, Principal, RunAnswer, RunResult,
};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::connection::Outbox;
use super::params::{
    Audit, Empty, Explain, Fork, Goals, Invoke, Logs, OneAgent, OneGoal, Prune, Respond, Revoke, Run, Spawn,
    SpawnAndRun, Submit, TraceResult, Verify,
};
use super::{rights, stream};

/// Longest wait of `agent.result`.
const MAX_RESULT_WAIT: Duration = Duration::from_secs(limits::GOAL_DEADLINE_SECONDS);

type Answer = Result<Box<RawValue>, RpcError>;

#[derive(Serialize)]
struct Done {
    ok: bool,
}

#[derive(Serialize)]
struct Spawned {
    agent_id: AgentId,
}

#[derive(Serialize)]
struct Agents {
    agents: Vec<aaos_runtime::AgentView>,
}

#[derive(Serialize)]
struct Delivered {
    trace_id: aaos_core::id::TraceId,
    status: &'static str,
}

/// A run's result with the agent that made it.
#[derive(Serialize)]
struct RanBy<'r> {
    agent_id: AgentId,
    response: &'r str,
    usage: aaos_core::model::Usage,
    iterations: u32,
    stop_reason: StopReason,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'r str>,
}

/// Whether a method lists things without a bound of its own: its answer may be very long.
pub(super) fn lists(request: &Request) -> bool {
    matches!(request.method.as_str(), "agent.list" | "goal.list" | "approval.list" | "audit.query")
}

/// Answers one request.
pub(super) async fn call(kernel: &Kernel, caller: Principal, outbox: &Outbox, request: &Request) -> Answer {
    rights::check(caller, &request.method)?;
    let (group, _) = request.method.split_once('.').unwrap_or((&request.method, ""));
    match group {
        "agent" => agent_method(kernel, caller, outbox, request).await,
        "goal" => goal_method(kernel, caller, outbox, request).await,
        "tool" => tool_method(kernel, caller, request).await,
        "capability" => capability_method(kernel, caller, request).await,
        "approval" => approval_method(kernel, caller, request).await,
        "audit" => audit_method(kernel, caller, outbox, request).await,
        "runtime" if request.method == "runtime.status" => {
            let Empty {} = request.params.parse()?;
            json(&kernel.status(caller).await)
        }
        "runtime" if request.method == "runtime.models" => {
            let Empty {} = request.params.parse()?;
            json(&kernel.models_view().await.map_err(refused)?)
        }
        _ => Err(RpcError::method_not_found(&request.method)),
    }
}

async fn agent_method(kernel: &Kernel, caller: Principal, outbox: &Outbox, request: &Request) -> Answer {
    let params = &request.params;
    match request.method.as_str() {
        "agent.spawn" => {
            let Spawn { manifest, manifest_path } = params.parse()?;
            let text = manifest_text(caller, manifest, manifest_path.as_deref()).await?;
            let agent_id = kernel.spawn(caller, &text).await.map_err(refused)?;
            json(&Spawned { agent_id })
        }
        "agent.stop" => {
            let OneAgent { agent_id } = params.parse()?;
            kernel.stop(caller, agent_id).await.map_err(refused)?;
            json(&Done { ok: true })
        }
        "agent.list" => {
            let Empty {} = params.parse()?;
            json(&Agents { agents: kernel.list(caller) })
        }
        "agent.status" => {
            let OneAgent { agent_id } = params.parse()?;
            json(&kernel.agent_status(caller, agent_id).map_err(refused)?)
        }
        "agent.pause" => {
            let OneAgent { agent_id } = params.parse()?;
            kernel.pause(caller, agent_id).await.map_err(refused)?;
            json(&Done { ok: true })
        }
        "agent.resume" => {
            let OneAgent { agent_id } = params.parse()?;
            kernel.resume(caller, agent_id).await.map_err(refused)?;
            json(&Done { ok: true })
        }
        "agent.run" | "agent.result" | "agent.spawn_and_run" => run_method(kernel, caller, request).await,
        "agent.submit_streaming" => {
            let goal = goal_request(params.parse()?)?;
            stream::submit(kernel, caller, outbox, request, goal).await
        }
        "agent.logs_streaming" => {
            let Logs { agent_id, after_seq } = params.parse()?;
            stream::logs(kernel, caller, outbox, request, agent_id, after_seq).await
        }
        _ => Err(RpcError::method_not_found(&request.method)),
    }
}

async fn run_method(kernel: &Kernel, caller: Principal, request: &Request) -> Answer {
    match request.method.as_str() {
        "agent.run" => {
            let Run { agent_id, message } = request.params.parse()?;
            let answer = kernel.run(caller, agent_id, message).await.map_err(refused)?;
            run_answer(None, &answer)
        }
        "agent.result" => {
            let TraceResult { trace_id, wait_seconds } = request.params.parse()?;
            let wait = Duration::from_secs(wait_seconds).min(MAX_RESULT_WAIT);
            json(&kernel.result(caller, trace_id, wait).await.map_err(refused)?)
        }
        _ => {
            let SpawnAndRun { manifest, manifest_path, message } = request.params.parse()?;
            let text = manifest_text(caller, manifest, manifest_path.as_deref()).await?;
            let (agent, answer) = kernel.spawn_and_run(caller, &text, message).await.map_err(refused)?;
            run_answer(Some(agent), &answer)
        }
    }
}

fn run_answer(agent: Option<AgentId>, answer: &RunAnswer) -> Answer {
    let result = match answer {
        RunAnswer::Ran(result) => result,
        RunAnswer::Delivered(trace_id) => {
            return json(&Delivered { trace_id: *trace_id, status: "delivered" });
        }
    };
    if let Some(error) = failed_run(result) {
        return Err(error);
    }
    let Some(agent_id) = agent else { return json(result) };
    let RunResult { response, usage, iterations, stop_reason, error, failure: _ } = result;
    json(&RanBy {
        agent_id,
        response,
        usage: *usage,
        iterations: *iterations,
        stop_reason: *stop_reason,
        error: error.as_deref(),
    })
}

/// The error of a run that its provider or an empty purse ended; it shows the run's result all the same.
fn failed_run(result: &RunResult) -> Option<RpcError> {
    let message = result.error.clone().unwrap_or_default();
    let cause = match (result.failure, result.stop_reason) {
        (Some(kind), _) => KernelError::Provider(ModelFailure { kind, message, retry_after: None }),
        (None, StopReason::BudgetExceeded) => KernelError::Budget { message, lacks: None },
        (None, _) => return None,
    };
    let mut error = refused(cause);
    if let (Some(data), Ok(shown)) =
        (error.data.as_mut().and_then(|data| data.as_object_mut()), serde_json::to_value(result))
    {
        data.insert("result".to_owned(), shown);
    }
    Some(error)
}

async fn goal_method(kernel: &Kernel, caller: Principal, outbox: &Outbox, request: &Request) -> Answer {
    #[derive(Serialize)]
    struct Accepted {
        goal_id: aaos_core::id::GoalId,
    }
    #[derive(Serialize)]
    struct GoalList {
        goals: Vec<aaos_runtime::GoalView>,
    }
    let params = &request.params;
    match request.method.as_str() {
        "goal.submit" => {
            let goal = goal_request(params.parse()?)?;
            let goal_id = kernel.submit(caller, goal).await.map_err(refused)?;
            json(&Accepted { goal_id })
        }
        "goal.fork" => {
            let fork = fork_request(params.parse()?)?;
            json(&kernel.fork(caller, fork).await.map_err(refused)?)
        }
        "goal.follow" => {
            let OneGoal { goal_id } = params.parse()?;
            stream::goal(kernel, caller, outbox, request, goal_id).await
        }
        "goal.list" => {
            let Goals { state } = params.parse()?;
            let mut goals = kernel.goals(caller);
            goals.retain(|goal| state.is_none_or(|state| goal.state == state));
            json(&GoalList { goals })
        }
        "goal.status" => {
            let OneGoal { goal_id } = params.parse()?;
            json(&kernel.goal(caller, goal_id).map_err(refused)?)
        }
        "goal.cancel" => {
            let OneGoal { goal_id } = params.parse()?;
            json(&kernel.cancel_goal(caller, goal_id).await.map_err(refused)?)
        }
        _ => Err(RpcError::method_not_found(&request.method)),
    }
}

async fn tool_method(kernel: &Kernel, caller: Principal, request: &Request) -> Answer {
    #[derive(Serialize)]
    struct Tools {
        tools: Vec<aaos_runtime::ToolView>,
    }
    #[derive(Serialize)]
    struct Invoked {
        result: Box<RawValue>,
    }
    match request.method.as_str() {
        "tool.list" => {
            let Empty {} = request.params.parse()?;
            json(&Tools { tools: kernel.tools() })
        }
        "tool.invoke" => {
            let Invoke { agent_id, tool, input } = request.params.parse()?;
            let text = kernel.invoke_tool(caller, agent_id, &tool, input.get()).await.map_err(refused)?;
            json(&Invoked { result: RawValue::from_string(text).map_err(|error| internal(&error))? })
        }
        _ => Err(RpcError::method_not_found(&request.method)),
    }
}

async fn capability_method(kernel: &Kernel, caller: Principal, request: &Request) -> Answer {
    #[derive(Serialize)]
    struct Grants {
        grants: Vec<aaos_runtime::GrantView>,
    }
    #[derive(Serialize)]
    struct Ended {
        ok: bool,
        grants: Vec<aaos_core::id::GrantId>,
        calls: Vec<aaos_core::id::CallId>,
    }
    match request.method.as_str() {
        "capability.list" => {
            let OneAgent { agent_id } = request.params.parse()?;
            json(&Grants { grants: kernel.capabilities(caller, agent_id).map_err(refused)? })
        }
        "capability.revoke" => {
            let Revoke { agent_id, grant_id } = request.params.parse()?;
            let revoked = kernel.revoke(caller, agent_id, grant_id).await.map_err(refused)?;
            json(&Ended { ok: true, grants: revoked.grants, calls: revoked.calls })
        }
        "capability.explain" => {
            let params: Explain = request.params.parse()?;
            let asked = Asked { agent: params.agent_id, needs: params.needs() };
            if asked.needs.all.is_empty() {
                let why = "say what to explain: tool, read, write, host or spawn";
                return Err(RpcError::new(ErrorCode::InvalidParams, why));
            }
            json(&kernel.explain(caller, &asked).map_err(refused)?)
        }
        _ => Err(RpcError::method_not_found(&request.method)),
    }
}

async fn approval_method(kernel: &Kernel, caller: Principal, request: &Request) -> Answer {
    #[derive(Serialize)]
    struct Pending {
        pending: Vec<aaos_runtime::ApprovalView>,
        in_force: Vec<aaos_runtime::ApprovalInForce>,
    }
    match request.method.as_str() {
        "approval.list" => {
            let Empty {} = request.params.parse()?;
            let pending = kernel.approvals(caller).await.map_err(refused)?;
            json(&Pending { pending, in_force: kernel.approvals_in_force(caller) })
        }
        "approval.respond" => {
            let respond: Respond = request.params.parse()?;
            let (id, reason) = (respond.id, respond.reason.clone());
            let answer = respond.answer()?;
            kernel.answer_approval(caller, id, answer, reason).await.map_err(refused)?;
            json(&Done { ok: true })
        }
        _ => Err(RpcError::method_not_found(&request.method)),
    }
}

async fn audit_method(kernel: &Kernel, caller: Principal, outbox: &Outbox, request: &Request) -> Answer {
    #[derive(Serialize)]
    struct Entries {
        entries: Vec<aaos_core::event::Entry>,
        head: aaos_core::id::Seq,
    }
    match request.method.as_str() {
        "audit.query" => {
            let filter = filter_of(request.params.parse()?)?;
            let mut reader = AuditReader::new(kernel, caller);
            let entries = reader.query(filter).await.map_err(refused)?;
            let head = reader.head(&entries);
            json(&Entries { entries, head })
        }
        "audit.stream" => {
            let filter = filter_of(request.params.parse()?)?;
            stream::audit(kernel, caller, outbox, request, filter).await
        }
        "audit.verify" => {
            let Verify { head, key } = request.params.parse()?;
            let report = kernel.journal().verify_against(Expected { head, key }).await;
            json(&report.map_err(|error| refused(error.into()))?)
        }
        "audit.prune" => {
            let Prune { older_than_ms } = request.params.parse()?;
            let now = kernel.clock().now();
            let before = Timestamp(now.0.saturating_sub(older_than_ms.0));
            let pruned = kernel.journal().prune(before, now).await;
            json(&pruned.map_err(|error| refused(error.into()))?)
        }
        _ => Err(RpcError::method_not_found(&request.method)),
    }
}

fn filter_of(params: Audit) -> Result<Filter, RpcError> {
    let unknown = params.kinds.iter().find(|kind| !is_kind(kind));
    if let Some(kind) = unknown {
        let shown: String = kind.chars().take(64).collect();
        let message = format!("no entry is of kind {shown:?}; the kinds are {}", EVENT_KINDS.join(", "));
        return Err(RpcError::new(ErrorCode::InvalidParams, message));
    }
    let default = Filter::default();
    Ok(Filter {
        after_seq: params.after_seq,
        goal: params.goal_id,
        agent: params.agent_id,
        kinds: params.kinds,
        limit: params.limit.unwrap_or(default.limit),
    })
}

fn goal_request(params: Submit) -> Result<GoalRequest, RpcError> {
    let invalid = |why: String| RpcError::new(ErrorCode::InvalidParams, why);
    if params.grants.len() > limits::MAX_CAPABILITIES {
        return Err(invalid(format!("more than {} grants", limits::MAX_CAPABILITIES)));
    }
    let grants = params
        .grants
        .iter()
        .map(|grant| {
            let text = grant.as_str().map_or_else(|| grant.to_string(), ToOwned::to_owned);
            GrantSpec::parse(&text).map_err(|error| invalid(error.to_string()))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let manifest = params.manifest.as_deref().map(Manifest::parse).transpose();
    let asked = params.approval_required.iter().map(|tool| tool_name(tool)).collect::<Result<Vec<_>, _>>();
    Ok(GoalRequest {
        goal: params.goal,
        outputs: params.outputs,
        client_key: params.client_key,
        priority: params.priority,
        deadline_seconds: params.deadline_seconds.unwrap_or(limits::GOAL_DEADLINE_SECONDS),
        budget: params.budget.map(Into::into).unwrap_or_default(),
        grants,
        manifest: manifest.map_err(|error| refused(error.into()))?,
        approval_required: asked.map_err(|error| invalid(format!("approval_required: {error}")))?,
        working_directory: params.working_directory,
    })
}

fn fork_request(params: Fork) -> Result<ForkRequest, RpcError> {
    let Fork { goal_id, at, model, manifest, keep_files } = params;
    let manifest = manifest.as_deref().map(Manifest::parse).transpose();
    let manifest = manifest.map_err(|error| refused(error.into()))?;
    Ok(ForkRequest { goal: goal_id, at, manifest, model, keep_files })
}

/// The manifest as text. A path is read only for the daemon's own uid: it is the operator's own file.
async fn manifest_text(
    caller: Principal,
    text: Option<String>,
    path: Option<&Path>,
) -> Result<String, RpcError> {
    let invalid = |why: String| RpcError::new(ErrorCode::InvalidParams, why);
    match (text, path) {
        (Some(text), None) => Ok(text),
        (None, Some(path)) if caller.uid() == rustix::process::geteuid().as_raw() => {
            let owned = path.to_owned();
            let read = tokio::task::spawn_blocking(move || crate::files::read_manifest(&owned)).await;
            read.map_err(|died| internal(&died))?.map_err(|error| invalid(error.to_string()))
        }
        (None, Some(_)) => {
            Err(invalid("manifest_path is for the daemon's own user; send manifest".to_owned()))
        }
        (Some(_), Some(_)) | (None, None) => {
            Err(invalid("give exactly one of manifest and manifest_path".to_owned()))
        }
    }
}

/// A result as JSON text.
pub(super) fn json<T: Serialize>(value: &T) -> Answer {
    to_raw_value(value).map_err(|error| internal(&error))
}

fn internal(error: &dyn std::error::Error) -> RpcError {
    tracing::error!(%error, "a request failed inside the daemon");
    RpcError::new(ErrorCode::Internal, "the daemon failed; its log says more")
}

/// A kernel error with its code and a typed reason.
#[expect(clippy::needless_pass_by_value, reason = "it ends chains of map_err, which give the error away")]
pub(super) fn refused(error: KernelError) -> RpcError {
    #[derive(Serialize)]
    struct Reason<T> {
        reason: T,
    }
    #[derive(Serialize)]
    struct Archived<'e> {
        reason: &'static str,
        through: Seq,
        archive: Option<&'e Path>,
    }
    let answer = RpcError::new(error.code(), error.to_string());
    match &error {
        KernelError::Archived(JournalError::Archived { through, archive, .. }) => {
            let archive = archive.as_deref();
            answer.with_data(&Archived { reason: error.reason(), through: *through, archive })
        }
        KernelError::Tool(failure) => answer.with_data(&Reason { reason: failure.kind }),
        KernelError::Provider(failure) => answer.with_data(&Reason { reason: failure.kind }),
        other => answer.with_data(&Reason { reason: other.reason() }),
    }
}
