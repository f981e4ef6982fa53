//! The head of a proxied request: read strictly, and written anew for the host it goes to.
//!
//! Invariants: what is passed on was built here, line by line, from what was understood; a head that two readers could
//! understand differently (folded or bare lines, odd spaces, two lengths, two hosts, a `Host` that is not the host
//! asked for) is refused; one request per connection, and its body has exactly the length that its head says.

use super::super::target::Target;
use super::refusal::Refusal;
use aaos_core::tool::host_and_port;

/// Longest head, bytes.
pub(super) const MAX_HEAD_BYTES: usize = 32 * 1024;
/// Most header lines.
const MAX_HEADERS: usize = 128;
/// Headers that are meant for the proxy or for one hop only (RFC 9110 §7.6.1), and are not passed on.
const ONE_HOP: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "proxy-authenticate",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "host",
];

/// What a program asks its proxy for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// Where it wants to go.
    pub(super) target: Target,
    /// What is to happen there.
    pub(super) errand: Errand,
}

/// What is to be done at the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Errand {
    /// `CONNECT`: bytes both ways.
    Tunnel,
    /// One plain request.
    Request {
        /// Its head, as the host gets it.
        head: Vec<u8>,
        /// How long its body is.
        body: u64,
    },
}

/// The length of the head at the front of `bytes`, its empty line included; `None` while that has not arrived.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

fn bad(why: &str) -> Refusal {
    Refusal::BadRequest(why.to_owned())
}

/// Reads a complete head.
///
/// # Errors
/// [`Refusal`] with the answer for the program.
pub(super) fn parse(bytes: &[u8]) -> Result<Head, Refusal> {
    let text = std::str::from_utf8(bytes).map_err(|_| bad("the request's head is not text"))?;
    let text = text.strip_suffix("\r\n\r\n").ok_or_else(|| bad("the request's head has no end"))?;
    let mut lines = text.split("\r\n");
    let request = lines.next().unwrap_or_default();
    let headers = lines.map(header).collect::<Result<Vec<_>, _>>()?;
    if headers.len() > MAX_HEADERS {
        return Err(Refusal::TooLarge);
    }
    let mut words = request.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(bad("the request line has not three words"));
    };
    if !matches!(version, "HTTP/1.1" | "HTTP/1.0") {
        return Err(bad("only HTTP/1.1 and HTTP/1.0 are spoken here"));
    }
    if !is_token(method) {
        return Err(bad("the method is no word"));
    }
    let host = the_host(&headers, version)?;
    if method == "CONNECT" {
        tunnel(target, host, &headers)
    } else {
        request_head(method, target, version, host, &headers)
    }
}

/// A header's name in lower case, and its value.
type Header<'h> = (String, &'h str);

fn header(line: &str) -> Result<Header<'_>, Refusal> {
    let (name, value) = line.split_once(':').ok_or_else(|| bad("a header has no colon"))?;
    if !is_token(name) {
        return Err(bad("a header's name is no word"));
    }
    let value = value.trim_matches([' ', '\t']);
    if value.chars().any(|one| one.is_control() && one != '\t') {
        return Err(bad("a header holds a control character"));
    }
    Ok((name.to_ascii_lowercase(), value))
}

/// RFC 9110 §5.6.2.
fn is_token(word: &str) -> bool {
    let is_mark = |byte: u8| b"!#$%&'*+-.^_`|~".contains(&byte);
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || is_mark(byte))
}

fn only<'h>(headers: &[Header<'h>], name: &str) -> Result<Option<&'h str>, Refusal> {
    let mut found = headers.iter().filter(|(one, _)| one == name).map(|(_, value)| *value);
    match (found.next(), found.next()) {
        (_, Some(_)) => Err(Refusal::BadRequest(format!("the header {name} stands there twice"))),
        (one, None) => Ok(one),
    }
}

fn the_host<'h>(headers: &[Header<'h>], version: &str) -> Result<Option<&'h str>, Refusal> {
    match only(headers, "host")? {
        None if version == "HTTP/1.1" => Err(bad("the request has no Host")),
        host => Ok(host),
    }
}

/// Whether `Host` means exactly the target; the port may be left out where it is the scheme's own.
fn check_host(target: &Target, host: Option<&str>) -> Result<(), Refusal> {
    let Some(host) = host else { return Ok(()) };
    let different = || bad("the Host of the request is not the host that it asks for");
    if host.contains(['/', '?', '#']) {
        return Err(different());
    }
    let (read, port) = host_and_port(&format!("http://{host}/")).map_err(|_| different())?;
    let after_address = host.rsplit_once(']').map_or(host, |(_, rest)| rest);
    let port_fits = if after_address.contains(':') { port == target.port } else { target.is_own_port() };
    if port_fits && target.host.is_spelled(&read) { Ok(()) } else { Err(different()) }
}

