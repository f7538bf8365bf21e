//! VBA source: the compression of [MS-OVBA] section 2.4.1, and where it starts in a module stream. Written here because
//! the `ovba` crate only opens projects at the root of a compound file.

use std::io::Read;

/// Every module's source begins with `Attribute VB_Name`, which the compressor leaves as this literal run.
const SOURCE_START: &[u8] = b"\0Attribut\0e";
/// The signature byte and the chunk header stand before the first flag byte.
const BEFORE_FLAGS_BYTES: usize = 3;
const CHUNK_BYTES: usize = 4096;

/// The decompressor of a module stream, if it holds source.
pub(crate) fn source(stream: &[u8]) -> Option<VbaReader<'_>> {
    let start = crate::format::find(stream, SOURCE_START)?.checked_sub(BEFORE_FLAGS_BYTES)?;
    let container = stream.get(start..)?;
    (container.first() == Some(&1)).then(|| VbaReader {
        rest: container.get(1..).unwrap_or_default(),
        chunk: Vec::new(),
        given: 0,
    })
}

/// Decompresses one chunk at a time.
pub(crate) struct VbaReader<'b> {
    rest: &'b [u8],
    chunk: Vec<u8>,
    given: usize,
}

impl Read for VbaReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.given == self.chunk.len() {
            self.given = 0;
            let Some((chunk, rest)) = next_chunk(self.rest) else { return Ok(0) };
            self.chunk = chunk;
            self.rest = rest;
        }
        let pending = self.chunk.get(self.given..).unwrap_or_default();
        let count = pending.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), pending.get(..count)) {
            to.copy_from_slice(from);
        }
        self.given += count;
        Ok(count)
    }
}

/// One chunk (2.4.1.1.4): 12 bits of size, a signature of 0b011, and a flag for compression.
fn next_chunk(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let header = crate::format::read_u16(bytes, 0)?;
    if header >> 12 & 7 != 3 {
        return None;
    }
    let size = usize::from(header & 0xfff) + 1;
    let body = bytes.get(2..)?;
    let packed = body.get(..size).unwrap_or(body);
    let rest = body.get(size..).unwrap_or_default();
    let is_compressed = header & 0x8000 != 0;
    let chunk = if is_compressed { decompress(packed) } else { packed.to_vec() };
    (!chunk.is_empty()).then_some((chunk, rest))
}

fn decompress(packed: &[u8]) -> Vec<u8> {
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    let mut at = 0;
    while let Some(flags) = packed.get(at) {
        at += 1;
        for bit in 0..8 {
            if chunk.len() >= CHUNK_BYTES {
                return chunk;
            }
            if flags >> bit & 1 == 0 {
                let Some(literal) = packed.get(at) else { return chunk };
                chunk.push(*literal);
                at += 1;
                continue;
            }
            let Some(token) = crate::format::read_u16(packed, at) else { return chunk };
            at += 2;
            copy(&mut chunk, token);
        }
    }
    chunk
}

/// A copy token (2.4.1.3.19): how its bits split depends on how much was decompressed.
fn copy(chunk: &mut Vec<u8>, token: u16) {
    let mut offset_bits = 4;
    while 1 << offset_bits < chunk.len() {
        offset_bits += 1;
    }
    let length_bits = 16 - offset_bits;
    let length = usize::from(token & ((1u32 << length_bits) - 1) as u16) + 3;
    let offset = usize::from(token >> length_bits) + 1;
    for _ in 0..length {
        let Some(byte) = chunk.len().checked_sub(offset).and_then(|from| chunk.get(from)).copied() else { return };
        chunk.push(byte);
    }
}

/// What a macro calls to start programs, fetch and write files, or reach the machine below Office.
const CALLS: [&str; 22] = [
    "shell(",
    "shell ",
    "wscript.shell",
    "shell.application",
    "createobject",
    "getobject",
    "urldownloadtofile",
    "xmlhttp",
    "winhttp",
    "adodb.stream",
    "savetofile",
    "powershell",
    "cmd.exe",
    "cmd /c",
    "mshta",
    "regsvr32",
    "rundll32",
    "virtualalloc",
    "createthread",
    "callbyname",
    "environ(",
    "lib \"kernel32\"",
];

/// The suspicious calls of a source, by name.
pub(crate) fn calls(source: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(source).to_ascii_lowercase();
    let is_code = |line: &&str| !line.trim_start().starts_with('\'');
    let code: Vec<&str> = text.lines().filter(is_code).collect();
    let found: Vec<&str> =
        CALLS.iter().filter(|call| code.iter().any(|line| line.contains(*call))).map(|call| call.trim()).collect();
    (!found.is_empty()).then(|| found.join(", "))
}

/// A module stream that begins with compiled code ([MS-OVBA] section 2.3.4.3, whose cache starts with these bytes in every
/// version of Office) in the folder of modules.
pub(crate) fn is_compiled_module(name: &str, body: &[u8]) -> bool {
    let is_module = name.rsplit('/').nth(1).is_some_and(|folder| folder == "VBA");
    is_module && body.starts_with(b"\x01\x16")
}

/// Procedures that Office runs without being asked.
const AUTO_EXEC: [&str; 16] = [
    "autoexec",
    "autoopen",
    "autonew",
    "autoclose",
    "autoexit",
    "auto_open",
    "auto_close",
    "document_open",
    "document_new",
    "document_close",
    "documentopen",
    "workbook_open",
    "workbook_activate",
    "workbook_beforeclose",
    "workbook_close",
    "userform_initialize",
];

/// The first procedure of a source that Office runs by itself.
pub(crate) fn auto_exec(source: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(source).to_ascii_lowercase();
    let declares = |name: &&str| {
        ["sub ", "function "].iter().any(|keyword| {
            text.match_indices(&format!("{keyword}{name}")).any(|(at, found)| {
                !text.get(at + found.len()..).unwrap_or_default().starts_with(|next: char| next.is_alphanumeric() || next == '_')
            })
        })
    };
    AUTO_EXEC.iter().find(|name| declares(name)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_specification_example_decompresses() {
        // [MS-OVBA] section 3.2.2, the "normal compression example".
        let packed = b"\x01\x2f\xb0\x00\x23\x61\x61\x61\x62\x63\x64\x65\x82\x66\x00\x70\x61\x67\x68\x69\x6a\x01\x38\x08\
            \x61\x6b\x6c\x00\x30\x6d\x6e\x6f\x70\x06\x71\x02\x70\x04\x10\x72\x73\x74\x75\x76\x10\x77\x78\x79\x7a\x00\x3c";
        let mut reader = VbaReader { rest: &packed[1..], chunk: Vec::new(), given: 0 };
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "#aaabcdefaaaaghijaaaaaklaaamnopqaaaaaaaaaaaarstuvwxyzaaa");
    }

    #[test]
    fn auto_exec_needs_a_declaration() {
        assert_eq!(auto_exec(b"Private Sub Document_Open()\r\n"), Some("document_open"));
        assert_eq!(auto_exec(b"Sub AutoOpened()\r\n' AutoOpen\r\n"), None);
    }
}
