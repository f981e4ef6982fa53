//! Revocation through the real daemon: the whole derived subtree ends, nothing begins under it after the answer, and
//! what ran under it has ended by then without its result being delivered.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{Client, Daemon, Gate, RpcFailure, Script, SeenRequest, Turn};

use crate::support::{NOBODY, Rig, assert_intact, entries, invoke, manifest, spawn, text, wait_for_entry};

/// A manifest with these grants, one a line.
pub(crate) fn holding(name: &str, grants: &[String]) -> String {
    let entry =
        |grant: &String| if grant.starts_with('{') { grant.clone() } else { json!(grant).to_string() };
    let lines: String = grants.iter().map(|grant| format!("  - {}\n", entry(grant))).collect();
    manifest(name, &format!("capabilities:\n{lines}"))
}

fn listed(client: &mut Client, agent: &str) -> Vec<Value> {
    let reply = client.call("capability.list", json!({ "agent_id": agent })).expect("a list");
    reply["grants"].as_array().expect("a list").clone()
}

/// The id of an agent's grant, by its words.
pub(crate) fn grant_of(client: &mut Client, agent: &str, words: &str) -> String {
    let grants = listed(client, agent);
    let found = grants.iter().find(|grant| grant["grant"] == words);
    text(&found.unwrap_or_else(|| panic!("{words} is not among {grants:?}"))["id"])
}

pub(crate) fn revoke(client: &mut Client, agent: &str, grant: &str) -> Result<Value, RpcFailure> {
    client.call("capability.revoke", json!({ "agent_id": agent, "grant_id": grant }))
}

/// Refused because the grant was revoked, not for want of one.
#[track_caller]
pub(crate) fn assert_ended(result: Result<Value, RpcFailure>) {
    let failure = result.expect_err("its grant was revoked");
    assert_eq!((failure.code, &failure.data["reason"]), (1002, &json!("denied")), "{failure:?}");
    assert!(failure.message.contains("revoked"), "{failure:?}");
}

/// The failure of a call that was cut.
#[track_caller]
pub(crate) fn assert_cut(result: Result<Value, RpcFailure>) {
    let failure = result.expect_err("it ran under a grant that was revoked");
    assert_eq!((failure.code, &failure.data["reason"]), (1002, &json!("revoked")), "{failure:?}");
}

pub(crate) fn agents(client: &mut Client) -> Vec<Value> {
    let reply = client.call("agent.list", json!({})).expect("a list");
    reply["agents"].as_array().expect("a list").clone()
}

pub(crate) fn named(client: &mut Client, name: &str) -> String {
    let all = agents(client);
    text(&all.iter().find(|agent| agent["name"] == name).unwrap_or_else(|| panic!("{name}: {all:?}"))["id"])
}

/// Descriptors of the daemon that are open on this directory.
fn open_on(daemon: &Daemon, directory: &Path) -> usize {
    let listing = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("its descriptors");
    listing
        .filter(|entry| {
            let link = entry.as_ref().ok().and_then(|entry| std::fs::read_link(entry.path()).ok());
            link.is_some_and(|link| link == directory)
        })
        .count()
}

/// A directory with one file in it.
fn directory(home: &TempDir, name: &str) -> std::path::PathBuf {
    let path = home.path().join(name);
    std::fs::create_dir(&path).expect("makes it");
    std::fs::write(path.join("f"), name).expect("writes");
    path
}

/// Three generations hold `grants`: `top` spawned over RPC, `middle` by its model, `low` by the model of that. The
/// lowest waits at the gate.
fn three_generations(rig: &Rig, client: &mut Client, grants: &[String]) -> [String; 3] {
    let spawning = ["tool: spawn_agent".to_owned(), "spawn_child: [*]".to_owned()];
    let with = [grants, &spawning].concat();
    let top = spawn(client, &holding("top", &with));
    let input = json!({ "manifest": holding("middle", &with), "message": "Go." });
    client.send("tool.invoke", json!({ "agent_id": top, "tool": "spawn_agent", "input": input }));
    let seen = rig.models.wait_for_requests(2);
    assert!(seen[1].system.contains("You are low."), "{}", seen[1].system);
    let mut other = rig.client();
    [top, named(&mut other, "middle"), named(&mut other, "low")]
}

/// `middle` spawns `low`, which waits at the gate.
fn generations(gate: &Gate, grants: &[String]) -> Script {
    let input = json!({ "manifest": holding("low", grants), "message": "Wait." });
    let gate = gate.clone();
    Script::dynamic(move |seen: &SeenRequest| {
        match (seen.system.contains("You are middle."), seen.replies_so_far()) {
            (true, 0) => Turn::call("spawn_agent", input.clone()),
            (true, _) => Turn::say("middle is done"),
            (false, _) => Turn::say("low is done").behind(&gate),
        }
    })
}

