use super::detector::*;
use super::mixes::*;
use super::packet::{Kind, Packet};
use crate::admission::Moment;
use crate::testing::Numbers;

const MILLI: u64 = 1_000_000;
/// One window of a usual day in packets, each standing for 128: 25,600 packets a second.
const ORDINARY: usize = 20;
const WEIGHT: u64 = 128;

fn settings() -> Settings {
    let protect = vec![NETWORK.parse().unwrap()];
    Settings { protect, sensitivity: Sensitivity::High, floor: 5_000.0, monitor: false }
}

/// A detector in front of a network, and what came to pass.
struct Scene {
    numbers: Numbers,
    detector: Detector,
    now: Moment,
    findings: Vec<(Moment, Finding)>,
    /// Packets that the rules in force dropped or let through.
    attack: (u64, u64),
    legitimate: (u64, u64),
}

impl Scene {
    /// After half a minute of a usual day.
    fn new(seed: u64, settings: Settings) -> Scene {
        let detector = Detector::new(settings);
        let mut scene = Scene {
            numbers: Numbers::new(seed),
            detector,
            now: Moment(0),
            findings: Vec::new(),
            attack: (0, 0),
            legitimate: (0, 0),
        };
        scene.windows(300, None, 0);
        assert!(scene.findings.is_empty(), "seed {seed}: a usual day is no attack: {:?}", scene.findings);
        scene
    }

    /// So many windows of 100 ms, with the flood on top.
    fn windows(&mut self, count: usize, flood_of: Option<Flood>, packets: usize) {
        let target = 1 + self.numbers.below(6);
        for _ in 0..count {
            for _ in 0..ORDINARY / 2 + self.numbers.below(ORDINARY as u64) as usize {
                let source = regular(&mut self.numbers);
                let packet = ordinary(&mut self.numbers, source);
                self.pass(&packet, false);
            }
            for _ in 0..packets {
                let kind = flood_of.unwrap_or(Flood::FlashCrowd);
                let packet = flood(&mut self.numbers, kind, target);
                self.pass(&packet, kind != Flood::FlashCrowd);
            }
            self.now = Moment(self.now.0 + 100 * MILLI);
            let findings = self.detector.tick(self.now, 0);
            self.findings.extend(findings.into_iter().map(|finding| (self.now, finding)));
        }
    }

    fn pass(&mut self, packet: &Packet, is_attack: bool) {
        let is_dropped = self.detector.rules().any(|rule| rule.is_enforced && rule.fingerprint.matches(packet));
        let count = if is_attack { &mut self.attack } else { &mut self.legitimate };
        *(if is_dropped { &mut count.0 } else { &mut count.1 }) += 1;
        self.detector.observe(packet, WEIGHT);
    }

    fn installed(&self) -> Vec<Rule> {
        let rules = self.findings.iter().filter_map(|(_, finding)| match finding {
            Finding::Install(rule) => Some(*rule),
            _ => None,
        });
        rules.collect()
    }
}

#[test]
fn dd_01_every_flood_with_a_mark_gets_a_rule_within_a_second_and_clients_pass() {
    let (mut dropped, mut passed) = (0, 0);
    for seed in 0..4 {
        for kind in WITH_RULE {
            let mut scene = Scene::new(seed, settings());
            let began = scene.now;
            scene.windows(100, Some(kind), 400);
            let rules = scene.installed();
            assert!((1..=3).contains(&rules.len()), "seed {seed}, {kind:?}: {:?}", scene.findings);
            let first = scene.findings.iter().find(|(_, finding)| matches!(finding, Finding::Install(_)));
            let (at, _) = first.unwrap();
            assert!(at.since(began).as_millis() <= 500, "seed {seed}, {kind:?} took {:?}", at.since(began));
            let (stopped, leaked) = scene.attack;
            assert!(leaked * 20 < stopped + leaked, "seed {seed}, {kind:?}: {leaked} of {} leaked, {rules:?}", stopped + leaked);
            assert!(rules.iter().all(|rule| rule.fingerprint.is_specific()), "{rules:?}");
            dropped += scene.legitimate.0;
            passed += scene.legitimate.1;
        }
    }
    assert!(dropped * 1_000 <= dropped + passed, "{dropped} legitimate packets of {} were dropped", dropped + passed);
}

