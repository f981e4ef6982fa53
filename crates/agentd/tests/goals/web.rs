//! Pages for goals: fetched from hosts that were granted, and from no other.

use crate::support::{Rig, Work, write};
use serde_json::{Value, json};
use testkit::{Page, Turn, WebServer};

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
