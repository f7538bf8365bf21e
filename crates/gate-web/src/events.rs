//! The gate's own log lines. What happened to people's traffic is in the final events; here is only what an operator of
//! the gate wants to know. No names and no addresses of traffic above DEBUG.

/// A listener is open.
pub(crate) fn listening(kind: &'static str, address: std::net::SocketAddr) {
    tracing::info!(gate = "web", listener = kind, %address, "listening");
}

/// Accepting failed; the usual cause is the limit on descriptors.
pub(crate) fn accept_failed(kind: &'static str, error: &std::io::Error) {
    tracing::warn!(gate = "web", listener = kind, %error, "cannot accept a connection");
}

/// The bound on connections was reached; clients wait in the kernel's queue.
pub(crate) fn connections_full(kind: &'static str) {
    tracing::warn!(gate = "web", listener = kind, "all connections are in use");
}

/// A client that spoke TLS to the proxy itself did not come through the handshake; nothing was asked for yet.
pub(crate) fn proxy_handshake_failed() {
    tracing::debug!(gate = "web", "the handshake with the proxy itself failed");
}

/// A client connection ended in an error.
pub(crate) fn client_ended(error: &dyn std::error::Error) {
    tracing::debug!(gate = "web", error = %chain(error), "client connection ended");
}

/// An upstream connection ended.
pub(crate) fn upstream_ended(error: Option<hyper::Error>) {
    if let Some(error) = error {
        tracing::debug!(gate = "web", error = %chain(&error), "upstream connection ended");
    }
}

/// A body could not be spooled.
pub(crate) fn spool_failed(error: &std::io::Error) {
    tracing::warn!(gate = "web", %error, "cannot spool a body");
}

/// The gate drained, or gave up on what was left.
pub(crate) fn drained(left: usize) {
    tracing::info!(gate = "web", left, "drained");
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
