//! Tool calls from the authority's decision to the receipt, through a real journal and a really confined worker.

mod lab;

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use aaos_core::confinement::ConfinementPolicy;
use aaos_core::id::GrantId;
use aaos_core::limits::{MAX_GREP_MATCHES, WORKER_MEMORY_BYTES};
use aaos_core::quantity::Bytes;
use aaos_core::tool::{ToolCall, find};
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use aaos_sandbox::FetchedPage;
use lab::{Lab, NOW};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use testkit::{ProcessRef, Snapshot, descendants, scratch};
use uuid::Uuid;

impl Lab {
    async fn new() -> Self {
        Self::with_worker("aaos-worker").await
    }

    async fn with_worker(name: &str) -> Self {
        Self::with(scratch(), name, ConfinementPolicy::default()).await
    }

    /// How a call that must not happen ends, whoever refuses it.
    async fn refused(&mut self, tool: &str, arguments: Value) -> ToolFailureKind {
        match self.permit(tool, arguments).await {
            Err(_) => ToolFailureKind::Denied,
            Ok(permit) => {
                let receipt = self.worker.run(permit, &self.roots, None).await;
                let kind = receipt.outcome().result.as_ref().expect_err("refused").kind;
                self.journal.finish(receipt, NOW).await.expect("journalled");
                kind
            }
        }
    }
}

fn page(content_type: &str, body: &[u8]) -> FetchedPage {
    let memfd: OwnedFd = rustix::fs::memfd_create("page", MemfdFlags::CLOEXEC).expect("a memfd");
    let mut file = fs::File::from(memfd);
    file.write_all(body).expect("written");
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).expect("rewound");
    FetchedPage {
        status: 200,
        content_type: content_type.to_owned(),
        final_url: "http://example.org/".to_owned(),
        truncated: false,
        bytes: Bytes(body.len() as u64),
        received: Bytes(body.len() as u64),
        memfd: file.into(),
    }
}

