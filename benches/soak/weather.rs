//! Which faults are on, and which errors they explain.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long after its end a fault may still be the reason of an error: a checkout's longest wait, and the wait after failed attempts.
const AFTERMATH: Duration = Duration::from_secs(25);

/// How much later who reads slowly may see what ended its session: what is in the kernel's buffers is read first.
pub(crate) const SLOW_READING: Duration = Duration::from_secs(60);

/// A code of our own, for a proxy that is not there.
pub(crate) const AWAY: &str = "away";

/// Whom a fault strikes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Struck {
    /// All places on this server.
    Server(&'static str),
    /// All places of this tenant.
    Tenant(&'static str),
    /// All clients of this proxy.
    Proxy(&'static str),
    /// Whoever is not known to the proxies yet.
    Registry,
}

struct Spell {
    struck: Struck,
    codes: &'static [&'static str],
    ended: Option<Instant>,
}

impl Spell {
    fn lasts(&self, late: Duration) -> bool {
        self.ended.is_none_or(|ended| ended.elapsed() < AFTERMATH + late)
    }
}

/// All faults of late.
#[derive(Default)]
pub(crate) struct Weather(Mutex<Vec<Spell>>);

impl Weather {
    /// From now on these errors are explained, until some time after the guard is gone.
    pub(crate) fn begin(&self, struck: Struck, codes: &'static [&'static str]) -> Lasting<'_> {
        let mut spells = self.lock();
        spells.retain(|spell| spell.lasts(SLOW_READING));
        spells.push(Spell { struck: struck.clone(), codes, ended: None });
        Lasting { weather: self, struck }
    }

    /// Whether a fault explains that a client of this proxy and tenant, on this server, sees this error so late.
    pub(crate) fn explains(&self, sqlstate: &str, proxy: &str, tenant: &str, server: &str, late: Duration) -> bool {
        self.lock().iter().any(|spell| {
            let concerns = match &spell.struck {
                Struck::Server(name) => *name == server,
                Struck::Tenant(name) => *name == tenant,
                Struck::Proxy(name) => *name == proxy,
                Struck::Registry => true,
            };
            concerns && spell.lasts(late) && spell.codes.contains(&sqlstate)
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Spell>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A fault that is on.
pub(crate) struct Lasting<'a> {
    weather: &'a Weather,
    struck: Struck,
}

impl Drop for Lasting<'_> {
    fn drop(&mut self) {
        let now = Some(Instant::now());
        for spell in self.weather.lock().iter_mut().filter(|spell| spell.struck == self.struck) {
            spell.ended = spell.ended.or(now);
        }
    }
}
