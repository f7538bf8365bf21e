//! The chapter of a plaintext service: a mail server that knows no TLS gets it (STARTTLS), and its row is in the record.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use net::mint::{Alpn, LeafHost};
use net::trust::{CertificateHandling, Trust, TrustSettings};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::{ANSWER_SECONDS_MAX, Claim, Stage, ask};
use crate::operations::Request;

const NAME: &str = "mail.demo.example";
/// Longer than any line of this conversation.
const LINE_BYTES_MAX: u64 = 1024;

/// The app document of the service.
pub fn app(origin: SocketAddr) -> String {
    format!(
        "[[l4.app]]\nname = \"mail\"\nprotocol = \"tcp/25\"\nedge_ips = [\"127.0.0.1\"]\n\
         origin_direct = [\"tcp://{origin}\"]\ntls = \"flexible\"\nstarttls = \"smtp\"\n\
         tls_settings = {{ names = [\"{NAME}\"] }}\n"
    )
}

/// A mail server that answers a greeting and a farewell, in the clear.
pub async fn start() -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(stream));
        }
    });
    Ok(address)
}

async fn converse(mut stream: TcpStream) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    write.write_all(b"220 old.demo.example ESMTP\r\n").await?;
    let mut lines = BufReader::new(read.take(64 * LINE_BYTES_MAX)).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = if line.starts_with("EHLO") { "250 old.demo.example\r\n" } else { "221 bye\r\n" };
        write.write_all(answer.as_bytes()).await?;
        if line.starts_with("QUIT") {
            break;
        }
    }
    write.shutdown().await
}

pub async fn gets_tls(stage: &Stage) -> Result<Claim> {
    let title = "a mail server that knows no TLS is reached with STARTTLS, and the row says so";
    let told = tokio::time::timeout(Duration::from_secs(ANSWER_SECONDS_MAX), talk(stage)).await;
    let (holds, evidence) = match told {
        Ok(Ok(version)) => recorded(stage, &version).await?,
        Ok(Err(error)) => (false, format!("{error:#}")),
        Err(_) => (false, "no answer in time".to_owned()),
    };
    Ok(Claim { title, holds, evidence })
}

/// Speaks with the server through the gate; the version of TLS that was agreed.
async fn talk(stage: &Stage) -> Result<String> {
    let mut tcp = TcpStream::connect(stage.service).await?;
    for (says, hears) in [("", "220 "), ("EHLO demo\r\n", "250-"), ("STARTTLS\r\n", "220 ")] {
        tcp.write_all(says.as_bytes()).await?;
        let heard = hear(&mut tcp).await?;
        ensure!(heard.starts_with(hears), "after {says:?} came {heard:?}");
    }
    let host = LeafHost::parse(NAME)?;
    let settings = TrustSettings { roots: crate::trust::read_roots(&stage.ca)?, ..TrustSettings::default() };
    let trust = Trust::new(settings, SystemTime::now())?;
    let config = trust.client_config(&host, Alpn::None, CertificateHandling::Refuse, SystemTime::now())?;
    let mut stream = tokio_rustls::TlsConnector::from(Arc::clone(&config)).connect(host.server_name()?, tcp).await?;
    stream.write_all(b"EHLO demo\r\nQUIT\r\n").await?;
    let mut heard = String::new();
    (&mut stream).take(LINE_BYTES_MAX).read_to_string(&mut heard).await?;
    ensure!(heard == "250 old.demo.example\r\n221 bye\r\n", "inside TLS came {heard:?}");
    let version = stream.get_ref().1.protocol_version().context("no version was agreed")?;
    Ok(version.as_str().unwrap_or("TLS").to_owned())
}

/// One reply of one or two lines, which the gate sends at once.
async fn hear(tcp: &mut TcpStream) -> Result<String> {
    let mut bytes = vec![0; LINE_BYTES_MAX as usize];
    let count = tcp.read(&mut bytes).await?;
    Ok(String::from_utf8_lossy(bytes.get(..count).unwrap_or_default()).into_owned())
}

async fn recorded(stage: &Stage, version: &str) -> Result<(bool, String)> {
    let expression = "l4.app == \"mail\" and l4.status == 200".to_owned();
    // The row is written when the flow has ended, which is a moment after its client has.
    for _ in 0..100 {
        let request = Request::Search { expression: expression.clone(), since: None, until: None, limit: 1 };
        let found = ask(stage, request).await?;
        if let Some(row) = found["events"].as_array().and_then(|events| events.first()) {
            let text = row.to_string();
            let holds = text.contains("flexible") && text.contains(NAME);
            return Ok((holds, format!("{version}, verified for {NAME}; the record has tls.origin.mode flexible, status 200")));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok((false, "no row in the record".to_owned()))
}
