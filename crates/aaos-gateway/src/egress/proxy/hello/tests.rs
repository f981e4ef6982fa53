//! Hellos as a client of today writes them, and as nobody should.

use std::io::Write;
use std::sync::Arc;

use proptest::prelude::*;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, ClientConfig, ClientConnection, RootCertStore};

use super::{ClientHello, HelloError, MAX_HELLO_BYTES, read};

/// What rustls sends first to `name`.
fn real(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).expect("memory");
    }
    bytes
}

fn vector(width: usize, data: &[u8]) -> Vec<u8> {
    let mut bytes = data.len().to_be_bytes()[8 - width..].to_vec();
    bytes.extend(data);
    bytes
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_be_bytes().to_vec();
    bytes.extend(vector(2, data));
    bytes
}

fn name_entry(kind: u8, name: &[u8]) -> Vec<u8> {
    let mut entry = vec![kind];
    entry.extend(vector(2, name));
    entry
}

fn sni(name: &[u8]) -> Vec<u8> {
    extension(0, &vector(2, &name_entry(0, name)))
}

/// A handshake message of the given type.
fn message(kind: u8, extensions: Option<&[u8]>) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend(vector(1, &[1; 32]));
    body.extend(vector(2, &[0x13, 0x01]));
    body.extend(vector(1, &[0]));
    if let Some(extensions) = extensions {
        body.extend(vector(2, extensions));
    }
    let mut message = vec![kind];
    message.extend(vector(3, &body));
    message
}

/// The message in records of `size` bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in message.chunks(size) {
        bytes.write_all(&[22, 3, 1]).expect("memory");
        bytes.extend(vector(2, piece));
    }
    bytes
}

fn hello(extensions: &[u8]) -> Vec<u8> {
    records(&message(1, Some(extensions)), 16_384)
}

fn named(name: &str) -> Result<Option<ClientHello>, HelloError> {
    Ok(Some(ClientHello { server_name: Some(name.to_owned()) }))
}

#[test]
fn the_name_of_a_real_hello_is_read_at_its_last_byte_and_no_sooner() {
    let bytes = real("Example.ORG");
    for cut in 0..bytes.len() {
        assert_eq!(read(&bytes[..cut]), Ok(None), "after {cut} of {} bytes", bytes.len());
    }
    assert_eq!(read(&bytes), named("example.org"));
    let followed = [bytes, b"early data".to_vec()].concat();
    assert_eq!(read(&followed), named("example.org"));
    assert_eq!(read(&real("127.0.0.1")), Ok(Some(ClientHello { server_name: None })));
}

#[test]
fn a_hello_may_lie_in_many_records_and_have_no_extensions() {
    let one = message(1, Some(&sni(b"a.b")));
    for size in [1, 2, 3, 4, 5, 40, 16_384] {
        let bytes = records(&one, size);
        assert_eq!(read(&bytes), named("a.b"), "records of {size}");
        assert_eq!(read(&bytes[..bytes.len() - 1]), Ok(None), "records of {size}");
    }
    for extensions in [None, Some(&[][..])] {
        let nameless = records(&message(1, extensions), 16_384);
        assert_eq!(read(&nameless), Ok(Some(ClientHello { server_name: None })));
    }
}

