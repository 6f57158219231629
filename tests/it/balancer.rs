//! Behind a balancer: the client's own address by the PROXY protocol, from listed peers and from nobody else (HAZARDS 65).

use std::net::SocketAddr;

use tokio::io::AsyncReadExt as _;

use crate::support::wire::startup;
use crate::support::{Running, Tenant, Wire, proxy, unique, world};

/// What a balancer says first of a client at this address.
pub(crate) fn header(client: SocketAddr) -> Vec<u8> {
    let server = [127, 0, 0, 1];
    let (family, addresses) = match client {
        SocketAddr::V4(client) => (0x11, [&client.ip().octets()[..], &server].concat()),
        SocketAddr::V6(client) => (0x21, [&client.ip().octets()[..], &[0; 16]].concat()),
    };
    raw(0x21, family, &[&addresses[..], &client.port().to_be_bytes(), &6432_u16.to_be_bytes()].concat())
}

fn raw(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("a length").to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, rest].concat()
}

async fn balanced(name: &str, from: &str) -> (Tenant, Running) {
    let world = world().await;
    let tenant = world.tenant_of(&unique(name), &["crm"]).await;
    let proxy = proxy(world, |config| config.listen.proxy_protocol_from = vec![from.parse().expect("a network")]).await;
    (tenant, proxy)
}

fn hello(tenant: &Tenant) -> Vec<u8> {
    startup(&[("user", &tenant.user()), ("database", "crm")])
}

/// Where the proxy's only client comes from, as operators see it.
async fn seen(proxy: &Running) -> String {
    let clients = proxy.proxy.snapshot().await.clients;
    assert_eq!(clients.len(), 1);
    clients[0].visitor.peer.to_string()
}

/// Nothing is said to whoever sends this, and the connection is closed.
async fn is_turned_away(proxy: &Running, bytes: &[u8]) {
    let mut wire = Wire::open(proxy.address).await;
    wire.send(bytes).await;
    let mut answer = Vec::new();
    // A reset is as good an end as any.
    let _ = wire.stream.read_to_end(&mut answer).await;
    assert_eq!(answer, b"", "{bytes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_balancer_tells_the_clients_address() {
    let (tenant, proxy) = balanced("balanced", "127.0.0.0/8").await;
    for client in ["192.0.2.1:40000", "[2001:db8::1]:40001"] {
        let mut wire = Wire::open(proxy.address).await;
        // In one piece with the client's first words, as a fast balancer sends it.
        wire.send(&[header(client.parse().unwrap()), hello(&tenant)].concat()).await;
        wire.authenticate(&tenant.password).await.expect("log in");
        assert_eq!(seen(&proxy).await, client);
        assert_eq!(wire.ask("SELECT 'served'").await, "served");
        drop(wire);
        crate::support::until("the client has left", async || proxy.proxy.clients() == 0).await;
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_may_come_in_pieces_with_more_than_addresses_and_before_a_request_for_tls() {
    let (tenant, proxy) = balanced("pieces", "127.0.0.1").await;
    let mut wire = Wire::open(proxy.address).await;
    let addresses = [192, 0, 2, 9, 127, 0, 0, 1, 0x9c, 0x40, 0x19, 0x20];
    for byte in raw(0x21, 0x11, &[&addresses[..], b"\x04\0\x03abc"].concat()) {
        wire.send(&[byte]).await;
        wire.stream.writable().await.unwrap();
        tokio::task::yield_now().await;
    }
    wire.send(b"\0\0\0\x08\x04\xd2\x16\x2f").await;
    let mut answer = [0];
    wire.stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, *b"N");
    wire.send(&hello(&tenant)).await;
    wire.authenticate(&tenant.password).await.expect("log in");
    assert_eq!(seen(&proxy).await, "192.0.2.9:40000");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balancers_own_connection_counts_as_its_own() {
    let (tenant, proxy) = balanced("own", "127.0.0.1").await;
    let mut wire = Wire::open(proxy.address).await;
    wire.send(&[raw(0x20, 0, b""), hello(&tenant)].concat()).await;
    wire.authenticate(&tenant.password).await.expect("log in");
    assert_eq!(seen(&proxy).await, wire.stream.local_addr().unwrap().to_string());
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_is_believed() {
    let (tenant, proxy) = balanced("unlisted", "10.0.0.0/8").await;
    is_turned_away(&proxy, &[header("10.0.0.1:1".parse().unwrap()), hello(&tenant)].concat()).await;
    let direct = Wire::login(proxy.address, &tenant, "crm").await;
    assert_eq!(seen(&proxy).await, direct.stream.local_addr().unwrap().to_string());
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_peer_with_no_header_or_a_hostile_one_is_turned_away() {
    let (tenant, proxy) = balanced("hostile_header", "127.0.0.1").await;
    let client = "192.0.2.1:40000".parse().unwrap();
    for bytes in [
        hello(&tenant),
        b"PROXY TCP4 192.0.2.1 127.0.0.1 40000 6432\r\n".to_vec(),
        [raw(0x11, 0x11, &[1; 12]), hello(&tenant)].concat(),
        [raw(0x22, 0x11, &[1; 12]), hello(&tenant)].concat(),
        [raw(0x21, 0x12, &[1; 12]), hello(&tenant)].concat(),
        [raw(0x21, 0x11, &[1; 11]), hello(&tenant)].concat(),
        [raw(0x21, 0x21, &[1; 12]), hello(&tenant)].concat(),
        raw(0x21, 0x11, &[1; 5000]),
        // A header in a header is the startup packet of nobody.
        [header(client), header(client), hello(&tenant)].concat(),
    ] {
        is_turned_away(&proxy, &bytes).await;
    }
    // One that breaks off.
    drop({
        let mut wire = Wire::open(proxy.address).await;
        wire.send(&header(client)[..20]).await;
        wire
    });
    let mut wire = Wire::open(proxy.address).await;
    wire.send(&[header(client), hello(&tenant)].concat()).await;
    wire.authenticate(&tenant.password).await.expect("others are served");
    proxy.stop().await;
}
