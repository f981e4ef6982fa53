//! The process of a local model lives as long as somebody asks it, and ten minutes longer.

use std::time::Duration;

use aaos_core::confinement::ConfinementReceipt;
use aaos_core::event::Event;
use testkit::ProcessRef;

use crate::support::Lab;

const MILLI: Duration = Duration::from_millis(1);
const IDLE: Duration = Duration::from_secs(600);
const ROUND: Duration = Duration::from_secs(10);
const TALKER: &str = "name: talker\nmodel: small\nsystem_prompt: You repeat.\nlifecycle: persistent\n";

/// The processes that ran models, in order.
fn models(lab: &Lab) -> Vec<ConfinementReceipt> {
    let of_model = |event: Event| match event {
        Event::ConfinementReceipt { receipt, role } if role == "model" => Some(receipt),
        _ => None,
    };
    lab.entries("confinement_receipt").into_iter().filter_map(|entry| of_model(entry.event)).collect()
}

/// Blocks until the end of this process is in the journal.
fn until_stopped(lab: &Lab, of: &ConfinementReceipt) {
    let mut seen = 0;
    loop {
        let stopped = lab.wait_for_entries("worker_stopped", seen + 1);
        seen = stopped.len();
        let is_it =
            |event: &Event| matches!(event, Event::WorkerStopped { worker, .. } if *worker == of.worker);
        if stopped.iter().any(|entry| is_it(&entry.event)) {
            return;
        }
    }
}

#[test]
fn a_local_model_ends_ten_minutes_after_its_last_call_and_the_next_call_starts_another() {
    let lab = Lab::with_local();
    let talker = lab.spawn(TALKER);
    assert!(models(&lab).is_empty(), "nobody has asked");
    let said = |message: &str| {
        let report = lab.result(lab.deliver(talker, message));
        let answer = report.result.unwrap_or_else(|| panic!("no answer: {:?}", report.error));
        assert!(answer.response.contains(message), "{}", answer.response);
    };
    said("one");
    let [first] = models(&lab).try_into().expect("started once");
    let process = ProcessRef::find(i32::try_from(first.pid).expect("a pid")).expect("it runs");
    lab.pass_idly(IDLE - MILLI);
    said("two");
    lab.pass_idly(IDLE - MILLI);
    assert!(process.is_alive(), "a millisecond is left since the second call");
    assert_eq!(models(&lab).len(), 1, "both calls had it");
    lab.advance(ROUND);
    until_stopped(&lab, &first);
    process.wait_gone();
    said("three");
    assert_eq!(models(&lab).len(), 2);
}
