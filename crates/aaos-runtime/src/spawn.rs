//! Admission of agents: the operator's own, and children, both through one path.
//!
//! Invariants: an agent is built fully (roots opened, grants issued, journalled) and then published; whatever
//! fails on the way leaves nothing behind; a child's grants come out of the authority's narrowing function.

use std::sync::Arc;

use aaos_core::authority::narrow::narrow_manifest;
use aaos_core::authority::{Admission, Refusal};
use aaos_core::budget::{Budget, Ceilings};
use aaos_core::capability::{Capability, GrantSpec};
use aaos_core::effect::{Denied, Spawn};
use aaos_core::event::{AgentEnd, Event, NewEntry};
use aaos_core::grant::{GrantRecord, GrantRequest};
use aaos_core::id::{AgentId, CallId, GoalId, GrantId};
use aaos_core::manifest::Manifest;
use aaos_core::name::ModelName;
use aaos_core::quantity::{Quantity, Timestamp};
use aaos_core::toolio::ToolFailure;
use aaos_sandbox::{OpenedRoot, RootError, RootTable};

use crate::agents::{accepted_messages, check_accepts};
use crate::ceiling::Bound;
use crate::error::KernelError;
use crate::inference::unpriced;
use crate::kernel::Kernel;
use crate::registry::{Agent, AgentFacts, Departure};
use crate::revocation::revoked;
use crate::spawning_tools::Under;

/// Who asks for an agent, and for what goal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) owner: u32,
    pub(crate) goal: Option<GoalId>,
    /// A ceiling for its purse, beside the manifest's own.
    pub(crate) budget: Budget,
}

/// Opened roots of an admission that is not complete; closed again unless it completes.
struct OpenRoots<'k> {
    roots: &'k RootTable,
    opened: Vec<GrantId>,
}

impl OpenRoots<'_> {
    fn keep(mut self) {
        self.opened.clear();
    }
}

impl Drop for OpenRoots<'_> {
    fn drop(&mut self) {
        for grant in &self.opened {
            self.roots.close(*grant);
        }
    }
}

fn request(id: GrantId, spec: &GrantSpec, opened: Option<OpenedRoot>) -> GrantRequest {
    let Some(opened) = opened else {
        return GrantRequest {
            id,
            capability: spec.capability.clone(),
            spelled: None,
            constraints: spec.constraints,
            root: None,
            special: None,
        };
    };
    let asked = spec.capability.file_pattern().cloned();
    GrantRequest {
        id,
        capability: spec.capability.with_pattern(opened.pattern.clone()),
        spelled: asked.filter(|asked| *asked != opened.pattern),
        constraints: spec.constraints,
        root: Some(opened.identity),
        special: None,
    }
}

/// The request within its principal's ceiling, judged by what was opened.
fn bounded(mut request: GrantRequest, bound: &Option<Bound>) -> Result<GrantRequest, KernelError> {
    if let Some(bound) = bound {
        request.constraints = bound.tighten(&request.capability, request.constraints)?;
    }
    Ok(request)
}

/// What to do about a write root that does not exist.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MissingRoot {
    Report,
    Make,
}

/// What became of the root of one capability.
enum Found {
    /// It has none: it is no file capability.
    NoFile,
    /// It is open.
    Root(OpenedRoot),
    /// It is to be made.
    Missing,
}

