//! The temporary server itself, where it takes a second process to see it.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::kill;
use nix::unistd::Pid;
use pgtenant::cluster::Cluster;

use crate::support;

const VICTIM: &str = "PGTENANT_TEST_VICTIM";
const DIES_WITHIN: Duration = Duration::from_secs(20);

/// What the next test runs in a process of its own, to kill it; alone it checks nothing but that a server starts.
#[tokio::test]
async fn a_cluster_starts() {
    let cluster = Cluster::builder().start().await.unwrap();
    if env::var_os(VICTIM).is_some() {
        println!("\nvictim {} {}", cluster.server_pid().unwrap(), cluster.socket_dir().display());
        std::future::pending::<()>().await;
    }
}

#[test]
fn neither_server_nor_directory_outlives_a_process_that_is_killed() {
    let mut victim = Command::new(env::current_exe().unwrap())
        .args(["--exact", "cluster::a_cluster_starts", "--nocapture"])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines().map_while(Result::ok);
    let line = lines.find(|line| line.starts_with("victim ")).expect("the victim starts its server");
    let mut words = line.split_whitespace().skip(1);
    let server = Pid::from_raw(words.next().unwrap().parse().unwrap());
    let dir = PathBuf::from(words.next().unwrap());
    assert!(dir.is_dir() && kill(server, None).is_ok());
    victim.kill().unwrap();
    victim.wait().unwrap();
    let deadline = Instant::now() + DIES_WITHIN;
    while dir.exists() || kill(server, None).is_ok() {
        assert!(Instant::now() < deadline, "the server is still there");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn each_test_has_a_database_and_a_role_of_its_own() {
    let (database, role) = (support::database("own").await, support::role("own").await);
    let client = role.connect(&database.name).await.unwrap();
    let row = client.query_one("SELECT session_user::text, current_database()::text", &[]).await.unwrap();
    assert_eq!((row.get::<_, String>(0), row.get::<_, String>(1)), (role.name.clone(), database.name.clone()));
    assert!(role.verifier.starts_with("SCRAM-SHA-256$4096:"));
    assert!(database.url.contains(&database.name));
    database.admin.batch_execute("CREATE TABLE t ()").await.unwrap();
    assert!(support::cluster().await.ca_file().unwrap().is_file());
}
