//! Clients that ask the same again and again, and how long each answer takes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use crate::place::Tenant;
use crate::target::{Target, connect};

/// Clients that log in at one time.
const LOGINS_MAX: usize = 16;

/// What was measured.
pub(crate) struct Measured {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// Answers a second.
    pub(crate) rate: f64,
}

/// Running clients.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    times: Arc<Mutex<Vec<Duration>>>,
    clients: JoinSet<Result<()>>,
}

impl Load {
    /// Logs in so many clients of a tenant, and has them ask this.
    pub(crate) async fn start(target: &Target, tenant: Tenant, count: usize, sql: &'static str) -> Result<Self> {
        let (stop, times) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Duration>>>::default());
        let mut clients = JoinSet::new();
        let mut left = count;
        while left > 0 {
            let together = left.min(LOGINS_MAX);
            left -= together;
            let mut logins = JoinSet::new();
            for _ in 0..together {
                logins.spawn(connect(target.config(tenant)));
            }
            for client in logins.join_all().await {
                let client = client.with_context(|| format!("log in through {}", target.name))?;
                let (stop, times) = (Arc::clone(&stop), Arc::clone(&times));
                clients.spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let asked = Instant::now();
                        client.simple_query(sql).await?;
                        times.lock().unwrap_or_else(PoisonError::into_inner).push(asked.elapsed());
                    }
                    Ok(())
                });
            }
        }
        Ok(Self { stop, times, clients })
    }

    /// What they see from now on, for so long.
    pub(crate) async fn measure(&self, length: Duration) -> Measured {
        self.take();
        let began = Instant::now();
        tokio::time::sleep(length).await;
        let mut times = self.take();
        let rate = times.len() as f64 / began.elapsed().as_secs_f64();
        times.sort_unstable();
        let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or(length);
        Measured { p50: at(50), p99: at(99), rate }
    }

    fn take(&self) -> Vec<Duration> {
        std::mem::take(&mut self.times.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until the last answer has come.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.context("a client panicked")?.context("a client failed")?;
        }
        Ok(())
    }
}
