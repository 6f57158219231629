//! Tenants that share connections: whoever used a connection before, and however that ended, each sees its own rows only.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::support::wire::{bind, execute, failure, message, parse, query, sync, value};
use crate::support::{Message, Running, Tenant, Wire, cluster, proxy, unique, wire, world};

/// The modules with one pool for all tenants: by schema, and by rows.
const SHARED: [&str; 2] = ["shop", "stock"];
const OWN_NOTES: &str = "SELECT string_agg(note, ',') FROM notes";

/// A proxy with one connection for all tenants of a module.
async fn pool_of(size: u32) -> Running {
    let tweak = |config: &mut pgtenant::proxy::Config| {
        config.pool.size = size;
        config.pool.checkout_timeout = Duration::from_secs(120);
        config.listen.threads = 1;
    };
    proxy(world().await, tweak).await
}

async fn two_tenants() -> (Tenant, Tenant) {
    let world = world().await;
    (world.tenant_of("even", &SHARED).await, world.tenant_of("odd", &SHARED).await)
}

async fn sees_its_own(session: &mut Wire, tenant: &Tenant, after: &str) {
    let outcome = session.run(OWN_NOTES).await;
    assert_eq!(outcome.error, None, "{} after {after}", tenant.slug);
    assert_eq!(outcome.rows, [[tenant.slug.clone()]], "after {after}");
}

/// Ends a session in order, and waits until the proxy has closed it.
async fn leave(mut session: Wire) {
    session.send(&message(b'X', b"")).await;
    assert!(session.is_closed().await);
}

