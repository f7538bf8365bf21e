//! Addresses that are never dialled, whatever a rule allows: this machine, its own listeners (a loop), and addresses that
//! are no host. Private networks (RFC 1918) are a matter of policy and pass here. Names that resolve to such addresses
//! are the usual way to reach a proxy's own services from outside.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use tokio::net::TcpStream;

use crate::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialRefusal {
    OwnListener,
    Loopback,
    LinkLocal,
    Unspecified,
    Multicast,
    Broadcast,
    PortZero,
}

/// What the running program listens on, and which networks the operator exempts from the rules on special addresses.
#[derive(Clone, Debug, Default)]
pub struct DialGuard {
    pub own_listeners: Vec<SocketAddr>,
    /// Dialled although special, for origins on the same machine. Own listeners stay refused.
    pub danger_exempt: Vec<IpNet>,
}

impl DialRefusal {
    pub const fn as_str(self) -> &'static str {
        match self {
            DialRefusal::OwnListener => "own_listener",
            DialRefusal::Loopback => "loopback",
            DialRefusal::LinkLocal => "link_local",
            DialRefusal::Unspecified => "unspecified",
            DialRefusal::Multicast => "multicast",
            DialRefusal::Broadcast => "broadcast",
            DialRefusal::PortZero => "port_zero",
        }
    }
}

impl std::fmt::Display for DialRefusal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl DialGuard {
    pub fn check(&self, address: SocketAddr) -> Result<(), Error> {
        let ip = address.ip().to_canonical();
        let refusal = if address.port() == 0 {
            Some(DialRefusal::PortZero)
        } else if self.is_own_listener(ip, address.port()) {
            Some(DialRefusal::OwnListener)
        } else if self.danger_exempt.iter().any(|network| network.contains(&ip)) {
            None
        } else {
            special(ip)
        };
        refusal.map_or(Ok(()), |refusal| Err(Error::Dial { address, refusal }))
    }

    /// A listener on all addresses is found by the kernel's choice of source: it equals the peer only on this machine.
    pub(super) fn check_connected(&self, stream: &TcpStream) -> Result<(), Error> {
        let ends = stream.local_addr().and_then(|local| stream.peer_addr().map(|peer| (local, peer)));
        let (local, peer) = ends.map_err(|source| Error::Connect { source })?;
        let is_here = local.ip().to_canonical() == peer.ip().to_canonical();
        let listens = |own: &SocketAddr| own.ip().is_unspecified() && own.port() == peer.port();
        if is_here && self.own_listeners.iter().any(listens) {
            return Err(Error::Dial { address: peer, refusal: DialRefusal::OwnListener });
        }
        Ok(())
    }

    fn is_own_listener(&self, ip: IpAddr, port: u16) -> bool {
        let reaches = |own: IpAddr| own == ip || (own.is_unspecified() && (ip.is_loopback() || ip.is_unspecified()));
        self.own_listeners.iter().any(|own| own.port() == port && reaches(own.ip().to_canonical()))
    }
}

fn special(ip: IpAddr) -> Option<DialRefusal> {
    if ip.is_loopback() {
        return Some(DialRefusal::Loopback);
    }
    if ip.is_multicast() {
        return Some(DialRefusal::Multicast);
    }
    match ip {
        // RFC 1122 section 3.2.1.3: the whole of 0.0.0.0/8 is "this host on this network".
        IpAddr::V4(ip) if ip.octets().first() == Some(&0) => Some(DialRefusal::Unspecified),
        IpAddr::V4(ip) if ip.is_broadcast() => Some(DialRefusal::Broadcast),
        IpAddr::V4(ip) if ip.is_link_local() => Some(DialRefusal::LinkLocal),
        IpAddr::V4(_) => None,
        IpAddr::V6(ip) => special_v6(ip),
    }
}

/// Addresses that carry an IPv4 address inside are judged by that one too.
fn special_v6(ip: Ipv6Addr) -> Option<DialRefusal> {
    if ip.is_unspecified() {
        return Some(DialRefusal::Unspecified);
    }
    if ip.is_unicast_link_local() {
        return Some(DialRefusal::LinkLocal);
    }
    embedded_v4(ip).and_then(|inner| special(IpAddr::V4(inner)))
}

