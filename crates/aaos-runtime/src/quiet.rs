//! Models whose providers asked to be left alone before agentd was restarted.
//!
//! Invariants: nobody asks such a model before that time, nor another one of its provider; a wait ends with it, with what asks, or with the daemon. What
//! a provider asks for while the daemon runs is the admission's own to keep.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use aaos_core::model::{ModelFailure, ModelFailureKind};
use aaos_core::name::ModelName;
use aaos_core::quantity::Timestamp;
use aaos_core::route::provider_of;
use aaos_core::services::ServiceReply;

use crate::inference::{stopped, waiting_words};
use crate::kernel::Kernel;
use crate::registry::Agent;

/// Until when each of these models is left alone.
#[derive(Debug, Default)]
pub(crate) struct Quiet(Mutex<BTreeMap<ModelName, Timestamp>>);

impl Quiet {
    pub(crate) fn recall(&self, quiet: BTreeMap<ModelName, Timestamp>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = quiet;
    }

    /// Whether nothing is to be waited for any more; what has passed is forgotten.
    fn is_over(&self, now: Timestamp) -> bool {
        let mut quiet = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        quiet.retain(|_, until| *until > now);
        quiet.is_empty()
    }

    /// Until when the models are to be left alone for which `is_same` holds.
    fn until(&self, is_same: impl Fn(&ModelName) -> bool) -> Option<Timestamp> {
        let quiet = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        quiet.iter().filter(|(model, _)| is_same(model)).map(|(_, until)| *until).max()
    }
}

impl Kernel {
    /// Waits as long as a model's provider wanted quiet. Fails at once where that is past the deadline, and when the
    /// agent stops or the daemon closes meanwhile.
    pub(crate) async fn keep_quiet(
        &self,
        agent: &Agent,
        model: &ModelName,
        deadline: Timestamp,
    ) -> Result<(), ServiceReply> {
        if self.quiet().is_over(self.clock().now()) {
            return Ok(());
        }
        // Where nobody can say who serves it, it stands for itself.
        let providers = self.providers().await.unwrap_or_default();
        let served = |model: &ModelName| provider_of(&providers, model).map(|provider| &provider.name);
        let own = served(model);
        let is_same = |other: &ModelName| other == model || (own.is_some() && served(other) == own);
        let Some(until) = self.quiet().until(is_same) else { return Ok(()) };
        if until >= deadline {
            return Err(ServiceReply::ModelFailed(still_quiet(model, until)));
        }
        agent.live().waiting_for =
            Some(format!("{}, as it asked before the restart", waiting_words(own, Some(until))));
        let stop = agent.stop_signal();
        let may_go_on = tokio::select! {
            () = self.clock().sleep_until(until) => true,
            () = stop.cancelled() => false,
            () = self.closing().cancelled() => false,
        };
        agent.live().waiting_for = None;
        if may_go_on { Ok(()) } else { Err(stopped(agent)) }
    }
}

fn still_quiet(model: &ModelName, until: Timestamp) -> ModelFailure {
    let message = format!(
        "the provider of {model} wants no request before {until}; another attempt would pass the deadline"
    );
    ModelFailure { kind: ModelFailureKind::RateLimited, message, retry_after: None }
}

#[cfg(test)]
mod tests {
    use super::Quiet;
    use aaos_core::name::ModelName;
    use aaos_core::quantity::Timestamp;

    #[test]
    fn a_model_is_left_alone_until_its_time_and_no_other_is() {
        let (busy, other) =
            (ModelName::parse("busy").expect("a name"), ModelName::parse("other").expect("a name"));
        let quiet = Quiet::default();
        assert!(quiet.is_over(Timestamp(1)), "the control: nothing was asked for");
        quiet.recall([(busy.clone(), Timestamp(9)), (other.clone(), Timestamp(5))].into());
        assert_eq!(quiet.until(|model| *model == busy), Some(Timestamp(9)));
        assert_eq!(quiet.until(|_| true), Some(Timestamp(9)), "the last of one provider's");
        assert_eq!(quiet.until(|_| false), None);
        assert!(!quiet.is_over(Timestamp(8)));
        assert_eq!(quiet.until(|model| *model == other), None, "what has passed is forgotten");
        assert!(quiet.is_over(Timestamp(9)));
    }
}
