//! Where a portable executable's entry point and sections stand in the file ([MS PE/COFF] sections 3 to 5), for patterns that
//! are written relative to them. Nothing else of the format is read.

use crate::format::{pe_offset, read_u16, read_u32};

/// The loader takes 96 sections at most.
const SECTIONS_MAX: usize = 96;

pub(super) struct Layout {
    pub(super) entry: Option<usize>,
    /// Start in the file and size there.
    pub(super) sections: Vec<(usize, usize)>,
}

impl Layout {
    pub(super) fn parse(bytes: &[u8]) -> Option<Layout> {
        const HEADER_BYTES: usize = 24;
        const SECTION_BYTES: usize = 40;
        let header = pe_offset(bytes)?;
        let count = usize::from(read_u16(bytes, header + 6)?).min(SECTIONS_MAX);
        let optional_bytes = usize::from(read_u16(bytes, header + 20)?);
        let entry_address = read_u32(bytes, header + HEADER_BYTES + 16)?;
        let table = header + HEADER_BYTES + optional_bytes;
        let mut sections = Vec::with_capacity(count);
        let mut entry = None;
        for at in (0..count).map(|index| table + index * SECTION_BYTES) {
            let (Some(virtual_bytes), Some(address), Some(size), Some(start)) =
                (read_u32(bytes, at + 8), read_u32(bytes, at + 12), read_u32(bytes, at + 16), read_u32(bytes, at + 20))
            else {
                break;
            };
            let reach = virtual_bytes.max(size);
            if entry_address.checked_sub(address).is_some_and(|distance| distance < reach) {
                entry = Some(start as usize + (entry_address - address) as usize);
            }
            sections.push((start as usize, size as usize));
        }
        Some(Layout { entry, sections })
    }
}
