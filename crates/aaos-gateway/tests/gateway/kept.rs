//! Connections to providers that are kept: one serves request after request, and one that died costs nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use aaos_core::model::ModelFailureKind;
use aaos_core::wire::WireFormat;

use crate::models::{Models, request};

/// What the server does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// Answers and waits for the next.
    Answer,
    /// Answers, and closes the connection without saying so before.
    AnswerAndClose,
    /// Answers up to the end event, and never ends the body.
    AnswerWithoutEnd,
    /// Reads it and closes the connection.
    Close,
}

/// Each request by the number of its connection, in order.
type Seen = Arc<Mutex<Vec<usize>>>;

const EVENTS: &str =
    "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

/// A server that does one act after the other, whatever connection a request comes over.
fn server(acts: Vec<Act>) -> (String, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let url = format!("http://{}/v1", listener.local_addr().expect("bound"));
    let (seen, acts) = (Seen::default(), Arc::new(Mutex::new(acts.into_iter())));
    let noted = Arc::clone(&seen);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let (noted, acts) = (Arc::clone(&noted), Arc::clone(&acts));
            let Ok(stream) = stream else { return };
            std::thread::spawn(move || converse(stream, number, &noted, &acts));
        }
    });
    (url, seen)
}

fn converse(stream: TcpStream, number: usize, seen: &Seen, acts: &Mutex<std::vec::IntoIter<Act>>) {
    let mut stream = BufReader::new(stream);
    while read_request(&mut stream).is_some() {
        let act = acts.lock().expect("no panic").next();
        seen.lock().expect("no panic").push(number);
        let length = EVENTS.len() + usize::from(act == Some(Act::AnswerWithoutEnd));
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {length}\r\n\r\n{EVENTS}"
        );
        match act {
            Some(Act::Answer | Act::AnswerWithoutEnd) => {
                stream.get_mut().write_all(answer.as_bytes()).expect("it reads")
            }
            Some(Act::AnswerAndClose) => {
                return stream.get_mut().write_all(answer.as_bytes()).expect("it reads");
            }
            Some(Act::Close) | None => return,
        }
    }
}

fn read_request(stream: &mut BufReader<TcpStream>) -> Option<()> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line == "\r\n" {
            break;
        }
    }
    stream.read_exact(&mut vec![0; length]).ok()
}

/// Asks so often, one after the other, and gives the connections that the requests came over.
async fn asked(acts: &[Act], times: usize) -> (Vec<usize>, Vec<Option<ModelFailureKind>>) {
    let (url, seen) = server(acts.to_vec());
    let mut models = Models::with(WireFormat::OpenAi, url);
    let mut ends = Vec::new();
    for _ in 0..times {
        ends.push(models.ask(request()).await.err().map(|failure| failure.kind));
        // The end of an answer is taken in beside the requests: let it be.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
    let seen = seen.lock().expect("no panic").clone();
    (seen, ends)
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let (seen, ends) = asked(&[Act::Answer; 5], 5).await;
    assert_eq!(ends, [None; 5]);
    assert_eq!(seen, [0; 5]);
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_costs_nothing() {
    const LOST: Option<ModelFailureKind> = Some(ModelFailureKind::Unavailable);
    for (acts, over, ends) in [
        // Closed before the second request is made.
        (&[Act::AnswerAndClose, Act::Answer][..], &[0, 1][..], [None, None]),
        // Closed when the second request has been read.
        (&[Act::Answer, Act::Close, Act::Answer], &[0, 0, 1], [None, None]),
        // It is made anew once and no more often; and a new connection that is lost is a failure, as ever.
        (&[Act::Answer, Act::Close, Act::Close, Act::Answer], &[0, 0, 1], [None, LOST]),
        (&[Act::AnswerAndClose, Act::Close, Act::Answer], &[0, 1], [None, LOST]),
    ] {
        assert_eq!(asked(acts, 2).await, (over.to_vec(), ends.to_vec()), "{acts:?}");
    }
}

#[tokio::test]
async fn a_connection_whose_answer_has_no_end_is_not_used_again() {
    let (seen, ends) = asked(&[Act::AnswerWithoutEnd, Act::Answer], 2).await;
    assert_eq!((seen, ends), (vec![0, 1], vec![None, None]));
}
