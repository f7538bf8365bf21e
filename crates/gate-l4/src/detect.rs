//! Which protocol a connection speaks, by the first bytes of the client and, where the server speaks first, of the server
//! (NW-06). It recognises forms that other protocols cannot begin with, reads nothing but the beginning, and says
//! `unknown` rather than guess. Names are those of the Cloudflare Gateway's detection, with a few beyond it.

use net::hello::{self, ClientHello, Decoded};

/// Bytes of one side that detection looks at. A client hello may be this large (net::hello).
pub(crate) const FIRST_BYTES_MAX: usize = hello::HELLO_BYTES_MAX + 512;

/// Enough for every other protocol: the longest form below is an HTTP request line with a long path.
const SHORT_BYTES_MAX: usize = 2048;

/// Methods of HTTP/1 requests that open a connection (RFC 9110 section 9, and PATCH of RFC 5789).
const HTTP_METHODS: &[&[u8]] =
    &[b"GET ", b"POST ", b"HEAD ", b"PUT ", b"DELETE ", b"OPTIONS ", b"CONNECT ", b"TRACE ", b"PATCH "];
const SMTP_VERBS: &[&[u8]] = &[b"EHLO ", b"HELO ", b"LHLO "];
const POP3_VERBS: &[&[u8]] = &[b"CAPA\r\n", b"USER ", b"APOP ", b"STLS\r\n", b"AUTH "];
/// Commands of IMAP clients before login (RFC 9051 section 6.1 and 6.2), behind a tag.
const IMAP_COMMANDS: &[&str] = &["CAPABILITY", "ID", "LOGIN", "AUTHENTICATE", "STARTTLS", "NOOP", "LOGOUT"];

/// What the first bytes say so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Detection {
    /// More bytes may decide.
    Partial,
    Protocol(&'static str),
    /// A TLS client hello, whole.
    Tls(Box<ClientHello>),
    Unknown,
}

/// Names that `expects` may hold.
pub(crate) const PROTOCOLS: &[&str] = &[
    "dcerpc",
    "ftp",
    "http",
    "http2",
    "imap",
    "ldap",
    "mqtt",
    "mysql",
    "pop3",
    "postgres",
    "redis",
    "rsync-daemon",
    "smtp",
    "ssh",
    "tls",
    "tpkt",
    "xmpp",
    "unknown",
];

/// Protocols in which the server speaks first: nothing is gained by waiting for the client.
pub(crate) const SERVER_FIRST: &[&str] = &["ftp", "imap", "mysql", "pop3", "smtp"];

impl Detection {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Detection::Protocol(name) => name,
            Detection::Tls(_) => "tls",
            Detection::Partial | Detection::Unknown => "unknown",
        }
    }
}

/// What the client's first bytes are. Total: any bytes give an answer, and `Partial` ends at the bound above.
pub(crate) fn client(bytes: &[u8]) -> Detection {
    if bytes.first() == Some(&22) {
        return match hello::decode(bytes) {
            Ok(Decoded::Complete(hello)) => Detection::Tls(Box::new(hello)),
            Ok(Decoded::Partial) if bytes.len() < FIRST_BYTES_MAX => Detection::Partial,
            _ => Detection::Unknown,
        };
    }
    let readers: &[fn(&[u8]) -> Reading] =
        &[ssh, rsync, http2, http1, smtp, xmpp, mqtt, tpkt, dcerpc, ldap, postgres, redis, pop3, imap];
    let mut is_open = false;
    for read in readers {
        match read(bytes) {
            Reading::Is(name) if !is_open => return Detection::Protocol(name),
            // A protocol that stands before it may still turn out to be the one.
            Reading::Is(_) | Reading::MayBe => is_open = true,
            Reading::IsNot => {}
        }
    }
    if is_open && bytes.len() < SHORT_BYTES_MAX { Detection::Partial } else { Detection::Unknown }
}

