//! What the runtime itself adds to a call of a model, and how many calls it keeps going at once.
//!
//! Invariants: agents and a direct client ask the same server in the same run, turn by turn, and the server's one clock
//! times both: from an answer that is about to be sent to the next request that has come whole. Between two calls an
//! agent takes the reply in, journals it, answers a call of a tool that does not exist, and makes the next request.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::processes::Home;
use crate::provider::{Exchange, Manner, Provider};
use crate::report::{Rate, Report};
use crate::rounds::{Effort, tool_list};
use crate::stats::Samples;
use crate::wire::{Client, Line};

/// Calls of one run.
const TURNS: usize = 40;
/// Calls of each agent of the crowd.
const CROWD_TURNS: usize = 4;
/// Calls at once that the crowd may make.
const SLOTS: u32 = 64;
/// What the crowd's provider takes for one.
const LATENCY: Duration = Duration::from_millis(100);
/// The share of the possible that is promised.
const LEAST_SHARE: f64 = 0.9;
/// No answer of the direct client takes this long.
const PATIENCE: Duration = Duration::from_secs(30);

const DIRECT: &str = "direct HTTP client, from an answer to its next request, a connection each";
const KEPT: &str = "the same over one connection";
const MEMORY: &str = "agent, from a reply to its next request, journal in memory";
const DISK: &str = "the same, journal on the disk";

#[derive(Deserialize)]
struct Spawned {
    agent_id: String,
}

/// Everything about models.
pub(crate) fn measure(effort: Effort, report: &mut Report) -> Result<()> {
    overhead(effort, report)?;
    crowd(effort, report)
}

/// One agent on a provider that takes no time.
fn overhead(effort: Effort, report: &mut Report) -> Result<()> {
    let provider = Provider::start(Manner { latency: Duration::ZERO, replies: TURNS, keeps: true })?;
    let disk = Home::new()?;
    let memory = Home::in_memory();
    if memory.is_none() {
        report.absent.push("a journal in memory: /dev/shm cannot be written".to_owned());
    }
    let daemon = |home: &Home| home.start_on(&environment(&provider.url(), "3"), &tool_list());
    let mut on_disk = daemon(&disk)?;
    let mut in_memory = memory.as_ref().map(daemon).transpose()?;
    let (mut direct, mut kept, mut far, mut near) =
        (Samples::default(), Samples::default(), Samples::default(), Samples::default());
    let mut last = Vec::new();
    for round in 0..effort.rounds {
        run(&mut on_disk.1, round)?;
        last = provider.take();
        gaps(&last, &mut far)?;
        if let Some((_, client, _)) = &mut in_memory {
            run(client, round)?;
            gaps(&provider.take(), &mut near)?;
        }
        let body = &last.last().context("the agent asked nothing")?.body;
        ask_directly(provider.address(), body, Connections::New)?;
        gaps(&provider.take(), &mut direct)?;
        ask_directly(provider.address(), body, Connections::Kept)?;
        gaps(&provider.take(), &mut kept)?;
    }
    report.figure(DIRECT, &direct, None);
    report.figure(KEPT, &kept, None);
    if memory.is_some() {
        report.figure(MEMORY, &near, Some(DIRECT));
        let found = report.median(MEMORY) - report.median(DIRECT);
        let limit = "beside the direct client; without the waits for the disk".to_owned();
        report.target("model call, own overhead", found / 1e3, 1.0, "ms", limit);
    }
    report.figure(DISK, &far, Some(DIRECT));
    report.cacheable_share = Some(cacheable(&last)?);
    Ok(())
}

/// What a daemon is told of the provider.
fn environment<'e>(url: &'e str, slots: &'e str) -> [(&'e str, &'e str); 5] {
    [
        ("AAOS_PROVIDER", "openai"),
        ("OPENAI_BASE_URL", url),
        ("OPENAI_API_KEY", "sk-bench-0123456789"),
        ("AAOS_MODEL", "bench"),
        ("AAOS_MAX_CONCURRENT_INFERENCE", slots),
    ]
}

fn spawn(client: &mut Client, number: usize) -> Result<String> {
    let manifest = format!(
        "name: bench\nmodel: smart\nsystem_prompt: You are measured.\nlifecycle: persistent\ncapabilities:\n  \
         - tool: echo\n  - tool: file_read\nmetadata: {{ n: \"{number}\" }}\n"
    );
    let Spawned { agent_id } = client.call("agent.spawn", &json!({ "manifest": manifest }))?;
    Ok(agent_id)
}

fn begin(client: &mut Client, agent: &str) -> Result<Value> {
    let sent: Value = client.call("agent.run", &json!({ "agent_id": agent, "message": "Go on." }))?;
    Ok(sent["trace_id"].clone())
}

fn end(client: &mut Client, trace: &Value) -> Result<()> {
    let result: Value = client.call("agent.result", &json!({ "trace_id": trace, "wait_seconds": 25 }))?;
    ensure!(result["status"] == "done", "an agent did not end well: {result}");
    Ok(())
}

/// One run of a new agent.
fn run(client: &mut Client, number: usize) -> Result<()> {
    let agent = spawn(client, number)?;
    let trace = begin(client, &agent)?;
    end(client, &trace)?;
    client.ask(&Line::new("agent.stop", &json!({ "agent_id": agent })))?;
    Ok(())
}

