//! Sets written in an expression or a list: ranges of integers and of addresses, sorted and merged, searched by halving.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Closed ranges that neither touch nor overlap, in rising order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges<T>(Box<[(T, T)]>);

/// A number that a range can be made of.
pub(crate) trait Step: Copy + Ord {
    /// The next number, or none at the end.
    fn next(self) -> Option<Self>;
}

impl Step for i64 {
    fn next(self) -> Option<i64> {
        self.checked_add(1)
    }
}

impl Step for u32 {
    fn next(self) -> Option<u32> {
        self.checked_add(1)
    }
}

impl Step for u128 {
    fn next(self) -> Option<u128> {
        self.checked_add(1)
    }
}

impl<T: Step> Ranges<T> {
    pub(crate) fn new(mut ranges: Vec<(T, T)>) -> Ranges<T> {
        ranges.sort_unstable();
        let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(open) if open.1.next().is_none_or(|next| first <= next) => open.1 = open.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Ranges(merged.into_boxed_slice())
    }

    pub(crate) fn contains(&self, value: T) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= value);
        after.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|(_, last)| value <= *last)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (T, T)> + '_ {
        self.0.iter().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        std::mem::size_of_val(&*self.0)
    }
}

/// Addresses of both families. An IPv4 address never equals its IPv4-mapped form: gates unmap before they look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl Addresses {
    /// From closed ranges whose two ends are of one family.
    pub(crate) fn new(ranges: impl IntoIterator<Item = (IpAddr, IpAddr)>) -> Addresses {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for range in ranges {
            match range {
                (IpAddr::V4(first), IpAddr::V4(last)) => v4.push((first.to_bits(), last.to_bits())),
                (IpAddr::V6(first), IpAddr::V6(last)) => v6.push((first.to_bits(), last.to_bits())),
                _ => {}
            }
        }
        Addresses { v4: Ranges::new(v4), v6: Ranges::new(v6) }
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.contains(address.to_bits()),
            IpAddr::V6(address) => self.v6.contains(address.to_bits()),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> + '_ {
        let v4 = self.v4.iter().map(|(a, b)| (IpAddr::V4(Ipv4Addr::from_bits(a)), IpAddr::V4(Ipv4Addr::from_bits(b))));
        let v6 = self.v6.iter().map(|(a, b)| (IpAddr::V6(Ipv6Addr::from_bits(a)), IpAddr::V6(Ipv6Addr::from_bits(b))));
        v4.chain(v6)
    }

    pub(crate) fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.v4.heap_bytes() + self.v6.heap_bytes()
    }
}

/// An address, a network in CIDR form, or a range `a..b`, as the closed range it covers.
pub(crate) fn address_range(text: &str) -> Option<(IpAddr, IpAddr)> {
    if let Some((first, last)) = text.split_once("..") {
        let (first, last): (IpAddr, IpAddr) = (first.parse().ok()?, last.parse().ok()?);
        return (first.is_ipv4() == last.is_ipv4() && first <= last).then_some((first, last));
    }
    if text.contains('/') {
        let network: ipnet::IpNet = text.parse().ok()?;
        return Some((network.network(), network.broadcast()));
    }
    let address: IpAddr = text.parse().ok()?;
    Some((address, address))
}

/// The shortest way to write a closed range of addresses.
pub(crate) fn write_range(first: IpAddr, last: IpAddr) -> String {
    if first == last {
        return first.to_string();
    }
    let network = (0..=if first.is_ipv4() { 32u8 } else { 128 })
        .filter_map(|length| ipnet::IpNet::new(first, length).ok())
        .find(|network| network.network() == first && network.broadcast() == last);
    network.map_or_else(|| format!("{first}..{last}"), |network| network.to_string())
}
