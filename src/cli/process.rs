//! The running process as the HTTP side sees it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;

use crate::admin::{Moment, Phase, Plane};
use crate::console;
use crate::proxy::{Proxy, View};
use crate::registry::Registry;

/// How often the recorder of metrics puts what it was told in order.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// What is there of the process so far.
pub(super) struct Process {
    recorder: PrometheusHandle,
    registry: OnceLock<Registry>,
    view: OnceLock<View>,
    draining: AtomicBool,
}

impl Process {
    pub(super) const fn new(recorder: PrometheusHandle) -> Self {
        Self { recorder, registry: OnceLock::new(), view: OnceLock::new(), draining: AtomicBool::new(false) }
    }

    /// Clients can connect from now on.
    pub(super) fn serves(&self, registry: &Registry, proxy: &Proxy) {
        self.registry.get_or_init(|| registry.clone());
        self.view.get_or_init(|| proxy.view());
    }

    /// No client can connect from now on.
    pub(super) fn drains(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Looks after the recorder for ever.
    pub(super) async fn keep_up(recorder: PrometheusHandle) {
        let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            ticks.tick().await;
            recorder.run_upkeep();
        }
    }
}

impl Plane for Process {
    fn phase(&self) -> Phase {
        match (self.view.get().is_some(), self.draining.load(Ordering::Acquire)) {
            (_, true) => Phase::Draining,
            (true, false) => Phase::Serving,
            (false, false) => Phase::Starting,
        }
    }

    fn registry(&self) -> Option<Registry> {
        self.registry.get().cloned()
    }

    fn recorded(&self) -> String {
        self.recorder.render()
    }

    async fn moment(&self) -> Option<Moment> {
        let view = self.view.get()?;
        let (clients, clients_max) = view.clients();
        let servers = view.servers();
        let (threads, silent_threads) = view.threads().await;
        Some(Moment { clients, clients_max, threads, servers, silent_threads })
    }

    async fn whole(&self) -> Option<console::View> {
        self.view.get()?.whole().await
    }
}
