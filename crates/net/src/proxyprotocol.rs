//! The PROXY protocol, versions 1 and 2, both ways (HAProxy's `proxy-protocol.txt`, sections 2.1 and 2.2). A header is
//! believed only from listed networks; from anyone else it would be a way to choose one's own address. Vendor extensions
//! (TLVs) are bounded and skipped, and the checksum TLV is not verified.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Section 2.1: the longest version 1 line with its end.
pub const V1_BYTES_MAX: usize = 107;
/// Ours: addresses need at most 216 bytes, the rest is for TLVs; real ones stay below 1 KiB.
pub const V2_PAYLOAD_BYTES_MAX: usize = 4096;
/// Section 2.2.
const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const V2_HEADER_BYTES: usize = 16;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxied {
    /// `UNKNOWN`, `LOCAL`, or a family that is no TCP or UDP address: use the connection's own addresses.
    Local,
    Addresses {
        source: SocketAddr,
        destination: SocketAddr,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderProblem {
    #[error("neither version of the header")]
    Signature,
    #[error("the version 1 line is malformed")]
    Line,
    #[error("the version 2 header is malformed")]
    Binary,
    #[error("the header is larger than allowed")]
    TooLarge,
}

/// How far decoding came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// More bytes are needed.
    Partial,
    Complete {
        proxied: Proxied,
        bytes: usize,
    },
}

/// The networks whose headers are believed.
#[derive(Clone, Debug, Default)]
pub struct TrustedSources {
    pub networks: Vec<IpNet>,
}

impl TrustedSources {
    pub fn contains(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.networks.iter().any(|network| network.contains(&peer))
    }
}

/// Reads the header and not one byte more, so that what follows is still in the stream. `None` means that the peer is not
/// trusted: nothing is read and its own address holds. The caller holds the deadline.
pub async fn accept<S: AsyncRead + Unpin>(stream: &mut S, peer: IpAddr, trusted: &TrustedSources) -> io::Result<Option<Proxied>> {
    if !trusted.contains(peer) {
        return Ok(None);
    }
    let mut header = Vec::with_capacity(V1_BYTES_MAX);
    loop {
        let wanted = header.len() + missing(&header);
        let from = header.len();
        header.resize(wanted, 0);
        stream.read_exact(header.get_mut(from..).unwrap_or_default()).await?;
        match decode(&header) {
            Ok(Decoded::Partial) => {}
            Ok(Decoded::Complete { proxied, .. }) => return Ok(Some(proxied)),
            Err(problem) => return Err(io::Error::new(io::ErrorKind::InvalidData, problem)),
        }
    }
}

/// How many bytes certainly still belong to the header.
fn missing(header: &[u8]) -> usize {
    if header.len() < V2_SIGNATURE.len() && V2_SIGNATURE.starts_with(header) {
        return V2_SIGNATURE.len() - header.len();
    }
    if !header.starts_with(&V2_SIGNATURE) {
        return 1;
    }
    let payload = match header.get(14..V2_HEADER_BYTES) {
        Some([high, low]) => usize::from(u16::from_be_bytes([*high, *low])),
        _ => return V2_HEADER_BYTES - header.len(),
    };
    // Never zero: a complete header has already been decoded.
    (V2_HEADER_BYTES + payload).saturating_sub(header.len()).max(1)
}

pub fn decode(bytes: &[u8]) -> Result<Decoded, ProxyHeaderProblem> {
    if bytes.starts_with(&V2_SIGNATURE) {
        return decode_v2(bytes);
    }
    if bytes.starts_with(b"PROXY ") {
        return decode_v1(bytes);
    }
    if V2_SIGNATURE.starts_with(bytes) || b"PROXY ".starts_with(bytes) {
        return Ok(Decoded::Partial);
    }
    Err(ProxyHeaderProblem::Signature)
}

fn decode_v1(bytes: &[u8]) -> Result<Decoded, ProxyHeaderProblem> {
    let window = bytes.get(..V1_BYTES_MAX).unwrap_or(bytes);
    let Some(feed) = window.iter().position(|byte| *byte == b'\n') else {
        return if bytes.len() >= V1_BYTES_MAX { Err(ProxyHeaderProblem::TooLarge) } else { Ok(Decoded::Partial) };
    };
    let line = window.get(..feed).and_then(|line| line.strip_suffix(b"\r")).ok_or(ProxyHeaderProblem::Line)?;
    let line = std::str::from_utf8(line).map_err(|_| ProxyHeaderProblem::Line)?;
    let proxied = decode_v1_line(line).ok_or(ProxyHeaderProblem::Line)?;
    Ok(Decoded::Complete { proxied, bytes: feed + 1 })
}

fn decode_v1_line(line: &str) -> Option<Proxied> {
    let mut parts = line.split(' ').skip(1);
    let family = parts.next()?;
    if family == "UNKNOWN" {
        return Some(Proxied::Local);
    }
    let (source, destination) = (parts.next()?, parts.next()?);
    let (source_port, destination_port) = (decode_port(parts.next()?)?, decode_port(parts.next()?)?);
    let address = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => None,
    };
    let proxied = Proxied::Addresses {
        source: SocketAddr::new(address(source)?, source_port),
        destination: SocketAddr::new(address(destination)?, destination_port),
    };
    parts.next().is_none().then_some(proxied)
}

