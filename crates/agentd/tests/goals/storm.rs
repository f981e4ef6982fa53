//! A provider that turns everybody away for a while, with two hundred agents of four goals at its door; and who else
//! waits for whom.
//!
//! The goals have 1, 9, 90 and 100 agents that ask it at the same time; whoever only divides the work asks another
//! provider, so that all of them get there. The storm lasts until everybody waits, and for as many waits as
//! `AAOS_STORM_WAITS` says (1 unless it is set). Waits grow from a second to half a minute: 3 make a storm of more than
//! half a minute.

use crate::support::{Rig, Work, next_entry, next_of_kind};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use testkit::{Client, DaemonBuilder, Gate, ModelServer, PATIENCE, Script, SeenRequest, Turn, scratch};

/// The agents of each goal that ask in the storm.
const CROWDS: [usize; 4] = [100, 90, 9, 1];
/// Calls at once at each provider.
const SLOTS: usize = 4;
/// What the provider asks for with each refusal.
const WAIT: Duration = Duration::from_secs(1);
/// How long a wait becomes in a storm that goes on.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Part of a goal's work: so many of its agents below it, itself where it is one.
struct Part {
    label: String,
    leaves: usize,
}

impl Part {
    fn text(&self) -> String {
        format!("part={} leaves={} end", self.label, self.leaves)
    }

    fn read(text: &str) -> Self {
        let field = |name: &str| {
            let (_, rest) = text.split_once(name).unwrap_or_else(|| panic!("{name} in {text:?}"));
            rest.split(' ').next().expect("a word").to_owned()
        };
        Self { label: field("part="), leaves: field("leaves=").parse().expect("a number") }
    }

    /// The goal it is of, by its place in [`CROWDS`].
    fn goal(&self) -> usize {
        self.label[1..2].parse().expect("a digit")
    }

    fn manifest(&self) -> String {
        if self.leaves == 1 {
            return format!("name: {}\nmodel: deepseek/deepseek-chat\nsystem_prompt: You ask.\n", self.label);
        }
        format!(
            "name: {}\nmodel: openai/divider\nchild_models: [deepseek/deepseek-chat]\n\
             system_prompt: You divide.\ncapabilities:\n  - tool: spawn_agents\n  - spawn_child: [\"*\"]\n",
            self.label
        )
    }

    /// Three parts as equal as can be, or as many as there are agents.
    fn divided(&self) -> Turn {
        let count = self.leaves.min(3);
        let children: Vec<Value> = (0..count)
            .map(|at| {
                let leaves = (self.leaves + at) / count;
                let part = Self { label: format!("{}-{at}", self.label), leaves };
                json!({ "manifest": part.manifest(), "message": part.text() })
            })
            .collect();
        Turn::call("spawn_agents", json!({ "children": children }))
    }
}

/// What came to the provider.
#[derive(Debug, Clone, Copy)]
struct Knock {
    at: Instant,
    goal: usize,
    is_refused: bool,
}

#[derive(Default)]
struct Weather {
    knocks: Mutex<Vec<Knock>>,
    news: Condvar,
    is_calm: AtomicBool,
}

impl Weather {
    fn answer(&self, seen: &SeenRequest) -> Turn {
        let part = Part::read(seen.first_user_text());
        if seen.model == "divider" {
            return if seen.replies_so_far() == 0 { part.divided() } else { Turn::say("all are back") };
        }
        let is_refused = !self.is_calm.load(Ordering::SeqCst);
        let knock = Knock { at: Instant::now(), goal: part.goal(), is_refused };
        self.knocks.lock().expect("unpoisoned").push(knock);
        self.news.notify_all();
        if is_refused { Turn::retry_after(429, 1) } else { Turn::say("answered") }
    }

    fn knocks(&self) -> Vec<Knock> {
        self.knocks.lock().expect("unpoisoned").clone()
    }

    fn wait_until(&self, what: &str, patience: Duration, holds: impl Fn(&[Knock]) -> bool) {
        let knocks = self.knocks.lock().expect("unpoisoned");
        let waited = self.news.wait_timeout_while(knocks, patience, |knocks| !holds(knocks));
        let (knocks, waited) = waited.expect("unpoisoned");
        assert!(!waited.timed_out(), "after {} requests still waiting until {what}", knocks.len());
    }
}

