//! What keeps tenants from being imported, and the flags that resolve it.

use serde_json::{Value, json};

use super::old::{Old, command, id, imports, kinds, refused};
use crate::commands::site::Site;

fn pair(tenant: &str, kind: &str) -> (String, String) {
    (tenant.to_owned(), kind.to_owned())
}

#[tokio::test]
async fn conflicts_are_told_and_nothing_is_imported() {
    let site = Site::new("conflicts").await;
    let (ops, fin) = (Old::new(&site, "ops").await, Old::new(&site, "fin").await);
    let slug = |word: &str| site.slug(word);
    ops.tenant(&id(1), &slug("fine"), "Fine", "t_fine").await;
    ops.tenant(&id(2), &slug("twice"), "Twice", "t_twice").await;
    fin.tenant(&id(3), &slug("twice"), "Twice", "f_twice").await;
    ops.tenant(&id(4), &slug("named"), "One name", "t_named").await;
    fin.tenant(&id(4), &slug("named"), "Another", "f_named").await;
    ops.tenant(&id(5), &slug("slug_a"), "S", "t_slug").await;
    fin.tenant(&id(5), &slug("slug_b"), "S", "f_slug").await;
    ops.row(&id(6), &slug("nowhere"), "N", "t_nowhere").await;
    ops.tenant(&id(7), "Not A Slug", "B", "t_bad").await;
    ops.row(&id(8), &slug("thief"), "T", "t_fine").await;
    ops.row(&id(9), &slug("public"), "P", "public").await;
    let before = site.ok(&["registry", "export"]);
    let import = command("import", &[&ops, &fin], &[]);
    let found = refused(&site, &import);
    assert_eq!((&found["refused"], &found["import"]), (&json!(true), &Value::Null));
    let mut expected = vec![
        pair(&slug("twice"), "slug-taken"),
        pair(&slug("twice"), "slug-taken"),
        pair(&slug("named"), "names-differ"),
        pair(&slug("slug_a"), "slugs-differ"),
        pair(&slug("nowhere"), "schema-missing"),
        pair("Not A Slug", "slug"),
        pair(&slug("thief"), "place-taken"),
        pair(&slug("public"), "schema"),
    ];
    expected.sort();
    assert_eq!(kinds(&found), expected, "{found:#}");
    assert_eq!(site.ok(&["registry", "export"]), before);
    assert_eq!(imports(&site).await, 0);
    let output = site.run(&import);
    let (table, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(table.contains("names-differ") && table.contains("--same-slug-same-tenant"), "{table}");
    assert!(said.contains("8 conflicts; nothing was imported"), "{said}");

    let skipped = site.json(&command("import", &[&ops, &fin], &["--skip-conflicts"]));
    assert_eq!(skipped["created"]["tenants"], json!([slug("fine")]));
    assert_eq!(skipped["conflicts"].as_array().unwrap().len(), 8);
}

#[tokio::test]
async fn differing_names_slugs_and_states_are_resolved_by_whose_word_counts() {
    let site = Site::new("prefer").await;
    let (ops, fin) = (Old::new(&site, "ops").await, Old::new(&site, "fin").await);
    let (new, old) = (site.slug("new"), site.slug("old"));
    ops.tenant(&id(1), &new, "New Name", "t_one").await;
    fin.tenant(&id(1), &old, "Old Name", "f_one").await;
    fin.run("UPDATE public.tenant_registry SET is_active = false").await;
    let plain = refused(&site, &command("import", &[&ops, &fin], &[]));
    let all: Vec<_> = ["names-differ", "slugs-differ", "states-differ"].map(|kind| pair(&new, kind)).into();
    assert_eq!(kinds(&plain), all);
    site.ok(&command("import", &[&ops, &fin], &["--prefer", "registry"]));
    let shown = site.json(&["tenant", "show", &old]);
    assert_eq!((&shown["slug"], &shown["aliases"]), (&json!(new), &json!([old])), "the other slug still names it");
    assert_eq!((&shown["name"], &shown["status"]), (&json!("New Name"), &json!("active")));
    assert_eq!(shown["modules"].as_array().unwrap().len(), 2);
    // In the other order the registry's word stays, unless the sources' is preferred; its slug stays in any case.
    assert_eq!(kinds(&refused(&site, &command("import", &[&fin, &ops], &[]))), [pair(&old, "names-differ")]);
    let same = site.json(&command("import", &[&fin, &ops], &["--prefer", "registry"]));
    assert_eq!((&same["import"], &same["unchanged"]), (&Value::Null, &json!(1)));
    let changed = site.json(&command("import", &[&fin, &ops], &["--prefer", "source"]));
    assert_eq!(changed["changed"]["tenants"], json!([new]));
    assert_eq!(site.json(&["tenant", "show", &new])["name"], "Old Name");
}

#[tokio::test]
async fn tenants_with_ids_of_each_services_own_are_one_by_their_slug_where_that_is_said() {
    let site = Site::new("byslug").await;
    let (ops, fin) = (Old::new(&site, "ops").await, Old::new(&site, "fin").await);
    let acme = site.slug("acme");
    ops.tenant(&id(1), &acme, "Acme", "t_acme").await;
    fin.tenant(&id(2), &acme, "Acme", "f_acme").await;
    let import = command("import", &[&ops, &fin], &["--same-slug-same-tenant"]);
    assert_eq!(site.json(&import)["created"]["tenants"], json!([acme]));
    let shown = site.json(&["tenant", "show", &acme]);
    assert_eq!((&shown["tenant_id"], shown["modules"].as_array().unwrap().len()), (&json!(id(1)), 2));
    assert_eq!(site.json(&import)["import"], Value::Null, "and stays so");
}

#[tokio::test]
async fn a_module_that_the_tenant_has_elsewhere_or_a_role_that_is_anothers_is_no_ones_to_take() {
    let site = Site::new("taken").await;
    let ops = Old::new(&site, "ops").await;
    let (acme, beta, gamma) = (site.slug("acme"), site.slug("beta"), site.slug("gamma"));
    let made = site.json(&["tenant", "create", &acme, "--name", "Acme", "--modules", &ops.module]);
    ops.tenant(made["tenant_id"].as_str().unwrap(), &acme, "Acme", "t_acme").await;
    // Its place is another's, in this registry already.
    let taken = made["modules"][0]["schema"].as_str().unwrap();
    ops.row(&id(2), &beta, "Beta", taken).await;
    // And a name that is another's alias.
    site.ok(&["tenant", "alias", "add", &acme, &gamma]);
    ops.tenant(&id(3), &gamma, "Gamma", "t_gamma").await;
    let found = refused(&site, &command("import", &[&ops], &[]));
    let expected = [pair(&acme, "elsewhere"), pair(&beta, "place-taken"), pair(&gamma, "slug-taken")];
    assert_eq!(kinds(&found), expected, "{found:#}");
}

#[tokio::test]
async fn what_one_source_says_of_anothers_module_must_be_so_there() {
    let site = Site::new("subscribes").await;
    let (ops, fin) = (Old::new(&site, "ops").await, Old::new(&site, "fin").await);
    let acme = site.slug("acme");
    ops.tenant(&id(1), &acme, "Acme", "t_acme").await;
    let both = format!(
        "UPDATE public.tenant_registry SET modules_subscribed = ARRAY['{}', '{}', 'hrms']",
        ops.module, fin.module
    );
    ops.run(&both).await;
    let found = refused(&site, &command("import", &[&ops, &fin], &[]));
    assert_eq!(kinds(&found), [pair(&acme, "subscriptions-differ")]);
    let alone = site.json(&command("import", &[&ops], &[]));
    let remarks = alone["remarks"].as_array().unwrap();
    assert_eq!(remarks.len(), 2, "{remarks:?}");
    assert!(remarks.iter().any(|remark| remark.as_str().unwrap().contains("hrms")), "{remarks:?}");
    assert_eq!(site.json(&["tenant", "show", &acme])["modules"].as_array().unwrap().len(), 1);
}
