//! The settings of the web gate: as written (`WebGateSpec`) and as used (`WebGateConfig`, which holds only valid states).
//! Each bound says where it comes from. The logo and the PAC file are read here.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use net::mint::LeafHost;
use serde::{Deserialize, Serialize};

use crate::Error;

/// AV-03: the largest limit that is documented for the reference service.
const FILE_BYTES_DEFAULT: u64 = 100 << 20;
/// A file as large as this takes longer to scan than any client waits.
const FILE_BYTES_MAX: u64 = 4 << 30;
/// A hundred clients at once hold a hundred of these in memory.
const HOLD_BYTES_DEFAULT: u64 = 1 << 20;
const HOLD_BYTES_MAX: u64 = 64 << 20;
/// Two descriptors a connection, from a usual limit of 65,536 with room for the other gates.
const CONNECTIONS_DEFAULT: usize = 16_384;
/// Browsers wait for a minute or longer for an answer; command line clients for five.
const RESPONSE_SECONDS_DEFAULT: u64 = 120;
/// Idle connections of browsers last five minutes at most; servers close at about one.
const HEADER_SECONDS_DEFAULT: u64 = 60;
/// A peer that sends nothing for this long within a body has gone.
const BODY_IDLE_SECONDS_DEFAULT: u64 = 60;
/// Tunnels of push channels are silent for up to fifteen minutes.
const TUNNEL_IDLE_SECONDS_DEFAULT: u64 = 1200;
/// A client that has connected speaks at once; slow radio links need a few seconds.
const HANDSHAKE_SECONDS_DEFAULT: u64 = 10;
/// Long downloads may end in this time after the gate was told to stop.
const DRAIN_SECONDS_DEFAULT: u64 = 30;
/// One slice of a trickled download.
const TRICKLE_BYTES_DEFAULT: u64 = 1024;
/// Clients give up after thirty seconds of silence or longer.
const TRICKLE_SECONDS_DEFAULT: u64 = 2;
/// A page that takes longer than this begins to trickle even though it is small.
const HOLD_SECONDS_DEFAULT: u64 = 5;
/// All spool files together.
const SPOOL_BYTES_DEFAULT: u64 = 8 << 30;
/// The logo stands in every page, so it is small.
const LOGO_BYTES_MAX: usize = 64 << 10;
/// Firefox reads PAC files up to this size.
const PAC_BYTES_MAX: usize = 1 << 20;
/// The longest setting in seconds, a day, so that no sum of durations overflows.
const SECONDS_MAX: u64 = 86_400;

/// What a client sees when a file that it had not begun to receive is malicious.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnHit {
    /// The connection is reset and the browser shows a failed download (AV-06).
    #[default]
    Reset,
    /// Where nothing was sent, the block page. Some clients save the page under the file's name.
    Page,
}

/// What happens where the server name in the hello, or the Host of a request, is not the host of the tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFronting {
    /// Domain fronting hides the true destination from the policy.
    #[default]
    Refuse,
    /// The name in the hello is what policy and certificate check look at.
    Record,
}

/// Settings as written in the configuration file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebGateSpec {
    /// Address of the explicit proxy.
    pub proxy: Option<SocketAddr>,
    /// Address of the explicit proxy to which clients speak TLS.
    pub proxy_tls: Option<SocketAddr>,
    /// Names by which clients know that listener; they stand in its certificate, beside its address.
    pub proxy_names: Vec<String>,
    /// A PEM file of authorities. A client that shows a certificate of theirs is the user who has its fingerprint.
    pub client_authorities: Option<PathBuf>,
    /// Address of the SOCKS5 listener.
    pub socks5: Option<SocketAddr>,
    /// Address to which connections are redirected (TPROXY or REDIRECT).
    pub transparent: Option<SocketAddr>,
    /// Name of the proxy endpoint, the `proxy.endpoint` fact.
    pub endpoint: String,
    /// Whether a client that proves no identity is refused with 407.
    pub require_credentials: bool,
    /// Networks whose clients may use the gate; none is any (ON-05). Behind a balancer it is the client's own address.
    pub clients_from: Vec<IpNet>,
    /// Networks of balancers whose PROXY header is believed.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Domains that the PAC file sends past the proxy.
    pub pac_direct: Vec<String>,
    /// A PAC file of your own, served in place of the one that the gate writes (ON-06).
    pub pac_file: Option<PathBuf>,
    /// Whether hosts of applications that pin their certificates are left alone.
    pub leave_pinned_alone: bool,
    pub on_fronting: OnFronting,
    pub brand: BrandSpec,
    pub scan: ScanSpec,
    pub limits: LimitsSpec,
}

