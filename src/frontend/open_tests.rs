//! The beginning of a connection over real sockets: one test for every trap of HAZARDS, section 1.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinHandle;

use super::*;
use crate::frontend::testing::{certificate, encrypt};
use crate::net::tls;

/// No test waits longer than this for anything.
const PATIENCE: Duration = Duration::from_secs(30);

const SSL_REQUEST: [u8; 8] = *b"\0\0\0\x08\x04\xd2\x16\x2f";
const GSSENC_REQUEST: [u8; 8] = *b"\0\0\0\x08\x04\xd2\x16\x30";

type Outcome = JoinHandle<Result<Opening, Error>>;

/// A client's socket, and what becomes of its connection.
async fn connect(policy: ClientTls) -> (TcpStream, Outcome) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let server = Stream::from_tcp(accepted.unwrap().0);
    let client = client.unwrap();
    client.set_nodelay(true).unwrap();
    (client, tokio::spawn(async move { open(server, Some(&encryption()), policy).await }))
}

fn encryption() -> Encryption {
    Encryption { tls: certificate(), runtime: Handle::current() }
}

async fn outcome(outcome: Outcome) -> Result<Opening, Error> {
    tokio::time::timeout(PATIENCE, outcome).await.unwrap().unwrap()
}

async fn session(opening: Outcome) -> Opened {
    match outcome(opening).await {
        Ok(Opening::Session(opened)) => opened,
        other => panic!("no session: {other:?}"),
    }
}

fn startup_packet(minor: u16, parameters: &[(&str, &str)]) -> Vec<u8> {
    let parameters = parameters.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let mut out = BytesMut::new();
    Startup { minor, parameters }.encode(&mut out);
    out.to_vec()
}

fn cancel_request(secret: usize) -> Vec<u8> {
    let length = u32::try_from(12 + secret).unwrap();
    [&length.to_be_bytes(), &[4, 0xd2, 0x16, 0x2e], &[0, 0, 0, 42], vec![7; secret].as_slice()].concat()
}

/// All that the server says until it closes; a reset counts as closing.
async fn everything(client: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, client.read_to_end(&mut bytes)).await.unwrap();
    bytes
}

async fn byte(client: &mut TcpStream) -> u8 {
    tokio::time::timeout(PATIENCE, client.read_u8()).await.unwrap().unwrap()
}

fn contains(bytes: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(bytes).contains(text)
}

#[tokio::test]
async fn bytes_that_come_with_a_request_for_encryption_kill_the_connection() {
    for (request, policy, text) in [
        (SSL_REQUEST, ClientTls::Prefer, "received unencrypted data after SSL request"),
        (SSL_REQUEST, ClientTls::Disable, "received unencrypted data after SSL request"),
        (GSSENC_REQUEST, ClientTls::Prefer, "received unencrypted data after GSSAPI encryption request"),
    ] {
        let (mut client, opening) = connect(policy).await;
        client.write_all(&[request.as_slice(), &startup_packet(0, &[("user", "mallory")])].concat()).await.unwrap();
        let told = everything(&mut client).await;
        assert!(told.starts_with(b"E") && contains(&told, text) && contains(&told, "08P01"), "{told:?}");
        assert!(matches!(outcome(opening).await, Err(Error::EarlyData(_))));
    }
}

#[tokio::test]
async fn what_is_said_in_clear_after_the_answer_never_gets_into_the_tls_session() {
    let (mut client, opening) = connect(ClientTls::Prefer).await;
    client.write_all(&SSL_REQUEST).await.unwrap();
    assert_eq!(byte(&mut client).await, b'S');
    client.write_all(&startup_packet(0, &[("user", "mallory")])).await.unwrap();
    assert!(matches!(outcome(opening).await, Err(Error::Tls(_))));
}