#[test]
fn a_crowd_of_ordinary_clients_gets_no_rule_in_a_hundred_of_a_hundred() {
    for seed in 0..100 {
        let mut scene = Scene::new(1_000 + seed, settings());
        scene.windows(20, Some(Flood::FlashCrowd), 10 * ORDINARY);
        assert_eq!(scene.installed(), [], "seed {seed}");
        assert_eq!(scene.legitimate.0, 0);
    }
}

#[test]
fn a_flood_without_a_mark_is_told_once_and_left_to_other_means() {
    for seed in 0..6 {
        let mut scene = Scene::new(seed, settings());
        scene.windows(50, Some(Flood::AckRandom), 400);
        assert_eq!(scene.installed(), [], "seed {seed}");
        let told = scene.findings.iter().filter(|(_, finding)| matches!(finding, Finding::NoFingerprint { .. })).count();
        assert_eq!(told, 1, "seed {seed}: {:?}", scene.findings);
    }
}

#[test]
fn carpet_bombing_gets_a_rule_for_the_whole_network_and_a_single_target_for_itself() {
    let mut scene = Scene::new(1, settings());
    scene.windows(30, Some(Flood::SsdpCarpet), 400);
    assert_eq!(scene.installed()[0].fingerprint.network.to_string(), NETWORK);
    let mut scene = Scene::new(1, settings());
    scene.windows(30, Some(Flood::Memcached), 400);
    assert_eq!(scene.installed()[0].fingerprint.network.prefix_len(), 32);
}

#[test]
fn a_second_vector_gets_a_rule_of_its_own() {
    let mut scene = Scene::new(3, settings());
    scene.windows(30, Some(Flood::Memcached), 400);
    let first = scene.installed();
    scene.windows(30, Some(Flood::NtpMonlist), 400);
    assert!(scene.installed().len() > first.len(), "{:?}", scene.findings);
}

#[test]
fn a_rule_outlives_its_attack_by_one_life_and_comes_back_for_longer() {
    let mut scene = Scene::new(4, settings());
    scene.windows(20, Some(Flood::Memcached), 400);
    scene.windows(2_000, None, 0);
    let ended: Vec<_> =
        scene.findings.iter().filter(|(_, finding)| matches!(finding, Finding::Withdraw { .. } | Finding::Ended(_))).collect();
    assert_eq!(ended.len(), 2, "{ended:?}");
    assert!(scene.detector.rules().next().is_none());
    scene.numbers = Numbers::new(4);
    scene.windows(20, Some(Flood::Memcached), 400);
    let lives: Vec<u64> = scene
        .findings
        .iter()
        .filter_map(|(at, finding)| match finding {
            Finding::Install(rule) => Some(rule.until.since(*at).as_secs()),
            _ => None,
        })
        .collect();
    assert!(lives.first() == Some(&60) && lives.iter().all(|life| [60, 120].contains(life)), "{lives:?}");
}

#[test]
fn a_rule_that_comes_to_hit_known_clients_is_withdrawn() {
    let mut scene = Scene::new(5, settings());
    scene.windows(20, Some(Flood::NtpMonlist), 400);
    let rule = scene.installed()[0];
    // The flood itself has hit it too; a new life is judged by itself.
    scene.now = Moment(scene.now.0 + 61_000 * MILLI);
    // From now on the regular clients send just this, by whatever mishap.
    for _ in 0..200 {
        for _ in 0..3 {
            let source = regular(&mut scene.numbers);
            let mut packet = Packet::new(source, rule.fingerprint.network.addr());
            for (attribute, value) in rule.fingerprint.attributes() {
                packet = packet.with(attribute, value);
            }
            scene.detector.observe(&packet, WEIGHT);
        }
        scene.now = Moment(scene.now.0 + 100 * MILLI);
        let findings = scene.detector.tick(scene.now, 0);
        if findings.contains(&Finding::Withdraw { rule: rule.id, why: Withdrawal::FalsePositive }) {
            return;
        }
    }
    panic!("the rule stays");
}