/// The operator's words on pages (GW-150).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrandSpec {
    pub name: String,
    /// A line above the reason.
    pub header: String,
    /// The last line; empty for none.
    pub footer: String,
    /// An image file: PNG, JPEG, GIF or WebP. It becomes a part of the page.
    pub logo: Option<PathBuf>,
    /// `#rrggbb`.
    pub background_color: Option<String>,
    /// The operator's mailbox, for a link that opens a letter with what was refused (GW-153).
    pub mailto_address: Option<String>,
    pub mailto_subject: String,
    /// Where refused clients are sent in place of the page; a rule's own redirect comes first.
    pub redirect_uri: Option<String>,
    /// Whether that target is told of the event, as a token that only `sekisho reference` can open (GW-156).
    pub include_context: bool,
}

/// What is scanned and how bodies are held. Whether a body that cannot be scanned passes is the checkpoint's setting.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScanSpec {
    pub downloads: bool,
    pub uploads: bool,
    /// Bodies up to this size are held whole, in memory.
    pub hold_bytes: u64,
    /// A body that is not whole after this time begins to trickle.
    pub hold_seconds: u64,
    /// Larger bodies are not scanned (AV-03).
    pub file_bytes_max: u64,
    pub trickle_bytes: u64,
    pub trickle_seconds: u64,
    pub on_hit: OnHit,
    /// Where spool files lie; the system's temporary directory where it is not given.
    pub spool_directory: Option<PathBuf>,
    pub spool_bytes_max: u64,
}

/// Bounds on waiting and on numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsSpec {
    pub connections_max: usize,
    pub handshake_seconds: u64,
    pub header_seconds: u64,
    pub body_idle_seconds: u64,
    pub response_seconds: u64,
    pub tunnel_idle_seconds: u64,
    pub drain_seconds: u64,
}

