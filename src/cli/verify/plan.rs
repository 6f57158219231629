//! What is to be made: two tenants, a module for each isolation and pooling on each server, or the user's own modules.

use std::sync::Arc;

use anyhow::{Context as _, bail};

use super::super::output::remark;
use crate::auth::Secret;
use crate::control::{DEFAULT_LOGIN, Inventory, Overrides, Place, ProbeRun, generate_password, verifier};
use crate::registry::{Contents, ModuleRow, PlacementRow, PlacementStatus, TenantDetails, TenantRow};
use crate::tenant::{DatabaseName, Isolation, Login, ModuleName, PoolMode, Pooling, RoleName, Server, ServerName};
use crate::verify;

/// The two tenants: who has something to lose, and who is after it.
pub(super) const LETTERS: [char; 2] = ['a', 'b'];

/// All that can be told apart.
const COMBINATIONS: [(Isolation, Pooling); 5] = [
    (Isolation::Database, Pooling::PerTenant),
    (Isolation::Schema, Pooling::PerTenant),
    (Isolation::Schema, Pooling::Shared),
    (Isolation::Shared, Pooling::PerTenant),
    (Isolation::Shared, Pooling::Shared),
];

/// A module in which both tenants are.
pub(super) struct GroundPlan {
    /// Its row.
    pub(super) module: ModuleRow,
    /// It is made for the checks, with its databases.
    pub(super) is_own: bool,
    /// Where the two are in it.
    pub(super) placements: [PlacementRow; 2],
    /// A placement of the second's whose schema is nowhere.
    pub(super) gone: Option<PlacementRow>,
    /// What each of the two has in its table.
    secrets: [String; 2],
}

/// Everything that a run makes.
pub(super) struct Plan {
    pub(super) run: ProbeRun,
    pub(super) servers: Vec<Arc<Server>>,
    pub(super) grounds: Vec<GroundPlan>,
    passwords: [Secret; 2],
    verifiers: [String; 2],
    /// What the user's registry says, for servers.
    inventory: Inventory,
}

impl Plan {
    pub(super) fn new(inventory: &Inventory, servers: &[ServerName], modules: &[ModuleName]) -> anyhow::Result<Self> {
        let passwords = [generate_password(), generate_password()];
        let verifiers = [verifier(passwords[0].expose()), verifier(passwords[1].expose())];
        let mut plan = Self {
            run: ProbeRun::random(),
            servers: Vec::new(),
            grounds: Vec::new(),
            passwords,
            verifiers,
            inventory: inventory.clone(),
        };
        if modules.is_empty() {
            plan.own_modules(servers)?;
        } else {
            for module in modules {
                plan.users_module(inventory.module(module)?, servers)?;
            }
        }
        Ok(plan)
    }

    /// Modules of the run's own on each server.
    fn own_modules(&mut self, chosen: &[ServerName]) -> anyhow::Result<()> {
        let servers: Vec<Server> = match chosen {
            [] => self.inventory.servers.iter().filter(|server| server.admin_secret.is_some()).cloned().collect(),
            names => names.iter().map(|name| self.inventory.server(name).cloned()).collect::<Result<_, _>>()?,
        };
        if servers.is_empty() {
            bail!("no server has an admin secret to make probes with; see: pgtenant server list");
        }
        for server in servers {
            self.add_server(&server)?;
            for (isolation, pooling) in COMBINATIONS {
                if pooling == Pooling::Shared && server.app_secret.is_none() {
                    remark(format_args!(
                        "server {} has no app secret: nothing to check of shared pooling",
                        server.name
                    ));
                    continue;
                }
                self.own_module(&server, isolation, pooling)?;
            }
        }
        Ok(())
    }

    fn own_module(&mut self, server: &Server, isolation: Isolation, pooling: Pooling) -> anyhow::Result<()> {
        let number = self.grounds.len();
        let database = format!("{}_{number}", self.run.prefix());
        let common = (isolation != Isolation::Database).then(|| DatabaseName::parse(&database)).transpose()?;
        let module = ModuleRow {
            server: Some(server.name.clone()),
            database: common,
            pooling,
            schema_pattern: match isolation {
                Isolation::Database => None,
                Isolation::Schema => Some("{slug}".to_owned()),
                Isolation::Shared => Some("common".to_owned()),
            },
            ..ModuleRow::new(ModuleName::parse(&format!("{isolation}_{pooling}_{number}"))?, isolation)
        };
        let place = |letter: char| {
            let own = (isolation == Isolation::Database).then(|| DatabaseName::parse(&format!("{database}{letter}")));
            let overrides = Overrides { database: own.transpose()?, ..Overrides::default() };
            self.placement(&module, letter, &overrides)
        };
        let placements = [place('a')?, place('b')?];
        self.add_ground(module, true, placements)
    }

