//! Receives sFlow datagrams from routers that the operator names. UDP proves nobody's address: a listener belongs on a network
//! of management, and what comes from elsewhere is counted and not read.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use ipnet::IpNet;
use serde::Serialize;

use crate::Prefixes;
use crate::detect::packet::Packet;
use crate::sflow;

/// Datagrams that one look takes, so that it ends under any flood.
const DATAGRAMS_MAX: usize = 4_096;
const DATAGRAM_BYTES_MAX: usize = 65_536;

#[derive(Debug)]
pub struct Collector {
    socket: UdpSocket,
    exporters: Prefixes<()>,
    counts: Collected,
    buffer: Vec<u8>,
}

/// What came, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    pub datagrams: u64,
    /// Of them, from nobody who was named, and what could not be read to its end.
    pub strangers: u64,
    pub malformed: u64,
    /// Packets whose first bytes were in them.
    pub packets: u64,
}

impl Collector {
    pub fn open(address: SocketAddr, exporters: &[IpNet]) -> io::Result<Collector> {
        let socket = UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        let exporters = exporters.iter().map(|network| (*network, ())).collect();
        Ok(Collector { socket, exporters, counts: Collected::default(), buffer: vec![0; DATAGRAM_BYTES_MAX] })
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub fn counts(&self) -> Collected {
        self.counts
    }

    /// Hands over what has come, without waiting.
    pub fn collect(&mut self, mut take: impl FnMut(&Packet, u64)) -> io::Result<()> {
        for _ in 0..DATAGRAMS_MAX {
            let (length, from) = match self.socket.recv_from(&mut self.buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // An ICMP error of an earlier answer, or a signal: the next look goes on.
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::Interrupted) => continue,
                Err(error) => return Err(error),
            };
            self.counts.datagrams += 1;
            if !self.exporters.contains(from.ip().to_canonical()) {
                self.counts.strangers += 1;
                continue;
            }
            let mut packets = 0;
            let read = sflow::decode(&self.buffer[..length], |packet, weight| {
                packets += 1;
                take(&packet, weight);
            });
            self.counts.packets += packets;
            self.counts.malformed += u64::from(read.is_err());
        }
        Ok(())
    }
}
