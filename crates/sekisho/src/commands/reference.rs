//! `reference`: from what a person reads out, or a page elsewhere was handed, to the event.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::Value as Json;

use super::ask;
use crate::operations::Request;
use crate::up::context_key;

/// A transaction and the requests inside its tunnel have numbers of their own, so one number is one event; more would be a
/// counter that was set back.
const EVENTS_MAX: usize = 16;
const REFERENCE_DIGITS: usize = 16;

#[derive(Args)]
pub struct ReferenceArguments {
    /// The reference on a page (sixteen hexadecimal digits), the token `skx_...`, or a whole URL that carries one.
    text: String,
    #[arg(long)]
    json: bool,
}

/// Exit code 1 where the token is genuine and its event is no longer kept.
pub fn reference(data: &Path, arguments: &ReferenceArguments) -> Result<ExitCode> {
    let reference = number(data, &arguments.text)?;
    let expression = format!("event.reference == \"{reference}\"");
    let answer = ask(data, Request::Search { expression, since: None, until: None, limit: EVENTS_MAX })?;
    let events = answer["events"].as_array().cloned().unwrap_or_default();
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&events)?);
    }
    for event in events.iter().filter(|_| !arguments.json) {
        for (field, value) in event.as_object().into_iter().flatten() {
            println!("{field:<36} {}", shown(value));
        }
    }
    if events.is_empty() {
        eprintln!("no event with the reference {reference} is kept");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// The digits that `event.reference` holds.
fn number(data: &Path, text: &str) -> Result<String> {
    let token = text.split(['?', '&', '=', '#']).find(|part| gate_web::is_context_token(part));
    if let Some(token) = token {
        ensure!(data.join("context.key").exists(), "there is no installation in {}; name it with --data", data.display());
        let opened = context_key(data)?.open(token).context("this token was not made here, or was changed")?;
        return Ok(format!("{:016x}", opened.reference));
    }
    let is_number = text.len() == REFERENCE_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match is_number {
        true => Ok(text.to_ascii_lowercase()),
        false => bail!("`{text}` is neither a reference nor a token"),
    }
}

fn shown(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_told_from_a_strangers_token() -> Result<()> {
        let folder = tempfile::tempdir()?;
        context_key(folder.path())?;
        assert_eq!(number(folder.path(), "00000000000000FF")?, "00000000000000ff");
        let foreign = "https://c.example/?sekisho_context=skx_AAAA";
        for (text, part) in [(foreign, "not made here"), ("12", "neither"), ("", "neither"), ("g000000000000000", "neither")] {
            let told = number(folder.path(), text).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(told.contains(part), "{text}: {told}");
        }
        assert!(number(&folder.path().join("absent"), foreign).is_err());
        Ok(())
    }
}