fn tunnel(authority: &str, host: Option<&str>, headers: &[Header<'_>]) -> Result<Head, Refusal> {
    let has_port =
        authority.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|one| one.is_ascii_digit()));
    if !has_port || authority.contains(['/', '?', '#']) {
        return Err(bad("CONNECT wants host:port"));
    }
    let target = Target::parse(&format!("https://{authority}/")).map_err(Refusal::from)?;
    check_host(&target, host)?;
    let length = only(headers, "content-length")?;
    if length.is_some_and(|length| length != "0") || only(headers, "transfer-encoding")?.is_some() {
        return Err(bad("CONNECT has no body"));
    }
    Ok(Head { target, errand: Errand::Tunnel })
}

fn request_head(
    method: &str,
    url: &str,
    version: &str,
    host: Option<&str>,
    headers: &[Header<'_>],
) -> Result<Head, Refusal> {
    if url.starts_with('/') || url == "*" {
        return Err(bad("this is a proxy: it wants a whole URL"));
    }
    let target = Target::parse(url).map_err(Refusal::from)?;
    if target.is_secure {
        return Err(bad("https:// goes through CONNECT"));
    }
    if target.port == super::TLS_PORT {
        return Err(Refusal::Denied("plain HTTP at port 443 is refused; use CONNECT and TLS".to_owned()));
    }
    check_host(&target, host)?;
    let body = body_length(headers)?;
    let head = written_anew(method, version, &target, headers);
    Ok(Head { target, errand: Errand::Request { head, body } })
}

fn body_length(headers: &[Header<'_>]) -> Result<u64, Refusal> {
    if headers.iter().any(|(name, _)| name == "transfer-encoding") {
        return Err(Refusal::LengthRequired);
    }
    let Some(length) = only(headers, "content-length")? else { return Ok(0) };
    if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad("the content-length is no number"));
    }
    length.parse().map_err(|_| bad("the content-length is no number"))
}

