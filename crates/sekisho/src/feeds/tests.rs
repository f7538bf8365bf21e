//! Feeds against an origin on loopback: what is refused, and that the last good copy outlives every failure.

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use net::mint::{Minter, VersionCeiling};
use testkit::{Origin, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::knowledge::KnowledgeSpec;

/// A publisher whose answer the test changes.
struct Publisher {
    origin: Origin,
    answer: Arc<Mutex<Response>>,
    data: tempfile::TempDir,
    fetcher: Fetcher,
}

fn copy(names: &[&str]) -> Response {
    let lines: Vec<String> = names.iter().map(|name| format!("0.0.0.0 {name}\n")).collect();
    let mut response = Response::ok("text/plain", lines.concat());
    response.headers.push(("etag".into(), "\"one\"".into()));
    response
}

impl Publisher {
    fn new(first: Response) -> Result<Publisher> {
        let answer = Arc::new(Mutex::new(first));
        let shown = answer.clone();
        let origin = Origin::start(move |_| shown.lock().map(|answer| answer.clone()).unwrap_or_default())?;
        Ok(Publisher { origin, answer, data: tempfile::tempdir()?, fetcher: Fetcher::new()? })
    }

    fn answers(&self, next: Response) {
        if let Ok(mut answer) = self.answer.lock() {
            *answer = next;
        }
    }

    fn feed(&self) -> Result<KeptFeed> {
        KeptFeed::new("test".into(), self.origin.url("/list"), "hosts".into(), "Malware".into())
    }

    fn add(&self) -> Result<usize> {
        Feeds::open(self.data.path())?.add(self.feed()?, &self.fetcher)
    }

    fn update(&self) -> Result<FeedState> {
        let mut feeds = Feeds::open(self.data.path())?;
        feeds.update(&self.fetcher)?;
        Ok(feeds.kept.first().context("a feed")?.state.clone())
    }

    fn list(&self) -> Result<String> {
        Ok(std::fs::read_to_string(folder(self.data.path()).join("test.list"))?)
    }
}

fn message<T>(outcome: Result<T>) -> String {
    outcome.map(|_| ()).err().map(|error| format!("{error:#}")).unwrap_or_default()
}

#[test]
fn a_failure_of_any_kind_keeps_the_last_good_copy() -> Result<()> {
    let names = ["a.example", "b.example", "c.example", "d.example", "e.example", "f.example"];
    let mut publisher = Publisher::new(copy(&names))?;
    assert_eq!(publisher.add()?, 6);
    let good = publisher.list()?;
    let mut compressed = copy(&names);
    compressed.headers.push(("content-encoding".into(), "gzip".into()));
    let mut plain_redirect = Response::status(302);
    plain_redirect.headers.push(("location".into(), publisher.origin.url("/elsewhere")));
    let failures = [
        (Response::status(503), "503"),
        (Response::ok("text/html", "<html>sign in</html>"), "no entries"),
        (copy(&["a.example"]), "lost most"),
        (compressed, "compressed"),
        (plain_redirect, "not https"),
        (Response::status(302), "leads nowhere"),
    ];
    for (place, (answer, problem)) in failures.into_iter().enumerate() {
        publisher.answers(answer);
        let state = publisher.update()?;
        assert!(state.problem.contains(problem), "{problem}: {}", state.problem);
        assert_eq!((state.entries, state.failures as usize), (6, place + 1));
        assert_eq!(publisher.list()?, good);
    }
    publisher.answers(copy(&names));
    publisher.fetcher.bytes_max = 20;
    assert!(publisher.update()?.problem.contains("larger than 20 bytes"));
    assert_eq!(publisher.list()?, good);
    publisher.fetcher.bytes_max = LIST_BYTES_MAX;
    assert_eq!(publisher.update()?.problem, "");
    Ok(())
}

#[test]
fn what_cannot_be_fetched_is_not_added() -> Result<()> {
    let publisher = Publisher::new(Response::status(404))?;
    assert!(message(publisher.add()).contains("404"));
    assert!(read(&folder(publisher.data.path()))?.is_empty());
    assert!(publisher.list().is_err());
    Ok(())
}

#[test]
fn a_publisher_is_asked_for_news_only() -> Result<()> {
    let publisher = Publisher::new(copy(&["bad.example"]))?;
    publisher.add()?;
    publisher.answers(Response::status(304));
    let state = publisher.update()?;
    assert_eq!((state.entries, state.failures, state.etag.as_deref()), (1, 0, Some("\"one\"")));
    let requests = publisher.origin.requests();
    assert_eq!(requests[0].header("if-none-match"), None);
    assert_eq!(requests[1].header("if-none-match"), Some("\"one\""));
    assert_eq!(requests[1].header("accept-encoding"), Some("identity"));

    std::fs::remove_file(folder(publisher.data.path()).join("test.list"))?;
    publisher.answers(copy(&["bad.example"]));
    publisher.update()?;
    assert_eq!(publisher.origin.requests()[2].header("if-none-match"), None, "a lost copy is asked for whole");
    assert!(publisher.list()?.contains("bad.example"));
    Ok(())
}

/// What a running program does in each of its rounds.
#[test]
fn a_feed_is_asked_for_when_its_time_has_come_and_not_before() -> Result<()> {
    let publisher = Publisher::new(copy(&["bad.example"]))?;
    publisher.add()?;
    let data = publisher.data.path();
    let first = tend(data)?;
    assert_eq!(publisher.origin.requests().len(), 1);
    publisher.answers(copy(&["bad.example", "worse.example"]));
    let late = now().plus_micros(KEEPING.refresh_seconds * 1_000_000);
    Feeds::open(data)?.update_due(&publisher.fetcher, late)?;
    assert_eq!(publisher.origin.requests().len(), 2);
    assert!(publisher.list()?.contains("worse.example"));
    assert_ne!(tend(data)?, first, "a new copy is seen");
    assert_eq!(publisher.origin.requests().len(), 2);

    publisher.answers(Response::status(503));
    Feeds::open(data)?.update_due(&publisher.fetcher, late.plus_micros(KEEPING.refresh_seconds * 1_000_000))?;
    assert!(publisher.list()?.contains("worse.example"), "the last good copy stays");
    Ok(())
}

#[test]
fn a_kept_feed_is_known_until_it_expires_or_is_removed() -> Result<()> {
    let publisher = Publisher::new(copy(&["bad.example"]))?;
    publisher.add()?;
    assert!(message(publisher.add()).contains("already kept"));
    let data = publisher.data.path();
    let known = knowledge::load(&KnowledgeSpec::default(), data)?;
    assert_eq!(known.name("bad.example").security.as_ref(), [117]);

    let late = now().plus_micros((KEEPING.expire_seconds + 60) * 1_000_000);
    assert_eq!((usable(data, now())?.len(), usable(data, late)?.len()), (1, 0));

    let mut feeds = Feeds::open(data)?;
    assert!(message(feeds.remove("tset")).contains("did you mean `test`"));
    feeds.remove("test")?;
    assert!(knowledge::load(&KnowledgeSpec::default(), data)?.name("bad.example").is_empty());
    assert!(publisher.list().is_err());
    Ok(())
}

#[test]
fn only_the_owner_reads_the_state_and_one_command_at_a_time_writes_it() -> Result<()> {
    let publisher = Publisher::new(copy(&["bad.example"]))?;
    publisher.add()?;
    for file in ["feeds.json", "test.list"] {
        let mode = std::fs::metadata(folder(publisher.data.path()).join(file))?.permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let _held = Feeds::open(publisher.data.path())?;
    assert!(message(Feeds::open(publisher.data.path())).contains("at work"));
    Ok(())
}

#[test]
fn a_name_that_is_a_path_is_refused_typed_or_stored() -> Result<()> {
    let long = "a".repeat(NAME_BYTES_MAX + 1);
    for name in ["", "../ca/key", "/etc/passwd", "a/b", "..", "a.b", "-a", "A", "a b", "a\0", &long] {
        let refused = KeptFeed::new(name.into(), "https://lists.example/".into(), "auto".into(), "Malware".into());
        assert!(message(refused).contains("is no name for a feed"), "{name:?}");
    }
    let data = tempfile::tempdir()?;
    private_folder(&folder(data.path()))?;
    let mut feed = KeptFeed::known("urlhaus")?;
    feed.name = "../../secret".into();
    std::fs::write(folder(data.path()).join("feeds.json"), serde_json::to_vec(&[feed])?)?;
    assert!(message(usable(data.path(), now())).contains("is no name for a feed"));
    Ok(())
}

#[test]
fn an_unknown_feed_is_refused_with_its_neighbour() {
    assert!(message(KeptFeed::known("urlhuas")).contains("did you mean `urlhaus`"));
}

#[test]
fn every_feed_that_is_offered_can_be_kept() -> Result<()> {
    for feed in intel::FEEDS {
        let kept = KeptFeed::known(feed.name)?;
        assert_eq!(knowledge::format(&kept.format)?, feed.format);
        assert_eq!(knowledge::category(&kept.category)?, feed.category, "{}", feed.name);
    }
    assert!(listing(&[]).contains("urlhaus"));
    Ok(())
}

#[test]
fn only_https_or_loopback_is_asked() {
    let refused = [
        "http://lists.example/a",
        "http://localhost/a",
        "http://192.0.2.1/a",
        "http://[2001:db8::1]/a",
        "ftp://lists.example/a",
        "file:///etc/passwd",
        "https://user:secret@lists.example/",
        "lists.example",
        "/list",
        "",
    ];
    for url in refused {
        assert!(Target::parse(url).is_err(), "{url:?}");
    }
    for url in ["https://lists.example", "https://[2001:db8::1]:8443/a?b", "http://127.0.0.1:1/", "http://[::1]/"] {
        assert!(Target::parse(url).is_ok(), "{url:?}");
    }
}

#[test]
fn a_redirect_stays_on_https() -> Result<()> {
    let first = Target::parse("https://lists.example:8443/a")?;
    let next = first.redirected("/b?c")?;
    assert_eq!((next.authority.as_str(), next.port, next.path.as_str()), ("lists.example:8443", 8443, "/b?c"));
    assert!(first.redirected("https://other.example/")?.path == "/");
    for location in ["http://127.0.0.1/", "http://other.example/", "//other.example/", "b", ""] {
        assert!(first.redirected(location).is_err(), "{location:?}");
    }
    Ok(())
}

/// Serves two connections over TLS, each with one list, and returns its port.
fn secure_publisher(config: Arc<rustls::ServerConfig>) -> Result<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            for _ in 0..2 {
                let (stream, _) = listener.accept().await?;
                let Ok(mut stream) = tokio_rustls::TlsAcceptor::from(config.clone()).accept(stream).await else { continue };
                // One read holds the whole of so short a request.
                let _ = stream.read(&mut [0; 4096]).await?;
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n0.0.0.0 bad.example\n").await?;
                stream.shutdown().await?;
            }
            std::io::Result::Ok(())
        })
    });
    Ok(port)
}

