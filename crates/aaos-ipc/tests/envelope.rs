//! JSON-RPC 2.0 envelopes, line by line.

use aaos_core::limits::{MAX_BATCH, MAX_REQUEST_BYTES};
use aaos_ipc::{
    ErrorCode, Incoming, Request, RequestId, Response, RpcError, ServerLine, batch_line, call_line,
    notification_line, parse_line, parse_server_line,
};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

fn request(line: &str) -> Request {
    match parse_line(line.as_bytes()) {
        Incoming::Single(Ok(request)) => request,
        other => panic!("{line} is a request, but got {other:?}"),
    }
}

/// Code and id of the error response that a line gets.
fn refusal(line: &[u8]) -> (ErrorCode, String) {
    match parse_line(line) {
        Incoming::Single(Err(Response { id, result: Err(error) })) => (error.code, id.to_string()),
        _ => panic!("{:.200} is refused", String::from_utf8_lossy(line)),
    }
}

fn text(line: Vec<u8>) -> String {
    String::from_utf8(line).expect("UTF-8")
}

#[test]
fn a_request_keeps_its_id_to_the_letter() {
    for id in ["1", "-1", "1.0", "1e3", "123456789012345678901234567890", "\"a\\u0062\"", "\"\"", "null"] {
        let request = request(&format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"m\"}}"));
        let response = request.respond(Err(RpcError::method_not_found("m"))).expect("not a notification");
        assert!(text(response.to_line()).ends_with(&format!("\"id\":{id}}}\n")), "{id}");
    }
}

