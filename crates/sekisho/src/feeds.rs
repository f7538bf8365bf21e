//! `sekisho feeds`: public lists by name or by URL, kept under `feeds` in the data folder. The last good copy stays through
//! every failure, and a copy that lost most of its entries is a failure (`intel::feed`). A running program asks again for
//! each feed when its time has come, and takes new copies in at once. Conditions follow RFC 9110 section 13.1.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use clap::{Args, Subcommand};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Body;
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, ETAG, HOST, HeaderName, LAST_MODIFIED, LOCATION, USER_AGENT};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use intel::feed::{Feed, FeedState, KEEPING, Outcome, Reply, feed_named};
use intel::list::{Format, LIMITS};
use model::Timestamp;
use net::mint::{Alpn, LeafHost};
use net::trust::{CertificateHandling, Trust, TrustSettings, mozilla_roots};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::knowledge::{self, LIST_BYTES_MAX, ListSpec};
use crate::operations::now;
use crate::up::private_folder;

/// A fetch with all its redirects. The largest known feed is some ten megabytes.
const FETCH_SECONDS_MAX: u64 = 30;
/// One from the publisher's domain to a content network, one for a renamed path, one to spare.
const REDIRECTS_MAX: usize = 3;
/// A name is also a file name, which may hold 255 bytes with its ending.
const NAME_BYTES_MAX: usize = 64;
/// Lines that are shown of one list; a list in the wrong format has nothing else.
const SKIPPED_SHOWN_MAX: usize = 20;
/// Three times as many as are known by name; a snapshot holds a bounded number of lists.
const FEEDS_MAX: usize = 64;

#[derive(Args)]
pub struct FeedsArguments {
    #[command(subcommand)]
    what: FeedsCommand,
}

#[derive(Subcommand)]
enum FeedsCommand {
    /// The feeds that are kept, and those that can be added by name with their licences.
    List,
    /// Fetch a feed and keep it.
    Add {
        /// A feed from `feeds list`.
        #[arg(required_unless_present = "url", conflicts_with = "url")]
        known: Option<String>,
        /// Address of any other list; https, or http on a loopback address.
        #[arg(long, requires_all = ["name", "category"])]
        url: Option<String>,
        /// What to call it: small letters, digits and hyphens.
        #[arg(long, requires = "url")]
        name: Option<String>,
        /// hosts, adblock, plain, rpz, or auto.
        #[arg(long, requires = "url", default_value = "auto")]
        format: String,
        /// Name or number of the category for its entries, such as Malware.
        #[arg(long, requires = "url")]
        category: Option<String>,
    },
    /// Forget a feed and delete its copy.
    Remove { name: String },
    /// Fetch every kept feed again, where its publisher has a newer copy.
    Update,
}

/// A feed as it is written to `feeds.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptFeed {
    name: String,
    url: String,
    format: String,
    category: String,
    state: FeedState,
}

/// The feeds of one data folder, held by one command at a time.
struct Feeds {
    folder: PathBuf,
    kept: Vec<KeptFeed>,
    _lock: File,
}

pub fn run(data: &Path, arguments: FeedsArguments) -> Result<ExitCode> {
    match arguments.what {
        FeedsCommand::List => {
            print!("{}", listing(&read(&folder(data))?));
            Ok(ExitCode::SUCCESS)
        }
        FeedsCommand::Add { known, url, name, format, category } => {
            let feed = match (known, url, name, category) {
                (Some(known), ..) => KeptFeed::known(&known)?,
                (None, Some(url), Some(name), Some(category)) => KeptFeed::new(name, url, format, category)?,
                _ => bail!("name a feed from `sekisho feeds list`, or give --url, --name and --category"),
            };
            let name = feed.name.clone();
            let mut feeds = Feeds::open(data)?;
            let entries = feeds.add(feed, &Fetcher::new()?)?;
            println!("{name}: {entries} entries");
            feeds.kept.last().map_or(Ok(()), |feed| print_skipped(feed, &feeds.folder))?;
            say_reload();
            Ok(ExitCode::SUCCESS)
        }
        FeedsCommand::Remove { name } => {
            Feeds::open(data)?.remove(&name)?;
            println!("{name}: removed");
            say_reload();
            Ok(ExitCode::SUCCESS)
        }
        FeedsCommand::Update => update(data),
    }
}

