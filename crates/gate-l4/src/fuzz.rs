//! Strangers' bytes for this crate's parsers. `fuzz/` calls these functions, and so does the replay of its corpus; nothing
//! in the product does.

use crate::detect::{self, Detection};

/// Detection answers whatever the bytes are, comes to an end, and once it has an answer keeps it as more bytes come.
pub fn first_bytes(bytes: &[u8]) {
    detect::server(bytes);
    let whole = detect::client(bytes);
    assert!(bytes.len() < detect::FIRST_BYTES_MAX || whole != Detection::Partial, "it waits for ever");
    let mut earlier: Option<&'static str> = None;
    for length in 0..=bytes.len().min(256) {
        let detection = detect::client(&bytes[..length]);
        match earlier {
            Some(name) if name != "unknown" => assert_eq!(detection.name(), name, "more bytes change a protocol"),
            _ => earlier = (detection != Detection::Partial).then(|| detection.name()),
        }
    }
}
