//! The settings of one rule, checked and made ready to become obligations, a reason and a redirect (GW-020 to GW-032,
//! GW-151). Header values may name facts; what cannot be known becomes empty text (GW-021).

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use model::verdict::UntrustedCertificate;
use model::{Action, Facts, FieldId, Gate, HeaderChange, Obligation, Value};

use crate::Problem;
use crate::document::{Redirect, Rule, RuleSettings};

/// Header operations of one rule, and the sizes of a name and of a value (GW-020).
const HEADER_CHANGES_MAX: usize = 20;
const HEADER_NAME_BYTES_MAX: usize = 256;
const HEADER_VALUE_BYTES_MAX: usize = 4096;

/// Headers that frame a message or name its target. A rule that changed them could make two readers see two messages.
const FRAMING_HEADERS: &[&str] =
    &["connection", "content-length", "host", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/// Told to a person whom a rule without a reason refused.
const REASON: &str = "refused by policy";

/// What follows when a rule decides.
#[derive(Clone, Debug)]
pub(crate) struct Effect {
    /// One line for the person who is refused.
    pub reason: Arc<str>,
    pub shows_page: bool,
    pub redirect: Option<Redirect>,
    /// Of the resolver and answer questions.
    pub replacement: Option<Obligation>,
    pub headers: Vec<HeaderTemplate>,
    pub untrusted_certificate: Option<UntrustedCertificate>,
    pub skips_dnssec: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum HeaderTemplate {
    Delete(Arc<str>),
    Set(Arc<str>, Vec<Segment>),
    Add(Arc<str>, Vec<Segment>),
}

#[derive(Clone, Debug)]
pub(crate) enum Segment {
    Text(Arc<str>),
    Fact(FieldId),
}

/// `@{name}` and the fact it stands for (GW-021).
const VARIABLES: &[(&str, FieldId)] = &[
    ("identity.email", FieldId::UserEmail),
    ("identity.name", FieldId::UserName),
    ("identity.id", FieldId::UserId),
    ("identity.groups", FieldId::GroupNames),
    ("identity.SAML", FieldId::SamlAttributes),
    ("identity.OIDC", FieldId::OidcClaims),
    ("source.ip", FieldId::SourceIp),
    ("destination.ip", FieldId::DestinationIp),
    ("device.id", FieldId::DeviceId),
];

impl Effect {
    /// Checks the settings of a rule against its gate and action.
    pub(crate) fn parse(rule: &Rule, default_reason: Option<&str>) -> Result<Effect, Vec<Problem>> {
        let settings = &rule.settings;
        let mut problems = misplaced(rule);
        let headers = parse_headers(settings).unwrap_or_else(|problem| {
            problems.push(problem);
            Vec::new()
        });
        let replacement = replacement(rule).unwrap_or_else(|problem| {
            problems.push(problem);
            None
        });
        if let Some(problem) = check_redirect(rule) {
            problems.push(problem);
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Effect {
            reason: Arc::from(settings.block_reason.as_deref().or(default_reason).unwrap_or(REASON)),
            shows_page: settings.block_page,
            redirect: settings.redirect.clone(),
            replacement,
            headers,
            untrusted_certificate: settings.untrusted_cert,
            skips_dnssec: settings.danger_skip_dnssec,
        })
    }

    /// Variables of the header values that cannot be known for these facts, and become empty (GW-021).
    pub(crate) fn unresolved_variables(&self, facts: &Facts) -> Vec<&'static str> {
        let segments = self.headers.iter().flat_map(|template| match template {
            HeaderTemplate::Delete(_) => [].as_slice(),
            HeaderTemplate::Set(_, value) | HeaderTemplate::Add(_, value) => value.as_slice(),
        });
        let unknown = segments.filter_map(|segment| match segment {
            Segment::Fact(field) => resolve(*field, facts).is_none().then_some(*field),
            Segment::Text(_) => None,
        });
        let unknown: BTreeSet<FieldId> = unknown.collect();
        VARIABLES.iter().filter(|(_, field)| unknown.contains(field)).map(|(name, _)| *name).collect()
    }

    pub(crate) fn header_changes(&self, facts: &Facts) -> Vec<HeaderChange> {
        self.headers.iter().map(|template| template.expand(facts)).collect()
    }

    /// Where a refused request is sent instead (GW-024, GW-151).
    pub(crate) fn location(&self, facts: &Facts) -> Option<Arc<str>> {
        let redirect = self.redirect.as_ref()?;
        if !redirect.preserve_path_and_query {
            return Some(Arc::from(&*redirect.target_uri));
        }
        // The path comes from the client: one that does not open with a slash would change the target's host.
        let text =
            |field| facts.get(field).and_then(Value::as_text).filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()));
        let path = text(FieldId::HttpPath).filter(|path| path.starts_with('/')).unwrap_or_default();
        let query = text(FieldId::HttpQuery).unwrap_or_default();
        Some(keep_path_and_query(&redirect.target_uri, path, query).into())
    }
}

