//! What a leaf must be beyond a valid path: made for servers and for nothing greater (CA/Browser Forum baseline
//! requirements, section 7.1.2.7). It looks at one certificate and builds no path.

use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::CertificateProblem;
use super::key::is_acceptable_key;

/// The first rule that the leaf breaks.
pub(super) fn check(leaf: &CertificateDer<'_>) -> Result<(), CertificateProblem> {
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf).map_err(|_| CertificateProblem::Malformed)?;
    check_purpose(&leaf)?;
    check_usage(&leaf)?;
    check_key(&leaf)?;
    check_wildcards(&leaf)
}

fn check_purpose(leaf: &X509Certificate<'_>) -> Result<(), CertificateProblem> {
    let purpose = leaf.extended_key_usage().map_err(|_| CertificateProblem::Malformed)?;
    match purpose {
        None => Err(CertificateProblem::NoPurpose),
        Some(purpose) if purpose.value.server_auth && !purpose.value.any => Ok(()),
        Some(_) => Err(CertificateProblem::WrongPurpose),
    }
}

fn check_usage(leaf: &X509Certificate<'_>) -> Result<(), CertificateProblem> {
    let usage = leaf.key_usage().map_err(|_| CertificateProblem::Malformed)?;
    if usage.is_some_and(|usage| usage.value.key_cert_sign()) {
        return Err(CertificateProblem::LeafSignsCertificates);
    }
    // Only an authority may constrain names (RFC 5280 section 4.2.1.10).
    match leaf.name_constraints() {
        Ok(None) => Ok(()),
        _ => Err(CertificateProblem::Malformed),
    }
}

fn check_key(leaf: &X509Certificate<'_>) -> Result<(), CertificateProblem> {
    if is_acceptable_key(leaf.public_key()) { Ok(()) } else { Err(CertificateProblem::WeakKey) }
}

/// A wildcard over a public suffix would be good for every customer of a registry.
fn check_wildcards(leaf: &X509Certificate<'_>) -> Result<(), CertificateProblem> {
    let names = leaf.subject_alternative_name().map_err(|_| CertificateProblem::Malformed)?;
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let too_wide = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => name.strip_prefix("*.").is_some_and(is_public_suffix),
        _ => false,
    };
    if names.iter().any(too_wide) { Err(CertificateProblem::PublicSuffixWildcard) } else { Ok(()) }
}

/// Registries' suffixes and single labels. Private suffixes are left out: their owner may hold a wildcard for them.
fn is_public_suffix(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let suffix = psl::suffix(name.as_bytes());
    let is_registry = suffix.is_some_and(|suffix| suffix.typ() == Some(psl::Type::Icann) && suffix == name.as_str());
    is_registry || !name.contains('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_and_single_labels_are_public_suffixes() {
        for name in ["com", "co.uk", "CO.UK", "internal", "jp", "co.jp"] {
            assert!(is_public_suffix(name), "{name}");
        }
        for name in ["example.com", "github.io", "example.co.uk"] {
            assert!(!is_public_suffix(name), "{name}");
        }
    }
}
