//! One test for every rule by which a connection names its tenant (design, section 1 and "Names").

use std::collections::HashMap;
use std::sync::Mutex;

use super::*;
use crate::frontend::testing::{login, tenant};

#[derive(Debug, thiserror::Error)]
#[error("the registry is down")]
struct Down;

/// Tenants by name; `down` are the names that cannot be looked up now.
#[derive(Default)]
struct Table {
    tenants: Vec<Arc<Tenant>>,
    down: Vec<&'static str>,
    asked: Mutex<HashMap<String, u32>>,
}

impl Directory for Table {
    type Unavailable = Down;
    async fn lookup(&self, name: &TenantName) -> Result<Option<Arc<Tenant>>, Down> {
        *self.asked.lock().unwrap().entry(name.to_string()).or_default() += 1;
        if self.down.iter().any(|down| *down == name.as_str() || *down == "*") {
            return Err(Down);
        }
        Ok(self.tenants.iter().find(|t| t.is_named(name)).cloned())
    }
}

fn table(slugs: &[&str]) -> Table {
    Table { tenants: slugs.iter().map(|slug| Arc::new(tenant(slug, &["finance"]))).collect(), ..Table::default() }
}

fn all_on() -> IdentifyConfig {
    IdentifyConfig {
        sni_suffix: Some("db.example.com".into()),
        database_separator: Some("/".into()),
        ..IdentifyConfig::default()
    }
}

fn with_default(phase: DefaultTenantPhase) -> IdentifyConfig {
    IdentifyConfig { default_tenant: Some("main".into()), default_tenant_phase: phase, ..IdentifyConfig::default() }
}

async fn run(
    table: &Table,
    config: &IdentifyConfig,
    server_name: Option<&str>,
    parameters: &[(&str, &str)],
) -> Result<Identified, Error> {
    let owned: Vec<_> = parameters.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    identify(&owned, server_name, config, table).await
}

/// `tenant/login/database`, `unknown: reason`, or the error's text.
async fn who(table: &Table, config: &IdentifyConfig, server_name: Option<&str>, parameters: &[(&str, &str)]) -> String {
    match run(table, config, server_name, parameters).await {
        Ok(Identified::Known(claim)) => {
            let Claim { tenant, request, .. } = Arc::unwrap_or_clone(claim);
            format!("{}/{}/{}", tenant.slug, request.login, request.database)
        }
        Ok(Identified::Unknown(unknown)) => format!("unknown: {}", unknown.reason),
        Err(error) => error.to_string(),
    }
}

async fn user(table: &Table, config: &IdentifyConfig, user: &str) -> String {
    who(table, config, None, &[("user", user)]).await
}

#[tokio::test]
async fn any_name_of_a_tenant_names_it_in_every_source() {
    let table = table(&["acme", "beta"]);
    let id = table.tenants[0].id.to_string();
    for name in ["acme", "krn:acme:prod", &id, &id.to_uppercase().replace('-', "")] {
        let options = format!("-c tenant={name}");
        let at = format!("app@{name}");
        for parameters in [
            [("user", "app"), ("tenant", name)],
            [("user", "app"), ("pgtenant.tenant", name)],
            [("user", "app"), ("options", &options)],
            [("user", &at), ("client_encoding", "UTF8")],
        ] {
            assert_eq!(who(&table, &all_on(), None, &parameters).await, "acme/app/", "{parameters:?}");
        }
        let database = format!("{name}/finance");
        let parameters = [("user", "app"), ("database", database.as_str())];
        assert_eq!(who(&table, &all_on(), None, &parameters).await, "acme/app/finance");
    }
    for server_name in ["acme.db.example.com".to_owned(), format!("{id}.DB.example.com")] {
        assert_eq!(who(&table, &all_on(), Some(&server_name), &[("user", "app")]).await, "acme/app/");
    }
}

#[tokio::test]
async fn two_names_that_disagree_are_a_conflict_whichever_sources_they_come_from() {
    let table = table(&["acme", "beta"]);
    let text = "(PT-CONFLICT) conflicting tenants \"acme\" (startup option) and \"beta\" (TLS server name)";
    let parameters = [("user", "app"), ("options", "-c tenant=acme")];
    let error = run(&table, &all_on(), Some("beta.db.example.com"), &parameters).await.unwrap_err();
    assert_eq!(error.to_string(), text);
    assert_eq!(error.report().unwrap().sqlstate.0, "28000");
    for (server_name, parameters) in [
        (None, vec![("user", "app@acme"), ("tenant", "beta")]),
        (None, vec![("user", "app@acme"), ("database", "beta/finance")]),
        (None, vec![("user", "app"), ("tenant", "acme"), ("options", "-c tenant=beta")]),
        (None, vec![("user", "app"), ("tenant", "acme"), ("tenant", "beta")]),
        (Some("acme.db.example.com"), vec![("user", "app"), ("database", "beta/finance")]),
        (Some("acme.db.example.com"), vec![("user", "app@beta")]),
    ] {
        let told = who(&table, &all_on(), server_name, &parameters).await;
        assert!(told.starts_with("(PT-CONFLICT) "), "{told} {parameters:?}");
    }
}

