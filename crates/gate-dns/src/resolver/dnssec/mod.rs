//! Whether an answer is what its zone signed. The cryptography and the rules of proof are the library's
//! (`hickory_net::dnssec`); here an answer is taken apart for it, its verdicts are put together again, and a failure gets
//! the reason that clients are told. RFC 4033 to 4035, RFC 5155, RFC 6840, RFC 9276; reasons of RFC 8914 section 4.

mod chain;
mod denial;
mod segment;

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::stream::StreamExt;
use hickory_net::dnssec::DnssecDnsHandle;
use hickory_net::xfer::DnsHandle;
use hickory_net::{DnsError, NetError};
use hickory_proto::dnssec::rdata::{DNSSECRData, RRSIG};
use hickory_proto::dnssec::{Proof, TrustAnchors};
use hickory_proto::op::{DnsRequest, DnsRequestOptions, DnsResponse, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType, SerialNumber};
use model::name::is_within;

use self::chain::Chain;
use self::denial::Cover;
use self::segment::{Expansion, Segment};
use super::check;
use super::guard::PRIVATE_DOMAINS;
use super::{Failure, Inner, Question};
use crate::decode::escaped;
use crate::reply::extended;

/// NSEC3 with more iterations is not followed and counts as unsigned (RFC 9276 section 3.2; 50 is what BIND and Unbound
/// came to after CVE-2023-50868), and far more is refused.
const NSEC3_ITERATIONS_MAX: u16 = 50;
const NSEC3_ITERATIONS_REFUSED: u16 = 500;

/// Sets whose proof is remembered; each costs about 200 bytes.
const PROOFS_MAX: usize = 16_384;

/// A proof is made again after this long, so that the end of a signature is noticed.
const PROOF_SECONDS_MAX: Duration = Duration::from_secs(3_600);

/// What an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Every part of it is signed, and the signatures verify up to a trust anchor.
    Secure,
    /// A part of it belongs to a zone that is proved to be unsigned, or is signed in a way that is not followed; then
    /// the extended error says so.
    Insecure(Option<u16>),
}

pub(super) struct Validator {
    handle: DnssecDnsHandle<Chain>,
    /// Names, with all below them, that are not validated (RFC 7646).
    unsigned: Arc<[String]>,
}

impl Validator {
    pub(super) fn new(resolver: Weak<Inner>, anchors: Arc<TrustAnchors>, unsigned: Arc<[String]>) -> Validator {
        let handle = DnssecDnsHandle::with_trust_anchor(Chain::new(resolver), anchors)
            .nsec3_iteration_limits(Some(NSEC3_ITERATIONS_MAX), Some(NSEC3_ITERATIONS_REFUSED))
            .validation_cache_size(PROOFS_MAX)
            // A failure is remembered with its question, for a few seconds; longer would outlive its cause.
            .negative_validation_ttl(Duration::ZERO..=Duration::ZERO)
            .positive_validation_ttl(Duration::ZERO..=PROOF_SECONDS_MAX);
        Validator { handle, unsigned }
    }

    /// Whether answers of this name are looked at: names that are private by definition are not in the public tree, and the
    /// operator can take out more.
    pub(super) fn concerns(&self, host: &str) -> bool {
        !PRIVATE_DOMAINS.iter().any(|domain| is_within(host, domain))
            && !self.unsigned.iter().any(|domain| is_within(host, domain))
    }

    /// Judges an answer, and brings its times to live down to those of its signatures (RFC 4035 section 5.3.3).
    pub(super) async fn validate(&self, question: &Question, message: &mut Message) -> Result<Verdict, Failure> {
        // Signatures are not signed themselves.
        if question.kind == RecordType::RRSIG {
            return Ok(Verdict::Insecure(None));
        }
        let chain = check::chain_of(question, &message.answers).map_err(|check::EndlessChain| Failure::EndlessChain)?;
        let dangles = chain.len() > 1 && check::ends_nowhere(question, message, &chain);
        let mut verdict = Verdict::Secure;
        for segment in segment::split(message, question.kind, &chain, dangles) {
            let exempt = segment.message.queries.first().is_some_and(|query| !self.concerns(&escaped(query.name())));
            match if exempt { Verdict::Insecure(None) } else { self.judge(&segment, message).await? } {
                Verdict::Secure => {}
                insecure => verdict = insecure,
            }
        }
        Ok(verdict)
    }

    async fn judge(&self, segment: &Segment, message: &mut Message) -> Result<Verdict, Failure> {
        let (proved, unanswered) = Chain::counted(self.prove_whole(segment)).await;
        let reason = match proved {
            Ok((Proof::Secure, response)) => {
                shorten(message, &segment.owner, &response);
                return Ok(Verdict::Secure);
            }
            Ok((Proof::Insecure, _)) => return Ok(Verdict::Insecure(None)),
            // The set is good, and the names between it and the question are not denied.
            Ok((_, response)) if segment.expansion.is_some() && proof_of(segment, &response) == Proof::Secure => {
                Some(extended::NSEC_MISSING)
            }
            Ok(_) => None,
            Err(NetError::Dns(DnsError::Nsec { proof: Proof::Insecure, .. })) => {
                return Ok(Verdict::Insecure(Some(extended::NSEC3_ITERATIONS)));
            }
            Err(NetError::Dns(DnsError::Nsec { .. })) if !segment.has_denial() => Some(extended::NSEC_MISSING),
            Err(_) => None,
        };
        if let Some(failure) = unanswered {
            return Err(failure);
        }
        let extended = match reason {
            Some(reason) => reason,
            None => self.diagnose(segment).await,
        };
        Err(Failure::Bogus { extended })
    }

