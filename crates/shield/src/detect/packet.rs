//! The header values of one packet that a rule may name, read from its first bytes (RFC 791, 8200, 9293, 768). The program
//! in `bpf/` reads the same values in the same way; a test holds one against the other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const ETHERNET_BYTES: usize = 14;
const ETHERTYPE_V4: u16 = 0x0800;
const ETHERTYPE_V6: u16 = 0x86dd;
const ETHERTYPE_TAG: u16 = 0x8100;
const ETHERTYPE_SERVICE_TAG: u16 = 0x88a8;
const TAGS_MAX: usize = 2;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const FRAGMENT_HEADER: u8 = 44;
const ICMP_V6: u8 = 58;

/// What a rule may name. The source address is not among them: whoever sends a flood chooses it (DD-07).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Attribute {
    /// The protocol above IP.
    Protocol,
    SourcePort,
    DestinationPort,
    /// Bytes of the whole IP packet, as its header says.
    Length,
    /// Time to live, or hop limit.
    Ttl,
    TcpFlags,
    TcpWindow,
    /// The first four bytes behind the TCP, UDP or ICMP header; of ICMP its own first four.
    Payload,
    /// 0 whole, 1 the first fragment, 2 a later one.
    Fragment,
}

/// One packet. Values that it does not have are zero and not present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// One bit an attribute.
    present: u16,
    values: [u32; Attribute::ALL.len()],
}

/// Kinds of traffic that have rates of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Udp,
    /// SYN without ACK.
    TcpSyn,
    /// Every other TCP packet.
    Tcp,
    Icmp,
    Fragment,
    Other,
}

impl Attribute {
    pub const ALL: [Attribute; 9] = [
        Attribute::Protocol,
        Attribute::SourcePort,
        Attribute::DestinationPort,
        Attribute::Length,
        Attribute::Ttl,
        Attribute::TcpFlags,
        Attribute::TcpWindow,
        Attribute::Payload,
        Attribute::Fragment,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Attribute::Protocol => "protocol",
            Attribute::SourcePort => "source_port",
            Attribute::DestinationPort => "destination_port",
            Attribute::Length => "length",
            Attribute::Ttl => "ttl",
            Attribute::TcpFlags => "tcp_flags",
            Attribute::TcpWindow => "tcp_window",
            Attribute::Payload => "payload",
            Attribute::Fragment => "fragment",
        }
    }

    pub(crate) const fn bit(self) -> u16 {
        1 << self as u16
    }
}

impl Kind {
    pub const ALL: [Kind; 6] = [Kind::Udp, Kind::TcpSyn, Kind::Tcp, Kind::Icmp, Kind::Fragment, Kind::Other];

    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Udp => "udp",
            Kind::TcpSyn => "tcp_syn",
            Kind::Tcp => "tcp",
            Kind::Icmp => "icmp",
            Kind::Fragment => "fragment",
            Kind::Other => "other",
        }
    }
}

impl Packet {
    pub fn new(source: IpAddr, destination: IpAddr) -> Packet {
        Packet { source, destination, present: 0, values: [0; Attribute::ALL.len()] }
    }

    #[must_use]
    pub fn with(mut self, attribute: Attribute, value: u32) -> Packet {
        self.present |= attribute.bit();
        self.values[attribute as usize] = value;
        self
    }

    pub fn get(&self, attribute: Attribute) -> Option<u32> {
        (self.present & attribute.bit() != 0).then_some(self.values[attribute as usize])
    }

    pub fn length(&self) -> u64 {
        u64::from(self.values[Attribute::Length as usize])
    }

    pub fn kind(&self) -> Kind {
        if self.get(Attribute::Fragment).is_some_and(|fragment| fragment != 0) {
            return Kind::Fragment;
        }
        // SYN is bit 1 and ACK bit 4 of the flags (RFC 9293 section 3.1).
        match (self.get(Attribute::Protocol), self.get(Attribute::TcpFlags)) {
            (Some(6), Some(flags)) if flags & 0x12 == 0x02 => Kind::TcpSyn,
            (Some(6), _) => Kind::Tcp,
            (Some(17), _) => Kind::Udp,
            (Some(1 | 58), _) => Kind::Icmp,
            _ => Kind::Other,
        }
    }

