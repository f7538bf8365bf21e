//! The decisions on the way of a name allocate nothing, from the question to the answer: five hundred rules, a list,
//! identity, a schedule, names short and long. The counting allocator needs the one unsafe trait; nothing else here does.
#![allow(unsafe_code, clippy::expect_used)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{compile, dns};
use model::{Destination, FieldId, Question, Station, Text, Timestamp, Value};

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

    // A whole transaction: leave to ask for the name, longer than what a text holds in place, and leave to answer.
    let name = Text::from("www.a-name-that-is-longer-than-most.good.example");
    let asked = dns(&name);
    let mut answered = asked.clone();
    answered.reach(Station::Answer);
    assert!(answered.set(FieldId::DnsResolvedIps, Value::ips([[192, 0, 2, 1].into()])));
    let before = ALLOCATIONS.get();
    for _ in 0..100 {
        let (decision, permit) = policy.permit(&asked, Destination::Resolve { name: name.clone() }, now);
        assert!(decision.rule().is_none() && permit.is_ok_and(|permit| permit.station() == Station::Question));
        assert!(policy.permit(&answered, Destination::Client, now).1.is_ok());
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
}
