//! The load of `bench/web.py`: asks an origin for one path over and over, through CONNECT and TLS, or straight.
//!
//! It reads just enough of HTTP/1.1 to know where a response ends (RFC 9112 section 6), so that little of the machine is
//! spent on this side. It checks the origin's certificate and counts what it was sent; it is no client for anything else.
#![expect(clippy::expect_used, clippy::panic, reason = "a load that cannot begin has nothing else to say")]

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const USAGE: &str = "web_load --mode keepalive|new|download --target HOST:PORT --ca FILE
  [--proxy IP:PORT] [--path /P] [--connections 16] [--seconds 5] [--count 0] [--pause-ms 0]

keepalive: each connection asks again and again; new: each request has its own connection; both end after the seconds.
download: each connection asks --count times, and all leave after the seconds where those are given; a pause after each
read makes a slow reader.";

/// Longest head that is read; more is an answer that nobody asked for.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// A read as large as a few TLS records.
const READ_BYTES: usize = 64 << 10;
/// Without an answer for this long the request counts as failed.
const SILENCE: Duration = Duration::from_secs(120);

struct Load {
    proxy: Option<SocketAddr>,
    target: String,
    name: ServerName<'static>,
    tls: TlsConnector,
    request: Vec<u8>,
    pause: Duration,
}

/// What one task has done.
#[derive(Default)]
struct Done {
    requests: u64,
    errors: u64,
    bytes: u64,
    micros: Vec<u32>,
    first_error: Option<String>,
}

struct Connection {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

impl Load {
    fn new(options: &HashMap<String, String>) -> Load {
        let target = options.get("target").expect(USAGE).clone();
        let (host, _) = target.rsplit_once(':').expect("the target needs a port");
        let mut roots = RootCertStore::empty();
        for file in options.get("ca").expect(USAGE).split(',') {
            for certificate in CertificateDer::pem_file_iter(file).expect("the file of roots") {
                roots.add(certificate.expect("a root")).expect("a root");
            }
        }
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        // Every connection pays for a whole handshake, as those of different clients do.
        config.resumption = rustls::client::Resumption::disabled();
        let path = options.get("path").map_or("/", String::as_str);
        Load {
            proxy: options.get("proxy").map(|address| address.parse().expect("the proxy's address")),
            name: ServerName::try_from(host.to_owned()).expect("the target's name"),
            tls: TlsConnector::from(Arc::new(config)),
            request: format!("GET {path} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: web_load\r\nAccept: */*\r\n\r\n").into_bytes(),
            pause: Duration::from_millis(number(options, "pause-ms", 0)),
            target,
        }
    }

    async fn connect(&self) -> io::Result<Connection> {
        let mut tcp = match self.proxy {
            Some(proxy) => TcpStream::connect(proxy).await?,
            None => TcpStream::connect(&self.target).await?,
        };
        tcp.set_nodelay(true)?;
        if self.proxy.is_some() {
            let ask = format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", self.target);
            tcp.write_all(ask.as_bytes()).await?;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                if tcp.read_buf(&mut head).await? == 0 || head.len() > HEAD_BYTES_MAX {
                    return Err(io::Error::other("the proxy did not answer CONNECT"));
                }
            }
            if !head.starts_with(b"HTTP/1.1 200") {
                return Err(io::Error::other(String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned()));
            }
        }
        let stream = self.tls.connect(self.name.clone(), tcp).await?;
        Ok(Connection { stream, buffer: Vec::with_capacity(READ_BYTES) })
    }

    /// One request and its whole response, or as much of it as comes before the end; returns the bytes of its body.
    async fn fetch(&self, connection: &mut Connection, end: Option<Instant>) -> io::Result<u64> {
        let work = async {
            connection.stream.write_all(&self.request).await?;
            let (length, mut seen) = connection.head().await?;
            while seen < length && end.is_none_or(|end| Instant::now() < end) {
                if !self.pause.is_zero() {
                    tokio::time::sleep(self.pause).await;
                }
                connection.buffer.clear();
                match connection.stream.read_buf(&mut connection.buffer).await? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    count => seen += count as u64,
                }
            }
            Ok(seen)
        };
        match self.pause.is_zero() {
            true => timeout(SILENCE, work).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?,
            false => work.await,
        }
    }
}

