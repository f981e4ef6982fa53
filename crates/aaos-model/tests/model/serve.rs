//! Serving over a socket, as agentd sees it.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use aaos_confine::{Channel, ChannelError};
use aaos_core::model::ModelFailureKind;
use aaos_core::quantity::Millis;
use aaos_core::wire::{ModelsReply, ModelsRequest, RequestSerial};
use aaos_model::sampler::Choice;
use aaos_model::serve::{ServeError, serve};

use crate::gguf::tiny_engine;
use crate::given::request;

/// Serves a tiny model while `talk` talks to it; gives how the serving ended.
fn talk(talk: impl FnOnce(&Channel)) -> Result<(), ServeError> {
    let (near, far) = UnixStream::pair().expect("a socket pair");
    let serving =
        std::thread::spawn(move || serve(Channel::new(OwnedFd::from(far)), tiny_engine(Choice::Greedy)));
    let near = Channel::new(OwnedFd::from(near));
    talk(&near);
    drop(near);
    serving.join().expect("no panic")
}

fn ask(channel: &Channel, serial: u64, words: &str, most: u64, time: u64) {
    let request = Box::new(request("", words, vec![], most));
    let serial = RequestSerial(serial);
    channel.send(&ModelsRequest::Ask { serial, request, time: Millis(time) }).expect("it listens");
}

fn hear(channel: &Channel) -> ModelsReply {
    channel.receive::<ModelsReply>().expect("it answers").0
}

/// Everything up to the end of one request, which is given.
fn hear_end(channel: &Channel) -> ModelsReply {
    loop {
        match hear(channel) {
            ModelsReply::Begun { .. } | ModelsReply::Delta { .. } => {}
            end => return end,
        }
    }
}

const PATIENT: u64 = 3_600_000;

#[test]
fn requests_are_answered_once_each_and_in_their_order() {
    talk(|channel| {
        for serial in [5, 6] {
            ask(channel, serial, "hi", 12, PATIENT);
        }
        for wanted in [5, 6] {
            let ModelsReply::Begun { serial, .. } = hear(channel) else {
                panic!("it begins with its beginning")
            };
            assert_eq!(serial, RequestSerial(wanted));
            let ModelsReply::Done { serial, reply, .. } = hear_end(channel) else { panic!("it has a reply") };
            assert_eq!(serial, RequestSerial(wanted));
            assert_eq!(reply.usage.output_tokens.0, 12);
        }
        channel.send(&ModelsRequest::Describe { serial: RequestSerial(7) }).expect("it listens");
        assert!(matches!(hear(channel), ModelsReply::Described { serial: RequestSerial(7), .. }));
    })
    .expect("an orderly end");
}

#[test]
fn a_cancelled_request_says_nothing_more_and_the_next_one_is_served() {
    talk(|channel| {
        ask(channel, 1, "hi", 1_000_000, PATIENT);
        assert!(matches!(hear(channel), ModelsReply::Begun { serial: RequestSerial(1), .. }));
        ask(channel, 1, "again", 1, PATIENT);
        let failed = hear_end(channel);
        let ModelsReply::Failed { serial: RequestSerial(1), failure } = failed else { panic!("{failed:?}") };
        assert_eq!(failure.kind, ModelFailureKind::RateLimited, "a serial that is in use");
        channel.send(&ModelsRequest::Cancel { serial: RequestSerial(1) }).expect("it listens");
        ask(channel, 2, "hi", 3, PATIENT);
        let end = hear_end(channel);
        assert!(matches!(end, ModelsReply::Done { serial: RequestSerial(2), .. }), "{end:?}");
    })
    .expect("an orderly end");
}

#[test]
fn more_than_may_wait_is_refused_and_what_waits_is_dropped_with_the_channel() {
    talk(|channel| {
        for serial in 0..17 {
            ask(channel, serial, "hi", 1_000_000, PATIENT);
        }
        let refused = hear_end(channel);
        assert!(matches!(refused, ModelsReply::Failed { serial: RequestSerial(16), .. }), "{refused:?}");
    })
    .expect("an orderly end");
}

#[test]
fn what_cannot_be_done_is_said_and_serving_goes_on() {
    talk(|channel| {
        ask(channel, 1, "hi", 8, 0);
        let ModelsReply::Failed { failure, .. } = hear_end(channel) else { panic!("no time is too little") };
        assert_eq!(failure.kind, ModelFailureKind::Timeout);
        ask(channel, 2, &"a".repeat(100_000), 8, PATIENT);
        let ModelsReply::Failed { failure, .. } = hear_end(channel) else { panic!("it does not fit") };
        assert_eq!(failure.kind, ModelFailureKind::Rejected);
        ask(channel, 3, "hi", 8, PATIENT);
        assert!(matches!(hear_end(channel), ModelsReply::Done { serial: RequestSerial(3), .. }));
    })
    .expect("an orderly end");
}

#[test]
fn bytes_that_are_no_frame_end_the_serving() {
    let ended = talk(|channel| channel.send(&"no request").expect("it listens"));
    assert!(matches!(ended, Err(ServeError::Channel(ChannelError::Frame(_)))), "{ended:?}");
}
