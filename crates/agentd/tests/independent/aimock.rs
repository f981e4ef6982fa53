//! Goals against aimock: calls in small pieces, and its ways to fail, in both wire formats. Each ends as `docs/models.md`
//! says of that fault.

use crate::documented;
use crate::sdks::assert_right;
use crate::servers::Server;
use crate::support::{Ran, asking, lead, run};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use testkit::Dialect;

/// Asked for in a call whose arguments come character by character: quotes, a backslash, and more than one byte each.
const SAID: &str = "a \"quoted\" \\ \u{e4}\u{20ac}";
/// What a provider that is asked again answers.
const RECOVERED: &str = "recovered";
/// Seconds that a refusal asks for.
const WAIT_SECONDS: u64 = 2;

/// One thing that aimock is told to do.
struct Case {
    /// In the goal, so that its fixtures are found.
    goal: &'static str,
    /// The fault of `docs/models.md` that this is.
    is: &'static str,
    /// What it does first; after that it answers.
    first: Value,
}

fn case(goal: &'static str, is: &'static str, first: Value) -> Case {
    Case { goal, is, first }
}

/// A fixture that answers, with some way to go wrong.
#[expect(clippy::needless_pass_by_value, reason = "tests write json!() in place")]
fn answering(more: Value) -> Value {
    let mut fixture =
        json!({ "response": { "content": "an answer that is long enough to be cut in its middle" } });
    fixture.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    fixture
}

#[expect(clippy::needless_pass_by_value, reason = "tests write json!() in place")]
fn error(status: u16, more: Value) -> Value {
    let mut response = json!({ "status": status, "error": { "message": "as the test wants it" } });
    response.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    json!({ "response": response })
}

fn cases() -> Vec<Case> {
    let chaos = |mode: &str| answering(json!({ "chaos": { mode: 1 } }));
    let call = json!({ "toolCalls": [{ "name": "echo", "arguments": { "message": SAID } }] });
    let limit = "status 429 with `Retry-After`";
    vec![
        case("answer", "nothing", answering(json!({ "chunkSize": 1 }))),
        case("call", "a call split at every byte", json!({ "response": call, "chunkSize": 1 })),
        case("refuse", limit, error(429, json!({ "retryAfter": WAIT_SECONDS }))),
        case("limit", limit, chaos("rateLimitRate")),
        case("drop", "status 500", chaos("dropRate")),
        case("reject", "status 400", error(400, json!({}))),
        case("unauthorised", "status 401", error(401, json!({}))),
        case("disconnect", "status 500", chaos("disconnectRate")),
        case(
            "cut",
            "a broken connection",
            answering(json!({ "chunkSize": 4, "latency": 20, "truncateAfterChunks": 5 })),
        ),
        case("malformed", "a stream that is not JSON", chaos("malformedRate")),
        case(
            "shorten",
            "a reply cut at its token limit",
            json!({ "response":
            { "content": "half of an answer", "finishReason": "length" } }),
        ),
        case("empty", "an empty reply", json!({ "response": { "content": "" } })),
    ]
}

/// What aimock serves for these: the fault for a goal's first request, an answer for its second.
fn fixtures(cases: &[Case]) -> Value {
    let of = |case: &Case| {
        let said = |at: u32| json!({ "userMessage": format!("<{}>", case.goal), "sequenceIndex": at });
        let mut first = case.first.clone();
        first["match"] = said(0);
        [first, json!({ "match": said(1), "response": { "content": RECOVERED } })]
    };
    json!({ "fixtures": cases.iter().flat_map(of).collect::<Vec<_>>() })
}

/// Runs each case with a daemon of its own, a few at a time.
fn run_all(wire: Dialect) -> BTreeMap<&'static str, (&'static str, Ran)> {
    const LANES: usize = 3;
    let cases = cases();
    let server = Server::aimock(&fixtures(&cases));
    let one = |case: &Case| {
        let ran = run(&asking(wire, &server), &lead("You are the lead."), &format!("Meet <{}>.", case.goal));
        (case.goal, (case.is, ran))
    };
    std::thread::scope(|scope| {
        let lanes: Vec<_> = cases
            .chunks(cases.len().div_ceil(LANES))
            .map(|lane| scope.spawn(move || lane.iter().map(one).collect::<Vec<_>>()))
            .collect();
        lanes.into_iter().flat_map(|lane| lane.join().expect("nothing else went wrong")).collect()
    })
}

fn assert_documented(wire: Dialect) {
    let ran = run_all(wire);
    let documented: BTreeSet<String> = documented::rows().into_values().collect();
    let seen = ran.values().map(|(is, ran)| ran.row(is));
    let unlike: Vec<String> = seen.filter(|row| !documented.contains(row)).collect();
    assert_eq!(unlike, Vec::<String>::new(), "of aimock over {wire:?}, and not in docs/models.md");
    assert_right(&ran.values().flat_map(|(_, ran)| ran.requests.clone()).collect::<Vec<_>>());
    assert_call(&ran["call"].1);
    for (goal, least) in [("refuse", WAIT_SECONDS * 1_000), ("limit", 1_000)] {
        let retried = ran[goal].1.of_kind("inference_retried");
        let wait = retried[0]["wait"].as_u64().expect("a wait");
        assert!(wait >= least && wait < 3 * least, "as long as it asks: {retried:?}");
    }
}

/// The call arrived whole, and its result went back under its id.
fn assert_call(ran: &Ran) {
    let invoked = ran.of_kind("tool_invoked");
    assert_eq!(invoked[0]["input"], json!({ "message": SAID }), "{invoked:?}");
    let last = ran.exchanges.last().expect("two").to_string();
    assert!(last.contains("quoted"), "{last}");
    assert_eq!(ran.told["response"], RECOVERED);
}

#[test]
fn goals_against_aimock_end_as_documented_over_the_openai_wire() {
    assert_documented(Dialect::OpenAi);
}

#[test]
fn goals_against_aimock_end_as_documented_over_the_anthropic_wire() {
    assert_documented(Dialect::Anthropic);
}
