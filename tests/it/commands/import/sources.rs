//! Old registries that are not as they should be, and verification against them.

use serde_json::json;

use super::old::{Old, command, id, kinds, refused};
use crate::commands::site::Site;

#[tokio::test]
async fn a_table_with_few_columns_is_enough() {
    let site = Site::new("few").await;
    let ops = Old::bare(&site, "ops").await;
    let (acme, beta) = (site.slug("acme"), site.slug("beta"));
    for schema in ["t_acme", "t_beta"] {
        ops.schema(schema).await;
    }
    // No ids, no names, no states, no lists; a view over a table of the service's own; types of the service's own.
    ops.run(&format!(
        "CREATE DOMAIN public.short AS varchar(60); CREATE TABLE public.customers (code public.short, place name, extra json); \
         INSERT INTO public.customers VALUES ('{acme}', 't_acme', '{{}}'), ('{beta}', NULL, NULL); \
         CREATE VIEW public.tenant_registry AS SELECT code AS tenant_slug, place AS schema_name, extra FROM public.customers"
    ))
    .await;
    let import = command("import", &[&ops], &[]);
    assert_eq!(site.json(&import)["created"]["tenants"], json!([acme, beta]));
    let shown = site.json(&["tenant", "show", &acme]);
    assert_eq!((&shown["name"], &shown["status"]), (&json!(acme), &json!("active")));
    assert_eq!(shown["modules"][0]["schema"], "t_acme");
    assert_eq!(site.json(&["tenant", "show", &beta])["modules"], json!([]), "NULL: it has no place here");
    assert_eq!(site.json(&import)["unchanged"], json!(2), "found again by their slugs");
}

#[tokio::test]
async fn without_any_column_for_schemas_the_modules_pattern_says() {
    let site = Site::new("pattern").await;
    let ops = Old::bare(&site, "ops").await;
    let acme = site.slug("acme");
    let schema = format!("{}_{acme}", ops.module);
    ops.schema(&schema).await;
    ops.run(&format!(
        "CREATE TABLE public.tenant_registry (tenant_id text, tenant_slug char(60)); \
         INSERT INTO public.tenant_registry VALUES ('{{{}}}', '{acme}')",
        id(1)
    ))
    .await;
    site.ok(&command("import", &[&ops], &[]));
    let shown = site.json(&["tenant", "show", &id(1)]);
    assert_eq!((&shown["slug"], &shown["modules"][0]["schema"]), (&json!(acme), &json!(schema)));
}

#[tokio::test]
async fn odd_rows_are_conflicts_and_say_which() {
    let site = Site::new("odd").await;
    let ops = Old::bare(&site, "ops").await;
    ops.schema("t_a").await;
    ops.run(&format!(
        "CREATE TABLE public.tenant_registry (tenant_id text, tenant_slug text, tenant_name text, schema_name text); \
         INSERT INTO public.tenant_registry VALUES ('{one}', 'odd-a', 'A', 't_a'), ('{one}', 'odd-a', 'A', 't_a'), \
             ('no uuid', 'odd-b', 'B', NULL), (NULL, NULL, 'C', NULL), ('{two}', NULL, 'D', NULL), \
             ('{three}', E'odd\\x01e', 'E', NULL), ('{four}', 'odd-f', repeat('x', 2000), NULL), (NULL, '{five}', 'G', NULL)",
        one = id(1),
        two = id(2),
        three = id(3),
        four = id(4),
        five = id(5)
    ))
    .await;
    let found = refused(&site, &command("import", &[&ops], &[]));
    let pair = |tenant: &str, kind: &str| (tenant.to_owned(), kind.to_owned());
    let mut expected = vec![
        pair("odd-a", "duplicate"),
        pair("odd-b", "id"),
        pair("C", "slug"),
        pair(&id(2), "slug"),
        pair("odd\\u{1}e", "slug"),
        pair("odd-f", "names-differ"),
        pair(&id(5), "slug"),
    ];
    expected.sort();
    assert_eq!(kinds(&found), expected, "{found:#}");
    let output = site.run(&command("import", &[&ops], &[]));
    assert!(!output.stdout.contains(&1), "no control characters on a terminal");
}