#[tokio::test]
async fn two_names_of_the_same_tenant_agree() {
    let table = table(&["acme", "beta"]);
    let parameters = [("user", "app@acme"), ("tenant", "krn:acme:prod"), ("database", "acme/finance")];
    assert_eq!(who(&table, &all_on(), Some("acme.db.example.com"), &parameters).await, "acme/app/finance");
}

#[tokio::test]
async fn unknown_against_known_is_the_same_conflict_as_known_against_known() {
    let table = table(&["acme", "beta"]);
    let conflict = |other: &str| {
        format!("(PT-CONFLICT) conflicting tenants \"acme\" (startup option) and \"{other}\" (user name)")
    };
    for other in ["beta", "ghost"] {
        let user = format!("app@{other}");
        assert_eq!(who(&table, &all_on(), None, &[("user", &user), ("tenant", "acme")]).await, conflict(other));
    }
    let two_unknown = [("user", "app@ghost"), ("tenant", "spook")];
    assert!(who(&table, &all_on(), None, &two_unknown).await.starts_with("(PT-CONFLICT) "));
}

#[tokio::test]
async fn one_unknown_name_given_twice_is_an_unknown_tenant_as_one_known_name_given_twice_is_a_known_one() {
    let table = table(&["acme"]);
    for (name, outcome) in [("acme", "acme/app/"), ("ghost", "unknown: unknown_tenant")] {
        let user = format!("app@{name}");
        assert_eq!(who(&table, &all_on(), None, &[("user", &user), ("tenant", name)]).await, outcome);
    }
}

#[tokio::test]
async fn an_unknown_tenant_in_any_source_is_unknown_and_never_the_default_tenant() {
    let table = table(&["main"]);
    let config = IdentifyConfig { default_tenant: Some("main".into()), ..all_on() };
    for (server_name, parameters) in [
        (None, vec![("user", "app@ghost")]),
        (None, vec![("user", "app@")]),
        (None, vec![("user", "app"), ("tenant", "ghost")]),
        (None, vec![("user", "app"), ("tenant", "")]),
        (None, vec![("user", "app"), ("options", "-c tenant=ghost")]),
        (None, vec![("user", "app"), ("database", "ghost/finance")]),
        (None, vec![("user", "app"), ("database", "/finance")]),
        (Some("ghost.db.example.com"), vec![("user", "app")]),
    ] {
        let told = who(&table, &config, server_name, &parameters).await;
        assert_eq!(told, "unknown: unknown_tenant", "{server_name:?} {parameters:?}");
    }
}

#[tokio::test]
async fn an_archived_tenant_is_unknown() {
    let mut gone = tenant("gone", &["finance"]);
    gone.status = TenantStatus::Archived;
    let table = Table { tenants: vec![Arc::new(gone)], ..Table::default() };
    assert_eq!(user(&table, &all_on(), "app@gone").await, "unknown: unknown_tenant");
}

#[tokio::test]
async fn a_suspended_tenant_is_known_until_authentication_says_otherwise() {
    let mut late = tenant("late", &["finance"]);
    late.status = TenantStatus::Suspended;
    let table = Table { tenants: vec![Arc::new(late)], ..Table::default() };
    assert_eq!(user(&table, &all_on(), "app@late").await, "late/app/");
}

#[tokio::test]
async fn an_unknown_login_of_a_known_tenant_is_unknown() {
    let table = table(&["acme"]);
    for name in ["nobody@acme", "@acme", "nobody.acme"] {
        assert_eq!(user(&table, &all_on(), name).await, "unknown: unknown_login", "{name}");
    }
}

#[tokio::test]
async fn a_login_without_a_readable_verifier_is_unknown() {
    let mut acme = tenant("acme", &["finance"]);
    acme.logins[0].verifier = None;
    acme.logins.push(Login { verifier: Some("md5abc".into()), ..login("acme", "old") });
    let table = Table { tenants: vec![Arc::new(acme)], ..Table::default() };
    for name in ["app@acme", "old@acme"] {
        assert_eq!(user(&table, &all_on(), name).await, "unknown: no_verifier");
    }
}

