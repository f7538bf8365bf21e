//! A decision on the way of a name allocates nothing: five hundred rules, a list, identity, a schedule. The counting
//! allocator needs the one unsafe trait; nothing else here does.
#![allow(unsafe_code, clippy::expect_used)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{compile, dns};
use model::{Destination, Question, Station, Timestamp};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn deciding_a_name_allocates_nothing() {
    let mut toml = String::from("[[list]]\nname = \"bad\"\nkind = \"domain\"\nentries = [\"bad.example\", \"worse.example\"]\n");
    let kinds = [
        "any(dns.domains[*] == \"N.example\")",
        "dns.fqdn == \"www.N.example\" and identity.email != \"x\"",
        "any(dns.security_category[*] in {68 80 N})",
        "dns.fqdn wildcard \"*.N.*\"",
        "any(ends_with(dns.domains[*], \"-N.test\"))",
        "lower(dns.fqdn) contains \"-N-\" or len(dns.domains) > 90",
        "dns.src_ip in {10.0.0.0/8} and not dns.query_rtype in {\"A\" \"AAAA\"}",
        "any(dns.domains[*] in $bad)",
        "any(identity.groups[*].name == \"gN\")",
        "dns.fqdn matches \"^xN[a-z]+\\\\.example$\"",
    ];
    for n in 0..500 {
        let when = kinds[n % kinds.len()].replace('N', &n.to_string());
        let hours = if n % 7 == 0 { "schedule = { mon = \"00:00-24:00\", time_zone = \"Asia/Tokyo\" }\n" } else { "" };
        toml.push_str(&format!("[[rule]]\nname = \"r{n}\"\ngate = \"dns\"\naction = \"block\"\nwhen = '{when}'\n{hours}"));
    }
    let policy = compile(&toml);
    let (good, bad) = (dns("www.good.example"), dns("www.bad.example"));
    let destination = || Destination::Client;
    let now = Timestamp::from_seconds(1_800_000_000);
    // Patterns allocate their scratch space when a thread first uses them.
    let warm = policy.permit(&good, destination(), now);
    assert!(warm.1.is_ok() && good.station() == Station::Question);
    let before = ALLOCATIONS.get();
    for _ in 0..100 {
        assert_eq!(policy.decide(&good, Question::Access, now).rule(), None);
        assert!(policy.permit(&good, destination(), now).1.is_ok());
        assert!(policy.permit(&bad, destination(), now).1.is_err());
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
}
