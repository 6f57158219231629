//! COPY to the client, which pgbench cannot do.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::place::{DATABASE, PASSWORD, Place};
use crate::report::Run;
use crate::target::Target;

/// For psql; `\\warn` goes to standard error, which is not buffered.
const SCRIPT: &str = "COPY (SELECT * FROM pgbench_accounts WHERE aid <= 20000) TO STDOUT;\n\\warn :SQLSTATE\n";
const SUCCESS: &str = "00000";
/// Longest time without an answer; a proxy that loses one would stop the benchmark for good.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A psql that is told over a pipe what to do. (A driver would prepare its statements, which PgBouncer may not carry.)
struct Psql {
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStderr>>,
    _process: Child,
}

impl Psql {
    async fn connect(place: &Place, target: &Target) -> Result<Self> {
        let mut command = Command::new(place.program("psql"));
        command.args(["-X", "-q", "-o", "/dev/null", "-h", "127.0.0.1", "-p", &target.port.to_string()]);
        command.args(["-U", target.user, DATABASE]).env("PGPASSWORD", PASSWORD).kill_on_drop(true);
        let mut process = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().context("run psql")?;
        let commands = process.stdin.take().context("psql has no standard input")?;
        let answers = BufReader::new(process.stderr.take().context("psql has no standard error")?).lines();
        let mut psql = Self { commands, answers, _process: process };
        psql.tell("\\warn ready\n", "ready").await?;
        Ok(psql)
    }

    async fn tell(&mut self, script: &str, expected: &str) -> Result<()> {
        self.commands.write_all(script.as_bytes()).await?;
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.answers.next_line()).await;
        match answer.context("psql hangs")??.as_deref() {
            Some(answer) if answer == expected => Ok(()),
            Some(answer) => bail!("psql: {answer}"),
            None => bail!("psql ended"),
        }
    }
}

/// What one client did.
#[derive(Default)]
struct Tally {
    transactions: u64,
    errors: u64,
    spent: Duration,
}

/// One run: every client copies again and again until time is up.
pub(crate) async fn run(place: &Place, target: &Target, clients: u32, seconds: u32) -> Result<Run> {
    let ready = Arc::new(Barrier::new(clients as usize));
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let (psql, ready) = (Psql::connect(place, target).await?, ready.clone());
        tasks.spawn(async move {
            ready.wait().await;
            copy_until(psql, Instant::now() + Duration::from_secs(seconds.into())).await
        });
    }
    let started = Instant::now();
    let tallies = tasks.join_all().await;
    let elapsed = started.elapsed().as_secs_f64();
    let transactions: u64 = tallies.iter().map(|tally| tally.transactions).sum();
    let spent: Duration = tallies.iter().map(|tally| tally.spent).sum();
    Ok(Run {
        transactions,
        throughput: transactions as f64 / elapsed,
        latency_ms: spent.as_secs_f64() * 1000.0 / transactions.max(1) as f64,
        server_cpu: Duration::ZERO,
        cpu: None,
        errors: tallies.iter().map(|tally| tally.errors).sum(),
    })
}

async fn copy_until(mut psql: Psql, deadline: Instant) -> Tally {
    let mut tally = Tally::default();
    while Instant::now() < deadline {
        let started = Instant::now();
        if let Err(error) = psql.tell(SCRIPT, SUCCESS).await {
            eprintln!("{error:#}");
            tally.errors += 1;
            // What comes next may answer this command; the session is of no use any more.
            break;
        }
        tally.transactions += 1;
        tally.spent += started.elapsed();
    }
    tally
}
