//! Who is at the other end of a connection.
//!
//! Invariants: identity comes from the kernel (`SO_PEERCRED`), never from what the peer says; a peer in another
//! user or PID namespace is refused, because a sandboxed process can show the operator's uid there.

use std::io;

use aaos_runtime::{Kernel, Principal};
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
pub(crate) fn admit(stream: &UnixStream, kernel: &Kernel) -> Result<Principal, PeerRefused> {
    let credentials = stream.peer_cred().map_err(PeerRefused::Credentials)?;
    let pid = credentials.pid().filter(|pid| *pid > 0).ok_or(PeerRefused::Invisible)?;
    let uid = credentials.uid();
    let principal = kernel.admit(uid).ok_or(PeerRefused::Uid { uid })?;
    for namespace in ["user", "pid"] {
        same_namespace(pid, namespace)?;
    }
    Ok(principal)
}

fn same_namespace(pid: i32, namespace: &'static str) -> Result<(), PeerRefused> {
    let of = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/{namespace}"));
    let ours = of("self").map_err(PeerRefused::Credentials)?;
    let same = match of(&pid.to_string()) {
        Ok(theirs) => theirs == ours,
        // Only who may trace a process may see its links; a peer of another uid shows the daemon these files.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => looks_alike(pid, namespace)?,
        Err(_) => return Err(PeerRefused::Invisible),
    };
    if same { Ok(()) } else { Err(PeerRefused::Namespace { pid, namespace }) }
}

/// Whether a peer's uid map, or how deep its pid is nested, is the daemon's own. A user namespace that an
/// unprivileged process makes maps its own uid alone, and a PID namespace below gives a pid a second number.
fn looks_alike(pid: i32, namespace: &'static str) -> Result<bool, PeerRefused> {
    let read = |who: &str, what: &str| std::fs::read_to_string(format!("/proc/{who}/{what}"));
    let what = if namespace == "user" { "uid_map" } else { "status" };
    let theirs = read(&pid.to_string(), what).map_err(|_| PeerRefused::Invisible)?;
    let ours = read("self", what).map_err(PeerRefused::Credentials)?;
    Ok(match namespace {
        "user" => !theirs.is_empty() && theirs == ours,
        _ => nesting(&theirs).is_some() && nesting(&theirs) == nesting(&ours),
    })
}

/// How many PID namespaces, seen from this one, a process has a number in.
fn nesting(status: &str) -> Option<usize> {
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    Some(numbers.split_whitespace().count())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::{looks_alike, nesting, same_namespace};

    #[test]
    fn a_process_of_these_namespaces_is_known_by_its_links_and_by_its_files() {
        let own = i32::try_from(std::process::id()).expect("a pid");
        for namespace in ["user", "pid"] {
            assert!(same_namespace(own, namespace).is_ok());
            assert!(looks_alike(own, namespace).expect("readable"));
        }
        assert_eq!(nesting("Name:\tx\nNSpid:\t71\t1\n"), Some(2), "a pid below another namespace");
        assert_eq!(nesting("NSpid:\t71\n"), Some(1));
        assert_eq!(nesting("Pid:\t71\n"), None);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a process in namespaces of its own has to be started")]
    fn a_process_in_namespaces_of_its_own_is_told_both_ways() {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-current-user", "--pid", "--fork", "sh", "-c", "echo up; read line"]);
        let started = unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = started.expect("unshare of util-linux");
        let mut up = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut up).expect("read");
        if up.is_empty() {
            eprintln!("not run: this machine lets nobody make user namespaces");
            assert!(!child.wait().expect("waited").success());
            return;
        }
        let below = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id()));
        let shell: i32 = below.expect("readable").trim().parse().expect("one child");
        for namespace in ["user", "pid"] {
            assert!(same_namespace(shell, namespace).is_err(), "{namespace}");
            assert!(!looks_alike(shell, namespace).expect("readable"), "{namespace}");
        }
        drop(child.stdin.take());
        child.wait().expect("waited");
    }
}
