//! The program with a service behind it: a plaintext service gets TLS, the row is found by search, a flow is seen and cut, a
//! reload keeps flows open.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails should stop")]

mod rig;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rig::{PATIENCE, PROGRAM, Running};

/// Sends back what it gets.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(16).flatten() {
            std::thread::spawn(move || {
                let mut read = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut read, &mut &stream);
                let _ = stream.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    address
}

fn config(origin: SocketAddr, more: &str) -> String {
    format!(
        "[[l4.app]]\nname = \"svc\"\nprotocol = \"tcp/7000\"\nedge_ips = [\"127.0.0.1\"]\norigin_direct = [\"tcp://{origin}\"]\n{more}\n"
    )
}

fn sekisho(folder: &std::path::Path, arguments: &[&str]) -> Output {
    Command::new(PROGRAM).arg("--data").arg(folder.join("data")).args(arguments).output().unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn a_flow_is_seen_cut_and_found() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = Running::start_in(folder.path(), &config(echo(), ""));
    let mut client = TcpStream::connect(running.address("l4", "tcp")).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"hello").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();

    // A reload that changes the app keeps what is open.
    std::fs::write(folder.path().join("sekisho.toml"), config(echo(), "idle_seconds = 100")).unwrap();
    assert!(Command::new("kill").args(["-HUP", &running.process_id().to_string()]).status().unwrap().success());
    let begun = Instant::now();
    while json(&sekisho(folder.path(), &["apps", "--json"]))["apps"][0]["origins"][0]["flows"] != 0 {
        assert!(begun.elapsed() < PATIENCE, "the reload does not come");
        std::thread::sleep(Duration::from_millis(50));
    }
    client.write_all(b"again").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();

    let shown = json(&sekisho(folder.path(), &["apps", "--flows", "--json"]));
    let flow = shown["flows"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!((shown["flows"][0]["app"].as_str(), shown["flows"][0]["bytes_out"].as_u64()), (Some("svc"), Some(10)));
    assert!(!sekisho(folder.path(), &["apps", "cut", "1"]).status.success());
    assert!(sekisho(folder.path(), &["apps", "cut", &flow]).status.success());
    assert!(client.read(&mut [0]).is_err(), "cut with a reset");

    let found = sekisho(folder.path(), &["search", "l4.app == \"svc\" and l4.status == 200", "--format", "json"]);
    let text = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(text.contains(&flow), "{text} {}", String::from_utf8_lossy(&found.stderr));
    running.stop();
}

/// The point of `flexible` (SP-31), with a client that is not ours.
#[test]
fn a_plaintext_service_gets_tls() {
    if std::env::var_os("SEKISHO_TEST_SYSTEM").is_none() {
        return println!("skipped: needs openssl; set SEKISHO_TEST_SYSTEM=1");
    }
    let folder = tempfile::tempdir().unwrap();
    let tls = "tls = \"flexible\"\ntls_settings = { names = [\"svc.example\"] }";
    let mut running = Running::start_in(folder.path(), &config(echo(), tls));
    let address = running.address("l4", "tcp").to_string();
    let authority = find_authority(&folder.path().join("data/ca"));
    let mut child = Command::new("openssl")
        .args([
            "s_client",
            "-quiet",
            "-no_ign_eof",
            "-verify_return_error",
            "-servername",
            "svc.example",
            "-verify_hostname",
            "svc.example",
        ])
        .args(["-connect", &address, "-CAfile"])
        .arg(authority)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.as_mut().unwrap().write_all(b"through the gate\n").unwrap();
    let mut heard = [0; 17];
    let outcome = child.stdout.as_mut().unwrap().read_exact(&mut heard);
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    assert!(outcome.is_ok(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(heard, *b"through the gate\n");
    running.stop();
}

fn find_authority(folder: &std::path::Path) -> std::path::PathBuf {
    let files = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    let holds =
        |path: &std::path::PathBuf| std::fs::read_to_string(path).is_ok_and(|text| text.starts_with("-----BEGIN CERTIFICATE"));
    files.into_iter().find(holds).expect("the authority's certificate")
}

#[test]
fn a_wrong_document_names_app_and_field() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sekisho.toml");
    std::fs::write(&path, config("127.0.0.1:1".parse().unwrap(), "expects = [\"gopher\"]")).unwrap();
    let output = sekisho(folder.path(), &["check", "--config", path.to_str().unwrap()]);
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!output.status.success() && text.contains("app `svc`: expects"), "{text}");
}