#[test]
fn a_notification_gets_no_response() {
    let request = request(r#"{"jsonrpc":"2.0","method":"m","params":[1]}"#);
    assert_eq!(request.id, None);
    assert!(request.respond(Err(RpcError::method_not_found("m"))).is_none());
    assert_eq!(batch_line(&[]), None);
}

#[test]
fn what_is_not_json_is_a_parse_error() {
    for line in [&b""[..], b"{", b"nonsense", b"{\"jsonrpc\":\"2.0\",}", b"\xff\xfe", b"{} {}", b"[1,"] {
        assert_eq!(refusal(line), (ErrorCode::Parse, "null".into()), "{:?}", String::from_utf8_lossy(line));
    }
}

#[test]
fn what_is_no_request_is_invalid_and_keeps_a_readable_id() {
    let cases = [
        (r#"1"#, "null"),
        (r#""text""#, "null"),
        (r#"{}"#, "null"),
        (r#"{"id":7,"method":"m"}"#, "7"),
        (r#"{"jsonrpc":"1.0","id":7,"method":"m"}"#, "7"),
        (r#"{"jsonrpc":2.0,"id":7,"method":"m"}"#, "7"),
        (r#"{"jsonrpc":"2.0","id":7}"#, "7"),
        (r#"{"jsonrpc":"2.0","id":"x","method":1}"#, "\"x\""),
        (r#"{"jsonrpc":"2.0","id":[1],"method":"m"}"#, "null"),
        (r#"{"jsonrpc":"2.0","id":{},"method":"m"}"#, "null"),
        (r#"{"jsonrpc":"2.0","id":true,"method":"m"}"#, "null"),
        (r#"{"jsonrpc":"2.0","id":7,"method":"m","params":"x"}"#, "7"),
        (r#"{"jsonrpc":"2.0","id":7,"method":"m","params":null}"#, "7"),
        (r#"{"jsonrpc":"2.0","id":7,"method":"m","parms":{}}"#, "7"),
        (r#"{"jsonrpc":"2.0","id":7,"id":8,"method":"m"}"#, "null"),
        (r#"[]"#, "null"),
    ];
    for (line, id) in cases {
        assert_eq!(refusal(line.as_bytes()), (ErrorCode::InvalidRequest, id.into()), "{line}");
    }
    let long_id = format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"m"}}"#, "x".repeat(5_000));
    assert_eq!(refusal(long_id.as_bytes()), (ErrorCode::InvalidRequest, "null".into()));
    let long_method = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{}"}}"#, "x".repeat(5_000));
    assert_eq!(refusal(long_method.as_bytes()), (ErrorCode::InvalidRequest, "1".into()));
}

#[test]
fn a_line_that_is_too_long_is_refused_before_it_is_read() {
    let line = vec![b' '; MAX_REQUEST_BYTES + 1];
    assert_eq!(refusal(&line), (ErrorCode::InvalidRequest, "null".into()));
    assert_eq!(refusal(&line[1..]).0, ErrorCode::Parse, "the control: one byte less is read");
}

#[test]
fn a_batch_answers_entry_by_entry() {
    let line = r#"[{"jsonrpc":"2.0","id":1,"method":"a"},2,{"jsonrpc":"2.0","method":"n"},{"id":3}]"#;
    let Incoming::Batch(entries) = parse_line(line.as_bytes()) else { panic!("a batch") };
    assert_eq!(entries.len(), 4);
    assert_eq!(entries[0].as_ref().expect("a request").method, "a");
    assert!(entries[1].is_err());
    assert_eq!(entries[2].as_ref().expect("a notification").id, None);
    assert_eq!(entries[3].as_ref().expect_err("no version").id.to_string(), "3");
    let answers = [Response::done(RequestId::number(1), &"x"), entries[1].clone().expect_err("invalid")];
    let line = text(batch_line(&answers).expect("answers"));
    assert!(line.starts_with("[{\"jsonrpc\":\"2.0\",\"result\":\"x\",\"id\":1},{") && line.ends_with("}]\n"));
    let Ok(ServerLine::Batch(read)) = parse_server_line(line.as_bytes()) else { panic!("a batch") };
    assert_eq!(read, answers);
}

#[test]
fn a_batch_is_bounded() {
    let entries = |count: usize| format!("[{}]", vec![r#"{"jsonrpc":"2.0","method":"n"}"#; count].join(","));
    assert!(
        matches!(parse_line(entries(MAX_BATCH).as_bytes()), Incoming::Batch(read) if read.len() == MAX_BATCH)
    );
    assert_eq!(refusal(entries(MAX_BATCH + 1).as_bytes()).0, ErrorCode::InvalidRequest);
    assert_eq!(refusal(format!("[{}1]", "[],".repeat(100_000)).as_bytes()).0, ErrorCode::InvalidRequest);
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
    #[serde(default)]
    more: Option<serde_json::Value>,
}

#[test]
fn parameters_are_parsed_into_the_methods_own_type() {
    let params =
        |json: &str| request(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{json}}}"#)).params;
    assert_eq!(params(r#"{"name":"x"}"#).parse::<Named>().expect("fits").name, "x");
    for bad in [r#"{}"#, r#"{"name":1}"#, r#"{"name":"x","nam":1}"#, r#"{"name":"x","name":"y"}"#] {
        let error = params(bad).parse::<Named>().expect_err(bad);
        assert_eq!(error.code, ErrorCode::InvalidParams);
    }
    let absent = request(r#"{"jsonrpc":"2.0","id":1,"method":"m"}"#).params;
    assert!(absent.parse::<Named>().expect_err("missing").message.contains("name"));
    let long = format!(r#"{{"{}":1}}"#, "k".repeat(100_000));
    assert!(params(&long).parse::<Named>().expect_err("unknown").message.len() < 1_000);
}

#[test]
fn a_depth_bomb_is_an_error_and_not_a_crash() {
    let depth = 1_000_000;
    let bomb = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let Incoming::Batch(entries) = parse_line(bomb.as_bytes()) else { panic!("a batch of one") };
    assert!(
        matches!(entries.as_slice(), [Err(Response { result: Err(error), .. })] if error.code == ErrorCode::InvalidRequest)
    );
    let unclosed = "[".repeat(depth);
    assert_eq!(refusal(unclosed.as_bytes()).0, ErrorCode::Parse);
    let inside = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"name":"x","more":{bomb}}}}}"#);
    assert_eq!(
        request(&inside).params.parse::<Named>().expect_err("too deep").code,
        ErrorCode::InvalidParams
    );
}

#[test]
fn an_oversized_result_becomes_an_error() {
    let huge = "x".repeat(40 * 1024 * 1024);
    let line = text(Response::done(RequestId::number(1), &huge).to_line());
    assert!(line.len() < 1_000 && line.contains("1004") && line.ends_with("\"id\":1}\n"), "{line}");
}

#[test]
fn a_client_reads_what_the_daemon_wrote() {
    let done = Response::done(RequestId::number(3), &Named { name: "x".into(), more: None });
    assert_eq!(parse_server_line(&done.to_line()).expect("a response"), ServerLine::Response(done));
    let failed = Response::failed(RequestId::null(), RpcError::method_not_found("x"));
    assert_eq!(parse_server_line(&failed.to_line()).expect("a response"), ServerLine::Response(failed));
    let empty = Response::done(RequestId::number(4), &());
    assert_eq!(parse_server_line(&empty.to_line()).expect("a null result"), ServerLine::Response(empty));
    let line = notification_line("stream.frame", &[1]).expect("JSON");
    assert!(
        matches!(parse_server_line(&line), Ok(ServerLine::Notification(read)) if read.method == "stream.frame")
    );
    let line = call_line(&RequestId::number(9), "agent.list", &Named { name: "n".into(), more: None });
    let read = request(text(line.expect("JSON")).trim_end());
    assert_eq!((read.method.as_str(), read.id), ("agent.list", Some(RequestId::number(9))));
    for bad in ["{}", "[1]", r#"{"jsonrpc":"1.0","id":1,"result":1}"#, r#"{"jsonrpc":"2.0","id":1}"#] {
        assert!(parse_server_line(bad.as_bytes()).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(line in proptest::collection::vec(any::<u8>(), 0..300)) {
        let refused = matches!(parse_line(&line), Incoming::Single(Err(_)));
let looks_right = line.iter().any(|byte| matches!(byte, b'[' | b'{'));
        prop_assert!(refused || looks_right);
        prop_assert!(parse_server_line(&line).is_err() || looks_right);
    }

    #[test]
    fn near_misses_get_exactly_one_answer(pieces in proptest::collection::vec(prop_oneof![
        Just("{"), Just("}"), Just("["), Just("]"), Just(","), Just(":"), Just("\"jsonrpc\":\"2.0\""),
        Just("\"id\":1"), Just("\"method\":\"m\""), Just("\"params\":{}"), Just("null"), Just("\"\\ud800\""),
    ], 0..24)) {
        match parse_line(pieces.concat().as_bytes()) {
            Incoming::Single(Err(response)) => prop_assert!(response.result.is_err()),
            Incoming::Single(Ok(request)) => prop_assert_eq!(request.method, "m"),
            Incoming::Batch(entries) => prop_assert!(!entries.is_empty()),
        }
    }
}
