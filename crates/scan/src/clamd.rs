//! A ClamAV daemon as one more engine, outside the sandbox: the file is sent over its socket with `zINSTREAM` (clamd(8)).
//! Its database and unpackers complement ours. When it is configured and does not answer, a file that would be clean is
//! unscannable: half an examination is not an examination.

use crate::report::{Finding, FindingKind, Report, Unscannable, Verdict};
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};

/// One INSTREAM chunk; clamd's own clients use the same order of size.
const CHUNK_BYTES: usize = 64 << 10;
/// A reply is one line with a signature name.
const REPLY_BYTES_MAX: u64 = 4096;

/// Where clamd listens.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// What clamd answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Clean,
    Found(String),
}

/// Adds clamd's answer to a report.
pub(crate) async fn consult(address: &Address, file: File, until: Instant, mut report: Report) -> Report {
    let answer = timeout_at(until, scan(address, file)).await;
    let problem = match answer {
        Ok(Ok(Answer::Clean)) => return report,
        Ok(Ok(Answer::Found(signature))) => return with_signature(report, signature),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer in time".to_owned(),
    };
    tracing::warn!(problem, "clamd does not answer");
    if matches!(report.verdict, Verdict::Clean | Verdict::Suspicious) {
        report.verdict = Verdict::Unscannable(Unscannable::Unavailable);
    }
    report.findings.push(Finding { kind: FindingKind::NotRead, member: String::new(), detail: format!("clamd: {problem}") });
    report
}

/// Heuristics that say "not read" (`AlertExceedsMax`, `AlertEncrypted`) are no malware.
fn with_signature(mut report: Report, signature: String) -> Report {
    let reason = match () {
        () if signature.starts_with("Heuristics.Limits.Exceeded") => Some(Unscannable::SizeLimit),
        () if signature.starts_with("Heuristics.Encrypted") => Some(Unscannable::Encrypted),
        () => None,
    };
    match reason {
        Some(_) if matches!(report.verdict, Verdict::Unscannable(_)) => {}
        Some(reason) => report.verdict = Verdict::Unscannable(reason),
        None => {
            report.verdict = Verdict::Malicious;
            report.engine = "clamd".to_owned();
            report.signature = signature;
            report.member = String::new();
        }
    }
    report
}

/// Asks clamd about one file.
pub async fn scan(address: &Address, file: File) -> std::io::Result<Answer> {
    match address {
        Address::Unix(path) => stream(UnixStream::connect(path).await?, file).await,
        Address::Tcp(address) => stream(TcpStream::connect(address).await?, file).await,
    }
}

async fn stream(mut socket: impl AsyncRead + AsyncWrite + Unpin, file: File) -> std::io::Result<Answer> {
    let mut file = tokio::fs::File::from_std(file);
    file.rewind().await?;
    socket.write_all(b"zINSTREAM\0").await?;
    let mut chunk = vec![0u8; CHUNK_BYTES];
    loop {
        let count = file.read(&mut chunk).await?;
        let length = u32::try_from(count).map_err(std::io::Error::other)?;
        // clamd closes its side when a size limit is reached; its reply says so and is read below.
        if socket.write_all(&length.to_be_bytes()).await.is_err() || count == 0 {
            break;
        }
        if socket.write_all(chunk.get(..count).unwrap_or_default()).await.is_err() {
            break;
        }
    }
    socket.flush().await?;
    let mut reply = Vec::new();
    socket.take(REPLY_BYTES_MAX).read_to_end(&mut reply).await?;
    parse(&reply)
}

/// `stream: OK`, `stream: NAME FOUND`, or an error.
fn parse(reply: &[u8]) -> std::io::Result<Answer> {
    let text = String::from_utf8_lossy(reply);
    let line = text.trim_matches(|end: char| end == '\0' || end.is_whitespace());
    let body = line.strip_prefix("stream: ").unwrap_or(line);
    match body.strip_suffix(" FOUND") {
        Some(signature) => Ok(Answer::Found(signature.to_owned())),
        None if body == "OK" => Ok(Answer::Clean),
        None => Err(std::io::Error::other(format!("clamd answered {body:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies() {
        assert_eq!(parse(b"stream: OK\0").unwrap(), Answer::Clean);
        assert_eq!(parse(b"stream: Eicar-Test FOUND\0").unwrap(), Answer::Found("Eicar-Test".to_owned()));
        assert!(parse(b"INSTREAM size limit exceeded. ERROR\0").is_err());
        assert!(parse(b"").is_err());
    }

    #[test]
    fn a_limit_heuristic_is_not_malware() {
        let mut clean = Report::unscannable(Unscannable::Unavailable, 1);
        clean.verdict = Verdict::Clean;
        let report = with_signature(clean, "Heuristics.Limits.Exceeded.MaxFiles".to_owned());
        assert_eq!(report.verdict, Verdict::Unscannable(Unscannable::SizeLimit));
    }
}
