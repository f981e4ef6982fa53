//! A gateway that connects where its setup says and probes its own confinement: for the tests of the
//! lock-down.

use std::net::SocketAddr;

use aaos_confine::{Channel, GatewayRole, lock_gateway, run_probes};
use aaos_core::confinement::{LockedReport, ProbeResult};
use aaos_core::wire::ProbeAttempt;
use serde::Serialize;
use tokio::io::AsyncReadExt;

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Locked(LockedReport),
    Seen { probes: Vec<ProbeResult>, greeting: String, listens: bool },
}

fn main() {
    let role: GatewayRole = std::env::args().nth(2).expect("--role ROLE").parse().expect("a role");
    let channel = Channel::inherited();
    let report = lock_gateway(role).expect("locked");
    channel.send(&Reply::Locked(report)).expect("sent");
    let (target, _) = channel.receive::<SocketAddr>().expect("the setup");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let (greeting, listens) = runtime.expect("a runtime").block_on(async move {
        let connected = tokio::spawn(async move {
            let mut stream = tokio::net::TcpStream::connect(target).await?;
            let mut greeting = String::new();
            stream.read_to_string(&mut greeting).await?;
            std::io::Result::Ok(greeting)
        });
        let listens = tokio::net::TcpListener::bind("127.0.0.1:0").await.is_ok();
        (connected.await.expect("joined").unwrap_or_else(|error| error.to_string()), listens)
    });
    let (attempts, _) = channel.receive::<Vec<ProbeAttempt>>().expect("attempts");
    let probes = run_probes(&attempts);
    channel.send(&Reply::Seen { probes, greeting, listens }).expect("sent");
    drop(channel.receive::<()>());
}
