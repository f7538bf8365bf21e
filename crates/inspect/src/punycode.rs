//! Decodes the punycode of one label (RFC 3492 section 6.2). Total and bounded by the length of a label; whether the
//! decoded text is a permitted name is not asked here.

/// The prefix of an internationalised label (RFC 5890 section 2.3.2.1).
const PREFIX: &str = "xn--";
/// RFC 1035 section 2.3.4.
const LABEL_BYTES_MAX: usize = 63;

const BASE: u32 = 36;
const THRESHOLD_MIN: u32 = 1;
const THRESHOLD_MAX: u32 = 26;
const SKEW: u32 = 38;
const DAMP: u32 = 700;
const BIAS_FIRST: u32 = 72;
const CODE_FIRST: u32 = 128;

/// Whether the label claims to be punycode.
pub fn is_encoded(label: &str) -> bool {
    label.get(..PREFIX.len()).is_some_and(|head| head.eq_ignore_ascii_case(PREFIX))
}

/// The characters of an encoded label; none where it is no valid punycode.
pub fn decode(label: &str) -> Option<String> {
    if !is_encoded(label) || label.len() > LABEL_BYTES_MAX || !label.is_ascii() {
        return None;
    }
    let encoded = label.get(PREFIX.len()..)?;
    let (plain, digits) = encoded.rsplit_once('-').unwrap_or(("", encoded));
    if digits.is_empty() {
        return None;
    }
    let mut characters: Vec<char> = plain.chars().collect();
    let (mut code, mut place, mut bias) = (CODE_FIRST, 0_u32, BIAS_FIRST);
    let mut digits = digits.bytes();
    while digits.len() > 0 {
        let before = place;
        place = place.checked_add(delta(&mut digits, bias)?)?;
        let length = characters.len() as u32 + 1;
        bias = adapt(place - before, length, before == 0);
        code = code.checked_add(place / length)?;
        place %= length;
        characters.insert(place as usize, char::from_u32(code)?);
        place += 1;
    }
    Some(characters.into_iter().collect())
}

/// One number of variable length.
fn delta(digits: &mut std::str::Bytes<'_>, bias: u32) -> Option<u32> {
    let (mut sum, mut weight, mut position) = (0_u32, 1_u32, BASE);
    loop {
        let digit = digit(digits.next()?)?;
        sum = sum.checked_add(digit.checked_mul(weight)?)?;
        let threshold = position.saturating_sub(bias).clamp(THRESHOLD_MIN, THRESHOLD_MAX);
        if digit < threshold {
            return Some(sum);
        }
        weight = weight.checked_mul(BASE - threshold)?;
        position += BASE;
    }
}

fn digit(byte: u8) -> Option<u32> {
    match byte {
        b'a'..=b'z' => Some(u32::from(byte - b'a')),
        b'A'..=b'Z' => Some(u32::from(byte - b'A')),
        b'0'..=b'9' => Some(u32::from(byte - b'0') + 26),
        _ => None,
    }
}

fn adapt(delta: u32, length: u32, is_first: bool) -> u32 {
    let mut delta = if is_first { delta / DAMP } else { delta / 2 };
    delta += delta / length;
    let mut position = 0;
    while delta > ((BASE - THRESHOLD_MIN) * THRESHOLD_MAX) / 2 {
        delta /= BASE - THRESHOLD_MIN;
        position += BASE;
    }
    position + (BASE - THRESHOLD_MIN + 1) * delta / (delta + SKEW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_punycode_gives_none() {
        for label in ["example", "xn--", "xn--a-", "xn--\u{e9}", "xn--99999999", "xn--!!!"] {
            assert_eq!(decode(label), None, "{label}");
        }
        assert_eq!(decode(&format!("xn--{}", "9".repeat(200))), None);
    }

    #[test]
    fn known_labels_are_decoded() {
        for (label, text) in
            [("xn--bcher-kva", "bücher"), ("xn--wgv71a119e", "日本語"), ("XN--80AK6AA92E", "аррӏе"), ("xn--goo1e-zmc", "gooɢ1e")]
        {
            assert_eq!(decode(label).as_deref(), Some(text), "{label}");
        }
    }

    #[test]
    fn any_label_gives_a_value() {
        let mut state = 1_u64;
        for _ in 0..100_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let length = (state >> 40) as usize % 20;
            let mut label = String::from("xn--");
            let mut bits = state;
            for _ in 0..length {
                label.push(char::from(b"abcdefghijklmnopqrstuvwxyz0123456789-"[bits as usize % 37]));
                bits = bits.rotate_right(5).wrapping_mul(3);
            }
            decode(&label);
        }
    }
}
