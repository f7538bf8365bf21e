//! How many questions one client may ask, and how many connections it may hold. A client is an IPv4 address or an IPv6
//! /64, the smallest network that is given to one customer (RFC 6177). It bounds work; floods are refused earlier, by the
//! shield.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use moka::sync::Cache;

/// Clients remembered at once; each costs about 150 bytes. The rarest are forgotten first, and start anew.
const CLIENTS_MAX: u64 = 65_536;

/// A client that has been silent this long has a full bucket in any sensible setting.
const FORGET_SECONDS: u64 = 60;

/// One bucket per client: it fills at the rate and holds the burst.
pub(crate) struct RateLimit {
    per_second: f64,
    burst: f64,
    buckets: Option<Cache<IpAddr, Arc<Mutex<Bucket>>>>,
}

struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl RateLimit {
    /// A rate of zero admits everybody.
    pub(crate) fn new(per_second: u32, burst: u32) -> RateLimit {
        let buckets = (per_second > 0).then(|| {
            let idle = Duration::from_secs(FORGET_SECONDS);
            Cache::builder().max_capacity(CLIENTS_MAX).time_to_idle(idle).build()
        });
        RateLimit { per_second: f64::from(per_second), burst: f64::from(burst.max(1)), buckets }
    }

    /// Whether one more question of this client is taken.
    pub(crate) fn admits(&self, client: IpAddr, at: Instant) -> bool {
        let Some(buckets) = &self.buckets else { return true };
        let full = || Arc::new(Mutex::new(Bucket { tokens: self.burst, filled: at }));
        let bucket = buckets.get_with(network(client), full);
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let gained = at.saturating_duration_since(bucket.filled).as_secs_f64() * self.per_second;
        bucket.tokens = (bucket.tokens + gained).min(self.burst);
        bucket.filled = at;
        let admitted = bucket.tokens >= 1.0;
        if admitted {
            bucket.tokens -= 1.0;
        }
        admitted
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
    use super::*;

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
