//! A conversation that grows too long is shortened: what goes, what stays, and what is said of it.

use aaos_agent::{Command, Mind, MindConfig, MindEvent, RunEnd};
use aaos_core::event::{Event, Shortened, SummaryFault};
use aaos_core::manifest::Share;
use aaos_core::model::{
    CallResult, Message, ModelCall, ModelCallId, ModelFailure, ModelFailureKind, ModelReply, ModelRequest,
    ModelStop, RawArguments, RequestedTool, Usage,
};
use aaos_core::name::ModelName;
use aaos_core::quantity::Tokens;
use aaos_core::toolio::StopReason;
use proptest::prelude::*;

const GOAL: &str = "Find out which of the forty suppliers delivers to Graz.";
/// Bytes in one token of the scripted model.
const BYTES_PER_TOKEN: u64 = 4;

/// Answers what is asked for a summary.
type Summariser = Box<dyn FnMut(&ModelRequest) -> MindEvent>;

fn config(window: u64) -> MindConfig {
    MindConfig {
        model: ModelName::parse("scripted").expect("a name"),
        next_models: Vec::new(),
        system_prompt: "You are a test.".to_owned(),
        context_window: Tokens(window),
        max_iterations: 1_000,
        max_reply_tokens: Tokens(16_384),
        max_history_messages: 100,
        summarization_threshold: Share::of(7_000),
        summarization_model: None,
    }
}

fn message(text: &str) -> MindEvent {
    MindEvent::Message { text: text.to_owned(), tools: Vec::new() }
}

fn is_for_summary(request: &ModelRequest) -> bool {
    request.tools.is_empty() && request.system.starts_with("You shorten")
}

/// What a provider reports of a request.
fn tokens_of(request: &ModelRequest) -> Tokens {
    Tokens(request.text_bytes().0 / BYTES_PER_TOKEN)
}

fn reply_to(request: &ModelRequest, text: &str, calls: Vec<ModelCall>) -> MindEvent {
    let usage = Usage { input_tokens: tokens_of(request), output_tokens: Tokens(5), ..Usage::default() };
    MindEvent::Reply(Box::new(ModelReply {
        text: text.to_owned(),
        reasoning: None,
        thinking: Vec::new(),
        stop: if calls.is_empty() { ModelStop::EndTurn } else { ModelStop::ToolUse },
        calls,
        usage,
    }))
}

fn call(arguments: &str) -> ModelCall {
    ModelCall {
        id: ModelCallId(String::new()),
        tool: RequestedTool("echo".to_owned()),
        arguments: RawArguments(arguments.to_owned()),
    }
}

fn results(calls: &[ModelCall], content: &str) -> MindEvent {
    let answer = |call: &ModelCall| CallResult {
        id: call.id.clone(),
        tool: call.tool.clone(),
        content: content.to_owned(),
        is_error: false,
    };
    MindEvent::ToolResults(calls.iter().map(answer).collect())
}

fn failure(kind: ModelFailureKind) -> MindEvent {
    MindEvent::ModelFailed(ModelFailure { kind, message: "it is down".to_owned(), retry_after: None })
}

/// Every call has its result in the very next message, and every result its call before it.
fn assert_paired(messages: &[Message]) {
    for (at, message) in messages.iter().enumerate() {
        match message {
            Message::Assistant { calls, .. } if !calls.is_empty() => {
                let Some(Message::ToolResults { results }) = messages.get(at + 1) else {
                    panic!("calls without results at {at}")
                };
                assert!(results.iter().map(|one| &one.id).eq(calls.iter().map(|one| &one.id)));
            }
            Message::ToolResults { .. } => {
                let before = at.checked_sub(1).and_then(|at| messages.get(at));
                assert!(matches!(before, Some(Message::Assistant { calls, .. }) if !calls.is_empty()));
            }
            Message::Assistant { .. } | Message::User { .. } => {}
        }
    }
    assert!(matches!(messages.first(), Some(Message::User { .. })));
}

fn opening(messages: &[Message]) -> &str {
    match messages.first() {
        Some(Message::User { text }) => text,
        other => panic!("a conversation begins with what was said, not with {other:?}"),
    }
}

/// What happened in a scripted conversation.
#[derive(Default)]
struct Seen {
    requests: Vec<ModelRequest>,
    noted: Vec<Event>,
    ends: Vec<RunEnd>,
    /// Of each summary: the conversation before and after.
    shortened: Vec<(Vec<Message>, Vec<Message>)>,
}

