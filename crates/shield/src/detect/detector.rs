//! From samples to findings: an attack begins, a rule is to be installed or withdrawn, an attack ends.
//!
//! A kind of traffic that is over its threshold in two of three windows is an attack. The samples of it that no rule in force
//! matches are the evidence for the next rule, so that a second vector gets a rule of its own. A rule has an end; it is
//! renewed while it is hit, lives longer each time it comes back, and is withdrawn when what it hits is no more than usual and
//! comes mostly from sources of ordinary times. Who only forges their addresses does not get rid of a rule so.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::baseline::Baseline;
use super::fingerprint::Fingerprint;
use super::heavy::{Heaviest, Heavy};
use super::packet::{Kind, Packet};
use super::synthesis::{ATTACK_SAMPLES_MIN, Synthesis, synthesise};
use crate::Prefixes;
use crate::admission::{Moment, Source};

/// Rules in force: the packet path looks at each of them for every packet (16 cost about 60 ns).
pub const RULES_MAX: usize = 16;
/// Networks that can be protected; each holds a few MB.
pub const NETWORKS_MAX: usize = 64;
/// Samples of ordinary traffic that are kept of each network.
const ORDINARY_MAX: usize = 8_192;
/// Samples of an attack that are held against them.
const EVIDENCE_MAX: usize = 4_096;
/// Seconds of ordinary traffic before anything is concluded from it.
const LEARNED_SECONDS_MIN: f64 = 5.0;
/// Windows that wait before they are learned from, a second or two: the first of an attack look ordinary, and a rule that hit
/// what was learned of them would be none.
const QUARANTINE_WINDOWS: usize = 20;
/// Samples of one window that are learned.
const WINDOW_LEARNED_MAX: usize = 512;
/// Source networks that are known from ordinary times, in each of two generations.
const KNOWN_MAX: usize = 32_768;
/// The first life of a rule.
const RULE_LIFE: Duration = Duration::from_secs(60);
const RULE_LIFE_MAX: Duration = Duration::from_secs(3_600);
/// A rule that comes back within this time lives twice as long.
const RULE_MEMORY: Duration = Duration::from_secs(3_600);
/// Rules that are remembered for that.
const REMEMBERED_MAX: usize = 1_024;
/// Hits before a rule's victims are judged.
const JUDGED_HITS_MIN: u64 = 200;
/// An attack has ended after this time below the threshold.
const QUIET: Duration = Duration::from_secs(30);
/// Sources whose weight is kept of an attack.
const TOP_SOURCES: usize = 64;
/// New evidence that a second look at the same traffic waits for.
const LOOK_AGAIN: usize = 1_000;

/// How much more than usual is an attack (DD-05). `high` is the default, as there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sensitivity {
    #[default]
    High,
    Medium,
    Low,
    EssentiallyOff,
}

/// What the detector is told once.
#[derive(Clone, Debug)]
pub struct Settings {
    pub protect: Vec<IpNet>,
    pub sensitivity: Sensitivity,
    /// Packets a second of one kind below which nothing is an attack.
    pub floor: f64,
    /// Rules are proposed and not enforced.
    pub monitor: bool,
}

/// A rule with its number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    pub id: u64,
    pub attack: u64,
    pub fingerprint: Fingerprint,
    pub coverage: f64,
    pub ordinary: f64,
    pub is_enforced: bool,
    pub until: Moment,
}

/// What an attack is known by.
#[derive(Clone, Debug, PartialEq)]
pub struct Attack {
    pub id: u64,
    pub network: IpNet,
    /// The part of the network that it is aimed at; the whole of it is carpet bombing.
    pub target: IpNet,
    pub kind: Kind,
    pub began: Moment,
    /// Packets a second, and what is usual.
    pub rate: f64,
    pub usual: f64,
    pub peak: f64,
    pub peak_bits: f64,
    pub sources: Vec<Heavy<Source>>,
}

/// Why a rule is withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawal {
    /// It was not hit any more.
    Expired,
    /// Mostly sources of ordinary times were hit.
    FalsePositive,
}

impl Withdrawal {
    pub const fn as_str(self) -> &'static str {
        match self {
            Withdrawal::Expired => "it is not hit any more",
            Withdrawal::FalsePositive => "it hits clients of ordinary times",
        }
    }
}

