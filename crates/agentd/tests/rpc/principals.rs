//! Who may ask for what: a second uid at the real socket, listed and not, with and without rights.
//!
//! Linux keeps credentials per thread, and `SO_PEERCRED` shows those of the thread that connected: so a thread of
//! this very process becomes the other uid for good and connects. That takes root; without it these tests say so and
//! the rules are covered by the unit tests of `aaos_runtime::principal`, `ceiling` and the table of rights alone.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aaos_core::limits::{MAX_QUEUED_GOALS_OF_ONE, MAX_RUNNING_GOALS};
use rustix::process::{Gid, Uid, geteuid};
use serde_json::{Value, json};
use testkit::{
    Client, Daemon, DaemonBuilder, ModelServer, RpcFailure, RpcTrouble, Script, SeenRequest, Turn,
};

use crate::support::{NOBODY, entries, manifest, persistent, spawn, text};

/// May look and submit, within a ceiling.
const ALICE: u32 = 54_321;
/// May look.
const LOOKER: u32 = 54_322;
/// Is of the group, and not listed.
const STRANGER: u32 = 54_323;
/// May do everything but has a ceiling.
const DEPUTY: u32 = 54_324;
/// May look and answer approvals.
const APPROVER: u32 = 54_325;
/// The socket's.
const GROUP: u32 = 54_400;

/// A daemon with principals, and the directory that the ceilings name.
struct House {
    daemon: Daemon,
    _models: ModelServer,
    socket: PathBuf,
    data: PathBuf,
}

impl House {
    /// [`Self::where_models`] say that all is done.
    fn open() -> Option<Self> {
        Self::where_models(|_| Turn::say("done"))
    }

    /// `None` where no thread can become another uid.
    #[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
    fn where_models(answer: impl FnMut(&SeenRequest) -> Turn + Send + 'static) -> Option<Self> {
        if !geteuid().is_root() {
            eprintln!("not run: only root can connect as a second uid");
            assert_ne!(geteuid().as_raw(), 0);
            return None;
        }
        let models = ModelServer::start(Script::dynamic(answer));
        let builder = DaemonBuilder::openai(&models);
        let home = builder.home().to_owned();
        // The way to the socket's directory is open; that directory the daemon makes itself.
        std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o711)).expect("prepared");
        let (socket, data) = (home.join("run/agentd.sock"), home.join("data"));
        std::fs::create_dir_all(data.join("sub")).expect("prepared");
        std::fs::create_dir_all(home.join("config/aaos")).expect("prepared");
        std::fs::write(home.join("config/aaos/config.toml"), config(&data)).expect("prepared");
        let daemon = builder.env("AAOS_SOCKET", &socket).start();
        Some(Self { daemon, _models: models, socket, data })
    }

    fn operator(&self) -> Client {
        Client::connect(&self.socket).expect("the daemon's own uid")
    }

    fn client(&self, uid: u32) -> Client {
        connect(&self.socket, uid, GROUP).unwrap_or_else(|trouble| panic!("{uid}: {trouble}"))
    }

    fn data(&self, below: &str) -> String {
        self.data.join(below).display().to_string()
    }
}

fn config(data: &Path) -> String {
    let data = data.display();
    let ceiling = format!(
        "grants = [\"file_read: {data}/*\", \"file_write: {data}/*\", \"{{ tool: echo, max_invocations: 3 }}\"]\n\
         max_tokens = 5000\n"
    );
    let one = |uid: u32, rights: &str| format!("[[principals]]\nuid = {uid}\nrights = {rights}\n{ceiling}");
    format!("socket_group = \"{GROUP}\"\n")
        + &one(ALICE, "[\"observe\", \"submit\"]")
        + &one(LOOKER, "[\"observe\"]")
        + &one(APPROVER, "[\"observe\", \"approve\"]")
        + &one(DEPUTY, "[\"observe\", \"submit\", \"approve\", \"administer\"]")
}

