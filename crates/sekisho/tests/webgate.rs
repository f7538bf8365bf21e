//! The web gate as an operator meets it: a CA that is rotated while the program runs, a token from a redirect that is opened
//! to its event, a revocation list that is taken at a reload.
#![expect(clippy::unwrap_used, reason = "a test stops where its own set-up fails")]

mod rig;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rig::{PATIENCE, PROGRAM, Running, exchange, wait_until};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};

fn certificates(running: &Running) -> Vec<CertificateDer<'static>> {
    let answer = exchange(running.proxy(), "GET /sekisho/ca.pem HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n");
    CertificateDer::pem_slice_iter(answer.as_bytes()).collect::<Result<_, _>>().unwrap()
}

/// The status of an inspected request to an origin on this machine, or why a client with this root alone gets none.
fn inspected(running: &Running, port: u16, root: &CertificateDer<'static>) -> Result<u16, std::io::Error> {
    let mut stream = TcpStream::connect(running.proxy())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "CONNECT localhost:{port} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n")?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = rustls::StreamOwned::new(rustls::ClientConnection::new(Arc::new(config), name).unwrap(), stream);
    write!(stream, "GET / HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n")?;
    let mut line = [0; 12];
    stream.read_exact(&mut line)?;
    Ok(String::from_utf8_lossy(&line[9..]).parse().unwrap())
}

/// An origin on loopback whose certificate has the number 77, its authority as PEM, and a list of that authority's that
/// revokes it.
fn start_origin(folder: &Path, authority: &str) -> (u16, PathBuf, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    ca.distinguished_name.push(rcgen::DnType::CommonName, authority);
    let path = folder.join("origin-ca.pem");
    std::fs::write(&path, ca.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = rcgen::Issuer::new(ca, key);
    let serial = rcgen::SerialNumber::from(77u64);
    let leaf_key = rcgen::KeyPair::generate().unwrap();
    let mut leaf = rcgen::CertificateParams::new(vec!["localhost".to_string()]).unwrap();
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    leaf.serial_number = Some(serial.clone());
    leaf.use_authority_key_identifier_extension = true;
    let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap().der().clone();
    let list = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2024, 1, 1),
        next_update: rcgen::date_time_ymd(2090, 1, 1),
        crl_number: rcgen::SerialNumber::from(1u64),
        issuing_distribution_point: None,
        revoked_certs: vec![rcgen::RevokedCertParams {
            serial_number: serial,
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&issuer).unwrap().pem().unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf], PrivatePkcs8KeyDer::from(leaf_key.serialize_der()).into())
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let config = config.clone();
            std::thread::spawn(move || {
                let mut stream = rustls::StreamOwned::new(rustls::ServerConnection::new(config).ok()?, stream);
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).ok()?;
                    head.push(byte[0]);
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").ok()
            });
        }
    });
    (port, path, list)
}

fn config(origin_ca: &Path, more: &str) -> String {
    format!("[upstream]\ndanger_exempt = [\"127.0.0.0/8\", \"::1/128\"]\n[trust]\nextra_roots = [{origin_ca:?}]\n{more}\n")
}

/// TL-07, TL-08: two certificates are handed out during a rotation, and the second signs without a restart.
#[test]
fn tl_07_a_ca_is_rotated_while_the_program_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (port, origin_ca, _) = start_origin(folder.path(), "test origin authority");
    let running = Running::start(folder, &config(&origin_ca, ""));
    let first = certificates(&running);
    assert_eq!(first.len(), 1);
    assert_eq!(inspected(&running, port, &first[0]).unwrap(), 200);
    let refused = running.command(&["ca", "activate"]);
    assert!(!refused.status.success(), "there is nothing to activate yet");
    running.must(&["ca", "rotate", "--days", "29"]);
    assert!(!running.command(&["ca", "activate"]).status.success(), "one that ends within 30 days is not activated");
    running.must(&["ca", "rotate"]);
    let exported = running.must(&["ca", "export"]);
    let both: Vec<_> = CertificateDer::pem_slice_iter(exported.as_bytes()).collect::<Result<_, _>>().unwrap();
    assert_eq!((both.len(), &both[0]), (2, &first[0]));
    wait_until("both certificates are handed out", || certificates(&running) == both);
    assert_eq!(inspected(&running, port, &first[0]).unwrap(), 200, "the first one signs until the second is activated");
    let told = running.must(&["ca", "activate"]);
    assert!(told.contains("signs from now on"), "{told}");
    wait_until("the second one signs", || inspected(&running, port, &both[1]).is_ok_and(|status| status == 200));
    assert!(inspected(&running, port, &first[0]).is_err());
    assert_eq!(certificates(&running), [both[1].clone()]);
}

