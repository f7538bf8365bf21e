//! The protocols of lines: SMTP, IMAP, POP3 and FTP's control connection.

use tokio::io::{AsyncRead, AsyncWrite};

use super::{Clear, LINES_MAX, Problem, Protocol};

/// What the gate answers to one command of a client in the clear.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Say(String),
    /// Said, and then TLS begins.
    Start(String),
    /// Said, and then the connection ends.
    End(String),
}

pub(super) async fn serve<S>(clear: &mut Clear<S>, protocol: Protocol, name: &str) -> Result<(), Problem>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let greeting = match protocol {
        Protocol::Smtp => format!("220 {name} ESMTP\r\n"),
        Protocol::Imap => "* OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] ready\r\n".to_owned(),
        Protocol::Pop3 => "+OK ready\r\n".to_owned(),
        _ => "220 ready\r\n".to_owned(),
    };
    clear.say(greeting.as_bytes()).await?;
    for _ in 0..LINES_MAX {
        let line = clear.line().await?;
        match answer(protocol, &line, name) {
            Answer::Say(text) => clear.say(text.as_bytes()).await?,
            Answer::Start(_) if !clear.held.is_empty() => return Err(Problem::Injection),
            Answer::Start(text) => return clear.say(text.as_bytes()).await,
            Answer::End(text) => {
                clear.say(text.as_bytes()).await?;
                return Err(Problem::Ended);
            }
        }
    }
    Err(Problem::TooLarge)
}

/// The answer to one line. Total.
pub(super) fn answer(protocol: Protocol, line: &[u8], name: &str) -> Answer {
    // What is repeated to the client is a tag of letters and digits at most.
    let text = String::from_utf8_lossy(line);
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    match protocol {
        Protocol::Smtp => smtp(&words.next().unwrap_or_default().to_ascii_uppercase(), name),
        Protocol::Pop3 => pop3(&words.next().unwrap_or_default().to_ascii_uppercase()),
        Protocol::Ftp => {
            let command = words.next().unwrap_or_default().to_ascii_uppercase();
            ftp(&command, &words.next().unwrap_or_default().to_ascii_uppercase())
        }
        _ => {
            let tag = words.next().unwrap_or_default();
            imap(tag, &words.next().unwrap_or_default().to_ascii_uppercase())
        }
    }
}

fn smtp(command: &str, name: &str) -> Answer {
    match command {
        "EHLO" | "LHLO" => Answer::Say(format!("250-{name}\r\n250 STARTTLS\r\n")),
        "HELO" => Answer::Say(format!("250 {name}\r\n")),
        "NOOP" | "RSET" => Answer::Say("250 2.0.0 OK\r\n".to_owned()),
        "STARTTLS" => Answer::Start("220 2.0.0 ready to start TLS\r\n".to_owned()),
        "QUIT" => Answer::End("221 2.0.0 bye\r\n".to_owned()),
        // RFC 3207 section 4.
        _ => Answer::Say("530 5.7.0 must issue a STARTTLS command first\r\n".to_owned()),
    }
}

fn pop3(command: &str) -> Answer {
    match command {
        "CAPA" => Answer::Say("+OK\r\nSTLS\r\n.\r\n".to_owned()),
        "NOOP" => Answer::Say("+OK\r\n".to_owned()),
        "STLS" => Answer::Start("+OK begin TLS\r\n".to_owned()),
        "QUIT" => Answer::End("+OK bye\r\n".to_owned()),
        _ => Answer::Say("-ERR issue STLS first\r\n".to_owned()),
    }
}

fn ftp(command: &str, argument: &str) -> Answer {
    match (command, argument) {
        ("AUTH", "TLS" | "TLS-C" | "SSL") => Answer::Start("234 begin TLS\r\n".to_owned()),
        ("FEAT", _) => Answer::Say("211-Features:\r\n AUTH TLS\r\n211 End\r\n".to_owned()),
        ("NOOP", _) => Answer::Say("200 OK\r\n".to_owned()),
        ("QUIT", _) => Answer::End("221 bye\r\n".to_owned()),
        // RFC 4217 section 5.
        _ => Answer::Say("530 issue AUTH TLS first\r\n".to_owned()),
    }
}

