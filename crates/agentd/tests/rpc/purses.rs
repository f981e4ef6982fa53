//! Purses at the socket: a client's call is charged and limited like the agent's own, also by many at once, over
//! windows and across a death. Each with its control.

use crate::support::{
    Rig, assert_intact, deliver, entries, invoke, manifest, persistent, result_of, spawn, text,
    wait_for_entry,
};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Barrier;
use testkit::{
    Client, Daemon, DaemonBuilder, Gate, ModelServer, Page, ReportedUsage, RpcFailure, Script, Turn,
    WebServer,
};

/// Callers at once.
const CALLERS: usize = 64;

/// A writer of files below `root`, with further manifest fields.
fn writer(name: &str, root: &Path, more: &str) -> String {
    let root = root.display();
    let tools = "\"tool: file_write\", \"tool: file_edit\"";
    let files = format!("\"file_write: {root}/*\", \"file_read: {root}/*\"");
    manifest(name, &format!("capabilities: [{tools}, {files}]\n{more}"))
}

fn write(client: &mut Client, agent: &str, path: &Path, content: &str) -> Result<Value, RpcFailure> {
    invoke(client, agent, "file_write", json!({ "path": path, "content": content }))
}

#[track_caller]
fn assert_spent(result: Result<Value, RpcFailure>, field: &str) {
    let failure = result.expect_err("the purse does not cover it");
    assert_eq!(failure.code, 1003, "{failure:?}");
    assert!(failure.message.contains(field), "{failure:?}");
}

/// One quantity in an agent's purse.
fn quantity(client: &mut Client, agent: &str, name: &str) -> Value {
    let status = client.call("agent.status", json!({ "agent_id": agent })).expect("known");
    let all = status["purse"]["quantities"].as_array().expect("a list").clone();
    all.into_iter().find(|one| one["quantity"] == name).unwrap_or_default()
}

#[test]
fn files_and_their_bytes_are_charged_and_limited() {
    let rig = Rig::saying("done");
    let home = testkit::scratch();
    let at = |name: &str| home.path().join(name);
    let mut client = rig.client();
    let two = spawn(&mut client, &writer("two", home.path(), "budget_config: { max_files: 2 }\n"));
    write(&mut client, &two, &at("a"), "a").expect("the first");
    write(&mut client, &two, &at("b"), "b").expect("the second");
    assert_spent(write(&mut client, &two, &at("c"), "c"), "max_files");
    assert!(!at("c").exists());
    let used = quantity(&mut client, &two, "files");
    assert_eq!((&used["used"], &used["remaining"], &used["reserved"]), (&json!(2), &json!(0), &json!(0)));

    let ten = spawn(&mut client, &writer("ten", home.path(), "budget_config: { max_written_bytes: 10 }\n"));
    write(&mut client, &ten, &at("d"), "123456").expect("six of ten");
    assert_spent(write(&mut client, &ten, &at("d"), "12345"), "max_written_bytes");
    // How long an edited file gets is known only when it is edited; what does not fit is not written.
    let edit = |new: &str| json!({ "path": at("d"), "old_string": "123456", "new_string": new });
    assert_spent(invoke(&mut client, &ten, "file_edit", edit("12345")), "max_written_bytes");
    assert_eq!(std::fs::read_to_string(at("d")).expect("it is there"), "123456");
    let exceeded = entries(&mut client, &["budget_exceeded"]);
    assert_eq!(exceeded.len(), 3, "each is journalled: {exceeded:?}");
    assert_eq!(exceeded[2]["event"]["remaining"], 4, "{exceeded:?}");
    invoke(&mut client, &ten, "file_edit", edit("1234")).expect("the last four");
    assert_eq!(quantity(&mut client, &ten, "written_bytes")["used"], 10);
    assert_eq!(quantity(&mut client, &ten, "files")["used"], 2, "counted, though not bounded");

    // The control: the same calls of an agent without a budget.
    let free = spawn(&mut client, &writer("free", home.path(), ""));
    for name in ["a", "b", "c", "d"] {
        write(&mut client, &free, &at(name), "1234567").expect("nothing bounds it");
    }
}