fn update(data: &Path) -> Result<ExitCode> {
    let mut feeds = Feeds::open(data)?;
    feeds.update(&Fetcher::new()?)?;
    for feed in &feeds.kept {
        match feed.state.problem.as_str() {
            "" => {
                println!("{}: {} entries", feed.name, feed.state.entries);
                print_skipped(feed, &feeds.folder)?;
            }
            problem => println!("{}: the last good copy stays: {problem}", feed.name),
        }
    }
    say_reload();
    let is_failed = feeds.kept.iter().any(|feed| !feed.state.problem.is_empty());
    Ok(if is_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Lines that were not followed, by number and reason.
fn print_skipped(feed: &KeptFeed, folder: &Path) -> Result<()> {
    let text = std::fs::read(feed.list_path(folder)).with_context(|| format!("the copy of {}", feed.name))?;
    let parsed = intel::list::parse(knowledge::format(&feed.format)?, &text, LIMITS);
    for (line, reason) in parsed.skipped.iter().take(SKIPPED_SHOWN_MAX) {
        println!("  line {line}: {reason}");
    }
    if parsed.skipped_count > SKIPPED_SHOWN_MAX {
        println!("  and {} lines more that are not followed", parsed.skipped_count - SKIPPED_SHOWN_MAX);
    }
    Ok(())
}

fn say_reload() {
    println!("A running sekisho takes this in within a minute, or at once on SIGHUP.");
}

/// The feeds that are young enough to be used, and when each copy came.
pub type Copies = Vec<(String, Option<SystemTime>)>;

pub fn copies(data: &Path) -> Result<Copies> {
    let folder = folder(data);
    let fresh = read(&folder)?.into_iter().filter(|feed| !feed.state.is_expired(now(), KEEPING));
    let came = |feed: &KeptFeed| std::fs::metadata(feed.list_path(&folder)).and_then(|file| file.modified()).ok();
    Ok(fresh.map(|feed| (feed.name.clone(), came(&feed))).collect())
}

/// One round of a running program: asks for what is due, and says what can be used then. A command that is at work on the
/// feeds goes first.
pub fn tend(data: &Path) -> Result<Copies> {
    if read(&folder(data))?.iter().any(|feed| feed.state.due(KEEPING) <= now()) {
        Feeds::open(data)?.update_due(&Fetcher::new()?, now())?;
    }
    copies(data)
}

/// The kept feeds as lists for the snapshot. One whose publisher has been silent for too long is left out, since its names
/// and addresses have changed hands.
pub fn usable(data: &Path, now: Timestamp) -> Result<Vec<ListSpec>> {
    let folder = folder(data);
    let (expired, fresh): (Vec<_>, Vec<_>) = read(&folder)?.into_iter().partition(|feed| feed.state.is_expired(now, KEEPING));
    for feed in expired {
        tracing::warn!(feed = feed.name, "a feed is too old to be used; see `sekisho feeds update`");
    }
    Ok(fresh.into_iter().map(|feed| feed.list(&folder)).collect())
}

/// Where the last good copy of a kept feed is.
pub fn copy_of(data: &Path, name: &str) -> Result<PathBuf> {
    let folder = folder(data);
    let kept = read(&folder)?;
    let feed = kept.iter().find(|feed| feed.name == name);
    Ok(feed.ok_or_else(|| unknown(name, kept.iter().map(|feed| feed.name.as_str())))?.list_path(&folder))
}

fn folder(data: &Path) -> PathBuf {
    data.join("feeds")
}

fn read(folder: &Path) -> Result<Vec<KeptFeed>> {
    let path = folder.join("feeds.json");
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let kept: Vec<KeptFeed> = serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))?;
    // A name becomes a path, so one that was edited by hand is checked like one that was typed.
    kept.iter().try_for_each(|feed| check_name(&feed.name))?;
    Ok(kept)
}

fn check_name(name: &str) -> Result<()> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_good = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.starts_with('-') && name.bytes().all(is_plain);
    ensure!(is_good, "{name:?} is no name for a feed: at most {NAME_BYTES_MAX} small letters, digits and hyphens");
    Ok(())
}

/// Says which of the names was probably meant.
fn unknown<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> anyhow::Error {
    let hint = policy::nearest(name, names).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    anyhow::anyhow!("there is no feed {name:?}{hint}")
}

