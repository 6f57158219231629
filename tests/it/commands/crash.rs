//! Commands killed at every point at which they change something: what the next run makes of it, and what clients meet meanwhile.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Output, Stdio};
use std::time::Duration;

use pgtenant::registry::Change;
use pgtenant::tenant::TenantId;
use uuid::Uuid;

use super::portrait::portrait;
use super::site::Site;
use crate::support::{Running, connect, proxy_over, refusal};

const PASSWORD: &str = "of the killed";
const OTHER_PASSWORD: &str = "another one";

/// A tenant of a test, with modules of its own: nothing of it is there by another's doing.
struct Subject {
    /// All its names have this in them.
    word: String,
    slug: String,
    modules: Vec<String>,
    databases: Vec<String>,
}

impl Subject {
    /// The `n`-th of its site, with modules of these kinds.
    fn new(site: &Site, n: usize, kinds: &[&str]) -> Self {
        let word = format!("{}k{n:03}", site.name);
        let mut subject = Self { slug: format!("{word}_acme"), word, modules: Vec::new(), databases: Vec::new() };
        for kind in kinds {
            subject.add_module(site, kind);
        }
        subject
    }

    fn add_module(&mut self, site: &Site, kind: &str) {
        let module = format!("{}_{kind}", self.word);
        let directory = site.files.path().join(kind);
        if !directory.exists() {
            std::fs::create_dir(&directory).unwrap();
            let column = if matches!(kind, "shared" | "service") { "tenant_id uuid NOT NULL, " } else { "" };
            let notes = format!("CREATE TABLE notes ({column}id serial, note text)");
            std::fs::write(directory.join("0001_notes.sql"), notes).unwrap();
            std::fs::write(directory.join("0002_index.sql"), "CREATE INDEX ON notes (id)").unwrap();
        }
        let migrations = directory.display().to_string();
        let database = format!("{module}_db");
        let mut add = vec!["module", "add", &module, "--server", "main", "--migrations", &migrations];
        add.extend(match kind {
            "schema" => ["--isolation", "schema", "--database", &database, "--schema-pattern", "{slug}"],
            "shared" => ["--isolation", "shared", "--database", &database, "--pooling", "per-tenant"],
            "service" => ["--isolation", "shared", "--database", &database, "--pooling", "shared"],
            _ => ["--isolation", "database", "--database-pattern", "{module}_{slug}", "--pooling", "per-tenant"],
        });
        site.ok(&add);
        self.databases.push(if kind == "database" { format!("{module}_{}", self.slug) } else { database });
        self.modules.push(module);
    }

    /// The command that makes it, with its first modules.
    fn create(&self, modules: usize) -> Vec<String> {
        let modules = self.modules[..modules].join(",");
        let words = ["tenant", "create", &self.slug, "--name", "Acme", "--modules", &modules, "--password-stdin"];
        words.map(str::to_owned).into()
    }

    /// A command about it: `%t` stands for the tenant, `%m` for its last module.
    fn command(&self, words: &str) -> Vec<String> {
        let module = self.modules.last().unwrap();
        words.split(' ').map(|word| word.replace("%t", &self.slug).replace("%m", module)).collect()
    }

    async fn portrait(&self, site: &Site) -> Vec<String> {
        portrait(site, &self.word, &self.slug, &self.databases).await
    }

    /// What a client of each module meets, once the proxy has heard of all that was done: "served", or the SQLSTATE of its refusal.
    async fn met(&self, site: &Site, proxy: &Running, password: &str) -> Vec<String> {
        hear_everything(site, proxy).await;
        let mut met = Vec::new();
        for module in &self.modules {
            let mut config = tokio_postgres::Config::new();
            config.host(proxy.address.ip().to_string()).port(proxy.address.port());
            config.user(format!("app@{}", self.slug)).password(password).dbname(module);
            met.push(match connect(&config).await {
                Ok(client) => {
                    client.batch_execute("INSERT INTO notes (note) VALUES ('x')").await.unwrap();
                    "served".to_owned()
                }
                Err(error) => refusal(&error).0,
            });
        }
        met
    }
}

/// Waits until the proxy has heard of every change so far: of one that is made now, too.
async fn hear_everything(site: &Site, proxy: &Running) {
    let mut changes = proxy.registry.changes();
    let last = Uuid::new_v4();
    site.registry.admin.execute("SELECT pgtenant.record_change($1)", &[&last]).await.unwrap();
    let heard = async { while changes.recv().await.unwrap() != Change::Tenant(TenantId(last)) {} };
    tokio::time::timeout(Duration::from_secs(20), heard).await.expect("nothing was heard");
}

