//! What was found: tables for people, JSON for programs, and whether it is as promised.

use anyhow::anyhow;

use super::super::context::Context;
use super::super::output::{self, Failure, print_json, table};
use crate::tenant::{Isolation, PoolMode, Pooling};
use crate::verify::{Finding, Outcome};

pub(super) fn print(context: &Context, findings: &[Finding]) -> anyhow::Result<()> {
    if context.json() {
        return print_json(&findings);
    }
    let mut grounds: Vec<(Isolation, Pooling)> = Vec::new();
    let mut checks: Vec<&str> = Vec::new();
    for finding in findings {
        if !grounds.contains(&(finding.isolation, finding.pooling)) {
            grounds.push((finding.isolation, finding.pooling));
        }
        if !checks.contains(&finding.check) {
            checks.push(finding.check);
        }
    }
    for mode in [PoolMode::Transaction, PoolMode::Session] {
        if findings.iter().all(|finding| finding.pool_mode != Some(mode)) {
            continue;
        }
        let mut rows = table([]);
        let header = grounds.iter().map(|(isolation, pooling)| format!("{isolation}, {pooling}"));
        rows.set_header([format!("{mode} mode")].into_iter().chain(header));
        for check in &checks {
            let cell = |ground: &(Isolation, Pooling)| {
                let is_here = |finding: &Finding| finding.pool_mode.is_none_or(|played| played == mode);
                let of = |finding: &&Finding| {
                    finding.check == *check && (finding.isolation, finding.pooling) == *ground && is_here(finding)
                };
                findings.iter().filter(of).max_by_key(|finding| weight(finding)).map_or("", word)
            };
            rows.add_row([*check].into_iter().chain(grounds.iter().map(cell)));
        }
        output::print(rows)?;
    }
    for finding in findings.iter().filter(|finding| finding.result == Outcome::Leaks) {
        let mark = if finding.is_broken { "✗" } else { "·" };
        let Finding { check, isolation, pooling, pool_mode, detail, .. } = finding;
        let mode = pool_mode.map(|mode| format!(", {mode}")).unwrap_or_default();
        output::print(format_args!("{mark} {check} ({isolation}, {pooling}{mode}): {detail}"))?;
    }
    Ok(())
}

/// How bad it is: the worst of several servers is what a table shows.
const fn weight(finding: &Finding) -> u8 {
    match (finding.result, finding.is_broken) {
        (_, true) => 3,
        (Outcome::Leaks, false) => 2,
        (Outcome::Holds, false) => 1,
        (Outcome::NotApplicable, false) => 0,
    }
}

const fn word(finding: &Finding) -> &'static str {
    match (finding.result, finding.is_broken) {
        (_, true) => "✗ leaks",
        (Outcome::Leaks, false) => "leaks, as documented",
        (Outcome::Holds, false) => "✓ holds",
        (Outcome::NotApplicable, false) => "-",
    }
}

/// A wall that is promised and does not stand is a failure.
pub(super) fn judge(findings: &[Finding]) -> Result<(), Failure> {
    match findings.iter().filter(|finding| finding.is_broken).count() {
        0 => Ok(()),
        1 => Err(anyhow!("one wall that is promised does not hold").into()),
        n => Err(anyhow!("{n} walls that are promised do not hold").into()),
    }
}