impl KeptFeed {
    fn new(name: String, url: String, format: String, category: String) -> Result<KeptFeed> {
        check_name(&name)?;
        Target::parse(&url)?;
        knowledge::format(&format)?;
        knowledge::category(&category)?;
        Ok(KeptFeed { name, url, format, category, state: FeedState::default() })
    }

    fn known(name: &str) -> Result<KeptFeed> {
        let feed = feed_named(name).ok_or_else(|| unknown(name, intel::FEEDS.iter().map(|feed| feed.name)))?;
        KeptFeed::new(feed.name.into(), feed.url.into(), format_name(feed.format).into(), category_name(feed))
    }

    fn list_path(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.list", self.name))
    }

    fn list(self, folder: &Path) -> ListSpec {
        let path = self.list_path(folder);
        ListSpec { name: self.name, path, format: self.format, category: self.category, feed_id: None }
    }

    /// Asks the publisher and takes its answer in. The copy is in place before the state that speaks of it is written.
    fn refresh(&mut self, folder: &Path, fetcher: &Fetcher) -> Result<()> {
        let path = self.list_path(folder);
        // Without a copy in hand, "not modified" would leave the feed empty.
        let conditions: Vec<(&str, &str)> = if path.exists() { self.state.conditions().collect() } else { Vec::new() };
        let (reply, text) = match fetcher.fetch(&self.url, &conditions) {
            Ok(Answer::NotModified) => (Reply::NotModified, Bytes::new()),
            Ok(Answer::Copy { etag, last_modified, text }) => {
                let entries = count(knowledge::format(&self.format)?, &text);
                (Reply::Copy { etag, last_modified, entries }, text)
            }
            Err(error) => (Reply::Failed(format!("{error:#}")), Bytes::new()),
        };
        if self.state.learn(now(), reply, KEEPING) == Outcome::Replace {
            replace(folder, &path, &text)?;
        }
        Ok(())
    }
}

fn count(format: Format, text: &[u8]) -> usize {
    let parsed = intel::list::parse(format, text, LIMITS);
    [&parsed.entries, &parsed.important, &parsed.addresses, &parsed.urls, &parsed.hashes]
        .into_iter()
        .map(|entries| entries.len())
        .sum()
}

fn format_name(format: Format) -> &'static str {
    match format {
        Format::Auto => "auto",
        Format::Hosts => "hosts",
        Format::Adblock => "adblock",
        Format::Plain => "plain",
        Format::Rpz => "rpz",
    }
}

fn category_name(feed: &Feed) -> String {
    let id = feed.category.id();
    intel::category::category(id).map_or_else(|| id.to_string(), |category| category.name.to_owned())
}

/// Writes aside and renames, so that a reader sees the old copy or the new one, whole. The file is its owner's only.
fn replace(folder: &Path, path: &Path, text: &[u8]) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let mut aside = tempfile::NamedTempFile::new_in(folder).with_context(failed)?;
    aside.write_all(text).and_then(|()| aside.as_file().sync_all()).with_context(failed)?;
    aside.persist(path).map(drop).with_context(failed)
}

impl Feeds {
    fn open(data: &Path) -> Result<Feeds> {
        let folder = folder(data);
        private_folder(&folder)?;
        let lock = File::create(folder.join("lock"))?;
        lock.try_lock().context("another `sekisho feeds` is at work on this data folder")?;
        Ok(Feeds { kept: read(&folder)?, folder, _lock: lock })
    }

    /// Fetches a feed and keeps it; one that cannot be fetched is not added. Returns the number of its entries.
    fn add(&mut self, mut feed: KeptFeed, fetcher: &Fetcher) -> Result<usize> {
        ensure!(self.kept.iter().all(|kept| kept.name != feed.name), "the feed `{}` is already kept", feed.name);
        ensure!(self.kept.len() < FEEDS_MAX, "{FEEDS_MAX} feeds are kept, which is the most; remove one first");
        feed.refresh(&self.folder, fetcher)?;
        ensure!(feed.state.succeeded.is_some(), "the feed `{}` is not added: {}", feed.name, feed.state.problem);
        let entries = feed.state.entries;
        self.kept.push(feed);
        self.write()?;
        Ok(entries)
    }

