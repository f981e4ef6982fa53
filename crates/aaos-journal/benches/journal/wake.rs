//! Waking an agent: its mind is rebuilt from its entries. The conversation is one that a live mind had.

use std::path::Path;
use std::time::Duration;

use aaos_agent::{Command, Mind, MindConfig, MindEvent, TAPE_KINDS, Tape, told};
use aaos_core::effect::EffectClass;
use aaos_core::event::{Event, NewEntry, Outcome, content_hash};
use aaos_core::id::{AgentId, CallId, Seq};
use aaos_core::model::{
    ModelCall, ModelCallId, ModelReply, ModelStop, RawArguments, RequestedTool, ToolSpec, Usage,
};
use aaos_core::name::{ModelName, ToolName};
use aaos_core::quantity::{Amounts, Bytes, Millis, Timestamp, Tokens};
use aaos_journal::{Filter, Journal};
use tokio::runtime::Runtime;
use uuid::Uuid;

use crate::figures::{Figures, Target};
use crate::{open, scratch, timed};

/// Runs of the conversation; each has a question, a call with its result, and an answer.
const RUNS: u128 = 8;
/// Text of each of the three, bytes: together 32 KiB.
const QUESTION: usize = 1024;
const RESULT: usize = 2048;
const ANSWER: usize = 1024;
const WAKES: usize = 400;

/// Measures how long an agent takes to wake, and what its turns take in the journal.
pub(crate) fn wake(figures: &mut Figures) {
    let directory = scratch();
    let path = directory.path().join("journal.db");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime starts");
    let journal = open(&path);
    let mut mind = Mind::new(config());
    let before = size(&path);
    for run in 0..RUNS {
        converse(&runtime, &journal, &mut mind, run);
    }
    runtime.block_on(journal.clone().close()).expect("the journal closes");
    let turns = (2 * RUNS) as f64;
    figures.count("bytes of database for each turn of about 2 KiB", (size(&path) - before) as f64 / turns);
    let journal = open(&path);
    let mut wakes: Vec<Duration> = Vec::with_capacity(WAKES);
    for _ in 0..WAKES {
        let (woken, took) = timed(|| runtime.block_on(recall(&journal)));
        assert_eq!(woken.digest(), mind.digest(), "the same mind wakes");
        wakes.push(took);
    }
    let median = figures.times("wake with a conversation of 32 KiB", wakes);
    figures.target("wake, milliseconds", median / 1e6, Target::AtMost(1.0));
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}

fn agent() -> AgentId {
    AgentId::from_uuid(Uuid::from_u128(1))
}

fn config() -> MindConfig {
    MindConfig {
        model: ModelName::parse("fast").expect("a name"),
        next_models: Vec::new(),
        system_prompt: "You answer.".to_owned(),
        context_window: Tokens(131_072),
        max_iterations: 50,
        max_reply_tokens: Tokens(16_384),
        max_history_messages: 100,
        summarization_threshold: None,
        summarization_model: None,
    }
}

fn tool() -> ToolName {
    ToolName::parse("file_read").expect("a name")
}

fn shown(_: &[ToolName]) -> Vec<ToolSpec> {
    let input_schema = serde_json::json!({ "type": "object" });
    vec![ToolSpec { name: tool(), description: "Reads a file.".to_owned(), input_schema }]
}

fn entry(event: Event) -> NewEntry {
    let (goal_id, trace_id, parent_event) = (None, None, None);
    NewEntry { timestamp: Timestamp(1_000), goal_id, agent_id: Some(agent()), trace_id, parent_event, event }
}

fn reply(text: String, calls: Vec<ModelCall>) -> ModelReply {
    let stop = if calls.is_empty() { ModelStop::EndTurn } else { ModelStop::ToolUse };
    let usage = Usage { input_tokens: Tokens(1_000), output_tokens: Tokens(300), ..Usage::default() };
    ModelReply { text, reasoning: None, thinking: Vec::new(), calls, stop, usage }
}

