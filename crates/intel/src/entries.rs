//! A list's entries as one text: a million names cost their bytes and five more each, not an allocation each.

/// What an entry covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// The name alone.
    Exact,
    /// Names below it, and not itself (`*.example.com`).
    Below,
    /// Itself and every name below it.
    Whole,
}

impl Scope {
    /// What two entries of one name cover together.
    pub fn with(self, other: Scope) -> Scope {
        if self == other { self } else { Scope::Whole }
    }
}

/// Entries in the order in which they were added. Entries are unique only when their list was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    text: String,
    ends: Vec<u32>,
    scopes: Vec<Scope>,
}

/// The text of all entries of one list; ends are kept as `u32`. A hundred times the largest public list.
pub const ENTRIES_BYTES_MAX: usize = u32::MAX as usize;

impl Entries {
    pub fn new() -> Entries {
        Entries::default()
    }

    /// Adds an entry; false where the list's text is full.
    pub fn push(&mut self, entry: &str, scope: Scope) -> bool {
        let end = self.text.len().saturating_add(entry.len());
        let Ok(end) = u32::try_from(end) else {
            return false;
        };
        self.text.push_str(entry);
        self.ends.push(end);
        self.scopes.push(scope);
        true
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, Scope)> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .zip(&self.scopes)
            .filter_map(|((start, end), scope)| self.text.get(start as usize..*end as usize).map(|entry| (entry, *scope)))
    }

    /// Only the texts, for lists in which the scope says nothing (addresses, URLs, hashes).
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(entry, _)| entry)
    }
}

impl<S: AsRef<str>> FromIterator<S> for Entries {
    /// Every entry covers itself and what is below it.
    fn from_iter<I: IntoIterator<Item = S>>(items: I) -> Entries {
        let mut entries = Entries::new();
        for item in items {
            entries.push(item.as_ref(), Scope::Whole);
        }
        entries
    }
}
