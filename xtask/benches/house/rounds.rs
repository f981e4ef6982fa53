//! The measurements themselves.
//!
//! Invariant: what is compared is measured turn by turn in the same run, so that a noisy minute hits both sides.

use std::fs::File;
use std::io::{Seek, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use testkit::{DaemonBuilder, ModelServer, SCRIPTED_MODEL, Script, Turn};

use crate::far::Far;
use crate::processes::{Home, Memory, Plain, Running, children, pause, start_null_server};
use crate::report::{PerAgent, Report, Resident, Throughput};
use crate::stats::Samples;
use crate::wire::{Client, Line, load};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    /// Cheap requests of one round.
    pub(crate) requests: usize,
    /// Requests of one round that wait for the disk.
    pub(crate) durable: usize,
    pub(crate) load_time: Duration,
    pub(crate) launches: usize,
    pub(crate) starts: usize,
    pub(crate) idle_agents: u32,
    pub(crate) idle_workers: usize,
    /// Agents that ask a provider at once.
    pub(crate) crowd: usize,
}

impl Effort {
    pub(crate) const FULL: Self = Self {
        rounds: 20,
        requests: 200,
        durable: 20,
        load_time: Duration::from_secs(2),
        launches: 200,
        starts: 30,
        idle_agents: 1000,
        idle_workers: 2000,
        crowd: 1000,
    };
    /// Enough to see that everything can be measured.
    pub(crate) const QUICK: Self = Self {
        rounds: 2,
        requests: 20,
        durable: 5,
        load_time: Duration::from_millis(100),
        launches: 5,
        starts: 2,
        idle_agents: 100,
        idle_workers: 20,
        crowd: 100,
    };
}

/// Connections of the load measurements.
const CONNECTIONS: [usize; 3] = [1, 8, 64];
/// Agents spawned before memory is compared, so that what comes once is not counted per agent.
const FIRST_AGENTS: u32 = 50;
/// After this long agentd has nothing left to do from before.
const SETTLE: Duration = Duration::from_secs(2);
/// What an agent was told before it hibernates.
const HIBERNATING_BYTES: usize = 4096;
/// What `file_read` reads.
const FILE_BYTES: usize = 4096;

const NULL: &str = "null server, round trip";
const WORKER: &str = "worker, round trip of a frame";
const ECHO: &str = "tool.invoke echo";
const SYNC: &str = "write and sync of 4 KiB";
const PLAIN: &str = "posix_spawn";
const LAUNCH: &str = "worker launch to Locked";
const START: &str = "cold start, new state";

#[derive(Deserialize)]
struct Spawned {
    agent_id: String,
}

/// An agent that may echo, and read and write below the working directory.
fn spawn(client: &mut Client, home: &Home) -> Result<String> {
    let Spawned { agent_id } = client.call("agent.spawn", &json!({ "manifest": manifest(home) }))?;
    Ok(agent_id)
}

fn manifest(home: &Home) -> String {
    let work = home.work().display().to_string();
    format!(
        "name: bench\nmodel: smart\nsystem_prompt: You are measured.\ncapabilities:\n  - tool: echo\n  \
         - tool: file_read\n  - tool: file_write\n  - file_read: \"{work}/*\"\n  - file_write: \"{work}/*\"\n"
    )
}

fn invoke(agent: &str, tool: &str, input: &Value) -> Line {
    Line::new("tool.invoke", &json!({ "agent_id": agent, "tool": tool, "input": input }))
}

fn echo(agent: &str) -> Line {
    invoke(agent, "echo", &json!({ "message": "hello" }))
}

fn file_read(agent: &str, home: &Home) -> Line {
    invoke(agent, "file_read", &json!({ "path": home.work().join("page.txt") }))
}

pub(crate) fn tool_list() -> Line {
    Line::new("tool.list", &json!({}))
}

/// A daemon and a null server, both warm.
pub(crate) struct Served {
    home: Home,
    client: Client,
    null: Client,
    null_home: tempfile::TempDir,
    processes: (Running, Running),
}

impl Served {
    pub(crate) fn start() -> Result<Self> {
        let home = Home::new()?;
        std::fs::write(home.work().join("page.txt"), "x".repeat(FILE_BYTES))?;
        let (daemon, client, _) = home.start(&tool_list())?;
        let null_home = tempfile::tempdir()?;
        let (null_server, null) = start_null_server(&null_home.path().join("null.sock"))?;
        Ok(Self { home, client, null, null_home, processes: (daemon, null_server) })
    }

