//! Ports and ranges of ports as app documents write them, `22` and `1000-2000` (SP-01), and the mapping of one range onto
//! another by offset (SP-05).

/// A range of ports, both ends in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) first: u16,
    pub(crate) last: u16,
}

impl Ports {
    /// Port 0 and a range that runs backwards are none.
    pub(crate) fn parse(text: &str) -> Option<Ports> {
        let port = |text: &str| {
            let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            is_plain.then(|| text.parse::<u16>().ok()).flatten().filter(|port| *port > 0)
        };
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (port(first)?, port(last)?),
            None => (port(text)?, port(text)?),
        };
        (first <= last).then_some(Ports { first, last })
    }

    pub(crate) fn count(self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    /// The port at an offset; a single port stands for every offset.
    pub(crate) fn at(self, offset: u16) -> u16 {
        if self.first == self.last { self.first } else { self.first.saturating_add(offset).min(self.last) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_ranges_are_read_and_others_are_not() {
        assert_eq!(Ports::parse("22"), Some(Ports { first: 22, last: 22 }));
        assert_eq!(Ports::parse("1000-2000").map(Ports::count), Some(1001));
        for wrong in ["", "0", "-", "1-", "-1", "2-1", "65536", "+1", " 1", "1-2-3", "é"] {
            assert_eq!(Ports::parse(wrong), None, "{wrong}");
        }
    }

    /// SP-05: edge 1005 of 1000-2000 goes to 3005 of 3000-4000.
    #[test]
    fn a_range_maps_by_offset() {
        let origin = Ports { first: 3000, last: 4000 };
        assert_eq!((origin.at(0), origin.at(5), origin.at(1000)), (3000, 3005, 4000));
        assert_eq!(Ports { first: 25, last: 25 }.at(7), 25);
    }
}
