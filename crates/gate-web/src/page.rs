//! The pages that people see in place of what they asked for (GW-150). They carry the operator's brand, the reason and the
//! reference of the event, make no third-party request and run no script. Nothing of the request goes into a link but that
//! to the operator's own mailbox (GW-153, GW-156); all text is escaped.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use model::TransactionId;

use crate::body::WebBody;

/// Longest text of one part of a page, characters; reasons are one line, hosts at most 253.
const TEXT_CHARACTERS_MAX: usize = 400;

/// Untrusted upstream certificate. Not registered, but what other gateways and their users know (TL-10).
pub(crate) const UNTRUSTED_CERTIFICATE: u16 = 526;

/// Nothing is loaded from anywhere; the one style element and the logo are inline.
const CONTENT_SECURITY_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;margin:0;background:#f3f1ec;color:#20242a}\
main{max-width:38rem;margin:12vh auto;padding:2rem;background:#fff;border-top:6px solid #9b2d1f;border-radius:4px}\
h1{font-size:1.4rem;margin:0 0 1rem}p{margin:.5rem 0}img{max-height:3rem;max-width:60%}.reference{font-family:ui-monospace,monospace;color:#5a6068}\
footer{margin-top:2rem;font-size:.85rem;color:#5a6068}\
@media(prefers-color-scheme:dark){body{background:#15181c;color:#e6e6e6}main{background:#20242a}}";

/// What a page says.
pub(crate) struct Page<'a> {
    pub(crate) status: u16,
    pub(crate) title: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) host: &'a str,
    pub(crate) reference: TransactionId,
    /// What a letter to the operator says, label and text (GW-153). Empty where there is nothing to write about.
    pub(crate) letter: &'a [(&'static str, String)],
}

/// How the operator's own words appear on every page (GW-150). Every part is checked when the settings are resolved.
#[derive(Clone, Debug, Default)]
pub(crate) struct Brand {
    pub(crate) name: String,
    pub(crate) header: String,
    /// Empty for a page without one.
    pub(crate) footer: String,
    /// A `data:` URL.
    pub(crate) logo: Option<String>,
    /// A colour of CSS in hexadecimal.
    pub(crate) background: Option<String>,
    pub(crate) mail_address: Option<String>,
    pub(crate) mail_subject: String,
    /// Where refused clients are sent in place of the page, and whether the target is told of what.
    pub(crate) redirect: Option<(String, bool)>,
}

/// Whether the client is a person's browser that shows what it gets.
pub(crate) fn wants_html(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|range| range.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/html"))
}

/// The page as HTML or, for programs, as text.
pub(crate) fn render(page: &Page<'_>, brand: &Brand, as_html: bool) -> Response<WebBody> {
    let (media, text) = match as_html {
        true => ("text/html; charset=utf-8", html(page, brand)),
        false => ("text/plain; charset=utf-8", plain(page, brand)),
    };
    let mut response = Response::new(WebBody::whole(Bytes::from(text)));
    *response.status_mut() = StatusCode::from_u16(page.status).unwrap_or(StatusCode::FORBIDDEN);
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, media),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn html(page: &Page<'_>, brand: &Brand) -> String {
    let (title, reason, host) = (escaped(page.title), escaped(page.reason), escaped(page.host));
    let (name, reference) = (escaped(&brand.name), page.reference.0);
    let style = match &brand.background {
        Some(colour) => format!("{STYLE}body{{background:{colour}}}"),
        None => STYLE.to_owned(),
    };
    let logo = brand.logo.as_ref().map(|logo| format!("<img alt=\"\" src=\"{logo}\">")).unwrap_or_default();
    let header = element("p", &brand.header);
    let contact = contact(page, brand).map(|link| format!("<p><a href=\"{}\">Ask about this page</a></p>", escaped(&link)));
    let footer = match brand.footer.is_empty() {
        true => String::new(),
        false => format!("<footer>{name}<br>{}</footer>", escaped(&brand.footer)),
    };
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
content=\"width=device-width\"><meta name=\"robots\" content=\"noindex\"><title>{title} - {name}</title>\
<style>{style}</style></head><body><main>{logo}<h1>{title}</h1>{header}<p>{host}</p><p>{reason}</p>{}\
<p class=\"reference\">Reference {reference:016x}</p>{footer}</main></body></html>\n",
        contact.unwrap_or_default()
    )
}

fn element(tag: &str, text: &str) -> String {
    match text.is_empty() {
        true => String::new(),
        false => format!("<{tag}>{}</{tag}>", escaped(text)),
    }
}