/// What a tick came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    Begun(Attack),
    Install(Rule),
    /// More than usual, and nothing that tells it from ordinary traffic: a crowd, or a flood for the limits of each source.
    NoFingerprint {
        attack: u64,
    },
    /// There is a rule, and no place for it.
    NoRoom {
        attack: u64,
        fingerprint: Fingerprint,
    },
    Withdraw {
        rule: u64,
        why: Withdrawal,
    },
    Ended(Attack),
}

/// The state of detection. Deterministic: the same packets at the same times come to the same findings.
#[derive(Debug)]
pub struct Detector {
    settings: Settings,
    index: Prefixes<usize>,
    watched: Vec<Watched>,
    rules: Vec<Active>,
    /// How often a rule came back, and until when that is remembered.
    remembered: HashMap<Fingerprint, (u32, Moment)>,
    next_id: u64,
    last_tick: Moment,
}

#[derive(Debug)]
struct Active {
    rule: Rule,
    life: Duration,
    /// The network and the kind of traffic that it is for.
    place: usize,
    kind: Kind,
    /// Whether it was hit in this life.
    is_hit: bool,
    /// Hits, those by known sources, and packets that they stand for, since then.
    hits: u64,
    hits_known: u64,
    packets: u64,
    since: Moment,
}

/// One protected network.
#[derive(Debug)]
struct Watched {
    network: IpNet,
    ordinary: Vec<Packet>,
    ordinary_seen: u64,
    /// Source networks of ordinary times: this generation, and the one before.
    known: [HashSet<Source>; 2],
    /// Samples of the window.
    window: Vec<Packet>,
    /// Those of earlier windows that are not learned yet.
    quarantine: VecDeque<Vec<Packet>>,
    kinds: [Watch; Kind::ALL.len()],
}

/// One kind of traffic of one network.
#[derive(Debug, Default)]
struct Watch {
    baseline: Baseline,
    /// Packets and bytes in the window, and packets that no rule matched.
    packets: u64,
    bytes: u64,
    unmatched: u64,
    /// Samples that these stand on.
    samples: u64,
    samples_unmatched: u64,
    /// Whether the last three windows were over the threshold, one bit each.
    over: u8,
    attack: Option<Ongoing>,
}

#[derive(Debug)]
struct Ongoing {
    attack: Attack,
    evidence: Vec<Packet>,
    /// Evidence that a fruitless look had.
    looked_at: usize,
    is_told: bool,
    last_over: Moment,
    sources: Heaviest<Source>,
}

impl Sensitivity {
    /// The multiple of what is usual.
    pub const fn factor(self) -> f64 {
        match self {
            Sensitivity::High => 3.0,
            Sensitivity::Medium => 5.0,
            Sensitivity::Low => 10.0,
            Sensitivity::EssentiallyOff => 100.0,
        }
    }
}

impl Detector {
    /// Networks beyond the bound are not watched.
    pub fn new(settings: Settings) -> Detector {
        let networks: Vec<IpNet> = settings.protect.iter().take(NETWORKS_MAX).map(IpNet::trunc).collect();
        Detector {
            index: networks.iter().enumerate().map(|(place, network)| (*network, place)).collect(),
            watched: networks.into_iter().map(Watched::new).collect(),
            settings,
            rules: Vec::new(),
            remembered: HashMap::new(),
            next_id: 1,
            last_tick: Moment(0),
        }
    }