/// What the server's greeting is, for protocols in which it comes first. None is no such greeting.
pub(crate) fn server(bytes: &[u8]) -> Option<&'static str> {
    if bytes.starts_with(b"SSH-") {
        return Some("ssh");
    }
    if bytes.starts_with(b"@RSYNCD:") {
        return Some("rsync-daemon");
    }
    if bytes.starts_with(b"* OK") || bytes.starts_with(b"* PREAUTH") {
        return Some("imap");
    }
    if bytes.starts_with(b"+OK") {
        return Some("pop3");
    }
    if bytes.starts_with(b"220") {
        let line = bytes.get(..512.min(bytes.len())).unwrap_or_default().to_ascii_uppercase();
        let says = |word: &[u8]| line.windows(word.len()).any(|window| window == word);
        return if says(b"SMTP") {
            Some("smtp")
        } else if says(b"FTP") {
            Some("ftp")
        } else {
            None
        };
    }
    mysql_greeting(bytes).then_some("mysql")
}

/// A handshake packet of protocol version 10: three bytes of length, sequence 0, 10, and a printable version text.
fn mysql_greeting(bytes: &[u8]) -> bool {
    let [low, middle, high, 0, 10, version @ ..] = bytes else { return false };
    let length = u32::from_le_bytes([*low, *middle, *high, 0]);
    let text = version.split(|byte| *byte == 0).next().unwrap_or_default();
    (20..1024).contains(&length) && !text.is_empty() && text.iter().all(u8::is_ascii_graphic)
}

enum Reading {
    Is(&'static str),
    MayBe,
    IsNot,
}

/// A fixed beginning.
fn begins(bytes: &[u8], beginnings: &[&[u8]], name: &'static str) -> Reading {
    let matches = |beginning: &&[u8]| {
        let (length, whole) = (bytes.len().min(beginning.len()), beginning.len());
        let is_same = bytes[..length].eq_ignore_ascii_case(&beginning[..length]);
        (is_same, length == whole)
    };
    match beginnings.iter().map(matches).filter(|(is_same, _)| *is_same).map(|(_, is_whole)| is_whole).max() {
        Some(true) => Reading::Is(name),
        Some(false) => Reading::MayBe,
        None => Reading::IsNot,
    }
}

fn ssh(bytes: &[u8]) -> Reading {
    begins(bytes, &[b"SSH-2.0-", b"SSH-1.99-", b"SSH-1.5-"], "ssh")
}

fn rsync(bytes: &[u8]) -> Reading {
    begins(bytes, &[b"@RSYNCD:"], "rsync-daemon")
}

/// RFC 9113 section 3.4.
fn http2(bytes: &[u8]) -> Reading {
    begins(bytes, &[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], "http2")
}

/// A method and, once the line is whole, a version of HTTP at its end.
fn http1(bytes: &[u8]) -> Reading {
    let Reading::Is(_) = begins(bytes, HTTP_METHODS, "") else { return begins(bytes, HTTP_METHODS, "") };
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => {
            let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
            let is_version = line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0");
            if is_version { Reading::Is("http") } else { Reading::IsNot }
        }
        None => Reading::MayBe,
    }
}

fn smtp(bytes: &[u8]) -> Reading {
    begins(bytes, SMTP_VERBS, "smtp")
}

fn pop3(bytes: &[u8]) -> Reading {
    begins(bytes, POP3_VERBS, "pop3")
}

/// RFC 6120 section 4.2: an optional XML declaration and the stream's tag.
fn xmpp(bytes: &[u8]) -> Reading {
    if !bytes.starts_with(b"<") {
        return if bytes.is_empty() { Reading::MayBe } else { Reading::IsNot };
    }
    let says = |word: &[u8]| bytes.windows(word.len()).any(|window| window == word);
    if says(b"<stream:stream") && says(b"jabber:") {
        return Reading::Is("xmpp");
    }
    if begins(bytes, &[b"<?xml ", b"<stream:stream "], "").is_not() { Reading::IsNot } else { Reading::MayBe }
}

