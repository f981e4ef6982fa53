//! Goals: accepted durably, queued, worked on by a bootstrap agent, judged by what was observed.
//!
//! Invariants: `submit` answers after the goal is on disk; a goal ends once, with a recorded verdict; the
//! verdict rests on declared outputs and on failures of its children, never on prose.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aaos_agent::RunEnd;
use aaos_core::budget::Budget;
use aaos_core::capability::{Capability, Constraints, GrantSpec};
use aaos_core::event::{AgentEnd, Event, GoalState, NewEntry, OutputBefore, OutputObserved};
use aaos_core::id::{AgentId, GoalId};
use aaos_core::limits;
use aaos_core::manifest::Manifest;
use aaos_core::model::Usage;
use aaos_core::name::ToolName;
use aaos_core::path::{AbsPath, PathPattern, Reach};
use aaos_core::quantity::{MicroUsd, Quantity, Timestamp};
use aaos_core::state::{FailedChildren, ForkRecord, State};
use aaos_core::toolio::StopReason;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::KernelError;
use crate::far::WorkerOwner;
use crate::fork::forked;
use crate::kernel::Kernel;
use crate::principal::{Principal, fits};
use crate::recovery::RunSoFar;
use crate::registry::Agent;
use crate::spawn::{Origin, deadline_from, off_thread};
use crate::verdict::{Facts, Verdict, judge};
use crate::view::GoalView;

/// What a principal asks for.
#[derive(Debug, Clone)]
pub struct GoalRequest {
    /// In words.
    pub goal: String,
    /// Files that must have been created or changed for the goal to be done.
    pub outputs: Vec<AbsPath>,
    /// A second submission with the same key is the same goal.
    pub client_key: Option<String>,
    /// Higher goes first.
    pub priority: i64,
    /// It fails after this long.
    pub deadline_seconds: u64,
    /// Purse of its whole tree; the configured default of tokens where it bounds none.
    pub budget: Budget,
    /// The operator's root grant.
    pub grants: Vec<GrantSpec>,
    /// Its root agent, when not the shipped one.
    pub manifest: Option<Manifest>,
    /// Tools of which each use waits for a person, beside those of the root agent's manifest.
    pub approval_required: Vec<ToolName>,
    /// Against which relative paths of the goal are meant.
    pub working_directory: Option<AbsPath>,
}

/// A goal in the table.
#[derive(Debug)]
pub(crate) struct Goal {
    pub(crate) request: Arc<GoalRequest>,
    pub(crate) owner: u32,
    pub(crate) accepted_at: Timestamp,
    pub(crate) deadline: Timestamp,
    pub(crate) state: GoalState,
    pub(crate) root_agent: Option<AgentId>,
    pub(crate) workspace: Option<AbsPath>,
    /// What it took over from another goal.
    pub(crate) fork: Option<Arc<ForkRecord>>,
    /// Declared outputs that were not there when it began.
    pub(crate) absent: Vec<AbsPath>,
    pub(crate) outputs: Vec<OutputObserved>,
    pub(crate) response: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) usage: Usage,
    /// What its inferences cost, as far as their models have prices.
    pub(crate) cost: MicroUsd,
    pub(crate) exit_code: Option<u8>,
    pub(crate) ended_at: Option<Timestamp>,
    pub(crate) cancel: CancellationToken,
    pub(crate) failed_children: FailedChildren,
    /// Whether something was denied to one of its agents.
    pub(crate) was_denied: bool,
    pub(crate) over: watch::Sender<bool>,
    /// Held by whoever follows it.
    followed: Arc<()>,
}

/// Somebody follows a goal, as long as this lives.
#[derive(Debug)]
pub struct Follower {
    _of: Option<Arc<()>>,
}

impl Goal {
    pub(crate) fn new(
        request: GoalRequest,
        owner: u32,
        (accepted_at, deadline): (Timestamp, Timestamp),
        cancel: CancellationToken,
    ) -> Self {
        Self {
            request: Arc::new(request),
            owner,
            accepted_at,
            deadline,
            state: GoalState::Queued,
            root_agent: None,
            workspace: None,
            fork: None,
            absent: Vec::new(),
            outputs: Vec::new(),
            response: None,
            error: None,
            usage: Usage::default(),
            cost: MicroUsd::ZERO,
            exit_code: None,
            ended_at: None,
            cancel,
            failed_children: FailedChildren::default(),
            was_denied: false,
            over: watch::Sender::new(false),
            followed: Arc::default(),
        }
    }