#[tokio::test]
async fn encryption_is_asked_for_once_each_in_any_order() {
    for (first, second) in [(GSSENC_REQUEST, SSL_REQUEST), (SSL_REQUEST, GSSENC_REQUEST)] {
        let (mut client, opening) = connect(ClientTls::Disable).await;
        for request in [first, second] {
            client.write_all(&request).await.unwrap();
            assert_eq!(byte(&mut client).await, b'N');
        }
        client.write_all(&startup_packet(0, &[("user", "app")])).await.unwrap();
        assert!(session(opening).await.stream.tls().is_none());
    }
    let (mut client, opening) = connect(ClientTls::Prefer).await;
    for (request, answer) in [(GSSENC_REQUEST, b'N'), (SSL_REQUEST, b'S')] {
        client.write_all(&request).await.unwrap();
        assert_eq!(byte(&mut client).await, answer);
    }
    let mut client = encrypt(client, None).await.unwrap();
    client.write_all(&startup_packet(0, &[("user", "app")])).await.unwrap();
    assert!(session(opening).await.stream.tls().is_some(), "no ALPN is needed after SSLRequest");
}

#[tokio::test]
async fn a_second_request_of_a_kind_is_an_error() {
    for request in [SSL_REQUEST, GSSENC_REQUEST] {
        let (mut client, opening) = connect(ClientTls::Disable).await;
        client.write_all(&request).await.unwrap();
        assert_eq!(byte(&mut client).await, b'N');
        client.write_all(&request).await.unwrap();
        assert!(contains(&everything(&mut client).await, "08P01"));
        assert!(matches!(outcome(opening).await, Err(Error::UnexpectedRequest { .. })));
    }
}

#[tokio::test]
async fn a_request_for_encryption_inside_tls_is_an_error() {
    for request in [SSL_REQUEST, GSSENC_REQUEST] {
        let (client, opening) = connect(ClientTls::Prefer).await;
        let mut client = encrypt(client, Some(tls::ALPN)).await.unwrap();
        client.write_all(&request).await.unwrap();
        client.flush().await.unwrap();
        assert!(contains(&everything(&mut client).await, "08P01"));
        assert!(matches!(outcome(opening).await, Err(Error::UnexpectedRequest { .. })));
    }
}

#[tokio::test]
async fn tls_begins_directly_where_alpn_says_postgresql_and_shows_the_server_name() {
    let (client, opening) = connect(ClientTls::Require).await;
    let mut client = encrypt(client, Some(b"postgresql")).await.unwrap();
    client.write_all(&startup_packet(0, &[("user", "app")])).await.unwrap();
    let opened = session(opening).await;
    let info = opened.stream.tls().unwrap();
    assert_eq!(info.server_name.as_deref(), Some("localhost"));
    assert_eq!(info.alpn.as_deref(), Some(b"postgresql".as_slice()));
}

#[tokio::test]
async fn direct_tls_without_alpn_or_for_another_protocol_is_closed() {
    let (client, opening) = connect(ClientTls::Prefer).await;
    if let Ok(mut client) = encrypt(client, None).await {
        assert_eq!(everything(&mut client).await, b"");
    }
    assert!(matches!(outcome(opening).await, Err(Error::NoAlpn)));
    let (client, opening) = connect(ClientTls::Prefer).await;
    let _ = encrypt(client, Some(b"http/1.1")).await;
    assert!(matches!(outcome(opening).await, Err(Error::Tls(_))));
}

#[tokio::test]
async fn another_protocols_alpn_after_sslrequest_is_refused() {
    let (mut client, opening) = connect(ClientTls::Prefer).await;
    client.write_all(&SSL_REQUEST).await.unwrap();
    assert_eq!(byte(&mut client).await, b'S');
    let _ = encrypt(client, Some(b"h2")).await;
    assert!(matches!(outcome(opening).await, Err(Error::Tls(_))));
}

#[tokio::test]
async fn direct_tls_is_met_with_silence_where_there_is_no_tls() {
    let (client, opening) = connect(ClientTls::Disable).await;
    assert!(encrypt(client, Some(b"postgresql")).await.is_err());
    assert!(matches!(outcome(opening).await, Ok(Opening::Silent)));
}

#[tokio::test]
async fn where_tls_is_required_a_client_in_clear_is_told_so() {
    let (mut client, opening) = connect(ClientTls::Require).await;
    client.write_all(&startup_packet(2, &[("user", "app"), ("_pq_.x", "1")])).await.unwrap();
    let told = everything(&mut client).await;
    assert!(contains(&told, "(PT-TLS) ") && contains(&told, "C28000\0") && contains(&told, "FATAL"));
    assert!(matches!(outcome(opening).await, Err(Error::TlsRequired)));
}

