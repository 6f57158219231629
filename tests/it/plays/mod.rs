//! The systems that pgtenant replaces, each played from an empty machine to queries through the proxy, by commands and SQL alone.

mod f;
mod m;
mod p;
mod s;

use std::process::Stdio;

use pgtenant::cluster::Cluster;
use serde_json::Value;
use tokio_postgres::Client;

use crate::commands::site::Site;
use crate::support::{Database, client_program, connect, one, refusal};

/// A server of the play's own, so that its tenants may have the names they would have, and a registry database that nothing is in yet.
async fn empty_machine() -> (Cluster, Site) {
    let cluster = Cluster::builder().start().await.expect("start a server");
    let postgres = cluster.connect("postgres").await.expect("connect");
    postgres.batch_execute("CREATE DATABASE registry").await.expect("create the registry's database");
    let admin = cluster.connect("registry").await.expect("connect");
    let registry = Database { name: "registry".to_owned(), url: cluster.superuser_url("registry"), admin };
    let (files, environment) = (tempfile::tempdir().expect("a directory"), Vec::new());
    (cluster, Site { registry, files, name: "play".to_owned(), environment })
}

/// A directory of migrations with these files in it.
fn migrations(site: &Site, name: &str, files: &[(&str, &str)]) -> String {
    let directory = site.files.path().join("migrations").join(name);
    std::fs::create_dir_all(&directory).expect("a directory");
    for (file, sql) in files {
        std::fs::write(directory.join(file), sql).expect("write a migration");
    }
    directory.display().to_string()
}

/// Adds a server of which the commands know the admin; the proxy is told nothing of it.
fn add_server(site: &Site, name: &str, cluster: &Cluster) {
    site.write_secret(name, &cluster.superuser_url("postgres"));
    let (port, secret) = (cluster.port().to_string(), site.secret(name));
    site.ok(&["server", "add", name, "--host", cluster.host(), "--port", &port, "--admin-secret", &secret]);
}

/// The connection string of a module, as a command printed it.
fn url<'a>(tenant: &'a Value, module: &str) -> &'a str {
    let modules = tenant["modules"].as_array().expect("modules");
    let found = modules.iter().find(|found| found["module"] == module).expect("the module");
    found["url"].as_str().expect("a connection string")
}

/// A client that has nothing but a connection string.
async fn client(url: &str) -> Result<Client, tokio_postgres::Error> {
    connect(&url.parse().expect("a connection string")).await
}

/// What a statement gives over a connection string: the first value.
async fn ask(url: &str, sql: &str) -> String {
    let client = client(url).await.unwrap_or_else(|error| panic!("{url}: {error:?}"));
    one(&client, sql).await
}

/// How a login over a connection string is refused: SQLSTATE and text.
async fn refused(url: &str) -> (String, String) {
    match client(url).await {
        Ok(_) => panic!("{url} is served"),
        Err(error) => refusal(&error),
    }
}

/// What psql prints for a statement over a connection string, or what it complains of.
async fn psql(url: &str, sql: &str) -> Result<String, String> {
    let mut command = tokio::process::Command::new(client_program("psql").await);
    command.args(["-X", "-A", "-t", "-q", "-d", url, "-c", sql]).stdin(Stdio::null());
    let output = command.output().await.expect("psql is installed");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}