/// Settings as used.
#[derive(Clone, Debug)]
pub struct WebGateConfig {
    pub(crate) proxy: Option<SocketAddr>,
    pub(crate) proxy_tls: Option<SocketAddr>,
    pub(crate) proxy_names: Vec<LeafHost>,
    pub(crate) socks5: Option<SocketAddr>,
    pub(crate) transparent: Option<SocketAddr>,
    pub(crate) endpoint: String,
    pub(crate) require_credentials: bool,
    pub(crate) clients_from: Vec<IpNet>,
    pub(crate) proxy_protocol_from: Vec<IpNet>,
    pub(crate) pac_direct: Vec<String>,
    pub(crate) pac_file: Option<bytes::Bytes>,
    pub(crate) leave_pinned_alone: bool,
    pub(crate) on_fronting: OnFronting,
    pub(crate) brand: crate::page::Brand,
    pub(crate) scan: ScanConfig,
    pub(crate) connections_max: usize,
    pub(crate) handshake: Duration,
    pub(crate) header: Duration,
    pub(crate) body_idle: Duration,
    pub(crate) response: Duration,
    pub(crate) tunnel_idle: Duration,
    pub(crate) drain: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct ScanConfig {
    pub(crate) downloads: bool,
    pub(crate) uploads: bool,
    pub(crate) hold_bytes: u64,
    pub(crate) hold: Duration,
    pub(crate) file_bytes_max: u64,
    pub(crate) trickle_bytes: u64,
    pub(crate) trickle: Duration,
    pub(crate) on_hit: OnHit,
    pub(crate) spool_directory: PathBuf,
    pub(crate) spool_bytes_max: u64,
}

impl Default for WebGateSpec {
    fn default() -> WebGateSpec {
        WebGateSpec {
            proxy: Some(SocketAddr::from(([127, 0, 0, 1], 8080))),
            proxy_tls: None,
            proxy_names: vec!["localhost".to_string()],
            client_authorities: None,
            socks5: Some(SocketAddr::from(([127, 0, 0, 1], 1080))),
            transparent: None,
            endpoint: "default".to_string(),
            require_credentials: false,
            clients_from: Vec::new(),
            proxy_protocol_from: Vec::new(),
            pac_direct: Vec::new(),
            pac_file: None,
            leave_pinned_alone: true,
            on_fronting: OnFronting::default(),
            brand: BrandSpec::default(),
            scan: ScanSpec::default(),
            limits: LimitsSpec::default(),
        }
    }
}

impl Default for BrandSpec {
    fn default() -> BrandSpec {
        BrandSpec {
            name: "Sekisho".to_string(),
            header: String::new(),
            footer: "If you think that this is wrong, tell your administrator the reference.".to_string(),
            logo: None,
            background_color: None,
            mailto_address: None,
            mailto_subject: "Blocked page".to_string(),
            redirect_uri: None,
            include_context: false,
        }
    }
}

impl Default for ScanSpec {
    fn default() -> ScanSpec {
        ScanSpec {
            downloads: true,
            uploads: true,
            hold_bytes: HOLD_BYTES_DEFAULT,
            hold_seconds: HOLD_SECONDS_DEFAULT,
            file_bytes_max: FILE_BYTES_DEFAULT,
            trickle_bytes: TRICKLE_BYTES_DEFAULT,
            trickle_seconds: TRICKLE_SECONDS_DEFAULT,
            on_hit: OnHit::default(),
            spool_directory: None,
            spool_bytes_max: SPOOL_BYTES_DEFAULT,
        }
    }
}

impl Default for LimitsSpec {
    fn default() -> LimitsSpec {
        LimitsSpec {
            connections_max: CONNECTIONS_DEFAULT,
            handshake_seconds: HANDSHAKE_SECONDS_DEFAULT,
            header_seconds: HEADER_SECONDS_DEFAULT,
            body_idle_seconds: BODY_IDLE_SECONDS_DEFAULT,
            response_seconds: RESPONSE_SECONDS_DEFAULT,
            tunnel_idle_seconds: TUNNEL_IDLE_SECONDS_DEFAULT,
            drain_seconds: DRAIN_SECONDS_DEFAULT,
        }
    }
}

impl WebGateConfig {
    /// Checks the settings. The error names the setting and what it may be.
    pub fn resolve(spec: WebGateSpec) -> Result<WebGateConfig, Error> {
        if spec.proxy.is_none() && spec.proxy_tls.is_none() && spec.socks5.is_none() && spec.transparent.is_none() {
            return Err(Error::Setting { name: "proxy", reason: "at least one listener is needed" });
        }
        within("limits.connections_max", spec.limits.connections_max as u64, 1, 1 << 20)?;
        let mut pac_direct = Vec::with_capacity(spec.pac_direct.len());
        for domain in &spec.pac_direct {
            pac_direct.push(pac_domain(domain)?);
        }
        let names = spec.proxy_names.iter().map(|name| LeafHost::parse(name));
        let proxy_names = names.collect::<Result<Vec<_>, _>>();
        let proxy_names =
            proxy_names.map_err(|_| Error::Setting { name: "proxy_names", reason: "a name is neither a host nor an address" })?;
        if spec.client_authorities.is_some() && spec.proxy_tls.is_none() {
            return Err(Error::Setting { name: "client_authorities", reason: "certificates are asked for on `proxy_tls` alone" });
        }
        let limits = &spec.limits;
        Ok(WebGateConfig {
            proxy: spec.proxy,
            proxy_tls: spec.proxy_tls,
            proxy_names,
            socks5: spec.socks5,
            transparent: spec.transparent,
            endpoint: spec.endpoint,
            require_credentials: spec.require_credentials,
            clients_from: spec.clients_from,
            proxy_protocol_from: spec.proxy_protocol_from,
            pac_direct,
            pac_file: spec.pac_file.map(|path| pac_file(&path)).transpose()?,
            leave_pinned_alone: spec.leave_pinned_alone,
            on_fronting: spec.on_fronting,
            brand: brand(spec.brand)?,
            scan: ScanConfig::resolve(spec.scan)?,
            connections_max: limits.connections_max,
            handshake: seconds("limits.handshake_seconds", limits.handshake_seconds)?,
            header: seconds("limits.header_seconds", limits.header_seconds)?,
            body_idle: seconds("limits.body_idle_seconds", limits.body_idle_seconds)?,
            response: seconds("limits.response_seconds", limits.response_seconds)?,
            tunnel_idle: seconds("limits.tunnel_idle_seconds", limits.tunnel_idle_seconds)?,
            drain: seconds("limits.drain_seconds", limits.drain_seconds)?,
        })
    }
}

impl ScanConfig {
    fn resolve(spec: ScanSpec) -> Result<ScanConfig, Error> {
        within("scan.hold_bytes", spec.hold_bytes, 1024, HOLD_BYTES_MAX)?;
        within("scan.file_bytes_max", spec.file_bytes_max, spec.hold_bytes, FILE_BYTES_MAX)?;
        within("scan.trickle_bytes", spec.trickle_bytes, 1, spec.hold_bytes / 2)?;
        Ok(ScanConfig {
            downloads: spec.downloads,
            uploads: spec.uploads,
            hold_bytes: spec.hold_bytes,
            hold: seconds("scan.hold_seconds", spec.hold_seconds)?,
            file_bytes_max: spec.file_bytes_max,
            trickle_bytes: spec.trickle_bytes,
            trickle: seconds("scan.trickle_seconds", spec.trickle_seconds)?,
            on_hit: spec.on_hit,
            spool_directory: spec.spool_directory.unwrap_or_else(std::env::temp_dir),
            spool_bytes_max: spec.spool_bytes_max,
        })
    }
}

/// Checks every part that becomes markup, style or a link.
fn brand(spec: BrandSpec) -> Result<crate::page::Brand, Error> {
    let refuse = |name, reason| Error::Setting { name, reason };
    let is_colour = |text: &String| {
        text.strip_prefix('#')
            .is_some_and(|digits| [3, 6].contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    if spec.background_color.as_ref().is_some_and(|colour| !is_colour(colour)) {
        return Err(refuse("brand.background_color", "not a colour such as #f3f1ec"));
    }
    let is_address = |text: &String| {
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_+@".contains(&byte));
        plain && text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty() && !host.contains('@'))
    };
    if spec.mailto_address.as_ref().is_some_and(|address| !is_address(address)) {
        return Err(refuse("brand.mailto_address", "not an address such as help@example.com"));
    }
    let is_target = |uri: &String| {
        let rest = ["https://", "http://"].iter().find_map(|scheme| uri.strip_prefix(scheme));
        rest.is_some_and(|rest| !rest.is_empty()) && uri.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if spec.redirect_uri.as_ref().is_some_and(|uri| !is_target(uri)) {
        return Err(refuse("brand.redirect_uri", "not an absolute http or https URL"));
    }
    Ok(crate::page::Brand {
        name: spec.name,
        header: spec.header,
        footer: spec.footer,
        logo: spec.logo.map(|path| logo(&path)).transpose()?,
        background: spec.background_color,
        mail_address: spec.mailto_address,
        mail_subject: spec.mailto_subject,
        redirect: spec.redirect_uri.map(|uri| (uri, spec.include_context)),
    })
}

/// The operator's own script, as it is.
fn pac_file(path: &std::path::Path) -> Result<bytes::Bytes, Error> {
    let refuse = |reason| Error::Setting { name: "pac_file", reason };
    let script = std::fs::read(path).map_err(|_| refuse("the file cannot be read"))?;
    match script.len() {
        length if length > PAC_BYTES_MAX => Err(refuse("larger than 1 MiB")),
        _ if !String::from_utf8_lossy(&script).contains("FindProxyForURL") => Err(refuse("it has no function FindProxyForURL")),
        _ => Ok(script.into()),
    }
}

/// An image as a `data:` URL. Formats that may hold scripts are not among those accepted.
fn logo(path: &std::path::Path) -> Result<String, Error> {
    use base64::Engine;
    let refuse = |reason| Error::Setting { name: "brand.logo", reason };
    let bytes = std::fs::read(path).map_err(|_| refuse("the file cannot be read"))?;
    if bytes.len() > LOGO_BYTES_MAX {
        return Err(refuse("larger than 64 KiB"));
    }
    let kinds: [(&[u8], &str); 4] = [(b"\x89PNG\r\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"), (b"RIFF", "webp")];
    let kind = kinds.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, kind)| *kind);
    let kind = kind.ok_or_else(|| refuse("neither PNG, JPEG, GIF nor WebP"))?;
    Ok(format!("data:image/{kind};base64,{}", base64::engine::general_purpose::STANDARD.encode(bytes)))
}

fn within(name: &'static str, value: u64, least: u64, most: u64) -> Result<(), Error> {
    match value {
        value if value < least => Err(Error::Setting { name, reason: "too small" }),
        value if value > most => Err(Error::Setting { name, reason: "too large" }),
        _ => Ok(()),
    }
}

fn seconds(name: &'static str, value: u64) -> Result<Duration, Error> {
    within(name, value, 1, SECONDS_MAX)?;
    Ok(Duration::from_secs(value))
}

/// A domain that may stand in a script: letters, digits, hyphens and dots only.
fn pac_domain(domain: &str) -> Result<String, Error> {
    let name = model::name::canonical(domain).unwrap_or_default();
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.');
    match is_plain && !name.is_empty() {
        true => Ok(name),
        false => Err(Error::Setting { name: "pac_direct", reason: "not a domain name" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        let named = |change: fn(&mut WebGateSpec)| {
            let mut spec = WebGateSpec::default();
            change(&mut spec);
            match WebGateConfig::resolve(spec) {
                Err(Error::Setting { name, .. }) => name,
                _ => "accepted",
            }
        };
        assert_eq!(named(|_| ()), "accepted");
        assert_eq!(named(|s| (s.proxy, s.socks5) = (None, None)), "proxy");
        assert_eq!(named(|s| s.proxy_names = vec!["a b".into()]), "proxy_names");
        assert_eq!(named(|s| s.client_authorities = Some("ca.pem".into())), "client_authorities");
        assert_eq!(named(|s| s.scan.hold_bytes = 0), "scan.hold_bytes");
        assert_eq!(named(|s| s.scan.file_bytes_max = 1), "scan.file_bytes_max");
        assert_eq!(named(|s| s.limits.header_seconds = 0), "limits.header_seconds");
        assert_eq!(named(|s| s.brand.background_color = Some("red;}".into())), "brand.background_color");
        assert_eq!(named(|s| s.brand.mailto_address = Some("a@b?bcc=c".into())), "brand.mailto_address");
        assert_eq!(named(|s| s.brand.redirect_uri = Some("javascript:x".into())), "brand.redirect_uri");
        assert_eq!(named(|s| s.pac_file = Some("/nowhere.pac".into())), "pac_file");
        assert_eq!(named(|s| s.brand.logo = Some("/nowhere.svg".into())), "brand.logo");
        assert_eq!(named(|s| s.pac_direct = vec!["a\"); alert(1)//".into()]), "pac_direct");
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(toml::from_str::<WebGateSpec>("proxi = \"127.0.0.1:1\"").is_err());
        assert!(toml::from_str::<WebGateSpec>("[scan]\non_hit = \"page\"").is_ok());
    }
}
