//! Provisioning on a real server: what is made, who may do what with it, and that a second run finds nothing to do.

use std::path::Path;
use std::sync::Arc;

use pgtenant::auth::Verifier;
use pgtenant::control::{self, Error, LoginRole, Place, Provisioned, Steps, TENANT_COLUMN};
use pgtenant::tenant::{
    DatabaseName, Isolation, ModuleName, Pooling, RoleName, SchemaName, Server, ServerName, SslMode, TenantId,
};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::support::{self, unique};

const PASSWORD: &str = "correct horse battery staple";

/// Makes a place whole, without a registry.
async fn provision(place: &Place) -> Result<Provisioned, Error> {
    control::provision(place, &mut Steps::unrecorded()).await
}

/// A module of a test's own on the shared server, with its secrets in files.
struct Module {
    name: String,
    server: Arc<Server>,
    files: tempfile::TempDir,
}

impl Module {
    async fn new(prefix: &str) -> Self {
        let cluster = support::cluster().await;
        Self::with_admin(prefix, &cluster.superuser_url("postgres")).await
    }

    async fn with_admin(prefix: &str, admin: &str) -> Self {
        let cluster = support::cluster().await;
        let files = tempfile::tempdir().unwrap();
        let name = unique(prefix);
        let secret = |part: &str, url: &str| {
            let path = files.path().join(part);
            std::fs::write(&path, url).unwrap();
            Some(format!("file:{}", path.display()))
        };
        let admin_secret = secret("admin", admin);
        let app_secret = secret("app", &format!("postgres://{name}_service:of-all@localhost"));
        let server = Arc::new(Server {
            name: ServerName::parse("main").unwrap(),
            host: cluster.host().to_owned(),
            port: cluster.port(),
            sslmode: SslMode::Prefer,
            ca_file: None,
            max_connections: None,
            admin_secret,
            app_secret,
        });
        Self { name, server, files }
    }

    /// Where the module's migrations are, with one file more.
    fn migration(&self, file: &str, sql: &str) -> &Path {
        let directory = self.files.path();
        std::fs::write(directory.join(file), sql).unwrap();
        directory
    }

    fn place(&self, slug: &str, isolation: Isolation) -> Place {
        let slug = format!("{}_{slug}", self.name);
        let role = RoleName::parse(&format!("{slug}_app")).unwrap();
        let verifier = Verifier::generate(PASSWORD, 4096).to_string();
        let (database, schema) = match isolation {
            Isolation::Database => (slug.clone(), None),
            Isolation::Schema => (self.name.clone(), Some(slug.clone())),
            Isolation::Shared => (self.name.clone(), Some("common".to_owned())),
        };
        Place {
            tenant: TenantId(Uuid::new_v4()),
            module: ModuleName::parse(&self.name).unwrap(),
            isolation,
            pooling: Pooling::PerTenant,
            server: Arc::clone(&self.server),
            database: DatabaseName::parse(&database).unwrap(),
            schema: schema.map(|schema| SchemaName::parse(&schema).unwrap()),
            role: Some(role.clone()),
            logins: vec![LoginRole { role, verifier: Some(verifier) }],
            search_path_extra: Vec::new(),
            tenant_column: TENANT_COLUMN.to_owned(),
            migrations: Some(self.files.path().to_owned()),
            template: None,
        }
    }
}

/// The tenant's own connection to its place, straight to the server.
async fn login(place: &Place) -> Client {
    let role = place.role.as_ref().unwrap();
    connect(place, role.as_str(), PASSWORD).await.expect("log in as the tenant")
}

async fn connect(place: &Place, user: &str, password: &str) -> Result<Client, tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config.host(&place.server.host).port(place.server.port).dbname(place.database.as_str());
    let (client, connection) = config.user(user).password(password).connect(NoTls).await?;
    tokio::spawn(connection);
    let path = format!("SET search_path = \"{}\", pg_temp", place.schema_name());
    client.batch_execute(&path).await?;
    Ok(client)
}

