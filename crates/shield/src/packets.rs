//! The settings of the packet path and of detection, as written (`PacketsSpec`) and as used (`PacketsConfig`).

use std::net::SocketAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::Error;
pub use crate::Mode;
use crate::detect::detector::{NETWORKS_MAX, Sensitivity};
use crate::xdp::tables::ALLOWED_MAX;
use crate::xdp::vectors::{self, Vector};

/// Packets a second of one kind below which nothing is an attack: one core of user space takes this much.
const FLOOR_DEFAULT: u32 = 20_000;
/// At a million packets a second these are 8,000 samples (substrate on floods, section 5).
const SAMPLE_EVERY_DEFAULT: u32 = 128;
const SAMPLE_EVERY_MAX: u32 = 65_536;
const INTERFACES_MAX: usize = 16;
const COUNT_MAX: u32 = 1_000_000_000;

/// Settings as written in the configuration file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PacketsSpec {
    /// Interfaces that packets come in by; none leaves the packet path away.
    pub interfaces: Vec<String>,
    /// Where routers send sFlow, in place of interfaces: floods are found and told, and nothing is dropped here.
    pub sflow: Option<SocketAddr>,
    /// Networks of these routers.
    pub sflow_exporters: Vec<IpNet>,
    /// Networks of your own: packets for any other address pass unseen (DD-20).
    pub protect: Vec<IpNet>,
    /// Networks whose packets pass whatever they are. A source address of UDP is easily forged.
    pub danger_allow: Vec<IpNet>,
    pub mode: Mode,
    pub sensitivity: Sensitivity,
    /// Packets a second of one kind to one network below which nothing is an attack.
    pub floor_packets_per_second: u32,
    /// One packet of this many is looked at; a power of two.
    pub sample_every: u32,
    /// Packets of one source a second; 0 is no limit.
    pub source_packets_per_second: u32,
    pub source_packets_burst: u32,
    /// Whether fragments are dropped. DNS answers of more than 1,232 bytes and some tunnels need them.
    pub drop_fragments: bool,
    /// Whether packets are dropped that no stack would send: TCP flags that do not go together, port 0, from oneself.
    pub drop_bogus: bool,
    /// Whether SYNs are answered with cookies while a flood of them goes on.
    pub syn_cookies: bool,
    /// UDP amplifiers whose answers are dropped, by name (DD-08).
    pub vectors: Vec<String>,
}

/// Settings as used.
#[derive(Clone, Debug)]
pub struct PacketsConfig {
    pub(crate) interfaces: Vec<String>,
    pub(crate) sflow: Option<SocketAddr>,
    pub(crate) exporters: Vec<IpNet>,
    pub(crate) protect: Vec<IpNet>,
    pub(crate) allow: Vec<IpNet>,
    pub(crate) mode: Mode,
    pub(crate) sensitivity: Sensitivity,
    pub(crate) floor: f64,
    pub(crate) sample_every: u32,
    pub(crate) source_rate: Option<(u32, u32)>,
    pub(crate) drop_fragments: bool,
    pub(crate) drop_bogus: bool,
    pub(crate) syn_cookies: bool,
    pub(crate) vectors: Vec<Vector>,
}

impl Default for PacketsSpec {
    fn default() -> PacketsSpec {
        PacketsSpec {
            interfaces: Vec::new(),
            sflow: None,
            sflow_exporters: Vec::new(),
            protect: Vec::new(),
            danger_allow: Vec::new(),
            mode: Mode::Enforce,
            sensitivity: Sensitivity::default(),
            floor_packets_per_second: FLOOR_DEFAULT,
            sample_every: SAMPLE_EVERY_DEFAULT,
            source_packets_per_second: 0,
            source_packets_burst: 0,
            drop_fragments: false,
            drop_bogus: true,
            syn_cookies: true,
            vectors: vectors::defaults().map(|vector| vector.name.to_owned()).collect(),
        }
    }
}