#[test]
fn uses_of_a_grant_are_charged_and_limited() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let bounded = "capabilities: [{ tool: echo, max_invocations: 2 }]\n";
    let agent = spawn(&mut client, &manifest("twice", bounded));
    let hi = || json!({ "message": "hi" });
    invoke(&mut client, &agent, "echo", hi()).expect("once");
    invoke(&mut client, &agent, "echo", hi()).expect("twice");
    assert_eq!(invoke(&mut client, &agent, "echo", hi()).expect_err("used up").code, 1002);
    let free = spawn(&mut client, &manifest("free", "capabilities: [\"tool: echo\"]\n"));
    for _ in 0..3 {
        invoke(&mut client, &free, "echo", hi()).expect("nothing bounds it");
    }
}

#[test]
fn bytes_from_the_network_are_clamped_charged_and_limited() {
    let page = Page::Text("x".repeat(60));
    let cut = Page::CutMidBody("y".repeat(30));
    let web = WebServer::start([("/page", page), ("/cut", cut)]);
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let fetcher = |name: &str, more: &str| {
        let capabilities = format!("capabilities: [\"tool: web_fetch\", \"network: {}\"]\n", web.authority());
        manifest(name, &format!("{capabilities}{more}"))
    };
    let fetch = |client: &mut Client, agent: &str, path: &str| {
        invoke(client, agent, "web_fetch", json!({ "url": web.url(path) }))
    };
    let body = |page: &Value| (page["body"].as_str().expect("text").trim().len(), page["truncated"] == true);
    let agent = spawn(&mut client, &fetcher("poor", "budget_config: { max_egress_bytes: 130 }\n"));
    fetch(&mut client, &agent, "/cut").expect_err("it breaks half-way");
    let used = quantity(&mut client, &agent, "egress_bytes");
    assert_eq!((&used["used"], &used["reserved"]), (&json!(30), &json!(0)), "what came is paid");
    assert_eq!(body(&fetch(&mut client, &agent, "/page").expect("60 of 100")), (60, false));
    assert_eq!(body(&fetch(&mut client, &agent, "/page").expect("40 of 40")), (40, true), "clamped");
    let asked = web.requests().len();
    assert_spent(fetch(&mut client, &agent, "/page"), "max_egress_bytes");
    assert_eq!(web.requests().len(), asked, "nothing is sent for it");
    assert_eq!(quantity(&mut client, &agent, "egress_bytes")["used"], 130);
    let free = spawn(&mut client, &fetcher("rich", ""));
    for _ in 0..3 {
        assert_eq!(body(&fetch(&mut client, &free, "/page").expect("nothing bounds it")), (60, false));
    }
}

#[test]
fn what_comes_with_a_redirect_is_paid_too() {
    let moved = Page::Redirect { status: 302, to: "/page".to_owned() };
    let web = WebServer::start([("/moved", moved), ("/page", Page::Text("x".repeat(60)))]);
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let words = format!("capabilities: [\"tool: web_fetch\", \"network: {}\"]\n", web.authority());
    let [direct, led] = [("direct", "/page"), ("led", "/moved")].map(|(name, path)| {
        let agent = spawn(&mut client, &manifest(name, &words));
        let page = invoke(&mut client, &agent, "web_fetch", json!({ "url": web.url(path) })).expect("a page");
        assert_eq!(page["body"].as_str().map(|text| text.trim().len()), Some(60), "{page}");
        quantity(&mut client, &agent, "egress_bytes")["used"].as_u64().expect("a number")
    });
    assert_eq!(direct, 60, "the control");
    assert!(led > 60 + "HTTP/1.1 302".len() as u64 && led < 1_000, "{led}");
}

