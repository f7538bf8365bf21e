//! `explain` and `replay`: why something would be decided so, and what another policy would have decided.

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use model::Gate;
use serde_json::Value as Json;

use super::policy::read_documents;
use super::{ask, moment, shown};
use crate::operations::Request;

#[derive(Args)]
pub struct ExplainArguments {
    #[command(subcommand)]
    what: Explained,
    /// Ask as this user.
    #[arg(long, global = true)]
    user: Option<String>,
    /// Ask from this address.
    #[arg(long, global = true)]
    source: Option<IpAddr>,
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Explained {
    /// A DNS question.
    Dns {
        name: String,
        #[arg(default_value = "A")]
        query_type: String,
    },
    /// A web request.
    Web {
        url: String,
        #[arg(long, default_value = "GET")]
        method: String,
    },
}

#[derive(Args)]
pub struct ReplayArguments {
    /// The first moment: 24h, 7d ago, 2026-11-24 (local time) or RFC 3339.
    #[arg(long, default_value = "7d")]
    since: String,
    /// A folder or file of documents to try; without it the current policy is replayed.
    #[arg(long)]
    policy: Option<PathBuf>,
    #[arg(long)]
    json: bool,
}

pub fn explain(data: &Path, arguments: &ExplainArguments) -> Result<ExitCode> {
    let (user, source) = (arguments.user.clone(), arguments.source);
    let request = match &arguments.what {
        Explained::Dns { name, query_type } => Request::Explain {
            gate: Gate::Dns,
            host: name.clone(),
            scheme: String::new(),
            port: None,
            path: String::new(),
            method: String::new(),
            query_type: query_type.to_ascii_uppercase(),
            user,
            source,
        },
        Explained::Web { url, method } => {
            let uri = web_uri(url)?;
            let host = uri.host().unwrap_or_default();
            Request::Explain {
                gate: Gate::Web,
                host: host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned(),
                scheme: uri.scheme_str().unwrap_or_default().to_owned(),
                port: uri.port_u16(),
                path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
                // Methods are case-sensitive (RFC 9110 section 9.1); nobody means another one by `get`.
                method: method.to_ascii_uppercase(),
                query_type: String::new(),
                user,
                source,
            }
        }
    };
    let answer = ask(data, request)?;
    if arguments.json {
        writeln!(std::io::stdout(), "{answer}")?;
    } else {
        std::io::stdout().write_all(explanation_text(&answer).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A web address as people write it: without a scheme it is `https`.
fn web_uri(text: &str) -> Result<hyper::Uri> {
    let whole = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let uri: hyper::Uri = whole.parse().with_context(|| format!("`{text}` is no URL"))?;
    ensure!(matches!(uri.scheme_str(), Some("http" | "https")), "`{text}` is neither http nor https");
    ensure!(uri.host().is_some_and(|host| !host.is_empty()), "`{text}` has no host");
    Ok(uri)
}

/// The explanation for people: questions, and under each its rules in order.
fn explanation_text(answer: &Json) -> String {
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    let mut page = format!("policy revision {}, at station {}\n", answer["revision"], text(&answer["station"]));
    for question in answer["questions"].as_array().into_iter().flatten() {
        let by = question["rule"].as_str().map_or_else(|| "the default".to_owned(), |rule| format!("rule `{rule}`"));
        let outcome =
            question["action"].as_str().map_or_else(|| format!("open: {by} waits"), |action| format!("{action}, by {by}"));
        page.push_str(&format!("\n{}? {outcome}\n", text(&question["question"])));
        for rule in question["rules"].as_array().into_iter().flatten() {
            page.push_str(&rule_text(rule));
        }
    }
    page
}

fn rule_text(rule: &Json) -> String {
    let text = |name: &str| rule[name].as_str().unwrap_or_default();
    let mark = if rule["is_read"] == true { text("value") } else { "not read" };
    let waits: Vec<&str> = rule["waits_for"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    let waits = if waits.is_empty() { String::new() } else { format!(" (waits for {})", waits.join(", ")) };
    format!("  {mark:<9}{} -> {}{waits}\n           {}\n", text("name"), text("action"), text("expression"))
}

pub fn replay(data: &Path, arguments: &ReplayArguments) -> Result<ExitCode> {
    let documents = arguments.policy.as_deref().map(read_documents).transpose()?;
    let answer = ask(data, Request::Replay { since: moment(&arguments.since)?.0, documents })?;
    if arguments.json {
        writeln!(std::io::stdout(), "{answer}")?;
    } else {
        std::io::stdout().write_all(replay_text(&answer).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What would change: how many from what to what, then the transactions themselves.
fn replay_text(answer: &Json) -> String {
    let text = |value: &Json| shown(value.as_str().unwrap_or_default());
    let mut page = String::new();
    for warning in answer["warnings"].as_array().into_iter().flatten() {
        page.push_str(&format!("warning: {}\n", text(warning)));
    }
    page.push_str(&format!("{} events read, {} would be decided differently\n", answer["read"], answer["changed"]));
    if answer["cut"] == true {
        page.push_str("there are more events than one replay reads; the oldest are not among these\n");
    }
    for transition in answer["transitions"].as_array().into_iter().flatten() {
        let (count, before, after) = (&transition["count"], text(&transition["before"]), text(&transition["after"]));
        page.push_str(&format!("{:>8}  {before} -> {after}\n", count.to_string()));
    }
    let changes = answer["changes"].as_array().map_or(&[][..], Vec::as_slice);
    if answer["changed"].as_u64().unwrap_or_default() > changes.len() as u64 {
        page.push_str(&format!("\n{} of them:\n", changes.len()));
    } else if !changes.is_empty() {
        page.push('\n');
    }
    for change in changes {
        let event = &change["event"];
        let first = |fields: &[&str]| fields.iter().find_map(|field| event[*field].as_str()).map(shown).unwrap_or_default();
        let (what, who) =
            (first(&["http.request.uri", "dns.fqdn", "http.request.host"]), first(&["identity.email", "net.src.ip"]));
        let (before, after) = (text(&change["before"]), text(&change["after"]));
        page.push_str(&format!("{}  {who}  {what}  {before} -> {after}\n", first(&["event.time"])));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_web_address_may_lack_its_scheme_and_nothing_else() {
        for (text, host) in [("example.com/x", "example.com"), ("http://a.test:8080", "a.test"), ("https://[::1]/", "[::1]")] {
            assert_eq!(web_uri(text).ok().as_ref().and_then(hyper::Uri::host), Some(host), "{text}");
        }
        for wrong in ["", "https://", "ftp://a.test/", "a b", "https:///x"] {
            assert!(web_uri(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_replay_counts_each_transition_and_lists_some() {
        let answer = serde_json::json!({
            "read": 10, "changed": 3, "cut": false, "warnings": ["rule `x` never matches"],
            "transitions": [{ "before": "allow", "after": "block by x", "count": 3 }],
            "changes": [{ "before": "allow", "after": "block by x", "event": {
                "event.time": "2026-11-24T00:00:00.000Z", "dns.fqdn": "a\u{1b}b.test", "net.src.ip": "192.0.2.1" } }],
        });
        let expected = "warning: rule `x` never matches\n10 events read, 3 would be decided differently\n       3  allow -> block by x\n\n\
                        1 of them:\n2026-11-24T00:00:00.000Z  192.0.2.1  a\u{fffd}b.test  allow -> block by x\n";
        assert_eq!(replay_text(&answer), expected);
    }
}
