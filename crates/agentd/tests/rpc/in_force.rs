//! Approvals in force: what is listed of them, and that nothing goes on under one that was withdrawn.

use super::{ASKS, Desk, answer, of_kind};
use crate::support::assert_intact;
use serde_json::{Value, json};
use testkit::Daemon;

fn in_force(desk: &Desk) -> Vec<Value> {
    let list = desk.daemon.client().call("approval.list", json!({})).expect("a list");
    list["in_force"].as_array().expect("a list").clone()
}

/// A scope of three uses, of which one is used.
fn approved_below(desk: &mut Desk) -> Value {
    let first = desk.begin_write("sub/1.txt", "x");
    let asked = desk.question(1);
    desk.approve(&asked, json!({ "below": format!("{}/*", desk.path("sub").display()), "uses": 3 }));
    desk.calls.reply_to(first).expect("the first use");
    asked
}

#[test]
fn an_approval_in_force_is_listed_with_what_is_left_of_it() {
    let mut desk = Desk::new(ASKS);
    assert!(in_force(&desk).is_empty());
    let asked = approved_below(&mut desk);
    let expected = json!({
        "id": asked["id"], "agent_id": desk.agent, "agent_name": "writer", "effect": "file_write",
        "below": format!("{}/*", desk.path("sub").display()), "uses_left": 2, "exactly": false
    });
    assert_eq!(in_force(&desk), [expected]);
    for name in ["sub/2.txt", "sub/3.txt"] {
        let call = desk.begin_write(name, "x");
        desk.calls.reply_to(call).expect("covered");
    }
    assert!(in_force(&desk).is_empty(), "used up");
    let mut client = desk.daemon.client();
    let late = client.call("approval.respond", json!({ "id": asked["id"], "decision": "deny" }));
    assert_eq!(late.expect_err("nothing to withdraw").code, 1001);
}

#[test]
fn a_withdrawn_approval_covers_nothing_any_more() {
    let mut desk = Desk::new(ASKS);
    let asked = approved_below(&mut desk);
    let call = desk.begin_write("sub/2.txt", "x");
    desk.calls.reply_to(call).expect("the control: it is in force");
    let id = &asked["id"];
    answer(&desk.daemon, json!({ "id": id, "decision": "deny", "reason": "enough" }));
    let denied = of_kind(&desk.daemon, "human_approval_denied");
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(denied.len(), 1, "{denied:?}");
    assert_eq!(
        [&denied[0]["event"]["approval"], &denied[0]["event"]["reason"], &denied[0]["event"]["principal"]],
        [id, &json!("enough"), &json!(uid)]
    );
    assert!(in_force(&desk).is_empty());
    let twice = desk.daemon.client().call("approval.respond", json!({ "id": id, "decision": "deny" }));
    assert_eq!(twice.expect_err("withdrawn already").code, 1001);
    let call = desk.begin_write("sub/3.txt", "x");
    let asked = desk.question(2);
    assert!(!desk.path("sub/3.txt").exists(), "it is asked about again");
    desk.answer(&asked, "deny");
    assert_eq!(desk.calls.reply_to(call).expect_err("denied").code, 1005);
    assert_intact(&mut desk.daemon.client());
}

#[test]
fn approvals_in_force_and_their_withdrawal_survive_a_kill() {
    let mut desk = Desk::new(ASKS);
    let asked = approved_below(&mut desk);
    let mut desk = desk.restarted(Daemon::kill9);
    assert_eq!(in_force(&desk)[0]["uses_left"], 2);
    let call = desk.begin_write("sub/2.txt", "x");
    desk.calls.reply_to(call).expect("the control: it is in force after a restart");
    answer(&desk.daemon, json!({ "id": asked["id"], "decision": "deny" }));
    let mut desk = desk.restarted(Daemon::kill9);
    assert!(in_force(&desk).is_empty());
    let call = desk.begin_write("sub/3.txt", "x");
    let asked = desk.question(2);
    desk.answer(&asked, "deny");
    assert_eq!(desk.calls.reply_to(call).expect_err("denied").code, 1005);
    assert_intact(&mut desk.daemon.client());
}

#[test]
fn an_approval_of_one_call_that_nobody_makes_is_listed_and_withdrawn() {
    let mut desk = Desk::new(ASKS);
    desk.begin_write("a.txt", "after");
    let asked = desk.question(1);
    let mut desk = desk.restarted(Daemon::kill9);
    desk.answer(&asked, "approve");
    let listed = in_force(&desk);
    let path = desk.path("a.txt").display().to_string();
    assert_eq!(
        (&listed[0]["id"], &listed[0]["exactly"], &listed[0]["paths"]),
        (&asked["id"], &json!(true), &json!([path]))
    );
    desk.answer(&asked, "deny");
    let call = desk.begin_write("a.txt", "after");
    let asked = desk.question(2);
    desk.answer(&asked, "deny");
    assert_eq!(desk.calls.reply_to(call).expect_err("denied").code, 1005);
}
