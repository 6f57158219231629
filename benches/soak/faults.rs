//! What breaks, one thing after the other; after each, everybody must be served again.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::{join_all, try_join_all};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgtenant::cluster::Cluster;
use tokio::time::{Instant, sleep, timeout};

use crate::clients::Kind;
use crate::place::{HELD, REMADE, SUSPENDED};
use crate::proxy::Proxy;
use crate::weather::{AWAY, Struck};
use crate::{Soak, Visit};

/// What clients may see of a server that goes away and comes back.
const SERVER_AWAY: &[&str] = &["08006", "57P01", "57P02", "57P03", "53300"];
/// How long a server or the registry is away.
const SERVER_STOP: Duration = Duration::from_secs(8);
const REGISTRY_STOP: Duration = Duration::from_secs(20);
const REGISTRY_FREEZE: Duration = Duration::from_secs(10);
/// How long a tenant is suspended.
const SUSPENSION: Duration = Duration::from_secs(5);
/// From a suspension until no proxy has the tenant any more.
const OUT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long PAUSE may wait for transactions, and how long it holds then: together less than a checkout's longest wait.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(6);
const PAUSE: Duration = Duration::from_secs(2);
/// From the end of a fault until every place must serve, and until every kind of client must have been served.
const PLACES_TIMEOUT: Duration = Duration::from_secs(60);
const KINDS_TIMEOUT: Duration = Duration::from_secs(120);

