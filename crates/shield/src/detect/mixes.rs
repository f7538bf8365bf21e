//! Traffic for tests, of our own making: what a protected /24 usually gets, and floods. It shows that the mechanism does what
//! it says; how often real attacks are met so is for real traffic to show.

use std::net::{IpAddr, Ipv4Addr};

use super::packet::{Attribute, Packet};
use crate::testing::Numbers;

pub(super) const NETWORK: &str = "203.0.113.0/24";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flood {
    Memcached,
    DnsAmplification,
    NtpMonlist,
    Cldap,
    SsdpCarpet,
    Fragments,
    SynFixedLength,
    MiraiSyn,
    UdpFixedLength,
    UdpFixedPayload,
    /// Everything drawn as ordinary clients would: no rule is right.
    FlashCrowd,
    /// Out-of-state ACKs with ordinary values.
    AckRandom,
}

pub(super) const WITH_RULE: [Flood; 10] = [
    Flood::Memcached,
    Flood::DnsAmplification,
    Flood::NtpMonlist,
    Flood::Cldap,
    Flood::SsdpCarpet,
    Flood::Fragments,
    Flood::SynFixedLength,
    Flood::MiraiSyn,
    Flood::UdpFixedLength,
    Flood::UdpFixedPayload,
];

fn host(last: u64) -> IpAddr {
    Ipv4Addr::new(203, 0, 113, last as u8).into()
}

fn anyone(numbers: &mut Numbers) -> IpAddr {
    Ipv4Addr::from((numbers.next() as u32 & 0x7fff_ffff) | 0x0100_0000).into()
}

fn one_of(numbers: &mut Numbers, values: &[u32]) -> u32 {
    values[numbers.below(values.len() as u64) as usize]
}

fn packet(source: IpAddr, destination: IpAddr, protocol: u32, length: u64, ttl: u64) -> Packet {
    Packet::new(source, destination)
        .with(Attribute::Protocol, protocol)
        .with(Attribute::Length, length as u32)
        .with(Attribute::Ttl, ttl as u32)
        .with(Attribute::Fragment, 0)
}

fn ports(packet: Packet, source: u64, destination: u64) -> Packet {
    packet.with(Attribute::SourcePort, source as u32).with(Attribute::DestinationPort, destination as u32)
}

/// A client's TTL after some hops.
fn ttl(numbers: &mut Numbers) -> u64 {
    u64::from(one_of(numbers, &[64, 128, 64, 128, 255])) - 4 - numbers.below(18)
}

fn tcp(numbers: &mut Numbers, source: IpAddr, flags: u32, length: u64) -> Packet {
    let window = match flags {
        2 => one_of(numbers, &[64_240, 65_535, 29_200, 8_192, 42_340, 65_340]),
        _ => numbers.below(65_536) as u32,
    };
    let (port, destination) = (32_768 + numbers.below(28_000), u64::from(one_of(numbers, &[443, 443, 443, 80, 25])));
    let to = host(1 + numbers.below(6));
    let ttl = ttl(numbers);
    let packet = ports(packet(source, to, 6, length, ttl), port, destination);
    let packet = packet.with(Attribute::TcpFlags, flags).with(Attribute::TcpWindow, window);
    match length > 60 {
        true => packet.with(Attribute::Payload, 0x1703_0300 | numbers.below(64) as u32),
        false => packet,
    }
}

