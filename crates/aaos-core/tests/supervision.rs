//! Supervision: which ends are followed by a restart, how soon, and when it is enough.

use aaos_core::limits::{MAX_RESTARTS, RESTART_BACKOFF_CAP_MS, RESTART_BACKOFF_FIRST_MS, SPENDING_NOTES};
use aaos_core::quantity::{MicroUsd, Millis, Timestamp};
use aaos_core::supervision::{
    Ended, GiveUp, Next, RestartPolicy, Restarts, Spending, Supervision, back_off, decide,
};
use proptest::prelude::*;

const NOW: Timestamp = Timestamp(1_000_000);
const ENDS: [Ended; 3] = [Ended::Normally, Ended::Failed, Ended::Stopped];

fn policy(restart: RestartPolicy) -> Supervision {
    Supervision { restart, ..Supervision::default() }
}

fn after(supervision: &Supervision, restarts: &Restarts, now: Timestamp) -> Next {
    decide(supervision, restarts, Ended::Failed, now, MicroUsd::ZERO, 0)
}

#[test]
fn the_policy_says_after_which_ends_there_is_a_restart() {
    for (restart, wanted) in [
        (RestartPolicy::Never, [Some(GiveUp::Never), Some(GiveUp::Never), Some(GiveUp::Stopped)]),
        (RestartPolicy::OnFailure, [Some(GiveUp::Done), None, Some(GiveUp::Stopped)]),
        (RestartPolicy::Always, [None, None, Some(GiveUp::Stopped)]),
    ] {
        for (ended, why) in ENDS.into_iter().zip(wanted) {
            let next = decide(&policy(restart), &Restarts::default(), ended, NOW, MicroUsd::ZERO, 0);
            let first = Next::Restart { after: Millis(RESTART_BACKOFF_FIRST_MS) };
            assert_eq!(next, why.map_or(first, |why| Next::GiveUp { why }), "{restart:?} {ended:?}");
            assert!(why.is_none_or(|why| !why.is_exhausted()), "{why:?}");
        }
    }
}

#[test]
fn restarts_are_counted_in_a_window_that_moves() {
    let supervision = Supervision::default();
    let mut restarts = Restarts::default();
    for (nth, seconds) in [0, 10, 20].into_iter().enumerate() {
        let now = NOW.after(Millis(seconds * 1_000));
        let wait = Millis(RESTART_BACKOFF_FIRST_MS << nth);
        assert_eq!(after(&supervision, &restarts, now), Next::Restart { after: wait }, "restart {nth}");
        restarts.note(&supervision, now);
    }
    let why = GiveUp::TooOften { restarts: 3, within: Millis(60_000) };
    assert_eq!(why.to_string(), "it was restarted 3 times within 60 s");
    assert!(why.is_exhausted());
    assert_eq!(after(&supervision, &restarts, NOW.after(Millis(59_999))), Next::GiveUp { why });
    // The first one leaves the window, and with it one step of the back-off.
    let later = NOW.after(Millis(60_000));
    let wait = Next::Restart { after: Millis(RESTART_BACKOFF_FIRST_MS << 2) };
    assert_eq!(after(&supervision, &restarts, later), wait);
    assert_eq!(restarts.within(&supervision, later), 2);
    assert_eq!(restarts.within(&supervision, Timestamp(3)), 3, "a clock that was set back forgives nothing");
}

#[test]
fn money_is_enough_at_its_bound() {
    let bounded = Supervision { max_usd: Some(MicroUsd(500_000)), ..policy(RestartPolicy::Always) };
    let spent = |spent| decide(&bounded, &Restarts::default(), Ended::Normally, NOW, MicroUsd(spent), 0);
    assert!(matches!(spent(499_999), Next::Restart { .. }));
    for much in [500_000, u64::MAX] {
        let Next::GiveUp { why } = spent(much) else { panic!("{much} is too much") };
        let wanted =
            GiveUp::TooDear { spent: MicroUsd(much), most: MicroUsd(500_000), within: Millis(60_000) };
        assert_eq!(why, wanted);
        assert!(why.is_exhausted() && why.to_string().ends_with(" of 0.50 USD within 60 s"), "{why}");
    }
    let unbounded = decide(
        &policy(RestartPolicy::Always),
        &Restarts::default(),
        Ended::Normally,
        NOW,
        MicroUsd(u64::MAX),
        0,
    );
    assert!(matches!(unbounded, Next::Restart { .. }), "the control: without a bound money is no reason");
}

#[test]
fn a_history_survives_the_journal_and_stays_small() {
    let supervision = Supervision { max_restarts: MAX_RESTARTS, ..Supervision::default() };
    let mut restarts = Restarts::default();
    for _ in 0..3 * MAX_RESTARTS {
        restarts.note(&supervision, NOW);
    }
    assert_eq!(restarts.within(&supervision, NOW), MAX_RESTARTS);
    let json = serde_json::to_string(&restarts).expect("plain");
    assert_eq!(serde_json::from_str::<Restarts>(&json).expect("round trip"), restarts);
    restarts.note(&supervision, NOW.after(Millis(60_000)));
    assert_eq!(
        serde_json::to_string(&restarts).expect("plain"),
        "[1060000]",
        "what no longer counts is forgotten"
    );
}

