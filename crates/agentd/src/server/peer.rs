//! Who is at the other end of a connection.
//!
//! Invariants: identity comes from the kernel (`SO_PEERCRED`), never from what the peer says; a peer in another
//! user or PID namespace is refused, because a sandboxed process can show the operator's uid there.

use std::io;

use aaos_runtime::Principal;
use tokio::net::UnixStream;

/// Why a peer was not let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerRefused {
    /// Its credentials could not be read.
    #[error("its credentials cannot be read")]
    Credentials(#[source] io::Error),
    /// Its process is not visible from here.
    #[error("its process is not in this PID namespace, or has ended")]
    Invisible,
    /// It lives in another namespace.
    #[error("process {pid} is in another {namespace} namespace")]
    Namespace {
        /// Its pid.
        pid: i32,
        /// Which namespace differs.
        namespace: &'static str,
    },
    /// Its uid may not speak to this daemon.
    #[error("uid {uid} may not speak to this daemon")]
    Uid {
        /// Its uid.
        uid: u32,
    },
}

/// Admits a peer, or says why not.
pub(crate) fn admit(stream: &UnixStream) -> Result<Principal, PeerRefused> {
    let credentials = stream.peer_cred().map_err(PeerRefused::Credentials)?;
    let pid = credentials.pid().filter(|pid| *pid > 0).ok_or(PeerRefused::Invisible)?;
    let uid = credentials.uid();
    let own = rustix::process::geteuid().as_raw();
    let principal = Principal::admit(uid, own).ok_or(PeerRefused::Uid { uid })?;
    for namespace in ["user", "pid"] {
        same_namespace(pid, namespace)?;
    }
    Ok(principal)
}

fn same_namespace(pid: i32, namespace: &'static str) -> Result<(), PeerRefused> {
    let of = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/{namespace}"));
    let theirs = of(&pid.to_string()).map_err(|_| PeerRefused::Invisible)?;
    let ours = of("self").map_err(PeerRefused::Credentials)?;
    if theirs == ours { Ok(()) } else { Err(PeerRefused::Namespace { pid, namespace }) }
}
