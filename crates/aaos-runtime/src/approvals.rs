//! Questions to people: asked inside `begin`, answered over the control socket, kept across restarts.
//!
//! Invariants: a question is durable before anybody sees it, and an answer before it has any effect; each question is
//! closed once, whoever comes first. Nothing is held while one waits: no inference slot, worker, purse or lock. An
//! approval of one very effect is used only while what the effect would change is what the person was shown.

mod in_force;
mod questions;
mod words;

use std::sync::Arc;

use aaos_core::approval::{ApprovalGrant, ApprovalScope, Question, Target};
use aaos_core::effect::{Access, Authorized, Charge, Effect, FileRight, Need, Needs};
use aaos_core::event::{Event, NotApproved, content_hash};
use aaos_core::id::{AgentId, ApprovalId, GrantId, TraceId};
use aaos_core::limits;
use aaos_core::path::{AbsPath, PathPattern};
use aaos_core::quantity::{Bytes, Millis, Timestamp};
use aaos_core::state::{PendingApproval, PendingCall, PendingKind, PendingTool, State};
use aaos_core::tool::{ToolCall, ToolInput};
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use aaos_core::world::World;
use aaos_journal::Permit;
use aaos_sandbox::OpenedProgram;
use tokio_util::sync::CancellationToken;

use crate::dispatch::cancelled;
use crate::error::KernelError;
use crate::kernel::Kernel;
use crate::principal::Principal;
use crate::registry::Agent;
use crate::spawn::off_thread;
use crate::view::ApprovalView;

use in_force::Attended;
pub(crate) use questions::Questions;
use questions::{Open, Told, Waiter};

const AGENT_STOPPED: &str = "the agent was stopped";
const GRANT_REVOKED: &str = "the grant was revoked";
const NOT_AS_SHOWN: &str = "what would be started is not what was shown any more";

/// What a person says to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It may be done.
    Approve(Covers),
    /// It may not.
    Deny,
}

/// What an approval is to cover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Covers {
    /// The very call that was asked about.
    ThisCall,
    /// More uses of the same tool through the same grants.
    Tool {
        /// Where the files have to lie.
        below: Option<PathPattern>,
        /// How often; once when absent.
        uses: Option<u32>,
        /// Whether the whole tree of agents may use it, not the asking agent and its descendants alone.
        for_goal: bool,
    },
}

/// How a wait for a person ended.
enum Ended {
    Answered(Told),
    Late,
    Stopped,
}