#[test]
fn a_small_journal_ends_a_clients_calls_too() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let echoes = "capabilities: [\"tool: echo\"]\n";
    let small = format!("{echoes}budget_config: {{ max_journal_bytes: 5000 }}\n");
    let (small, free) = (manifest("small", &small), manifest("free", echoes));
    let (small, free) = (spawn(&mut client, &small), spawn(&mut client, &free));
    for n in 0..4 {
        let hi = || json!({ "message": "hi" });
        let told = invoke(&mut client, &small, "echo", hi());
        if n < 2 {
            drop(told.expect("about 2 KiB each"))
        } else {
            assert_spent(told, "max_journal_bytes")
        }
        invoke(&mut client, &free, "echo", hi()).expect("nothing bounds it");
    }
}

/// Every caller on a connection of its own makes one call for the agent of its number, all at once; how many were
/// served. Each of the others was told no.
fn served(
    daemon: &Daemon,
    agents: &[String],
    input: impl Fn(usize) -> (&'static str, Value) + Sync,
) -> usize {
    let barrier = Barrier::new(CALLERS);
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|n| {
                let (barrier, agent, (tool, input)) = (&barrier, &agents[n % agents.len()], input(n));
                scope.spawn(move || {
                    let mut client = daemon.client();
                    barrier.wait();
                    match invoke(&mut client, agent, tool, input) {
                        Ok(_) => 1,
                        Err(failure) => {
                            assert!(matches!(failure.code, 1002..=1004), "{failure:?}");
                            0
                        }
                    }
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().expect("no caller dies")).sum()
    })
}

/// A parent that runs, waiting at the gate, and two children that wait there too: its purse and theirs are one.
fn family(gate: &Gate, root: &Path, capabilities: &str, budget: &str) -> (Rig, Vec<String>) {
    let child = manifest("child", &format!("capabilities: [{capabilities}]\n"));
    let batch = json!({ "children": [
        { "manifest": child, "message": "wait" }, { "manifest": child, "message": "wait" } ] });
    let held = gate.clone();
    let rig = Rig::new(Script::dynamic(move |seen| match seen.system.contains("You are parent.") {
        true if seen.replies_so_far() == 0 => Turn::call("spawn_agents", batch.clone()),
        true => Turn::say("done"),
        false => Turn::say("done").behind(&held),
    }));
    let spawning = "\"tool: spawn_agents\", \"spawn_child: [child]\"";
    let root = root.display();
    let files = format!("\"file_write: {root}/*\"");
    let parent =
        manifest("parent", &format!("capabilities: [{spawning}, {capabilities}, {files}]\n{budget}"));
    let agent = rig.spawn(&parent);
    let mut runner = rig.client();
    runner.send("agent.run", json!({ "agent_id": agent, "message": "go" }));
    assert_eq!(rig.models.wait_for_requests(3).len(), 3);
    let listed = rig.client().call("agent.list", json!({})).expect("a list");
    let agents: Vec<String> =
        listed["agents"].as_array().expect("a list").iter().map(|one| text(&one["id"])).collect();
    assert_eq!(agents.len(), 3, "{listed}");
    (rig, agents)
}

#[test]
fn no_crowd_of_callers_gets_more_uses_than_were_granted() {
    let echo = |n: usize| ("echo", json!({ "message": n.to_string() }));
    for (bound, granted) in [("max_invocations: 10", 10), ("max_per_minute: 5", 5)] {
        let rig = Rig::saying("done");
        let grant = format!("capabilities: [{{ tool: echo, {bound} }}]\n");
        let agent = rig.spawn(&manifest("crowded", &grant));
        assert_eq!(served(&rig.daemon, &[agent], echo), granted, "{bound}");
        assert_eq!(
            entries(&mut rig.client(), &["tool_invoked"]).len(),
            granted,
            "{bound}: and no other began"
        );
        // The control: nothing but the bound stood in the way.
        let free = rig.spawn(&manifest("free", "capabilities: [\"tool: echo\"]\n"));
        assert_eq!(served(&rig.daemon, &[free], echo), CALLERS);
        assert_intact(&mut rig.client());
    }
}

#[test]
fn no_crowd_of_callers_writes_more_than_the_purse_holds() {
    let home = testkit::scratch();
    let to_file = |n: usize| {
        let path = home.path().join(format!("{n}.txt"));
        ("file_write", json!({ "path": path, "content": "123" }))
    };
    for (budget, granted) in [
        ("budget_config: { max_files: 7 }\n", 7),
        ("budget_config: { max_written_bytes: 20 }\n", 6),
        ("", CALLERS),
    ] {
        let rig = Rig::saying("done");
        let agent = rig.spawn(&writer("crowded", home.path(), budget));
        assert_eq!(served(&rig.daemon, std::slice::from_ref(&agent), to_file), granted, "{budget}");
        let left = std::fs::read_dir(home.path()).expect("lists").map(|entry| entry.expect("reads").path());
        let left: Vec<_> = left.collect();
        assert_eq!(left.len(), granted, "{budget}: a refused write leaves nothing");
        left.iter().for_each(|path| std::fs::remove_file(path).expect("removes"));
        assert_eq!(quantity(&mut rig.client(), &agent, "files")["used"], granted);
    }
}

#[test]
fn a_parent_and_its_children_have_together_what_the_parent_was_granted() {
    let home = testkit::scratch();
    let echo = |n: usize| ("echo", json!({ "message": n.to_string() }));
    let gate = Gate::new();
    for (bound, granted) in
        [("{ tool: echo, max_invocations: 10 }", 10), ("{ tool: echo, max_per_minute: 5 }", 5)]
    {
        let (rig, agents) = family(&gate, home.path(), bound, "");
        assert_eq!(served(&rig.daemon, &agents, echo), granted, "{bound}");
    }
    // The control: without a bound on the grant everybody is served.
    let (rig, agents) = family(&gate, home.path(), "\"tool: echo\"", "");
    assert_eq!(served(&rig.daemon, &agents, echo), CALLERS);
    drop(rig);
    let files = format!("\"tool: file_write\", \"file_write: {}/*\"", home.path().display());
    let (rig, agents) = family(&gate, home.path(), &files, "budget_config: { max_files: 7 }\n");
    let to_file = |n: usize| {
        let path = home.path().join(format!("{n}.txt"));
        ("file_write", json!({ "path": path, "content": "123" }))
    };
    assert_eq!(served(&rig.daemon, &agents, to_file), 7);
    assert_eq!(
        quantity(&mut rig.client(), &agents[0], "files")["used"],
        7,
        "the parent's purse counts them all"
    );
    gate.open();
}

#[test]
fn a_window_that_ended_refills_the_purse_and_no_window_holds_more() {
    let rig = Rig::saying("done");
    let home = testkit::scratch();
    let mut client = rig.client();
    let budget = "lifecycle: persistent\nbudget_config: { max_files: 3, reset_period_seconds: 1 }\n";
    let agent = spawn(&mut client, &writer("hourly", home.path(), budget));
    let window = |client: &mut Client| {
        let status = client.call("agent.status", json!({ "agent_id": agent })).expect("known");
        status["purse"]["window_ends"].as_u64().expect("it has windows")
    };
    let path = home.path().join("a");
    let (mut windows, mut served, mut refused) = (0, 0_u32, 0_u32);
    let mut ends = window(&mut client);
    let mut in_window = 0_u32;
    // Asks on and on until three windows have been seen through to their end.
    while windows < 3 {
        let before = window(&mut client);
        if before != ends {
            (ends, in_window, windows) = (before, 0, windows + 1);
        }
        let told = write(&mut client, &agent, &path, "x");
        // A call on the border of two windows counts for neither.
        if window(&mut client) != before {
            continue;
        }
        match told {
            Ok(_) => (in_window, served) = (in_window + 1, served + 1),
            Err(_) => refused += 1,
        }
        assert!(in_window <= 3, "{in_window} in one window");
    }
    assert!(served > 3, "it was refilled: {served}");
    assert!(refused > 0, "and bounded");
    // The control: without windows what is spent stays spent, however often one asks.
    let once = spawn(&mut client, &writer("once", home.path(), "budget_config: { max_files: 3 }\n"));
    let written = (0..20).filter(|_| write(&mut client, &once, &path, "x").is_ok()).count();
    assert_eq!(written, 3);
}

#[test]
fn a_kill_in_the_middle_of_inferences_gives_nothing_back() {
    let turns = [Turn::say("first").metered(USED), Turn::Hang, Turn::say("second").metered(USED)];
    let rig = Rig::new(Script::in_order(turns));
    let mut client = rig.client();
    let budget = "budget_config: { max_tokens: 50000 }\n";
    let agent = rig.spawn(&format!("{}{budget}", persistent("keeper")));
    let first = deliver(&mut client, &agent, "one");
    assert_eq!(result_of(&mut client, &first)["status"], "done");
    let before = quantity(&mut client, &agent, "tokens");
    assert_eq!((&before["used"], &before["reserved"]), (&json!(300), &json!(0)));
    let second = deliver(&mut client, &agent, "two");
    assert_eq!(rig.models.wait_for_requests(2).len(), 2);
    let held = quantity(&mut client, &agent, "tokens");
    let reserved = held["reserved"].as_u64().expect("a number");
    assert!(reserved > 1000, "{held}");
    let daemon = rig.daemon.kill9().start();
    assert_eq!(result_of(&mut daemon.client(), &second)["result"]["response"], "second");
    let after = quantity(&mut daemon.client(), &agent, "tokens");
    let used = json!(300 + reserved + 300);
    assert_eq!((&after["used"], &after["reserved"]), (&used, &json!(0)), "what was in flight is all spent");
    assert_eq!(after["remaining"], 50_000 - 600 - reserved);
    assert_eq!(rig.models.requests().len(), 3, "it is asked again once");
    // The control: a death with nothing in flight takes nothing.
    let daemon = daemon.kill9().start();
    assert_eq!(quantity(&mut daemon.client(), &agent, "tokens"), after);
}

#[test]
fn the_time_that_runs_took_is_the_same_after_a_death() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let bounded = "budget_config: { max_wall_seconds: 100 }\n";
    let agent = rig.spawn(&format!("{}{bounded}", persistent("clocked")));
    assert_eq!(quantity(&mut client, &agent, "wall_millis")["used"], 0);
    for _ in 0..3 {
        let trace = deliver(&mut client, &agent, "go");
        assert_eq!(result_of(&mut client, &trace)["status"], "done");
    }
    let before = quantity(&mut client, &agent, "wall_millis");
    assert!(before["used"].as_u64() > Some(0) && before["reserved"] == 0, "{before}");
    let daemon = rig.daemon.kill9().start();
    assert_eq!(quantity(&mut daemon.client(), &agent, "wall_millis"), before);
}