/// Connects as another uid, from a thread that stays it until its end.
fn connect(socket: &Path, uid: u32, gid: u32) -> Result<Client, RpcTrouble> {
    let socket = socket.to_owned();
    let other = std::thread::spawn(move || {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::thread::set_thread_groups(&[]).expect("drops its groups");
        rustix::thread::set_thread_res_gid(gid, gid, gid).expect("takes the group");
        rustix::thread::set_thread_res_uid(uid, uid, uid).expect("takes the uid");
        Client::connect(&socket)
    });
    other.join().expect("the thread ends")
}

fn goal(grants: &[String]) -> Value {
    json!({ "goal": "say done", "manifest": manifest("root", ""), "grants": grants })
}

/// Submits a goal and waits for its end.
fn done(client: &mut Client, goal: Value) -> String {
    let (_, reply) = client.call_streaming("agent.submit_streaming", goal);
    let reply = reply.expect("accepted");
    assert_eq!(reply["goal"]["state"], "done", "{reply}");
    text(&reply["goal_id"])
}

fn missing_right(failure: &RpcFailure) -> &Value {
    assert_eq!((failure.code, &failure.data["reason"]), (1002, &json!("missing_right")), "{failure:?}");
    &failure.data["right"]
}

#[test]
fn only_listed_uids_are_let_in() {
    let Some(house) = House::open() else { return };
    let mut alice = house.client(ALICE);
    assert_eq!(alice.call("goal.list", json!({})).expect("listed"), json!({ "goals": [] }));
    let mut stranger = house.client(STRANGER);
    // The daemon may have hung up before the request is written.
    let refused = stranger.send_line("{}").and_then(|()| stranger.read_message().map(drop));
    assert!(refused.is_err(), "of the group, but not listed");
    let outside = connect(&house.socket, ALICE, ALICE).expect_err("listed, but not of the group");
    assert!(matches!(outside, RpcTrouble::Io(_)), "{outside}");
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&house.socket), mode(house.socket.parent().expect("run"))), (0o660, 0o710));
}

#[test]
fn without_its_right_a_method_is_refused() {
    let Some(house) = House::open() else { return };
    let mut looker = house.client(LOOKER);
    for (method, params) in [
        ("goal.submit", goal(&[])),
        ("agent.submit_streaming", goal(&[])),
        ("agent.spawn", json!({ "manifest": manifest("one", "") })),
        ("agent.spawn_and_run", json!({ "manifest": manifest("one", ""), "message": "go" })),
        ("goal.cancel", json!({ "goal_id": NOBODY })),
        ("goal.fork", json!({ "goal_id": NOBODY, "at": 1 })),
        ("tool.invoke", json!({ "agent_id": NOBODY, "tool": "echo", "input": {} })),
    ] {
        let refused = looker.call(method, params).expect_err(method);
        assert_eq!(missing_right(&refused), "submit", "{method}");
    }
    let mut alice = house.client(ALICE);
    done(&mut alice, goal(&[]));
    for client in [&mut looker, &mut alice] {
        let refused = client.call("audit.verify", json!({})).expect_err("the whole journal");
        assert_eq!(missing_right(&refused), "administer");
        let refused = client.call("approval.list", json!({})).expect_err("no approver");
        assert_eq!(missing_right(&refused), "approve");
    }
    house.client(DEPUTY).call("audit.verify", json!({})).expect("administers");
    let started = entries(&mut house.operator(), &["goal_accepted", "agent_spawned"]);
    assert!(started.iter().all(|entry| entry["event"]["principal"] == ALICE), "{started:?}");
    assert_eq!(started.len(), 2, "nothing came of what was refused");
}

