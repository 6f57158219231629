//! How many clients each tenant has, and how fast they come.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rapidhash::RapidHashMap;
use tokio::time::Instant;

use crate::limits;
use crate::protocol::{Report, SqlState};
use crate::tenant::{Tenant, TenantId};

/// Tenants that are remembered before those that need not be are forgotten.
const TENANTS_MIN: usize = 1024;

/// The clients of all tenants. Locked once at each login and each goodbye.
#[derive(Debug, Default)]
pub(super) struct Seats {
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    tenants: RapidHashMap<TenantId, Seat>,
    /// How many tenants there may be before those without clients are forgotten.
    tenants_max: usize,
}

#[derive(Debug)]
struct Seat {
    clients: u32,
    /// When the next one would come who kept exactly to the rate: GCRA, the leaky bucket as a clock.
    due: Instant,
}

/// A client among its tenant's; dropping it makes room for another.
#[derive(Debug)]
pub(super) struct Seated {
    seats: Arc<Seats>,
    tenant: TenantId,
}

impl Seats {
    /// A place for one more client.
    pub(super) fn take(self: &Arc<Self>, tenant: &Tenant, limits: limits::Config) -> Result<Seated, Report> {
        let now = Instant::now();
        let mut books = self.books();
        books.forget(now);
        let seat = books.tenants.entry(tenant.id).or_insert(Seat { clients: 0, due: now });
        seat.admit(limits, now).map_err(|what| {
            Report::fatal(SqlState::TOO_MANY_CONNECTIONS, format!("(PT-LIMIT) tenant \"{}\" {what}", tenant.slug))
        })?;
        Ok(Seated { seats: Arc::clone(self), tenant: tenant.id })
    }

    /// How many clients a tenant has.
    #[cfg(test)]
    fn clients(&self, tenant: TenantId) -> u32 {
        self.books().tenants.get(&tenant).map_or(0, |seat| seat.clients)
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    /// Forgets whom nothing is known of but that they were here.
    fn forget(&mut self, now: Instant) {
        if self.tenants.len() >= self.tenants_max.max(TENANTS_MIN) {
            self.tenants.retain(|_, seat| seat.clients > 0 || seat.due > now);
            self.tenants_max = self.tenants.len() * 2;
        }
    }
}

impl Seat {
    fn admit(&mut self, limits: limits::Config, now: Instant) -> Result<(), String> {
        let limits::Config { max_clients, connect_rate, .. } = limits;
        if max_clients > 0 && self.clients >= max_clients {
            return Err(format!("has {max_clients} clients already (max_clients = {max_clients})"));
        }
        if connect_rate > 0 {
            let interval = Duration::from_secs(1) / connect_rate;
            let due = self.due.max(now);
            if due - now > interval * (connect_rate - 1) {
                return Err(format!("logs in more than {connect_rate} times a second (connect_rate = {connect_rate})"));
            }
            self.due = due + interval;
        }
        self.clients += 1;
        Ok(())
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        if let Some(seat) = self.seats.books().tenants.get_mut(&self.tenant) {
            seat.clients = seat.clients.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::testing::tenant;

    #[test]
    fn a_tenants_clients_are_counted_and_refused_by_name_and_number() {
        let (seats, acme, beta) = (Arc::<Seats>::default(), tenant("acme", &[]), tenant("beta", &[]));
        let limits = limits::Config { max_clients: 2, ..limits::Config::default() };
        let taken = [seats.take(&acme, limits).unwrap(), seats.take(&acme, limits).unwrap()];
        let refused = seats.take(&acme, limits).unwrap_err();
        assert_eq!(refused.message, "(PT-LIMIT) tenant \"acme\" has 2 clients already (max_clients = 2)");
        drop(seats.take(&beta, limits).unwrap());
        drop(taken);
        assert_eq!((seats.clients(acme.id), seats.clients(beta.id)), (0, 0));
        drop(seats.take(&acme, limits).unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_a_second_is_let_in_and_then_only_the_rate() {
        let (seats, acme) = (Arc::<Seats>::default(), tenant("acme", &[]));
        let limits = limits::Config { connect_rate: 4, ..limits::Config::default() };
        let come = || seats.take(&acme, limits).map(drop);
        assert_eq!((0..9).filter(|_| come().is_ok()).count(), 4);
        let refused = come().unwrap_err();
        assert_eq!(refused.message, "(PT-LIMIT) tenant \"acme\" logs in more than 4 times a second (connect_rate = 4)");
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!((0..9).filter(|_| come().is_ok()).count(), 1);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!((0..9).filter(|_| come().is_ok()).count(), 4, "no more is saved up than a second's");
    }
}