#[tokio::test]
async fn every_worker_tool_runs_behind_the_lock_down() {
    let mut lab = Lab::new().await;
    let (f, g, new) = (lab.path("data/f"), lab.path("data/sub/g"), lab.path("data/a/b/new"));
    let outcome = lab.outcome("echo", json!({"message": "hello"}), None).await;
    assert_eq!(outcome.result, Ok(r#"{"message":"hello"}"#.to_owned()));
    assert_eq!(outcome.worker, Some(lab.worker.id()), "the outcome names its worker");
    let read = lab.call("file_read", json!({"path": f})).await;
    assert_eq!(read, Ok(json!({"content": "text of data/f\n", "size_bytes": 15})));
    let part = lab.call("file_read", json!({"path": f, "offset": 5, "limit": 2})).await;
    assert_eq!(part, Ok(json!({"content": "of", "size_bytes": 15})));
    let written = lab.call("file_write", json!({"path": new, "content": "one\n"})).await;
    assert_eq!(written, Ok(json!({"bytes_written": 4})));
    let added = lab.call("file_write", json!({"path": new, "content": "two\n", "append": true})).await;
    assert_eq!(added, Ok(json!({"bytes_written": 4})));
    let edit = json!({"path": new, "old_string": "one", "new_string": "three"});
    let edited = lab.call("file_edit", edit).await;
    let expected = json!({"path": new, "replacements": 1, "bytes_before": 8, "bytes_after": 10});
    assert_eq!(edited, Ok(expected));
    assert_eq!(fs::read_to_string(&new).expect("there"), "three\ntwo\n");
    let list = lab.call("file_list", json!({"path": lab.path("data")})).await.expect("a listing");
    let names: Vec<_> =
        list["entries"].as_array().expect("entries").iter().map(|e| e["name"].clone()).collect();
    assert_eq!(names, [json!("a"), json!("f"), json!("sub")]);
    let found =
        lab.call("grep", json!({"pattern": "t[we]o?", "path": lab.path("data")})).await.expect("hits");
    let hits: Vec<_> =
        found["matches"].as_array().expect("matches").iter().map(|m| m["path"].clone()).collect();
    assert_eq!(hits, ["a/b/new", "f", "sub/g"].map(|file| json!(lab.path(&format!("data/{file}")))));
    let many = json!({"paths": [g, lab.path("outside/f"), lab.path("data/none"), f]});
    let many = lab.call("file_read_many", many).await.expect("a batch");
    assert_eq!(many["count"], 4);
    assert_eq!(many["files"][0], json!({"path": g, "content": "text of data/sub/g\n", "size_bytes": 19}));
    assert_eq!(
        (&many["files"][1]["error"], &many["files"][2]["error"]),
        (&json!("denied"), &json!("not_found"))
    );
    assert!(many["files"][1]["reason"].is_string() && many["files"][1].get("content").is_none());
    let fetched = page("text/html", b"<h1>Title</h1><script>x</script>");
    let fetched = lab.outcome("web_fetch", json!({"url": "http://example.org/"}), Some(fetched)).await;
    let fetched: Value = serde_json::from_str(&fetched.result.expect("a page")).expect("JSON");
    assert_eq!((&fetched["body"], &fetched["status"]), (&json!("# Title"), &json!(200)));
    lab.end().await;
}

#[tokio::test]
async fn an_append_that_names_a_size_is_added_there_or_not_at_all() {
    let mut lab = Lab::new().await;
    let path = lab.path("data/f");
    let append = |at: u64| {
        let arguments = json!({"path": path, "content": "more\n", "append": true});
        let input = find("file_write").expect("a tool").parse_input(arguments).expect("arguments");
        ToolCall::new(input).expect("a call").positioned(Bytes(at))
    };
    for (at, done) in [(15, true), (15, false), (0, false), (20, true)] {
        let before = Snapshot::of(Path::new(&lab.path("data")));
        let permit = lab.permit_of(append(at)).await.expect("authorised");
        let receipt = lab.worker.run(permit, &lab.roots, None).await;
        let outcome = lab.journal.finish(receipt, NOW).await.expect("journalled").outcome;
        let failure = outcome.result.err().map(|failure| failure.kind);
        assert_eq!(failure, (!done).then_some(ToolFailureKind::Io), "from {at}");
        assert_eq!(before != Snapshot::of(Path::new(&lab.path("data"))), done, "from {at}");
        assert!(lab.worker.is_usable(), "no fault of the worker");
    }
    assert_eq!(fs::read_to_string(&path).expect("there"), "text of data/f\nmore\nmore\n");
    lab.end().await;
}

#[tokio::test]
async fn a_denied_write_leaves_bytes_times_and_listings_alone() {
    let mut lab = Lab::new().await;
    symlink(lab.path("outside/f"), lab.path("data/link")).expect("linked");
    symlink("../outside", lab.path("data/dir")).expect("linked");
    let trees =
        |lab: &Lab| ["data", "library", "outside"].map(|name| Snapshot::of(Path::new(&lab.path(name))));
    let before = trees(&lab);
    for relative in [
        "outside/f",
        "data/../outside/f",
        "data/../outside/new",
        "data/link",
        "data/dir/f",
        "data/dir/new/x",
        "library/book",
        "library/new",
        "state/journal.db",
        "state/journal.key",
    ] {
        let path = lab.path(relative);
        let write = lab.refused("file_write", json!({"path": path, "content": "evil"})).await;
        let right = matches!(write, ToolFailureKind::Denied | ToolFailureKind::OutsideRoot);
        assert!(right, "{relative}: {write:?}");
        let append = json!({"path": path, "content": "evil", "append": true});
        lab.refused("file_write", append).await;
        let edit = json!({"path": path, "old_string": "text", "new_string": "evil"});
        lab.refused("file_edit", edit).await;
        assert_eq!(before, trees(&lab), "{relative}");
    }
    // The control: what is granted is written.
    let control = lab.call("file_write", json!({"path": lab.path("data/f"), "content": "new"})).await;
    assert!(control.is_ok());
    assert_ne!(before, trees(&lab));
    lab.end().await;
}

#[tokio::test]
async fn a_big_tree_is_searched_and_cut_in_words() {
    let mut lab = Lab::new().await;
    for directory in 0..20 {
        let directory = Path::new(&lab.path("data")).join(format!("d{directory:02}"));
        fs::create_dir(&directory).expect("made");
        for file in 0..40 {
            fs::write(directory.join(format!("{file:02}.txt")), "a needle\nnothing\n").expect("written");
        }
    }
    symlink("/", lab.path("data/slash")).expect("linked");
    let found = lab.call("grep", json!({"pattern": "needle", "path": lab.path("data")})).await.expect("hits");
    assert_eq!(found["matches"].as_array().expect("matches").len(), MAX_GREP_MATCHES);
    assert_eq!(found["truncated"], true);
    assert_eq!(
        found["matches"][0],
        json!({"path": lab.path("data/d00/00.txt"), "line": 1, "text": "a needle"})
    );
    let one = json!({"pattern": "needle", "path": lab.path("data"), "glob": "d07/*.txt"});
    let found = lab.call("grep", one).await.expect("hits");
    assert_eq!((found["files_searched"].clone(), found["truncated"].clone()), (json!(40), json!(false)));
    lab.end().await;
}

#[tokio::test]
async fn a_call_that_is_given_up_ends_its_worker() {
    let mut lab = Lab::new().await;
    assert!(lab.call("echo", json!({"message": "x"})).await.is_ok() && lab.worker.is_usable());
    // Stopped, it cannot answer before the call is given up.
    let pid = i32::try_from(lab.worker.receipt().pid).expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("stopped");
    let permit = lab.permit("echo", json!({"message": "x"})).await.expect("allowed");
    let given_up = tokio::time::timeout(Duration::ZERO, lab.worker.run(permit, &lab.roots, None)).await;
    assert!(given_up.is_err() && !lab.worker.is_usable());
    let failure = lab.call("echo", json!({"message": "y"})).await.expect_err("never used again");
    assert_eq!(failure.kind, ToolFailureKind::WorkerLost);
    lab.end().await;
}

#[tokio::test]
async fn a_worker_that_does_not_answer_is_ended_at_the_time_limit() {
    let mut lab = Lab::new().await;
    let pid = i32::try_from(lab.worker.receipt().pid).expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("stopped");
    let permit = lab.permit("echo", json!({"message": "x"})).await.expect("allowed");
    // The runtime has nothing else to do, so its paused clock goes straight to the limit.
    tokio::time::pause();
    let receipt = lab.worker.run(permit, &lab.roots, None).await;
    tokio::time::resume();
    let failure = receipt.outcome().result.as_ref().expect_err("too long");
    assert_eq!(failure.kind, ToolFailureKind::Timeout);
    assert!(!lab.worker.is_usable());
    lab.end().await;
}

#[tokio::test]
async fn a_worker_that_died_is_lost_and_nothing_is_written() {
    let mut lab = Lab::new().await;
    let before = Snapshot::of(Path::new(&lab.path("data")));
    lab.worker.killer().kill();
    let write = json!({"path": lab.path("data/deep/new"), "content": "x"});
    let failure = lab.call("file_write", write).await.expect_err("lost");
    assert_eq!(failure.kind, ToolFailureKind::WorkerLost, "{failure}");
    assert!(!lab.worker.is_usable());
    assert_eq!(before, Snapshot::of(Path::new(&lab.path("data"))));
    lab.end().await;
}

/// How a worker fails in the middle of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failing {
    /// Somebody kills it.
    Killed,
    /// Somebody stops it.
    Stopped,
    /// Its address space is full.
    OutOfMemory,
    /// It aborts.
    Aborting,
    /// It goes round in a loop.
    Stuck,
}

impl Failing {
    const ALL: [Self; 5] = [Self::Killed, Self::Stopped, Self::OutOfMemory, Self::Aborting, Self::Stuck];

    /// What the failing worker is told.
    fn message(self) -> &'static str {
        match self {
            Self::Killed => "wait",
            Self::Stopped => "hello",
            Self::OutOfMemory => "hoard",
            Self::Aborting => "abort",
            Self::Stuck => "spin",
        }
    }

    /// How its call ends.
    fn end(self) -> ToolFailureKind {
        match self {
            Self::Killed | Self::OutOfMemory | Self::Aborting => ToolFailureKind::WorkerLost,
            Self::Stopped | Self::Stuck => ToolFailureKind::Timeout,
        }
    }
}

