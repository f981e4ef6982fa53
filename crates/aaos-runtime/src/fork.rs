//! `goal.fork`: a new goal whose root agent goes on from a step of another one, under authority of its own.
//!
//! Invariants: the source is read and nothing of it is touched; the fork gets what its caller may give now, as if the
//! goal were submitted, and a purse of its own; it is accepted only once its workspace is on the disk as that step left
//! it. What a fork begins with is in the journal for as long as it is open.

mod files;
mod lend;
mod refused;

use std::ops::ControlFlow;
use std::sync::Arc;

use aaos_agent::{MindConfig, Tape, moved, specs_of};
use aaos_core::event::{Entry, Event, ForkPoint, OutputBefore};
use aaos_core::id::{AgentId, CallId, GoalId, GrantId, Seq};
use aaos_core::limits::MAX_FORK_DEPTH;
use aaos_core::manifest::Manifest;
use aaos_core::name::ModelName;
use aaos_core::path::{AbsPath, PathPattern, Reach};
use aaos_core::quantity::Bytes;
use aaos_core::state::ForkRecord;
use aaos_journal::Filter;
use aaos_sandbox::remove_workspace;
use serde::{Deserialize, Serialize};

use crate::error::KernelError;
use crate::goals::GoalRequest;
use crate::kernel::Kernel;
use crate::principal::Principal;
use crate::spawn::off_thread;

use files::{FILE_KINDS, Files, Later};
pub(crate) use lend::Lent;
pub use refused::ForkRefused;

/// What a principal asks for.
#[derive(Debug, Clone)]
pub struct ForkRequest {
    /// The goal that is gone on from.
    pub goal: GoalId,
    /// The entry up to which.
    pub at: Seq,
    /// Another root agent.
    pub manifest: Option<Manifest>,
    /// Another model for the root agent that there was.
    pub model: Option<ModelName>,
    /// Whether files outside the workspace that were changed after that step may stay as they are now.
    pub keep_files: bool,
}

/// `goal.fork`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forked {
    /// The new goal.
    pub goal_id: GoalId,
    /// The goal that it goes on from.
    pub from: GoalId,
    /// The last entry of that goal that is taken over.
    pub at: Seq,
    /// What was put into its workspace, by path below it.
    pub files: Vec<RestoredFile>,
    /// Files outside the workspace that stay as they are now, although they were changed after that step.
    pub kept: Vec<String>,
}

/// One file of a restored workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredFile {
    /// Below the workspace.
    pub path: String,
    /// Its size.
    pub size_bytes: Bytes,
}

/// What the journal says of a goal that is to be forked.
struct Source {
    goal: GoalId,
    /// Its `goal_accepted` entry.
    accepted: Entry,
    root: AgentId,
    workspace: AbsPath,
    before: Vec<OutputBefore>,
    /// Of a fork: where it took over what.
    earlier: Vec<ForkPoint>,
    config: MindConfig,
}

/// The files of a goal at a step, and what was changed since.
struct Found {
    files: Files,
    later: Later,
}

