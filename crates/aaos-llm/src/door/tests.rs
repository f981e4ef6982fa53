//! The door under every interleaving that shuttle finds, held and rung as the gate does it: whoever changes something
//! opens it again, and whoever is admitted is told by a channel. A thread that is never told is a deadlock, which
//! shuttle reports.

use std::time::Duration;

use aaos_core::model::{Pace, Rates};
use shuttle::sync::mpsc::{Receiver, Sender, channel};
use shuttle::sync::{Arc, Mutex};
use shuttle::thread;
use tokio::time::Instant;

use super::{Door, Pass, Refusals};
use crate::queue::{Class, Come, Party, Place, Turn};

struct Shared {
    door: Mutex<Door<Sender<Pass>>>,
    now: Instant,
}

impl Shared {
    fn open(&self) {
        let admitted = self.door.lock().expect("nobody dies with it").open(self.now);
        for (waker, pass) in admitted {
            if let Err(unheard) = waker.send(pass) {
                self.end(&unheard.0);
            }
        }
    }

    fn join(&self, party: u32) -> (Place, Receiver<Pass>) {
        let (waker, admitted) = channel();
        let place =
            self.door.lock().expect("nobody dies with it").queue.join(turn(party), 1, Come::Anew, waker);
        self.open();
        (place.expect("room"), admitted)
    }

    fn end(&self, pass: &Pass) {
        self.door.lock().expect("nobody dies with it").end(self.now, pass);
        self.open();
    }
}

fn turn(party: u32) -> Turn {
    Turn { party: Party::Principal(party), class: Class::Background }
}

/// Three that want one slot, each twice, and one that gives up wherever it stands.
fn scenario(leave_well: bool) {
    let door = Mutex::new(Door::new(1, 8, Duration::ZERO, Rates::default()));
    let shared = Arc::new(Shared { door, now: Instant::now() });
    let mut threads = Vec::new();
    for party in 0..2 {
        let shared = Arc::clone(&shared);
        threads.push(thread::spawn(move || {
            for _ in 0..2 {
                let (_, admitted) = shared.join(party);
                let mut pass = admitted.recv().expect("who waits is told");
                let now = shared.now;
                shared.door.lock().expect("nobody dies with it").taken(now, &mut pass, Pace::default());
                shared.end(&pass);
            }
        }));
    }
    let leaving = Arc::clone(&shared);
    threads.push(thread::spawn(move || {
        let (place, admitted) = leaving.join(2);
        thread::yield_now();
        let has_left = leaving.door.lock().expect("nobody dies with it").queue.leave(turn(2).party, place);
        if has_left {
            leaving.open();
        } else if leave_well {
            // It was admitted meanwhile: what it holds goes to the next.
            leaving.end(&admitted.recv().expect("it was admitted"));
        }
    }));
    for thread in threads {
        thread.join().expect("no thread fails");
    }
    let mut door = shared.door.lock().expect("nobody dies with it");
    assert!(door.open(shared.now).is_empty() && door.look_at().is_none(), "nobody is left behind");
}

#[test]
fn shuttle_finds_nobody_who_is_forgotten() {
    shuttle::check_random(|| scenario(true), 3_000);
    shuttle::check_pct(|| scenario(true), 1_000, 3);
}

#[test]
#[should_panic(expected = "deadlock")]
fn shuttle_finds_a_slot_that_is_not_given_back() {
    shuttle::check_random(|| scenario(false), 3_000);
}

#[test]
fn after_a_wait_one_goes_first_and_the_others_when_it_is_taken() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut door = Door::new(2, 8, Duration::ZERO, Rates::default());
    for name in ["a", "b", "c", "d"] {
        door.queue.join(turn(0), 1, Come::Anew, name).expect("room");
    }
    let mut first = door.open(start);
    assert_eq!(first.len(), 2, "as many as there are slots");
    let (_, mut other) = first.pop().expect("two");
    let (_, mut away) = first.pop().expect("two");
    assert_eq!(door.turned_away(&mut away, at(5), Refusals::NONE).1, at(5));
    assert_eq!(door.turned_away(&mut other, at(3), Refusals::NONE).1, at(5), "the longer wish stands");
    door.end(start, &away);
    door.end(start, &other);
    assert!(door.open(at(4)).is_empty());
    assert_eq!((door.look_at(), door.closed_until()), (Some(at(5)), Some(at(5))));

    let mut probe = door.open(at(5));
    assert_eq!(probe.len(), 1, "one alone");
    assert_eq!((door.look_at(), door.closed_until()), (Some(at(15)), None), "the next one, should it hang");
    let (_, mut probe) = probe.pop().expect("one");
    door.taken(at(6), &mut probe, Pace::default());
    assert_eq!(door.open(at(6)).len(), 1, "the other slot");
    door.end(at(6), &probe);
    assert!(door.open(at(6)).is_empty() && door.look_at().is_none(), "nobody waits any more");
}