#[tokio::test]
async fn a_source_that_is_not_what_it_should_be_is_told_in_one_line() {
    let site = Site::new("wrong").await;
    let ops = Old::bare(&site, "ops").await;
    let import = command("import", &[&ops], &[]);
    assert!(site.fails(1, &import).contains("no table or view public.tenant_registry"));
    for (column, expected) in [
        ("tenant_id integer", "column tenant_id has type integer, not uuid or text"),
        ("tenant_slug jsonb", "column tenant_slug has type jsonb, not text"),
        ("tenant_slug text, is_active text", "column is_active has type text, not boolean"),
        ("tenant_slug text, modules_subscribed json", "column modules_subscribed has type json, not text[]"),
        ("tenant_slug text, modules_subscribed integer[]", "column modules_subscribed has type integer[], not text[]"),
        ("tenant_slug text, schema_name oid", "column schema_name has type oid, not text"),
        ("tenant_name text", "column tenant_slug is missing, and so is tenant_id"),
    ] {
        ops.run(&format!(
            "DROP TABLE IF EXISTS public.tenant_registry; CREATE TABLE public.tenant_registry ({column})"
        ))
        .await;
        let said = site.fails(1, &import);
        assert!(said.contains(expected), "{said}");
    }
    // A view that fails, and one that would write.
    ops.run(
        "DROP TABLE public.tenant_registry; CREATE TABLE public.seen (n int); \
         CREATE FUNCTION public.look() RETURNS text LANGUAGE sql AS 'INSERT INTO public.seen VALUES (1) RETURNING n::text'; \
         CREATE VIEW public.tenant_registry AS SELECT public.look() AS tenant_slug",
    )
    .await;
    let said = site.fails(1, &import);
    assert!(said.contains("read public.tenant_registry") && said.contains("read-only transaction"), "{said}");
    // What cannot be reached, is no URL, or is not known; no password is shown.
    let said =
        site.fails(1, &["registry", "import", "--source", "postgres://u:hush@127.0.0.1:1/d", "--module", "nothing"]);
    assert!(said.contains("pgtenant module add nothing") && !said.contains("hush"), "{said}");
    let module = ops.module.clone();
    for (url, expected) in [
        ("postgres://u:hush@127.0.0.1:1/d", "127.0.0.1:1"),
        ("postgres://u:hush@a,b/d", "one host"),
        ("postgres://hush@:::/", "no connection URL"),
        ("env:PGTENANT_NO_SUCH", "PGTENANT_NO_SUCH"),
    ] {
        let said = site.fails(1, &["registry", "import", "--source", url, "--module", &module]);
        assert!(said.contains(expected) && !said.contains("hush"), "{said}");
    }
    let twice = ["registry", "import", "--source", &ops.url, "--source", &ops.url, "--module", &module];
    assert_eq!(site.run(&twice).status.code(), Some(2));
    assert_eq!(site.run(&["registry", "import"]).status.code(), Some(2));
    let erp = site.module("erp", &["--isolation", "database"]);
    let said = site.fails(1, &["registry", "import", "--source", &ops.url, "--module", &erp]);
    assert!(said.contains("isolation database"), "{said}");
}

#[tokio::test]
async fn verification_finds_what_differs_and_what_is_not_there() {
    let site = Site::new("verify").await;
    let ops = Old::new(&site, "ops").await;
    let slug = |word: &str| site.slug(word);
    for (n, word) in (1..).zip(["same", "renamed", "moved", "gone", "extra"]) {
        ops.tenant(&id(n), &slug(word), word, &format!("t_{word}")).await;
    }
    let verify = command("verify", &[&ops], &[]);
    let before = refused(&site, &verify);
    assert_eq!(before["sources"][0]["source_tenants"], json!(5));
    assert_eq!(before["sources"][0]["registry_tenants"], json!(0));
    assert_eq!(before["findings"].as_array().unwrap().len(), 5);
    site.ok(&command("import", &[&ops], &[]));
    let well = site.json(&verify);
    assert_eq!(well["findings"], json!([]));
    let counts = &well["sources"][0];
    for key in ["source_tenants", "registry_tenants", "source_subscriptions", "registry_placements"] {
        assert_eq!(counts[key], json!(5), "{key}");
    }
    assert_eq!(site.json(&["registry", "verify"]), json!({"places": 5, "findings": []}));
    assert!(site.ok(&["registry", "verify"]).contains("nothing is missing"));
    ops.run(&format!(
        "UPDATE public.tenant_registry SET tenant_name = 'other', is_active = false WHERE tenant_slug = '{}'; \
         UPDATE public.tenant_registry SET \"{}_schema\" = 't_same' WHERE tenant_slug = '{}'; \
         DELETE FROM public.tenant_registry WHERE tenant_slug = '{}'; DROP SCHEMA t_gone CASCADE",
        slug("renamed"),
        ops.module,
        slug("moved"),
        slug("extra")
    ))
    .await;
    let found = refused(&site, &verify);
    let findings = found["findings"].as_array().unwrap();
    let mut all: Vec<_> = findings
        .iter()
        .map(|f| (f["tenant"].as_str().unwrap().to_owned(), f["what"].as_str().unwrap().to_owned()))
        .collect();
    all.sort();
    let pair = |word: &str, what: &str| (slug(word), what.to_owned());
    let expected = [
        pair("extra", "tenant"),
        pair("gone", "schema"),
        pair("moved", "place"),
        pair("renamed", "name"),
        pair("renamed", "status"),
    ];
    assert_eq!(all, expected, "{found:#}");
    let places = refused(&site, &["registry", "verify"]);
    assert_eq!(places["findings"].as_array().unwrap().len(), 1, "{places:#}");
    assert!(places["findings"][0]["problem"].as_str().unwrap().contains("t_gone"), "{places:#}");
}
