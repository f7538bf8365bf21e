//! The meeting place of minds and hands: identity, inspectors, policy, obligations and the final event.
//!
//! A gate calls [`Checkpoint::examine`] for each transaction and holds the [`Passage`] until the end. Whatever ends it, a
//! verdict, a failure, a deadline, a panic or a dropped future, the passage records exactly one final event. Gates get
//! permits from here and from nowhere else.
#![forbid(unsafe_code)]

mod counts;
#[doc(hidden)]
pub mod fuzz;
mod identity;
mod passage;
mod password;
mod privacy;
mod round;
mod settings;
#[cfg(feature = "testing")]
pub mod testing;

use std::fs::File;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use identity::PasswordQuestion;
use model::{FieldId, Gate, Identity, Recorder, Session, SessionId, Station, Timestamp, Value};

use self::round::Followers;

pub use counts::counts;
pub use identity::{
    Credential, Directory, Location, TOKEN_PREFIX, TOKEN_SECRET_CHARS, Unproved, checked_token, secret_digest, token_of,
};
pub use passage::Passage;
pub use password::password_hash;
pub use policy::document::Ecs;
pub use policy::{Context, Permit, Refusal, Standing};
pub use privacy::{LogPrivacy, PrivacyRule};
pub use round::{Followed, Precedent, Round};
pub use scan::Verdict as ScanVerdict;
pub use settings::{FailureMode, Settings};

/// What a scan comes back with, boxed so that the worker pool and the tests can both be scanners.
pub type Scanning<'a> = Pin<Box<dyn Future<Output = scan::Report> + Send + 'a>>;

/// Opens files. The worker pool is one; so is the in-process scanner of the tests.
pub trait Scanner: Send + Sync {
    fn scan<'a>(&'a self, file: File, name: &'a str, deadline: Duration) -> Scanning<'a>;

    /// What would come back for a file with this SHA-256 and so many bytes, where that is known already.
    fn known(&self, _sha256: [u8; 32], _bytes: u64, _name: &str) -> Option<scan::Report> {
        None
    }
}

impl Scanner for scan::host::Pool {
    fn scan<'a>(&'a self, file: File, name: &'a str, deadline: Duration) -> Scanning<'a> {
        Box::pin(scan::host::Pool::scan(self, file, name, deadline))
    }

    fn known(&self, sha256: [u8; 32], bytes: u64, name: &str) -> Option<scan::Report> {
        scan::host::Pool::known(self, sha256, bytes, name)
    }
}

/// Where the time comes from: the system's clock, or a test's own.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The one place that every transaction passes. Clones share everything.
#[derive(Clone)]
pub struct Checkpoint(Arc<Inner>);

struct Inner {
    state: ArcSwap<State>,
    recorder: Arc<dyn Recorder>,
    scanner: Option<Arc<dyn Scanner>>,
    clock: Clock,
    sessions: AtomicU64,
    transactions: AtomicU64,
    passwords: password::Passwords,
}

/// All that decides, swapped in whole, so that no transaction sees half of a change.
#[derive(Clone)]
struct State {
    policy: policy::Policy,
    knowledge: intel::Snapshot,
    directory: Arc<Directory>,
    settings: Settings,
    /// How many states there were before. No two states of a checkpoint have the same number.
    generation: u64,
    /// By gate, who may follow a transaction.
    followers: [Followers; Gate::ALL.len()],
}

impl State {
    fn new(policy: policy::Policy, knowledge: intel::Snapshot, settings: Settings) -> State {
        let directory = Arc::new(Directory::from_document(policy.document()));
        State { policy, knowledge, directory, settings, generation: 0, followers: [Followers::Nobody; Gate::ALL.len()] }.next(0)
    }

    /// The state after a change.
    fn next(mut self, generation: u64) -> State {
        self.generation = generation;
        for (gate, followers) in Gate::ALL.iter().zip(&mut self.followers) {
            *followers = Followers::of(&self.policy, &self.knowledge, *gate);
        }
        self
    }

    fn followers(&self, gate: Gate) -> Followers {
        Gate::ALL.iter().zip(&self.followers).find(|(of, _)| **of == gate).map_or(Followers::Nobody, |(_, followers)| *followers)
    }
}

impl Checkpoint {
    /// `first_transaction` seeds the references, so that those of two runs of one installation differ.
    pub fn new(
        policy: policy::Policy,
        knowledge: intel::Snapshot,
        settings: Settings,
        recorder: Arc<dyn Recorder>,
        scanner: Option<Arc<dyn Scanner>>,
        first_transaction: u64,
    ) -> Checkpoint {
        let clock: Clock = Arc::new(|| SystemTime::now().into());
        Checkpoint::with_clock(policy, knowledge, settings, recorder, scanner, first_transaction, clock)
    }

    /// The same with a clock of the caller's.
    pub fn with_clock(
        policy: policy::Policy,
        knowledge: intel::Snapshot,
        settings: Settings,
        recorder: Arc<dyn Recorder>,
        scanner: Option<Arc<dyn Scanner>>,
        first_transaction: u64,
        clock: Clock,
    ) -> Checkpoint {
        Checkpoint(Arc::new(Inner {
            state: ArcSwap::from_pointee(State::new(policy, knowledge, settings)),
            recorder,
            scanner,
            clock,
            sessions: AtomicU64::new(1),
            transactions: AtomicU64::new(first_transaction),
            passwords: password::Passwords::default(),
        }))
    }

    /// Swaps the policy in. Transactions that have begun end by the policy that they began with.
    pub fn publish_policy(&self, policy: policy::Policy) {
        let directory = Arc::new(Directory::from_document(policy.document()));
        self.change(|state| State { policy: policy.clone(), directory: directory.clone(), ..state });
    }

