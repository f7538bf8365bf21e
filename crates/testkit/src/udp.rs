//! Datagram peers that misbehave in one declared way, made with DNS upstreams in mind: a wrong message id, a cut answer, an
//! answer from another port.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Datagrams that one peer answers.
const DATAGRAMS_MAX: usize = 100_000;
/// How often a peer looks whether it is over.
const LOOK: Duration = Duration::from_millis(20);

/// What the peer does with each datagram.
#[derive(Clone, Debug)]
pub enum UdpBehaviour {
    Silent,
    Echo,
    /// Sends back the datagram with its first two bytes, a DNS message's id, changed.
    WrongId,
    /// Sends back the first bytes only.
    Cut(usize),
    /// Sends these bytes, whatever was asked.
    Answer(Vec<u8>),
    /// Sends the datagram back twice.
    Twice,
    /// Sends the datagram back from another port.
    OtherPort,
}

/// A bound peer; ends when it is dropped.
pub struct UdpPeer {
    address: SocketAddr,
    count: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpPeer {
    pub fn start(behaviour: UdpBehaviour) -> std::io::Result<UdpPeer> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let other = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(LOOK))?;
        let address = socket.local_addr()?;
        let (count, is_over) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let thread = {
            let (count, is_over) = (Arc::clone(&count), Arc::clone(&is_over));
            std::thread::spawn(move || {
                let mut buffer = vec![0; 65_535];
                while !is_over.load(Ordering::SeqCst) && count.load(Ordering::SeqCst) < DATAGRAMS_MAX {
                    if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                        count.fetch_add(1, Ordering::SeqCst);
                        reply(&socket, &other, &behaviour, buffer.get(..length).unwrap_or_default(), from);
                    }
                }
            })
        };
        Ok(UdpPeer { address, count, is_over, thread: Some(thread) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Datagrams received so far.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

impl Drop for UdpPeer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What cannot be sent is lost, as datagrams are.
fn reply(socket: &UdpSocket, other: &UdpSocket, behaviour: &UdpBehaviour, datagram: &[u8], to: SocketAddr) {
    let _ = match behaviour {
        UdpBehaviour::Silent => Ok(0),
        UdpBehaviour::Echo => socket.send_to(datagram, to),
        UdpBehaviour::WrongId => {
            let changed: Vec<u8> = datagram.iter().enumerate().map(|(at, byte)| if at < 2 { !byte } else { *byte }).collect();
            socket.send_to(&changed, to)
        }
        UdpBehaviour::Cut(length) => socket.send_to(datagram.get(..*length).unwrap_or(datagram), to),
        UdpBehaviour::Answer(answer) => socket.send_to(answer, to),
        UdpBehaviour::Twice => socket.send_to(datagram, to).and_then(|_| socket.send_to(datagram, to)),
        UdpBehaviour::OtherPort => other.send_to(datagram, to),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answers that come before nothing more does, with whether they came from the address that was asked.
    fn ask(behaviour: UdpBehaviour) -> Vec<(Vec<u8>, bool)> {
        let peer = UdpPeer::start(behaviour).expect("a peer");
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        socket.send_to(b"\x12\x34rest", peer.address()).expect("sent");
        let mut answers = Vec::new();
        let mut buffer = [0; 100];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            answers.push((buffer[..length].to_vec(), from == peer.address()));
        }
        assert_eq!(peer.count(), 1);
        answers
    }

    #[test]
    fn each_behaviour_is_what_it_says() {
        let whole = b"\x12\x34rest".to_vec();
        assert_eq!(ask(UdpBehaviour::Silent), []);
        assert_eq!(ask(UdpBehaviour::Echo), [(whole.clone(), true)]);
        assert_eq!(ask(UdpBehaviour::WrongId), [(b"\xed\xcbrest".to_vec(), true)]);
        assert_eq!(ask(UdpBehaviour::Cut(3)), [(b"\x12\x34r".to_vec(), true)]);
        assert_eq!(ask(UdpBehaviour::Answer(b"x".to_vec())), [(b"x".to_vec(), true)]);
        assert_eq!(ask(UdpBehaviour::Twice), [(whole.clone(), true), (whole.clone(), true)]);
        assert_eq!(ask(UdpBehaviour::OtherPort), [(whole, false)]);
    }
}
