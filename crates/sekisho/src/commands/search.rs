//! `search` and `touched`: the record, by expression and by indicator.

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::Value as Json;

use super::{ask, ask_running, moment, quoted, shown};
use crate::operations::{Request, field_named, sightings_json};

/// How often a followed search asks for more.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    /// One JSON object a line.
    Json,
    Csv,
}

#[derive(Args)]
pub struct SearchArguments {
    /// An expression, such as 'dns.fqdn contains "example" and verdict.outcome == "blocked"'; empty finds everything.
    #[arg(default_value = "")]
    expression: String,
    /// The first moment: 15m, 24h, 7d ago, 2026-11-24, 2026-11-24T10:30 (local time) or RFC 3339.
    #[arg(long, default_value = "24h")]
    since: String,
    /// The first moment that does not count any more; written as --since is.
    #[arg(long)]
    until: Option<String>,
    /// Only this user's.
    #[arg(long)]
    user: Option<String>,
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// The newest so many; with --count-by, the most frequent so many values.
    #[arg(long, default_value_t = 200)]
    limit: usize,
    /// Fields to show as columns of the table or CSV, with commas between them.
    #[arg(long, value_delimiter = ',', conflicts_with = "count_by")]
    fields: Vec<String>,
    /// Count by the value of this field, in place of the events.
    #[arg(long, value_name = "FIELD", conflicts_with = "follow")]
    count_by: Option<String>,
    /// Go on with events as they are recorded.
    #[arg(long, conflicts_with = "until")]
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

/// A column: its head, its fields, of which the first that an event has is shown, and its width in the table.
struct Column {
    head: String,
    fields: Vec<String>,
    width: usize,
}

/// The columns where none are named.
const COLUMNS: &[(&str, &[&str], usize)] = &[
    ("time", &["event.time"], 24),
    ("gate", &["event.gate"], 4),
    ("outcome", &["verdict.outcome"], 11),
    ("who", &["identity.email", "net.src.ip"], 24),
    ("what", &["http.request.uri", "dns.fqdn", "http.request.host", "net.sni.host"], 60),
    ("why", &["verdict.reason", "verdict.rule", "event.failure"], 0),
];

/// The columns asked for by field name or another name of the field, or the usual ones.
fn columns(fields: &[String]) -> Result<Vec<Column>> {
    if fields.is_empty() {
        let usual = COLUMNS.iter().map(|(head, fields, width)| Column {
            head: (*head).to_owned(),
            fields: fields.iter().map(|field| (*field).to_owned()).collect(),
            width: *width,
        });
        return Ok(usual.collect());
    }
    let column = |name: &String| {
        // These two are no facts of a transaction and so no rows of the field table.
        let name = match name.trim() {
            own @ ("event.id" | "event.class") => own,
            name => field_named(name)?.row().name,
        };
        let width = if name == "event.time" { 24 } else { name.len() };
        Ok(Column { head: name.to_owned(), fields: vec![name.to_owned()], width })
    };
    fields.iter().map(column).collect()
}

pub fn search(data: &Path, arguments: &SearchArguments) -> Result<ExitCode> {
    let expression = expression(arguments);
    let since = moment(&arguments.since)?;
    let until = arguments.until.as_deref().map(moment).transpose()?.map(|until| until.0);
    ensure!(until.is_none_or(|until| since.0 < until), "--until is not after --since");
    if let Some(by) = &arguments.count_by {
        let request = Request::Count { expression, since: Some(since.0), until, by: by.clone(), limit: arguments.limit };
        return count(&ask(data, request)?, by, arguments.format);
    }
    let columns = columns(&arguments.fields)?;
    // Where to go on is asked first: what is recorded meanwhile is then seen twice and shown once.
    let follow_from = match arguments.follow {
        true => ask(data, Request::Follow { expression: expression.clone(), after: None })?["after"].as_i64(),
        false => None,
    };
    let answer =
        ask(data, Request::Search { expression: expression.clone(), since: Some(since.0), until, limit: arguments.limit })?;
    let mut events = answer["events"].as_array().cloned().unwrap_or_default();
    events.reverse();
    print_events(&events, &columns, arguments.format, !events.is_empty() || arguments.follow)?;
    if answer["cut"] == true {
        eprintln!("these are the newest {}; there are more: narrow the search, or raise --limit", events.len());
    }
    if events.is_empty() && !arguments.follow && arguments.format == Format::Table {
        eprintln!("nothing found since {}", crate::operations::time_text(since));
    }
    if let Some(after) = follow_from {
        let seen = events.iter().filter_map(|event| event["event.id"].as_i64()).collect();
        follow(data, &expression, &columns, arguments.format, (after, since, seen))?;
    }
    Ok(if events.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn expression(arguments: &SearchArguments) -> String {
    let Some(user) = &arguments.user else { return arguments.expression.clone() };
    let literal = user.replace('\\', "\\\\").replace('"', "\\\"");
    let asked = format!("identity.email == \"{literal}\"");
    match arguments.expression.trim() {
        "" => asked,
        expression => format!("({expression}) and {asked}"),
    }
}

fn follow(
    data: &Path,
    expression: &str,
    columns: &[Column],
    format: Format,
    (mut after, since, mut seen): (i64, model::Timestamp, HashSet<i64>),
) -> Result<()> {
    // Times of one form and one zone compare as text.
    let since = crate::operations::time_text(since);
    loop {
        let answer = ask(data, Request::Follow { expression: expression.to_owned(), after: Some(after) })?;
        after = answer["after"].as_i64().unwrap_or(after);
        let is_new = |event: &&Json| {
            let is_seen = event["event.id"].as_i64().is_some_and(|id| seen.contains(&id));
            !is_seen && event["event.time"].as_str() >= Some(since.as_str())
        };
        let events = answer["events"].as_array().into_iter().flatten().filter(is_new).cloned().collect::<Vec<_>>();
        print_events(&events, columns, format, false)?;
        if answer["more"] != true {
            // What was shown before lies behind now.
            seen.clear();
            std::thread::sleep(FOLLOW_EVERY);
        }
    }
}

/// Counts, the most frequent first. The exit code tells whether anything matched.
fn count(answer: &Json, by: &str, format: Format) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let counts = answer["counts"].as_array().map_or(&[][..], Vec::as_slice);
    let rows = counts.iter().map(|row| (row[0].as_str().unwrap_or_default(), row[1].as_u64().unwrap_or_default()));
    match format {
        Format::Json => writeln!(out, "{answer}")?,
        Format::Csv => {
            writeln!(out, "{},count", quoted(by))?;
            rows.into_iter().try_for_each(|(value, count)| writeln!(out, "{},{count}", quoted(&shown(value))))?;
        }
        Format::Table => {
            rows.into_iter().try_for_each(|(value, count)| writeln!(out, "{count:>10}  {}", shown(value)))?;
            let absent = answer["absent"].as_u64().unwrap_or_default();
            eprintln!("{} events, {} values of {by}; {absent} events without it", answer["events"], answer["values"]);
        }
    }
    Ok(if answer["events"] == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print_events(events: &[Json], columns: &[Column], format: Format, with_head: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match format {
        Format::Json => {
            for event in events {
                writeln!(out, "{event}")?;
            }
        }
        Format::Csv => csv(&mut out, events, columns, with_head)?,
        Format::Table => table(&mut out, events, columns, with_head)?,
    }
    out.flush()?;
    Ok(())
}

/// A cell as text. Names and URLs are strangers' text: a terminal must not obey what stands in them.
fn cell<S: AsRef<str>>(event: &Json, fields: &[S]) -> String {
    let value = fields.iter().map(|field| &event[field.as_ref()]).find(|value| !value.is_null());
    match value {
        Some(Json::String(text)) => shown(text),
        Some(Json::Array(elements)) => {
            elements.iter().map(|element| cell(&serde_json::json!({ "": element }), &[""])).collect::<Vec<_>>().join(" ")
        }
        Some(value) => shown(&value.to_string()),
        None => String::new(),
    }
}

fn table(out: &mut impl Write, events: &[Json], columns: &[Column], with_head: bool) -> Result<()> {
    let line = |cells: &mut dyn Iterator<Item = String>| {
        let padded = cells.zip(columns).map(|(cell, column)| format!("{cell:<width$}", width = column.width));
        padded.collect::<Vec<_>>().join(" ").trim_end().to_owned()
    };
    if with_head {
        writeln!(out, "{}", line(&mut columns.iter().map(|column| column.head.clone())))?;
    }
    for event in events {
        writeln!(out, "{}", line(&mut columns.iter().map(|column| cell(event, &column.fields))))?;
    }
    Ok(())
}

fn csv(out: &mut impl Write, events: &[Json], columns: &[Column], with_head: bool) -> Result<()> {
    if with_head {
        writeln!(out, "{}", columns.iter().map(|column| column.head.as_str()).collect::<Vec<_>>().join(","))?;
    }
    for event in events {
        writeln!(out, "{}", columns.iter().map(|column| quoted(&cell(event, &column.fields))).collect::<Vec<_>>().join(","))?;
    }
    Ok(())
}

pub fn touched(data: &Path, arguments: &TouchedArguments) -> Result<ExitCode> {
    let mut indicators = arguments.indicators.clone();
    if let Some(path) = &arguments.file {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        indicators.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
    }
    anyhow::ensure!(!indicators.is_empty(), "name an indicator, or a file of them with --file");
    let answer = look_up(data, indicators)?;
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

/// Asks the running program, or reads the record as it lies there: a look-up needs no policy and changes nothing.
fn look_up(data: &Path, indicators: Vec<String>) -> Result<Json> {
    let request = Request::Touched { indicators };
    if let Some(answer) = ask_running(data, &request)? {
        return Ok(answer);
    }
    let events = data.join("events");
    // What a crash left in the spool is part of the record only after the store was opened.
    let is_spooled = std::fs::read_dir(events.join("spool")).is_ok_and(|mut files| files.next().is_some());
    match request {
        Request::Touched { indicators } if data.join("policy.redb").exists() && events.is_dir() && !is_spooled => {
            let indicators = indicators.into_iter().map(store::Indicator::guess).collect::<Vec<_>>();
            Ok(sightings_json(store::Reader::open(events)?.touched(&indicators)?))
        }
        request => ask(data, request),
    }
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

    fn printed(events: &[Json], fields: &[&str]) -> Result<String> {
        let columns = columns(&fields.iter().map(|field| (*field).to_owned()).collect::<Vec<_>>())?;
        let mut out = Vec::new();
        csv(&mut out, events, &columns, true)?;
        Ok(String::from_utf8(out)?)
    }

    #[test]
    fn columns_are_fields_under_any_of_their_names() -> Result<()> {
        let event = serde_json::json!({ "net.src.ip": "192.0.2.1", "dns.resolved_ips": ["192.0.2.2", "192.0.2.3"], "dns.fqdn": "a\u{1b}[2Jb" });
        let text = printed(&[event], &["dns.src_ip", "dns.resolved_ips", "dns.fqdn", "file.sha256"])?;
        let expected = "net.src.ip,dns.resolved_ips,dns.fqdn,file.hash.sha256\n\"192.0.2.1\",\"192.0.2.2 192.0.2.3\",\"a\u{fffd}[2Jb\",\"\"\n";
        let head = expected.replace("file.hash.sha256", field_named("file.sha256")?.row().name);
        assert_eq!(text, head);
        Ok(())
    }

    #[test]
    fn an_unknown_column_is_refused_with_the_nearest() {
        let refused = printed(&[], &["dns.fqdm"]);
        assert!(refused.is_err_and(|error| error.to_string().contains("did you mean `dns.fqdn`")));
    }
}