#[expect(clippy::disallowed_methods, reason = "how long a test may take is told to the test, not to agentd")]
fn waits() -> usize {
    std::env::var("AAOS_STORM_WAITS").map_or(1, |words| words.parse().expect("AAOS_STORM_WAITS: a number"))
}

/// Every request to a model that is begun from here on.
fn begun(rig: &Rig) -> Client {
    let mut client = rig.daemon.client();
    client.send("audit.stream", json!({ "kinds": ["inference_requested"], "after_seq": 0 }));
    client
}

/// Waits until so many wait for a turn; each of them is about to, since its request is in the journal.
fn wait_until_waiting(client: &mut Client, count: usize) {
    let begun = Instant::now();
    while waiting(client) < count {
        assert!(begun.elapsed() < PATIENCE, "{count} never waited");
        std::thread::yield_now();
    }
}

fn waiting(client: &mut Client) -> usize {
    let status = client.call("runtime.status", json!({})).expect("status");
    usize::try_from(status["inference_queue"].as_u64().expect("a number")).expect("small")
}

/// The goals, all at the door of a provider that turns them away until the returned weather is calm.
fn storm() -> (Rig, Arc<Weather>, Vec<String>) {
    let weather = Arc::new(Weather::default());
    let answering = Arc::clone(&weather);
    let models = ModelServer::start(Script::dynamic(move |seen| answering.answer(seen)));
    let daemon = DaemonBuilder::openai(&models)
        .env("DEEPSEEK_API_KEY", "sk-deepseek")
        .env("DEEPSEEK_BASE_URL", models.openai_url())
        .env("AAOS_MAX_CONCURRENT_INFERENCE", SLOTS.to_string())
        .start();
    let rig = Rig { daemon, models, work: Work::new(scratch()) };
    let mut client = rig.daemon.client();
    let goals = CROWDS.iter().enumerate().map(|(at, leaves)| {
        let part = Part { label: format!("g{at}"), leaves: *leaves };
        let goal = json!({ "goal": part.text(), "manifest": part.manifest(), "budget": { "max_tokens": 1_000_000_000 },
                           "grants": ["tool: *", "spawn_child: [*]"] });
        let accepted = client.call("goal.submit", goal).expect("accepted");
        accepted["goal_id"].as_str().expect("an id").to_owned()
    });
    let goals = goals.collect();
    (rig, weather, goals)
}

#[test]
fn two_hundred_agents_wait_a_storm_out_and_take_turns() {
    let waits = waits();
    let agents: usize = CROWDS.iter().sum();
    let (rig, weather, goals) = storm();
    let mut client = rig.daemon.client();
    let patience = 4 * PATIENCE + 2 * LONGEST_WAIT * u32::try_from(waits).expect("few");
    let mut stream = begun(&rig);
    for _ in 0..agents {
        next_entry(&mut stream, |entry| entry["event"]["model"] == "deepseek/deepseek-chat");
    }
    // One of them may be asking just now.
    wait_until_waiting(&mut client, agents - 1);
    let shown = client.call("goal.status", json!({ "goal_id": goals[0] })).expect("status");
    assert_eq!(shown["state"], "waiting", "{shown}");
    assert!(
        shown["waiting_for"].as_str().is_some_and(|words| words.contains("provider deepseek")),
        "{shown}"
    );
    let before = weather.knocks().len();
    weather.wait_until("the storm is over", patience, |knocks| knocks.len() >= before.max(SLOTS) + waits);
    weather.is_calm.store(true, Ordering::SeqCst);
    let answered = |knocks: &[Knock]| knocks.iter().filter(|knock| !knock.is_refused).count();
    weather.wait_until("all are answered", patience, |knocks| answered(knocks) >= agents);
    for goal in &goals {
        let ended = client.call_streaming("goal.follow", json!({ "goal_id": goal })).1.expect("an end");
        assert_eq!(ended["goal"]["state"], "done", "no run is lost: {ended}");
    }
    assert_eq!(rig.models.unscripted(), Vec::<String>::new());
    assert_no_knock_inside_a_wait(&weather.knocks());
    assert_fair(&weather.knocks());
}

