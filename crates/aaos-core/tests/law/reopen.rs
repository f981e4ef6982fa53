//! A call that began before a restart and goes on after it: it can be cut, and gives back no more than it reserved.

use aaos_core::authority::{Authority, AuthorityLimits};
use aaos_core::effect::{AuthorizedParts, Effect};
use aaos_core::event::{Entry, Event};
use aaos_core::id::{AgentId, EntryId, Seq};
use aaos_core::manifest::Manifest;
use aaos_core::quantity::{Amounts, Quantity};
use aaos_core::state::{PendingCall, PendingKind, State};
use uuid::Uuid;

use crate::support::{NOW, Wish, agent, all_and_tokens, ask, call, grant, tokens_of, tool, world_with};

const MOST: u64 = 100;
const RESERVED: u64 = 30;

/// A call that reserved tokens under grant 1, and what a restart finds of it.
fn begun() -> (AuthorizedParts<Wish>, State) {
    let mut law = world_with(&["tool: *"], Some(MOST));
    let parts = ask(&mut law, 1, all_and_tokens([tool("echo")], RESERVED)).expect("allowed").into_parts();
    let manifest = Manifest::parse("name: a\nmodel: m\nsystem_prompt: p").expect("a manifest");
    let spawned = Event::AgentSpawned {
        name: manifest.name.clone(),
        parent: None,
        depth: 0,
        manifest: Box::new(manifest),
        budget: aaos_core::budget::Budget::of(Quantity::Tokens, MOST),
        principal: 7,
        spawned_by: None,
    };
    let granted = law.grants_of(agent(1)).into_iter().map(|grant| Event::CapabilityGranted { grant });
    let resumed = vec![parts.call];
    let restarted = Event::DaemonStarted { version: "1".to_owned(), resumed };
    let mut state = State::default();
    let events = std::iter::once(spawned).chain(granted).chain([Wish::intent(&parts), restarted]);
    for (seq, event) in (1..).zip(events) {
        state.apply(&entry(seq, agent(1), event));
    }
    (parts, state)
}

fn entry(seq: u64, who: AgentId, event: Event) -> Entry {
    Entry {
        seq: Seq(seq),
        id: EntryId::from_uuid(Uuid::from_u128(u128::from(seq))),
        timestamp: NOW,
        goal_id: None,
        agent_id: Some(who),
        trace_id: None,
        parent_event: None,
        event,
        prev_hash: String::new(),
        hash: String::new(),
    }
}

fn reopened() -> (Authority, AuthorizedParts<Wish>) {
    let (parts, state) = begun();
    let mut law = Authority::restore(AuthorityLimits::default(), &state);
    assert_eq!(tokens_of(&law, agent(1), NOW), (RESERVED, 0), "what it reserved is spent");
    let pending: &PendingCall = &state.pending[&parts.call];
    let PendingKind::Tool(made) = &pending.kind else { panic!("a tool call") };
    law.reopen(pending, &made.access);
    (law, parts)
}

#[test]
fn a_call_that_goes_on_is_cut_by_a_revocation() {
    let (mut law, parts) = reopened();
    assert!(!law.is_cut(parts.call), "the control: nothing was revoked");
    assert_eq!(law.revoke(grant(1)).calls, [parts.call]);
    assert!(law.is_cut(parts.call));
    assert!(law.settle(parts.call, &parts.charges, &Amounts::NONE, NOW).cut, "its result is not delivered");
    assert!(!law.is_cut(parts.call), "it is over");
}

#[test]
fn a_call_whose_grant_ended_before_it_went_on_is_cut_from_the_start() {
    let (parts, state) = begun();
    let mut law = Authority::restore(AuthorityLimits::default(), &state);
    law.revoke(grant(1));
    let PendingKind::Tool(made) = &state.pending[&parts.call].kind else { panic!("a tool call") };
    law.reopen(&state.pending[&parts.call], &made.access);
    assert!(law.is_cut(parts.call));
}

#[test]
fn what_it_did_not_use_comes_back_once_and_what_it_reserved_bounds_that() {
    for used in [0, 10, RESERVED] {
        let (mut law, parts) = reopened();
        law.settle(parts.call, &parts.charges, &Amounts::of(Quantity::Tokens, used), NOW);
        let (spent, reserved) = tokens_of(&law, agent(1), NOW);
        assert_eq!(reserved, 0);
        assert!(spent >= used && spent <= RESERVED, "{used} were used, {spent} are spent");
        let again = law.settle(call(99), &[], &Amounts::NONE, NOW);
        assert!(!again.cut && tokens_of(&law, agent(1), NOW).0 == spent, "nothing is given twice");
    }
}

#[test]
#[should_panic(expected = "taken up once")]
fn a_call_is_taken_up_once() {
    let (parts, state) = begun();
    let mut law = Authority::restore(AuthorityLimits::default(), &state);
    law.reopen(&state.pending[&parts.call], &[]);
    law.reopen(&state.pending[&parts.call], &[]);
}
