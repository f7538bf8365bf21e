//! TLS that begins inside a protocol (SP-36): the words in the clear that lead to it, on either side.
//!
//! Towards clients the gate speaks the clear part itself, with the few commands that it needs, and requires TLS: nothing that a
//! client says in the clear ever reaches the origin, and bytes that came with the command that starts TLS are an attack
//! (CVE-2011-0411 and its kin) and end the connection. Towards origins it is the client that asks for TLS, and the same
//! holds for what came with the answer. Everything is read into bounded buffers. Sources: RFC 3207 (SMTP), 9051 section 6.2.1
//! (IMAP), 2595 section 4 (POP3), 4217 (FTP), 4511 section 4.14 (LDAP), 6120 section 5 (XMPP), the PostgreSQL manual,
//! section 55.2.10; MySQL is in `mysql`.

mod ldap;
mod lines;
pub(crate) mod mysql;
mod xmpp;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest line of the protocols above before TLS (RFC 5321 section 4.5.3.1 allows 512, others more).
const LINE_BYTES_MAX: usize = 2048;
/// Commands of a client, and lines of a server's answer, before TLS.
const LINES_MAX: usize = 64;
/// A message of LDAP or an opening of an XMPP stream.
const MESSAGE_BYTES_MAX: usize = 8192;

/// Names of the protocols, as `starttls` has them.
pub(crate) const PROTOCOLS: &[&str] = &["ftp", "imap", "ldap", "mysql", "pop3", "postgres", "smtp", "xmpp"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Ftp,
    Imap,
    Ldap,
    Mysql,
    Pop3,
    Postgres,
    Smtp,
    Xmpp,
}

/// Why TLS did not begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    #[error("the peer ended before tls began")]
    Ended,
    #[error("what the peer says is not the protocol")]
    Malformed,
    #[error("the peer says more than is allowed before tls")]
    TooLarge,
    /// Bytes in the clear behind the word that starts TLS.
    #[error("bytes in the clear came with the start of tls")]
    Injection,
    #[error("the peer does not start tls")]
    NoTls,
}

impl Problem {
    /// The word of the record.
    pub(crate) const fn as_str(&self) -> &'static str {
        match self {
            Problem::Io(_) | Problem::Ended => "starttls_ended",
            Problem::Malformed => "starttls_malformed",
            Problem::TooLarge => "starttls_too_large",
            Problem::Injection => "starttls_injection",
            Problem::NoTls => "starttls_refused",
        }
    }
}

impl Protocol {
    pub(crate) fn named(name: &str) -> Option<Protocol> {
        Some(match name {
            "ftp" => Protocol::Ftp,
            "imap" => Protocol::Imap,
            "ldap" => Protocol::Ldap,
            "mysql" => Protocol::Mysql,
            "pop3" => Protocol::Pop3,
            "postgres" => Protocol::Postgres,
            "smtp" => Protocol::Smtp,
            "xmpp" => Protocol::Xmpp,
            _ => return None,
        })
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Protocol::Ftp => "ftp",
            Protocol::Imap => "imap",
            Protocol::Ldap => "ldap",
            Protocol::Mysql => "mysql",
            Protocol::Pop3 => "pop3",
            Protocol::Postgres => "postgres",
            Protocol::Smtp => "smtp",
            Protocol::Xmpp => "xmpp",
        }
    }
}

/// A stream in the clear, and what has been read of it and not been used.
pub(crate) struct Clear<S> {
    stream: S,
    held: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Clear<S> {
    pub(crate) fn new(stream: S) -> Clear<S> {
        Clear { stream, held: Vec::new() }
    }

    async fn say(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }

    /// Reads once more, up to a bound.
    async fn more(&mut self, bytes_max: usize) -> Result<(), Problem> {
        let room = bytes_max.checked_sub(self.held.len()).filter(|room| *room > 0).ok_or(Problem::TooLarge)?;
        match (&mut self.stream).take(room as u64).read_buf(&mut self.held).await? {
            0 => Err(Problem::Ended),
            _ => Ok(()),
        }
    }

    /// One line without its end. A bare line feed ends one too, as the clients of old protocols do.
    async fn line(&mut self) -> Result<Vec<u8>, Problem> {
        loop {
            if let Some(feed) = self.held.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.held.drain(..=feed).collect();
                line.pop();
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return Ok(line);
            }
            self.more(LINE_BYTES_MAX).await?;
        }
    }

