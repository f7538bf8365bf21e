//! TLS towards clients: certificates by the name that the client asks for, taken in anew when their files change, and the two
//! sides of a flow with or without TLS around them. A name that no certificate has is refused (status 400, SP-51) and not
//! answered with another's certificate. The protocol itself is rustls: 1.2 and 1.3 (SP-34), no session identifiers.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use net::hello::ReplayedStream;
use net::mint::{Alpn, LeafHost, Minter};
use net::upstream::UpstreamStream;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::Error;
use crate::relay::Leg;
use crate::spec::{AppConfig, TlsMode};

/// What is known of a file without reading it: when it was changed and how long it is.
type Stamp = Option<(SystemTime, u64)>;

/// One app's side of the handshake.
pub(crate) struct AppTls {
    app: AppConfig,
    minter: Arc<Minter>,
    state: ArcSwap<State>,
    stamps: Mutex<Vec<Stamp>>,
}

struct State {
    config: Arc<ServerConfig>,
    names: Names,
}

/// Whom the certificates are for.
enum Names {
    Minted(Vec<LeafHost>),
    Files(Arc<ByName>),
}

#[derive(Debug)]
struct ByName(Vec<Arc<CertifiedKey>>);

impl ByName {
    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = ServerName::try_from(name).ok()?;
        let holds = |key: &&Arc<CertifiedKey>| {
            let leaf = key.cert.first().and_then(|leaf| webpki::EndEntityCert::try_from(leaf).ok());
            leaf.is_some_and(|leaf| leaf.verify_is_valid_for_subject_name(&name).is_ok())
        };
        self.0.iter().find(holds)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match hello.server_name() {
            Some(name) => self.find(name).cloned(),
            None => self.0.first().cloned(),
        }
    }
}

impl AppTls {
    /// None where the app passes TLS through.
    pub(crate) fn new(app: &AppConfig, minter: &Arc<Minter>) -> Result<Option<AppTls>, Error> {
        if app.tls == TlsMode::Off || app.clear_clients {
            return Ok(None);
        }
        let state = ArcSwap::from_pointee(build(app, minter)?);
        let stamps = Mutex::new(stamps(app));
        Ok(Some(AppTls { app: app.clone(), minter: minter.clone(), state, stamps }))
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.state.load().config.clone()
    }

    pub(crate) fn asks_for_certificates(&self) -> bool {
        self.app.tls_settings.client_authorities.is_some()
    }

    /// Whether a certificate is for the name that a client asks for.
    pub(crate) fn knows(&self, name: &str) -> bool {
        match &self.state.load().names {
            Names::Files(keys) => keys.find(name).is_some(),
            Names::Minted(names) => {
                let Ok(asked) = LeafHost::parse(name) else { return false };
                names.contains(&asked)
            }
        }
    }

    /// Takes the files in anew where they changed. What cannot be used changes nothing, and is tried again at its next change.
    pub(crate) fn refresh(&self) {
        let found = stamps(&self.app);
        if *self.stamps.lock().unwrap_or_else(PoisonError::into_inner) == found {
            return;
        }
        *self.stamps.lock().unwrap_or_else(PoisonError::into_inner) = found;
        match build(&self.app, &self.minter) {
            Ok(state) => {
                self.state.store(Arc::new(state));
                crate::events::certificates_reloaded(&self.app.name);
            }
            Err(error) => crate::events::certificates_kept(&self.app.name, &error),
        }
    }
}

fn files(app: &AppConfig) -> impl Iterator<Item = &PathBuf> {
    let settings = &app.tls_settings;
    settings.certificates.iter().flat_map(|pair| [&pair.certificate, &pair.key]).chain(&settings.client_authorities)
}

fn stamps(app: &AppConfig) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| std::fs::metadata(path).ok().and_then(|file| Some((file.modified().ok()?, file.len())));
    files(app).map(stamp).collect()
}

fn build(app: &AppConfig, minter: &Arc<Minter>) -> Result<State, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let failed = |source| Error::Tls { app: app.name.to_string(), source };
    let clients = match &app.tls_settings.client_authorities {
        Some(path) => Some(client_verifier(app, path, &provider)?),
        None => None,
    };
    let (resolver, names): (Arc<dyn ResolvesServerCert>, Names) = if app.tls_settings.certificates.is_empty() {
        let minted = minter.listener_config(app.minted_names.clone(), Alpn::None, None, SystemTime::now());
        let minted = minted.map_err(|source| Error::Mint { app: app.name.to_string(), source })?;
        (minted.cert_resolver, Names::Minted(app.minted_names.clone()))
    } else {
        let keys = app.tls_settings.certificates.iter().map(|pair| certified(app, &pair.certificate, &pair.key, &provider));
        let keys = Arc::new(ByName(keys.collect::<Result<_, _>>()?));
        (keys.clone(), Names::Files(keys))
    };
    let versions: &[&rustls::SupportedProtocolVersion] = match app.tls_settings.minimum_version.as_str() {
        "1.3" => &[&rustls::version::TLS13],
        _ => &[&rustls::version::TLS13, &rustls::version::TLS12],
    };
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).map_err(failed)?;
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(resolver);
    config.alpn_protocols = app.tls_settings.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(failed)?;
    Ok(State { config: Arc::new(config), names })
}

