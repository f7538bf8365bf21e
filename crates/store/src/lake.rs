//! Sealed Parquet files: their paths, how they are written, and their opened footers and indexes. Settings are the
//! measured ones of the evaluation (section 1, "File layout and settings").

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::{KeyValue, PageIndexPolicy};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion};
use parquet::schema::types::ColumnPath;

use crate::day::Day;
use crate::manifest::{FileKind, Manifest, SealedFile};
use crate::positioned::PositionedFile;
use crate::sighting_index::{self, SightingIndex};
use crate::{Error, Result, disk, schema, sighting_columns, sighting_index_build};

/// Larger groups made an engine that does not read page indexes 20 to 60 times slower.
pub(crate) const ROW_GROUP_ROWS: usize = 131_072;

const EVENT_PAGE_ROWS: usize = 8_192;
const SIGHTING_PAGE_ROWS: usize = 4_096;

/// Columns whose values hardly repeat.
const UNIQUE_COLUMNS: &[&str] = &["file_sha256", "reference", "ext_json"];

/// One wrong row group in a hundred look-ups.
const BLOOM_FALSE_SHARE: f64 = 0.01;

/// Opened footers, and as many indexes. A day has a few files after merging, so this is most of a year.
const FOOTERS_MAX: usize = 2_048;

/// The sealed files of one directory, with what has been read of them.
pub(crate) struct Lake {
    pub root: PathBuf,
    footers: Mutex<HashMap<String, ArrowReaderMetadata>>,
    indexes: Mutex<HashMap<String, Arc<SightingIndex>>>,
    /// Files whose index was found to be damaged and is not asked again.
    condemned: Mutex<HashSet<String>>,
    /// Files that cannot have one.
    unindexable: Mutex<HashSet<String>>,
}

impl Lake {
    pub fn new(root: PathBuf) -> Lake {
        Lake {
            root,
            footers: Mutex::default(),
            indexes: Mutex::default(),
            condemned: Mutex::default(),
            unindexable: Mutex::default(),
        }
    }

    /// A file and its footer with page indexes.
    pub fn open(&self, file: &SealedFile) -> Result<(File, ArrowReaderMetadata)> {
        let path = self.root.join(&file.path);
        let opened = File::open(&path).map_err(Error::io("open", &path))?;
        if let Some(footer) = locked(&self.footers).get(&file.path) {
            return Ok((opened, footer.clone()));
        }
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let footer = ArrowReaderMetadata::load(&opened, options).map_err(Error::parquet("read the footer of", &path))?;
        let mut footers = locked(&self.footers);
        if footers.len() < FOOTERS_MAX {
            footers.insert(file.path.clone(), footer.clone());
        }
        Ok((opened, footer))
    }

    /// The open index of a file of sightings and its top; none where it is missing or damaged.
    pub fn index(&self, file: &SealedFile) -> Option<(PositionedFile, Arc<SightingIndex>)> {
        if locked(&self.condemned).contains(&file.path) {
            return None;
        }
        let opened = PositionedFile::open(&sighting_index::path_beside(&self.root.join(&file.path))?).ok()?;
        if let Some(known) = locked(&self.indexes).get(&file.path) {
            return Some((opened, Arc::clone(known)));
        }
        let Some(read) = SightingIndex::read(&opened, file.bytes).map(Arc::new) else {
            self.condemn_index(file);
            return None;
        };
        let mut indexes = locked(&self.indexes);
        if indexes.len() < FOOTERS_MAX {
            indexes.insert(file.path.clone(), Arc::clone(&read));
        }
        Some((opened, read))
    }

    /// No longer asks an index that was found to be damaged.
    pub fn condemn_index(&self, file: &SealedFile) {
        tracing::warn!(file = file.path, "the index of a file of sightings is damaged; look-ups read the file without it");
        locked(&self.condemned).insert(file.path.clone());
        locked(&self.indexes).remove(&file.path);
    }

    /// Makes the index of each file of sightings that has none or a damaged one, and returns how many it made.
    pub fn mend_indexes(&self, manifest: &Manifest, is_stopping: &dyn Fn() -> bool) -> Result<u64> {
        let mut made = 0;
        for file in manifest.files.iter().filter(|file| file.kind.holds_sightings()) {
            if locked(&self.unindexable).contains(&file.path) || self.index(file).is_some() {
                continue;
            }
            if is_stopping() {
                break;
            }
            match sighting_index_build::build(&self.root, file) {
                Ok(true) => made += 1,
                Ok(false) => drop(locked(&self.unindexable).insert(file.path.clone())),
                // Retention removed it meanwhile.
                Err(error) if error.is_missing_file() => {}
                Err(error) => return Err(error),
            }
            locked(&self.condemned).remove(&file.path);
        }
        Ok(made)
    }

