//! The subject: takes one order from its channel, makes the attempt, says what came of it.
//!
//! Invariant: control, single boundaries and worker run this very code.

use std::os::fd::OwnedFd;

use aaos_confine::Channel;

use crate::cases::find;
use crate::raw::nothing;
use crate::scene::{Order, Place, Told};

/// Exit code of a subject whose order made no sense.
const USAGE: u8 = 64;

pub(crate) fn serve(channel: &Channel) -> u8 {
    let Ok((order, descriptors)) = channel.receive::<Order>() else { return USAGE };
    let Ok([file, directory, memory]) = <[OwnedFd; 3]>::try_from(descriptors) else { return USAGE };
    let place = Place { scene: order.scene, file, directory, memory };
    let answer = find(&order.case).map_or_else(|| nothing("no such case"), |case| (case.attempt)(&place));
    u8::from(channel.send(&Told::from(answer)).is_err())
}
