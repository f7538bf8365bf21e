//! Host names in the one form that policy, lists and record share: lower case, no trailing dot, ASCII (punycode).

/// The longest host name in text form without its trailing dot (RFC 1035 section 3.1: 255 octets on the wire).
pub const HOST_BYTES_MAX: usize = 253;

/// The name and each parent, longest first: `a.b.c`, `b.c`, `c` (DN-02).
pub fn parents(host: &str) -> impl Iterator<Item = &str> {
    let mut rest = (!host.is_empty()).then_some(host);
    std::iter::from_fn(move || {
        let name = rest?;
        rest = name.split_once('.').map(|(_, parent)| parent).filter(|parent| !parent.is_empty());
        Some(name)
    })
}

/// Lower case and without the trailing dot; none where it is empty or longer than a name can be, or still ends with a dot:
/// `bad.example..` would be compared with no list that has `bad.example`.
pub fn canonical(host: &str) -> Option<String> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let is_name = !host.is_empty() && host.len() <= HOST_BYTES_MAX && !host.ends_with('.');
    is_name.then(|| host.to_ascii_lowercase())
}

/// Whether [`canonical`] would give the text back as it is.
pub fn is_canonical(host: &str) -> bool {
    let is_bounded = !host.is_empty() && host.len() <= HOST_BYTES_MAX && !host.ends_with('.');
    is_bounded && !host.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// Whether `host` is `domain` itself or a name below it.
pub fn is_within(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|head| head.is_empty() || head.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_of_odd_names_end() {
        assert_eq!(parents("").count(), 0);
        assert_eq!(parents("com").collect::<Vec<_>>(), ["com"]);
        assert_eq!(parents("a.b.c").collect::<Vec<_>>(), ["a.b.c", "b.c", "c"]);
        assert_eq!(parents("a.").collect::<Vec<_>>(), ["a."]);
    }

    #[test]
    fn a_canonical_name_is_one_that_stays_as_it_is() {
        let long = "a".repeat(HOST_BYTES_MAX + 1);
        for host in ["", ".", "a", "a.", "A", "a.b", "a..", "\u{e9}", &long, &long[1..]] {
            assert_eq!(is_canonical(host), canonical(host).is_some_and(|canonical| canonical == host), "{host}");
        }
    }

    #[test]
    fn within_needs_a_label_border() {
        assert!(is_within("www.example.com", "example.com"));
        assert!(is_within("example.com", "example.com"));
        assert!(!is_within("badexample.com", "example.com"));
    }

    #[test]
    fn a_name_is_within_each_of_its_parents_and_nothing_else() {
        let names = ["", ".", "a", "a.", ".a", "a.b", "a..b", "b", "..", "a.b.c", "xa.b", "b.c", ".b"];
        for host in names {
            for domain in names.iter().filter(|domain| !domain.is_empty()) {
                // A name is canonical before it is asked about, so its end is never a dot.
                if !host.ends_with('.') {
                    assert_eq!(is_within(host, domain), parents(host).any(|parent| parent == *domain), "{host:?} in {domain:?}");
                }
            }
        }
    }

    #[test]
    fn canonical_refuses_what_cannot_be_a_name() {
        assert_eq!(canonical("."), None);
        assert_eq!(canonical("bad.example.."), None);
        assert_eq!(canonical(&"a".repeat(254)), None);
        assert_eq!(canonical("WWW.Example.COM.").as_deref(), Some("www.example.com"));
    }
}
