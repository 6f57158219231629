//! SCRAM with clients over real sockets: what they are asked, and that nobody known fails like a wrong password.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::auth::scram::Client;
use crate::auth::{Credential, Secret};
use crate::frontend::testing::{certificate, encrypt};

/// No test waits longer than this for anything.
const PATIENCE: Duration = Duration::from_secs(30);
const USER: &str = "app@acme";
const PASSWORD: &str = "pencil";

type Outcome = JoinHandle<Result<Proof, Error>>;

/// Both ends of a TCP connection: client, server.
async fn pair() -> (TcpStream, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (client.unwrap(), Stream::from_tcp(accepted.unwrap().0))
}

/// Begins authentication of [`USER`], who is known with [`PASSWORD`] or not at all.
fn begin(mut server: Stream, known: bool) -> Outcome {
    tokio::spawn(async move {
        let verifier = known.then(|| Verifier::generate(PASSWORD, 4096));
        let challenge = Challenge { user: USER, verifier: verifier.as_ref(), salt_name: "app\0acme" };
        let proof = authenticate(&mut server, challenge, &MockKey::derive(b"fixed")).await?;
        server.write_all(&proof.answer).await.unwrap();
        server.flush().await.unwrap();
        Ok(proof)
    })
}

async fn connect(known: bool) -> (Stream, Outcome) {
    let (client, server) = pair().await;
    (Stream::from_tcp(client), begin(server, known))
}

async fn outcome(outcome: Outcome) -> Result<Proof, Error> {
    tokio::time::timeout(PATIENCE, outcome).await.unwrap().unwrap()
}