impl Connection {
    /// The announced length, and how much of the body has come with the head.
    async fn head(&mut self) -> io::Result<(u64, u64)> {
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 || self.buffer.len() > HEAD_BYTES_MAX * 2 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
            if !head.starts_with("HTTP/1.1 200") {
                return Err(io::Error::other(head.lines().next().unwrap_or_default().to_owned()));
            }
            let length = head
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .and_then(|(_, value)| value.trim().parse().ok())
                .ok_or_else(|| io::Error::other("no length"))?;
            return Ok((length, (self.buffer.len() - end - 4) as u64));
        }
    }
}

impl Done {
    fn note(&mut self, outcome: io::Result<u64>, since: Instant) {
        match outcome {
            Ok(bytes) => {
                self.requests += 1;
                self.bytes += bytes;
                self.micros.push(u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
            Err(error) => {
                self.errors += 1;
                self.first_error.get_or_insert(error.to_string());
            }
        }
    }

    fn add(&mut self, other: Done) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.bytes += other.bytes;
        self.micros.extend(other.micros);
        self.first_error = self.first_error.take().or(other.first_error);
    }

    fn percentile(&self, share: f64) -> u32 {
        let place = (self.micros.len() as f64 * share) as usize;
        self.micros.get(place.min(self.micros.len().saturating_sub(1))).copied().unwrap_or(0)
    }
}

/// Requests on one connection until the end, or a number of them.
async fn keep(load: Arc<Load>, end: Option<Instant>, count: u64) -> Done {
    let mut done = Done::default();
    let mut connection = match load.connect().await {
        Ok(connection) => connection,
        Err(error) => {
            done.note(Err(error), Instant::now());
            return done;
        }
    };
    let within = (count > 0).then_some(end).flatten();
    while (count == 0 || done.requests < count) && end.is_none_or(|end| Instant::now() < end) {
        let since = Instant::now();
        let outcome = load.fetch(&mut connection, within).await;
        let has_failed = outcome.is_err();
        done.note(outcome, since);
        if has_failed {
            break;
        }
    }
    done
}

/// A connection for each request until the end.
async fn renew(load: Arc<Load>, end: Instant) -> Done {
    let mut done = Done::default();
    while Instant::now() < end {
        let since = Instant::now();
        let outcome = async { load.fetch(&mut load.connect().await?, None).await };
        done.note(outcome.await, since);
        if done.errors > 10 {
            break;
        }
    }
    done
}

fn number(options: &HashMap<String, String>, name: &str, default: u64) -> u64 {
    options.get(name).map_or(default, |text| text.parse().expect("a number"))
}

fn options() -> HashMap<String, String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    words.chunks(2).filter_map(|pair| Some((pair.first()?.strip_prefix("--")?.to_owned(), pair.get(1)?.clone()))).collect()
}

async fn run(options: HashMap<String, String>) {
    let load = Arc::new(Load::new(&options));
    let mode = options.get("mode").map_or("keepalive", String::as_str).to_owned();
    let began = Instant::now();
    let is_download = mode == "download";
    let count = if is_download { number(&options, "count", 1).max(1) } else { 0 };
    let end = began + Duration::from_secs(number(&options, "seconds", 5));
    let until = (!is_download || options.contains_key("seconds")).then_some(end);
    let mut tasks = JoinSet::new();
    for _ in 0..number(&options, "connections", 16) {
        let load = load.clone();
        match mode.as_str() {
            "new" => tasks.spawn(renew(load, end)),
            "keepalive" | "download" => tasks.spawn(keep(load, until, count)),
            _ => panic!("{USAGE}"),
        };
    }
    let mut done = Done::default();
    while let Some(part) = tasks.join_next().await {
        done.add(part.unwrap_or_default());
    }
    done.micros.sort_unstable();
    println!(
        "{{\"requests\":{},\"errors\":{},\"bytes\":{},\"seconds\":{:.3},\"p50_us\":{},\"p99_us\":{},\"error\":{:?}}}",
        done.requests,
        done.errors,
        done.bytes,
        began.elapsed().as_secs_f64(),
        done.percentile(0.50),
        done.percentile(0.99),
        done.first_error.unwrap_or_default()
    );
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run(options()));
}