#[test]
fn a_revoked_grant_takes_all_that_derives_from_it_and_nothing_else() {
    let home = testkit::scratch();
    let (data, kept) = (directory(&home, "data"), directory(&home, "kept"));
    let words = [format!("file_read: {}/*", data.display()), format!("file_read: {}/*", kept.display())];
    let grants = [words.to_vec(), vec!["tool: file_read".to_owned()]].concat();
    let gate = Gate::new();
    let rig = Rig::new(generations(&gate, &grants));
    let mut waiting = rig.client();
    let family = three_generations(&rig, &mut waiting, &grants);
    let mut client = rig.client();
    let read = |client: &mut Client, agent: &str, below: &Path| {
        invoke(client, agent, "file_read", json!({ "path": below.join("f") }))
    };
    let ids: Vec<String> = family.iter().map(|agent| grant_of(&mut client, agent, &words[0])).collect();
    for agent in &family {
        assert_eq!(read(&mut client, agent, &data).expect("granted")["content"], "data", "control");
    }
    assert!(open_on(&rig.daemon, &data) > 0 && open_on(&rig.daemon, &kept) > 0, "control: roots are open");
    let derived = &listed(&mut client, &family[2])[0]["derives_from"];
    assert_eq!(derived, &json!([ids[1], ids[0]]), "nearest first");

    let answer = revoke(&mut client, &family[0], &ids[0]).expect("revoked");
    assert_eq!(answer["ok"], true);
    let ended: BTreeSet<&str> =
        answer["grants"].as_array().expect("ids").iter().filter_map(Value::as_str).collect();
    assert_eq!(ended, ids.iter().map(String::as_str).collect(), "parent's, child's and grandchild's");
    assert_eq!(
        (&answer["grants"][0], &answer["calls"]),
        (&json!(ids[0]), &json!([])),
        "nothing ran under it"
    );
    assert_eq!(open_on(&rig.daemon, &data), 0, "its roots are closed");
    assert!(open_on(&rig.daemon, &kept) > 0);
    for agent in &family {
        assert_ended(read(&mut client, agent, &data));
        assert_eq!(read(&mut client, agent, &kept).expect("another grant")["content"], "kept");
        assert!(listed(&mut client, agent).iter().all(|one| one["grant"] != words[0]), "it is not listed");
    }
    let journalled = entries(&mut client, &["capability_revoked"]);
    assert_eq!(journalled.len(), 1);
    assert_eq!(journalled[0]["event"]["ended"], answer["grants"], "{journalled:?}");
    assert_eq!(journalled[0]["agent_id"], json!(family[0]));
    gate.open();
    assert_intact(&mut client);
}

#[test]
fn a_grandchilds_grant_can_be_revoked_alone() {
    let home = testkit::scratch();
    let data = directory(&home, "data");
    let words = format!("file_read: {}/*", data.display());
    let grants = [words.clone(), "tool: file_read".to_owned()];
    let gate = Gate::new();
    let rig = Rig::new(generations(&gate, &grants));
    let mut waiting = rig.client();
    let family = three_generations(&rig, &mut waiting, &grants);
    let mut client = rig.client();
    let id = grant_of(&mut client, &family[1], &words);
    let answer = revoke(&mut client, &family[1], &id).expect("revoked");
    assert_eq!(
        answer["grants"].as_array().map(Vec::len),
        Some(2),
        "the child's and the grandchild's: {answer}"
    );
    let path = json!({ "path": data.join("f") });
    assert_eq!(
        invoke(&mut client, &family[0], "file_read", path.clone()).expect("stands")["content"],
        "data"
    );
    assert!(open_on(&rig.daemon, &data) > 0, "the parent's root is open");
    for agent in &family[1..] {
        assert_ended(invoke(&mut client, agent, "file_read", path.clone()));
    }
    gate.open();
}

#[test]
fn a_grant_is_revoked_once_and_only_by_those_whose_it_is() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let words = ["tool: echo".to_owned()];
    let (one, other) =
        (spawn(&mut client, &holding("one", &words)), spawn(&mut client, &holding("other", &words)));
    let id = grant_of(&mut client, &one, "tool: echo");
    let unknown = |client: &mut Client, agent: &str, grant: &str| {
        let failure = revoke(client, agent, grant).expect_err("refused");
        assert_eq!((failure.code, &failure.data["reason"]), (1001, &json!("not_found")), "{failure:?}");
        failure.message
    };
    let said = unknown(&mut client, &one, NOBODY);
    let misplaced = unknown(&mut client, &other, &id);
    assert_eq!(misplaced.replace(&id, NOBODY), said, "another agent's answers as one that there is not");
    unknown(&mut client, NOBODY, &id);
    assert_eq!(invoke(&mut client, &one, "echo", json!({ "message": "x" })).expect("stands")["message"], "x");
    revoke(&mut client, &one, &id).expect("revoked");
    let again = revoke(&mut client, &one, &id).expect("it is revoked");
    assert_eq!(again, json!({ "ok": true, "grants": [], "calls": [] }), "nothing more ended");
    unknown(&mut client, &other, &id);
    assert_ended(invoke(&mut client, &one, "echo", json!({ "message": "x" })));
    invoke(&mut client, &other, "echo", json!({ "message": "x" })).expect("another agent's grant stands");
    assert_eq!(entries(&mut client, &["capability_revoked"]).len(), 1, "one end, one entry");
}

