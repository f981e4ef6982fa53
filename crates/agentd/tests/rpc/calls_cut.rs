//! What a revocation does to a call in flight: it ends, its worker or connection with it, nobody is given its result,
//! and a write is whole or not there.

use std::path::Path;

use aaos_core::limits::MAX_AGENT_FETCHES;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use testkit::{Client, Gate, Page, ProcessRef, Script, SeenRequest, Turn, WebServer};

use crate::revocation::{agents, assert_cut, assert_ended, grant_of, holding, revoke};
use crate::support::{Rig, assert_intact, entries, invoke, manifest, spawn, text, wait_for_entry};

fn send(client: &mut Client, agent: &str, tool: &str, input: &Value) -> u64 {
    client.send("tool.invoke", json!({ "agent_id": agent, "tool": tool, "input": input }))
}

fn of_agent<'a>(agent: &'a str) -> impl Fn(&Value) -> bool + 'a {
    move |entry| entry["agent_id"] == agent
}

/// Stops the worker of an agent, so that its next call does not end by itself.
fn stop_worker(rig: &Rig, client: &mut Client, agent: &str) -> ProcessRef {
    invoke(client, agent, "echo", json!({ "message": "here" })).expect("a worker runs");
    let started = wait_for_entry(&rig.daemon, "worker_started", of_agent(agent));
    let pid = i32::try_from(started["event"]["pid"].as_u64().expect("a pid")).expect("small");
    let process = ProcessRef::find(pid).expect("it runs");
    kill_process(Pid::from_raw(pid).expect("a pid"), Signal::STOP).expect("stops it");
    process
}

/// Blocks until a call of this tool has begun.
fn wait_begun(rig: &Rig, agent: &str, tool: &str) -> Value {
    wait_for_entry(&rig.daemon, "tool_invoked", |entry| {
        entry["agent_id"] == agent && entry["event"]["tool"] == tool
    })
}

#[test]
fn a_fetch_in_flight_ends_and_another_goes_on() {
    let gate = Gate::new();
    let slow = Page::Gated(gate.clone(), Box::new(Page::Text("late".into())));
    let (hanging, other) = (WebServer::start([("/hang", Page::Hang)]), WebServer::start([("/slow", slow)]));
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let words = format!("network: {}", hanging.authority());
    let with = |network: &String| ["tool: web_fetch".to_owned(), network.clone()];
    let agent = spawn(&mut client, &holding("fetcher", &with(&words)));
    // Of another agent: a fetch may be redirected under all that its own agent holds, and ends with any of it.
    let second = spawn(&mut client, &holding("other", &with(&format!("network: {}", other.authority()))));
    let id = grant_of(&mut client, &agent, &words);
    let mut caller = rig.client();
    let goes_on = send(&mut caller, &second, "web_fetch", &json!({ "url": other.url("/slow") }));
    let ends = send(&mut caller, &agent, "web_fetch", &json!({ "url": hanging.url("/hang") }));
    assert_eq!((hanging.wait_for_requests(1).len(), other.wait_for_requests(1).len()), (1, 1));
    let answer = revoke(&mut client, &agent, &id).expect("answered, though the page never is");
    assert_eq!(answer["calls"].as_array().map(Vec::len), Some(1), "{answer}");
    assert_cut(caller.reply_to(ends));
    hanging.wait_for_hangups(1);
    assert_ended(invoke(&mut client, &agent, "web_fetch", json!({ "url": hanging.url("/hang") })));
    assert_eq!(hanging.requests().len(), 1, "nobody is asked any more");
    gate.open();
    assert_eq!(caller.reply_to(goes_on).expect("under another grant")["result"]["body"], "late");
}

#[test]
fn the_worker_of_a_call_in_flight_is_ended_and_the_next_call_has_another() {
    let home = testkit::scratch();
    std::fs::write(home.path().join("f"), "text").expect("writes");
    let words = format!("file_read: {}/*", home.path().display());
    let grants = ["tool: file_read".to_owned(), "tool: echo".to_owned(), words.clone()];
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let agent = spawn(&mut client, &holding("reader", &grants));
    let id = grant_of(&mut client, &agent, &words);
    let worker = stop_worker(&rig, &mut client, &agent);
    let (mut caller, mut waiting) = (rig.client(), rig.client());
    let path = json!({ "path": home.path().join("f") });
    let ends = send(&mut caller, &agent, "file_read", &path);
    let begun = wait_begun(&rig, &agent, "file_read");
    // It waits for the worker behind the call that is cut, and uses no revoked grant.
    let queued = send(&mut waiting, &agent, "echo", &json!({ "message": "next" }));
    wait_for_entry(&rig.daemon, "tool_invoked", |entry| entry["event"]["input"]["message"] == "next");
    let answer = revoke(&mut client, &agent, &id).expect("revoked");
    assert_eq!(answer["calls"], json!([begun["event"]["call"]]));
    worker.wait_gone();
    assert_cut(caller.reply_to(ends));
    let stopped = entries(&mut client, &["worker_stopped"]);
    assert!(stopped.iter().any(of_agent(&agent)), "its end was journalled before the answer: {stopped:?}");
    let echoed = waiting.reply_to(queued).expect("it meets no dead worker");
    assert_eq!(echoed["result"]["message"], "next");
    assert_ended(invoke(&mut client, &agent, "file_read", path));
    assert_intact(&mut client);
}

