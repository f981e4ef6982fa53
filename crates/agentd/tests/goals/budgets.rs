//! What a purse bounds stops the agent, and a child has no more than its parent. Each with its control.

use crate::support::{
    LEAD_MARK, Ran, Rig, Work, agent_named, of_kind, run, spawning, text, unwrapped, write,
};
use serde_json::{Value, json};
use testkit::{
    DaemonBuilder, ModelServer, ReportedUsage, SCRIPTED_MODEL, Script, SeenRequest, Turn, scratch,
};

/// What a turn of the scripted model uses.
const TURN: ReportedUsage = ReportedUsage { input: 150, cached: 0, output: 50 };

/// What an honest model uses that writes a lot: no more output than it was asked for.
fn honest(seen: &SeenRequest, turn: Turn) -> Turn {
    let most = ["max_tokens", "max_completion_tokens"].iter().find_map(|name| seen.body[*name].as_u64());
    turn.metered(ReportedUsage { input: 20, cached: 0, output: most.expect("a limit").min(1000) })
}

/// A root agent with few words and one tool, so that its prompt is short.
fn spender(budget: &str) -> String {
    format!("name: lead\nmodel: smart\nsystem_prompt: {LEAD_MARK}\ncapabilities: [\"tool: echo\"]\n{budget}")
}

fn echo(n: usize) -> Turn {
    Turn::call("echo", json!({ "message": n.to_string() }))
}

/// A goal for this root agent, with nothing granted beside its manifest.
fn goal_of(manifest: &str) -> Value {
    json!({ "goal": "go", "manifest": manifest })
}

/// Prices of the scripted model: a dollar a thousand tokens of input, two of output.
const PRICES: &str =
    "[models.\"scripted-model\"]\ninput = \"1000\"\ncached_input = \"100\"\noutput = \"2000\"\n";

impl Rig {
    /// The same as [`Rig::new`], with a price for the scripted model.
    fn priced(script: impl FnOnce(&Work) -> Script) -> Self {
        let work = Work::new(scratch());
        let models = ModelServer::start(script(&work));
        let prices = work.put("prices.toml", PRICES);
        let daemon = DaemonBuilder::openai(&models).env("AAOS_PRICES", prices).start();
        Self { daemon, models, work }
    }
}

/// The end of an agent's run, and the quantities of its `budget_exceeded` entries.
fn how_it_stopped<'r>(ran: &'r Ran, agent: &str) -> (String, Vec<&'r Value>) {
    let of_agent = |entry: &&&Value| entry["agent_id"] == agent;
    let ends = of_kind(&ran.entries, "agent_execution_completed");
    let end = ends.iter().find(of_agent).expect("its run has an end");
    let exceeded = of_kind(&ran.entries, "budget_exceeded");
    let quantities = exceeded.iter().filter(of_agent).map(|one| &one["event"]["quantity"]).collect();
    (text(&end["event"]["stop_reason"]), quantities)
}

#[test]
fn a_hundred_tokens_stop_a_model_that_uses_two_hundred_after_its_first_turn() {
    for (budget, code, turns, overdrafts) in [
        ("budget_config: { max_tokens: 100 }\n", 4, 1, 1),
        ("budget_config: { max_tokens: 100000 }\n", 0, 4, 0),
    ] {
        let turns_of_it = (0..3).map(|n| echo(n).metered(TURN)).chain([Turn::say("done").metered(TURN)]);
        let rig = Rig::lead(|_| turns_of_it);
        let ran = rig.run(goal_of(&spender(budget)));
        assert_eq!(ran.exit_code(), code, "{budget}: {}", ran.goal);
        assert_eq!(rig.models.requests().len(), turns, "{budget}: inferences");
        assert_eq!(ran.of_kind("inference_requested").len(), turns, "{budget}");
        assert_eq!(overdrawn(&ran, "tokens"), overdrafts, "{budget}");
        assert_eq!(ran.of_kind("budget_exceeded").len(), overdrafts, "{budget}");
        if overdrafts > 0 {
            let event = &ran.of_kind("overdraft")[0]["event"];
            assert_eq!((&event["quantity"], &event["used"]), (&json!("tokens"), &json!(200)), "{event}");
            let (stop, quantities) = how_it_stopped(&ran, &agent_named(&ran.entries, "lead"));
            assert_eq!((stop.as_str(), quantities), ("budget_exceeded", vec![&json!("tokens")]));
            assert!(ran.error().contains("max_tokens"), "{}", ran.error());
            assert_eq!(ran.of_kind("tool_invoked").len(), 0, "what the dear turn asked for is not done");
        }
    }
}

/// Turns of the greedy child, if it is let.
const GREEDY_TURNS: usize = 20;