#[test]
fn what_is_anothers_answers_as_unknown() {
    let Some(house) = House::open() else { return };
    let (mut operator, mut alice) = (house.operator(), house.client(ALICE));
    let theirs = done(&mut operator, goal(&[]));
    let agent = spawn(&mut operator, &persistent("keeper"));
    let sent = operator.call("agent.run", json!({ "agent_id": agent, "message": "hello" })).expect("sent");
    for (method, member, id) in [
        ("goal.status", "goal_id", theirs.clone()),
        ("goal.cancel", "goal_id", theirs.clone()),
        ("goal.follow", "goal_id", theirs.clone()),
        ("agent.status", "agent_id", agent.clone()),
        ("agent.stop", "agent_id", agent.clone()),
        ("agent.pause", "agent_id", agent.clone()),
        ("agent.logs_streaming", "agent_id", agent.clone()),
        ("agent.result", "trace_id", text(&sent["trace_id"])),
    ] {
        let foreign = alice.call(method, json!({ member: id })).expect_err(method);
        let unknown = alice.call(method, json!({ member: NOBODY })).expect_err(method);
        assert_eq!((foreign.code, &foreign.data), (1001, &unknown.data), "{method}");
        assert_eq!(foreign.message.replace(&id, NOBODY), unknown.message, "{method}");
    }
    let mine = done(&mut alice, goal(&[]));
    assert_eq!(listed(&mut alice), [mine]);
    assert_eq!(alice.call("agent.list", json!({})).expect("a list"), json!({ "agents": [] }));
    let status = alice.call("runtime.status", json!({})).expect("some of it");
    assert_eq!((&status["agents"], &status["providers"]), (&json!(0), &json!([])), "{status}");
    assert!(status["journal_head"].is_null() && status["inference_queue"].is_null(), "{status}");
    assert!(status["parked_workers"].is_null() && status["daemon_confinement"].is_null(), "{status}");
    // The controls: the operator and whoever administers see both.
    for client in [&mut operator, &mut house.client(DEPUTY)] {
        assert_eq!(listed(client).len(), 2);
        client.call("agent.status", json!({ "agent_id": agent })).expect("seen");
        let status = client.call("runtime.status", json!({})).expect("all of it");
        assert!(status["agents"] == 1 && status["journal_head"].is_u64(), "{status}");
        assert!(!status["providers"].as_array().expect("a list").is_empty(), "{status}");
    }
}

#[test]
fn a_goal_is_forked_by_those_who_may_see_it_with_what_they_may_give() {
    let Some(house) = House::open() else { return };
    let (mut operator, mut alice, mut deputy) = (house.operator(), house.client(ALICE), house.client(DEPUTY));
    let started = |goal: &str| {
        let began = entries(&mut house.operator(), &["agent_execution_started"]);
        began.iter().find(|entry| entry["goal_id"] == goal).expect("it began")["seq"].clone()
    };
    let fork = |client: &mut Client, goal: &str| {
        client.call("goal.fork", json!({ "goal_id": goal, "at": started(goal) }))
    };
    let wide = done(&mut operator, goal(&["tool: *".to_owned()]));
    let narrow = done(&mut operator, goal(&[format!("file_read: {}", house.data("*"))]));
    for theirs in [&wide, &narrow] {
        let foreign = fork(&mut alice, theirs).expect_err("not its own");
        let unknown =
            alice.call("goal.fork", json!({ "goal_id": NOBODY, "at": 1 })).expect_err("there is none");
        assert_eq!((foreign.code, &foreign.data), (1001, &unknown.data), "{theirs}");
        assert_eq!(foreign.message.replace(theirs, NOBODY), unknown.message, "{theirs}");
    }
    let refused = fork(&mut deputy, &wide).expect_err("more than its ceiling");
    assert_eq!((refused.code, &refused.data["reason"]), (1002, &json!("denied")), "{refused:?}");
    assert!(refused.message.contains("tool: *"), "{refused:?}");
    // The controls: within the ceiling, the operator's own, and Alice's own.
    let mine = done(&mut alice, goal(&[]));
    let all = [
        (&mut deputy, &narrow, DEPUTY),
        (&mut operator, &wide, geteuid().as_raw()),
        (&mut alice, &mine, ALICE),
    ];
    for (client, goal, owner) in all {
        let forked = text(&fork(client, goal).expect("allowed")["goal_id"]);
        let (_, ended) = client.call_streaming("goal.follow", json!({ "goal_id": forked }));
        assert_eq!(ended.expect("told")["goal"]["state"], "done");
        let accepted = entries(&mut house.operator(), &["goal_accepted"]);
        let accepted = accepted.iter().find(|entry| entry["goal_id"] == forked.as_str()).expect("recorded");
        assert_eq!(accepted["event"]["principal"], owner, "it is its caller's");
    }
    let forked = entries(&mut operator, &["goal_forked"]);
    assert_eq!(forked.len(), 3, "nothing came of what was refused");
}

