//! Pages for goals: fetched from hosts that were granted, and from no other.

use crate::support::{Rig, Work, next_entry, results_of, write};
use serde_json::{Value, json};
use testkit::{Gate, Page, Turn, WebServer};

fn fetch(url: &str) -> Turn {
    Turn::call("web_fetch", json!({ "url": url }))
}

fn with_grant(work: &Work, outputs: &[&str], grant: &str) -> Value {
    let mut goal = work.goal(outputs);
    goal["grants"].as_array_mut().expect("a list").push(json!(grant));
    goal
}

/// What the lead sees of its first call, having fetched `url` under `grant`.
fn fetched_under(grant: Option<&str>, url: &str) -> (Rig, Value) {
    let rig = Rig::lead(|_| [fetch(url), Turn::say("ended")]);
    let goal = grant.map_or_else(|| rig.work.goal(&[]), |grant| with_grant(&rig.work, &[], grant));
    rig.run(goal).assert_ended("done", 0);
    let seen = rig.results_seen_by("You are the lead.").remove(0);
    (rig, seen)
}

fn page() -> WebServer {
    let html = "<html><head><title>News</title><script>bad()</script></head><body><h1>Tides</h1>\
                <p>The <a href=\"/x\">moon</a> pulls.</p></body></html>";
    WebServer::start([("/news", Page::Html(html.into())), ("/text", Page::Text("plain".into()))])
}

#[test]
fn a_granted_loopback_page_becomes_markdown_and_an_output() {
    let web = page();
    let url = web.url("/news");
    let rig = Rig::lead(|work| [fetch(&url), write(&work.path("out/page.md"), "# Tides"), Turn::say("done")]);
    let ran = rig.run(with_grant(&rig.work, &["out/page.md"], &format!("network: {}", web.authority())));
    ran.assert_ended("done", 0);
    let seen = rig.results_seen_by("You are the lead.").remove(0);
    let body = seen["body"].as_str().expect("text");
    assert!(body.contains("# Tides") && body.contains("moon"), "{seen}");
    assert!(!body.contains("bad()") && !body.contains("<p>"), "readable text: {body}");
    assert_eq!((&seen["status"], &seen["final_url"]), (&json!(200), &json!(url)));
    assert_eq!(web.requests().len(), 1);
    let fetched = ran.of_kind("network_fetched");
    assert_eq!(fetched[0]["event"]["final_url"], json!(url), "{fetched:?}");
    let receipts = crate::support::of_kind(&rig.journal(), "confinement_receipt").len();
    assert!(receipts >= 3, "models, egress and a worker");
}

#[test]
fn without_the_grant_nothing_is_connected() {
    let web = page();
    let (rig, seen) = fetched_under(None, &web.url("/text"));
    assert_eq!(seen["error"]["kind"], "denied", "{seen}");
    assert_eq!(web.requests().len(), 0);
    let denials = rig.journal().iter().filter(|one| one["event"]["kind"] == "capability_denied").count();
    assert_eq!(denials, 1);
    // The control: the same call under the grant arrives.
    let (_rig, seen) = fetched_under(Some(&format!("network: {}", web.authority())), &web.url("/text"));
    assert_eq!((&seen["body"], web.requests().len()), (&json!("plain"), 1), "{seen}");
}

#[test]
fn web_search_does_not_cover_loopback_nor_its_names() {
    let web = page();
    let port = web.authority().rsplit(':').next().expect("a port").to_owned();
    for url in [web.url("/text"), format!("http://localhost:{port}/text"), "http://127.0.0.1/text".to_owned()]
    {
        let (_rig, seen) = fetched_under(Some("web_search"), &url);
        let kind = seen["error"]["kind"].as_str().unwrap_or_else(|| panic!("{url} answered {seen}"));
        assert!(kind == "denied" || kind == "network", "{seen}");
    }
    assert_eq!(web.requests().len(), 0);
}

#[test]
fn a_redirect_leads_to_granted_hosts_only() {
    let other = page();
    let to = other.url("/text");
    let redirect = |to: &str| Page::Redirect { status: 302, to: to.to_owned() };
    let web = WebServer::start([
        ("/out", redirect(&to)),
        ("/here", redirect("/end")),
        ("/end", Page::Text("the end".into())),
    ]);
    let grant = format!("network: {}", web.authority());
    let (_rig, seen) = fetched_under(Some(&grant), &web.url("/out"));
    assert!(seen["error"].is_object(), "{seen}");
    assert_eq!((web.requests().len(), other.requests().len()), (1, 0), "nothing arrived at the other port");
    let (_rig, seen) = fetched_under(Some(&grant), &web.url("/here"));
    assert_eq!(seen["body"], "the end", "control: a redirect within the grant is followed: {seen}");
}

#[test]
fn a_host_that_is_not_granted_is_refused_by_name() {
    let (_rig, seen) = fetched_under(Some("network: example.org"), "https://example.com/");
    assert_eq!(seen["error"]["kind"], "denied", "{seen}");
    let said = seen["error"]["message"].as_str().expect("words");
    assert!(said.contains("example.com") && said.contains("network"), "what to grant: {said}");
}

/// A lead that makes these calls in one turn and then says something, run under a grant of the server.
fn in_one_turn(web: &WebServer, calls: impl FnOnce(&Work) -> Vec<(String, Value)>) -> (Rig, Value) {
    let rig = Rig::lead(|work| [Turn::Call(calls(work)), Turn::say("ended")]);
    let goal = with_grant(&rig.work, &[], &format!("network: {}", web.authority()));
    (rig, goal)
}