// Asking.
impl Kernel {
    /// Asks a person about an effect and waits for the answer. After an approval the effect is to be authorised anew;
    /// what is returned, if anything, is to be kept until then.
    pub(crate) async fn ask_person(
        &self,
        agent: &Agent,
        trace: Option<TraceId>,
        stop: &CancellationToken,
        mut question: Question,
    ) -> Result<Option<Attended<'_>>, ToolFailure> {
        let (effect, grants) = (question.effect.clone(), question.grants.clone());
        let accesses = {
            let needs = Needs { all: question.needs.clone(), ..Needs::default() };
            let now = self.clock().now();
            self.authority().explain(agent.id, &needs, now)
        };
        // Where a grant ended between the decision and now, the next decision says so.
        let Ok(accesses) = accesses else { return Ok(None) };
        question.targets = self.targets(agent, accesses).await.map_err(KernelError::into_tool_failure)?;
        let adopted = self.table().questions.adopt(&question);
        // Before anybody can answer.
        let attended = self.attend(adopted.as_ref().map_or(question.id, |waiter| waiter.id));
        let waiter = match adopted {
            Some(waiter) => waiter,
            None => self.open_question(agent, trace, question).await?,
        };
        // A revocation in between did not see the question.
        let lost = self.lost_grants(agent, &grants);
        if !lost.is_empty() {
            self.close_questions_under(&lost).await;
        }
        let told = {
            let _shown = agent.show_question(format!("approval {} of {effect}", waiter.id));
            self.await_answer(agent, stop, waiter).await
        };
        match told {
            Told::Approved => Ok(Some(attended)),
            Told::Stopped => Err(cancelled()),
            Told::Revoked => Err(revoked_meanwhile()),
            Told::Denied(reason) => {
                agent.live().was_refused = true;
                Err(not_approved(&effect, &reason))
            }
        }
    }

    /// Records a question and lists it.
    async fn open_question(
        &self,
        agent: &Agent,
        trace: Option<TraceId>,
        question: Question,
    ) -> Result<Waiter, ToolFailure> {
        let deadline = self.answer_deadline(agent);
        let asked = Event::HumanApprovalRequested { question: Box::new(question.clone()), deadline };
        let mut entry = self.agent_entry(agent, asked);
        entry.trace_id = trace;
        let (effect, asked_at) = (question.effect.clone(), entry.timestamp);
        let pending = PendingApproval { question, goal: agent.goal, asked_at, deadline };
        let grants = self.authority().grants_of(agent.id);
        let open = Open::new(pending, agent, &grants);
        // In the table first: whoever reads the entry can answer it at once.
        let opened = self.table().questions.open(open);
        let waiter = match opened {
            Ok(waiter) => waiter,
            Err(refusal) => {
                let told = self.journal_refusal(agent, &effect, refusal).await;
                return Err(KernelError::from(told).into_tool_failure());
            }
        };
        let recorded = self.journal().record(entry).await;
        self.table().questions.recorded(waiter.id, recorded.is_ok());
        recorded.map_err(|error| KernelError::from(error).into_tool_failure())?;
        Ok(waiter)
    }

    fn answer_deadline(&self, agent: &Agent) -> Timestamp {
        let left = agent.goal.map(|goal| self.time_left(goal).as_millis());
        let left = left.map(|left| Millis(u64::try_from(left).unwrap_or(u64::MAX)));
        let wait = Millis(limits::APPROVAL_WAIT_MS);
        self.clock().now().after(left.map_or(wait, |left| left.min(wait)))
    }

    /// Waits for the answer to a question; closes it where none comes in time, or the agent stops.
    async fn await_answer(&self, agent: &Agent, stop: &CancellationToken, mut waiter: Waiter) -> Told {
        let ended = self.answer_or_end(stop, &mut waiter).await;
        let late = self.clock().now() >= waiter.deadline;
        let (reason, told) = match ended {
            Ended::Answered(told) => return told,
            Ended::Stopped if !late => {
                // It stays open: an agent that goes on after the restart is still asked.
                if self.is_closing() {
                    return Told::Stopped;
                }
                let of_agent = agent.cancel.is_cancelled();
                let reason = if of_agent { AGENT_STOPPED } else { "the call that asked was stopped" };
                (reason.to_owned(), Told::Stopped)
            }
            Ended::Late | Ended::Stopped => {
                let reason = words::nobody_answered(waiter.wait);
                (reason.clone(), Told::Denied(reason))
            }
        };
        let taken = self.table().questions.take(waiter.id);
        match taken {
            Some(open) => {
                self.close_denied(agent, open, reason, told.clone()).await;
                told
            }
            // Somebody is answering at this very moment.
            None => waiter.told().await,
        }
    }

    async fn answer_or_end(&self, stop: &CancellationToken, waiter: &mut Waiter) -> Ended {
        let deadline = waiter.deadline;
        tokio::select! {
            biased;
            told = waiter.told() => Ended::Answered(told),
            () = stop.cancelled() => Ended::Stopped,
            () = self.closing().cancelled() => Ended::Stopped,
            () = self.clock().sleep_until(deadline) => Ended::Late,
        }
    }

    /// Records that nobody approved a question, and tells whoever waits.
    async fn close_denied(&self, agent: &Agent, open: Open, reason: String, told: Told) {
        let approval = open.question().id;
        let because = match &told {
            Told::Revoked => NotApproved::Revoked,
            Told::Stopped => NotApproved::Stopped,
            Told::Denied(_) => NotApproved::Late,
            Told::Approved => unreachable!("it was not approved"),
        };
        let denied = Event::HumanApprovalDenied { approval, principal: None, reason, because };
        self.note_denial(agent, &denied);
        self.record_or_log(self.agent_entry(agent, denied)).await;
        open.tell(told);
    }

    /// Of these grants those that an agent holds no more.
    pub(crate) fn lost_grants(&self, agent: &Agent, grants: &[GrantId]) -> Vec<GrantId> {
        let held = self.authority().grants_of(agent.id);
        let is_held = |grant: &&GrantId| held.iter().any(|record| record.id == **grant);
        grants.iter().filter(|grant| !is_held(grant)).copied().collect()
    }

    /// Closes what is asked about uses of grants that were revoked.
    pub(crate) async fn close_questions_under(&self, revoked: &[GrantId]) {
        let left = self.table().questions.take_under(revoked);
        for open in left {
            let agent = self.table().agent(open.question().agent);
            match agent {
                Some(agent) => self.close_denied(&agent, open, GRANT_REVOKED.to_owned(), Told::Revoked).await,
                // Its agent is gone, which nobody who waits for a question is.
                None => tracing::error!("a question of an agent that is gone was open"),
            }
        }
    }

    /// Closes what an agent that is gone still asks.
    pub(crate) async fn close_questions_of(&self, agent: &Agent) {
        let left = self.table().questions.take_of(agent.id);
        for open in left {
            self.close_denied(agent, open, AGENT_STOPPED.to_owned(), Told::Stopped).await;
        }
    }
}

