//! lzip (the format of its manual, chapter "File format"): members of a header, raw LZMA data with an end marker, and a
//! trailer. Decoding is `lzma-rust2`'s; the frame is read here, because that crate's own reader takes any dictionary.

use super::stream::{DICTIONARY_KIB_MAX, trailing};
use crate::format::{read_u32, read_u64};
use crate::report::Unscannable;
use crate::walk::{Node, Step, Walk};
use lzma_rust2::LzmaReader;
use std::io::{Error, ErrorKind, Read, Result};

const MAGIC: &[u8] = b"LZIP\x01";
/// Magic, version, and the coded size of the dictionary.
const HEADER_BYTES: usize = 6;
/// CRC32 of the data, its size, and the size of the member.
const TRAILER_BYTES: usize = 20;
/// lc 3, lp 0, pb 2: the format knows no others.
const PROPERTIES: u8 = 0x5d;

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    if dictionary_bytes(bytes).is_some_and(|dictionary| dictionary > DICTIONARY_KIB_MAX << 10) {
        return Err(Unscannable::SizeLimit);
    }
    let mut members = Members { rest: bytes, member: None, is_behind_first: false };
    let _ = walk.member(node, super::stream::MEMBER, &mut members);
    trailing(walk, node, members.rest)
}

/// Two to the power of the lower five bits, less as many sixteenths as the upper three say. None where that is no size.
fn dictionary_bytes(member: &[u8]) -> Option<u32> {
    const POWERS: std::ops::RangeInclusive<u8> = 12..=29;
    let coded = *member.get(HEADER_BYTES - 1)?;
    let whole = Some(coded & 31).filter(|power| POWERS.contains(power)).map(|power| 1_u32 << power)?;
    Some(whole - whole / 16 * u32::from(coded >> 5)).filter(|bytes| *bytes >= 1 << POWERS.start())
}

/// Members read one after another. What stands behind the last one is not part of the content.
struct Members<'b> {
    rest: &'b [u8],
    member: Option<Member<'b>>,
    is_behind_first: bool,
}

struct Member<'b> {
    reader: LzmaReader<&'b [u8]>,
    crc: flate2::Crc,
    plain_bytes: u64,
}

fn refused(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

impl Read for Members<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            if let Some(member) = self.member.as_mut() {
                let count = member.read(buffer)?;
                if count > 0 || buffer.is_empty() {
                    return Ok(count);
                }
            }
            if let Some(member) = self.member.take() {
                self.rest = member.finish(self.rest)?;
                self.is_behind_first = true;
            }
            if self.is_behind_first && !self.rest.starts_with(MAGIC) {
                return Ok(0);
            }
            self.member = Some(Member::begin(self.rest)?);
        }
    }
}

impl<'b> Member<'b> {
    fn begin(bytes: &'b [u8]) -> Result<Member<'b>> {
        let dictionary = dictionary_bytes(bytes).filter(|dictionary| *dictionary <= DICTIONARY_KIB_MAX << 10);
        let dictionary = dictionary.filter(|_| bytes.starts_with(MAGIC)).ok_or_else(|| refused("lzip header"))?;
        let codes = bytes.get(HEADER_BYTES..).unwrap_or_default();
        let reader = LzmaReader::new_with_props(codes, u64::MAX, PROPERTIES, dictionary, None)?;
        Ok(Member { reader, crc: flate2::Crc::new(), plain_bytes: 0 })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let count = self.reader.read(buffer)?;
        self.crc.update(buffer.get(..count).unwrap_or_default());
        self.plain_bytes += count as u64;
        Ok(count)
    }

    /// Compares the trailer, and returns what stands behind the member that `bytes` begin with.
    fn finish(self, bytes: &'b [u8]) -> Result<&'b [u8]> {
        let (behind, ahead) = self.reader.into_parts();
        let codes_end = bytes.len().saturating_sub(behind.len() + ahead.len());
        let trailer = bytes.get(codes_end..codes_end + TRAILER_BYTES).ok_or_else(|| refused("lzip trailer"))?;
        let end = codes_end + TRAILER_BYTES;
        let is_sound = read_u32(trailer, 0) == Some(self.crc.sum())
            && read_u64(trailer, 4) == Some(self.plain_bytes)
            && read_u64(trailer, 12) == Some(end as u64);
        is_sound.then(|| bytes.get(end..).unwrap_or_default()).ok_or_else(|| refused("lzip trailer"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member with the six bytes `first` and a line feed.
    #[rustfmt::skip]
    const FIRST: &[u8] = &[
        0x4c, 0x5a, 0x49, 0x50, 0x01, 0x0c, 0x00, 0x33, 0x1a, 0x4a, 0xac, 0x0c, 0x72, 0x1b, 0xa8, 0xb1,
        0xff, 0xff, 0xfe, 0x2b, 0x78, 0x00, 0x2a, 0xb3, 0x4a, 0xc7, 0x06, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x2a, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    ];

    fn read(bytes: &[u8]) -> (std::io::Result<usize>, Vec<u8>, usize) {
        let mut members = Members { rest: bytes, member: None, is_behind_first: false };
        let mut plain = Vec::new();
        let outcome = members.read_to_end(&mut plain);
        (outcome, plain, members.rest.len())
    }

    #[test]
    fn members_are_read_to_the_last_and_what_follows_is_left() {
        let (outcome, plain, rest) = read(&[FIRST, FIRST, b"tail"].concat());
        assert_eq!((outcome.unwrap(), plain.as_slice(), rest), (12, b"first\nfirst\n".as_slice(), 4));
    }

    #[test]
    fn a_cut_or_changed_member_is_broken_and_its_bytes_are_kept() {
        for place in FIRST.len() - TRAILER_BYTES..FIRST.len() {
            let mut changed = FIRST.to_vec();
            changed[place] ^= 1;
            let (outcome, plain, _) = read(&changed);
            assert!(outcome.is_err() && plain == b"first\n", "{place}");
        }
        assert!((0..FIRST.len()).all(|length| read(&FIRST[..length]).0.is_err()));
    }

    #[test]
    fn dictionaries_are_read_and_bounded() {
        let header = |coded| [MAGIC, &[coded]].concat();
        assert_eq!(dictionary_bytes(&header(0xd3)), Some(320 << 10));
        assert_eq!(dictionary_bytes(&header(0x0c)), Some(4 << 10));
        assert_eq!(dictionary_bytes(&header(0x1d)), Some(512 << 20));
        assert!([0x0b, 0x1e, 0x2c].iter().all(|coded| dictionary_bytes(&header(*coded)).is_none()));
        assert!(Member::begin(&header(0x1c)).is_err(), "256 MiB");
    }
}