#[test]
fn a_call_that_waits_for_the_worker_is_cut_there() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let grants = ["tool: echo".to_owned(), "tool: file_list".to_owned(), "file_read: /tmp/*".to_owned()];
    let agent = spawn(&mut client, &holding("busy", &grants));
    let id = grant_of(&mut client, &agent, "tool: file_list");
    let worker = stop_worker(&rig, &mut client, &agent);
    let (mut first, mut second) = (rig.client(), rig.client());
    let runs = send(&mut first, &agent, "echo", &json!({ "message": "in the worker" }));
    wait_for_entry(&rig.daemon, "tool_invoked", |entry| {
        entry["event"]["input"]["message"] == "in the worker"
    });
    let waits = send(&mut second, &agent, "file_list", &json!({ "path": "/tmp" }));
    wait_begun(&rig, &agent, "file_list");
    revoke(&mut client, &agent, &id).expect("answered, though the worker is busy");
    assert_cut(second.reply_to(waits));
    kill_process(Pid::from_raw(worker.pid).expect("a pid"), Signal::CONT).expect("lets it go on");
    assert_eq!(first.reply_to(runs).expect("not disturbed")["result"]["message"], "in the worker");
    assert!(worker.is_alive(), "the worker that ran another call was left alone");
}

#[test]
fn two_grants_of_one_call_are_each_answered_when_it_is_over() {
    let home = testkit::scratch();
    let file = home.path().join("f");
    std::fs::write(&file, "text").expect("writes");
    let words = format!("file_read: {}/*", home.path().display());
    let grants = ["tool: file_read".to_owned(), "tool: echo".to_owned(), words.clone()];
    let rig = Rig::saying("done");
    let mut client = rig.client();
    for _ in 0..5 {
        let agent = spawn(&mut client, &holding("reader", &grants));
        let ids = [words.as_str(), "tool: file_read"].map(|words| grant_of(&mut client, &agent, words));
        // One of them twice: whoever asks again waits as well.
        let ids = [&ids[0], &ids[1], &ids[0]];
        let worker = stop_worker(&rig, &mut client, &agent);
        let mut caller = rig.client();
        let ends = send(&mut caller, &agent, "file_read", &json!({ "path": file }));
        wait_begun(&rig, &agent, "file_read");
        let mut clients = [rig.client(), rig.client(), rig.client()];
        let sent: Vec<u64> = clients
            .iter_mut()
            .zip(ids)
            .map(|(client, id)| {
                client.send("capability.revoke", json!({ "agent_id": agent, "grant_id": id }))
            })
            .collect();
        for (client, sent) in clients.iter_mut().zip(sent) {
            client.reply_to(sent).expect("revoked");
            assert!(!worker.is_alive(), "by the answer to either, nothing runs under it");
        }
        assert_cut(caller.reply_to(ends));
    }
}

const OLD: usize = 300_000;

/// What became of a write during which its grant was revoked.
fn race_a_write(rig: &Rig, file: &Path, pauses: usize) -> (bool, bool) {
    let mut client = rig.client();
    let words = format!("file_write: {}", file.display());
    let agent = spawn(&mut client, &holding("writer", &["tool: file_write".to_owned(), words.clone()]));
    let id = grant_of(&mut client, &agent, &words);
    std::fs::write(file, "o".repeat(OLD)).expect("writes");
    let mut caller = rig.client();
    let new = "n".repeat(900_000);
    let sent = send(&mut caller, &agent, "file_write", &json!({ "path": file, "content": new }));
    for _ in 0..pauses {
        client.call("agent.list", json!({})).expect("a list");
    }
    let answer = revoke(&mut client, &agent, &id).expect("revoked");
    let then = std::fs::read_to_string(file).expect("the file is there");
    let result = caller.reply_to(sent);
    assert_eq!(std::fs::read_to_string(file).expect("there"), then, "nothing is written after the answer");
    assert!(then == new || then == "o".repeat(OLD), "whole, the old or the new: {} bytes", then.len());
    let was_cut = answer["calls"].as_array().is_some_and(|calls| !calls.is_empty());
    let recorded = entries(&mut client, &["tool_result"]);
    let recorded = recorded.iter().rfind(|one| one["agent_id"] == json!(agent));
    let is_new = then == new;
    let done = recorded.is_some_and(|one| one["event"]["outcome"] == "done");
    assert_eq!(done, is_new, "the journal says what happened: {recorded:?}");
    match (was_cut, result) {
        (true, result) => assert_cut(result),
        (false, Ok(_)) => assert!(is_new, "it was over before"),
        (false, result) => assert_ended(result),
    }
    (was_cut, is_new)
}

