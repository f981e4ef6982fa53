//! Entries as a runtime records them: ten for each agent, two of them model calls with their answers.

use std::collections::BTreeMap;

use aaos_core::budget::Budget;
use aaos_core::capability::{Capability, Constraints, NameSet, ToolSet};
use aaos_core::effect::Charge;
use aaos_core::event::{Event, NewEntry};
use aaos_core::grant::GrantRecord;
use aaos_core::id::{AgentId, CallId, GoalId, GrantId, TraceId};
use aaos_core::manifest::{BudgetConfig, Lifecycle, Manifest, MemoryConfig};
use aaos_core::model::{ModelReply, ModelStop, Usage};
use aaos_core::name::{AgentName, ModelName};
use aaos_core::quantity::{Amounts, Bytes, Millis, Quantity, Timestamp, Tokens};
use aaos_core::supervision::Supervision;
use aaos_core::variables::Variables;
use uuid::Uuid;

const CALLS: usize = 2;
/// Of a reply, bytes; a whole step is then about 1 KiB.
const REPLY: usize = 600;

fn id(agent: usize, what: usize) -> Uuid {
    Uuid::from_u128(((agent as u128) << 16) | what as u128)
}

fn entry(agent: usize, event: Event) -> NewEntry {
    NewEntry {
        timestamp: Timestamp(1_700_000_000_000 + agent as u64),
        goal_id: Some(GoalId::from_uuid(id(agent / 10, 1))),
        agent_id: Some(AgentId::from_uuid(id(agent, 2))),
        trace_id: Some(TraceId::from_uuid(id(agent, 3))),
        parent_event: None,
        event,
    }
}

fn spawned(agent: usize) -> Event {
    Event::AgentSpawned {
        name: AgentName::parse("worker").expect("a name"),
        parent: None,
        depth: 0,
        manifest: Box::new(Manifest {
            name: AgentName::parse("worker").expect("a name"),
            model: ModelName::parse("fast").expect("a name"),
            next_models: Vec::new(),
            system_prompt: "You read what you are given and answer in one paragraph. ".repeat(6),
            lifecycle: Lifecycle::Persistent,
            capabilities: vec![Capability::Tool(ToolSet::All).into(), Capability::WebSearch.into()],
            memory: MemoryConfig::default(),
            budget_config: BudgetConfig { max_tokens: Some(Tokens(100_000)), ..BudgetConfig::default() },
            approval_required: Vec::new(),
            child_models: Vec::new(),
            accepts: None,
            supervision: Supervision::default(),
            environment: Variables::default(),
            metadata: BTreeMap::from([("number".to_owned(), agent.to_string())]),
        }),
        budget: Budget::of(Quantity::Tokens, 100_000),
        principal: 0,
        spawned_by: None,
    }
}

fn granted(agent: usize, number: usize) -> Event {
    let grant = GrantRecord {
        id: GrantId::from_uuid(id(agent, 10 + number)),
        agent: AgentId::from_uuid(id(agent, 2)),
        parent: None,
        capability: Capability::SpawnChild(NameSet::All),
        spelled: None,
        constraints: Constraints::default(),
        issued_at: Timestamp(1_700_000_000_000),
        root: None,
        special: None,
    };
    Event::CapabilityGranted { grant }
}

fn requested(agent: usize, number: usize) -> Event {
    let reserved = Amounts::of(Quantity::Tokens, 4_096);
    Event::InferenceRequested {
        call: CallId::from_uuid(id(agent, 20 + number)),
        model: ModelName::parse("fast").expect("a name"),
        messages: 4,
        request_bytes: Bytes(8_000),
        reserve: Tokens(4_096),
        price: None,
        request_hash: "00".repeat(32),
        charges: vec![Charge::Purse { agent: AgentId::from_uuid(id(agent, 2)), reserved }],
        keeps: None,
        estimate: None,
    }
}

fn completed(agent: usize, number: usize) -> Event {
    let usage = Usage { input_tokens: Tokens(2_000), output_tokens: Tokens(150), ..Usage::default() };
    let text = "An answer, as models give it. ".repeat(REPLY / 30);
    let reply = ModelReply {
        text,
        reasoning: None,
        thinking: Vec::new(),
        calls: Vec::new(),
        stop: ModelStop::EndTurn,
        usage,
    };
    Event::InferenceCompleted {
        call: CallId::from_uuid(id(agent, 20 + number)),
        result: Ok(reply),
        attempts: 1,
        possibly_billed: 0,
        spent: Amounts::of(Quantity::Tokens, 2_150),
        elapsed: Millis(900),
    }
}

/// One entry of the usual length.
pub(crate) fn step(agent: usize) -> NewEntry {
    entry(agent, completed(agent, 0))
}

/// All that an agent leaves behind.
pub(crate) fn life(agent: usize) -> Vec<NewEntry> {
    let mut events = vec![spawned(agent)];
    events.extend((0..3).map(|number| granted(agent, number)));
    events.push(Event::MessageDelivered {
        message: "Read the file and say what it is about.".into(),
        from: None,
        under: None,
    });
    events.push(Event::AgentMessageReceived {});
    for number in 0..CALLS {
        events.extend([requested(agent, number), completed(agent, number)]);
    }
    events.into_iter().map(|event| entry(agent, event)).collect()
}