    /// A module that is there, for better or worse.
    fn users_module(&mut self, module: &ModuleRow, chosen: &[ServerName]) -> anyhow::Result<()> {
        let servers = match chosen {
            [] => vec![
                module.server.clone().with_context(|| format!("module {} has no server; say --server", module.name))?,
            ],
            names => names.to_vec(),
        };
        for name in servers {
            let server = self.inventory.server(&name)?.clone();
            self.add_server(&server)?;
            let overrides = Overrides { server: Some(name), ..Overrides::default() };
            // A module may be on several servers; the proxy of the checks tells these grounds apart by name.
            let mut row = module.clone();
            let placements = [self.placement(&row, 'a', &overrides)?, self.placement(&row, 'b', &overrides)?];
            row.pool_size = None;
            row.pool_mode = None;
            self.add_ground(row, false, placements)?;
        }
        Ok(())
    }

    fn add_server(&mut self, server: &Server) -> anyhow::Result<()> {
        if server.admin_secret.is_none() {
            bail!("server {} has no admin secret to make probes with", server.name);
        }
        if self.servers.iter().all(|known| known.name != server.name) {
            self.servers.push(Arc::new(server.clone()));
        }
        Ok(())
    }

    fn add_ground(&mut self, module: ModuleRow, is_own: bool, placements: [PlacementRow; 2]) -> anyhow::Result<()> {
        let gone = match (&placements[1].schema, module.isolation) {
            (Some(_), Isolation::Schema | Isolation::Shared) => Some(PlacementRow {
                module: ModuleName::parse(&format!("gone_{}", self.grounds.len()))?,
                schema: Some(format!("{}_gone_{}", self.run.prefix(), self.grounds.len())),
                ..placements[1].clone()
            }),
            _ => None,
        };
        let secrets = LETTERS.map(|_| format!("secret_of_{}", generate_password().expose()));
        self.grounds.push(GroundPlan { module, is_own, placements, gone, secrets });
        Ok(())
    }

    /// Where a tenant is in a module.
    fn placement(&self, module: &ModuleRow, letter: char, overrides: &Overrides) -> anyhow::Result<PlacementRow> {
        let inventory = Inventory { servers: self.inventory.servers.clone(), modules: vec![module.clone()] };
        let tenant = (&self.run.slug(letter)?, self.run.tenant_id(letter));
        let placement = inventory.placement(tenant, &module.name, &self.role(letter)?, overrides)?;
        Ok(PlacementRow { status: PlacementStatus::Ready, ..placement })
    }

    fn role(&self, letter: char) -> anyhow::Result<RoleName> {
        Ok(RoleName::parse(&format!("{}_{letter}_app", self.run.prefix()))?)
    }

    /// A tenant with these placements.
    fn tenant(&self, run: ProbeRun, letter: char, placements: Vec<PlacementRow>) -> anyhow::Result<TenantDetails> {
        let at = usize::from(letter != LETTERS[0]);
        let slug = run.slug(letter)?;
        Ok(TenantDetails {
            allow: Vec::new(),
            logins: vec![Login {
                login: DEFAULT_LOGIN.to_owned(),
                role: format!("{slug}_app"),
                verifier: Some(self.verifiers[at].clone()),
            }],
            tenant: TenantRow::new(run.tenant_id(letter), slug),
            aliases: Vec::new(),
            placements,
        })
    }

    /// Which of several grounds of one kind it is.
    pub(super) fn label(&self, number: usize) -> Option<String> {
        let GroundPlan { module, is_own, placements, .. } = &self.grounds[number];
        let server = &placements[0].server;
        match (is_own, self.servers.len()) {
            (true, 1) => None,
            (true, _) => Some(format!("server {server}")),
            (false, 1) => Some(format!("module {}", module.name)),
            (false, _) => Some(format!("module {} on server {server}", module.name)),
        }
    }

