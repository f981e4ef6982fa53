//! Goals and children with several models: what came to nothing with one is done with the next.

use crate::support::{LEAD_MARK, Ran, Rig, Work, entries, next_of_kind, of_kind, run, text};
use serde_json::{Value, json};
use testkit::{DaemonBuilder, Gate, ModelServer, Script, SeenRequest, Turn, scratch};

/// What the cheap model does to be left.
fn fault(kind: &str, seen: &SeenRequest) -> Turn {
    match kind {
        "failed" => Turn::status(400),
        "repeat_guard" if seen.results.len() < 3 => Turn::call("echo", json!({ "message": "again" })),
        "truncated" | "repeat_guard" => Turn::Truncated { text: "half".to_owned() },
        _ => Turn::say("done"),
    }
}

/// The cheap model has this fault, every other answers.
fn faulty(kind: &'static str) -> Script {
    Script::dynamic(move |seen| if seen.model == "cheap" { fault(kind, seen) } else { Turn::say("done") })
}

fn lead(models: &str, more: &str) -> String {
    format!("name: lead\n{models}\nsystem_prompt: {LEAD_MARK}\ncapabilities: [\"tool: echo\"]\n{more}")
}

fn goal(manifest: &str) -> Value {
    json!({ "goal": "do it", "manifest": manifest })
}

/// The models that were asked, in their order, each once where it is asked again.
fn asked(models: &ModelServer) -> Vec<String> {
    let mut asked: Vec<String> = models.requests().into_iter().map(|seen| seen.model).collect();
    asked.dedup();
    asked
}

/// From which model to which, and why.
fn climbs(ran: &Ran) -> Vec<[String; 3]> {
    let of = |entry: &Value| ["from", "to", "reason"].map(|field| text(&entry["event"][field]));
    ran.of_kind("model_climbed").into_iter().map(of).collect()
}

#[test]
fn a_goal_goes_on_with_the_next_model_for_each_reason() {
    for kind in ["failed", "truncated", "repeat_guard"] {
        let rig = Rig::new(|_| faulty(kind));
        let ran = run(&mut rig.daemon.client(), goal(&lead("models: [cheap, better]", "")));
        ran.assert_ended("done", 0);
        assert_eq!(climbs(&ran), [["cheap", "better", kind]]);
        assert_eq!(asked(&rig.models), ["cheap", "better"], "{kind}");
        let seen = rig.models.requests();
        let last = seen.last().expect("it asked");
        assert!(last.first_user_text().contains("do it"), "it knows what was asked: {kind}");
        let told = &last.messages.last().expect("a message").text;
        assert!(told.starts_with("The work so far failed: "), "{told}");
        assert_eq!(ran.of_kind("agent_restarted").len(), 1, "{kind}");
    }
}

/// The controls: the same without a reason, without a ladder, and where the supervision forbids it.
#[test]
fn a_goal_has_one_run_otherwise() {
    let never = "supervision: { restart: never }\n";
    for (kind, models, more, state) in [
        ("none", "models: [cheap, better]", "", "done"),
        ("truncated", "model: cheap", "", "failed"),
        ("truncated", "models: [cheap]", "", "failed"),
        ("truncated", "models: [cheap, better]", never, "failed"),
        ("failed", "models: [cheap, better]", never, "failed"),
    ] {
        let rig = Rig::new(|_| faulty(kind));
        let ran = run(&mut rig.daemon.client(), goal(&lead(models, more)));
        assert_eq!(ran.state(), state, "{kind}, {models}, {more}: {}", ran.goal);
        assert_eq!(rig.models.requests().len(), 1, "{kind}, {models}, {more}");
        assert!(ran.of_kind("agent_restarted").is_empty() && climbs(&ran).is_empty());
    }
}

#[test]
fn a_goal_ends_with_the_last_model_and_within_its_supervision() {
    let cut = || Script::dynamic(|_| Turn::Truncated { text: "half".to_owned() });
    for (more, seen) in [
        ("", &["a", "b", "c"][..]),
        ("supervision: { max_restarts: 1, within_seconds: 3600 }\n", &["a", "b"]),
    ] {
        let rig = Rig::new(|_| cut());
        let ran = run(&mut rig.daemon.client(), goal(&lead("models: [a, b, c]", more)));
        ran.assert_ended("failed", 1);
        assert!(ran.error().contains("token limit"), "{}", ran.error());
        assert_eq!(asked(&rig.models), seen, "{more}");
        assert_eq!(climbs(&ran).len(), seen.len() - 1);
    }
}

