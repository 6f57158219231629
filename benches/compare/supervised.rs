//! A proxy's process, which does not outlive ours, and the CPU time it has used.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cpu::Stat;
use crate::place::Place;

/// As in the temporary server's supervisor: end of file on standard input means that we are gone.
const SCRIPT: &str = r#"exec 3<&0; "$@" 3<&- >&2 & proxy=$!; echo "$proxy"; read -r _ <&3; kill -KILL "$proxy"; wait"#;

/// A running proxy; dropping it ends the process.
pub(crate) struct Supervised {
    shell: Child,
    pub(crate) pid: u32,
    log: PathBuf,
}

impl Supervised {
    /// Starts a program as the unprivileged user.
    pub(crate) fn start(place: &Place, program: &Path, args: &[&str], name: &str) -> Result<Self> {
        let log = place.dir.join(format!("{name}.log"));
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, name]).arg(program).args(args).current_dir(&place.dir);
        if let Some((uid, gid)) = place.owner {
            command.uid(uid).gid(gid);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&log)?).process_group(0);
        let mut shell = command.spawn().with_context(|| format!("run {}", program.display()))?;
        let mut line = String::new();
        let stdout = shell.stdout.take().context("no output of the shell")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let pid = line.trim().parse().with_context(|| format!("{name} did not start"))?;
        Ok(Self { shell, pid, log })
    }

    /// CPU time of all its threads so far, user and system.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let stat = Stat::of(self.pid).with_context(|| format!("the proxy ended: {}", self.said()))?;
        Ok(stat.own)
    }

    /// What it wrote to standard output and standard error.
    pub(crate) fn said(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().rev().take(5).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        // Nothing can be done about a shell that cannot be waited for.
        let _ = self.shell.wait();
    }
}
