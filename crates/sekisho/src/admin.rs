//! The admin listener, HTTP on loopback: `/healthz` (the process lives), `/readyz` (every listener is up), `/metrics`
//! (Prometheus text, numbers only, nothing of anybody's traffic), and the management API at `/v1/control`, which answers
//! only who shows the token that the first start wrote beside the data. What can be asked is in `operations::Request`.

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::commands::token::random_secret;
use crate::control;
use crate::operations::Operations;

/// Scrapers and managers at once.
const CONNECTIONS_MAX: usize = 32;
/// A client that does not send its request by then is hung up on.
const HEADER_SECONDS_MAX: u64 = 5;

pub struct Admin {
    listener: TcpListener,
    gate: Arc<TokenGate>,
}

/// Who may manage: whoever knows the token. Only its digest is kept in memory.
struct TokenGate {
    digest: String,
}

/// Where the token of an installation is.
pub fn token_path(data: &Path) -> PathBuf {
    data.join("admin-token")
}

impl TokenGate {
    /// Reads the token of this installation, or draws one at the first start.
    fn open(data: &Path) -> Result<TokenGate> {
        let path = token_path(data);
        if !path.exists() {
            write_token(&path)?;
        }
        let text = Zeroizing::new(std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?);
        let token = checkpoint::checked_token(text.trim());
        ensure!(token.is_some(), "{} holds no token; remove it, and the next start writes a new one", path.display());
        Ok(TokenGate { digest: checkpoint::secret_digest(text.trim()) })
    }

    /// By digest, so that the time taken tells nothing of the token.
    fn admits(&self, request: &Request<Incoming>) -> bool {
        let shown = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = shown.and_then(|value| value.strip_prefix("Bearer ")).and_then(checkpoint::checked_token);
        token.is_some_and(|token| checkpoint::secret_digest(token) == self.digest)
    }
}

fn write_token(path: &Path) -> Result<()> {
    let token = Zeroizing::new(checkpoint::token_of(&Zeroizing::new(random_secret()?)));
    let aside = path.with_extension("tmp");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    writeln!(file, "{}", token.as_str())?;
    file.sync_all()?;
    std::fs::rename(&aside, path).with_context(|| format!("cannot write {}", path.display()))
}

impl Admin {
    pub async fn bind(address: SocketAddr, data: &Path) -> Result<Admin> {
        let gate = Arc::new(TokenGate::open(data)?);
        let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} (admin)"))?;
        Ok(Admin { listener, gate })
    }

    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Serves until the future is dropped.
    pub async fn serve(self, operations: Arc<Operations>) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        while let Ok(slot) = slots.clone().acquire_owned().await {
            let Ok((stream, _)) = self.listener.accept().await else { continue };
            let (operations, gate) = (operations.clone(), self.gate.clone());
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let (operations, gate) = (operations.clone(), gate.clone());
                    async move { Ok::<_, std::convert::Infallible>(answer(operations, &gate, request).await) }
                });
                let served = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(std::time::Duration::from_secs(HEADER_SECONDS_MAX))
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                if let Err(error) = served {
                    tracing::debug!(%error, "admin connection ended");
                }
                drop(slot);
            });
        }
    }
}

async fn answer(operations: Arc<Operations>, gate: &TokenGate, request: Request<Incoming>) -> Response<Full<Bytes>> {
    match request.uri().path() {
        "/healthz" | "/readyz" => plain(StatusCode::OK, "ok\n".to_owned()),
        "/metrics" => plain(StatusCode::OK, metrics(&operations)),
        control::CONTROL_PATH if gate.admits(&request) => control::carry_out(operations, request).await,
        control::CONTROL_PATH => {
            let error = "show the token in the data folder's admin-token: Authorization: Bearer TOKEN";
            control::reply(StatusCode::UNAUTHORIZED, &json!({ "error": error }))
        }
        _ => plain(StatusCode::NOT_FOUND, "try /healthz, /readyz, /metrics, or POST /v1/control\n".to_owned()),
    }
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}

fn metrics(operations: &Operations) -> String {
    let mut text = String::new();
    let stats = serde_json::to_value(operations.store.stats()).unwrap_or_default();
    for (name, value) in stats.as_object().into_iter().flatten() {
        if let Some(number) = value.as_f64() {
            text.push_str(&format!("# TYPE sekisho_store_{name} gauge\nsekisho_store_{name} {number}\n"));
        }
    }
    // The reason is text, which a metric cannot hold; `sekisho status` tells it.
    let degraded = u8::from(stats["degraded"].is_string());
    text.push_str(&format!("# TYPE sekisho_store_degraded gauge\nsekisho_store_degraded {degraded}\n"));
    if let Ok(Some(revision)) = operations.policies.newest() {
        text.push_str(&format!("# TYPE sekisho_policy_revision gauge\nsekisho_policy_revision {}\n", revision.number));
    }
    text.push_str("# TYPE sekisho_checkpoint_transactions_total counter\n");
    for (gate, outcome, count) in checkpoint::counts() {
        let labels = format!("gate=\"{}\",outcome=\"{}\"", gate.as_str(), outcome.as_str());
        text.push_str(&format!("sekisho_checkpoint_transactions_total{{{labels}}} {count}\n"));
    }
    text.push_str(&operations.shield.metrics());
    for (name, count) in gate_dns::counters().chain(gate_l4::counters()) {
        text.push_str(&format!("# TYPE {name} counter\n{name} {count}\n"));
    }
    text.push_str(&format!("# TYPE sekisho_gate_l4_flows gauge\nsekisho_gate_l4_flows {}\n", operations.board.len()));
    let apps = operations.board.apps();
    if !apps.is_empty() {
        text.push_str("# TYPE sekisho_gate_l4_origin_healthy gauge\n");
    }
    for app in apps {
        for origin in app.origins {
            let labels = format!("app=\"{}\",origin=\"{}\"", label(&app.app), origin.address);
            text.push_str(&format!("sekisho_gate_l4_origin_healthy{{{labels}}} {}\n", u8::from(origin.healthy)));
        }
    }
    text
}

/// A label's value as the text format quotes it.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
