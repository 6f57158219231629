//! How a connection names its tenant and module, in every way there is, and what becomes of those that name none, or two.

use pgtenant::frontend::DefaultTenantPhase;
use pgtenant::proxy::Config;
use tokio_postgres::NoTls;

use crate::support::wire::{Message, startup};
use crate::support::{self, Running, Tenant, Wire, proxy, settings, unique, world};

/// Logs in with these parameters and the tenant's password.
async fn login(proxy: &Running, tenant: &Tenant, parameters: &[(&str, &str)]) -> Result<Wire, Message> {
    Wire::login_with(proxy.address, &startup(parameters), &tenant.password).await
}

/// Logs in and finds the tenant's own row.
async fn served(proxy: &Running, tenant: &Tenant, parameters: &[(&str, &str)]) -> Wire {
    let session = login(proxy, tenant, parameters).await;
    let mut session =
        session.unwrap_or_else(|error| panic!("{parameters:?}: {} {}", error.field(b'C'), error.field(b'M')));
    assert_eq!(session.value("SELECT note FROM notes").await, tenant.slug, "{parameters:?}");
    session
}

/// SQLSTATE and text of a refusal.
async fn refused(proxy: &Running, tenant: &Tenant, parameters: &[(&str, &str)]) -> (String, String) {
    match login(proxy, tenant, parameters).await {
        Ok(_) => panic!("{parameters:?} is served"),
        Err(error) => {
            assert_eq!((error.kind, error.field(b'V')), (b'E', "FATAL".to_owned()), "{parameters:?}");
            (error.field(b'C'), error.field(b'M'))
        }
    }
}

