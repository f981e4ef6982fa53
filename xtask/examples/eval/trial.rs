//! One goal, tried: `agentd run` in a folder of its own, and what was found when it was over.
//!
//! Invariants: the daemon that is asked is the one that was started for all goals, so that a model is loaded once; the
//! goal's files and pages are there only for it; a run that does not end after its deadline ends the whole evaluation.

use std::process::{Command, Output};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use testkit::{Daemon, Page, ProcessRef, WebServer};

use crate::check::{End, quoted, shortcomings};
use crate::folder::Folder;
use crate::goal::Goal;
use crate::record::{Entry, Models, Tally, entries};

/// How long a run may go on after its deadline.
const GRACE: Duration = Duration::from_secs(60);
/// The exit code of a goal that is done.
const DONE: u8 = 0;
/// A root agent that only talks, and not for long: its first answer brings a local model into memory.
const TALKER: &str = "name: talker\nmodel: smart\nsystem_prompt: Answer in one short sentence.\n\
                      budget_config: { max_tokens: 400 }\n";

/// What became of one goal.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Trial {
    pub(crate) goal: String,
    pub(crate) kind: &'static str,
    /// What was wrong with the flow; nothing where it was completed.
    pub(crate) flow: Vec<String>,
    /// What is missing of what was asked.
    pub(crate) instruction: Vec<String>,
    pub(crate) seconds: f64,
    pub(crate) calls: u64,
    pub(crate) failed_calls: u64,
    pub(crate) replies: u64,
    pub(crate) input_tokens: u64,
    pub(crate) output_tokens: u64,
    pub(crate) model_seconds: f64,
    /// Its last answer.
    pub(crate) answer: String,
}

impl Trial {
    /// Whether the run went through to its end.
    pub(crate) fn has_flow(&self) -> bool {
        self.flow.is_empty()
    }

    /// Whether it did what was asked, and went through.
    pub(crate) fn is_met(&self) -> bool {
        self.has_flow() && self.instruction.is_empty()
    }
}

/// The goal as `agentd run --json` prints it.
#[derive(Debug, Deserialize)]
struct View {
    goal_id: String,
    response: Option<String>,
    error: Option<String>,
    exit_code: Option<u8>,
}

/// What one run brought.
struct Ran {
    view: View,
    tally: Tally,
    took: Duration,
    /// How processes of the model ended meanwhile.
    lost: Vec<String>,
}

/// A daemon, and the processes of its local models.
pub(crate) struct Bench<'d> {
    daemon: &'d Daemon,
    models: Models,
    /// Most memory that one of these processes was seen to have had at once, in KiB.
    pub(crate) peak_kib: Option<u64>,
    /// How long a goal may take.
    seconds: u64,
}

impl<'d> Bench<'d> {
    pub(crate) fn new(daemon: &'d Daemon, seconds: u64) -> Self {
        Self { daemon, models: Models::default(), peak_kib: None, seconds }
    }

    /// Has the model say something, and gives how long it took.
    pub(crate) fn warm_up(&mut self) -> Result<Duration> {
        let folder = folder()?;
        let manifest = folder.path().join("talker.yaml");
        std::fs::write(&manifest, TALKER).context("cannot write a manifest")?;
        let path = manifest.to_str().context("a path that is no text")?;
        let ran = self.run(&folder, &["--manifest", path], "Say hello.")?;
        // What it says matters as little as whether it comes to an end.
        let why = ran.view.error.unwrap_or_default();
        ensure!(ran.tally.replies > 0, "the model does not answer: {why}");
        Ok(ran.took)
    }

