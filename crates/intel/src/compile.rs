//! Compiles lists and applications into a snapshot. Off the path: it allocates and takes a second for a million names.
//! Sets of lists are numbered, so that a name in the tables costs four bytes however many lists hold it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use crate::CategoryKind;
use crate::brand::{BRANDS_MAX, Brand};
use crate::catalogue::{Application, ApplicationMatch, Catalogue, Relation};
use crate::entries::Scope;
use crate::geography::Geography;
use crate::list::{canonical_url, sha256_bytes};
use crate::pinned::Pinned;
use crate::ranges::{Range, Ranges, parse_range};
use crate::snapshot::{Applications, Aspects, Compiled, Kind, NamedList, Set, Snapshot};
use crate::table::Table;

/// Lists in one snapshot: they are numbered with 16 bits. Far above what an operator subscribes to.
pub const LISTS_MAX: usize = 60_000;

/// Collects lists and compiles them.
#[derive(Debug, Default)]
pub struct Builder {
    catalogue: Catalogue,
    lists: Vec<NamedList>,
    brands: Vec<Brand>,
    geography: Geography,
    pinned: Vec<Pinned>,
    omitted: usize,
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
            Some(present) => present.1 = present.1.with(member.1),
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

    /// Sets the applications that accept only their makers' own certificates.
    pub fn pinned(&mut self, pinned: Vec<Pinned>) -> &mut Builder {
        self.pinned = pinned;
        self
    }

    /// Sets the file that says where addresses are.
    pub fn geography(&mut self, geography: Geography) -> &mut Builder {
        self.geography = geography;
        self
    }

    /// Adds a registered domain whose imitations are looked for. A name without one, and what goes beyond
    /// [`BRANDS_MAX`], is counted as omitted.
    ///
    /// [`BRANDS_MAX`]: crate::brand::BRANDS_MAX
    pub fn add_brand(&mut self, domain: &str) -> &mut Builder {
        match Brand::new(domain) {
            Some(brand) if self.brands.len() < BRANDS_MAX => self.brands.push(brand),
            _ => self.omitted += 1,
        }
        self
    }

    pub fn build(self) -> Snapshot {
        let Builder { catalogue, lists, brands, geography, pinned, omitted } = self;
        let mut compiling = Compiling::new(omitted);
        compiling.digest.update(format!("{brands:?}\n").as_bytes());
        compiling.digest.update(format!("{:?}\n", geography.description()).as_bytes());
        compiling.digest.update(format!("{pinned:?}\n").as_bytes());
        compiling.compiled.pinned = by_host(pinned);
        compiling.compiled.brands = brands.into();
        compiling.compiled.geography = geography;
        for (number, list) in lists.into_iter().enumerate() {
            compiling.add(number as u16, list);
        }
        compiling.applications(&catalogue.applications);
        Snapshot(Arc::new(compiling.finish()))
    }
}

fn by_host(pinned: Vec<Pinned>) -> HashMap<String, Arc<str>> {
    let mut by_host = HashMap::new();
    for Pinned { application, hosts, .. } in pinned {
        let application: Arc<str> = application.into();
        by_host.extend(hosts.into_iter().map(|host| (host, Arc::clone(&application))));
    }
    by_host
}

/// A name taken out of one list.
#[derive(Debug)]
struct Exception {
    name: String,
    list: u16,
    scope: Scope,
}

struct Compiling {
    compiled: Compiled,
    sets: Sets,
    meanings: Vec<Meaning>,
    ranges: Vec<Range>,
    exceptions: Vec<Exception>,
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
        let excepted: HashMap<&str, Scope> = list.exceptions.iter().fold(HashMap::new(), |mut scopes, (name, scope)| {
            scopes.entry(name).and_modify(|present| *present = present.with(scope)).or_insert(scope);
            scopes
        });
        for (name, scope) in list.entries.iter() {
            if !excepted.is_empty() && is_excepted(name, &excepted) {
                continue;
            }
            let added = join(&mut self.compiled.names, &mut self.sets, name.as_bytes(), (number, scope));
            self.count(added);
        }
        self.exceptions.extend(excepted.into_iter().map(|(name, scope)| Exception {
            name: name.to_owned(),
            list: number,
            scope,
        }));
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

