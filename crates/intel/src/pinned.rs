//! Applications that accept only their maker's own certificates. Decrypting them breaks them, so they are left alone by
//! the gate unless the operator asks otherwise, and the record says so (CX-04). The one list of them is here; gates ask for it
//! through the checkpoint.

use serde::Deserialize;

use crate::Error;

const EMBEDDED: &str = include_str!("../data/pinned.toml");

/// Hosts of one application that pins its certificates.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pinned {
    pub application: String,
    pub reason: String,
    /// Each covers itself and every name below it.
    pub hosts: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PinnedSpec {
    #[expect(dead_code, reason = "stated for people; the parser only demands that it is there")]
    source: String,
    pinned: Vec<Pinned>,
}

/// The list that ships.
pub fn embedded() -> Result<Vec<Pinned>, Error> {
    let spec: PinnedSpec = toml::from_str(EMBEDDED).map_err(Error::Pinned)?;
    Ok(spec.pinned)
}
