//! Unnamed statements that come often are kept on server connections: the answers are those of a proxy that keeps none.

use crate::support::wire::{bind, close, describe, execute, extended, message, parse, query, sync, value};
use crate::support::{Message, Running, Tenant, Watch, Wire, proxy, world};

/// More often than it takes until a statement is kept.
const OFTEN: usize = 8;

/// Two clients of one tenant, each on the only connection of its proxy: one that keeps unnamed statements, and one that does not.
struct Both {
    tenant: Tenant,
    keeping: Running,
    plain: Running,
    clients: [Wire; 2],
}

impl Both {
    async fn new(slug: &str) -> Self {
        let world = world().await;
        let tenant = world.tenant(slug).await;
        let keeping = proxy(world, |config| {
            config.pool.size = 1;
            config.pool.keep_unnamed_statements = vec!["crm".to_owned()];
        })
        .await;
        let plain = proxy(world, |config| config.pool.size = 1).await;
        let clients =
            [Wire::login(keeping.address, &tenant, "crm").await, Wire::login(plain.address, &tenant, "crm").await];
        Self { tenant, keeping, plain, clients }
    }

    /// The same bytes to both; the answer, which must be the same, up to the first ReadyForQuery.
    async fn say(&mut self, bytes: &[u8]) -> Vec<Message> {
        let [keeping, plain] = &mut self.clients;
        keeping.send(bytes).await;
        plain.send(bytes).await;
        let (kept, expected) = (keeping.until_ready().await, plain.until_ready().await);
        assert_eq!(shown(&kept), shown(&expected));
        kept
    }

    /// Says it often enough to be kept.
    async fn warm(&mut self, text: &str) {
        for _ in 0..OFTEN {
            self.say(&[extended(text), sync()].concat()).await;
        }
    }

    /// The names of statements on the keeping proxy's connection, as many as begin like pgtenant's.
    async fn kept(&mut self) -> usize {
        let count = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'pgtenant\\_%'";
        self.clients[0].ask(count).await.parse().expect("a number")
    }

    async fn stop(self) {
        drop(self.clients);
        self.keeping.stop().await;
        self.plain.stop().await;
    }
}

/// What a driver can tell: types of messages and their bodies, of errors only code, text and position.
fn shown(messages: &[Message]) -> Vec<String> {
    let show = |message: &Message| match message.kind {
        b'E' => format!("E {} {} {}", message.field(b'C'), message.field(b'M'), message.field(b'P')),
        kind => format!("{} {:?}", kind as char, message.body),
    };
    messages.iter().map(show).collect()
}

