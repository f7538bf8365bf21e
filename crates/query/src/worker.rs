//! The query worker: a process that receives one job over a socket on its standard input, locks itself down, runs the
//! query, answers and ends. Whatever the query does to it, only this process suffers.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use store::Reader;

use crate::limits::{OVERHEAD_BYTES, PLANNER_STACK_BYTES};
use crate::wire::{self, JOB_BYTES_MAX, Job, OUTCOME_BYTES_MAX};
use crate::{Error, Outcome, Refusal, Why, bounds, engine, sandbox};

/// Runs the worker. Must be called before the process has started any other thread: the program dispatches `query-worker`
/// before it builds a runtime.
pub fn run() -> Result<(), Error> {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().map_err(Error::Frame)?;
    let mut socket = UnixStream::from(stdin);
    let job: Job = wire::read(&mut socket, JOB_BYTES_MAX)?;
    let cores = job.limits.cores();
    let memory_bytes = job.limits.memory_bytes_max.saturating_add(OVERHEAD_BYTES);
    // Every core for the whole time, once more than the host waits: it ends a worker whose host does not.
    let processor_seconds = job.limits.seconds_max.saturating_add(60).saturating_mul(cores as u64);
    sandbox::enter(&job.lake, memory_bytes, processor_seconds)?;
    let outcome = on_deep_stack(move || answer(&job, cores))?;
    wire::write(&mut socket, &outcome, OUTCOME_BYTES_MAX)
}

fn on_deep_stack(work: impl FnOnce() -> Outcome + Send + 'static) -> Result<Outcome, Error> {
    let thread = std::thread::Builder::new().name("query".to_owned()).stack_size(PLANNER_STACK_BYTES);
    let running = thread.spawn(work).map_err(Error::Frame)?;
    let panicked = |_| Outcome::Refused(Refusal::new(Why::Worker, "the engine gave up on this query (it panicked)"));
    Ok(running.join().unwrap_or_else(panicked))
}

fn answer(job: &Job, cores: usize) -> Outcome {
    let statement = match bounds::parse(&job.query.sql) {
        Ok(statement) => statement,
        Err(refusal) => return Outcome::Refused(refusal),
    };
    let snapshot = match Reader::open(&job.lake).and_then(|reader| reader.snapshot()) {
        Ok(snapshot) => snapshot,
        Err(error) => return Outcome::Refused(Refusal::new(Why::Worker, format!("cannot read the record: {}", chain(&error)))),
    };
    match engine::run(statement, job, snapshot, cores) {
        Ok(answer) => Outcome::Answer(answer),
        Err(refusal) => Outcome::Refused(refusal),
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
