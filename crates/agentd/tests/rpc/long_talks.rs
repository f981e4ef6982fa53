//! A conversation that outgrows its window goes on without its oldest part, through kills too.

use crate::support::{
    Rig, assert_intact, deliver, entries, manifest, result_of, spawn, text, wait_for_entry,
};
use serde_json::{Value, json};
use testkit::{Backend, Client, DaemonBuilder, ModelServer, ReportedUsage, Script, SeenRequest, Turn};

/// Messages to the agent, and its turns at each of them.
const MESSAGES: usize = 10;
const TURNS: usize = 30;
pub(crate) const GOAL: &str = "Find out which of the forty suppliers delivers to Graz.";
/// Begins the system prompt of a request for a summary.
const SUMMARY_MARK: &str = "You shorten the earlier part";

pub(crate) fn keeper(window: &str, more: &str) -> String {
    let memory = format!("memory: {{ context_window: {window}, max_history_messages: 1000{more} }}");
    let budget = "budget_config: { max_tokens: 100000000 }";
    let life = "lifecycle: persistent\ncapabilities: [\"tool: echo\", \"tool: history_read\"]";
    manifest("keeper", &format!("{life}\n{budget}\n{memory}\n"))
}

fn words(message: usize) -> String {
    match message {
        0 => GOAL.to_owned(),
        later => format!("Operator's word {later}: leave out supplier {later}."),
    }
}

pub(crate) fn is_for_summary(seen: &SeenRequest) -> bool {
    seen.system.starts_with(SUMMARY_MARK)
}

/// A turn that is reported to take a token for every four bytes of the request.
pub(crate) fn metered(seen: &SeenRequest, turn: Turn) -> Turn {
    turn.metered(ReportedUsage { input: seen.raw.len() as u64 / 4, cached: 0, output: 20 })
}

/// Calls a tool so many times for each message, then answers; summarises when asked to.
pub(crate) fn caller(turns: usize) -> impl FnMut(&SeenRequest) -> Turn + Send + 'static {
    let mut made = 0;
    move |seen| {
        if is_for_summary(seen) {
            return metered(seen, Turn::say("Suppliers 1 to 9 do not deliver there."));
        }
        made += 1;
        let turn = match made % (turns + 1) {
            0 => Turn::say("noted"),
            _ => Turn::call("echo", json!({ "message": format!("{made} {}", "x".repeat(900)) })),
        };
        metered(seen, turn)
    }
}

/// Everything that a request's user messages say.
pub(crate) fn said(seen: &SeenRequest) -> String {
    let users = seen.messages.iter().filter(|message| message.role == "user");
    users.map(|message| message.text.as_str()).collect::<Vec<_>>().join("\n")
}

pub(crate) fn tell(client: &mut Client, agent: &str, message: &str) -> Value {
    let trace = deliver(client, agent, message);
    let report = result_of(client, &trace);
    assert_eq!(report["status"], "done", "{report}");
    report
}

/// The whole talk; gives what its runs used of input tokens.
fn talk(window: &str) -> (Rig, u64) {
    let rig = Rig::new(Script::dynamic(caller(TURNS)));
    let mut client = rig.client();
    let agent = rig.spawn(&keeper(window, ""));
    let mut used = 0;
    for message in 0..MESSAGES {
        let result = tell(&mut client, &agent, &words(message))["result"].take();
        assert_eq!(result["iterations"], TURNS + 1, "a summary is no turn: {result}");
        used += result["usage"]["input_tokens"].as_u64().expect("a number");
    }
    (rig, used)
}

/// What each request was thought to take is within 10 % of what it took, once a first one was reported. What a request
/// for a summary takes is not estimated.
fn assert_estimated(asked: &[Value], completed: &[Value]) {
    let mut estimates = Vec::new();
    for (asked, completed) in asked.iter().zip(completed) {
        let (asked, completed) = (&asked["event"], &completed["event"]);
        assert_eq!(asked["call"], completed["call"]);
        assert_ne!(asked["keeps"].is_u64(), asked["estimate"].is_u64(), "{asked}");
        let reported = completed["result"]["Ok"]["usage"]["input_tokens"].as_u64().expect("a number");
        estimates.extend(asked["estimate"].as_u64().map(|estimate| (estimate, reported)));
    }
    assert!(estimates.len() >= MESSAGES * TURNS, "{estimates:?}");
    let is_close = |(estimate, reported): &(u64, u64)| estimate.abs_diff(*reported) * 10 <= *reported;
    assert!(estimates[1..].iter().all(is_close), "{estimates:?}");
}

