//! Admission: who is let in, before a byte is read, and who is too slow to stay.
//!
//! Sources lie in shards by a keyed hash, each behind a lock of its own that is held for one look-up; what all connections
//! of a listener share are atomic numbers. Everything is bounded: a shard that is full forgets sources at rest, and where
//! none is at rest its newcomers share one bucket. Time comes in as an argument.

pub mod bucket;
mod progress;
mod reason;
mod report;
mod source;
mod sweep;
mod table;

#[cfg(test)]
mod tests;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;

use crate::{Error, Mode, Prefixes, ShieldConfig};
use bucket::SharedBucket;
pub use progress::{Direction, Progress};
pub use reason::Reason;
pub use report::Report;
pub use source::Source;
pub use sweep::Swept;
use table::{Place, Table};

/// Shards, so that two cores seldom want the same lock. A power of two.
const SHARDS: usize = 64;
/// Sources that are remembered in each shard: 262,144 in all, about 40 MB when every place is taken.
const SOURCES_MAX: usize = 4_096;
/// Networks that an operator bans by command. Bans by the shield are in the places of their sources.
pub const BANS_MAX: usize = 100_000;
/// Listeners that are known by name; a gate has four.
const LISTENERS_MAX: usize = 1_024;

/// Nanoseconds since a beginning that the caller chooses; it never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    pub fn plus(self, time: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// The table of sources and the settings in force. One for the whole program.
#[derive(Debug)]
pub struct Admission {
    config: ArcSwap<ShieldConfig>,
    keys: RandomState,
    shards: Vec<Shard>,
    /// What the operator has banned, and until when.
    bans: ArcSwap<Prefixes<Moment>>,
    listeners: Mutex<Vec<Arc<Listener>>>,
    last_report: AtomicU64,
}

/// A cache line of its own for each lock.
#[derive(Debug)]
#[repr(align(128))]
struct Shard(Mutex<Table>);

/// One listener: its bucket and its counts. Connections of all sources meet here, so nothing in it is behind a lock.
#[derive(Debug)]
pub struct Listener {
    pub gate: &'static str,
    pub door: &'static str,
    pub address: SocketAddr,
    /// Connections that its gate holds at most.
    places: AtomicU64,
    bucket: SharedBucket,
    admitted: AtomicU64,
    open: AtomicU64,
    refused: [AtomicU64; Reason::ALL.len()],
}

/// A connection that was let in. What it held is given back when it is dropped.
#[derive(Debug)]
pub struct Ticket {
    admission: Arc<Admission>,
    listener: Arc<Listener>,
    progress: Arc<Progress>,
    /// None where the source is not counted.
    place: Option<(usize, Place)>,
}

/// A ban that is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ban {
    pub network: IpNet,
    pub until: Moment,
    pub by_operator: bool,
}

/// A source that is counted, for whoever looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy {
    pub source: Source,
    pub open: u32,
    /// Refusals since it was last at rest.
    pub refused: u64,
}

impl Admission {
    pub fn new(config: ShieldConfig) -> Arc<Admission> {
        let shards = (0..SHARDS).map(|_| Shard(Mutex::new(Table::new(SOURCES_MAX)))).collect();
        Arc::new(Admission {
            config: ArcSwap::from_pointee(config),
            keys: RandomState::new(),
            shards,
            bans: ArcSwap::default(),
            listeners: Mutex::default(),
            last_report: AtomicU64::new(0),
        })
    }

    /// Takes other settings into use. Counts and bans stay.
    pub fn publish(&self, config: ShieldConfig) {
        self.config.store(Arc::new(config));
    }

    pub fn mode(&self) -> Mode {
        self.config.load().mode
    }

