//! The log: segments of frames `[u32 length][u64 xxh3][body]`, little-endian. A body is an Arrow IPC stream, or events that
//! follow patterns (`repeats.rs`). A frame is durable once its
//! segment is synced; a reader stops at the first frame that is short or does not match its checksum (bare Arrow IPC
//! has none, so a torn page inside a batch would decode silently). It knows nothing of events or of sealing.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;
use xxhash_rust::xxh3::xxh3_64;

use crate::repeats::{Book, Repeats};
use crate::{Error, Result, disk};

const HEADER_BYTES: usize = 12;

const EXTENSION: &str = "wal";

/// What the log does to a file, so that tests can make it fail.
pub(crate) trait SegmentFile: Send {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn sync(&mut self) -> io::Result<()>;
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

/// Where new segments come from.
pub(crate) type OpenSegment = Box<dyn FnMut(&Path) -> io::Result<Box<dyn SegmentFile>> + Send>;

impl SegmentFile for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        use std::io::Seek;
        self.set_len(length)?;
        self.seek(io::SeekFrom::Start(length)).map(|_| ())
    }
}

pub(crate) fn open_file(path: &Path) -> io::Result<Box<dyn SegmentFile>> {
    let file = disk::create_file(path)?;
    Ok(Box::new(file))
}

/// A segment that is being written.
pub(crate) struct Segment {
    file: Box<dyn SegmentFile>,
    length: u64,
}

impl Segment {
    /// A new segment whose name is durable.
    pub fn create(directory: &Path, first: i64, open: &mut OpenSegment) -> Result<(Segment, PathBuf)> {
        let path = directory.join(format!("seg-{first:016x}.{EXTENSION}"));
        let file = open(&path).map_err(Error::io("create segment", &path))?;
        disk::sync_directory(directory)?;
        Ok((Segment { file, length: 0 }, path))
    }

    /// Appends one frame and waits until it is durable. After a failure the caller moves on to a new segment.
    pub fn commit(&mut self, frame: &[u8]) -> io::Result<()> {
        let written = self.file.append(frame).and_then(|()| self.file.sync());
        match written {
            Ok(()) => {
                self.length += frame.len() as u64;
                Ok(())
            }
            Err(error) => {
                // A half-written frame would also be dropped by the next reader; cutting it here frees the space.
                let _ = self.file.truncate(self.length);
                Err(error)
            }
        }
    }
}

/// A batch as one frame.
pub(crate) fn frame(batch: &RecordBatch) -> Result<Vec<u8>> {
    seal(stream(vec![0_u8; HEADER_BYTES], batch)?)
}

/// Events that follow patterns as one frame.
pub(crate) fn frame_repeats(repeats: &Repeats) -> Result<Vec<u8>> {
    seal(repeats.body(vec![0_u8; HEADER_BYTES])?)
}

/// A batch as an Arrow stream at the end of some bytes.
pub(crate) fn stream(head: Vec<u8>, batch: &RecordBatch) -> Result<Vec<u8>> {
    let doing = "write a batch for the log";
    let mut writer = StreamWriter::try_new(head, batch.schema_ref()).map_err(Error::arrow(doing))?;
    writer.write(batch).map_err(Error::arrow(doing))?;
    writer.into_inner().map_err(Error::arrow(doing))
}

/// The batches of an Arrow stream; none where it is no such stream.
pub(crate) fn batches(stream: &[u8]) -> Option<Vec<RecordBatch>> {
    StreamReader::try_new(stream, None).ok()?.collect::<std::result::Result<Vec<_>, _>>().ok()
}

/// Writes length and checksum into the room before a body.
fn seal(mut bytes: Vec<u8>) -> Result<Vec<u8>> {
    let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
    let length = u32::try_from(body.len()).map_err(|_| Error::NotDurable("a commit is larger than a frame can be".to_owned()))?;
    let hash = xxh3_64(body);
    if let Some(header) = bytes.first_chunk_mut::<HEADER_BYTES>() {
        header[..4].copy_from_slice(&length.to_le_bytes());
        header[4..].copy_from_slice(&hash.to_le_bytes());
    }
    Ok(bytes)
}

/// What a segment held when it was read.
pub(crate) struct Recovered {
    pub batches: Vec<RecordBatch>,
    /// Bytes of whole frames; what follows is torn.
    pub whole_bytes: u64,
    pub torn_bytes: u64,
}

