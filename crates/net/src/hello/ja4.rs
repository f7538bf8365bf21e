//! The JA4 fingerprint of a TLS client over TCP, as published by FoxIO ("JA4: TLS Client Fingerprinting", BSD 3-clause
//! part of the suite). Written from its technical description; sorted, so that clients which shuffle extensions keep one
//! fingerprint.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::{EXTENSION_ALPN, EXTENSION_SERVER_NAME, Parts, is_grease};

/// The counts have two digits.
const COUNT_MAX: usize = 99;
const DIGEST_CHARACTERS: usize = 12;

pub(super) fn fingerprint(parts: &Parts) -> String {
    let ciphers: Vec<u16> = parts.ciphers.iter().copied().filter(|value| !is_grease(*value)).collect();
    let extensions: Vec<u16> = parts.extensions.iter().copied().filter(|value| !is_grease(*value)).collect();
    let named = if extensions.contains(&EXTENSION_SERVER_NAME) { 'd' } else { 'i' };
    format!(
        "t{}{named}{:02}{:02}{}_{}_{}",
        version_code(parts.version()),
        ciphers.len().min(COUNT_MAX),
        extensions.len().min(COUNT_MAX),
        alpn_code(parts.alpn.first().map(Vec::as_slice)),
        digest(&join(sorted(ciphers))),
        digest(&extension_text(extensions, &parts.signature_algorithms)),
    )
}

fn version_code(version: u16) -> &'static str {
    match version {
        0x0304 => "13",
        0x0303 => "12",
        0x0302 => "11",
        0x0301 => "10",
        0x0300 => "s3",
        0x0002 => "s2",
        _ => "00",
    }
}

/// First and last character of the first protocol; in hexadecimal where either is not alphanumeric.
fn alpn_code(protocol: Option<&[u8]>) -> String {
    let Some((first, last)) = protocol.and_then(|bytes| Some((*bytes.first()?, *bytes.last()?))) else {
        return "00".to_owned();
    };
    if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        return [char::from(first), char::from(last)].iter().collect();
    }
    let (first, last) = (format!("{first:02x}"), format!("{last:02x}"));
    first.chars().take(1).chain(last.chars().skip(1)).collect()
}

fn extension_text(extensions: Vec<u16>, signature_algorithms: &[u16]) -> String {
    let is_counted = |kind: &u16| *kind != EXTENSION_SERVER_NAME && *kind != EXTENSION_ALPN;
    let mut text = join(sorted(extensions.into_iter().filter(is_counted).collect()));
    if !signature_algorithms.is_empty() && !text.is_empty() {
        text.push('_');
        text.push_str(&join(signature_algorithms.to_vec()));
    }
    text
}

fn sorted(mut values: Vec<u16>) -> Vec<u16> {
    values.sort_unstable();
    values
}

fn join(values: Vec<u16>) -> String {
    let mut text = String::new();
    for (position, value) in values.iter().enumerate() {
        let comma = if position == 0 { "" } else { "," };
        // Writing to a string does not fail.
        let _ = write!(text, "{comma}{value:04x}");
    }
    text
}

fn digest(text: &str) -> String {
    if text.is_empty() {
        return "0".repeat(DIGEST_CHARACTERS);
    }
    let hexadecimal: String = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
    hexadecimal.chars().take(DIGEST_CHARACTERS).collect()
}
