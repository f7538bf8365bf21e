//! Which public keys are strong enough (CA/Browser Forum baseline requirements, section 6.1.5 and 6.1.6).

use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Shorter moduli are within reach of factoring.
const RSA_BITS_MIN: usize = 2048;
const ELLIPTIC: &str = "1.2.840.10045.2.1";
const ED25519: &str = "1.3.101.112";
/// P-256, P-384 and P-521.
const CURVES: [&str; 3] = ["1.2.840.10045.3.1.7", "1.3.132.0.34", "1.3.132.0.35"];

pub(super) fn is_acceptable_key(key: &SubjectPublicKeyInfo<'_>) -> bool {
    let algorithm = key.algorithm.algorithm.to_id_string();
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => {
            let bits = significant_bits(rsa.modulus);
            bits >= RSA_BITS_MIN && bits.is_multiple_of(8)
        }
        _ if algorithm == ED25519 => true,
        _ if algorithm == ELLIPTIC => {
            let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
            curve.is_some_and(|curve| CURVES.contains(&curve.to_id_string().as_str()))
        }
        _ => false,
    }
}

fn significant_bits(modulus: &[u8]) -> usize {
    let leading = modulus.iter().take_while(|byte| **byte == 0).count();
    let Some(first) = modulus.get(leading) else { return 0 };
    (modulus.len() - leading) * 8 - first.leading_zeros() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_modulus_is_measured_without_its_sign_byte() {
        assert_eq!(significant_bits(&[0, 0x80, 0]), 16);
        assert_eq!(significant_bits(&[0x01, 0]), 9);
        assert_eq!(significant_bits(&[0, 0]), 0);
        assert_eq!(significant_bits(&[]), 0);
    }
}
