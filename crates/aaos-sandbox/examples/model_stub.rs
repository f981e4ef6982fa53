//! The process of a local model without a model: for the tests of what surrounds it.
//!
//! It locks itself as the real one does. What stands in square brackets in its weights says how it takes them in, and
//! in the last message of a request how it answers: `die`, `grow`, `hide`, `garbage`, `giant`, `twice` and `hang` as they say,
//! `probe` tries to leave and tells what came of it, `request` gives the request back. Otherwise it repeats the message.

#![expect(unsafe_code, reason = "a thread that ends its first one is a raw call")]

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use aaos_confine::{Channel, ChannelError, ModelPlan, lock_model, run_probes};
use aaos_core::model::{Message, ModelReply, ModelRequest, ModelStop, Pace, Usage};
use aaos_core::quantity::Tokens;
use aaos_core::wire::{
    LocalFacts, LocalProblem, LocalProblemKind, LocalReply, LocalSetup, LocalTask, ModelsReply,
    ModelsRequest, ProbeAttempt, RequestSerial,
};
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

/// Most of the weights that are looked at.
const LOOKED_AT_BYTES: u64 = 4096;
/// What it takes at a time where it is to grow.
const STEP_BYTES: usize = 4 * 1024 * 1024;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let plan = ModelPlan::from_arguments(&arguments).expect("the zygote's command line");
    let channel = Channel::inherited();
    let report = lock_model(plan).expect("locked");
    channel.send(&LocalReply::Locked(report)).expect("sent");
    let (setup, weights) = channel.receive::<LocalSetup>().expect("the setup");
    if take_in(&channel, &setup, weights) == LocalTask::Serve {
        serve(&channel);
    }
}

/// What it understands.
const WISHES: [&str; 10] =
    ["die", "grow", "hide", "garbage", "giant", "twice", "hang", "probe", "request", "unusable"];

/// Which of them stands in square brackets.
fn wish(text: &str) -> &'static str {
    let is_meant = |wish: &&str| text.contains(&format!("[{wish}]"));
    WISHES.into_iter().find(is_meant).unwrap_or("")
}

fn take_in(channel: &Channel, setup: &LocalSetup, weights: Vec<OwnedFd>) -> LocalTask {
    let [weights] = <[OwnedFd; 1]>::try_from(weights).expect("one descriptor came");
    let weights = File::from(weights);
    let mut bytes = vec![0; usize::try_from(setup.file_bytes.0.min(LOOKED_AT_BYTES)).expect("few")];
    weights.read_exact_at(&mut bytes, 0).expect("as many bytes as there are");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    obey(channel, wish(&text));
    if wish(&text) == "unusable" {
        let message = "the architecture \x1b[31mmamba\nis not known".to_owned();
        let problem = LocalProblem { kind: LocalProblemKind::Unsupported, message };
        channel.send(&LocalReply::Unusable(problem)).expect("sent");
        return LocalTask::Check;
    }
    let facts = LocalFacts {
        architecture: "stub".to_owned(),
        name: Some(format!("stub\x1b[2J of {} threads", setup.threads)),
        parameters: 7,
        window: setup.window,
    };
    channel.send(&LocalReply::Ready(facts)).expect("sent");
    setup.task
}

fn serve(channel: &Channel) {
    loop {
        match channel.receive::<ModelsRequest>() {
            Ok((ModelsRequest::Ask { serial, request, .. }, _)) => answer(channel, serial, &request),
            Ok(_) => {}
            Err(ChannelError::Closed) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

fn answer(channel: &Channel, serial: RequestSerial, request: &ModelRequest) {
    let text = match request.messages.last() {
        Some(Message::User { text }) => text.clone(),
        other => format!("{other:?}"),
    };
    channel.send(&ModelsReply::Begun { serial, pace: Pace::default() }).expect("sent");
    obey(channel, wish(&text));
    let text = match wish(&text) {
        "hang" => return,
        "probe" => probed(&text),
        "request" => serde_json::to_string(request).expect("plain"),
        _ => text,
    };
    channel.send(&ModelsReply::Delta { serial, text: text.clone() }).expect("sent");
    let usage =
        Usage { input_tokens: Tokens(11), output_tokens: Tokens(7), cached_input_tokens: Tokens::ZERO };
    let reply = ModelReply {
        text,
        reasoning: None,
        thinking: Vec::new(),
        calls: Vec::new(),
        stop: ModelStop::EndTurn,
        usage,
    };
    channel.send(&ModelsReply::Done { serial, reply: Box::new(reply), measured: None }).expect("sent");
}

/// What a hostile one would do.
fn obey(channel: &Channel, wish: &str) {
    match wish {
        "die" => panic!("as it was told to"),
        "grow" => grow(),
        "hide" => grow_without_a_leader(),
        "garbage" => send(channel, b"\x05\0\0\0{\"no\""),
        "giant" => send(channel, &u32::MAX.to_le_bytes()),
        "twice" => {
            let locked = br#"{"locked":{"landlock_abi":0,"landlock_rules_hash":"","seccomp_filter_hash":"","namespaces":[],"probes":[]}}"#;
            let length = u32::try_from(locked.len()).expect("short").to_le_bytes();
            send(channel, &[length.as_slice(), locked].concat());
        }
        _ => {}
    }
}

fn send(channel: &Channel, bytes: &[u8]) {
    let mut none = SendAncillaryBuffer::default();
    sendmsg(channel.as_fd(), &[IoSlice::new(bytes)], &mut none, SendFlags::NOSIGNAL).expect("sent");
}

/// Takes memory, and uses it, until somebody ends it.
fn grow() -> ! {
    let mut taken = Vec::new();
    loop {
        taken.push(vec![1_u8; STEP_BYTES]);
        std::hint::black_box(&taken);
    }
}

/// The same in a second thread, once the first has ended, of which alone the kernel tells at the process's own place.
fn grow_without_a_leader() -> ! {
    drop(std::thread::spawn(|| grow()));
    // SAFETY: ends this thread alone; nothing of it is used by the other.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!("this thread has ended");
}

/// Makes the attempts that stand before the wish, as JSON, and gives what came of them as JSON.
fn probed(text: &str) -> String {
    let attempts = text.split_once("[probe]").map_or("", |(attempts, _)| attempts);
    let attempts: Vec<ProbeAttempt> = serde_json::from_str(attempts.trim()).expect("attempts");
    serde_json::to_string(&run_probes(&attempts)).expect("plain")
}
