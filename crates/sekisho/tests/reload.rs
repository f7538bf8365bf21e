//! What a reload takes, and that it takes it whole or not at all.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops where its own set-up fails")]

mod rig;

use std::io::{Read, Write};
use std::time::Duration;

use rig::{Running, exchange};
use testkit::{Origin, Response};

#[test]
fn a_list_is_read_from_a_file_and_again_at_a_reload() {
    let running = Running::start(tempfile::tempdir().unwrap(), "");
    let list = running.folder.join("names.txt");
    std::fs::write(&list, "one.example\n").unwrap();
    let document = running.folder.join("lists.toml");
    let text = format!(
        "[[list]]\nname = \"names\"\nkind = \"domain\"\nsource = {list:?}\n\n[[rule]]\nname = \"listed names\"\ngate = \"dns\"\n\
         action = \"block\"\nwhen = 'any(dns.domains[*] in $names)'\n"
    );
    std::fs::write(&document, text).unwrap();
    let applied = running.ask(&["apply", document.to_str().unwrap()]);
    assert!(applied.contains("applied"), "{applied}");
    let is_blocked = |name: &str| running.ask(&["explain", "dns", name]).contains("access? block, by rule `listed names`");
    assert!(is_blocked("www.one.example") && !is_blocked("two.example"));
    std::fs::write(&list, "two.example\n").unwrap();
    running.signal("HUP");
    for _ in 0..200 {
        if is_blocked("two.example") {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the list was not read again: {}", running.log());
}

/// An answer of the DNS gate to a question for `name`, or the first bytes of none.
fn rcode(running: &Running, name: &str) -> u8 {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    socket.send_to(&query, running.dns()).unwrap();
    let mut answer = [0_u8; 512];
    socket.recv(&mut answer).unwrap();
    answer[3] & 0xf
}

#[test]
fn a_reload_takes_the_configuration_whole_or_not_at_all_and_keeps_the_ports() {
    let running = Running::start(tempfile::tempdir().unwrap(), "[dns]\nblock_mode = \"nxdomain\"\n");
    let rule = running.folder.join("rule.toml");
    std::fs::write(&rule, "[[rule]]\nname = \"no\"\ngate = \"dns\"\naction = \"block\"\nwhen = 'dns.fqdn == \"no.example\"'\n")
        .unwrap();
    assert!(running.ask(&["apply", rule.to_str().unwrap()]).contains("applied"));
    assert_eq!(rcode(&running, "no.example"), 3);
    running.reload("[dns]\nblock_mod = \"refused\"\n", "did you mean `block_mode`");
    assert_eq!(rcode(&running, "no.example"), 3);
    running.reload("[dns]\nblock_mode = \"refused\"\n[store]\nqueue_events_max = 70000\n", "[store] changed");
    assert_eq!(rcode(&running, "no.example"), 3);
    // An idle connection from before is closed, as at any stop; the port is the same for those who come after.
    let mut idle = std::net::TcpStream::connect(running.proxy()).unwrap();
    running.reload("[dns]\nblock_mode = \"refused\"\n[web.limits]\nconnections_max = 77\n", "reloaded");
    // The earlier gate may take one more batch before it sees that it was replaced.
    assert!((0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        rcode(&running, "no.example") == 5
    }));
    let mut stream = std::net::TcpStream::connect(running.proxy()).unwrap();
    for stream in [&mut idle, &mut stream] {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    }
    assert_eq!(idle.read(&mut [0]).unwrap(), 0);
    stream.write_all(b"GET /proxy.pac HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
}

/// A file that is named in the configuration is read again, although the configuration itself is the same.
#[test]
fn trust_anchors_that_changed_under_their_path_are_read_again() {
    const ANCHOR: &str = ". IN DNSKEY 257 3 8 AwEAAaz/tAm8yTn4Mfeh5eyI96WSVexTBAvkMgJzkKTOiW1vkIbzxeF3+/4RgWOq7HrxRixHlFlExOLAJr5emLvN7SWXgnLh4+B5xQlNVz8Og8kvArMtNROxVQuCaSnIDdD5LKyWbRd2n9WGe2R8PzgCmr3EgVLrjyBxWezF0jLHwVN8efS3rCj/EWgvIWgb9tarpVUDK/b58Da+sqqls3eNbuv7pr+eoZG+SrDK6nWeL3c6H5Apxz7LjVc1uTIdsIXxuOLYA4/ilBmSVIzuDWfdRUfhHdY6+cn8HFRm+2hM8AnXGXws9555KrUB5qihylGa8subX2Nn6UwNR1AkUTV74bU=\n";
    let folder = tempfile::tempdir().unwrap();
    let anchors = folder.path().join("root.key");
    std::fs::write(&anchors, ANCHOR).unwrap();
    let config = format!(
        "[dns]\nupstreams = [\"127.0.0.1:1\"]\ndnssec = \"validate\"\ndnssec_trust_anchor_file = {anchors:?}\n[web]\nsocks5 = \"127.0.0.1:0\"\n"
    );
    let running = Running::start(folder, &config);
    running.reload(&config, "reloaded");
    assert!(!running.log().contains("replaced"), "nothing changed: {}", running.log());
    std::fs::write(&anchors, "no key at all\n").unwrap();
    running.reload(&config, "the trust anchors of");
    std::fs::write(&anchors, format!("{ANCHOR}; the same, with a remark\n")).unwrap();
    running.reload(&config, "replaced");
}

/// Other definitions are used from the reload on, and ones that do not load leave the earlier in use.
#[test]
fn scan_settings_change_without_a_restart() {
    let origin = Origin::start(|_| Response::ok("application/octet-stream", "a sample of the test's own")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let definitions = folder.path().join("own.sha256");
    // sha256sum of what the origin serves.
    std::fs::write(&definitions, "fb1bf02ff6b73c047f291467b26481361c2542c3a323e2d7cc7fad2932c30995  Test.Own\n").unwrap();
    let upstream = "[upstream]\ndanger_exempt = [\"127.0.0.0/8\"]\n";
    let running = Running::start(folder, upstream);
    let url = origin.url("/sample");
    let host = origin.address();
    let fetch = || exchange(running.proxy(), &format!("GET {url} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"));
    assert!(fetch().ends_with("a sample of the test's own"));
    let absent = running.folder.join("absent.yar");
    running.reload(&format!("{upstream}[scan.definitions]\npaths = [{absent:?}]\n"), "reload failed");
    assert!(fetch().ends_with("a sample of the test's own"));
    running.reload(&format!("{upstream}[scan]\nworkers = 1\ndefinitions.paths = [{definitions:?}]\n"), "reloaded");
    assert!(!fetch().contains("a sample of"), "{}", running.log());
    let found = running.ask(&["search", "scan.verdict == \"malicious\"", "--format", "json"]);
    assert!(found.contains("Test.Own"), "{found}");
}
