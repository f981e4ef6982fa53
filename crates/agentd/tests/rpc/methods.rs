//! Every method × valid, missing members, wrong types, unknown members, unknown ids.

use crate::support::{
    NOBODY, Rig, assert_intact, assert_members, deliver, manifest, persistent, spawn, text,
};
use serde_json::{Map, Value, json};
use testkit::Client;

/// The server's table, read where it stands: a method that is added there must be added here.
const SERVER: &str = include_str!("../../src/server/methods.rs");

/// One method: how it is called rightly, and which wrong calls follow from that.
struct Method {
    name: &'static str,
    valid: fn(&mut World) -> Value,
    required: &'static [&'static str],
    /// A member, and JSON that it does not take.
    wrong: &'static [(&'static str, &'static str)],
    /// The member that names something, which an unknown id then does not.
    names: Option<&'static str>,
    check: Check,
}

enum Check {
    /// The valid call is answered by this.
    Reply(fn(&Value)),
    /// The valid call streams first: `streams` drives it.
    Streams,
}
use Check::{Reply, Streams};

/// What the valid calls refer to; `fresh` agents may be used up.
struct World {
    client: Client,
    on_demand: String,
    persistent: String,
    trace: String,
    goal: String,
    /// Calls of this one wait for a person.
    asking: String,
    asker: Client,
}

impl World {
    fn new(rig: &Rig) -> Self {
        let mut client = rig.client();
        let on_demand = spawn(&mut client, &manifest("worker", "capabilities: [\"tool: echo\"]\n"));
        let persistent = spawn(&mut client, &persistent("keeper"));
        let trace = deliver(&mut client, &persistent, "hello");
        let goal = text(&client.call("goal.submit", goal()).expect("accepted")["goal_id"]);
        let asks = "capabilities: [\"tool: echo\"]\napproval_required: [echo]\n";
        let asking = spawn(&mut client, &manifest("asker", asks));
        Self { client, on_demand, persistent, trace, goal, asking, asker: rig.client() }
    }

    /// The id of a question that is open.
    fn question(&mut self) -> String {
        let input = json!({ "message": "may I?" });
        self.asker.send("tool.invoke", json!({ "agent_id": self.asking, "tool": "echo", "input": input }));
        loop {
            let reply = self.client.call("approval.list", json!({})).expect("a list");
            if let Some(one) = reply["pending"].as_array().and_then(|all| all.last()) {
                return text(&one["id"]);
            }
        }
    }

    /// Where the run of the goal's agent began.
    fn step(&mut self) -> u64 {
        loop {
            let asked = json!({ "goal_id": self.goal, "kinds": ["agent_execution_started"] });
            let reply = self.client.call("audit.query", asked).expect("entries");
            if let Some(seq) = reply["entries"][0]["seq"].as_u64() {
                return seq;
            }
        }
    }

    fn fresh(&mut self) -> String {
        spawn(&mut self.client, &manifest("fresh", ""))
    }
}

fn goal() -> Value {
    json!({ "goal": "say done", "manifest": manifest("root", "") })
}

fn ok(reply: &Value) {
    assert_eq!(reply, &json!({ "ok": true }));
}

fn run_result(reply: &Value) {
    assert_members(reply, &["response", "usage", "iterations", "stop_reason"]);
    assert_members(&reply["usage"], &["input_tokens", "output_tokens"]);
    assert_eq!((&reply["response"], &reply["stop_reason"]), (&json!("done"), &json!("complete")), "{reply}");
    assert_eq!(reply["iterations"], 1);
}

fn agent_view(agent: &Value) {
    let members = ["id", "name", "model", "state", "capability_count", "parent_agent", "started_at"];
    assert_members(agent, &members);
    assert!(agent["started_at"].is_u64() && agent["capability_count"].is_u64(), "{agent}");
}

fn goal_view(goal: &Value) {
    assert_members(goal, &["goal_id", "goal", "state", "outputs", "usage", "exit_code"]);
    let states = ["queued", "running", "waiting", "done", "failed", "cancelled", "interrupted"];
    assert!(states.iter().any(|state| goal["state"] == *state), "{goal}");
}