/// Decimal without sign or leading zeros, as section 2.1 asks.
fn decode_port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if is_plain { text.parse().ok() } else { None }
}

fn decode_v2(bytes: &[u8]) -> Result<Decoded, ProxyHeaderProblem> {
    let Some(&[command, family, high, low]) = bytes.get(12..V2_HEADER_BYTES) else { return Ok(Decoded::Partial) };
    let payload_bytes = usize::from(u16::from_be_bytes([high, low]));
    if payload_bytes > V2_PAYLOAD_BYTES_MAX {
        return Err(ProxyHeaderProblem::TooLarge);
    }
    let total = V2_HEADER_BYTES + payload_bytes;
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyHeaderProblem::Binary),
    };
    let Some(payload) = bytes.get(V2_HEADER_BYTES..total) else { return Ok(Decoded::Partial) };
    let proxied = if is_local { Proxied::Local } else { decode_v2_addresses(family, payload)? };
    Ok(Decoded::Complete { proxied, bytes: total })
}

fn decode_v2_addresses(family: u8, payload: &[u8]) -> Result<Proxied, ProxyHeaderProblem> {
    let addresses = match family {
        0x11 | 0x12 => split_addresses::<4>(payload),
        0x21 | 0x22 => split_addresses::<16>(payload),
        0x00 | 0x31 | 0x32 => return Ok(Proxied::Local),
        _ => None,
    };
    let (source, destination) = addresses.ok_or(ProxyHeaderProblem::Binary)?;
    Ok(Proxied::Addresses { source, destination })
}

fn split_addresses<const SIZE: usize>(payload: &[u8]) -> Option<(SocketAddr, SocketAddr)>
where
    IpAddr: From<[u8; SIZE]>,
{
    let (source, rest) = payload.split_first_chunk::<SIZE>()?;
    let (destination, rest) = rest.split_first_chunk::<SIZE>()?;
    let (source_port, rest) = rest.split_first_chunk::<2>()?;
    let (destination_port, _) = rest.split_first_chunk::<2>()?;
    let join = |ip: [u8; SIZE], port: [u8; 2]| SocketAddr::new(IpAddr::from(ip), u16::from_be_bytes(port));
    Some((join(*source, *source_port), join(*destination, *destination_port)))
}

/// Mixed families are written as IPv6 with the IPv4 address mapped, as both must be of one family.
pub fn encode_v1(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (source, destination) = same_family(source, destination);
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

pub fn encode_v2(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (source, destination) = same_family(source, destination);
    let mut header = V2_SIGNATURE.to_vec();
    header.push(0x21);
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend([0x11, 0, 12]);
            header.extend(from.octets());
            header.extend(to.octets());
        }
        (from, to) => {
            header.extend([0x21, 0, 36]);
            header.extend(as_v6(from).octets());
            header.extend(as_v6(to).octets());
        }
    }
    header.extend(source.port().to_be_bytes());
    header.extend(destination.port().to_be_bytes());
    header
}

fn same_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    let widen = |address: SocketAddr| SocketAddr::new(IpAddr::V6(as_v6(address.ip())), address.port());
    (widen(source), widen(destination))
}

