//! A recorded goal for the tests of what is shown: a lead that thinks, asks a person, and has a child that fails
//! once. What agents wrote in it tries to drive the terminal.

use aaos_core::approval::{ApprovalGrant, ApprovalScope, AskedBecause, Question};
use aaos_core::budget::Budget;
use aaos_core::capability::GrantSpec;
use aaos_core::effect::EffectClass;
use aaos_core::event::{AgentEnd, Entry, Event, GoalState, Kept, Outcome, OutputObserved};
use aaos_core::grant::GrantRecord;
use aaos_core::id::{AgentId, ApprovalId, CallId, EntryId, GoalId, GrantId, Seq};
use aaos_core::manifest::Manifest;
use aaos_core::model::{
    ModelCall, ModelCallId, ModelFailure, ModelFailureKind, ModelReply, ModelStop, RawArguments,
    RequestedTool, Usage,
};
use aaos_core::name::{AgentName, ModelName, ToolName};
use aaos_core::path::AbsPath;
use aaos_core::price::Price;
use aaos_core::quantity::{Amounts, Bytes, Millis, Quantity, Timestamp, Tokens};
use aaos_core::toolio::{StopReason, ToolFailure, ToolFailureKind};
use serde_json::{Value, json};
use uuid::Uuid;

/// When the goal was accepted.
const BEGUN: u64 = 1_709_251_200_000;

pub(crate) fn goal() -> GoalId {
    GoalId::from_uuid(Uuid::from_u128(0x60a1))
}

pub(crate) fn lead() -> AgentId {
    AgentId::from_uuid(Uuid::from_u128(0x1ead_0001))
}

pub(crate) fn reader() -> AgentId {
    AgentId::from_uuid(Uuid::from_u128(0x4ead_0002))
}

fn call(number: u128) -> CallId {
    CallId::from_uuid(Uuid::from_u128(number))
}

/// The id of the call with this number: its place among the calls of its agent.
fn asked(number: u128) -> ModelCallId {
    ModelCallId::numbered(match number {
        2 | 4 => 1,
        6 | 8 => 2,
        _ => 3,
    })
}

fn path(text: &str) -> AbsPath {
    AbsPath::parse(text).expect("a path")
}

/// Entries in their order, with the time of each.
#[derive(Debug, Default)]
pub(crate) struct Tale {
    pub(crate) entries: Vec<Entry>,
    at: u64,
}

impl Tale {
    /// Adds an entry that comes `later` milliseconds after the one before.
    pub(crate) fn add(&mut self, later: u64, agent_id: Option<AgentId>, event: Event) {
        self.at += later;
        let number = self.entries.len() as u64 + 1;
        self.entries.push(Entry {
            seq: Seq(number),
            id: EntryId::from_uuid(Uuid::from_u128(u128::from(number))),
            timestamp: Timestamp(BEGUN + self.at),
            goal_id: Some(goal()),
            agent_id,
            trace_id: None,
            parent_event: None,
            event,
            prev_hash: String::new(),
            hash: String::new(),
        });
    }

    fn spawned(&mut self, id: AgentId, parent: Option<AgentId>, name: &str) {
        let manifest =
            Manifest::parse(&format!("name: {name}\nmodel: fast\nsystem_prompt: x")).expect("parses");
        let spawned = Event::AgentSpawned {
            name: AgentName::parse(name).expect("a name"),
            parent,
            depth: u32::from(parent.is_some()),
            manifest: Box::new(manifest),
            budget: Budget::default(),
            principal: 1000,
            spawned_by: None,
        };
        self.add(1, Some(id), spawned);
        let spec = GrantSpec::parse("file_read: /x/*").expect("a grant");
        let grant = GrantRecord {
            id: GrantId::from_uuid(Uuid::from_u128(2)),
            agent: id,
            parent: None,
            capability: spec.capability,
            spelled: None,
            constraints: spec.constraints,
            issued_at: Timestamp(BEGUN),
            root: None,
            special: None,
        };
        self.add(0, Some(id), Event::CapabilityGranted { grant });
    }

    fn runs(&mut self, id: AgentId, message: &str) {
        let started = Event::AgentExecutionStarted {
            message_hash: String::new(),
            message: message.to_owned(),
            tools: Vec::new(),
            kept: Kept::default(),
        };
        self.add(1, Some(id), started);
    }