#[test]
fn a_publisher_is_believed_by_its_certificate_only() -> Result<()> {
    let data = tempfile::tempdir()?;
    let authority = crate::up::load_authority(data.path())?;
    let host = LeafHost::parse("127.0.0.1")?;
    let minter = Minter::new(authority.clone())?;
    let config = minter.server_config(&host, Alpn::Http1, VersionCeiling::Tls13, SystemTime::now());
    let port = secure_publisher(config.map_err(|error| anyhow::anyhow!("{error}"))?)?;
    let url = format!("https://127.0.0.1:{port}/list");
    assert!(message(Fetcher::new()?.fetch(&url, &[])).contains("cannot connect"), "a stranger's certificate");

    let roots = authority.own_certificates().into_iter().map(|own| own.der).collect();
    let trust = Trust::new(TrustSettings { roots, ..TrustSettings::default() }, SystemTime::now())?;
    let fetched = Fetcher { trust, ..Fetcher::new()? }.fetch(&url, &[])?;
    assert!(matches!(fetched, Answer::Copy { text, .. } if text == "0.0.0.0 bad.example\n"));
    Ok(())
}

#[test]
fn a_silent_publisher_is_not_waited_for_without_end() -> Result<()> {
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let fetcher = Fetcher { wait: Duration::from_millis(50), ..Fetcher::new()? };
    let url = format!("http://{}/list", silent.local_addr()?);
    assert!(message(fetcher.fetch(&url, &[])).contains("no whole copy"));
    Ok(())
}
