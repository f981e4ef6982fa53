//! Denials name the grant that is missing, and it is just what was missing; who can reach what is told over the tree.

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{Client, Gate, Page, Script, SeenRequest, Turn, WebServer};

use crate::revocation::{grant_of, holding, named, revoke};
use crate::support::{Rig, entries, invoke, spawn, text};

fn explain(client: &mut Client, params: Value) -> Value {
    client.call("capability.explain", params).expect("an explanation")
}

/// One call that is refused for want of something.
struct Case {
    what: &'static str,
    /// Held at first.
    grants: Vec<String>,
    tool: &'static str,
    input: Value,
    /// The same in the words of `capability.explain`.
    asked: Value,
    reason: &'static str,
    /// Calls that pass first.
    uses: u32,
    /// The path is a directory, which the law cannot know: the hint says how its grant ends.
    is_directory: bool,
}

impl Case {
    fn new(what: &'static str, grants: &[&str], tool: &'static str, input: Value, asked: Value) -> Self {
        let grants = grants.iter().map(|grant| (*grant).to_owned()).collect();
        Self { what, grants, tool, input, asked, reason: "no grant covers it", uses: 0, is_directory: false }
    }

    fn because(self, reason: &'static str, uses: u32) -> Self {
        Self { reason, uses, ..self }
    }
}

fn file_cases(home: &TempDir) -> Vec<Case> {
    let at = |name: &str| home.path().join(name).display().to_string();
    let read = |name: &str| (json!({ "path": at(name) }), json!({ "tool": "file_read", "read": at(name) }));
    let reading = |what, grants: &[&str], name: &str| {
        let (input, asked) = read(name);
        Case::new(what, grants, "file_read", input, asked)
    };
    let below = format!("file_read: {}/*", home.path().display());
    let edit = json!({ "path": at("f"), "old_string": "text", "new_string": "text" });
    vec![
        reading("the tool", &[&below], "f"),
        reading("the path", &["tool: file_read"], "f"),
        reading("both", &[], "f"),
        reading("an odd name", &[], "a b #c: {d}"),
        reading("a neighbour", &["tool: file_read", &format!("file_read: {}", at("f"))], "g"),
        Case {
            is_directory: true,
            ..Case::new(
                "a directory",
                &["tool: file_list"],
                "file_list",
                json!({ "path": at("d") }),
                json!({ "tool": "file_list", "read": at("d") }),
            )
        },
        Case::new(
            "writing beside reading",
            &["tool: *", &below],
            "file_edit",
            edit.clone(),
            json!({ "tool": "file_edit", "read": at("f"), "write": at("f") }),
        ),
        Case::new(
            "all of an edit",
            &[],
            "file_edit",
            edit,
            json!({ "tool": "file_edit", "read": at("f"), "write": at("f") }),
        ),
        Case::new(
            "a new file",
            &["tool: file_write"],
            "file_write",
            json!({ "path": at("new"), "content": "x" }),
            json!({ "tool": "file_write", "write": at("new") }),
        ),
    ]
}

fn other_cases(web: &WebServer) -> Vec<Case> {
    let echo = |what, grant: &str| {
        Case::new(what, &[grant], "echo", json!({ "message": "x" }), json!({ "tool": "echo" }))
    };
    let (host, port) = web
        .authority()
        .rsplit_once(':')
        .map(|(host, port)| (host.to_owned(), port.to_owned()))
        .expect("a port");
    let port: u16 = port.parse().expect("a number");
    let child = crate::support::manifest("kid", "");
    vec![
        echo("another tool", "tool: grep"),
        echo("used up", "{ tool: echo, max_invocations: 2 }").because("used up", 2),
        echo("too often", "{ tool: echo, max_per_minute: 1 }").because("too often", 1),
        echo("only to hand on", "{ tool: echo, use: false }").because("use: false", 0),
        Case::new(
            "a host",
            &["tool: web_fetch", "web_search", "network: 127.0.0.1"],
            "web_fetch",
            json!({ "url": web.url("/page") }),
            json!({ "tool": "web_fetch", "host": host, "port": port }),
        ),
        Case::new(
            "a child's name",
            &["tool: spawn_agent", "spawn_child: [other]"],
            "spawn_agent",
            json!({ "manifest": child, "message": "Go." }),
            json!({ "spawn": "kid" }),
        ),
    ]
}

