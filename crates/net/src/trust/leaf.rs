//! What a leaf must be beyond a valid path: made for servers and for nothing greater (CA/Browser Forum baseline
//! requirements, section 7.1.2.7). It looks at one certificate and builds no path.

use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::public_key::PublicKey;

use super::CertificateProblem;

/// Baseline requirements section 6.1.5: shorter moduli are within reach of factoring.
const RSA_BITS_MIN: usize = 2048;

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
        Some(purpose) if purpose.value.server_auth => Ok(()),
        Some(purpose) if !purpose.value.any => Err(CertificateProblem::WrongPurpose),
        _ => Err(CertificateProblem::NoPurpose),
    }
}

fn check_usage(leaf: &X509Certificate<'_>) -> Result<(), CertificateProblem> {
    let usage = leaf.key_usage().map_err(|_| CertificateProblem::Malformed)?;
    if usage.is_some_and(|usage| usage.value.key_cert_sign()) {
        return Err(CertificateProblem::LeafSignsCertificates);
    }
    Ok(())
}

fn check_key(leaf: &X509Certificate<'_>) -> Result<(), CertificateProblem> {
    match leaf.public_key().parsed().map_err(|_| CertificateProblem::Malformed)? {
        PublicKey::RSA(key) if significant_bits(key.modulus) < RSA_BITS_MIN => Err(CertificateProblem::WeakKey),
        PublicKey::RSA(_) | PublicKey::EC(_) => Ok(()),
        PublicKey::Unknown(_) => Ok(()),
        _ => Err(CertificateProblem::WeakKey),
    }
}

fn significant_bits(modulus: &[u8]) -> usize {
    let leading = modulus.iter().take_while(|byte| **byte == 0).count();
    let Some(first) = modulus.get(leading) else { return 0 };
    (modulus.len() - leading) * 8 - first.leading_zeros() as usize
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

    #[test]
    fn the_modulus_is_measured_without_its_sign_byte() {
        assert_eq!(significant_bits(&[0, 0x80, 0]), 16);
        assert_eq!(significant_bits(&[0x01, 0]), 9);
        assert_eq!(significant_bits(&[0, 0]), 0);
        assert_eq!(significant_bits(&[]), 0);
    }
}
