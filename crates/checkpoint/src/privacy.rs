//! How much of a person's traffic the record keeps (CX-14). It is applied as the event is made, so that what is not to be
//! kept is never written anywhere.

use model::{Facts, FieldId};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogPrivacy {
    /// Everything.
    #[default]
    Full,
    /// All but who it was.
    NoClient,
    /// All but where it went.
    NoName,
    /// Neither: the event still counts.
    CountsOnly,
}

/// One group and what is kept of its members. An empty group is everybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivacyRule {
    pub group: String,
    pub keep: LogPrivacy,
}

const CLIENT: &[FieldId] = &[
    FieldId::SourceIp,
    FieldId::SourcePort,
    FieldId::SourceInternalIp,
    FieldId::DohSubdomain,
    FieldId::UserEmail,
    FieldId::UserMailbox,
    FieldId::UserName,
    FieldId::UserId,
    FieldId::GroupNames,
    FieldId::GroupIds,
    FieldId::GroupEmails,
    FieldId::SamlAttributes,
    FieldId::OidcClaims,
    FieldId::DeviceId,
    FieldId::DeviceName,
    FieldId::HttpUserAgent,
    FieldId::ClientJa4,
];

const NAMES: &[FieldId] = &[
    FieldId::DnsFqdn,
    FieldId::DnsDomains,
    FieldId::DnsAnswers,
    FieldId::DnsResolvedIps,
    FieldId::DnsResponseCname,
    FieldId::DnsResponseMx,
    FieldId::DnsResponsePtr,
    FieldId::DnsResponseTxt,
    FieldId::HttpHost,
    FieldId::HttpDomains,
    FieldId::HttpUrl,
    FieldId::HttpPath,
    FieldId::HttpPathAndQuery,
    FieldId::HttpQuery,
    FieldId::HttpReferrer,
    FieldId::SniHost,
    FieldId::SniDomains,
    FieldId::DestinationIp,
    FieldId::WebDestinationIps,
    FieldId::FileName,
    FieldId::FileSha256,
    FieldId::ScanMember,
    FieldId::RedirectTarget,
    FieldId::Findings,
    FieldId::Extra,
];

/// What is kept for a user with these groups.
pub(crate) fn keep(rules: &[PrivacyRule], groups: &[std::sync::Arc<str>]) -> LogPrivacy {
    rules
        .iter()
        .find(|rule| rule.group.is_empty() || groups.iter().any(|group| **group == *rule.group))
        .map_or(LogPrivacy::Full, |rule| rule.keep)
}

/// The facts without those that may not be kept.
pub(crate) fn redact(facts: &mut Facts, keep: LogPrivacy) {
    let dropped: &[&[FieldId]] = match keep {
        LogPrivacy::Full => return,
        LogPrivacy::NoClient => &[CLIENT],
        LogPrivacy::NoName => &[NAMES],
        LogPrivacy::CountsOnly => &[CLIENT, NAMES],
    };
    for field in dropped.iter().copied().flatten() {
        facts.forget(*field);
    }
}