/// Reads every whole frame of a segment.
pub(crate) fn read(path: &Path) -> Result<Recovered> {
    std::fs::read(path).map(|bytes| recover(&bytes)).map_err(Error::io("read segment", path))
}

/// The whole frames at the front of these bytes.
pub(crate) fn recover(bytes: &[u8]) -> Recovered {
    let (mut rest, mut batches, mut book) = (bytes, Vec::new(), Book::default());
    while let Some((body, after)) = next_body(rest) {
        let Some(read) = read_body(body, &mut book) else { break };
        batches.extend(read);
        rest = after;
    }
    let torn_bytes = rest.len() as u64;
    Recovered { batches, whole_bytes: bytes.len() as u64 - torn_bytes, torn_bytes }
}

/// The events of a frame, as batches; none where it is no frame of ours.
fn read_body(body: &[u8], book: &mut Book) -> Option<Vec<RecordBatch>> {
    if !Repeats::is_body(body) {
        return batches(body);
    }
    let repeats = Repeats::parse(body).filter(|repeats| book.enter(repeats))?;
    book.unfold(&repeats.rows, repeats.first_id).ok().map(|batch| vec![batch])
}

/// The batches of each whole frame of a file, and the bytes that each takes.
pub(crate) fn frames(path: &Path) -> Result<Vec<(Vec<RecordBatch>, u64)>> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let (mut rest, mut frames) = (bytes.as_slice(), Vec::new());
    while let Some((batches, length)) = first_frame(rest) {
        rest = rest.get(length as usize..).unwrap_or_default();
        frames.push((batches, length));
    }
    Ok(frames)
}

/// The batches of the first frame, and the bytes that it takes; none where it is torn.
pub(crate) fn first_frame(bytes: &[u8]) -> Option<(Vec<RecordBatch>, u64)> {
    let (body, after) = next_body(bytes)?;
    Some((batches(body)?, (bytes.len() - after.len()) as u64))
}

/// The body of the first frame and what follows it; none where the frame is torn.
fn next_body(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (hash, rest) = rest.split_first_chunk::<8>()?;
    let length = u32::from_le_bytes(*length) as usize;
    // A length beyond the file allocates nothing; one of zero is the zeros that a file system leaves after a crash.
    if length == 0 {
        return None;
    }
    let (body, after) = rest.split_at_checked(length)?;
    (xxh3_64(body) == u64::from_le_bytes(*hash)).then_some((body, after))
}

/// Cuts a torn tail off, so that it is never mistaken for data again.
pub(crate) fn cut(path: &Path, length: u64) -> Result<()> {
    let cut = || {
        let file = File::options().write(true).open(path)?;
        file.set_len(length)?;
        file.sync_all()
    };
    cut().map_err(Error::io("cut the torn tail of", path))
}

/// The segments of a directory, oldest first, with the first id that each is named after.
pub(crate) fn segments(directory: &Path) -> Result<Vec<(i64, PathBuf)>> {
    let entries = std::fs::read_dir(directory).map_err(Error::io("list", directory))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("list", directory))?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.strip_prefix("seg-"));
        let first = stem.and_then(|hex| i64::from_str_radix(hex, 16).ok());
        if let (Some(first), Some(EXTENSION)) = (first, path.extension().and_then(|extension| extension.to_str())) {
            found.push((first, path));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field, Schema};
    use std::sync::Arc;

    fn batch(numbers: std::ops::Range<i64>) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from_iter_values(numbers))]).unwrap()
    }

    #[test]
    fn every_cut_of_a_segment_keeps_exactly_its_whole_frames() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.wal");
        let frames = [frame(&batch(0..3)).unwrap(), frame(&batch(3..5)).unwrap()];
        let all = frames.concat();
        for length in 0..=all.len() {
            std::fs::write(&path, &all[..length]).unwrap();
            let whole = usize::from(length >= frames[0].len()) + usize::from(length == all.len());
            let read = read(&path).unwrap();
            assert_eq!(read.batches.len(), whole, "cut at {length}");
            assert_eq!(read.whole_bytes + read.torn_bytes, length as u64);
        }
    }

    #[test]
    fn a_flipped_bit_ends_the_segment_before_its_frame() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.wal");
        let first = frame(&batch(0..3)).unwrap();
        let all = [first.clone(), frame(&batch(3..5)).unwrap()].concat();
        for place in (first.len()..all.len()).step_by(7) {
            let mut bytes = all.clone();
            bytes[place] ^= 0x10;
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(read(&path).unwrap().batches, [batch(0..3)], "flip at {place}");
        }
    }
}
