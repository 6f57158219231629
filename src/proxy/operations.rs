//! What the console can see of the proxy and do to it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Shared;
use super::settings::settings;
use super::worker::Command;
use crate::console::{self, Operations, View, Which};
use crate::protocol::{Report, SqlState};
use crate::session::{ClientState, Doing, Held};
use crate::tenant::{TenantId, TenantName};

/// Between two looks at whether transactions have ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What the console asks of the process around the proxy.
#[derive(Debug)]
pub enum Request {
    /// Read the configuration again; the answer is why not, if it could not be.
    Reload(oneshot::Sender<Result<(), String>>),
    /// End when transactions are over; or first let all clients leave by themselves.
    Shutdown {
        /// Clients are not told to leave.
        wait: bool,
    },
}

/// An order of the operator that stands.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) held: Held,
    /// As the operator wrote it.
    name: String,
}

/// The proxy, for the console.
pub(super) struct Console(pub(super) Arc<Shared>);

impl Operations for Console {
    async fn view(&self) -> View {
        let shared = &self.0;
        let snapshot = shared.snapshot().await;
        let live = shared.live.load_full();
        let names = |orders: &[Order]| orders.iter().map(|order| order.name.clone()).collect();
        let ids: HashSet<TenantId> = snapshot.pools.iter().filter_map(|pool| pool.key.tenant).collect();
        let owners = ids.into_iter().filter_map(|id| Some((id, shared.registry.remembered(id)?))).collect();
        View {
            clients: snapshot.clients,
            silent_threads: snapshot.silent_threads,
            pools: snapshot.pools,
            servers: shared.leasing.quotas().servers(),
            tenants: shared.leasing.quotas().tenants(),
            owners,
            limits: live.limits,
            clients_used: shared.clients.count() as usize,
            clients_max: live.listen.max_clients as usize,
            uptime: shared.started.elapsed(),
            paused: names(&shared.paused.load()),
            disabled: names(&shared.disabled.load()),
            default_mode: live.pool.mode,
            settings: settings(&live),
        }
    }

    async fn act(&self, command: console::Command) -> Result<(), Report> {
        use console::Command as Say;
        let shared = &self.0;
        match command {
            Say::Pause(which) => {
                let order = shared.order(&which).await?;
                shared.add_pause(order.clone());
                self.until_quiet(&order.held).await;
                shared.tell_workers(|| Command::Renew(order.held.clone()));
            }
            Say::Resume(which) => {
                let order = shared.order(&which).await?;
                shared.remove_pause(&order)?;
            }
            Say::Reconnect(which) => {
                let order = shared.order(&which).await?;
                shared.tell_workers(|| Command::Renew(order.held.clone()));
            }
            Say::Kill(which) => {
                let order = shared.order(&which).await?;
                shared.tell_workers(|| Command::KillSome(order.held.clone()));
            }
            Say::KillClient(id) => {
                let known = shared.snapshot().await.clients.iter().any(|client| client.id == id);
                if !known {
                    let message = format!("there is no client {id}");
                    return Err(Report::error(SqlState::UNDEFINED_OBJECT, message).hint("SHOW CLIENTS has their ids."));
                }
                shared.tell_workers(|| Command::KillOne(id));
            }
            Say::Disable(which) => {
                let order = shared.order(&which).await?;
                shared.disabled.rcu(|orders| with(orders, &order));
            }
            Say::Enable(which) => {
                let order = shared.order(&which).await?;
                let before = shared.disabled.rcu(|orders| without(orders, &order.held));
                if !before.iter().any(|other| other.held == order.held) {
                    return Err(not_held(&order.name, "disabled"));
                }
            }
            Say::Reload => self.reload().await?,
            Say::Shutdown { wait } => shared.request(Request::Shutdown { wait })?,
            Say::Show(_) | Say::Empty | Say::Set => {}
        }
        Ok(())
    }

    async fn closing(&self) {
        let mut closing = self.0.closing.subscribe();
        // The sender lives as long as the proxy.
        let _ = closing.wait_for(|closing| *closing).await;
    }
}

