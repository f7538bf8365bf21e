//! Passwords of users, as the proxy asks for them (Basic, and SOCKS5). A document holds an Argon2id hash (RFC 9106) in PHC
//! form and nothing from which the password follows. Hashing takes tens of milliseconds and mebibytes on purpose, so it is
//! done on threads of its own, few at a time, and what was found is remembered for some minutes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use argon2::{Argon2, PasswordHash, PasswordVerifier};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

/// Hashes at once: more would let a stranger's guesses take the machine's memory and cores.
const HASHES_MAX: usize = 2;
/// Guesses that wait for their turn; the next is refused unread.
const WAITING_MAX: usize = 64;
/// Outcomes that are remembered. Past this the oldest half goes.
const REMEMBERED_MAX: usize = 4096;
/// A changed password holds after this time at the latest even where a policy with the same hash is published.
const REMEMBERED_FOR: Duration = Duration::from_secs(600);
/// Memory that a hash of a document may ask for, KiB. RFC 9106 section 4 recommends 64 MiB or 2 GiB; the latter would be one
/// request's price.
const MEMORY_KIB_MAX: u32 = 256 << 10;
/// Passes over that memory. RFC 9106 section 4 recommends 1 or 3.
const PASSES_MAX: u32 = 16;

/// Checks passwords and remembers the outcomes.
pub(crate) struct Passwords {
    remembered: Mutex<HashMap<[u8; 32], (bool, Instant)>>,
    hashing: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Default for Passwords {
    fn default() -> Passwords {
        Passwords {
            remembered: Mutex::default(),
            hashing: Arc::new(Semaphore::new(HASHES_MAX)),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
        }
    }
}

impl Passwords {
    /// Whether this is the password of this hash, asked for this user.
    pub(crate) async fn check(&self, user: &str, hash: &Arc<str>, password: &str) -> bool {
        let key = key(user, hash, password);
        if let Some(known) = self.recall(&key) {
            return known;
        }
        let Ok(_place) = self.waiting.clone().try_acquire_owned() else { return false };
        let Ok(_turn) = self.hashing.clone().acquire_owned().await else { return false };
        let (hash, password) = (hash.clone(), password.to_owned());
        let checked = tokio::task::spawn_blocking(move || is_password(&hash, &password)).await.unwrap_or(false);
        self.remember(key, checked);
        checked
    }

    /// The same on the caller's thread.
    pub(crate) fn check_blocking(&self, user: &str, hash: &str, password: &str) -> bool {
        let key = key(user, hash, password);
        if let Some(known) = self.recall(&key) {
            return known;
        }
        let Ok(_turn) = self.hashing.try_acquire() else { return false };
        let checked = is_password(hash, password);
        self.remember(key, checked);
        checked
    }

    fn recall(&self, key: &[u8; 32]) -> Option<bool> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.get(key).filter(|(_, at)| at.elapsed() < REMEMBERED_FOR).map(|(outcome, _)| *outcome)
    }

    fn remember(&self, key: [u8; 32], outcome: bool) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_MAX {
            let mut ages: Vec<Instant> = remembered.values().map(|(_, at)| *at).collect();
            ages.sort_unstable();
            let middle = ages.get(ages.len() / 2).copied();
            remembered.retain(|_, (_, at)| middle.is_some_and(|middle| *at > middle));
        }
        remembered.insert(key, (outcome, Instant::now()));
    }
}

/// By the hash, so that a changed one forgets the old password, and by the user, so that a name without an account is no
/// sooner refused when its password was tried for another.
fn key(user: &str, hash: &str, password: &str) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in [user, hash] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part.as_bytes());
    }
    digest.update(password.as_bytes());
    digest.finalize().into()
}

fn is_password(hash: &str, password: &str) -> bool {
    match usable(hash) {
        Some(parsed) => Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok(),
        None => false,
    }
}

/// A hash in the form, and within the bounds, that is checked.
fn usable(hash: &str) -> Option<PasswordHash<'_>> {
    let parsed = PasswordHash::new(hash).ok()?;
    let within = |name: &str, most: u32| parsed.params.get_decimal(name).is_some_and(|value| value <= most);
    let is_bounded = within("m", MEMORY_KIB_MAX) && within("t", PASSES_MAX) && within("p", 4);
    (parsed.algorithm.as_str() == "argon2id" && is_bounded).then_some(parsed)
}

/// What a document holds in a password's place, with a salt that the caller has drawn at random (RFC 9106 section 3.1: 16
/// bytes). None where the password or the salt cannot be used.
pub fn password_hash(password: &str, salt: &[u8; 16]) -> Option<String> {
    use argon2::PasswordHasher;
    use argon2::password_hash::SaltString;
    let salt = SaltString::encode_b64(salt).ok()?;
    Argon2::default().hash_password(password.as_bytes(), &salt).ok().map(|hash| hash.to_string())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops where its own set-up fails")]

    use super::*;

    #[tokio::test]
    async fn a_password_is_hashed_once_and_remembered_by_its_hash() {
        let (first, second) = (password_hash("secret", &[1; 16]).unwrap(), password_hash("other", &[1; 16]).unwrap());
        assert!(first.starts_with("$argon2id$") && !first.contains("secret"));
        let passwords = Passwords::default();
        let (first, second): (Arc<str>, Arc<str>) = (first.into(), second.into());
        assert!(passwords.check("ann", &first, "secret").await && !passwords.check("ann", &first, "Secret").await);
        assert_eq!(passwords.recall(&key("ann", &first, "secret")), Some(true));
        assert_eq!(passwords.recall(&key("ann", &first, "Secret")), Some(false));
        assert!(!passwords.check("ann", &second, "secret").await, "what is remembered is the pair");
        assert!(passwords.check_blocking("ann", &second, "other"));
        for place in 0..2 * REMEMBERED_MAX {
            passwords.remember(key("ann", "x", &place.to_string()), false);
        }
        assert!(passwords.remembered.lock().unwrap().len() <= REMEMBERED_MAX);
    }

    #[test]
    fn a_hash_of_another_form_or_without_bounds_is_never_right() {
        let good = password_hash("secret", &[1; 16]).unwrap();
        assert!(is_password(&good, "secret"));
        let greedy = good.replace("m=19456", "m=4194304");
        assert_ne!(greedy, good);
        for bad in ["", "secret", "$argon2id$", &greedy, &good.replace("argon2id", "argon2i"), &good.replace("t=2", "t=2000000")]
        {
            assert!(!is_password(bad, "secret"), "{bad}");
        }
    }
}
