//! The origins of one app: which is tried first, which next, and which are passed over. By address they are as written; by
//! name they are resolved anew when the app's own time to live has passed (SP-04), and the last good answer is kept while
//! nothing answers. Health is what checks and flows find; where no origin is healthy, all are tried, because a wrong check
//! should not close a service.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use net::upstream::Resolver;
use tokio::sync::Mutex as AsyncMutex;

use crate::ports::Ports;
use crate::spec::{Balance, DirectOrigin, HealthSpec, OriginsConfig};

/// Addresses of a name that are used; more would make one flow try for minutes.
const ADDRESSES_MAX: usize = 16;

/// One place where the service is.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) address: std::net::IpAddr,
    pub(crate) ports: Ports,
    pub(crate) weight: u32,
    flows: AtomicU32,
    failures: AtomicU32,
    is_down: AtomicBool,
    /// Until when it is passed over where nothing checks it.
    down_until: Mutex<Option<Instant>>,
}

pub(crate) struct Origins {
    config: OriginsConfig,
    balance: Balance,
    health: HealthSpec,
    next: AtomicUsize,
    direct: Vec<Arc<Origin>>,
    resolved: AsyncMutex<Option<Resolved>>,
    /// What was resolved last, for looks from outside.
    shown: Mutex<Vec<Arc<Origin>>>,
}

struct Resolved {
    until: Instant,
    origins: Vec<Arc<Origin>>,
}

/// A flow's place at an origin, which counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Origin>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.flows.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Origin {
    fn new(origin: &DirectOrigin) -> Arc<Origin> {
        Arc::new(Origin {
            address: origin.address,
            ports: origin.ports,
            weight: origin.weight,
            flows: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            is_down: AtomicBool::new(false),
            down_until: Mutex::new(None),
        })
    }

    pub(crate) fn socket(&self, offset: u16) -> SocketAddr {
        SocketAddr::new(self.address, self.ports.at(offset))
    }

    pub(crate) fn flows(&self) -> u32 {
        self.flows.load(Ordering::Relaxed)
    }

    pub(crate) fn enter(self: &Arc<Origin>) -> Place {
        self.flows.fetch_add(1, Ordering::Relaxed);
        Place(self.clone())
    }

    pub(crate) fn is_healthy(&self, now: Instant) -> bool {
        let until = *self.down_until.lock().unwrap_or_else(PoisonError::into_inner);
        !self.is_down.load(Ordering::Relaxed) && until.is_none_or(|until| now >= until)
    }

    /// What a check or a flow found. A change of a checked origin's state is returned.
    pub(crate) fn note(&self, is_good: bool, health: &HealthSpec, now: Instant) -> Option<bool> {
        if is_good {
            self.failures.store(0, Ordering::Relaxed);
            *self.down_until.lock().unwrap_or_else(PoisonError::into_inner) = None;
            return self.is_down.swap(false, Ordering::Relaxed).then_some(true);
        }
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failures < health.unhealthy_after {
            return None;
        }
        if health.interval_seconds == 0 {
            let until = now + Duration::from_secs(health.down_seconds);
            *self.down_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
            return (failures == health.unhealthy_after).then_some(false);
        }
        (!self.is_down.swap(true, Ordering::Relaxed)).then_some(false)
    }
}

impl Origins {
    pub(crate) fn new(config: OriginsConfig, balance: Balance, health: HealthSpec) -> Origins {
        let direct: Vec<_> = match &config {
            OriginsConfig::Direct(origins) => origins.iter().map(Origin::new).collect(),
            OriginsConfig::Named { .. } => Vec::new(),
        };
        let shown = Mutex::new(direct.clone());
        Origins { config, balance, health, next: AtomicUsize::new(0), direct, resolved: AsyncMutex::new(None), shown }
    }

    pub(crate) fn health(&self) -> &HealthSpec {
        &self.health
    }

