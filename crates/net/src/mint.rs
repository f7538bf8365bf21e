//! Leaves for intercepted hosts. One P-256 key serves all leaves of the process; a leaf is made once per host and kept
//! until half of its life is over. What to mint for is decided elsewhere, and only after the upstream has been verified.
//! Names follow RFC 9525: the host is in the subject alternative name, as a DNS name or an address.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use moka::sync::Cache;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::{ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};

use crate::Error;
use crate::authority::{Authority, COMMON_NAME_CHARACTERS_MAX, SigningAuthority, date};

/// Distinct hosts of a busy network in half a day; one entry is about 4 KiB.
const LEAVES_MAX: u64 = 20_000;
/// Far below the 398 days that browsers accept, and long enough to ride over a stopped clock.
const LEAF_VALIDITY: Duration = Duration::from_secs(14 * 86_400);
/// Clients' clocks are often hours behind.
const LEAF_BACKDATE: Duration = Duration::from_secs(24 * 3600);
/// Half of the leaf's life: what the cache serves is never near its end.
const LEAF_CACHED_FOR: Duration = Duration::from_secs(7 * 86_400);

static UP_TO_TLS12: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS12];
static UP_TO_TLS13: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

/// The application protocols that are offered on one leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    None,
    Http1,
    Http2,
    Http2AndHttp1,
}

/// The newest TLS version on the client's leg; never newer than the upstream's, so that the browser shows no better than
/// there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VersionCeiling {
    Tls12,
    Tls13,
}

/// Names that one listener of our own may have.
pub const LISTENER_NAMES_MAX: usize = 32;

/// The host as it is put into the certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LeafHost {
    Name(Arc<str>),
    Address(IpAddr),
}

/// Makes and keeps the server side of intercepted connections.
pub struct Minter {
    authority: Arc<Authority>,
    provider: Arc<CryptoProvider>,
    tickets: Arc<dyn ProducesTickets>,
    leaf_key: KeyPair,
    signing_key: Arc<dyn SigningKey>,
    leaf_key_sha256: [u8; 32],
    configs: Cache<LeafKey, Arc<ServerConfig>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct LeafKey {
    authority: [u8; 32],
    host: LeafHost,
    alpn: Alpn,
    ceiling: VersionCeiling,
}

impl Alpn {
    pub fn protocols(self) -> Vec<Vec<u8>> {
        let names: &[&[u8]] = match self {
            Alpn::None => &[],
            Alpn::Http1 => &[b"http/1.1"],
            Alpn::Http2 => &[b"h2"],
            Alpn::Http2AndHttp1 => &[b"h2", b"http/1.1"],
        };
        names.iter().map(|name| name.to_vec()).collect()
    }
}

impl VersionCeiling {
    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            VersionCeiling::Tls12 => &UP_TO_TLS12,
            VersionCeiling::Tls13 => &UP_TO_TLS13,
        }
    }
}

impl LeafHost {
    /// Accepts what TLS can name: a DNS name (lower-cased, without the final dot) or an address. Never a wildcard.
    pub fn parse(host: &str) -> Result<LeafHost, Error> {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(LeafHost::Address(address));
        }
        let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        match ServerName::try_from(name.as_str()) {
            Ok(ServerName::DnsName(_)) => Ok(LeafHost::Name(name.into())),
            _ => Err(Error::HostName),
        }
    }

    pub fn server_name(&self) -> Result<ServerName<'static>, Error> {
        match self {
            LeafHost::Name(name) => ServerName::try_from(name.to_string()).map_err(|_| Error::HostName),
            LeafHost::Address(address) => Ok(ServerName::from(*address)),
        }
    }
}

impl Minter {
    pub fn new(authority: Arc<Authority>) -> Result<Minter, Error> {
        let leaf_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
        let signing_key = aws_lc_rs::sign::any_supported_type(&private)?;
        Ok(Minter {
            authority,
            provider: Arc::new(aws_lc_rs::default_provider()),
            tickets: aws_lc_rs::Ticketer::new()?,
            leaf_key_sha256: public_key_sha256(&leaf_key),
            leaf_key,
            signing_key,
            configs: Cache::builder().max_capacity(LEAVES_MAX).time_to_live(LEAF_CACHED_FOR).build(),
        })
    }

    /// Digest of the public key in every leaf; an upstream that shows it is this process itself.
    pub fn leaf_key_sha256(&self) -> [u8; 32] {
        self.leaf_key_sha256
    }

    /// The server side for one host. Concurrent callers for one host share one minting.
    pub fn server_config(
        &self,
        host: &LeafHost,
        alpn: Alpn,
        ceiling: VersionCeiling,
        now: SystemTime,
    ) -> Result<Arc<ServerConfig>, Error> {
        let authority = self.authority.signing();
        let key = LeafKey { authority: authority.certificate().fingerprint, host: host.clone(), alpn, ceiling };
        let made = self.configs.try_get_with(key, || self.make(&authority, host, alpn, ceiling, now).map(Arc::new));
        made.map_err(Error::Leaf)
    }