/// Runs the call that this worker fails in, within its time limit.
async fn fail(lab: &mut Lab, how: Failing) -> ToolFailure {
    let pid = Pid::from_raw(i32::try_from(lab.worker.receipt().pid).expect("a pid")).expect("not 0");
    let permit = lab.permit("echo", json!({"message": how.message()})).await.expect("allowed");
    let killer = lab.worker.killer();
    if how == Failing::Stopped {
        kill_process(pid, Signal::STOP).expect("stopped");
    }
    let paused = how.end() == ToolFailureKind::Timeout;
    if paused {
        // The runtime has nothing else to do, so its paused clock goes straight to the limit.
        tokio::time::pause();
    }
    let run = lab.worker.run(permit, &lab.roots, None);
    // The call is sent when it is first polled, which is before this worker is killed.
    let kill = async {
        if how == Failing::Killed {
            killer.kill()
        }
    };
    let (receipt, ()) = tokio::join!(run, kill);
    if paused {
        tokio::time::resume();
    }
    let failure = receipt.outcome().result.as_ref().expect_err("it failed").clone();
    lab.journal.finish(receipt, NOW).await.expect("journalled");
    failure
}

#[tokio::test]
async fn a_worker_that_fails_in_a_call_ends_it_in_words_is_replaced_and_leaves_no_process() {
    for how in Failing::ALL {
        let mut lab = Lab::with_worker("examples/failing_worker").await;
        let control = lab.call("echo", json!({"message": "hello"})).await;
        assert_eq!(control, Ok(json!({"message": "hello"})), "{how:?}: the control");
        let far = ProcessRef::find(i32::try_from(lab.worker.receipt().pid).expect("a pid")).expect("it runs");
        let failure = fail(&mut lab, how).await;
        assert_eq!(failure.kind, how.end(), "{how:?}: {failure}");
        let says_why = failure.message.contains("memory allocation") && failure.message.contains("signal");
        assert!(how != Failing::OutOfMemory || says_why, "{failure}");
        assert!(!lab.worker.is_usable(), "{how:?}: it never serves again");
        far.wait_gone();
        lab.worker = lab.sandbox.launch_worker().await.expect("a replacement");
        let again = lab.call("echo", json!({"message": "again"})).await;
        assert_eq!(again, Ok(json!({"message": "again"})), "{how:?}: the replacement works");
        let left: Vec<i32> = descendants(lab.sandbox.zygote_pid()).iter().map(|one| one.pid).collect();
        assert_eq!(left, [i32::try_from(lab.worker.receipt().pid).expect("a pid")], "{how:?}: no orphan");
        lab.end().await;
    }
}

