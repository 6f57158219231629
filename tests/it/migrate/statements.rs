//! Files that run statement by statement, without a transaction of their own.

use super::fleet::{Fleet, result, results, until_waiting};

const ITEMS: &str = "CREATE TABLE items (n int); INSERT INTO items VALUES (1), (2)";
const VALID: &str = "SELECT count(*) FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid \
                     WHERE c.relnamespace = '{}'::regnamespace AND c.relname LIKE 'items_n%' AND x.indisvalid";
const INVALID: &str = "SELECT count(*) FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid \
                       WHERE c.relnamespace = '{}'::regnamespace AND NOT x.indisvalid";

#[tokio::test]
async fn what_no_transaction_can_hold_runs_where_the_file_says_so() {
    let fleet = Fleet::new("alone", &["a"]).await;
    fleet.file("1_items.sql", ITEMS);
    fleet.file("2_index.sql", "CREATE INDEX CONCURRENTLY items_n ON items (n)");
    let (code, places) = fleet.migrate(&[]);
    assert_eq!((code, results(&places)), (Some(1), vec![result("failed", 1, 1)]));
    assert!(places[0]["error"].as_str().unwrap().contains("transaction block"));
    fleet.file(
        "2_index.sql",
        "-- About the index.\n-- pgtenant: no-transaction\nCREATE INDEX CONCURRENTLY items_n ON {schema}.items (n);\n\
         VACUUM items; CREATE PROCEDURE walk() LANGUAGE plpgsql AS $$ BEGIN UPDATE items SET n = n + 1; COMMIT; END $$; CALL walk();",
    );
    assert_eq!(fleet.migrated(&[]), [result("applied", 1, 2)]);
    assert_eq!(fleet.number(0, VALID).await, 1);
    assert_eq!(fleet.number(0, "SELECT sum(n) FROM {}.items").await, 5);
    assert_eq!(fleet.number(0, "SELECT count(*) FROM pgtenant.statements_done").await, 0);
}

#[tokio::test]
async fn a_file_that_failed_half_way_goes_on_with_the_statement_that_failed() {
    let fleet = Fleet::new("halfway", &["a"]).await;
    fleet.file("1_items.sql", ITEMS);
    let head = "-- pgtenant: no-transaction\nSET lock_timeout = '7s';\nUPDATE items SET n = n + 10;\n";
    let broken = format!("{head}CREATE UNIQUE INDEX CONCURRENTLY items_n ON items ((n > 0));\nSELECT 1");
    fleet.file("2_index.sql", &broken);
    let (code, places) = fleet.migrate(&[]);
    assert_eq!((code, results(&places)), (Some(1), vec![result("failed", 1, 1)]));
    assert!(places[0]["error"].as_str().unwrap().contains("2_index.sql"), "{places:?}");
    assert_eq!(fleet.number(0, INVALID).await, 1, "PostgreSQL leaves what it could not finish");
    // What has been run must stay as it is.
    fleet.file("2_index.sql", &broken.replace("+ 10", "+ 20"));
    let (_, places) = fleet.migrate(&[]);
    assert!(places[0]["error"].as_str().unwrap().contains("2 have been run"), "{places:?}");
    // What has not may be mended; an earlier setting holds again; what is left of the index is cleared away.
    let mended = "CREATE UNIQUE INDEX CONCURRENTLY items_n ON items (n);\n\
                  INSERT INTO items SELECT 100 WHERE current_setting('lock_timeout') = '7s'";
    fleet.file("2_index.sql", &format!("{head}{mended}"));
    assert_eq!(fleet.migrated(&[]), [result("applied", 1, 2)]);
    assert_eq!((fleet.number(0, VALID).await, fleet.number(0, INVALID).await), (1, 0));
    assert_eq!(fleet.number(0, "SELECT sum(n) FROM {}.items").await, 123, "the update ran once");
}

/// `CREATE INDEX CONCURRENTLY` waits for older transactions: while it does, the run is killed, its server process with it or after it.
#[tokio::test]
async fn an_index_that_a_killed_run_was_building_is_built_by_the_next() {
    let fleet = Fleet::new("building", &["a"]).await;
    fleet.file("1_items.sql", ITEMS);
    fleet.migrated(&[]);
    fleet.file(
        "2_index.sql",
        "-- pgtenant: no-transaction\nUPDATE items SET n = n + 1;\nCREATE INDEX CONCURRENTLY items_n ON items (n)",
    );
    let old = fleet.database(0).await;
    let mut holder = fleet.database(0).await;
    for ends_by_itself in [false, true] {
        let transaction = holder.transaction().await.unwrap();
        transaction
            .batch_execute(&format!("LOCK TABLE {}.items IN ROW EXCLUSIVE MODE", fleet.schema(0)))
            .await
            .unwrap();
        let mut run = fleet.begin(&[]);
        until_waiting(&old, 1).await;
        run.kill().unwrap();
        run.wait().unwrap();
        if !ends_by_itself {
            let terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                             WHERE datname = current_database() AND query LIKE 'CREATE INDEX%'";
            old.query_one(terminate, &[]).await.unwrap();
        }
        transaction.rollback().await.unwrap();
    }
    // The server finishes the second index although nobody waits for it: the next run finds it done, or in its way until it is.
    assert_eq!(fleet.migrated(&[]), [result("applied", 1, 2)]);
    assert_eq!((fleet.number(0, VALID).await, fleet.number(0, INVALID).await), (1, 0));
    assert_eq!(fleet.number(0, "SELECT sum(n) FROM {}.items").await, 5);
}
