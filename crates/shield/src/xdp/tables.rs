//! What the packet path is told: the tables as they are to be, in Rust's terms, and as the program in `bpf/` reads them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::Prefixes;
use crate::admission::Source;
use crate::detect::fingerprint::Fingerprint;
use crate::detect::packet::Attribute;

/// Numbers of a rule as the program reads it: used, values, care, address, mask, enforced.
pub const RULE_WORDS: usize = 1 + 2 * Attribute::ALL.len() + 4 + 4 + 1;
/// Settings, in the program's order: flags, sample mask, interval, depth, rules, seed.
pub const SETTINGS: usize = 6;
/// Words of the table of denied /24s.
pub const DENIED_24_WORDS: usize = 1 << 18;
/// Sources that are denied one by one.
pub const DENIED_MAX: usize = 1 << 20;
pub const ALLOWED_MAX: usize = 16_384;
pub const PROTECTED_MAX: usize = 64;

const ENFORCE: u64 = 1;
const DROP_FRAGMENTS: u64 = 2;
const DROP_BOGUS: u64 = 4;
const SYN_COOKIES: u64 = 8;

/// A rule in force.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PacketRule {
    pub fingerprint: Fingerprint,
    /// Whether it drops; otherwise its hits are counted.
    pub is_enforced: bool,
}

/// Everything that decides about a packet.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// Whether anything is dropped at all.
    pub is_enforced: bool,
    pub drop_fragments: bool,
    pub drop_bogus: bool,
    /// Whether a SYN for a listener of this machine is answered with a cookie.
    pub syn_cookies: bool,
    /// One packet of this many is sampled; a power of two. None samples nothing.
    pub sample_every: Option<u32>,
    /// Packets of one source a second, and at once.
    pub source_rate: Option<(u32, u32)>,
    pub seed: u64,
    pub allowed: Prefixes<()>,
    pub protected: Prefixes<()>,
    /// IPv4 /24s, by their first 24 bits.
    pub denied_24: BTreeSet<u32>,
    pub denied: BTreeSet<Source>,
    /// UDP source ports whose packets are dropped.
    pub vectors: BTreeSet<u16>,
    pub rules: Vec<PacketRule>,
}

impl Tables {
    pub fn settings(&self) -> [u64; SETTINGS] {
        let flag = |is_set: bool, bit| if is_set { bit } else { 0 };
        let flags = flag(self.is_enforced, ENFORCE)
            | flag(self.drop_fragments, DROP_FRAGMENTS)
            | flag(self.drop_bogus, DROP_BOGUS)
            | flag(self.syn_cookies, SYN_COOKIES);
        // All bits set is never.
        let mask = self.sample_every.map_or(u64::MAX, |every| u64::from(every.max(1).next_power_of_two()) - 1);
        let (interval, depth) = match self.source_rate {
            Some((rate, burst)) => {
                let interval = Duration::from_secs(1).as_nanos() as u64 / u64::from(rate.max(1));
                (interval.max(1), interval.max(1) * u64::from(burst.max(1)))
            }
            None => (0, 0),
        };
        [flags, mask, interval, depth, self.rules.len() as u64, self.seed]
    }

    pub fn is_denied(&self, source: IpAddr) -> bool {
        let source = Source::from(source);
        let in_network = matches!(source, Source::V4(bits) if self.denied_24.contains(&(bits >> 8)));
        in_network || self.denied.contains(&source)
    }
}

/// An address as the program holds it: four words in network order, IPv4 mapped into IPv6.
pub fn words(address: IpAddr) -> [u32; 4] {
    let octets = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    [0, 4, 8, 12].map(|at| u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]))
}

/// The length of a network among mapped addresses.
pub fn mapped_length(network: IpNet) -> u32 {
    match network {
        IpNet::V4(network) => 96 + u32::from(network.prefix_len()),
        IpNet::V6(network) => u32::from(network.prefix_len()),
    }
}

/// A source as the program looks it up among the denied: the first eight bytes that it reads, or those of the mapped address
/// that differ.
pub fn denied_key(source: Source) -> u64 {
    match source {
        Source::V4(bits) => u64::from(u32::from_ne_bytes([0, 0, 0xff, 0xff])) << 32 | u64::from(bits.to_be()),
        Source::V6(bits) => {
            let bytes = bits.to_be_bytes();
            let word = |at: usize| u64::from(u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
            word(4) << 32 | word(0)
        }
    }
}

/// A rule as the program reads it.
pub fn rule_words(rule: &PacketRule) -> [u32; RULE_WORDS] {
    let mut out = [0; RULE_WORDS];
    let attributes = Attribute::ALL.len();
    for (attribute, value) in rule.fingerprint.attributes() {
        let place = attribute as usize;
        out[0] |= 1 << place;
        out[1 + place] = value;
        out[1 + attributes + place] = u32::MAX;
    }
    let length = mapped_length(rule.fingerprint.network);
    let mask = if length == 0 { 0 } else { u128::MAX << (128 - length) };
    let mask = words(IpAddr::from(std::net::Ipv6Addr::from(mask)));
    let at = 1 + 2 * attributes;
    out[at..at + 4].copy_from_slice(&words(rule.fingerprint.network.network()));
    out[at + 4..at + 8].copy_from_slice(&mask);
    out[at + 8] = rule.is_enforced.into();
    out
}