/// TL-07: another CA, and whom to trust, are part of a reload that takes effect whole or not at all.
#[test]
fn tl_07_a_ca_does_not_change_in_a_reload_that_fails() {
    let folder = tempfile::tempdir().unwrap();
    let (port, origin_ca, _) = start_origin(folder.path(), "test origin authority");
    let (_, _, list) = start_origin(tempfile::tempdir().unwrap().path(), "another authority");
    let path = folder.path().join("origin.crl");
    std::fs::write(&path, &list).unwrap();
    let running = Running::start(folder, &config(&origin_ca, &format!("revocation_lists = [{path:?}]")));
    let first = certificates(&running);
    std::fs::write(&path, "rubbish").unwrap();
    let failures = || running.log().matches("reload failed").count();
    running.must(&["ca", "rotate"]);
    running.must(&["ca", "activate"]);
    // Twice, so that the second began after the command had ended.
    for _ in 0..2 {
        let before = failures();
        running.signal("HUP");
        wait_until("a reload failed", || failures() > before);
    }
    assert_eq!(certificates(&running), first);
    assert_eq!(inspected(&running, port, &first[0]).unwrap(), 200);
    std::fs::write(&path, &list).unwrap();
    running.signal("HUP");
    wait_until("the second one signs", || inspected(&running, port, &first[0]).is_err());
    let second = certificates(&running).remove(0);
    assert_eq!(inspected(&running, port, &second).unwrap(), 200);
}

/// GW-156: what another site was handed leads its operator to nothing, and ours to the event.
#[test]
fn gw_156_a_token_is_opened_to_its_event() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    let rule = "[[rule]]\nname = \"away\"\ngate = \"web\"\naction = \"redirect\"\nwhen = 'http.request.host == \"site.example\"'\n\
        settings = { redirect = { target_uri = \"https://c.example/p\", include_context = true } }\n";
    std::fs::write(&policy, rule).unwrap();
    let running = Running::start(folder, "");
    running.must(&["apply", policy.to_str().unwrap()]);
    let answer = exchange(
        running.proxy(),
        "GET http://site.example/secret?k=1 HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 307"), "{answer}");
    let location = answer.lines().find_map(|line| line.strip_prefix("location: ")).unwrap();
    assert!(location.starts_with("https://c.example/p?sekisho_context=skx_") && !location.contains("secret"), "{location}");
    let told = running.must(&["reference", location]);
    assert!(told.contains("http://site.example/secret?k=1") && told.contains("away"), "{told}");
    let reference = told.lines().find_map(|line| line.strip_prefix("event.reference")).unwrap().trim().to_owned();
    assert!(running.must(&["reference", &reference, "--json"]).contains("site.example/secret"));
    let forged = format!("{}x", location.split('=').next_back().unwrap());
    assert!(!running.command(&["reference", &forged]).status.success());
    let other = tempfile::tempdir().unwrap();
    let stranger = Command::new(PROGRAM).arg("--data").arg(other.path()).args(["reference", location]).output().unwrap();
    assert!(!stranger.status.success());
    use std::os::unix::fs::PermissionsExt;
    let key = std::fs::metadata(running.data().join("context.key")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_revocation_list_is_taken_at_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    let (port, origin_ca, list) = start_origin(folder.path(), "test origin authority");
    let path = folder.path().join("origin.crl");
    // A list that says nothing of this origin: that of another authority.
    let (_, _, others) = start_origin(tempfile::tempdir().unwrap().path(), "another authority");
    std::fs::write(&path, others).unwrap();
    let running = Running::start(folder, &config(&origin_ca, &format!("revocation_lists = [{path:?}]")));
    let root = certificates(&running).remove(0);
    assert_eq!(inspected(&running, port, &root).unwrap(), 200);
    std::fs::write(&path, list).unwrap();
    running.signal("HUP");
    wait_until("the list holds", || inspected(&running, port, &root).is_ok_and(|status| status == 526));
    std::fs::write(&path, "rubbish").unwrap();
    running.signal("HUP");
    wait_until("the bad list is told of", || running.log().contains("reload failed"));
    assert_eq!(inspected(&running, port, &root).unwrap(), 526, "a list that cannot be read leaves the earlier one in place");
}