impl Kernel {
    /// `goal.fork`: answers once the fork is durable.
    ///
    /// # Errors
    /// [`KernelError::NotFound`] for an id that is not this principal's, [`KernelError::Fork`] where the goal cannot be
    /// gone on from there, and whatever refuses a goal that is submitted.
    pub async fn fork(&self, caller: Principal, asked: ForkRequest) -> Result<Forked, KernelError> {
        self.check_open()?;
        let source = self.source(caller, asked.goal).await?;
        let at = self.step(&source, asked.at).await?;
        let point = ForkPoint { goal: source.goal, root: source.root, at };
        let id = GoalId::from_uuid(self.clock().fresh());
        let request = self.checked(caller, self.forked_request(&source, id, &asked)?)?;
        let Found { files, later } = self.found(&source, point).await?;
        let kept = later.list();
        if !kept.is_empty() && !asked.keep_files {
            return Err(ForkRefused::FilesChanged(kept).into());
        }
        let mut points = source.earlier.clone();
        points.push(point);
        self.check_lent(&points, id, &request).await?;
        let made_by_then =
            |before: &&OutputBefore| files.has_written(&before.path) && !later.has_written(&before.path);
        let before = source.before.iter().filter(made_by_then).cloned().collect();
        let restored = self.restore_workspace(id, &files).await;
        let accepted = match restored {
            Ok(()) => {
                self.accept(caller, id, request, Some(ForkRecord { points, before }), Arc::default()).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = accepted {
            // What the journal could not say may be in it all the same.
            if !matches!(error, KernelError::Journal(_)) {
                self.drop_workspace(id).await;
            }
            return Err(error);
        }
        let files = files.content().iter();
        let files = files.map(|(path, content)| RestoredFile {
            path: path.clone(),
            size_bytes: Bytes(content.len() as u64),
        });
        Ok(Forked { goal_id: id, from: source.goal, at, files: files.collect(), kept })
    }

    async fn source(&self, caller: Principal, goal: GoalId) -> Result<Source, KernelError> {
        let entries = self.beginning_of(goal).await?;
        let listed = self.table().goals.get(&goal).map(|goal| goal.owner);
        let accepted = entries.iter().find(|entry| matches!(entry.event, Event::GoalAccepted { .. }));
        let recorded = accepted.and_then(|entry| match &entry.event {
            Event::GoalAccepted { principal, .. } => Some(*principal),
            _ => None,
        });
        if !listed.or(recorded).is_some_and(|owner| caller.may_touch(owner)) {
            return Err(KernelError::unknown("goal", &goal));
        }
        if let Some(erased) = entries.iter().find(|entry| matches!(entry.event, Event::BodyErased { .. })) {
            return Err(ForkRefused::Erased(erased.seq).into());
        }
        let accepted = accepted.cloned().ok_or(ForkRefused::Archived(goal))?;
        let started = entries.iter().find_map(|entry| match &entry.event {
            Event::GoalStarted { root_agent, workspace, before } => {
                Some((*root_agent, workspace.clone(), before.clone()))
            }
            _ => None,
        });
        let (root, workspace, before) = started.ok_or(ForkRefused::NotBegun(goal))?;
        let earlier: Vec<ForkPoint> = entries.iter().flat_map(points_of).collect();
        if earlier.len() >= MAX_FORK_DEPTH {
            return Err(ForkRefused::TooDeep.into());
        }
        let config = self.config_of(root).await?;
        Ok(Source { goal, accepted, root, workspace, before, earlier, config })
    }

    async fn beginning_of(&self, goal: GoalId) -> Result<Vec<Entry>, KernelError> {
        let kinds = ["goal_accepted", "goal_forked", "goal_started"].map(str::to_owned).into();
        Ok(self.journal().read(Filter { goal: Some(goal), kinds, ..Filter::default() }).await?)
    }

    /// What the mind of a root agent was made of.
    async fn config_of(&self, root: AgentId) -> Result<MindConfig, KernelError> {
        let kinds = vec!["agent_spawned".to_owned()];
        let entries = self.journal().read(Filter { agent: Some(root), kinds, ..Filter::default() }).await?;
        match entries.first().map(|entry| (entry.seq, &entry.event)) {
            Some((_, Event::AgentSpawned { manifest, .. })) => Ok(MindConfig::of(manifest)),
            Some((seq, _)) => Err(ForkRefused::Erased(seq).into()),
            None => Err(KernelError::unknown("agent", &root)),
        }
    }

    /// The last step up to an entry from which another agent can go on.
    async fn step(&self, source: &Source, at: Seq) -> Result<Seq, KernelError> {
        let mut tape = match source.earlier.as_slice() {
            [] => Tape::whole(source.config.clone()),
            earlier => self.lend(earlier, source.goal, source.config.clone()).await?.tape.handed_over(),
        };
        let (mut first, mut step) = (None, None);
        let last = ForkPoint { goal: source.goal, root: source.root, at };
        self.each_step(last, |entry| {
            first.get_or_insert(entry.seq);
            tape.take(&entry, specs_of).map_err(ForkRefused::from)?;
            if tape.is_at_rest() {
                step = Some(entry.seq);
            }
            Ok(())
        })
        .await?;
        let goal = source.goal;
        if first.is_none() || self.is_over_before(goal, at).await? {
            return Err(self.no_step(source, at).await?.into());
        }
        Ok(step.ok_or(ForkRefused::NothingLeft { goal, at })?)
    }

    /// Whether a goal has no entry from this one on.
    async fn is_over_before(&self, goal: GoalId, at: Seq) -> Result<bool, KernelError> {
        let after_seq = Some(Seq(at.0.saturating_sub(1)));
        let filter = Filter { goal: Some(goal), after_seq, limit: 1, ..Filter::default() };
        Ok(self.journal().read(filter).await?.is_empty())
    }

    /// Says which entries could have been named.
    async fn no_step(&self, source: &Source, at: Seq) -> Result<ForkRefused, KernelError> {
        let goal = source.goal;
        let (mut first, mut last) = (None, Seq(0));
        self.each_entry(Filter { goal: Some(goal), ..Filter::default() }, |entry| {
            let begins = matches!(
                entry.event,
                Event::AgentExecutionStarted { .. } | Event::AgentExecutionForked { .. }
            );
            if begins && entry.agent_id == Some(source.root) {
                first.get_or_insert(entry.seq);
            }
            last = entry.seq;
            Ok(ControlFlow::Continue(()))
        })
        .await?;
        Ok(first.map_or(ForkRefused::NotBegun(goal), |first| ForkRefused::NoStep { goal, at, first, last }))
    }

    /// What the fork is asked to do: what was accepted, as its own.
    fn forked_request(
        &self,
        source: &Source,
        id: GoalId,
        asked: &ForkRequest,
    ) -> Result<GoalRequest, KernelError> {
        let Event::GoalAccepted {
            goal,
            outputs,
            client_key: _,
            deadline,
            budget,
            principal: _,
            priority,
            grants,
            manifest,
            approval_required,
            working_directory,
        } = moved(&source.accepted, id).event
        else {
            unreachable!("a goal is read from its acceptance");
        };
        let recorded = manifest.map(|manifest| *manifest);
        let manifest = match (asked.manifest.clone(), asked.model.clone()) {
            (Some(_), Some(_)) => {
                let why = "give a model or a manifest: a manifest names its model";
                return Err(KernelError::Invalid(why.to_owned()));
            }
            (Some(manifest), None) => Some(manifest),
            (None, Some(model)) => {
                let own = recorded.unwrap_or_else(|| self.config().bootstrap.clone());
                Some(with_model(own, model))
            }
            (None, None) => recorded,
        };
        let deadline_seconds = deadline.since(source.accepted.timestamp).0 / 1000;
        let client_key = None;
        Ok(GoalRequest {
            goal,
            outputs,
            client_key,
            priority,
            deadline_seconds,
            budget,
            grants,
            manifest,
            approval_required,
            working_directory,
        })
    }

    /// Whether the fork's mind can go on with what it is lent.
    async fn check_lent(
        &self,
        points: &[ForkPoint],
        id: GoalId,
        request: &GoalRequest,
    ) -> Result<(), KernelError> {
        let workspace = self.workspace_path(id)?;
        let config = MindConfig::of(&self.root_manifest(request, &workspace));
        let lent = self.lend(points, id, config).await?;
        if lent.tape.is_at_rest() && lent.tape.goes_on_by_itself() {
            return Ok(());
        }
        let why = "the root agent cannot go on with what was said: it does not fit its context window; give it a \
                   larger one, or fork an earlier entry";
        Err(KernelError::Invalid(why.to_owned()))
    }

    /// The files at a step, and what was changed outside the workspace since.
    async fn found(&self, source: &Source, point: ForkPoint) -> Result<Found, KernelError> {
        let mut found = Found { files: Files::default(), later: Later::default() };
        for earlier in &source.earlier {
            let entries = self.beginning_of(earlier.goal).await?;
            let workspace = entries.iter().find_map(|entry| match &entry.event {
                Event::GoalStarted { workspace, .. } => Some(workspace.clone()),
                _ => None,
            });
            let workspace = workspace.ok_or(ForkRefused::Archived(earlier.goal))?;
            found.files.enter(&workspace);
            self.follow_files(earlier.goal, |entry| {
                if entry.seq > earlier.at {
                    return Ok(ControlFlow::Break(()));
                }
                Ok(ControlFlow::Continue(found.files.take(&entry)?))
            })
            .await?;
            found.files.check_unfinished()?;
        }
        found.files.enter(&source.workspace);
        let Found { files, later } = &mut found;
        let mut is_past = false;
        self.follow_files(source.goal, |entry| {
            if entry.seq <= point.at {
                files.take(&entry)?;
                return Ok(ControlFlow::Continue(()));
            }
            if !std::mem::replace(&mut is_past, true) {
                files.check_unfinished()?;
            }
            later.take(files, &entry);
            Ok(ControlFlow::Continue(()))
        })
        .await?;
        if !is_past {
            files.check_unfinished()?;
        }
        later.finish(files);
        Ok(found)
    }

    async fn follow_files(
        &self,
        goal: GoalId,
        take: impl FnMut(Entry) -> Result<ControlFlow<()>, KernelError>,
    ) -> Result<(), KernelError> {
        let kinds = FILE_KINDS.map(str::to_owned).into();
        self.each_entry(Filter { goal: Some(goal), kinds, ..Filter::default() }, take).await
    }

    /// Makes the workspace of a fork as the step left that of its source, and brings it to the disk.
    async fn restore_workspace(&self, id: GoalId, files: &Files) -> Result<(), KernelError> {
        let workspace = self.make_workspace(id).await?;
        let grant = GrantId::from_uuid(self.clock().fresh());
        let pattern = PathPattern::from_parts(workspace, Reach::Subtree);
        let (roots, all) = (self.roots().clone(), self.config().workspaces.clone());
        let opened = off_thread(move || roots.open_root(grant, &pattern, false)).await?;
        opened.map_err(|error| KernelError::System(format!("cannot restore the workspace: {error}")))?;
        let (own, other) = (id.to_string(), files.content().clone());
        let (roots, call) = (self.roots().clone(), CallId::from_uuid(self.clock().fresh()));
        let put = off_thread(move || {
            let put = other.iter().try_for_each(|(path, content)| {
                roots.put_file(grant, path, &format!("{own}/{path}"), content.as_bytes(), call)
            });
            roots.close(grant);
            put.map(|()| std::fs::File::open(all).and_then(|directory| directory.sync_all()))
        });
        let synced = put.await?.map_err(KernelError::Tool)?;
        synced.map_err(|error| KernelError::System(format!("cannot sync the workspaces: {error}")))
    }

    /// Takes back what was made for a fork that was not accepted.
    async fn drop_workspace(&self, id: GoalId) {
        let (workspaces, name) = (self.config().workspaces.clone(), id.to_string());
        match off_thread(move || remove_workspace(&workspaces, &name)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, goal = %id, "the workspace of a fork could not be removed")
            }
            Err(error) => tracing::warn!(%error, goal = %id, "the workspace of a fork could not be removed"),
        }
    }