/// A lead with a ceiling, and a child that may have asked for more and spends a turn at a time.
fn lead_and_greedy_child(ceiling: &str, greed: &str) -> (Rig, Ran) {
    let mut child = spawning("greedy", &["tool: echo".to_owned()], "Spend.");
    child["manifest"] = json!(format!("{}{greed}", text(&child["manifest"])));
    let rig = Rig::priced(|_| {
        Script::dynamic(move |seen: &SeenRequest| {
            let turn = match (seen.system.contains("greedy"), seen.replies_so_far()) {
                (true, GREEDY_TURNS) | (false, 1..) => Turn::say("done"),
                (true, n) => echo(n),
                (false, 0) => Turn::call("spawn_agent", child.clone()),
            };
            honest(seen, turn)
        })
    });
    let lead = spender(ceiling)
        .replace("\"tool: echo\"", "\"tool: echo\", \"tool: spawn_agent\", \"spawn_child: [greedy]\"");
    let lead = lead.replace("model: smart", "model: smart\nchild_models: [fast]");
    let ran = run(&mut rig.daemon.client(), goal_of(&lead));
    (rig, ran)
}

/// How often more of a quantity was used than reserved.
fn overdrawn(ran: &Ran, quantity: &str) -> usize {
    ran.of_kind("overdraft").iter().filter(|one| one["event"]["quantity"] == quantity).count()
}

/// What the whole tree of a goal was charged of a quantity.
fn charged(ran: &Ran, quantity: &str) -> u64 {
    let spent = ran.of_kind("inference_completed");
    spent.iter().map(|one| one["event"]["spent"][quantity].as_u64().unwrap_or(0)).sum()
}

#[test]
fn a_child_cannot_spend_tokens_that_its_parent_does_not_have() {
    let ceiling = "budget_config: { max_tokens: 8000 }\n";
    let greed = "budget_config: { max_tokens: 800000 }\n";
    let (rig, ran) = lead_and_greedy_child(ceiling, greed);
    ran.assert_ended("failed", 4);
    let child = agent_named(&ran.entries, "greedy");
    assert_eq!(how_it_stopped(&ran, &child).0, "budget_exceeded", "its own run");
    let (stop, _) = how_it_stopped(&ran, &agent_named(&ran.entries, "lead"));
    assert_eq!(stop, "budget_exceeded", "and its parent's at the next step: the empty purse is the parent's");
    assert!(charged(&ran, "tokens") <= 8000, "{}", charged(&ran, "tokens"));
    assert_eq!(overdrawn(&ran, "tokens"), 0);
    let turns = rig.models.requests().len();
    // The control: the same child under a parent that has more goes on to its own end.
    let (rig, ran) = lead_and_greedy_child("budget_config: { max_tokens: 900000 }\n", greed);
    ran.assert_ended("done", 0);
    assert!(ran.of_kind("budget_exceeded").is_empty());
    assert_eq!(rig.models.requests().len(), GREEDY_TURNS + 3, "{turns} turns before");
    assert!(charged(&ran, "tokens") > 8000);
}

#[test]
fn a_child_cannot_spend_dollars_that_its_parent_does_not_have() {
    // A turn costs about two dollars.
    let greed = "budget_config: { max_usd: 600.00 }\n";
    let (_rig, ran) = lead_and_greedy_child("budget_config: { max_usd: 9.00 }\n", greed);
    ran.assert_ended("failed", 4);
    let (stop, exceeded) = how_it_stopped(&ran, &agent_named(&ran.entries, "greedy"));
    assert_eq!((stop.as_str(), exceeded), ("budget_exceeded", vec![&json!("micro_usd")]));
    let cost = charged(&ran, "micro_usd");
    assert!((4_000_000..=9_000_000).contains(&cost), "{cost}");
    assert!(ran.error().contains("max_usd"), "{}", ran.error());
    assert_eq!(overdrawn(&ran, "micro_usd"), 0);
    // The control: a parent with as much as its child asks for.
    let (_rig, ran) = lead_and_greedy_child("budget_config: { max_usd: 600.00 }\n", greed);
    ran.assert_ended("done", 0);
    assert!(charged(&ran, "micro_usd") > 9_000_000);
}

#[test]
fn a_child_out_of_its_own_purse_fails_and_its_parent_goes_on() {
    let (rig, ran) = lead_and_greedy_child("", "budget_config: { max_tokens: 3000 }\n");
    ran.assert_ended("failed", 1);
    let (stop, exceeded) = how_it_stopped(&ran, &agent_named(&ran.entries, "greedy"));
    assert_eq!((stop.as_str(), exceeded), ("budget_exceeded", vec![&json!("tokens")]));
    assert_eq!(how_it_stopped(&ran, &agent_named(&ran.entries, "lead")).0, "complete");
    let seen = rig.models.requests();
    let told = unwrapped(&seen.last().expect("the lead asks again").results[0].content);
    assert_eq!(
        (&told["stop_reason"], &told["retried"]),
        (&json!("budget_exceeded"), &json!(false)),
        "{told}"
    );
    assert!(text(&told["error"]).contains("max_tokens"), "{told}");
}

