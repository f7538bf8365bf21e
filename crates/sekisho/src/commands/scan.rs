//! `scan`: the engines and workers of the web gate, over files on disk. And the worker itself, which `up` starts too.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use scan::host::{Pool, PoolConfig};
use scan::{Definitions, Engines, Limits, Report, Unscannable, Verdict};
use tokio::task::JoinHandle;

/// Folders below one another that are walked; deeper ones are links that turn in circles.
const FOLDER_DEPTH_MAX: usize = 64;
/// What a worker may take beyond the limit it watches itself, before it is taken for hung.
const DEADLINE_MARGIN: Duration = Duration::from_secs(10);
/// Scans that wait in the queue of each worker, so that none is idle while a report is printed.
const QUEUE_PER_WORKER: usize = 2;

/// Exit codes: 0 everything is clean, 1 something is malicious, 2 wrong use, 3 something is suspicious, could not be scanned or
/// not be read, and nothing is malicious.
#[derive(Args)]
pub struct ScanArguments {
    /// Files and folders; `-` is standard input.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Folder or file with signatures: `.hdb`, `.hsb`, `.sha256`, `.ndb`, `.yar`.
    #[arg(long)]
    definitions: Vec<PathBuf>,
    /// One JSON object a file.
    #[arg(long)]
    json: bool,
    /// Only files that are not clean, and no summary.
    #[arg(long)]
    quiet: bool,
    /// Worker processes; one per core if not given.
    #[arg(long)]
    workers: Option<usize>,
    /// A bound of one scan, as `NAME=NUMBER`: depth, entries, entry_bytes, total_bytes, ratio, input_bytes, time_millis.
    #[arg(long = "limit", value_name = "NAME=NUMBER")]
    limits: Vec<String>,
    /// A clamd that is asked too: `/path/to/socket` or `ADDRESS:PORT`.
    #[arg(long)]
    clamd: Option<String>,
    /// Scan in this process, where the kernel cannot lock a worker down. A file that crashes a parser may then end the command.
    #[arg(long, conflicts_with_all = ["workers", "clamd"])]
    no_sandbox: bool,
}

pub fn worker() -> Result<ExitCode> {
    scan::worker::run().map_err(|e| anyhow::anyhow!("scan worker: {e}"))?;
    Ok(ExitCode::SUCCESS)
}

pub fn scan(arguments: &ScanArguments) -> Result<ExitCode> {
    let limits = limits(&arguments.limits)?;
    let mut files = Vec::new();
    for path in &arguments.paths {
        collect(path, 0, &mut files)?;
    }
    let mut tally = Tally::new(arguments, files.len());
    if arguments.no_sandbox {
        let engines = Engines::load(&definitions(arguments)).context("cannot load the definitions")?;
        for path in &files {
            let report = open(path, &limits).and_then(|(file, name)| {
                let bytes = read(file, &limits).with_context(|| format!("cannot read {}", path.display()))?;
                Ok(scan::scan_bytes(&engines, &limits, &name, &bytes))
            });
            tally.count(path, report)?;
        }
    } else {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(scan_in_workers(arguments, limits, &files, &mut tally))?;
    }
    Ok(tally.finish())
}

fn definitions(arguments: &ScanArguments) -> Definitions {
    Definitions { paths: arguments.definitions.clone() }
}

/// Keeps every worker busy and reports in the order of the files.
async fn scan_in_workers(arguments: &ScanArguments, limits: Limits, files: &[PathBuf], tally: &mut Tally<'_>) -> Result<()> {
    let program = std::env::current_exe().context("where this program is")?;
    let defaults = PoolConfig::new(program);
    let workers = arguments.workers.unwrap_or(defaults.workers).clamp(1, files.len().max(1));
    let config = PoolConfig {
        workers,
        definitions: definitions(arguments),
        limits,
        clamd: arguments.clamd.as_deref().map(clamd).transpose()?,
        ..defaults
    };
    let pool = Arc::new(Pool::start(config).await.context("the scan workers")?);
    let mut running: VecDeque<(&PathBuf, JoinHandle<Result<Report>>)> = VecDeque::new();
    for path in files {
        if running.len() >= workers * QUEUE_PER_WORKER
            && let Some((path, report)) = running.pop_front()
        {
            tally.count(path, report.await?)?;
        }
        let pool = Arc::clone(&pool);
        let opened = open(path, &limits);
        // The wait for a worker counts too, so the deadline grows with the queue.
        let deadline = (limits.time() + DEADLINE_MARGIN) * (QUEUE_PER_WORKER as u32 + 1);
        running.push_back((
            path,
            tokio::spawn(async move {
                let (file, name) = opened?;
                Ok(pool.scan(file, &name, deadline).await)
            }),
        ));
    }
    for (path, report) in running {
        tally.count(path, report.await?)?;
    }
    if let Ok(pool) = Arc::try_unwrap(pool) {
        pool.drain().await;
    }
    Ok(())
}

