//! What PostgreSQL says of a tenant's role holds for the tenant's clients: NOLOGIN, and passwords that have expired.

use crate::support::{Running, Tenant, cluster, connect, one, proxy, refusal, unique, world};

/// A fresh proxy, with no server connection that was opened before.
async fn fresh(tenant: &Tenant) -> (Running, tokio_postgres::Config) {
    let proxy = proxy(world().await, |_| {}).await;
    let config = proxy.config(tenant, "crm");
    (proxy, config)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_log_in_or_has_expired_opens_nothing_with_the_right_password() {
    let tenant = world().await.tenant_of(&unique("expired"), &["crm"]).await;
    let role = tenant.place("crm", "role");
    let admin = cluster().await.connect("postgres").await.expect("connect");
    for (how, is_served) in [
        ("NOLOGIN", false),
        ("LOGIN", true),
        ("VALID UNTIL 'yesterday'", false),
        ("VALID UNTIL 'tomorrow'", true),
        ("VALID UNTIL 'infinity'", true),
    ] {
        admin.batch_execute(&format!("ALTER ROLE \"{role}\" {how}")).await.expect("alter the role");
        let (proxy, config) = fresh(&tenant).await;
        match connect(&config).await {
            Ok(client) => {
                assert!(is_served, "{how}");
                assert_eq!(one(&client, "SELECT 1").await, "1");
            }
            // That its password was right is no secret to it; what is wrong is the operator's matter.
            Err(error) => {
                assert!(!is_served, "{how}: {error:?}");
                let (code, text) = refusal(&error);
                assert_eq!((code.as_str(), text.split(' ').next()), ("08006", Some("(PT-BACKEND)")), "{how}: {text}");
            }
        }
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_not_adopted_with_a_role_that_may_not_log_in_or_has_expired() {
    let world = world().await;
    let place = world.tenant_of(&unique("adopted"), &["crm"]).await;
    let (database, schema) = (place.place("crm", "database"), "public");
    let admin = cluster().await.connect(database).await.expect("connect");
    let role = unique("theirs");
    admin.batch_execute(&format!("CREATE ROLE \"{role}\" LOGIN PASSWORD 'of theirs'")).await.expect("a role");
    // A place that no tenant has: the database of one that is gone from the registry.
    world.run(&["tenant", "unsubscribe", &place.slug, "crm"]).await;
    let grants =
        format!("GRANT CONNECT ON DATABASE \"{database}\" TO \"{role}\"; GRANT USAGE ON SCHEMA {schema} TO \"{role}\"");
    admin.batch_execute(&grants).await.expect("grant");
    let slug = unique("adopter");
    world.run(&["tenant", "create", &slug, "--name", &slug]).await;
    let subscribe = ["tenant", "subscribe", &slug, "crm", "--existing", "--database", database, "--role", &role];
    for (how, said) in [
        ("NOLOGIN", Some("may not log in")),
        ("LOGIN VALID UNTIL 'yesterday'", Some("has expired")),
        ("VALID UNTIL 'infinity'", None),
    ] {
        admin.batch_execute(&format!("ALTER ROLE \"{role}\" {how}")).await.expect("alter the role");
        let output = world.command(&subscribe).output().await.expect("run pgtenant");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), said.is_none(), "{how}: {error}");
        assert!(error.contains(said.unwrap_or_default()), "{how}: {error}");
    }
}
