//! How fast a fleet is migrated, on this machine, PostgreSQL included: `make bench-migrate`.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use pgtenant::cluster::Cluster;
use pgtenant::control::migrate::{Fleet, Halt, RunConfig, Selection, examine, run};
use pgtenant::control::{Control, NewTenant, Overrides};
use pgtenant::registry::{Admin, ModuleRow, TenantDetails};
use pgtenant::tenant::{DatabaseName, Isolation, ModuleName, Server, ServerName, Slug, SslMode};
use tokio::task::JoinSet;

/// Tenants a second, and what they cost, for files of several kinds.
#[derive(Debug, Parser)]
#[command(name = "fleet")]
struct Options {
    /// Tenants.
    #[arg(long, default_value_t = 500)]
    tenants: usize,
    /// database, schema or shared.
    #[arg(long, default_value = "schema")]
    isolation: Isolation,
    /// Places at a time.
    #[arg(long, default_value = "4")]
    jobs: NonZeroUsize,
    /// Let the server write to disk as one in earnest does, instead of only to the kernel's cache.
    #[arg(long)]
    fsync: bool,
    /// What cargo passes to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The files of each run: the first is there when the tenants are made.
const BASE: &str =
    "CREATE TABLE items (id bigint PRIMARY KEY, tenant_id uuid, name text NOT NULL); CREATE INDEX ON items (name)";
const RUNS: [(&str, &[&str]); 3] = [
    ("a trivial file", &["ALTER TABLE items ADD COLUMN note text"]),
    (
        "three files",
        &[
            "CREATE TABLE orders (id bigint PRIMARY KEY, item bigint REFERENCES items (id), n int)",
            "CREATE INDEX orders_item ON orders (item); ALTER TABLE orders ADD COLUMN at timestamptz DEFAULT now()",
            "CREATE VIEW sold AS SELECT i.name, sum(o.n) AS n FROM orders AS o JOIN items AS i ON i.id = o.item GROUP BY i.name",
        ],
    ),
    ("nothing to do", &[]),
];

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let options = Options::parse();
    pgtenant::net::tls::install_provider();
    let disk = if options.fsync { "on" } else { "off" };
    let cluster = Cluster::builder().setting("max_connections", "100").setting("shared_buffers", "256MB");
    let cluster =
        cluster.setting("fsync", disk).setting("full_page_writes", disk).trust_on_socket(true).start().await?;
    let files = tempfile::tempdir()?;
    let site = Site::make(&cluster, files.path(), &options).await?;
    println!(
        "{} tenants of isolation {}, {} places at a time, fsync {disk}",
        options.tenants, options.isolation, options.jobs
    );
    println!(
        "{:16} {:>8} {:>9} {:>8} {:>16} {:>16}",
        "", "seconds", "places/s", "files/s", "our CPU, ms", "server's, ms"
    );
    let mut number = 1;
    for (what, texts) in RUNS {
        for text in texts {
            number += 1;
            fs::write(files.path().join(format!("{number:04}_x.sql")), text)?;
        }
        site.measure(what, texts.len(), &options).await?;
    }
    site.look(&options).await
}

/// A registry with tenants on one server.
struct Site {
    control: Control,
    postmaster: i32,
}

impl Site {
    async fn make(cluster: &Cluster, files: &Path, options: &Options) -> Result<Self> {
        let postgres = cluster.connect("postgres").await?;
        postgres.batch_execute("CREATE DATABASE registry").await?;
        let registry = Admin::connect(&cluster.superuser_url("registry")).await?;
        registry.init().await?;
        // Beside the directory of the migrations, which is read as a whole.
        let secret = cluster.socket_dir().join("admin");
        fs::write(&secret, cluster.superuser_url("postgres"))?;
        fs::write(files.join("0001_base.sql"), BASE)?;
        // Tenants are made over the socket without a password, since what is measured comes after; that goes over TCP and with one.
        let mut server = Server {
            name: ServerName::parse("main")?,
            host: cluster.socket_dir().display().to_string(),
            port: cluster.port(),
            sslmode: SslMode::Disable,
            ca_file: None,
            max_connections: None,
            admin_secret: Some(format!("file:{}", secret.display())),
            app_secret: None,
        };
        let mut module = ModuleRow::new(ModuleName::parse("ops")?, options.isolation);
        module.server = Some(server.name.clone());
        module.migrations = Some(files.display().to_string());
        if options.isolation != Isolation::Database {
            module.database = Some(DatabaseName::parse("ops")?);
        }
        pgtenant::control::check_module(&mut module)?;
        let transaction = registry.begin().await?;
        transaction.put_server(&server).await?;
        transaction.put_module(&module).await?;
        transaction.commit().await?;
        let postmaster = cluster.server_pid().context("the server has no process")?;
        let site = Self { control: Control::new(registry), postmaster };
        site.fill(options).await?;
        cluster.host().clone_into(&mut server.host);
        let transaction = site.control.registry().begin().await?;
        transaction.put_server(&server).await?;
        transaction.commit().await?;
        Ok(site)
    }