    /// Lets go of files that exist no more.
    pub fn forget_all_but(&self, manifest: &Manifest) {
        let kept: HashSet<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
        locked(&self.footers).retain(|path, _| kept.contains(path.as_str()));
        locked(&self.indexes).retain(|path, _| kept.contains(path.as_str()));
        locked(&self.condemned).retain(|path| kept.contains(path.as_str()));
        locked(&self.unindexable).retain(|path| kept.contains(path.as_str()));
    }

    /// Bytes of indexes in memory.
    pub fn index_bytes(&self) -> usize {
        locked(&self.indexes).values().map(|index| index.memory_bytes()).sum()
    }

    /// Removes files and their indexes. They may be gone already.
    pub fn remove(&self, path: &str) -> Result<()> {
        let path = self.root.join(path);
        if let Some(index) = sighting_index::path_beside(&path) {
            disk::remove_file(&index)?;
        }
        disk::remove_file(&path)?;
        // The last file of a day leaves an empty directory behind; one that is not empty stays.
        if let Some(directory) = path.parent() {
            let _ = std::fs::remove_dir(directory);
        }
        Ok(())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // These maps are caches; whatever is in them is true.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rows of the pages of a row group that can hold what is looked for, by the smallest and largest text of each page; none
/// where the file has no page index of texts.
pub(crate) fn page_rows(
    footer: &ArrowReaderMetadata,
    group: usize,
    column: usize,
    may_hold: impl Fn(&[u8], &[u8]) -> bool,
) -> Option<Vec<Range<usize>>> {
    let rows = usize::try_from(footer.metadata().row_group(group).num_rows()).ok()?;
    let bounds = footer.metadata().column_index()?.get(group)?.get(column)?;
    let ColumnIndexMetaData::BYTE_ARRAY(bounds) = bounds else { return None };
    let locations = footer.metadata().offset_index()?.get(group)?.get(column)?.page_locations();
    let starts = locations.iter().map(|page| usize::try_from(page.first_row_index).unwrap_or_default());
    let starts = starts.chain([rows]).collect::<Vec<_>>();
    let is_wanted = |page: usize| match (bounds.min_value(page), bounds.max_value(page)) {
        (Some(min), Some(max)) => may_hold(min, max),
        // A page of nulls.
        _ => false,
    };
    let pages = starts.windows(2).enumerate().filter(|(page, _)| is_wanted(*page));
    Some(pages.map(|(_, border)| border[0]..border[1]).collect())
}

/// A sealed file while it is written: under a draft name until its bytes are durable.
pub(crate) struct FileWriter {
    writer: ArrowWriter<File>,
    root: PathBuf,
    path: String,
    sealed: SealedFile,
}

impl FileWriter {
    pub fn events(root: &Path, class_uid: i64, day: Day, ids: (i64, i64), name: &str) -> Result<FileWriter> {
        let path = format!("events/class={class_uid}/dt={day}/{name}.parquet");
        let kind = FileKind::Events;
        FileWriter::create(root, path, kind, class_uid, day, ids, schema::arrow_schema(), event_properties())
    }

    pub fn sightings(root: &Path, day: Day, ids: (i64, i64), name: &str) -> Result<FileWriter> {
        let path = format!("sightings/dt={day}/{name}.parquet");
        let kind = FileKind::Sightings;
        FileWriter::create(root, path, kind, 0, day, ids, sighting_columns::arrow_schema(), sighting_properties())
    }

    pub fn monthly_sightings(root: &Path, month: Day, ids: (i64, i64), name: &str) -> Result<FileWriter> {
        let path = format!("sightings_m/month={}/{name}.parquet", month.month_text());
        let kind = FileKind::MonthlySightings;
        FileWriter::create(root, path, kind, 0, month, ids, sighting_columns::arrow_schema(), sighting_properties())
    }

    #[expect(clippy::too_many_arguments, reason = "a private constructor of two public ones that name them all")]
    fn create(
        root: &Path,
        path: String,
        kind: FileKind,
        class_uid: i64,
        day: Day,
        (first_id, last_id): (i64, i64),
        schema: SchemaRef,
        properties: WriterProperties,
    ) -> Result<FileWriter> {
        let draft = draft_of(&root.join(&path));
        if let Some(directory) = draft.parent() {
            disk::create_directory(directory)?;
        }
        let file = disk::create_file(&draft).map_err(Error::io("create", &draft))?;
        let writer = ArrowWriter::try_new(file, schema, Some(properties)).map_err(Error::parquet("begin", &draft))?;
        let (min_time, max_time) = (i64::MAX, i64::MIN);
        let sealed =
            SealedFile { path: path.clone(), kind, class_uid, day, rows: 0, bytes: 0, first_id, last_id, min_time, max_time };
        Ok(FileWriter { writer, root: root.to_path_buf(), path, sealed })
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.sealed.rows += batch.num_rows() as u64;
        self.writer.write(batch).map_err(Error::parquet("write", &self.root.join(&self.path)))
    }

    pub fn span(&mut self, min_time: i64, max_time: i64) {
        self.sealed.min_time = self.sealed.min_time.min(min_time);
        self.sealed.max_time = self.sealed.max_time.max(max_time);
    }

    /// Ends the file and makes its bytes and its name durable.
    pub fn finish(mut self) -> Result<SealedFile> {
        let path = self.root.join(&self.path);
        let draft = draft_of(&path);
        self.writer.finish().map_err(Error::parquet("end", &draft))?;
        self.writer.inner().sync_all().map_err(Error::io("sync", &draft))?;
        std::fs::rename(&draft, &path).map_err(Error::io("name", &path))?;
        let within = path.ancestors().skip(1).take_while(|directory| directory.starts_with(&self.root));
        within.into_iter().try_for_each(disk::sync_directory)?;
        self.sealed.bytes = std::fs::metadata(&path).map_err(Error::io("measure", &path))?.len();
        Ok(self.sealed)
    }
}

fn draft_of(path: &Path) -> PathBuf {
    path.with_extension("parquet.tmp")
}

fn column(name: &str) -> ColumnPath {
    ColumnPath::from(name)
}

fn properties(page_rows: usize) -> WriterPropertiesBuilder {
    let named = |key: &str, value: String| KeyValue { key: key.to_owned(), value: Some(value) };
    WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_data_page_row_count_limit(page_rows)
        .set_write_batch_size(page_rows.min(1_024))
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_created_by("sekisho".to_owned())
        .set_key_value_metadata(Some(vec![
            named("sekisho.schema", format!("events.v{}", schema::SCHEMA_VERSION)),
            named("sekisho.ocsf_version", schema::OCSF_VERSION.to_owned()),
        ]))
}

fn event_properties() -> WriterProperties {
    let mut builder = properties(EVENT_PAGE_ROWS)
        .set_column_dictionary_enabled(column(schema::TIME), false)
        .set_column_encoding(column(schema::TIME), Encoding::DELTA_BINARY_PACKED)
        .set_column_dictionary_enabled(column(schema::EVENT_ID), false)
        .set_column_encoding(column(schema::EVENT_ID), Encoding::DELTA_BINARY_PACKED)
        // Neighbours in the order of hosts share most of a URL, and a dictionary of values that hardly repeat is read whole
        // for each row that is looked up.
        .set_column_dictionary_enabled(column("url"), false)
        .set_column_encoding(column("url"), Encoding::DELTA_BYTE_ARRAY);
    for name in UNIQUE_COLUMNS {
        builder = builder.set_column_dictionary_enabled(column(name), false);
    }
    for name in schema::BLOOM_COLUMNS {
        builder = builder
            .set_column_bloom_filter_enabled(column(name), true)
            .set_column_bloom_filter_fpp(column(name), BLOOM_FALSE_SHARE)
            .set_column_bloom_filter_max_ndv(column(name), bloom_values_max(name));
    }
    builder.build()
}

/// Distinct values that a bloom filter is laid out for; the writer folds it down to what was there.
fn bloom_values_max(name: &str) -> u64 {
    if name == "file_sha256" { 16_384 } else { ROW_GROUP_ROWS as u64 }
}

fn sighting_properties() -> WriterProperties {
    properties(SIGHTING_PAGE_ROWS)
        .set_column_dictionary_enabled(column("value"), false)
        .set_column_encoding(column("value"), Encoding::DELTA_BYTE_ARRAY)
        // Times hardly repeat: a dictionary of them is read whole for each row that is looked up, and makes files larger.
        .set_column_dictionary_enabled(column("first_seen"), false)
        .set_column_encoding(column("first_seen"), Encoding::DELTA_BINARY_PACKED)
        .set_column_dictionary_enabled(column("last_seen"), false)
        .set_column_encoding(column("last_seen"), Encoding::DELTA_BINARY_PACKED)
        .build()
}