#[test]
fn the_time_of_a_run_that_a_death_cut_does_not_count_while_the_daemon_is_down() {
    let rig = Rig::new(Script::in_order([Turn::Hang, Turn::say("done")]));
    let bounded = "budget_config: { max_wall_seconds: 100 }\n";
    let agent = rig.spawn(&format!("{}{bounded}", persistent("clocked")));
    let trace = deliver(&mut rig.client(), &agent, "go");
    assert_eq!(rig.models.wait_for_requests(1).len(), 1);
    let daemon = rig.daemon.kill9().start();
    let mut client = daemon.client();
    assert_eq!(result_of(&mut client, &trace)["status"], "done");
    let after = quantity(&mut client, &agent, "wall_millis");
    let all = client.call("audit.query", json!({})).expect("entries")["entries"].take();
    let all = all.as_array().expect("a list");
    let at = |entry: &Value| entry["timestamp"].as_u64().expect("a time");
    let place = |kind: &str| all.iter().rposition(|entry| entry["event"]["kind"] == kind).expect(kind);
    let (began, cut) = (place("agent_execution_started"), place("daemon_started") - 1);
    let (resumed, ended) = (place("agent_execution_resumed"), place("agent_execution_completed"));
    let took = at(&all[cut]) - at(&all[began]) + at(&all[ended]) - at(&all[resumed]);
    assert_eq!((&after["used"], &after["reserved"]), (&json!(took), &json!(0)), "both parts of the run");
    assert!(at(&all[resumed]) > at(&all[cut]), "the daemon was down for a while");
    // What the first start recorded of the run says the same to the second.
    let daemon = daemon.kill9().start();
    assert_eq!(quantity(&mut daemon.client(), &agent, "wall_millis"), after);
    assert_eq!(entries(&mut daemon.client(), &["agent_execution_completed"]).len(), 1);
}

