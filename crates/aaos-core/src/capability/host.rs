//! Host rules of `network:` and how they match.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::grammar::is_host_name;

/// A host name or address with an optional port, as `network:` grants it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostRule {
    /// Lower-case name or IP literal; for a subdomain rule the name after `*.`.
    pub host: String,
    /// Whether it is written `*.host` and means every subdomain (not the host itself).
    pub subdomains: bool,
    /// The one port allowed; 443 and 80 when absent.
    pub port: Option<u16>,
}

impl HostRule {
    /// Whether the rule allows a connection to `host` (lower case, no brackets, no final dot) at `port`.
    #[must_use]
    pub fn matches(&self, host: &str, port: u16) -> bool {
        let port_fits = match self.port {
            Some(own) => own == port,
            None => matches!(port, 443 | 80),
        };
        port_fits && self.matches_host(host)
    }

    fn matches_host(&self, host: &str) -> bool {
        if self.subdomains { is_subdomain(host, &self.host) } else { same_host(host, &self.host) }
    }

    /// Whether everything that `other` allows is allowed here.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let port_covered = match (self.port, other.port) {
            (None, None | Some(443 | 80)) => true,
            (None, Some(_)) | (Some(_), None) => false,
            (Some(own), Some(other)) => own == other,
        };
        let host_covered = match (self.subdomains, other.subdomains) {
            (false, true) => false,
            (true, true) => self.host == other.host || is_subdomain(&other.host, &self.host),
            (_, false) => self.matches_host(&other.host),
        };
        port_covered && host_covered
    }

    /// Whether it names an address instead of a name.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok()
    }
}

/// Below the apex: at least one more label. An address is below nothing.
fn is_subdomain(host: &str, apex: &str) -> bool {
    let labels = host.strip_suffix(apex).and_then(|rest| rest.strip_suffix('.'));
    labels.is_some_and(|labels| !labels.is_empty()) && host.parse::<IpAddr>().is_err()
}

/// Equal spellings, or two spellings of one address.
fn same_host(one: &str, other: &str) -> bool {
    one == other
        || matches!((one.parse::<IpAddr>(), other.parse::<IpAddr>()), (Ok(one), Ok(other)) if one == other)
}

impl fmt::Display for HostRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.subdomains {
            f.write_str("*.")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?
        } else {
            f.write_str(&self.host)?
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// Whether a name stands for this machine or its own network by convention (RFC 6761, RFC 6762, RFC 8375).
#[must_use]
pub fn is_local_name(host: &str) -> bool {
    let tops = ["localhost", "local", "internal", "home.arpa"];
    tops.iter().any(|top| host == *top || is_subdomain(host, top))
}

/// Whether `web_search` may be meant: a public-looking host at the web's ports. What is neither an address nor a proper
/// name is not: `127.1` and `0x7f.1` are this machine to some resolvers. Names are judged again by the gateway, by the
/// addresses they lead to.
#[must_use]
pub fn is_public_web(host: &str, port: u16) -> bool {
    if !matches!(port, 80 | 443) || is_local_name(host) {
        return false;
    }
    match host.parse::<IpAddr>() {
        Err(_) => is_host_name(host),
        Ok(IpAddr::V4(v4)) => !is_special_v4(v4),
        Ok(IpAddr::V6(v6)) => {
            let global_unicast = v6.segments()[0] & 0xe000 == 0x2000;
            let tunnels = matches!(v6.segments()[..2], [0x2002, _] | [0x2001, 0] | [0x2001, 0xdb8]);
            global_unicast && !tunnels
        }
    }
}

/// Ranges of RFC 6890 and its followers that are nobody's public host.
fn is_special_v4(v4: std::net::Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_documentation()
        || a == 0
        || a >= 224
        || (a == 100 && (64..128).contains(&b))
        || (a == 198 && matches!(b, 18 | 19))
        || (a == 192 && b == 0 && c == 0)
}

#[cfg(test)]
mod tests {
    use super::{HostRule, is_public_web};

    fn rule(host: &str, subdomains: bool, port: Option<u16>) -> HostRule {
        HostRule { host: host.to_owned(), subdomains, port }
    }

    #[test]
    fn a_rule_matches_its_host_and_ports() {
        let plain = rule("example.org", false, None);
        assert!(plain.matches("example.org", 443) && plain.matches("example.org", 80));
        assert!(!plain.matches("example.org", 8080) && !plain.matches("a.example.org", 443));
        let below = rule("example.org", true, None);
        assert!(below.matches("a.example.org", 443) && below.matches("a.b.example.org", 80));
        assert!(!below.matches("example.org", 443) && !below.matches("badexample.org", 443));
        assert!(!below.matches(".example.org", 443), "an empty label is no subdomain");
        let port = rule("127.0.0.1", false, Some(8080));
        assert!(port.matches("127.0.0.1", 8080) && !port.matches("127.0.0.1", 80));
        let v6 = rule("::1", false, None);
        assert!(v6.matches("0:0:0:0:0:0:0:1", 80) && !v6.matches("::2", 80));
    }

    #[test]
    fn covering_is_never_wider_than_matching() {
        let below = rule("b.c", true, None);
        assert!(below.covers(&rule("a.b.c", true, Some(443))) && below.covers(&rule("a.b.c", false, None)));
        assert!(!below.covers(&rule("b.c", false, None)) && !below.covers(&rule("c", true, None)));
        assert!(!below.covers(&rule("a.b.c", false, Some(8080))));
        assert!(!rule("a", false, Some(443)).covers(&rule("a", false, None)), "no port means two ports");
        assert!(!rule("a", false, None).covers(&rule("a", true, None)));
    }

    #[test]
    fn web_search_is_public_only() {
        for yes in
            ["example.org", "3com.example", "xn--bcher-kva.example", "93.184.216.34", "2606:2800:220:1::1"]
        {
            assert!(is_public_web(yes, 443), "{yes}");
        }
        for no in [
            "localhost",
            "a.localhost",
            "printer.local",
            "127.0.0.1",
            "10.1.2.3",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "::1",
            "::ffff:127.0.0.1",
            "fe80::1",
            "fd00::1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "224.0.0.1",
            "192.168.0.1",
            "127.1",
            "0x7f.1",
            "0x7f000001",
            "2130706433",
            "example.0x7f",
            "0177.0.0.01",
            "1.2.3",
            "example..org",
            "example.org.",
            "-example.org",
            "exa mple.org",
            "example.org\n",
            "example.org/x",
            "",
        ] {
            assert!(!is_public_web(no, 443), "{no}");
        }
        assert!(!is_public_web("example.org", 8080));
    }
}
