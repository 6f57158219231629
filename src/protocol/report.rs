//! ErrorResponse and NoticeResponse: what a client is told when something goes wrong.

use bytes::{BufMut, BytesMut};

use super::sqlstate::SqlState;

/// How bad it is, in the protocol's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The session ends.
    Fatal,
    /// The statement ends.
    Error,
    /// Nothing ends.
    Warning,
    /// Nothing ends.
    Notice,
}

impl Severity {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fatal => "FATAL",
            Self::Error => "ERROR",
            Self::Warning => "WARNING",
            Self::Notice => "NOTICE",
        }
    }
}

/// An error or notice for a client, before it is bytes. Texts never hold secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How bad it is.
    pub severity: Severity,
    /// The code drivers branch on.
    pub sqlstate: SqlState,
    /// One line.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Report {
    /// A report without detail and hint.
    #[must_use]
    pub fn new(severity: Severity, sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self { severity, sqlstate, message: message.into(), detail: None, hint: None }
    }

    /// A FATAL report.
    #[must_use]
    pub fn fatal(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self::new(Severity::Fatal, sqlstate, message)
    }

    /// An ERROR report.
    #[must_use]
    pub fn error(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, sqlstate, message)
    }

    /// Adds a DETAIL line.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds a HINT line.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Appends the message: `N` for notices and warnings, else `E`.
    pub fn encode(&self, out: &mut BytesMut) {
        let kind = match self.severity {
            Severity::Fatal | Severity::Error => b'E',
            Severity::Warning | Severity::Notice => b'N',
        };
        out.put_u8(kind);
        let length_at = out.len();
        out.put_u32(0);
        let fields = [
            (b'S', Some(self.severity.as_str())),
            (b'V', Some(self.severity.as_str())),
            (b'C', Some(self.sqlstate.0)),
            (b'M', Some(self.message.as_str())),
            (b'D', self.detail.as_deref()),
            (b'H', self.hint.as_deref()),
        ];
        for (code, value) in fields {
            if let Some(value) = value {
                out.put_u8(code);
                out.extend(value.bytes().filter(|b| *b != 0));
                out.put_u8(0);
            }
        }
        out.put_u8(0);
        let length = u32::try_from(out.len() - length_at).unwrap_or(u32::MAX);
        out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// The message as bytes of its own.
    #[must_use]
    pub fn to_bytes(&self) -> BytesMut {
        let mut out = BytesMut::with_capacity(64 + self.message.len());
        self.encode(&mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_the_message_postgres_would_send() {
        let bytes = Report::fatal(SqlState::INVALID_PASSWORD, "no\0").hint("h").to_bytes();
        assert_eq!(&bytes[..], b"E\0\0\0\x21SFATAL\0VFATAL\0C28P01\0Mno\0Hh\0\0".as_slice());
        assert_eq!(bytes.len(), 1 + usize::from(bytes[4]));
    }
}
