//! The program itself, serving, in a process of its own.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use super::world::World;

/// Longest wait for a line of the log, or for the end.
const PATIENCE: Duration = Duration::from_secs(60);

/// `pgtenant serve`; killed when dropped.
pub(crate) struct Child {
    pub(crate) address: SocketAddr,
    /// Where it serves HTTP, if it does.
    pub(crate) http: Option<SocketAddr>,
    process: tokio::process::Child,
    /// Lines of its log. They are taken from it whoever reads them: a full pipe would hold the program up.
    log: UnboundedReceiver<String>,
    /// What was read of it.
    read: String,
    registry: String,
    listen: String,
    config: PathBuf,
    _directory: TempDir,
}

/// What is special about a process.
#[derive(Default)]
pub(crate) struct Start<'a> {
    /// Lines of `[listen]`; a free port of 127.0.0.1 if there are none.
    pub(crate) listen: &'a str,
    /// Further sections.
    pub(crate) sections: &'a str,
    /// Further variables of the environment.
    pub(crate) environment: &'a [(&'a str, &'a str)],
    /// A listening socket that it is given as descriptor 3.
    pub(crate) socket: Option<OwnedFd>,
    /// How many files it may have open.
    pub(crate) files_max: Option<u32>,
}

impl Child {
    /// Serves a world's tenants on a free port, with these further lines of configuration (sections but `[listen]`). HTTP is
    /// served only if they say so.
    pub(crate) async fn serve(world: &World, sections: &str) -> Self {
        Self::serve_registry(&world.registry, sections).await
    }

    /// The same over the registry with this URL.
    pub(crate) async fn serve_registry(registry: &str, sections: &str) -> Self {
        Self::start(registry, Start { sections, ..Start::default() }).await
    }

    /// The same with what is special about it.
    pub(crate) async fn start(registry: &str, start: Start<'_>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let config = directory.path().join("pgtenant.toml");
        let listen = if start.listen.is_empty() { "address = \"127.0.0.1:0\"" } else { start.listen };
        write(&config, registry, listen, start.sections);
        let mut command = Command::new("sh");
        let redirection = if start.socket.is_some() { "3<&0" } else { "" };
        let limit = start.files_max.map_or_else(String::new, |files| format!("ulimit -n {files}; "));
        let script = format!("{limit}exec \"$0\" \"$@\" {redirection} </dev/null");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_pgtenant"), "serve", "--config"]).arg(&config);
        command.envs(start.environment.iter().copied());
        command.stdin(start.socket.map_or_else(Stdio::null, Stdio::from)).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().expect("start pgtenant");
        let mut lines = BufReader::new(process.stderr.take().expect("its log")).lines();
        let (sender, log) = unbounded_channel();
        tokio::spawn(async move {
            while let Some(line) = lines.next_line().await.expect("read the log") {
                // Nobody may want to read it any more.
                let _ = sender.send(line);
            }
        });
        let (registry, listen) = (registry.to_owned(), listen.to_owned());
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut child = Self {
            address,
            http: None,
            process,
            log,
            read: String::new(),
            registry,
            listen,
            config,
            _directory: directory,
        };
        if start.sections.contains("[http]") {
            child.http = Some(address_in(&child.logged("serving HTTP").await));
        }
        child.address = address_in(&child.logged("listening").await);
        child
    }

    /// Waits for a line of the log with this text.
    pub(crate) async fn logged(&mut self, text: &str) -> String {
        let found = async {
            while let Some(line) = self.log.recv().await {
                self.read.push_str(&line);
                self.read.push('\n');
                if line.contains(text) {
                    return line;
                }
            }
            panic!("the log ended without {text:?}");
        };
        timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("no {text:?} in the log"))
    }

    /// Asks it to stop, and gives all that it has logged.
    pub(crate) async fn whole_log(mut self) -> String {
        self.signal(Signal::SIGTERM);
        let rest = async {
            while let Some(line) = self.log.recv().await {
                self.read.push_str(&line);
                self.read.push('\n');
            }
        };
        timeout(PATIENCE, rest).await.expect("the end of the log");
        self.read
    }

    /// Writes the configuration anew.
    pub(crate) fn configure(&self, sections: &str) {
        write(&self.config, &self.registry, &self.listen, sections);
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("send a signal");
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.process.wait()).await.expect("an end").expect("a status")
    }

    /// Asks it to stop, and waits for its end.
    pub(crate) async fn stop(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// The most memory it had at any time, in KiB.
    pub(crate) fn memory_kib_max(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    fn pid(&self) -> Pid {
        let id = self.process.id().expect("a running process");
        Pid::from_raw(i32::try_from(id).expect("a process id"))
    }
}

fn address_in(line: &str) -> SocketAddr {
    let (_, address) = line.split_once("address=").expect("an address");
    address.trim().parse().expect("an address")
}

fn write(path: &PathBuf, registry: &str, listen: &str, sections: &str) {
    let mut text = format!("[listen]\n{listen}\n");
    if !sections.contains("[http]") {
        text.push_str("[http]\naddress = \"\"\n");
    }
    writeln!(text, "[registry]\nurl = \"{registry}\"\n{sections}").expect("write");
    std::fs::write(path, text).expect("write the configuration");
}
