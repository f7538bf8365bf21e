//! Where a body waits while it is scanned: in memory up to a bound, beyond it in a file that has no name. It neither
//! decides nor scans; it is the bytes, once and in order.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use rustix::io::ReadWriteFlags;

/// Bytes that are gathered before they are written, so that a slow disk is asked rarely.
const WRITE_BYTES: usize = 256 << 10;
/// One piece of a spool file that is read back.
const READ_BYTES: usize = 128 << 10;
/// Slices of one call (the kernel's IOV_MAX is 1024).
const WRITE_SLICES_MAX: usize = 256;

/// The room that all spool files of a gate share.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    used: Arc<AtomicU64>,
    bytes_max: u64,
}

/// One body.
#[derive(Debug)]
pub(crate) struct Spool {
    /// In memory and in order; of a body that has gone to the file, what is not written yet.
    chunks: VecDeque<Bytes>,
    chunk_bytes: u64,
    file: Option<Arc<File>>,
    file_bytes: u64,
    room: Room,
}

impl Room {
    pub(crate) fn new(bytes_max: u64) -> Room {
        Room { used: Arc::default(), bytes_max }
    }

    fn take(&self, bytes: u64) -> bool {
        let taken = self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if taken > self.bytes_max {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
        taken <= self.bytes_max
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.room.used.fetch_sub(self.file_bytes, Ordering::Relaxed);
    }
}

impl Spool {
    pub(crate) fn new(room: Room) -> Spool {
        Spool { chunks: VecDeque::new(), chunk_bytes: 0, file: None, file_bytes: 0, room }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.chunk_bytes + self.file_bytes
    }

    /// Adds to a body that is still in memory.
    pub(crate) fn hold(&mut self, chunk: Bytes) {
        self.chunk_bytes += chunk.len() as u64;
        if !chunk.is_empty() {
            self.chunks.push_back(chunk);
        }
    }

    /// From here on the body goes to a file without a name.
    pub(crate) fn begin_file(&mut self, directory: &Path) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(Arc::new(tempfile::tempfile_in(directory)?));
        }
        Ok(())
    }

    /// Adds to a body that goes to a file.
    pub(crate) async fn push(&mut self, chunk: Bytes) -> io::Result<()> {
        self.hold(chunk);
        match self.chunk_bytes >= WRITE_BYTES as u64 {
            true => self.flush().await,
            false => Ok(()),
        }
    }

    /// Writes what is gathered.
    async fn flush(&mut self) -> io::Result<()> {
        let Some(file) = self.file.clone() else { return Ok(()) };
        let bytes = self.chunk_bytes;
        if !self.room.take(bytes) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        // Counted before it is written, so that a failed write gives its room back when the spool is dropped.
        let at = self.file_bytes;
        self.file_bytes += bytes;
        self.chunk_bytes = 0;
        let chunks = std::mem::take(&mut self.chunks);
        blocking(move || write_all_at(&file, &chunks, at)).await
    }

    /// The whole body as a file from its first byte, for the scanner.
    pub(crate) async fn whole(&mut self) -> io::Result<File> {
        if self.file.is_some() {
            self.flush().await?;
        }
        match &self.file {
            Some(file) => {
                let mut copy = file.try_clone()?;
                copy.rewind()?;
                Ok(copy)
            }
            None => memory_file(&self.chunks),
        }
    }

    /// The whole body behind other bytes, for the scanner. The copy of a large body is a file without a name in `directory`.
    pub(crate) async fn whole_behind(&mut self, head: Vec<u8>, directory: &Path) -> io::Result<File> {
        if self.file.is_none() {
            return memory_file(std::iter::once(&Bytes::from(head)).chain(&self.chunks));
        }
        let (mut body, mut copy) = (self.whole().await?, tempfile::tempfile_in(directory)?);
        blocking(move || {
            copy.write_all(&head)?;
            io::copy(&mut body, &mut copy)?;
            copy.rewind()?;
            Ok(copy)
        })
        .await
    }

    /// The next piece from a position on, at most `bytes_max` of it; empty at the end of what has come so far.
    pub(crate) async fn read(&mut self, at: u64, bytes_max: u64) -> io::Result<Bytes> {
        if at >= self.file_bytes {
            self.flush().await?;
        }
        let Some(file) = self.file.clone() else { return Ok(self.held_at(at, bytes_max)) };
        let count = usize::try_from(self.file_bytes.saturating_sub(at).min(bytes_max)).unwrap_or(READ_BYTES).min(READ_BYTES);
        if count == 0 {
            return Ok(Bytes::new());
        }
        // What was written a moment ago is nearly always still in memory, and then costs no other thread.
        if let Some(piece) = read_cached(&file, count, at) {
            return Ok(piece);
        }
        blocking(move || {
            let mut piece = vec![0; count];
            file.read_exact_at(&mut piece, at)?;
            Ok(Bytes::from(piece))
        })
        .await
    }

    fn held_at(&self, at: u64, bytes_max: u64) -> Bytes {
        let mut skipped = at;
        for chunk in &self.chunks {
            let length = chunk.len() as u64;
            if skipped < length {
                let end = length.min(skipped.saturating_add(bytes_max));
                return chunk.slice(skipped as usize..end as usize);
            }
            skipped -= length;
        }
        Bytes::new()
    }

    /// The chunks of a body that is held in memory.
    pub(crate) fn into_chunks(mut self) -> VecDeque<Bytes> {
        std::mem::take(&mut self.chunks)
    }

    pub(crate) fn is_in_memory(&self) -> bool {
        self.file.is_none()
    }

    /// The chunks of a body that is still in memory; none of one that has gone to a file.
    pub(crate) fn held(&self) -> Option<&VecDeque<Bytes>> {
        self.file.is_none().then_some(&self.chunks)
    }

    /// The first bytes of a held body, as many as the signatures of file types need.
    pub(crate) fn start(&self) -> Vec<u8> {
        self.chunks.iter().flat_map(|chunk| chunk.iter().copied()).take(crate::sniff::FIRST_BYTES).collect()
    }
}