/// Something that breaks, or that an operator does.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// `kill -9` of a session on this server: PostgreSQL ends all others, too, and recovers.
    KillSession(&'static str),
    StopServer(&'static str),
    StopRegistry,
    /// Its processes do not go on for a while: whoever asks it waits.
    FreezeRegistry,
    Suspend,
    /// Delete and create.
    Remake,
    Reload,
    Reconnect,
    /// Of this tenant, or of all.
    Pause(Option<&'static str>),
    Kill,
    /// One of the proxies ends and begins anew.
    Restart,
}

/// A round.
const PLAN: [Fault; 14] = [
    Fault::KillSession("one"),
    Fault::StopServer("two"),
    Fault::StopRegistry,
    Fault::Suspend,
    Fault::Reconnect,
    Fault::FreezeRegistry,
    Fault::Remake,
    Fault::Pause(Some(HELD)),
    Fault::KillSession("two"),
    Fault::Restart,
    Fault::Reload,
    Fault::StopServer("one"),
    Fault::Pause(None),
    Fault::Kill,
];

impl Soak {
    /// All faults once, with some calm after each.
    pub(crate) async fn faults(&self, calm: Duration) -> Result<()> {
        for fault in PLAN {
            self.say(&format!("{fault:?}"));
            self.strike(fault).await.with_context(|| format!("{fault:?}"))?;
            self.places_serve().await.with_context(|| format!("after {fault:?}"))?;
            sleep(calm).await;
        }
        self.kinds_are_served().await
    }

    async fn strike(&self, fault: Fault) -> Result<()> {
        match fault {
            Fault::KillSession(server) => self.kill_session(server).await,
            Fault::StopServer(server) => self.stop_server(server).await,
            Fault::StopRegistry => self.stop_registry().await,
            Fault::FreezeRegistry => self.freeze_registry().await,
            Fault::Suspend => self.suspend().await,
            Fault::Remake => self.remake().await,
            Fault::Reload => self.proxies.iter().try_for_each(Proxy::reload),
            Fault::Reconnect => self.tell("RECONNECT").await,
            Fault::Pause(tenant) => self.pause(tenant.unwrap_or_default()).await,
            Fault::Kill => self.kill_tenant().await,
            Fault::Restart => self.restart().await,
        }
    }

    async fn kill_session(&self, server: &'static str) -> Result<()> {
        let cluster = self.place.server(server);
        let busy = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename <> 'postgres' \
                    ORDER BY state = 'active' DESC, random() LIMIT 1";
        let _lasting = self.weather.begin(Struck::Server(server), SERVER_AWAY);
        let deadline = Instant::now() + PLACES_TIMEOUT;
        loop {
            // One that was chosen may end before its signal.
            let pid = self.place.number(cluster, busy).await?;
            if pid.is_some_and(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok()) {
                break;
            }
            ensure!(Instant::now() < deadline, "nobody keeps a session there");
        }
        sleep(Duration::from_secs(1)).await;
        self.accepts(cluster).await
    }

    async fn stop_server(&self, server: &'static str) -> Result<()> {
        let cluster = self.place.server(server);
        let _lasting = self.weather.begin(Struck::Server(server), SERVER_AWAY);
        cluster.stop().await?;
        sleep(SERVER_STOP).await;
        cluster.start().await?;
        Ok(())
    }

    async fn stop_registry(&self) -> Result<()> {
        let _lasting = self.weather.begin(Struck::Registry, &["57P03"]);
        self.place.registry.stop().await?;
        sleep(REGISTRY_STOP).await;
        self.place.registry.start().await?;
        Ok(())
    }

    async fn freeze_registry(&self) -> Result<()> {
        let _lasting = self.weather.begin(Struck::Registry, &["57P03"]);
        let frozen = Frozen::all(&self.place.registry)?;
        sleep(REGISTRY_FREEZE).await;
        drop(frozen);
        self.accepts(&self.place.registry).await
    }

    async fn suspend(&self) -> Result<()> {
        let _lasting = self.weather.begin(Struck::Tenant(SUSPENDED), &["28000", "57P01"]);
        self.place.run(&["tenant", "suspend", SUSPENDED]).await?;
        try_join_all(self.proxies.iter().map(|proxy| self.goes(SUSPENDED, proxy))).await?;
        sleep(SUSPENSION).await;
        for proxy in &self.proxies {
            ensure!(self.is_out(SUSPENDED, proxy).await?, "{SUSPENDED} came back to the {} proxy", proxy.name);
        }
        self.place.run(&["tenant", "activate", SUSPENDED]).await?;
        Ok(())
    }

    /// Waits until a tenant that was suspended is out at a proxy.
    async fn goes(&self, slug: &str, proxy: &Proxy) -> Result<()> {
        let deadline = Instant::now() + OUT_TIMEOUT;
        while !self.is_out(slug, proxy).await? {
            ensure!(Instant::now() < deadline, "{slug} is suspended and still at the {} proxy", proxy.name);
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Whether a proxy has no session of a suspended tenant, and none of its places lets anybody in there.
    async fn is_out(&self, slug: &str, proxy: &Proxy) -> Result<bool> {
        let visits = self.visits().filter(|visit| visit.proxy.name == proxy.name && visit.tenant.slug == slug);
        let outcomes = join_all(visits.map(Visit::once)).await;
        let refused = outcomes.iter().all(|outcome| matches!(outcome, Err(it) if it.sqlstate() == Some("28000")));
        let sessions = proxy.console("SHOW CLIENTS").await?;
        Ok(refused && !sessions.iter().flatten().any(|column| column == slug))
    }

    async fn remake(&self) -> Result<()> {
        let _lasting = self.weather.begin(Struck::Tenant(REMADE), &["28000", "28P01", "57P01", "57P03"]);
        self.place.remake(REMADE).await
    }

    async fn restart(&self) -> Result<()> {
        let [_, proxy] = &self.proxies;
        let _lasting = self.weather.begin(Struck::Proxy(proxy.name), &[AWAY, "57P01", "57P03"]);
        proxy.restart(&self.place).await
    }

    async fn kill_tenant(&self) -> Result<()> {
        let _lasting = self.weather.begin(Struck::Tenant(HELD), &["57P01"]);
        self.tell(&format!("KILL {HELD}")).await
    }

    /// Holds transactions for less time than any client waits for its connection: nobody may notice more than a delay.
    async fn pause(&self, tenant: &str) -> Result<()> {
        let pause = format!("PAUSE {tenant}");
        // It waits for sessions in session mode, too, and some of these stay for long: held are new transactions in any case.
        let paused = timeout(PAUSE_TIMEOUT, self.tell(&pause)).await;
        sleep(PAUSE).await;
        self.tell(&format!("RESUME {tenant}")).await?;
        paused.unwrap_or(Ok(()))
    }

    async fn tell(&self, command: &str) -> Result<()> {
        try_join_all(self.proxies.iter().map(|proxy| proxy.console(command))).await.map(drop)
    }

    async fn accepts(&self, cluster: &Cluster) -> Result<()> {
        let deadline = Instant::now() + PLACES_TIMEOUT;
        while let Err(error) = self.place.number(cluster, "SELECT 1").await {
            ensure!(Instant::now() < deadline, "the server does not come back: {error:#}");
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Waits until each tenant is served at each of its places.
    async fn places_serve(&self) -> Result<()> {
        try_join_all(self.visits().map(|visit| self.place_serves(visit))).await.map(drop)
    }

    async fn place_serves(&self, visit: Visit<'_>) -> Result<()> {
        let deadline = Instant::now() + PLACES_TIMEOUT;
        while let Err(trouble) = self.probe(visit).await {
            let (slug, module) = (visit.tenant.slug, visit.module.name);
            ensure!(Instant::now() < deadline, "{module} of {slug} is not served: {trouble}");
            sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    /// Waits until each kind of client has had a session as it should be.
    async fn kinds_are_served(&self) -> Result<()> {
        let (before, deadline) = (self.tally.sessions(), Instant::now() + KINDS_TIMEOUT);
        loop {
            let now = self.tally.sessions();
            let Some(kind) = Kind::ALL.into_iter().find(|kind| now[*kind as usize] == before[*kind as usize]) else {
                return Ok(());
            };
            ensure!(Instant::now() < deadline, "after all faults, no client of the kind {kind:?} was served");
            sleep(Duration::from_millis(200)).await;
        }
    }
}

/// The processes of a server, stopped; dropping it lets them go on.
struct Frozen(Vec<Pid>);

impl Frozen {
    fn all(cluster: &Cluster) -> Result<Self> {
        let pid = cluster.server_pid().context("the server does not run")?;
        let mut frozen = Self(Vec::new());
        // The one that makes the others first.
        frozen.stop(pid)?;
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        for child in children.split_whitespace() {
            frozen.stop(child.parse()?)?;
        }
        Ok(frozen)
    }

    fn stop(&mut self, pid: i32) -> Result<()> {
        let pid = Pid::from_raw(pid);
        match kill(pid, Signal::SIGSTOP) {
            Ok(()) => self.0.push(pid),
            // It ended meanwhile.
            Err(Errno::ESRCH) => {}
            Err(error) => return Err(error).with_context(|| format!("stop process {pid}")),
        }
        Ok(())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.0 {
            // One that was killed meanwhile needs nothing more.
            let _ = kill(*pid, Signal::SIGCONT);
        }
    }
}
