//! Messages both ways, in every order that the protocol allows, compared with PostgreSQL itself; and clients that vanish.

use std::net::SocketAddr;

use pgtenant::session::Doing;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::wire::{
    bind, close, describe, execute, execute_rows, extended, failure, flush, message, parse, query, startup, sync,
    terminate, value,
};
use crate::support::{Message, Running, Tenant, Watch, Wire, cluster, proxy, unique, until, world};

/// A tenant with a database, a proxy with one connection for it, and a look at the server.
pub(crate) async fn one_connection(name: &str) -> (Tenant, Running, Watch) {
    let world = world().await;
    let tenant = world.tenant_in(&unique(name), &["crm"], &[]).await;
    let proxy = proxy(world, |config| config.pool.size = 1).await;
    let watch = Watch::over(&tenant, "crm").await;
    (tenant, proxy, watch)
}

/// The tenant's own login, on the server itself.
pub(crate) async fn direct(tenant: &Tenant) -> Wire {
    let cluster = cluster().await;
    let address: SocketAddr = format!("{}:{}", cluster.host(), cluster.port()).parse().expect("an address");
    let module = tenant.module("crm");
    let text = |key: &str| module[key].as_str().expect("a string");
    let startup = startup(&[("user", text("role")), ("database", text("database"))]);
    Wire::login_with(address, &startup, &tenant.password).await.expect("log in")
}

/// What comes back for messages, up to the answer of a last query that is sent after them.
async fn transcript(wire: &mut Wire, messages: &[Vec<u8>], pieces: Pieces) -> Vec<Message> {
    const END: &str = "the end of the transcript";
    let end = query(&format!("SELECT '{END}'"));
    match pieces {
        Pieces::One => wire.send(&[&messages.concat()[..], &end].concat()).await,
        Pieces::Messages => {
            for message in messages {
                wire.send(message).await;
            }
            wire.send(&end).await;
        }
        Pieces::Bytes => {
            for byte in [&messages.concat()[..], &end].concat() {
                wire.send(&[byte]).await;
            }
        }
    }
    let mut transcript = Vec::new();
    while let Some(message) = wire.receive().await {
        // After a query among messages without a Sync, PostgreSQL 18 answers the next query with an internal error.
        let answered = message.kind == b'D' && message.body.ends_with(END.as_bytes());
        let last = answered || message.kind == b'E' && message.field(b'C') == "XX000";
        transcript.push(message);
        if last {
            transcript.extend(wire.until_ready().await);
            break;
        }
    }
    transcript
}

#[derive(Clone, Copy, Debug)]
enum Pieces {
    One,
    Messages,
    Bytes,
}

