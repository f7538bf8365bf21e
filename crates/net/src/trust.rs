//! Which upstream certificates are believed. Path building and signatures are rustls-webpki's (RFC 5280, RFC 9525); this
//! module adds what a trust anchor cannot say: roots end, some roots hold only for some destinations (CX-03), the
//! installation's own authority never vouches for an upstream, and keys that the public knows are no keys. It fetches
//! nothing: revocation lists are handed to it.

mod key;
mod leaf;
mod problem;
mod root;
mod verifier;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use moka::sync::Cache;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use sha2::{Digest, Sha256};

use crate::Error;
use crate::authority::{AuthorityCertificate, unix_seconds};
use crate::mint::{Alpn, LeafHost};

use root::ListIssuers;

pub use problem::CertificateProblem;
pub use verifier::{DangerAcceptAny, Verifier};

/// Profiles times protocols times handlings of a large installation; each entry holds one session cache.
const CLIENT_CONFIGS_MAX: u64 = 1024;

/// SHA-256 of the subject public keys of authorities whose private keys anyone can download.
const KNOWN_KEY_AUTHORITIES: [(&str, &str); 6] = [
    ("Superfish, Inc.", "4bb8f35ba1e126f8dde1b0c420625ed86dce61a7bddadbdea9aba578ff13145e"),
    ("eDellRoot", "cdee9f3305572a677e1a6c82dc1e02a35b11cae6a684338c9f37fe1ac8daec23"),
    ("DSDTestProvider", "130ad4e0633521290531b6651f5759b0bc7bc656709ff8f365c2143b0389b6f6"),
    ("BadSSL MITM Software Test", "9d40513f43991af39fe413aff7608fc56463827137166547de0a1828d524ae98"),
    ("preact-cli (Acme Co)", "680971cb44b0fd56592102a256e85c58e87109ad8044c2b90d8f3c6e9eeab897"),
    ("webpack-dev-server (localhost)", "2bd1e667ec9ebbe02b9a7da264210c99b3eac1cc9141a0e30e3f623eaccec4e1"),
];

/// What the operator has chosen. Every choice that weakens the check has `danger` in its name.
#[derive(Clone, Default)]
pub struct TrustSettings {
    /// Roots for every destination, usually [`mozilla_roots`]. Where there are none, nothing is believed.
    pub roots: Vec<CertificateDer<'static>>,
    /// Roots that hold for one domain and its subdomains, in addition (CX-03).
    pub destinations: Vec<DestinationRoots>,
    pub revocation_lists: Vec<CertificateRevocationListDer<'static>>,
    pub stale_revocation_list: StaleRevocationList,
    /// This installation's authorities, the current, the next and the retired ones.
    pub own_authorities: Vec<AuthorityCertificate>,
    /// The public key of minted leaves.
    pub own_leaf_key_sha256: Option<[u8; 32]>,
}

#[derive(Clone)]
pub struct DestinationRoots {
    pub domain: Arc<str>,
    pub roots: Vec<CertificateDer<'static>>,
}

/// What a revocation list past its next update is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StaleRevocationList {
    #[default]
    Refuse,
    DangerUse,
}

/// Whether an unacceptable certificate ends the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CertificateHandling {
    Refuse,
    /// GW-031 `pass_through`: the handshake goes on and the problem is only reported.
    DangerPassThrough,
}

/// The public keys and names that never vouch for an upstream.
#[derive(Debug, Default)]
pub struct Distrusted {
    own_keys: HashSet<[u8; 32]>,
    own_subjects: HashSet<Vec<u8>>,
    known_keys: HashSet<[u8; 32]>,
}

/// The settings, compiled. Rebuilt by itself when a root begins or ends.
pub struct Trust {
    provider: Arc<CryptoProvider>,
    built: ArcSwap<Built>,
}

/// Settings that were compiled, and are not in use.
pub struct PreparedTrust(Built);

