//! Further proxies, which take part where their programs are named.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::Options;
use crate::place::{DATABASE, PASSWORD, Place, ROLE};
use crate::supervised::Supervised;
use crate::target::{HOST, Target, free_port};

/// As many as pgtenant has here by default.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What it says of its version: the word after its name.
pub(crate) fn version(program: &Path, argument: &str, name: &str) -> Result<String> {
    let output = Command::new(program).arg(argument).output().with_context(|| format!("run {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let version = said.strip_prefix(name).and_then(|rest| rest.split_whitespace().next());
    Ok(version.with_context(|| format!("{} {argument} says {said:?}", program.display()))?.to_owned())
}

/// With what makes it like the others: transaction pooling, statements carried from one server connection to another, nothing logged of
/// sessions, and nothing sent between two of them.
pub(crate) fn start_odyssey(place: &Place, options: &Options, program: &Path) -> Result<Target> {
    let port = free_port()?;
    let config = format!(
        "daemonize no\nlog_to_stdout yes\nlog_format \"%l %c %m\\n\"\nlog_config no\nlog_debug no\nlog_session no\nlog_stats no\nlog_query no\n\
         workers {threads}\n\
         listen {{\n  host \"{HOST}\"\n  port {port}\n}}\n\
         storage \"one\" {{\n  type \"remote\"\n  host \"{HOST}\"\n  port {server_port}\n}}\n\
         database \"{DATABASE}\" {{\n  user \"{ROLE}\" {{\n    authentication \"scram-sha-256\"\n    password \"{PASSWORD}\"\n\
         storage \"one\"\n    storage_password \"{PASSWORD}\"\n    pool \"transaction\"\n    pool_size {size}\n\
         pool_discard no\n    pool_reserve_prepared_statement yes\n  }}\n}}\n",
        threads = threads(),
        server_port = place.cluster.port(),
        size = options.pool_size,
    );
    place.write("odyssey.conf", &config)?;
    let process = Supervised::start(place, program, &["odyssey.conf"], "odyssey")?;
    Ok(Target::peer("odyssey", port, process))
}

/// A connection of its own to the server for each client.
pub(crate) fn start_haproxy(place: &Place, program: &Path) -> Result<Target> {
    let port = free_port()?;
    let config = format!(
        "global\n  nbthread {threads}\n  maxconn 1000\n\
         defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 1h\n  timeout server 1h\n\
         listen one\n  bind {HOST}:{port}\n  server one {HOST}:{server_port}\n",
        threads = threads(),
        server_port = place.cluster.port(),
    );
    place.write("haproxy.cfg", &config)?;
    let process = Supervised::start(place, program, &["-f", "haproxy.cfg"], "haproxy")?;
    Ok(Target { connects_each: true, ..Target::peer("haproxy", port, process) })
}
