//! Replay: what the journal holds folds to the state that grew beside it.

use std::collections::BTreeMap;

use aaos_core::budget::Budget;
use aaos_core::capability::{Capability, Constraints, NameSet, ToolSet};
use aaos_core::effect::{Charge, EffectClass};
use aaos_core::event::{
    AgentEnd, CutCause, Event, ForkPoint, GoalState, Kept, NewEntry, Outcome, OutputBefore, RunCut, Seen,
};
use aaos_core::grant::GrantRecord;
use aaos_core::id::{AgentId, CallId, GoalId, GrantId, Seq, TraceId};
use aaos_core::manifest::{BudgetConfig, Lifecycle, Manifest, MemoryConfig};
use aaos_core::model::{ModelCallId, ModelFailure, ModelFailureKind, ModelReply, ModelStop, Usage};
use aaos_core::name::{AgentName, ModelName, ToolName};
use aaos_core::path::AbsPath;
use aaos_core::quantity::{Amounts, Bytes, Millis, Quantity, Timestamp, Tokens};
use aaos_core::state::State;
use aaos_core::supervision::Supervision;
use aaos_core::toolio::{StopReason, ToolFailure, ToolFailureKind};
use aaos_core::variables::Variables;
use proptest::prelude::*;
use rusqlite::Connection;
use uuid::Uuid;

use super::{directory, open, path_in, try_open};
use crate::{Filter, JournalFile};

const CASES: u32 = 24;

/// Few ids, so that entries meet.
fn ids<T: std::fmt::Debug>(make: fn(Uuid) -> T) -> impl Strategy<Value = T> {
    (1_u128..4).prop_map(move |number| make(Uuid::from_u128(number)))
}

fn usage() -> impl Strategy<Value = Usage> {
    (0_u64..50, 0_u64..50).prop_map(|(input, output)| Usage {
        input_tokens: Tokens(input),
        output_tokens: Tokens(output),
        ..Usage::default()
    })
}

fn grant() -> impl Strategy<Value = GrantRecord> {
    let parent = proptest::option::of(ids(GrantId::from_uuid));
    let bounds = (proptest::option::of(1_u32..5), proptest::option::of(1_u32..5));
    (ids(GrantId::from_uuid), ids(AgentId::from_uuid), parent, bounds, any::<bool>()).prop_map(
        |(id, agent, parent, (max_invocations, max_per_minute), tools)| GrantRecord {
            id,
            agent,
            parent,
            capability: if tools {
                Capability::Tool(ToolSet::All)
            } else {
                Capability::SpawnChild(NameSet::All)
            },
            spelled: None,
            constraints: Constraints { max_invocations, max_per_minute, ..Constraints::default() },
            issued_at: Timestamp(7),
            root: None,
            special: None,
        },
    )
}

fn charges() -> impl Strategy<Value = Vec<Charge>> {
    let used = ids(GrantId::from_uuid).prop_map(|grant| Charge::Use { grant });
    let tokens = (ids(AgentId::from_uuid), 0_u64..100).prop_map(|(agent, reserved)| Charge::Purse {
        agent,
        reserved: Amounts::of(Quantity::Tokens, reserved),
    });
    proptest::collection::vec(prop_oneof![used, tokens], 0..3)
}

fn tester() -> Box<Manifest> {
    Box::new(Manifest {
        name: AgentName::parse("tester").expect("a name"),
        model: ModelName::parse("fast").expect("a name"),
        next_models: Vec::new(),
        system_prompt: "caf\u{e9}\n".into(),
        lifecycle: Lifecycle::Persistent,
        capabilities: vec![Capability::WebSearch.into()],
        memory: MemoryConfig::default(),
        budget_config: BudgetConfig { max_tokens: Some(Tokens(9)), ..BudgetConfig::default() },
        approval_required: Vec::new(),
        child_models: Vec::new(),
        supervision: Supervision::default(),
        environment: Variables::default(),
        accepts: Some(serde_json::json!({ "type": "object", "maximum": 1.1 })),
        metadata: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
    })
}

