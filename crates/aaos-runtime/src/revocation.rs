//! Revocation in the kernel: no call is accepted after it, no descriptor is handed out, and what runs under it ends.
//!
//! Invariants: the authority is told first, so that nothing new begins; the answer is given when every call that was
//! in flight under the grant is over. Whoever revokes cancels a call's token and then kills the worker that runs it;
//! a call looks at its token after it took the worker: one of the two always sees the other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aaos_core::authority::Revoked;
use aaos_core::event::Event;
use aaos_core::id::{AgentId, CallId, GrantId};
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use tokio_util::sync::CancellationToken;

use crate::error::KernelError;
use crate::kernel::Kernel;
use crate::principal::Principal;
use crate::registry::Agent;

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

/// The failure of a call whose grant was revoked.
pub(crate) fn revoked() -> ToolFailure {
    ToolFailure::new(
        ToolFailureKind::Revoked,
        "a grant that this call used was revoked while it ran; its result is not delivered, do without it",
    )
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
    /// calls that were cut.
    ///
    /// # Errors
    /// [`KernelError::NotFound`] for an agent or grant that is not this principal's; a journal that fails.
    pub async fn revoke(
        &self,
        caller: Principal,
        agent: AgentId,
        grant: GrantId,
    ) -> Result<Revoked, KernelError> {
        let holder = self.agent_for(caller, agent)?;
        let held = self.authority().grants_of(agent).iter().any(|record| record.id == grant);
        if !held {
            return Err(KernelError::unknown("grant", &grant));
        }
        let revoked = self.authority().revoke(grant);
        let event = Event::CapabilityRevoked {
            grant,
            principal: caller.uid(),
            ended: revoked.grants.clone(),
            cut: revoked.calls.clone(),
        };
        let recorded = self.journal().record(self.agent_entry(&holder, event)).await;
        for ended in &revoked.grants {
            self.roots().close(*ended);
        }
        self.end_calls(&revoked.calls);
        recorded?;
        self.wait_for_end_of(&revoked.calls).await?;
        Ok(revoked)
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
                let authority = self.authority();
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
