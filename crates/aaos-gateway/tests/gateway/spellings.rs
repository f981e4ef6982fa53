//! Every way to spell a host that may not be reached, as the URL of a fetch and as the target of a redirect.
//!
//! Invariants: every address of the played network leads to a server that answers, so whatever is dialled at all
//! arrives; each refusal has its control in the same test.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::common::Record;
use crate::harness::{Dialled, Egress};
use testkit::{Page, WebServer};

/// Where `public.test` and its subdomains are.
const PUBLIC: &str = "93.184.216.34";

/// Refused whatever is granted beside them, and no name server is asked.
const REFUSED: &[&str] = &[
    // Loopback by other numbers.
    "2130706433",
    "017700000001",
    "0x7f000001",
    "0X7F000001",
    "127.1",
    "127.0.1",
    "0177.0.0.1",
    "0x7f.0.0.1",
    "0x7f.1",
    "127.000.000.001",
    "127.0.0.01",
    "127.0.0.0x1",
    "127.0.0.1..",
    "127.1.",
    ".127.0.0.1",
    "127..1",
    "4294967297",
    "127.0.0.257",
    "256.256.256.256",
    "0",
    "00",
    "0x",
    "127.0.0.2",
    "127.255.255.254",
    // By encoded and foreign characters.
    "%31%32%37.0.0.1",
    "127%2e0%2e0%2e1",
    "127.0.0.1%00",
    "127.0.0.1%20",
    "127.0.0.1%2f",
    "１２７.０.０.１",
    "127。0。0。1",
    "①②⑦.0.0.1",
    "%EF%BC%91%EF%BC%92%EF%BC%97.0.0.1",
    "loca\u{ad}lhost",
    "ⓛocalhost",
    "xn--",
    "xn--a\u{e4}",
    // IPv6, and IPv4 inside it.
    "[::]",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[0000::0001]",
    "[::0.0.0.1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "[::ffff:169.254.169.254]",
    "[::127.0.0.1]",
    "[::7f00:1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[2002:a9fe:a9fe::1]",
    "[2001:0:7f00:1::]",
    "[2001:0:4136:e378:8000:63bf:3fff:fdd2]",
    "[fe80::1]",
    "[fe80::1%25lo]",
    "[fe80::1%lo]",
    "[fe80::1%251]",
    "[::1%25lo]",
    "[febf::1]",
    "[fec0::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[ff02::1]",
    "[100::1]",
    "[2001:db8::1]",
    "[3fff::1]",
    "[5f00::1]",
    "[::1",
    "::1",
    "[v1.fe80]",
    "[127.0.0.1]",
    // Other ranges of IPv4.
    "0.0.0.0",
    "0.0.0.1",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.254",
    "192.168.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "169.254.0.1",
    "169.254.169.254",
    "2852039166",
    "0xA9FEA9FE",
    "0251.0376.0251.0376",
    "168.63.129.16",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    // Names of this machine and of its network.
    "localhost",
    "LOCALHOST",
    "localhost.",
    "a.localhost",
    "printer.local",
    "metadata.google.internal",
    "router.home.arpa",
    // A granted host as decoration.
    "public.test@127.0.0.1",
    "public.test:80@127.0.0.1",
    "u:p@public.test",
    "@public.test",
    ":@public.test",
    "127.0.0.1\\@public.test",
    "public.test\\@127.0.0.1",
    "public.test\\.127.0.0.1",
    "public.test%40127.0.0.1",
    "public.test%2f@127.0.0.1",
    "public.test%00",
    "public.test%2e",
    "pub%6cic.test",
    "ｐublic.test",
    "%EF%BD%90ublic.test",
    "public。test",
    "public.test..",
    "public..test",
    ".public.test",
    "",
    // Ports.
    "public.test:",
    "public.test:22",
    "public.test:0",
    "public.test:65536",
    "public.test:65616",
    "public.test:+80",
    "public.test:-80",
    "public.test:8 0",
    "public.test:0x50",
    "public.test:80:80",
    "public.test:８０",
];

fn names(name: &str) -> Vec<Record> {
    // Whoever asks for a host of the table gets an address that would do.
    assert!(!name.is_empty(), "a name");
    vec![Record::Address(PUBLIC.parse().expect("an address"))]
}

fn dialled_once(dialled: &Dialled, expected: &str) {
    let expected: SocketAddr = expected.parse().expect("an address");
    assert_eq!(dialled.take(), [expected]);
}

