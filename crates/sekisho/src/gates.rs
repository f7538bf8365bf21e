//! The running gates, and the reload (SIGHUP): the configuration, the policy's lists, what is known of names, the CA and
//! whom to trust are read anew; all of it is built, then compared, then swapped in, or the earlier state stays whole and the
//! log says why. A gate whose settings changed is replaced by a new one that takes over its sockets, while the earlier one
//! ends what it has begun.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use gate_dns::{DnsGate, DnsGateConfig, DnsResolver};
use gate_l4::{L4Gate, L4GateConfig};
use gate_web::{WebGate, WebGateConfig};
use intel::Snapshot;
use net::authority::{Authority, AuthorityReading};
use net::mint::{Alpn, LeafHost, Minter};
use net::sockets::Sockets;
use net::trust::{PreparedTrust, Trust};
use net::upstream::{ConnectLimits, DialGuard};
use policy::Policy;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::fingerprint::Fingerprints;
use crate::operations::Operations;
use crate::up::context_key;
use crate::workers::{Workers, start_pool};
use crate::{knowledge, trust};

/// What gates are made of and what stays over a reload.
#[derive(Clone)]
pub struct Parts {
    pub data: PathBuf,
    pub operations: Arc<Operations>,
    pub workers: Arc<Workers>,
    pub authority: Arc<Authority>,
    pub minter: Arc<Minter>,
    pub trust: Arc<Trust>,
}

/// Where the configuration was read, so that it can be read again.
pub struct Written {
    /// None where the embedded defaults are used.
    pub path: Option<PathBuf>,
    pub ephemeral_ports: bool,
}

/// One listener as the table and the ready file show it.
pub struct Listening {
    pub gate: &'static str,
    pub protocol: &'static str,
    pub address: SocketAddr,
}

pub struct Gates {
    parts: Parts,
    written: Written,
    config: Config,
    fingerprints: Fingerprints,
    resolver: DnsResolver,
    dns: Running,
    web: Running,
    l4: Running,
    /// The gates that serve and those that end.
    tasks: JoinSet<()>,
}

/// A gate that serves, by what is needed to replace it.
struct Running {
    addresses: Vec<(&'static str, SocketAddr)>,
    sockets: Sockets,
    stop: watch::Sender<bool>,
}

/// What a reload has read and compiled, and nobody uses yet.
struct Read {
    policy: Policy,
    knowledge: Snapshot,
    trust: PreparedTrust,
    authority: AuthorityReading,
}

impl Written {
    fn read(&self) -> Result<Config> {
        let config = match &self.path {
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        Ok(if self.ephemeral_ports { config.with_ephemeral_ports() } else { config })
    }
}

impl Gates {
    pub async fn start(parts: Parts, written: Written, config: Config) -> Result<Gates> {
        let mut tasks = JoinSet::new();
        let fingerprints = Fingerprints::of(&config)?;
        let dns = parts.bind_dns(&config, &Sockets::default()).await?;
        let (resolver, addresses) = (dns.lookup(), dns.addresses());
        let web = parts.bind_web(&config, resolver.clone(), &addresses, &Sockets::default()).await?;
        let l4 = parts.bind_l4(&config, resolver.clone(), &addresses, &Sockets::default()).await?;
        let (dns, web) = (serve_dns(dns, &mut tasks), serve_web(web, &mut tasks));
        let l4 = serve_l4(l4, &mut tasks);
        Ok(Gates { parts, written, config, fingerprints, resolver, dns, web, l4, tasks })
    }