fn limits(given: &[String]) -> Result<Limits> {
    toml::from_str(&given.join("\n")).context("--limit")
}

fn clamd(address: &str) -> Result<scan::clamd::Address> {
    match (address.parse(), address.contains('/')) {
        (Ok(address), _) => Ok(scan::clamd::Address::Tcp(address)),
        (_, true) => Ok(scan::clamd::Address::Unix(address.into())),
        _ => bail!("--clamd: {address} is neither a path nor an address with a port"),
    }
}

/// A file to hand over, and the name that is compared with its type. Standard input is copied to a file without a name.
fn open(path: &Path, limits: &Limits) -> Result<(File, String)> {
    if path != Path::new("-") {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        return Ok((file, path.to_string_lossy().into_owned()));
    }
    let mut file = tempfile::tempfile().context("a file for standard input")?;
    // One byte more than the limit, so that what is too large is seen to be so.
    let mut input = std::io::stdin().lock().take(limits.input_bytes.saturating_add(1));
    std::io::copy(&mut input, &mut file).context("cannot read standard input")?;
    std::io::Seek::rewind(&mut file)?;
    Ok((file, String::new()))
}

fn read(file: File, limits: &Limits) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limits.input_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn collect(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    if path == Path::new("-") {
        files.push(path.to_owned());
        return Ok(());
    }
    let kind = std::fs::symlink_metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    if kind.is_file() || (depth == 0 && path.is_file()) {
        files.push(path.to_owned());
    } else if kind.is_dir() && depth < FOLDER_DEPTH_MAX {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))? {
            entries.push(entry?.path());
        }
        entries.sort();
        for entry in entries {
            collect(&entry, depth + 1, files)?;
        }
    }
    Ok(())
}

/// Counts and prints reports.
struct Tally<'a> {
    arguments: &'a ScanArguments,
    files: usize,
    done: usize,
    clean: usize,
    malicious: usize,
    suspicious: usize,
    unscannable: usize,
}

impl<'a> Tally<'a> {
    fn new(arguments: &'a ScanArguments, files: usize) -> Self {
        let tally = Self { arguments, files, done: 0, clean: 0, malicious: 0, suspicious: 0, unscannable: 0 };
        tally.progress();
        tally
    }

    /// A file that cannot be read is unscannable like one that nobody scanned; the others are still looked at.
    fn count(&mut self, path: &Path, report: Result<Report>) -> Result<()> {
        let report = report.unwrap_or_else(|error| {
            self.clear();
            eprintln!("{error:#}");
            Report::unscannable(Unscannable::Unavailable, 0)
        });
        match report.verdict {
            Verdict::Clean => self.clean += 1,
            Verdict::Malicious => self.malicious += 1,
            Verdict::Suspicious => self.suspicious += 1,
            Verdict::Unscannable(_) => self.unscannable += 1,
        }
        self.done += 1;
        if !self.arguments.quiet || report.verdict != Verdict::Clean {
            self.clear();
            print_report(&path.to_string_lossy(), &report, self.arguments.json)?;
        }
        self.progress();
        Ok(())
    }

    fn finish(&self) -> ExitCode {
        self.clear();
        if !self.arguments.quiet && !self.arguments.json {
            let Self { done, clean, malicious, suspicious, unscannable, .. } = self;
            eprintln!("{done} files: {clean} clean, {malicious} malicious, {suspicious} suspicious, {unscannable} unscannable");
        }
        match (self.malicious, self.suspicious + self.unscannable) {
            (0, 0) => ExitCode::SUCCESS,
            (0, _) => ExitCode::from(3),
            _ => ExitCode::FAILURE,
        }
    }

    fn has_bar(&self) -> bool {
        self.files > 1 && std::io::stderr().is_terminal()
    }

    /// A bar on standard error where that is a terminal.
    fn progress(&self) {
        const WIDTH: usize = 40;
        if self.has_bar() {
            let filled = self.done * WIDTH / self.files;
            let bar = format!("[{}{}]", "#".repeat(filled), " ".repeat(WIDTH - filled));
            eprint!("\r{bar} {}/{}, {} malicious", self.done, self.files, self.malicious);
            let _ = std::io::stderr().flush();
        }
    }

    fn clear(&self) {
        if self.has_bar() {
            eprint!("\r\x1b[K");
        }
    }
}

fn print_report(name: &str, report: &Report, as_json: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if as_json {
        let mut row = serde_json::to_value(report)?;
        row["path"] = serde_json::Value::from(name);
        writeln!(out, "{row}")?;
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
    writeln!(out, "{}: {}{reason}{hit}", name.escape_debug(), report.verdict.as_str())?;
    for finding in report.findings.iter().filter(|finding| finding.kind.is_suspicious()) {
        writeln!(out, "    {} {}", finding.kind.as_str(), finding.detail.escape_debug())?;
    }
    Ok(())
}
