//! `sekisho up`: opens what is needed, in order, starts the gates, says where everything is, and stops in order when told.
//!
//! A reload (SIGHUP) reads the knowledge of names anew; policy is published by `apply`. Either takes effect whole or
//! leaves the earlier one in place and says why.

use std::io::IsTerminal;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow};
use checkpoint::{Checkpoint, Scanner};
use clap::Args;
use net::authority::Authority;
use net::mint::{Alpn, LeafHost, Minter, VersionCeiling};
use net::trust::{Trust, TrustSettings, mozilla_roots};
use net::upstream::{ConnectLimits, DialGuard};
use scan::host::{Pool, PoolConfig};
use serde_json::json;
use store::{Store, StoreConfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::Admin;
use crate::config::Config;
use crate::control::Control;
use crate::knowledge::{self, KnowledgeSpec};
use crate::operations::{Operations, compile, now};
use crate::policy_store::PolicyStore;

/// The policy of a new installation.
pub const DEFAULT_POLICY: &str = include_str!("../defaults/policy.toml");

/// How long gates may take to end what they have begun. The web gate's own drain is bounded below this.
const DRAIN_SECONDS_MAX: u64 = 45;

#[derive(Args, Default)]
pub struct UpArguments {
    /// Configuration file; without one the embedded defaults are used.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Listen on free ports of the loopback address, whatever the configuration says.
    #[arg(long)]
    ephemeral_ports: bool,
    /// Write this file, as JSON, when all listeners are up.
    #[arg(long)]
    ready_file: Option<PathBuf>,
    /// Logs as JSON, one object a line.
    #[arg(long)]
    json_logs: bool,
}

/// One listener as the table and the ready file show it.
struct Listening {
    gate: &'static str,
    protocol: &'static str,
    address: SocketAddr,
}

/// Makes a folder that only its owner may enter.
pub fn private_folder(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the folder {}", path.display()))
}

pub fn load_authority(data: &Path) -> Result<Arc<Authority>> {
    private_folder(data)?;
    let authority = Authority::load_or_create(&data.join("ca"), "Sekisho", SystemTime::now());
    Ok(Arc::new(authority.with_context(|| format!("the CA in {}", data.join("ca").display()))?))
}

/// Store, policy and checkpoint without gates, for commands while nothing runs.
pub fn at_rest(data: &Path) -> Result<Operations> {
    anyhow::ensure!(data.is_dir(), "there is no folder {}; name it with --data", data.display());
    let store = Store::open(StoreConfig::in_directory(data.join("events")))?;
    assemble(data, store, Config::default(), None)
}

fn assemble(data: &Path, store: Store, config: Config, scanner: Option<Arc<dyn Scanner>>) -> Result<Operations> {
    let policies = PolicyStore::open(&data.join("policy.redb"), DEFAULT_POLICY, now())?;
    let revision = policies.newest()?.context("no policy is stored")?;
    let (policy, warnings) = compile(&revision.documents, data)?;
    for warning in warnings {
        tracing::warn!(warning, "policy");
    }
    let policy = policy.with_revision(revision.number);
    let recorder = Arc::new(store.clone());
    // References of two runs differ because they count from the time of the start, in microseconds.
    let first = u64::try_from(now().0).unwrap_or_default();
    let knowledge = knowledge::load(&config.knowledge, data)?;
    let checkpoint = Checkpoint::new(policy, knowledge, config.checkpoint, recorder, scanner, first);
    Ok(Operations { store, policies, checkpoint, data: data.to_owned() })
}

pub fn run(data: &Path, arguments: &UpArguments) -> Result<ExitCode> {
    start_logs(arguments.json_logs);
    let mut config = match &arguments.config {
        Some(path) => Config::read(path)?,
        None => Config::default(),
    };
    if arguments.ephemeral_ports {
        config = config.with_ephemeral_ports();
    }
    private_folder(data)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(up(data, config, arguments))?;
    Ok(ExitCode::SUCCESS)
}

fn start_logs(as_json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SEKISHO_LOG").unwrap_or_else(|_| "info".into());
    let logs =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    if as_json {
        logs.json().init();
    } else {
        logs.init();
    }
}

async fn up(data: &Path, config: Config, arguments: &UpArguments) -> Result<()> {
    let control = Control::bind(data)?;
    let authority = load_authority(data)?;
    let minter = Arc::new(Minter::new(authority.clone())?);
    let trust = Arc::new(Trust::new(trust_settings(&config, &authority, &minter)?, SystemTime::now())?);
    let pool = Arc::new(start_workers(&config).await?);
    tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { pool.watch(scan::host::WATCH_SECONDS).await }
    });
    let store_config = StoreConfig { directory: data.join("events"), ..config.store.clone() };
    let store = Store::open(store_config).context("the event store")?;
    let operations = Arc::new(assemble(data, store.clone(), config.clone(), Some(pool.clone()))?);
    let checkpoint = operations.checkpoint.clone();

    let dns_config = gate_dns::DnsGateConfig::resolve(config.dns.clone())?;
    let dns_tls =
        minter.server_config(&LeafHost::parse("localhost")?, Alpn::Http2AndHttp1, VersionCeiling::Tls13, SystemTime::now());
    let dns = gate_dns::bind(dns_config, checkpoint.clone(), Some(dns_tls.map_err(|e| anyhow!("{e}"))?)).await?;
    let resolver = Arc::new(Resolver(dns.lookup()));
    let web_config = gate_web::WebGateConfig::resolve(config.web.clone())?;
    let means = gate_web::Means {
        authority: authority.clone(),
        minter,
        trust,
        resolver,
        guard: DialGuard {
            own_listeners: dns.addresses().into_iter().map(|(_, address)| address).collect(),
            danger_exempt: config.upstream.danger_exempt.clone(),
        },
        limits: ConnectLimits::default(),
    };
    let web = gate_web::bind(web_config, checkpoint.clone(), means).await?;
    let admin = Admin::bind(config.admin.listen, data).await?;

    let mut listening = Vec::new();
    let row = |gate| move |(protocol, address)| Listening { gate, protocol, address };
    listening.extend(dns.addresses().into_iter().map(row("dns")));
    let web_addresses = web.addresses();
    let web_rows = [("http", web_addresses.proxy), ("socks5", web_addresses.socks5), ("transparent", web_addresses.transparent)];
    listening.extend(web_rows.into_iter().filter_map(|(protocol, address)| Some((protocol, address?))).map(row("web")));
    listening.push(Listening { gate: "admin", protocol: "http", address: admin.address()? });
    let ca = authority.public_path();
    print_table(data, &listening, &ca);
    if let Some(path) = &arguments.ready_file {
        write_ready(path, data, &listening, &ca)?;
    }

    let (stop, stopped) = watch::channel(false);
    let mut gates = JoinSet::new();
    gates.spawn(dns.serve(stopped.clone()));
    gates.spawn(web.serve(stopped.clone()));
    let mut helpers = JoinSet::new();
    helpers.spawn(admin.serve(operations.clone()));
    helpers.spawn(control.serve(operations.clone()));
    helpers.spawn(watch_authority(authority));
    notify("READY=1");

    wait_for_signals(&config.knowledge, data, &operations).await?;
    notify("STOPPING=1");
    tracing::info!("stopping: no new connections, the open ones end");
    stop.send_replace(true);
    let drained = async { while gates.join_next().await.is_some() {} };
    if tokio::time::timeout(Duration::from_secs(DRAIN_SECONDS_MAX), drained).await.is_err() {
        tracing::warn!("some connections did not end in time");
    }
    helpers.shutdown().await;
    let _ = std::fs::remove_file(crate::control::socket_path(data));
    store.flush().context("the last events")?;
    tracing::info!("stopped");
    Ok(())
}