fn written_anew(method: &str, version: &str, target: &Target, headers: &[Header<'_>]) -> Vec<u8> {
    let named: Vec<String> = headers
        .iter()
        .filter(|(name, _)| name == "connection" || name == "proxy-connection")
        .flat_map(|(_, value)| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        // The length of the body is the proxy's business; nobody takes it away.
        .filter(|name| name != "content-length")
        .collect();
    let mut head =
        format!("{method} {} {version}\r\nhost: {}\r\n", target.path_and_query(), target.authority());
    for (name, value) in headers {
        if !ONE_HOP.contains(&name.as_str()) && !named.contains(name) {
            head.extend([name, ": ", value, "\r\n"]);
        }
    }
    head.push_str("connection: close\r\n\r\n");
    head.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::refusal::Refusal;
    use super::{Errand, MAX_HEADERS, length, parse};
    use proptest::prelude::*;

    fn refused(head: &str) -> u16 {
        match parse(head.as_bytes()) {
            Err(refusal) => refusal.status(),
            Ok(head) => panic!("understood as {head:?}"),
        }
    }

    #[test]
    fn a_tunnel_goes_to_the_host_and_port_that_are_spelled() {
        for (head, to) in [
            ("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n", "a.test:443"),
            ("CONNECT A.test:443 HTTP/1.1\r\nHost: a.TEST\r\nProxy-Authorization: x\r\n\r\n", "a.test:443"),
            ("CONNECT a.test:22 HTTP/1.0\r\n\r\n", "a.test:22"),
            ("CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n\r\n", "[::1]:443"),
            ("CONNECT 1.1.1.1:80 HTTP/1.1\r\nHost: 1.1.1.1:80\r\nContent-Length: 0\r\n\r\n", "1.1.1.1:80"),
        ] {
            let parsed = parse(head.as_bytes()).unwrap_or_else(|refusal| panic!("{head:?}: {refusal:?}"));
            assert_eq!(format!("{}:{}", parsed.target.host, parsed.target.port), to);
            assert_eq!(parsed.errand, Errand::Tunnel);
        }
        for bad in [
            "CONNECT a.test HTTP/1.1\r\nHost: a.test\r\n\r\n",
            "CONNECT a.test: HTTP/1.1\r\nHost: a.test\r\n\r\n",
            "CONNECT :443 HTTP/1.1\r\nHost: a.test\r\n\r\n",
            "CONNECT http://a.test:80/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
            "CONNECT a.test/x:443 HTTP/1.1\r\nHost: a.test\r\n\r\n",
            "CONNECT u@a.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n",
            "CONNECT 127.1:443 HTTP/1.1\r\nHost: 127.1\r\n\r\n",
            "CONNECT 2130706433:443 HTTP/1.1\r\nHost: 2130706433\r\n\r\n",
            "CONNECT ::1:443 HTTP/1.1\r\nHost: a.test\r\n\r\n",
            "CONNECT a%2etest:443 HTTP/1.1\r\nHost: a.test\r\n\r\n",
            "CONNECT a.test:443 HTTP/1.1\r\nHost: b.test:443\r\n\r\n",
            "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:80\r\n\r\n",
            "CONNECT a.test:444 HTTP/1.1\r\nHost: a.test\r\n\r\n",
            "CONNECT a.test:443 HTTP/1.1\r\n\r\n",
            "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\nHost: a.test\r\n\r\n",
            "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\n\r\n",
            "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n",
            "CONNECT a.test:99999 HTTP/1.1\r\nHost: a.test\r\n\r\n",
        ] {
            assert_eq!(refused(bad), 400, "{bad:?}");
        }
    }

    #[test]
    fn a_request_is_written_anew_without_what_is_for_one_hop() {
        let head = "POST http://A.test:8080/x?y#z HTTP/1.1\r\nUser-Agent: curl\r\nHost: a.test:8080\r\n\
            Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\nConnection: Keep-Alive, X-Hop\r\n\
            X-Hop: gone\r\nKeep-Alive: 5\r\nTE: trailers\r\nTrailer: x\r\nUpgrade: h2c\r\nAuthorization: mine\r\n\
            Content-Length: 3\r\n\r\n";
        let parsed = parse(head.as_bytes()).expect("a request");
        let Errand::Request { head, body } = parsed.errand else { panic!("no tunnel") };
        let expected = "POST /x?y HTTP/1.1\r\nhost: a.test:8080\r\nuser-agent: curl\r\nauthorization: mine\r\n\
            content-length: 3\r\nconnection: close\r\n\r\n";
        assert_eq!((String::from_utf8(head).expect("text").as_str(), body), (expected, 3));
        let hiding =
            "POST http://a/ HTTP/1.1\r\nHost: a\r\nConnection: content-length\r\nContent-Length: 3\r\n\r\n";
        let Errand::Request { head, body } = parse(hiding.as_bytes()).expect("a request").errand else {
            panic!()
        };
        assert!(String::from_utf8(head).expect("text").contains("content-length: 3") && body == 3);
    }

    #[test]
    fn what_can_be_understood_in_two_ways_is_refused() {
        for (head, status) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", 400),
            ("GET http://a/ HTTP/1.1\r\nHost: a:81\r\n\r\n", 400),
            ("GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET http://a/ HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
            ("GET http://a/ HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
            ("GET http://a/ HTTP/1.1\r\nHost: \r\n\r\n", 400),
            ("GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
            ("GET http://a/ HTTP/1.1\r\nHost : a\r\n\r\n", 400),
            ("GET http://a/ HTTP/1.1\r\n Host: a\r\n\r\n", 400),
            ("GET http://a/ HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
            ("GET http://a/ HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400),
            ("GET http://a/ HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", 400),
            ("GET http://a/ HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 400),
            ("GET http://a/ HTTP/1.1\r\nHost: a\r\nnothing\r\n\r\n", 400),
            ("GET http://a/ HTTP/1.1\r\n\r\n", 400),
            ("GET http://a/ HTTP/2\r\nHost: a\r\n\r\n", 400),
            ("GET http://a/\r\nHost: a\r\n\r\n", 400),
            ("GET  http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET http://a/ x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            (" GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("G(T http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("\r\n\r\n", 400),
            ("GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET http://a:443/ HTTP/1.1\r\nHost: a:443\r\n\r\n", 403),
            ("POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
            ("POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\nContent-Length: 1\r\n\r\n", 411),
            ("POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
            ("POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", 400),
            ("POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", 400),
            ("POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n", 400),
            ("POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n", 400),
        ] {
            assert_eq!(refused(head), status, "{head:?}");
        }
        let many = format!("GET http://a/ HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(MAX_HEADERS));
        assert!(matches!(parse(many.as_bytes()), Err(Refusal::TooLarge)));
        // The controls.
        for good in ["a", "A.", "a:80"] {
            let head = format!("GET http://a/ HTTP/1.1\r\nHost: {good}\r\n\r\n");
            assert!(parse(head.as_bytes()).is_ok(), "{head:?}");
        }
    }

    #[test]
    fn a_head_ends_with_its_empty_line() {
        assert_eq!(length(b"GET / HTTP/1.1\r\n\r\nbody\r\n\r\n"), Some(18));
        assert_eq!(length(b"GET / HTTP/1.1\r\n\r"), None);
        assert_eq!(length(b"GET / HTTP/1.1\n\n"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(parse(&bytes).is_err());
        }

        /// Whatever a program writes into a header, the host gets one head, and one `host`.
        #[test]
        fn a_head_written_anew_holds_one_head(value in "[ -~\r\n\t]{0,40}", name in "[a-zA-Z:\r\n -]{1,20}") {
            let text = format!("GET http://a/ HTTP/1.1\r\nHost: a\r\n{name}: {value}\r\n\r\n");
            let Some(end) = length(text.as_bytes()) else { return Ok(()) };
            let Ok(parsed) = parse(&text.as_bytes()[..end]) else { return Ok(()) };
            let Errand::Request { head, .. } = parsed.errand else { panic!("no tunnel") };
            prop_assert_eq!(length(&head), Some(head.len()));
            let head = String::from_utf8(head).expect("text");
            prop_assert_eq!(head.matches("\r\nhost:").count(), 1);
            prop_assert!(head.starts_with("GET / HTTP/1.1\r\nhost: a\r\n"));
        }
    }
}