    /// Whether somebody waits for what comes of it.
    pub(crate) fn is_followed(&self) -> bool {
        Arc::strong_count(&self.followed) > 1
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, GoalState::Running | GoalState::Waiting)
    }
}

/// How far a goal's agent came.
#[derive(Debug)]
struct Progress {
    /// What stood at each declared output before.
    before: Vec<OutputBefore>,
    run: RunSoFar,
}

impl Kernel {
    /// `goal.submit`: answers once the goal is durable.
    ///
    /// # Errors
    /// [`KernelError`] when the text is too long, an output lies in no write grant, or the queue is full.
    pub async fn submit(&self, caller: Principal, request: GoalRequest) -> Result<GoalId, KernelError> {
        self.check_open()?;
        let request = self.checked(caller, request)?;
        self.accept(caller, GoalId::from_uuid(self.clock().fresh()), request, None, Arc::default()).await
    }

    /// The same for somebody who follows the goal from its beginning on.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub async fn submit_followed(
        &self,
        caller: Principal,
        request: GoalRequest,
    ) -> Result<(GoalId, Follower), KernelError> {
        self.check_open()?;
        let request = self.checked(caller, request)?;
        let (id, of) = (GoalId::from_uuid(self.clock().fresh()), Arc::default());
        let id = self.accept(caller, id, request, None, Arc::clone(&of)).await?;
        Ok((id, Follower { _of: Some(of) }))
    }

    /// What is asked for, if it is in order and the caller may ask for it.
    pub(crate) fn checked(
        &self,
        caller: Principal,
        request: GoalRequest,
    ) -> Result<GoalRequest, KernelError> {
        check_request(&request)?;
        self.within_ceiling(caller, request)
    }

    /// Records a goal that was checked, queues it and starts it when its turn has come. Gives the goal that has its
    /// client key, if there is one.
    pub(crate) async fn accept(
        &self,
        caller: Principal,
        id: GoalId,
        request: GoalRequest,
        fork: Option<ForkRecord>,
        followed: Arc<()>,
    ) -> Result<GoalId, KernelError> {
        let _one_at_a_time = self.submit_gate().lock().await;
        let key = request.client_key.clone().map(|key| (caller.uid(), key));
        if let Some(known) = key.as_ref().and_then(|key| self.table().goal_of_key.get(key).copied()) {
            return Ok(known);
        }
        self.check_room(caller)?;
        let deadline = deadline_from(self.clock().now(), request.deadline_seconds);
        let entry = self.entry(Some(id), None, self.accepted(caller, &request, deadline));
        let times = (entry.timestamp, deadline);
        let forked = fork.as_ref().and_then(forked).map(|event| self.entry(Some(id), None, event));
        self.journal().record_all([entry].into_iter().chain(forked).collect()).await?;
        let mut goal = Goal::new(request, caller.uid(), times, self.halting().child_token());
        goal.fork = fork.map(Arc::new);
        goal.followed = followed;
        self.queue_goal(id, goal);
        self.start_goals();
        Ok(id)
    }

    /// Whether the queue takes a goal more. Listed principals leave room to others.
    fn check_room(&self, caller: Principal) -> Result<(), KernelError> {
        let table = self.table();
        let of_caller = |id: &&GoalId| table.goals.get(id).is_some_and(|goal| goal.owner == caller.uid());
        let own = table.queue.iter().filter(of_caller).count();
        let is_listed = self.config().principals.ceiling(caller.uid()).is_some();
        if table.queue.len() >= limits::MAX_QUEUED_GOALS
            || is_listed && own >= limits::MAX_QUEUED_GOALS_OF_ONE
        {
            return Err(KernelError::Limit("too many goals are queued; wait for some to end".to_owned()));
        }
        Ok(())
    }

    /// Puts an accepted goal behind those of the same priority and before those of a lower one.
    pub(crate) fn queue_goal(&self, id: GoalId, goal: Goal) {
        let mut table = self.table();
        let priority = goal.request.priority;
        if let Some(key) = goal.request.client_key.clone() {
            table.goal_of_key.insert((goal.owner, key), id);
        }
        table.goals.insert(id, goal);
        let ahead =
            |other: &&GoalId| table.goals.get(other).is_some_and(|goal| goal.request.priority >= priority);
        let place = table.queue.iter().take_while(ahead).count();
        table.queue.insert(place, id);
        drop(table);
        let kernel = self.clone();
        drop(self.tasks().spawn(async move { kernel.leave_queue_in_time(id).await }));
    }

    /// Fails a goal that still waits for its turn at its deadline.
    async fn leave_queue_in_time(&self, id: GoalId) {
        let Some(mut over) = self.table().goals.get(&id).map(|goal| goal.over.subscribe()) else { return };
        tokio::select! {
            () = self.clock().sleep_until(self.deadline_of(id)) => {}
            _ = over.wait_for(|over| *over) => return,
            () = self.closing().cancelled() => return,
        }
        if self.leave_queue(id) {
            self.finish_goal(id, Verdict::too_late()).await;
        }
    }

    /// Takes a goal out of the queue; false where it is not in it.
    fn leave_queue(&self, id: GoalId) -> bool {
        let queue = &mut self.table().queue;
        let before = queue.len();
        queue.retain(|queued| *queued != id);
        queue.len() < before
    }

    fn accepted(&self, caller: Principal, request: &GoalRequest, deadline: Timestamp) -> Event {
        Event::GoalAccepted {
            goal: request.goal.clone(),
            outputs: request.outputs.clone(),
            client_key: request.client_key.clone(),
            deadline,
            budget: self.goal_budget(request),
            principal: caller.uid(),
            priority: request.priority,
            grants: request.grants.clone(),
            manifest: request.manifest.clone().map(Box::new),
            approval_required: request.approval_required.clone(),
            working_directory: request.working_directory.clone(),
        }
    }

    pub(crate) fn goal_budget(&self, request: &GoalRequest) -> Budget {
        let tokens = request.budget.max.get(Quantity::Tokens).unwrap_or(self.config().limits.goal_tokens.0);
        let max = request.budget.max.with(Quantity::Tokens, Some(tokens));
        Budget { max, ..request.budget }
    }

    /// Starts queued goals while there is room.
    pub(crate) fn start_goals(&self) {
        loop {
            let id = {
                let mut table = self.table();
                if table.running_goals() >= self.config().limits.running_goals || self.check_open().is_err() {
                    return;
                }
                let Some(id) = table.queue.pop_front() else { return };
                let Some(goal) = table.goals.get_mut(&id) else { continue };
                goal.state = GoalState::Running;
                id
            };
            self.work_on(id, None);
        }
    }

    /// Works on a goal, from where an earlier daemon left it if it did.
    pub(crate) fn work_on(&self, id: GoalId, earlier: Option<Arc<State>>) {
        let kernel = self.clone();
        self.tasks().spawn(async move { kernel.work_on_goal(id, earlier).await });
    }

    async fn work_on_goal(&self, id: GoalId, earlier: Option<Arc<State>>) {
        let Some((request, owner, cancel)) = self
            .table()
            .goals
            .get(&id)
            .map(|goal| (Arc::clone(&goal.request), goal.owner, goal.cancel.clone()))
        else {
            return;
        };
        let begun = match earlier {
            None => self.start_goal(id, &request, owner, &cancel).await,
            Some(state) => self.recall_goal(id, state).await,
        };
        // Without a verdict the daemon closes: the goal goes on after the next start.
        match begun {
            Ok((agent, progress)) => {
                let ended = self.finish_work(id, &request, &agent, progress, &cancel).await;
                let Some(verdict) = ended else { return };
                self.close_goal(id, verdict);
            }
            Err(error) => {
                let Some(verdict) = self.verdict_of_error(&error, &cancel) else { return };
                self.finish_goal(id, verdict).await;
            }
        }
        self.start_goals();
    }

    fn verdict_of_error(&self, error: &KernelError, cancel: &CancellationToken) -> Option<Verdict> {
        let closes = matches!(error, KernelError::ShuttingDown) || self.is_closing();
        // Halting cancels every goal, which says nothing about this one.
        if closes && (!cancel.is_cancelled() || self.halting().is_cancelled()) {
            return None;
        }
        Some(Verdict::could_not_run(error, cancel.is_cancelled()))
    }

    /// Runs a goal's agent to its end, and ends the agent after its end is on record.
    async fn finish_work(
        &self,
        id: GoalId,
        request: &GoalRequest,
        agent: &Arc<Agent>,
        progress: Progress,
        cancel: &CancellationToken,
    ) -> Option<Verdict> {
        let ran = self.run_goal_agent(id, request, agent, progress).await;
        let verdict = match ran {
            Ok(verdict) => verdict,
            Err(error) => self.verdict_of_error(&error, cancel)?,
        };
        let end = match verdict.state {
            GoalState::Done => AgentEnd::Finished,
            _ => AgentEnd::Failed { reason: verdict.error.clone().unwrap_or_default() },
        };
        // In one transaction: a goal whose agent has ended is never found open.
        let finished = self.finished(id, &verdict);
        let recorded = self.retire_recording(agent, end, Some(finished)).await;
        self.acknowledged(id, verdict, recorded)
    }

    /// Admits a goal's agent and records that the goal began.
    async fn start_goal(
        &self,
        id: GoalId,
        request: &GoalRequest,
        owner: u32,
        cancel: &CancellationToken,
    ) -> Result<(Arc<Agent>, Progress), KernelError> {
        let workspace = self.make_workspace(id).await?;
        let manifest = self.root_manifest(request, &workspace);
        let origin = Origin { owner, goal: Some(id), budget: self.goal_budget(request) };
        let agent = self.admit_operator_agent(manifest, origin, cancel.child_token()).await?;
        let before = self.with_forked_outputs(id, self.outputs_before(&agent, &request.outputs).await);
        let briefing = self.briefing(request, &workspace, &agent).await;
        let started =
            Event::GoalStarted { root_agent: agent.id, workspace: workspace.clone(), before: before.clone() };
        let recorded = self.journal().record(self.agent_entry(&agent, started)).await;
        let begun = match recorded {
            Ok(_) => self.first_run(&agent, briefing).await,
            Err(error) => Err(error.into()),
        };
        let run = match begun {
            Ok(run) => run,
            Err(error) => {
                self.retire_or_log(&agent, AgentEnd::Failed { reason: error.to_string() }).await;
                return Err(error);
            }
        };
        if let Some(goal) = self.table().goals.get_mut(&id) {
            goal.root_agent = Some(agent.id);
            goal.workspace = Some(workspace);
            goal.absent = crate::outputs::absent(&before);
        }
        Ok((agent, Progress { before, run }))
    }

    /// Takes up a goal whose agent an earlier daemon had started.
    async fn recall_goal(
        &self,
        id: GoalId,
        state: Arc<State>,
    ) -> Result<(Arc<Agent>, Progress), KernelError> {
        let gone = || KernelError::State("its agent did not outlive the restart of agentd".to_owned());
        let goal = state.goals.get(&id).ok_or_else(gone)?;
        let root = goal.root_agent.and_then(|root| state.agents.get(&root));
        let record = root.filter(|root| root.is_alive()).ok_or_else(gone)?;
        let agent = self.table().agent(record.id).ok_or_else(gone)?;
        let before = goal.before.clone();
        let recalled = match self.recall_run(&state, &agent).await {
            Ok(RunSoFar::None(_)) => {
                let briefing = self.briefing_again(id, &agent).await.ok_or_else(gone)?;
                self.first_run(&agent, briefing).await
            }
            recalled => recalled,
        };
        match recalled {
            Ok(run) => Ok((agent, Progress { before, run })),
            Err(error) => {
                self.retire_or_log(&agent, AgentEnd::Failed { reason: error.to_string() }).await;
                Err(error)
            }
        }
    }

    async fn briefing_again(&self, id: GoalId, agent: &Agent) -> Option<String> {
        let (request, workspace) = {
            let table = self.table();
            let goal = table.goals.get(&id)?;
            (Arc::clone(&goal.request), goal.workspace.clone()?)
        };
        Some(self.briefing(&request, &workspace, agent).await)
    }

    /// The first message of a goal's agent. What this machine runs itself is not told its grants, unless another of the
    /// agent's models is not: it is held to them step by step, and has little room.
    async fn briefing(&self, request: &GoalRequest, workspace: &AbsPath, agent: &Agent) -> String {
        let mut is_told = false;
        for model in agent.manifest.models() {
            is_told |= !self.is_own(model).await;
        }
        briefing(request, workspace, is_told.then_some(&agent.manifest.capabilities))
    }

    async fn run_goal_agent(
        &self,
        id: GoalId,
        request: &GoalRequest,
        agent: &Arc<Agent>,
        progress: Progress,
    ) -> Result<Verdict, KernelError> {
        self.warm_worker(&agent.worker, WorkerOwner { agent: agent.id, goal: agent.goal }).await?;
        let Progress { before, run } = progress;
        debug_assert!(before.len() == request.outputs.len(), "every declared output was looked at");
        let run = self.run_up(agent, run);
        tokio::pin!(run);
        let (ran, timed_out) = tokio::select! {
            ran = &mut run => (ran, false),
            () = self.clock().sleep_until(self.deadline_of(id)) => {
                agent.cancel.cancel();
                self.kill_workers_of(id);
                (run.await, true)
            }
        };
        let end = match ran {
            Err(_) if timed_out && !self.is_closing() => timed_out_unrun(),
            ran => ran?,
        };
        let outputs = self.outputs_after(agent, before).await;
        Ok(self.judge_goal(id, &end, outputs, timed_out))
    }

    /// Time until a goal's deadline, which counts from its acceptance.
    pub(crate) fn time_left(&self, id: GoalId) -> Duration {
        Duration::from_millis(self.deadline_of(id).since(self.clock().now()).0)
    }

    /// The end of a goal's time; a goal that is gone has none left.
    pub(crate) fn deadline_of(&self, id: GoalId) -> Timestamp {
        self.table().goals.get(&id).map_or(Timestamp::ZERO, |goal| goal.deadline)
    }

    /// Ends the call in flight of every agent of a goal.
    fn kill_workers_of(&self, id: GoalId) {
        let agents: Vec<_> = self.table().agents.values().cloned().collect();
        for agent in agents.iter().filter(|agent| agent.goal == Some(id)) {
            agent.worker.kill();
        }
    }

    fn judge_goal(&self, id: GoalId, end: &RunEnd, outputs: Vec<OutputObserved>, timed_out: bool) -> Verdict {
        let table = self.table();
        let goal = table.goals.get(&id);
        judge(Facts {
            end,
            outputs,
            timed_out,
            failed_children: goal.map(|goal| &goal.failed_children),
            was_denied: goal.is_some_and(|goal| goal.was_denied),
        })
    }

    /// The entry of a goal's end.
    fn finished(&self, id: GoalId, verdict: &Verdict) -> NewEntry {
        let usage = self.table().goals.get(&id).map(|goal| goal.usage).unwrap_or_default();
        let event = Event::GoalFinished {
            state: verdict.state,
            response: verdict.response.clone(),
            outputs: verdict.outputs.clone(),
            usage,
            error: verdict.error.clone(),
            exit_code: verdict.exit_code,
        };
        self.entry(Some(id), None, event)
    }

    /// What may be told of a goal's end: nothing where it is not on disk, since the goal goes on after a restart.
    fn acknowledged(
        &self,
        id: GoalId,
        verdict: Verdict,
        recorded: Result<(), KernelError>,
    ) -> Option<Verdict> {
        match recorded {
            Ok(()) => Some(verdict),
            Err(error) => {
                tracing::error!(%error, goal = %id, "the end of a goal could not be journalled");
                (!self.is_closing()).then(|| Verdict::could_not_run(&error, false))
            }
        }
    }

    /// Records the end of a goal that has no agent, and tells whoever waits for it.
    async fn finish_goal(&self, id: GoalId, verdict: Verdict) {
        let recorded = self.journal().record(self.finished(id, &verdict)).await;
        let recorded = recorded.map(drop).map_err(KernelError::from);
        if let Some(verdict) = self.acknowledged(id, verdict, recorded) {
            self.close_goal(id, verdict);
        }
    }

    /// Shows the end of a goal and tells whoever waits for it.
    fn close_goal(&self, id: GoalId, verdict: Verdict) {
        let mut table = self.table();
        if let Some(goal) = table.goals.get_mut(&id) {
            goal.state = verdict.state;
            goal.response = Some(verdict.response);
            goal.outputs = verdict.outputs;
            goal.error = verdict.error;
            goal.exit_code = Some(verdict.exit_code);
            goal.ended_at = Some(self.clock().now());
            goal.over.send_replace(true);
        }
        table.forget_old_goals();
    }

    /// Where the workspace of a goal lies.
    pub(crate) fn workspace_path(&self, id: GoalId) -> Result<AbsPath, KernelError> {
        let path: PathBuf = self.config().workspaces.join(id.to_string());
        let text =
            path.to_str().ok_or_else(|| KernelError::Invalid("the state directory is not UTF-8".into()))?;
        AbsPath::parse(text).map_err(|error| KernelError::Invalid(error.to_string()))
    }

    pub(crate) async fn make_workspace(&self, id: GoalId) -> Result<AbsPath, KernelError> {
        let path = self.workspace_path(id)?;
        let made = path.clone();
        off_thread(move || {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(made.as_str())
        })
        .await?
        .map_err(|error| KernelError::System(format!("cannot make the workspace {path}: {error}")))?;
        Ok(path)
    }

    /// The goal's root agent: its own manifest's grants, the operator's for this goal, and the workspace.
    pub(crate) fn root_manifest(&self, request: &GoalRequest, workspace: &AbsPath) -> Manifest {
        let mut manifest = request.manifest.clone().unwrap_or_else(|| self.config().bootstrap.clone());
        let below = PathPattern::from_parts(workspace.clone(), Reach::Subtree);
        manifest.capabilities.extend(request.grants.iter().cloned());
        manifest.approval_required.extend(request.approval_required.iter().cloned());
        manifest.approval_required.sort();
        manifest.approval_required.dedup();
        for capability in [Capability::FileRead(below.clone()), Capability::FileWrite(below)] {
            manifest.capabilities.push(GrantSpec { capability, constraints: Constraints::default() });
        }
        manifest
    }

    /// `goal.list`, oldest first; long texts are cut, so that the list stays sendable.
    #[must_use]
    pub fn goals(&self, caller: Principal) -> Vec<GoalView> {
        let table = self.table();
        let mine = table.goals.iter().filter(|(_, goal)| caller.may_touch(goal.owner));
        mine.map(|(id, goal)| goal_view(*id, goal, &table).shortened()).collect()
    }

    /// `goal.status`.
    ///
    /// # Errors
    /// [`KernelError::NotFound`] for an id that is not this principal's.
    pub fn goal(&self, caller: Principal, id: GoalId) -> Result<GoalView, KernelError> {
        let table = self.table();
        let goal = table.goals.get(&id).filter(|goal| caller.may_touch(goal.owner));
        goal.map(|goal| goal_view(id, goal, &table)).ok_or_else(|| KernelError::unknown("goal", &id))
    }

    /// Says that somebody follows a goal: its calls of models go before those of goals that nobody looks at.
    #[must_use]
    pub fn follow(&self, caller: Principal, id: GoalId) -> Follower {
        let table = self.table();
        let goal = table.goals.get(&id).filter(|goal| caller.may_touch(goal.owner));
        Follower { _of: goal.map(|goal| Arc::clone(&goal.followed)) }
    }

    /// Waits until a goal is over.
    ///
    /// # Errors
    /// [`KernelError::NotFound`] for an id that is not this principal's.
    pub async fn wait_goal(&self, caller: Principal, id: GoalId) -> Result<GoalView, KernelError> {
        let mut over = self.goal_watch(caller, id)?;
        self.until_over(id, &mut over).await?;
        self.goal(caller, id)
    }

    /// Waits until no goal of anybody is open.
    pub async fn wait_all_goals(&self) {
        loop {
            let open = self
                .table()
                .goals
                .values()
                .find(|goal| !goal.state.is_final())
                .map(|goal| goal.over.subscribe());
            let Some(mut over) = open else { return };
            if over.wait_for(|over| *over).await.is_err() {
                return;
            }
        }
    }

    fn goal_watch(&self, caller: Principal, id: GoalId) -> Result<watch::Receiver<bool>, KernelError> {
        let table = self.table();
        let goal = table.goals.get(&id).filter(|goal| caller.may_touch(goal.owner));
        goal.map(|goal| goal.over.subscribe()).ok_or_else(|| KernelError::unknown("goal", &id))
    }

    /// `goal.cancel`: answers once the goal's whole tree has stopped.
    ///
    /// # Errors
    /// [`KernelError::NotFound`] for an id that is not this principal's.
    pub async fn cancel_goal(&self, caller: Principal, id: GoalId) -> Result<GoalView, KernelError> {
        let mut over = self.goal_watch(caller, id)?;
        let was_queued = self.leave_queue(id);
        if let Some(goal) = self.table().goals.get(&id) {
            goal.cancel.cancel();
        }
        if was_queued {
            self.finish_goal(id, Verdict::cancelled()).await;
        }
        self.kill_workers_of(id);
        self.until_over(id, &mut over).await?;
        self.goal(caller, id)
    }

    async fn until_over(&self, id: GoalId, over: &mut watch::Receiver<bool>) -> Result<(), KernelError> {
        tokio::select! {
            biased;
            // The sender lives in the table as long as the goal does, so an error means the goal is gone.
            over = over.wait_for(|over| *over) => over.map(drop).map_err(|_| KernelError::unknown("goal", &id)),
            () = self.closing().cancelled() => Err(KernelError::ShuttingDown),
        }
    }
}

