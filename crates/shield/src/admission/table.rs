//! One shard: the sources in it and the connections that they hold. A source costs one place; a place is given to another
//! when its source is at rest: nothing open, its buckets full, no ban. A hand goes round to find such places (the clock
//! algorithm), a bounded number of them for each newcomer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::bucket::{Bucket, Rate};
use super::report::Lines;
use super::sweep::Watched;
use super::{Busy, Listener, Moment, Progress, Reason, Source};
use crate::{Mode, ShieldConfig};

/// Places that are looked at for one newcomer.
const LOOKS_MAX: usize = 16;
/// What newcomers of a full shard may do together, a second.
const CROWD_RATE: Rate = Rate::new(50, 100);
/// Doublings of a ban; 2^16 seconds are most of a day already.
const BAN_DOUBLINGS_MAX: u8 = 16;

/// Where a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) source: Source,
    /// None for one of the crowd.
    index: Option<u32>,
}

#[derive(Debug)]
pub(super) struct Table {
    most: usize,
    index: HashMap<Source, u32>,
    places: Vec<Counted>,
    hand: usize,
    crowd: Bucket,
    pub(super) lines: Lines,
    pub(super) watched: HashMap<usize, Watched>,
}

/// What is known of one source.
#[derive(Debug)]
struct Counted {
    source: Source,
    connections: Bucket,
    handshakes: Bucket,
    open: u32,
    refused: u64,
    /// Refusals that count towards a ban, in the window that began then.
    offences: u32,
    window_began: Moment,
    banned_until: Moment,
    /// How often it was banned, while the memory of that lasts.
    bans: u8,
    remembered_until: Moment,
}