/// The DNS gate's resolver as the web gate uses it, so that both see one answer and one cache.
struct Resolver(gate_dns::DnsResolver);

impl net::upstream::Resolver for Resolver {
    fn resolve<'a>(&'a self, name: &'a str) -> net::upstream::ResolverFuture<'a> {
        Box::pin(async move {
            // RFC 6761 section 6.3: such a name is this machine and is asked of nobody. The dial guard has the last word.
            if model::name::is_within(name, "localhost") {
                return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
            }
            let found = self.0.lookup(name).await;
            found.map_err(|error| std::io::Error::new(std::io::ErrorKind::NotFound, error))
        })
    }
}

fn trust_settings(config: &Config, authority: &Authority, minter: &Minter) -> Result<TrustSettings> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let mut roots = mozilla_roots();
    for path in &config.trust.extra_roots {
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        roots.extend(read.with_context(|| format!("trust.extra_roots: {}", path.display()))?);
    }
    Ok(TrustSettings {
        roots,
        own_authorities: authority.own_certificates(),
        own_leaf_key_sha256: Some(minter.leaf_key_sha256()),
        ..TrustSettings::default()
    })
}

async fn start_workers(config: &Config) -> Result<Pool> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let program = std::env::current_exe().context("where this program is")?;
    let pool = PoolConfig {
        workers: if config.scan.workers == 0 { cores } else { config.scan.workers },
        definitions: config.scan.definitions.clone(),
        limits: config.scan.limits,
        clamd: config.scan.clamd.clone(),
        ..PoolConfig::new(program)
    };
    Pool::start(pool).await.context("the scan workers")
}

