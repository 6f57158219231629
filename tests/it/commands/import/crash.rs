//! Imports and rollbacks killed at every point: the next run finishes them, with nothing doubled or lost.

use std::os::unix::process::ExitStatusExt as _;

use super::old::{Old, command, id, imports};
use crate::commands::site::Site;

/// Runs a command that kills itself at its `point`-th point, if it comes that far; where it was killed.
fn killed(site: &Site, arguments: &[&str], point: usize) -> Option<String> {
    let output = site.command(arguments).env("PGTENANT_FAULT", point.to_string()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.signal() == Some(9) {
        assert!(said.contains(&format!("fault point {point}:")), "{said}");
        return Some(said);
    }
    assert!(output.status.success(), "{arguments:?} at {point}: {said}");
    None
}

/// A site whose registry knows one of three tenants, in part, and two sources.
async fn prepared() -> (Site, Old, Old) {
    let site = Site::new("impcrash").await;
    let (ops, fin) = (Old::new(&site, "ops").await, Old::new(&site, "fin").await);
    for (n, word) in (1..).zip(["acme", "beta", "gamma"]) {
        ops.tenant(&id(n), &site.slug(word), word, &format!("t_{word}")).await;
    }
    fin.tenant(&id(2), &site.slug("b"), "Beta", "f_beta").await;
    site.ok(&command("import", &[&ops], &[]));
    ops.tenant(&id(4), &site.slug("delta"), "delta", "t_delta").await;
    (site, ops, fin)
}

#[tokio::test]
async fn an_import_that_is_killed_anywhere_is_made_once_by_the_next_run() {
    let (site, ops, fin) = prepared().await;
    let before = site.ok(&["registry", "export"]);
    let import = command("import", &[&ops, &fin], &["--prefer", "source"]);
    site.ok(&import);
    let after = site.ok(&["registry", "export"]);
    assert_ne!(after, before);
    site.ok(&["registry", "rollback"]);
    assert_eq!(site.ok(&["registry", "export"]), before);
    let mut there = imports(&site).await;
    for point in 1.. {
        let at = killed(&site, &import, point);
        let met = site.ok(&["registry", "export"]);
        assert!(met == before || met == after, "half an import: {at:?}\n{met}");
        site.ok(&import);
        assert_eq!(site.ok(&["registry", "export"]), after, "{at:?}");
        there += 1;
        assert_eq!(imports(&site).await, there, "one import each: {at:?}");
        site.ok(&["registry", "rollback"]);
        assert_eq!(site.ok(&["registry", "export"]), before, "{at:?}");
        if at.is_none() {
            assert!(point > 5, "only {point} points");
            break;
        }
    }
}

#[tokio::test]
async fn a_rollback_that_is_killed_anywhere_is_finished_by_the_next_run_and_undoes_no_other_import() {
    let (site, ops, fin) = prepared().await;
    let before = site.ok(&["registry", "export"]);
    let import = command("import", &[&ops, &fin], &["--prefer", "source"]);
    for point in 1.. {
        site.ok(&import);
        let after = site.ok(&["registry", "export"]);
        let at = killed(&site, &["registry", "rollback"], point);
        let met = site.ok(&["registry", "export"]);
        assert!(met == before || met == after, "half a rollback: {at:?}\n{met}");
        site.ok(&["registry", "rollback"]);
        assert_eq!(site.ok(&["registry", "export"]), before, "{at:?}");
        if at.is_none() {
            assert!(point > 5, "only {point} points");
            break;
        }
    }
    let first = "SELECT count(*) FROM pgtenant.imports WHERE rolled_back_at IS NULL";
    assert_eq!(site.count(first).await, 1, "the first import stands");
}
