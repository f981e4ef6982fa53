//! What durability costs: `cargo xtask bench journal`. Acknowledgements beside a bare append that is synced, many callers
//! beside one, the recovery of a large journal, and the waking of an agent.
//!
//! Invariants: baselines are measured in the same run, turn by turn with what they stand beside, on the same disk; the
//! exit code tells whether the run worked, never whether a target was met.

mod figures;
mod wake;
mod world;

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use aaos_journal::{Journal, JournalConfig};
use figures::{Figures, Target};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Effort {
    /// Turns of everything that stands side by side.
    turns: usize,
    /// Agents of the journal that is recovered; ten times as many entries.
    agents: usize,
    opens: usize,
}

const FULL: Effort = Effort { turns: 40, agents: 10_000, opens: 5 };
const QUICK: Effort = Effort { turns: 4, agents: 1_000, opens: 2 };
/// Of each kind, one after the other, in a turn.
const IN_A_TURN: usize = 25;
const CALLERS: usize = 64;
/// What the baseline appends.
const BLOCK: [u8; 4096] = [0x5a; 4096];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let (effort, json) = match words[..] {
        [] => (FULL, false),
        ["--quick"] => (QUICK, false),
        ["--json"] => (FULL, true),
        ["--quick", "--json"] | ["--json", "--quick"] => (QUICK, true),
        _ => return end("journal: there are --quick and --json\n", ExitCode::from(2)),
    };
    let mut figures = Figures::default();
    acknowledgements(effort, &mut figures);
    recovery(effort, &mut figures);
    wake::wake(&mut figures);
    let text = if json { figures.json() } else { figures.text() };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn end(why: &str, code: ExitCode) -> ExitCode {
    // Nobody reads a message that cannot be written; the exit code says it too.
    std::io::stderr().lock().write_all(why.as_bytes()).map_or(ExitCode::FAILURE, |()| code)
}

/// A directory on the disk of the build folder, as the state directory would be on one.
fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the build folder takes a directory")
}

fn open(path: &Path) -> Journal {
    Journal::open(JournalConfig::at(path)).expect("the journal opens").0
}

fn timed<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let given = act();
    (given, began.elapsed())
}

fn acknowledgements(effort: Effort, figures: &mut Figures) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime starts");
    let directory = scratch();
    let journal = open(&directory.path().join("journal.db"));
    let mut file = File::create(directory.path().join("baseline")).expect("a file is made");
    let (mut bare, mut alone, mut together) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..=effort.turns {
        let mut times = (Vec::new(), Vec::new());
        for _ in 0..IN_A_TURN {
            times.0.push(timed(|| append_and_sync(&mut file)).1);
            times.1.push(timed(|| runtime.block_on(acknowledged(&journal))).1);
        }
        let crowd = timed(|| crowd(&runtime, &journal)).1 / u32::try_from(CALLERS * IN_A_TURN).expect("few");
        // The first turn warms up.
        if turn > 0 {
            bare.append(&mut times.0);
            alone.append(&mut times.1);
            together.push(crowd);
        }
    }
    let bare = figures.times("append of 4 KiB and fdatasync", bare);
    let alone_median = figures.times("durable acknowledgement, one caller", alone);
    let together = figures.times("durable acknowledgement, of 64 callers together, each", together);
    runtime.block_on(journal.close()).expect("the journal closes");
    figures.target("one caller beside append and fdatasync", alone_median / bare, Target::AtMost(1.5));
    figures.target("rate of 64 callers beside one", alone_median / together, Target::AtLeast(10.0));
}

fn append_and_sync(file: &mut File) {
    file.write_all(&BLOCK).expect("the disk takes it");
    file.sync_data().expect("the disk syncs");
}

async fn acknowledged(journal: &Journal) {
    journal.record(world::step(1)).await.expect("the entry is recorded");
}

fn crowd(runtime: &Runtime, journal: &Journal) {
    runtime.block_on(async {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let journal = journal.clone();
                tokio::spawn(async move {
                    for _ in 0..IN_A_TURN {
                        acknowledged(&journal).await;
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.expect("a caller ends");
        }
    });
}

fn recovery(effort: Effort, figures: &mut Figures) {
    let directory = scratch();
    let path = directory.path().join("journal.db");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts");
    let journal = open(&path);
    let mut entries = 0;
    for agent in 0..effort.agents {
        let life = world::life(agent);
        entries += life.len();
        runtime.block_on(journal.record_all(life)).expect("a life is recorded");
    }
    runtime.block_on(journal.close()).expect("the journal closes");
    let bytes = std::fs::metadata(&path).expect("there is a database").len();
    figures.count("bytes of database for each entry", bytes as f64 / entries as f64);
    let mut opens = Vec::new();
    for _ in 0..effort.opens {
        let (journal, took) = timed(|| open(&path));
        opens.push(took);
        runtime.block_on(journal.close()).expect("the journal closes");
    }
    let what = format!("recovery of {} agents and {entries} entries", effort.agents);
    let median = figures.times(&what, opens);
    figures.count("entries recovered in a second", entries as f64 / median * 1e9);
    if effort.agents == FULL.agents {
        figures.target("recovery, seconds", median / 1e9, Target::AtMost(2.0));
    }
}
