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

use xxhash_rust::xxh3::Xxh3;

use crate::CategoryKind;
use crate::catalogue::{Application, ApplicationMatch, Catalogue, Relation};
use crate::entries::{Entries, Scope};
use crate::list::{canonical_url, sha256_bytes};
use crate::ranges::{Range, Ranges, parse_range};
use crate::table::Table;

/// Lists in one snapshot: they are numbered with 16 bits. Far above what an operator subscribes to.
pub const LISTS_MAX: usize = 60_000;

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

/// Immutable and cheap to clone.
#[derive(Clone, Debug)]
pub struct Snapshot(Arc<Compiled>);

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
    pub type_ids: Arc<[i64]>,
    pub own_type_ids: Arc<[i64]>,
    pub names: Arc<[Arc<str>]>,
    pub statuses: Arc<[Arc<str>]>,
}

/// Collects lists and compiles them.
#[derive(Debug, Default)]
pub struct Builder {
    catalogue: Catalogue,
    lists: Vec<NamedList>,
    omitted: usize,
}

#[derive(Debug, Default)]
struct Compiled {
    names: Table,
    urls: Table,
    hashes: Table,
    addresses: Ranges,
    sets: Vec<Set>,
    definitions: String,
    entries: usize,
    omitted: usize,
    nothing: Aspects,
}

/// What the numbers of the tables mean.
#[derive(Clone, Debug, Default)]
struct Set {
    /// Nothing is inherited past this name: what it inherits is already in here, less its exceptions.
    closed: bool,
    itself: Aspects,
    below: Aspects,
}

#[derive(Clone, Debug, Default)]
struct Aspects {
    content: Arc<[i64]>,
    security: Arc<[i64]>,
    feeds: Arc<[i64]>,
    applications: Applications,
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

/// A list as one entry refers to it.
type Member = (u16, Scope);

/// Sets of lists by their number. 0 is the empty set.
struct Sets {
    members: Vec<(Vec<Member>, bool)>,
    numbers: HashMap<(Vec<Member>, bool), u32>,
    joins: HashMap<(u32, Member), u32>,
}

impl Sets {
    fn new() -> Sets {
        let mut sets = Sets { members: Vec::new(), numbers: HashMap::new(), joins: HashMap::new() };
        sets.number(Vec::new(), false);
        sets
    }

    fn number(&mut self, members: Vec<Member>, closed: bool) -> u32 {
        if let Some(number) = self.numbers.get(&(members.clone(), closed)) {
            return *number;
        }
        let number = self.members.len() as u32;
        self.members.push((members.clone(), closed));
        self.numbers.insert((members, closed), number);
        number
    }

    /// The set with one more member.
    fn join(&mut self, set: u32, member: Member) -> u32 {
        if let Some(number) = self.joins.get(&(set, member)) {
            return *number;
        }
        let (mut members, closed) = self.members.get(set as usize).cloned().unwrap_or_default();
        match members.iter_mut().find(|(list, _)| *list == member.0) {
            Some(present) if present.1 == member.1 => {}
            // The name alone and what is below it make the whole.
            Some(present) => present.1 = Scope::Whole,
            None => {
                members.push(member);
                members.sort_unstable();
            }
        }
        let number = self.number(members, closed);
        self.joins.insert((set, member), number);
        number
    }
}

/// What one number of a list stands for while compiling. Applications come after the lists.
enum Meaning {
    List { feed: Option<i64>, category: Option<CategoryKind> },
    Application(ApplicationMatch),
}

impl Builder {
    /// Adds the applications.
    pub fn catalogue(&mut self, catalogue: Catalogue) -> &mut Builder {
        self.catalogue = catalogue;
        self
    }

    /// Adds a list. Beyond [`LISTS_MAX`] its entries are counted as omitted.
    pub fn add_list(&mut self, list: NamedList) -> &mut Builder {
        if self.lists.len() < LISTS_MAX {
            self.lists.push(list);
        } else {
            self.omitted += list.entries.len();
        }
        self
    }

    pub fn build(self) -> Snapshot {
        let Builder { catalogue, lists, omitted } = self;
        let mut compiling = Compiling::new(omitted);
        for (number, list) in lists.into_iter().enumerate() {
            compiling.add(number as u16, list);
        }
        compiling.applications(&catalogue.applications);
        Snapshot(Arc::new(compiling.finish()))
    }
}

struct Compiling {
    compiled: Compiled,
    sets: Sets,
    meanings: Vec<Meaning>,
    ranges: Vec<Range>,
    /// Names taken out of a list, shortest first when they are applied.
    exceptions: Vec<(String, u16)>,
    digest: Xxh3,
}

impl Compiling {
    fn new(omitted: usize) -> Compiling {
        Compiling {
            compiled: Compiled { omitted, ..Compiled::default() },
            sets: Sets::new(),
            meanings: Vec::new(),
            ranges: Vec::new(),
            exceptions: Vec::new(),
            digest: Xxh3::new(),
        }
    }

