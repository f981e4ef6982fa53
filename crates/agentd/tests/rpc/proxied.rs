//! The network of programs, through the real daemon and gateway: what a grant names is reached through the proxy, and
//! each refusal has its control.

use std::path::Path;

use aaos_core::limits::{MAX_AGENT_PROXIED, MAX_RELAYED};
use serde_json::{Value, json};
use testkit::{Client, Gate, Page, RpcFailure, WebServer, descendants};

use crate::revocation::{assert_ended, grant_of, holding, revoke};
use crate::support::{
    Rig, assert_intact, entries, invoke, peak_mib, spawn, wait_for_entries, wait_for_entry,
};

/// The program that talks to its proxy.
fn talker() -> String {
    let test = std::env::current_exe().expect("a running program has a path");
    let folder = test.parent().and_then(Path::parent).expect("deps lies in a profile's folder");
    let path = folder.join("examples/proxied_program");
    assert!(path.is_file(), "{} is missing: build `-p aaos-sandbox --examples`", path.display());
    path.to_str().expect("a plain path").to_owned()
}

fn page() -> WebServer {
    WebServer::start([("/page", Page::Text("a plain page".into()))])
}

/// An agent that may start the talker, with these grants besides.
fn agent(client: &mut Client, grants: &[&str], more: &str) -> String {
    let own = ["tool: command_run".to_owned(), format!("exec: {}", talker())];
    let grants: Vec<String> = own.into_iter().chain(grants.iter().map(|one| (*one).to_owned())).collect();
    spawn(client, &(holding("talker", &grants) + more))
}

fn network(web: &WebServer) -> String {
    format!("network: {}", web.authority())
}

fn input(args: &[&str], said: &str) -> Value {
    json!({ "program": talker(), "args": args, "stdin": said })
}

fn try_to(client: &mut Client, agent: &str, args: &[&str], said: &str) -> Result<Value, RpcFailure> {
    invoke(client, agent, "command_run", input(args, said))
}

/// What the program is told through its proxy, having said this.
fn told(client: &mut Client, agent: &str, said: &str) -> String {
    let ran = try_to(client, agent, &["talk"], said).expect("it runs");
    assert_eq!(ran["exit_code"], 0, "{ran}");
    ran["stdout"].as_str().expect("text").to_owned()
}