/// The end of a run that had not begun at its goal's deadline.
fn timed_out_unrun() -> RunEnd {
    RunEnd {
        response: String::new(),
        usage: Usage::default(),
        iterations: 0,
        stop_reason: StopReason::Cancelled,
        error: Some("the goal's deadline passed before its agent ran".to_owned()),
        failure: None,
    }
}

fn check_request(request: &GoalRequest) -> Result<(), KernelError> {
    if request.manifest.as_ref().is_some_and(|manifest| manifest.lifecycle.outlives_a_run()) {
        let why = "a goal's agent lives as long as its goal: leave `lifecycle` out of its manifest";
        return Err(KernelError::Invalid(why.to_owned()));
    }
    if request.goal.trim().is_empty() {
        return Err(KernelError::Invalid("the goal is empty; say what is to be done".to_owned()));
    }
    if !fits(&request.goal) {
        return Err(KernelError::Limit("the goal is longer than 1 MiB".to_owned()));
    }
    if request.outputs.len() > limits::MAX_OUTPUTS {
        return Err(KernelError::Limit(format!("a goal declares at most {} outputs", limits::MAX_OUTPUTS)));
    }
    if request.client_key.as_ref().is_some_and(|key| key.len() > limits::MAX_CLIENT_KEY_BYTES) {
        let most = limits::MAX_CLIENT_KEY_BYTES;
        return Err(KernelError::Limit(format!("a client key is at most {most} bytes long")));
    }
    let own = request.manifest.iter().flat_map(|manifest| &manifest.capabilities);
    let writes: Vec<&PathPattern> = own
        .chain(&request.grants)
        .filter_map(|spec| match &spec.capability {
            Capability::FileWrite(pattern) => Some(pattern),
            _ => None,
        })
        .collect();
    for output in &request.outputs {
        if !writes.iter().any(|pattern| pattern.matches(output).is_some()) {
            return Err(KernelError::Invalid(format!(
                "output {output} lies in no write grant; grant it, for example file_write: {output}"
            )));
        }
    }
    Ok(())
}