async fn numbers(client: &Client, sql: &str) -> Vec<i32> {
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// The SQLSTATE that a statement fails with; the empty text when it does not.
async fn failure(client: &Client, sql: &str) -> String {
    match client.batch_execute(sql).await {
        Ok(()) => String::new(),
        Err(error) => error.code().expect("an error of the server").code().to_owned(),
    }
}

const DENIED: &str = "42501";

#[tokio::test]
async fn a_schema_tenant_reads_and_writes_its_own_schema_and_nothing_else() {
    let module = Module::new("ops").await;
    module.migration("1_orders.sql", "CREATE TABLE orders (id serial PRIMARY KEY, n int)");
    let (acme, globex) = (module.place("acme", Isolation::Schema), module.place("globex", Isolation::Schema));
    for place in [&acme, &globex] {
        assert_eq!(provision(place).await.unwrap().migrations, 1);
    }
    let client = login(&acme).await;
    client.batch_execute("INSERT INTO orders (n) VALUES (1); UPDATE orders SET n = 2").await.unwrap();
    assert_eq!(numbers(&client, "SELECT n FROM orders").await, [2]);
    let others = format!("SELECT * FROM \"{}\".orders", globex.schema_name());
    assert_eq!(failure(&client, &others).await, DENIED);
    for ddl in [
        "CREATE TABLE mine (n int)",
        "CREATE TABLE public.mine (n int)",
        "CREATE SCHEMA mine",
        "ALTER TABLE orders ADD COLUMN x int",
        "DROP TABLE orders",
        "SELECT * FROM pgtenant.schema_versions",
        "INSERT INTO pgtenant.roles VALUES ('x', NULL, true)",
        "SELECT pgtenant.protect('x', 'y')",
    ] {
        assert_eq!(failure(&client, ddl).await, DENIED, "{ddl}");
    }
    for role in [acme.owner(), globex.owner(), globex.role.as_ref().unwrap().to_string()] {
        assert_eq!(failure(&client, &format!("SET ROLE \"{role}\"")).await, DENIED, "{role}");
    }
    assert_eq!(failure(&client, "CREATE TEMP TABLE scratch (n int)").await, "");
}

#[tokio::test]
async fn a_database_tenant_has_a_database_that_nobody_else_may_connect_to() {
    let module = Module::new("erp").await;
    module.migration("1_orders.sql", "CREATE TABLE orders (n int); CREATE SCHEMA more; CREATE TABLE more.t (n int)");
    let (acme, globex) = (module.place("acme", Isolation::Database), module.place("globex", Isolation::Database));
    for place in [&acme, &globex] {
        provision(place).await.unwrap();
    }
    let client = login(&acme).await;
    client.batch_execute("INSERT INTO orders VALUES (1); INSERT INTO more.t VALUES (2)").await.unwrap();
    assert_eq!(failure(&client, "CREATE TABLE mine (n int)").await, DENIED);
    let stranger = globex.role.as_ref().unwrap().as_str();
    let refused = connect(&acme, stranger, PASSWORD).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), DENIED);
}

#[tokio::test]
async fn rows_of_common_tables_are_seen_by_their_tenant_alone() {
    let module = Module::new("shop").await;
    module.migration("1_items.sql", "CREATE TABLE items (tenant_id uuid NOT NULL, n int); CREATE TABLE units (n int)");
    module.migration("2_view.sql", "CREATE VIEW seen AS SELECT n FROM items; INSERT INTO units VALUES (7)");
    let (acme, globex) = (module.place("acme", Isolation::Shared), module.place("globex", Isolation::Shared));
    assert_eq!(provision(&acme).await.unwrap().migrations, 2);
    assert_eq!(provision(&globex).await.unwrap().migrations, 0, "tables are common and made once");
    let (a, g) = (login(&acme).await, login(&globex).await);
    a.batch_execute("INSERT INTO items (n) VALUES (1)").await.unwrap();
    g.batch_execute("INSERT INTO items (n) VALUES (2)").await.unwrap();
    for (client, own) in [(&a, 1), (&g, 2)] {
        assert_eq!(numbers(client, "SELECT n FROM items").await, [own]);
        assert_eq!(numbers(client, "SELECT n FROM seen").await, [own], "a view's owner is behind the wall too");
        assert_eq!(numbers(client, "SELECT n FROM units").await, [7]);
        assert_eq!(failure(client, "INSERT INTO units VALUES (8)").await, DENIED);
        assert_eq!(failure(client, "TRUNCATE items").await, DENIED);
    }
    let forged = format!("INSERT INTO items (tenant_id, n) VALUES ('{}', 3)", globex.tenant);
    assert_eq!(failure(&a, &forged).await, DENIED);
    let forged = format!("SET pgtenant.tenant_id = '{}'; SET row_security = on", globex.tenant);
    a.batch_execute(&forged).await.unwrap();
    assert_eq!(numbers(&a, "SELECT n FROM items").await, [1]);
    assert_eq!(failure(&a, &format!("SET ROLE \"{}\"", acme.rows())).await, "");
    assert_eq!(numbers(&a, "SELECT n FROM items").await, [1]);
}

