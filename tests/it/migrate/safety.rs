//! Runs that are killed, that meet, and that others are in the way of; files that are not what they were.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::fleet::{Fleet, result, results, until_waiting};

/// A file that waits for the test, inside its transaction.
const WAITS: &str = "INSERT INTO items VALUES (2); SELECT pg_advisory_xact_lock(77)";

/// Two tenants with a table, and that file to come.
async fn waiting(prefix: &str) -> Fleet {
    let mut fleet = Fleet::new(prefix, &[]).await;
    fleet.file("1_items.sql", "CREATE TABLE items (n int)");
    fleet.add("a");
    fleet.add("b");
    fleet.file("2_waits.sql", WAITS);
    fleet.file("3_more.sql", "CREATE TABLE more (n int)");
    fleet
}

#[tokio::test]
async fn a_killed_run_is_finished_by_the_next_with_nothing_doubled() {
    let fleet = waiting("kill9").await;
    let holder = fleet.database(0).await;
    holder.batch_execute("SELECT pg_advisory_lock(77)").await.unwrap();
    let mut run = fleet.begin(&["--lock-timeout", "1m"]);
    until_waiting(&holder, 2).await;
    run.kill().unwrap();
    run.wait().unwrap();
    holder.batch_execute("SELECT pg_advisory_unlock(77)").await.unwrap();
    assert_eq!(fleet.migrated(&[]), [result("applied", 2, 3), result("applied", 2, 3)]);
    for tenant in 0..2 {
        assert_eq!(fleet.number(tenant, "SELECT count(*) FROM {}.items").await, 1);
    }
}

