//! COPY both ways, simple and extended, whole and broken; and values of any size through a proxy of bounded memory.

use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedReadHalf;

use crate::relay::{one_connection, same_as_postgres};
use crate::support::wire::{
    bind, copy_data, copy_done, copy_fail, describe, execute, extended, failure, flush, message, parse, query, sync,
    terminate, value,
};
use crate::support::{Child, Watch, Wire, unique, world};

const IN: &str = "COPY notes (note) FROM STDIN";

#[tokio::test(flavor = "multi_thread")]
async fn copies_out_are_answered_as_by_postgres() {
    let out = "COPY (SELECT generate_series(1, 3)) TO STDOUT";
    let broken = "COPY (SELECT 1 / (3 - n) FROM generate_series(1, 5) n) TO STDOUT";
    let scripts = [
        ("a copy", vec![query(out)]),
        ("a binary copy", vec![query("COPY (SELECT 1) TO STDOUT (FORMAT binary)")]),
        ("a copy among others", vec![query(&format!("SELECT 1; {out}; SELECT 2"))]),
        ("a copy that breaks", vec![query(broken), query(out)]),
        ("a copy in a batch", vec![extended(out), sync(), extended(out), extended("SELECT 1"), sync()]),
        ("a copy that breaks in a batch", vec![extended(broken), extended("SELECT 1"), sync(), extended(out), sync()]),
        ("wide rows", vec![query("COPY (SELECT repeat('x', 100000) FROM generate_series(1, 3)) TO STDOUT")]),
    ];
    same_as_postgres("copy_out", &scripts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_in_are_answered_as_by_postgres() {
    let start = || [parse("", IN), bind(""), describe(b'P', ""), execute()].concat();
    let bad = "COPY notes (id, note) FROM STDIN";
    let scripts = [
        ("a copy", vec![query(IN), copy_data(b"a\nb\n"), copy_done()]),
        ("nothing", vec![query(IN), copy_done()]),
        (
            "rows in pieces",
            vec![query(IN), copy_data(b"a"), copy_data(b"b\nc"), copy_data(b""), copy_data(b"\n"), copy_done()],
        ),
        ("an end marker", vec![query(IN), copy_data(b"a\n\\.\n"), copy_done()]),
        (
            "two copies of one query",
            vec![query(&format!("{IN}; {IN}")), copy_data(b"a\n"), copy_done(), copy_data(b"b\n"), copy_done()],
        ),
        ("a copy that the client gives up", vec![query(IN), copy_data(b"a\n"), copy_fail("enough"), query("SELECT 1")]),
        (
            "Flush and Sync inside",
            vec![
                query(IN),
                flush(),
                copy_data(b"a\n"),
                sync(),
                copy_data(b"b\n"),
                flush(),
                sync(),
                copy_done(),
                query("SELECT 1"),
            ],
        ),
        (
            "a copy that fails early",
            vec![query("COPY nosuch FROM STDIN"), copy_data(b"a\n"), copy_done(), query("SELECT 1")],
        ),
        (
            "a copy that fails",
            vec![
                query(bad),
                copy_data(b"x\ty\n"),
                copy_data(&[b'z'; 9000]),
                copy_data(b"\n"),
                copy_done(),
                query("SELECT 1"),
            ],
        ),
        ("a copy that fails at its end", vec![query(bad), copy_data(b"1"), copy_done(), query("SELECT 1")]),
        (
            "a copy in a transaction that fails",
            vec![query("BEGIN"), query(bad), copy_data(b"x\ty\n"), copy_done(), query("SELECT 1"), query("ROLLBACK")],
        ),
        ("a copy in a batch", vec![start(), copy_data(b"a\n"), copy_done(), sync()]),
        (
            "a copy with a Sync in front, as libpq does it",
            vec![start(), sync(), copy_data(b"a\n"), copy_done(), sync()],
        ),
        (
            "a copy in a batch with Flush and Sync inside",
            vec![
                start(),
                flush(),
                copy_data(b"a\n"),
                sync(),
                flush(),
                sync(),
                copy_done(),
                flush(),
                sync(),
                extended("SELECT 1"),
                sync(),
            ],
        ),
        ("a copy and more in a batch", vec![start(), copy_data(b"a\n"), copy_done(), extended("SELECT 1"), sync()]),
        (
            "a copy in a batch that the client gives up",
            vec![
                start(),
                copy_data(b"a\n"),
                copy_fail("enough"),
                extended("SELECT 1"),
                sync(),
                extended("SELECT 2"),
                sync(),
            ],
        ),
        (
            "a copy in a batch that fails early",
            vec![extended("COPY nosuch FROM STDIN"), copy_data(b"a\n"), copy_done(), sync()],
        ),
        (
            "a copy in a batch that fails",
            vec![
                extended(bad),
                copy_data(b"x\ty\n"),
                copy_data(b"z\n"),
                copy_done(),
                extended("SELECT 1"),
                sync(),
                query("SELECT 2"),
            ],
        ),
        (
            "a copy in a batch with a Sync that fails",
            vec![extended(bad), sync(), copy_data(b"x\ty\n"), copy_done(), sync(), extended("SELECT 1"), sync()],
        ),
        (
            "the end of no copy",
            vec![copy_done(), copy_fail(""), copy_data(b"a"), query("SELECT 1"), copy_done(), sync()],
        ),
    ];
    same_as_postgres("copy_in", &scripts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_fails_before_it_reads_a_sync_never_leaves_an_answer_to_the_next_client() {
    let (tenant, proxy, watch) = one_connection("copy_sync").await;
    // The server says CopyInResponse, and fails before it reads anything of the copy: that it will answer the Sync it
    // finds then, too, only itself knows.
    let table = "CREATE TABLE slow (note text);
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_advisory_xact_lock(1); RAISE 'no copy today'; END $$;
        CREATE TRIGGER fail BEFORE INSERT ON slow EXECUTE FUNCTION fail();
        GRANT ALL ON slow TO PUBLIC";
    watch.admin.batch_execute(table).await.expect("make a table");
    let copy = "COPY slow FROM STDIN";
    // Enough for the server to read that its second answer comes well after the first.
    let rows = copy_data(b"").repeat(200_000);
    for (what, messages) in [
        ("extended", [extended(copy), sync(), rows.clone(), copy_done(), sync()].concat()),
        ("simple", [query(copy), sync(), rows, copy_done(), sync()].concat()),
    ] {
        watch.lock(1).await;
        let mut client = Wire::login(proxy.address, &tenant, "crm").await;
        client.send(&messages).await;
        watch.until_blocked(1).await;
        let mut others = Vec::new();
        for number in 0..3 {
            let mut other = Wire::login(proxy.address, &tenant, "crm").await;
            other.send(&query(&format!("SELECT 'for {number}'"))).await;
            others.push(other);
        }
        watch.unlock(1).await;
        let (sqlstate, _, status) = failure(&client.until_ready().await);
        assert_eq!((sqlstate.as_str(), status), ("P0001", 'I'), "{what}");
        drop(client);
        for (number, other) in others.iter_mut().enumerate() {
            assert_eq!(value(&other.until_ready().await), format!("for {number}"), "{what}");
        }
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_in_a_copy_leaves_nothing() {
    let (tenant, proxy, watch) = one_connection("copy_vanish").await;
    let half = copy_data(&[b'x'; 30_000])[..20_000].to_vec();
    for (what, messages) in [
        ("between rows", [query(IN), copy_data(b"vanished\n")].concat()),
        ("in a row", [query(IN), copy_data(b"vanished\n"), half.clone()].concat()),
        ("in a batch", [extended(IN), copy_data(b"vanished\n"), half].concat()),
        ("while rows come out", query("COPY (SELECT repeat('x', 1000) FROM generate_series(1, 1000000)) TO STDOUT")),
    ] {
        let mut client = Wire::login(proxy.address, &tenant, "crm").await;
        client.send(&messages).await;
        assert!(client.receive().await.is_some());
        drop(client);
        watch.until_backends(0, "state <> 'idle'").await;
        assert_eq!(watch.notes("vanished").await, 0, "{what}");
        let mut next = Wire::login(proxy.address, &tenant, "crm").await;
        assert_eq!(next.ask("SELECT 'clean'").await, "clean", "{what}");
        next.send(&terminate()).await;
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_and_copies_of_a_hundred_megabytes_pass_through_little_memory() {
    const BYTES: usize = 100 << 20;
    /// What the proxy may take in addition; its buffers are a thousandth of it.
    const KIB_MAX: u64 = 32 << 10;
    let world = world().await;
    let tenant = world.tenant_in(&unique("large"), &["crm"], &[]).await;
    let child = Child::serve(world, "").await;
    let client = Wire::login(child.address, &tenant, "crm").await;
    let before = child.memory_kib_max();
    let (mut read, mut write) = client.stream.into_split();

    write.write_all(&query(&format!("SELECT repeat('x', {BYTES})"))).await.expect("send");
    assert_eq!(drain(&mut read).await, ("TDCZ".to_owned(), BYTES + 6));

    let value = vec![b'y'; BYTES];
    let lengths = [&1_u16.to_be_bytes()[..], &u32::try_from(BYTES).expect("a length").to_be_bytes()].concat();
    let bind = message(b'B', &[b"\0\0\0\0", &lengths[..], &value, b"\0\0"].concat());
    let batch = [parse("", "SELECT length($1::text)"), bind, execute(), sync()].concat();
    write.write_all(&batch).await.expect("send");
    assert_eq!(drain(&mut read).await, ("12DCZ".to_owned(), 6 + BYTES.to_string().len()));

    let text = [&b"SELECT length('"[..], &value, b"')\0"].concat();
    write.write_all(&message(b'Q', &text)).await.expect("send");
    assert_eq!(drain(&mut read).await, ("TDCZ".to_owned(), 6 + BYTES.to_string().len()));

    write.write_all(&query(IN)).await.expect("send");
    let row = copy_data(&[&value[..10 << 20], b"\n"].concat());
    for _ in 0..10 {
        write.write_all(&row).await.expect("send");
    }
    write.write_all(&copy_done()).await.expect("send");
    assert_eq!(drain(&mut read).await, ("GCZ".to_owned(), 0));

    write.write_all(&query("COPY (SELECT note FROM notes WHERE length(note) > 1000) TO STDOUT")).await.expect("send");
    let (kinds, bytes) = drain(&mut read).await;
    assert_eq!((kinds.as_str(), bytes), ("HddddddddddcCZ", 10 * ((10 << 20) + 1)));

    let grown = child.memory_kib_max() - before;
    assert!(grown < KIB_MAX, "{grown} KiB");
    assert!(child.stop().await.success());
    Watch::over(&tenant, "crm").await.until_backends(0, "true").await;
}

/// Reads one answer without keeping it: the types of its messages, and the bytes of its rows.
async fn drain(read: &mut OwnedReadHalf) -> (String, usize) {
    use tokio::io::AsyncReadExt;
    let (mut kinds, mut bytes) = (String::new(), 0);
    let mut scratch = vec![0; 1 << 16];
    loop {
        let mut head = [0; 5];
        read.read_exact(&mut head).await.expect("an answer");
        let mut rest = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize - 4;
        kinds.push(char::from(head[0]));
        if matches!(head[0], b'D' | b'd') {
            bytes += rest;
        }
        while rest > 0 {
            let part = rest.min(scratch.len());
            rest -= read.read(&mut scratch[..part]).await.expect("an answer");
        }
        if head[0] == b'Z' {
            return (kinds, bytes);
        }
    }
}
