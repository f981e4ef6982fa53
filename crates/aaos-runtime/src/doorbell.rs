//! Serving the connections of a program while it runs.
//!
//! Invariants: no connection is begun after the program's end, and its end is told when every connection is settled. A
//! sandbox has so many connections at once and in all, and one that breaks the protocol has no further ones.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use aaos_core::limits::{MAX_CALL_CONNECTIONS, MAX_RELAYED};
use aaos_core::toolio::ToolFailure;
use aaos_sandbox::{Doorbell, ProgramEnd, ProgramSandbox};
use tokio::task::{JoinError, JoinSet};

use crate::connections::ForProgram;
use crate::kernel::Kernel;
use crate::registry::Agent;

/// How long a program's connections may outlive it: somebody outside may not heed their end.
const LAST_NEWS: Duration = Duration::from_secs(2);

/// Connections that are being served.
type Served = JoinSet<Result<(), ToolFailure>>;

impl Kernel {
    /// Runs a program until its end or `stop`, and serves its connections meanwhile.
    pub(crate) async fn run_connected(
        &self,
        agent: &Arc<Agent>,
        of: ForProgram,
        mut sandbox: ProgramSandbox,
        stop: impl Future<Output = ToolFailure>,
    ) -> ProgramEnd {
        let doorbell = sandbox.take_doorbell();
        let mut served = Served::new();
        let end = tokio::select! {
            end = sandbox.run(stop) => end,
            never = self.serve_doorbell(agent, &of, doorbell, &mut served) => match never {},
        };
        if end.result.is_ok() {
            // Its ends of the connections went with it: what is left is what the gateway says of them.
            self.clock().timeout(LAST_NEWS, note_all(&mut served)).await;
        }
        of.stop.cancel();
        note_all(&mut served).await;
        end
    }

    async fn serve_doorbell(
        &self,
        agent: &Arc<Agent>,
        of: &ForProgram,
        doorbell: Option<Doorbell>,
        served: &mut Served,
    ) -> Infallible {
        let Some(mut doorbell) = doorbell else { return std::future::pending().await };
        let mut left = MAX_CALL_CONNECTIONS;
        loop {
            let rung = tokio::select! {
                rung = doorbell.rung(), if served.len() < MAX_RELAYED => rung,
                Some(ended) = served.join_next(), if !served.is_empty() => {
                    note_end(ended);
                    continue;
                }
            };
            let answered = match rung {
                Ok(()) => doorbell.answer_within(&mut left).await,
                Err(error) => Err(error),
            };
            match answered {
                Ok(Some(program)) => {
                    let (kernel, agent, of) = (self.clone(), Arc::clone(agent), of.clone());
                    served.spawn(async move { kernel.serve_connection(&agent, &of, program).await });
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "a program's doorbell is silent from here on");
                    return std::future::pending().await;
                }
            }
        }
    }
}

async fn note_all(served: &mut Served) {
    while let Some(ended) = served.join_next().await {
        note_end(ended);
    }
}

/// A connection that was refused is the program's business; where it was asked for by a name, it stands in the journal.
fn note_end(ended: Result<Result<(), ToolFailure>, JoinError>) {
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(failure)) => tracing::debug!(why = failure.message, "a program's connection was not made"),
        Err(error) => tracing::error!(%error, "serving a program's connection died"),
    }
}
