//! LDAP: one extended request and its answer (RFC 4511 sections 4.12 and 4.14), in the few forms of BER that they take.

use tokio::io::{AsyncRead, AsyncWrite};

use super::{Clear, MESSAGE_BYTES_MAX, Problem};

const START_TLS: &[u8] = b"1.3.6.1.4.1.1466.20037";
const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 2;
const EXTENDED_REQUEST: u8 = 0x77;
const EXTENDED_RESPONSE: u8 = 0x78;

/// Whether the message is whole, and how long it is.
fn length(bytes: &[u8]) -> Result<Option<usize>, Problem> {
    let (header, content) = match bytes {
        [SEQUENCE, short, ..] if short & 0x80 == 0 => (2, usize::from(*short)),
        [SEQUENCE, 0x81, long, ..] => (3, usize::from(*long)),
        [SEQUENCE, 0x82, high, low, ..] => (4, usize::from(u16::from_be_bytes([*high, *low]))),
        [] | [SEQUENCE] | [SEQUENCE, 0x81] | [SEQUENCE, 0x82] | [SEQUENCE, 0x82, _] => return Ok(None),
        // Four bytes of length, with which some clients begin every message.
        [SEQUENCE, 0x84, 0, 0, high, low, ..] => (6, usize::from(u16::from_be_bytes([*high, *low]))),
        [SEQUENCE, 0x84, rest @ ..] if rest.len() < 4 && rest.iter().take(2).all(|byte| *byte == 0) => return Ok(None),
        _ => return Err(Problem::Malformed),
    };
    match header + content > MESSAGE_BYTES_MAX {
        true => Err(Problem::TooLarge),
        false => Ok((bytes.len() >= header + content).then_some(header + content)),
    }
}

/// A tag's content and what comes behind it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        short if short & 0x80 == 0 => (usize::from(*short), rest),
        0x81 => rest.split_first().map(|(length, rest)| (usize::from(*length), rest))?,
        0x82 => rest.split_first_chunk::<2>().map(|(length, rest)| (usize::from(u16::from_be_bytes(*length)), rest))?,
        0x84 => rest
            .split_first_chunk::<4>()
            .and_then(|(length, rest)| Some((usize::try_from(u32::from_be_bytes(*length)).ok()?, rest)))?,
        _ => return None,
    };
    (*found == tag).then(|| rest.split_at_checked(length)).flatten()
}

/// The number of the message and its operation. Total.
fn message(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (content, _) = element(bytes, SEQUENCE)?;
    let (number, operation) = element(content, INTEGER)?;
    (!number.is_empty() && number.len() <= 4).then_some((number, operation))
}

async fn read<S: AsyncRead + AsyncWrite + Unpin>(clear: &mut Clear<S>) -> Result<Vec<u8>, Problem> {
    loop {
        if let Some(whole) = length(&clear.held)? {
            return Ok(clear.held.drain(..whole).collect());
        }
        clear.more(MESSAGE_BYTES_MAX).await?;
    }
}

fn response(number: &[u8], code: u8, text: &[u8]) -> Vec<u8> {
    let result = [[0x0a, 1, code, 4, 0, 4, text.len() as u8].as_slice(), text].concat();
    let operation = [[EXTENDED_RESPONSE, result.len() as u8].as_slice(), result.as_slice()].concat();
    let number = [[INTEGER, number.len() as u8].as_slice(), number].concat();
    [[SEQUENCE, (number.len() + operation.len()) as u8].as_slice(), number.as_slice(), &operation].concat()
}

/// Result codes of RFC 4511, appendix A.
const SUCCESS: u8 = 0;
const CONFIDENTIALITY_REQUIRED: u8 = 13;

pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(clear: &mut Clear<S>) -> Result<(), Problem> {
    let request = read(clear).await?;
    let (number, operation) = message(&request).ok_or(Problem::Malformed)?;
    let name = element(operation, EXTENDED_REQUEST).and_then(|(content, _)| element(content, 0x80));
    if name.is_none_or(|(name, _)| name != START_TLS) {
        clear.say(&response(number, CONFIDENTIALITY_REQUIRED, b"start TLS first")).await?;
        return Err(Problem::NoTls);
    }
    if !clear.held.is_empty() {
        return Err(Problem::Injection);
    }
    clear.say(&response(number, SUCCESS, b"")).await
}

pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(clear: &mut Clear<S>) -> Result<(), Problem> {
    let operation = [[EXTENDED_REQUEST, START_TLS.len() as u8 + 2, 0x80, START_TLS.len() as u8].as_slice(), START_TLS].concat();
    let request = [[SEQUENCE, operation.len() as u8 + 3, INTEGER, 1, 1].as_slice(), operation.as_slice()].concat();
    clear.say(&request).await?;
    let answer = read(clear).await?;
    let (_, operation) = message(&answer).ok_or(Problem::Malformed)?;
    let (result, _) = element(operation, EXTENDED_RESPONSE).ok_or(Problem::Malformed)?;
    match element(result, 0x0a) {
        Some(([SUCCESS], _)) => Ok(()),
        _ => Err(Problem::NoTls),
    }
}
