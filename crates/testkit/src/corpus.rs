//! Replays what fuzzing has kept. `fuzz/corpus/<target>` holds small inputs that reach different code, and
//! `fuzz/regressions/<target>` inputs that once went wrong, each named after what did. Neither needs a fuzzer to be read.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

/// Runs a target over every stored input, whole and cut in half. The name of an input that fails is
/// printed before the failure goes on. Panics where a target has no corpus, since a renamed folder would test nothing.
pub fn replay(target: &str, run: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let inputs = inputs(&folder.join("corpus").join(target));
    assert!(!inputs.is_empty(), "fuzz/corpus/{target} is empty");
    for path in inputs.into_iter().chain(self::inputs(&folder.join("regressions").join(target))) {
        let read = fs::read(&path);
        assert!(read.is_ok(), "{} cannot be read: {read:?}", path.display());
        let bytes = read.unwrap_or_default();
        for part in [&bytes[..], &bytes[..bytes.len() / 2], &[]] {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(part))) {
                eprintln!("{} of {} bytes failed at {} bytes", path.display(), bytes.len(), part.len());
                resume_unwind(panic);
            }
        }
    }
}

/// The files of a folder in the order of their names; none where there is no folder.
fn inputs(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}
