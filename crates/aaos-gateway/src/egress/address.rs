//! Which addresses an agent's request may reach when only a name or `web_search` was granted.
//!
//! Invariant: what is not known to be a public unicast address is refused; the check is made on the address
//! that is then connected to.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use ipnet::{Ipv4Net, Ipv6Net};

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

/// IANA's registry of special-purpose IPv4 addresses, multicast, and the one public address at which a cloud (Azure)
/// gives its machines their secrets.
const REFUSED_V4: [(Ipv4Net, &str); 17] = [
    (v4(0, 0, 0, 0, 8), "an unspecified address"),
    (v4(10, 0, 0, 0, 8), "a private address"),
    (v4(100, 64, 0, 0, 10), "a carrier's private address"),
    (v4(127, 0, 0, 0, 8), "a loopback address"),
    (v4(168, 63, 129, 16, 32), "a cloud metadata address"),
    (v4(169, 254, 169, 254, 32), "a cloud metadata address"),
    (v4(169, 254, 0, 0, 16), "a link-local address"),
    (v4(172, 16, 0, 0, 12), "a private address"),
    (v4(192, 0, 0, 0, 24), "an address of protocol assignments"),
    (v4(192, 0, 2, 0, 24), "a documentation address"),
    (v4(192, 88, 99, 0, 24), "a 6to4 relay address"),
    (v4(192, 168, 0, 0, 16), "a private address"),
    (v4(198, 18, 0, 0, 15), "a benchmarking address"),
    (v4(198, 51, 100, 0, 24), "a documentation address"),
    (v4(203, 0, 113, 0, 24), "a documentation address"),
    (v4(224, 0, 0, 0, 4), "a multicast address"),
    (v4(240, 0, 0, 0, 4), "a reserved or broadcast address"),
];

/// Where IPv6 hides IPv4, and what is not public, inside and outside the global unicast block.
const REFUSED_V6: [(Ipv6Net, &str); 15] = [
    (Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128), "an unspecified address"),
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), "a loopback address"),
    (Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96), "an IPv4-mapped address"),
    (v6(0, 0, 0, 96), "an IPv4-compatible address"),
    (v6(0x64, 0xff9b, 0, 96), "a NAT64 address"),
    (v6(0x64, 0xff9b, 1, 48), "a NAT64 address"),
    (v6(0x2001, 0, 0, 32), "a Teredo address"),
    (v6(0x2001, 0, 0, 23), "an address of protocol assignments"),
    (v6(0x2001, 0xdb8, 0, 32), "a documentation address"),
    (v6(0x2002, 0, 0, 16), "a 6to4 address"),
    (v6(0x3fff, 0, 0, 20), "a documentation address"),
    (v6(0xfc00, 0, 0, 7), "a unique-local address"),
    (v6(0xfe80, 0, 0, 10), "a link-local address"),
    (v6(0xfec0, 0, 0, 10), "a site-local address"),
    (v6(0xff00, 0, 0, 8), "a multicast address"),
];

/// All public IPv6 addresses lie in here.
const GLOBAL_UNICAST: Ipv6Net = v6(0x2000, 0, 0, 3);

/// Why an address is refused by its range; `None` for a public one.
#[must_use]
pub fn refusal(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(ip) => REFUSED_V4.iter().find(|(net, _)| net.contains(&ip)).map(|(_, why)| *why),
        IpAddr::V6(ip) => match REFUSED_V6.iter().find(|(net, _)| net.contains(&ip)) {
            Some((_, why)) => Some(*why),
            None if GLOBAL_UNICAST.contains(&ip) => None,
            None => Some("not a public address"),
        },
    }
}

/// Whether this machine has the address itself, in whatever range: only an own address can be bound. Needs no file,
/// so it also sees addresses that came after the lock-down.
///
/// # Errors
/// When that cannot be found out; the address is then not to be reached.
pub fn is_own(address: IpAddr) -> io::Result<bool> {
    match UdpSocket::bind((address, 0)) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Ok(false),
        // Without IPv6 in the kernel there is no own IPv6 address.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::{is_own, refusal};
    use std::net::IpAddr;

    const REFUSED: [&str; 47] = [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "10.255.255.255",
        "100.64.0.1",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.1",
        "192.168.255.255",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.7",
        "203.0.113.7",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "::127.0.0.1",
        "::8.8.8.8",
        "64:ff9b::808:808",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:0:4136:e378::1",
        "2001:2::1",
        "2001:10::1",
        "2001:db8::1",
        "2002:7f00:1::1",
        "3fff::1",
        "fc00::1",
        "fdff::1",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ];
    const PUBLIC: [&str; 17] = [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.1",
        "100.63.255.255",
        "100.128.0.1",
        "126.255.255.255",
        "128.0.0.1",
        "168.63.129.15",
        "168.63.129.17",
        "172.15.255.255",
        "172.32.0.1",
        "192.167.255.255",
        "223.255.255.255",
        "2606:4700::1111",
        "2001:4860:4860::8888",
        "2a00:1450::1",
    ];

    #[test]
    fn every_special_range_is_refused_and_its_neighbours_are_not() {
        for text in REFUSED {
            let ip: IpAddr = text.parse().expect("an address");
            assert!(refusal(ip).is_some(), "{text}");
        }
        for text in PUBLIC {
            let ip: IpAddr = text.parse().expect("an address");
            assert_eq!(refusal(ip), None, "{text}");
        }
        let outside: IpAddr = "4000::1".parse().expect("an address");
        assert_eq!(refusal(outside), Some("not a public address"));
    }

    /// The IPv4 addresses that the kernel keeps to itself: each stands above a line that calls it local.
    fn own_by_routes() -> Vec<IpAddr> {
        let routes = std::fs::read_to_string("/proc/net/fib_trie").expect("routes");
        let lines: Vec<&str> = routes.lines().map(str::trim).collect();
        let local = lines.windows(2).filter(|pair| pair[1] == "/32 host LOCAL");
        local.map(|pair| pair[0].trim_start_matches("|-- ").parse().expect("an address")).collect()
    }

    #[test]
    fn own_addresses_are_known_and_others_are_not_own() {
        let own = own_by_routes();
        assert!(own.contains(&IpAddr::from([127, 0, 0, 1])), "{own:?}");
        for ip in own {
            assert!(is_own(ip).expect("can be found out"), "{ip}");
        }
        assert!(!is_own("1.1.1.1".parse().expect("an address")).expect("can be found out"));
    }
}