    /// Swaps in what is known of names, addresses and files.
    pub fn publish_knowledge(&self, knowledge: intel::Snapshot) {
        self.change(|state| State { knowledge: knowledge.clone(), ..state });
    }

    /// Swaps in other settings.
    pub fn publish_settings(&self, settings: Settings) {
        self.change(|state| State { settings: settings.clone(), ..state });
    }

    fn change(&self, change: impl Fn(State) -> State) {
        self.0.state.rcu(|state| change(State::clone(state)).next(state.generation + 1));
    }

    /// The user whom this credential proves, or why it proves nobody.
    pub fn identify(&self, credential: &Credential<'_>) -> Result<Arc<Identity>, Unproved> {
        self.0.state.load().directory.identify(credential, self.now())
    }

    /// The same where a password may have to be hashed: it waits for that without holding a thread.
    pub async fn authenticate(&self, credential: &Credential<'_>) -> Result<Arc<Identity>, Unproved> {
        match self.identify(credential) {
            Err(Unproved::Unknown) => {}
            outcome => return outcome,
        }
        let (user, password, asked) = self.password_question(credential)?;
        let is_right = self.0.passwords.check(user, &asked.hash, password).await;
        asked.answer(is_right)
    }

    /// The same on the caller's thread, for a handshake that cannot wait otherwise.
    pub fn authenticate_blocking(&self, credential: &Credential<'_>) -> Result<Arc<Identity>, Unproved> {
        match self.identify(credential) {
            Err(Unproved::Unknown) => {}
            outcome => return outcome,
        }
        let (user, password, asked) = self.password_question(credential)?;
        let is_right = self.0.passwords.check_blocking(user, &asked.hash, password);
        asked.answer(is_right)
    }

    fn password_question<'c>(&self, credential: &Credential<'c>) -> Result<(&'c str, &'c str, PasswordQuestion), Unproved> {
        let Credential::Basic { user, password } = credential else { return Err(Unproved::Unknown) };
        let asked = self.0.state.load().directory.password_question(user);
        Ok((user, password, asked.ok_or(Unproved::Unknown)?))
    }

    /// The location document of a client: by its token where one is given, else by its network.
    pub fn locate(&self, client: IpAddr, doh_token: Option<&str>) -> Option<Location> {
        self.0.state.load().directory.locate(client, doh_token)
    }

    pub fn next_session(&self) -> SessionId {
        SessionId(self.0.sessions.fetch_add(1, Ordering::Relaxed))
    }

    /// Begins one transaction. The facts of its connection are filled in; the gate adds the others.
    pub fn examine(&self, session: &Session) -> Passage {
        Passage::begin(self.clone(), self.0.state.load_full(), session, None)
    }

    /// The same for a transaction that may be over without waiting for anything: until the gate says that it waits, this
    /// moment of [`Checkpoint::now`] stands for all of it, so that a gate reads the clock once for many.
    pub fn examine_at(&self, session: &Session, moment: Timestamp) -> Passage {
        Passage::begin(self.clone(), self.0.state.load_full(), session, Some(moment))
    }

    /// Begins the transactions that a gate has taken at one moment, at most so many of them.
    pub fn round(&self, moment: Timestamp, transactions_max: usize) -> Round<'_> {
        Round::new(self, moment, transactions_max)
    }

    /// The user with this address, as `explain` needs one; it proves nothing and so never leads to a permit.
    pub fn user(&self, email: &str) -> Option<Arc<Identity>> {
        self.0.state.load().directory.user(email)
    }

    /// What the policy would say of such a transaction: every rule read, and what it waited for. Nothing is recorded.
    pub fn explain(&self, session: &Session, host: &str, told: Vec<(FieldId, Value)>, station: Station) -> policy::Explanation {
        let state = self.0.state.load_full();
        let mut passage = Passage::rehearse(self.clone(), state.clone(), session);
        passage.learn_host(host);
        for (field, value) in told {
            passage.learn(field, value);
        }
        passage.reach(station);
        state.policy.explain(passage.facts(), self.now())
    }

    /// What is known of a host, as a rule of this gate would see it: for records, which do not keep all that is derived.
    pub fn host_knowledge(&self, gate: model::Gate, host: &str) -> Vec<(FieldId, Value)> {
        passage::host_knowledge(&self.0.state.load().knowledge, gate, host).collect()
    }

    /// Adds what a record does not keep because it follows from what it keeps: the user's mailbox, and what is known of the
    /// addresses of an answer.
    pub fn derive_again(&self, facts: &mut model::Facts) {
        passage::learn_addresses(&self.0.state.load().knowledge, facts);
        if let Some(mailbox) = facts.get(FieldId::UserEmail).and_then(Value::as_text).map(model::identity::mailbox) {
            facts.set(FieldId::UserMailbox, Value::text(mailbox));
        }
    }

    /// How long a gate may hold bytes for a scan, and what it does when that is over.
    pub fn settings(&self) -> Settings {
        self.0.state.load().settings.clone()
    }

    /// The clock by which transactions are dated and rules are in force.
    pub fn now(&self) -> Timestamp {
        (self.0.clock)()
    }

    fn next_transaction(&self) -> u64 {
        self.0.transactions.fetch_add(1, Ordering::Relaxed)
    }

    fn next_transactions(&self, count: u64) -> std::ops::Range<u64> {
        let first = self.0.transactions.fetch_add(count, Ordering::Relaxed);
        first..first.saturating_add(count)
    }
}