    /// The listener of this name and address: the one that is known already, or a new one.
    pub fn listener(&self, gate: &'static str, door: &'static str, address: SocketAddr, places: usize) -> Arc<Listener> {
        let mut known = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let places = places as u64;
        if let Some(listener) = known.iter().find(|one| (one.gate, one.door, one.address) == (gate, door, address)) {
            listener.places.store(places, Ordering::Relaxed);
            return Arc::clone(listener);
        }
        let listener = Arc::new(Listener {
            gate,
            door,
            address,
            places: AtomicU64::new(places),
            bucket: SharedBucket::default(),
            admitted: AtomicU64::new(0),
            open: AtomicU64::new(0),
            refused: Default::default(),
        });
        if known.len() < LISTENERS_MAX {
            known.push(Arc::clone(&listener));
        }
        listener
    }

    pub fn listeners(&self) -> Vec<Arc<Listener>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets a new connection in, or says why not. Nothing was read of it.
    pub fn admit(self: &Arc<Self>, listener: &Arc<Listener>, peer: IpAddr, now: Moment) -> Result<Ticket, Reason> {
        let config = self.config.load();
        let peer = peer.to_canonical();
        let mut place = None;
        if config.mode != Mode::Off && !config.allow.contains(peer) {
            place = self.count(&config, listener, peer, now)?;
        }
        listener.admitted.fetch_add(1, Ordering::Relaxed);
        listener.open.fetch_add(1, Ordering::Relaxed);
        let progress = Arc::new(Progress::new(now));
        if let Some((shard, place)) = &place {
            self.table(*shard).watch(*place, listener, &progress, now);
        }
        Ok(Ticket { admission: Arc::clone(self), listener: Arc::clone(listener), progress, place })
    }

    /// Counts a connection of a source that is not on the allow list.
    fn count(
        &self,
        config: &ShieldConfig,
        listener: &Arc<Listener>,
        peer: IpAddr,
        now: Moment,
    ) -> Result<Option<(usize, Place)>, Reason> {
        let source = Source::from(peer);
        let shard = self.shard_of(source);
        // Any of them: a ban that has ended does not lift one of a wider network.
        let is_banned = self.bans.load().holding(peer).any(|(_, until)| *until > now);
        let mut table = self.table(shard);
        let mut admitted = match is_banned {
            true => Err(Reason::Banned),
            false => table.admit(source, config, now),
        };
        // After the source's own limits, so that what a refused source sends is not taken from everyone else.
        if let (Ok(place), Some(rate)) = (&admitted, config.listener_rate)
            && !listener.bucket.take(rate, now)
        {
            table.leave(*place);
            admitted = Err(Reason::ListenerRate);
        }
        match admitted {
            Ok(place) => Ok(Some((shard, place))),
            Err(reason) => {
                listener.refused[reason as usize].fetch_add(1, Ordering::Relaxed);
                table.refused(source, listener, reason, config, now);
                match config.mode {
                    Mode::Monitor => Ok(table.enter(source, now).map(|place| (shard, place))),
                    _ => Err(reason),
                }
            }
        }
    }

    /// Shuts a network out, whatever it does. A network that is banned already is banned until the later of both ends.
    pub fn ban(&self, network: IpNet, until: Moment, now: Moment) -> Result<(), Error> {
        if network.prefix_len() < 2 {
            return Err(Error::BanTooWide(network));
        }
        let network = network.trunc();
        let mut result = Ok(());
        self.bans.rcu(|bans| {
            let mut kept = in_force(bans, now);
            result = match kept.len() >= BANS_MAX {
                true => Err(Error::TooManyBans(BANS_MAX)),
                false => Ok(()),
            };
            if result.is_ok() {
                let end = kept.iter().filter(|(known, _)| *known == network).map(|(_, until)| *until).max();
                kept.retain(|(known, _)| *known != network);
                kept.push((network, end.map_or(until, |end| end.max(until))));
            }
            kept.into_iter().collect::<Prefixes<Moment>>()
        });
        result
    }

