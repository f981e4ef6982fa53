//! How each provider was found the last time that something was asked of it.
//!
//! Invariants: only what a provider itself did or failed to do counts, never what one request was refused for; a failure
//! puts it last among the meanings of an alias for a while, and out of none.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use aaos_core::limits::PROVIDER_DOWN_MS;
use aaos_core::model::{ModelFailure, ModelFailureKind, ProviderState, Standing};
use aaos_core::name::ProviderName;
use aaos_core::quantity::{Millis, Timestamp};

/// By provider; there are no more than are configured.
#[derive(Debug, Default)]
pub(crate) struct Standings(Mutex<BTreeMap<ProviderName, Found>>);

#[derive(Debug)]
struct Found {
    standing: Standing,
    at: Timestamp,
    /// Whether a request for a reply found it so, and not one for a list.
    by_request: bool,
}

impl Found {
    fn is_recent(&self, now: Timestamp) -> bool {
        now < self.at.after(Millis(PROVIDER_DOWN_MS))
    }

    fn is_down(&self, now: Timestamp) -> bool {
        let has_failed = matches!(self.standing, Standing::KeyRefused { .. } | Standing::Unreachable { .. });
        has_failed && self.is_recent(now)
    }
}

impl Standings {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ProviderName, Found>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how a request for a reply found a provider.
    pub(crate) fn note(&self, provider: &ProviderName, standing: &Standing, now: Timestamp) {
        let found = Found { standing: standing.clone(), at: now, by_request: true };
        self.lock().insert(provider.clone(), found);
    }

    /// Notes how a request for its list of models found a provider, and gives whether that is news. Some give that list
    /// to anybody, and some to nobody, so it proves nothing against what a request for a reply has just met.
    pub(crate) fn note_probe(&self, provider: &ProviderName, standing: &Standing, now: Timestamp) -> bool {
        let mut all = self.lock();
        let before = all.get(provider);
        let just_met = before.filter(|before| before.by_request && before.is_recent(now));
        let knows_better =
            just_met.is_some_and(|met| [&met.standing, standing].contains(&&Standing::Reachable));
        if knows_better {
            return false;
        }
        let is_news = before.is_none_or(|before| before.standing != *standing);
        let found = Found { standing: standing.clone(), at: now, by_request: false };
        all.insert(provider.clone(), found);
        is_news
    }

    /// Whether it failed a short while ago.
    pub(crate) fn is_down(&self, provider: &ProviderName, now: Timestamp) -> bool {
        self.lock().get(provider).is_some_and(|found| found.is_down(now))
    }

    /// Adds how each was found.
    pub(crate) fn show(&self, providers: &mut [ProviderState]) {
        let found = self.lock();
        for provider in providers {
            if let Some(found) = found.get(&provider.name) {
                provider.standing = found.standing.clone();
            }
        }
    }
}

/// What a failed inference says about the provider; none where it is about the request.
pub(crate) fn standing_of(failure: &ModelFailure) -> Option<Standing> {
    let why = failure.message.clone();
    match failure.kind {
        ModelFailureKind::Unauthorized => Some(Standing::KeyRefused { why }),
        ModelFailureKind::Unavailable
        | ModelFailureKind::Timeout
        | ModelFailureKind::CutStream
        | ModelFailureKind::MalformedReply => Some(Standing::Unreachable { why }),
        ModelFailureKind::RateLimited
        | ModelFailureKind::EmptyReply
        | ModelFailureKind::TooLong
        | ModelFailureKind::Rejected
        | ModelFailureKind::UnknownModel
        | ModelFailureKind::NotUnderstood
        | ModelFailureKind::WorkFailed
        | ModelFailureKind::NotRecorded => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Standings;
    use aaos_core::limits::PROVIDER_DOWN_MS;
    use aaos_core::model::Standing;
    use aaos_core::name::ProviderName;
    use aaos_core::quantity::{Millis, Timestamp};

    #[test]
    fn a_failure_counts_for_a_while_and_until_the_next_success() {
        let standings = Standings::default();
        let name = ProviderName::parse("alpha").expect("a name");
        let down = || Standing::Unreachable { why: "it is gone".to_owned() };
        assert!(!standings.is_down(&name, Timestamp(1)), "the control: nothing is known");
        assert!(standings.note_probe(&name, &down(), Timestamp(10)));
        assert!(!standings.note_probe(&name, &down(), Timestamp(10)), "no news");
        assert!(standings.is_down(&name, Timestamp(10 + PROVIDER_DOWN_MS - 1)));
        assert!(!standings.is_down(&name, Timestamp(10 + PROVIDER_DOWN_MS)));
        assert!(standings.note_probe(&name, &Standing::Reachable, Timestamp(11)), "it is there again");
        assert!(!standings.is_down(&name, Timestamp(11)));
        let why = "the key is wrong".to_owned();
        standings.note(&name, &Standing::KeyRefused { why }, Timestamp(12));
        assert!(standings.is_down(&name, Timestamp(12)));
        assert!(!standings.note_probe(&name, &Standing::Reachable, Timestamp(13)), "a list proves nothing");
        assert!(standings.is_down(&name, Timestamp(13)));
        let later = Timestamp(12 + PROVIDER_DOWN_MS);
        assert!(standings.note_probe(&name, &Standing::Reachable, later), "until the minute is over");
        standings.note(&name, &down(), later);
        standings.note(&name, &Standing::Reachable, later);
        assert!(!standings.is_down(&name, later), "and a reply proves everything");
        assert!(!standings.note_probe(&name, &down(), later), "against which a list proves nothing either");
        assert!(!standings.is_down(&name, later));
        let later = later.after(Millis(PROVIDER_DOWN_MS));
        assert!(standings.note_probe(&name, &down(), later), "until the minute is over");
        assert!(standings.is_down(&name, later));
        let other = ProviderName::parse("beta").expect("a name");
        assert!(!standings.is_down(&other, Timestamp(12)), "it is about one provider");
    }
}
