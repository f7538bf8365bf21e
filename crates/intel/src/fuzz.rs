//! Publishers' lists and strangers' names and URLs for this crate's parsers. `fuzz/` calls these functions, and so does
//! the replay of its corpus; nothing in the product does. Each states what must hold whatever the bytes are.

use crate::list::{Format, Limits, Parsed, canonical_url, is_name, parse, sha256_bytes};
use crate::{Catalogue, Entries, NamedList, Snapshot, public_suffix, registered_domain, registry_domain};

/// Small enough that a few lines fill a list.
const LIMITS: Limits = Limits { entries_max: 16, line_bytes_max: 256, skipped_max: 4 };

/// Any text is a list: what it holds is in the form that look-ups use, what it skips is counted, and its bounds hold.
pub fn block_list(bytes: &[u8]) {
    for format in [Format::Auto, Format::Hosts, Format::Adblock, Format::Plain, Format::Rpz] {
        let parsed = parse(format, bytes, LIMITS);
        let held =
            [&parsed.entries, &parsed.exceptions, &parsed.addresses, &parsed.address_exceptions, &parsed.urls, &parsed.hashes];
        assert!(held.iter().map(|entries| entries.len()).sum::<usize>() <= LIMITS.entries_max, "more than fits");
        assert!(parsed.skipped.len() <= LIMITS.skipped_max && parsed.skipped.len() <= parsed.skipped_count);
        assert!(held[..2].iter().flat_map(|names| names.texts()).all(is_name), "no name: {:?}", parsed.entries);
        assert!(parsed.hashes.texts().all(|hash| sha256_bytes(hash).is_some()), "no hash: {:?}", parsed.hashes);
        found(parsed);
    }
}

/// A list finds what it holds, unless it takes it out itself.
fn found(parsed: Parsed) {
    let (names, urls) = (texts(&parsed.entries), texts(&parsed.urls));
    let is_plain = parsed.exceptions.is_empty();
    let mut builder = Snapshot::builder();
    for list in NamedList::from_parsed("list", Some(1), None, parsed) {
        builder.add_list(list);
    }
    let snapshot = builder.build();
    for name in names.iter().filter(|_| is_plain) {
        let below = format!("a.{name}");
        let is_found = [name.as_str(), below.as_str()].iter().any(|name| !snapshot.name(name).is_empty());
        assert!(is_found || below.len() > model::name::HOST_BYTES_MAX, "{name} is in the list and is not found");
    }
    for url in urls {
        assert!(!snapshot.url(&url).is_empty(), "{url} is in the list and is not found");
    }
}

fn texts(entries: &Entries) -> Vec<String> {
    entries.texts().map(str::to_owned).collect()
}

/// Names and URLs have one form: bringing it into form again changes nothing, and parents get shorter and end.
pub fn name_and_url(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(url) = canonical_url(text) {
        let again = canonical_url(&format!("https://{url}"));
        assert!(again.is_none() || again.as_ref() == Some(&url), "{text:?} is {url:?}, and that is {again:?}");
    }
    // A name that still ends in a dot had an empty label, which no gate lets in.
    let Some(name) = model::name::canonical(text).filter(|name| !name.ends_with('.')) else { return };
    let parents: Vec<&str> = model::name::parents(&name).collect();
    assert!(parents.windows(2).all(|pair| pair[1].len() < pair[0].len()), "{parents:?}");
    assert!(parents.iter().all(|parent| model::name::is_within(&name, parent)), "{parents:?}");
    for part in [registered_domain(&name), registry_domain(&name), public_suffix(&name)].into_iter().flatten() {
        assert!(name.ends_with(part), "{part:?} is no end of {name:?}");
    }
}

/// A catalogue of applications is read or refused.
pub fn catalogue(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Catalogue::parse(text);
    }
}
