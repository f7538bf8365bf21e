//! The pool of scan workers, seen from a gate: hand in a file, get a report before the deadline, whatever happens. A worker
//! that dies, hangs or babbles is killed and replaced; its file is unscannable. This side hashes a file that it may have seen
//! before, and never looks into it otherwise.

use crate::Error;
use crate::cache::{Cache, Shape};
use crate::clamd;
use crate::engines::Definitions;
use crate::limits::Limits;
use crate::report::{Report, Unscannable, Verdict};
use crate::wire::{self, Hello, Job, Ready};
use sha2::Digest;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

/// Address space of one worker: the largest file, everything unpacked from it, and definitions of some hundred MiB.
pub const MEMORY_BYTES_MAX: u64 = 2 << 30;
/// A worker is replaced after so many files, which bounds what a slow leak or a fragmented heap can cost.
pub const SCANS_PER_WORKER_MAX: u32 = 10_000;
/// Resident memory that a worker may gain over what it had with its definitions loaded; the allocator keeps some.
pub const GROWTH_BYTES_MAX: u64 = 384 << 20;
/// How often the definitions on disk are looked at: publishers write hourly at most.
pub const WATCH_SECONDS: Duration = Duration::from_secs(60);
/// Hashing reads this much at once.
const HASH_CHUNK_BYTES: usize = 256 << 10;
/// Loading the largest rule sets takes under twenty seconds.
const START_SECONDS_MAX: Duration = Duration::from_secs(60);
/// How long a draining worker may take to notice that its socket closed.
const DRAIN_SECONDS_MAX: Duration = Duration::from_secs(5);
/// A file name in a job; longer ones are cut, they only serve the name check.
const NAME_BYTES_MAX: usize = 1024;

/// How the pool is run.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    pub workers: usize,
    pub definitions: Definitions,
    pub limits: Limits,
    /// The program that becomes a worker when started as `PROGRAM scan-worker`.
    pub program: PathBuf,
    pub memory_bytes: u64,
    /// Resident memory that a worker may gain before another takes its place.
    pub growth_bytes: u64,
    /// A ClamAV daemon that is asked about every file the workers found nothing in.
    pub clamd: Option<clamd::Address>,
}

impl PoolConfig {
    pub fn new(program: PathBuf) -> Self {
        Self {
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            definitions: Definitions::default(),
            limits: Limits::default(),
            program,
            memory_bytes: MEMORY_BYTES_MAX,
            growth_bytes: GROWTH_BYTES_MAX,
            clamd: None,
        }
    }
}

/// A set of workers behind one queue.
pub struct Pool(Arc<Shared>);

struct Shared {
    config: PoolConfig,
    turns: Semaphore,
    idle: Mutex<Vec<Worker>>,
    current: RwLock<Arc<Generation>>,
    cache: Cache,
    landlock: String,
}

/// One set of definitions in use. Workers of an older generation end when they come back.
struct Generation {
    number: u64,
    version: String,
}

struct Worker {
    socket: UnixStream,
    child: Child,
    scans: u32,
    generation: u64,
    /// Resident bytes with the definitions loaded; 0 where that is not known.
    start_bytes: u64,
}

impl Pool {
    /// Starts every worker. Definitions that do not load, or a kernel that cannot lock a worker down, fail here.
    pub async fn start(config: PoolConfig) -> Result<Pool, Error> {
        let workers = config.workers.max(1);
        let mut idle = Vec::with_capacity(workers);
        let mut ready = Ready::default();
        for _ in 0..workers {
            let (worker, answer) = Worker::start(&config).await?;
            idle.push(worker);
            ready = answer;
        }
        if ready.landlock != "full" {
            tracing::warn!(
                landlock = ready.landlock,
                "the kernel does not enforce all of landlock; seccomp still denies files and sockets"
            );
        }
        tracing::info!(workers, definitions = ready.definitions, signatures = ready.signatures, "scan workers started");
        Ok(Pool(Arc::new(Shared {
            config,
            turns: Semaphore::new(workers),
            idle: Mutex::new(idle),
            current: RwLock::new(Arc::new(Generation { number: 0, version: ready.definitions })),
            cache: Cache::default(),
            landlock: ready.landlock,
        })))
    }

    /// The version of the definitions in use.
    pub fn definitions(&self) -> String {
        self.generation().version.clone()
    }