#[test]
fn a_failed_child_is_tried_again_with_its_next_model() {
    for (models, second) in [("models: [cheap, better]", "better"), ("model: cheap", "cheap")] {
        let child = format!("name: helper\n{models}\nsystem_prompt: You help.\n");
        let spawn = json!({ "manifest": child, "message": "help" });
        let rig = Rig::new(|_| {
            Script::dynamic(move |seen| match (seen.system.contains("You help."), seen.model.as_str()) {
                (true, "better") => Turn::say("helped"),
                (true, _) => Turn::Truncated { text: "half".to_owned() },
                (false, _) if seen.results.is_empty() => Turn::call("spawn_agent", spawn.clone()),
                (false, _) => Turn::say("done"),
            })
        });
        let may = "child_models: [cheap, better]\n";
        let manifest = lead("model: smart", may)
            .replace("\"tool: echo\"", "\"tool: spawn_agent\", \"spawn_child: [helper]\"");
        let ran = run(&mut rig.daemon.client(), goal(&manifest));
        let of_child = |seen: &SeenRequest| seen.system.contains("You help.");
        let asked: Vec<String> =
            rig.models.requests().into_iter().filter(of_child).map(|seen| seen.model).collect();
        assert_eq!(asked, ["cheap", second], "one retry");
        assert_eq!(ran.of_kind("child_retried").len(), 1);
        let wanted = (second == "better").then_some(["cheap", "better", "truncated"]);
        assert_eq!(climbs(&ran), Vec::from_iter(wanted));
        assert_eq!(ran.state(), if second == "better" { "done" } else { "failed" });
    }
}

/// A kill while the next model is asked, and one before it is: that model is asked, and not the first one again.
#[test]
fn a_goal_goes_on_with_the_right_model_after_a_kill() {
    for kind in ["agent_restarted", "model_climbed"] {
        let (work, gate) = (Work::new(scratch()), Gate::new());
        let held = gate.clone();
        let mut is_first = true;
        let models = ModelServer::start(Script::dynamic(move |seen| match seen.model.as_str() {
            "cheap" => Turn::Truncated { text: "half".to_owned() },
            _ if std::mem::take(&mut is_first) => Turn::say("late").behind(&held),
            _ => Turn::say("done"),
        }));
        let rig = Rig { daemon: DaemonBuilder::openai(&models).start(), models, work };
        let mut client = rig.daemon.client();
        client.send("audit.stream", json!({ "kinds": [kind] }));
        let params = goal(&lead("models: [cheap, better]", ""));
        let id = rig.daemon.client().call("goal.submit", params).expect("accepted")["goal_id"].take();
        next_of_kind(&mut client, kind);
        let daemon = rig.daemon.kill9().start();
        gate.open();
        let mut client = daemon.client();
        client.send("audit.stream", json!({ "kinds": ["goal_finished"] }));
        let finished = next_of_kind(&mut client, "goal_finished");
        assert_eq!((&finished["goal_id"], &finished["event"]["state"]), (&id, &json!("done")), "{kind}");
        let journal = entries(&mut daemon.client(), json!({}));
        let climbed = of_kind(&journal, "model_climbed");
        assert_eq!(climbed.len(), 1, "{kind}");
        assert_eq!(text(&climbed[0]["event"]["reason"]), "truncated");
        assert_eq!(of_kind(&journal, "agent_restarted").len(), 1, "{kind}");
        let seen = rig.models.requests();
        assert_eq!(seen.iter().filter(|seen| seen.model == "cheap").count(), 1, "{kind}");
    }
}

#[test]
fn each_model_needs_a_price_where_money_is_bounded() {
    let price =
        |model: &str| format!("[models.\"{model}\"]\ninput = \"1\"\ncached_input = \"1\"\noutput = \"1\"\n");
    for (priced, state) in [(price("cheap"), "failed"), (price("cheap") + &price("better"), "done")] {
        let work = Work::new(scratch());
        let models = ModelServer::start(faulty("none"));
        let prices = work.put("prices.toml", &priced);
        let daemon = DaemonBuilder::openai(&models).env("AAOS_PRICES", prices).start();
        let dear = "budget_config: { max_usd: 5.00 }\n";
        let ran = run(&mut daemon.client(), goal(&lead("models: [cheap, better]", dear)));
        assert_eq!(ran.state(), state, "{}", ran.goal);
        assert_eq!(models.requests().len(), usize::from(state == "done"), "nobody is asked before");
        assert_eq!(ran.error().contains("better has no price"), state == "failed", "{}", ran.error());
    }
}