#[test]
fn a_question_of_anothers_agent_answers_as_unknown() {
    let Some(house) = House::open() else { return };
    let mut operator = house.operator();
    let asking = "capabilities: [\"tool: echo\"]\napproval_required: [echo]\n";
    let agent = spawn(&mut operator, &manifest("asker", asking));
    let input = json!({ "message": "may I?" });
    let call = operator.send("tool.invoke", json!({ "agent_id": agent, "tool": "echo", "input": input }));
    operator.send("audit.stream", json!({ "kinds": ["human_approval_requested"] }));
    let asked = operator.notification().expect("a question");
    let id = text(&asked["params"]["event"]["event"]["question"]["id"]);
    let mut approver = house.client(APPROVER);
    assert_eq!(
        approver.call("approval.list", json!({})).expect("a list"),
        json!({ "pending": [], "in_force": [] })
    );
    for decision in ["approve", "deny"] {
        let mut answer =
            |id: &str| approver.call("approval.respond", json!({ "id": id, "decision": decision }));
        let foreign = answer(&id).expect_err("not its own");
        let unknown = answer(NOBODY).expect_err("there is none");
        assert_eq!((foreign.code, &foreign.data), (1001, &unknown.data), "{decision}");
        assert_eq!(foreign.message.replace(&id, NOBODY), unknown.message);
    }
    // The control: whoever administers sees it and may answer.
    let mut deputy = house.client(DEPUTY);
    assert_eq!(deputy.call("approval.list", json!({})).expect("a list")["pending"][0]["id"], id.as_str());
    deputy.call("approval.respond", json!({ "id": id, "decision": "approve" })).expect("open until now");
    assert_eq!(operator.reply_to(call).expect("approved")["result"], input);
}

#[test]
fn grants_of_anothers_agent_answer_as_unknown_and_its_reach_is_not_told() {
    let Some(house) = House::open() else { return };
    let (mut operator, mut alice) = (house.operator(), house.client(ALICE));
    let own = |name: &str| manifest(name, "capabilities: [\"tool: echo\"]\n");
    let (theirs, mine) = (spawn(&mut operator, &own("theirs")), spawn(&mut alice, &own("mine")));
    let grant = |client: &mut Client, agent: &str| {
        let held = client.call("capability.list", json!({ "agent_id": agent })).expect("its own");
        text(&held["grants"][0]["id"])
    };
    let (their_grant, my_grant) = (grant(&mut operator, &theirs), grant(&mut alice, &mine));
    for (method, agent, grant) in [
        ("capability.list", &theirs, None),
        ("capability.explain", &theirs, None),
        ("capability.revoke", &theirs, Some(&their_grant)),
        ("capability.revoke", &mine, Some(&their_grant)),
    ] {
        let mut ask = |agent: &str, grant: Option<&str>| {
            let mut params = json!({ "agent_id": agent });
            if method == "capability.explain" {
                params["tool"] = json!("echo");
            }
            if let Some(grant) = grant {
                params["grant_id"] = json!(grant);
            }
            alice.call(method, params).expect_err(method)
        };
        let foreign = ask(agent, grant.map(String::as_str));
        let own_agent = if *agent == theirs { NOBODY } else { agent };
        let unknown = ask(own_agent, grant.map(|_| NOBODY));
        assert_eq!((foreign.code, &foreign.data), (1001, &unknown.data), "{method}");
        assert_eq!(foreign.message.replace(&theirs, NOBODY).replace(&their_grant, NOBODY), unknown.message);
    }
    let reached = |client: &mut Client| -> Vec<String> {
        let told = client.call("capability.explain", json!({ "tool": "echo" })).expect("told");
        told["reach"].as_array().expect("a list").iter().map(|one| text(&one["agent_id"])).collect()
    };
    assert_eq!(reached(&mut alice), [mine.as_str()]);
    assert_eq!(
        reached(&mut operator),
        [theirs.as_str(), mine.as_str()],
        "the control: the operator sees both"
    );
    let hello = |agent: &str| json!({ "agent_id": agent, "tool": "echo", "input": { "message": "x" } });
    operator.call("tool.invoke", hello(&theirs)).expect("it stands");
    let mut looker = house.client(LOOKER);
    let params = json!({ "agent_id": mine, "grant_id": my_grant });
    let refused = looker.call("capability.revoke", params.clone()).expect_err("may look only");
    assert_eq!(missing_right(&refused), "submit");
    alice.call("capability.revoke", params).expect("the control: her own she can");
    assert_eq!(alice.call("tool.invoke", hello(&mine)).expect_err("revoked").code, 1002);
    let revoked = entries(&mut operator, &["capability_revoked"]);
    assert_eq!(revoked.len(), 1);
    assert_eq!(revoked[0]["event"]["principal"], ALICE, "{revoked:?}");
}