#[tokio::test]
async fn a_migration_of_common_tables_reaches_all_rows_and_leaves_the_wall_standing() {
    let module = Module::new("fleet").await;
    module.migration("1_items.sql", "CREATE TABLE items (tenant_id text NOT NULL, n int)");
    let acme = module.place("acme", Isolation::Shared);
    provision(&acme).await.unwrap();
    let client = login(&acme).await;
    client.batch_execute("INSERT INTO items (n) VALUES (1)").await.unwrap();
    module.migration("2_double.sql", "UPDATE items SET n = n * 2; CREATE TABLE late (tenant_id uuid)");
    assert_eq!(provision(&acme).await.unwrap().migrations, 1);
    assert_eq!(numbers(&client, "SELECT n FROM items").await, [2]);
    let forced = "SELECT count(*)::int FROM pg_class WHERE relnamespace = 'common'::regnamespace AND relkind = 'r' \
                  AND relrowsecurity AND relforcerowsecurity";
    assert_eq!(numbers(&client, forced).await, [2]);
}

#[tokio::test]
async fn the_service_login_of_shared_pools_speaks_for_the_tenant_it_names() {
    let module = Module::new("mall").await;
    module.migration("1_items.sql", "CREATE TABLE items (tenant_id uuid NOT NULL, n int)");
    let mut acme = module.place("acme", Isolation::Shared);
    acme.pooling = Pooling::Shared;
    acme.role = None;
    provision(&acme).await.unwrap();
    let service = format!("{}_service", module.name);
    let client = connect(&acme, &service, "of-all").await.unwrap();
    assert_eq!(numbers(&client, "SELECT n FROM items").await, Vec::<i32>::new());
    assert_eq!(failure(&client, "INSERT INTO items (n) VALUES (1)").await, DENIED, "no tenant, no rows");
    client
        .batch_execute(&format!("SET pgtenant.tenant_id = '{}'; INSERT INTO items (n) VALUES (1)", acme.tenant))
        .await
        .unwrap();
    assert_eq!(numbers(&client, "SELECT n FROM items").await, [1]);
    assert_eq!(failure(&client, "CREATE TABLE mine (n int)").await, DENIED);
    // Its secret changes: the next run follows.
    std::fs::write(module.files.path().join("app"), format!("postgres://{service}:renewed@localhost")).unwrap();
    provision(&acme).await.unwrap();
    assert!(connect(&acme, &service, "renewed").await.is_ok());
}

#[tokio::test]
async fn provisioning_twice_changes_nothing_and_follows_the_password() {
    let module = Module::new("twice").await;
    module.migration("1_t.sql", "CREATE TABLE t (n int)");
    for isolation in [Isolation::Schema, Isolation::Database] {
        let mut acme = module.place(isolation.as_str(), isolation);
        assert_eq!(provision(&acme).await.unwrap().migrations, 1);
        login(&acme).await.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
        acme.logins[0].verifier = Some(Verifier::generate("another", 4096).to_string());
        assert_eq!(provision(&acme).await.unwrap().migrations, 0);
        let role = acme.role.as_ref().unwrap().as_str();
        assert!(connect(&acme, role, PASSWORD).await.is_err());
        assert_eq!(numbers(&connect(&acme, role, "another").await.unwrap(), "SELECT n FROM t").await, [1]);
    }
}