    fn add(&mut self, number: u16, list: NamedList) {
        self.digest.update(format!("{}\n{:?}\n{:?}\n{:?}\n", list.name, list.feed_id, list.category, list.kind).as_bytes());
        self.meanings.push(Meaning::List { feed: list.feed_id, category: list.category });
        match list.kind {
            Kind::Domains => self.add_names(number, &list),
            Kind::Addresses => self.add_addresses(number, &list),
            Kind::Urls => {
                for url in list.entries.texts() {
                    let added = canonical_url(url)
                        .is_some_and(|key| join(&mut self.compiled.urls, &mut self.sets, key.as_bytes(), (number, Scope::Whole)));
                    self.count(added);
                }
            }
            Kind::Hashes => {
                for hash in list.entries.texts() {
                    let added = sha256_bytes(hash)
                        .is_some_and(|key| join(&mut self.compiled.hashes, &mut self.sets, &key, (number, Scope::Whole)));
                    self.count(added);
                }
            }
        }
    }

    fn add_names(&mut self, number: u16, list: &NamedList) {
        let excepted: std::collections::HashSet<&str> =
            list.exceptions.iter().filter(|(_, scope)| *scope != Scope::Below).map(|(name, _)| name).collect();
        for (name, scope) in list.entries.iter() {
            if !excepted.is_empty() && model::name::parents(name).any(|parent| excepted.contains(parent)) {
                continue;
            }
            let added = join(&mut self.compiled.names, &mut self.sets, name.as_bytes(), (number, scope));
            self.count(added);
        }
        self.exceptions.extend(excepted.into_iter().map(|name| (name.to_owned(), number)));
    }

    fn add_addresses(&mut self, number: u16, list: &NamedList) {
        for (entries, excepted) in [(&list.entries, false), (&list.exceptions, true)] {
            for text in entries.texts() {
                self.digest.update(text.as_bytes());
                self.digest.update(if excepted { b"-" } else { b"+" });
                match parse_range(text) {
                    Some((first, last)) => {
                        self.ranges.push(Range { first, last, list: number, excepted });
                        self.compiled.entries += 1;
                    }
                    None => self.compiled.omitted += 1,
                }
            }
        }
    }

    fn applications(&mut self, applications: &[Arc<Application>]) {
        for application in applications {
            self.digest.update(format!("{application:?}\n").as_bytes());
            for (hosts, relation) in [(&application.hosts, Relation::Own), (&application.support_hosts, Relation::Support)] {
                let number = self.meanings.len();
                let Ok(number) = u16::try_from(number) else {
                    self.compiled.omitted += hosts.len();
                    continue;
                };
                self.meanings.push(Meaning::Application(ApplicationMatch { application: Arc::clone(application), relation }));
                for host in hosts {
                    let added = join(&mut self.compiled.names, &mut self.sets, host.as_bytes(), (number, Scope::Whole));
                    self.count(added);
                }
            }
        }
    }

    fn count(&mut self, added: bool) {
        if added {
            self.compiled.entries += 1;
        } else {
            self.compiled.omitted += 1;
        }
    }

    /// Gives each excepted name a set of its own: what it would inherit, less the lists that except it.
    fn except(&mut self) {
        let mut exceptions = std::mem::take(&mut self.exceptions);
        exceptions.sort_unstable_by(|a, b| (a.0.len(), a).cmp(&(b.0.len(), b)));
        for group in exceptions.chunk_by(|a, b| a.0 == b.0) {
            let Some((name, _)) = group.first() else {
                continue;
            };
            self.digest.update(name.as_bytes());
            let mut members: Vec<Member> = self.effective(name);
            members.retain(|(list, _)| !group.iter().any(|(_, excepted)| excepted == list));
            let number = self.sets.number(members, true);
            self.compiled.names.upsert(name.as_bytes(), |_| number);
        }
    }

