//! What is looked for, as a person or a feed writes it, and the stored forms that it can have: without case where case says
//! nothing, without the query of a URL, and with Unicode names in the ASCII form in which traffic carries them (UTS 46).

use std::borrow::Cow;
use std::net::IpAddr;

use model::Observable;

use crate::sighting;
use crate::sighting_index::KeyHead;

/// Something to look for. Where its kind is not said, its shape tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Indicator {
    pub kind: Option<Observable>,
    pub value: String,
}

/// One stored form.
pub(crate) struct Candidate {
    pub type_id: i32,
    pub value: String,
    pub key: u128,
    pub head: KeyHead,
}

impl Candidate {
    /// The order of files of sightings.
    pub fn order(&self) -> (i32, &str) {
        (self.type_id, &self.value)
    }
}

impl Indicator {
    pub fn of(kind: Observable, value: impl Into<String>) -> Indicator {
        Indicator { kind: Some(kind), value: value.into() }
    }

    /// An indicator as a person writes it.
    pub fn guess(value: impl Into<String>) -> Indicator {
        Indicator { kind: None, value: value.into() }
    }

    /// The kinds that it can be.
    fn kinds(&self) -> Vec<Observable> {
        if let Some(kind) = self.kind {
            return vec![kind];
        }
        let value = self.value.trim();
        let is_hash = matches!(value.len(), 32 | 40 | 64) && value.bytes().all(|byte| byte.is_ascii_hexdigit());
        if value.parse::<IpAddr>().is_ok() {
            vec![Observable::Ip]
        } else if is_hash {
            vec![Observable::Hash]
        } else if value.contains('/') {
            vec![Observable::Url]
        } else if value.contains('@') {
            vec![Observable::UserName, Observable::Email]
        } else {
            vec![Observable::Hostname, Observable::UserName, Observable::FileName]
        }
    }

    /// Its stored forms.
    fn candidates(&self) -> impl Iterator<Item = Candidate> {
        let value = self.value.trim();
        self.kinds().into_iter().map(move |kind| {
            let value = match (kind, value.parse::<IpAddr>()) {
                (Observable::Ip, Ok(ip)) => ip.to_string(),
                (Observable::Hostname, _) => sighting::normal(kind, &ascii_host(value)).into_owned(),
                (Observable::Url, _) => sighting::normal(kind, &ascii_url(value)).into_owned(),
                _ => sighting::normal(kind, value).into_owned(),
            };
            let type_id = kind.type_id();
            Candidate { key: sighting::key(kind, &value), head: KeyHead::of(type_id, &value), type_id, value }
        })
    }
}

/// The stored forms of all, each once, in the order of files.
pub(crate) fn candidates(indicators: &[Indicator]) -> Vec<Candidate> {
    let mut candidates = indicators.iter().flat_map(Indicator::candidates).collect::<Vec<_>>();
    candidates.sort_unstable_by(|a, b| a.order().cmp(&b.order()));
    candidates.dedup_by(|a, b| a.order() == b.order());
    candidates
}

/// A name as traffic carries it. One that has no such form stays as it is, and is then met by nobody.
fn ascii_host(host: &str) -> Cow<'_, str> {
    if host.is_ascii() {
        return host.into();
    }
    idna::domain_to_ascii(host).map_or(host.into(), Cow::Owned)
}

fn ascii_url(url: &str) -> Cow<'_, str> {
    let begin = url.find("://").map_or(0, |place| place + 3);
    let rest = url.get(begin..).unwrap_or_default();
    let end = begin + rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (Some(scheme), Some(authority), Some(path)) = (url.get(..begin), url.get(begin..end), url.get(end..)) else {
        return url.into();
    };
    if authority.is_ascii() {
        return url.into();
    }
    // User information has no form of its own here, and a port follows the name.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, Some(port)),
        _ => (authority, None),
    };
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    format!("{scheme}{}{port}{path}", ascii_host(host)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_tells_the_kind() {
        let kind = |value: &str| Indicator::guess(value).kinds()[0];
        assert_eq!(kind("192.0.2.1"), Observable::Ip);
        assert_eq!(kind("2001:db8::1"), Observable::Ip);
        assert_eq!(kind(&"aB".repeat(32)), Observable::Hash);
        assert_eq!(kind("https://a.example/b"), Observable::Url);
        assert_eq!(kind("mia@example.com"), Observable::UserName);
        assert_eq!(kind("evil.example"), Observable::Hostname);
    }

    fn form(value: &str) -> String {
        Indicator::guess(value).candidates().next().unwrap().value
    }

    #[test]
    fn stored_forms_carry_no_query_and_no_case() {
        assert_eq!(form("HTTPS://Evil.Example/A?token=1#x"), "https://evil.example/A");
        assert_eq!(form("Evil.Example."), "evil.example");
        assert_eq!(form("2001:DB8:0::1"), "2001:db8::1");
    }

    #[test]
    fn unicode_names_have_the_form_of_traffic() {
        assert_eq!(form("b\u{fc}cher.example"), "xn--bcher-kva.example");
        assert_eq!(form("B\u{dc}CHER.example."), "xn--bcher-kva.example");
        assert_eq!(form("bu\u{308}cher\u{3002}example"), "xn--bcher-kva.example", "a combining mark and a full stop of Japanese");
        assert_eq!(form("https://B\u{fc}cher.example:8443/\u{c4}?q"), "https://xn--bcher-kva.example:8443/\u{c4}");
        assert_eq!(form("xn--bcher-kva.example"), "xn--bcher-kva.example");
        assert_eq!(form("https://a.example/b\u{fc}cher"), "https://a.example/b\u{fc}cher", "a path has no such form");
        // What is no name in any form is looked for as it stands, without an error.
        assert_eq!(form("a\u{ad}\u{200d}b.example\u{fffd}"), "a\u{ad}\u{200d}b.example\u{fffd}");
    }

    #[test]
    fn candidates_stand_in_the_order_of_files_and_once() {
        let host = |name: &str| Indicator::of(Observable::Hostname, name);
        let mut asked = vec![host("b.example"), host("B.example."), host("a.example")];
        asked.extend(["10.0.0.1", "mia@example.com"].map(Indicator::guess));
        let candidates = candidates(&asked);
        assert!(candidates.windows(2).all(|pair| pair[0].order() < pair[1].order() && pair[0].head <= pair[1].head));
        assert_eq!(candidates.len(), 2 + 1 + 2);
    }
}