#[test]
fn what_hides_the_name_or_is_ambiguous_is_refused() {
    use HelloError::{BadName, Encrypted, Malformed, NotTls, TooLong};
    let two_entries = [name_entry(0, b"a"), name_entry(0, b"b")].concat();
    let long = vec![b'a'; 254];
    let grown = [vector(2, &name_entry(0, b"a")), vec![0]].concat();
    for (bytes, expected) in [
        (hello(&[sni(b"a"), extension(0xfe0d, &[0; 100])].concat()), Encrypted),
        (hello(&[extension(0xfe0d, &[]), sni(b"a")].concat()), Encrypted),
        (hello(&[sni(b"a"), extension(0xffce, &[])].concat()), Encrypted),
        (hello(&[sni(b"a"), sni(b"b")].concat()), BadName),
        (hello(&[sni(b"a"), sni(b"a")].concat()), BadName),
        (hello(&extension(0, &vector(2, &two_entries))), BadName),
        (hello(&extension(0, &vector(2, &name_entry(1, b"a")))), BadName),
        (hello(&sni(b"")), BadName),
        (hello(&sni(b"a\0b")), BadName),
        (hello(&sni(b"a b")), BadName),
        (hello(&sni("\u{e4}".as_bytes())), BadName),
        (hello(&sni(&long)), BadName),
        (hello(&extension(0, &grown)), Malformed),
        (hello(&extension(0, &[])), Malformed),
        (hello(&extension(0, &[0, 0])), Malformed),
        (hello(&sni(b"a")[..5]), Malformed),
        (records(&message(2, Some(&sni(b"a"))), 16_384), NotTls),
        (records(&[1, 0, 0, 2, 3, 3], 16_384), Malformed),
        (records(&[1, 0, 0, 0], 16_384), Malformed),
        (records(&[1, 0xff, 0xff, 0xff], 16_384), TooLong),
        (vec![22, 3, 1, 0, 0], Malformed),
        (vec![22, 3, 1, 0x40, 1], Malformed),
        (vec![21, 3, 1, 0, 2, 1, 0], NotTls),
        (vec![23], NotTls),
        (vec![22, 2], NotTls),
        (vec![22, 3, 5], NotTls),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), NotTls),
        (b"SSH-2.0-x\r\n".to_vec(), NotTls),
        // The hello of SSL 2, which some servers still understand.
        (vec![0x80, 0x2e, 1, 3, 1], NotTls),
    ] {
        assert_eq!(read(&bytes), Err(expected), "{bytes:02x?}");
    }
    assert_eq!(read(&hello(&sni(&vec![b'a'; 253]))).map(|hello| hello.is_some()), Ok(true), "the control");
}

#[test]
fn a_hello_that_never_ends_is_too_long() {
    let mut endless = message(1, Some(&sni(b"a")));
    endless[1..4].copy_from_slice(&[0, 0x7f, 0xff]);
    endless.resize(40_000, 0);
    let bytes = records(&endless, 1);
    assert_eq!(read(&bytes[..MAX_HELLO_BYTES - 1]), Ok(None));
    assert_eq!(read(&bytes[..MAX_HELLO_BYTES]), Err(HelloError::TooLong));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(read(&bytes).is_err() || bytes.is_empty() || bytes[0] == 22);
    }

    /// A change to a real hello never makes it one for another name that stands nowhere in it.
    #[test]
    fn a_damaged_hello_names_only_what_stands_in_it(at in 0_usize..600, value: u8, cut in 0_usize..600) {
        let mut bytes = hello(&[sni(b"granted.test"), extension(43, &[2, 3, 4]), extension(51, &[9; 80])].concat());
        let length = bytes.len();
        bytes[at % length] = value;
        bytes.truncate(length - cut % 20);
        if let Ok(Some(ClientHello { server_name: Some(name) })) = read(&bytes) {
            let lower = bytes.to_ascii_lowercase();
            prop_assert!(lower.windows(name.len()).any(|window| window == name.as_bytes()), "{name}");
        }
    }

    /// What is decided stays decided, however much more arrives.
    #[test]
    fn more_bytes_never_change_an_answer(name in "[a-z]{1,20}", size in 1_usize..300, more in proptest::collection::vec(any::<u8>(), 0..50)) {
        let mut bytes = records(&message(1, Some(&sni(name.as_bytes()))), size);
        let whole = read(&bytes);
        prop_assert_eq!(&whole, &named(&name));
        bytes.extend(more);
        prop_assert_eq!(read(&bytes), whole);
    }
}
