use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

use aya::programs::TestRun;
use aya::programs::TestRunOptions;
use sha2::{Digest, Sha256};

use super::kernel::PacketPath;
use super::model::{Reason, judge};
use super::tables::{PacketRule, Tables};
use crate::admission::Source;
use crate::detect::fingerprint::Fingerprint;
use crate::detect::packet::{Attribute, Packet};
use crate::testing::Numbers;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bpf")
}

/// The loaded program; none, with the reason told, where the kernel or the user may not.
fn loaded() -> Option<PacketPath> {
    if std::env::var_os("SEKISHO_TEST_SYSTEM").is_none() {
        println!("skipped: loads a program into the kernel; set SEKISHO_TEST_SYSTEM=1");
        return None;
    }
    Some(PacketPath::load().unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error))))
}

#[test]
fn the_committed_object_is_what_its_digest_says() {
    let object = std::fs::read(folder().join("shield.bpf.o")).unwrap();
    let digest: String = Sha256::digest(&object).iter().map(|byte| format!("{byte:02x}")).collect();
    let written = std::fs::read_to_string(folder().join("shield.bpf.o.sha256")).unwrap();
    assert_eq!(written.split_whitespace().next(), Some(digest.as_str()), "run bpf/build.sh and commit what it makes");
}

#[test]
fn the_object_is_built_again_from_its_source_to_the_byte() {
    if Command::new("clang-14").arg("--version").output().is_err()
        || Command::new("llvm-strip-14").arg("--version").output().is_err()
    {
        return println!("skipped: clang-14 or llvm-strip-14 is not here");
    }
    let out = tempfile::tempdir().unwrap();
    let made = out.path().join("again.o");
    let built = Command::new(folder().join("build.sh")).arg(&made).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let committed = std::fs::read(folder().join("shield.bpf.o")).unwrap();
    assert!(std::fs::read(made).unwrap() == committed, "the source was changed without the object: run bpf/build.sh");
}

/// Addresses from a small set, so that tables hold some of them.
fn address(numbers: &mut Numbers, is_v4: bool) -> IpAddr {
    let low = numbers.below(6);
    match is_v4 {
        true => Ipv4Addr::new(203, 0, (113 + numbers.below(2)) as u8, low as u8).into(),
        false => Ipv6Addr::from(0x2001_0db8_0000_0000_0000_0000_0000_0000 | u128::from(numbers.below(3)) << 64 | u128::from(low))
            .into(),
    }
}

/// A frame with a header chain that may be cut off or wrong.
fn frame(numbers: &mut Numbers) -> Vec<u8> {
    let is_v4 = numbers.below(2) == 0;
    let (source, destination) = (address(numbers, is_v4), address(numbers, is_v4));
    let protocol = [6, 6, 17, 17, 1, 58, 47, 44][numbers.below(8) as usize];
    let mut frame = vec![0; 12];
    let small = |numbers: &mut Numbers| [0, 53, 443, 11_211, 123][numbers.below(5) as usize] as u16;
    let mut behind = small(numbers).to_be_bytes().to_vec();
    behind.extend(small(numbers).to_be_bytes());
    behind.extend((0..36).map(|_| numbers.below(4) as u8));
    if protocol == 6 {
        behind[12] = [0x50, 0x60, 0x20, 0xf0][numbers.below(4) as usize];
        behind[13] = numbers.next() as u8 & 0x3f;
    }
    let offset: u16 = [0, 0, 0, 1][numbers.below(4) as usize];
    let has_more = numbers.below(4) == 0;
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([8, 0]);
            let words = [5, 5, 6, 4, 15][numbers.below(5) as usize];
            let at = frame.len();
            frame.extend([0x40 | words, 0, 0, numbers.below(3) as u8 + 60, 0, 0]);
            frame.extend((offset | if has_more { 0x2000 } else { 0 }).to_be_bytes());
            frame.extend([(60 + numbers.below(3)) as u8, protocol, 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
            frame.resize((at + usize::from(words) * 4).max(frame.len()), 1);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, numbers.below(3) as u8 + 20, protocol, (60 + numbers.below(3)) as u8]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
            if protocol == 44 {
                frame.extend([[6, 17][numbers.below(2) as usize], 0]);
                frame.extend((offset << 3 | u16::from(has_more)).to_be_bytes());
                frame.extend([0; 4]);
            }
        }
        _ => {}
    }
    frame.extend(behind);
    match numbers.below(10) {
        0 => frame.truncate(numbers.below(frame.len() as u64) as usize),
        1 => frame[12] = numbers.next() as u8,
        2 => {
            let place = numbers.below(frame.len() as u64) as usize;
            frame[place] = numbers.next() as u8;
        }
        _ => {}
    }
    frame
}

