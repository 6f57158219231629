//! What the runs found, as a table.

use std::fmt;
use std::time::Duration;

use crate::place::Place;
use crate::targets::Targets;
use crate::{Options, Workload};

/// What the ratios are to: the first that takes part in a workload.
const REFERENCES: [&str; 2] = ["pgbouncer", "postgres"];

/// What one run found.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Run {
    pub(crate) transactions: u64,
    /// Transactions a second, connecting not counted (except where each transaction connects).
    pub(crate) throughput: f64,
    pub(crate) latency_ms: f64,
    /// What the proxy used meanwhile; none without a proxy.
    pub(crate) cpu: Option<Duration>,
    /// What PostgreSQL used meanwhile.
    pub(crate) server_cpu: Duration,
    pub(crate) errors: u64,
}

impl Run {
    /// CPU seconds of the proxy for 1000 transactions.
    fn cpu_per_thousand(&self) -> Option<f64> {
        self.cpu.and_then(|cpu| self.per_thousand(cpu))
    }

    /// CPU seconds of the proxy and PostgreSQL together for 1000 transactions.
    fn all_cpu_per_thousand(&self) -> Option<f64> {
        self.per_thousand(self.cpu.unwrap_or_default() + self.server_cpu)
    }

    fn per_thousand(&self, cpu: Duration) -> Option<f64> {
        (self.transactions > 0).then(|| cpu.as_secs_f64() * 1000.0 / self.transactions as f64)
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:9.1} tps {:8.3} ms", self.throughput, self.latency_ms)?;
        if let Some(cpu) = self.cpu_per_thousand() {
            write!(f, " {cpu:8.4} CPU s/1000")?;
        }
        if self.errors > 0 {
            write!(f, " {} ERRORS", self.errors)?;
        }
        Ok(())
    }
}

struct Entry {
    round: u32,
    workload: Workload,
    target: &'static str,
    run: Run,
}

/// All runs.
pub(crate) struct Report {
    title: String,
    targets: Vec<&'static str>,
    entries: Vec<Entry>,
}

impl Report {
    pub(crate) fn new(place: &Place, targets: &Targets, options: &Options) -> Self {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let title = format!(
            "pgtenant {}, {}; PostgreSQL {}; pools of {} in transaction mode; pgbench scale {}; \
             {} rounds of {} s; {cores} cores",
            env!("CARGO_PKG_VERSION"),
            targets.peers,
            place.version,
            options.pool_size,
            options.scale,
            options.rounds,
            options.seconds,
        );
        Self { title, targets: targets.all().iter().map(|target| target.name).collect(), entries: Vec::new() }
    }

    pub(crate) fn add(&mut self, round: u32, workload: Workload, target: &'static str, run: Run) {
        self.entries.push(Entry { round, workload, target, run });
    }

    pub(crate) fn errors(&self) -> u64 {
        self.entries.iter().map(|entry| entry.run.errors).sum()
    }

    /// The proxies' CPU for a transaction over PgBouncer's, medians: by workload, for each proxy that took part.
    pub(crate) fn cpu_ratios(&self) -> Vec<(String, Vec<(&'static str, f64)>)> {
        let ratio = |workload, target| Some((target, self.ratios(workload, target, Run::cpu_per_thousand).at(0.5)?));
        let of = |workload: Workload| {
            let ratios: Vec<_> = self.targets.iter().filter_map(|target| ratio(workload, *target)).collect();
            (workload.name(), ratios)
        };
        // Without PgBouncer there is nothing to compare with: direct PostgreSQL has no proxy.
        Workload::ALL.into_iter().map(of).filter(|(_, ratios)| ratios.len() > 1).collect()
    }

    /// Whether somebody of this name took part.
    pub(crate) fn has(&self, target: &str) -> bool {
        self.targets.contains(&target)
    }

    /// What was run.
    pub(crate) fn title(&self) -> &str {
        &self.title
    }

    fn runs(&self, workload: Workload, target: &str) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.workload == workload && entry.target == target)
    }

    /// A figure of each run.
    fn figures(&self, workload: Workload, target: &str, of: fn(&Run) -> Option<f64>) -> Quartiles {
        self.runs(workload, target).filter_map(|entry| of(&entry.run)).collect()
    }

    /// A figure of each run over the same figure of the reference in the same round.
    fn ratios(&self, workload: Workload, target: &str, of: fn(&Run) -> Option<f64>) -> Quartiles {
        let reference = REFERENCES.into_iter().find(|name| self.runs(workload, name).next().is_some());
        let ratio = |entry: &Entry| {
            let reference = self.runs(workload, reference?).find(|other| other.round == entry.round)?;
            Some(of(&entry.run)? / of(&reference.run)?)
        };
        self.runs(workload, target).filter_map(ratio).filter(|ratio| ratio.is_finite()).collect()
    }

    fn line(&self, f: &mut fmt::Formatter<'_>, workload: Workload, target: &str) -> fmt::Result {
        let errors: u64 = self.runs(workload, target).map(|entry| entry.run.errors).sum();
        let throughput: fn(&Run) -> Option<f64> = |run| Some(run.throughput);
        let latency: fn(&Run) -> Option<f64> = |run| Some(run.latency_ms);
        let cells = [
            workload.name(),
            target.to_owned(),
            self.figures(workload, target, throughput).show(0),
            self.ratios(workload, target, throughput).show(2),
            self.figures(workload, target, latency).show(3),
            self.ratios(workload, target, latency).show(2),
            self.figures(workload, target, Run::cpu_per_thousand).show(4),
            self.ratios(workload, target, Run::cpu_per_thousand).show(2),
            self.figures(workload, target, Run::all_cpu_per_thousand).show(4),
            self.ratios(workload, target, Run::all_cpu_per_thousand).show(2),
            errors.to_string(),
        ];
        writeln!(f, "| {} |", cells.join(" | "))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.title)?;
        writeln!(
            f,
            "Each figure: median over the rounds (lower quartile). Each ratio: to PgBouncer in the same round;"
        )?;
        writeln!(
            f,
            "where it cannot take part (prepared statements before 1.21), to direct PostgreSQL. pgtenant uses io_uring where the"
        )?;
        writeln!(
            f,
            "kernel allows it, for many at a time; the one that is keeping has pool.keep_unnamed_statements on.\n"
        )?;
        let columns = "workload, clients | through | tps | ratio | latency ms | ratio | proxy CPU s/1000 tx | ratio | with PostgreSQL's | ratio | errors";
        writeln!(f, "| {columns} |")?;
        writeln!(f, "|---|---|---|---|---|---|---|---|---|---|---|")?;
        for workload in Workload::ALL {
            for target in &self.targets {
                if self.runs(workload, target).next().is_some() {
                    self.line(f, workload, target)?;
                }
            }
        }
        Ok(())
    }
}

/// Figures in order.
struct Quartiles(Vec<f64>);

impl FromIterator<f64> for Quartiles {
    fn from_iter<I: IntoIterator<Item = f64>>(figures: I) -> Self {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Self(sorted)
    }
}

impl Quartiles {
    /// The value below which this part of the figures lies, interpolated.
    fn at(&self, part: f64) -> Option<f64> {
        let position = part * self.0.len().checked_sub(1)? as f64;
        let (low, high) = (self.0.get(position.floor() as usize)?, self.0.get(position.ceil() as usize)?);
        Some(low + (high - low) * position.fract())
    }

    fn show(&self, digits: usize) -> String {
        match (self.at(0.5), self.at(0.25)) {
            (Some(median), Some(lower)) => format!("{median:.digits$} ({lower:.digits$})"),
            _ => "–".to_owned(),
        }
    }
}
