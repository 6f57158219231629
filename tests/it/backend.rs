//! The side that faces PostgreSQL: logins of all kinds, servers that are in trouble or hostile, cancel, and pools of real sessions.

use std::future::Future;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pgtenant::auth::scram::{self, Server as ScramServer};
use pgtenant::auth::{self, Keys, Secret, Verifier};
use pgtenant::backend::{
    Asserted, Broken, ConnectError, Connected, Credential, Departure, Endpoint, PoolKey, QueryError, ServerAddress,
    ServerConn, ServerPool, Servers, Target, Want, cancel, connect, digest, has_schema, simple,
};
use pgtenant::cluster::Cluster;
use pgtenant::pool::{CheckoutError, Limits, Permits, Pool};
use pgtenant::tenant::{ModuleName, ServerName, SslMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::support::{self, Role};

const LIMIT: Duration = Duration::from_secs(20);

fn address(host: &str, port: u16, sslmode: SslMode, ca_file: Option<PathBuf>) -> ServerAddress {
    ServerAddress { name: ServerName::parse("main").unwrap(), host: host.to_owned(), port, sslmode, ca_file }
}

fn endpoint(cluster: &Cluster, sslmode: SslMode) -> Arc<Endpoint> {
    Endpoint::new(address(cluster.host(), cluster.port(), sslmode, None), LIMIT)
}

fn password(role: &Role) -> Credential {
    Credential::Password(Secret::new(role.password.clone()))
}

/// What a proxy learns of a role's password when a client logs in: its keys.
fn keys(role: &Role) -> Keys {
    let verifier: Verifier = role.verifier.parse().unwrap();
    let server = ScramServer::new(&verifier, true, None);
    let mut client = scram::Client::new(auth::Credential::Password(Secret::new(role.password.clone())), None);
    let mechanism = client.mechanism(server.mechanisms()).unwrap();
    let (server, server_first) = server.start(mechanism, &client.first()).unwrap();
    let (_, keys) = server.finish(&client.update(&server_first).unwrap()).unwrap();
    keys
}

fn target(endpoint: &Arc<Endpoint>, role: &Role, credential: Credential) -> Target {
    Target {
        endpoint: Arc::clone(endpoint),
        database: "postgres".to_owned(),
        user: role.name.clone(),
        startup: Vec::new(),
        credential,
        require_schema: None,
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// In descending order of names: servers report in one of their own.
fn sorted(mut pairs: Vec<(String, String)>) -> Vec<(String, String)> {
    pairs.sort_by(|one, other| other.cmp(one));
    pairs
}

fn attached(connected: Connected, target: &Target) -> ServerConn {
    let want = Want { class: 1, affinity: 2, startup: Vec::new(), require_schema: None, lane: None };
    let departure = Departure::new(Permits::default(), Handle::current());
    ServerConn::attach(connected, Arc::clone(&target.endpoint), &want, departure).unwrap()
}

async fn open(target: &Target) -> ServerConn {
    attached(connect(target).await.unwrap(), target)
}

async fn ask(conn: &mut ServerConn, sql: &str) -> String {
    let outcome = simple(&mut conn.stream, sql, LIMIT).await.unwrap();
    assert_eq!(outcome.status, b'I');
    String::from_utf8(outcome.rows[0].as_ref().unwrap().to_vec()).unwrap()
}

fn value<'a>(conn: &'a ServerConn, name: &str) -> &'a str {
    &conn.parameters.iter().find(|(known, _)| known == name).unwrap().1
}

#[tokio::test]
async fn a_password_opens_a_session_whose_settings_survive_discard_all() {
    let (cluster, role) = (support::cluster().await, support::role("password").await);
    let mut target = target(&endpoint(cluster, SslMode::Disable), &role, password(&role));
    target.startup = pairs(&[("search_path", "\"a b\", pg_temp"), ("application_name", "it's"), ("user", "postgres")]);
    let mut conn = open(&target).await;
    assert_eq!(ask(&mut conn, "SELECT session_user").await, role.name);
    assert_eq!((value(&conn, "application_name"), value(&conn, "session_authorization")), ("it's", role.name.as_str()));
    assert_eq!((conn.secret.len(), conn.asserted == Asserted::Fresh), (4, true));
    assert_eq!(ask(&mut conn, "SELECT pg_backend_pid()").await, conn.process_id.to_string());

    let outcome = simple(&mut conn.stream, "SET search_path = x; SET application_name = y", LIMIT).await.unwrap();
    assert_eq!(outcome.tags, ["SET", "SET"]);
    // PostgreSQL 18 reports the path as well.
    let reports_path = conn.parameters.iter().any(|(name, _)| name == "search_path");
    let reported = |expected: &[(&str, &str)]| pairs(&expected[usize::from(!reports_path)..]);
    assert_eq!(sorted(outcome.parameters.clone()), reported(&[("search_path", "x"), ("application_name", "y")]));
    conn.note_parameters(outcome.parameters);
    assert_eq!(value(&conn, "application_name"), "y");
    let outcome = simple(&mut conn.stream, "DISCARD ALL", LIMIT).await.unwrap();
    let first = [("search_path", "\"a b\", pg_temp"), ("application_name", "it's")];
    assert_eq!(sorted(outcome.parameters), reported(&first));
    assert_eq!(ask(&mut conn, "SHOW search_path").await, "\"a b\", pg_temp");
}

#[tokio::test]
async fn a_clients_keys_open_a_session_with_and_without_tls() {
    let (cluster, role) = (support::cluster().await, support::role("keys").await);
    let keys = keys(&role);
    for (mode, tls) in [(SslMode::Disable, "f"), (SslMode::Prefer, "t"), (SslMode::Require, "t")] {
        let target = target(&endpoint(cluster, mode), &role, Credential::Keys(keys.clone()));
        let mut conn = open(&target).await;
        let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        assert_eq!(ask(&mut conn, encrypted).await, tls, "{mode}");
    }
}

#[tokio::test]
async fn certificates_are_verified_as_the_mode_says() {
    let (cluster, role) = (support::cluster().await, support::role("verify").await);
    let attempt = |host: &str, mode, ca: Option<PathBuf>| {
        let endpoint = Endpoint::new(address(host, cluster.port(), mode, ca), LIMIT);
        let target = target(&endpoint, &role, password(&role));
        async move { connect(&target).await }
    };
    let ca = cluster.ca_file();
    assert!(attempt("127.0.0.1", SslMode::VerifyFull, ca.clone()).await.is_ok());
    assert!(attempt("localhost", SslMode::VerifyFull, ca.clone()).await.is_ok());
    // Of the system's authorities none has signed it.
    for mode in [SslMode::VerifyCa, SslMode::VerifyFull] {
        let error = attempt("127.0.0.1", mode, None).await.unwrap_err();
        assert!(matches!(error, ConnectError::TlsHandshake(_) | ConnectError::TlsSettings(_)), "{error:?}");
        assert!(error.report().message.starts_with("(PT-BACKEND) "));
    }
    let missing = attempt("127.0.0.1", SslMode::VerifyCa, Some("/nonexistent/ca.pem".into())).await.unwrap_err();
    assert!(matches!(missing, ConnectError::TlsSettings(_)), "{missing:?}");
}

#[tokio::test]
async fn a_server_without_tls_is_taken_by_prefer_and_refused_by_require() {
    let cluster = Cluster::builder().start().await.unwrap();
    let superuser = |mode| Target {
        endpoint: endpoint(&cluster, mode),
        database: "postgres".to_owned(),
        user: cluster.superuser().to_owned(),
        startup: Vec::new(),
        credential: Credential::Password(Secret::new(cluster.password().to_owned())),
        require_schema: None,
    };
    assert!(connect(&superuser(SslMode::Prefer)).await.unwrap().stream.tls().is_none());
    let error = connect(&superuser(SslMode::Require)).await.unwrap_err();
    assert!(matches!(error, ConnectError::TlsRefused) && error.counts_against_server());
}

#[tokio::test]
async fn the_unix_socket_needs_no_tls_whatever_the_mode() {
    let (cluster, role) = (support::cluster().await, support::role("unix").await);
    let host = cluster.socket_dir().to_str().unwrap();
    let endpoint = Endpoint::new(address(host, cluster.port(), SslMode::VerifyFull, None), LIMIT);
    let mut conn = open(&target(&endpoint, &role, password(&role))).await;
    assert_eq!(ask(&mut conn, "SELECT 7").await, "7");
}

#[tokio::test]
async fn a_refused_client_gets_the_servers_own_words_and_a_stored_login_is_the_operators_matter() {
    let (cluster, role) = (support::cluster().await, support::role("refused").await);
    let endpoint = endpoint(cluster, SslMode::Disable);
    let other = support::role("other").await;

    let error = connect(&target(&endpoint, &role, Credential::Keys(keys(&other)))).await.unwrap_err();
    let raw = error.raw().expect("the server's own message").clone();
    let text = format!("password authentication failed for user \"{}\"", role.name);
    assert!(raw.windows(text.len()).any(|bytes| bytes == text.as_bytes()), "{raw:?}");
    assert_eq!((error.sqlstate(), error.counts_against_server(), raw[0]), ("28P01", false, b'E'));

    let error = connect(&target(&endpoint, &role, password(&other))).await.unwrap_err();
    assert!(matches!(error, ConnectError::StoredLoginRefused { .. }), "{error:?}");
    assert!(error.raw().is_none() && error.counts_against_server());
    let report = error.report();
    assert_eq!(report.sqlstate.0, "08006");
    assert!(!format!("{report:?}").contains(&role.name));
}

#[tokio::test]
async fn an_unknown_setting_is_refused_by_the_server_itself() {
    let (cluster, role) = (support::cluster().await, support::role("setting").await);
    let mut target = target(&endpoint(cluster, SslMode::Disable), &role, password(&role));
    target.startup = pairs(&[("no_such_setting", "1")]);
    let error = connect(&target).await.unwrap_err();
    assert_eq!((error.sqlstate(), error.raw().is_some()), ("42704", true));
    assert!(!error.counts_against_server());
}

#[tokio::test]
async fn a_missing_schema_is_an_error_and_no_name_gets_out_of_its_quotes() {
    let database = support::database("schema").await;
    let (cluster, role) = (support::cluster().await, support::role("schema").await);
    let odd = "it's \"odd\" \\";
    database.admin.batch_execute(&format!("CREATE SCHEMA {}", pgtenant::tenant::quote_ident(odd))).await.unwrap();
    // An operator of the tenant's own that would find anything.
    let evil = "CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC;
        CREATE FUNCTION evil.yes(name, name) RETURNS bool LANGUAGE sql AS 'SELECT true';
        CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = name, FUNCTION = evil.yes)";
    database.admin.batch_execute(evil).await.unwrap();
    let mut target = target(&endpoint(cluster, SslMode::Disable), &role, password(&role));
    target.database.clone_from(&database.name);
    target.startup = pairs(&[("search_path", "evil, pg_catalog")]);
    for (schema, there) in [(odd, true), ("evil", true), ("gone", false), ("' OR '1'='1", false)] {
        target.require_schema = Some(schema.to_owned());
        match connect(&target).await {
            Ok(connected) => {
                assert!(there, "{schema}");
                let mut conn = attached(connected, &target);
                assert!(has_schema(&mut conn.stream, schema, LIMIT).await.unwrap());
                assert!(!has_schema(&mut conn.stream, "gone", LIMIT).await.unwrap());
            }
            Err(error) => {
                assert!(!there && matches!(error, ConnectError::MissingSchema(_)), "{schema}: {error:?}");
                assert_eq!((error.report().sqlstate.0, error.counts_against_server()), ("3F000", false));
            }
        }
    }
}

