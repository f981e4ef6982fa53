//! The authority under every interleaving that `shuttle` finds, locked as the runtime locks it: one operation at a
//! time, the steps of a spawn or a call each under a lock of its own.
//!
//! Invariant: the only shared things are shuttle's. The queue of dropped authorisations has a lock of the standard
//! library, inside which nothing of shuttle's runs, so no thread is ever switched away while it holds it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use aaos_core::approval::{ApprovalGrant, ApprovalScope};
use aaos_core::authority::{Admission, Authority, AuthorityLimits, Refusal, Revoked, Settlement};
use aaos_core::budget::{Budget, Ceilings};
use aaos_core::capability::GrantSpec;
use aaos_core::effect::{Authorized, AuthorizedParts, Effect, EffectClass, Need, Needs, Subject};
use aaos_core::event::Event;
use aaos_core::grant::GrantRequest;
use aaos_core::id::{AgentId, ApprovalId, CallId, GrantId};
use aaos_core::name::{AgentName, ToolName};
use aaos_core::quantity::{Amounts, Millis, Quantity, Timestamp};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::sync::{Arc, Mutex, MutexGuard};
use shuttle::{Config, Runner, thread};
use uuid::Uuid;

const NOW: u64 = 1_000_000;

/// A call of `echo` that reserves so many tokens.
#[derive(Debug)]
struct Echo(Needs);

impl Echo {
    fn new(tokens: u64) -> Self {
        let echo = Need::Tool(ToolName::parse("echo").expect("a tool"));
        let amounts = Amounts::of(Quantity::Tokens, tokens).with(Quantity::JournalBytes, 1);
        Self(Needs { all: vec![echo], each: Vec::new(), amounts })
    }
}

impl Effect for Echo {
    type Outcome = ();
    fn needs(&self) -> Cow<'_, Needs> {
        Cow::Borrowed(&self.0)
    }
    fn class(&self) -> EffectClass {
        EffectClass::Once
    }
    fn label(&self) -> &'static str {
        "echo"
    }
    fn subject(&self) -> Option<Subject> {
        Some(Subject { digest: String::new(), input: serde_json::Value::Null })
    }
    fn intent(_: &AuthorizedParts<Self>) -> Event {
        Event::DaemonStopped {}
    }
    fn result(_: &AuthorizedParts<Self>, (): &()) -> Event {
        Event::DaemonStopped {}
    }
}

fn agent(number: u128) -> AgentId {
    AgentId::from_uuid(Uuid::from_u128(number))
}

fn grant(number: u128) -> GrantId {
    GrantId::from_uuid(Uuid::from_u128(number))
}

fn call(number: u128) -> CallId {
    CallId::from_uuid(Uuid::from_u128(number))
}

fn request(id: u128, words: &str) -> GrantRequest {
    let spec = GrantSpec::parse(words).expect("a grant");
    let GrantSpec { capability, constraints } = spec;
    GrantRequest { id: grant(id), capability, spelled: None, constraints, root: None, special: None }
}

fn admission(number: u128, budget: Budget) -> Admission {
    Admission::plain(agent(number), AgentName::parse("a").expect("a name"), budget)
}

/// What the threads share.
struct World {
    law: Mutex<Authority>,
    clock: AtomicU64,
}

impl World {
    /// Agent 1 with grant 1.
    fn new(words: &str, budget: Budget) -> Arc<Self> {
        let mut law = Authority::new(AuthorityLimits::default());
        law.admit_root(admission(1, budget), vec![request(1, words)], Timestamp(NOW)).expect("room");
        Arc::new(Self { law: Mutex::new(law), clock: AtomicU64::new(NOW) })
    }

    fn law(&self) -> MutexGuard<'_, Authority> {
        self.law.lock().expect("no thread dies with it")
    }

    /// Read before the lock is taken, as the runtime does: it may be old when the lock is there.
    fn now(&self) -> Timestamp {
        Timestamp(self.clock.load(Ordering::SeqCst))
    }

    fn ask(&self, who: u128, id: u128, tokens: u64) -> Result<Authorized<Echo>, Refusal> {
        let now = self.now();
        self.law().authorize(agent(who), call(id), Echo::new(tokens), now)
    }

    fn settle(&self, parts: &AuthorizedParts<Echo>, tokens: u64) -> Settlement {
        let now = self.now();
        self.law().settle(parts.call, &parts.charges, &Amounts::of(Quantity::Tokens, tokens), now)
    }

    /// Admits a child with one derived grant of the child's number times ten: found under one lock, derived under
    /// another.
    fn spawn(&self, parent: u128, child: u128) -> Result<(), Refusal> {
        let wanted = request(child * 10, "tool: echo");
        let now = self.now();
        let from = self.law().delegable(agent(parent), &wanted.capability, now)?;
        let now = self.now();
        let admission = admission(child, Budget::default());
        self.law().admit_child(agent(parent), admission, vec![(from.grant, wanted)], now).map(drop)
    }
}