    /// Reads an Ethernet frame, of which the end may be missing. None where it holds no whole IP header.
    pub fn of_frame(frame: &[u8]) -> Option<Packet> {
        let ethertype = u16::from_be_bytes(bytes(frame, ETHERNET_BYTES - 2)?);
        let packet = frame.get(ETHERNET_BYTES..)?;
        match ethertype {
            ETHERTYPE_V4 => Packet::of_v4(packet),
            ETHERTYPE_V6 => Packet::of_v6(packet),
            _ => None,
        }
    }

    /// The same with up to two VLAN tags before the IP header (IEEE 802.1Q), as switches sample frames.
    pub fn of_tagged_frame(frame: &[u8]) -> Option<Packet> {
        let mut rest = frame.get(ETHERNET_BYTES - 2..)?;
        for _ in 0..=TAGS_MAX {
            match u16::from_be_bytes(bytes(rest, 0)?) {
                ETHERTYPE_V4 => return Packet::of_v4(&rest[2..]),
                ETHERTYPE_V6 => return Packet::of_v6(&rest[2..]),
                ETHERTYPE_TAG | ETHERTYPE_SERVICE_TAG => rest = rest.get(4..)?,
                _ => return None,
            }
        }
        None
    }

    fn of_v4(header: &[u8]) -> Option<Packet> {
        let first = *header.get(..20)?.first()?;
        let header_bytes = usize::from(first & 0x0f) * 4;
        if first >> 4 != 4 || header_bytes < 20 {
            return None;
        }
        let address = |at| bytes::<4>(header, at).map(|address| IpAddr::from(Ipv4Addr::from(address)));
        let fragment = u16::from_be_bytes(bytes(header, 6)?);
        let (offset, has_more) = (fragment & 0x1fff, fragment & 0x2000 != 0);
        let protocol = header[9];
        let packet = Packet::new(address(12)?, address(16)?)
            .with(Attribute::Protocol, protocol.into())
            .with(Attribute::Length, u16::from_be_bytes(bytes(header, 2)?).into())
            .with(Attribute::Ttl, header[8].into())
            .with(Attribute::Fragment, fragment_of(offset, has_more));
        match offset {
            0 => Some(packet.behind(protocol, header.get(header_bytes..).unwrap_or_default())),
            _ => Some(packet),
        }
    }

    fn of_v6(header: &[u8]) -> Option<Packet> {
        if header.get(..40)?.first()? >> 4 != 6 {
            return None;
        }
        let address = |at| bytes::<16>(header, at).map(|address| IpAddr::from(Ipv6Addr::from(address)));
        let length = 40 + u32::from(u16::from_be_bytes(bytes(header, 4)?));
        let packet =
            Packet::new(address(8)?, address(24)?).with(Attribute::Length, length).with(Attribute::Ttl, header[7].into());
        let rest = header.get(40..).unwrap_or_default();
        if header[6] != FRAGMENT_HEADER {
            let packet = packet.with(Attribute::Protocol, header[6].into()).with(Attribute::Fragment, 0);
            return Some(packet.behind(header[6], rest));
        }
        let Some(fragment) = rest.get(..8) else {
            return Some(packet.with(Attribute::Protocol, FRAGMENT_HEADER.into()).with(Attribute::Fragment, 0));
        };
        let offset = u16::from_be_bytes(bytes(fragment, 2)?);
        let packet = packet
            .with(Attribute::Protocol, fragment[0].into())
            .with(Attribute::Fragment, fragment_of(offset >> 3, offset & 1 != 0));
        match offset >> 3 {
            0 => Some(packet.behind(fragment[0], rest.get(8..).unwrap_or_default())),
            _ => Some(packet),
        }
    }

