//! How each outcome looks on the wire: pages, redirects, resets. Every function here ends the transaction's event. Whose
//! fault a failure is decides the status: 400 for the client's, 502, 504 and 526 for the origin's, 500 for ours.

use checkpoint::{Passage, Refusal};
use http::Response;
use model::{Action, Disposition, FieldId, Value};
use net::trust::CertificateProblem;

use crate::body::WebBody;
use crate::links::LinkError;
use crate::page::{self, Page, UNTRUSTED_CERTIFICATE};
use crate::session::{Road, Trouble};

/// The parameter that carries a transaction's reference to the target of a redirect (GW-152). Nothing else of the context
/// leaves in a URL (GW-156).
const REFERENCE_PARAMETER: &str = "sekisho_reference";

/// The answer is a reset. As the error of a service it makes hyper close the connection, or reset the stream.
#[derive(Debug, thiserror::Error)]
#[error("the transaction was refused with a reset")]
pub(crate) struct Reset;

pub(crate) type Answer = Result<Response<WebBody>, Reset>;

/// Who is asking, as far as the form of an answer depends on it.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    pub(crate) host: String,
    pub(crate) wants_html: bool,
}

/// A page of ours, without an event.
pub(crate) fn page(road: &Road, asker: &Asker, passage: &Passage, status: u16, title: &str, reason: &str) -> Response<WebBody> {
    let page = Page { status, title, reason, host: &asker.host, reference: passage.reference() };
    page::render(&page, &road.shared.config.brand, asker.wants_html)
}

/// The policy said no before anything was sent to the client.
pub(crate) fn refuse(road: &Road, asker: &Asker, mut passage: Passage, refusal: &Refusal) -> Response<WebBody> {
    if let Some(response) = refusal.location.as_deref().and_then(|location| redirect(&mut passage, location, refusal)) {
        let disposition = match refusal.action {
            Action::Redirect => Disposition::Corrected,
            _ => Disposition::Blocked,
        };
        passage.finish(disposition);
        return response;
    }
    let response = page(road, asker, &passage, 403, "This page is blocked", &refusal.reason);
    learn_status(&mut passage, 403);
    passage.finish(Disposition::Blocked);
    response
}

fn redirect(passage: &mut Passage, location: &str, refusal: &Refusal) -> Option<Response<WebBody>> {
    let location = match refusal.includes_context {
        true => with_reference(location, passage.reference().0),
        false => location.to_owned(),
    };
    let response = page::redirect(&location)?;
    passage.learn(FieldId::RedirectTarget, Value::text(&location));
    learn_status(passage, 307);
    Some(response)
}

/// The target with the reference among its parameters, before a fragment.
fn with_reference(location: &str, reference: u64) -> String {
    let (target, fragment) = location.split_once('#').map_or((location, None), |(head, tail)| (head, Some(tail)));
    let separator = if target.contains('?') { '&' } else { '?' };
    let target = format!("{target}{separator}{REFERENCE_PARAMETER}={reference:016x}");
    match fragment {
        Some(fragment) => format!("{target}#{fragment}"),
        None => target,
    }
}

/// The client sent what cannot be passed on.
pub(crate) fn bad_request(
    road: &Road,
    asker: &Asker,
    mut passage: Passage,
    status: u16,
    failure: &'static str,
    reason: &str,
) -> Response<WebBody> {
    passage.fail(failure);
    learn_status(&mut passage, status);
    let response = page(road, asker, &passage, status, "This request cannot be passed on", reason);
    passage.finish(Disposition::Blocked);
    response
}

/// The origin could not be reached, or answered badly.
pub(crate) fn failed(road: &Road, asker: &Asker, passage: Passage, error: &LinkError) -> Response<WebBody> {
    match error {
        LinkError::Open(net::Error::Certificate(problem)) => untrusted(road, asker, passage, *problem),
        other => unreachable(road, asker, passage, other.failure()),
    }
}

/// What was found before the client's handshake, told to a request.
pub(crate) fn troubled(road: &Road, asker: &Asker, passage: Passage, trouble: Trouble) -> Response<WebBody> {
    match trouble {
        Trouble::Certificate(problem) => untrusted(road, asker, passage, problem),
        Trouble::Unreachable(failure) => unreachable(road, asker, passage, failure),
    }
}

/// GW-031 `error`: the page names what is wrong with the certificate, and there is no way around it (TL-10).
fn untrusted(road: &Road, asker: &Asker, mut passage: Passage, problem: CertificateProblem) -> Response<WebBody> {
    passage.learn(FieldId::CertificateProblem, Value::text(problem.as_str()));
    passage.fail("untrusted_certificate");
    learn_status(&mut passage, UNTRUSTED_CERTIFICATE);
    let reason = format!("{} ({}).", problem.description(), problem.as_str());
    let response = page(road, asker, &passage, UNTRUSTED_CERTIFICATE, "This site cannot be trusted", &reason);
    passage.finish(Disposition::Error);
    response
}

/// GW-031 `block`: the same as a refusal by a rule.
pub(crate) fn untrusted_blocked(
    road: &Road,
    asker: &Asker,
    mut passage: Passage,
    problem: CertificateProblem,
) -> Response<WebBody> {
    passage.learn(FieldId::CertificateProblem, Value::text(problem.as_str()));
    passage.fail("untrusted_certificate");
    learn_status(&mut passage, 403);
    let response = page(road, asker, &passage, 403, "This page is blocked", problem.description());
    passage.finish(Disposition::Blocked);
    response
}

fn unreachable(road: &Road, asker: &Asker, mut passage: Passage, failure: &'static str) -> Response<WebBody> {
    let (status, reason) = match failure {
        "deadline" => (504, "The site did not answer in time."),
        "upstream_name" => (502, "The site's name has no address."),
        "upstream_handshake" => (502, "No safe connection to the site could be agreed."),
        "upstream_broke_off" => (502, "The site broke off, or its answer could not be read."),
        "destination_refused" => (403, "This destination cannot be reached through this gateway."),
        _ => (502, "The site cannot be reached."),
    };
    passage.fail(failure);
    learn_status(&mut passage, status);
    let response = page(road, asker, &passage, status, "The site cannot be reached", reason);
    passage.finish(Disposition::Error);
    response
}

/// A body was refused after bytes of it, or its head, had been sent, or where a reset is what the settings ask for.
pub(crate) fn reset(road: &Road, passage: Passage) -> Reset {
    road.cut_http1();
    passage.finish(Disposition::Blocked);
    Reset
}

pub(crate) fn learn_status(passage: &mut Passage, status: u16) {
    passage.learn(FieldId::HttpStatus, Value::Int(i64::from(status)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_joins_the_parameters_before_a_fragment() {
        assert_eq!(
            with_reference("https://c.example/p?q=Y#f", 10),
            "https://c.example/p?q=Y&sekisho_reference=000000000000000a#f"
        );
        assert_eq!(with_reference("https://c.example", 1), "https://c.example?sekisho_reference=0000000000000001");
    }
}