/// Room for the authority's frames of an unoptimised build; shuttle's own default is 32 KiB.
const STACK_BYTES: usize = 512 * 1024;

fn explore(test: impl Fn() + Send + Sync + Copy + 'static) {
    explore_at_random(test);
    Runner::new(PctScheduler::new(3, rounds(1_000)), config()).run(test);
}

fn explore_at_random(test: impl Fn() + Send + Sync + 'static) {
    Runner::new(RandomScheduler::new(rounds(2_000)), config()).run(test);
}

/// Interleavings that are tried; `PROPTEST_CASES` lowers them as it does the properties' cases.
fn rounds(most: usize) -> usize {
    const UNSET: u32 = 256;
    let asked = proptest::test_runner::Config::default().cases;
    if asked == UNSET { most } else { most.min(asked as usize) }
}

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    config
}

fn join<T>(threads: Vec<thread::JoinHandle<T>>) -> Vec<T> {
    threads.into_iter().map(|one| one.join().expect("a thread ends well")).collect()
}

fn revoking(world: &Arc<World>, id: u128) -> thread::JoinHandle<Revoked> {
    let world = Arc::clone(world);
    thread::spawn(move || world.law().revoke(grant(id)))
}

#[test]
fn what_is_derived_while_its_source_is_revoked_is_revoked_too() {
    explore(|| {
        let world = World::new("tool: echo", Budget::default());
        let spawner = Arc::clone(&world);
        let spawning = thread::spawn(move || {
            let child = spawner.spawn(1, 2).is_ok();
            let grandchild = child && spawner.spawn(2, 3).is_ok();
            (child, grandchild)
        });
        let revoked = join(vec![revoking(&world, 1)]).remove(0);
        assert_eq!(revoked.grants.first(), Some(&grant(1)));
        // From here on, whatever was admitted when, nobody holds anything usable.
        for (who, id) in [(1, 1), (2, 2), (3, 3)] {
            assert!(world.ask(who, id, 0).is_err(), "agent {who} uses what was revoked");
        }
        let (child, grandchild) = join(vec![spawning]).remove(0);
        for (who, admitted) in [(2, child), (3, grandchild)] {
            let found = world.ask(who, who, 0);
            assert!(matches!(found, Err(Refusal::Denied(_))) == admitted, "agent {who}: {found:?}");
            assert!(world.law().grants_of(agent(who)).is_empty());
        }
    });
}

#[test]
fn a_call_under_a_revoked_grant_is_cut_exactly_once() {
    explore(|| {
        let world = World::new("tool: echo", Budget::default());
        world.spawn(1, 2).expect("a child");
        let caller = Arc::clone(&world);
        let calling = thread::spawn(move || {
            let granted = caller.ask(2, 5, 0).ok()?;
            let parts = granted.into_parts();
            let seen = caller.law().is_cut(parts.call);
            Some((seen, caller.settle(&parts, 0).cut))
        });
        // One revokes the grant that the call uses, another what it derives from.
        let revoked = join(vec![revoking(&world, 20), revoking(&world, 1)]);
        assert!(world.ask(2, 6, 0).is_err(), "accepted after the revocation");
        let told = revoked.iter().flat_map(|one| &one.calls).filter(|one| **one == call(5)).count();
        match join(vec![calling]).remove(0) {
            None => assert_eq!(told, 0, "refused, and told to be cut"),
            Some((seen, cut)) => {
                assert_eq!(told, usize::from(cut), "cut and told, or neither");
                assert!(!seen || cut, "what was cut stays cut");
            }
        }
    });
}

