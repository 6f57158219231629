//! The beginning of a session, byte by byte: versions, encryption requests, hostile packets, and what the client asked for.

use std::net::SocketAddr;
use std::time::Duration;

use pgtenant::cluster::Cluster;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::wire::{query, startup, startup_of, value};
use crate::support::{Running, Tenant, Watch, Wire, cluster, connect, one, proxy, unique, world};

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];
const V3_2: u32 = 196_610;
const V3_7: u32 = 196_615;
/// A hang must fail, not block.
const PATIENCE: Duration = Duration::from_secs(30);

async fn tenant_and_proxy() -> (Tenant, Running) {
    let world = world().await;
    (world.tenant_of("start", &["operations"]).await, proxy(world, |_| {}).await)
}

/// Everything the proxy says up to the end of the connection.
async fn said_to(address: SocketAddr, pieces: &[&[u8]]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in pieces {
        // The proxy may have closed the connection already.
        if stream.write_all(piece).await.is_err() {
            break;
        }
    }
    let mut said = Vec::new();
    // A reset ends it as well as a close.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("an end of the connection");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_asks_for_at_start_up_is_what_it_gets_and_what_reset_returns_to() {
    let (tenant, proxy) = tenant_and_proxy().await;
    let settings = [
        ("application_name", "reports"),
        ("client_encoding", "LATIN1"),
        ("TimeZone", "Asia/Tokyo"),
        ("DateStyle", "SQL, DMY"),
        ("extra_float_digits", "2"),
        ("work_mem", "12345kB"),
        ("my.setting", "a b"),
        ("options", "-c statement_timeout=7s -c lock_timeout=1000 --geqo=off"),
    ];
    let user = tenant.user();
    let packet = startup(&[&[("user", user.as_str()), ("database", "operations")][..], &settings].concat());
    let mut session = Wire::login_with(proxy.address, &packet, &tenant.password).await.expect("log in");
    let expected = [
        ("application_name", "reports"),
        ("client_encoding", "LATIN1"),
        ("TimeZone", "Asia/Tokyo"),
        ("DateStyle", "SQL, DMY"),
        ("extra_float_digits", "2"),
        ("work_mem", "12345kB"),
        ("my.setting", "a b"),
        ("statement_timeout", "7s"),
        ("lock_timeout", "1s"),
        ("geqo", "off"),
    ];
    for (name, value) in expected {
        assert_eq!(session.value(&format!("SHOW {name}")).await, value);
    }
    for (name, value) in [("application_name", "reports"), ("TimeZone", "Asia/Tokyo"), ("DateStyle", "SQL, DMY")] {
        assert!(session.parameters.contains(&(name.to_owned(), value.to_owned())), "{:?}", session.parameters);
    }
    session.run("SET TimeZone = 'UTC'; SET work_mem = '1MB'; SET my.setting = 'x'; RESET ALL").await;
    for (name, value) in &expected[1..] {
        assert_eq!(session.value(&format!("SHOW {name}")).await, *value, "after RESET ALL");
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_path_of_the_clients_own_stands_before_the_tenants() {
    let (tenant, proxy) = tenant_and_proxy().await;
    let user = tenant.user();
    for (name, value) in [("search_path", "pg_catalog"), ("options", "-c search_path=pg_catalog")] {
        let packet = startup(&[("user", &user), ("database", "operations"), (name, value)]);
        let mut session = Wire::login_with(proxy.address, &packet, &tenant.password).await.expect("log in");
        assert_eq!(session.value("SHOW search_path").await, "pg_catalog");
        assert_eq!(session.run("SELECT note FROM notes").await.code(), "42P01");
    }
    // Sessions with other settings never share a connection with these.
    let mut session = Wire::login(proxy.address, &tenant, "operations").await;
    assert_eq!(session.value("SELECT note FROM notes").await, tenant.slug);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgresql_refuses_at_start_up_the_client_hears_in_postgresqls_words() {
    let (tenant, proxy) = tenant_and_proxy().await;
    let user = tenant.user();
    let too_many = format!("unrecognized configuration parameter \"{}\"", "nonsense");
    for (name, value, code, text) in [
        ("nonsense", "1", "42704", too_many.as_str()),
        ("TimeZone", "Nowhere/Land", "22023", "invalid value for parameter \"TimeZone\": \"Nowhere/Land\""),
        ("client_encoding", "EBCDIC", "22023", "invalid value for parameter \"client_encoding\": \"EBCDIC\""),
        ("work_mem", "much", "22023", "invalid value for parameter \"work_mem\": \"much\""),
        ("log_statement", "none", "42501", "permission denied to set parameter \"log_statement\""),
    ] {
        let packet = startup(&[("user", &user), ("database", "operations"), (name, value)]);
        let refused = Wire::login_with(proxy.address, &packet, &tenant.password).await.err().expect("a refusal");
        let got = (refused.field(b'V'), refused.field(b'C'), refused.field(b'M'));
        assert_eq!(got, ("FATAL".to_owned(), code.to_owned(), text.to_owned()));
    }
    // One client's mistake is no reason to keep others out.
    assert_eq!(Wire::login(proxy.address, &tenant, "operations").await.value("SELECT 1").await, "1");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_told_at_login_are_those_of_the_tenants_own_server() {
    let world = world().await;
    let other =
        Cluster::builder().setting("DateStyle", "German").setting("TimeZone", "Asia/Tokyo").start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret.json");
    let json = serde_json::json!({
        "admin_username": "postgres", "admin_password": other.password(),
        "app_username": "other_service", "app_password": "of the service",
    });
    std::fs::write(&secret, json.to_string()).unwrap();
    let (secret, server, slug) = (format!("file:{}", secret.display()), unique("server"), unique("elsewhere"));
    let port = other.port().to_string();
    let add = ["server", "add", &server, "--host", other.host(), "--port", &port];
    world.run(&[&add[..], &["--admin-secret", &secret, "--app-secret", &secret]].concat()).await;
    let create =
        ["tenant", "create", &slug, "--name", &slug, "--modules", "operations,shop", "--server", &server, "--json"];
    let made: serde_json::Value = serde_json::from_str(&world.run(&create).await).unwrap();
    let password = made["password"].as_str().unwrap();
    let here = world.tenant_of("here", &["operations", "shop"]).await;
    let proxy = proxy(world, |_| {}).await;
    for module in ["operations", "shop"] {
        for _ in 0..2 {
            let packet = startup(&[("user", &format!("app@{slug}")), ("database", module)]);
            let there = Wire::login_with(proxy.address, &packet, password).await.expect("log in");
            let here = Wire::login(proxy.address, &here, module).await;
            let told = |session: &Wire, name: &str| {
                session.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
            };
            assert_eq!(told(&there, "DateStyle").as_deref(), Some("German, DMY"));
            assert_eq!(told(&there, "TimeZone").as_deref(), Some("Asia/Tokyo"));
            assert_eq!(told(&here, "DateStyle").as_deref(), Some("ISO, MDY"));
            assert!(told(&here, "server_version").is_some_and(|version| version.starts_with("1")));
            assert_eq!(told(&here, "integer_datetimes").as_deref(), Some("on"));
        }
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_texts_clients_choose_at_start_up_they_have_one_pool() {
    const SIZE: u32 = 2;
    let world = world().await;
    let tenant = world.tenant_of("texts", &["crm"]).await;
    let watch = Watch::over(&tenant, "crm").await;
    let proxy = proxy(world, |config| config.pool.size = SIZE).await;
    let mut clients = Vec::new();
    for number in 0..12 {
        let (user, path, name) = (tenant.user(), format!("chosen_{number}"), format!("name {number}"));
        let options = format!("-c app.own={number}");
        let packet = startup(&[
            ("user", &user),
            ("database", "crm"),
            ("search_path", &path),
            ("application_name", &name),
            ("options", &options),
        ]);
        clients.push(Wire::login_with(proxy.address, &packet, &tenant.password).await.expect("log in"));
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let seen = client.ask("SELECT current_setting('app.own') || current_setting('application_name')").await;
        assert_eq!(seen, format!("{number}name {number}"));
        assert!(client.ask("SHOW search_path").await.starts_with(&format!("chosen_{number}")));
        let (pools, open) = (proxy.proxy.snapshot().await.pools, watch.backends("true").await.len());
        assert_eq!(pools.len(), 1);
        // One that makes room for another may be on its way out.
        assert!(pools[0].stats.active + pools[0].stats.idle <= SIZE && open <= 4, "{open} open");
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn protocol_versions_and_options_are_negotiated_before_authentication() {
    let (tenant, proxy) = tenant_and_proxy().await;
    let user = tenant.user();
    let named = [("user", user.as_str()), ("database", "operations")];
    let extended = [&named[..], &[("_pq_.fancy", "1"), ("_pq_.plain", "2")]].concat();
    for (version, parameters, agreed, unknown) in [
        (196_608, &named[..], None, &[][..]),
        (V3_2, &named[..], None, &[]),
        (V3_7, &named[..], Some(V3_2), &[]),
        (196_608, &extended[..], Some(196_608), &["_pq_.fancy", "_pq_.plain"]),
        (V3_2, &extended[..], Some(V3_2), &["_pq_.fancy", "_pq_.plain"]),
        (V3_7, &extended[..], Some(V3_2), &["_pq_.fancy", "_pq_.plain"]),
    ] {
        let mut session = Wire::open(proxy.address).await;
        session.send(&startup_of(version, parameters)).await;
        if let Some(agreed) = agreed {
            let message = session.receive().await.expect("a message");
            let names: String = unknown.iter().map(|name| format!("{name}\0")).collect();
            let count = u32::try_from(unknown.len()).unwrap();
            let expected = [&agreed.to_be_bytes()[..], &count.to_be_bytes(), names.as_bytes()].concat();
            assert_eq!((message.kind, message.body), (b'v', expected));
        }
        session.authenticate(&tenant.password).await.expect("log in");
        let long = version != 196_608;
        assert_eq!(session.secret.len(), if long { 32 } else { 4 }, "{version}");
        assert_eq!(session.value("SELECT note FROM notes").await, tenant.slug);
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_nobody_speaks_are_refused_in_a_form_their_clients_know() {
    let (_, proxy) = tenant_and_proxy().await;
    let said = said_to(proxy.address, &[&startup_of(131_072, &[("user", "x")])]).await;
    assert!(said.starts_with(b"EFATAL:  unsupported frontend protocol 2.0"), "{}", String::from_utf8_lossy(&said));
    let said = said_to(proxy.address, &[&startup_of(262_144, &[("user", "x")])]).await;
    assert!(said.starts_with(b"E\0\0"), "{}", String::from_utf8_lossy(&said));
    assert!(String::from_utf8_lossy(&said).contains("unsupported frontend protocol 4.0"));
    proxy.stop().await;
}

/// Waits until the tenant's statement runs on its server.
async fn runs(database: &str, marker: &str) {
    let admin = cluster().await.connect(database).await.unwrap();
    let running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() AND query LIKE '%' || $1";
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while admin.query_one(running, &[&marker]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(tokio::time::Instant::now() < deadline, "the statement never ran");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_keys_of_any_length_cancel_their_own_sessions_statement_only() {
    let (tenant, proxy) = tenant_and_proxy().await;
    let user = tenant.user();
    for version in [196_608, V3_2] {
        let packet = startup_of(version, &[("user", &user), ("database", "operations")]);
        let mut session = Wire::login_with(proxy.address, &packet, &tenant.password).await.expect("log in");
        let mut other = Wire::login_with(proxy.address, &packet, &tenant.password).await.expect("log in");
        let (mine, others) = (unique("/* mine"), unique("/* others"));
        session.send(&query(&format!("SELECT pg_sleep(600) {mine} */"))).await;
        other.send(&query(&format!("SELECT pg_sleep(600) {others} */"))).await;
        let database = tenant.place("operations", "database");
        runs(database, &format!("{mine} */")).await;
        runs(database, &format!("{others} */")).await;
        let cancel = |process_id: i32, secret: &[u8]| {
            let length = u32::try_from(12 + secret.len()).unwrap();
            [&length.to_be_bytes()[..], &80_877_102_u32.to_be_bytes(), &process_id.to_be_bytes(), secret].concat()
        };
        // Another's secret, a wrong one, one cut off, one too long: nothing is said, and nobody is cancelled.
        let (pid, secret) = (session.process_id, session.secret.clone());
        let wrong: Vec<u8> = secret.iter().map(|byte| byte ^ 1).collect();
        let long = [&secret[..], b"\0"].concat();
        for (pid, secret) in
            [(other.process_id, &secret[..]), (pid, &wrong), (pid, &secret[..secret.len() - 1]), (pid, &long)]
        {
            assert_eq!(said_to(proxy.address, &[&cancel(pid, secret)]).await, b"");
        }
        assert_eq!(said_to(proxy.address, &[&cancel(pid, &secret)]).await, b"");
        let answer = session.until_ready().await;
        let error = answer.iter().find(|message| message.kind == b'E').expect("an error");
        assert_eq!(error.field(b'C'), "57014");
        assert_eq!(session.value("SELECT note FROM notes").await, tenant.slug);
        runs(database, &format!("{others} */")).await;
        said_to(proxy.address, &[&cancel(other.process_id, &other.secret.clone())]).await;
        assert!(other.until_ready().await.iter().any(|message| message.kind == b'E'));
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_startup_packet_may_come_in_any_pieces() {
    let (tenant, proxy) = tenant_and_proxy().await;
    let user = tenant.user();
    let packet = startup(&[("user", &user), ("database", "operations"), ("application_name", "in pieces")]);
    for size in [1, 3, 7, 8, 9, 50] {
        let mut session = Wire::open(proxy.address).await;
        session.stream.set_nodelay(true).unwrap();
        for piece in packet.chunks(size) {
            session.send(piece).await;
            // Gives the proxy a chance to see the piece alone.
            tokio::task::yield_now().await;
        }
        session.authenticate(&tenant.password).await.expect("log in");
        assert_eq!(session.value("SHOW application_name").await, "in pieces");
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_for_encryption_are_answered_once_each_in_any_order() {
    let (tenant, proxy) = tenant_and_proxy().await;
    for requests in [&[GSS_REQUEST][..], &[SSL_REQUEST], &[GSS_REQUEST, SSL_REQUEST], &[SSL_REQUEST, GSS_REQUEST]] {
        let mut session = Wire::open(proxy.address).await;
        for request in requests {
            session.send(request).await;
            assert_eq!(session.stream.read_u8().await.unwrap(), b'N');
        }
        session.send(&startup(&[("user", &tenant.user()), ("database", "operations")])).await;
        session.authenticate(&tenant.password).await.expect("log in");
    }
    for requests in [[SSL_REQUEST, SSL_REQUEST], [GSS_REQUEST, GSS_REQUEST]] {
        let mut session = Wire::open(proxy.address).await;
        session.send(&requests[0]).await;
        assert_eq!(session.stream.read_u8().await.unwrap(), b'N');
        session.send(&requests[1]).await;
        let error = session.receive().await.expect("an error");
        assert_eq!((error.kind, error.field(b'C')), (b'E', "08P01".to_owned()));
        assert!(session.is_closed().await);
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_after_a_request_for_encryption_in_the_same_write_end_the_connection() {
    let (tenant, proxy) = tenant_and_proxy().await;
    let packet = startup(&[("user", &tenant.user()), ("database", "operations")]);
    for request in [SSL_REQUEST, GSS_REQUEST] {
        let said = said_to(proxy.address, &[&[&request[..], &packet].concat()]).await;
        let text = String::from_utf8_lossy(&said);
        assert!(said.starts_with(b"E") && text.contains("08P01"), "{text}");
        assert!(!text.contains("SCRAM"), "{text}");
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_this_protocol_gets_no_answer() {
    let (tenant, proxy) = tenant_and_proxy().await;
    let huge = [&10_001_u32.to_be_bytes()[..], &196_608_u32.to_be_bytes(), &[b'x'; 64]].concat();
    for hello in [
        &b"GET / HTTP/1.1\r\nHost: db\r\n\r\n"[..],
        b"SSH-2.0-scan\r\n",
        b"\x00\x00\x00\x00\x00\x00\x00\x00",
        b"\x00\x00\x00\x07\x00\x03\x00\x00",
        b"\xff\xff\xff\xff\x00\x03\x00\x00",
        b"\x7f\xff\xff\xff",
        b"\x80\x00\x00\x00\x00\x03\x00\x00",
        // TLS without asking, where there is no certificate.
        b"\x16\x03\x01\x00\xa5\x01\x00\x00",
        &huge,
    ] {
        assert_eq!(said_to(proxy.address, &[hello]).await, b"", "{hello:?}");
    }
    drop(TcpStream::connect(proxy.address).await.unwrap());
    assert_eq!(Wire::login(proxy.address, &tenant, "operations").await.value("SELECT 1").await, "1");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_startup_packet_is_served_and_malformed_ones_are_refused() {
    let (tenant, proxy) = tenant_and_proxy().await;
    let user = tenant.user();
    let with = |name: &str| startup(&[("user", &user), ("database", "operations"), ("application_name", name)]);
    let room = 10_000 - with("").len();
    let mut session =
        Wire::login_with(proxy.address, &with(&"x".repeat(room)), &tenant.password).await.expect("log in");
    assert_eq!(session.value("SHOW application_name").await, "x".repeat(63), "what PostgreSQL keeps of it");
    assert_eq!(said_to(proxy.address, &[&with(&"x".repeat(room + 1))]).await, b"");
    let framed = |body: &[u8]| [&u32::try_from(body.len() + 4).unwrap().to_be_bytes()[..], body].concat();
    for (body, code) in [
        (&b"\0\x03\0\0"[..], "08P01"),
        (b"\0\x03\0\0user\0app", "08P01"),
        (b"\0\x03\0\0user\0app\0", "08P01"),
        (b"\0\x03\0\0user\0app\0database\0", "08P01"),
        (b"\0\x03\0\0user\0app\0\0rest", "08P01"),
        (b"\0\x03\0\0\0", "28000"),
        (b"\0\x03\0\0user\0\0\0", "28000"),
        (b"\0\x03\0\0database\0x\0\0", "28000"),
    ] {
        let said = said_to(proxy.address, &[&framed(body)]).await;
        let text = String::from_utf8_lossy(&said);
        assert!(said.starts_with(b"E") && text.contains(code), "{body:?}: {text}");
    }
    // A parameter given twice: the last one counts, as in PostgreSQL.
    let twice = startup(&[("user", "nobody"), ("user", &user), ("database", "x"), ("database", "operations")]);
    Wire::login_with(proxy.address, &twice, &tenant.password).await.expect("log in");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_finishes_its_login_is_let_go() {
    let world = world().await;
    let tenant = world.tenant_of("slow", &["operations"]).await;
    let proxy = proxy(world, |config| config.timeouts.login = Duration::from_millis(400)).await;
    let packet = startup(&[("user", &tenant.user()), ("database", "operations")]);
    for hello in [&b""[..], &packet[..20], &packet] {
        let said = said_to(proxy.address, &[hello]).await;
        assert!(said.is_empty() || said.starts_with(b"R"), "{said:?}");
    }
    while proxy.proxy.clients() > 0 {
        tokio::task::yield_now().await;
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_come_by_unix_socket_too() {
    let world = world().await;
    let tenant = world.tenant_of("local", &["operations"]).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let proxy = proxy(world, |config| config.listen.unix_socket_dir = Some(path.clone())).await;
    let mut config = tokio_postgres::Config::new();
    config
        .host_path(&path)
        .port(proxy.address.port())
        .user(tenant.user())
        .password(&tenant.password)
        .dbname("operations");
    let client = connect(&config).await.unwrap();
    assert_eq!(one(&client, "SELECT note FROM notes").await, tenant.slug);
    let socket = proxy.proxy.unix_path().unwrap().clone();
    drop(client);
    proxy.stop().await;
    assert!(!socket.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn more_clients_than_may_be_are_told_so() {
    let world = world().await;
    let tenant = world.tenant_of("many", &["operations"]).await;
    let proxy = proxy(world, |config| config.listen.max_clients = 2).await;
    let first = Wire::login(proxy.address, &tenant, "operations").await;
    let _second = Wire::login(proxy.address, &tenant, "operations").await;
    let packet = startup(&[("user", &tenant.user()), ("database", "operations")]);
    let refused = Wire::login_with(proxy.address, &packet, &tenant.password).await.err().expect("a refusal");
    assert_eq!(refused.field(b'C'), "53300");
    assert!(refused.field(b'M').starts_with("(PT-LIMIT) "), "{}", refused.field(b'M'));
    drop(first);
    while proxy.proxy.clients() > 1 {
        tokio::task::yield_now().await;
    }
    Wire::login(proxy.address, &tenant, "operations").await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_hears_of_it_when_a_new_server_connection_has_other_defaults_and_so_does_the_next_client() {
    let world = world().await;
    let tenant = world.tenant_of("defaults", &["operations"]).await;
    let proxy = proxy(world, |config| config.pool.size = 1).await;
    let admin = cluster().await.connect("postgres").await.unwrap();
    let mut session = Wire::login(proxy.address, &tenant, "operations").await;
    let style = |told: &[(String, String)]| told.iter().find(|(name, _)| name == "DateStyle").unwrap().1.clone();
    assert_eq!(style(&session.parameters), "ISO, MDY");
    // From now on new connections of the role begin in another way, and the one that is there goes.
    let renewed = async |setting: &str, session: &mut Wire| {
        let process = session.value("SELECT pg_backend_pid()").await;
        let role = session.value("SELECT current_user").await;
        admin.batch_execute(&format!("ALTER ROLE \"{role}\" SET {setting}")).await.unwrap();
        admin.batch_execute(&format!("SELECT pg_terminate_backend({process}, 10000)")).await.unwrap();
    };
    renewed("DateStyle = 'German'", &mut session).await;
    session.send(&query("SELECT date '2026-01-31'")).await;
    let answer = session.until_ready().await;
    let told =
        answer.iter().position(|message| message.kind == b'S' && message.body.starts_with(b"DateStyle\0German, DMY\0"));
    let rows = answer.iter().position(|message| message.kind == b'T').expect("rows");
    assert!(told.is_some_and(|told| told < rows), "{answer:?}");
    assert_eq!(value(&answer), "31.01.2026");
    let next = Wire::login(proxy.address, &tenant, "operations").await;
    assert_eq!(style(&next.parameters), "German, DMY");
    drop(next);
    // Texts that were read in one way are never sent to a server that reads them in another.
    renewed("standard_conforming_strings = off", &mut session).await;
    session.send(&query("SELECT 1")).await;
    let last = session.until_ready().await;
    assert!(last.iter().all(|message| message.kind != b'D'), "{last:?}");
    assert!(last.iter().any(|message| message.kind == b'E' && message.field(b'C') == "57P01"), "{last:?}");
    let mut again = Wire::login(proxy.address, &tenant, "operations").await;
    assert_eq!(again.value("SHOW standard_conforming_strings").await, "off");
    proxy.stop().await;
}
