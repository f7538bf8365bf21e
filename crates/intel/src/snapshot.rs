//! Everything known, compiled and immutable. A snapshot is built off the path, swapped in whole and then only read;
//! a look-up by name allocates nothing.
//!
//! Several lists may hold one name. Each aspect (content, security, feeds, applications) is taken from the most specific
//! listed name that has it: an uncategorised subdomain inherits its parent, a categorised one carries only its own
//! (CT-06). An exception of a list takes a name, and all below it, out of that list only: somebody's allow rule for an
//! advertising list never hides what a malware list says.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::CategoryKind;
use crate::brand::Brand;
use crate::catalogue::ApplicationMatch;
use crate::compile::Builder;
use crate::entries::Entries;
use crate::geography::{Geography, Place};
use crate::list::{Parsed, canonical_url, sha256_bytes};
use crate::ranges::Ranges;
use crate::table::Table;

/// What the entries of a list are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Domains,
    Urls,
    Addresses,
    /// SHA-256 in hexadecimal.
    Hashes,
}

/// A list with its meaning.
#[derive(Clone, Debug)]
pub struct NamedList {
    pub name: Arc<str>,
    /// The number that `dns.indicator_feed` shows; none for lists that are no feed.
    pub feed_id: Option<i64>,
    pub category: Option<CategoryKind>,
    pub kind: Kind,
    pub entries: Entries,
    pub exceptions: Entries,
}

impl NamedList {
    /// The lists that one text makes: its names, addresses, URLs and hashes each have a list of their own, with the same
    /// name and meaning.
    pub fn from_parsed(name: &str, feed_id: Option<i64>, category: Option<CategoryKind>, parsed: Parsed) -> Vec<NamedList> {
        let name: Arc<str> = name.into();
        // Without names of its own the important list has nothing to take out.
        let overrules = if parsed.important.is_empty() { Entries::new() } else { parsed.important_exceptions };
        let kinds = [
            (Kind::Domains, parsed.entries, parsed.exceptions),
            (Kind::Domains, parsed.important, overrules),
            (Kind::Addresses, parsed.addresses, parsed.address_exceptions),
            (Kind::Urls, parsed.urls, Entries::new()),
            (Kind::Hashes, parsed.hashes, Entries::new()),
        ];
        let held = kinds.into_iter().filter(|(_, entries, exceptions)| !entries.is_empty() || !exceptions.is_empty());
        held.map(|(kind, entries, exceptions)| NamedList {
            name: Arc::clone(&name),
            feed_id,
            category,
            kind,
            entries,
            exceptions,
        })
        .collect()
    }
}

/// Immutable and cheap to clone.
#[derive(Clone, Debug)]
pub struct Snapshot(pub(crate) Arc<Compiled>);

/// What is known about one name, address, URL or file. Every slice is shared, so that a fact is made of it by cloning
/// the pointer.
#[derive(Clone, Copy, Debug)]
pub struct Knowledge<'a> {
    pub content: &'a Arc<[i64]>,
    pub security: &'a Arc<[i64]>,
    pub feeds: &'a Arc<[i64]>,
    pub applications: &'a Applications,
}

pub type NameKnowledge<'a> = Knowledge<'a>;

/// The applications that a host belongs to, ready as facts. `own` is what a block looks at, `all` what an allow does.
#[derive(Clone, Debug, Default)]
pub struct Applications {
    pub matches: Arc<[ApplicationMatch]>,
    pub ids: Arc<[i64]>,
    pub own_ids: Arc<[i64]>,
    pub support_ids: Arc<[i64]>,
    pub type_ids: Arc<[i64]>,
    pub own_type_ids: Arc<[i64]>,
    pub names: Arc<[Arc<str>]>,
    pub own_names: Arc<[Arc<str>]>,
    pub statuses: Arc<[Arc<str>]>,
    pub own_statuses: Arc<[Arc<str>]>,
}

#[derive(Debug, Default)]
pub(crate) struct Compiled {
    pub names: Table,
    pub urls: Table,
    pub hashes: Table,
    pub addresses: Ranges,
    pub sets: Vec<Set>,
    pub brands: Box<[Brand]>,
    pub geography: Geography,
    pub pinned: HashMap<String, Arc<str>>,
    pub definitions: String,
    pub entries: usize,
    pub omitted: usize,
    pub nothing: Aspects,
}

/// What the numbers of the tables mean.
#[derive(Clone, Debug, Default)]
pub(crate) struct Set {
    /// Nothing is inherited past this name: what it inherits is already in here, less its exceptions.
    pub closed: bool,
    pub itself: Aspects,
    pub below: Aspects,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Aspects {
    pub content: Arc<[i64]>,
    pub security: Arc<[i64]>,
    pub feeds: Arc<[i64]>,
    pub applications: Applications,
}

impl Snapshot {
    /// Knows nothing.
    pub fn empty() -> Snapshot {
        Snapshot(Arc::new(Compiled { sets: vec![Set::default()], ..Compiled::default() }))
    }

