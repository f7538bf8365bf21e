//! The proxy auto-configuration file (ON-06). It holds only addresses and names that were checked when the settings were
//! resolved, so nothing that a client sends can become script.

use std::fmt::Write;
use std::net::SocketAddr;

/// Media type of a PAC file.
pub(crate) const MEDIA_TYPE: &str = "application/x-ns-proxy-autoconfig";

/// The script for a client that reached the proxy at `proxy`, plainly (`PROXY`) or over TLS (`HTTPS`). Names below `direct`
/// are not sent to the proxy.
pub(crate) fn script(scheme: &'static str, proxy: SocketAddr, direct: &[String]) -> String {
    let mut script = String::from("function FindProxyForURL(url, host) {\n  if (isPlainHostName(host)");
    for domain in direct {
        let _ = write!(script, "\n      || host === \"{domain}\" || dnsDomainIs(host, \".{domain}\")");
    }
    let _ = write!(script, ") {{\n    return \"DIRECT\";\n  }}\n  return \"{scheme} {proxy}\";\n}}\n");
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_falls_back_to_direct_for_other_hosts() {
        let script = script("PROXY", "127.0.0.1:8080".parse().unwrap(), &["corp.example".to_string()]);
        assert!(script.contains("return \"PROXY 127.0.0.1:8080\";"));
        assert!(!script.contains("PROXY 127.0.0.1:8080; DIRECT"));
        assert!(script.contains("dnsDomainIs(host, \".corp.example\")"));
    }
}
