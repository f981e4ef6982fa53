//! Who is asked when: patience, turns, and what a provider says of its limits.

use std::future::pending;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aaos_core::effect::InferenceOutcome;
use aaos_core::id::GoalId;
use aaos_core::limits::{MAX_AGENTS, MAX_REFUSALS_AMONG_TAKEN};
use aaos_core::model::{ModelFailureKind, ModelReply, Pace, ProviderState, Rates, Room, Usage};
use aaos_core::quantity::{Millis, Tokens};
use aaos_core::wire::{ModelsReply, ModelsRequest, RequestSerial};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::{
    CONFIG, MemoryFake, connect, counts, failure_kind, in_an_hour, linked, provider, reply, request, start,
};
use crate::{Class, Models, ModelsConfig, Party, Progress, Turn};

/// What a fake gateway hears for a while in which nothing comes.
async fn silence(fake: &mut MemoryFake, time: Duration) {
    let heard = timeout(time, fake.hear()).await;
    assert!(heard.is_err(), "nobody may ask now: {heard:?}");
}

async fn begun(fake: &mut MemoryFake, serial: RequestSerial, pace: Pace) {
    fake.say(&ModelsReply::Begun { serial, pace }).await;
}

/// An inference of a goal, and what it shows.
fn start_for(models: &Models, goal: u128) -> (JoinHandle<InferenceOutcome>, Arc<Mutex<Vec<Progress>>>) {
    start_as(models, goal, &goal.to_string())
}

/// The same with a system prompt of its own.
fn start_as(
    models: &Models,
    goal: u128,
    system: &str,
) -> (JoinHandle<InferenceOutcome>, Arc<Mutex<Vec<Progress>>>) {
    let turn =
        Turn { party: Party::Goal(GoalId::from_uuid(uuid::Uuid::from_u128(goal))), class: Class::Background };
    let shown = Arc::new(Mutex::new(Vec::new()));
    let (asking, told, system) = (models.clone(), Arc::clone(&shown), system.to_owned());
    let call = tokio::spawn(async move {
        let mut asked = request("a-model");
        asked.system = system;
        let tell = move |progress| told.lock().expect("unpoisoned").push(progress);
        asking.infer(&asked, turn, 0, in_an_hour(), pending(), tell).await
    });
    (call, shown)
}

