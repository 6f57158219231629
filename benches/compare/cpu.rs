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

/// A server and its children.
pub(crate) struct Family {
    /// CPU time of all so far, of those that have ended as well.
    pub(crate) cpu: Duration,
    /// How many children there are.
    pub(crate) children: usize,
}

impl Family {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        loop {
            let before = Stat::of(pid)?;
            let (mut children, mut cpu) = (0, Duration::ZERO);
            for entry in fs::read_dir("/proc")? {
                let Ok(child) = entry?.file_name().to_string_lossy().parse() else { continue };
                // One that has just ended is its parent's.
                if let Ok(stat) = Stat::of(child)
                    && stat.parent == pid
                {
                    children += 1;
                    cpu += stat.own;
                }
            }
            let parent = Stat::of(pid)?;
            // One that ended meanwhile may have been counted twice, or not at all.
            if parent.ended_children == before.ended_children {
                return Ok(Self { cpu: cpu + parent.own + parent.ended_children, children });
            }
        }
    }
}
