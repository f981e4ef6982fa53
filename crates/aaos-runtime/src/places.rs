//! The places of fetches: how many pages may be under way at once, and how many of them may be one agent's.
//!
//! Invariants: no agent holds more than its share; the last places are kept for agents that hold none, so that whoever
//! came first cannot keep the others out; a place is given back however its fetch ends.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aaos_core::id::AgentId;
use aaos_core::limits::{MAX_AGENT_FETCHES, MAX_FETCHES_IN_FLIGHT, SPARE_FETCHES};
use aaos_core::toolio::{ToolFailure, ToolFailureKind};

/// Who holds how many places.
#[derive(Debug, Default)]
pub(crate) struct FetchPlaces(Mutex<HashMap<AgentId, usize>>);

/// One place, as long as it lives.
#[derive(Debug)]
pub(crate) struct FetchPlace<'p> {
    places: &'p FetchPlaces,
    agent: AgentId,
}

impl FetchPlaces {
    /// Takes a place for a fetch of this agent.
    ///
    /// # Errors
    /// [`ToolFailureKind::LimitReached`], in words that say whose limit it is.
    pub(crate) fn take(&self, agent: AgentId) -> Result<FetchPlace<'_>, ToolFailure> {
        let mut held = self.lock();
        let own = held.get(&agent).copied().unwrap_or(0);
        let all: usize = held.values().sum();
        if own >= MAX_AGENT_FETCHES {
            return Err(refused(&format!("{own} fetches of this agent are under way")));
        }
        let left = MAX_FETCHES_IN_FLIGHT - all;
        if left == 0 || (own > 0 && left <= SPARE_FETCHES) {
            return Err(refused(&format!("{all} fetches are under way, {own} of them this agent's")));
        }
        held.insert(agent, own + 1);
        Ok(FetchPlace { places: self, agent })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AgentId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(why: &str) -> ToolFailure {
    ToolFailure::new(ToolFailureKind::LimitReached, format!("{why}; try again when one is done"))
}

impl Drop for FetchPlace<'_> {
    fn drop(&mut self) {
        let mut held = self.places.lock();
        let own = held.remove(&self.agent).unwrap_or(0);
        assert!(own > 0, "a place is given back once, by whom it was given to");
        if own > 1 {
            held.insert(self.agent, own - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FetchPlace, FetchPlaces};
    use aaos_core::id::AgentId;
    use aaos_core::limits::{MAX_AGENT_FETCHES, MAX_FETCHES_IN_FLIGHT, SPARE_FETCHES};
    use aaos_core::toolio::ToolFailureKind;
    use uuid::Uuid;

    fn agent(number: usize) -> AgentId {
        AgentId::from_uuid(Uuid::from_u128(number as u128))
    }

    /// As many as this agent gets.
    fn all_of(places: &FetchPlaces, number: usize) -> Vec<FetchPlace<'_>> {
        std::iter::from_fn(|| places.take(agent(number)).ok()).collect()
    }

    #[test]
    fn an_agent_has_its_share_and_not_more() {
        let places = FetchPlaces::default();
        let mut held = all_of(&places, 1);
        assert_eq!(held.len(), MAX_AGENT_FETCHES);
        let refused = places.take(agent(1)).expect_err("no more");
        assert_eq!(refused.kind, ToolFailureKind::LimitReached);
        assert!(refused.message.contains("of this agent"), "{refused}");
        places.take(agent(2)).expect("the control: another gets one");
        held.pop();
        places.take(agent(1)).expect("the control: and so does the first, once one is done");
    }

    #[test]
    fn the_last_places_are_for_agents_that_have_none() {
        let places = FetchPlaces::default();
        let greedy = (MAX_FETCHES_IN_FLIGHT - SPARE_FETCHES).div_ceil(MAX_AGENT_FETCHES);
        let held: Vec<_> = (0..=greedy).flat_map(|number| all_of(&places, number)).collect();
        // The one that came when only spare places were left has one of them.
        assert_eq!(held.len(), MAX_FETCHES_IN_FLIGHT - SPARE_FETCHES + 1);
        let late: Vec<_> = (100..200).map_while(|number| places.take(agent(number)).ok()).collect();
        assert_eq!(late.len(), SPARE_FETCHES - 1, "each gets one, until there is none");
        let refused = places.take(agent(300)).expect_err("none is left");
        assert!(refused.message.starts_with("64 fetches are under way, 0 of them"), "{refused}");
        drop((held, late));
        assert!(places.lock().is_empty(), "all were given back");
        assert_eq!(all_of(&places, 300).len(), MAX_AGENT_FETCHES);
    }
}
