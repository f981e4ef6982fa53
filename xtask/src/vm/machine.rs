//! One virtual machine from its boot to its end.
//!
//! Invariants: it is emulated in software, so it needs no device of this machine; it runs no longer than its time,
//! whatever it says meanwhile, and is silent no longer than a test may be; the code that it ends with counts only with
//! the word that this run gave it; what it says is read no faster than it is shown, and a line is bounded.

use super::tally::Tally;
use crate::run::{program, say, works};
use anyhow::{Context, Result, bail};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

const QEMU: &str = "qemu-system-x86_64";
/// The package that has it.
const PACKAGE: &str = "qemu-system-x86";
/// A machine with little in it, which boots without any firmware of a PC.
const BOARD: &str = "microvm,acpi=off,pit=on,pic=on,rtc=on,isa-serial=on";
/// Everything that can be emulated but cmpxchg16b, after which QEMU 7.2 leaves wrong flags: the kernel does without.
const PROCESSOR: &str = "max,-cx16";
/// From power on to the end of all tests.
const TIME: Duration = Duration::from_secs(1_800);
/// Longest silence of the console.
const SILENCE: Duration = Duration::from_secs(240);
/// Lines of the console that are shown again where it failed.
const TAIL: usize = 40;
/// Lines that wait to be shown; the machine waits while there are as many.
const LINES: usize = 256;
/// Longest line of the console; a longer one is cut into several.
const MAX_LINE_BYTES: u64 = 64 * 1024;
/// What precedes the word of this run and the code at the end.
const END: &str = "vm-test-end";

/// Whose tests a machine runs, and what it is given for them.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) uid: u32,
    /// What its lines begin with.
    pub(super) name: &'static str,
    /// For QEMU.
    pub(super) memory: &'static str,
}

/// What boots.
pub(super) struct Machine<'a> {
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    pub(super) nonce: &'a str,
    pub(super) guest: &'a Guest,
}

/// Installs the emulator where it is missing.
pub(super) fn need_emulator() -> Result<()> {
    if works(program(QEMU, ["--version"], Path::new("/"))) { Ok(()) } else { super::install(PACKAGE) }
}

/// A word that nothing in the guest can have printed by chance.
pub(super) fn fresh_nonce() -> Result<String> {
    let mut bytes = [0; 8];
    let mut random = std::fs::File::open("/dev/urandom").context("open /dev/urandom")?;
    random.read_exact(&mut bytes).context("read /dev/urandom")?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}

/// Ends and reaps the emulator, however the run ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It has mostly ended already, and what cannot be killed or reaped is init's.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Machine<'_> {
    /// Boots, shows the console, counts what passed, and gives the code of the tests.
    pub(super) fn run(&self, tally: &mut Tally) -> Result<u8> {
        let mut qemu =
            program(QEMU, ["-M", BOARD, "-accel", "tcg", "-cpu", PROCESSOR, "-smp", "1"], Path::new("/"));
        qemu.args(["-m", self.guest.memory, "-nodefaults", "-no-user-config", "-display", "none"]);
        qemu.args(["-no-reboot", "-serial", "stdio", "-kernel"]).arg(self.kernel);
        qemu.arg("-initrd").arg(self.initramfs).arg("-append").arg(format!(
            "console=ttyS0 quiet loglevel=3 panic=-1 rdinit=/init aaos.end={END} aaos.nonce={} aaos.uid={}",
            self.nonce, self.guest.uid
        ));
        let mut child = qemu.stdout(Stdio::piped()).spawn().with_context(|| format!("start {QEMU}"))?;
        let console = child.stdout.take().context("the console is a pipe")?;
        let _running = Running(child);
        self.follow(&lines_of(console), TIME, tally)
    }

    fn follow(&self, lines: &Receiver<String>, time: Duration, tally: &mut Tally) -> Result<u8> {
        let end = Instant::now() + time;
        let mut tail = VecDeque::new();
        let failed = |what: &str, tail: VecDeque<String>| {
            let shown = Vec::from(tail).join("\n");
            bail!("the virtual machine of {} {what}; its console ended with:\n{shown}", self.guest.name)
        };
        loop {
            let left = end.saturating_duration_since(Instant::now());
            // Asked before each line: one that never stops talking is over all the same.
            if left.is_zero() {
                return failed(&format!("took longer than {} s", time.as_secs()), tail);
            }
            match lines.recv_timeout(left.min(SILENCE)) {
                Ok(line) => {
                    if let Some(code) = self.code_in(&line) {
                        return Ok(code);
                    }
                    tally.hear(&line);
                    say(&format!("{}: {line}", self.guest.name));
                    tail.push_back(line);
                    tail.drain(..tail.len().saturating_sub(TAIL));
                }
                Err(RecvTimeoutError::Disconnected) => return failed("ended without a result", tail),
                // Whether its time is over is asked above.
                Err(RecvTimeoutError::Timeout) if left <= SILENCE => {}
                Err(RecvTimeoutError::Timeout) => {
                    return failed(&format!("was silent for {} s", SILENCE.as_secs()), tail);
                }
            }
        }
    }

    /// The code at the end, if this line says it.
    fn code_in(&self, line: &str) -> Option<u8> {
        let (_, said) = line.split_once(END)?;
        let mut words = said.split_whitespace();
        (words.next()? == self.nonce).then(|| words.next()?.parse().ok())?
    }
}