    fn asks(&mut self, id: AgentId, number: u128) {
        let asked = Event::InferenceRequested {
            call: call(number),
            model: ModelName::parse("fast").expect("a name"),
            messages: 1,
            request_bytes: Bytes(100),
            request_hash: String::new(),
            reserve: Tokens(1000),
            price: Price::parse("10", "10", "10").ok(),
            charges: Vec::new(),
            keeps: None,
            estimate: None,
        };
        self.add(1, Some(id), asked);
    }

    fn answered(&mut self, id: AgentId, number: u128, result: Result<ModelReply, ModelFailure>) {
        let usage = result.as_ref().map(|reply| reply.usage).unwrap_or_default();
        let (tokens, micros) = (usage.total().0, usage.total().0 * 10);
        let spent = Amounts::of(Quantity::Tokens, tokens).with(Quantity::MicroUsd, micros);
        let completed = Event::InferenceCompleted {
            call: call(number),
            result,
            attempts: 1,
            possibly_billed: 0,
            spent,
            elapsed: Millis(1500),
        };
        self.add(1500, Some(id), completed);
    }

    fn calls(&mut self, id: AgentId, number: u128, tool: &str, input: Value) {
        let invoked = Event::ToolInvoked {
            call: call(number),
            tool: ToolName::parse(tool).expect("a name"),
            input,
            class: EffectClass::Safe,
            access: Vec::new(),
            denied: Vec::new(),
            charges: Vec::new(),
            model_call: Some(asked(number)),
            at: None,
            repeats: 1,
        };
        self.add(1, Some(id), invoked);
    }

    fn result(&mut self, id: AgentId, number: u128, tool: &str, found: Result<&Value, ToolFailure>) {
        let text = found.as_ref().map(|value| value.to_string()).unwrap_or_default();
        let failure = found.err();
        let result = Event::ToolResult {
            call: call(number),
            tool: ToolName::parse(tool).expect("a name"),
            outcome: failure.as_ref().map_or(Outcome::Done, ToolFailure::outcome),
            result_hash: String::new(),
            result_bytes: Bytes(text.len() as u64),
            result: failure.is_none().then_some(text),
            failure,
            worker: None,
            spent: Amounts::NONE,
            elapsed: Millis(20),
        };
        self.add(20, Some(id), result);
    }

    fn refused(&mut self, id: AgentId, number: u128, why: ToolFailure) {
        let refused = Event::CallRefused { model_call: asked(number), failure: why, repeats: 1 };
        self.add(1, Some(id), refused);
    }

    fn ends(&mut self, id: AgentId, response: &str, turns: u32, end: AgentEnd) {
        let completed = Event::AgentExecutionCompleted {
            response: response.to_owned(),
            usage: usage(100, 20),
            iterations: turns,
            stop_reason: StopReason::Complete,
            error: None,
            cut: None,
            mind_hash: String::new(),
        };
        self.add(1, Some(id), completed);
        self.add(1, Some(id), Event::AgentStopped { end });
    }

    fn asks_a_person(&mut self, id: AgentId, number: u128) {
        let approval = ApprovalId::from_uuid(Uuid::from_u128(0xa1));
        let question = Question {
            id: approval,
            agent: id,
            call: call(number),
            effect: "file_write".to_owned(),
            digest: String::new(),
            because: AskedBecause::Tool,
            needs: Vec::new(),
            grants: Vec::new(),
            input: json!({ "path": "/x/out" }),
            targets: Vec::new(),
        };
        let deadline = Timestamp(BEGUN + 600_000);
        self.add(1, Some(id), Event::HumanApprovalRequested { question: Box::new(question), deadline });
        let scope = ApprovalScope::Exactly { digest: String::new(), targets: Vec::new() };
        let approval = ApprovalGrant { id: approval, holder: id, scope, uses: 1 };
        let granted = Event::HumanApprovalGranted { approval, principal: 1000, reason: None };
        self.add(30_000, Some(id), granted);
    }
}

fn usage(input: u64, output: u64) -> Usage {
    Usage { input_tokens: Tokens(input), output_tokens: Tokens(output), cached_input_tokens: Tokens(0) }
}

fn reply(text: &str, reasoning: Option<&str>, calls: &[(u128, &str)]) -> Result<ModelReply, ModelFailure> {
    let call = |(number, tool): &(u128, &str)| ModelCall {
        id: asked(*number),
        tool: RequestedTool((*tool).to_owned()),
        arguments: RawArguments("{}".to_owned()),
    };
    Ok(ModelReply {
        text: text.to_owned(),
        reasoning: reasoning.map(str::to_owned),
        thinking: Vec::new(),
        calls: calls.iter().map(call).collect(),
        stop: if calls.is_empty() { ModelStop::EndTurn } else { ModelStop::ToolUse },
        usage: usage(100, 20),
    })
}