    /// One packet that was sampled, standing for so many.
    pub fn observe(&mut self, packet: &Packet, weight: u64) {
        let Some((_, place)) = self.index.longest(packet.destination) else { return };
        let Some(watched) = self.watched.get_mut(*place) else { return };
        let watch = &mut watched.kinds[packet.kind() as usize];
        watch.packets += weight;
        watch.bytes += packet.length() * weight;
        watch.samples += 1;
        let source = known_as(packet.source);
        if let Some(ongoing) = &mut watch.attack {
            ongoing.sources.add(packet.source.into(), weight);
        }
        if let Some(active) = self.rules.iter_mut().find(|active| active.rule.fingerprint.matches(packet)) {
            active.hits += 1;
            active.is_hit = true;
            active.packets += weight;
            active.hits_known += u64::from(watched.known.iter().any(|known| known.contains(&source)));
            return;
        }
        watch.unmatched += weight;
        watch.samples_unmatched += 1;
        if watched.window.len() < EVIDENCE_MAX {
            watched.window.push(*packet);
        }
    }

    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().map(|active| &active.rule)
    }

    pub fn attacks(&self) -> impl Iterator<Item = &Attack> {
        self.watched.iter().flat_map(|watched| &watched.kinds).filter_map(|watch| Some(&watch.attack.as_ref()?.attack))
    }

    /// Ends a window. To be called every 20 to 100 ms; the hour counts from Monday midnight.
    pub fn tick(&mut self, now: Moment, hour_of_week: usize) -> Vec<Finding> {
        let seconds = now.since(self.last_tick).as_secs_f64().max(0.001);
        self.last_tick = now;
        let mut findings = self.tend_rules(now, hour_of_week);
        for place in 0..self.watched.len() {
            for kind in Kind::ALL {
                self.judge(place, kind, seconds, now, hour_of_week, &mut findings);
            }
            self.watched[place].end_window(seconds, hour_of_week);
        }
        findings
    }

    fn judge(&mut self, place: usize, kind: Kind, seconds: f64, now: Moment, hour_of_week: usize, findings: &mut Vec<Finding>) {
        let watched = &mut self.watched[place];
        let watch = &mut watched.kinds[kind as usize];
        let usual = watch.baseline.usual(hour_of_week);
        let threshold = watch.threshold(&self.settings, hour_of_week);
        let (rate, unmatched) = (watch.packets as f64 / seconds, watch.unmatched as f64 / seconds);
        let is_over = rate * surely(watch.samples) > threshold;
        let is_unmatched_over = unmatched * surely(watch.samples_unmatched) > threshold;
        watch.over = (watch.over << 1 | u8::from(is_over)) & 0b111;
        if watch.baseline.learned() < LEARNED_SECONDS_MIN {
            return;
        }
        if watch.attack.is_none() && watch.over.count_ones() >= 2 {
            let attack = begun(self.next_id, watched, kind, rate, usual, now);
            self.next_id += 1;
            findings.push(Finding::Begun(attack.clone()));
            watched.kinds[kind as usize].attack = Some(Ongoing::new(attack, now));
        }
        let bits = watched.kinds[kind as usize].bytes as f64 * 8.0 / seconds;
        let of_kind: Vec<Packet> = watched.window.iter().filter(|packet| packet.kind() == kind).copied().collect();
        let watch = &mut watched.kinds[kind as usize];
        let Some(ongoing) = &mut watch.attack else { return };
        ongoing.attack.rate = rate;
        ongoing.attack.peak = ongoing.attack.peak.max(rate);
        ongoing.attack.peak_bits = ongoing.attack.peak_bits.max(bits);
        if is_over {
            ongoing.last_over = now;
        } else if now.since(ongoing.last_over) >= QUIET {
            let mut attack = ongoing.attack.clone();
            attack.sources = ongoing.sources.top(TOP_SOURCES);
            watch.attack = None;
            findings.push(Finding::Ended(attack));
            return;
        }
        if !is_unmatched_over {
            // The rules in force are enough.
            ongoing.evidence.clear();
            ongoing.looked_at = 0;
            return;
        }
        let room = EVIDENCE_MAX - ongoing.evidence.len();
        ongoing.evidence.extend(of_kind.into_iter().take(room));
        let wanted = ATTACK_SAMPLES_MIN.max(ongoing.looked_at + LOOK_AGAIN.min(ongoing.looked_at)).min(EVIDENCE_MAX);
        let is_enough = ongoing.evidence.len() >= wanted;
        if !is_enough {
            return;
        }
        let evidence = std::mem::take(&mut ongoing.evidence);
        let (attack, looked_at) = (ongoing.attack.id, ongoing.looked_at);
        let target = aimed_at(watched.network, &evidence);
        let aimed: Vec<Packet> = evidence.iter().filter(|packet| target.contains(&packet.destination)).copied().collect();
        let found = synthesise(target, &aimed, &watched.ordinary, 1.0 - usual / unmatched.max(1.0));
        let Some(ongoing) = &mut watched.kinds[kind as usize].attack else { return };
        ongoing.attack.target = target;
        match found {
            Some(synthesis) if self.rules.len() >= RULES_MAX => {
                findings.push(Finding::NoRoom { attack, fingerprint: synthesis.fingerprint });
            }
            Some(synthesis) => {
                let rule = self.install(attack, (place, kind), synthesis, now);
                findings.push(Finding::Install(rule));
            }
            None if evidence.len() >= EVIDENCE_MAX => {
                // All that is kept was looked at in vain: the next look has other samples.
                ongoing.looked_at = 0;
                tell(ongoing, findings);
            }
            None => {
                (ongoing.looked_at, ongoing.evidence) = (evidence.len().max(looked_at), evidence);
                tell(ongoing, findings);
            }
        }
    }

    fn install(&mut self, attack: u64, (place, kind): (usize, Kind), synthesis: Synthesis, now: Moment) -> Rule {
        let Synthesis { fingerprint, coverage, ordinary } = synthesis;
        if self.remembered.len() >= REMEMBERED_MAX {
            self.remembered.retain(|_, (_, until)| *until > now);
        }
        let times = match self.remembered.get(&fingerprint) {
            Some((times, until)) if *until > now => times + 1,
            _ => 0,
        };
        let life = RULE_LIFE.saturating_mul(1 << times.min(8)).min(RULE_LIFE_MAX);
        let until = now.plus(life);
        if self.remembered.len() < REMEMBERED_MAX {
            self.remembered.insert(fingerprint, (times, until.plus(RULE_MEMORY)));
        }
        let id = self.next_id;
        self.next_id += 1;
        let rule = Rule { id, attack, fingerprint, coverage, ordinary, is_enforced: !self.settings.monitor, until };
        self.rules.push(Active { rule, life, place, kind, is_hit: false, hits: 0, hits_known: 0, packets: 0, since: now });
        rule
    }

    /// Extends, ends or withdraws rules.
    fn tend_rules(&mut self, now: Moment, hour_of_week: usize) -> Vec<Finding> {
        let mut findings = Vec::new();
        let (watched, settings) = (&self.watched, &self.settings);
        self.rules.retain_mut(|active| {
            let threshold = watched[active.place].kinds[active.kind as usize].threshold(settings, hour_of_week);
            let why = if active.is_harmful(threshold, now) {
                Withdrawal::FalsePositive
            } else if active.rule.until > now {
                return true;
            } else if active.is_hit {
                (active.rule.until, active.is_hit) = (now.plus(active.life), false);
                return true;
            } else {
                Withdrawal::Expired
            };
            findings.push(Finding::Withdraw { rule: active.rule.id, why });
            false
        });
        findings
    }
}

