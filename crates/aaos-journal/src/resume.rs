//! Calls that an earlier daemon began and did not finish, and leave to make them again.
//!
//! Invariants: a call is given leave once; only a call that may be made again, or one that the kernel runs itself and
//! whose progress is in the journal, is given any. What it was charged stays as it was.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use aaos_core::effect::{Access, AuthorizedParts, Denied, EffectClass, Need};
use aaos_core::id::CallId;
use aaos_core::state::{PendingCall, PendingKind, PendingTool, State};
use aaos_core::tool::{self, ToolCall, ToolPlace};

use crate::permit::{About, Permit};

/// What was unfinished when the journal was opened.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unfinished(Arc<Mutex<BTreeMap<CallId, PendingCall>>>);

impl Unfinished {
    pub(crate) fn of(state: &State) -> Self {
        let calls = state.pending.values().filter(|pending| may_go_on(pending));
        Self(Arc::new(Mutex::new(calls.map(|pending| (pending.call, pending.clone())).collect())))
    }

    pub(crate) fn take(&self, call: CallId) -> Option<Permit<ToolCall>> {
        let pending = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&call)?;
        let (parts, intent) = (parts_of(&pending)?, pending.intent);
        let about = About {
            timestamp: pending.since,
            goal_id: pending.goal,
            trace_id: pending.trace,
            parent_event: None,
        };
        Some(Permit::mint_again(parts, about, intent))
    }
}

/// Whether a call that began before a restart may go on after it.
#[must_use]
pub fn may_go_on(pending: &PendingCall) -> bool {
    let PendingKind::Tool(tool) = &pending.kind else { return false };
    match pending.class {
        EffectClass::Safe | EffectClass::Keyed => true,
        EffectClass::Paid | EffectClass::Once => {
            tool::find(tool.tool.as_str()).is_some_and(|tool| tool.place == ToolPlace::Kernel)
        }
    }
}

fn parts_of(pending: &PendingCall) -> Option<AuthorizedParts<ToolCall>> {
    let PendingKind::Tool(made) = &pending.kind else { return None };
    let effect = call_of(made)?;
    let mut denied = made.denied.iter();
    let all = effect.needs().all.iter().map(|need| access_for(made, need)).collect::<Option<Vec<_>>>()?;
    let each = effect.needs().each.iter();
    let each =
        each.map(|need| access_for(made, need).ok_or_else(|| next_denied(&mut denied, need))).collect();
    let (call, agent, charges) = (pending.call, pending.agent?, pending.charges.clone());
    Some(AuthorizedParts { call, agent, effect, all, each, charges })
}

/// The call as it was made.
fn call_of(made: &PendingTool) -> Option<ToolCall> {
    let input = tool::find(made.tool.as_str())?.parse_input(made.input.clone()).ok()?;
    let call = ToolCall::new(input).ok()?.made(made.repeats);
    let call = made.model_call.clone().into_iter().fold(call, ToolCall::asked_as);
    Some(made.at.into_iter().fold(call, ToolCall::positioned))
}

fn access_for(made: &PendingTool, need: &Need) -> Option<Access> {
    made.access.iter().find(|access| access.need == *need).cloned()
}

fn next_denied<'a>(denied: &mut impl Iterator<Item = &'a Denied>, need: &Need) -> Denied {
    denied.next().cloned().unwrap_or_else(|| Denied {
        missing: format!("{need:?}"),
        reason: "it was denied before agentd was restarted".to_owned(),
        hint: "ask for it again".to_owned(),
    })
}