impl Console {
    async fn reload(&self) -> Result<(), Report> {
        let (reply, answer) = oneshot::channel();
        self.0.request(Request::Reload(reply))?;
        let failed = |message: String| Report::error(SqlState::INVALID_PARAMETER_VALUE, message);
        match answer.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(message)) => Err(failed(format!("not reloaded, nothing has changed: {message}"))),
            Err(_) => Err(failed("not reloaded: the process ends".to_owned())),
        }
    }

    /// Waits until no transaction of theirs runs.
    async fn until_quiet(&self, held: &Held) {
        let is_busy = |client: &ClientState| {
            held.covers(client.tenant.id, &client.placement)
                && matches!(client.doing, Doing::Active | Doing::IdleInTransaction)
        };
        while self.0.snapshot().await.clients.iter().any(is_busy) {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

impl Shared {
    /// Whom the operator means.
    async fn order(&self, which: &Which) -> Result<Order, Report> {
        let Some(name) = which.name() else {
            return Ok(Order { held: Held { tenant: None, module: None }, name: "*".to_owned() });
        };
        if let Some(held) = self.held(name, None).await? {
            return Ok(Order { held, name: name.to_owned() });
        }
        if let Some((tenant, module)) = name.rsplit_once('.')
            && let Some(held) = self.held(tenant, Some(module)).await?
        {
            return Ok(Order { held, name: name.to_owned() });
        }
        Err(Report::error(SqlState::UNDEFINED_OBJECT, format!("there is no tenant \"{name}\"")))
    }

    async fn held(&self, name: &str, module: Option<&str>) -> Result<Option<Held>, Report> {
        let Ok(parsed) = TenantName::parse(name) else { return Ok(None) };
        let unavailable = |error| Report::error(SqlState::CANNOT_CONNECT_NOW, format!("(PT-UNAVAILABLE) {error}"));
        let Some(tenant) = self.registry.lookup(&parsed).await.map_err(unavailable)? else { return Ok(None) };
        match module.map(|module| tenant.placement(module)) {
            Some(None) => Err(Report::error(
                SqlState::UNDEFINED_OBJECT,
                format!("tenant \"{}\" has no module \"{}\"", tenant.slug, module.unwrap_or_default()),
            )),
            Some(Some(placement)) => {
                Ok(Some(Held { tenant: Some(tenant.id), module: Some(placement.terms.module.to_string()) }))
            }
            None => Ok(Some(Held { tenant: Some(tenant.id), module: None })),
        }
    }

    fn add_pause(&self, order: Order) {
        self.paused.rcu(|orders| with(orders, &order));
        self.tell_paused();
    }

    fn remove_pause(&self, order: &Order) -> Result<(), Report> {
        // RESUME of everybody ends every pause.
        let all = order.held.tenant.is_none();
        let before = self.paused.rcu(|orders| if all { Vec::new() } else { without(orders, &order.held) });
        self.tell_paused();
        let was_paused = if all { !before.is_empty() } else { before.iter().any(|other| other.held == order.held) };
        if was_paused { Ok(()) } else { Err(not_held(&order.name, "paused")) }
    }

    fn tell_paused(&self) {
        let held: Vec<_> = self.paused.load().iter().map(|order| order.held.clone()).collect();
        self.tell_workers(|| Command::Paused(held.clone()));
    }

    fn tell_workers(&self, command: impl Fn() -> Command) {
        self.workers.iter().for_each(|worker| worker.tell(command()));
    }

    fn request(&self, request: Request) -> Result<(), Report> {
        let gone = |_| Report::error(SqlState::FEATURE_NOT_SUPPORTED, "nobody here can do that");
        self.requests.send(request).map_err(gone)
    }
}

fn with(orders: &[Order], order: &Order) -> Vec<Order> {
    let mut orders = without(orders, &order.held);
    orders.push(order.clone());
    orders
}

fn without(orders: &[Order], held: &Held) -> Vec<Order> {
    orders.iter().filter(|other| other.held != *held).cloned().collect()
}

fn not_held(name: &str, how: &str) -> Report {
    Report::error(SqlState::UNDEFINED_OBJECT, format!("\"{name}\" is not {how}"))
}
