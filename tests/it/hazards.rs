//! Traps that proxies like this one have hit and that no other file here is about.

use crate::carried::{alternate, two_on_one};
use crate::relay::one_connection;
use crate::support::Wire;
use crate::support::wire::{bind, close, execute, extended, failure, parse, query, startup, sync, value};

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_may_be_set_to_nothing() {
    let (tenant, proxy, _) = one_connection("nothing").await;
    for (set, see, base) in [
        ("SET application_name = ''", "SHOW application_name", ""),
        ("SELECT set_config('search_path', '', false)", "SHOW search_path", "\"$user\", public"),
        ("SET search_path = ''", "SHOW search_path", "\"$user\", public"),
        ("SET a.b = ''", "SELECT coalesce(current_setting('a.b', true), 'none')", "none"),
    ] {
        let mut owner = Wire::login(proxy.address, &tenant, "crm").await;
        let mut other = Wire::login(proxy.address, &tenant, "crm").await;
        owner.query(set).await;
        let own = owner.ask(see).await;
        assert!(["", "\"\""].contains(&own.as_str()), "{set}: {own}");
        let seen = other.ask(see).await;
        // A custom parameter that was ever set on a connection is empty there for good.
        assert!(seen == base || see.contains("a.b"), "{set}: {seen}");
        alternate(&mut owner, &mut other, see, &own, &seen, set).await;
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_chained_or_implicit_keeps_its_connection_to_its_end() {
    let (tenant, proxy, _) = one_connection("chained").await;
    let mut owner = Wire::login(proxy.address, &tenant, "crm").await;
    let mut other = Wire::login(proxy.address, &tenant, "crm").await;
    owner.query("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY").await;
    other.send(&query("SELECT 'other'")).await;
    for end in ["COMMIT AND CHAIN", "ROLLBACK AND CHAIN"] {
        let answer = owner.query(end).await;
        assert_eq!(answer.last().map(|ready| ready.body.clone()), Some(b"T".to_vec()), "{end}");
        assert_eq!(owner.ask("SHOW transaction_isolation").await, "serializable", "{end}");
        assert_eq!(owner.ask("SHOW transaction_read_only").await, "on", "{end}");
    }
    owner.query("COMMIT AND NO CHAIN").await;
    assert_eq!(value(&other.until_ready().await), "other");
    // Of several statements in one query the last one fails, and with it all.
    let (state, _, status) = failure(&owner.query("INSERT INTO notes (note) VALUES ('x'); SELECT 1/0").await);
    assert_eq!((state.as_str(), status), ("22012", 'I'));
    // Here the first is done, and a transaction is left open.
    owner.query("BEGIN; INSERT INTO notes (note) VALUES ('y'); COMMIT; BEGIN").await;
    other.send(&query("SELECT string_agg(note, ',' ORDER BY id) FROM notes WHERE note IN ('x', 'y')")).await;
    owner.query("DELETE FROM notes WHERE note = 'y'; ROLLBACK").await;
    assert_eq!(value(&other.until_ready().await), "y");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_portal_may_bear_the_name_of_a_statement_and_is_closed_alone() {
    let (tenant, proxy, _) = one_connection("portal").await;
    let mut client = Wire::login(proxy.address, &tenant, "crm").await;
    client.send(&[parse("same", "SELECT 'alive'"), sync()].concat()).await;
    assert_eq!(client.kinds().await, "1Z");
    let named = crate::support::wire::message(b'B', b"same\0same\0\0\0\0\0\0\0");
    let run = crate::support::wire::message(b'E', b"same\0\0\0\0\0");
    client.send(&[named, run, close(b'P', "same"), bind("same"), execute(), sync()].concat()).await;
    assert_eq!(client.kinds().await, "2DC32DCZ");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_path_of_a_client_on_a_shared_pool_is_its_own() {
    let ((one, mut first), (two, mut second), proxy) = two_on_one("default_path").await;
    let own = first.ask("SHOW search_path").await;
    for set in ["SET search_path TO DEFAULT", "SET SESSION search_path = DEFAULT", "RESET search_path"] {
        for before in ["SELECT 1", "SET search_path = public"] {
            first.query(before).await;
            first.send(&[query(set), query("SELECT string_agg(note, ',') FROM notes")].concat()).await;
            first.until_ready().await;
            assert_eq!(value(&first.until_ready().await), one.slug, "{before}; {set}");
            assert_eq!(first.ask("SHOW search_path").await, own, "{before}; {set}");
            assert_eq!(second.ask("SELECT string_agg(note, ',') FROM notes").await, two.slug);
            first.send(&[extended(set), sync()].concat()).await;
            first.until_ready().await;
            assert_eq!(first.ask("SELECT string_agg(note, ',') FROM notes").await, one.slug, "{set}, extended");
        }
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_time_out_from_start_up_hits_nobody_but_its_own_client() {
    let ((one, first), (two, mut second), proxy) = two_on_one("short_start").await;
    drop(first);
    let user = one.user();
    let startup =
        startup(&[("user", &user), ("database", "shop"), ("statement_timeout", "1"), ("application_name", "short")]);
    let mut first = Wire::login_with(proxy.address, &startup, &one.password).await.expect("log in");
    for round in 0..200 {
        let outcome = first.run("SELECT count(*) FROM notes").await;
        assert!(!outcome.ended && ["", "57014"].contains(&outcome.code()), "round {round}: {outcome:?}");
        let outcome = second.run("SELECT string_agg(note, ',') FROM notes").await;
        assert!(!outcome.ended && outcome.error.is_none(), "round {round}: {outcome:?}");
        assert_eq!(outcome.rows, [[two.slug.clone()]]);
    }
    proxy.stop().await;
}
