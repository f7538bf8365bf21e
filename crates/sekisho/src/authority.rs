//! `sekisho ca`: hand the certificate out, rotate it, and test whether the programs of this machine trust it (CX-01).

use std::collections::HashSet;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use model::{Class, Event, EventId, Facts, FieldId, Gate, Severity, Timestamp, Value};
use net::authority::{AuthorityCertificate, ExpiryNotice, VALIDITY_DAYS_DEFAULT};
use net::mint::{Alpn, LeafHost, Minter, VersionCeiling};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::operations::Request;
use crate::up::load_authority;

/// What a program says that is read; its last line is shown.
const SAID_BYTES_MAX: u64 = 64 << 10;
/// A runtime that has not answered by then is reported as such. Browsers and the JVM start slowly.
const PROBE_SECONDS_MAX: u64 = 60;
/// What the local page says.
const PAGE: &str = "sekisho-trust-check";

#[derive(Args)]
pub struct CaArguments {
    #[command(subcommand)]
    what: CaCommand,
}

#[derive(Subcommand)]
enum CaCommand {
    /// Print what clients must know (PEM), or write it to a file: the certificate, and the next one during a rotation.
    Export {
        #[arg(long)]
        to: Option<PathBuf>,
    },
    /// Make the next CA, so that clients can learn it before it signs.
    Rotate {
        /// Days that it is valid for.
        #[arg(long, default_value_t = VALIDITY_DAYS_DEFAULT)]
        days: u32,
        /// Put the one that was made before to use instead; the same as `ca activate`.
        #[arg(long)]
        activate: bool,
    },
    /// Sign with the next CA from now on; a running program does so without a restart.
    Activate,
    /// Test which programs on this machine trust the CA, and say how to make the others do so.
    Doctor,
}

/// A program that may have a trust store of its own, how to make it open a page, and how to teach it a CA.
struct Runtime {
    name: &'static str,
    programs: &'static [&'static str],
    /// `URL` stands for the page, `FOLDER` for a folder of the check's own.
    arguments: &'static [&'static str],
    /// What must lie in that folder: a program's source.
    source: Option<(&'static str, &'static str)>,
    fix: &'static str,
}

const RUNTIMES: &[Runtime] = &[
    Runtime {
        name: "curl",
        programs: &["curl"],
        arguments: &["-sS", "--noproxy", "*", "--max-time", "10", "URL"],
        source: None,
        fix: "copy the certificate to /usr/local/share/ca-certificates/sekisho.crt and run update-ca-certificates",
    },
    Runtime {
        name: "git",
        programs: &["git"],
        arguments: &["-c", "http.proxy=", "ls-remote", "URL"],
        source: None,
        fix: "git config --global http.sslCAInfo CA-BUNDLE, or trust it system-wide as for curl",
    },
    Runtime {
        name: "Python",
        programs: &["python3"],
        arguments: &[
            "-c",
            "import sys,urllib.request as u; u.install_opener(u.build_opener(u.ProxyHandler({}))); sys.stdout.write(u.urlopen('URL', timeout=10).read().decode())",
        ],
        source: None,
        fix: "export SSL_CERT_FILE=CA-BUNDLE (and REQUESTS_CA_BUNDLE for requests and pip)",
    },
    Runtime {
        name: "Node",
        programs: &["node"],
        arguments: &[
            "-e",
            "require('https').get('URL', r => r.pipe(process.stdout)).on('error', e => { console.error(e.message); process.exit(1) })",
        ],
        source: None,
        fix: "export NODE_EXTRA_CA_CERTS=CERTIFICATE",
    },
    Runtime {
        name: "Chromium",
        programs: &["chromium", "chromium-browser", "google-chrome"],
        arguments: &[
            "--headless",
            "--disable-gpu",
            "--no-sandbox",
            "--no-first-run",
            "--disable-background-networking",
            "--no-proxy-server",
            "--dump-dom",
            "URL",
        ],
        source: None,
        fix: "certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n sekisho -i CERTIFICATE",
    },
    Runtime {
        name: "Java",
        programs: &["java"],
        arguments: &["FOLDER/Check.java", "URL"],
        source: Some(("Check.java", JAVA)),
        fix: "keytool -importcert -cacerts -noprompt -storepass changeit -alias sekisho -file CERTIFICATE",
    },
    Runtime {
        name: "Go",
        programs: &["go"],
        arguments: &["run", "FOLDER/check.go", "URL"],
        source: Some(("check.go", GO)),
        fix: "it reads the system's store: trust it as for curl, or export SSL_CERT_FILE=CA-BUNDLE",
    },
    Runtime {
        name: "Firefox",
        programs: &["firefox", "firefox-esr"],
        arguments: &["--headless", "--no-remote", "--profile", "FOLDER", "--screenshot", "FOLDER/page.png", "URL"],
        source: None,
        fix: "import it under Settings, Privacy & Security, Certificates, or with certutil -d sql:PROFILE -A -t C,, -n sekisho -i CERTIFICATE",
    },
];

