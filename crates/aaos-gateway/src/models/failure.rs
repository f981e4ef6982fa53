//! Failures of providers: their kind, the wait they ask for, and a few harmless words of what they said.
//!
//! Invariant: no failure holds a key or the request; what a provider wrote is cut, cleaned of control
//! characters, and scrubbed of the key.

use std::time::{Duration, SystemTime};

use aaos_core::model::{ModelFailure, ModelFailureKind};
use aaos_core::quantity::Millis;
use hyper::StatusCode;
use serde::Deserialize;

use super::cassette::Heard;
use super::pace::{LONGEST, millis, pace};
use crate::dial::DialError;
use crate::words::harmless;

/// A failure of `kind`, without a wait.
#[must_use]
pub(super) fn failure(kind: ModelFailureKind, message: impl Into<String>) -> ModelFailure {
    ModelFailure { kind, message: message.into(), retry_after: None }
}

/// The reply could not be understood.
#[must_use]
pub(super) fn malformed(message: impl Into<String>) -> ModelFailure {
    failure(ModelFailureKind::MalformedReply, message)
}

/// The reply is over a limit; `what` names it.
#[must_use]
pub(super) fn too_long(what: impl std::fmt::Display) -> ModelFailure {
    let message = format!("{what}; ask for less at once, or take another model");
    failure(ModelFailureKind::TooLong, message)
}

/// The shapes in which providers say what is wrong.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ErrorBody {
    error: Option<Box<serde_json::value::RawValue>>,
    message: Option<String>,
    detail: Option<Box<serde_json::value::RawValue>>,
}

/// `error` as an object.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ErrorObject {
    /// In words.
    pub(super) message: Option<String>,
    /// A class, for example `overloaded_error`.
    #[serde(rename = "type")]
    pub(super) class: Option<String>,
    /// An HTTP status or a word.
    pub(super) code: Option<Box<serde_json::value::RawValue>>,
}

/// What an error body says, in its own words (not yet harmless).
fn words_of(body: &[u8]) -> String {
    let raw = String::from_utf8_lossy(body).into_owned();
    let Ok(parsed) = serde_json::from_slice::<ErrorBody>(body) else { return raw };
    let object = parsed.error.as_ref().map(|error| error.get());
    let message = object.and_then(|text| serde_json::from_str::<ErrorObject>(text).ok()?.message);
    message
        .or_else(|| object.and_then(|text| serde_json::from_str::<String>(text).ok()))
        .or(parsed.message)
        .or_else(|| parsed.detail.map(|detail| detail.get().to_owned()))
        .unwrap_or(raw)
}

/// Whether a 429 means that the account is empty, which no wait changes (OpenAI and its kin).
fn is_out_of_credit(body: &[u8]) -> bool {
    let object = serde_json::from_slice::<ErrorBody>(body).ok().and_then(|body| body.error);
    let object = object.and_then(|error| serde_json::from_str::<ErrorObject>(error.get()).ok());
    object.is_some_and(|object| {
        let code = object.code.as_ref().map(|code| code.get().trim_matches('"'));
        [object.class.as_deref(), code].contains(&Some("insufficient_quota"))
    })
}

/// The failure that an HTTP status other than 200 means. `provider` is its configured name.
#[must_use]
pub(super) fn of_status(provider: &str, answer: &Heard<'_>, body: &[u8], key: Option<&str>) -> ModelFailure {
    let status = answer.status;
    let words = harmless(&words_of(body), key);
    let said = if words.is_empty() { String::new() } else { format!(": {words}") };
    let code = status.as_u16();
    let (kind, advice) = match status {
        StatusCode::TOO_MANY_REQUESTS if is_out_of_credit(body) => {
            (ModelFailureKind::Rejected, "; no patience helps: see to the account at this provider")
        }
        StatusCode::TOO_MANY_REQUESTS => (ModelFailureKind::RateLimited, ""),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            (ModelFailureKind::Unauthorized, "; check the key of this provider")
        }
        StatusCode::REQUEST_TIMEOUT => (ModelFailureKind::Timeout, ""),
        _ if status.is_server_error() => (ModelFailureKind::Unavailable, ""),
        _ if status.is_redirection() => {
            (ModelFailureKind::Rejected, "; redirects are not followed, set base_url to the final address")
        }
        StatusCode::NOT_FOUND => (ModelFailureKind::Rejected, "; check base_url and the model's name"),
        _ => (ModelFailureKind::Rejected, ""),
    };
    let message = format!("provider {provider} answered HTTP {code}{said}{advice}");
    ModelFailure { kind, message, retry_after: wait(kind, answer) }
}

