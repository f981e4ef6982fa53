//! A program that uses its proxy, or tries to get past it, and says what came of it. Started without a sandbox it is the
//! control.
//!
//! Invariant: it undoes nothing and needs to: each attempt is its last act.
#![allow(unsafe_code, reason = "the attempts are raw calls")]

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd};

/// The discard port of this machine, where nobody has to listen.
const NOBODY: &str = "127.0.0.1:9";

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let given = |at: usize| arguments.get(at).map(String::as_str).unwrap_or_default();
    match given(0) {
        "talk" => talk(given(1)),
        "count" => count(),
        "many" => many(number(given(1))?),
        "crowd" => crowd(number(given(1))?),
        "hold" => hold(number(given(1))?),
        attempt => told(attempt_of(attempt, given(1))),
    }
}

fn number(text: &str) -> io::Result<usize> {
    text.parse().map_err(io::Error::other)
}

fn told(result: io::Result<()>) -> io::Result<()> {
    let words = result.map_err(|error| error.raw_os_error().unwrap_or(0));
    match words {
        Ok(()) => writeln!(io::stdout(), "allowed"),
        Err(errno) => writeln!(io::stdout(), "refused with {errno}"),
    }
}

fn attempt_of(attempt: &str, given: &str) -> io::Result<()> {
    match attempt {
        "connect" => TcpStream::connect(given).map(drop),
        "another-port" => TcpStream::connect(NOBODY).map(drop),
        "listen" => listen_without_a_port(),
        "bind" => TcpListener::bind("127.0.0.1:0").map(drop),
        "udp" => socket(libc::AF_INET, libc::SOCK_DGRAM, 0),
        "raw" => socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
        "mptcp" => socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP),
        "inet6" => socket(libc::AF_INET6, libc::SOCK_STREAM, 0),
        "unix" => socket(libc::AF_UNIX, libc::SOCK_STREAM, 0),
        "unix-datagram" => socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0),
        "netlink" => socket(libc::AF_NETLINK, libc::SOCK_RAW, 0),
        "packet" => socket(libc::AF_PACKET, libc::SOCK_RAW, 0),
        "vsock" => socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0),
        other => Err(io::Error::other(format!("no attempt {other}"))),
    }
}

fn made(descriptor: libc::c_int) -> io::Result<OwnedFd> {
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<()> {
    // SAFETY: plain numbers.
    made(unsafe { libc::socket(family, kind, protocol) }).map(drop)
}

/// A socket that was not bound gets a port of the kernel's choice, past every rule about binding.
fn listen_without_a_port() -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: plain numbers.
    let socket = made(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) })?;
    // SAFETY: plain numbers.
    if unsafe { libc::listen(socket.as_raw_fd(), 1) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[expect(clippy::disallowed_methods, reason = "programs are told of their proxy by a variable")]
fn proxy() -> io::Result<TcpStream> {
    let url = std::env::var("http_proxy").map_err(io::Error::other)?;
    let authority = url.strip_prefix("http://").ok_or_else(|| io::Error::other(url.clone()))?;
    TcpStream::connect(authority)
}

/// The standard input goes to the proxy, and what comes back to the standard output. `half` says that nothing more comes.
fn talk(how: &str) -> io::Result<()> {
    let mut proxy = say_input(how)?;
    let mut piece = [0; 4096];
    loop {
        match proxy.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(got) => io::stdout().write_all(&piece[..got]).and_then(|()| io::stdout().flush())?,
            // One that was cut may end so.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn say_input(how: &str) -> io::Result<TcpStream> {
    let mut said = Vec::new();
    io::stdin().read_to_end(&mut said)?;
    let mut proxy = proxy()?;
    proxy.write_all(&said)?;
    if how == "half" {
        proxy.shutdown(std::net::Shutdown::Write)?;
    }
    Ok(proxy)
}

/// The same, and says only how many bytes came back.
fn count() -> io::Result<()> {
    let mut proxy = say_input("")?;
    let mut piece = vec![0; 64 * 1024];
    let mut total = 0_usize;
    loop {
        match proxy.read(&mut piece) {
            Ok(0) | Err(_) => return writeln!(io::stdout(), "{total}"),
            Ok(got) => total += got,
        }
    }
}

/// The same over so many connections at once, and says how many were let through when all have ended.
fn many(connections: usize) -> io::Result<()> {
    let mut said = Vec::new();
    io::stdin().read_to_end(&mut said)?;
    let mut open = Vec::new();
    for _ in 0..connections {
        let mut proxy = proxy()?;
        proxy.write_all(&said)?;
        open.push(proxy);
    }
    let mut answered = 0;
    for mut proxy in open {
        let mut answer = String::new();
        proxy.read_to_string(&mut answer)?;
        answered += usize::from(answer.starts_with("HTTP/1.1 200 "));
    }
    writeln!(io::stdout(), "{answered}")
}

/// So many connections one after the other; each asks for what is no request, and is told so. Says how many were, and to
/// how many nobody listened.
fn crowd(connections: usize) -> io::Result<()> {
    let (mut answered, mut refused) = (0, 0);
    for _ in 0..connections {
        let mut proxy = match proxy() {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                refused += 1;
                continue;
            }
            connected => connected?,
        };
        let mut answer = String::new();
        // One that is closed at once is none that was answered.
        let asked = proxy.write_all(b"nonsense\r\n\r\n");
        let heard = asked.and_then(|()| proxy.read_to_string(&mut answer));
        answered += usize::from(heard.is_ok() && answer.starts_with("HTTP/1.1 400 "));
    }
    writeln!(io::stdout(), "{answered} {refused}")
}

/// So many connections at once, as far as there are descriptors, of which none says anything.
fn hold(connections: usize) -> io::Result<()> {
    let mut held = Vec::new();
    let flags = libc::SOCK_STREAM | libc::SOCK_NONBLOCK;
    for _ in 0..connections {
        // SAFETY: plain numbers.
        let Ok(socket) = made(unsafe { libc::socket(libc::AF_INET, flags, 0) }) else { break };
        begin_to_connect(&socket)?;
        held.push(socket);
    }
    writeln!(io::stdout(), "{}", held.len())
}

fn begin_to_connect(socket: &OwnedFd) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: aaos_core::program::PROXY_PORT.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
        sin_zero: [0; 8],
    };
    let length = libc::socklen_t::try_from(size_of_val(&address)).map_err(io::Error::other)?;
    // SAFETY: the address outlives the call and is as long as said.
    if unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        error => Err(error),
    }
}