#[test]
fn no_window_exceeds_its_limit_whatever_is_charged_while_it_is_reset() {
    explore(|| {
        let max = Ceilings::of(Quantity::Tokens, 10);
        let world = World::new("tool: echo", Budget { max, reset_period: Some(Millis(100)) });
        world.spawn(1, 2).expect("a child");
        let windows = Arc::new(Mutex::new(BTreeMap::new()));
        let charge = |who: u128, id: u128, reserve: u64, spent: u64| {
            let (world, windows) = (Arc::clone(&world), Arc::clone(&windows));
            thread::spawn(move || {
                let Ok(granted) = world.ask(who, id, reserve) else { return 0 };
                let parts = granted.into_parts();
                let now = world.now();
                let mut law = world.law();
                law.settle(parts.call, &parts.charges, &Amounts::of(Quantity::Tokens, spent), now);
                let purse = law.purse(agent(1), Timestamp::ZERO).expect("alive");
                let (used, reserved) =
                    (purse.used.get(Quantity::Tokens), purse.reserved.get(Quantity::Tokens));
                assert!(used + reserved <= 10, "{used} used and {reserved} reserved in one window");
                windows.lock().expect("whole").insert(purse.window_ends, used);
                spent
            })
        };
        let charging = vec![charge(1, 1, 6, 6), charge(2, 2, 4, 3), charge(2, 3, 7, 5), charge(1, 4, 3, 3)];
        for _ in 0..3 {
            world.clock.fetch_add(60, Ordering::SeqCst);
        }
        let spent: u64 = join(charging).into_iter().sum();
        let counted: u64 = windows.lock().expect("whole").values().sum();
        assert_eq!(counted, spent, "every token counts in exactly one window");
        world.clock.fetch_add(1_000, Ordering::SeqCst);
        let purse = world.law().purse(agent(1), world.now()).expect("alive");
        assert_eq!(
            (purse.used, purse.reserved),
            (Amounts::NONE, Amounts::NONE),
            "a fresh window, nothing held"
        );
    });
}

#[test]
fn nobody_outlives_a_parent_that_stops_while_it_spawns() {
    explore(|| {
        let world = World::new("tool: echo", Budget::default());
        let (spawner, stopper) = (Arc::clone(&world), Arc::clone(&world));
        let spawning = thread::spawn(move || {
            // The spawn is an effect of its own: charged before, settled after.
            let Ok(granted) = spawner.ask(1, 1, 1) else { return };
            let parts = granted.into_parts();
            let child = spawner.spawn(1, 2);
            let grandchild = child.is_ok().then(|| spawner.spawn(2, 3));
            spawner.settle(&parts, 1);
            let gone = |one: &Result<(), Refusal>| matches!(one, Err(Refusal::UnknownAgent(_)));
            assert!(child.is_ok() || gone(&child), "{child:?}");
            assert!(grandchild.is_none_or(|one| one.is_ok() || gone(&one)));
        });
        let stopping = thread::spawn(move || stopper.law().remove(agent(1)));
        join(vec![stopping]);
        assert_eq!(world.law().agent_count(), 0, "somebody outlived the parent");
        join(vec![spawning]);
        assert_eq!(world.law().agent_count(), 0, "somebody was admitted under a stopped parent");
        for who in [1, 2, 3] {
            assert!(matches!(world.ask(who, 9, 0), Err(Refusal::UnknownAgent(_))));
        }
        let kept = format!("{:?}", world.law());
        assert!(
            kept.contains("agents: {}") && kept.contains("calls: {}"),
            "nothing is kept for ever: {kept}"
        );
    });
}

#[test]
fn one_of_two_callers_has_the_last_use() {
    explore(|| {
        let world = World::new("{ tool: echo, max_invocations: 1 }", Budget::default());
        world.spawn(1, 2).expect("a child");
        let caller = |who: u128| {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let Ok(granted) = world.ask(who, who, 0) else { return 0 };
                let parts = granted.into_parts();
                world.settle(&parts, 0);
                1
            })
        };
        assert_eq!(join(vec![caller(1), caller(2)]).into_iter().sum::<u32>(), 1);
        assert!(world.ask(1, 9, 0).is_err() && world.ask(2, 9, 0).is_err(), "it was the last");
    });
}

#[test]
fn a_use_that_is_given_back_is_had_once_more_and_not_twice() {
    explore(|| {
        let world = World::new("{ tool: echo, max_invocations: 1 }", Budget::default());
        world.spawn(1, 2).expect("a child");
        let caller = |who: u128, gives_up: bool| {
            let world = Arc::clone(&world);
            thread::spawn(move || match world.ask(who, who, 0) {
                // The journal took nothing: dropped outside the lock.
                Ok(granted) if gives_up => {
                    drop(granted);
                    0
                }
                Ok(granted) => {
                    world.settle(&granted.into_parts(), 0);
                    1
                }
                Err(_) => 0,
            })
        };
        let done: u32 = join(vec![caller(1, true), caller(2, false), caller(2 + 1, false)]).into_iter().sum();
        assert!(done <= 1);
        assert_eq!(world.ask(1, 9, 0).is_ok(), done == 0, "what was given back is there, and only that");
    });
}

