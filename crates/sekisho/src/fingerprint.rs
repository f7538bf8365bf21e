//! Whether a section of the configuration changed: as it is written, and in the files that it names. A key or a list that is
//! replaced under the same path is a change too.

use std::io::Read;
use std::path::Path;

use anyhow::Result;
use gate_dns::DnsGateSpec;
use gate_web::WebGateSpec;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::config::{Config, UpstreamSpec};

/// More of a file is not looked at. The files that gates read are refused below this size.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// What names the upstream resolvers where the configuration does not.
const SYSTEM_RESOLVERS: &str = "/etc/resolv.conf";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// Fingerprints of what each gate is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprints {
    pub dns: Fingerprint,
    pub web: Fingerprint,
}

impl Fingerprints {
    /// Taken before the gates are built, so that a file which changes meanwhile is a change at the next reload.
    pub fn of(config: &Config) -> Result<Fingerprints> {
        Ok(Fingerprints { dns: of(&config.dns, &dns_files(&config.dns))?, web: of_web(&config.web, &config.upstream)? })
    }
}

fn dns_files(spec: &DnsGateSpec) -> Vec<&Path> {
    let system = spec.upstreams.is_empty().then_some(Path::new(SYSTEM_RESOLVERS));
    let named = [&spec.upstream_ca_file, &spec.dnssec_trust_anchor_file];
    named.into_iter().filter_map(Option::as_deref).chain(system).collect()
}

fn of_web(spec: &WebGateSpec, upstream: &UpstreamSpec) -> Result<Fingerprint> {
    let named = [&spec.client_authorities, &spec.pac_file, &spec.brand.logo];
    let files: Vec<&Path> = named.into_iter().filter_map(Option::as_deref).collect();
    of(&(spec, upstream), &files)
}

/// A file that cannot be read counts as empty: whoever uses it says what is wrong.
fn of<T: Serialize>(section: &T, files: &[&Path]) -> Result<Fingerprint> {
    let mut digest = Sha256::new();
    digest.update(serde_json::to_vec(section)?);
    for file in files {
        let mut contents = Sha256::new();
        if let Ok(file) = std::fs::File::open(file) {
            // A read that fails half way gives another digest than the whole file, which is a change as well.
            let _ = std::io::copy(&mut file.take(FILE_BYTES_MAX), &mut contents);
        }
        digest.update(contents.finalize());
    }
    Ok(Fingerprint(digest.finalize().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_replaced_under_its_path_is_a_change_of_its_gate_alone() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let mut config = Config::default();
        let at = |name: &str| folder.path().join(name);
        config.dns.upstreams = vec!["192.0.2.53".into()];
        config.dns.dnssec_trust_anchor_file = Some(at("anchors"));
        config.web.pac_file = Some(at("proxy.pac"));
        std::fs::write(at("anchors"), "one")?;
        std::fs::write(at("proxy.pac"), "one")?;
        let first = Fingerprints::of(&config)?;
        assert_eq!(Fingerprints::of(&config)?, first);
        std::fs::write(at("anchors"), "two")?;
        let second = Fingerprints::of(&config)?;
        assert!(second.dns != first.dns && second.web == first.web);
        std::fs::write(at("proxy.pac"), "two")?;
        let third = Fingerprints::of(&config)?;
        assert!(third.dns == second.dns && third.web != second.web);
        config.upstream.danger_exempt = vec!["127.0.0.0/8".parse()?];
        assert_ne!(Fingerprints::of(&config)?.web, third.web);
        Ok(())
    }
}