/// The unnamed statement, used at once.
fn extended(sql: &str) -> Vec<u8> {
    [parse("", sql), bind(""), execute()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_that_alternate_on_one_connection_see_their_own_rows() {
    let (even, odd) = two_tenants().await;
    let proxy = pool_of(1).await;
    for module in SHARED {
        let mut sessions = Vec::new();
        for tenant in [&even, &odd, &even] {
            sessions.push((tenant, Wire::login(proxy.address, tenant, module).await));
        }
        let mut process_ids = Vec::new();
        for round in 0..6 {
            for (tenant, session) in &mut sessions {
                sees_its_own(session, tenant, module).await;
                session.send(&[extended(OWN_NOTES), sync()].concat()).await;
                let answer = session.until_ready().await;
                let row = answer.iter().find(|message| message.kind == b'D').expect("a row");
                assert!(row.body.ends_with(tenant.slug.as_bytes()), "round {round}");
                process_ids.push(session.value("SELECT pg_backend_pid()").await);
            }
        }
        process_ids.dedup();
        assert_eq!(process_ids.len(), 1, "all on one connection");
    }
    proxy.stop().await;
}

/// What the server reported of the path in an answer (PostgreSQL 18 and newer).
fn paths(answer: &[Message]) -> Vec<String> {
    let reports = answer.iter().filter(|message| message.kind == b'S');
    let texts = reports.filter_map(|report| report.body.strip_prefix(b"search_path\0"));
    texts.map(|text| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned()).collect()
}

/// On PostgreSQL 18; older servers report no path, and nothing must come of it there.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_the_path_of_another_tenant_on_the_same_connection() {
    let (even, odd) = two_tenants().await;
    let proxy = pool_of(1).await;
    for module in SHARED {
        let mut sessions = Vec::new();
        for tenant in [&even, &odd, &even] {
            let session = Wire::login(proxy.address, tenant, module).await;
            let own = session.parameters.iter().find(|(name, _)| name == "search_path").map(|(_, path)| path.clone());
            sessions.push((session, own));
        }
        for round in 0..3 {
            for (session, own) in &mut sessions {
                let answers = [session.query(OWN_NOTES).await, session.query("SHOW search_path").await];
                assert_eq!(paths(&answers.concat()), [""; 0], "{module} in round {round}");
                let own = own.clone().unwrap_or_else(|| value(&answers[1]));
                assert_eq!(value(&answers[1]), own, "{module} in round {round}");
            }
        }
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_of_several_tenants_are_answered_with_their_own_rows() {
    let (even, odd) = two_tenants().await;
    let proxy = pool_of(1).await;
    for module in SHARED {
        let mut first = Wire::login(proxy.address, &even, module).await;
        let mut second = Wire::login(proxy.address, &odd, module).await;
        let queries = query(OWN_NOTES).repeat(10);
        let batches = [extended(OWN_NOTES), extended("SELECT 1"), sync()].concat().repeat(10);
        for _ in 0..3 {
            first.send(&[queries.clone(), batches.clone()].concat()).await;
            second.send(&[batches.clone(), queries.clone()].concat()).await;
            for (session, tenant, other) in [(&mut first, &even, &odd), (&mut second, &odd, &even)] {
                let mut seen = 0;
                for _ in 0..20 {
                    for answer in session.until_ready().await {
                        assert_ne!(answer.kind, b'E', "{}", answer.field(b'M'));
                        let text = String::from_utf8_lossy(&answer.body).into_owned();
                        assert!(!text.ends_with(&other.slug), "{module}: {text}");
                        seen += usize::from(text.ends_with(&tenant.slug));
                    }
                }
                assert_eq!(seen, 20);
            }
        }
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_in_the_first_message_of_a_turn_takes_nobody_elsewhere() {
    let (even, odd) = two_tenants().await;
    let proxy = pool_of(1).await;
    for module in SHARED {
        let mut first = Wire::login(proxy.address, &even, module).await;
        let mut second = Wire::login(proxy.address, &odd, module).await;
        for wrong in [
            &["SELECT 1/0"][..],
            &["SELECT note FROM nowhere"],
            &["SELECT 1; SELECT 1/0; SELECT 2"],
            &["BEGIN", "SELECT 1/0", "SELECT note FROM notes", "ROLLBACK"],
            &["BEGIN; SELECT 1/0", "COMMIT"],
            &["BEGIN", "SAVEPOINT a", "SELECT 1/0", "ROLLBACK TO a", "COMMIT"],
            &["nonsense"],
        ] {
            for statement in wrong {
                first.run(statement).await;
            }
            sees_its_own(&mut second, &odd, wrong[0]).await;
            sees_its_own(&mut first, &even, wrong[0]).await;
        }
        // Everything after an error is skipped up to Sync; what was asserted before it must not be.
        first
            .send(&[parse("", "SELECT note FROM nowhere"), bind(""), execute(), extended(OWN_NOTES), sync()].concat())
            .await;
        assert_eq!(first.kinds().await, "EZ");
        sees_its_own(&mut second, &odd, "a batch that failed").await;
        second.send(&[extended("SELECT 1/0"), sync(), extended(OWN_NOTES), sync()].concat()).await;
        second.until_ready().await;
        let answer = second.until_ready().await;
        assert!(answer.iter().any(|message| message.kind == b'D' && message.body.ends_with(odd.slug.as_bytes())));
        sees_its_own(&mut first, &even, "a batch of the other that failed").await;
    }
    proxy.stop().await;
}

/// What clients do to their session. After each the same client still sees its own rows, or nothing at all.
const DEEDS: &[&str] = &[
    "RESET ALL",
    "DISCARD ALL",
    "RESET search_path",
    "RESET ROLE",
    "RESET SESSION AUTHORIZATION",
    "SET search_path = public",
    "SET search_path = pg_catalog, pg_temp",
    "SET search_path TO DEFAULT",
    "SELECT set_config('search_path', 'public', false)",
    "SET ROLE NONE",
    "SET SESSION AUTHORIZATION DEFAULT",
    "BEGIN; SET search_path = public; COMMIT",
    "BEGIN; SET LOCAL search_path = public; COMMIT",
    "BEGIN; SET search_path = public; ROLLBACK",
    "BEGIN; RESET ALL; ROLLBACK",
    "BEGIN; SAVEPOINT a; RESET ALL; ROLLBACK TO a; COMMIT",
    "DO $$ BEGIN PERFORM set_config('search_path', 'public', false); END $$",
    "DO $$ BEGIN EXECUTE 'RESET ALL'; END $$",
    "SET default_transaction_read_only = on",
    "SET statement_timeout = '1h'",
    "SET TimeZone = 'Asia/Tokyo'",
    "SET row_security = on",
    "PREPARE notes AS SELECT note FROM notes",
    "LISTEN notes",
    "SELECT pg_advisory_lock(1)",
    "DECLARE c CURSOR WITH HOLD FOR SELECT note FROM notes",
    "CREATE TEMP TABLE notes AS SELECT 'temporary'::text AS note",
    "BEGIN; CREATE TEMP TABLE notes (note text) ON COMMIT DROP; COMMIT",
];

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_client_did_to_its_session_the_next_client_sees_its_own_rows() {
    let (even, odd) = two_tenants().await;
    let proxy = pool_of(1).await;
    for module in SHARED {
        for (turn, deed) in DEEDS.iter().enumerate() {
            let (doer, next) = if turn % 2 == 0 { (&even, &odd) } else { (&odd, &even) };
            let mut session = Wire::login(proxy.address, doer, module).await;
            assert_eq!(session.run(deed).await.error, None, "{deed}");
            let after = session.run("SELECT note FROM notes").await;
            assert!(!after.text.contains(&next.slug), "{deed}: {}", after.text);
            leave(session).await;
            let mut session = Wire::login(proxy.address, next, module).await;
            sees_its_own(&mut session, next, deed).await;
            assert_eq!(
                session.value("SHOW TimeZone").await,
                session.value("SELECT reset_val FROM pg_settings WHERE name = 'TimeZone'").await
            );
            assert_eq!(session.value("SHOW default_transaction_read_only").await, "off", "{deed}");
            assert_eq!(session.value("SELECT count(*) FROM pg_prepared_statements").await, "0", "{deed}");
            assert_eq!(session.value("SELECT count(*) FROM pg_cursors WHERE is_holdable").await, "0", "{deed}");
            assert_eq!(session.value("SELECT count(*) FROM pg_listening_channels()").await, "0", "{deed}");
            leave(session).await;
        }
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_resets_everything_is_back_in_its_own_place() {
    let (even, _) = two_tenants().await;
    let proxy = pool_of(1).await;
    for module in SHARED {
        let mut session = Wire::login(proxy.address, &even, module).await;
        for reset in [
            &["RESET ALL"][..],
            &["DISCARD ALL"],
            &["RESET search_path"],
            &["SET search_path = pg_catalog", "RESET ALL"],
            &["BEGIN", "RESET ALL", "COMMIT"],
            &["BEGIN", "RESET ALL", "ROLLBACK"],
            &["BEGIN", "SAVEPOINT a", "RESET ALL", "ROLLBACK TO a", "COMMIT"],
            &["BEGIN; RESET ALL; COMMIT"],
        ] {
            for statement in reset {
                assert_eq!(session.run(statement).await.error, None, "{reset:?}");
            }
            sees_its_own(&mut session, &even, reset[0]).await;
        }
        session.send(&[extended("DISCARD ALL"), sync()].concat()).await;
        // PostgreSQL 18 also reports the path.
        assert_eq!(session.kinds().await.replace('S', ""), "12CZ");
        sees_its_own(&mut session, &even, "DISCARD ALL by the extended protocol").await;
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_leaves_the_next_one_nothing() {
    let (even, odd) = two_tenants().await;
    let proxy = pool_of(1).await;
    for module in SHARED {
        for vanishing in
            ["in a transaction", "in a failed transaction", "in COPY", "in a message", "with answers to come"]
        {
            let mut session = Wire::login(proxy.address, &even, module).await;
            session.run("BEGIN").await;
            session.run("INSERT INTO notes (note) VALUES ('never committed')").await;
            match vanishing {
                "in a failed transaction" => drop(session.run("SELECT 1/0").await),
                "in COPY" if module == "shop" => {
                    session.send(&query("COPY notes (note) FROM STDIN")).await;
                    assert_eq!(session.receive().await.expect("an answer").kind, b'G');
                    session.send(&message(b'd', b"never committed\n")).await;
                }
                "in a message" => session.send(&query("COMMIT")[..9]).await,
                "with answers to come" => session.send(&query("SELECT pg_sleep(600)")).await,
                _ => {}
            }
            drop(session);
            let mut session = Wire::login(proxy.address, &odd, module).await;
            sees_its_own(&mut session, &odd, vanishing).await;
            let mut session = Wire::login(proxy.address, &even, module).await;
            sees_its_own(&mut session, &even, vanishing).await;
        }
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_function_leaves_behind_never_reaches_another_tenant() {
    let (even, odd) = two_tenants().await;
    let admin = cluster().await.connect(even.place("shop", "database")).await.unwrap();
    let schema = even.place("shop", "schema");
    let body = "BEGIN
        CREATE TEMP TABLE leftover AS SELECT 'secret of even'::text AS note;
        PERFORM set_config('search_path', pg_catalog.current_setting('search_path'), false);
        PERFORM set_config('custom.secret', 'secret of even', false);
        EXECUTE 'PREPARE leftover AS SELECT 1 /* secret of even */';
        EXECUTE 'LISTEN leftover';
        PERFORM nextval('notes_id_seq');
        RETURN 1;
    END";
    admin
        .batch_execute(&format!("CREATE FUNCTION \"{schema}\".leave() RETURNS int LANGUAGE plpgsql AS $${body}$$"))
        .await
        .unwrap();
    let proxy = pool_of(1).await;
    let mut first = Wire::login(proxy.address, &even, "shop").await;
    let mut second = Wire::login(proxy.address, &odd, "shop").await;
    let pid = first.value("SELECT pg_backend_pid()").await;
    assert_eq!(first.value("SELECT leave()").await, "1");
    sees_its_own(&mut second, &odd, "a function's deeds").await;
    assert_eq!(second.value("SELECT pg_backend_pid()").await, pid, "the same connection");
    assert_eq!(second.run("SELECT * FROM leftover").await.code(), "42P01", "a temporary table");
    assert_eq!(second.run("SELECT lastval()").await.code(), "55000", "the last value of a sequence");
    assert_eq!(second.value("SELECT coalesce(current_setting('custom.secret', true), '')").await, "", "a setting");
    assert_eq!(second.value("SELECT count(*) FROM pg_prepared_statements").await, "0", "a prepared statement");
    assert_eq!(second.value("SELECT count(*) FROM pg_listening_channels()").await, "0", "a registration to listen");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_one_client_do_not_reach_the_next() {
    let (even, odd) = two_tenants().await;
    let proxy = pool_of(1).await;
    let settings = [
        ("application_name", "of even; '\"\\"),
        ("timezone", "Asia/Tokyo"),
        ("datestyle", "SQL, DMY"),
        ("intervalstyle", "iso_8601"),
        ("extra_float_digits", "-3"),
        ("statement_timeout", "1h"),
        ("default_transaction_read_only", "on"),
        ("bytea_output", "escape"),
        ("client_encoding", "LATIN1"),
        ("standard_conforming_strings", "off"),
        ("lc_monetary", "C"),
    ];
    let show = settings.map(|(name, _)| format!("current_setting('{name}')")).join(", ");
    let show = format!("SELECT {show}");
    for module in SHARED {
        let mut plain = Wire::login(proxy.address, &odd, module).await;
        let defaults = plain.run(&show).await.rows;
        // Twice: the first login asks the server, the second is told what is known.
        for _ in 0..2 {
            let user = even.user();
            let given = [&[("user", user.as_str()), ("database", module)][..], &settings].concat();
            let mut own =
                Wire::login_with(proxy.address, &wire::startup(&given), &even.password).await.expect("log in");
            for (name, value) in [("TimeZone", "Asia/Tokyo"), ("DateStyle", "SQL, DMY"), ("client_encoding", "LATIN1")]
            {
                assert!(own.parameters.contains(&(name.to_owned(), value.to_owned())), "{:?}", own.parameters);
            }
            let seen = own.run(&show).await.rows;
            assert_eq!(seen[0], settings.map(|(_, value)| value.to_owned()));
            sees_its_own(&mut own, &even, "its own settings").await;
            // This one is pinned by its encoding of strings.
            leave(own).await;
            assert_eq!(plain.run(&show).await.rows, defaults);
            sees_its_own(&mut plain, &odd, "settings of the other").await;
        }
        let mut carried = Wire::login_with(
            proxy.address,
            &wire::startup(&[
                ("user", &even.user()),
                ("database", module),
                ("options", "-c timezone=Asia/Tokyo -c default_transaction_read_only=on"),
            ]),
            &even.password,
        )
        .await
        .expect("log in");
        for _ in 0..3 {
            assert_eq!(carried.value("SHOW TimeZone").await, "Asia/Tokyo");
            assert_eq!(carried.run("DELETE FROM notes").await.code(), "25006");
            assert_eq!(plain.run(&show).await.rows, defaults);
        }
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reset_of_a_drivers_pool_leaves_a_client_its_tenants_role() {
    let world = world().await;
    let module = unique("roles");
    let database = format!("{module}_common");
    let migrations = tempfile::tempdir().expect("a directory");
    let table = "CREATE TABLE notes (id serial PRIMARY KEY, note text NOT NULL)";
    std::fs::write(migrations.path().join("0001_notes.sql"), table).expect("write a migration");
    let directory = migrations.path().display().to_string();
    let kind =
        ["module", "add", &module, "--isolation", "schema", "--pooling", "shared", "--server", "main", "--set-role"];
    world.run(&[&kind[..], &["--database", &database, "--migrations", &directory]].concat()).await;
    let proxy = pool_of(1).await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        let tenant = world.tenant_in(&unique("role"), &[&module], &[]).await;
        let client = Wire::login(proxy.address, &tenant, &module).await;
        clients.push((tenant.place(&module, "role").to_owned(), client));
    }
    let npgsql = "RESET ALL;CLOSE ALL;UNLISTEN *;SELECT pg_advisory_unlock_all();DISCARD SEQUENCES;DISCARD TEMP";
    for reset in
        ["SET SESSION AUTHORIZATION DEFAULT", "RESET SESSION AUTHORIZATION", "RESET ROLE", "DISCARD ALL", npgsql]
    {
        for (role, client) in &mut clients {
            // The next statement is in the same write, as Npgsql does it.
            client.send(&[query(reset), query("SELECT current_user")].concat()).await;
            let answer = client.until_ready().await;
            assert!(answer.iter().all(|message| message.kind != b'E'), "{reset}: {answer:?}");
            assert_eq!(value(&client.until_ready().await), *role, "{reset}");
            client.query("BEGIN").await;
            client.query(if reset == "DISCARD ALL" { "RESET ALL" } else { reset }).await;
            assert_eq!(client.ask("SELECT current_user").await, *role, "{reset} in a transaction");
            client.query("ROLLBACK").await;
            assert_eq!(client.ask("SELECT current_user").await, *role, "{reset}");
        }
    }
    let (_, client) = &mut clients[0];
    for refused in ["SET ROLE NONE", "RESET ROLE; SELECT * FROM notes", "SET SESSION AUTHORIZATION postgres"] {
        assert_eq!(client.run(refused).await.code(), "42501", "{refused}");
    }
    client.send(&[extended("RESET ROLE"), extended("SELECT current_user"), sync()].concat()).await;
    assert_eq!(failure(&client.until_ready().await).0, "42501");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_shared_pools_cannot_choose_a_place_at_start_up() {
    let (even, odd) = two_tenants().await;
    let proxy = pool_of(1).await;
    let schema = odd.place("shop", "schema");
    let options =
        [format!("-c search_path={schema}"), format!("--search-path={schema}"), format!("-csearch_path={schema}")];
    let id = format!("-c pgtenant.tenant_id={}", odd.id);
    let attempts = [
        ("search_path", schema, "0A000"),
        ("Search_Path", schema, "0A000"),
        ("options", &options[0], "0A000"),
        ("options", &options[1], "0A000"),
        ("options", &options[2], "0A000"),
        ("options", &id, "42501"),
        ("pgtenant.tenant_id", &odd.id, "42501"),
        ("row_security", "off", "42501"),
        ("role", odd.place("shop", "role"), "42501"),
        ("work_mem", "1GB", "0A000"),
    ];
    for module in SHARED {
        for (name, value, code) in &attempts {
            let startup = wire::startup(&[("user", &even.user()), ("database", module), (name, value)]);
            let refused = Wire::login_with(proxy.address, &startup, &even.password).await.err().expect("a refusal");
            assert_eq!(refused.field(b'C'), *code, "{name}={value}");
        }
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_gone_is_an_error_and_never_public() {
    let world = world().await;
    for module in ["shop", "operations"] {
        let (gone, other) = (world.tenant_of("gone", &[module]).await, world.tenant_of("other", &[module]).await);
        let database = gone.place(module, "database");
        let admin = cluster().await.connect(database).await.unwrap();
        admin
            .batch_execute(
                "CREATE TABLE public.notes (note text); GRANT ALL ON public.notes TO PUBLIC; INSERT INTO public.notes VALUES ('trap')",
            )
            .await
            .unwrap();
        let proxy = pool_of(1).await;
        let mut session = Wire::login(proxy.address, &gone, module).await;
        sees_its_own(&mut session, &gone, "login").await;
        let drop = format!("DROP SCHEMA \"{}\" CASCADE", gone.place(module, "schema"));
        admin.batch_execute(&drop).await.unwrap();
        assert_eq!(session.run(OWN_NOTES).await.code(), "42P01", "{module}");
        let insert = session.run("INSERT INTO notes (note) VALUES ('astray')").await;
        assert_eq!(insert.code(), "42P01", "{module}");
        leave(session).await;
        proxy.stop().await;
        // A pool that never served it finds that out before the client may begin.
        let proxy = pool_of(1).await;
        let mut neighbour = Wire::login(proxy.address, &other, module).await;
        sees_its_own(&mut neighbour, &other, "login").await;
        let startup = wire::startup(&[("user", &gone.user()), ("database", module)]);
        let refused = Wire::login_with(proxy.address, &startup, &gone.password).await.err().expect("a refusal");
        assert_eq!(refused.field(b'C'), "3F000", "{module}: {}", refused.field(b'M'));
        sees_its_own(&mut neighbour, &other, "the refusal of the other").await;
        proxy.stop().await;
        admin.batch_execute("DROP TABLE public.notes").await.unwrap();
    }
}

/// One turn of a client in the crowd; false when its session is over.
async fn turn(session: &mut Wire, tenant: &Tenant, kind: usize) -> bool {
    match kind {
        0 => sees_its_own(session, tenant, "crowd").await,
        1 => {
            session.send(&[extended("SELECT 1/0"), sync(), extended(OWN_NOTES), sync()].concat()).await;
            assert!(session.kinds().await.ends_with("EZ"));
            let answer = session.until_ready().await;
            assert!(
                answer.iter().any(|message| message.kind == b'D' && message.body.ends_with(tenant.slug.as_bytes()))
            );
        }
        2 => {
            for statement in ["BEGIN", "INSERT INTO notes (note) VALUES ('rolled back')", "SELECT 1/0", "ROLLBACK"] {
                session.run(statement).await;
            }
            sees_its_own(session, tenant, "rollback").await;
        }
        3 => {
            session.send(&query(OWN_NOTES).repeat(5)).await;
            for _ in 0..5 {
                let answer = session.until_ready().await;
                assert!(
                    answer.iter().any(|message| message.kind == b'D' && message.body.ends_with(tenant.slug.as_bytes()))
                );
            }
        }
        4 => {
            session.run("RESET ALL").await;
            sees_its_own(session, tenant, "RESET ALL").await;
            return false;
        }
        5 => {
            session.run("SET search_path = pg_catalog").await;
            return false;
        }
        6 => {
            session.run("BEGIN").await;
            session.run("INSERT INTO notes (note) VALUES ('abandoned')").await;
            return false;
        }
        _ => {
            session.send(&query(OWN_NOTES)).await;
            return false;
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_clients_of_many_tenants_sees_each_its_own_rows() {
    let world = world().await;
    let mut tenants = Vec::new();
    for _ in 0..4 {
        tenants.push(std::sync::Arc::new(world.tenant_of("crowd", &SHARED).await));
    }
    let proxy = pool_of(2).await;
    let mut crowd = JoinSet::new();
    for client in 0..16_usize {
        let (tenant, address) = (std::sync::Arc::clone(&tenants[client % 4]), proxy.address);
        crowd.spawn(async move {
            let module = SHARED[(client / 4) % 2];
            let mut session = Wire::login(address, &tenant, module).await;
            for step in 0..24_usize {
                // The order differs from client to client.
                if !turn(&mut session, &tenant, (step * 5 + client * 3) % 8).await {
                    session = Wire::login(address, &tenant, module).await;
                }
            }
        });
    }
    while let Some(done) = crowd.join_next().await {
        done.unwrap();
    }
    for tenant in &tenants {
        for module in SHARED {
            sees_its_own(&mut Wire::login(proxy.address, tenant, module).await, tenant, "the crowd").await;
        }
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn named_statements_of_several_tenants_on_one_connection_read_their_own_rows() {
    let (even, odd) = two_tenants().await;
    let proxy = pool_of(1).await;
    for module in SHARED {
        let mut first = Wire::login(proxy.address, &even, module).await;
        let mut second = Wire::login(proxy.address, &odd, module).await;
        for session in [&mut first, &mut second] {
            session.send(&[parse("notes", OWN_NOTES), sync()].concat()).await;
            assert_eq!(session.kinds().await, "1Z");
        }
        for _ in 0..4 {
            for (session, tenant) in [(&mut first, &even), (&mut second, &odd)] {
                session.send(&[bind("notes"), execute(), sync()].concat()).await;
                let answer = session.until_ready().await;
                let kinds: String = answer.iter().map(|message| char::from(message.kind)).collect();
                assert_eq!(kinds, "2DCZ");
                assert!(answer[1].body.ends_with(tenant.slug.as_bytes()), "{module}");
                sees_its_own(session, tenant, "a named statement").await;
            }
        }
    }
    proxy.stop().await;
}