#[tokio::test]
async fn what_was_made_by_someone_else_is_never_taken_over() {
    let module = Module::new("foreign").await;
    let postgres = support::cluster().await.connect("postgres").await.unwrap();
    let acme = module.place("acme", Isolation::Database);
    let role = acme.role.as_ref().unwrap();
    postgres.batch_execute(&format!("CREATE ROLE {role}")).await.unwrap();
    assert!(matches!(provision(&acme).await, Err(Error::Foreign { kind: "role", .. })));
    postgres.batch_execute(&format!("DROP ROLE {role}")).await.unwrap();
    postgres.batch_execute(&format!("CREATE DATABASE {}", acme.database)).await.unwrap();
    assert!(matches!(provision(&acme).await, Err(Error::Foreign { kind: "database", .. })));
    let globex = module.place("globex", Isolation::Schema);
    provision(&globex).await.unwrap();
    let mut thief = module.place("thief", Isolation::Schema);
    thief.schema.clone_from(&globex.schema);
    assert!(matches!(provision(&thief).await, Err(Error::Foreign { .. })));
}

#[tokio::test]
async fn many_tenants_are_provisioned_at_once() {
    let module = Arc::new(Module::new("crowd").await);
    module.migration("1_t.sql", "CREATE TABLE IF NOT EXISTS t (tenant_id uuid, n int)");
    let mut runs = tokio::task::JoinSet::new();
    for n in 0..6 {
        for isolation in [Isolation::Schema, Isolation::Shared, Isolation::Database] {
            let place = module.place(&format!("{isolation}{n}"), isolation);
            runs.spawn(async move { provision(&place).await.map(|_| place) });
        }
    }
    for done in runs.join_all().await {
        let place = done.unwrap();
        login(&place).await.batch_execute("INSERT INTO t (n) VALUES (1)").await.unwrap();
    }
}

#[tokio::test]
async fn an_admin_without_superuser_rights_can_provision() {
    let cluster = support::cluster().await;
    let admin = unique("deputy");
    let postgres = cluster.connect("postgres").await.unwrap();
    postgres.batch_execute(&format!("CREATE ROLE {admin} LOGIN CREATEDB CREATEROLE PASSWORD 'x'")).await.unwrap();
    let url = format!("postgres://{admin}:x@{}:{}/postgres", cluster.host(), cluster.port());
    let module = Module::with_admin("managed", &url).await;
    module.migration("1_t.sql", "CREATE TABLE t (tenant_id uuid, n int)");
    for isolation in [Isolation::Schema, Isolation::Shared, Isolation::Database] {
        let place = module.place(isolation.as_str(), isolation);
        provision(&place).await.unwrap_or_else(|error| panic!("{isolation}: {error:?}"));
        provision(&place).await.unwrap_or_else(|error| panic!("{isolation}, again: {error:?}"));
        login(&place).await.batch_execute("INSERT INTO t (n) VALUES (1)").await.unwrap();
    }
}

#[tokio::test]
async fn a_migration_that_fails_changes_nothing_and_one_that_was_changed_is_refused() {
    let module = Module::new("broken").await;
    module.migration("1_t.sql", "CREATE TABLE t (n int)");
    let acme = module.place("acme", Isolation::Schema);
    module.migration("2_bad.sql", "CREATE TABLE u (n int); SELECT nonsense");
    assert!(matches!(provision(&acme).await, Err(Error::Migration { .. })));
    module.migration("2_bad.sql", "CREATE TABLE u (n int)");
    assert_eq!(provision(&acme).await.unwrap().migrations, 1);
    module.migration("3_commit.sql", "CREATE TABLE v (n int); COMMIT; CREATE TABLE w (n int)");
    assert!(matches!(provision(&acme).await, Err(Error::MigrationText { .. })));
    std::fs::remove_file(module.files.path().join("3_commit.sql")).unwrap();
    module.migration("1_t.sql", "CREATE TABLE t (n bigint)");
    assert!(matches!(provision(&acme).await, Err(Error::MigrationChanged { .. })));
}