fn tool_view(tool: &Value) {
    assert_members(tool, &["name", "description", "input_schema"]);
    assert_eq!(tool["input_schema"]["type"], "object", "{tool}");
}

fn entry(entry: &Value) {
    assert_members(entry, &["seq", "id", "timestamp", "event", "prev_hash", "hash"]);
    assert!(entry["event"]["kind"].is_string(), "{entry}");
}

fn grant_view(grant: &Value) {
    assert_members(grant, &["id", "grant", "derives_from", "uses_left", "usable", "delegable"]);
    assert!(grant["usable"].is_boolean() && grant["grant"].is_string(), "{grant}");
}

fn each(list: &Value, check: fn(&Value)) {
    let list = list.as_array().expect("a list");
    assert!(!list.is_empty(), "there is something to look at");
    list.iter().for_each(check);
}

const METHODS: &[Method] = &[
    Method {
        name: "agent.spawn",
        valid: |_| json!({ "manifest": manifest("one", "") }),
        required: &["manifest"],
        wrong: &[("manifest", "5"), ("manifest", "[]"), ("manifest_path", "7")],
        names: None,
        check: Reply(|reply| assert!(reply["agent_id"].is_string(), "{reply}")),
    },
    Method {
        name: "agent.stop",
        valid: |world| json!({ "agent_id": world.fresh() }),
        required: &["agent_id"],
        wrong: &[
            ("agent_id", "1"),
            ("agent_id", "null"),
            ("agent_id", "\"worker\""),
            ("agent_id", "[\"x\"]"),
        ],
        names: Some("agent_id"),
        check: Reply(ok),
    },
    Method {
        name: "agent.list",
        valid: |_| json!({}),
        required: &[],
        wrong: &[],
        names: None,
        check: Reply(|reply| each(&reply["agents"], agent_view)),
    },
    Method {
        name: "agent.status",
        valid: |world| json!({ "agent_id": world.on_demand }),
        required: &["agent_id"],
        wrong: &[("agent_id", "true"), ("agent_id", "\"\""), ("agent_id", "\"not-a-uuid\"")],
        names: Some("agent_id"),
        check: Reply(|reply| {
            agent_view(reply);
            assert_members(reply, &["purse", "usage", "confinement", "grants"]);
            assert_eq!((&reply["name"], &reply["capability_count"]), (&json!("worker"), &json!(1)));
        }),
    },
    Method {
        name: "agent.run",
        valid: |world| json!({ "agent_id": world.on_demand, "message": "go" }),
        required: &["agent_id", "message"],
        wrong: &[("agent_id", "{}"), ("message", "{\"text\":\"go\"}"), ("message", "null")],
        names: Some("agent_id"),
        check: Reply(run_result),
    },
    Method {
        name: "agent.result",
        valid: |world| json!({ "trace_id": world.trace, "wait_seconds": 30 }),
        required: &["trace_id"],
        wrong: &[
            ("trace_id", "\"x\""),
            ("wait_seconds", "-1"),
            ("wait_seconds", "\"5\""),
            ("wait_seconds", "1.5"),
        ],
        names: Some("trace_id"),
        check: Reply(|reply| {
            assert_members(reply, &["trace_id", "status", "result"]);
            assert_eq!(reply["status"], "done");
            run_result(&reply["result"]);
        }),
    },
    Method {
        name: "agent.spawn_and_run",
        valid: |_| json!({ "manifest": manifest("brief", ""), "message": "go" }),
        required: &["manifest", "message"],
        wrong: &[("manifest", "{}"), ("message", "5")],
        names: None,
        check: Reply(|reply| {
            run_result(reply);
            assert!(reply["agent_id"].is_string());
        }),
    },
    Method {
        name: "agent.pause",
        valid: |world| json!({ "agent_id": world.persistent }),
        required: &["agent_id"],
        wrong: &[("agent_id", "0")],
        names: Some("agent_id"),
        check: Reply(ok),
    },
    Method {
        name: "agent.resume",
        valid: |world| json!({ "agent_id": world.persistent }),
        required: &["agent_id"],
        wrong: &[("agent_id", "[]")],
        names: Some("agent_id"),
        check: Reply(ok),
    },
    Method {
        name: "agent.submit_streaming",
        valid: |_| goal(),
        required: &["goal"],
        wrong: &[
            ("goal", "3"),
            ("outputs", "\"/x\""),
            ("outputs", "[\"relative\"]"),
            ("priority", "\"high\""),
        ],
        names: None,
        check: Reply(|reply| {
            assert!(reply["goal_id"].is_string());
            goal_view(&reply["goal"]);
            assert_eq!(reply["goal"]["state"], "done");
        }),
    },
    Method {
        name: "agent.logs_streaming",
        valid: |world| json!({ "agent_id": world.on_demand }),
        required: &["agent_id"],
        wrong: &[("agent_id", "9"), ("after_seq", "\"1\""), ("after_seq", "-1")],
        names: Some("agent_id"),
        check: Streams,
    },
    Method {
        name: "goal.submit",
        // A budget without ceilings bounds nothing.
        valid: |_| {
            let mut goal = goal();
            goal["budget"] = json!({});
            goal
        },
        required: &["goal"],
        wrong: &[
            ("goal", "[]"),
            ("outputs", "[3]"),
            ("client_key", "1"),
            ("priority", "0.5"),
            ("deadline_seconds", "-1"),
            ("budget", "100"),
            ("budget", "{\"max_usd\":1.5}"),
            ("budget", "{\"max_usd\":\"much\"}"),
            ("budget", "{\"max_tokens\":\"many\"}"),
            ("budget", "{\"max_tokens\":5,\"max_euro\":1}"),
            ("grants", "\"tool: echo\""),
            ("grants", "[\"file_read: relative\"]"),
            ("grants", "[5]"),
            ("manifest", "{}"),
            ("manifest", "\"name: x\""),
            ("working_directory", "\"relative\""),
        ],
        names: None,
        check: Reply(|reply| assert!(reply["goal_id"].is_string(), "{reply}")),
    },
    Method {
        name: "goal.fork",
        valid: |world| json!({ "goal_id": world.goal, "at": world.step() }),
        required: &["goal_id", "at"],
        wrong: &[
            ("goal_id", "1"),
            ("at", "\"1\""),
            ("at", "-1"),
            ("at", "0"),
            ("model", "7"),
            ("model", "\"\""),
            ("manifest", "{}"),
            ("manifest", "\"name: x\""),
            ("keep_files", "1"),
        ],
        names: Some("goal_id"),
        check: Reply(|reply| {
            assert_members(reply, &["goal_id", "from", "at", "files", "kept"]);
            assert_ne!(reply["goal_id"], reply["from"], "{reply}");
        }),
    },
    Method {
        name: "goal.follow",
        valid: |world| json!({ "goal_id": world.goal }),
        required: &["goal_id"],
        wrong: &[("goal_id", "null"), ("goal_id", "\"goal\"")],
        names: Some("goal_id"),
        check: Reply(|reply| {
            goal_view(&reply["goal"]);
            assert_eq!(reply["goal"]["state"], "done", "{reply}");
        }),
    },
    Method {
        name: "goal.list",
        valid: |_| json!({}),
        required: &[],
        wrong: &[("state", "\"paused\""), ("state", "1")],
        names: None,
        check: Reply(|reply| each(&reply["goals"], goal_view)),
    },
    Method {
        name: "goal.status",
        valid: |world| json!({ "goal_id": world.goal }),
        required: &["goal_id"],
        wrong: &[("goal_id", "1"), ("goal_id", "\"goal\"")],
        names: Some("goal_id"),
        check: Reply(goal_view),
    },
    Method {
        name: "goal.cancel",
        valid: |world| json!({ "goal_id": world.goal }),
        required: &["goal_id"],
        wrong: &[("goal_id", "null")],
        names: Some("goal_id"),
        check: Reply(goal_view),
    },
    Method {
        name: "tool.list",
        valid: |_| json!({}),
        required: &[],
        wrong: &[],
        names: None,
        check: Reply(|reply| each(&reply["tools"], tool_view)),
    },
    Method {
        name: "tool.invoke",
        valid: |world| json!({ "agent_id": world.on_demand, "tool": "echo", "input": { "message": "hi" } }),
        required: &["agent_id", "tool", "input"],
        wrong: &[
            ("tool", "5"),
            ("input", "5"),
            ("input", "\"{\\\"message\\\":\\\"hi\\\"}\""),
            ("input", "{}"),
            ("input", "{\"message\":5}"),
            ("input", "{\"message\":\"hi\",\"loud\":true}"),
        ],
        names: Some("agent_id"),
        check: Reply(|reply| assert_eq!(reply, &json!({ "result": { "message": "hi" } }))),
    },
    Method {
        name: "approval.list",
        valid: |world| {
            world.question();
            json!({})
        },
        required: &[],
        wrong: &[],
        names: None,
        check: Reply(|reply| {
            each(&reply["pending"], |one| {
                assert_members(one, &["id", "agent_id", "tool", "input", "description"])
            });
        }),
    },
    Method {
        name: "approval.respond",
        valid: |world| json!({ "id": world.question(), "decision": "deny", "reason": "no" }),
        required: &["id", "decision"],
        wrong: &[
            ("id", "5"),
            ("id", "\"first\""),
            ("decision", "\"maybe\""),
            ("decision", "true"),
            ("reason", "5"),
            ("scope", "\"all\""),
            ("scope", "{\"colour\":\"red\"}"),
        ],
        names: Some("id"),
        check: Reply(ok),
    },
    Method {
        name: "capability.list",
        valid: |world| json!({ "agent_id": world.on_demand }),
        required: &["agent_id"],
        wrong: &[("agent_id", "5"), ("agent_id", "\"worker\"")],
        names: Some("agent_id"),
        check: Reply(|reply| each(&reply["grants"], grant_view)),
    },
    Method {
        name: "capability.revoke",
        valid: |world| {
            let agent = spawn(&mut world.client, &manifest("fresh", "capabilities: [\"tool: echo\"]\n"));
            let held = world.client.call("capability.list", json!({ "agent_id": agent })).expect("a list");
            json!({ "agent_id": agent, "grant_id": held["grants"][0]["id"] })
        },
        required: &["agent_id", "grant_id"],
        wrong: &[("agent_id", "5"), ("grant_id", "\"tool: echo\""), ("grant_id", "[]")],
        names: Some("grant_id"),
        check: Reply(|reply| {
            assert_eq!((&reply["ok"], &reply["calls"]), (&json!(true), &json!([])));
            assert_eq!(reply["grants"].as_array().map(Vec::len), Some(1), "{reply}");
        }),
    },
    Method {
        name: "capability.explain",
        valid: |world| json!({ "agent_id": world.on_demand, "tool": "echo" }),
        // Nothing else is asked about.
        required: &["tool"],
        wrong: &[
            ("agent_id", "5"),
            ("tool", "5"),
            ("tool", "\"no_such_tool\""),
            ("read", "\"relative\""),
            ("write", "[]"),
            ("host", "\"*\""),
            ("host", "\"https://example.org/\""),
            ("host", "\"example.org, example.net\""),
            ("port", "70000"),
            ("spawn", "\"No Name\""),
        ],
        names: Some("agent_id"),
        check: Reply(|reply| {
            assert_members(reply, &["met", "missing", "reach"]);
            assert_members(&reply["met"][0], &["need", "grant"]);
            assert_members(&reply["reach"][0], &["need", "agent_id", "agent_name", "ancestors", "through"]);
            assert_eq!(reply["missing"], json!([]));
        }),
    },
    Method {
        name: "audit.query",
        valid: |_| json!({ "after_seq": 0, "limit": 50 }),
        required: &[],
        wrong: &[
            ("after_seq", "\"1\""),
            ("limit", "-1"),
            ("kinds", "\"agent_spawned\""),
            ("agent_id", "5"),
            ("goal_id", "\"x\""),
        ],
        names: None,
        check: Reply(|reply| {
            each(&reply["entries"], entry);
            assert!(reply["head"].is_u64());
        }),
    },
    Method {
        name: "audit.stream",
        valid: |_| json!({ "after_seq": 0 }),
        required: &[],
        wrong: &[("after_seq", "\"1\""), ("kinds", "5"), ("agent_id", "\"x\"")],
        names: None,
        check: Streams,
    },
    Method {
        name: "audit.verify",
        valid: |_| json!({}),
        required: &[],
        wrong: &[("head", "5"), ("head", "\"nonsense\""), ("head", "\"1:zz\""), ("key", "\"00\"")],
        names: None,
        check: Reply(|reply| {
            assert_members(reply, &["after", "entries", "head", "signed", "key", "broken", "expected"]);
            assert!(reply["broken"].is_null(), "{reply}");
        }),
    },
    Method {
        name: "audit.prune",
        // Nothing is that old.
        valid: |_| json!({ "older_than_ms": u64::MAX }),
        required: &["older_than_ms"],
        wrong: &[("older_than_ms", "-1"), ("older_than_ms", "\"30d\"")],
        names: None,
        check: Reply(|reply| {
            assert_members(reply, &["entries", "archives", "through", "held"]);
            assert_eq!((&reply["entries"], &reply["through"]), (&json!(0), &json!(0)));
        }),
    },
    Method {
        name: "runtime.models",
        valid: |_| json!({}),
        required: &[],
        wrong: &[],
        names: None,
        check: Reply(|reply| {
            assert_members(reply, &["providers", "aliases"]);
            assert_eq!(reply["providers"][0]["standing"], "reachable", "{reply}");
        }),
    },
    Method {
        name: "runtime.status",
        valid: |_| json!({}),
        required: &[],
        wrong: &[],
        names: None,
        check: Reply(|reply| {
            let members = [
                "version",
                "commit",
                "providers",
                "confinement_policy",
                "inference_queue",
                "parked_workers",
                "daemon_confinement",
                "limits",
                "agents",
            ];
            assert_members(reply, &members);
            assert_members(&reply["limits"], &["max_agents", "max_depth", "max_children"]);
            assert!(!reply["confinement_policy"]["require"].as_array().expect("a list").is_empty());
        }),
    },
];

