//! The installation's own certificate authority: made on first run, kept in one directory, rotated with two authorities
//! side by side (TL-07), watched for its end (TL-08). It signs minted leaves and nothing else; the key file has mode 0600,
//! the key is wiped when dropped and has no `Debug`. Certificates follow RFC 5280 section 4.2.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, ArcSwapOption};
use base64::Engine as _;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use zeroize::{Zeroize, Zeroizing};

use crate::Error;

/// TL-07: the validity that an operator gets without asking.
pub const VALIDITY_DAYS_DEFAULT: u32 = 1825;
/// TL-07: the longest that may be asked for.
pub const VALIDITY_DAYS_MAX: u32 = 10_950;
/// TL-08: an authority that ends sooner is not put to use.
pub const ACTIVATION_DAYS_MIN: i64 = 30;
/// RFC 5280 upper bound `ub-common-name`; some clients refuse longer ones.
pub const COMMON_NAME_CHARACTERS_MAX: usize = 64;
/// Clocks of clients may be a little behind ours.
const BACKDATE: Duration = Duration::from_secs(3600);
const DAY_SECONDS: i64 = 86_400;

/// RFC 7468 section 2: generators wrap at 64.
const PEM_LINE_CHARACTERS: usize = 64;

const CURRENT_FILE: &str = "current.pem";
const NEXT_FILE: &str = "next.pem";
const PUBLIC_FILE: &str = "sekisho-ca.pem";
const RETIRED_PREFIX: &str = "retired-";

/// How near the end is. Levels are TL-08's: 90, 30, 7 and 1 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExpiryNotice {
    Days90,
    Days30,
    Days7,
    Days1,
    Ended,
}

/// The notice that is due for a certificate ending at `not_after`; a pure function of time.
pub fn expiry_notice(not_after: SystemTime, now: SystemTime) -> Option<ExpiryNotice> {
    let left = unix_seconds(not_after) - unix_seconds(now);
    let days = |count: i64| count * DAY_SECONDS;
    match left {
        left if left <= 0 => Some(ExpiryNotice::Ended),
        left if left <= days(1) => Some(ExpiryNotice::Days1),
        left if left <= days(7) => Some(ExpiryNotice::Days7),
        left if left <= days(30) => Some(ExpiryNotice::Days30),
        left if left <= days(90) => Some(ExpiryNotice::Days90),
        _ => None,
    }
}

/// What everyone may know of one authority.
#[derive(Clone, Debug)]
pub struct AuthorityCertificate {
    pub der: CertificateDer<'static>,
    pub pem: Arc<str>,
    pub common_name: Arc<str>,
    pub not_after: SystemTime,
    /// SHA-256 of the subject public key; an upstream chain that holds it is refused.
    pub public_key_sha256: [u8; 32],
    /// SHA-256 of the whole certificate.
    pub fingerprint: [u8; 32],
}

/// One authority with its key. Deliberately without `Debug` and `Clone`.
pub(crate) struct SigningAuthority {
    certificate: AuthorityCertificate,
    issuer: Issuer<'static, WipedKey>,
}

/// A key that is wiped when dropped.
struct WipedKey(KeyPair);

/// The current authority, the next one where a rotation is under way, and the public halves of the retired ones.
pub struct Authority {
    directory: PathBuf,
    current: ArcSwap<SigningAuthority>,
    next: ArcSwapOption<SigningAuthority>,
    retired: ArcSwap<Vec<AuthorityCertificate>>,
}

/// What the directory holds, read and checked, and not in use.
pub struct AuthorityReading {
    current: Arc<SigningAuthority>,
    next: Option<Arc<SigningAuthority>>,
    retired: Vec<AuthorityCertificate>,
}

impl Authority {
    /// Loads what `directory` holds; makes the directory and the first authority where there is none.
    pub fn load_or_create(directory: &Path, organisation: &str, now: SystemTime) -> Result<Authority, Error> {
        create_private_directory(directory)?;
        let current_path = directory.join(CURRENT_FILE);
        if !current_path.exists() {
            let made = generate(organisation, VALIDITY_DAYS_DEFAULT, now)?;
            write_private(&current_path, made.bundle.as_bytes())?;
        }
        let current = read_bundle(&current_path)?;
        let next_path = directory.join(NEXT_FILE);
        let next = if next_path.exists() { Some(Arc::new(read_bundle(&next_path)?)) } else { None };
        let authority = Authority {
            directory: directory.to_owned(),
            current: ArcSwap::from_pointee(current),
            next: ArcSwapOption::from(next),
            retired: ArcSwap::from_pointee(read_retired(directory)?),
        };
        publish(directory, &authority.trust_pem())?;
        Ok(authority)
    }