fn client_verifier(app: &AppConfig, path: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(app, path)? {
        roots.add(certificate).map_err(|source| Error::Tls { app: app.name.to_string(), source })?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
    verifier.map_err(|error| Error::App {
        app: app.name.to_string(),
        field: "tls_settings.client_authorities",
        reason: error.to_string(),
    })
}

fn certificates(app: &AppConfig, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let failed = |source| Error::Certificate { app: app.name.to_string(), path: path.to_owned(), source };
    CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(failed)
}

fn certified(app: &AppConfig, certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, Error> {
    let failed = |source| Error::Certificate { app: app.name.to_string(), path: key.to_owned(), source };
    let chain = certificates(app, certificate)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(failed)?;
    let made = CertifiedKey::from_der(chain, key, provider);
    made.map(Arc::new).map_err(|source| Error::Tls { app: app.name.to_string(), source })
}

/// The client's side of a flow.
pub(crate) enum ClientLeg {
    Plain(TcpStream),
    Tls(Box<TlsStream<ReplayedStream<TcpStream>>>),
}

impl ClientLeg {
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            ClientLeg::Plain(tcp) => tcp,
            ClientLeg::Tls(stream) => stream.get_ref().0.get_ref(),
        }
    }

    /// Closing the connection resets it, so that the client does not take the end for an orderly one.
    pub(crate) fn reset_on_close(&self) {
        let _ = self.tcp().set_zero_linger();
    }
}

impl Leg for ClientLeg {
    fn socket(&self) -> Option<&TcpStream> {
        match self {
            ClientLeg::Plain(tcp) => Some(tcp),
            ClientLeg::Tls(_) => None,
        }
    }
}

/// The origin's side of a flow.
pub(crate) struct OriginLeg(pub(crate) UpstreamStream);

impl Leg for OriginLeg {
    fn socket(&self) -> Option<&TcpStream> {
        self.0.socket()
    }
}

/// A peer that closes its connection without closing TLS has ended all the same: whether its last message was whole is for
/// the protocol inside to see, as it is without TLS.
fn read_ended(outcome: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
    match outcome {
        Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
        other => other,
    }
}

impl AsyncRead for ClientLeg {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ClientLeg::Plain(tcp) => Pin::new(tcp).poll_read(context, buffer),
            ClientLeg::Tls(stream) => read_ended(Pin::new(stream).poll_read(context, buffer)),
        }
    }
}

impl AsyncWrite for ClientLeg {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            ClientLeg::Plain(tcp) => Pin::new(tcp).poll_write(context, bytes),
            ClientLeg::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ClientLeg::Plain(tcp) => Pin::new(tcp).poll_flush(context),
            ClientLeg::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ClientLeg::Plain(tcp) => Pin::new(tcp).poll_shutdown(context),
            ClientLeg::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

impl AsyncRead for OriginLeg {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        read_ended(Pin::new(&mut self.get_mut().0).poll_read(context, buffer))
    }
}

impl AsyncWrite for OriginLeg {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use net::authority::Authority;

    use super::*;
    use crate::spec::{AppSpec, CertificateSpec, L4GateConfig, L4GateSpec, TlsSpec};

    fn write(folder: &Path, name: &str) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        std::fs::write(folder.join("leaf.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.join("leaf.key"), made.signing_key.serialize_pem()).unwrap();
    }

    /// Files are taken in when they change; what cannot be used changes nothing.
    #[test]
    fn changed_certificates_are_taken_in() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::load_or_create(&folder.path().join("ca"), "Test", SystemTime::now()).unwrap());
        let minter = Arc::new(Minter::new(authority).unwrap());
        write(folder.path(), "first.example");
        let pair = CertificateSpec { certificate: folder.path().join("leaf.pem"), key: folder.path().join("leaf.key") };
        let app = AppSpec {
            name: "svc".to_owned(),
            protocol: "tcp/1".to_owned(),
            edge_ips: vec!["127.0.0.1".parse().unwrap()],
            origin_direct: vec!["tcp://127.0.0.1:2".to_owned()],
            tls: TlsMode::Flexible,
            tls_settings: TlsSpec { certificates: vec![pair], ..TlsSpec::default() },
            ..AppSpec::default()
        };
        let config = L4GateConfig::resolve(L4GateSpec { apps: vec![app], ..L4GateSpec::default() }).unwrap();
        let tls = AppTls::new(&config.apps[0], &minter).unwrap().unwrap();
        assert!(tls.knows("first.example") && !tls.knows("second.example"));
        // A longer name, so that the length tells where the time of change is too coarse.
        write(folder.path(), "second-and-longer.example");
        tls.refresh();
        assert!(!tls.knows("first.example") && tls.knows("second-and-longer.example"));
        std::fs::write(folder.path().join("leaf.pem"), "no certificate").unwrap();
        tls.refresh();
        assert!(tls.knows("second-and-longer.example"));
    }
}