    pub fn builder() -> Builder {
        Builder::default()
    }

    /// What is known about a host in canonical form. Allocates nothing.
    pub fn name(&self, host: &str) -> NameKnowledge<'_> {
        let mut knowledge = self.nothing();
        for (depth, name) in model::name::parents(host).enumerate() {
            let Some(set) = self.0.names.get(name.as_bytes()).and_then(|number| self.0.sets.get(number as usize)) else {
                continue;
            };
            knowledge.inherit(if depth == 0 { &set.itself } else { &set.below });
            if set.closed {
                break;
            }
        }
        knowledge
    }

    /// What is known about an address: every list that covers it.
    pub fn address(&self, ip: IpAddr) -> Knowledge<'_> {
        self.knowledge(Some(self.0.addresses.get(ip)))
    }

    /// What is known about a URL, with or without its query; the fragment, the scheme and a default port do not count.
    /// What is known about its host is not repeated here.
    pub fn url(&self, url: &str) -> Knowledge<'_> {
        // Most installations have no list of URLs, and every request asks.
        if self.0.urls.text().is_empty() {
            return self.nothing();
        }
        let Some(key) = canonical_url(url) else {
            return self.nothing();
        };
        let exact = self.0.urls.get(key.as_bytes());
        let number = exact.or_else(|| key.split_once('?').and_then(|(page, _)| self.0.urls.get(page.as_bytes())));
        self.knowledge(number)
    }

    /// What is known about a file by its SHA-256 in hexadecimal.
    pub fn hash(&self, sha256: &str) -> Knowledge<'_> {
        self.knowledge(sha256_bytes(sha256).and_then(|hash| self.0.hashes.get(&hash)))
    }

    /// Where an address is, by the operator's file. Allocates nothing.
    pub fn place(&self, ip: IpAddr) -> Place<'_> {
        self.0.geography.place(ip)
    }

    /// The autonomous system that an address belongs to, by the operator's file.
    pub fn system(&self, ip: IpAddr) -> Option<u32> {
        self.0.geography.system(ip)
    }

    /// Whether [`Snapshot::place`] can tell anything.
    pub fn knows_places(&self) -> bool {
        self.0.geography.is_open()
    }

    /// The application that accepts only its maker's own certificates at this host, if one does.
    pub fn pinned(&self, host: &str) -> Option<&Arc<str>> {
        model::name::parents(host).find_map(|name| self.0.pinned.get(name))
    }

    /// The names whose imitations are looked for.
    pub fn brands(&self) -> &[Brand] {
        &self.0.brands
    }

    /// Bytes that the compiled lists hold on the heap.
    pub fn heap_bytes(&self) -> usize {
        let tables = [&self.0.names, &self.0.urls, &self.0.hashes];
        tables.iter().map(|table| table.heap_bytes()).sum::<usize>()
            + self.0.addresses.heap_bytes()
            + self.0.sets.capacity() * size_of::<Set>()
    }

    /// Changes whenever anything known changes; the same content gives the same text.
    pub fn definitions(&self) -> &str {
        &self.0.definitions
    }

    /// Names, addresses, URLs and hashes that were compiled in.
    pub fn entries(&self) -> usize {
        self.0.entries
    }

    /// Entries that could not be used: not of their list's kind, or over a bound.
    pub fn omitted(&self) -> usize {
        self.0.omitted
    }

    fn nothing(&self) -> Knowledge<'_> {
        Knowledge::of(&self.0.nothing)
    }

    fn knowledge(&self, number: Option<u32>) -> Knowledge<'_> {
        match number.and_then(|number| self.0.sets.get(number as usize)) {
            Some(set) => Knowledge::of(&set.itself),
            None => self.nothing(),
        }
    }
}

impl Default for Snapshot {
    fn default() -> Snapshot {
        Snapshot::empty()
    }
}

impl<'a> Knowledge<'a> {
    fn of(aspects: &'a Aspects) -> Knowledge<'a> {
        Knowledge {
            content: &aspects.content,
            security: &aspects.security,
            feeds: &aspects.feeds,
            applications: &aspects.applications,
        }
    }

    /// Takes each aspect that is still unknown.
    fn inherit(&mut self, parent: &'a Aspects) {
        if self.content.is_empty() {
            self.content = &parent.content;
        }
        if self.security.is_empty() {
            self.security = &parent.security;
        }
        if self.feeds.is_empty() {
            self.feeds = &parent.feeds;
        }
        if self.applications.matches.is_empty() {
            self.applications = &parent.applications;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.content.is_empty() && self.security.is_empty() && self.feeds.is_empty() && self.applications.matches.is_empty()
    }
}
