//! The one capped reader. Every byte that is decompressed or copied out of a container passes `Budget::read`, which
//! counts it against the limits of the whole scan (AV-10). It knows nothing about formats.

use crate::clock::Clock;
use crate::limits::{Limits, RATIO_INPUT_BYTES_MIN};
use crate::report::Unscannable;
use std::io::Read;
use std::time::Duration;

/// Bytes asked from a decoder between two looks at the limits: small enough that a slow decoder is noticed in
/// milliseconds, large enough that the looks cost nothing.
const CHUNK_BYTES: usize = 64 << 10;

/// What one scan may still spend.
pub(crate) struct Budget<'a> {
    limits: &'a Limits,
    clock: &'a dyn Clock,
    total_bytes_max: u64,
    spent_bytes: u64,
    entries: u32,
    ratio_is_tighter: bool,
}

/// How reading one member ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Whole,
    /// The decoder refused the data.
    Broken,
    Limit(Unscannable),
}

impl<'a> Budget<'a> {
    pub(crate) fn new(limits: &'a Limits, clock: &'a dyn Clock, input_bytes: u64) -> Self {
        let by_ratio = limits.ratio.saturating_mul(input_bytes.max(RATIO_INPUT_BYTES_MIN));
        Self {
            limits,
            clock,
            total_bytes_max: limits.total_bytes.min(by_ratio),
            spent_bytes: 0,
            entries: 0,
            ratio_is_tighter: by_ratio < limits.total_bytes,
        }
    }

    pub(crate) fn entries(&self) -> u32 {
        self.entries
    }

    pub(crate) fn depth_max(&self) -> u32 {
        self.limits.depth
    }

    /// Counts one member.
    pub(crate) fn enter(&mut self) -> Result<(), Unscannable> {
        if self.entries >= self.limits.entries {
            return Err(Unscannable::EntryLimit);
        }
        self.entries += 1;
        self.check_time()
    }

    pub(crate) fn check_time(&self) -> Result<(), Unscannable> {
        match self.time_left().is_zero() {
            true => Err(Unscannable::TimeLimit),
            false => Ok(()),
        }
    }

    pub(crate) fn time_left(&self) -> Duration {
        self.limits.time().saturating_sub(self.clock.elapsed())
    }

    /// Bytes that a decoder without its own streaming interface may produce at most.
    pub(crate) fn bytes_left(&self) -> u64 {
        self.total_bytes_max.saturating_sub(self.spent_bytes).min(self.limits.entry_bytes)
    }

    fn charge(&mut self, member_bytes: u64, chunk_bytes: u64) -> Result<(), Unscannable> {
        self.spent_bytes = self.spent_bytes.saturating_add(chunk_bytes);
        if member_bytes > self.limits.entry_bytes {
            return Err(Unscannable::SizeLimit);
        }
        if self.spent_bytes > self.total_bytes_max {
            return Err(if self.ratio_is_tighter { Unscannable::RatioLimit } else { Unscannable::SizeLimit });
        }
        self.check_time()
    }

    /// Reads a member to its end or to the first limit. What was read is kept either way, so that it is examined.
    pub(crate) fn read(&mut self, reader: &mut dyn Read) -> (Vec<u8>, End) {
        let mut bytes = Vec::new();
        let mut chunk = vec![0u8; CHUNK_BYTES];
        loop {
            match reader.read(&mut chunk) {
                Ok(0) => return (bytes, End::Whole),
                Ok(count) => {
                    let Some(part) = chunk.get(..count) else { return (bytes, End::Broken) };
                    bytes.extend_from_slice(part);
                    if let Err(limit) = self.charge(bytes.len() as u64, count as u64) {
                        return (bytes, End::Limit(limit));
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return (bytes, End::Broken),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct At(Duration);
    impl Clock for At {
        fn elapsed(&self) -> Duration {
            self.0
        }
    }

    #[test]
    fn endless_reader_ends_at_the_entry_limit() {
        let limits = Limits { entry_bytes: 100_000, ..Limits::default() };
        let clock = At(Duration::ZERO);
        let (bytes, end) = Budget::new(&limits, &clock, 10).read(&mut std::io::repeat(0));
        assert_eq!(end, End::Limit(Unscannable::SizeLimit));
        assert!(bytes.len() <= 100_000 + CHUNK_BYTES);
    }

    #[test]
    fn the_ratio_counts_from_a_smallest_input() {
        let limits = Limits { ratio: 2, ..Limits::default() };
        let clock = At(Duration::ZERO);
        let (bytes, end) = Budget::new(&limits, &clock, 10).read(&mut std::io::repeat(0));
        assert_eq!(end, End::Limit(Unscannable::RatioLimit));
        assert!(bytes.len() as u64 >= 2 * RATIO_INPUT_BYTES_MIN);
    }

    #[test]
    fn time_is_looked_at_between_chunks() {
        let limits = Limits { time_millis: 5, ..Limits::default() };
        let clock = At(Duration::from_millis(6));
        let (_, end) = Budget::new(&limits, &clock, 10).read(&mut std::io::repeat(0));
        assert_eq!(end, End::Limit(Unscannable::TimeLimit));
    }
}
