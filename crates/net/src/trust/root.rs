//! What is asked of roots and revocation lists when they are loaded. A trust anchor keeps only a name and a key, so what
//! else its certificate says is checked here or never (RFC 5280 sections 4.2 and 5.2). What is unusable is an error at
//! the start, where the operator sees it.

use rustls_pki_types::CertificateRevocationListDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::key::is_acceptable_key;

/// The subjects whose revocation lists are configured.
#[derive(Default)]
pub(super) struct ListIssuers(Vec<Vec<u8>>);

impl ListIssuers {
    /// Every list must be readable and numbered (RFC 5280 section 5.2.3).
    pub(super) fn of(lists: &[CertificateRevocationListDer<'_>]) -> Result<ListIssuers, &'static str> {
        let mut issuers = Vec::with_capacity(lists.len());
        for list in lists {
            let parsed = CertificateRevocationList::from_der(list.as_ref());
            let (_, parsed) = parsed.map_err(|_| "a revocation list cannot be read")?;
            let is_number = |kind: &ParsedExtension<'_>| matches!(kind, ParsedExtension::CRLNumber(_));
            let number = parsed.extensions().iter().find(|extension| is_number(extension.parsed_extension()));
            if number.is_none_or(|number| number.critical) {
                return Err("a revocation list has no proper number");
            }
            issuers.push(parsed.issuer().as_raw().to_vec());
        }
        Ok(ListIssuers(issuers))
    }
}

pub(super) fn check_root(root: &X509Certificate<'_>, list_issuers: &ListIssuers) -> Result<(), &'static str> {
    let constraints = root.basic_constraints().map_err(|_| "a root certificate has malformed extensions")?;
    let usage = root.key_usage().map_err(|_| "a root certificate has malformed extensions")?;
    // Version 1 has no extensions at all; such roots are old, but an operator may still have one.
    if root.version().0 >= 2 && !constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err("a root certificate is not an authority's");
    }
    if usage.as_ref().is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err("a root certificate may not sign certificates");
    }
    if list_issuers.0.iter().any(|issuer| issuer == root.subject().as_raw()) && usage.is_some_and(|usage| !usage.value.crl_sign())
    {
        return Err("a revocation list's issuer may not sign lists");
    }
    let is_unknown = |kind: &ParsedExtension<'_>| {
        matches!(kind, ParsedExtension::UnsupportedExtension { .. } | ParsedExtension::ParseError { .. })
    };
    if root.extensions().iter().any(|extension| extension.critical && is_unknown(extension.parsed_extension())) {
        return Err("a root certificate has a condition that we do not know");
    }
    if is_acceptable_key(root.public_key()) { Ok(()) } else { Err("a root certificate's key is too weak") }
}