    /// Tries one goal, all its runs.
    pub(crate) fn attempt(&mut self, goal: &Goal) -> Result<Trial> {
        let folder = folder()?;
        goal.folder().write(folder.path())?;
        let pages = goal.pages.iter().map(|(path, html)| (path.as_str(), Page::Html(html.clone())));
        let server = (!goal.pages.is_empty()).then(|| WebServer::start(pages));
        let (url, host) =
            server.as_ref().map_or_else(Default::default, |server| (server.url(""), server.authority()));
        let network: &[&str] = if host.is_empty() { &[] } else { &["--network", &host] };
        let write = goal.write.as_deref().map(|place| ["--write", place]);
        let (mut tally, mut took) = (Tally::default(), Duration::ZERO);
        let (mut flow, mut answer) = (Vec::new(), String::new());
        for (number, words) in goal.runs(&url).enumerate() {
            let mut flags = network.to_vec();
            if number > 0 {
                take_away(&folder, goal.gone())?;
            } else {
                flags.extend(write.iter().flatten());
            }
            let ran = self.run(&folder, &flags, &words)?;
            flow.extend(faults(&ran));
            took += ran.took;
            tally = tally.plus(ran.tally);
            answer = ran.view.response.unwrap_or_default();
        }
        let after = Folder::read(folder.path())?;
        let end = End { after: &after, answer: &answer, children: tally.children };
        let instruction = shortcomings(goal, &end);
        let Tally { calls, failed_calls, replies, input_tokens, output_tokens, model_ms, .. } = tally;
        Ok(Trial {
            goal: goal.name.clone(),
            kind: goal.kind.words(),
            flow,
            instruction,
            seconds: took.as_secs_f64(),
            calls,
            failed_calls,
            replies,
            input_tokens,
            output_tokens,
            model_seconds: Duration::from_millis(model_ms).as_secs_f64(),
            answer,
        })
    }

    /// One `agentd run` in this folder.
    fn run(&mut self, folder: &TempDir, flags: &[&str], words: &str) -> Result<Ran> {
        let limit = self.seconds.to_string();
        let mut args = vec!["run", "--json", "--quiet", "--deadline", &limit];
        args.extend(flags);
        args.extend(["--", words]);
        let mut command = self.daemon.again().command(&args);
        command.current_dir(folder.path());
        let began = Instant::now();
        let output = finish(command, Duration::from_secs(self.seconds) + GRACE)?;
        let took = began.elapsed();
        let pid = i32::try_from(self.daemon.pid()).context("a process number")?;
        ensure!(ProcessRef::find(pid).is_some(), "the daemon is gone: {}", self.daemon.stderr());
        let told = String::from_utf8_lossy(&output.stderr);
        let view: View = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("agentd run ended with {} and said: {told}", output.status))?;
        let entries = self.news()?;
        let lost = self.models.take(&entries);
        self.peak_kib = self.peak_kib.max(self.models.peak_kib());
        Ok(Ran { tally: Tally::of(&view.goal_id, &entries), view, took, lost })
    }

    /// The journal's entries since the last look.
    fn news(&self) -> Result<Vec<Entry>> {
        let after = self.models.seen.to_string();
        let told = self.daemon.cli(["audit", "--json", "--after", &after]);
        ensure!(told.status.success(), "agentd audit ended with {}: {}", told.status, told.stderr);
        entries(&told.stdout)
    }
}

/// What kept a run from its end, or shows that it did nothing.
fn faults(ran: &Ran) -> Vec<String> {
    let mut found = Vec::new();
    let View { error, exit_code, response, .. } = &ran.view;
    if *exit_code != Some(DONE) {
        let code = exit_code.map_or_else(|| "none".to_owned(), |code| code.to_string());
        let said = response.as_deref().filter(|said| !said.is_empty());
        let said = said.map(|said| format!("; it said {}", quoted(said))).unwrap_or_default();
        found.push(format!("exit code {code}: {}{said}", quoted(error.as_deref().unwrap_or("no reason"))));
    }
    if ran.tally.calls == 0 {
        found.push("no tool did anything".to_owned());
    }
    // Without a failed call it is one that the run before had given up.
    if !ran.tally.failures.is_empty() {
        found.extend(ran.lost.iter().map(|end| format!("the model's process ended: {end}")));
    }
    found.extend(ran.tally.exceeded.iter().map(|what| format!("the purse of {what} was empty")));
    found
}

/// A fresh folder with a short name: it stands in every prompt.
fn folder() -> Result<TempDir> {
    let base = std::env::temp_dir().canonicalize().context("cannot find the temporary directory")?;
    let made = tempfile::Builder::new().prefix("goal-").rand_bytes(4).tempdir_in(base);
    made.context("cannot make a folder")
}

fn take_away(folder: &TempDir, gone: &[String]) -> Result<()> {
    for path in gone {
        let path = folder.path().join(path);
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// Runs a program to its end, which must come in time.
fn finish(mut command: Command, limit: Duration) -> Result<Output> {
    let (tell, told) = channel();
    // It outlives this function only where the whole program ends with an error.
    std::thread::spawn(move || drop(tell.send(command.output())));
    match told.recv_timeout(limit) {
        Ok(output) => output.context("cannot start agentd"),
        Err(_) => bail!("agentd run did not end within {limit:?}, although its goal had a deadline"),
    }
}
