//! The scan worker: a process that receives files as descriptors over a socket on its standard input, scans them in a
//! sandbox, and answers with reports. It opens nothing itself once its definitions are loaded; it ends when the host
//! closes the socket.

use crate::engines::Engines;
use crate::limits::Limits;
use crate::report::{Report, Unscannable};
use crate::wire::{self, Hello, Job, Ready, Received};
use crate::{Error, sandbox, scan_bytes};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// A buffer no larger than this is kept for the next file: the kernel clears each page of a new one, which takes as long as
/// hashing it.
const KEPT_BYTES_MAX: usize = 64 << 20;
/// A worker without work for so long gives its buffer back.
const IDLE: Duration = Duration::from_secs(1);

/// Runs the worker until the host goes away. Must be called before the process has started any other thread: the program
/// dispatches `scan-worker` before it builds a runtime.
pub fn run() -> Result<(), Error> {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().map_err(Error::Frame)?;
    let mut socket = UnixStream::from(stdin);
    let Received::Frame(hello, _) = wire::read::<Hello>(&mut socket)? else { return Ok(()) };
    // The sandbox takes the right to say this later.
    socket.set_read_timeout(Some(IDLE)).map_err(Error::Frame)?;
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
    let mut buffer = Vec::new();
    loop {
        let report = match wire::read::<Job>(socket)? {
            Received::Frame(job, Some(descriptor)) => scan(engines, limits, &job.name, descriptor, &mut buffer),
            Received::Frame(_, None) => Report::unscannable(Unscannable::Unavailable, 0),
            Received::Nothing => {
                buffer = Vec::new();
                continue;
            }
            Received::End => return Ok(()),
        };
        if buffer.capacity() > KEPT_BYTES_MAX {
            buffer = Vec::new();
        }
        wire::write(socket, &report)?;
    }
}

fn scan(engines: &Engines, limits: &Limits, name: &str, descriptor: OwnedFd, buffer: &mut Vec<u8>) -> Report {
    let file = File::from(descriptor);
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    if size > limits.input_bytes {
        return Report::unscannable(Unscannable::TooLarge, size);
    }
    let Ok(bytes) = read_whole(&file, size, buffer) else {
        return Report::unscannable(Unscannable::Unavailable, size);
    };
    catch_unwind(AssertUnwindSafe(|| scan_bytes(engines, limits, name, bytes)))
        .unwrap_or_else(|_| Report::unscannable(Unscannable::Crashed, size))
}

/// Reads by position, so that the host's file offset neither matters nor moves. A file that grows meanwhile is cut; what an
/// earlier file left in the buffer is never handed out.
fn read_whole<'b>(file: &File, size: u64, buffer: &'b mut Vec<u8>) -> std::io::Result<&'b [u8]> {
    let size = usize::try_from(size).map_err(std::io::Error::other)?;
    if buffer.len() < size {
        // Nothing of the old content is wanted: a new buffer of zeros costs no copy.
        *buffer = vec![0u8; size];
    }
    let mut at = 0;
    while let Some(rest) = buffer.get_mut(at..size).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at as u64) {
            Ok(0) => break,
            Ok(count) => at += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(buffer.get(..at).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_buffer_that_is_used_again_shows_nothing_of_the_earlier_file() {
        let mut buffer = Vec::new();
        for content in [b"a long file".as_slice(), b"short", b"", b"the longest file of all"] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(content).unwrap();
            // The size is what the file had a moment ago; it may have shrunk since.
            for announced in [content.len(), content.len() + 7] {
                assert_eq!(read_whole(&file, announced as u64, &mut buffer).unwrap(), content);
            }
        }
    }
}
