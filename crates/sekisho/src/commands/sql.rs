//! `sql`: questions in SQL over the record. The query runs in a worker of its own, wherever it is asked from.

use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;
use query::{Answer, Column, Cut, Outcome};
use serde_json::Value as Json;

use super::search::Format;
use super::{ask, moment, quoted, shown};
use crate::operations::Request;

/// A cell in the table; what is longer is cut, and whole in JSON and CSV.
const CELL_CHARACTERS_MAX: usize = 100;

/// The exit code of a query that a bound ended.
const ENDED_BY_BOUND: u8 = 3;

#[derive(Args)]
pub struct SqlArguments {
    /// One query, such as 'SELECT host, count(*) FROM events GROUP BY host ORDER BY 2 DESC LIMIT 20'; `-` reads it from
    /// standard input. Tables: events, sightings. `DESCRIBE events` lists the columns.
    query: String,
    /// Only what happened from then on: 24h, 7d ago, 2026-11-24 (local time) or RFC 3339. Everything, where it is left out.
    #[arg(long)]
    since: Option<String>,
    /// The first moment that does not count any more.
    #[arg(long)]
    until: Option<String>,
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Rows of the answer at most.
    #[arg(long, default_value_t = 1_000)]
    limit: usize,
}

pub fn worker() -> Result<ExitCode> {
    query::worker::run().map_err(|error| anyhow::Error::new(error).context("query worker"))?;
    Ok(ExitCode::SUCCESS)
}

/// Exit codes: 0 answered, 2 refused or failed, 3 ended by its bound of time or memory.
pub fn sql(data: &Path, arguments: &SqlArguments) -> Result<ExitCode> {
    let time = |text: &Option<String>| text.as_deref().map(moment).transpose().map(|at| at.map(|at| at.0));
    let (since, until) = (time(&arguments.since)?, time(&arguments.until)?);
    ensure!(until.is_none_or(|until| since.is_none_or(|since| since < until)), "--until is not after --since");
    let request = Request::Sql { sql: text(&arguments.query)?, since, until, limit: arguments.limit };
    let outcome: Outcome = serde_json::from_value(ask(data, request)?).context("the answer is none that this version knows")?;
    match outcome {
        Outcome::Answer(answer) => {
            print(&answer, arguments.format)?;
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Refused(refusal) => {
            eprintln!("sekisho: {}", shown(&refusal.message));
            Ok(ExitCode::from(if refusal.why.is_ended_by_bound() { ENDED_BY_BOUND } else { 2 }))
        }
    }
}

fn text(query: &str) -> Result<String> {
    if query != "-" {
        return Ok(query.to_owned());
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read the query from standard input")?;
    Ok(text)
}

fn print(answer: &Answer, format: Format) -> Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    match format {
        Format::Json => json(&mut out, answer)?,
        Format::Csv => csv(&mut out, answer)?,
        Format::Table => table(&mut out, answer)?,
    }
    out.flush()?;
    drop(out);
    match answer.cut {
        Some(Cut::Rows) => eprintln!("these are the first {} rows; there are more: raise --limit", answer.rows.len()),
        Some(Cut::Bytes) => eprintln!("these are the first {} rows; an answer may not be larger", answer.rows.len()),
        None if format == Format::Table => eprintln!("{} rows, {} ms", answer.rows.len(), answer.milliseconds),
        None => {}
    }
    Ok(())
}

/// One object a line, its members in the order of the columns. Of two columns of one name a reader keeps what it likes.
fn json(out: &mut impl Write, answer: &Answer) -> Result<()> {
    let names = answer.columns.iter().map(|column| Json::from(column.name.as_str()).to_string()).collect::<Vec<_>>();
    for row in &answer.rows {
        let members = names.iter().zip(row).map(|(name, cell)| format!("{name}:{cell}"));
        writeln!(out, "{{{}}}", members.collect::<Vec<_>>().join(","))?;
    }
    Ok(())
}

fn csv(out: &mut impl Write, answer: &Answer) -> Result<()> {
    let line = |cells: &mut dyn Iterator<Item = String>| cells.map(|cell| quoted(&cell)).collect::<Vec<_>>().join(",");
    writeln!(out, "{}", line(&mut answer.columns.iter().map(|column| shown(&column.name))))?;
    for row in &answer.rows {
        // A number is written bare, so that a negative one is not taken for a formula and led by an apostrophe.
        let cells = row.iter().map(|cell| if cell.is_number() { cell.to_string() } else { quoted(&cell_text(cell)) });
        writeln!(out, "{}", cells.collect::<Vec<_>>().join(","))?;
    }
    Ok(())
}

fn table(out: &mut impl Write, answer: &Answer) -> Result<()> {
    let cell = |cell: &Json| cut(&cell_text(cell));
    let rows = answer.rows.iter().map(|row| row.iter().map(cell).collect::<Vec<_>>()).collect::<Vec<_>>();
    let heads = answer.columns.iter().map(|Column { name, .. }| cut(&shown(name))).collect::<Vec<_>>();
    let numeric = (0..heads.len())
        .map(|place| answer.rows.iter().all(|row| row.get(place).is_none_or(|cell| cell.is_number() || cell.is_null())));
    let numeric = numeric.collect::<Vec<_>>();
    let width = |place: usize| {
        let cells = rows.iter().chain([&heads]).filter_map(|row| row.get(place));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths = (0..heads.len()).map(width).collect::<Vec<_>>();
    for row in [&heads].into_iter().chain(&rows) {
        let padded = row.iter().zip(&widths).zip(&numeric).map(|((cell, width), is_numeric)| match is_numeric {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        writeln!(out, "{}", padded.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

fn cell_text(cell: &Json) -> String {
    match cell {
        Json::Null => String::new(),
        Json::String(text) => shown(text),
        Json::Array(elements) => elements.iter().map(cell_text).collect::<Vec<_>>().join(" "),
        other => shown(&other.to_string()),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(CELL_CHARACTERS_MAX) {
        Some((place, _)) => format!("{}…", text.get(..place).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer() -> Answer {
        let column = |name: &str| Column { name: name.to_owned(), ty: String::new() };
        Answer {
            columns: vec![column("host"), column("n"), column("ips")],
            rows: vec![
                vec![json!("a\u{1b}[2J.test"), json!(-3), json!(["192.0.2.1", null])],
                vec![json!("=cmd()"), json!(12), json!(null)],
            ],
            cut: None,
            milliseconds: 1,
        }
    }

    fn written(print: impl Fn(&mut Vec<u8>) -> Result<()>) -> Result<String> {
        let mut out = Vec::new();
        print(&mut out)?;
        Ok(String::from_utf8(out)?)
    }

    #[test]
    fn each_format_shows_the_same_and_none_lets_a_stranger_steer() -> Result<()> {
        assert_eq!(
            written(|out| table(out, &answer()))?,
            "host         n  ips\na\u{fffd}[2J.test  -3  192.0.2.1\n=cmd()      12\n"
        );
        assert_eq!(
            written(|out| csv(out, &answer()))?,
            "\"host\",\"n\",\"ips\"\n\"a\u{fffd}[2J.test\",-3,\"192.0.2.1 \"\n\"'=cmd()\",12,\"\"\n"
        );
        assert_eq!(
            written(|out| json(out, &answer()))?,
            "{\"host\":\"a\\u001b[2J.test\",\"n\":-3,\"ips\":[\"192.0.2.1\",null]}\n{\"host\":\"=cmd()\",\"n\":12,\"ips\":null}\n"
        );
        Ok(())
    }
}
