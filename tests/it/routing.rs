//! From a connection string to the tenant's own place.

use tokio::net::TcpStream;

use crate::support::{MODULES, Wire, connect, one, proxy, refusal, unique, wire, world};

#[tokio::test(flavor = "multi_thread")]
async fn every_tenant_finds_its_own_rows_in_every_kind_of_place() {
    let world = world().await;
    let (acme, globex) = (world.tenant("acme").await, world.tenant("globex").await);
    let proxy = proxy(world, |_| {}).await;
    for (module, _, _) in MODULES {
        for tenant in [&acme, &globex] {
            let client = proxy.connect(tenant, module).await;
            let database = tenant.module(module)["database"].as_str().expect("a name");
            assert_eq!(one(&client, "SELECT current_database()").await, database, "{module}");
            assert_eq!(one(&client, "SELECT string_agg(note, ',') FROM notes").await, tenant.slug, "{module}");
        }
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_let_in_wherever_those_before_them_have_gone() {
    let world = world().await;
    let acme = world.tenant("acme").await;
    let proxy = proxy(world, |config| config.listen.threads = 3).await;
    // Each module has a thread of its own choice, to which the listening sockets follow so many in a row.
    for (module, _, _) in MODULES.repeat(2) {
        for _ in 0..12 {
            let client = proxy.connect(&acme, module).await;
            assert_eq!(one(&client, "SELECT string_agg(note, ',') FROM notes").await, acme.slug, "{module}");
        }
    }
    let address = proxy.address;
    proxy.stop().await;
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tenant_is_named_by_user_name_parameter_or_options_by_slug_id_or_alias() {
    let world = world().await;
    let slug = unique("named");
    let alias = format!("krn:acme:client:{slug}");
    let tenant = world.tenant_with(&slug, &["--alias", &alias]).await;
    let proxy = proxy(world, |_| {}).await;
    for name in [&tenant.slug, &tenant.id, &alias] {
        let option = format!("-c tenant={name}");
        let long = format!("--pgtenant.tenant={name}");
        let user = format!("app@{name}");
        for parameters in [
            &[("user", user.as_str())][..],
            &[("user", "app"), ("tenant", name)],
            &[("user", "app"), ("pgtenant.tenant", name)],
            &[("user", "app"), ("options", &option)],
            &[("user", "app"), ("options", &long)],
            &[("user", user.as_str()), ("tenant", &tenant.slug)],
        ] {
            let startup = wire::startup(&[parameters, &[("database", "crm")]].concat());
            let mut client = Wire::login_with(proxy.address, &startup, &tenant.password).await.expect("log in");
            client.send(&wire::query("SELECT note FROM notes")).await;
            let row = client.until_ready().await.into_iter().find(|message| message.kind == b'D').expect("a row");
            assert!(row.body.ends_with(tenant.slug.as_bytes()), "{parameters:?}");
        }
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_tenants_and_logins_fail_exactly_like_a_wrong_password() {
    let world = world().await;
    let tenant = world.tenant("known").await;
    let proxy = proxy(world, |_| {}).await;
    let known = tenant.user();
    let login = format!("nobody@{}", tenant.slug);
    for user in [known.as_str(), &login, "app@nobody"] {
        let mut config = proxy.config(&tenant, "crm");
        config.user(user).password("wrong");
        let error = connect(&config).await.map(|_| ()).expect_err("a refusal");
        let expected = format!("password authentication failed for user \"{user}\"");
        assert_eq!(refusal(&error), ("28P01".to_owned(), expected));
    }
    proxy.stop().await;
}
