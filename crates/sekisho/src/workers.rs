//! The scan workers of a running program: a pool that a reload can replace. Scans that have begun end in the pool that they
//! began in; the ones after go to the new one.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use checkpoint::{Scanner, Scanning};
use scan::host::{Pool, PoolConfig, WATCH_SECONDS};
use tokio::sync::Notify;

use crate::config::ScanSpec;

pub struct Workers {
    pool: ArcSwap<Pool>,
    replaced: Notify,
}

/// Starts the workers of these settings. Definitions that do not load fail here.
pub async fn start_pool(spec: &ScanSpec) -> Result<Pool> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let program = std::env::current_exe().context("where this program is")?;
    let pool = PoolConfig {
        workers: if spec.workers == 0 { cores } else { spec.workers },
        definitions: spec.definitions.clone(),
        limits: spec.limits,
        clamd: spec.clamd.clone(),
        ..PoolConfig::new(program)
    };
    Pool::start(pool).await.context("the scan workers")
}

impl Workers {
    pub fn new(pool: Pool) -> Workers {
        Workers { pool: ArcSwap::from_pointee(pool), replaced: Notify::new() }
    }

    /// Puts another pool in place.
    pub fn publish(&self, pool: Pool) {
        self.pool.store(Arc::new(pool));
        self.replaced.notify_one();
    }

    /// Has the pool in use look after its definitions, until the future is dropped.
    pub async fn watch(&self) {
        loop {
            let pool = self.pool.load_full();
            tokio::select! {
                () = pool.watch(WATCH_SECONDS) => {}
                () = self.replaced.notified() => {}
            }
        }
    }
}

impl Scanner for Workers {
    fn scan<'a>(&'a self, file: File, name: &'a str, deadline: Duration) -> Scanning<'a> {
        let pool = self.pool.load_full();
        Box::pin(async move { pool.scan(file, name, deadline).await })
    }

    fn known(&self, sha256: [u8; 32], bytes: u64, name: &str) -> Option<scan::Report> {
        self.pool.load().known(sha256, bytes, name)
    }
}