impl Kernel {
    /// Admits an agent with the operator's own grants.
    pub(crate) async fn admit_operator_agent(
        &self,
        manifest: Manifest,
        origin: Origin,
        cancel: tokio_util::sync::CancellationToken,
    ) -> Result<Arc<Agent>, KernelError> {
        self.check_open()?;
        accepted_messages(&manifest)?;
        if let Some(spec) = manifest.lifecycle.schedule() {
            check_accepts(&manifest, &spec.message)?;
        }
        self.check_models(&manifest).await?;
        let id = AgentId::from_uuid(self.clock().fresh());
        let budget = manifest.budget_config.budget().under(&origin.budget);
        self.check_priced(&manifest, &budget.max)?;
        let admission = Admission::of(id, &manifest, budget);
        let bound = self.bound(&origin).await?;
        for spec in &manifest.capabilities {
            bound.as_ref().map_or(Ok(()), |bound| bound.check(&spec.capability))?;
        }
        let mut open = OpenRoots { roots: self.roots(), opened: Vec::new() };
        let room = self.config().limits.max_agents;
        if self.authority().agent_count() >= room {
            return Err(KernelError::Limit(format!("{room} agents are alive, which is the limit; stop one")));
        }
        let mut requests = Vec::with_capacity(manifest.capabilities.len());
        let mut missing = Vec::new();
        for spec in &manifest.capabilities {
            let grant = GrantId::from_uuid(self.clock().fresh());
            match self.open_operator_root(grant, &spec.capability, MissingRoot::Report, &bound).await? {
                Found::Missing => missing.push((grant, spec)),
                Found::Root(root) => {
                    open.opened.push(grant);
                    requests.push(bounded(request(grant, spec, Some(root)), &bound)?);
                }
                Found::NoFile => requests.push(bounded(request(grant, spec, None), &bound)?),
            }
        }
        // Directories are made last, when nothing else can be wrong with the manifest.
        for (grant, spec) in missing {
            if let Found::Root(root) =
                self.open_operator_root(grant, &spec.capability, MissingRoot::Make, &bound).await?
            {
                open.opened.push(grant);
                requests.push(bounded(request(grant, spec, Some(root)), &bound)?);
            }
        }
        self.look_through(&mut requests).await;
        let now = self.clock().now();
        let records = self.authority().admit_root(admission, requests, now)?;
        let facts = AgentFacts {
            id,
            manifest,
            parent: None,
            goal: origin.goal,
            owner: origin.owner,
            depth: 0,
            started_at: now,
            cancel,
        };
        self.publish(facts, None, records, budget, open).await
    }

    async fn open_operator_root(
        &self,
        grant: GrantId,
        capability: &Capability,
        if_missing: MissingRoot,
        bound: &Option<Bound>,
    ) -> Result<Found, KernelError> {
        let Some(pattern) = capability.file_pattern() else { return Ok(Found::NoFile) };
        let writes = matches!(capability, Capability::FileWrite(_));
        let make = writes && if_missing == MissingRoot::Make;
        let (roots, pattern) = (self.roots().clone(), pattern.clone());
        let (asked, bound) = (capability.clone(), bound.clone());
        let open = move || match bound.map(|bound| bound.real_pattern(&asked)).transpose() {
            // Behind its links the ceiling covers it; a link that is put there now is not followed.
            Ok(Some(Some(real))) => Ok(roots.open_real_root(grant, &real, make)),
            Ok(_) => Ok(roots.open_root(grant, &pattern, make)),
            Err(refused) => Err(refused),
        };
        match off_thread(open).await?? {
            Ok(root) => Ok(Found::Root(root)),
            Err(RootError::NotFound { .. }) if writes && !make => Ok(Found::Missing),
            Err(error) => Err(KernelError::Invalid(format!("cannot grant {capability}: {error}"))),
        }
    }

    /// Admits a child of `parent`: authorise, begin, narrow, publish, finish.
    pub(crate) async fn spawn_child(
        &self,
        parent: &Arc<Agent>,
        under: &Under,
        index: u32,
        manifest: Manifest,
    ) -> Result<Arc<Agent>, ToolFailure> {
        let manifest = match narrow_manifest(&parent.manifest, manifest) {
            Ok(manifest) => manifest,
            Err(denied) => {
                let told = self.journal_refusal(parent, "spawn", Refusal::Denied(denied)).await;
                return Err(KernelError::from(told).into_tool_failure());
            }
        };
        self.check_open().map_err(KernelError::into_tool_failure)?;
        accepted_messages(&manifest).map_err(KernelError::into_tool_failure)?;
        self.check_models(&manifest).await.map_err(KernelError::into_tool_failure)?;
        self.check_child_priced(parent, &manifest).map_err(KernelError::into_tool_failure)?;
        let spawn = Spawn::of(&manifest, under.call, index);
        let permit = self.begin_until(&under.cancel, parent, under.trace, spawn).await?;
        let built = self.build_child(parent, under, permit.call(), manifest).await;
        if let Err(KernelError::Denied(reason)) = &built {
            let denied = Denied {
                missing: "a delegable grant for all that the child's manifest asks for".to_owned(),
                reason: reason.clone(),
                hint: "give the child only what you hold yourself".to_owned(),
            };
            self.journal_refusal(parent, "spawn", Refusal::Denied(denied)).await;
        }
        let (outcome, child) = match built {
            Ok(child) => (Ok(child.id), Ok(child)),
            Err(error) => {
                let failure = error.into_tool_failure();
                (Err(failure.clone()), Err(failure))
            }
        };
        let finished = self.journal().finish(permit.settle(outcome), self.clock().now()).await;
        let finished = finished.map_err(|error| KernelError::from(error).into_tool_failure())?;
        let settlement = self.settle(parent, &finished).await.map_err(KernelError::into_tool_failure)?;
        match child {
            Ok(child) if settlement.cut => {
                self.retire_or_log(&child, AgentEnd::Stopped).await;
                Err(revoked())
            }
            child => child,
        }
    }

