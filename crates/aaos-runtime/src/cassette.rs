//! A cassette on its way to the `models` gateway, which alone reads and writes it.
//!
//! Invariant: a gateway that is started again goes on where the file ends, or begins it anew where it is replayed.

use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::{AsFd, OwnedFd};

use aaos_core::cassette::{CassetteSetup, CassetteUse, Place};
use aaos_core::quantity::Bytes;

/// An open file for the traffic with providers.
#[derive(Debug)]
pub struct Cassette {
    file: File,
    way: Way,
    places: Vec<Place>,
}

/// Which way the traffic goes.
#[derive(Debug, Clone, Copy)]
enum Way {
    Record,
    Replay,
}

impl Cassette {
    /// To be added to: `file` is open for appending and has its head.
    #[must_use]
    pub const fn to_record(file: File, places: Vec<Place>) -> Self {
        Self { file, way: Way::Record, places }
    }

    /// To be replayed: `file` is open for reading.
    #[must_use]
    pub const fn to_replay(file: File, places: Vec<Place>) -> Self {
        Self { file, way: Way::Replay, places }
    }

    /// The file for a gateway that is about to start, and what it is told of it.
    pub(crate) fn hand_over(&self) -> io::Result<(CassetteSetup, OwnedFd)> {
        Ok((self.setup()?, self.file.as_fd().try_clone_to_owned()?))
    }

    fn setup(&self) -> io::Result<CassetteSetup> {
        let purpose = match self.way {
            Way::Record => CassetteUse::Record { length: Bytes(self.file.metadata()?.len()) },
            Way::Replay => {
                // The position belongs to every descriptor of it.
                (&self.file).rewind()?;
                CassetteUse::Replay
            }
        };
        Ok(CassetteSetup { purpose, places: self.places.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::Cassette;
    use aaos_core::cassette::CassetteUse;
    use aaos_core::quantity::Bytes;
    use std::io::{Read, Write};

    #[test]
    fn a_second_gateway_finds_the_file_as_the_first_one_did() {
        let folder = testkit::scratch();
        let path = folder.path().join("cassette");
        let mut file =
            std::fs::File::options().create_new(true).append(true).open(&path).expect("a new file");
        file.write_all(b"head\n").expect("room");
        let recorded = Cassette::to_record(file, Vec::new());
        let length = |cassette: &Cassette| cassette.setup().expect("a file").purpose;
        assert_eq!(length(&recorded), CassetteUse::Record { length: Bytes(5) });
        std::fs::write(&path, b"head\nmore\n").expect("room");
        assert_eq!(length(&recorded), CassetteUse::Record { length: Bytes(10) });

        let replayed = Cassette::to_replay(std::fs::File::open(&path).expect("a file"), Vec::new());
        for _ in 0..2 {
            assert_eq!(length(&replayed), CassetteUse::Replay);
            let mut text = String::new();
            (&replayed.file).read_to_string(&mut text).expect("text");
            assert_eq!(text, "head\nmore\n");
        }
    }
}
