//! Revocation in the kernel: no call is accepted after it, no descriptor is handed out, and what runs under it ends.
//!
//! Invariants: the authority is told first, so that nothing new begins; an answer is given when the revocation is
//! durable and every call that was in flight under the grant is over, and a wait for one that does not end is bounded.
//! Whoever revokes cancels a call's token and then kills the worker that runs it; a call looks at its token after it
//! took the worker: one of the two always sees the other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aaos_core::authority::Revoked;
use aaos_core::event::Event;
use aaos_core::id::{AgentId, CallId, GrantId};
use aaos_core::state::State;
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::KernelError;
use crate::kernel::Kernel;
use crate::principal::Principal;
use crate::registry::Agent;

/// How long a revocation waits for the calls that it cut. They end at once; only a file system that does not answer
/// holds one up.
const LONGEST: Duration = Duration::from_secs(60);

/// The tool calls that run right now.
#[derive(Debug, Default)]
pub(crate) struct RunningCalls {
    calls: Mutex<HashMap<CallId, (CancellationToken, Arc<Agent>)>>,
}

impl RunningCalls {
    fn calls(&self) -> MutexGuard<'_, HashMap<CallId, (CancellationToken, Arc<Agent>)>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call that runs, as long as this lives.
#[derive(Debug)]
pub(crate) struct RunningCall<'k> {
    kernel: &'k Kernel,
    call: CallId,
    /// Cancelled when the agent is to stop, or a grant that the call uses is revoked.
    pub(crate) cancel: CancellationToken,
}

impl Drop for RunningCall<'_> {
    fn drop(&mut self) {
        self.kernel.running_calls().calls().remove(&self.call);
    }
}

/// How a grant ended, for whoever asks again.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    /// The calls that this cut.
    cut: Vec<CallId>,
    /// Whether it is on the disk.
    durable: watch::Receiver<bool>,
}

/// The failure of a call whose grant was revoked.
pub(crate) fn revoked() -> ToolFailure {
    ToolFailure::new(
        ToolFailureKind::Revoked,
        "a grant that this call used was revoked while it ran; its result is not delivered, do without it",
    )
}

/// What is told when a cut call does not end.
fn still_running(cut: &[CallId]) -> KernelError {
    let calls: Vec<String> = cut.iter().map(ToString::to_string).collect();
    KernelError::System(format!(
        "the grant is revoked, but after {} s not all calls under it have ended ({}); their results are not delivered; \
         look at the file systems they work on",
        LONGEST.as_secs(),
        calls.join(", ")
    ))
}

/// What is told where a revocation holds in memory alone.
fn not_recorded() -> KernelError {
    KernelError::System("the grant is revoked, but that could not be journalled; restart agentd".to_owned())
}