#[test]
fn an_agent_that_runs_makes_no_second_run_whoever_began_the_first() {
    let gate = Gate::new();
    let held = gate.clone();
    let rig = Rig::new(Script::dynamic(move |seen| match seen.messages.last() {
        Some(last) if last.text == "first" => Turn::say("done").behind(&held),
        _ => Turn::say("done"),
    }));
    let mut client = rig.client();
    let spawning = "capabilities: [\"tool: spawn_agent\", \"spawn_child: [child]\"]\n";
    let parent = spawn(&mut client, &manifest("parent", spawning));
    let child = manifest("child", "budget_config: { max_wall_seconds: 100 }\n");
    let input = json!({ "manifest": child, "message": "first" });
    let mut caller = rig.client();
    let running =
        caller.send("tool.invoke", json!({ "agent_id": parent, "tool": "spawn_agent", "input": input }));
    assert_eq!(rig.models.wait_for_requests(1).len(), 1);
    let listed = client.call("agent.list", json!({})).expect("a list");
    let child = text(&listed["agents"][1]["id"]);
    let run = |client: &mut Client, agent: &str| {
        client.call("agent.run", json!({ "agent_id": agent, "message": "second" }))
    };
    let failure = run(&mut client, &child).expect_err("its parent's call runs it");
    assert!(failure.code == -32602 && failure.message.contains("running already"), "{failure:?}");
    assert_eq!(quantity(&mut client, &child, "wall_millis")["reserved"], 100_000, "its clock goes on");
    run(&mut client, &parent).expect("the control: this one makes no run");
    gate.open();
    let reply = caller.reply_to(running).expect("not disturbed");
    assert_eq!(reply["result"]["stop_reason"], "complete", "{reply}");
    let started = entries(&mut client, &["agent_execution_started"]);
    assert_eq!(started.iter().filter(|one| one["agent_id"] == child).count(), 1, "{started:?}");
    // The control: when its run is over, an agent runs again.
    run(&mut client, &parent).expect("once more");
}