// Using an approval.
impl Kernel {
    /// Gives an authorised effect back, unless it uses the approval of this very effect and what it would change is
    /// not what the person was shown: then the approval ends, and nothing is charged.
    pub(crate) async fn check_approval<E: Effect>(
        &self,
        agent: &Agent,
        authorized: Authorized<E>,
    ) -> Result<Option<Authorized<E>>, KernelError> {
        let Some((approval, shown, accesses)) = self.approval_to_check(&authorized) else {
            return Ok(Some(authorized));
        };
        if self.targets(agent, accesses).await? == shown {
            return Ok(Some(authorized));
        }
        drop(authorized);
        self.authority().withdraw(approval);
        // What was reserved beside it is free again.
        self.budget_changed().notify_waiters();
        let reason = "what would be changed is not what was shown any more".to_owned();
        let because = NotApproved::Withdrawn;
        let withdrawn = Event::HumanApprovalDenied { approval, principal: None, reason, because };
        self.journal().record(self.agent_entry(agent, withdrawn)).await?;
        Ok(None)
    }

    /// The approval of this very effect that an authorisation uses: what was shown of its targets, and how to look at
    /// them again.
    fn approval_to_check<E: Effect>(
        &self,
        authorized: &Authorized<E>,
    ) -> Option<(ApprovalId, Vec<Target>, Vec<Access>)> {
        let parts = authorized.parts();
        let used = parts.charges.iter().find_map(|charge| match charge {
            Charge::Approval { approval } => Some(*approval),
            Charge::Use { .. } | Charge::Purse { .. } => None,
        })?;
        let scope = self.authority().approval(used).map(|approval| approval.scope.clone());
        let targets = match scope {
            Some(ApprovalScope::Exactly { targets, .. }) => targets,
            // Its holder stopped meanwhile, and the call ends with it.
            Some(ApprovalScope::Tool { .. }) | None => return None,
        };
        let each = parts.each.iter().filter_map(|one| one.as_ref().ok());
        Some((used, targets, parts.all.iter().chain(each).cloned().collect()))
    }