fn listed(client: &mut Client) -> Vec<String> {
    let reply = client.call("goal.list", json!({})).expect("a list");
    reply["goals"].as_array().expect("a list").iter().map(|goal| text(&goal["goal_id"])).collect()
}

#[test]
fn one_client_key_of_two_principals_means_two_goals() {
    let Some(house) = House::open() else { return };
    let keyed = || json!({ "goal": "say done", "manifest": manifest("root", ""), "client_key": "k" });
    let submit =
        |client: &mut Client| text(&client.call("goal.submit", keyed()).expect("accepted")["goal_id"]);
    let (mut operator, mut alice) = (house.operator(), house.client(ALICE));
    let first = submit(&mut operator);
    assert_ne!(submit(&mut alice), first);
    assert_eq!(submit(&mut operator), first, "the control: its own key is known");
}

#[test]
fn the_journal_shows_a_principal_its_own_entries() {
    let Some(house) = House::open() else { return };
    let (mut operator, mut alice) = (house.operator(), house.client(ALICE));
    let theirs = done(&mut operator, goal(&[]));
    let mine = done(&mut alice, goal(&[]));
    let agent = spawn(&mut alice, &manifest("brief", ""));
    alice.call("agent.stop", json!({ "agent_id": agent })).expect("stopped");
    let after = done(&mut operator, goal(&[]));
    let seen = alice.call("audit.query", json!({})).expect("some");
    let list = seen["entries"].as_array().expect("a list");
    let is_mine = |entry: &Value| {
        entry["goal_id"] == mine.as_str() || entry["goal_id"].is_null() && entry["agent_id"] == agent.as_str()
    };
    assert!(!list.is_empty() && list.iter().all(is_mine), "{list:?}");
    let stopped = |entry: &&Value| entry["event"]["kind"] == "agent_stopped";
    assert_eq!(list.iter().filter(stopped).count(), 2, "its goal's agent, and one that belongs to no goal");
    assert_eq!(seen["head"], list[list.len() - 1]["seq"], "the journal's end is not told");
    let one = alice.call("audit.query", json!({ "limit": 1 })).expect("some");
    assert_eq!(one["entries"], json!([list[0]]), "found behind what is another's");
    for foreign in [&theirs, &after, &NOBODY.to_owned()] {
        let found = alice.call("audit.query", json!({ "goal_id": foreign })).expect("nothing");
        assert_eq!(found, json!({ "entries": [], "head": 0 }), "{foreign}");
    }
    let all = entries(&mut operator, &[]);
    assert!(all.iter().any(|entry| entry["goal_id"] == theirs.as_str()), "the control sees all");
    // A stream is no way round it: the first frames are those that the query gave.
    alice.send("audit.stream", json!({}));
    for entry in list {
        assert_eq!(&alice.notification().expect("a frame")["params"]["event"], entry);
    }
}

