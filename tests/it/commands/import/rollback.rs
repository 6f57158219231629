//! One import taken back, and nothing else.

use serde_json::{Value, json};

use super::old::{Old, command, id, imports, refused};
use crate::commands::site::Site;

#[tokio::test]
async fn a_rollback_undoes_one_import_and_leaves_the_rest() {
    let site = Site::new("undo").await;
    let (ops, fin) = (Old::new(&site, "ops").await, Old::new(&site, "fin").await);
    let (acme, beta) = (site.slug("acme"), site.slug("beta"));
    site.ok(&["tenant", "create", &beta, "--name", "Beta"]);
    let beta_id = site.json(&["tenant", "show", &beta])["tenant_id"].as_str().unwrap().to_owned();
    let start = site.ok(&["registry", "export"]);
    ops.tenant(&id(1), &acme, "Acme", "t_acme").await;
    fin.tenant(&id(1), &acme, "Acme", "f_acme").await;
    fin.tenant(&beta_id, &site.slug("b"), "Beta Ltd", "f_beta").await;
    site.ok(&command("import", &[&ops], &[]));
    let first = site.ok(&["registry", "export"]);
    site.ok(&command("import", &[&fin], &["--prefer", "source"]));
    let second = site.ok(&["registry", "export"]);
    assert!(second.contains("Beta Ltd") && second.contains(&site.slug("b")));
    // The first cannot go while the second stands on it.
    let stopped = refused(&site, &["registry", "rollback", "1"]);
    let detail = format!("module {} was added", fin.module);
    assert_eq!(stopped["obstacles"], json!([{"what": acme, "detail": detail}]));
    assert_eq!(site.ok(&["registry", "export"]), second);
    // The last one is meant where none is named; again, it is not the one before.
    let undone = site.json(&["registry", "rollback"]);
    assert_eq!((&undone["import"], &undone["restored"]["tenants"]), (&json!(2), &json!([beta, acme])));
    assert_eq!(site.ok(&["registry", "export"]), first);
    let again = site.json(&["registry", "rollback"]);
    assert_eq!((&again["import"], &again["already"]), (&json!(2), &json!(true)));
    assert_eq!(site.ok(&["registry", "export"]), first);
    let undone = site.json(&["registry", "rollback", "1"]);
    assert_eq!(undone["removed"]["tenants"], json!([acme]));
    assert_eq!(site.ok(&["registry", "export"]), start);
    assert!(site.fails(1, &["registry", "rollback", "9"]).contains("no import 9"));
    // What was taken back can be imported again.
    assert_eq!(site.json(&command("import", &[&ops], &[]))["import"], json!(3));
    assert_eq!(site.ok(&["registry", "export"]), first);
}

#[tokio::test]
async fn later_changes_stand_against_a_rollback_until_they_are_undone() {
    let site = Site::new("later").await;
    let ops = Old::new(&site, "ops").await;
    let (acme, beta) = (site.slug("acme"), site.slug("beta"));
    assert_eq!(site.json(&["registry", "rollback"])["import"], Value::Null);
    ops.tenant(&id(1), &acme, "Acme", "t_acme").await;
    ops.tenant(&id(2), &beta, "Beta", "t_beta").await;
    site.ok(&command("import", &[&ops], &[]));
    site.ok(&["tenant", "login", "add", &acme, "app"]);
    site.ok(&["tenant", "suspend", &beta]);
    let stopped = refused(&site, &["registry", "rollback"]);
    let mut details: Vec<_> =
        stopped["obstacles"].as_array().unwrap().iter().map(|o| o["detail"].as_str().unwrap()).collect();
    details.sort_unstable();
    assert_eq!(details, ["login app was added", "status was \"active\" and is \"suspended\""]);
    let output = site.run(&["registry", "rollback"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("login app was added"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("2 later changes"));
    site.ok(&["tenant", "activate", &beta]);
    site.ok(&["tenant", "login", "remove", &acme, "app"]);
    site.ok(&["registry", "rollback"]);
    assert_eq!(site.count("SELECT count(*) FROM pgtenant.tenants").await, 0);
    let roles = format!("SELECT count(*) FROM pg_roles WHERE rolname LIKE '{acme}%'");
    assert_eq!(site.count(&roles).await, 0, "no role is left on the server");
}

#[tokio::test]
async fn what_was_deleted_and_imported_again_is_the_later_imports() {
    let site = Site::new("anew").await;
    let ops = Old::new(&site, "ops").await;
    let (acme, beta) = (site.slug("acme"), site.slug("beta"));
    ops.tenant(&id(1), &acme, "Acme", "t_acme").await;
    ops.tenant(&id(2), &beta, "Beta", "t_beta").await;
    site.ok(&command("import", &[&ops], &[]));
    site.ok(&["tenant", "delete", &acme, "--drop-data"]);
    site.ok(&command("import", &[&ops], &[]));
    assert_eq!(imports(&site).await, 2);
    assert_eq!(site.json(&["registry", "rollback", "1"])["removed"]["tenants"], json!([beta]));
    site.ok(&["tenant", "show", &acme]);
    site.ok(&["registry", "rollback", "2"]);
    site.fails(1, &["tenant", "show", &acme]);
}
