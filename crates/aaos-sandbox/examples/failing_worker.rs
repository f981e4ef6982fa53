//! A zygote whose workers do what an echo tells them: for the tests of workers that fail in the middle of a call.
//!
//! `spin` never ends, `hoard` asks for memory until there is none, `abort` aborts, `wait` waits for more; every
//! other message is answered.

use aaos_core::toolio::EchoOutput;
use aaos_core::wire::{JobOutput, WorkerJob, WorkerReply, WorkerRequest};

/// How much is asked for at a time. It is never touched, so that only the limit of the address space is met.
const HOARDED_BYTES: usize = 32 * 1024 * 1024;

fn main() {
    aaos_confine::zygote::run(|channel| {
        while let Ok((WorkerRequest::Call { call, job }, _)) = channel.receive::<WorkerRequest>() {
            let WorkerJob::Echo(input) = *job else { return 1 };
            match input.message.as_str() {
                "spin" => loop {
                    std::hint::spin_loop();
                },
                "hoard" => {
                    let mut hoard: Vec<Vec<u8>> = Vec::new();
                    loop {
                        hoard.push(std::hint::black_box(Vec::with_capacity(HOARDED_BYTES)));
                    }
                }
                "abort" => std::process::abort(),
                "wait" => drop(channel.receive::<WorkerRequest>()),
                _ => {
                    let result = Ok(JobOutput::Echo(EchoOutput { message: input.message }));
                    channel.send(&WorkerReply::Done { call, result }).expect("answered");
                }
            }
        }
        0
    })
    .expect("a zygote");
}