    /// What provisioning makes of a tenant's place on a ground.
    pub(super) fn place(&self, ground: &GroundPlan, letter: char) -> anyhow::Result<Place> {
        let placement = &ground.placements[usize::from(letter != LETTERS[0])];
        let inventory = Inventory { servers: self.inventory.servers.clone(), modules: vec![ground.module.clone()] };
        let tenant = self.tenant(self.run, letter, vec![placement.clone()])?;
        Ok(inventory.place(&tenant, placement)?)
    }

    /// The places of a run in modules that are there without it, on a server: of this run, or of one that was killed.
    pub(super) fn users_places(&self, run: ProbeRun, server: &ServerName, modules: &[ModuleRow]) -> Vec<Place> {
        let mut places = Vec::new();
        for module in modules {
            for letter in LETTERS {
                // What cannot be placed was never made.
                places.extend(self.users_place(run, server, module, letter).ok());
            }
        }
        places
    }

    fn users_place(
        &self,
        run: ProbeRun,
        server: &ServerName,
        module: &ModuleRow,
        letter: char,
    ) -> anyhow::Result<Place> {
        let inventory = Inventory { servers: self.inventory.servers.clone(), modules: vec![module.clone()] };
        let role = RoleName::parse(&format!("{}_app", run.slug(letter)?))?;
        let overrides = Overrides { server: Some(server.clone()), ..Overrides::default() };
        let tenant = (&run.slug(letter)?, run.tenant_id(letter));
        let placement = inventory.placement(tenant, &module.name, &role, &overrides)?;
        let details = self.tenant(run, letter, vec![placement.clone()])?;
        Ok(inventory.place(&details, &placement)?)
    }

    /// The user's modules that the run is in.
    pub(super) fn users_modules(&self) -> Vec<ModuleRow> {
        self.grounds.iter().filter(|ground| !ground.is_own).map(|ground| ground.module.clone()).collect()
    }

    /// The registry of the run's own proxies: nobody else's has these tenants in it.
    pub(super) fn contents(&self) -> anyhow::Result<Contents> {
        let mut modules = Vec::new();
        let mut placements = [Vec::new(), Vec::new()];
        for (number, ground) in self.grounds.iter().enumerate() {
            let name = ground_name(number)?;
            modules.push(ModuleRow { name: name.clone(), aliases: Vec::new(), ..ground.module.clone() });
            for (row, own) in ground.placements.iter().zip(&mut placements) {
                own.push(PlacementRow { module: name.clone(), ..row.clone() });
            }
            if let Some(gone) = &ground.gone {
                modules.push(ModuleRow { name: gone.module.clone(), aliases: Vec::new(), ..ground.module.clone() });
                placements[1].push(gone.clone());
            }
        }
        let [a, b] = placements;
        let tenants = vec![self.tenant(self.run, LETTERS[0], a)?, self.tenant(self.run, LETTERS[1], b)?];
        let servers = self.servers.iter().map(|server| Server::clone(server)).collect();
        Ok(Contents { servers, modules, tenants })
    }

    /// The scene on a ground, for proxies of this mode at these addresses.
    pub(super) fn scene(
        &self,
        number: usize,
        pool_mode: PoolMode,
        [narrow, wide]: [std::net::SocketAddr; 2],
    ) -> anyhow::Result<verify::Scene> {
        let ground = &self.grounds[number];
        let probe = |letter: char| -> anyhow::Result<verify::Probe> {
            let place = self.place(ground, letter)?;
            let at = usize::from(letter != LETTERS[0]);
            Ok(verify::Probe {
                user: format!("{DEFAULT_LOGIN}@{}", self.run.slug(letter)?),
                password: self.passwords[at].clone(),
                id: place.tenant.to_string(),
                database: place.database.to_string(),
                schema: place.schema_name().to_owned(),
                role: self.role(letter)?.to_string(),
                secret: ground.secrets[at].clone(),
            })
        };
        let place = self.place(ground, LETTERS[0])?;
        Ok(verify::Scene {
            ground: verify::Ground { isolation: place.isolation, pooling: place.pooling, pool_mode },
            module: ground_name(number)?.to_string(),
            gone: ground.gone.as_ref().map(|gone| gone.module.to_string()),
            narrow,
            wide,
            table: self.run.table(),
            number: rand::random(),
            victim: probe(LETTERS[0])?,
            thief: probe(LETTERS[1])?,
        })
    }
}

fn ground_name(number: usize) -> anyhow::Result<ModuleName> {
    Ok(ModuleName::parse(&format!("ground_{number}"))?)
}
