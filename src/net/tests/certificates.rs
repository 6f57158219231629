//! What certificates are accepted and what they bind to; files that are wrong.

use super::*;

#[tokio::test]
async fn modes_verify_what_libpq_verifies() {
    let pki = Pki::new();
    let (server, ca) = pki.server();
    let (other_ca, _) = pki.self_signed("other", CertificateParams::new(vec!["localhost".to_owned()]).unwrap());
    let cases = [
        (SslMode::Prefer, None, "other.example", true),
        (SslMode::Require, None, "other.example", true),
        (SslMode::Require, Some(&other_ca), "localhost", false),
        (SslMode::VerifyCa, Some(&ca), "other.example", true),
        (SslMode::VerifyCa, Some(&other_ca), "localhost", false),
        (SslMode::VerifyFull, Some(&ca), "localhost", true),
        (SslMode::VerifyFull, Some(&ca), "other.example", false),
    ];
    for (mode, ca, host, accepted) in cases {
        let (client, _) = handshake(&server, mode, ca.map(PathBuf::as_path), host).await;
        assert_eq!(client.is_ok(), accepted, "{mode} {ca:?} {host}: {client:?}");
        if let Err(error) = client {
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        }
    }
    assert!(client_config(SslMode::Disable, None).unwrap().is_none());
}

#[tokio::test]
async fn a_certificate_as_the_manual_makes_it_is_verified_by_its_common_name() {
    let pki = Pki::new();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "db.example.com");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let (certificate, key) = pki.self_signed("manual", params);
    let server = server_config(&certificate, &key, None).unwrap();
    for (host, accepted) in [("DB.example.com", true), ("example.com", false)] {
        let (client, _) = handshake(&server, SslMode::VerifyFull, Some(&certificate), host).await;
        assert_eq!(client.is_ok(), accepted, "{host}: {client:?}");
    }
}

/// A certificate of version 1 for `db.example.com`, signed by an own authority as PostgreSQL's manual shows (OpenSSL 3.0).
fn version_1(pki: &Pki) -> (Arc<ServerTls>, PathBuf) {
    let files = [
        ("v1.crt", include_str!("../testdata/server.crt")),
        ("v1.key", include_str!("../testdata/server.key")),
        ("root.crt", include_str!("../testdata/root.crt")),
    ];
    for (name, pem) in files {
        std::fs::write(pki.path(name), pem).unwrap();
    }
    (server_config(&pki.path("v1.crt"), &pki.path("v1.key"), None).unwrap(), pki.path("root.crt"))
}

/// The same server, speaking TLS 1.2 only.
fn only_tls_12(pki: &Pki, name: &str) -> ServerTls {
    use rustls_pki_types::pem::PemObject as _;
    let certificate = rustls_pki_types::CertificateDer::from_pem_file(pki.path(&format!("{name}.crt"))).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::from_pem_file(pki.path(&format!("{name}.key"))).unwrap();
    let end_point = server_end_point(&certificate).map(Arc::from);
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
    let resolver = rustls::sign::SingleCertAndKey::from(rustls::sign::CertifiedKey::new(vec![certificate], key));
    let resolver = Arc::new(resolver);
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    ServerTls { config: Arc::new(config), server_end_point: end_point, certificate: Arc::default() }
}

#[tokio::test]
async fn a_certificate_of_version_1_is_verified_like_any_other() {
    let pki = Pki::new();
    let (server, root) = version_1(&pki);
    let older = only_tls_12(&pki, "v1");
    let itself = pki.path("v1.crt");
    let (other_ca, _) = pki.localhost();
    let cases = [
        (SslMode::Require, None, "other.example", true),
        (SslMode::VerifyFull, Some(&root), "db.example.com", true),
        (SslMode::VerifyFull, Some(&root), "other.example.com", false),
        (SslMode::VerifyFull, Some(&itself), "db.example.com", true),
        (SslMode::VerifyCa, Some(&root), "other.example", true),
        (SslMode::VerifyCa, Some(&other_ca), "db.example.com", false),
    ];
    for server in [&*server, &older] {
        for (mode, ca, host, accepted) in cases {
            let (client, _) = handshake(server, mode, ca.map(PathBuf::as_path), host).await;
            assert_eq!(client.is_ok(), accepted, "{mode} {ca:?} {host}: {client:?}");
            if host == "other.example.com" {
                assert!(client.unwrap_err().to_string().contains("NotValidForName"), "the reason is told");
            }
        }
    }
}

#[tokio::test]
async fn a_server_without_the_key_of_a_version_1_certificate_is_refused() {
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    let pki = Pki::new();
    let (server, root) = version_1(&pki);
    let certificate =
        rustls_pki_types::pem::PemObject::from_pem_slice(include_bytes!("../testdata/server.crt")).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(KeyPair::generate().unwrap().serialize_der()).unwrap();
    let key = server.config.crypto_provider().key_provider.load_private_key(key).unwrap();
    for base in [server.config.clone(), only_tls_12(&pki, "v1").config] {
        let mut config = (*base).clone();
        let stolen: rustls_pki_types::CertificateDer<'static> = Clone::clone(&certificate);
        config.cert_resolver = Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![stolen], Arc::clone(&key))));
        let thief = ServerTls { config: Arc::new(config), server_end_point: None, certificate: Arc::default() };
        let (client, _) = handshake(&thief, SslMode::VerifyFull, Some(&root), "db.example.com").await;
        assert!(client.unwrap_err().to_string().contains("BadSignature"));
    }
}