impl Active {
    /// Whether what it hits is no flood any more, and comes mostly from sources of ordinary times. Judged by so many hits at a
    /// time, or by those of a life.
    fn is_harmful(&mut self, threshold: f64, now: Moment) -> bool {
        let seconds = now.since(self.since).as_secs_f64();
        if self.hits < JUDGED_HITS_MIN || seconds <= 0.0 {
            return false;
        }
        let is_harmful = self.packets as f64 / seconds <= threshold && self.hits_known * 2 > self.hits;
        (self.hits, self.hits_known, self.packets, self.since) = (0, 0, 0, now);
        is_harmful
    }
}

/// The part of a sampled rate that is there with near certainty: the count of samples varies by its root.
fn surely(samples: u64) -> f64 {
    (1.0 - 3.0 / (samples.max(1) as f64).sqrt()).max(0.0)
}

/// Says once for each attack that nothing tells it from ordinary traffic.
fn tell(ongoing: &mut Ongoing, findings: &mut Vec<Finding>) {
    if !std::mem::replace(&mut ongoing.is_told, true) {
        findings.push(Finding::NoFingerprint { attack: ongoing.attack.id });
    }
}

fn begun(id: u64, watched: &Watched, kind: Kind, rate: f64, usual: f64, now: Moment) -> Attack {
    let of_kind: Vec<Packet> = watched.window.iter().filter(|packet| packet.kind() == kind).copied().collect();
    let target = aimed_at(watched.network, &of_kind);
    let network = watched.network;
    Attack { id, network, target, kind, began: now, rate, usual, peak: rate, peak_bits: 0.0, sources: Vec::new() }
}

