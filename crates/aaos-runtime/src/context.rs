//! How much of their windows the agents' conversations take, and what is known of their models' tokens.
//!
//! Invariants: what one agent learned of a model helps every later one that uses it, from its first request on; what a mind
//! begins with is recorded with its run, so that nothing that is learned here changes a run that is stepped again. What
//! is learned is bounded, and so is for how many models.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use aaos_agent::{Filling, Mind};
use aaos_core::limits::MAX_LEARNED_MODELS;
use aaos_core::name::ModelName;
use aaos_core::quantity::{Bytes, Tokens};
use serde::{Deserialize, Serialize};

use crate::kernel::Kernel;
use crate::registry::Agent;

/// What an agent's conversation takes of its window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextReport {
    /// The window.
    pub window: Tokens,
    /// What its next request takes, as far as its last report and what was added since tell.
    pub tokens: Tokens,
    /// Of its model's tokens it is known that so many bytes ...
    pub learned_bytes: Bytes,
    /// ... take so many.
    pub learned_tokens: Tokens,
}

/// What was learned of models: so many bytes in so many tokens.
#[derive(Debug, Default)]
pub(crate) struct Ratios(Mutex<HashMap<ModelName, (Bytes, Tokens)>>);

impl Ratios {
    /// Keeps what was learned last of a model; of one more than there is room for, nothing.
    pub(crate) fn learn(&self, model: &ModelName, ratio: (Bytes, Tokens)) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_LEARNED_MODELS || known.contains_key(model) {
            known.insert(model.clone(), ratio);
        }
    }

    pub(crate) fn of(&self, model: &ModelName) -> Option<(Bytes, Tokens)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(model).copied()
    }
}

impl Kernel {
    /// A mind that got no report yet begins with what others learned of its model.
    pub(crate) fn teach(&self, agent: &Agent, mind: &mut Mind) {
        if let Some((bytes, tokens)) = self.ratios().of(&agent.manifest.model) {
            mind.assume(bytes, tokens);
        }
    }

    /// Notes what a mind's conversation takes, and what it learned of its model where a report came.
    pub(crate) fn note_filling(&self, agent: &Agent, mind: &Mind) {
        let Filling { window, tokens, ratio, is_reported } = mind.filling();
        if is_reported {
            self.ratios().learn(&agent.manifest.model, ratio);
        }
        let (learned_bytes, learned_tokens) = ratio;
        agent.live().context = Some(ContextReport { window, tokens, learned_bytes, learned_tokens });
    }
}

#[cfg(test)]
mod tests {
    use aaos_core::limits::MAX_LEARNED_MODELS;
    use aaos_core::name::ModelName;
    use aaos_core::quantity::{Bytes, Tokens};

    use super::Ratios;

    #[test]
    fn what_was_learned_last_of_a_model_is_kept_of_so_many_and_no_more() {
        let ratios = Ratios::default();
        let model = |number: usize| ModelName::parse(&format!("model-{number}")).expect("a name");
        for number in 0..=MAX_LEARNED_MODELS {
            ratios.learn(&model(number), (Bytes(3), Tokens(1)));
        }
        ratios.learn(&model(0), (Bytes(4), Tokens(1)));
        assert_eq!(ratios.of(&model(0)), Some((Bytes(4), Tokens(1))));
        assert_eq!(ratios.of(&model(MAX_LEARNED_MODELS - 1)), Some((Bytes(3), Tokens(1))));
        assert_eq!(ratios.of(&model(MAX_LEARNED_MODELS)), None);
    }
}
