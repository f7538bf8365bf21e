//! The control socket: the commands' way to a running program. It is a Unix socket in the data folder with mode 0600, so
//! that whoever may open it may already read the data; no password is needed and nothing listens on the network. Requests
//! are HTTP POSTs of one JSON object to `/v1/control`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request as HttpRequest, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value as Json, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::operations::{Operations, Request};

/// A request's size: a policy of some thousand rules and lists by reference stays far below it.
const REQUEST_BYTES_MAX: usize = 256 << 20;
/// Commands at once; more wait for their turn.
const COMMANDS_MAX: usize = 16;

/// The one path of the management API, here and on the admin listener.
pub const CONTROL_PATH: &str = "/v1/control";

/// Where the socket of an installation is.
pub fn socket_path(data: &Path) -> PathBuf {
    data.join("control.sock")
}

pub struct Control {
    listener: UnixListener,
}

impl Control {
    /// Takes the socket over. A running program that still answers on it is an error: one data folder, one program.
    pub fn bind(data: &Path) -> Result<Control> {
        let path = socket_path(data);
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            bail!("another sekisho runs on {}; stop it, or name another folder with --data", data.display());
        }
        if path.exists() {
            std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Control { listener })
    }

    /// Serves until the future is dropped.
    pub async fn serve(self, operations: Arc<Operations>) {
        let slots = Arc::new(Semaphore::new(COMMANDS_MAX));
        while let Ok(slot) = slots.clone().acquire_owned().await {
            let Ok((stream, _)) = self.listener.accept().await else { continue };
            let operations = operations.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(operations.clone(), request));
                let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                if let Err(error) = served {
                    tracing::debug!(%error, "control connection ended");
                }
                drop(slot);
            });
        }
    }
}

async fn answer(operations: Arc<Operations>, request: HttpRequest<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    Ok(match request.uri().path() {
        CONTROL_PATH => carry_out(operations, request).await,
        _ => reply(StatusCode::NOT_FOUND, &json!({ "error": "POST /v1/control" })),
    })
}

/// Reads one request and answers it. Whoever calls this has made sure that the caller may ask.
pub async fn carry_out(operations: Arc<Operations>, request: HttpRequest<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::POST {
        return reply(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": "POST one JSON object" }));
    }
    let Ok(body) = Limited::new(request.into_body(), REQUEST_BYTES_MAX).collect().await else {
        return reply(StatusCode::PAYLOAD_TOO_LARGE, &json!({ "error": "the request is too large" }));
    };
    let parsed: Request = match serde_json::from_slice(&body.to_bytes()) {
        Ok(parsed) => parsed,
        Err(error) => return reply(StatusCode::BAD_REQUEST, &json!({ "error": error.to_string() })),
    };
    let outcome = tokio::task::spawn_blocking(move || operations.handle(parsed)).await;
    match outcome {
        Ok(Ok(json)) => reply(StatusCode::OK, &json),
        Ok(Err(error)) => reply(StatusCode::UNPROCESSABLE_ENTITY, &json!({ "error": format!("{error:#}") })),
        Err(_) => reply(StatusCode::INTERNAL_SERVER_ERROR, &json!({ "error": "the command failed; the log says why" })),
    }
}

pub fn reply(status: StatusCode, body: &Json) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Sends one request to the program that runs on this folder; none where none runs.
pub async fn call(data: &Path, request: &Request) -> Result<Option<Json>> {
    let Ok(stream) = UnixStream::connect(socket_path(data)).await else { return Ok(None) };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let pump = tokio::spawn(connection);
    let body = Full::new(Bytes::from(serde_json::to_vec(request)?));
    let request = HttpRequest::post(CONTROL_PATH).header("host", "sekisho").body(body)?;
    let response = sender.send_request(request).await.context("the running program did not answer")?;
    let status = response.status();
    let json: Json = serde_json::from_slice(&response.into_body().collect().await?.to_bytes())?;
    pump.abort();
    if status != StatusCode::OK {
        return Err(anyhow!("{}", json["error"].as_str().unwrap_or("the running program refused")));
    }
    Ok(Some(json))
}
