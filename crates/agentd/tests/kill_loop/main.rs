//! `kill -9` at drawn moments, over and over, while goals, messages and answers keep coming; also in the middle of
//! recovery and of archiving.
//!
//! Invariants: what was acknowledged is there in the end, once; no effect is applied twice; the chain verifies after
//! each kill. A seed draws the same moments again: `AAOS_KILLS_SEED`; `AAOS_KILLS` sets the number of kills.
//! `cargo xtask kill-loop` runs it with many.

mod killer;
mod load;
mod records;

use crate::killer::{Draws, cut_recovery, kill_after, kill_at};
use crate::load::{Load, script};
use crate::records::{everything, head, prune};
use std::io::Write as _;
use std::time::{Duration, Instant};
use testkit::{Daemon, DaemonBuilder, ModelServer, scratch};

/// How many kills, where the default is not wanted.
const SETTING: &str = "AAOS_KILLS";
const KILLS: u64 = 15;
/// What the moments are drawn from, where the default is not wanted.
const SEED_SETTING: &str = "AAOS_KILLS_SEED";
const SEED: u64 = 4;
/// After so many kills what was done is checked and archived, so that no journal grows without end.
const ROUND: u64 = 50;
/// The last entry after which a kill may come.
const FARTHEST: u64 = 40;
/// How long after an entry a kill may come.
const LATEST: Duration = Duration::from_millis(3);
/// How long after it was asked to archive a kill may come.
const ARCHIVING: Duration = Duration::from_millis(60);
/// Lines of the audit trail after which a kill may come in recovery.
const RECOVERY: u64 = 12;
/// Kills between two words about it.
const TOLD_EVERY: u64 = 25;

#[expect(clippy::disallowed_methods, reason = "how long a test may take is told to the test, not to agentd")]
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |words| words.parse().unwrap_or_else(|_| panic!("{name}: a number")))
}

fn say(words: &str) {
    writeln!(std::io::stdout(), "{words}").expect("standard output takes it");
}

/// How far the loop is.
struct Loop {
    wanted: u64,
    killed: u64,
    draws: Draws,
    began: Instant,
    goals: usize,
    messages: usize,
    answers: usize,
    entries: u64,
}

impl Loop {
    fn new() -> Self {
        let (wanted, seed) = (setting(SETTING, KILLS), setting(SEED_SETTING, SEED));
        say(&format!("{wanted} kills drawn from {SEED_SETTING}={seed}"));
        let (draws, began) = (Draws(seed), Instant::now());
        Self { wanted, killed: 0, draws, began, goals: 0, messages: 0, answers: 0, entries: 0 }
    }

    fn count_kill(&mut self) {
        self.killed += 1;
        if self.killed.is_multiple_of(TOLD_EVERY) {
            self.tell();
        }
    }

    fn tell(&self) {
        let Self { wanted, killed, began, goals, messages, answers, entries, .. } = self;
        let seconds = began.elapsed().as_secs();
        say(&format!(
            "{killed} of {wanted} kills in {seconds} s; checked: {goals} goals, {messages} messages, {answers} \
             answers, {entries} entries archived"
        ));
    }

    /// Starts it again after a kill, not always at the first attempt.
    fn restart(&mut self, builder: DaemonBuilder) -> Daemon {
        self.count_kill();
        let builder = if self.draws.below(3) == 0 {
            let lines = self.draws.below(RECOVERY);
            let builder = cut_recovery(builder, lines);
            self.count_kill();
            builder
        } else {
            builder
        };
        builder.start()
    }

    /// Kills the daemon under the load until it is time to check.
    fn round(&mut self, mut daemon: Daemon, load: &mut Load) -> Daemon {
        let until = self.wanted.min(self.killed + ROUND);
        while self.killed < until {
            let entry = head(&mut daemon.client()) + 1 + self.draws.below(FARTHEST);
            let killer = kill_at(&daemon, entry, self.draws.time_below(LATEST));
            let mut client = daemon.client();
            while load.go_on(&mut client).is_ok() {}
            daemon.wait_end();
            killer.join().expect("it kills");
            daemon = self.restart(daemon.again());
        }
        daemon
    }

    /// Everything that was sent comes to its end and is checked.
    fn check(&mut self, daemon: &Daemon, load: &mut Load, models: &ModelServer) {
        let mut client = daemon.client();
        load.drain(&mut client);
        head(&mut client);
        load.assert_nothing_lost(&mut client, models);
        assert_eq!(models.unscripted(), Vec::<String>::new());
        let (goals, messages, answers) = load.acknowledged();
        self.goals += goals;
        self.messages += messages;
        self.answers += answers;
    }

    /// Moves what is over into an archive, with a kill meanwhile.
    fn archive(&mut self, mut daemon: Daemon, load: &Load) -> Daemon {
        load.end(&mut daemon.client());
        let killer = kill_after(&daemon, self.draws.time_below(ARCHIVING));
        // It may be killed before or after it answers.
        drop(daemon.client().try_call("audit.prune", everything()));
        killer.join().expect("it kills");
        daemon.wait_end();
        let daemon = self.restart(daemon.again());
        self.entries = prune(&daemon);
        daemon
    }
}

#[test]
fn random_kills_lose_nothing_that_was_acknowledged() {
    let mut kills = Loop::new();
    let work = scratch();
    let models = ModelServer::start(script(work.path()));
    let mut load = Load::new(work);
    let mut daemon = DaemonBuilder::openai(&models).env("AAOS_AUDIT_STDOUT", "1").start();
    while kills.killed < kills.wanted {
        load.begin(&daemon, &models);
        daemon = kills.round(daemon, &mut load);
        kills.check(&daemon, &mut load, &models);
        daemon = kills.archive(daemon, &load);
    }
    kills.tell();
}
