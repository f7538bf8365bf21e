//! The settings of the gate: as they are written (`DnsGateSpec`) and as they are used (`DnsGateConfig`, only valid states).
//! Defaults are safe: loopback, private addresses kept out of public names, stale answers rather than none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use checkpoint::FailureMode;
use hickory_proto::dnssec::TrustAnchors;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde::{Deserialize, Serialize};

use crate::Error;

/// Asked where neither the settings nor the system name a resolver: Quad9 and Cloudflare, both validating.
const PUBLIC_RESOLVERS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(9, 9, 9, 9)), IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1))];

/// More upstreams than this cannot all be tried within any sensible deadline.
const UPSTREAMS_MAX: usize = 16;

/// What a refused name is answered with (AC-02).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockMode {
    /// `0.0.0.0` and `::`, and no data for every other type.
    #[default]
    ZeroIp,
    Nxdomain,
    Refused,
    /// The address of the block page, and no data for every other type.
    Page,
}

/// The extended error that goes with a refusal (RFC 8914 sections 4.16 to 4.18).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockError {
    /// 15: the operator's own policy.
    #[default]
    Blocked,
    /// 16: somebody else's demand.
    Censored,
    /// 17: asked for by the client, as a family filter is.
    Filtered,
}

/// How much the restricted YouTube hides (AC-05).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum YoutubeRestriction {
    #[default]
    Strict,
    Moderate,
}

/// Whether answers are checked against the signatures of their zones (RFC 4035).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DnssecMode {
    /// The word of the upstream is passed on where the way to it is protected. The default, because the resolvers that a
    /// system names are often ones that leave signatures out, and then nothing would resolve.
    #[default]
    Off,
    /// Every answer is proved up to a trust anchor; one that should be signed and is not, or wrongly, is SERVFAIL.
    Validate,
}

/// The settings as written.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DnsGateSpec {
    pub udp: Vec<SocketAddr>,
    pub tcp: Vec<SocketAddr>,
    /// DNS over TLS, usually port 853.
    pub dot: Vec<SocketAddr>,
    /// DNS over HTTPS; without a certificate it speaks plain HTTP, and then only on loopback.
    pub doh: Vec<SocketAddr>,
    /// Whether a DNS-over-HTTPS client must bring a token that is known (ON-03).
    pub doh_requires_token: bool,
    /// `9.9.9.9`, `9.9.9.9:53`, `udp://...`, `tcp://...` or `tls://9.9.9.9#dns.quad9.net`. Empty: those of the system.
    pub upstreams: Vec<String>,
    /// More roots for `tls://` upstreams, PEM.
    pub upstream_ca_file: Option<PathBuf>,
    /// Wait for one upstream before the next is asked.
    pub upstream_timeout_ms: u64,
    /// Wait for all upstreams together.
    pub upstream_deadline_ms: u64,
    pub cache_bytes: u64,
    pub cache_ttl_seconds_min: u32,
    pub cache_ttl_seconds_max: u32,
    /// Ceiling on the times to live that clients are given (AC-06); a location can set its own.
    pub answer_ttl_seconds_max: Option<u32>,
    /// For clients without a location, when no upstream answers: `open` gives an expired answer, `closed` SERVFAIL.
    pub fails: FailureMode,
    /// How long after its end an answer may still be served (RFC 8767).
    pub stale_seconds_max: u32,
    pub block_mode: BlockMode,
    pub block_error: BlockError,
    pub block_page_ipv4: Option<Ipv4Addr>,
    pub block_page_ipv6: Option<Ipv6Addr>,
    pub block_ttl_seconds: u32,
    pub dnssec: DnssecMode,
    /// DNSKEY records, as in a zone file, that are trusted in place of the root's published keys.
    pub dnssec_trust_anchor_file: Option<PathBuf>,
    /// Names, with all below them, that are not validated, such as an internal view of a signed domain (RFC 7646).
    pub dnssec_danger_exempt: Vec<String>,
    /// Drops private addresses from the answers to public names.
    pub rebinding_protection: bool,
    /// Names, with all below them, that may have private addresses.
    pub rebinding_allowed: Vec<String>,
    /// What a `ytrestricted` or `safesearch` rule makes of YouTube.
    pub youtube_restriction: YoutubeRestriction,
    /// Answers ANY with one short record (RFC 8482).
    pub minimise_any: bool,
    /// Removes HTTP/3 and encrypted-ClientHello hints from HTTPS records, so that clients come by a way that the web
    /// gate can see.
    pub strip_https_hints: bool,
    /// Questions a second of one client; 0 is no limit.
    pub client_queries_per_second_max: u32,
    pub client_query_burst_max: u32,
    /// UDP sockets per address; 0 is one per core.
    pub workers: usize,
}

