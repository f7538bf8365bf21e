//! A set of networks with a value for each, asked for the longest that holds an address. A look-up costs one hash for each
//! prefix length in use, of which operators' lists have a handful. It is built whole and never changed while it is read.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

/// Networks of both families, each with a value.
#[derive(Clone, Debug)]
pub struct Prefixes<T> {
    by_network: HashMap<IpNet, T>,
    /// Lengths in use, longest first.
    lengths_v4: Vec<u8>,
    lengths_v6: Vec<u8>,
}

impl<T> Default for Prefixes<T> {
    fn default() -> Prefixes<T> {
        Prefixes { by_network: HashMap::new(), lengths_v4: Vec::new(), lengths_v6: Vec::new() }
    }
}

impl<T> FromIterator<(IpNet, T)> for Prefixes<T> {
    /// A network that stands twice has its last value. Host bits are cut off.
    fn from_iter<I: IntoIterator<Item = (IpNet, T)>>(networks: I) -> Prefixes<T> {
        let by_network: HashMap<IpNet, T> = networks.into_iter().map(|(network, value)| (network.trunc(), value)).collect();
        let lengths = |is_v4: bool| {
            let of_family = by_network.keys().filter(|network| matches!(network, IpNet::V4(_)) == is_v4);
            let mut lengths: Vec<u8> = of_family.map(IpNet::prefix_len).collect();
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            lengths.dedup();
            lengths
        };
        let (lengths_v4, lengths_v6) = (lengths(true), lengths(false));
        Prefixes { by_network, lengths_v4, lengths_v6 }
    }
}

impl<T> Prefixes<T> {
    /// The longest network that holds the address, and its value.
    pub fn longest(&self, address: IpAddr) -> Option<(IpNet, &T)> {
        self.holding(address).next()
    }

    /// Every network that holds the address, longest first.
    pub fn holding(&self, address: IpAddr) -> impl Iterator<Item = (IpNet, &T)> {
        let lengths = if address.is_ipv4() { &self.lengths_v4 } else { &self.lengths_v6 };
        lengths.iter().filter_map(move |length| {
            let network = IpNet::new(address, *length).ok()?.trunc();
            self.by_network.get(&network).map(|value| (network, value))
        })
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.longest(address).is_some()
    }

    pub fn len(&self) -> usize {
        self.by_network.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_network.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&IpNet, &T)> {
        self.by_network.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::testing::Numbers;

    /// The obviously right answer: every network is looked at.
    fn longest_by_reading_all(networks: &[(IpNet, usize)], address: IpAddr) -> Option<IpNet> {
        let holding = networks.iter().map(|(network, _)| network.trunc()).filter(|network| network.contains(&address));
        holding.max_by_key(IpNet::prefix_len)
    }

    #[test]
    fn the_longest_network_is_found_as_by_reading_all_of_them() {
        for seed in 0..40 {
            let mut numbers = Numbers::new(seed);
            // Few distinct bits, so that networks nest and addresses fall into several of them.
            let address = |numbers: &mut Numbers| match numbers.below(2) {
                0 => IpAddr::from(Ipv4Addr::from(numbers.below(16) as u32 * 0x1111_0101)),
                _ => IpAddr::from(Ipv6Addr::from(u128::from(numbers.below(16)) << 64 | u128::from(numbers.below(4)))),
            };
            let networks: Vec<(IpNet, usize)> = (0..60)
                .map(|index| {
                    let address = address(&mut numbers);
                    let length = numbers.below(if address.is_ipv4() { 33 } else { 129 }) as u8;
                    (IpNet::new(address, length).unwrap(), index)
                })
                .collect();
            let set: Prefixes<usize> = networks.iter().copied().collect();
            for _ in 0..500 {
                let address = address(&mut numbers);
                assert_eq!(set.longest(address).map(|(network, _)| network), longest_by_reading_all(&networks, address));
                let mut all: Vec<IpNet> = networks.iter().map(|(network, _)| network.trunc()).collect();
                all.retain(|network| network.contains(&address));
                all.sort_unstable_by_key(|network| (std::cmp::Reverse(network.prefix_len()), *network));
                all.dedup();
                assert_eq!(set.holding(address).map(|(network, _)| network).collect::<Vec<_>>(), all);
            }
        }
    }
}
