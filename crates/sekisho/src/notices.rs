//! Sends notices of attacks: by webhook with a signature, and by syslog. One thread does it, so that neither the packet path
//! nor a command waits for a receiver; what a full queue does not take is logged and stands in the record all the same.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, bail, ensure};
use aws_lc_rs::hmac;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use net::mint::{Alpn, LeafHost};
use net::trust::{CertificateHandling, Trust, TrustSettings, mozilla_roots};
use shield::notice::{Notice, NoticesSpec};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use crate::operations::time_text;

/// Notices that wait. An attack makes four at most, and the same are not told twice within the hour.
const WAITING_MAX: usize = 64;
/// Between attempts; with the waits below, a notice has gone out or was given up within a minute.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(10)];
const WEBHOOK_SECONDS_MAX: u64 = 10;
/// As long as the keys of common signing schemes are.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 16..=4_096;
/// Facility 3 (system daemons), severity 4 (warning): RFC 5424 section 6.2.1.
const PRIORITY: u8 = 3 * 8 + 4;
/// A message that every receiver takes (RFC 5424 section 6.1).
const SYSLOG_BYTES_MAX: usize = 2_048;
/// The header with the signature: `sha256=` and the HMAC-SHA-256 of the body in hexadecimal digits.
const SIGNATURE: &str = "sekisho-signature";

/// The way to the thread that sends.
pub struct Outbox {
    queue: Option<SyncSender<Notice>>,
}

/// Where notices go.
#[derive(Default)]
struct Channels {
    webhook: Option<Webhook>,
    syslog: Option<Syslog>,
}

struct Webhook {
    /// None is http on a loopback address.
    tls: Option<Trust>,
    host: LeafHost,
    port: u16,
    authority: String,
    path: String,
    key: Option<hmac::Key>,
}

enum Syslog {
    Datagram(String),
    Socket(PathBuf),
}

/// Says what is wrong with where notices are to go.
pub fn check(spec: &NoticesSpec) -> Result<()> {
    Channels::resolve(spec).map(|_| ())
}

impl Outbox {
    /// Checks where notices are to go, and starts the thread where they go anywhere.
    pub fn open(spec: &NoticesSpec) -> Result<Outbox> {
        let channels = Channels::resolve(spec)?;
        if channels.webhook.is_none() && channels.syslog.is_none() {
            return Ok(Outbox { queue: None });
        }
        let (queue, waiting) = sync_channel(WAITING_MAX);
        std::thread::Builder::new().name("shield-notices".to_owned()).spawn(move || channels.serve(&waiting))?;
        Ok(Outbox { queue: Some(queue) })
    }

    /// Whether notices go anywhere.
    pub fn is_open(&self) -> bool {
        self.queue.is_some()
    }

    pub fn send(&self, notice: Notice) {
        let Some(queue) = &self.queue else { return };
        match queue.try_send(notice) {
            Ok(()) => {}
            Err(TrySendError::Full(notice)) => {
                tracing::error!(notice = notice.notice.as_str(), "too many notices wait; this one is not sent");
            }
            Err(TrySendError::Disconnected(_)) => tracing::error!("notices are not sent any more"),
        }
    }
}

impl Channels {
    fn resolve(spec: &NoticesSpec) -> Result<Channels> {
        let webhook = spec.webhook.as_deref().map(|url| Webhook::resolve(url, spec.webhook_secret.as_deref()));
        let webhook = webhook.transpose().context("shield.notices.webhook")?;
        ensure!(spec.webhook.is_some() || spec.webhook_secret.is_none(), "shield.notices.webhook_secret: there is no webhook");
        let syslog = spec.syslog.as_deref().map(Syslog::resolve).transpose().context("shield.notices.syslog")?;
        Ok(Channels { webhook, syslog })
    }

    fn serve(&self, waiting: &Receiver<Notice>) {
        for notice in waiting {
            if let Some(webhook) = &self.webhook {
                attempt("webhook", &notice, || webhook.send(&notice));
            }
            if let Some(syslog) = &self.syslog {
                attempt("syslog", &notice, || syslog.send(&notice));
            }
        }
    }
}

