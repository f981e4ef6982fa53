//! agentd's end of a program's doorbell: what connects in the sandbox is announced here and given a stream.
//!
//! Invariants: the sandbox sends knocks and nothing else, and no descriptor; each is answered once, in order. The
//! stream goes to the relay of the sandbox, and its other end to whoever serves the connection.

use std::os::fd::{AsFd, OwnedFd};

use aaos_core::wire::{Door, Knock};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::channel::FarChannel;
use crate::error::SandboxError;

/// The end on which knocks arrive.
#[derive(Debug)]
pub struct Doorbell {
    channel: FarChannel,
}

impl Doorbell {
    /// Both ends; the other one goes into the sandbox.
    pub(crate) fn pair() -> Result<(Self, OwnedFd), SandboxError> {
        let (near, far) = stream_pair()?;
        Ok((Self { channel: FarChannel::new(near)? }, far))
    }

    /// Resolves when somebody has knocked, or the sandbox has hung up. May be given up and asked again.
    ///
    /// # Errors
    /// When the channel failed.
    pub async fn rung(&self) -> Result<(), SandboxError> {
        self.channel.readable().await
    }

    /// Answers the oldest knock, and gives the gateway's end of its stream; `None` where the daemon has no descriptors
    /// left, and the connection was refused. Not to be given up half-way.
    ///
    /// # Errors
    /// When the sandbox has hung up, or says something else than a knock.
    pub async fn answer(&mut self) -> Result<Option<OwnedFd>, SandboxError> {
        match stream_pair() {
            Ok((near, far)) => {
                let Knock {} = self.channel.receive().await?;
                self.channel.send(&Door::Open, &[far.as_fd()]).await?;
                Ok(Some(near))
            }
            Err(error) => {
                tracing::warn!(%error, "a program's connection was refused");
                self.close(Door::Shut).await.map(|()| None)
            }
        }
    }

    /// Answers while any of so many answers are left; then locks the door.
    ///
    /// # Errors
    /// As for [`Doorbell::answer`].
    pub async fn answer_within(&mut self, left: &mut usize) -> Result<Option<OwnedFd>, SandboxError> {
        match left.checked_sub(1) {
            Some(fewer) => {
                *left = fewer;
                self.answer().await
            }
            None => self.lock().await.map(|()| None),
        }
    }

    /// Answers the oldest knock with a refusal, for good: its connection is closed, and the sandbox accepts no further
    /// ones. Those that it had accepted by then are to be answered yet. Not to be given up half-way.
    ///
    /// # Errors
    /// As for [`Doorbell::answer`].
    pub async fn lock(&mut self) -> Result<(), SandboxError> {
        self.close(Door::Locked).await
    }

    async fn close(&mut self, door: Door) -> Result<(), SandboxError> {
        let Knock {} = self.channel.receive().await?;
        self.channel.send(&door, &[]).await
    }
}

fn stream_pair() -> Result<(OwnedFd, OwnedFd), SandboxError> {
    socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|errno| SandboxError::Socket(errno.into()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use aaos_confine::Channel;
    use aaos_core::wire::{Door, Knock};

    use super::Doorbell;
    use crate::error::SandboxError;

    #[tokio::test]
    async fn each_knock_is_answered_with_a_stream_of_its_own() {
        let (mut doorbell, far) = Doorbell::pair().expect("a pair");
        let relay = Channel::new(far);
        for word in [b"one", b"two"] {
            relay.send(&Knock {}).expect("sent");
            doorbell.rung().await.expect("somebody knocks");
            let near = doorbell.answer().await.expect("answered").expect("a stream");
            let (door, mut descriptors) = relay.receive::<Door>().expect("an answer");
            assert_eq!((door, descriptors.len()), (Door::Open, 1));
            let mut program = UnixStream::from(descriptors.remove(0));
            program.write_all(word).expect("written");
            drop(program);
            let mut said = Vec::new();
            UnixStream::from(near).read_to_end(&mut said).expect("an end");
            assert_eq!(said, word);
        }
        relay.send(&Knock {}).expect("sent");
        doorbell.lock().await.expect("answered");
        let (door, descriptors) = relay.receive::<Door>().expect("an answer");
        assert_eq!((door, descriptors.len()), (Door::Locked, 0));
        drop(relay);
        doorbell.rung().await.expect("its end is told");
        assert!(matches!(doorbell.answer().await, Err(SandboxError::Closed)));
    }

    #[tokio::test]
    async fn who_says_something_else_is_not_served() {
        let (mut doorbell, far) = Doorbell::pair().expect("a pair");
        let relay = Channel::new(far);
        relay.send(&"open").expect("sent");
        doorbell.rung().await.expect("something comes");
        assert!(doorbell.answer().await.is_err());
        assert!(doorbell.answer().await.is_err(), "and no more after that");
    }
}
