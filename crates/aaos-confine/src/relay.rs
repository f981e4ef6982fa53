//! The relay of a program sandbox: what connects to its loopback listener gets a stream of its own to the proxy.
//!
//! Invariants: the listener was made before the lock-down, and every stream to the proxy was made by agentd; the relay
//! makes no socket and connects nothing. At most [`MAX_RELAYED`] connections are open, each with two buffers of one
//! size, and the others wait in the listener's backlog. It looks into no byte that it passes on. One thread, no call
//! that waits but `poll`, and the doorbell's frames, which agentd sends whole.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use aaos_core::limits::MAX_RELAYED;
use aaos_core::wire::{Door, Knock};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{Shutdown, SocketFlags, accept_with, shutdown};

use crate::channel::{Channel, ChannelError};
use crate::descriptors::keep_alone;
use crate::filter::{Filter, Meaning};
use crate::sys::{AtStep, LockError, exit_now, fork_with};
use crate::tables::RELAY;

/// Exit code of a relay that ended before its doorbell did.
const RELAY_FAILED: i32 = 73;
/// Bytes that wait in one direction of one connection.
const BUFFER_BYTES: usize = 16 * 1024;

/// Why a relay ended before its doorbell did.
#[derive(Debug, thiserror::Error)]
enum RelayError {
    /// A step of its own lock-down failed.
    #[error("{}: {}", .0.step, .0.source)]
    Lock(#[from] LockError),
    /// agentd said what was not due.
    #[error("agentd answered a knock that there was not, or with another number of descriptors")]
    OutOfTurn,
    /// The doorbell broke.
    #[error("the channel to agentd failed")]
    Doorbell(#[from] ChannelError),
    /// The kernel refused something that a relay lives by.
    #[error("waiting for connections failed")]
    Poll(#[source] io::Error),
}

/// Has a new child of the caller relay from the listener, over streams that the doorbell brings. The caller
/// drops both: without them in anybody else's hands their end is seen.
///
/// The child is behind everything that the caller is behind, and behind a filter of its own besides.
pub(crate) fn start_relay(listener: &OwnedFd, doorbell: &OwnedFd) -> Result<(), LockError> {
    // SAFETY: this process is single-threaded.
    let pid = unsafe { fork_with(0) }.at("making the relay")?;
    if pid == 0 {
        // Nothing of the caller's is dropped in here: its descriptors are closed already.
        let relayed = lock_relay(listener, doorbell).map_err(RelayError::from).and_then(Relay::run);
        let code = relayed.map_or_else(|error| told(&error), |()| 0);
        exit_now(code);
    }
    Ok(())
}

fn told(error: &RelayError) -> i32 {
    // With standard error gone there is nobody left to tell.
    drop(writeln!(io::stderr(), "the relay of a program's connections: {error}"));
    RELAY_FAILED
}

fn lock_relay(listener: &OwnedFd, doorbell: &OwnedFd) -> Result<Relay, LockError> {
    let filter = Filter::compile(RELAY, Meaning::AllowList).at("compiling the relay's filter")?;
    let kept = keep_alone([doorbell.as_fd(), listener.as_fd()]).at("the relay's descriptors")?;
    filter.install().at("the relay's filter")?;
    let [doorbell, listener] = kept;
    Ok(Relay::new(listener, Channel::new(doorbell)))
}

/// A listener, the channel to agentd, and the connections between.
#[derive(Debug)]
struct Relay {
    /// Gone once agentd has said that it lets no more in: whoever connects then is refused by the kernel.
    listener: Option<OwnedFd>,
    doorbell: Channel,
    /// Accepted, and not answered by agentd yet.
    waiting: VecDeque<OwnedFd>,
    lines: Vec<Line>,
}

/// What `poll` watches, in the order of its answers.
#[derive(Debug, Clone, Copy)]
enum Watched {
    Doorbell,
    Listener,
    Line(usize, Side),
}

impl Relay {
    /// Over a listener that does not block and a channel to agentd.
    const fn new(listener: OwnedFd, doorbell: Channel) -> Self {
        Self { listener: Some(listener), doorbell, waiting: VecDeque::new(), lines: Vec::new() }
    }

    /// Relays until agentd hangs up. After an error every connection is over.
    fn run(mut self) -> Result<(), RelayError> {
        loop {
            let ready = self.wait()?;
            for (watched, flags) in ready {
                match watched {
                    Watched::Doorbell => match self.answered() {
                        Err(RelayError::Doorbell(ChannelError::Closed)) => return Ok(()),
                        answered => answered?,
                    },
                    Watched::Listener => self.accept()?,
                    Watched::Line(at, side) => self.lines[at].note(side, flags),
                }
            }
            self.lines.iter_mut().for_each(Line::step);
            self.lines.retain(|line| !line.is_over());
            assert!(self.waiting.len() + self.lines.len() <= MAX_RELAYED, "no more are accepted than fit");
        }
    }

    fn wait(&self) -> Result<Vec<(Watched, PollFlags)>, RelayError> {
        let mut watched = vec![Watched::Doorbell];
        let mut polled = vec![PollFd::from_borrowed_fd(self.doorbell.as_fd(), PollFlags::IN)];
        if let Some(listener) = &self.listener
            && self.waiting.len() + self.lines.len() < MAX_RELAYED
        {
            watched.push(Watched::Listener);
            polled.push(PollFd::new(listener, PollFlags::IN));
        }
        for (at, line) in self.lines.iter().enumerate() {
            for side in [Side::Program, Side::Proxy] {
                if let Some(flags) = line.wants(side) {
                    watched.push(Watched::Line(at, side));
                    polled.push(PollFd::new(line.socket(side), flags));
                }
            }
        }
        match poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(RelayError::Poll(errno.into())),
        }
        let ready = watched.into_iter().zip(polled.iter().map(PollFd::revents));
        Ok(ready.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    fn accept(&mut self) -> Result<(), RelayError> {
        // It may have been locked since the listener was looked at.
        let Some(listener) = &self.listener else { return Ok(()) };
        match accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(program) => {
                self.doorbell.send(&Knock {})?;
                self.waiting.push_back(program);
                Ok(())
            }
            // Whoever connected has left, or there is no room for it: it is not a reason to end the others.
            Err(
                Errno::AGAIN
                | Errno::INTR
                | Errno::CONNABORTED
                | Errno::MFILE
                | Errno::NFILE
                | Errno::NOBUFS
                | Errno::NOMEM,
            ) => Ok(()),
            Err(errno) => Err(RelayError::Poll(errno.into())),
        }
    }

    /// Takes agentd's answer to the oldest knock.
    fn answered(&mut self) -> Result<(), RelayError> {
        let (door, descriptors) = self.doorbell.receive::<Door>()?;
        let program = self.waiting.pop_front().ok_or(RelayError::OutOfTurn)?;
        let mut descriptors = descriptors.into_iter();
        match (door, descriptors.next(), descriptors.next()) {
            (Door::Open, Some(proxy), None) => {
                rustix::io::ioctl_fionbio(&proxy, true).map_err(|errno| RelayError::Poll(errno.into()))?;
                self.lines.push(Line::new(program, proxy));
                Ok(())
            }
            (Door::Shut, None, _) => Ok(()),
            (Door::Locked, None, _) => {
                self.listener = None;
                Ok(())
            }
            _ => Err(RelayError::OutOfTurn),
        }
    }
}

/// One end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Program,
    Proxy,
}

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::Program => Self::Proxy,
            Self::Proxy => Self::Program,
        }
    }
}