impl Seen {
    fn summaries(&self) -> usize {
        self.requests.iter().filter(|request| is_for_summary(request)).count()
    }
}

/// A model that calls a tool `turns` times in each run and then ends it; `summary` answers what is asked for one.
fn talk(
    config: MindConfig,
    said: &[&str],
    turns: usize,
    result: &str,
    mut summary: impl FnMut(&ModelRequest) -> MindEvent,
) -> Seen {
    let (mut mind, mut seen) = (Mind::new(config), Seen::default());
    for text in said {
        let (mut made, mut before) = (0, None);
        let mut command = mind.step(message(text));
        loop {
            seen.noted.extend(std::iter::from_fn(|| mind.take_noted()));
            if let Some(before) = before.take() {
                seen.shortened.push((before, mind.history().to_vec()));
            }
            command = match command {
                Command::Finish(end) => break seen.ends.push(end),
                Command::Invoke(calls) => mind.step(results(&calls, result)),
                Command::Ask(request) => {
                    let event = if is_for_summary(&request) {
                        assert!(mind.summarises().is_some());
                        before = Some(mind.history().to_vec());
                        summary(&request)
                    } else {
                        made += 1;
                        let calls =
                            if made > turns { Vec::new() } else { vec![call(&format!("{{\"n\":{made}}}"))] };
                        reply_to(&request, "so be it", calls)
                    };
                    seen.requests.push(*request);
                    mind.step(event)
                }
            };
        }
    }
    seen
}

fn summarised(request: &ModelRequest) -> MindEvent {
    reply_to(request, "Suppliers 1 to 9 do not deliver there.", Vec::new())
}

fn shortened(event: &Event) -> &Shortened {
    match event {
        Event::ContextSummarized { shortened } => shortened,
        other => panic!("a summary, not {other:?}"),
    }
}

#[test]
fn three_hundred_turns_fit_a_small_window_and_the_goal_stays() {
    let result = "r".repeat(900);
    let seen = talk(config(16_384), &[GOAL], 300, &result, summarised);
    assert_eq!(seen.ends[0].stop_reason, StopReason::Complete);
    assert_eq!(seen.ends[0].iterations, 301, "a summary is no turn");
    assert!(seen.summaries() > 3, "{}", seen.summaries());
    for request in &seen.requests {
        let room = Tokens(16_384 - request.max_output_tokens.0);
        assert!(tokens_of(request) <= room, "{} tokens", tokens_of(request));
        if !is_for_summary(request) {
            assert!(opening(&request.messages).contains(GOAL));
            assert_paired(&request.messages);
        }
    }
    let last = opening(&seen.requests.last().expect("requests").messages);
    assert!(last.ends_with(GOAL) && last.contains("Suppliers 1 to 9"), "{last}");
    let used: u64 = seen.requests.iter().map(|request| tokens_of(request).0).sum();
    assert_eq!(seen.ends[0].usage.input_tokens, Tokens(used), "summaries are paid for by the run");
    // The control: a window that holds everything is left alone.
    let whole = talk(config(1 << 20), &[GOAL], 300, &result, summarised);
    assert_eq!((whole.summaries(), whole.noted.len()), (0, 0));
}

#[test]
fn what_went_is_recorded_without_gaps_and_about_forty_hundredths_are_left() {
    let seen = talk(config(16_384), &[GOAL], 300, &"r".repeat(900), summarised);
    let mut next = 1;
    for event in &seen.noted {
        let shortened = shortened(event);
        assert_eq!(shortened.from_turn, next);
        assert!(shortened.to_turn >= shortened.from_turn);
        assert!(shortened.tokens_before > Tokens(16_384 * 7 / 10), "{shortened:?}");
        assert!((3_000..=6_554).contains(&shortened.tokens_after.0), "{shortened:?}");
        assert_eq!(shortened.opening.words, [GOAL]);
        next = shortened.to_turn + 1;
    }
    assert_eq!(seen.noted.len(), seen.summaries());
}

#[test]
fn between_two_summaries_prompts_only_grow() {
    let seen = talk(config(16_384), &[GOAL], 300, &"r".repeat(900), summarised);
    for pair in seen.requests.windows(2).filter(|pair| !pair.iter().any(is_for_summary)) {
        assert!(pair[1].messages.starts_with(&pair[0].messages));
    }
}