/// One packet of a usual day: web, mail, QUIC, DNS both ways, NTP, pings, now and then a fragment.
pub(super) fn ordinary(numbers: &mut Numbers, source: IpAddr) -> Packet {
    let to = host(1 + numbers.below(6));
    let ttl = ttl(numbers);
    match numbers.below(1_000) {
        0..480 => {
            let length = [52, 52, 52, 64, 517 + numbers.below(200), 60 + numbers.below(1_440), 1_500][numbers.below(7) as usize];
            let flags = one_of(numbers, &[0x10, 0x10, 0x18, 0x11]);
            tcp(numbers, source, flags, length)
        }
        480..540 => {
            let length = u64::from(one_of(numbers, &[52, 60, 60, 64, 48]));
            tcp(numbers, source, 0x02, length)
        }
        540..560 => tcp(numbers, source, 0x04, 40),
        560..800 => {
            let length = [1_228 + numbers.below(30), 60 + numbers.below(1_200), 1_280][numbers.below(3) as usize];
            let payload = 0x4000_0000 | numbers.next() as u32 & 0x3fff_ffff;
            ports(packet(source, to, 17, length, ttl), 1_024 + numbers.below(64_000), 443).with(Attribute::Payload, payload)
        }
        800..860 => {
            let length = 60 + numbers.below(60);
            let payload = (numbers.next() as u32) << 16 | 0x0100;
            ports(packet(source, to, 17, length, ttl), 1_024 + numbers.below(64_000), 53).with(Attribute::Payload, payload)
        }
        860..950 => {
            // Answers to our own questions.
            let length = 80 + numbers.below(420);
            let payload = (numbers.next() as u32) << 16 | 0x8180;
            ports(packet(source, to, 17, length, ttl), 53, 1_024 + numbers.below(64_000)).with(Attribute::Payload, payload)
        }
        950..970 => ports(packet(source, to, 17, 76, ttl), 123, 123).with(Attribute::Payload, 0x2402_06e8),
        970..995 => packet(source, to, 1, 84, ttl).with(Attribute::Payload, 0x0800_0000 | numbers.below(65_536) as u32),
        _ => {
            let fragment = one_of(numbers, &[1, 2]);
            packet(source, to, 17, 600 + numbers.below(900), ttl).with(Attribute::Fragment, fragment)
        }
    }
}

/// The clients of ordinary days: 3,000 of them.
pub(super) fn regular(numbers: &mut Numbers) -> IpAddr {
    let client = numbers.below(3_000) as u32;
    Ipv4Addr::from(0x5000_0000 + client * 517).into()
}

/// One packet of a flood. Reflectors and bots are many; where sources are forged, they are anyone.
pub(super) fn flood(numbers: &mut Numbers, kind: Flood, target: u64) -> Packet {
    let to = host(target);
    let bot = Ipv4Addr::from(0x2000_0000 + numbers.below(9_000) as u32 * 7_919).into();
    let hops = 40 + numbers.below(80);
    let high = 1_024 + numbers.below(64_000);
    match kind {
        Flood::Memcached => {
            let length = 1_400 + numbers.below(28);
            ports(packet(bot, to, 17, length, hops), 11_211, high).with(Attribute::Payload, numbers.next() as u32 & 0xffff)
        }
        Flood::DnsAmplification => {
            let payload = (numbers.next() as u32) << 16 | 0x8380;
            let length = 1_200 + numbers.below(280);
            ports(packet(bot, to, 17, length, hops), 53, 80).with(Attribute::Payload, payload)
        }
        Flood::NtpMonlist => ports(packet(bot, to, 17, 468, hops), 123, 80).with(Attribute::Payload, 0xd700_032a),
        Flood::Cldap => {
            let length = 2_900 + numbers.below(200);
            ports(packet(bot, to, 17, length, hops), 389, high)
                .with(Attribute::Payload, 0x3084_0000 | numbers.below(4_096) as u32)
        }
        Flood::SsdpCarpet => {
            let length = 290 + numbers.below(60);
            ports(packet(bot, host(numbers.below(256)), 17, length, hops), 1_900, high).with(Attribute::Payload, 0x4854_5450)
        }
        Flood::Fragments => packet(bot, to, 17, 1_500, hops).with(Attribute::Fragment, one_of(numbers, &[2, 2, 2, 1])),
        Flood::SynFixedLength => {
            let packet = ports(packet(anyone(numbers), to, 6, 40, hops), high, 443);
            packet.with(Attribute::TcpFlags, 2).with(Attribute::TcpWindow, numbers.below(65_536) as u32)
        }
        Flood::MiraiSyn => {
            let packet = ports(packet(bot, to, 6, 60, hops), high, 443);
            packet.with(Attribute::TcpFlags, 2).with(Attribute::TcpWindow, 5_808)
        }
        Flood::UdpFixedLength => {
            let to_port = 1_024 + numbers.below(64_000);
            ports(packet(anyone(numbers), to, 17, 540, hops), high, to_port).with(Attribute::Payload, numbers.next() as u32)
        }
        Flood::UdpFixedPayload => {
            let length = 100 + numbers.below(1_200);
            ports(packet(anyone(numbers), to, 17, length, hops), high, 443).with(Attribute::Payload, 0xffff_ffff)
        }
        Flood::FlashCrowd => {
            let source = anyone(numbers);
            ordinary(numbers, source)
        }
        Flood::AckRandom => {
            let (source, length) = (anyone(numbers), 52 + numbers.below(1_448));
            tcp(numbers, source, 0x10, length)
        }
    }
}
