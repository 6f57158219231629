//! Opening connections to servers: everything from the name look-up to ReadyForQuery, under one time-out.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::timeout;

use super::endpoint::Encryption;
use super::error::ConnectError;
use super::login::{Session, log_in};
use super::query::find_schema;
use super::target::Target;
use crate::net::Detached;

/// A session that waits for its first statement, between two runtimes.
pub struct Connected {
    /// The stream; nothing unread is in it.
    pub stream: Detached,
    /// The server process.
    pub process_id: i32,
    /// The secret of its cancel key; empty when the server gave none.
    pub secret: Vec<u8>,
    /// What the server reports of its parameters.
    pub parameters: Vec<(String, String)>,
    /// NoticeResponse messages of the start, as they came.
    pub notices: Vec<Bytes>,
}

impl fmt::Debug for Connected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connected").field("process_id", &self.process_id).finish_non_exhaustive()
    }
}

/// Opens a session. Expensive (TLS, and PBKDF2 where a password is given): not for the threads that relay.
///
/// # Errors
/// [`ConnectError`] says what was being done.
pub async fn connect(target: &Target) -> Result<Connected, ConnectError> {
    let limit = target.endpoint.timeout();
    timeout(limit, with_fallback(target)).await.unwrap_or(Err(ConnectError::Timeout(limit)))
}

async fn with_fallback(target: &Target) -> Result<Connected, ConnectError> {
    match attempt(target, Encryption::AsConfigured).await {
        Err(error) if target.endpoint.may_fall_back(&error) => attempt(target, Encryption::Plain).await,
        result => result,
    }
}

async fn attempt(target: &Target, encryption: Encryption) -> Result<Connected, ConnectError> {
    let Target { endpoint, database, user, startup, credential, require_schema } = target;
    let mut stream = endpoint.open(&endpoint.address().host, encryption).await?;
    let mut session = log_in(&mut stream, user, database, startup, credential).await?;
    if let Some(schema) = require_schema {
        let found = find_schema(&mut stream, schema).await.map_err(|e| ConnectError::Schema(Arc::new(e)))?;
        if !found.exists {
            return Err(ConnectError::MissingSchema(schema.clone()));
        }
        session.update(found.parameters);
    }
    let stream = stream.detach().map_err(ConnectError::io("hand the connection over"))?;
    let Session { process_id, secret, parameters, notices } = session;
    Ok(Connected { stream, process_id, secret, parameters, notices })
}
