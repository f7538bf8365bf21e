//! A token bucket as one number: the moment at which it is full again (the generic cell rate algorithm, ATM Forum TM 4.1
//! section 4.4.3). Full buckets of all sources look the same, so that one that was forgotten is one that is full.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Moment;

const NANOS: u64 = 1_000_000_000;

/// Tokens a second and tokens at once. Both are at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds that one token takes to grow.
    interval: u64,
    /// Nanoseconds that a whole bucket takes to grow.
    depth: u64,
}

/// The bucket of one source.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    full_at: u64,
}

/// The bucket that all connections of a listener share, without a lock.
#[derive(Debug, Default)]
pub struct SharedBucket {
    full_at: AtomicU64,
}

impl Rate {
    pub const fn new(per_second: u32, burst: u32) -> Rate {
        let per_second = if per_second == 0 { 1 } else { per_second as u64 };
        let interval = NANOS / per_second;
        let interval = if interval == 0 { 1 } else { interval };
        let burst = if burst == 0 { 1 } else { burst as u64 };
        Rate { interval, depth: interval * burst }
    }

    /// When the bucket is full again after one token was taken; none where it holds no token.
    fn take(self, full_at: u64, now: u64) -> Option<u64> {
        let next = full_at.max(now).saturating_add(self.interval);
        (next - now <= self.depth).then_some(next)
    }
}

impl Bucket {
    /// Takes one token, or says that there is none.
    pub fn take(&mut self, rate: Rate, now: Moment) -> bool {
        match rate.take(self.full_at, now.0) {
            Some(full_at) => {
                self.full_at = full_at;
                true
            }
            None => false,
        }
    }

    pub fn is_full(&self, now: Moment) -> bool {
        self.full_at <= now.0
    }
}

impl SharedBucket {
    pub fn take(&self, rate: Rate, now: Moment) -> bool {
        let taken = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| rate.take(full_at, now.0));
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Numbers;

    #[test]
    fn no_span_of_time_yields_more_than_its_share_and_a_burst() {
        for seed in 0..200 {
            let mut numbers = Numbers::new(seed);
            let (per_second, burst) = (1 + numbers.below(2_000) as u32, 1 + numbers.below(50) as u32);
            let (rate, mut bucket, shared) = (Rate::new(per_second, burst), Bucket::default(), SharedBucket::default());
            let (mut now, mut taken) = (Moment(NANOS), Vec::new());
            for _ in 0..600 {
                now = Moment(now.0 + numbers.below(2 * NANOS / u64::from(per_second)));
                let is_taken = bucket.take(rate, now);
                assert_eq!(shared.take(rate, now), is_taken, "the shared bucket is the same bucket");
                if is_taken {
                    taken.push(now.0);
                }
            }
            for (index, first) in taken.iter().enumerate() {
                for (count, last) in (1..).zip(&taken[index..]) {
                    let allowed = u64::from(burst) + (last - first) / rate.interval;
                    assert!(count <= allowed, "seed {seed}: {count} of {allowed} in {} ns", last - first);
                }
            }
        }
    }

    #[test]
    fn who_stays_below_the_rate_is_never_refused() {
        for seed in 0..200 {
            let mut numbers = Numbers::new(seed);
            let per_second = 1 + numbers.below(5_000) as u32;
            let (rate, mut bucket, mut now) = (Rate::new(per_second, 1), Bucket::default(), Moment(0));
            for _ in 0..1_000 {
                now = Moment(now.0 + rate.interval + numbers.below(1_000));
                assert!(bucket.take(rate, now), "seed {seed}");
            }
        }
    }
}