    /// Lifts bans of this network and of every source in it; says how many there were.
    pub fn unban(&self, network: IpNet, now: Moment) -> usize {
        let network = network.trunc();
        let mut lifted = 0;
        self.bans.rcu(|bans| {
            let kept = in_force(bans, now);
            let before = kept.len();
            let left: Vec<_> = kept.into_iter().filter(|(known, _)| !network.contains(known)).collect();
            lifted = before - left.len();
            left.into_iter().collect::<Prefixes<Moment>>()
        });
        lifted + self.tables().map(|mut table| table.unban(network, now)).sum::<usize>()
    }

    /// Bans in force, those that end last first.
    pub fn bans(&self, now: Moment) -> Vec<Ban> {
        let by_operator = in_force(&self.bans.load(), now).into_iter();
        let mut bans: Vec<Ban> = by_operator.map(|(network, until)| Ban { network, until, by_operator: true }).collect();
        for table in self.tables() {
            bans.extend(table.bans(now).map(|(source, until)| Ban { network: source.network(), until, by_operator: false }));
        }
        bans.sort_unstable_by_key(|ban| (std::cmp::Reverse(ban.until), ban.network));
        bans
    }

    /// The sources with the most open connections, and then the most refusals.
    pub fn busiest(&self, most: usize) -> Vec<Busy> {
        let mut all: Vec<Busy> = Vec::new();
        for table in self.tables() {
            all.extend(table.busy());
        }
        all.sort_unstable_by_key(|busy| (std::cmp::Reverse((busy.open, busy.refused)), busy.source));
        all.truncate(most);
        all
    }

    /// Sources that are remembered.
    pub fn sources(&self) -> usize {
        self.tables().map(|table| table.len()).sum()
    }

    fn shard_of(&self, source: Source) -> usize {
        self.keys.hash_one(source) as usize % SHARDS
    }

    fn table(&self, shard: usize) -> MutexGuard<'_, Table> {
        self.shards[shard].0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tables(&self) -> impl Iterator<Item = MutexGuard<'_, Table>> {
        (0..SHARDS).map(|shard| self.table(shard))
    }
}

fn in_force(bans: &Prefixes<Moment>, now: Moment) -> Vec<(IpNet, Moment)> {
    bans.iter().filter(|(_, until)| **until > now).map(|(network, until)| (*network, *until)).collect()
}

impl Ticket {
    /// What the connection has moved, for the stream that carries it.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Takes a handshake from the source's budget, before anything is computed for it.
    pub fn may_handshake(&self, now: Moment) -> Result<(), Reason> {
        let Some((shard, place)) = &self.place else { return Ok(()) };
        let config = self.admission.config.load();
        let mut table = self.admission.table(*shard);
        if table.take_handshake(*place, &config, now) {
            return Ok(());
        }
        self.listener.refused[Reason::Handshakes as usize].fetch_add(1, Ordering::Relaxed);
        table.refused(place.source, &self.listener, Reason::Handshakes, &config, now);
        match config.mode {
            Mode::Enforce => Err(Reason::Handshakes),
            Mode::Monitor | Mode::Off => Ok(()),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.listener.open.fetch_sub(1, Ordering::Relaxed);
        if let Some((shard, place)) = &self.place {
            let mut table = self.admission.table(*shard);
            table.unwatch(&self.progress);
            table.leave(*place);
        }
    }
}

impl Listener {
    pub fn admitted(&self) -> u64 {
        self.admitted.load(Ordering::Relaxed)
    }

    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections refused, or ended, for this reason.
    pub fn refused(&self, reason: Reason) -> u64 {
        self.refused[reason as usize].load(Ordering::Relaxed)
    }

    /// Whether nine of ten places are taken: deadlines become shorter then.
    fn is_pressed(&self) -> bool {
        self.open() * 10 >= self.places.load(Ordering::Relaxed).saturating_mul(9)
    }

    fn note(&self, reason: Reason) {
        self.refused[reason as usize].fetch_add(1, Ordering::Relaxed);
    }
}
