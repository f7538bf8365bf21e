use std::collections::HashMap;

use super::*;
use crate::ShieldSpec;
use crate::testing::Numbers;

const MILLI: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MILLI;

fn admission(change: impl FnOnce(&mut ShieldSpec)) -> Arc<Admission> {
    let mut spec = ShieldSpec { allow: Vec::new(), ..ShieldSpec::default() };
    change(&mut spec);
    Admission::new(ShieldConfig::resolve(&spec).unwrap())
}

fn door(admission: &Admission) -> Arc<Listener> {
    admission.listener("web", "proxy", "192.0.2.1:8080".parse().unwrap(), 1_000)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_source_over_its_rate_is_refused_and_its_neighbour_is_not() {
    let admission = admission(|spec| (spec.source.per_second, spec.source.burst) = (10, 20));
    let door = door(&admission);
    let taken = (0..50).filter(|_| admission.admit(&door, ip("192.0.2.7"), Moment(SECOND)).is_ok()).count();
    assert_eq!(taken, 20);
    assert_eq!(admission.admit(&door, ip("192.0.2.7"), Moment(SECOND)).unwrap_err(), Reason::SourceRate);
    assert!(admission.admit(&door, ip("192.0.2.8"), Moment(SECOND)).is_ok());
    assert!(admission.admit(&door, ip("192.0.2.7"), Moment(SECOND + 100 * MILLI)).is_ok());
    assert_eq!(door.refused(Reason::SourceRate), 31);
}

#[test]
fn addresses_of_one_64_share_a_limit_and_of_two_do_not() {
    let admission = admission(|spec| spec.source.open_max = 1);
    let door = door(&admission);
    let first = admission.admit(&door, ip("2001:db8::1"), Moment(0)).unwrap();
    assert_eq!(admission.admit(&door, ip("2001:db8::2"), Moment(0)).unwrap_err(), Reason::SourceOpen);
    assert!(admission.admit(&door, ip("2001:db8:0:1::1"), Moment(0)).is_ok());
    drop(first);
    assert!(admission.admit(&door, ip("2001:db8::2"), Moment(0)).is_ok());
}

#[test]
fn dd_20_the_allow_list_is_over_every_limit_and_every_ban() {
    let admission = admission(|spec| {
        spec.allow = vec!["198.51.100.0/24".parse().unwrap()];
        (spec.source.open_max, spec.listener_per_second, spec.listener_burst) = (1, 1, 1);
    });
    let door = door(&admission);
    admission.ban("198.51.100.7/32".parse().unwrap(), Moment(u64::MAX), Moment(0)).unwrap();
    let held: Vec<_> = (0..100).map(|_| admission.admit(&door, ip("198.51.100.7"), Moment(0)).unwrap()).collect();
    assert_eq!((held.len() as u64, door.open()), (100, 100));
    drop(held);
    assert_eq!(door.open(), 0);
}

#[test]
fn a_refused_source_takes_nothing_from_the_listener() {
    let admission = admission(|spec| {
        (spec.source.per_second, spec.source.burst) = (1, 1);
        (spec.listener_per_second, spec.listener_burst) = (1, 10);
    });
    let door = door(&admission);
    for _ in 0..1_000 {
        let _ = admission.admit(&door, ip("192.0.2.7"), Moment(0));
    }
    let others = (0..20).filter(|last| admission.admit(&door, IpAddr::from([192, 0, 3, *last]), Moment(0)).is_ok()).count();
    assert_eq!(others, 9, "the flood had one token of ten");
    assert_eq!(door.refused(Reason::ListenerRate), 11);
}

#[test]
fn who_goes_on_is_banned_for_longer_each_time_and_forgiven_after_a_pause() {
    let admission = admission(|spec| {
        (spec.source.per_second, spec.source.burst) = (1, 1);
        (spec.ban.refusals, spec.ban.seconds, spec.ban.seconds_max) = (5, 10, 30);
    });
    let (door, peer) = (door(&admission), ip("192.0.2.7"));
    let flood = |at: u64| {
        for _ in 0..10 {
            let _ = admission.admit(&door, peer, Moment(at));
        }
        admission.bans(Moment(at)).first().map(|ban| ban.until.since(Moment(at)).as_secs())
    };
    assert_eq!(flood(SECOND), Some(10));
    assert_eq!(admission.admit(&door, peer, Moment(10 * SECOND)).unwrap_err(), Reason::Banned);
    assert!(admission.admit(&door, peer, Moment(11 * SECOND)).is_ok(), "the ban has ended");
    assert_eq!(flood(12 * SECOND), Some(20), "it came back at once");
    assert_eq!(flood(33 * SECOND), Some(30), "no ban is longer than the longest");
    assert_eq!(flood(200 * SECOND), Some(10), "it was away for longer than its ban");
    assert_eq!(admission.unban("192.0.2.0/24".parse().unwrap(), Moment(200 * SECOND)), 1);
    assert!(admission.admit(&door, peer, Moment(202 * SECOND)).is_ok());
}

#[test]
fn the_operator_bans_a_network_until_an_end() {
    let admission = admission(|_| ());
    let door = door(&admission);
    let network: IpNet = "203.0.113.0/24".parse().unwrap();
    admission.ban(network, Moment(60 * SECOND), Moment(0)).unwrap();
    admission.ban(network, Moment(30 * SECOND), Moment(0)).unwrap();
    assert_eq!(admission.admit(&door, ip("203.0.113.9"), Moment(59 * SECOND)).unwrap_err(), Reason::Banned);
    assert_eq!(admission.admit(&door, ip("::ffff:203.0.113.9"), Moment(59 * SECOND)).unwrap_err(), Reason::Banned);
    assert!(admission.admit(&door, ip("203.0.113.9"), Moment(60 * SECOND)).is_ok());
    assert_eq!(
        admission.ban("0.0.0.0/0".parse().unwrap(), Moment(1), Moment(0)),
        Err(Error::BanTooWide("0.0.0.0/0".parse().unwrap()))
    );
    assert_eq!(admission.unban("203.0.113.0/25".parse().unwrap(), Moment(0)), 0, "a part of a ban is not lifted");
    assert_eq!(admission.unban(network, Moment(0)), 1);
    assert!(admission.bans(Moment(0)).is_empty());
}

#[test]
fn monitoring_counts_and_refuses_nobody() {
    let admission = admission(|spec| {
        spec.mode = Mode::Monitor;
        (spec.source.per_second, spec.source.burst, spec.ban.refusals) = (1, 1, 2);
    });
    let door = door(&admission);
    for _ in 0..100 {
        drop(admission.admit(&door, ip("192.0.2.7"), Moment(0)).unwrap());
    }
    assert_eq!((door.admitted(), door.refused(Reason::SourceRate)), (100, 99));
    assert!(admission.bans(Moment(0)).is_empty());
    let reports = admission.take_reports();
    assert!(matches!(&reports[..], [one] if one.count == 99 && one.is_monitored && one.ban.is_none()), "{reports:?}");
}

#[test]
fn a_flood_from_everywhere_leaves_a_bounded_table_and_a_bounded_report() {
    let admission = admission(|spec| (spec.listener_per_second, spec.source.burst) = (0, 1));
    let door = door(&admission);
    let mut numbers = Numbers::new(1);
    let mut held = Vec::new();
    for _ in 0..600_000_u32 {
        held.extend(admission.admit(&door, IpAddr::from((numbers.next() as u32).to_be_bytes()), Moment(0)).ok());
    }
    assert!(admission.sources() <= SHARDS * SOURCES_MAX);
    assert!(held.len() <= SHARDS * (SOURCES_MAX + 100), "{} are held", held.len());
    assert!(door.refused(Reason::Crowded) > 300_000);
    let reports = admission.take_reports();
    assert!(reports.len() <= SHARDS * 129 * Reason::ALL.len());
    let refused: u64 = Reason::ALL.iter().map(|reason| door.refused(*reason)).sum();
    assert_eq!(reports.iter().map(|report| report.count).sum::<u64>(), refused, "every refusal is in the record");
    drop(held);
    // At rest, their places are free for others.
    assert!(admission.admit(&door, ip("192.0.2.1"), Moment(3_600 * SECOND)).is_ok());
}

#[test]
fn open_connections_are_what_a_simple_count_says_whatever_happens() {
    for seed in 0..30 {
        let mut numbers = Numbers::new(seed);
        let most = 1 + numbers.below(6) as u32;
        let admission = admission(|spec| {
            (spec.source.open_max, spec.source.per_second, spec.source.burst) = (most, 5, 8);
            spec.ban.refusals = 20;
        });
        let door = door(&admission);
        let (mut now, mut held, mut open) = (0, Vec::new(), HashMap::<Source, u32>::new());
        for _ in 0..2_000 {
            now += numbers.below(200) * MILLI;
            if numbers.below(3) == 0 && !held.is_empty() {
                let (source, ticket): (Source, Ticket) = held.swap_remove(numbers.below(held.len() as u64) as usize);
                drop(ticket);
                *open.get_mut(&source).unwrap() -= 1;
            } else {
                let peer = IpAddr::from([192, 0, 2, numbers.below(5) as u8]);
                match admission.admit(&door, peer, Moment(now)) {
                    Ok(ticket) => {
                        held.push((peer.into(), ticket));
                        *open.entry(peer.into()).or_default() += 1;
                    }
                    Err(Reason::SourceOpen) => assert_eq!(open[&peer.into()], most),
                    Err(reason) => assert!(matches!(reason, Reason::SourceRate | Reason::Banned), "{reason:?}"),
                }
            }
            assert_eq!(door.open(), held.len() as u64);
        }
        for busy in admission.busiest(10) {
            assert_eq!(busy.open, open.get(&busy.source).copied().unwrap_or_default(), "seed {seed}");
        }
    }
}

#[test]
fn handshakes_have_a_budget_of_their_own() {
    let admission = admission(|spec| spec.source.handshakes_per_second = 3);
    let door = door(&admission);
    let ticket = admission.admit(&door, ip("192.0.2.7"), Moment(0)).unwrap();
    let done = (0..10).filter(|_| ticket.may_handshake(Moment(0)).is_ok()).count();
    assert_eq!((done, door.refused(Reason::Handshakes)), (3, 7));
}

/// Sweeps every second until then, and says when the connection was ended and why.
fn ended(admission: &Admission, ticket: &Ticket, until: u64, mut each: impl FnMut(&Progress, Moment)) -> Option<(u64, Reason)> {
    for second in 1..=until {
        let now = Moment(second * SECOND);
        each(ticket.progress(), now);
        admission.sweep(now);
        if let Some(reason) = ticket.progress().evicted() {
            return Some((second, reason));
        }
    }
    None
}

#[test]
fn dd_09_connections_that_say_nothing_or_next_to_nothing_are_ended() {
    let admission = admission(|spec| spec.slow.spared = 0);
    let door = door(&admission);
    let open = || admission.admit(&door, ip("192.0.2.7"), Moment(0)).unwrap();
    assert_eq!(ended(&admission, &open(), 60, |_, _| ()), Some((10, Reason::FirstByte)));
    // Slow POST: a body at ten bytes a second.
    let slow_body = ended(&admission, &open(), 60, |progress, now| {
        progress.expect(now);
        progress.received(10);
    });
    assert!(matches!(slow_body, Some((10..=21, Reason::SlowBody))), "{slow_body:?}");
    // Slow read: a window that opens for a few bytes now and then.
    let slow_read = ended(&admission, &open(), 60, |progress, now| {
        progress.received(1);
        progress.sent(100, || now);
        progress.send_is_blocked(|| now);
    });
    assert!(matches!(slow_read, Some((10..=21, Reason::SlowRead))), "{slow_read:?}");
}

#[test]
fn slow_lines_idle_connections_and_slow_origins_are_left_alone() {
    let admission = admission(|spec| spec.slow.spared = 0);
    let door = door(&admission);
    let open = || admission.admit(&door, ip("192.0.2.7"), Moment(0)).unwrap();
    // Idle between requests: nothing is expected of the peer.
    let idle = ended(&admission, &open(), 600, |progress, now| {
        if now == Moment(SECOND) {
            progress.received(100);
        }
    });
    assert_eq!(idle, None);
    // A slow line: 800 bytes a second, all the time.
    let slow_line = ended(&admission, &open(), 120, |progress, now| {
        progress.expect(now);
        progress.received(800);
        progress.sent(800, || now);
        progress.send_is_blocked(|| now);
    });
    assert_eq!(slow_line, None);
    // A slow origin: little is sent because there is little, and the peer takes it at once.
    let slow_origin = ended(&admission, &open(), 120, |progress, now| progress.sent(1, || now));
    assert_eq!(slow_origin, None);
}

#[test]
fn a_listener_that_is_nearly_full_takes_places_back_from_whoever_holds_most() {
    let admission = admission(|spec| spec.slow.first_byte_seconds = 0);
    let door = door(&admission);
    let hog: Vec<_> = (0..800).map(|_| admission.admit(&door, ip("192.0.2.7"), Moment(0)).unwrap()).collect();
    let others: Vec<_> =
        (0..150_u8).map(|last| admission.admit(&door, IpAddr::from([198, 51, 100, last]), Moment(0)).unwrap()).collect();
    admission.sweep(Moment(3 * SECOND));
    let ended = |tickets: &[Ticket]| tickets.iter().filter(|ticket| ticket.progress().evicted().is_some()).count();
    assert_eq!((ended(&hog), ended(&others)), (800 - 125, 0));
}

#[test]
fn a_few_paused_downloads_of_one_source_are_left_alone_and_many_are_not() {
    let admission = admission(|_| ());
    let door = door(&admission);
    let paused = |count: usize, source: &str| -> Vec<Ticket> {
        let held = (0..count).map(|_| admission.admit(&door, ip(source), Moment(0)).unwrap());
        held.inspect(|ticket| {
            ticket.progress().received(100);
            ticket.progress().send_is_blocked(|| Moment(0));
        })
        .collect()
    };
    let (person, other, attacker) = (paused(8, "192.0.2.7"), paused(8, "192.0.2.8"), paused(9, "192.0.2.9"));
    for second in 1..300 {
        admission.sweep(Moment(second * SECOND));
    }
    let ended = |tickets: &[Ticket]| tickets.iter().filter(|ticket| ticket.progress().evicted().is_some()).count();
    assert_eq!((ended(&person), ended(&other), ended(&attacker)), (0, 0, 9));
    assert_eq!(door.refused(Reason::SlowRead), 9);
    // With the listener nearly full, nobody's are.
    let _crowd: Vec<_> = (0..900_u16)
        .map(|number| {
            let source = IpAddr::from([198, 18, (number >> 8) as u8, number as u8]);
            let ticket = admission.admit(&door, source, Moment(300 * SECOND)).unwrap();
            ticket.progress().received(1);
            ticket
        })
        .collect();
    admission.sweep(Moment(301 * SECOND));
    assert_eq!((ended(&person), ended(&other)), (8, 8));
}

#[test]
fn a_slow_connection_that_is_only_monitored_is_told_once() {
    let admission = admission(|spec| spec.mode = Mode::Monitor);
    let door = door(&admission);
    let ticket = admission.admit(&door, ip("192.0.2.7"), Moment(0)).unwrap();
    assert_eq!(ended(&admission, &ticket, 120, |_, _| ()), None);
    assert_eq!(door.refused(Reason::FirstByte), 1);
}

#[test]
fn a_ban_that_ends_does_not_lift_one_of_a_wider_network() {
    let admission = admission(|_| ());
    let door = door(&admission);
    for (network, until) in [("203.0.113.0/24", 3_600), ("203.0.113.9/32", 60)] {
        admission.ban(network.parse().unwrap(), Moment(until * SECOND), Moment(0)).unwrap();
    }
    assert_eq!(admission.admit(&door, ip("203.0.113.9"), Moment(100 * SECOND)).unwrap_err(), Reason::Banned);
    assert!(admission.admit(&door, ip("203.0.113.9"), Moment(3_600 * SECOND)).is_ok());
}
