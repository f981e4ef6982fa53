//! What a program writes, read by the first process of its sandbox until nothing in there can write any more.
//!
//! Invariants: whatever is written is read, so that nobody waits, and of each stream its beginning and its end are
//! kept, however much there is in between. Bytes become text here, on the locked side: agentd sees text alone. When the
//! program has ended, all that it left is ended before its last words are taken.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use aaos_core::limits::{COMMAND_OUTPUT_HALF_BYTES, MAX_COMMAND_OUTPUT_BYTES};
use aaos_core::program::{ProgramReply, ProgramText};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::sys::answer;

/// Bytes read at a time.
const STEP_BYTES: usize = 64 * 1024;
/// `struct signalfd_siginfo` of linux/signalfd.h.
const SIGNAL_BYTES: usize = 128;

/// The two output streams of a program, with both of their ends.
#[derive(Debug)]
pub(crate) struct Output {
    /// The program's ends: output and errors.
    pub(crate) far: [OwnedFd; 2],
    near: [OwnedFd; 2],
}

impl Output {
    pub(crate) fn new() -> io::Result<Self> {
        let (out, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (err, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        // The program can open its streams for reading too, and take what was there a moment ago: nobody waits for that.
        for near in [&out, &err] {
            rustix::io::ioctl_fionbio(near, true)?;
        }
        Ok(Self { far: [stdout, stderr], near: [out, err] })
    }

    /// Reads until the program has ended and nothing in the sandbox writes any more, and gives what is told of it. The
    /// caller is the first process of its PID namespace and holds no other end of the streams.
    pub(crate) fn follow(self, program: libc::pid_t) -> io::Result<ProgramReply> {
        let Self { far, near } = self;
        drop(far);
        let ends = Ends::new()?;
        let mut streams = near.map(Stream::of);
        // Not zeroed, so that only as much of it is made as is read.
        let mut step = Vec::with_capacity(STEP_BYTES);
        let mut status = None;
        loop {
            // Whoever ended before the first signal could be heard is reaped at the first turn.
            // A number can be somebody else's once the program is reaped.
            if let (None, Some(ended)) = (status, reap(program)?) {
                status = Some(ended);
                end_everything()?;
            }
            if let Some(status) = status.filter(|_| streams.iter().all(|stream| stream.pipe.is_none())) {
                let [stdout, stderr] = streams.map(|stream| stream.kept.tell());
                return Ok(ProgramReply::Ended { status, stdout, stderr });
            }
            ends.wait(&mut streams, &mut step)?;
            if streams.iter().any(|stream| stream.kept.total > MAX_COMMAND_OUTPUT_BYTES) {
                return Ok(ProgramReply::TooMuch {});
            }
        }
    }
}

/// One stream, as long as somebody may write to it.
#[derive(Debug)]
struct Stream {
    pipe: Option<OwnedFd>,
    kept: Kept,
}

impl Stream {
    fn of(pipe: OwnedFd) -> Self {
        Self { pipe: Some(pipe), kept: Kept::default() }
    }

    /// Reads once; the end of the stream closes it, and so does an error.
    fn read(&mut self, step: &mut Vec<u8>) {
        let Some(pipe) = &self.pipe else { return };
        step.clear();
        match rustix::io::read(pipe, spare_capacity(step)) {
            Ok(1..) => self.kept.add(step),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Ok(_) | Err(_) => self.pipe = None,
        }
    }
}

/// Hears that a child has ended.
#[derive(Debug)]
struct Ends(OwnedFd);

impl Ends {
    /// Called after the program's process was made, which is to hear its own children.
    fn new() -> io::Result<Self> {
        let signals: u64 = 1 << (libc::SIGCHLD - 1);
        let (none, size) = (std::ptr::null_mut::<u64>(), size_of::<u64>());
        // SAFETY: the kernel's own set of signals is 8 bytes long and outlives the call.
        let blocked = unsafe {
            libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, &raw const signals, none, size)
        };
        answer(blocked)?;
        let how = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: as above.
        let made = unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const signals, size, how) };
        let made = i32::try_from(answer(made)?).map_err(io::Error::other)?;
        // SAFETY: the kernel has just made this descriptor.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(made) }))
    }

    /// Waits until a child has ended or a stream has something, and reads that.
    fn wait(&self, streams: &mut [Stream; 2], step: &mut Vec<u8>) -> io::Result<()> {
        let mut asked = vec![PollFd::new(&self.0, PollFlags::IN)];
        let pipes = streams.iter().filter_map(|stream| stream.pipe.as_ref());
        asked.extend(pipes.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        match poll(&mut asked, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready: Vec<bool> = asked.iter().map(|one| !one.revents().is_empty()).collect();
        let mut word = [0; SIGNAL_BYTES];
        // Without a word in it nobody has ended since.
        drop(rustix::io::read(self.0.as_fd(), &mut word).map_err(io::Error::from));
        let open = streams.iter_mut().filter(|stream| stream.pipe.is_some());
        for (stream, _) in open.zip(&ready[1..]).filter(|(_, is_ready)| **is_ready) {
            stream.read(step);
        }
        Ok(())
    }
}

/// Reaps all that have ended; gives the status of the program where it is among them.
fn reap(program: libc::pid_t) -> io::Result<Option<i32>> {
    let mut found = None;
    loop {
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::WNOHANG) };
        match pid {
            0 => return Ok(found),
            pid if pid == program => found = found.or(Some(status)),
            1.. => {}
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error if error.raw_os_error() == Some(libc::ECHILD) => return Ok(found),
                error => return Err(error),
            },
        }
    }
}

