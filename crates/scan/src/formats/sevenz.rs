//! 7z, by way of `sevenz-rust2`. Decoding stays on one thread: the sandbox forbids creating threads. Encrypted archives and
//! encrypted headers are named as such, nothing is decrypted.

use crate::format::read_u64;
use crate::report::Unscannable;
use crate::walk::{Node, Step, Walk};
use sevenz_rust2::{ArchiveReader, EntryDecision, Error, Password};
use std::io::Cursor;

/// Memory for headers and dictionaries. 7-Zip's ultra preset needs 64 MiB; a third of the worker's address space is the most.
const MEMORY_KIB_MAX: usize = 512 << 10;

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    if is_empty_archive(bytes) {
        return Ok(());
    }
    let reader = ArchiveReader::new_with_memory_limit(Cursor::new(bytes), Password::empty(), MEMORY_KIB_MAX);
    let mut reader = reader.map_err(|error| reason(&error))?;
    reader.set_thread_count(1);
    let encrypted = (0..reader.archive().files.len()).any(|index| reader.archive().is_file_encrypted(index));
    let outcome = reader.for_each_entries_with_decision(|entry, member| {
        if entry.is_directory() {
            return Ok(EntryDecision::Continue);
        }
        Ok(match walk.member(node, entry.name(), member).is_break() {
            true => EntryDecision::Stop,
            false => EntryDecision::Continue,
        })
    });
    match outcome {
        _ if encrypted => Err(Unscannable::Encrypted),
        Err(error) if walk.flow().is_continue() => Err(reason(&error)),
        _ => Ok(()),
    }
}

/// A signature header (32 bytes) whose next header has no bytes, and nothing behind it.
fn is_empty_archive(bytes: &[u8]) -> bool {
    const HEADER_BYTES: usize = 32;
    const NEXT_SIZE_OFFSET: usize = 20;
    bytes.len() == HEADER_BYTES && read_u64(bytes, NEXT_SIZE_OFFSET) == Some(0)
}

fn reason(error: &Error) -> Unscannable {
    match error {
        Error::PasswordRequired | Error::MaybeBadPassword(_) => Unscannable::Encrypted,
        Error::UnsupportedCompressionMethod(method) if method.to_ascii_uppercase().contains("AES") => Unscannable::Encrypted,
        Error::UnsupportedCompressionMethod(_) | Error::Unsupported(_) | Error::ExternalUnsupported => Unscannable::Unsupported,
        Error::MaxMemLimited { .. } => Unscannable::SizeLimit,
        other if other.to_string().to_ascii_uppercase().contains("AES") => Unscannable::Encrypted,
        _ => Unscannable::Corrupt,
    }
}
