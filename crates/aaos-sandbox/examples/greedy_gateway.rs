//! A gateway that wants its setup and does not lock itself: for the test that it gets none.
//!
//! As `models` it never says that it is locked, as `egress` it lies about it. Either way it waits a while for
//! its setup before it speaks, and whatever ever arrives it leaves in the file `taken` beside its program.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use aaos_confine::Channel;
use aaos_core::confinement::{Boundary, LockedReport, ProbeResult};
use serde::Serialize;

/// How long it waits before it speaks: far longer than a launcher that sends at once needs.
const GREED: Duration = Duration::from_secs(1);

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Words {
    Hello,
    Locked(LockedReport),
}

fn main() {
    let role = std::env::args().nth(2).expect("--role ROLE");
    let channel = Channel::inherited();
    let socket = rustix::io::dup(&channel).expect("its socket");
    rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, Some(GREED))
        .expect("a socket");
    take(&socket).expect("its own folder");
    let words = if role == "models" { Words::Hello } else { Words::Locked(made_up()) };
    channel.send(&words).expect("sent");
    while take(&socket).expect("its own folder") {}
}

/// Everything that a lock-down would report, and none of it true.
fn made_up() -> LockedReport {
    let refused = |boundary| ProbeResult {
        boundary,
        attempt: "everything".to_owned(),
        refused: true,
        detail: "EPERM".to_owned(),
    };
    LockedReport {
        landlock_abi: aaos_confine::kernel_abi(),
        landlock_rules_hash: "0".repeat(64),
        seccomp_filter_hash: "0".repeat(64),
        namespaces: Vec::new(),
        probes: vec![refused(Boundary::Landlock), refused(Boundary::ClosedDescriptors)],
    }
}

/// Takes what has come, and says whether more may come.
fn take(socket: &OwnedFd) -> io::Result<bool> {
    let mut bytes = [0; 4096];
    match rustix::io::read(socket, &mut bytes) {
        Ok(0) => Ok(false),
        Ok(got) => {
            let program = std::env::current_exe()?;
            let mut taken = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(program.with_file_name("taken"))?;
            taken.write_all(&bytes[..got])?;
            Ok(true)
        }
        Err(_) => Ok(true),
    }
}
