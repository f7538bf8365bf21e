//! Named lists of up to a million domains, URLs, addresses, hashes, e-mail addresses or numbers, packed into a few
//! allocations and never changed. A look-up allocates nothing. Every hit is compared byte for byte, because the hash is
//! not made to withstand someone who looks for a name that collides with an allowed one.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::Problem;
use crate::set::{Addresses, Ranges, address_range};

/// CX-11: lists of the hosted product are too small to hold a block list; this is what we promise to hold.
pub const ENTRIES_MAX: usize = 1_000_000;

/// The longest entry: the URL length that browsers and proxies agree to carry in practice.
pub const ENTRY_BYTES_MAX: usize = 2_048;

/// A wrong entry is reported by name; after this many the rest is only counted.
const ENTRY_PROBLEMS_MAX: usize = 20;

/// What the entries are. The kind decides how they are made comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Host names, lower case, no trailing dot. On an array of parents a name covers all below it.
    Domain,
    Url,
    /// Addresses, networks and ranges.
    Ip,
    /// MD5, SHA-1 or SHA-256 in hexadecimal.
    Hash,
    /// E-mail addresses, without regard to case.
    Email,
    /// Numbers: categories, applications.
    Int,
    Text,
}

/// A compiled list.
#[derive(Clone, Debug)]
pub struct Table {
    kind: Kind,
    entries: Entries,
}

#[derive(Clone, Debug)]
enum Entries {
    Bytes(Packed),
    Addresses(Addresses),
    Ints(Ranges<i64>),
}

/// Entries one after the other, each behind two bytes of length, and an open-addressed table of where they start.
#[derive(Clone, Debug)]
struct Packed {
    arena: Box<[u8]>,
    /// One byte of hash a slot, so that a miss rarely reads the arena; 0 is an empty slot.
    tags: Box<[u8]>,
    starts: Box<[u32]>,
    entries: usize,
    /// Made of all entries, so that nobody can write a feed whose entries all fall into one slot.
    seed: u64,
}

/// Room in which a look-up makes its key comparable.
type Key = [u8; ENTRY_BYTES_MAX];

impl Kind {
    pub const ALL: &[Kind] = &[Kind::Domain, Kind::Url, Kind::Ip, Kind::Hash, Kind::Email, Kind::Int, Kind::Text];

    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Domain => "domain",
            Kind::Url => "url",
            Kind::Ip => "ip",
            Kind::Hash => "hash",
            Kind::Email => "email",
            Kind::Int => "int",
            Kind::Text => "text",
        }
    }

    /// Whether text is comparable as it stands, which facts nearly always are.
    fn is_folded(self, text: &str) -> bool {
        match self {
            Kind::Hash => false,
            Kind::Domain | Kind::Email => !text.ends_with('.') && !text.bytes().any(|byte| byte.is_ascii_uppercase()),
            _ => true,
        }
    }

    /// Writes the comparable form of an entry; none where it cannot be one.
    fn fold<'k>(self, entry: &str, key: &'k mut Key) -> Option<&'k [u8]> {
        let entry = if self == Kind::Domain { entry.strip_suffix('.').unwrap_or(entry) } else { entry };
        if entry.is_empty() || entry.len() > ENTRY_BYTES_MAX {
            return None;
        }
        if self == Kind::Hash {
            return fold_hash(entry.as_bytes(), key);
        }
        let room = key.get_mut(..entry.len())?;
        room.copy_from_slice(entry.as_bytes());
        if matches!(self, Kind::Domain | Kind::Email) {
            room.make_ascii_lowercase();
        }
        Some(room)
    }

    /// Whether text can be an entry of this kind at all; checked when a list is built, not when it is asked.
    fn accepts(self, entry: &str) -> bool {
        match self {
            Kind::Domain => {
                entry.len() <= model::name::HOST_BYTES_MAX + 1
                    && !entry.contains(|c: char| c.is_whitespace() || matches!(c, '/' | ':' | '*' | '@'))
            }
            Kind::Email => entry.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty()),
            Kind::Hash => matches!(entry.len(), 32 | 40 | 64),
            _ => true,
        }
    }
}

fn fold_hash<'k>(hex: &[u8], key: &'k mut Key) -> Option<&'k [u8]> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|d| d as u8);
    if !hex.len().is_multiple_of(2) {
        return None;
    }
    let room = key.get_mut(..hex.len() / 2)?;
    for (byte, pair) in room.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(room)
}

