//! Networks that die without a word: what the kernel was told to do about them, on both sides. That it does so in time cannot be seen without a
//! network to break.

use crate::support::{Child, Wire, until, world};

/// A socket of this machine in `/proc/net/tcp`, by its local and remote port: which timer it has running, and for how many hundredths of a second.
fn timer(local: u16, remote: u16) -> (String, u64) {
    let sockets = std::fs::read_to_string("/proc/net/tcp").expect("the system's sockets");
    for line in sockets.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let port = |at: usize| fields[at].rsplit(':').next().and_then(|port| u16::from_str_radix(port, 16).ok());
        if (port(1), port(2)) == (Some(local), Some(remote)) {
            let (timer, left) = fields[5].split_once(':').expect("a timer");
            return (timer.to_owned(), u64::from_str_radix(left, 16).expect("a number"));
        }
    }
    panic!("no socket from {local} to {remote}: {sockets}");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_peers_are_asked_for_a_sign_of_life_on_both_sides() {
    /// What `/proc/net/tcp` calls the timer of keepalive, which runs only where that is on.
    const KEEPALIVE: &str = "02";
    let world = world().await;
    let tenant = world.tenant_of("silent", &["crm"]).await;
    let child = Child::serve(world, "").await;
    let mut client = Wire::login(child.address, &tenant, "crm").await;
    client.query("BEGIN").await;
    let pair = client.ask("SELECT inet_client_port() || ':' || inet_server_port()").await;
    let (near, far) = pair.split_once(':').expect("two ports");
    let to_server = (near.parse().expect("a port"), far.parse().expect("a port"));
    let to_client = (child.address.port(), client.stream.local_addr().expect("an address").port());
    for (local, remote) in [to_server, to_client] {
        // A write that is not acknowledged yet has a timer of its own.
        until("everything is acknowledged", async || timer(local, remote).0 != "01").await;
        let (kind, left) = timer(local, remote);
        assert_eq!(kind, KEEPALIVE, "{local} to {remote}");
        assert!(left <= 6000, "first after {left} hundredths of a second");
    }
    assert!(child.stop().await.success());
}
