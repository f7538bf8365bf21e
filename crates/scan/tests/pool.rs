//! The pool with real worker processes: sandboxed, replaced when they die or hang, drained. This binary is its own worker,
//! so it has a `main` of its own and prints one line per case.

#![allow(clippy::unwrap_used)]

use scan::clamd::Address;
use scan::host::{Pool, PoolConfig};
use scan::{Definitions, Limits, Report, Unscannable, Verdict};
use sha2::Digest;
use std::fs::File;
use std::io::Write;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const DEADLINE: Duration = Duration::from_secs(20);

fn main() {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("scan-worker") => std::process::exit(i32::from(scan::worker::run().is_err())),
        Some("--list") => println!("pool: test"),
        _ => run_cases(),
    }
}

fn run_cases() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut passed = 0;
    macro_rules! case {
        ($name:ident) => {
            runtime.block_on($name());
            println!("test {} ... ok", stringify!($name));
            passed += 1;
        };
    }
    case!(a_worker_is_sandboxed_and_scans);
    case!(a_dead_worker_is_replaced);
    case!(a_missed_deadline_is_a_verdict);
    case!(a_full_queue_is_a_verdict);
    case!(whoever_leaves_costs_no_worker);
    case!(a_worker_that_has_grown_is_replaced);
    case!(an_idle_worker_gives_its_buffer_back);
    case!(bad_definitions_fail_at_start);
    case!(definitions_are_used_in_the_sandbox);
    case!(a_file_above_the_limit_is_not_read);
    case!(a_known_file_is_remembered);
    case!(definitions_are_reloaded_without_a_pause);
    case!(clamd_is_asked_and_its_silence_counts);
    case!(a_real_clamd_agrees);
    case!(overhead_of_the_process);
    case!(malformed_files_kill_no_worker);
    println!("\ntest result: ok. {passed} passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
}