    /// Whether what a call from before a restart would change is what the person was shown who approved this very call,
    /// or what the call itself left there.
    pub(crate) async fn is_as_approved(
        &self,
        agent: &Agent,
        pending: &PendingCall,
        call: &ToolCall,
    ) -> Result<bool, KernelError> {
        let PendingKind::Tool(made) = &pending.kind else { return Ok(true) };
        let scope = {
            let authority = self.authority();
            let used = pending.approvals().find_map(|id| authority.approval(id));
            used.map(|approval| approval.scope.clone())
        };
        let Some(ApprovalScope::Exactly { targets: shown, .. }) = scope else { return Ok(true) };
        let seen = self.targets(agent, made.access.clone()).await?;
        if seen == shown {
            return Ok(true);
        }
        let ToolInput::FileWrite(input) = &call.input else { return Ok(false) };
        if input.append {
            return self.begins_as_approved(made, call, &shown).await;
        }
        let written = Some(content_hash(input.content.as_bytes()));
        let done = shown.into_iter().map(|target| Target { content_hash: written.clone(), ..target });
        Ok(seen == done.collect::<Vec<_>>())
    }

    /// Whether what stood at the targets of an append when it was approved is how they begin now.
    async fn begins_as_approved(
        &self,
        made: &PendingTool,
        call: &ToolCall,
        shown: &[Target],
    ) -> Result<bool, KernelError> {
        let Some(at) = call.at() else { return Ok(false) };
        let (writes, roots) = (written(made.access.clone()), self.roots().clone());
        let look = move || {
            let seen = writes.iter().map(|(path, grant, below)| roots.observe_start(path, *grant, below, at));
            seen.collect::<Vec<Target>>()
        };
        let begin = off_thread(look).await?;
        // Of a file that was not there nothing is the beginning.
        let nothing = (at == Bytes::ZERO).then(|| content_hash(b""));
        let shown = shown.iter().cloned().map(|target| {
            let content_hash = target.content_hash.or_else(|| nothing.clone());
            Target { content_hash, ..target }
        });
        Ok(begin == shown.collect::<Vec<_>>())
    }

    /// What stands where an effect would write, and what it would start.
    async fn targets(&self, agent: &Agent, accesses: Vec<Access>) -> Result<Vec<Target>, KernelError> {
        let mut programs = Vec::new();
        for access in &accesses {
            if let (Need::Exec(program), Some(world)) = (&access.need, &access.world) {
                programs.extend(self.observe_program(agent, program, world).await?);
            }
        }
        let writes = written(accesses);
        if writes.is_empty() {
            return Ok(programs);
        }
        let roots = self.roots().clone();
        let look = move || {
            let seen = writes.iter().map(|(path, grant, below)| roots.observe_target(path, *grant, below));
            seen.chain(programs).collect()
        };
        off_thread(look).await
    }

    /// What a program would start: itself, and for a script what it is started by. What cannot be looked at is told in
    /// words: the start fails on it too.
    async fn observe_program(
        &self,
        agent: &Agent,
        program: &AbsPath,
        world: &World,
    ) -> Result<Vec<Target>, KernelError> {
        match self.open_program(agent, &agent.stop_signal(), program, world).await {
            Ok(opened) => off_thread(move || opened.observe()).await,
            Err(failure) => Ok(vec![Target {
                path: program.to_string(),
                root: String::new(),
                place: String::new(),
                content_hash: Some(format!("unknown: {}", failure.message)),
            }]),
        }
    }

    /// Gives back what was opened for a call, unless a person approved this very call and it is not what they were
    /// shown: what is executed is what was looked at, by the same descriptors.
    pub(crate) async fn check_opened(
        &self,
        permit: &Permit<ToolCall>,
        opened: OpenedProgram,
    ) -> Result<OpenedProgram, ToolFailure> {
        let Some(approval) = permit.approval() else { return Ok(opened) };
        let scope = self.authority().approval(approval).map(|approval| approval.scope.clone());
        let shown = match scope {
            Some(ApprovalScope::Exactly { targets, .. }) => targets,
            Some(ApprovalScope::Tool { .. }) => return Ok(opened),
            // Its holder stopped meanwhile.
            None => return Err(cancelled()),
        };
        let look = move || {
            let is_shown = opened.observe().iter().all(|seen| shown.contains(seen));
            is_shown.then_some(opened)
        };
        let opened = off_thread(look).await.map_err(KernelError::into_tool_failure)?;
        opened.ok_or_else(|| not_approved(permit.effect().input.name(), NOT_AS_SHOWN))
    }
}

