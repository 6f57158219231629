//! How a server's certificate is verified: libpq's modes on top of webpki.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::GeneralName;

use super::legacy;

/// Who may sign a server's certificate.
#[derive(Debug)]
pub(super) struct Authorities {
    /// The authorities.
    pub(super) roots: RootCertStore,
    /// The same as certificates (those of a file), for what webpki cannot do: servers whose own certificate is in the file,
    /// as PostgreSQL's manual makes it with `openssl req -x509`, and certificates of version 1.
    pub(super) certificates: Vec<CertificateDer<'static>>,
}

/// What a certificate must prove.
#[derive(Debug)]
pub(super) enum Strictness {
    /// Nothing, but that the server holds its key.
    AnyCertificate,
    /// An authority's signature.
    Authority(Authorities),
    /// An authority's signature, and the host's name.
    AuthorityAndName(Authorities),
}

/// Verifies what a server shows in its handshake.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    strictness: Strictness,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    pub(super) const fn new(strictness: Strictness, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { strictness, algorithms }
    }

    fn verify_authority(
        &self,
        authorities: &Authorities,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if authorities.certificates.iter().any(|trusted| trusted == certificate) {
            return verify_period(certificate, now);
        }
        if let Some(version_1) = legacy::version_1(certificate) {
            legacy::verify_authority(&version_1, &authorities.certificates, &self.algorithms)?;
            return verify_period(certificate, now);
        }
        let parsed = ParsedCertificate::try_from(certificate)?;
        let (roots, algorithms) = (&authorities.roots, self.algorithms.all);
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.strictness {
            Strictness::AnyCertificate => {}
            Strictness::Authority(authorities) => {
                self.verify_authority(authorities, certificate, intermediates, now)?;
            }
            Strictness::AuthorityAndName(authorities) => {
                self.verify_authority(authorities, certificate, intermediates, now)?;
                verify_name(certificate, name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match legacy::version_1(certificate) {
            Some(version_1) => legacy::verify_tls12(message, &version_1, signature, &self.algorithms),
            None => verify_tls12_signature(message, certificate, signature, &self.algorithms),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match legacy::version_1(certificate) {
            Some(version_1) => legacy::verify_tls13(message, &version_1, signature, &self.algorithms),
            None => verify_tls13_signature(message, certificate, signature, &self.algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn verify_period(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let validity = legacy::parse(certificate)?.validity().clone();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// Compares the host name with the certificate's alternative names or, where it has none for hosts, with its common name
/// (libpq does so too, and PostgreSQL's manual makes such certificates). A common name has no wildcards here.
fn verify_name(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
    let by_alternatives = match legacy::version_1(certificate) {
        Some(_) => Err(CertificateError::NotValidForName.into()),
        None => verify_server_name(&ParsedCertificate::try_from(certificate)?, name),
    };
    if by_alternatives.is_ok() {
        return Ok(());
    }
    let parsed = legacy::parse(certificate)?;
    let alternatives = parsed.subject_alternative_name().map_err(|_| CertificateError::BadEncoding)?;
    let for_hosts = |name: &GeneralName<'_>| matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_));
    if alternatives.is_some_and(|names| names.value.general_names.iter().any(for_hosts)) {
        return by_alternatives;
    }
    let host = name.to_str();
    let common_name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    if common_name.is_some_and(|common_name| common_name.eq_ignore_ascii_case(&host)) {
        Ok(())
    } else {
        by_alternatives
    }
}