#[tokio::test(start_paused = true)]
async fn refusals_that_ask_for_patience_do_not_count_as_attempts() {
    use ModelFailureKind::{RateLimited, Unavailable};
    for (kind, wish) in
        [(RateLimited, Some(1_000)), (RateLimited, Some(0)), (RateLimited, None), (Unavailable, Some(2_000))]
    {
        let (models, mut fake) = connect(CONFIG);
        let call = start(&models, "a-model", in_an_hour());
        fake.introduce().await;
        for _ in 0..20 {
            let (serial, ..) = fake.ask().await;
            fake.fail(serial, kind, wish.map(Millis)).await;
        }
        for _ in 0..CONFIG.attempts {
            let (serial, ..) = fake.ask().await;
            fake.fail(serial, Unavailable, None).await;
        }
        let outcome = call.await.expect("no panic");
        assert_eq!((failure_kind(&outcome), counts(&outcome)), (Unavailable, (20 + CONFIG.attempts, 0)));
        assert_eq!(outcome.told_to_wait, 20, "{kind:?} {wish:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn patience_ends_at_the_deadline() {
    let (models, mut fake) = connect(CONFIG);
    let begun = Instant::now();
    let call = start(&models, "a-model", begun + Duration::from_secs(600));
    fake.introduce().await;
    let refusing = tokio::spawn(async move {
        let mut refused = 0;
        while let Some(ModelsRequest::Ask { serial, .. }) = fake.hear().await {
            refused += 1;
            fake.fail(serial, ModelFailureKind::RateLimited, Some(Millis(5_000))).await;
        }
        refused
    });
    let outcome = call.await.expect("no panic");
    assert_eq!(failure_kind(&outcome), ModelFailureKind::RateLimited);
    assert!(begun.elapsed() > Duration::from_secs(560) && begun.elapsed() <= Duration::from_secs(600));
    drop(models);
    assert_eq!(refusing.await.expect("no panic"), outcome.attempts);
    assert!(outcome.attempts > CONFIG.attempts, "it was asked as long as there was time");
}

#[tokio::test(start_paused = true)]
async fn where_another_model_stands_behind_no_quiet_is_waited_for_that_outlasts_the_deadline() {
    let (models, mut fake) = connect(CONFIG);
    let limited = start(&models, "a-model", in_an_hour());
    fake.introduce().await;
    let (serial, ..) = fake.ask().await;
    fake.fail(serial, ModelFailureKind::RateLimited, Some(Millis(20_000))).await;
    while models.queue_depth() == 0 {
        tokio::task::yield_now().await;
    }
    let within = |seconds| Instant::now() + Duration::from_secs(seconds);
    let relieved = models.trying(1);
    let outcome = start(&relieved, "a-model", within(10)).await.expect("no panic");
    let found = (failure_kind(&outcome), outcome.attempts, outcome.elapsed);
    assert_eq!(found, (ModelFailureKind::RateLimited, 0, Millis(0)));
    let outcome = start(&models, "a-model", within(10)).await.expect("no panic");
    assert!(outcome.elapsed >= Millis(10_000), "the control: none stands behind it, {outcome:?}");
    // One that ends in time is waited for, until it is made longer.
    let waits = start(&relieved, "a-model", within(60));
    let began = Instant::now();
    let (serial, ..) = fake.ask().await;
    assert!(!waits.is_finished(), "it might have had its turn");
    fake.fail(serial, ModelFailureKind::RateLimited, Some(Millis(300_000))).await;
    let outcome = waits.await.expect("no panic");
    assert_eq!((failure_kind(&outcome), outcome.attempts), (ModelFailureKind::RateLimited, 0));
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    let (serial, ..) = fake.ask().await;
    fake.answer(serial, "at last").await;
    assert!(limited.await.expect("no panic").result.is_ok());
}

#[tokio::test(start_paused = true)]
async fn one_that_is_always_turned_away_keeps_no_other_out_and_ends_with_the_refusal() {
    for has_others in [true, false] {
        let (models, mut fake) = connect(ModelsConfig { slots_per_provider: 1, ..CONFIG });
        let (poison, _) = start_as(&models, 1, "poison");
        fake.introduce().await;
        let refusing = tokio::spawn(async move {
            let mut refused = 0;
            while let Some(heard) = fake.hear().await {
                let ModelsRequest::Ask { serial, request, .. } = heard else { continue };
                if request.system == "poison" {
                    refused += 1;
                    fake.fail(serial, ModelFailureKind::RateLimited, None).await;
                } else {
                    fake.answer(serial, "answered").await;
                }
            }
            refused
        });
        while models.queue_depth() == 0 {
            tokio::task::yield_now().await;
        }
        let mut slowest = Duration::ZERO;
        while has_others && !poison.is_finished() {
            let began = Instant::now();
            for call in [start_for(&models, 2), start_for(&models, 1)] {
                assert!(call.0.await.expect("no panic").result.is_ok());
            }
            slowest = slowest.max(began.elapsed());
        }
        let outcome = poison.await.expect("no panic");
        assert!(slowest <= Duration::from_secs(60), "{slowest:?}");
        let failure = outcome.result.expect_err("it is never taken");
        let is_capped = failure.message.contains("while other requests were taken");
        assert_eq!((failure.kind, is_capped), (ModelFailureKind::RateLimited, has_others), "{failure:?}");
        drop(models);
        let refused = refusing.await.expect("no panic");
        assert!(
            refused > MAX_REFUSALS_AMONG_TAKEN && (!has_others || refused <= 2 * MAX_REFUSALS_AMONG_TAKEN),
            "{refused}"
        );
    }
}

/// Seconds between the requests of three agents that are all turned away; the tenth is taken.
async fn waits_of_a_storm(kind: ModelFailureKind, wish: Option<Millis>) -> Vec<f64> {
    let (models, mut fake) = connect(ModelsConfig { slots_per_provider: 1, ..CONFIG });
    let calls: Vec<_> = (0..3).map(|_| start(&models, "a-model", in_an_hour())).collect();
    fake.introduce().await;
    let (mut waits, mut last) = (Vec::new(), Instant::now());
    for number in 1..=13 {
        let (serial, ..) = fake.ask().await;
        waits.push(last.elapsed().as_secs_f64());
        last = Instant::now();
        match number {
            10 | 12 | 13 => fake.answer(serial, "answered").await,
            _ => fake.fail(serial, kind, wish).await,
        }
    }
    for call in calls {
        assert!(call.await.expect("no panic").result.is_ok(), "nobody is lost");
    }
    waits.split_off(1)
}

#[tokio::test(start_paused = true)]
async fn a_storm_is_asked_ever_more_rarely_whatever_the_wish() {
    use ModelFailureKind::{RateLimited, Unavailable};
    for (kind, wish) in [
        (RateLimited, None),
        (RateLimited, Some(0)),
        (RateLimited, Some(500)),
        (Unavailable, Some(500)),
        (RateLimited, Some(3_000)),
    ] {
        let waits = waits_of_a_storm(kind, wish.map(Millis)).await;
        let wished = wish.unwrap_or(0) as f64 / 1_000.0;
        let mut floor: f64 = 0.25;
        for wait in &waits[..9] {
            assert!(*wait >= floor.max(wished) && *wait <= 2.1 * floor.max(wished), "{wish:?}: {waits:?}");
            floor = (2.0 * floor).min(15.0);
        }
        assert!(waits[9] < 0.01, "one was taken: {waits:?}");
        assert!(waits[10] <= wished.max(0.5) * 1.2, "then it begins anew: {waits:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_wait_one_asks_and_the_others_when_it_is_taken() {
    let (models, mut fake) = connect(CONFIG);
    let calls: Vec<_> = (0..6).map(|_| start(&models, "a-model", in_an_hour())).collect();
    fake.introduce().await;
    let mut first = Vec::new();
    for _ in 0..3 {
        first.push(fake.ask().await.0);
    }
    let limited = Instant::now();
    fake.fail(first[0], ModelFailureKind::RateLimited, Some(Millis(20_000))).await;
    for serial in &first[1..] {
        fake.answer(*serial, "from before").await;
    }
    silence(&mut fake, Duration::from_millis(19_999)).await;
    let (probe, ..) = fake.ask().await;
    let waited = limited.elapsed();
    assert!(
        waited > Duration::from_secs(20) && waited <= Duration::from_secs(21),
        "a little later: {waited:?}"
    );
    silence(&mut fake, Duration::from_secs(9)).await;
    begun(&mut fake, probe, Pace::default()).await;
    for _ in 0..2 {
        let (serial, ..) = fake.ask().await;
        fake.answer(serial, "the others").await;
    }
    fake.answer(probe, "the first").await;
    let (serial, ..) = fake.ask().await;
    fake.answer(serial, "the last").await;
    for call in calls {
        assert!(call.await.expect("no panic").result.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_one_that_hangs_or_is_dropped_shuts_nobody_out() {
    for drops in [false, true] {
        let (models, mut fake) = connect(CONFIG);
        let first = start(&models, "a-model", in_an_hour());
        fake.introduce().await;
        let (serial, ..) = fake.ask().await;
        fake.fail(serial, ModelFailureKind::RateLimited, Some(Millis(20_000))).await;
        while models.queue_depth() == 0 {
            tokio::task::yield_now().await;
        }
        let second = start(&models, "a-model", in_an_hour());
        let (probe, ..) = fake.ask().await;
        let probing = Instant::now();
        if drops {
            first.abort();
            let mut heard = vec![fake.hear().await.expect("the near end lives")];
            heard.push(fake.hear().await.expect("the near end lives"));
            assert!(heard.contains(&ModelsRequest::Cancel { serial: probe }), "{heard:?}");
            assert_eq!(probing.elapsed(), Duration::ZERO, "the next one asks at once");
            continue;
        }
        let (serial, ..) = fake.ask().await;
        assert_eq!(probing.elapsed(), Duration::from_secs(10), "the next one does not wait for ever");
        fake.answer(serial, "taken").await;
        assert!(second.await.expect("no panic").result.is_ok());
        first.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn goals_take_turns_at_a_provider() {
    let (models, mut fake) = connect(CONFIG);
    let crowds = [(1, 100), (2, 90), (3, 9), (4, 1)];
    let mut calls = Vec::new();
    for (goal, agents) in crowds {
        calls.extend((0..agents).map(|_| start_for(&models, goal).0));
    }
    fake.introduce().await;
    let mut running = Vec::new();
    for _ in 0..CONFIG.slots_per_provider {
        running.push(fake.ask().await);
    }
    let mut had = [0; 4];
    for count in 0..calls.len() {
        let (serial, asked, _) = running.remove(0);
        had[asked.system.parse::<usize>().expect("a goal") - 1] += 1;
        fake.answer(serial, "answered").await;
        for (goal, agents) in crowds {
            let had = had[usize::try_from(goal - 1).expect("small")];
            assert!(had >= (count / 8).min(agents), "after {count} goal {goal} has had {had}");
        }
        if count + CONFIG.slots_per_provider < calls.len() {
            running.push(fake.ask().await);
        }
    }
    for call in calls {
        assert!(call.await.expect("no panic").result.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_shows_for_what() {
    let (models, mut fake) = connect(ModelsConfig { slots_per_provider: 1, ..CONFIG });
    let (first, first_shown) = start_for(&models, 1);
    fake.introduce().await;
    let (serial, ..) = fake.ask().await;
    let (second, shown) = start_for(&models, 2);
    while shown.lock().expect("unpoisoned").is_empty() {
        tokio::task::yield_now().await;
    }
    fake.fail(serial, ModelFailureKind::RateLimited, Some(Millis(20_000))).await;
    for _ in 0..2 {
        let (serial, ..) = fake.ask().await;
        fake.answer(serial, "answered").await;
    }
    assert!(first.await.expect("no panic").result.is_ok() && second.await.expect("no panic").result.is_ok());
    let told = |shown: &Mutex<Vec<Progress>>| -> Vec<String> {
        let of = |progress: &Progress| match progress {
            Progress::Waiting { provider, wait } => {
                let name = provider.as_ref().expect("known").to_string();
                let time = wait.map(|wait| (20_000..=21_000).contains(&wait.0));
                time.map_or(format!("slot of {name}"), |right| format!("{name} for {right} time"))
            }
            Progress::Retry { .. } => "retry".to_owned(),
            Progress::Loading | Progress::Asked | Progress::Answered(_) => "asked".to_owned(),
            Progress::Delta(_) => "text".to_owned(),
        };
        shown.lock().expect("unpoisoned").iter().map(of).collect()
    };
    let slot = "slot of alpha".to_owned();
    let (first, second) = (told(&first_shown), told(&shown));
    assert_eq!(first[..3], ["asked", "retry", "alpha for true time"], "{first:?}");
    assert_eq!(second[0], slot, "{second:?}");
    assert!([first, second.clone()].iter().all(|told| told.last().is_some_and(|last| last == "asked")));
    assert!(second.contains(&"alpha for true time".to_owned()), "{second:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_provider_has_room_for_is_kept() {
    let (models, mut fake) = connect(CONFIG);
    let calls: Vec<_> = (0..3).map(|_| start(&models, "a-model", in_an_hour())).collect();
    fake.introduce().await;
    let mut serials = Vec::new();
    for _ in 0..3 {
        serials.push(fake.ask().await.0);
    }
    let told = Instant::now();
    let requests = Some(Room { left: 1, resets_in: Millis(30_000) });
    begun(&mut fake, serials[0], Pace { requests, tokens: None }).await;
    for serial in serials {
        fake.answer(serial, "answered").await;
    }
    for call in calls {
        assert!(call.await.expect("no panic").result.is_ok());
    }
    let more: Vec<_> = (0..2).map(|_| start(&models, "a-model", in_an_hour())).collect();
    let other = start(&models, "b-model", in_an_hour());
    let mut asked = Vec::new();
    for _ in 0..2 {
        let (serial, request, _) = fake.ask().await;
        asked.push(request.model.to_string());
        fake.answer(serial, "answered").await;
    }
    asked.sort();
    assert_eq!((asked, told.elapsed()), (vec!["a-model".to_owned(), "b-model".to_owned()], Duration::ZERO));
    let (serial, ..) = fake.ask().await;
    assert_eq!(told.elapsed(), Duration::from_secs(30));
    fake.answer(serial, "answered").await;
    for call in more.into_iter().chain([other]) {
        assert!(call.await.expect("no panic").result.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn all_agents_may_wait_at_one_provider() {
    let (models, mut fake) = connect(CONFIG);
    let calls: Vec<_> = (0..MAX_AGENTS).map(|_| start(&models, "a-model", in_an_hour())).collect();
    fake.introduce().await;
    for _ in 0..CONFIG.slots_per_provider {
        fake.ask().await;
    }
    while models.queue_depth() < MAX_AGENTS - CONFIG.slots_per_provider {
        assert!(!calls.iter().any(JoinHandle::is_finished), "nobody is sent away");
        tokio::task::yield_now().await;
    }
    calls.iter().for_each(JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_the_queue_keeps_nobody_waiting() {
    let (models, mut fake) = connect(ModelsConfig { slots_per_provider: 1, ..CONFIG });
    let running = start(&models, "a-model", in_an_hour());
    fake.introduce().await;
    let (serial, ..) = fake.ask().await;
    let leaving: Vec<_> = (0..5).map(|_| start(&models, "a-model", in_an_hour())).collect();
    while models.queue_depth() < 5 {
        tokio::task::yield_now().await;
    }
    let staying = start(&models, "a-model", in_an_hour());
    leaving.iter().for_each(JoinHandle::abort);
    for left in leaving {
        assert!(left.await.expect_err("aborted").is_cancelled());
    }
    fake.answer(serial, "answered").await;
    let (serial, ..) = fake.ask().await;
    fake.answer(serial, "answered").await;
    for call in [running, staying] {
        assert!(call.await.expect("no panic").result.is_ok());
    }
    assert_eq!(models.queue_depth(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_wish_outlives_the_gateway_that_heard_it() {
    let (models, mut fake) = connect(CONFIG);
    let first = start(&models, "a-model", in_an_hour());
    fake.introduce().await;
    let (serial, ..) = fake.ask().await;
    let limited = Instant::now();
    fake.fail(serial, ModelFailureKind::RateLimited, Some(Millis(20_000))).await;
    while models.queue_depth() == 0 {
        tokio::task::yield_now().await;
    }
    drop(fake);
    let (link, mut fake) = linked();
    let models = models.relinked(link);
    let next = start(&models, "a-model", in_an_hour());
    fake.introduce().await;
    let (serial, ..) = fake.ask().await;
    assert!(limited.elapsed() >= Duration::from_secs(20), "{:?}", limited.elapsed());
    fake.answer(serial, "answered").await;
    assert!(next.await.expect("no panic").result.is_ok());
    assert_eq!(failure_kind(&first.await.expect("no panic")), ModelFailureKind::Unavailable);
}

/// The same gateway, whose provider the operator allows this.
async fn introduce_allowing(fake: &mut MemoryFake, rates: Rates) {
    let Some(ModelsRequest::Describe { serial }) = fake.hear().await else { panic!("a question") };
    let providers = vec![ProviderState { rates, ..provider("alpha", &["a-model"]) }];
    fake.say(&ModelsReply::Described { serial, providers }).await;
}

#[tokio::test(start_paused = true)]
async fn no_more_requests_are_made_in_a_minute_than_the_operator_allows() {
    for allowed in [NonZeroU64::new(2), None] {
        let (models, mut fake) = connect(CONFIG);
        let mut calls = vec![start_for(&models, 1), start_for(&models, 2)];
        introduce_allowing(&mut fake, Rates { requests_per_minute: allowed, ..Rates::default() }).await;
        let begun = Instant::now();
        for _ in 0..2 {
            let (serial, ..) = fake.ask().await;
            fake.answer(serial, "done").await;
        }
        for (call, _) in calls.drain(..) {
            call.await.expect("no panic").result.expect("answered");
        }
        let (third, shown) = start_for(&models, 3);
        let (serial, ..) = fake.ask().await;
        let waited = begun.elapsed().as_secs();
        assert_eq!(waited, if allowed.is_some() { 60 } else { 0 }, "{allowed:?}");
        let waits = |progress: &Progress| matches!(progress, Progress::Waiting { wait: Some(wait), .. } if wait.0 > 59_000);
        assert_eq!(shown.lock().expect("unpoisoned").iter().any(waits), allowed.is_some(), "it is shown");
        fake.answer(serial, "done").await;
        third.await.expect("no panic").result.expect("answered");
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_tokens_are_used_in_a_minute_than_the_operator_allows() {
    for (output, seconds) in [(200, 60), (1, 0)] {
        let (models, mut fake) = connect(CONFIG);
        let (first, _) = start_for(&models, 1);
        let tokens_per_minute = NonZeroU64::new(1_000);
        introduce_allowing(&mut fake, Rates { tokens_per_minute, ..Rates::default() }).await;
        let begun = Instant::now();
        let (serial, ..) = fake.ask().await;
        let usage = Usage { input_tokens: Tokens(900), output_tokens: Tokens(output), ..Usage::default() };
        let answer = Box::new(ModelReply { usage, ..reply("done") });
        fake.say(&ModelsReply::Done { serial, reply: answer, measured: None }).await;
        first.await.expect("no panic").result.expect("answered");
        let (second, _) = start_for(&models, 2);
        fake.ask().await;
        assert_eq!(begun.elapsed().as_secs(), seconds, "what was used counts, not what was thought");
        second.abort();
    }
}
