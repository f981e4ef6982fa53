//! A model that says what a test scripted, over the wire formats of the real providers.
//!
//! Serves lists of models, OpenAI chat completions (any path that ends in `/chat/completions`) and Anthropic Messages (`/messages`),
//! whole and streamed. Invariants: every request is recorded before it is answered; a request that the script has no
//! turn for is answered with status 418, which no client retries, and counted in [`ModelServer::unscripted`].

mod anthropic;
mod openai;
mod script;
mod seen;
mod turn;

pub use script::Script;
pub use seen::{Dialect, SeenMessage, SeenRequest, SeenResult};
pub use turn::{Chop, CutAs, ReportedUsage, StopAs, Turn};

use crate::http::{Body, Ending, HttpRequest, Reply, Serving};
use crate::ledger::Ledger;
use serde_json::json;
use std::sync::{Mutex, PoisonError};
use turn::{Plan, Shape};

/// The model name that [`crate::Daemon`] configures; the server takes any.
pub const SCRIPTED_MODEL: &str = "scripted-model";

/// Answered when the script has nothing to say.
const UNSCRIPTED_STATUS: u16 = 418;

/// A scripted model provider on 127.0.0.1.
#[derive(Debug)]
pub struct ModelServer {
    serving: Serving,
    seen: Ledger<SeenRequest>,
    unscripted: Ledger<String>,
}

impl ModelServer {
    /// Starts serving `script`.
    ///
    /// # Panics
    /// When no loopback listener can be had.
    #[must_use]
    pub fn start(script: Script) -> Self {
        let (seen, unscripted) = (Ledger::new(), Ledger::new());
        let (record, misses) = (seen.clone(), unscripted.clone());
        let script = Mutex::new(script);
        let serving = Serving::start(move |request| answer(&request, &script, &record, &misses));
        Self { serving, seen, unscripted }
    }

    /// The base URL in the manner of OpenAI clients, with `/v1`.
    #[must_use]
    pub fn openai_url(&self) -> String {
        format!("http://{}/v1", self.serving.address())
    }

    /// The base URL in the manner of Anthropic clients, without `/v1`.
    #[must_use]
    pub fn anthropic_url(&self) -> String {
        format!("http://{}", self.serving.address())
    }

    /// Where the server listens.
    #[must_use]
    pub fn address(&self) -> std::net::SocketAddr {
        self.serving.address()
    }

    /// Every model request so far, in order of arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.seen.all()
    }

    /// Blocks until at least `count` model requests have arrived.
    ///
    /// # Panics
    /// After [`crate::PATIENCE`].
    #[must_use = "the requests are returned; `requests()` reads them without waiting"]
    pub fn wait_for_requests(&self, count: usize) -> Vec<SeenRequest> {
        self.seen.wait_for(count, "model requests")
    }

    /// Blocks until `count` clients have left an answer that hung, was gated or was still going out.
    ///
    /// # Panics
    /// After [`crate::PATIENCE`].
    pub fn wait_for_hangups(&self, count: usize) {
        let hangups = self.serving.hangups().wait_for(count, "hang-ups");
        assert!(hangups.len() >= count, "the ledger waits for what it is asked");
    }

    /// Requests that no script answered, described; a finished test wants none.
    #[must_use]
    pub fn unscripted(&self) -> Vec<String> {
        self.unscripted.all()
    }
}

fn answer(
    request: &HttpRequest,
    script: &Mutex<Script>,
    record: &Ledger<SeenRequest>,
    misses: &Ledger<String>,
) -> Reply {
    if request.method == "GET" && request.target.ends_with("/models") {
        return list(request);
    }
    let Some(seen) = SeenRequest::read(request) else {
        misses.push(format!("{} {}: not a model request", request.method, request.target));
        return failure(404, "this server speaks chat completions and messages only");
    };
    // From the conversation alone: whoever asks the same again is answered the same, ids of calls included.
    let serial = seen.messages.len();
    record.push(seen.clone());
    let turn = script.lock().unwrap_or_else(PoisonError::into_inner).next(&seen);
    match turn {
        Some(turn) => render(&seen, turn.into_plan(), serial),
        None => {
            misses.push(format!("no turn left for system prompt {:?}", seen.system));
            failure(UNSCRIPTED_STATUS, "the script has no turn for this request")
        }
    }
}

/// The list of models, which tells whether a key is taken: one that holds the word `wrong` is not, and one that holds
/// `barred` may not see it. It is recorded nowhere.
fn list(request: &HttpRequest) -> Reply {
    let holds = |word| {
        let mut keys = ["authorization", "x-api-key"].into_iter().filter_map(|name| request.header(name));
        keys.any(|key| key.contains(word))
    };
    if holds("wrong") {
        return failure(401, "this key is not taken");
    }
    if holds("barred") {
        return failure(403, "this key is for inferences only");
    }
    Reply::whole(200, "application/json", json!({ "object": "list", "data": [] }).to_string())
}

fn failure(status: u16, message: &str) -> Reply {
    // Both dialects read `error.message`.
    let body = json!({ "type": "error", "error": { "type": "scripted_error", "message": message } });
    Reply::whole(status, "application/json", body.to_string())
}

fn render(seen: &SeenRequest, plan: Plan, serial: usize) -> Reply {
    let mut reply = match plan.shape {
        Shape::Silence => Reply::silence(),
        Shape::Status { code, retry_after } => {
            let mut reply = failure(code, "scripted failure");
            reply.headers.extend(retry_after.map(|value| ("retry-after".to_owned(), value)));
            reply
        }
        Shape::MalformedJson if seen.streaming => Reply::with_body(
            200,
            EVENT_STREAM,
            Body::Pieces(vec![b"data: {\"oops\n\n".to_vec()], Ending::Proper),
        ),
        Shape::MalformedJson => Reply::whole(200, "application/json", "{\"choices\": [{\"mess"),
        Shape::Answer(answer) if seen.streaming => {
            let mut events = match seen.dialect {
                Dialect::OpenAi => openai::events(seen, &answer, serial),
                Dialect::Anthropic => anthropic::events(seen, &answer, serial),
            };
            let ending = answer.fault.apply(&mut events);
            Reply::with_body(200, EVENT_STREAM, Body::Pieces(answer.chop.apply(events), ending))
        }
        Shape::Answer(answer) => {
            let body = match seen.dialect {
                Dialect::OpenAi => openai::whole(seen, &answer, serial),
                Dialect::Anthropic => anthropic::whole(seen, &answer, serial),
            };
            answer.fault.damage(body.to_string())
        }
    };
    reply.gate = plan.gate;
    reply
}

const EVENT_STREAM: &str = "text/event-stream";

#[cfg(test)]
mod tests;
