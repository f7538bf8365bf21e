//! XAR, the container of macOS installer packages: a header, a table of contents in zlib-packed XML, and a heap. Every
//! `data` and `ea` element that names a range of the heap is a member.

use crate::report::Unscannable;
use crate::walk::{Flow, Node, Step, Walk};
use std::io::Read;

/// Header, versions and sizes, big endian.
const HEADER_BYTES_MIN: usize = 28;
/// A table of contents; packages of ten thousands of files have ten MiB.
const CONTENTS_BYTES_MAX: u64 = 64 << 20;

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let header_bytes =
        be_u16(bytes, 4).map(usize::from).filter(|bytes| *bytes >= HEADER_BYTES_MIN).ok_or(Unscannable::Corrupt)?;
    let packed_bytes = be_u64(bytes, 8).and_then(|bytes| usize::try_from(bytes).ok()).ok_or(Unscannable::Corrupt)?;
    let heap = header_bytes.checked_add(packed_bytes).filter(|heap| *heap <= bytes.len()).ok_or(Unscannable::Corrupt)?;
    let packed = bytes.get(header_bytes..heap).unwrap_or_default();
    let mut reader = flate2::bufread::ZlibDecoder::new(packed).take(CONTENTS_BYTES_MAX);
    let Ok(contents) = walk.unpack(&mut reader) else { return Ok(()) };
    let contents = String::from_utf8_lossy(&contents);
    let heap = bytes.get(heap..).unwrap_or_default();
    if !contents.contains("<toc") {
        return Err(Unscannable::Corrupt);
    }
    for file in contents.split("<file ").skip(1) {
        let name = element(file, "name").unwrap_or("file");
        for part in file.split("<data").skip(1).chain(file.split("<ea").skip(1)) {
            if member(walk, node, name, part, heap).is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn member(walk: &mut Walk<'_>, node: &Node, name: &str, part: &str, heap: &[u8]) -> Flow {
    let part = part.split("</data>").next().unwrap_or(part);
    let number = |tag: &str| element(part, tag).and_then(|text| text.trim().parse::<usize>().ok());
    let (Some(offset), Some(length)) = (number("offset"), number("length")) else { return walk.flow() };
    let Some(packed) = offset.checked_add(length).and_then(|end| heap.get(offset..end)) else {
        walk.note(node, Unscannable::Corrupt, name);
        return walk.flow();
    };
    let style = part.split("style=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
    match style {
        "application/x-gzip" => walk.member(node, name, &mut flate2::bufread::ZlibDecoder::new(packed)),
        "application/x-bzip2" => walk.member(node, name, &mut bzip2::bufread::MultiBzDecoder::new(packed)),
        "application/x-xz" | "application/x-lzma" => match super::stream::any_lzma(packed) {
            Some(mut reader) => walk.member(node, name, reader.as_mut()),
            None => {
                walk.note(node, Unscannable::Corrupt, name);
                walk.flow()
            }
        },
        "application/octet-stream" | "" => walk.slice(node, name, packed),
        _ => {
            walk.note(node, Unscannable::Unsupported, name);
            walk.flow()
        }
    }
}

fn element<'t>(text: &'t str, tag: &str) -> Option<&'t str> {
    let rest = text.get(text.find(&format!("<{tag}"))? + tag.len() + 1..)?;
    let rest = rest.get(rest.find('>')? + 1..)?;
    rest.get(..rest.find("</")?)
}

pub(super) fn be_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

pub(super) fn be_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

pub(super) fn be_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}
