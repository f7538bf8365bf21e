//! `explain` and `replay`: why something would be decided so, and what another policy would have decided.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use model::Gate;
use serde_json::Value as Json;

use super::policy::read_documents;
use super::{ago, ask};
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
    /// How far back: 24h, 7d.
    #[arg(long, default_value = "7d")]
    since: String,
    /// A folder or file of documents to try; without it the current policy is replayed.
    #[arg(long)]
    policy: Option<PathBuf>,
}

pub fn explain(data: &Path, arguments: &ExplainArguments) -> Result<ExitCode> {
    let (user, source) = (arguments.user.clone(), arguments.source);
    let request = match &arguments.what {
        Explained::Dns { name, query_type } => Request::Explain {
            gate: Gate::Dns,
            host: name.clone(),
            path: String::new(),
            method: String::new(),
            query_type: query_type.to_ascii_uppercase(),
            user,
            source,
        },
        Explained::Web { url, method } => {
            let uri: hyper::Uri = url.parse().with_context(|| format!("`{url}` is no URL"))?;
            let host = uri.host().with_context(|| format!("`{url}` has no host"))?.to_owned();
            let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
            Request::Explain { gate: Gate::Web, host, path, method: method.clone(), query_type: String::new(), user, source }
        }
    };
    let answer = ask(data, request)?;
    if arguments.json {
        println!("{answer}");
    } else {
        print!("{}", explanation_text(&answer));
    }
    Ok(ExitCode::SUCCESS)
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
    let answer = ask(data, Request::Replay { since: ago(&arguments.since)?.0, documents })?;
    println!("{} events read, {} would be decided differently", answer["read"], answer["changed"]);
    for change in answer["changes"].as_array().into_iter().flatten() {
        let event = &change["event"];
        let what = ["http.request.uri", "dns.fqdn", "http.request.host"].iter().find_map(|field| event[*field].as_str());
        println!(
            "{}  {}  {} -> {}",
            event["event.time"].as_str().unwrap_or_default(),
            what.unwrap_or_default().escape_debug(),
            change["before"].as_str().unwrap_or_default(),
            change["after"].as_str().unwrap_or_default()
        );
    }
    Ok(ExitCode::SUCCESS)
}
