//! The exchange against RFC 7677's vector, against another implementation's client, against itself, and against garbage.

use base64ct::{Base64, Encoding as _};
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use proptest::prelude::*;

use super::*;
use crate::auth::{Credential, Keys, MockKey, Secret, Verifier};

const END_POINT: &[u8] = &[7; 32];

fn pencil() -> Verifier {
    Verifier::generate("pencil", 2)
}

fn password(text: &str) -> Credential {
    Credential::Password(Secret::new(text.to_owned()))
}

/// Own client against own server; what each side said in the end.
fn exchange(
    verifier: &Verifier,
    credential: Credential,
    server_binding: Option<&[u8]>,
    client_binding: Option<&[u8]>,
) -> Result<(&'static str, Keys), ScramError> {
    let server = Server::new(verifier, true, server_binding.map(<[u8]>::to_vec));
    let mut client = Client::new(credential, client_binding.map(<[u8]>::to_vec));
    let mechanism = client.mechanism(server.mechanisms()).unwrap();
    let (server, server_first) = server.start(mechanism, &client.first())?;
    let client_final = client.update(&server_first)?;
    let (server_final, keys) = server.finish(&client_final)?;
    client.finish(&server_final)?;
    Ok((mechanism, keys))
}

/// What the server says to a first message of the client.
fn start(binding: bool, mechanism: &str, client_first: &str) -> Result<Vec<u8>, ScramError> {
    let verifier = pencil();
    let server = Server::new(&verifier, true, binding.then(|| END_POINT.to_vec()));
    server.start(mechanism, client_first.as_bytes()).map(|(_, message)| message)
}

