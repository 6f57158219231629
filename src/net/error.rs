//! What can be wrong with certificates, keys and their files.

use std::path::PathBuf;

use rustls_pki_types::pem;

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file could not be read or has no section of the kind that is needed.
    #[error("read {what} from {}", path.display())]
    Pem {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// The file is PEM and holds no certificate.
    #[error("no certificate in {}", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The operating system has no certificate authorities to trust.
    #[error("the system has no certificate authorities; name a file of them")]
    NoSystemAuthorities,
    /// The certificate authorities cannot be used.
    #[error("use certificate authorities of {}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The verifier of client certificates cannot be made.
    #[error("verify client certificates by {}", path.display())]
    ClientVerifier {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::server::VerifierBuilderError,
    },
    /// Certificate and key do not fit each other or are of a kind that is not supported.
    #[error("use certificate {} with its key", path.display())]
    KeyPair {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The TLS library refused its settings.
    #[error("set up TLS")]
    Setup(#[source] rustls::Error),
}