/// One run, in the mind and in the journal.
fn converse(runtime: &Runtime, journal: &Journal, mind: &mut Mind, run: u128) {
    let record = |event: Event| runtime.block_on(journal.record(entry(event))).expect("recorded");
    let message = "q".repeat(QUESTION);
    let first = mind.step(MindEvent::Message { text: message.clone(), tools: shown(&[]) });
    record(Event::AgentExecutionStarted {
        message_hash: content_hash(message.as_bytes()),
        message,
        tools: vec![tool()],
        kept: mind.kept(),
    });
    let wish = ModelCall {
        id: ModelCallId(format!("call-{run}")),
        tool: RequestedTool("file_read".to_owned()),
        arguments: RawArguments("{\"path\":\"/data/file\"}".to_owned()),
    };
    let calls = infer(&record, mind, &first, 3 * run, reply(String::new(), vec![wish]));
    // The mind names its calls itself.
    let Command::Invoke(turn) = &calls else { panic!("the mind calls") };
    let asked = &turn[0];
    let call = CallId::from_uuid(Uuid::from_u128(3 * run + 1));
    record(Event::ToolInvoked {
        call,
        tool: tool(),
        input: serde_json::json!({ "path": "/data/file" }),
        class: EffectClass::Safe,
        access: Vec::new(),
        denied: Vec::new(),
        charges: Vec::new(),
        model_call: Some(asked.id.clone()),
        at: None,
        repeats: 1,
    });
    let result = format!("{{\"content\":\"{}\"}}", "r".repeat(RESULT));
    let settled = record(Event::ToolResult {
        call,
        tool: tool(),
        outcome: Outcome::Done,
        result_hash: content_hash(result.as_bytes()),
        result_bytes: Bytes(result.len() as u64),
        result: Some(result.clone()),
        failure: None,
        worker: None,
        spent: Amounts::NONE,
        elapsed: Millis(1),
    });
    let next = mind.step(MindEvent::ToolResults(vec![told(asked, settled.id, Ok(&result), 1)]));
    let last = infer(&record, mind, &next, 3 * run + 2, reply("a".repeat(ANSWER), Vec::new()));
    let Command::Finish(end) = &last else { panic!("the run ends") };
    record(Event::AgentExecutionCompleted {
        response: end.response.clone(),
        usage: end.usage,
        iterations: end.iterations,
        stop_reason: end.stop_reason,
        error: None,
        cut: None,
        mind_hash: mind.digest(),
    });
}

/// Asks, and takes the reply.
fn infer(
    record: &impl Fn(Event) -> aaos_core::event::Entry,
    mind: &mut Mind,
    asks: &Command,
    call: u128,
    reply: ModelReply,
) -> Command {
    let Command::Ask(request) = asks else { panic!("the mind asks") };
    let call = CallId::from_uuid(Uuid::from_u128(call));
    record(Event::InferenceRequested {
        call,
        model: request.model.clone(),
        messages: request.messages.len() as u64,
        request_bytes: request.text_bytes(),
        request_hash: request.digest(),
        reserve: Tokens(9_000),
        price: None,
        charges: Vec::new(),
        keeps: None,
        estimate: None,
    });
    record(Event::InferenceCompleted {
        call,
        result: Ok(reply.clone()),
        attempts: 1,
        possibly_billed: 0,
        spent: Amounts::NONE,
        elapsed: Millis(900),
    });
    mind.step(MindEvent::Reply(Box::new(reply)))
}

/// What the kernel does when a message comes for an agent that has no mind in memory.
async fn recall(journal: &Journal) -> Mind {
    let kinds = TAPE_KINDS.iter().map(|kind| (*kind).to_owned()).collect();
    let filter = Filter { agent: Some(agent()), kinds, ..Filter::after(Seq(0)) };
    let mut tape = Tape::recent(config());
    for entry in journal.read(filter).await.expect("the entries are read") {
        tape.take(&entry, shown).expect("the entries fit");
    }
    tape.finish().0
}