#[test]
fn a_goal_that_somebody_follows_goes_first() {
    for is_followed in [true, false] {
        let gate = Gate::new();
        let held = gate.clone();
        let models = ModelServer::start(Script::dynamic(move |_| Turn::say("answered").behind(&held)));
        let daemon = DaemonBuilder::openai(&models).env("AAOS_MAX_CONCURRENT_INFERENCE", "1").start();
        let rig = Rig { daemon, models, work: Work::new(scratch()) };
        let goal = |name: &str| {
            let manifest = format!("name: {name}\nmodel: smart\nsystem_prompt: {name}\n");
            json!({ "goal": name, "manifest": manifest })
        };
        let (mut client, mut other, mut stream) = (rig.daemon.client(), rig.daemon.client(), begun(&rig));
        client.call("goal.submit", goal("running")).expect("accepted");
        assert_eq!(rig.models.wait_for_requests(1).len(), 1);
        next_of_kind(&mut stream, "inference_requested");
        client.call("goal.submit", goal("alone")).expect("accepted");
        next_of_kind(&mut stream, "inference_requested");
        wait_until_waiting(&mut client, 1);
        let method = if is_followed { "agent.submit_streaming" } else { "goal.submit" };
        other.send(method, goal("later"));
        next_of_kind(&mut stream, "inference_requested");
        wait_until_waiting(&mut client, 2);
        gate.open();
        let asked: Vec<String> =
            rig.models.wait_for_requests(3).iter().map(|seen| seen.system.clone()).collect();
        let place = |name: &str| asked.iter().position(|system| system.contains(name)).expect("it asked");
        assert_eq!(place("later") < place("alone"), is_followed, "{asked:?}");
    }
}

#[test]
fn a_provider_that_hangs_holds_no_goal_of_another_and_who_waits_for_it_says_so() {
    let models = ModelServer::start(Script::dynamic(|_| Turn::Hang));
    let well = ModelServer::start(Script::in_order([Turn::say("answered")]));
    let daemon = DaemonBuilder::openai(&models)
        .env("DEEPSEEK_API_KEY", "sk-deepseek")
        .env("DEEPSEEK_BASE_URL", well.openai_url())
        .env("AAOS_MAX_CONCURRENT_INFERENCE", SLOTS.to_string())
        .start();
    let rig = Rig { daemon, models, work: Work::new(scratch()) };
    let mut client = rig.daemon.client();
    let goal = |model: &str| json!({ "goal": "do it", "manifest": format!("name: one\nmodel: {model}\nsystem_prompt: x\n") });
    for _ in 0..SLOTS {
        client.call("goal.submit", goal("openai/any")).expect("accepted");
    }
    assert_eq!(rig.models.wait_for_requests(SLOTS).len(), SLOTS);
    let mut stream = begun(&rig);
    let waits = client.call("goal.submit", goal("openai/any")).expect("accepted");
    for _ in 0..=SLOTS {
        next_of_kind(&mut stream, "inference_requested");
    }
    wait_until_waiting(&mut client, 1);
    let shown = client.call("goal.status", json!({ "goal_id": waits["goal_id"] })).expect("status");
    assert_eq!(shown["waiting_for"], "a slot of provider openai", "{shown}");
    let ended =
        rig.daemon.client().call_streaming("agent.submit_streaming", goal("deepseek/deepseek-chat")).1;
    assert_eq!(ended.expect("an end")["goal"]["state"], "done");
    assert_eq!(rig.models.requests().len(), SLOTS, "the other one still hangs");
}

/// Those of the first burst had left before the first refusal could be read; after it nobody asks before the time.
fn assert_no_knock_inside_a_wait(knocks: &[Knock]) {
    let mut closed_until = None;
    for (at, knock) in knocks.iter().enumerate() {
        let early = closed_until.map(|until: Instant| until.saturating_duration_since(knock.at));
        assert!(
            at < SLOTS || early.is_none_or(|early| early.is_zero()),
            "request {at} came {early:?} too early"
        );
        if knock.is_refused {
            closed_until = closed_until.max(Some(knock.at + WAIT));
        }
    }
}

/// At every moment each goal that still wants something has had at least half of its part of all answers.
fn assert_fair(knocks: &[Knock]) {
    let mut had = [0; CROWDS.len()];
    for (count, knock) in knocks.iter().filter(|knock| !knock.is_refused).enumerate() {
        had[knock.goal] += 1;
        for (goal, had) in had.iter().enumerate() {
            let part = (count + 1) / CROWDS.len();
            assert!(*had >= (part / 2).min(CROWDS[goal]), "after {count} answers goal {goal} has had {had}");
        }
    }
    assert_eq!(had, CROWDS, "each agent was answered once");
}