/// Runs a command that kills itself at its `point`-th point, if it comes that far.
fn run(site: &Site, arguments: &[String], password: &str, point: usize) -> Output {
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let mut command = site.command(&arguments);
    command.env("PGTENANT_FAULT", point.to_string());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that takes no password has closed its end.
    let _ = child.stdin.take().unwrap().write_all(format!("{password}\n").as_bytes());
    child.wait_with_output().unwrap()
}

/// The same; where it was killed, or nothing when it came through.
fn killed(site: &Site, arguments: &[String], password: &str, point: usize) -> Option<String> {
    let output = run(site, arguments, password, point);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.signal() == Some(9) {
        assert!(said.contains(&format!("fault point {point}:")), "{said}");
        return Some(said);
    }
    assert!(output.status.success(), "{arguments:?} at {point}: {said}");
    None
}

/// Runs a command that must come through.
fn complete(site: &Site, arguments: &[String], password: &str) {
    assert_eq!(killed(site, arguments, password, 0), None);
}

/// Runs a command again that may have done everything but say so.
fn complete_or_done(site: &Site, arguments: &[String], password: &str) {
    let output = run(site, arguments, password, 0);
    let said = String::from_utf8_lossy(&output.stderr);
    let done = ["not found", "not subscribed", "no login"].iter().any(|words| said.contains(words));
    assert!(output.status.success() || done, "{arguments:?}: {said}");
}

fn all(outcomes: &[&[&str]]) -> BTreeSet<Vec<String>> {
    outcomes.iter().map(|modules| modules.iter().map(|outcome| (*outcome).to_owned()).collect()).collect()
}

