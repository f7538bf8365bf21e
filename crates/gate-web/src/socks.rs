//! The SOCKS5 door. The handshake is `net`'s; here a user is recognised by name and password, and the destination becomes
//! a tunnel like that of a CONNECT. The client is told that it is connected before it is, so that a refusal can be shown
//! as a page.

use std::sync::{Arc, Mutex, PoisonError};

use checkpoint::{Credential, Unproved};
use model::{Disposition, Identity, Session};
use net::admission::Ticket;
use net::socks5::{Authentication, Reply, Target, accept, send_reply};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::connect::{Arrival, mark_tunnel};
use crate::serve::Slot;
use crate::session::{Shared, canonical_host};
use crate::stream::ClientStream;

/// A client that did not speak the protocol to its end.
const HANDSHAKE_FAILURE: &str = "socks_handshake";

/// One client of the SOCKS5 listener.
pub(crate) async fn enter(shared: Arc<Shared>, mut session: Session, tcp: TcpStream, ticket: Option<Ticket>, slot: Slot) {
    let mut stream = ClientStream::new(tcp, ticket);
    let proved: Mutex<Option<Result<Arc<Identity>, Unproved>>> = Mutex::default();
    let check = |user: &str, password: &str| {
        let outcome = shared.checkpoint.authenticate_blocking(&Credential::Basic { user, password });
        let is_known = outcome.is_ok();
        *proved.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        is_known
    };
    let authentication = match shared.config.require_credentials && session.identity.is_none() {
        true => Authentication::Password(&check),
        false => Authentication::None,
    };
    let accepted = timeout(shared.config.handshake, accept(&mut stream, authentication)).await;
    match proved.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(Ok(identity)) => session.identity = Some(identity),
        Some(Err(unproved)) => return refuse(&shared, &session, unproved.as_str()),
        None => {}
    }
    let Ok(Ok(request)) = accepted else { return refuse(&shared, &session, HANDSHAKE_FAILURE) };
    let (host, port) = match request.target {
        Target::Address(address) => (Some(Arc::from(address.ip().to_canonical().to_string())), address.port()),
        Target::Name { host, port } => (canonical_host(&host), port),
    };
    let Some(host) = host.filter(|_| port != 0) else {
        let _ = send_reply(&mut stream, Reply::AddressNotSupported, None).await;
        return refuse(&shared, &session, HANDSHAKE_FAILURE);
    };
    if send_reply(&mut stream, Reply::Succeeded, None).await.is_err() {
        return refuse(&shared, &session, HANDSHAKE_FAILURE);
    }
    let cut = stream.cut();
    Arrival { shared, session, cut, host, port, slot }.run(stream).await;
}

/// A client that did not come through the handshake.
fn refuse(shared: &Shared, session: &Session, failure: &'static str) {
    let mut passage = shared.checkpoint.examine(session);
    mark_tunnel(&mut passage);
    passage.fail(failure);
    passage.finish(Disposition::Blocked);
}