impl Default for DnsGateSpec {
    fn default() -> DnsGateSpec {
        let loopback = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 5353))];
        DnsGateSpec {
            udp: loopback.clone(),
            tcp: loopback,
            dot: Vec::new(),
            doh: Vec::new(),
            doh_requires_token: false,
            upstreams: Vec::new(),
            upstream_ca_file: None,
            // Two tries at a slow path (500 ms) and its jitter.
            upstream_timeout_ms: 1_500,
            // Stub resolvers give up after 5 s.
            upstream_deadline_ms: 4_500,
            cache_bytes: 64 << 20,
            cache_ttl_seconds_min: 0,
            // RFC 8767 section 4: a cap of days does no harm, one of weeks does.
            cache_ttl_seconds_max: 86_400,
            answer_ttl_seconds_max: None,
            fails: FailureMode::Open,
            // RFC 8767 section 5 recommends one to three days.
            stale_seconds_max: 86_400,
            block_mode: BlockMode::ZeroIp,
            block_error: BlockError::Blocked,
            block_page_ipv4: None,
            block_page_ipv6: None,
            // AC-02's published sample; short, so that a changed rule shows soon.
            block_ttl_seconds: 60,
            dnssec: DnssecMode::Off,
            dnssec_trust_anchor_file: None,
            dnssec_danger_exempt: Vec::new(),
            rebinding_protection: true,
            rebinding_allowed: Vec::new(),
            youtube_restriction: YoutubeRestriction::Strict,
            minimise_any: true,
            strip_https_hints: true,
            // A browser start asks about 200 names; no person asks 1,000 a second for long.
            client_queries_per_second_max: 1_000,
            client_query_burst_max: 5_000,
            workers: 0,
        }
    }
}

/// One upstream resolver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    pub(crate) transport: UpstreamTransport,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UpstreamTransport {
    /// With TCP where an answer is cut or its spelling is wrong.
    Datagram,
    Stream,
    Tls(ServerName<'static>),
}

/// The keys on which every proof ends.
#[derive(Clone)]
pub(crate) struct Anchors(pub(crate) Arc<TrustAnchors>);

impl std::fmt::Debug for Anchors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Anchors({} of the root)", self.0.len())
    }
}

/// The settings as used.
#[derive(Clone, Debug)]
pub struct DnsGateConfig {
    pub(crate) spec: DnsGateSpec,
    pub(crate) upstreams: Vec<Upstream>,
    pub(crate) upstream_roots: Vec<CertificateDer<'static>>,
    pub(crate) upstream_timeout: Duration,
    pub(crate) upstream_deadline: Duration,
    pub(crate) rebinding_allowed: Arc<[String]>,
    pub(crate) trust_anchors: Anchors,
    pub(crate) dnssec_exempt: Arc<[String]>,
    pub(crate) workers: usize,
}

impl DnsGateConfig {
    /// Checks the settings and reads what they point to: the certificates of upstreams and the system's resolvers.
    pub fn resolve(spec: DnsGateSpec) -> Result<DnsGateConfig, Error> {
        check_bounds(&spec)?;
        if spec.block_mode == BlockMode::Page && spec.block_page_ipv4.is_none() && spec.block_page_ipv6.is_none() {
            return Err(Error::NoBlockPage);
        }
        let upstreams = match spec.upstreams.as_slice() {
            [] => system_upstreams(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(), &spec.udp),
            written => written.iter().map(|text| parse_upstream(text)).collect::<Result<_, _>>()?,
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(DnsGateConfig {
            upstreams,
            upstream_roots: spec.upstream_ca_file.as_deref().map_or(Ok(Vec::new()), read_roots)?,
            upstream_timeout: Duration::from_millis(spec.upstream_timeout_ms),
            upstream_deadline: Duration::from_millis(spec.upstream_deadline_ms),
            rebinding_allowed: canonical_names(&spec.rebinding_allowed),
            trust_anchors: Anchors(Arc::new(
                spec.dnssec_trust_anchor_file.as_deref().map_or(Ok(TrustAnchors::default()), read_anchors)?,
            )),
            dnssec_exempt: canonical_names(&spec.dnssec_danger_exempt),
            workers: if spec.workers == 0 { cores } else { spec.workers },
            spec,
        })
    }
}

/// Each setting with the least and the most that it can mean.
fn check_bounds(spec: &DnsGateSpec) -> Result<(), Error> {
    let bounds = [
        ("upstreams", spec.upstreams.len() as u64, 0, UPSTREAMS_MAX as u64),
        ("upstream_timeout_ms", spec.upstream_timeout_ms, 10, 60_000),
        ("upstream_deadline_ms", spec.upstream_deadline_ms, spec.upstream_timeout_ms, 60_000),
        ("cache_bytes", spec.cache_bytes, 0, 64 << 30),
        ("cache_ttl_seconds_max", spec.cache_ttl_seconds_max.into(), spec.cache_ttl_seconds_min.into(), 604_800),
        ("stale_seconds_max", spec.stale_seconds_max.into(), 0, 604_800),
        ("block_ttl_seconds", spec.block_ttl_seconds.into(), 0, 86_400),
        ("workers", spec.workers as u64, 0, 256),
    ];
    match bounds.into_iter().find(|(_, value, least, most)| !(*least..=*most).contains(value)) {
        Some((setting, _, least, most)) => Err(Error::OutOfBounds { setting, least, most }),
        None => Ok(()),
    }
}

/// The resolvers of the system but for ourselves, or the public ones.
fn system_upstreams(resolv_conf: &str, own: &[SocketAddr]) -> Vec<Upstream> {
    let listed = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())??.parse::<IpAddr>().ok()
    });
    let listed: Vec<IpAddr> =
        listed.filter(|address| !own.contains(&SocketAddr::new(*address, 53))).take(UPSTREAMS_MAX).collect();
    let addresses = if listed.is_empty() { PUBLIC_RESOLVERS.to_vec() } else { listed };
    addresses.into_iter().map(|address| Upstream::datagram(SocketAddr::new(address, 53))).collect()
}