#[test]
fn of_many_who_revoke_one_grant_one_does() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    for _ in 0..5 {
        let agent = spawn(&mut client, &holding("one", &["tool: echo".to_owned()]));
        let id = grant_of(&mut client, &agent, "tool: echo");
        let mut clients: Vec<Client> = (0..8).map(|_| rig.client()).collect();
        let params = json!({ "agent_id": agent, "grant_id": id });
        let sent: Vec<u64> =
            clients.iter_mut().map(|client| client.send("capability.revoke", params.clone())).collect();
        let replies = clients.iter_mut().zip(sent).map(|(client, sent)| client.reply_to(sent));
        let replies: Vec<Value> = replies.map(|reply| reply.expect("it is revoked")).collect();
        let ended = replies.iter().filter(|reply| reply["grants"] == json!([id]));
        assert_eq!(ended.count(), 1, "{replies:?}");
        let told = replies.iter().filter(|reply| **reply == json!({ "ok": true, "grants": [], "calls": [] }));
        assert_eq!(told.count(), 7, "the others learn that it is over: {replies:?}");
    }
    assert_eq!(entries(&mut client, &["capability_revoked"]).len(), 5);
}

/// One call of the crowd.
struct Made {
    message: String,
    /// Whether the revocation had been answered before it was sent.
    after: bool,
    result: Result<Value, RpcFailure>,
}

const CROWD: usize = 8;

/// A crowd calls without pause while the grant is revoked. Gives their calls and the answer.
fn storm(rig: &Rig, client: &mut Client, agent: &str, grant: &str, warm: usize) -> (Vec<Made>, Value) {
    let (answered, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let caller = |number: usize| {
            let (answered, done) = (&answered, &done);
            let mut client = rig.client();
            scope.spawn(move || {
                let mut made = Vec::new();
                for at in 0.. {
                    let after = answered.load(Ordering::SeqCst);
                    let message = format!("{agent} {number} {at}");
                    let result = invoke(&mut client, agent, "echo", json!({ "message": message }));
                    done.fetch_add(1, Ordering::SeqCst);
                    made.push(Made { message, after, result });
                    if after {
                        break;
                    }
                }
                made
            })
        };
        let callers: Vec<_> = (0..CROWD).map(caller).collect();
        while done.load(Ordering::SeqCst) < warm {
            std::thread::yield_now();
        }
        let answer = revoke(client, agent, grant).expect("revoked");
        answered.store(true, Ordering::SeqCst);
        let made = callers.into_iter().flat_map(|caller| caller.join().expect("a caller")).collect();
        (made, answer)
    })
}

#[test]
fn no_call_is_accepted_after_the_answer() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let mut cut_in_all = 0;
    for round in 0..6 {
        let agent = spawn(&mut client, &holding("busy", &["tool: echo".to_owned(), "tool: grep".to_owned()]));
        let id = grant_of(&mut client, &agent, "tool: echo");
        let (made, answer) = storm(&rig, &mut client, &agent, &id, round * 7 + 1);
        let of_agent = json!({ "agent_id": agent, "kinds": ["tool_invoked", "capability_revoked"] });
        let journal = client.call("audit.query", of_agent).expect("entries")["entries"].take();
        let journal = journal.as_array().expect("a list");
        let revoked =
            journal.iter().find(|one| one["event"]["kind"] == "capability_revoked").expect("it is there");
        assert_eq!(revoked["event"]["cut"], answer["calls"]);
        let cut: BTreeSet<&str> =
            answer["calls"].as_array().expect("ids").iter().filter_map(Value::as_str).collect();
        let begun = |message: &str| {
            journal.iter().find(|one| one["event"]["input"]["message"] == message).map(|one| {
                let call = one["event"]["call"].as_str().expect("an id");
                (cut.contains(call), one["seq"].as_u64() < revoked["seq"].as_u64())
            })
        };
        for Made { message, after, result } in &made {
            let began = begun(message);
            match result {
                Ok(_) => assert_eq!((began, *after), (Some((false, true)), false), "{message}"),
                Err(failure) if failure.data["reason"] == "revoked" => {
                    assert!(began.is_some_and(|(cut, _)| cut) && !after, "{message}: {began:?}");
                }
                Err(_) => {
                    assert_ended(result.clone());
                    assert_eq!(began, None, "{message}: refused, so nothing began");
                }
            }
        }
        let of_cut =
            journal.iter().filter(|one| one["event"]["call"].as_str().is_some_and(|id| cut.contains(id)));
        assert_eq!(of_cut.count(), cut.len(), "what was cut had begun");
        assert_eq!(made.iter().filter(|one| one.after).count(), CROWD, "each asked once more, in vain");
        cut_in_all += cut.len();
    }
    assert!(cut_in_all > 0, "control: some calls were in flight");
    assert_intact(&mut client);
}

