//! Who has a backend, and for how long: transaction mode, what pins, session mode, and what the next client finds.

use std::time::Duration;

use pgtenant::tenant::PoolMode;

use crate::relay::one_connection;
use crate::support::wire::{bind, execute, extended, failure, parse, query, startup, sync, terminate, value};
use crate::support::{Message, Watch, Wire, proxy, unique, until, world};

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_share_two_backends_and_each_gets_its_own_answers() {
    let world = world().await;
    let tenant = world.tenant_in(&unique("crowd"), &["crm"], &[]).await;
    let proxy = proxy(world, |config| config.pool.size = 2).await;
    let watch = Watch::over(&tenant, "crm").await;
    let mut clients = Vec::new();
    for number in 0..24 {
        let mut client = Wire::login(proxy.address, &tenant, "crm").await;
        clients.push(tokio::spawn(async move {
            for round in 0..20 {
                let expected = format!("{number} in {round}");
                let sql = format!("SELECT '{expected}'");
                let messages = match round % 3 {
                    0 => query(&sql),
                    1 => [extended(&sql), sync()].concat(),
                    _ => [query("BEGIN"), [extended(&sql), sync()].concat(), query("COMMIT")].concat(),
                };
                client.send(&messages).await;
                if round % 3 == 2 {
                    assert_eq!(client.kinds().await, "CZ");
                }
                assert_eq!(value(&client.until_ready().await), expected);
                if round % 3 == 2 {
                    assert_eq!(client.kinds().await, "CZ");
                }
            }
        }));
    }
    for client in clients {
        client.await.expect("a client with its own answers");
    }
    assert!(watch.backends("true").await.len() <= 2);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_is_one_clients_for_its_transaction_and_the_next_ones_after_it() {
    let (tenant, proxy, _) = one_connection("transaction").await;
    let mut first = Wire::login(proxy.address, &tenant, "crm").await;
    let mut second = Wire::login(proxy.address, &tenant, "crm").await;
    first.query("BEGIN; INSERT INTO notes (note) VALUES ('from the first')").await;
    second.send(&query("SELECT count(*) FROM notes")).await;
    let pid = first.ask("SELECT pg_backend_pid()").await;
    first.query("SAVEPOINT a; SELECT 1/0").await;
    first.query("ROLLBACK TO a").await;
    assert_eq!(first.ask("SELECT pg_backend_pid()").await, pid);
    first.query("COMMIT").await;
    assert_eq!(value(&second.until_ready().await), "2", "served only after the commit");
    assert_eq!(second.ask("SELECT pg_backend_pid()").await, pid);
    proxy.stop().await;
}

/// What asyncpg's pool sends whenever a connection comes back to it.
const RESET: &str = "SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;";

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_only_take_state_away_keep_no_backend_and_leave_the_context_in_place() {
    let world = world().await;
    let tenant = world.tenant(&unique("reset")).await;
    let proxy = proxy(world, |config| config.pool.size = 1).await;
    for module in ["crm", "shop"] {
        let startup = startup(&[("user", &tenant.user()), ("database", module), ("application_name", "mine")]);
        let mut first = Wire::login_with(proxy.address, &startup, &tenant.password).await.expect("log in");
        let mut second = Wire::login(proxy.address, &tenant, module).await;
        for _ in 0..3 {
            first.query("SELECT 1").await;
            first.query(RESET).await;
            assert_eq!(second.ask("SELECT note || current_setting('application_name') FROM notes").await, tenant.slug);
            second.query(RESET).await;
            let mine = first.ask("SELECT note || current_setting('application_name') FROM notes").await;
            assert_eq!(mine, format!("{}mine", tenant.slug));
        }
    }
    proxy.stop().await;
}

/// State of a session: how it is made, how it is seen, what is seen, and what another session sees.
const STATES: [(&str, &str, &str, &str); 7] = [
    ("SELECT set_config(concat('app.', 'mine'), 'x', false)", "SELECT current_setting('app.mine', true)", "x", ""),
    ("LISTEN news", "SELECT count(*) FROM pg_listening_channels()", "1", "0"),
    (
        "SELECT pg_advisory_lock(7)",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
        "1",
        "0",
    ),
    ("CREATE TEMP TABLE t AS SELECT 1 AS a", "SELECT to_regclass('pg_temp.t')::text", "t", ""),
    ("PREPARE mine AS SELECT 1", "SELECT count(*) FROM pg_prepared_statements", "1", "0"),
    ("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT", "SELECT count(*) FROM pg_cursors", "1", "0"),
    (
        "DO $$ BEGIN PERFORM set_config('app.mine', 'x', false); END $$",
        "SELECT current_setting('app.mine', true)",
        "x",
        "",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn state_stays_with_its_session_and_the_next_client_finds_none() {
    let world = world().await;
    let tenant = world.tenant_in(&unique("state"), &["crm"], &[]).await;
    let watch = Watch::over(&tenant, "crm").await;
    for (mode, size) in [(PoolMode::Transaction, 2), (PoolMode::Session, 2)] {
        let proxy = proxy(world, |config| {
            config.pool.mode = mode;
            config.pool.size = size;
        })
        .await;
        for (make, see, seen, clean) in STATES {
            let mut owner = Wire::login(proxy.address, &tenant, "crm").await;
            owner.send(&query(make)).await;
            value(&owner.until_ready().await);
            let pid = owner.ask("SELECT pg_backend_pid()").await;
            let mut other = Wire::login(proxy.address, &tenant, "crm").await;
            for _ in 0..3 {
                assert_eq!(other.ask(see).await, clean, "{make} in {mode:?}, seen by another");
                assert_eq!(owner.ask(see).await, seen, "{make} in {mode:?}");
                assert_eq!(owner.ask("SELECT pg_backend_pid()").await, pid);
            }
            // With one connection held by the other, the next client can only get the owner's, or a new one in its place.
            other.query("BEGIN").await;
            owner.send(&terminate()).await;
            let mut next = Wire::login(proxy.address, &tenant, "crm").await;
            assert_eq!(next.ask(see).await, clean, "{make} in {mode:?}, found by the next");
            let closed = make.contains("TEMP") || make.starts_with("DO");
            let next_pid = next.ask("SELECT pg_backend_pid()").await;
            assert_eq!(next_pid != pid, closed, "{make} in {mode:?}: only what cannot be restored is closed");
            next.send(&terminate()).await;
            other.send(&terminate()).await;
            drop((next, other));
            watch.until_backends(0, "state <> 'idle'").await;
        }
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn named_statements_stay_with_their_session_and_go_with_it() {
    let world = world().await;
    let tenant = world.tenant_in(&unique("named"), &["crm"], &[]).await;
    let proxy = proxy(world, |config| config.pool.size = 2).await;
    let mut first = Wire::login(proxy.address, &tenant, "crm").await;
    let mut second = Wire::login(proxy.address, &tenant, "crm").await;
    for (client, text) in [(&mut first, "'of the first'"), (&mut second, "'of the second'")] {
        client.send(&[parse("s", &format!("SELECT {text}")), sync()].concat()).await;
        assert_eq!(client.kinds().await, "1Z");
    }
    for _ in 0..3 {
        for (client, text) in [(&mut first, "of the first"), (&mut second, "of the second")] {
            client.send(&[bind("s"), execute(), sync()].concat()).await;
            assert_eq!(value(&client.until_ready().await), text);
        }
    }
    first.send(&terminate()).await;
    let mut next = Wire::login(proxy.address, &tenant, "crm").await;
    next.send(&[bind("s"), execute(), sync()].concat()).await;
    assert_eq!(failure(&next.until_ready().await).0, "26000");
    assert_eq!(next.ask("SELECT count(*) FROM pg_prepared_statements WHERE name NOT LIKE 'pgtenant%'").await, "0");
    proxy.stop().await;
}

async fn batch(client: &mut Wire, messages: &[Vec<u8>]) -> Vec<Message> {
    client.send(&messages.concat()).await;
    client.until_ready().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unnamed_statement_is_its_own_clients_or_nobodys() {
    let world = world().await;
    let tenant = world.tenant_in(&unique("unnamed"), &["crm"], &[]).await;
    let proxy = proxy(world, |config| config.pool.size = 2).await;
    let mut first = Wire::login(proxy.address, &tenant, "crm").await;
    let mut second = Wire::login(proxy.address, &tenant, "crm").await;
    // Parsed, and used in a later batch only.
    assert_eq!(batch(&mut first, &[parse("", "SELECT 'of the first'"), sync()]).await.len(), 2);
    assert_eq!(value(&batch(&mut second, &[extended("SELECT 'of the second'"), sync()]).await), "of the second");
    assert_eq!(value(&batch(&mut first, &[bind(""), execute(), sync()]).await), "of the first");
    // Used, and then used again.
    assert_eq!(value(&batch(&mut first, &[bind(""), execute(), sync()]).await), "of the first");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unnamed_statement_that_another_client_replaced_is_gone_and_never_the_others() {
    let (tenant, proxy, _) = one_connection("replaced").await;
    let mut first = Wire::login(proxy.address, &tenant, "crm").await;
    let mut second = Wire::login(proxy.address, &tenant, "crm").await;
    let gone = ("26000".to_owned(), "unnamed prepared statement does not exist".to_owned());
    for (before, status) in [("", 'I'), ("BEGIN", 'E')] {
        assert_eq!(value(&batch(&mut first, &[extended("SELECT 'of the first'"), sync()]).await), "of the first");
        assert_eq!(value(&batch(&mut second, &[extended("SELECT 'of the second'"), sync()]).await), "of the second");
        if !before.is_empty() {
            first.query(before).await;
            first.send(&sync()).await;
            first.until_ready().await;
        }
        let (sqlstate, text, after) = failure(&batch(&mut first, &[bind(""), execute(), sync()]).await);
        assert_eq!(((sqlstate, text), after), (gone.clone(), status), "after {before:?}");
        first.query("ROLLBACK").await;
        assert_eq!(first.ask("SELECT 'goes on'").await, "goes on");
    }
    // A Parse that the server skipped made nothing, whatever stands there from others.
    assert_eq!(value(&batch(&mut second, &[extended("SELECT 'of the second'"), sync()]).await), "of the second");
    let skipped = batch(&mut first, &[bind("nosuch"), parse("", "SELECT 'never parsed'"), sync()]).await;
    assert_eq!(failure(&skipped).0, "26000");
    let answer = batch(&mut first, &[bind(""), execute(), sync()]).await;
    assert!(!answer.iter().any(|message| message.kind == b'D'), "{answer:?}");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn session_mode_shows_the_backends_own_process_id() {
    let world = world().await;
    let tenant = world.tenant_in(&unique("session"), &["crm"], &[]).await;
    let proxy = proxy(world, |config| config.pool.mode = PoolMode::Session).await;
    let mut client = Wire::login(proxy.address, &tenant, "crm").await;
    let mut other = Wire::login(proxy.address, &tenant, "crm").await;
    assert_eq!(client.ask("SELECT pg_backend_pid()").await, client.process_id.to_string());
    client.query("LISTEN news").await;
    for sender in [other.process_id, client.process_id] {
        if sender == client.process_id {
            client.send(&query("NOTIFY news, 'x'")).await;
        } else {
            other.query("NOTIFY news, 'x'").await;
        }
        let notification = loop {
            let message = client.receive().await.expect("a notification");
            if message.kind == b'A' {
                break message;
            }
        };
        assert_eq!(notification.body, [&sender.to_be_bytes()[..], b"news\0x\0"].concat());
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_mode_shows_one_process_id_of_its_own_everywhere() {
    let (tenant, proxy, watch) = one_connection("own_pid").await;
    let mut client = Wire::login(proxy.address, &tenant, "crm").await;
    client.send(&query("LISTEN news; NOTIFY news, 'mine'")).await;
    let answer = client.until_ready().await;
    let notification = answer.iter().find(|message| message.kind == b'A').expect("a notification");
    assert_eq!(notification.body[..4], client.process_id.to_be_bytes());
    // Another's, and while nothing is asked.
    let other: i32 = watch.admin.query_one("SELECT pg_backend_pid()", &[]).await.expect("a row").get(0);
    watch.admin.batch_execute("NOTIFY news, 'theirs'").await.expect("notify");
    let notification = client.receive().await.expect("a notification");
    assert_eq!((notification.kind, &notification.body[..4]), (b'A', &other.to_be_bytes()[..]));
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reset_returns_to_the_settings_of_the_start() {
    let world = world().await;
    let tenant = world.tenant_in(&unique("reset"), &["crm"], &[]).await;
    for mode in [PoolMode::Session, PoolMode::Transaction] {
        let proxy = proxy(world, |config| config.pool.mode = mode).await;
        let user = tenant.user();
        let settings = [("DateStyle", "German, DMY"), ("TimeZone", "Asia/Tokyo"), ("options", "-c work_mem=7MB")];
        let startup = startup(&[&[("user", user.as_str()), ("database", "crm")], &settings[..]].concat());
        let mut client = Wire::login_with(proxy.address, &startup, &tenant.password).await.expect("log in");
        let reported = |name: &str| {
            let found = client.parameters.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        assert_eq!((reported("DateStyle"), reported("TimeZone")), ("German, DMY".to_owned(), "Asia/Tokyo".to_owned()));
        let see = "SELECT concat_ws('|', current_setting('DateStyle'), current_setting('TimeZone'), current_setting('work_mem'))";
        let expected = "German, DMY|Asia/Tokyo|7MB";
        assert_eq!(client.ask(see).await, expected);
        for reset in ["RESET ALL", "RESET DateStyle; RESET TimeZone; RESET work_mem", "DISCARD ALL"] {
            client.query("SET DateStyle = 'SQL'; SET TimeZone = 'UTC'; SET work_mem = '9MB'").await;
            assert_ne!(client.ask(see).await, expected);
            client.query(reset).await;
            assert_eq!(client.ask(see).await, expected, "{reset} in {mode:?}");
        }
        // Another client's settings are its own.
        let mut other = Wire::login(proxy.address, &tenant, "crm").await;
        assert_ne!(other.ask(see).await, expected);
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unused_and_old_backends_are_closed() {
    let world = world().await;
    let tenant = world.tenant_in(&unique("idle"), &["crm"], &[]).await;
    let watch = Watch::over(&tenant, "crm").await;
    let short = Duration::from_millis(300);
    let running = proxy(world, |config| config.pool.idle_timeout = short).await;
    let mut client = Wire::login(running.address, &tenant, "crm").await;
    client.query("BEGIN").await;
    let pid = client.ask("SELECT pg_backend_pid()").await;
    client.query("COMMIT").await;
    watch.until_backends(0, "true").await;
    assert_ne!(client.ask("SELECT pg_backend_pid()").await, pid);
    running.stop().await;

    let running = proxy(world, |config| config.pool.max_lifetime = short).await;
    let mut client = Wire::login(running.address, &tenant, "crm").await;
    client.query("BEGIN").await;
    let pid = client.ask("SELECT pg_backend_pid()").await;
    until("the backend is too old", async || {
        client
            .ask("SELECT clock_timestamp() - backend_start > '1s' FROM pg_stat_activity WHERE pid = pg_backend_pid()")
            .await
            == "t"
    })
    .await;
    assert_eq!(client.ask("SELECT pg_backend_pid()").await, pid, "never in the middle of a transaction");
    client.query("COMMIT").await;
    assert_ne!(client.ask("SELECT pg_backend_pid()").await, pid);
    running.stop().await;
}
