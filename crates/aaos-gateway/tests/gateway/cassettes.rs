//! Cassettes, by the real binary, locked: what it records it replays where no provider can be reached.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;

use aaos_core::cassette::{CassetteHead, CassetteSetup, CassetteUse, Place, PlaceKind};
use aaos_core::id::AgentId;
use aaos_core::limits::{MAX_CASSETTE_BYTES, MAX_CASSETTE_HEAD_BYTES};
use aaos_core::model::{Message, ModelFailureKind, ModelRequest};
use aaos_core::path::AbsPath;
use aaos_core::quantity::Bytes;
use aaos_core::wire::{ModelsReply, ModelsRequest, ModelsSetup, WireFormat};
use serde_json::json;
use testkit::{Chop, CutAs, ModelServer, Script, Turn, scratch};

use crate::locked::Gateway;
use crate::models::{FORMATS, KEY, model, provider, request, url};

/// Two runs of the same: an agent's id, a time, and a working directory of each.
const THEN: [&str; 3] = ["0190a5e8-7c1b-7000-8000-0123456789ab", "1795426952987", "/home/then/p"];
const NOW: [&str; 3] = ["0190bbbb-0000-7000-9000-999999999999", "1800000000001", "/now"];

fn places(run: [&str; 3]) -> Vec<Place> {
    vec![Place { kind: PlaceKind::WorkingDirectory, path: AbsPath::parse(run[2]).expect("absolute") }]
}

/// What is asked in a run.
fn asked(run: [&str; 3], what: &str) -> ModelRequest {
    let text = format!("{what}\nagent {} at {} in {}/x", run[0], run[1], run[2]);
    ModelRequest { messages: vec![Message::User { text }], ..request() }
}

fn setup_of(format: WireFormat, base_url: String) -> ModelsSetup {
    ModelsSetup {
        providers: vec![provider(format, base_url)],
        aliases: vec![(model("smart"), model("scripted"))],
        cassette: None,
        metrics: false,
        spans: None,
    }
}

/// A new cassette, as agentd makes one.
fn begin(path: &Path, setup: &ModelsSetup, run: [&str; 3]) -> File {
    let mut file = File::options().create_new(true).append(true).open(path).expect("a new file");
    let head = serde_json::to_string(&CassetteHead::of(setup, places(run))).expect("JSON");
    writeln!(file, "{head}").expect("room on the disk");
    file
}

async fn start(mut setup: ModelsSetup, purpose: CassetteUse, run: [&str; 3], file: &File) -> Gateway {
    let mut gateway = Gateway::start("models");
    let ModelsReply::Locked(_) = gateway.near.receive().await else { panic!("not locked") };
    setup.cassette = Some(CassetteSetup { purpose, places: places(run) });
    gateway.near.send_with(&setup, file.as_fd()).await;
    gateway
}

async fn record(setup: &ModelsSetup, file: &File) -> Gateway {
    let length = Bytes(file.metadata().expect("a file").len());
    start(setup.clone(), CassetteUse::Record { length }, THEN, file).await
}

/// Replays a file in another run, without a key.
async fn replay(path: &Path) -> Gateway {
    let text = std::fs::read(path).expect("the cassette");
    let head = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let setup = match serde_json::from_slice::<CassetteHead>(head) {
        Ok(head) => head.models(),
        Err(_) => setup_of(WireFormat::OpenAi, "http://127.0.0.1:1/v1".into()),
    };
    start(setup, CassetteUse::Replay, NOW, &File::open(path).expect("the cassette")).await
}

/// Whatever a provider may do, told by what is asked.
fn script() -> Script {
    Script::dynamic(|seen| {
        let text = seen.first_user_text();
        let after = |word: &str| {
            let mut words = text.split_whitespace().skip_while(|one| *one != word);
            words.nth(1).unwrap_or_default().to_owned()
        };
        let (agent, path) = (after("agent"), after("in").replace("/x", "/y"));
        match text.split_whitespace().next().unwrap_or_default() {
            "call" => Turn::call("echo", json!({ "message": agent, "path": path })).chopped(Chop::EveryByte),
            "limit" => Turn::retry_after(429, 7),
            "down" => Turn::status(500),
            "cut" => Turn::CutStream { text: "half".into(), after_events: 2, cut: CutAs::Broken },
            "bad" => Turn::MalformedJson,
            "key" => Turn::say(format!("your key is {KEY}.")),
            text => {
                Turn::say(format!("{text}: {agent} at {} in {path}", after("at"))).chopped(Chop::Fragments(3))
            }
        }
    })
}