    fn generation(&self) -> Arc<Generation> {
        Arc::clone(&self.0.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a version of the definitions the one in use, and gives its number.
    fn adopt(&self, version: String) -> u64 {
        let mut current = self.0.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.version != version {
            tracing::info!(definitions = version, "scan definitions changed");
            *current = Arc::new(Generation { number: current.number + 1, version });
        }
        current.number
    }

    /// Loads the definitions again without a pause: new workers are started first, and where they do not start the old ones
    /// go on. Scans that run meanwhile end with the definitions they began with.
    pub async fn reload(&self) -> Result<String, Error> {
        let mut fresh = Vec::new();
        let mut version = String::new();
        for _ in 0..self.0.config.workers.max(1) {
            let (worker, ready) = Worker::start(&self.0.config).await?;
            fresh.push(worker);
            version = ready.definitions;
        }
        let number = self.adopt(version.clone());
        fresh.iter_mut().for_each(|worker| worker.generation = number);
        *self.lock_idle() = fresh;
        Ok(version)
    }

    /// Reloads whenever a definition file changes. Never ends; a set that does not load is reported and tried again when it
    /// changes once more.
    pub async fn watch(&self, every: Duration) {
        let mut seen = self.0.config.definitions.stamp();
        loop {
            tokio::time::sleep(every).await;
            let stamp = self.0.config.definitions.stamp();
            if stamp == seen {
                continue;
            }
            seen = stamp;
            if let Err(error) = self.reload().await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the new scan definitions do not load, the old stay in use"
                );
            }
        }
    }

    /// How much of landlock the kernel enforces: `full`, `partial` or `none`.
    pub fn landlock(&self) -> &str {
        &self.0.landlock
    }

    /// Process ids of the idle workers, for supervision and tests.
    pub fn idle_process_ids(&self) -> Vec<u32> {
        self.lock_idle().iter().filter_map(|worker| worker.child.id()).collect()
    }

    /// Scans a file. The deadline covers waiting for a worker; reaching it is a verdict, not an error.
    ///
    /// A scan that has begun ends in a task of its own, whoever waits for it: a client that asks and leaves, again and again,
    /// would else cost a worker, and the loading of all definitions, each time.
    pub async fn scan(&self, file: File, name: &str, deadline: Duration) -> Report {
        let until = Instant::now() + deadline;
        let size = file.metadata().map_or(0, |metadata| metadata.len());
        let (pool, name) = (Pool(Arc::clone(&self.0)), name.to_owned());
        let scanned = tokio::spawn(async move { pool.scan_and_consult(file, &name, size, until).await });
        scanned.await.unwrap_or_else(|_| Report::unscannable(Unscannable::Crashed, size))
    }

    async fn scan_and_consult(&self, file: File, name: &str, size: u64, until: Instant) -> Report {
        let report = self.scan_or_remember(&file, name, size, until).await;
        match &self.0.config.clamd {
            Some(address) if report.verdict != Verdict::Malicious => clamd::consult(address, file, until, report).await,
            _ => report,
        }
    }

    /// The report of a file that was scanned before, by its SHA-256 and size. None where a daemon has a say too: it is asked
    /// each time.
    pub fn known(&self, sha256: [u8; 32], bytes: u64, name: &str) -> Option<Report> {
        match self.0.config.clamd {
            Some(_) => None,
            None => self.0.cache.get(&Shape::new(bytes, name, self.generation().number), &crate::walk::hex(&sha256)),
        }
    }

    /// Looks the file up among those scanned before, or has it scanned.
    async fn scan_or_remember(&self, file: &File, name: &str, size: u64, until: Instant) -> Report {
        let shape = Shape::new(size, name, self.generation().number);
        if self.0.cache.knows(&shape)
            && let Some(sha256) = hash(file, size, until).await
            && let Some(report) = self.0.cache.get(&shape, &sha256)
        {
            return report;
        }
        let report = self.scan_in_worker(file, name, size, until).await;
        let generation = self.generation();
        if report.definitions == generation.version {
            self.0.cache.put(Shape::new(size, name, generation.number), &report);
        }
        report
    }

    async fn scan_in_worker(&self, file: &File, name: &str, size: u64, until: Instant) -> Report {
        let Ok(Ok(_turn)) = timeout_at(until, self.0.turns.acquire()).await else {
            return Report::unscannable(Unscannable::Unavailable, size);
        };
        let idle = self.lock_idle().pop();
        let mut worker = match idle {
            Some(worker) => worker,
            None => match timeout_at(until, Worker::start(&self.0.config)).await {
                Ok(Ok((mut worker, ready))) => {
                    worker.generation = self.adopt(ready.definitions);
                    worker
                }
                Ok(Err(error)) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "scan worker does not start");
                    return Report::unscannable(Unscannable::Unavailable, size);
                }
                Err(_) => return Report::unscannable(Unscannable::Unavailable, size),
            },
        };
        match timeout_at(until, worker.exchange(file, name)).await {
            Ok(Ok(report)) => {
                worker.scans += 1;
                if worker.scans < SCANS_PER_WORKER_MAX
                    && !worker.has_grown(self.0.config.growth_bytes)
                    && worker.generation == self.generation().number
                {
                    self.lock_idle().push(worker);
                }
                report
            }
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "scan worker died and is replaced");
                Report::unscannable(Unscannable::Crashed, size)
            }
            Err(_) => {
                tracing::warn!("scan worker missed the deadline and is replaced");
                Report::unscannable(Unscannable::TimeLimit, size)
            }
        }
    }

    fn lock_idle(&self) -> std::sync::MutexGuard<'_, Vec<Worker>> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for running scans and lets every worker end by itself.
    pub async fn drain(self) {
        let workers = u32::try_from(self.0.config.workers.max(1)).unwrap_or(u32::MAX);
        let _turns = self.0.turns.acquire_many(workers).await;
        let idle = std::mem::take(&mut *self.lock_idle());
        for Worker { socket, mut child, .. } in idle {
            drop(socket);
            let _ = timeout(DRAIN_SECONDS_MAX, child.wait()).await;
        }
    }
}