    /// What stood at the declared outputs before a goal began, of which a fork takes some over.
    pub(crate) fn with_forked_outputs(&self, id: GoalId, mut seen: Vec<OutputBefore>) -> Vec<OutputBefore> {
        let fork: Option<Arc<ForkRecord>> = self.table().goals.get(&id).and_then(|goal| goal.fork.clone());
        for earlier in fork.iter().flat_map(|fork| &fork.before) {
            if let Some(now) = seen.iter_mut().find(|now| now.path == earlier.path) {
                now.seen.clone_from(&earlier.seen);
            }
        }
        seen
    }
}

/// The same agent with another model; its children may still use those that it had.
fn with_model(mut manifest: Manifest, model: ModelName) -> Manifest {
    let had: Vec<ModelName> = manifest.models().cloned().collect();
    (manifest.model, manifest.next_models) = (model, Vec::new());
    for had in had {
        if !manifest.child_models.contains(&had) {
            manifest.child_models.push(had);
        }
    }
    manifest
}

/// Where a `goal_forked` entry says that something was taken over.
fn points_of(entry: &Entry) -> Vec<ForkPoint> {
    let Event::GoalForked { from, root, at, earlier, .. } = &entry.event else { return Vec::new() };
    let last = ForkPoint { goal: *from, root: *root, at: *at };
    earlier.iter().copied().chain([last]).collect()
}

/// The entry that says what a fork took over.
pub(crate) fn forked(fork: &ForkRecord) -> Option<Event> {
    let (ForkPoint { goal: from, root, at }, earlier) = fork.points.split_last()?;
    let (from, root, at) = (*from, *root, *at);
    Some(Event::GoalForked { from, root, at, earlier: earlier.to_vec(), before: fork.before.clone() })
}
