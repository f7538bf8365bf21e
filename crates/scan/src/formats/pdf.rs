//! PDF (ISO 32000-1), read by its streams rather than by its cross-reference table, since viewers repair broken tables and
//! attackers know it. Names are compared after undoing `#xx`. Encrypted documents that open with the empty password are
//! read through `hayro-syntax`; others are encrypted. Pages are not rendered and images are not decoded.

use crate::format::{contains, detect, find};
use crate::report::{FindingKind, Unscannable};
use crate::walk::{Flow, Node, Step, Walk};
use std::io::Read;

/// The header may stand anywhere in the first kibibyte (Annex H.3 note 13).
const HEADER_PROBE_BYTES: usize = 1024;
/// How far back a stream's dictionary is looked for.
const DICTIONARY_BYTES_MAX: usize = 8 << 10;
/// Filters on one stream; real ones have one or two.
const FILTERS_MAX: usize = 6;

pub(crate) fn is_pdf(bytes: &[u8]) -> bool {
    contains(bytes.get(..bytes.len().min(HEADER_PROBE_BYTES)).unwrap_or_default(), b"%PDF-")
}

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let mut objects = Vec::new();
    let mut at = 0;
    let is_encrypted = has_name(&plain_names(bytes), b"/Encrypt");
    while let Some(stream) = next_stream(bytes, at) {
        objects.extend_from_slice(bytes.get(at..stream.start).unwrap_or_default());
        at = stream.next;
        if !is_encrypted && examine(walk, node, stream.dictionary, stream.body, &mut objects).is_break() {
            return Ok(());
        }
    }
    objects.extend_from_slice(bytes.get(at..).unwrap_or_default());
    let outcome = if is_encrypted { open_encrypted(walk, node, bytes, &mut objects) } else { Ok(()) };
    report(walk, node, &plain_names(&objects));
    outcome
}

struct Stream<'b> {
    dictionary: &'b [u8],
    body: &'b [u8],
    start: usize,
    next: usize,
}

/// The next `stream ... endstream` behind a dictionary.
fn next_stream(bytes: &[u8], from: usize) -> Option<Stream<'_>> {
    let mut at = from;
    loop {
        let keyword = at + find(bytes.get(at..)?, b"stream")?;
        at = keyword + b"stream".len();
        let before = bytes.get(from.max(keyword.saturating_sub(DICTIONARY_BYTES_MAX))..keyword)?;
        if !before.trim_ascii_end().ends_with(b">>") {
            continue;
        }
        let dictionary_at = memchr::memmem::rfind(before, b" obj").unwrap_or(0);
        let rest = bytes.get(at..)?;
        let body = rest.strip_prefix(b"\r\n").or(rest.strip_prefix(b"\n")).or(rest.strip_prefix(b"\r")).unwrap_or(rest);
        let length = find(body, b"endstream").unwrap_or(body.len());
        let data = body.get(..length)?;
        // One end-of-line marker before the keyword is not data (7.3.8.1).
        let data = data.strip_suffix(b"\r\n").or(data.strip_suffix(b"\n")).or(data.strip_suffix(b"\r")).unwrap_or(data);
        return Some(Stream {
            dictionary: before.get(dictionary_at..)?,
            body: data,
            start: keyword,
            next: (bytes.len() - body.len()) + length,
        });
    }
}

