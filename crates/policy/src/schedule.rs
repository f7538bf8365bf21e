//! When a rule is in force (GW-007, GW-008): hours of the week in a named time zone, and a last moment. The zone data are
//! compiled in, so that the answer does not hang on the machine. On the day a clock is set back, the hour that comes twice
//! counts twice; an hour that is skipped never comes.

use jiff::tz::TimeZone;
use model::Timestamp;

use crate::Problem;
use crate::document;

/// Spans of one day (GW-007).
const SPANS_MAX: usize = 6;

const MINUTES_OF_DAY: u16 = 24 * 60;

/// When a rule is in force.
#[derive(Clone, Debug, Default)]
pub(crate) struct Validity {
    schedule: Option<Schedule>,
    expires: Option<Timestamp>,
}

#[derive(Clone, Debug)]
struct Schedule {
    zone: TimeZone,
    /// Minutes of the day, closed below and open above, Monday first.
    days: [Vec<(u16, u16)>; 7],
}

impl Validity {
    pub(crate) fn parse(
        schedule: Option<&document::Schedule>,
        expires: Option<&str>,
        zone: Option<&str>,
    ) -> Result<Validity, Problem> {
        Ok(Validity {
            schedule: schedule.map(|schedule| Schedule::parse(schedule, zone)).transpose()?,
            expires: expires.map(parse_moment).transpose()?,
        })
    }

    pub(crate) fn is_always(&self) -> bool {
        self.schedule.is_none() && self.expires.is_none()
    }

    pub(crate) fn has_hours(&self) -> bool {
        self.schedule.is_some()
    }

    pub(crate) fn expires(&self) -> Option<Timestamp> {
        self.expires
    }

    pub(crate) fn has_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    pub(crate) fn is_in_force(&self, now: Timestamp) -> bool {
        !self.has_expired(now) && self.schedule.as_ref().is_none_or(|schedule| schedule.covers(now))
    }
}

pub(crate) fn parse_moment(text: &str) -> Result<Timestamp, Problem> {
    text.parse::<jiff::Timestamp>().map(|at| Timestamp(at.as_microsecond())).map_err(|_| {
        Problem::new(format!("`{text}` is no moment")).expected("RFC 3339 with an offset, 2026-12-31T18:00:00+09:00")
    })
}

impl Schedule {
    fn parse(schedule: &document::Schedule, default_zone: Option<&str>) -> Result<Schedule, Problem> {
        let name = schedule.time_zone.as_deref().or(default_zone).ok_or_else(|| {
            Problem::new("the schedule names no time zone")
                .expected("`time_zone` here or in `[settings]`, for example \"Asia/Tokyo\"")
        })?;
        let zone = TimeZone::get(name)
            .map_err(|_| Problem::new(format!("there is no time zone `{name}`")).expected("a name such as `Europe/Paris`"))?;
        let document::Schedule { mon, tue, wed, thu, fri, sat, sun, .. } = schedule;
        let mut days: [Vec<(u16, u16)>; 7] = Default::default();
        for (spans, written) in days.iter_mut().zip([mon, tue, wed, thu, fri, sat, sun]) {
            *spans = written.as_deref().map(parse_spans).transpose()?.unwrap_or_default();
        }
        Ok(Schedule { zone, days })
    }

    fn covers(&self, now: Timestamp) -> bool {
        let Ok(now) = jiff::Timestamp::from_microsecond(now.0) else { return false };
        let local = self.zone.to_datetime(now);
        let minute = local.hour() as u16 * 60 + local.minute() as u16;
        let Some(day) = self.days.get(local.weekday().to_monday_zero_offset() as usize) else { return false };
        day.iter().any(|(from, to)| (*from..*to).contains(&minute))
    }
}

fn parse_spans(text: &str) -> Result<Vec<(u16, u16)>, Problem> {
    let wrong = || Problem::new(format!("`{text}` is no list of hours")).expected("`HH:MM-HH:MM[,...]`, rising, 00:00 to 24:00");
    let mut spans: Vec<(u16, u16)> = Vec::new();
    for span in text.split(',') {
        let (from, to) = span.trim().split_once('-').ok_or_else(wrong)?;
        let (from, to) = (parse_minute(from).ok_or_else(wrong)?, parse_minute(to).ok_or_else(wrong)?);
        if from >= to || spans.last().is_some_and(|(_, end)| from < *end) {
            return Err(wrong());
        }
        spans.push((from, to));
    }
    match spans.len() > SPANS_MAX {
        true => Err(Problem::new(format!("{} spans in one day", spans.len())).expected(format!("at most {SPANS_MAX}"))),
        false => Ok(spans),
    }
}

fn parse_minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let is_two_digits = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_two_digits(hour) || !is_two_digits(minute) {
        return None;
    }
    let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
    let minutes = hour * 60 + minute;
    (minute < 60 && minutes <= MINUTES_OF_DAY).then_some(minutes)
}
