//! Why an upstream's certificate is not acceptable. The spelling of [`CertificateProblem::as_str`] is what the 526 page,
//! the event field `tls.origin.problem` and the policy show, so it never changes.

use rustls::{CertRevocationListError, CertificateError};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CertificateProblem {
    Expired,
    NotYetValid,
    SelfSigned,
    UnknownIssuer,
    WrongHost,
    BadSignature,
    WeakSignature,
    WeakKey,
    Revoked,
    RevocationUnknown,
    RevocationListUnusable,
    WrongPurpose,
    NoPurpose,
    AuthorityAsLeaf,
    LeafAsAuthority,
    LeafSignsCertificates,
    PathTooLong,
    NameConstraint,
    PublicSuffixWildcard,
    OwnAuthority,
    KnownKey,
    UnknownCriticalExtension,
    Malformed,
    Other,
}

impl CertificateProblem {
    pub const ALL: [CertificateProblem; 24] = [
        CertificateProblem::Expired,
        CertificateProblem::NotYetValid,
        CertificateProblem::SelfSigned,
        CertificateProblem::UnknownIssuer,
        CertificateProblem::WrongHost,
        CertificateProblem::BadSignature,
        CertificateProblem::WeakSignature,
        CertificateProblem::WeakKey,
        CertificateProblem::Revoked,
        CertificateProblem::RevocationUnknown,
        CertificateProblem::RevocationListUnusable,
        CertificateProblem::WrongPurpose,
        CertificateProblem::NoPurpose,
        CertificateProblem::AuthorityAsLeaf,
        CertificateProblem::LeafAsAuthority,
        CertificateProblem::LeafSignsCertificates,
        CertificateProblem::PathTooLong,
        CertificateProblem::NameConstraint,
        CertificateProblem::PublicSuffixWildcard,
        CertificateProblem::OwnAuthority,
        CertificateProblem::KnownKey,
        CertificateProblem::UnknownCriticalExtension,
        CertificateProblem::Malformed,
        CertificateProblem::Other,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            CertificateProblem::Expired => "expired",
            CertificateProblem::NotYetValid => "not_yet_valid",
            CertificateProblem::SelfSigned => "self_signed",
            CertificateProblem::UnknownIssuer => "unknown_issuer",
            CertificateProblem::WrongHost => "wrong_host",
            CertificateProblem::BadSignature => "bad_signature",
            CertificateProblem::WeakSignature => "weak_signature",
            CertificateProblem::WeakKey => "weak_key",
            CertificateProblem::Revoked => "revoked",
            CertificateProblem::RevocationUnknown => "revocation_unknown",
            CertificateProblem::RevocationListUnusable => "revocation_list_unusable",
            CertificateProblem::WrongPurpose => "wrong_purpose",
            CertificateProblem::NoPurpose => "no_purpose",
            CertificateProblem::AuthorityAsLeaf => "authority_as_leaf",
            CertificateProblem::LeafAsAuthority => "leaf_as_authority",
            CertificateProblem::LeafSignsCertificates => "leaf_signs_certificates",
            CertificateProblem::PathTooLong => "path_too_long",
            CertificateProblem::NameConstraint => "name_constraint",
            CertificateProblem::PublicSuffixWildcard => "public_suffix_wildcard",
            CertificateProblem::OwnAuthority => "own_authority",
            CertificateProblem::KnownKey => "known_key",
            CertificateProblem::UnknownCriticalExtension => "unknown_critical_extension",
            CertificateProblem::Malformed => "malformed",
            CertificateProblem::Other => "other",
        }
    }

    /// One line for the person in front of the 526 page.
    pub const fn description(self) -> &'static str {
        match self {
            CertificateProblem::Expired => "the site's certificate has ended",
            CertificateProblem::NotYetValid => "the site's certificate is not valid yet",
            CertificateProblem::SelfSigned => "the site's certificate vouches for itself",
            CertificateProblem::UnknownIssuer => "nobody whom we trust vouches for the site's certificate",
            CertificateProblem::WrongHost => "the site's certificate belongs to another host",
            CertificateProblem::BadSignature => "a signature in the site's certificate chain is false",
            CertificateProblem::WeakSignature => "the site's certificate is signed in a way that can be forged",
            CertificateProblem::WeakKey => "the site's key is too short",
            CertificateProblem::Revoked => "the site's certificate has been revoked",
            CertificateProblem::RevocationUnknown => "it is unknown whether the site's certificate has been revoked",
            CertificateProblem::RevocationListUnusable => "the revocation list for the site's certificate is unusable",
            CertificateProblem::WrongPurpose => "the site's certificate was not made for web sites",
            CertificateProblem::NoPurpose => "the site's certificate does not say that it was made for web sites",
            CertificateProblem::AuthorityAsLeaf => "the site shows the certificate of an authority as its own",
            CertificateProblem::LeafAsAuthority => "the site's certificate was signed by one who may not sign",
            CertificateProblem::LeafSignsCertificates => "the site's certificate claims to sign certificates",
            CertificateProblem::PathTooLong => "the site's certificate chain is longer than allowed",
            CertificateProblem::NameConstraint => "the site's authority may not vouch for this name",
            CertificateProblem::PublicSuffixWildcard => "the site's certificate claims a whole public domain",
            CertificateProblem::OwnAuthority => "the site uses a certificate of this gateway itself",
            CertificateProblem::KnownKey => "the private key of the site's authority is public",
            CertificateProblem::UnknownCriticalExtension => "the site's certificate has a condition that we do not know",
            CertificateProblem::Malformed => "the site's certificate cannot be read",
            CertificateProblem::Other => "the site's certificate was refused",
        }
    }

    /// What rustls found, in our words.
    pub(crate) fn of(error: &rustls::Error) -> CertificateProblem {
        match error {
            rustls::Error::InvalidCertificate(error) => CertificateProblem::of_certificate(error),
            rustls::Error::InvalidCertRevocationList(error) => CertificateProblem::of_revocation_list(error),
            _ => CertificateProblem::Other,
        }
    }

    fn of_certificate(error: &CertificateError) -> CertificateProblem {
        use CertificateError as Found;
        match error {
            Found::BadEncoding => CertificateProblem::Malformed,
            Found::Expired | Found::ExpiredContext { .. } => CertificateProblem::Expired,
            Found::NotValidYet | Found::NotValidYetContext { .. } => CertificateProblem::NotYetValid,
            Found::Revoked => CertificateProblem::Revoked,
            Found::UnhandledCriticalExtension => CertificateProblem::UnknownCriticalExtension,
            Found::UnknownIssuer => CertificateProblem::UnknownIssuer,
            Found::UnknownRevocationStatus => CertificateProblem::RevocationUnknown,
            Found::ExpiredRevocationList | Found::ExpiredRevocationListContext { .. } => {
                CertificateProblem::RevocationListUnusable
            }
            Found::BadSignature => CertificateProblem::BadSignature,
            Found::UnsupportedSignatureAlgorithmContext { .. }
            | Found::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => CertificateProblem::WeakSignature,
            Found::NotValidForName | Found::NotValidForNameContext { .. } => CertificateProblem::WrongHost,
            Found::InvalidPurpose | Found::InvalidPurposeContext { .. } => CertificateProblem::WrongPurpose,
            Found::Other(other) => other.0.downcast_ref::<webpki::Error>().map_or(
                other.0.downcast_ref::<CertificateProblem>().copied().unwrap_or(CertificateProblem::Other),
                CertificateProblem::of_path,
            ),
            _ => CertificateProblem::Other,
        }
    }

    fn of_path(error: &webpki::Error) -> CertificateProblem {
        use webpki::Error as Found;
        match error {
            Found::CaUsedAsEndEntity => CertificateProblem::AuthorityAsLeaf,
            Found::EndEntityUsedAsCa => CertificateProblem::LeafAsAuthority,
            Found::PathLenConstraintViolated | Found::MaximumPathDepthExceeded => CertificateProblem::PathTooLong,
            Found::NameConstraintViolation => CertificateProblem::NameConstraint,
            Found::EmptyEkuExtension => CertificateProblem::NoPurpose,
            Found::UnsupportedCriticalExtension => CertificateProblem::UnknownCriticalExtension,
            Found::MalformedDnsIdentifier
            | Found::MalformedExtensions
            | Found::MalformedNameConstraint
            | Found::ExtensionValueInvalid
            | Found::InvalidSerialNumber
            | Found::InvalidNetworkMaskConstraint
            | Found::SignatureAlgorithmMismatch
            | Found::UnsupportedCertVersion => CertificateProblem::Malformed,
            _ => CertificateProblem::Other,
        }
    }

    fn of_revocation_list(_error: &CertRevocationListError) -> CertificateProblem {
        CertificateProblem::RevocationListUnusable
    }
}

impl std::fmt::Display for CertificateProblem {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl std::error::Error for CertificateProblem {}
