//! tokio-postgres: everything pipelined, named statements that are closed when dropped, portals, binary formats.

use std::collections::HashMap;
use std::fmt::Debug;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use futures_util::{SinkExt, StreamExt, TryStreamExt, stream};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde::Deserialize;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Config, Error, IsolationLevel, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

const ROWS: i64 = 3;
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct Site {
    tenant: String,
    neighbour: String,
    places: Vec<Place>,
}

#[derive(Deserialize)]
struct Place {
    name: String,
    host: String,
    port: u16,
    tls: bool,
    mode: String,
    logins: HashMap<String, Login>,
}

#[derive(Deserialize)]
struct Login {
    user: String,
    password: String,
    database: String,
}

/// A place with what the checks need beside it.
struct Visit {
    site: Arc<Site>,
    at: usize,
    tls: MakeRustlsConnect,
}

type Notifications = tokio::sync::mpsc::UnboundedReceiver<AsyncMessage>;

impl Visit {
    fn place(&self) -> &Place {
        &self.site.places[self.at]
    }

    fn config(&self, tenant: &str) -> Result<Config> {
        let login = self.place().logins.get(tenant).context("no such tenant")?;
        let mut config = Config::new();
        config.host(&self.place().host).port(self.place().port).dbname(&login.database);
        config.user(&login.user).password(&login.password);
        config.ssl_mode(if self.place().tls {
            tokio_postgres::config::SslMode::Require
        } else {
            tokio_postgres::config::SslMode::Disable
        });
        Ok(config)
    }

    async fn connect(&self) -> Result<Client> {
        Ok(self.listening(&self.site.tenant).await?.0)
    }

    async fn as_tenant(&self, tenant: &str) -> Result<Client> {
        Ok(self.listening(tenant).await?.0)
    }

    /// A connection, and what the server says unasked.
    async fn listening(&self, tenant: &str) -> Result<(Client, Notifications)> {
        let (client, mut connection) = self.config(tenant)?.connect(self.tls.clone()).await?;
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut messages = pin!(stream::poll_fn(move |cx| connection.poll_message(cx)));
            while let Some(Ok(message)) = messages.next().await {
                let _ = sender.send(message);
            }
        });
        Ok((client, receiver))
    }
}

fn equal<T: PartialEq + Debug>(found: T, expected: T) -> Result<()> {
    ensure!(found == expected, "{found:?} is not {expected:?}");
    Ok(())
}

fn fails<T>(result: Result<T, Error>, state: &SqlState) -> Result<()> {
    match result {
        Ok(_) => bail!("no error"),
        Err(error) => equal(error.code(), Some(state)),
    }
}

