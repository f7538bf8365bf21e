//! Datagrams in batches: one call of the kernel takes all that has come, another sends all that was answered (recvmmsg(2)
//! and sendmmsg(2)). A call for each datagram is what a cached answer would cost most. No crate of ours wraps both calls
//! without reading what it did not write, so this is the gate's one module that may be unsafe; it knows nothing of DNS.
#![expect(unsafe_code, reason = "two system calls that take arrays of pointers")]

use std::io;
use std::mem::zeroed;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;

/// Datagrams of one call: enough that its own cost no longer matters, few enough that the first answer does not wait long.
pub(crate) const BATCH_MAX: usize = 32;

/// The longest question over UDP that could be valid is far shorter; the rest is cut off and then malformed.
const DATAGRAM_BYTES_MAX: usize = 4_160;

/// Datagrams that came together, and the replies to them.
pub(crate) struct Batch {
    bytes: Box<[[u8; DATAGRAM_BYTES_MAX]]>,
    senders: Box<[Sender]>,
    received: usize,
    /// Replies one after the other.
    replies: Vec<u8>,
    /// Which datagram each is for, and where it ends.
    ends: Vec<(usize, usize)>,
}

/// Where a datagram came from, as the kernel writes it, and how long it is.
#[derive(Clone, Copy)]
struct Sender {
    name: libc::sockaddr_storage,
    name_bytes: libc::socklen_t,
    bytes: usize,
}

impl Batch {
    pub(crate) fn new() -> Batch {
        // SAFETY: an address of any family is plain old data, for which zeros are a value.
        let sender = Sender { name: unsafe { zeroed() }, name_bytes: 0, bytes: 0 };
        Batch {
            bytes: vec![[0; DATAGRAM_BYTES_MAX]; BATCH_MAX].into_boxed_slice(),
            senders: vec![sender; BATCH_MAX].into_boxed_slice(),
            received: 0,
            replies: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// Waits for one datagram, as long as the socket's timeout says, and takes those that have come by then.
    pub(crate) fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        self.received = 0;
        self.replies.clear();
        self.ends.clear();
        // SAFETY: zeros are a value of these plain structures: no buffers, no address.
        let (mut vectors, mut headers): ([libc::iovec; BATCH_MAX], [libc::mmsghdr; BATCH_MAX]) = unsafe { zeroed() };
        for (((header, vector), bytes), sender) in
            headers.iter_mut().zip(&mut vectors).zip(self.bytes.iter_mut()).zip(self.senders.iter_mut())
        {
            vector.iov_base = bytes.as_mut_ptr().cast();
            vector.iov_len = bytes.len();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = (&raw mut sender.name).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        }
        // SAFETY: every header points to one vector, and that to a buffer, of the lengths given; all of them outlive the
        // call, and nothing else refers to them meanwhile.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH_MAX as libc::c_uint,
                libc::MSG_WAITFORONE,
                std::ptr::null_mut(),
            )
        };
        self.received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (sender, header) in self.senders.iter_mut().zip(&headers).take(self.received) {
            sender.name_bytes = header.msg_hdr.msg_namelen;
            sender.bytes = (header.msg_len as usize).min(DATAGRAM_BYTES_MAX);
        }
        Ok(self.received)
    }

    /// One of the datagrams, who sent it, and room for its reply at the end of those written so far; [`Batch::reply`] makes
    /// it one. None where its sender has no address to answer to.
    pub(crate) fn take(&mut self, place: usize) -> Option<(SocketAddr, &[u8], &mut Vec<u8>)> {
        let sender = self.senders.get(place).filter(|_| place < self.received)?;
        Some((address(sender)?, self.bytes.get(place)?.get(..sender.bytes)?, &mut self.replies))
    }

    /// Makes what was written into the room since the last reply the reply to a datagram. Nothing written is no reply.
    pub(crate) fn reply(&mut self, place: usize) {
        let begin = self.ends.last().map_or(0, |(_, end)| *end);
        if self.replies.len() > begin {
            self.ends.push((place, self.replies.len()));
        }
    }

    /// Takes back what was written since the last reply.
    pub(crate) fn discard(&mut self) {
        self.replies.truncate(self.ends.last().map_or(0, |(_, end)| *end));
    }

    /// Sends the replies. One that cannot be sent is left out, and a full socket loses the rest, as any network does.
    pub(crate) fn send(&mut self, socket: &UdpSocket) -> io::Result<()> {
        // SAFETY: zeros are a value of these plain structures: no buffers, no address.
        let (mut vectors, mut headers): ([libc::iovec; BATCH_MAX], [libc::mmsghdr; BATCH_MAX]) = unsafe { zeroed() };
        let mut begin = 0;
        for ((header, vector), (place, end)) in headers.iter_mut().zip(&mut vectors).zip(&self.ends) {
            let (Some(reply), Some(sender)) = (self.replies.get(begin..*end), self.senders.get(*place)) else { continue };
            begin = *end;
            vector.iov_base = reply.as_ptr().cast_mut().cast();
            vector.iov_len = reply.len();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = (&raw const sender.name).cast_mut().cast();
            header.msg_hdr.msg_namelen = sender.name_bytes;
        }
        let mut rest = headers.get_mut(..self.ends.len()).unwrap_or_default();
        let mut outcome = Ok(());
        while !rest.is_empty() {
            // SAFETY: every header points to one vector, and that to bytes, of the lengths given. The kernel only reads
            // what they point to, and all of it outlives the call.
            let sent =
                unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as libc::c_uint, libc::MSG_DONTWAIT) };
            let done = match usize::try_from(sent) {
                Ok(sent) => sent.max(1),
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() == io::ErrorKind::WouldBlock {
                        return Err(error);
                    }
                    // The first of the rest is the one that failed.
                    outcome = Err(error);
                    1
                }
            };
            rest = rest.get_mut(done..).unwrap_or_default();
        }
        outcome
    }
}

