//! sFlow version 5 (sflow.org, "sFlow Version 5", July 2004): datagrams in which a router or switch sends the first bytes of
//! packets that it sampled, with how many each stands for. Counters, extended data and other vendors' records are passed over.
//! A datagram that contradicts its own lengths is refused from there on; what was read before is used.

use crate::detect::packet::Packet;

/// Samples of one datagram: each is 100 bytes at least, and a datagram 64 KiB at most.
const SAMPLES_MAX: u32 = 1_024;
/// Records of one sample.
const RECORDS_MAX: u32 = 64;
/// A rate beyond this is a mistake: no port carries so many packets a second.
const RATE_MAX: u32 = 1 << 26;

const VERSION: u32 = 5;
const FLOW_SAMPLE: u32 = 1;
const EXPANDED_FLOW_SAMPLE: u32 = 3;
const RAW_HEADER: u32 = 1;
const ETHERNET: u32 = 1;

/// Why a datagram is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the datagram ends before what it announces")]
    Short,
    #[error("sFlow version {0}; only 5 is read")]
    Version(u32),
    #[error("an agent's address of the unknown kind {0}")]
    Address(u32),
    #[error("more samples or records than a datagram holds")]
    Many,
    #[error("a sampling rate of {0}")]
    Rate(u32),
}

/// Hands over every packet of a datagram that can be read, with how many it stands for; says how many there were.
pub fn decode(datagram: &[u8], mut take: impl FnMut(Packet, u64)) -> Result<usize, Error> {
    let mut words = Words(datagram);
    match words.word()? {
        VERSION => {}
        version => return Err(Error::Version(version)),
    }
    match words.word()? {
        1 => words.bytes(4)?,
        2 => words.bytes(16)?,
        kind => return Err(Error::Address(kind)),
    };
    // Sub-agent, sequence number, uptime.
    words.bytes(12)?;
    let mut count = 0;
    for _ in 0..bounded(words.word()?, SAMPLES_MAX)? {
        let (format, body) = words.record()?;
        count += match format {
            FLOW_SAMPLE => sample(body, 4, 8, &mut take)?,
            EXPANDED_FLOW_SAMPLE => sample(body, 8, 16, &mut take)?,
            _ => 0,
        };
    }
    Ok(count)
}

/// One flow sample. Its two forms differ in how long the identifiers of the source and of the interfaces are.
fn sample(body: &[u8], source: usize, interfaces: usize, take: &mut impl FnMut(Packet, u64)) -> Result<usize, Error> {
    let mut words = Words(body);
    words.bytes(4 + source)?;
    let rate = words.word()?;
    if rate == 0 || rate > RATE_MAX {
        return Err(Error::Rate(rate));
    }
    // The pool and the drops.
    words.bytes(8 + interfaces)?;
    let mut count = 0;
    for _ in 0..bounded(words.word()?, RECORDS_MAX)? {
        let (format, body) = words.record()?;
        if format != RAW_HEADER {
            continue;
        }
        let mut words = Words(body);
        let protocol = words.word()?;
        // The frame's own length, and what was stripped of it.
        words.bytes(8)?;
        let length = words.word()? as usize;
        let header = words.bytes(length)?;
        if let Some(packet) = (protocol == ETHERNET).then(|| Packet::of_tagged_frame(header)).flatten() {
            take(packet, rate.into());
            count += 1;
        }
    }
    Ok(count)
}

fn bounded(count: u32, most: u32) -> Result<u32, Error> {
    if count > most { Err(Error::Many) } else { Ok(count) }
}

