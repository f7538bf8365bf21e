//! A Delta log beside the files of events, so that engines which read Delta tables see them as one table with atomic
//! snapshots. No data is copied: each commit names files that were added and removed since the one before. Delta
//! transaction log protocol, reader version 1 and writer version 2, without statistics beyond row counts and without
//! checkpoints; the manifest stays what decides, and this log follows it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use arrow::datatypes::DataType;
use model::Timestamp;
use serde_json::{Value as Json, json};
use xxhash_rust::xxh3::xxh3_128;

use crate::manifest::{FileKind, Manifest, SealedFile};
use crate::{Error, Result, disk, schema};

/// The folder of the log, within the folder of the table.
pub(crate) const DIRECTORY: &str = "_delta_log";

/// The folder of the table, which the paths of its files begin with.
const TABLE: &str = "events/";

/// What the log says so far.
#[derive(Default)]
struct Log {
    /// The next version.
    next: u64,
    /// Path within the table of each live file.
    files: BTreeSet<String>,
    schema: String,
}

/// Appends one commit that makes the log say what the manifest says; none where it does already.
pub(crate) fn follow(root: &Path, manifest: &Manifest, now: Timestamp) -> Result<()> {
    let directory = root.join(TABLE).join(DIRECTORY);
    disk::create_directory(&directory)?;
    let log = read(&directory)?;
    let live = manifest.files.iter().filter(|file| file.kind == FileKind::Events);
    let live = live.filter_map(|file| Some((file.path.strip_prefix(TABLE)?, file))).collect::<BTreeMap<_, _>>();
    let schema = schema_text();
    let millis = now.0 / 1_000;
    let mut lines = Vec::new();
    if log.next == 0 {
        lines.push(json!({ "protocol": { "minReaderVersion": 1, "minWriterVersion": 2 } }));
    }
    if log.schema != schema {
        lines.push(metadata(root, schema, millis));
    }
    let removed = log.files.iter().filter(|path| !live.contains_key(path.as_str()));
    lines.extend(removed.map(|path| json!({ "remove": { "path": path, "deletionTimestamp": millis, "dataChange": true } })));
    let added = live.iter().filter(|(path, _)| !log.files.contains(**path));
    lines.extend(added.map(|(path, file)| add(path, file, millis)));
    if lines.is_empty() {
        return Ok(());
    }
    lines.push(json!({ "commitInfo": { "timestamp": millis, "operation": "WRITE", "engineInfo": "sekisho" } }));
    let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let path = version_path(&directory, log.next);
    // One process writes a store, so the name is free; the rename makes the commit whole or absent.
    disk::write_whole(&path, text.as_bytes())?;
    disk::sync_directory(&directory)
}

fn version_path(directory: &Path, version: u64) -> PathBuf {
    directory.join(format!("{version:020}.json"))
}

fn read(directory: &Path) -> Result<Log> {
    let mut log = Log::default();
    loop {
        let path = version_path(directory, log.next);
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(log),
            text => text.map_err(Error::io("read", &path))?,
        };
        for line in text.lines() {
            let action: Json = serde_json::from_str(line).map_err(|source| Error::Manifest { path: path.clone(), source })?;
            if let Some(path) = action["add"]["path"].as_str() {
                log.files.insert(path.to_owned());
            } else if let Some(path) = action["remove"]["path"].as_str() {
                log.files.remove(path);
            } else if let Some(schema) = action["metaData"]["schemaString"].as_str() {
                log.schema = schema.to_owned();
            }
        }
        log.next += 1;
    }
}

fn add(path: &str, file: &SealedFile, millis: i64) -> Json {
    json!({ "add": {
        "path": path,
        "partitionValues": { "class": file.class_uid.to_string(), "dt": file.day.to_string() },
        "size": file.bytes,
        "modificationTime": millis,
        "dataChange": true,
        "stats": json!({ "numRecords": file.rows }).to_string(),
    } })
}

fn metadata(root: &Path, schema: String, millis: i64) -> Json {
    json!({ "metaData": {
        "id": identifier(root),
        "name": "events",
        "format": { "provider": "parquet", "options": {} },
        "schemaString": schema,
        "partitionColumns": ["class", "dt"],
        "configuration": {},
        "createdTime": millis,
    } })
}

/// A table's identifier has the form of a UUID; this one follows from its place, so that it stays the same.
fn identifier(root: &Path) -> String {
    let hex = format!("{:032x}", xxh3_128(root.as_os_str().as_encoded_bytes()));
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default().to_owned();
    // Version 8 of RFC 9562 is the one for identifiers made in a way of one's own.
    format!("{}-{}-8{}-a{}-{}", part(0, 8), part(8, 12), part(13, 16), part(17, 20), part(20, 32))
}

/// The schema in Delta's form: the columns of the files and the two of the folders.
fn schema_text() -> String {
    let field = |name: &str, ty: Json, nullable: bool| json!({ "name": name, "type": ty, "nullable": nullable, "metadata": {} });
    let schema = schema::arrow_schema();
    let columns = schema.fields().iter().map(|column| field(column.name(), type_of(column.data_type()), column.is_nullable()));
    let folders = [field("class", json!("integer"), true), field("dt", json!("date"), true)];
    json!({ "type": "struct", "fields": columns.chain(folders).collect::<Vec<_>>() }).to_string()
}

fn type_of(ty: &DataType) -> Json {
    match ty {
        DataType::Boolean => json!("boolean"),
        DataType::Int32 => json!("integer"),
        DataType::Int64 => json!("long"),
        DataType::Timestamp(..) => json!("timestamp"),
        DataType::List(inner) => json!({ "type": "array", "elementType": type_of(inner.data_type()), "containsNull": true }),
        _ => json!("string"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::day::Day;

    fn file(name: &str) -> Arc<SealedFile> {
        let path = format!("events/class=4003/dt=2026-01-01/{name}.parquet");
        let (kind, class_uid, day) = (FileKind::Events, 4003, Day(20_454));
        let (rows, bytes, first_id, last_id, min_time, max_time) = (3, 10, 1, 3, 0, 0);
        Arc::new(SealedFile { path, kind, class_uid, day, rows, bytes, first_id, last_id, min_time, max_time })
    }

    fn lines(root: &Path, version: u64) -> Vec<Json> {
        let text = std::fs::read_to_string(version_path(&root.join("events/_delta_log"), version)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn the_log_follows_the_manifest_and_says_nothing_twice() {
        let root = tempfile::tempdir().unwrap();
        let manifest = |files: &[&str]| Manifest { files: files.iter().map(|name| file(name)).collect(), ..Manifest::default() };
        follow(root.path(), &manifest(&["a", "b"]), Timestamp(5_000)).unwrap();
        follow(root.path(), &manifest(&["a", "b"]), Timestamp(6_000)).unwrap();
        follow(root.path(), &manifest(&["b", "c"]), Timestamp(7_000)).unwrap();
        assert!(!version_path(&root.path().join("events/_delta_log"), 2).exists());
        let first = lines(root.path(), 0);
        assert_eq!(first.iter().filter(|line| line.get("add").is_some()).count(), 2);
        assert_eq!(first[0]["protocol"]["minReaderVersion"], 1);
        let second = lines(root.path(), 1);
        assert_eq!(second[0]["remove"]["path"], "class=4003/dt=2026-01-01/a.parquet");
        assert_eq!(second[1]["add"]["path"], "class=4003/dt=2026-01-01/c.parquet");
        assert_eq!(second[1]["add"]["partitionValues"], json!({ "class": "4003", "dt": "2026-01-01" }));
        assert_eq!(second.len(), 3);
    }
}