/// What an agent would write to take over a terminal.
pub(crate) const EVIL: &str = "\u{1b}]0;owned\u{7}\u{202e}\rfake";

/// The whole goal.
pub(crate) fn goal_with_a_child() -> Vec<Entry> {
    let mut tale = Tale::default();
    let accepted = Event::GoalAccepted {
        goal: "Read /x and write /x/out".to_owned(),
        outputs: vec![path("/x/out")],
        client_key: None,
        deadline: Timestamp(BEGUN + 3_600_000),
        budget: Budget::default(),
        principal: 1000,
        priority: 0,
        grants: Vec::new(),
        manifest: None,
        approval_required: Vec::new(),
        working_directory: None,
    };
    tale.add(0, None, accepted);
    tale.spawned(lead(), None, "lead");
    let started =
        Event::GoalStarted { root_agent: lead(), workspace: path("/state/workspace/g"), before: Vec::new() };
    tale.add(1, None, started);
    tale.runs(lead(), "Read /x and write /x/out\nin two lines");
    tale.asks(lead(), 1);
    let thought = format!("Two steps:\n1. have it read\n2. write it{EVIL}");
    tale.answered(
        lead(),
        1,
        reply("A reader reads it.", Some(&thought), &[(2, "spawn_agent"), (6, "file_write")]),
    );
    tale.calls(
        lead(),
        2,
        "spawn_agent",
        json!({ "manifest": "name: reader\nmodel: fast\n", "message": "Read /x/a" }),
    );
    tale.spawned(reader(), Some(lead()), "reader");
    work_of_the_reader(&mut tale);
    tale.result(lead(), 2, "spawn_agent", Ok(&json!({ "response": "It says: moon", "usage": {} })));
    tale.asks_a_person(lead(), 6);
    tale.calls(lead(), 6, "file_write", json!({ "path": "/x/out", "content": format!("moon\n{EVIL}\n") }));
    tale.result(lead(), 6, "file_write", Ok(&json!({ "bytes_written": 10 })));
    tale.asks(lead(), 7);
    tale.answered(lead(), 7, reply("Done.", None, &[]));
    tale.ends(lead(), "Done.", 2, AgentEnd::Finished);
    tale.add(1, None, finished());
    tale.entries
}

fn work_of_the_reader(tale: &mut Tale) {
    tale.runs(reader(), "Read /x/a");
    tale.asks(reader(), 3);
    let busy = ModelFailure {
        kind: ModelFailureKind::RateLimited,
        message: format!("slow down{EVIL}"),
        retry_after: Some(Millis(500)),
    };
    tale.add(
        1,
        Some(reader()),
        Event::InferenceRetried { call: call(3), failure: busy, wait: Millis(500), instead: None },
    );
    tale.answered(reader(), 3, reply("", None, &[(4, "file_read"), (8, "file_raed"), (5, "file_read")]));
    tale.calls(reader(), 4, "file_read", json!({ "path": "/x/b" }));
    let missing = ToolFailure::new(ToolFailureKind::NotFound, "there is no /x/b");
    tale.result(reader(), 4, "file_read", Err(missing));
    let unknown = ToolFailure::new(ToolFailureKind::UnknownTool, "there is no tool \"file_raed\"");
    tale.refused(reader(), 8, unknown);
    tale.calls(reader(), 5, "file_read", json!({ "path": "/x/a" }));
    let lines: Vec<String> = (1..=20).map(|line| format!("line {line}")).collect();
    tale.result(reader(), 5, "file_read", Ok(&json!({ "content": lines.join("\n"), "size_bytes": 200 })));
    let low = Event::BudgetExceeded { quantity: Quantity::Tokens, wanted: 900, remaining: 30 };
    tale.add(1, Some(reader()), low);
    tale.ends(reader(), "It says: moon", 1, AgentEnd::Finished);
}

fn finished() -> Event {
    Event::GoalFinished {
        state: GoalState::Done,
        response: "Done.".to_owned(),
        outputs: vec![OutputObserved {
            path: path("/x/out"),
            observed: true,
            size_bytes: Some(Bytes(10)),
            content_hash: Some("00".to_owned()),
            problem: None,
        }],
        usage: usage(300, 60),
        error: None,
        exit_code: 0,
    }
}
