//! The shield as the program runs it: the sweep, the record of what was refused, and the operator's bans, which outlive a
//! restart. Who is refused is decided by `shield::admission`.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use model::{Class, Disposition, Event, EventId, Facts, FieldId, Gate, Recorder, Severity, Timestamp, Value};
use net::admission::{Admission, Moment, Reason, Report, now as moment};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use shield::admission::Ban;
use shield::guard::{Guard, Incident, News};
use shield::notice::{Notice, Notices, NoticesSpec, State};
use shield::packets::{PacketsConfig, PacketsSpec};
use shield::{ShieldConfig, ShieldSpec};
use store::Store;

use crate::notices::Outbox;
use crate::operations::{now, time_text};

/// How often slow connections are looked for. Their deadlines are seconds.
const SWEEP: Duration = Duration::from_secs(1);
/// Events of one report; a flood from more sources than this is told by the rest's number.
const EVENTS_MAX: usize = 1_000;
/// The rule that a refused connection's event names.
const RULE: &str = "builtin.shield";
/// How often samples are read: a rule is in force within two or three of these.
const PACKET_ROUND: Duration = Duration::from_millis(50);
/// Rounds between two looks at the bans that the packet path enforces.
const ROUNDS_A_BAN: u32 = 20;
/// The rule that an attack's events name.
const ATTACK_RULE: &str = "builtin.shield.attack";
/// Sources and bans that the status shows.
const SHOWN_MAX: usize = 100;

/// Admission with what keeps it.
pub struct Shield {
    pub admission: Arc<Admission>,
    path: PathBuf,
    writing: Mutex<()>,
    packets: Mutex<Packets>,
    told: Mutex<Told>,
    is_stopping: AtomicBool,
}

/// The packet path, as far as it is there.
#[derive(Default)]
struct Packets {
    spec: Option<Json>,
    guard: Option<Guard>,
    /// Why it is not there although it was asked for.
    trouble: Option<String>,
}

/// Who is told, and what they were told already.
struct Told {
    spec: Json,
    outbox: Outbox,
    notices: Notices,
}

/// A ban as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    network: IpNet,
    until: i64,
}

impl Shield {
    /// With the bans that an earlier run kept.
    pub fn open(spec: &ShieldSpec, data: &Path) -> Result<Shield> {
        let shield = Shield {
            admission: Admission::new(ShieldConfig::resolve(spec)?),
            path: data.join("shield-bans.json"),
            writing: Mutex::default(),
            packets: Mutex::default(),
            told: Mutex::new(Told {
                spec: Json::Null,
                outbox: Outbox::open(&NoticesSpec::default())?,
                notices: Notices::default(),
            }),
            is_stopping: AtomicBool::new(false),
        };
        if shield.path.exists() {
            let place = || format!("the bans in {}", shield.path.display());
            let kept: Vec<Kept> =
                serde_json::from_slice(&std::fs::read(&shield.path).with_context(place)?).with_context(place)?;
            let now = moment();
            for ban in kept {
                if let Some(until) = moment_of(Timestamp(ban.until)) {
                    shield.admission.ban(ban.network, until, now).with_context(place)?;
                }
            }
        }
        Ok(shield)
    }

    pub fn ban(&self, network: IpNet, seconds: u64) -> Result<Json> {
        let until = moment().plus(Duration::from_secs(seconds));
        self.admission.ban(network, until, moment())?;
        self.keep()?;
        tracing::info!(%network, seconds, "banned by command");
        Ok(json!({ "network": network.trunc().to_string(), "until": time_text(time_of(until)) }))
    }

    pub fn unban(&self, network: IpNet) -> Result<Json> {
        let lifted = self.admission.unban(network, moment());
        self.keep()?;
        tracing::info!(%network, lifted, "bans lifted by command");
        Ok(json!({ "lifted": lifted }))
    }

    pub fn status(&self) -> Json {
        let listeners = self.admission.listeners();
        let listeners = listeners.iter().map(|listener| {
            let refused = Reason::ALL.iter().map(|reason| (reason.as_str().to_owned(), json!(listener.refused(*reason))));
            json!({
                "gate": listener.gate, "door": listener.door, "address": listener.address.to_string(), "open": listener.open(),
                "admitted": listener.admitted(), "refused": Json::Object(refused.collect()),
            })
        });
        let bans = self.admission.bans(moment());
        let shown = bans.iter().take(SHOWN_MAX).map(|ban| {
            let by = if ban.by_operator { "operator" } else { "shield" };
            json!({ "network": ban.network.to_string(), "until": time_text(time_of(ban.until)), "by": by })
        });
        let busiest = self.admission.busiest(SHOWN_MAX).into_iter();
        let busiest = busiest
            .map(|busy| json!({ "source": busy.source.network().to_string(), "open": busy.open, "refused": busy.refused }));
        json!({
            "mode": self.admission.mode(),
            "sources": self.admission.sources(),
            "listeners": listeners.collect::<Vec<_>>(),
            "bans": bans.len(),
            "longest_bans": shown.collect::<Vec<_>>(),
            "busiest": busiest.collect::<Vec<_>>(),
            "packets": self.packets_status(),
        })
    }

