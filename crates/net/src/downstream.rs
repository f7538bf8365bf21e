//! The client's leg of an inspected connection: the handshake with a minted certificate, and what was agreed in it. It is
//! entered only after the upstream has been verified, with a configuration from `mint`; the caller holds the deadline.

use std::io;
use std::sync::Arc;

use rustls::{ProtocolVersion, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::mint::VersionCeiling;
use crate::upstream::UpstreamTlsVersion;

/// What was agreed with the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownstreamTls {
    pub alpn: Option<Vec<u8>>,
    pub is_tls13: bool,
    pub server_name: Option<String>,
}

/// The ceiling that keeps the client's leg no newer than the upstream's.
pub fn ceiling_for(upstream: UpstreamTlsVersion) -> VersionCeiling {
    match upstream {
        UpstreamTlsVersion::Tls12 => VersionCeiling::Tls12,
        UpstreamTlsVersion::Tls13 => VersionCeiling::Tls13,
    }
}

/// A client that does not trust the authority, or pins another certificate, ends here with an error (TL-05).
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    config: Arc<ServerConfig>,
) -> io::Result<(TlsStream<S>, DownstreamTls)> {
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let session = stream.get_ref().1;
    let agreed = DownstreamTls {
        alpn: session.alpn_protocol().map(<[u8]>::to_vec),
        is_tls13: session.protocol_version() == Some(ProtocolVersion::TLSv1_3),
        server_name: session.server_name().map(str::to_owned),
    };
    Ok((stream, agreed))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use std::time::SystemTime;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::authority::Authority;
    use crate::hello::peek;
    use crate::mint::{Alpn, LeafHost, Minter};
    use crate::trust::{CertificateHandling, Trust, TrustSettings};

    async fn handshake(client_trusts: &Authority, minter: &Minter) -> io::Result<(Vec<u8>, DownstreamTls)> {
        let now = SystemTime::now();
        let host = LeafHost::parse("origin.example").unwrap();
        let settings = TrustSettings { roots: vec![client_trusts.current().der], ..TrustSettings::default() };
        let trust = Trust::new(settings, now).unwrap();
        let client = trust.client_config(&host, Alpn::Http2AndHttp1, CertificateHandling::Refuse, now).unwrap();
        let (client_end, server_end) = tokio::io::duplex(16 * 1024);
        let name = host.server_name().unwrap();
        let client = async {
            let connected = tokio_rustls::TlsConnector::from(client).connect(name, client_end).await;
            let mut received = Vec::new();
            if let Ok(mut stream) = connected {
                stream.read_to_end(&mut received).await?;
            }
            io::Result::Ok(received)
        };
        let server = async {
            let (hello, stream) = peek(server_end).await?;
            let host = LeafHost::parse(&hello.unwrap().server_name.unwrap()).unwrap();
            let config = minter.server_config(&host, Alpn::Http1, ceiling_for(UpstreamTlsVersion::Tls13), now).unwrap();
            let (mut stream, agreed) = accept(stream, config).await?;
            stream.write_all(b"page").await?;
            stream.shutdown().await?;
            io::Result::Ok(agreed)
        };
        let (received, agreed) = tokio::join!(client, server);
        Ok((received?, agreed?))
    }

    #[tokio::test]
    async fn a_hello_is_read_ahead_and_answered_with_a_minted_leaf() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::load_or_create(directory.path(), "Test", SystemTime::now()).unwrap());
        let minter = Minter::new(Arc::clone(&authority)).unwrap();
        let (received, agreed) = handshake(&authority, &minter).await.unwrap();
        assert_eq!(received, b"page");
        let server_name = Some("origin.example".to_owned());
        assert_eq!(agreed, DownstreamTls { alpn: Some(b"http/1.1".to_vec()), is_tls13: true, server_name });
    }

    #[tokio::test]
    async fn tl_05_a_client_that_does_not_trust_us_is_an_error() {
        let (ours, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let authority = Arc::new(Authority::load_or_create(ours.path(), "Test", SystemTime::now()).unwrap());
        let stranger = Authority::load_or_create(other.path(), "Test", SystemTime::now()).unwrap();
        let minter = Minter::new(authority).unwrap();
        assert!(handshake(&stranger, &minter).await.is_err());
    }
}