impl Upstream {
    pub(crate) fn datagram(address: SocketAddr) -> Upstream {
        Upstream { address, transport: UpstreamTransport::Datagram }
    }
}

fn parse_upstream(text: &str) -> Result<Upstream, Error> {
    let wrong = || Error::UpstreamSyntax { upstream: text.to_owned() };
    let (scheme, rest) = text.split_once("://").unwrap_or(("udp", text));
    let (address, name) = match rest.split_once('#') {
        Some((address, name)) => (address, Some(name)),
        None => (rest, None),
    };
    let port = if scheme == "tls" { 853 } else { 53 };
    let address = parse_address(address, port).ok_or_else(wrong)?;
    let transport = match (scheme, name) {
        ("udp", None) => UpstreamTransport::Datagram,
        ("tcp", None) => UpstreamTransport::Stream,
        ("tls", None) => UpstreamTransport::Tls(ServerName::from(address.ip())),
        ("tls", Some(name)) => UpstreamTransport::Tls(ServerName::try_from(name.to_owned()).map_err(|_| wrong())?),
        _ => return Err(wrong()),
    };
    Ok(Upstream { address, transport })
}

fn parse_address(text: &str, port: u16) -> Option<SocketAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    text.parse().ok().or_else(|| bare.parse().ok().map(|address| SocketAddr::new(address, port)))
}

fn canonical_names(names: &[String]) -> Arc<[String]> {
    names.iter().filter_map(|name| model::name::canonical(name)).collect()
}

fn read_anchors(path: &Path) -> Result<TrustAnchors, Error> {
    TrustAnchors::from_file(path).map_err(|error| Error::TrustAnchors { path: path.to_owned(), problem: error.to_string() })
}

fn read_roots(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let unreadable = |source| Error::Certificates { path: path.to_owned(), source };
    CertificateDer::pem_file_iter(path).map_err(unreadable)?.collect::<Result<_, _>>().map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_are_read_in_every_form_and_refused_in_every_other() {
        let transport = |text: &str| parse_upstream(text).map(|upstream| (upstream.address.to_string(), upstream.transport));
        assert_eq!(transport("9.9.9.9").unwrap(), ("9.9.9.9:53".into(), UpstreamTransport::Datagram));
        assert_eq!(transport("udp://9.9.9.9:5300").unwrap().0, "9.9.9.9:5300");
        assert_eq!(transport("tcp://[2620:fe::fe]").unwrap(), ("[2620:fe::fe]:53".into(), UpstreamTransport::Stream));
        assert_eq!(transport("2620:fe::fe").unwrap().0, "[2620:fe::fe]:53");
        let (address, tls) = transport("tls://9.9.9.9#dns.quad9.net").unwrap();
        assert_eq!(address, "9.9.9.9:853");
        assert!(matches!(tls, UpstreamTransport::Tls(name) if name.to_str() == "dns.quad9.net"));
        for wrong in ["", "dns.example", "udp://9.9.9.9#name", "https://9.9.9.9", "tls://9.9.9.9#not a name", "9.9.9.9:x"] {
            assert!(parse_upstream(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_system_is_asked_but_never_ourselves() {
        let own = [SocketAddr::from(([127, 0, 0, 1], 53))];
        let text = "# a comment\nsearch example\nnameserver 127.0.0.1\nnameserver 192.0.2.53\nnameserver nonsense\nnameserver";
        let found: Vec<_> = system_upstreams(text, &own).into_iter().map(|upstream| upstream.address.to_string()).collect();
        assert_eq!(found, ["192.0.2.53:53"]);
        let public: Vec<_> = system_upstreams("", &own).into_iter().map(|upstream| upstream.address.ip()).collect();
        assert_eq!(public, PUBLIC_RESOLVERS);
    }

    #[test]
    fn settings_that_cannot_be_meant_are_refused() {
        let page = DnsGateSpec { block_mode: BlockMode::Page, ..DnsGateSpec::default() };
        assert!(matches!(DnsGateConfig::resolve(page), Err(Error::NoBlockPage)));
        let hasty = DnsGateSpec { upstream_deadline_ms: 1, ..DnsGateSpec::default() };
        assert!(matches!(DnsGateConfig::resolve(hasty), Err(Error::OutOfBounds { setting: "upstream_deadline_ms", .. })));
        assert!(toml::from_str::<DnsGateSpec>("upstream = []").is_err());
        assert_eq!(toml::from_str::<DnsGateSpec>("").unwrap().udp, DnsGateSpec::default().udp);
    }
}
