//! The verifiers that rustls calls. [`Verifier`] refuses; [`DangerAcceptAny`] lets the handshake go on for GW-031
//! `pass_through` and leaves it to the caller to ask [`Verifier::problem`] afterwards. Handshake signatures are checked by
//! both, so even a passed-through upstream must hold the key of the certificate that is reported.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};

use super::{CertificateProblem, Distrusted, StaleRevocationList, leaf};
use crate::Error;

#[derive(Debug)]
pub struct Verifier {
    /// None where no root is valid: nothing is believed.
    path: Option<Arc<WebPkiServerVerifier>>,
    distrusted: Arc<Distrusted>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    pub(super) fn new(
        roots: RootCertStore,
        revocation_lists: Vec<CertificateRevocationListDer<'static>>,
        stale: StaleRevocationList,
        distrusted: Arc<Distrusted>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Verifier, Error> {
        if roots.is_empty() {
            return Ok(Verifier { path: None, distrusted, provider });
        }
        // A list says nothing about certificates of other issuers, so an unknown status is not a refusal.
        let mut builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .with_crls(revocation_lists)
            .allow_unknown_revocation_status();
        if stale == StaleRevocationList::Refuse {
            builder = builder.enforce_revocation_expiration();
        }
        let path = builder.build().map_err(|error| Error::TrustSettings { reason: error.to_string() })?;
        Ok(Verifier { path: Some(path), distrusted, provider })
    }

    /// The first reason not to believe this chain for this name, if there is one.
    pub fn problem(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Option<CertificateProblem> {
        self.check(leaf, intermediates, name, now).err()
    }

    #[cfg(test)]
    pub(super) fn has_roots(&self) -> bool {
        self.path.is_some()
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), CertificateProblem> {
        for certificate in std::iter::once(leaf).chain(intermediates) {
            self.check_distrusted(certificate)?;
        }
        let Some(path) = &self.path else { return Err(CertificateProblem::UnknownIssuer) };
        if let Err(error) = path.verify_server_cert(leaf, intermediates, name, &[], now) {
            let problem = CertificateProblem::of(&error);
            let is_alone = problem == CertificateProblem::UnknownIssuer && is_self_issued(leaf);
            return Err(if is_alone { CertificateProblem::SelfSigned } else { problem });
        }
        leaf::check(leaf)
    }

    /// An own authority is recognised by its key, and by its name where its certificate is not in the chain.
    fn check_distrusted(&self, certificate: &CertificateDer<'_>) -> Result<(), CertificateProblem> {
        let parsed = x509_parser::parse_x509_certificate(certificate);
        let (_, parsed) = parsed.map_err(|_| CertificateProblem::Malformed)?;
        if let Some(problem) = self.distrusted.problem_of_key(parsed.public_key().raw) {
            return Err(problem);
        }
        if self.distrusted.is_own_subject(parsed.issuer().as_raw()) {
            return Err(CertificateProblem::OwnAuthority);
        }
        Ok(())
    }
}

fn is_self_issued(certificate: &CertificateDer<'_>) -> bool {
    let parsed = x509_parser::parse_x509_certificate(certificate);
    parsed.is_ok_and(|(_, parsed)| parsed.issuer().as_raw() == parsed.subject().as_raw())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.check(end_entity, intermediates, server_name, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(problem) => Err(CertificateError::Other(OtherError(Arc::new(problem))).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Accepts any certificate. Its session cache is never shared with a refusing configuration.
#[derive(Debug)]
pub struct DangerAcceptAny {
    verifier: Arc<Verifier>,
}

impl DangerAcceptAny {
    pub(super) fn new(verifier: Arc<Verifier>) -> DangerAcceptAny {
        DangerAcceptAny { verifier }
    }
}

impl ServerCertVerifier for DangerAcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
