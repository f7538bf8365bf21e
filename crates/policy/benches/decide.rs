//! What one DNS transaction asks of the policy: leave to resolve and leave to answer, with 500 rules of many kinds and a
//! list of a million names. Run with `cargo bench -p policy --bench decide`; it prints the median, the 99th percentile and
//! the slowest of many transactions, the allocations of one, and the bytes of the list. It fails where a bound of the
//! design does not hold: 100 us at the 99th percentile, no allocation, 40 MiB.
#![allow(unsafe_code, clippy::expect_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use model::{Destination, Facts, FieldId, Gate, Station, Timestamp, Value};
use policy::{Document, Policy};

const LIST_NAMES: usize = 1_000_000;
const RULES: usize = 500;
const TRANSACTIONS: usize = 200_000;

const P99_MAX: Duration = Duration::from_micros(100);
const LIST_BYTES_MAX: usize = 40 << 20;

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
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

fn listed(number: usize) -> String {
    format!("host{number:07}.blocked{}.example", number % 997)
}

/// Rules as operators write them: mostly names and categories, some people, patterns, types and one list.
fn document() -> Document {
    let kinds = [
        "any(dns.domains[*] == \"ruleN.example\")",
        "dns.fqdn == \"www.ruleN.example\"",
        "any(dns.domains[*] in {\"aN.test\" \"bN.test\"})",
        "any(dns.domains[*] == \"teamN.example\") and identity.email == \"userN@corp.example\"",
        "any(dns.content_category[*] in {N 1N})",
        "any(identity.groups.name[*] == \"groupN\") and dns.query_rtype == \"TXT\"",
        "dns.fqdn wildcard \"*.tracker-N.*\"",
        "dns.src_ip in {10.N.0.0/16} and any(dns.domains[*] == \"localN.example\")",
        "any(dns.resolved_ips[*] in {198.51.100.N}) and any(dns.domains[*] == \"cdnN.example\")",
    ];
    let mut toml = String::from("[[list]]\nname = \"blocked\"\nkind = \"domain\"\nentries = [");
    for number in 0..LIST_NAMES {
        let _ = write!(toml, "\"{}\",", listed(number));
    }
    toml.push_str("]\n[[rule]]\nname = \"list\"\ngate = \"dns\"\naction = \"block\"\nwhen = 'any(dns.domains[*] in $blocked)'\n");
    for number in 1..RULES {
        let when = kinds[number % kinds.len()].replace('N', &(number % 250).to_string());
        let _ = write!(toml, "[[rule]]\nname = \"r{number}\"\ngate = \"dns\"\naction = \"block\"\nwhen = '{when}'\n");
    }
    Document::from_toml(&toml).expect("the document is well formed")
}

fn question(name: &str) -> Facts {
    let mut facts = Facts::new(Gate::Dns);
    facts.reach(Station::Question);
    for (field, value) in [
        (FieldId::SourceIp, Value::Ip([10, 7, 0, 1].into())),
        (FieldId::UserEmail, Value::text("user3@corp.example")),
        (FieldId::GroupNames, Value::texts(["staff"])),
        (FieldId::DnsFqdn, Value::text(name)),
        (FieldId::DnsDomains, Value::Parents(name.into())),
        (FieldId::DnsQueryType, Value::text("A")),
        (FieldId::DnsContentCategory, Value::ints([155])),
    ] {
        assert!(facts.set(field, value));
    }
    facts
}

fn answered(question: &Facts) -> Facts {
    let mut facts = question.clone();
    facts.reach(Station::Answer);
    assert!(facts.set(FieldId::DnsResolvedIps, Value::ips([[192, 0, 2, 1].into()])));
    facts
}

/// Both decisions of one transaction; true where it passes.
fn transact(policy: &Policy, asked: &Facts, answered: &Facts, name: &model::Text) -> bool {
    let now = Timestamp::from_seconds(1_800_000_000);
    let leave = policy.permit(asked, Destination::Resolve { name: name.clone() }, now).1.is_ok();
    leave && policy.permit(answered, Destination::Client, now).1.is_ok()
}

fn main() {
    let (policy, _) = Policy::compile(&document()).expect("the policy compiles");
    let list_bytes = policy.list("blocked").expect("the list is there").heap_bytes();
    // Half of the names are on the list; nobody asks for the same one twice in a row.
    let names: Vec<model::Text> =
        (0..1_000).map(|n| if n % 2 == 0 { format!("www{n}.site{n}.test").into() } else { listed(n * 997).into() }).collect();
    let facts: Vec<(Facts, Facts)> =
        names.iter().map(|name| question(name)).map(|asked| (asked.clone(), answered(&asked))).collect();
    let mut times = Vec::with_capacity(TRANSACTIONS);
    let mut passed = 0;
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for round in 0..TRANSACTIONS {
        let place = round % names.len();
        let began = Instant::now();
        passed += usize::from(black_box(transact(&policy, &facts[place].0, &facts[place].1, &names[place])));
        times.push(began.elapsed());
    }
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    println!("{RULES} rules, {LIST_NAMES} listed names, {TRANSACTIONS} transactions of two decisions, {passed} passed");
    println!("median {:?}, p99 {:?}, slowest {:?}", at(50), at(99), at(100));
    println!("allocations {allocations}, list {:.1} MiB", list_bytes as f64 / f64::from(1 << 20));
    assert!(at(99) < P99_MAX && allocations == 0 && list_bytes < LIST_BYTES_MAX && passed == TRANSACTIONS / 2);
}
