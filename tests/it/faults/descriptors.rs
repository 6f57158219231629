//! No file descriptor is left: who is there is served, who comes waits, and is let in when there is room.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::wire::startup;
use crate::support::{Child, Start, Watch, Wire, until, world};

/// What the process may have open.
const FILES_MAX: u32 = 128;
/// What it says when there are no more.
const EXHAUSTED: &str = "no client can be accepted for now";
/// The shortest time between two attempts.
const PAUSE: Duration = Duration::from_millis(100);
/// How many of them are waited for.
const ATTEMPTS: u32 = 6;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_finds_no_descriptor_left_is_let_in_when_there_is_one() {
    let world = world().await;
    let tenant = world.tenant_of("descriptors", &["crm"]).await;
    let watch = Watch::over(&tenant, "crm").await;
    let start = Start { files_max: Some(FILES_MAX), ..Start::default() };
    let mut child = Child::start(&world.registry, start).await;
    let mut there = Wire::login(child.address, &tenant, "crm").await;
    assert_eq!(there.ask("SELECT note FROM notes").await, tenant.slug);

    // Each has said the first of its words, and is waited for.
    let began = Instant::now();
    let mut crowd = Vec::new();
    for _ in 0..FILES_MAX {
        let mut client = TcpStream::connect(child.address).await.unwrap();
        client.write_all(&[0, 0]).await.unwrap();
        crowd.push(client);
    }
    child.logged(EXHAUSTED).await;
    assert_eq!(there.ask("SELECT note FROM notes").await, tenant.slug);
    // Its connection ends, and its descriptor is taken by one of the crowd: there is none for another.
    for process in watch.backends("true").await {
        watch.admin.execute("SELECT pg_terminate_backend($1)", &[&process]).await.unwrap();
    }
    let mut waiting = Wire::open(child.address).await;
    waiting.send(&startup(&[("user", &tenant.user()), ("database", "crm")])).await;
    // It tries again and again, but not all the time.
    for _ in 1..ATTEMPTS {
        child.logged(EXHAUSTED).await;
    }
    assert!(began.elapsed() >= PAUSE * (ATTEMPTS - 1));

    drop(crowd);
    waiting.authenticate(&tenant.password).await.unwrap();
    assert_eq!(waiting.ask("SELECT note FROM notes").await, tenant.slug);
    until("the first one has a connection again", async || there.run("SELECT note FROM notes").await.code().is_empty())
        .await;
    assert!(child.stop().await.success());
}
