//! A program ends when a grant expires that it is shown, and a connection of one when the grant of its host does.

use std::path::Path;
use std::time::Duration;

use aaos_core::event::Event;
use aaos_core::quantity::Millis;
use aaos_core::toolio::ToolFailureKind;
use aaos_runtime::KernelError;
use serde_json::json;
use testkit::{Page, ProcessRef, WebServer};

use crate::support::{Lab, START, manifest};

const MILLI: Duration = Duration::from_millis(1);

/// Starts a program that does not end, as a child of an agent with these grants beside its tool.
fn sleeping(lab: &Lab, grants: &str) -> tokio::task::JoinHandle<Result<String, KernelError>> {
    let grants = format!("lifecycle: persistent\ncapabilities: [\"tool: command_run\", {grants}]\n");
    let agent = lab.spawn(&manifest("runner", &grants));
    let (kernel, operator) = (lab.kernel().clone(), lab.operator());
    lab.begin(async move {
        let input = "{\"program\": \"/bin/sleep\", \"args\": [\"1000\"], \"timeout_seconds\": 600}";
        kernel.invoke_tool(operator, agent, "command_run", input).await
    })
}

/// The first process of the sandbox.
fn sandbox(lab: &Lab) -> ProcessRef {
    let mut seen = 0;
    loop {
        let receipts = lab.wait_for_entries("confinement_receipt", seen + 1);
        seen = receipts.len();
        let pid = receipts.iter().find_map(|entry| match &entry.event {
            Event::ConfinementReceipt { receipt, role } if role == "program" => Some(receipt.pid),
            _ => None,
        });
        if let Some(pid) = pid {
            return ProcessRef::find(i32::try_from(pid).expect("a pid")).expect("it runs");
        }
    }
}

#[test]
fn a_program_ends_when_the_first_grant_expires_that_it_is_shown_and_not_before() {
    let end = START.after(Millis(60_000));
    for grants in [
        "{ exec: /bin/sleep, expires_in_seconds: 60 }",
        "\"exec: /bin/sleep\", { exec: /bin/true, expires_in_seconds: 60 }",
    ] {
        let lab = Lab::saying("unused");
        let call = sleeping(&lab, grants);
        let program = sandbox(&lab);
        lab.until_awaited(end);
        lab.pass_idly(Duration::from_secs(60) - MILLI);
        assert!(!call.is_finished() && program.is_alive(), "{grants}: a millisecond is left");
        lab.advance(MILLI);
        let failure = lab.block(call).expect("it ends").expect_err("cut");
        let KernelError::Tool(failure) = failure else { panic!("{grants}: {failure:?}") };
        assert_eq!(failure.kind, ToolFailureKind::Revoked, "{grants}: {failure:?}");
        assert!(failure.message.contains("expired"), "{grants}: {failure:?}");
        assert!(!program.is_alive(), "{grants}: it is over when the call is");
    }
}

/// The program that talks to its proxy.
fn talker() -> String {
    let test = std::env::current_exe().expect("a running program has a path");
    let folder = test.parent().and_then(Path::parent).expect("deps lies in a profile's folder");
    let path = folder.join("examples/proxied_program");
    assert!(path.is_file(), "{} is missing: build `-p aaos-sandbox --examples`", path.display());
    path.to_str().expect("a plain path").to_owned()
}

/// A program that has a tunnel, and says nothing more into it.
fn tunnelling(lab: &Lab, to: &str, grants: &str) -> tokio::task::JoinHandle<Result<String, KernelError>> {
    let program = talker();
    let held = format!("\"tool: command_run\", \"exec: {program}\", {grants}");
    let agent = lab.spawn(&manifest("talker", &format!("lifecycle: persistent\ncapabilities: [{held}]\n")));
    let (kernel, operator) = (lab.kernel().clone(), lab.operator());
    let said = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\nGET /hang HTTP/1.1\r\n\r\n");
    lab.begin(async move {
        let input = json!({ "program": program, "args": ["talk"], "stdin": said, "timeout_seconds": 600 })
            .to_string();
        kernel.invoke_tool(operator, agent, "command_run", &input).await
    })
}

#[test]
fn a_tunnel_ends_when_the_grant_of_its_host_expires_and_the_program_goes_on() {
    let web = WebServer::start([("/hang", Page::HangMidBody("begun".into()))]);
    let lab = Lab::saying("unused");
    let grant = format!("{{ network: \"{}\", expires_in_seconds: 60 }}", web.authority());
    let call = tunnelling(&lab, &web.authority(), &grant);
    lab.wait_for_one("connection_requested");
    assert_eq!(web.wait_for_requests(1).len(), 1);
    lab.until_awaited(START.after(Millis(60_000)));
    lab.pass_idly(Duration::from_secs(60) - MILLI);
    assert!(!call.is_finished() && lab.entries("connection_ended").is_empty(), "a millisecond is left");
    lab.advance(MILLI);
    let ran = lab.block(call).expect("it ends").expect("the program itself was not cut");
    assert!(ran.contains("200 Connection established"), "{ran}");
    let ended = lab.wait_for_one("connection_ended");
    let Event::ConnectionEnded { failure: Some(failure), .. } = ended.event else { panic!("{ended:?}") };
    assert_eq!(failure.kind, ToolFailureKind::Revoked, "{failure:?}");
}