/// MQTT CONNECT: type 1 without flags, a remaining length, and the protocol's name (MQTT 5.0 section 3.1).
fn mqtt(bytes: &[u8]) -> Reading {
    if bytes.first().is_some_and(|first| *first != 0x10) {
        return Reading::IsNot;
    }
    let Some(rest) = bytes.get(1..) else { return Reading::MayBe };
    let length_bytes = rest.iter().take(4).position(|byte| byte & 0x80 == 0);
    let Some(end) = length_bytes else { return if rest.len() >= 4 { Reading::IsNot } else { Reading::MayBe } };
    begins(&rest[end + 1..], &[b"\0\x04MQTT", b"\0\x06MQIsdp"], "mqtt")
}

/// RDP: a TPKT header (RFC 1006 section 6) with an X.224 connection request.
fn tpkt(bytes: &[u8]) -> Reading {
    match bytes {
        [3, 0, _, _, _, kind, ..] => {
            if *kind == 0xe0 {
                Reading::Is("tpkt")
            } else {
                Reading::IsNot
            }
        }
        [3] | [3, 0, ..] | [] => Reading::MayBe,
        _ => Reading::IsNot,
    }
}

/// A bind of connection-oriented DCE/RPC 5.0 or 5.1 (C706 section 12.6.4.3).
fn dcerpc(bytes: &[u8]) -> Reading {
    match bytes {
        [5, 0 | 1, 11, ..] => Reading::Is("dcerpc"),
        [5] | [5, 0 | 1] | [] => Reading::MayBe,
        _ => Reading::IsNot,
    }
}

/// An LDAPMessage (RFC 4511 section 4.1.1): a sequence, a message number, and a request's tag.
fn ldap(bytes: &[u8]) -> Reading {
    let Some((first, rest)) = bytes.split_first() else { return Reading::MayBe };
    if *first != 0x30 {
        return Reading::IsNot;
    }
    let behind = match rest {
        [] => return Reading::MayBe,
        [length, behind @ ..] if length & 0x80 == 0 => behind,
        [0x81..=0x84, ..] => {
            let count = usize::from(rest[0] & 0x7f);
            match rest.get(1 + count..) {
                Some(behind) => behind,
                None => return Reading::MayBe,
            }
        }
        _ => return Reading::IsNot,
    };
    match behind {
        [2, size @ 1..=4, ..] => match behind.get(2 + usize::from(*size)) {
            // bind, search, and an extended request such as StartTLS.
            Some(0x60 | 0x63 | 0x77) => Reading::Is("ldap"),
            Some(_) => Reading::IsNot,
            None => Reading::MayBe,
        },
        [] | [2] => Reading::MayBe,
        _ => Reading::IsNot,
    }
}

/// Length, then version 3.0, or the codes of SSLRequest, GSSENCRequest and CancelRequest (PostgreSQL, section 55.7).
fn postgres(bytes: &[u8]) -> Reading {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        return if bytes.iter().take(2).all(|byte| *byte == 0) { Reading::MayBe } else { Reading::IsNot };
    };
    if !(8..=10_000).contains(&u32::from_be_bytes(*length)) {
        return Reading::IsNot;
    }
    let codes: [&[u8]; 5] = [&[0, 3, 0, 0], &[0, 3, 0, 2], &[4, 210, 22, 47], &[4, 210, 22, 48], &[4, 210, 22, 46]];
    begins(rest, &codes, "postgres")
}

/// RESP: an array of bulk strings.
fn redis(bytes: &[u8]) -> Reading {
    if bytes.first().is_some_and(|first| *first != b'*') {
        return Reading::IsNot;
    }
    let Some(rest) = bytes.get(1..) else { return Reading::MayBe };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    match rest.get(digits..).unwrap_or_default() {
        _ if digits > 4 => Reading::IsNot,
        [] => Reading::MayBe,
        behind if digits > 0 => begins(behind, &[b"\r\n$"], "redis"),
        _ => Reading::IsNot,
    }
}

