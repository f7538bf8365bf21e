//! The settings of the shield: as written (`ShieldSpec`) and as used (`ShieldConfig`, which holds only valid states).

use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::admission::bucket::Rate;
use crate::notice::NoticesSpec;
use crate::packets::{PacketsConfig, PacketsSpec};
use crate::{Error, Prefixes};

/// A page of a busy site opens a few dozen connections at once, and an office behind one address has some hundred people.
const SOURCE_RATE_DEFAULT: u32 = 200;
const SOURCE_BURST_DEFAULT: u32 = 2_000;
/// The same office, with the idle connections that its browsers keep.
const SOURCE_OPEN_DEFAULT: u32 = 4_096;
/// An ECDSA handshake costs a core about 0.2 ms, so that one source at this rate has a tenth of a core at most.
const SOURCE_HANDSHAKES_DEFAULT: u32 = 500;
/// What one core accepts and refuses; more than this is a flood, whoever sends it.
const LISTENER_RATE_DEFAULT: u32 = 20_000;
const LISTENER_BURST_DEFAULT: u32 = 40_000;
/// A refused source that goes on like this is not a client that tries again.
const BAN_REFUSALS_DEFAULT: u32 = 500;
const BAN_WINDOW_DEFAULT: u64 = 10;
const BAN_SECONDS_DEFAULT: u64 = 60;
const BAN_SECONDS_MAX_DEFAULT: u64 = 3_600;
/// A client that has connected speaks at once; slow radio links need a few seconds (substrate on floods, section 8).
const FIRST_BYTE_SECONDS_DEFAULT: u64 = 10;
/// A modem of the nineties has ten times this.
const BYTES_PER_SECOND_DEFAULT: u64 = 500;
const WINDOW_SECONDS_DEFAULT: u64 = 10;
/// A paused download and a player whose buffer is full take nothing for minutes; a person has a few of them.
const SPARED_DEFAULT: u32 = 8;
/// No rate or bound above this: sums of tokens stay far from the end of 64 bits.
const COUNT_MAX: u32 = 100_000_000;
/// A week; longer bans are the operator's own, by command.
const SECONDS_MAX: u64 = 604_800;
/// Networks in the allow list. Each prefix length in use costs a hash on every accept.
const ALLOW_NETWORKS_MAX: usize = 10_000;

/// What is done with a connection that is over a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    #[default]
    Enforce,
    /// Counted and recorded, and let in.
    Monitor,
    /// Nothing is counted and nobody is refused.
    Off,
}

/// Settings as written in the configuration file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShieldSpec {
    pub mode: Mode,
    /// Networks that no limit holds for (DD-20). A source address of TCP is not forged, but one of a whole network is many.
    pub allow: Vec<IpNet>,
    pub source: SourceSpec,
    /// New connections of each listener a second, from everyone together; 0 is no limit.
    pub listener_per_second: u32,
    pub listener_burst: u32,
    pub ban: BanSpec,
    pub slow: SlowSpec,
    pub packets: PacketsSpec,
    pub notices: NoticesSpec,
}

/// Limits of one source: an IPv4 address, or the /64 of an IPv6 address.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SourceSpec {
    /// New connections a second on average, over all listeners.
    pub per_second: u32,
    /// New connections at once.
    pub burst: u32,
    /// Open connections.
    pub open_max: u32,
    /// TLS handshakes with Sekisho itself a second; a second's worth may come at once.
    pub handshakes_per_second: u32,
}

/// When a source that is over its limits is shut out for a while.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BanSpec {
    /// Refusals within the window that lead to a ban; 0 bans nobody.
    pub refusals: u32,
    pub window_seconds: u64,
    /// The first ban. Each that follows within its own length is twice as long.
    pub seconds: u64,
    pub seconds_max: u64,
}

/// Connections that are kept open with as little as possible (slowloris, slow read).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SlowSpec {
    /// A connection without a byte by then is reset; 0 never.
    pub first_byte_seconds: u64,
    /// What a peer must take, while it is what Sekisho waits for, and what it must send within a body; 0 is no minimum.
    pub bytes_per_second: u64,
    /// The rate is an average over this time.
    pub window_seconds: u64,
    /// So many slow connections of one source are left alone while the listener has room.
    pub spared: u32,
}

/// Settings as used.
#[derive(Clone, Debug)]
pub struct ShieldConfig {
    pub mode: Mode,
    pub(crate) allow: Prefixes<()>,
    pub(crate) source_rate: Rate,
    pub(crate) source_open_max: u32,
    pub(crate) handshake_rate: Rate,
    /// None is no limit.
    pub(crate) listener_rate: Option<Rate>,
    pub(crate) ban_refusals: u32,
    pub(crate) ban_window: Duration,
    pub(crate) ban: Duration,
    pub(crate) ban_max: Duration,
    /// Zero is no deadline.
    pub(crate) first_byte: Duration,
    pub(crate) bytes_per_second: u64,
    pub(crate) slow_window: Duration,
    pub(crate) slow_spared: u32,
}

impl Default for ShieldSpec {
    fn default() -> ShieldSpec {
        ShieldSpec {
            mode: Mode::default(),
            // Whoever is on this machine has better ways to exhaust it.
            allow: vec![loopback_v4(), loopback_v6()],
            source: SourceSpec::default(),
            listener_per_second: LISTENER_RATE_DEFAULT,
            listener_burst: LISTENER_BURST_DEFAULT,
            ban: BanSpec::default(),
            slow: SlowSpec::default(),
            packets: PacketsSpec::default(),
            notices: NoticesSpec::default(),
        }
    }
}

fn loopback_v4() -> IpNet {
    IpNet::V4(ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8))
}