/// What is left of a datagram, in the words of XDR (RFC 4506).
struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    fn word(&mut self) -> Result<u32, Error> {
        self.bytes(4)?.try_into().map(u32::from_be_bytes).map_err(|_| Error::Short)
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(Error::Short)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// The format of enterprise 0, with the enterprise in the upper 20 bits where it is another, and the body.
    fn record(&mut self) -> Result<(u32, &'a [u8]), Error> {
        let (format, length) = (self.word()?, self.word()? as usize);
        Ok((format, self.bytes(length)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::packet::Attribute;
    use crate::testing::Numbers;

    /// A datagram to port 53 with so many bytes of tags before its IP header.
    fn frame(tags: &[u8]) -> Vec<u8> {
        let mut frame = [&[0; 12], tags, &[8, 0]].concat();
        frame.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 61, 17, 0, 0, 192, 0, 2, 1, 203, 0, 113, 9]);
        frame.extend([0x2b, 0xcb, 0, 53, 0, 20, 0, 0, 1, 2, 3, 4]);
        frame
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    fn record(format: u32, body: &[u8]) -> Vec<u8> {
        [words(&[format, body.len() as u32]), body.to_vec()].concat()
    }

    fn raw(frame: &[u8]) -> Vec<u8> {
        let padded = vec![0; frame.len().next_multiple_of(4) - frame.len()];
        record(RAW_HEADER, &[words(&[ETHERNET, 1_500, 4, frame.len() as u32]), frame.to_vec(), padded].concat())
    }

    /// A datagram as the specification's section 5.3 has it: counters, a flow sample, an expanded one.
    fn datagram() -> Vec<u8> {
        let flow = [words(&[7, 1, 1_024, 9_000, 0, 1, 2, 2]), record(1_001, &[0; 16]), raw(&frame(&[]))].concat();
        let expanded =
            [words(&[7, 0, 1, 2_048, 9_000, 0, 0, 1, 0, 2, 1]), raw(&frame(&[0x81, 0, 0, 5, 0x88, 0xa8, 0, 6]))].concat();
        let samples = [record(2, &[0; 40]), record(1, &flow), record(3, &expanded), record(4_096 << 12 | 1, &[0; 8])].concat();
        [words(&[5, 1, 0xc000_0201, 0, 1, 1_000, 4]), samples].concat()
    }

    #[test]
    fn both_forms_of_a_sample_are_read_and_the_rest_is_passed_over() {
        let mut seen = Vec::new();
        assert_eq!(decode(&datagram(), |packet, weight| seen.push((packet, weight))), Ok(2));
        assert_eq!(seen.iter().map(|(_, weight)| *weight).collect::<Vec<_>>(), [1_024, 2_048]);
        for (packet, _) in seen {
            assert_eq!(packet.get(Attribute::SourcePort), Some(11_211));
            assert_eq!(packet.destination.to_string(), "203.0.113.9");
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let mut other = datagram();
        other[3] = 4;
        assert_eq!(decode(&other, |_, _| ()), Err(Error::Version(4)));
        assert_eq!(decode(&words(&[5, 3]), |_, _| ()), Err(Error::Address(3)));
        assert_eq!(decode(&words(&[5, 1, 0, 0, 0, 0, u32::MAX]), |_, _| ()), Err(Error::Many));
        let flow = words(&[7, 1, 0, 0, 0, 0, 0, 0]);
        let rate = [words(&[5, 1, 0, 0, 0, 0, 1]), record(1, &flow)].concat();
        assert_eq!(decode(&rate, |_, _| ()), Err(Error::Rate(0)));
    }

    #[test]
    fn any_bytes_end_in_bounded_packets_or_an_error() {
        let whole = datagram();
        for cut in 0..whole.len() {
            assert!(decode(&whole[..cut], |_, _| ()).is_err(), "{cut}");
        }
        for seed in 0..10_000 {
            let (mut numbers, mut bytes) = (Numbers::new(seed), datagram());
            for _ in 0..1 + numbers.below(4) {
                let place = numbers.below(bytes.len() as u64) as usize;
                bytes[place] = numbers.next() as u8;
            }
            let mut count = 0;
            let told = decode(&bytes, |_, _| count += 1);
            assert!(count <= bytes.len() / 40 && told.is_ok_and(|told| told == count) || told.is_err());
        }
    }
}
