//! What a URL names, read twice, and whether the rules cover it.
//!
//! Invariants: a URL that two parsers read differently is refused; a name is authorised before anyone is asked
//! for its address; an address that is not public is reached only if a rule spells that very address.

use std::io;
use std::net::{IpAddr, SocketAddr};

use aaos_core::capability::{HostRule, is_public_web};
use aaos_core::limits::MAX_URL_BYTES;
use aaos_core::tool::host_and_port;
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use url::Url;

use super::address;
use crate::dial::{DialError, Dialer, LOOPBACK, NameScope};
use crate::words::harmless;

/// Ports that `web_search` and a rule without a port mean.
const WEB_PORTS: [u16; 2] = [80, 443];

/// Who is meant by a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostName {
    /// A name, lower case, without a trailing dot.
    Name(String),
    /// An address.
    Address(IpAddr),
}

impl HostName {
    /// Without the brackets of an address: as rules and needs spell it.
    #[must_use]
    pub fn plain(&self) -> String {
        match self {
            Self::Name(name) => name.clone(),
            Self::Address(ip) => ip.to_string(),
        }
    }

    /// Whether the strict reading of the same text names this host.
    pub(super) fn is_spelled(&self, read: &str) -> bool {
        match self {
            Self::Name(name) => *name == read,
            Self::Address(ip) => read.parse() == Ok(*ip),
        }
    }
}

impl std::fmt::Display for HostName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(ip)) => write!(f, "{ip}"),
            Self::Address(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

/// A URL that may be fetched as far as its form goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The URL, normalised.
    pub url: Url,
    /// Its host.
    pub host: HostName,
    /// Its port.
    pub port: u16,
    /// Whether it is https.
    pub is_secure: bool,
}

/// The way to a target that was authorised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passage {
    /// To exactly this address, which stands in a rule.
    Granted(IpAddr),
    /// To this address, if it is public.
    Public(IpAddr),
    /// To the public addresses of this name.
    Resolve(String),
    /// To loopback: a rule says `localhost`.
    Loopback,
}

fn network(message: String) -> ToolFailure {
    ToolFailure::new(ToolFailureKind::Network, message)
}