/// Tables that hit a part of these frames in every way.
fn tables(numbers: &mut Numbers) -> Tables {
    let network = |text: &str| text.parse().unwrap();
    let mut tables = Tables {
        is_enforced: numbers.below(8) != 0,
        drop_fragments: numbers.below(2) == 0,
        drop_bogus: numbers.below(2) == 0,
        protected: [(network("203.0.113.0/24"), ()), (network("2001:db8::/63"), ())].into_iter().collect(),
        ..Tables::default()
    };
    if numbers.below(2) == 0 {
        tables.allowed = [(network("203.0.113.1/32"), ()), (network("2001:db8:0:1::4/126"), ())].into_iter().collect();
    }
    if numbers.below(3) == 0 {
        tables.denied_24.insert(0x00cb_0072);
    }
    for _ in 0..numbers.below(3) {
        let is_v4 = numbers.below(2) == 0;
        tables.denied.insert(Source::from(address(numbers, is_v4)));
    }
    if numbers.below(2) == 0 {
        tables.vectors.insert(11_211);
    }
    for _ in 0..numbers.below(17) {
        let Some(packet) = Packet::of_frame(&frame(numbers)) else { continue };
        let length = if packet.destination.is_ipv4() { 8 + numbers.below(25) } else { 16 + numbers.below(113) };
        let mut fingerprint = Fingerprint::of(ipnet::IpNet::new(packet.destination, length as u8).unwrap());
        for attribute in Attribute::ALL {
            if let Some(value) = packet.get(attribute).filter(|_| numbers.below(3) == 0) {
                fingerprint = fingerprint.with(attribute, value);
            }
        }
        tables.rules.push(PacketRule { fingerprint, is_enforced: numbers.below(4) != 0 });
    }
    tables
}

fn verdict(path: &mut PacketPath, frame: &[u8], repeat: u32) -> u32 {
    let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
    path.program().unwrap().test_run(options).unwrap().return_value
}

#[test]
fn the_program_and_the_model_decide_alike() {
    let Some(mut path) = loaded() else { return };
    let (mut before, mut seen) = ([0; Reason::ALL.len()], [0_u64; Reason::ALL.len()]);
    for seed in 0..300 {
        let mut numbers = Numbers::new(seed);
        let tables = tables(&mut numbers);
        path.write(&tables).unwrap();
        for _ in 0..60 {
            let frame = frame(&mut numbers);
            if frame.len() < 14 {
                continue;
            }
            let expected = judge(&frame, &tables);
            let verdict = verdict(&mut path, &frame, 1);
            let counts = path.counts().unwrap();
            let counted: Vec<Reason> = Reason::ALL.into_iter().filter(|r| counts[*r as usize] != before[*r as usize]).collect();
            assert_eq!(counted, [expected], "seed {seed}: {frame:02x?} by {tables:?}");
            let is_dropped = expected.is_dropped() && tables.is_enforced;
            assert_eq!(verdict, if is_dropped { 1 } else { 2 }, "seed {seed}: {expected:?}");
            (before, seen[expected as usize]) = (counts, seen[expected as usize] + 1);
        }
    }
    for reason in Reason::ALL.into_iter().filter(|reason| !matches!(reason, Reason::SourceRate | Reason::Cookie)) {
        assert!(seen[reason as usize] > 20, "{reason:?} hardly happened: {seen:?}");
    }
}

/// An ordinary datagram to the protected network.
fn datagram(last: u8) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 61, 17, 0, 0, 198, 51, 100, last, 203, 0, 113, 9]);
    frame.extend([0x30, 0x39, 0, 53, 0, 20, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    frame
}

fn protecting() -> Tables {
    let protected = ["203.0.113.0/24".parse().unwrap()].map(|network| (network, ()));
    Tables { is_enforced: true, protected: protected.into_iter().collect(), ..Tables::default() }
}

#[test]
fn a_source_over_its_rate_is_dropped_and_its_neighbour_passes() {
    let Some(mut path) = loaded() else { return };
    path.write(&Tables { source_rate: Some((10, 100)), seed: 7, ..protecting() }).unwrap();
    verdict(&mut path, &datagram(1), 5_000);
    let counts = path.counts().unwrap();
    let passed = counts[Reason::Passed as usize];
    // A burst of 100, and what grew while it ran.
    assert!((100..=140).contains(&passed) && passed + counts[Reason::SourceRate as usize] == 5_000, "{counts:?}");
    assert_eq!(verdict(&mut path, &datagram(2), 1), 2);
}

#[test]
fn samples_carry_the_frame_and_what_became_of_it() {
    let Some(mut path) = loaded() else { return };
    path.write(&Tables { sample_every: Some(1), ..protecting() }).unwrap();
    verdict(&mut path, &datagram(1), 10);
    let mut kept = Vec::new();
    let count = path.samples(|sample| kept.push((sample.reason, sample.frame.to_vec())));
    assert_eq!(count, 10);
    assert!(kept.iter().all(|(reason, frame)| *reason == Reason::Passed && *frame == datagram(1)));
    path.write(&Tables { sample_every: Some(128), ..protecting() }).unwrap();
    verdict(&mut path, &datagram(1), 100_000);
    let count = path.samples(|_| ());
    assert!((500..1_100).contains(&count), "{count} of 100,000 at one in 128");
}

#[test]
fn rules_count_their_hits() {
    let Some(mut path) = loaded() else { return };
    let fingerprint = Fingerprint::of("203.0.113.9/32".parse().unwrap()).with(Attribute::Ttl, 61).with(Attribute::Length, 40);
    let rules = vec![PacketRule { fingerprint, is_enforced: false }, PacketRule { fingerprint, is_enforced: true }];
    path.write(&Tables { rules, ..protecting() }).unwrap();
    assert_eq!(verdict(&mut path, &datagram(1), 50), 1);
    assert_eq!(path.rule_hits().unwrap()[..3], [50, 50, 0]);
}
