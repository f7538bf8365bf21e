//! Strangers' credentials for this crate's parsers. `fuzz/` calls these functions, and so does the replay of its corpus;
//! nothing in the product does.

use model::Timestamp;
use policy::document::{Document, Token, User};

use crate::identity::{Credential, Directory, TOKEN_PREFIX, TOKEN_SECRET_CHARS, checked_token, secret_digest, token_of};

/// A token is taken whole or not at all, and only the token whose digest a document holds names its user.
pub fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let held = token_of(&"a".repeat(TOKEN_SECRET_CHARS));
    let user = User { email: "ann@example.com".into(), tokens: vec![Token::of_digest(secret_digest(&held))], ..User::default() };
    let directory = Directory::from_document(&Document { users: vec![user], ..Document::default() });
    if let Some(token) = checked_token(text) {
        assert_eq!(token_of(&token[TOKEN_PREFIX.len()..][..TOKEN_SECRET_CHARS]), text, "a token that is not its secret's");
    }
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    for (shown, is_held) in [
        (Credential::Token(text), text == held),
        (Credential::Basic { user, password }, user == held || password == held),
        (Credential::Certificate { fingerprint: text }, false),
        (Credential::DohToken(text), text == held),
    ] {
        assert_eq!(directory.identify(&shown, Timestamp(0)).is_ok(), is_held, "{text:?}");
    }
}
