//! `sekisho ca`: hand the certificate out, rotate it, and test whether the programs of this machine trust it (CX-01).

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use net::mint::{Alpn, LeafHost, Minter, VersionCeiling};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::up::load_authority;

/// TL-07's default life of a CA, days.
const VALIDITY_DAYS: u32 = 1_825;
/// A runtime that has not answered by then is reported as such. Browsers and the JVM start slowly.
const PROBE_SECONDS_MAX: u64 = 30;
/// What the local page says, so that a browser's own error page is not taken for it.
const PAGE: &str = "sekisho-trust-check";

#[derive(Args)]
pub struct CaArguments {
    #[command(subcommand)]
    what: CaCommand,
}

#[derive(Subcommand)]
enum CaCommand {
    /// Print the certificate (PEM), or write it to a file.
    Export {
        #[arg(long)]
        to: Option<PathBuf>,
    },
    /// Make the next CA, or put it to use once clients have learnt it.
    Rotate {
        /// Sign with the next CA from now on.
        #[arg(long)]
        activate: bool,
    },
    /// Test which programs on this machine trust the CA, and say how to make the others do so.
    Doctor,
}

/// A program that may have a trust store of its own, how to make it open a page, and how to teach it a CA.
struct Runtime {
    name: &'static str,
    programs: &'static [&'static str],
    /// `URL` stands for the page.
    arguments: &'static [&'static str],
    /// Whether its output must hold the page; for the others the exit code says enough.
    shows_page: bool,
    fix: &'static str,
}

const RUNTIMES: &[Runtime] = &[
    Runtime {
        name: "curl",
        programs: &["curl"],
        arguments: &["-sS", "--noproxy", "*", "--max-time", "10", "URL"],
        shows_page: true,
        fix: "copy the certificate to /usr/local/share/ca-certificates/sekisho.crt and run update-ca-certificates",
    },
    Runtime {
        name: "git",
        programs: &["git"],
        arguments: &["-c", "http.proxy=", "ls-remote", "URL"],
        shows_page: false,
        fix: "git config --global http.sslCAInfo CA-BUNDLE, or trust it system-wide as for curl",
    },
    Runtime {
        name: "Python",
        programs: &["python3"],
        arguments: &[
            "-c",
            "import sys,urllib.request as u; u.install_opener(u.build_opener(u.ProxyHandler({}))); sys.stdout.write(u.urlopen('URL', timeout=10).read().decode())",
        ],
        shows_page: true,
        fix: "export SSL_CERT_FILE=CA-BUNDLE (and REQUESTS_CA_BUNDLE for requests and pip)",
    },
    Runtime {
        name: "Node",
        programs: &["node"],
        arguments: &[
            "-e",
            "require('https').get('URL', r => r.pipe(process.stdout)).on('error', e => { console.error(e.message); process.exit(1) })",
        ],
        shows_page: true,
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
        shows_page: true,
        fix: "certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n sekisho -i CERTIFICATE",
    },
];

/// Runtimes whose check needs a compiler or a profile of its own; they are told about, not tested.
const UNTESTED: &[(&str, &str, &str)] = &[
    ("Java", "java", "keytool -importcert -cacerts -alias sekisho -file CERTIFICATE"),
    ("Go", "go", "it reads the system's store: trust it as for curl, or export SSL_CERT_FILE=CA-BUNDLE"),
    (
        "Firefox",
        "firefox",
        "set security.enterprise_roots.enabled, or import it under Settings, Privacy & Security, Certificates",
    ),
];

pub fn run(data: &Path, arguments: &CaArguments) -> Result<ExitCode> {
    let authority = load_authority(data)?;
    match &arguments.what {
        CaCommand::Export { to: None } => print!("{}", authority.current().pem),
        CaCommand::Export { to: Some(path) } => {
            std::fs::write(path, authority.current().pem.as_bytes())
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        CaCommand::Rotate { activate: false } => {
            let next = authority.rotate("Sekisho", VALIDITY_DAYS, SystemTime::now())?;
            print!("{}", next.pem);
            eprintln!("Teach the clients this certificate beside the current one, then run: sekisho ca rotate --activate");
        }
        CaCommand::Rotate { activate: true } => {
            let current = authority.activate(SystemTime::now())?;
            println!("{} signs from the next start on", current.common_name);
        }
        CaCommand::Doctor => return doctor(authority),
    }
    Ok(ExitCode::SUCCESS)
}

/// Exit code 1 where an installed program does not trust the CA.
fn doctor(authority: Arc<net::authority::Authority>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let certificate = std::path::absolute(authority.public_path())?;
    let minter = Minter::new(authority)?;
    let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)))?;
    let url = format!("https://localhost:{}/", listener.local_addr()?.port());
    let server = minter.server_config(&LeafHost::parse("localhost")?, Alpn::Http1, VersionCeiling::Tls13, SystemTime::now());
    runtime.spawn(serve_page(listener, server.map_err(|e| anyhow::anyhow!("{e}"))?));
    let mut all_trust = true;
    for candidate in RUNTIMES {
        let Some(program) = candidate.programs.iter().find(|program| is_installed(program)) else {
            println!("{:<10} not installed", candidate.name);
            continue;
        };
        let trusts = trusts(candidate, program, &url)?;
        all_trust &= trusts;
        let fix = candidate.fix.replace("CERTIFICATE", &certificate.display().to_string());
        println!("{:<10} {}", candidate.name, if trusts { "trusts it".to_owned() } else { format!("does not trust it: {fix}") });
    }
    for (name, _, fix) in UNTESTED.iter().filter(|(_, program, _)| is_installed(program)) {
        println!(
            "{name:<10} not tested; to make it trust the CA: {}",
            fix.replace("CERTIFICATE", &certificate.display().to_string())
        );
    }
    Ok(if all_trust { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn is_installed(program: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(program).is_file())
}

fn trusts(runtime: &Runtime, program: &str, url: &str) -> Result<bool> {
    let arguments = runtime.arguments.iter().map(|argument| argument.replace("URL", url));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let started = SystemTime::now();
    while child.try_wait()?.is_none() {
        if started.elapsed().unwrap_or_default() > Duration::from_secs(PROBE_SECONDS_MAX) {
            child.kill()?;
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let output = child.wait_with_output()?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // git fails in any case, for the page is no repository; only a complaint about the certificate counts.
    Ok(if runtime.shows_page { out.contains(PAGE) } else { !err.to_lowercase().contains("certificate") })
}

async fn serve_page(listener: TcpListener, config: Arc<rustls::ServerConfig>) {
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let mut stream = acceptor.accept(stream).await?;
            let mut request = [0_u8; 4096];
            let _ = stream.read(&mut request).await?;
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