struct Built {
    settings: Arc<TrustSettings>,
    distrusted: Arc<Distrusted>,
    /// The first moment at which a root begins or ends, in Unix seconds.
    valid_until: i64,
    /// One verifier for every destination's own roots, in order, and the common one last.
    profiles: Vec<(Option<Arc<str>>, Arc<Verifier>)>,
    configs: Cache<(usize, Alpn, CertificateHandling), Arc<ClientConfig>>,
}

/// Mozilla's roots as compiled in, whole, so that their dates can be read.
pub fn mozilla_roots() -> Vec<CertificateDer<'static>> {
    webpki_root_certs::TLS_SERVER_ROOT_CERTS.to_vec()
}

impl Trust {
    pub fn new(settings: TrustSettings, now: SystemTime) -> Result<Trust, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let distrusted = Arc::new(Distrusted::new(&settings)?);
        let built = Built::new(Arc::new(settings), &provider, distrusted, now)?;
        Ok(Trust { provider, built: ArcSwap::from_pointee(built) })
    }

    /// Compiles other settings: new revocation lists, an authority of our own that was made since. Nothing is used yet.
    pub fn prepare(&self, settings: TrustSettings, now: SystemTime) -> Result<PreparedTrust, Error> {
        let distrusted = Arc::new(Distrusted::new(&settings)?);
        Ok(PreparedTrust(Built::new(Arc::new(settings), &self.provider, distrusted, now)?))
    }

    /// Puts compiled settings to use.
    pub fn publish(&self, prepared: PreparedTrust) {
        self.built.store(Arc::new(prepared.0));
    }

    /// The client side for one host. The same object comes back for the same destination and protocols, so that sessions
    /// can be resumed.
    pub fn client_config(
        &self,
        host: &LeafHost,
        alpn: Alpn,
        handling: CertificateHandling,
        now: SystemTime,
    ) -> Result<Arc<ClientConfig>, Error> {
        let built = self.built(now)?;
        let profile = built.profile(host);
        let verifier = built.verifier(profile)?;
        let config = built.configs.try_get_with((profile, alpn, handling), || {
            client_config(Arc::clone(&self.provider), verifier, alpn, handling).map(Arc::new)
        });
        config.map_err(|error: Arc<rustls::Error>| Error::Tls((*error).clone()))
    }

    /// The verifier that holds for a host.
    pub fn verifier(&self, host: &LeafHost, now: SystemTime) -> Result<Arc<Verifier>, Error> {
        let built = self.built(now)?;
        built.verifier(built.profile(host))
    }

    fn built(&self, now: SystemTime) -> Result<Arc<Built>, Error> {
        let built = self.built.load_full();
        if unix_seconds(now) < built.valid_until {
            return Ok(built);
        }
        let (settings, distrusted) = (Arc::clone(&built.settings), Arc::clone(&built.distrusted));
        let fresh = Arc::new(Built::new(settings, &self.provider, distrusted, now)?);
        self.built.store(Arc::clone(&fresh));
        Ok(fresh)
    }
}