/// Settings that mean nothing for the rule's gate and action, by name.
fn misplaced(rule: &Rule) -> Vec<Problem> {
    let RuleSettings { block_page, block_reason, redirect, override_host, override_ips, resolvers, .. } = &rule.settings;
    let RuleSettings { add_headers, set_headers, delete_headers, untrusted_cert, danger_skip_dnssec, .. } = &rule.settings;
    let RuleSettings { ip_categories, ip_indicator_feeds, ignore_cname_category_matches, .. } = &rule.settings;
    let is_dns = rule.gate == Gate::Dns;
    let is = |gate: Gate, action: Action| rule.gate == gate && rule.action == action;
    let has_headers = !(add_headers.is_empty() && set_headers.is_empty() && delete_headers.is_empty());
    let (is_block, is_override) = (rule.action == Action::Block, is(Gate::Dns, Action::Override));
    let is_web_refusal = is(Gate::Web, Action::Redirect) || is(Gate::Web, Action::Block);
    [
        (*block_page, is(Gate::Dns, Action::Block), "block_page", "a `block` rule at `dns`"),
        (block_reason.is_some(), is_block, "block_reason", "a `block` rule"),
        (redirect.is_some(), is_web_refusal, "redirect", "a `redirect` or `block` rule at `web`"),
        (override_host.is_some(), is_override, "override_host", "an `override` rule at `dns`"),
        (!override_ips.is_empty(), is_override, "override_ips", "an `override` rule at `dns`"),
        (!resolvers.is_empty(), is(Gate::Dns, Action::Resolve), "resolvers", "a `resolve` rule at `dns`"),
        (has_headers, is(Gate::Web, Action::Allow), "header changes", "an `allow` rule at `web`"),
        (untrusted_cert.is_some(), is(Gate::Web, Action::Allow), "untrusted_cert", "an `allow` rule at `web`"),
        (*ip_categories, is_dns, "ip_categories", "a rule at `dns`"),
        (*ip_indicator_feeds, is_dns, "ip_indicator_feeds", "a rule at `dns`"),
        (*ignore_cname_category_matches, is_dns, "ignore_cname_category_matches", "a rule at `dns`"),
        (*danger_skip_dnssec, is(Gate::Dns, Action::Allow), "danger_skip_dnssec", "an `allow` rule at `dns`"),
    ]
    .into_iter()
    .filter(|(is_set, fits, ..)| *is_set && !fits)
    .map(|(_, _, setting, expected)| {
        let pair = format!("`{}` at `{}`", rule.action.as_str(), rule.gate.as_str());
        Problem::new(format!("{setting} has no meaning for {pair}")).expected(expected)
    })
    .collect()
}

fn replacement(rule: &Rule) -> Result<Option<Obligation>, Problem> {
    let RuleSettings { override_host, override_ips, resolvers, .. } = &rule.settings;
    Ok(match rule.action {
        Action::SafeSearch => Some(Obligation::SafeSearch),
        Action::YoutubeRestricted => Some(Obligation::YoutubeRestricted),
        Action::Override if override_host.is_some() != override_ips.is_empty() => {
            return Err(Problem::new("an override answers with a host or with addresses")
                .expected("one of `override_host` and `override_ips`"));
        }
        Action::Override => {
            let host = override_host
                .as_deref()
                .map(|host| model::name::canonical(host).ok_or_else(|| Problem::new(format!("`{host}` is no host name"))));
            Some(Obligation::Override { addresses: override_ips.clone(), host: host.transpose()?.map(Arc::from) })
        }
        Action::Resolve if resolvers.is_empty() => {
            return Err(Problem::new("no resolver is named").expected("`resolvers = [\"192.0.2.1:53\"]`"));
        }
        Action::Resolve => Some(Obligation::Resolvers { addresses: resolvers.clone() }),
        _ => None,
    })
}

fn check_redirect(rule: &Rule) -> Option<Problem> {
    match &rule.settings.redirect {
        None if rule.action == Action::Redirect => {
            Some(Problem::new("no target is named").expected("`redirect = { target_uri = \"https://...\" }`"))
        }
        Some(redirect) => {
            let uri = &redirect.target_uri;
            let is_web =
                ["https://", "http://"].iter().any(|scheme| uri.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()));
            let is_plain = uri.bytes().all(|byte| byte.is_ascii_graphic());
            (!is_web || !is_plain)
                .then(|| Problem::new(format!("`{uri}` is no target")).expected("an absolute http or https URL"))
        }
        None => None,
    }
}