#[test]
fn calls_of_one_turn_that_may_run_beside_others_do() {
    let gate = Gate::new();
    let names = ["/a", "/b", "/c", "/d"];
    let gated = |name: &str| Page::Gated(gate.clone(), Box::new(Page::Text(format!("page {name}"))));
    let web = WebServer::start(names.map(|name| (name, gated(name))));
    let fetches = |_: &Work| names.map(|name| ("web_fetch".to_owned(), json!({ "url": web.url(name) })));
    let (rig, goal) = in_one_turn(&web, |work| fetches(work).to_vec());
    let ran = std::thread::scope(|scope| {
        let running = scope.spawn(|| rig.run(goal));
        assert_eq!(web.wait_for_requests(4).len(), 4, "all are under way, and none is answered");
        gate.open();
        running.join().expect("it ends")
    });
    ran.assert_ended("done", 0);
    let seen = rig.results_seen_by("You are the lead.");
    let bodies: Vec<&str> = seen.iter().map(|page| page["body"].as_str().expect("text")).collect();
    assert_eq!(
        bodies,
        ["page /a", "page /b", "page /c", "page /d"],
        "in the order in which they were asked for"
    );
}

#[test]
fn a_turn_with_a_call_that_may_not_run_beside_others_is_made_in_order() {
    let web = WebServer::start([("/a", Page::Text("one".into())), ("/b", Page::Text("two".into()))]);
    let url = |name| json!({ "url": web.url(name) });
    let (rig, goal) = in_one_turn(&web, |work| {
        let written = json!({ "path": work.path("out/x"), "content": "x" });
        vec![
            ("web_fetch".to_owned(), url("/a")),
            ("file_write".to_owned(), written),
            ("web_fetch".to_owned(), url("/b")),
        ]
    });
    let ran = rig.run(goal);
    ran.assert_ended("done", 0);
    let steps: Vec<&str> = ran
        .entries
        .iter()
        .filter_map(|entry| entry["event"]["kind"].as_str())
        .filter(|kind| ["tool_invoked", "tool_result"].contains(kind))
        .collect();
    assert_eq!(steps, ["tool_invoked", "tool_result"].repeat(3), "each ends before the next begins");
}

#[test]
fn a_call_that_waited_for_a_purse_makes_do_with_what_is_left() {
    let gate = Gate::new();
    let gated = |text: &str| Page::Gated(gate.clone(), Box::new(Page::Text(text.repeat(60))));
    let web = WebServer::start([("/a", gated("a")), ("/b", gated("b"))]);
    let (rig, mut goal) = in_one_turn(&web, |_| {
        ["/a", "/b"].map(|name| ("web_fetch".to_owned(), json!({ "url": web.url(name) }))).to_vec()
    });
    goal["budget"] = json!({ "max_egress_bytes": 100 });
    let ran = std::thread::scope(|scope| {
        let running = scope.spawn(|| rig.run(goal));
        assert_eq!(web.wait_for_requests(1).len(), 1, "the other waits for the purse");
        gate.open();
        running.join().expect("it ends")
    });
    ran.assert_ended("done", 0);
    let seen = rig.results_seen_by("You are the lead.");
    let lengths: Vec<_> = seen.iter().map(|page| page["body"].as_str().map(str::len)).collect();
    assert!(lengths == [Some(60), Some(40)] || lengths == [Some(40), Some(60)], "{seen:?}");
}

#[test]
fn a_kill_in_a_turn_of_several_calls_repeats_only_those_without_a_result() {
    let gate = Gate::new();
    let gated = |text: &str| Page::Gated(gate.clone(), Box::new(Page::Text(text.to_owned())));
    let web = WebServer::start([("/a", gated("a")), ("/b", Page::Text("b".into())), ("/c", gated("c"))]);
    let names = ["/a", "/b", "/c"];
    let (rig, goal) = in_one_turn(&web, |_| {
        names.map(|name| ("web_fetch".to_owned(), json!({ "url": web.url(name) }))).to_vec()
    });
    let Rig { daemon, models, work: _work } = rig;
    let mut client = daemon.client();
    let goal = client.call("goal.submit", goal).expect("is acknowledged")["goal_id"].clone();
    client.send("audit.stream", json!({ "goal_id": goal }));
    next_entry(&mut client, |entry| entry["event"]["kind"] == "tool_result");
    assert_eq!(web.wait_for_requests(3).len(), 3, "the two others are under way");
    let daemon = daemon.kill9().start();
    gate.open();
    let mut client = daemon.client();
    client.send("audit.stream", json!({ "goal_id": goal }));
    let finished = next_entry(&mut client, |entry| entry["event"]["kind"] == "goal_finished");
    assert_eq!(finished["event"]["state"], "done", "{finished}");
    let fetched = |name: &str| web.requests().iter().filter(|fetch| fetch.target == name).count();
    assert_eq!(names.map(fetched), [2, 1, 2]);
    let seen = models.requests();
    let last = results_of(seen.last().expect("it has asked again"));
    let bodies: Vec<&str> = last.iter().map(|page| page["body"].as_str().expect("text")).collect();
    assert_eq!(bodies, ["a", "b", "c"]);
}