/// One relayed connection.
#[derive(Debug)]
struct Line {
    program: OwnedFd,
    proxy: OwnedFd,
    /// From the program to the proxy, and back.
    up: Pipe,
    down: Pipe,
}

/// One direction.
#[derive(Debug)]
struct Pipe {
    buffer: Box<[u8]>,
    /// What of the buffer waits to be written.
    waiting: std::ops::Range<usize>,
    /// Its source says nothing more.
    ended: bool,
    /// Its target was told so, or takes nothing more.
    shut: bool,
}

impl Pipe {
    fn new() -> Self {
        Self { buffer: vec![0; BUFFER_BYTES].into(), waiting: 0..0, ended: false, shut: false }
    }

    fn reads(&self) -> bool {
        !self.ended && !self.shut && self.waiting.is_empty()
    }

    fn step(&mut self, from: &OwnedFd, to: &OwnedFd) {
        if self.reads() {
            match rustix::io::read(from, &mut self.buffer[..]) {
                Ok(0) => self.ended = true,
                Ok(count) => self.waiting = 0..count,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => self.ended = true,
            }
        }
        if !self.waiting.is_empty() && !self.shut {
            match rustix::net::send(to, &self.buffer[self.waiting.clone()], rustix::net::SendFlags::NOSIGNAL)
            {
                Ok(count) => self.waiting.start += count,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => self.give_up(),
            }
        }
        if self.ended && self.waiting.is_empty() && !self.shut {
            // A target that is gone has been told, too.
            self.shut = true;
            shutdown(to, Shutdown::Write).unwrap_or(());
        }
    }

    /// Nobody takes what comes here any more.
    fn give_up(&mut self) {
        self.waiting = 0..0;
        self.shut = true;
    }
}

impl Line {
    fn new(program: OwnedFd, proxy: OwnedFd) -> Self {
        Self { program, proxy, up: Pipe::new(), down: Pipe::new() }
    }

    const fn socket(&self, side: Side) -> &OwnedFd {
        match side {
            Side::Program => &self.program,
            Side::Proxy => &self.proxy,
        }
    }

