//! LHA / LZH, by way of `delharc`.

use crate::report::Unscannable;
use crate::walk::{Node, Step, Walk};

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