/// The next message: type and body; none at the end.
async fn message(client: &mut Stream) -> Option<(u8, Vec<u8>)> {
    let read = async {
        let kind = client.read_u8().await.ok()?;
        let length = client.read_u32().await.ok()?;
        let mut body = vec![0; length as usize - 4];
        client.read_exact(&mut body).await.ok()?;
        Some((kind, body))
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap()
}

/// The body of the authentication request that is expected now.
async fn asked(client: &mut Stream, code: u32) -> Vec<u8> {
    let (kind, body) = message(client).await.unwrap();
    assert_eq!((kind, &body[..4]), (b'R', code.to_be_bytes().as_slice()), "{}", String::from_utf8_lossy(&body));
    body[4..].to_vec()
}

async fn send(client: &mut Stream, kind: u8, body: &[u8]) {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    client.write_all(&[&[kind], length.as_slice(), body].concat()).await.unwrap();
    client.flush().await.unwrap();
}

fn initial(mechanism: &str, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap().to_be_bytes();
    [mechanism.as_bytes(), b"\0", &length, data].concat()
}

fn scram(password: &str, client: &Stream) -> Client {
    let binding = client.tls().and_then(|tls| tls.server_end_point.clone());
    Client::new(Credential::Password(Secret::new(password.to_owned())), binding)
}

/// Goes through the exchange; the mechanisms offered, the salt, and the first bytes that are no request any more.
async fn log_in(client: &mut Stream, password: &str) -> (String, String, Option<(u8, Vec<u8>)>) {
    let mut scram = scram(password, client);
    let offer = String::from_utf8(asked(client, SASL).await).unwrap();
    let offered: Vec<_> = offer.split_terminator('\0').collect();
    let mechanism = scram.mechanism(&offered).unwrap();
    send(client, b'p', &initial(mechanism, &scram.first())).await;
    let server_first = asked(client, SASL_CONTINUE).await;
    let salt = String::from_utf8_lossy(&server_first).split_once(",s=").unwrap().1.to_owned();
    send(client, b'p', &scram.update(&server_first).unwrap()).await;
    let last = message(client).await;
    if let Some((b'R', body)) = &last {
        scram.finish(&body[4..]).unwrap();
    }
    (offer, salt, last)
}

#[tokio::test]
async fn the_right_password_gets_in_and_the_server_proves_itself() {
    let (mut client, opening) = connect(true).await;
    let (offer, _, last) = log_in(&mut client, PASSWORD).await;
    assert_eq!(offer, "SCRAM-SHA-256\0\0");
    assert_eq!(last.map(|(kind, body)| (kind, body[..4].to_vec())), Some((b'R', SASL_FINAL.to_be_bytes().to_vec())));
    assert!(outcome(opening).await.is_ok());
}

#[tokio::test]
async fn what_comes_with_the_proof_is_the_sessions() {
    let (client, mut server) = pair().await;
    let mut client = Stream::from_tcp(client);
    let opening = tokio::spawn(async move {
        let verifier = Verifier::generate(PASSWORD, 4096);
        let challenge = Challenge { user: USER, verifier: Some(&verifier), salt_name: USER };
        let proof = authenticate(&mut server, challenge, &MockKey::random()).await.unwrap();
        server.write_all(&proof.answer).await.unwrap();
        let mut query = [0; 9];
        server.read_exact(&mut query).await.unwrap();
        query
    });
    let mut scram = scram(PASSWORD, &client);
    asked(&mut client, SASL).await;
    let first = initial("SCRAM-SHA-256", &scram.first());
    let length = u32::try_from(first.len() + 4).unwrap().to_be_bytes();
    for piece in [&b"p"[..], &length[..2], &length[2..], &first[..20], &first[20..]] {
        client.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    let last = scram.update(&asked(&mut client, SASL_CONTINUE).await).unwrap();
    let length = u32::try_from(last.len() + 4).unwrap().to_be_bytes();
    client.write_all(&[b"p", length.as_slice(), &last, b"Q\0\0\0\x08SQL\0"].concat()).await.unwrap();
    scram.finish(&asked(&mut client, SASL_FINAL).await).unwrap();
    assert_eq!(tokio::time::timeout(PATIENCE, opening).await.unwrap().unwrap(), *b"Q\0\0\0\x08SQL\0");
}

#[tokio::test]
async fn under_tls_the_exchange_is_bound_to_the_channel() {
    let (client, server) = pair().await;
    let accept = tokio::spawn(async move { server.accept_tls(&[], &certificate()).await.unwrap() });
    let mut client = encrypt(client, None).await.unwrap();
    let opening = begin(accept.await.unwrap(), true);
    let (offer, _, last) = log_in(&mut client, PASSWORD).await;
    assert_eq!(offer, "SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0", "the strongest first");
    assert_eq!(last.unwrap().0, b'R');
    assert!(outcome(opening).await.is_ok());
}

#[tokio::test]
async fn a_client_under_tls_that_was_made_to_believe_there_is_no_binding_is_refused() {
    let (client, server) = pair().await;
    let accept = tokio::spawn(async move { server.accept_tls(&[], &certificate()).await.unwrap() });
    let mut client = encrypt(client, None).await.unwrap();
    let opening = begin(accept.await.unwrap(), true);
    asked(&mut client, SASL).await;
    send(&mut client, b'p', &initial("SCRAM-SHA-256", b"y,,n=,r=abcdefgh")).await;
    let (_, told) = message(&mut client).await.unwrap();
    assert!(String::from_utf8_lossy(&told).contains("C28000\0"), "{told:?}");
    assert!(matches!(outcome(opening).await, Err(Error::Scram(ScramError::ChannelBindingNegotiation))));
}

#[tokio::test]
async fn nobody_known_gets_the_same_messages_and_the_same_error_as_a_wrong_password() {
    let mut told = Vec::new();
    for (known, password) in [(true, "pencils"), (false, PASSWORD)] {
        let (mut client, opening) = connect(known).await;
        let (offer, salt, last) = log_in(&mut client, password).await;
        assert!(matches!(outcome(opening).await, Err(Error::Password { .. })));
        assert!(message(&mut client).await.is_none(), "the connection is closed");
        told.push((offer, salt.len(), last.unwrap()));
    }
    assert_eq!(told[0], told[1]);
    let (kind, report) = &told[0].2;
    let text = "SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user \"app@acme\"\0\0";
    assert_eq!((*kind, String::from_utf8_lossy(report).as_ref()), (b'E', text));
}

#[tokio::test]
async fn nobody_known_has_the_same_salt_every_time() {
    let mut salts = Vec::new();
    for _ in 0..2 {
        let (mut client, opening) = connect(false).await;
        salts.push(log_in(&mut client, "x").await.1);
        assert!(outcome(opening).await.is_err());
    }
    assert_eq!(salts[0], salts[1]);
}

#[tokio::test]
async fn a_client_may_choose_its_mechanism_before_it_speaks() {
    let (mut client, opening) = connect(true).await;
    let mut scram = scram(PASSWORD, &client);
    asked(&mut client, SASL).await;
    let mechanism = scram.mechanism(&["SCRAM-SHA-256"]).unwrap();
    send(&mut client, b'p', &[mechanism.as_bytes(), b"\0\xff\xff\xff\xff"].concat()).await;
    assert_eq!(asked(&mut client, SASL_CONTINUE).await, b"");
    send(&mut client, b'p', &scram.first()).await;
    let server_first = asked(&mut client, SASL_CONTINUE).await;
    send(&mut client, b'p', &scram.update(&server_first).unwrap()).await;
    scram.finish(&asked(&mut client, SASL_FINAL).await).unwrap();
    assert!(outcome(opening).await.is_ok());
}

#[tokio::test]
async fn a_message_of_another_type_is_a_protocol_violation() {
    let (mut client, opening) = connect(true).await;
    asked(&mut client, SASL).await;
    send(&mut client, b'Q', b"select 1\0").await;
    let (kind, told) = message(&mut client).await.unwrap();
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(kind == b'E' && told.contains("C08P01\0Mexpected SASL response, got message type 81\0"), "{told}");
    assert!(matches!(outcome(opening).await, Err(Error::UnexpectedMessage(b'Q'))));
}

#[tokio::test]
async fn lengths_that_no_message_has_end_the_connection_without_reading_on() {
    for length in [0_u32, 3, 65_536, 0x7fff_ffff, 0xffff_ffff] {
        let (mut client, opening) = connect(true).await;
        asked(&mut client, SASL).await;
        client.write_all(&[b"p".as_slice(), &length.to_be_bytes()].concat()).await.unwrap();
        assert!(message(&mut client).await.is_none(), "{length}");
        assert!(matches!(outcome(opening).await, Err(Error::MessageLength(l)) if l == length));
    }
}

#[tokio::test]
async fn initial_responses_that_do_not_add_up_are_protocol_violations() {
    for body in [
        b"".as_slice(),
        b"SCRAM-SHA-256",
        b"SCRAM-SHA-256\0",
        b"SCRAM-SHA-256\0\0\0\0\x05n,,",
        b"SCRAM-SHA-256\0\0\0\0\x01n,,",
        b"SCRAM-SHA-256\0\xff\xff\xff\xffn,,",
        b"SCRAM-SHA-256\0\x80\0\0\0n,,",
        b"\xff\xfe\0\0\0\0\x03n,,",
        b"SCRAM-SHA-256\0\0\0\0\x03n,,",
        b"SCRAM-SHA-1\0\0\0\0\x03n,,",
        b"SCRAM-SHA-256-PLUS\0\0\0\0\x10n,,n=,r=abcdefgh",
    ] {
        let (mut client, opening) = connect(true).await;
        asked(&mut client, SASL).await;
        send(&mut client, b'p', body).await;
        let (kind, told) = message(&mut client).await.unwrap();
        assert!(kind == b'E' && String::from_utf8_lossy(&told).contains("C08P01\0"), "{body:?} {told:?}");
        assert!(matches!(outcome(opening).await, Err(Error::Malformed(_) | Error::Scram(_))), "{body:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_no_failed_login() {
    let (mut client, opening) = connect(true).await;
    asked(&mut client, SASL).await;
    drop(client);
    assert!(matches!(outcome(opening).await, Err(Error::Closed(_))));
    let (mut client, opening) = connect(true).await;
    asked(&mut client, SASL).await;
    send(&mut client, b'X', b"").await;
    assert!(matches!(outcome(opening).await, Err(Error::Closed(_))));
}