impl Method {
    /// The valid call with one member changed.
    fn with(&self, world: &mut World, member: &str, value: Value) -> Value {
        let mut params = (self.valid)(world);
        params.as_object_mut().expect("an object").insert(member.to_owned(), value);
        params
    }

    fn wrong_calls(&self, world: &mut World) -> Vec<(String, Value, i64)> {
        let mut calls = Vec::new();
        for missing in self.required {
            let mut params = (self.valid)(world);
            params.as_object_mut().and_then(|all| all.remove(*missing)).expect("a required member is there");
            calls.push((format!("without {missing}"), params, -32602));
        }
        for (member, json) in self.wrong {
            let value: Value = serde_json::from_str(json).expect("the table holds JSON");
            calls.push((format!("{member} = {json}"), self.with(world, member, value), -32602));
        }
        calls.push(("an unknown member".to_owned(), self.with(world, "colour", json!("red")), -32602));
        if let Some(id) = self.names {
            calls.push((format!("an unknown {id}"), self.with(world, id, json!(NOBODY)), 1001));
        }
        for (foreign, code) in [(json!("text"), -32600), (json!(5), -32600), (json!([[], [], []]), -32602)] {
            calls.push((format!("params {foreign}"), foreign, code));
        }
        calls
    }
}

#[test]
fn every_method_does_what_it_says_and_refuses_what_it_must() {
    let rig = Rig::saying("done");
    let mut world = World::new(&rig);
    for method in METHODS {
        for (case, params, code) in method.wrong_calls(&mut world) {
            let failure =
                world.client.call(method.name, params).expect_err(&format!("{} {case}", method.name));
            assert_eq!(failure.code, code, "{} {case}: {}", method.name, failure.message);
            assert!(!failure.message.is_empty());
        }
        let Reply(check) = method.check else { continue };
        let params = (method.valid)(&mut world);
        let reply = world.client.call(method.name, params);
        check(&reply.unwrap_or_else(|failure| panic!("{}: {failure:?}", method.name)));
    }
    assert_intact(&mut world.client);
    assert!(rig.models.unscripted().is_empty());
}

