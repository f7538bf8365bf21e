//! For the tests of gates: a checkpoint with a policy from text, an in-memory recorder and an in-process scanner.

use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::{Event, Recorder, Repeat};
use policy::document::Document;

use crate::{Checkpoint, Scanner, Scanning, Settings};

/// Keeps every event in memory, and how many of them followed another.
#[derive(Default)]
pub struct Memory(Mutex<Vec<Event>>, AtomicUsize);

/// Scans on the caller's thread with the built-in engines, and knows a file again.
pub struct InProcess {
    engines: scan::Engines,
    reports: Mutex<Vec<scan::Report>>,
}

/// Never answers.
pub struct Stuck;

impl Scanner for Stuck {
    fn scan<'a>(&'a self, _file: File, _name: &'a str, _deadline: Duration) -> Scanning<'a> {
        Box::pin(std::future::pending())
    }
}

pub struct Harness {
    pub checkpoint: Checkpoint,
    memory: Arc<Memory>,
}

impl Recorder for Memory {
    fn record(&self, event: Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    fn record_repeats(&self, repeats: Vec<Repeat>) {
        self.1.fetch_add(repeats.len(), Ordering::Relaxed);
        repeats.iter().for_each(|repeat| self.record(repeat.event()));
    }
}

impl Scanner for InProcess {
    fn scan<'a>(&'a self, mut file: File, name: &'a str, _deadline: Duration) -> Scanning<'a> {
        Box::pin(async move {
            let mut bytes = Vec::new();
            match file.read_to_end(&mut bytes) {
                Ok(_) => {
                    let report = scan::scan_bytes(&self.engines, &scan::Limits::default(), name, &bytes);
                    self.reports.lock().unwrap_or_else(PoisonError::into_inner).push(report.clone());
                    report
                }
                Err(_) => scan::Report::unscannable(scan::Unscannable::Unavailable, 0),
            }
        })
    }

    fn known(&self, sha256: [u8; 32], _bytes: u64, _name: &str) -> Option<scan::Report> {
        let sha256: String = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        let reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.iter().find(|report| report.sha256 == sha256).cloned()
    }
}

impl Harness {
    /// Panics where the policy does not compile: the test is wrong then.
    pub fn new(policy_toml: &str) -> Harness {
        Harness::with_settings(policy_toml, Settings::default())
    }

    pub fn with_settings(policy_toml: &str, settings: Settings) -> Harness {
        Harness::with_knowledge(policy_toml, settings, intel::Snapshot::empty())
    }

    /// With the catalogue of applications and the pinned hosts that ship.
    #[expect(clippy::panic, reason = "what ships must be readable")]
    pub fn with_shipped_knowledge(policy_toml: &str, settings: Settings) -> Harness {
        let mut builder = intel::Snapshot::builder();
        builder.catalogue(intel::Catalogue::embedded().unwrap_or_else(|e| panic!("catalogue: {e}")));
        builder.pinned(intel::pinned::embedded().unwrap_or_else(|e| panic!("pinned hosts: {e}")));
        Harness::with_knowledge(policy_toml, settings, builder.build())
    }

    /// With names, and all below them, in a category each.
    pub fn with_names(policy_toml: &str, names: &[(&str, i64)]) -> Harness {
        let mut builder = intel::Snapshot::builder();
        for (name, category) in names {
            let parsed = intel::list::parse(intel::list::Format::Plain, name.as_bytes(), intel::list::LIMITS);
            let lists = intel::NamedList::from_parsed(name, None, Some(intel::CategoryKind::of(*category)), parsed);
            for list in lists {
                builder.add_list(list);
            }
        }
        Harness::with_knowledge(policy_toml, Settings::default(), builder.build())
    }

    #[expect(clippy::panic, reason = "a test's own policy must compile")]
    pub fn with_knowledge(policy_toml: &str, settings: Settings, knowledge: intel::Snapshot) -> Harness {
        let document = Document::from_toml(policy_toml).unwrap_or_else(|e| panic!("policy of the test: {e}"));
        let (policy, _) = policy::Policy::compile(&document).unwrap_or_else(|e| panic!("policy of the test: {e:?}"));
        let memory = Arc::new(Memory::default());
        let scanner = Arc::new(InProcess { engines: scan::Engines::built_in(), reports: Mutex::default() });
        let checkpoint = Checkpoint::new(policy, knowledge, settings, memory.clone(), Some(scanner), 1);
        Harness { checkpoint, memory }
    }

    /// With a scanner of the test's own.
    #[expect(clippy::panic, reason = "a test's own policy must compile")]
    pub fn with_scanner(policy_toml: &str, settings: Settings, scanner: Arc<dyn Scanner>) -> Harness {
        let document = Document::from_toml(policy_toml).unwrap_or_else(|e| panic!("policy of the test: {e}"));
        let (policy, _) = policy::Policy::compile(&document).unwrap_or_else(|e| panic!("policy of the test: {e:?}"));
        let memory = Arc::new(Memory::default());
        let knowledge = intel::Snapshot::empty();
        let checkpoint = Checkpoint::new(policy, knowledge, settings, memory.clone(), Some(scanner), 1);
        Harness { checkpoint, memory }
    }

    /// Publishes a policy from text.
    #[expect(clippy::panic, reason = "a test's own policy must compile")]
    pub fn publish(&self, policy_toml: &str) {
        let document = Document::from_toml(policy_toml).unwrap_or_else(|e| panic!("policy of the test: {e}"));
        let (policy, _) = policy::Policy::compile(&document).unwrap_or_else(|e| panic!("policy of the test: {e:?}"));
        self.checkpoint.publish_policy(policy);
    }

    /// How many of the events so far followed another.
    pub fn followed(&self) -> usize {
        self.memory.1.load(Ordering::Relaxed)
    }

    /// Every event recorded so far.
    pub fn events(&self) -> Vec<Event> {
        self.memory.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
