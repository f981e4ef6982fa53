//! Lines that are no requests: each gets the error that is due, and the connection goes on.

use crate::support::{Rig, assert_serves, manifest, peak_mib, spawn};
use serde_json::{Value, json};
use std::io::Read;
use std::os::unix::net::UnixStream;
use testkit::{Client, PATIENCE, RpcTrouble};

/// A line, the code of its answer, and the id that the answer carries.
const LINES: &[(&str, i64, &str)] = &[
    ("{", -32700, "null"),
    ("nonsense", -32700, "null"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"agent.list"} trailing"#, -32700, "null"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"agent.list",}"#, -32700, "null"),
    ("{'jsonrpc':'2.0'}", -32700, "null"),
    ("\u{feff}{}", -32700, "null"),
    ("5", -32600, "null"),
    ("null", -32600, "null"),
    ("\"agent.list\"", -32600, "null"),
    ("{}", -32600, "null"),
    ("[]", -32600, "null"),
    (r#"{"jsonrpc":"2.0","id":1}"#, -32600, "1"),
    (r#"{"id":1,"method":"agent.list"}"#, -32600, "1"),
    (r#"{"jsonrpc":"1.0","id":1,"method":"agent.list"}"#, -32600, "1"),
    (r#"{"jsonrpc":2.0,"id":1,"method":"agent.list"}"#, -32600, "1"),
    (r#"{"jsonrpc":"2.0","id":1,"method":5}"#, -32600, "1"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"agent.list","params":"x"}"#, -32600, "1"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"agent.list","parms":{}}"#, -32600, "1"),
    (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"agent.list"}"#, -32600, "null"),
    (r#"{"jsonrpc":"2.0","id":{},"method":"agent.list"}"#, -32600, "null"),
    (r#"{"jsonrpc":"2.0","id":[1],"method":"agent.list"}"#, -32600, "null"),
    (r#"{"jsonrpc":"2.0","id":true,"method":"agent.list"}"#, -32600, "null"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"agent.none"}"#, -32601, "1"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"agent.list","params":{"x":1}}"#, -32602, "1"),
];

fn ask(client: &mut Client, line: &str) -> Value {
    client.send_line(line).expect("sent");
    client.read_message().unwrap_or_else(|trouble| panic!("{line}: {trouble}"))
}

#[test]
fn every_bad_line_gets_the_error_that_is_due_and_the_next_line_is_served() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    for (line, code, id) in LINES {
        let reply = ask(&mut client, line);
        assert_eq!(
            (reply["error"]["code"].as_i64(), reply["jsonrpc"].as_str()),
            (Some(*code), Some("2.0")),
            "{line}"
        );
        assert_eq!(reply["id"].to_string(), *id, "{line}");
        assert!(reply["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{line}");
        assert!(reply.get("result").is_none(), "{line}");
    }
    client.send_bytes(b"\xff\xfe{}\n").expect("sent");
    assert_eq!(client.read_message().expect("an error")["error"]["code"], -32700, "not UTF-8");
    client.send_bytes(b"\n  \n\r\n").expect("blank lines are nothing");
    assert_eq!(ask(&mut client, r#"{"jsonrpc":"2.0","id":9,"method":"agent.list"}"#)["id"], 9);
}

#[test]
fn ids_come_back_as_they_were_sent() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let ids =
        ["0", "-1", "18446744073709551615", "1.5", "1e3", "\"\"", "\"a\\u0000b\"", "\"\u{1f600}\"", "null"];
    for id in ids {
        let line = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"agent.list"}}"#);
        let reply = ask(&mut client, &line);
        let sent: Value = serde_json::from_str(id).expect("JSON");
        assert_eq!((&reply["id"], &reply["result"]), (&sent, &json!({ "agents": [] })), "{id}");
    }
    let long = format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"agent.list"}}"#, "i".repeat(5000));
    assert_eq!(ask(&mut client, &long)["error"]["code"], -32600, "an id has a bounded length");
}

#[test]
fn notifications_get_no_reply_and_do_their_work() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let agent = spawn(&mut client, &manifest("quiet", ""));
    let stop = json!({ "jsonrpc": "2.0", "method": "agent.stop", "params": { "agent_id": agent } });
    client.send_line(&stop.to_string()).expect("sent");
    for silent in ["agent.none", "agent.status"] {
        let line = json!({ "jsonrpc": "2.0", "method": silent, "params": { "wrong": 1 } });
        client.send_line(&line.to_string()).expect("sent");
    }
    crate::support::wait_for_entry(&rig.daemon, "agent_stopped", |entry| entry["agent_id"] == agent.as_str());
    let reply = ask(&mut client, r#"{"jsonrpc":"2.0","id":"next","method":"agent.list"}"#);
    assert_eq!(reply["id"], "next", "nothing came before it");
}

#[test]
fn batches_are_answered_together_and_bad_entries_alone() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"agent.list"},
        {"jsonrpc":"2.0","method":"agent.list"}, 5, {"jsonrpc":"2.0","id":2,"method":"agent.none"},
        {"jsonrpc":"2.0","id":"three","method":"tool.list"}, []]"#;
    let replies = ask(&mut client, &batch.replace('\n', " "));
    let replies = replies.as_array().expect("a batch");
    let ids: Vec<&Value> = replies.iter().map(|reply| &reply["id"]).collect();
    assert_eq!(ids, [&json!(1), &Value::Null, &json!(2), &json!("three"), &Value::Null]);
    let codes: Vec<Option<i64>> = replies.iter().map(|reply| reply["error"]["code"].as_i64()).collect();
    assert_eq!(codes, [None, Some(-32600), Some(-32601), None, Some(-32600)]);

    let silent = r#"[{"jsonrpc":"2.0","method":"agent.list"}]"#;
    client.send_line(silent).expect("sent");
    let one = r#"{"jsonrpc":"2.0","id":1,"method":"agent.list"}"#;
    assert_eq!(ask(&mut client, one)["id"], 1, "a batch of notifications has no answer");
    let full = format!("[{}]", vec![one; 256].join(","));
    assert_eq!(ask(&mut client, &full).as_array().map(Vec::len), Some(256));
    let over = format!("[{}]", vec![one; 257].join(","));
    assert_eq!(ask(&mut client, &over)["error"]["code"], -32600, "a batch is bounded");
}

#[test]
fn a_batch_whose_answers_are_too_long_costs_bounded_memory() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let agent = spawn(&mut client, &manifest("wordy", "capabilities: [\"tool: echo\"]\n"));
    // Journal bodies of 1 MiB each, so that one query is answered by many MiB.
    for _ in 0..6 {
        crate::support::invoke(&mut client, &agent, "echo", json!({ "message": "x".repeat(1024 * 1024) }))
            .expect("echoes");
    }
    let before = peak_mib(rig.daemon.pid());
    let query = r#"{"jsonrpc":"2.0","id":1,"method":"audit.query"}"#;
    let reply = ask(&mut client, &format!("[{}]", vec![query; 20].join(",")));
    assert_eq!(reply["error"]["code"], 1004, "the answers are over the limit together");
    let after = peak_mib(rig.daemon.pid());
    assert!(after < before + 90, "memory went from {before} to {after} MiB");
    assert_eq!(ask(&mut client, query)["id"], 1, "one answer alone fits");
}

#[test]
fn deep_nesting_is_an_error_and_no_crash() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let agent = spawn(&mut client, &manifest("deep", "capabilities: [\"tool: echo\"]\n"));
    for depth in [200, 100_000, 3_000_000] {
        let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        for line in [
            nested.clone(),
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"agent.list","params":{nested}}}"#),
            format!(r#"{{"jsonrpc":"2.0","id":{nested},"method":"agent.list"}}"#),
            format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"tool.invoke","params":{{"agent_id":"{agent}","tool":"echo","input":{nested}}}}}"#
            ),
        ] {
            let reply = ask(&mut client, &line);
            let code = reply["error"]["code"].as_i64().or(reply[0]["error"]["code"].as_i64());
            assert!(matches!(code, Some(-32700 | -32600 | -32602)), "depth {depth}: {reply}");
        }
    }
    assert_serves(&rig.daemon);
}

