//! Names that imitate a configured brand: the same to the eye (Unicode Technical Standard 39 section 4, and the pairs that
//! a monospaced reader confuses: `0` and `o`, `1` and `l`, `rn` and `m`, `vv` and `w`), or one slip of a finger away.
//! Brands inside longer labels are not looked for: on benign names that is wrong in four of a thousand.

use intel::{Brand, Snapshot, registered_domain};
use model::{Facts, Finding, Severity};
use unicode_security::confusable_detection::skeleton;

use crate::punycode;

pub const NAME: &str = "name.lookalike";

/// RFC 1035 section 2.3.4.
const LABEL_BYTES_MAX: usize = 63;
/// A slip in a shorter label is usually another word. Measured with the labels of fifty brands: from six characters on,
/// eight benign names in ten thousand are one slip from a brand.
const SLIP_LABEL_BYTES_MIN: usize = 6;

/// How a name resembles a brand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resemblance {
    /// Cannot be told apart by eye.
    Confusable,
    /// One character inserted, left out, replaced or swapped with its neighbour.
    Slip,
}

pub fn inspect(facts: &Facts, snapshot: &Snapshot) -> Vec<Finding> {
    if snapshot.brands().is_empty() {
        return Vec::new();
    }
    let Some((brand, resemblance)) = crate::host(facts).and_then(|host| resembles(host, snapshot.brands())) else {
        return Vec::new();
    };
    match resemblance {
        Resemblance::Confusable => {
            crate::finding(NAME, Severity::High, "the name cannot be told from a brand's by eye", &brand.domain)
        }
        Resemblance::Slip => crate::finding(NAME, Severity::Low, "the name is one character away from a brand's", &brand.domain),
    }
}

/// The first brand that a host resembles without being it, or one of its namesakes under another suffix.
pub fn resembles<'a>(host: &str, brands: &'a [Brand]) -> Option<(&'a Brand, Resemblance)> {
    let domain = registered_domain(host)?;
    let (label, _) = domain.split_once('.')?;
    if label.len() > LABEL_BYTES_MAX || brands.iter().any(|brand| *brand.domain == *domain || *brand.label == *label) {
        return None;
    }
    if punycode::is_encoded(label) {
        return nearest(&shown(&punycode::decode(label)?), brands);
    }
    nearest(label, brands)
}

/// The brand that a text cannot be told from, or else is one slip away from.
fn nearest<'a>(label: &str, brands: &'a [Brand]) -> Option<(&'a Brand, Resemblance)> {
    let label_folded = folded(label);
    let confusable = brands.iter().find(|brand| {
        // Folding shortens a label, and never to less than half.
        brand.label.len() <= label.len() * 2 && folded(&brand.label).as_bytes() == label_folded.as_bytes()
    });
    if let Some(brand) = confusable {
        return Some((brand, Resemblance::Confusable));
    }
    let slip = brands
        .iter()
        .find(|brand| brand.label.len() >= SLIP_LABEL_BYTES_MIN && is_slip(label.as_bytes(), brand.label.as_bytes()));
    slip.map(|brand| (brand, Resemblance::Slip))
}

/// What the eye makes of a label outside ASCII: the skeleton without its marks, in lower case.
fn shown(label: &str) -> String {
    skeleton(label).filter(|character| !is_mark(*character)).flat_map(char::to_lowercase).map(unlike_capital).collect()
}

/// Small capitals, and the letters that skeletons give for Cyrillic small letters which look like them.
fn unlike_capital(character: char) -> char {
    match character {
        '\u{185}' => 'b',
        '\u{262}' => 'g',
        '\u{138}' => 'k',
        '\u{28d}' => 'm',
        '\u{1d1b}' => 't',
        other => other,
    }
}

/// Combining marks that skeletons contain (Unicode blocks Combining Diacritical Marks and its supplements).
fn is_mark(character: char) -> bool {
    matches!(u32::from(character), 0x300..=0x36f | 0x483..=0x489 | 0x1ab0..=0x1aff | 0x1dc0..=0x1dff | 0x20d0..=0x20ff | 0xfe20..=0xfe2f)
}

/// A label with confusable ASCII made the same, without an allocation.
struct Folded {
    bytes: [u8; LABEL_BYTES_MAX],
    length: usize,
}

impl Folded {
    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

fn folded(label: &str) -> Folded {
    let mut folded = Folded { bytes: [0; LABEL_BYTES_MAX], length: 0 };
    let mut rest = label.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let (byte, after) = match (byte, after.first()) {
            (b'r', Some(b'n')) => (b'm', after.get(1..).unwrap_or_default()),
            (b'v', Some(b'v')) => (b'w', after.get(1..).unwrap_or_default()),
            (b'0', _) => (b'o', after),
            (b'1' | b'|', _) => (b'l', after),
            (other, _) => (*other, after),
        };
        if let Some(place) = folded.bytes.get_mut(folded.length) {
            *place = byte;
            folded.length += 1;
        }
        rest = after;
    }
    folded
}

/// Whether one insertion, deletion, replacement or swap of neighbours makes one of the other. The first character must
/// stay: readers notice it, and changing it mostly makes another word (`cloud` of `icloud`).
fn is_slip(a: &[u8], b: &[u8]) -> bool {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    if long.len() - short.len() > 1 || short == long {
        return false;
    }
    let same = short.iter().zip(long).take_while(|(x, y)| x == y).count();
    if same == 0 {
        return false;
    }
    let (short, long) = (short.get(same..).unwrap_or_default(), long.get(same..).unwrap_or_default());
    if short.len() < long.len() {
        return Some(short) == long.get(1..);
    }
    match (short, long) {
        ([_, short @ ..], [_, long @ ..]) if short == long => true,
        ([a, b, short @ ..], [c, d, long @ ..]) => a == d && b == c && short == long,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(host: &str) -> Option<Resemblance> {
        let brands: Vec<Brand> = ["paypal.com", "microsoft.com", "apple.com", "google.com", "ups.com", "yahoo.co.jp", "okta.com"]
            .iter()
            .filter_map(|name| Brand::new(name))
            .collect();
        resembles(host, &brands).map(|(_, resemblance)| resemblance)
    }

    #[test]
    fn the_brand_and_its_namesakes_and_other_words_are_left_alone() {
        for host in [
            "www.paypal.com",
            "paypal.de",
            "paypal.co.uk",
            "login.microsoft.com",
            "maple.com",
            "cups.com",
            "usps.com",
            "paypal-shop.com",
            "com",
            "example.com",
            "xn--bcher-kva.de",
        ] {
            assert_eq!(found(host), None, "{host}");
        }
    }

    #[test]
    fn what_the_eye_confuses_is_found() {
        // The third is Cyrillic throughout; the fourth has an accent.
        for host in [
            "www.paypa1.com",
            "rnicrosoft.com",
            "xn--80ak6aa92e.com",
            "xn--pple-koa.com",
            "g00gle.net",
            "xn--googl-n0a.com",
            "xn--80atlr.com",
        ] {
            assert_eq!(found(host), Some(Resemblance::Confusable), "{host}");
        }
    }

    #[test]
    fn a_slip_is_found_in_labels_that_are_long_enough() {
        for host in ["gogle.com", "googgle.com", "googel.com", "goofle.com", "microsoft1.com"] {
            assert_eq!(found(host), Some(Resemblance::Slip), "{host}");
        }
        for host in ["aple.com", "oogle.com", "ogogle.com", "boogle.com", "google.com.example.net"] {
            assert_eq!(found(host), None, "{host}");
        }
    }
}
