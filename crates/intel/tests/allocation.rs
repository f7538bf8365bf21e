//! A look-up by name or address must not allocate: the DNS path makes one for every question. Counted by an allocator of
//! the test's own, for which the one unsafe trait of the standard library is needed.

#![allow(unsafe_code, reason = "a counting allocator cannot be written without it")]
#![allow(clippy::expect_used, reason = "a test that cannot begin has failed")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use intel::{Catalogue, CategoryKind, Kind, NamedList, Snapshot};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is handed to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above, so from the system allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn lookups_do_not_allocate() {
    let mut builder = Snapshot::builder();
    builder.catalogue(Catalogue::embedded().expect("the catalogue that ships"));
    for (kind, entry) in [(Kind::Domains, "bad.example"), (Kind::Addresses, "192.0.2.0/24")] {
        builder.add_list(NamedList {
            name: "list".into(),
            feed_id: Some(1),
            category: Some(CategoryKind::Security(117)),
            kind,
            entries: [entry].into_iter().collect(),
            exceptions: intel::Entries::new(),
        });
    }
    let snapshot = builder.build();
    let address = "192.0.2.7".parse().expect("an address");
    let before = ALLOCATIONS.with(Cell::get);
    let mut found = 0;
    for host in ["a.b.c.bad.example", "www.example.com", "content.dropboxapi.com", ""] {
        let knowledge = snapshot.name(host);
        let facts = (knowledge.security.clone(), knowledge.feeds.clone(), knowledge.applications.names.clone());
        found += facts.0.len() + facts.2.len();
    }
    found += snapshot.address(address).security.len();
    found += usize::from(snapshot.place(address).country.is_some());
    assert_eq!(ALLOCATIONS.with(Cell::get), before);
    assert_eq!(found, 3);
}