    /// Some provider serves each model that the agent uses itself.
    async fn check_models(&self, manifest: &Manifest) -> Result<(), KernelError> {
        for model in models_of(manifest) {
            self.check_model(model).await?;
        }
        Ok(())
    }

    /// Where money is bounded, each of them has a price.
    fn check_priced(&self, manifest: &Manifest, max: &Ceilings) -> Result<(), KernelError> {
        let is_bounded = max.get(Quantity::MicroUsd).is_some();
        let lacks = |model: &&ModelName| is_bounded && self.config().prices.get(model).is_none();
        models_of(manifest).find(lacks).map_or(Ok(()), |model| Err(unpriced(model)))
    }

    /// The same for a child, whose money any purse above it may bound.
    fn check_child_priced(&self, parent: &Agent, manifest: &Manifest) -> Result<(), KernelError> {
        let now = self.clock().now();
        let above = self.authority().purse(parent.id, now).map_or(Ceilings::NONE, |purse| purse.remaining);
        self.check_priced(manifest, &above.tightest(&manifest.budget_config.budget().max))
    }

    async fn build_child(
        &self,
        parent: &Arc<Agent>,
        under: &Under,
        spawn: CallId,
        manifest: Manifest,
    ) -> Result<Arc<Agent>, KernelError> {
        let id = AgentId::from_uuid(self.clock().fresh());
        let mut open = OpenRoots { roots: self.roots(), opened: Vec::new() };
        let mut requests = Vec::with_capacity(manifest.capabilities.len());
        for spec in &manifest.capabilities {
            let now = self.clock().now();
            let from = self.authority().delegable(parent.id, &spec.capability, now)?;
            let grant = GrantId::from_uuid(self.clock().fresh());
            let root = self.derive_root(from.grant, grant, spec, from.relative).await?;
            if root.is_some() {
                open.opened.push(grant);
            }
            requests.push((from.grant, request(grant, spec, root)));
        }
        let now = self.clock().now();
        let budget = manifest.budget_config.budget();
        let records =
            self.authority().admit_child(parent.id, Admission::of(id, &manifest, budget), requests, now)?;
        let facts = AgentFacts {
            id,
            manifest,
            parent: Some(parent.id),
            goal: parent.goal,
            owner: parent.owner,
            depth: parent.depth + 1,
            started_at: now,
            cancel: under.cancel.child_token(),
        };
        self.publish(facts, Some(spawn), records, budget, open).await
    }

    async fn derive_root(
        &self,
        from: GrantId,
        grant: GrantId,
        spec: &GrantSpec,
        relative: Option<String>,
    ) -> Result<Option<OpenedRoot>, KernelError> {
        let Some(pattern) = spec.capability.file_pattern() else { return Ok(None) };
        let (roots, reach) = (self.roots().clone(), pattern.reach());
        let relative = relative.unwrap_or_default();
        let opened = off_thread(move || roots.derive(from, grant, &relative, reach)).await?;
        let words = &spec.capability;
        opened.map(Some).map_err(|error| KernelError::Denied(format!("cannot grant {words}: {error}")))
    }

