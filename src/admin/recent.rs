//! How long things took of late, from counters that only rise and are looked at now and then.

use std::time::{Duration, Instant};

use crate::session::SessionTimes;
use crate::times::Histogram;

/// What is older than two of these is no longer of late, if somebody has looked since.
const WINDOW: Duration = Duration::from_secs(60);

/// What the counters stood at before.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// One window ago or more, or at the start: what came since then is of late.
    before: SessionTimes<Histogram>,
    /// The next of these, and since when.
    next: Option<(Instant, SessionTimes<Histogram>)>,
}

impl Recent {
    /// Takes note of what the counters stand at; what has come in the last one to two windows, or since the look before.
    pub(super) fn book(&mut self, all: SessionTimes<Histogram>, now: Instant) -> SessionTimes<Histogram> {
        let of_late = all.since(&self.before);
        match &mut self.next {
            None => self.next = Some((now, all)),
            Some((at, next)) if now.saturating_duration_since(*at) >= WINDOW => {
                *at = now;
                self.before = std::mem::replace(next, all);
            }
            Some(_) => {}
        }
        of_late
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::times::Times;

    #[test]
    fn what_is_older_than_two_windows_is_forgotten() {
        let (mut recent, times, start) = (Recent::default(), SessionTimes::<Times>::default(), Instant::now());
        let mut seen = Vec::new();
        // One query every ten seconds, of which each look finds the last so many.
        for seconds in (0..400).step_by(10) {
            times.queries.add(Duration::from_millis(1));
            let of_late = recent.book(times.histograms(), start + Duration::from_secs(seconds));
            seen.push(of_late.queries.count());
        }
        assert_eq!(seen[..4], [1, 2, 3, 4]);
        assert!(seen[13..].iter().all(|count| (7..=12).contains(count)), "{seen:?}");
        // Nobody has looked for long: it is what came since the last ones did.
        let of_late = recent.book(times.histograms(), start + Duration::from_secs(10_000));
        assert!(of_late.queries.count() <= 12);
        assert_eq!(of_late.waits.quantile(0.5), None);
    }
}
