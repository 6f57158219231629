//! A registry of a test's own, and the commands run on it.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tokio_postgres::{Client, NoTls};

use crate::support::{self, Database, unique};

/// A registry of a test's own, with one server in it: the shared one.
pub(crate) struct Site {
    pub(crate) registry: Database,
    pub(crate) files: tempfile::TempDir,
    pub(crate) name: String,
    /// What commands find in their environment, beside the registry.
    pub(crate) environment: Vec<(&'static str, String)>,
}

impl Site {
    pub(crate) async fn new(prefix: &str) -> Self {
        let registry = support::database(prefix).await;
        let (files, environment) = (tempfile::tempdir().unwrap(), Vec::new());
        let site = Self { registry, files, name: unique(prefix), environment };
        let cluster = support::cluster().await;
        // Roles and databases are made from the site's own database, so that a test can get in the way of its site alone.
        site.write_secret("admin", &site.registry.url);
        site.write_secret("app", &format!("postgres://{}_service:of-all@localhost", site.name));
        site.ok(&["registry", "init"]);
        let port = cluster.port().to_string();
        let (admin, app) = (site.secret("admin"), site.secret("app"));
        let flags = ["--host", cluster.host(), "--port", &port, "--admin-secret", &admin, "--app-secret", &app];
        site.ok(&[&["server", "add", "main"], &flags[..]].concat());
        site
    }

    pub(crate) fn secret(&self, part: &str) -> String {
        format!("file:{}", self.files.path().join(part).display())
    }

    pub(crate) fn write_secret(&self, part: &str, url: &str) {
        let path = self.files.path().join(part);
        std::fs::write(&path, url).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgtenant"));
        command.args(arguments).env("PGTENANT_REGISTRY", &self.registry.url);
        for variable in ["PGTENANT_CONFIG", "PGTENANT_PROXY"] {
            command.env_remove(variable);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Runs a command that must succeed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must succeed, with `--json`: standard output is JSON and nothing else.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[arguments, &["--json"]].concat())).unwrap()
    }

    /// Runs a command that must fail with this code; the one line that it says.
    pub(crate) fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{arguments:?}");
        assert!(code != 1 || said.trim_end().lines().count() == 1, "{said}");
        said
    }

    /// A module with a name of the test's own.
    pub(crate) fn module(&self, kind: &str, flags: &[&str]) -> String {
        let name = format!("{}_{kind}", self.name);
        self.ok(&[&["module", "add", &name, "--server", "main"], flags].concat());
        name
    }

    pub(crate) fn slug(&self, slug: &str) -> String {
        format!("{}_{slug}", self.name)
    }

    pub(crate) async fn count(&self, sql: &str) -> i64 {
        self.registry.admin.query_one(sql, &[]).await.unwrap().get(0)
    }
}

/// Logs in to a module's place as the tenant, straight to the server.
pub(crate) async fn login(module: &Value, password: &str) -> Result<Client, tokio_postgres::Error> {
    let cluster = support::cluster().await;
    let mut config = tokio_postgres::Config::new();
    config.host(cluster.host()).port(cluster.port()).dbname(module["database"].as_str().unwrap());
    let connected = config.user(module["role"].as_str().unwrap()).password(password).connect(NoTls).await;
    let (client, connection) = connected?;
    tokio::spawn(connection);
    Ok(client)
}

pub(crate) fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}
