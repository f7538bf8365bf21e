//! RAR 1.3 to 7, by way of `rars` without its encryption feature. The crate writes members out, so they are collected into
//! a bounded store and then pass the capped reader one by one.

use crate::report::Unscannable;
use crate::walk::{Node, Step, Walk};
use rars::{ArchiveReadOptions, ArchiveReader, ErrorKind, ExtractionDecision, ExtractionErrorAction};
use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;

/// Dictionary of RAR 5 and 7; the WinRAR default is 32 MiB.
const DICTIONARY_BYTES_MAX: u64 = 256 << 20;
/// Headers of one archive; the walk's entry limit is far lower.
const HEADERS_MAX: u64 = 100_000;

type Members = Rc<RefCell<Vec<(String, Vec<u8>)>>>;

/// Appends to the member that was opened last.
struct Collector {
    members: Members,
}

impl Write for Collector {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Some((_, member)) = self.members.borrow_mut().last_mut() {
            member.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let left = walk.budget.bytes_left();
    let options = ArchiveReadOptions::new()
        .with_max_header_count(HEADERS_MAX)
        .with_max_member_output_bytes(left)
        .with_max_total_output_bytes(left)
        .with_rar50_dictionary_size_limit(DICTIONARY_BYTES_MAX);
    let archive = ArchiveReader::read_with_options(bytes, options).map_err(|error| reason(&error))?;
    let members: Members = Rc::default();
    let mut unread = None;
    let mut encrypted = false;
    let mut continued = false;
    let outcome = archive.extract_with_control_and_errors(
        options,
        |member| {
            encrypted |= member.meta.is_encrypted;
            continued |= member.meta.is_split_before || member.meta.is_split_after;
            if member.meta.is_directory || member.meta.is_redirection {
                return Ok(ExtractionDecision::Skip);
            }
            members.borrow_mut().push((member.meta.name_lossy(), Vec::new()));
            Ok(ExtractionDecision::Extract(Box::new(Collector { members: Rc::clone(&members) })))
        },
        |_, error| {
            unread = Some(reason(error));
            Ok(ExtractionErrorAction::Continue)
        },
    );
    for (name, member) in members.take() {
        if walk.slice(node, &name, &member).is_break() {
            return Ok(());
        }
    }
    match (outcome, unread) {
        _ if encrypted => Err(Unscannable::Encrypted),
        // A volume of a set: the members that cross its edges cannot be read from it alone.
        _ if continued => Err(Unscannable::Unsupported),
        (Err(error), _) if error.kind() == ErrorKind::ResourceLimit => {
            let _ = walk.halt(Unscannable::SizeLimit);
            Err(Unscannable::SizeLimit)
        }
        (Err(error), _) => Err(reason(&error)),
        (_, Some(reason)) => Err(reason),
        _ => Ok(()),
    }
}

/// The crate is built without its encryption feature, so a feature that is missing is encryption.
fn reason(error: &rars::Error) -> Unscannable {
    if error.to_string().contains("encryption") {
        return Unscannable::Encrypted;
    }
    match error.kind() {
        ErrorKind::PasswordRequired | ErrorKind::BadPassword => Unscannable::Encrypted,
        ErrorKind::UnsupportedFormat | ErrorKind::UnsupportedFeature => Unscannable::Unsupported,
        ErrorKind::ResourceLimit => Unscannable::SizeLimit,
        _ => Unscannable::Corrupt,
    }
}
