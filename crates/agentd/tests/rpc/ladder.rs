//! Agents with a mailbox and several models: after a run that came to nothing the next one asks the next model, also
//! after a kill.

use serde_json::{Value, json};
use testkit::{Client, Daemon, Gate, ModelServer, Script, SeenRequest, Turn};

use crate::support::{Rig, assert_intact, deliver, entries, result_of, spawn, text, wait_for_entry};

/// What the cheap model does to be left, with the reason in the journal. Of the last nothing follows.
const FAULTS: [(&str, Option<&str>); 4] =
    [("fail", Some("failed")), ("cut", Some("truncated")), ("repeat", Some("repeat_guard")), ("well", None)];

/// Does what a message begins with, whichever model is asked.
fn answer(seen: &SeenRequest) -> Turn {
    let last = seen.messages.iter().rfind(|one| one.role == "user").map_or("", |one| one.text.as_str());
    match last.split(' ').next() {
        Some("fail") => Turn::status(400),
        Some("cut") => Turn::Truncated { text: "half".to_owned() },
        Some("repeat") if seen.results.len() < 3 => Turn::call("echo", json!({ "message": "again" })),
        _ => Turn::say(format!("from {}", seen.model)),
    }
}

fn keeper(models: &str) -> String {
    format!(
        "name: keeper\n{models}\nsystem_prompt: You keep.\nlifecycle: persistent\ncapabilities: [\"tool: echo\"]\n"
    )
}

/// The model that the agent is shown with.
fn model_of(client: &mut Client, agent: &str) -> String {
    let status = client.call("agent.status", json!({ "agent_id": agent })).expect("known");
    let listed = client.call("agent.list", json!({})).expect("a list")["agents"][0]["model"].take();
    assert_eq!(status["model"], listed);
    text(&status["model"])
}

/// Says something to the agent and waits for the end of its run; which models were asked for it.
fn say(models: &ModelServer, client: &mut Client, agent: &str, message: &str) -> Vec<String> {
    let before = models.requests().len();
    let trace = deliver(client, agent, message);
    result_of(client, &trace);
    let mut asked: Vec<String> = models.requests().into_iter().skip(before).map(|seen| seen.model).collect();
    asked.dedup();
    asked
}

fn climbs(client: &mut Client) -> Vec<Value> {
    entries(client, &["model_climbed"]).into_iter().map(|mut entry| entry["event"].take()).collect()
}

#[test]
fn the_next_message_goes_to_the_next_model_for_each_reason_and_for_no_other() {
    for kills in [false, true] {
        for (fault, reason) in FAULTS {
            let Rig { mut daemon, models } = Rig::new(Script::dynamic(answer));
            let agent = spawn(&mut daemon.client(), &keeper("models: [cheap, better]"));
            let again = |daemon: Daemon| if kills { daemon.kill9().start() } else { daemon };
            let mut client = daemon.client();
            assert_eq!(say(&models, &mut client, &agent, fault), ["cheap"], "{fault}");
            assert_eq!(model_of(&mut client, &agent), "cheap", "no other was asked yet");
            daemon = again(daemon);
            client = daemon.client();
            let next = if reason.is_some() { "better" } else { "cheap" };
            assert_eq!(say(&models, &mut client, &agent, "well"), [next], "{fault}, kills: {kills}");
            assert_eq!(model_of(&mut client, &agent), next);
            daemon = again(daemon);
            client = daemon.client();
            assert_eq!(model_of(&mut client, &agent), next, "{fault}: known from the journal");
            assert_eq!(
                say(&models, &mut client, &agent, "well"),
                [next],
                "{fault}: a success changes nothing"
            );
            let seen = climbs(&mut client);
            let wanted = reason.map(|reason| {
                json!({ "kind": "model_climbed", "from": "cheap", "to": "better", "reason": reason })
            });
            assert_eq!(seen, wanted.into_iter().collect::<Vec<_>>(), "{fault}, kills: {kills}");
            assert_intact(&mut client);
        }
    }
}