#[test]
fn money_is_bounded_only_for_models_that_have_a_price() {
    let dear = "budget_config: { max_usd: 5.00 }\n";
    let rig = Rig::lead(|_| [Turn::say("done")]);
    let refused = run(&mut rig.daemon.client(), goal_of(&spender(dear)));
    refused.assert_ended("failed", 2);
    for word in ["max_usd", "smart", "AAOS_PRICES"] {
        assert!(refused.error().contains(word), "{word}: {}", refused.error());
    }
    assert!(rig.models.requests().is_empty(), "nobody was asked");
    // The goal's own budget counts as the manifest's does.
    let mut goal = goal_of(&spender(""));
    goal["budget"] = json!({ "max_usd": "5.00" });
    run(&mut rig.daemon.client(), goal).assert_ended("failed", 2);
    // A child of a purse that bounds money, on a model without a price.
    let child = "name: other\nmodel: strange\nsystem_prompt: You are other.\n";
    let spawn = json!({ "manifest": child, "message": "go" });
    let rig = Rig::priced(|_| {
        Script::new().when_system(LEAD_MARK, [Turn::call("spawn_agent", spawn), Turn::say("no")])
    });
    let lead = spender(dear).replace("\"tool: echo\"", "\"tool: spawn_agent\", \"spawn_child: [other]\"");
    let lead = lead.replace("model: smart", "model: smart\nchild_models: [strange]");
    let ran = run(&mut rig.daemon.client(), goal_of(&lead));
    let told = rig.results_seen_by(LEAD_MARK).remove(0);
    assert_eq!(told["error"]["kind"], "invalid_arguments", "{told}");
    assert!(text(&told["error"]["message"]).contains("strange has no price"), "{told}");
    assert_eq!(ran.of_kind("agent_spawned").len(), 1);
    // The control: with a price the same agent runs, on an alias, and is charged.
    let rig = Rig::priced(|_| Script::new().when_system(LEAD_MARK, [Turn::say("done").metered(TURN)]));
    let ran = rig.run(goal_of(&spender(dear)));
    ran.assert_ended("done", 0);
    assert_eq!((charged(&ran, "micro_usd"), &ran.goal["cost"]), (250_000, &json!("0.25")));
    let asked = rig.models.requests()[0].body["max_tokens"].as_u64();
    let asked = asked.or_else(|| rig.models.requests()[0].body["max_completion_tokens"].as_u64());
    assert!(asked.is_some_and(|most| most < 2_500), "clamped to what five dollars pay for: {asked:?}");
    assert_eq!(rig.models.requests()[0].body["model"], SCRIPTED_MODEL);
    // What it cost is still known after a death.
    let goal = ran.goal["goal_id"].clone();
    let daemon = rig.daemon.kill9().start();
    let known = daemon.client().call("goal.status", json!({ "goal_id": goal })).expect("known");
    assert_eq!(known["cost"], "0.25");
    assert!(refused.goal["cost"].is_null(), "nothing was priced");
}

#[test]
fn spawned_children_of_the_whole_subtree_are_counted() {
    let leaf = |name: &str| spawning(name, &[], "Say something.");
    let rights = ["tool: spawn_agent".to_owned(), "spawn_child: [a, b]".to_owned()];
    for (most, code, spawned) in [(3, 4, 4), (4, 0, 5)] {
        let middle = spawning("middle", &rights, "Spawn two.");
        let (a, b) = (leaf("a"), leaf("b"));
        let last = a.clone();
        let rig = Rig::new(|_| {
            let lead =
                [Turn::call("spawn_agent", middle), Turn::call("spawn_agent", last), Turn::say("done")];
            Script::new()
                .when_system(LEAD_MARK, lead)
                .when_system(
                    "You are the middle.",
                    [Turn::call("spawn_agent", a), Turn::call("spawn_agent", b), Turn::say("done")],
                )
                .when_system("You are the a.", [Turn::say("a"), Turn::say("a")])
                .when_system("You are the b.", [Turn::say("b")])
        });
        let mut goal = rig.work.goal(&[]);
        goal["budget"] = json!({ "max_children": most });
        let ran = rig.run(goal);
        assert_eq!(ran.exit_code(), code, "{most}: {}", ran.goal);
        assert_eq!(ran.of_kind("agent_spawned").len(), spawned, "{most}: the lead and its children");
        let exceeded = ran.of_kind("budget_exceeded");
        let quantities: Vec<&Value> = exceeded.iter().map(|one| &one["event"]["quantity"]).collect();
        let expected = json!("children");
        assert_eq!(quantities, vec![&expected; 5 - spawned], "{most}");
    }
}

