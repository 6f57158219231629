//! Processes that are there and do nothing: their sockets take what is sent, and nobody answers.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Processes that are stopped until this is dropped.
pub(super) struct Frozen(Vec<i32>);

impl Frozen {
    /// Stops one.
    pub(super) fn one(process: i32) -> Self {
        signal(process, Signal::SIGSTOP);
        Self(vec![process])
    }

    /// Stops one and its children.
    pub(super) fn family(process: i32) -> Self {
        // The parent first, so that there are no new ones.
        let mut frozen = Self::one(process);
        for child in children(process) {
            signal(child, Signal::SIGSTOP);
            frozen.0.push(child);
        }
        frozen
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.iter().rev().for_each(|process| signal(*process, Signal::SIGCONT));
    }
}

/// One that has just ended is as good as told.
fn signal(process: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(process), signal);
}

fn children(process: i32) -> Vec<i32> {
    let path = format!("/proc/{process}/task/{process}/children");
    let list = std::fs::read_to_string(path).expect("its children");
    list.split_whitespace().map(|child| child.parse().expect("a process id")).collect()
}
