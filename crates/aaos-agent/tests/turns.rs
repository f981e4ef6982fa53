//! The turn loop, one rule a test, and the laws of the prompt as properties.

use aaos_agent::{Command, Mind, MindConfig, MindEvent, RunEnd};
use aaos_core::limits::MAX_CALLS_PER_TURN;
use aaos_core::model::{
    CallResult, Message, ModelCall, ModelCallId, ModelFailure, ModelFailureKind, ModelReply, ModelRequest,
    ModelStop, PlacedThought, RawArguments, RequestedTool, StopWord, Thought, ToolSpec, Usage,
};
use aaos_core::name::{ModelName, ToolName};
use aaos_core::quantity::{Quantity, Tokens};
use aaos_core::toolio::StopReason;
use proptest::prelude::*;

fn config() -> MindConfig {
    MindConfig {
        model: ModelName::parse("scripted").expect("a name"),
        next_models: Vec::new(),
        system_prompt: "You are a test.".to_owned(),
        context_window: Tokens(131_072),
        max_iterations: 50,
        max_reply_tokens: Tokens(16_384),
        max_history_messages: 100,
        summarization_threshold: None,
        summarization_model: None,
    }
}

fn tools() -> Vec<ToolSpec> {
    vec![ToolSpec {
        name: ToolName::parse("echo").expect("a name"),
        description: "Echoes.".to_owned(),
        input_schema: serde_json::json!({"type": "object"}),
    }]
}

fn message(text: &str) -> MindEvent {
    MindEvent::Message { text: text.to_owned(), tools: tools() }
}

fn usage(input: u64, output: u64) -> Usage {
    Usage { input_tokens: Tokens(input), output_tokens: Tokens(output), cached_input_tokens: Tokens(0) }
}

fn call(id: &str, tool: &str, arguments: &str) -> ModelCall {
    ModelCall {
        id: ModelCallId(id.to_owned()),
        tool: RequestedTool(tool.to_owned()),
        arguments: RawArguments(arguments.to_owned()),
    }
}

fn reply(text: &str, calls: Vec<ModelCall>, stop: ModelStop) -> MindEvent {
    let usage = usage(100, 10);
    MindEvent::Reply(Box::new(ModelReply {
        text: text.to_owned(),
        reasoning: None,
        thinking: Vec::new(),
        calls,
        stop,
        usage,
    }))
}

fn results(calls: &[ModelCall]) -> MindEvent {
    let answer = |call: &ModelCall| CallResult {
        id: call.id.clone(),
        tool: call.tool.clone(),
        content: "{}".to_owned(),
        is_error: false,
    };
    MindEvent::ToolResults(calls.iter().map(answer).collect())
}

fn asked(command: &Command) -> &ModelRequest {
    match command {
        Command::Ask(request) => request,
        other => panic!("expected one request, got {other:?}"),
    }
}

fn invoked(command: &Command) -> &[ModelCall] {
    match command {
        Command::Invoke(calls) => calls,
        other => panic!("expected calls, got {other:?}"),
    }
}

fn finished(command: &Command) -> &RunEnd {
    match command {
        Command::Finish(end) => end,
        other => panic!("expected the end, got {other:?}"),
    }
}

fn asking() -> Mind {
    let mut mind = Mind::new(config());
    asked(&mind.step(message("do it")));
    mind
}

#[test]
fn a_run_goes_from_message_through_calls_to_the_answer() {
    let mut mind = asking();
    let calls = vec![call("a", "echo", "{}"), call("b", "grep", "not json")];
    let command = mind.step(reply("looking", calls, ModelStop::ToolUse));
    let calls = vec![call("call-1", "echo", "{}"), call("call-2", "grep", "not json")];
    assert_eq!(invoked(&command), calls);
    let command = mind.step(results(&calls));
    let request = asked(&command);
    assert_eq!(request.messages.len(), 3);
    let command = mind.step(reply("done", Vec::new(), ModelStop::EndTurn));
    let end = finished(&command);
    assert_eq!((end.response.as_str(), end.iterations), ("done", 2));
    assert_eq!(end.stop_reason, StopReason::Complete);
    assert_eq!(end.usage, usage(200, 20));
    assert_eq!(mind.usage(), usage(200, 20));
    assert_eq!(mind.history().len(), 4);
}

#[test]
fn a_cut_reply_is_truncated_and_its_calls_are_not_run() {
    for calls in [Vec::new(), vec![call("a", "file_write", "{\"path\":\"/x\",\"con")]] {
        let mut mind = asking();
        let command = mind.step(reply("half a sen", calls, ModelStop::MaxTokens));
        let end = finished(&command);
        assert_eq!((end.stop_reason, end.response.as_str()), (StopReason::Truncated, "half a sen"));
        asked(&mind.step(message("again")));
    }
}

