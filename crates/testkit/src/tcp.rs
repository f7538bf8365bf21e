//! Stream peers that misbehave in one declared way. What they received is kept, up to a bound, for the test to read.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Connections that one peer serves before it stops listening.
const CONNECTIONS_MAX: usize = 1000;
/// Bytes of one connection that are kept.
const RECEIVED_BYTES_MAX: usize = 1 << 20;
/// A peer waits this long for bytes, so that a forgotten one ends.
const WAIT: Duration = Duration::from_secs(10);

/// What the peer does with each connection.
#[derive(Clone, Debug)]
pub enum TcpBehaviour {
    /// Accepts, reads and never answers.
    Silent,
    /// Closes before a byte is read.
    CloseAtOnce,
    /// Reads once, answers with these bytes and closes: half an answer, garbage, two answers at once.
    Answer(Vec<u8>),
    /// As `Answer`, but byte by byte with a pause between.
    Drip { answer: Vec<u8>, pause: Duration },
    /// Writes this many bytes as fast as they are taken, without waiting to be asked.
    Flood(usize),
    /// Sends back whatever comes.
    Echo,
}

/// A listening peer; ends when it is dropped.
pub struct TcpPeer {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Vec<u8>>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl TcpPeer {
    pub fn start(behaviour: TcpBehaviour) -> std::io::Result<TcpPeer> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (received, is_over) = (Arc::<Mutex<Vec<Vec<u8>>>>::default(), Arc::<AtomicBool>::default());
        let thread = {
            let (received, is_over) = (Arc::clone(&received), Arc::clone(&is_over));
            std::thread::spawn(move || {
                for stream in listener.incoming().take(CONNECTIONS_MAX) {
                    if is_over.load(Ordering::SeqCst) {
                        return;
                    }
                    let (behaviour, received) = (behaviour.clone(), Arc::clone(&received));
                    if let Ok(stream) = stream {
                        std::thread::spawn(move || converse(stream, &behaviour, &received));
                    }
                }
            })
        };
        Ok(TcpPeer { address, received, is_over, thread: Some(thread) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What each finished connection sent, in the order in which they finished.
    pub fn received(&self) -> Vec<Vec<u8>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for TcpPeer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // Wakes the listener, which then sees the flag.
        let _ = TcpStream::connect_timeout(&self.address, WAIT);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn converse(mut stream: TcpStream, behaviour: &TcpBehaviour, received: &Mutex<Vec<Vec<u8>>>) {
    let _ = stream.set_read_timeout(Some(WAIT));
    let _ = stream.set_write_timeout(Some(WAIT));
    let bytes = match behaviour {
        TcpBehaviour::CloseAtOnce => Vec::new(),
        TcpBehaviour::Silent => read_until_end(&mut stream, |_, _| true),
        TcpBehaviour::Echo => read_until_end(&mut stream, |stream, bytes| stream.write_all(bytes).is_ok()),
        TcpBehaviour::Answer(answer) => {
            let bytes = read_once(&mut stream);
            let _ = stream.write_all(answer);
            bytes
        }
        TcpBehaviour::Drip { answer, pause } => {
            let bytes = read_once(&mut stream);
            for byte in answer {
                if stream.write_all(&[*byte]).is_err() {
                    break;
                }
                std::thread::sleep(*pause);
            }
            bytes
        }
        TcpBehaviour::Flood(length) => {
            let block = [b'x'; 16 * 1024];
            let mut left = *length;
            while left > 0 {
                let part = left.min(block.len());
                if stream.write_all(block.get(..part).unwrap_or_default()).is_err() {
                    break;
                }
                left -= part;
            }
            Vec::new()
        }
    };
    received.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
}

fn read_once(stream: &mut TcpStream) -> Vec<u8> {
    let mut buffer = vec![0; 64 * 1024];
    let length = stream.read(&mut buffer).unwrap_or(0);
    buffer.truncate(length);
    buffer
}

fn read_until_end(stream: &mut TcpStream, mut each: impl FnMut(&mut TcpStream, &[u8]) -> bool) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let bytes = read_once(stream);
        if bytes.is_empty() || !each(stream, &bytes) || all.len() + bytes.len() > RECEIVED_BYTES_MAX {
            return all;
        }
        all.extend(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(behaviour: TcpBehaviour, question: &[u8]) -> Vec<u8> {
        let peer = TcpPeer::start(behaviour).expect("a peer");
        let mut stream = TcpStream::connect(peer.address()).expect("a connection");
        let _ = stream.write_all(question);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    }

    #[test]
    fn each_behaviour_is_what_it_says() {
        assert_eq!(ask(TcpBehaviour::Silent, b"hello"), b"");
        assert_eq!(ask(TcpBehaviour::CloseAtOnce, b""), b"");
        assert_eq!(ask(TcpBehaviour::Echo, b"hello"), b"hello");
        assert_eq!(ask(TcpBehaviour::Answer(b"half".to_vec()), b"hello"), b"half");
        assert_eq!(ask(TcpBehaviour::Drip { answer: b"slow".to_vec(), pause: Duration::ZERO }, b"hello"), b"slow");
        assert_eq!(ask(TcpBehaviour::Flood(100_000), b"").len(), 100_000);
    }

    #[test]
    fn a_peer_that_is_dropped_is_gone() {
        let peer = TcpPeer::start(TcpBehaviour::Silent).expect("a peer");
        let address = peer.address();
        drop(peer);
        assert!(TcpStream::connect(address).is_err());
    }
}
