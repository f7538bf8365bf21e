//! The record as a user asks it: search, counts, follow, explain, replay, over an installation that does not run and one
//! that does.
#![expect(clippy::unwrap_used, reason = "a test stops where its own set-up fails")]

mod rig;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use model::Timestamp;
use rig::{Installation, Running, ask_for, name, now, page};

const HOUR: i64 = 3_600_000_000;

/// Three names and a page of the last hours, one name of three days ago.
fn installation() -> (Installation, Timestamp) {
    let (installation, now) = (Installation::new(), now());
    let ago = |hours: i64| now.plus_micros(-hours * HOUR);
    installation.record(
        vec![
            name("old.example", 1, "allowed", ago(72)),
            name("www.games.example", 1, "blocked", ago(3)),
            name("www.games.example", 2, "blocked", ago(2)),
        ],
        vec![
            name("mail.example", 2, "allowed", ago(1)),
            page("https://shop.example:8443/cart?id=1", "shop.example", 5_000, now.plus_micros(-60_000_000)),
        ],
    );
    (installation, now)
}

#[test]
fn a_search_finds_by_any_field_and_says_when_there_is_nothing_or_more() {
    let (installation, now) = installation();
    let lines = |arguments: &[&str]| {
        let (out, _, code) = installation.ask(&[&["search", "--format", "json"], arguments].concat());
        (out.lines().count(), code)
    };
    assert_eq!(lines(&[]), (4, Some(0)), "the last day");
    assert_eq!(lines(&["--since", "2w"]), (5, Some(0)));
    assert_eq!(lines(&["any(dns.domains[*] == \"games.example\")"]), (2, Some(0)), "an element of an array");
    assert_eq!(lines(&["any(dns.resolved_ips[*] == 192.0.2.2)"]), (2, Some(0)));
    assert_eq!(lines(&["http.request.uri.query == \"id=1\""]), (1, Some(0)));
    assert_eq!(lines(&["dns.fqdn contains \"example\"", "--user", "user2@corp.example"]), (2, Some(0)));
    assert_eq!(lines(&["--user", "\" or true or \""]), (0, Some(1)), "a user's name is no expression");
    assert_eq!(lines(&["event.gate == \"dns\"", "--until", "150m"]), (1, Some(0)), "between a day and 150 minutes ago");
    let since = jiff::Timestamp::from_microsecond(now.0 - HOUR / 2).unwrap().to_string();
    assert_eq!(lines(&["--since", &since]), (1, Some(0)), "a moment in RFC 3339");

    let (out, error, code) = installation.ask(&["search", "dns.fqdn == \"absent.example\""]);
    assert_eq!((out.as_str(), code), ("", Some(1)));
    assert!(error.contains("nothing found since"), "{error}");
    let (out, error, _) = installation.ask(&["search", "--limit", "2"]);
    assert!(out.lines().count() == 3 && error.contains("there are more"), "{out}{error}");
    let (_, error, code) = installation.ask(&["search", "--since", "1h", "--until", "2h"]);
    assert!(code == Some(2) && error.contains("--until is not after --since"), "{error}");
    let (_, error, code) = installation.ask(&["search", "dns.fqdn == \"a\" and\n  dns.fqdm == \"b\""]);
    assert!(code == Some(2) && error.contains("line 2 column 3") && error.contains("did you mean `dns.fqdn`"), "{error}");
}

#[test]
fn a_search_shows_the_columns_that_are_asked_for() {
    let (installation, _) = installation();
    let arguments =
        ["search", "event.gate == \"dns\"", "--format", "csv", "--fields", "dns.fqdn,identity.email,dns.resolved_ips"];
    let (out, _, _) = installation.ask(&arguments);
    assert_eq!(out.lines().next(), Some("dns.fqdn,identity.email,dns.resolved_ips"));
    assert_eq!(out.lines().nth(1), Some("\"www.games.example\",\"user1@corp.example\",\"192.0.2.1\""));
    let (out, _, _) = installation.ask(&["search", "event.gate == \"web\"", "--fields", "traffic.bytes_in"]);
    assert_eq!(out, "traffic.bytes_in\n5000\n");
}

