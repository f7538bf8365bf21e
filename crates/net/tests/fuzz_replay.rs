//! Replays the corpora of this crate's fuzz targets and what once went wrong in them.

use testkit::replay;

#[test]
fn http_framing() {
    replay("http_framing", net::fuzz::http_framing);
}

#[test]
fn client_hello() {
    replay("client_hello", net::fuzz::client_hello);
}

#[test]
fn proxy_header() {
    replay("proxy_header", net::fuzz::proxy_header);
}

#[test]
fn socks5() {
    replay("socks5", net::fuzz::socks5);
}

#[test]
fn authority() {
    replay("authority", net::fuzz::authority);
}
