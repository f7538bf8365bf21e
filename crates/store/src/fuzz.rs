//! Bytes from a disk that may be torn, damaged or another program's, for this crate's readers. `fuzz/` calls these
//! functions, and so does the replay of its corpus; nothing in the product does.

use crate::{manifest, wal};

/// A segment is its whole frames and a torn tail, and the whole frames alone are read the same way.
pub fn store_wal(bytes: &[u8]) {
    let recovered = wal::recover(bytes);
    assert_eq!(recovered.whole_bytes + recovered.torn_bytes, bytes.len() as u64);
    let whole = wal::recover(&bytes[..recovered.whole_bytes as usize]);
    assert_eq!((whole.batches, whole.torn_bytes), (recovered.batches, 0), "the cut tail changes what was read");
}

/// A manifest is read or refused, and one that was read is written as it was.
pub fn store_manifest(bytes: &[u8]) {
    let Ok(read) = manifest::parse(bytes) else { return };
    let again = serde_json::to_vec(&read).and_then(|text| manifest::parse(&text));
    assert_eq!(again.ok().as_ref(), Some(&read), "a manifest changes as it is written");
}
