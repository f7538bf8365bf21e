//! `scan`: the engines of the web gate, over files on disk, in this process. And the worker that `up` starts.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use scan::{Definitions, Engines, Limits, Report, Verdict};

/// Folders below one another that are walked; deeper ones are links that turn in circles.
const FOLDER_DEPTH_MAX: usize = 64;

#[derive(Args)]
pub struct ScanArguments {
    /// Files and folders.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Folder or file with signatures: `.hdb`, `.hsb`, `.sha256`, `.ndb`, `.yar`.
    #[arg(long)]
    definitions: Vec<PathBuf>,
    /// One JSON object a file.
    #[arg(long)]
    json: bool,
    /// Only files that are not clean.
    #[arg(long)]
    quiet: bool,
}

/// The engines: what is built in, and the folders and files that are named.
fn engines(paths: &[PathBuf]) -> Result<Engines> {
    if paths.is_empty() {
        return Ok(Engines::built_in());
    }
    Engines::load(&Definitions { paths: paths.to_vec() }).context("cannot load the definitions")
}

pub fn worker() -> Result<ExitCode> {
    scan::worker::run().map_err(|e| anyhow::anyhow!("scan worker: {e}"))?;
    Ok(ExitCode::SUCCESS)
}

/// Exit codes: 0 all clean, 1 something malicious, 3 something suspicious or unscannable and nothing malicious.
pub fn scan(arguments: &ScanArguments) -> Result<ExitCode> {
    let engines = engines(&arguments.definitions)?;
    let mut files = Vec::new();
    for path in &arguments.paths {
        collect(path, 0, &mut files)?;
    }
    let (mut malicious, mut doubtful) = (0, 0);
    for (number, file) in files.iter().enumerate() {
        progress(number, files.len());
        let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.to_string_lossy();
        let report = scan::scan_bytes(&engines, &Limits::default(), &name, &bytes);
        match report.verdict {
            Verdict::Clean => {}
            Verdict::Malicious => malicious += 1,
            _ => doubtful += 1,
        }
        if !arguments.quiet || report.verdict != Verdict::Clean {
            print_report(&name, &report, arguments.json)?;
        }
    }
    progress(files.len(), files.len());
    Ok(match (malicious, doubtful) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => ExitCode::from(3),
        _ => ExitCode::FAILURE,
    })
}

fn collect(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    let kind = std::fs::symlink_metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    if kind.is_file() || (depth == 0 && path.is_file()) {
        files.push(path.to_owned());
    } else if kind.is_dir() && depth < FOLDER_DEPTH_MAX {
        for entry in std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))? {
            collect(&entry?.path(), depth + 1, files)?;
        }
    }
    Ok(())
}

/// A bar on standard error where that is a terminal.
fn progress(done: usize, all: usize) {
    use std::io::IsTerminal;
    const WIDTH: usize = 40;
    if all > 1 && std::io::stderr().is_terminal() {
        let filled = done * WIDTH / all;
        eprint!("\r[{}{}] {done}/{all}{}", "#".repeat(filled), " ".repeat(WIDTH - filled), if done == all { "\n" } else { "" });
    }
}

fn print_report(name: &str, report: &Report, as_json: bool) -> Result<()> {
    if as_json {
        let mut row = serde_json::to_value(report)?;
        row["path"] = serde_json::Value::from(name);
        println!("{row}");
        return Ok(());
    }
    let reason = match report.verdict {
        Verdict::Unscannable(reason) => format!(" ({})", reason.as_str()),
        _ => String::new(),
    };
    let hit = if report.signature.is_empty() {
        String::new()
    } else {
        format!(" {} [{}] {}", report.signature, report.engine, report.member.escape_debug())
    };
    println!("{}: {}{reason}{hit}", name.escape_debug(), report.verdict.as_str());
    Ok(())
}
