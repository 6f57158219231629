//! TLS configurations of both sides, and the hash of a certificate that SCRAM binds to.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest;
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, InconsistentKeys, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::signature_algorithm::SignatureAlgorithm;

use super::error::TlsError;
use super::legacy;
use super::verify::{Authorities, ServerVerifier, Strictness};
use crate::tenant::SslMode;

/// The application protocol of PostgreSQL, as registered with IANA.
pub const ALPN: &[u8] = b"postgresql";

/// The server side's TLS: its configuration, and what SCRAM binds to.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// Certificate, key and rules.
    pub config: Arc<ServerConfig>,
    /// [`server_end_point`] of the certificate.
    pub server_end_point: Option<Arc<[u8]>>,
    /// The certificate.
    pub certificate: Arc<[u8]>,
}

/// Makes aws-lc-rs the process's cryptography, for this and every library on rustls. Later calls do nothing.
pub fn install_provider() {
    // An error means that a provider is installed already, by an earlier call.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// The cryptography of all configurations made here, whatever the process installed.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())))
}

/// The server side's TLS from PEM files: a certificate chain and its key. With `client_ca`, clients may show certificates
/// that must be signed by one of its authorities. Sessions are not resumed, as PostgreSQL's own are not.
///
/// # Errors
/// A [`TlsError`] that names the file.
pub fn server_config(certificate: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Arc<ServerTls>, TlsError> {
    let chain = certificates(certificate)?;
    let leaf = chain.first().map_or(&[][..], |leaf| leaf.as_ref()).into();
    let end_point = chain.first().and_then(|leaf| server_end_point(leaf)).map(Arc::from);
    let private_key = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::Pem {
        what: "a private key",
        path: key.to_owned(),
        source,
    })?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider())
                .allow_unauthenticated()
                .build()
                .map_err(|source| TlsError::ClientVerifier { path: path.to_owned(), source })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let certified =
        certified(chain, private_key).map_err(|source| TlsError::KeyPair { path: certificate.to_owned(), source })?;
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(ServerTls { config: Arc::new(config), server_end_point: end_point, certificate: leaf }))
}

/// A chain with its key, which must be the key of the chain's first certificate.
fn certified(
    chain: Vec<CertificateDer<'static>>,
    private_key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, rustls::Error> {
    let certified = CertifiedKey::new(chain, provider().key_provider.load_private_key(private_key)?);
    let matching = match certified.cert.first().and_then(legacy::version_1) {
        None => certified.keys_match(),
        Some(version_1) => match certified.key.public_key() {
            None => Err(InconsistentKeys::Unknown.into()),
            Some(key) if key.as_ref() == version_1.public_key().raw => Ok(()),
            Some(_) => Err(InconsistentKeys::KeyMismatch.into()),
        },
    };
    match matching {
        // A key that does not show its public half may still be right; the first handshake tells.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(error) => Err(error),
    }
}

/// The client side's TLS towards a server, by libpq's modes: `prefer` and `require` accept any certificate whose key the
/// server holds (`require` with a file of authorities verifies as `verify-ca`, as libpq does), `verify-ca` wants it signed
/// by an authority, `verify-full` for the host name as well. Without a file, the system's authorities count.
/// `None` for `disable`.
///
/// # Errors
/// A [`TlsError`] that names the file.
pub fn client_config(mode: SslMode, ca: Option<&Path>) -> Result<Option<Arc<ClientConfig>>, TlsError> {
    let strictness = match (mode, ca) {
        (SslMode::Disable, _) => return Ok(None),
        (SslMode::Prefer, _) | (SslMode::Require, None) => Strictness::AnyCertificate,
        (SslMode::Require, Some(_)) | (SslMode::VerifyCa, _) => Strictness::Authority(authorities(ca)?),
        (SslMode::VerifyFull, _) => Strictness::AuthorityAndName(authorities(ca)?),
    };
    let algorithms = provider().signature_verification_algorithms;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier::new(strictness, algorithms)))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    // PostgreSQL gives out no sessions to resume.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Some(Arc::new(config)))
}

/// `tls-server-end-point` of RFC 5929: the certificate's hash by the hash of its own signature, MD5 and SHA-1 replaced by
/// SHA-256. `None` when the signature has no single hash (Ed25519, for one), as PostgreSQL has none then.
#[must_use]
pub fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let oid = match SignatureAlgorithm::try_from(&parsed.signature_algorithm) {
        Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) => parameters.hash_algorithm_oid().to_id_string(),
        _ => parsed.signature_algorithm.algorithm.to_id_string(),
    };
    let hash = match oid.as_str() {
        // MD5, SHA-1: alone, with RSA, with DSA, with ECDSA.
        "1.2.840.113549.2.5" | "1.3.14.3.2.26" => &digest::SHA256,
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.10040.4.3" | "1.2.840.10045.4.1" => &digest::SHA256,
        // SHA-256, then SHA-224, SHA-384 and SHA-512, in the same order.
        "2.16.840.1.101.3.4.2.1" | "1.2.840.113549.1.1.11" | "2.16.840.1.101.3.4.3.2" | "1.2.840.10045.4.3.2" => {
            &digest::SHA256
        }
        "2.16.840.1.101.3.4.2.4" | "1.2.840.113549.1.1.14" | "2.16.840.1.101.3.4.3.1" | "1.2.840.10045.4.3.1" => {
            &digest::SHA224
        }
        "2.16.840.1.101.3.4.2.2" | "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => &digest::SHA384,
        "2.16.840.1.101.3.4.2.3" | "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => &digest::SHA512,
        _ => return None,
    };
    Some(digest::digest(hash, certificate).as_ref().to_vec())
}

/// All certificates of a PEM file.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |source| TlsError::Pem { what: "certificates", path: path.to_owned(), source };
    let chain: Vec<_> = CertificateDer::pem_file_iter(path).map_err(pem)?.collect::<Result<_, _>>().map_err(pem)?;
    if chain.is_empty() { Err(TlsError::NoCertificate { path: path.to_owned() }) } else { Ok(chain) }
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|source| TlsError::Authorities { path: path.to_owned(), source })?;
    }
    Ok(store)
}

fn authorities(path: Option<&Path>) -> Result<Authorities, TlsError> {
    if let Some(path) = path {
        return Ok(Authorities { roots: roots(path)?, certificates: certificates(path)? });
    }
    let mut store = RootCertStore::empty();
    let (accepted, _) = store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if accepted == 0 {
        return Err(TlsError::NoSystemAuthorities);
    }
    Ok(Authorities { roots: store, certificates: Vec::new() })
}