#[tokio::test]
async fn a_worker_above_its_memory_is_ended_and_the_call_says_so() {
    let mut lab = Lab::with_worker("examples/filling_worker").await;
    assert!(lab.call("echo", json!({"message": "x"})).await.is_ok(), "the control");
    let limit = usize::try_from(WORKER_MEMORY_BYTES).expect("it fits");
    let as_much = std::hint::black_box(vec![1_u8; limit * 3 / 2]);
    assert_eq!(as_much.len(), limit * 3 / 2, "the control: outside there is room for as much");
    drop(as_much);
    let failure = lab.call("echo", json!({"message": "fill"})).await.expect_err("too much");
    assert_eq!(failure.kind, ToolFailureKind::OutOfMemory, "{failure}");
    assert!(failure.message.starts_with("out of memory: limit 256 MiB;"), "{failure}");
    assert!(!lab.worker.is_usable());
    lab.end().await;
}

#[tokio::test]
async fn a_worker_that_forges_what_is_to_be_written_writes_nothing() {
    for (name, append) in [("data/deep/new", false), ("data/f", false), ("data/f", true)] {
        let mut lab = Lab::with_worker("examples/forging_worker").await;
        let before = Snapshot::of(Path::new(&lab.path("data")));
        let path = lab.path(name);
        let write = |content: &str| json!({"path": path, "content": content, "append": append});
        let failure = lab.call("file_write", write("good")).await.expect_err("forged");
        assert_eq!(failure.kind, ToolFailureKind::Io, "{failure}");
        assert_eq!(before, Snapshot::of(Path::new(&lab.path("data"))), "{name}");
        assert!(!lab.worker.is_usable(), "it is not trusted again");
        lab.worker = lab.sandbox.launch_worker().await.expect("another worker");
        lab.call("file_write", write("xxxx")).await.expect("the control: what was asked for is committed");
        assert!(fs::read_to_string(&path).expect("there").ends_with("xxxx"));
        lab.end().await;
    }
}

#[tokio::test]
async fn a_closed_root_denies_what_was_already_permitted() {
    let mut lab = Lab::new().await;
    let before = Snapshot::of(Path::new(&lab.path("data")));
    let write = json!({"path": lab.path("data/new"), "content": "x"});
    let permit = lab.permit("file_write", write).await.expect("allowed");
    lab.roots.close(GrantId::from_uuid(Uuid::from_u128(4)));
    let receipt = lab.worker.run(permit, &lab.roots, None).await;
    let failure = receipt.outcome().result.as_ref().expect_err("denied");
    assert_eq!(failure.kind, ToolFailureKind::Denied);
    assert_eq!(before, Snapshot::of(Path::new(&lab.path("data"))));
    assert!(lab.worker.is_usable());
    lab.end().await;
}
