//! `sekisho demo`: the whole story without internet. It starts this program on free ports in a temporary folder, an origin
//! of its own beside it, plays a user, and prints each claim with its evidence. It exits non-zero if one does not hold.

mod service;

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use bytes::Bytes;
use clap::Args;
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use http_body_util::{BodyExt, Empty, Full};
use hyper::service::service_fn;
use hyper::{Request as HttpRequest, Response};
use hyper_util::rt::TokioIo;
use model::Gate;
use serde_json::{Value as Json, json};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::commands::token::random_secret;
use crate::control;
use crate::operations::Request;

/// The longest wait for the program to come up; a cold start in a debug build takes a few seconds.
const START_SECONDS_MAX: u64 = 60;
/// The longest wait for any one answer.
const ANSWER_SECONDS_MAX: u64 = 30;
/// The standard harmless test file, each byte one higher, so that this program is not itself taken for it.
const TEST_VIRUS_SHIFTED: &[u8] = b"Y6P\"Q&ABQ\\5]Q[Y65)Q_*8DD*8~%FJDBS.TUBOEBSE.BOUJWJSVT.UFTU.GJMF\"%I,I+";
const C2_NAME: &str = "control.c2.example";
const USER: &str = "ann@example.com";

#[derive(Args)]
pub struct DemoArguments {
    /// One JSON object with every claim, for machines.
    #[arg(long)]
    json: bool,
}

struct Claim {
    title: &'static str,
    holds: bool,
    evidence: String,
}

/// The program under demonstration; ended when dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Stage {
    data: std::path::PathBuf,
    proxy: SocketAddr,
    dns: SocketAddr,
    origin: SocketAddr,
    /// Where the plaintext service is offered.
    service: SocketAddr,
    /// The installation's certificate.
    ca: std::path::PathBuf,
    token: String,
}

pub fn run(arguments: &DemoArguments) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let claims = runtime.block_on(tell())?;
    let all_hold = claims.iter().all(|claim| claim.holds);
    if arguments.json {
        let rows = claims.iter().map(|claim| json!({ "claim": claim.title, "holds": claim.holds, "evidence": claim.evidence }));
        println!("{}", json!({ "holds": all_hold, "claims": rows.collect::<Vec<_>>() }));
    } else {
        for (number, claim) in claims.iter().enumerate() {
            println!("{}. {} {}", number + 1, if claim.holds { "yes" } else { "NO " }, claim.title);
            println!("       {}", claim.evidence);
        }
    }
    Ok(if all_hold { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn tell() -> Result<Vec<Claim>> {
    let folder = tempfile::tempdir()?;
    let token = checkpoint::token_of(&random_secret()?);
    let origin = start_origin().await?;
    let behind = service::start().await?;
    let (_program, ready) = start_program(folder.path(), behind).await?;
    let stage = Stage {
        data: folder.path().join("data"),
        proxy: listener(&ready, "web", &["http", "proxy"])?,
        dns: listener(&ready, "dns", &["udp"])?,
        origin,
        service: listener(&ready, "l4", &["tcp"])?,
        ca: ready["ca"].as_str().context("ready file without a CA")?.into(),
        token,
    };
    apply_policy(&stage).await?;
    let mut claims = vec![clean_file_passes(&stage).await?];
    let (claim, sha256) = virus_is_cut_off(&stage).await?;
    claims.push(claim);
    claims.push(c2_name_is_sinkholed(&stage).await?);
    claims.push(rule_is_explained(&stage).await?);
    claims.push(record_names_the_user(&stage, sha256.as_deref()).await?);
    claims.push(service::gets_tls(&stage).await?);
    Ok(claims)
}

fn test_virus() -> Vec<u8> {
    TEST_VIRUS_SHIFTED.iter().map(|byte| byte.wrapping_sub(1)).collect()
}

fn clean_file() -> Vec<u8> {
    (0..64_u32 * 1024).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// A message with an archive in it, and the test virus in that.
fn message_with_virus() -> Result<Vec<u8>> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    archive.start_file("invoice.com", zip::write::SimpleFileOptions::default())?;
    archive.write_all(&test_virus())?;
    let archive = base64::engine::general_purpose::STANDARD.encode(archive.finish()?.into_inner());
    let head = "From: a@example.com\r\nTo: b@example.com\r\nSubject: invoice\r\nMIME-Version: 1.0\r\n\
        Content-Type: application/zip; name=invoice.zip\r\nContent-Transfer-Encoding: base64\r\n\
        Content-Disposition: attachment; filename=invoice.zip\r\n\r\n";
    let lines: Vec<&str> = archive.as_bytes().chunks(76).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    Ok(format!("{head}{}\r\n", lines.join("\r\n")).into_bytes())
}

async fn start_origin() -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let infected = Bytes::from(message_with_virus()?);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let infected = infected.clone();
            let service = service_fn(move |request: HttpRequest<hyper::body::Incoming>| {
                let body = if request.uri().path() == "/invoice.eml" { infected.clone() } else { Bytes::from(clean_file()) };
                async move {
                    Response::builder()
                        .header("content-type", "application/octet-stream")
                        .header("content-disposition", "attachment")
                        .body(Full::new(body))
                }
            });
            tokio::spawn(async move {
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
            });
        }
    });
    Ok(address)
}