/// Opens the page with the JVM's own trust store. Run from source (JEP 330), so that no compiler step is needed.
const JAVA: &str = "public class Check { public static void main(String[] a) throws Exception { \
    System.setProperty(\"java.net.useSystemProxies\", \"false\"); \
    var c = new java.net.URL(a[0]).openConnection(java.net.Proxy.NO_PROXY); c.setConnectTimeout(10000); \
    c.getInputStream().readAllBytes(); } }\n";

const GO: &str = "package main\n\nimport (\n\t\"net/http\"\n\t\"os\"\n)\n\nfunc main() {\n\
    \tclient := &http.Client{Transport: &http.Transport{Proxy: nil}}\n\
    \tif _, err := client.Get(os.Args[1]); err != nil {\n\t\tprintln(err.Error())\n\t\tos.Exit(1)\n\t}\n}\n";

pub fn run(data: &Path, arguments: &CaArguments) -> Result<ExitCode> {
    let authority = load_authority(data)?;
    match &arguments.what {
        CaCommand::Export { to: None } => print!("{}", authority.trust_pem()),
        CaCommand::Export { to: Some(path) } => {
            std::fs::write(path, authority.trust_pem()).with_context(|| format!("cannot write {}", path.display()))?;
        }
        CaCommand::Rotate { activate: false, days } => {
            let next = authority.rotate("Sekisho", *days, SystemTime::now())?;
            print!("{}", next.pem);
            tell_running(data)?;
            eprintln!("Teach the clients this certificate beside the current one, then run: sekisho ca activate");
        }
        CaCommand::Rotate { activate: true, .. } | CaCommand::Activate => {
            let current = authority.activate(SystemTime::now())?;
            match tell_running(data)? {
                true => println!("{} signs from now on", current.common_name),
                false => println!("{} signs from the next start on", current.common_name),
            }
        }
        CaCommand::Doctor => return doctor(authority),
    }
    Ok(ExitCode::SUCCESS)
}

/// Has the program that runs on this folder take the change; false where none runs.
fn tell_running(data: &Path) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(crate::control::call(data, &Request::Reload))?.is_some())
}

/// The event by which the record and whoever watches it learn that the CA nears its end (TL-08).
pub fn expiry_event(authority: &AuthorityCertificate, notice: ExpiryNotice, now: Timestamp) -> Event {
    let (when, severity) = match notice {
        ExpiryNotice::Days90 => ("in 90 days or sooner", Severity::Low),
        ExpiryNotice::Days30 => ("in 30 days or sooner", Severity::Medium),
        ExpiryNotice::Days7 => ("in 7 days or sooner", Severity::High),
        ExpiryNotice::Days1 => ("within a day", Severity::Critical),
        ExpiryNotice::Ended => ("already: it has ended", Severity::Critical),
    };
    let mut facts = Facts::new(Gate::Web);
    for (field, value) in [
        (FieldId::GateName, Value::text(Gate::Web.as_str())),
        (FieldId::Failure, Value::text("ca_expiry")),
        (FieldId::SeverityId, Value::Int(severity.id())),
        (FieldId::Findings, Value::texts([format!("ca: {} ends {when}", authority.common_name)])),
        (FieldId::VerdictReason, Value::text("make the next CA with `sekisho ca rotate` and teach it to the clients")),
    ] {
        facts.set(field, value);
    }
    Event { id: EventId(0), time: now, class: Class::DetectionFinding, facts }
}

