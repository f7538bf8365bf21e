//! How many questions one client may ask, and how many connections it may hold. A client is an IPv4 address or an IPv6
//! /64, the smallest network that is given to one customer (RFC 6177). It bounds work; floods are refused earlier, by the
//! shield.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Clients remembered at once; each costs about 60 bytes.
const CLIENTS_MAX: usize = 65_536;

/// Parts that are locked by themselves, so that workers rarely meet.
const SHARDS: usize = 64;

/// One bucket per client: it fills at the rate and holds the burst.
pub(crate) struct RateLimit {
    per_second: f64,
    burst: f64,
    hasher: RandomState,
    shards: Box<[Mutex<HashMap<IpAddr, Bucket>>]>,
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl RateLimit {
    /// A rate of zero admits everybody.
    pub(crate) fn new(per_second: u32, burst: u32) -> RateLimit {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        RateLimit { per_second: f64::from(per_second), burst: f64::from(burst.max(1)), hasher: RandomState::new(), shards }
    }

    /// Whether one more question of this client is taken.
    pub(crate) fn admits(&self, client: IpAddr, at: Instant) -> bool {
        if self.per_second == 0.0 {
            return true;
        }
        let client = network(client);
        // The hash is keyed, so that nobody can crowd one shard with addresses of their choice.
        let place = self.hasher.hash_one(client) as usize % SHARDS;
        let Some(shard) = self.shards.get(place) else { return true };
        let mut buckets = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= CLIENTS_MAX / SHARDS && !buckets.contains_key(&client) {
            self.forget_half(&mut buckets, at);
        }
        let bucket = buckets.entry(client).or_insert(Bucket { tokens: self.burst, filled: at });
        bucket.tokens = self.tokens(bucket, at);
        bucket.filled = bucket.filled.max(at);
        let admitted = bucket.tokens >= 1.0;
        if admitted {
            bucket.tokens -= 1.0;
        }
        admitted
    }

    fn tokens(&self, bucket: &Bucket, at: Instant) -> f64 {
        let gained = at.saturating_duration_since(bucket.filled).as_secs_f64() * self.per_second;
        (bucket.tokens + gained).min(self.burst)
    }

    /// Forgets the clients that ask least: their buckets are the fullest, so starting anew gives them the least.
    fn forget_half(&self, buckets: &mut HashMap<IpAddr, Bucket>, at: Instant) {
        let mut levels: Vec<f64> = buckets.values().map(|bucket| self.tokens(bucket, at)).collect();
        let middle = levels.len() / 2;
        let (_, level, _) = levels.select_nth_unstable_by(middle, f64::total_cmp);
        let level = *level;
        buckets.retain(|_, bucket| self.tokens(bucket, at) < level);
    }
}

/// Connections of one client at once: a household behind one address with a few for each device.
const CLIENT_CONNECTIONS_MAX: u32 = 128;

/// Counts the open connections of each client. It holds only clients that have one, so it is as bounded as they are.
#[derive(Default)]
pub(crate) struct ConnectionLimit(Mutex<HashMap<IpAddr, u32>>);

/// One client's open connection; dropping it gives the place back.
pub(crate) struct Place {
    limit: Arc<ConnectionLimit>,
    client: IpAddr,
}

impl ConnectionLimit {
    pub(crate) fn take(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let client = network(client);
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(client).or_default();
        if *count >= CLIENT_CONNECTIONS_MAX {
            return None;
        }
        *count += 1;
        Some(Place { limit: Arc::clone(self), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.limit.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.client);
            }
        }
    }
}

fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A flood of forged sources makes the clients that asked little start anew, and not the one that asked too much.
    #[test]
    fn a_flood_of_sources_is_bounded_and_frees_nobody_who_is_over_the_rate() {
        let limit = RateLimit::new(1, 3);
        let (greedy, at) = (IpAddr::from([192, 0, 2, 1]), Instant::now());
        assert_eq!((0..5).filter(|_| limit.admits(greedy, at)).count(), 3);
        for number in 0..4 * CLIENTS_MAX as u32 {
            limit.admits(IpAddr::from(number.to_be_bytes()), at);
        }
        assert!(!limit.admits(greedy, at));
        let remembered: usize = limit.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert!(remembered <= CLIENTS_MAX, "{remembered}");
    }

    #[test]
    fn a_client_has_its_burst_then_its_rate_and_spares_the_others() {
        let limit = RateLimit::new(10, 3);
        let (client, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let start = Instant::now();
        assert_eq!((0..5).filter(|_| limit.admits(client, start)).count(), 3);
        assert!(limit.admits(other, start));
        let later = start + Duration::from_millis(150);
        assert_eq!((0..5).filter(|_| limit.admits(client, later)).count(), 1);
    }

    #[test]
    fn neighbours_in_one_ipv6_network_share_a_bucket() {
        let limit = RateLimit::new(1, 1);
        let at = Instant::now();
        assert!(limit.admits("2001:db8:1:2::1".parse().unwrap(), at));
        assert!(!limit.admits("2001:db8:1:2:ffff::9".parse().unwrap(), at));
        assert!(limit.admits("2001:db8:1:3::1".parse().unwrap(), at));
    }

    #[test]
    fn a_client_holds_its_connections_and_no_more_and_leaves_nothing_behind() {
        let limit = Arc::new(ConnectionLimit::default());
        let (client, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut places: Vec<_> = (0..CLIENT_CONNECTIONS_MAX).map(|_| limit.take(client).unwrap()).collect();
        assert!(limit.take(client).is_none());
        assert!(limit.take(other).is_some());
        places.pop();
        assert!(limit.take(client).is_some());
        drop(places);
        assert!(limit.0.lock().unwrap().is_empty());
    }

    #[test]
    fn a_rate_of_zero_admits_everybody() {
        let limit = RateLimit::new(0, 0);
        assert!((0..1000).all(|_| limit.admits(IpAddr::from([192, 0, 2, 1]), Instant::now())));
    }
}