impl PacketsConfig {
    /// Checks the settings; none where there is no interface or the mode is off.
    pub fn resolve(spec: &PacketsSpec) -> Result<Option<PacketsConfig>, Error> {
        let refuse = |name, reason| Err(Error::Setting { name, reason });
        if spec.interfaces.len() > INTERFACES_MAX {
            return refuse("packets.interfaces", "at most 16");
        }
        if !spec.interfaces.is_empty() && spec.sflow.is_some() {
            return refuse("packets.sflow", "a packet would count twice: name interfaces or sFlow, not both");
        }
        if spec.sflow.is_some() && spec.sflow_exporters.is_empty() {
            return refuse("packets.sflow_exporters", "name the routers that are believed");
        }
        if (!spec.interfaces.is_empty() || spec.sflow.is_some()) && spec.protect.is_empty() {
            return refuse("packets.protect", "name the networks behind the interfaces, or nothing is protected");
        }
        if spec.protect.len() > NETWORKS_MAX {
            return refuse("packets.protect", "at most 64 networks");
        }
        if spec.danger_allow.len() > ALLOWED_MAX {
            return refuse("packets.danger_allow", "at most 16,384 networks");
        }
        if !spec.sample_every.is_power_of_two() || spec.sample_every > SAMPLE_EVERY_MAX {
            return refuse("packets.sample_every", "a power of two, at most 65,536");
        }
        if spec.floor_packets_per_second == 0 {
            return refuse("packets.floor_packets_per_second", "at least 1");
        }
        let source_rate = match (spec.source_packets_per_second, spec.source_packets_burst) {
            (0, _) => None,
            (rate, _) if rate > COUNT_MAX => return refuse("packets.source_packets_per_second", "at most 1,000,000,000"),
            (_, burst) if burst == 0 || burst > COUNT_MAX => {
                return refuse("packets.source_packets_burst", "between 1 and 1,000,000,000");
            }
            both => Some(both),
        };
        let named = spec.vectors.iter().map(|name| vectors::named(name)).collect::<Option<Vec<Vector>>>();
        let Some(vectors) = named else {
            return refuse("packets.vectors", "an unknown name; docs/shield.md lists those that are known");
        };
        let is_off = (spec.interfaces.is_empty() && spec.sflow.is_none()) || spec.mode == Mode::Off;
        Ok((!is_off).then(|| PacketsConfig {
            interfaces: spec.interfaces.clone(),
            sflow: spec.sflow,
            exporters: spec.sflow_exporters.clone(),
            protect: spec.protect.clone(),
            allow: spec.danger_allow.clone(),
            mode: spec.mode,
            sensitivity: spec.sensitivity,
            floor: spec.floor_packets_per_second.into(),
            sample_every: spec.sample_every,
            source_rate,
            drop_fragments: spec.drop_fragments,
            drop_bogus: spec.drop_bogus,
            syn_cookies: spec.syn_cookies,
            vectors,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        let named = |change: fn(&mut PacketsSpec)| {
            let protect = vec!["203.0.113.0/24".parse().unwrap()];
            let mut spec = PacketsSpec { interfaces: vec!["eth0".to_owned()], protect, ..PacketsSpec::default() };
            change(&mut spec);
            match PacketsConfig::resolve(&spec) {
                Err(Error::Setting { name, .. }) => name,
                Err(_) => "another error",
                Ok(Some(_)) => "on",
                Ok(None) => "off",
            }
        };
        assert_eq!(named(|_| ()), "on");
        assert_eq!(named(|s| s.mode = Mode::Off), "off");
        assert_eq!(named(|s| (s.interfaces, s.protect) = (Vec::new(), Vec::new())), "off");
        assert_eq!(named(|s| s.protect.clear()), "packets.protect");
        assert_eq!(named(|s| s.sflow = Some(SocketAddr::from(([127, 0, 0, 1], 6343)))), "packets.sflow");
        assert_eq!(
            named(|s| (s.interfaces, s.sflow) = (Vec::new(), Some(([127, 0, 0, 1], 6343).into()))),
            "packets.sflow_exporters"
        );
        assert_eq!(named(|s| s.sample_every = 100), "packets.sample_every");
        assert_eq!(named(|s| s.floor_packets_per_second = 0), "packets.floor_packets_per_second");
        assert_eq!(named(|s| s.source_packets_per_second = 5), "packets.source_packets_burst");
        assert_eq!(named(|s| s.vectors = vec!["memcachd".to_owned()]), "packets.vectors");
        assert_eq!(named(|s| s.interfaces = vec!["eth0".to_owned(); 17]), "packets.interfaces");
    }
}