    pub fn listening(&self) -> Vec<Listening> {
        let rows = [("dns", &self.dns), ("web", &self.web), ("l4", &self.l4)];
        let row = |gate| move |(protocol, address): &(&'static str, SocketAddr)| Listening { gate, protocol, address: *address };
        rows.into_iter().flat_map(|(gate, running)| running.addresses.iter().map(row(gate))).collect()
    }

    /// Builds everything anew before anything is swapped in. Dropped before its end, it has changed nothing.
    pub async fn reload(&mut self) -> Result<()> {
        let config = self.written.read()?;
        self.check_fixed(&config)?;
        let fingerprints = Fingerprints::of(&config)?;
        let shield = shield::ShieldConfig::resolve(&config.shield)?;
        crate::notices::check(&config.shield.notices)?;
        let parts = &self.parts;
        let read = parts.read_again(config.clone()).await?;
        let pool = match is_same(&config.scan, &self.config.scan)? {
            true => None,
            false => Some(start_pool(&config.scan).await.context("[scan]")?),
        };
        let dns = match fingerprints.dns == self.fingerprints.dns {
            true => None,
            false => Some(parts.bind_dns(&config, &self.dns.sockets).await.context("[dns]")?),
        };
        let (resolver, addresses) = match &dns {
            Some(dns) => (dns.lookup(), dns.addresses()),
            None => (self.resolver.clone(), self.dns.addresses.clone()),
        };
        let web = match dns.is_none() && fingerprints.web == self.fingerprints.web {
            true => None,
            false => Some(parts.bind_web(&config, resolver.clone(), &addresses, &self.web.sockets).await.context("[web]")?),
        };
        let keeps_l4 =
            dns.is_none() && is_same(&config.l4, &self.config.l4)? && is_same(&config.upstream, &self.config.upstream)?;
        let l4 = match keeps_l4 {
            true => None,
            false => Some(parts.bind_l4(&config, resolver.clone(), &addresses, &self.l4.sockets).await.context("[l4]")?),
        };

        parts.publish(read, &config)?;
        parts.operations.shield.admission.publish(shield);
        parts.operations.shield.publish_notices(&config.shield.notices)?;
        parts.operations.shield.publish_packets(&config.shield.packets)?;
        if let Some(pool) = pool {
            parts.workers.publish(pool);
            tracing::info!("the scan workers were replaced");
        }
        if let Some(dns) = dns {
            let earlier = std::mem::replace(&mut self.dns, serve_dns(dns, &mut self.tasks));
            earlier.stop.send_replace(true);
            tracing::info!(gate = "dns", "replaced");
        }
        if let Some(web) = web {
            let earlier = std::mem::replace(&mut self.web, serve_web(web, &mut self.tasks));
            earlier.stop.send_replace(true);
            tracing::info!(gate = "web", "replaced");
        }
        if let Some(l4) = l4 {
            let earlier = std::mem::replace(&mut self.l4, serve_l4(l4, &mut self.tasks));
            earlier.stop.send_replace(true);
            tracing::info!(gate = "l4", "replaced");
        }
        (self.resolver, self.config, self.fingerprints) = (resolver, config, fingerprints);
        // Gates that a reload before replaced may have ended.
        while self.tasks.try_join_next().is_some() {}
        Ok(())
    }

    /// What is opened once, at the start.
    fn check_fixed(&self, config: &Config) -> Result<()> {
        for (section, is_same) in [
            ("[store]", is_same(&config.store, &self.config.store)?),
            ("[admin]", is_same(&config.admin, &self.config.admin)?),
            (
                "knowledge] feeds_by_command_only",
                config.knowledge.feeds_by_command_only == self.config.knowledge.feeds_by_command_only,
            ),
        ] {
            ensure!(is_same, "{section} changed, which takes effect at a restart; nothing of the new configuration is used");
        }
        Ok(())
    }

    /// No new connections; what has begun ends.
    pub async fn stop(mut self) {
        self.dns.stop.send_replace(true);
        self.web.stop.send_replace(true);
        self.l4.stop.send_replace(true);
        self.parts.operations.board.close();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Compared as written, which is what an operator means by a change.
fn is_same<T: Serialize>(one: &T, other: &T) -> Result<bool> {
    Ok(serde_json::to_value(one)? == serde_json::to_value(other)?)
}

fn serve_dns(mut gate: DnsGate, tasks: &mut JoinSet<()>) -> Running {
    let (stop, stopped) = watch::channel(false);
    let running = Running { addresses: gate.addresses(), sockets: gate.take_sockets(), stop };
    tasks.spawn(gate.serve(stopped));
    running
}

fn serve_web(mut gate: WebGate, tasks: &mut JoinSet<()>) -> Running {
    let (stop, stopped) = watch::channel(false);
    let open = gate.addresses();
    let rows = [("http", open.proxy), ("https", open.proxy_tls), ("socks5", open.socks5), ("transparent", open.transparent)];
    let addresses = rows.into_iter().filter_map(|(protocol, address)| Some((protocol, address?))).collect();
    let running = Running { addresses, sockets: gate.take_sockets(), stop };
    tasks.spawn(gate.serve(stopped));
    running
}

fn serve_l4(mut gate: L4Gate, tasks: &mut JoinSet<()>) -> Running {
    let (stop, stopped) = watch::channel(false);
    let addresses = gate.addresses().into_iter().map(|(_, address)| ("tcp", address)).collect();
    let running = Running { addresses, sockets: gate.take_sockets(), stop };
    tasks.spawn(gate.serve(stopped));
    running
}

impl Parts {
    async fn bind_dns(&self, config: &Config, earlier: &Sockets) -> Result<DnsGate> {
        let resolved = DnsGateConfig::resolve(config.dns.clone())?;
        let tls =
            self.minter.listener_config(vec![LeafHost::parse("localhost")?], Alpn::Http2AndHttp1, None, SystemTime::now())?;
        Ok(gate_dns::bind_over(resolved, self.operations.checkpoint.clone(), Some(Arc::new(tls)), earlier).await?)
    }

    async fn bind_web(
        &self,
        config: &Config,
        resolver: DnsResolver,
        dns: &[(&'static str, SocketAddr)],
        earlier: &Sockets,
    ) -> Result<WebGate> {
        let resolved = WebGateConfig::resolve(config.web.clone())?;
        let means = gate_web::Means {
            authority: self.authority.clone(),
            minter: self.minter.clone(),
            trust: self.trust.clone(),
            resolver: Arc::new(Resolver(resolver)),
            guard: DialGuard {
                own_listeners: dns.iter().map(|(_, address)| *address).collect(),
                danger_exempt: config.upstream.danger_exempt.clone(),
            },
            limits: ConnectLimits::default(),
            context: context_key(&self.data)?,
            admission: Some(self.operations.shield.admission.clone()),
            client_roots: match &config.web.client_authorities {
                Some(path) => trust::read_roots(path).with_context(|| format!("web.client_authorities: {}", path.display()))?,
                None => Vec::new(),
            },
        };
        Ok(gate_web::bind_over(resolved, self.operations.checkpoint.clone(), means, earlier).await?)
    }

    async fn bind_l4(
        &self,
        config: &Config,
        resolver: DnsResolver,
        dns: &[(&'static str, SocketAddr)],
        earlier: &Sockets,
    ) -> Result<L4Gate> {
        let resolved = L4GateConfig::resolve(config.l4.clone())?;
        let means = gate_l4::Means {
            resolver: Arc::new(Resolver(resolver)),
            trust: self.trust.clone(),
            minter: self.minter.clone(),
            guard: DialGuard {
                own_listeners: dns.iter().map(|(_, address)| *address).collect(),
                danger_exempt: config.upstream.danger_exempt.clone(),
            },
            board: self.operations.board.clone(),
        };
        Ok(gate_l4::bind_over(resolved, self.operations.checkpoint.clone(), means, earlier).await?)
    }

    /// Reads and compiles what is not a gate's, on a thread where that may take its time.
    async fn read_again(&self, config: Config) -> Result<Read> {
        let parts = self.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let authority = parts.authority.read_again()?;
            let trust = trust::settings(&config.trust, authority.own_certificates(), &parts.minter)?;
            Ok(Read {
                trust: parts.trust.prepare(trust, SystemTime::now())?,
                authority,
                knowledge: knowledge::load(&config.knowledge, &parts.data)?,
                policy: parts.operations.compile_again()?,
            })
        });
        reading.await.context("reading the configuration ended early")?
    }

    fn publish(&self, read: Read, config: &Config) -> Result<()> {
        let queries = query::Runner::new(std::env::current_exe().context("where this program is")?, config.query);
        self.operations.publish_again(read.policy)?;
        self.operations.publish_queries(queries);
        self.operations.checkpoint.publish_settings(config.checkpoint.clone());
        self.operations.checkpoint.publish_knowledge(read.knowledge);
        // An authority of our own is distrusted upstream before it signs anything.
        self.trust.publish(read.trust);
        if self.authority.publish(read.authority) {
            tracing::info!(authority = &*self.authority.current().common_name, "another CA signs from now on");
        }
        Ok(())
    }
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