#[test]
fn nothing_beyond_the_ceiling_is_given() {
    let Some(house) = House::open() else { return };
    let mut alice = house.client(ALICE);
    std::os::unix::fs::symlink(house.daemon.work_dir(), house.data("out")).expect("prepared");
    let link = house.data("out");
    let before = testkit::Snapshot::of(&house.daemon.work_dir());
    for outside in [
        "file_read: /etc/*".to_owned(),
        format!("file_write: {}-x/*", house.data.display()),
        "tool: *".to_owned(),
        "web_search".to_owned(),
    ] {
        let refused = alice.call("goal.submit", goal(std::slice::from_ref(&outside))).expect_err(&outside);
        assert_eq!(refused.code, 1002, "{refused:?}");
        assert!(refused.message.contains(&format!("missing {outside}")), "{}", refused.message);
        let own = manifest("root", &format!("capabilities: ['{outside}']\n"));
        for (method, params) in [
            ("goal.submit", json!({ "goal": "go", "manifest": own })),
            ("agent.spawn", json!({ "manifest": own })),
            ("agent.spawn_and_run", json!({ "manifest": own, "message": "go" })),
        ] {
            assert_eq!(alice.call(method, params).expect_err(method).code, 1002, "{method} {outside}");
        }
    }
    assert_eq!(listed(&mut alice).len(), 0, "no such goal was accepted");
    for behind in [format!("file_read: {link}/*"), format!("file_write: {link}/new/*")] {
        let own = manifest("root", &format!("capabilities: ['{behind}']\n"));
        let refused = alice.call("agent.spawn", json!({ "manifest": own })).expect_err(&behind);
        assert_eq!(refused.code, 1002, "{refused:?}");
        let (_, reply) = alice.call_streaming("agent.submit_streaming", goal(std::slice::from_ref(&behind)));
        assert_eq!(reply.expect("accepted, then refused")["goal"]["state"], "failed", "{behind}");
        // The control: the operator's grant follows the link.
        spawn(&mut house.operator(), &manifest("root", &format!("capabilities: ['file_read: {link}/*']\n")));
    }
    assert_eq!(before, testkit::Snapshot::of(&house.daemon.work_dir()), "nothing was made behind the link");
    let path = alice.call("agent.spawn", json!({ "manifest_path": "/etc/passwd" })).expect_err("a path");
    assert!(path.message.contains("the daemon's own user"), "{}", path.message);
}

#[test]
fn what_the_ceiling_covers_is_given_within_its_bounds() {
    let Some(house) = House::open() else { return };
    let (mut operator, mut alice) = (house.operator(), house.client(ALICE));
    let inside =
        [format!("file_read: {}/*", house.data("sub")), format!("file_write: {}/*", house.data("new"))];
    done(&mut alice, goal(&inside));
    assert!(house.data.join("new").is_dir(), "a covered root is made");
    let own = manifest("root", "capabilities: [{ tool: echo, max_invocations: 9 }]\n");
    for (client, uses, tokens) in
        [(&mut alice, json!(3), json!(5000)), (&mut operator, json!(9), Value::Null)]
    {
        let agent = spawn(client, &own);
        let status = client.call("agent.status", json!({ "agent_id": agent })).expect("its own");
        assert_eq!(status["grants"][0]["constraints"]["max_invocations"], uses, "{status}");
        let spawned = entries(client, &["agent_spawned"]);
        let last = &spawned[spawned.len() - 1];
        assert!(last.to_string().contains("5000") == tokens.is_u64(), "{last}");
    }
    let accepted = entries(&mut alice, &["goal_accepted"]);
    assert!(
        accepted[0].to_string().contains("5000"),
        "the default purse is cut to the ceiling: {accepted:?}"
    );
}

#[test]
fn a_principal_neither_overtakes_others_nor_fills_the_queue() {
    let Some(house) = House::where_models(|_| Turn::Hang) else { return };
    let (mut operator, mut alice) = (house.operator(), house.client(ALICE));
    let with = |priority: i64| {
        let mut goal = goal(&[]);
        goal["priority"] = json!(priority);
        goal
    };
    let refused = alice.call("goal.submit", with(1)).expect_err("above everybody's");
    assert!(refused.code == 1002 && refused.message.contains("priority"), "{refused:?}");
    for _ in 0..MAX_RUNNING_GOALS + MAX_QUEUED_GOALS_OF_ONE {
        alice.call("goal.submit", with(0)).expect("accepted");
    }
    let refused = alice.call("goal.submit", with(-1)).expect_err("her part of the queue is full");
    assert_eq!(refused.code, 1004, "{refused:?}");
    for priority in [0, i64::MAX] {
        operator.call("goal.submit", with(priority)).expect("there is room for others");
    }
}