// Answering.
impl Kernel {
    /// `approval.list`: what is asked, oldest first.
    ///
    /// # Errors
    /// [`KernelError::System`] when the list cannot be made.
    pub async fn approvals(&self, caller: Principal) -> Result<Vec<ApprovalView>, KernelError> {
        let now = self.clock().now();
        let is_shown = |open: &Open| caller.may_touch(open.owner()) && open.is_open_at(now);
        // A question whose entry can be read is listed.
        let recording = self.table().questions.recording(is_shown);
        for mut waiter in recording {
            waiter.recorded().await;
        }
        let asked = self.table().questions.list(is_shown);
        off_thread(move || questions::views(&asked)).await
    }

    /// `approval.respond`. Of several answers to one question exactly one wins; for the others it is not known. A
    /// denial of an approval in force withdraws it.
    ///
    /// # Errors
    /// [`KernelError::NotFound`] for what is neither open nor in force, or not this principal's,
    /// [`KernelError::Invalid`] for a scope that does not cover what was asked, a journal that fails.
    pub async fn answer_approval(
        &self,
        caller: Principal,
        id: ApprovalId,
        answer: Answer,
        reason: Option<String>,
    ) -> Result<(), KernelError> {
        let unknown = || KernelError::unknown("approval", &id);
        if reason.as_ref().is_some_and(|reason| reason.len() > limits::MAX_APPROVAL_REASON_BYTES) {
            let most = limits::MAX_APPROVAL_REASON_BYTES;
            return Err(KernelError::Invalid(format!("a reason is at most {most} bytes long")));
        }
        let now = self.clock().now();
        let found = {
            let table = self.table();
            let open = table.questions.get(id).filter(|open| caller.may_touch(open.owner()));
            let asked = open.filter(|open| open.is_open_at(now)).map(|open| Arc::clone(open.asked()));
            asked.and_then(|asked| {
                let agent = table.agent(asked.question().agent).filter(|agent| !agent.cancel.is_cancelled());
                Some((asked, agent?))
            })
        };
        let Some((asked, agent)) = found else {
            return match answer {
                Answer::Deny => self.withdraw_approval(caller, id, reason).await,
                Answer::Approve(_) => Err(unknown()),
            };
        };
        match answer {
            Answer::Deny => {
                let open = self.table().questions.take(id).ok_or_else(unknown)?;
                let reason = reason.unwrap_or_else(|| "no reason was given".to_owned());
                let denied = Event::HumanApprovalDenied {
                    approval: id,
                    principal: Some(caller.uid()),
                    reason: reason.clone(),
                    because: NotApproved::Answered,
                };
                self.note_denial(&agent, &denied);
                self.journal().record(self.agent_entry(&agent, denied)).await?;
                open.tell(Told::Denied(reason));
                Ok(())
            }
            Answer::Approve(covers) => {
                let approval = self.approval_for(asked.question(), covers)?;
                let open = self.table().questions.take(id).ok_or_else(unknown)?;
                self.approve(caller, &agent, open, approval, reason).await
            }
        }
    }

    async fn approve(
        &self,
        caller: Principal,
        agent: &Agent,
        open: Open,
        approval: ApprovalGrant,
        reason: Option<String>,
    ) -> Result<(), KernelError> {
        let granted =
            Event::HumanApprovalGranted { approval: approval.clone(), principal: caller.uid(), reason };
        self.journal().record(self.agent_entry(agent, granted)).await?;
        let approved = self.authority().approve(approval);
        if let Err(refusal) = approved {
            // Its holder stopped, or holds too many, since the answer was looked at.
            let reason = refusal.to_string();
            self.close_denied(agent, open, reason.clone(), Told::Denied(reason)).await;
            return Err(refusal.into());
        }
        open.tell(Told::Approved);
        Ok(())
    }