#[test]
fn a_child_that_its_parents_call_leaves_no_journal_for_is_refused_and_does_not_wait_for_it() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let spawning = "capabilities: [\"tool: spawn_agent\", \"spawn_child: [kid]\"]\n";
    let input = json!({ "manifest": manifest("kid", ""), "message": "Go." });
    // Enough for the call or for the admission of the child, but not for both.
    let with = |most: u32| {
        manifest("parent", &format!("{spawning}budget_config: {{ max_journal_bytes: {most} }}\n"))
    };
    let poor = spawn(&mut client, &with(4_500));
    assert_spent(invoke(&mut client, &poor, "spawn_agent", input.clone()), "max_journal_bytes");
    assert_eq!(entries(&mut client, &["tool_invoked"]).len(), 1, "the call itself was covered");
    let rich = spawn(&mut client, &with(50_000));
    invoke(&mut client, &rich, "spawn_agent", input).expect("the control: with room for both");
}

#[test]
fn a_model_that_lost_its_price_is_not_asked_where_money_is_bounded() {
    let home = testkit::scratch();
    let prices = home.path().join("prices.toml");
    let priced = "[models.\"scripted-model\"]\ninput = \"1\"\ncached_input = \"1\"\noutput = \"1\"\n";
    std::fs::write(&prices, priced).expect("written");
    let models = ModelServer::start(Script::dynamic(|_| Turn::say("done")));
    let daemon = DaemonBuilder::openai(&models).env("AAOS_PRICES", &prices).start();
    let mut client = daemon.client();
    let bounded = "budget_config: { max_usd: 1.00 }\n";
    let agent = spawn(&mut client, &format!("{}{bounded}", persistent("payer")));
    let trace = deliver(&mut client, &agent, "go");
    assert_eq!(result_of(&mut client, &trace)["status"], "done", "the control: with a price it answers");
    assert!(quantity(&mut client, &agent, "micro_usd")["used"].as_u64() > Some(0));
    let builder = daemon.kill9();
    std::fs::write(&prices, "").expect("written");
    let daemon = builder.start();
    let mut client = daemon.client();
    let trace = deliver(&mut client, &agent, "go");
    let report = result_of(&mut client, &trace);
    assert_eq!(report["status"], "failed", "{report}");
    assert!(text(&report["result"]["error"]).contains("scripted-model has no price"), "{report}");
    assert_eq!(models.requests().len(), 1, "nobody was asked");
    // Nor is another one admitted.
    let other = json!({ "manifest": manifest("other", bounded) });
    let failure = client.call("agent.spawn", other).expect_err("no price");
    assert_eq!(failure.code, -32602, "{failure:?}");
}