/// Decodes one stream, keeps object streams for the keyword search, and examines what could be a file or a script.
fn examine(walk: &mut Walk<'_>, node: &Node, dictionary: &[u8], body: &[u8], objects: &mut Vec<u8>) -> Flow {
    let dictionary = plain_names(dictionary);
    let mut decoded = body.to_vec();
    for filter in filters(&dictionary).into_iter().take(FILTERS_MAX) {
        let outcome = match filter {
            Filter::Flate => walk.unpack(&mut flate2::bufread::ZlibDecoder::new(decoded.as_slice())),
            Filter::AsciiHex => walk.unpack(&mut ascii_hex(&decoded).as_slice()),
            Filter::Ascii85 => walk.unpack(&mut ascii_85(&decoded).as_slice()),
            Filter::RunLength => walk.unpack(&mut RunLength { rest: &decoded, pending: Vec::new() }.by_ref()),
            Filter::Other => return walk.flow(),
        };
        decoded = match outcome {
            Ok(decoded) => decoded,
            Err(flow) => return flow,
        };
    }
    if has_name(&dictionary, b"/ObjStm") {
        objects.push(b'\n');
        objects.extend_from_slice(&decoded);
        return walk.flow();
    }
    let is_file = has_name(&dictionary, b"/EmbeddedFile");
    if is_file {
        walk.find(node, FindingKind::PdfEmbeddedFile, "embedded file");
    }
    if is_file || is_worth_a_look(&decoded) {
        return walk.slice(node, "stream", &decoded);
    }
    walk.flow()
}

/// Page content is text drawn by operators; files have a signature, scripts have calls, the test file is tiny.
fn is_worth_a_look(decoded: &[u8]) -> bool {
    const TINY_BYTES_MAX: usize = 128;
    decoded.len() <= TINY_BYTES_MAX
        || !matches!(detect(decoded).name, "txt" | "bin" | "jpg" | "png")
        || [&b"eval("[..], b"unescape(", b"app.", b"this.", b"function"].iter().any(|call| contains(decoded, call))
}

/// `hayro-syntax` decrypts with the empty password, which is what every viewer tries first.
fn open_encrypted(walk: &mut Walk<'_>, node: &Node, bytes: &[u8], objects: &mut Vec<u8>) -> Step {
    let pdf = hayro_syntax::Pdf::new(bytes.to_vec()).map_err(|_| Unscannable::Encrypted)?;
    for object in pdf.objects() {
        let hayro_syntax::object::Object::Stream(stream) = object else { continue };
        if examine(walk, node, stream.dict().data(), &stream.raw_data(), objects).is_break() {
            break;
        }
    }
    Ok(())
}

/// Links kept in a report; a document may have thousands.
const LINKS_MAX: usize = 8;

/// Targets of URI actions (12.6.4.8) that are written as plain strings.
fn links(walk: &mut Walk<'_>, node: &Node, objects: &[u8]) {
    let targets = memchr::memmem::find_iter(objects, b"/URI").filter_map(|at| {
        let text = objects.get(at + b"/URI".len()..)?.trim_ascii_start().strip_prefix(b"(")?;
        text.get(..find(text, b")")?)
    });
    for target in targets.take(LINKS_MAX) {
        walk.find(node, FindingKind::PdfLink, &String::from_utf8_lossy(target));
    }
}

fn report(walk: &mut Walk<'_>, node: &Node, objects: &[u8]) {
    links(walk, node, objects);
    for (name, kind) in [
        (&b"/JavaScript"[..], FindingKind::PdfJavaScript),
        (b"/JS", FindingKind::PdfJavaScript),
        (b"/Launch", FindingKind::PdfLaunch),
        (b"/OpenAction", FindingKind::PdfOpenAction),
        (b"/AA", FindingKind::PdfOpenAction),
        (b"/EmbeddedFile", FindingKind::PdfEmbeddedFile),
    ] {
        if has_name(objects, name) {
            walk.find(node, kind, &String::from_utf8_lossy(name));
        }
    }
}

/// Undoes `#xx` in names (7.3.5), so that `/J#61vaScript` is what it is.
fn plain_names(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((byte, tail)) = rest.split_first() {
        let escaped = tail.get(..2).filter(|_| *byte == b'#').and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(value) => {
                plain.push(value);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                plain.push(*byte);
                rest = tail;
            }
        }
    }
    plain
}

