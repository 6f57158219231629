//! Several processes behind a balancer, as `packaging/README.md` has it: behind a small one of the tests' own, and behind HAProxy where it is installed.

use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::balancer::header;
use crate::support::wire::{cancel, failure, query, startup};
use crate::support::{Child, Start, Tenant, Wire, unique, until, world};

const LISTEN: &str = "address = \"127.0.0.1:0\"\npeer_address = \"127.0.0.1:0\"\nproxy_protocol_from = [\"127.0.0.1\"]";

/// Shares connections out in turn, to the next one where one is refused, and says in front of each whose it is.
async fn own_balancer(servers: [SocketAddr; 2]) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("an address");
    let turn = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Ok((mut client, peer)) = listener.accept().await {
            let turn = Arc::clone(&turn);
            tokio::spawn(async move {
                let next = turn.fetch_add(1, Ordering::Relaxed);
                for attempt in 0..servers.len() {
                    if let Ok(mut server) = TcpStream::connect(servers[(next + attempt) % servers.len()]).await {
                        server.write_all(&header(peer)).await?;
                        return tokio::io::copy_bidirectional(&mut client, &mut server).await.map(drop);
                    }
                }
                Ok(())
            });
        }
    });
    address
}

/// HAProxy, if it is installed; it ends when it is dropped.
async fn haproxy(servers: [SocketAddr; 2], directory: &std::path::Path) -> Option<(SocketAddr, tokio::process::Child)> {
    // Taken again at once by HAProxy.
    let address = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let [a, b] = servers;
    let config = directory.join("haproxy.cfg");
    let text = format!(
        "defaults\n mode tcp\n retries 3\n option redispatch 1\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
         listen pgtenant\n bind {address}\n balance roundrobin\n server a {a} send-proxy-v2\n server b {b} send-proxy-v2\n"
    );
    std::fs::write(&config, text).expect("write the configuration");
    let mut command = tokio::process::Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let process = command.spawn().ok()?;
    until("HAProxy listens", async || TcpStream::connect(address).await.is_ok()).await;
    Some((address, process))
}

/// What clients meet behind a balancer of two processes, one of which ends.
async fn is_served_behind(balancer: SocketAddr, tenant: &Tenant, mut ending: Child, staying: Child) {
    let mut clients = Vec::new();
    for number in 0..6 {
        let mut client = Wire::login(balancer, tenant, "crm").await;
        assert_eq!(client.ask(&format!("SELECT {number}")).await, number.to_string());
        clients.push(client);
    }
    // Cancel requests come to either process.
    for client in clients.iter_mut().take(2) {
        client.send(&query("SELECT pg_sleep(1000)")).await;
        while timeout(Duration::from_millis(50), client.stream.peek(&mut [0])).await.is_err() {
            cancel(balancer, client.process_id, &client.secret).await;
        }
        assert_eq!(failure(&client.until_ready().await).0, "57014");
    }
    let mut wrong = Wire::open(balancer).await;
    let hello = startup(&[("user", &tenant.user()), ("database", "crm")]);
    wrong.send(&hello).await;
    let stranger = wrong.stream.local_addr().expect("an address");
    assert_eq!(wrong.authenticate("wrong").await.err().map(|error| error.field(b'C')), Some("28P01".to_owned()));

    for client in &mut clients {
        client.query("BEGIN").await;
    }
    ending.signal(Signal::SIGTERM);
    ending.logged("draining").await;
    for _ in 0..6 {
        let mut client = Wire::login(balancer, tenant, "crm").await;
        assert_eq!(client.ask("SELECT 'served'").await, "served");
    }
    for client in &mut clients {
        client.send(&query("COMMIT")).await;
        assert_eq!(client.until_ready().await[0].body, b"COMMIT\0", "no transaction is lost");
    }
    let (ended, stayed) = (ending.whole_log().await, staying.whole_log().await);
    let failed = format!("login failed peer=\"{stranger}\"");
    assert!(ended.contains(&failed) || stayed.contains(&failed), "{failed} in neither of:\n{ended}\n{stayed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_two_processes_behind_a_balancer_are_served_while_one_of_them_ends() {
    let world = world().await;
    let tenant = world.tenant_of(&unique("fleet"), &["crm"]).await;
    let directory = tempfile::tempdir().expect("a directory");
    let pair = async || {
        let start = || Start { listen: LISTEN, ..Start::default() };
        [Child::start(&world.registry, start()).await, Child::start(&world.registry, start()).await]
    };
    let [ending, staying] = pair().await;
    let balancer = own_balancer([ending.address, staying.address]).await;
    is_served_behind(balancer, &tenant, ending, staying).await;

    let [ending, staying] = pair().await;
    match haproxy([ending.address, staying.address], directory.path()).await {
        Some((balancer, _process)) => is_served_behind(balancer, &tenant, ending, staying).await,
        None => eprintln!("haproxy is not installed: tried behind the tests' own balancer only"),
    }
}