#[test]
fn three_hundred_turns_in_a_small_window_end_with_the_goal_and_every_word_in_the_prompt() {
    let (rig, used) = talk("16k");
    let seen = rig.models.requests();
    let summaries = seen.iter().filter(|request| is_for_summary(request)).count();
    assert!(summaries > 5, "{summaries}");
    for request in seen.iter().filter(|request| !is_for_summary(request)) {
        assert!(request.raw.len() < 16 * 1024 * 4, "a request of {} bytes", request.raw.len());
        assert!(said(request).contains(GOAL), "{}", said(request));
    }
    let last = said(seen.last().expect("requests"));
    for message in 0..MESSAGES {
        assert_eq!(last.matches(&words(message)).count(), 1, "{message}: {last}");
    }
    assert!(last.contains("Suppliers 1 to 9 do not deliver there."), "{last}");
    let mut client = rig.client();
    let went = entries(&mut client, &["context_summarized"]);
    assert_eq!(went.len(), summaries);
    assert!(entries(&mut client, &["context_summarization_failed"]).is_empty());
    let asked = entries(&mut client, &["inference_requested"]);
    assert_eq!(asked.iter().filter(|entry| entry["event"]["keeps"].is_u64()).count(), summaries);
    assert_estimated(&asked, &entries(&mut client, &["inference_completed"]));
    assert_intact(&mut client);
    let reported: u64 = seen.iter().map(|request| request.raw.len() as u64 / 4).sum();
    assert_eq!(used, reported, "summaries are paid for like turns");
}

#[test]
fn a_window_that_holds_everything_is_left_alone() {
    let (rig, _) = talk("1024k");
    assert!(!rig.models.requests().iter().any(is_for_summary));
    assert!(entries(&mut rig.client(), &["context_summarized"]).is_empty());
    let last = rig.models.requests().pop().expect("requests");
    assert_eq!(last.results.len(), MESSAGES * TURNS, "all of it is in the prompt");
}

#[test]
fn a_kill_in_the_middle_of_a_summary_asks_for_it_once_more_and_goes_on() {
    let mut hangs = true;
    let mut call = caller(TURNS);
    let (arrives, arrived) = std::sync::mpsc::channel();
    let models = ModelServer::start(Script::dynamic(move |seen: &SeenRequest| {
        if is_for_summary(seen) && std::mem::take(&mut hangs) {
            arrives.send(()).expect("the test waits for it");
            return Turn::Hang;
        }
        call(seen)
    }));
    let daemon = DaemonBuilder::openai(&models).start();
    let mut client = daemon.client();
    let agent = spawn(&mut client, &keeper("16k", ""));
    let trace = deliver(&mut client, &agent, GOAL);
    wait_for_entry(&daemon, "inference_requested", |entry| entry["event"]["keeps"].is_u64());
    arrived.recv_timeout(testkit::PATIENCE).expect("the provider is asked for a summary");
    let daemon = daemon.kill9().start();
    let mut client = daemon.client();
    let report = result_of(&mut client, &trace);
    assert_eq!((&report["status"], &report["result"]["iterations"]), (&json!("done"), &json!(TURNS + 1)));
    // Kills after whole summaries: the conversation is the same as before them.
    tell(&mut client, &agent, &words(1));
    let daemon = daemon.kill9().start();
    tell(&mut daemon.client(), &agent, &words(2));
    let seen = models.requests();
    let summaries: Vec<&SeenRequest> = seen.iter().filter(|request| is_for_summary(request)).collect();
    assert_eq!(summaries[0].body, summaries[1].body, "the same is asked again");
    let went = entries(&mut daemon.client(), &["context_summarized"]);
    assert_eq!(went.len() + 1, summaries.len(), "and nothing else is");
    let last = said(seen.last().expect("requests"));
    assert!((0..3).all(|message| last.contains(&words(message))), "{last}");
    assert_intact(&mut daemon.client());
}

#[test]
fn a_summary_that_cannot_be_had_is_told_and_the_run_goes_on() {
    let mut call = caller(TURNS);
    let rig = Rig::new(Script::dynamic(
        move |seen: &SeenRequest| {
            if is_for_summary(seen) { Turn::status(400) } else { call(seen) }
        },
    ));
    let mut client = rig.client();
    let agent = rig.spawn(&keeper("16k", ""));
    tell(&mut client, &agent, GOAL);
    let failed = entries(&mut client, &["context_summarization_failed"]);
    assert_eq!(failed[0]["event"]["reason"], "llm_call_failed", "{}", failed[0]);
    assert!(failed[0]["event"]["shortened"]["to_turn"].as_u64() > Some(0), "{}", failed[0]);
    let daemon = rig.daemon.kill9().start();
    tell(&mut daemon.client(), &agent, &words(1));
    let last = said(rig.models.requests().last().expect("requests"));
    assert!(last.contains(GOAL) && last.contains("there is no summary"), "{last}");
}

#[test]
fn the_model_that_summarises_has_to_be_served_and_is_asked() {
    let rig = Rig::new(Script::dynamic(caller(TURNS)));
    let mut client = rig.client();
    let agent = rig.spawn(&keeper("16k", ", summarization_model: another-model"));
    tell(&mut client, &agent, GOAL);
    let seen = rig.models.requests();
    assert!(seen.iter().any(is_for_summary));
    for request in &seen {
        let model = if is_for_summary(request) { "another-model" } else { "scripted-model" };
        assert_eq!(text(&request.body["model"]), model);
    }
    let daemon = DaemonBuilder::new(Backend::Builtin).start();
    let spawn = |more: &str| {
        let manifest = keeper("16k", more).replace("scripted-model", "builtin");
        daemon.client().call("agent.spawn", json!({ "manifest": manifest }))
    };
    let refused = spawn(", summarization_model: gpt-imaginary").expect_err("nobody serves it");
    assert_eq!(refused.data["reason"], "unknown_model", "{refused:?}");
    spawn(", summarization_model: builtin").expect("the control");
}

