//! The packet path and the detector together: samples become findings, findings become rules in the kernel, and each attack
//! becomes one incident with its timeline. A round is to be made every few ten milliseconds; nothing here waits by itself.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::Serialize;

use crate::admission::{Ban, Moment, Source};
use crate::collector::{Collected, Collector};
use crate::detect::detector::{Attack, Detector, Finding, RULES_MAX, Rule, Settings, Withdrawal};
use crate::detect::packet::{Kind, Packet};
use crate::packets::{Mode, PacketsConfig};
use crate::xdp::kernel::Error;
use crate::xdp::{Attached, PacketPath, PacketRule, Reason, Tables};

/// Incidents that are kept for whoever looks; all of them are in the record.
const INCIDENTS_MAX: usize = 64;
/// Lines of one incident's timeline.
const TIMELINE_MAX: usize = 256;
/// Sources of an incident that are told.
const SOURCES_TOLD: usize = 10;
/// Networks of bans are denied one /24 after the other, up to this many.
const BANNED_24_MAX: usize = 1 << 16;

/// One attack from its beginning to its end (DD-34).
#[derive(Clone, Debug, Serialize)]
pub struct Incident {
    pub id: u64,
    pub network: IpNet,
    pub target: IpNet,
    pub kind: &'static str,
    /// Since its beginning.
    pub seconds: f64,
    pub has_ended: bool,
    pub peak_packets_per_second: u64,
    pub peak_bits_per_second: u64,
    pub usual_packets_per_second: u64,
    pub sources: Vec<IpAddr>,
    /// Rules against it, in the order in which they came.
    pub rules: Vec<String>,
    pub timeline: Vec<Line>,
    #[serde(skip)]
    began: Moment,
}

/// One thing that came to pass.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Milliseconds since the attack was noticed.
    pub milliseconds: u64,
    pub what: String,
}

