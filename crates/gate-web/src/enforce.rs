//! How each outcome looks on the wire: pages, redirects, resets. Every function here ends the transaction's event. Whose
//! fault a failure is decides the status: 400 for the client's, 502, 504 and 526 for the origin's, 500 for ours.

use std::time::SystemTime;

use checkpoint::{Context, Passage, Refusal};
use http::Response;
use model::{Action, Disposition, FieldId, Value};
use net::trust::CertificateProblem;

use crate::body::WebBody;
use crate::links::LinkError;
use crate::page::{self, Page, UNTRUSTED_CERTIFICATE};
use crate::session::{Road, Trouble};

/// The parameter by which the target of a redirect is told of the transaction, as a sealed token (GW-156).
const CONTEXT_PARAMETER: &str = "sekisho_context";

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
    page_with_letter(road, asker, passage, (status, title, reason), &[])
}

fn page_with_letter(
    road: &Road,
    asker: &Asker,
    passage: &Passage,
    (status, title, reason): (u16, &str, &str),
    letter: &[(&'static str, String)],
) -> Response<WebBody> {
    let page = Page { status, title, reason, host: &asker.host, reference: passage.reference(), letter };
    page::render(&page, &road.shared.config.brand, asker.wants_html)
}

/// The policy said no before anything was sent to the client. A rule's own target comes before the installation's, and that
/// before the page (GW-024, GW-150).
pub(crate) fn refuse(road: &Road, asker: &Asker, mut passage: Passage, refusal: &Refusal) -> Response<WebBody> {
    let own = refusal.location.as_deref().map(|location| (location, refusal.context));
    let common = road.shared.config.brand.redirect.as_ref();
    let common = common.map(|(location, tells)| (location.as_str(), if *tells { Context::Sealed } else { Context::None }));
    if let Some(response) =
        own.or(common).and_then(|(location, context)| redirect(road, &mut passage, refusal, location, context))
    {
        let disposition = match refusal.action {
            Action::Redirect => Disposition::Corrected,
            _ => Disposition::Blocked,
        };
        passage.finish(disposition);
        return response;
    }
    let letter = letter(&passage, refusal);
    let response = page_with_letter(road, asker, &passage, (403, "This page is blocked", &refusal.reason), &letter);
    learn_status(&mut passage, 403);
    passage.finish(Disposition::Blocked);
    response
}

fn redirect(
    road: &Road,
    passage: &mut Passage,
    refusal: &Refusal,
    location: &str,
    context: Context,
) -> Option<Response<WebBody>> {
    let parameters = match context {
        Context::None => Vec::new(),
        Context::Sealed => road.shared.context.seal(passage.reference(), SystemTime::now()).into_iter().map(sealed).collect(),
        Context::DangerPlain => plain_context(passage, refusal),
    };
    let location = with_parameters(location, &parameters);
    let response = page::redirect(&location)?;
    passage.learn(FieldId::RedirectTarget, Value::text(&location));
    learn_status(passage, 307);
    Some(response)
}

fn sealed(token: String) -> (&'static str, String) {
    (CONTEXT_PARAMETER, token)
}

/// What a person may tell the operator of a refusal (GW-153).
fn letter(passage: &Passage, refusal: &Refusal) -> Vec<(&'static str, String)> {
    let rule = refusal.rule.as_ref().map(|rule| rule.id.to_string());
    let facts = [
        ("Site URL", FieldId::HttpUrl),
        ("Source IP", FieldId::SourceIp),
        ("User ID", FieldId::UserId),
        ("User", FieldId::UserEmail),
        ("Device ID", FieldId::DeviceId),
    ];
    let known = facts.into_iter().filter_map(|(label, field)| Some((label, passage.facts().get(field)?.to_string())));
    known.chain(rule.map(|rule| ("Rule ID", rule))).collect()
}

/// The parameters of the hosted product, for pages that read them (GW-152). They tell the target who asked for what.
fn plain_context(passage: &Passage, refusal: &Refusal) -> Vec<(&'static str, String)> {
    let facts = [
        ("cf_user_email", FieldId::UserEmail),
        ("cf_site_uri", FieldId::HttpUrl),
        ("cf_request_categories", FieldId::HttpContentCategory),
        ("cf_referer", FieldId::HttpReferrer),
        ("cf_source_ip", FieldId::SourceIp),
        ("cf_device_id", FieldId::DeviceId),
        ("cf_application_names", FieldId::AppNames),
    ];
    let known = facts.into_iter().filter_map(|(name, field)| Some((name, passage.facts().get(field)?.to_string())));
    let rule = refusal.rule.as_ref().map(|rule| ("cf_rule_id", rule.id.to_string()));
    let own = [("cf_filter", "http".to_owned()), ("cf_request_id", format!("{:016x}", passage.reference().0))];
    known.chain(rule).chain(own).collect()
}

/// The target with more parameters behind its own, before a fragment (GW-151).
fn with_parameters(location: &str, parameters: &[(&str, String)]) -> String {
    let (target, fragment) = location.split_once('#').map_or((location, None), |(head, tail)| (head, Some(tail)));
    let mut target = target.to_owned();
    for (name, value) in parameters {
        target.push(if target.contains('?') { '&' } else { '?' });
        target.push_str(&format!("{name}={}", page::percent_encoded(value)));
    }
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
    passage.learn(FieldId::UntrustedAction, Value::text("error"));
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
    passage.learn(FieldId::UntrustedAction, Value::text("block"));
    passage.fail("untrusted_certificate");
    learn_status(&mut passage, 403);
    let response = page(road, asker, &passage, 403, "This page is blocked", problem.description());
    passage.finish(Disposition::Blocked);
    response
}

/// The origin's answer cannot be had, or cannot be passed on.
pub(crate) fn unreachable(road: &Road, asker: &Asker, mut passage: Passage, failure: &'static str) -> Response<WebBody> {
    let (status, reason) = match failure {
        "deadline" => (504, "The site did not answer in time."),
        "upstream_name" => (502, "The site's name has no address."),
        "upstream_handshake" => (502, "No safe connection to the site could be agreed."),
        "upstream_broke_off" => (502, "The site broke off, or its answer could not be read."),
        "content_coding" => (502, "The site's answer is in a coding that cannot be scanned."),
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
    fn parameters_join_those_of_the_target_before_a_fragment() {
        let told = [("a", "x&y=1 #".to_owned()), ("b", "user@a.example".to_owned())];
        assert_eq!(
            with_parameters("https://c.example/p?q=Y#f", &told),
            "https://c.example/p?q=Y&a=x%26y%3D1%20%23&b=user@a.example#f"
        );
        assert_eq!(with_parameters("https://c.example", &told[1..]), "https://c.example?b=user@a.example");
        assert_eq!(with_parameters("https://c.example/#f", &[]), "https://c.example/#f");
    }
}