#[test]
fn a_call_that_the_purse_does_not_cover_stops_the_run() {
    for (most, code, files) in [(1, 4, 1), (2, 0, 2)] {
        let rig = Rig::lead(|work| {
            let two = vec![
                ("file_write".to_owned(), json!({ "path": work.path("out/a"), "content": "a" })),
                ("file_write".to_owned(), json!({ "path": work.path("out/b"), "content": "b" })),
            ];
            [Turn::Call(two), Turn::say("done")]
        });
        let mut goal = rig.work.goal(&[]);
        goal["budget"] = json!({ "max_files": most });
        let ran = rig.run(goal);
        assert_eq!(ran.exit_code(), code, "{most}: {}", ran.goal);
        let there = ["out/a", "out/b"].iter().filter(|name| rig.work.has(name)).count();
        assert_eq!((there, rig.models.requests().len()), (files, files), "{most}: no turn after it");
        if code == 4 {
            let (stop, quantities) = how_it_stopped(&ran, &agent_named(&ran.entries, "lead"));
            assert_eq!((stop.as_str(), quantities), ("budget_exceeded", vec![&json!("files")]));
            assert!(ran.error().contains("max_files"), "{}", ran.error());
        }
    }
}

#[test]
fn a_small_journal_stops_an_agent_and_no_child_waits_for_its_parents_call() {
    let children = json!({ "children": [spawning("a", &[], "Go."), spawning("b", &[], "Go.")] });
    for (most, code) in [(9_000, 4), (400_000, 0)] {
        let children = children.clone();
        let rig = Rig::new(|_| {
            Script::dynamic(move |seen: &SeenRequest| {
                let turn = match (seen.system.contains(LEAD_MARK), seen.replies_so_far()) {
                    (false, _) => Turn::say("went"),
                    (true, 0) => Turn::call("spawn_agents", children.clone()),
                    (true, n @ 1..4) => echo(n),
                    (true, _) => Turn::say("done"),
                };
                turn.metered(ReportedUsage { input: 20, cached: 0, output: 20 })
            })
        });
        let mut goal = rig.work.goal(&[]);
        goal["budget"] = json!({ "max_journal_bytes": most });
        let ran = rig.run(goal);
        assert_eq!(ran.exit_code(), code, "{most}: {}", ran.goal);
        let exceeded = ran.of_kind("budget_exceeded");
        assert_eq!(exceeded.is_empty(), code == 0, "{most}: {exceeded:?}");
        assert!(exceeded.iter().all(|one| one["event"]["quantity"] == "journal_bytes"), "{exceeded:?}");
    }
}

#[test]
fn the_time_of_a_run_stops_a_model_that_never_answers_and_a_child_with_its_parent() {
    let wait = spawning("slow", &[], "Wait.");
    for in_child in [false, true] {
        let wait = wait.clone();
        let rig = Rig::new(|_| {
            Script::dynamic(move |seen: &SeenRequest| match seen.system.contains(LEAD_MARK) && in_child {
                true => Turn::call("spawn_agent", wait.clone()),
                false => Turn::Hang,
            })
        });
        let mut goal = rig.work.goal(&[]);
        goal["budget"] = json!({ "max_wall_seconds": 2 });
        let ran = rig.run(goal);
        ran.assert_ended("failed", 4);
        let (stop, quantities) = how_it_stopped(&ran, &agent_named(&ran.entries, "lead"));
        assert_eq!(
            (stop.as_str(), quantities),
            ("budget_exceeded", vec![&json!("wall_millis")]),
            "{}",
            ran.goal
        );
        assert!(ran.error().contains("max_wall_seconds"), "{}", ran.error());
        rig.models.wait_for_hangups(1);
        let asked = ran.of_kind("inference_requested").len();
        assert_eq!(ran.of_kind("inference_completed").len(), asked, "what was in flight is settled");
        if in_child {
            let child = agent_named(&ran.entries, "slow");
            assert_eq!(how_it_stopped(&ran, &child).0, "cancelled", "it ended with its parent");
        }
    }
    // The control: a run that ends in time.
    let rig = Rig::lead(|work| [write(&work.path("out/a"), "a"), Turn::say("done")]);
    let mut goal = rig.work.goal(&["out/a"]);
    goal["budget"] = json!({ "max_wall_seconds": 60 });
    rig.run(goal).assert_ended("done", 0);
}