fn kinds(messages: &[Message]) -> String {
    messages.iter().map(|message| message.kind as char).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_comes_often_is_prepared_once_and_answers_as_before() {
    let mut both = Both::new("unnamed").await;
    let text = "SELECT note, 1 + 1 AS two FROM notes";
    both.warm(text).await;
    assert_eq!(both.kept().await, 1);
    // Each message that may be about it.
    let whole = [parse("", text), describe(b'S', ""), bind(""), describe(b'P', ""), execute(), sync()].concat();
    assert_eq!(kinds(&both.say(&whole).await), "1tT2TDCZ");
    // Used again in a later batch, as PostgreSQL allows.
    assert_eq!(kinds(&both.say(&[bind(""), execute(), sync()].concat()).await), "2DCZ");
    // Closed, it is gone; a simple query ends it, too.
    assert_eq!(kinds(&both.say(&[close(b'S', ""), bind(""), execute(), sync()].concat()).await), "3EZ");
    both.say(&[parse("", text), sync()].concat()).await;
    both.say(&query("SELECT 1")).await;
    assert_eq!(kinds(&both.say(&[bind(""), execute(), sync()].concat()).await), "EZ");
    assert_eq!(both.kept().await, 1);
    both.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_once_or_names_no_columns_is_not_kept() {
    let mut both = Both::new("unnamed_rare").await;
    for number in 0..20 {
        both.say(&[extended(&format!("SELECT {number}")), sync()].concat()).await;
    }
    both.warm("SELECT * FROM notes").await;
    both.warm("SHOW TimeZone").await;
    both.warm("SELECT set_config('a.b', 'c', true)").await;
    assert_eq!(both.kept().await, 0);
    both.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_of_kept_statements_is_answered_in_its_order_also_around_an_error() {
    let mut both = Both::new("unnamed_pipeline").await;
    let (good, bad) = ("SELECT note FROM notes", "SELECT 1 / (length(note) - length(note)) FROM notes");
    both.warm(good).await;
    both.warm(bad).await;
    assert_eq!(both.kept().await, 2);
    let step = |text: &str| [parse("", text), bind(""), describe(b'P', ""), execute()].concat();
    let many: Vec<u8> = (0..20).flat_map(|_| step(good)).chain(sync()).collect();
    assert_eq!(kinds(&both.say(&many).await), format!("{}Z", "12TDC".repeat(20)));
    // What follows the error is skipped, and what it would have parsed is not what is there afterwards.
    let broken = [step(good), step(bad), step("SELECT 'never parsed'"), sync()].concat();
    let answer = both.say(&broken).await;
    assert_eq!(kinds(&answer), "12TDC12TEZ");
    assert_eq!(answer[8].field(b'C'), "22012");
    both.say(&step(good).into_iter().chain(sync()).collect::<Vec<_>>()).await;
    // In a transaction that has failed, Parse fails.
    both.say(&query("BEGIN")).await;
    both.say(&[step(bad), sync()].concat()).await;
    assert_eq!(both.say(&[parse("", good), sync()].concat()).await[0].field(b'C'), "25P02");
    both.say(&query("ROLLBACK")).await;
    both.say(&[step(good), sync()].concat()).await;
    both.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_types_and_settings_make_another_statement() {
    let mut both = Both::new("unnamed_types").await;
    let typed = |oid: u32| {
        let body = [&b"\0SELECT $1 AS what\0"[..], &1u16.to_be_bytes(), &oid.to_be_bytes()].concat();
        let value =
            [&b"\0\0"[..], &0u16.to_be_bytes(), &1u16.to_be_bytes(), &2u32.to_be_bytes(), b"42", &0u16.to_be_bytes()];
        [message(b'P', &body), describe(b'S', ""), message(b'B', &value.concat()), execute(), sync()].concat()
    };
    let (int4, text) = (23, 25);
    for _ in 0..OFTEN {
        for oid in [int4, text] {
            let answer = both.say(&typed(oid)).await;
            let parameters = answer.iter().find(|message| message.kind == b't').expect("ParameterDescription");
            assert_eq!(parameters.body[2..6], oid.to_be_bytes());
        }
    }
    assert_eq!(both.kept().await, 2);
    let zoned = "SELECT timestamptz '2026-01-01 00:00' AT TIME ZONE 'UTC'";
    for zone in ["UTC", "Asia/Tokyo", "UTC"] {
        both.say(&query(&format!("SET TimeZone = '{zone}'"))).await;
        both.warm(zoned).await;
    }
    // Constants that are made into texts once and for all, when the statement is parsed or its plan is made.
    let folded = "SELECT 0.1::float4::float8::text, '\\x41'::bytea::text, array_to_string('{NULL}'::text[], ',', '?')";
    for set in
        ["extra_float_digits = -5", "bytea_output = escape", "array_nulls = off", "timezone_abbreviations = 'India'"]
    {
        both.say(&query(&format!("SET {set}"))).await;
        both.warm(folded).await;
    }
    both.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_string_that_means_the_present_moment_is_not_kept() {
    let mut both = Both::new("unnamed_moment").await;
    let moments = ["'now'", "' Today '", "e'to\\x64ay'", "$$yesterday$$", "'tomorrow 12:00'"];
    for moment in moments {
        both.warm(&format!("SELECT {moment}::timestamptz > '2000-01-01'")).await;
        both.warm(&format!("SELECT 'unknown', now() > '2000-01-01', {moment}::timestamptz IS NULL")).await;
    }
    assert_eq!(both.kept().await, 0);
    // The words mean nothing outside strings, nor inside other words.
    both.warm("SELECT 'unknown', now() > '2000-01-01', E'here' AS today").await;
    assert_eq!(both.kept().await, 1);
    both.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_the_schema_through_the_proxy_are_noticed() {
    let mut both = Both::new("unnamed_ddl").await;
    let role = both.tenant.place("crm", "role").to_owned();
    let watch = Watch::over(&both.tenant, "crm").await;
    let grants = format!(
        "CREATE SCHEMA early; CREATE SCHEMA late; CREATE TABLE late.things AS SELECT 'late' AS a; \
         GRANT ALL ON SCHEMA early, late TO \"{role}\"; ALTER TABLE late.things OWNER TO \"{role}\""
    );
    watch.admin.batch_execute(&grants).await.expect("two schemas");
    both.say(&query("SET search_path = early, late")).await;
    let text = "SELECT a FROM things";
    both.warm(text).await;
    assert_eq!(both.kept().await, 1);
    // The result has another type; only one of the two clients may change it.
    both.clients[0].query("ALTER TABLE late.things ALTER a TYPE varchar(10)").await;
    both.say(&[parse("", text), bind(""), describe(b'P', ""), execute(), sync()].concat()).await;
    // The name means another table.
    both.clients[0].query("CREATE TABLE early.things AS SELECT 7 AS a").await;
    let answer = both.say(&[parse("", text), bind(""), describe(b'P', ""), execute(), sync()].concat()).await;
    assert_eq!(value(&answer), "7");
    both.clients[0].query("DROP TABLE early.things").await;
    both.say(&[parse("", text), bind(""), describe(b'P', ""), execute(), sync()].concat()).await;
    both.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_table_hides_what_a_kept_statement_reads() {
    let mut both = Both::new("unnamed_temp").await;
    let text = "SELECT note FROM notes";
    both.warm(text).await;
    both.say(&query("CREATE TEMP TABLE notes AS SELECT 'temporary' AS note")).await;
    let answer = both.say(&[extended(text), sync()].concat()).await;
    assert_eq!(value(&answer), "temporary");
    both.say(&query("DROP TABLE pg_temp.notes")).await;
    let answer = both.say(&[extended(text), sync()].concat()).await;
    assert_ne!(value(&answer), "temporary");
    both.stop().await;
}