#[tokio::test]
async fn no_spelling_of_a_refused_host_is_dialled_or_asked_for() {
    let server = WebServer::start([("/", Page::Text("reached".into()))]);
    let (mut egress, dialled) = Egress::played(names, server.address());
    for host in REFUSED {
        for (rules, public) in [
            (&[][..], true),
            (&["public.test:80", "public.test:443"], true),
            (&["127.0.0.1:80", "::1:80", "169.254.169.254:443"], false),
            (&["localhost:22", "127.1:80", "0:80", "2130706433:80"], true),
        ] {
            // Other spellings of the very address that is granted.
            let same = host.trim_matches(['[', ']']).parse::<IpAddr>() == Ok(Ipv6Addr::LOCALHOST.into());
            if same && rules.contains(&"::1:80") {
                continue;
            }
            let fetched = egress.fetch(&format!("http://{host}/"), rules, public).await;
            assert!(fetched.is_err(), "{host} under {rules:?}: {fetched:?}");
            assert_eq!(dialled.take(), [], "{host} under {rules:?}");
        }
    }
    assert!(server.requests().is_empty());
    assert!(egress.questions.try_recv().is_err(), "a name server was asked");

    // The controls: the plain spelling of what is granted.
    for (host, rules, public, end) in [
        ("public.test", &[][..], true, "93.184.216.34:80"),
        ("PUBLIC.test.", &["public.test:80"], false, "93.184.216.34:80"),
        ("public.test:80", &["public.test:80"], false, "93.184.216.34:80"),
        ("public.test:00080", &["public.test:80"], false, "93.184.216.34:80"),
        ("public.test:22", &["public.test:22"], false, "93.184.216.34:22"),
        ("93.184.216.34", &[], true, "93.184.216.34:80"),
        ("[2606:4700::1111]", &[], true, "[2606:4700::1111]:80"),
        ("127.0.0.1", &["127.0.0.1:80"], false, "127.0.0.1:80"),
        ("[::1]", &["::1:80"], false, "[::1]:80"),
        ("[0:0:0:0:0:0:0:1]", &["::1:80"], false, "[::1]:80"),
        ("10.0.0.1", &["10.0.0.1:80"], false, "10.0.0.1:80"),
        ("169.254.169.254", &["169.254.169.254:80"], false, "169.254.169.254:80"),
        ("168.63.129.16", &["168.63.129.16:80"], false, "168.63.129.16:80"),
        ("localhost", &["localhost:80"], false, "127.0.0.1:80"),
        ("printer.local", &["printer.local:80"], false, "93.184.216.34:80"),
    ] {
        let page = egress.fetch(&format!("http://{host}/"), rules, public).await;
        assert_eq!(page.unwrap_or_else(|failure| panic!("{host}: {failure}")).1, "reached");
        dialled_once(&dialled, end);
    }
}

#[tokio::test]
async fn no_spelling_of_a_refused_host_is_followed() {
    let redirect = |to: String| Page::Redirect { status: 302, to };
    let mut pages = vec![("/".to_owned(), Page::Text("reached".into()))];
    let mut froms = Vec::new();
    let spelled = REFUSED.iter().flat_map(|host| [format!("http://{host}/"), format!("//{host}/")]);
    let others = [
        "http:127.0.0.1/",
        "http:\\\\127.0.0.1\\",
        "\\\\127.0.0.1/",
        "/\\127.0.0.1/",
        "///127.0.0.1/",
        "/\t/127.0.0.1/",
        "ht\ttp://127.0.0.1/",
        "https:other.test/",
        "/\\other.test/",
        "https://public.test:22/",
        "ftp://public.test/",
        "file:///etc/passwd",
        "gopher://public.test/",
        "ws://public.test/",
        "data:text/plain,x",
        "javascript:1",
        "about:blank",
    ];
    for (at, to) in spelled.chain(others.map(ToOwned::to_owned)).enumerate() {
        pages.push((format!("/from/{at}"), redirect(to.clone())));
        froms.push((at, to));
    }
    pages.push(("/control".to_owned(), redirect("//93.184.216.34/".to_owned())));
    let server = WebServer::start(pages);
    let (mut egress, dialled) = Egress::played(names, server.address());
    for (at, to) in froms {
        let fetched = egress.fetch(&format!("http://public.test/from/{at}"), &["public.test:80"], true).await;
        // What is no header of ours at all is no redirect: the page that holds it is the answer.
        let stayed = fetched.as_ref().is_ok_and(|page| page.0 == 302 && !to.is_ascii());
        assert!(fetched.is_err() || stayed, "{to}: {fetched:?}");
        dialled_once(&dialled, "93.184.216.34:80");
    }
    assert!(server.requests().iter().all(|request| request.target.starts_with("/from/")));
    // The control: a redirect to a public address, plainly spelled.
    let page = egress.fetch("http://public.test/control", &["public.test:80"], true).await.expect("granted");
    assert_eq!((page.1.as_str(), page.2.as_str()), ("reached", "http://93.184.216.34/"));
    assert_eq!(dialled.take().len(), 2);
}

#[tokio::test]
async fn a_redirect_takes_nothing_along_and_needs_a_grant_for_its_own_port_and_scheme() {
    let to = |to: &str| Page::Redirect { status: 307, to: to.to_owned() };
    let server = WebServer::start([
        ("/other", to("http://other.test/end?kept=1")),
        ("/insecure", to("http://public.test:443/end")),
        ("/secure", to("https://public.test/end")),
        ("/end", Page::Text("end".into())),
    ]);
    let (mut egress, dialled) = Egress::played(names, server.address());
    let rules = ["public.test:80", "other.test:80"];
    let page = egress.fetch("http://public.test/other", &rules, false).await.expect("both are granted");
    assert_eq!((page.1.as_str(), page.2.as_str()), ("end", "http://other.test/end?kept=1"));
    for (request, host) in server.requests().iter().zip(["public.test", "other.test"]) {
        let sent: Vec<&str> = request.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(sent, ["host", "user-agent", "accept", "accept-encoding", "connection"]);
        assert_eq!(request.headers[0].1, host);
    }
    assert_eq!(dialled.take().len(), 2);
    // Only port 80 is granted: neither other port, nor another scheme at its own port, nor the other host.
    for (path, rules) in [
        ("/insecure", &rules[..]),
        ("/secure", &rules[..]),
        ("/other", &["public.test:80", "*.other.test:80"]),
        ("/other", &["public.test:80", "other.test:443"]),
    ] {
        let failure = egress.fetch(&format!("http://public.test{path}"), rules, false).await;
        assert!(failure.is_err(), "{path} under {rules:?}: {failure:?}");
        dialled_once(&dialled, "93.184.216.34:80");
    }
}
