//! What lives as long as the gate, a client connection, or a tunnel inside one. A tunnel is a transaction of its own: its
//! event is recorded when the last request in it has ended.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use checkpoint::{Checkpoint, Passage};
use http::HeaderValue;
use model::{Disposition, Session};
use net::framing::FramingHandle;
use net::mint::Minter;
use net::proxyprotocol::TrustedSources;
use net::trust::CertificateProblem;
use net::upstream::Connector;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::connect::{mark_tunnel, resolve};
use crate::context::ContextKey;
use crate::links::Links;
use crate::serve::Slot;
use crate::spec::WebGateConfig;
use crate::spool::Room;
use crate::stream::Cut;

/// Shared by every connection of the gate.
pub(crate) struct Shared {
    pub(crate) config: WebGateConfig,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) minter: Arc<Minter>,
    pub(crate) connector: Connector,
    pub(crate) authority: Arc<net::authority::Authority>,
    /// Seals what a redirect's target is told.
    pub(crate) context: Arc<ContextKey>,
    /// Whose PROXY headers are believed.
    pub(crate) balancers: TrustedSources,
    /// TLS to the proxy itself, where there is such a listener.
    pub(crate) proxy_tls: Option<TlsAcceptor>,
    /// Where redirected connections arrive.
    pub(crate) transparent: Option<SocketAddr>,
    pub(crate) room: Room,
    /// Our own entry in Via, so that a loop over another proxy is noticed (RFC 9110 section 7.6.3).
    pub(crate) via: HeaderValue,
    /// True from the moment at which the gate was told to stop.
    pub(crate) stopping: watch::Receiver<bool>,
}

/// `http` or `https` towards the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) scheme: Scheme,
    /// Canonical: lower case, without brackets and final dot.
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
}

/// One client connection, or one tunnel in it, in which requests arrive.
pub(crate) struct Road {
    pub(crate) shared: Arc<Shared>,
    pub(crate) session: Session,
    pub(crate) cut: Cut,
    pub(crate) leg: Leg,
    pub(crate) links: Links,
    /// None for an explicit proxy, whose requests name their origin themselves.
    pub(crate) tunnel: Option<Tunnel>,
    /// Set where a client chose an address and speaks plain HTTP to it: its Host says which site it means.
    pub(crate) intercepted_port: Option<u16>,
    /// The framing check in front of an HTTP/1 connection.
    pub(crate) framing: Option<FramingHandle>,
    /// Whether the client speaks TLS to the proxy itself.
    pub(crate) is_secure: bool,
    pub(crate) slot: Slot,
}

/// The protocol on the client's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leg {
    Http1,
    Http2,
}

/// A connection to one origin, decrypted or plain.
pub(crate) struct Tunnel {
    pub(crate) origin: Origin,
    /// The addresses that were looked at when the tunnel was examined: no others are dialled.
    pub(crate) chosen: Vec<IpAddr>,
    pub(crate) trouble: Option<Trouble>,
    is_refused: bool,
    /// Recorded when the tunnel ends.
    passage: Option<Passage>,
}

/// Why the origin could not be reached before the client's handshake; every request in the tunnel is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trouble {
    Certificate(CertificateProblem),
    Unreachable(&'static str),
}

impl Scheme {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    pub(crate) fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

impl Origin {
    /// Host and port as they stand in a Host header: the default port is left out, an IPv6 address is in brackets.
    pub(crate) fn authority(&self) -> String {
        // Room for brackets, a colon and five digits.
        let mut authority = String::with_capacity(self.host.len() + 8);
        match self.host.contains(':') {
            true => authority.extend(["[", &self.host, "]"]),
            false => authority.push_str(&self.host),
        }
        if self.port != self.scheme.default_port() {
            authority.extend([":", &self.port.to_string()]);
        }
        authority
    }

    /// The address of a page here. Its path begins with a slash, or is the one asterisk.
    pub(crate) fn url(&self, path_and_query: &str) -> String {
        [self.scheme.as_str(), "://", &self.authority(), path_and_query].concat()
    }

    /// Whether a text is `authority()` to the letter. What nearly every request in a tunnel has, told without making it.
    pub(crate) fn is_written(&self, authority: &str) -> bool {
        let Some(port) = authority.strip_prefix(&*self.host).filter(|_| !self.host.contains(':')) else { return false };
        match port.strip_prefix(':') {
            None => port.is_empty() && self.port == self.scheme.default_port(),
            // Neither a sign nor a leading zero is the port's own writing.
            Some(digits) => {
                self.port != self.scheme.default_port()
                    && digits.starts_with(|first: char| ('1'..='9').contains(&first))
                    && digits.parse() == Ok(self.port)
            }
        }
    }
}

impl Tunnel {
    pub(crate) fn new(origin: Origin, chosen: Vec<IpAddr>, passage: Passage, trouble: Option<Trouble>) -> Tunnel {
        Tunnel { origin, chosen, trouble, is_refused: false, passage: Some(passage) }
    }

