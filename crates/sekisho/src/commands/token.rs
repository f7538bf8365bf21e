//! `token`, `tokens` and `password`: what proves a user. Secrets are shown once and kept nowhere; documents hold their
//! digests.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::{ask, moment_ahead, shown};
use crate::operations::{Request, time_text};

/// Letters and digits, the alphabet of tokens.
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// NIST SP 800-63B section 3.1.1.2: eight where it is one of several factors, fifteen where it is alone.
const PASSWORD_CHARACTERS_MIN: usize = 15;

#[derive(Args)]
pub struct PasswordArguments {
    /// The user's e-mail, which is the proxy user name.
    email: String,
}

#[derive(Args)]
pub struct TokenArguments {
    /// E-mail address of the user.
    email: String,
    /// How long it proves the user, `12h`, `90d`, or until when, `2026-12-31`; for ever where this is left out.
    #[arg(long)]
    expires: Option<String>,
    /// What it is for, such as the device that keeps it.
    #[arg(long, default_value = "")]
    name: String,
}

#[derive(Args)]
pub struct TokensArguments {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub fn token(arguments: &TokenArguments) -> Result<ExitCode> {
    let expires = arguments.expires.as_deref().map(moment_ahead).transpose()?;
    let token = checkpoint::token_of(&random_secret()?);
    println!("{token}");
    eprintln!("Shown once. Put this into a policy document and apply it:\n");
    eprintln!("[[user]]\nemail = {:?}\ntokens = [{}]", arguments.email, entry(&token, &arguments.name, expires));
    eprintln!("\nThe client uses it as its proxy password, curl --proxy-user '{}:TOKEN',", arguments.email);
    eprintln!("or in the path of DNS over HTTPS, https://HOST/dns-query/TOKEN");
    Ok(ExitCode::SUCCESS)
}

/// A token as a document holds it.
fn entry(token: &str, name: &str, expires: Option<model::Timestamp>) -> String {
    let digest = checkpoint::secret_digest(token);
    if name.is_empty() && expires.is_none() {
        return format!("{digest:?}");
    }
    let name = if name.is_empty() { String::new() } else { format!(", name = {name:?}") };
    let expires = expires.map(|at| format!(", expires = {:?}", time_text(at))).unwrap_or_default();
    format!("{{ sha256 = {digest:?}{name}{expires} }}")
}

/// Every token that the policy knows, and whether it proves its user.
pub fn tokens(data: &std::path::Path, arguments: &TokensArguments) -> Result<ExitCode> {
    let answer = ask(data, Request::Tokens)?;
    if arguments.json {
        println!("{answer}");
        return Ok(ExitCode::SUCCESS);
    }
    for row in answer["tokens"].as_array().into_iter().flatten() {
        let text = |name: &str| shown(row[name].as_str().unwrap_or_default());
        let expires = row["expires"].as_str().map_or_else(|| "never".to_owned(), shown);
        let digest: String = text("sha256").chars().take(DIGEST_CHARACTERS_SHOWN).collect();
        println!("{}\t{}\t{digest}\t{}\t{expires}", text("user"), text("state"), text("name"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Enough to tell the tokens of an installation apart.
const DIGEST_CHARACTERS_SHOWN: usize = 12;

/// Reads a password and prints its hash for a policy document. It is read from standard input, so that it stands neither in
/// the shell's history nor in the list of processes.
pub fn password(arguments: &PasswordArguments) -> Result<ExitCode> {
    eprintln!("Password of {} (one line, not hidden):", arguments.email);
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let password = line.trim_end_matches(['\r', '\n']);
    ensure!(password.chars().count() >= PASSWORD_CHARACTERS_MIN, "a password has at least {PASSWORD_CHARACTERS_MIN} characters");
    ensure!(!arguments.email.contains(':'), "a user's name has no colon (RFC 7617 section 2)");
    let mut salt = [0_u8; 16];
    getrandom::fill(&mut salt).map_err(|e| anyhow::anyhow!("the system gives no randomness: {e}"))?;
    let hash = checkpoint::password_hash(password, &salt).context("this password cannot be hashed")?;
    println!("[[user]]\nemail = {:?}\npassword = {hash:?}", arguments.email);
    Ok(ExitCode::SUCCESS)
}

/// Letters and digits drawn evenly: bytes of 248 and above would favour the first eight, so they are drawn again.
pub fn random_secret() -> Result<String> {
    let mut secret = String::with_capacity(checkpoint::TOKEN_SECRET_CHARS);
    while secret.len() < checkpoint::TOKEN_SECRET_CHARS {
        let mut byte = [0_u8];
        getrandom::fill(&mut byte).map_err(|e| anyhow::anyhow!("the system gives no randomness: {e}"))?;
        if byte[0] < 248 {
            secret.push(char::from(ALPHABET[usize::from(byte[0]) % ALPHABET.len()]));
        }
    }
    Ok(secret)
}
