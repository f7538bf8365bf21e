//! Conversations: what each side says, and what must come of it.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

/// What the gate says to a client that says this and then waits, and how it ends.
async fn served(protocol: Protocol, says: &[u8]) -> (String, Result<(), &'static str>) {
    let (mut client, gate) = duplex(1 << 16);
    client.write_all(says).await.unwrap();
    client.shutdown().await.unwrap();
    let (outcome, heard) = tokio::join!(
        async {
            let outcome = serve(protocol, gate, "edge.example").await;
            // Whoever holds the stream keeps it open for the rest of the test.
            outcome.map(drop).map_err(|problem| problem.as_str())
        },
        async {
            let mut heard = Vec::new();
            let _ = client.read_to_end(&mut heard).await;
            String::from_utf8_lossy(&heard).into_owned()
        }
    );
    (heard, outcome)
}

/// A client that says each part after it has heard something.
async fn conversed(protocol: Protocol, parts: &[&[u8]]) -> Result<(), &'static str> {
    let (mut client, gate) = duplex(1 << 16);
    let serving = async { serve(protocol, gate, "edge.example").await.map_err(|problem| problem.as_str()) };
    let client = async {
        let mut buffer = [0; 1024];
        for part in parts {
            if !matches!(protocol, Protocol::Ldap | Protocol::Postgres | Protocol::Xmpp) || part != &parts[0] {
                let _said = client.read(&mut buffer).await.unwrap();
            }
            client.write_all(part).await.unwrap();
        }
        let _said = client.read(&mut buffer).await;
        client
    };
    let (outcome, client) = tokio::join!(serving, client);
    drop(client);
    outcome.map(drop)
}

const LDAP_START: &[u8] = b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037";
const XMPP_OPEN: &[u8] = b"<?xml version='1.0'?><stream:stream to='im.example' xmlns='jabber:client' version='1.0'>";
const XMPP_START: &[u8] = b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";

/// SP-36: each protocol comes to its start.
#[tokio::test]
async fn sp_36_every_protocol_starts_tls() {
    let conversations: &[(Protocol, &[&[u8]])] = &[
        (Protocol::Smtp, &[b"EHLO a\r\n", b"STARTTLS\r\n"]),
        (Protocol::Imap, &[b"a CAPABILITY\r\n", b"b STARTTLS\r\n"]),
        (Protocol::Pop3, &[b"CAPA\r\n", b"STLS\r\n"]),
        (Protocol::Ftp, &[b"FEAT\r\n", b"AUTH TLS\r\n"]),
        (Protocol::Ldap, &[LDAP_START]),
        (Protocol::Postgres, &[&SSL_REQUEST]),
        (Protocol::Postgres, &[&GSS_REQUEST, &SSL_REQUEST]),
        (Protocol::Xmpp, &[XMPP_OPEN, XMPP_START]),
    ];
    for (protocol, parts) in conversations {
        assert_eq!(conversed(*protocol, parts).await, Ok(()), "{protocol:?}");
    }
}

/// CVE-2011-0411, CVE-2021-23214 and their kin: what comes in the clear with the start is never read as if it were inside.
#[tokio::test]
async fn words_behind_the_start_end_the_connection() {
    let starts: &[(Protocol, &[u8])] = &[
        (Protocol::Smtp, b"EHLO a\r\nSTARTTLS\r\nMAIL FROM:<a@b>\r\n"),
        (Protocol::Imap, b"a STARTTLS\r\nb LOGIN x y\r\n"),
        (Protocol::Pop3, b"STLS\r\nUSER x\r\n"),
        (Protocol::Ftp, b"AUTH TLS\r\nUSER x\r\n"),
        (Protocol::Ldap, &[LDAP_START, b"\x30"].concat()),
        (Protocol::Postgres, &[SSL_REQUEST.as_slice(), b"\0"].concat()),
        (Protocol::Xmpp, &[XMPP_OPEN, XMPP_START, b"<a/>"].concat()),
    ];
    for (protocol, says) in starts {
        let (heard, outcome) = served(*protocol, says).await;
        assert_eq!(outcome, Err("starttls_injection"), "{protocol:?}");
        for start in ["220 2.0.0", "OK begin", "234", "<proceed"] {
            assert!(!heard.contains(start), "{protocol:?} was told to begin: {heard}");
        }
    }
}

