//! Runs pgbench and reads what it found.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::place::{DATABASE, PASSWORD, Place};
use crate::report::Run;
use crate::target::Target;

/// Threads of pgbench itself; more would take the CPU from what is measured.
const THREADS_MAX: u32 = 2;

/// One run; a client that fails is an error of the run, not of the benchmark.
pub(crate) fn run(place: &Place, target: &Target, args: &[&str], clients: u32, seconds: u32) -> Result<Run> {
    let mut command = Command::new(place.program("pgbench"));
    command.args(["-n", "-h", "127.0.0.1", "-p", &target.port.to_string(), "-U", target.user]).args(args);
    command.args(["-c", &clients.to_string(), "-j", &clients.min(THREADS_MAX).to_string()]);
    command.args(["-T", &seconds.to_string(), DATABASE]).env("PGPASSWORD", PASSWORD);
    let output = command.output().context("run pgbench")?;
    let (said, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let transactions = number(&said, "number of transactions actually processed: ").unwrap_or_default();
    let failed = number(&said, "number of failed transactions: ").unwrap_or_default();
    let broken = complaints.lines().filter(|line| line.contains("error")).inspect(|line| eprintln!("{line}")).count();
    let errors = failed as u64 + broken as u64 + u64::from(!output.status.success());
    Ok(Run {
        transactions: transactions as u64,
        throughput: number(&said, "tps = ").unwrap_or_default(),
        latency_ms: number(&said, "latency average = ").unwrap_or_default(),
        cpu: None,
        server_cpu: Duration::ZERO,
        errors,
    })
}

/// The number after a label.
fn number(text: &str, label: &str) -> Option<f64> {
    let rest = text.split_once(label)?.1;
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    rest[..end].parse().ok()
}