#[tokio::test]
async fn an_error_in_a_statement_leaves_the_session_usable() {
    let (cluster, role) = (support::cluster().await, support::role("error").await);
    let mut conn = open(&target(&endpoint(cluster, SslMode::Require), &role, password(&role))).await;
    let error = simple(&mut conn.stream, "SELECT 1; SELECT 1/0", LIMIT).await.unwrap_err();
    assert!(matches!(&error, QueryError::Server { sqlstate, .. } if sqlstate == "22012"), "{error:?}");
    let outcome = simple(&mut conn.stream, "SELECT NULL; SELECT; BEGIN; SELECT 'a', 'b'", LIMIT).await.unwrap();
    assert_eq!((outcome.rows[0].as_ref(), outcome.rows[2].as_deref()), (None, Some(b"a".as_slice())));
    assert_eq!((outcome.tags.len(), outcome.status), (4, b'T'));
    assert!(matches!(
        simple(&mut conn.stream, "SELECT repeat('x', 100000)", LIMIT).await,
        Err(QueryError::Broken(Broken::TooLong { kind: b'D', .. }))
    ));
}

#[tokio::test]
async fn a_session_that_was_terminated_is_seen_without_asking() {
    let (cluster, role) = (support::cluster().await, support::role("terminated").await);
    for mode in [SslMode::Disable, SslMode::Require] {
        let mut conn = open(&target(&endpoint(cluster, mode), &role, password(&role))).await;
        assert!(conn.is_alive() && conn.is_alive());
        let admin = cluster.connect("postgres").await.unwrap();
        admin.query("SELECT pg_terminate_backend($1, 10000)", &[&conn.process_id]).await.unwrap();
        std::future::poll_fn(|cx| conn.stream.poll_read_ready(cx)).await.unwrap();
        assert!(!conn.is_alive(), "{mode}");
    }
}

