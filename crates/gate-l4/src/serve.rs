//! The one async loop: listeners, their flows, the health of origins, and the end. A flow that finds no room, or no descriptor,
//! is refused at once and not left waiting. Flows outlive the gate that a reload replaces; they end with the program.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpoint::Checkpoint;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use net::mint::Minter;
use net::proxyprotocol::TrustedSources;
use net::sockets::Sockets;
use net::trust::Trust;
use net::upstream::{ConnectLimits, Connector, DialGuard, Resolver, probe};
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::Error;
use crate::board::Board;
use crate::origins::Origins;
use crate::session::{App, Arrival, Shared, canonical, enter, refuse_full};
use crate::spec::{AppConfig, L4GateConfig, OriginsConfig};
use crate::tls::AppTls;

/// Connections queued by the kernel for each port.
const BACKLOG_CONNECTIONS: u32 = 1024;
/// After a failure to accept that is not for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Two sockets and two pipes of two ends each.
const DESCRIPTORS_PER_FLOW: u64 = 6;
/// Left to the other gates, the store and listeners.
const DESCRIPTORS_SPARED: u64 = 1024;
/// How often files of certificates are looked at.
const CERTIFICATES_ROUND: Duration = Duration::from_secs(10);

/// What the gate needs from others.
pub struct Means {
    pub resolver: Arc<dyn Resolver>,
    pub trust: Arc<Trust>,
    pub minter: Arc<Minter>,
    /// Listeners of other gates, and exemptions. Origins by address are the operator's own words and need none.
    pub guard: DialGuard,
    pub board: Board,
}

/// A gate whose listeners are open.
pub struct L4Gate {
    listeners: Vec<Door>,
    addresses: Vec<(String, SocketAddr)>,
    sockets: Sockets,
    apps: Vec<Arc<App>>,
    shared: Arc<Shared>,
    flows_max: usize,
    drain: Duration,
}

struct Door {
    app: Arc<App>,
    offset: u16,
    listener: TcpListener,
}

/// Opens every listener, or none. Sockets of an earlier gate are taken over.
pub async fn bind_over(config: L4GateConfig, checkpoint: Checkpoint, means: Means, earlier: &Sockets) -> Result<L4Gate, Error> {
    let mut sockets = Sockets::default();
    let mut open = Vec::new();
    for app in &config.apps {
        for edge in &app.edge_ips {
            for offset in 0..app.ports.count() {
                let offset = u16::try_from(offset).unwrap_or(u16::MAX);
                let port = if app.free_ports { 0 } else { app.ports.at(offset) };
                let address = SocketAddr::new(*edge, port);
                let failed = |source| Error::Listen { app: app.name.to_string(), address, source };
                let taken = sockets.listener(earlier, "tcp", address, || listen(address));
                let listener = taken.and_then(TcpListener::from_std).map_err(failed)?;
                let bound = listener.local_addr().map_err(failed)?;
                crate::events::listening(&app.name, bound);
                open.push((app.name.clone(), offset, listener, bound));
            }
        }
    }
    let own = open.iter().map(|(.., bound)| *bound);
    let guard =
        DialGuard { own_listeners: means.guard.own_listeners.iter().copied().chain(own).collect(), ..means.guard.clone() };
    let apps: Vec<_> = config.apps.into_iter().map(|app| build(app, &means, &guard)).collect::<Result<_, _>>()?;
    let named = |name: &Arc<str>| apps.iter().find(|app| app.config.name == *name).cloned();
    let addresses = open.iter().map(|(name, _, _, bound)| (name.to_string(), *bound)).collect();
    let doors = open.into_iter().filter_map(|(name, offset, listener, _)| Some(Door { app: named(&name)?, offset, listener }));
    let shared = Arc::new(Shared { checkpoint, board: means.board, resolver: means.resolver, site: config.site });
    let flows_max = flows_max(config.flows_max);
    Ok(L4Gate { listeners: doors.collect(), addresses, sockets, apps, shared, flows_max, drain: config.drain })
}

fn build(config: AppConfig, means: &Means, guard: &DialGuard) -> Result<Arc<App>, Error> {
    let mut guard = guard.clone();
    if matches!(config.origins, OriginsConfig::Direct(_)) {
        guard.danger_exempt.extend([IpNet::from(Ipv4Net::default()), IpNet::from(Ipv6Net::default())]);
    }
    let tls = AppTls::new(&config, &means.minter)?;
    let origins = Arc::new(Origins::new(config.origins.clone(), config.balance, config.health.clone()));
    let limits = ConnectLimits { deadline: config.connect, ..ConnectLimits::default() };
    let connector = Connector { resolver: means.resolver.clone(), trust: means.trust.clone(), guard, limits };
    let balancers = TrustedSources { networks: config.proxy_protocol_from.clone() };
    Ok(Arc::new(App { config, origins, tls, connector, balancers }))
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG_CONNECTIONS)?.into_std()
}