/// NAT64 (RFC 6052, well-known prefix), 6to4 (RFC 3056) and the old IPv4-compatible form.
fn embedded_v4(ip: Ipv6Addr) -> Option<std::net::Ipv4Addr> {
    let from = |high: u16, low: u16| std::net::Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match ip.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0, 0, 0, 0, 0, 0, high, low] => Some(from(high, low)),
        [0x2002, high, low, ..] => Some(from(high, low)),
        _ => None,
    }
}

/// IPv6 and IPv4 by turns, each in the resolver's order (RFC 8305 section 4), bounded, without repeats.
pub(super) fn order(addresses: Vec<IpAddr>, port: u16, addresses_max: usize) -> Vec<SocketAddr> {
    let (six, four): (Vec<IpAddr>, Vec<IpAddr>) = addresses.into_iter().partition(IpAddr::is_ipv6);
    let (mut six, mut four) = (six.into_iter(), four.into_iter());
    let mut ordered = Vec::new();
    while ordered.len() < addresses_max {
        let pair = [six.next(), four.next()];
        if pair == [None, None] {
            break;
        }
        for ip in pair.into_iter().flatten() {
            let target = SocketAddr::new(ip, port);
            if !ordered.contains(&target) {
                ordered.push(target);
            }
        }
    }
    ordered.truncate(addresses_max);
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(guard: &DialGuard, address: &str) -> Option<DialRefusal> {
        match guard.check(address.parse().ok()?) {
            Err(Error::Dial { refusal, .. }) => Some(refusal),
            _ => None,
        }
    }

    #[test]
    fn special_addresses_are_refused_in_every_spelling() {
        let guard = DialGuard::default();
        let cases = [
            ("127.0.0.1:80", DialRefusal::Loopback),
            ("127.9.9.9:80", DialRefusal::Loopback),
            ("[::1]:80", DialRefusal::Loopback),
            ("[::ffff:127.0.0.1]:80", DialRefusal::Loopback),
            ("[64:ff9b::7f00:1]:80", DialRefusal::Loopback),
            ("[2002:7f00:1::]:80", DialRefusal::Loopback),
            ("[::127.0.0.1]:80", DialRefusal::Loopback),
            ("0.0.0.0:80", DialRefusal::Unspecified),
            ("0.1.2.3:80", DialRefusal::Unspecified),
            ("[::]:80", DialRefusal::Unspecified),
            ("169.254.169.254:80", DialRefusal::LinkLocal),
            ("[fe80::1]:80", DialRefusal::LinkLocal),
            ("224.0.0.1:80", DialRefusal::Multicast),
            ("[ff02::1]:80", DialRefusal::Multicast),
            ("255.255.255.255:80", DialRefusal::Broadcast),
            ("192.0.2.1:0", DialRefusal::PortZero),
        ];
        for (address, expected) in cases {
            assert_eq!(refusal(&guard, address), Some(expected), "{address}");
        }
        for address in ["10.0.0.1:80", "192.168.1.1:443", "192.0.2.1:80", "[2001:db8::1]:443"] {
            assert_eq!(refusal(&guard, address), None, "{address}");
        }
    }

    #[test]
    fn own_listeners_are_refused_even_where_loopback_is_exempt() {
        let guard = DialGuard {
            own_listeners: vec![SocketAddr::from(([0, 0, 0, 0], 3128)), SocketAddr::from(([10, 0, 0, 1], 8080))],
            danger_exempt: "127.0.0.0/8".parse().into_iter().collect(),
        };
        assert_eq!(refusal(&guard, "127.0.0.1:80"), None);
        assert_eq!(refusal(&guard, "127.0.0.1:3128"), Some(DialRefusal::OwnListener));
        assert_eq!(refusal(&guard, "[::ffff:10.0.0.1]:8080"), Some(DialRefusal::OwnListener));
        assert_eq!(refusal(&guard, "10.0.0.2:8080"), None);
    }

    #[test]
    fn families_take_turns_and_repeats_are_dropped() {
        let addresses = ["192.0.2.1", "192.0.2.2", "192.0.2.1", "2001:db8::1"];
        let addresses = addresses.iter().filter_map(|text| text.parse().ok()).collect();
        let ordered: Vec<String> = order(addresses, 1, 8).iter().map(ToString::to_string).collect();
        assert_eq!(ordered, ["[2001:db8::1]:1", "192.0.2.1:1", "192.0.2.2:1"]);
        assert_eq!(order(vec![IpAddr::from([192, 0, 2, 1]); 3], 1, 0), []);
    }
}
