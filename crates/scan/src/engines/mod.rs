//! What makes a file malicious: the engines, loaded once from definitions and immutable from then on. An engine sees the
//! bytes of one member and answers with the name of a signature; it knows nothing about containers.

mod eicar;
mod hashes;
mod ndb;
mod pe;
mod yara;

use crate::Error;
use crate::report::Unscannable;
use sha2::Digest;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One definition file. ClamAV's largest database is below this; anything larger is a mistake.
const DEFINITION_BYTES_MAX: u64 = 512 << 20;

/// Where definitions come from: files named `.hdb`, `.hsb`, `.sha256`, `.ndb`, `.yar` or `.yara`, in directories or by path.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Definitions {
    pub paths: Vec<PathBuf>,
}

impl Definitions {
    /// Changes whenever a definition file is added, removed or written: names, sizes and times, not content.
    pub(crate) fn stamp(&self) -> Vec<(PathBuf, u64, Option<std::time::SystemTime>)> {
        let files = definition_files(&self.paths).unwrap_or_default();
        let stamped = files.into_iter().map(|file| {
            let metadata = std::fs::metadata(&file).ok();
            let modified = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
            (file, metadata.map_or(0, |metadata| metadata.len()), modified)
        });
        stamped.collect()
    }
}

/// A signature that matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) engine: &'static str,
    pub(crate) signature: String,
}

/// The loaded engines.
pub struct Engines {
    hashes: hashes::Hashes,
    patterns: ndb::Patterns,
    rules: Box<dyn yara::Rules>,
    version: String,
}

impl Engines {
    /// Only what is built in: the EICAR test file.
    pub fn built_in() -> Self {
        Self {
            hashes: hashes::Hashes::default(),
            patterns: ndb::Patterns::default(),
            rules: Box::new(yara::NoRules),
            version: "built-in".to_owned(),
        }
    }

    /// Loads every definition file. One that cannot be read or parsed fails the whole load, so that a truncated download
    /// never replaces good definitions silently.
    pub fn load(definitions: &Definitions) -> Result<Self, Error> {
        let mut loader = Loader::default();
        for file in definition_files(&definitions.paths)? {
            loader.add(&file)?;
        }
        loader.finish()
    }

    /// Names the exact set of definitions: equal versions give equal verdicts.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Signatures loaded, without the built-in one.
    pub fn signature_count(&self) -> usize {
        self.hashes.count() + self.patterns.count() + self.rules.count()
    }

    /// Everything but the rules, which cost a fixed time however few the bytes are.
    pub(crate) fn matches_cheaply(&self, bytes: &[u8]) -> Result<Option<Hit>, Unscannable> {
        let hit = |engine, signature: &str| Hit { engine, signature: signature.to_owned() };
        if eicar::is_eicar(bytes) {
            return Ok(Some(hit("eicar", "EICAR-Test-File")));
        }
        if let Some(signature) = self.hashes.lookup(bytes) {
            return Ok(Some(hit("hash", signature)));
        }
        Ok(self.patterns.find(bytes)?.map(|signature| hit("ndb", signature)))
    }

    pub(crate) fn matches(&self, bytes: &[u8], time_left: Duration) -> Result<Option<Hit>, Unscannable> {
        if let Some(hit) = self.matches_cheaply(bytes)? {
            return Ok(Some(hit));
        }
        let rule = self.rules.find(bytes, time_left)?;
        Ok(rule.map(|signature| Hit { engine: "yara", signature }))
    }
}

#[derive(Default)]
struct Loader {
    hashes: hashes::HashesBuilder,
    patterns: ndb::PatternsBuilder,
    sources: yara::Sources,
    digest: sha2::Sha256,
    files: usize,
}

impl Loader {
    fn add(&mut self, path: &Path) -> Result<(), Error> {
        let shown = path.display().to_string();
        let bytes = read_definition(path)?;
        self.digest.update(sha2::Sha256::digest(&bytes));
        self.files += 1;
        let text = String::from_utf8_lossy(&bytes);
        match extension(path) {
            "hdb" | "hsb" => self.hashes.add_clamav(&shown, &text),
            "sha256" => self.hashes.add_plain(&shown, &text),
            "ndb" => self.patterns.add(&shown, &text),
            _ => self.sources.add(&shown, &text),
        }
    }

    fn finish(self) -> Result<Engines, Error> {
        let digest = crate::walk::hex(&self.digest.finalize());
        let version = match self.files {
            0 => "built-in".to_owned(),
            _ => digest.chars().take(16).collect(),
        };
        Ok(Engines { hashes: self.hashes.finish(), patterns: self.patterns.finish()?, rules: self.sources.compile()?, version })
    }
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

fn is_definition(path: &Path) -> bool {
    matches!(extension(path), "hdb" | "hsb" | "sha256" | "ndb" | "yar" | "yara")
}

fn read_definition(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Definitions { path: path.display().to_string(), source };
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > DEFINITION_BYTES_MAX {
        return Err(failed(std::io::Error::other("larger than any definition file should be")));
    }
    std::fs::read(path).map_err(failed)
}

/// The definition files of all paths, directories opened one level, sorted so that the version does not depend on the disk.
fn definition_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    for path in paths {
        let failed = |source| Error::Definitions { path: path.display().to_string(), source };
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?.path();
            if is_definition(&entry) {
                files.push(entry);
            }
        }
    }
    files.sort();
    files.dedup();
    Ok(files)
}

/// Loads this text as each kind of definition that is read here, and matches it with what came of it.
pub(crate) fn fuzz_definitions(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut loader = Loader::default();
    let loaded = [
        loader.hashes.add_clamav("f.hdb", &text).is_ok(),
        loader.hashes.add_plain("f.sha256", &text).is_ok(),
        loader.patterns.add("f.ndb", &text).is_ok(),
    ];
    let Ok(engines) = loader.finish() else { return };
    assert!(loaded.contains(&true) || engines.signature_count() < text.lines().count().max(1) * 3);
    let _ = engines.matches(bytes, Duration::from_secs(1));
}
