//! A map from addresses to numbers, built once from overlapping ranges. The ranges are cut into segments that do not
//! overlap, each with the set of lists that cover it, so that a look-up is one binary search and allocates nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One range of one list. IPv4 addresses are kept as their IPv4-mapped IPv6 form (RFC 4291 section 2.5.5.2).
#[derive(Clone, Copy, Debug)]
pub struct Range {
    pub first: u128,
    pub last: u128,
    pub list: u16,
    /// The range takes addresses out of its own list.
    pub excepted: bool,
}

/// Segments by their first address; a segment ends where the next begins.
#[derive(Clone, Debug, Default)]
pub struct Ranges {
    v4_starts: Box<[u32]>,
    v4_numbers: Box<[u32]>,
    v6_starts: Box<[u128]>,
    v6_numbers: Box<[u32]>,
}

impl Ranges {
    /// `number` gives the number of a set of lists; the empty set's must be 0.
    pub fn build(ranges: &[Range], mut number: impl FnMut(&[u16]) -> u32) -> Ranges {
        let segments = sweep(ranges, &mut number);
        let is_v4 = |start: u128| Ipv6Addr::from(start).to_ipv4_mapped().is_some();
        let v4 = segments.iter().filter(|(start, _)| is_v4(*start));
        Ranges {
            v4_starts: v4.clone().map(|(start, _)| *start as u32).collect(),
            v4_numbers: v4.map(|(_, number)| *number).collect(),
            v6_starts: segments.iter().filter(|(start, _)| !is_v4(*start)).map(|(start, _)| *start).collect(),
            v6_numbers: segments.iter().filter(|(start, _)| !is_v4(*start)).map(|(_, number)| *number).collect(),
        }
    }

    /// The number of the segment that holds the address, or 0.
    pub fn get(&self, ip: IpAddr) -> u32 {
        match ip {
            IpAddr::V4(ip) => at(&self.v4_starts, &self.v4_numbers, u32::from(ip)),
            IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
                Some(ip) => at(&self.v4_starts, &self.v4_numbers, u32::from(ip)),
                None => at(&self.v6_starts, &self.v6_numbers, u128::from(ip)),
            },
        }
    }

    pub fn heap_bytes(&self) -> usize {
        self.v4_starts.len() * 8 + self.v6_starts.len() * 20
    }
}

/// First and last address of `192.0.2.1`, `192.0.2.0/24`, `2001:db8::/32`; none where it is neither.
pub fn parse_range(text: &str) -> Option<(u128, u128)> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix.parse::<u32>().ok()?)),
        None => (text, None),
    };
    let (value, base) = match address.parse::<IpAddr>().ok()? {
        IpAddr::V4(ip) => (mapped(ip), 96),
        IpAddr::V6(ip) => (u128::from(ip), 0),
    };
    let bits = base + prefix.unwrap_or(128 - base);
    if bits > 128 {
        return None;
    }
    let host = u128::MAX.checked_shr(bits).unwrap_or(0);
    Some((value & !host, value | host))
}

fn mapped(ip: Ipv4Addr) -> u128 {
    u128::from(ip.to_ipv6_mapped())
}

fn at<K: Ord>(starts: &[K], numbers: &[u32], key: K) -> u32 {
    let after = starts.partition_point(|start| *start <= key);
    after.checked_sub(1).and_then(|place| numbers.get(place)).copied().unwrap_or(0)
}

/// Where ranges of each list begin and end: at each border the covering lists are counted anew.
fn sweep(ranges: &[Range], number: &mut impl FnMut(&[u16]) -> u32) -> Vec<(u128, u32)> {
    let mut borders: Vec<(u128, u16, bool, i32)> = Vec::with_capacity(ranges.len() * 2);
    for range in ranges {
        borders.push((range.first, range.list, range.excepted, 1));
        if let Some(after) = range.last.checked_add(1) {
            borders.push((after, range.list, range.excepted, -1));
        }
    }
    // The borders of the IPv4 block are borders too, so that no segment crosses them.
    let v4_first = mapped(Ipv4Addr::UNSPECIFIED);
    borders.push((v4_first, 0, false, 0));
    borders.push((mapped(Ipv4Addr::BROADCAST) + 1, 0, false, 0));
    borders.sort_unstable_by_key(|border| border.0);

    let mut counts = std::collections::BTreeMap::<u16, (i32, i32)>::new();
    let mut segments: Vec<(u128, u32)> = Vec::new();
    for (index, (start, list, excepted, step)) in borders.iter().enumerate() {
        let count = counts.entry(*list).or_default();
        if *excepted {
            count.1 += step;
        } else {
            count.0 += step;
        }
        if borders.get(index + 1).is_some_and(|next| next.0 == *start) {
            continue;
        }
        let lists: Vec<u16> = counts.iter().filter(|(_, count)| count.0 > 0 && count.1 == 0).map(|(list, _)| *list).collect();
        counts.retain(|_, count| *count != (0, 0));
        segments.push((*start, number(&lists)));
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str, list: u16) -> Range {
        let (first, last) = parse_range(text).expect("a range");
        Range { first, last, list, excepted: false }
    }

    fn sum(lists: &[u16]) -> u32 {
        lists.iter().map(|list| u32::from(*list)).sum()
    }

    #[test]
    fn what_is_not_a_range_is_refused() {
        for text in ["", "x", "192.0.2.0/33", "2001:db8::/129", "192.0.2.0/", "192.0.2.0/-1", "1.2.3"] {
            assert_eq!(parse_range(text), None, "{text}");
        }
    }

    #[test]
    fn overlapping_ranges_add_up_and_end() {
        let ranges = Ranges::build(&[range("10.0.0.0/8", 1), range("10.1.0.0/16", 2), range("2001:db8::/32", 4)], sum);
        let get = |ip: &str| ranges.get(ip.parse().expect("an address"));
        assert_eq!(get("9.255.255.255"), 0);
        assert_eq!(get("10.0.0.0"), 1);
        assert_eq!(get("10.1.2.3"), 3);
        assert_eq!(get("10.2.0.0"), 1);
        assert_eq!(get("11.0.0.0"), 0);
        assert_eq!(get("::ffff:10.1.0.1"), 3);
        assert_eq!(get("2001:db8::1"), 4);
        assert_eq!(get("2001:db9::"), 0);
    }

    #[test]
    fn a_range_over_everything_and_an_exception() {
        let mut hole = range("192.0.2.0/24", 1);
        hole.excepted = true;
        let ranges = Ranges::build(&[range("::/0", 1), hole], sum);
        let get = |ip: &str| ranges.get(ip.parse().expect("an address"));
        assert_eq!(get("255.255.255.255"), 1);
        assert_eq!(get("0.0.0.0"), 1);
        assert_eq!(get("192.0.2.7"), 0);
        assert_eq!(get("ffff:ffff::"), 1);
    }
}
