//! What a name alone shows: scripts mixed in one label, labels that look random, and names long enough to carry a
//! tunnel. A name alone is not enough to block on; random-looking and long names are common in advertising and
//! telemetry, so these findings are low.

use intel::{Snapshot, public_suffix, registered_domain, registry_domain};
use model::{Facts, Finding, Severity};
use unicode_security::{RestrictionLevel, RestrictionLevelDetection};

use crate::punycode;

pub const SCRIPTS: &str = "name.scripts";
pub const RANDOM: &str = "name.random";
pub const TUNNEL: &str = "name.tunnel";

/// Shorter labels are never called random: too few characters to tell from an abbreviation.
const RANDOM_LABEL_BYTES_MIN: usize = 12;
/// One in a thousand of 58,414 benign registered domains that several lists agree on lies above 31 (measured 2026-11-24);
/// one more leaves a margin.
const RANDOM_SCORE_MAX: usize = 32;
/// Characters left of the registered domain. One in a thousand of 68,705 popular host names has more than 107 (measured
/// 2026-11-24); tunnels that move data fill a query to about 200.
const TUNNEL_CHARACTERS_MAX: usize = 110;

pub fn inspect_scripts(facts: &Facts, _: &Snapshot) -> Vec<Finding> {
    let Some(host) = crate::host(facts) else {
        return Vec::new();
    };
    for label in host.split('.').filter(|label| punycode::is_encoded(label)) {
        match punycode::decode(label) {
            None => return crate::finding(SCRIPTS, Severity::Low, "a label claims to be punycode and is not", label),
            Some(shown) if mixes_scripts(&shown) => {
                return crate::finding(SCRIPTS, Severity::Medium, "a label mixes scripts that no language mixes", label);
            }
            Some(_) => {}
        }
    }
    Vec::new()
}

/// Scripts beyond those that Unicode Technical Standard 39 section 5.2 calls highly restrictive: Latin with Cyrillic or
/// Greek is refused, Latin with Japanese, Chinese or Korean is not.
pub fn mixes_scripts(label: &str) -> bool {
    !label.detect_restriction_level().le(&RestrictionLevel::HighlyRestrictive)
}

pub fn inspect_random(facts: &Facts, _: &Snapshot) -> Vec<Finding> {
    match crate::host(facts).filter(|host| looks_random(host)) {
        Some(host) => {
            crate::finding(RANDOM, Severity::Low, "the registered domain looks random", registry_domain(host).unwrap_or(host))
        }
        None => Vec::new(),
    }
}

/// Whether what was registered of this host looks random. Names that a hosting company made up for a customer do, and
/// say nothing.
pub fn looks_random(host: &str) -> bool {
    // Most hosts have no label that could score, and need not be looked up among the public suffixes.
    if host.split('.').all(|label| label.len() < RANDOM_LABEL_BYTES_MIN) {
        return false;
    }
    let label = registry_domain(host).and_then(|domain| domain.split('.').next());
    label.is_some_and(|label| random_score(label) > RANDOM_SCORE_MAX)
}

/// Four for each character of the longest run without a vowel, two for each change between letters and digits, one for
/// each character past the shortest length. Words of no human language score high; compound words do not.
pub fn random_score(label: &str) -> usize {
    if label.len() < RANDOM_LABEL_BYTES_MIN || punycode::is_encoded(label) {
        return 0;
    }
    let (mut run, mut longest_run, mut changes) = (0, 0, 0);
    let mut previous = None;
    for byte in label.bytes() {
        run = if is_vowel(byte) || byte == b'-' { 0 } else { run + 1 };
        longest_run = longest_run.max(run);
        if byte != b'-' {
            changes += usize::from(previous.is_some_and(|was_digit| was_digit != byte.is_ascii_digit()));
        }
        previous = (byte != b'-').then_some(byte.is_ascii_digit());
    }
    4 * longest_run + 2 * changes + (label.len() - RANDOM_LABEL_BYTES_MIN)
}

/// `y` counts, since it does in names.
fn is_vowel(byte: u8) -> bool {
    matches!(byte.to_ascii_lowercase(), b'a' | b'e' | b'i' | b'o' | b'u' | b'y')
}

pub fn inspect_tunnel(facts: &Facts, _: &Snapshot) -> Vec<Finding> {
    match crate::host(facts).filter(|host| may_tunnel(host)) {
        Some(host) => {
            let domain = registered_domain(host).unwrap_or(host);
            crate::finding(TUNNEL, Severity::Low, "the name is long enough to carry a tunnel", domain)
        }
        None => Vec::new(),
    }
}

/// Whether more characters than names need stand left of the registered domain. A name under no public suffix is counted
/// whole: tunnels without a domain of their own send `dnscat.<data>.<data>`.
pub fn may_tunnel(host: &str) -> bool {
    if host.len() <= TUNNEL_CHARACTERS_MAX {
        return false;
    }
    let domain = public_suffix(host).and_then(|_| registered_domain(host)).map_or(0, str::len);
    let left = host.as_bytes().get(..host.len() - domain).unwrap_or_default();
    left.iter().filter(|byte| **byte != b'.').count() > TUNNEL_CHARACTERS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_any_language_do_not_look_random() {
        for label in
            ["", "a", "versicherungsvergleich", "1und1", "xn--wgv71a119e", "sanktpeterburg", "stackoverflow", "shinjuku-ku"]
        {
            assert!(!looks_random(&format!("{label}.com")), "{label} {}", random_score(label));
        }
    }

    #[test]
    fn long_random_labels_do() {
        for label in ["x3k9q7zr2w8v5t1n", "qxkzwvbtrplmnghd", "1a2b3c4d5e6f7a8b9c0d1e2f3a4b5c6d"] {
            assert!(looks_random(&format!("www.{label}.com")), "{label} {}", random_score(label));
        }
    }

    #[test]
    fn scripts_of_one_language_may_mix() {
        for label in ["日本語abc", "ブログ漢字", "россия", "bücher", "한국abc"] {
            assert!(!mixes_scripts(label), "{label}");
        }
        for label in ["pаypal", "gοogle", "аррlе"] {
            assert!(mixes_scripts(label), "{label}");
        }
    }

    #[test]
    fn only_long_names_may_tunnel() {
        assert!(!may_tunnel(""));
        assert!(!may_tunnel("www.example.com"));
        assert!(!may_tunnel(&format!("{}.example.com", "a".repeat(63))));
        assert!(may_tunnel(&format!("{}.{}.example.com", "a".repeat(63), "b".repeat(63))));
        assert!(may_tunnel(&format!("dnscat.{}.{}", "a".repeat(63), "b".repeat(60))));
    }
}
