//! Who met an indicator, and how a user leaves the record, by the commands that an operator types.
#![expect(clippy::unwrap_used, reason = "a test stops where its own set-up fails")]

mod rig;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use rig::{Installation, Running, ask_for, name, now, page, wait_until};

const SECOND: i64 = 1_000_000;

fn installation() -> Installation {
    let (installation, now) = (Installation::new(), now());
    let ago = |seconds: i64| now.plus_micros(-seconds * SECOND);
    installation.record(
        vec![
            name("xn--bcher-kva.example", 1, "blocked", ago(500)),
            name("xn--bcher-kva.example", 1, "allowed", ago(400)),
            name("xn--bcher-kva.example", 2, "allowed", ago(300)),
        ],
        vec![
            name("mail.example", 2, "allowed", ago(200)),
            page("https://xn--bcher-kva.example/a?token=1", "xn--bcher-kva.example", 5, ago(100)),
        ],
    );
    installation
}

/// Value, who and counts of each line.
fn touched(out: &str) -> Vec<(String, String)> {
    let fields = |line: &str| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
    out.lines().map(fields).map(|fields| (fields[1].clone(), fields[2].clone())).collect()
}

#[test]
fn a_unicode_name_is_met_in_the_form_of_traffic_at_rest_and_by_the_running_program() {
    let installation = installation();
    let users = [
        (" ".to_owned() + "10.0.0.1", "2 times, 1 blocked".to_owned()),
        (" ".to_owned() + "10.0.0.2", "1 times, 0 blocked".to_owned()),
    ];
    let check = |asked: &str| {
        let (out, error, code) = installation.ask(&["touched", asked]);
        let met = touched(&out);
        assert_eq!(code, Some(0), "{asked}: {out}{error}");
        for (who, times) in &users {
            assert!(met.iter().any(|(known, count)| known.ends_with(who) && count == times), "{asked}: {out}");
        }
        assert_eq!(met.len(), 3, "two users and the page of nobody known: {out}");
    };
    let check_all = || {
        ["b\u{fc}cher.example", "B\u{dc}CHER.EXAMPLE.", "xn--bcher-kva.example"].into_iter().for_each(check);
        let (out, error, _) = installation.ask(&["touched", "https://b\u{fc}cher.example/a?token=2", "--json"]);
        let answer: serde_json::Value = serde_json::from_str(&out).unwrap_or_default();
        assert_eq!(answer[0]["value"], "https://xn--bcher-kva.example/a", "{out}{error}");
        let (out, _, code) = installation.ask(&["touched", "abwesend-\u{fc}.example"]);
        assert_eq!((out.as_str(), code), ("nobody\n", Some(1)));
    };
    check_all();
    let list = installation.folder.path().join("list");
    std::fs::write(&list, "absent.example\n\n  mail.example  \nb\u{fc}cher.example\n").unwrap();
    let (out, error, code) = installation.ask(&["touched", "--file", list.to_str().unwrap()]);
    assert_eq!((out.lines().count(), code), (4, Some(0)), "{out}{error}");
    assert_eq!(installation.ask(&["touched"]).2, Some(2), "nothing was named");
    let running = Running::start_in(installation.folder.path(), "");
    check_all();
    drop(running);
}

#[test]
fn a_table_pads_its_columns_and_csv_quotes_its_cells() {
    let installation = installation();
    let (out, _, _) = installation.ask(&["search", "event.gate == \"dns\""]);
    let lines = out.lines().collect::<Vec<_>>();
    assert!(lines[0].starts_with("time                     gate outcome     who"), "{out}");
    assert!(lines[1].contains("Z dns  blocked     user1@corp.example       xn--bcher-kva.example"), "{out}");
    assert_eq!(lines.len(), 5, "a head and four rows, oldest first: {out}");
    assert!(lines[4].contains("mail.example"), "{out}");
    let (out, _, _) = installation.ask(&["search", "event.gate == \"web\"", "--format", "csv"]);
    assert_eq!(out.lines().next(), Some("time,gate,outcome,who,what,why"));
    assert!(
        out.lines().nth(1).unwrap().ends_with(",\"web\",\"allowed\",\"\",\"https://xn--bcher-kva.example/a?token=1\",\"\""),
        "{out}"
    );
}

#[test]
fn follow_in_csv_and_as_a_table_has_one_head_and_then_what_comes() {
    let installation = installation();
    let running = Running::start_in(installation.folder.path(), "");
    for (format, head, row) in [
        ("csv", "dns.fqdn,event.gate", "\"one.follow.invalid\",\"dns\""),
        ("table", "dns.fqdn event.gate", "one.follow.invalid dns"),
    ] {
        let mut follower = Command::new(rig::PROGRAM)
            .arg("--data")
            .arg(installation.data())
            .args(["search", "dns.fqdn contains \"one.follow\"", "--follow", "--since", "0s", "--format", format])
            .args(["--fields", "dns.fqdn,event.gate"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), head);
        ask_for(running.dns(), "one.follow.invalid");
        assert_eq!(lines.next().unwrap().unwrap(), row);
        ask_for(running.dns(), "one.follow.invalid");
        assert_eq!(lines.next().unwrap().unwrap(), row, "no second head");
        let _ = follower.kill();
        let _ = follower.wait();
    }
}

#[test]
fn an_erased_user_is_gone_from_search_and_look_ups_and_others_stay() {
    let installation = installation();
    let (_, error, code) = installation.ask(&["erase", "--user", "user1@corp.example"]);
    assert!(code == Some(2) && error.contains("--yes"), "{error}");
    let (_, error, code) = installation.ask(&["erase", "--user", " ", "--yes"]);
    assert!(code == Some(2) && error.contains("name a user"), "{error}");
    let count = |user: &str| installation.ask(&["search", "--user", user, "--format", "json"]).0.lines().count();
    assert_eq!((count("user1@corp.example"), count("user2@corp.example")), (2, 2), "nothing was erased without a word");

    let (out, error, code) = installation.ask(&["erase", "--user", "User1@corp.example", "--yes"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(out.starts_with("2 events and "), "{out}");
    assert_eq!((count("user1@corp.example"), count("user2@corp.example")), (0, 2));
    let (out, _, _) = installation.ask(&["touched", "xn--bcher-kva.example"]);
    assert!(!out.contains("user1") && out.contains("user2"), "{out}");
    assert_eq!(installation.ask(&["touched", "user1@corp.example"]).2, Some(1));

    let mut running = Running::start_in(installation.folder.path(), "");
    let (out, error, code) = installation.ask(&["erase", "--user", "user2@corp.example", "--yes"]);
    assert!(code == Some(0) && out.starts_with("2 events and "), "by the running program: {out}{error}");
    wait_until("the answer of the running program", || count("user2@corp.example") == 0);
    running.stop();
    assert_eq!(installation.ask(&["search", "--format", "json"]).0.lines().count(), 1, "the page has no user");
}
