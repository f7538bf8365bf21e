//! The values of facts and their types. Shapes follow the wirefilter engine (WF-01) narrowed to what a fact can be.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Text of a fact. Up to 23 bytes, which is most hosts, codes and words, lie in the value itself; longer text is shared.
pub use smol_str::SmolStr as Text;

/// The type of a field. `Text` is what wirefilter calls Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Type {
    Bool,
    Int,
    Ip,
    Text,
    /// Microseconds since 1970, compared with RFC 3339 text or integers.
    Time,
    Ints,
    Ips,
    Texts,
    /// A map of name to list of text (SAML attributes, OIDC claims, ID-03 and ID-04).
    TextMap,
}

/// One name of a map and the texts under it.
pub type NamedTexts = (Arc<str>, Arc<[Arc<str>]>);

/// One fact's value. Cloning is cheap: text and arrays are small or shared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    Bool(bool),
    Int(i64),
    Ip(IpAddr),
    Text(Text),
    Ints(Arc<[i64]>),
    Ips(Arc<[IpAddr]>),
    Texts(Arc<[Arc<str>]>),
    /// A host name that stands for the array of itself and each parent (DN-02). Nothing is allocated for the parents.
    #[serde(skip_deserializing)]
    Parents(Text),
    TextMap(Arc<[NamedTexts]>),
}

impl Type {
    /// Whether the value is a list, so that a rule must index it or quantify over it.
    pub const fn is_array(self) -> bool {
        matches!(self, Type::Ints | Type::Ips | Type::Texts)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Type::Bool => "Bool",
            Type::Int => "Int",
            Type::Ip => "Ip",
            Type::Text => "Bytes",
            Type::Time => "Time",
            Type::Ints => "Array(Int)",
            Type::Ips => "Array(Ip)",
            Type::Texts => "Array(Bytes)",
            Type::TextMap => "Map(Array(Bytes))",
        }
    }
}

impl Value {
    pub fn text(text: impl AsRef<str>) -> Value {
        Value::Text(Text::new(text))
    }

    /// A word of ours, which is never copied.
    pub const fn word(word: &'static str) -> Value {
        Value::Text(Text::new_static(word))
    }

    pub fn texts<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> Value {
        Value::Texts(texts.into_iter().map(|t| Arc::from(t.as_ref())).collect())
    }

    pub fn ints(ints: impl IntoIterator<Item = i64>) -> Value {
        Value::Ints(ints.into_iter().collect())
    }

    pub fn ips(ips: impl IntoIterator<Item = IpAddr>) -> Value {
        Value::Ips(ips.into_iter().collect())
    }

    /// Whether this value may stand in a field of the given type.
    pub fn fits(&self, ty: Type) -> bool {
        matches!(
            (self, ty),
            (Value::Bool(_), Type::Bool)
                | (Value::Int(_), Type::Int | Type::Time)
                | (Value::Ip(_), Type::Ip)
                | (Value::Text(_), Type::Text)
                | (Value::Ints(_), Type::Ints)
                | (Value::Ips(_), Type::Ips)
                | (Value::Texts(_) | Value::Parents(_), Type::Texts)
                | (Value::TextMap(_), Type::TextMap)
        )
    }

    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) | Value::Parents(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(int) => Some(*int),
            _ => None,
        }
    }

    pub fn as_ip(&self) -> Option<IpAddr> {
        match self {
            Value::Ip(ip) => Some(*ip),
            _ => None,
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        fn list<T: std::fmt::Display>(f: &mut std::fmt::Formatter<'_>, items: &[T]) -> std::fmt::Result {
            for (i, item) in items.iter().enumerate() {
                write!(f, "{}{item}", if i == 0 { "" } else { "," })?;
            }
            Ok(())
        }
        match self {
            Value::Bool(v) => write!(f, "{v}"),
            Value::Int(v) => write!(f, "{v}"),
            Value::Ip(v) => write!(f, "{v}"),
            Value::Text(v) | Value::Parents(v) => f.write_str(v),
            Value::Ints(v) => list(f, v),
            Value::Ips(v) => list(f, v),
            Value::Texts(v) => list(f, v),
            Value::TextMap(v) => {
                list(f, &v.iter().map(|(name, values)| format!("{name}={}", values.join("|"))).collect::<Vec<_>>())
            }
        }
    }
}
