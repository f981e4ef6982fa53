//! A zygote whose workers fill memory when an echo tells them `fill`, and answer every other one: for the tests of the
//! limit of memory.

use aaos_core::limits::WORKER_MEMORY_BYTES;
use aaos_core::toolio::EchoOutput;
use aaos_core::wire::{JobOutput, WorkerJob, WorkerReply, WorkerRequest};

/// Filled at a time.
const STEP_BYTES: usize = 1024 * 1024;

fn main() {
    aaos_confine::zygote::run(|channel| {
        while let Ok((WorkerRequest::Call { call, job }, _)) = channel.receive::<WorkerRequest>() {
            let WorkerJob::Echo(input) = *job else { return 1 };
            if input.message == "fill" {
                let held = filled();
                // Whoever is to end it does so now: nothing more comes.
                return u8::from(channel.receive::<WorkerRequest>().is_ok() && held.is_empty());
            }
            let result = Ok(JobOutput::Echo(EchoOutput { message: input.message }));
            channel.send(&WorkerReply::Done { call, result }).expect("answered");
        }
        0
    })
    .expect("a zygote");
}

/// Half as much again as it may have, and less than the limit of its address space.
fn filled() -> Vec<Vec<u8>> {
    let steps = usize::try_from(WORKER_MEMORY_BYTES).expect("it fits") * 3 / 2 / STEP_BYTES;
    (0..steps).map(|_| std::hint::black_box(vec![1_u8; STEP_BYTES])).collect()
}
