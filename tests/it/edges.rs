//! Carried state at its edges: resets beside settings, statements whose meaning depends on settings, time-outs that hit pgtenant's
//! own questions, and long random conversations compared with PostgreSQL's.

use pgtenant::pool::Pinning;

use crate::carried::{alternate, send, two_on_one};
use crate::relay::{direct, one_connection};
use crate::support::wire::{
    bind, close, describe, execute, extended, failure, flush, message, parse, query, startup, sync, terminate, value,
};
use crate::support::{Message, Wire, proxy, unique, world};

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_takes_nothing_away_but_what_it_names() {
    let (tenant, proxy, _) = one_connection("reset_else").await;
    let startup = startup(&[("user", &tenant.user()), ("database", "crm"), ("application_name", "base")]);
    let see = "SHOW application_name";
    for (statements, seen) in [
        (&["SET application_name = 'mine'", "RESET work_mem"][..], "mine"),
        (&["SET application_name = 'mine'; RESET work_mem"], "mine"),
        (&["RESET ALL; SET application_name = 'mine'"], "mine"),
        (&["SET application_name = 'mine'", "BEGIN; RESET ALL; ROLLBACK"], "mine"),
        (&["SET application_name = 'mine'", "BEGIN", "RESET ALL", "ROLLBACK"], "mine"),
        (&["SET application_name = 'mine'", "BEGIN", "RESET work_mem", "COMMIT"], "mine"),
        (&["BEGIN", "RESET ALL", "SET application_name = 'mine'", "COMMIT"], "mine"),
        (&["SET application_name = 'mine'; RESET application_name"], "base"),
        (&["SET application_name = 'mine'; RESET ALL"], "base"),
        (&["BEGIN", "SET application_name = 'mine'", "RESET application_name", "COMMIT"], "base"),
        (&["SET application_name = 'mine'", "RESET ALL"], "base"),
    ] {
        let mut owner = Wire::login_with(proxy.address, &startup, &tenant.password).await.expect("log in");
        let mut other = Wire::login(proxy.address, &tenant, "crm").await;
        for statement in statements {
            owner.query(statement).await;
        }
        assert_eq!(owner.ask(see).await, seen, "{statements:?}");
        alternate(&mut owner, &mut other, see, seen, "", &format!("{statements:?}")).await;
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_on_a_shared_pool_outlives_resets_of_other_parameters() {
    let ((one, mut first), (two, mut second), proxy) = two_on_one("path_reset").await;
    let own = first.ask("SHOW search_path").await;
    for (statements, seen) in [
        (&["SET search_path = 'public'", "RESET work_mem"][..], "public"),
        (&["RESET ALL; SET search_path = 'public'"], "public"),
        (&["SET search_path = 'public'", "BEGIN; RESET search_path; ROLLBACK"], "public"),
        (&["SET search_path = 'public'; RESET search_path"], &own),
        (&["BEGIN", "SET search_path = 'public'", "RESET search_path", "COMMIT"], &own),
        (&["SET search_path = 'public'; RESET ALL"], &own),
        (&["BEGIN", "RESET ALL", "SELECT count(*) FROM notes", "COMMIT"], &own),
        (&["SET SESSION AUTHORIZATION DEFAULT"], &own),
    ] {
        first.query("RESET search_path").await;
        for statement in statements {
            let answer = first.query(statement).await;
            assert!(answer.iter().all(|message| message.kind != b'E'), "{statement}: {answer:?}");
        }
        for _ in 0..2 {
            assert_eq!(first.ask("SHOW search_path").await, seen, "{statements:?}");
            assert_eq!(second.ask("SELECT string_agg(note, ',') FROM notes").await, two.slug);
        }
    }
    drop(one);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_a_reset_in_the_same_write_finds_its_own_place() {
    let ((one, mut first), (two, mut second), proxy) = two_on_one("same_write").await;
    let notes = "SELECT string_agg(note, ',') FROM notes";
    // As Npgsql does it: the reset goes in front of the first statement of the next use.
    for reset in [
        "DISCARD ALL",
        "RESET ALL",
        "SET SESSION AUTHORIZATION DEFAULT;RESET ALL;CLOSE ALL;UNLISTEN *;SELECT pg_advisory_unlock_all();\
         DISCARD SEQUENCES;DISCARD TEMP",
    ] {
        for (tenant, client) in [(&one, &mut first), (&two, &mut second)] {
            client.query("SET search_path = 'public'").await;
            client.send(&[query(reset), query(notes), extended(notes), sync()].concat()).await;
            client.until_ready().await;
            assert_eq!(value(&client.until_ready().await), tenant.slug, "{reset}");
            assert_eq!(value(&client.until_ready().await), tenant.slug, "{reset}");
            // Behind an error the server skips it; nothing may wait for its answer.
            client.send(&[extended("SELECT 1/0"), query(reset), sync(), query(notes)].concat()).await;
            assert_eq!(failure(&client.until_ready().await).0, "22012");
            assert_eq!(value(&client.until_ready().await), tenant.slug, "{reset}");
        }
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn constants_of_a_prepared_statement_are_read_with_its_clients_own_settings() {
    let (tenant, proxy, _) = one_connection("constants").await;
    let mut owner = Wire::login(proxy.address, &tenant, "crm").await;
    let mut other = Wire::login(proxy.address, &tenant, "crm").await;
    let run = |name: &str| [bind(name), execute(), sync()].concat();
    for (number, set, text, seen, clean) in [
        (
            1,
            "SET TIME ZONE 'Asia/Tokyo'",
            "SELECT extract(hour FROM timestamptz '2020-01-01 12:00Z' - timestamptz '2020-01-01 00:00')",
            "21",
            "12",
        ),
        (2, "SET DateStyle = 'ISO, DMY'", "SELECT extract(month FROM date '02/03/2020')", "3", "2"),
        (3, "SET NAMES 'LATIN1'", "SELECT length('\u{e9}')", "2", "1"),
        (4, "SET transform_null_equals = on", "SELECT (NULL::int = NULL) IS NULL", "f", "t"),
    ] {
        owner.query("RESET ALL").await;
        other.query("SET TIME ZONE 'UTC'").await;
        let [early, late] = ["early", "late"].map(|name| format!("{name}{number}"));
        // Prepared before it is set, on a connection that forgets it, and after.
        send(&mut owner, &[parse(&early, &format!("{text} -- early")), sync()]).await;
        owner.query(set).await;
        other.query("DEALLOCATE ALL").await;
        send(&mut owner, &[run(&early)]).await;
        assert_eq!(value(&send(&mut owner, &[parse(&late, text), run(&late)]).await), seen, "{set}");
        for (name, text) in [(&early, format!("{text} -- early")), (&late, text.to_owned())] {
            assert_eq!(value(&send(&mut other, &[parse(name, &text), run(name)]).await), clean, "another after {set}");
        }
        assert_eq!(value(&send(&mut owner, &[run(&late)]).await), seen, "{set}");
        owner.query("RESET ALL").await;
        // In a transaction only, and for its length only.
        let local =
            format!("BEGIN; {}", set.replace("SET ", "SET LOCAL ").replace("LOCAL NAMES", "LOCAL client_encoding TO"));
        let text = format!("{text} -- local");
        owner.query(&local).await;
        assert_eq!(
            value(&send(&mut owner, &[parse(&format!("local{number}"), &text), run(&format!("local{number}"))]).await),
            seen,
            "{local}"
        );
        owner.query("COMMIT").await;
        let local = format!("local{number}");
        assert_eq!(
            value(&send(&mut other, &[parse(&local, &text), run(&local)]).await),
            clean,
            "another after {local}"
        );
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_statement_prepared_in_sql_does_when_executed_reaches_nobody_else() {
    let (tenant, proxy, _) = one_connection("executed").await;
    let mut owner = Wire::login(proxy.address, &tenant, "crm").await;
    let mut other = Wire::login(proxy.address, &tenant, "crm").await;
    for (prepare, execute, see, clean) in [
        (
            "PREPARE p AS SELECT set_config('app.mine', 'x', false)",
            "EXECUTE p",
            "SELECT coalesce(current_setting('app.mine', true), '')",
            "",
        ),
        (
            "PREPARE p AS SELECT pg_advisory_lock(9)",
            "EXPLAIN ANALYZE EXECUTE p",
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
            "0",
        ),
    ] {
        owner.query(prepare).await;
        owner.query(execute).await;
        other.send(&query(see)).await;
        owner.query("DEALLOCATE p").await;
        owner.query("SELECT 1").await;
        owner.query("DISCARD ALL").await;
        assert_eq!(value(&other.until_ready().await), clean, "{prepare}");
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_short_time_out_never_hits_what_makes_its_connection_anothers() {
    let ((_, mut first), (two, mut second), proxy) = two_on_one("short").await;
    let second_startup = startup(&[("user", &two.user()), ("database", "shop")]);
    for set in ["SET statement_timeout = '1ms'", "SET statement_timeout = 1"] {
        for round in 0..600 {
            first.query(set).await;
            first.query("SELECT 1").await;
            let outcome = second.run("SELECT string_agg(note, ',') FROM notes").await;
            assert!(!outcome.ended && outcome.error.is_none(), "round {round}: {outcome:?}");
            assert_eq!(outcome.rows, [[two.slug.clone()]]);
            if round % 100 == 0 {
                Wire::login_with(proxy.address, &second_startup, &two.password).await.expect("log in");
            }
        }
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_that_not_every_connection_takes_stays_with_its_own() {
    let (tenant, proxy, _) = one_connection("temp_buffers").await;
    let mut owner = Wire::login(proxy.address, &tenant, "crm").await;
    let mut other = Wire::login(proxy.address, &tenant, "crm").await;
    owner.query("SET temp_buffers = '16MB'").await;
    // Where temporary tables were used, no other value can be set.
    let uses = "BEGIN; CREATE TEMP TABLE t (a int) ON COMMIT DROP; INSERT INTO t VALUES (1); COMMIT";
    other.send(&query(uses)).await;
    for _ in 0..2 {
        assert_eq!(owner.ask("SHOW temp_buffers").await, "16MB");
    }
    owner.query("DISCARD ALL").await;
    other.until_ready().await;
    assert_eq!(other.ask("SHOW temp_buffers").await, "8MB");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_was_cancelled_is_asked_again_with_the_next_statement() {
    let (tenant, proxy, mut watch) = one_connection("asked_again").await;
    let mut owner = Wire::login(proxy.address, &tenant, "crm").await;
    let mut other = Wire::login(proxy.address, &tenant, "crm").await;
    owner.query("SET statement_timeout = '100ms'").await;
    owner.query("SELECT 1 AS pg_temp_nothing").await;
    let lock = watch.admin.transaction().await.expect("begin");
    lock.batch_execute("LOCK TABLE pg_catalog.pg_depend IN ACCESS EXCLUSIVE MODE").await.expect("lock");
    owner.query("SELECT 1 AS pg_temp_nothing").await;
    other.send(&query("SELECT 'mine'")).await;
    // Answered only after the question has failed.
    assert_eq!(owner.ask("SELECT 'still'").await, "still");
    lock.rollback().await.expect("unlock");
    owner.query("SELECT 1").await;
    assert_eq!(value(&other.until_ready().await), "mine");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_statement_in_a_broken_message_fails_like_any_other() {
    let world = world().await;
    let tenant = world.tenant_in(&unique("broken"), &["crm"], &[]).await;
    let proxy = proxy(world, |config| {
        config.pool.size = 1;
        config.pool.pinning = Pinning::Refuse;
    })
    .await;
    for body in [&b"\0DO"[..], b"DO", b"name\0LOAD", b"\0LISTEN a"] {
        let mut client = Wire::login(proxy.address, &tenant, "crm").await;
        client.send(&[message(b'P', body), sync()].concat()).await;
        let answer = client.until_ready().await;
        assert_eq!(failure(&answer).0, "0A000", "{body:?}");
    }
    for body in [&b"DO"[..], b"LOAD\0", b"DO\0"] {
        let mut client = Wire::login(proxy.address, &tenant, "crm").await;
        client.send(&message(b'Q', body)).await;
        assert_eq!(failure(&client.until_ready().await).0, "0A000", "{body:?}");
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reset_of_a_drivers_pool_keeps_no_connection() {
    let (tenant, proxy, _) = one_connection("npgsql").await;
    let mut owner = Wire::login(proxy.address, &tenant, "crm").await;
    let mut other = Wire::login(proxy.address, &tenant, "crm").await;
    for reset in ["SET SESSION AUTHORIZATION DEFAULT", "RESET SESSION AUTHORIZATION"] {
        owner.query("SET work_mem = '5MB'").await;
        owner.query(&format!("{reset};RESET ALL;CLOSE ALL;UNLISTEN *;SELECT pg_advisory_unlock_all()")).await;
        assert_eq!(other.ask("SHOW work_mem").await, "4MB");
    }
    proxy.stop().await;
}

/// What of a message must be the same.
fn essence(message: &Message) -> String {
    match message.kind {
        b'E' | b'N' => format!("{} {}", char::from(message.kind), message.field(b'C')),
        kind => format!("{} {}", char::from(kind), String::from_utf8_lossy(&message.body)),
    }
}

/// A small deterministic source of choices.
struct Dice(u64);

impl Dice {
    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % count
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }

    fn message(&mut self) -> Vec<u8> {
        const QUERIES: [&str; 34] = [
            "SELECT 1",
            "SELECT 1; SELECT 2",
            "SELECT 1/0",
            "",
            "BEGIN",
            "BEGIN",
            "COMMIT",
            "ROLLBACK",
            "SAVEPOINT a",
            "ROLLBACK TO a",
            "SET work_mem = '5MB'",
            "SET work_mem = '5MB'",
            "SET work_mem = '6MB'",
            "RESET work_mem",
            "RESET ALL",
            "SET LOCAL work_mem = '7MB'",
            "SHOW work_mem",
            "SHOW work_mem",
            "SET DateStyle = 'German'",
            "SHOW DateStyle",
            "SET application_name = 'x'",
            "SHOW application_name",
            "SELECT set_config('app.x', 'y', false)",
            "SELECT coalesce(current_setting('app.x', true), '')",
            "DEALLOCATE a",
            "DEALLOCATE b",
            "DEALLOCATE ALL",
            "DISCARD ALL",
            "LISTEN news",
            "UNLISTEN *",
            "CREATE TEMP TABLE tt (a int)",
            "DROP TABLE tt",
            "BEGIN; SET work_mem = '8MB'; ROLLBACK",
            "SET work_mem = '9MB'; SELECT 1/0",
        ];
        const TEXTS: [&str; 7] = [
            "SELECT 'a'",
            "SELECT 'b'",
            "SHOW work_mem",
            "SET work_mem = '10MB'",
            "SELECT 1/0",
            "nonsense",
            "RESET work_mem",
        ];
        let name = self.of(&["", "a", "b", "a"]);
        match self.below(16) {
            0..=5 => query(self.of(&QUERIES)),
            6 | 7 => parse(name, self.of(&TEXTS)),
            8 => [parse("", self.of(&TEXTS)), bind(""), execute()].concat(),
            9 => [bind(name), execute()].concat(),
            10 => bind(name),
            11 => execute(),
            12 => describe(b'S', name),
            13 => close(b'S', name),
            14 => flush(),
            _ => sync(),
        }
    }
}

/// The answers to a batch, up to those to three empty queries behind it, which are answered whatever came before.
async fn answers(wire: &mut Wire, batch: &[u8]) -> Vec<String> {
    wire.send(&[batch, &sync(), &query("").repeat(3)].concat()).await;
    let mut answers: Vec<String> = Vec::new();
    while let Some(message) = wire.receive().await {
        answers.push(essence(&message));
        let last = answers.iter().rev().take(6).map(|answer| &answer[..1]).collect::<String>();
        if last == "ZIZIZI" {
            break;
        }
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn long_random_conversations_are_answered_as_by_postgres() {
    const SEEDS: std::ops::Range<u64> = 1..31;
    let (tenant, proxy, _) = one_connection("random").await;
    for seed in SEEDS {
        let mut dice = Dice(seed);
        let mut postgres = direct(&tenant).await;
        let mut client = Wire::login(proxy.address, &tenant, "crm").await;
        let mut other = Wire::login(proxy.address, &tenant, "crm").await;
        let mut story = Vec::new();
        for _ in 0..12 {
            let batch = (0..=dice.below(5)).flat_map(|_| dice.message()).collect::<Vec<_>>();
            story.push(String::from_utf8_lossy(&batch).replace('\0', "."));
            let expected = answers(&mut postgres, &batch).await;
            let got = answers(&mut client, &batch).await;
            assert_eq!(got, expected, "seed {seed}: {}", story.join("\n"));
            if dice.below(3) == 0 {
                // Whatever the client has left is away, and its connection is another's for once.
                for wire in [&mut postgres, &mut client] {
                    wire.query("ROLLBACK").await;
                    wire.query("DISCARD ALL").await;
                }
                let see = "SELECT concat_ws('|', current_setting('work_mem'), current_setting('DateStyle'))";
                assert_eq!(other.ask(see).await, "4MB|ISO, MDY", "seed {seed}: {}", story.join("\n"));
            }
        }
        for wire in [&mut postgres, &mut client, &mut other] {
            wire.send(&terminate()).await;
            assert!(wire.is_closed().await);
        }
    }
    proxy.stop().await;
}