    async fn exactly(&mut self, count: usize) -> Result<Vec<u8>, Problem> {
        while self.held.len() < count {
            self.more(count.max(LINE_BYTES_MAX)).await?;
        }
        Ok(self.held.drain(..count).collect())
    }

    /// The stream, at the start of TLS. What has come in the clear beyond it is refused.
    fn into_tls(self) -> Result<S, Problem> {
        match self.held.is_empty() {
            true => Ok(self.stream),
            false => Err(Problem::Injection),
        }
    }
}

/// Speaks the clear part with a client up to the start of TLS. `name` is what the gate calls itself.
pub(crate) async fn serve<S>(protocol: Protocol, stream: S, name: &str) -> Result<S, Problem>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut clear = Clear::new(stream);
    match protocol {
        Protocol::Ftp | Protocol::Imap | Protocol::Pop3 | Protocol::Smtp => lines::serve(&mut clear, protocol, name).await?,
        Protocol::Ldap => ldap::serve(&mut clear).await?,
        Protocol::Postgres => return postgres(clear).await,
        Protocol::Xmpp => xmpp::serve(&mut clear).await?,
        // Its handshake needs the origin's; `mysql` has it.
        Protocol::Mysql => return Err(Problem::Malformed),
    }
    clear.into_tls()
}

/// Asks an origin for TLS, up to its start. The second part is what the origin has said to its client, the greeting.
pub(crate) async fn ask<S>(protocol: Protocol, stream: S, name: &str, host: &str) -> Result<(S, Vec<u8>), Problem>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut clear = Clear::new(stream);
    let greeting = match protocol {
        Protocol::Ftp | Protocol::Imap | Protocol::Pop3 | Protocol::Smtp => lines::ask(&mut clear, protocol, name).await?,
        Protocol::Ldap => ldap::ask(&mut clear).await.map(|()| Vec::new())?,
        Protocol::Postgres => {
            clear.say(&SSL_REQUEST).await?;
            match clear.exactly(1).await?.as_slice() {
                b"S" => Vec::new(),
                _ => return Err(Problem::NoTls),
            }
        }
        Protocol::Xmpp => xmpp::ask(&mut clear, host).await.map(|()| Vec::new())?,
        Protocol::Mysql => return Err(Problem::Malformed),
    };
    Ok((clear.into_tls()?, greeting))
}

/// Reads the greeting of an origin whose client has had one from the gate already.
pub(crate) async fn skip_greeting<S: AsyncRead + AsyncWrite + Unpin>(protocol: Protocol, stream: S) -> Result<S, Problem> {
    let mut clear = Clear::new(stream);
    if matches!(protocol, Protocol::Ftp | Protocol::Imap | Protocol::Pop3 | Protocol::Smtp) {
        lines::greeting(&mut clear, protocol).await?;
    }
    clear.into_tls()
}

/// Length 8 and the code of an SSLRequest.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];
/// An error of severity FATAL, invalid_authorization_specification, as an answer to a client that does not ask for TLS.
const POSTGRES_NO_TLS: &[u8] = b"E\0\0\0\x3aSFATAL\0VFATAL\0C28000\0Mtls is required by this server\0\0";

/// A client may ask for GSS encryption first, which there is none of (CVE-2021-23214 is the injection here).
async fn postgres<S: AsyncRead + AsyncWrite + Unpin>(mut clear: Clear<S>) -> Result<S, Problem> {
    for _ in 0..3 {
        let request = clear.exactly(8).await?;
        match request.as_slice() {
            request if request == SSL_REQUEST => {
                if !clear.held.is_empty() {
                    return Err(Problem::Injection);
                }
                clear.say(b"S").await?;
                return clear.into_tls();
            }
            request if request == GSS_REQUEST => clear.say(b"N").await?,
            _ => {
                clear.say(POSTGRES_NO_TLS).await?;
                return Err(Problem::NoTls);
            }
        }
    }
    Err(Problem::Malformed)
}

#[cfg(test)]
mod tests;
