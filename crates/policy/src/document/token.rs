//! A user's token as a document holds it: the digest alone, or a table of the digest, a name and a last moment (ON-03).

use model::Timestamp;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The token itself is nowhere kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of the token, hexadecimal.
    pub sha256: String,
    /// What it is for, for people.
    pub name: String,
    /// RFC 3339 with offset; from that moment on the token proves nobody.
    pub expires: Option<String>,
}

impl Token {
    /// One that does not expire.
    pub fn of_digest(sha256: impl Into<String>) -> Token {
        Token { sha256: sha256.into(), ..Token::default() }
    }

    /// When it ends. The form is checked when a policy is compiled; one that cannot be read has ended.
    pub fn ends(&self) -> Option<Timestamp> {
        self.expires.as_deref().map(|text| crate::schedule::parse_moment(text).unwrap_or(Timestamp(i64::MIN)))
    }
}

impl Serialize for Token {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.name.is_empty() && self.expires.is_none() {
            return serializer.serialize_str(&self.sha256);
        }
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("sha256", &self.sha256)?;
        if !self.name.is_empty() {
            map.serialize_entry("name", &self.name)?;
        }
        if let Some(expires) = &self.expires {
            map.serialize_entry("expires", expires)?;
        }
        map.end()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    sha256: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    expires: Option<String>,
}

struct TokenVisitor;

impl<'de> Visitor<'de> for TokenVisitor {
    type Value = Token;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the SHA-256 of a token, or { sha256 = \"...\", name = \"...\", expires = \"...\" }")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Token, E> {
        Ok(Token::of_digest(text))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Token, A::Error> {
        let written = Written::deserialize(MapAccessDeserializer::new(map)).map_err(A::Error::custom)?;
        Ok(Token { sha256: written.sha256, name: written.name, expires: written.expires })
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Token, D::Error> {
        deserializer.deserialize_any(TokenVisitor)
    }
}