/// The address that half of the packets go to, or the /24 (of IPv6 the /64), or all of the network.
fn aimed_at(network: IpNet, packets: &[Packet]) -> IpNet {
    for (v4, v6) in [(32, 128), (24, 64)] {
        let mut heaviest = Heaviest::new(64);
        for packet in packets {
            let length = if packet.destination.is_ipv4() { v4 } else { v6 };
            let within = IpNet::new(packet.destination, length).map(|network| network.trunc());
            within.iter().for_each(|network| heaviest.add(*network, 1));
        }
        let top = heaviest.top(1);
        if let Some(heavy) = top.first().filter(|heavy| (heavy.weight - heavy.error) * 2 >= packets.len() as u64)
            && network.contains(&heavy.key)
        {
            return heavy.key;
        }
    }
    network
}

/// The network by which a source is known again: clients change addresses within it.
fn known_as(source: IpAddr) -> Source {
    match Source::from(source) {
        Source::V4(bits) => Source::V4(bits & 0xffff_ff00),
        v6 => v6,
    }
}

impl Watch {
    /// Packets a second above which it is too much.
    fn threshold(&self, settings: &Settings, hour_of_week: usize) -> f64 {
        settings.floor.max(self.baseline.usual(hour_of_week) * settings.sensitivity.factor())
    }
}

impl Ongoing {
    fn new(attack: Attack, now: Moment) -> Ongoing {
        let sources = Heaviest::new(TOP_SOURCES);
        Ongoing { attack, evidence: Vec::new(), looked_at: 0, is_told: false, last_over: now, sources }
    }
}

impl Watched {
    fn new(network: IpNet) -> Watched {
        Watched {
            network,
            ordinary: Vec::new(),
            ordinary_seen: 0,
            known: Default::default(),
            window: Vec::new(),
            quarantine: VecDeque::new(),
            kinds: Default::default(),
        }
    }

    /// Learns from a window in which nothing was over a threshold, and begins the next.
    fn end_window(&mut self, seconds: f64, hour_of_week: usize) {
        let is_ordinary = self.kinds.iter().all(|watch| watch.over & 1 == 0 && watch.attack.is_none());
        // At first nothing is known, and everything is taken for ordinary.
        let is_beginning = self.kinds.iter().all(|watch| watch.baseline.learned() < LEARNED_SECONDS_MIN);
        if is_ordinary || is_beginning {
            for watch in &mut self.kinds {
                watch.baseline.learn(watch.packets as f64 / seconds, seconds, hour_of_week);
            }
            self.window.truncate(WINDOW_LEARNED_MAX);
            self.quarantine.push_back(std::mem::take(&mut self.window));
            if self.quarantine.len() > QUARANTINE_WINDOWS {
                let earliest = self.quarantine.pop_front().unwrap_or_default();
                earliest.into_iter().for_each(|packet| self.learn(packet));
            }
        } else {
            self.quarantine.clear();
        }
        self.window.clear();
        for watch in &mut self.kinds {
            (watch.packets, watch.bytes, watch.unmatched) = (0, 0, 0);
            (watch.samples, watch.samples_unmatched) = (0, 0);
        }
    }

    /// Keeps a sample of all ordinary packets so far. Which one it replaces depends on its number alone.
    fn learn(&mut self, packet: Packet) {
        if self.known[0].len() >= KNOWN_MAX {
            let full = std::mem::take(&mut self.known[0]);
            self.known[1] = full;
        }
        self.known[0].insert(known_as(packet.source));
        self.ordinary_seen += 1;
        if self.ordinary.len() < ORDINARY_MAX {
            return self.ordinary.push(packet);
        }
        // Vitter's algorithm R with a hash of the number in place of chance; the past fades, since the count is bounded.
        let among = self.ordinary_seen.min(8 * ORDINARY_MAX as u64);
        let place = (self.ordinary_seen.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 17) % among;
        if let Some(kept) = self.ordinary.get_mut(place as usize) {
            *kept = packet;
        }
    }
}