/// The failure that an error inside a stream, after HTTP 200, means.
#[must_use]
pub(super) fn of_stream(provider: &str, error: &ErrorObject, key: Option<&str>) -> ModelFailure {
    let class = error.class.as_deref().unwrap_or_default();
    let code = error.code.as_ref().map_or("", |code| code.get().trim_matches('"'));
    let kind = match (class, code) {
        ("rate_limit_error" | "rate_limit_exceeded", _) | (_, "429" | "rate_limit_exceeded") => {
            ModelFailureKind::RateLimited
        }
        ("authentication_error" | "permission_error", _) | (_, "401" | "403") => {
            ModelFailureKind::Unauthorized
        }
        ("invalid_request_error" | "not_found_error" | "request_too_large", _)
        | (_, "400" | "404" | "413") => ModelFailureKind::Rejected,
        _ => ModelFailureKind::Unavailable,
    };
    let words = harmless(error.message.as_deref().unwrap_or(class), key);
    failure(kind, format!("provider {provider} ended its stream with an error: {words}"))
}

/// The failure that an error means which ends a stream after the model has worked: what was read and worked on was not
/// turned away, and may be billed, whatever the provider calls it.
#[must_use]
pub(super) fn of_break(provider: &str, error: &ErrorObject, key: Option<&str>) -> ModelFailure {
    let said = of_stream(provider, error, key);
    match said.kind {
        ModelFailureKind::RateLimited | ModelFailureKind::Unavailable => {
            ModelFailure { kind: ModelFailureKind::CutStream, ..said }
        }
        _ => said,
    }
}

/// The failure that having no answer means.
#[must_use]
pub(super) fn of_dial(provider: &str, error: &DialError) -> ModelFailure {
    let kind = match error {
        DialError::NoTls(_) => ModelFailureKind::Rejected,
        _ if error.is_certificate() => ModelFailureKind::Rejected,
        _ => ModelFailureKind::Unavailable,
    };
    failure(kind, format!("provider {provider} cannot be reached: {}", harmless(&error.to_string(), None)))
}

/// How long the provider asks to wait; where it says of a limit only that it is used up, until that begins anew.
fn wait(kind: ModelFailureKind, answer: &Heard<'_>) -> Option<Millis> {
    let used_up = || {
        let pace = pace(|name| answer.header(name));
        let empty = [pace.requests, pace.tokens].into_iter().flatten().filter(|room| room.left == 0);
        empty.map(|room| room.resets_in).max().filter(|_| kind == ModelFailureKind::RateLimited)
    };
    retry_after(answer).or_else(used_up)
}

/// How long the provider asks to wait: `retry-after-ms`, or `retry-after` in seconds or as an HTTP date, which is
/// read against the answer's own `date` so that a difference of clocks does not matter.
fn retry_after(answer: &Heard<'_>) -> Option<Millis> {
    let milliseconds = answer.header("retry-after-ms").and_then(|text| text.trim().parse::<f64>().ok());
    let wait = match (milliseconds, answer.header("retry-after")) {
        (Some(milliseconds), _) => seconds(milliseconds / 1000.0),
        (None, Some(text)) => parse_retry_after(text, answer.header("date")),
        (None, None) => None,
    }?;
    Some(millis(wait))
}

