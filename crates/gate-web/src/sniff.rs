//! Which bodies are scanned: the table AV-02, first match wins. It reads the headers and the first bytes, nothing more, and
//! is only about whether to look; what a file is, the scan says.

use http::HeaderMap;

use crate::headers::{disposition_name, is_attachment, media_type};

/// Bytes that the signatures below need.
pub(crate) const FIRST_BYTES: usize = 8;

/// Signatures of executables, documents and compressed files at the first byte (AV-02, second row).
const SIGNATURES: &[&[u8]] = &[
    b"MZ",
    b"\x7fELF",
    b"\xfe\xed\xfa\xce",
    b"\xfe\xed\xfa\xcf",
    b"\xce\xfa\xed\xfe",
    b"\xcf\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe",
    b"dex\n",
    b"#!",
    b"!<arch>",
    b"L\0\0\0\x01\x14\x02",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a\x07",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ\0",
    b"\x28\xb5\x2f\xfd",
    b"MSCF",
    b"ITSF",
    b"xar!",
    b"\xed\xab\xee\xdb",
    b"Cr24",
    b"%PDF",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    b"{\\rtf",
];

/// Extensions of names in Content-Disposition that stand for media (AV-02, third row).
const MEDIA_EXTENSIONS: &[&str] = &[
    "aac", "avi", "avif", "bmp", "flac", "gif", "heic", "ico", "jpeg", "jpg", "m4a", "mkv", "mov", "mp3", "mp4", "mpeg", "mpg",
    "ogg", "ogv", "opus", "png", "tif", "tiff", "wav", "webm", "webp",
];

/// Endless streams of messages, which no client saves as a file; held bytes would stop the page (own addition to AV-02,
/// after its second row so that a file under this label is scanned all the same).
const MESSAGE_STREAMS: &[&str] = &["text/event-stream", "application/grpc", "application/grpc+proto", "application/x-ndjson"];

/// Whether the body is scanned.
pub(crate) fn is_scanned(headers: &HeaderMap, first: &[u8]) -> bool {
    if is_attachment(headers) || SIGNATURES.iter().any(|signature| first.starts_with(signature)) {
        return true;
    }
    if let Some(extension) = disposition_name(headers).as_deref().and_then(extension) {
        return !MEDIA_EXTENSIONS.contains(&extension.as_str());
    }
    match media_type(headers) {
        Some(_) if is_message_stream(headers) => false,
        Some(media) => !is_media(&media),
        None => true,
    }
}

/// Whether the answer can be given before the first bytes have come.
pub(crate) fn needs_first_bytes(headers: &HeaderMap) -> bool {
    !is_scanned(headers, &[])
}

/// Whether the body is an endless stream of messages by its label.
pub(crate) fn is_message_stream(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|media| MESSAGE_STREAMS.contains(&media.as_str()))
}

fn is_media(media: &str) -> bool {
    // An SVG image is a document with scripts.
    media != "image/svg+xml" && ["image/", "video/", "audio/"].iter().any(|kind| media.starts_with(kind))
}

fn extension(name: &str) -> Option<String> {
    name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    /// Disposition, content type, first bytes, scanned.
    type Row = (Option<&'static str>, Option<&'static str>, &'static [u8], bool);

    /// AV-02 row by row.
    const MATRIX: &[Row] = &[
        (Some("attachment"), Some("image/png"), b"\x89PNG", true),
        (Some("attachment; filename=a.mp4"), Some("video/mp4"), b"", true),
        (Some("anything; filename=a.png"), Some("image/png"), b"", true),
        (None, Some("image/png"), b"MZ\x90\0", true),
        (Some("inline; filename=a.png"), Some("image/png"), b"PK\x03\x04", true),
        (None, Some("video/mp4"), b"%PDF-1.7", true),
        (Some("inline; filename=a.exe"), Some("image/png"), b"\x89PNG", true),
        (Some("inline; filename=a.PNG"), Some("text/html"), b"<html>", false),
        (None, Some("image/png"), b"\x89PNG", false),
        (None, Some("VIDEO/mp4; codecs=x"), b"", false),
        (None, Some("audio/mpeg"), b"ID3", false),
        (None, Some("text/html"), b"<html>", true),
        (None, None, b"", true),
        (None, Some("image/svg+xml"), b"<svg", true),
        (None, Some("text/event-stream"), b"data: x", false),
        (None, Some("text/event-stream"), b"MZ", true),
    ];

    #[test]
    fn av_02_matrix() {
        for (disposition, media, first, scanned) in MATRIX {
            let mut headers = HeaderMap::new();
            if let Some(value) = disposition {
                headers.insert("content-disposition", HeaderValue::from_static(value));
            }
            if let Some(value) = media {
                headers.insert("content-type", HeaderValue::from_static(value));
            }
            assert_eq!(is_scanned(&headers, first), *scanned, "{disposition:?} {media:?} {first:?}");
        }
    }
}
