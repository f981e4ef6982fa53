//! Whether a provider answers, and takes its key: its list of models is asked for.
//!
//! Invariants: nothing is inferred and nothing is paid; of the answer only the status counts, and an error's words go
//! through [`failure`](super::failure), which takes the key out of them.

use std::time::Duration;

use aaos_core::model::{ModelFailure, ModelFailureKind, Standing};
use aaos_core::name::ProviderName;
use aaos_core::quantity::Millis;
use hyper::StatusCode;

use super::cassette::Heard;
use super::provider::{Endpoint, Provider, Service};
use super::{Desk, failure, out_of_time, read_beginning};

impl Desk {
    /// How a provider is found now, within a time.
    pub(super) async fn probe(&self, name: &ProviderName, time: Millis) -> Standing {
        let Some(provider) = self.providers.iter().find(|one| one.name == *name) else {
            return Standing::Unreachable { why: format!("no provider is named {name}") };
        };
        // A replay asks nobody.
        if !self.deck.asks_providers() {
            return Standing::Unchecked;
        }
        let endpoint = match &provider.service {
            Service::Builtin => return Standing::Reachable,
            Service::Unusable(why) => return Standing::Unreachable { why: why.clone() },
            Service::Remote(endpoint) => endpoint,
        };
        let limit = Duration::from_millis(time.0);
        match tokio::time::timeout(limit, self.list(provider, endpoint)).await {
            Ok(Ok(())) => Standing::Reachable,
            Ok(Err(failure)) => standing(failure),
            Err(_) => standing(out_of_time(time.0)),
        }
    }

    async fn list(&self, provider: &Provider, endpoint: &Endpoint) -> Result<(), ModelFailure> {
        let name = provider.name.as_str();
        let http = endpoint.prepare_list(provider.key())?;
        let unreachable = |error| failure::of_dial(name, &error);
        let addresses = endpoint.server.addresses(&self.dialer).await.map_err(unreachable)?;
        let answer =
            self.dialer.exchange(&addresses, &endpoint.server.layer(), http).await.map_err(unreachable)?;
        let mut heard = Heard::live(answer);
        match heard.status {
            StatusCode::OK => Ok(()),
            // Whoever has no such list, or none for this key, is there all the same, and so is who has had enough requests.
            other if other.is_client_error() && other != StatusCode::UNAUTHORIZED => Ok(()),
            _ => {
                let body = read_beginning(&mut heard).await;
                Err(failure::of_status(name, &heard, &body, provider.key()))
            }
        }
    }
}

fn standing(failure: ModelFailure) -> Standing {
    let why = failure.message;
    match failure.kind {
        ModelFailureKind::Unauthorized => Standing::KeyRefused { why },
        _ => Standing::Unreachable { why },
    }
}
