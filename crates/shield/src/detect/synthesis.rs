//! From samples of an attack and of ordinary traffic to the smallest set of header values that tells them apart.
//!
//! Greedy: of all values that are common in the attack, the one whose addition sheds the most ordinary traffic for the least
//! attack is taken, until next to none of the ordinary traffic is left; then whatever can be left out again is left out. The
//! outcome is replayed against both samples before anybody is given it.

use std::collections::HashMap;

use ipnet::IpNet;

use super::fingerprint::{ATTRIBUTES_MIN, Fingerprint};
use super::packet::{Attribute, Packet};

/// Samples of the attack below which nothing is concluded.
pub const ATTACK_SAMPLES_MIN: usize = 100;
/// Ordinary traffic that a rule may hit, of the samples: below this the search ends.
const ORDINARY_SHARE_DONE: f64 = 0.002;
/// And at most this, or there is no rule.
const ORDINARY_SHARE_MAX: f64 = 0.005;
/// A rule covers at least this part of what is over the usual rate.
const COVERAGE_MIN: f64 = 0.6;
/// A value that fewer of the attack's packets have than this is not looked at.
const COMMON_MIN: f64 = 0.3;
/// Values of one attribute that are looked at, the most common first.
const VALUES_MAX: usize = 3;

/// A rule, and how it did against the samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Synthesis {
    pub fingerprint: Fingerprint,
    /// Part of the attack's samples that it matches.
    pub coverage: f64,
    /// Part of the ordinary samples that it matches.
    pub ordinary: f64,
}

/// The smallest specific rule for a network. `window` holds all packets of the time of the attack, ordinary ones among them;
/// `excess` is the part of them that is over the usual rate. None where no values tell the two apart.
pub fn synthesise(network: IpNet, window: &[Packet], ordinary: &[Packet], excess: f64) -> Option<Synthesis> {
    if window.len() < ATTACK_SAMPLES_MIN || ordinary.len() < ATTACK_SAMPLES_MIN {
        return None;
    }
    let mut found = Fingerprint::of(network);
    let (mut attack, mut harmed): (Vec<&Packet>, Vec<&Packet>) = (window.iter().collect(), ordinary.iter().collect());
    while !(is_done(&found, harmed.len(), ordinary.len())) {
        let (attribute, value) = best(&found, &attack, &harmed, window.len(), ordinary.len())?;
        found = found.with(attribute, value);
        attack.retain(|packet| packet.get(attribute) == Some(value));
        harmed.retain(|packet| packet.get(attribute) == Some(value));
    }
    let found = pruned(found, ordinary);
    replayed(found, window, ordinary).filter(|synthesis| synthesis.coverage >= COVERAGE_MIN * excess.clamp(0.0, 1.0))
}

fn is_done(found: &Fingerprint, harmed: usize, ordinary: usize) -> bool {
    found.is_specific() && harmed as f64 <= ORDINARY_SHARE_DONE * ordinary as f64
}

/// The value whose addition is worth most: ordinary traffic shed minus attack lost, each as a part of what is left of it.
fn best(found: &Fingerprint, attack: &[&Packet], harmed: &[&Packet], window: usize, ordinary: usize) -> Option<(Attribute, u32)> {
    let free = Attribute::ALL.into_iter().filter(|attribute| found.get(*attribute).is_none());
    let mut best: Option<(f64, Attribute, u32)> = None;
    for attribute in free {
        for (value, count) in common(attribute, attack) {
            if (count as f64) < COMMON_MIN * window as f64 {
                continue;
            }
            let lost = 1.0 - count as f64 / attack.len() as f64;
            let kept = harmed.iter().filter(|packet| packet.get(attribute) == Some(value)).count();
            let shed = match harmed.len() {
                // Nothing is left to shed: a value is taken for being specific.
                0 => 0.0,
                left => 1.0 - kept as f64 / left as f64,
            };
            // What is rare in ordinary traffic at large is worth a little where little is left to shed.
            let gain = shed * (harmed.len() as f64 / ordinary as f64).max(0.1) - lost;
            let candidate = (gain, attribute, value);
            // One that sheds nothing is taken for being specific alone, the protocol before others.
            if (shed > 0.0 || !found.is_specific()) && best.is_none_or(|(known, ..)| gain > known) {
                best = Some(candidate);
            }
        }
    }
    best.map(|(_, attribute, value)| (attribute, value))
}

/// The most common values of an attribute.
fn common(attribute: Attribute, packets: &[&Packet]) -> Vec<(u32, usize)> {
    let mut counts = HashMap::<u32, usize>::new();
    for value in packets.iter().filter_map(|packet| packet.get(attribute)) {
        *counts.entry(value).or_default() += 1;
    }
    let mut counts: Vec<(u32, usize)> = counts.into_iter().collect();
    counts.sort_unstable_by_key(|(value, count)| (std::cmp::Reverse(*count), *value));
    counts.truncate(VALUES_MAX);
    counts
}

/// Without the attributes that shed nothing: the smallest set, as long as it stays specific.
fn pruned(mut found: Fingerprint, ordinary: &[Packet]) -> Fingerprint {
    for attribute in Attribute::ALL {
        let less = found.without(attribute);
        // The protocol says what ports and flags mean; without it a rule is read wrongly.
        let is_smaller = attribute != Attribute::Protocol && found.get(attribute).is_some();
        if !is_smaller || !less.is_specific() || less.attributes().count() < ATTRIBUTES_MIN {
            continue;
        }
        let hits = |rule: &Fingerprint| ordinary.iter().filter(|packet| rule.matches_values(packet)).count();
        if hits(&less) <= hits(&found) {
            found = less;
        }
    }
    found
}

/// How a rule does against both samples; none where it hits too much ordinary traffic or nothing at all.
pub fn replayed(fingerprint: Fingerprint, window: &[Packet], ordinary: &[Packet]) -> Option<Synthesis> {
    let share = |packets: &[Packet], hits: usize| hits as f64 / packets.len().max(1) as f64;
    let coverage = share(window, window.iter().filter(|packet| fingerprint.matches(packet)).count());
    let ordinary = share(ordinary, ordinary.iter().filter(|packet| fingerprint.matches_values(packet)).count());
    let is_good = fingerprint.is_specific() && coverage > 0.0 && ordinary <= ORDINARY_SHARE_MAX;
    is_good.then_some(Synthesis { fingerprint, coverage, ordinary })
}
