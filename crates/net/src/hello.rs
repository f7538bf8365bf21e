//! The client's first TLS message, read before anything is decided: server name, protocols, versions and the JA4
//! fingerprint (FoxIO, JA4 technical details). The bytes are replayed to whoever speaks TLS afterwards; rustls reads them
//! again and refuses what is malformed, so this reader refuses whatever could be read in two ways (RFC 8446 section 4.1.2).

mod ja4;
mod replay;

pub use replay::{ReplayedStream, peek};

/// Post-quantum key shares make about 2 KiB; some clients pad. Larger ones appear only in tests of parsers.
pub const HELLO_BYTES_MAX: usize = 16 * 1024;
/// RFC 8446 section 5.1: a record carries at most 2^14 bytes.
const RECORD_BYTES_MAX: usize = 1 << 14;
const RECORD_HEADER_BYTES: usize = 5;
/// A hello cut into one-byte records would make us copy for nothing.
const RECORDS_MAX: usize = 16;

const CONTENT_HANDSHAKE: u8 = 22;
const HANDSHAKE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_SIGNATURE_ALGORITHMS: u16 = 13;
const EXTENSION_ALPN: u16 = 16;
const EXTENSION_SUPPORTED_VERSIONS: u16 = 43;
const EXTENSION_ENCRYPTED_HELLO: u16 = 0xfe0d;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// Lower case, without a final dot. None where the client sent none, or one that is no host name.
    pub server_name: Option<String>,
    pub alpn: Vec<Vec<u8>>,
    /// The newest version offered, as on the wire: 0x0304 is TLS 1.3.
    pub version: u16,
    /// RFC 9849: the name in the clear is only the outer one (TL-05). Browsers also send this as a decoy.
    pub has_encrypted_hello: bool,
    pub ja4: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// More bytes are needed.
    Partial,
    Complete(ClientHello),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloProblem {
    #[error("not a TLS handshake")]
    NotTls,
    #[error("the client hello is malformed")]
    Malformed,
    #[error("the client hello is larger than allowed")]
    TooLarge,
}

/// The parts that the fingerprint needs, in the order of the wire.
#[derive(Default)]
struct Parts {
    legacy_version: u16,
    ciphers: Vec<u16>,
    extensions: Vec<u16>,
    supported_versions: Vec<u16>,
    signature_algorithms: Vec<u16>,
    alpn: Vec<Vec<u8>>,
    server_name: Option<String>,
}

/// Total: any bytes give a value or a problem.
pub fn decode(bytes: &[u8]) -> Result<Decoded, HelloProblem> {
    let Some(message) = join_records(bytes)? else { return Ok(Decoded::Partial) };
    let parts = decode_message(&message).ok_or(HelloProblem::Malformed)?;
    Ok(Decoded::Complete(ClientHello {
        version: parts.version(),
        has_encrypted_hello: parts.extensions.contains(&EXTENSION_ENCRYPTED_HELLO),
        ja4: ja4::fingerprint(&parts),
        server_name: parts.server_name,
        alpn: parts.alpn,
    }))
}

/// The handshake message without its header, from one or more records. None when bytes are missing.
fn join_records(bytes: &[u8]) -> Result<Option<Vec<u8>>, HelloProblem> {
    let mut message = Vec::new();
    let mut rest = bytes;
    for _ in 0..RECORDS_MAX {
        check_start(rest)?;
        let Some((header, behind)) = rest.split_first_chunk::<RECORD_HEADER_BYTES>() else { return Ok(None) };
        let [_, _, _, high, low] = *header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 || length > RECORD_BYTES_MAX {
            return Err(HelloProblem::Malformed);
        }
        let fragment = behind.get(..length).unwrap_or(behind);
        message.extend_from_slice(fragment);
        if let Some(body) = complete_body(&message)? {
            return Ok(Some(body));
        }
        if fragment.len() < length {
            return Ok(None);
        }
        rest = behind.get(length..).unwrap_or_default();
    }
    Err(HelloProblem::Malformed)
}

fn check_start(record: &[u8]) -> Result<(), HelloProblem> {
    let is_tls = match record {
        [] => true,
        [kind] => *kind == CONTENT_HANDSHAKE,
        [kind, major, ..] => *kind == CONTENT_HANDSHAKE && *major == 3,
    };
    if is_tls { Ok(()) } else { Err(HelloProblem::NotTls) }
}