#[test]
fn one_approval_lets_one_call_pass_whenever_it_comes() {
    explore(|| {
        let world = World::new("{ tool: echo, approval_required: true }", Budget::default());
        world.spawn(1, 2).expect("a child");
        let caller = |who: u128| {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let mut passed = 0;
                for again in 0..2 {
                    match world.ask(who, who * 10 + again, 0) {
                        Ok(granted) => {
                            world.settle(&granted.into_parts(), 0);
                            passed += 1;
                        }
                        Err(Refusal::Approval(question)) => assert_eq!(question.agent, agent(who)),
                        Err(other) => panic!("{other:?}"),
                    }
                    thread::yield_now();
                }
                passed
            })
        };
        let approver = Arc::clone(&world);
        let approving = thread::spawn(move || {
            let effect = "echo".to_owned();
            let scope = ApprovalScope::Tool { effect, grants: vec![grant(1)], below: None };
            let id = ApprovalId::from_uuid(Uuid::from_u128(7));
            let approval = ApprovalGrant { id, holder: agent(1), scope, uses: 1 };
            approver.law().approve(approval).expect("its holder is alive");
        });
        let passed: u32 = join(vec![caller(1), caller(2)]).into_iter().sum();
        join(vec![approving]);
        assert!(passed <= 1, "one answer, {passed} calls");
        assert_eq!(world.ask(2, 99, 0).is_ok(), passed == 0, "what nobody used is still there");
    });
}

/// The controls: the same questions to code that looks first and acts later, under two locks. Shuttle finds both.
mod controls {
    use super::*;

    #[test]
    #[should_panic(expected = "both acted")]
    fn shuttle_finds_two_who_share_one_use_between_look_and_act() {
        explore_at_random(|| {
            let world = World::new("{ tool: echo, max_invocations: 1 }", Budget::default());
            let acted = Arc::new(AtomicU64::new(0));
            let caller = |id: u128| {
                let (world, acted) = (Arc::clone(&world), Arc::clone(&acted));
                thread::spawn(move || {
                    let wanted = Echo::new(0);
                    let may = world.law().explain(agent(1), &wanted.0, Timestamp(NOW)).is_ok();
                    if may {
                        acted.fetch_add(1, Ordering::SeqCst);
                        // The charge comes too late to stop anybody.
                        world.ask(1, id, 0).map(drop).unwrap_or_default();
                    }
                })
            };
            join(vec![caller(1), caller(2)]);
            assert!(acted.load(Ordering::SeqCst) < 2, "both acted");
        });
    }

    #[test]
    #[should_panic(expected = "a usable grant survived")]
    fn shuttle_finds_a_grant_that_is_looked_up_before_and_issued_after_a_revocation() {
        explore_at_random(|| {
            let world = World::new("tool: echo", Budget::default());
            let racer = Arc::clone(&world);
            let spawning = thread::spawn(move || {
                let wanted = request(20, "tool: echo");
                let found = racer.law().delegable(agent(1), &wanted.capability, Timestamp(NOW));
                if found.is_ok() {
                    // Issued without going through the parent's grant again.
                    let child = admission(2, Budget::default());
                    racer.law().admit_root(child, vec![wanted], Timestamp(NOW)).map(drop).unwrap_or_default();
                }
            });
            join(vec![revoking(&world, 1)]);
            join(vec![spawning]);
            let used = world.law().authorize(agent(2), call(1), Echo::new(0), Timestamp(NOW));
            // Refused is fine either way: nobody was admitted, or what was admitted holds nothing.
            assert!(!(used.is_ok() && world.law().agent_count() == 2), "a usable grant survived");
        });
    }

    #[test]
    #[should_panic(expected = "the window exceeds")]
    fn shuttle_finds_a_purse_that_is_looked_at_before_it_is_charged() {
        explore_at_random(|| {
            let world = World::new("tool: echo", Budget::default());
            let used = Arc::new(Mutex::new(0_u64));
            let charge = || {
                let (world, used) = (Arc::clone(&world), Arc::clone(&used));
                thread::spawn(move || {
                    let fits = *used.lock().expect("whole") + 6 <= 10;
                    world.clock.fetch_add(1, Ordering::SeqCst);
                    if fits {
                        *used.lock().expect("whole") += 6;
                    }
                })
            };
            join(vec![charge(), charge()]);
            assert!(*used.lock().expect("whole") <= 10, "the window exceeds");
        });
    }
}
