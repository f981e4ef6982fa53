//! The client side of the measurements, and the null server that they are held against.
//!
//! Invariants: daemon and null server are asked by the same client code over the same kind of socket; the null server
//! runs in a process of its own on the same async runtime as the daemon, and answers each line with a constant.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

use crate::stats::Samples;

/// No answer of a measured request takes this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// One connection.
pub(crate) struct Client {
    writer: UnixStream,
    reader: BufReader<UnixStream>,
    line: String,
}

/// A request line, ready to be sent as often as wanted.
#[derive(Debug, Clone)]
pub(crate) struct Line(String);

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    result: Option<&'a RawValue>,
}

impl Line {
    pub(crate) fn new(method: &str, params: &serde_json::Value) -> Self {
        let request = serde_json::json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        Self(format!("{request}\n"))
    }
}

impl Client {
    pub(crate) fn connect(socket: &Path) -> std::io::Result<Self> {
        let writer = UnixStream::connect(socket)?;
        writer.set_read_timeout(Some(PATIENCE))?;
        let reader = BufReader::new(writer.try_clone()?);
        Ok(Self { writer, reader, line: String::new() })
    }

    /// Asks and waits for the answer; an error object is an error here.
    pub(crate) fn ask(&mut self, request: &Line) -> Result<&str> {
        self.writer.write_all(request.0.as_bytes()).context("send a request")?;
        self.line.clear();
        let read = self.reader.read_line(&mut self.line).context("wait for an answer")?;
        ensure!(read > 0, "the server hung up on {}", request.0.trim_end());
        // Cheap on purpose: the client's own work is part of every round trip.
        if self.line.contains("\"error\":{\"code\"") || !self.line.contains("\"result\":") {
            bail!("{} was refused: {}", request.0.trim_end(), self.line.trim_end());
        }
        Ok(&self.line)
    }

    /// Asks and reads the result.
    pub(crate) fn call<T: for<'de> Deserialize<'de>>(
        &mut self,
        method: &str,
        params: &serde_json::Value,
    ) -> Result<T> {
        let line = self.ask(&Line::new(method, params))?;
        let answer: Answer<'_> = serde_json::from_str(line).context("read an answer")?;
        let result = answer.result.context("an answer without result")?;
        serde_json::from_str(result.get()).with_context(|| format!("read the result {result}"))
    }

    /// Asks `times` times in sequence and takes the time of each round trip.
    pub(crate) fn time(&mut self, request: &Line, times: usize) -> Result<Samples> {
        let mut samples = Samples::default();
        for _ in 0..times {
            let begun = Instant::now();
            self.ask(request)?;
            samples.push_micros(begun.elapsed());
        }
        Ok(samples)
    }
}

/// What several connections did at once.
pub(crate) struct Load {
    pub(crate) per_second: f64,
    pub(crate) round_trips: Samples,
}

/// Asks over one connection per request line, all at once, each as fast as it is answered, for `time`.
pub(crate) fn load(socket: &Path, requests: &[Line], time: Duration) -> Result<Load> {
    let start = Barrier::new(requests.len());
    let one = |request: &Line| -> Result<(Samples, Duration)> {
        let warm = Client::connect(socket).map_err(anyhow::Error::from).and_then(|mut client| {
            client.ask(request)?;
            Ok(client)
        });
        // Waited for even where the warm-up failed, or the others would wait forever.
        start.wait();
        let (mut client, begun, mut samples) = (warm?, Instant::now(), Samples::default());
        while begun.elapsed() < time {
            let asked = Instant::now();
            client.ask(request)?;
            samples.push_micros(asked.elapsed());
        }
        Ok((samples, begun.elapsed()))
    };
    let done: Vec<Result<(Samples, Duration)>> = std::thread::scope(|scope| {
        let threads: Vec<_> = requests.iter().map(|request| scope.spawn(|| one(request))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let (mut round_trips, mut per_second) = (Samples::default(), 0.0);
    for one in done {
        let (samples, took) = one?;
        per_second += f64::from(u32::try_from(samples.count())?) / took.as_secs_f64();
        round_trips.extend(samples);
    }
    Ok(Load { per_second, round_trips })
}

/// The null server: every line is answered with the same line.
pub(crate) fn serve_constant(socket: &Path) -> Result<()> {
    const ANSWER: &[u8] = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"result\":{\"message\":\"hello\"}}}\n";
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::UnixListener::bind(socket).context("bind the null server's socket")?;
        loop {
            let (stream, _) = listener.accept().await.context("accept")?;
            drop(tokio::spawn(async move {
                let (reader, mut writer) = stream.into_split();
                let (mut reader, mut line) = (tokio::io::BufReader::new(reader), Vec::new());
                while reader.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
                    line.clear();
                    if writer.write_all(ANSWER).await.is_err() {
                        return;
                    }
                }
            }));
        }
    })
}
