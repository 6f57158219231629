//! The server with pgbench's tables, a login for it, and a directory for the proxies' files.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::unistd::{Uid, User};
use pgtenant::cluster::Cluster;

use crate::Options;
use crate::cpu::family_cpu;

pub(crate) const DATABASE: &str = "bench";
pub(crate) const ROLE: &str = "bench";
pub(crate) const PASSWORD: &str = "bench password";

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
    pub(crate) owner: Option<(u32, u32)>,
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
        let owner = match Uid::effective().is_root() {
            true => Some(unprivileged()?),
            false => None,
        };
        let dir = cluster.socket_dir().join("proxies");
        fs::create_dir(&dir)?;
        if let Some((uid, gid)) = owner {
            chown(&dir, Some(uid), Some(gid))?;
        }
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

    /// CPU time of the server so far.
    pub(crate) fn server_cpu(&self) -> Result<Duration> {
        let pid = self.cluster.server_pid().context("the server has ended")?;
        family_cpu(u32::try_from(pid)?)
    }

    /// A client program: the one beside the server's, else the one in `PATH`.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        let own = self.cluster.install().program(name);
        if own.is_file() { own } else { PathBuf::from(name) }
    }

    /// Writes a file for the proxies.
    pub(crate) fn write(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        fs::write(&path, content)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        if let Some((uid, gid)) = self.owner {
            chown(&path, Some(uid), Some(gid))?;
        }
        Ok(path)
    }
}

/// So many selects, sent together.
fn pipeline_of(selects: usize, scale: u32) -> String {
    let rows = u64::from(scale) * 100_000;
    let select = "SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n".repeat(selects);
    format!("\\set aid random(1, {rows})\n\\startpipeline\n{select}\\endpipeline\n")
}

fn unprivileged() -> Result<(u32, u32)> {
    let user = ["postgres", "nobody"].into_iter().find_map(|name| User::from_name(name).ok().flatten());
    let user = user.context("no user \"postgres\" or \"nobody\" to run PgBouncer as")?;
    Ok((user.uid.as_raw(), user.gid.as_raw()))
}
