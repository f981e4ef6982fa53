//! The control socket: accept peers, read lines, answer them.
//!
//! Invariants: a peer is admitted by its kernel credentials before its first byte is read; every line, queue and
//! wait is bounded; whatever one client does (never reads, hangs up, sends rubbish), others and the kernel go on.

mod connection;
mod methods;
mod params;
mod peer;
mod rights;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use aaos_core::limits;
use aaos_runtime::Kernel;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// Descriptors kept for the journal, workers and files when connections are bounded.
const RESERVED_DESCRIPTORS: usize = 1024;
/// After `accept` failed for want of descriptors or memory, the next try comes this much later.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How many connections fit into this many descriptors.
pub(crate) fn connection_limit(descriptors: u64) -> usize {
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    let spare = descriptors.saturating_sub(RESERVED_DESCRIPTORS).max(descriptors / 2);
    spare.clamp(1, limits::MAX_CONNECTIONS)
}

/// Serves the control socket until the kernel closes; then waits for the connections to end.
pub(crate) async fn serve(kernel: Kernel, listener: UnixListener, most: usize) {
    let room = Arc::new(Semaphore::new(most));
    let connections = TaskTracker::new();
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            unreachable!("the semaphore is never closed");
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = kernel.closing().cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let kernel = kernel.clone();
                connections.spawn(async move {
                    match peer::admit(&stream, &kernel) {
                        Ok(principal) => connection::run(kernel, principal, stream).await,
                        Err(refused) => tracing::warn!(%refused, "a peer was refused"),
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

#[cfg(test)]
mod tests {
    use super::connection_limit;

    #[test]
    fn connections_leave_descriptors_for_the_rest() {
        assert_eq!(connection_limit(20_000), 16_384);
        assert_eq!(connection_limit(4096), 3072);
        assert_eq!(connection_limit(1024), 512);
        assert_eq!(connection_limit(0), 1);
    }
}