impl Kernel {
    /// Notes that a call runs. One whose grant was revoked since it was authorised is cancelled at once.
    pub(crate) fn follow_call(&self, call: CallId, agent: &Arc<Agent>) -> RunningCall<'_> {
        let cancel = agent.stop_signal().child_token();
        self.running_calls().calls().insert(call, (cancel.clone(), Arc::clone(agent)));
        if self.authority().is_cut(call) {
            cancel.cancel();
        }
        RunningCall { kernel: self, call, cancel }
    }

    /// `capability.revoke`: answers once nothing runs under the grant any more. Gives the grants that ended and the
    /// calls that were cut; none where it was revoked before, which is answered at the same moment. What was begun
    /// goes on to its end even if the caller stops waiting.
    ///
    /// # Errors
    /// [`KernelError::NotFound`] for an agent or grant that is not this principal's; a journal that fails. When a call
    /// does not end in time: then nothing begins under the grant all the same, and no result of that call is delivered.
    pub async fn revoke(
        &self,
        caller: Principal,
        agent: AgentId,
        grant: GrantId,
    ) -> Result<Revoked, KernelError> {
        let holder = self.agent_for(caller, agent)?;
        let kernel = self.clone();
        let revoking = self.tasks().spawn(async move { kernel.revoke_for(caller, &holder, grant).await });
        revoking.await.map_err(|died| KernelError::System(format!("the revocation died: {died}")))?
    }

    async fn revoke_for(
        &self,
        caller: Principal,
        holder: &Agent,
        grant: GrantId,
    ) -> Result<Revoked, KernelError> {
        let (durable, is_durable) = watch::channel(false);
        let revoked = self.end_grant(holder, grant, &is_durable);
        if !revoked.grants.is_empty() {
            self.note_revoked(caller, holder, grant, &revoked, durable).await?;
        }
        let ended = holder.live().revoked.get(&grant).cloned();
        let Ended { cut, mut durable } = ended.ok_or_else(|| KernelError::unknown("grant", &grant))?;
        // Whoever asks again waits for the disk too.
        durable.wait_for(|durable| *durable).await.map(drop).map_err(|_| not_recorded())?;
        match self.clock().timeout(LONGEST, self.wait_for_end_of(&cut)).await {
            Some(ended) => ended.map(|()| revoked),
            None => Err(still_running(&cut)),
        }
    }

    /// Ends a grant of an agent, and remembers it with all that derive from it; gives nothing where the agent holds
    /// none.
    fn end_grant(&self, holder: &Agent, grant: GrantId, durable: &watch::Receiver<bool>) -> Revoked {
        let mut family = self.descendants(holder.id);
        family.extend(self.table().agent(holder.id));
        // One step, so that of two who revoke the same grant one does, and the other finds it remembered.
        let mut authority = self.authority();
        if !authority.grants_of(holder.id).iter().any(|record| record.id == grant) {
            return Revoked::default();
        }
        let grants_of = |agent: &Arc<Agent>| (Arc::clone(agent), authority.grants_of(agent.id));
        let held: Vec<_> = family.iter().map(grants_of).collect();
        let revoked = authority.revoke(grant);
        let cut: Vec<CallId> = revoked.calls.iter().chain(&revoked.cut_before).copied().collect();
        for (agent, records) in held {
            let ended = records.iter().filter(|record| revoked.grants.contains(&record.id));
            let ended = ended.map(|record| (record.id, Ended { cut: cut.clone(), durable: durable.clone() }));
            agent.live().revoked.extend(ended);
        }
        revoked
    }

    /// Records a revocation and ends what runs under it.
    async fn note_revoked(
        &self,
        caller: Principal,
        holder: &Agent,
        grant: GrantId,
        revoked: &Revoked,
        durable: watch::Sender<bool>,
    ) -> Result<(), KernelError> {
        // Whoever waits to use it is refused now.
        self.budget_changed().notify_waiters();
        let event = Event::CapabilityRevoked {
            grant,
            principal: caller.uid(),
            ended: revoked.grants.clone(),
            cut: revoked.calls.clone(),
        };
        let recorded = self.journal().record(self.agent_entry(holder, event)).await;
        for ended in &revoked.grants {
            self.roots().close(*ended);
        }
        self.end_calls(&revoked.calls);
        self.close_questions_under(&revoked.grants).await;
        recorded?;
        durable.send_replace(true);
        Ok(())
    }

    /// What an agent that goes on had lost before the restart is answered for as before.
    pub(crate) fn recall_revoked(&self, state: &State, agent: &Agent) {
        let held = state.agents.get(&agent.id).into_iter().flat_map(|record| &record.grants);
        // What derives from a revoked grant ended with it.
        let lost = self.lost_grants(agent, &held.copied().collect::<Vec<_>>());
        let lost = lost.into_iter().map(|grant| {
            let (_, durable) = watch::channel(true);
            (grant, Ended { cut: Vec::new(), durable })
        });
        agent.live().revoked.extend(lost);
    }

    fn end_calls(&self, cut: &[CallId]) {
        let running: Vec<_> = cut
            .iter()
            .filter_map(|call| Some((*call, self.running_calls().calls().get(call)?.clone())))
            .collect();
        for (call, (cancel, agent)) in running {
            cancel.cancel();
            agent.worker.kill_call(call);
        }
        // Children that a cut call spawned hang below its token: what they run ends too.
        let agents: Vec<_> = self.table().agents.values().cloned().collect();
        for agent in agents.iter().filter(|agent| agent.cancel.is_cancelled()) {
            agent.worker.kill();
        }
    }

    async fn wait_for_end_of(&self, cut: &[CallId]) -> Result<(), KernelError> {
        loop {
            let settled = self.budget_changed().notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            let open = {
                let mut authority = self.authority();
                cut.iter().any(|call| authority.is_cut(*call))
            };
            if !open {
                return Ok(());
            }
            settled.await;
            // A call whose outcome cannot be journalled is never settled.
            self.journal().flush().await?;
        }
    }
}
