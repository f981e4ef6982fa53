//! The memory of workers, through the daemon: what is used is shown, and a call that needs too much ends with its name.
//!
//! Where a control group bounds it the kernel ends the worker, elsewhere the daemon does; `cargo xtask vm-test` runs
//! this on a machine that has control groups, as root and as an ordinary user who has none.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};
use testkit::{DaemonBuilder, ModelServer, ProcessRef, Script, Turn, binaries, scratch};

use crate::revocation::holding;
use crate::support::{Rig, assert_intact, entries, invoke, spawn};

const LIMIT: u64 = 256 * 1024 * 1024;

/// What has to bound the memory here: in the virtual machine root has control groups.
fn bound_here(evidence: &Value) -> &'static str {
    let machine = fs::read_to_string("/proc/cmdline").expect("readable");
    let is_root = rustix::process::geteuid().is_root();
    assert!(!machine.contains("aaos.nonce=") || is_root == (evidence == "observed"), "{evidence}");
    if evidence == "observed" { "cgroup" } else { "watchdog" }
}

#[test]
fn a_call_that_needs_too_much_memory_names_itself_and_usage_is_shown() {
    let libexec = scratch();
    let gateway = binaries().gateway;
    let filling = gateway.parent().expect("a folder").join("examples/filling_worker");
    assert!(filling.is_file(), "{} is missing: run `cargo build --workspace --examples`", filling.display());
    symlink(&filling, libexec.path().join("aaos-worker")).expect("linked");
    symlink(&gateway, libexec.path().join("aaos-gateway")).expect("linked");
    let models = ModelServer::start(Script::dynamic(|_| Turn::say("done")));
    let daemon = DaemonBuilder::openai(&models).env("AAOS_LIBEXEC_DIR", libexec.path()).start();
    let rig = Rig { daemon, models };
    let mut client = rig.client();
    let agent = spawn(&mut client, &holding("hungry", &["tool: echo".to_owned()]));
    let echoed = invoke(&mut client, &agent, "echo", json!({ "message": "hello" }));
    assert_eq!(echoed.expect("the control")["message"], "hello");

    let status = client.call("agent.status", json!({ "agent_id": agent })).expect("a status");
    let boundaries = status["confinement"]["boundaries"].as_array().expect("a receipt");
    let group = boundaries.iter().find(|one| one["boundary"] == "cgroup").expect("it is judged");
    let used = &status["resources"];
    assert_eq!(used["bound"], bound_here(&group["evidence"]), "{group}");
    assert_eq!(used["memory_limit_bytes"], LIMIT);
    let memory = used["memory_bytes"].as_u64().expect("a number");
    assert!(memory > 0 && memory < LIMIT && used["processes"] == 1, "{used}");
    let shown = rig.daemon.cli(["status", agent.as_str()]).stdout;
    assert!(shown.contains("limit 256.0 MiB by"), "{shown}");

    let pid = status["confinement"]["pid"].as_i64().expect("a pid");
    let worker = ProcessRef::find(i32::try_from(pid).expect("a pid")).expect("it runs");
    let failure = invoke(&mut client, &agent, "echo", json!({ "message": "fill" })).expect_err("too much");
    assert!(failure.message.contains("out of memory: limit 256 MiB"), "{failure:?}");
    worker.wait_gone();
    let again = invoke(&mut client, &agent, "echo", json!({ "message": "again" }));
    assert_eq!(again.expect("another worker")["message"], "again");
    let ends = entries(&mut client, &["worker_stopped"]);
    let reason = ends.first().expect("its end is told")["event"]["reason"].as_str().expect("words");
    assert!(reason.starts_with("out of memory: limit 256 MiB (killed by signal 9"), "{reason}");
    assert_intact(&mut client);
}
