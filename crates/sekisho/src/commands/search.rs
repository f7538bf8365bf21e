//! `search` and `touched`: the record, by expression and by indicator.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde_json::Value as Json;

use super::{ago, ask};
use crate::operations::Request;

/// How often a followed search asks for more.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, ValueEnum)]
pub enum Format {
    Table,
    Json,
    Csv,
}

#[derive(Args)]
pub struct SearchArguments {
    /// An expression, such as 'dns.fqdn contains "example" and verdict == "blocked"'; empty finds everything.
    #[arg(default_value = "")]
    expression: String,
    /// How far back: 15m, 24h, 7d.
    #[arg(long, default_value = "24h")]
    since: String,
    /// Only this user's.
    #[arg(long)]
    user: Option<String>,
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    #[arg(long, default_value_t = 200)]
    limit: usize,
    /// Go on with events as they are recorded.
    #[arg(long)]
    follow: bool,
}

#[derive(Args)]
pub struct TouchedArguments {
    /// Domains, URLs, IP addresses, SHA-256s or users.
    indicators: Vec<String>,
    /// A file with one indicator a line.
    #[arg(long)]
    file: Option<PathBuf>,
    #[arg(long)]
    json: bool,
}

/// Columns of the table, by field; the first that an event has is shown.
const COLUMNS: &[(&str, &[&str])] = &[
    ("time", &["event.time"]),
    ("gate", &["event.gate"]),
    ("outcome", &["verdict.outcome"]),
    ("who", &["identity.email", "net.src.ip"]),
    ("what", &["http.request.uri", "dns.fqdn", "http.request.host", "net.sni.host"]),
    ("why", &["verdict.reason", "verdict.rule", "event.failure"]),
];

pub fn search(data: &Path, arguments: &SearchArguments) -> Result<ExitCode> {
    let mut expression = arguments.expression.clone();
    if let Some(user) = &arguments.user {
        let literal = user.replace('\\', "\\\\").replace('"', "\\\"");
        let asked = format!("identity.email == \"{literal}\"");
        expression = if expression.trim().is_empty() { asked } else { format!("({expression}) and {asked}") };
    }
    let since = Some(ago(&arguments.since)?.0);
    let request = Request::Search { expression: expression.clone(), since, until: None, limit: arguments.limit };
    let answer = ask(data, request)?;
    let mut events = answer["events"].as_array().cloned().unwrap_or_default();
    events.reverse();
    print_events(&events, arguments.format, true)?;
    if arguments.follow {
        let last = events.iter().filter_map(|event| event["event.id"].as_i64()).max().unwrap_or(0);
        follow(data, &expression, arguments.format, last)?;
    }
    Ok(if events.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn follow(data: &Path, expression: &str, format: Format, mut after: i64) -> Result<()> {
    loop {
        std::thread::sleep(FOLLOW_EVERY);
        let answer = ask(data, Request::Follow { expression: expression.to_owned(), after })?;
        after = answer["after"].as_i64().unwrap_or(after);
        print_events(answer["events"].as_array().map_or(&[], Vec::as_slice), format, false)?;
    }
}

fn print_events(events: &[Json], format: Format, with_head: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match format {
        Format::Json => {
            for event in events {
                writeln!(out, "{event}")?;
            }
        }
        Format::Csv => csv(&mut out, events, with_head)?,
        Format::Table => table(&mut out, events, with_head)?,
    }
    Ok(())
}

fn cell(event: &Json, fields: &[&str]) -> String {
    let value = fields.iter().map(|field| &event[*field]).find(|value| !value.is_null());
    let text = match value {
        Some(Json::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    };
    // Names and URLs are strangers' text: a terminal must not obey what stands in them.
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn table(out: &mut impl Write, events: &[Json], with_head: bool) -> Result<()> {
    let row = |cells: Vec<String>| {
        let mut cells = cells.into_iter();
        let mut next = || cells.next().unwrap_or_default();
        format!("{:<24} {:<4} {:<11} {:<24} {:<60} {}", next(), next(), next(), next(), next(), next())
    };
    if with_head {
        writeln!(out, "{}", row(COLUMNS.iter().map(|(head, _)| (*head).to_owned()).collect()))?;
    }
    for event in events {
        writeln!(out, "{}", row(COLUMNS.iter().map(|(_, fields)| cell(event, fields)).collect()))?;
    }
    Ok(())
}

fn csv(out: &mut impl Write, events: &[Json], with_head: bool) -> Result<()> {
    if with_head {
        writeln!(out, "{}", COLUMNS.iter().map(|(head, _)| *head).collect::<Vec<_>>().join(","))?;
    }
    for event in events {
        writeln!(out, "{}", COLUMNS.iter().map(|(_, fields)| quoted(&cell(event, fields))).collect::<Vec<_>>().join(","))?;
    }
    Ok(())
}

/// RFC 4180 quoting. A cell that a spreadsheet would take for a formula is led by an apostrophe.
fn quoted(text: &str) -> String {
    let text = if text.starts_with(['=', '+', '-', '@']) { format!("'{text}") } else { text.to_owned() };
    format!("\"{}\"", text.replace('"', "\"\""))
}

pub fn touched(data: &Path, arguments: &TouchedArguments) -> Result<ExitCode> {
    let mut indicators = arguments.indicators.clone();
    if let Some(path) = &arguments.file {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        indicators.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
    }
    anyhow::ensure!(!indicators.is_empty(), "name an indicator, or a file of them with --file");
    let answer = ask(data, Request::Touched { indicators })?;
    let sightings = answer["sightings"].as_array().cloned().unwrap_or_default();
    if arguments.json {
        println!("{}", Json::Array(sightings.clone()));
    } else {
        for sighting in &sightings {
            println!("{}", sighting_line(sighting));
        }
        if sightings.is_empty() {
            println!("nobody");
        }
    }
    Ok(if sightings.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn sighting_line(sighting: &Json) -> String {
    let who = [cell(sighting, &["user"]), cell(sighting, &["device"]), cell(sighting, &["src_ip"])];
    let who: Vec<String> = who.into_iter().filter(|text| !text.is_empty()).collect();
    let time =
        |name: &str| sighting[name].as_i64().map_or_else(String::new, |at| crate::operations::time_text(model::Timestamp(at)));
    format!(
        "{}\t{}\t{} times, {} blocked\tfirst {}\tlast {}",
        cell(sighting, &["value"]),
        who.join(" "),
        sighting["count"],
        sighting["blocked"],
        time("first"),
        time("last")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_text_cannot_steer_a_terminal_or_a_spreadsheet() {
        let event = serde_json::json!({ "dns.fqdn": "a\u{1b}[2Jb" });
        assert_eq!(cell(&event, &["dns.fqdn"]), "a\u{fffd}[2Jb");
        assert_eq!(quoted("=1+1"), "\"'=1+1\"");
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }
}
