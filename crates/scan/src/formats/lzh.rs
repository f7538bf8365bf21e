//! LHA / LZH, by way of `delharc`.

use crate::report::Unscannable;
use crate::walk::{Node, Step, Walk};
use delharc::decode::{Decoder, DecoderAny};
use delharc::header::CompressionMethod;
use std::io::Read;

/// `-lh5-` and its family at offset 2, with a plausible header level.
pub(crate) fn is_lzh(bytes: &[u8]) -> bool {
    bytes.get(2..7).is_some_and(|method| {
        method.starts_with(b"-l") && method.ends_with(b"-") || method.starts_with(b"-pm") && method.ends_with(b"-")
    }) && bytes.get(20).is_some_and(|level| *level <= 3)
}

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let mut reader = delharc::LhaDecodeReader::new(bytes).map_err(|_| Unscannable::Corrupt)?;
    let mut unread = None;
    loop {
        let name = reader.header().parse_pathname_to_str();
        if !reader.is_decoder_supported() {
            if !reader.header().is_directory() {
                unread = Some(Unscannable::Unsupported);
            }
        } else if walk.member(node, &name, &mut reader).is_break() {
            return Ok(());
        }
        match reader.next_file() {
            Ok(true) => {}
            Ok(false) => return unread.map_or(Ok(()), Err),
            Err(_) => return Err(Unscannable::Corrupt),
        }
    }
}

/// One member's codes in another archive format, as a reader of a stated size.
pub(super) struct CodeReader<'b> {
    decoder: DecoderAny<&'b [u8]>,
    left: u64,
}

impl<'b> CodeReader<'b> {
    pub(super) fn new(method: CompressionMethod, packed: &'b [u8], plain_bytes: u64) -> Self {
        Self { decoder: DecoderAny::new_from_compression(method, packed), left: plain_bytes }
    }
}

impl Read for CodeReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let Some(part) = buffer.get_mut(..count) else { return Ok(0) };
        self.decoder.fill_buffer(part).map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidData))?;
        self.left -= count as u64;
        Ok(count)
    }
}