    async fn fill(&self, options: &Options) -> Result<()> {
        let began = Instant::now();
        let mut making = JoinSet::new();
        for n in 0..options.tenants {
            if making.len() >= options.jobs.get() {
                making.join_next().await.context("a tenant")???;
            }
            let new = NewTenant {
                id: None,
                slug: Slug::parse(&format!("t{n:05}"))?,
                name: format!("Tenant {n}"),
                contact: None,
                aliases: Vec::new(),
                modules: vec![ModuleName::parse("ops")?],
                overrides: Overrides::default(),
                login: "app".to_owned(),
                password: None,
            };
            let control = self.control.clone();
            making.spawn(async move { control.create(new).await.map(drop).map_err(anyhow::Error::new) });
            if n % 500 == 499 {
                eprintln!("{} tenants made in {:.0} s", n + 1, began.elapsed().as_secs_f64());
            }
        }
        while let Some(made) = making.join_next().await {
            made??;
        }
        Ok(())
    }

    async fn measure(&self, what: &str, files: usize, options: &Options) -> Result<()> {
        let inventory = self.control.inventory().await?;
        let fleet = Fleet::assemble(&inventory, &self.tenants().await?, &Selection::default())?;
        let places = fleet.len();
        let config = RunConfig { jobs: options.jobs, ..RunConfig::default() };
        let before = self.cpu()?;
        let report =
            run(&inventory, fleet, &config, Some(self.control.registry()), &Halt::default(), &mut |_| {}).await;
        let applied: usize = report.outcomes.iter().map(|outcome| outcome.applied).sum();
        ensure!(report.failures() == 0 && applied == files * places, "{applied} files: {:?}", report.outcomes.last());
        line(what, places, applied, &before, &self.cpu()?);
        Ok(())
    }

    async fn look(&self, options: &Options) -> Result<()> {
        let inventory = self.control.inventory().await?;
        let fleet = Fleet::assemble(&inventory, &self.tenants().await?, &Selection::default())?;
        let config = RunConfig { jobs: options.jobs, ..RunConfig::default() };
        let before = self.cpu()?;
        let outcomes = examine(&inventory, fleet, &config, &mut |_| {}).await;
        line("status", outcomes.len(), 0, &before, &self.cpu()?);
        Ok(())
    }

    fn cpu(&self) -> Result<Cpu> {
        Cpu::now(self.postmaster)
    }

    async fn tenants(&self) -> Result<Vec<TenantDetails>> {
        Ok(self.control.registry().contents().await?.tenants)
    }
}

fn line(what: &str, places: usize, files: usize, before: &Cpu, after: &Cpu) {
    let seconds = (after.at - before.at).as_secs_f64();
    // Of each file, or of each place where none was applied.
    let each = |used: Duration| used.as_secs_f64() * 1000.0 / files.max(places).max(1) as f64;
    println!(
        "{what:16} {seconds:8.1} {:9.0} {:8.0} {:16.2} {:16.2}",
        places as f64 / seconds,
        files as f64 / seconds,
        each(after.ours - before.ours),
        each(after.server - before.server)
    );
}

/// CPU time used up to a moment: by this process, and by the server's.
struct Cpu {
    at: Instant,
    ours: Duration,
    server: Duration,
}

impl Cpu {
    fn now(postmaster: i32) -> Result<Self> {
        let ours = Stat::read("self")?.own;
        // Processes that have ended count with the one that started them, those that run by themselves.
        let first = Stat::read(&postmaster.to_string())?;
        let mut server = first.own + first.ended;
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(name) = name.to_str().filter(|name| name.starts_with(|c: char| c.is_ascii_digit())) else {
                continue;
            };
            // One that has just ended is counted with the others.
            server +=
                Stat::read(name).ok().filter(|stat| stat.parent == postmaster).map_or(Duration::ZERO, |stat| stat.own);
        }
        Ok(Self { at: Instant::now(), ours, server })
    }
}

/// What `/proc/<pid>/stat` says of a process.
struct Stat {
    parent: i32,
    own: Duration,
    ended: Duration,
}

impl Stat {
    fn read(process: &str) -> Result<Self> {
        let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
        // After the name in parentheses, which may hold anything: state, parent, and from the 12th on the times in ticks of 10 ms.
        let fields: Vec<i64> = text
            .rsplit_once(") ")
            .context("no name in /proc/<pid>/stat")?
            .1
            .split(' ')
            .map(|field| field.trim().parse().unwrap_or(0))
            .collect();
        let ticks = |from: usize| Duration::from_millis(fields[from..from + 2].iter().sum::<i64>().unsigned_abs() * 10);
        Ok(Self { parent: i32::try_from(fields[1])?, own: ticks(11), ended: ticks(13) })
    }
}