    /// The approval that an answer asks for; it covers what was asked, or the wait would not end.
    fn approval_for(&self, question: &Question, covers: Covers) -> Result<ApprovalGrant, KernelError> {
        let (holder, uses, scope) = match covers {
            Covers::ThisCall => {
                let (digest, targets) = (question.digest.clone(), question.targets.clone());
                (question.agent, 1, ApprovalScope::Exactly { digest, targets })
            }
            Covers::Tool { below, uses, for_goal } => {
                let uses = uses.unwrap_or(1);
                words::check_scope(question, below.as_ref(), uses)?;
                let (holder, grants) = self.scope_holder(question, for_goal)?;
                (holder, uses, ApprovalScope::Tool { effect: question.effect.clone(), grants, below })
            }
        };
        if self.authority().approvals_of(holder).len() >= limits::MAX_APPROVALS_PER_AGENT {
            let most = limits::MAX_APPROVALS_PER_AGENT;
            return Err(KernelError::Limit(format!("{most} approvals are in force for one agent already")));
        }
        Ok(ApprovalGrant { id: question.id, holder, scope, uses })
    }

    /// Who may use a scoped approval, and through which grants: those of the question, or for a whole goal those that
    /// they derive from.
    fn scope_holder(
        &self,
        question: &Question,
        for_goal: bool,
    ) -> Result<(AgentId, Vec<GrantId>), KernelError> {
        if !for_goal {
            return Ok((question.agent, question.grants.clone()));
        }
        let authority = self.authority();
        let holder = authority.root_of(question.agent);
        let holder = holder.ok_or_else(|| KernelError::unknown("approval", &question.id))?;
        let grants = question.grants.iter().filter_map(|grant| authority.origin_of(*grant)).collect();
        Ok((holder, grants))
    }
}

// Restarting.
impl Kernel {
    /// Lists what an agent that goes on was asking when the daemon ended. Nobody waits for these answers any more;
    /// they are used when the agent does the same again. What was answered with no before anybody was told is kept for
    /// that too, so that no person is asked twice.
    pub(crate) fn recall_questions(&self, state: &State, agent: &Arc<Agent>) {
        let grants = self.authority().grants_of(agent.id);
        let refused = state.refused.values().filter(|one| one.asked.question.agent == agent.id);
        for one in refused {
            let open = Open::recalled(one.asked.clone(), agent, &grants);
            self.table().questions.recall_refused(&open, one.reason.clone());
        }
        let asked = state.questions.values().filter(|asked| asked.question.agent == agent.id);
        for pending in asked {
            let open = Open::recalled(pending.clone(), agent, &grants);
            let waiter = self.table().questions.recall(open);
            let (kernel, owned) = (self.clone(), Arc::clone(agent));
            drop(agent.tasks.spawn(async move {
                let stop = owned.cancel.clone();
                kernel.await_answer(&owned, &stop, waiter).await;
            }));
        }
    }
}

/// Where these accesses write: the path, the grant, and the place below its root.
fn written(accesses: Vec<Access>) -> Vec<(AbsPath, GrantId, String)> {
    let writes = accesses.into_iter().filter_map(|access| match access.need {
        Need::File { right: FileRight::Write, path } => Some((path, access.grant, access.relative?)),
        _ => None,
    });
    writes.collect()
}

/// The failure of a call whose grant was revoked while a person was asked.
fn revoked_meanwhile() -> ToolFailure {
    ToolFailure::new(
        ToolFailureKind::Revoked,
        "a grant that this call would use was revoked while it waited for a person; nothing was done, do without it",
    )
}

/// The failure of a call that no person approved.
pub(crate) fn not_approved(effect: &str, reason: &str) -> ToolFailure {
    let words = format!("{effect} was not approved: {reason}; nothing was done, go on without it");
    KernelError::Approval(words).into_tool_failure()
}
