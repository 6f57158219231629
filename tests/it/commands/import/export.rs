//! The whole registry as a file, and back.

use std::os::unix::fs::PermissionsExt as _;

use pgtenant::registry::Admin;
use serde_json::{Value, json};

use super::old::{Old, command, id, kinds, refused};
use crate::commands::site::Site;
use crate::support;

/// A registry with servers, modules and tenants of every kind.
async fn furnished() -> Site {
    let site = Site::new("export").await;
    site.ok(&["server", "add", "far", "--host", "far.example.com", "--sslmode", "require", "--max-connections", "9"]);
    let ops = Old::new(&site, "ops").await;
    let erp =
        site.module("erp", &["--isolation", "database", "--pool-mode", "session", "--alias", &site.slug("old_erp")]);
    let shop = site.module("shop", &["--isolation", "shared", "--database", &site.slug("shop"), "--pooling", "shared"]);
    ops.tenant(&id(1), &site.slug("acme"), "Acme \"Corp\" é", "T Acme").await;
    site.ok(&command("import", &[&ops], &[]));
    site.ok(&["tenant", "login", "add", &site.slug("acme"), "app"]);
    let modules = format!("{erp},{shop}");
    let beta = site.slug("beta");
    let create = [
        "tenant",
        "create",
        &beta,
        "--name",
        "Beta",
        "--alias",
        "krn:b:client:1",
        "--alias",
        "b 2",
        "--modules",
        &modules,
    ];
    site.ok(&[&create[..], &["--contact", "b@example.com"]].concat());
    site.ok(&["tenant", "create", &site.slug("none"), "--name", "None"]);
    site.ok(&["tenant", "suspend", &beta]);
    site
}

#[tokio::test]
async fn an_export_imported_elsewhere_is_the_same_registry() {
    let site = furnished().await;
    let file = site.files.path().join("registry.toml");
    let path = file.to_str().unwrap();
    let said = site.json(&["registry", "export", path]);
    assert_eq!(said, json!({"file": path, "servers": 2, "modules": 3, "tenants": 3}));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(site.ok(&["registry", "export"]), text);
    assert!(!text.contains("hush") && text.contains("SCRAM-SHA-256$"));
    assert_eq!(site.json(&["registry", "export"])["tenant"].as_array().unwrap().len(), 3);
    // It is a file registry as it stands,
    assert_eq!(site.ok(&["--registry", path, "registry", "export"]), text);
    // and another database's registry once it is imported there.
    let other = support::database("export_other").await;
    Admin::connect(&other.url).await.unwrap().init().await.unwrap();
    let import = ["--registry", &other.url, "registry", "import", "--file", path];
    let imported = site.json(&import);
    assert_eq!((&imported["import"], &imported["created"]["servers"]), (&json!(1), &json!(["far", "main"])));
    assert_eq!(site.ok(&["--registry", &other.url, "registry", "export"]), text);
    let again = site.json(&import);
    assert_eq!((&again["import"], &again["unchanged"]), (&Value::Null, &json!(3)));
    let undone = site.json(&["--registry", &other.url, "registry", "rollback"]);
    assert_eq!(undone["removed"]["modules"].as_array().unwrap().len(), 3);
    assert_eq!(site.ok(&["--registry", &other.url, "registry", "export"]), "");
}

#[tokio::test]
async fn a_file_that_differs_is_a_conflict_until_it_is_said_whose_word_counts() {
    let site = furnished().await;
    let file = site.files.path().join("registry.toml");
    let path = file.to_str().unwrap();
    site.ok(&["registry", "export", path]);
    let before = std::fs::read_to_string(&file).unwrap();
    let beta = site.slug("beta");
    site.ok(&["server", "add", "far", "--host", "farther.example.com"]);
    site.ok(&["tenant", "alias", "remove", &beta, "b 2"]);
    site.ok(&["tenant", "alias", "add", &beta, "b 3"]);
    site.ok(&["tenant", "activate", &beta]);
    let now = site.ok(&["registry", "export"]);
    let import = ["registry", "import", "--file", path];
    let found = refused(&site, &import);
    let expected = [("-".to_owned(), "differs".to_owned()), (beta.clone(), "differs".to_owned())];
    assert_eq!(kinds(&found), expected);
    assert!(found.to_string().contains("alias b 2 was added"), "{found:#}");
    site.ok(&[&import[..], &["--prefer", "registry"]].concat());
    assert_eq!(site.ok(&["registry", "export"]), now);
    let changed = site.json(&[&import[..], &["--prefer", "source"]].concat());
    assert_eq!((&changed["changed"]["servers"], &changed["changed"]["tenants"]), (&json!(["far"]), &json!([beta])));
    assert_eq!(site.ok(&["registry", "export"]), before);
    // A module that others use by now is not taken away.
    site.ok(&["registry", "rollback"]);
    assert_eq!(site.ok(&["registry", "export"]), now);
    std::fs::write(&file, before.replace("SCRAM-SHA-256$", "md5")).unwrap();
    assert!(site.fails(1, &import).contains("verifier"));
}

#[tokio::test]
async fn a_servers_or_modules_import_stays_while_others_use_it() {
    let site = furnished().await;
    let file = site.files.path().join("registry.toml");
    let text = site.ok(&["registry", "export"]);
    let more = "\n[[server]]\nname = \"extra\"\nhost = \"x\"\n\n[[module]]\nname = \"more\"\nisolation = \"schema\"\nserver = \"extra\"\ndatabase = \"m\"\n";
    // Tables of a kind may stand anywhere in a file.
    std::fs::write(&file, text.clone() + more).unwrap();
    site.ok(&["registry", "import", "--file", file.to_str().unwrap()]);
    site.ok(&["module", "add", "user", "--isolation", "schema", "--server", "extra", "--database", "u"]);
    let stopped = refused(&site, &["registry", "rollback"]);
    assert_eq!(stopped["obstacles"][0]["what"], "server extra");
    site.ok(&["module", "remove", "user"]);
    assert_eq!(site.json(&["registry", "rollback"])["removed"]["modules"], json!(["more"]));
    assert_eq!(site.ok(&["registry", "export"]), text);
}
