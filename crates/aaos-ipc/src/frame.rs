//! The frames of a streaming method (SPEC §3): notifications `stream.frame` that precede its reply.
//!
//! Invariant: a frame's kind decides which members it has; others are refused when read.

use aaos_core::event::Entry;
use aaos_core::id::Seq;
use aaos_core::quantity::{Millis, Tokens};
use serde::{Deserialize, Serialize};

use crate::envelope::notification_line;
use crate::error::RpcError;
use crate::id::RequestId;

/// Method of the notification.
pub(crate) const STREAM_FRAME: &str = "stream.frame";

/// One frame of the stream that belongs to one request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "WireFrame", try_from = "WireFrame")]
pub struct StreamFrame {
    /// The request that started the stream.
    pub request_id: RequestId,
    /// What it says.
    pub body: FrameBody,
}

/// What a frame says.
#[derive(Debug, Clone, PartialEq)]
pub enum FrameBody {
    /// A journal entry.
    Event(Box<Entry>),
    /// The reader was too slow; nothing is lost, read on from here.
    Lag {
        /// The position to resume from.
        resume_seq: Seq,
    },
    /// The answer.
    FinalText {
        /// Its text.
        text: String,
    },
    /// The stream is over.
    End {
        /// Exit code of SPEC §6.
        exit_code: u8,
        /// What went wrong.
        error: Option<String>,
        /// Input tokens of the whole goal.
        input_tokens: Tokens,
        /// Output tokens of the whole goal.
        output_tokens: Tokens,
        /// Time since the submission.
        elapsed_ms: Millis,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FrameKind {
    Event,
    Lag,
    FinalText,
    End,
}

/// The frame as it stands on the wire: one flat object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireFrame {
    request_id: RequestId,
    kind: FrameKind,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    event: Option<Box<Entry>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    resume_seq: Option<Seq>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    exit_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    input_tokens: Option<Tokens>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    output_tokens: Option<Tokens>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    elapsed_ms: Option<Millis>,
}

impl WireFrame {
    fn empty(request_id: RequestId, kind: FrameKind) -> Self {
        Self {
            request_id,
            kind,
            event: None,
            resume_seq: None,
            text: None,
            exit_code: None,
            error: None,
            input_tokens: None,
            output_tokens: None,
            elapsed_ms: None,
        }
    }
}

impl From<StreamFrame> for WireFrame {
    fn from(frame: StreamFrame) -> Self {
        let empty = |kind| Self::empty(frame.request_id, kind);
        match frame.body {
            FrameBody::Event(entry) => Self { event: Some(entry), ..empty(FrameKind::Event) },
            FrameBody::Lag { resume_seq } => Self { resume_seq: Some(resume_seq), ..empty(FrameKind::Lag) },
            FrameBody::FinalText { text } => Self { text: Some(text), ..empty(FrameKind::FinalText) },
            FrameBody::End { exit_code, error, input_tokens, output_tokens, elapsed_ms } => Self {
                exit_code: Some(exit_code),
                error,
                input_tokens: Some(input_tokens),
                output_tokens: Some(output_tokens),
                elapsed_ms: Some(elapsed_ms),
                ..empty(FrameKind::End)
            },
        }
    }
}

impl TryFrom<WireFrame> for StreamFrame {
    type Error = String;

    fn try_from(wire: WireFrame) -> Result<Self, String> {
        let request_id = wire.request_id.clone();
        let body = body(&wire).ok_or("a stream frame lacks a member of its kind")?;
        let frame = Self { request_id, body };
        if WireFrame::from(frame.clone()) == wire {
            Ok(frame)
        } else {
            Err("a stream frame has members of another kind".to_owned())
        }
    }
}

fn body(wire: &WireFrame) -> Option<FrameBody> {
    Some(match wire.kind {
        FrameKind::Event => FrameBody::Event(wire.event.clone()?),
        FrameKind::Lag => FrameBody::Lag { resume_seq: wire.resume_seq? },
        FrameKind::FinalText => FrameBody::FinalText { text: wire.text.clone()? },
        FrameKind::End => FrameBody::End {
            exit_code: wire.exit_code?,
            error: wire.error.clone(),
            input_tokens: wire.input_tokens?,
            output_tokens: wire.output_tokens?,
            elapsed_ms: wire.elapsed_ms?,
        },
    })
}

/// The line of a frame; line break included.
///
/// # Errors
/// [`RpcError`] when it cannot be JSON.
pub fn stream_frame_line(frame: &StreamFrame) -> Result<Vec<u8>, RpcError> {
    notification_line(STREAM_FRAME, frame)
}

#[cfg(test)]
mod tests {
    use aaos_core::id::Seq;
    use aaos_core::quantity::{Millis, Tokens};

    use super::{FrameBody, StreamFrame, stream_frame_line};
    use crate::envelope::{ServerLine, parse_server_line};
    use crate::id::RequestId;

    fn frame(body: FrameBody) -> StreamFrame {
        StreamFrame { request_id: RequestId::number(7), body }
    }

    #[test]
    fn a_frame_is_one_flat_notification() {
        let line = stream_frame_line(&frame(FrameBody::Lag { resume_seq: Seq(9) })).expect("JSON");
        let expected = "{\"jsonrpc\":\"2.0\",\"method\":\"stream.frame\",\"params\":{\"request_id\":7,\"kind\":\"lag\",\"resume_seq\":9}}\n";
        assert_eq!(String::from_utf8(line).expect("text"), expected);
    }

    #[test]
    fn a_client_reads_what_the_daemon_wrote() {
        let end = FrameBody::End {
            exit_code: 1,
            error: Some("no".into()),
            input_tokens: Tokens(1),
            output_tokens: Tokens(2),
            elapsed_ms: Millis(3),
        };
        for body in [end, FrameBody::FinalText { text: "hi".into() }, FrameBody::Lag { resume_seq: Seq(1) }] {
            let sent = frame(body);
            let line = stream_frame_line(&sent).expect("JSON");
            let Ok(ServerLine::Notification(read)) = parse_server_line(&line) else {
                panic!("a notification")
            };
            assert_eq!(read.params.parse::<StreamFrame>().expect("a frame"), sent);
        }
    }

    #[test]
    fn a_frame_of_mixed_kinds_is_refused() {
        for bad in [
            r#"{"request_id":7,"kind":"lag"}"#,
            r#"{"request_id":7,"kind":"lag","resume_seq":1,"text":"x"}"#,
            r#"{"request_id":[],"kind":"lag","resume_seq":1}"#,
            r#"{"request_id":7,"kind":"other","resume_seq":1}"#,
        ] {
            assert!(serde_json::from_str::<StreamFrame>(bad).is_err(), "{bad}");
        }
    }
}
