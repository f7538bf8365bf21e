//! What can go wrong in this crate: only files that the operator or the project wrote can be refused whole. Lists of
//! strangers never are; their bad lines are skipped and reported.

/// One variant for each thing that was being done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading the application catalogue")]
    Catalogue(#[source] toml::de::Error),
    #[error("application {application}: {problem}")]
    Application { application: String, problem: &'static str },
    #[error("reading the geography file")]
    Geography(#[source] maxminddb::MaxMindDbError),
    #[error("reading the list of pinned applications")]
    Pinned(#[source] toml::de::Error),
}