    fn remove(&mut self, name: &str) -> Result<()> {
        let place = self.kept.iter().position(|feed| feed.name == name);
        let place = place.ok_or_else(|| unknown(name, self.kept.iter().map(|feed| feed.name.as_str())))?;
        let path = self.kept.remove(place).list_path(&self.folder);
        // The state first: a list that no state names is harmless, a state without its list fails the next load.
        self.write()?;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Asks for every feed; the failure of one is written into its state and stops no other.
    fn update(&mut self, fetcher: &Fetcher) -> Result<()> {
        for place in 0..self.kept.len() {
            if let Some(feed) = self.kept.get_mut(place) {
                feed.refresh(&self.folder, fetcher)?;
            }
            self.write()?;
        }
        Ok(())
    }

    /// The same for those whose time has come.
    fn update_due(&mut self, fetcher: &Fetcher, at: Timestamp) -> Result<()> {
        for place in 0..self.kept.len() {
            if let Some(feed) = self.kept.get_mut(place).filter(|feed| feed.state.due(KEEPING) <= at) {
                feed.refresh(&self.folder, fetcher)?;
                if !feed.state.problem.is_empty() {
                    tracing::warn!(feed = feed.name, problem = feed.state.problem, "a feed's last good copy stays");
                }
                self.write()?;
            }
        }
        Ok(())
    }

    fn write(&self) -> Result<()> {
        replace(&self.folder, &self.folder.join("feeds.json"), &serde_json::to_vec_pretty(&self.kept)?)
    }
}

fn listing(kept: &[KeptFeed]) -> String {
    let mut text = String::from("Kept:\n");
    for feed in kept {
        let state = &feed.state;
        let at = state.succeeded.and_then(|at| jiff::Timestamp::from_second(at.seconds()).ok());
        let at = at.map_or_else(|| "never".to_owned(), |at| at.to_string());
        text.push_str(&format!("  {:<16}{:>9} entries  {at}  {}  {}\n", feed.name, state.entries, feed.category, feed.url));
        if !state.problem.is_empty() {
            text.push_str(&format!("  {:<16}{} failures, the last: {}\n", "", state.failures, state.problem));
        }
    }
    text.push_str("\nCan be added by name (read the publisher's terms first):\n");
    for feed in intel::FEEDS.iter().filter(|feed| kept.iter().all(|kept| kept.name != feed.name)) {
        let note = if feed.note.is_empty() { String::new() } else { format!("; {}", feed.note) };
        text.push_str(&format!("  {:<16}{} ({}){note}\n", feed.name, feed.title, feed.licence));
    }
    text
}

/// What a publisher said.
#[derive(Debug)]
enum Answer {
    NotModified,
    Copy { etag: Option<String>, last_modified: Option<String>, text: Bytes },
}

enum Step {
    Answer(Answer),
    Redirect(String),
}

/// How the connection is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Https,
    /// Only to a loopback address: whoever sits on the way could otherwise put any name on the list.
    LoopbackHttp(IpAddr),
}

/// A URL that may be asked.
#[derive(Debug)]
struct Target {
    scheme: Scheme,
    host: LeafHost,
    port: u16,
    authority: String,
    path: String,
}