#[test]
fn every_method_of_the_server_is_in_the_table() {
    let mut served: Vec<&str> = SERVER
        .split('"')
        .filter(|word| {
            let (group, method) = word.split_once('.').unwrap_or_default();
            let groups = ["agent", "goal", "tool", "audit", "runtime", "approval", "capability"];
            groups.contains(&group) && method.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        })
        .collect();
    served.sort_unstable();
    served.dedup();
    let mut tested: Vec<&str> = METHODS.iter().map(|method| method.name).collect();
    tested.sort_unstable();
    assert_eq!(served, tested);
    let rig = Rig::saying("done");
    let mut client = rig.client();
    for method in tested {
        // A misplaced member is refused by a method that exists, and tells it from one that does not.
        let failure = client.call(method, json!({ "no such member": 1 })).expect_err(method);
        assert_eq!(failure.code, -32602, "{method}: {}", failure.message);
    }
}

#[test]
fn foreign_methods_are_unknown() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let names = ["", "agent", "agent.", "agent.Spawn", " agent.list", "agent.list ", "goal.delete", "tool.x"];
    let unbuilt = ["approval.grant", "capability.grant", "rpc.discover", "audit.erase", "runtime.stop"];
    for name in names.into_iter().chain(unbuilt) {
        let failure = client.call(name, json!({})).expect_err(name);
        assert_eq!(failure.code, -32601, "{name:?}: {}", failure.message);
    }
}

