//! Questions over one TCP or TLS connection: many may be under way, answers go out as they are ready (RFC 7766 section
//! 6.2.1.1). A client holds its place only as long as it uses it.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::Transport;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;

use crate::decode::{Decoded, decode};
use crate::encode::STREAM_BYTES_MAX;
use crate::events::{Counter, count};
use crate::session::{Shared, Visit};

/// RFC 7766 section 6.2.3: of the order of seconds.
const IDLE_WAIT: Duration = Duration::from_secs(10);

/// A question that has begun comes at once.
const READ_WAIT: Duration = Duration::from_secs(5);

/// A client that does not read its answers loses its connection.
const WRITE_WAIT: Duration = Duration::from_secs(5);

/// Questions of one connection under way; more are not read until one is answered.
const PIPELINE_MAX: usize = 64;

pub(crate) async fn converse<S>(stream: S, visit: Visit, shared: Arc<Shared>, shutdown: watch::Receiver<bool>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, writer) = tokio::io::split(stream);
    let (answers, to_write) = mpsc::channel(PIPELINE_MAX);
    let written = tokio::spawn(write_answers(writer, to_write));
    let read = read_questions(reader, visit, shared, shutdown, answers).await;
    written.await.map_err(io::Error::other)??;
    read
}

async fn read_questions<S: AsyncRead>(
    mut reader: ReadHalf<S>,
    visit: Visit,
    shared: Arc<Shared>,
    mut shutdown: watch::Receiver<bool>,
    answers: mpsc::Sender<Vec<u8>>,
) -> io::Result<()> {
    let pipeline = Arc::new(Semaphore::new(PIPELINE_MAX));
    loop {
        let slot = Arc::clone(&pipeline).acquire_owned().await.map_err(io::Error::other)?;
        let message = tokio::select! {
            _ = shutdown.wait_for(|stopping| *stopping) => None,
            message = read_message(&mut reader) => message?,
        };
        let Some(bytes) = message else { return Ok(()) };
        count(if visit.session.transport == Transport::Dot { Counter::QueriesDot } else { Counter::QueriesTcp });
        if !shared.limit.admits(visit.session.client.ip(), Instant::now()) {
            count(Counter::RateLimited);
            return Ok(());
        }
        match decode(&bytes) {
            Decoded::Drop => {
                count(Counter::Malformed);
                return Ok(());
            }
            Decoded::Reject { reply, failure } => {
                shared.reject(&visit, bytes.len(), reply.len(), failure);
                answers.send(reply).await.map_err(io::Error::other)?;
            }
            Decoded::Query(query) => {
                let (answer, answers) = (Arc::clone(&shared).transact_in_turn(visit.clone(), query), answers.clone());
                tokio::spawn(async move {
                    let reply = answer.await;
                    // The writer is gone when the client is; the event has been recorded either way.
                    let _ = answers.send(reply).await;
                    drop(slot);
                });
            }
        }
    }
}

/// One message with its length before it; none where the client has closed or is idle.
async fn read_message<S: AsyncRead>(reader: &mut ReadHalf<S>) -> io::Result<Option<Vec<u8>>> {
    let length = match timeout(IDLE_WAIT, reader.read_u16()).await {
        Ok(Ok(length)) => usize::from(length),
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Ok(Err(error)) => return Err(error),
        Err(_) => return Ok(None),
    };
    let mut bytes = vec![0; length];
    timeout(READ_WAIT, reader.read_exact(&mut bytes)).await??;
    Ok(Some(bytes))
}

async fn write_answers<S: AsyncWrite>(mut writer: WriteHalf<S>, mut answers: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(answer) = answers.recv().await {
        let length = u16::try_from(answer.len().min(STREAM_BYTES_MAX)).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
        timeout(WRITE_WAIT, writer.write_all(&framed)).await??;
        timeout(WRITE_WAIT, writer.flush()).await??;
    }
    timeout(WRITE_WAIT, writer.shutdown()).await?
}
