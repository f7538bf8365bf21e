//! A file that Parquet's reader reads by place: one system call for each part and no shared position, so that several
//! threads may read the same open file.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

/// The largest part that is read at once: well above a column chunk of a row group.
const PART_BYTES_MAX: usize = 1 << 30;

#[derive(Clone)]
pub(crate) struct PositionedFile {
    file: Arc<File>,
    bytes: u64,
}

impl PositionedFile {
    pub fn open(path: &Path) -> io::Result<PositionedFile> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        Ok(PositionedFile { file: Arc::new(file), bytes })
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Exactly so many bytes from a place. A length beyond the file allocates nothing.
    pub fn read(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let end = at.checked_add(length as u64).filter(|end| *end <= self.bytes && length <= PART_BYTES_MAX);
        if end.is_none() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }
}

impl Length for PositionedFile {
    fn len(&self) -> u64 {
        self.bytes
    }
}

/// Reads on from a place.
pub(crate) struct From {
    file: Arc<File>,
    at: u64,
}

impl Read for From {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl ChunkReader for PositionedFile {
    type T = BufReader<From>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(BufReader::new(From { file: Arc::clone(&self.file), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<bytes::Bytes> {
        self.read(start, length).map(Into::into).map_err(|error| ParquetError::External(Box::new(error)))
    }
}