/// What the first turn uses.
const USED: ReportedUsage = ReportedUsage { input: 200, cached: 0, output: 100 };

#[test]
fn the_time_of_its_runs_bounds_an_agent_and_a_persistent_one_lives_on() {
    let rig = Rig::new(Script::dynamic(|seen| match seen.messages.last() {
        Some(last) if last.text == "hang" => Turn::Hang,
        _ => Turn::say("done"),
    }));
    let mut client = rig.client();
    let bounded = "budget_config: { max_wall_seconds: 1, reset_period_seconds: 2 }\n";
    let agent = rig.spawn(&format!("{}{bounded}", persistent("clocked")));
    let trace = deliver(&mut client, &agent, "hang");
    let report = result_of(&mut client, &trace);
    assert_eq!(
        (&report["status"], &report["result"]["stop_reason"]),
        (&json!("failed"), &json!("budget_exceeded"))
    );
    assert!(text(&report["result"]["error"]).contains("max_wall_seconds"), "{report}");
    rig.models.wait_for_hangups(1);
    let exceeded = wait_for_entry(&rig.daemon, "budget_exceeded", |entry| entry["agent_id"] == agent);
    assert_eq!(exceeded["event"]["quantity"], "wall_millis");
    // Its next messages fail until the window ends, and then it answers again.
    let answered = (0..10_000).any(|_| {
        let trace = deliver(&mut client, &agent, "hello");
        result_of(&mut client, &trace)["status"] == "done"
    });
    assert!(answered, "the next window has time again");
    // The control: without a bound on its time the same message keeps it.
    let free = rig.spawn(&persistent("free"));
    let trace = deliver(&mut client, &free, "hang");
    assert!(rig.models.wait_for_requests(3).len() >= 3);
    let params = json!({ "trace_id": trace, "wait_seconds": 2 });
    assert_eq!(client.call("agent.result", params).expect("known")["status"], "pending");
}
