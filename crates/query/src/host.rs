//! Queries seen from the program that asks: one worker for each, killed when its time is over, and an outcome whatever
//! happens. This side never looks into the text of a query. It waits, so it must be called where waiting is allowed.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::{QUEUE_WAIT_MAX, ROWS_MAX, START_WAIT_MAX, TEXT_BYTES_MAX};
use crate::wire::{self, JOB_BYTES_MAX, Job, OUTCOME_BYTES_MAX};
use crate::{Error, Limits, Outcome, Query, Refusal, Why};

/// What a dying worker says about itself: a line of the allocator or of the stack guard.
const LAST_WORDS_BYTES_MAX: u64 = 4_096;

/// Runs queries, a bounded number at once.
pub struct Runner {
    program: PathBuf,
    limits: Limits,
    running: Mutex<usize>,
    ended: Condvar,
}

impl Runner {
    /// The program becomes a worker when started as `PROGRAM query-worker`.
    pub fn new(program: PathBuf, limits: Limits) -> Runner {
        Runner { program, limits, running: Mutex::new(0), ended: Condvar::new() }
    }

    /// Runs one query over a lake. It returns when the answer is there or the time is over, and no worker is left then.
    pub fn run(&self, lake: &Path, query: Query) -> Outcome {
        if query.sql.len() > TEXT_BYTES_MAX {
            let message = format!("the query has {} bytes, {TEXT_BYTES_MAX} are allowed", query.sql.len());
            return Outcome::Refused(Refusal::new(Why::TooLarge, message));
        }
        let Some(_turn) = self.turn() else {
            let message = format!("{} queries run already, as many as may; try again", self.limits.queries_max);
            return Outcome::Refused(Refusal::new(Why::Busy, message));
        };
        let outcome = self.run_in_worker(lake, query);
        outcome.unwrap_or_else(|error| Outcome::Refused(Refusal::new(Why::Worker, chain(&error))))
    }

    fn run_in_worker(&self, lake: &Path, query: Query) -> Result<Outcome, Error> {
        let lake = std::path::absolute(lake).map_err(Error::Frame)?;
        let query = Query { rows_max: query.rows_max.min(ROWS_MAX), ..query };
        let (mut ours, theirs) = UnixStream::pair().map_err(Error::Frame)?;
        let mut worker = Worker::start(&self.program, theirs)?;
        let until = Instant::now() + self.limits.time() + START_WAIT_MAX;
        let job = Job { lake, query, limits: self.limits };
        ours.set_write_timeout(Some(START_WAIT_MAX)).map_err(Error::Frame)?;
        // A worker that cannot start has closed its side; how it ended says why.
        let sent = wire::write(&mut ours, &job, JOB_BYTES_MAX);
        let received = sent.and_then(|()| wire::read(&mut Until { socket: &ours, until }, OUTCOME_BYTES_MAX));
        let is_late = Instant::now() >= until;
        // A worker that still writes what is not wanted any more ends by this.
        drop(ours);
        let (status, last_words) = worker.end(is_late);
        match received {
            Ok(outcome) => Ok(outcome),
            Err(_) if is_late => Ok(Outcome::Refused(Refusal::new(Why::Time, self.too_long()))),
            Err(_) => Ok(Outcome::Refused(self.died(status, &last_words))),
        }
    }

    fn too_long(&self) -> String {
        format!(
            "the query ran longer than {} s; a narrower --since, a condition on host, or fewer joins help",
            self.limits.seconds_max
        )
    }

    /// Why a worker ended without an answer.
    fn died(&self, status: Option<ExitStatus>, last_words: &str) -> Refusal {
        let signal = status.and_then(|status| status.signal());
        let megabytes = self.limits.memory_bytes_max >> 20;
        if last_words.contains("overflowed its stack") || signal == Some(libc::SIGSEGV) {
            return Refusal::new(Why::TooLarge, "the query is too deep to be planned (its worker ran out of stack)");
        }
        if last_words.contains("memory allocation") || signal == Some(libc::SIGKILL) {
            return Refusal::new(Why::Memory, format!("the query needed more memory than it may have ({megabytes} MiB)"));
        }
        if signal == Some(libc::SIGXCPU) {
            return Refusal::new(Why::Time, self.too_long());
        }
        let how = status.map_or_else(|| "its end is unknown".to_owned(), |status| status.to_string());
        let line = last_words.lines().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        tracing::warn!(how, last_words = line, "query worker died");
        Refusal::new(Why::Worker, format!("the query worker died ({how}): {line}"))
    }

    /// A turn among the queries that run; none where it does not come in time.
    fn turn(&self) -> Option<Turn<'_>> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let most = self.limits.queries_max.max(1);
        let waited = self.ended.wait_timeout_while(running, QUEUE_WAIT_MAX, |running| *running >= most);
        let (mut running, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            return None;
        }
        *running += 1;
        Some(Turn(self))
    }
}

struct Turn<'r>(&'r Runner);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.running.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.ended.notify_one();
    }
}

/// A socket that is read until a moment and no longer, however slowly bytes come.
struct Until<'s> {
    socket: &'s UnixStream,
    until: Instant,
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let mut socket = self.socket;
        socket.read(buffer)
    }
}

/// A worker's process. It does not outlive this handle.
struct Worker(Child);

impl Worker {
    /// An empty environment, and the socket as standard input.
    fn start(program: &Path, socket: UnixStream) -> Result<Worker, Error> {
        let child = Command::new(program)
            .arg("query-worker")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(socket)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        child.map(Worker).map_err(Error::Frame)
    }

    /// Ends the process, at once where it is late, and says how it ended and what it wrote last.
    fn end(&mut self, is_late: bool) -> (Option<ExitStatus>, String) {
        if is_late {
            let _ = self.0.kill();
        }
        let mut last_words = String::new();
        if let Some(stderr) = self.0.stderr.take() {
            let _ = stderr.take(LAST_WORDS_BYTES_MAX).read_to_string(&mut last_words);
        }
        (self.0.wait().ok(), last_words)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(program: &str, sql: String) -> Refusal {
        let runner = Runner::new(PathBuf::from(program), Limits::default());
        match runner.run(Path::new("/nowhere"), Query { sql, rows_max: 1, ..Query::default() }) {
            Outcome::Refused(refusal) => refusal,
            Outcome::Answer(answer) => panic!("{answer:?}"),
        }
    }

    #[test]
    fn a_program_that_is_no_worker_is_told_of() {
        for program in ["/nonexistent/worker", "/bin/false", "/bin/true"] {
            assert_eq!(refused(program, "SELECT 1".to_owned()).why, Why::Worker, "{program}");
        }
    }

    #[test]
    fn a_long_text_is_refused_before_a_worker_is_started() {
        assert_eq!(refused("/nonexistent/worker", "x".repeat(TEXT_BYTES_MAX + 1)).why, Why::TooLarge);
    }

    #[test]
    fn a_turn_comes_back_when_its_query_has_ended() {
        let runner = Runner::new(PathBuf::new(), Limits { queries_max: 1, ..Limits::default() });
        let first = runner.turn().unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| runner.turn().is_some());
            drop(first);
            assert!(second.join().unwrap());
        });
        assert_eq!(*runner.running.lock().unwrap(), 0);
    }
}
