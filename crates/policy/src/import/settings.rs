//! The settings of an imported rule: those that have a counterpart are carried over, every other one that is switched on
//! is named with the reason why it stays behind (GW-020 to GW-041).

use std::net::{IpAddr, SocketAddr};

use model::verdict::UntrustedCertificate;
use model::{Action, Gate};
use serde_json::{Map, Value};

use super::source::object;
use crate::document::{Redirect, RuleSettings};

/// Port of a resolver that names none (GW-035).
const DNS_PORT: u16 = 53;

/// Settings without a counterpart here, and why.
const LEFT_BEHIND: &[(&str, &str)] = &[
    ("notification_settings", "there is no client agent to show a notification (GW-026)"),
    ("check_session", "the age of a sign-on is not known here (GW-027)"),
    ("biso_admin_controls", "isolated browsing has no controls here (GW-038)"),
    ("payload_log", "matches of data-loss profiles are not kept (GW-040)"),
    ("forensic_copy", "whole requests are not copied (GW-040)"),
    ("allow_child_bypass", "there are no child accounts (GW-041)"),
    ("bypass_parent_rule", "there are no parent accounts (GW-041)"),
    ("audit_ssh", "commands of SSH sessions are not recorded (AC-11)"),
    ("egress", "the address of departure is not chosen by rules (GW-030)"),
    ("l4override", "destinations of connections are not rewritten (GW-029)"),
    ("quarantine", "there is no quarantine (GW-039)"),
];

/// The settings as a document has them, and what stays behind as (setting, reason).
pub(super) fn settings(gate: Gate, action: Action, source: &Value) -> (RuleSettings, Vec<(String, String)>) {
    let mut settings = RuleSettings::default();
    let Some(source) = object(source) else { return (settings, Vec::new()) };
    let mut lost: Vec<(String, String)> = LEFT_BEHIND
        .iter()
        .filter(|(name, _)| source.get(*name).is_some_and(is_on))
        .map(|(name, reason)| ((*name).to_owned(), (*reason).to_owned()))
        .collect();
    if gate == Gate::Dns {
        let has = |name: &str| source.get(name).is_some_and(is_on);
        settings.ip_categories = has("ip_categories");
        settings.ip_indicator_feeds = has("ip_indicator_feeds");
        settings.ignore_cname_category_matches = has("ignore_cname_category_matches");
    }
    let text = |name: &str| source.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    match (gate, action) {
        (_, Action::Block) => {
            settings.block_reason = text("block_reason").or_else(|| text("block_page_reason"));
            settings.block_page = gate == Gate::Dns && source.get("block_page_enabled").is_some_and(is_on);
            if gate == Gate::Web {
                settings.redirect = source.get("block_page").and_then(redirect);
            }
        }
        (Gate::Web, Action::Redirect) => settings.redirect = source.get("redirect").and_then(redirect),
        (Gate::Web, Action::Allow) => headers(source, &mut settings, &mut lost),
        (Gate::Dns, Action::Allow) => {
            settings.danger_skip_dnssec = source.get("insecure_disable_dnssec_validation").is_some_and(is_on);
        }
        (Gate::Dns, Action::Override) => {
            settings.override_host = text("override_host");
            let addresses = source.get("override_ips").and_then(Value::as_array).into_iter().flatten();
            settings.override_ips = addresses.filter_map(|ip| ip.as_str()?.parse().ok()).collect();
        }
        (Gate::Dns, Action::Resolve) => resolvers(source, &mut settings, &mut lost),
        _ => {}
    }
    (settings, lost)
}

/// Whether a setting says anything: true, or an object or array in which something does.
fn is_on(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(_) => true,
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => values.iter().any(is_on),
        Value::Object(values) if values.get("enabled") == Some(&Value::Bool(false)) => false,
        Value::Object(values) => values.values().any(is_on),
    }
}

fn redirect(source: &Value) -> Option<Redirect> {
    let source = object(source)?;
    let is_set = |name| source.get(name).is_some_and(is_on);
    Some(Redirect {
        target_uri: source.get("target_uri")?.as_str()?.to_owned(),
        include_context: is_set("include_context"),
        danger_plain_context: false,
        preserve_path_and_query: is_set("preserve_path_and_query"),
    })
}

fn headers(source: &Map<String, Value>, settings: &mut RuleSettings, lost: &mut Vec<(String, String)>) {
    let pairs = |name: &str| source.get(name).and_then(object).into_iter().flatten();
    for (name, values) in pairs("add_headers") {
        settings.add_headers.insert(name.clone(), texts(values));
    }
    for (name, values) in pairs("set_headers") {
        match texts(values).as_slice() {
            [value] => drop(settings.set_headers.insert(name.clone(), value.clone())),
            _ => lost.push((format!("set_headers.{name}"), "a header is set to one value".to_owned())),
        }
    }
    settings.delete_headers = source.get("delete_headers").map(texts).unwrap_or_default();
    let action = source.get("untrusted_cert").and_then(object).and_then(|certificate| certificate.get("action")?.as_str());
    settings.untrusted_cert = match action {
        Some("block") => Some(UntrustedCertificate::Block),
        Some("pass_through") => Some(UntrustedCertificate::PassThrough),
        Some("error") => Some(UntrustedCertificate::Error),
        _ => None,
    };
}

/// One text or many.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(values) => values.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect(),
        _ => Vec::new(),
    }
}

fn resolvers(source: &Map<String, Value>, settings: &mut RuleSettings, lost: &mut Vec<(String, String)>) {
    for (name, reason) in [
        ("resolve_dns_internally", "there are no internal views (GW-036)"),
        ("resolve_dns_through_cloudflare", "name the resolver's addresses instead (GW-037)"),
    ] {
        if source.get(name).is_some_and(is_on) {
            lost.push((name.to_owned(), reason.to_owned()));
        }
    }
    let Some(families) = source.get("dns_resolvers").and_then(object) else { return };
    for family in ["ipv4", "ipv6"] {
        for resolver in families.get(family).and_then(Value::as_array).into_iter().flatten() {
            let ip = resolver.get("ip").and_then(|ip| ip.as_str()?.parse::<IpAddr>().ok());
            let port = resolver.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
            settings.resolvers.extend(ip.map(|ip| SocketAddr::new(ip, port.filter(|port| *port != 0).unwrap_or(DNS_PORT))));
            if ["vnet_id", "route_through_private_network"].iter().any(|name| resolver.get(*name).is_some_and(is_on)) {
                let reason = "the resolver is reached by this machine's own routes".to_owned();
                lost.push(("dns_resolvers: the virtual network".to_owned(), reason));
            }
        }
    }
}
