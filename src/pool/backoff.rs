//! How long a pool leaves a failing server alone.

use std::time::Duration;

use tokio::time::Instant;

/// Wait after the first failure.
const DELAY_MIN: Duration = Duration::from_millis(100);
/// Longest wait.
const DELAY_MAX: Duration = Duration::from_secs(15);

/// Exponential back-off with jitter, and the error that everyone is told meanwhile.
#[derive(Debug)]
pub(super) enum Backoff<E> {
    /// The last attempt succeeded, or there was none.
    Healthy,
    /// The last attempt failed.
    Failing { error: E, since: Instant, until: Instant, delay: Duration },
}

impl<E> Backoff<E> {
    /// Notes a success, or any other sign that the server answers.
    pub(super) fn succeeded(&mut self) {
        *self = Self::Healthy;
    }

    /// Notes a failure of an attempt begun at `started`. Attempts that were under way together lengthen the wait once.
    pub(super) fn failed(&mut self, error: E, started: Instant, now: Instant) {
        let (delay, since, until) = match self {
            Self::Healthy => (DELAY_MIN, now, now + jittered(DELAY_MIN)),
            Self::Failing { since, until, delay, .. } if started < *since => (*delay, *since, *until),
            Self::Failing { delay, .. } => {
                let delay = delay.saturating_mul(2).min(DELAY_MAX);
                (delay, now, now + jittered(delay))
            }
        };
        *self = Self::Failing { error, since, until, delay };
    }

    /// Whether the last attempt failed: the next one goes alone.
    pub(super) fn is_failing(&self) -> bool {
        matches!(self, Self::Failing { .. })
    }

    /// The last error and the end of the wait, while it lasts.
    pub(super) fn refusal(&self, now: Instant) -> Option<(&E, Instant)> {
        match self {
            Self::Failing { error, until, .. } if now < *until => Some((error, *until)),
            _ => None,
        }
    }
}

/// Between half of it and all of it.
fn jittered(delay: Duration) -> Duration {
    delay.mul_f64(rand::random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_its_bound_and_starts_again_after_a_success() {
        let mut backoff = Backoff::Healthy;
        let mut now = Instant::now();
        let mut expected = DELAY_MIN;
        for _ in 0..12 {
            now += Duration::from_millis(1);
            backoff.failed((), now, now);
            let (_, until) = backoff.refusal(now).unwrap();
            assert!(until - now >= expected / 2 && until - now <= expected, "{:?} of {expected:?}", until - now);
            now = until;
            assert!(backoff.refusal(now).is_none());
            expected = (expected * 2).min(DELAY_MAX);
        }
        backoff.succeeded();
        backoff.failed((), now, now);
        assert!(backoff.refusal(now + DELAY_MIN).is_none());
    }

    #[test]
    fn failures_of_one_volley_lengthen_the_wait_once() {
        let mut backoff = Backoff::Healthy;
        let started = Instant::now();
        let now = started + Duration::from_millis(5);
        for error in 0..20 {
            backoff.failed(error, started, now);
        }
        let (error, until) = backoff.refusal(now).unwrap();
        assert_eq!(*error, 19);
        assert!(until - now <= DELAY_MIN);
    }
}