fn get(host: &str, path: &str) -> String {
    format!("GET http://{host}{path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

fn tunnel(to: &str, then: &str) -> String {
    format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n{then}")
}

fn egress_used(client: &mut Client, agent: &str) -> Value {
    let status = client.call("agent.status", json!({ "agent_id": agent })).expect("known");
    let all = status["purse"]["quantities"].as_array().expect("a list").clone();
    let found = all.into_iter().find(|one| one["quantity"] == "egress_bytes");
    found.expect("listed")["used"].clone()
}

#[test]
fn a_program_reaches_a_granted_host_and_each_connection_is_journalled() {
    let (web, rig) = (page(), Rig::saying("done"));
    let mut client = rig.client();
    let agent = agent(&mut client, &[&network(&web)], "budget_config: { max_egress_bytes: 100000 }\n");
    let plain = told(&mut client, &agent, &get(&web.authority(), "/page"));
    assert!(plain.starts_with("HTTP/1.1 200 ") && plain.ends_with("a plain page"), "{plain}");
    let inside = "GET /page HTTP/1.1\r\nHost: inside\r\nConnection: close\r\n\r\n";
    let tunnelled = told(&mut client, &agent, &tunnel(&web.authority(), inside));
    assert!(tunnelled.starts_with("HTTP/1.1 200 Connection established\r\n"), "{tunnelled}");
    assert!(tunnelled.ends_with("a plain page"), "{tunnelled}");
    assert_eq!(web.requests().len(), 2);

    let requested = entries(&mut client, &["connection_requested"]);
    let ended = wait_for_entries(&rig.daemon, &["connection_ended"], 2);
    let invoked = entries(&mut client, &["tool_invoked"]);
    let mut moved = 0;
    for ((asked, over), call) in requested.iter().zip(&ended).zip(&invoked) {
        let (asked, over) = (&asked["event"], &over["event"]);
        let authority = format!("{}:{}", asked["host"].as_str().expect("a host"), asked["port"]);
        assert_eq!((&authority, &asked["under"]), (&web.authority(), &call["event"]["call"]), "{asked}");
        assert_eq!((&over["call"], &over["failure"]), (&asked["call"], &Value::Null), "{over}");
        moved += over["sent"].as_u64().expect("bytes") + over["received"].as_u64().expect("bytes");
    }
    assert_eq!((requested.len(), ended.len()), (2, 2));
    assert!(moved > inside.len() as u64 + 24, "{ended:?}");
    assert_eq!(egress_used(&mut client, &agent), moved, "bytes of both ways are paid");
    let receipt =
        wait_for_entry(&rig.daemon, "confinement_receipt", |entry| entry["event"]["role"] == "program");
    assert!(receipt.to_string().contains("the proxy's port 3128 alone"), "{receipt}");
    assert_intact(&mut client);
}

#[test]
fn without_a_grant_of_a_host_there_is_neither_proxy_nor_socket() {
    let (web, rig) = (page(), Rig::saying("done"));
    let mut client = rig.client();
    for grants in [&[][..], &["{ network: a.test, use: false }"]] {
        let agent = agent(&mut client, grants, "");
        let silent = try_to(&mut client, &agent, &["talk"], "").expect("it runs");
        let words = silent["stderr"].as_str().expect("text");
        assert!(silent["exit_code"] == 1 && words.contains("NotPresent"), "no variable: {silent}");
        for to in ["127.0.0.1:3128", &web.authority()] {
            let refused = try_to(&mut client, &agent, &["connect", to], "").expect("it runs");
            assert_eq!(refused["stdout"], "refused with 1\n", "{to}");
        }
        client.call("agent.stop", json!({ "agent_id": agent })).expect("stopped");
    }
    assert!(web.requests().is_empty() && entries(&mut client, &["connection_requested"]).is_empty());
    // The control: with the grant, and past the proxy with it.
    let granted = agent(&mut client, &[&network(&web)], "");
    assert!(told(&mut client, &granted, &get(&web.authority(), "/page")).ends_with("a plain page"));
    let past = try_to(&mut client, &granted, &["connect", &web.authority()], "").expect("it runs");
    assert_eq!(past["stdout"], "refused with 13\n", "only through the proxy");
}

/// Ways to write 127.0.0.1, and names and addresses that lead to this machine.
fn spellings(port: &str) -> Vec<String> {
    let hosts = [
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "127.1",
        "127.0.1",
        "127.0.0.2",
        "0.0.0.0",
        "0",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[::1]",
        "[::]",
        "[64:ff9b::7f00:1]",
        "[fe80::1%25lo]",
        "localhost",
        "localhost.",
        "127.0.0.1.nip.io.invalid",
        "a@127.0.0.1",
    ];
    hosts.iter().map(|host| format!("{host}:{port}")).collect()
}

#[test]
fn no_spelling_of_an_address_gets_past_its_grant() {
    let (web, rig) = (page(), Rig::saying("done"));
    let mut client = rig.client();
    let authority = web.authority();
    let port = authority.rsplit(':').next().expect("a port");
    let granted = format!("network: example.test:{port}");
    let agent = agent(&mut client, &[&granted, "web_search", "network: 127.0.0.1:1"], "");
    for to in spellings(port).into_iter().chain([authority.clone()]) {
        for said in [tunnel(&to, "GET /page HTTP/1.1\r\n\r\n"), get(&to, "/page")] {
            let answer = told(&mut client, &agent, &said);
            let status = answer.get(..13).unwrap_or_default();
            assert!(["HTTP/1.1 400 ", "HTTP/1.1 403 ", "HTTP/1.1 502 "].contains(&status), "{to}: {answer}");
        }
    }
    assert!(web.requests().is_empty(), "{:?}", web.requests());
}

#[test]
fn what_is_not_granted_or_could_be_read_in_two_ways_is_refused() {
    let (web, other, rig) = (page(), page(), Rig::saying("done"));
    let mut client = rig.client();
    let agent = agent(&mut client, &[&network(&web)], "");
    let (here, there) = (web.authority(), other.authority());
    for (said, status) in [
        (get(&there, "/page"), 403),
        (tunnel(&there, "GET /page HTTP/1.1\r\n\r\n"), 403),
        (get("example.test", "/page"), 403),
        (format!("GET http://{here}/page HTTP/1.1\r\nHost: {there}\r\n\r\n"), 400),
        (format!("GET /page HTTP/1.1\r\nHost: {here}\r\n\r\n"), 400),
        (format!("GET http://x@{here}/page HTTP/1.1\r\nHost: {here}\r\n\r\n"), 400),
        (format!("CONNECT {here} HTTP/1.1\r\nHost: {there}\r\n\r\n"), 400),
        ("nonsense\r\n\r\n".to_owned(), 400),
    ] {
        let answer = told(&mut client, &agent, &said);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{said}: {answer}");
    }
    assert!(web.requests().is_empty() && other.requests().is_empty());
    let denied = wait_for_entries(&rig.daemon, &["capability_denied"], 3);
    assert!(denied.iter().all(|one| one["event"]["effect"] == "connection"), "{denied:?}");
    assert!(told(&mut client, &agent, &get(&here, "/page")).ends_with("a plain page"), "the control");
    // A second request does not ride along to where the first may go.
    let two = get(&here, "/page") + &get(&there, "/page");
    assert!(told(&mut client, &agent, &two).ends_with("a plain page"));
    assert_eq!((web.requests().len(), other.requests().len()), (2, 0));
}

#[test]
fn an_endless_body_ends_with_the_purse_and_in_little_memory() {
    const MOST: u64 = 3 * 1024 * 1024;
    let web = WebServer::start([("/huge", Page::Huge { total: 1 << 50 })]);
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let budget = format!("budget_config: {{ max_egress_bytes: {MOST} }}\n");
    let agent = agent(&mut client, &[&network(&web)], &budget);
    let counted = try_to(&mut client, &agent, &["count"], &get(&web.authority(), "/huge")).expect("it ends");
    let got: u64 = counted["stdout"].as_str().expect("text").trim().parse().expect("a number");
    assert!(got > MOST - 64 * 1024 && got <= MOST, "{got}");
    web.wait_for_hangups(1);
    assert_eq!(egress_used(&mut client, &agent), MOST, "all of it is spent, and no more");
    let ended = wait_for_entries(&rig.daemon, &["connection_ended"], 3);
    assert!(ended.iter().any(|one| one["event"]["failure"].to_string().contains("egress")), "{ended:?}");
    for process in descendants(rig.daemon.pid()) {
        let peak = peak_mib(process.pid.unsigned_abs());
        assert!(peak < 200, "{} had {peak} MiB", process.name);
    }
    // With nothing left nobody is asked any more.
    let refused = told(&mut client, &agent, &get(&web.authority(), "/huge"));
    assert!(refused.starts_with("HTTP/1.1 403 ") && refused.contains("max_egress_bytes"), "{refused}");
    assert_eq!(web.requests().len(), 1);
}

#[test]
fn a_body_that_drips_ends_with_the_time_of_the_program() {
    let web = WebServer::start([
        ("/drip", Page::HangMidBody("a drop".into())),
        ("/page", Page::Text("a plain page".into())),
    ]);
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let agent = agent(&mut client, &[&network(&web)], "");
    // The gateway is started with the first connection: its time is not the drop's.
    assert!(told(&mut client, &agent, &get(&web.authority(), "/page")).ends_with("a plain page"));
    let mut asked = input(&["talk"], &get(&web.authority(), "/drip"));
    asked["timeout_seconds"] = json!(12);
    let failure = invoke(&mut client, &agent, "command_run", asked).expect_err("it takes too long");
    assert!(failure.message.contains("12 s"), "{failure:?}");
    web.wait_for_hangups(1);
    let ended = entries(&mut client, &["connection_ended"]);
    assert_eq!(ended.len(), 2, "it ended before the call: {ended:?}");
    assert_eq!(ended[1]["event"]["failure"]["kind"], "cancelled", "{ended:?}");
    assert!(ended[1]["event"]["received"].as_u64().is_some_and(|bytes| bytes > 6), "{ended:?}");
}

/// Starts a talker whose tunnel stays open, and waits until it stands.
fn start_hanging(rig: &Rig, client: &mut Client, agent: &str, web: &WebServer) -> u64 {
    let said = tunnel(&web.authority(), "GET /hang HTTP/1.1\r\nHost: x\r\n\r\n");
    let call = json!({ "agent_id": agent, "tool": "command_run", "input": input(&["talk"], &said) });
    let asked = client.send("tool.invoke", call);
    wait_for_entry(&rig.daemon, "connection_requested", |entry| entry["agent_id"] == agent);
    assert_eq!(web.wait_for_requests(1).len(), 1);
    asked
}

fn hanging() -> WebServer {
    WebServer::start([("/hang", Page::HangMidBody("begin".into()))])
}

#[test]
fn a_revoked_grant_cuts_the_tunnel_and_the_program_goes_on_without_it() {
    let (web, rig) = (hanging(), Rig::saying("done"));
    let mut client = rig.client();
    let agent = agent(&mut client, &[&network(&web)], "");
    let mut caller = rig.client();
    let asked = start_hanging(&rig, &mut caller, &agent, &web);
    let grant = grant_of(&mut client, &agent, &network(&web));
    let answer = revoke(&mut client, &agent, &grant).expect("answered");
    assert_eq!(answer["calls"].as_array().map(Vec::len), Some(1), "the connection: {answer}");
    let ended = entries(&mut client, &["connection_ended"]);
    assert_eq!(ended.len(), 1, "it is over when the revocation is answered: {ended:?}");
    assert_eq!(ended[0]["event"]["failure"]["kind"], "revoked", "{ended:?}");
    web.wait_for_hangups(1);
    let ran = caller.reply_to(asked).expect("the program was not ended")["result"].clone();
    assert_eq!(ran["exit_code"], 0, "{ran}");
    assert!(ran["stdout"].as_str().is_some_and(|text| text.contains("200 Connection established")), "{ran}");
    // There is nothing left that it could reach, and so no proxy.
    let after = try_to(&mut client, &agent, &["talk"], &get(&web.authority(), "/hang")).expect("it runs");
    assert_eq!(after["exit_code"], 1, "{after}");
    assert_intact(&mut client);
}

#[test]
fn a_revoked_program_ends_with_its_connections() {
    let (web, rig) = (hanging(), Rig::saying("done"));
    let mut client = rig.client();
    let agent = agent(&mut client, &[&network(&web)], "");
    let mut caller = rig.client();
    let asked = start_hanging(&rig, &mut caller, &agent, &web);
    let grant = grant_of(&mut client, &agent, &format!("exec: {}", talker()));
    revoke(&mut client, &agent, &grant).expect("answered");
    assert_eq!(entries(&mut client, &["connection_ended"]).len(), 1);
    web.wait_for_hangups(1);
    caller.reply_to(asked).expect_err("it was cut");
    assert_ended(try_to(&mut client, &agent, &["talk"], ""));
}

#[test]
fn a_killed_daemon_settles_its_connections_when_it_starts_again() {
    let (web, rig) = (hanging(), Rig::saying("done"));
    let mut client = rig.client();
    let agent = agent(&mut client, &[&network(&web)], "budget_config: { max_egress_bytes: 100000 }\n");
    start_hanging(&rig, &mut client, &agent, &web);
    drop(client);
    let daemon = rig.daemon.kill9().start();
    web.wait_for_hangups(1);
    let ended = wait_for_entry(&daemon, "connection_ended", |_| true);
    assert_eq!(ended["event"]["failure"]["kind"], "worker_lost", "{ended}");
    let mut client = daemon.client();
    assert_eq!(ended["event"]["spent"]["egress_bytes"], 65_536, "all that was leased: {ended}");
    assert_intact(&mut client);
}

#[test]
fn crowds_of_connections_hold_nobody_else_up() {
    let (web, rig) = (page(), Rig::saying("done"));
    let mut client = rig.client();
    let agent = agent(&mut client, &[&network(&web)], "");
    let mut asked = input(&["crowd", "4200"], "");
    asked["timeout_seconds"] = json!(600);
    let crowd = invoke(&mut client, &agent, "command_run", asked).expect("it runs");
    assert_eq!(
        crowd["stdout"], "4096 103\n",
        "after so many one is closed, and then nobody listens: {crowd}"
    );
    let held = try_to(&mut client, &agent, &["hold", "5000"], "").expect("it runs");
    let count: u32 = held["stdout"].as_str().expect("text").trim().parse().expect("a number");
    assert!(count > 900, "{held}");
    assert!(told(&mut client, &agent, &get(&web.authority(), "/page")).ends_with("a plain page"));
    assert_eq!(entries(&mut client, &["connection_requested"]).len(), 1, "nobody else said where to");
}

/// Starts a program that has as many connections open as one may have, until the gate is opened.
fn start_many(client: &mut Client, agent: &str, web: &WebServer, path: &str) -> u64 {
    let input = input(&["many", &MAX_RELAYED.to_string()], &get(&web.authority(), path));
    client.send("tool.invoke", json!({ "agent_id": agent, "tool": "command_run", "input": input }))
}

#[test]
fn an_agent_whose_connections_stay_open_has_its_share_of_places_and_leaves_the_others() {
    let gates = [Gate::new(), Gate::new()];
    let gated = |at: usize| Page::Gated(gates[at].clone(), Box::new(Page::Text("at last".into())));
    let web =
        WebServer::start([("/0", gated(0)), ("/1", gated(1)), ("/page", Page::Text("a plain page".into()))]);
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let [greedy, other] = [(); 2].map(|()| agent(&mut client, &[&network(&web)], ""));
    let mut callers = [rig.client(), rig.client()];
    let [first, second] =
        [("/0", 0), ("/1", 1)].map(|(path, at)| start_many(&mut callers[at], &greedy, &web, path));
    assert_eq!(web.wait_for_requests(MAX_AGENT_PROXIED).len(), MAX_AGENT_PROXIED);
    let page = get(&web.authority(), "/page");
    let refused = told(&mut client, &greedy, &page);
    let why = format!(
        "{MAX_AGENT_PROXIED} connections of this agent's programs are open; try again when one is done"
    );
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains(&why), "{refused}");
    let denied = wait_for_entry(&rig.daemon, "capability_denied", |entry| entry["agent_id"] == greedy);
    assert_eq!((&denied["event"]["effect"], &denied["event"]["by"]), (&json!("connection"), &json!("limit")));
    assert!(denied["event"]["denied"]["reason"].to_string().contains(&why), "{denied}");
    assert!(told(&mut client, &other, &page).ends_with("a plain page"), "the control: another agent");
    gates[0].open();
    let ran = callers[0].reply_to(first).expect("it runs")["result"].clone();
    assert_eq!(ran["stdout"], format!("{MAX_RELAYED}\n"), "none of its own was refused: {ran}");
    assert!(told(&mut client, &greedy, &page).ends_with("a plain page"), "the control: there is room again");
    gates[1].open();
    callers[1].reply_to(second).expect("it runs");
    assert_intact(&mut client);
}

#[test]
fn a_person_is_asked_about_each_connection_where_that_is_wanted() {
    let (web, rig) = (page(), Rig::saying("done"));
    let mut client = rig.client();
    let asking = format!("{{ network: \"{}\", approval_required: true }}", web.authority());
    let agent = agent(&mut client, &[&asking], "");
    let mut caller = rig.client();
    for (decision, status) in [("approve", "HTTP/1.1 200 "), ("deny", "HTTP/1.1 403 ")] {
        let said = get(&web.authority(), "/page");
        let call = json!({ "agent_id": agent, "tool": "command_run", "input": input(&["talk"], &said) });
        let asked = caller.send("tool.invoke", call);
        let count = if decision == "approve" { 1 } else { 2 };
        wait_for_entries(&rig.daemon, &["human_approval_requested"], count);
        let open = client.call("approval.list", json!({})).expect("a list")["pending"][0].clone();
        assert!(open["description"].as_str().is_some_and(|words| words.contains("connection")), "{open}");
        client.call("approval.respond", json!({ "id": open["id"], "decision": decision })).expect("open");
        let ran = caller.reply_to(asked).expect("it runs")["result"].clone();
        assert!(ran["stdout"].as_str().is_some_and(|text| text.starts_with(status)), "{ran}");
    }
    assert_eq!(web.requests().len(), 1);
}