fn wrong_password(user: &str) -> (String, String) {
    ("28P01".to_owned(), format!("password authentication failed for user \"{user}\""))
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_disagree_are_an_error_and_never_the_first_one() {
    let world = world().await;
    let (acme, globex) =
        (world.tenant_of("acme", &["operations"]).await, world.tenant_of("globex", &["operations"]).await);
    let proxy = proxy(world, |config| config.identify.database_separator = Some("/".to_owned())).await;
    let user = acme.user();
    let (option, both) =
        (format!("-c tenant={}", globex.slug), format!("-c tenant={} --tenant={}", acme.slug, globex.slug));
    let path = format!("{}/operations", globex.slug);
    for parameters in [
        &[("user", user.as_str()), ("tenant", &globex.slug)][..],
        &[("user", &user), ("tenant", &globex.id)],
        &[("user", &user), ("options", &option)],
        &[("user", &user), ("tenant", "nobody-knows")],
        &[("user", &user), ("tenant", "")],
        &[("user", "app@nobody-knows"), ("tenant", &acme.slug)],
        &[("user", "app"), ("options", &both)],
        &[("user", "app"), ("tenant", &acme.slug), ("pgtenant.tenant", &globex.slug)],
        &[("user", &user), ("database", &path)],
        &[("user", "app"), ("tenant", &acme.slug), ("database", &path)],
        &[("user", "app"), ("tenant", "nobody"), ("pgtenant.tenant", "no-one")],
    ] {
        let (code, text) = refused(&proxy, &acme, parameters).await;
        assert_eq!(code, "28000", "{parameters:?}: {text}");
        assert!(text.starts_with("(PT-CONFLICT) conflicting tenants \""), "{parameters:?}: {text}");
    }
    let (_, text) = refused(&proxy, &acme, &[("user", &user), ("tenant", &globex.slug)]).await;
    let named = [format!("\"{}\" (user name)", acme.slug), format!("\"{}\" (startup option)", globex.slug)];
    assert!(named.iter().all(|name| text.contains(name)), "{text}");
    // The same tenant by two of its names is no conflict.
    let agreeing =
        [("user", user.as_str()), ("tenant", &acme.id), ("pgtenant.tenant", &acme.slug), ("database", "operations")];
    served(&proxy, &acme, &agreeing).await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn separators_name_the_tenant_in_the_order_they_are_configured() {
    let world = world().await;
    let tenant = world.tenant_of("split", &["operations"]).await;
    let (slug, id) = (tenant.slug.as_str(), tenant.id.as_str());
    let usual = proxy(world, |_| {}).await;
    for user in [
        format!("app@{slug}"),
        format!("app.{slug}"),
        format!("app@{id}"),
        format!("app.{id}"),
        slug.to_owned(),
        id.to_owned(),
    ] {
        served(&usual, &tenant, &[("user", &user), ("database", "operations")]).await;
    }
    // A dot names a tenant only where nothing else does: here the login is the whole name, and there is no such login.
    let dotted = format!("app.{slug}");
    let parameters = [("user", dotted.as_str()), ("tenant", slug), ("database", "operations")];
    assert_eq!(refused(&usual, &tenant, &parameters).await, wrong_password(&dotted));
    let unknown = format!("app+{slug}");
    assert_eq!(refused(&usual, &tenant, &[("user", &unknown)]).await.0, "28000", "no separator, and nothing else");
    usual.stop().await;
    let own = |config: &mut Config| {
        config.identify.separators = vec!["__".to_owned(), "+".to_owned()];
        config.identify.parameters = vec!["tenant".to_owned(), "endpoint".to_owned()];
    };
    let own = proxy(world, own).await;
    for user in [format!("app__{slug}"), format!("app+{slug}")] {
        served(&own, &tenant, &[("user", &user), ("database", "operations")]).await;
    }
    served(&own, &tenant, &[("user", "app"), ("options", &format!("-c endpoint={slug}")), ("database", "operations")])
        .await;
    own.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_name_may_name_tenant_and_module() {
    let world = world().await;
    let tenant = world.tenant_of("path", &["operations", "ledger"]).await;
    let on = proxy(world, |config| config.identify.database_separator = Some("/".to_owned())).await;
    let database = |module: &str| format!("{}/{module}", tenant.slug);
    for module in ["operations", "ledger", "old_ledger", ""] {
        served(&on, &tenant, &[("user", "app"), ("database", &database(module))]).await;
    }
    let by_id = format!("{}/operations", tenant.id);
    served(&on, &tenant, &[("user", &tenant.user()), ("database", &by_id)]).await;
    assert_eq!(
        refused(&on, &tenant, &[("user", "app"), ("database", "nobody/operations")]).await,
        wrong_password("app")
    );
    let (code, text) = refused(&on, &tenant, &[("user", "app"), ("database", &database("payroll"))]).await;
    assert_eq!(
        (code.as_str(), text),
        ("3D000", format!("(PT-NOMODULE) tenant \"{}\" has no database \"payroll\"", tenant.slug))
    );
    on.stop().await;
    let off = proxy(world, |_| {}).await;
    let (code, text) = refused(&off, &tenant, &[("user", "app"), ("database", &database("operations"))]).await;
    assert!(code == "28000" && text.starts_with("(PT-NOTENANT) "), "off unless configured: {code} {text}");
    off.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_is_the_module_by_name_or_alias_and_none_is_the_default_one() {
    let world = world().await;
    let tenant = world.tenant_of("module", &["ledger", "operations"]).await;
    let proxy = proxy(world, |_| {}).await;
    let user = tenant.user();
    let mut places = Vec::new();
    for database in ["ledger", "old_ledger", "", user.as_str(), "app"] {
        let mut session = served(&proxy, &tenant, &[("user", &user), ("database", database)]).await;
        places.push(session.value("SELECT current_database()").await);
    }
    let mut session = served(&proxy, &tenant, &[("user", &user)]).await;
    places.push(session.value("SELECT current_database()").await);
    assert_eq!(places, vec![tenant.place("ledger", "database").to_owned(); 6], "the first module is the default one");
    let mut session = served(&proxy, &tenant, &[("user", &user), ("database", "operations")]).await;
    assert_eq!(session.value("SELECT current_database()").await, tenant.place("operations", "database"));
    // Nothing of the naming reaches the server.
    let mut session =
        served(&proxy, &tenant, &[("user", "app"), ("tenant", &tenant.slug), ("options", "-c application_name=x")])
            .await;
    assert_eq!(session.value("SELECT session_user").await, tenant.place("ledger", "role"));
    assert_eq!(
        session
            .value("SELECT coalesce(current_setting('tenant', true), current_setting('pgtenant.tenant', true), '')")
            .await,
        ""
    );
    for database in ["crm", "LEDGER", "ledger ", "postgres", "pgtenant\"; DROP", tenant.place("ledger", "database")] {
        let (code, text) = refused(&proxy, &tenant, &[("user", &user), ("database", database)]).await;
        assert_eq!(code, "3D000", "{database}");
        assert!(text.starts_with(&format!("(PT-NOMODULE) tenant \"{}\" has no database \"", tenant.slug)), "{text}");
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_fail_like_a_wrong_password() {
    let world = world().await;
    let tenant = world.tenant_of("bobby", &["operations"]).await;
    let proxy = proxy(world, |_| {}).await;
    let slug = &tenant.slug;
    for user in [
        format!("app@{slug}'--"),
        format!("app@{slug}' OR '1'='1"),
        format!("app@{slug}\" OR true"),
        format!("app@{slug}%00"),
        format!("app@%{slug}"),
        format!("app@_{slug}"),
        format!("app@{slug}\\"),
        format!("app@ {slug}"),
        format!("app@{slug}@"),
        format!("@{slug}"),
        "app@".to_owned(),
        "@".to_owned(),
        "app@%".to_owned(),
        format!("' OR 1=1 --@{slug}"),
        format!("postgres@{slug}"),
        format!("{}@{slug}", tenant.place("operations", "role")),
        format!("APP@{slug}"),
        format!("app@{}", "x".repeat(5000)),
        format!("app{}", "@x".repeat(200)),
    ] {
        assert_eq!(
            refused(&proxy, &tenant, &[("user", &user), ("database", "operations")]).await,
            wrong_password(&user)
        );
    }
    served(&proxy, &tenant, &[("user", &tenant.user()), ("database", "operations")]).await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_told_of_a_tenant_before_its_password_is_proved() {
    let world = world().await;
    let tenant = world.tenant_of("quiet", &["operations"]).await;
    let proxy = proxy(world, |_| {}).await;
    let user = tenant.user();
    let guess = |database: &'static str| {
        let packet = startup(&[("user", &user), ("database", database)]);
        let address = proxy.address;
        async move {
            let refused = Wire::login_with(address, &packet, "guessed").await.err().expect("a refusal");
            (refused.field(b'C'), refused.field(b'M'))
        }
    };
    assert_eq!(guess("nosuch").await, wrong_password(&user));
    world.run(&["tenant", "suspend", &tenant.slug]).await;
    assert_eq!(guess("operations").await, wrong_password(&user));
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_that_are_not_served_are_told_why_after_their_proof() {
    let world = world().await;
    let tenant = world.tenant_of("status", &["operations"]).await;
    let registry = connect_to(&world.registry).await;
    let user = tenant.user();
    let named = [("user", user.as_str()), ("database", "operations")];
    for (status, code, text) in [
        ("suspended", "28000", format!("(PT-SUSPENDED) tenant \"{}\" is suspended", tenant.slug)),
        (
            "provisioning",
            "57P03",
            format!("(PT-UNAVAILABLE) tenant \"{}\" is being provisioned; try again", tenant.slug),
        ),
        ("moving", "57P03", format!("(PT-UNAVAILABLE) tenant \"{}\" is being moved; try again", tenant.slug)),
    ] {
        let set = "UPDATE pgtenant.tenants SET status = $1 WHERE slug = $2";
        assert_eq!(registry.execute(set, &[&status, &tenant.slug]).await.unwrap(), 1);
        // One that knows nothing yet.
        let proxy = proxy(world, |_| {}).await;
        assert_eq!(refused(&proxy, &tenant, &named).await, (code.to_owned(), text));
        proxy.stop().await;
    }
    let archive = "UPDATE pgtenant.tenants SET status = 'archived' WHERE slug = $1";
    registry.execute(archive, &[&tenant.slug]).await.unwrap();
    let proxy = proxy(world, |_| {}).await;
    assert_eq!(refused(&proxy, &tenant, &named).await, wrong_password(&user), "as good as unknown");
    proxy.stop().await;
}

async fn connect_to(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn who_names_no_tenant_is_told_how_to() {
    let world = world().await;
    let tenant = world.tenant_of("unnamed", &["operations"]).await;
    let proxy = proxy(world, |_| {}).await;
    for parameters in [&[("user", "app")][..], &[("user", "app"), ("database", "operations")], &[("user", "postgres")]]
    {
        let error = login(&proxy, &tenant, parameters).await.err().expect("a refusal");
        assert_eq!(
            (error.field(b'C'), error.field(b'M')),
            ("28000".to_owned(), "(PT-NOTENANT) no tenant given".to_owned())
        );
        let hint = error.field(b'H');
        assert!(hint.contains("app@TENANT") && hint.contains("-c tenant=TENANT"), "{hint}");
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_names_no_tenant_goes_to_the_default_one_in_three_phases_changed_by_reload() {
    let world = world().await;
    let slug = unique("default");
    let alias = format!("krn:default:client:{slug}");
    let (tenant, other) = (
        world.tenant_in(&slug, &["operations"], &["--alias", &alias]).await,
        world.tenant_of("other", &["operations"]).await,
    );
    let configured = |phase: DefaultTenantPhase, address: String| {
        let mut config = settings();
        config.identify.default_tenant = Some(alias.clone());
        config.identify.default_tenant_phase = phase;
        config.listen.address = address;
        config
    };
    let proxy = proxy(world, |config| *config = configured(DefaultTenantPhase::Allow, "127.0.0.1:0".to_owned())).await;
    let unnamed = [("user", "app"), ("database", "operations")];
    let session = served(&proxy, &tenant, &unnamed).await;
    assert!(session.notices.is_empty());
    let reload = |phase| proxy.proxy.reload(&configured(phase, "127.0.0.1:0".to_owned())).unwrap();

    reload(DefaultTenantPhase::Warn);
    let session = served(&proxy, &tenant, &unnamed).await;
    let [notice] = &session.notices[..] else { panic!("{:?}", session.notices) };
    assert_eq!((notice.field(b'S'), notice.field(b'C')), ("NOTICE".to_owned(), "00000".to_owned()));
    assert_eq!(notice.field(b'M'), format!("no tenant given, using the default tenant \"{slug}\""));
    assert!(notice.field(b'H').contains("app@TENANT"));
    // Those who name a tenant, the default one too, hear nothing.
    for named in [&tenant, &other] {
        let session = served(&proxy, named, &[("user", &named.user()), ("database", "operations")]).await;
        assert!(session.notices.is_empty());
    }
    // A name that leads nowhere never falls to the default tenant, nor does a login that it does not have.
    for user in ["app@nobody", "nobody"] {
        assert_eq!(refused(&proxy, &tenant, &[("user", user)]).await, wrong_password(user));
    }
    let elsewhere = [("user", "app"), ("tenant", "nobody")];
    assert_eq!(refused(&proxy, &tenant, &elsewhere).await, wrong_password("app"));

    reload(DefaultTenantPhase::Refuse);
    let (code, text) = refused(&proxy, &tenant, &unnamed).await;
    assert_eq!((code.as_str(), text.as_str()), ("28000", "(PT-NOTENANT) no tenant given"));
    served(&proxy, &tenant, &[("user", &tenant.user()), ("database", "operations")]).await;

    reload(DefaultTenantPhase::Allow);
    served(&proxy, &tenant, &unnamed).await;
    // Nobody can fill the counts with names of their own making.
    reload(DefaultTenantPhase::Refuse);
    refused(&proxy, &tenant, &[("user", "somebody")]).await;
    let counts = |login: &str| {
        let found = proxy.proxy.adoption().into_iter().find(|one| one.login == login).expect(login);
        assert_eq!(found.address, "127.0.0.1");
        (found.named, found.by_default, found.refused)
    };
    support::until("the last refusal is counted", async || proxy.proxy.adoption().len() == 2).await;
    assert_eq!((counts("app"), counts("unknown")), ((3, 3, 1), (0, 0, 1)));
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_called_like_a_login_captures_nobody() {
    let world = world().await;
    let default = world.tenant_of("main", &["operations"]).await;
    // A tenant with the slug that is the surname of one of the default tenant's logins.
    let surname = unique("doe");
    let doe = world.tenant_in(&surname, &["operations"], &[]).await;
    let john = format!("john.{surname}");
    let made = world.run(&["tenant", "login", "add", &default.slug, &john, "--json"]).await;
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    let slug = default.slug.clone();
    let proxy = proxy(world, |config| config.identify.default_tenant = Some(slug)).await;
    let packet = startup(&[("user", &john), ("database", "operations")]);
    let password = made["password"].as_str().unwrap();
    let mut session = Wire::login_with(proxy.address, &packet, password).await.expect("log in");
    assert_eq!(session.value("SELECT note FROM notes").await, default.slug);
    served(&proxy, &doe, &[("user", &doe.user()), ("database", "operations")]).await;
    proxy.stop().await;
}