    /// The server side of a listener of our own: its leaf holds all the names by which clients know it, and is made anew when
    /// half of its life is over or another authority signs. `clients` says which certificates clients must or may show.
    pub fn listener_config(
        self: &Arc<Self>,
        names: Vec<LeafHost>,
        alpn: Alpn,
        clients: Option<Arc<dyn ClientCertVerifier>>,
        now: SystemTime,
    ) -> Result<ServerConfig, Error> {
        if names.is_empty() || names.len() > LISTENER_NAMES_MAX {
            return Err(Error::HostName);
        }
        let renewing = Renewing { minter: Arc::clone(self), names, kept: ArcSwapOption::empty() };
        renewing.leaf(now)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(VersionCeiling::Tls13.versions())?;
        let builder = match clients {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(renewing));
        config.alpn_protocols = alpn.protocols();
        config.ticketer = Arc::clone(&self.tickets);
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(config)
    }

    fn make(
        &self,
        authority: &SigningAuthority,
        host: &LeafHost,
        alpn: Alpn,
        ceiling: VersionCeiling,
        now: SystemTime,
    ) -> Result<ServerConfig, Error> {
        let leaf = authority.sign(&leaf_params(host, authority.certificate().not_after, now), &self.leaf_key)?;
        let chain = vec![leaf.into(), authority.certificate().der.clone()];
        let certified = CertifiedKey::new(chain, Arc::clone(&self.signing_key));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(ceiling.versions())?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = alpn.protocols();
        config.ticketer = Arc::clone(&self.tickets);
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(config)
    }
}

/// The leaf of a listener of our own, renewed by itself.
struct Renewing {
    minter: Arc<Minter>,
    names: Vec<LeafHost>,
    kept: ArcSwapOption<Kept>,
}

struct Kept {
    authority: [u8; 32],
    renew_at: SystemTime,
    leaf: Arc<CertifiedKey>,
}

impl std::fmt::Debug for Renewing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Renewing").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Renewing {
    fn leaf(&self, now: SystemTime) -> Result<Arc<CertifiedKey>, Error> {
        let authority = self.minter.authority.signing();
        let fingerprint = authority.certificate().fingerprint;
        if let Some(kept) = &*self.kept.load()
            && kept.authority == fingerprint
            && now < kept.renew_at
        {
            return Ok(Arc::clone(&kept.leaf));
        }
        let first = self.names.first().ok_or(Error::HostName)?;
        let mut params = leaf_params(first, authority.certificate().not_after, now);
        params.subject_alt_names = self.names.iter().filter_map(leaf_name).collect();
        let leaf = authority.sign(&params, &self.minter.leaf_key)?;
        let chain = vec![leaf.into(), authority.certificate().der.clone()];
        let leaf = Arc::new(CertifiedKey::new(chain, Arc::clone(&self.minter.signing_key)));
        let kept = Kept { authority: fingerprint, renew_at: now + LEAF_CACHED_FOR, leaf: Arc::clone(&leaf) };
        self.kept.store(Some(Arc::new(kept)));
        Ok(leaf)
    }
}

impl ResolvesServerCert for Renewing {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // A leaf that cannot be made anew is served as long as there is one.
        self.leaf(SystemTime::now()).ok().or_else(|| self.kept.load().as_ref().map(|kept| Arc::clone(&kept.leaf)))
    }
}

fn leaf_params(host: &LeafHost, authority_ends: SystemTime, now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date(now - LEAF_BACKDATE);
    params.not_after = date((now + LEAF_VALIDITY).min(authority_ends));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, leaf_common_name(host));
    params.subject_alt_names = leaf_name(host).into_iter().collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

fn leaf_name(host: &LeafHost) -> Option<SanType> {
    match host {
        LeafHost::Name(name) => name.as_ref().try_into().ok().map(SanType::DnsName),
        LeafHost::Address(address) => Some(SanType::IpAddress(*address)),
    }
}

/// A cut name could be another host's, so a long one is not cut but left out.
fn leaf_common_name(host: &LeafHost) -> String {
    match host {
        LeafHost::Name(name) if name.len() <= COMMON_NAME_CHARACTERS_MAX => name.to_string(),
        LeafHost::Name(_) => "Sekisho leaf".to_owned(),
        LeafHost::Address(address) => address.to_string(),
    }
}

fn public_key_sha256(key: &KeyPair) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    Sha256::digest(rcgen::PublicKeyData::subject_public_key_info(key)).into()
}

#[cfg(test)]
mod tests;
