//! S: a marketplace whose storefronts are rows, a schema or a database of their own, under one and the same application.

use pgtenant::cluster::Cluster;
use serde_json::Value;

use super::{add_server, client, empty_machine, migrations, one, url};
use crate::commands::site::Site;
use crate::support::Child;

/// Written once for every isolation: where rows are common, the column says whose they are; elsewhere it is always the tenant's own id.
const SHOP: &str = "CREATE TABLE customers (
        tenant_id uuid NOT NULL DEFAULT current_setting('pgtenant.tenant_id', true)::uuid,
        id int GENERATED ALWAYS AS IDENTITY, email text NOT NULL, PRIMARY KEY (tenant_id, id), UNIQUE (tenant_id, email));
    CREATE TABLE orders (
        tenant_id uuid NOT NULL DEFAULT current_setting('pgtenant.tenant_id', true)::uuid,
        id int GENERATED ALWAYS AS IDENTITY, customer int NOT NULL, total numeric NOT NULL, PRIMARY KEY (tenant_id, id),
        FOREIGN KEY (tenant_id, customer) REFERENCES customers (tenant_id, id))";
const LARGE: &str = "550e8400-e29b-41d4-a716-446655440000";
const MEDIUM: &str = "550e8400-e29b-41d4-a716-446655440001";

struct Play {
    cluster: Cluster,
    site: Site,
    proxy: Child,
}

#[tokio::test(flavor = "multi_thread")]
async fn storefronts_of_every_isolation_run_the_same_application() {
    let play = Play::open().await;
    let shops = [
        play.create("corner", &[]),
        play.create("kiosk", &[]),
        play.create("bazaar", &["--id", MEDIUM, "--isolation", "schema", "--pool-size", "5"]),
        play.create("emporium", &["--id", LARGE, "--isolation", "database", "--pool-size", "20"]),
    ];
    the_registry_says_where_each_storefront_is(&play, &shops);
    for shop in &shops {
        application(shop).await;
    }
    each_sees_its_own_after_all_have_written(&play, &shops).await;
    migrations_reach_every_kind_of_place(&play, &shops).await;
    assert!(play.proxy.stop().await.success());
}

impl Play {
    async fn open() -> Self {
        let (cluster, site) = empty_machine().await;
        site.ok(&["registry", "init"]);
        add_server(&site, "main", &cluster);
        let files = migrations(&site, "storefront", &[("0001_shop.sql", SHOP)]);
        let place = ["--isolation", "shared", "--server", "main", "--database", "smartseller"];
        let names = ["--database-pattern", "storefront_{id}", "--migrations", &files];
        site.ok(&[&["module", "add", "storefront"], &place[..], &names].concat());
        let proxy = Child::serve_registry(&site.registry.url, "").await;
        Self { cluster, site, proxy }
    }

    fn create(&self, slug: &str, overrides: &[&str]) -> Value {
        let address = self.proxy.address.to_string();
        let create = ["tenant", "create", slug, "--name", slug, "--modules", "storefront", "--proxy", &address];
        self.site.json(&[&create[..], overrides].concat())
    }
}

/// S1: the default, explicit overrides by id, the pattern of names, and connections per tenant.
fn the_registry_says_where_each_storefront_is(play: &Play, shops: &[Value]) {
    let places: Vec<_> = shops.iter().map(|shop| &shop["modules"][0]).collect();
    let read = |key: &str| places.iter().map(|place| place[key].as_str().unwrap_or("-").to_owned()).collect::<Vec<_>>();
    assert_eq!(read("isolation"), ["shared", "shared", "schema", "database"]);
    let own = format!("storefront_{LARGE}");
    assert_eq!(read("database"), ["smartseller", "smartseller", "smartseller", own.as_str()]);
    assert_eq!(read("schema"), ["storefront", "storefront", "storefront_bazaar", "-"]);
    for (slug, limit) in [("emporium", "pool 20"), ("bazaar", "pool 5")] {
        assert!(play.site.ok(&["tenant", "show", slug]).contains(limit), "{slug}");
    }
    assert_eq!(play.site.json(&["tenant", "show", LARGE])["slug"], "emporium");
}