#[tokio::test]
async fn the_user_name_is_split_at_whichever_at_sign_names_a_known_tenant() {
    let mut acme = tenant("acme", &["finance"]);
    acme.logins.push(login("acme", "alice@corp.com"));
    acme.aliases.push("x@y".parse().unwrap());
    let table = Table { tenants: vec![Arc::new(acme)], ..Table::default() };
    assert_eq!(user(&table, &all_on(), "alice@corp.com@acme").await, "acme/alice@corp.com/");
    assert_eq!(user(&table, &all_on(), "app@x@y").await, "acme/app/");
}

#[tokio::test]
async fn two_known_tenants_in_one_user_name_are_a_conflict() {
    let mut beta = tenant("beta", &["finance"]);
    beta.aliases.push("x@acme".parse().unwrap());
    beta.aliases.push("x.acme".parse().unwrap());
    let table = Table { tenants: vec![Arc::new(tenant("acme", &["finance"])), Arc::new(beta)], ..Table::default() };
    for name in ["app@x@acme", "app.x.acme"] {
        assert!(user(&table, &all_on(), name).await.starts_with("(PT-CONFLICT) "), "{name}");
    }
}

#[tokio::test]
async fn two_names_of_one_tenant_in_one_user_name_mean_the_login_that_exists() {
    let mut acme = tenant("acme", &["finance"]);
    acme.aliases.push("x@acme".parse().unwrap());
    acme.logins.push(login("acme", "bob@x"));
    let table = Table { tenants: vec![Arc::new(acme)], ..Table::default() };
    assert_eq!(user(&table, &all_on(), "app@x@acme").await, "acme/app/");
    assert_eq!(user(&table, &all_on(), "bob@x@acme").await, "acme/bob@x/");
}

#[tokio::test]
async fn a_dotted_or_bare_user_name_names_a_tenant_only_where_nothing_else_does() {
    let mut beta = tenant("beta", &["finance"]);
    beta.logins.push(login("beta", "app.acme"));
    beta.logins.push(login("beta", "acme"));
    let table = Table { tenants: vec![Arc::new(tenant("acme", &["finance"])), Arc::new(beta)], ..Table::default() };
    assert_eq!(user(&table, &all_on(), "app.acme").await, "acme/app/");
    assert_eq!(user(&table, &all_on(), "acme").await, "acme/app/");
    for name in ["app.acme", "acme"] {
        let expected = format!("beta/{name}/");
        assert_eq!(who(&table, &all_on(), None, &[("user", name), ("tenant", "beta")]).await, expected);
        assert_eq!(who(&table, &all_on(), Some("beta.db.example.com"), &[("user", name)]).await, expected);
        let database = [("user", name), ("database", "beta/")];
        assert_eq!(who(&table, &all_on(), None, &database).await, expected);
        assert_eq!(user(&table, &all_on(), &format!("{name}@beta")).await, expected);
    }
}

#[tokio::test]
async fn separators_are_tried_in_their_order() {
    let config = IdentifyConfig { separators: vec!["--".into(), ".".into()], ..IdentifyConfig::default() };
    let table = table(&["acme", "beta"]);
    assert_eq!(user(&table, &config, "app--acme").await, "acme/app/");
    assert_eq!(user(&table, &config, "app.beta").await, "beta/app/");
    assert_eq!(user(&table, &config, "app@beta").await, "(PT-NOTENANT) no tenant given", "not a separator here");
    assert_eq!(
        user(&table, &config, "x.beta--acme").await,
        "unknown: unknown_login",
        "x.beta of acme, not x of beta--acme"
    );
}

#[tokio::test]
async fn a_bare_tenant_name_means_its_app_login_or_its_only_one() {
    let mut one = tenant("one", &["finance"]);
    one.logins = vec![login("one", "reader")];
    let mut two = tenant("two", &["finance"]);
    two.logins = vec![login("two", "reader"), login("two", "writer")];
    let table = Table { tenants: vec![Arc::new(one), Arc::new(two)], ..Table::default() };
    assert_eq!(user(&table, &all_on(), "one").await, "one/reader/");
    assert_eq!(user(&table, &all_on(), "two").await, "unknown: no_default_login");
}

#[tokio::test]
async fn no_name_and_no_default_is_an_error_that_says_how_to_give_one() {
    let table = table(&["acme"]);
    let error = run(&table, &all_on(), None, &[("user", "app")]).await.unwrap_err();
    let report = error.report().unwrap();
    assert_eq!((report.message.as_str(), report.sqlstate.0), ("(PT-NOTENANT) no tenant given", "28000"));
    let hint = report.hint.unwrap();
    for way in ["app@TENANT", "-c tenant=TENANT", "TENANT.db.example.com", "TENANT/MODULE"] {
        assert!(hint.contains(way), "{hint}");
    }
}