#[test]
fn a_write_in_flight_is_whole_or_not_there_and_nothing_is_written_after_the_answer() {
    let home = testkit::scratch();
    let rig = Rig::saying("done");
    let ends: Vec<(bool, bool)> =
        (0..16).map(|at| race_a_write(&rig, &home.path().join("f"), at * at * 4)).collect();
    assert!(ends.iter().any(|(was_cut, _)| *was_cut), "control: some were in flight");
    assert!(ends.iter().any(|(_, is_new)| *is_new), "control: some were over");
    assert_intact(&mut rig.client());
}

#[test]
fn a_write_whose_worker_is_ended_writes_nothing() {
    let home = testkit::scratch();
    let file = home.path().join("new");
    let words = format!("file_write: {}/*", home.path().display());
    let grants = ["tool: file_write".to_owned(), "tool: echo".to_owned(), words.clone()];
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let agent = spawn(&mut client, &holding("writer", &grants));
    let id = grant_of(&mut client, &agent, &words);
    stop_worker(&rig, &mut client, &agent);
    let mut caller = rig.client();
    let sent = send(&mut caller, &agent, "file_write", &json!({ "path": file, "content": "x" }));
    wait_begun(&rig, &agent, "file_write");
    revoke(&mut client, &agent, &id).expect("revoked");
    assert_cut(caller.reply_to(sent));
    let left: Vec<_> = std::fs::read_dir(home.path()).expect("lists").collect();
    assert!(left.is_empty(), "no file, and no part of one: {left:?}");
}

/// A parent with a child at work: spawned by a call under `tool: spawn_agent`, it fetches a page that never comes.
#[test]
fn children_of_a_spawning_call_end_with_it() {
    let web = WebServer::start([("/hang", Page::Hang)]);
    let network = format!("network: {}", web.authority());
    let url = web.url("/hang");
    let rig =
        Rig::new(Script::dynamic(move |seen: &SeenRequest| match seen.system.contains("You are idle.") {
            true => Turn::Hang,
            false => Turn::call("web_fetch", json!({ "url": url })),
        }));
    let mut client = rig.client();
    let of_child = ["tool: web_fetch".to_owned(), network.clone()];
    let own =
        ["tool: spawn_agent", "tool: spawn_agents", "spawn_child: [*]", "tool: echo"].map(str::to_owned);
    let parent = spawn(&mut client, &holding("parent", &[own.to_vec(), of_child.to_vec()].concat()));
    let id = grant_of(&mut client, &parent, "tool: spawn_agents");
    let (mut caller, mut beside) = (rig.client(), rig.client());
    let children = json!([
        { "manifest": holding("fetching", &of_child), "message": "Fetch." },
        { "manifest": holding("idle", &[]), "message": "Think." },
    ]);
    let ends = send(&mut caller, &parent, "spawn_agents", &json!({ "children": children }));
    let other = json!({ "manifest": manifest("idle", ""), "message": "Think." });
    let goes_on = send(&mut beside, &parent, "spawn_agent", &other);
    assert_eq!((web.wait_for_requests(1).len(), rig.models.wait_for_requests(3).len()), (1, 3));
    assert_eq!(agents(&mut client).len(), 4);
    let answer = revoke(&mut client, &parent, &id).expect("answered, though none of them ever ends");
    assert_eq!(answer["calls"].as_array().map(Vec::len), Some(1), "{answer}");
    let left: Vec<String> = agents(&mut client).iter().map(|agent| text(&agent["name"])).collect();
    assert_eq!(left, ["parent", "idle"], "by the answer they are gone, but not the child of the other call");
    assert_eq!(entries(&mut client, &["agent_stopped"]).len(), 2);
    assert_cut(caller.reply_to(ends));
    web.wait_for_hangups(1);
    rig.models.wait_for_hangups(1);
    let idle = agents(&mut client)[1]["id"].clone();
    client.call("agent.stop", json!({ "agent_id": idle })).expect("stops");
    assert!(beside.reply_to(goes_on).is_ok_and(|reply| reply["result"]["stop_reason"] == "cancelled"));
    invoke(&mut client, &parent, "echo", json!({ "message": "x" })).expect("the parent goes on");
}