fn check(client: &mut Client, case: &Case) {
    let what = case.what;
    let agent = spawn(client, &holding("before", &case.grants));
    for _ in 0..case.uses {
        invoke(client, &agent, case.tool, case.input.clone()).expect(what);
    }
    let failure = invoke(client, &agent, case.tool, case.input.clone()).expect_err(what);
    assert_eq!((failure.code, &failure.data["reason"]), (1002, &json!("denied")), "{what}: {failure:?}");
    assert!(failure.message.contains(case.reason), "{what}: {failure:?}");
    let mut asked = case.asked.clone();
    asked["agent_id"] = json!(agent);
    let told = explain(client, asked.clone());
    let missing = told["missing"].as_array().expect("a list");
    assert!(!missing.is_empty() && told["met"] == json!([]), "{what}: {told}");
    let mut words: Vec<String> = missing.iter().map(|one| text(&one["missing"])).collect();
    for one in missing {
        assert!(
            failure.message.contains(&text(&one["missing"])),
            "{what}: {one} is not in {}",
            failure.message
        );
    }
    assert!(failure.message.contains(&text(&missing[0]["hint"])), "{what}: {failure:?}");
    if case.is_directory {
        assert!(failure.message.contains("that of a directory ends in /*"), "{failure:?}");
        words[0].push_str("/*");
    }
    // Just that: all of it is enough, and nothing of it can be left out.
    for left_out in 0..words.len() {
        let mut grants = case.grants.clone();
        grants.extend(words.iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, one)| one.clone()));
        let agent = spawn(client, &holding("nearly", &grants));
        for _ in 0..case.uses {
            invoke(client, &agent, case.tool, case.input.clone()).expect(what);
        }
        let refused = invoke(client, &agent, case.tool, case.input.clone()).expect_err(what);
        assert_eq!(refused.code, 1002, "{what} without {}: {refused:?}", words[left_out]);
    }
    let grants = [case.grants.clone(), words.clone()].concat();
    let agent = spawn(client, &holding("after", &grants));
    for _ in 0..=case.uses {
        let passed = invoke(client, &agent, case.tool, case.input.clone());
        assert!(passed.is_ok(), "{what}: {words:?} is not enough: {passed:?}");
    }
    asked["agent_id"] = json!(agent);
    let told = explain(client, asked);
    assert!(told["missing"] == json!([]) && told["met"] != json!([]), "{what}: {told}");
}

#[test]
fn the_missing_grant_is_all_that_was_missing() {
    let home = testkit::scratch();
    for name in ["f", "g", "a b #c: {d}"] {
        std::fs::write(home.path().join(name), "text").expect("writes");
    }
    std::fs::create_dir(home.path().join("d")).expect("makes it");
    let web = WebServer::start([("/page", Page::Text("a page".into()))]);
    let rig = Rig::saying("done");
    let mut client = rig.client();
    for case in file_cases(&home).iter().chain(&other_cases(&web)) {
        check(&mut client, case);
    }
    assert!(rig.models.unscripted().is_empty());
}

#[test]
fn an_expired_grant_is_told_as_expired_and_a_fresh_one_helps() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let agent = spawn(&mut client, &holding("brief", &["{ tool: echo, expires_in_seconds: 1 }".to_owned()]));
    let hello = json!({ "message": "hello" });
    invoke(&mut client, &agent, "echo", hello.clone()).expect("control: it stands");
    let asked = json!({ "agent_id": agent, "tool": "echo" });
    let told = loop {
        let told = explain(&mut client, asked.clone());
        if told["missing"] != json!([]) {
            break told;
        }
    };
    assert!(text(&told["missing"][0]["reason"]).contains("expired"), "{told}");
    let failure = invoke(&mut client, &agent, "echo", hello.clone()).expect_err("expired");
    assert!(failure.message.contains("expired") && failure.message.contains("tool: echo"), "{failure:?}");
    let fresh = spawn(&mut client, &holding("fresh", &[text(&told["missing"][0]["missing"])]));
    invoke(&mut client, &fresh, "echo", hello).expect("a fresh one");
}

#[test]
fn what_no_pattern_names_is_not_given_the_words_of_a_wider_grant() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let agent = spawn(&mut client, &holding("reader", &["tool: file_read".to_owned()]));
    for path in ["/*", "/data/*", "/data ", "/data/a\nb", "/data/../etc/passwd"] {
        let failure =
            invoke(&mut client, &agent, "file_read", json!({ "path": path })).expect_err("no grant");
        let told = explain(&mut client, json!({ "agent_id": agent, "read": path }));
        let missing = text(&told["missing"][0]["missing"]);
        assert_eq!(missing, format!("a file_read grant that covers {path:?}"));
        assert!(failure.message.contains(&missing), "{failure:?}");
        let manifest = holding("wide", &[missing]);
        client.call("agent.spawn", json!({ "manifest": manifest })).expect_err("it is no grant");
    }
}

