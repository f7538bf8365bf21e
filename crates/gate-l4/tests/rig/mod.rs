//! A gate with its policy, an origin that answers as told, and the events that they leave.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use checkpoint::testing::Harness;
use gate_l4::{Board, L4GateConfig, L4GateSpec, Means};
use model::{Event, FieldId};
use net::authority::Authority;
use net::mint::Minter;
use net::sockets::Sockets;
use net::trust::{Trust, TrustSettings};
use net::upstream::{DialGuard, Resolver, ResolverFuture};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Long enough for a loaded machine; a test that waits for it has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Knows one name.
struct Hosts;

impl Resolver for Hosts {
    fn resolve<'a>(&'a self, name: &'a str) -> ResolverFuture<'a> {
        Box::pin(async move {
            match name {
                "localhost" => Ok(vec![std::net::IpAddr::from([127, 0, 0, 1])]),
                _ => Err(std::io::ErrorKind::NotFound.into()),
            }
        })
    }
}

pub struct Rig {
    pub harness: Harness,
    pub board: Board,
    pub address: SocketAddr,
    pub addresses: Vec<(String, SocketAddr)>,
    pub authority: Arc<Authority>,
    _folder: tempfile::TempDir,
    stop: watch::Sender<bool>,
    pub serving: tokio::task::JoinHandle<()>,
}

pub async fn rig(policy: &str, app: &str) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let authority = Arc::new(Authority::load_or_create(folder.path(), "Test", SystemTime::now()).unwrap());
    let roots = vec![authority.current().der.clone()];
    rig_with(policy, app, folder, authority, roots).await
}

/// On the ports that the document names.
pub async fn rig_on_its_ports(policy: &str, app: &str) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let authority = Arc::new(Authority::load_or_create(folder.path(), "Test", SystemTime::now()).unwrap());
    let spec: L4GateSpec = toml::from_str(app).unwrap();
    open(policy, spec, folder, authority, Vec::new()).await
}

pub async fn rig_with(
    policy: &str,
    app: &str,
    folder: tempfile::TempDir,
    authority: Arc<Authority>,
    roots: Vec<rustls::pki_types::CertificateDer<'static>>,
) -> Rig {
    let spec: L4GateSpec = toml::from_str(app).unwrap();
    open(policy, spec.with_ephemeral_ports(), folder, authority, roots).await
}

async fn open(
    policy: &str,
    spec: L4GateSpec,
    folder: tempfile::TempDir,
    authority: Arc<Authority>,
    roots: Vec<rustls::pki_types::CertificateDer<'static>>,
) -> Rig {
    let harness = Harness::new(policy);
    let config = L4GateConfig::resolve(spec).unwrap();
    let minter = Arc::new(Minter::new(authority.clone()).unwrap());
    let settings = TrustSettings { roots, ..TrustSettings::default() };
    let board = Board::default();
    let means = Means {
        resolver: Arc::new(Hosts),
        trust: Arc::new(Trust::new(settings, SystemTime::now()).unwrap()),
        minter,
        guard: DialGuard::default(),
        board: board.clone(),
    };
    let gate = gate_l4::bind_over(config, harness.checkpoint.clone(), means, &Sockets::default()).await.unwrap();
    let addresses = gate.addresses();
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(gate.serve(stopped));
    Rig { harness, board, address: addresses[0].1, addresses, authority, _folder: folder, stop, serving }
}

impl Rig {
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// The one event, once it is there.
    pub async fn event(&self) -> Event {
        self.events(1).await.remove(0)
    }

    pub async fn events(&self, count: usize) -> Vec<Event> {
        let begun = std::time::Instant::now();
        loop {
            let events = self.harness.events();
            if events.len() >= count {
                assert_eq!(events.len(), count, "more events than flows");
                return events;
            }
            assert!(begun.elapsed() < PATIENCE, "{} events of {count}", events.len());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

pub fn text(event: &Event, field: FieldId) -> String {
    event.facts.get(field).map(ToString::to_string).unwrap_or_default()
}

/// An app document with one origin.
pub fn app(origin: SocketAddr, more: &str) -> String {
    format!(
        "[[app]]\nname = \"svc\"\nprotocol = \"tcp/7000\"\nedge_ips = [\"127.0.0.1\"]\norigin_direct = [\"tcp://{origin}\"]\n{more}\n"
    )
}

/// An origin that sends back what it gets, behind a greeting.
pub async fn echo(greeting: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(greeting).await;
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    address
}

/// Says it, ends, and hears everything; an error where the connection was reset.
pub async fn say(mut stream: TcpStream, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut heard = Vec::new();
    let talk = async {
        stream.write_all(bytes).await?;
        stream.shutdown().await?;
        stream.read_to_end(&mut heard).await
    };
    tokio::time::timeout(PATIENCE, talk).await.unwrap()?;
    Ok(heard)
}
