//! What is mounted where in the caller's mount namespace.
//!
//! Invariant: the kernel's own list is read, byte by byte: a name in it may hold anything.

use std::ffi::CString;
use std::io;

/// Where the mount point stands in a line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
const MOUNT_POINT: usize = 4;

/// The kernel's list, as it was.
#[derive(Debug)]
pub(crate) struct MountTable(Vec<u8>);

impl MountTable {
    /// Reads it. /proc of the machine has to be there.
    pub(crate) fn read() -> io::Result<Self> {
        std::fs::read("/proc/self/mountinfo").map(Self)
    }

    /// The mount points below a path, without those below another of them.
    pub(crate) fn below(&self, path: &str) -> io::Result<Vec<CString>> {
        let below = outermost(&self.0, path.as_bytes());
        below.into_iter().map(|point| CString::new(point).map_err(io::Error::other)).collect()
    }
}

fn outermost(table: &[u8], path: &[u8]) -> Vec<Vec<u8>> {
    let lines = table.split(|byte| *byte == b'\n');
    let points = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(MOUNT_POINT)).map(unescaped);
    let mut below: Vec<Vec<u8>> = points.filter(|point| is_below(point, path)).collect();
    // What lies above comes first, whatever stands between two names.
    below.sort_by_key(Vec::len);
    let mut found: Vec<Vec<u8>> = Vec::new();
    for point in below {
        if !found.iter().any(|above| *above == point || is_below(&point, above)) {
            found.push(point);
        }
    }
    found
}

fn is_below(point: &[u8], path: &[u8]) -> bool {
    point.strip_prefix(path).is_some_and(|rest| rest.first() == Some(&b'/'))
}

/// Blanks and backslashes stand there as a backslash and three octal digits.
fn unescaped(word: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, more)) = rest.split_first() {
        let number = match (first, more) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..]) => {
                Some((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'))
            }
            _ => None,
        };
        plain.push(number.unwrap_or(*first));
        rest = if number.is_some() { &more[3..] } else { more };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::{MountTable, outermost};

    const TABLE: &[u8] = b"\
20 1 0:1 / / rw - ext4 /dev/a rw\n\
21 20 0:2 / /data rw - tmpfs none rw\n\
22 21 0:3 / /data/in/deep rw shared:1 - tmpfs none rw\n\
23 21 0:4 / /data/in rw - tmpfs none rw\n\
24 21 0:5 / /data/in rw - tmpfs none rw\n\
25 21 0:6 / /data/a\\040b\\134c rw - tmpfs none rw\n\
26 20 0:7 / /database rw - tmpfs none rw\n";

    #[test]
    fn what_is_mounted_below_is_found_once_by_its_own_name() {
        let found = |path: &str| {
            let found = outermost(TABLE, path.as_bytes());
            found.into_iter().map(|point| String::from_utf8(point).expect("text")).collect::<Vec<_>>()
        };
        assert_eq!(found("/data"), ["/data/in", "/data/a b\\c"]);
        assert_eq!(found("/data/in"), ["/data/in/deep"]);
        assert_eq!(found("/data/in/deep"), [""; 0]);
        assert_eq!(found("/dat"), [""; 0], "a longer name is none below");
    }

    #[test]
    fn this_machine_s_own_table_is_understood() {
        let names = MountTable::read().expect("a table").below("").expect("names");
        assert!(names.iter().any(|point| point.as_c_str() == c"/proc"), "{names:?}");
    }
}
