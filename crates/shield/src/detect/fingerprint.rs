//! A set of header values that packets of an attack share, for one destination network.

use std::fmt;

use ipnet::IpNet;

use super::packet::{Attribute, Packet};

/// Attributes that a rule has at least (DD-07).
pub const ATTRIBUTES_MIN: usize = 2;

/// Matches a packet that is for the network and has every value.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    pub network: IpNet,
    /// One bit an attribute, as in a packet.
    used: u16,
    values: [u32; Attribute::ALL.len()],
}

impl Fingerprint {
    /// Matches whatever is for the network.
    pub fn of(network: IpNet) -> Fingerprint {
        Fingerprint { network: network.trunc(), used: 0, values: [0; Attribute::ALL.len()] }
    }

    #[must_use]
    pub fn with(mut self, attribute: Attribute, value: u32) -> Fingerprint {
        self.used |= attribute.bit();
        self.values[attribute as usize] = value;
        self
    }

    #[must_use]
    pub fn without(mut self, attribute: Attribute) -> Fingerprint {
        self.used &= !attribute.bit();
        self.values[attribute as usize] = 0;
        self
    }

    pub fn get(&self, attribute: Attribute) -> Option<u32> {
        (self.used & attribute.bit() != 0).then_some(self.values[attribute as usize])
    }

    pub fn attributes(&self) -> impl Iterator<Item = (Attribute, u32)> {
        Attribute::ALL.into_iter().filter_map(|attribute| Some((attribute, self.get(attribute)?)))
    }

    pub fn matches(&self, packet: &Packet) -> bool {
        self.network.contains(&packet.destination) && self.matches_values(packet)
    }

    /// The values alone, wherever the packet goes. One that a packet does not have matches nothing.
    pub fn matches_values(&self, packet: &Packet) -> bool {
        self.attributes().all(|(attribute, value)| packet.get(attribute) == Some(value))
    }

    /// Whether it names enough to be a rule: two attributes, and one that says more than which service is meant. A rule by
    /// protocol and port alone would drop a service for everyone.
    pub fn is_specific(&self) -> bool {
        // Nearly every packet is whole: that one is says nothing.
        let telling = || self.attributes().filter(|(attribute, value)| *attribute != Attribute::Fragment || *value != 0);
        let names_more = telling().any(|(attribute, _)| !matches!(attribute, Attribute::Protocol | Attribute::DestinationPort));
        names_more && telling().count() >= ATTRIBUTES_MIN
    }
}

/// As operators read it: `203.0.113.0/24 protocol=17 source_port=11211`.
impl fmt::Display for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.network)?;
        self.attributes().try_for_each(|(attribute, value)| match attribute {
            Attribute::Payload | Attribute::TcpFlags => write!(out, " {}={value:#x}", attribute.as_str()),
            _ => write!(out, " {}={value}", attribute.as_str()),
        })
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}
