//! The server's side of a SOCKS5 handshake (RFC 1928) with user name and password (RFC 1929). It speaks CONNECT only:
//! BIND and UDP ASSOCIATE are answered "command not supported". It authenticates nobody itself; the caller's check does,
//! and the caller sends the reply once policy and upstream have spoken.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

const VERSION: u8 = 5;
/// RFC 1929 section 2: the sub-negotiation has its own version.
const PASSWORD_VERSION: u8 = 1;
const METHOD_NONE: u8 = 0;
const METHOD_PASSWORD: u8 = 2;
const METHOD_UNACCEPTABLE: u8 = 0xff;
const COMMAND_CONNECT: u8 = 1;

/// RFC 1928 section 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reply {
    Succeeded = 0,
    GeneralFailure = 1,
    NotAllowed = 2,
    NetworkUnreachable = 3,
    HostUnreachable = 4,
    ConnectionRefused = 5,
    TimeExceeded = 6,
    CommandNotSupported = 7,
    AddressNotSupported = 8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Address(SocketAddr),
    Name { host: String, port: u16 },
}

/// What the client has said. The password is wiped by the handshake itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub user: Option<String>,
    pub target: Target,
}

/// Who may use the listener.
pub enum Authentication<'a> {
    /// Anyone; who it is follows from elsewhere.
    None,
    /// Only who gives a name and a password that the check accepts.
    Password(&'a (dyn Fn(&str, &str) -> bool + Sync)),
}

#[derive(Debug, thiserror::Error)]
pub enum SocksError {
    #[error("the client's stream failed")]
    Stream(#[from] io::Error),
    #[error("the client does not speak SOCKS version 5")]
    Version,
    #[error("the client offers no acceptable way to authenticate")]
    NoMethod,
    #[error("name or password were refused")]
    Credentials,
    #[error("the request is malformed")]
    Malformed,
    #[error("only the command CONNECT is supported")]
    Command,
}

/// Reads up to and including the request. On an error the fitting answer has been sent and the stream is to be closed.
/// The caller holds the deadline.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    authentication: Authentication<'_>,
) -> Result<Request, SocksError> {
    let user = negotiate(stream, authentication).await?;
    let target = match read_request(stream).await {
        Ok(target) => target,
        Err(error) => {
            if let Some(reply) = reply_to(&error) {
                send_reply(stream, reply, None).await?;
            }
            return Err(error);
        }
    };
    Ok(Request { user, target })
}

/// `bound` is the local address of the upstream connection; where there is none or it is nobody's business, zeros.
pub async fn send_reply<S: AsyncWrite + Unpin>(stream: &mut S, reply: Reply, bound: Option<SocketAddr>) -> io::Result<()> {
    let mut answer = vec![VERSION, reply as u8, 0];
    let bound = bound.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
    match bound.ip() {
        IpAddr::V4(ip) => {
            answer.push(1);
            answer.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            answer.push(4);
            answer.extend(ip.octets());
        }
    }
    answer.extend(bound.port().to_be_bytes());
    stream.write_all(&answer).await?;
    stream.flush().await
}

async fn negotiate<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    authentication: Authentication<'_>,
) -> Result<Option<String>, SocksError> {
    if stream.read_u8().await? != VERSION {
        return Err(SocksError::Version);
    }
    let offered = read_counted(stream).await?;
    let wanted = match authentication {
        Authentication::None => METHOD_NONE,
        Authentication::Password(_) => METHOD_PASSWORD,
    };
    if !offered.contains(&wanted) {
        stream.write_all(&[VERSION, METHOD_UNACCEPTABLE]).await?;
        stream.flush().await?;
        return Err(SocksError::NoMethod);
    }
    stream.write_all(&[VERSION, wanted]).await?;
    stream.flush().await?;
    match authentication {
        Authentication::None => Ok(None),
        Authentication::Password(check) => read_password(stream, check).await.map(Some),
    }
}