impl Table {
    pub(super) fn new(most: usize) -> Table {
        Table {
            most,
            index: HashMap::new(),
            places: Vec::new(),
            hand: 0,
            crowd: Bucket::default(),
            lines: Lines::default(),
            watched: HashMap::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Counts one connection in, or says which limit it is over.
    pub(super) fn admit(&mut self, source: Source, config: &ShieldConfig, now: Moment) -> Result<Place, Reason> {
        let Some(index) = self.find_or_make(source, now) else {
            return match self.crowd.take(CROWD_RATE, now) {
                true => Ok(Place { source, index: None }),
                false => Err(Reason::Crowded),
            };
        };
        let counted = &mut self.places[index as usize];
        if counted.banned_until > now {
            return Err(Reason::Banned);
        }
        if counted.open >= config.source_open_max {
            return Err(Reason::SourceOpen);
        }
        if !counted.connections.take(config.source_rate, now) {
            return Err(Reason::SourceRate);
        }
        counted.open += 1;
        Ok(Place { source, index: Some(index) })
    }

    /// Counts one connection in, whatever its source is over.
    pub(super) fn enter(&mut self, source: Source, now: Moment) -> Option<Place> {
        let index = self.find_or_make(source, now)?;
        self.places[index as usize].open += 1;
        Some(Place { source, index: Some(index) })
    }

    /// One connection has ended.
    pub(super) fn leave(&mut self, place: Place) {
        let Some(index) = place.index else { return };
        if let Some(counted) = self.places.get_mut(index as usize).filter(|counted| counted.source == place.source) {
            counted.open = counted.open.saturating_sub(1);
        }
    }

    pub(super) fn take_handshake(&mut self, place: Place, config: &ShieldConfig, now: Moment) -> bool {
        match place.index.and_then(|index| self.places.get_mut(index as usize)) {
            Some(counted) => counted.handshakes.take(config.handshake_rate, now),
            None => true,
        }
    }

    /// Keeps the count of a refusal, and bans a source that has had too many.
    pub(super) fn refused(
        &mut self,
        source: Source,
        listener: &Arc<Listener>,
        reason: Reason,
        config: &ShieldConfig,
        now: Moment,
    ) {
        self.lines.add(source, listener, reason, config.mode == Mode::Monitor, now);
        let Some(counted) = self.index.get(&source).and_then(|index| self.places.get_mut(*index as usize)) else { return };
        counted.refused += 1;
        if !reason.counts_towards_ban() || config.ban_refusals == 0 || config.mode != Mode::Enforce {
            return;
        }
        if let Some(ban) = counted.offend(config, now) {
            self.lines.banned(source, listener, reason, ban);
        }
    }

    pub(super) fn unban(&mut self, network: IpNet, now: Moment) -> usize {
        let mut lifted = 0;
        for counted in self.places.iter_mut().filter(|counted| network.contains(&counted.source.network())) {
            lifted += usize::from(counted.banned_until > now);
            (counted.banned_until, counted.bans, counted.offences) = (Moment(0), 0, 0);
        }
        lifted
    }

    pub(super) fn bans(&self, now: Moment) -> impl Iterator<Item = (Source, Moment)> {
        let banned = self.places.iter().filter(move |counted| counted.banned_until > now);
        banned.map(|counted| (counted.source, counted.banned_until))
    }

    pub(super) fn busy(&self) -> impl Iterator<Item = Busy> {
        let busy = self.places.iter().filter(|counted| counted.open > 0 || counted.refused > 0);
        busy.map(|counted| Busy { source: counted.source, open: counted.open, refused: counted.refused })
    }

    pub(super) fn watch(&mut self, place: Place, listener: &Arc<Listener>, progress: &Arc<Progress>, now: Moment) {
        let watched = Watched::new(place.source, Arc::clone(listener), Arc::clone(progress), now);
        self.watched.insert(Arc::as_ptr(progress) as usize, watched);
    }

    pub(super) fn unwatch(&mut self, progress: &Arc<Progress>) {
        self.watched.remove(&(Arc::as_ptr(progress) as usize));
    }

    /// The source's place; none where the shard is full of busy ones.
    fn find_or_make(&mut self, source: Source, now: Moment) -> Option<u32> {
        if let Some(index) = self.index.get(&source) {
            return Some(*index);
        }
        let index = match self.places.len() < self.most {
            true => {
                self.places.push(Counted::new(source));
                self.places.len() - 1
            }
            false => {
                let index = self.place_at_rest(now)?;
                let earlier = std::mem::replace(&mut self.places[index], Counted::new(source));
                self.index.remove(&earlier.source);
                index
            }
        };
        let index = u32::try_from(index).ok()?;
        self.index.insert(source, index);
        Some(index)
    }

    fn place_at_rest(&mut self, now: Moment) -> Option<usize> {
        for _ in 0..LOOKS_MAX {
            let index = self.hand;
            self.hand = (self.hand + 1) % self.places.len();
            if self.places[index].is_at_rest(now) {
                return Some(index);
            }
        }
        None
    }
}

impl Counted {
    fn new(source: Source) -> Counted {
        Counted {
            source,
            connections: Bucket::default(),
            handshakes: Bucket::default(),
            open: 0,
            refused: 0,
            offences: 0,
            window_began: Moment(0),
            banned_until: Moment(0),
            bans: 0,
            remembered_until: Moment(0),
        }
    }

    /// Whether forgetting it changes nothing.
    fn is_at_rest(&self, now: Moment) -> bool {
        let is_free = self.banned_until <= now && self.remembered_until <= now;
        self.open == 0 && is_free && self.connections.is_full(now) && self.handshakes.is_full(now)
    }

    /// Counts an offence; the length of the ban where it was one too many.
    fn offend(&mut self, config: &ShieldConfig, now: Moment) -> Option<Duration> {
        if now.since(self.window_began) >= config.ban_window {
            (self.offences, self.window_began) = (0, now);
        }
        self.offences += 1;
        if self.offences < config.ban_refusals {
            return None;
        }
        if self.remembered_until <= now {
            self.bans = 0;
        }
        let ban = config.ban.saturating_mul(1 << self.bans.min(BAN_DOUBLINGS_MAX)).min(config.ban_max);
        self.bans = self.bans.saturating_add(1);
        self.offences = 0;
        self.banned_until = now.plus(ban);
        // As long again after its end: who comes back at once is banned for twice as long.
        self.remembered_until = self.banned_until.plus(ban);
        Some(ban)
    }
}
