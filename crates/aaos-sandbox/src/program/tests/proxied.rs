//! Programs that have a proxy: they reach it, nothing else, and whoever answers their doorbell decides all the rest.

use std::convert::Infallible;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use aaos_core::program::{PROXY_PORT, proxy_environment};

use super::*;
use crate::Doorbell;

fn client() -> String {
    built("examples/proxied_program").to_str().expect("a plain path").to_owned()
}

fn proxied(programs: &[&str]) -> Rig {
    let mut rig = Rig::new(programs);
    rig.world.network = true;
    rig
}

/// Answers everybody who knocks: says `hello`, then what it was told, until the program says no more.
async fn echo(doorbell: Option<Doorbell>) -> Infallible {
    let mut doorbell = doorbell.expect("it has a proxy");
    let mut served = JoinSet::new();
    loop {
        doorbell.rung().await.expect("the sandbox lives");
        let Ok(Some(program)) = doorbell.answer().await else { return std::future::pending().await };
        let program = std::os::unix::net::UnixStream::from(program);
        program.set_nonblocking(true).expect("a socket");
        served.spawn(async move {
            let mut program = UnixStream::from_std(program).expect("in a runtime");
            program.write_all(b"hello ").await.unwrap_or_default();
            let (mut from, mut to) = program.split();
            tokio::io::copy(&mut from, &mut to).await.unwrap_or_default();
        });
    }
}

async fn run_echoed(rig: &Rig, asked: CommandRunInput) -> CommandRunOutput {
    let mut prepared = rig.prepare(asked).await.expect("a sandbox");
    let doorbell = prepared.take_doorbell();
    assert!(prepared.take_doorbell().is_none(), "given once");
    let end = tokio::select! {
        end = prepared.run(std::future::pending()) => end,
        never = echo(doorbell) => match never {},
    };
    end.result.expect("it ran")
}

#[tokio::test]
async fn a_program_reaches_its_proxy_and_no_other_socket() {
    let client = client();
    let (free, rig) = (Rig::new(&[&client]), proxied(&[&client]));
    let proxy = format!("127.0.0.1:{PROXY_PORT}");
    let said = run_echoed(&rig, input(&client, &["connect", &proxy])).await;
    assert_eq!(said.stdout, "allowed\n", "{said:?}");
    let without = free.run(input(&client, &["connect", &proxy])).await.expect("it runs");
    assert_eq!(without.stdout, format!("refused with {}\n", libc::EPERM), "no proxy, no socket");
    for (attempt, errno) in [
        ("another-port", libc::EACCES),
        ("listen", libc::EPERM),
        ("bind", libc::EPERM),
        ("udp", libc::EPERM),
        ("raw", libc::EPERM),
        ("mptcp", libc::EPERM),
        ("inet6", libc::EPERM),
        ("unix", libc::EPERM),
        ("unix-datagram", libc::EPERM),
        ("netlink", libc::EPERM),
        ("packet", libc::EPERM),
        ("vsock", libc::EPERM),
    ] {
        let said = run_echoed(&rig, input(&client, &[attempt])).await;
        assert_eq!(said.stdout, format!("refused with {errno}\n"), "{attempt}: {said:?}");
        let outside = text_of(&outside(&client, &[attempt]));
        let is_roots = ["raw", "packet"].contains(&attempt) && !rustix::process::geteuid().is_root();
        // Outside nobody has to listen on that port, and a kernel may lack the others: the control says what else then.
        let may_lack = ["another-port", "mptcp", "vsock"].contains(&attempt);
        assert!(is_roots || may_lack || outside == "allowed\n", "the control of {attempt}: {outside}");
        assert!(is_roots || outside != said.stdout, "the control of {attempt}: {outside}");
    }
    rig.sandbox.shutdown().await;
    free.sandbox.shutdown().await;
}