#[tokio::test]
async fn what_was_recorded_is_replayed_for_another_run_where_no_provider_is() {
    for format in FORMATS {
        let folder = scratch();
        let path = folder.path().join("cassette");
        let server = ModelServer::start(script());
        let setup = setup_of(format, url(&server, format));
        let file = begin(&path, &setup, THEN);
        let mut recording = record(&setup, &file).await;
        let with_key = format!("say {KEY}");
        let asks = ["say", "call", "limit", "down", "cut", "bad", "say", &with_key];
        let mut then = Vec::new();
        for what in asks {
            then.push(recording.ask(asked(THEN, what)).await);
        }
        recording.end();
        let seen = server.requests();
        assert!(seen.iter().all(|seen| seen.key() == Some(KEY)), "the control: the key was on the wire");
        assert!(seen.last().is_some_and(|seen| seen.raw.contains(KEY)), "and in a request, too");
        drop(server);
        let text = std::fs::read_to_string(&path).expect("the cassette");
        assert_eq!(text.lines().count(), 1 + asks.len());
        assert!(text.contains(THEN[0]) && !text.contains(KEY), "{text}");

        let mut replayed = replay(&path).await;
        for (what, then) in asks.iter().zip(&then).take(asks.len() - 1) {
            let now = replayed.ask(asked(NOW, what)).await;
            match (then, now) {
                (Ok(then), Ok(now)) => {
                    let mut expected = format!("{then:?}");
                    for (old, new) in THEN.iter().zip(NOW) {
                        expected = expected.replace(old, new);
                    }
                    assert_eq!(format!("{now:?}"), expected, "{format:?} {what}");
                }
                (then, now) => assert_eq!(now.as_ref().err(), then.as_ref().err(), "{format:?} {what}"),
            }
        }
        let limited = then[2].as_ref().expect_err("a limit");
        assert_eq!(limited.retry_after.map(|wait| wait.0), Some(7_000), "the control: headers count");
        replayed.end();
    }
}

#[tokio::test]
async fn a_reply_that_spells_a_key_is_not_recorded() {
    let folder = scratch();
    let path = folder.path().join("cassette");
    let server = ModelServer::start(script());
    let setup = setup_of(WireFormat::OpenAi, server.openai_url());
    let file = begin(&path, &setup, THEN);
    let mut recording = record(&setup, &file).await;
    let failure = recording.ask(asked(THEN, "key")).await.expect_err("not recorded");
    assert_eq!(failure.kind, ModelFailureKind::NotRecorded);
    assert!(failure.message.contains("holds the key") && !failure.message.contains(KEY), "{failure}");
    recording.ask(asked(THEN, "say")).await.expect("the control: what else is said is recorded");
    assert_eq!(std::fs::read_to_string(&path).expect("the cassette").lines().count(), 2);
    recording.end();
}

/// A cassette of one exchange, `say`, asked as in a run.
async fn short(folder: &Path, what: &str) -> std::path::PathBuf {
    let path = folder.join("cassette");
    let server = ModelServer::start(script());
    let setup = setup_of(WireFormat::OpenAi, server.openai_url());
    let file = begin(&path, &setup, THEN);
    let mut recording = record(&setup, &file).await;
    recording.ask(asked(THEN, what)).await.expect("a reply");
    recording.end();
    path
}

