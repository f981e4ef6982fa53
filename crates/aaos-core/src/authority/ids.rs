//! A map whose keys are the runtime's own ids, hashed cheaply.
//!
//! Invariant: every key that is put in was made by this runtime's generator of version 7 UUIDs, or read from the
//! journal that it wrote itself. Nobody else chooses keys, so no flood of colliding ones can be prepared and a keyed
//! hash would only cost time. What strangers choose, paths above all, is never hashed with this.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// From a typed id to something.
pub(super) type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// Folds each word in with one wide multiplication: both the random tail and the time in the head of a version 7
/// UUID reach the high and the low bits, which the map goes by.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct IdHasher(u64);

/// An odd number without a pattern: the golden ratio's first 64 bits after the point.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
const WORD: usize = size_of::<u64>();

impl Hasher for IdHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(WORD);
        for word in &mut words {
            self.write_u64(word.try_into().map_or(0, u64::from_le_bytes));
        }
        for byte in words.remainder() {
            self.write_u64(u64::from(*byte));
        }
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        let wide = u128::from(self.0.rotate_left(5) ^ word ^ MULTIPLIER) * u128::from(MULTIPLIER);
        self.0 = (wide as u64) ^ ((wide >> 64) as u64);
    }

    /// The length that stands before an id's bytes; it is the same for all ids.
    #[inline]
    fn write_usize(&mut self, _length: usize) {}

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::{BuildHasher, BuildHasherDefault};

    use uuid::Uuid;

    use super::IdHasher;
    use crate::id::AgentId;

    fn hash(uuid: u128) -> u64 {
        BuildHasherDefault::<IdHasher>::default().hash_one(AgentId::from_uuid(Uuid::from_u128(uuid)))
    }

    /// Most ids of one place among `places`, where `bits` of each hash say the place.
    fn fullest(ids: impl Iterator<Item = u128>, bits: impl Fn(u64) -> usize, places: usize) -> usize {
        let mut count = vec![0_usize; places];
        ids.for_each(|id| count[bits(hash(id)) % places] += 1);
        count.into_iter().max().unwrap_or(0)
    }

    #[test]
    fn ids_that_differ_in_the_head_alone_or_in_the_tail_alone_spread_over_the_bits_that_a_map_goes_by() {
        let heads = || (0..4096_u128).map(|at| (at << 80) | 0x7000_8000_0000_0000_0001);
        let tails = || (0..4096_u128).map(|at| (0x019a_0000_0000_7000_u128 << 64) | at);
        for (name, ids) in [("heads", heads().collect::<Vec<_>>()), ("tails", tails().collect::<Vec<_>>())] {
            let distinct: HashSet<u64> = ids.iter().map(|id| hash(*id)).collect();
            assert_eq!(distinct.len(), ids.len(), "{name}: no two whole hashes are the same");
            let low = fullest(ids.iter().copied(), |hash| hash as usize, 1024);
            let high = fullest(ids.iter().copied(), |hash| (hash >> 57) as usize, 128);
            assert!(low <= 20, "{name}: four on average, {low} at most in one place by the low bits");
            assert!(high <= 80, "{name}: 32 on average, {high} at most in one place by the high bits");
        }
        let same = fullest(tails(), |_| 0, 1024);
        assert_eq!(same, 4096, "a hash that spreads nothing fills one place");
    }
}