    /// Reads what another process has made of the directory: `ca rotate` beside a running gate. Nothing is used yet.
    pub fn read_again(&self) -> Result<AuthorityReading, Error> {
        let next_path = self.directory.join(NEXT_FILE);
        Ok(AuthorityReading {
            current: Arc::new(read_bundle(&self.directory.join(CURRENT_FILE))?),
            next: if next_path.exists() { Some(Arc::new(read_bundle(&next_path)?)) } else { None },
            retired: read_retired(&self.directory)?,
        })
    }

    /// Puts what was read to use. True where the authority that signs is another one now.
    pub fn publish(&self, reading: AuthorityReading) -> bool {
        let has_changed = reading.current.certificate.fingerprint != self.current.load().certificate.fingerprint;
        self.retired.store(Arc::new(reading.retired));
        self.next.store(reading.next);
        if has_changed {
            self.current.store(reading.current);
        }
        has_changed
    }

    /// What clients must know: the certificate that signs, and the next one while a rotation is under way, as one PEM text.
    pub fn trust_pem(&self) -> String {
        let next = self.next().map(|next| next.pem.to_string()).unwrap_or_default();
        format!("{}{next}", self.current().pem)
    }

    pub fn current(&self) -> AuthorityCertificate {
        self.current.load().certificate.clone()
    }

    pub fn next(&self) -> Option<AuthorityCertificate> {
        self.next.load().as_ref().map(|next| next.certificate.clone())
    }

    /// Where the public certificates for clients lie: the current one, and the next one where there is one.
    pub fn public_path(&self) -> PathBuf {
        self.directory.join(PUBLIC_FILE)
    }

    /// Every authority that this installation has ever used; none of them may vouch for an upstream.
    pub fn own_certificates(&self) -> Vec<AuthorityCertificate> {
        let mut own = vec![self.current()];
        own.extend(self.next());
        own.extend(self.retired.load().iter().cloned());
        own
    }

    /// Makes the next authority, so that clients can learn it before it signs. Replaces one that was never activated.
    pub fn rotate(&self, organisation: &str, validity_days: u32, now: SystemTime) -> Result<AuthorityCertificate, Error> {
        let made = generate(organisation, validity_days, now)?;
        let path = self.directory.join(NEXT_FILE);
        write_private(&path, made.bundle.as_bytes())?;
        let next = read_bundle(&path)?;
        let certificate = next.certificate.clone();
        self.next.store(Some(Arc::new(next)));
        publish(&self.directory, &self.trust_pem())?;
        Ok(certificate)
    }

    /// Puts the next authority to use. The one before keeps only its certificate, in a `retired-` file.
    pub fn activate(&self, now: SystemTime) -> Result<AuthorityCertificate, Error> {
        let next = self.next.load_full().ok_or(Error::NoNextAuthority)?;
        let days = (unix_seconds(next.certificate.not_after) - unix_seconds(now)).div_euclid(DAY_SECONDS);
        if days < ACTIVATION_DAYS_MIN {
            return Err(Error::AuthorityEndsSoon { days });
        }
        let before = self.current();
        let retired_name = format!("{RETIRED_PREFIX}{}.pem", hex_prefix(&before.fingerprint));
        write_file(&self.directory.join(retired_name), before.pem.as_bytes(), 0o644)?;
        let (from, to) = (self.directory.join(NEXT_FILE), self.directory.join(CURRENT_FILE));
        fs::rename(&from, &to).map_err(|source| Error::AuthorityFile { path: to, source })?;
        sync_directory(&self.directory)?;
        publish(&self.directory, &next.certificate.pem)?;
        self.retired.rcu(|retired| retired.iter().cloned().chain([before.clone()]).collect::<Vec<_>>());
        self.current.store(Arc::clone(&next));
        self.next.store(None);
        Ok(next.certificate.clone())
    }

    pub(crate) fn signing(&self) -> Arc<SigningAuthority> {
        self.current.load_full()
    }
}

impl AuthorityReading {
    /// Every authority that this installation has ever used, as [`Authority::own_certificates`] will give them.
    pub fn own_certificates(&self) -> Vec<AuthorityCertificate> {
        let signing = std::iter::once(&self.current).chain(&self.next);
        signing.map(|authority| authority.certificate.clone()).chain(self.retired.iter().cloned()).collect()
    }
}

impl SigningAuthority {
    pub(crate) fn certificate(&self) -> &AuthorityCertificate {
        &self.certificate
    }

    pub(crate) fn sign(&self, leaf: &CertificateParams, leaf_key: &KeyPair) -> Result<rcgen::Certificate, Error> {
        Ok(leaf.signed_by(leaf_key, &self.issuer)?)
    }
}

struct Generated {
    bundle: Zeroizing<String>,
}