    /// A tunnel that the policy refused; its requests are told so.
    pub(crate) fn refused(origin: Origin, chosen: Vec<IpAddr>, passage: Passage) -> Tunnel {
        Tunnel { origin, chosen, trouble: None, is_refused: true, passage: Some(passage) }
    }

    /// A request in this tunnel begins.
    pub(crate) fn child(&self) -> Option<Passage> {
        self.passage.as_ref().map(Passage::child)
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let Some(mut passage) = self.passage.take() else { return };
        mark_tunnel(&mut passage);
        match self.trouble {
            None if self.is_refused => passage.finish(Disposition::Blocked),
            Some(trouble) => {
                passage.fail(trouble.failure());
                passage.finish(Disposition::Error);
            }
            None => passage.finish(Disposition::Allowed),
        }
    }
}

impl Trouble {
    /// The word in the event.
    pub(crate) fn failure(self) -> &'static str {
        match self {
            Trouble::Certificate(_) => "untrusted_certificate",
            Trouble::Unreachable(failure) => failure,
        }
    }
}

impl Road {
    /// A transaction for one request on this road.
    pub(crate) fn examine(&self, session: &Session) -> Passage {
        match self.tunnel.as_ref().and_then(Tunnel::child) {
            Some(passage) => passage,
            None => self.shared.checkpoint.examine(session),
        }
    }

    /// The addresses of a host, looked up once for each client connection and host.
    pub(crate) async fn addresses(&self, host: &Arc<str>) -> Vec<IpAddr> {
        if let Some(addresses) = self.links.addresses(host) {
            return addresses;
        }
        let addresses = resolve(&self.shared, host).await;
        self.links.keep_addresses(host, &addresses);
        addresses
    }

    pub(crate) fn body_idle(&self) -> Duration {
        self.shared.config.body_idle
    }

    /// Prepares a refusal on the wire. HTTP/1 has no other way than to reset the connection; a stream of HTTP/2 is reset
    /// by the error of its body.
    pub(crate) fn cut_http1(&self) {
        if self.leg == Leg::Http1 {
            self.cut.reset();
        }
    }

    pub(crate) fn authority_pem(&self) -> Bytes {
        Bytes::from(self.shared.authority.trust_pem())
    }
}

/// The host in an authority as the policy knows it, and its port.
pub(crate) fn canonical_host(host: &str) -> Option<Arc<str>> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    match bare.parse::<IpAddr>() {
        Ok(address) => Some(Arc::from(address.to_canonical().to_string())),
        Err(_) => model::name::canonical(bare).filter(|name| is_host_name(name)).map(Arc::from),
    }
}

/// Letters, digits, hyphens, underscores and dots: what can stand in a name that is resolved. Everything else in an
/// authority is an attempt to be read in two ways.
fn is_host_name(name: &str) -> bool {
    name.split('.').all(|label| {
        !label.is_empty() && label.len() <= 63 && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    })
}

/// The peer of a listener, with an IPv4 address that came over IPv6 in its own form.
pub(crate) fn canonical_peer(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_could_be_read_twice_are_none() {
        for host in
            ["", ".", "a b", "a\t.example", "a..b", "user@host", "a%2eb", "[::1", "exa\u{301}mple", "a/b", &"a".repeat(64)]
        {
            assert_eq!(canonical_host(host), None, "{host}");
        }
        assert_eq!(canonical_host("WWW.Example.COM.").as_deref(), Some("www.example.com"));
        assert_eq!(canonical_host("[::FFFF:1.2.3.4]").as_deref(), Some("1.2.3.4"));
    }

    #[test]
    fn an_authority_leaves_out_the_default_port() {
        let origin = |scheme, host: &str, port| Origin { scheme, host: Arc::from(host), port }.authority();
        assert_eq!(origin(Scheme::Https, "a.example", 443), "a.example");
        assert_eq!(origin(Scheme::Http, "::1", 8080), "[::1]:8080");
    }

    #[test]
    fn an_authority_is_recognised_in_its_own_writing_only() {
        let origin = |port| Origin { scheme: Scheme::Https, host: Arc::from("a.example"), port };
        for port in [443, 8443] {
            let origin = origin(port);
            for text in ["a.example", "a.example:443", "a.example:8443"] {
                assert_eq!(origin.is_written(text), text == origin.authority(), "{text} {port}");
            }
            for other in ["A.example", "a.example.", "a.example:08443", "a.example:+8443", "a.example:", "xa.example", ""] {
                assert!(!origin.is_written(other), "{other} {port}");
            }
        }
    }
}
