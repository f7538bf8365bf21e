//! A name as its client spelled it, in the form of the wire: it goes back byte for byte (RFC 1035 section 3.1, and
//! draft-vixie-dnsext-dns0x20 for why spelling matters). It says nothing about what the name means; that is the host text.

use hickory_proto::rr::Name;
use model::Text;
use model::name::HOST_BYTES_MAX;

/// The longest name on the wire (RFC 1035 section 2.3.4).
const NAME_BYTES_MAX: usize = 255;

/// Labels are at most this long (RFC 1035 section 2.3.4); larger numbers are pointers or reserved.
const LABEL_BYTES_MAX: usize = 63;

/// Uncompressed, with the length before each label and the root at the end.
#[derive(Clone)]
pub(crate) struct Spelling {
    bytes: [u8; NAME_BYTES_MAX],
    length: usize,
}

impl Spelling {
    pub(crate) fn of(name: &Name) -> Spelling {
        let mut spelling = Spelling { bytes: [0; NAME_BYTES_MAX], length: 0 };
        for label in name.iter() {
            spelling.push(&[label.len() as u8]);
            spelling.push(label);
        }
        spelling.push(&[0]);
        spelling
    }

    /// A name of letters, digits, hyphens and underscores from the start of these bytes, and its host text. None where it
    /// is anything else, the root and compressed names among them.
    pub(crate) fn read_plain(bytes: &[u8]) -> Option<(Spelling, Text)> {
        let mut host = [0; HOST_BYTES_MAX];
        let mut at = 0;
        loop {
            let length = usize::from(*bytes.get(at)?);
            if length == 0 {
                break;
            }
            // Each label of the text stands one byte before its place on the wire; a dot takes the place of a length.
            let label = bytes.get(at + 1..at + 1 + length).filter(|_| length <= LABEL_BYTES_MAX)?;
            let room = host.get_mut(at..at + length)?;
            for (to, from) in room.iter_mut().zip(label) {
                *to = match from {
                    b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => *from,
                    b'A'..=b'Z' => from.to_ascii_lowercase(),
                    _ => return None,
                };
            }
            at += 1 + length;
            if let Some(dot) = host.get_mut(at - 1) {
                *dot = b'.';
            }
        }
        let text = std::str::from_utf8(host.get(..at.checked_sub(1)?)?).ok()?;
        let mut spelling = Spelling { bytes: [0; NAME_BYTES_MAX], length: 0 };
        spelling.push(bytes.get(..=at)?);
        Some((spelling, Text::new(text)))
    }

    /// What a name longer than any can be would add is left out; names come from decoded messages, so nothing is.
    fn push(&mut self, part: &[u8]) {
        if let Some(room) = self.bytes.get_mut(self.length..self.length + part.len()) {
            room.copy_from_slice(part);
            self.length += part.len();
        }
    }

    pub(crate) fn wire(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// The same name as the library has it.
    pub(crate) fn name(&self) -> Name {
        let mut rest = self.wire();
        let labels = std::iter::from_fn(|| {
            let (length, after) = rest.split_first().filter(|(length, _)| **length > 0)?;
            let (label, after) = after.split_at_checked(usize::from(*length))?;
            rest = after;
            Some(label)
        });
        let mut name = Name::from_labels(labels).unwrap_or_else(|_| Name::root());
        name.set_fqdn(true);
        name
    }
}

impl PartialEq for Spelling {
    fn eq(&self, other: &Spelling) -> bool {
        self.wire() == other.wire()
    }
}

impl Eq for Spelling {}

impl std::fmt::Debug for Spelling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spelling_goes_to_the_library_and_back() {
        let long = format!("{0}.{0}.{0}.{1}.", "a".repeat(63), "b".repeat(61));
        for text in [".", "a.", "WwW.Example.COM.", "a\\.b.example.", &long] {
            let name = Name::from_ascii(text).unwrap();
            assert_eq!(Spelling::of(&name).name(), name, "{text}");
            assert!(Spelling::of(&name).name().eq_case(&name), "{text}");
        }
    }

    #[test]
    fn only_plain_names_are_read() {
        let read = |bytes: &[u8]| Spelling::read_plain(bytes).map(|(spelling, host)| (spelling.wire().len(), host.to_string()));
        assert_eq!(read(b"\x03WwW\x07example\0rest"), Some((13, "www.example".to_owned())));
        assert_eq!(read(b"\x01a\0"), Some((3, "a".to_owned())));
        for odd in [&b""[..], b"\0", b"\x01", b"\x01a", b"\x01a\x01", b"\x01.\0", b"\x01\xe9\0", b"\xc0\x0c", b"\x01a\xc0\x0c"] {
            assert_eq!(read(odd), None, "{odd:?}");
        }
        let label = [&[63][..], &[b'a'; 63]].concat();
        let (longest, longer) =
            ([label.repeat(3), vec![61], vec![b'b'; 61], vec![0]].concat(), [label.repeat(4), vec![0]].concat());
        assert_eq!(read(&longest).map(|(bytes, host)| (bytes, host.len())), Some((NAME_BYTES_MAX, HOST_BYTES_MAX)));
        assert_eq!(read(&longer), None);
    }
}
