//! Which of the signatures that are sought anywhere in a file stand in it at all, found in one pass over its bytes. Nearly
//! every file has none of them; where one stands, its own search says where. It never leaves a signature out.

use aho_corasick::Span;
use aho_corasick::packed::Searcher;
use std::sync::LazyLock;

/// Every signature is at least four bytes long, so that few places of other data look like the start of one.
const SOUGHT: [&[u8]; 14] = [
    LOCAL_HEADER,
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a\x07",
    b"MSCF\0\0\0\0",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    b"**ACE**",
    b"\xdc\xa7\xc4\xfd",
    b"-lh5-",
    b"-lh7-",
    DOS_STUB,
    YENC,
    NSIS,
    INNO,
    AUTOIT,
];

/// A file in a zip archive (APPNOTE 4.3.7).
pub(crate) const LOCAL_HEADER: &[u8] = b"PK\x03\x04";
pub(crate) const DOS_STUB: &[u8] = b"This program cannot be run in DOS mode";
pub(crate) const YENC: &[u8] = b"=ybegin ";
pub(crate) const NSIS: &[u8] = b"\xef\xbe\xad\xdeNullsoftInst";
pub(crate) const INNO: &[u8] = b"Inno Setup Setup Data (";
pub(crate) const AUTOIT: &[u8] = b"\xa3\x48\x4b\xbe\x98\x6c\x4a\xa9\x99\x4c\x53\x0a\x86\xd6\x48\x7d";

/// A file with more of them is searched for each: looking on would cost more than it saves.
const LOOKS_MAX: usize = 1000;

/// None where the processor has no instructions for it.
static SEARCHER: LazyLock<Option<Searcher>> = LazyLock::new(|| Searcher::new(SOUGHT));

/// The signatures of one file: a bit for each of `SOUGHT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks(u32);

impl Marks {
    const ALL: Marks = Marks(u32::MAX);

    pub(crate) fn of(bytes: &[u8]) -> Marks {
        let Some(searcher) = SEARCHER.as_ref() else { return Marks::ALL };
        let (mut found, mut start) = (0, 0);
        for _ in 0..LOOKS_MAX {
            let Some(place) = searcher.find_in(bytes, Span { start, end: bytes.len() }) else { return Marks(found) };
            found |= 1 << place.pattern().as_usize();
            // Another may begin within this one.
            start = place.start() + 1;
        }
        Marks::ALL
    }

    /// False only where this does not stand in the file.
    pub(crate) fn may_have(self, signature: &[u8]) -> bool {
        SOUGHT.iter().position(|sought| *sought == signature).is_none_or(|place| self.0 & 1 << place != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signature_is_found_wherever_it_stands() {
        for length in [0, 3, 40, 1000] {
            for signature in SOUGHT {
                let bytes = [&vec![b'*'; length], signature, &vec![b'P'; length]].concat();
                let marks = Marks::of(&bytes);
                for other in SOUGHT {
                    assert_eq!(marks.may_have(other), other == signature, "{other:?} beside {signature:?} at {length}");
                }
            }
        }
    }

    #[test]
    fn signatures_that_overlap_or_abound_hide_none() {
        let overlapping = b"-lh5-lh7-**ACE**ACE**";
        assert!([b"-lh5-".as_slice(), b"-lh7-", b"**ACE**"].iter().all(|signature| Marks::of(overlapping).may_have(signature)));
        let many = [LOCAL_HEADER.repeat(LOOKS_MAX), NSIS.to_vec()].concat();
        assert!(Marks::of(&many).may_have(NSIS));
        assert!(Marks::of(b"nothing").may_have(b"what nobody seeks"));
    }
}
