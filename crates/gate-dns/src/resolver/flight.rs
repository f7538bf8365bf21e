//! One question is asked once at a time: who comes while it is under way waits for the same answer. This keeps a burst of
//! clients from becoming a burst at the upstream, and takes the many tries from a birthday attack (RFC 5452 section 5).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::cache::{Entry, Key};
use super::forward::Failure;

/// Different questions under way at once; at 50 ms each it is 80,000 questions a second to upstreams.
const FLIGHTS_MAX: usize = 4096;

pub(crate) type Outcome = Result<Arc<Entry>, Failure>;

#[derive(Default)]
pub(crate) struct Flights {
    under_way: Mutex<HashMap<Key, watch::Receiver<Option<Outcome>>>>,
}

/// What one who asks has to do.
pub(crate) enum Role {
    /// Ask, and then land.
    Leader(Leader),
    /// Wait for the leader.
    Follower(watch::Receiver<Option<Outcome>>),
    /// Too much is under way.
    Refused,
}

/// The duty to land. Dropping it without landing lets the followers fail.
pub(crate) struct Leader {
    flights: Arc<Flights>,
    key: Key,
    outcome: watch::Sender<Option<Outcome>>,
}

impl Flights {
    pub(crate) fn board(self: &Arc<Self>, key: &Key) -> Role {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outcome) = under_way.get(key) {
            return Role::Follower(outcome.clone());
        }
        if under_way.len() >= FLIGHTS_MAX {
            return Role::Refused;
        }
        let (sender, receiver) = watch::channel(None);
        under_way.insert(key.clone(), receiver);
        Role::Leader(Leader { flights: Arc::clone(self), key: key.clone(), outcome: sender })
    }
}

impl Leader {
    pub(crate) fn follow(&self) -> watch::Receiver<Option<Outcome>> {
        self.outcome.subscribe()
    }

    pub(crate) fn land(self, outcome: Outcome) {
        self.outcome.send_replace(Some(outcome));
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.flights.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// The outcome of a flight that somebody else leads.
pub(crate) async fn await_landing(mut outcome: watch::Receiver<Option<Outcome>>) -> Outcome {
    match outcome.wait_for(Option::is_some).await {
        Ok(landed) => landed.clone().unwrap_or(Err(Failure::Abandoned)),
        Err(_) => Err(Failure::Abandoned),
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::RecordType;

    use super::*;

    fn key(host: &str) -> Key {
        let route = Box::default();
        Key { host: host.into(), kind: RecordType::A, dnssec_ok: false, checking_disabled: false, subnet: None, route }
    }

    #[tokio::test]
    async fn followers_share_the_leaders_outcome_and_the_next_starts_anew() {
        let flights = Arc::new(Flights::default());
        let Role::Leader(leader) = flights.board(&key("a.example")) else { panic!("no leader") };
        let Role::Follower(follower) = flights.board(&key("a.example")) else { panic!("no follower") };
        assert!(matches!(flights.board(&key("b.example")), Role::Leader(_)));
        leader.land(Err(Failure::Deadline));
        assert_eq!(await_landing(follower).await.unwrap_err(), Failure::Deadline);
        assert!(matches!(flights.board(&key("a.example")), Role::Leader(_)));
    }

    #[tokio::test]
    async fn a_leader_that_is_lost_fails_its_followers() {
        let flights = Arc::new(Flights::default());
        let Role::Leader(leader) = flights.board(&key("a.example")) else { panic!("no leader") };
        let Role::Follower(follower) = flights.board(&key("a.example")) else { panic!("no follower") };
        drop(leader);
        assert_eq!(await_landing(follower).await.unwrap_err(), Failure::Abandoned);
    }

    #[test]
    fn the_number_under_way_is_bounded() {
        let flights = Arc::new(Flights::default());
        let leaders: Vec<_> = (0..FLIGHTS_MAX).map(|number| flights.board(&key(&number.to_string()))).collect();
        assert!(matches!(flights.board(&key("one.more")), Role::Refused));
        drop(leaders);
        assert!(matches!(flights.board(&key("one.more")), Role::Leader(_)));
    }
}
