//! Models that this machine runs itself: whoever has a turn is connected to a process, which is started for it.
//!
//! Invariants: a request for such a model goes to its process and to nobody else. One inference runs at a time, so that
//! whoever is connected has the process for itself. Starting it takes no attempt and no turn of another provider. A process
//! that takes up no request, or answers one not in time, is not asked again.

use std::fmt::Debug;
use std::pin::Pin;

use aaos_core::model::{ModelFailure, ProviderState};
use aaos_core::name::ModelName;
use aaos_core::route::provider_of;
use tokio::net::UnixStream;

use crate::link::Link;

/// An answer that is waited for.
pub type Awaited<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The connection to one process with a model in it. Clones share it.
#[derive(Debug, Clone)]
pub struct Connection(pub(crate) Link);

impl Connection {
    /// Takes over a connection that is past its setup. Must be called within a runtime.
    #[must_use]
    pub fn over(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self(Link::start(reader, writer))
    }

    /// Whether both are the same one.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.0.is(&other.0)
    }

    /// Whether it is lost, which it stays.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Whether nobody waits for an answer over it.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.0.is_idle()
    }
}

/// Who starts and ends the processes of one provider's models.
pub trait Host: Debug + Send + Sync + 'static {
    /// The provider, as it is described.
    fn provider(&self) -> &ProviderState;

    /// The connection to a model that is there already.
    fn connected(&self, model: &ModelName) -> Option<Connection>;

    /// The connection to a model, which is started if need be. Whoever asks has the only turn.
    ///
    /// # Errors
    /// Why there is none; asking again at once would not help.
    fn connect<'a>(&'a self, model: &'a ModelName) -> Awaited<'a, Result<Connection, ModelFailure>>;

    /// Ends the process behind a connection that it gave, which is of no more use: what was noticed says why. Gives the
    /// same with what is known of the process.
    fn lost<'a>(&'a self, connection: &'a Connection, noticed: &'a str) -> Awaited<'a, ModelFailure>;
}

/// Whether a model is one of this host's.
pub(crate) fn serves(host: &dyn Host, model: &ModelName) -> bool {
    provider_of(std::slice::from_ref(host.provider()), model).is_some()
}