/// As many flows as descriptors allow, or as configured where that is less.
fn flows_max(configured: usize) -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let possible = usize::try_from(descriptors.saturating_sub(DESCRIPTORS_SPARED) / DESCRIPTORS_PER_FLOW).unwrap_or(usize::MAX);
    match configured {
        0 => possible.max(1),
        some => some.min(possible.max(1)),
    }
}

impl L4Gate {
    /// Each listener by its app.
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.addresses.clone()
    }

    /// Second handles on the listening sockets, for the gate that takes this one's place.
    pub fn take_sockets(&mut self) -> Sockets {
        std::mem::take(&mut self.sockets)
    }

    /// Serves until told to stop; then until no flow is left, or the program ends and the drain time has passed.
    pub async fn serve(self, mut shutdown: watch::Receiver<bool>) {
        let L4Gate { listeners, apps, shared, flows_max, drain, .. } = self;
        shared.board.publish(apps.iter().map(|app| (app.config.name.clone(), app.origins.clone())).collect());
        let mut closing = shared.board.closing();
        let mut loops = JoinSet::new();
        for door in listeners {
            loops.spawn(accept(door, shared.clone(), flows_max));
        }
        for app in apps {
            if app.config.health.interval_seconds > 0 {
                loops.spawn(watch_origins(app.clone(), shared.clone()));
            }
            if app.tls.is_some() {
                loops.spawn(watch_certificates(app));
            }
        }
        // A sender that is gone is as good as the word to stop.
        let _ = shutdown.wait_for(|is_stopping| *is_stopping).await;
        loops.shutdown().await;
        let patience = async {
            let _ = closing.wait_for(|is_closing| *is_closing).await;
            sleep(drain).await;
        };
        tokio::select! {
            () = shared.board.emptied() => {}
            () = patience => {}
        }
        crate::events::drained(shared.board.len());
        if *closing.borrow() {
            shared.board.cut_all();
            let _ = timeout(Duration::from_secs(1), shared.board.emptied()).await;
        }
    }
}

async fn accept(door: Door, shared: Arc<Shared>, flows_max: usize) {
    let Door { app, offset, listener } = door;
    // Given up when descriptors run out, so that a connection can be taken and refused.
    let mut spare = File::open("/dev/null").ok();
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) => {
                let arrival = arrival(&app, &shared, tcp, peer, offset);
                if shared.board.len() >= flows_max {
                    refuse_full(arrival);
                } else {
                    tokio::spawn(Box::pin(enter(arrival)));
                }
            }
            Err(error) => {
                crate::events::accept_failed(&app.config.name, &error);
                let is_full = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE]
                    .iter()
                    .any(|full| error.raw_os_error() == Some(full.raw_os_error()));
                if is_full && spare.take().is_some() {
                    if let Ok(Ok((tcp, peer))) = timeout(ACCEPT_PAUSE, listener.accept()).await {
                        refuse_full(arrival(&app, &shared, tcp, peer, offset));
                    }
                    spare = File::open("/dev/null").ok();
                } else {
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

fn arrival(app: &Arc<App>, shared: &Arc<Shared>, tcp: TcpStream, peer: SocketAddr, offset: u16) -> Arrival {
    let local = tcp.local_addr().map_or(peer, canonical);
    Arrival { app: app.clone(), shared: shared.clone(), tcp, peer: canonical(peer), local, offset }
}

/// Opens a connection to each origin and closes it, at every interval.
async fn watch_origins(app: Arc<App>, shared: Arc<Shared>) {
    let health = app.origins.health().clone();
    let limit = Duration::from_secs(health.timeout_seconds);
    let mut rounds = tokio::time::interval(Duration::from_secs(health.interval_seconds));
    loop {
        rounds.tick().await;
        let Ok(origins) = app.origins.candidates(&*shared.resolver).await else { continue };
        let mut probes = JoinSet::new();
        for origin in origins {
            let (app, health) = (app.clone(), health.clone());
            probes.spawn(async move {
                let socket = origin.socket(0);
                let is_good = probe(socket, limit).await.is_ok();
                if let Some(is_healthy) = origin.note(is_good, &health, Instant::now()) {
                    crate::events::origin_health(&app.config.name, socket, is_healthy);
                }
            });
        }
        while probes.join_next().await.is_some() {}
    }
}

async fn watch_certificates(app: Arc<App>) {
    let mut rounds = tokio::time::interval(CERTIFICATES_ROUND);
    loop {
        rounds.tick().await;
        let app = app.clone();
        let _ = tokio::task::spawn_blocking(move || app.tls.as_ref().map(AppTls::refresh)).await;
    }
}