/// A tag, a space and a command.
fn imap(bytes: &[u8]) -> Reading {
    let line = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let is_whole = line.len() < bytes.len();
    let mut words = line.split(|byte| *byte == b' ');
    let tag = words.next().unwrap_or_default();
    let is_tag = !tag.is_empty() && tag.len() <= 16 && tag.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'.');
    if !is_tag {
        return if bytes.is_empty() { Reading::MayBe } else { Reading::IsNot };
    }
    let Some(command) = words.next() else { return if is_whole { Reading::IsNot } else { Reading::MayBe } };
    let command = String::from_utf8_lossy(command).to_ascii_uppercase();
    if IMAP_COMMANDS.contains(&command.as_str()) && (is_whole || words.next().is_some()) {
        return Reading::Is("imap");
    }
    let may_become = IMAP_COMMANDS.iter().any(|known| known.starts_with(command.as_str()));
    if may_become && !is_whole { Reading::MayBe } else { Reading::IsNot }
}

impl Reading {
    fn is_not(&self) -> bool {
        matches!(self, Reading::IsNot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NW-06: what real clients send first.
    const CLIENTS: &[(&[u8], &str)] = &[
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", "ssh"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "http"),
        (b"GET /\r\n", "unknown"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http2"),
        (b"EHLO mail.example\r\n", "smtp"),
        (b"a001 CAPABILITY\r\n", "imap"),
        (b". CAPABILITY\r\n", "imap"),
        (b"CAPA\r\n", "pop3"),
        (b"@RSYNCD: 31.0 sha512\n", "rsync-daemon"),
        (b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04test", "mqtt"),
        (b"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00", "tpkt"),
        (b"\x05\x00\x0b\x03\x10\x00\x00\x00", "dcerpc"),
        (b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\x00", "ldap"),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", "postgres"),
        (b"\x00\x00\x00\x29\x00\x03\x00\x00user\0me\0", "postgres"),
        (b"*1\r\n$4\r\nPING\r\n", "redis"),
        (b"<?xml version='1.0'?><stream:stream to='a' xmlns='jabber:client'>", "xmpp"),
        (b"\xff\xfe\xfd", "unknown"),
        (b"hello there\r\n", "unknown"),
    ];

    #[test]
    fn nw_06_first_bytes_tell_the_protocol() {
        for (bytes, name) in CLIENTS {
            assert_eq!(client(bytes).name(), *name, "{}", String::from_utf8_lossy(bytes));
            assert_ne!(client(bytes), Detection::Partial);
        }
    }

    #[test]
    fn a_beginning_is_never_taken_for_another_protocol() {
        for (bytes, name) in CLIENTS.iter().filter(|(_, name)| *name != "unknown") {
            for length in 0..bytes.len() {
                let early = client(&bytes[..length]);
                assert!(early == Detection::Partial || early.name() == *name, "{name} at {length}: {early:?}");
            }
        }
    }

    #[test]
    fn partial_ends() {
        for fill in [b'A', b'G', 22, 3, 0, b'*', b'<', 0x30, b'1'] {
            assert_ne!(client(&vec![fill; FIRST_BYTES_MAX]), Detection::Partial, "{fill}");
        }
        let endless = [b"GET /".to_vec(), vec![b'a'; SHORT_BYTES_MAX]].concat();
        assert_eq!(client(&endless), Detection::Unknown);
    }

    #[test]
    fn greetings_tell_the_server() {
        for (bytes, name) in [
            (b"220 mail.example ESMTP Postfix\r\n".as_slice(), Some("smtp")),
            (b"220 ProFTPD Server\r\n", Some("ftp")),
            (b"* OK [CAPABILITY IMAP4rev1] ready\r\n", Some("imap")),
            (b"+OK ready\r\n", Some("pop3")),
            (b"\x4a\x00\x00\x00\x0a8.0.36\0\x08\0\0\0", Some("mysql")),
            (b"SSH-2.0-x\r\n", Some("ssh")),
            (b"hello\r\n", None),
            (b"", None),
        ] {
            assert_eq!(server(bytes), name);
        }
    }
}