    /// The direction that begins at a side.
    const fn beginning_at(&self, side: Side) -> &Pipe {
        match side {
            Side::Program => &self.up,
            Side::Proxy => &self.down,
        }
    }

    const fn beginning_at_mut(&mut self, side: Side) -> &mut Pipe {
        match side {
            Side::Program => &mut self.up,
            Side::Proxy => &mut self.down,
        }
    }

    /// What to wait for at a side; `None` where nothing is to come from it or go to it.
    fn wants(&self, side: Side) -> Option<PollFlags> {
        let (out, back) = (self.beginning_at(side), self.beginning_at(side.other()));
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, out.reads());
        flags.set(PollFlags::OUT, !back.waiting.is_empty() && !back.shut);
        // One that waits for the other side only would be told of its end again and again.
        (!flags.is_empty()).then_some(flags)
    }

    /// A side that is gone takes nothing more; what it sent before is passed on yet.
    fn note(&mut self, side: Side, flags: PollFlags) {
        if flags.contains(PollFlags::ERR) {
            self.beginning_at_mut(side.other()).give_up();
        }
    }

    fn step(&mut self) {
        self.up.step(&self.program, &self.proxy);
        self.down.step(&self.proxy, &self.program);
    }

    /// Both directions are done.
    fn is_over(&self) -> bool {
        self.up.shut && self.down.shut
    }
}

#[cfg(test)]
mod tests {
    use super::{Relay, RelayError};
    use crate::channel::Channel;
    use aaos_core::limits::MAX_RELAYED;
    use aaos_core::wire::{Door, FRAME_HEADER_BYTES, Knock, decode_frame, encode_frame, frame_length};
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::io::{IoSlice, Read, Write};
    use std::mem::MaybeUninit;
    use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::net::UnixStream;
    use std::thread::JoinHandle;
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A relay that runs, and agentd's end of its doorbell.
    struct Rig {
        address: SocketAddr,
        agentd: UnixStream,
        running: JoinHandle<Result<(), RelayError>>,
    }

    impl Rig {
        fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            listener.set_nonblocking(true).expect("a socket");
            let address = listener.local_addr().expect("bound");
            let (agentd, far) = UnixStream::pair().expect("a socket pair");
            agentd.set_read_timeout(Some(PATIENCE)).expect("a socket");
            let relay = Relay::new(listener.into(), Channel::new(far.into()));
            Self { address, agentd, running: std::thread::spawn(move || relay.run()) }
        }

        fn connect(&self) -> TcpStream {
            let program = TcpStream::connect(self.address).expect("it listens");
            program.set_read_timeout(Some(PATIENCE)).expect("a socket");
            program
        }

        fn knocked(&mut self) {
            let mut header = [0; FRAME_HEADER_BYTES];
            self.agentd.read_exact(&mut header).expect("a knock");
            let mut body = vec![0; frame_length(header).expect("short")];
            self.agentd.read_exact(&mut body).expect("a knock");
            assert_eq!(decode_frame::<Knock>(&body).expect("a knock"), Knock {});
        }

        fn answer(&self, door: Door, stream: Option<&OwnedFd>) {
            let frame = encode_frame(&door).expect("short");
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let lent: Vec<_> = stream.iter().map(|one| one.as_fd()).collect();
            if !lent.is_empty() {
                assert!(control.push(SendAncillaryMessage::ScmRights(&lent)), "room for one");
            }
            let sent = sendmsg(&self.agentd, &[IoSlice::new(&frame)], &mut control, SendFlags::NOSIGNAL);
            assert_eq!(sent.expect("the relay listens"), frame.len());
        }

        /// Lets the oldest in; gives the proxy's end.
        fn let_in(&mut self) -> UnixStream {
            self.knocked();
            let (proxy, far) = UnixStream::pair().expect("a socket pair");
            proxy.set_read_timeout(Some(PATIENCE)).expect("a socket");
            self.answer(Door::Open, Some(&far.into()));
            proxy
        }

