//! `pgtenant serve`: the proxy, from its configuration to its last drained session.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::context::Globals;
use super::daemon::Daemon;
use super::process::Process;
use super::reload::{FileWatch, Reloader, proxy_config};
use super::service;
use crate::admin;
use crate::config::Config;
use crate::proxy::{Inherited, Proxy, Request};
use crate::registry::Registry;
use crate::telemetry::{Log, record_metrics};

/// Threads for logins, registry and connecting; sessions have threads of their own.
const FRONT_THREADS: usize = 2;

/// Serves until SIGTERM or SIGINT; a second one ends at once.
pub(super) fn run(globals: &Globals) -> anyhow::Result<()> {
    let inherited = service::inherited()?;
    let mut files = FileWatch::begin(globals);
    let config = globals.load()?;
    files.follow(globals, &config);
    let log = Log::start_behind(&config.log)?;
    let recorder = record_metrics()?;
    crate::metrics::describe();
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(FRONT_THREADS)
        .thread_name("front")
        .enable_all()
        .build()
        .context("start the front runtime")?;
    let served = runtime.block_on(serve(globals, config, files, inherited, log, recorder));
    // Logins still under way have been told nothing yet; their sockets close here.
    runtime.shutdown_background();
    served
}

async fn serve(
    globals: &Globals,
    config: Config,
    mut files: FileWatch,
    inherited: Inherited,
    log: Log,
    recorder: PrometheusHandle,
) -> anyhow::Result<()> {
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
    let mut proxy = Proxy::start_on(inherited, proxy_config(&config), registry.clone()).await?;
    process.serves(&registry, &proxy);
    if let Some(address) = proxy.tcp_address() {
        tracing::info!(%address, "listening");
    }
    if let Some(socket) = proxy.unix_path() {
        tracing::info!(socket = %socket.display(), "listening");
    }
    let daemon = Daemon::start(&config.registry).context("reconcile the registry")?;
    service::ready();
    let mut reloader = Reloader::new(globals, &registry, http.as_ref(), log, config);
    loop {
        let reply = tokio::select! {
            () = stopped(&mut terminate, &mut interrupt) => break,
            _ = hangup.recv() => None,
            () = files.changed() => None,
            request = proxy.request() => match request {
                Some(Request::Reload(reply)) => Some(reply),
                Some(Request::Shutdown { wait: false }) | None => break,
                Some(Request::Shutdown { wait: true }) => {
                    process.drains();
                    service::stopping(Duration::MAX);
                    tracing::info!(clients = proxy.clients(), "waiting for clients to leave");
                    tokio::select! {
                        () = proxy.until_left() => {}
                        () = stopped(&mut terminate, &mut interrupt) => {}
                    }
                    break;
                }
            },
        };
        files.again();
        let done = reloader.reload(&proxy).await;
        files.follow(globals, reloader.current());
        if let Some(reply) = reply {
            // Whoever asked may have left.
            let _ = reply.send(done.map_err(|error| format!("{error:#}")));
        }
    }
    let drain = reloader.current().timeouts.drain;
    process.drains();
    service::stopping(drain);
    drop(daemon);
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