/// Writes until the daemon takes no more; returns how much it took.
fn flood(client: &mut Client, total: usize) -> usize {
    let piece = vec![b'x'; 1024 * 1024];
    let mut sent = 0;
    while sent < total && client.send_bytes(&piece).is_ok() {
        sent += piece.len();
    }
    sent
}

#[test]
fn a_line_of_100_mb_is_refused_early_and_closed() {
    let rig = Rig::saying("done");
    let before = peak_mib(rig.daemon.pid());
    let mut clients: Vec<Client> = (0..4).map(|_| rig.client()).collect();
    for client in &mut clients {
        let sent = flood(client, 100 * 1024 * 1024);
        // One read may take as much again as the buffer has room for.
        assert!(sent < 20 * 1024 * 1024, "the daemon took {sent} bytes of one line");
        let refusal = client.read_message().expect("told before it is closed");
        assert_eq!((&refusal["error"]["code"], &refusal["id"]), (&json!(-32600), &Value::Null));
        let end = client.read_message().expect_err("closed");
        assert!(matches!(end, RpcTrouble::Closed | RpcTrouble::Io(_)), "{end}");
    }
    let after = peak_mib(rig.daemon.pid());
    assert!(after < before + 64, "memory went from {before} to {after} MiB");
    assert_serves(&rig.daemon);
}

#[test]
fn the_limit_of_a_line_is_exact() {
    const LIMIT: usize = 8 * 1024 * 1024;
    let rig = Rig::saying("done");
    let padded = |length: usize| {
        let line = r#"{"jsonrpc":"2.0","id":1,"method":"agent.list"}"#;
        format!("{line}{}", " ".repeat(length - line.len()))
    };
    let mut client = rig.client();
    assert_eq!(
        ask(&mut client, &padded(LIMIT))["result"],
        json!({ "agents": [] }),
        "the limit itself is allowed"
    );
    let over = client.send_line(&padded(LIMIT + 1));
    let refusal = client.read_message().expect("told");
    assert_eq!(refusal["error"]["code"], -32600, "{over:?}");
    assert!(client.read_message().is_err(), "and the connection is closed");
}

#[test]
fn a_request_without_its_line_break_is_served_when_the_client_ends_its_side() {
    let rig = Rig::saying("done");
    let mut stream = UnixStream::connect(rig.daemon.socket()).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    std::io::Write::write_all(&mut stream, br#"{"jsonrpc":"2.0","id":1,"method":"agent.list"}"#)
        .expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("half closed");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered, then closed");
    assert!(answer.contains(r#""result":{"agents":[]}"#), "{answer}");
}