async fn notes(client: &Client) -> Result<Vec<String>> {
    let rows = client.query("SELECT note FROM notes ORDER BY id", &[]).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

async fn rows_are_its_own(visit: Visit) -> Result<()> {
    for tenant in [&visit.site.neighbour, &visit.site.tenant] {
        let client = visit.as_tenant(tenant).await?;
        client.batch_execute("DELETE FROM notes").await?;
        let insert = "INSERT INTO notes (id, note) SELECT i, $1 FROM generate_series(1, $2) i";
        equal(client.execute(insert, &[tenant, &i32::try_from(ROWS)?]).await?, 3)?;
    }
    for tenant in [&visit.site.tenant, &visit.site.neighbour] {
        equal(notes(&visit.as_tenant(tenant).await?).await?, vec![tenant.clone(); 3])?;
    }
    Ok(())
}

async fn wrong_password(visit: Visit) -> Result<()> {
    let mut config = visit.config(&visit.site.tenant)?;
    match config.password("wrong").connect(visit.tls.clone()).await {
        Ok(_) => bail!("let in"),
        Err(error) => equal(error.code(), Some(&SqlState::INVALID_PASSWORD)),
    }
}

async fn every_type(visit: Visit) -> Result<()> {
    let client = visit.connect().await?;
    let text =
        "SELECT $1::bool, $2::int, $3::bigint, $4::float8, $5::text, $6::bytea, $7::int[], $8::jsonb, $9::text IS NULL";
    let json = serde_json::json!({"a": [1, null]});
    let list = vec![Some(1), None, Some(3)];
    let bytes = b"\0\xff".to_vec();
    let row = client
        .query_one(text, &[&true, &-7_i32, &(1_i64 << 40), &1.5_f64, &"grüße", &bytes, &list, &json, &None::<String>])
        .await?;
    equal((row.get::<_, bool>(0), row.get::<_, i32>(1), row.get::<_, i64>(2)), (true, -7, 1 << 40))?;
    equal((row.get::<_, f64>(3), row.get::<_, String>(4)), (1.5, "grüße".to_owned()))?;
    equal((row.get::<_, Vec<u8>>(5), row.get::<_, Vec<Option<i32>>>(6)), (bytes, list))?;
    equal((row.get::<_, serde_json::Value>(7), row.get::<_, bool>(8)), (json, true))
}

async fn large_values(visit: Visit) -> Result<()> {
    let client = visit.connect().await?;
    let text = "y".repeat(5_000_000);
    equal(client.query_one("SELECT length($1)", &[&text]).await?.get(0), 5_000_000_i32)?;
    let row = client.query_one("SELECT repeat('x', $1)", &[&5_000_000_i32]).await?;
    equal(row.get::<_, String>(0).len(), 5_000_000)
}

async fn prepared_reuse(visit: Visit) -> Result<()> {
    let (first, second) = (visit.connect().await?, visit.connect().await?);
    let one = first.prepare("SELECT note || $1 FROM notes WHERE id = 1").await?;
    let two = second.prepare("SELECT id * 100 + $1 FROM notes WHERE id = 2").await?;
    equal((one.params().len(), one.columns()[0].type_().name()), (1, "text"))?;
    for i in 0..20_i32 {
        equal(first.query_one(&one, &[&i.to_string()]).await?.get(0), format!("{}{i}", visit.site.tenant))?;
        equal(second.query_one(&two, &[&i]).await?.get(0), 200 + i)?;
    }
    // Statements are closed when they are dropped, in the midst of others.
    for i in 0..200_i32 {
        let statement = first.prepare(&format!("SELECT {i} + $1::int")).await?;
        equal(first.query_one(&statement, &[&1_i32]).await?.get(0), i + 1)?;
    }
    Ok(())
}

async fn pipelined(visit: Visit) -> Result<()> {
    let client = visit.connect().await?;
    let statement = client.prepare("SELECT $1::int / $2::int").await?;
    let ask = |i: i32| {
        let (client, statement) = (&client, &statement);
        async move { client.query_one(statement, &[&i, &(i % 10)]).await }
    };
    for (i, answer) in join_all((0..500).map(ask)).await.into_iter().enumerate() {
        let i = i32::try_from(i)?;
        match i % 10 {
            0 => fails(answer, &SqlState::DIVISION_BY_ZERO)?,
            n => equal(answer?.get(0), i / n)?,
        }
    }
    let texts = (0..100).map(|i| format!("SELECT {i}, $1::text")).collect::<Vec<_>>();
    let answers = try_join_all(texts.iter().map(|text| client.query_one(text, &[&"x"]))).await?;
    equal(answers.iter().map(|row| row.get(0)).collect::<Vec<i32>>(), (0..100).collect())
}

async fn transactions(visit: Visit) -> Result<()> {
    let mut client = visit.connect().await?;
    for level in [IsolationLevel::Serializable, IsolationLevel::RepeatableRead, IsolationLevel::ReadCommitted] {
        let mut transaction = client.build_transaction().isolation_level(level).start().await?;
        transaction.execute("INSERT INTO notes (id) VALUES (900)", &[]).await?;
        let savepoint = transaction.transaction().await?;
        savepoint.execute("INSERT INTO notes (id) VALUES (901)", &[]).await?;
        fails(savepoint.query("SELECT 1 / (random() * 0)::int", &[]).await, &SqlState::DIVISION_BY_ZERO)?;
        fails(savepoint.query("SELECT 1", &[]).await, &SqlState::IN_FAILED_SQL_TRANSACTION)?;
        savepoint.rollback().await?;
        let count: i64 = transaction.query_one("SELECT count(*) FROM notes WHERE id >= 900", &[]).await?.get(0);
        equal(count, 1)?;
        // A transaction that is dropped is rolled back.
        drop(transaction);
        let count: i64 = client.query_one("SELECT count(*) FROM notes WHERE id >= 900", &[]).await?.get(0);
        equal(count, 0)?;
    }
    Ok(())
}

async fn portals(visit: Visit) -> Result<()> {
    let mut client = visit.connect().await?;
    let transaction = client.transaction().await?;
    let statement = transaction.prepare("SELECT generate_series(1, 1000)").await?;
    let (one, two) = (transaction.bind(&statement, &[]).await?, transaction.bind(&statement, &[]).await?);
    let mut seen = 0;
    loop {
        let rows = transaction.query_portal(&one, 150).await?;
        equal(transaction.query_portal(&two, 150).await?.len(), rows.len())?;
        if rows.is_empty() {
            break;
        }
        seen += rows.len();
    }
    equal(seen, 1000)
}

async fn copies(visit: Visit) -> Result<()> {
    let mut client = visit.connect().await?;
    let transaction = client.transaction().await?;
    transaction.batch_execute("CREATE TEMP TABLE t (a int, b text) ON COMMIT DROP").await?;
    let mut sink = pin!(transaction.copy_in("COPY t FROM STDIN").await?);
    let rows = (0..200).map(|part| {
        let lines: String = (0..100).map(|i| format!("{}\trow\n", part * 100 + i)).collect();
        Ok::<_, Error>(Bytes::from(lines))
    });
    sink.send_all(&mut stream::iter(rows)).await?;
    equal(sink.finish().await?, 20_000)?;
    let out = transaction.copy_out("COPY t TO STDOUT").await?;
    let lines =
        out.try_fold(0, |sum, part| async move { Ok(sum + part.iter().filter(|byte| **byte == b'\n').count()) });
    equal(lines.await?, 20_000)?;
    // One that is dropped before its end fails, and the transaction with it.
    let mut sink = Box::pin(transaction.copy_in::<_, Bytes>("COPY t FROM STDIN").await?);
    sink.send(Bytes::from_static(b"1\tone\n")).await?;
    drop(sink);
    fails(transaction.query("SELECT 1", &[]).await, &SqlState::IN_FAILED_SQL_TRANSACTION)?;
    transaction.rollback().await?;
    equal(client.query_one("SELECT 1", &[]).await?.get(0), 1_i32)
}

async fn errors(visit: Visit) -> Result<()> {
    let client = visit.connect().await?;
    for _ in 0..3 {
        fails(client.query("nonsense", &[]).await, &SqlState::SYNTAX_ERROR)?;
        fails(client.query("SELECT * FROM nosuch", &[]).await, &SqlState::UNDEFINED_TABLE)?;
        fails(client.simple_query("SELECT 1; SELECT 1/0; SELECT 2").await, &SqlState::DIVISION_BY_ZERO)?;
    }
    let rows = client.simple_query("SELECT 1; SELECT 2").await?;
    let values = rows.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    equal(values.collect::<Vec<_>>(), vec!["1", "2"])
}

async fn state_of_a_session(visit: Visit) -> Result<()> {
    let client = visit.connect().await?;
    client.batch_execute("SET work_mem = '123kB'; CREATE TEMP TABLE t AS SELECT 5 AS a").await?;
    for _ in 0..3 {
        let row = client.query_one("SELECT a, current_setting('work_mem') FROM t", &[]).await?;
        equal((row.get::<_, i32>(0), row.get::<_, String>(1)), (5, "123kB".to_owned()))?;
    }
    client.batch_execute("DISCARD ALL").await?;
    let row = client.query_one("SELECT to_regclass('t') IS NULL, current_setting('work_mem') <> '123kB'", &[]).await?;
    equal((row.get(0), row.get(1)), (true, true))
}

async fn listen_notify(visit: Visit) -> Result<()> {
    let name = format!("tokio_{}_{}", visit.place().name, visit.place().tls).to_lowercase();
    let (listener, mut said) = visit.listening(&visit.site.tenant).await?;
    listener.batch_execute(&format!("LISTEN {name}")).await?;
    visit.connect().await?.execute("SELECT pg_notify($1, 'hello')", &[&name]).await?;
    loop {
        match said.recv().await.ok_or_else(|| anyhow!("the connection was closed"))? {
            AsyncMessage::Notification(heard) => {
                return equal((heard.channel(), heard.payload()), (name.as_str(), "hello"));
            }
            _ => continue,
        }
    }
}

async fn cancel(visit: Visit) -> Result<()> {
    let client = visit.connect().await?;
    for _ in 0..3 {
        let token = client.cancel_token();
        let sleeps = client.query("SELECT pg_sleep(60)", &[]);
        let cancels = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            token.cancel_query(visit.tls.clone()).await
        };
        let (slept, canceled) = tokio::join!(sleeps, cancels);
        canceled?;
        fails(slept, &SqlState::QUERY_CANCELED)?;
        equal(client.query_one("SELECT 1", &[]).await?.get(0), 1_i32)?;
    }
    Ok(())
}

