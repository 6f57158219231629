//! The checks of `verify isolation` on a pooler that protects nobody: each must see the leak that it is there for.

use std::net::SocketAddr;

use pgtenant::auth::Secret;
use pgtenant::tenant::{Isolation, PoolMode, Pooling};
use pgtenant::verify::{self, Finding, Ground, Outcome, Probe, Scene};

use crate::support::{Naive, database};

const TABLE: &str = "notes";

/// What each of the two has, as probes are furnished.
fn furniture(schema: &str, columns: &str) -> String {
    format!(
        "CREATE SCHEMA {schema}; SET search_path = {schema};
         CREATE TABLE notes (id serial PRIMARY KEY, note text NOT NULL{columns});
         CREATE FUNCTION notes_leave(secret text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
             CREATE TEMP TABLE leftover AS SELECT secret AS note; END $$;
         CREATE FUNCTION notes_read() RETURNS text LANGUAGE sql AS 'SELECT note FROM notes'"
    )
}

fn probe(name: &str, database: &str, id: u128) -> Probe {
    Probe {
        user: name.to_owned(),
        password: Secret::new("none".to_owned()),
        id: uuid::Uuid::from_u128(id).to_string(),
        database: database.to_owned(),
        schema: name.to_owned(),
        role: format!("{database}_{name}"),
        secret: format!("secret of {name}"),
    }
}

async fn scene() -> Scene {
    let place = database("naive").await;
    for (schema, columns) in [("victim", ", drift int"), ("thief", "")] {
        place.admin.batch_execute(&furniture(schema, columns)).await.unwrap();
        place.admin.batch_execute(&format!("CREATE ROLE {}_{schema}", place.name)).await.unwrap();
    }
    let users = [("victim", "victim"), ("thief", "thief")];
    let (narrow, wide): (SocketAddr, SocketAddr) =
        (Naive::start(&place.name, &users, true).await, Naive::start(&place.name, &users, false).await);
    let scene = Scene {
        ground: Ground { isolation: Isolation::Schema, pooling: Pooling::Shared, pool_mode: PoolMode::Transaction },
        module: place.name.clone(),
        gone: None,
        narrow,
        wide,
        table: TABLE.to_owned(),
        number: 1,
        victim: probe("victim", &place.name, 1),
        thief: probe("thief", &place.name, 2),
    };
    scene.stock().await.unwrap();
    scene
}

/// By the name of the check: what its detail must say, so that it fails for its own reason.
const EXPECTED: &[(&str, &str)] = &[
    ("another's tables by their full names", "shows what is another's"),
    ("another's database by its name", "lets it in"),
    ("search_path set to another's schema", "shows what is another's"),
    ("search_path set to another's schema, out of the proxy's sight", "DO $$"),
    ("objects made in public, and where others find them", "CREATE TABLE public"),
    ("SET ROLE and RESET ROLE", "SET ROLE"),
    ("SET ROLE, out of the proxy's sight", "SET ROLE"),
    ("SET SESSION AUTHORIZATION", "SET SESSION AUTHORIZATION"),
    ("rights and roles given to oneself", "GRANT"),
    ("powers of the connection's role", "superuser"),
    ("ALTER ROLE SET on the connection's own role", "was done"),
    ("another tenant named at login", "was let in"),
    ("RESET ALL and DISCARD ALL", "after RESET ALL"),
    ("settings left behind", "Pacific/Chatham"),
    ("temporary tables left behind", "finds"),
    ("prepared statements left behind", "finds"),
    ("cursors left behind", "finds"),
    ("sequence state left behind", "finds"),
    ("state made inside a function", "finds"),
    ("LISTEN left behind", "listens to another's channel"),
    ("advisory locks left behind", "holds another's lock"),
    ("a client that vanishes in a transaction", "the next client"),
    ("pg_cancel_backend and pg_terminate_backend", "reaches"),
    ("the names of NOTIFY channels", "is heard"),
    ("the numbers of advisory locks", "keeps it waiting"),
    ("texts of others' statements in pg_stat_activity", "is read"),
    ("another's large objects", "reaches another's object"),
    ("passwords, statistics and bookkeeping", "pg_authid"),
    ("the catalogs' lists of names", "are listed"),
    ("COPY PROGRAM and the server's files", "TO PROGRAM"),
];

#[tokio::test(flavor = "multi_thread")]
async fn on_a_pooler_that_protects_nobody_the_checks_see_the_leaks_that_they_are_there_for() {
    let mut wrong = Vec::new();
    for (name, reason) in EXPECTED {
        let check = verify::all().find(|check| check.name == *name).unwrap_or_else(|| panic!("no check {name}"));
        // A scene each: what one leaves behind is there for good.
        let Finding { result, detail, .. } = check.run(&scene().await).await;
        if result != Outcome::Leaks || !detail.contains(reason) || detail.contains("not shown to hold") {
            wrong.push(format!("{name}: {result:?} {detail}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
