//! SCRAM: a hostile server's messages to our client, a hostile client's to our server, and verifiers as text.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pgtenant::auth::scram::{Client, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, Server};
use pgtenant::auth::{Credential, Keys, Secret, Verifier};

const PASSWORD: &str = "a password";
static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| Verifier::generate(PASSWORD, 4096));
/// With keys there is no PBKDF2 to wait for.
static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let mut client = Client::new(Credential::Password(Secret::new(PASSWORD.to_owned())), None);
    let mechanism = client.mechanism(&[SCRAM_SHA_256]).expect("a mechanism");
    let (server, first) =
        Server::new(&VERIFIER, true, None).start(mechanism, &client.first()).expect("a first message");
    let (last, keys) = server.finish(&client.update(&first).expect("a proof")).expect("the right password");
    client.finish(&last).expect("the right server");
    keys
});

fuzz_target!(|bytes: &[u8]| {
    let Some((mode, rest)) = bytes.split_first() else { return };
    // Two messages, told apart by a zero byte.
    let cut = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
    let (first, last) = (&rest[..cut], rest.get(cut + 1..).unwrap_or_default());
    let binding = (mode & 1 == 1).then(|| vec![7; 32]);
    match mode >> 1 & 3 {
        0 => hostile_server(first, last, binding),
        1 => hostile_client(first, last, binding),
        2 => honest_first(first, binding),
        _ => verifier(rest),
    }
});

fn hostile_server(first: &[u8], last: &[u8], binding: Option<Vec<u8>>) {
    let mut client = Client::new(Credential::Keys(KEYS.clone()), binding);
    let _ = client.mechanism(&[SCRAM_SHA_256, SCRAM_SHA_256_PLUS]);
    // The nonce must begin with the client's own, or nothing behind it is looked at.
    let own = client.first();
    let nonce = own.windows(2).position(|pair| pair == b"r=").map_or(&[][..], |at| &own[at..]);
    let _ = client.update(&[nonce, first].concat());
    // Nobody knows the server's key but the server.
    assert!(client.finish(last).is_err());
}

fn hostile_client(first: &[u8], last: &[u8], binding: Option<Vec<u8>>) {
    let mechanism = if binding.is_some() { SCRAM_SHA_256_PLUS } else { SCRAM_SHA_256 };
    let Ok((server, _)) = Server::new(&VERIFIER, true, binding).start(mechanism, first) else { return };
    assert!(server.finish(last).is_err());
}

/// A first message in order, then anything.
fn honest_first(last: &[u8], binding: Option<Vec<u8>>) {
    let mut client = Client::new(Credential::Keys(KEYS.clone()), binding.clone());
    let mechanism = client.mechanism(&[SCRAM_SHA_256, SCRAM_SHA_256_PLUS]).expect("a mechanism");
    let server = Server::new(&VERIFIER, true, binding);
    // Without a binding the server offers no -PLUS, and a client that has none does not ask for it.
    let (server, first) = server.start(mechanism, &client.first()).expect("a first message in order");
    let proof = client.update(&first).expect("a proof");
    let end = proof.windows(3).rposition(|three| three == b",p=").expect("a proof");
    assert!(server.finish(&[&proof[..end], last].concat()).is_err() || proof[end..] == *last);
}

fn verifier(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    if let Ok(verifier) = text.parse::<Verifier>() {
        assert_eq!(verifier.to_string().parse::<Verifier>().as_ref(), Ok(&verifier));
    }
}