/// Kills the making of tenants with modules of these kinds at every `stride`-th point. In between clients meet nobody, or are asked to
/// come again; in the end everything is as if nothing had happened.
async fn creation(kinds: &[&str], stride: usize) {
    let site = Site::new("crash").await;
    let proxy = proxy_over(&site.registry.url, |_| {}).await;
    let same = |outcome| vec![outcome; kinds.len()];
    let (nobody, later, served) = (same("28P01"), same("57P03"), same("served"));
    let reference = Subject::new(&site, 0, kinds);
    complete(&site, &reference.create(kinds.len()), PASSWORD);
    let whole = reference.portrait(&site).await;
    let mut met = BTreeSet::new();
    for point in (1..).step_by(stride) {
        let subject = Subject::new(&site, point, kinds);
        let create = subject.create(kinds.len());
        let at = killed(&site, &create, PASSWORD, point);
        met.insert(subject.met(&site, &proxy, PASSWORD).await);
        let Some(at) = at else {
            assert!(point > 12, "only {point} points");
            break;
        };
        complete(&site, &create, PASSWORD);
        assert_eq!(subject.portrait(&site).await, whole, "{at}");
        assert_eq!(subject.met(&site, &proxy, PASSWORD).await, served, "{at}");
    }
    assert_eq!(met, all(&[&nobody, &later, &served]));
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_tenant_whose_creation_is_killed_anywhere_is_made_whole_by_the_next_run() {
    creation(&["schema"], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_tenant_whose_creation_is_killed_anywhere_is_made_whole_by_the_next_run() {
    creation(&["database"], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_of_common_rows_whose_creation_is_killed_anywhere_is_made_whole_by_the_next_run() {
    creation(&["service"], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_tenant_with_several_modules_none_is_served_before_all_are_there() {
    creation(&["schema", "shared", "database"], 5).await;
}

/// What a command does to a tenant, killed at each of its points and finished in turn by the same command and by `tenant reconcile`.
struct Alteration<'a> {
    /// Modules of the tenant; the last is the one that the command may be about.
    kinds: &'a [&'a str],
    /// How many of them the tenant has before.
    modules: usize,
    /// The command.
    command: &'a str,
    /// What clients with the first password may meet after the kill.
    meanwhile: &'a [&'a [&'a str]],
    /// What clients with either password meet in the end.
    after: [&'a [&'a str]; 2],
    /// Fewest points that there must be.
    points: usize,
}

impl Alteration<'_> {
    async fn killed_everywhere(&self) {
        let site = Site::new("crash").await;
        let proxy = proxy_over(&site.registry.url, |_| {}).await;
        let prepared = |point| {
            let subject = Subject::new(&site, point, self.kinds);
            complete(&site, &subject.create(self.modules), PASSWORD);
            let command = subject.command(self.command);
            (subject, command)
        };
        let (reference, command) = prepared(0);
        complete(&site, &command, OTHER_PASSWORD);
        let whole = reference.portrait(&site).await;
        for point in 1.. {
            let (subject, command) = prepared(point);
            let at = killed(&site, &command, OTHER_PASSWORD, point);
            let met = subject.met(&site, &proxy, PASSWORD).await;
            assert!(all(self.meanwhile).contains(&met), "{at:?}: {met:?}");
            if at.is_some() {
                if point % 2 == 0 {
                    complete(&site, &["tenant", "reconcile"].map(str::to_owned), "");
                }
                complete_or_done(&site, &command, OTHER_PASSWORD);
                assert_eq!(subject.portrait(&site).await, whole, "{at:?}");
            }
            let met = [subject.met(&site, &proxy, PASSWORD).await, subject.met(&site, &proxy, OTHER_PASSWORD).await];
            assert_eq!(met, self.after, "{at:?}");
            if at.is_none() {
                assert!(point > self.points, "only {point} points");
                break;
            }
        }
        proxy.stop().await;
    }
}

const NOT_THERE: [&str; 2] = ["served", "3D000"];
const NOT_YET: [&str; 2] = ["served", "57P03"];
const SERVED: [&str; 2] = ["served"; 2];
const NOBODY: [&str; 2] = ["28P01"; 2];
/// The proxy still knows the old password, the server only the new one, or no role at all: to the client that is the same.
const OLD_KEY: [&str; 2] = NOBODY;

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_is_killed_anywhere_is_finished_and_takes_nothing_else_out_of_service() {
    let (kinds, meanwhile): (_, &[&[&str]]) = (["schema", "shared"], &[&NOT_THERE, &NOT_YET, &SERVED]);
    let change = Alteration {
        kinds: &kinds,
        modules: 1,
        command: "tenant subscribe %t %m",
        meanwhile,
        after: [&SERVED, &NOBODY],
        points: 12,
    };
    change.killed_everywhere().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_whose_dropping_is_killed_anywhere_is_never_served_again_and_never_made_anew() {
    let command = "tenant unsubscribe %t %m --drop-data";
    for kinds in [["database", "schema"], ["schema", "shared"], ["schema", "database"]] {
        let meanwhile: &[&[&str]] = &[&SERVED, &NOT_YET, &NOT_THERE];
        let change =
            Alteration { kinds: &kinds, modules: 2, command, meanwhile, after: [&NOT_THERE, &NOBODY], points: 5 };
        change.killed_everywhere().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_deletion_is_killed_anywhere_is_nobodys_from_then_on() {
    let (kinds, meanwhile): (_, &[&[&str]]) = (["database", "shared"], &[&SERVED, &NOBODY]);
    let command = "tenant delete %t --drop-data";
    Alteration { kinds: &kinds, modules: 2, command, meanwhile, after: [&NOBODY, &NOBODY], points: 10 }
        .killed_everywhere()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_whose_change_is_killed_anywhere_is_the_new_one_in_the_end() {
    let (kinds, meanwhile): (_, &[&[&str]]) = (["schema", "database"], &[&SERVED, &OLD_KEY, &NOBODY]);
    let command = "tenant login password %t app --password-stdin";
    Alteration { kinds: &kinds, modules: 2, command, meanwhile, after: [&NOBODY, &SERVED], points: 3 }
        .killed_everywhere()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_whose_coming_or_going_is_killed_anywhere_has_come_or_gone_in_the_end() {
    let (kinds, meanwhile): (_, &[&[&str]]) = (["database", "shared"], &[&SERVED]);
    let command = "tenant login add %t reports";
    Alteration { kinds: &kinds, modules: 2, command, meanwhile, after: [&SERVED, &NOBODY], points: 12 }
        .killed_everywhere()
        .await;
    let (command, meanwhile): (_, &[&[&str]]) = ("tenant login remove %t app", &[&SERVED, &OLD_KEY, &NOBODY]);
    Alteration { kinds: &kinds, modules: 2, command, meanwhile, after: [&NOBODY, &NOBODY], points: 4 }
        .killed_everywhere()
        .await;
}