    /// The lists that speak about a name, as [`Snapshot::name`] would find them.
    fn effective(&self, name: &str) -> Vec<Member> {
        let mut members: Vec<Member> = Vec::new();
        let mut aspects = [false; 4];
        for (depth, parent) in model::name::parents(name).enumerate() {
            let Some((present, closed)) =
                self.compiled.names.get(parent.as_bytes()).and_then(|number| self.sets.members.get(number as usize))
            else {
                continue;
            };
            let speaking: Vec<Member> = present.iter().copied().filter(|(_, scope)| applies(*scope, depth)).collect();
            let before = aspects;
            for (list, scope) in speaking {
                let fresh: Vec<usize> =
                    self.aspects_of(list).into_iter().filter(|aspect| before.get(*aspect) == Some(&false)).collect();
                for aspect in &fresh {
                    aspects[*aspect] = true;
                }
                if !fresh.is_empty() && !members.iter().any(|(other, _)| *other == list) {
                    // An exact entry stays exact; anything inherited reaches below the exception as well.
                    members.push((list, if depth == 0 { scope } else { Scope::Whole }));
                }
            }
            if *closed {
                break;
            }
        }
        members.sort_unstable();
        members
    }

    /// Which aspects a list speaks about: 0 content, 1 security, 2 feeds, 3 applications.
    fn aspects_of(&self, list: u16) -> Vec<usize> {
        match self.meanings.get(usize::from(list)) {
            Some(Meaning::List { feed, category }) => {
                let category = category.map(|kind| match kind {
                    CategoryKind::Content(_) => 0,
                    CategoryKind::Security(_) => 1,
                });
                category.into_iter().chain(feed.map(|_| 2)).collect()
            }
            Some(Meaning::Application(_)) => vec![3],
            None => Vec::new(),
        }
    }

    fn finish(mut self) -> Compiled {
        self.except();
        let ranges = std::mem::take(&mut self.ranges);
        self.compiled.addresses =
            Ranges::build(&ranges, |lists| self.sets.number(lists.iter().map(|list| (*list, Scope::Whole)).collect(), false));
        for table in [&mut self.compiled.names, &mut self.compiled.urls, &mut self.compiled.hashes] {
            table.shrink();
            self.digest.update(table.text());
        }
        self.compiled.definitions = format!("{:016x}", self.digest.digest());
        self.compiled.sets = self.sets.members.iter().map(|(members, closed)| self.resolve(members, *closed)).collect();
        self.compiled
    }

    fn resolve(&self, members: &[Member], closed: bool) -> Set {
        Set { closed, itself: self.aspects(members, 0), below: self.aspects(members, 1) }
    }

    fn aspects(&self, members: &[Member], depth: usize) -> Aspects {
        let (mut content, mut security, mut feeds, mut matches) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (list, _) in members.iter().filter(|(_, scope)| applies(*scope, depth)) {
            match self.meanings.get(usize::from(*list)) {
                Some(Meaning::List { feed, category }) => {
                    feeds.extend(*feed);
                    match category {
                        Some(CategoryKind::Content(id)) => content.push(*id),
                        Some(CategoryKind::Security(id)) => security.push(*id),
                        None => {}
                    }
                }
                Some(Meaning::Application(found)) => matches.push(found.clone()),
                None => {}
            }
        }
        Aspects {
            content: unique(content),
            security: unique(security),
            feeds: unique(feeds),
            applications: applications(matches),
        }
    }
}

/// Whether an entry of this scope speaks about itself (depth 0) or about a name below it.
fn applies(scope: Scope, depth: usize) -> bool {
    match scope {
        Scope::Whole => true,
        Scope::Exact => depth == 0,
        Scope::Below => depth > 0,
    }
}

fn join(table: &mut Table, sets: &mut Sets, key: &[u8], member: Member) -> bool {
    table.upsert(key, |set| sets.join(set.unwrap_or(0), member))
}

fn unique(mut ids: Vec<i64>) -> Arc<[i64]> {
    ids.sort_unstable();
    ids.dedup();
    ids.into()
}

/// Own matches come first; an application that a host belongs to in both ways is its own.
fn applications(mut matches: Vec<ApplicationMatch>) -> Applications {
    matches.sort_by_key(|found| (found.application.id, found.relation));
    matches.dedup_by_key(|found| found.application.id);
    let own = || matches.iter().filter(|found| found.relation == Relation::Own);
    Applications {
        ids: unique(matches.iter().map(|found| found.application.id).collect()),
        own_ids: unique(own().map(|found| found.application.id).collect()),
        type_ids: unique(matches.iter().map(|found| found.application.type_id).collect()),
        own_type_ids: unique(own().map(|found| found.application.type_id).collect()),
        names: matches.iter().map(|found| Arc::clone(&found.application.name)).collect(),
        statuses: matches.iter().map(|found| Arc::clone(&found.application.status)).collect(),
        matches: matches.into(),
    }
}
