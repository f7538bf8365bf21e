//! Whom the web gate trusts upstream, from the files that the configuration names. Everything is read anew at a reload, so
//! that revocation lists which a timer fetches are used without a restart.

use std::path::Path;

use anyhow::{Context, Result};
use net::authority::AuthorityCertificate;
use net::mint::Minter;
use net::trust::{DestinationRoots, StaleRevocationList, TrustSettings, mozilla_roots};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};

use crate::config::TrustSpec;

/// Largest revocation list: the largest public ones have some ten mebibytes.
const REVOCATION_LIST_BYTES_MAX: u64 = 64 << 20;

/// `own` is every authority that this installation has ever used.
pub fn settings(spec: &TrustSpec, own: Vec<AuthorityCertificate>, minter: &Minter) -> Result<TrustSettings> {
    let mut roots = mozilla_roots();
    for path in &spec.extra_roots {
        roots.extend(read_roots(path).with_context(|| format!("trust.extra_roots: {}", path.display()))?);
    }
    let mut destinations = Vec::with_capacity(spec.destinations.len());
    for destination in &spec.destinations {
        let place = || format!("trust.destinations `{}`", destination.domain);
        let domain = model::name::canonical(&destination.domain).with_context(place)?;
        let mut roots = Vec::new();
        for path in &destination.roots {
            roots.extend(read_roots(path).with_context(place)?);
        }
        destinations.push(DestinationRoots { domain: domain.into(), roots });
    }
    let mut revocation_lists = Vec::with_capacity(spec.revocation_lists.len());
    for path in &spec.revocation_lists {
        let list = read_revocation_lists(path).with_context(|| format!("trust.revocation_lists: {}", path.display()))?;
        revocation_lists.extend(list);
    }
    let stale_revocation_list = match spec.danger_use_stale_revocation_lists {
        true => StaleRevocationList::DangerUse,
        false => StaleRevocationList::Refuse,
    };
    Ok(TrustSettings {
        roots,
        destinations,
        revocation_lists,
        stale_revocation_list,
        own_authorities: own,
        own_leaf_key_sha256: Some(minter.leaf_key_sha256()),
    })
}

/// The certificates of a PEM file.
pub fn read_roots(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.context("cannot read the certificates")?;
    anyhow::ensure!(!read.is_empty(), "the file holds no certificate");
    Ok(read)
}

/// One list in DER, as authorities publish them, or any number in PEM.
fn read_revocation_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>> {
    let size = std::fs::metadata(path)?.len();
    anyhow::ensure!(size <= REVOCATION_LIST_BYTES_MAX, "larger than {REVOCATION_LIST_BYTES_MAX} bytes");
    let bytes = std::fs::read(path)?;
    if !bytes.starts_with(b"-----") {
        return Ok(vec![CertificateRevocationListDer::from(bytes)]);
    }
    let lists = CertificateRevocationListDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    lists.context("cannot read the revocation lists")
}

#[cfg(test)]
mod tests {
    use net::authority::Authority;

    use super::*;

    #[test]
    fn files_that_cannot_be_used_are_named() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let authority = std::sync::Arc::new(Authority::load_or_create(folder.path(), "Test", std::time::SystemTime::now())?);
        let minter = Minter::new(authority.clone())?;
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "")?;
        let told = |spec: TrustSpec| match settings(&spec, authority.own_certificates(), &minter) {
            Ok(_) => String::new(),
            Err(error) => format!("{error:#}"),
        };
        let destination = crate::config::DestinationSpec { domain: "corp.example".into(), roots: vec![empty.clone()] };
        assert!(told(TrustSpec { extra_roots: vec![empty.clone()], ..TrustSpec::default() }).contains("empty.pem"));
        assert!(told(TrustSpec { destinations: vec![destination], ..TrustSpec::default() }).contains("`corp.example`"));
        let absent = folder.path().join("absent.crl");
        assert!(told(TrustSpec { revocation_lists: vec![absent], ..TrustSpec::default() }).contains("absent.crl"));
        assert_eq!(told(TrustSpec::default()), "");
        Ok(())
    }
}