    /// Journals an admitted agent and makes it visible; takes everything back if the journal refuses.
    async fn publish(
        &self,
        facts: AgentFacts,
        spawned_by: Option<CallId>,
        records: Vec<GrantRecord>,
        budget: Budget,
        open: OpenRoots<'_>,
    ) -> Result<Arc<Agent>, KernelError> {
        let agent = Agent::new(facts);
        let manifest = &agent.manifest;
        let mut entries = vec![self.agent_entry(
            &agent,
            Event::AgentSpawned {
                name: manifest.name.clone(),
                parent: agent.parent,
                depth: agent.depth,
                manifest: Box::new(manifest.clone()),
                budget,
                principal: agent.owner,
                spawned_by,
            },
        )];
        entries.extend(
            records.into_iter().map(|grant| self.agent_entry(&agent, Event::CapabilityGranted { grant })),
        );
        if let Err(error) = self.journal().record_all(entries).await {
            self.authority().remove(agent.id);
            return Err(error.into());
        }
        open.keep();
        self.table().agents.insert(agent.id, Arc::clone(&agent));
        Ok(agent)
    }

    /// Ends an agent: nothing of it runs, its worker and grants are gone, the journal says so. Whoever comes
    /// second waits for the first.
    ///
    /// # Errors
    /// When the end could not be journalled; then nobody may be told that the agent has stopped for good.
    pub(crate) async fn retire(&self, agent: &Arc<Agent>, end: AgentEnd) -> Result<(), KernelError> {
        self.retire_recording(agent, end, None).await
    }

    /// The same, with an entry that is to follow the agent's end in the same transaction.
    pub(crate) async fn retire_recording(
        &self,
        agent: &Arc<Agent>,
        end: AgentEnd,
        following: Option<NewEntry>,
    ) -> Result<(), KernelError> {
        if !agent.claim_retirement() {
            let mut gone = agent.gone.subscribe();
            let left = gone.wait_for(|gone| *gone != Departure::Here).await.map(|gone| *gone);
            if !matches!(left, Ok(Departure::Journalled)) {
                return Err(KernelError::State(format!("the end of agent {} was not journalled", agent.id)));
            }
            return match following {
                Some(entry) => Ok(self.journal().record(entry).await.map(drop)?),
                None => Ok(()),
            };
        }
        agent.cancel.cancel();
        agent.worker.kill();
        agent.tasks.close();
        agent.tasks.wait().await;
        self.close_questions_of(agent).await;
        self.settle_unfinished(agent).await;
        let owner = crate::far::WorkerOwner { agent: agent.id, goal: agent.goal };
        self.end_worker(&agent.worker, owner).await;
        let grants = self.authority().grants_of(agent.id);
        self.authority().remove(agent.id);
        for grant in grants {
            self.roots().close(grant.id);
        }
        self.table().agents.remove(&agent.id);
        self.schedules().forget(agent.id);
        let mut last = vec![self.agent_entry(agent, Event::AgentStopped { end })];
        if agent.has_mailbox() {
            last.insert(0, self.agent_entry(agent, Event::AgentLoopStopped {}));
        }
        last.extend(following.map(|entry| NewEntry { timestamp: self.clock().now(), ..entry }));
        let stopped = self.journal().record_all(last).await;
        self.budget_changed().notify_waiters();
        let departure = if stopped.is_ok() { Departure::Journalled } else { Departure::NotJournalled };
        agent.gone.send_replace(departure);
        if stopped.is_ok() {
            self.fail_waiting_mail(agent);
        }
        stopped.map(drop).map_err(KernelError::from)
    }

    /// [`Kernel::retire`] where nobody is told: a journal that refuses an end refuses everything after it too.
    pub(crate) async fn retire_or_log(&self, agent: &Arc<Agent>, end: AgentEnd) {
        if let Err(error) = self.retire(agent, end).await {
            tracing::error!(%error, agent = %agent.id, "the end of an agent could not be journalled");
        }
    }
}

/// Runs file-system work off the async threads.
pub(crate) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, KernelError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| KernelError::System(format!("file-system work died: {error}")))
}

/// The earliest of an optional deadline and a fixed one.
pub(crate) fn deadline_from(now: Timestamp, seconds: u64) -> Timestamp {
    now.after(aaos_core::quantity::Millis(seconds.saturating_mul(1000)))
}

/// The models that an agent uses itself.
fn models_of(manifest: &Manifest) -> impl Iterator<Item = &ModelName> {
    manifest.models().chain(&manifest.memory.summarization_model)
}
