//! One direction between two sockets in the kernel, through a pipe: splice(2). The pipe is emptied before it is filled again,
//! so that `EAGAIN` always means the socket and never the pipe. Pipes are kept for the next flow; where no descriptor is left
//! for one, the caller goes on copying.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// A pipe's capacity, and so what one call moves at most: the largest that an ordinary user may ask for (pipe(7)).
const PIPE_BYTES: usize = 1 << 20;
/// Empty pipes that are kept: two for each flow that may end while another begins.
const PIPES_KEPT_MAX: usize = 64;

static KEPT: Mutex<Vec<Pipe>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

/// A pipe between two sockets, and how much lies in it.
#[derive(Debug)]
pub(crate) struct Splice {
    pipe: Option<Pipe>,
    bytes: usize,
}

impl Drop for Splice {
    fn drop(&mut self) {
        // A pipe with bytes in it would give them to the next flow.
        if self.bytes == 0
            && let Some(pipe) = self.pipe.take()
        {
            let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < PIPES_KEPT_MAX {
                kept.push(pipe);
            }
        }
    }
}

impl Splice {
    /// None where the system gives no pipe.
    pub(crate) fn open() -> Option<Splice> {
        let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let pipe = match kept {
            Some(pipe) => pipe,
            None => {
                let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
                // Refused where a user's pipes hold too much already (pipe-user-pages-soft); a small pipe works too.
                let _ = fcntl_setpipe_size(&write, PIPE_BYTES);
                Pipe { read, write }
            }
        };
        Some(Splice { pipe: Some(pipe), bytes: 0 })
    }

    pub(crate) fn has_bytes(&self) -> bool {
        self.bytes > 0
    }

    /// Fills the empty pipe. 0 is the end of the stream.
    pub(crate) fn poll_read(&mut self, context: &mut Context<'_>, from: &TcpStream) -> Poll<io::Result<usize>> {
        let Some(pipe) = &self.pipe else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        loop {
            ready!(from.poll_read_ready(context))?;
            match from.try_io(Interest::READABLE, || moved(splice(from, None, &pipe.write, None, PIPE_BYTES, FLAGS))) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => {
                    self.bytes = *outcome.as_ref().unwrap_or(&0);
                    return Poll::Ready(outcome);
                }
            }
        }
    }

    /// Empties the pipe as far as the socket takes it.
    pub(crate) fn poll_write(&mut self, context: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<u64>> {
        let Some(pipe) = &self.pipe else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        loop {
            ready!(to.poll_write_ready(context))?;
            match to.try_io(Interest::WRITABLE, || moved(splice(&pipe.read, None, to, None, self.bytes, FLAGS))) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    self.bytes = self.bytes.saturating_sub(count);
                    return Poll::Ready(Ok(count as u64));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

fn moved(outcome: rustix::io::Result<usize>) -> io::Result<usize> {
    outcome.map_err(io::Error::from)
}
