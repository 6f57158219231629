//! The control plane inside `pgtenant serve`, if it is asked for: on a thread of its own, sharing nothing with the proxy but the registry.

use std::convert::Infallible;
use std::thread::JoinHandle;

use anyhow::Context as _;
use tokio::sync::oneshot;

use crate::control::Reconciler;
use crate::registry;

/// The running control plane; it ends when dropped.
pub(super) struct Daemon {
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    /// Starts it, if the configuration says how often it is to look.
    pub(super) fn start(config: &registry::Config) -> anyhow::Result<Option<Self>> {
        let interval = config.reconcile_interval;
        let Some(url) = config.url.as_deref().filter(|_| !interval.is_zero()) else { return Ok(None) };
        let reconciler = Reconciler::new(url, interval)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("start the control plane's runtime")?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = reconciler.run() => {}
                    // Its sender says nothing; it goes.
                    _ = stopped => {}
                }
            });
        });
        tracing::info!(?interval, "provisioning what the registry asks for");
        Ok(Some(Self { stop: Some(stop), thread: Some(thread.context("start the control plane's thread")?) }))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the control plane's thread panicked");
        }
    }
}
