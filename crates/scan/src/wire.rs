//! Frames between the host and a worker: four bytes of length, then JSON. A job carries the file as a descriptor beside
//! its first byte (SCM_RIGHTS, unix(7)), so that no path and no content passes through the socket.

use crate::Error;
use crate::engines::Definitions;
use crate::limits::Limits;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// A report with all its findings stays below 100 KiB; anything near this is not one of ours.
pub(crate) const FRAME_BYTES_MAX: usize = 1 << 20;
pub(crate) const LENGTH_BYTES: usize = 4;

/// First frame, host to worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) definitions: Definitions,
    pub(crate) limits: Limits,
    pub(crate) memory_bytes: u64,
}

/// Answer to `Hello`: locked down and loaded, or why not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) definitions: String,
    pub(crate) signatures: usize,
    pub(crate) landlock: String,
    pub(crate) refusal: Option<String>,
}

/// One file to scan; the descriptor travels beside it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) name: String,
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    let body = serde_json::to_vec(value).map_err(Error::Decode)?;
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= FRAME_BYTES_MAX);
    let length = length.ok_or_else(|| Error::Frame(std::io::Error::other("frame too large")))?;
    Ok([length.to_le_bytes().as_slice(), &body].concat())
}

pub(crate) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(Error::Decode)
}

/// The length that a header announces.
pub(crate) fn body_bytes(header: [u8; LENGTH_BYTES]) -> Result<usize, Error> {
    let length = u32::from_le_bytes(header) as usize;
    match length <= FRAME_BYTES_MAX {
        true => Ok(length),
        false => Err(Error::Frame(std::io::Error::other("frame too large"))),
    }
}

pub(crate) fn write<T: Serialize>(socket: &mut UnixStream, value: &T) -> Result<(), Error> {
    socket.write_all(&encode(value)?).map_err(Error::Frame)
}

/// What waiting for a frame came to.
pub(crate) enum Received<T> {
    /// With the descriptor that came beside it.
    Frame(T, Option<OwnedFd>),
    /// Nothing came within the socket's read timeout.
    Nothing,
    /// The host has closed the socket.
    End,
}

/// Reads one frame. The socket's read timeout is for its first byte alone.
pub(crate) fn read<T: DeserializeOwned>(socket: &mut UnixStream) -> Result<Received<T>, Error> {
    let mut header = [0u8; LENGTH_BYTES];
    let (count, descriptor) = match receive(socket.as_fd(), &mut header) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
        received => received.map_err(Error::Frame)?,
    };
    if count == 0 {
        return Ok(Received::End);
    }
    read_rest(socket, header.get_mut(count..).unwrap_or_default())?;
    let mut body = vec![0u8; body_bytes(header)?];
    read_rest(socket, &mut body)?;
    Ok(Received::Frame(decode(&body)?, descriptor))
}

/// Reads until all has come; a pause within a frame is no end.
fn read_rest(socket: &mut UnixStream, mut missing: &mut [u8]) -> Result<(), Error> {
    while !missing.is_empty() {
        match socket.read(missing) {
            Ok(0) => return Err(Error::Frame(std::io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => missing = missing.get_mut(count..).unwrap_or_default(),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(Error::Frame(error)),
        }
    }
    Ok(())
}

fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> std::io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptor = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            descriptor = descriptors.last();
        }
    }
    Ok((received.bytes, descriptor))
}

/// Sends bytes with a descriptor beside the first of them.
pub(crate) fn send_with_descriptor(socket: BorrowedFd<'_>, bytes: &[u8], file: BorrowedFd<'_>) -> std::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [file];
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(std::io::Error::other("no room for a descriptor"));
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}
