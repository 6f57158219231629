//! Runs one `postgres` that cannot outlive this process, however this process ends.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::Error;
use super::install::Install;

/// Starts the server, prints its process id, and waits for it. Its standard input is a pipe that nothing is ever
/// written to: end of file means that the program which holds the other end is gone, killed or not. (A parent-death
/// signal would be bound to the *thread* that started the server, and would leave the directory.)
const SCRIPT: &str = r#"
dir=$1 template=$2; shift 2
exec 3<&0
"$@" >>"$dir/server.log" 2>&1 3<&- &
server=$!
echo "$server"
( read -r _ <&3; : >"$dir/orphaned"; kill -QUIT "$server" ) >/dev/null 2>&1 &
watch=$!
exec >/dev/null 2>&1 3<&-
wait "$server"; status=$?
kill "$watch"
[ -e "$dir/orphaned" ] && cd / && rm -rf "$dir" "$template"
exit "$status"
"#;

/// How long a server that was told to stop at once may take before it is killed.
const KILL_AFTER: Duration = Duration::from_secs(5);

/// A running server. Dropping it stops the server at once and waits until it is gone.
#[derive(Debug)]
pub(super) struct Supervised {
    server: Pid,
    exited: Receiver<ExitStatus>,
    ended: bool,
    _alive: Option<ChildStdin>,
}

impl Supervised {
    /// Starts `postgres` with these arguments; `dir` and `template` are removed if this process dies.
    pub(super) fn spawn(install: &Install, dir: &Path, template: &Path, args: &[String]) -> Result<Self, Error> {
        let postgres = install.program("postgres");
        let mut command = install.command("/bin/sh", dir);
        command.args(["-c", SCRIPT, "pgtenant-cluster"]).args([dir, template]).arg(&postgres).args(args);
        // A group of its own: Ctrl-C in a terminal is for us, who then stop the server in order.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(Error::io("run", &postgres))?;
        let alive = child.stdin.take();
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).map_err(Error::io("start", &postgres))?;
        }
        let (sender, exited) = channel();
        thread::spawn(move || {
            if let Ok(status) = child.wait() {
                // Nobody listens any more when the owner gave up waiting.
                let _ = sender.send(status);
            }
        });
        let Ok(server) = line.trim().parse::<i32>() else {
            let status = exited.recv_timeout(KILL_AFTER).unwrap_or_default();
            return Err(Error::Exited { status, log: String::new() });
        };
        Ok(Self { server: Pid::from_raw(server), exited, ended: false, _alive: alive })
    }

    /// The process id of the server.
    pub(super) fn id(&self) -> i32 {
        self.server.as_raw()
    }

    /// How the server ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        match self.exited.try_recv() {
            Ok(status) => {
                self.ended = true;
                Some(status)
            }
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                self.ended = true;
                Some(ExitStatus::default())
            }
        }
    }

    /// Sends a signal and waits for the end; blocks.
    pub(super) fn stop(&mut self, signal: Signal, timeout: Duration) -> Result<(), Error> {
        if self.ended {
            return Ok(());
        }
        // A server that is gone already cannot be signalled; the wait below tells.
        let _ = kill(self.server, signal);
        match self.exited.recv_timeout(timeout) {
            Ok(_) | Err(RecvTimeoutError::Disconnected) => {
                self.ended = true;
                Ok(())
            }
            Err(RecvTimeoutError::Timeout) => Err(Error::NotStopped(timeout)),
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if self.stop(Signal::SIGQUIT, KILL_AFTER).is_err()
            && let Err(error) = self.stop(Signal::SIGKILL, KILL_AFTER)
        {
            tracing::warn!(server_pid = self.server.as_raw(), %error, "temporary server not stopped");
        }
    }
}