/// Which bytes an agent's last run began with as known to take which tokens.
fn kept_of(client: &mut Client, agent: &str) -> (u64, u64) {
    let started = entries(client, &["agent_execution_started"]);
    let last = started.iter().rfind(|entry| entry["agent_id"] == agent).expect("it began");
    let number = |name: &str| last["event"]["kept"][name].as_u64().expect("a number");
    (number("bytes"), number("tokens"))
}

#[test]
fn a_provider_that_lies_to_one_agent_stops_and_shortens_no_other() {
    let mut call = caller(TURNS);
    let rig = Rig::new(Script::dynamic(move |seen: &SeenRequest| {
        let lies = seen.system.contains("You are liar");
        let turn = if said(seen).contains("only talk") { Turn::say("so be it") } else { call(seen) };
        let input = seen.raw.len() as u64 / if lies { 2 } else { 4 };
        turn.metered(ReportedUsage { input, cached: 0, output: 20 })
    }));
    let mut client = rig.client();
    let named = |name: &str, window: &str| {
        let keeper = keeper(window, "").replace("keeper", name);
        // A bounded purse would end the run that overdraws it.
        keeper.replace("budget_config: { max_tokens: 100000000 }\n", "")
    };
    let liar = rig.spawn(&named("liar", "1024k"));
    tell(&mut client, &liar, GOAL);
    let long = format!("only talk {}", "w".repeat(30_000));
    // As much as fits a small window, unless one believes in a token for two bytes.
    let honest = rig.spawn(&named("honest", "16k"));
    for words in [&long, "and more"] {
        let report = tell(&mut client, &honest, words);
        assert_eq!(report["result"]["stop_reason"], "complete", "{report}");
    }
    let (bytes, tokens) = kept_of(&mut client, &honest);
    assert!(tokens * 2 <= bytes && bytes <= tokens * 6, "{bytes} in {tokens}");
    let shortened = |client: &mut Client| {
        let all = entries(client, &["context_summarized", "context_summarization_failed"]);
        all.iter().map(|entry| text(&entry["agent_id"]).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(shortened(&mut client), Vec::<String>::new());
    // The control: whom the lie is told goes by it.
    let told = rig.spawn(&named("liar", "16k"));
    tell(&mut client, &told, &long);
    let trace = deliver(&mut client, &told, "and more");
    result_of(&mut client, &trace);
    assert!(shortened(&mut client).contains(&told), "its window counts as full");
}

#[test]
fn what_a_conversation_takes_is_shown_and_a_models_tokens_are_learned_for_every_agent() {
    let rig = Rig::new(Script::dynamic(caller(TURNS)));
    let mut client = rig.client();
    let status = |client: &mut Client, agent: &str| {
        client.call("agent.status", json!({ "agent_id": agent })).expect("known")["context"].take()
    };
    let first = rig.spawn(&keeper("128k", ""));
    assert_eq!(status(&mut client, &first), Value::Null, "it was asked nothing yet");
    tell(&mut client, &first, GOAL);
    let learned = status(&mut client, &first);
    let last = rig.models.requests().pop().expect("requests").raw.len() as u64 / 4;
    let (window, tokens) = (&learned["window"], learned["tokens"].as_u64().expect("a number"));
    assert_eq!(window, 128 * 1024);
    assert!(tokens >= last && tokens < last + last / 10, "{learned}: {last} were reported last");
    let ratio = |of: &Value| {
        of["learned_bytes"].as_f64().expect("a number") / of["learned_tokens"].as_f64().expect("one")
    };
    assert!((3.0..4.0).contains(&ratio(&learned)), "what the text is, without its wire format: {learned}");
    // A second agent begins with about what the first one learned, and a third of another model does not.
    let begun = |client: &mut Client, manifest: &str| {
        let agent = spawn(client, manifest);
        tell(client, &agent, "hello");
        kept_of(client, &agent)
    };
    let known = ratio(&learned);
    let begins = begun(&mut client, &keeper("128k", "").replace("name: keeper", "name: second"));
    assert!((begins.0 as f64 / begins.1 as f64 / known - 1.0).abs() < 0.1, "{begins:?}, not {known}");
    assert_ne!(begins, (7, 2), "it was learned");
    let other =
        keeper("128k", "").replace("scripted-model", "other-model").replace("name: keeper", "name: third");
    assert_eq!(begun(&mut client, &other), (7, 2), "the control");
    let shown = rig.daemon.cli(["status", &first]);
    assert!(shown.stdout.contains(&format!("about {tokens} of 131072 tokens, 3.")), "{shown:?}");
}