#[tokio::test]
async fn bytes_go_both_ways_and_programs_are_told_of_their_proxy() {
    let client = client();
    let rig = proxied(&[&client, "/usr/bin/env"]);
    let asked = CommandRunInput { stdin: Some("again".to_owned()), ..input(&client, &["talk", "half"]) };
    assert_eq!(run_echoed(&rig, asked).await.stdout, "hello again");
    let told = run_echoed(&rig, input("/usr/bin/env", &[])).await.stdout;
    assert_eq!(told, proxy_environment().join("\n") + "\n");
    for name in ["http_proxy", "HTTPS_PROXY", "all_proxy"] {
        assert!(told.contains(&format!("{name}=http://127.0.0.1:{PROXY_PORT}\n")), "{told}");
    }
    rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn the_receipt_says_what_the_network_is() {
    let rig = proxied(&["/bin/true"]);
    let detail = |sandbox: &super::super::ProgramSandbox| {
        let receipt = sandbox.receipt();
        assert!(receipt.boundaries.iter().all(|one| {
            one.boundary == Boundary::OwnUid || one.boundary == Boundary::Cgroup || one.evidence.is_proof()
        }));
        let network = receipt.boundaries.iter().find(|one| one.boundary == Boundary::NetNamespace);
        let network = network.expect("named");
        assert_eq!(network.evidence, Evidence::Observed);
        network.detail.clone()
    };
    let asked = || input("/bin/true", &[]);
    let with = rig.prepare(asked()).await.expect("a sandbox");
    let own = "its net namespace is not the daemon's";
    assert_eq!(
        detail(&with),
        format!("{own}; in it are loopback and, of TCP over IPv4, the proxy's port {PROXY_PORT} alone")
    );
    let bare = Rig::new(&["/bin/true"]);
    let without = bare.prepare(asked()).await.expect("a sandbox");
    assert_eq!(detail(&without), own);
    let hashes = [&with, &without].map(|one| {
        let receipt = one.receipt();
        (receipt.seccomp_filter_hash.clone(), receipt.landlock_rules_hash.clone())
    });
    assert!(hashes[0].0 != hashes[1].0 && hashes[0].1 != hashes[1].1, "they are confined otherwise");
    drop((with, without));
    rig.sandbox.shutdown().await;
    bare.sandbox.shutdown().await;
}

#[tokio::test]
async fn crowds_of_connections_are_served_in_turn_and_end_with_the_program() {
    let client = client();
    let mut rig = proxied(&[&client, "/bin/sh"]);
    let copy = format!("{}/client", rig.grant(FileRight::Read, "read"));
    fs::copy(&client, &copy).expect("copied");
    // As many as there are descriptors at once, of which the relay takes only so many at a time.
    let said = run_echoed(&rig, input(&client, &["hold", "5000"])).await;
    let held: usize = said.stdout.trim().parse().expect("a number");
    assert!(held > 900 && held < 1024, "{said:?}");
    rig.assert_idle().await;
    // Who ends its own relay has no network any more, a moment later, and nothing else is lost.
    let connect = format!("{copy} connect 127.0.0.1:{PROXY_PORT}");
    let script =
        format!("{connect}; kill -9 -1; while {connect} | grep allowed >/dev/null; do :; done; {connect}");
    let said = run_echoed(&rig, input("/bin/sh", &["-c", &script])).await;
    assert_eq!(said.stdout, format!("allowed\nrefused with {}\n", libc::ECONNREFUSED), "{said:?}");
    rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn a_sealed_program_has_no_proxy_whatever_is_granted() {
    let client = client();
    let rig = proxied(&[&client]);
    let asked = || input(&client, &["connect", &format!("127.0.0.1:{PROXY_PORT}")]);
    let sealed = ProgramCall::sealed(asked(), Vec::new(), &rig.world);
    assert!(rig.world.network && !sealed.world().network);
    let said = rig.run_call(sealed).await.expect("it runs").stdout;
    assert_eq!(said, format!("refused with {}\n", libc::EPERM));
    assert_eq!(run_echoed(&rig, asked()).await.stdout, "allowed\n", "the control");
    rig.sandbox.shutdown().await;
}

/// Calls of a relay that is interrupted, or that ends before its sandbox does; and of one with more connections.
const SELDOM: [&str; 4] = ["restart_syscall", "write", "exit_group", "brk"];

#[tokio::test]
async fn a_relay_makes_every_call_that_it_is_allowed() {
    let client = client();
    let rig = proxied(&[&client]);
    let file = rig.home.path().join("trace");
    let mut tracer = testkit::trace_with_children(rig.sandbox.zygote_pid(), &file);
    let asked = CommandRunInput { stdin: Some("again".to_owned()), ..input(&client, &["talk", "half"]) };
    assert_eq!(run_echoed(&rig, asked).await.stdout, "hello again");
    rig.assert_idle().await;
    rig.sandbox.shutdown().await;
    tracer.wait().expect("reaped");
    let trace = fs::read_to_string(&file).expect("written");
    let calls =
        || trace.lines().filter_map(|line| line.split_once(' ')).map(|(pid, call)| (pid, call.trim_start()));
    let relay = calls().find(|(_, call)| call.starts_with("accept4(")).expect("somebody accepts").0;
    let own: Vec<&str> = calls().filter(|(pid, _)| *pid == relay).map(|(_, call)| call).collect();
    let locked = own.iter().position(|call| call.starts_with("seccomp(")).expect("it locks itself");
    let is_made = |name: &str| own[locked..].iter().any(|call| call.starts_with(&format!("{name}(")));
    let names = aaos_confine::tables::RELAY.iter().map(|rule| rule.name.trim_start_matches("SYS_"));
    let unused: Vec<&str> = names.filter(|name| !SELDOM.contains(name) && !is_made(name)).collect();
    assert!(unused.is_empty(), "{unused:?} are allowed for nothing");
}
