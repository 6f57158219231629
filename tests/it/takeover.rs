//! Restarts without refused clients: a successor on the same port, sockets that the service manager keeps, and what it is told.

use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::timeout;

use crate::support::wire::{cancel, failure, query};
use crate::support::{Child, Start, Tenant, Wire, one, unique, world};

/// Longest wait for word to the service manager.
const PATIENCE: Duration = Duration::from_secs(60);

async fn tenant(name: &str) -> Tenant {
    world().await.tenant_of(&unique(name), &["crm"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_on_the_same_port_takes_new_clients_while_the_old_process_drains() {
    let tenant = tenant("successor").await;
    let registry = &world().await.registry;
    let directory = tempfile::tempdir().unwrap();
    let listen = |port: u16| {
        let directory = directory.path().display();
        let peers = "peer_address = \"127.0.0.1:0\"";
        format!("address = \"127.0.0.1:{port}\"\nreuse_port = true\n{peers}\nunix_socket_dir = \"{directory}\"")
    };
    let mut old = Child::start(registry, Start { listen: &listen(0), ..Start::default() }).await;
    let mut working = Wire::login(old.address, &tenant, "crm").await;
    working.query("BEGIN").await;
    let address = old.address;
    let new = Child::start(registry, Start { listen: &listen(address.port()), ..Start::default() }).await;
    assert_eq!(new.address, address);
    old.signal(Signal::SIGTERM);
    // It says so when it listens no more.
    old.logged("draining").await;
    for _ in 0..20 {
        let mut client = Wire::login(address, &tenant, "crm").await;
        assert_eq!(client.ask("SELECT 'successor'").await, "successor");
    }
    let progress = old.logged("still draining").await;
    assert!(progress.contains("clients=1") && progress.contains("in_transaction=1"), "{progress}");
    working.query("SAVEPOINT here").await;
    working.send(&query("SELECT pg_sleep(1000)")).await;
    // The client's own cancel requests come to the successor.
    while timeout(Duration::from_millis(20), working.stream.peek(&mut [0])).await.is_err() {
        cancel(address, working.process_id, &working.secret).await;
    }
    assert_eq!(failure(&working.until_ready().await).0, "57014");
    working.query("ROLLBACK TO here").await;
    assert_eq!(working.ask("SELECT 'still here'").await, "still here");
    working.send(&query("COMMIT")).await;
    assert_eq!(working.until_ready().await[0].body, b"COMMIT\0");
    assert_eq!(failure(&working.until_ready().await).0, "57P01");
    assert!(old.ended().await.success());
    // The Unix socket is the successor's, and the old process has not taken it away.
    let mut config = tokio_postgres::Config::new();
    config
        .host_path(directory.path())
        .port(address.port())
        .user(tenant.user())
        .password(&tenant.password)
        .dbname("crm");
    let client = crate::support::connect(&config).await.expect("connect by the Unix socket");
    assert_eq!(one(&client, "SELECT 'successor'").await, "successor");
    assert!(new.stop().await.success());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left of the sockets");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_reuse_port_a_second_process_is_refused_the_port() {
    let registry = &world().await.registry;
    let first = Child::serve_registry(registry, "").await;
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("pgtenant.toml");
    let text =
        format!("[listen]\naddress = \"{}\"\n[http]\naddress = \"\"\n[registry]\nurl = \"{registry}\"", first.address);
    std::fs::write(&config, text).unwrap();
    let mut second = tokio::process::Command::new(env!("CARGO_BIN_EXE_pgtenant"));
    let output = second.args(["serve", "--config"]).arg(&config).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("listen on 127.0.0.1"));
    assert!(first.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_socket_that_the_service_manager_keeps_wait_through_a_restart() {
    let tenant = tenant("activated").await;
    let registry = &world().await.registry;
    let kept = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = kept.local_addr().unwrap();
    let start = || Start {
        socket: Some(kept.try_clone().unwrap().into()),
        environment: &[("LISTEN_FDS", "1")],
        ..Start::default()
    };
    let first = Child::start(registry, start()).await;
    assert_eq!(first.address, address, "it listens on what it was given, not on what is configured");
    let mut client = Wire::login(address, &tenant, "crm").await;
    assert_eq!(client.ask("SELECT 1").await, "1");
    assert!(first.stop().await.success());
    let mut patient = Wire::open(address).await;
    patient.send(&crate::support::wire::startup(&[("user", &tenant.user()), ("database", "crm")])).await;
    let second = Child::start(registry, start()).await;
    patient.authenticate(&tenant.password).await.expect("served by the next process");
    assert!(second.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_is_told_of_readiness_reload_and_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let hear = || {
        let mut told = [0; 1024];
        let length = manager.recv(&mut told).expect("word in time");
        String::from_utf8_lossy(&told[..length]).into_owned()
    };
    let environment = [("NOTIFY_SOCKET", path.to_str().unwrap())];
    let start = Start { environment: &environment, ..Start::default() };
    let child = Child::start(&world().await.registry, start).await;
    assert!(hear().starts_with("READY=1\n"));
    child.signal(Signal::SIGHUP);
    let reloading = hear();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert!(hear().starts_with("READY=1\n"));
    child.signal(Signal::SIGTERM);
    let stopping = hear();
    assert!(stopping.starts_with("STOPPING=1\n") && stopping.contains("EXTEND_TIMEOUT_USEC="), "{stopping}");
    assert!(child.stop().await.success());
}