pub(super) fn parse_retry_after(text: &str, date: Option<&str>) -> Option<Duration> {
    if let Ok(count) = text.trim().parse::<f64>() {
        return seconds(count);
    }
    let until = httpdate::parse_http_date(text.trim()).ok()?;
    let now = date.and_then(|date| httpdate::parse_http_date(date).ok()).unwrap_or_else(own_time);
    Some(until.duration_since(now).unwrap_or_default())
}

fn seconds(count: f64) -> Option<Duration> {
    (count >= 0.0).then(|| Duration::try_from_secs_f64(count).unwrap_or(LONGEST))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a date in a header means nothing without the time of day, and \
    the runtime's clock lives in another process; used only where the answer has no date of its own"
)]
pub(super) fn own_time() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::{ErrorObject, is_out_of_credit, of_stream, parse_retry_after, words_of};
    use aaos_core::model::ModelFailureKind;
    use std::time::Duration;

    #[test]
    fn waits_are_read_in_both_spellings() {
        let date = Some("Wed, 21 Oct 2015 07:28:00 GMT");
        for (text, wait) in [
            ("7", Some(7.0)),
            ("1.5", Some(1.5)),
            ("Wed, 21 Oct 2015 07:28:30 GMT", Some(30.0)),
            ("Wed, 21 Oct 2015 07:27:00 GMT", Some(0.0)),
            ("-1", None),
            ("NaN", None),
            ("soon", None),
        ] {
            assert_eq!(parse_retry_after(text, date), wait.map(Duration::from_secs_f64), "{text}");
        }
        assert_eq!(parse_retry_after("Wed, 21 Oct 2015 07:28:30 GMT", None), Some(Duration::ZERO));
        assert!(parse_retry_after("inf", date).is_some(), "capped by the caller");
    }

    #[test]
    fn error_bodies_are_read_in_every_usual_shape() {
        for (body, words) in [
            (r#"{"error":{"message":"slow down","type":"x"}}"#, "slow down"),
            (r#"{"type":"error","error":{"type":"overloaded_error","message":"busy"}}"#, "busy"),
            (r#"{"error":"no such model"}"#, "no such model"),
            (r#"{"object":"error","message":"too long"}"#, "too long"),
            (r#"{"detail":"Not Found"}"#, "\"Not Found\""),
            ("<html>", "<html>"),
        ] {
            assert_eq!(words_of(body.as_bytes()), words);
        }
    }

    #[test]
    fn an_empty_account_is_told_from_a_rate_limit() {
        for (body, is_empty) in [
            (r#"{"error":{"message":"x","type":"insufficient_quota","code":"insufficient_quota"}}"#, true),
            (r#"{"error":{"message":"x","code":"insufficient_quota"}}"#, true),
            (r#"{"error":{"message":"insufficient_quota","type":"requests","code":429}}"#, false),
            (r#"{"error":"insufficient_quota"}"#, false),
            ("insufficient_quota", false),
        ] {
            assert_eq!(is_out_of_credit(body.as_bytes()), is_empty, "{body}");
        }
    }

    #[test]
    fn errors_inside_a_stream_have_a_kind() {
        for (json, kind) in [
            (r#"{"type":"overloaded_error","message":"x"}"#, ModelFailureKind::Unavailable),
            (r#"{"type":"rate_limit_error"}"#, ModelFailureKind::RateLimited),
            (r#"{"code":429}"#, ModelFailureKind::RateLimited),
            (r#"{"code":"401"}"#, ModelFailureKind::Unauthorized),
            (r#"{"type":"invalid_request_error"}"#, ModelFailureKind::Rejected),
            (r#"{"code":null}"#, ModelFailureKind::Unavailable),
        ] {
            let error: ErrorObject = serde_json::from_str(json).expect("an error object");
            assert_eq!(of_stream("p", &error, None).kind, kind, "{json}");
        }
    }
}
