//! Places in the egress gateway: how many fetches, and how many connections of programs, may be under way at once, and
//! how many of them may be one agent's.
//!
//! Invariants: no agent holds more than its share; the last places are kept for agents that hold none, so that whoever
//! came first cannot keep the others out; a place is given back however what it was taken for ends.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aaos_core::id::AgentId;
use aaos_core::limits::{
    MAX_AGENT_FETCHES, MAX_AGENT_PROXIED, MAX_FETCHES_IN_FLIGHT, MAX_PROXIED, SPARE_FETCHES, SPARE_PROXIED,
};
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use tokio::sync::Notify;

/// How many places there are of one sort, and what they are called where there is none.
#[derive(Debug, PartialEq, Eq)]
struct Shares {
    /// All of them.
    most: usize,
    /// Most that are one agent's.
    each: usize,
    /// How many of them are kept for agents that have none.
    spare: usize,
    /// So many ... of one agent.
    of_one: &'static str,
    /// So many ... of all together.
    of_all: &'static str,
}

static FETCHES: Shares = Shares {
    most: MAX_FETCHES_IN_FLIGHT,
    each: MAX_AGENT_FETCHES,
    spare: SPARE_FETCHES,
    of_one: "fetches of this agent are under way",
    of_all: "fetches are under way",
};

static CONNECTIONS: Shares = Shares {
    most: MAX_PROXIED,
    each: MAX_AGENT_PROXIED,
    spare: SPARE_PROXIED,
    of_one: "connections of this agent's programs are open",
    of_all: "connections of programs are open",
};

/// Who holds how many places of one sort.
#[derive(Debug)]
pub(crate) struct Places {
    shares: &'static Shares,
    held: Mutex<HashMap<AgentId, usize>>,
    /// Told of each place that is given back.
    given_back: Notify,
}

/// One place, as long as it lives.
#[derive(Debug)]
pub(crate) struct Place<'p> {
    places: &'p Places,
    agent: AgentId,
}

impl Places {
    /// Those of fetches.
    pub(crate) fn of_fetches() -> Self {
        Self::new(&FETCHES)
    }

    /// Those of connections through the proxy.
    pub(crate) fn of_connections() -> Self {
        Self::new(&CONNECTIONS)
    }

    fn new(shares: &'static Shares) -> Self {
        assert!(shares.spare < shares.most && shares.each <= shares.most, "shares are parts: {shares:?}");
        Self { shares, held: Mutex::default(), given_back: Notify::new() }
    }

    /// Takes a place for this agent.
    ///
    /// # Errors
    /// [`ToolFailureKind::LimitReached`], in words that say whose limit it is.
    pub(crate) fn take(&self, agent: AgentId) -> Result<Place<'_>, ToolFailure> {
        self.look(agent).map_err(|full| full.why)
    }

    /// Takes a place for this agent, or waits for one as long as the agent holds some of its share: what of its own is
    /// under way ends within its time.
    ///
    /// # Errors
    /// As [`Self::take`], for an agent that has all of its share, or nothing.
    pub(crate) async fn take_in_turn(&self, agent: AgentId) -> Result<Place<'_>, ToolFailure> {
        loop {
            let given_back = self.given_back.notified();
            match self.look(agent) {
                Err(Full { own, .. }) if (1..self.shares.each).contains(&own) => given_back.await,
                looked => return looked.map_err(|full| full.why),
            }
        }
    }

    fn look(&self, agent: AgentId) -> Result<Place<'_>, Full> {
        let Shares { most, each, spare, of_one, of_all } = *self.shares;
        let mut held = self.lock();
        let own = held.get(&agent).copied().unwrap_or(0);
        let all: usize = held.values().sum();
        if own >= each {
            return Err(Full::new(own, &format!("{own} {of_one}")));
        }
        let left = most - all;
        if left == 0 || (own > 0 && left <= spare) {
            return Err(Full::new(own, &format!("{all} {of_all}, {own} of them this agent's")));
        }
        held.insert(agent, own + 1);
        Ok(Place { places: self, agent })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AgentId, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// There is no place for an agent that holds so many.
#[derive(Debug)]
struct Full {
    own: usize,
    why: ToolFailure,
}