#[test]
fn a_refusal_is_an_error_and_runs_nothing() {
    let command = asking().step(reply("no", vec![call("a", "echo", "{}")], ModelStop::Refusal));
    assert_eq!(finished(&command).stop_reason, StopReason::Error);
    assert!(finished(&command).error.is_some());
}

#[test]
fn a_reason_that_nobody_knows_is_an_error_in_its_own_word_unless_there_are_calls() {
    let other = || ModelStop::Other(StopWord("paused".to_owned()));
    let mut mind = asking();
    let command = mind.step(reply("half a sen", Vec::new(), other()));
    let end = finished(&command);
    assert_eq!((end.stop_reason, end.response.as_str()), (StopReason::Error, "half a sen"));
    assert!(end.error.as_deref().is_some_and(|error| error.contains("\"paused\"")), "{end:?}");
    assert_eq!(mind.history().len(), 2, "what it said is kept");
    let command = asking().step(reply("", vec![call("a", "echo", "{}")], other()));
    assert_eq!(invoked(&command).len(), 1);
}

#[test]
fn calls_are_run_even_if_the_provider_says_end_of_turn() {
    let command = asking().step(reply("", vec![call("a", "echo", "{}")], ModelStop::EndTurn));
    assert_eq!(invoked(&command).len(), 1);
}

#[test]
fn an_empty_reply_completes_and_leaves_no_empty_message() {
    let mut mind = asking();
    let command = mind.step(reply("", Vec::new(), ModelStop::ToolUse));
    assert_eq!(finished(&command).stop_reason, StopReason::Complete);
    assert_eq!(mind.history().len(), 1);
}

#[test]
fn failures_name_their_kind() {
    let failure = ModelFailure {
        kind: ModelFailureKind::Unauthorized,
        message: "the key is wrong".to_owned(),
        retry_after: None,
    };
    let command = asking().step(MindEvent::ModelFailed(failure));
    let end = finished(&command);
    assert_eq!(end.stop_reason, StopReason::Error);
    assert_eq!(end.failure, Some(ModelFailureKind::Unauthorized));
    assert_eq!(end.error.as_deref(), Some("the key is wrong"));
    let command = asking().step(MindEvent::BudgetExceeded { quantity: Quantity::Tokens, remaining: 7 });
    assert_eq!(finished(&command).stop_reason, StopReason::BudgetExceeded);
    assert!(finished(&command).error.as_deref().is_some_and(|error| error.contains('7')));
}

#[test]
fn the_iteration_limit_ends_the_run_after_the_last_turns_calls() {
    let mut mind = Mind::new(MindConfig { max_iterations: 3, ..config() });
    mind.step(message("loop"));
    for turn in 1..=3 {
        let arguments = format!("{{\"n\":{turn}}}");
        let calls =
            invoked(&mind.step(reply("", vec![call("", "echo", &arguments)], ModelStop::ToolUse))).to_vec();
        let command = mind.step(results(&calls));
        if turn < 3 {
            asked(&command);
        } else {
            assert_eq!(finished(&command).stop_reason, StopReason::MaxIterations);
            assert_eq!(finished(&command).iterations, 3);
        }
    }
}

#[test]
fn cancelling_works_in_every_phase_and_parts_no_call_from_its_result() {
    let mut mind = Mind::new(config());
    assert_eq!(finished(&mind.step(MindEvent::Cancelled)).stop_reason, StopReason::Cancelled);
    let mut mind = asking();
    assert_eq!(finished(&mind.step(MindEvent::Cancelled)).stop_reason, StopReason::Cancelled);
    let mut mind = asking();
    mind.step(reply("", vec![call("a", "echo", "{}")], ModelStop::ToolUse));
    assert_eq!(finished(&mind.step(MindEvent::Cancelled)).iterations, 1);
    assert_paired(mind.history());
    asked(&mind.step(message("and now?")));
}

#[test]
fn a_purse_that_does_not_cover_a_call_ends_the_run_and_parts_no_call_from_its_result() {
    let mut mind = asking();
    mind.step(reply("looking", vec![call("a", "echo", "{}")], ModelStop::ToolUse));
    let end = mind.step(MindEvent::BudgetExceeded { quantity: Quantity::Files, remaining: 0 });
    let end = finished(&end);
    assert_eq!((end.stop_reason, end.iterations), (StopReason::BudgetExceeded, 1));
    assert!(end.error.as_deref().is_some_and(|error| error.contains("max_files")), "{end:?}");
    assert_eq!(end.response, "looking");
    assert_paired(mind.history());
    asked(&mind.step(message("and now?")));
}