#[test]
fn a_first_one_that_hangs_or_gives_up_does_not_shut_the_others_out() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    for gives_up in [false, true] {
        let mut door = Door::new(2, 8, Duration::ZERO, Rates::default());
        for _ in 0..3 {
            door.queue.join(turn(0), 1, Come::Anew, ()).expect("room");
        }
        let (_, mut away) = door.open(start).remove(0);
        door.turned_away(&mut away, at(1), Refusals::NONE);
        door.end(start, &away);
        // The second of the two runs on, from before the wish: it proves nothing.
        let (_, probe) = door.open(at(1)).remove(0);
        if gives_up {
            door.end(at(2), &probe);
            assert!(door.open(at(2)).is_empty(), "all went");
            continue;
        }
        door.queue.join(turn(0), 1, Come::Anew, ()).expect("room");
        assert!(door.open(at(2)).is_empty());
    }
}

/// What is admitted, in order, where everything of `poison` is turned away and the rest is taken. Whoever is turned away
/// comes back as `again` says.
fn admitted_beside(
    poison: &'static str,
    again: impl Fn(&mut Door<&'static str>, Pass, Refusals, Instant) -> Refusals,
) -> Vec<&'static str> {
    let start = Instant::now();
    let mut door = Door::new(1, 8, Duration::ZERO, Rates::default());
    for (party, name) in [(0, "poison"), (0, "of its own"), (1, "of another")] {
        door.queue.join(turn(party), 1, Come::Anew, name).expect("room");
    }
    let (mut order, mut refusals, mut now) = (Vec::new(), Refusals::NONE, start);
    for _ in 0..8 {
        let Some((name, mut pass)) = door.open(now).pop() else { break };
        order.push(name);
        if name == poison {
            now += Duration::from_secs(1);
            refusals = again(&mut door, pass, refusals, now);
        } else {
            door.taken(now, &mut pass, Pace::default());
            door.end(now, &pass);
        }
    }
    order
}

#[test]
fn one_that_is_always_turned_away_keeps_nobody_out() {
    let order = admitted_beside("poison", |door, mut pass, earlier, until| {
        let (refusals, _) = door.turned_away(&mut pass, until, earlier);
        door.end(until, &pass);
        door.queue.join(pass.turn, 1, refusals.come, "poison").expect("room");
        refusals
    });
    assert_eq!(order[..4], ["poison", "poison", "of another", "of its own"], "{order:?}");
    assert!(order[4..].iter().all(|name| *name == "poison") && order.len() == 8, "and it goes on: {order:?}");

    let order = admitted_beside("poison", |door, mut pass, _, until| {
        door.turned_away(&mut pass, until, Refusals::NONE);
        door.end(until, &pass);
        door.queue.join(pass.turn, 1, Come::Back(pass.place), "poison").expect("room");
        Refusals::NONE
    });
    assert_eq!(order, ["poison"; 8], "the control: with place and turn kept, nobody else is ever asked");
}

#[test]
fn refusals_count_only_while_another_is_taken() {
    let mut now = Instant::now();
    let mut door = Door::new(1, 8, Duration::ZERO, Rates::default());
    let pass_of = |door: &mut Door<&'static str>, come, now| {
        door.queue.join(turn(0), 1, come, "call").expect("room");
        door.open(now).pop().expect("it is admitted").1
    };
    let (mut refusals, mut counts) = (Refusals::NONE, Vec::new());
    for others in ["none", "none", "taken", "failed", "taken", "none"] {
        if others != "none" {
            let mut other = pass_of(&mut door, Come::Anew, now);
            match others {
                "taken" => door.taken(now, &mut other, Pace::default()),
                _ => door.heard(&mut other),
            }
            door.end(now, &other);
        }
        let mut pass = pass_of(&mut door, refusals.come, now);
        now += Duration::from_secs(1);
        (refusals, _) = door.turned_away(&mut pass, now, refusals);
        door.end(now, &pass);
        counts.push(refusals.among_taken);
    }
    assert_eq!(counts, [0, 0, 1, 1, 2, 2]);
}
