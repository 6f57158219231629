//! The CPU time of processes, as the kernel counts it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// Ticks of a second in `/proc/<pid>/stat`: the kernel's interface has had 100 on every architecture since 2.4.
const TICKS: u64 = 100;

/// What the kernel tells of a process.
pub(crate) struct Stat {
    parent: u32,
    /// User and system time of its own.
    pub(crate) own: Duration,
    /// The same of its children that have ended.
    ended_children: Duration,
}

impl Stat {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name in parentheses may hold anything; the parent is the 2nd field after it, the times are the 12th to 15th.
        let fields = stat.rsplit_once(") ").context("unknown form of /proc/<pid>/stat")?.1;
        let number = |field: usize| {
            let text = fields.split(' ').nth(field).context("unknown form of /proc/<pid>/stat")?;
            Ok::<u64, anyhow::Error>(text.parse()?)
        };
        let time = |field: usize| Ok::<_, anyhow::Error>(Duration::from_millis(number(field)? * 1000 / TICKS));
        let (own, ended_children) = (time(11)? + time(12)?, time(13)? + time(14)?);
        Ok(Self { parent: u32::try_from(number(1)?)?, own, ended_children })
    }
}

/// CPU time of a server, its children included, so far.
pub(crate) fn family_cpu(pid: u32) -> Result<Duration> {
    let parent = Stat::of(pid)?;
    let mut total = parent.own + parent.ended_children;
    for entry in fs::read_dir("/proc")? {
        let Ok(child) = entry?.file_name().to_string_lossy().parse() else { continue };
        // One that has just ended counts with its parent the next time.
        if let Ok(stat) = Stat::of(child)
            && stat.parent == pid
        {
            total += stat.own;
        }
    }
    Ok(total)
}
