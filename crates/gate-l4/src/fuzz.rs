//! Strangers' bytes for this crate's parsers. `fuzz/` calls these functions, and so does the replay of its corpus; nothing
//! in the product does.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{join, sink};

use crate::detect::{self, Detection};
use crate::starttls::{self, Problem, Protocol, mysql};

/// Detection answers whatever the bytes are, comes to an end, and once it has an answer keeps it as more bytes come.
pub fn first_bytes(bytes: &[u8]) {
    detect::server(bytes);
    let whole = detect::client(bytes);
    assert!(bytes.len() < detect::FIRST_BYTES_MAX || whole != Detection::Partial, "it waits for ever");
    let mut earlier: Option<&'static str> = None;
    for length in 0..=bytes.len().min(256) {
        let detection = detect::client(&bytes[..length]);
        match earlier {
            Some(name) if name != "unknown" => assert_eq!(detection.name(), name, "more bytes change a protocol"),
            _ => earlier = (detection != Detection::Partial).then(|| detection.name()),
        }
    }
}

/// What strangers say before TLS ends in TLS or in a problem, and never in TLS where bytes in the clear are left. The first
/// byte chooses the protocol and the side.
pub fn starttls(bytes: &[u8]) {
    let Some((choice, says)) = bytes.split_first() else { return };
    let names = starttls::PROTOCOLS;
    let Some(protocol) = Protocol::named(names[usize::from(choice >> 1) % names.len()]) else { return };
    let (mut rest, mut words) = (says, says);
    let outcome = match (protocol, choice & 1) {
        (Protocol::Mysql, _) => ended(mysql_login(&mut words)),
        (_, 0) => ended(async { starttls::serve(protocol, join(&mut rest, sink()), "edge.example").await.map(drop) }),
        (_, _) => {
            ended(async { starttls::ask(protocol, join(&mut rest, sink()), "edge.example", "origin.example").await.map(drop) })
        }
    };
    // Short enough to be read at once: what is left was sent with the start.
    let is_left = says.len() < 1024 && !rest.is_empty() && protocol != Protocol::Mysql;
    assert!(outcome.is_err() || !is_left, "tls begins with {} bytes in the clear", rest.len());
}

async fn mysql_login(words: &mut &[u8]) -> Result<(), Problem> {
    let (greeting, _) = mysql::greeting(words).await?;
    let mut client = join(*words, sink());
    let answer = mysql::serve_clear(&mut client, greeting).await?;
    mysql::ask(&mut client, &answer).await?;
    let mut origin = join(*words, sink());
    mysql::login(&mut client, &mut origin, Some(answer), mysql::Secure::Origin).await
}

/// The streams above are always ready.
fn ended(future: impl Future<Output = Result<(), Problem>>) -> Result<(), Problem> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => Err(Problem::Ended),
    }
}