/// Tries again after a pause, a few times.
fn attempt(channel: &'static str, notice: &Notice, send: impl Fn() -> Result<()>) {
    let state = notice.notice.as_str();
    for pause in PAUSES.into_iter().map(Some).chain([None]) {
        match (send(), pause) {
            (Ok(()), _) => return tracing::info!(channel, notice = state, "a notice was sent"),
            (Err(_), Some(pause)) => std::thread::sleep(pause),
            (Err(error), None) => tracing::error!(channel, notice = state, error = format!("{error:#}"), "a notice was not sent"),
        }
    }
}

impl Webhook {
    fn resolve(url: &str, secret: Option<&Path>) -> Result<Webhook> {
        let uri: Uri = url.parse().with_context(|| format!("{url:?} is no URL"))?;
        let authority = uri.authority().with_context(|| format!("{url:?} names no host"))?;
        ensure!(!authority.as_str().contains('@'), "the URL may not hold a user name or password");
        let host = LeafHost::parse(authority.host()).with_context(|| format!("the host of {url:?}"))?;
        let tls = match (uri.scheme_str(), &host) {
            (Some("https"), _) => {
                let settings = TrustSettings { roots: mozilla_roots(), ..TrustSettings::default() };
                Some(Trust::new(settings, SystemTime::now())?)
            }
            (Some("http"), LeafHost::Address(address)) if address.is_loopback() => None,
            _ => bail!("{url:?} is refused: only https, or http on a loopback address"),
        };
        let port = authority.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        let key = secret.map(key_of).transpose()?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Webhook { tls, host, port, authority: authority.as_str().to_owned(), path, key })
    }

    fn send(&self, notice: &Notice) -> Result<()> {
        let body = serde_json::to_vec(notice)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let wait = Duration::from_secs(WEBHOOK_SECONDS_MAX);
        let sent = runtime.block_on(async { tokio::time::timeout(wait, self.post(body)).await });
        // A look-up of the system's resolver cannot be stopped and is not waited for.
        runtime.shutdown_background();
        sent.with_context(|| format!("{} did not answer in {WEBHOOK_SECONDS_MAX} seconds", self.authority))?
    }

    /// The operator's own message to an address of the operator's choice: no permit is asked for, and nobody's traffic is in it.
    async fn post(&self, body: Vec<u8>) -> Result<()> {
        let unreachable = || format!("cannot connect to {}", self.authority);
        let stream = match &self.host {
            LeafHost::Address(address) => TcpStream::connect((*address, self.port)).await,
            LeafHost::Name(name) => TcpStream::connect((name.as_ref(), self.port)).await,
        };
        let stream = stream.with_context(unreachable)?;
        let Some(trust) = &self.tls else { return self.exchange(stream, body).await };
        let config = trust.client_config(&self.host, Alpn::Http1, CertificateHandling::Refuse, SystemTime::now())?;
        let stream = tokio_rustls::TlsConnector::from(config).connect(self.host.server_name()?, stream);
        self.exchange(stream.await.with_context(unreachable)?, body).await
    }

    async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S, body: Vec<u8>) -> Result<()> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Ends with this function, however it is left.
        let mut pump = JoinSet::new();
        pump.spawn(connection);
        let mut request = Request::post(&self.path)
            .header(HOST, &self.authority)
            .header(USER_AGENT, concat!("sekisho/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_TYPE, "application/json");
        if let Some(key) = &self.key {
            request = request.header(SIGNATURE, format!("sha256={}", hex(hmac::sign(key, &body).as_ref())));
        }
        let status = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?.status();
        ensure!(status.is_success(), "{} answered {}", self.authority, status.as_u16());
        Ok(())
    }
}

