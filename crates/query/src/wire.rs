//! Frames between the host and a worker: four bytes of length, little-endian, then JSON. One job goes in, one outcome
//! comes out. A length beyond the bound is refused before anything is allocated for it.

use std::io::{Read, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::limits::{ANSWER_BYTES_MAX, TEXT_BYTES_MAX};
use crate::{Error, Limits, Query};

/// JSON of a text can be six times as long as the text, `\u0000`.
pub(crate) const JOB_BYTES_MAX: usize = 6 * TEXT_BYTES_MAX + (64 << 10);

/// Column names and the frame around rows whose sizes were counted.
pub(crate) const OUTCOME_BYTES_MAX: usize = ANSWER_BYTES_MAX + (4 << 20);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    /// The lake's folder, absolute.
    pub lake: PathBuf,
    pub query: Query,
    pub limits: Limits,
}

pub(crate) fn write<T: Serialize>(to: &mut impl Write, value: &T, bytes_max: usize) -> Result<(), Error> {
    let body = serde_json::to_vec(value).map_err(Error::Decode)?;
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= bytes_max).ok_or_else(too_large)?;
    to.write_all(&length.to_le_bytes()).and_then(|()| to.write_all(&body)).map_err(Error::Frame)
}

pub(crate) fn read<T: DeserializeOwned>(from: &mut impl Read, bytes_max: usize) -> Result<T, Error> {
    let mut length = [0_u8; 4];
    from.read_exact(&mut length).map_err(Error::Frame)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > bytes_max {
        return Err(too_large());
    }
    // Grows with what arrives, so that a length alone costs nothing.
    let mut body = Vec::new();
    from.take(length as u64).read_to_end(&mut body).map_err(Error::Frame)?;
    serde_json::from_slice(&body).map_err(Error::Decode)
}

fn too_large() -> Error {
    Error::Frame(std::io::Error::other("frame too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_and_a_larger_one_is_refused() {
        let mut bytes = Vec::new();
        write(&mut bytes, &"text", 6).unwrap();
        assert_eq!(read::<String>(&mut bytes.as_slice(), 6).unwrap(), "text");
        assert!(read::<String>(&mut bytes.as_slice(), 5).is_err());
        assert!(write(&mut Vec::new(), &"text", 5).is_err());
    }

    #[test]
    fn a_torn_frame_is_an_error() {
        let mut bytes = Vec::new();
        write(&mut bytes, &"text", 6).unwrap();
        for length in 0..bytes.len() {
            assert!(read::<String>(&mut &bytes[..length], 6).is_err());
        }
    }
}
