//! System calls of the proxies for a transaction, as strace counts them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::HOST;
use crate::place::{DATABASE, PASSWORD, Place};
use crate::report::{Found, Row};
use crate::target::{ENGINES, Target};

/// Clients of pgbench, and transactions of each.
const LOADS: [(u32, u32); 2] = [(1, 2_000), (16, 500)];
/// Threads of pgbench.
const THREADS_MAX: u32 = 2;
/// Calls that are named, of each kind the most frequent.
const NAMED: usize = 4;

/// `pgbench -S` through either engine and PgBouncer.
pub(crate) fn measure(place: &Place, pgbouncer: &Path) -> Result<Found> {
    let mut found = Found::default();
    if !is_installed()? {
        found.notes.push("System calls were not counted: there is no strace here.".to_owned());
        return Ok(found);
    }
    let bouncer = Target::pgbouncer(place, pgbouncer, "")?;
    let engines = ENGINES.map(|engine| Target::with_engine(place, engine));
    for (clients, times) in LOADS {
        let other = counted(place, &bouncer, clients, times)?;
        for target in &engines {
            let target = target.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
            let own = counted(place, target, clients, times)?;
            let what = format!("system calls of {} for a transaction, {clients} at a time", target.name);
            found.rows.push(Row::alone(what, own.each, 2, "–").beside("PgBouncer", other.each, 2));
            found.notes.push(format!("{}, {clients} at a time: {}.", target.name, own.named));
        }
        found.notes.push(format!("PgBouncer, {clients} at a time: {}.", other.named));
    }
    found.notes.push(
        "strace slows whom it watches, so that more is ready at each turn with 16 clients than without it.".to_owned(),
    );
    Ok(found)
}

struct Counted {
    each: f64,
    /// The most frequent.
    named: String,
}

fn counted(place: &Place, target: &Target, clients: u32, times: u32) -> Result<Counted> {
    // Server connections are there before it is counted.
    pgbench(place, target, clients, times / 10)?;
    let strace = Strace::attach(place, target.pid())?;
    pgbench(place, target, clients, times)?;
    let calls = strace.detach()?;
    let transactions = f64::from(clients * times);
    let mut sorted: Vec<_> = calls.iter().map(|(name, count)| (*count, name)).collect();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    let named = sorted.iter().take(NAMED).map(|(count, name)| format!("{name} {:.2}", *count as f64 / transactions));
    Ok(Counted { each: calls.values().sum::<u64>() as f64 / transactions, named: named.collect::<Vec<_>>().join(", ") })
}

fn pgbench(place: &Place, target: &Target, clients: u32, times: u32) -> Result<()> {
    let mut command = Command::new(place.program("pgbench"));
    command.args(["-n", "-S", "-h", HOST, "-p", &target.login.port.to_string(), "-U", &target.login.user]);
    command.args(["-c", &clients.to_string(), "-j", &clients.min(THREADS_MAX).to_string()]);
    command.args(["-t", &times.to_string(), DATABASE]).env("PGPASSWORD", PASSWORD);
    let output = command.output().context("run pgbench")?;
    ensure!(output.status.success(), "pgbench {}: {}", target.said(), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn is_installed() -> Result<bool> {
    match Command::new("strace").arg("--version").output() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).context("run strace"),
    }
}

/// It watches all threads of a process.
struct Strace {
    process: Child,
    summary: PathBuf,
}

impl Strace {
    fn attach(place: &Place, pid: u32) -> Result<Self> {
        let summary = place.dir.join(format!("calls-{pid}"));
        let mut command = Command::new("strace");
        command.args(["-c", "-f", "-p", &pid.to_string(), "-o"]).arg(&summary).stderr(Stdio::piped());
        let mut process = command.spawn().context("run strace")?;
        let mut said = String::new();
        BufReader::new(process.stderr.take().context("no output of strace")?).read_line(&mut said)?;
        if !said.contains("attached") {
            // It has ended by itself, or ends with its output.
            let _ = process.kill();
            process.wait()?;
            bail!("strace: {}", said.trim());
        }
        Ok(Self { process, summary })
    }

    /// How often each call was made.
    fn detach(mut self) -> Result<BTreeMap<String, u64>> {
        kill(Pid::from_raw(i32::try_from(self.process.id())?), Signal::SIGINT).context("interrupt strace")?;
        self.process.wait()?;
        let text = fs::read_to_string(&self.summary).context("read what strace counted")?;
        let calls: BTreeMap<_, _> = text.lines().filter_map(call).collect();
        ensure!(!calls.is_empty(), "strace counted nothing: {text}");
        Ok(calls)
    }
}

/// A line of the summary: share, seconds, microseconds a call, calls, perhaps errors, name.
fn call(line: &str) -> Option<(String, u64)> {
    let fields: Vec<_> = line.split_whitespace().collect();
    fields.first()?.parse::<f64>().ok()?;
    let name = *fields.last()?;
    (name != "total").then_some((name.to_owned(), fields.get(3)?.parse().ok()?))
}
