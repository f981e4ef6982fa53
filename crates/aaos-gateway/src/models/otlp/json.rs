//! Spans as an `ExportTraceServiceRequest` in the JSON mapping of protocol buffers that OTLP prescribes.
//!
//! Invariants: ids are lower-case hexadecimal digits, 64-bit whole numbers are texts of decimal digits, a span ends no
//! earlier than it began, and the names of attributes are those of the semantic conventions for generative AI, or begin
//! with `aaos.`.

use aaos_core::name::ProviderName;
use aaos_core::quantity::Timestamp;
use aaos_core::span::{CallSpan, FinishReason, SpanEnd, SpanRetry};
use serde::Serialize;
use serde_json::{Value, json};

/// `SPAN_KIND_CLIENT`.
const CLIENT: u32 = 3;
/// `STATUS_CODE_ERROR`.
const ERROR: u32 = 2;
const SERVICE: &str = "aaos-agentd";
const OPERATION: &str = "chat";
const NANOS_PER_MILLI: u128 = 1_000_000;
const MICROS_PER_SECOND: f64 = 1_000_000.0;

/// The whole request.
pub(super) fn written(
    spans: &[CallSpan],
    version: &str,
    server_of: impl Fn(&ProviderName) -> Option<(String, u16)>,
) -> String {
    let spans: Vec<Value> = spans.iter().map(|one| span(one, &server_of)).collect();
    let resource = [text("service.name", SERVICE), text("service.version", version)];
    json!({ "resourceSpans": [{
        "resource": { "attributes": resource },
        "scopeSpans": [{ "scope": { "name": SERVICE, "version": version }, "spans": spans }],
    }] })
    .to_string()
}

fn span(span: &CallSpan, server_of: impl Fn(&ProviderName) -> Option<(String, u16)>) -> Value {
    // The last 64 bits of a call's id are its random ones, and never all zero.
    let (_, id) = span.call.as_uuid().as_u64_pair();
    let mut written = json!({
        "traceId": span.trace.0.simple().to_string(),
        "spanId": format!("{id:016x}"),
        "name": format!("{OPERATION} {}", span.model),
        "kind": CLIENT,
        "startTimeUnixNano": nanos(span.began),
        "endTimeUnixNano": nanos(span.ended.max(span.began)),
        "attributes": attributes(span, server_of),
        "events": span.retries.iter().map(retry).collect::<Vec<_>>(),
    });
    if let SpanEnd::Failed(_) = span.end {
        written["status"] = json!({ "code": ERROR });
    }
    written
}

fn attributes(span: &CallSpan, server_of: impl Fn(&ProviderName) -> Option<(String, u16)>) -> Vec<Value> {
    let mut attributes = vec![
        text("gen_ai.operation.name", OPERATION),
        text("gen_ai.request.model", span.model.as_str()),
        number("gen_ai.request.max_tokens", span.max_output_tokens.0),
        text("gen_ai.conversation.id", &span.agent.to_string()),
    ];
    if let Some(provider) = &span.provider {
        attributes.push(text("gen_ai.provider.name", provider.as_str()));
        if let Some((host, port)) = server_of(provider) {
            attributes.extend([text("server.address", &host), number("server.port", u64::from(port))]);
        }
    }
    match &span.end {
        SpanEnd::Answered { model, first, finish, usage } => {
            attributes.extend(model.as_ref().map(|model| text("gen_ai.response.model", model.as_str())));
            attributes.extend(first.map(|first| {
                let seconds = first.0 as f64 / MICROS_PER_SECOND;
                attribute("gen_ai.response.time_to_first_chunk", &json!({ "doubleValue": seconds }))
            }));
            attributes.push(finish_reason(*finish));
            attributes.extend([
                number("gen_ai.usage.input_tokens", usage.input_tokens.0),
                number("gen_ai.usage.output_tokens", usage.output_tokens.0),
                number("gen_ai.usage.cache_read.input_tokens", usage.cached_input_tokens.0),
            ]);
        }
        SpanEnd::Failed(kind) => attributes.push(text("error.type", &word(kind))),
    }
    if let Some(content) = &span.content {
        attributes.push(text("gen_ai.system_instructions", &as_json(&content.system)));
        attributes.push(text("gen_ai.input.messages", &as_json(&content.input)));
        if !content.output.is_empty() {
            attributes.push(text("gen_ai.output.messages", &as_json(&content.output)));
        }
    }
    attributes
}

fn finish_reason(reason: FinishReason) -> Value {
    let values = json!({ "arrayValue": { "values": [{ "stringValue": word(&reason) }] } });
    attribute("gen_ai.response.finish_reasons", &values)
}

fn retry(retry: &SpanRetry) -> Value {
    let attributes = [text("error.type", &word(&retry.kind)), number("aaos.retry.wait_ms", retry.wait.0)];
    json!({ "timeUnixNano": nanos(retry.at), "name": "aaos.retry", "attributes": attributes })
}

fn attribute(key: &str, value: &Value) -> Value {
    json!({ "key": key, "value": value })
}

fn text(key: &str, value: &str) -> Value {
    attribute(key, &json!({ "stringValue": value }))
}

fn number(key: &str, value: u64) -> Value {
    attribute(key, &json!({ "intValue": value.to_string() }))
}

