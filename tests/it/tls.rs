//! TLS on both sides: what clients may ask for, what the certificate and the name in the handshake are good for, and servers
//! by every `sslmode`.

use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;

use pgtenant::cluster::Cluster;
use pgtenant::frontend::ClientTls;
use pgtenant::net::tls::client_config;
use pgtenant::net::{connect_tcp, server_name};
use pgtenant::tenant::SslMode;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::support::wire::startup;
use crate::support::{Running, Tenant, Wire, client_program, cluster, proxy, unique, world};

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// An authority, and a certificate by it.
struct Certificates {
    directory: tempfile::TempDir,
}

impl Certificates {
    fn new(names: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        // Names of their own: where issuer and subject have the same, OpenSSL takes the certificate for self-signed.
        authority.distinguished_name.push(DnType::CommonName, "authority of a test");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate().unwrap();
        let authority_certificate = authority.self_signed(&authority_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut certificate = CertificateParams::new(names).unwrap();
        certificate.distinguished_name.push(DnType::CommonName, "proxy of a test");
        let certificate = certificate.signed_by(&key, &Issuer::new(authority, authority_key)).unwrap();
        let write = |name: &str, content: String| std::fs::write(directory.path().join(name), content).unwrap();
        write("ca.crt", authority_certificate.pem());
        write("server.crt", certificate.pem());
        write("server.key", key.serialize_pem());
        Self { directory }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// A proxy with a certificate for its address and for every tenant's name under a suffix.
async fn encrypted(policy: ClientTls) -> (Running, Certificates) {
    let certificates = Certificates::new(&["127.0.0.1", "localhost", "*.db.example.com"]);
    let running = proxy(world().await, |config| {
        config.listen.tls = policy;
        config.listen.tls_certificate = Some(certificates.file("server.crt"));
        config.listen.tls_key = Some(certificates.file("server.key"));
        config.identify.sni_suffix = Some("db.example.com".to_owned());
    });
    (running.await, certificates)
}

/// psql with a connection string, asking for the tenant's row.
async fn psql(proxy: &Running, password: &str, parameters: &str) -> Output {
    let port = proxy.address.port();
    let string = format!("hostaddr=127.0.0.1 port={port} {parameters}");
    let mut command = Command::new(client_program("psql").await);
    command.args(["-X", "-A", "-t", "-d", &string, "-c", "SELECT note FROM notes"]);
    command.env("PGPASSWORD", password).output().await.unwrap()
}

async fn prints(proxy: &Running, tenant: &Tenant, parameters: &str) {
    let output = psql(proxy, &tenant.password, parameters).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), tenant.slug, "{parameters}: {error}");
}

async fn fails(proxy: &Running, tenant: &Tenant, parameters: &str, with: &str) {
    let output = psql(proxy, &tenant.password, parameters).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains(with), "{parameters}: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_can_be_bound_to_the_channel_on_every_kind_of_place() {
    let modules = ["crm", "operations", "shop", "ledger", "stock"];
    let tenant = world().await.tenant_of("bound", &modules).await;
    let (proxy, certificates) = encrypted(ClientTls::Require).await;
    let ca = certificates.file("ca.crt").display().to_string();
    for module in modules {
        let verified = format!("host=localhost sslmode=verify-full sslrootcert={ca} channel_binding=require");
        prints(&proxy, &tenant, &format!("{verified} user={} dbname={module}", tenant.user())).await;
    }
    let user = tenant.user();
    for binding in ["disable", "prefer"] {
        prints(
            &proxy,
            &tenant,
            &format!("host=localhost sslmode=require channel_binding={binding} user={user} dbname=crm"),
        )
        .await;
    }
    let wrong = psql(
        &proxy,
        "wrong",
        &format!("host=localhost sslmode=require channel_binding=require user={user} dbname=crm"),
    )
    .await;
    let error = String::from_utf8_lossy(&wrong.stderr);
    assert!(error.contains(&format!("password authentication failed for user \"{user}\"")), "{error}");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_get_the_encryption_that_the_policy_allows() {
    let tenant = world().await.tenant_of("policy", &["operations"]).await;
    let at = |mode: &str| format!("host=localhost sslmode={mode} user={} dbname=operations", tenant.user());
    let (require, _files) = encrypted(ClientTls::Require).await;
    prints(&require, &tenant, &at("require")).await;
    prints(&require, &tenant, &at("prefer")).await;
    fails(&require, &tenant, &at("disable"), "(PT-TLS)").await;
    require.stop().await;
    let (prefer, _files) = encrypted(ClientTls::Prefer).await;
    prints(&prefer, &tenant, &at("require")).await;
    prints(&prefer, &tenant, &at("disable")).await;
    prefer.stop().await;
    let (disable, _files) = encrypted(ClientTls::Disable).await;
    prints(&disable, &tenant, &at("prefer")).await;
    fails(&disable, &tenant, &at("require"), "server does not support SSL").await;
    disable.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_in_the_handshake_names_the_tenant() {
    let world = world().await;
    // Host names have no underscores.
    let slug = unique("sni").replace('_', "-");
    let tenant = world.tenant_in(&slug, &["operations"], &[]).await;
    let other = world.tenant_of("other", &["operations"]).await;
    let (proxy, certificates) = encrypted(ClientTls::Prefer).await;
    let ca = certificates.file("ca.crt").display().to_string();
    let host = format!("host={slug}.db.example.com dbname=operations");
    prints(&proxy, &tenant, &format!("{host} user=app sslmode=verify-full sslrootcert={ca}")).await;
    prints(&proxy, &tenant, &format!("{host} user={} sslmode=require", tenant.user())).await;
    fails(&proxy, &tenant, &format!("{host} user={} sslmode=require", other.user()), "(PT-CONFLICT)").await;
    fails(
        &proxy,
        &tenant,
        &format!("{host} user=app sslmode=require options='-c tenant={}'", other.slug),
        "(PT-CONFLICT)",
    )
    .await;
    // Without TLS there is no such name, nor under another domain.
    fails(&proxy, &tenant, &format!("{host} user=app sslmode=disable"), "(PT-NOTENANT)").await;
    let elsewhere = format!("host={slug}.example.org dbname=operations user=app sslmode=require");
    fails(&proxy, &tenant, &elsewhere, "(PT-NOTENANT)").await;
    let unknown = "host=nobody.db.example.com dbname=operations user=app sslmode=require";
    fails(&proxy, &tenant, unknown, "password authentication failed for user \"app\"").await;
    proxy.stop().await;
}

/// Sends a startup packet over TLS without asking for TLS; the first byte of the answer.
async fn direct(proxy: &Running, tenant: &Tenant, protocols: &[&[u8]]) -> std::io::Result<u8> {
    let mut config = Arc::unwrap_or_clone(client_config(SslMode::Require, None).unwrap().unwrap());
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let stream = connect_tcp("127.0.0.1", proxy.address.port()).await?;
    let mut stream = stream.connect_tls(server_name("localhost").unwrap(), Arc::new(config)).await?;
    stream.write_all(&startup(&[("user", &tenant.user()), ("database", "operations")])).await?;
    stream.flush().await?;
    stream.read_u8().await
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_without_asking_needs_the_protocols_own_name() {
    let tenant = world().await.tenant_of("direct", &["operations"]).await;
    let (proxy, _files) = encrypted(ClientTls::Require).await;
    assert_eq!(direct(&proxy, &tenant, &[b"postgresql"]).await.unwrap(), b'R');
    for protocols in [&[][..], &[&b"http/1.1"[..]], &[&b"h2"[..], b"http/1.1"]] {
        assert!(direct(&proxy, &tenant, protocols).await.is_err(), "{protocols:?}");
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_bytes_behind_the_request_for_tls_are_never_taken_for_the_clients_words() {
    let tenant = world().await.tenant_of("early", &["operations"]).await;
    let (proxy, _files) = encrypted(ClientTls::Prefer).await;
    let mut session = Wire::open(proxy.address).await;
    let injected = startup(&[("user", &tenant.user()), ("database", "operations")]);
    session.send(&[&SSL_REQUEST[..], &injected].concat()).await;
    let answer = session.receive().await.expect("an error");
    assert_eq!((answer.kind, answer.field(b'C')), (b'E', "08P01".to_owned()));
    assert!(session.is_closed().await);
    // Inside TLS there is nothing more to ask for.
    let config = client_config(SslMode::Require, None).unwrap().unwrap();
    let mut stream = connect_tcp("127.0.0.1", proxy.address.port()).await.unwrap();
    stream.write_all(&SSL_REQUEST).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'S');
    let mut stream = stream.connect_tls(server_name("localhost").unwrap(), config).await.unwrap();
    stream.write_all(&SSL_REQUEST).await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'E');
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_serves_new_clients_after_a_reload() {
    let tenant = world().await.tenant_of("renewed", &["operations"]).await;
    let (proxy, old) = encrypted(ClientTls::Require).await;
    let new = Certificates::new(&["localhost"]);
    let at = |files: &Certificates| {
        let ca = files.file("ca.crt").display().to_string();
        format!("host=localhost sslmode=verify-full sslrootcert={ca} user={} dbname=operations", tenant.user())
    };
    prints(&proxy, &tenant, &at(&old)).await;
    let mut config = crate::support::settings();
    config.listen.tls = ClientTls::Require;
    config.listen.tls_certificate = Some(new.file("server.crt"));
    config.listen.tls_key = Some(old.file("server.key"));
    assert!(proxy.proxy.reload(&config).is_err(), "not the certificate's key");
    prints(&proxy, &tenant, &at(&old)).await;
    config.listen.tls_key = Some(new.file("server.key"));
    proxy.proxy.reload(&config).unwrap();
    prints(&proxy, &tenant, &at(&new)).await;
    fails(&proxy, &tenant, &at(&old), "SSL error").await;
    proxy.stop().await;
}

/// A server entry of a test's own in the registry, whose address and encryption can be changed.
struct Entry {
    name: String,
    port: String,
    secret: String,
    _directory: tempfile::TempDir,
}

impl Entry {
    async fn of(server: &Cluster) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret.json");
        let name = unique("server");
        let json = serde_json::json!({
            "admin_username": "postgres", "admin_password": server.password(),
            "app_username": format!("{name}_service"), "app_password": "of the service",
        });
        std::fs::write(&path, json.to_string()).unwrap();
        let entry = Self {
            name,
            port: server.port().to_string(),
            secret: format!("file:{}", path.display()),
            _directory: directory,
        };
        entry.set("127.0.0.1", "disable", None).await;
        entry
    }

    async fn set(&self, host: &str, sslmode: &str, ca: Option<&PathBuf>) {
        let Self { name, port, secret, .. } = self;
        let mut arguments = vec!["server", "add", name, "--host", host, "--port", port, "--sslmode", sslmode];
        arguments.extend(["--admin-secret", secret, "--app-secret", secret]);
        let ca = ca.map(|path| path.display().to_string());
        if let Some(ca) = &ca {
            arguments.extend(["--ca-file", ca]);
        }
        world().await.run(&arguments).await;
    }
}

/// A tenant on a server entry: slug and password.
async fn settle(entry: &Entry) -> (String, String) {
    let slug = unique("settler");
    let create =
        ["tenant", "create", &slug, "--name", &slug, "--modules", "operations,shop", "--server", &entry.name, "--json"];
    let made: serde_json::Value = serde_json::from_str(&world().await.run(&create).await).unwrap();
    (slug, made["password"].as_str().unwrap().to_owned())
}

/// Whether the server connection of a new proxy is encrypted; the SQLSTATE and text of the refusal.
async fn link(slug: &str, password: &str, module: &str) -> Result<String, (String, String)> {
    let proxy = proxy(world().await, |_| {}).await;
    let packet = startup(&[("user", &format!("app@{slug}")), ("database", module)]);
    let session = Wire::login_with(proxy.address, &packet, password).await;
    let encrypted = match session {
        Ok(mut session) => Ok(session.value("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").await),
        Err(error) => Err((error.field(b'C'), error.field(b'M'))),
    };
    proxy.stop().await;
    encrypted
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_reached_by_their_sslmode() {
    let server = cluster().await;
    let entry = Entry::of(server).await;
    let (slug, password) = settle(&entry).await;
    let good = server.ca_file().unwrap();
    let strangers = Certificates::new(&["127.0.0.1"]);
    let bad = strangers.file("ca.crt");
    // The C library takes this for 127.0.0.1; the certificate does not.
    let alias = "0x7f000001";
    let no = || {
        Err(("08006".to_owned(), "(PT-BACKEND) no encrypted connection to the tenant's server is possible".to_owned()))
    };
    let yes = |encrypted: &str| Ok(encrypted.to_owned());
    for (host, sslmode, ca, expected) in [
        ("127.0.0.1", "disable", None, yes("f")),
        ("127.0.0.1", "prefer", None, yes("t")),
        ("127.0.0.1", "require", None, yes("t")),
        (alias, "require", None, yes("t")),
        ("127.0.0.1", "verify-ca", Some(&good), yes("t")),
        (alias, "verify-ca", Some(&good), yes("t")),
        ("127.0.0.1", "verify-ca", Some(&bad), no()),
        ("127.0.0.1", "verify-full", Some(&good), yes("t")),
        ("localhost", "verify-full", Some(&good), yes("t")),
        (alias, "verify-full", Some(&good), no()),
        ("127.0.0.1", "verify-full", Some(&bad), no()),
        ("127.0.0.1", "require", Some(&bad), no()),
    ] {
        entry.set(host, sslmode, ca).await;
        for module in ["operations", "shop"] {
            assert_eq!(link(&slug, &password, module).await, expected, "{host} {sslmode} {ca:?} {module}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_reached_in_clear_only_where_that_is_allowed() {
    let server = Cluster::builder().start().await.unwrap();
    let entry = Entry::of(&server).await;
    let (slug, password) = settle(&entry).await;
    for (sslmode, expected) in [("disable", true), ("prefer", true), ("require", false), ("verify-full", false)] {
        entry.set("127.0.0.1", sslmode, None).await;
        let got = link(&slug, &password, "operations").await;
        match expected {
            true => assert_eq!(got.as_deref(), Ok("f"), "{sslmode}"),
            false => assert_eq!(got.expect_err(sslmode).0, "08006", "{sslmode}"),
        }
    }
}