async fn read_password<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    check: &(dyn Fn(&str, &str) -> bool + Sync),
) -> Result<String, SocksError> {
    if stream.read_u8().await? != PASSWORD_VERSION {
        return Err(SocksError::Malformed);
    }
    let user = read_counted(stream).await?;
    let password = Zeroizing::new(read_counted(stream).await?);
    let user = String::from_utf8(user).ok();
    let accepted = match (&user, std::str::from_utf8(&password)) {
        (Some(user), Ok(password)) => !user.is_empty() && check(user, password),
        _ => false,
    };
    stream.write_all(&[PASSWORD_VERSION, u8::from(!accepted)]).await?;
    stream.flush().await?;
    user.filter(|_| accepted).ok_or(SocksError::Credentials)
}

/// One length byte and as many bytes: never more than 255.
async fn read_counted<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::from(stream.read_u8().await?)];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn read_request<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Target, SocksError> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let [version, command, reserved, kind] = head;
    if version != VERSION || reserved != 0 {
        return Err(SocksError::Malformed);
    }
    let host = read_host(stream, kind).await?;
    let port = stream.read_u16().await?;
    if command != COMMAND_CONNECT {
        return Err(SocksError::Command);
    }
    Ok(match host {
        Host::Address(ip) => Target::Address(SocketAddr::new(ip, port)),
        Host::Name(host) => Target::Name { host, port },
    })
}

enum Host {
    Address(IpAddr),
    Name(String),
}

async fn read_host<S: AsyncRead + Unpin>(stream: &mut S, kind: u8) -> Result<Host, SocksError> {
    match kind {
        1 => Ok(Host::Address(IpAddr::from(stream.read_u32().await?.to_be_bytes()))),
        4 => Ok(Host::Address(IpAddr::from(stream.read_u128().await?.to_be_bytes()))),
        3 => decode_name(read_counted(stream).await?).ok_or(SocksError::Malformed),
        _ => Err(SocksError::Malformed),
    }
}

