//! How long things take: a distribution that one thread counts, and what it stands at.

use std::cell::Cell;
use std::ops::AddAssign;
use std::time::Duration;

/// How many bounds there are.
const BOUNDS: usize = 14;
/// Upper bounds of the buckets, in seconds: from a checkout on a quiet machine to a stuck one.
pub const SECONDS: [f64; BOUNDS] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];
/// The same in microseconds.
const MICROS: [u64; BOUNDS] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000, 30_000_000];

/// A distribution as one thread counts it.
#[derive(Debug, Default)]
pub struct Times {
    /// By bucket; the last is for what is over every bound.
    counts: [Cell<u64>; BOUNDS + 1],
    sum: Cell<Duration>,
}

impl Times {
    /// One more.
    pub fn add(&self, time: Duration) {
        // Rounded up, and without 128-bit arithmetic: this is on the path of every query.
        let nanos = u64::from(time.subsec_nanos());
        let micros = time.as_secs().saturating_mul(1_000_000).saturating_add(nanos.div_ceil(1000));
        let count = &self.counts[MICROS.partition_point(|bound| *bound < micros)];
        count.set(count.get() + 1);
        self.sum.set(self.sum.get().saturating_add(time));
    }

    /// What it stands at.
    #[must_use]
    pub fn histogram(&self) -> Histogram {
        Histogram { counts: std::array::from_fn(|at| self.counts[at].get()), sum: self.sum.get() }
    }
}

/// A distribution at one moment.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BOUNDS + 1],
    sum: Duration,
}

impl Histogram {
    /// Each bound in seconds, with how many were no longer.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut total = 0;
        SECONDS.iter().zip(&self.counts).map(move |(bound, count)| {
            total += count;
            (*bound, total)
        })
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The time in seconds that this part of them (0.5: half) took no longer than, as Prometheus' `histogram_quantile` reckons it: evenly spread
    /// within a bucket, and the last bound for what is over every one. None if there were none.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn quantile(&self, part: f64) -> Option<f64> {
        let rank = part * self.count() as f64;
        let (mut below, mut lower) = (0.0, 0.0);
        for (bound, count) in SECONDS.iter().zip(&self.counts) {
            let count = *count as f64;
            if count > 0.0 && below + count >= rank {
                return Some(lower + (bound - lower) * ((rank - below) / count));
            }
            (below, lower) = (below + count, *bound);
        }
        (self.count() > 0).then_some(lower)
    }

    /// What has come since it was like this.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let counts = std::array::from_fn(|at| self.counts[at].saturating_sub(earlier.counts[at]));
        Self { counts, sum: self.sum.saturating_sub(earlier.sum) }
    }

    /// All together.
    #[must_use]
    pub const fn sum(&self) -> Duration {
        self.sum
    }
}

impl AddAssign<&Self> for Histogram {
    fn add_assign(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.sum = self.sum.saturating_add(other.sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_counts_up_to_and_with_its_bound() {
        let times = Times::default();
        for micros in [100, 101, 250, 30_000_000, 30_000_001] {
            times.add(Duration::from_micros(micros));
        }
        times.add(Duration::from_nanos(100_001));
        let mut twice = times.histogram();
        twice += &times.histogram();
        let counts: Vec<_> = twice.cumulative().map(|(_, count)| count).collect();
        assert_eq!((counts[0], counts[1], counts[12], counts[13], twice.count()), (2, 8, 8, 10, 12));
        assert_eq!(twice.sum(), 2 * (Duration::from_micros(60_000_452) + Duration::from_nanos(100_001)));
    }

    #[test]
    fn quantiles_are_reckoned_within_the_bucket() {
        let times = Times::default();
        assert_eq!(times.histogram().quantile(0.5), None);
        (0..3).for_each(|_| times.add(Duration::from_millis(60)));
        let earlier = times.histogram();
        (0..8).for_each(|_| times.add(Duration::from_millis(3)));
        times.add(Duration::from_millis(600));
        times.add(Duration::from_secs(100));
        let times = times.histogram().since(&earlier);
        assert_eq!(times.count(), 10);
        for (part, seconds) in [(0.4, 0.003_75), (0.8, 0.005), (0.85, 0.75), (0.9, 1.0), (0.99, 30.0), (1.0, 30.0)] {
            let quantile = times.quantile(part).unwrap();
            assert!((quantile - seconds).abs() < 1e-9, "{part}: {quantile}");
        }
    }

    #[test]
    fn both_lists_of_bounds_are_the_same() {
        for (seconds, micros) in SECONDS.iter().zip(MICROS) {
            assert_eq!(Duration::from_secs_f64(*seconds).as_micros(), u128::from(micros));
        }
    }
}