impl Table {
    /// Builds a list. Entries that cannot be of the kind are left out and told.
    pub fn build<'a>(kind: Kind, entries: impl Iterator<Item = &'a str>) -> (Table, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut refused = 0usize;
        let mut refuse = |entry: &str| {
            refused += 1;
            if refused <= ENTRY_PROBLEMS_MAX {
                let shown: String = entry.chars().take(80).collect();
                problems.push(Problem::new(format!("`{shown}` is no entry of a list of this kind")).expected(kind.as_str()));
            }
        };
        let entries = entries.map(str::trim).filter(|entry| !entry.is_empty()).take(ENTRIES_MAX + 1);
        let entries = match kind {
            Kind::Ip => Entries::Addresses(Addresses::new(entries.filter_map(|entry| {
                let range = address_range(entry);
                range.is_none().then(|| refuse(entry));
                range
            }))),
            Kind::Int => Entries::Ints(Ranges::new(
                entries
                    .filter_map(|entry| {
                        let number = entry.parse().ok();
                        number.is_none().then(|| refuse(entry));
                        number.map(|number| (number, number))
                    })
                    .collect(),
            )),
            _ => Entries::Bytes(Packed::build(kind, entries, &mut refuse)),
        };
        let table = Table { kind, entries };
        if table.len() > ENTRIES_MAX {
            problems.push(Problem::new("the list is too long").expected(format!("at most {ENTRIES_MAX} entries")));
        }
        if refused > ENTRY_PROBLEMS_MAX {
            problems.push(Problem::new(format!("{} more entries are of another kind", refused - ENTRY_PROBLEMS_MAX)));
        }
        (table, problems)
    }

    /// Whether text can be an entry of a list of this kind.
    pub fn accepts(kind: Kind, entry: &str) -> bool {
        Table::build(kind, std::iter::once(entry)).1.is_empty()
    }

    /// The entries of a list of text, in their comparable form; none of addresses and numbers.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        let packed = match &self.entries {
            Entries::Bytes(packed) if self.kind != Kind::Hash => Some(packed),
            _ => None,
        };
        let mut start = 0;
        std::iter::from_fn(move || {
            let entry = packed.filter(|packed| start < packed.arena.len())?.entry(start);
            start += 2 + entry.len();
            Some(std::str::from_utf8(entry).unwrap_or_default())
        })
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Entries after duplicates are gone; for addresses and numbers, ranges after neighbours are joined.
    pub fn len(&self) -> usize {
        match &self.entries {
            Entries::Bytes(packed) => packed.entries,
            Entries::Addresses(addresses) => addresses.len(),
            Entries::Ints(ranges) => ranges.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn has_text(&self, text: &str) -> bool {
        let Entries::Bytes(packed) = &self.entries else { return false };
        if self.kind.is_folded(text) {
            return packed.contains(text.as_bytes());
        }
        let mut key = [0; ENTRY_BYTES_MAX];
        self.kind.fold(text, &mut key).is_some_and(|key| packed.contains(key))
    }

    pub fn has_ip(&self, address: IpAddr) -> bool {
        matches!(&self.entries, Entries::Addresses(addresses) if addresses.contains(address))
    }

    pub fn has_int(&self, number: i64) -> bool {
        matches!(&self.entries, Entries::Ints(ranges) if ranges.contains(number))
    }

    /// Memory that the list holds, bytes.
    pub fn heap_bytes(&self) -> usize {
        match &self.entries {
            Entries::Bytes(packed) => packed.arena.len() + packed.tags.len() + packed.starts.len() * size_of::<u32>(),
            Entries::Addresses(addresses) => addresses.heap_bytes(),
            Entries::Ints(ranges) => ranges.heap_bytes(),
        }
    }
}

impl Packed {
    fn build<'a>(kind: Kind, entries: impl Iterator<Item = &'a str>, refuse: &mut dyn FnMut(&str)) -> Packed {
        let mut arena = Vec::new();
        let mut key = [0; ENTRY_BYTES_MAX];
        let mut written = 0usize;
        for entry in entries {
            match kind.fold(entry, &mut key).filter(|_| kind.accepts(entry)) {
                Some(key) => {
                    arena.extend_from_slice(&(key.len() as u16).to_le_bytes());
                    arena.extend_from_slice(key);
                    written += 1;
                }
                None => refuse(entry),
            }
        }
        arena.shrink_to_fit();
        let slots = (written + written / 2).max(2);
        let mut packed = Packed {
            seed: xxh3_64(&arena),
            arena: arena.into_boxed_slice(),
            tags: vec![0; slots].into_boxed_slice(),
            starts: vec![0; slots].into_boxed_slice(),
            entries: 0,
        };
        packed.index();
        packed
    }

    /// Enters every entry of the arena into the table; an entry that is there already is skipped.
    fn index(&mut self) {
        let mut start = 0;
        while start < self.arena.len() {
            let entry = self.entry(start);
            let next = start + 2 + entry.len();
            if let Err((slot, tag)) = self.find(entry) {
                self.tags[slot] = tag;
                self.starts[slot] = start as u32;
                self.entries += 1;
            }
            start = next;
        }
    }

    fn entry(&self, start: usize) -> &[u8] {
        let length = usize::from(u16::from_le_bytes([self.arena[start], self.arena[start + 1]]));
        &self.arena[start + 2..start + 2 + length]
    }

    fn contains(&self, key: &[u8]) -> bool {
        self.find(key).is_ok()
    }

    /// The slot of an entry, or the free slot and the tag with which it would be entered.
    fn find(&self, key: &[u8]) -> Result<usize, (usize, u8)> {
        let hash = xxh3_64_with_seed(key, self.seed);
        let slots = self.tags.len();
        // The place comes from the upper bits of the hash and the tag from the lower, so that neighbours differ in their tags.
        let tag = (hash as u8).max(1);
        let mut slot = ((u128::from(hash) * slots as u128) >> 64) as usize;
        // A third of the slots is empty, so the walk ends.
        while self.tags[slot] != 0 {
            if self.tags[slot] == tag && self.entry(self.starts[slot] as usize) == key {
                return Ok(slot);
            }
            slot = if slot + 1 == slots { 0 } else { slot + 1 };
        }
        Err((slot, tag))
    }
}
