//! The program with a log of the test's own.

use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::support::{until, world};

/// `pgtenant serve` with a log of the test's own; killed when dropped.
pub(super) struct Served {
    pub(super) address: SocketAddr,
    process: Child,
    _directory: TempDir,
}

/// Serves the world's tenants; its log goes there.
pub(super) async fn serve(log: impl Into<Stdio>) -> Served {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("pgtenant.toml");
    let registry = &world().await.registry;
    let text =
        format!("[registry]\nurl = \"{registry}\"\n[http]\naddress = \"\"\n[log]\nlevel = \"debug,pgtenant=trace\"\n");
    std::fs::write(&config, text).unwrap();
    // It cannot say where it listens: it is given the socket.
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let mut command = Command::new("sh");
    let script = "exec \"$0\" \"$@\" 3<&0 </dev/null";
    command.args(["-c", script, env!("CARGO_BIN_EXE_pgtenant"), "serve", "--config"]);
    command.arg(&config).env("LISTEN_FDS", "1").stdin(std::os::fd::OwnedFd::from(socket)).stderr(log);
    let process = command.kill_on_drop(true).spawn().expect("start pgtenant");
    Served { address, process, _directory: directory }
}

impl Served {
    /// Stops it.
    pub(super) async fn ends_well(mut self) {
        let pid = i32::try_from(self.process.id().expect("it runs")).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        let mut status = None;
        until("it ends", async || {
            status = self.process.try_wait().expect("a status");
            status.is_some()
        })
        .await;
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
    }
}
