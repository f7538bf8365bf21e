//! Connections that the client did not mean for us: redirected by the packet filter (SO_ORIGINAL_DST) or taken with
//! TPROXY (IP_TRANSPARENT, needs CAP_NET_ADMIN). It sets no packet filter rules. Linux `ip(7)` and
//! `Documentation/networking/tproxy.rst`.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

/// Enough for bursts of new connections between two polls; the kernel caps it at `somaxconn`.
const BACKLOG_CONNECTIONS: i32 = 1024;

/// Where a redirected client wanted to go. A client that connected to the listener itself is refused: forwarding it to
/// its own target would be a loop.
pub fn redirected_destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    let socket = SockRef::from(stream);
    let local = stream.local_addr()?;
    let original = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    let original = original?.as_socket().ok_or_else(not_redirected)?;
    if original == local { Err(not_redirected()) } else { Ok(original) }
}

/// With TPROXY the connection's own local address is where the client wanted to go. `listener` is the address that the
/// listener is bound to, to tell direct connections.
pub fn intercepted_destination(stream: &TcpStream, listener: SocketAddr) -> io::Result<SocketAddr> {
    let local = stream.local_addr()?;
    let is_direct = local.port() == listener.port() && (listener.ip() == local.ip() || local.ip().is_loopback());
    if is_direct { Err(not_redirected()) } else { Ok(local) }
}

/// A listener that the kernel may hand connections for any address.
pub fn listen_transparent(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    match address {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        SocketAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG_CONNECTIONS)?;
    TcpListener::from_std(socket.into())
}

fn not_redirected() -> io::Error {
    io::Error::new(io::ErrorKind::AddrNotAvailable, "the connection was not redirected here")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    #[tokio::test]
    async fn a_direct_connection_is_not_taken_for_a_redirected_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let _client = TcpStream::connect(address).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        assert!(redirected_destination(&stream).is_err());
        assert!(intercepted_destination(&stream, address).is_err());
        let elsewhere = SocketAddr::from(([192, 0, 2, 1], 1));
        assert_eq!(intercepted_destination(&stream, elsewhere).unwrap(), address);
    }

    #[tokio::test]
    async fn a_transparent_listener_opens_or_says_that_the_privilege_is_missing() {
        match listen_transparent("127.0.0.1:0".parse().unwrap()) {
            Ok(listener) => assert_ne!(listener.local_addr().unwrap().port(), 0),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        }
    }
}