#[test]
fn too_many_calls_are_answered_without_being_run() {
    let mut mind = asking();
    let many = (0..MAX_CALLS_PER_TURN + 5).map(|n| call(&format!("c{n}"), "echo", &n.to_string())).collect();
    let command = mind.step(reply("", many, ModelStop::ToolUse));
    let calls = invoked(&command).to_vec();
    assert_eq!(calls.len(), MAX_CALLS_PER_TURN);
    mind.step(results(&calls));
    let Some(Message::ToolResults { results }) = mind.history().last() else { panic!("results come last") };
    assert_eq!(results.len(), MAX_CALLS_PER_TURN + 5);
    assert_eq!(results.iter().filter(|result| result.is_error).count(), 5);
    assert_paired(mind.history());
}

#[test]
fn calls_are_numbered_whatever_ids_the_model_gives_them() {
    let mut mind = asking();
    let long = "x".repeat(10_000);
    let ids = ["a", "a", "", "", "call-1", &long];
    let calls = ids.iter().map(|id| call(id, "echo", "{}")).collect();
    let calls = invoked(&mind.step(reply("", calls, ModelStop::ToolUse))).to_vec();
    mind.step(results(&calls));
    let calls = invoked(&mind.step(reply("", vec![call("a", "echo", "{}")], ModelStop::ToolUse))).to_vec();
    assert_eq!(calls[0].id.0, "call-7");
    assert_paired(mind.history());
}

#[test]
fn a_full_window_ends_the_run_before_the_provider_would() {
    let small = MindConfig { context_window: Tokens(4_000), ..config() };
    let mut mind = Mind::new(small.clone());
    let command = mind.step(message("short"));
    assert_eq!(asked(&command).max_output_tokens, Tokens(1_000), "a reply takes at most a quarter");
    let calls = invoked(&mind.step(reply("", vec![call("a", "echo", "{}")], ModelStop::ToolUse))).to_vec();
    let MindEvent::ToolResults(mut answers) = results(&calls) else { unreachable!() };
    answers[0].content = "x".repeat(40_000);
    let command = mind.step(MindEvent::ToolResults(answers));
    assert_eq!(finished(&command).stop_reason, StopReason::MaxTokens);
    let command = mind.step(message("next"));
    assert_eq!(asked(&command).messages.len(), 1, "the run that filled the window is forgotten");
    let command = Mind::new(small).step(message(&"y".repeat(100_000)));
    assert_eq!(finished(&command).stop_reason, StopReason::MaxTokens);
}

#[test]
fn an_old_history_is_cut_at_a_message() {
    let mut mind = Mind::new(MindConfig { max_history_messages: 6, ..config() });
    for run in 0..5 {
        let command = mind.step(message(&format!("message {run}")));
        let request = asked(&command);
        assert!(request.messages.len() <= 6);
        assert_paired(&request.messages);
        assert!(matches!(request.messages.first(), Some(Message::User { .. })));
        let calls = invoked(&mind.step(reply("", vec![call("", "echo", "{}")], ModelStop::ToolUse))).to_vec();
        mind.step(results(&calls));
        mind.step(reply("answer", Vec::new(), ModelStop::EndTurn));
    }
}

#[test]
#[should_panic(expected = "none was asked for")]
fn a_reply_that_nobody_asked_for_is_a_bug() {
    Mind::new(config()).step(reply("", Vec::new(), ModelStop::EndTurn));
}

#[test]
#[should_panic(expected = "do not match")]
fn results_of_other_calls_are_a_bug() {
    let mut mind = asking();
    mind.step(reply("", vec![call("a", "echo", "{}")], ModelStop::ToolUse));
    mind.step(results(&[call("call-2", "echo", "{}")]));
}

/// Every call has its result in the very next message, in order, and no id occurs twice.
fn assert_paired(history: &[Message]) {
    let mut seen = std::collections::BTreeSet::new();
    for (at, message) in history.iter().enumerate() {
        let Message::Assistant { calls, .. } = message else { continue };
        for call in calls {
            assert!(seen.insert(call.id.0.clone()), "id {:?} occurs twice", call.id);
        }
        match history.get(at + 1) {
            Some(Message::ToolResults { results }) => {
                let answered = results.iter().map(|result| &result.id);
                assert!(answered.eq(calls.iter().map(|call| &call.id)));
            }
            None if at + 1 == history.len() => {}
            _ => assert!(calls.is_empty(), "calls without results"),
        }
    }
}

