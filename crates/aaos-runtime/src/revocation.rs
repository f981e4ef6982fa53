//! Revocation in the kernel: no call is accepted after it, no descriptor is handed out, and what runs under it ends.
//!
//! Invariants: the authority is told first, so that nothing new begins; the answer is given when every call that was
//! in flight under the grant is over, and a wait for one that does not end is bounded. Whoever revokes cancels a call's token and then kills the worker that runs it;
//! a call looks at its token after it took the worker: one of the two always sees the other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aaos_core::authority::Revoked;
use aaos_core::event::Event;
use aaos_core::id::{AgentId, CallId, GrantId};
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
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
    /// calls that were cut. A grant that was revoked before is no grant any more.
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
        let revoked = {
            // One step, so that of two who revoke the same grant one is told that there is none.
            let mut authority = self.authority();
            if !authority.grants_of(agent).iter().any(|record| record.id == grant) {
                return Err(KernelError::unknown("grant", &grant));
            }
            authority.revoke(grant)
        };
        // Whoever waits to use it is refused now.
        self.budget_changed().notify_waiters();
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
        let cut: Vec<CallId> = revoked.calls.iter().chain(&revoked.cut_before).copied().collect();
        match tokio::time::timeout(LONGEST, self.wait_for_end_of(&cut)).await {
            Ok(ended) => ended.map(|()| revoked),
            Err(_) => Err(still_running(&cut)),
        }
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