#[tokio::test]
async fn a_unix_socket_has_no_tls_and_needs_none() {
    let (mut client, server) = UnixStream::pair().unwrap();
    let tls = encryption();
    let opening = tokio::spawn(async move { open(Stream::from_unix(server), Some(&tls), ClientTls::Require).await });
    client.write_all(&SSL_REQUEST).await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'N');
    client.write_all(&startup_packet(0, &[("user", "app")])).await.unwrap();
    assert!(session(opening).await.stream.tls().is_none());
}

#[tokio::test]
async fn versions_3_0_and_3_2_are_spoken_without_negotiation() {
    for (minor, protocol) in [(0, Protocol::V3_0), (2, Protocol::V3_2)] {
        let (mut client, opening) = connect(ClientTls::Prefer).await;
        client.write_all(&startup_packet(minor, &[("user", "app")])).await.unwrap();
        let opened = session(opening).await;
        assert_eq!(opened.protocol, protocol);
        drop(opened);
        assert_eq!(everything(&mut client).await, b"");
    }
}

#[tokio::test]
async fn other_minor_versions_and_unknown_options_are_negotiated_before_anything_else() {
    let nothing_unknown = b"\0\0\0\0".as_slice();
    for (minor, option, protocol, told) in [
        (1, None, Protocol::V3_0, [b"v\0\0\0\x0c\0\x03\0\0", nothing_unknown].concat()),
        (9999, None, Protocol::V3_2, [b"v\0\0\0\x0c\0\x03\0\x02", nothing_unknown].concat()),
        (0, Some("_pq_.x"), Protocol::V3_0, b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.x\0".to_vec()),
        (2, Some("_pq_.x"), Protocol::V3_2, b"v\0\0\0\x13\0\x03\0\x02\0\0\0\x01_pq_.x\0".to_vec()),
    ] {
        let (mut client, opening) = connect(ClientTls::Prefer).await;
        let parameters: Vec<_> = [("user", "app")].into_iter().chain(option.map(|name| (name, "1"))).collect();
        client.write_all(&startup_packet(minor, &parameters)).await.unwrap();
        assert_eq!(session(opening).await.protocol, protocol);
        assert_eq!(everything(&mut client).await, told, "3.{minor}");
    }
}

#[tokio::test]
async fn other_major_versions_get_postgres_error_in_the_form_they_know() {
    let text = "server supports 3.0 to 3.2";
    for (major, form) in [(4, b"E\0\0\0".as_slice()), (2, b"EFATAL:  unsupported frontend protocol 2.0: ")] {
        let (mut client, opening) = connect(ClientTls::Prefer).await;
        client.write_all(&[0, 0, 0, 9, 0, major, 0, 0, 0]).await.unwrap();
        let told = everything(&mut client).await;
        assert!(told.starts_with(form) && contains(&told, text), "{told:?}");
        assert!(matches!(outcome(opening).await, Err(Error::Startup(StartupError::Version { .. }))));
    }
}

#[tokio::test]
async fn cancel_requests_of_every_legal_length_are_read_in_clear_and_under_tls() {
    for secret in [4, 32, 256] {
        let (mut client, opening) = connect(ClientTls::Require).await;
        client.write_all(&cancel_request(secret)).await.unwrap();
        let Ok(Opening::Cancel(key, _)) = outcome(opening).await else { panic!("no cancel request") };
        assert_eq!((key.process_id, key.secret), (42, vec![7; secret]));
    }
    let (client, opening) = connect(ClientTls::Require).await;
    let mut client = encrypt(client, Some(b"postgresql")).await.unwrap();
    client.write_all(&cancel_request(32)).await.unwrap();
    assert!(matches!(outcome(opening).await, Ok(Opening::Cancel(..))));
}

#[tokio::test]
async fn cancel_requests_of_other_lengths_are_closed_without_a_word() {
    for secret in [0, 3, 257] {
        let (mut client, opening) = connect(ClientTls::Prefer).await;
        client.write_all(&cancel_request(secret)).await.unwrap();
        assert_eq!(everything(&mut client).await, b"");
        assert!(matches!(outcome(opening).await, Err(Error::Startup(StartupError::CancelLength))));
    }
}

#[tokio::test]
async fn a_startup_packet_may_come_byte_by_byte() {
    let (mut client, opening) = connect(ClientTls::Prefer).await;
    for byte in startup_packet(0, &[("user", "app"), ("database", "finance")]) {
        client.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let names: Vec<_> = session(opening).await.parameters.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["user", "database"]);
}

#[tokio::test]
async fn a_startup_packet_may_be_as_long_as_10000_bytes_and_not_longer() {
    let empty = startup_packet(0, &[("user", "app"), ("options", "")]).len();
    let (mut client, opening) = connect(ClientTls::Prefer).await;
    let options = "x".repeat(10_000 - empty);
    client.write_all(&startup_packet(0, &[("user", "app"), ("options", &options)])).await.unwrap();
    assert_eq!(session(opening).await.parameters[1].1, options);
    let (mut client, opening) = connect(ClientTls::Prefer).await;
    client.write_all(&startup_packet(0, &[("user", "app"), ("options", &(options + "x"))])).await.unwrap();
    assert_eq!(everything(&mut client).await, b"");
    assert!(matches!(outcome(opening).await, Ok(Opening::Silent)));
}

#[tokio::test]
async fn a_startup_packet_without_user_or_terminator_gets_postgres_error() {
    for (packet, text) in [
        (startup_packet(0, &[("database", "x")]), "no PostgreSQL user name specified in startup packet"),
        (b"\0\0\0\x0c\0\x03\0\0user".to_vec(), "invalid startup packet layout: expected terminator as last byte"),
        (b"\0\0\0\x08\0\x03\0\0".to_vec(), "invalid startup packet layout"),
    ] {
        let (mut client, opening) = connect(ClientTls::Prefer).await;
        client.write_all(&packet).await.unwrap();
        let told = everything(&mut client).await;
        assert!(told.starts_with(b"E") && contains(&told, text), "{told:?}");
        assert!(matches!(outcome(opening).await, Err(Error::Startup(_))));
    }
}

#[tokio::test]
async fn what_comes_with_the_startup_packet_stays_to_be_read() {
    for encrypted in [false, true] {
        let (client, opening) = connect(ClientTls::Prefer).await;
        let packet = [startup_packet(0, &[("user", "app")]).as_slice(), b"what follows"].concat();
        let mut client = match encrypted {
            true => encrypt(client, Some(tls::ALPN)).await.unwrap(),
            false => Stream::from_tcp(client),
        };
        client.write_all(&packet).await.unwrap();
        client.flush().await.unwrap();
        let mut opened = session(opening).await;
        let mut rest = [0; 12];
        opened.stream.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"what follows");
    }
}