/// A file of memory with these chunks. They stay held: releasing them costs no reading back.
pub(crate) fn memory_file<'a>(chunks: impl IntoIterator<Item = &'a Bytes>) -> io::Result<File> {
    let file = File::from(rustix::fs::memfd_create("body", rustix::fs::MemfdFlags::CLOEXEC)?);
    let mut at = 0;
    for chunk in chunks {
        // By position: the file stays at its start, where the scanner begins.
        file.write_all_at(chunk, at)?;
        at += chunk.len() as u64;
    }
    Ok(file)
}

/// As much as can be read without waiting for the disk, at least a byte; none where that is nothing (preadv2(2), RWF_NOWAIT).
fn read_cached(file: &File, count: usize, at: u64) -> Option<Bytes> {
    let mut piece = vec![0; count];
    let read = rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut piece)], at, ReadWriteFlags::NOWAIT);
    let read = read.ok().filter(|read| *read > 0)?;
    piece.truncate(read);
    Some(Bytes::from(piece))
}

/// Writes many chunks with few calls.
fn write_all_at(file: &File, chunks: &VecDeque<Bytes>, mut at: u64) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = chunks.iter().map(|chunk| IoSlice::new(chunk)).collect();
    let mut left = slices.as_mut_slice();
    while !left.is_empty() {
        let batch = left.get(..left.len().min(WRITE_SLICES_MAX)).unwrap_or_default();
        match rustix::io::pwritev(file, batch, at) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero)),
            Ok(written) => {
                at += written as u64;
                IoSlice::advance_slices(&mut left, written);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::Interrupted)))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[tokio::test]
    async fn a_full_room_refuses_and_a_dropped_spool_gives_back() {
        let room = Room::new(WRITE_BYTES as u64);
        let mut spool = Spool::new(room.clone());
        spool.begin_file(&std::env::temp_dir()).unwrap();
        spool.push(Bytes::from(vec![1; WRITE_BYTES])).await.unwrap();
        let refused = spool.push(Bytes::from(vec![1; WRITE_BYTES])).await;
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::StorageFull);
        drop(spool);
        assert_eq!(room.used.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn bytes_come_back_in_order_from_memory_and_file() {
        for to_file in [false, true] {
            let mut spool = Spool::new(Room::new(1 << 30));
            if to_file {
                spool.begin_file(&std::env::temp_dir()).unwrap();
            }
            let mut expected = Vec::new();
            for i in 0..5u8 {
                let chunk = vec![i; 100_000];
                expected.extend_from_slice(&chunk);
                spool.push(Bytes::from(chunk)).await.unwrap();
            }
            let mut whole = Vec::new();
            spool.whole().await.unwrap().read_to_end(&mut whole).unwrap();
            assert_eq!(whole, expected);
            let mut pieces = Vec::new();
            loop {
                let piece = spool.read(pieces.len() as u64, 70_000).await.unwrap();
                if piece.is_empty() {
                    break;
                }
                pieces.extend_from_slice(&piece);
            }
            assert_eq!(pieces, expected);
        }
    }
}
