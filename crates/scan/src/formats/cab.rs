//! Microsoft Cabinet ([MS-CAB]), by way of the `cab` crate. A cabinet that continues in another file cannot be read whole
//! and says so.

use crate::report::Unscannable;
use crate::walk::{Node, Step, Walk};
use std::io::Cursor;

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let mut cabinet = cab::Cabinet::new(Cursor::new(bytes)).map_err(|error| reason(&error))?;
    let names: Vec<String> = cabinet
        .folder_entries()
        .flat_map(|folder| folder.file_entries().map(|file| file.name().to_owned()).collect::<Vec<_>>())
        .collect();
    // The crate finds files by name, so the second of two equal names cannot be reached.
    let mut distinct = std::collections::HashSet::new();
    let mut unread = names.iter().any(|name| !distinct.insert(name)).then_some(Unscannable::Unsupported);
    for name in &names {
        match cabinet.read_file(name) {
            Ok(mut member) => {
                if walk.member(node, name, &mut member).is_break() {
                    return Ok(());
                }
            }
            Err(error) => unread = Some(reason(&error)),
        }
    }
    unread.map_or(Ok(()), Err)
}

fn reason(error: &std::io::Error) -> Unscannable {
    match error.kind() {
        std::io::ErrorKind::Unsupported => Unscannable::Unsupported,
        _ => Unscannable::Corrupt,
    }
}