#[test]
fn a_model_is_told_what_is_missing_and_what_to_do() {
    let rig = Rig::new(Script::dynamic(|seen: &SeenRequest| match seen.replies_so_far() {
        0 => Turn::call("file_read", json!({ "path": "/no/grant/for/this" })),
        _ => Turn::say("so be it"),
    }));
    let mut client = rig.client();
    let grants = ["tool: file_read".to_owned(), "file_read: /tmp/*".to_owned()];
    let agent = spawn(&mut client, &holding("reader", &grants));
    client.call("agent.run", json!({ "agent_id": agent, "message": "Read." })).expect("runs");
    let told = explain(&mut client, json!({ "agent_id": agent, "read": "/no/grant/for/this" }));
    let seen = rig.models.requests();
    let content = &seen[1].results[0].content;
    assert!(content.contains("file_read: /no/grant/for/this"), "{content}");
    for member in ["missing", "reason", "hint"] {
        let words = text(&told["missing"][0][member]);
        assert!(content.contains(&words), "{member} {words:?} is not in {content}");
    }
    let denied = entries(&mut client, &["capability_denied"]);
    assert_eq!(denied[0]["event"]["denied"], told["missing"][0], "people and the journal are told the same");
}

fn reach(client: &mut Client, asked: Value) -> Vec<Value> {
    explain(client, asked)["reach"].as_array().expect("a list").clone()
}

fn names(found: &[Value]) -> Vec<&str> {
    found.iter().filter_map(|one| one["agent_name"].as_str()).collect()
}

#[test]
fn who_can_reach_what_is_told_over_the_delegation_tree() {
    let home = testkit::scratch();
    std::fs::create_dir(home.path().join("x")).expect("makes it");
    let at = |below: &str| home.path().join(below).display().to_string();
    let gate = Gate::new();
    let held = gate.clone();
    let rig = Rig::new(Script::dynamic(move |_| Turn::say("done").behind(&held)));
    let mut client = rig.client();
    let handed = format!("{{ file_read: {}, use: false }}", at("*"));
    let kept = "{ tool: echo, delegate: false }".to_owned();
    let own = ["tool: spawn_agent", "spawn_child: [*]", "network: example.org"].map(str::to_owned);
    let top = spawn(&mut client, &holding("top", &[own.to_vec(), vec![handed, kept]].concat()));
    let outside = spawn(&mut client, &holding("outside", &[format!("file_read: {}", at("x/*"))]));
    let child = holding("child", &[format!("file_read: {}", at("x/*"))]);
    let mut caller = rig.client();
    let input = json!({ "manifest": child, "message": "Wait." });
    let spawning =
        caller.send("tool.invoke", json!({ "agent_id": top, "tool": "spawn_agent", "input": input }));
    assert_eq!(rig.models.wait_for_requests(1).len(), 1);
    let child = named(&mut client, "child");

    let found = reach(&mut client, json!({ "read": at("x/f") }));
    assert_eq!(names(&found), ["top", "outside", "child"]);
    let through = |at: usize| &found[at]["through"][0];
    assert_eq!(
        (&through(0)["usable"], &through(0)["delegable"]),
        (&json!(false), &json!(true)),
        "only to hand on"
    );
    assert!(text(&through(0)["reason"]).contains("use: false"), "{}", through(0));
    assert_eq!((&found[0]["ancestors"], &found[2]["ancestors"]), (&json!([]), &json!([top])));
    let parent = grant_of(&mut client, &top, &text(&through(0)["grant"]));
    assert_eq!((&through(2)["derives_from"], &through(1)["derives_from"]), (&json!([parent]), &json!([])));
    assert_eq!(names(&reach(&mut client, json!({ "read": at("y") }))), ["top"]);
    assert_eq!(names(&reach(&mut client, json!({ "read": "/etc/passwd" }))), Vec::<&str>::new());
    assert_eq!(names(&reach(&mut client, json!({ "write": at("x/f") }))), Vec::<&str>::new());

    let echo = reach(&mut client, json!({ "tool": "echo" }));
    assert_eq!((names(&echo), &echo[0]["through"][0]["delegable"]), (vec!["top"], &json!(false)));
    assert_eq!(echo[0]["through"][0]["usable"], true);
    assert_eq!(names(&reach(&mut client, json!({ "host": "Example.ORG." }))), ["top"]);
    assert_eq!(
        names(&reach(&mut client, json!({ "host": "example.org", "port": 8080 }))),
        Vec::<&str>::new()
    );

    revoke(&mut client, &top, &parent).expect("revoked");
    assert_eq!(
        names(&reach(&mut client, json!({ "read": at("x/f") }))),
        ["outside"],
        "what was revoked reaches nothing"
    );
    client.call("agent.stop", json!({ "agent_id": outside })).expect("stops");
    assert_eq!(names(&reach(&mut client, json!({ "read": at("x/f") }))), Vec::<&str>::new());
    assert!(
        explain(&mut client, json!({ "agent_id": child, "read": at("x/f") }))["missing"][0]["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("revoked"))
    );
    gate.open();
    caller.reply_to(spawning).expect("the child ends by itself");
}
