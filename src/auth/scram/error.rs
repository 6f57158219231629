//! How a SCRAM exchange fails.

/// Why a SCRAM exchange ended. Every variant but [`Mismatch`](Self::Mismatch), [`Refused`](Self::Refused) and
/// [`WrongServer`](Self::WrongServer) is the peer breaking the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// The client did not prove that it knows the password, or there is no such login.
    #[error("the proof does not match the verifier")]
    Mismatch,
    /// The mechanism was not offered.
    #[error("SASL mechanism not offered")]
    Mechanism,
    /// A message is not of the form it should have.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// A message, or a part of one, is beyond its bounds.
    #[error("SCRAM message out of bounds: {0}")]
    Bounds(&'static str),
    /// The client asked to act as another user.
    #[error("SASL authorization identities are not supported")]
    AuthorizationIdentity,
    /// The peer insists on an extension.
    #[error("SCRAM extension not supported")]
    Extension,
    /// The client binds to the channel in a way other than `tls-server-end-point`.
    #[error("SCRAM channel-binding type not supported")]
    ChannelBindingType,
    /// The client chose binding but sent none, sent some without choosing it, or believes that the server offers none though
    /// it does: someone in between may have removed the offer.
    #[error("SCRAM channel binding was not negotiated as offered")]
    ChannelBindingNegotiation,
    /// The client is bound to another TLS channel than the one it speaks on.
    #[error("SCRAM channel binding check failed")]
    ChannelBinding,
    /// The nonce is not the one of this exchange.
    #[error("the SCRAM nonce is not of this exchange")]
    Nonce,
    /// The server refused, in the words of SCRAM rather than of PostgreSQL.
    #[error("the server refused the proof")]
    Refused,
    /// The server did not prove that it knows the verifier.
    #[error("the server does not know the password's verifier")]
    WrongServer,
    /// A step was asked for before the one it follows.
    #[error("SCRAM step out of order")]
    Order,
}