fn nanos(time: Timestamp) -> String {
    (u128::from(time.0) * NANOS_PER_MILLI).to_string()
}

fn as_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// The word for one of several kinds.
fn word(kind: &impl Serialize) -> String {
    as_json(kind).trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::written;
    use aaos_core::model::{ModelFailureKind, Usage};
    use aaos_core::name::{ModelName, ProviderName};
    use aaos_core::observe::Micros;
    use aaos_core::quantity::{Millis, Timestamp, Tokens};
    use aaos_core::span::{CallSpan, FinishReason, SpanEnd, SpanRetry, SpanTrace};
    use serde_json::{Value, json};

    const GOAL: &str = "0190a5e8-7c1b-7000-8000-0123456789ab";
    const CALL: &str = "0190a5e8-7c1b-7000-8f00-00000000000c";

    fn span(end: SpanEnd) -> CallSpan {
        CallSpan {
            trace: SpanTrace(*GOAL.parse::<aaos_core::id::GoalId>().expect("an id").as_uuid()),
            call: CALL.parse().expect("an id"),
            agent: GOAL.parse().expect("an id"),
            began: Timestamp(1_795_426_952_987),
            ended: Timestamp(1_795_426_953_000),
            provider: Some(ProviderName::parse("first").expect("a name")),
            model: ModelName::parse("one").expect("a name"),
            max_output_tokens: Tokens(9),
            retries: Vec::new(),
            end,
            content: None,
        }
    }

    fn only(one: CallSpan) -> Value {
        let server = |_: &ProviderName| Some(("h".to_owned(), 7));
        let all: Value = serde_json::from_str(&written(&[one], "1.2.3", server)).expect("JSON");
        let resource = all["resourceSpans"][0]["resource"]["attributes"].to_string();
        assert!(resource.contains("aaos-agentd") && resource.contains("1.2.3"), "{resource}");
        all["resourceSpans"][0]["scopeSpans"][0]["spans"][0].clone()
    }

    fn of(span: &Value, key: &str) -> Value {
        let found = span["attributes"].as_array().expect("a list").iter().find(|one| one["key"] == key);
        found.map(|one| one["value"].clone()).unwrap_or_default()
    }

    #[test]
    fn an_answered_call_is_a_span_of_the_conventions() {
        let usage =
            Usage { input_tokens: Tokens(5), output_tokens: Tokens(3), cached_input_tokens: Tokens(2) };
        let model = ModelName::parse("one-2026").ok();
        let first = Some(Micros(250_000));
        let end = SpanEnd::Answered { model, first, finish: FinishReason::ToolCall, usage };
        let told = only(span(end));
        assert_eq!(told["traceId"], "0190a5e87c1b700080000123456789ab");
        assert_eq!(told["spanId"], "8f0000000000000c");
        assert_eq!((&told["name"], &told["kind"]), (&json!("chat one"), &json!(3)));
        assert_eq!(told["startTimeUnixNano"], "1795426952987000000");
        assert_eq!(told["endTimeUnixNano"], "1795426953000000000");
        assert!(told["status"].is_null() && told["parentSpanId"].is_null(), "{told}");
        for (key, value) in [
            ("gen_ai.operation.name", json!({ "stringValue": "chat" })),
            ("gen_ai.provider.name", json!({ "stringValue": "first" })),
            ("gen_ai.request.model", json!({ "stringValue": "one" })),
            ("gen_ai.response.model", json!({ "stringValue": "one-2026" })),
            ("gen_ai.response.time_to_first_chunk", json!({ "doubleValue": 0.25 })),
            ("gen_ai.usage.input_tokens", json!({ "intValue": "5" })),
            ("gen_ai.usage.output_tokens", json!({ "intValue": "3" })),
            ("gen_ai.usage.cache_read.input_tokens", json!({ "intValue": "2" })),
            ("server.address", json!({ "stringValue": "h" })),
            ("server.port", json!({ "intValue": "7" })),
            ("error.type", Value::Null),
            ("gen_ai.input.messages", Value::Null),
        ] {
            assert_eq!(of(&told, key), value, "{key}");
        }
        let reasons = of(&told, "gen_ai.response.finish_reasons");
        assert_eq!(reasons, json!({ "arrayValue": { "values": [{ "stringValue": "tool_call" }] } }));
    }

    #[test]
    fn a_failed_call_is_an_error_and_its_retries_are_events() {
        let mut one = span(SpanEnd::Failed(ModelFailureKind::Timeout));
        let retry = SpanRetry { at: one.began, kind: ModelFailureKind::RateLimited, wait: Millis(40) };
        one.retries.push(retry);
        one.ended = Timestamp(0);
        let told = only(one);
        assert_eq!(told["status"], json!({ "code": 2 }));
        assert_eq!(of(&told, "error.type"), json!({ "stringValue": "timeout" }));
        assert_eq!(told["endTimeUnixNano"], told["startTimeUnixNano"], "a clock that went back");
        let event = &told["events"][0];
        assert_eq!(
            (&event["name"], &event["timeUnixNano"]),
            (&json!("aaos.retry"), &told["startTimeUnixNano"])
        );
        assert!(
            event.to_string().contains("rate_limited") && event.to_string().contains("\"40\""),
            "{event}"
        );
    }
}
