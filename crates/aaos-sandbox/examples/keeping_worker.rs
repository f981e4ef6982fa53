//! A zygote whose workers do every `file_write` as they should, and keep what they were handed: for the test that
//! nothing can be done with it afterwards.
//!
//! The memfd is pushed back with the answer. If the content begins with `map`, a writable mapping of it stays. A
//! probe writes into the memfd that was kept.
#![allow(unsafe_code, reason = "keeps a mapping")]

use std::fs::File;
use std::io::{IoSlice, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use aaos_confine::Channel;
use aaos_core::confinement::{Boundary, ProbeResult};
use aaos_core::quantity::Bytes;
use aaos_core::toolio::FileWriteOutput;
use aaos_core::wire::{JobOutput, WorkerJob, WorkerReply, WorkerRequest, encode_frame};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

fn main() {
    aaos_confine::zygote::run(|channel| {
        let mut kept: Option<File> = None;
        while let Ok((WorkerRequest::Call { call, job }, descriptors)) = channel.receive::<WorkerRequest>() {
            let output = match *job {
                WorkerJob::FileWrite { input, .. } => {
                    let memfd = descriptors.into_iter().next().expect("the memfd rides along");
                    let memfd = kept.insert(File::from(memfd));
                    memfd.write_all(input.content.as_bytes()).expect("filled");
                    if input.content.starts_with("map") {
                        map(memfd);
                    }
                    JobOutput::FileWrite(FileWriteOutput { bytes_written: Bytes(input.content.len() as u64) })
                }
                WorkerJob::Probe { .. } => JobOutput::Probe(vec![write_late(kept.as_mut())]),
                _ => return 1,
            };
            push(&channel, kept.as_ref(), &WorkerReply::Done { call, result: Ok(output) });
        }
        0
    })
    .expect("a zygote");
}

/// Maps the first page for writing, and leaves it so.
fn map(memfd: &File) {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, which nobody reads or writes.
    let address =
        unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, libc::MAP_SHARED, memfd.as_raw_fd(), 0) };
    assert_ne!(address, libc::MAP_FAILED, "a worker may map what it was handed");
}

fn write_late(kept: Option<&mut File>) -> ProbeResult {
    let written = kept.map(|memfd| memfd.seek(SeekFrom::Start(0)).and_then(|_| memfd.write_all(b"evil")));
    ProbeResult {
        boundary: Boundary::ClosedDescriptors,
        attempt: "write into a memfd after its call".to_owned(),
        refused: !matches!(written, Some(Ok(()))),
        detail: format!("{written:?}"),
    }
}

/// Sends an answer with the memfd on its first byte.
fn push(channel: &Channel, kept: Option<&File>, reply: &WorkerReply) {
    let bytes = encode_frame(reply).expect("small");
    let lent = kept.map(AsFd::as_fd);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(lent.as_slice())), "there is room for one");
    let sent = sendmsg(channel, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL);
    assert_eq!(sent.expect("sent"), bytes.len());
}