/// An address in the name's place is an address; anything that cannot be in a host name is refused.
fn decode_name(bytes: Vec<u8>) -> Option<Host> {
    let name = String::from_utf8(bytes).ok()?;
    if let Ok(address) = name.parse() {
        return Some(Host::Address(address));
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    (!name.is_empty() && name.bytes().all(is_plain)).then_some(Host::Name(name))
}

fn reply_to(error: &SocksError) -> Option<Reply> {
    match error {
        SocksError::Command => Some(Reply::CommandNotSupported),
        SocksError::Malformed => Some(Reply::AddressNotSupported),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    /// Sends the client's whole side at once and returns the outcome with all bytes that came back.
    async fn converse(wire: &[u8], authentication: Authentication<'_>) -> (Result<Request, SocksError>, Vec<u8>) {
        let (mut client, mut server) = tokio::io::duplex(2048);
        client.write_all(wire).await.unwrap();
        client.shutdown().await.unwrap();
        let outcome = accept(&mut server, authentication).await;
        drop(server);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        (outcome, answer)
    }

    fn is_ann(user: &str, password: &str) -> bool {
        user == "ann" && password == "secret"
    }

    #[tokio::test]
    async fn connect_to_a_name_and_to_addresses() {
        let name = [b"\x05\x01\x00\x05\x01\x00\x03\x0bexample.com".as_slice(), &[0x01, 0xbb]].concat();
        let (request, answer) = converse(&name, Authentication::None).await;
        let target = Target::Name { host: "example.com".into(), port: 443 };
        assert_eq!(request.unwrap(), Request { user: None, target });
        assert_eq!(answer, [5, 0]);
        let four = b"\x05\x02\x00\x02\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50";
        let (request, _) = converse(four, Authentication::None).await;
        assert_eq!(request.unwrap().target, Target::Address("192.0.2.1:80".parse().unwrap()));
        let mut six = b"\x05\x01\x00\x05\x01\x00\x04".to_vec();
        six.extend("2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        six.extend([0, 80]);
        let (request, _) = converse(&six, Authentication::None).await;
        assert_eq!(request.unwrap().target, Target::Address("[2001:db8::1]:80".parse().unwrap()));
        let spelled = b"\x05\x01\x00\x05\x01\x00\x03\x09127.0.0.1\x00\x50";
        let (request, _) = converse(spelled, Authentication::None).await;
        assert_eq!(request.unwrap().target, Target::Address("127.0.0.1:80".parse().unwrap()));
    }

    #[tokio::test]
    async fn rfc_1929_password_is_checked() {
        let request = b"\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50";
        let with = |user: &[u8], password: &[u8]| {
            let sizes = |text: &[u8]| [&[u8::try_from(text.len()).unwrap()], text].concat();
            [b"\x05\x02\x00\x02\x01".as_slice(), &sizes(user), &sizes(password), request].concat()
        };
        let (good, answer) = converse(&with(b"ann", b"secret"), Authentication::Password(&is_ann)).await;
        assert_eq!(good.unwrap().user.as_deref(), Some("ann"));
        assert_eq!(answer, [5, 2, 1, 0]);
        for (user, password) in [(b"ann".as_slice(), b"wrong".as_slice()), (b"", b""), (b"\xff", b"secret")] {
            let (refused, answer) = converse(&with(user, password), Authentication::Password(&is_ann)).await;
            assert!(matches!(refused, Err(SocksError::Credentials)));
            assert_eq!(answer, [5, 2, 1, 1]);
        }
    }

    #[tokio::test]
    async fn a_method_that_is_not_wanted_is_never_chosen() {
        for (wire, authentication) in [
            (b"\x05\x01\x00".as_slice(), Authentication::Password(&is_ann)),
            (b"\x05\x01\x02", Authentication::None),
            (b"\x05\x00", Authentication::None),
        ] {
            let (refused, answer) = converse(wire, authentication).await;
            assert!(matches!(refused, Err(SocksError::NoMethod)));
            assert_eq!(answer, [5, 0xff]);
        }
    }

    #[tokio::test]
    async fn unusable_requests_are_answered_with_their_code() {
        for (request, code) in [
            (b"\x05\x02\x00\x01\xc0\x00\x02\x01\x00\x50".as_slice(), 7),
            (b"\x05\x03\x00\x01\xc0\x00\x02\x01\x00\x50", 7),
            (b"\x05\x01\x00\x02", 8),
            (b"\x05\x01\x00\x03\x03a/b\x00\x50", 8),
            (b"\x05\x01\x00\x03\x00\x00\x50", 8),
        ] {
            let (refused, answer) = converse(&[b"\x05\x01\x00", request].concat(), Authentication::None).await;
            assert!(refused.is_err());
            assert_eq!(answer, [5, 0, 5, code, 0, 1, 0, 0, 0, 0, 0, 0]);
        }
    }

    #[tokio::test]
    async fn other_protocols_and_cut_streams_end_without_an_answer() {
        let (refused, answer) = converse(b"GET / HTTP/1.1\r\n\r\n", Authentication::None).await;
        assert!(matches!(refused, Err(SocksError::Version)));
        assert!(answer.is_empty());
        let whole = b"\x05\x01\x00\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50";
        for end in 0..whole.len() {
            let (refused, _) = converse(whole.get(..end).unwrap(), Authentication::None).await;
            assert!(matches!(refused, Err(SocksError::Stream(_))), "{end}");
        }
    }

    #[tokio::test]
    async fn replies_carry_the_bound_address() {
        let mut answer = std::io::Cursor::new(Vec::new());
        send_reply(&mut answer, Reply::Succeeded, "[2001:db8::1]:258".parse().ok()).await.unwrap();
        let answer = answer.into_inner();
        assert_eq!((answer.get(..4), answer.get(20..)), (Some([5, 0, 0, 4].as_slice()), Some([1, 2].as_slice())));
    }
}