impl Target {
    /// Reads a URL.
    ///
    /// # Errors
    /// `InvalidArguments` or `Network` when it is not plain http(s), holds credentials, or is ambiguous.
    pub fn parse(text: &str) -> Result<Self, ToolFailure> {
        if text.len() > MAX_URL_BYTES {
            return Err(network(format!("a URL of {} bytes is longer than {MAX_URL_BYTES}", text.len())));
        }
        let (read_host, read_port) = host_and_port(text)?;
        let bad = |why: &str| network(format!("cannot fetch {text:?}: {why}"));
        let mut url = Url::parse(text).map_err(|error| bad(&error.to_string()))?;
        let is_secure = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(bad("only http:// and https:// are supported")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("credentials in a URL are refused"));
        }
        url.set_fragment(None);
        let host = match url.host() {
            Some(url::Host::Ipv4(ip)) => HostName::Address(ip.into()),
            Some(url::Host::Ipv6(ip)) => HostName::Address(ip.into()),
            Some(url::Host::Domain(name)) => {
                HostName::Name(name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase())
            }
            None => return Err(bad("it names no host")),
        };
        if matches!(&host, HostName::Name(name) if name.split('.').any(str::is_empty)) {
            return Err(bad("its host has an empty label"));
        }
        let port = url.port_or_known_default().unwrap_or_default();
        if !host.is_spelled(&read_host) || port != read_port {
            return Err(bad("its host can be read in two ways; write it plainly"));
        }
        assert!(port == read_port, "both readings agree from here on");
        Ok(Self { url, host, port, is_secure })
    }

    /// The target of a redirect from here. `Url::join` forgives what no URL of an agent may hold (odd spellings of an
    /// address, encoded hosts, backslashes), so a host that is spelled is read a second time, and a redirect that spells
    /// none stays where it is.
    ///
    /// # Errors
    /// As [`Target::parse`].
    pub fn redirected(&self, location: &str) -> Result<Self, ToolFailure> {
        let bad =
            |why: &str| network(format!("{} redirects to {}: {why}", self.url, harmless(location, None)));
        let next = self.url.join(location).map_err(|error| bad(&error.to_string()))?;
        let next = Self::parse(next.as_str())?;
        let is_plain = match spelled_authority(location) {
            Some(authority) => {
                let (host, port) = host_and_port(&format!("{}://{authority}/", next.url.scheme()))?;
                next.host.is_spelled(&host) && next.port == port
            }
            None => (&next.host, next.port, next.is_secure) == (&self.host, self.port, self.is_secure),
        };
        if is_plain { Ok(next) } else { Err(bad("its host can be read in two ways")) }
    }

    /// The `Host` header.
    #[must_use]
    pub fn authority(&self) -> String {
        self.url.port().map_or_else(|| self.host.to_string(), |port| format!("{}:{port}", self.host))
    }

    /// Whether the port is the one that its scheme means by itself.
    pub(super) fn is_own_port(&self) -> bool {
        self.url.port().is_none()
    }

    /// What is asked of the host.
    pub(super) fn path_and_query(&self) -> String {
        let path = self.url.path();
        self.url.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))
    }

    /// Whether the rules cover this target, and how it may be reached.
    ///
    /// # Errors
    /// `Denied` when no rule covers it, `Network` when it is an address or port that is refused.
    pub fn authorise(&self, hosts: &[HostRule], public: bool) -> Result<Passage, ToolFailure> {
        let is_web_port = WEB_PORTS.contains(&self.port);
        match &self.host {
            HostName::Address(ip) => {
                if hosts.iter().any(|rule| names_address(rule, *ip, self.port)) {
                    Ok(Passage::Granted(*ip))
                } else if public && is_web_port {
                    self.public(*ip).map(Passage::Public)
                } else {
                    Err(self.denied(public))
                }
            }
            HostName::Name(name) => {
                let is_ruled = hosts.iter().any(|rule| rule.matches(name, self.port));
                if is_this_machine(name) {
                    return self.local(name, is_ruled);
                }
                if is_ruled || (public && is_public_web(name, self.port)) {
                    return Ok(Passage::Resolve(name.clone()));
                }
                Err(self.denied(public))
            }
        }
    }

    /// `localhost` means this machine, and only when it is spelled so.
    fn local(&self, name: &str, is_ruled: bool) -> Result<Passage, ToolFailure> {
        if is_ruled && name == "localhost" {
            return Ok(Passage::Loopback);
        }
        Err(network(format!(
            "{name} is this machine itself, which is refused; grant `network: {name}:{}` to allow it",
            self.port
        )))
    }

    /// The address again, if it is public and not this machine's.
    ///
    /// # Errors
    /// `Network`, saying why not.
    pub fn public(&self, ip: IpAddr) -> Result<IpAddr, ToolFailure> {
        self.judge(ip, || address::is_own(ip))
    }

    fn judge(&self, ip: IpAddr, is_own: impl Fn() -> io::Result<bool>) -> Result<IpAddr, ToolFailure> {
        let why = match address::refusal(ip) {
            Some(why) => why.to_owned(),
            None => match is_own() {
                Ok(false) => return Ok(ip),
                Ok(true) => "an address of this machine".to_owned(),
                Err(error) => format!("an address that could not be checked ({error})"),
            },
        };
        Err(network(format!(
            "{} leads to {ip}, {why}, which is refused unless that very address is granted \
            (`network: {}:{}`)",
            self.host,
            HostName::Address(ip),
            self.port
        )))
    }

    /// The checked addresses of this target: public ones, and those that a rule spells. Of a name with several, those
    /// that are refused are left out; with none left the first refusal is the answer.
    pub(super) async fn addresses(
        &self,
        dialer: &Dialer,
        passage: Passage,
        hosts: &[HostRule],
    ) -> Result<Vec<SocketAddr>, ToolFailure> {
        let addresses: Vec<IpAddr> = match passage {
            Passage::Granted(ip) | Passage::Public(ip) => vec![ip],
            Passage::Loopback => LOOPBACK.to_vec(),
            Passage::Resolve(name) => {
                let found = dialer.resolve(&name, NameScope::Absolute).await;
                let found = found.map_err(|error| self.unreachable(&error))?;
                // A name that passes only as public leads to public addresses only, whatever else is granted.
                let is_named = hosts.iter().any(|rule| rule.matches(&name, self.port));
                let is_spelled = |ip| is_named && hosts.iter().any(|rule| names_address(rule, ip, self.port));
                let judged = |ip| if is_spelled(ip) { Ok(ip) } else { self.public(ip) };
                let (kept, refused): (Vec<_>, Vec<_>) =
                    found.into_iter().map(judged).partition(Result::is_ok);
                if kept.is_empty() {
                    let nothing = || network(format!("the name {name} has no address"));
                    return Err(refused.into_iter().find_map(Result::err).unwrap_or_else(nothing));
                }
                kept.into_iter().flatten().collect()
            }
        };
        Ok(addresses.into_iter().map(|ip| SocketAddr::new(ip, self.port)).collect())
    }

    /// The failure of whoever could not be reached.
    pub(super) fn unreachable(&self, error: &DialError) -> ToolFailure {
        network(format!(
            "{}:{} cannot be reached: {}",
            self.host,
            self.port,
            harmless(&error.to_string(), None)
        ))
    }

    fn denied(&self, public: bool) -> ToolFailure {
        let why =
            if public { "only ports 80 and 443 of public hosts are granted" } else { "no grant covers it" };
        ToolFailure::new(
            ToolFailureKind::Denied,
            format!(
                "{}:{} may not be reached: {why}; missing network: {}:{}",
                self.host, self.port, self.host, self.port
            ),
        )
    }
}

