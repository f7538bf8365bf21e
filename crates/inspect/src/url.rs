//! What a request's URL shows: a public address instead of a name, and credentials where every proxy, log and referrer can
//! read them. The finding names the key and never the value.

use std::net::IpAddr;

use intel::Snapshot;
use model::{Facts, FieldId, Finding, Severity};

use crate::answer::is_private;

pub const ADDRESS: &str = "url.address";
pub const CREDENTIAL: &str = "url.credential";

/// Query keys whose values are secrets by their name alone. `token` and `key` are left out: pages use them for much that
/// is not secret.
const SECRET_KEYS: &[&str] = &[
    "password",
    "passwd",
    "pwd",
    "passphrase",
    "access_token",
    "refresh_token",
    "client_secret",
    "api_key",
    "apikey",
    "secret_key",
    "private_key",
];
/// Pairs that are looked at; a longer query is a form of its own kind, and the time is bounded.
const PAIRS_MAX: usize = 100;

pub fn inspect_address(facts: &Facts, _: &Snapshot) -> Vec<Finding> {
    let Some(host) = crate::text(facts, FieldId::HttpHost) else {
        return Vec::new();
    };
    match address(host) {
        Some(ip) if !is_private(ip) => {
            crate::finding(ADDRESS, Severity::Low, "the request goes to a public address without a name", &ip.to_string())
        }
        _ => Vec::new(),
    }
}

pub fn inspect_credential(facts: &Facts, _: &Snapshot) -> Vec<Finding> {
    let url = crate::text(facts, FieldId::HttpUrl).unwrap_or_default();
    let query =
        crate::text(facts, FieldId::HttpQuery).or_else(|| url.split_once('?').map(|(_, query)| query)).unwrap_or_default();
    let what = if has_password(url) { Some("user information") } else { secret_key(query) };
    let severity = if url.starts_with("http:") { Severity::Medium } else { Severity::Low };
    match what {
        Some(what) => crate::finding(CREDENTIAL, severity, "the URL carries a credential", what),
        None => Vec::new(),
    }
}

/// `192.0.2.1`, `[2001:db8::1]`, with or without a port.
fn address(host: &str) -> Option<IpAddr> {
    if let Some(inner) = host.strip_prefix('[') {
        return inner.split_once(']').and_then(|(inner, _)| inner.parse().ok());
    }
    host.parse().ok().or_else(|| host.rsplit_once(':').and_then(|(host, _)| host.parse().ok()))
}

/// `scheme://user:password@host`
fn has_password(url: &str) -> bool {
    let authority = url.split_once("://").map(|(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or_default());
    let user = authority.and_then(|authority| authority.rsplit_once('@')).map(|(user, _)| user);
    user.and_then(|user| user.split_once(':')).is_some_and(|(_, password)| !password.is_empty())
}

/// The first key that is a secret's and has a value.
fn secret_key(query: &str) -> Option<&'static str> {
    let pairs = query.trim_start_matches('?').split('&').take(PAIRS_MAX).filter_map(|pair| pair.split_once('='));
    let mut keys = pairs.filter(|(_, value)| !value.is_empty()).map(|(key, _)| key);
    keys.find_map(|key| SECRET_KEYS.iter().find(|secret| key.eq_ignore_ascii_case(secret)).copied())
}

#[cfg(test)]
mod tests {
    use model::{Gate, Station, Value};

    use super::*;

    fn facts(host: &str, url: &str) -> Facts {
        let mut facts = Facts::new(Gate::Web);
        facts.reach(Station::Request);
        facts.set(FieldId::HttpHost, Value::text(host));
        facts.set(FieldId::HttpUrl, Value::text(url));
        facts
    }

    #[test]
    fn names_and_private_addresses_are_left_alone() {
        for host in ["example.com", "10.0.0.1:8080", "[fd00::1]", "1.2.3", "", "[", "example.com:443"] {
            assert!(inspect_address(&facts(host, ""), &Snapshot::empty()).is_empty(), "{host}");
        }
        for host in ["192.0.2.1", "192.0.2.1:8080", "[2001:db8::1]", "[2001:db8::1]:443", "2001:db8::1"] {
            assert_eq!(inspect_address(&facts(host, ""), &Snapshot::empty()).len(), 1, "{host}");
        }
    }

    #[test]
    fn a_credential_is_named_and_never_shown() {
        for url in [
            "https://example.com/?token=x",
            "https://example.com/?password=",
            "https://user@example.com/",
            "https://example.com/a@b:c?x=1",
            "https://example.com/?nopassword=1",
        ] {
            assert!(inspect_credential(&facts("example.com", url), &Snapshot::empty()).is_empty(), "{url}");
        }
        for url in [
            "https://example.com/?a=1&Password=hunter2",
            "http://user:hunter2@example.com/",
            "https://example.com/x?access_token=hunter2#y",
        ] {
            let findings = inspect_credential(&facts("example.com", url), &Snapshot::empty());
            assert_eq!(findings.len(), 1, "{url}");
            assert!(!format!("{findings:?}").contains("hunter2"), "{url}");
        }
    }
}