fn key_of(path: &Path) -> Result<hmac::Key> {
    let place = || format!("the secret in {}", path.display());
    let secret = Zeroizing::new(std::fs::read(path).with_context(place)?);
    let secret = secret.trim_ascii();
    ensure!(SECRET_BYTES.contains(&secret.len()), "{}: between 16 and 4,096 bytes", place());
    Ok(hmac::Key::new(hmac::HMAC_SHA256, secret))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Syslog {
    fn resolve(target: &str) -> Result<Syslog> {
        match target.strip_prefix("udp://") {
            Some(address)
                if address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) =>
            {
                Ok(Syslog::Datagram(address.to_owned()))
            }
            None if target.starts_with('/') => Ok(Syslog::Socket(target.into())),
            _ => bail!("{target:?} is neither udp://host:port nor the path of a socket"),
        }
    }

    fn send(&self, notice: &Notice) -> Result<()> {
        let message = message(notice);
        match self {
            Syslog::Socket(path) => {
                UnixDatagram::unbound()?.send_to(&message, path).with_context(|| format!("{}", path.display()))?;
            }
            Syslog::Datagram(target) => {
                let address = target.to_socket_addrs()?.next().ok_or_else(|| anyhow!("{target} has no address"))?;
                let any =
                    if address.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
                UdpSocket::bind(SocketAddr::new(any, 0))?.send_to(&message, address).with_context(|| target.clone())?;
            }
        }
        Ok(())
    }
}

/// RFC 5424: the description, and what a rule of the receiver may look for as structured data under the number that is
/// reserved for examples (RFC 5612), since there is none of our own.
fn message(notice: &Notice) -> Vec<u8> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().filter(char::is_ascii_graphic).take(255).collect();
    let (host, incident) = (if host.is_empty() { "-" } else { &host }, &notice.incident);
    let data = format!(
        "[attack@32473 state=\"{}\" kind=\"{}\" target=\"{}\" peak=\"{}\"]",
        notice.notice.as_str(),
        incident.kind,
        incident.target,
        incident.peak_packets_per_second
    );
    let time = time_text(model::Timestamp(notice.at.saturating_mul(1_000)));
    let process = std::process::id();
    let text = format!("<{PRIORITY}>1 {time} {host} sekisho {process} attack {data} \u{feff}{}", notice.description);
    let mut bytes = text.into_bytes();
    bytes.truncate(SYSLOG_BYTES_MAX);
    bytes
}

#[cfg(test)]
mod tests {
    use shield::guard::Incident;
    use shield::notice::State;

    use super::*;

    fn refused(spec: NoticesSpec) -> String {
        Outbox::open(&spec).err().map(|error| format!("{error:#}")).unwrap_or_default()
    }

    #[test]
    fn a_place_that_cannot_be_told_safely_is_refused_by_name() -> Result<()> {
        let webhook = |url: &str| NoticesSpec { webhook: Some(url.to_owned()), ..NoticesSpec::default() };
        for url in ["http://example.com/x", "ftp://example.com", "https://user:secret@example.com/", "/path"] {
            assert!(refused(webhook(url)).starts_with("shield.notices.webhook"), "{url}");
        }
        let short = tempfile::NamedTempFile::new()?;
        std::fs::write(short.path(), "short")?;
        let secret = Some(short.path().to_owned());
        assert!(
            refused(NoticesSpec { webhook_secret: secret.clone(), ..webhook("https://example.com/") }).contains("between 16")
        );
        assert!(refused(NoticesSpec { webhook_secret: secret, ..NoticesSpec::default() }).contains("there is no webhook"));
        for syslog in ["tcp://host:514", "udp://host", "udp://:514", "host:514", "udp://host:70000"] {
            let spec = NoticesSpec { syslog: Some(syslog.to_owned()), ..NoticesSpec::default() };
            assert!(refused(spec).starts_with("shield.notices.syslog"), "{syslog}");
        }
        assert!(Outbox::open(&NoticesSpec::default()).is_ok_and(|outbox| !outbox.is_open()));
        Ok(())
    }

    #[test]
    fn a_syslog_message_has_its_parts() -> Result<()> {
        let receiver = UdpSocket::bind("127.0.0.1:0")?;
        receiver.set_read_timeout(Some(Duration::from_secs(20)))?;
        let outbox =
            Outbox::open(&NoticesSpec { syslog: Some(format!("udp://{}", receiver.local_addr()?)), ..NoticesSpec::default() })?;
        outbox.send(Notice::new(State::Ended, Incident::sample(), 1_795_521_600_000));
        let mut bytes = [0; 4_096];
        let length = receiver.recv(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
        assert!(text.starts_with("<28>1 2026-11-24T12:00:00.000Z "), "{text}");
        assert!(text.contains(" sekisho ") && text.contains("state=\"ended\"") && text.contains("203.0.113.9/32"), "{text}");
        Ok(())
    }
}
