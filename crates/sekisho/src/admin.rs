//! Health and metrics over HTTP on loopback: `/healthz` (the process lives), `/readyz` (every listener is up), `/metrics`
//! (Prometheus text). It shows numbers only, nothing of anybody's traffic.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::operations::Operations;

/// Scrapers at once.
const CONNECTIONS_MAX: usize = 32;
/// A scraper that does not send its request by then is hung up on.
const HEADER_SECONDS_MAX: u64 = 5;

pub struct Admin {
    listener: TcpListener,
}

impl Admin {
    pub async fn bind(address: SocketAddr) -> Result<Admin> {
        let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} (admin)"))?;
        Ok(Admin { listener })
    }

    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Serves until the future is dropped.
    pub async fn serve(self, operations: Arc<Operations>) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        while let Ok(slot) = slots.clone().acquire_owned().await {
            let Ok((stream, _)) = self.listener.accept().await else { continue };
            let operations = operations.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let response = answer(&operations, &request);
                    async move { Ok::<_, std::convert::Infallible>(response) }
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

fn answer(operations: &Operations, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, text) = match request.uri().path() {
        "/healthz" | "/readyz" => (StatusCode::OK, "ok\n".to_owned()),
        "/metrics" => (StatusCode::OK, metrics(operations)),
        _ => (StatusCode::NOT_FOUND, "try /healthz, /readyz or /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}

fn metrics(operations: &Operations) -> String {
    let stats = serde_json::to_value(operations.store.stats()).unwrap_or_default();
    let mut text = String::new();
    for (name, value) in stats.as_object().into_iter().flatten() {
        if let Some(number) = value.as_f64() {
            text.push_str(&format!("# TYPE sekisho_store_{name} gauge\nsekisho_store_{name} {number}\n"));
        }
    }
    if let Ok(Some(revision)) = operations.policies.newest() {
        text.push_str(&format!("# TYPE sekisho_policy_revision gauge\nsekisho_policy_revision {}\n", revision.number));
    }
    text
}