    /// The proof of a piece, and for a wildcard's set the weaker of its own and its denial's.
    async fn prove_whole(&self, segment: &Segment) -> Result<(Proof, DnsResponse), NetError> {
        let response = self.prove(segment.message.clone()).await?;
        let proof = proof_of(segment, &response);
        match &segment.expansion {
            Some(expansion) if proof == Proof::Secure => Ok((self.deny(expansion).await?, response)),
            _ => Ok((proof, response)),
        }
    }

    /// Whether the name that would come before the wildcard is proved to be absent.
    async fn deny(&self, expansion: &Expansion) -> Result<Proof, NetError> {
        for denial in &expansion.denials {
            let covering =
                denial.deciding().and_then(|record| denial::covers(record, &expansion.next_closer, NSEC3_ITERATIONS_MAX));
            let Some(cover) = covering else { continue };
            let response = self.prove(denial.message.clone()).await?;
            if proof_of(denial, &response) == Proof::Secure {
                return Ok(match cover {
                    Cover::Whole => Proof::Secure,
                    Cover::OptOut | Cover::TooCostly => Proof::Insecure,
                });
            }
        }
        Ok(Proof::Bogus)
    }

    async fn prove(&self, message: Message) -> Result<DnsResponse, NetError> {
        let request = DnsRequest::new(message, DnsRequestOptions::default());
        self.handle.send(request).next().await.unwrap_or(Err(NetError::Message("no response")))
    }

    /// Why a piece does not verify. It looks for the reason that an operator can act on and decides nothing.
    async fn diagnose(&self, segment: &Segment) -> u16 {
        let Some(record) = segment.deciding() else { return extended::NSEC_MISSING };
        let signatures: Vec<&RRSIG> = segment.signatures(record).collect();
        if let Some(reason) = reason_of(&signatures) {
            return if segment.is_negative() && !segment.has_denial() { extended::NSEC_MISSING } else { reason };
        }
        let Some(signature) = signatures.first() else { return extended::RRSIGS_MISSING };
        let mut request = Message::new(0, MessageType::Query, OpCode::Query);
        request.add_query(Query::query(signature.input().signer_name.clone(), RecordType::DNSKEY));
        let (keys, _) = Chain::counted(self.prove(request)).await;
        keys.map_or(extended::DNSKEY_MISSING, |keys| reason_of_keys(signature, &keys))
    }
}

/// The weakest proof among the records that answer, or what the library proved of their absence. What leans on a span in
/// which unsigned delegations may lie is not called secure (RFC 5155 section 9.2).
fn proof_of(segment: &Segment, response: &DnsResponse) -> Proof {
    let data = response.answers.iter().filter(|record| record.record_type() != RecordType::RRSIG);
    let denials = response.authorities.iter().filter(|record| record.proof == Proof::Secure);
    let (mut count, mut opt_out) = (0, false);
    for denial in denials {
        match &denial.data {
            RData::DNSSEC(DNSSECRData::NSEC(_)) => count += 1,
            RData::DNSSEC(DNSSECRData::NSEC3(nsec3)) => {
                count += 1;
                opt_out |= nsec3.opt_out();
            }
            _ => {}
        }
    }
    // One alone that denies a type stands at the name itself, and spans nothing.
    let leans_on_span = opt_out && count > 1;
    let proof = match (segment.is_negative(), count) {
        (false, _) => data.map(|record| record.proof).min().unwrap_or(Proof::Bogus),
        (true, 0) => Proof::Insecure,
        (true, _) => Proof::Secure,
    };
    if leans_on_span { proof.min(Proof::Insecure) } else { proof }
}

fn shorten(message: &mut Message, owner: &Name, proved: &DnsResponse) {
    for record in message.answers.iter_mut().filter(|record| record.name == *owner) {
        if let Some(other) = proved.answers.iter().find(|other| other.record_type() == record.record_type()) {
            record.ttl = record.ttl.min(other.ttl);
        }
    }
}

/// What the signatures over a set say by themselves.
fn reason_of(signatures: &[&RRSIG]) -> Option<u16> {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    // Signatures count seconds in 32 bits that wrap (RFC 4034 section 3.1.5).
    let now = SerialNumber::new(since_epoch as u32);
    if signatures.is_empty() {
        return Some(extended::RRSIGS_MISSING);
    }
    if signatures.iter().all(|signature| signature.input().sig_expiration < now) {
        return Some(extended::SIGNATURE_EXPIRED);
    }
    signatures.iter().all(|signature| signature.input().sig_inception > now).then_some(extended::SIGNATURE_NOT_YET_VALID)
}

/// What the keys of a signature's zone say.
fn reason_of_keys(signature: &RRSIG, keys: &DnsResponse) -> u16 {
    let mut fitting = keys.answers.iter().filter_map(|record| match &record.data {
        RData::DNSSEC(DNSSECRData::DNSKEY(key)) if key.calculate_key_tag().ok() == Some(signature.input().key_tag) => {
            Some((record, key))
        }
        _ => None,
    });
    let signatures: Vec<&RRSIG> = keys.answers.iter().filter_map(segment::signature).collect();
    match fitting.next() {
        Some((_, key)) if !key.zone_key() => extended::NO_ZONE_KEY,
        Some((record, _)) if record.proof == Proof::Secure => extended::DNSSEC_BOGUS,
        // The key is there and its own chain does not verify: its signature, or no delegation that names it.
        Some(_) => reason_of(&signatures).unwrap_or(extended::DNSKEY_MISSING),
        None => extended::DNSKEY_MISSING,
    }
}

/// The names whose keys and delegations a proof of this name stands on.
pub(super) fn zones_above(name: &Name) -> impl Iterator<Item = Name> {
    let name = name.to_lowercase();
    (0..=usize::from(name.num_labels())).map(move |labels| name.trim_to(labels))
}