impl Full {
    fn new(own: usize, why: &str) -> Self {
        let why = format!("{why}; try again when one is done");
        Self { own, why: ToolFailure::new(ToolFailureKind::LimitReached, why) }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut held = self.places.lock();
        let own = held.remove(&self.agent).unwrap_or(0);
        assert!(own > 0, "a place is given back once, by whom it was given to");
        if own > 1 {
            held.insert(self.agent, own - 1);
        }
        drop(held);
        self.places.given_back.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::{Place, Places};
    use aaos_core::id::AgentId;
    use aaos_core::limits::{
        MAX_AGENT_FETCHES, MAX_AGENT_PROXIED, MAX_FETCHES_IN_FLIGHT, MAX_PROXIED, SPARE_FETCHES,
        SPARE_PROXIED,
    };
    use aaos_core::toolio::ToolFailureKind;
    use uuid::Uuid;

    fn agent(number: usize) -> AgentId {
        AgentId::from_uuid(Uuid::from_u128(number as u128))
    }

    /// As many as this agent gets.
    fn all_of(places: &Places, number: usize) -> Vec<Place<'_>> {
        std::iter::from_fn(|| places.take(agent(number)).ok()).collect()
    }

    /// Each sort, with all of its places, an agent's share and those that are kept.
    fn sorts() -> [(Places, [usize; 3], &'static str); 2] {
        let fetches = [MAX_FETCHES_IN_FLIGHT, MAX_AGENT_FETCHES, SPARE_FETCHES];
        let connections = [MAX_PROXIED, MAX_AGENT_PROXIED, SPARE_PROXIED];
        [
            (Places::of_fetches(), fetches, "64 fetches are under way, 0 of them"),
            (Places::of_connections(), connections, "256 connections of programs are open, 0 of them"),
        ]
    }

    #[test]
    fn an_agent_has_its_share_and_not_more() {
        for (places, [_, each, _], _) in sorts() {
            let mut held = all_of(&places, 1);
            assert_eq!(held.len(), each);
            let refused = places.take(agent(1)).expect_err("no more");
            assert_eq!(refused.kind, ToolFailureKind::LimitReached);
            assert!(refused.message.contains("of this agent"), "{refused}");
            places.take(agent(2)).expect("the control: another gets one");
            held.pop();
            places.take(agent(1)).expect("the control: and so does the first, once one is done");
        }
    }

    #[test]
    fn the_last_places_are_for_agents_that_have_none() {
        for (places, [most, each, spare], none_left) in sorts() {
            let greedy = (most - spare).div_ceil(each);
            let held: Vec<_> = (0..=greedy).flat_map(|number| all_of(&places, number)).collect();
            // The one that came when only spare places were left has one of them.
            assert_eq!(held.len(), most - spare + 1);
            let late: Vec<_> = (1000..2000).map_while(|number| places.take(agent(number)).ok()).collect();
            assert_eq!(late.len(), spare - 1, "each gets one, until there is none");
            let refused = places.take(agent(3000)).expect_err("none is left");
            assert!(refused.message.starts_with(none_left), "{refused}");
            drop((held, late));
            assert!(places.lock().is_empty(), "all were given back");
            assert_eq!(all_of(&places, 3000).len(), each);
        }
    }

    #[tokio::test]
    async fn an_agent_that_holds_some_waits_for_its_own() {
        let places = Places::of_fetches();
        let others = (MAX_FETCHES_IN_FLIGHT - SPARE_FETCHES).div_ceil(MAX_AGENT_FETCHES);
        let mut held: Vec<_> = (0..others).flat_map(|number| all_of(&places, number)).collect();
        let first = places.take_in_turn(agent(1000)).await.expect("a spare one");
        let mut second = pin!(places.take_in_turn(agent(1000)));
        assert!(futures_util::poll!(&mut second).is_pending(), "the spare ones are for others");
        held.pop();
        assert!(futures_util::poll!(&mut second).is_pending(), "and so is one that another gives back there");
        drop(first);
        drop(second.await.expect("its own was given back"));
        drop(held);
        let share = all_of(&places, 1000);
        assert_eq!(share.len(), MAX_AGENT_FETCHES);
        places.take_in_turn(agent(1000)).await.expect_err("the control: nobody waits beyond a share");
    }
}
