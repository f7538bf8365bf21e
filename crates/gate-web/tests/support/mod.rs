//! A gate with loopback origins of its own, and raw clients. Everything is on 127.0.0.1 and port 0.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]

use std::convert::Infallible;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use checkpoint::testing::Harness;
use gate_web::{Means, WebGateConfig, WebGateSpec, bind};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::{Event, FieldId, Value};
use net::authority::Authority;
use net::mint::Minter;
use net::trust::{Trust, TrustSettings};
use net::upstream::{ConnectLimits, DialGuard, Resolver, ResolverFuture};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Longest wait for anything in these tests.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn eicar() -> Vec<u8> {
    let (head, tail) = ("X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-STANDARD-", "ANTIVIRUS-TEST-FILE!$H+H*");
    [head, tail].concat().into_bytes()
}

/// A zip with stored entries.
pub fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let mut crc = flate2::Crc::new();
        crc.update(data);
        let mut fields = vec![];
        for word in [20u16, 0, 0, 0, 0x21] {
            fields.extend(word.to_le_bytes());
        }
        for long in [crc.sum(), data.len() as u32, data.len() as u32] {
            fields.extend(long.to_le_bytes());
        }
        fields.extend((name.len() as u16).to_le_bytes());
        fields.extend(0u16.to_le_bytes());
        let offset = out.len() as u32;
        out.extend(b"PK\x03\x04");
        out.extend(&fields);
        out.extend(name.as_bytes());
        out.extend(*data);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&fields);
        directory.extend([0u8; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (start, size, count) = (out.len() as u32, directory.len() as u32, entries.len() as u16);
    out.extend(directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend(count.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend(size.to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend(0u16.to_le_bytes());
    out
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Bytes that look like nothing, the same every time.
pub fn noise(bytes: usize) -> Vec<u8> {
    let mut scatter = testkit::Scatter::new(0x2545_f491_4f6c_dd1d);
    (0..bytes).map(|_| scatter.number() as u8 | 0x80).collect()
}

pub fn large_evil() -> Vec<u8> {
    zip(&[("filler.bin", &noise(2 << 20)), ("inner.com", &eicar())])
}

struct Names;

impl Resolver for Names {
    fn resolve<'a>(&'a self, name: &'a str) -> ResolverFuture<'a> {
        Box::pin(async move {
            match name.ends_with("nowhere.example") {
                true => Err(std::io::Error::from(std::io::ErrorKind::NotFound)),
                false => Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]),
            }
        })
    }
}

/// What reached the origins.
#[derive(Default)]
pub struct Seen {
    pub requests: AtomicUsize,
    pub connections: AtomicUsize,
    /// Method and target of each, and its fields.
    pub heads: Mutex<Vec<(String, HeaderMap)>>,
    pub uploads: Mutex<Vec<Vec<u8>>>,
}

pub struct World {
    pub harness: Harness,
    pub proxy: SocketAddr,
    pub secure_proxy: Option<SocketAddr>,
    pub socks: SocketAddr,
    pub plain: SocketAddr,
    pub tls: SocketAddr,
    pub bad_tls: SocketAddr,
    pub seen: Arc<Seen>,
    pub authority: Arc<Authority>,
    pub gate_root: CertificateDer<'static>,
    pub origin_root: CertificateDer<'static>,
    pub directory: tempfile::TempDir,
    served: Mutex<Option<tokio::task::JoinHandle<()>>>,
    stop: watch::Sender<bool>,
}

pub type Io = Box<dyn Stream>;
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl World {
    pub async fn new(policy: &str) -> World {
        World::with(policy, |_| ()).await
    }

    pub async fn with(policy: &str, change: impl FnOnce(&mut WebGateSpec)) -> World {
        World::of(Harness::new(policy), change, |_| ()).await
    }

    /// With a checkpoint of the test's own, and other trust.
    pub async fn of(
        harness: Harness,
        change: impl FnOnce(&mut WebGateSpec),
        change_trust: impl FnOnce(&mut TrustSettings),
    ) -> World {
        let directory = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::load_or_create(&directory.path().join("ca"), "Test", SystemTime::now()).unwrap());
        let minter = Arc::new(Minter::new(authority.clone()).unwrap());
        let seen = Arc::new(Seen::default());
        let (origin_root, good) = origin_certificate("Trusted test root");
        let (_, bad) = origin_certificate("Unknown test root");
        let plain = serve_origin(None, seen.clone()).await;
        let tls = serve_origin(Some(good), seen.clone()).await;
        let bad_tls = serve_origin(Some(bad), seen.clone()).await;
        let mut settings = TrustSettings {
            roots: vec![origin_root.clone()],
            own_authorities: authority.own_certificates(),
            own_leaf_key_sha256: Some(minter.leaf_key_sha256()),
            ..TrustSettings::default()
        };
        change_trust(&mut settings);
        let trust = Arc::new(Trust::new(settings, SystemTime::now()).unwrap());
        let guard = DialGuard { own_listeners: vec![], danger_exempt: vec!["127.0.0.0/8".parse().unwrap()] };
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut spec = WebGateSpec { proxy: Some(any), socks5: Some(any), ..WebGateSpec::default() };
        spec.scan.hold_bytes = 256 << 10;
        spec.scan.trickle_seconds = 1;
        change(&mut spec);
        let gate_root = authority.current().der;
        let kept_authority = authority.clone();
        let limits = ConnectLimits::default();
        let context = context_key();
        let client_roots = client_roots(&spec);
        let resolver = Arc::new(Names);
        let means = Means { authority, minter, trust, resolver, guard, limits, context, client_roots, admission: None };
        let gate = bind(WebGateConfig::resolve(spec).unwrap(), harness.checkpoint.clone(), means).await.unwrap();
        let addresses = gate.addresses();
        let (stop, stopping) = watch::channel(false);
        let served = Mutex::new(Some(tokio::spawn(gate.serve(stopping))));
        let (proxy, socks) = (addresses.proxy.unwrap(), addresses.socks5.unwrap());
        let (secure_proxy, authority) = (addresses.proxy_tls, kept_authority);
        World {
            harness,
            proxy,
            secure_proxy,
            socks,
            plain,
            tls,
            bad_tls,
            seen,
            authority,
            gate_root,
            origin_root,
            directory,
            served,
            stop,
        }
    }

    /// Tells the gate to stop, and waits until it has.
    pub async fn drained(&self) {
        self.stop.send_replace(true);
        let served = self.served.lock().unwrap().take().unwrap();
        tokio::time::timeout(PATIENCE, served).await.expect("a drain in time").unwrap();
    }

    pub fn begin_drain(&self) {
        self.stop.send_replace(true);
    }

    /// The events of requests, once as many have come as are expected; tunnels' own are left out.
    pub async fn events(&self, count: usize) -> Vec<Event> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let events: Vec<Event> =
                self.harness.events().into_iter().filter(|event| text(event, FieldId::HttpMethod) != "CONNECT").collect();
            if events.len() >= count || tokio::time::Instant::now() > deadline {
                // One more than expected would come at once.
                tokio::time::sleep(Duration::from_millis(50)).await;
                let events: Vec<Event> =
                    self.harness.events().into_iter().filter(|event| text(event, FieldId::HttpMethod) != "CONNECT").collect();
                assert_eq!(events.len(), count, "{:#?}", events.iter().map(summary).collect::<Vec<_>>());
                return events;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The one event of a tunnel.
    pub async fn tunnel_event(&self) -> Event {
        for _ in 0..500 {
            let found = self.harness.events().into_iter().find(|event| text(event, FieldId::HttpMethod) == "CONNECT");
            if let Some(event) = found {
                return event;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no event of a tunnel");
    }

    /// A TLS connection to a host through CONNECT.
    pub async fn tunnel(
        &self,
        host: &str,
        port: u16,
        alpn: &[&str],
    ) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let stream = self.connect_to(host, port).await;
        tls_client(stream, host, alpn, &self.gate_root).await
    }

    /// A CONNECT that was answered with 200.
    pub async fn connect_to(&self, host: &str, port: u16) -> TcpStream {
        let mut stream = TcpStream::connect(self.proxy).await.unwrap();
        stream.write_all(format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n").as_bytes()).await.unwrap();
        let head = read_head(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        stream
    }

    /// A plain request through the proxy.
    pub async fn plain_get(&self, path: &str) -> Result<Reply, hyper::Error> {
        let stream = TcpStream::connect(self.proxy).await.unwrap();
        http1(Box::new(stream)).await.send(self.plain_request(path)).await
    }

    /// The same by a user with this token.
    pub async fn plain_get_as(&self, token: &str, path: &str) -> Result<Reply, hyper::Error> {
        let mut request = self.plain_request(path);
        request.headers_mut().insert("proxy-authorization", format!("Bearer {token}").parse().unwrap());
        let stream = TcpStream::connect(self.proxy).await.unwrap();
        http1(Box::new(stream)).await.send(request).await
    }

    pub fn plain_request(&self, path: &str) -> Request<Full<Bytes>> {
        let target = format!("http://site.example:{}{path}", self.plain.port());
        Request::get(target).header("host", "site.example").body(Full::default()).unwrap()
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://site.example:{}{path}", self.tls.port())
    }

    /// An inspected request over HTTP/1.1.
    pub async fn get(&self, path: &str) -> Result<Reply, hyper::Error> {
        let stream = self.tunnel("site.example", self.tls.port(), &["http/1.1"]).await.unwrap();
        let request = get(&format!("site.example:{}", self.tls.port()), path);
        http1(Box::new(stream)).await.send(request).await
    }
}

/// As the program reads them.
fn client_roots(spec: &WebGateSpec) -> Vec<CertificateDer<'static>> {
    use rustls::pki_types::pem::PemObject;
    let Some(path) = &spec.client_authorities else { return Vec::new() };
    CertificateDer::pem_file_iter(path).unwrap().collect::<Result<_, _>>().unwrap()
}

pub fn context_key() -> Arc<gate_web::ContextKey> {
    Arc::new(gate_web::ContextKey::new(&[7; gate_web::CONTEXT_KEY_BYTES]).unwrap())
}

pub fn get(host: &str, path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", host).body(Full::default()).unwrap()
}

pub fn text(event: &Event, field: FieldId) -> String {
    event.facts.get(field).map(Value::to_string).unwrap_or_default()
}

pub fn summary(event: &Event) -> String {
    use FieldId::*;
    [HttpMethod, HttpUrl, HttpStatus, VerdictOutcome, Failure, ScanVerdict, VerdictRule].map(|f| text(event, f)).join(" | ")
}

pub struct Client1(hyper::client::conn::http1::SendRequest<Full<Bytes>>);
pub struct Client2(hyper::client::conn::http2::SendRequest<Full<Bytes>>);

pub async fn http1(io: Io) -> Client1 {
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    Client1(sender)
}

pub async fn http2(io: Io) -> Client2 {
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    Client2(sender)
}

impl Client1 {
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Reply, hyper::Error> {
        self.0.ready().await?;
        whole(tokio::time::timeout(PATIENCE, self.0.send_request(request)).await.expect("an answer in time")?).await
    }

    pub async fn raw(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        self.0.send_request(request).await
    }
}

impl Client2 {
    /// The same connection, for a request at the same time.
    pub fn another(&self) -> Client2 {
        Client2(self.0.clone())
    }

    pub async fn raw(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        self.0.send_request(request).await
    }

    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Reply, hyper::Error> {
        whole(tokio::time::timeout(PATIENCE, self.0.send_request(request)).await.expect("an answer in time")?).await
    }
}

async fn whole(response: Response<Incoming>) -> Result<Reply, hyper::Error> {
    let (parts, body) = response.into_parts();
    let body = tokio::time::timeout(PATIENCE, body.collect()).await.expect("a body in time")?.to_bytes().to_vec();
    Ok(Reply { status: parts.status, headers: parts.headers, body })
}

pub async fn tls_client<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    host: &str,
    alpn: &[&str],
    root: &CertificateDer<'static>,
) -> std::io::Result<tokio_rustls::client::TlsStream<S>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(host.to_owned()).unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

pub async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    let reading = async {
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read_exact(&mut byte).await.is_err() {
                break;
            }
            head.push(byte[0]);
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("a head in time");
    String::from_utf8_lossy(&head).into_owned()
}

/// Sends raw bytes and reads until the other side ends.
pub async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &[u8]) -> (Vec<u8>, Option<std::io::Error>) {
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an end in time");
    (answer, ended.err())
}

fn origin_certificate(name: &str) -> (CertificateDer<'static>, Arc<rustls::ServerConfig>) {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(rcgen::DnType::CommonName, name);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority_key = KeyPair::generate().unwrap();
    let root = authority.self_signed(&authority_key).unwrap().der().clone();
    let issuer = Issuer::new(authority, authority_key);
    let mut leaf = CertificateParams::new(vec![
        "site.example".into(),
        "other.example".into(),
        "blocked.example".into(),
        "chat.signal.org".into(),
    ])
    .unwrap();
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().unwrap();
    let chain = vec![leaf.signed_by(&key, &issuer).unwrap().der().clone()];
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (root, Arc::new(config))
}

async fn serve_origin(tls: Option<Arc<rustls::ServerConfig>>, seen: Arc<Seen>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            seen.connections.fetch_add(1, Ordering::Relaxed);
            let (tls, seen) = (tls.clone(), seen.clone());
            tokio::spawn(async move {
                let Some(tls) = tls else { return serve_http1(stream, seen).await };
                let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await else { return };
                if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                    return serve_http1(stream, seen).await;
                }
                let service = service_fn(move |request| handle(request, seen.clone()));
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

async fn serve_http1<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, seen: Arc<Seen>) {
    let service = service_fn(move |request| handle(request, seen.clone()));
    let server = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let _ = server.with_upgrades().await;
}

type Body = BoxBody<Bytes, Infallible>;

async fn handle(mut request: Request<Incoming>, seen: Arc<Seen>) -> Result<Response<Body>, Infallible> {
    seen.requests.fetch_add(1, Ordering::Relaxed);
    let line = format!("{} {}", request.method(), request.uri().path_and_query().map_or("", |path| path.as_str()));
    seen.heads.lock().unwrap().push((line, request.headers().clone()));
    let whole = |bytes: Vec<u8>| Response::new(Full::new(Bytes::from(bytes)).boxed());
    let mut response = match (request.method().clone(), request.uri().path()) {
        (Method::POST, _) => {
            let body = request.into_body().collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
            seen.uploads.lock().unwrap().push(body);
            whole(b"thanks".to_vec())
        }
        (_, "/eicar.com") => whole(eicar()),
        (_, "/eicar.zip") => whole(zip(&[("a.txt", b"hello"), ("inner/eicar.com", &eicar())])),
        (_, "/chunked") => {
            let chunks: Vec<Bytes> = eicar().chunks(10).map(Bytes::copy_from_slice).collect();
            Response::new(Chunks(chunks.into_iter()).boxed())
        }
        (_, "/large.bin") => whole(noise(3 << 20)),
        // More than the buffers of all sockets on the way hold.
        (_, "/huge.bin") => Response::new(Chunks(vec![Bytes::from(noise(1 << 20)); 64].into_iter()).boxed()),
        (_, "/large.zip") => whole(large_evil()),
        (_, "/image") => whole(eicar()),
        (_, "/partial") => {
            let mut response = whole(eicar()[..40].to_vec());
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            response.headers_mut().insert(header::CONTENT_RANGE, "bytes 0-39/68".parse().unwrap());
            response
        }
        (_, "/partial-video") => {
            let mut response = whole(noise(64));
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            response.headers_mut().insert(header::CONTENT_TYPE, "video/mp4".parse().unwrap());
            response.headers_mut().insert(header::CONTENT_RANGE, "bytes 0-63/128".parse().unwrap());
            response
        }
        (_, path) if path.starts_with("/coded/") => {
            let coding = path.trim_start_matches("/coded/").to_owned();
            let mut response = whole(if coding == "gzip" { gzip(&eicar()) } else { noise(64) });
            response.headers_mut().insert(header::CONTENT_ENCODING, coding.parse().unwrap());
            response.headers_mut().insert(header::CONTENT_TYPE, "image/png".parse().unwrap());
            response
        }
        (_, "/gzip-page") => {
            let mut response = whole(gzip(b"clean page"));
            response.headers_mut().insert(header::CONTENT_ENCODING, "gzip".parse().unwrap());
            response
        }
        (_, "/trailers") => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-checksum", "abc".parse().unwrap());
            trailers.insert(header::SET_COOKIE, "late=1".parse().unwrap());
            // Over HTTP/1 a body whose length is known has no trailers.
            let body = Chunks(vec![Bytes::from_static(b"with trailers")].into_iter());
            let body = body.with_trailers(std::future::ready(Some(Ok(trailers))));
            let mut response = Response::new(body.boxed());
            response.headers_mut().insert(header::TRAILER, "x-checksum".parse().unwrap());
            response
        }
        (_, "/slow") => {
            tokio::time::sleep(Duration::from_secs(2)).await;
            whole(b"slow body".to_vec())
        }
        (_, "/never") => std::future::pending().await,
        (_, "/headers") => {
            let mut text = String::new();
            for (name, value) in request.headers() {
                text += &format!("{name}: {}\n", value.to_str().unwrap_or_default());
            }
            whole(text.into_bytes())
        }
        (_, "/echo") => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let Ok(upgraded) = upgrade.await else { return };
                let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
            let mut response = whole(vec![]);
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert(header::CONNECTION, "upgrade".parse().unwrap());
            response.headers_mut().insert(header::UPGRADE, "websocket".parse().unwrap());
            response
        }
        _ => whole(b"clean body".to_vec()),
    };
    let headers = response.headers_mut();
    if !headers.contains_key(header::UPGRADE) {
        headers.insert(header::ALT_SVC, "h3=\":443\"".parse().unwrap());
    }
    Ok(response)
}

/// A body of unknown length.
struct Chunks(std::vec::IntoIter<Bytes>);

impl hyper::body::Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(self.0.next().map(|chunk| Ok(Frame::data(chunk))))
    }
}

/// Writes a file that another program reads.
pub fn write(path: &std::path::Path, bytes: &[u8]) {
    std::fs::File::create(path).unwrap().write_all(bytes).unwrap();
}