/// S2: what a storefront's service does; it is told nothing but a connection string.
async fn application(shop: &Value) {
    let mut session = client(url(shop, "storefront")).await.unwrap();
    let transaction = session.transaction().await.unwrap();
    let customer = "INSERT INTO customers (email) VALUES ($1) RETURNING id";
    let ann: i32 = transaction.query_one(customer, &[&"ann@example.com"]).await.unwrap().get(0);
    let order = "INSERT INTO orders (customer, total) VALUES ($1, 10), ($1, 32)";
    assert_eq!(transaction.execute(order, &[&ann]).await.unwrap(), 2);
    transaction.commit().await.unwrap();
    let sold =
        "SELECT c.email || ' ' || sum(o.total) FROM customers c JOIN orders o ON o.customer = c.id GROUP BY c.email";
    assert_eq!(one(&session, sold).await, "ann@example.com 42", "{}", shop["slug"]);
    let twice = session.execute("INSERT INTO customers (email) VALUES ('ann@example.com')", &[]).await.unwrap_err();
    assert_eq!(crate::support::refusal(&twice).0, "23505");
}

/// S1, P4: no storefront has another's rows, however they are kept apart; where they are common, each has its own id in them.
async fn each_sees_its_own_after_all_have_written(play: &Play, shops: &[Value]) {
    for shop in shops {
        let session = client(url(shop, "storefront")).await.unwrap();
        let whose = "SELECT count(*) || ' ' || min(tenant_id::text) || ' ' || max(tenant_id::text) FROM orders";
        let id = shop["tenant_id"].as_str().unwrap();
        assert_eq!(one(&session, whose).await, format!("2 {id} {id}"), "{}", shop["slug"]);
    }
    let common = play.cluster.connect("smartseller").await.unwrap();
    assert_eq!(one(&common, "SELECT count(*) FROM storefront.orders").await, "4", "two storefronts' rows in one table");
    let (corner, kiosk) =
        (client(url(&shops[0], "storefront")).await.unwrap(), shops[1]["tenant_id"].as_str().unwrap());
    let others = format!("UPDATE orders SET total = 0 WHERE tenant_id = '{kiosk}'");
    assert_eq!(corner.execute(&others, &[]).await.unwrap(), 0, "asked for by name, they are not there");
    let forged = format!("INSERT INTO customers (tenant_id, email) VALUES ('{kiosk}', 'eve@example.com')");
    assert_eq!(crate::support::refusal(&corner.batch_execute(&forged).await.unwrap_err()).0, "42501");
    corner.batch_execute("SELECT * FROM storefront_bazaar.orders").await.expect_err("another's schema");
}

/// T4: common tables once, and each place of a tenant's own; one kind only, where that is asked for.
async fn migrations_reach_every_kind_of_place(play: &Play, shops: &[Value]) {
    migrations(&play.site, "storefront", &[("0002_notes.sql", "ALTER TABLE orders ADD COLUMN note text")]);
    let run = |arguments: &[&str]| -> Vec<String> {
        let results = play.site.json(&[&["migrate"], arguments].concat());
        let line = |one: &Value| {
            format!("{} {} {}", one["tenant"].as_str().unwrap(), one["status"].as_str().unwrap(), one["version"])
        };
        results.as_array().unwrap().iter().map(line).collect()
    };
    let shared = ["corner applied 2", "kiosk applied 2"];
    assert_eq!(run(&["--tenant", "corner", "--tenant", "kiosk"]), shared, "the place that is common to both");
    let all = ["bazaar applied 2", "corner current 2", "emporium applied 2", "kiosk current 2"];
    assert_eq!(run(&[]), all);
    for shop in shops {
        let session = client(url(shop, "storefront")).await.unwrap();
        assert_eq!(one(&session, "UPDATE orders SET note = 'paid' WHERE total = 10 RETURNING note").await, "paid");
    }
}
