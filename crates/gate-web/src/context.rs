//! The token that stands in a URL in place of who asked for what (GW-156). It holds the number of the event and the time,
//! sealed with a key that never leaves the installation: another site can neither read it nor make one, and the operator
//! opens it to the event (`sekisho reference`). AES-256-GCM with a random nonce (NIST SP 800-38D section 8.2.2).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use model::TransactionId;

/// What every token begins with, so that a search of logs finds them; it is bound into the seal.
const PREFIX: &str = "skx_";
/// Number and time, eight bytes each.
const CONTENT_BYTES: usize = 16;
/// NIST SP 800-38D section 5.2.1.2.
const TAG_BYTES: usize = 16;
/// Length of a key.
pub const CONTEXT_KEY_BYTES: usize = 32;

/// The installation's key for these tokens. Deliberately without `Debug` and `Clone`.
pub struct ContextKey(RandomizedNonceKey);

/// What a token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventContext {
    /// Number of the event, as on block pages and in `event.reference`.
    pub reference: u64,
    pub at: SystemTime,
}

impl ContextKey {
    /// A key of these bytes, which the caller has drawn at random and keeps.
    pub fn new(secret: &[u8; CONTEXT_KEY_BYTES]) -> Option<ContextKey> {
        RandomizedNonceKey::new(&AES_256_GCM, secret).ok().map(ContextKey)
    }

    /// None where the library draws no nonce; the target is then told nothing.
    pub(crate) fn seal(&self, reference: TransactionId, at: SystemTime) -> Option<String> {
        let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut sealed = [reference.0.to_be_bytes(), seconds.to_be_bytes()].concat();
        let nonce = self.0.seal_in_place_append_tag(Aad::from(PREFIX.as_bytes()), &mut sealed).ok()?;
        Some(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode([nonce.as_ref().as_slice(), &sealed].concat())))
    }

    /// What a token of this installation says; none for any other text.
    pub fn open(&self, token: &str) -> Option<EventContext> {
        let mut bytes = URL_SAFE_NO_PAD.decode(token.strip_prefix(PREFIX)?).ok()?;
        if bytes.len() != NONCE_LEN + CONTENT_BYTES + TAG_BYTES {
            return None;
        }
        let (nonce, sealed) = bytes.split_at_mut(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let content = self.0.open_in_place(nonce, Aad::from(PREFIX.as_bytes()), sealed).ok()?;
        let (reference, seconds) = content.split_first_chunk::<8>()?;
        let (seconds, _) = seconds.split_first_chunk::<8>()?;
        let at = UNIX_EPOCH.checked_add(Duration::from_secs(u64::from_be_bytes(*seconds)))?;
        Some(EventContext { reference: u64::from_be_bytes(*reference), at })
    }
}

/// Whether a text has the form of such a token.
pub fn is_context_token(text: &str) -> bool {
    text.starts_with(PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_installation_that_made_a_token_opens_it() {
        let (ours, other) = (ContextKey::new(&[1; 32]).unwrap(), ContextKey::new(&[2; 32]).unwrap());
        let at = UNIX_EPOCH + Duration::from_secs(1_795_478_400);
        let token = ours.seal(TransactionId(0xfeed), at).unwrap();
        assert_eq!(ours.open(&token), Some(EventContext { reference: 0xfeed, at }));
        assert_eq!(other.open(&token), None);
        assert_ne!(ours.seal(TransactionId(0xfeed), at), Some(token.clone()), "two tokens of one event are not alike");
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'));
    }

    #[test]
    fn a_changed_token_is_none() {
        let key = ContextKey::new(&[1; 32]).unwrap();
        let token = key.seal(TransactionId(1), UNIX_EPOCH).unwrap();
        for place in 0..token.len() {
            let other = if token.as_bytes()[place] == b'A' { "B" } else { "A" };
            let changed = format!("{}{other}{}", &token[..place], &token[place + 1..]);
            assert_eq!(key.open(&changed).filter(|_| changed != token), None, "{place}");
        }
        for text in ["", "skx_", "0000000000000001", &token[..20], &format!("{token}AAAA"), "skx_é"] {
            assert_eq!(key.open(text), None, "{text}");
        }
    }
}
