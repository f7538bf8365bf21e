//! `check`, `apply`, `policy` and `import`: the policy as documents and revisions.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use policy::import::csv;
use policy::list::Kind;
use serde_json::Value as Json;

use super::ask;
use crate::config::Config;
use crate::operations::{Request, compile, time_text};

#[derive(Args)]
pub struct CheckArguments {
    /// Configuration file.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Policy documents: files, or folders of `.toml` files.
    policy: Vec<PathBuf>,
}

#[derive(Args)]
pub struct ApplyArguments {
    /// A document, or a folder of `.toml` documents, which are read in the order of their names.
    path: PathBuf,
    /// Say what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Why, for the history.
    #[arg(long, default_value = "")]
    note: String,
}

#[derive(Args)]
pub struct PolicyArguments {
    #[command(subcommand)]
    what: PolicyCommand,
}

#[derive(Subcommand)]
enum PolicyCommand {
    /// Every revision: number, time, author, note.
    History,
    /// Print the documents of a revision (the newest where none is named), or write them to a folder.
    Export {
        revision: Option<i64>,
        #[arg(long)]
        to: Option<PathBuf>,
    },
    /// What changed between two revisions.
    Diff { from: i64, to: i64 },
    /// Make the documents of an earlier revision the policy again.
    Rollback { revision: i64 },
}

#[derive(Args)]
pub struct ImportArguments {
    #[command(subcommand)]
    source: ImportSource,
}

#[derive(Subcommand)]
enum ImportSource {
    /// Gateway rules and lists as API JSON or Terraform state JSON; the documents go to standard output.
    Cloudflare {
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// A list as CSV: one entry a line, or with the header `value,description`. The document goes to standard output.
    List {
        file: PathBuf,
        /// Name of the list in the policy; that of the file where none is given.
        #[arg(long)]
        name: Option<String>,
        /// `domain`, `url`, `ip`, `hash`, `email`, `int` or `text`.
        #[arg(long)]
        kind: String,
    },
}

/// The documents at a path: the file, or the folder's `.toml` files by name.
pub fn read_documents(path: &Path) -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    if path.is_dir() {
        for entry in std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))? {
            let file = entry?.path();
            if file.extension().is_some_and(|ending| ending == "toml") {
                files.push(file);
            }
        }
        ensure!(!files.is_empty(), "{} has no .toml files", path.display());
        files.sort();
    } else {
        files.push(path.to_owned());
    }
    let read = |file: &PathBuf| {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok((name, text))
    };
    files.iter().map(read).collect()
}

pub fn check(data: &Path, arguments: &CheckArguments) -> Result<ExitCode> {
    if let Some(path) = &arguments.config {
        let config = Config::read(path)?;
        gate_l4::L4GateConfig::resolve(config.l4)?;
        println!("{}: ok", path.display());
    }
    for path in &arguments.policy {
        let (_, warnings) = compile(&read_documents(path)?, data)?;
        for warning in warnings {
            println!("warning: {warning}");
        }
        println!("{}: ok", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn author() -> String {
    std::env::var("SUDO_USER").or_else(|_| std::env::var("USER")).unwrap_or_else(|_| "unknown".to_owned())
}

pub fn apply(data: &Path, arguments: &ApplyArguments) -> Result<ExitCode> {
    let request = Request::Apply {
        documents: read_documents(&arguments.path)?,
        author: author(),
        note: arguments.note.clone(),
        dry_run: arguments.dry_run,
    };
    print_applied(&ask(data, request)?);
    Ok(ExitCode::SUCCESS)
}

fn print_applied(answer: &Json) {
    for warning in answer["warnings"].as_array().into_iter().flatten() {
        println!("warning: {}", warning.as_str().unwrap_or_default());
    }
    print!("{}", answer["difference"].as_str().unwrap_or_default());
    match (answer["changed"].as_bool(), answer["dry_run"].as_bool()) {
        (Some(true), Some(true)) => println!("would change; nothing was written"),
        (Some(true), _) => println!("applied as revision {}", answer["revision"]),
        _ => println!("no change"),
    }
}

pub fn policy(data: &Path, arguments: &PolicyArguments) -> Result<ExitCode> {
    match &arguments.what {
        PolicyCommand::History => history(&ask(data, Request::History)?),
        PolicyCommand::Export { revision, to } => export(&ask(data, Request::Export { revision: *revision })?, to.as_deref())?,
        PolicyCommand::Diff { from, to } => {
            let answer = ask(data, Request::Difference { from: *from, to: *to })?;
            print!("{}", answer["difference"].as_str().unwrap_or_default());
        }
        PolicyCommand::Rollback { revision } => {
            print_applied(&ask(data, Request::Rollback { revision: *revision, author: author() })?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn history(answer: &Json) {
    for revision in answer["revisions"].as_array().into_iter().flatten() {
        let time = time_text(model::Timestamp(revision["time"].as_i64().unwrap_or_default()));
        let text = |name: &str| revision[name].as_str().unwrap_or_default().to_owned();
        println!("{}\t{time}\t{}\t{}", revision["revision"], text("author"), text("note"));
    }
}

fn export(answer: &Json, to: Option<&Path>) -> Result<()> {
    for document in answer["documents"].as_array().into_iter().flatten() {
        let (name, text) = (document[0].as_str().unwrap_or_default(), document[1].as_str().unwrap_or_default());
        match to {
            None => print!("# {name}\n{text}"),
            Some(folder) => {
                std::fs::create_dir_all(folder)?;
                // The name came from a file name once; only its last part is used, so that it stays in the folder.
                let name = Path::new(name).file_name().context("a document without a name")?;
                std::fs::write(folder.join(name), text)?;
            }
        }
    }
    Ok(())
}

pub fn import(arguments: &ImportArguments) -> Result<ExitCode> {
    let files = match &arguments.source {
        ImportSource::Cloudflare { files } => files,
        ImportSource::List { file, name, kind } => return import_list(file, name.as_deref(), kind),
    };
    let read = |file: &PathBuf| std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()));
    let texts = files.iter().map(read).collect::<Result<Vec<String>>>()?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let imported = policy::import::cloudflare(&texts)?;
    print!("{}", imported.document.to_toml()?);
    eprint!("{}", imported.report);
    Ok(ExitCode::SUCCESS)
}

/// ON-07: every wrong line is named, and then there is no document.
fn import_list(file: &Path, name: Option<&str>, kind: &str) -> Result<ExitCode> {
    let known = || Kind::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ");
    let found = Kind::ALL.iter().find(|known| known.as_str() == kind);
    let kind = *found.with_context(|| format!("`{kind}` is none of {}", known()))?;
    let text = String::from_utf8(crate::knowledge::read_bounded(file)?);
    let text = text.with_context(|| format!("{} is not UTF-8", file.display()))?;
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let entries = csv::list(kind, &text).map_err(|problems| {
        let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{}: nothing was taken\n{}", file.display(), told.join("\n"))
    })?;
    print!("{}", csv::list_document(name.unwrap_or(&stem), kind, &entries));
    Ok(ExitCode::SUCCESS)
}