/// Nothing but the way to TLS is answered in the clear.
#[tokio::test]
async fn commands_in_the_clear_are_refused() {
    for (protocol, says, expected) in [
        (Protocol::Smtp, b"MAIL FROM:<a@b>\r\nQUIT\r\n".as_slice(), "530 5.7.0"),
        (Protocol::Imap, b"a LOGIN x y\r\nb LOGOUT\r\n", "a NO [PRIVACYREQUIRED]"),
        (Protocol::Pop3, b"USER x\r\nQUIT\r\n", "-ERR"),
        (Protocol::Ftp, b"USER x\r\nQUIT\r\n", "530"),
        (Protocol::Ldap, b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\0\x80\0", "start TLS first"),
        (Protocol::Postgres, b"\0\0\0\x08\0\x03\0\0", "tls is required"),
        (Protocol::Xmpp, b"<stream:stream to='a' xmlns='jabber:client'><auth/>", "policy-violation"),
    ] {
        let (heard, outcome) = served(protocol, says).await;
        assert!(heard.contains(expected) && outcome.is_err(), "{protocol:?}: {heard}");
    }
}

/// A line without end, and commands without end.
#[tokio::test]
async fn what_does_not_end_is_bounded() {
    for protocol in [Protocol::Smtp, Protocol::Imap, Protocol::Pop3, Protocol::Ftp, Protocol::Xmpp] {
        assert_eq!(served(protocol, &[b'<'; 16 << 10]).await.1, Err("starttls_too_large"), "{protocol:?}");
    }
    assert_eq!(served(Protocol::Smtp, &b"NOOP\r\n".repeat(LINES_MAX + 1)).await.1, Err("starttls_too_large"));
    assert_eq!(served(Protocol::Imap, b"\x1b[2J STARTTLS\r\n\x1b LOGOUT\r\n").await.1, Err("starttls_ended"));
}

/// An origin that says each part after it has heard something; the first at once where its protocol greets.
async fn asked(protocol: Protocol, parts: &[&[u8]]) -> Result<String, &'static str> {
    let (origin, gate) = duplex(1 << 16);
    let asking = async {
        let (stream, greeting) =
            ask(protocol, gate, "edge.example", "origin.example").await.map_err(|problem| problem.as_str())?;
        drop(stream);
        Ok(String::from_utf8_lossy(&greeting).into_owned())
    };
    let greets = !matches!(protocol, Protocol::Ldap | Protocol::Postgres | Protocol::Xmpp);
    let (outcome, ()) = tokio::join!(asking, answer(origin, greets, parts));
    outcome
}

async fn answer(mut origin: DuplexStream, greets: bool, parts: &[&[u8]]) {
    let mut buffer = [0; 1024];
    for (place, part) in parts.iter().enumerate() {
        if (place > 0 || !greets) && !matches!(origin.read(&mut buffer).await, Ok(1..)) {
            return;
        }
        let _ = origin.write_all(part).await;
    }
    let _ = origin.read(&mut buffer).await;
}