    fn packets_status(&self) -> Json {
        let packets = self.packets();
        let status = packets.guard.as_ref().map(|guard| guard.status(moment()));
        match status {
            Some(Ok(status)) => json!(status),
            Some(Err(error)) => json!({ "trouble": chain(&error) }),
            None => json!({ "interfaces": [], "trouble": packets.trouble }),
        }
    }

    /// Loads the packet path where it is asked for and is not there as it is to be. Without it connections are still admitted
    /// or refused; the log and the status say why it is not there.
    pub fn publish_packets(&self, spec: &PacketsSpec) -> Result<()> {
        let (written, config) = (serde_json::to_value(spec)?, PacketsConfig::resolve(spec)?);
        let mut packets = self.packets();
        if packets.spec.as_ref() == Some(&written) {
            return Ok(());
        }
        // The earlier one lets go of its interfaces first.
        *packets = Packets { spec: Some(written), ..Packets::default() };
        let Some(config) = config else { return Ok(()) };
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("the system gives no randomness: {error}"))?;
        match Guard::start(&config, u64::from_ne_bytes(seed)) {
            Ok(guard) => {
                for (interface, how) in guard.attached() {
                    tracing::info!(interface, mode = how.as_str(), "packets are looked at");
                }
                if let Some(address) = guard.listening() {
                    tracing::info!(%address, "listening for sFlow; floods are told and not dropped here");
                }
                packets.guard = Some(guard);
            }
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(error, "packets are not looked at; connections are admitted in user space alone");
                packets.trouble = Some(error);
            }
        }
        Ok(())
    }

    /// Tells others from now on, where others are to be told.
    pub fn publish_notices(&self, spec: &NoticesSpec) -> Result<()> {
        let written = serde_json::to_value(spec)?;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.spec != written {
            (told.outbox, told.spec) = (Outbox::open(spec)?, written);
        }
        Ok(())
    }

    pub fn test_notice(&self) -> Result<Json> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(told.outbox.is_open(), "no notices are configured, or nothing runs; see [shield.notices] in docs/shield.md");
        told.outbox.send(Notice::new(State::Test, Incident::sample(), now().0 / 1_000));
        Ok(json!({}))
    }

    fn notify(&self, news: &News) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(notice) = told.notices.of(news, moment(), now().0 / 1_000) {
            told.outbox.send(notice);
        }
    }

    fn packets(&self) -> MutexGuard<'_, Packets> {
        self.packets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at packets until told to stop, on a thread of its own: a round is a few system calls that never wait.
    pub fn watch_packets(self: &Arc<Self>, store: Store) -> std::io::Result<std::thread::JoinHandle<()>> {
        let shield = Arc::clone(self);
        std::thread::Builder::new().name("shield-packets".to_owned()).spawn(move || {
            let mut rounds: u32 = 0;
            while !shield.is_stopping.load(Ordering::Relaxed) {
                shield.packet_round(&store, rounds.is_multiple_of(ROUNDS_A_BAN));
                rounds = rounds.wrapping_add(1);
                std::thread::sleep(PACKET_ROUND);
            }
        })
    }

    fn packet_round(&self, store: &Store, with_bans: bool) {
        let mut packets = self.packets();
        let Some(guard) = packets.guard.as_mut() else { return };
        let now = moment();
        let bans = if with_bans { guard.deny(&self.admission.bans(now)) } else { Ok(()) };
        let news = bans.and_then(|()| guard.round(now, hour_of_week(crate::operations::now())));
        match news {
            Ok(news) => news.iter().for_each(|news| {
                tell(store, news);
                self.notify(news);
            }),
            Err(error) => {
                let error = chain(&error);
                tracing::error!(error, "packets are not looked at any more");
                (packets.guard, packets.trouble) = (None, Some(error));
            }
        }
    }

    /// Ends the thread that looks at packets.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Prometheus text: counts, no addresses of clients.
    pub fn metrics(&self) -> String {
        let listeners = self.admission.listeners();
        let mut text = String::from("# TYPE sekisho_shield_connections_admitted_total counter\n");
        let labels = |listener: &net::admission::Listener| {
            format!("gate=\"{}\",door=\"{}\",address=\"{}\"", listener.gate, listener.door, listener.address)
        };
        for listener in &listeners {
            let (labels, count) = (labels(listener), listener.admitted());
            text.push_str(&format!("sekisho_shield_connections_admitted_total{{{labels}}} {count}\n"));
        }
        text.push_str("# TYPE sekisho_shield_connections_refused_total counter\n");
        for listener in &listeners {
            for reason in Reason::ALL {
                let (labels, count) = (labels(listener), listener.refused(reason));
                let reason = reason.as_str();
                text.push_str(&format!("sekisho_shield_connections_refused_total{{{labels},reason=\"{reason}\"}} {count}\n"));
            }
        }
        text.push_str("# TYPE sekisho_shield_connections_open gauge\n");
        for listener in &listeners {
            text.push_str(&format!("sekisho_shield_connections_open{{{}}} {}\n", labels(listener), listener.open()));
        }
        text.push_str(&format!("# TYPE sekisho_shield_sources gauge\nsekisho_shield_sources {}\n", self.admission.sources()));
        let bans = self.admission.bans(moment()).len();
        text.push_str(&format!("# TYPE sekisho_shield_bans gauge\nsekisho_shield_bans {bans}\n"));
        if let Some(Ok(counts)) = self.packets().guard.as_ref().map(Guard::counts) {
            text.push_str("# TYPE sekisho_shield_packets_total counter\n");
            for (reason, count) in shield::xdp::Reason::ALL.iter().zip(counts) {
                text.push_str(&format!("sekisho_shield_packets_total{{reason=\"{}\"}} {count}\n", reason.as_str()));
            }
        }
        text
    }

    /// Sweeps until the future is dropped.
    pub async fn watch(self: Arc<Self>, store: Store) {
        let mut rounds = tokio::time::interval(SWEEP);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            record(&store, self.admission.sweep(moment()).reports);
        }
    }

    /// Records what was refused since the last report, at the end of the program.
    pub fn finish(&self, store: &Store) {
        record(store, self.admission.take_reports());
    }

    fn keep(&self) -> Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let bans = self.admission.bans(moment()).into_iter().filter(|ban| ban.by_operator);
        let kept: Vec<Kept> = bans.map(|Ban { network, until, .. }| Kept { network, until: time_of(until).0 }).collect();
        let aside = self.path.with_extension("partial");
        let place = || format!("cannot write {}", self.path.display());
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&aside).with_context(place)?;
        file.write_all(&serde_json::to_vec(&kept)?)?;
        file.sync_all()?;
        std::fs::rename(&aside, &self.path).with_context(place)
    }
}