fn complete_body(message: &[u8]) -> Result<Option<Vec<u8>>, HelloProblem> {
    if message.first().is_some_and(|kind| *kind != HANDSHAKE_CLIENT_HELLO) {
        return Err(HelloProblem::NotTls);
    }
    let Some((&[_, high, middle, low], body)) = message.split_first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes([0, high, middle, low])).unwrap_or(usize::MAX);
    if length > HELLO_BYTES_MAX {
        return Err(HelloProblem::TooLarge);
    }
    Ok(body.get(..length).map(<[u8]>::to_vec))
}

/// Takes pieces from the front; every piece says its own length.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (piece, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(piece)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn short(&mut self) -> Option<u16> {
        let (piece, rest) = self.0.split_first_chunk::<2>()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*piece))
    }

    fn counted_by_byte(&mut self) -> Option<&'a [u8]> {
        let count = usize::from(self.byte()?);
        self.take(count)
    }

    fn counted_by_short(&mut self) -> Option<&'a [u8]> {
        let count = usize::from(self.short()?);
        self.take(count)
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

fn decode_message(body: &[u8]) -> Option<Parts> {
    let mut reader = Reader(body);
    let mut parts = Parts { legacy_version: reader.short()?, ..Parts::default() };
    let _random = reader.take(32)?;
    let _session = reader.counted_by_byte().filter(|session| session.len() <= 32)?;
    parts.ciphers = shorts(reader.counted_by_short()?)?;
    let _compression = reader.counted_by_byte()?;
    if reader.0.is_empty() {
        return Some(parts);
    }
    let mut extensions = Reader(reader.counted_by_short()?);
    reader.end()?;
    while !extensions.0.is_empty() {
        let kind = extensions.short()?;
        let content = extensions.counted_by_short()?;
        if parts.extensions.contains(&kind) {
            return None;
        }
        parts.extensions.push(kind);
        parts.note_extension(kind, content)?;
    }
    Some(parts)
}

impl Parts {
    fn note_extension(&mut self, kind: u16, content: &[u8]) -> Option<()> {
        let mut reader = Reader(content);
        match kind {
            EXTENSION_SERVER_NAME => self.server_name = decode_server_name(&mut reader)?,
            EXTENSION_ALPN => self.alpn = decode_alpn(reader.counted_by_short()?)?,
            EXTENSION_SUPPORTED_VERSIONS => self.supported_versions = shorts(reader.counted_by_byte()?)?,
            EXTENSION_SIGNATURE_ALGORITHMS => self.signature_algorithms = shorts(reader.counted_by_short()?)?,
            _ => return Some(()),
        }
        reader.end()
    }

    fn version(&self) -> u16 {
        let offered = self.supported_versions.iter().copied().filter(|version| !is_grease(*version));
        offered.max().unwrap_or(self.legacy_version)
    }
}

/// RFC 6066 section 3: a list that may hold one host name.
fn decode_server_name(reader: &mut Reader<'_>) -> Option<Option<String>> {
    let mut list = Reader(reader.counted_by_short()?);
    let kind = list.byte()?;
    let name = list.counted_by_short()?;
    list.end()?;
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let is_name = kind == 0 && !name.is_empty() && name.len() <= 254 && name.iter().all(is_plain);
    let name = is_name.then(|| String::from_utf8_lossy(name).to_ascii_lowercase());
    Some(name.map(|name| name.strip_suffix('.').unwrap_or(&name).to_owned()))
}

fn decode_alpn(list: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut reader = Reader(list);
    let mut protocols = Vec::new();
    while !reader.0.is_empty() {
        let protocol = reader.counted_by_byte().filter(|protocol| !protocol.is_empty())?;
        protocols.push(protocol.to_vec());
    }
    Some(protocols)
}

fn shorts(bytes: &[u8]) -> Option<Vec<u16>> {
    let (pairs, odd) = bytes.as_chunks::<2>();
    odd.is_empty().then(|| pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect())
}

/// RFC 8701: values that clients send only so that servers learn to ignore unknown ones.
fn is_grease(value: u16) -> bool {
    let [high, low] = value.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}

#[cfg(test)]
mod tests;