/// What stands between `//` and the path of a redirect; `None` when it is neither that nor after a scheme.
fn spelled_authority(location: &str) -> Option<&str> {
    let strip = |prefix: &str| {
        let (start, rest) = location.split_at_checked(prefix.len())?;
        start.eq_ignore_ascii_case(prefix).then_some(rest)
    };
    let after_scheme = strip("http:").or_else(|| strip("https:"));
    match after_scheme.unwrap_or(location).strip_prefix("//") {
        Some(rest) => rest.split(['/', '?', '#']).next(),
        // Without slashes a scheme is followed by a host for some readers and by a path for others: by none here.
        None => after_scheme.map(|_| ""),
    }
}

fn is_this_machine(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

/// Whether a rule spells this address, in any notation, and this port.
fn names_address(rule: &HostRule, ip: IpAddr, port: u16) -> bool {
    !rule.subdomains
        && rule.host.parse() == Ok(ip)
        && rule.port.map_or(WEB_PORTS.contains(&port), |one| one == port)
}

#[cfg(test)]
mod tests {
    use super::{Passage, Target};
    use aaos_core::capability::HostRule;
    use aaos_core::toolio::ToolFailureKind;
    use proptest::prelude::*;

    fn rule(host: &str, port: Option<u16>) -> HostRule {
        match host.strip_prefix("*.") {
            Some(host) => HostRule { host: host.into(), subdomains: true, port },
            None => HostRule { host: host.into(), subdomains: false, port },
        }
    }

    fn target(url: &str) -> Target {
        Target::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    #[test]
    fn urls_that_can_be_read_in_two_ways_are_refused() {
        for bad in [
            "http://127.1/",
            "http://0x7f.0.0.1/",
            "http://2130706433/",
            "http://0177.0.0.1/",
            "http://%31.1.1.1/",
            "http://u@h/",
            "http://u:p@h/",
            "http://h\\@x/",
            "ftp://h/",
            "file:///etc/passwd",
            "http:h/",
            "http:///h/",
            "http://h:80:81/",
            "http://h:99999/",
            "http:// h/",
            "http://h\t/",
            "http://\u{430}.ru/",
            "http://[::1%25lo]/",
            "http://a%2fb/",
            "http://a..b@/",
            "javascript:1",
            "http://localhost../",
            "http://a..b/",
            "",
        ] {
            assert!(Target::parse(bad).is_err(), "{bad:?}");
        }
        for (good, host, port) in [
            ("http://Example.ORG./a?b#c", "example.org", 80),
            ("https://1.1.1.1/", "1.1.1.1", 443),
            ("http://[::1]:8080/", "[::1]", 8080),
            ("http://[0:0:0:0:0:0:0:1]/", "[::1]", 80),
            ("http://xn--80ak6aa92e.com/", "xn--80ak6aa92e.com", 80),
        ] {
            let target = target(good);
            assert_eq!((target.host.to_string().as_str(), target.port), (host, port), "{good}");
        }
    }

    #[test]
    fn only_what_is_covered_passes() {
        let rules = [
            rule("example.org", None),
            rule("*.sub.example.org", Some(8443)),
            rule("127.0.0.1", Some(8080)),
            rule("::1", Some(9)),
            rule("localhost", Some(7)),
        ];
        let resolve = |name: &str| Ok(Passage::Resolve(name.into()));
        let granted = |ip: &str| Ok(Passage::Granted(ip.parse().expect("an address")));
        let denied = Err(ToolFailureKind::Denied);
        let refused = Err(ToolFailureKind::Network);
        for (url, public, expected) in [
            ("https://example.org/", false, resolve("example.org")),
            ("http://EXAMPLE.org./", false, resolve("example.org")),
            ("http://example.org:8080/", false, denied.clone()),
            ("http://a.example.org/", false, denied.clone()),
            ("http://notexample.org/", false, denied.clone()),
            ("https://x.sub.example.org:8443/", false, resolve("x.sub.example.org")),
            ("https://sub.example.org:8443/", false, denied.clone()),
            ("http://127.0.0.1:8080/", false, granted("127.0.0.1")),
            ("http://127.0.0.1:8081/", false, denied.clone()),
            ("http://127.0.0.2:8080/", false, denied.clone()),
            ("http://[::ffff:127.0.0.1]:8080/", false, denied.clone()),
            ("http://[::1]:9/", false, granted("::1")),
            ("http://localhost:7/", false, Ok(Passage::Loopback)),
            ("http://localhost:8/", false, refused.clone()),
            ("http://a.localhost/", true, refused.clone()),
            ("http://localhost/", true, refused.clone()),
            ("http://other.com/", true, resolve("other.com")),
            ("http://other.com:8080/", true, denied.clone()),
            ("http://other.com/", false, denied),
            ("http://1.1.1.1/", true, Ok(Passage::Public([1, 1, 1, 1].into()))),
            ("http://127.0.0.1/", true, refused.clone()),
            ("http://169.254.169.254/latest", true, refused.clone()),
            ("http://[::ffff:10.0.0.1]/", true, refused),
        ] {
            let got = target(url).authorise(&rules, public).map_err(|failure| failure.kind);
            assert_eq!(got, expected, "{url} public={public}");
        }
    }

    #[test]
    fn an_own_address_and_one_that_cannot_be_checked_are_refused_though_public() {
        let (target, ip) = (target("http://example.org/"), [1, 1, 1, 1].into());
        assert_eq!(target.judge(ip, || Ok(false)).ok(), Some(ip));
        assert!(target.judge(ip, || Ok(true)).is_err());
        assert!(target.judge(ip, || Err(std::io::ErrorKind::PermissionDenied.into())).is_err());
    }

    #[test]
    fn redirects_are_read_as_strictly_as_urls() {
        let from = target("https://example.org/a/b?c");
        assert_eq!(from.redirected("../d").expect("relative").url.as_str(), "https://example.org/d");
        assert_eq!(from.redirected("//h:1/").expect("other host").authority(), "h:1");
        assert_eq!(from.redirected("HTTP://H/?//x").expect("absolute").url.as_str(), "http://h/?//x");
        assert_eq!(from.redirected("//example.org:443/").expect("this host").authority(), "example.org");
        assert_eq!(from.redirected("/a b").expect("a space in a path").url.path(), "/a%20b");
        for bad in [
            "http://u:p@h/",
            "ftp://h/",
            "javascript:1",
            "http://[",
            "data:,x",
            "http://127.1/",
            "//2130706433/",
            "https://0x7f000001/",
            "http://h%65/",
            "http://%EF%BD%88/",
            "http:h/",
            "https:h/",
            "https:/h/",
            "http:\\\\h\\",
            "\\\\h/",
            "/\\h/",
            "///h/",
            "/\t/h/",
            "ht\ttp://h/",
            "http://h\\@example.org/",
            "http://h\t/",
            " http://h/",
        ] {
            assert!(from.redirected(bad).is_err(), "{bad:?}");
        }
    }

    /// What the hosts of hostile URLs are made of.
    fn pieces() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "http://",
            "HTTPS://",
            "//",
            "/",
            "\\",
            "@",
            "u:p@",
            ":",
            ":80",
            ":443",
            ":22",
            "granted.test",
            "GRANTED.test",
            "other.test",
            "127.0.0.1",
            "2130706433",
            "0x7f",
            "%2e",
            "%40",
            "%2f",
            "[",
            "]",
            "[::1]",
            ".",
            "?",
            "#",
            "\t",
            " ",
            "\u{3002}",
            "\u{ff47}ranted.test",
            "xn--",
        ]);
        prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn whatever_is_spelled_only_the_granted_host_is_covered(url in pieces(), location in pieces()) {
            let rules = [rule("granted.test", Some(80))];
            let from = target("http://granted.test/from");
            let first = Target::parse(&format!("http://{url}"));
            for read in [first, from.redirected(&location)] {
                let Ok(read) = read else { continue };
                let Ok(passage) = read.authorise(&rules, false) else { continue };
                prop_assert_eq!(passage, Passage::Resolve("granted.test".into()));
                let own = if read.is_secure { "granted.test:80" } else { "granted.test" };
                prop_assert_eq!(read.authority(), own);
            }
        }

        /// Under `web_search` an address is reached only where the text itself spells that public address.
        #[test]
        fn whatever_is_spelled_no_address_is_reached_but_a_public_one(url in pieces(), location in pieces()) {
            let from = target("http://granted.test/from");
            for read in [Target::parse(&format!("http://{url}")), from.redirected(&location)] {
                let Ok(read) = read else { continue };
                let passage = read.authorise(&[], true);
                prop_assert!(matches!(passage, Err(_) | Ok(Passage::Resolve(_))), "{:?}", passage);
                if let Ok(Passage::Resolve(name)) = passage {
                    prop_assert!(url.to_ascii_lowercase().contains(&name) || location.to_ascii_lowercase().contains(&name)
                        || name == "granted.test", "{}", name);
                }
            }
        }
    }

    #[test]
    fn a_name_of_this_machine_or_its_network_is_no_public_host() {
        for name in ["printer.local", "metadata.google.internal", "router.home.arpa", "a.localhost"] {
            let target = target(&format!("http://{name}/"));
            assert!(target.authorise(&[], true).is_err(), "{name}");
        }
        let granted = target("http://printer.local/").authorise(&[rule("printer.local", None)], false);
        assert_eq!(granted.ok(), Some(Passage::Resolve("printer.local".into())));
    }
}