#[test]
fn a_later_summary_is_made_of_the_earlier_one_too() {
    let seen = talk(config(16_384), &[GOAL], 200, &"r".repeat(900), summarised);
    let asked: Vec<&ModelRequest> = seen.requests.iter().filter(|request| is_for_summary(request)).collect();
    assert!(!opening(&asked[0].messages).contains("SUMMARY SO FAR"));
    for request in &asked[1..] {
        assert!(opening(&request.messages).contains("SUMMARY SO FAR: Suppliers 1 to 9"));
    }
}

#[test]
fn the_model_that_summarises_may_be_another() {
    let other = ModelName::parse("cheap").expect("a name");
    let config = MindConfig { summarization_model: Some(other.clone()), ..config(16_384) };
    let seen = talk(config, &[GOAL], 60, &"r".repeat(900), summarised);
    assert!(seen.summaries() > 0);
    for request in &seen.requests {
        assert_eq!(request.model == other, is_for_summary(request));
    }
}

#[test]
fn a_summary_that_cannot_be_had_keeps_nothing_from_going() {
    let long = "s".repeat(200_000);
    let said = |text: &str, calls: Vec<ModelCall>| {
        let text = text.to_owned();
        move |request: &ModelRequest| reply_to(request, &text, calls.clone())
    };
    let cases: [(&str, Summariser); 5] = [
        ("llm_call_failed", Box::new(|_| failure(ModelFailureKind::Unauthorized))),
        ("empty_response", Box::new(|_| failure(ModelFailureKind::EmptyReply))),
        ("empty_response", Box::new(said(" \n", Vec::new()))),
        ("reply_parse_error", Box::new(said("", vec![call("{}")]))),
        ("reply_parse_error", Box::new(refusal)),
    ];
    for (reason, summary) in cases {
        let seen = talk(config(16_384), &[GOAL], 60, &"r".repeat(900), summary);
        assert_eq!(seen.ends[0].stop_reason, StopReason::Complete, "{reason}");
        for event in &seen.noted {
            let Event::ContextSummarizationFailed { reason: told, shortened: Some(shortened), .. } = event
            else {
                panic!("{reason}: {event:?}")
            };
            assert_eq!(serde_json::to_value(told).expect("JSON"), reason);
            assert_eq!(shortened.opening.summary, None);
        }
        assert!(!seen.noted.is_empty());
        assert!(opening(&seen.requests.last().expect("requests").messages).contains(GOAL));
    }
    let seen = talk(config(4_096), &[GOAL], 60, &"r".repeat(300), said(&long, Vec::new()));
    assert_eq!(
        seen.ends[0].stop_reason,
        StopReason::Complete,
        "a summary that is too long is cut or not taken"
    );
}

fn refusal(request: &ModelRequest) -> MindEvent {
    match reply_to(request, "I had rather not.", Vec::new()) {
        MindEvent::Reply(reply) => {
            MindEvent::Reply(Box::new(ModelReply { stop: ModelStop::Refusal, ..*reply }))
        }
        other => other,
    }
}

