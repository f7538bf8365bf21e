//! What can go wrong in the store. Each variant says what was being done, and to which file.

use std::path::{Path, PathBuf};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {doing} {}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error("the store in {} is open in another process", .0.display())]
    Locked(PathBuf),
    #[error("cannot {doing}")]
    Arrow { doing: &'static str, source: arrow::error::ArrowError },
    #[error("cannot {doing} {}", path.display())]
    Parquet { doing: &'static str, path: PathBuf, source: parquet::errors::ParquetError },
    #[error("cannot read the manifest {}", path.display())]
    Manifest { path: PathBuf, source: serde_json::Error },
    #[error("the manifest {} has schema {found}, newer than {known}", path.display())]
    NewerSchema { path: PathBuf, found: u32, known: u32 },
    #[error("gave up after {0} writers were faster to commit the manifest")]
    ManifestRace(u32),
    #[error("redaction names the column {0:?}, which the event schema does not have")]
    UnknownColumn(String),
    #[error("{setting} must be {bound}")]
    Setting { setting: &'static str, bound: &'static str },
    #[error("a stored batch lacks the column {0} or has it in another type")]
    Column(&'static str),
    #[error("the event writer has ended")]
    Closed,
    #[error("events could not be written: {0}")]
    NotDurable(String),
}

impl Error {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::Io { doing, path, source }
    }

    pub(crate) fn arrow(doing: &'static str) -> impl FnOnce(arrow::error::ArrowError) -> Error {
        move |source| Error::Arrow { doing, source }
    }

    pub(crate) fn parquet(doing: &'static str, path: &Path) -> impl FnOnce(parquet::errors::ParquetError) -> Error {
        let path = path.to_path_buf();
        move |source| Error::Parquet { doing, path, source }
    }

    /// Whether a file was gone: a reader that held an older manifest may look again with the newest.
    pub(crate) fn is_missing_file(&self) -> bool {
        matches!(self, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }
}
