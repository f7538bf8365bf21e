//! Listening sockets that outlive a reload. A gate keeps a second handle on each socket that it opened; the gate that takes
//! its place asks for them by protocol and configured address, so that no connection in the kernel's queue is lost and no
//! port is free for a moment in between. A socket that nobody asks for again closes with the gate that had it.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

/// The open sockets of one gate.
#[derive(Debug, Default)]
pub struct Sockets(Vec<Kept>);

#[derive(Debug)]
struct Kept {
    protocol: &'static str,
    /// As configured: port 0 stands for the free port that was given at first.
    configured: SocketAddr,
    socket: OwnedFd,
}

impl Sockets {
    /// The listener for this place: the one that an earlier gate had, or a new one. Either is kept for the next gate.
    pub fn listener(
        &mut self,
        earlier: &Sockets,
        protocol: &'static str,
        configured: SocketAddr,
        open: impl FnOnce() -> io::Result<TcpListener>,
    ) -> io::Result<TcpListener> {
        let listener = match earlier.handle(protocol, configured, self.count(protocol, configured))? {
            Some(handle) => TcpListener::from(handle),
            None => open()?,
        };
        self.keep(protocol, configured, listener.try_clone()?.into());
        Ok(listener)
    }

    /// The same for datagrams. Several sockets may share one address: they are told apart by the order of asking.
    pub fn datagrams(
        &mut self,
        earlier: &Sockets,
        protocol: &'static str,
        configured: SocketAddr,
        open: impl FnOnce() -> io::Result<UdpSocket>,
    ) -> io::Result<UdpSocket> {
        let socket = match earlier.handle(protocol, configured, self.count(protocol, configured))? {
            Some(handle) => UdpSocket::from(handle),
            None => open()?,
        };
        self.keep(protocol, configured, socket.try_clone()?.into());
        Ok(socket)
    }

    fn rows(&self, protocol: &'static str, configured: SocketAddr) -> impl Iterator<Item = &Kept> {
        self.0.iter().filter(move |kept| kept.protocol == protocol && kept.configured == configured)
    }

    fn count(&self, protocol: &'static str, configured: SocketAddr) -> usize {
        self.rows(protocol, configured).count()
    }

    fn handle(&self, protocol: &'static str, configured: SocketAddr, place: usize) -> io::Result<Option<OwnedFd>> {
        self.rows(protocol, configured).nth(place).map(|kept| kept.socket.try_clone()).transpose()
    }

    fn keep(&mut self, protocol: &'static str, configured: SocketAddr, socket: OwnedFd) {
        self.0.push(Kept { protocol, configured, socket });
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{Ipv4Addr, TcpStream};

    use super::*;

    const FREE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn a_connection_made_before_the_reload_is_taken_after_it() -> io::Result<()> {
        let mut first = Sockets::default();
        let old = first.listener(&Sockets::default(), "http", FREE, || TcpListener::bind(FREE))?;
        let mut client = TcpStream::connect(old.local_addr()?)?;
        let mut second = Sockets::default();
        let new = second.listener(&first, "http", FREE, || Err(io::Error::other("a new socket was opened")))?;
        drop((old, first));
        let (taken, _) = new.accept()?;
        drop(taken);
        assert_eq!(client.read(&mut [0])?, 0);
        Ok(())
    }

    #[test]
    fn sockets_that_share_an_address_are_handed_over_one_by_one() -> io::Result<()> {
        let mut first = Sockets::default();
        let mut ports = Vec::new();
        for _ in 0..2 {
            ports.push(first.datagrams(&Sockets::default(), "udp", FREE, || UdpSocket::bind(FREE))?.local_addr()?);
        }
        let mut second = Sockets::default();
        for port in ports {
            let socket = second.datagrams(&first, "udp", FREE, || Err(io::Error::other("opened")))?;
            assert_eq!(socket.local_addr()?, port);
        }
        assert!(second.datagrams(&first, "udp", FREE, || UdpSocket::bind(FREE)).is_ok());
        assert!(second.datagrams(&first, "dot", FREE, || Err(io::Error::other("another protocol is another socket"))).is_err());
        Ok(())
    }
}