/// Whether a name stands in the bytes, ended by a delimiter.
fn has_name(bytes: &[u8], name: &[u8]) -> bool {
    memchr::memmem::find_iter(bytes, name)
        .any(|at| !bytes.get(at + name.len()).is_some_and(|next| next.is_ascii_alphanumeric() || *next == b'_'))
}

#[derive(Clone, Copy)]
enum Filter {
    Flate,
    AsciiHex,
    Ascii85,
    RunLength,
    Other,
}

/// The filter chain of a dictionary, in order.
fn filters(dictionary: &[u8]) -> Vec<Filter> {
    let Some(start) = find(dictionary, b"/Filter") else { return Vec::new() };
    let rest = dictionary.get(start + b"/Filter".len()..).unwrap_or_default().trim_ascii_start();
    let chain = match rest.strip_prefix(b"[") {
        Some(array) => array.split(|byte| *byte == b']').next().unwrap_or_default(),
        None => {
            let end = rest.iter().skip(1).position(|byte| b"/<>[]() \t\r\n".contains(byte)).map_or(rest.len(), |end| end + 1);
            rest.get(..end).unwrap_or_default()
        }
    };
    let names = chain.split(|byte| *byte == b'/').skip(1).map(<[u8]>::trim_ascii);
    names
        .map(|name| match name {
            b"FlateDecode" | b"Fl" => Filter::Flate,
            b"ASCIIHexDecode" | b"AHx" => Filter::AsciiHex,
            b"ASCII85Decode" | b"A85" => Filter::Ascii85,
            b"RunLengthDecode" | b"RL" => Filter::RunLength,
            _ => Filter::Other,
        })
        .collect()
}

fn ascii_hex(bytes: &[u8]) -> Vec<u8> {
    let digits: Vec<u8> = bytes
        .iter()
        .take_while(|byte| **byte != b'>')
        .filter_map(|byte| char::from(*byte).to_digit(16).map(|digit| digit as u8))
        .collect();
    digits.chunks(2).map(|pair| pair.first().unwrap_or(&0) << 4 | pair.get(1).unwrap_or(&0)).collect()
}

/// ASCII base 85 (7.4.3): five digits make four bytes, `z` is four zeros.
fn ascii_85(bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut group = Vec::with_capacity(5);
    for byte in bytes.iter().copied().take_while(|byte| *byte != b'~') {
        match byte {
            b'z' if group.is_empty() => decoded.extend_from_slice(&[0; 4]),
            b'!'..=b'u' => group.push(byte - b'!'),
            _ => {}
        }
        if group.len() == 5 {
            decoded.extend_from_slice(&group_85(&group));
            group.clear();
        }
    }
    if group.len() > 1 {
        let keep = group.len() - 1;
        group.resize(5, 84);
        decoded.extend(group_85(&group).into_iter().take(keep));
    }
    decoded
}

fn group_85(digits: &[u8]) -> [u8; 4] {
    digits.iter().fold(0u32, |value, digit| value.wrapping_mul(85).wrapping_add(u32::from(*digit))).to_be_bytes()
}

/// Run-length decoding (7.4.5), streamed because it expands 64 times.
struct RunLength<'b> {
    rest: &'b [u8],
    pending: Vec<u8>,
}

impl Read for RunLength<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        const END: u8 = 128;
        if self.pending.is_empty() {
            let Some((length, tail)) = self.rest.split_first().filter(|(length, _)| **length != END) else { return Ok(0) };
            let (run, used) = match *length {
                0..=127 => (tail.get(..usize::from(*length) + 1).unwrap_or(tail).to_vec(), usize::from(*length) + 1),
                _ => (vec![*tail.first().unwrap_or(&0); 257 - usize::from(*length)], 1),
            };
            self.pending = run;
            self.rest = tail.get(used..).unwrap_or_default();
        }
        let count = self.pending.len().min(buffer.len());
        for (slot, byte) in buffer.iter_mut().zip(self.pending.drain(..count)) {
            *slot = byte;
        }
        Ok(count)
    }
}
