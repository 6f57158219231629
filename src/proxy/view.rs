//! The data plane as those see it who only watch it: they do not keep it from ending.

use std::sync::{Arc, Weak};

use super::operations::Console;
use super::{Proxy, Shared};
use crate::backend::ServerUse;
use crate::console::{self, Operations};
use crate::session::ThreadState;

/// A look at a proxy, which may have ended.
#[derive(Clone)]
pub struct View {
    shared: Weak<Shared>,
}

impl Proxy {
    /// A look at it that can be given away.
    #[must_use]
    pub fn view(&self) -> View {
        View { shared: Arc::downgrade(&self.shared) }
    }
}

impl View {
    /// How many clients are connected, and how many may be.
    #[must_use]
    pub fn clients(&self) -> (u32, u32) {
        self.shared.upgrade().map_or((0, 0), |shared| (shared.clients.count(), shared.live.load().listen.max_clients))
    }

    /// How far the servers' connections are used.
    #[must_use]
    pub fn servers(&self) -> Vec<ServerUse> {
        self.shared.upgrade().map(|shared| shared.leasing.quotas().servers()).unwrap_or_default()
    }

    /// All its sessions and pools, as the console has them.
    pub async fn whole(&self) -> Option<console::View> {
        Some(Console(self.shared.upgrade()?).view().await)
    }

    /// What each thread is doing, and how many did not say so in time.
    pub async fn threads(&self) -> (Vec<ThreadState>, usize) {
        match self.shared.upgrade() {
            Some(shared) => shared.measure().await,
            None => (Vec::new(), 0),
        }
    }
}
