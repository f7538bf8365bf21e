//! Who is counted: an IPv4 address, or the /64 of an IPv6 address, because a host is given a whole one and may send from any
//! address in it (RFC 6177 section 2, RFC 8981).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// One that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    V4(u32),
    /// The upper 64 bits.
    V6(u64),
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Source {
        match address.to_canonical() {
            IpAddr::V4(address) => Source::V4(address.into()),
            IpAddr::V6(address) => Source::V6((u128::from(address) >> 64) as u64),
        }
    }
}

impl Source {
    /// Its first address.
    pub fn address(self) -> IpAddr {
        match self {
            Source::V4(bits) => Ipv4Addr::from(bits).into(),
            Source::V6(bits) => Ipv6Addr::from(u128::from(bits) << 64).into(),
        }
    }

    pub fn network(self) -> IpNet {
        match self {
            Source::V4(bits) => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from(bits), 32)),
            Source::V6(bits) => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from(u128::from(bits) << 64), 64)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_host_are_one_source() {
        let source = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("2001:db8:0:1::9").network().to_string(), "2001:db8:0:1::/64");
        assert_eq!(source("192.0.2.9").address().to_string(), "192.0.2.9");
    }
}