    /// Gives each excepted name a set of its own: what it would inherit, less the lists that except it. Shorter names come
    /// first, so that an exception below another starts from what that one left.
    fn except(&mut self) {
        let mut exceptions = std::mem::take(&mut self.exceptions);
        exceptions.sort_unstable_by(|a, b| (a.name.len(), &a.name, a.list).cmp(&(b.name.len(), &b.name, b.list)));
        for group in exceptions.chunk_by(|a, b| a.name == b.name) {
            let Some(Exception { name, .. }) = group.first() else {
                continue;
            };
            self.digest.update(format!("{group:?}").as_bytes());
            let left = |depth| {
                let mut lists = self.effective(name, depth);
                lists.retain(|list| !group.iter().any(|exception| exception.list == *list && applies(exception.scope, depth)));
                lists
            };
            let members = members(&left(0), &left(1));
            let number = self.sets.number(members, true);
            self.compiled.names.upsert(name.as_bytes(), |_| number);
        }
    }

    /// The lists that speak about a name (depth 0) or about a name below it (depth 1), as a look-up would find them.
    fn effective(&self, name: &str, depth: usize) -> Vec<u16> {
        let mut lists: Vec<u16> = Vec::new();
        let mut known: Vec<usize> = Vec::new();
        for (step, parent) in model::name::parents(name).enumerate() {
            let number = self.compiled.names.get(parent.as_bytes());
            let Some((present, closed)) = number.and_then(|number| self.sets.members.get(number as usize)) else {
                continue;
            };
            let mut learned: Vec<usize> = Vec::new();
            for (list, _) in present.iter().filter(|(_, scope)| applies(*scope, depth + step)) {
                let fresh: Vec<usize> = self.aspects_of(*list).into_iter().filter(|aspect| !known.contains(aspect)).collect();
                if !fresh.is_empty() && !lists.contains(list) {
                    lists.push(*list);
                }
                learned.extend(fresh);
            }
            known.extend(learned);
            if *closed {
                break;
            }
        }
        lists
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

/// Whether an exception of the same list covers all of what an entry of this name could say.
fn is_excepted(name: &str, exceptions: &HashMap<&str, Scope>) -> bool {
    model::name::parents(name).enumerate().any(|(depth, parent)| match exceptions.get(parent) {
        Some(Scope::Whole) => true,
        Some(Scope::Below) => depth > 0,
        Some(Scope::Exact) | None => false,
    })
}

/// Two sets of lists as one: those that speak about a name, and those that speak about what is below it.
fn members(itself: &[u16], below: &[u16]) -> Vec<Member> {
    let mut scopes: BTreeMap<u16, Scope> = itself.iter().map(|list| (*list, Scope::Exact)).collect();
    for list in below {
        scopes.entry(*list).and_modify(|scope| *scope = scope.with(Scope::Below)).or_insert(Scope::Below);
    }
    scopes.into_iter().collect()
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
    let support = || matches.iter().filter(|found| found.relation == Relation::Support);
    Applications {
        ids: unique(matches.iter().map(|found| found.application.id).collect()),
        own_ids: unique(own().map(|found| found.application.id).collect()),
        support_ids: unique(support().map(|found| found.application.id).collect()),
        type_ids: unique(matches.iter().map(|found| found.application.type_id).collect()),
        own_type_ids: unique(own().map(|found| found.application.type_id).collect()),
        names: matches.iter().map(|found| Arc::clone(&found.application.name)).collect(),
        own_names: own().map(|found| Arc::clone(&found.application.name)).collect(),
        statuses: matches.iter().map(|found| Arc::clone(&found.application.status)).collect(),
        own_statuses: own().map(|found| Arc::clone(&found.application.status)).collect(),
        matches: matches.into(),
    }
}