/// Ends everything in the PID namespace but its first process, the caller.
fn end_everything() -> io::Result<()> {
    assert_eq!(std::process::id(), 1, "everybody else is ended");
    // SAFETY: plain numbers.
    match answer(unsafe { libc::syscall(libc::SYS_kill, -1, libc::SIGKILL) }) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(error),
        _ => Ok(()),
    }
}

/// The first and the last bytes of a stream.
#[derive(Debug, Default)]
struct Kept {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
}

impl Kept {
    fn add(&mut self, more: &[u8]) {
        let room = COMMAND_OUTPUT_HALF_BYTES - self.head.len();
        let (first, rest) = more.split_at(more.len().min(room));
        self.head.extend(first);
        self.tail.extend(rest);
        let over = self.tail.len().saturating_sub(COMMAND_OUTPUT_HALF_BYTES);
        self.tail.drain(..over);
        self.total = self.total.saturating_add(more.len() as u64);
        assert!(self.head.len() + self.tail.len() <= 2 * COMMAND_OUTPUT_HALF_BYTES, "output is bounded");
    }

    fn tell(&self) -> ProgramText {
        let kept = (self.head.len() + self.tail.len()) as u64;
        let left_out = self.total - kept;
        let mut bytes = self.head.clone();
        if left_out > 0 {
            bytes.extend(format!("\n[… {left_out} bytes left out …]\n").into_bytes());
        }
        bytes.extend(&self.tail);
        let told =
            ProgramText { text: String::from_utf8_lossy(&bytes).into_owned(), truncated: left_out > 0 };
        assert!(told.is_bounded(), "a text is no longer than agentd takes");
        told
    }
}

#[cfg(test)]
mod tests {
    use aaos_core::limits::{COMMAND_OUTPUT_HALF_BYTES, MAX_COMMAND_OUTPUT_BYTES};

    use super::Kept;

    #[test]
    fn the_beginning_and_the_end_of_an_output_are_kept() {
        let mut kept = Kept::default();
        kept.add(b"first ");
        assert_eq!((kept.total, kept.tell().text.as_str()), (6, "first "));
        for _ in 0..5 {
            kept.add(&vec![b'x'; COMMAND_OUTPUT_HALF_BYTES]);
        }
        kept.add(b" last\xff");
        let told = kept.tell();
        assert!(told.truncated && told.text.starts_with("first xxx") && told.text.ends_with(" last\u{fffd}"));
        let left_out = 5 * COMMAND_OUTPUT_HALF_BYTES + 12 - 2 * COMMAND_OUTPUT_HALF_BYTES;
        assert!(told.text.contains(&format!("[… {left_out} bytes left out …]")), "{left_out}");
    }

    #[test]
    fn what_fits_is_whole() {
        let mut kept = Kept::default();
        kept.add(&vec![b'a'; 2 * COMMAND_OUTPUT_HALF_BYTES]);
        let told = kept.tell();
        assert!(!told.truncated && told.text.len() == 2 * COMMAND_OUTPUT_HALF_BYTES);
        kept.add(b"b");
        assert!(kept.tell().truncated);
    }

    #[test]
    fn the_longest_text_of_the_worst_bytes_is_one_that_agentd_takes() {
        let mut kept = Kept { total: MAX_COMMAND_OUTPUT_BYTES, ..Kept::default() };
        kept.add(&vec![0xff; 2 * COMMAND_OUTPUT_HALF_BYTES]);
        assert!(kept.tell().is_bounded());
        assert!(kept.tell().text.len() > 6 * COMMAND_OUTPUT_HALF_BYTES, "the control: it grew threefold");
    }
}