    /// Round trips on one connection, everything turn by turn.
    pub(crate) fn round_trips(&mut self, far: &mut Far, effort: Effort, report: &mut Report) -> Result<()> {
        let Self { home, client, null, .. } = self;
        let (agent, other) = (spawn(client, home)?, spawn(client, home)?);
        let (echo, read) = (echo(&agent), file_read(&agent, home));
        let path = home.work().join("written.txt");
        let write = invoke(&agent, "file_write", &json!({ "path": path, "content": "x".repeat(FILE_BYTES) }));
        let turns =
            ["agent.pause", "agent.resume"].map(|method| Line::new(method, &json!({ "agent_id": other })));
        let new_agent = Line::new("agent.spawn", &json!({ "manifest": manifest(home) }));
        let mut disk = File::create(home.folder().join("synced"))?;
        let (mut nulls, mut workers, mut echoes, mut reads) = four();
        let (mut syncs, mut durables, mut writes, mut spawns) = four();
        client.ask(&echo)?;
        for _ in 0..effort.rounds {
            nulls.extend(null.time(&tool_list(), effort.requests)?);
            workers.extend(far.round_trips(effort.requests)?);
            echoes.extend(client.time(&echo, effort.requests)?);
            reads.extend(client.time(&read, effort.requests)?);
            for time in 0..effort.durable {
                syncs.push_micros(sync(&mut disk)?);
                let begun = Instant::now();
                client.ask(&echo)?;
                client.ask(&turns[time % 2])?;
                durables.push_micros(begun.elapsed());
                writes.extend(client.time(&write, 1)?);
                spawns.extend(client.time(&new_agent, 1)?);
            }
            // An odd number leaves the agent paused; pausing it twice would be no entry.
            if effort.durable % 2 == 1 {
                client.ask(&turns[1])?;
            }
        }
        report.figure(NULL, &nulls, None);
        report.figure(WORKER, &workers, Some(NULL));
        report.figure(ECHO, &echoes, Some(NULL));
        report.figure("tool.invoke file_read, 4 KiB", &reads, Some(NULL));
        report.figure(SYNC, &syncs, None);
        report.figure("echo and a pause that waits for both to be on the disk", &durables, Some(SYNC));
        report.figure("tool.invoke file_write, 4 KiB, durable", &writes, Some(SYNC));
        report.figure("agent.spawn, durable", &spawns, Some(SYNC));
        let limit = report.median(NULL) + report.median(WORKER) + 60.0;
        let found = report.median(ECHO);
        report.target("echo", found, limit, "µs", "null round trip + worker round trip + 60 µs".to_owned());
        Ok(())
    }

    /// Many connections at once, each with an agent of its own, and all with the same.
    pub(crate) fn loads(&mut self, effort: Effort, report: &mut Report) -> Result<()> {
        let most = CONNECTIONS.into_iter().max().unwrap_or(1);
        let agents: Vec<String> =
            (0..most).map(|_| spawn(&mut self.client, &self.home)).collect::<Result<_>>()?;
        let (socket, null_socket) = (self.home.socket(), self.null_home.path().join("null.sock"));
        for connections in CONNECTIONS {
            let null = load(&null_socket, &vec![tool_list(); connections], effort.load_time)?;
            let one = vec![echo(&agents[0]); connections];
            let echoes: Vec<Line> = agents[..connections].iter().map(|agent| echo(agent)).collect();
            let reads: Vec<Line> =
                agents[..connections].iter().map(|agent| file_read(agent, &self.home)).collect();
            let kinds = [
                ("echo, an agent each", echoes),
                ("file_read, an agent each", reads),
                ("echo, one agent", one),
            ];
            let mut add = |name, done: &crate::wire::Load| {
                report.throughput.push(Throughput {
                    name,
                    connections,
                    per_second: done.per_second,
                    round_trip: done.round_trips.summary(),
                    of_null: done.per_second / null.per_second,
                });
            };
            add("null server", &null);
            for (name, requests) in kinds {
                add(name, &load(&socket, &requests, effort.load_time).context(name)?);
            }
        }
        let memory = Memory::of(self.processes.0.pid())?;
        report.memory.push(Resident { name: "agentd after the load", kib: memory });
        report
            .memory
            .push(Resident { name: "null server after the load", kib: Memory::of(self.processes.1.pid())? });
        Ok(())
    }
}

fn four() -> (Samples, Samples, Samples, Samples) {
    Default::default()
}

fn sync(file: &mut File) -> Result<Duration> {
    let begun = Instant::now();
    file.rewind()?;
    file.write_all(&[b'x'; FILE_BYTES])?;
    file.sync_data()?;
    Ok(begun.elapsed())
}

/// Worker launches beside plain spawns.
pub(crate) fn launches(far: &Far, plain: &Plain, effort: Effort, report: &mut Report) -> Result<()> {
    let (locked, spawned) = far.launches(plain, effort.launches)?;
    report.figure(PLAIN, &spawned, None);
    report.figure(LAUNCH, &locked, Some(PLAIN));
    let (found, plain) = (report.median(LAUNCH), report.median(PLAIN));
    report.target("worker launch, relative", found, 12.0 * plain, "µs", "12 × posix_spawn".to_owned());
    report.target("worker launch", found, 2000.0, "µs", "on a quiet machine".to_owned());
    Ok(())
}

