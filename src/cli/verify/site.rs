//! What stands while the checks are played: probes on the servers, and for each pool mode two proxies over a registry of their own.

use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use anyhow::Context as _;
use tempfile::TempDir;

use super::plan::{GroundPlan, LETTERS, Plan};
use crate::control::{Error, Inventory, ProbeServer, chain, make_probe};
use crate::frontend::{IdentifyConfig, ListenConfig};
use crate::pool;
use crate::proxy::{self, Proxy};
use crate::registry::{self, Registry};
use crate::tenant::PoolMode;
use crate::verify::Scene;

/// Connections of a pool of the wide proxy: as many as the sessions that a check has at one time, and some.
const WIDE: u32 = 8;
/// How long sessions may go on when the checks are over: there are none.
const DRAIN: Duration = Duration::from_secs(1);
/// A client of the narrow proxy may have to wait until the one before it is cleaned up after.
const CHECKOUT_TIMEOUT: Duration = Duration::from_secs(25);

/// Everything that has to be taken down again.
pub(super) struct Site {
    servers: Vec<ProbeServer>,
    /// What the proxies read, once the tenants are there.
    registry: Option<Registry>,
    proxies: Vec<Proxy>,
    files: TempDir,
}

impl Site {
    /// Announces the run on its servers.
    pub(super) async fn open(plan: &Plan) -> anyhow::Result<Self> {
        let files =
            tempfile::Builder::new().prefix("pgtenant-verify-").tempdir().context("make a temporary directory")?;
        let mut servers = Vec::new();
        for server in &plan.servers {
            servers.push(ProbeServer::open(std::sync::Arc::clone(server), plan.run).await?);
        }
        Ok(Self { servers, registry: None, proxies: Vec::new(), files })
    }

    /// Takes away what runs left that were killed; what there is to say of it.
    pub(super) async fn sweep_leftovers(&mut self, plan: &Plan, inventory: &Inventory) -> Vec<String> {
        let mut remarks = Vec::new();
        for server in &mut self.servers {
            let name = server.server().name.clone();
            let runs = match server.leftovers().await {
                Ok(runs) => runs,
                Err(error) => {
                    remarks.push(format!("server {name}: {}", chain(&error)));
                    continue;
                }
            };
            for run in runs {
                let places = plan.users_places(run, &name, &inventory.modules);
                remarks.push(match server.sweep(run, &places).await {
                    Ok(()) => format!("server {name}: took away {}_…, left by a run that was killed", run.prefix()),
                    Err(error) => format!("server {name}: {}_… is left: {}", run.prefix(), chain(&error)),
                });
            }
        }
        remarks
    }

    /// Makes a tenant's place.
    pub(super) async fn make(&self, plan: &Plan, ground: &GroundPlan, letter: char) -> anyhow::Result<()> {
        let place = plan.place(ground, letter)?;
        // Tables of the same name that are not alike, as in the middle of a fleet's migration.
        let drifts = letter == LETTERS[0] && place.isolation != crate::tenant::Isolation::Shared;
        let made = make_probe(&place, plan.run, ground.is_own, drifts).await;
        made.with_context(|| format!("make a probe in {place} on server {}", place.server.name))?;
        Ok(())
    }

    /// Starts the proxies of a mode in the place of those before; the scenes, with the tenants' rows in them.
    pub(super) async fn serve(&mut self, plan: &Plan, mode: PoolMode) -> anyhow::Result<Vec<Scene>> {
        self.stop_proxies().await;
        let known = self.registry.take();
        let is_first = known.is_none();
        let registry = match known {
            Some(registry) => registry,
            None => self.open_registry(plan).await?,
        };
        let addresses = [self.proxy(&registry, mode, 1).await?, self.proxy(&registry, mode, WIDE).await?];
        self.registry = Some(registry);
        let mut scenes = Vec::new();
        for number in 0..plan.grounds.len() {
            let scene = plan.scene(number, mode, addresses)?;
            if is_first {
                scene.stock().await.context("put the probes' rows in")?;
            }
            scenes.push(scene);
        }
        Ok(scenes)
    }

    async fn open_registry(&self, plan: &Plan) -> anyhow::Result<Registry> {
        let path = self.files.path().join("registry.toml");
        let text = plan.contents()?.to_toml()?;
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let written = file.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()));
        written.with_context(|| format!("write {}", path.display()))?;
        let config = registry::Config { file: Some(path), ..registry::Config::default() };
        Ok(Registry::open(&config).await?)
    }

    async fn stop_proxies(&mut self) {
        for proxy in self.proxies.drain(..) {
            proxy.shutdown(DRAIN).await;
        }
    }

    async fn proxy(&mut self, registry: &Registry, mode: PoolMode, size: u32) -> anyhow::Result<SocketAddr> {
        let config = proxy::Config {
            listen: ListenConfig { address: "127.0.0.1:0".to_owned(), threads: 1, ..ListenConfig::default() },
            identify: IdentifyConfig::default(),
            pool: pool::Config { mode, size, checkout_timeout: CHECKOUT_TIMEOUT, ..pool::Config::default() },
            limits: crate::limits::Config::default(),
            timeouts: crate::session::Config::default(),
            console: crate::console::Config::default(),
        };
        let proxy = Proxy::start(config, registry.clone()).await?;
        let address = proxy.tcp_address().context("the proxy does not listen for TCP")?;
        self.proxies.push(proxy);
        Ok(address)
    }

    /// Takes everything down and away.
    pub(super) async fn close(mut self, plan: &Plan) -> anyhow::Result<()> {
        self.stop_proxies().await;
        let modules = plan.users_modules();
        let mut outcome: Result<(), Error> = Ok(());
        for server in &mut self.servers {
            let places = plan.users_places(plan.run, &server.server().name.clone(), &modules);
            outcome = outcome.and(server.sweep(plan.run, &places).await);
            outcome = outcome.and(server.forget_service().await);
        }
        Ok(outcome?)
    }
}
