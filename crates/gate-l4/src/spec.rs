//! The settings of the gate: app documents as written, under the names of Spectrum's application object (SP-01 to SP-12)
//! where it has one, and as used (`L4GateConfig`, which holds only valid states). Every complaint names the app and the field.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use net::mint::LeafHost;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::detect::PROTOCOLS;
use crate::ports::Ports;
use crate::starttls::{self, Protocol};

/// Listeners of all apps together: each holds a descriptor and a task.
const LISTENERS_MAX: usize = 4096;
/// Apps of one program.
const APPS_MAX: usize = 1024;
/// Origins of one app, tried one after the other when they fail.
const ORIGINS_MAX: usize = 64;
/// The largest weight, so that no origin is starved by rounding.
const WEIGHT_MAX: u32 = 1000;
/// A connection that has not moved a byte for longer than any keep-alive in use (a day) is gone.
const SECONDS_MAX: u64 = 86_400;
/// A server that speaks first is not kept waiting longer than a person notices.
const HOLD_MS_DEFAULT: u64 = 100;
const HOLD_MS_MAX: u64 = 30_000;

/// Which origin a flow goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// The one with the fewest flows for its weight.
    #[default]
    LeastConnections,
    /// In turn, by weight.
    RoundRobin,
    /// The first that is healthy, in the order of the document.
    Failover,
}

/// The header with which the origin is told of the client (SP-06, SP-20, SP-21).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocol {
    #[default]
    Off,
    V1,
    V2,
}

