//! One file out of a zip archive: its bytes go into a pipe, and nothing else of the archive anywhere.

use std::fs::File;

use aaos_core::quantity::Bytes;
use aaos_core::toolio::ToolFailureKind;
use aaos_core::wire::{Handed, Handle, JobOutput};

use crate::archive::{Archive, Unusable};
use crate::session::{Session, Stop, fail};

/// Body of the unpacking of one file.
pub(crate) fn unpack(
    session: &mut Session<'_>,
    archive: Handed,
    member: &str,
    most: Bytes,
    sink: Handle,
) -> Result<JobOutput, Stop> {
    let (archive, _) = session.file(archive)?;
    let mut sink = File::from(session.take(sink)?);
    let unpacked = Archive::open(archive).and_then(|archive| archive.unpack(member, most.0, &mut sink));
    unpacked.map(|bytes| JobOutput::Unpacked(Bytes(bytes))).map_err(|why| {
        let kind = match why {
            Unusable::Broken(_) => ToolFailureKind::WrongKind,
            Unusable::Absent => ToolFailureKind::NotFound,
            Unusable::Crowded | Unusable::TooLarge(_) => ToolFailureKind::TooLarge,
            Unusable::Unread(_) | Unusable::Unwritten(_) => ToolFailureKind::Io,
        };
        fail(kind, format!("{member:?}: {why}"))
    })
}