/// Starts with new state and with the state of the start before.
pub(crate) fn starts(effort: Effort, report: &mut Report) -> Result<()> {
    let (mut new, mut again, mut status) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..effort.starts {
        let home = Home::new()?;
        let (daemon, mut client, took) = home.start(&tool_list())?;
        new.push_micros(took);
        status.extend(client.time(&Line::new("runtime.status", &json!({})), 1)?);
        drop((client, daemon));
        let (_daemon, _client, took) = home.start(&tool_list())?;
        again.push_micros(took);
    }
    report.figure(START, &new, Some(PLAIN));
    report.figure("start again after kill -9", &again, Some(PLAIN));
    report.figure("first runtime.status, which starts the models gateway", &status, None);
    let found = report.median(START) / 1000.0;
    report.target("cold start", found, 50.0, "ms", "process start to the first answer".to_owned());
    Ok(())
}

/// What agents with a mailbox take that answered a message and wait for the next one.
fn hibernation(effort: Effort, report: &mut Report) -> Result<()> {
    let home = Home::new()?;
    let server = ModelServer::start(Script::dynamic(|_| Turn::say("done")));
    let url = server.openai_url();
    let models = [
        ("AAOS_PROVIDER", "openai"),
        ("OPENAI_BASE_URL", &url),
        ("OPENAI_API_KEY", DaemonBuilder::key()),
        ("AAOS_MODEL", SCRIPTED_MODEL),
    ];
    let (daemon, mut client, _) = home.start_on(&models, &tool_list())?;
    let mut converse = |agents: u32| -> Result<()> {
        for number in 0..agents {
            let manifest = format!(
                "name: keeper\nmodel: {SCRIPTED_MODEL}\nsystem_prompt: x\nlifecycle: persistent\nmetadata: {{ n: \"{number}\" }}\n"
            );
            let Spawned { agent_id } = client.call("agent.spawn", &json!({ "manifest": manifest }))?;
            let run = json!({ "agent_id": agent_id, "message": "x".repeat(HIBERNATING_BYTES) });
            let sent: Value = client.call("agent.run", &run)?;
            let report: Value =
                client.call("agent.result", &json!({ "trace_id": sent["trace_id"], "wait_seconds": 30 }))?;
            ensure!(report["status"] == "done", "the agent did not answer: {report}");
        }
        pause(SETTLE);
        Ok(())
    };
    converse(FIRST_AGENTS)?;
    let first = Memory::of(daemon.pid())?;
    converse(effort.idle_agents)?;
    let last = Memory::of(daemon.pid())?;
    let kib = (last.rss as f64 - first.rss as f64) / f64::from(effort.idle_agents);
    let measure = "RSS, hibernating";
    report.kib_per_idle_agent.push(PerAgent { measure, kib, agents: effort.idle_agents });
    report.target("hibernating agent", kib, 8.0, "KiB", "after a message of 4 KiB and its answer".to_owned());
    Ok(())
}

/// What idle processes take.
pub(crate) fn memory(effort: Effort, report: &mut Report) -> Result<()> {
    let home = Home::new()?;
    let (daemon, mut client, _) = home.start(&tool_list())?;
    pause(SETTLE);
    let idle = Memory::of(daemon.pid())?;
    report.memory.push(Resident { name: "agentd, idle", kib: idle });
    let zygote = children(daemon.pid())?.first().copied().context("agentd has no zygote")?;
    report.memory.push(Resident { name: "zygote", kib: Memory::of(zygote)? });
    let agent = spawn(&mut client, &home)?;
    client.ask(&echo(&agent))?;
    let status: Value = client.call("agent.status", &json!({ "agent_id": agent }))?;
    let worker = status["confinement"]["pid"].as_u64().context("no worker")?;
    let worker = u32::try_from(worker).context("a pid")?;
    report.memory.push(Resident { name: "worker after an echo", kib: Memory::of(worker)? });
    for _ in 0..FIRST_AGENTS {
        spawn(&mut client, &home)?;
    }
    pause(SETTLE);
    let first = Memory::of(daemon.pid())?;
    for _ in 0..effort.idle_agents {
        spawn(&mut client, &home)?;
    }
    pause(SETTLE);
    let last = Memory::of(daemon.pid())?;
    let mut add = |measure, (first, last): (u64, u64)| {
        let grown = last as f64 - first as f64;
        let kib = grown / f64::from(effort.idle_agents);
        report.kib_per_idle_agent.push(PerAgent { measure, kib, agents: effort.idle_agents });
    };
    add("RSS", (first.rss, last.rss));
    add("PSS", (first.pss, last.pss));
    report.memory.push(Resident { name: "agentd with the idle agents", kib: last });
    hibernation(effort, report)?;
    let found = idle.rss as f64 * 1024.0 / 1e6;
    report.target("idle RSS of agentd", found, 15.0, "MB", "before the first agent".to_owned());
    Ok(())
}
