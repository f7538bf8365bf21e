//! `sekisho up`: opens what is needed, in order, starts the gates, says where everything is, and stops in order when told.
//!
//! What the gates are made of, and how a reload replaces it, is in `gates`; policy is published by `apply`.

use std::io::IsTerminal;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow};
use checkpoint::{Checkpoint, Scanner};
use clap::Args;
use model::Recorder;
use net::authority::Authority;
use net::mint::Minter;
use net::trust::Trust;
use serde_json::json;
use store::{Store, StoreConfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::Admin;
use crate::authority;
use crate::config::Config;
use crate::control::Control;
use crate::gates::{Gates, Listening, Parts, Written};
use crate::knowledge;
use crate::operations::{Operations, compile, now};
use crate::policy_store::PolicyStore;
use crate::shield::Shield;
use crate::trust;
use crate::workers::{Workers, start_pool};

/// The policy of a new installation.
pub const DEFAULT_POLICY: &str = include_str!("../defaults/policy.toml");

/// How long gates may take to end what they have begun. The web gate's own drain is bounded below this.
const DRAIN_SECONDS_MAX: u64 = 45;

/// How often feeds are looked after. Their own times are a day, and minutes after a failure.
const FEEDS_ROUND: Duration = Duration::from_secs(60);

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

/// The key of the tokens that stand in redirects (GW-156), drawn at random for this installation.
pub fn context_key(data: &Path) -> Result<Arc<gate_web::ContextKey>> {
    let path = data.join("context.key");
    let place = || format!("the key in {}", path.display());
    if !path.exists() {
        let mut secret = [0_u8; gate_web::CONTEXT_KEY_BYTES];
        getrandom::fill(&mut secret).map_err(|e| anyhow!("the system gives no randomness: {e}"))?;
        let aside = path.with_extension("partial");
        let _ = std::fs::remove_file(&aside);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside).with_context(place)?;
        std::io::Write::write_all(&mut file, &secret)?;
        file.sync_all()?;
        std::fs::rename(&aside, &path).with_context(place)?;
    }
    let secret: Option<[u8; gate_web::CONTEXT_KEY_BYTES]> = std::fs::read(&path).with_context(place)?.try_into().ok();
    let key = secret.as_ref().and_then(gate_web::ContextKey::new);
    Ok(Arc::new(key.with_context(|| format!("{} is no key", path.display()))?))
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
    let program = std::env::current_exe().context("where this program is")?;
    let queries = query::Runner::new(program, config.query);
    let shield = Arc::new(Shield::open(&config.shield, data)?);
    Ok(Operations::new(store, policies, checkpoint, shield, data.to_owned(), queries))
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
    let trust = Arc::new(Trust::new(trust::settings(&config.trust, authority.own_certificates(), &minter)?, SystemTime::now())?);
    let workers = Arc::new(Workers::new(start_pool(&config.scan).await?));
    let store_config = StoreConfig { directory: data.join("events"), ..config.store.clone() };
    let store = Store::open(store_config).context("the event store")?;
    let operations = Arc::new(assemble(data, store.clone(), config.clone(), Some(workers.clone()))?);

    let written = Written { path: arguments.config.clone(), ephemeral_ports: arguments.ephemeral_ports };
    let parts = Parts {
        data: data.to_owned(),
        operations: operations.clone(),
        workers: workers.clone(),
        authority: authority.clone(),
        minter,
        trust,
    };
    let mut gates = Gates::start(parts, written, config.clone()).await?;
    let admin = Admin::bind(config.admin.listen, data).await?;

    let mut listening = gates.listening();
    listening.push(Listening { gate: "admin", protocol: "http", address: admin.address()? });
    let ca = authority.public_path();
    print_table(data, &listening, &ca);
    if let Some(path) = &arguments.ready_file {
        write_ready(path, data, &listening, &ca)?;
    }

    // Before whoever may ask for a reload begins, so that none is missed.
    let reload_wanted = operations.reload_wanted();
    let mut helpers = JoinSet::new();
    helpers.spawn(admin.serve(operations.clone()));
    helpers.spawn(control.serve(operations.clone()));
    helpers.spawn(async move { workers.watch().await });
    helpers.spawn(watch_authority(authority.clone(), store.clone()));
    helpers.spawn(operations.shield.clone().watch(store.clone()));
    operations.shield.publish_notices(&config.shield.notices)?;
    operations.shield.publish_packets(&config.shield.packets)?;
    let packets = operations.shield.watch_packets(store.clone()).context("the thread that looks at packets")?;
    if !config.knowledge.feeds_by_command_only {
        helpers.spawn(watch_feeds(data.to_owned(), operations.clone()));
    }
    notify("READY=1");

    wait_for_signals(&mut gates, reload_wanted).await?;
    notify("STOPPING=1");
    tracing::info!("stopping: no new connections, the open ones end");
    if tokio::time::timeout(Duration::from_secs(DRAIN_SECONDS_MAX), gates.stop()).await.is_err() {
        tracing::warn!("some connections did not end in time");
    }
    helpers.shutdown().await;
    operations.shield.stop();
    if packets.join().is_err() {
        tracing::error!("looking at packets ended early");
    }
    operations.shield.finish(&store);
    let _ = std::fs::remove_file(crate::control::socket_path(data));
    store.flush().context("the last events")?;
    tracing::info!("stopped");
    Ok(())
}

async fn wait_for_signals(gates: &mut Gates, mut wanted: watch::Receiver<u64>) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => {}
            Ok(()) = wanted.changed() => {}
        }
        // Whoever wants the program to end does not wait for lists to be read; a reload that is dropped has changed nothing.
        let outcome = tokio::select! {
            outcome = gates.reload() => outcome,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
        match outcome {
            Ok(()) => tracing::info!("reloaded"),
            Err(error) => tracing::error!(error = format!("{error:#}"), "reload failed; the earlier state stays"),
        }
    }
}

/// Says in the log and in the record when the CA nears its end (TL-08), at the start and every day.
async fn watch_authority(authority: Arc<Authority>, store: Store) {
    let mut daily = tokio::time::interval(Duration::from_secs(86_400));
    loop {
        daily.tick().await;
        let current = authority.current();
        if let Some(notice) = net::authority::expiry_notice(current.not_after, SystemTime::now()) {
            tracing::warn!(?notice, authority = &*current.common_name, "the CA certificate ends soon; see `sekisho ca rotate`");
            store.record(authority::expiry_event(&current, notice, now()));
        }
    }
}

/// Asks for feeds whose time has come, and has whatever changed taken in, also by command. A feed that became too old to be
/// used is left out at once.
async fn watch_feeds(data: PathBuf, operations: Arc<Operations>) {
    let mut rounds = tokio::time::interval(FEEDS_ROUND);
    let mut known = crate::feeds::copies(&data).ok();
    loop {
        rounds.tick().await;
        let (done, round) = tokio::sync::oneshot::channel();
        let folder = data.clone();
        // A thread of its own, because a fetch that hangs must not hold up the end of the program.
        std::thread::spawn(move || done.send(crate::feeds::tend(&folder)));
        match round.await {
            Ok(Ok(copies)) => {
                if known.as_ref() != Some(&copies) {
                    operations.want_reload();
                }
                known = Some(copies);
            }
            Ok(Err(error)) => tracing::warn!(error = format!("{error:#}"), "feeds could not be looked after"),
            Err(_) => tracing::error!("looking after feeds ended early"),
        }
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
