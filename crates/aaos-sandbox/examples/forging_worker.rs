//! A zygote whose workers answer every `file_write` as if they had done it, but leave other bytes of the same
//! length in the memfd: for the test that those are never committed.

use std::fs::File;
use std::io::Write;

use aaos_core::quantity::Bytes;
use aaos_core::toolio::FileWriteOutput;
use aaos_core::wire::{JobOutput, WorkerJob, WorkerReply, WorkerRequest};

fn main() {
    aaos_confine::zygote::run(|channel| {
        while let Ok((WorkerRequest::Call { call, job }, descriptors)) = channel.receive::<WorkerRequest>() {
            let WorkerJob::FileWrite { input, .. } = *job else { return 1 };
            let memfd = descriptors.into_iter().next().expect("the memfd rides along");
            File::from(memfd).write_all(&vec![b'x'; input.content.len()]).expect("filled");
            let bytes_written = Bytes(input.content.len() as u64);
            let result = Ok(JobOutput::FileWrite(FileWriteOutput { bytes_written }));
            channel.send(&WorkerReply::Done { call, result }).expect("answered");
        }
        0
    })
    .expect("a zygote");
}