#[tokio::test]
async fn a_cancel_request_stops_the_statement_with_and_without_tls() {
    let (cluster, role) = (support::cluster().await, support::role("cancel").await);
    for mode in [SslMode::Disable, SslMode::Require] {
        let mut conn = open(&target(&endpoint(cluster, mode), &role, password(&role))).await;
        let (process_id, secret, to) = (conn.process_id, conn.secret.clone(), conn.cancel_target());
        assert_eq!(to.encrypted, mode == SslMode::Require);
        // Retried, since a request that comes before the statement runs has no effect.
        let canceller = tokio::spawn(async move {
            loop {
                cancel(&to, process_id, &secret).await.unwrap();
            }
        });
        let error = simple(&mut conn.stream, "SELECT pg_sleep(60)", LIMIT).await.unwrap_err();
        canceller.abort();
        assert!(matches!(&error, QueryError::Server { sqlstate, .. } if sqlstate == "57014"), "{error:?}");
    }
}

/// A server that reads the startup packet and then does as told.
async fn fake<F, Fut>(script: F) -> Target
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(script(socket));
        }
    });
    Target {
        endpoint: Endpoint::new(address("127.0.0.1", port, SslMode::Disable, None), LIMIT),
        database: "d".to_owned(),
        user: "u".to_owned(),
        startup: Vec::new(),
        credential: Credential::Password(Secret::new("secret".to_owned())),
        require_schema: None,
    }
}