    /// What stands behind the IP header.
    fn behind(self, protocol: u8, bytes_behind: &[u8]) -> Packet {
        let ports = |packet: Packet| {
            let source = bytes(bytes_behind, 0).map(u16::from_be_bytes);
            let destination = bytes(bytes_behind, 2).map(u16::from_be_bytes);
            let packet = packet.with(Attribute::SourcePort, source.unwrap_or_default().into());
            packet.with(Attribute::DestinationPort, destination.unwrap_or_default().into())
        };
        match protocol {
            TCP if bytes_behind.len() >= 20 => {
                let window = u16::from_be_bytes([bytes_behind[14], bytes_behind[15]]);
                let packet = ports(self).with(Attribute::TcpFlags, bytes_behind[13].into());
                let header_bytes = usize::from(bytes_behind[12] >> 4) * 4;
                packet.with(Attribute::TcpWindow, window.into()).payload(bytes_behind, header_bytes.max(20))
            }
            UDP if bytes_behind.len() >= 8 => ports(self).payload(bytes_behind, 8),
            ICMP | ICMP_V6 => self.payload(bytes_behind, 0),
            _ => self,
        }
    }

    fn payload(self, behind: &[u8], at: usize) -> Packet {
        match bytes(behind, at) {
            Some(payload) => self.with(Attribute::Payload, u32::from_be_bytes(payload)),
            None => self,
        }
    }
}

fn fragment_of(offset: u16, has_more: bool) -> u32 {
    match (offset, has_more) {
        (0, false) => 0,
        (0, true) => 1,
        _ => 2,
    }
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> Option<[u8; N]> {
    from.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Numbers;

    /// A UDP packet over IPv4 with options before its header.
    fn datagram() -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x46, 0, 0, 40, 0, 0, 0, 0, 61, 17, 0, 0, 192, 0, 2, 1, 203, 0, 113, 9, 1, 1, 1, 1]);
        frame.extend([0x2b, 0xcb, 0, 53, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        frame
    }

    #[test]
    fn a_datagram_behind_options_is_read_where_it_is() {
        let packet = Packet::of_frame(&datagram()).unwrap();
        let read = Attribute::ALL.map(|attribute| packet.get(attribute));
        let payload = 0x0102_0304;
        assert_eq!(read, [Some(17), Some(11_211), Some(53), Some(40), Some(61), None, None, Some(payload), Some(0)]);
        assert_eq!((packet.source.to_string().as_str(), packet.kind()), ("192.0.2.1", Kind::Udp));
    }

    #[test]
    fn a_later_fragment_has_no_ports() {
        let mut frame = datagram();
        frame[ETHERNET_BYTES + 7] = 1;
        let packet = Packet::of_frame(&frame).unwrap();
        assert_eq!((packet.get(Attribute::SourcePort), packet.get(Attribute::Fragment)), (None, Some(2)));
        assert_eq!(packet.kind(), Kind::Fragment);
    }

    #[test]
    fn any_bytes_are_read_or_not_and_never_panic() {
        for seed in 0..4_000 {
            let mut numbers = Numbers::new(seed);
            let mut frame: Vec<u8> = (0..numbers.below(100)).map(|_| numbers.next() as u8).collect();
            if frame.len() > 15 && seed % 4 != 0 {
                (frame[12], frame[13], frame[14]) = if seed % 2 == 0 { (8, 0, 0x45) } else { (0x86, 0xdd, 0x60) };
            }
            let whole = Packet::of_frame(&frame);
            for cut in 0..frame.len() {
                // A part tells nothing that the whole does not.
                if let (Some(part), Some(whole)) = (Packet::of_frame(&frame[..cut]), whole) {
                    let is_within = Attribute::ALL.iter().all(|a| {
                        part.get(*a).is_none_or(|value| {
                            // A fragment header that is cut off is all that is known of the protocol.
                            whole.get(*a) == Some(value) || part.get(Attribute::Protocol) == Some(FRAGMENT_HEADER.into())
                        })
                    });
                    assert!(is_within, "seed {seed}: {part:?} {whole:?}");
                }
            }
        }
    }
}