/// Says in the log when the CA nears its end (TL-08), at the start and every day.
async fn watch_authority(authority: Arc<Authority>) {
    let mut daily = tokio::time::interval(Duration::from_secs(86_400));
    loop {
        daily.tick().await;
        if let Some(notice) = net::authority::expiry_notice(authority.current().not_after, SystemTime::now()) {
            tracing::warn!(?notice, "the CA certificate ends soon; see `sekisho ca rotate`");
        }
    }
}

async fn wait_for_signals(spec: &KnowledgeSpec, data: &Path, operations: &Operations) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => reload(spec, data, operations),
        }
    }
}

fn reload(spec: &KnowledgeSpec, data: &Path, operations: &Operations) {
    // Both are built before either is swapped in.
    let built = knowledge::load(spec, data).and_then(|snapshot| operations.republish_policy().map(|()| snapshot));
    match built {
        Ok(snapshot) => {
            operations.checkpoint.publish_knowledge(snapshot);
            tracing::info!("reloaded");
        }
        Err(error) => tracing::error!(error = format!("{error:#}"), "reload failed; the earlier state stays"),
    }
}

fn print_table(data: &Path, listening: &[Listening], ca: &Path) {
    println!("Sekisho is up.\n");
    println!("  {:<7}{:<8}address", "gate", "speaks");
    for row in listening {
        println!("  {:<7}{:<8}{}", row.gate, row.protocol, row.address);
    }
    println!("\n  data            {}\n  CA certificate  {}\n", data.display(), ca.display());
    println!("Try:");
    let first = |gate, protocol| listening.iter().find(|row| row.gate == gate && row.protocol == protocol);
    if let Some(dns) = first("dns", "udp") {
        println!("  dig @{} -p {} example.com", dns.address.ip(), dns.address.port());
    }
    if let Some(web) = first("web", "http").or_else(|| first("web", "proxy")) {
        println!("  curl --proxy http://{} --cacert {} https://example.com/", web.address, ca.display());
    }
    println!("  sekisho search 'event.gate == \"web\"' --since 1h\n");
}

fn write_ready(path: &Path, data: &Path, listening: &[Listening], ca: &Path) -> Result<()> {
    let rows =
        listening.iter().map(|row| json!({ "gate": row.gate, "protocol": row.protocol, "address": row.address.to_string() }));
    let text = json!({
        "listeners": rows.collect::<Vec<_>>(),
        "ca": std::path::absolute(ca)?,
        "data": std::path::absolute(data)?,
        "pid": std::process::id(),
    });
    // Written aside and renamed, so that whoever waits for the file reads it whole.
    let aside = path.with_extension("tmp");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    std::io::Write::write_all(&mut file, text.to_string().as_bytes())?;
    std::fs::rename(&aside, path).with_context(|| format!("cannot write {}", path.display()))
}

/// Tells the service manager, where one asked to be told (sd_notify(3)).
fn notify(state: &str) {
    let Some(address) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Ok(socket) = std::os::unix::net::UnixDatagram::unbound() {
        let _ = socket.send_to(state.as_bytes(), address);
    }
}