async fn start_program(folder: &Path, service: SocketAddr) -> Result<(Program, Json)> {
    let ready = folder.join("ready.json");
    let log = std::fs::File::create(folder.join("log"))?;
    let config = folder.join("sekisho.toml");
    // The demo's own origin is on this machine, where a proxy does not go unless it is told to.
    let upstream = "[upstream]\ndanger_exempt = [\"127.0.0.0/8\"]\n";
    std::fs::write(&config, format!("{upstream}{}", service::app(service)))?;
    let child = Command::new(std::env::current_exe()?)
        .arg("--data")
        .arg(folder.join("data"))
        .args(["up", "--ephemeral-ports", "--config"])
        .arg(&config)
        .arg("--ready-file")
        .arg(&ready)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("cannot start this program again")?;
    let mut program = Program(child);
    for _ in 0..START_SECONDS_MAX * 20 {
        if let Ok(text) = std::fs::read_to_string(&ready) {
            return Ok((program, serde_json::from_str(&text)?));
        }
        if let Some(status) = program.0.try_wait()? {
            bail!("the program ended with {status}: {}", std::fs::read_to_string(folder.join("log"))?);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("the program did not come up in {START_SECONDS_MAX} s")
}

fn listener(ready: &Json, gate: &str, protocols: &[&str]) -> Result<SocketAddr> {
    let rows = ready["listeners"].as_array().context("ready file without listeners")?;
    let row = rows.iter().find(|row| row["gate"] == gate && protocols.iter().any(|protocol| row["protocol"] == *protocol));
    Ok(row.and_then(|row| row["address"].as_str()).with_context(|| format!("no {gate} listener"))?.parse()?)
}

async fn ask(stage: &Stage, request: Request) -> Result<Json> {
    control::call(&stage.data, &request).await?.context("the program does not answer on its control socket")
}

async fn apply_policy(stage: &Stage) -> Result<()> {
    let text = format!(
        "[[user]]\nemail = \"{USER}\"\ntokens = [\"{}\"]\n\n\
         [[list]]\nname = \"c2\"\nkind = \"domain\"\nentries = [\"c2.example\"]\n\n\
         [[rule]]\nid = \"c2\"\nname = \"Command and control\"\ngate = \"dns\"\naction = \"block\"\n\
         when = 'any(dns.domains[*] in $c2)'\nsettings = {{ block_reason = \"known command and control\" }}\n",
        checkpoint::secret_digest(&stage.token)
    );
    let documents = vec![("demo.toml".to_owned(), text)];
    let request = Request::Apply { documents, author: "demo".into(), note: "the demo's rules".into(), dry_run: false };
    let answer = ask(stage, request).await?;
    ensure!(answer["changed"] == true, "the demo's policy was not applied: {answer}");
    Ok(())
}

/// One download through the proxy, as the user. The error says how it was cut off.
async fn download(stage: &Stage, path: &str) -> Result<(u16, Bytes)> {
    let stream = TcpStream::connect(stage.proxy).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{}", stage.token));
    let request = HttpRequest::get(format!("http://{}{path}", stage.origin))
        .header("host", stage.origin.to_string())
        .header("proxy-authorization", format!("Basic {credentials}"))
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        Ok::<_, anyhow::Error>((status, response.into_body().collect().await?.to_bytes()))
    };
    tokio::time::timeout(Duration::from_secs(ANSWER_SECONDS_MAX), exchange).await?
}

async fn clean_file_passes(stage: &Stage) -> Result<Claim> {
    let (holds, evidence) = match download(stage, "/clean.bin").await {
        Ok((status, body)) => {
            (status == 200 && body == clean_file(), format!("status {status}, {} bytes, the same as at the origin", body.len()))
        }
        Err(error) => (false, format!("{error:#}")),
    };
    Ok(Claim { title: "a clean file passes unchanged", holds, evidence })
}

/// The claim, and the SHA-256 of the file as the record has it.
async fn virus_is_cut_off(stage: &Stage) -> Result<(Claim, Option<String>)> {
    let outcome = download(stage, "/invoice.eml").await;
    let (is_cut, how) = match outcome {
        Ok((status, body)) => (status != 200, format!("status {status}, {} bytes", body.len())),
        Err(error) => (true, format!("the client saw: {error:#}")),
    };
    let expression = "scan.verdict == \"malicious\"".to_owned();
    let found = ask(stage, Request::Search { expression, since: None, until: None, limit: 1 }).await?;
    let event = &found["events"][0];
    let sha256 = event["file.sha256"].as_str().map(str::to_owned);
    let claim = Claim {
        title: "a test virus, in a zip, in a message, is cut off",
        holds: is_cut && event["verdict.outcome"] == "blocked" && sha256.is_some(),
        evidence: format!("{how}; {} in {}", event["scan.signature"], event["scan.member"]),
    };
    Ok((claim, sha256))
}

async fn c2_name_is_sinkholed(stage: &Stage) -> Result<Claim> {
    let name = Name::from_ascii(format!("{C2_NAME}."))?;
    let mut query = Message::new(0x5e15, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(name, RecordType::A));
    let socket = UdpSocket::bind(("127.0.0.1", 0)).await?;
    socket.send_to(&query.to_vec()?, stage.dns).await?;
    let mut buffer = [0_u8; 1232];
    let received = tokio::time::timeout(Duration::from_secs(ANSWER_SECONDS_MAX), socket.recv(&mut buffer)).await??;
    let answer = Message::from_vec(&buffer[..received])?;
    let address = answer.answers.iter().find_map(|record| match &record.data {
        RData::A(address) => Some(address.0),
        _ => None,
    });
    Ok(Claim {
        title: "a command-and-control name is answered with nowhere",
        holds: address.is_some_and(|address| address.is_unspecified()),
        evidence: format!("{C2_NAME} A {address:?}"),
    })
}

async fn rule_is_explained(stage: &Stage) -> Result<Claim> {
    let request = Request::Explain {
        gate: Gate::Dns,
        host: C2_NAME.into(),
        scheme: String::new(),
        port: None,
        path: String::new(),
        method: String::new(),
        query_type: "A".into(),
        user: None,
        source: None,
    };
    let text = ask(stage, request).await?.to_string();
    Ok(Claim {
        title: "the rule that decided is explained",
        holds: text.contains("Command and control"),
        evidence: format!("explain dns {C2_NAME} names the rule among {} bytes of reasons", text.len()),
    })
}

async fn record_names_the_user(stage: &Stage, sha256: Option<&str>) -> Result<Claim> {
    let indicators = sha256.map(str::to_owned).into_iter().collect();
    let found = ask(stage, Request::Touched { indicators }).await?;
    let user = found["sightings"][0]["user"].as_str().unwrap_or_default().to_owned();
    Ok(Claim {
        title: "the record says who else touched this file",
        holds: user == USER,
        evidence: format!("touched {} names {user}", sha256.unwrap_or("(no file)")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_virus_is_the_standard_one() {
        let bytes = test_virus();
        assert_eq!(bytes.len(), 68);
        assert_eq!(
            checkpoint::secret_digest(&String::from_utf8_lossy(&bytes)),
            "275a021bbfb6489e54d471899f7db9d1663fc695ec2fe2a2c4538aabf651fd0f"
        );
    }
}