impl Target {
    fn parse(url: &str) -> Result<Target> {
        let uri: Uri = url.parse().with_context(|| format!("{url:?} is no URL"))?;
        let authority = uri.authority().with_context(|| format!("{url:?} names no host"))?;
        ensure!(!authority.as_str().contains('@'), "a feed's URL may not hold a user name or password");
        let host = LeafHost::parse(authority.host()).with_context(|| format!("the host of {url:?}"))?;
        let (scheme, port) = match (uri.scheme_str(), &host) {
            (Some("https"), _) => (Scheme::Https, 443),
            (Some("http"), LeafHost::Address(address)) if address.is_loopback() => (Scheme::LoopbackHttp(*address), 80),
            _ => bail!("{url:?} is refused: only https, or http on a loopback address, is fetched"),
        };
        Ok(Target {
            scheme,
            host,
            port: authority.port_u16().unwrap_or(port),
            authority: authority.as_str().to_owned(),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }

    /// Where a redirect leads; https only, whatever the first URL was.
    fn redirected(&self, location: &str) -> Result<Target> {
        let is_path = location.starts_with('/') && !location.starts_with("//");
        let target = match self.scheme {
            Scheme::Https if is_path => Target::parse(&format!("https://{}{location}", self.authority))?,
            _ => Target::parse(location)?,
        };
        ensure!(target.scheme == Scheme::Https, "the redirect to {location:?} is refused: it is not https");
        Ok(target)
    }
}

/// Fetches lists for the operator.
struct Fetcher {
    trust: Trust,
    bytes_max: u64,
    wait: Duration,
}

impl Fetcher {
    fn new() -> Result<Fetcher> {
        let settings = TrustSettings { roots: mozilla_roots(), ..TrustSettings::default() };
        let trust = Trust::new(settings, SystemTime::now())?;
        Ok(Fetcher { trust, bytes_max: LIST_BYTES_MAX, wait: Duration::from_secs(FETCH_SECONDS_MAX) })
    }

    fn fetch(&self, url: &str, conditions: &[(&str, &str)]) -> Result<Answer> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let fetched = runtime.block_on(async { tokio::time::timeout(self.wait, self.follow(url, conditions)).await });
        // A look-up of the system's resolver cannot be stopped and is not waited for.
        runtime.shutdown_background();
        fetched.with_context(|| format!("no whole copy after {} seconds", self.wait.as_secs()))?
    }

    async fn follow(&self, url: &str, conditions: &[(&str, &str)]) -> Result<Answer> {
        let mut target = Target::parse(url)?;
        for _ in 0..=REDIRECTS_MAX {
            match self.ask(&target, conditions).await? {
                Step::Answer(answer) => return Ok(answer),
                Step::Redirect(location) => target = target.redirected(&location)?,
            }
        }
        bail!("more than {REDIRECTS_MAX} redirects")
    }

    /// Opens a connection of its own. No permit is asked for, because this is the operator's command and carries nobody's
    /// traffic; so it is also not the gates' connector, whose guard and resolver belong to a running program.
    async fn ask(&self, target: &Target, conditions: &[(&str, &str)]) -> Result<Step> {
        let unreachable = || format!("cannot connect to {}", target.authority);
        match (&target.scheme, &target.host) {
            (Scheme::LoopbackHttp(address), _) => {
                let stream = TcpStream::connect((*address, target.port)).await.with_context(unreachable)?;
                self.exchange(stream, target, conditions).await
            }
            (Scheme::Https, host) => {
                let stream = match host {
                    LeafHost::Address(address) => TcpStream::connect((*address, target.port)).await,
                    LeafHost::Name(name) => TcpStream::connect((name.as_ref(), target.port)).await,
                };
                let config = self.trust.client_config(host, Alpn::Http1, CertificateHandling::Refuse, SystemTime::now())?;
                let connector = tokio_rustls::TlsConnector::from(config);
                let stream = connector.connect(host.server_name()?, stream.with_context(unreachable)?);
                self.exchange(stream.await.with_context(unreachable)?, target, conditions).await
            }
        }
    }

    async fn exchange<S>(&self, stream: S, target: &Target, conditions: &[(&str, &str)]) -> Result<Step>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Ends with this function, however it is left.
        let mut pump = JoinSet::new();
        pump.spawn(connection);
        let mut request = Request::get(&target.path)
            .header(HOST, &target.authority)
            .header(USER_AGENT, concat!("sekisho/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT_ENCODING, "identity");
        for (name, value) in conditions {
            request = request.header(*name, *value);
        }
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        self.receive(response).await
    }

    async fn receive(&self, response: Response<hyper::body::Incoming>) -> Result<Step> {
        let header = |name: HeaderName| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED => return Ok(Step::Answer(Answer::NotModified)),
            status if status.is_redirection() => {
                return Ok(Step::Redirect(header(LOCATION).context("a redirect that leads nowhere")?));
            }
            status => bail!("the publisher answered {}", status.as_u16()),
        }
        // Compression was not offered, and nothing is unpacked here: a small body could become an endless one.
        let is_plain = header(CONTENT_ENCODING).is_none_or(|coding| coding.eq_ignore_ascii_case("identity"));
        ensure!(is_plain && response.headers().get_all(CONTENT_ENCODING).iter().count() <= 1, "the copy is compressed");
        let (etag, last_modified) = (header(ETAG), header(LAST_MODIFIED));
        let body = response.into_body();
        ensure!(body.size_hint().lower() <= self.bytes_max, "the copy is larger than {} bytes", self.bytes_max);
        let bounded = Limited::new(body, usize::try_from(self.bytes_max).unwrap_or(usize::MAX));
        let whole = bounded.collect().await.map_err(|error| anyhow::anyhow!("the copy did not arrive whole: {error}"))?;
        Ok(Step::Answer(Answer::Copy { etag, last_modified, text: whole.to_bytes() }))
    }
}

#[cfg(test)]
mod tests;
