//! X.509 certificates of version 1, which webpki does not read: what PostgreSQL's manual has an own authority sign with
//! `openssl x509 -req`. They have no extensions; what can be verified is the authority's signature, the period and the name.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

/// Reads a certificate of any version.
pub(super) fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    Ok(parsed)
}

/// The certificate, if it is one of version 1.
pub(super) fn version_1<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    parse(certificate).ok().filter(|parsed| parsed.version() == X509Version::V1)
}

/// Whether one of the authorities signed the certificate itself. Intermediates do not count.
pub(super) fn verify_authority(
    certificate: &X509Certificate<'_>,
    authorities: &[CertificateDer<'_>],
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<(), Error> {
    let scheme = match certificate.signature_algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.11" => SignatureScheme::RSA_PKCS1_SHA256,
        "1.2.840.113549.1.1.12" => SignatureScheme::RSA_PKCS1_SHA384,
        "1.2.840.113549.1.1.13" => SignatureScheme::RSA_PKCS1_SHA512,
        "1.2.840.10045.4.3.2" => SignatureScheme::ECDSA_NISTP256_SHA256,
        "1.2.840.10045.4.3.3" => SignatureScheme::ECDSA_NISTP384_SHA384,
        "1.2.840.10045.4.3.4" => SignatureScheme::ECDSA_NISTP521_SHA512,
        "1.3.101.112" => SignatureScheme::ED25519,
        _ => return Err(CertificateError::BadSignature.into()),
    };
    for authority in authorities {
        let authority = parse(authority)?;
        if authority.subject().as_raw() != certificate.issuer().as_raw() {
            continue;
        }
        let (message, signature) = (certificate.tbs_certificate.as_ref(), &certificate.signature_value.data);
        if verify_signature(&authority, scheme, message, signature, algorithms) {
            return Ok(());
        }
    }
    Err(CertificateError::UnknownIssuer.into())
}

/// Whether the certificate's key made the signature. A scheme has an algorithm for each kind of key it can be used with; all
/// are tried, and those for other kinds do not read the key.
fn verify_signature(
    signer: &X509Certificate<'_>,
    scheme: SignatureScheme,
    message: &[u8],
    signature: &[u8],
    algorithms: &WebPkiSupportedAlgorithms,
) -> bool {
    let key = &signer.public_key().subject_public_key.data;
    let candidates = algorithms.mapping.iter().filter(|(candidate, _)| *candidate == scheme).flat_map(|(_, all)| *all);
    candidates.into_iter().any(|algorithm| algorithm.verify_signature(key, message, signature).is_ok())
}

/// The server's signature in a TLS 1.2 handshake.
pub(super) fn verify_tls12(
    message: &[u8],
    certificate: &X509Certificate<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    if verify_signature(certificate, signed.scheme, message, signed.signature(), algorithms) {
        Ok(HandshakeSignatureValid::assertion())
    } else {
        Err(CertificateError::BadSignature.into())
    }
}

/// The server's signature in a TLS 1.3 handshake.
pub(super) fn verify_tls13(
    message: &[u8],
    certificate: &X509Certificate<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let key = SubjectPublicKeyInfoDer::from(certificate.public_key().raw);
    verify_tls13_signature_with_raw_key(message, &key, signed, algorithms)
}