#[test]
fn what_was_revoked_stays_revoked_after_a_kill() {
    let home = testkit::scratch();
    let data = directory(&home, "data");
    let words = format!("file_read: {}/*", data.display());
    let grants = [
        words.clone(),
        "tool: file_read".to_owned(),
        "tool: spawn_agent".to_owned(),
        "spawn_child: [*]".to_owned(),
    ];
    let child = holding("child", &[words.clone(), "tool: file_read".to_owned()]);
    let path = json!({ "path": data.join("f") });
    let (ask, spawning) = (path.clone(), json!({ "manifest": child, "message": "Read." }));
    let rig = Rig::new(Script::dynamic(move |seen: &SeenRequest| match seen.replies_so_far() {
        0 if seen.system.contains("You are child.") => Turn::call("file_read", ask.clone()),
        _ => Turn::say("done"),
    }));
    let mut client = rig.client();
    let persistent = |name: &str| format!("{}lifecycle: persistent\n", holding(name, &grants));
    let agents = ["loser", "keeper"].map(|name| spawn(&mut client, &persistent(name)));
    let id = grant_of(&mut client, &agents[0], &words);
    revoke(&mut client, &agents[0], &id).expect("revoked");
    let daemon = rig.daemon.kill9().start();
    let mut client = daemon.client();
    assert_eq!(
        invoke(&mut client, &agents[1], "file_read", path.clone()).expect("control")["content"],
        "data"
    );
    assert_eq!(open_on(&daemon, &data), 1, "the keeper's root alone is open again");
    assert_ended(invoke(&mut client, &agents[0], "file_read", path));
    assert!(listed(&mut client, &agents[0]).iter().all(|one| one["grant"] != words));
    assert_eq!(revoke(&mut client, &agents[0], &id).expect("it is known")["grants"], json!([]));
    let refused =
        invoke(&mut client, &agents[0], "spawn_agent", spawning.clone()).expect_err("nothing to hand on");
    assert!(refused.code == 1002 && refused.message.contains("revoked"), "{refused:?}");
    invoke(&mut client, &agents[1], "spawn_agent", spawning).expect("control: the keeper can");
    assert_intact(&mut client);
}

#[test]
fn an_approval_lets_nothing_pass_that_was_revoked_meanwhile() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let agent =
        spawn(&mut client, &holding("asker", &["{ tool: echo, approval_required: true }".to_owned()]));
    let ask = |client: &mut Client, message: &str| {
        let input = json!({ "message": message });
        client.send("tool.invoke", json!({ "agent_id": agent, "tool": "echo", "input": input }))
    };
    let approve = |client: &mut Client, question: &Value| {
        client.call(
            "approval.respond",
            json!({ "id": question["event"]["question"]["id"], "decision": "approve" }),
        )
    };
    let asked = |text: &'static str| {
        wait_for_entry(&rig.daemon, "human_approval_requested", move |entry| {
            entry["event"]["question"]["input"]["message"] == text
        })
    };
    let (mut first, mut second) = (rig.client(), rig.client());
    let passes = ask(&mut first, "before");
    approve(&mut client, &asked("before")).expect("it is open");
    assert_eq!(first.reply_to(passes).expect("control: approved")["result"]["message"], "before");
    let waits = ask(&mut second, "after");
    let question = asked("after");
    let id = text(&listed(&mut client, &agent)[0]["id"]);
    revoke(&mut client, &agent, &id).expect("it waits for nobody who waits for a person");
    assert_eq!(approve(&mut client, &question).expect_err("it is gone with the grant").code, 1001);
    assert_cut(second.reply_to(waits));
    let closed = entries(&mut client, &["human_approval_denied"]);
    assert_eq!(closed.len(), 1, "{closed:?}");
    assert_eq!(closed[0]["event"]["approval"], question["event"]["question"]["id"]);
    assert_eq!(closed[0]["event"]["reason"], "the grant was revoked");
    assert!(closed[0]["event"]["principal"].is_null(), "by nobody's answer: {closed:?}");
    let begun = entries(&mut client, &["tool_invoked"]);
    assert_eq!(begun.len(), 1, "only the first: {begun:?}");
}
