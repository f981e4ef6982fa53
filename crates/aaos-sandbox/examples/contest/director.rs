//! The run: each case as a control, behind each boundary alone, and in the worker.
//!
//! Invariant: whatever is not as it must be is a failure of the run; nothing is skipped in silence.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use aaos_confine::{CHANNEL_FD, Channel};
use aaos_core::confinement::Boundary;
use aaos_core::wire::{FRAME_HEADER_BYTES, decode_frame, frame_length};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use serde::de::DeserializeOwned;
use testkit::{PATIENCE, Policy};

use crate::cases::{CASES, Case, StoppedBy};
use crate::kernel::RENAMED;
use crate::launch::{Worker, Zygote, send_frame};
use crate::processes::{GOING_ON, outlive};
use crate::raw::{Refusal, raw};
use crate::scene::{Order, SECRET, Told};
use crate::sockets::PUSHED;
use crate::stage::{Stage, host_name, name_host};
use crate::subject::serve;

/// Every boundary that a worker can stand behind.
pub(crate) const BOUNDARIES: [Boundary; 14] = [
    Boundary::NoNewPrivs,
    Boundary::Seccomp,
    Boundary::Landlock,
    Boundary::NoCapabilities,
    Boundary::OwnUid,
    Boundary::UserNamespace,
    Boundary::MountNamespace,
    Boundary::PidNamespace,
    Boundary::IpcNamespace,
    Boundary::NetNamespace,
    Boundary::UtsNamespace,
    Boundary::CgroupNamespace,
    Boundary::Rlimits,
    Boundary::ClosedDescriptors,
];

/// What came of one case everywhere. `None`: it was reached.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) case: &'static Case,
    pub(crate) control: Option<Refusal>,
    pub(crate) confined: Option<Refusal>,
    /// Boundaries that stop it alone; empty where there is no control.
    pub(crate) alone: Vec<Boundary>,
}

/// What has to stop every case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Whole {
    /// A real worker.
    #[default]
    Worker,
    /// Nothing, so that the run fails: for the test that it would.
    Nothing,
}

/// How the descriptors of a call are handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Handing {
    /// As the daemon does: files for reading, what was filled sealed; nothing is received with a frame.
    AsTheDaemonDoes,
    /// Without that care.
    Careless,
}

/// Whether each boundary can be had here by itself.
pub(crate) fn available() -> io::Result<Vec<Boundary>> {
    let mut found = Vec::new();
    for boundary in BOUNDARIES {
        reserve_channel()?;
        if Policy::none().with(boundary).start(|| 0)?.wait()? == 0 {
            found.push(boundary);
        }
    }
    Ok(found)
}

/// Runs every case.
pub(crate) fn run(
    stage: &Stage,
    zygote: &mut Zygote,
    boundaries: &[Boundary],
    whole: Whole,
) -> io::Result<Vec<Outcome>> {
    CASES.iter().map(|case| run_case(stage, zygote, boundaries, whole, case)).collect()
}

fn run_case(
    stage: &Stage,
    zygote: &mut Zygote,
    boundaries: &[Boundary],
    whole: Whole,
    case: &'static Case,
) -> io::Result<Outcome> {
    let control = behind_nothing(stage, case)?;
    let mut alone = Vec::new();
    if control.is_none() {
        for boundary in boundaries {
            if behind(stage, case, &Policy::none().with(*boundary))?.is_some() {
                alone.push(*boundary);
            }
        }
    }
    let confined = match whole {
        Whole::Worker => {
            let worker = zygote.launch()?;
            in_worker(stage, zygote, case, worker)?
        }
        Whole::Nothing => behind_nothing(stage, case)?,
    };
    Ok(Outcome { case, control, confined, alone })
}

fn in_worker(stage: &Stage, zygote: &Zygote, case: &Case, worker: Worker) -> io::Result<Option<Refusal>> {
    stage.reset()?;
    let serial = worker.serial;
    ask(stage, case, worker.channel, Handing::AsTheDaemonDoes, || zygote.kill(serial))
}

/// Makes the attempt without confinement; `None`: it was reached.
pub(crate) fn behind_nothing(stage: &Stage, case: &Case) -> io::Result<Option<Refusal>> {
    behind(stage, case, &Policy::none())
}

/// Makes the attempt behind a policy; `None`: it was reached.
fn behind(stage: &Stage, case: &Case, policy: &Policy) -> io::Result<Option<Refusal>> {
    stage.reset()?;
    let (near, far) = UnixStream::pair()?;
    set_socket_timeout(&near, Timeout::Recv, Some(PATIENCE))?;
    put_channel(&far.into())?;
    let ours = near.as_raw_fd().unsigned_abs() as usize;
    let subject = policy.start(|| {
        // Whoever goes on ends when the director hangs up, which a copy of its end would hide.
        drop(raw(libc::SYS_close, &[ours]));
        serve(&Channel::inherited())
    })?;
    reserve_channel()?;
    let end = || {
        drop(subject);
        Ok(())
    };
    ask(stage, case, near.into(), Handing::Careless, end)
}