fn imap(tag: &str, command: &str) -> Answer {
    if tag.is_empty()
        || tag.len() > 32
        || !tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
    {
        return Answer::Say("* BAD no tag\r\n".to_owned());
    }
    match command {
        "CAPABILITY" => Answer::Say(format!("* CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED\r\n{tag} OK done\r\n")),
        "NOOP" => Answer::Say(format!("{tag} OK done\r\n")),
        "STARTTLS" => Answer::Start(format!("{tag} OK begin TLS\r\n")),
        "LOGOUT" => Answer::End(format!("* BYE\r\n{tag} OK done\r\n")),
        _ => Answer::Say(format!("{tag} NO [PRIVACYREQUIRED] issue STARTTLS first\r\n")),
    }
}

/// One whole greeting, as it came.
pub(super) async fn greeting<S>(clear: &mut Clear<S>, protocol: Protocol) -> Result<Vec<u8>, Problem>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match protocol {
        Protocol::Smtp | Protocol::Ftp => reply(clear, b"220").await,
        Protocol::Imap => one_line(clear, &[b"* OK", b"* PREAUTH"]).await,
        _ => one_line(clear, &[b"+OK"]).await,
    }
}

/// A reply of one or more lines with a code; `220-` goes on, `220 ` is the last (RFC 5321 section 4.2.1, RFC 959 section 4.2).
async fn reply<S: AsyncRead + AsyncWrite + Unpin>(clear: &mut Clear<S>, code: &[u8; 3]) -> Result<Vec<u8>, Problem> {
    let mut whole = Vec::new();
    for _ in 0..LINES_MAX {
        let line = clear.line().await?;
        whole.extend_from_slice(&line);
        whole.extend_from_slice(b"\r\n");
        match line.split_first_chunk::<3>() {
            Some((found, [])) | Some((found, [b' ', ..])) if found.iter().all(u8::is_ascii_digit) => {
                return if found == code { Ok(whole) } else { Err(Problem::NoTls) };
            }
            Some((found, [b'-', ..])) if found != code => return Err(Problem::NoTls),
            _ => {}
        }
    }
    Err(Problem::TooLarge)
}

async fn one_line<S: AsyncRead + AsyncWrite + Unpin>(clear: &mut Clear<S>, beginnings: &[&[u8]]) -> Result<Vec<u8>, Problem> {
    let mut line = clear.line().await?;
    if !beginnings.iter().any(|beginning| line.starts_with(beginning)) {
        return Err(Problem::NoTls);
    }
    line.extend_from_slice(b"\r\n");
    Ok(line)
}

/// Asks an origin for TLS and returns its greeting for the client.
pub(super) async fn ask<S>(clear: &mut Clear<S>, protocol: Protocol, name: &str) -> Result<Vec<u8>, Problem>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let greeting = greeting(clear, protocol).await?;
    match protocol {
        Protocol::Smtp => {
            clear.say(format!("EHLO {name}\r\n").as_bytes()).await?;
            let offers = reply(clear, b"250").await?;
            let is_offered = offers
                .split(|byte| *byte == b'\n')
                .any(|line| line.get(4..).is_some_and(|word| word.trim_ascii().eq_ignore_ascii_case(b"STARTTLS")));
            if !is_offered {
                return Err(Problem::NoTls);
            }
            clear.say(b"STARTTLS\r\n").await?;
            reply(clear, b"220").await?;
            Ok(greeting)
        }
        Protocol::Ftp => {
            clear.say(b"AUTH TLS\r\n").await?;
            reply(clear, b"234").await?;
            Ok(greeting)
        }
        Protocol::Pop3 => {
            clear.say(b"STLS\r\n").await?;
            one_line(clear, &[b"+OK"]).await?;
            Ok(greeting)
        }
        _ => {
            clear.say(b"s1 STARTTLS\r\n").await?;
            one_line(clear, &[b"s1 OK"]).await?;
            // What the origin listed before TLS is not what it lists inside (RFC 9051 section 6.2.1).
            Ok(b"* OK ready\r\n".to_vec())
        }
    }
}
