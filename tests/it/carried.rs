//! Session parameters in transaction mode: they follow their client from connection to connection, and go nowhere else; other state
//! keeps the connection exactly as long as there is any.

use pgtenant::pool::Pinning;

use crate::relay::one_connection;
use crate::support::wire::{bind, execute, extended, failure, message, parse, query, startup, sync, value};
use crate::support::{Message, Tenant, Wire, proxy, unique, until, world};

/// A client that has what this sets, checked after everything that another client does on the only connection.
pub(crate) async fn alternate(owner: &mut Wire, other: &mut Wire, see: &str, seen: &str, clean: &str, after: &str) {
    for _ in 0..2 {
        assert_eq!(other.ask(see).await, clean, "another client after {after}");
        assert_eq!(owner.ask(see).await, seen, "after {after}");
    }
}

pub(crate) async fn send(client: &mut Wire, messages: &[Vec<u8>]) -> Vec<Message> {
    client.send(&messages.concat()).await;
    client.until_ready().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_sets_follows_it_and_stays_with_it() {
    let (tenant, proxy, _) = one_connection("follow").await;
    for (set, see, seen, clean) in [
        ("SET work_mem = 5120", "SHOW work_mem", "5MB", "4MB"),
        ("SET SESSION work_mem TO '6MB'", "SHOW work_mem", "6MB", "4MB"),
        ("SET app.mine = 'it''s \\ mine'", "SELECT current_setting('app.mine', true)", "it's \\ mine", ""),
        ("SELECT set_config('app.mine', 'x', false)", "SELECT current_setting('app.mine', true)", "x", ""),
        ("SET TIME ZONE 'Asia/Tokyo'", "SHOW TimeZone", "Asia/Tokyo", "Etc/UTC"),
        ("SET DateStyle = 'German'", "SHOW DateStyle", "German, DMY", "ISO, MDY"),
        (
            "SET search_path = pg_catalog, \"odd, name\"",
            "SHOW search_path",
            "pg_catalog, \"odd, name\"",
            "\"$user\", public",
        ),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SHOW default_transaction_read_only", "on", "off"),
        ("SET extra_float_digits = 3; SET lock_timeout = '7s'", "SHOW lock_timeout", "7s", "0"),
        ("BEGIN; SET work_mem = '7MB'; COMMIT", "SHOW work_mem", "7MB", "4MB"),
        ("BEGIN; SET work_mem = '7MB'; ROLLBACK", "SHOW work_mem", "4MB", "4MB"),
        ("BEGIN; SET LOCAL work_mem = '7MB'; COMMIT", "SHOW work_mem", "4MB", "4MB"),
        (
            "BEGIN; SET work_mem = '7MB'; SAVEPOINT a; SET work_mem = '8MB'; ROLLBACK TO a; COMMIT",
            "SHOW work_mem",
            "7MB",
            "4MB",
        ),
        ("SELECT set_config('work_mem', '9MB', true)", "SHOW work_mem", "4MB", "4MB"),
        ("SET work_mem = '7MB'; SELECT 1/0", "SHOW work_mem", "4MB", "4MB"),
        ("SET NAMES 'LATIN1'", "SHOW client_encoding", "LATIN1", "UTF8"),
    ] {
        let mut owner = Wire::login(proxy.address, &tenant, "crm").await;
        let mut other = Wire::login(proxy.address, &tenant, "crm").await;
        let clean = if see == "SHOW TimeZone" { other.ask(see).await } else { clean.to_owned() };
        owner.query(set).await;
        alternate(&mut owner, &mut other, see, seen, &clean, set).await;
        // Reset in one of three ways, it is as at the start.
        owner.query("RESET ALL").await;
        alternate(&mut owner, &mut other, see, &clean, &clean, "RESET ALL").await;
        owner.query(set).await;
        owner.query("DISCARD ALL").await;
        alternate(&mut owner, &mut other, see, &clean, &clean, "DISCARD ALL").await;
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resets_of_one_parameter_follow_the_transaction_too() {
    let (tenant, proxy, _) = one_connection("reset_one").await;
    let see = "SELECT concat_ws('|', current_setting('work_mem'), current_setting('lock_timeout'))";
    let mut owner = Wire::login(proxy.address, &tenant, "crm").await;
    let mut other = Wire::login(proxy.address, &tenant, "crm").await;
    owner.query("SET work_mem = '5MB'; SET lock_timeout = '5s'").await;
    for (statement, seen) in [
        ("BEGIN; RESET work_mem; ROLLBACK", "5MB|5s"),
        ("BEGIN; RESET ALL; ROLLBACK", "5MB|5s"),
        ("SET work_mem TO DEFAULT", "4MB|5s"),
        ("SET lock_timeout = '6s'; RESET lock_timeout; SET lock_timeout = '7s'", "4MB|7s"),
        ("RESET lock_timeout", "4MB|0"),
    ] {
        owner.query(statement).await;
        alternate(&mut owner, &mut other, see, seen, "4MB|0", statement).await;
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_set_by_the_extended_protocol_follow_as_well() {
    let (tenant, proxy, _) = one_connection("extended_set").await;
    let see = "SELECT current_setting('app.mine', true)";
    let mut owner = Wire::login(proxy.address, &tenant, "crm").await;
    let mut other = Wire::login(proxy.address, &tenant, "crm").await;
    let with = |statement: &str, argument: &str| {
        let length = i32::try_from(argument.len()).expect("a short argument").to_be_bytes();
        let body = [b"\0", statement.as_bytes(), b"\0\0\0\0\x01", &length[..], argument.as_bytes(), b"\0\0"].concat();
        message(b'B', &body)
    };
    let set = "SELECT set_config('app.mine', $1, false)";
    send(&mut owner, &[parse("", set), with("", "one"), execute(), sync()]).await;
    alternate(&mut owner, &mut other, see, "one", "", "an unnamed statement").await;
    // Prepared now, executed later, and again.
    send(&mut owner, &[parse("s", set), sync()]).await;
    alternate(&mut owner, &mut other, see, "one", "", "Parse alone").await;
    for argument in ["two", "three"] {
        send(&mut owner, &[with("s", argument), execute(), sync()]).await;
        alternate(&mut owner, &mut other, see, argument, "", "a named statement").await;
    }
    // In the middle of a pipeline, and one that fails.
    let pipeline = [extended("BEGIN"), extended("SET app.mine = 'six'"), extended("COMMIT"), sync()].concat();
    send(&mut owner, &[pipeline]).await;
    alternate(&mut owner, &mut other, see, "six", "", "a pipeline").await;
    send(&mut owner, &[extended("SET app.mine = 'seven'"), extended("SELECT 1/0"), sync()]).await;
    alternate(&mut owner, &mut other, see, "six", "", "a pipeline that failed").await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_told_of_its_own_changes_only() {
    let (tenant, proxy, _) = one_connection("told").await;
    let startup = startup(&[("user", &tenant.user()), ("database", "crm"), ("application_name", "mine")]);
    let mut owner = Wire::login_with(proxy.address, &startup, &tenant.password).await.expect("log in");
    let mut other = Wire::login(proxy.address, &tenant, "crm").await;
    let reports = |answer: &[Message]| answer.iter().filter(|message| message.kind == b'S').count();
    assert_eq!(reports(&owner.query("SET DateStyle = 'SQL, DMY'").await), 1);
    assert_eq!(reports(&owner.query("SET DateStyle = 'SQL'").await), 0, "the same in other words");
    for _ in 0..3 {
        assert_eq!(reports(&other.query("SELECT 1").await), 0);
        assert_eq!(reports(&owner.query("SELECT 1").await), 0);
    }
    let answer = owner.query("RESET ALL").await;
    let told: Vec<_> = answer.iter().filter(|message| message.kind == b'S').collect();
    assert!(told.len() == 1 && told[0].body.starts_with(b"DateStyle\0"), "{told:?}: its application_name is as it was");
    assert_eq!(owner.ask("SHOW application_name").await, "mine");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_asked_once_about_a_set_that_comes_with_every_request() {
    let (tenant, proxy, watch) = one_connection("asked").await;
    let mut client = Wire::login(proxy.address, &tenant, "crm").await;
    let last = async || {
        let sql = "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND usename <> 'postgres'";
        watch.admin.query_one(sql, &[]).await.expect("one connection").get::<_, String>(0)
    };
    let set = "SET search_path = 'public','pg_catalog'";
    client.query(set).await;
    until("the server was asked", async || last().await.contains("current_setting")).await;
    client.query("SELECT 1").await;
    client.query(set).await;
    assert_eq!(last().await, set);
    // After another value, or in a transaction that did not come to it, it is asked again.
    for between in ["SET search_path = public", "BEGIN; SET search_path = pg_catalog; COMMIT", "RESET search_path"] {
        client.query(between).await;
        client.query(set).await;
        until("the server was asked again", async || last().await.contains("current_setting")).await;
        assert_eq!(client.ask("SHOW search_path").await, "public, pg_catalog");
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_notification_is_lost_while_the_server_is_asked() {
    let (tenant, proxy, watch) = one_connection("notified").await;
    let mut client = Wire::login(proxy.address, &tenant, "crm").await;
    client.query("LISTEN news").await;
    let count = 300;
    for number in 0..count {
        // Each SET is followed by a question; what comes meanwhile is the client's.
        client.send(&query(&format!("SET app.number = '{number}'"))).await;
        watch.admin.batch_execute("NOTIFY news").await.expect("notify");
    }
    client.send(&query("SELECT 'the end'")).await;
    let (mut notified, mut ready) = (0, 0);
    while notified < count || ready <= count {
        let message = client.receive().await.expect("another message");
        notified += i32::from(message.kind == b'A');
        ready += i32::from(message.kind == b'Z');
    }
    assert_eq!((notified, ready), (count, count + 1));
    proxy.stop().await;
}

/// State that keeps a connection: how it is made, how it is seen, and what takes it away.
const PINS: [(&str, &str, &str); 6] = [
    ("LISTEN news", "SELECT count(*) FROM pg_listening_channels()", "UNLISTEN *"),
    ("LISTEN news", "SELECT count(*) FROM pg_listening_channels()", "UNLISTEN news"),
    (
        "SELECT pg_advisory_lock(7)",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
        "SELECT pg_advisory_unlock(7)",
    ),
    ("CREATE TEMP TABLE mine (a int)", "SELECT count(*) FROM pg_class WHERE relname = 'mine'", "DROP TABLE mine"),
    ("PREPARE mine AS SELECT 1", "SELECT count(*) FROM pg_prepared_statements WHERE from_sql", "DEALLOCATE mine"),
    ("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT", "SELECT count(*) FROM pg_cursors", "CLOSE c"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_lasts_until_its_reason_is_gone() {
    let (tenant, proxy, _) = one_connection("unpin").await;
    let mut owner = Wire::login(proxy.address, &tenant, "crm").await;
    let mut other = Wire::login(proxy.address, &tenant, "crm").await;
    for undo_all in [false, true] {
        for (make, see, undo) in PINS {
            owner.query(make).await;
            other.send(&query(see)).await;
            assert_eq!(owner.ask(see).await, "1", "{make}");
            owner.query("SET work_mem = '5MB'").await;
            owner.query("SELECT 1").await;
            assert_eq!(owner.ask(see).await, "1", "{make}");
            let undo = if undo_all { "DISCARD ALL" } else { undo };
            owner.query(undo).await;
            // Now the other one gets the connection, and finds nothing of it.
            assert_eq!(value(&other.until_ready().await), "0", "{undo}");
            assert_eq!(other.ask("SHOW work_mem").await, "4MB", "{undo}");
            assert_eq!(owner.ask("SHOW work_mem").await, if undo_all { "4MB" } else { "5MB" }, "{undo}");
        }
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_with_its_transaction_pins_nothing() {
    let (tenant, proxy, _) = one_connection("no_pin").await;
    let mut owner = Wire::login(proxy.address, &tenant, "crm").await;
    let mut other = Wire::login(proxy.address, &tenant, "crm").await;
    for statement in [
        "BEGIN; CREATE TEMP TABLE t (a int) ON COMMIT DROP; INSERT INTO t VALUES (1); COMMIT",
        "BEGIN; CREATE TEMP TABLE t (a int); ROLLBACK",
        "BEGIN; LISTEN a; ROLLBACK",
        "SELECT pg_try_advisory_lock(1), pg_advisory_unlock(1)",
        "SELECT 1/0; LISTEN a",
        "SELECT 'CREATE TEMP TABLE t', 'LISTEN'",
    ] {
        owner.query(statement).await;
        assert_eq!(other.ask("SELECT 1").await, "1", "{statement}");
    }
    // lo_open and lo_close by FunctionCall: descriptors end with the transaction.
    owner.query("SELECT lo_create(4242)").await;
    let function = |oid: u32, arguments: &[i32]| {
        let mut body = [&oid.to_be_bytes()[..], b"\0\x01\0\x01"].concat();
        body.extend_from_slice(&u16::try_from(arguments.len()).expect("few").to_be_bytes());
        arguments.iter().for_each(|argument| body.extend([4i32.to_be_bytes(), argument.to_be_bytes()].concat()));
        message(b'F', &[&body[..], b"\0\x01"].concat())
    };
    owner.send(&function(952, &[4242, 0x20000])).await;
    assert_eq!(owner.kinds().await, "VZ");
    assert_eq!(other.ask("SELECT lo_unlink(4242)").await, "1");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_pinning_is_refused_the_statement_fails_and_nothing_else_does() {
    let world = world().await;
    let tenant = world.tenant_in(&unique("refuse"), &["crm"], &[]).await;
    let proxy = proxy(world, |config| {
        config.pool.size = 1;
        config.pool.pinning = Pinning::Refuse;
    })
    .await;
    let mut owner = Wire::login(proxy.address, &tenant, "crm").await;
    let mut other = Wire::login(proxy.address, &tenant, "crm").await;
    for (statement, feature) in [
        ("LISTEN news", "LISTEN"),
        ("SELECT pg_advisory_lock(1)", "session-level advisory locks"),
        ("CREATE TEMP TABLE t (a int)", "temporary objects"),
        ("PREPARE p AS SELECT 1", "PREPARE"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "WITH HOLD cursors"),
        ("LOAD 'x'", "LOAD"),
    ] {
        let expected = format!("{feature} cannot be used with transaction pooling");
        let (sqlstate, text, status) = failure(&owner.query(statement).await);
        assert_eq!((sqlstate.as_str(), text.as_str(), status), ("0A000", expected.as_str(), 'I'), "{statement}");
        assert_eq!(other.ask("SELECT 1").await, "1");
        // Inside a transaction it aborts that, as any error does; in a pipeline it skips to Sync.
        owner.query("BEGIN").await;
        for messages in [query(statement), [extended(statement), extended("SELECT 2"), sync()].concat()] {
            owner.send(&messages).await;
            let (sqlstate, text, status) = failure(&owner.until_ready().await);
            assert_eq!((sqlstate.as_str(), text.as_str(), status), ("0A000", expected.as_str(), 'E'), "{statement}");
        }
        owner.query("ROLLBACK").await;
        owner.send(&[parse("named", statement), bind("named"), execute(), sync(), query("SELECT 3")].concat()).await;
        assert_eq!(failure(&owner.until_ready().await).0, "0A000");
        assert_eq!(value(&owner.until_ready().await), "3");
        assert_eq!(other.ask("SELECT 1").await, "1");
    }
    assert_eq!(owner.ask("SET work_mem = '5MB'; SHOW work_mem").await, "5MB");
    assert_eq!(other.ask("SHOW work_mem").await, "4MB");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_pinning_is_refused_long_texts_and_function_calls_fail_too() {
    let world = world().await;
    let tenant = world.tenant_in(&unique("refuse_long"), &["crm"], &[]).await;
    let proxy = proxy(world, |config| {
        config.pool.size = 1;
        config.pool.pinning = Pinning::Refuse;
    })
    .await;
    let mut owner = Wire::login(proxy.address, &tenant, "crm").await;
    let mut other = Wire::login(proxy.address, &tenant, "crm").await;
    let long = "x".repeat(60_000);
    let listens = format!("SELECT '{long}'; LISTEN news");
    let locks = format!("SELECT pg_advisory_lock(length('{long}'))");
    // pg_backend_pid(), of which nobody says that it leaves nothing.
    let call = message(b'F', &[&2026_u32.to_be_bytes()[..], &[0, 0, 0, 0, 0, 0]].concat());
    let many_types =
        [b"\0SELECT pg_advisory_lock(1)\0\x27\x10".as_slice(), &23_u32.to_be_bytes().repeat(10_000)].concat();
    for (messages, feature) in [
        (query(&listens), "LISTEN"),
        (query(&locks), "session-level advisory locks"),
        (query(&format!("{locks} -- {long}")), "session-level advisory locks"),
        ([extended(&locks), extended("SELECT 2"), sync()].concat(), "session-level advisory locks"),
        ([message(b'P', &many_types), sync()].concat(), "session-level advisory locks"),
        (
            [parse("long", &format!("SELECT '{long}'")), bind("long"), execute(), sync()].concat(),
            "long prepared statements",
        ),
        (call, "function calls and DO"),
    ] {
        let expected = format!("{feature} cannot be used with transaction pooling");
        for (before, status) in [("", 'I'), ("BEGIN", 'E')] {
            owner.query(before).await;
            owner.send(&messages).await;
            let (sqlstate, text, then) = failure(&owner.until_ready().await);
            assert_eq!((sqlstate.as_str(), text.as_str(), then), ("0A000", expected.as_str(), status));
            owner.query("ROLLBACK").await;
            assert_eq!(other.ask("SELECT 1").await, "1", "{feature}");
        }
    }
    // What another client left unnamed on the connection is not the failed statement's.
    other.send(&[parse("", "SELECT 'other'"), bind(""), execute(), sync()].concat()).await;
    assert_eq!(value(&other.until_ready().await), "other");
    owner.send(&[extended(&locks), sync()].concat()).await;
    assert_eq!(failure(&owner.until_ready().await).0, "0A000");
    owner.send(&[bind(""), execute(), sync()].concat()).await;
    assert_eq!(failure(&owner.until_ready().await).0, "26000");
    let mut owner = Wire::login(proxy.address, &tenant, "crm").await;
    assert_eq!(owner.ask(&format!("SELECT length('{long}')")).await, "60000");
    // Of large objects nothing is left when the transaction ends.
    owner.query("BEGIN").await;
    owner
        .send(&message(b'F', &[&957_u32.to_be_bytes()[..], &[0, 1, 0, 1, 0, 1, 0, 0, 0, 4, 0, 0, 0, 0, 0, 1]].concat()))
        .await;
    assert_eq!(owner.kinds().await, "VZ");
    owner.query("ROLLBACK").await;
    assert_eq!(other.ask("SELECT 1").await, "1");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_behind_strings_that_are_hard_to_read_follows_its_client() {
    let (tenant, proxy, _) = one_connection("strings").await;
    for text in [
        "SELECT E'a\\'b'; SET work_mem = '5MB'",
        "SELECT E'a'\n'\\''; SET work_mem = '5MB'; --'",
        "SELECT E'a' -- it's\n  '\\''; SET work_mem = '5MB'; --'",
        "SELECT B'01', $q$ ' $q$; SET work_mem = '5MB'",
        "SELECT \"set_config\"('work_mem', E'5MB', false)",
        "SELECT E'\\'', pg_catalog.\"set_config\"('work_mem', '5MB', false)",
    ] {
        let mut owner = Wire::login(proxy.address, &tenant, "crm").await;
        let mut other = Wire::login(proxy.address, &tenant, "crm").await;
        owner.query(text).await;
        alternate(&mut owner, &mut other, "SHOW work_mem", "5MB", "4MB", text).await;
    }
    proxy.stop().await;
}

/// Two tenants that share one connection, and a client of each.
pub(crate) async fn two_on_one(name: &str) -> ((Tenant, Wire), (Tenant, Wire), crate::support::Running) {
    let world = world().await;
    let proxy = proxy(world, |config| {
        config.pool.size = 1;
        config.listen.threads = 1;
    })
    .await;
    let mut both = Vec::new();
    for _ in 0..2 {
        let tenant = world.tenant_in(&unique(name), &["shop"], &[]).await;
        let client = Wire::login(proxy.address, &tenant, "shop").await;
        both.push((tenant, client));
    }
    let second = both.pop().expect("two");
    let first = both.pop().expect("two");
    (first, second, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_path_set_for_each_request_works_on_a_shared_pool() {
    let ((one, mut first), (two, mut second), proxy) = two_on_one("django").await;
    let notes = "SELECT string_agg(note, ',') FROM notes";
    for _ in 0..3 {
        for (tenant, client) in [(&one, &mut first), (&two, &mut second)] {
            // As django-tenants does it.
            let path = format!("SET search_path = '{}','public'", tenant.place("shop", "schema"));
            client.query(&path).await;
            assert_eq!(client.ask(notes).await, tenant.slug);
            client.query("BEGIN").await;
            client.query(&path).await;
            assert_eq!(client.ask(notes).await, tenant.slug);
            client.query("COMMIT").await;
            client.query("SET search_path = 'public'").await;
            assert_eq!(client.run(notes).await.code(), "42P01", "nothing is in public");
        }
        for (tenant, client) in [(&two, &mut second), (&one, &mut first)] {
            assert_eq!(client.run(notes).await.code(), "42P01", "what it set is carried");
            client.query("SET search_path TO DEFAULT").await;
            assert_eq!(client.ask(notes).await, tenant.slug, "and the default is its own place");
            client.query("RESET search_path").await;
            assert_eq!(client.ask(notes).await, tenant.slug);
        }
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_path_leads_to_no_other_tenant_on_a_shared_pool() {
    let ((one, mut first), (two, mut second), proxy) = two_on_one("paths").await;
    let notes = "SELECT string_agg(note, ',') FROM notes";
    let other = two.place("shop", "schema");
    for statement in [
        format!("SET search_path = '{other}','public'"),
        format!("SET LOCAL search_path TO {other}"),
        format!("SELECT set_config('search_path', '{other}', true)"),
        "SET pgtenant.tenant_id = ''".to_owned(),
    ] {
        let (sqlstate, _, status) = failure(&first.query(&statement).await);
        assert_eq!((sqlstate.as_str(), status), ("42501", 'I'), "{statement}");
        first.send(&[extended(&statement), sync()].concat()).await;
        assert_eq!(failure(&first.until_ready().await).0, "42501", "{statement}");
        assert_eq!(first.ask(notes).await, one.slug);
    }
    // Where the text does not tell, the path is set back when the transaction ends, and the client is told.
    let answer = first.query(&format!("SELECT set_config('search_path', concat('{other}', ''), false)")).await;
    assert!(answer.iter().all(|message| message.kind != b'E'));
    assert_eq!(second.ask(notes).await, two.slug);
    let answer = first.query(notes).await;
    assert_eq!(value(&answer), one.slug);
    assert_eq!(answer[0].field(b'C'), "42501", "a warning comes first: {answer:?}");
    proxy.stop().await;
}