        fn end(self) -> Result<(), RelayError> {
            drop(self.agentd);
            self.running.join().expect("no panic")
        }
    }

    fn rest_of(stream: &mut impl Read) -> Vec<u8> {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("an end");
        bytes
    }

    #[test]
    fn bytes_go_both_ways_and_each_way_ends_by_itself() {
        let mut rig = Rig::start();
        let mut program = rig.connect();
        program.write_all(b"early").expect("accepted");
        let mut proxy = rig.let_in();
        program.shutdown(Shutdown::Write).expect("a socket");
        assert_eq!(rest_of(&mut proxy), b"early", "the end is passed on");
        proxy.write_all(b"answer").expect("the relay listens");
        drop(proxy);
        assert_eq!(rest_of(&mut program), b"answer");
        rig.end().expect("agentd hung up");
    }

    #[test]
    fn much_goes_through_small_buffers_in_order() {
        let mut rig = Rig::start();
        let mut program = rig.connect();
        let mut proxy = rig.let_in();
        let sent: Vec<u8> = (0_u32..200_000).flat_map(u32::to_le_bytes).collect();
        let copy = sent.clone();
        let mut writing = program.try_clone().expect("a socket");
        let writer = std::thread::spawn(move || {
            writing.write_all(&copy).expect("taken");
            writing.shutdown(Shutdown::Write).expect("a socket");
        });
        let mut echoing = proxy.try_clone().expect("a socket");
        let echo = std::thread::spawn(move || {
            let got = rest_of(&mut proxy);
            echoing.write_all(&got).expect("taken");
            echoing.shutdown(Shutdown::Write).expect("a socket");
        });
        assert!(rest_of(&mut program) == sent, "what went up came back");
        writer.join().expect("no panic");
        echo.join().expect("no panic");
        rig.end().expect("agentd hung up");
    }

    #[test]
    fn a_refused_connection_is_closed_and_the_next_is_served() {
        let mut rig = Rig::start();
        let mut refused = rig.connect();
        rig.knocked();
        rig.answer(Door::Shut, None);
        assert_eq!(rest_of(&mut refused), b"");
        let mut program = rig.connect();
        let mut proxy = rig.let_in();
        proxy.write_all(b"hello").expect("the relay listens");
        drop(proxy);
        assert_eq!(rest_of(&mut program), b"hello", "the control");
        rig.end().expect("agentd hung up");
    }

    #[test]
    fn a_locked_door_has_the_kernel_refuse_and_what_is_open_goes_on() {
        let mut rig = Rig::start();
        let (mut program, mut late) = (rig.connect(), [rig.connect(), rig.connect()]);
        let mut proxy = rig.let_in();
        rig.knocked();
        rig.knocked();
        rig.answer(Door::Locked, None);
        assert_eq!(rest_of(&mut late[0]), b"");
        let refused = TcpStream::connect(rig.address).expect_err("nobody listens any more");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        rig.answer(Door::Locked, None);
        assert_eq!(rest_of(&mut late[1]), b"", "it was accepted before");
        proxy.write_all(b"hello").expect("the relay listens");
        drop(proxy);
        assert_eq!(rest_of(&mut program), b"hello", "the control");
        rig.end().expect("agentd hung up");
    }

    #[test]
    fn a_side_that_breaks_off_ends_its_own_connection_only() {
        let mut rig = Rig::start();
        let (first, mut second) = (rig.connect(), rig.connect());
        let mut first_proxy = rig.let_in();
        let mut second_proxy = rig.let_in();
        drop(first);
        assert_eq!(rest_of(&mut first_proxy), b"");
        drop(first_proxy);
        second_proxy.write_all(b"still").expect("the relay listens");
        drop(second_proxy);
        assert_eq!(rest_of(&mut second), b"still");
        rig.end().expect("agentd hung up");
    }

    #[test]
    fn no_more_are_accepted_than_fit_and_a_place_that_is_free_is_used() {
        let mut rig = Rig::start();
        let programs: Vec<TcpStream> = (0..=MAX_RELAYED).map(|_| rig.connect()).collect();
        let mut proxies: Vec<UnixStream> = (0..MAX_RELAYED).map(|_| rig.let_in()).collect();
        // With every place taken nobody knocks: the next frame of the relay comes after a place is free.
        rig.agentd.set_nonblocking(true).expect("a socket");
        let mut one = [0; 1];
        assert!(rig.agentd.read(&mut one).is_err(), "nobody knocks");
        rig.agentd.set_nonblocking(false).expect("a socket");
        let mut proxy = proxies.remove(0);
        programs[0].shutdown(Shutdown::Write).expect("a socket");
        assert_eq!(rest_of(&mut proxy), b"");
        drop(proxy);
        proxies.push(rig.let_in());
        rig.end().expect("agentd hung up");
    }

    #[test]
    fn an_answer_that_is_not_due_ends_the_relay() {
        for (knocks, door, with) in [
            (false, Door::Shut, false),
            (true, Door::Open, false),
            (true, Door::Shut, true),
            (true, Door::Locked, true),
            (false, Door::Locked, false),
        ] {
            let mut rig = Rig::start();
            let mut program = knocks.then(|| rig.connect());
            if knocks {
                rig.knocked();
            }
            let stream = with.then(|| OwnedFd::from(UnixStream::pair().expect("a socket pair").0));
            rig.answer(door, stream.as_ref());
            if let Some(program) = &mut program {
                assert_eq!(rest_of(program), b"", "its connections end with it");
            }
            assert!(matches!(rig.running.join().expect("no panic"), Err(RelayError::OutOfTurn)));
        }
    }
}