/// A letter to the operator that is written already (RFC 6068). It leaves only if the person sends it.
fn contact(page: &Page<'_>, brand: &Brand) -> Option<String> {
    let address = brand.mail_address.as_ref().filter(|_| !page.letter.is_empty())?;
    let line = |label: &str, text: &str| format!("{label}: {}\r\n", one_line(text));
    let mut body: String = page.letter.iter().map(|(label, text)| line(label, text)).collect();
    body.push_str(&line("Block reason", page.reason));
    body.push_str(&line("Reference", &format!("{:016x}", page.reference.0)));
    Some(format!("mailto:{address}?subject={}&body={}", percent_encoded(&brand.mail_subject), percent_encoded(&body)))
}

fn plain(page: &Page<'_>, brand: &Brand) -> String {
    let (title, reason, host) = (one_line(page.title), one_line(page.reason), one_line(page.host));
    let mut text = format!("{}: {title}\n{host}\n{reason}\nReference {:016x}\n", one_line(&brand.name), page.reference.0);
    if let Some(address) = brand.mail_address.as_ref().filter(|_| !page.letter.is_empty()) {
        text.push_str(&format!("Contact {address}\n"));
    }
    text
}

/// Text as one parameter of a query (RFC 3986 section 3.4): what could end it or begin another is escaped.
pub(crate) fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte.is_ascii_alphanumeric() || b"-._~@:/".contains(&byte) {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// A 307 to where the policy sends the client (GW-024, GW-025).
pub(crate) fn redirect(location: &str) -> Option<Response<WebBody>> {
    let location = HeaderValue::from_str(location).ok()?;
    let mut response = Response::new(WebBody::empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    response.headers_mut().insert(header::LOCATION, location);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(response)
}

fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_CHARACTERS_MAX).collect()
}

/// Text that cannot become markup, in element content and in quoted attributes.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in one_line(text).chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brand() -> Brand {
        Brand { name: "Sekisho".into(), footer: "<b>ask</b>".into(), ..Brand::default() }
    }

    #[test]
    fn no_text_becomes_markup_and_nothing_is_fetched() {
        let page = Page {
            status: 403,
            title: "Blocked",
            reason: "<script>alert('x')</script>\n",
            host: "a\"><img src=//evil>",
            reference: TransactionId(255),
            letter: &[],
        };
        let text = html(&page, &brand());
        for bad in ["<script", "<img", "<b>", "http://", "https://", "src=/"] {
            assert!(!text.replace("src=//evil&gt;", "").contains(bad), "{bad}");
        }
        assert!(text.contains("00000000000000ff"));
        assert!(plain(&page, &brand()).lines().count() == 4);
    }

    #[test]
    fn gw_150_and_gw_153_brand_and_letter_stand_on_the_page() {
        let brand = Brand {
            header: "Acme <gate>".into(),
            footer: String::new(),
            logo: Some("data:image/png;base64,AA==".into()),
            background: Some("#102030".into()),
            mail_address: Some("it@acme.example".into()),
            mail_subject: "Blocked & why?".into(),
            ..brand()
        };
        let letter = [("Site URL", "https://a.example/?x=1&y=\"2\"\r\nBcc: evil".to_owned()), ("Rule ID", "r1".to_owned())];
        let page =
            Page { status: 403, title: "t", reason: "no", host: "a.example", reference: TransactionId(1), letter: &letter };
        let text = html(&page, &brand);
        assert!(text.contains("<p>Acme &lt;gate&gt;</p>") && text.contains("body{background:#102030}"), "{text}");
        assert!(text.contains("<img alt=\"\" src=\"data:image/png;base64,AA==\">") && !text.contains("<footer>"), "{text}");
        assert!(text.contains("mailto:it@acme.example?subject=Blocked%20%26%20why%3F&amp;body=Site%20URL:%20https://a.example/"));
        // A line of the letter stays one line, so nothing in a URL becomes a header of the mail.
        assert!(text.contains("%222%22Bcc:%20evil%0D%0ARule%20ID:%20r1%0D%0ABlock%20reason:%20no%0D%0AReference:"), "{text}");
        assert!(plain(&page, &brand).ends_with("Contact it@acme.example\n"));
    }

    #[test]
    fn a_location_with_a_line_break_is_no_redirect() {
        assert!(redirect("https://a.example/\r\nSet-Cookie: x").is_none());
        assert_eq!(redirect("https://a.example/x").unwrap().headers()["location"], "https://a.example/x");
    }

    #[test]
    fn only_browsers_get_html() {
        let mut headers = HeaderMap::new();
        headers.insert("accept", HeaderValue::from_static("*/*"));
        assert!(!wants_html(&headers));
        headers.insert("accept", HeaderValue::from_static("application/xml;q=0.9, TEXT/HTML;q=0.8"));
        assert!(wants_html(&headers));
    }
}
