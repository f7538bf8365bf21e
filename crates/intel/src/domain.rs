//! The registered domain of a host, by the Public Suffix List that the `psl` crate compiles in. Both sections of the list
//! are used, so that customers of one hosting company are kept apart (`a.github.io` and `b.github.io`).

/// The public suffix and one label: `www.example.co.uk` gives `example.co.uk`. None for a suffix itself, for an address
/// and for a single label. The host is expected in canonical form.
pub fn registered_domain(host: &str) -> Option<&str> {
    if host.parse::<std::net::IpAddr>().is_ok() {
        return None;
    }
    psl::domain_str(host)
}

/// The registered domain by the suffixes of registries alone: `a.cloudfront.net` gives `cloudfront.net`. For looking at
/// what somebody chose to register, which a generated customer name below a hosting company's suffix is not.
pub fn registry_domain(host: &str) -> Option<&str> {
    let mut suffix = psl::suffix(host.as_bytes())?;
    while suffix.typ() == Some(psl::Type::Private) {
        let dot = suffix.as_bytes().iter().position(|byte| *byte == b'.')?;
        suffix = psl::suffix(suffix.as_bytes().get(dot + 1..)?)?;
    }
    let before = host.len().checked_sub(suffix.as_bytes().len() + 1)?;
    let label = host.get(..before)?.rsplit('.').next().filter(|label| !label.is_empty())?;
    host.get(before - label.len()..)
}

/// The public suffix of a host, where the list knows it: `www.example.co.uk` gives `co.uk`.
pub fn public_suffix(host: &str) -> Option<&str> {
    psl::suffix(host.as_bytes()).filter(psl::Suffix::is_known).and_then(|suffix| std::str::from_utf8(suffix.as_bytes()).ok()).map(
        |suffix| {
            // The same text, borrowed from the host.
            host.get(host.len() - suffix.len()..).unwrap_or_default()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_registered_domain_gives_none() {
        for host in ["", "com", "co.uk", "localhost", "192.0.2.1", "2001:db8::1", "..", "."] {
            assert_eq!(registered_domain(host), None, "{host}");
        }
    }

    #[test]
    fn the_suffix_may_have_several_labels() {
        assert_eq!(registered_domain("www.example.co.uk"), Some("example.co.uk"));
        assert_eq!(registered_domain("a.b.github.io"), Some("b.github.io"));
        assert_eq!(registered_domain("example.com"), Some("example.com"));
        for (host, domain) in [
            ("d111.cloudfront.net", Some("cloudfront.net")),
            ("cloudfront.net", Some("cloudfront.net")),
            ("www.example.co.uk", Some("example.co.uk")),
            ("s3.eu-west-1.amazonaws.com", Some("amazonaws.com")),
            ("co.uk", None),
            ("com", None),
            ("", None),
        ] {
            assert_eq!(registry_domain(host), domain, "{host}");
        }
        assert_eq!(public_suffix("www.example.co.uk"), Some("co.uk"));
        assert_eq!(public_suffix("host.internal-name-of-nobody"), None);
    }
}
