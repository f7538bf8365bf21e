//! The packet path's decisions in Rust, in the same order as in `bpf/shield.bpf.c`. Only the rates of sources
//! and SYN cookies are not here: they depend on when the kernel sees a packet, and on its sockets.

use super::tables::Tables;
use crate::detect::packet::{Attribute, Packet};

/// What became of a packet. The numbers are those of the program's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reason {
    /// Neither IPv4 nor IPv6, or no whole header.
    NotIp,
    Allowed,
    /// For an address that is not protected.
    Unprotected,
    Passed,
    Denied,
    /// From its own destination, or to port zero.
    Malformed,
    Fragment,
    BogusFlags,
    /// From the port of a known amplifier.
    Vector,
    Rule,
    SourceRate,
    /// A SYN that was answered with a cookie, in place of the kernel.
    Cookie,
}

impl Reason {
    pub const ALL: [Reason; 12] = [
        Reason::NotIp,
        Reason::Allowed,
        Reason::Unprotected,
        Reason::Passed,
        Reason::Denied,
        Reason::Malformed,
        Reason::Fragment,
        Reason::BogusFlags,
        Reason::Vector,
        Reason::Rule,
        Reason::SourceRate,
        Reason::Cookie,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::NotIp => "not_ip",
            Reason::Allowed => "allowed",
            Reason::Unprotected => "unprotected",
            Reason::Passed => "passed",
            Reason::Denied => "denied",
            Reason::Malformed => "malformed",
            Reason::Fragment => "fragment",
            Reason::BogusFlags => "bogus_flags",
            Reason::Vector => "vector",
            Reason::Rule => "rule",
            Reason::SourceRate => "source_rate",
            Reason::Cookie => "cookie",
        }
    }

    /// Whether such a packet is dropped where the tables are enforced.
    pub const fn is_dropped(self) -> bool {
        self as u8 > Reason::Passed as u8 && self as u8 != Reason::Cookie as u8
    }
}

/// What becomes of a frame.
pub fn judge(frame: &[u8], tables: &Tables) -> Reason {
    let Some(packet) = Packet::of_frame(frame) else { return Reason::NotIp };
    if tables.allowed.contains(packet.source) {
        return Reason::Allowed;
    }
    if !tables.protected.contains(packet.destination) {
        return Reason::Unprotected;
    }
    if tables.is_denied(packet.source) {
        return Reason::Denied;
    }
    if tables.drop_bogus && is_malformed(&packet) {
        return Reason::Malformed;
    }
    if tables.drop_fragments && packet.get(Attribute::Fragment).is_some_and(|fragment| fragment != 0) {
        return Reason::Fragment;
    }
    if tables.drop_bogus && packet.get(Attribute::TcpFlags).is_some_and(are_bogus) {
        return Reason::BogusFlags;
    }
    let from = packet.get(Attribute::SourcePort).and_then(|port| u16::try_from(port).ok());
    if packet.get(Attribute::Protocol) == Some(17) && from.is_some_and(|port| tables.vectors.contains(&port)) {
        return Reason::Vector;
    }
    let is_ruled_out = tables.rules.iter().any(|rule| rule.is_enforced && rule.fingerprint.matches(&packet));
    if is_ruled_out { Reason::Rule } else { Reason::Passed }
}

fn is_malformed(packet: &Packet) -> bool {
    packet.source == packet.destination || packet.get(Attribute::DestinationPort) == Some(0)
}

/// RFC 9293 section 3.5: none, SYN with FIN or RST, FIN without ACK.
fn are_bogus(flags: u32) -> bool {
    let has = |bit: u32| flags & bit != 0;
    let (fin, syn, rst, ack) = (has(1), has(2), has(4), has(16));
    flags & 0x3f == 0 || (syn && (fin || rst)) || (fin && !ack)
}