/// `target` with the original path behind its own and the original parameters that it does not set itself (GW-151).
fn keep_path_and_query(target: &str, path: &str, query: &str) -> String {
    let (target, fragment) = target.split_once('#').map_or((target, None), |(head, tail)| (head, Some(tail)));
    let (base, own) = target.split_once('?').unwrap_or((target, ""));
    let name = |parameter: &str| parameter.split('=').next().unwrap_or_default().to_owned();
    let own: Vec<&str> = own.split('&').filter(|parameter| !parameter.is_empty()).collect();
    let set: Vec<String> = own.iter().map(|parameter| name(parameter)).collect();
    let kept = query.split('&').filter(|parameter| !parameter.is_empty() && !set.contains(&name(parameter)));
    let parameters: Vec<&str> = own.iter().copied().chain(kept).collect();
    let mut location = format!("{}{path}", base.trim_end_matches('/'));
    if !parameters.is_empty() {
        location = format!("{location}?{}", parameters.join("&"));
    }
    match fragment {
        Some(fragment) => format!("{location}#{fragment}"),
        None => location,
    }
}

fn parse_headers(settings: &RuleSettings) -> Result<Vec<HeaderTemplate>, Problem> {
    let mut templates = Vec::new();
    for name in &settings.delete_headers {
        templates.push(HeaderTemplate::Delete(header_name(name)?));
    }
    for (name, value) in &settings.set_headers {
        templates.push(HeaderTemplate::Set(header_name(name)?, header_value(value)?));
    }
    for (name, values) in &settings.add_headers {
        for value in values {
            templates.push(HeaderTemplate::Add(header_name(name)?, header_value(value)?));
        }
    }
    match templates.len() > HEADER_CHANGES_MAX {
        true => {
            Err(Problem::new(format!("{} header changes", templates.len())).expected(format!("at most {HEADER_CHANGES_MAX}")))
        }
        false => Ok(templates),
    }
}

fn header_name(name: &str) -> Result<Arc<str>, Problem> {
    // RFC 9110 section 5.6.2, token.
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || name.len() > HEADER_NAME_BYTES_MAX || !name.bytes().all(is_token) {
        return Err(Problem::new(format!("`{name}` is no header name"))
            .expected(format!("a token of at most {HEADER_NAME_BYTES_MAX} bytes")));
    }
    match FRAMING_HEADERS.contains(&&*name.to_ascii_lowercase()) {
        true => Err(Problem::new(format!("`{name}` frames the message and cannot be changed by a rule"))),
        false => Ok(Arc::from(name)),
    }
}

fn header_value(value: &str) -> Result<Vec<Segment>, Problem> {
    if value.len() > HEADER_VALUE_BYTES_MAX || has_controls(value) {
        return Err(Problem::new("the header value is too long or has control characters")
            .expected(format!("at most {HEADER_VALUE_BYTES_MAX} printable bytes")));
    }
    let mut segments = Vec::new();
    let mut rest = value;
    while let Some((text, after)) = rest.split_once("@{") {
        let (name, after) = after.split_once('}').ok_or_else(|| Problem::new("`@{` without its end").expected("`}`"))?;
        if !text.is_empty() {
            segments.push(Segment::Text(text.into()));
        }
        segments.push(Segment::Fact(variable(name)?));
        rest = after;
    }
    if !rest.is_empty() {
        segments.push(Segment::Text(rest.into()));
    }
    Ok(segments)
}

fn variable(name: &str) -> Result<FieldId, Problem> {
    if name == "device.posture" {
        return Err(Problem::new("`@{device.posture}` is not known here: posture comes from a client agent"));
    }
    let found = VARIABLES.iter().find(|(known, _)| *known == name).map(|(_, field)| *field);
    found.ok_or_else(|| {
        Problem::new(format!("there is no variable `@{{{name}}}`")).nearest(name, VARIABLES.iter().map(|(known, _)| *known))
    })
}

fn has_controls(text: &str) -> bool {
    text.chars().any(char::is_control)
}

impl HeaderTemplate {
    fn expand(&self, facts: &Facts) -> HeaderChange {
        match self {
            HeaderTemplate::Delete(name) => HeaderChange::Delete { name: name.clone() },
            HeaderTemplate::Set(name, value) => HeaderChange::Set { name: name.clone(), value: expand(value, facts) },
            HeaderTemplate::Add(name, value) => HeaderChange::Add { name: name.clone(), value: expand(value, facts) },
        }
    }
}

fn expand(segments: &[Segment], facts: &Facts) -> Arc<str> {
    let texts = segments.iter().map(|segment| match segment {
        Segment::Text(text) => Cow::Borrowed(&**text),
        Segment::Fact(field) => Cow::Owned(resolve(*field, facts).unwrap_or_default()),
    });
    texts.collect::<String>().into()
}

/// A fact comes from strangers: one with a line break would write headers of its own, and counts as unknown.
fn resolve(field: FieldId, facts: &Facts) -> Option<String> {
    facts.get(field).map(Value::to_string).filter(|text| !has_controls(text))
}