#[tokio::test]
async fn a_dotted_name_does_not_tell_whether_its_tenant_exists() {
    let table = table(&["acme", "main"]);
    for config in [all_on(), with_default(DefaultTenantPhase::Allow), with_default(DefaultTenantPhase::Refuse)] {
        assert!(user(&table, &config, "nobody.ghost").await.starts_with("unknown: "));
        assert!(user(&table, &config, "nobody.acme").await.starts_with("unknown: "));
    }
}

#[tokio::test]
async fn those_who_name_none_are_the_default_tenants_in_its_phase() {
    let table = table(&["main", "acme"]);
    for phase in [DefaultTenantPhase::Allow, DefaultTenantPhase::Warn] {
        let Identified::Known(claim) = run(&table, &with_default(phase), None, &[("user", "app")]).await.unwrap()
        else {
            panic!("the default tenant is known");
        };
        assert_eq!((claim.tenant.slug.as_str(), claim.by_default), ("main", Some(phase)));
        assert_eq!(claim.request.source, Source::Default);
        let Identified::Known(claim) = run(&table, &with_default(phase), None, &[("user", "app@acme")]).await.unwrap()
        else {
            panic!("acme is known");
        };
        assert_eq!(claim.by_default, None);
    }
    let refused = user(&table, &with_default(DefaultTenantPhase::Refuse), "app").await;
    assert_eq!(refused, "(PT-NOTENANT) no tenant given");
}

#[tokio::test]
async fn a_tenant_with_the_slug_of_a_default_tenants_login_captures_nobody() {
    let mut main = tenant("main", &["finance"]);
    main.logins.push(login("main", "john.doe"));
    let mut doe = tenant("doe", &["finance"]);
    doe.logins.push(login("doe", "john"));
    let tenants = vec![Arc::new(main), Arc::new(doe), Arc::new(tenant("app", &["finance"]))];
    let table = Table { tenants, ..Table::default() };
    let config = with_default(DefaultTenantPhase::Allow);
    assert_eq!(user(&table, &config, "john.doe").await, "main/john.doe/");
    assert_eq!(user(&table, &config, "app").await, "main/app/");
    assert_eq!(user(&table, &config, "app.doe").await, "doe/app/", "no login of the default tenant's");
    let refusing = with_default(DefaultTenantPhase::Refuse);
    assert_eq!(user(&table, &refusing, "john.doe").await, "(PT-NOTENANT) no tenant given");
}

#[tokio::test]
async fn a_default_tenant_that_does_not_exist_lets_nobody_in() {
    let told = user(&table(&["acme"]), &with_default(DefaultTenantPhase::Allow), "app").await;
    assert_eq!(told, "unknown: unknown_default_tenant");
}

#[tokio::test]
async fn the_notice_for_the_default_tenant_says_how_to_name_one() {
    let notice = default_tenant_notice(&tenant("main", &[]), &with_default(DefaultTenantPhase::Warn));
    assert_eq!((notice.severity, notice.sqlstate.0), (Severity::Notice, "00000"));
    assert!(notice.hint.unwrap().contains("app@TENANT"));
}

#[tokio::test]
async fn with_the_registry_down_unknown_names_are_told_to_try_again_and_nobody_gets_the_default_tenant() {
    let table = Table { down: vec!["ghost", "john"], ..table(&["main"]) };
    let config = with_default(DefaultTenantPhase::Allow);
    for name in ["app@ghost", "app.ghost", "ghost", "app@john"] {
        let error = run(&table, &config, None, &[("user", name)]).await.unwrap_err();
        let report = error.report().unwrap();
        assert!(report.message.starts_with("(PT-UNAVAILABLE) "), "{name}: {}", report.message);
        assert_eq!(report.sqlstate.0, "57P03");
    }
    assert_eq!(
        user(&table, &config, "app").await,
        "main/app/",
        "the default tenant's own login needs no other look-up"
    );
}

#[tokio::test]
async fn with_the_registry_down_a_default_tenant_that_cannot_be_looked_up_gives_no_place_to_bare_names() {
    let table = Table { down: vec!["main"], ..table(&["main", "acme"]) };
    let told = user(&table, &with_default(DefaultTenantPhase::Allow), "acme").await;
    assert!(told.starts_with("(PT-UNAVAILABLE) "), "{told}");
}

