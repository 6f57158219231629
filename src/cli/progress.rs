//! How far a long command has come: a bar on a terminal, plain lines elsewhere, both on standard error.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::output::remark;

/// A command that is done sooner says nothing on the way: what it prints at its end is enough.
const QUIET: Duration = Duration::from_secs(1);
/// Between two plain lines.
const PAUSE: Duration = Duration::from_secs(5);
/// Failures told on the way; all are in what the command prints at its end.
const FAILURES_TOLD: usize = 20;

/// The progress of a command over a number of things.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    what: &'static str,
    total: usize,
    done: usize,
    failed: usize,
    told: usize,
    began: Instant,
    next_line: Instant,
}

impl Progress {
    /// Nothing done yet of so many.
    pub(super) fn new(total: usize, what: &'static str) -> Self {
        let began = Instant::now();
        let bar = io::stderr().is_terminal().then(|| {
            let template = format!("{{wide_bar}} {{pos}}/{{len}} {what}, {{per_sec}}, {{eta}} left{{msg}}");
            // It names only what indicatif knows, so that the plain style is never needed.
            let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(u64::try_from(total).unwrap_or(u64::MAX)).with_style(style)
        });
        Self { bar, what, total, done: 0, failed: 0, told: 0, began, next_line: began + QUIET }
    }

    /// One more is done; `failure` says why it came to nothing.
    pub(super) fn advance(&mut self, failure: Option<String>) {
        self.done += 1;
        if let Some(failure) = failure {
            self.failed += 1;
            if self.began.elapsed() > QUIET && self.told < FAILURES_TOLD {
                self.told += 1;
                self.say(&failure);
            }
        }
        match &self.bar {
            Some(bar) => {
                bar.inc(1);
                if self.failed > 0 {
                    bar.set_message(format!(", {} failed", self.failed));
                }
            }
            None => self.line(),
        }
    }

    /// Says something without spoiling the bar.
    pub(super) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => remark(text),
        }
    }

    /// How long it has taken.
    pub(super) fn finish(self) -> Duration {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        self.began.elapsed()
    }

    fn line(&mut self) {
        let now = Instant::now();
        if now < self.next_line || self.done == self.total {
            return;
        }
        self.next_line = now + PAUSE;
        let rate = per_second(self.done, now - self.began);
        let left = Duration::from_secs_f64((self.total - self.done) as f64 / rate);
        let left = humantime::format_duration(Duration::from_secs(left.as_secs()));
        let (done, total, what, failed) = (self.done, self.total, self.what, self.failed);
        remark(format_args!("{done} of {total} {what}, {failed} failed, {rate:.0} a second, {left} left"));
    }
}

/// How many that is in a second; never nothing.
pub(super) fn per_second(count: usize, took: Duration) -> f64 {
    (count as f64 / took.as_secs_f64().max(0.001)).max(0.001)
}
