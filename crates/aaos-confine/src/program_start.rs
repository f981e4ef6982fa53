//! The program's process: made while its sandbox is judged, and let go when that was proved.
//!
//! Invariants: it is a child of the first process of the sandbox, which is locked by then, and inherits all of the
//! lock-down. It executes nothing before it is let go, which agentd does itself: nobody in the sandbox holds the end of
//! the pipe that the word comes by. Nothing in the sandbox ends before that word either, whatever failed, because agentd is
//! looking at it.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use aaos_core::program::{PROGRAM_PIPE_ENDS, ProgramPlan};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::channel::CHANNEL_FD;
use crate::namespaces::chdir;
use crate::program_output::Output;
use crate::sys::{AtStep, LockError, answer, execute, exit_now, fork_with, wait_for};

/// The number on which a script is found by its interpreter.
const SCRIPT_FD: RawFd = 3;
const SCRIPT_PATH: &str = "/dev/fd/3";

/// Between the first process of a sandbox and the program's: the program's output, and why it could not be started.
#[derive(Debug)]
pub(crate) struct Pipes {
    output: Output,
    failure: [OwnedFd; 2],
}

impl Pipes {
    pub(crate) fn new() -> io::Result<Self> {
        let failure = pipe_with(PipeFlags::CLOEXEC).map(|(from, to)| [from, to])?;
        let made = Self { output: Output::new()?, failure };
        let ends = made.output.far.len() + made.output.far.len() + made.failure.len();
        assert_eq!(ends, PROGRAM_PIPE_ENDS, "agentd knows how many there are");
        Ok(made)
    }
}

/// What the program's process is handed. It has copies of its own once it is there.
#[derive(Debug)]
pub(crate) struct ForProgram {
    pub(crate) program: OwnedFd,
    pub(crate) script: Option<OwnedFd>,
    pub(crate) stdin: OwnedFd,
    /// Gives a byte when it may be the program.
    pub(crate) go: OwnedFd,
}

/// The program's process before it is the program.
#[derive(Debug)]
pub(crate) struct Waiting {
    pid: libc::pid_t,
    output: Output,
    /// Closed without a word when the program is executed.
    failure: OwnedFd,
}

impl Waiting {
    /// Forks it. Where that fails, the word that would have let it go has come.
    pub(crate) fn make(plan: &ProgramPlan, handed: &ForProgram, pipes: Pipes) -> Result<Self, LockError> {
        Self::fork(plan, handed, pipes).or_else(|error| {
            wait_for_word(&handed.go).at("waiting for its start")?;
            Err(error)
        })
    }

    fn fork(plan: &ProgramPlan, handed: &ForProgram, pipes: Pipes) -> Result<Self, LockError> {
        let call = Call::new(plan)?;
        let Pipes { output, failure: [failure, report] } = pipes;
        let [stdout, stderr] = &output.far;
        // SAFETY: this process is single-threaded.
        let pid = unsafe { fork_with(0) }.at("making its process")?;
        if pid == 0 {
            let failed = become_program(&call, handed, [&handed.stdin, stdout, stderr]);
            let code = failed.source.raw_os_error().unwrap_or(libc::EIO);
            let word = [code, i32::from(failed.step == CHANGING_DIRECTORY)].map(i32::to_ne_bytes).concat();
            // With the pipe gone nobody is left to tell.
            drop(rustix::io::write(&report, &word).map_err(io::Error::from));
            exit_now(127);
        }
        Ok(Self { pid, output, failure })
    }

    /// Waits until it is the program; gives its pid and its output.
    pub(crate) fn started(self) -> Result<(libc::pid_t, Output), LockError> {
        let Self { pid, output, failure } = self;
        let mut word = [0; 8];
        match rustix::io::read(&failure, &mut word).map_err(io::Error::from).at("waiting for its start")? {
            0 => Ok((pid, output)),
            _ => {
                wait_for(pid).at("reaping what did not start")?;
                let [code, at] = [0, 4].map(|from| {
                    i32::from_ne_bytes([word[from], word[from + 1], word[from + 2], word[from + 3]])
                });
                let step = if at == 0 { "executing it" } else { CHANGING_DIRECTORY };
                Err(LockError { step, source: io::Error::from_raw_os_error(code) })
            }
        }
    }
}

/// Everything that the program's process needs, made before it exists.
struct Call {
    arguments: Vec<CString>,
    environment: Vec<CString>,
    directory: CString,
}

impl Call {
    fn new(plan: &ProgramPlan) -> Result<Self, LockError> {
        let text = |text: &str| CString::new(text).map_err(io::Error::other).at("its arguments");
        let texts = |all: &[String]| all.iter().map(|one| text(one)).collect::<Result<Vec<_>, _>>();
        let (mut arguments, environment) = (texts(&plan.arguments)?, texts(&plan.environment)?);
        if let Some(place) = plan.script.and_then(|at| arguments.get_mut(usize::try_from(at).ok()?)) {
            *place = text(SCRIPT_PATH)?;
        }
        Ok(Self { arguments, environment, directory: text(plan.directory.as_str())? })
    }
}

const CHANGING_DIRECTORY: &str = "changing to its directory";

/// The program's process: its streams on their numbers, nothing else open, and when it is let go the program. Gives why it
/// is none.
fn become_program(call: &Call, handed: &ForProgram, streams: [&OwnedFd; 3]) -> LockError {
    let ForProgram { program, script, go, .. } = handed;
    let prepared = (|| {
        chdir(&call.directory).at(CHANGING_DIRECTORY)?;
        for (number, stream) in (0..).zip(streams) {
            put(stream.as_raw_fd(), number).at("arranging its streams")?;
        }
        if let Some(script) = script {
            put(script.as_raw_fd(), SCRIPT_FD).at("arranging its script")?;
        }
        let first = if script.is_some() { SCRIPT_FD + 1 } else { CHANNEL_FD };
        close_on_exec(first).at("closing descriptors")?;
        default_signals().at("its signals")?;
        rustix::process::setsid().map(drop).map_err(io::Error::from).at("its session")
    })();
    let [arguments, environment] = [&call.arguments, &call.environment]
        .map(|texts| texts.iter().map(CString::as_c_str).collect::<Vec<&CStr>>());
    let let_go = wait_for_word(go).at("waiting for its start");
    let execute = || execute(program, &arguments, &environment).at("executing it");
    match prepared.and(let_go).and_then(|()| execute()) {
        Ok(()) => unreachable!("an executed program does not come back"),
        Err(error) => error,
    }
}

fn wait_for_word(go: &OwnedFd) -> io::Result<()> {
    match rustix::io::read(go, &mut [0_u8])? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn put(from: RawFd, to: RawFd) -> io::Result<()> {
    assert!(from > SCRIPT_FD, "what came with the plan lies above the channel");
    // SAFETY: plain numbers; this process is about to become another program and owns nothing at them.
    answer(unsafe { libc::syscall(libc::SYS_dup3, from, to, 0) }).map(drop)
}

fn close_on_exec(first: RawFd) -> io::Result<()> {
    // SAFETY: plain numbers.
    answer(unsafe {
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    })
    .map(drop)
}

/// What the Rust runtime ignores, a program does not expect to be ignored.
fn default_signals() -> io::Result<()> {
    // SAFETY: the default action needs no handler.
    match unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