/// A server that says this whatever it is told, then waits for the client to go.
async fn saying(bytes: impl Into<Vec<u8>>) -> Target {
    let bytes = Arc::new(bytes.into());
    fake(move |mut socket| {
        let bytes = Arc::clone(&bytes);
        async move {
            packet(&mut socket).await;
            let _ = socket.write_all(&bytes).await;
            let _ = socket.read_to_end(&mut Vec::new()).await;
        }
    })
    .await
}

/// The body of an untyped packet.
async fn packet(socket: &mut TcpStream) -> Vec<u8> {
    let length = socket.read_u32().await.unwrap();
    let mut body = vec![0; length as usize - 4];
    socket.read_exact(&mut body).await.unwrap();
    body
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

/// All that a friendly server says at a login.
fn welcome() -> Vec<u8> {
    [
        message(b'R', &[0; 4]),
        message(b'S', b"TimeZone\0UTC\0"),
        message(b'N', b"SNOTICE\0VNOTICE\0C00000\0Mhello\0\0"),
        message(b'K', &[&7_i32.to_be_bytes()[..], &[9; 32]].concat()),
        message(b'Z', b"I"),
    ]
    .concat()
}

#[tokio::test]
async fn what_a_server_tells_at_login_is_kept() {
    // Notices and parameters come before, during and after the login proper.
    let early = [message(b'N', b"SNOTICE\0C00000\0Mfirst\0\0"), message(b'v', &[0, 3, 0, 0, 0, 0, 0, 0])].concat();
    let target = saying([early, welcome(), message(b'S', b"TimeZone\0GMT\0")].concat()).await;
    let mut conn = open(&target).await;
    assert_eq!((conn.process_id, conn.secret.as_slice(), conn.notices.len()), (7, &[9; 32][..], 2));
    assert!(conn.notices[1].starts_with(b"N\0\0\0"));
    conn.is_alive();
    assert_eq!(conn.parameters.len(), 1);
    assert!(!format!("{conn:?}").contains("9, 9"), "the cancel key is a secret");
}

#[tokio::test]
async fn a_server_that_breaks_the_protocol_is_refused() {
    let mut many = welcome();
    many.truncate(9);
    for n in 0..300 {
        many.extend(message(b'S', format!("p{n}\0v\0").as_bytes()));
    }
    let cases: Vec<(Vec<u8>, Broken)> = vec![
        (message(b'E', b"SFATAL\0Mno code\0\0"), Broken::Malformed(b'E')),
        (message(b'E', b"SFATAL\0CXX\0Mshort code\0\0"), Broken::Malformed(b'E')),
        (message(b'E', b"SFATAL\0C28000"), Broken::Malformed(b'E')),
        (
            b"E\xff\xff\xff\xff".to_vec(),
            Broken::Length(pgtenant::protocol::LengthError { kind: b'E', length: u32::MAX }),
        ),
        (b"R\0\x10\0\0".to_vec(), Broken::TooLong { kind: b'R', max: 65536 }),
        (message(b'R', &[0, 0]), Broken::Malformed(b'R')),
        (message(b'R', &[0, 0, 0, 10, b'X']), Broken::Malformed(b'R')),
        (message(b'R', &[0, 0, 0, 5, 1, 2]), Broken::Malformed(b'R')),
        (message(b'R', &[0, 0, 0, 12]), Broken::Unexpected(b'R')),
        (message(b'Z', b"I"), Broken::Unexpected(b'Z')),
        (many, Broken::Unexpected(b'S')),
        ([message(b'R', &[0; 4]), message(b'S', b"name only\0")].concat(), Broken::Malformed(b'S')),
        ([message(b'R', &[0; 4]), message(b'K', &[0; 4])].concat(), Broken::Malformed(b'K')),
        ([message(b'R', &[0; 4]), message(b'K', &[0; 300])].concat(), Broken::Malformed(b'K')),
        ([message(b'R', &[0; 4]), message(b'Z', b"T")].concat(), Broken::Unexpected(b'Z')),
        ([welcome(), message(b'D', &[0; 2])].concat(), Broken::Unexpected(b'D')),
        (message(b'N', b"Mx\0\0").repeat(200_000), Broken::TooMuch { max: 1024 * 1024 }),
    ];
    for (bytes, expected) in cases {
        let beginning = bytes[..bytes.len().min(20)].to_vec();
        let mut target = saying(bytes).await;
        // What is no SASL list needs no password to be refused.
        target.credential = Credential::Password(Secret::new("secret".to_owned()));
        match connect(&target).await {
            Err(ConnectError::Broken(Broken::Unexpected(b'R'))) if expected == Broken::Unexpected(b'R') => {}
            Err(ConnectError::UnknownMethod(12)) if expected == Broken::Unexpected(b'R') => {}
            Err(ConnectError::Broken(broken)) => assert_eq!(broken, expected, "{beginning:?}"),
            other => panic!("{beginning:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_must_end_the_scram_exchange_before_it_lets_us_in() {
    let target = saying([message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0"), welcome()].concat()).await;
    let error = connect(&target).await.unwrap_err();
    assert!(matches!(error, ConnectError::Broken(Broken::AuthenticationEnd)), "{error:?}");
    let nonsense = [message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0"), message(b'R', b"\0\0\0\x0br=mine,s=AAAA,i=1")];
    let error = connect(&saying(nonsense.concat()).await).await.unwrap_err();
    assert!(matches!(error, ConnectError::Scram(_)), "{error:?}");
}

#[tokio::test]
async fn a_password_is_never_sent_in_clear_without_tls() {
    let (sent, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let target = fake(move |mut socket| {
        let sent = sent.clone();
        async move {
            packet(&mut socket).await;
            let _ = socket.write_all(&message(b'R', &[0, 0, 0, 3])).await;
            let mut rest = Vec::new();
            let _ = socket.read_to_end(&mut rest).await;
            sent.send(rest).unwrap();
        }
    })
    .await;
    let error = connect(&target).await.unwrap_err();
    assert!(matches!(error, ConnectError::Method { needs: "TLS", .. }), "{error:?}");
    assert_eq!(seen.recv().await.unwrap(), b"");
}

#[tokio::test]
async fn md5_is_answered_with_a_password_and_refused_with_keys() {
    let server = |mut socket: TcpStream| async move {
        packet(&mut socket).await;
        let _ = socket.write_all(&message(b'R', &[0, 0, 0, 5, 1, 2, 3, 4])).await;
        let mut answer = [0; 41];
        if socket.read_exact(&mut answer).await.is_ok() {
            // md5(md5('secret' || 'u') || '\x01020304')
            assert_eq!(&answer[5..40], b"md5dffd2564502f75393b3854e1532b9fa6");
            let _ = socket.write_all(&welcome()).await;
            let _ = socket.read_to_end(&mut Vec::new()).await;
        }
    };
    let mut target = fake(server).await;
    assert_eq!(open(&target).await.process_id, 7);
    target.credential = Credential::Keys(keys(&support::role("md5").await));
    let error = connect(&target).await.unwrap_err();
    assert!(matches!(error, ConnectError::Method { needs: "a stored password", .. }), "{error:?}");
}

#[tokio::test]
async fn plain_bytes_after_the_agreement_to_tls_end_the_connection() {
    for (answer, expected) in [
        (&b"S\x16\x03\x01"[..], Broken::EarlyData),
        (b"Nx", Broken::EarlyData),
        (b"G", Broken::Encryption(b'G')),
        (b"E\0\0\0\x05x", Broken::Encryption(b'E')),
    ] {
        let mut target = saying(answer).await;
        let plain = target.endpoint.address().clone();
        target.endpoint = Endpoint::new(ServerAddress { sslmode: SslMode::Prefer, ..plain }, LIMIT);
        match connect(&target).await {
            Err(ConnectError::Broken(broken)) => assert_eq!(broken, expected),
            other => panic!("{answer:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn prefer_tries_again_without_tls_and_require_does_not() {
    let mut target = fake(|mut socket| async move {
        let asks_for_tls = packet(&mut socket).await.len() == 4;
        let answer = if asks_for_tls { b"S".to_vec() } else { welcome() };
        let _ = socket.write_all(&answer).await;
        if !asks_for_tls {
            let _ = socket.read_to_end(&mut Vec::new()).await;
        }
    })
    .await;
    let plain = target.endpoint.address().clone();
    target.endpoint = Endpoint::new(ServerAddress { sslmode: SslMode::Prefer, ..plain.clone() }, LIMIT);
    assert!(connect(&target).await.unwrap().stream.tls().is_none());
    target.endpoint = Endpoint::new(ServerAddress { sslmode: SslMode::Require, ..plain }, LIMIT);
    assert!(matches!(connect(&target).await, Err(ConnectError::TlsHandshake(_))));
}

#[tokio::test]
async fn a_server_that_starts_up_is_in_trouble_and_says_so_itself() {
    let starting = message(b'E', b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0");
    let target = saying(starting.clone()).await;
    let error = connect(&target).await.unwrap_err();
    assert_eq!(error.raw().unwrap()[..], starting);
    assert!(error.counts_against_server());
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_in_time() {
    let mut target = saying([]).await;
    target.endpoint = Endpoint::new(target.endpoint.address().clone(), Duration::from_millis(50));
    let error = connect(&target).await.unwrap_err();
    assert!(matches!(error, ConnectError::Timeout(_)) && error.counts_against_server());
}

#[tokio::test]
async fn what_comes_unasked_on_an_idle_connection_is_taken_and_half_a_message_is_death() {
    let asked = Arc::new(tokio::sync::Notify::new());
    let cases: [(Vec<u8>, bool); 6] = [
        (message(b'S', b"TimeZone\0GMT\0"), true),
        ([message(b'N', b"Mx\0\0"), message(b'A', &[0, 0, 0, 1, b'c', 0, 0])].concat(), true),
        (message(b'E', b"SFATAL\0C57P01\0Mbye\0\0"), false),
        (message(b'Z', b"I"), false),
        (b"N\0\0\0\x10M".to_vec(), false),
        (b"N\0\0\0\x01".to_vec(), false),
    ];
    for (bytes, alive) in cases {
        let (unasked, go) = (Arc::new(bytes.clone()), Arc::clone(&asked));
        let target = fake(move |mut socket| {
            let (unasked, go) = (Arc::clone(&unasked), Arc::clone(&go));
            async move {
                packet(&mut socket).await;
                let _ = socket.write_all(&welcome()).await;
                go.notified().await;
                let _ = socket.write_all(&unasked).await;
                let _ = socket.read_to_end(&mut Vec::new()).await;
            }
        })
        .await;
        let mut conn = open(&target).await;
        assert!(conn.is_alive());
        asked.notify_one();
        std::future::poll_fn(|cx| conn.stream.poll_read_ready(cx)).await.unwrap();
        assert_eq!(conn.is_alive(), alive, "{bytes:?}");
        if bytes[0] == b'S' {
            assert_eq!(value(&conn, "TimeZone"), "GMT");
        }
    }
}

/// A relay thread's runtime, and the front one that connects.
fn on_a_relay_thread<F: Future<Output = ()>>(test: impl FnOnce(Handle, &'static Cluster, Role) -> F) {
    let front = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (cluster, role) = front.block_on(async { (support::cluster().await, support::role("pooled").await) });
    let relay = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&relay, test(front.handle().clone(), cluster, role));
}

fn pool(front: &Handle, cluster: &Cluster, role: &Role, size: u32) -> Rc<ServerPool> {
    let key = PoolKey {
        tenant: None,
        module: ModuleName::parse("m").unwrap(),
        address: endpoint(cluster, SslMode::Require).address().clone(),
        database: "postgres".to_owned(),
        user: role.name.clone(),
    };
    let servers = Servers::new(&key, Credential::Keys(keys(role)), front.clone(), LIMIT);
    Pool::new(servers, Limits { size, ..Limits::from(&pgtenant::pool::Config::default()) })
}

fn want(startup: &[(&str, &str)]) -> Rc<Want> {
    let startup = pairs(startup);
    Rc::new(Want { class: digest(&startup), affinity: 0, startup, require_schema: None, lane: None })
}

#[test]
fn a_pool_lends_sessions_opened_on_another_runtime_and_keeps_settings_apart() {
    on_a_relay_thread(|front, cluster, role| async move {
        let pool = pool(&front, cluster, &role, 2);
        let (berlin, paris) = (want(&[("TimeZone", "Europe/Berlin")]), want(&[("TimeZone", "Europe/Paris")]));
        let mut first = pool.checkout(Rc::clone(&berlin)).await.unwrap();
        assert_eq!(ask(&mut first, "SHOW TimeZone").await, "Europe/Berlin");
        let process_id = first.process_id;
        first.checkin();
        let mut second = pool.checkout(Rc::clone(&paris)).await.unwrap();
        assert_eq!(ask(&mut second, "SHOW TimeZone").await, "Europe/Paris");
        assert_eq!(pool.try_checkout(&berlin).unwrap().process_id, process_id);
        second.checkin();
    });
}

#[test]
fn a_pool_never_lends_a_session_that_was_terminated() {
    on_a_relay_thread(|front, cluster, role| async move {
        let pool = pool(&front, cluster, &role, 1);
        let mut lent = pool.checkout(want(&[])).await.unwrap();
        let process_id = lent.process_id;
        let terminate = async move {
            let admin = cluster.connect("postgres").await.unwrap();
            admin.query("SELECT pg_terminate_backend($1, 10000)", &[&process_id]).await.unwrap();
        };
        front.spawn(terminate).await.unwrap();
        std::future::poll_fn(|cx| lent.stream.poll_read_ready(cx)).await.unwrap();
        lent.checkin();
        let mut next = pool.checkout(want(&[])).await.unwrap();
        assert_ne!(next.process_id, process_id);
        assert_eq!((ask(&mut next, "SELECT 1").await.as_str(), pool.stats().active), ("1", 1));
    });
}

#[test]
fn the_latest_credential_opens_the_next_session() {
    on_a_relay_thread(|front, cluster, role| async move {
        let pool = pool(&front, cluster, &role, 1);
        pool.manager().set_credential(Credential::Password(Secret::new("out of date".to_owned())));
        let error = pool.checkout(want(&[])).await.unwrap_err();
        assert!(matches!(error, CheckoutError::Connect(ConnectError::StoredLoginRefused { .. })), "{error:?}");
        assert!(pool.is_backing_off());
        pool.manager().set_credential(Credential::Keys(keys(&role)));
        let begun = Instant::now();
        while pool.checkout(want(&[])).await.is_err() {
            assert!(begun.elapsed() < LIMIT);
            tokio::task::yield_now().await;
        }
    });
}
