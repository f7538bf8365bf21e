//! Strangers' bytes for this crate's parsers. `fuzz/` calls these functions, and so does the replay of its corpus; nothing
//! in the product does. Each states what must hold whatever the bytes are.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{join, sink};

use crate::framing::{FramingProblem, Scanner, authorities_agree};
use crate::hello::{self, Decoded as Hello};
use crate::mint::LeafHost;
use crate::proxyprotocol::{self, Decoded as Header, Proxied};
use crate::socks5::{self, Authentication};

/// HTTP/1 framing comes to the same reading however the wire is split, and approves nothing behind a problem.
pub fn http_framing(bytes: &[u8]) {
    let whole = framed(bytes, bytes.len().max(1));
    assert!(whole.0 <= bytes.len(), "more is approved than has come");
    for size in [1, 2, 3, 7, 64] {
        assert_eq!(framed(bytes, size), whole, "in pieces of {size}");
    }
}

/// How much passes in pieces of this size, and the problem behind it. Requests that wait for an answer are refused one.
fn framed(bytes: &[u8], size: usize) -> (usize, Option<FramingProblem>) {
    let (mut scanner, mut held, mut passed) = (Scanner::new(), Vec::new(), 0);
    for piece in bytes.chunks(size) {
        held.extend_from_slice(piece);
        loop {
            let progress = scanner.advance(&held);
            held.drain(..progress.approved);
            passed += progress.approved;
            if progress.problem.is_some() {
                return (passed, progress.problem);
            }
            if !scanner.is_awaiting_answer() {
                break;
            }
            scanner.resume_requests();
        }
    }
    (passed, None)
}

/// A complete client hello is complete whatever follows it, and no beginning of it is refused.
pub fn client_hello(bytes: &[u8]) {
    let Ok(Hello::Complete(whole)) = hello::decode(bytes) else { return };
    let longer = [bytes, b"\x16\x03\x01\0\x01\0"].concat();
    assert_eq!(hello::decode(&longer), Ok(Hello::Complete(whole.clone())), "what follows a hello changes it");
    for eighth in 0..8 {
        let part = hello::decode(&bytes[..bytes.len() * eighth / 8]);
        assert!(part == Ok(Hello::Partial) || part == Ok(Hello::Complete(whole.clone())), "a beginning is read differently");
    }
    assert!(whole.ja4.is_ascii() && whole.ja4.len() == 36, "{:?} is no JA4", whole.ja4);
}

/// A PROXY header ends where it says, and what it tells survives being written and read again.
pub fn proxy_header(bytes: &[u8]) {
    let Ok(Header::Complete { proxied, bytes: used }) = proxyprotocol::decode(bytes) else { return };
    assert!(used <= bytes.len(), "a header longer than its bytes");
    assert_eq!(proxyprotocol::decode(&bytes[..used]), Ok(Header::Complete { proxied, bytes: used }));
    assert!(proxyprotocol::decode(&bytes[..used - 1]) == Ok(Header::Partial), "a header that needs less than all of itself");
    let Proxied::Addresses { source, destination } = proxied else { return };
    let written = proxyprotocol::encode_v2(source, destination);
    assert_eq!(proxyprotocol::decode(&written), Ok(Header::Complete { proxied, bytes: written.len() }));
}

/// A SOCKS5 handshake ends in a request or an error, for a listener with a password as for one without.
pub fn socks5(bytes: &[u8]) {
    let accept_any = |_: &str, _: &str| true;
    for authentication in [Authentication::None, Authentication::Password(&accept_any)] {
        let mut stream = join(bytes, sink());
        let accepted = finished(socks5::accept(&mut stream, authentication));
        if let Some(Ok(socks5::Request { target: socks5::Target::Name { host, .. }, .. })) = accepted {
            assert!(!host.is_empty() && host.len() <= 255, "{host:?} cannot have been in a request");
        }
    }
}

/// Two authorities agree both ways round, and one that names something agrees with itself.
pub fn authority(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (one, other) = text.split_once('\n').unwrap_or((text, text));
    assert_eq!(authorities_agree(one, other, 443), authorities_agree(other, one, 443));
    if authorities_agree(one, other, 443) {
        assert!(authorities_agree(one, one, 443), "{one:?} agrees with another and not with itself");
    }
    if let Ok(host) = LeafHost::parse(one) {
        let _ = host.server_name();
    }
}

/// The value of a future that never waits; none of one that does.
fn finished<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}
