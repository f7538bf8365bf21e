//! Measures the name inspectors on whole lists of names: how many benign names each one finds, which is bounded, and how
//! many bad ones, which is printed. The lists are not part of the project; without them the test says so and passes.

#![allow(clippy::expect_used, reason = "a test that cannot begin has failed")]

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use inspect::lookalike::{Resemblance, resembles};
use inspect::name::{looks_random, may_tunnel, mixes_scripts};
use inspect::punycode;
use intel::Brand;

/// One false finding in a thousand benign names.
const FALSE_PER_MILLION_MAX: usize = 1000;
/// A list decompresses to some twenty mebibytes; more is another file.
const LIST_BYTES_MAX: u64 = 256 << 20;

fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("SEKISHO_SHARED_DATA").map(PathBuf::from).filter(|folder| folder.join("names").is_dir());
    if folder.is_none() {
        println!("skipped: SEKISHO_SHARED_DATA names no folder with lists of names");
    }
    folder
}

/// The rows of a compressed table, without its head.
fn rows(folder: &Path, file: &str) -> Vec<Vec<String>> {
    let packed = std::fs::File::open(folder.join("names").join(file)).expect(file);
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed).take(LIST_BYTES_MAX).read_to_string(&mut text).expect(file);
    text.lines().skip(1).map(|line| line.split(',').map(str::to_owned).collect()).collect()
}

fn column(rows: &[Vec<String>], at: usize) -> Vec<&str> {
    rows.iter().filter_map(|row| row.get(at).map(String::as_str)).collect()
}

fn per_million(names: &[&str], is_found: impl Fn(&str) -> bool) -> usize {
    let found = names.iter().filter(|name| is_found(name)).count();
    found * 1_000_000 / names.len().max(1)
}

fn by_group(rows: &[Vec<String>], group: usize, name: usize) -> BTreeMap<&str, Vec<&str>> {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for row in rows {
        if let (Some(group), Some(name)) = (row.get(group), row.get(name)) {
            groups.entry(group).or_default().push(name);
        }
    }
    groups
}

fn has_mixed_label(host: &str) -> bool {
    host.split('.').filter_map(punycode::decode).any(|label| mixes_scripts(&label))
}

fn has_broken_label(host: &str) -> bool {
    host.split('.').any(|label| punycode::is_encoded(label) && punycode::decode(label).is_none())
}

/// An inspector's name and its measure of one host.
type Measured<'a> = (&'a str, &'a dyn Fn(&str) -> bool);

#[test]
fn benign_names_are_left_alone() {
    let Some(folder) = folder() else {
        return;
    };
    let registered = rows(&folder, "benign/registered_domains.csv.gz");
    let tier = |wanted: &str| -> Vec<&str> {
        registered
            .iter()
            .filter(|row| row.get(1).is_some_and(|tier| tier == wanted))
            .filter_map(|row| row.first().map(String::as_str))
            .collect()
    };
    let (agreed, single) = (tier("1"), tier("2"));
    let hard = rows(&folder, "benign/hard_registered.csv.gz");
    let hosts = rows(&folder, "benign/umbrella_fqdn.csv.gz");
    let hard_hosts = rows(&folder, "benign/hard_fqdn.csv.gz");
    let (hard, hosts, hard_hosts) = (column(&hard, 0), column(&hosts, 1), column(&hard_hosts, 0));
    let brands: Vec<Brand> = brands(&folder);
    let inspectors: [Measured; 5] = [
        ("random", &looks_random),
        ("tunnel", &may_tunnel),
        ("mixed scripts", &has_mixed_label),
        ("broken punycode", &has_broken_label),
        ("lookalike", &|name| resembles(name, &brands).is_some()),
    ];
    for (inspector, is_found) in inspectors {
        let rates = [&agreed, &single, &hard, &hosts, &hard_hosts].map(|names| per_million(names, is_found));
        println!(
            "{inspector}, false findings per million: agreed {} ({}), one list {} ({}), hard {} ({}), hosts {} ({}), hard hosts {} ({})",
            rates[0],
            agreed.len(),
            rates[1],
            single.len(),
            rates[2],
            hard.len(),
            rates[3],
            hosts.len(),
            rates[4],
            hard_hosts.len()
        );
        // Host names show tunnels, registered domains all else; host names of one domain are one name many times over.
        let bounded = if inspector == "tunnel" { rates[3] } else { rates[0] };
        assert!(bounded <= FALSE_PER_MILLION_MAX, "{inspector}: {bounded}");
    }
}

fn brands(folder: &Path) -> Vec<Brand> {
    let text = std::fs::read_to_string(folder.join("names/lookalike/brands.txt")).expect("the brands");
    text.lines().filter_map(Brand::new).collect()
}

#[test]
fn bad_names_are_found_as_far_as_a_name_shows() {
    let Some(folder) = folder() else {
        return;
    };
    let families = rows(&folder, "dga/families.csv.gz");
    let families = by_group(&families, 0, 1);
    let rates: Vec<(usize, &str)> =
        families.iter().map(|(family, names)| (per_million(names, looks_random) / 10_000, *family)).collect();
    let mean = rates.iter().map(|(rate, _)| rate).sum::<usize>() / rates.len().max(1);
    println!("random, percent of generated names found: mean over {} families {mean}, {rates:?}", rates.len());

    let permutations = rows(&folder, "lookalike/permutations.csv.gz");
    let brands = brands(&folder);
    for (kind, names) in by_group(&permutations, 1, 2) {
        let percent = |wanted: Resemblance| {
            per_million(&names, |name| resembles(name, &brands).is_some_and(|(_, is)| is == wanted)) / 10_000
        };
        println!(
            "lookalike {kind} ({}): confusable {} %, slip {} %",
            names.len(),
            percent(Resemblance::Confusable),
            percent(Resemblance::Slip)
        );
    }

    let queries = rows(&folder, "tunnel/queries.csv.gz");
    for (scenario, names) in by_group(&queries, 0, 5) {
        let percent = per_million(&names, |name| may_tunnel(&name.to_ascii_lowercase())) / 10_000;
        if percent > 0 || !scenario.starts_with("ndpi_") {
            println!("tunnel {scenario} ({}): {percent} % of queries", names.len());
        }
    }
}