fn lives() -> impl Strategy<Value = Event> {
    let spawned = (proptest::option::of(ids(AgentId::from_uuid)), 0_u32..3, 0_u64..500).prop_map(
        move |(parent, depth, tokens)| Event::AgentSpawned {
            name: AgentName::parse("tester").expect("a name"),
            parent,
            depth,
            manifest: tester(),
            budget: Budget::of(Quantity::Tokens, tokens),
            principal: 0,
            spawned_by: (tokens % 2 == 0).then(|| CallId::from_uuid(Uuid::from_u128(u128::from(tokens % 4)))),
        },
    );
    let stopped = ".{0,8}".prop_map(|reason| Event::AgentStopped { end: AgentEnd::Failed { reason } });
    let completed = (".{0,8}", usage()).prop_map(|(response, usage)| Event::AgentExecutionCompleted {
        response,
        usage,
        iterations: 1,
        stop_reason: StopReason::Complete,
        error: None,
        cut: Some(RunCut { cause: CutCause::Cancelled, asking: true }),
        mind_hash: String::new(),
    });
    prop_oneof![
        4 => spawned,
        1 => stopped,
        1 => (".{0,8}", 0_u32..3).prop_map(|(message, runs)| Event::AgentExecutionStarted {
            message_hash: "00".into(),
            message,
            tools: vec![ToolName::parse("echo").expect("a name")],
            kept: Kept { runs, ..Kept::default() },
        }),
        1 => Just(Event::AgentExecutionForked { tools: Vec::new() }),
        1 => Just(Event::AgentExecutionResumed {}),
        1 => completed,
        1 => Just(Event::AgentPaused {}),
        1 => Just(Event::AgentResumed {}),
        1 => (".{0,8}", ids(CallId::from_uuid)).prop_map(|(message, under)| Event::MessageDelivered {
            message,
            from: None,
            under: Some(under),
        }),
        1 => Just(Event::AgentMessageReceived {}),
        1 => (".{0,8}", any::<bool>()).prop_map(|(reason, fresh)| Event::AgentRestarted {
            restarts: 1,
            after: Millis(5),
            reason,
            fresh,
        }),
        1 => (0_u64..9).prop_map(|due| Event::ScheduleFired { due: Timestamp(due) }),
        1 => (0_u64..9).prop_map(|until| Event::ScheduleMissed { count: 1, until: Timestamp(until) }),
        3 => grant().prop_map(|grant| Event::CapabilityGranted { grant }),
        1 => ids(GrantId::from_uuid).prop_map(|grant| Event::CapabilityRevoked {
            grant,
            principal: 0,
            ended: vec![grant],
            cut: Vec::new(),
        }),
    ]
}

fn effects() -> impl Strategy<Value = Event> {
    let tool = || ToolName::parse("echo").expect("a name");
    let invoked = (ids(CallId::from_uuid), charges()).prop_map(move |(call, charges)| Event::ToolInvoked {
        call,
        tool: tool(),
        input: serde_json::json!({ "message": "x" }),
        class: EffectClass::Safe,
        access: Vec::new(),
        denied: Vec::new(),
        charges,
        model_call: Some(ModelCallId("1".to_owned())),
        at: Some(Bytes(3)),
        repeats: 1,
    });
    let result = ids(CallId::from_uuid).prop_map(move |call| Event::ToolResult {
        call,
        tool: tool(),
        outcome: Outcome::Done,
        result_hash: "00".into(),
        result_bytes: Bytes(2),
        result: Some("{}".into()),
        failure: None,
        worker: None,
        spent: Amounts::of(Quantity::Files, 1),
        elapsed: Millis(1),
    });
    let requested = (ids(CallId::from_uuid), 0_u64..100, charges()).prop_map(|(call, reserve, charges)| {
        Event::InferenceRequested {
            call,
            model: ModelName::parse("fast").expect("a name"),
            messages: 1,
            request_bytes: Bytes(100),
            request_hash: "00".into(),
            reserve: Tokens(reserve),
            price: None,
            charges,
            keeps: None,
            estimate: None,
        }
    });
    let reply = (".{0,8}", usage()).prop_map(|(text, usage)| {
        Ok(ModelReply {
            text,
            reasoning: None,
            thinking: Vec::new(),
            calls: Vec::new(),
            stop: ModelStop::EndTurn,
            usage,
        })
    });
    let failure = Just(Err(ModelFailure {
        kind: ModelFailureKind::RateLimited,
        message: "later".into(),
        retry_after: Some(Millis(5)),
    }));
    let completed = (ids(CallId::from_uuid), prop_oneof![reply, failure]).prop_map(|(call, result)| {
        Event::InferenceCompleted {
            call,
            result,
            attempts: 1,
            possibly_billed: 0,
            spent: Amounts::of(Quantity::Tokens, 3),
            elapsed: Millis(1),
        }
    });
    prop_oneof![4 => prop_oneof![invoked, result, requested, completed], 2 => spawns()]
}

fn spawns() -> impl Strategy<Value = Event> {
    let spawning = (ids(CallId::from_uuid), ids(CallId::from_uuid), 0_u32..2, charges());
    let spawning = spawning.prop_map(|(call, under, index, charges)| Event::SpawnRequested {
        call,
        child: AgentName::parse("tester").expect("a name"),
        charges,
        under,
        index,
    });
    let failed = ToolFailure::new(ToolFailureKind::ChildFailed, "no");
    let child_ended = (ids(CallId::from_uuid), 0_u32..2).prop_map(move |(call, index)| Event::ChildEnded {
        call,
        index,
        name: None,
        outcome: Err(failed.clone()),
    });
    let connecting = (ids(CallId::from_uuid), ids(CallId::from_uuid), charges());
    let connecting = connecting.prop_map(|(call, under, charges)| Event::ConnectionRequested {
        call,
        under,
        host: "a.test".to_owned(),
        port: 443,
        lease: Bytes(9),
        continues: None,
        access: Vec::new(),
        charges,
    });
    let connected = ids(CallId::from_uuid).prop_map(|call| Event::ConnectionEnded {
        call,
        sent: Bytes(1),
        received: Bytes(2),
        failure: None,
        spent: Amounts::of(Quantity::EgressBytes, 3),
        elapsed: Millis(1),
    });
    prop_oneof![spawning, child_ended, connecting, connected]
}