/// The sender's address, of the two families that a socket of ours can be of.
fn address(sender: &Sender) -> Option<SocketAddr> {
    let name = &raw const sender.name;
    let is_whole = |bytes: usize| sender.name_bytes as usize >= bytes;
    match i32::from(sender.name.ss_family) {
        libc::AF_INET if is_whole(size_of::<libc::sockaddr_in>()) => {
            // SAFETY: the kernel wrote an address of this family, in a place that holds and aligns any.
            let v4 = unsafe { &*name.cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from_bits(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 if is_whole(size_of::<libc::sockaddr_in6>()) => {
            // SAFETY: as above.
            let v6 = unsafe { &*name.cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn bound(address: &str) -> UdpSocket {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }

    /// Takes batches until so many datagrams have come; each is answered with its bytes in reverse, the odd ones not.
    fn serve(server: &UdpSocket, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        let (mut batch, mut taken) = (Batch::new(), Vec::new());
        while taken.len() < count {
            for place in 0..batch.receive(server).unwrap() {
                let (client, bytes, room) = batch.take(place).unwrap();
                let bytes = bytes.to_vec();
                room.extend(bytes.iter().rev());
                if bytes.first().is_some_and(|byte| byte % 2 == 1) {
                    batch.discard();
                }
                batch.reply(place);
                taken.push((client, bytes));
            }
            batch.send(server).unwrap();
        }
        taken
    }

    #[test]
    fn every_datagram_is_taken_once_and_each_client_gets_its_own_replies() {
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let (server, one, two) = (bound(loopback), bound(loopback), bound(loopback));
            let address = server.local_addr().unwrap();
            for number in 0..2 * BATCH_MAX as u8 {
                one.send_to(&[number, 1, 2], address).unwrap();
                two.send_to(&[number; 700], address).unwrap();
            }
            two.send_to(&[], address).unwrap();
            let taken = serve(&server, 4 * BATCH_MAX + 1);
            let from = |client: &UdpSocket| taken.iter().filter(|(from, _)| *from == client.local_addr().unwrap()).count();
            assert_eq!((from(&one), from(&two)), (2 * BATCH_MAX, 2 * BATCH_MAX + 1));
            let mut reply = [0; 1000];
            for number in (0..2 * BATCH_MAX as u8).step_by(2) {
                assert_eq!(one.recv(&mut reply).unwrap(), 3);
                assert_eq!(reply[..3], [2, 1, number]);
                assert_eq!(two.recv(&mut reply).unwrap(), 700);
                assert_eq!(reply[..700], [number; 700]);
            }
        }
    }

    #[test]
    fn a_datagram_longer_than_any_question_is_cut_and_silence_ends_the_wait() {
        let (server, client) = (bound("127.0.0.1:0"), bound("127.0.0.1:0"));
        client.send_to(&[7; DATAGRAM_BYTES_MAX + 100], server.local_addr().unwrap()).unwrap();
        let mut batch = Batch::new();
        assert_eq!(batch.receive(&server).unwrap(), 1);
        assert_eq!(batch.take(0).map(|(_, bytes, _)| bytes.len()), Some(DATAGRAM_BYTES_MAX));
        assert!(batch.take(1).is_none());
        server.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        assert_eq!(batch.receive(&server).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(batch.take(0).is_none());
    }

    /// Port 0 can be sent to by nobody; the reply behind it goes out all the same.
    #[test]
    fn a_reply_that_cannot_be_sent_does_not_hold_up_the_next() {
        let (server, client) = (bound("127.0.0.1:0"), bound("127.0.0.1:0"));
        for _ in 0..2 {
            client.send_to(&[2], server.local_addr().unwrap()).unwrap();
        }
        let mut batch = Batch::new();
        // On loopback both have arrived when the second call to send returns.
        assert_eq!(batch.receive(&server).unwrap(), 2);
        let name = (&raw mut batch.senders[0].name).cast::<libc::sockaddr_in>();
        // SAFETY: the kernel wrote an address of this family there.
        unsafe { (*name).sin_port = 0 };
        for place in 0..2 {
            batch.replies.push(9);
            batch.reply(place);
        }
        assert!(batch.send(&server).is_err());
        let mut reply = [0; 10];
        assert_eq!(client.recv(&mut reply).unwrap(), 1);
    }
}
