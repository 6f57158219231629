//! A tenant with free SQL on a per-tenant placement tries to reach another tenant's rows, and the server behind.

use tokio_postgres::Client;

use crate::support::{Running, Tenant, connect, proxy, world};

/// The modules whose tenants have roles of their own: what the wall against hostile SQL is promised for.
const MODULES: [&str; 3] = ["crm", "operations", "ledger"];
const SECRET: &str = "the other's secret";

/// A victim who has written a secret, and a hostile tenant of the same modules.
async fn victim_and_enemy() -> (Running, Tenant, Tenant) {
    let world = world().await;
    let (victim, enemy) = (world.tenant("victim").await, world.tenant("enemy").await);
    let proxy = proxy(world, |_| {}).await;
    for module in MODULES {
        let client = proxy.connect(&victim, module).await;
        client.execute("INSERT INTO notes (note) VALUES ($1)", &[&SECRET]).await.unwrap();
    }
    (proxy, victim, enemy)
}

/// Everything that statements return, as text; what fails returns nothing.
async fn said(client: &Client, sql: &str) -> String {
    match client.simple_query(sql).await {
        Ok(messages) => format!("{messages:?}"),
        Err(error) => format!("{error:?}"),
    }
}

/// What a tenant may try before it looks; `{schema}`, `{id}` and `{role}` are the victim's.
const ATTEMPTS: [&str; 20] = [
    "SELECT 1",
    "SET search_path = \"{schema}\", common, public",
    "SELECT set_config('search_path', '{schema}', false)",
    "RESET ALL",
    "DISCARD ALL",
    "RESET search_path",
    "SET ROLE \"{role}\"",
    "SET ROLE NONE",
    "SET ROLE postgres",
    "SET SESSION AUTHORIZATION \"{role}\"",
    "SET SESSION AUTHORIZATION DEFAULT",
    "SET pgtenant.tenant_id = '{id}'",
    "SELECT set_config('pgtenant.tenant_id', '{id}', false)",
    "SET row_security = off",
    "ALTER ROLE CURRENT_USER SET search_path = \"{schema}\"",
    "ALTER TABLE notes DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE notes NO FORCE ROW LEVEL SECURITY",
    "GRANT \"{role}\" TO CURRENT_USER",
    "CREATE POLICY mine ON notes USING (true)",
    "CREATE FUNCTION pg_temp.f() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT 1::text'",
];

/// Start-up options that the proxy refuses.
const REFUSED_OPTIONS: [&str; 6] = [
    "-c role={role}",
    "--role={role}",
    "-c session_authorization={role}",
    "-c pgtenant.tenant_id={id}",
    "-c session_preload_libraries=auto_explain",
    "-c local_preload_libraries=x",
];

/// Start-up options that lead nowhere, refused or not.
const SEARCH_PATHS: [&str; 3] =
    ["-c search_path={schema}", "--search-path={schema},common", "-c search\\_path={schema}"];

const STOLEN: &str = "/tmp/pgtenant-stolen";

/// Where it then looks.
const LOOKS: [&str; 6] = [
    "SELECT note FROM notes",
    "TABLE \"{schema}\".notes",
    "TABLE common.notes",
    "COPY (SELECT note FROM notes) TO PROGRAM 'cat'",
    "COPY notes TO '/tmp/pgtenant-stolen'",
    "SELECT pg_read_file('/etc/passwd')",
];

/// A statement with the victim's names in it.
fn aimed(sql: &str, victim: &Tenant, module: &str) -> String {
    let place = victim.module(module);
    let text = |key: &str| place[key].as_str().unwrap_or("public").to_owned();
    sql.replace("{schema}", &text("schema")).replace("{role}", &text("role")).replace("{id}", &victim.id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_tenant_reaches_nothing_of_anothers_by_any_statement() {
    let (proxy, victim, enemy) = victim_and_enemy().await;
    for module in MODULES {
        let client = proxy.connect(&enemy, module).await;
        for attempt in ATTEMPTS.map(|sql| aimed(sql, &victim, module)) {
            for look in LOOKS.map(|sql| aimed(sql, &victim, module)) {
                said(&client, &attempt).await;
                let found = said(&client, &look).await;
                let together = said(&client, &format!("{attempt}; {look}")).await;
                for found in [found, together] {
                    assert!(
                        !found.contains(SECRET) && !found.contains("root:"),
                        "{module}: {attempt}; {look}: {found}"
                    );
                }
                said(&client, "RESET ALL").await;
            }
        }
        let own = said(&client, "SELECT note FROM notes").await;
        assert!(own.contains(&enemy.slug), "{module}: the enemy is where it belongs: {own}");
        let client = proxy.connect(&victim, module).await;
        let rows = client.query("SELECT note FROM notes ORDER BY id", &[]).await.unwrap();
        assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<String>>(), [victim.slug.as_str(), SECRET]);
    }
    assert!(!std::fs::exists(STOLEN).unwrap());
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn options_smuggle_nothing_past_the_proxy() {
    let (proxy, victim, enemy) = victim_and_enemy().await;
    for module in MODULES {
        for options in REFUSED_OPTIONS.map(|options| aimed(options, &victim, module)) {
            let mut config = proxy.config(&enemy, module);
            let error = connect(config.options(&options)).await.err();
            let code = error.as_ref().and_then(tokio_postgres::Error::code).map(|code| code.code());
            assert_eq!(code, Some("42501"), "{module}, {options}: {error:?}");
        }
        for options in SEARCH_PATHS.map(|options| aimed(options, &victim, module)) {
            let mut config = proxy.config(&enemy, module);
            let Ok(client) = connect(config.options(&options)).await else { continue };
            for look in ["SELECT note FROM notes", "TABLE \"{schema}\".notes"] {
                let found = said(&client, &aimed(look, &victim, module)).await;
                assert!(!found.contains(SECRET), "{module}, {options}: {found}");
            }
        }
    }
    proxy.stop().await;
}
