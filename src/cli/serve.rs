//! `pgtenant serve`: the proxy, from its configuration to its last drained session.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::context::Globals;
use super::process::Process;
use crate::admin;
use crate::config::Config;
use crate::proxy::{self, Proxy, Request};
use crate::registry::Registry;
use crate::telemetry::{Log, record_metrics};

/// Threads for logins, registry and connecting; sessions have threads of their own.
const FRONT_THREADS: usize = 2;

/// Serves until SIGTERM or SIGINT; a second one ends at once.
pub(super) fn run(globals: &Globals) -> anyhow::Result<()> {
    let config = globals.load()?;
    let log = Log::start(&config.log)?;
    let recorder = record_metrics()?;
    crate::metrics::describe();
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(FRONT_THREADS)
        .thread_name("front")
        .enable_all()
        .build()
        .context("start the front runtime")?;
    let served = runtime.block_on(serve(globals, config, log, recorder));
    // Logins still under way have been told nothing yet; their sockets close here.
    runtime.shutdown_background();
    served
}

async fn serve(globals: &Globals, config: Config, log: Log, recorder: PrometheusHandle) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(Process::keep_up(recorder.clone()));
    let process = Arc::new(Process::new(recorder));
    let http = admin::Server::start(&config.http, Arc::clone(&process))?;
    if let Some(http) = &http {
        warn_if_open(&config.http, http.address());
        tracing::info!(address = %http.address(), "serving HTTP");
    }
    let registry = Registry::open(&config.registry).await.context("open the registry")?;
    let mut proxy = Proxy::start(proxy_config(&config), registry.clone()).await?;
    process.serves(&registry, &proxy);
    if let Some(address) = proxy.tcp_address() {
        tracing::info!(%address, "listening");
    }
    if let Some(socket) = proxy.unix_path() {
        tracing::info!(socket = %socket.display(), "listening");
    }
    let mut drain = config.timeouts.drain;
    loop {
        tokio::select! {
            () = stopped(&mut terminate, &mut interrupt) => break,
            _ = hangup.recv() => match reload(globals, &proxy, &registry, &log).await {
                Ok(new) => drain = applied(&new, &config, http.as_ref()),
                Err(error) => tracing::error!(error = format!("{error:#}"), "not reloaded, nothing has changed"),
            },
            request = proxy.request() => match request {
                Some(Request::Reload(reply)) => {
                    let done = reload(globals, &proxy, &registry, &log).await;
                    let answer = done.map(|new| drain = applied(&new, &config, http.as_ref()));
                    let answer = answer.map_err(|error| format!("{error:#}"));
                    // Whoever asked may have left.
                    let _ = reply.send(answer);
                }
                Some(Request::Shutdown { wait: false }) | None => break,
                Some(Request::Shutdown { wait: true }) => {
                    process.drains();
                    tracing::info!(clients = proxy.clients(), "waiting for clients to leave");
                    tokio::select! {
                        () = proxy.until_left() => {}
                        () = stopped(&mut terminate, &mut interrupt) => {}
                    }
                    break;
                }
            },
        }
    }
    process.drains();
    tokio::select! {
        () = proxy.shutdown(drain) => tracing::info!("stopped"),
        () = stopped(&mut terminate, &mut interrupt) => tracing::warn!("stopped without waiting"),
    }
    Ok(())
}

/// What HTTP tells of tenants is not for everybody.
fn warn_if_open(config: &admin::Config, address: SocketAddr) {
    if config.token.is_none() && !address.ip().is_loopback() {
        tracing::warn!(%address, "HTTP without [http] token tells whoever can reach it of tenants and their servers");
    }
}

async fn stopped(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// What the rest of the process takes from a configuration that was read again; how long to drain.
fn applied(new: &Config, old: &Config, http: Option<&admin::Server>) -> std::time::Duration {
    if let Some(http) = http {
        http.set_token(new.http.token.clone());
    }
    let changed = [
        ("http.address", new.http.address != old.http.address),
        ("http.tenant_labels", new.http.tenant_labels != old.http.tenant_labels),
    ];
    for (key, _) in changed.into_iter().filter(|(_, changed)| *changed) {
        tracing::warn!(key, "changed, but takes effect only after a restart");
    }
    tracing::info!("reloaded");
    new.timeouts.drain
}

/// Reads the configuration again and applies what can change; a broken file changes nothing.
async fn reload(globals: &Globals, proxy: &Proxy, registry: &Registry, log: &Log) -> anyhow::Result<Config> {
    let config = globals.load()?;
    let fixed = proxy.reload(&proxy_config(&config))?;
    log.set_level(&config.log.level)?;
    registry.reload().await.context("read the registry again")?;
    for key in fixed {
        tracing::warn!(key, "changed, but takes effect only after a restart");
    }
    Ok(config)
}

fn proxy_config(config: &Config) -> proxy::Config {
    proxy::Config {
        listen: config.listen.clone(),
        identify: config.identify.clone(),
        pool: config.pool.clone(),
        timeouts: config.timeouts.clone(),
        console: config.console.clone(),
    }
}

/// Each client and each server connection needs a file descriptor: take as many as the system allows.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| hard));
    match raised {
        Ok(limit) => tracing::debug!(limit, "file descriptors"),
        Err(error) => tracing::warn!(%error, "limit of file descriptors could not be raised"),
    }
}
