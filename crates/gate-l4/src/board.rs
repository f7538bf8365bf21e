//! What is going on: every live flow and every app with its origins, for `sekisho apps`, and the way to cut a flow. One board
//! outlives the gates of a reload, so that the flows of an earlier gate are still counted and seen.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use model::TransactionId;
use serde::Serialize;
use tokio::sync::{Notify, watch};

use crate::origins::Origins;

/// Parts of the table, so that flows that begin at once rarely wait for each other.
const PARTS: usize = 16;
/// Flows that one look returns; more are counted.
pub(crate) const SHOWN_MAX: usize = 10_000;

/// One flow, shared between its task and whoever looks.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) id: TransactionId,
    pub(crate) app: Arc<str>,
    pub(crate) client: SocketAddr,
    began: Instant,
    origin: Mutex<Option<SocketAddr>>,
    pub(crate) out: AtomicU64,
    pub(crate) into: AtomicU64,
    is_cut: AtomicBool,
    cut: Notify,
}

/// Cheap to clone; clones share everything.
#[derive(Clone, Default)]
pub struct Board(Arc<Inner>);

struct Inner {
    parts: [Mutex<HashMap<u64, Arc<Flow>>>; PARTS],
    count: AtomicUsize,
    apps: Mutex<Vec<(Arc<str>, Arc<Origins>)>>,
    closing: watch::Sender<bool>,
    ended: Notify,
}

impl Default for Inner {
    fn default() -> Inner {
        Inner {
            parts: Default::default(),
            count: AtomicUsize::new(0),
            apps: Mutex::default(),
            closing: watch::Sender::new(false),
            ended: Notify::new(),
        }
    }
}

/// A flow that is on the board until this is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    flow: Arc<Flow>,
    board: Board,
}

/// One app as `sekisho apps` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct AppView {
    pub app: String,
    pub flows: usize,
    pub origins: Vec<OriginView>,
}

#[derive(Clone, Debug, Serialize)]
pub struct OriginView {
    pub address: String,
    pub weight: u32,
    pub flows: u32,
    pub healthy: bool,
}

/// One flow as `sekisho apps` shows it. `id` is the reference under which its event will be found.
#[derive(Clone, Debug, Serialize)]
pub struct FlowView {
    pub id: String,
    pub app: String,
    pub client: String,
    pub origin: Option<String>,
    pub seconds: u64,
    pub bytes_out: u64,
    pub bytes_in: u64,
    /// Over the whole life of the flow.
    pub bytes_per_second: u64,
}

impl std::fmt::Debug for Board {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Board").field("flows", &self.len()).finish_non_exhaustive()
    }
}

impl Flow {
    pub(crate) fn goes_to(&self, origin: SocketAddr) {
        *self.origin.lock().unwrap_or_else(PoisonError::into_inner) = Some(origin);
    }

    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.out.load(Ordering::Relaxed), self.into.load(Ordering::Relaxed))
    }

    pub(crate) fn seconds(&self) -> u64 {
        self.began.elapsed().as_secs()
    }

    /// Ends when somebody cuts the flow.
    pub(crate) async fn cut(&self) {
        while !self.is_cut.load(Ordering::Acquire) {
            self.cut.notified().await;
        }
    }

    fn view(&self) -> FlowView {
        let (out, into) = self.bytes();
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        FlowView {
            id: format!("{:016x}", self.id.0),
            app: self.app.to_string(),
            client: self.client.to_string(),
            origin: self.origin.lock().unwrap_or_else(PoisonError::into_inner).map(|origin| origin.to_string()),
            seconds: millis / 1000,
            bytes_out: out,
            bytes_in: into,
            bytes_per_second: out.saturating_add(into).saturating_mul(1000) / millis,
        }
    }
}

impl std::ops::Deref for Seat {
    type Target = Arc<Flow>;

    fn deref(&self) -> &Arc<Flow> {
        &self.flow
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.board.part(self.flow.id.0).lock().unwrap_or_else(PoisonError::into_inner).remove(&self.flow.id.0);
        self.board.0.count.fetch_sub(1, Ordering::AcqRel);
        self.board.0.ended.notify_waiters();
    }
}

impl Board {
    fn part(&self, id: u64) -> &Mutex<HashMap<u64, Arc<Flow>>> {
        &self.0.parts[(id % PARTS as u64) as usize]
    }

    /// Flows that are open.
    pub fn len(&self) -> usize {
        self.0.count.load(Ordering::Acquire)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn sit(&self, id: TransactionId, app: Arc<str>, client: SocketAddr) -> Seat {
        let flow = Arc::new(Flow {
            id,
            app,
            client,
            began: Instant::now(),
            origin: Mutex::new(None),
            out: AtomicU64::new(0),
            into: AtomicU64::new(0),
            is_cut: AtomicBool::new(false),
            cut: Notify::new(),
        });
        self.0.count.fetch_add(1, Ordering::AcqRel);
        self.part(id.0).lock().unwrap_or_else(PoisonError::into_inner).insert(id.0, flow.clone());
        Seat { flow, board: self.clone() }
    }

    /// The apps of the gate that serves from here on.
    pub(crate) fn publish(&self, apps: Vec<(Arc<str>, Arc<Origins>)>) {
        *self.0.apps.lock().unwrap_or_else(PoisonError::into_inner) = apps;
    }

    /// Cuts one flow by its reference. False where there is none.
    pub fn cut(&self, id: u64) -> bool {
        let found = self.part(id).lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        let Some(flow) = found else { return false };
        flow.is_cut.store(true, Ordering::Release);
        flow.cut.notify_one();
        true
    }

    fn flows_now(&self) -> Vec<Arc<Flow>> {
        let of = |part: &Mutex<HashMap<u64, Arc<Flow>>>| -> Vec<_> {
            part.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
        };
        self.0.parts.iter().flat_map(of).collect()
    }

    /// Live flows, the oldest first, of one app or of all.
    pub fn flows(&self, app: Option<&str>) -> Vec<FlowView> {
        let mut flows = self.flows_now();
        flows.retain(|flow| app.is_none_or(|app| *flow.app == *app));
        flows.sort_by_key(|flow| flow.began);
        flows.iter().take(SHOWN_MAX).map(|flow| flow.view()).collect()
    }

    /// Every app with its origins.
    pub fn apps(&self) -> Vec<AppView> {
        let apps = self.0.apps.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let flows = self.flows_now();
        let now = Instant::now();
        let view = |(name, origins): &(Arc<str>, Arc<Origins>)| AppView {
            app: name.to_string(),
            flows: flows.iter().filter(|flow| flow.app == *name).count(),
            origins: origins
                .known()
                .iter()
                .map(|origin| OriginView {
                    address: origin.socket(0).to_string(),
                    weight: origin.weight,
                    flows: origin.flows(),
                    healthy: origin.is_healthy(now),
                })
                .collect(),
        };
        apps.iter().map(view).collect()
    }

    /// The program ends: flows have the drain time left.
    pub fn close(&self) {
        self.0.closing.send_replace(true);
    }

    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.0.closing.subscribe()
    }

    /// Ends when no flow is left.
    pub(crate) async fn emptied(&self) {
        loop {
            let ended = self.0.ended.notified();
            if self.is_empty() {
                return;
            }
            ended.await;
        }
    }

    pub(crate) fn cut_all(&self) {
        for flow in self.flows_now() {
            self.cut(flow.id.0);
        }
    }
}