fn config() -> PoolConfig {
    PoolConfig { workers: 1, ..PoolConfig::new(std::env::current_exe().unwrap()) }
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn eicar() -> Vec<u8> {
    br"*H+H$!ELIF-TSET-SURIVITNA-DRADNATS-RACIE$}7)CC7)^P(45XZP\4[PA@%P!O5X".iter().rev().copied().collect()
}

/// The worker refuses to start unless open, connect and exec are denied inside it, so a scan proves the sandbox.
async fn a_worker_is_sandboxed_and_scans() {
    let pool = Pool::start(config()).await.unwrap();
    println!("landlock: {}", pool.landlock());
    let report = pool.scan(file(&eicar()), "eicar.com", DEADLINE).await;
    assert_eq!(report.verdict, Verdict::Malicious);
    assert_eq!(report.sha256, "275a021bbfb6489e54d471899f7db9d1663fc695ec2fe2a2c4538aabf651fd0f");
    assert_eq!(pool.scan(file(b"hello"), "hello.txt", DEADLINE).await.verdict, Verdict::Clean);
    let status = std::fs::read_to_string(format!("/proc/{}/status", pool.idle_process_ids()[0])).unwrap();
    assert!(status.contains("Seccomp:\t2"), "a filter is installed");
    assert!(status.contains("NoNewPrivs:\t1"));
    let ids = pool.idle_process_ids();
    pool.drain().await;
    assert!(!std::path::Path::new(&format!("/proc/{}", ids[0])).exists(), "the worker ended");
}

async fn a_dead_worker_is_replaced() {
    let pool = Pool::start(config()).await.unwrap();
    let id = pool.idle_process_ids()[0];
    let id = rustix::process::Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
    let report = pool.scan(file(b"hello"), "a", DEADLINE).await;
    assert_eq!(report.verdict, Verdict::Unscannable(Unscannable::Crashed));
    assert_eq!(pool.scan(file(b"hello"), "a", DEADLINE).await.verdict, Verdict::Clean);
    pool.drain().await;
}

async fn a_missed_deadline_is_a_verdict() {
    let pool = Pool::start(config()).await.unwrap();
    let id = rustix::process::Pid::from_raw(i32::try_from(pool.idle_process_ids()[0]).unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::STOP).unwrap();
    let report = pool.scan(file(b"hello"), "a", Duration::from_millis(200)).await;
    assert_eq!(report.verdict, Verdict::Unscannable(Unscannable::TimeLimit));
    assert_eq!(pool.scan(file(b"hello"), "a", DEADLINE).await.verdict, Verdict::Clean);
    pool.drain().await;
}

async fn a_full_queue_is_a_verdict() {
    let pool = Pool::start(config()).await.unwrap();
    let id = rustix::process::Pid::from_raw(i32::try_from(pool.idle_process_ids()[0]).unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::STOP).unwrap();
    let (hung, waiting) = tokio::join!(pool.scan(file(b"one"), "a", Duration::from_millis(600)), async {
        // The first has the only worker before the second asks.
        while !pool.idle_process_ids().is_empty() {
            tokio::task::yield_now().await;
        }
        pool.scan(file(b"two"), "a", Duration::from_millis(200)).await
    },);
    assert_eq!(hung.verdict, Verdict::Unscannable(Unscannable::TimeLimit));
    assert_eq!(waiting.verdict, Verdict::Unscannable(Unscannable::Unavailable));
    pool.drain().await;
}

/// The scan of a client that has gone goes on to its end, and the same worker takes the next file.
async fn whoever_leaves_costs_no_worker() {
    let pool = Pool::start(config()).await.unwrap();
    let before = pool.idle_process_ids();
    let noisy = file(&noise(8 << 20));
    let begun = tokio::time::timeout(Duration::from_millis(1), pool.scan(noisy, "noise.bin", DEADLINE)).await;
    assert!(begun.is_err(), "eight mebibytes are not scanned in a millisecond");
    assert_eq!(pool.scan(file(&eicar()), "eicar.com", DEADLINE).await.verdict, Verdict::Malicious);
    assert_eq!(pool.idle_process_ids(), before);
}

fn noise(bytes: u32) -> Vec<u8> {
    (0..bytes).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn resident_bytes(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

async fn a_worker_that_has_grown_is_replaced() {
    let pool = Pool::start(PoolConfig { growth_bytes: 4 << 20, ..config() }).await.unwrap();
    let before = pool.idle_process_ids();
    assert_eq!(pool.scan(file(b"small"), "a", DEADLINE).await.verdict, Verdict::Clean);
    assert_eq!(pool.idle_process_ids(), before, "one that has not grown is kept");
    assert_eq!(pool.scan(file(&noise(8 << 20)), "b", DEADLINE).await.verdict, Verdict::Clean);
    assert_eq!(pool.scan(file(b"another"), "c", DEADLINE).await.verdict, Verdict::Clean);
    assert_ne!(pool.idle_process_ids(), before);
    pool.drain().await;
}

async fn an_idle_worker_gives_its_buffer_back() {
    const FILE_BYTES: u32 = 48 << 20;
    let pool = Pool::start(config()).await.unwrap();
    let id = pool.idle_process_ids()[0];
    let before = resident_bytes(id);
    assert_eq!(pool.scan(file(&noise(FILE_BYTES)), "a", DEADLINE).await.verdict, Verdict::Clean);
    let begun = std::time::Instant::now();
    while resident_bytes(id) > before + u64::from(FILE_BYTES) / 4 && begun.elapsed() < DEADLINE {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(resident_bytes(id) <= before + u64::from(FILE_BYTES) / 4, "{} of {before}", resident_bytes(id));
    assert_eq!(pool.scan(file(b"hello"), "b", DEADLINE).await.verdict, Verdict::Clean, "it goes on after the pause");
    assert_eq!(pool.idle_process_ids(), [id]);
    pool.drain().await;
}

async fn bad_definitions_fail_at_start() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("bad.yar"), "rule Broken {").unwrap();
    let definitions = Definitions { paths: vec![folder.path().to_path_buf()] };
    let error = Pool::start(PoolConfig { definitions, ..config() }).await.err().unwrap();
    assert!(error.to_string().contains("bad.yar"), "{error}");
}

async fn definitions_are_used_in_the_sandbox() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yar"), "rule Known { strings: $a = \"needle\" condition: $a }").unwrap();
    std::fs::write(folder.path().join("a.ndb"), "Own.Pattern:0:*:686179737461636b\n").unwrap();
    std::fs::write(folder.path().join("a.hdb"), "900150983cd24fb0d6963f7d28e17f72:3:Own.Hash\n").unwrap();
    let definitions = Definitions { paths: vec![folder.path().to_path_buf()] };
    let pool = Pool::start(PoolConfig { definitions, ..config() }).await.unwrap();
    for (bytes, engine, signature) in
        [(&b"a needle"[..], "yara", "Known"), (b"a haystack", "ndb", "Own.Pattern"), (b"abc", "hash", "Own.Hash")]
    {
        let report = pool.scan(file(bytes), "a", DEADLINE).await;
        assert_eq!((report.engine.as_str(), report.signature.as_str()), (engine, signature));
        assert_eq!(report.definitions, pool.definitions());
    }
    pool.drain().await;
}

async fn a_file_above_the_limit_is_not_read() {
    let limits = Limits { input_bytes: 1000, ..Limits::default() };
    let pool = Pool::start(PoolConfig { limits, ..config() }).await.unwrap();
    let report = pool.scan(file(&[0; 1001]), "a", DEADLINE).await;
    assert_eq!((report.verdict, report.size), (Verdict::Unscannable(Unscannable::TooLarge), 1001));
    pool.drain().await;
}

/// With its only worker stopped, the pool can only answer from memory.
async fn a_known_file_is_remembered() {
    let pool = Pool::start(config()).await.unwrap();
    let first = pool.scan(file(b"seen before"), "a.txt", DEADLINE).await;
    let id = rustix::process::Pid::from_raw(i32::try_from(pool.idle_process_ids()[0]).unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::STOP).unwrap();
    assert_eq!(pool.scan(file(b"seen before"), "b.txt", DEADLINE).await, first);
    let digest = |bytes: &[u8]| -> [u8; 32] { sha2::Sha256::digest(bytes).into() };
    assert_eq!(pool.known(digest(b"seen before"), 11, "c.txt"), Some(first));
    assert_eq!(pool.known(digest(b"seen before"), 11, "c.exe"), None, "the ending is compared with the type");
    assert_eq!(pool.known(digest(b"never seen"), 10, "c.txt"), None);
    let other = pool.scan(file(b"never seen"), "a.txt", Duration::from_millis(200)).await;
    assert_eq!(other.verdict, Verdict::Unscannable(Unscannable::TimeLimit));
    pool.drain().await;
}

async fn definitions_are_reloaded_without_a_pause() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("a.hdb");
    std::fs::write(&list, "# nothing yet\n").unwrap();
    let definitions = Definitions { paths: vec![folder.path().to_path_buf()] };
    let pool = std::sync::Arc::new(Pool::start(PoolConfig { definitions, ..config() }).await.unwrap());
    let before = pool.definitions();
    assert_eq!(pool.scan(file(b"abc"), "a", DEADLINE).await.verdict, Verdict::Clean);
    let watcher = tokio::spawn({
        let pool = std::sync::Arc::clone(&pool);
        async move { pool.watch(Duration::from_millis(50)).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    std::fs::write(&list, "900150983cd24fb0d6963f7d28e17f72:3:Own.Hash\n").unwrap();
    for _ in 0..200 {
        if pool.definitions() != before {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let report = pool.scan(file(b"abc"), "a", DEADLINE).await;
    assert_eq!(
        (report.verdict, report.signature.as_str()),
        (Verdict::Malicious, "Own.Hash"),
        "the old verdict is not remembered"
    );
    let good = pool.definitions();
    std::fs::write(folder.path().join("broken.yar"), "rule Broken {").unwrap();
    assert!(pool.reload().await.is_err());
    assert_eq!(pool.definitions(), good, "a bad set leaves the old one in use");
    assert_eq!(pool.scan(file(b"abcd"), "a", DEADLINE).await.verdict, Verdict::Clean);
    watcher.abort();
}

/// Answers connections with the given replies, one each, after reading a whole INSTREAM.
async fn clamd_stub(listener: tokio::net::TcpListener, replies: Vec<&'static [u8]>) -> Vec<Vec<u8>> {
    let mut received = Vec::new();
    for reply in replies {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut command = [0; 10];
        socket.read_exact(&mut command).await.unwrap();
        assert_eq!(&command, b"zINSTREAM\0");
        let mut body = Vec::new();
        loop {
            let length = socket.read_u32().await.unwrap() as usize;
            if length == 0 {
                break;
            }
            let start = body.len();
            body.resize(start + length, 0);
            socket.read_exact(&mut body[start..]).await.unwrap();
        }
        received.push(body);
        socket.write_all(reply).await.unwrap();
    }
    received
}

async fn clamd_is_asked_and_its_silence_counts() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let clamd = Some(Address::Tcp(listener.local_addr().unwrap()));
    let replies: Vec<&'static [u8]> =
        vec![b"stream: OK\0", b"stream: Win.Test.Known FOUND\0", b"INSTREAM size limit exceeded. ERROR\0"];
    let stub = tokio::spawn(clamd_stub(listener, replies));
    let pool = Pool::start(PoolConfig { clamd, ..config() }).await.unwrap();
    let large = vec![b'a'; 200_000];
    let scan = async |bytes: &[u8]| -> Report { pool.scan(file(bytes), "a", DEADLINE).await };
    assert_eq!(scan(&large).await.verdict, Verdict::Clean);
    let found = scan(b"known").await;
    assert_eq!((found.verdict, found.engine.as_str(), found.signature.as_str()), (Verdict::Malicious, "clamd", "Win.Test.Known"));
    assert_eq!(scan(b"limit").await.verdict, Verdict::Unscannable(Unscannable::Unavailable));
    assert_eq!(stub.await.unwrap(), [large, b"known".to_vec(), b"limit".to_vec()]);
    assert_eq!(scan(b"nobody listens").await.verdict, Verdict::Unscannable(Unscannable::Unavailable));
    assert_eq!(scan(&eicar()).await.verdict, Verdict::Malicious, "what the workers know needs no clamd");
    pool.drain().await;
}

/// Starts the ClamAV daemon of this machine with one signature of our own. Needs SEKISHO_TEST_SYSTEM=1.
async fn a_real_clamd_agrees() {
    if std::env::var_os("SEKISHO_TEST_SYSTEM").is_none_or(|value| value != "1") {
        println!("skipped: SEKISHO_TEST_SYSTEM is not 1");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("clamd.sock");
    std::fs::create_dir(folder.path().join("db")).unwrap();
    std::fs::write(folder.path().join("db/own.hdb"), "9e107d9d372bb6826bd81d3542a419d6:43:Own.Clamd.Test\n").unwrap();
    let settings = format!(
        "LocalSocket {}\nDatabaseDirectory {}\nForeground yes\nAlertExceedsMax yes\nAlertEncrypted yes\n",
        socket.display(),
        folder.path().join("db").display()
    );
    std::fs::write(folder.path().join("clamd.conf"), settings).unwrap();
    let mut daemon = tokio::process::Command::new("clamd")
        .arg("--config-file")
        .arg(folder.path().join("clamd.conf"))
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    for _ in 0..300 {
        if tokio::net::UnixStream::connect(&socket).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let pool = Pool::start(PoolConfig { clamd: Some(Address::Unix(socket)), ..config() }).await.unwrap();
    let found = pool.scan(file(b"The quick brown fox jumps over the lazy dog"), "a", DEADLINE).await;
    assert_eq!((found.verdict, found.engine.as_str()), (Verdict::Malicious, "clamd"));
    assert!(found.signature.starts_with("Own.Clamd.Test"), "{}", found.signature);
    assert_eq!(pool.scan(file(b"The quick brown fox jumps over the lazy cat"), "a", DEADLINE).await.verdict, Verdict::Clean);
    daemon.kill().await.unwrap();
    let report = pool.scan(file(b"what nobody has seen"), "a", DEADLINE).await;
    assert_eq!(report.verdict, Verdict::Unscannable(Unscannable::Unavailable), "a daemon that is gone is not a clean file");
    assert_eq!(pool.scan(file(&eicar()), "a", DEADLINE).await.verdict, Verdict::Malicious);
    pool.drain().await;
}

/// Prints the cost of a round trip; the bound is loose, since this runs unoptimised beside other tests.
async fn overhead_of_the_process() {
    const SCANS: u32 = 500;
    let pool = Pool::start(config()).await.unwrap();
    let started = std::time::Instant::now();
    for index in 0..SCANS {
        // Different bytes each time: the pool remembers what it has seen.
        pool.scan(file(format!("{index} hello").repeat(1000).as_bytes()), "a", DEADLINE).await;
    }
    let each = started.elapsed() / SCANS;
    println!("round trip: {each:?} each");
    assert!(each < Duration::from_millis(20));
    pool.drain().await;
}

/// Needs the folder named by SEKISHO_SHARED_DATA.
async fn malformed_files_kill_no_worker() {
    let Some(data) = std::env::var_os("SEKISHO_SHARED_DATA") else {
        println!("skipped: SEKISHO_SHARED_DATA is not set");
        return;
    };
    let pool = Pool::start(config()).await.unwrap();
    let worker = pool.idle_process_ids();
    for set in ["libarchive", "oletools", "own", "bombs"] {
        for entry in std::fs::read_dir(std::path::Path::new(&data).join("files").join(set)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                continue;
            }
            let report = pool.scan(File::open(&path).unwrap(), "a", DEADLINE).await;
            assert_ne!(report.verdict, Verdict::Unscannable(Unscannable::Crashed), "{}", path.display());
            assert_ne!(report.verdict, Verdict::Unscannable(Unscannable::Unavailable), "{}", path.display());
        }
    }
    assert_eq!(pool.idle_process_ids(), worker, "one worker did it all");
    pool.drain().await;
}
