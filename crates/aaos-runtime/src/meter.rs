//! The tokens of one run, its children's included: at most 1,000,000 (SPEC §6) where no purse says otherwise.
//!
//! Invariants: a run that nobody gave a ceiling has this one; a child that runs inside its parent's run counts on
//! the parent's meter, so that no child's manifest gets round it. It is asked before each inference, so what is over
//! the limit is at most what was in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aaos_core::limits::RUN_TOKENS;
use aaos_core::model::Usage;
use aaos_core::quantity::{Quantity, Tokens};

use crate::kernel::Kernel;
use crate::registry::Agent;

/// What a run used so far, and what it may.
#[derive(Debug)]
pub(crate) struct RunMeter {
    used: AtomicU64,
    most: Option<Tokens>,
}

impl RunMeter {
    fn new(most: Option<Tokens>) -> Self {
        Self { used: AtomicU64::new(0), most }
    }

    /// Whether nothing is left.
    pub(crate) fn is_spent(&self) -> bool {
        self.most.is_some_and(|most| self.used.load(Ordering::Acquire) >= most.0)
    }

    /// Counts one reply.
    pub(crate) fn add(&self, usage: Usage) {
        let tokens = usage.input_tokens.plus(usage.output_tokens).0;
        let add = |used: u64| Some(used.saturating_add(tokens));
        if self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).is_err() {
            unreachable!("the sum always exists");
        }
    }
}

impl Kernel {
    /// The meter of a run that begins, or goes on after it `used` something: its parent's, where that one runs, which
    /// has counted that already; else its own.
    pub(crate) fn meter_for(&self, agent: &Agent, used: Usage) -> Arc<RunMeter> {
        let parent = agent.parent.and_then(|parent| self.table().agent(parent));
        let inherited = parent.and_then(|parent| parent.live().meter.clone());
        inherited.unwrap_or_else(|| {
            let now = self.clock().now();
            let purse = self.authority().purse(agent.id, now);
            let has_ceiling = purse.is_some_and(|purse| purse.remaining.get(Quantity::Tokens).is_some());
            let meter = RunMeter::new((!has_ceiling).then_some(Tokens(RUN_TOKENS)));
            meter.add(used);
            Arc::new(meter)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::RunMeter;
    use aaos_core::model::Usage;
    use aaos_core::quantity::Tokens;

    fn usage(input: u64, output: u64) -> Usage {
        Usage { input_tokens: Tokens(input), output_tokens: Tokens(output), cached_input_tokens: Tokens(0) }
    }

    #[test]
    fn input_and_output_count_up_to_the_limit() {
        let meter = RunMeter::new(Some(Tokens(100)));
        meter.add(usage(60, 39));
        assert!(!meter.is_spent());
        meter.add(usage(0, 1));
        assert!(meter.is_spent());
        meter.add(usage(u64::MAX, u64::MAX));
        assert!(meter.is_spent(), "a lying provider cannot turn the count round");
    }

    #[test]
    fn a_run_with_a_ceiling_of_its_own_is_not_bound() {
        let meter = RunMeter::new(None);
        meter.add(usage(u64::MAX, 0));
        assert!(!meter.is_spent());
    }
}