#[test]
fn what_was_said_in_later_runs_stays_word_for_word() {
    let said: Vec<String> =
        (1..=30).map(|run| format!("Message {run}: look at supplier {run} too.")).collect();
    let said: Vec<&str> = said.iter().map(String::as_str).collect();
    let seen = talk(config(16_384), &said, 10, &"r".repeat(900), summarised);
    assert!(seen.ends.iter().all(|end| end.stop_reason == StopReason::Complete));
    assert!(seen.summaries() > 3);
    let last = &seen.requests.last().expect("requests").messages;
    let all: Vec<&str> = last
        .iter()
        .filter_map(|message| match message {
            Message::User { text } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    let all = all.join("\n");
    for text in said {
        assert_eq!(all.matches(text).count(), 1, "{text}");
    }
}

#[test]
fn too_many_messages_are_summarised_when_a_run_begins() {
    let config = MindConfig { max_history_messages: 12, ..config(1 << 20) };
    let said: Vec<String> = (1..=20).map(|run| format!("Message {run}.")).collect();
    let said: Vec<&str> = said.iter().map(String::as_str).collect();
    let seen = talk(config, &said, 1, "{}", summarised);
    assert!(seen.summaries() > 2);
    for request in seen.requests.iter().filter(|request| !is_for_summary(request)) {
        let begins = matches!(request.messages.last(), Some(Message::User { .. }));
        assert!(!begins || request.messages.len() <= 12);
        assert!(
            request
                .messages
                .iter()
                .any(|one| matches!(one, Message::User { text } if text.contains("Message 1.")))
        );
    }
}

#[test]
fn words_that_fill_the_window_by_themselves_are_summarised_too_and_the_last_never() {
    let long: Vec<String> = (1..=9).map(|run| format!("Message {run}: {}", "w".repeat(9_000))).collect();
    let said: Vec<&str> = long.iter().map(String::as_str).collect();
    let seen = talk(config(16_384), &said, 3, &"r".repeat(900), summarised);
    assert!(seen.ends.iter().all(|end| end.stop_reason == StopReason::Complete), "{:?}", seen.ends);
    let last = &seen.requests.last().expect("requests").messages;
    let has = |text: &str| {
        last.iter().any(|one| matches!(one, Message::User { text: said } if said.contains(text)))
    };
    assert!(has("Message 9: w") && !has("Message 5: w"));
}

/// Whether a request says this to the model as it was said, not as an excerpt.
fn says(request: &ModelRequest, words: &str) -> bool {
    request.messages.iter().any(|one| matches!(one, Message::User { text } if text.contains(words)))
}

#[test]
fn a_message_that_is_too_large_for_the_window_does_not_end_every_later_run() {
    let large = "w".repeat(100_000);
    for first in [&[][..], &[GOAL]] {
        let said = [first, &[&large, "hi"]].concat();
        let seen = talk(config(4_096), &said, 0, "", summarised);
        let ends: Vec<StopReason> = seen.ends.iter().map(|end| end.stop_reason).collect();
        assert_eq!(ends[first.len()..], [StopReason::MaxTokens, StopReason::Complete]);
        let last = seen.requests.last().expect("requests");
        assert!(says(last, "hi") && (first.is_empty() || says(last, GOAL)), "{last:?}");
    }
    // After a conversation that was cut behind everything, too.
    let seen = talk(config(4_096), &[&large, "hi", &large, "there"], 0, "", |_| {
        failure(ModelFailureKind::Unavailable)
    });
    assert_eq!(seen.ends[3].stop_reason, StopReason::Complete);
}

#[test]
fn messages_of_runs_that_failed_do_not_pile_up() {
    let mut mind = Mind::new(MindConfig { max_history_messages: 20, ..config(1 << 20) });
    for number in 0..200 {
        let mut command = mind.step(message(&format!("Message {number}.")));
        while let Command::Ask(_) = command {
            command = mind.step(failure(ModelFailureKind::Unavailable));
            mind.take_noted();
        }
        assert!(mind.history().len() <= 40, "{}", mind.history().len());
    }
}

#[test]
fn a_message_that_is_large_costs_no_other_its_place() {
    let large = "w".repeat(20_000);
    let small = "Leave out supplier 9.";
    let seen = talk(config(16_384), &[GOAL, small, &large, "And now?"], 12, &"r".repeat(2_000), summarised);
    assert!(seen.summaries() > 1 && seen.ends.iter().all(|end| end.stop_reason == StopReason::Complete));
    for request in seen.requests.iter().filter(|one| !is_for_summary(one)) {
        assert!(says(request, GOAL), "{request:?}");
        assert!(says(request, small) || !says(request, &large), "{request:?}");
    }
    let last = seen.requests.last().expect("requests");
    assert!(says(last, small) && says(last, "And now?") && !says(last, &large), "{last:?}");
}

#[test]
fn the_goal_stays_however_much_else_is_said() {
    let long: Vec<String> = (1..=9).map(|run| format!("Message {run}: {}", "w".repeat(9_000))).collect();
    let said: Vec<&str> = std::iter::once(GOAL).chain(long.iter().map(String::as_str)).collect();
    let seen = talk(config(16_384), &said, 3, &"r".repeat(900), summarised);
    assert!(seen.summaries() > 1);
    assert!(says(seen.requests.last().expect("requests"), GOAL));
}

#[test]
fn words_that_go_without_a_summary_leave_their_beginning_and_the_note_says_what_an_older_one_is_of() {
    let long: Vec<String> = (1..=9).map(|run| format!("Message {run}: {}", "w".repeat(9_000))).collect();
    let said: Vec<&str> = std::iter::once(GOAL).chain(long.iter().map(String::as_str)).collect();
    let mut asked = 0;
    let seen = talk(config(16_384), &said, 12, &"r".repeat(900), |request| {
        asked += 1;
        if asked == 1 { summarised(request) } else { failure(ModelFailureKind::Unavailable) }
    });
    assert!(asked > 2);
    let reached = shortened(&seen.noted[0]).to_turn;
    let last = opening(&seen.requests.last().expect("requests").messages);
    assert!(last.contains(&format!("a model's summary of what went up to turn {reached} follows")), "{last}");
    assert!(last.contains("Suppliers 1 to 9 do not deliver there."), "{last}");
    let Some(Event::ContextSummarizationFailed { shortened: Some(went), .. }) = seen.noted.last() else {
        panic!("{:?}", seen.noted)
    };
    assert!(!went.opening.excerpts.is_empty());
    for excerpt in &went.opening.excerpts {
        assert!(excerpt.starts_with("Message ") && excerpt.ends_with(" more bytes]") && excerpt.len() < 300);
        assert!(last.contains(excerpt), "{last}");
    }
    // The next summary is made of them, too.
    let later: Vec<&ModelRequest> = seen.requests.iter().filter(|one| is_for_summary(one)).collect();
    let had = later.last().expect("summaries");
    assert!(opening(&had.messages).contains("more bytes]"), "{had:?}");
}

#[test]
fn a_summary_that_was_cut_before_it_said_much_is_not_taken() {
    let cut = |text: String| {
        move |request: &ModelRequest| match reply_to(request, &text, Vec::new()) {
            MindEvent::Reply(reply) => {
                MindEvent::Reply(Box::new(ModelReply { stop: ModelStop::MaxTokens, ..*reply }))
            }
            other => other,
        }
    };
    let result = "r".repeat(900);
    let seen = talk(config(16_384), &[GOAL], 60, &result, cut("Here is".to_owned()));
    let Event::ContextSummarizationFailed { reason, shortened: Some(_), .. } = &seen.noted[0] else {
        panic!("{:?}", seen.noted)
    };
    assert_eq!(*reason, SummaryFault::ReplyParseError);
    let seen = talk(config(16_384), &[GOAL], 60, &result, cut("Supplier 4 does not. ".repeat(40)));
    assert!(!seen.noted.is_empty());
    assert!(seen.noted.iter().all(|event| !shortened(event).opening.words.is_empty()), "the control");
}

#[test]
fn where_nothing_can_go_the_run_ends_and_it_is_said() {
    let seen = talk(config(4_096), &[GOAL], 3, &"r".repeat(40_000), summarised);
    assert_eq!(seen.ends[0].stop_reason, StopReason::MaxTokens);
    let [Event::ContextSummarizationFailed { reason, shortened: None, .. }] = seen.noted.as_slice() else {
        panic!("{:?}", seen.noted)
    };
    assert_eq!(*reason, SummaryFault::BoundarySelection);
    // The next message begins without the turn that filled the window.
    let seen = talk(config(4_096), &[GOAL, "And now?"], 1, &"r".repeat(40_000), summarised);
    assert_eq!(seen.ends.len(), 2);
    assert_eq!(seen.summaries(), 1);
    let asked = seen.requests.iter().find(|request| is_for_summary(request)).expect("a summary");
    assert!(tokens_of(asked) < Tokens(4_096), "what is summarised fits the window, too");
}

#[test]
fn a_purse_or_an_end_that_comes_in_the_middle_of_a_summary_ends_the_run() {
    let events = [
        MindEvent::Cancelled,
        MindEvent::BudgetExceeded { quantity: aaos_core::quantity::Quantity::Tokens, remaining: 3 },
    ];
    for event in events {
        let mut mind = Mind::new(config(4_096));
        let mut command = mind.step(message(GOAL));
        let end = loop {
            command = match command {
                Command::Ask(_) if mind.summarises().is_some() => mind.step(event.clone()),
                Command::Ask(request) => mind.step(reply_to(&request, "", vec![call("{}")])),
                Command::Invoke(calls) => mind.step(results(&calls, &"r".repeat(600))),
                Command::Finish(end) => break end,
            };
        };
        assert!(matches!(end.stop_reason, StopReason::Cancelled | StopReason::BudgetExceeded));
        assert!(mind.is_idle());
        assert_paired(mind.history());
        assert_eq!(opening(mind.history()), GOAL, "nothing went");
    }
}

/// One turn of a random conversation.
#[derive(Debug, Clone)]
struct Turn {
    text: String,
    results: Vec<String>,
}

fn any_turn() -> impl Strategy<Value = Turn> {
    let result = prop_oneof![8 => ".{0,300}", 1 => "x{2000,6000}"];
    (".{0,80}", proptest::collection::vec(result, 0..5)).prop_map(|(text, results)| Turn { text, results })
}

fn any_summary() -> impl Strategy<Value = Option<String>> {
    prop_oneof![1 => Just(None), 1 => Just(Some(String::new())), 4 => ".{1,400}".prop_map(Some), 1 => "s{9000,20000}".prop_map(Some)]
}

/// A conversation of which each step is looked at.
struct Watched {
    mind: Mind,
    /// Everything that was said to it.
    said: Vec<String>,
    /// Bytes in one token, as its provider counts.
    density: u64,
    summaries: Box<dyn Iterator<Item = Option<String>>>,
}

impl Watched {
    /// One run: its words, then these turns, then an answer.
    fn run(&mut self, words: &str, turns: &[Turn]) {
        self.said.push(words.to_owned());
        let mut turns = turns.iter();
        let mut results = Vec::new();
        let mut command = self.mind.step(message(words));
        loop {
            while let Some(noted) = self.mind.take_noted() {
                assert_shorter(&noted);
            }
            command = match command {
                Command::Finish(end) => {
                    let ends = [StopReason::Complete, StopReason::MaxTokens];
                    return assert!(ends.contains(&end.stop_reason), "{end:?}");
                }
                Command::Invoke(calls) => {
                    let mut contents = std::mem::take(&mut results).into_iter();
                    let answer = |call: &ModelCall| CallResult {
                        id: call.id.clone(),
                        tool: call.tool.clone(),
                        content: contents.next().expect("a result a call"),
                        is_error: false,
                    };
                    self.mind.step(MindEvent::ToolResults(calls.iter().map(answer).collect()))
                }
                Command::Ask(request) if self.mind.summarises().is_some() => self.summarise(&request),
                Command::Ask(request) => {
                    self.assert_sound(&request);
                    let turn = turns.next();
                    results = turn.map(|turn| turn.results.clone()).unwrap_or_default();
                    let calls = results.iter().map(|_| call("{}")).collect();
                    self.answer(&request, turn.map_or("done", |turn| &turn.text), calls)
                }
            };
        }
    }

    fn answer(&mut self, request: &ModelRequest, text: &str, calls: Vec<ModelCall>) -> Command {
        let MindEvent::Reply(mut reply) = reply_to(request, text, calls) else { panic!("a reply") };
        reply.usage.input_tokens = Tokens(request.text_bytes().0 / self.density);
        self.mind.step(MindEvent::Reply(reply))
    }

    fn summarise(&mut self, request: &ModelRequest) -> Command {
        assert!(is_for_summary(request));
        let before = self.mind.history().len();
        let command = match self.summaries.next().expect("they have no end") {
            None => self.mind.step(failure(ModelFailureKind::Unavailable)),
            Some(text) => self.answer(request, &text, Vec::new()),
        };
        assert!(self.mind.history().len() <= before);
        assert_paired(self.mind.history());
        command
    }

    fn assert_sound(&self, request: &ModelRequest) {
        assert_paired(&request.messages);
        assert!(!matches!(request.messages.last(), Some(Message::Assistant { .. })));
        let words: Vec<&str> = request
            .messages
            .iter()
            .filter_map(|message| match message {
                Message::User { text } => Some(text.as_str()),
                Message::Assistant { .. } | Message::ToolResults { .. } => None,
            })
            .collect();
        let words = words.join("\n");
        assert!(words.contains(self.said.last().expect("something")), "what was said last is there");
        if self.said.iter().map(String::len).sum::<usize>() < 400 {
            assert!(self.said.iter().all(|said| words.contains(said)), "what was said is there");
        }
    }
}

fn assert_shorter(noted: &Event) {
    let went = match noted {
        Event::ContextSummarized { shortened } => Some(shortened),
        Event::ContextSummarizationFailed { shortened, .. } => shortened.as_ref(),
        other => panic!("{other:?}"),
    };
    if let Some(went) = went {
        assert!(went.tokens_after <= went.tokens_before, "{went:?}");
        assert!(went.from_turn <= went.to_turn + 1, "{went:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn whatever_is_said_pairs_stay_whole_prompts_shrink_and_words_stay(
        runs in proptest::collection::vec((".{1,60}", proptest::collection::vec(any_turn(), 0..25)), 1..6),
        summaries in proptest::collection::vec(any_summary(), 1..8),
        window in 2_000u64..12_000,
        density in 1u64..9,
    ) {
        let summaries = Box::new(summaries.into_iter().cycle());
        let mut talk = Watched { mind: Mind::new(config(window)), said: Vec::new(), density, summaries };
        for (words, turns) in runs {
            talk.run(&words, &turns);
        }
    }
}