#[test]
fn the_server_speaks_rfc_7677s_example() {
    let salt = Base64::decode_vec("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let keys = Keys::derive("pencil", &salt, 4096);
    let verifier = Verifier {
        iterations: 4096,
        salt,
        stored_key: crate::auth::password::sha256(&keys.client_key),
        server_key: keys.server_key,
    };
    let (server, first) = Server::new(&verifier, true, None)
        .start_with_nonce(SCRAM_SHA_256, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO", "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
        .unwrap();
    assert_eq!(
        String::from_utf8(first).unwrap(),
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    );
    let (last, recovered) = server
        .finish(
            b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        )
        .unwrap();
    assert_eq!(String::from_utf8(last).unwrap(), "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    assert!(recovered == keys, "the client's keys come out of its proof");
}

#[test]
fn the_client_proves_a_password_and_the_server_learns_keys_that_open_again() {
    let verifier = pencil();
    for (at_server, at_client, expected) in [
        (None, None, SCRAM_SHA_256),
        (Some(END_POINT), Some(END_POINT), SCRAM_SHA_256_PLUS),
        // A client without TLS information of its own, and one that could bind where the server cannot.
        (Some(END_POINT), None, SCRAM_SHA_256),
        (None, Some(END_POINT), SCRAM_SHA_256),
    ] {
        let (mechanism, keys) = exchange(&verifier, password("pencil"), at_server, at_client).unwrap();
        assert_eq!(mechanism, expected);
        let (_, again) = exchange(&verifier, Credential::Keys(keys.clone()), at_server, at_client).unwrap();
        assert!(keys == again);
        assert_eq!(exchange(&verifier, password("pencils"), at_server, at_client).unwrap_err(), ScramError::Mismatch);
    }
}

#[test]
fn keys_open_only_where_salt_and_iterations_are_the_same() {
    let (verifier, other) = (pencil(), pencil());
    let (_, keys) = exchange(&verifier, password("pencil"), None, None).unwrap();
    assert_eq!(exchange(&other, Credential::Keys(keys), None, None).unwrap_err(), ScramError::Mismatch);
}

#[test]
fn another_implementations_client_is_understood() {
    let verifier = pencil();
    for (ours, mechanism) in
        [(None, SCRAM_SHA_256), (Some(END_POINT), SCRAM_SHA_256), (Some(END_POINT), SCRAM_SHA_256_PLUS)]
    {
        for (attempt, expected) in [("pencil", true), ("pen", false)] {
            let theirs = match (mechanism, ours) {
                (SCRAM_SHA_256_PLUS, _) => ChannelBinding::tls_server_end_point(END_POINT.to_vec()),
                (_, Some(_)) => ChannelBinding::unsupported(),
                (_, None) => ChannelBinding::unrequested(),
            };
            let mut client = ScramSha256::new(attempt.as_bytes(), theirs);
            let server = Server::new(&verifier, true, ours.map(<[u8]>::to_vec));
            let (server, first) = server.start(mechanism, client.message()).unwrap();
            client.update(&first).unwrap();
            let result = server.finish(client.message());
            assert_eq!(result.is_ok(), expected);
            if let Ok((last, _)) = result {
                client.finish(&last).unwrap();
            }
        }
    }
}

#[test]
fn a_login_that_does_not_exist_fails_as_a_wrong_password_does() {
    let mock = MockKey::random().verifier_for("app@nosuch");
    let real = Verifier::generate("pencil", 4096);
    let attempt = |verifier: &Verifier, known: bool| {
        let mut client = Client::new(password("guess"), None);
        client.mechanism(&[SCRAM_SHA_256]).unwrap();
        let (server, first) = Server::new(verifier, known, None).start(SCRAM_SHA_256, &client.first()).unwrap();
        let last = client.update(&first).unwrap();
        (first.len(), server.finish(&last).map(|_| ()))
    };
    assert_eq!(attempt(&mock, false), attempt(&real, true));
    // Even the right password does not help where the login is not known.
    let verifier = pencil();
    let mut client = Client::new(password("pencil"), None);
    let (server, first) = Server::new(&verifier, false, None).start(SCRAM_SHA_256, &client.first()).unwrap();
    assert_eq!(server.finish(&client.update(&first).unwrap()).unwrap_err(), ScramError::Mismatch);
}

#[test]
fn plus_is_offered_first_and_under_tls_only() {
    assert_eq!(Server::new(&pencil(), true, None).mechanisms(), [SCRAM_SHA_256]);
    let offered = Server::new(&pencil(), true, Some(END_POINT.to_vec())).mechanisms();
    assert_eq!(offered, [SCRAM_SHA_256_PLUS, SCRAM_SHA_256]);
    // Another server's list may have any order, and other mechanisms.
    let mut client = Client::new(password("x"), Some(END_POINT.to_vec()));
    assert_eq!(client.mechanism(&["OAUTHBEARER", SCRAM_SHA_256, SCRAM_SHA_256_PLUS]), Some(SCRAM_SHA_256_PLUS));
    assert!(client.first().starts_with(b"p=tls-server-end-point,,n=,r="));
    assert_eq!(client.mechanism(&[SCRAM_SHA_256]), Some(SCRAM_SHA_256));
    assert!(client.first().starts_with(b"y,,n=,r="));
    assert_eq!(client.mechanism(&["OAUTHBEARER"]), None);
    let mut plain = Client::new(password("x"), None);
    assert_eq!(plain.mechanism(&[SCRAM_SHA_256_PLUS]), None);
    assert_eq!(plain.mechanism(&[SCRAM_SHA_256_PLUS, SCRAM_SHA_256]), Some(SCRAM_SHA_256));
}

#[test]
fn binding_flags_are_held_against_what_was_offered() {
    use ScramError::{ChannelBindingNegotiation, ChannelBindingType, Malformed, Mechanism};
    let p = "p=tls-server-end-point,,n=,r=abc";
    assert!(start(false, SCRAM_SHA_256, "n,,n=,r=abc").is_ok());
    assert!(start(false, SCRAM_SHA_256, "y,,n=,r=abc").is_ok());
    assert!(start(true, SCRAM_SHA_256, "n,,n=,r=abc").is_ok());
    assert!(start(true, SCRAM_SHA_256_PLUS, p).is_ok());
    // A downgrade: the client thinks that binding was not offered, and it was.
    assert_eq!(start(true, SCRAM_SHA_256, "y,,n=,r=abc").unwrap_err(), ChannelBindingNegotiation);
    assert_eq!(start(true, SCRAM_SHA_256_PLUS, "y,,n=,r=abc").unwrap_err(), ChannelBindingNegotiation);
    assert_eq!(start(true, SCRAM_SHA_256_PLUS, "n,,n=,r=abc").unwrap_err(), ChannelBindingNegotiation);
    assert_eq!(start(true, SCRAM_SHA_256, p).unwrap_err(), ChannelBindingNegotiation);
    assert_eq!(start(false, SCRAM_SHA_256, p).unwrap_err(), ChannelBindingNegotiation);
    assert_eq!(start(true, SCRAM_SHA_256_PLUS, "p=tls-unique,,n=,r=abc").unwrap_err(), ChannelBindingType);
    assert_eq!(start(false, SCRAM_SHA_256_PLUS, p).unwrap_err(), Mechanism);
    assert_eq!(start(true, "SCRAM-SHA-1", "n,,n=,r=abc").unwrap_err(), Mechanism);
    assert_eq!(start(false, SCRAM_SHA_256, "x,,n=,r=abc").unwrap_err(), Malformed("channel-binding flag"));
}

#[test]
fn a_client_bound_to_another_channel_is_refused() {
    let refused = exchange(&pencil(), password("pencil"), Some(END_POINT), Some(&[8; 32])).unwrap_err();
    assert_eq!(refused, ScramError::ChannelBinding);
}

#[test]
fn the_first_message_is_taken_as_postgres_takes_it() {
    use ScramError::{AuthorizationIdentity, Bounds, Extension, Malformed};
    let said = |message: &str| start(false, SCRAM_SHA_256, message).map(|_| ());
    assert_eq!(said("n,,n=someone=2Celse,r=abc"), Ok(()), "the name is ignored");
    assert_eq!(said("n,,n=,r=abc,x=extension"), Ok(()), "and so are optional extensions");
    assert_eq!(said("n,a=admin,n=,r=abc"), Err(AuthorizationIdentity));
    assert_eq!(said("n,,m=must,n=,r=abc"), Err(Extension));
    assert_eq!(said("n,,n=,r=abc,m=must"), Err(Extension));
    assert_eq!(said("n,,n=,r="), Err(Malformed("nonce")));
    assert_eq!(said("n,,n=,r=a b"), Err(Malformed("nonce")));
    assert_eq!(said("n,,n=,r=\u{e9}"), Err(Malformed("nonce")));
    assert_eq!(said("n,,n=,r=a\0"), Err(Malformed("zero byte")));
    assert_eq!(said("n,,n="), Err(Malformed("nonce")));
    assert_eq!(said("n,x,n=,r=abc"), Err(Malformed("GS2 header")));
    assert_eq!(said("n"), Err(Malformed("GS2 header")));
    assert_eq!(said(""), Err(Malformed("channel-binding flag")));
    assert_eq!(said("n,,n=,r=abc,"), Err(Malformed("attribute")));
    assert_eq!(said(&format!("n,,n=,r={}", "a".repeat(256))), Ok(()));
    assert_eq!(said(&format!("n,,n=,r={}", "a".repeat(257))), Err(Bounds("nonce")));
    assert_eq!(said(&format!("n,,n={},r=abc", "a".repeat(1024))), Err(Bounds("message")));
}

#[test]
fn the_final_message_must_be_of_this_exchange_and_end_with_the_proof() {
    use ScramError::{ChannelBinding, Extension, Malformed, Mismatch, Nonce};
    let verifier = pencil();
    let answer = |change: &dyn Fn(&str) -> String| {
        let mut client = Client::new(password("pencil"), None);
        let (server, first) = Server::new(&verifier, true, None).start(SCRAM_SHA_256, &client.first()).unwrap();
        let last = String::from_utf8(client.update(&first).unwrap()).unwrap();
        server.finish(change(&last).as_bytes()).map(|_| ())
    };
    assert_eq!(answer(&|last| last.to_owned()), Ok(()));
    assert_eq!(answer(&|last| last.replacen("c=biws", "c=eSws", 1)), Err(ChannelBinding));
    assert_eq!(answer(&|last| last.replacen("r=", "r=x", 1)), Err(Nonce));
    assert_eq!(answer(&|last| last.replacen(",p=", ",x=unsigned,p=", 1)), Err(Mismatch), "extensions are signed");
    assert_eq!(answer(&|last| last.replacen(",p=", ",m=must,p=", 1)), Err(Extension));
    assert_eq!(answer(&|last| format!("{last},x=y")), Err(Malformed("bytes after the proof")));
    assert_eq!(answer(&|last| format!("{last},")), Err(Malformed("bytes after the proof")));
    assert_eq!(answer(&|last| last[..last.len() - 4].to_owned()), Err(Malformed("proof")));
    assert_eq!(answer(&|last| last.split(",p=").next().unwrap().to_owned()), Err(Malformed("no proof")));
    assert_eq!(answer(&|_| String::new()), Err(Malformed("channel binding")));
}

#[test]
fn a_hostile_servers_first_message_is_kept_within_bounds() {
    use ScramError::{Bounds, Extension, Malformed, Nonce};
    let update = |credential: Credential, message: &str| {
        let mut client = Client::with_nonce(credential, None, "abc".to_owned());
        client.update(message.as_bytes()).map(|_| ())
    };
    let said = |message: &str| update(password("x"), message);
    let keys = exchange(&pencil(), password("pencil"), None, None).unwrap().1;
    assert_eq!(said("r=abcdef,s=AAAA,i=1"), Ok(()));
    assert_eq!(said("r=abcdef,s=AAAA,i=1,x=optional"), Ok(()));
    assert_eq!(said("r=abc,s=AAAA,i=1"), Err(Nonce), "the server added nothing of its own");
    assert_eq!(said("r=xbcdef,s=AAAA,i=1"), Err(Nonce));
    assert_eq!(said(&format!("r=abc{},s=AAAA,i=1", "d".repeat(257))), Err(Bounds("nonce")));
    assert_eq!(said("m=must,r=abcdef,s=AAAA,i=1"), Err(Extension));
    assert_eq!(said("r=abcdef,s=,i=1"), Err(Bounds("salt")));
    assert_eq!(said("r=abcdef,s=A,i=1"), Err(Bounds("salt")));
    assert_eq!(said(&format!("r=abcdef,s={},i=1", "AAAA".repeat(86))), Err(Bounds("salt")));
    for count in ["0", "", "-1", "4294967296", "99999999999999999999", "1e9"] {
        assert_eq!(said(&format!("r=abcdef,s=AAAA,i={count}")), Err(Malformed("iterations")), "{count}");
    }
    assert_eq!(said("r=abcdef,s=AAAA,i=1000001"), Err(Bounds("iterations")));
    assert_eq!(update(Credential::Keys(keys), "r=abcdef,s=AAAA,i=1000001"), Ok(()), "keys cost no iterations");
    assert_eq!(said(&format!("r=abcdef,s=AAAA,i=1,x={}", "y".repeat(4096))), Err(Bounds("message")));
}

#[test]
fn a_server_that_does_not_know_the_verifier_is_found_out() {
    let finish = |message: &dyn Fn(&str) -> String| {
        let verifier = pencil();
        let mut client = Client::new(password("pencil"), None);
        let (server, first) = Server::new(&verifier, true, None).start(SCRAM_SHA_256, &client.first()).unwrap();
        let (last, _) = server.finish(&client.update(&first).unwrap()).unwrap();
        client.finish(message(&String::from_utf8(last).unwrap()).as_bytes())
    };
    assert_eq!(finish(&|last| last.to_owned()), Ok(()));
    let forged = format!("v={}", Base64::encode_string(&[0; 32]));
    assert_eq!(finish(&|_| forged.clone()), Err(ScramError::WrongServer));
    assert_eq!(finish(&|_| "v=AAAA".to_owned()), Err(ScramError::Malformed("signature")));
    assert_eq!(finish(&|_| "e=other-error".to_owned()), Err(ScramError::Refused));
    assert_eq!(finish(&|_| String::new()), Err(ScramError::Malformed("attribute")));
}

#[test]
fn steps_out_of_order_are_errors() {
    let mut client = Client::with_nonce(password("x"), None, "abc".to_owned());
    assert_eq!(client.finish(b"v="), Err(ScramError::Order));
    assert_eq!(client.update(b"r=abcdef,s=AAAA,i=1"), Err(ScramError::Order), "nothing works after a failure");
}

#[test]
fn passwords_of_any_length_and_letter_open() {
    for text in ["", "%41\u{2168}\u{AD}", "\u{1F600}", "tab\t", "a,b=c", &"p".repeat(5000)] {
        let verifier = Verifier::generate(text, 1);
        assert!(exchange(&verifier, password(text), None, None).is_ok(), "{text:?}");
    }
}

/// Bytes that look like SCRAM messages often enough to reach every branch.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        "[nyp]|p=tls-server-end-point|a=x|m=x|n=|n=u|c=biws|i=[0-9]{0,12}|s=[A-Za-z0-9+/=]{0,9}|e=x"
            .prop_map(String::into_bytes),
        "[rvpsc]=[ -~]{0,50}".prop_map(String::into_bytes),
        Just(Vec::new()),
        prop::collection::vec(any::<u8>(), 0..9),
    ];
    prop::collection::vec(piece, 0..7).prop_map(|pieces| pieces.join(&b','))
}

proptest! {
    #[test]
    fn no_bytes_make_the_server_panic(first in messages(), last in messages(), plus: bool, binding: bool) {
        let verifier = MockKey::derive(b"").verifier_for("x");
        let mechanism = if plus { SCRAM_SHA_256_PLUS } else { SCRAM_SHA_256 };
        let server = || Server::new(&verifier, true, binding.then(|| END_POINT.to_vec()));
        if let Ok((next, _)) = server().start(mechanism, &first) {
            prop_assert!(next.finish(&last).is_err());
        }
        let (next, _) = server().start_with_nonce(SCRAM_SHA_256, b"n,,n=,r=abc", "def").unwrap();
        let mut led = b"c=biws,r=abcdef,".to_vec();
        led.extend_from_slice(&last);
        prop_assert!(next.finish(&led).is_err());
    }

    #[test]
    fn no_bytes_make_the_client_panic(first in messages(), last in messages()) {
        let keys = Keys { client_key: [1; 32], server_key: [2; 32] };
        let mut client = Client::with_nonce(Credential::Keys(keys), None, "abc".to_owned());
        let mut led = b"r=abcdef,".to_vec();
        led.extend_from_slice(&first);
        let _ = client.update(if first.len() % 2 == 0 { &led } else { &first });
        prop_assert!(client.finish(&last).is_err());
        let mut late = Client::with_nonce(client_credential(), None, "abc".to_owned());
        late.update(b"r=abcdef,s=AAAA,i=1").unwrap();
        prop_assert!(late.finish(&last).is_err());
    }
}

fn client_credential() -> Credential {
    Credential::Keys(Keys { client_key: [1; 32], server_key: [2; 32] })
}
