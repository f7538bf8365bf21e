//! What a rate usually is: its running average, the 95th percentile of the last seven days, and what it was in the same hour
//! of the week (DD-31). An hour is kept as one number; windows of an attack are not learned from.

/// Hours of a week.
pub const HOURS: usize = 168;
/// Until the average has forgotten half.
const HALF_LIFE_SECONDS: f64 = 60.0;
/// Steps of the histogram of one hour: four for each doubling, up to 2^40 a second.
const STEPS: usize = 160;
/// Windows of an hour before its percentile is believed.
const WINDOWS_MIN: u32 = 60;

/// One rate of one network.
#[derive(Clone, Debug)]
pub struct Baseline {
    average: f64,
    /// The percentile of each hour of the week that was seen.
    hours: Box<[Option<f32>; HOURS]>,
    hour: usize,
    histogram: Box<[u32; STEPS]>,
    windows: u32,
    /// Seconds that were learned in all.
    learned: f64,
}

impl Default for Baseline {
    fn default() -> Baseline {
        Baseline {
            average: 0.0,
            hours: Box::new([None; HOURS]),
            hour: 0,
            histogram: Box::new([0; STEPS]),
            windows: 0,
            learned: 0.0,
        }
    }
}

impl Baseline {
    /// Learns the rate of one ordinary window of so many seconds. The hour counts from Monday midnight, in whatever zone the caller keeps.
    pub fn learn(&mut self, rate: f64, seconds: f64, hour_of_week: usize) {
        let hour = hour_of_week % HOURS;
        if hour != self.hour {
            self.close_hour();
            self.hour = hour;
        }
        // At first the average of all that was seen, so that one odd window at the start is soon outweighed.
        let weight = (1.0 - 0.5_f64.powf(seconds / HALF_LIFE_SECONDS)).max(seconds / (self.learned + seconds));
        self.average += weight * (rate - self.average);
        self.learned += seconds;
        self.windows += 1;
        self.histogram[step_of(rate)] += 1;
    }

    /// What is usual now, at most: the largest of the average, the percentile of the week, and that of this hour.
    pub fn usual(&self, hour_of_week: usize) -> f64 {
        let hour = self.hours[hour_of_week % HOURS].map_or(0.0, f64::from);
        self.average.max(hour).max(self.week())
    }

    /// Seconds that were learned.
    pub fn learned(&self) -> f64 {
        self.learned
    }

    fn week(&self) -> f64 {
        let mut known: Vec<f32> = self.hours.iter().flatten().copied().collect();
        known.sort_unstable_by(f32::total_cmp);
        known.get((known.len() * 95 / 100).min(known.len().saturating_sub(1))).map_or(0.0, |rate| f64::from(*rate))
    }

    fn close_hour(&mut self) {
        if self.windows >= WINDOWS_MIN {
            let wanted = u64::from(self.windows) * 95 / 100;
            let mut below = 0;
            let step = self.histogram.iter().position(|count| {
                below += u64::from(*count);
                below > wanted
            });
            let rate = rate_of(step.unwrap_or(STEPS - 1)) as f32;
            let slot = &mut self.hours[self.hour];
            // Half of what the same hour was in earlier weeks: one odd week neither sets it nor is lost.
            *slot = Some(slot.map_or(rate, |earlier| (earlier + rate) / 2.0));
        }
        self.histogram.fill(0);
        self.windows = 0;
    }
}

fn step_of(rate: f64) -> usize {
    let step = (rate.max(1.0).log2() * 4.0).ceil();
    (step as usize).min(STEPS - 1)
}

/// The largest rate of a step.
fn rate_of(step: usize) -> f64 {
    2_f64.powf(step as f64 / 4.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Numbers;

    #[test]
    fn a_daily_rhythm_is_usual_at_its_hour_and_known_to_the_week() {
        let (mut baseline, mut numbers) = (Baseline::default(), Numbers::new(1));
        let rate = |hour: usize| if (9..18).contains(&(hour % 24)) { 8_000.0 } else { 500.0 };
        for hour in 0..2 * HOURS {
            for _ in 0..600 {
                baseline.learn(rate(hour) * (0.8 + numbers.below(400) as f64 / 1_000.0), 6.0, hour % HOURS);
            }
        }
        for hour in 0..HOURS {
            let usual = baseline.usual(hour);
            assert!((8_000.0..16_000.0).contains(&usual), "hour {hour}: {usual}");
        }
        assert!(
            baseline
                .hours
                .iter()
                .enumerate()
                .all(|(hour, kept)| { kept.is_none_or(|kept| (rate(hour)..rate(hour) * 1.5).contains(&f64::from(kept))) })
        );
    }

    #[test]
    fn rates_are_kept_to_a_fifth() {
        for exponent in 0..38 {
            let rate = 1.3 * 2_f64.powi(exponent);
            let kept = rate_of(step_of(rate));
            assert!(kept >= rate && kept <= rate * 1.2, "{rate} is kept as {kept}");
        }
    }
}