/// What an operator sees of the packet path.
#[derive(Clone, Debug, Serialize)]
pub struct GuardStatus {
    pub interfaces: Vec<(String, &'static str)>,
    pub packets: Vec<(&'static str, u64)>,
    /// Packets of interfaces that were looked at by the detector.
    pub samples: u64,
    pub sflow: Option<Collected>,
    pub rules: Vec<RuleStatus>,
    pub incidents: Vec<Incident>,
}

#[derive(Clone, Debug, Serialize)]
pub struct RuleStatus {
    pub rule: String,
    pub is_enforced: bool,
    pub hits: u64,
    pub seconds_left: u64,
}

/// What a round came to, for the record.
#[derive(Clone, Debug)]
pub enum News {
    Begun(Incident),
    Mitigated(Incident),
    Ended(Incident),
    RuleWithdrawn { rule: String, why: Withdrawal },
}

/// The running guard.
#[derive(Debug)]
pub struct Guard {
    /// None where routers tell what passes them.
    path: Option<PacketPath>,
    collector: Option<Collector>,
    attached: Vec<(String, Attached)>,
    tables: Tables,
    detector: Detector,
    sample_every: u64,
    samples: u64,
    /// Whether SYNs are answered with cookies while a flood of them goes on.
    syn_cookies: bool,
    /// Rules in the places that they have in the kernel, with the hits that were counted there before.
    placed: Vec<(Rule, u64)>,
    incidents: VecDeque<Incident>,
}

impl Guard {
    /// Loads the program, writes its tables, and attaches it to every interface, or to none.
    pub fn start(config: &PacketsConfig, seed: u64) -> Result<Guard, Error> {
        let mut path = if config.interfaces.is_empty() { None } else { Some(PacketPath::load()?) };
        let open = |address| Collector::open(address, &config.exporters).map_err(|source| Error::Listen { address, source });
        let collector = config.sflow.map(open).transpose()?;
        let tables = Tables {
            is_enforced: config.mode == Mode::Enforce,
            drop_fragments: config.drop_fragments,
            drop_bogus: config.drop_bogus,
            sample_every: Some(config.sample_every),
            source_rate: config.source_rate,
            seed,
            allowed: config.allow.iter().map(|network| (*network, ())).collect(),
            protected: config.protect.iter().map(|network| (*network, ())).collect(),
            vectors: config.vectors.iter().map(|vector| vector.port).collect(),
            ..Tables::default()
        };
        let mut attached = Vec::new();
        if let Some(path) = &mut path {
            path.write(&tables)?;
            for interface in &config.interfaces {
                attached.push((interface.clone(), path.attach(interface)?));
            }
        }
        let detector = Detector::new(Settings {
            protect: config.protect.clone(),
            sensitivity: config.sensitivity,
            floor: config.floor,
            monitor: config.mode != Mode::Enforce || path.is_none(),
        });
        let sample_every = u64::from(config.sample_every.max(1).next_power_of_two());
        Ok(Guard {
            path,
            collector,
            attached,
            tables,
            detector,
            sample_every,
            samples: 0,
            syn_cookies: config.syn_cookies,
            placed: Vec::new(),
            incidents: VecDeque::new(),
        })
    }

    pub fn attached(&self) -> &[(String, Attached)] {
        &self.attached
    }

    /// Reads samples, ends a window, and puts into force what was found.
    pub fn round(&mut self, now: Moment, hour_of_week: usize) -> Result<Vec<News>, Error> {
        let (detector, weight) = (&mut self.detector, self.sample_every);
        if let Some(path) = &mut self.path {
            let samples = path.samples(|sample| {
                if let Some(packet) = Packet::of_frame(sample.frame) {
                    detector.observe(&packet, weight);
                }
            });
            self.samples += samples as u64;
        }
        if let Some(collector) = &mut self.collector {
            let collected = collector.collect(|packet, weight| detector.observe(packet, weight));
            collected.map_err(|source| Error::Table { table: "sflow", source: Box::new(source) })?;
        }
        let findings = self.detector.tick(now, hour_of_week);
        if findings.is_empty() {
            return Ok(Vec::new());
        }
        let news = findings.into_iter().filter_map(|finding| self.take(finding, now)).collect();
        self.put_rules_into_force()?;
        Ok(news)
    }

    /// Has the sources of these bans dropped in the kernel.
    pub fn deny(&mut self, bans: &[Ban]) -> Result<(), Error> {
        let (denied_24, denied) = denied_of(bans);
        if (&denied_24, &denied) != (&self.tables.denied_24, &self.tables.denied) {
            let tables = Tables { denied_24, denied, ..self.tables.clone() };
            if let Some(path) = &mut self.path {
                path.write(&tables)?;
            }
            self.tables = tables;
        }
        Ok(())
    }

    pub fn counts(&self) -> Result<[u64; Reason::ALL.len()], Error> {
        self.path.as_ref().map_or(Ok([0; Reason::ALL.len()]), PacketPath::counts)
    }

    /// Where routers send sFlow.
    pub fn listening(&self) -> Option<SocketAddr> {
        self.collector.as_ref()?.address().ok()
    }

    fn rule_hits(&self) -> Result<[u64; RULES_MAX], Error> {
        self.path.as_ref().map_or(Ok([0; RULES_MAX]), PacketPath::rule_hits)
    }

    pub fn status(&self, now: Moment) -> Result<GuardStatus, Error> {
        let hits = self.rule_hits()?;
        let packets = Reason::ALL.into_iter().zip(self.counts()?).map(|(reason, count)| (reason.as_str(), count));
        let rules = self.placed.iter().zip(hits).map(|((rule, before), hits)| RuleStatus {
            rule: rule.fingerprint.to_string(),
            is_enforced: rule.is_enforced,
            hits: hits.saturating_sub(*before),
            seconds_left: rule.until.since(now).as_secs(),
        });
        Ok(GuardStatus {
            interfaces: self.attached.iter().map(|(name, how)| (name.clone(), how.as_str())).collect(),
            packets: packets.collect(),
            samples: self.samples,
            sflow: self.collector.as_ref().map(Collector::counts),
            rules: rules.collect(),
            incidents: self.incidents.iter().cloned().collect(),
        })
    }

    fn take(&mut self, finding: Finding, now: Moment) -> Option<News> {
        match finding {
            Finding::Begun(attack) => {
                if self.incidents.len() >= INCIDENTS_MAX {
                    self.incidents.pop_front();
                }
                let mut incident = Incident::new(&attack);
                incident.add(now, format!("{} packets/s, usual are {}", attack.rate as u64, attack.usual as u64));
                self.incidents.push_back(incident.clone());
                Some(News::Begun(incident))
            }
            Finding::Install(rule) => {
                let (share, harm) = (rule.coverage * 100.0, rule.ordinary * 100.0);
                let verb = if rule.is_enforced { "drops" } else { "would drop" };
                let what = format!("{} {verb} {share:.1} % of it and {harm:.3} % of ordinary traffic", rule.fingerprint);
                let incident = self.incidents.iter_mut().find(|incident| incident.id == rule.attack)?;
                if incident.rules.len() < TIMELINE_MAX {
                    incident.rules.push(rule.fingerprint.to_string());
                }
                self.note(rule.attack, now, what).map(News::Mitigated)
            }
            Finding::NoFingerprint { attack } => {
                let what = "nothing tells it from ordinary traffic: no rule, limits of each source alone".to_owned();
                self.note(attack, now, what).map(|_| ()).and(None)
            }
            Finding::NoRoom { attack, fingerprint } => {
                self.note(attack, now, format!("no place for {fingerprint}: {RULES_MAX} rules are in force")).and(None)
            }
            Finding::Withdraw { rule, why } => {
                let placed = self.placed.iter().find(|(placed, _)| placed.id == rule).map(|(placed, _)| *placed)?;
                self.note(placed.attack, now, format!("{} is withdrawn: {}", placed.fingerprint, why.as_str()));
                Some(News::RuleWithdrawn { rule: placed.fingerprint.to_string(), why })
            }
            Finding::Ended(attack) => {
                let incident = self.incidents.iter_mut().find(|incident| incident.id == attack.id)?;
                incident.update(&attack, now);
                incident.has_ended = true;
                incident.add(now, "ended".to_owned());
                Some(News::Ended(incident.clone()))
            }
        }
    }

    fn note(&mut self, attack: u64, now: Moment, what: String) -> Option<Incident> {
        let current = self.detector.attacks().find(|one| one.id == attack).cloned();
        let incident = self.incidents.iter_mut().find(|incident| incident.id == attack)?;
        if let Some(current) = current {
            incident.update(&current, now);
        }
        incident.add(now, what);
        Some(incident.clone())
    }

    /// The rules of the detector in the kernel. A place that another rule takes begins with the hits that it has.
    fn put_rules_into_force(&mut self) -> Result<(), Error> {
        let hits = self.rule_hits()?;
        let wanted: Vec<Rule> = self.detector.rules().copied().collect();
        self.tables.rules =
            wanted.iter().map(|rule| PacketRule { fingerprint: rule.fingerprint, is_enforced: rule.is_enforced }).collect();
        self.tables.syn_cookies = self.syn_cookies && self.detector.attacks().any(|attack| attack.kind == Kind::TcpSyn);
        if let Some(path) = &mut self.path {
            path.write(&self.tables)?;
        }
        let before = |place: usize, rule: &Rule| match self.placed.get(place) {
            Some((earlier, before)) if earlier.id == rule.id => *before,
            _ => hits[place],
        };
        self.placed = wanted.iter().enumerate().map(|(place, rule)| (*rule, before(place, rule))).collect();
        Ok(())
    }
}

/// The /24s of IPv4 networks, and what is smaller or IPv6 one by one.
fn denied_of(bans: &[Ban]) -> (BTreeSet<u32>, BTreeSet<Source>) {
    let (mut networks, mut sources) = (BTreeSet::new(), BTreeSet::new());
    for ban in bans {
        match ban.network {
            IpNet::V4(network) if network.prefix_len() <= 24 => {
                let room = BANNED_24_MAX.saturating_sub(networks.len());
                networks.extend((u32::from(network.network()) >> 8..=u32::from(network.broadcast()) >> 8).take(room));
            }
            IpNet::V4(network) => {
                sources.extend((u32::from(network.network())..=u32::from(network.broadcast())).map(Source::V4));
            }
            IpNet::V6(network) if network.prefix_len() >= 64 => {
                sources.insert(Source::from(IpAddr::from(network.network())));
            }
            // Wider ones would be many /64s: they are refused in user space alone.
            IpNet::V6(_) => {}
        }
    }
    (networks, sources)
}

impl Incident {
    fn new(attack: &Attack) -> Incident {
        Incident {
            id: attack.id,
            network: attack.network,
            target: attack.target,
            kind: attack.kind.as_str(),
            seconds: 0.0,
            has_ended: false,
            peak_packets_per_second: attack.peak as u64,
            peak_bits_per_second: attack.peak_bits as u64,
            usual_packets_per_second: attack.usual as u64,
            sources: Vec::new(),
            rules: Vec::new(),
            timeline: Vec::new(),
            began: attack.began,
        }
    }

    /// One that never was, to show what a notice looks like. Addresses of documentation (RFC 5737).
    pub fn sample() -> Incident {
        let (network, target) = (std::net::Ipv4Addr::new(203, 0, 113, 0), std::net::Ipv4Addr::new(203, 0, 113, 9));
        Incident {
            id: 0,
            network: IpNet::V4(ipnet::Ipv4Net::new_assert(network, 24)),
            target: IpNet::V4(ipnet::Ipv4Net::new_assert(target, 32)),
            kind: "udp",
            seconds: 12.0,
            has_ended: false,
            peak_packets_per_second: 1_200_000,
            peak_bits_per_second: 13_400_000_000,
            usual_packets_per_second: 900,
            sources: vec![std::net::Ipv4Addr::new(198, 51, 100, 7).into()],
            rules: vec!["203.0.113.9/32 protocol=17 source_port=11211".to_owned()],
            timeline: vec![Line { milliseconds: 0, what: "1200000 packets/s, usual are 900".to_owned() }],
            began: Moment(0),
        }
    }

    fn update(&mut self, attack: &Attack, now: Moment) {
        self.target = attack.target;
        self.seconds = now.since(self.began).as_secs_f64();
        self.peak_packets_per_second = attack.peak as u64;
        self.peak_bits_per_second = attack.peak_bits as u64;
        let heaviest = attack.sources.iter().take(SOURCES_TOLD);
        self.sources = heaviest.map(|heavy| heavy.key.address()).collect();
    }

    fn add(&mut self, now: Moment, what: String) {
        if self.timeline.len() < TIMELINE_MAX {
            let milliseconds = u64::try_from(now.since(self.began).as_millis()).unwrap_or(u64::MAX);
            self.timeline.push(Line { milliseconds, what });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ban_denies_every_address_of_its_network_and_no_other() {
        for network in ["203.0.113.0/24", "198.51.100.16/28", "192.0.2.7/32", "10.0.0.0/22", "2001:db8:0:1::/64"] {
            let network: IpNet = network.parse().unwrap();
            let (denied_24, denied) = denied_of(&[Ban { network, until: Moment(1), by_operator: true }]);
            let tables = Tables { denied_24, denied, ..Tables::default() };
            let (first, last) = (network.network(), network.broadcast());
            assert!(tables.is_denied(first) && tables.is_denied(last), "{network}");
            let outside: [IpAddr; 2] = match (first, last) {
                (IpAddr::V4(first), IpAddr::V4(last)) => {
                    [(u32::from(first) - 1).into(), (u32::from(last) + 1).into()].map(|bits: std::net::Ipv4Addr| bits.into())
                }
                _ => ["2001:db8::1".parse().unwrap(), "2001:db8:0:2::".parse().unwrap()],
            };
            assert!(outside.iter().all(|address| !tables.is_denied(*address)), "{network}");
        }
    }

    /// One sFlow datagram with one sample of a UDP packet to the protected network.
    fn sampled(from: u8, source_port: u16, length: u16, content: u8, rate: u32) -> Vec<u8> {
        let mut frame = [0; 12].to_vec();
        frame.extend([8, 0, 0x45, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend([0, 0, 0, 0, 61, 17, 0, 0, 198, 51, 100, from, 203, 0, 113, 9]);
        frame.extend(source_port.to_be_bytes());
        frame.extend([0x0f, 0xa0, 0, 20, 0, 0, content, content, from, content, 0, 0]);
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
        let raw = [words(&[1, 1_500, 4, frame.len() as u32]), frame].concat();
        let sample = [words(&[1, 1, rate, 0, 0, 0, 0, 1, 1, raw.len() as u32]), raw].concat();
        [words(&[5, 1, 0x7f00_0001, 0, 1, 1, 1, 1, sample.len() as u32]), sample].concat()
    }

    #[test]
    fn a_flood_that_a_router_samples_is_found_and_a_stranger_is_not_believed() {
        let spec = crate::packets::PacketsSpec {
            sflow: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            sflow_exporters: vec!["127.0.0.1/32".parse().unwrap()],
            protect: vec!["203.0.113.0/24".parse().unwrap()],
            floor_packets_per_second: 10_000,
            ..crate::packets::PacketsSpec::default()
        };
        let config = PacketsConfig::resolve(&spec).unwrap().unwrap();
        let mut guard = Guard::start(&config, 1).unwrap();
        let to = guard.listening().unwrap();
        let router = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (mut news, mut sent, mut numbers) = (Vec::new(), 0, crate::testing::Numbers::new(1));
        for window in 0..140_u64 {
            for _ in 0..if window < 120 { 5 } else { 60 } {
                let (from, port) = (numbers.next() as u8, 1_024 + numbers.below(60_000) as u16);
                let datagram = match window < 120 || numbers.below(12) == 0 {
                    true => sampled(from, port, 60 + numbers.below(1_400) as u16, numbers.next() as u8, 128),
                    false => sampled(from, port, 540, 0xff, 128),
                };
                router.send_to(&datagram, to).unwrap();
                sent += 1;
            }
            // Loopback delivers before the call returns.
            news.extend(guard.round(Moment((window + 1) * 100_000_000), 0).unwrap());
        }
        let counts = guard.status(Moment(1)).unwrap().sflow.unwrap();
        assert_eq!(counts, Collected { datagrams: sent, packets: sent, ..Collected::default() });
        let incident = news.iter().find_map(|news| match news {
            News::Mitigated(incident) => Some(incident),
            _ => None,
        });
        let incident = incident.unwrap();
        assert!(incident.rules[0].contains("length=540") || incident.rules[0].contains("payload=0xffff"), "{incident:?}");
        assert!(guard.status(Moment(1)).unwrap().rules.iter().all(|rule| !rule.is_enforced));
        let stranger = std::net::UdpSocket::bind("127.0.0.2:0").unwrap();
        stranger.send_to(&sampled(1, 2, 3, 4, 5), to).unwrap();
        guard.round(Moment(20_000_000_000), 0).unwrap();
        let counts = guard.status(Moment(1)).unwrap().sflow.unwrap();
        assert_eq!((counts.strangers, counts.packets), (1, sent));
    }
}
