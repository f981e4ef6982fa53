//! The list of a zip archive, and one file of it (APPNOTE.TXT of PKWARE, the part of it that packages use).
//!
//! Invariants: a file is found by the name that is asked for, and no name in the archive leads anywhere; the list is
//! bounded, lies right before the archive's end, and names nothing twice; a file lies before the list, and what comes of it
//! is counted and checked by its sum. What is encrypted, in several pieces, or larger than 4 GiB is refused.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Take, Write};

use flate2::Crc;
use flate2::read::DeflateDecoder;

/// Most files of an archive that is read.
const MAX_FILES: u16 = 1_000;
/// Longest list of them.
const MAX_LIST_BYTES: u32 = 1024 * 1024;
/// Bytes passed on at a time.
const STEP_BYTES: usize = 64 * 1024;
/// The last record; here no comment follows it.
const END_BYTES: u8 = 22;
const END: &[u8] = b"PK\x05\x06";
/// The fixed part of an entry of the list.
const ENTRY_BYTES: usize = 46;
const ENTRY: &[u8] = b"PK\x01\x02";
/// The fixed part of what stands before a file's bytes.
const HEAD_BYTES: usize = 30;
const HEAD: &[u8] = b"PK\x03\x04";
const STORED: u16 = 0;
const DEFLATED: u16 = 8;
/// The flag of what is encrypted.
const ENCRYPTED: u16 = 1;

/// Why a file does not come out of an archive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("the archive is broken: {0}")]
    Broken(&'static str),
    #[error("the archive cannot be read: {0}")]
    Unread(#[from] io::Error),
    #[error("the archive has more files, or a longer list of them, than is read")]
    Crowded,
    #[error("the archive has no such file")]
    Absent,
    #[error("the file in the archive is larger than {0} bytes")]
    TooLarge(u64),
    #[error("what was unpacked cannot be passed on: {0}")]
    Unwritten(#[source] io::Error),
}

use Unusable::Broken;

/// What the list says of a file.
#[derive(Debug, Clone, Copy)]
struct Entry {
    flags: u16,
    method: u16,
    sum: u32,
    packed: u32,
    size: u32,
    at: u32,
}

/// An archive whose list was read.
#[derive(Debug)]
pub(crate) struct Archive {
    file: File,
    list_at: u32,
    entries: BTreeMap<Vec<u8>, Entry>,
}

impl Archive {
    /// Reads the list.
    pub(crate) fn open(mut file: File) -> Result<Self, Unusable> {
        let mut end = [0; END_BYTES as usize];
        let size = file.seek(SeekFrom::End(0))?;
        let end_at = size.checked_sub(END_BYTES.into()).ok_or(Broken("it is too short"))?;
        file.seek(SeekFrom::Start(end_at))?;
        file.read_exact(&mut end)?;
        if !end.starts_with(END) {
            return Err(Broken("its end is not where it should be"));
        }
        let (count, list_bytes, list_at) = (word(&end, 10)?, long(&end, 12)?, long(&end, 16)?);
        if count > MAX_FILES || list_bytes > MAX_LIST_BYTES {
            return Err(Unusable::Crowded);
        }
        if u64::from(list_at) + u64::from(list_bytes) != end_at {
            return Err(Broken("its list is not where it should be"));
        }
        file.seek(SeekFrom::Start(list_at.into()))?;
        let mut list = vec![0; usize::try_from(list_bytes).map_err(|_| Unusable::Crowded)?];
        file.read_exact(&mut list)?;
        Ok(Self { file, list_at, entries: entries(&list, count)? })
    }

    /// Passes on the bytes of one file, at most so many; gives how many there were.
    pub(crate) fn unpack(self, name: &str, most: u64, sink: &mut impl Write) -> Result<u64, Unusable> {
        let entry = *self.entries.get(name.as_bytes()).ok_or(Unusable::Absent)?;
        if entry.flags & ENCRYPTED != 0 {
            return Err(Broken("the file is encrypted"));
        }
        if u64::from(entry.size) > most {
            return Err(Unusable::TooLarge(most));
        }
        let packed = BufReader::with_capacity(STEP_BYTES, self.packed(entry)?);
        let (size, sum) = match entry.method {
            STORED => pass_on(packed, most, sink)?,
            DEFLATED => pass_on(DeflateDecoder::new(packed), most, sink)?,
            _ => return Err(Broken("the file is packed in a way that is not known here")),
        };
        if size != u64::from(entry.size) || sum != entry.sum {
            return Err(Broken("the file is not the one of the list by its size and checksum"));
        }
        Ok(size)
    }

    /// The bytes of a file as they lie in the archive.
    fn packed(mut self, entry: Entry) -> Result<Take<File>, Unusable> {
        let mut head = [0; HEAD_BYTES];
        self.file.seek(SeekFrom::Start(entry.at.into()))?;
        self.file.read_exact(&mut head)?;
        if !head.starts_with(HEAD) {
            return Err(Broken("the file is not where the list says"));
        }
        let names = u64::from(word(&head, 26)?) + u64::from(word(&head, 28)?);
        let from = u64::from(entry.at) + HEAD_BYTES as u64 + names;
        if from + u64::from(entry.packed) > u64::from(self.list_at) {
            return Err(Broken("the file lies beyond the files"));
        }
        self.file.seek(SeekFrom::Start(from))?;
        Ok(self.file.take(entry.packed.into()))
    }
}

/// What the list names.
fn entries(mut list: &[u8], count: u16) -> Result<BTreeMap<Vec<u8>, Entry>, Unusable> {
    let mut entries = BTreeMap::new();
    for _entry in 0..count {
        if !list.starts_with(ENTRY) {
            return Err(Broken("its list is shorter than it says"));
        }
        let entry = Entry {
            flags: word(list, 8)?,
            method: word(list, 10)?,
            sum: long(list, 16)?,
            packed: long(list, 20)?,
            size: long(list, 24)?,
            at: long(list, 42)?,
        };
        let name_bytes = usize::from(word(list, 28)?);
        let all = ENTRY_BYTES + name_bytes + usize::from(word(list, 30)?) + usize::from(word(list, 32)?);
        let name = list.get(ENTRY_BYTES..ENTRY_BYTES + name_bytes).ok_or(Broken("its list is cut"))?;
        if entries.insert(name.to_vec(), entry).is_some() {
            return Err(Broken("its list has a name twice"));
        }
        list = list.get(all..).ok_or(Broken("its list is cut"))?;
    }
    if list.is_empty() { Ok(entries) } else { Err(Broken("its list is longer than it says")) }
}

/// How much was passed on, and its checksum.
fn pass_on(mut from: impl Read, most: u64, sink: &mut impl Write) -> Result<(u64, u32), Unusable> {
    let mut step = vec![0; STEP_BYTES];
    let (mut passed, mut sum) = (0_u64, Crc::new());
    loop {
        let got = from.read(&mut step)?;
        let piece = step.get(..got).unwrap_or_default();
        if piece.is_empty() {
            return Ok((passed, sum.sum()));
        }
        passed += piece.len() as u64;
        if passed > most {
            return Err(Unusable::TooLarge(most));
        }
        sum.update(piece);
        sink.write_all(piece).map_err(Unusable::Unwritten)?;
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u16, Unusable> {
    let two = bytes.get(at..at + 2).and_then(|two| two.try_into().ok()).ok_or(Broken("it is cut"))?;
    Ok(u16::from_le_bytes(two))
}

fn long(bytes: &[u8], at: usize) -> Result<u32, Unusable> {
    let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).ok_or(Broken("it is cut"))?;
    Ok(u32::from_le_bytes(four))
}