fn client_config(
    provider: Arc<CryptoProvider>,
    verifier: Arc<Verifier>,
    alpn: Alpn,
    handling: CertificateHandling,
) -> Result<ClientConfig, rustls::Error> {
    let verifier: Arc<dyn ServerCertVerifier> = match handling {
        CertificateHandling::Refuse => verifier,
        CertificateHandling::DangerPassThrough => Arc::new(DangerAcceptAny::new(verifier)),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = alpn.protocols();
    Ok(config)
}

impl Built {
    fn new(
        settings: Arc<TrustSettings>,
        provider: &Arc<CryptoProvider>,
        distrusted: Arc<Distrusted>,
        now: SystemTime,
    ) -> Result<Built, Error> {
        let now = unix_seconds(now);
        let mut valid_until = i64::MAX;
        let list_issuers = ListIssuers::of(&settings.revocation_lists).map_err(unusable)?;
        let mut profiles = Vec::with_capacity(settings.destinations.len() + 1);
        let own_roots = settings.destinations.iter().map(|own| (Some(&own.domain), own.roots.as_slice()));
        for (domain, extra) in own_roots.chain([(None, [].as_slice())]) {
            let mut store = RootCertStore::empty();
            for root in settings.roots.iter().chain(extra) {
                valid_until = valid_until.min(add_root(&mut store, root, &distrusted, &list_issuers, now)?);
            }
            let verifier = Verifier::new(
                store,
                settings.revocation_lists.clone(),
                settings.stale_revocation_list,
                Arc::clone(&distrusted),
                Arc::clone(provider),
            )?;
            profiles.push((domain.cloned(), Arc::new(verifier)));
        }
        Ok(Built { settings, distrusted, valid_until, profiles, configs: Cache::new(CLIENT_CONFIGS_MAX) })
    }

    fn profile(&self, host: &LeafHost) -> usize {
        let matches = |domain: &Option<Arc<str>>| domain.as_ref().is_none_or(|domain| is_within(host, domain));
        self.profiles.iter().position(|(domain, _)| matches(domain)).unwrap_or(self.profiles.len())
    }

    fn verifier(&self, profile: usize) -> Result<Arc<Verifier>, Error> {
        let found = self.profiles.get(profile).map(|(_, verifier)| Arc::clone(verifier));
        found.ok_or_else(|| unusable("no verifier for this host"))
    }
}

/// Adds a root that is valid at `now` and not distrusted; returns the next moment at which this answer changes.
fn add_root(
    store: &mut RootCertStore,
    root: &CertificateDer<'static>,
    distrusted: &Distrusted,
    list_issuers: &ListIssuers,
    now: i64,
) -> Result<i64, Error> {
    let unreadable = "a root certificate cannot be read";
    let (_, parsed) = x509_parser::parse_x509_certificate(root).map_err(|_| unusable(unreadable))?;
    root::check_root(&parsed, list_issuers).map_err(unusable)?;
    let (from, until) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
    if distrusted.problem_of_key(parsed.public_key().raw).is_some() || until < now {
        return Ok(i64::MAX);
    }
    if from > now {
        return Ok(from);
    }
    store.add(root.clone()).map_err(|_| unusable(unreadable))?;
    Ok(until.saturating_add(1))
}

fn unusable(reason: &str) -> Error {
    Error::TrustSettings { reason: reason.to_owned() }
}

fn is_within(host: &LeafHost, domain: &str) -> bool {
    match host {
        LeafHost::Address(address) => domain.parse() == Ok(*address),
        LeafHost::Name(name) => {
            let before = name.strip_suffix(domain);
            before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
        }
    }
}

impl Distrusted {
    fn new(settings: &TrustSettings) -> Result<Distrusted, Error> {
        let mut distrusted = Distrusted::default();
        for own in &settings.own_authorities {
            let (_, parsed) =
                x509_parser::parse_x509_certificate(&own.der).map_err(|_| unusable("an own authority cannot be read"))?;
            distrusted.own_keys.insert(own.public_key_sha256);
            distrusted.own_subjects.insert(parsed.subject().as_raw().to_vec());
        }
        distrusted.own_keys.extend(settings.own_leaf_key_sha256);
        distrusted.known_keys = KNOWN_KEY_AUTHORITIES.iter().filter_map(|(_, digest)| parse_digest(digest)).collect();
        Ok(distrusted)
    }

    /// `public_key` is a whole SubjectPublicKeyInfo.
    fn problem_of_key(&self, public_key: &[u8]) -> Option<CertificateProblem> {
        let digest: [u8; 32] = Sha256::digest(public_key).into();
        if self.own_keys.contains(&digest) {
            return Some(CertificateProblem::OwnAuthority);
        }
        self.known_keys.contains(&digest).then_some(CertificateProblem::KnownKey)
    }

    fn is_own_subject(&self, name: &[u8]) -> bool {
        self.own_subjects.contains(name)
    }
}

fn parse_digest(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    for (position, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(position * 2..position * 2 + 2)?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests;