/// A thought for every reasoning of an odd length.
fn thoughts_of(reasoning: Option<&str>) -> Vec<PlacedThought> {
    let odd = reasoning.filter(|text| text.len() % 2 == 1);
    let placed = odd.map(|text| PlacedThought {
        after_text: 0,
        after_calls: 0,
        thought: Thought::Signed { text: text.to_owned(), signature: "proof".to_owned() },
    });
    placed.into_iter().collect()
}

fn any_reply() -> impl Strategy<Value = ModelReply> {
    let call = ("[ab]{0,2}", "[eg]", "[{}1]{0,2}").prop_map(|(id, tool, input)| call(&id, &tool, &input));
    let calls = prop_oneof![
        1 => Just(Vec::new()),
        8 => proptest::collection::vec(call.clone(), 1..5),
        1 => proptest::collection::vec(call, 60..80),
    ];
    let stop = prop_oneof![
        5 => Just(ModelStop::EndTurn),
        20 => Just(ModelStop::ToolUse),
        1 => Just(ModelStop::MaxTokens),
        1 => Just(ModelStop::Refusal),
        1 => "[a-z]{0,3}".prop_map(|word| ModelStop::Other(StopWord(word))),
    ];
    (".{0,9}", proptest::option::of("r{1,3}"), calls, stop, 0u64..u64::MAX, 0u64..50_000).prop_map(
        |(text, reasoning, calls, stop, input, output)| ModelReply {
            text,
            thinking: thoughts_of(reasoning.as_deref()),
            reasoning,
            calls,
            stop,
            usage: usage(input % 100_000, output),
        },
    )
}

/// Plays replies against a mind, starting a new run whenever one ends; gives every request of every run.
fn play(config: &MindConfig, replies: &[ModelReply]) -> (Vec<Vec<ModelRequest>>, Vec<Command>, Mind) {
    let mut mind = Mind::new(config.clone());
    let (mut runs, mut log) = (Vec::new(), Vec::new());
    let mut replies = replies.iter().cloned();
    let mut event = message("start");
    loop {
        if matches!(event, MindEvent::Message { .. }) {
            runs.push(Vec::new());
        }
        let command = mind.step(event);
        log.push(command.clone());
        event = match &command {
            Command::Ask(request) => {
                runs.last_mut().expect("a run").push((**request).clone());
                match replies.next() {
                    Some(reply) => MindEvent::Reply(Box::new(reply)),
                    None => return (runs, log, mind),
                }
            }
            Command::Invoke(calls) => results(calls),
            Command::Finish(_) if replies.len() == 0 => return (runs, log, mind),
            Command::Finish(_) => {
                replies.next();
                message("go on")
            }
        };
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn prompts_only_grow_and_stay_sound(replies in proptest::collection::vec(any_reply(), 0..40)) {
        let config = MindConfig { max_iterations: 12, max_history_messages: 20, ..config() };
        let (runs, _, mind) = play(&config, &replies);
        assert_paired(mind.history());
        for run in &runs {
            prop_assert!(run.len() <= 12);
            for pair in run.windows(2) {
                prop_assert!(pair[1].messages.starts_with(&pair[0].messages));
                prop_assert!(pair[1].messages.len() > pair[0].messages.len());
                prop_assert_eq!(&pair[0].system, &pair[1].system);
                prop_assert_eq!(&pair[0].tools, &pair[1].tools);
            }
            for request in run {
                assert_paired(&request.messages);
                let opens = matches!(request.messages.first(), Some(Message::User { .. }));
                let speaks_last = matches!(request.messages.last(), Some(Message::Assistant { .. }));
                prop_assert!(opens && !speaks_last);
            }
        }
    }

    #[test]
    fn the_same_events_give_the_same_commands(replies in proptest::collection::vec(any_reply(), 0..30)) {
        let (_, first, mind) = play(&config(), &replies);
        let (_, second, twin) = play(&config(), &replies);
        prop_assert_eq!(first, second);
        prop_assert_eq!(mind, twin);
    }

    #[test]
    fn usage_adds_up(replies in proptest::collection::vec(any_reply(), 1..30)) {
        let (_, log, mind) = play(&config(), &replies);
        let ended = log.iter().filter_map(|command| match command {
            Command::Finish(end) => Some(end.usage),
            _ => None,
        });
        let ended = ended.fold(Usage::default(), Usage::plus);
        prop_assert!(ended.total() <= mind.usage().total());
    }
}