fn loopback_v6() -> IpNet {
    IpNet::V6(ipnet::Ipv6Net::new_assert(std::net::Ipv6Addr::LOCALHOST, 128))
}

impl Default for SourceSpec {
    fn default() -> SourceSpec {
        SourceSpec {
            per_second: SOURCE_RATE_DEFAULT,
            burst: SOURCE_BURST_DEFAULT,
            open_max: SOURCE_OPEN_DEFAULT,
            handshakes_per_second: SOURCE_HANDSHAKES_DEFAULT,
        }
    }
}

impl Default for BanSpec {
    fn default() -> BanSpec {
        BanSpec {
            refusals: BAN_REFUSALS_DEFAULT,
            window_seconds: BAN_WINDOW_DEFAULT,
            seconds: BAN_SECONDS_DEFAULT,
            seconds_max: BAN_SECONDS_MAX_DEFAULT,
        }
    }
}

impl Default for SlowSpec {
    fn default() -> SlowSpec {
        SlowSpec {
            first_byte_seconds: FIRST_BYTE_SECONDS_DEFAULT,
            bytes_per_second: BYTES_PER_SECOND_DEFAULT,
            window_seconds: WINDOW_SECONDS_DEFAULT,
            spared: SPARED_DEFAULT,
        }
    }
}

impl ShieldConfig {
    /// Checks the settings. The error names the setting and what it may be.
    pub fn resolve(spec: &ShieldSpec) -> Result<ShieldConfig, Error> {
        let (source, ban, slow) = (&spec.source, &spec.ban, &spec.slow);
        if spec.allow.len() > ALLOW_NETWORKS_MAX {
            return Err(Error::Setting { name: "allow", reason: "at most 10,000 networks" });
        }
        count("source.open_max", source.open_max)?;
        PacketsConfig::resolve(&spec.packets)?;
        let listener_rate = match spec.listener_per_second {
            0 => None,
            rate => Some(rate_of("listener_per_second", rate, "listener_burst", spec.listener_burst)?),
        };
        let ban_window = seconds("ban.window_seconds", ban.window_seconds)?;
        let (first, longest) = (seconds("ban.seconds", ban.seconds)?, seconds("ban.seconds_max", ban.seconds_max)?);
        if longest < first {
            return Err(Error::Setting { name: "ban.seconds_max", reason: "shorter than `ban.seconds`" });
        }
        if slow.first_byte_seconds > SECONDS_MAX {
            return Err(Error::Setting { name: "slow.first_byte_seconds", reason: "at most a week" });
        }
        let handshakes = source.handshakes_per_second;
        Ok(ShieldConfig {
            mode: spec.mode,
            allow: spec.allow.iter().map(|network| (*network, ())).collect(),
            source_rate: rate_of("source.per_second", source.per_second, "source.burst", source.burst)?,
            source_open_max: source.open_max,
            handshake_rate: rate_of("source.handshakes_per_second", handshakes, "source.handshakes_per_second", handshakes)?,
            listener_rate,
            ban_refusals: ban.refusals,
            ban_window,
            ban: first,
            ban_max: longest,
            first_byte: Duration::from_secs(slow.first_byte_seconds),
            bytes_per_second: slow.bytes_per_second,
            slow_window: seconds("slow.window_seconds", slow.window_seconds)?,
            slow_spared: slow.spared,
        })
    }
}

fn rate_of(name: &'static str, per_second: u32, burst_name: &'static str, burst: u32) -> Result<Rate, Error> {
    count(name, per_second)?;
    count(burst_name, burst)?;
    Ok(Rate::new(per_second, burst))
}

fn count(name: &'static str, value: u32) -> Result<(), Error> {
    match value {
        1..=COUNT_MAX => Ok(()),
        0 => Err(Error::Setting { name, reason: "at least 1" }),
        _ => Err(Error::Setting { name, reason: "at most 100,000,000" }),
    }
}

fn seconds(name: &'static str, value: u64) -> Result<Duration, Error> {
    match value {
        1..=SECONDS_MAX => Ok(Duration::from_secs(value)),
        _ => Err(Error::Setting { name, reason: "between 1 second and a week" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        let named = |change: fn(&mut ShieldSpec)| {
            let mut spec = ShieldSpec::default();
            change(&mut spec);
            match ShieldConfig::resolve(&spec) {
                Err(Error::Setting { name, .. }) => name,
                _ => "accepted",
            }
        };
        assert_eq!(named(|_| ()), "accepted");
        assert_eq!(named(|s| s.source.per_second = 0), "source.per_second");
        assert_eq!(named(|s| s.source.burst = 0), "source.burst");
        assert_eq!(named(|s| s.source.open_max = u32::MAX), "source.open_max");
        assert_eq!(named(|s| s.source.handshakes_per_second = 0), "source.handshakes_per_second");
        assert_eq!(named(|s| s.listener_burst = 0), "listener_burst");
        assert_eq!(named(|s| s.listener_per_second = 0), "accepted");
        assert_eq!(named(|s| s.ban.window_seconds = 0), "ban.window_seconds");
        assert_eq!(named(|s| s.ban.seconds_max = 1), "ban.seconds_max");
        assert_eq!(named(|s| s.slow.window_seconds = u64::MAX), "slow.window_seconds");
        assert_eq!(named(|s| s.slow.first_byte_seconds = u64::MAX), "slow.first_byte_seconds");
        assert_eq!(named(|s| s.allow = vec![loopback_v4(); ALLOW_NETWORKS_MAX + 1]), "allow");
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(toml::from_str::<ShieldSpec>("[source]\nper_secnd = 1").is_err());
        assert!(toml::from_str::<ShieldSpec>("mode = \"monitor\"\n[slow]\nbytes_per_second = 0").is_ok());
    }
}