/// From each answer to the request after it.
fn gaps(exchanges: &[Exchange], samples: &mut Samples) -> Result<()> {
    ensure!(exchanges.len() == TURNS, "{} calls instead of {TURNS}", exchanges.len());
    for pair in exchanges.windows(2) {
        samples.push_micros(pair[1].asked.duration_since(pair[0].answered));
    }
    Ok(())
}

/// How the direct client connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connections {
    New,
    Kept,
}

/// As many requests as a run has, one after the other.
fn ask_directly(address: SocketAddr, body: &[u8], connections: Connections) -> Result<()> {
    let mut held = None;
    for _ in 0..TURNS {
        let mut stream = match held.take() {
            Some(stream) => stream,
            None => connect(address)?,
        };
        exchange(&mut stream, address, body)?;
        held = (connections == Connections::Kept).then_some(stream);
    }
    Ok(())
}

fn connect(address: SocketAddr) -> Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(BufReader::new(stream))
}

/// Sends a request and reads its answer whole.
fn exchange(stream: &mut BufReader<TcpStream>, address: SocketAddr, body: &[u8]) -> Result<()> {
    let length = body.len();
    let mut request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n"
    )
    .into_bytes();
    request.extend_from_slice(body);
    stream.get_mut().write_all(&request)?;
    let mut length = None;
    loop {
        let mut line = String::new();
        ensure!(stream.read_line(&mut line)? > 0, "the provider hung up");
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok();
        }
        if line.is_empty() {
            break;
        }
    }
    let mut answer = vec![0; length.context("an answer without a length")?];
    stream.read_exact(&mut answer)?;
    Ok(())
}

/// What a provider makes its prompt of.
#[derive(Deserialize)]
struct Prompt<'r> {
    #[serde(borrow)]
    tools: &'r RawValue,
    #[serde(borrow)]
    messages: Vec<&'r RawValue>,
}

impl Prompt<'_> {
    fn parts(&self) -> Vec<&str> {
        [self.tools].into_iter().chain(self.messages.iter().copied()).map(RawValue::get).collect()
    }
}

/// Of all bytes of the prompts of a run, the share that the request before had in the same place.
fn cacheable(exchanges: &[Exchange]) -> Result<f64> {
    let (mut held, mut all) = (0, 0);
    let mut before: Vec<String> = Vec::new();
    for exchange in exchanges {
        let prompt: Prompt<'_> = serde_json::from_slice(&exchange.body).context("read a request")?;
        let parts = prompt.parts();
        let kept = before.iter().zip(&parts).take_while(|(before, now)| before == *now);
        held += kept.map(|(part, _)| part.len()).sum::<usize>();
        all += parts.iter().map(|part| part.len()).sum::<usize>();
        before = parts.into_iter().map(str::to_owned).collect();
    }
    if all == 0 {
        bail!("no request had a prompt");
    }
    Ok(held as f64 / all as f64)
}

/// Many agents at a provider that takes its time.
fn crowd(effort: Effort, report: &mut Report) -> Result<()> {
    let provider = Provider::start(Manner { latency: LATENCY, replies: CROWD_TURNS, keeps: false })?;
    let possible = f64::from(SLOTS) / LATENCY.as_secs_f64();
    let direct = direct_rate(provider.address(), effort.load_time)?;
    drop(provider.take());
    let home = Home::new()?;
    let slots = SLOTS.to_string();
    let (_daemon, mut client, _) = home.start_on(&environment(&provider.url(), &slots), &tool_list())?;
    let agents: Vec<String> =
        (0..effort.crowd).map(|number| spawn(&mut client, number)).collect::<Result<_>>()?;
    let traces: Vec<Value> = agents.iter().map(|agent| begin(&mut client, agent)).collect::<Result<_>>()?;
    traces.iter().try_for_each(|trace| end(&mut client, trace))?;
    let exchanges = provider.take();
    ensure!(exchanges.len() == effort.crowd * CROWD_TURNS, "{} calls were made", exchanges.len());
    let found = steady_rate(&exchanges);
    report.rates.push(Rate { name: "64 direct clients", per_second: direct, of_possible: direct / possible });
    report.rates.push(Rate { name: "the agents", per_second: found, of_possible: found / possible });
    let limit = format!(
        "{} agents on {SLOTS} slots of {} ms: {possible:.0} calls a second are possible",
        effort.crowd,
        LATENCY.as_millis()
    );
    report.target("time beside the possible", possible / found, 1.0 / LEAST_SHARE, "×", limit);
    Ok(())
}

/// Answers a second, of the middle four fifths: at the beginning and at the end not all slots can be used.
fn steady_rate(exchanges: &[Exchange]) -> f64 {
    let mut answered: Vec<Instant> = exchanges.iter().map(|exchange| exchange.answered).collect();
    answered.sort_unstable();
    let (first, last) = (answered.len() / 10, answered.len() * 9 / 10);
    let time = answered[last].duration_since(answered[first]);
    (last - first) as f64 / time.as_secs_f64()
}

/// Answers a second to as many clients as there are slots, each over a connection of its own.
fn direct_rate(address: SocketAddr, time: Duration) -> Result<f64> {
    let begun = Instant::now();
    let one = || -> Result<usize> {
        let (mut stream, mut count) = (connect(address)?, 0);
        while begun.elapsed() < time {
            exchange(&mut stream, address, b"{}")?;
            count += 1;
        }
        Ok(count)
    };
    let counts: Vec<Result<usize>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..SLOTS).map(|_| scope.spawn(one)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let count: usize = counts.into_iter().sum::<Result<usize>>()?;
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}
