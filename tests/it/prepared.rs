//! Named prepared statements in transaction mode: a client's statements follow it from one server connection to the next.

use crate::relay::one_connection;
use crate::support::wire::{
    bind, execute, extended, failure, flush, message, parse, query, sync, value as first_value,
};
use crate::support::{Wire, proxy, unique, world};

fn describe(name: &str) -> Vec<u8> {
    message(b'D', &[b"S", name.as_bytes(), b"\0"].concat())
}

fn close(name: &str) -> Vec<u8> {
    message(b'C', &[b"S", name.as_bytes(), b"\0"].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_text_under_two_search_paths_is_two_statements() {
    let (tenant, proxy, watch) = one_connection("two_paths").await;
    let role = tenant.place("crm", "role");
    let make = format!(
        "CREATE SCHEMA one; CREATE TABLE one.things AS SELECT 'one'::text AS a; CREATE SCHEMA two; \
         CREATE TABLE two.things AS SELECT 2 AS a, 3 AS b; GRANT USAGE ON SCHEMA one, two TO \"{role}\"; \
         GRANT SELECT ON one.things, two.things TO \"{role}\""
    );
    watch.admin.batch_execute(&make).await.expect("two schemas");
    let mut clients = Vec::new();
    for (path, columns) in [("one", 1), ("two", 2)] {
        let mut client = Wire::login(proxy.address, &tenant, "crm").await;
        client.query(&format!("SET search_path = {path}")).await;
        client.send(&[parse("s", "SELECT * FROM things"), sync()].concat()).await;
        assert_eq!(client.kinds().await, "1Z");
        clients.push((client, columns));
    }
    for _ in 0..3 {
        for (client, columns) in &mut clients {
            client.send(&[bind("s"), execute(), sync()].concat()).await;
            let answer = client.until_ready().await;
            let row = answer.iter().find(|message| message.kind == b'D').expect("a row, and no stale plan");
            assert_eq!(row.body[..2], u16::to_be_bytes(*columns));
        }
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_of_the_protocol_can_be_given_up_by_sql() {
    let (tenant, proxy, _) = one_connection("deallocate").await;
    let mut owner = Wire::login(proxy.address, &tenant, "crm").await;
    let mut other = Wire::login(proxy.address, &tenant, "crm").await;
    let tag = |answer: &[crate::support::Message]| {
        answer.iter().map(|message| String::from_utf8_lossy(&message.body).into_owned()).collect::<Vec<_>>()
    };
    for (before, after) in
        [("SELECT 1", "SELECT 1"), ("BEGIN", "COMMIT"), ("BEGIN; SAVEPOINT a", "ROLLBACK TO a; COMMIT")]
    {
        owner.send(&[parse("s", "SELECT 'mine'"), sync()].concat()).await;
        owner.until_ready().await;
        // Whether this connection has the statement or not.
        assert_eq!(other.run("DISCARD ALL").await.error, None);
        owner.query(before).await;
        let answer = owner.query("DEALLOCATE s").await;
        assert_eq!(tag(&answer)[0], "DEALLOCATE\0", "{before}");
        assert_eq!(answer.len(), 2, "{before}");
        owner.query(after).await;
        owner.send(&[bind("s"), execute(), sync()].concat()).await;
        assert_eq!(owner.until_ready().await[0].field(b'C'), "26000", "{before}");
        assert_eq!(other.ask("SELECT 'not held up'").await, "not held up");
    }
    // In a transaction that has failed it fails, and the statement is still there.
    owner
        .send(&[parse("s", "SELECT 'mine'"), sync(), query("BEGIN; SELECT 1/0"), query("DEALLOCATE s")].concat())
        .await;
    owner.until_ready().await;
    owner.until_ready().await;
    assert_eq!(owner.until_ready().await[0].field(b'C'), "25P02");
    owner.query("ROLLBACK").await;
    owner.send(&[bind("s"), execute(), sync()].concat()).await;
    assert_eq!(value(&owner.until_ready().await), "mine");
    assert_eq!(owner.query("DEALLOCATE nosuch").await[0].field(b'C'), "26000");
    proxy.stop().await;
}

/// The last column of the only row.
fn value(messages: &[crate::support::Message]) -> String {
    let row = messages.iter().find(|message| message.kind == b'D').expect("a row");
    String::from_utf8_lossy(&row.body[6..]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_statement_lives_on_after_its_connection_served_others() {
    let world = world().await;
    let tenant = world.tenant("named_ps").await;
    let proxy = proxy(world, |config| config.pool.size = 2).await;
    for module in ["crm", "shop"] {
        let mut one = Wire::login(proxy.address, &tenant, module).await;
        let mut two = Wire::login(proxy.address, &tenant, module).await;
        one.send(&[parse("s", "SELECT 'one'"), sync()].concat()).await;
        assert_eq!(one.kinds().await, "1Z");
        two.send(&[parse("s", "SELECT 'two'"), sync()].concat()).await;
        assert_eq!(two.kinds().await, "1Z");
        for _ in 0..3 {
            // Whichever connection this client holds in its transaction, the other gets the other one.
            one.send(&query("BEGIN")).await;
            one.until_ready().await;
            two.send(&[bind("s"), execute(), sync()].concat()).await;
            assert_eq!(value(&two.until_ready().await), "two");
            one.send(&[bind("s"), execute(), sync()].concat()).await;
            assert_eq!(value(&one.until_ready().await), "one");
            one.send(&query("COMMIT")).await;
            one.until_ready().await;
        }
        one.send(&[describe("s"), bind("s"), execute(), close("s"), sync()].concat()).await;
        assert_eq!(one.kinds().await, "tT2DC3Z");
        one.send(&[bind("s"), execute(), sync()].concat()).await;
        let answers = one.until_ready().await;
        assert_eq!(answers[0].field(b'C'), "26000", "a closed statement is gone");
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_statement_of_many_clients_is_parsed_once_on_a_connection() {
    let world = world().await;
    let tenant = world.tenant("shared_ps").await;
    let proxy = proxy(world, |config| config.pool.size = 1).await;
    for name in ["a", "b", "c"] {
        let mut client = Wire::login(proxy.address, &tenant, "crm").await;
        client.send(&[parse(name, "SELECT note FROM notes"), bind(name), execute(), sync()].concat()).await;
        assert_eq!(client.kinds().await, "12DCZ", "ParseComplete comes in its place, whoever sends it");
    }
    let mut client = Wire::login(proxy.address, &tenant, "crm").await;
    client.send(&query("SELECT count(*) FROM pg_prepared_statements")).await;
    assert_eq!(first_value(&client.until_ready().await), "1");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parse_that_failed_or_was_skipped_leaves_no_statement() {
    let world = world().await;
    let tenant = world.tenant("failed_ps").await;
    let proxy = proxy(world, |config| config.pool.size = 1).await;
    let mut client = Wire::login(proxy.address, &tenant, "crm").await;
    client.send(&[parse("bad", "SELECT nothing"), parse("late", "SELECT 1"), sync()].concat()).await;
    assert_eq!(client.kinds().await, "EZ");
    for name in ["bad", "late"] {
        client.send(&[bind(name), execute(), sync()].concat()).await;
        assert_eq!(client.until_ready().await[0].field(b'C'), "26000", "{name}");
    }
    client.send(&[parse("late", "SELECT 2"), bind("late"), execute(), sync()].concat()).await;
    assert_eq!(client.kinds().await, "12DCZ");
    client.send(&[parse("late", "SELECT 3"), sync()].concat()).await;
    assert_eq!(client.until_ready().await[0].field(b'C'), "42P05", "the name is taken");
    client.send(&[close("late"), query("SELECT 1/0"), bind("late"), sync()].concat()).await;
    assert_eq!(client.kinds().await, "3EZ");
    assert_eq!(client.kinds().await, "EZ");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_survive_pipelines_and_errors_in_them() {
    let world = world().await;
    let tenant = world.tenant("piped_ps").await;
    let proxy = proxy(world, |config| config.pool.size = 1).await;
    let mut client = Wire::login(proxy.address, &tenant, "crm").await;
    let batch = [bind("s"), execute(), sync()].concat();
    let pipeline =
        [parse("s", "SELECT 1"), batch.clone(), parse("t", "SELECT 1/0"), bind("t"), execute(), sync(), batch].concat();
    client.send(&pipeline).await;
    assert_eq!(client.kinds().await, "12DCZ");
    assert_eq!(client.kinds().await, "1EZ", "a constant is computed while it is bound");
    assert_eq!(client.kinds().await, "2DCZ");
    // A close that an error takes along has not happened.
    client.send(&[bind("t"), execute(), close("s"), sync()].concat()).await;
    assert_eq!(client.kinds().await, "EZ");
    client.send(&[bind("s"), execute(), sync()].concat()).await;
    assert_eq!(client.kinds().await, "2DCZ");
    // Known statements only, answered without the server: and before what follows.
    let mut other = Wire::login(proxy.address, &tenant, "crm").await;
    other.send(&[parse("x", "SELECT 1"), close("x"), parse("x", "SELECT 1"), describe("x"), sync()].concat()).await;
    assert_eq!(other.kinds().await, "131tTZ");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn least_recently_used_statements_are_closed_beyond_the_bound_and_prepared_again() {
    let world = world().await;
    let tenant = world.tenant("lru_ps").await;
    let proxy = proxy(world, |config| {
        config.pool.size = 1;
        config.pool.max_prepared_statements = 3;
    })
    .await;
    let mut client = Wire::login(proxy.address, &tenant, "crm").await;
    for round in 0..2 {
        for number in 0..8 {
            let name = format!("s{number}");
            let parse = if round == 0 { parse(&name, &format!("SELECT {number}")) } else { Vec::new() };
            client.send(&[parse, bind(&name), execute(), sync()].concat()).await;
            assert_eq!(value(&client.until_ready().await), number.to_string());
        }
    }
    client.send(&query("SELECT count(*) FROM pg_prepared_statements")).await;
    let count: u32 = value(&client.until_ready().await).parse().expect("a number");
    assert!((1..=4).contains(&count), "{count} statements are kept");
    proxy.stop().await;
}

/// A client whose named statement `s` has its plan on the only connection, and the means to change its table.
async fn planned(name: &str) -> (crate::support::Tenant, crate::support::Running, Wire, tokio_postgres::Client) {
    let world = world().await;
    let tenant = world.tenant_in(&unique(name), &["crm"], &[]).await;
    let proxy = proxy(world, |config| config.pool.size = 1).await;
    let mut client = Wire::login(proxy.address, &tenant, "crm").await;
    client.send(&[parse("s", "SELECT * FROM notes"), bind("s"), execute(), sync()].concat()).await;
    assert_eq!(client.kinds().await, "12DCZ");
    let admin = crate::support::cluster().await.connect(tenant.place("crm", "database")).await.expect("connect");
    (tenant, proxy, client, admin)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_whose_table_changed_is_prepared_again_before_its_client_hears_of_it() {
    let (tenant, proxy, mut client, admin) = planned("stale_ps").await;
    let mut newcomer = Wire::login(proxy.address, &tenant, "crm").await;
    let mut columns = 0;
    let mut alter = async || {
        columns += 1;
        admin.batch_execute(&format!("ALTER TABLE notes ADD COLUMN more{columns} int")).await.expect("alter");
    };
    let portal = message(b'D', b"P\0");
    for (batch, kinds) in [
        (vec![bind("s"), portal.clone(), execute(), sync()], "2TDCZ"),
        (vec![describe("s"), sync()], "tTZ"),
        (vec![describe("s"), bind("s"), execute(), sync()], "tT2DCZ"),
        (vec![parse("t", "SELECT * FROM notes"), bind("t"), execute(), close("t"), sync()], "12DC3Z"),
        (vec![parse("t", "SELECT * FROM notes"), describe("t"), close("t"), sync()], "1tT3Z"),
    ] {
        alter().await;
        client.send(&batch.concat()).await;
        assert_eq!(client.kinds().await, kinds);
    }
    // Whoever comes later knows nothing of the old table.
    alter().await;
    newcomer.send(&[parse("mine", "SELECT * FROM notes"), describe("mine"), flush()].concat()).await;
    for kind in b"1tT" {
        assert_eq!(newcomer.receive().await.expect("an answer").kind, *kind);
    }
    newcomer.send(&[bind("mine"), execute(), sync()].concat()).await;
    assert_eq!(newcomer.kinds().await, "2DCZ");
    alter().await;
    client.send(&[describe("s"), flush()].concat()).await;
    for kind in b"tT" {
        assert_eq!(client.receive().await.expect("an answer").kind, *kind);
    }
    client.send(&[bind("s"), execute(), sync()].concat()).await;
    assert_eq!(client.kinds().await, "2DCZ");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_statement_fails_once_where_its_client_knows_the_old_columns_or_the_batch_cannot_go_again() {
    let (_, proxy, mut client, admin) = planned("stale_once").await;
    admin.batch_execute("ALTER TABLE notes ADD COLUMN first int").await.expect("alter");
    client.send(&[bind("s"), execute(), sync()].concat()).await;
    assert_eq!(failure(&client.until_ready().await).0, "0A000", "a driver would read the row by the old columns");
    client.send(&[bind("s"), execute(), sync()].concat()).await;
    assert_eq!(client.kinds().await, "2DCZ");
    admin.batch_execute("ALTER TABLE notes ADD COLUMN more int").await.expect("alter");
    admin.batch_execute("ALTER TABLE notes ADD COLUMN second int").await.expect("alter");
    // The transaction has failed, whoever prepares what again.
    client.query("BEGIN").await;
    client.send(&[bind("s"), execute(), sync()].concat()).await;
    assert_eq!(failure(&client.until_ready().await).0, "0A000");
    client.query("ROLLBACK").await;
    client.send(&[bind("s"), execute(), sync()].concat()).await;
    assert_eq!(client.kinds().await, "2DCZ");
    admin.batch_execute("ALTER TABLE notes ADD COLUMN another int").await.expect("alter");
    // What follows in the pipeline must not overtake it.
    client.send(&[bind("s"), message(b'D', b"P\0"), execute(), sync(), query("SELECT 1")].concat()).await;
    assert_eq!(failure(&client.until_ready().await).0, "0A000");
    assert_eq!(first_value(&client.until_ready().await), "1");
    client.send(&[bind("s"), execute(), sync()].concat()).await;
    assert_eq!(client.kinds().await, "2DCZ");
    admin.batch_execute("ALTER TABLE notes ADD COLUMN third int").await.expect("alter");
    client.send(&[extended("INSERT INTO notes (note) VALUES ('once')"), bind("s"), execute(), sync()].concat()).await;
    assert_eq!(failure(&client.until_ready().await).0, "0A000");
    client.send(&[extended("SELECT count(*) FROM notes WHERE note = 'once'"), sync()].concat()).await;
    assert_eq!(first_value(&client.until_ready().await), "0");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_statements_and_long_values_pass_with_names_too() {
    let world = world().await;
    let tenant = world.tenant("long_ps").await;
    let proxy = proxy(world, |config| config.pool.size = 1).await;
    let mut client = Wire::login(proxy.address, &tenant, "crm").await;
    let sql = format!("SELECT length('{}')", "x".repeat(40_000));
    client.send(&[parse("long", &sql), bind("long"), execute(), sync()].concat()).await;
    assert_eq!(value(&client.until_ready().await), "40000");
    let text = "y".repeat(300_000);
    let length = u32::try_from(text.len()).expect("a length").to_be_bytes();
    let bind = message(b'B', &[b"\0v\0\0\0\0\x01", &length[..], text.as_bytes(), b"\0\0"].concat());
    for _ in 0..2 {
        client
            .send(&[parse("v", "SELECT length($1::text)"), bind.clone(), execute(), close("v"), sync()].concat())
            .await;
        assert_eq!(value(&client.until_ready().await), "300000");
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_no_answers_is_not_read_either() {
    const ROUNDS_MAX: usize = 3000;
    let (tenant, proxy, _) = one_connection("unread").await;
    let mut client = Wire::login(proxy.address, &tenant, "crm").await;
    client.send(&[parse("s", "SELECT 1"), sync()].concat()).await;
    client.until_ready().await;
    // pgtenant itself answers these; the server hears nothing of them.
    let pairs = [close("s"), parse("s", "SELECT 1")].concat().repeat(1000);
    let mut rounds = 0;
    while tokio::time::timeout(std::time::Duration::from_secs(3), client.try_send(&pairs)).await.is_ok() {
        rounds += 1;
        assert!(rounds < ROUNDS_MAX, "{} bytes of answers are kept for a client that reads none", rounds * 10_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_whose_close_was_skipped_is_prepared_again() {
    let world = world().await;
    let tenant = world.tenant_in(&unique("skipped_close"), &["crm"], &[]).await;
    let proxy = proxy(world, |config| {
        config.pool.size = 1;
        config.pool.max_prepared_statements = 1;
    })
    .await;
    let mut client = Wire::login(proxy.address, &tenant, "crm").await;
    client.send(&[parse("one", "SELECT 1"), bind("one"), execute(), sync()].concat()).await;
    assert_eq!(client.kinds().await, "12DCZ");
    // The second one takes the place of the first, but the server throws both messages away.
    client
        .send(
            &[parse("", "SELECT 1 / (random()::int * 0)"), bind(""), execute(), parse("two", "SELECT 2"), sync()]
                .concat(),
        )
        .await;
    assert_eq!(client.kinds().await, "12EZ");
    for _ in 0..2 {
        client.send(&[bind("one"), execute(), sync()].concat()).await;
        assert_eq!(client.kinds().await, "2DCZ");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_names_of_statements_on_servers_are_nobodys_to_use() {
    let (tenant, proxy, watch) = one_connection("names").await;
    drop(watch);
    let mut owner = Wire::login(proxy.address, &tenant, "crm").await;
    let mut guest = Wire::login(proxy.address, &tenant, "crm").await;
    owner.send(&[parse("mine", "SELECT 'mine'"), sync()].concat()).await;
    assert_eq!(owner.kinds().await, "1Z");
    let name = guest.ask("SELECT name FROM pg_prepared_statements").await;
    assert!(name.starts_with("pgtenant_"), "{name}");
    guest.send(&[bind(&name), execute(), sync()].concat()).await;
    assert_eq!(guest.kinds().await, "EZ");
    guest.send(&[close(&name), sync()].concat()).await;
    assert_eq!(guest.kinds().await, "3Z");
    owner.send(&[bind("mine"), execute(), sync()].concat()).await;
    assert_eq!(owner.kinds().await, "2DCZ");
}