#[test]
fn dd_05_the_less_sensitive_the_more_it_takes() {
    let begun = |sensitivity, packets| {
        let mut scene = Scene::new(6, Settings { sensitivity, ..settings() });
        scene.windows(20, Some(Flood::Memcached), packets);
        scene.findings.iter().any(|(_, finding)| matches!(finding, Finding::Begun(attack) if attack.kind == Kind::Udp))
    };
    // Ordinary UDP is about eight packets a window, and up to fourteen in a large one.
    let steps =
        [(Sensitivity::High, 45), (Sensitivity::Medium, 85), (Sensitivity::Low, 240), (Sensitivity::EssentiallyOff, 2_500)];
    for (place, (_, packets)) in steps.iter().enumerate() {
        let which: Vec<bool> = steps.iter().map(|(sensitivity, _)| begun(*sensitivity, *packets)).collect();
        let expected: Vec<bool> = (0..steps.len()).map(|step| step <= place).collect();
        assert_eq!(which, expected, "{packets} packets a window");
    }
}

#[test]
fn monitoring_proposes_and_drops_nothing() {
    let mut scene = Scene::new(7, Settings { monitor: true, ..settings() });
    scene.windows(50, Some(Flood::Memcached), 400);
    assert!(scene.installed().iter().all(|rule| !rule.is_enforced) && !scene.installed().is_empty());
    assert_eq!((scene.attack.0, scene.legitimate.0), (0, 0));
}

#[test]
fn an_attack_is_told_with_its_rate_its_target_and_its_sources() {
    let mut scene = Scene::new(8, settings());
    scene.windows(40, Some(Flood::NtpMonlist), 400);
    scene.windows(600, None, 0);
    let ended = scene.findings.iter().find_map(|(_, finding)| match finding {
        Finding::Ended(attack) if attack.kind == Kind::Udp => Some(attack),
        _ => None,
    });
    let attack = ended.unwrap();
    // 400 packets of 128 in 100 ms.
    assert!((500_000.0..560_000.0).contains(&attack.peak), "{attack:?}");
    assert!(attack.peak_bits > 500_000.0 * 468.0 * 8.0 && attack.target.prefix_len() == 32 && !attack.sources.is_empty());
}

#[test]
fn dd_07_a_flood_in_the_name_of_known_clients_does_not_get_rid_of_its_rule() {
    let mut scene = Scene::new(9, settings());
    for _ in 0..100 {
        for _ in 0..400 {
            let mut packet = flood(&mut scene.numbers, Flood::NtpMonlist, 3);
            packet.source = regular(&mut scene.numbers);
            scene.pass(&packet, true);
        }
        scene.now = Moment(scene.now.0 + 100 * MILLI);
        let findings = scene.detector.tick(scene.now, 0);
        scene.findings.extend(findings.into_iter().map(|finding| (scene.now, finding)));
    }
    assert!(!scene.installed().is_empty());
    assert!(!scene.findings.iter().any(|(_, finding)| matches!(finding, Finding::Withdraw { .. })), "{:?}", scene.findings);
    assert!(scene.attack.0 > 30 * scene.attack.1, "{:?}", scene.attack);
}

#[test]
fn a_flood_that_begins_little_by_little_does_not_become_ordinary() {
    for kind in WITH_RULE {
        let mut scene = Scene::new(10, settings());
        // Below every threshold, for a second.
        scene.windows(10, Some(kind), 4);
        scene.windows(30, Some(kind), 400);
        assert!(!scene.installed().is_empty(), "{kind:?}: {:?}", scene.findings);
    }
}

#[test]
fn a_flood_that_gets_a_mark_late_gets_its_rule_late() {
    let mut scene = Scene::new(11, settings());
    scene.windows(40, Some(Flood::AckRandom), 400);
    assert_eq!(scene.installed(), []);
    // The same kind of traffic, with one window size from here on.
    for _ in 0..60 {
        for _ in 0..400 {
            let packet = flood(&mut scene.numbers, Flood::AckRandom, 3).with(super::packet::Attribute::TcpWindow, 1_337);
            scene.pass(&packet, true);
        }
        scene.now = Moment(scene.now.0 + 100 * MILLI);
        let findings = scene.detector.tick(scene.now, 0);
        scene.findings.extend(findings.into_iter().map(|finding| (scene.now, finding)));
    }
    assert!(!scene.installed().is_empty(), "{:?}", scene.findings);
}