/// A password is hashed by command and proves its user to the running program.
#[test]
fn a_password_from_the_command_proves_its_user() {
    let folder = tempfile::tempdir().unwrap();
    let hash = |password: &str| {
        let mut command = Command::new(PROGRAM);
        let mut child = command
            .args(["password", "ann@example.com"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        writeln!(child.stdin.take().unwrap(), "{password}").unwrap();
        child.wait_with_output().unwrap()
    };
    assert!(!hash("short").status.success());
    let document = hash("correct horse battery staple");
    let policy = folder.path().join("policy.toml");
    std::fs::write(&policy, &document.stdout).unwrap();
    let running = Running::start(folder, "[web]\nrequire_credentials = true\n");
    running.must(&["apply", policy.to_str().unwrap()]);
    for (password, status) in [("correct horse battery staple", "HTTP/1.1 502"), ("wrong", "HTTP/1.1 407")] {
        use base64::Engine;
        let credentials = base64::engine::general_purpose::STANDARD.encode(format!("ann@example.com:{password}"));
        let answer = exchange(
            running.proxy(),
            &format!(
                "GET http://nowhere.invalid/ HTTP/1.1\r\nHost: nowhere.invalid\r\nProxy-Authorization: Basic {credentials}\r\nConnection: close\r\n\r\n"
            ),
        );
        assert!(answer.starts_with(status), "{password}: {answer}");
    }
}

/// ON-03: a token is made with its end, applied, listed, and proves its user.
#[test]
fn on_03_a_token_has_an_end_and_is_listed() {
    let running = Running::start(tempfile::tempdir().unwrap(), "[web]\nrequire_credentials = true\n");
    let made = running.command(&["token", "ann@example.com", "--expires", "90d", "--name", "laptop"]);
    let (token, told) = (String::from_utf8(made.stdout).unwrap(), String::from_utf8(made.stderr).unwrap());
    let document = told.split("\n\n").nth(1).unwrap();
    assert!(document.contains("name = \"laptop\", expires = \"20"), "{document}");
    assert!(!running.command(&["token", "ann@example.com", "--expires", "2001-01-01"]).status.success());
    running.apply(document);
    let request = format!(
        "GET http://nowhere.invalid/ HTTP/1.1\r\nHost: nowhere.invalid\r\nProxy-Authorization: Bearer {}\r\nConnection: close\r\n\r\n",
        token.trim()
    );
    assert!(exchange(running.proxy(), &request).starts_with("HTTP/1.1 502"));
    let listed = running.must(&["tokens"]);
    assert!(listed.starts_with("ann@example.com\tvalid\t") && listed.contains("\tlaptop\t20"), "{listed}");
    running.apply(&document.replace("expires = \"20", "expires = \"19"));
    assert!(exchange(running.proxy(), &request).starts_with("HTTP/1.1 407"));
    assert!(running.must(&["tokens", "--json"]).contains("\"state\":\"expired\""));
    let found = running.must(&["search", "event.failure == \"token_expired\"", "--format", "json"]);
    assert_eq!(found.lines().count(), 1, "{found}");
}

/// CX-01: what is installed is really tried, and what does not trust the CA is told how to.
#[test]
fn the_doctor_tries_what_is_installed() {
    if std::env::var_os("SEKISHO_TEST_SYSTEM").is_none() {
        println!("skipped: SEKISHO_TEST_SYSTEM=1 is not set");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let run = |more: &[(&str, &Path)]| {
        let mut command = Command::new(PROGRAM);
        command.arg("--data").arg(&data).args(["ca", "doctor"]).stdin(Stdio::null());
        command.envs(more.iter().map(|(name, value)| (name, value)));
        String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
    };
    let before = run(&[]);
    let row = |text: &str, name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    for name in ["curl", "git", "Python", "Node", "Java", "Go", "Chromium", "Firefox"] {
        let told = row(&before, name);
        assert!(told.contains("not installed") || told.contains("does not trust it: "), "{told}");
    }
    let ca = std::path::absolute(data.join("ca/sekisho-ca.pem")).unwrap();
    let home = folder.path().join("home");
    let (browser, keys) = (trusted_by_chromium(&home, &ca), trusted_by_java(folder.path(), &ca));
    let more = [("CURL_CA_BUNDLE", &ca), ("SSL_CERT_FILE", &ca), ("NODE_EXTRA_CA_CERTS", &ca), ("GIT_SSL_CAINFO", &ca)];
    let more = more.map(|(name, path)| (name, path.as_path()));
    let after = run(&[more.as_slice(), &[("HOME", &home), ("JAVA_TOOL_OPTIONS", Path::new(&keys))]].concat());
    let mut names = vec!["curl", "git", "Python", "Node", "Go", "Java"];
    match browser {
        true => names.push("Chromium"),
        false => println!("skipped: certutil is not installed, so Chromium cannot be taught the CA"),
    }
    for name in names {
        let told = row(&after, name);
        assert!(told.contains("not installed") || told.ends_with("trusts it"), "{told}\n{after}");
    }
}

/// The user's own store, as the doctor's advice fills it. False where the tool for it is not installed.
fn trusted_by_chromium(home: &Path, ca: &Path) -> bool {
    let store = home.join(".pki/nssdb");
    std::fs::create_dir_all(&store).unwrap();
    let store = format!("sql:{}", store.display());
    let ca = ca.to_str().unwrap();
    let run = |arguments: &[&str]| Command::new("certutil").args(arguments).status().is_ok_and(|status| status.success());
    run(&["-N", "--empty-password", "-d", &store]) && run(&["-A", "-d", &store, "-t", "C,,", "-n", "sekisho", "-i", ca])
}

/// Options by which a JVM uses a store of the test's own, so that the machine's stays as it is.
fn trusted_by_java(folder: &Path, ca: &Path) -> String {
    let store = folder.join("trust.p12");
    let _ = Command::new("keytool")
        .args(["-importcert", "-noprompt", "-storepass", "changeit", "-alias", "sekisho", "-file"])
        .arg(ca)
        .arg("-keystore")
        .arg(&store)
        .stderr(Stdio::null())
        .status();
    format!("-Djavax.net.ssl.trustStore={} -Djavax.net.ssl.trustStorePassword=changeit", store.display())
}