/// The first message of a goal's root agent.
fn briefing(request: &GoalRequest, workspace: &AbsPath, capabilities: Option<&Vec<GrantSpec>>) -> String {
    let mut text = format!("{}\n\nRUNTIME FACTS (from aaOS, not part of the goal)\n", request.goal);
    let directory = request.working_directory.as_ref().map_or("none", AbsPath::as_str);
    text.push_str(&format!("working_directory: {directory}\nworkspace: {workspace}\n"));
    section(&mut text, "outputs", request.outputs.iter());
    if let Some(capabilities) = capabilities {
        section(&mut text, "grants", capabilities.iter());
    }
    text
}

fn section(text: &mut String, name: &str, items: impl ExactSizeIterator<Item = impl std::fmt::Display>) {
    if items.len() == 0 {
        text.push_str(&format!("{name}: none\n"));
        return;
    }
    text.push_str(&format!("{name}:\n"));
    for item in items {
        text.push_str(&format!("- {item}\n"));
    }
}

fn goal_view(id: GoalId, goal: &Goal, table: &crate::registry::Table) -> GoalView {
    let of_goal = |agent: &&Arc<Agent>| agent.goal == Some(id);
    let waiting_for = match goal.is_running() {
        true => table.agents.values().filter(of_goal).find_map(|agent| agent.waiting_for()),
        false => None,
    };
    let state = if waiting_for.is_some() { GoalState::Waiting } else { goal.state };
    GoalView {
        goal_id: id,
        goal: goal.request.goal.clone(),
        state,
        accepted_at: goal.accepted_at,
        root_agent: goal.root_agent,
        workspace: goal.workspace.as_ref().map(ToString::to_string),
        outputs: goal.outputs.clone(),
        response: goal.response.clone(),
        error: goal.error.clone(),
        usage: goal.usage,
        cost: (goal.cost > MicroUsd::ZERO).then(|| goal.cost.to_decimal()),
        exit_code: goal.exit_code,
        waiting_for,
    }
}
