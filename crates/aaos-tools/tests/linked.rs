//! The program of the zygote and of the workers is one file: it names no loader and no shared object, and its place in
//! memory is drawn at each start.
//!
//! The controls are this test's own program and `/bin/sh`, of which the same reader says that they name both.

use std::path::Path;

/// `e_type` of a program that may lie at any address.
const ANYWHERE: usize = 3;
/// Types of segments: the table of what is done at the start, and the name of the loader.
const DYNAMIC: usize = 2;
const LOADER: usize = 3;
/// The tag that names a shared object in that table, and the size of its entries.
const NEEDED: usize = 1;
const TAGGED: usize = 16;

/// An ELF file of 64 bits, little end first.
struct Elf(Vec<u8>);

impl Elf {
    fn of(path: &Path) -> Self {
        let bytes = std::fs::read(path).expect("the program can be read");
        assert!(bytes.starts_with(b"\x7fELF\x02\x01"), "{} is no ELF file of 64 bits", path.display());
        Self(bytes)
    }

    fn number(&self, at: usize, size: usize) -> usize {
        self.0[at..at + size].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
    }

    fn lies_anywhere(&self) -> bool {
        self.number(16, 2) == ANYWHERE
    }

    /// Where the segments of this type lie in the file, and how long they are there.
    fn segments(&self, kind: usize) -> Vec<(usize, usize)> {
        let (table, size, count) = (self.number(32, 8), self.number(54, 2), self.number(56, 2));
        assert!(count > 0, "a program has segments");
        (0..count)
            .map(|index| table + index * size)
            .filter(|at| self.number(*at, 4) == kind)
            .map(|at| (self.number(at + 8, 8), self.number(at + 32, 8)))
            .collect()
    }

    fn loaders(&self) -> usize {
        self.segments(LOADER).len()
    }

    fn shared_objects(&self) -> usize {
        let tables = self.segments(DYNAMIC);
        let tags = tables.iter().flat_map(|(at, length)| (*at..at + length).step_by(TAGGED));
        tags.filter(|at| self.number(*at, 8) == NEEDED).count()
    }
}

#[test]
fn the_workers_program_needs_no_other_file_and_lies_anywhere() {
    let worker = Elf::of(Path::new(env!("CARGO_BIN_EXE_aaos-worker")));
    assert_eq!((worker.loaders(), worker.shared_objects()), (0, 0));
    assert!(worker.lies_anywhere(), "a program at a fixed address");
    for control in [std::env::current_exe().expect("a running program has a path"), "/bin/sh".into()] {
        let linked = Elf::of(&control);
        assert_eq!(linked.loaders(), 1, "{}", control.display());
        assert!(linked.shared_objects() > 0, "{}", control.display());
    }
}