/// Sends each script to PostgreSQL and through the proxy, cut in three ways, and expects the same bytes; after each, another
/// client of the one connection must find everything in order.
pub(crate) async fn same_as_postgres(name: &str, scripts: &[(&str, Vec<Vec<u8>>)]) {
    let (tenant, proxy, _) = one_connection(name).await;
    for (script, messages) in scripts {
        for pieces in [Pieces::One, Pieces::Messages, Pieces::Bytes] {
            let mut postgres = direct(&tenant).await;
            postgres.stream.set_nodelay(true).expect("no delay");
            let expected = transcript(&mut postgres, messages, pieces).await;
            let mut client = Wire::login(proxy.address, &tenant, "crm").await;
            client.stream.set_nodelay(true).expect("no delay");
            let got = transcript(&mut client, messages, pieces).await;
            let kinds = |of: &[Message]| of.iter().map(|message| char::from(message.kind)).collect::<String>();
            assert_eq!(kinds(&got), kinds(&expected), "{script} in {pieces:?}");
            assert_eq!(got, expected, "{script} in {pieces:?}");
            client.send(&terminate()).await;
            let mut other = Wire::login(proxy.address, &tenant, "crm").await;
            assert_eq!(other.ask("SELECT 'in order'").await, "in order", "after {script} in {pieces:?}");
            other.send(&terminate()).await;
        }
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_order_of_messages_is_answered_as_by_postgres() {
    let abs = [&1397_u32.to_be_bytes()[..], b"\0\x01\0\x01\0\x01\0\0\0\x04\xff\xff\xff\xf9\0\x01"].concat();
    let scripts = [
        ("an empty query", vec![query("")]),
        ("only semicolons", vec![query(";;"), query(" -- nothing\n")]),
        ("many statements", vec![query("SELECT 1; SELECT 2; SELECT 3"), query("SELECT 4")]),
        ("an error among many", vec![query("SELECT 1; SELECT 1/0; SELECT 3"), query("SELECT 4")]),
        ("a whole transaction in one query", vec![query("BEGIN; SELECT 1; COMMIT; SELECT 2")]),
        ("a failed transaction", vec![query("BEGIN"), query("SELECT 1/0"), query("SELECT 1"), query("ROLLBACK")]),
        ("a failed commit", vec![query("BEGIN; SELECT 1/0"), query("COMMIT")]),
        ("nothing but Syncs", vec![sync(), sync(), sync()]),
        ("two batches", vec![extended("SELECT 1"), sync(), extended("SELECT 2"), sync()]),
        ("two statements of one batch", vec![extended("SELECT 1"), extended("SELECT 2"), sync()]),
        ("an empty statement", vec![extended(""), sync()]),
        (
            "descriptions",
            vec![
                parse("", "SELECT $1::int, 'x'"),
                describe(b'S', ""),
                describe(b'S', "nosuch"),
                sync(),
                parse("", "SELECT 1 AS one"),
                bind(""),
                describe(b'P', ""),
                execute(),
                close(b'P', ""),
                close(b'S', ""),
                sync(),
            ],
        ),
        (
            "a description of nothing",
            vec![parse("", "BEGIN"), describe(b'S', ""), bind(""), describe(b'P', ""), sync()],
        ),
        ("Flush", vec![parse("", "SELECT 1"), flush(), bind(""), flush(), execute(), flush(), sync()]),
        (
            "rows in portions",
            vec![
                parse("", "SELECT generate_series(1, 5)"),
                bind(""),
                execute_rows(2),
                execute_rows(2),
                execute_rows(2),
                sync(),
            ],
        ),
        (
            "a portal over a Sync",
            vec![
                query("BEGIN"),
                parse("", "SELECT generate_series(1, 5)"),
                bind(""),
                execute_rows(2),
                sync(),
                execute_rows(2),
                sync(),
                execute_rows(0),
                sync(),
                query("COMMIT"),
            ],
        ),
        (
            "an error skips to its Sync",
            vec![
                extended("SELECT 1/0"),
                extended("SELECT 2"),
                query("SELECT 'skipped'"),
                sync(),
                extended("SELECT 3"),
                sync(),
            ],
        ),
        (
            "errors in each kind of message",
            vec![
                parse("", "SELEC"),
                bind(""),
                execute(),
                sync(),
                bind("nosuch"),
                execute(),
                sync(),
                message(b'E', b"nosuch\0\0\0\0\0"),
                sync(),
                describe(b'P', "nosuch"),
                sync(),
                close(b'S', "nosuch"),
                sync(),
            ],
        ),
        ("a query after messages without a Sync", vec![extended("SELECT 1"), query("SELECT 2"), sync()]),
        (
            "a failing query after messages without a Sync",
            vec![extended("SELECT 1"), query("SELECT 1/0"), sync(), sync()],
        ),
        ("messages after a failing query", vec![query("SELECT 1/0"), extended("SELECT 2"), sync()]),
        ("a function call", vec![message(b'F', &abs), query("SELECT 1"), message(b'F', &abs)]),
        (
            "a function call that fails",
            vec![message(b'F', &[&[0xff; 4][..], b"\0\0\0\0\0\0"].concat()), message(b'F', &abs), sync()],
        ),
        (
            "a named statement",
            vec![
                parse("mine", "SELECT 7"),
                sync(),
                bind("mine"),
                execute(),
                sync(),
                bind("mine"),
                execute(),
                close(b'S', "mine"),
                sync(),
                bind("mine"),
                sync(),
            ],
        ),
        (
            "an unnamed statement for later",
            vec![parse("", "SELECT 8"), sync(), bind(""), execute(), sync(), bind(""), execute(), sync()],
        ),
        (
            "an unnamed statement ended by a query",
            vec![parse("", "SELECT 8"), sync(), query("SELECT 1"), bind(""), execute(), sync()],
        ),
        (
            "settings",
            vec![
                query("SET DateStyle = 'German'; SELECT DATE '2026-11-21'"),
                query("SET TimeZone = 'UTC'"),
                query("RESET ALL"),
                query("SET LOCAL TimeZone = 'UTC'"),
                query("SHOW application_name"),
                query("DISCARD ALL"),
            ],
        ),
        ("notices", vec![query("DO $$ begin raise notice 'a'; raise warning 'b'; end $$"), query("COMMIT")]),
        (
            "long texts",
            vec![
                query(&format!("SELECT length('{}')", "x".repeat(50_000))),
                extended(&format!("SELECT '{}'", "y".repeat(40_000))),
                sync(),
                query("SELECT repeat('z', 100000)"),
                query(&format!("SELEC {}", "w".repeat(20_000))),
            ],
        ),
        ("bytes that are no text", vec![message(b'Q', b"SELECT '\xff\xfe'\0"), message(b'Q', b"SELECT 1")]),
    ];
    same_as_postgres("order", &scripts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_goes_back_only_when_every_batch_of_a_pipeline_is_answered() {
    let (tenant, proxy, watch) = one_connection("owed").await;
    watch.lock(1).await;
    let mut first = Wire::login(proxy.address, &tenant, "crm").await;
    let mut second = Wire::login(proxy.address, &tenant, "crm").await;
    let blocked = "SELECT pg_advisory_xact_lock(1)";
    let batches = [extended("SELECT 'one'"), sync(), extended(blocked), sync(), query("SELECT 'three'"), sync()];
    first.send(&batches.concat()).await;
    assert_eq!(value(&first.until_ready().await), "one");
    watch.until_blocked(1).await;
    second.send(&query("SELECT 'of the second'")).await;
    watch.unlock(1).await;
    assert_eq!(first.kinds().await, "12DCZ");
    assert_eq!(value(&first.until_ready().await), "three");
    assert_eq!(first.kinds().await, "Z");
    assert_eq!(value(&second.until_ready().await), "of the second");
    assert_eq!(watch.backends("true").await.len(), 1);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_larger_than_all_buffers_flows_both_ways() {
    // More than the kernel buffers on the way, which may grow to some 20 MB.
    const QUERIES: usize = 4_000;
    let (tenant, proxy, watch) = one_connection("pipeline").await;
    let client = Wire::login(proxy.address, &tenant, "crm").await;
    let (mut read, mut write) = client.stream.into_split();
    let one = query(&format!("SELECT repeat('x', 20000) /* {} */", "y".repeat(20_000)));
    let writer = tokio::spawn(async move {
        for _ in 0..QUERIES {
            write.write_all(&one).await.expect("send");
        }
        write
    });
    // The first answer is taken only when the server can write no more: all buffers on its way are full.
    watch.until_backends(1, "wait_event = 'ClientWrite'").await;
    assert!(!writer.is_finished(), "the other way is not full");
    let mut ready = 0;
    let mut bytes = 0;
    let mut head = [0; 5];
    while ready < QUERIES {
        read.read_exact(&mut head).await.expect("an answer");
        let mut body = vec![0; u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize - 4];
        read.read_exact(&mut body).await.expect("an answer");
        bytes += body.len();
        ready += usize::from(head[0] == b'Z');
    }
    assert!(bytes > QUERIES * 20_000);
    drop(writer.await.expect("the writer"));
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_closes_its_side_gets_its_answers() {
    let (tenant, proxy, watch) = one_connection("half_closed").await;
    watch.lock(1).await;
    let mut client = Wire::login(proxy.address, &tenant, "crm").await;
    client.send(&[query("SELECT pg_advisory_xact_lock(1)"), query("SELECT 'answered'")].concat()).await;
    client.stream.shutdown().await.expect("close one side");
    watch.until_blocked(1).await;
    watch.unlock(1).await;
    let answered = async {
        let first = client.until_ready().await;
        assert!(first.iter().any(|message| message.kind == b'C'), "{first:?}");
        assert_eq!(value(&client.until_ready().await), "answered");
        // A probe of the connection may come in between; nothing else may.
        while let Some(message) = client.receive().await {
            assert_eq!(message.kind, b'S');
        }
    };
    answered.await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_before_terminate_is_done() {
    let (tenant, proxy, watch) = one_connection("terminate").await;
    for (note, messages) in [
        ("simple", query("INSERT INTO notes (note) VALUES ('simple')")),
        ("extended", [extended("INSERT INTO notes (note) VALUES ('extended')"), sync()].concat()),
    ] {
        let mut client = Wire::login(proxy.address, &tenant, "crm").await;
        client.send(&[messages, terminate()].concat()).await;
        drop(client);
        until(note, async || watch.notes(note).await == 1).await;
    }
    // Without a Sync nothing was asked to be done.
    let mut client = Wire::login(proxy.address, &tenant, "crm").await;
    client.send(&[extended("INSERT INTO notes (note) VALUES ('never')"), terminate()].concat()).await;
    assert!(!client.until_ready().await.iter().any(|message| message.kind == b'Z'));
    watch.until_backends(0, "state <> 'idle'").await;
    assert_eq!(watch.notes("never").await, 0);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_leaves_no_transaction_no_lock_and_no_statement() {
    let (tenant, proxy, watch) = one_connection("vanish").await;
    let update = "UPDATE notes SET note = 'changed'";
    let half = |messages: Vec<u8>| messages[..messages.len() - 3].to_vec();
    for (place, messages) in [
        ("in a transaction", vec![query("BEGIN"), query(update)]),
        ("in a failed transaction", vec![query("BEGIN"), query(update), query("SELECT 1/0")]),
        ("in a batch", vec![query("BEGIN"), query(update), parse("", "SELECT 1"), bind(""), flush()]),
        ("in a statement", vec![query("BEGIN"), query(update), query("SELECT pg_sleep(1000)")]),
        (
            "in a pipeline",
            vec![query("BEGIN"), query(update), query("SELECT pg_sleep(1000)"), extended("SELECT 1"), sync()],
        ),
        (
            "in a statement, before one that must be answered first",
            vec![
                query("BEGIN"),
                query(update),
                query("SELECT pg_sleep(1000)"),
                query("DEALLOCATE ALL"),
                query("SELECT 1"),
            ],
        ),
        ("in a message", vec![query("BEGIN"), query(update), half(query("SELECT 1"))]),
        (
            "in a long message",
            vec![query("BEGIN"), query(update), half(query(&format!("SELECT '{}'", "x".repeat(90_000))))],
        ),
        ("in a header", vec![query("BEGIN"), query(update), b"Q\0".to_vec()]),
    ] {
        let mut client = Wire::login(proxy.address, &tenant, "crm").await;
        client.send(&messages.concat()).await;
        assert_eq!(client.kinds().await, "CZ", "{place}");
        assert_eq!(client.kinds().await, "CZ", "{place}");
        if place.contains("statement") || place.contains("pipeline") {
            watch.until_backends(1, "wait_event = 'PgSleep'").await;
        }
        drop(client);
        watch.until_backends(0, "state <> 'idle' OR wait_event = 'PgSleep'").await;
        let mut next = Wire::login(proxy.address, &tenant, "crm").await;
        assert_eq!(next.ask("SELECT note FROM notes FOR UPDATE NOWAIT").await, tenant.slug, "{place}");
        next.send(&terminate()).await;
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_while_it_waits_for_a_connection_waits_no_more() {
    let (tenant, proxy, _) = one_connection("vanish_queued").await;
    let mut holder = Wire::login(proxy.address, &tenant, "crm").await;
    assert_eq!(holder.ask("BEGIN; SELECT 1").await, "1");
    let mut queued = Wire::login(proxy.address, &tenant, "crm").await;
    queued.send(&query("SELECT 1")).await;
    until("it waits", async || proxy.proxy.snapshot().await.clients.iter().any(|one| one.doing == Doing::Waiting))
        .await;
    drop(queued);
    until("it is gone", async || proxy.proxy.clients() == 1).await;
    assert_eq!(holder.ask("SELECT 2").await, "2");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_protocol_ends_the_session_and_never_leaves_a_dirty_backend() {
    let (tenant, proxy, watch) = one_connection("garbage").await;
    for (what, garbage) in [
        ("a server's type", message(b'Z', b"I")),
        ("no type", message(0, b"")),
        ("a password", message(b'p', b"secret\0")),
        ("a length below its own", b"Q\0\0\0\x03".to_vec()),
        ("a negative length", b"Q\xff\xff\xff\xff".to_vec()),
        ("a length over all bounds", b"Q\x7f\xff\xff\xff".to_vec()),
        ("a long Sync", message(b'S', &[0; 20_000])),
    ] {
        for before in ["", "BEGIN; UPDATE notes SET note = 'dirty'"] {
            let mut client = Wire::login(proxy.address, &tenant, "crm").await;
            client.query(before).await;
            client.send(&garbage).await;
            let (sqlstate, text, end) = failure(&client.until_ready().await);
            assert_eq!((sqlstate.as_str(), end), ("08P01", '-'), "{what} after {before:?}: {text}");
            watch.until_backends(0, "state <> 'idle'").await;
        }
    }
    let mut next = Wire::login(proxy.address, &tenant, "crm").await;
    assert_eq!(next.ask("SELECT note FROM notes FOR UPDATE NOWAIT").await, tenant.slug);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_changes_hands_only_between_whole_messages() {
    let (tenant, proxy, _) = one_connection("half_message").await;
    let mut flooding = Wire::login(proxy.address, &tenant, "crm").await;
    let mut waiting = Wire::login(proxy.address, &tenant, "crm").await;
    // Rows that no copy takes, as after a copy that failed: more than all buffers hold, so that the server's ReadyForQuery comes
    // while one of them is half sent.
    let row = message(b'd', &[b'x'; 995]);
    let flood = [query("SELECT pg_sleep(0.7)"), row.repeat(24 * 1024)].concat();
    let asking = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        for _ in 0..3 {
            assert_eq!(waiting.ask("SELECT 'mine'").await, "mine");
        }
    };
    tokio::join!(flooding.send(&flood), asking);
    assert_eq!(value(&flooding.until_ready().await), "");
    assert_eq!(flooding.ask("SELECT 'still here'").await, "still here");
}