#[tokio::test]
async fn with_the_registry_down_known_tenants_logins_with_at_signs_still_get_in() {
    let mut acme = tenant("acme", &["finance"]);
    acme.logins.push(login("acme", "alice@corp.com"));
    let table = Table { tenants: vec![Arc::new(acme)], down: vec!["corp.com@acme"], ..Table::default() };
    assert_eq!(user(&table, &all_on(), "alice@corp.com@acme").await, "acme/alice@corp.com/");
}

#[tokio::test]
async fn a_stranger_causes_a_bounded_number_of_look_ups() {
    let table = table(&["acme"]);
    let long = format!("app@{}", "a@.".repeat(3000));
    let _ = user(&table, &all_on(), &long).await;
    let _ = user(&table, &all_on(), &"a.".repeat(4000)).await;
    assert!(table.asked.lock().unwrap().values().sum::<u32>() < 20);
}

#[tokio::test]
async fn names_that_look_like_sql_are_just_unknown() {
    let table = table(&["acme"]);
    assert_eq!(user(&table, &all_on(), "app@acme' or '1'='1").await, "unknown: unknown_tenant");
    assert_eq!(user(&table, &all_on(), "app@ACME").await, "unknown: unknown_tenant", "no case folding");
}

#[tokio::test]
async fn what_goes_on_to_the_server_has_no_trace_of_the_tenants_name() {
    let table = table(&["acme"]);
    let parameters = [
        ("user", "app@acme"),
        ("database", "acme/finance"),
        ("tenant", "acme"),
        ("application_name", "x"),
        ("options", "-c pgtenant.tenant=acme -c statement_timeout=5s"),
    ];
    let Identified::Known(claim) = run(&table, &all_on(), None, &parameters).await.unwrap() else { panic!("known") };
    let Claim { request, login: row, .. } = Arc::unwrap_or_clone(claim);
    let Request { login, database, settings, user, .. } = request;
    assert_eq!((login.as_str(), database.as_str(), user.as_str()), ("app", "finance", "app@acme"));
    let names: Vec<_> = settings.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["application_name", "statement_timeout"]);
    assert_eq!(row.role, "acme_app");
}

#[tokio::test]
async fn the_salt_of_nobody_is_the_same_in_whichever_way_its_tenant_is_named() {
    let table = table(&["acme"]);
    let salt_name = async |server_name: Option<&str>, parameters: &[(&str, &str)]| match run(
        &table,
        &all_on(),
        server_name,
        parameters,
    )
    .await
    .unwrap()
    {
        Identified::Unknown(unknown) => unknown.salt_name,
        Identified::Known(_) => panic!("nobody is known here"),
    };
    for (user, tenant, alias) in [("app", "ghost", "ghost"), ("nobody", "acme", "krn:acme:prod")] {
        let direct = salt_name(None, &[("user", user), ("tenant", tenant)]).await;
        let at = format!("{user}@{alias}");
        let dotted = format!("{user}.{tenant}");
        let database = format!("{alias}/finance");
        let sni = format!("{tenant}.db.example.com");
        assert_eq!(salt_name(None, &[("user", &at)]).await, direct);
        assert_eq!(salt_name(None, &[("user", &dotted)]).await, direct);
        assert_eq!(salt_name(None, &[("user", user), ("database", &database)]).await, direct);
        assert_eq!(salt_name(Some(&sni), &[("user", user)]).await, direct);
        assert_ne!(salt_name(None, &[("user", "other"), ("tenant", tenant)]).await, direct);
    }
}

#[tokio::test]
async fn a_claim_can_be_made_on_any_thread() {
    let outcome = tokio::spawn(async { user(&table(&["acme"]), &all_on(), "app@acme").await });
    assert_eq!(outcome.await.unwrap(), "acme/app/");
}

proptest::proptest! {
    #[test]
    fn no_startup_message_makes_identification_panic(
        user in "[a-z@.\u{e9}/ ]{0,20}", database in "\\PC{0,20}", tenant in proptest::option::of(".{0,300}"),
        options in "[-c =a-z.\\\\@]{0,40}", server_name in proptest::option::of("[a-z.\u{e9}]{0,30}")
    ) {
        let mut parameters = vec![("user", user.as_str()), ("database", &database), ("options", &options)];
        parameters.extend(tenant.as_deref().map(|name| ("tenant", name)));
        let config = IdentifyConfig { default_tenant: Some("main".into()), ..all_on() };
        let table = table(&["acme", "main"]);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _ = runtime.block_on(run(&table, &config, server_name.as_deref(), &parameters));
    }
}