#[tokio::test]
async fn sp_36_origins_are_asked_for_tls() {
    let ehlo: &[u8] = b"250-mail\r\n250-SIZE\r\n250 STARTTLS\r\n";
    assert_eq!(
        asked(Protocol::Smtp, &[b"220-mail\r\n220 ESMTP\r\n", ehlo, b"220 go\r\n"]).await.as_deref(),
        Ok("220-mail\r\n220 ESMTP\r\n")
    );
    assert_eq!(
        asked(Protocol::Imap, &[b"* OK [CAPABILITY STARTTLS] x\r\n", b"s1 OK go\r\n"]).await.as_deref(),
        Ok("* OK ready\r\n")
    );
    assert_eq!(asked(Protocol::Pop3, &[b"+OK <1@a>\r\n", b"+OK go\r\n"]).await.as_deref(), Ok("+OK <1@a>\r\n"));
    assert_eq!(asked(Protocol::Ftp, &[b"220 ftp\r\n", b"234 go\r\n"]).await.as_deref(), Ok("220 ftp\r\n"));
    assert_eq!(asked(Protocol::Postgres, &[b"S"]).await.as_deref(), Ok(""));
    assert_eq!(asked(Protocol::Ldap, &[b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\0\x04\0\x04\0"]).await.as_deref(), Ok(""));
    let features =
        b"<stream:stream id='1'><stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:features>";
    assert_eq!(
        asked(Protocol::Xmpp, &[features, b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"]).await.as_deref(),
        Ok("")
    );
}

async fn smtp(ehlo: &[u8], start: &[u8]) -> Result<String, &'static str> {
    asked(Protocol::Smtp, &[b"220 a\r\n", ehlo, start]).await
}

/// An origin that has none, or somebody on the way who takes it away, ends the flow: it never goes on in the clear.
#[tokio::test]
async fn an_origin_without_tls_is_not_used_and_one_that_injects_neither() {
    let conversations = [
        (smtp(b"250 SIZE\r\n", b"").await, "starttls_refused"),
        (smtp(b"250 STARTTLS\r\n", b"454 no\r\n").await, "starttls_refused"),
        (smtp(b"250 STARTTLS\r\n", b"220 go\r\n250 injected\r\n").await, "starttls_injection"),
        (asked(Protocol::Postgres, &[b"N"]).await, "starttls_refused"),
        (asked(Protocol::Postgres, &[b"Sx"]).await, "starttls_injection"),
        (asked(Protocol::Imap, &[b"* BYE\r\n"]).await, "starttls_refused"),
        (asked(Protocol::Pop3, &[b"+OK\r\n", b"-ERR\r\n"]).await, "starttls_refused"),
        (asked(Protocol::Ldap, &[b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x34\x04\0\x04\0"]).await, "starttls_refused"),
    ];
    for (outcome, expected) in conversations {
        assert_eq!(outcome, Err(expected));
    }
}

/// The one bit, and the numbers of packets on both sides of it.
#[tokio::test]
async fn mysql_packets_are_shifted_until_the_login_ends() {
    let greeting =
        [b"\x0a8.0\0\x01\0\0\0rrrrrrrr\0".as_slice(), &[0xff, 0xf7, 8, 2, 0, 0xff, 0x81, 21], &[0; 10], b"rrrrrrrrrrrr\0x\0"]
            .concat();
    let packet = |number: u8, payload: &[u8]| [[payload.len() as u8, 0, 0, number].as_slice(), payload].concat();
    let (mut origin, mut gate_origin) = duplex(4096);
    let (mut client, gate_client) = duplex(4096);
    let request = [[0x85_u8, 0xae, 0xff, 1].as_slice(), [0_u8; 28].as_slice()].concat();
    let answer = [request.as_slice(), b"user\0"].concat();

    origin.write_all(&packet(0, &greeting)).await.unwrap();
    let (hello, offers) = mysql::greeting(&mut gate_origin).await.unwrap();
    assert!(!offers);
    client.write_all(&packet(1, &request)).await.unwrap();
    let mut gate_client = mysql::serve(gate_client, hello).await.unwrap();
    let mut heard = vec![0; greeting.len() + 4];
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard[4 + 18 + 1], 0xff, "the client is offered tls");

    client.write_all(&packet(2, &answer)).await.unwrap();
    client.write_all(&packet(4, b"more")).await.unwrap();
    origin.write_all(&packet(2, b"\xfeplugin")).await.unwrap();
    origin.write_all(&packet(4, b"\0ok")).await.unwrap();
    mysql::login(&mut gate_client, &mut gate_origin, None, mysql::Secure::Client).await.unwrap();
    let mut plain = answer.clone();
    plain[1] &= !0x08;
    let expected = [packet(1, &plain), packet(3, b"more")].concat();
    let mut heard = vec![0; expected.len()];
    origin.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, expected);
    let expected = [packet(3, b"\xfeplugin"), packet(5, b"\0ok")].concat();
    let mut heard = vec![0; expected.len()];
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, expected);

    let (mut client, gate_client) = duplex(4096);
    client.write_all(&packet(1, &answer)).await.unwrap();
    let (hello, _) = (mysql::greeting(&mut &packet(0, &greeting)[..]).await.unwrap().0, ());
    assert!(matches!(mysql::serve(gate_client, hello).await, Err(Problem::NoTls)), "a login in the clear");
}