fn record(store: &Store, reports: Vec<Report>) {
    let beyond: u64 = reports.iter().skip(EVENTS_MAX).map(|report| report.count).sum();
    for report in reports.iter().take(EVENTS_MAX) {
        if let Some(ban) = report.ban {
            tracing::info!(
                gate = report.listener.gate,
                reason = report.reason.as_str(),
                seconds = ban.as_secs(),
                "a source is banned"
            );
        }
        store.record(event_of(report));
    }
    if beyond > 0 {
        tracing::warn!(refused = beyond, "refusals of more sources than are recorded one by one");
    }
}

/// One event for all refusals of a source, at a listener, for one reason, since the last report.
fn event_of(report: &Report) -> Event {
    let disposition = if report.is_monitored { Disposition::Allowed } else { Disposition::Blocked };
    let mut facts = Facts::new(Gate::L4);
    if let Some(source) = report.source {
        facts.set(FieldId::SourceIp, Value::Ip(source.address()));
    }
    let spread = report.last.since(report.first);
    let extra = json!({
        "shield_gate": report.listener.gate,
        "ban_seconds": report.ban.map(|ban| ban.as_secs()),
        "network": report.source.map(|source| source.network().to_string()),
    });
    for (field, value) in [
        (FieldId::Protocol, Value::text("tcp")),
        (FieldId::OnRamp, Value::text(report.listener.door)),
        (FieldId::DestinationIp, Value::Ip(report.listener.address.ip())),
        (FieldId::DestinationPort, Value::Int(i64::from(report.listener.address.port()))),
        (FieldId::Count, Value::Int(i64::try_from(report.count).unwrap_or(i64::MAX))),
        (FieldId::DurationMs, Value::Int(i64::try_from(spread.as_millis()).unwrap_or(i64::MAX))),
        (FieldId::VerdictOutcome, Value::text(disposition.as_str())),
        (FieldId::DispositionId, Value::Int(disposition.id())),
        (FieldId::ActionId, Value::Int(disposition.action_id())),
        (FieldId::VerdictRule, Value::text(RULE)),
        (FieldId::Failure, Value::text(report.reason.as_str())),
        (FieldId::Extra, Value::text(extra.to_string())),
    ] {
        facts.set(field, value);
    }
    Event { id: EventId(0), time: now(), class: Class::NetworkActivity, facts }
}