#[test]
fn the_last_model_stays_and_one_alone_too() {
    for (models, asked) in [
        ("models: [cheap, better, best]", ["cheap", "better", "best", "best"]),
        ("models: [cheap, better]", ["cheap", "better", "better", "better"]),
        ("models: [cheap]", ["cheap"; 4]),
        ("model: cheap", ["cheap"; 4]),
    ] {
        let rig = Rig::new(Script::dynamic(answer));
        let mut client = rig.client();
        let agent = spawn(&mut client, &keeper(models));
        let seen: Vec<String> =
            (0..4).flat_map(|nth| say(&rig.models, &mut client, &agent, &format!("cut {nth}"))).collect();
        assert_eq!(seen, asked, "{models}");
        let changes = asked.windows(2).filter(|two| two[0] != two[1]).count();
        assert_eq!(climbs(&mut client).len(), changes, "{models}");
        let status = client.call("agent.status", json!({ "agent_id": agent })).expect("known");
        let all = status["models"].as_array().map_or(0, Vec::len);
        assert_eq!(all, if models.contains(',') { models.split(',').count() } else { 0 }, "{status}");
    }
}

/// An agent without a mailbox goes on within the call of its client.
#[test]
fn one_call_goes_up_the_ladder() {
    let by_model = |seen: &SeenRequest| match seen.model.as_str() {
        "cheap" => Turn::Truncated { text: "half".to_owned() },
        model => Turn::say(format!("from {model}")),
    };
    for (supervision, response, stop) in
        [("", "from better", "complete"), ("supervision: { restart: never }\n", "half", "truncated")]
    {
        let rig = Rig::new(Script::dynamic(by_model));
        let manifest = format!("name: one\nmodels: [cheap, better]\nsystem_prompt: You do.\n{supervision}");
        let params = json!({ "manifest": manifest, "message": "do it" });
        let ran = rig.client().call("agent.spawn_and_run", params).expect("runs");
        assert_eq!((&ran["response"], &ran["stop_reason"]), (&json!(response), &json!(stop)), "{ran}");
    }
}

/// The cheap model truncates; any other one waits for the gate.
fn held_above(gate: &Gate) -> Script {
    let gate = gate.clone();
    Script::dynamic(move |seen| match seen.model.as_str() {
        "cheap" => Turn::Truncated { text: "half".to_owned() },
        model => Turn::say(format!("from {model}")).behind(&gate),
    })
}

#[test]
fn who_rests_between_two_models_is_busy() {
    let gate = Gate::new();
    let rig = Rig::new(held_above(&gate));
    let agent = rig.spawn("name: one\nmodels: [cheap, better]\nsystem_prompt: You do.\n");
    let run = json!({ "agent_id": agent, "message": "do it" });
    let mut first = rig.client();
    let asked = first.send("agent.run", run.clone());
    wait_for_entry(&rig.daemon, "agent_restarted", |_| true);
    let refused = rig.client().call("agent.run", run.clone()).expect_err("it is busy");
    assert!(refused.message.contains("running already"), "{refused:?}");
    gate.open();
    assert_eq!(first.reply_to(asked).expect("its end")["response"], "from better");
    let next = rig.client().call("agent.run", run).expect("it is free again");
    assert_eq!(next["response"], "from better");
}

#[test]
fn who_was_killed_between_two_models_is_left_as_in_a_run() {
    let Rig { daemon, models: _models } = Rig::new(held_above(&Gate::new()));
    let idle = spawn(&mut daemon.client(), "name: idle\nmodel: cheap\nsystem_prompt: You wait.\n");
    let manifest = "name: one\nmodels: [cheap, better]\nsystem_prompt: You do.\n";
    let params = json!({ "manifest": manifest, "message": "do it" });
    let mut client = daemon.client();
    client.send("agent.spawn_and_run", params);
    wait_for_entry(&daemon, "agent_restarted", |_| true);
    let daemon = daemon.kill9().start();
    let left = daemon.client().call("agent.list", json!({})).expect("a list");
    let left = left["agents"].as_array().expect("a list").clone();
    assert_eq!(left.len(), 1, "nobody waits for the other one: {left:?}");
    assert_eq!(left[0]["id"].as_str(), Some(idle.as_str()), "{left:?}");
}