#[test]
fn spending_counts_as_long_as_the_window_and_stays_bounded() {
    let unlimited = Supervision::default();
    let limited = Supervision { max_usd: Some(MicroUsd(1)), ..unlimited };
    let mut spending = Spending::default();
    spending.note(&unlimited, MicroUsd(7), NOW);
    assert_eq!(spending.within(&limited, NOW), MicroUsd::ZERO, "nobody asks for it");
    spending.note(&limited, MicroUsd(7), NOW);
    spending.note(&limited, MicroUsd(5), NOW.after(Millis(1_000)));
    assert_eq!(spending.within(&limited, NOW.after(Millis(59_999))), MicroUsd(12));
    assert_eq!(spending.within(&limited, NOW.after(Millis(60_000))), MicroUsd(5));
    assert_eq!(
        spending.within(&limited, Timestamp(3)),
        MicroUsd(12),
        "a clock that was set back forgives nothing"
    );
    let later = NOW.after(Millis(120_000));
    for nth in 0..10_000_u64 {
        spending.note(&limited, MicroUsd(1), later.after(Millis(nth)));
    }
    let sums = serde_json::to_value(&spending).expect("plain");
    assert_eq!(sums.as_array().map(Vec::len), Some(SPENDING_NOTES));
    assert_eq!(spending.within(&limited, later.after(Millis(10_000))), MicroUsd(10_000), "no sum is lost");
}

#[test]
fn a_child_is_supervised_no_more_loosely_than_its_parent() {
    let tight = Supervision {
        restart: RestartPolicy::Never,
        max_restarts: 2,
        within: Millis(90_000),
        max_usd: Some(MicroUsd(5)),
    };
    let loose = Supervision {
        restart: RestartPolicy::Always,
        max_restarts: 9,
        within: Millis(30_000),
        max_usd: Some(MicroUsd(7)),
    };
    assert_eq!(loose.no_looser_than(&tight), Supervision { restart: RestartPolicy::Always, ..tight });
    assert_eq!(tight.no_looser_than(&loose), tight);
    let free = Supervision { max_usd: None, ..loose };
    assert_eq!(free.no_looser_than(&loose), loose);
    assert_eq!(loose.no_looser_than(&free), loose);
    assert_eq!(free.no_looser_than(&free), free);
}

fn supervisions() -> impl Strategy<Value = Supervision> {
    let restart =
        prop_oneof![Just(RestartPolicy::Never), Just(RestartPolicy::OnFailure), Just(RestartPolicy::Always)];
    let money = proptest::option::of((1_u64..100).prop_map(MicroUsd));
    (restart, 1_u32..8, 1_u64..30, money).prop_map(|(restart, max_restarts, seconds, max_usd)| Supervision {
        restart,
        max_restarts,
        within: Millis(seconds * 1_000),
        max_usd,
    })
}

proptest! {
    #[test]
    fn no_window_holds_more_restarts_than_allowed(
        supervision in supervisions(),
        ends in proptest::collection::vec((0_usize..3, 0_u64..4_000, 0_u64..120, any::<u64>()), 1..80),
    ) {
        let mut restarts = Restarts::default();
        let mut made: Vec<Timestamp> = Vec::new();
        let mut now = NOW;
        for (ended, lived, spent, random) in ends {
            let (ended, spent) = (ENDS[ended], MicroUsd(spent));
            now = now.after(Millis(lived));
            match decide(&supervision, &restarts, ended, now, spent, random) {
                Next::Restart { after } => {
                    prop_assert!(ended != Ended::Stopped && supervision.restart != RestartPolicy::Never);
                    prop_assert!(ended == Ended::Failed || supervision.restart == RestartPolicy::Always);
                    prop_assert!(supervision.max_usd.is_none_or(|most| spent < most));
                    now = now.after(after);
                    restarts.note(&supervision, now);
                    made.push(now);
                }
                Next::GiveUp { why: GiveUp::TooOften { restarts: count, .. } } => {
                    prop_assert_eq!(count, supervision.max_restarts);
                }
                Next::GiveUp { .. } => {}
            }
        }
        for (index, end) in made.iter().enumerate() {
            let inside = made[..=index].iter().filter(|at| end.since(**at) < supervision.within).count();
            prop_assert!(inside <= supervision.max_restarts as usize, "{inside} restarts in the window before {end}");
        }
    }

    #[test]
    fn the_back_off_grows_and_is_bounded(earlier in any::<u32>(), random in any::<u64>()) {
        let whole = back_off(earlier, 0);
        prop_assert!(whole <= Millis(RESTART_BACKOFF_CAP_MS) && whole >= Millis(RESTART_BACKOFF_FIRST_MS));
        prop_assert!(whole <= back_off(earlier.saturating_add(1), 0));
        let jittered = back_off(earlier, random);
        prop_assert!(jittered <= whole && jittered.0 >= whole.0 / 2);
    }
}

#[test]
fn the_back_off_doubles_up_to_its_cap_and_the_jitter_uses_its_whole_range() {
    let whole: Vec<u64> = (0..9).map(|earlier| back_off(earlier, 0).0).collect();
    assert_eq!(whole, [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
    assert_eq!(back_off(63, 0), back_off(64, 0), "no shift is too far");
    let least = (0..1_000).map(|random| back_off(1, random).0).min();
    assert_eq!(least, Some(250), "down to one half");
}