/// Log line and event of what came to pass.
fn tell(store: &Store, news: &News) {
    match news {
        News::Begun(incident) => {
            tracing::warn!(kind = incident.kind, target = %incident.target, "an attack has begun");
            store.record(incident_event(incident, "begun", Disposition::NoAction));
        }
        News::Mitigated(incident) => {
            tracing::warn!(kind = incident.kind, target = %incident.target, "an attack has a rule");
            store.record(incident_event(incident, "mitigated", Disposition::Dropped));
        }
        News::Ended(incident) => {
            tracing::warn!(kind = incident.kind, target = %incident.target, seconds = incident.seconds, "an attack has ended");
            store.record(incident_event(incident, "ended", Disposition::Dropped));
        }
        News::RuleWithdrawn { rule, why } => tracing::info!(rule, why = why.as_str(), "a rule against an attack was withdrawn"),
    }
}

/// The state of an incident, with its timeline so far (DD-34).
fn incident_event(incident: &Incident, state: &str, disposition: Disposition) -> Event {
    let mut facts = Facts::new(Gate::Api);
    for (field, value) in [
        (FieldId::VerdictRule, Value::text(ATTACK_RULE)),
        (FieldId::DestinationIp, Value::Ip(incident.target.addr())),
        (FieldId::Failure, Value::text(state)),
        (FieldId::SeverityId, Value::Int(Severity::High.id())),
        (FieldId::VerdictOutcome, Value::text(disposition.as_str())),
        (FieldId::DispositionId, Value::Int(disposition.id())),
        (FieldId::ActionId, Value::Int(disposition.action_id())),
        (FieldId::Findings, Value::texts([format!("attack on {} by {}", incident.target, incident.kind)])),
        (FieldId::Extra, Value::text(json!(incident).to_string())),
    ] {
        facts.set(field, value);
    }
    Event { id: EventId(0), time: now(), class: Class::DetectionFinding, facts }
}

/// Hours since Monday midnight, UTC. The first of January 1970 was a Thursday.
fn hour_of_week(at: Timestamp) -> usize {
    let hours = at.0.div_euclid(3_600_000_000) + 3 * 24;
    usize::try_from(hours.rem_euclid(168)).unwrap_or_default()
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The time of the calendar at a moment of admission's clock.
fn time_of(at: Moment) -> Timestamp {
    let (here, micros) = (moment(), |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX));
    match at >= here {
        true => now().plus_micros(micros(at.since(here))),
        false => now().plus_micros(micros(here.since(at)).saturating_neg()),
    }
}

/// The moment of a time that is still to come.
fn moment_of(at: Timestamp) -> Option<Moment> {
    let left = u64::try_from(at.0.checked_sub(now().0)?).ok().filter(|left| *left > 0)?;
    Some(moment().plus(Duration::from_micros(left)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_count_from_monday() {
        assert_eq!(hour_of_week(Timestamp(0)), 72);
        // Tuesday, 2026-11-24, 12:00 UTC.
        assert_eq!(hour_of_week(Timestamp::from_seconds(1_795_521_600)), 36);
    }

    #[test]
    fn bans_of_the_operator_outlive_a_restart_until_they_end() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let open = || Shield::open(&ShieldSpec::default(), folder.path());
        open()?.ban("203.0.113.0/24".parse()?, 3_600)?;
        let shield = open()?;
        let bans = shield.admission.bans(moment());
        let left = bans.first().map(|ban| ban.until.since(moment()).as_secs()).unwrap_or_default();
        assert!(bans.len() == 1 && (3_500..=3_600).contains(&left), "{bans:?}");
        assert_eq!(shield.unban("0.0.0.0/0".parse()?)?["lifted"], 1);
        assert!(open()?.admission.bans(moment()).is_empty());
        std::fs::write(folder.path().join("shield-bans.json"), "[{")?;
        assert!(open().is_err_and(|error| format!("{error:#}").contains("shield-bans.json")));
        Ok(())
    }
}
