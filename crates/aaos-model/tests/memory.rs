//! What a loaded model takes of the machine's memory. Alone in its file, so that nothing else is counted.

#[path = "model/given.rs"]
mod given;

use aaos_model::engine::Engine;
use aaos_model::sampler::Choice;
use given::{patient, request, settings, smollm2};

/// The most memory that this process had, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1_024
}

#[test]
fn a_model_takes_at_most_what_agentd_grants_it() {
    let (file, length) = smollm2();
    let mut engine = Engine::load(&file, settings(length, 1_024, Choice::Greedy)).expect("a whole model");
    let loaded = peak();
    let words = "one two three ".repeat(200);
    engine.answer(&request("", &words, vec![], 8), &patient(), &mut |_| ()).expect("a reply");
    let most = peak();
    println!(
        "file {length} bytes, peak {loaded} after loading, {most} after a long prompt, {}% of the file",
        most * 100 / length
    );
    let granted = 2 * length + 128 * 1024 * 1024;
    assert!(most <= granted, "{most} bytes are over {granted}");
}
