//! The manifest: which sealed files exist. Each version is a file that is written, synced and then linked under its
//! number; a name is taken once, so of two writers one loses, reads again and retries. Nothing else decides what exists.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::Timestamp;
use serde::{Deserialize, Serialize};

use crate::day::Day;
use crate::{Error, Result, disk, schema, sighting_index};

/// Older versions that are always kept.
const VERSIONS_KEPT: u64 = 16;

/// An older version is kept this long. Its number must not become free while a slow writer may still try to take it.
const VERSION_SECONDS_MIN: u64 = 600;

/// A writer that loses more often than this against one other writer is not racing but broken.
const RACES_MAX: u32 = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FileKind {
    Events,
    /// Sightings of a day.
    Sightings,
    /// Sightings of a month, named after its first day.
    MonthlySightings,
}

impl FileKind {
    pub fn holds_sightings(self) -> bool {
        matches!(self, FileKind::Sightings | FileKind::MonthlySightings)
    }
}

/// One sealed file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SealedFile {
    /// Relative to the store's directory.
    pub path: String,
    pub kind: FileKind,
    /// OCSF class of the events; 0 for sightings.
    pub class_uid: i64,
    pub day: Day,
    pub rows: u64,
    pub bytes: u64,
    pub first_id: i64,
    pub last_id: i64,
    pub min_time: i64,
    pub max_time: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub version: u64,
    pub schema: u32,
    /// Every event up to this id is in a sealed file or was retained away.
    pub sealed_through: i64,
    pub files: Vec<Arc<SealedFile>>,
    /// The last frame of the spool that is in a sealed file.
    #[serde(default)]
    pub spooled_through: u64,
    /// Inputs of merges, no longer part of the store, and when they ceased to be.
    pub doomed: Vec<(String, Timestamp)>,
}

fn directory(root: &Path) -> PathBuf {
    root.join("_manifest")
}

fn path_of(root: &Path, version: u64) -> PathBuf {
    directory(root).join(format!("{version:020}.json"))
}

fn versions(root: &Path) -> Result<Vec<u64>> {
    let directory = directory(root);
    let entries = std::fs::read_dir(&directory).map_err(Error::io("list", &directory))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("list", &directory))?.path();
        let is_json = path.extension().is_some_and(|extension| extension == "json");
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
        found.extend(number.filter(|_| is_json));
    }
    found.sort_unstable();
    Ok(found)
}

/// One version as it stands in its file.
pub(crate) fn parse(text: &[u8]) -> serde_json::Result<Manifest> {
    serde_json::from_slice(text)
}

/// The newest version, or an empty one where there is none.
pub(crate) fn load(root: &Path) -> Result<Manifest> {
    let Some(newest) = versions(root)?.pop() else {
        return Ok(Manifest { schema: schema::SCHEMA_VERSION, ..Manifest::default() });
    };
    let path = path_of(root, newest);
    let text = std::fs::read(&path).map_err(Error::io("read manifest", &path))?;
    let manifest = parse(&text).map_err(|source| Error::Manifest { path: path.clone(), source })?;
    if manifest.schema > schema::SCHEMA_VERSION {
        return Err(Error::NewerSchema { path, found: manifest.schema, known: schema::SCHEMA_VERSION });
    }
    Ok(manifest)
}

/// Commits a change to the newest version. The change is applied again to a newer one where another writer was faster.
pub(crate) fn commit(root: &Path, change: impl Fn(&mut Manifest)) -> Result<Manifest> {
    for _ in 0..RACES_MAX {
        let mut next = load(root)?;
        next.version += 1;
        change(&mut next);
        if publish(root, &next)? {
            prune(root, next.version);
            return Ok(next);
        }
    }
    Err(Error::ManifestRace(RACES_MAX))
}

/// Writes a version under its number. False where the number is taken.
fn publish(root: &Path, manifest: &Manifest) -> Result<bool> {
    static DRAFTS: AtomicU64 = AtomicU64::new(0);
    let directory = directory(root);
    let draft = directory.join(format!("{}-{}.tmp", std::process::id(), DRAFTS.fetch_add(1, Ordering::Relaxed)));
    let target = path_of(root, manifest.version);
    let written = write_draft(&draft, manifest).and_then(|()| match std::fs::hard_link(&draft, &target) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        linked => linked.map(|()| true).map_err(Error::io("publish manifest", &target)),
    });
    disk::remove_file(&draft)?;
    let published = written?;
    if published {
        disk::sync_directory(&directory)?;
    }
    Ok(published)
}

