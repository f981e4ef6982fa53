//! An initramfs: a cpio archive in the format that the kernel calls newc, written here.
//!
//! Invariants: a program comes with every library that `ldd` names, under the same paths; names are relative and each
//! stands once; everything belongs to root.

use crate::run::{program, read, succeed};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// `S_IFDIR` with mode 0755, and `S_IFREG` with the same and with 0644.
const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const PLAIN: u32 = 0o100_644;
/// What an archive ends with.
const TRAILER: &str = "TRAILER!!!";

/// What will be written.
#[derive(Default)]
pub(super) struct Image {
    entries: BTreeMap<String, Entry>,
}

enum Entry {
    Folder,
    Plain(Vec<u8>),
    Program(PathBuf),
}

impl Image {
    /// A file of the host, executable, with its libraries.
    pub(super) fn add_program(&mut self, from: &Path, to: &str) -> Result<()> {
        self.add_parents(to);
        self.entries.insert(to.to_owned(), Entry::Program(from.to_owned()));
        for library in libraries(&read(program("ldd", [from], Path::new("/")))?) {
            let to = library.trim_start_matches('/');
            self.add_parents(to);
            self.entries.insert(to.to_owned(), Entry::Program(PathBuf::from(&library)));
        }
        Ok(())
    }

    pub(super) fn add_file(&mut self, to: &str, content: &[u8]) {
        self.add_parents(to);
        self.entries.insert(to.to_owned(), Entry::Plain(content.to_vec()));
    }

    pub(super) fn add_folder(&mut self, to: &str) {
        self.add_parents(to);
        self.entries.insert(to.to_owned(), Entry::Folder);
    }

    fn add_parents(&mut self, to: &str) {
        assert!(!to.starts_with('/') && !to.is_empty(), "names in an archive are relative");
        for (at, _) in to.match_indices('/') {
            self.entries.entry(to[..at].to_owned()).or_insert(Entry::Folder);
        }
    }

    /// Writes the archive, programs without what only a debugger reads.
    pub(super) fn write(&self, to: &Path) -> Result<()> {
        let file = File::create(to).with_context(|| format!("create {}", to.display()))?;
        let mut archive = BufWriter::new(file);
        let scratch = to.with_extension("stripped");
        // A folder sorts before what lies in it, so it is made before.
        for (number, (name, entry)) in self.entries.iter().enumerate() {
            let content;
            let (mode, bytes) = match entry {
                Entry::Folder => (FOLDER, &[][..]),
                Entry::Plain(bytes) => (PLAIN, bytes.as_slice()),
                Entry::Program(path) => {
                    content = stripped(path, &scratch)?;
                    (PROGRAM, content.as_slice())
                }
            };
            member(&mut archive, number, mode, name, bytes)?;
        }
        member(&mut archive, 0, 0, TRAILER, &[])?;
        archive.flush().with_context(|| format!("write {}", to.display()))
    }
}

fn stripped(path: &Path, scratch: &Path) -> Result<Vec<u8>> {
    let words = [Path::new("--strip-debug"), Path::new("-o"), scratch, path];
    succeed(program("strip", words, Path::new("/")))?;
    std::fs::read(scratch).with_context(|| format!("read {}", scratch.display()))
}

/// One member: a head of hexadecimal numbers, the name, the bytes; name and bytes each end at a multiple of four.
fn member(archive: &mut impl Write, number: usize, mode: u32, name: &str, bytes: &[u8]) -> Result<()> {
    let size = u32::try_from(bytes.len()).context("a file of an initramfs has less than 4 GiB")?;
    let links = if mode == FOLDER { 2 } else { 1 };
    // Number, mode, owner, group, links, time, size, four numbers of devices, length of the name, checksum.
    let name_bytes = name.len() + 1;
    let head = format!(
        "070701{:08X}{mode:08X}{:08X}{:08X}{links:08X}{:08X}{size:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}",
        number + 1,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        name_bytes,
        0
    );
    ensure!(head.len() == 110, "the head of a member has 110 bytes");
    archive.write_all(head.as_bytes())?;
    archive.write_all(name.as_bytes())?;
    archive.write_all(&[0; 4][..1 + padding(head.len() + name_bytes)])?;
    archive.write_all(bytes)?;
    archive.write_all(&[0; 4][..padding(bytes.len())])?;
    Ok(())
}

fn padding(length: usize) -> usize {
    length.next_multiple_of(4) - length
}

/// The paths that `ldd` names: `lib => /path (0x…)`, or `/path (0x…)` for the loader.
fn libraries(said: &str) -> Vec<String> {
    let path = |line: &str| {
        let path = line.split_once("=>").map_or(line, |(_, path)| path).split_whitespace().next()?;
        path.starts_with('/').then(|| path.to_owned())
    };
    said.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::{Entry, Image, libraries, member, padding};

    #[test]
    fn libraries_and_the_loader_are_found() {
        let said = "\tlinux-vdso.so.1 (0x00007ffe)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x0f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00)\n";
        assert_eq!(libraries(said), ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
        assert!(libraries("\tstatically linked\n").is_empty());
    }

    #[test]
    fn a_member_is_padded_to_multiples_of_four() {
        for (name, content) in
            [("a", &b""[..]), ("ab", b"1"), ("abc", b"12"), ("abcd", b"1234"), ("abcde", b"123")]
        {
            let mut bytes = Vec::new();
            member(&mut bytes, 6, 0o100_644, name, content).unwrap();
            assert_eq!(bytes.len() % 4, 0, "{name}");
            assert!(bytes.starts_with(b"07070100000007000081A4"), "{name}");
            let at = 110 + name.len() + 1 + padding(110 + name.len() + 1);
            assert_eq!(&bytes[110..110 + name.len()], name.as_bytes());
            assert_eq!(bytes[110 + name.len()], 0);
            assert_eq!(&bytes[at..at + content.len()], content);
        }
    }

    #[test]
    fn the_folders_of_a_file_come_before_it() {
        let mut image = Image::default();
        image.add_file("a/b/c", b"text");
        image.add_folder("a/b");
        let names: Vec<&str> = image.entries.keys().map(String::as_str).collect();
        assert_eq!(names, ["a", "a/b", "a/b/c"]);
        assert!(matches!(image.entries["a/b"], Entry::Folder));
    }
}