fn as_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    fn four() -> (SocketAddr, SocketAddr) {
        ("192.0.2.1:56324".parse().unwrap(), "198.51.100.7:443".parse().unwrap())
    }

    fn six() -> (SocketAddr, SocketAddr) {
        ("[2001:db8::1]:1".parse().unwrap(), "[2001:db8::2]:65535".parse().unwrap())
    }

    #[test]
    fn headers_are_exact_to_the_byte() {
        let (source, destination) = four();
        assert_eq!(encode_v1(source, destination), b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n");
        let expected = [
            0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a, 0x21, 0x11, 0x00, 0x0c, 192, 0, 2, 1, 198,
            51, 100, 7, 0xdc, 0x04, 0x01, 0xbb,
        ];
        assert_eq!(encode_v2(source, destination), expected);
        let (source, destination) = six();
        assert_eq!(encode_v1(source, destination), b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n");
        assert_eq!(encode_v2(source, destination).get(12..16), Some([0x21, 0x21, 0, 36].as_slice()));
        assert_eq!(encode_v1(four().0, six().1), b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 56324 65535\r\n");
    }

    #[test]
    fn what_is_encoded_is_decoded_and_every_part_of_it_is_partial() {
        for (source, destination) in [four(), six()] {
            for header in [encode_v1(source, destination), encode_v2(source, destination)] {
                let expected = Decoded::Complete { proxied: Proxied::Addresses { source, destination }, bytes: header.len() };
                assert_eq!(decode(&[header.as_slice(), b"GET"].concat()), Ok(expected));
                for end in 0..header.len() {
                    assert_eq!(decode(header.get(..end).unwrap()), Ok(Decoded::Partial));
                }
            }
        }
    }

    #[test]
    fn malformed_headers_are_refused() {
        use ProxyHeaderProblem as Problem;
        for (bytes, problem) in [
            (b"GET / HTTP/1.1\r\n".as_slice(), Problem::Signature),
            (b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\n", Problem::Line),
            (b"PROXY TCP4 192.0.2.1 198.51.100.7 56324\r\n", Problem::Line),
            (b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443 1\r\n", Problem::Line),
            (b"PROXY TCP4 192.0.2.1 198.51.100.7 +56324 443\r\n", Problem::Line),
            (b"PROXY TCP4 192.0.2.1 198.51.100.7 056 443\r\n", Problem::Line),
            (b"PROXY TCP4 192.0.2.1 198.51.100.7 65536 443\r\n", Problem::Line),
            (b"PROXY TCP4 2001:db8::1 198.51.100.7 1 443\r\n", Problem::Line),
            (b"PROXY TCP6 192.0.2.1 198.51.100.7 1 443\r\n", Problem::Line),
            (b"PROXY TCP4  192.0.2.1 198.51.100.7 1 443\r\n", Problem::Line),
            (b"PROXY UDP4 192.0.2.1 198.51.100.7 1 443\r\n", Problem::Line),
            (b"PROXY \xff\r\n", Problem::Line),
        ] {
            assert_eq!(decode(bytes), Err(problem), "{}", bytes.escape_ascii());
        }
        assert_eq!(decode(&[b"PROXY ".as_slice(), &[b'a'; V1_BYTES_MAX]].concat()), Err(Problem::TooLarge));
        let v2 = |command: u8, family: u8, length: [u8; 2], payload: &[u8]| {
            decode(&[V2_SIGNATURE.as_slice(), &[command, family], &length, payload].concat())
        };
        assert_eq!(v2(0x11, 0x11, [0, 12], &[0; 12]), Err(Problem::Binary));
        assert_eq!(v2(0x22, 0x11, [0, 12], &[0; 12]), Err(Problem::Binary));
        assert_eq!(v2(0x21, 0x11, [0, 11], &[0; 11]), Err(Problem::Binary));
        assert_eq!(v2(0x21, 0x41, [0, 12], &[0; 12]), Err(Problem::Binary));
        assert_eq!(v2(0x21, 0x11, [0xff, 0xff], &[]), Err(Problem::TooLarge));
    }

    #[test]
    fn local_and_unknown_leave_the_connections_own_addresses() {
        let local = |bytes: &[u8]| matches!(decode(bytes), Ok(Decoded::Complete { proxied: Proxied::Local, .. }));
        assert!(local(b"PROXY UNKNOWN\r\n"));
        assert!(local(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"));
        assert!(local(&[V2_SIGNATURE.as_slice(), &[0x20, 0, 0, 0]].concat()));
        assert!(local(&[V2_SIGNATURE.as_slice(), &[0x21, 0x31, 0, 3, 1, 2, 3]].concat()));
    }

    #[tokio::test]
    async fn only_trusted_peers_are_believed_and_nothing_behind_the_header_is_read() {
        let trusted = TrustedSources { networks: vec!["10.0.0.0/8".parse().unwrap()] };
        let (source, destination) = four();
        let tlv = [0x20, 0, 1, 7];
        let mut with_tlv = encode_v2(source, destination);
        *with_tlv.get_mut(15).unwrap() += 4;
        with_tlv.extend(tlv);
        for header in [encode_v1(source, destination), encode_v2(source, destination), with_tlv] {
            let wire = [header.as_slice(), b"GET"].concat();
            let mut stream = wire.as_slice();
            let proxied = accept(&mut stream, "::ffff:10.1.2.3".parse().unwrap(), &trusted).await.unwrap();
            assert_eq!(proxied, Some(Proxied::Addresses { source, destination }));
            assert_eq!(stream, b"GET");
            let mut stream = wire.as_slice();
            assert_eq!(accept(&mut stream, "192.0.2.9".parse().unwrap(), &trusted).await.unwrap(), None);
            assert_eq!(stream, wire);
        }
        let mut stream = b"GET / HTTP/1.1\r\n".as_slice();
        assert!(accept(&mut stream, "10.1.2.3".parse().unwrap(), &trusted).await.is_err());
    }
}
