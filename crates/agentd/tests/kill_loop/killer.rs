//! Who kills, and when.
//!
//! Invariant: the moment is drawn before the daemon gets there; what it happens to do then is up to the machine.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::io::{Read, Seek, SeekFrom};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use testkit::{Daemon, DaemonBuilder, PATIENCE};

/// SplitMix64 (Steele, Lea and Flood 2014): a seed replays the same draws.
pub(crate) struct Draws(pub(crate) u64);

impl Draws {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % limit
    }

    pub(crate) fn time_below(&mut self, limit: Duration) -> Duration {
        Duration::from_micros(self.below(u64::try_from(limit.as_micros()).expect("short")))
    }
}

/// Kills the daemon once `entry` is on its disk and so much time went by, on a thread of its own.
pub(crate) fn kill_at(daemon: &Daemon, entry: u64, late: Duration) -> JoinHandle<()> {
    let (pid, mut watcher) = (daemon.pid(), daemon.client());
    watcher.send("audit.stream", json!({ "after_seq": entry - 1 }));
    std::thread::spawn(move || {
        let reached = watcher.notification();
        // Also where it never got there, so that nobody waits for a daemon that does nothing.
        kill_in(pid, late);
        reached.expect("the load goes on");
    })
}

/// Kills the daemon after so much time, on a thread of its own.
pub(crate) fn kill_after(daemon: &Daemon, late: Duration) -> JoinHandle<()> {
    let pid = daemon.pid();
    std::thread::spawn(move || kill_in(pid, late))
}

fn kill_in(pid: u32, late: Duration) {
    let began = Instant::now();
    // Not asleep: the moment is to be met to some microseconds.
    while began.elapsed() < late {
        std::thread::yield_now();
    }
    let daemon = Pid::from_raw(i32::try_from(pid).expect("small")).expect("a process number");
    kill_process(daemon, Signal::KILL).expect("it was there a moment ago");
}

/// Starts it and kills it in the middle of its recovery, after so many lines of its audit trail.
pub(crate) fn cut_recovery(builder: DaemonBuilder, lines: u64) -> DaemonBuilder {
    let trail = builder.home().join("stdout.log");
    let before = std::fs::metadata(&trail).map_or(0, |about| about.len());
    let written = || {
        let mut added = String::new();
        let mut file = std::fs::File::open(&trail).expect("opens the trail");
        file.seek(SeekFrom::Start(before)).expect("seeks");
        file.read_to_string(&mut added).expect("reads");
        added.lines().count() as u64
    };
    let mut daemon = builder.begin();
    let began = Instant::now();
    // It may have no more to record than this, and is ready then.
    while written() < lines && !daemon.is_ready() {
        assert!(began.elapsed() < PATIENCE, "neither ready nor recording: {}", daemon.stderr());
        std::thread::yield_now();
    }
    daemon.kill();
    daemon.wait_end();
    daemon.again()
}
