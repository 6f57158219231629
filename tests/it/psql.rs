//! psql through the proxy, unmodified: with and without TLS, over TCP and Unix sockets.

use std::io::{Read as _, Write as _};
use std::process::{Command, Output, Stdio};

use pgtenant::frontend::ClientTls;
use pgtenant::net::tls::client_config;
use pgtenant::tenant::SslMode;
use rustls::pki_types::ServerName;

use crate::support::{self, MODULES, Running, Tenant, client_program, cluster, world};

/// A proxy with a certificate, and a tenant.
async fn service(tls: ClientTls) -> (Running, Tenant) {
    let world = world().await;
    let acme = world.tenant("acme").await;
    // The test server's own certificate is for 127.0.0.1 and localhost too.
    let files = cluster().await.socket_dir();
    let proxy = support::proxy(world, |config| {
        config.listen.tls = tls;
        config.listen.tls_certificate = Some(files.join("server.crt"));
        config.listen.tls_key = Some(files.join("server.key"));
    });
    (proxy.await, acme)
}

/// A connection URI for a module, with parameters.
fn uri(proxy: &Running, user: &str, module: &str, parameters: &str) -> String {
    let (user, address) = (user.replace('@', "%40"), proxy.address);
    format!("postgresql://{user}@{address}/{module}?{parameters}")
}

/// Runs psql on a URI with a script on its standard input; stops at the first error.
async fn psql(tenant: &Tenant, uri: &str, script: &str) -> Output {
    let mut command = Command::new(client_program("psql").await);
    command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", uri]).env("PGPASSWORD", &tenant.password);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("psql is installed");
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap()
}

/// What psql printed, where it succeeded.
async fn printed(tenant: &Tenant, uri: &str, script: &str) -> String {
    let output = psql(tenant, uri, script).await;
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{uri}: {complaints}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

const COPY: &str = "\\copy notes (note) FROM STDIN\ncopied\n\\.";
/// PostgreSQL itself refuses COPY into tables with row-level security.
const INSERT: &str = "INSERT INTO notes (note) VALUES ('copied');";
/// The tenant's path is what a connection of its own starts with.
const DEFAULT: &str = "SET search_path TO DEFAULT;\n";
const SCRIPT: &str = "DELETE FROM notes;
INSERT INTO notes (note) SELECT 'n' || g FROM generate_series(1, 3000) g;
{fill}
SELECT count(*) FROM notes;
BEGIN; SAVEPOINT s; INSERT INTO notes (note) VALUES ('undone'); ROLLBACK TO s; COMMIT;
PREPARE p AS SELECT note FROM notes WHERE note = $1; EXECUTE p('copied'); DEALLOCATE p;
{default}SELECT note FROM notes WHERE note = 'undone';
DELETE FROM notes WHERE note <> 'copied';
\\copy (SELECT note FROM notes) TO STDOUT
DELETE FROM notes;
";

#[tokio::test(flavor = "multi_thread")]
async fn psql_works_on_every_kind_of_place_with_tls_and_without() {
    let (proxy, acme) = service(ClientTls::Prefer).await;
    let ca = cluster().await.ca_file().unwrap();
    for (module, isolation, pooling) in MODULES {
        let script = SCRIPT.replace("{fill}", if isolation == "shared" { INSERT } else { COPY });
        let script = script.replace("{default}", if pooling == "shared" { "" } else { DEFAULT });
        for tls in ["sslmode=disable".to_owned(), format!("sslmode=verify-full&sslrootcert={}", ca.display())] {
            let uri = uri(&proxy, &acme.user(), module, &tls);
            assert_eq!(printed(&acme, &uri, &script).await, "3001\ncopied\ncopied", "{uri}");
        }
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_names_the_tenant_by_options_in_a_uri() {
    let (proxy, acme) = service(ClientTls::Prefer).await;
    let uri = uri(&proxy, "app", "operations", &format!("options=-c%20tenant%3D{}", acme.slug));
    let schema = acme.module("operations")["schema"].as_str().unwrap();
    assert_eq!(printed(&acme, &uri, "SELECT current_schema;").await, schema);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_requires_tls_refuses_clients_without() {
    let (proxy, acme) = service(ClientTls::Require).await;
    let output = psql(&acme, &uri(&proxy, &acme.user(), "crm", "sslmode=disable"), "").await;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && complaint.contains("(PT-TLS)"), "{complaint}");
    printed(&acme, &uri(&proxy, &acme.user(), "crm", "sslmode=require"), "SELECT 1;").await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_server_reaches_psql_as_it_is() {
    let (proxy, acme) = service(ClientTls::Prefer).await;
    let output = psql(&acme, &uri(&proxy, &acme.user(), "crm", ""), "\\set VERBOSITY verbose\nSELECT 1/0;").await;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(complaint.contains("ERROR:  22012: division by zero"), "{complaint}");
    assert!(complaint.contains("LOCATION:  int4div"), "{complaint}");
    proxy.stop().await;
}

/// libpq takes an end without it for a failure of the request.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_over_tls_ends_with_close_notify() {
    let (proxy, _) = service(ClientTls::Prefer).await;
    let address = proxy.address;
    let config = client_config(SslMode::Require, None).expect("settings").expect("TLS");
    let ended = tokio::task::spawn_blocking(move || {
        let mut socket = std::net::TcpStream::connect(address)?;
        socket.write_all(&[0, 0, 0, 8, 4, 210, 22, 47])?;
        let mut agreed = [0];
        socket.read_exact(&mut agreed)?;
        assert_eq!(agreed, [b'S']);
        let name = ServerName::try_from("localhost").expect("a name");
        let mut tls = rustls::ClientConnection::new(config, name).expect("a connection");
        let mut stream = rustls::Stream::new(&mut tls, &mut socket);
        // Nobody's key: that makes no difference to the asker.
        stream.write_all(&[0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 2])?;
        stream.read_to_end(&mut Vec::new())
    });
    assert_eq!(ended.await.unwrap().expect("an end in order, not an unexpected one"), 0);
    proxy.stop().await;
}