/// Where TLS ends (SP-30 to SP-33).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsMode {
    /// Passed through.
    #[default]
    Off,
    /// Ends here; the origin is spoken to in the clear.
    Flexible,
    /// Ends here; TLS to the origin, whose certificate is not looked at.
    Full,
    /// Ends here; TLS to the origin, whose certificate must verify.
    Strict,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct L4GateSpec {
    /// Name of the place, for the record (`event.site`).
    pub site: String,
    #[serde(rename = "app")]
    pub apps: Vec<AppSpec>,
    pub limits: LimitsSpec,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsSpec {
    /// Flows at once, of all apps. 0 is as many as descriptors allow.
    pub flows_max: usize,
    /// How long flows may go on after the program was told to stop.
    pub drain_seconds: u64,
}

/// One service.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AppSpec {
    /// As rules and the record name it.
    pub name: String,
    /// `tcp/22` or `tcp/1000-2000` (SP-01).
    pub protocol: String,
    /// Addresses on which it is offered (SP-09).
    pub edge_ips: Vec<IpAddr>,
    /// `tcp://192.0.2.1:22` or `tcp://192.0.2.1:3000-4000`, one or more (SP-03).
    pub origin_direct: Vec<String>,
    /// The same with a weight each.
    #[serde(rename = "origin")]
    pub origins: Vec<OriginSpec>,
    /// An origin by name in place of addresses (SP-04).
    pub origin_dns: Option<OriginDnsSpec>,
    /// Port or range of that origin, `22` or `3000-4000` (SP-05).
    pub origin_port: String,
    pub balance: Balance,
    pub health: HealthSpec,
    pub proxy_protocol: ProxyProtocol,
    /// Networks of balancers before us whose PROXY header is believed.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Where TLS ends (SP-07).
    pub tls: TlsMode,
    pub tls_settings: TlsSpec,
    /// The protocol inside which TLS begins: `smtp`, `imap`, `pop3`, `ftp`, `ldap`, `postgres`, `mysql`, `xmpp`. Empty where it
    /// begins at once.
    pub starttls: String,
    /// With `full` or `strict`: clients are spoken to in the clear, and only the origin with TLS.
    pub danger_clear_clients: bool,
    /// Protocols that the client may speak, by their detected names; none is any. `unknown` is what is not recognised.
    pub expects: Vec<String>,
    /// How long a client may stay silent before the origin is opened for it, so that a server can speak first. Not one byte of
    /// the client's passes before it was judged, however long this is.
    pub first_bytes_hold_ms: u64,
    /// How long the first bytes may take from their first to what tells their protocol.
    pub first_bytes_seconds: u64,
    pub connect_seconds: u64,
    pub handshake_seconds: u64,
    /// A flow that moves no byte for this long is ended.
    pub idle_seconds: u64,
    /// Listen on a free port in place of each, for scripts and tests.
    #[serde(skip)]
    pub free_ports: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OriginSpec {
    pub url: String,
    pub weight: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OriginDnsSpec {
    pub name: String,
    /// How long a resolution is kept, whatever its own time to live (SP-04).
    pub ttl: u64,
    /// `A`, `AAAA`, or empty for both.
    #[serde(rename = "type")]
    pub kind: String,
}

/// Whether an origin is looked after. A failed connection counts in any case.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthSpec {
    /// Seconds between two checks, which open a connection and close it; 0 is none.
    pub interval_seconds: u64,
    pub timeout_seconds: u64,
    /// Failures in a row after which an origin is passed over.
    pub unhealthy_after: u32,
    /// How long an origin is passed over after flows found it failing, where nothing checks it.
    pub down_seconds: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSpec {
    /// Certificates of ours, chosen by the name that the client asks for; the first where it asks for none (SP-35).
    pub certificates: Vec<CertificateSpec>,
    /// Without certificates: names in one that the installation's own authority signs.
    pub names: Vec<String>,
    /// `1.2` or `1.3` (SP-34).
    pub minimum_version: String,
    /// Protocols that are offered in the handshake (ALPN), in this order.
    pub alpn: Vec<String>,
    /// PEM file of authorities. With it, a client must show a certificate of theirs.
    pub client_authorities: Option<PathBuf>,
    /// Name that the origin's certificate must have, where it is reached by address.
    pub origin_name: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateSpec {
    /// PEM, the leaf first.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// Settings as used.
#[derive(Clone, Debug)]
pub struct L4GateConfig {
    pub(crate) site: String,
    pub(crate) apps: Vec<AppConfig>,
    pub(crate) flows_max: usize,
    pub(crate) drain: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct AppConfig {
    pub(crate) name: Arc<str>,
    pub(crate) ports: Ports,
    pub(crate) free_ports: bool,
    pub(crate) edge_ips: Vec<IpAddr>,
    pub(crate) origins: OriginsConfig,
    pub(crate) balance: Balance,
    pub(crate) health: HealthSpec,
    pub(crate) proxy_protocol: ProxyProtocol,
    pub(crate) proxy_protocol_from: Vec<IpNet>,
    pub(crate) tls: TlsMode,
    pub(crate) tls_settings: TlsSpec,
    pub(crate) minted_names: Vec<LeafHost>,
    pub(crate) starttls: Option<Protocol>,
    pub(crate) clear_clients: bool,
    /// What the gate calls itself in the clear.
    pub(crate) edge_name: String,
    pub(crate) expects: Vec<String>,
    pub(crate) hold: Duration,
    pub(crate) first_bytes: Duration,
    pub(crate) connect: Duration,
    pub(crate) handshake: Duration,
    pub(crate) idle: Duration,
}

#[derive(Clone, Debug)]
pub(crate) enum OriginsConfig {
    Direct(Vec<DirectOrigin>),
    Named { name: Arc<str>, ttl: Duration, wants_v4: bool, wants_v6: bool, ports: Ports },
}

#[derive(Clone, Debug)]
pub(crate) struct DirectOrigin {
    pub(crate) address: IpAddr,
    pub(crate) ports: Ports,
    pub(crate) weight: u32,
}

impl Default for LimitsSpec {
    fn default() -> LimitsSpec {
        LimitsSpec { flows_max: 0, drain_seconds: 30 }
    }
}

impl Default for AppSpec {
    fn default() -> AppSpec {
        AppSpec {
            name: String::new(),
            protocol: String::new(),
            edge_ips: Vec::new(),
            origin_direct: Vec::new(),
            origins: Vec::new(),
            origin_dns: None,
            origin_port: String::new(),
            balance: Balance::default(),
            health: HealthSpec::default(),
            proxy_protocol: ProxyProtocol::default(),
            proxy_protocol_from: Vec::new(),
            tls: TlsMode::default(),
            tls_settings: TlsSpec::default(),
            starttls: String::new(),
            danger_clear_clients: false,
            expects: Vec::new(),
            first_bytes_hold_ms: HOLD_MS_DEFAULT,
            first_bytes_seconds: 5,
            connect_seconds: 10,
            handshake_seconds: 10,
            // Longer than the two hours after which TCP keep-alive probes a silent peer by default (RFC 9293 section 3.8.4).
            idle_seconds: 7500,
            free_ports: false,
        }
    }
}

impl Default for OriginSpec {
    fn default() -> OriginSpec {
        OriginSpec { url: String::new(), weight: 1 }
    }
}

impl Default for OriginDnsSpec {
    fn default() -> OriginDnsSpec {
        OriginDnsSpec { name: String::new(), ttl: 600, kind: String::new() }
    }
}

impl Default for HealthSpec {
    fn default() -> HealthSpec {
        HealthSpec { interval_seconds: 0, timeout_seconds: 3, unhealthy_after: 2, down_seconds: 10 }
    }
}

impl Default for TlsSpec {
    fn default() -> TlsSpec {
        TlsSpec {
            certificates: Vec::new(),
            names: Vec::new(),
            minimum_version: "1.2".to_owned(),
            alpn: Vec::new(),
            client_authorities: None,
            origin_name: String::new(),
        }
    }
}

impl ProxyProtocol {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            ProxyProtocol::Off => "off",
            ProxyProtocol::V1 => "v1",
            ProxyProtocol::V2 => "v2",
        }
    }
}

impl TlsMode {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            TlsMode::Off => "off",
            TlsMode::Flexible => "flexible",
            TlsMode::Full => "full",
            TlsMode::Strict => "strict",
        }
    }
}

impl L4GateSpec {
    /// Every listener on a free port of the loopback address.
    pub fn with_ephemeral_ports(mut self) -> L4GateSpec {
        for app in &mut self.apps {
            app.edge_ips = vec![IpAddr::from([127, 0, 0, 1])];
            app.free_ports = true;
        }
        self
    }
}

impl L4GateConfig {
    pub fn resolve(spec: L4GateSpec) -> Result<L4GateConfig, Error> {
        let mut apps = Vec::new();
        if spec.apps.len() > APPS_MAX {
            return Err(Error::Setting { field: "l4.app", reason: format!("at most {APPS_MAX} apps") });
        }
        if spec.limits.drain_seconds > SECONDS_MAX {
            return Err(Error::Setting { field: "l4.limits.drain_seconds", reason: format!("at most {SECONDS_MAX}") });
        }
        for app in spec.apps {
            if apps.iter().any(|earlier: &AppConfig| *earlier.name == *app.name) {
                return Err(Error::App { app: app.name, field: "name", reason: "stands twice".to_owned() });
            }
            apps.push(AppConfig::resolve(app)?);
        }
        let listeners: usize = apps.iter().map(|app| app.ports.count() * app.edge_ips.len()).sum();
        if listeners > LISTENERS_MAX {
            let reason = format!("{listeners} ports on all addresses together; at most {LISTENERS_MAX}");
            return Err(Error::Setting { field: "l4.app.protocol", reason });
        }
        let drain = Duration::from_secs(spec.limits.drain_seconds);
        Ok(L4GateConfig { site: spec.site, apps, flows_max: spec.limits.flows_max, drain })
    }
}

impl AppConfig {
    fn resolve(spec: AppSpec) -> Result<AppConfig, Error> {
        let name = spec.name.clone();
        let refuse = |field: &'static str, reason: String| Error::App { app: name.clone(), field, reason };
        if spec.name.is_empty() || spec.name.len() > 64 {
            return Err(refuse("name", "1 to 64 bytes".to_owned()));
        }
        let ports = spec.protocol.strip_prefix("tcp/").and_then(Ports::parse);
        let ports = ports.ok_or_else(|| refuse("protocol", format!("`{}` is not tcp/22 or tcp/1000-2000", spec.protocol)))?;
        if spec.edge_ips.is_empty() {
            return Err(refuse("edge_ips", "name the addresses on which it is offered, as [\"127.0.0.1\"]".to_owned()));
        }
        let origins = origins(&spec, ports).map_err(|(field, reason)| refuse(field, reason))?;
        for (field, value) in [
            ("first_bytes_seconds", spec.first_bytes_seconds),
            ("connect_seconds", spec.connect_seconds),
            ("handshake_seconds", spec.handshake_seconds),
            ("idle_seconds", spec.idle_seconds),
            ("health.timeout_seconds", spec.health.timeout_seconds),
        ] {
            if !(1..=SECONDS_MAX).contains(&value) {
                return Err(refuse(field, format!("1 to {SECONDS_MAX}")));
            }
        }
        if spec.health.interval_seconds > SECONDS_MAX
            || spec.health.down_seconds > SECONDS_MAX
            || spec.health.unhealthy_after == 0
        {
            return Err(refuse("health", format!("times up to {SECONDS_MAX} s, and at least one failure")));
        }
        if spec.first_bytes_hold_ms > HOLD_MS_MAX {
            return Err(refuse("first_bytes_hold_ms", format!("at most {HOLD_MS_MAX}")));
        }
        if let Some(wrong) = spec.expects.iter().find(|name| !PROTOCOLS.contains(&name.as_str())) {
            return Err(refuse("expects", format!("`{wrong}` is not one of {}", PROTOCOLS.join(", "))));
        }
        let edge_name = spec.tls_settings.names.first().cloned().unwrap_or_else(|| "localhost".to_owned());
        let minted_names = tls(&spec).map_err(|(field, reason)| refuse(field, reason))?;
        Ok(AppConfig {
            name: Arc::from(spec.name.as_str()),
            ports,
            free_ports: spec.free_ports,
            edge_ips: spec.edge_ips,
            origins,
            balance: spec.balance,
            health: spec.health,
            proxy_protocol: spec.proxy_protocol,
            proxy_protocol_from: spec.proxy_protocol_from,
            tls: spec.tls,
            tls_settings: spec.tls_settings,
            minted_names,
            starttls: Protocol::named(&spec.starttls),
            clear_clients: spec.danger_clear_clients,
            edge_name,
            expects: spec.expects,
            hold: Duration::from_millis(spec.first_bytes_hold_ms),
            first_bytes: Duration::from_secs(spec.first_bytes_seconds),
            connect: Duration::from_secs(spec.connect_seconds),
            handshake: Duration::from_secs(spec.handshake_seconds),
            idle: Duration::from_secs(spec.idle_seconds),
        })
    }
}

type Complaint = (&'static str, String);

/// The names of a minted certificate; empty where TLS is passed through or files are given.
fn tls(spec: &AppSpec) -> Result<Vec<LeafHost>, Complaint> {
    let settings = &spec.tls_settings;
    if !["1.2", "1.3"].contains(&settings.minimum_version.as_str()) {
        return Err(("tls_settings.minimum_version", format!("`{}` is not 1.2 or 1.3", settings.minimum_version)));
    }
    if let Some(wrong) = settings.alpn.iter().find(|name| name.is_empty() || name.len() > 255) {
        return Err(("tls_settings.alpn", format!("`{wrong}` is not 1 to 255 bytes")));
    }
    check_starttls(spec)?;
    if spec.tls == TlsMode::Off || spec.danger_clear_clients || !settings.certificates.is_empty() {
        return Ok(Vec::new());
    }
    if settings.names.is_empty() {
        let reason = "name certificates, or names for one of the installation's own authority (tls_settings.names)";
        return Err(("tls_settings.certificates", reason.to_owned()));
    }
    let parse = |name: &String| LeafHost::parse(name).map_err(|_| ("tls_settings.names", format!("`{name}` is no host")));
    settings.names.iter().map(parse).collect()
}

fn check_starttls(spec: &AppSpec) -> Result<(), Complaint> {
    let reaches_origin = matches!(spec.tls, TlsMode::Full | TlsMode::Strict);
    if spec.danger_clear_clients && !reaches_origin {
        return Err(("danger_clear_clients", "goes with tls = \"full\" or \"strict\"".to_owned()));
    }
    let Some(protocol) = Protocol::named(&spec.starttls) else {
        return match spec.starttls.is_empty() {
            true => Ok(()),
            false => Err(("starttls", format!("`{}` is not one of {}", spec.starttls, starttls::PROTOCOLS.join(", ")))),
        };
    };
    if spec.tls == TlsMode::Off {
        return Err(("starttls", "goes with tls = \"flexible\", \"full\" or \"strict\"".to_owned()));
    }
    let asks_clients = spec.tls_settings.client_authorities.is_some();
    if protocol == Protocol::Mysql && (asks_clients || (reaches_origin && !spec.danger_clear_clients)) {
        let reason = "mysql has TLS on one side, without client certificates: flexible, or danger_clear_clients";
        return Err(("starttls", reason.to_owned()));
    }
    Ok(())
}

fn origins(spec: &AppSpec, edge: Ports) -> Result<OriginsConfig, Complaint> {
    let has_direct = !spec.origin_direct.is_empty() || !spec.origins.is_empty();
    if let Some(dns) = &spec.origin_dns {
        if has_direct {
            return Err(("origin_dns", "an app has origins by address or by name, not both".to_owned()));
        }
        let ports = Ports::parse(&spec.origin_port)
            .ok_or_else(|| ("origin_port", format!("`{}` is not 22 or 3000-4000", spec.origin_port)))?;
        check_range("origin_port", ports, edge)?;
        let name = LeafHost::parse(&dns.name).map_err(|_| ("origin_dns.name", format!("`{}` is no host name", dns.name)))?;
        let LeafHost::Name(name) = name else {
            return Err(("origin_dns.name", "is an address; write it in origin_direct".to_owned()));
        };
        let (wants_v4, wants_v6) = match dns.kind.as_str() {
            "" => (true, true),
            "A" => (true, false),
            "AAAA" => (false, true),
            other => return Err(("origin_dns.type", format!("`{other}` is not A, AAAA or empty for both"))),
        };
        if !(1..=SECONDS_MAX).contains(&dns.ttl) {
            return Err(("origin_dns.ttl", format!("1 to {SECONDS_MAX}")));
        }
        return Ok(OriginsConfig::Named { name, ttl: Duration::from_secs(dns.ttl), wants_v4, wants_v6, ports });
    }
    if !spec.origin_port.is_empty() {
        return Err(("origin_port", "goes with origin_dns; an address has its port in the URL".to_owned()));
    }
    let urls = spec.origin_direct.iter().map(|url| (url.as_str(), 1));
    let weighted = spec.origins.iter().map(|origin| (origin.url.as_str(), origin.weight));
    let mut direct = Vec::new();
    for (url, weight) in urls.chain(weighted) {
        let (address, ports) = parse_url(url).ok_or_else(|| ("origin_direct", format!("`{url}` is not tcp://192.0.2.1:22")))?;
        check_range("origin_direct", ports, edge)?;
        if !(1..=WEIGHT_MAX).contains(&weight) {
            return Err(("origin.weight", format!("1 to {WEIGHT_MAX}")));
        }
        direct.push(DirectOrigin { address, ports, weight });
    }
    match direct.len() {
        0 => Err(("origin_direct", "name at least one origin, as [\"tcp://192.0.2.1:22\"], or origin_dns".to_owned())),
        1..=ORIGINS_MAX => Ok(OriginsConfig::Direct(direct)),
        _ => Err(("origin_direct", format!("at most {ORIGINS_MAX} origins"))),
    }
}

/// SP-05: a range of the origin is as large as the edge's; one port serves every edge port.
fn check_range(field: &'static str, origin: Ports, edge: Ports) -> Result<(), Complaint> {
    match origin.count() == 1 || origin.count() == edge.count() {
        true => Ok(()),
        false => {
            Err((field, format!("{} ports behind {} edge ports; they must be as many, or one", origin.count(), edge.count())))
        }
    }
}

fn parse_url(url: &str) -> Option<(IpAddr, Ports)> {
    let (host, ports) = url.strip_prefix("tcp://")?.rsplit_once(':')?;
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').filter(|inner| inner.contains(':'))?,
        None => host,
    };
    Some((bare.parse().ok()?, Ports::parse(ports)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str) -> Result<L4GateConfig, String> {
        let spec: L4GateSpec = toml::from_str(text).map_err(|error| error.to_string())?;
        L4GateConfig::resolve(spec).map_err(|error| error.to_string())
    }

    const WHOLE: &str = "[[app]]\nname = \"ssh\"\nprotocol = \"tcp/22\"\nedge_ips = [\"127.0.0.1\"]\n";

    #[test]
    fn a_small_document_is_enough() {
        let config =
            resolved(&format!("{WHOLE}origin_direct = [\"tcp://192.0.2.1:2222\", \"tcp://[2001:db8::1]:22\"]\n")).unwrap();
        let OriginsConfig::Direct(origins) = &config.apps[0].origins else { panic!("by address") };
        assert_eq!(origins.len(), 2);
        assert_eq!(origins[1].ports.at(0), 22);
    }

    /// Every complaint names the app and the field (SP-01 to SP-07).
    #[test]
    fn what_is_wrong_is_named() {
        for (extra, expected) in [
            ("", "app `ssh`: origin_direct: name at least one"),
            ("origin_direct = [\"192.0.2.1:22\"]", "origin_direct: `192.0.2.1:22` is not tcp://"),
            ("origin_direct = [\"tcp://host:22\"]", "origin_direct: `tcp://host:22`"),
            ("origin_direct = [\"tcp://192.0.2.1:3000-4000\"]", "1001 ports behind 1 edge ports"),
            ("origin_direct = [\"tcp://192.0.2.1:22\"]\norigin_port = \"22\"", "origin_port: goes with origin_dns"),
            ("origin_dns = { name = \"o.example\" }", "origin_port: `` is not"),
            ("origin_dns = { name = \"o.example\", type = \"SRV\" }\norigin_port = \"22\"", "origin_dns.type: `SRV`"),
            ("origin_dns = { name = \"192.0.2.1\" }\norigin_port = \"22\"", "is an address"),
            ("origin_direct = [\"tcp://192.0.2.1:22\"]\nexpects = [\"gopher\"]", "expects: `gopher` is not one of"),
            ("origin_direct = [\"tcp://192.0.2.1:22\"]\nidle_seconds = 0", "idle_seconds: 1 to"),
            ("origin_direct = [\"tcp://192.0.2.1:22\"]\ntls = \"flexible\"", "tls_settings.certificates: name certificates"),
            ("origin_direct = [\"tcp://192.0.2.1:22\"]\ntls_settings = { minimum_version = \"1.1\" }", "`1.1` is not 1.2 or 1.3"),
            ("origin_direct = [\"tcp://192.0.2.1:22\"]\nstarttls = \"gopher\"", "starttls: `gopher` is not one of"),
            ("origin_direct = [\"tcp://192.0.2.1:22\"]\nstarttls = \"smtp\"", "starttls: goes with tls"),
            ("origin_direct = [\"tcp://192.0.2.1:22\"]\ndanger_clear_clients = true", "danger_clear_clients: goes with"),
            ("origin_direct = [\"tcp://192.0.2.1:22\"]\ntls = \"full\"\nstarttls = \"mysql\"", "mysql has TLS on one side"),
            ("orgin_direct = []", "unknown field `orgin_direct`"),
            ("[[app.origin]]\nurl = \"tcp://192.0.2.1:22\"\nweight = 0", "origin.weight: 1 to"),
        ] {
            let error = resolved(&format!("{WHOLE}{extra}\n")).expect_err(extra);
            assert!(error.contains(expected), "{extra}: {error}");
        }
        let twice = format!("{WHOLE}origin_direct = [\"tcp://192.0.2.1:22\"]\n").repeat(2);
        assert!(resolved(&twice).unwrap_err().contains("stands twice"));
        let udp = WHOLE.replace("tcp/22", "udp/53");
        assert!(resolved(&udp).unwrap_err().contains("`udp/53` is not tcp/22"));
    }
}