fn generate(organisation: &str, validity_days: u32, now: SystemTime) -> Result<Generated, Error> {
    if validity_days == 0 || validity_days > VALIDITY_DAYS_MAX {
        return Err(Error::AuthorityValidity { days: validity_days });
    }
    let mut key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.not_before = date(now - BACKDATE);
    params.not_after = date(now + Duration::from_secs(u64::from(validity_days) * 86_400));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name(organisation, &key));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key);
    let key_pem = Zeroizing::new(key.serialize_pem());
    key.zeroize();
    let bundle = Zeroizing::new(format!("{}{}", certificate?.pem(), *key_pem));
    Ok(Generated { bundle })
}

/// The name ends in a part of the key's digest, so that two installations (and two generations) never share a subject.
fn common_name(organisation: &str, key: &KeyPair) -> String {
    let suffix = hex_prefix(&Sha256::digest(key.public_key_raw()));
    let room = COMMON_NAME_CHARACTERS_MAX - " Sekisho CA ".len() - suffix.len();
    let organisation: String = organisation.chars().filter(|c| !c.is_control()).take(room).collect();
    format!("{organisation} Sekisho CA {suffix}").trim_start().to_owned()
}

fn read_bundle(path: &Path) -> Result<SigningAuthority, Error> {
    let file_error = |source| Error::AuthorityFile { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(file_error)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Error::AuthorityExposed { path: path.to_owned(), mode });
    }
    let text = Zeroizing::new(fs::read(path).map_err(file_error)?);
    let malformed = || Error::AuthorityMalformed { path: path.to_owned() };
    let der = CertificateDer::from_pem_slice(&text).map_err(|_| malformed())?;
    let mut private = PrivateKeyDer::from_pem_slice(&text).map_err(|_| malformed())?;
    let key = KeyPair::try_from(&private);
    private.zeroize();
    let key = WipedKey(key.map_err(|_| malformed())?);
    let certificate = describe(&der).ok_or_else(malformed)?;
    if Sha256::digest(rcgen::PublicKeyData::subject_public_key_info(&key.0)).as_slice() != certificate.public_key_sha256 {
        return Err(Error::AuthorityKeyMismatch { path: path.to_owned() });
    }
    let issuer = Issuer::from_ca_cert_der(&der, key)?;
    Ok(SigningAuthority { certificate, issuer })
}

fn read_retired(directory: &Path) -> Result<Vec<AuthorityCertificate>, Error> {
    let file_error = |source| Error::AuthorityFile { path: directory.to_owned(), source };
    let mut retired = Vec::new();
    for entry in fs::read_dir(directory).map_err(file_error)? {
        let path = entry.map_err(file_error)?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(RETIRED_PREFIX)) {
            let der = CertificateDer::from_pem_file(&path);
            let described = der.ok().as_ref().and_then(describe);
            retired.push(described.ok_or(Error::AuthorityMalformed { path })?);
        }
    }
    Ok(retired)
}

fn describe(der: &CertificateDer<'_>) -> Option<AuthorityCertificate> {
    let (_, parsed) = x509_parser::parse_x509_certificate(der).ok()?;
    let common_name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    let not_after = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    Some(AuthorityCertificate {
        pem: pem_certificate(der).into(),
        common_name: common_name.into(),
        not_after: UNIX_EPOCH + Duration::from_secs(not_after),
        public_key_sha256: Sha256::digest(parsed.public_key().raw).into(),
        fingerprint: Sha256::digest(der).into(),
        der: der.clone().into_owned(),
    })
}

fn pem_certificate(der: &CertificateDer<'_>) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for (position, character) in encoded.chars().enumerate() {
        if position > 0 && position % PEM_LINE_CHARACTERS == 0 {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem.push_str("\n-----END CERTIFICATE-----\n");
    pem
}

fn publish(directory: &Path, pem: &str) -> Result<(), Error> {
    write_file(&directory.join(PUBLIC_FILE), pem.as_bytes(), 0o644)
}

fn create_private_directory(directory: &Path) -> Result<(), Error> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|source| Error::AuthorityFile { path: directory.to_owned(), source })
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_file(path, bytes, 0o600)
}

/// Writes beside the target and renames, so that a crash leaves the old file or the new one, never half of one.
fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let temporary = path.with_extension("partial");
    let write = || -> io::Result<()> {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|source| Error::AuthorityFile { path: path.to_owned(), source })?;
    path.parent().map_or(Ok(()), sync_directory)
}

fn sync_directory(directory: &Path) -> Result<(), Error> {
    let synced = fs::File::open(directory).and_then(|file| file.sync_all());
    synced.map_err(|source| Error::AuthorityFile { path: directory.to_owned(), source })
}

pub(crate) fn date(at: SystemTime) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(unix_seconds(at)).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

pub(crate) fn unix_seconds(at: SystemTime) -> i64 {
    match at.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds),
    }
}

fn hex_prefix(digest: &[u8]) -> String {
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

impl Drop for WipedKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl rcgen::PublicKeyData for WipedKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        rcgen::PublicKeyData::algorithm(&self.0)
    }
}

impl rcgen::SigningKey for WipedKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

#[cfg(test)]
mod tests;