async fn many_clients(visit: Visit) -> Result<()> {
    let count = if visit.place().mode == "transaction" { 24 } else { 6 };
    let work = |i: usize| {
        let visit = &visit;
        async move {
            let tenant = if i.is_multiple_of(2) { &visit.site.tenant } else { &visit.site.neighbour };
            let client = visit.as_tenant(tenant).await?;
            let statement = client.prepare("SELECT note FROM notes WHERE id = $1").await?;
            for _ in 0..15 {
                equal(client.query_one(&statement, &[&1_i32]).await?.get::<_, String>(0), tenant.clone())?;
            }
            Ok::<_, anyhow::Error>(())
        }
    };
    try_join_all((0..count).map(work)).await?;
    Ok(())
}

/// The certificates are the demo's own.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn tls() -> Result<MakeRustlsConnect> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let verifier = Arc::new(AnyCertificate(provider));
    let config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

type Check = fn(Visit) -> Pin<Box<dyn Future<Output = Result<()>> + Send>>;

macro_rules! checks {
    ($($name:ident),* $(,)?) => { [$((stringify!($name), (|visit| Box::pin($name(visit))) as Check)),*] };
}

#[tokio::main]
async fn main() -> Result<()> {
    let site = std::env::var("DRIVERS_SITE").context("tests/drivers/run.py says where to connect")?;
    let site: Arc<Site> = Arc::new(serde_json::from_str(&site)?);
    let tls = tls()?;
    let checks = checks![
        rows_are_its_own,
        wrong_password,
        every_type,
        large_values,
        prepared_reuse,
        pipelined,
        transactions,
        portals,
        copies,
        errors,
        state_of_a_session,
        listen_notify,
        cancel,
        many_clients,
    ];
    for (at, place) in site.places.iter().enumerate() {
        let name = if place.tls { format!("{} TLS", place.name) } else { place.name.clone() };
        for (check, run) in &checks {
            let visit = Visit { site: Arc::clone(&site), at, tls: tls.clone() };
            let error = match tokio::time::timeout(LIMIT, tokio::spawn(run(visit))).await {
                Ok(Ok(Ok(()))) => None,
                Ok(Ok(Err(error))) => Some(format!("{error:#}")),
                Ok(Err(panicked)) => Some(panicked.to_string()),
                Err(_) => Some(format!("still running after {LIMIT:?}")),
            };
            println!("{}", serde_json::json!({"place": name, "check": check, "error": error}));
        }
    }
    Ok(())
}