/// Puts the far end on the number where every subject looks for it.
fn put_channel(far: &OwnedFd) -> io::Result<()> {
    let from = far.as_raw_fd().unsigned_abs() as usize;
    raw(libc::SYS_dup3, &[from, CHANNEL_FD.unsigned_abs() as usize, 0])
        .map(drop)
        .map_err(|refusal| io::Error::other(refusal.name()))
}

/// Keeps that number taken by nothing that matters.
pub(crate) fn reserve_channel() -> io::Result<()> {
    let null = File::open("/dev/null")?;
    if null.as_raw_fd() == CHANNEL_FD {
        // It is there already; from here on it is nobody's.
        let _number = null.into_raw_fd();
        return Ok(());
    }
    put_channel(&null.into())
}

/// Gives the order and takes the answer; `end` ends the subject at once.
fn ask(
    stage: &Stage,
    case: &Case,
    channel: OwnedFd,
    handing: Handing,
    end: impl FnOnce() -> io::Result<()>,
) -> io::Result<Option<Refusal>> {
    let handed = hand_over(stage, case, handing)?;
    let order = Order { case: case.name.to_owned(), scene: stage.scene.clone() };
    let lent: Vec<_> = handed.iter().map(AsFd::as_fd).collect();
    send_frame(&channel, &order, &lent)?;
    drop(handed);
    if case.attempt_is(outlive) {
        return ask_survivor(channel, end);
    }
    let told = if case.by == StoppedBy::Receiver {
        receive_pushed(channel, handing)
    } else {
        receive(&Channel::new(channel))
    };
    end()?;
    Ok(judge(case, told))
}

/// Ends a subject that goes on, and asks whether anybody of it still answers.
fn ask_survivor(channel: OwnedFd, end: impl FnOnce() -> io::Result<()>) -> io::Result<Option<Refusal>> {
    let mut stream = UnixStream::from(channel);
    let words: String = read_frame(&mut stream)?;
    assert_eq!(words, GOING_ON, "what it says before it is ended");
    end()?;
    let mut byte = [0];
    let answered =
        stream.write_all(b"?").and_then(|()| stream.read(&mut byte)).is_ok_and(|got| got == byte.len());
    Ok((!answered).then(|| Refusal::Nothing("ended with it".to_owned())))
}

/// What the subject said, held against what is to be seen from here.
fn judge(case: &Case, told: Result<Told, String>) -> Option<Refusal> {
    let refusal = match told {
        Ok(told) => told.refusal,
        Err(words) => Some(Refusal::Nothing(words)),
    };
    if refusal.is_none() && case.name == "rename the host" {
        return renamed();
    }
    refusal
}

/// Whether the stage's own host was renamed; it gets its name back.
fn renamed() -> Option<Refusal> {
    match host_name() {
        Ok(name) if name == RENAMED => name_host("stage").err(),
        Ok(_) => Some(Refusal::Nothing("another host".to_owned())),
        Err(refusal) => Some(refusal),
    }
}

fn receive(channel: &Channel) -> Result<Told, String> {
    match channel.receive::<Told>() {
        Ok((told, _)) => Ok(told),
        Err(error) => Err(format!("ended ({error})")),
    }
}

fn receive_pushed(channel: OwnedFd, handing: Handing) -> Result<Told, String> {
    let before = open_descriptors();
    let refusal = match handing {
        Handing::Careless => {
            let channel = Channel::new(channel);
            let pushed = channel.receive::<String>().map_err(|error| format!("ended ({error})"))?;
            assert_eq!(pushed.0, PUSHED, "the frame that it rides on");
            (pushed.1.is_empty()).then_some(())
        }
        Handing::AsTheDaemonDoes => {
            let mut stream = UnixStream::from(channel);
            let words: String = read_frame(&mut stream).map_err(|error| format!("ended ({error})"))?;
            assert_eq!(words, PUSHED, "the frame that it rode on");
            (open_descriptors() == before).then_some(())
        }
    };
    Ok(Told { refusal: refusal.map(|()| Refusal::Nothing("dropped".to_owned())) })
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// One frame, received without room for descriptors.
fn read_frame<T: DeserializeOwned>(stream: &mut UnixStream) -> io::Result<T> {
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header)?;
    let mut body = vec![0; frame_length(header).map_err(io::Error::other)?];
    stream.read_exact(&mut body)?;
    decode_frame(&body).map_err(io::Error::other)
}

/// File, directory and memory file of a call.
fn hand_over(stage: &Stage, case: &Case, handing: Handing) -> io::Result<[OwnedFd; 3]> {
    let careful = handing == Handing::AsTheDaemonDoes;
    let file = File::options().read(true).write(!careful).open(stage.path("secret"))?;
    let directory = File::open(stage.path("handed"))?;
    let memory = memfd_create("contest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut filled = File::from(memory);
    filled.write_all(SECRET)?;
    if careful && case.by == StoppedBy::Seal {
        fcntl_add_seals(&filled, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    }
    Ok([file.into(), directory.into(), filled.into()])
}