/// A run is killed at each point at which others can see what it did, each time with a new tenant, until one comes through.
#[tokio::test]
async fn a_run_may_be_killed_at_any_point() {
    let mut fleet = Fleet::new("points", &[]).await;
    fleet.file("1_items.sql", "CREATE TABLE items (n int)");
    let rows = ["INSERT INTO items VALUES (1)", "INSERT INTO items VALUES (2)", "INSERT INTO items VALUES (3)"];
    let index = "CREATE INDEX CONCURRENTLY items_n ON items (n)";
    let alone = format!("-- pgtenant: no-transaction\n{}; {index}; {}", rows[1], rows[2]);
    for point in 1.. {
        for file in ["2_rows.sql", "3_alone.sql"].iter().filter(|_| point > 1) {
            fleet.remove(file);
        }
        let slug = format!("t{point}");
        fleet.add(&slug);
        fleet.file("2_rows.sql", rows[0]);
        fleet.file("3_alone.sql", &alone);
        let mut command = fleet.site.command(&["migrate", "--tenant", &fleet.site.slug(&slug)]);
        command.env("PGTENANT_FAULT", point.to_string()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.status().unwrap();
        if status.success() {
            assert!(point > 10, "{point}");
            break;
        }
        assert_eq!(status.code(), None, "killed, not failed, at {point}");
    }
    assert!(fleet.migrated(&[]).iter().all(|(_, _, version)| *version == Some(3)));
    for tenant in 0..fleet.tenants.len() {
        assert_eq!(fleet.number(tenant, "SELECT sum(n) * 10 + count(*) FROM {}.items").await, 63, "{tenant}");
        let index = "SELECT count(*) FROM pg_index WHERE indrelid = '{}.items'::regclass AND indisvalid";
        assert_eq!(fleet.number(tenant, index).await, 1, "{tenant}");
    }
}

#[tokio::test]
async fn two_runs_at_once_apply_each_file_once() {
    let fleet = waiting("twice").await;
    let holder = fleet.database(0).await;
    holder.batch_execute("SELECT pg_advisory_lock(77)").await.unwrap();
    let runs = [fleet.begin(&["--lock-timeout", "1m"]), fleet.begin(&["--lock-timeout", "1m"])];
    // Two are in their files, two wait for the turn at the places.
    until_waiting(&holder, 4).await;
    holder.batch_execute("SELECT pg_advisory_unlock(77)").await.unwrap();
    let mut applied = 0;
    for run in runs {
        let output = run.wait_with_output().unwrap();
        assert!(output.status.success());
        let places: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
        applied += results(&places).iter().map(|(_, applied, _)| applied).sum::<i64>();
    }
    assert_eq!(applied, 4);
    for tenant in 0..2 {
        assert_eq!(fleet.number(tenant, "SELECT count(*) FROM {}.items").await, 1);
        assert_eq!(
            fleet.number(tenant, "SELECT count(*) FROM pgtenant.schema_versions WHERE schema_name = '{}'").await,
            3
        );
    }
}

#[tokio::test]
async fn a_run_that_is_interrupted_ends_after_what_it_has_begun() {
    let fleet = waiting("interrupt").await;
    let holder = fleet.database(0).await;
    holder.batch_execute("SELECT pg_advisory_lock(77)").await.unwrap();
    let mut run = fleet.begin(&["--jobs", "1", "--lock-timeout", "1m"]);
    until_waiting(&holder, 1).await;
    kill(Pid::from_raw(i32::try_from(run.id()).unwrap()), Signal::SIGINT).unwrap();
    let mut said = BufReader::new(run.stderr.take().unwrap()).lines();
    assert!(said.next().unwrap().unwrap().contains("Ending after"));
    holder.batch_execute("SELECT pg_advisory_unlock(77)").await.unwrap();
    let rest: Vec<String> = said.map(Result::unwrap).collect();
    assert!(rest.last().unwrap().contains("0 of 2 places failed, 1 were not tried"), "{rest:?}");
    assert_eq!(run.wait().unwrap().code(), Some(1));
    assert_eq!(fleet.migrated(&[]), [result("current", 0, 3), result("applied", 2, 3)]);
}

/// Building an index waits for the end of every older snapshot, and whoever waits for a turn holds one.
#[tokio::test]
async fn who_waits_for_the_turn_does_not_keep_an_index_from_being_built() {
    let mut fleet = Fleet::with("snapshots", &["--isolation", "shared"], &[]).await;
    fleet.file("1_items.sql", "CREATE TABLE items (tenant_id uuid NOT NULL, n int)");
    fleet.add("a");
    fleet.file("2_index.sql", "-- pgtenant: no-transaction\nCREATE INDEX CONCURRENTLY items_n ON items (n)");
    let (watch, mut holder) = (fleet.database(0).await, fleet.database(0).await);
    let transaction = holder.transaction().await.unwrap();
    transaction.batch_execute(&format!("LOCK TABLE {}.items IN ROW EXCLUSIVE MODE", fleet.schema(0))).await.unwrap();
    let run = fleet.begin(&["--attempts", "1"]);
    until_waiting(&watch, 1).await;
    let b = fleet.site.slug("b");
    let mut create = fleet.site.command(&["tenant", "create", &b, "--name", "B", "--modules", &fleet.module, "--json"]);
    let create = create.stdout(Stdio::piped()).spawn().unwrap();
    until_waiting(&watch, 2).await;
    transaction.commit().await.unwrap();
    assert!(run.wait_with_output().unwrap().status.success());
    assert!(create.wait_with_output().unwrap().status.success());
    assert_eq!(fleet.migrated(&[]), [result("current", 0, 2), result("current", 0, 2)]);
}

#[tokio::test]
async fn a_file_gives_way_to_locks_and_is_tried_again() {
    let mut fleet = Fleet::new("locks", &[]).await;
    fleet.file("1_items.sql", "CREATE TABLE items (n int)");
    fleet.add("a");
    fleet.add("b");
    fleet.file("2_column.sql", "INSERT INTO items VALUES (1); ALTER TABLE items ADD COLUMN note text");
    let mut holder = fleet.database(0).await;
    let read = format!("SELECT * FROM {}.items", fleet.schema(0));
    let transaction = holder.transaction().await.unwrap();
    transaction.batch_execute(&read).await.unwrap();
    let (code, places) = fleet.migrate(&["--lock-timeout", "50ms", "--attempts", "2"]);
    assert_eq!((code, results(&places)), (Some(1), vec![result("failed", 0, 1), result("applied", 1, 2)]));
    assert!(places[0]["error"].as_str().unwrap().contains("lock timeout"), "{places:?}");
    let run = fleet.begin(&["--lock-timeout", "50ms", "--attempts", "1000"]);
    until_waiting(&fleet.database(0).await, 1).await;
    transaction.commit().await.unwrap();
    assert!(run.wait_with_output().unwrap().status.success());
    assert_eq!(fleet.number(0, "SELECT count(*) FROM {}.items").await, 1);
}

#[tokio::test]
async fn a_place_that_has_drifted_is_left_alone() {
    let mut fleet = Fleet::new("drift", &[]).await;
    fleet.file("1_items.sql", "CREATE TABLE items (n int)");
    fleet.file("3_more.sql", "CREATE TABLE more (n int)");
    fleet.add("a");
    let failed = |arguments: &[&str], said: &str| {
        let (code, places) = fleet.migrate(arguments);
        assert_eq!((code, results(&places)), (Some(1), vec![result("failed", 0, 3)]));
        let error = places[0]["error"].as_str().unwrap();
        assert!(error.contains(said), "{error}");
    };
    fleet.file("4_most.sql", "CREATE TABLE most (n int)");
    fleet.file("1_items.sql", "CREATE TABLE items (n bigint)");
    failed(&[], "1_items.sql was changed");
    assert_eq!(fleet.migrate(&["baseline", "1", "--module", &fleet.module, "--all"]).0, Some(0));
    fleet.remove("3_more.sql");
    failed(&[], "3_more.sql has been applied");
    fleet.file("3_more.sql", "CREATE TABLE more (n int)");
    fleet.file("2_late.sql", "CREATE TABLE late (n int)");
    failed(&[], "2_late.sql has not been applied");
    assert_eq!(fleet.migrated(&["--any-order"]), [result("applied", 2, 4)]);
    assert_eq!(fleet.migrated(&[]), [result("current", 0, 4)]);
}

#[tokio::test]
async fn a_file_that_makes_no_sense_is_refused_before_anything_runs() {
    let fleet = Fleet::new("sense", &["a"]).await;
    fleet.file("1_items.sql", "CREATE TABLE items (n int)");
    for (text, said) in [
        ("CREATE TABLE x (n int); COMMIT", "COMMIT"),
        ("SELECT 'x", "no end"),
        ("SELECT 1;\nSELECT nonsense", "2_bad.sql:2"),
        ("-- pgtenant: no-transactions\nSELECT 1", "no-transaction"),
    ] {
        fleet.file("2_bad.sql", text);
        let (code, places) = fleet.migrate(&[]);
        assert_eq!((code, places[0]["status"].as_str()), (Some(1), Some("failed")), "{text}");
        let error = places[0]["error"].as_str().unwrap();
        assert!(error.contains("2_bad.sql") && error.contains(said), "{error}");
    }
}