impl Worker {
    async fn start(config: &PoolConfig) -> Result<(Worker, Ready), Error> {
        let failed = |source| Error::Start { program: config.program.display().to_string(), source };
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
        ours.set_nonblocking(true).map_err(failed)?;
        let child = spawn(&config.program, theirs.into()).map_err(failed)?;
        let mut worker =
            Worker { socket: UnixStream::from_std(ours).map_err(failed)?, child, scans: 0, generation: 0, start_bytes: 0 };
        let hello = Hello { definitions: config.definitions.clone(), limits: config.limits, memory_bytes: config.memory_bytes };
        worker.socket.write_all(&wire::encode(&hello)?).await.map_err(Error::Frame)?;
        let late = |_| Error::Refused("not ready in time".to_owned());
        let ready: Ready = timeout(START_SECONDS_MAX, worker.receive()).await.map_err(late)??;
        match ready.refusal {
            Some(refusal) => Err(Error::Refused(refusal)),
            None => {
                worker.start_bytes = worker.resident_bytes();
                Ok((worker, ready))
            }
        }
    }

    /// `VmRSS` in the process's status (proc(5)).
    fn resident_bytes(&self) -> u64 {
        const KIBIBYTE: u64 = 1024;
        let status = self.child.id().and_then(|id| std::fs::read_to_string(format!("/proc/{id}/status")).ok());
        let line = status.as_deref().and_then(|status| status.lines().find_map(|line| line.strip_prefix("VmRSS:")));
        let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kibibytes.unwrap_or(0).saturating_mul(KIBIBYTE)
    }

    fn has_grown(&self, bytes_max: u64) -> bool {
        self.start_bytes > 0 && self.resident_bytes() > self.start_bytes.saturating_add(bytes_max)
    }

    async fn exchange(&mut self, file: &File, name: &str) -> Result<Report, Error> {
        let mut end = name.len().min(NAME_BYTES_MAX);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        let frame = wire::encode(&Job { name: name.get(..end).unwrap_or_default().to_owned() })?;
        let sent = self.send_first(&frame, file).await.map_err(Error::Frame)?;
        self.socket.write_all(frame.get(sent..).unwrap_or_default()).await.map_err(Error::Frame)?;
        self.receive().await
    }

    async fn send_first(&self, frame: &[u8], file: &File) -> std::io::Result<usize> {
        loop {
            self.socket.writable().await?;
            let send = || wire::send_with_descriptor(self.socket.as_fd(), frame, file.as_fd());
            match self.socket.try_io(Interest::WRITABLE, send) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                outcome => return outcome,
            }
        }
    }

    async fn receive<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, Error> {
        let mut header = [0u8; wire::LENGTH_BYTES];
        self.socket.read_exact(&mut header).await.map_err(Error::Frame)?;
        let mut body = vec![0u8; wire::body_bytes(header)?];
        self.socket.read_exact(&mut body).await.map_err(Error::Frame)?;
        wire::decode(&body)
    }
}

/// SHA-256 of a file; `None` if it cannot be read in time. A long one is hashed off the threads that serve connections.
async fn hash(file: &File, size: u64, until: Instant) -> Option<String> {
    if size <= HASH_CHUNK_BYTES as u64 {
        return digest(file);
    }
    let file = file.try_clone().ok()?;
    timeout_at(until, tokio::task::spawn_blocking(move || digest(&file))).await.ok()?.ok()?
}

fn digest(file: &File) -> Option<String> {
    let mut digest = sha2::Sha256::new();
    let mut chunk = vec![0u8; HASH_CHUNK_BYTES];
    let mut at = 0;
    loop {
        match file.read_at(&mut chunk, at) {
            Ok(0) => return Some(crate::walk::hex(&digest.finalize())),
            Ok(count) => {
                digest.update(chunk.get(..count)?);
                at += count as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// The worker gets an empty environment and its socket as standard input; dropping the handle kills it.
fn spawn(program: &Path, socket: OwnedFd) -> std::io::Result<Child> {
    Command::new(program)
        .arg("scan-worker")
        .env_clear()
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
}
