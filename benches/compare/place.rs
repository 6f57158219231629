//! The server with pgbench's tables, a login for it, and a directory for the proxies' files.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pgtenant::cluster::Cluster;

use crate::Options;
use crate::cpu::Family;
use crate::owner::{self, Owner};

pub(crate) const DATABASE: &str = "bench";
pub(crate) const ROLE: &str = "bench";
pub(crate) const PASSWORD: &str = "bench password";

/// How long server processes may take to end.
const LEAVING_TIMEOUT: Duration = Duration::from_secs(20);

/// Where everything happens.
pub(crate) struct Place {
    pub(crate) cluster: Cluster,
    /// What the server stores of [`PASSWORD`].
    pub(crate) verifier: String,
    /// PostgreSQL's version, for the report.
    pub(crate) version: String,
    /// Belongs to whom the proxies run as; in the server's own directory, so that it goes with that, even if we are killed.
    pub(crate) dir: PathBuf,
    /// pgbench's script of a pipeline.
    pub(crate) pipeline: PathBuf,
    /// User and group that the proxies run as, where we are root (PgBouncer refuses root).
    pub(crate) owner: Owner,
}

impl Place {
    pub(crate) async fn make(options: &Options) -> Result<Self> {
        let cluster = Cluster::builder()
            .setting("max_connections", "600")
            .setting("shared_buffers", "256MB")
            .setting("autovacuum", "off")
            .start()
            .await?;
        let admin = cluster.connect("postgres").await?;
        admin.batch_execute(&format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")).await?;
        admin.batch_execute(&format!("CREATE DATABASE {DATABASE} OWNER {ROLE}")).await?;
        let stored = "SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1";
        let verifier = admin.query_one(stored, &[&ROLE]).await?.get(0);
        let version = admin.query_one("SHOW server_version", &[]).await?.get(0);
        let owner = owner::owner()?;
        let dir = owner::directory(&cluster, owner)?;
        let pipeline = dir.join("pipeline.sql");
        fs::write(&pipeline, pipeline_of(20, options.scale))?;
        let place = Self { cluster, verifier, version, dir, pipeline, owner };
        place.fill(options.scale)?;
        Ok(place)
    }

    fn fill(&self, scale: u32) -> Result<()> {
        eprintln!("filling pgbench's tables at scale {scale}");
        let mut command = Command::new(self.program("pgbench"));
        command.args(["-i", "-q", "-s", &scale.to_string(), "-h", self.cluster.host()]);
        command.args(["-p", &self.cluster.port().to_string(), "-U", ROLE, DATABASE]).env("PGPASSWORD", PASSWORD);
        let output = command.output().context("run pgbench (Debian: apt-get install postgresql-contrib)")?;
        ensure!(output.status.success(), "pgbench -i: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// The server's processes.
    pub(crate) fn server(&self) -> Result<Family> {
        let pid = self.cluster.server_pid().context("the server has ended")?;
        Family::of(u32::try_from(pid)?)
    }

    /// Waits until the server has no more processes than that: what one of them used is its parent's once it has ended.
    pub(crate) async fn wait_for_children(&self, children: usize) -> Result<()> {
        let deadline = Instant::now() + LEAVING_TIMEOUT;
        while self.server()?.children > children {
            ensure!(Instant::now() < deadline, "server processes do not end though their clients have left");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// A client program: the one beside the server's, else the one in `PATH`.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        let own = self.cluster.install().program(name);
        if own.is_file() { own } else { PathBuf::from(name) }
    }

    /// Writes a file for the proxies.
    pub(crate) fn write(&self, name: &str, content: &str) -> Result<PathBuf> {
        owner::write(&self.dir, self.owner, name, content)
    }
}

/// So many selects, sent together.
fn pipeline_of(selects: usize, scale: u32) -> String {
    let rows = u64::from(scale) * 100_000;
    let select = "SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n".repeat(selects);
    format!("\\set aid random(1, {rows})\n\\startpipeline\n{select}\\endpipeline\n")
}
