//! The configuration file: the sections of each crate side by side. Unknown keys are refused, with the nearest known one
//! suggested; a file that is absent means the embedded defaults.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

/// Everything that can be configured. Policy is not here: it is applied, versioned and rolled back on its own.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub dns: gate_dns::DnsGateSpec,
    pub web: gate_web::WebGateSpec,
    /// Services that stand behind this machine.
    pub l4: gate_l4::L4GateSpec,
    pub store: store::StoreConfig,
    pub checkpoint: checkpoint::Settings,
    pub scan: ScanSpec,
    /// The bounds of `sekisho sql`.
    pub query: query::Limits,
    pub admin: AdminSpec,
    pub trust: TrustSpec,
    pub upstream: UpstreamSpec,
    pub knowledge: crate::knowledge::KnowledgeSpec,
    /// Who is let in, before a byte is read.
    pub shield: shield::ShieldSpec,
}

/// The scan workers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScanSpec {
    /// Worker processes; 0 is one per core.
    pub workers: usize,
    /// Folders and files with signatures (`.hdb`, `.hsb`, `.sha256`, `.ndb`, `.yar`); none uses what is built in.
    pub definitions: scan::Definitions,
    pub limits: scan::Limits,
    /// A clamd that is asked too, where one runs.
    pub clamd: Option<scan::clamd::Address>,
}

/// Health and metrics over HTTP. Management goes over the control socket in the data folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminSpec {
    pub listen: std::net::SocketAddr,
}

/// Whom the web gate trusts upstream.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrustSpec {
    /// PEM files of certificate authorities that are trusted beside the public ones.
    pub extra_roots: Vec<PathBuf>,
    /// Authorities that are trusted for one domain only, such as an internal one (CX-03).
    pub destinations: Vec<DestinationSpec>,
    /// Certificate revocation lists, PEM or DER, read at the start and at every reload.
    pub revocation_lists: Vec<PathBuf>,
    /// Go on with a list whose next update is overdue; otherwise certificates of its issuer are refused.
    pub danger_use_stale_revocation_lists: bool,
}

/// Authorities of one domain and what is below it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestinationSpec {
    pub domain: String,
    /// PEM files.
    pub roots: Vec<PathBuf>,
}

/// Where the web gate may connect to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamSpec {
    /// Networks that are reached although they are this machine's own or link-local, which a proxy otherwise refuses: a
    /// client could ask it for services that trust the local machine.
    pub danger_exempt: Vec<ipnet::IpNet>,
}

impl Default for AdminSpec {
    fn default() -> AdminSpec {
        AdminSpec { listen: std::net::SocketAddr::from(([127, 0, 0, 1], 9180)) }
    }
}

impl Config {
    /// The file's settings over the defaults.
    pub fn read(path: &Path) -> Result<Config> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Config::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    pub fn parse(text: &str) -> Result<Config> {
        toml::from_str(text).map_err(|error: toml::de::Error| anyhow!(policy::with_near_key(&error.to_string())))
    }

    /// Every listener on a free port of the loopback address, for scripts and tests.
    pub fn with_ephemeral_ports(mut self) -> Config {
        let free = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let dns = [&mut self.dns.udp, &mut self.dns.tcp, &mut self.dns.dot, &mut self.dns.doh];
        dns.into_iter().flatten().for_each(|address| *address = free);
        let web = [&mut self.web.proxy, &mut self.web.proxy_tls, &mut self.web.socks5, &mut self.web.transparent];
        web.into_iter().flatten().for_each(|address| *address = free);
        self.l4 = self.l4.with_ephemeral_ports();
        self.admin.listen = free;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_refused_with_its_neighbour() {
        let error = Config::parse("[admin]\nlisen = \"127.0.0.1:1\"\n").err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("lisen") && error.contains("did you mean `listen`"), "{error}");
    }

    #[test]
    fn a_key_with_no_neighbour_is_refused_without_a_guess() {
        let error = Config::parse("[admin]\nzzzzzzzz = 1\n").err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("zzzzzzzz") && !error.contains("did you mean"), "{error}");
    }

    #[test]
    fn the_defaults_listen_on_loopback_only() {
        let config = Config::parse("").unwrap_or_default();
        assert!(config.admin.listen.ip().is_loopback());
    }
}
