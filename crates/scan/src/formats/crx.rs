//! Chrome extensions: a header of version 2 or 3 with keys and signatures, then a zip archive. Signatures are not verified.

use crate::format::read_u32;
use crate::report::Unscannable;
use crate::walk::{Node, Step, Walk};

pub(crate) const SIGNATURE: &[u8] = b"Cr24";

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let field = |at: usize| read_u32(bytes, at).map(|value| value as usize).ok_or(Unscannable::Corrupt);
    let start = match field(4)? {
        2 => field(8)?.saturating_add(field(12)?).saturating_add(16),
        _ => field(8)?.saturating_add(12),
    };
    let _ = walk.view(node, "archive", bytes.get(start..).ok_or(Unscannable::Corrupt)?);
    Ok(())
}