fn goals() -> impl Strategy<Value = Event> {
    let accepted =
        (".{0,8}", proptest::option::of("[a-z]{1,4}")).prop_map(|(goal, client_key)| Event::GoalAccepted {
            goal,
            outputs: vec![AbsPath::parse("/out/a.md").expect("a path")],
            client_key,
            deadline: Timestamp(99),
            budget: Budget::of(Quantity::Tokens, 1_000),
            principal: 0,
            priority: -1,
            grants: vec![Capability::WebSearch.into()],
            manifest: None,
            approval_required: vec![ToolName::parse("echo").expect("a name")],
            working_directory: None,
        });
    let forked =
        (ids(GoalId::from_uuid), ids(AgentId::from_uuid), proptest::option::of(ids(GoalId::from_uuid)))
            .prop_map(|(from, root, earlier)| Event::GoalForked {
                from,
                root,
                at: Seq(1),
                earlier: earlier.into_iter().map(|goal| ForkPoint { goal, root, at: Seq(1) }).collect(),
                before: Vec::new(),
            });
    let started = ids(AgentId::from_uuid).prop_map(|root_agent| Event::GoalStarted {
        root_agent,
        workspace: AbsPath::parse("/work").expect("a path"),
        before: vec![OutputBefore {
            path: AbsPath::parse("/out/a.md").expect("a path"),
            seen: Seen::Absent { why: "not there".into() },
        }],
    });
    let finished = (".{0,8}", usage()).prop_map(|(response, usage)| Event::GoalFinished {
        state: GoalState::Done,
        response,
        outputs: Vec::new(),
        usage,
        error: None,
        exit_code: 0,
    });
    let restarted = proptest::collection::vec(ids(CallId::from_uuid), 0..2)
        .prop_map(|resumed| Event::DaemonStarted { version: "0".into(), resumed });
    prop_oneof![3 => accepted, 1 => forked, 3 => started, 1 => finished, 1 => restarted]
}

pub(super) fn entry() -> impl Strategy<Value = NewEntry> {
    let event = prop_oneof![3 => lives(), 2 => effects(), 1 => goals()];
    let goal = proptest::option::weighted(0.9, ids(GoalId::from_uuid));
    let agent = proptest::option::weighted(0.9, ids(AgentId::from_uuid));
    let trace = proptest::option::of(ids(TraceId::from_uuid));
    (0_u64..1_000_000, goal, agent, trace, event).prop_map(|(at, goal_id, agent_id, trace_id, event)| {
        // A grant is recorded as its holder's entry.
        let agent_id = match &event {
            Event::CapabilityGranted { grant } => Some(grant.agent),
            _ => agent_id,
        };
        NewEntry { timestamp: Timestamp(at), goal_id, agent_id, trace_id, parent_event: None, event }
    })
}

/// Records the batches; gives the state after each entry, the empty state first.
pub(super) async fn grown(path: &std::path::Path, batches: Vec<Vec<NewEntry>>) -> Vec<State> {
    let journal = open(path);
    let mut states = vec![State::default()];
    for batch in batches {
        for entry in journal.record_all(batch).await.expect("recorded") {
            let mut next = states[states.len() - 1].clone();
            next.apply(&entry);
            states.push(next);
        }
    }
    journal.close().await.expect("closes");
    states
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(CASES) })]

    #[test]
    fn any_prefix_replays_to_the_state_that_grew_beside_it(
        batches in proptest::collection::vec(proptest::collection::vec(entry(), 0..12), 0..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        let directory = directory();
        let path = path_in(&directory);
        let states = runtime.block_on(grown(&path, batches));

        let mut replayed = State::default();
        let entries = JournalFile::open(&path).expect("opens").read(&Filter::default()).expect("read");
        prop_assert_eq!(entries.len() + 1, states.len());
        for (entry, grown) in entries.iter().zip(&states[1..]) {
            replayed.apply(entry);
            prop_assert_eq!(&replayed, grown);
        }
        let (journal, state) = try_open(&path).expect("opens");
        prop_assert_eq!(&state, &states[states.len() - 1]);
        runtime.block_on(journal.close()).expect("closes");

        // And a restart after any of its entries.
        let length = cut.index(states.len());
        let connection = Connection::open(&path).expect("opens");
        for table in ["entries", "heads"] {
            let sql = format!("DELETE FROM {table} WHERE seq > ?1");
            connection.execute(&sql, [i64::try_from(length).expect("few")]).expect("cut");
        }
        drop(connection);
        let (journal, state) = try_open(&path).expect("opens");
        prop_assert_eq!(&state, &states[length]);
        runtime.block_on(journal.close()).expect("closes");
    }
}