#[test]
fn a_search_may_name_the_lists_of_the_policy() {
    let (installation, _) = installation();
    let document = installation.folder.path().join("lists.toml");
    std::fs::write(&document, "[[list]]\nname = \"games\"\nkind = \"domain\"\nentries = [\"games.example\"]\n").unwrap();
    let (out, error, code) = installation.ask(&["apply", document.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{out}{error}");
    let (out, error, _) = installation.ask(&["search", "any(dns.domains[*] in $games)", "--format", "json"]);
    assert_eq!(out.lines().count(), 2, "{out}{error}");
    let (_, error, code) = installation.ask(&["search", "any(dns.domains[*] in $gamez)"]);
    assert!(code == Some(2) && error.contains("gamez"), "{error}");
}

#[test]
fn a_count_by_field_is_that_of_the_search() {
    let (installation, _) = installation();
    let (out, error, code) = installation.ask(&["search", "--count-by", "dns.fqdn"]);
    assert_eq!((out.as_str(), code), ("         2  www.games.example\n         1  mail.example\n", Some(0)), "{error}");
    assert!(error.contains("4 events, 2 values of dns.fqdn; 1 events without it"), "{error}");
    let (out, _, _) =
        installation.ask(&["search", "verdict.outcome == \"blocked\"", "--count-by", "identity.email", "--format", "csv"]);
    assert_eq!(out, "\"identity.email\",count\n\"user1@corp.example\",1\n\"user2@corp.example\",1\n");
    let (out, _, _) = installation.ask(&["search", "--count-by", "dns.domains", "--limit", "1"]);
    assert_eq!(out, "         3  example\n", "each element of an array counts");
    let (_, error, code) = installation.ask(&["search", "--count-by", "dns.fqdm"]);
    assert!(code == Some(2) && error.contains("did you mean `dns.fqdn`"), "{error}");
    assert_eq!(installation.ask(&["search", "dns.fqdn == \"absent\"", "--count-by", "dns.fqdn"]).2, Some(1));
}

#[test]
fn follow_shows_what_comes_and_nothing_from_before() {
    let (installation, _) = installation();
    let running = Running::start_in(installation.folder.path(), "");
    let mut follower = Command::new(rig::PROGRAM)
        .arg("--data")
        .arg(installation.data())
        .args(["search", "dns.fqdn contains \"follow\"", "--follow", "--format", "json", "--since", "1h"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    // The search before it found nothing; a follower that began at the first event would read all of them now.
    ask_for(running.dns(), "one.follow.invalid");
    let first = lines.next().unwrap().unwrap();
    ask_for(running.dns(), "two.follow.invalid");
    let second = lines.next().unwrap().unwrap();
    let _ = follower.kill();
    let _ = follower.wait();
    assert!(first.contains("one.follow.invalid") && second.contains("two.follow.invalid"), "{first}\n{second}");
}

#[test]
fn a_replay_counts_and_lists_what_would_change_and_says_what_is_wrong_with_a_policy() {
    let (installation, _) = installation();
    let document = installation.folder.path().join("stricter.toml");
    let rule =
        "[[rule]]\nname = \"no mail\"\ngate = \"dns\"\naction = \"block\"\nwhen = 'any(dns.domains[*] == \"mail.example\")'\n";
    std::fs::write(&document, rule).unwrap();
    let path = document.to_str().unwrap();
    let (out, error, code) = installation.ask(&["replay", "--since", "24h", "--policy", path]);
    assert_eq!(code, Some(0), "{error}");
    assert!(out.starts_with("4 events read, 1 would be decided differently\n       1  allow -> block by no mail\n"), "{out}");
    assert!(out.contains("user2@corp.example  mail.example  allow -> block by no mail"), "{out}");
    let (out, _, _) = installation.ask(&["replay", "--policy", path, "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((answer["read"].as_u64(), answer["changed"].as_u64()), (Some(5), Some(1)), "a week by default");
    assert!(installation.ask(&["replay"]).0.starts_with("5 events read, 0 would"), "without a policy, the current one");

    std::fs::write(&document, "[[rule]]\nname = \"x\ngate = \"dns\"\n").unwrap();
    let (_, error, code) = installation.ask(&["replay", "--policy", path]);
    assert!(code == Some(2) && error.contains("stricter.toml") && error.contains("line 2"), "{error}");
    std::fs::write(&document, rule.replace("dns.domains", "dns.domainz")).unwrap();
    let (_, error, code) = installation.ask(&["replay", "--policy", path]);
    assert!(code == Some(2) && error.contains("no mail") && error.contains("dns.domains"), "{error}");
}

#[test]
fn explain_sees_the_address_as_the_gate_would() {
    let (installation, _) = installation();
    let document = installation.folder.path().join("web.toml");
    let rule = "[[rule]]\nname = \"that shop\"\ngate = \"web\"\naction = \"block\"\nwhen = 'http.request.uri == \"URL\" and net.dst.port == PORT'\n\
                [[rule]]\nname = \"large\"\ngate = \"web\"\naction = \"block\"\nwhen = 'http.response.status_code == 418'\n";
    for (url, port, asked) in [
        ("http://shop.example:8080/cart", "8080", "http://SHOP.example:8080/cart"),
        ("http://shop.example/", "80", "http://shop.example"),
        ("https://shop.example/cart", "443", "shop.example/cart"),
        ("https://shop.example:8443/", "8443", "https://shop.example:8443/"),
    ] {
        std::fs::write(&document, rule.replace("URL", url).replace("PORT", port)).unwrap();
        let (out, error, code) = installation.ask(&["apply", document.to_str().unwrap()]);
        assert_eq!(code, Some(0), "{out}{error}");
        let (out, error, _) = installation.ask(&["explain", "web", asked]);
        assert!(out.contains("access? block, by rule `that shop`"), "{asked}: {out}{error}");
    }
    let (out, _, _) = installation.ask(&["explain", "web", "other.example"]);
    assert!(out.contains("(waits for http.response.status_code)"), "{out}");
    assert_eq!(installation.ask(&["explain", "web", "ftp://shop.example/"]).2, Some(2));
}