fn write_draft(draft: &Path, manifest: &Manifest) -> Result<()> {
    use std::io::Write;
    let text = serde_json::to_vec(manifest).map_err(|source| Error::Manifest { path: draft.to_path_buf(), source })?;
    let write = || {
        let mut file = disk::create_file(draft)?;
        file.write_all(&text)?;
        file.sync_all()
    };
    write().map_err(Error::io("write manifest", draft))
}

/// Removes versions that no reader can still need. Failing to is harmless: they are tried again with the next commit.
fn prune(root: &Path, newest: u64) {
    for version in versions(root).unwrap_or_default() {
        let path = path_of(root, version);
        if version + VERSIONS_KEPT <= newest && disk::age_seconds(&path).is_some_and(|age| age >= VERSION_SECONDS_MIN) {
            let _ = disk::remove_file(&path);
        }
    }
}

/// Prepares the directory and removes drafts and sealed files of commits that did not happen.
pub(crate) fn recover(root: &Path) -> Result<Manifest> {
    disk::create_directory(&directory(root))?;
    remove_drafts(&directory(root))?;
    let manifest = load(root)?;
    let known: HashSet<PathBuf> = manifest
        .files
        .iter()
        .map(|file| root.join(&file.path))
        .chain(manifest.doomed.iter().map(|(path, _)| root.join(path)))
        .flat_map(|file| sighting_index::path_beside(&file).into_iter().chain([file]))
        .collect();
    for top in ["events", "sightings", "sightings_m", "idx"] {
        let top = root.join(top);
        disk::create_directory(&top)?;
        remove_orphans(&top, &known)?;
    }
    Ok(manifest)
}

fn remove_drafts(directory: &Path) -> Result<()> {
    let entries = std::fs::read_dir(directory).map_err(Error::io("list", directory))?;
    for entry in entries {
        let path = entry.map_err(Error::io("list", directory))?.path();
        if path.extension().is_some_and(|extension| extension == "tmp") {
            disk::remove_file(&path)?;
        }
    }
    Ok(())
}

fn remove_orphans(directory: &Path, known: &HashSet<PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(directory).map_err(Error::io("list", directory))?;
    for entry in entries {
        let path = entry.map_err(Error::io("list", directory))?.path();
        // The log for Delta readers stands among the events and is no sealed file.
        if path.file_name().is_some_and(|name| name == crate::delta::DIRECTORY) {
            continue;
        }
        if path.is_dir() {
            remove_orphans(&path, known)?;
        } else if !known.contains(&path) {
            disk::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: String) -> Arc<SealedFile> {
        let (path, day) = (name, Day(0));
        Arc::new(SealedFile {
            path,
            kind: FileKind::Events,
            class_uid: 4003,
            day,
            rows: 1,
            bytes: 1,
            first_id: 1,
            last_id: 1,
            min_time: 0,
            max_time: 0,
        })
    }

    #[test]
    fn of_racing_writers_none_loses_a_commit() {
        let root = tempfile::tempdir().unwrap();
        recover(root.path()).unwrap();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let root = root.path();
                scope.spawn(move || {
                    for commit_number in 0..25 {
                        let added = file(format!("{writer}-{commit_number}"));
                        commit(root, |manifest| manifest.files.push(Arc::clone(&added))).unwrap();
                    }
                });
            }
        });
        let manifest = load(root.path()).unwrap();
        let names: HashSet<_> = manifest.files.iter().map(|file| file.path.clone()).collect();
        assert_eq!((manifest.version, manifest.files.len(), names.len()), (100, 100, 100));
    }

    #[test]
    fn a_draft_and_an_unlisted_file_are_removed() {
        let root = tempfile::tempdir().unwrap();
        recover(root.path()).unwrap();
        let orphan = root.path().join("events/class=4003/dt=1970-01-01/1-2.parquet");
        std::fs::create_dir_all(orphan.parent().unwrap()).unwrap();
        let draft = root.path().join("_manifest/1-1.tmp");
        for path in [&orphan, &draft] {
            std::fs::write(path, b"half").unwrap();
        }
        recover(root.path()).unwrap();
        assert!(!orphan.exists() && !draft.exists());
    }

    #[test]
    fn a_manifest_of_a_newer_schema_is_refused() {
        let root = tempfile::tempdir().unwrap();
        recover(root.path()).unwrap();
        commit(root.path(), |manifest| manifest.schema = schema::SCHEMA_VERSION + 1).unwrap();
        assert!(matches!(load(root.path()), Err(Error::NewerSchema { .. })));
    }
}
