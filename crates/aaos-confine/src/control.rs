//! Frames between agentd and the zygote: four little-endian words each, one packet a frame.
//!
//! Invariants: fixed size, so that the zygote parses nothing but numbers; descriptors ride only towards the
//! zygote. What a packet cannot be decoded to is a protocol break, which ends the zygote.

use aaos_core::limits::MAX_MODEL_THREADS;

use crate::gateway::GatewayRole;
use crate::namespaces::{Abilities, NamespaceSet};
use crate::privilege::FarUids;

/// Bytes of every frame.
pub const CONTROL_BYTES: usize = 16;
/// Descriptors that a launch carries: channel, capturing pipe, for what is executed its program, and the directory of the
/// control group that the process is born into.
pub const MAX_CONTROL_DESCRIPTORS: usize = 4;

/// One frame as it crosses.
pub type Packet = [u8; CONTROL_BYTES];

/// Number of one launched process, chosen by agentd and never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(pub u32);

/// From agentd to the zygote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Make a worker. Descriptors: channel, capturing pipe.
    Worker(Serial),
    /// Make a gateway role. Descriptors: channel, capturing pipe, program.
    Gateway(Serial, GatewayRole),
    /// Make a program sandbox. Descriptors: channel, capturing pipe.
    Program(Serial),
    /// Make the process of a local model, with so many threads that compute. Descriptors: channel, capturing pipe,
    /// program.
    Model(Serial, u32),
    /// Kill what was launched under this number, if it still runs.
    Kill(Serial),
}

/// From the zygote to agentd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// First frame: what this machine gives.
    Ready(Abilities),
    /// A process was made; its pid in the zygote's PID namespace.
    Launched(Serial, u32),
    /// It could not be made: the kernel's error number.
    Failed(Serial, i32),
    /// A process has ended and was reaped: its raw wait status.
    Ended(Serial, i32),
}

impl Order {
    /// The frame.
    #[must_use]
    pub fn encode(self) -> Packet {
        match self {
            Self::Worker(serial) => packet([1, serial.0, 0, 0]),
            Self::Gateway(serial, role) => packet([2, serial.0, role.number(), 0]),
            Self::Kill(serial) => packet([3, serial.0, 0, 0]),
            Self::Program(serial) => packet([4, serial.0, 0, 0]),
            Self::Model(serial, threads) => packet([5, serial.0, threads, 0]),
        }
    }

    /// What a frame says; `None` is a break of the protocol.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match words(bytes)? {
            [1, serial, 0, 0] => Some(Self::Worker(Serial(serial))),
            [2, serial, role, 0] => Some(Self::Gateway(Serial(serial), GatewayRole::from_number(role)?)),
            [3, serial, 0, 0] => Some(Self::Kill(Serial(serial))),
            [4, serial, 0, 0] => Some(Self::Program(Serial(serial))),
            [5, serial, threads @ 1..=MAX_MODEL_THREADS, 0] => Some(Self::Model(Serial(serial), threads)),
            _ => None,
        }
    }

    /// Descriptors that ride on it. Whatever makes a process may carry one more at the end: its control group.
    #[must_use]
    pub const fn descriptors(self) -> usize {
        match self {
            Self::Worker(_) | Self::Program(_) => 2,
            Self::Gateway(..) | Self::Model(..) => 3,
            Self::Kill(_) => 0,
        }
    }
}

impl Order {
    /// Whether so many descriptors may ride on it.
    #[must_use]
    pub const fn takes(self, descriptors: usize) -> bool {
        let may_have_group = !matches!(self, Self::Kill(_));
        descriptors == self.descriptors() || may_have_group && descriptors == self.descriptors() + 1
    }
}

impl News {
    /// The frame.
    #[must_use]
    pub fn encode(self) -> Packet {
        match self {
            Self::Ready(abilities) => {
                packet([1, abilities.namespaces.bits(), number_of(abilities.own_uids), 0])
            }
            Self::Launched(serial, pid) => packet([2, serial.0, pid, 0]),
            Self::Failed(serial, errno) => packet([3, serial.0, errno.cast_unsigned(), 0]),
            Self::Ended(serial, status) => packet([4, serial.0, status.cast_unsigned(), 0]),
        }
    }

    /// What a frame says; `None` is a break of the protocol.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match words(bytes)? {
            [1, bits, uids, 0] => {
                let namespaces = NamespaceSet::from_bits(bits);
                Some(Self::Ready(Abilities { namespaces, own_uids: uids_of(uids)? }))
            }
            [2, serial, pid, 0] => Some(Self::Launched(Serial(serial), pid)),
            [3, serial, errno, 0] => Some(Self::Failed(Serial(serial), errno.cast_signed())),
            [4, serial, status, 0] => Some(Self::Ended(Serial(serial), status.cast_signed())),
            _ => None,
        }
    }
}

const fn number_of(uids: Option<FarUids>) -> u32 {
    match uids {
        None => 0,
        Some(FarUids::Wide) => 1,
        Some(FarUids::Narrow) => 2,
    }
}

fn uids_of(number: u32) -> Option<Option<FarUids>> {
    [None, Some(FarUids::Wide), Some(FarUids::Narrow)].into_iter().find(|uids| number_of(*uids) == number)
}

fn packet(words: [u32; 4]) -> Packet {
    let mut bytes = [0; CONTROL_BYTES];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn words(bytes: &[u8]) -> Option<[u32; 4]> {
    let bytes: &Packet = bytes.try_into().ok()?;
    let mut words = [0; 4];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_le_bytes(chunk.try_into().ok()?);
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use aaos_core::limits::MAX_MODEL_THREADS;

    use super::{MAX_CONTROL_DESCRIPTORS, News, Order, Serial};
    use crate::gateway::GatewayRole;
    use crate::namespaces::{Abilities, NamespaceSet};
    use crate::privilege::FarUids;

    #[test]
    fn every_frame_survives() {
        let serial = Serial(u32::MAX);
        for order in [
            Order::Worker(serial),
            Order::Gateway(serial, GatewayRole::Egress),
            Order::Kill(serial),
            Order::Program(serial),
            Order::Model(serial, 1),
            Order::Model(serial, MAX_MODEL_THREADS),
        ] {
            assert_eq!(Order::decode(&order.encode()), Some(order));
        }
        let abilities =
            Abilities { namespaces: NamespaceSet::from_bits(u32::MAX), own_uids: Some(FarUids::Narrow) };
        for news in [
            News::Ready(abilities),
            News::Launched(serial, 7),
            News::Failed(serial, libc::EPERM),
            News::Ended(serial, -1),
        ] {
            assert_eq!(News::decode(&news.encode()), Some(news));
        }
    }

    #[test]
    fn only_what_makes_a_process_may_carry_a_control_group_too() {
        let serial = Serial(1);
        assert!(Order::Worker(serial).takes(2) && Order::Worker(serial).takes(3));
        assert!(!Order::Worker(serial).takes(1) && !Order::Worker(serial).takes(4));
        assert!(Order::Gateway(serial, GatewayRole::Egress).takes(MAX_CONTROL_DESCRIPTORS));
        assert!(Order::Kill(serial).takes(0) && !Order::Kill(serial).takes(1));
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        assert_eq!(Order::decode(&[]), None);
        assert_eq!(Order::decode(&[1; 16]), None);
        assert_eq!(Order::decode(&[0; 17]), None);
        for threads in [0, MAX_MODEL_THREADS + 1] {
            assert_eq!(Order::decode(&Order::Model(Serial(1), threads).encode()), None);
        }
        assert_eq!(News::decode(&[9; 16]), None);
    }
}
