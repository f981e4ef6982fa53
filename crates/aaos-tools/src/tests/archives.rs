//! Unpacking one file: honest archives, and those that lie about names, sizes and content.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use aaos_core::quantity::Bytes;
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use aaos_core::wire::{Handle, JobOutput, WorkerJob};
use flate2::Compression;
use flate2::write::DeflateEncoder;
use rustix::pipe::{PipeFlags, pipe_with};
use testkit::{Zipped, zip};

use super::{Near, handed, memfd};

#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    Stored,
    Deflated,
}

/// An archive of these files.
fn archive(files: &[(&str, &[u8])], how: How) -> Vec<u8> {
    let deflate = |content: &[u8]| {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(content).expect("written");
        encoder.finish().expect("ended")
    };
    let files: Vec<Zipped<'_>> = files
        .iter()
        .map(|(name, content)| Zipped {
            name,
            content,
            deflated: (how == How::Deflated).then(|| deflate(content)),
        })
        .collect();
    zip(&files)
}

/// What comes out, and how the job ended.
fn unpacked(archive: &[u8], member: &str, most: u64) -> (Vec<u8>, Result<JobOutput, ToolFailure>) {
    const SINK: Handle = Handle(9);
    let file = memfd(archive);
    let (near, far): (OwnedFd, OwnedFd) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    let reader = std::thread::spawn(move || {
        let mut came = Vec::new();
        std::fs::File::from(near).read_to_end(&mut came).expect("read");
        came
    });
    let job = WorkerJob::Unpack {
        archive: handed(archive),
        member: member.to_owned(),
        most: Bytes(most),
        sink: SINK,
    };
    let mut worker = Near::start();
    let told = worker.run(job, &[file.as_fd(), far.as_fd()]);
    drop(far);
    (reader.join().expect("no panic"), told)
}

fn kind(told: Result<JobOutput, ToolFailure>) -> Option<ToolFailureKind> {
    told.err().map(|failure| failure.kind)
}

#[test]
fn the_file_that_is_asked_for_comes_out_and_no_other() {
    let long = b"part ".repeat(100_000);
    for method in [How::Stored, How::Deflated] {
        let files = [("p/data/part01.bin", long.as_slice()), ("p/__init__.py", b"print()"), ("../out", b"x")];
        let archive = archive(&files, method);
        let (came, told) = unpacked(&archive, "p/data/part01.bin", long.len() as u64);
        assert_eq!((came.len(), told), (long.len(), Ok(JobOutput::Unpacked(Bytes(long.len() as u64)))));
        assert!(came == long, "{method:?}");
        for absent in ["part01.bin", "p/data", "p/data/", "/etc/passwd", "out", ""] {
            let (came, told) = unpacked(&archive, absent, 1_000);
            assert_eq!((came.len(), kind(told)), (0, Some(ToolFailureKind::NotFound)), "{absent}");
        }
        // A name that leads out is a name like any other here: nothing is opened by it.
        assert_eq!(unpacked(&archive, "../out", 1_000).0, b"x");
    }
}

#[test]
fn a_file_that_is_larger_than_it_may_be_is_stopped_there() {
    let zeros = vec![0; 5_000_000];
    let bomb = archive(&[("p/big", &zeros)], How::Deflated);
    assert!(bomb.len() < 100_000, "a small archive");
    let (came, told) = unpacked(&bomb, "p/big", 1_000_000);
    assert!(came.len() <= 1_000_000, "{}", came.len());
    assert_eq!(kind(told), Some(ToolFailureKind::TooLarge));
    // One that says it is small is believed no longer than it is.
    let mut lying = bomb.clone();
    let at = lying.windows(4).position(|four| four == b"PK\x01\x02").expect("a list");
    lying[at + 24..at + 28].copy_from_slice(&1_000_u32.to_le_bytes());
    let (came, told) = unpacked(&lying, "p/big", 1_000_000);
    assert!((1..=1_000_000).contains(&came.len()), "{}", came.len());
    assert_eq!(kind(told), Some(ToolFailureKind::TooLarge));
    let (came, told) = unpacked(&bomb, "p/big", 5_000_000);
    assert_eq!((came.len(), kind(told)), (5_000_000, None), "the control");
}

#[test]
fn what_is_broken_is_said_to_be() {
    let whole = archive(&[("p/f", b"some words of a file")], How::Stored);
    let at = whole.windows(4).position(|four| four == b"some").expect("stored as it is");
    let mut changed = whole.clone();
    changed[at] ^= 1;
    let cut = &whole[..whole.len() - 10];
    for (bytes, words) in [
        (changed.as_slice(), "checksum"),
        (cut, "broken"),
        (b"not an archive at all, and longer", "broken"),
        (b"", "broken"),
    ] {
        let failure = unpacked(bytes, "p/f", 1_000).1.expect_err("broken");
        assert_eq!(failure.kind, ToolFailureKind::WrongKind);
        assert!(failure.message.contains(words), "{failure}");
    }
    assert_eq!(unpacked(&whole, "p/f", 1_000).0, b"some words of a file", "the control");
}

#[test]
fn archives_that_lie_about_their_list_are_refused() {
    let whole = archive(&[("p/a", b"first"), ("p/b", b"second")], How::Stored);
    assert_eq!(unpacked(&whole, "p/a", 1_000).0, b"first", "the control");
    let everywhere = |mut bytes: Vec<u8>, from: &[u8], to: &[u8]| {
        for at in 0..=bytes.len() - from.len() {
            if bytes[at..].starts_with(from) {
                bytes[at..at + to.len()].copy_from_slice(to);
            }
        }
        bytes
    };
    let twice = everywhere(whole.clone(), b"p/b", b"p/a");
    assert_eq!(kind(unpacked(&twice, "p/a", 1_000).1), Some(ToolFailureKind::WrongKind), "a name twice");
    let mut locked = whole.clone();
    let at = locked.windows(4).position(|four| four == b"PK\x01\x02").expect("a list");
    locked[at + 8] |= 1;
    assert_eq!(kind(unpacked(&locked, "p/a", 1_000).1), Some(ToolFailureKind::WrongKind), "encrypted");
    let mut many = whole.clone();
    let end = many.len() - 22;
    many[end + 8..end + 12].copy_from_slice(&[0xfe, 0xff, 0xfe, 0xff]);
    assert_eq!(kind(unpacked(&many, "p/a", 1_000).1), Some(ToolFailureKind::TooLarge), "65534 files");
    let mut fewer = whole.clone();
    fewer[end + 10] = 1;
    assert_eq!(kind(unpacked(&fewer, "p/a", 1_000).1), Some(ToolFailureKind::WrongKind), "more than it says");
    let mut beyond = whole.clone();
    beyond[at + 42..at + 46].copy_from_slice(&u32::MAX.to_le_bytes());
    let failure = kind(unpacked(&beyond, "p/a", 1_000).1);
    assert!(matches!(failure, Some(ToolFailureKind::WrongKind | ToolFailureKind::Io)), "{failure:?}");
    let names: Vec<String> = (0..1_500).map(|number| format!("f{number}")).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
    let crowd = archive(&files, How::Stored);
    assert_eq!(kind(unpacked(&crowd, "f7", 1_000).1), Some(ToolFailureKind::TooLarge), "too many files");
}
