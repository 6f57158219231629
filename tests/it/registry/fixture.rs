//! Registries of a test's own, with servers, modules and tenants in them.

use std::time::Duration;

use pgtenant::registry::{Admin, Change, Config, ModuleRow, PlacementRow, PlacementStatus, Registry, TenantRow};
use pgtenant::tenant::{
    Isolation, Login, ModuleName, Server, ServerName, Slug, SslMode, TenantId, TenantName, TenantStatus,
};
use tokio::sync::broadcast::Receiver;
use uuid::Uuid;

use crate::support::{self, Database};

/// An initialised registry in a database of its own.
pub(super) async fn registry() -> (Database, Admin) {
    let database = support::database("registry").await;
    let admin = Admin::connect(&database.url).await.unwrap();
    admin.init().await.unwrap();
    (database, admin)
}

/// The same with server `main` and the modules `operations` (schema), `crm` (database) and `shop` (shared).
pub(super) async fn furnished() -> (Database, Admin) {
    let (database, admin) = registry().await;
    let tx = admin.begin().await.unwrap();
    tx.put_server(&server("main")).await.unwrap();
    for (name, isolation) in
        [("operations", Isolation::Schema), ("crm", Isolation::Database), ("shop", Isolation::Shared)]
    {
        tx.put_module(&module(name, isolation)).await.unwrap();
    }
    tx.commit().await.unwrap();
    (database, admin)
}

/// The registry as a proxy opens it, watching by the time this returns.
pub(super) async fn open(database: &Database) -> Registry {
    open_with(&Config { url: Some(database.url.clone()), ..Config::default() }).await
}

pub(super) async fn open_with(config: &Config) -> Registry {
    let registry = Registry::open(config).await.unwrap();
    // The first thing heard is that it listens.
    hear(&mut registry.changes(), Change::Everything).await;
    registry
}

/// Waits for word of this change.
pub(super) async fn hear(changes: &mut Receiver<Change>, change: Change) {
    let told = async { while changes.recv().await.unwrap() != change {} };
    tokio::time::timeout(Duration::from_secs(20), told).await.expect("nothing was heard");
}

pub(super) fn server(name: &str) -> Server {
    Server {
        name: ServerName::parse(name).unwrap(),
        host: "db.example.com".to_owned(),
        port: 5432,
        sslmode: SslMode::Require,
        ca_file: None,
        max_connections: Some(90),
        admin_secret: Some("env:ADMIN".to_owned()),
        app_secret: None,
    }
}

pub(super) fn module(name: &str, isolation: Isolation) -> ModuleRow {
    let database = (isolation != Isolation::Database).then(|| format!("{name}_db").parse().unwrap());
    let name = ModuleName::parse(name).unwrap();
    ModuleRow { server: Some("main".parse().unwrap()), database, ..ModuleRow::new(name, isolation) }
}

pub(super) fn tenant(slug: &str) -> TenantRow {
    TenantRow {
        id: TenantId(Uuid::new_v4()),
        slug: Slug::parse(slug).unwrap(),
        name: slug.to_uppercase(),
        contact: None,
        status: TenantStatus::Active,
        sessions_end_at: None,
        default_module: None,
        limits: pgtenant::limits::Own::default(),
        generation: 0,
    }
}

/// A schema placement of `operations`.
pub(super) fn operations(schema: &str, role: &str) -> PlacementRow {
    PlacementRow {
        module: "operations".parse().unwrap(),
        isolation: Isolation::Schema,
        server: "main".parse().unwrap(),
        database: "operations_db".parse().unwrap(),
        schema: Some(schema.to_owned()),
        role: Some(role.parse().unwrap()),
        pooling: None,
        pool_mode: None,
        pool_size: None,
        status: PlacementStatus::Ready,
        managed: true,
    }
}

/// An active tenant with a ready place for `operations` and the login `app`.
pub(super) async fn add(admin: &Admin, slug: &str) -> TenantRow {
    let row = tenant(slug);
    let tx = admin.begin().await.unwrap();
    tx.insert_tenant(&row).await.unwrap();
    tx.put_placement(row.id, &operations(&format!("operations_{slug}"), &format!("{slug}_app"))).await.unwrap();
    let login = Login { login: "app".to_owned(), role: format!("{slug}_app"), verifier: None };
    tx.put_login(row.id, &login).await.unwrap();
    tx.commit().await.unwrap();
    row
}

pub(super) async fn suspend(admin: &Admin, id: TenantId) {
    let tx = admin.begin().await.unwrap();
    assert!(tx.set_status(id, TenantStatus::Suspended, Duration::ZERO).await.unwrap());
    tx.commit().await.unwrap();
}

pub(super) fn name(name: &str) -> TenantName {
    TenantName::parse(name).unwrap()
}
