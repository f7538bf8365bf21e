//! Strangers' header fields for this crate's parsers. `fuzz/` calls these functions, and so does the replay of its corpus;
//! nothing in the product does. Each states what must hold whatever the bytes are.

use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue};

use crate::headers::{disposition_name, media_type, path_name, strip_connection_fields};
use crate::session::canonical_host;
use crate::{page, sniff};

/// Fields of a response, a line each: names of files stay names, and what belongs to one connection leaves.
pub fn header_fields(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(64) {
        let colon = line.iter().position(|byte| *byte == b':');
        let Some((name, value)) = colon.and_then(|colon| line.split_at_checked(colon)) else { continue };
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.get(1..).unwrap_or_default()))
        {
            headers.append(name, value);
        }
    }
    if let Some(name) = disposition_name(&headers) {
        assert!(is_file_name(&name), "{name:?}");
    }
    assert!(media_type(&headers).is_none_or(|media| !media.contains(';')), "a media type with parameters");
    let first = headers.get(CONTENT_TYPE).or(headers.get(CONTENT_DISPOSITION)).map(HeaderValue::as_bytes).unwrap_or_default();
    let _ = sniff::is_scanned(&headers, first);
    if strip_connection_fields(&mut headers) {
        assert!(!headers.contains_key("connection") && !headers.contains_key("transfer-encoding"));
        assert!(strip_connection_fields(&mut headers), "what was acceptable is not after it was cleaned");
    }
}

/// A path and a host as a request names them: a host is itself again, and nothing of a page's text is markup.
pub fn request_target(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    assert!(path_name(text).is_none_or(|name| is_file_name(&name)), "{text:?}");
    if let Some(host) = canonical_host(text) {
        assert_eq!(canonical_host(&host), Some(host.clone()), "{text:?} is {host:?}, and that is something else");
    }
    assert!(!page::escaped(text).contains(['<', '>', '"']), "markup in {text:?}");
}

fn is_file_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 255 && !name.contains(['/', '\\']) && !name.chars().any(char::is_control)
}