/// The lines of the console as they come.
fn lines_of(console: ChildStdout) -> Receiver<String> {
    let (sender, lines) = sync_channel(LINES);
    std::thread::spawn(move || {
        let mut console = BufReader::new(console);
        let mut line = Vec::new();
        while (&mut console).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            // Nobody listens any more: the run is over.
            if sender.send(text).is_err() {
                break;
            }
        }
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::{END, Guest, LINES, Machine};
    use crate::vm::tally::Tally;
    use std::path::Path;
    use std::sync::mpsc::{channel, sync_channel};
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(3_600);

    fn machine() -> Machine<'static> {
        let guest = &Guest { uid: 7, name: "somebody", memory: "1M" };
        Machine { kernel: Path::new("/k"), initramfs: Path::new("/i"), nonce: "0a1b", guest }
    }

    #[test]
    fn only_the_word_of_this_run_ends_it() {
        let code = |line: &str| machine().code_in(line);
        assert_eq!(code(&format!("{END} 0a1b 0")), Some(0));
        assert_eq!(code(&format!("half a line{END} 0a1b 101")), Some(101));
        for other in
            [format!("{END} 0a1c 0"), format!("{END} 0a1b"), format!("{END} 0a1b x"), "0a1b 0".to_owned()]
        {
            assert_eq!(code(&other), None, "{other}");
        }
    }

    #[test]
    fn a_machine_that_ends_without_a_result_has_failed_and_its_last_lines_are_told() {
        let (sender, lines) = channel();
        for line in ["one", "Kernel panic - not syncing"] {
            sender.send(line.to_owned()).unwrap();
        }
        drop(sender);
        let error = machine().follow(&lines, LONG, &mut Tally::default()).unwrap_err().to_string();
        assert!(error.contains("ended without a result") && error.contains("Kernel panic"), "{error}");
        assert!(error.contains("somebody"), "{error}");
    }

    #[test]
    fn a_machine_that_never_stops_talking_ends_at_its_time() {
        let (sender, lines) = sync_channel(LINES);
        // Ends when nobody listens any more.
        let talking = std::thread::spawn(move || while sender.send(String::new()).is_ok() {});
        let error = machine().follow(&lines, Duration::ZERO, &mut Tally::default()).unwrap_err().to_string();
        assert!(error.contains("took longer than"), "{error}");
        drop(lines);
        talking.join().unwrap();
    }

    #[test]
    fn the_end_counts_however_much_was_said_before_it() {
        let (sender, lines) = channel();
        for _ in 0..1_000 {
            sender.send("a word".to_owned()).unwrap();
        }
        sender.send(format!("{END} 0a1b 3")).unwrap();
        assert_eq!(machine().follow(&lines, LONG, &mut Tally::default()).unwrap(), 3);
    }
}
