//! The rounds as a table, and what is to be said of them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::proxy::Holdings;

/// How much more memory the last round may leave than the second: a part, and some that any process needs now and then.
const RSS_GROWTH: f64 = 0.10;
const RSS_SLACK_KIB: u64 = 4 << 10;

/// What was at the end of a round.
pub(crate) struct Round {
    pub(crate) length: Duration,
    pub(crate) answers: u64,
    /// Those that faults explain or nothing does; not those that clients provoke.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Of the proxy that stays, and of the one that is started again.
    pub(crate) holdings: [Holdings; 2],
    /// Counters that did not return to zero.
    pub(crate) left: Vec<String>,
}

/// All rounds; the first is for warming up.
#[derive(Default)]
pub(crate) struct Report(pub(crate) Vec<Round>);

impl Report {
    /// Whether there is a round to compare with another, the first one left out.
    pub(crate) const fn shows_growth(&self) -> bool {
        self.0.len() > 2
    }

    /// What is wrong, if anything: one line each.
    pub(crate) fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (number, round) in (1..).zip(&self.0) {
            if !round.left.is_empty() {
                wrong.push(format!("after round {number} there were still {}", round.left.join(", ")));
            }
        }
        if let [_, second, .., last] = &self.0[..] {
            // The other proxy begins anew in each round.
            let ([before, _], [after, _]) = (&second.holdings, &last.holdings);
            wrong.extend(after.growth(before));
        }
        wrong
    }
}

impl Holdings {
    /// What there is more of than before, and more than may be.
    fn growth(&self, before: &Self) -> Vec<String> {
        let mut grown = Vec::new();
        if self.fds > before.fds {
            grown.push(format!("file descriptors grew from {} to {}", before.fds, self.fds));
        }
        let most = before.rss_kib + (before.rss_kib as f64 * RSS_GROWTH) as u64 + RSS_SLACK_KIB;
        if self.rss_kib > most {
            let (before, after) = (before.rss_kib, self.rss_kib);
            grown.push(format!("memory grew from {before} KiB after round 2 to {after} KiB, more than {most} KiB"));
        }
        grown
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| round | minutes | right answers | RSS, MiB | fds | registry's | threads | not zero | errors by SQLSTATE |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|---|")?;
        for (number, round) in (1..).zip(&self.0) {
            let both = |of: fn(&Holdings) -> String| round.holdings.each_ref().map(of).join(" / ");
            let left = if round.left.is_empty() { "nothing".to_owned() } else { round.left.join(", ") };
            let errors: Vec<_> =
                round.errors.iter().map(|(sqlstate, number)| format!("{sqlstate}: {number}")).collect();
            writeln!(
                f,
                "| {number} | {:.1} | {} | {} | {} | {} | {} | {left} | {} |",
                round.length.as_secs_f64() / 60.0,
                round.answers,
                both(|one| format!("{:.1}", one.rss_kib as f64 / 1024.0)),
                both(|one| one.fds.to_string()),
                both(|one| one.registry_connections.to_string()),
                both(|one| one.threads.to_string()),
                errors.join(", "),
            )?;
        }
        Ok(())
    }
}
