//! Approvals in force: listed for whom they concern, and withdrawn.
//!
//! Invariants: an approval that a waiting call is about to use is that call's, and neither listed nor withdrawn before;
//! of several who withdraw one approval exactly one does; nothing begins under an approval once its end is recorded,
//! and what began under it goes on.

use std::sync::Arc;

use aaos_core::approval::{ApprovalGrant, ApprovalScope};
use aaos_core::event::{Event, NotApproved};
use aaos_core::id::ApprovalId;

use crate::error::KernelError;
use crate::kernel::Kernel;
use crate::principal::Principal;
use crate::registry::Agent;
use crate::view::ApprovalInForce;

/// A call that waits for a person, or was answered and is about to be decided anew, as long as this lives.
pub(crate) struct Attended<'k> {
    kernel: &'k Kernel,
    id: ApprovalId,
}

impl Drop for Attended<'_> {
    fn drop(&mut self) {
        self.kernel.table().questions.attend(self.id, false);
    }
}

impl Kernel {
    /// Keeps the approval that a question may lead to for the call that asks.
    pub(super) fn attend(&self, id: ApprovalId) -> Attended<'_> {
        self.table().questions.attend(id, true);
        Attended { kernel: self, id }
    }

    /// `approval.list`: what was approved and has uses left, oldest first.
    #[must_use]
    pub fn approvals_in_force(&self, caller: Principal) -> Vec<ApprovalInForce> {
        let agents: Vec<Arc<Agent>> = {
            let table = self.table();
            let own = table.agents.values().filter(|agent| is_reached(caller, agent));
            own.cloned().collect()
        };
        let mut found = Vec::new();
        for agent in agents {
            let held = self.authority().approvals_of(agent.id);
            found.extend(held.into_iter().filter(has_uses).map(|approval| view(&agent, approval)));
        }
        let table = self.table();
        found.retain(|one| !table.questions.is_attended(one.id));
        drop(table);
        found.sort_by_key(|one| one.id);
        found
    }

    /// Withdraws an approval in force.
    pub(super) async fn withdraw_approval(
        &self,
        caller: Principal,
        id: ApprovalId,
        reason: Option<String>,
    ) -> Result<(), KernelError> {
        let unknown = || KernelError::unknown("approval", &id);
        let holder = self.authority().approval(id).map(|approval| approval.holder).ok_or_else(unknown)?;
        let agent = {
            let table = self.table();
            let free = !table.questions.is_attended(id);
            table.agent(holder).filter(|agent| free && is_reached(caller, agent)).ok_or_else(unknown)?
        };
        {
            // One step, so that of two who withdraw it one is told that there is none.
            let mut authority = self.authority();
            authority.approval(id).filter(|approval| has_uses(approval)).ok_or_else(unknown)?;
            authority.withdraw(id);
        }
        let reason = reason.unwrap_or_else(|| "it was withdrawn".to_owned());
        let (principal, because) = (Some(caller.uid()), NotApproved::Withdrawn);
        let denied = Event::HumanApprovalDenied { approval: id, principal, reason, because };
        self.journal().record(self.agent_entry(&agent, denied)).await?;
        Ok(())
    }
}

fn is_reached(caller: Principal, agent: &Agent) -> bool {
    caller.may_touch(agent.owner) && !agent.cancel.is_cancelled()
}

const fn has_uses(approval: &ApprovalGrant) -> bool {
    approval.uses > 0
}

fn view(agent: &Agent, approval: ApprovalGrant) -> ApprovalInForce {
    let (effect, below, exactly, paths) = match approval.scope {
        ApprovalScope::Exactly { targets, .. } => {
            (None, None, true, targets.into_iter().map(|target| target.path).collect())
        }
        ApprovalScope::Tool { effect, below, .. } => (Some(effect), below, false, Vec::new()),
    };
    ApprovalInForce {
        id: approval.id,
        agent_id: agent.id,
        agent_name: agent.manifest.name.clone(),
        effect,
        below,
        paths,
        uses_left: approval.uses,
        exactly,
    }
}
