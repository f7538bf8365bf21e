//! The race of RFC 8305 section 5: one attempt after another, a short time apart, and the first to connect wins. The
//! losers are closed by dropping them. The caller holds the deadline.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::Error;

pub(super) async fn connect_first(targets: Vec<SocketAddr>, stagger: Duration) -> Result<TcpStream, Error> {
    let mut waiting = targets.into_iter();
    let mut attempts = JoinSet::new();
    let mut last_failure = None;
    loop {
        if let Some(target) = waiting.next() {
            attempts.spawn(TcpStream::connect(target));
        } else if attempts.is_empty() {
            return Err(last_failure.map_or(Error::NoAddress, |source| Error::Connect { source }));
        }
        match next_outcome(&mut attempts, stagger, waiting.len()).await {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(failure)) => last_failure = Some(failure),
            None => {}
        }
    }
}

/// The next attempt to end, or None when it is time for another address.
async fn next_outcome(
    attempts: &mut JoinSet<io::Result<TcpStream>>,
    stagger: Duration,
    still_waiting: usize,
) -> Option<io::Result<TcpStream>> {
    let ended = async { attempts.join_next().await.map(|joined| joined.unwrap_or_else(|lost| Err(io::Error::other(lost)))) };
    if still_waiting == 0 {
        return ended.await;
    }
    tokio::time::timeout(stagger, ended).await.ok().flatten()
}