#[test]
fn a_spawning_call_that_waits_for_a_purse_is_cut_there() {
    let web = WebServer::start([("/hang", Page::Hang)]);
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let network = format!("network: {}", web.authority());
    let grants = ["tool: spawn_agent", "spawn_child: [*]", "tool: web_fetch", &network].map(str::to_owned);
    let input = json!({ "manifest": manifest("kid", ""), "message": "Go." });
    let with =
        |most: u32| format!("{}budget_config: {{ max_journal_bytes: {most} }}\n", holding("poor", &grants));
    // Enough for the call and for the admission of the child, but not beside what another call reserves.
    let agent = spawn(&mut client, &with(6_000));
    let id = grant_of(&mut client, &agent, "tool: spawn_agent");
    let (mut caller, mut beside) = (rig.client(), rig.client());
    let holds = send(&mut beside, &agent, "web_fetch", &json!({ "url": web.url("/hang") }));
    assert_eq!(web.wait_for_requests(1).len(), 1);
    let waits = send(&mut caller, &agent, "spawn_agent", &input);
    wait_begun(&rig, &agent, "spawn_agent");
    let answer = revoke(&mut client, &agent, &id).expect("answered, though nothing is settled");
    assert_eq!(answer["calls"].as_array().map(Vec::len), Some(1), "{answer}");
    assert_cut(caller.reply_to(waits));
    assert_eq!(entries(&mut client, &["spawn_requested", "budget_exceeded"]).len(), 0, "it did wait");
    let fetching = grant_of(&mut client, &agent, "tool: web_fetch");
    revoke(&mut client, &agent, &fetching).expect("revoked");
    assert_cut(beside.reply_to(holds));
    let rich = spawn(&mut client, &with(50_000));
    invoke(&mut client, &rich, "spawn_agent", input).expect("control: with room for both");
}

#[test]
fn an_agent_that_stops_while_its_grant_is_revoked_holds_nobody_up() {
    let web = WebServer::start([("/hang", Page::Hang)]);
    let words = format!("network: {}", web.authority());
    let rig = Rig::saying("done");
    let mut client = rig.client();
    for round in 1..=6 {
        let agent = spawn(&mut client, &holding("brief", &["tool: web_fetch".to_owned(), words.clone()]));
        let id = grant_of(&mut client, &agent, &words);
        let mut clients = [rig.client(), rig.client(), rig.client()];
        let call = send(&mut clients[0], &agent, "web_fetch", &json!({ "url": web.url("/hang") }));
        assert_eq!(web.wait_for_requests(round).len(), round);
        let stopping = clients[1].send("agent.stop", json!({ "agent_id": agent }));
        let revoking = clients[2].send("capability.revoke", json!({ "agent_id": agent, "grant_id": id }));
        clients[1].reply_to(stopping).expect("stops");
        let revoked = clients[2].reply_to(revoking);
        assert!(
            revoked.as_ref().map_or_else(|failure| failure.code == 1001, |one| one["ok"] == true),
            "{revoked:?}"
        );
        let failure = clients[0].reply_to(call).expect_err("it ended");
        assert!(failure.data["reason"] == "revoked" || failure.data["reason"] == "cancelled", "{failure:?}");
    }
    assert_intact(&mut client);
}

/// Not of a revocation, but of the same kind: what hangs does not keep others out.
#[test]
fn an_agent_that_lets_its_fetches_hang_has_its_share_of_places_and_leaves_the_others() {
    let web = WebServer::start([("/hang", Page::Hang), ("/page", Page::Text("text".into()))]);
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let grants = ["tool: web_fetch".to_owned(), format!("network: {}", web.authority())];
    let [greedy, other] = ["greedy", "other"].map(|name| spawn(&mut client, &holding(name, &grants)));
    let mut caller = rig.client();
    for number in 0..MAX_AGENT_FETCHES {
        // Each another call: one that is made again and again is refused for that.
        send(&mut caller, &greedy, "web_fetch", &json!({ "url": web.url(&format!("/hang?{number}")) }));
    }
    assert_eq!(web.wait_for_requests(MAX_AGENT_FETCHES).len(), MAX_AGENT_FETCHES);
    let page = json!({ "url": web.url("/page") });
    let refused = invoke(&mut client, &greedy, "web_fetch", page.clone()).expect_err("it has its share");
    let why = format!("{MAX_AGENT_FETCHES} fetches of this agent are under way; try again when one is done");
    assert!(refused.message.contains(&why), "{refused:?}");
    let fetched = invoke(&mut client, &other, "web_fetch", page.clone()).expect("the control: another agent");
    assert_eq!(fetched["status"], 200, "{fetched}");
    client.call("agent.stop", json!({ "agent_id": greedy })).expect("stopped");
    web.wait_for_hangups(MAX_AGENT_FETCHES);
}
