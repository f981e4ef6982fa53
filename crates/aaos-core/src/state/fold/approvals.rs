//! How entries about approvals change the state.
//!
//! Invariants: a question is closed once; a denial is kept until the call that asked was told, so that nobody is asked
//! again by a run that goes on; what was denied to a goal's agents counts as [`Event::is_denial`] says.

use crate::event::{Entry, Event, NotApproved};
use crate::id::{AgentId, ApprovalId};
use crate::limits::MAX_PENDING_APPROVALS;
use crate::state::{AgentRecord, PendingApproval, RefusedQuestion, State};

impl State {
    pub(super) fn apply_approval(&mut self, entry: &Entry) {
        match &entry.event {
            Event::HumanApprovalRequested { question, deadline } => {
                let asks = |agent: &AgentRecord| agent.is_alive();
                if self.agents.get(&question.agent).is_some_and(asks) {
                    let pending = PendingApproval {
                        question: (**question).clone(),
                        goal: entry.goal_id,
                        asked_at: entry.timestamp,
                        deadline: *deadline,
                    };
                    self.questions.insert(question.id, pending);
                }
            }
            Event::HumanApprovalGranted { approval, .. } => {
                // Only what was asked and is open can be answered, once.
                let asked = self.questions.remove(&approval.id).is_some();
                if asked && self.agents.get(&approval.holder).is_some_and(AgentRecord::is_alive) {
                    self.approved.insert(approval.id, approval.clone());
                }
            }
            Event::HumanApprovalDenied { approval, reason, because, .. } => {
                self.note_denial(entry);
                self.refuse(*approval, reason, *because);
                // What was approved can be withdrawn: what stood at the target is not what the person was shown.
                self.approved.remove(approval);
            }
            _ => {}
        }
    }

    fn refuse(&mut self, approval: ApprovalId, reason: &str, because: NotApproved) {
        let Some(asked) = self.questions.remove(&approval) else { return };
        let is_answer = matches!(because, NotApproved::Answered | NotApproved::Late);
        let Some(agent) = self.agents.get_mut(&asked.question.agent).filter(|_| is_answer) else { return };
        agent.was_refused = true;
        if agent.open_run().is_none() {
            return;
        }
        if self.refused.len() >= MAX_PENDING_APPROVALS {
            self.refused.pop_first();
        }
        self.refused.insert(approval, RefusedQuestion { asked, reason: reason.to_owned() });
    }

    /// What an agent's questions came to was told, or is told to nobody any more.
    pub(super) fn forget_refused(&mut self, agent: Option<AgentId>) {
        self.refused.retain(|_, refused| Some(refused.asked.question.agent) != agent);
    }
}