#[test]
fn absent_null_and_empty_params_are_no_params() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    for line in [
        r#"{"jsonrpc":"2.0","id":1,"method":"agent.list"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"agent.list","params":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"agent.list","params":[]}"#,
    ] {
        client.send_line(line).expect("sent");
        assert_eq!(client.read_message().expect("a reply")["result"], json!({ "agents": [] }), "{line}");
    }
}

#[test]
fn spawn_and_run_leaves_no_agent_behind_and_a_path_is_read_for_the_operator() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let path = rig.daemon.work_dir().join("agent.yaml");
    std::fs::write(&path, manifest("filed", "")).expect("writes");
    let params = json!({ "manifest_path": path, "message": "go" });
    run_result(&client.call("agent.spawn_and_run", params).expect("runs"));
    let agents = client.call("agent.list", json!({})).expect("a list");
    assert_eq!(agents, json!({ "agents": [] }), "an on-demand agent is gone afterwards");

    let mut both = Map::new();
    both.insert("manifest".into(), json!(manifest("one", "")));
    both.insert("manifest_path".into(), json!(path));
    let paths = ["/no/such/file", "/", "/dev/zero", "/proc/self/mem"];
    let wrong = paths.map(|path| json!({ "manifest_path": path }));
    for params in wrong.into_iter().chain([json!({}), Value::Object(both)]) {
        let failure = client.call("agent.spawn", params.clone()).expect_err("refused");
        assert_eq!(failure.code, -32602, "{params}: {}", failure.message);
    }
    assert_eq!(client.call("agent.list", json!({})).expect("a list"), json!({ "agents": [] }));
}

#[test]
fn a_client_key_makes_one_goal_of_two_submissions() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let mut keyed = goal();
    keyed["client_key"] = json!("k1");
    let first = client.call("goal.submit", keyed.clone()).expect("accepted");
    let again = rig.client().call("goal.submit", keyed).expect("known");
    assert_eq!(first, again);
    let other = client.call("goal.submit", goal()).expect("accepted");
    assert_ne!(first, other, "without a key each submission is a goal");
    let goals = client.call("goal.list", json!({})).expect("a list");
    assert_eq!(goals["goals"].as_array().map(Vec::len), Some(2));
}
