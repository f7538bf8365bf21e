//! XMPP: a stream is opened, its features say that TLS is required, and it is opened anew inside TLS (RFC 6120 section 5). The
//! few elements before that are recognised by their text; whatever else a client sends ends the connection.

use tokio::io::{AsyncRead, AsyncWrite};

use super::{Clear, MESSAGE_BYTES_MAX, Problem};

const NAMESPACE: &str = "urn:ietf:params:xml:ns:xmpp-tls";
const ERROR: &[u8] =
    b"<stream:error><policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>";

fn find(bytes: &[u8], word: &[u8]) -> Option<usize> {
    bytes.windows(word.len()).position(|window| window == word)
}

/// Reads up to a word and returns what came before and with it.
async fn until<S: AsyncRead + AsyncWrite + Unpin>(clear: &mut Clear<S>, from: &[u8], to: &[u8]) -> Result<Vec<u8>, Problem> {
    loop {
        if let Some(start) = find(&clear.held, from)
            && let Some(end) = find(&clear.held[start..], to)
        {
            return Ok(clear.held.drain(..start + end + to.len()).collect());
        }
        clear.more(MESSAGE_BYTES_MAX).await?;
    }
}

/// The host that an opening is for, where it is one: only such text is repeated.
fn addressed(opening: &[u8]) -> String {
    let text = String::from_utf8_lossy(opening);
    let value = ["to='", "to=\""].iter().find_map(|quote| text.split_once(quote).map(|(_, rest)| rest));
    let host: String = value.unwrap_or_default().chars().take_while(|c| !matches!(c, '\'' | '"')).collect();
    let is_plain = host.len() <= 253 && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
    if is_plain { host } else { String::new() }
}

pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(clear: &mut Clear<S>) -> Result<(), Problem> {
    let opening = until(clear, b"<stream:stream", b">").await?;
    let kind = if find(&opening, b"jabber:server").is_some() { "jabber:server" } else { "jabber:client" };
    let from = addressed(&opening);
    let header = format!(
        "<?xml version='1.0'?><stream:stream xmlns='{kind}' xmlns:stream='http://etherx.jabber.org/streams' from='{from}' \
         id='clear' version='1.0'><stream:features><starttls xmlns='{NAMESPACE}'><required/></starttls></stream:features>"
    );
    clear.say(header.as_bytes()).await?;
    let command = until(clear, b"<", b">").await?;
    if !command.trim_ascii().starts_with(b"<starttls") {
        clear.say(ERROR).await?;
        return Err(Problem::NoTls);
    }
    if !command.ends_with(b"/>") {
        until(clear, b"</starttls", b">").await?;
    }
    if !clear.held.is_empty() {
        return Err(Problem::Injection);
    }
    clear.say(format!("<proceed xmlns='{NAMESPACE}'/>").as_bytes()).await
}

pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(clear: &mut Clear<S>, host: &str) -> Result<(), Problem> {
    let header = format!(
        "<?xml version='1.0'?><stream:stream to='{host}' xmlns='jabber:client' \
         xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>"
    );
    clear.say(header.as_bytes()).await?;
    let features = until(clear, b"<stream:features", b"</stream:features>").await?;
    if find(&features, NAMESPACE.as_bytes()).is_none() {
        return Err(Problem::NoTls);
    }
    clear.say(format!("<starttls xmlns='{NAMESPACE}'/>").as_bytes()).await?;
    let answer = until(clear, b"<", b">").await?;
    if !answer.trim_ascii().starts_with(b"<proceed") {
        return Err(Problem::NoTls);
    }
    if !answer.ends_with(b"/>") {
        until(clear, b"</proceed", b">").await?;
    }
    Ok(())
}