#[tokio::test]
async fn tls_1_2_carries_bytes_and_half_closes_too() {
    let pki = Pki::new();
    let (ca, _) = pki.localhost();
    let (client, server) =
        handshake(&only_tls_12(&pki, "localhost"), SslMode::VerifyFull, Some(&ca), "localhost").await;
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    assert_eq!(client.tls().unwrap().server_end_point, server.tls().unwrap().server_end_point);
    send(&mut client, b"last words").await;
    client.shutdown().await.unwrap();
    assert_eq!(receive(&mut server, 10).await, b"last words");
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
    send(&mut server, b"answer").await;
    assert_eq!(receive(&mut client, 6).await, b"answer");
}

#[tokio::test]
async fn an_expired_certificate_is_refused_even_when_it_is_in_the_file() {
    let pki = Pki::new();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2001, 1, 1);
    params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    let (certificate, key) = pki.self_signed("expired", params);
    let server = server_config(&certificate, &key, None).unwrap();
    let (client, _) = handshake(&server, SslMode::VerifyCa, Some(&certificate), "localhost").await;
    assert!(client.is_err());
    let (client, _) = handshake(&server, SslMode::Require, None, "localhost").await;
    assert!(client.is_ok());
}

#[tokio::test]
async fn a_client_certificate_is_seen_where_asked_for_and_may_be_missing() {
    let pki = Pki::new();
    let (certificate, key) = pki.localhost();
    let ca_key = KeyPair::generate().unwrap();
    let mut ca_params = CertificateParams::new(Vec::new()).unwrap();
    ca_params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_certificate = ca_params.self_signed(&ca_key).unwrap();
    std::fs::write(pki.path("ca.crt"), ca_certificate.pem()).unwrap();
    let server = server_config(&certificate, &key, Some(&pki.path("ca.crt"))).unwrap();

    let (_, accepted) = handshake(&server, SslMode::Require, None, "localhost").await;
    assert!(!accepted.unwrap().tls().unwrap().client_certificate);

    let client_key = KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::from_params(&ca_params, &ca_key);
    let client_certificate =
        CertificateParams::new(vec!["app".to_owned()]).unwrap().signed_by(&client_key, &issuer).unwrap();
    let mut config = (*client_config(SslMode::Require, None).unwrap().unwrap()).clone();
    let key = rustls_pki_types::PrivateKeyDer::try_from(client_key.serialize_der()).unwrap();
    config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(
        rustls::sign::CertifiedKey::from_der(vec![client_certificate.der().clone()], key, config.crypto_provider())
            .unwrap(),
    ));
    let (client, accepted) = tcp_pair().await;
    let (client, accepted) = tokio::join!(
        client.connect_tls(server_name("localhost").unwrap(), Arc::new(config)),
        accepted.accept_tls(&[], &server)
    );
    assert!(client.is_ok());
    assert!(accepted.unwrap().tls().unwrap().client_certificate);
}

#[test]
fn the_end_point_hash_follows_the_certificates_signature() {
    use aws_lc_rs::digest::{SHA256, SHA384, digest};
    let made = |algorithm| {
        let key = KeyPair::generate_for(algorithm).unwrap();
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap().der().to_vec()
    };
    let certificate = made(&PKCS_ECDSA_P256_SHA256);
    assert_eq!(server_end_point(&certificate).unwrap(), digest(&SHA256, &certificate).as_ref());
    let certificate = made(&PKCS_ECDSA_P384_SHA384);
    assert_eq!(server_end_point(&certificate).unwrap(), digest(&SHA384, &certificate).as_ref());
    assert_eq!(server_end_point(&made(&PKCS_ED25519)), None);
    assert_eq!(server_end_point(b"no certificate"), None);
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_name() {
    let pki = Pki::new();
    let (certificate, key) = pki.localhost();
    let (_, other_key) = pki.self_signed("other", CertificateParams::default());
    std::fs::write(pki.path("empty.crt"), "").unwrap();
    let wrong = |certificate: &Path, key: &Path| server_config(certificate, key, None).unwrap_err();
    assert!(matches!(wrong(&pki.path("none.crt"), &key), TlsError::Pem { path, .. } if path.ends_with("none.crt")));
    assert!(matches!(wrong(&pki.path("empty.crt"), &key), TlsError::NoCertificate { .. }));
    assert!(matches!(wrong(&certificate, &certificate), TlsError::Pem { what: "a private key", .. }));
    assert!(matches!(wrong(&certificate, &other_key), TlsError::KeyPair { .. }));
    version_1(&pki);
    assert!(matches!(wrong(&pki.path("v1.crt"), &other_key), TlsError::KeyPair { .. }));
    let ca = pki.path("none.crt");
    assert!(matches!(client_config(SslMode::VerifyFull, Some(&ca)).unwrap_err(), TlsError::Pem { .. }));
}