    /// The name under which the origin is known, where it has one.
    pub(crate) fn name(&self) -> Option<&Arc<str>> {
        match &self.config {
            OriginsConfig::Named { name, .. } => Some(name),
            OriginsConfig::Direct(_) => None,
        }
    }

    /// Those that are known without asking anybody.
    pub(crate) fn known(&self) -> Vec<Arc<Origin>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every origin in the order in which it should be tried.
    pub(crate) async fn candidates(&self, resolver: &dyn Resolver) -> std::io::Result<Vec<Arc<Origin>>> {
        let all = match &self.config {
            OriginsConfig::Direct(_) => self.direct.clone(),
            OriginsConfig::Named { name, ttl, wants_v4, wants_v6, ports } => {
                let wants = |address: &std::net::IpAddr| if address.is_ipv4() { *wants_v4 } else { *wants_v6 };
                self.resolve(resolver, name, *ttl, wants, *ports).await?
            }
        };
        Ok(self.ordered(all, Instant::now()))
    }

    /// One look-up at a time; the others wait for its answer.
    async fn resolve(
        &self,
        resolver: &dyn Resolver,
        name: &str,
        ttl: Duration,
        wants: impl Fn(&std::net::IpAddr) -> bool,
        ports: Ports,
    ) -> std::io::Result<Vec<Arc<Origin>>> {
        let mut resolved = self.resolved.lock().await;
        if let Some(fresh) = resolved.as_ref().filter(|resolved| Instant::now() < resolved.until) {
            return Ok(fresh.origins.clone());
        }
        let answer = resolver.resolve(name).await.map(|mut addresses| {
            addresses.retain(|address| wants(address));
            addresses.truncate(ADDRESSES_MAX);
            addresses
        });
        let until = Instant::now() + ttl;
        match (answer, resolved.as_mut()) {
            (Ok(addresses), earlier) if !addresses.is_empty() => {
                let earlier = earlier.map(|earlier| earlier.origins.as_slice()).unwrap_or_default();
                let keep = |address: &std::net::IpAddr| earlier.iter().find(|origin| origin.address == *address).cloned();
                let origin =
                    |address| keep(address).unwrap_or_else(|| Origin::new(&DirectOrigin { address: *address, ports, weight: 1 }));
                let origins: Vec<_> = addresses.iter().map(origin).collect();
                *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = origins.clone();
                *resolved = Some(Resolved { until, origins: origins.clone() });
                Ok(origins)
            }
            // The last good answer, for as long again: a resolver that is away must not close the service.
            (_, Some(earlier)) => {
                crate::events::resolution_kept(name);
                earlier.until = until;
                Ok(earlier.origins.clone())
            }
            (Ok(_), None) => Err(std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no such address")),
            (Err(error), None) => Err(error),
        }
    }

    fn ordered(&self, mut all: Vec<Arc<Origin>>, now: Instant) -> Vec<Arc<Origin>> {
        match self.balance {
            Balance::Failover => {}
            Balance::RoundRobin => self.turn(&mut all),
            Balance::LeastConnections => {
                let turn = self.next.fetch_add(1, Ordering::Relaxed);
                let middle = turn.checked_rem(all.len()).unwrap_or(0);
                all.rotate_left(middle);
                // Flows for each unit of weight with the new one counted, in a common denominator.
                all.sort_by_key(|origin| (u64::from(origin.flows()) + 1) * 1_000_000 / u64::from(origin.weight));
            }
        }
        // Stable: the healthy ones keep their order, and the others come after them.
        all.sort_by_key(|origin| !origin.is_healthy(now));
        all
    }

    /// In turn: an origin of weight three has three places in the circle.
    fn turn(&self, all: &mut [Arc<Origin>]) {
        let places: usize = all.iter().map(|origin| origin.weight as usize).sum();
        let mut place = self.next.fetch_add(1, Ordering::Relaxed).checked_rem(places).unwrap_or(0);
        for index in 0..all.len() {
            let weight = all[index].weight as usize;
            if place < weight {
                return all.rotate_left(index);
            }
            place -= weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use net::upstream::ResolverFuture;

    use super::*;

    fn origins(weights: &[u32], balance: Balance) -> Origins {
        let ports = Ports { first: 1, last: 1 };
        let direct = |(index, weight): (usize, &u32)| DirectOrigin {
            address: std::net::IpAddr::from([192, 0, 2, index as u8]),
            ports,
            weight: *weight,
        };
        let config = OriginsConfig::Direct(weights.iter().enumerate().map(direct).collect());
        Origins::new(config, balance, HealthSpec::default())
    }

    fn first(origins: &Origins) -> u8 {
        let all = origins.ordered(origins.known(), Instant::now());
        all[0].address.to_string().rsplit('.').next().unwrap().parse().unwrap()
    }

    #[test]
    fn sp_03_weights_share_the_flows() {
        for balance in [Balance::LeastConnections, Balance::RoundRobin] {
            let origins = origins(&[1, 3], balance);
            let mut places = Vec::new();
            let mut counts = [0; 2];
            for _ in 0..40 {
                let chosen = first(&origins);
                counts[usize::from(chosen)] += 1;
                places.push(origins.known()[usize::from(chosen)].enter());
            }
            assert_eq!(counts, [10, 30], "{balance:?}");
        }
    }

    #[test]
    fn a_failing_origin_is_passed_over_and_comes_back() {
        let origins = origins(&[1, 1], Balance::Failover);
        let now = Instant::now();
        let bad = origins.known()[0].clone();
        assert_eq!(bad.note(false, origins.health(), now), None);
        assert_eq!(first(&origins), 0, "one failure is none");
        assert_eq!(bad.note(false, origins.health(), now), Some(false));
        assert_eq!(first(&origins), 1);
        assert!(bad.is_healthy(now + Duration::from_secs(11)));
        bad.note(true, origins.health(), now);
        assert_eq!(first(&origins), 0);
    }

    #[test]
    fn where_all_are_down_all_are_tried() {
        let origins = origins(&[1, 1], Balance::Failover);
        for origin in origins.known() {
            for _ in 0..2 {
                origin.note(false, origins.health(), Instant::now());
            }
        }
        assert_eq!(origins.ordered(origins.known(), Instant::now()).len(), 2);
    }

    struct Answers(Mutex<Vec<std::io::Result<Vec<std::net::IpAddr>>>>);

    impl Resolver for Answers {
        fn resolve<'a>(&'a self, _name: &'a str) -> ResolverFuture<'a> {
            Box::pin(async { self.0.lock().unwrap().remove(0) })
        }
    }

    /// SP-04: our own time to live, and the last answer while nothing answers.
    #[tokio::test]
    async fn a_name_is_resolved_anew_at_its_own_time() {
        let ip = |last| std::net::IpAddr::from([192, 0, 2, last]);
        let answers = vec![
            Err(std::io::ErrorKind::NotFound.into()),
            Ok(vec![ip(1)]),
            Err(std::io::ErrorKind::TimedOut.into()),
            Ok(vec![ip(2)]),
        ];
        let resolver = Answers(Mutex::new(answers));
        let config = |ttl| OriginsConfig::Named {
            name: Arc::from("origin.example"),
            ttl,
            wants_v4: true,
            wants_v6: true,
            ports: Ports { first: 1, last: 1 },
        };
        let origins = Origins::new(config(Duration::ZERO), Balance::Failover, HealthSpec::default());
        assert!(origins.candidates(&resolver).await.is_err());
        for expected in [1, 1, 2] {
            assert_eq!(origins.candidates(&resolver).await.unwrap()[0].address, ip(expected));
        }
        let kept = Answers(Mutex::new(vec![Ok(vec![ip(9)])]));
        let origins = Origins::new(config(Duration::from_secs(60)), Balance::Failover, HealthSpec::default());
        for _ in 0..3 {
            assert_eq!(origins.candidates(&kept).await.unwrap()[0].address, ip(9));
        }
    }
}