#[tokio::test]
async fn port_scans_http_and_empty_connections_are_met_with_silence() {
    for probe in [
        b"".as_slice(),
        b"\0",
        b"\0\0\0\x08",
        b"GET / HTTP/1.1\r\n\r\n",
        b"QUIT",
        b"\0\0\0\0\0\0\0\0",
        b"SSH-2.0-x\r\n",
    ] {
        let (mut client, opening) = connect(ClientTls::Prefer).await;
        client.write_all(probe).await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(everything(&mut client).await, b"", "{probe:?}");
        assert!(matches!(outcome(opening).await, Ok(Opening::Silent)), "{probe:?}");
    }
}

#[tokio::test]
async fn what_is_not_this_protocol_is_closed_without_waiting_for_more() {
    let (mut client, opening) = connect(ClientTls::Prefer).await;
    client.write_all(b"QUIT").await.unwrap();
    assert_eq!(everything(&mut client).await, b"");
    assert!(matches!(outcome(opening).await, Ok(Opening::Silent)));
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_packet_is_told_nothing() {
    let (mut client, opening) = connect(ClientTls::Prefer).await;
    client.write_all(b"\0\0\0\x20\0\x03\0\0user").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(everything(&mut client).await, b"");
    assert!(matches!(outcome(opening).await, Err(Error::Closed(_))));
}
