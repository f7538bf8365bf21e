//! What a proof needs on its way to the root, the keys and delegations of the zones above, asked for by the resolver's own
//! cache and upstreams. It is the one place where the validator touches the network, and it counts what one proof asks.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Weak;

use checkpoint::FailureMode;
use futures_util::future::FutureExt;
use futures_util::stream::Stream;
use hickory_net::NetError;
use hickory_net::runtime::TokioRuntimeProvider;
use hickory_net::xfer::DnsHandle;
use hickory_proto::op::{DnsRequest, DnsResponse, Message, MessageType, OpCode, Query};

use super::segment;
use crate::resolver::{DnsResolver, Failure, Inner, Question};

/// Questions that one proof may cause. A name of ten labels under four signed zones needs about fifteen.
const QUESTIONS_MAX: u32 = 64;

tokio::task_local! {
    /// What the proof that this task is making has done so far.
    static EFFORT: Effort;
}

/// What one proof has asked, and the first question that nobody answered.
#[derive(Default)]
pub(super) struct Effort {
    asked: Cell<u32>,
    failed: Cell<Option<Failure>>,
}

/// The way to the root. A request that is itself a response is returned as it is: that is how an answer at hand enters the
/// validator, which only knows how to ask.
#[derive(Clone)]
pub(super) struct Chain {
    resolver: Weak<Inner>,
}

impl Chain {
    pub(super) fn new(resolver: Weak<Inner>) -> Chain {
        Chain { resolver }
    }

    /// Runs one proof with its own count; returns the failure of the first question that had no answer.
    pub(super) async fn counted<F: Future>(proof: F) -> (F::Output, Option<Failure>) {
        let counting = async {
            let output = proof.await;
            (output, EFFORT.try_with(|effort| effort.failed.get()).ok().flatten())
        };
        EFFORT.scope(Effort::default(), counting).await
    }

    async fn ask(self, query: Query) -> Result<DnsResponse, NetError> {
        let resolver = self.resolver.upgrade().map(DnsResolver).ok_or(NetError::Message("the resolver is gone"))?;
        if !may_ask() {
            note(Failure::Overloaded);
            return Err(NetError::Message("the proof asks too much"));
        }
        let name = query.name().to_lowercase();
        let question = Question { name, kind: query.query_type(), dnssec_ok: true, checking_disabled: true, subnet: None };
        let (entry, _) = resolver.find(question, Box::default(), FailureMode::Closed).await.map_err(|failure| {
            note(failure);
            NetError::Message("the chain to the root is broken")
        })?;
        let mut message = Message::new(0, MessageType::Response, OpCode::Query);
        message.metadata.response_code = entry.reply.code;
        message.add_query(query);
        message.insert_answers(entry.reply.answers.clone());
        message.insert_authorities(entry.reply.authorities.clone());
        segment::bound(&mut message);
        Ok(DnsResponse::from_message(message)?)
    }
}

fn may_ask() -> bool {
    let count = |effort: &Effort| effort.asked.replace(effort.asked.get() + 1) < QUESTIONS_MAX;
    EFFORT.try_with(count).unwrap_or(false)
}

fn note(failure: Failure) {
    // Outside a proof there is nobody to tell; the error says the same.
    let _ = EFFORT.try_with(|effort| effort.failed.set(effort.failed.get().or(Some(failure))));
}

impl DnsHandle for Chain {
    type Response = Pin<Box<dyn Stream<Item = Result<DnsResponse, NetError>> + Send>>;
    type Runtime = TokioRuntimeProvider;

    fn send(&self, request: DnsRequest) -> Self::Response {
        let chain = self.clone();
        let answered = async move {
            let (message, _) = request.into_parts();
            if message.metadata.message_type == MessageType::Response {
                return Ok(DnsResponse::from_message(message)?);
            }
            let query = message.queries.into_iter().next().ok_or(NetError::Message("a request without a question"))?;
            chain.ask(query).await
        };
        Box::pin(answered.into_stream())
    }
}
