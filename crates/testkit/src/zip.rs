//! Zip archives for tests: as plain as they can be.

/// A file of an archive.
#[derive(Debug, Clone)]
pub struct Zipped<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its bytes.
    pub content: &'a [u8],
    /// The same, deflated; they are stored as they are where this is absent.
    pub deflated: Option<Vec<u8>>,
}

/// An archive of these files, in order.
///
/// # Panics
/// When something is too large for one.
#[must_use]
pub fn zip(files: &[Zipped<'_>]) -> Vec<u8> {
    let (mut out, mut list) = (Vec::new(), Vec::new());
    for Zipped { name, content, deflated } in files {
        let at = long(out.len());
        let packed = deflated.as_deref().unwrap_or(content);
        // Version, flags, method, time, date, checksum, both sizes, lengths of name and extra field.
        let mut facts = vec![20, 0, 0, 0, if deflated.is_some() { 8 } else { 0 }, 0, 0, 0, 0x21, 0];
        facts.extend(checksum(content).to_le_bytes());
        facts.extend(long(packed.len()).into_iter().chain(long(content.len())));
        facts.extend(long(name.len()));
        out.extend(b"PK\x03\x04");
        out.extend(&facts);
        out.extend(name.as_bytes());
        out.extend(packed);
        list.extend(b"PK\x01\x02\x14\0");
        list.extend(&facts);
        list.extend([0; 10]);
        list.extend(at);
        list.extend(name.as_bytes());
    }
    let count = u16::try_from(files.len()).expect("few files").to_le_bytes();
    let (at, size) = (long(out.len()), long(list.len()));
    out.extend(list);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend(count.into_iter().chain(count).chain(size).chain(at).chain([0; 2]));
    out
}

fn long(number: usize) -> [u8; 4] {
    u32::try_from(number).expect("below 4 GiB").to_le_bytes()
}

/// CRC-32 as of ISO 3309.
fn checksum(bytes: &[u8]) -> u32 {
    let bit = |sum: u32, _| if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 };
    !bytes.iter().fold(u32::MAX, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), bit))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(super::checksum(b"123456789"), 0xcbf4_3926);
    }
}
