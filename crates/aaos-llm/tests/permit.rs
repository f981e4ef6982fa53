//! The whole path of one inference: authorised, journalled, asked over a real socket, settled, journalled.

use std::time::Duration;

use aaos_core::authority::{Admission, Authority, AuthorityLimits};
use aaos_core::budget::Budget;
use aaos_core::effect::Inference;
use aaos_core::id::{AgentId, CallId};
use aaos_core::model::{Message, ModelFailure, ModelFailureKind, ModelRequest};
use aaos_core::name::{AgentName, ModelName};
use aaos_core::quantity::{Amounts, Quantity, Timestamp, Tokens};
use aaos_core::wire::{
    FRAME_HEADER_BYTES, ModelsReply, ModelsRequest, decode_frame, encode_frame, frame_length,
};
use aaos_journal::{About, Filter, Journal, JournalConfig, Permit};
use aaos_llm::{Class, Models, ModelsConfig, Party, Turn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::Instant;

const NOW: Timestamp = Timestamp(1_000);

fn agent() -> AgentId {
    "00000000-0000-7000-8000-000000000001".parse().expect("an id")
}

/// An authority with one agent that may use 1000 tokens.
fn authority() -> Authority {
    let mut authority = Authority::new(AuthorityLimits::default());
    let name = AgentName::parse("root").expect("a name");
    let admission = Admission::plain(agent(), name, Budget::of(Quantity::Tokens, 1_000));
    authority.admit_root(admission, Vec::new(), NOW).expect("room");
    authority
}

async fn permit(authority: &mut Authority, journal: &Journal) -> Permit<Inference> {
    let request = ModelRequest {
        model: ModelName::parse("m").expect("a name"),
        system: String::new(),
        messages: vec![Message::User { text: "hello".to_owned() }],
        tools: Vec::new(),
        max_output_tokens: Tokens(100),
        narrowed: None,
    };
    let call: CallId = "00000000-0000-7000-8000-000000000002".parse().expect("an id");
    let effect = Inference {
        request,
        reserve: Tokens(600),
        price: None,
        request_hash: String::new(),
        keeps: None,
        estimate: None,
    };
    let authorized = authority.authorize(agent(), call, effect, NOW).expect("the purse covers it");
    let about = About { timestamp: NOW, goal_id: None, trace_id: None, parent_event: None };
    journal.begin(authorized, about).await.expect("the intent is on disk")
}

/// A gateway that knows no model.
async fn refuse_everything(mut stream: UnixStream) {
    loop {
        let mut header = [0; FRAME_HEADER_BYTES];
        if stream.read_exact(&mut header).await.is_err() {
            return;
        }
        let mut body = vec![0; frame_length(header).expect("short")];
        stream.read_exact(&mut body).await.expect("a whole frame");
        let reply = match decode_frame(&body).expect("a request") {
            ModelsRequest::Describe { serial } => ModelsReply::Described { serial, providers: Vec::new() },
            ModelsRequest::Ask { serial, .. } => {
                let kind = ModelFailureKind::UnknownModel;
                let failure = ModelFailure { kind, message: "no such model".to_owned(), retry_after: None };
                ModelsReply::Failed { serial, failure }
            }
            ModelsRequest::Cancel { .. }
            | ModelsRequest::Probe { .. }
            | ModelsRequest::Show { .. }
            | ModelsRequest::Export { .. } => continue,
        };
        stream.write_all(&encode_frame(&reply).expect("short")).await.expect("the near end listens");
    }
}

#[tokio::test]
async fn a_permit_becomes_a_receipt_even_when_the_model_fails() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = JournalConfig::at(folder.path().join("journal.db"));
    let (journal, _) = Journal::open(config).expect("a fresh journal");
    let mut authority = authority();
    let permit = permit(&mut authority, &journal).await;
    assert_eq!(authority.purse(agent(), NOW).expect("known").reserved.get(Quantity::Tokens), 600);

    let (near, far) = UnixStream::pair().expect("a pair");
    let gateway = tokio::spawn(refuse_everything(far));
    let config = ModelsConfig {
        slots_per_provider: 1,
        min_gap: Duration::ZERO,
        attempts: 3,
        attempt_time: Duration::from_secs(60),
    };
    let models = Models::new(near, config);
    let turn = Turn { party: Party::Principal(0), class: Class::Interactive };
    let deadline = Instant::now() + Duration::from_secs(60);
    let receipt = models.run(permit, turn, 0, deadline, std::future::pending(), |_| {}).await;
    let outcome = receipt.outcome();
    assert_eq!((outcome.attempts, outcome.possibly_billed), (1, 0));
    assert_eq!(outcome.result.as_ref().expect_err("refused").kind, ModelFailureKind::UnknownModel);

    let finished = journal.finish(receipt, NOW).await.expect("the outcome is on disk");
    authority.settle(finished.call, &finished.charges, &finished.spent, NOW);
    assert_eq!(authority.purse(agent(), NOW).expect("known").reserved, Amounts::NONE);
    let entries = journal.read(Filter::default()).await.expect("readable");
    let kinds: Vec<_> = entries.iter().map(|entry| entry.event.kind()).collect();
    assert_eq!(kinds, ["inference_requested", "inference_completed"]);
    drop(models);
    gateway.await.expect("the gateway saw the connection close");
}
