//! Internet messages (RFC 5322, MIME), by way of `mail-parser`: every part is a member, nested messages are cut out by
//! their offsets and opened again.

use crate::report::Unscannable;
use crate::walk::{Node, Step, Walk};
use mail_parser::{MessageParser, MimeHeaders, PartType};

/// Where the header fields that mark a message are looked for.
const HEADER_PROBE_BYTES: usize = 16 << 10;
const FIRST_FIELDS: [&[u8]; 14] = [
    b"received:",
    b"return-path:",
    b"delivered-to:",
    b"mime-version:",
    b"from:",
    b"to:",
    b"subject:",
    b"date:",
    b"message-id:",
    b"content-type:",
    b"x-",
    b"dkim-signature:",
    b"authentication-results:",
    b"arc-",
];

/// A known first field, and a MIME field further on.
pub(crate) fn is_eml(bytes: &[u8]) -> bool {
    let head = bytes.get(..bytes.len().min(HEADER_PROBE_BYTES)).unwrap_or_default().to_ascii_lowercase();
    let head = match head.strip_prefix(b"from ") {
        Some(envelope) => crate::format::find(envelope, b"\n").and_then(|end| envelope.get(end + 1..)).unwrap_or_default(),
        None => head.trim_ascii_start(),
    };
    let contains = |needle: &[u8]| crate::format::contains(head, needle);
    FIRST_FIELDS.iter().any(|field| head.starts_with(field))
        && (contains(b"mime-version:") || contains(b"content-type:") || (contains(b"subject:") && contains(b"from:")))
}

/// Messages of a mailbox (RFC 4155): each begins with `From ` behind an empty line.
fn mailbox(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let bytes = bytes.strip_prefix(b"From ")?;
    let starts = |separator: &'static [u8]| memchr::memmem::find_iter(bytes, separator).map(move |at| at + separator.len());
    let mut starts: Vec<usize> = starts(b"\n\nFrom ").chain(starts(b"\r\n\r\nFrom ")).collect();
    if starts.is_empty() {
        return None;
    }
    starts.sort_unstable();
    let ends = starts.iter().copied().chain([bytes.len()]);
    let parts = std::iter::once(0).chain(starts.iter().copied()).zip(ends);
    let body = |part: &'_ [u8]| crate::format::find(part, b"\n").map(|end| end + 1);
    Some(parts.filter_map(|(start, end)| bytes.get(start..end)).filter_map(|part| part.get(body(part)?..)).collect())
}

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    if let Some(messages) = mailbox(bytes) {
        for (index, message) in messages.into_iter().enumerate() {
            if walk.view(node, &format!("message-{index}"), message).is_break() {
                break;
            }
        }
        return Ok(());
    }
    let message = MessageParser::default().parse(bytes).ok_or(Unscannable::Corrupt)?;
    for (index, part) in message.parts.iter().enumerate() {
        let name = part.attachment_name().map_or_else(|| format!("part-{index}"), str::to_owned);
        let nested;
        let body: &[u8] = match &part.body {
            PartType::Text(text) | PartType::Html(text) => text.as_bytes(),
            PartType::Binary(body) | PartType::InlineBinary(body) => body,
            PartType::Message(message) => {
                nested = nested_bytes(bytes, part, message);
                nested
            }
            PartType::Multipart(_) => continue,
        };
        if walk.slice(node, &name, body).is_break() {
            return Ok(());
        }
    }
    // The parser stops where boundaries make no sense to it, and gives nobody what stands behind the last one; a mail
    // program may go on.
    let is_leaf = |part: &&mail_parser::MessagePart<'_>| !matches!(part.body, PartType::Multipart(_));
    let read_to = message.parts.iter().filter(is_leaf).map(|part| part.offset_end as usize).max().unwrap_or(0);
    let rest = bytes.get(read_to..).unwrap_or_default();
    let is_said = |line: &[u8]| !line.trim_ascii().is_empty() && !line.starts_with(b"--");
    if rest.split(|byte| *byte == b'\n').any(is_said) {
        let _ = walk.slice(node, "rest", rest);
    }
    Ok(())
}

/// A nested message decoded from a transfer encoding has bytes of its own; otherwise it is a range of the parent.
fn nested_bytes<'b>(bytes: &'b [u8], part: &mail_parser::MessagePart<'_>, message: &'b mail_parser::Message<'_>) -> &'b [u8] {
    match part.encoding {
        mail_parser::Encoding::None => bytes.get(part.offset_body as usize..part.offset_end as usize).unwrap_or_default(),
        _ => message.raw_message(),
    }
}