#[tokio::test]
async fn what_was_not_recorded_says_where_it_differs() {
    let folder = scratch();
    let path = short(folder.path(), "say").await;
    let mut replayed = replay(&path).await;
    let misses = |failure: aaos_core::model::ModelFailure| {
        assert_eq!(failure.kind, ModelFailureKind::NotRecorded);
        failure.message
    };
    let said = misses(replayed.ask(asked(NOW, "pray")).await.expect_err("not recorded"));
    for part in ["number 1 (line 2)", "at messages[1], character", "recorded", "say\\nagent <id 1>", "pray"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let mut longer = asked(NOW, "say");
    longer.messages.push(Message::User { text: "more".into() });
    let said = misses(replayed.ask(longer).await.expect_err("not recorded"));
    assert!(said.contains("messages[2]"), "{said}");
    let clamped = ModelRequest { max_output_tokens: aaos_core::quantity::Tokens(7), ..asked(NOW, "say") };
    replayed.ask(clamped).await.expect("the control: how long the reply may be does not matter");
    let said = misses(replayed.ask(asked(NOW, "say")).await.expect_err("it was recorded once"));
    assert!(said.contains("more often than the recorded one"), "{said}");
    replayed.end();
}

#[tokio::test]
async fn a_file_that_is_no_cassette_fails_every_request_with_its_line() {
    let folder = scratch();
    let good = std::fs::read_to_string(short(folder.path(), "say").await).expect("the cassette");
    let (head, exchange) = good.split_once('\n').expect("two lines");
    let long = |bytes: u64| "x".repeat(usize::try_from(bytes).expect("small"));
    for (text, why) in [
        (String::new(), "it is empty"),
        ("no cassette\n".to_owned(), "line 1"),
        (good[..good.len() - 9].to_owned(), "line 2 is cut short"),
        (format!("{good}{{}}\n"), "line 3"),
        (good.replace("\"messages\"", "\"messages"), "line 2"),
        (format!("{head}\n{}", exchange.replacen("\"request\":{", "\"request\":[{", 1)), "line 2"),
        (long(MAX_CASSETTE_BYTES + 1), "longer than"),
        (
            format!("{}\n", long(MAX_CASSETTE_HEAD_BYTES as u64 + 1)),
            "line 1 is not as it should be: it has more",
        ),
    ] {
        let path = folder.path().join("bad");
        std::fs::write(&path, text).expect("writes");
        let mut replayed = replay(&path).await;
        let failure = replayed.ask(asked(NOW, "say")).await.expect_err(why);
        assert_eq!(failure.kind, ModelFailureKind::NotRecorded, "{why}");
        assert!(failure.message.contains("cannot be replayed") && failure.message.contains(why), "{failure}");
        replayed.near.send(&ModelsRequest::Describe { serial: aaos_core::wire::RequestSerial(99) }).await;
        let ModelsReply::Described { providers, .. } = replayed.near.receive().await else {
            panic!("described")
        };
        assert!(providers.iter().all(|one| one.problem.as_deref().is_some_and(|said| said.contains(why))));
        replayed.end();
    }
}

#[tokio::test]
async fn a_cassette_that_is_full_or_gone_ends_the_recording_and_says_so() {
    let folder = scratch();
    let server = ModelServer::start(script());
    let setup = setup_of(WireFormat::OpenAi, server.openai_url());
    let file = begin(&folder.path().join("full"), &setup, THEN);
    let full = CassetteUse::Record { length: Bytes(MAX_CASSETTE_BYTES - 100) };
    let reading = File::open(folder.path().join("full")).expect("the cassette");
    let length = Bytes(reading.metadata().expect("a file").len());
    for (purpose, file, why) in
        [(full, &file, "longer than"), (CassetteUse::Record { length }, &reading, "Bad file")]
    {
        let mut recording = start(setup.clone(), purpose, THEN, file).await;
        for what in ["say", "call"] {
            let failure = recording.ask(asked(THEN, what)).await.expect_err("cannot be written");
            assert_eq!(failure.kind, ModelFailureKind::NotRecorded);
            assert!(failure.message.contains(why), "{failure}");
        }
        recording.end();
    }
    assert_eq!(std::fs::read_to_string(folder.path().join("full")).expect("a file").lines().count(), 1);
    let id = THEN[0].parse::<AgentId>();
    assert!(id.is_ok(), "what stands for an id in these tests is one");
}
