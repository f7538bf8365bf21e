//! Windows imaging format (Microsoft's WIM white paper): the lookup table names every resource, each one is a member.
//! Uncompressed, LZX and XPRESS resources are read; solid LZMS archives (ESD) are named as unsupported. File names stand in
//! metadata that is not parsed.

use super::lzx;
use crate::format::{read_u16, read_u32, read_u64};
use crate::report::Unscannable;
use crate::walk::{Flow, Node, Step, Walk};
use std::io::Read;

pub(crate) const SIGNATURE: &[u8] = b"MSWIM\0\0\0";
const LOOKUP_OFFSET: usize = 48;
const ENTRY_BYTES: usize = 50;
const FLAG_LZX: u32 = 0x4_0000;
const FLAG_XPRESS: u32 = 0x2_0000;
const RESOURCE_COMPRESSED: u8 = 4;
const RESOURCE_SOLID: u8 = 16;
const CHUNK_BYTES_DEFAULT: usize = 32 << 10;
const CHUNK_BYTES_MAX: usize = 2 << 20;

#[derive(Clone, Copy)]
enum Method {
    Lzx,
    Xpress,
    Other,
}

/// A resource header: 7 bytes of size, flags, offset and plain size.
struct Resource {
    flags: u8,
    packed_bytes: usize,
    offset: usize,
    plain_bytes: u64,
}

impl Resource {
    fn parse(bytes: &[u8], at: usize) -> Option<Resource> {
        let sized = read_u64(bytes, at)?;
        Some(Resource {
            flags: (sized >> 56) as u8,
            packed_bytes: usize::try_from(sized & 0x00ff_ffff_ffff_ffff).ok()?,
            offset: usize::try_from(read_u64(bytes, at + 8)?).ok()?,
            plain_bytes: read_u64(bytes, at + 16)?,
        })
    }

    fn bytes<'b>(&self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        bytes.get(self.offset..self.offset.checked_add(self.packed_bytes)?)
    }
}

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let flags = read_u32(bytes, 16).ok_or(Unscannable::Corrupt)?;
    let chunk_bytes = match read_u32(bytes, 20).ok_or(Unscannable::Corrupt)? as usize {
        0 => CHUNK_BYTES_DEFAULT,
        stated => stated,
    };
    let parts = read_u16(bytes, 42).ok_or(Unscannable::Corrupt)?;
    let method = match () {
        () if flags & FLAG_LZX != 0 => Method::Lzx,
        () if flags & FLAG_XPRESS != 0 => Method::Xpress,
        () => Method::Other,
    };
    let lookup = Resource::parse(bytes, LOOKUP_OFFSET).ok_or(Unscannable::Corrupt)?;
    if lookup.flags & RESOURCE_COMPRESSED != 0 || !chunk_bytes.is_power_of_two() || chunk_bytes > CHUNK_BYTES_MAX {
        return Err(Unscannable::Unsupported);
    }
    let entries = lookup.bytes(bytes).ok_or(Unscannable::Corrupt)?;
    for (index, entry) in entries.chunks_exact(ENTRY_BYTES).enumerate() {
        let resource = Resource::parse(entry, 0).ok_or(Unscannable::Corrupt)?;
        if member(walk, node, index, &resource, bytes, (method, chunk_bytes)).is_break() {
            return Ok(());
        }
    }
    if parts > 1 { Err(Unscannable::Unsupported) } else { Ok(()) }
}

fn member(walk: &mut Walk<'_>, node: &Node, index: usize, resource: &Resource, bytes: &[u8], how: (Method, usize)) -> Flow {
    let name = format!("resource-{index}");
    let Some(packed) = resource.bytes(bytes) else {
        walk.note(node, Unscannable::Corrupt, &name);
        return walk.flow();
    };
    let (method, chunk_bytes) = how;
    match (resource.flags & RESOURCE_COMPRESSED != 0, method) {
        _ if resource.flags & RESOURCE_SOLID != 0 => walk.note(node, Unscannable::Unsupported, &name),
        (false, _) => return walk.slice(node, &name, packed),
        (true, Method::Other) => walk.note(node, Unscannable::Unsupported, &name),
        (true, method) => {
            let mut chunks =
                Chunks { packed, method, chunk_bytes, plain_bytes: resource.plain_bytes, index: 0, ready: Vec::new(), given: 0 };
            return walk.member(node, &name, &mut chunks);
        }
    }
    walk.flow()
}

/// Chunks of a resource, behind a table of where each but the first begins.
struct Chunks<'b> {
    packed: &'b [u8],
    method: Method,
    chunk_bytes: usize,
    plain_bytes: u64,
    index: usize,
    ready: Vec<u8>,
    given: usize,
}

impl Chunks<'_> {
    /// Decodes the next chunk; `false` at the end.
    fn advance(&mut self) -> Option<bool> {
        let chunk_bytes = self.chunk_bytes as u64;
        let count = usize::try_from(self.plain_bytes.div_ceil(chunk_bytes)).ok()?;
        if self.index >= count {
            return Some(false);
        }
        let width = if self.plain_bytes > u64::from(u32::MAX) { 8 } else { 4 };
        let table_bytes = (count - 1).checked_mul(width)?;
        let offset = |index: usize| -> Option<usize> {
            let entry = (index.checked_sub(1)?).checked_mul(width)?;
            if width == 8 {
                usize::try_from(read_u64(self.packed, entry)?).ok()
            } else {
                Some(read_u32(self.packed, entry)? as usize)
            }
        };
        let body = self.packed.get(table_bytes..)?;
        let start = if self.index == 0 { 0 } else { offset(self.index)? };
        let end = if self.index + 1 == count { body.len() } else { offset(self.index + 1)? };
        let chunk = body.get(start..end)?;
        let left = self.plain_bytes - self.index as u64 * chunk_bytes;
        let plain = usize::try_from(left.min(chunk_bytes)).ok()?;
        self.ready = match self.method {
            _ if chunk.len() == plain => chunk.to_vec(),
            Method::Lzx => lzx::decode(chunk, plain, self.chunk_bytes.trailing_zeros(), lzx::Flavour::Image)?,
            Method::Xpress => lzx::xpress(chunk, plain)?,
            Method::Other => return None,
        };
        self.given = 0;
        self.index += 1;
        Some(true)
    }
}

impl Read for Chunks<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.given == self.ready.len() && !self.advance().ok_or(std::io::ErrorKind::InvalidData)? {
            return Ok(0);
        }
        let rest = self.ready.get(self.given..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer.iter_mut().zip(rest).for_each(|(slot, byte)| *slot = *byte);
        self.given += count;
        Ok(count)
    }
}
