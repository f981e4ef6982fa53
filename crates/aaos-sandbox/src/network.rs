//! What a network namespace holds, read back from the kernel.
//!
//! Invariant: of a program that has a proxy nothing else may be seen there than the loopback interface and the proxy's
//! listener.

use std::io;
use std::path::Path;

use crate::receipt::read_proc;

/// The interface that every network namespace has.
const LOOPBACK: &str = "lo";
/// Tunnels without an end that the kernel itself puts into every network namespace where their modules are loaded
/// (`net.core.fb_tunnels_only_for_init_net`). They are down, and nobody in a sandbox may set them up.
const FALLBACK_TUNNELS: [&str; 9] =
    ["tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6tnl0", "ip6gre0"];
/// `TCP_LISTEN` of include/net/tcp_states.h, as /proc/net/tcp writes it.
const LISTENS: &str = "0A";

/// Interfaces and sockets of TCP over IPv4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetworkSeen {
    interfaces: Vec<String>,
    /// Local address and state of each, as the kernel writes them.
    sockets: Vec<(String, String)>,
}

impl NetworkSeen {
    /// Looks into the network namespace of a process.
    pub(crate) fn read(place: &Path) -> io::Result<Self> {
        Ok(Self::of(&read_proc(&place.join("net/dev"))?, &read_proc(&place.join("net/tcp"))?))
    }

    fn of(dev: &str, tcp: &str) -> Self {
        let interface = |line: &str| line.split_once(':').map(|(name, _)| name.trim().to_owned());
        let socket = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            let (local, _remote, state) = (words.next()?, words.next()?, words.next()?);
            Some((local.to_owned(), state.to_owned()))
        };
        let interfaces = dev.lines().skip(2).filter_map(interface).collect();
        Self { interfaces, sockets: tcp.lines().skip(1).filter_map(socket).collect() }
    }

    /// Whether there is a listener on this port of the loopback interface, and no other interface that leads anywhere and no
    /// other socket of TCP over IPv4.
    pub(crate) fn is_listener_alone(&self, port: u16) -> bool {
        let listener = (format!("{:08X}:{port:04X}", u32::from_ne_bytes([127, 0, 0, 1])), LISTENS.to_owned());
        let mut others = self.interfaces.iter().filter(|name| !FALLBACK_TUNNELS.contains(&name.as_str()));
        others.next().is_some_and(|name| name == LOOPBACK)
            && others.next().is_none()
            && self.sockets == [listener]
    }

    /// What is there, for people.
    pub(crate) fn words(&self) -> String {
        let sockets: Vec<String> =
            self.sockets.iter().map(|(local, state)| format!("{local} in state {state}")).collect();
        format!("interfaces {:?} and sockets {sockets:?}", self.interfaces)
    }
}

#[cfg(test)]
mod tests {
    use super::NetworkSeen;

    const DEV: &str = "Inter-|   Receive                                                |  Transmit\n \
        face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs\n    \
        lo:       0       0    0    0    0     0          0         0        0       0    0\n";
    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n   \
        0: 0100007F:0C38 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 7 1\n";

    #[test]
    fn only_a_proxy_by_itself_is_taken_for_one() {
        assert!(NetworkSeen::of(DEV, TCP).is_listener_alone(3128));
        let wider = DEV.replace("lo:", "lo: 0\n  eth0:");
        let connected = TCP.replace(" 0A ", " 01 ");
        let everywhere = TCP.replace("0100007F", "00000000");
        let two = format!("{TCP}{}", TCP.lines().last().unwrap_or_default());
        for (dev, tcp) in [
            (DEV, ""),
            ("", TCP),
            (wider.as_str(), TCP),
            (DEV, connected.as_str()),
            (DEV, everywhere.as_str()),
            (DEV, two.as_str()),
        ] {
            assert!(!NetworkSeen::of(dev, tcp).is_listener_alone(3128), "{dev}{tcp}");
        }
        assert!(!NetworkSeen::of(DEV, TCP).is_listener_alone(3129));
        let with_tunnels = DEV.replace("lo:", "lo: 0\n  tunl0: 0\n  sit0:");
        assert!(NetworkSeen::of(&with_tunnels, TCP).is_listener_alone(3128), "the kernel's own");
        assert!(!NetworkSeen::of(&DEV.replace("lo:", "tunl0:"), TCP).is_listener_alone(3128));
        assert!(NetworkSeen::of(&wider, TCP).words().contains("eth0"));
    }

    #[test]
    fn the_machine_s_own_network_is_more_than_that() {
        let own = NetworkSeen::read(std::path::Path::new("/proc/self")).expect("readable");
        assert!(own.interfaces.iter().any(|name| name == "lo") && !own.is_listener_alone(3128), "{own:?}");
    }
}