/// Exit code 1 where an installed program does not trust the CA. What counts is whether its request came to the page over
/// TLS: no program's own words need to be understood.
fn doctor(authority: Arc<net::authority::Authority>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let certificate = std::path::absolute(authority.public_path())?;
    let minter = Minter::new(authority)?;
    let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)))?;
    let port = listener.local_addr()?.port();
    let server = minter.server_config(&LeafHost::parse("localhost")?, Alpn::Http1, VersionCeiling::Tls13, SystemTime::now());
    let visits = Arc::new(Mutex::new(HashSet::new()));
    runtime.spawn(serve_page(listener, server.map_err(|e| anyhow::anyhow!("{e}"))?, visits.clone()));
    let mut all_trust = true;
    for (place, candidate) in RUNTIMES.iter().enumerate() {
        let Some(program) = candidate.programs.iter().find(|program| is_installed(program)) else {
            println!("{:<10} not installed", candidate.name);
            continue;
        };
        let path = format!("/check-{place}");
        let told = open_page(candidate, program, &format!("https://localhost:{port}{path}"))?;
        let trusts = visits.lock().unwrap_or_else(PoisonError::into_inner).contains(&path);
        all_trust &= trusts;
        let fix = candidate.fix.replace("CERTIFICATE", &certificate.display().to_string());
        println!("{:<10} {}", candidate.name, if trusts { "trusts it".to_owned() } else { format!("does not trust it: {fix}") });
        if let Some(told) = told.filter(|_| !trusts) {
            println!("{:<10} it said: {told}", "");
        }
    }
    Ok(if all_trust { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn is_installed(program: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(program).is_file())
}

/// Has a program open the page. What it said last on its standard error, for a person to read.
fn open_page(runtime: &Runtime, program: &str, url: &str) -> Result<Option<String>> {
    let folder = tempfile::tempdir()?;
    if let Some((name, text)) = runtime.source {
        std::fs::write(folder.path().join(name), text)?;
    }
    if runtime.name == "Firefox" {
        copy_firefox_trust(folder.path());
    }
    let place = folder.path().display().to_string();
    let arguments = runtime.arguments.iter().map(|argument| argument.replace("URL", url).replace("FOLDER", &place));
    let said = tempfile::tempfile()?;
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(folder.path())
        .env("GOFLAGS", "-mod=mod")
        .env("GOCACHE", folder.path().join("go-cache"))
        .env("MOZ_HEADLESS", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said.try_clone()?)
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let started = Instant::now();
    while child.try_wait()?.is_none() {
        if started.elapsed() > Duration::from_secs(PROBE_SECONDS_MAX) {
            child.kill()?;
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = child.wait();
    Ok(last_line(said))
}

fn last_line(mut said: std::fs::File) -> Option<String> {
    let mut text = Vec::new();
    said.rewind().ok()?;
    said.take(SAID_BYTES_MAX).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

/// A profile of the check's own with the certificates and settings of the person's: theirs stays as it is, and may be open.
fn copy_firefox_trust(to: &Path) {
    let Some(home) = std::env::var_os("HOME") else { return };
    let profiles = ["*.default-release", "*.default-esr", "*.default"];
    let folders = [".mozilla/firefox", "snap/firefox/common/.mozilla/firefox"].map(|folder| Path::new(&home).join(folder));
    let entries = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    let mut found: Vec<(usize, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let rank = profiles.iter().position(|profile| name.ends_with(profile.trim_start_matches('*')))?;
            Some((rank, entry.path()))
        })
        .collect();
    found.sort();
    let Some((_, profile)) = found.first() else { return };
    for file in ["cert9.db", "key4.db", "pkcs11.txt", "prefs.js"] {
        let _ = std::fs::copy(profile.join(file), to.join(file));
    }
}

/// Answers every request with the page and notes the path that was asked for.
async fn serve_page(listener: TcpListener, config: Arc<rustls::ServerConfig>, visits: Arc<Mutex<HashSet<String>>>) {
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, visits) = (acceptor.clone(), visits.clone());
        tokio::spawn(async move {
            let mut stream = acceptor.accept(stream).await?;
            let mut request = [0_u8; 4096];
            let count = stream.read(&mut request).await?;
            let text = String::from_utf8_lossy(request.get(..count).unwrap_or_default()).into_owned();
            // git asks for a path below the one that it was given.
            let path = text.split(' ').nth(1).and_then(|path| path.split('/').nth(1)).map(|first| format!("/{first}"));
            visits.lock().unwrap_or_else(PoisonError::into_inner).extend(path);
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                PAGE.len()
            );
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(PAGE.as_bytes()).await?;
            stream.shutdown().await
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TL-08: each level is an event of its own weight, which names the authority and what to do.
    #[test]
    fn tl_08_the_end_of_the_ca_is_an_event() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let authority = net::authority::Authority::load_or_create(folder.path(), "Acme", SystemTime::now())?.current();
        let mut before = 0;
        for (days, level) in [(90, "90 days"), (30, "30 days"), (7, "7 days"), (1, "within a day")] {
            let now = authority.not_after - Duration::from_secs(days * 86_400);
            let notice = net::authority::expiry_notice(authority.not_after, now).context("a notice is due")?;
            let event = expiry_event(&authority, notice, now.into());
            let text = |field| event.facts.get(field).map(ToString::to_string).unwrap_or_default();
            assert_eq!(text(FieldId::Failure), "ca_expiry");
            let findings = text(FieldId::Findings);
            assert!(findings.contains(level) && findings.contains(&*authority.common_name), "{findings}");
            let severity: i64 = text(FieldId::SeverityId).parse()?;
            assert!(severity > before, "{days} days");
            before = severity;
        }
        Ok(())
    }
}
