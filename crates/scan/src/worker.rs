//! The scan worker: a process that receives files as descriptors over a socket on its standard input, scans them in a
//! sandbox, and answers with reports. It opens nothing itself once its definitions are loaded; it ends when the host
//! closes the socket.

use crate::engines::Engines;
use crate::limits::Limits;
use crate::report::{Report, Unscannable};
use crate::wire::{self, Hello, Job, Ready};
use crate::{Error, sandbox, scan_bytes};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs the worker until the host goes away. Must be called before the process has started any other thread: the program
/// dispatches `scan-worker` before it builds a runtime.
pub fn run() -> Result<(), Error> {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().map_err(Error::Frame)?;
    let mut socket = UnixStream::from(stdin);
    let Some((hello, _)) = wire::read::<Hello>(&mut socket)? else { return Ok(()) };
    let engines = match prepare(&hello) {
        Ok((engines, ready)) => {
            wire::write(&mut socket, &ready)?;
            engines
        }
        Err(error) => {
            wire::write(&mut socket, &Ready { refusal: Some(chain(&error)), ..Ready::default() })?;
            return Err(error);
        }
    };
    serve(&mut socket, &engines, &hello.limits)
}

fn prepare(hello: &Hello) -> Result<(Engines, Ready), Error> {
    let engines = Engines::load(&hello.definitions)?;
    let landlock = sandbox::enter(hello.memory_bytes)?;
    let ready =
        Ready { definitions: engines.version().to_owned(), signatures: engines.signature_count(), landlock, refusal: None };
    Ok((engines, ready))
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

fn serve(socket: &mut UnixStream, engines: &Engines, limits: &Limits) -> Result<(), Error> {
    while let Some((job, descriptor)) = wire::read::<Job>(socket)? {
        let report = match descriptor {
            Some(descriptor) => scan(engines, limits, &job.name, descriptor),
            None => Report::unscannable(Unscannable::Unavailable, 0),
        };
        wire::write(socket, &report)?;
    }
    Ok(())
}

fn scan(engines: &Engines, limits: &Limits, name: &str, descriptor: OwnedFd) -> Report {
    let file = File::from(descriptor);
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    if size > limits.input_bytes {
        return Report::unscannable(Unscannable::TooLarge, size);
    }
    let Ok(bytes) = read_whole(&file, size, limits) else {
        return Report::unscannable(Unscannable::Unavailable, size);
    };
    catch_unwind(AssertUnwindSafe(|| scan_bytes(engines, limits, name, &bytes)))
        .unwrap_or_else(|_| Report::unscannable(Unscannable::Crashed, size))
}

/// Reads by position, so that the host's file offset neither matters nor moves. A file that grows meanwhile is cut.
fn read_whole(file: &File, size: u64, limits: &Limits) -> std::io::Result<Vec<u8>> {
    let size = usize::try_from(size.min(limits.input_bytes)).map_err(std::io::Error::other)?;
    let mut bytes = vec![0u8; size];
    let mut at = 0;
    while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at as u64) {
            Ok(0) => break,
            Ok(count) => at += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(at);
    Ok(bytes)
}
