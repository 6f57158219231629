//! The first packet of a connection: startup message, cancel request, or a request for encryption (protocol, "Message Formats").
//!
//! Everything here reads bytes of strangers: lengths are bounded before use, and what PostgreSQL refuses is refused in its words.

use bytes::{BufMut, BytesMut};

use super::report::Report;
use super::sqlstate::SqlState;

/// Longest first packet, its length word included.
pub const STARTUP_BYTES_MAX: usize = 10_000;
/// Bytes of a packet's length word and the code after it: the whole of a request for encryption.
pub const STARTUP_HEADER_BYTES: usize = 8;

const CANCEL_REQUEST: u32 = (1234 << 16) | 5678;
const SSL_REQUEST: u32 = (1234 << 16) | 5679;
const GSSENC_REQUEST: u32 = (1234 << 16) | 5680;
/// Lengths of a cancel key's secret: 4 bytes in protocol 3.0, up to 256 in 3.2.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 4..=256;
/// Prefix of parameters that are options of the protocol itself.
const PROTOCOL_OPTION_PREFIX: &str = "_pq_.";

/// Why a first packet was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    /// The length word is out of bounds: not this protocol (port scans, HTTP), or an attack.
    #[error("invalid length of startup packet: {0}")]
    Length(u32),
    /// A request for encryption that is longer than its eight bytes.
    #[error("invalid length of {0}")]
    RequestLength(&'static str),
    /// A cancel request whose key has a length that no key has.
    #[error("invalid length of cancel key in cancel request packet")]
    CancelLength,
    /// A major protocol version that is not 3.
    #[error("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2")]
    Version {
        /// The major version asked for.
        major: u16,
        /// The minor version asked for.
        minor: u16,
    },
    /// A parameter without its value, or no terminator where the packet ends.
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
    /// A name or value that is not UTF-8. `application_name` is mended instead, as PostgreSQL does.
    #[error("startup parameter {0} is not valid UTF-8")]
    NotUtf8(String),
    /// No user, or an empty one.
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
}

impl StartupError {
    /// What the client is told; nothing where PostgreSQL says nothing either.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        let sqlstate = match self {
            Self::Length(_) | Self::CancelLength => return None,
            Self::RequestLength(_) | Self::Layout => SqlState::PROTOCOL_VIOLATION,
            Self::Version { .. } => SqlState::FEATURE_NOT_SUPPORTED,
            Self::NotUtf8(_) => SqlState::CHARACTER_NOT_IN_REPERTOIRE,
            Self::NoUser => SqlState::INVALID_AUTHORIZATION,
        };
        Some(Report::fatal(sqlstate, self.to_string()))
    }
}

/// What the first eight bytes of a packet announce. `rest` is how many bytes are still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announced {
    /// May we speak TLS?
    SslRequest,
    /// May we speak GSSAPI encryption?
    GssEncRequest,
    /// Stop what another connection is doing.
    Cancel {
        /// Bytes still to come.
        rest: usize,
    },
    /// A session is to begin, if the version is one that is spoken here.
    Startup {
        /// The protocol version asked for, major in the upper half.
        version: u32,
        /// Bytes still to come.
        rest: usize,
    },
}

impl Announced {
    /// Reads a packet's first eight bytes.
    ///
    /// # Errors
    /// [`StartupError::Length`], [`StartupError::RequestLength`] or [`StartupError::CancelLength`].
    pub fn parse(header: [u8; STARTUP_HEADER_BYTES]) -> Result<Self, StartupError> {
        let [a, b, c, d, e, f, g, h] = header;
        let rest = startup_length([a, b, c, d])? - STARTUP_HEADER_BYTES;
        let code = u32::from_be_bytes([e, f, g, h]);
        match code {
            SSL_REQUEST if rest == 0 => Ok(Self::SslRequest),
            SSL_REQUEST => Err(StartupError::RequestLength("SSLRequest")),
            GSSENC_REQUEST if rest == 0 => Ok(Self::GssEncRequest),
            GSSENC_REQUEST => Err(StartupError::RequestLength("GSSENCRequest")),
            CANCEL_REQUEST => match rest.checked_sub(4) {
                Some(secret) if SECRET_BYTES.contains(&secret) => Ok(Self::Cancel { rest }),
                _ => Err(StartupError::CancelLength),
            },
            version => Ok(Self::Startup { version, rest }),
        }
    }
}

/// The length that a first packet's length word gives, in bounds. What does not speak this protocol shows itself here.
///
/// # Errors
/// [`StartupError::Length`].
pub fn startup_length(word: [u8; 4]) -> Result<usize, StartupError> {
    let length = u32::from_be_bytes(word);
    match usize::try_from(length) {
        Ok(bytes @ STARTUP_HEADER_BYTES..=STARTUP_BYTES_MAX) => Ok(bytes),
        _ => Err(StartupError::Length(length)),
    }
}

/// Whose statement a cancel request wants stopped.
#[derive(Clone, PartialEq, Eq)]
pub struct CancelKey {
    /// The process id that BackendKeyData gave.
    pub process_id: u32,
    /// The secret that BackendKeyData gave, 4 to 256 bytes.
    pub secret: Vec<u8>,
}

impl std::fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CancelKey").field("process_id", &self.process_id).field("secret", &"***").finish()
    }
}

impl CancelKey {
    /// Reads what follows a cancel request's first eight bytes.
    ///
    /// # Errors
    /// [`StartupError::CancelLength`].
    pub fn parse(rest: &[u8]) -> Result<Self, StartupError> {
        let (id, secret) = rest.split_first_chunk::<4>().ok_or(StartupError::CancelLength)?;
        if !SECRET_BYTES.contains(&secret.len()) {
            return Err(StartupError::CancelLength);
        }
        Ok(Self { process_id: u32::from_be_bytes(*id), secret: secret.to_vec() })
    }
}

/// The protocol version that both sides agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// 3.0: cancel secrets are 4 bytes.
    V3_0,
    /// 3.2: cancel secrets are up to 256 bytes.
    V3_2,
}

impl Protocol {
    /// The newest version not above the one asked for; there was never a 3.1.
    #[must_use]
    pub const fn at_most(minor: u16) -> Self {
        if minor >= 2 { Self::V3_2 } else { Self::V3_0 }
    }

    /// The minor version.
    #[must_use]
    pub const fn minor(self) -> u16 {
        match self {
            Self::V3_0 => 0,
            Self::V3_2 => 2,
        }
    }
}

/// A startup message: who wants in, where, and with which settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup {
    /// The minor version asked for; the major one is 3.
    pub minor: u16,
    /// Names and values in the client's order, repeated names included; the last of a name wins.
    pub parameters: Vec<(String, String)>,
}

impl Startup {
    /// Reads what follows a startup message's first eight bytes; `version` is from [`Announced::Startup`].
    ///
    /// # Errors
    /// [`StartupError::Version`], [`StartupError::Layout`], [`StartupError::NotUtf8`].
    pub fn parse(version: u32, rest: &[u8]) -> Result<Self, StartupError> {
        let [major, minor] = [(version >> 16) as u16, (version & 0xffff) as u16];
        if major != 3 {
            return Err(StartupError::Version { major, minor });
        }
        if rest.len() > STARTUP_BYTES_MAX - STARTUP_HEADER_BYTES {
            return Err(StartupError::Layout);
        }
        let mut parameters = Vec::new();
        let mut left = rest;
        loop {
            let name = c_string(&mut left)?;
            if name.is_empty() {
                break;
            }
            let value = c_string(&mut left)?;
            let name = text(name, name)?.to_owned();
            let value =
                if name == "application_name" { mended(value) } else { text(name.as_bytes(), value)?.to_owned() };
            parameters.push((name, value));
        }
        if left.is_empty() { Ok(Self { minor, parameters }) } else { Err(StartupError::Layout) }
    }

    /// The last value given for a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Who the client says it is.
    ///
    /// # Errors
    /// [`StartupError::NoUser`] when there is none or it is empty.
    pub fn user(&self) -> Result<&str, StartupError> {
        self.get("user").filter(|user| !user.is_empty()).ok_or(StartupError::NoUser)
    }

    /// The options of the protocol itself that the client asked for, none of which is known here.
    pub fn protocol_options(&self) -> impl Iterator<Item = &str> {
        self.parameters.iter().map(|(name, _)| name.as_str()).filter(|name| is_protocol_option(name))
    }

    /// Appends the packet. Names and values must have no zero bytes, which text from [`Startup::parse`] never has.
    pub fn encode(&self, out: &mut BytesMut) {
        let length_at = out.len();
        out.put_u32(0);
        out.put_u16(3);
        out.put_u16(self.minor);
        for text in self.parameters.iter().flat_map(|(name, value)| [name, value]) {
            out.put_slice(text.as_bytes());
            out.put_u8(0);
        }
        out.put_u8(0);
        let length = u32::try_from(out.len() - length_at).unwrap_or(u32::MAX);
        out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
    }
}

/// Whether a parameter's name is reserved for options of the protocol itself.
#[must_use]
pub fn is_protocol_option(name: &str) -> bool {
    name.starts_with(PROTOCOL_OPTION_PREFIX)
}

/// Appends NegotiateProtocolVersion: the whole version word, as PostgreSQL sends it, and the options that are not known here.
pub fn encode_negotiation(agreed: Protocol, unsupported: &[String], out: &mut BytesMut) {
    out.put_u8(b'v');
    let length_at = out.len();
    out.put_u32(0);
    out.put_u16(3);
    out.put_u16(agreed.minor());
    out.put_u32(u32::try_from(unsupported.len()).unwrap_or(u32::MAX));
    for name in unsupported {
        out.put_slice(name.as_bytes());
        out.put_u8(0);
    }
    let length = u32::try_from(out.len() - length_at).unwrap_or(u32::MAX);
    out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
}

/// Takes the bytes up to the next zero byte, and the zero byte.
fn c_string<'a>(left: &mut &'a [u8]) -> Result<&'a [u8], StartupError> {
    let bytes = *left;
    let end = memchr::memchr(0, bytes).ok_or(StartupError::Layout)?;
    *left = &bytes[end + 1..];
    Ok(&bytes[..end])
}

fn text<'a>(name: &[u8], bytes: &'a [u8]) -> Result<&'a str, StartupError> {
    std::str::from_utf8(bytes).map_err(|_| StartupError::NotUtf8(name.escape_ascii().to_string()))
}

/// PostgreSQL accepts any bytes as `application_name` and replaces those it cannot show; a client in an old encoding gets in.
fn mended(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => String::from_utf8_lossy(bytes).replace(char::REPLACEMENT_CHARACTER, "?"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(length: u32, code: u32) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        bytes[4..].copy_from_slice(&code.to_be_bytes());
        bytes
    }

    const V3: u32 = 3 << 16;

    #[test]
    fn lengths_below_8_and_above_10000_are_not_this_protocol() {
        for length in [0, 4, 7, 10_001, i32::MAX as u32, u32::MAX] {
            assert_eq!(Announced::parse(header(length, V3)), Err(StartupError::Length(length)));
        }
        assert_eq!(Announced::parse(header(10_000, V3)), Ok(Announced::Startup { version: V3, rest: 9992 }));
        assert_eq!(Announced::parse(*b"GET / HT").map_err(|e| e.report()), Err(None), "HTTP is met with silence");
    }

    #[test]
    fn requests_for_encryption_are_exactly_8_bytes() {
        assert_eq!(Announced::parse(header(8, SSL_REQUEST)), Ok(Announced::SslRequest));
        assert_eq!(Announced::parse(header(8, GSSENC_REQUEST)), Ok(Announced::GssEncRequest));
        assert_eq!(Announced::parse(header(9, SSL_REQUEST)), Err(StartupError::RequestLength("SSLRequest")));
        assert_eq!(Announced::parse(header(100, GSSENC_REQUEST)), Err(StartupError::RequestLength("GSSENCRequest")));
    }

    #[test]
    fn cancel_keys_are_4_to_256_bytes() {
        for (length, legal) in [(8, false), (12, false), (15, false), (16, true), (44, true), (268, true), (269, false)]
        {
            assert_eq!(Announced::parse(header(length, CANCEL_REQUEST)).is_ok(), legal, "{length}");
        }
        let key = CancelKey::parse(&[0, 0, 1, 0, 9, 8, 7, 6, 5]).unwrap();
        assert_eq!((key.process_id, key.secret.as_slice()), (256, [9, 8, 7, 6, 5].as_slice()));
        assert!(CancelKey::parse(&[0, 0, 1, 0, 9, 8, 7]).is_err());
        assert!(!format!("{key:?}").contains('9'), "secrets are not shown");
    }

    #[test]
    fn the_last_of_a_repeated_name_wins_and_all_are_kept() {
        let startup = Startup::parse(V3, b"user\0a\0user\0b\0database\0\0\0").unwrap();
        assert_eq!(startup.user(), Ok("b"));
        assert_eq!(startup.get("database"), Some(""));
        assert_eq!(startup.parameters.len(), 3);
    }

    #[test]
    fn a_packet_without_its_terminator_is_refused() {
        for bad in [b"".as_slice(), b"user", b"user\0", b"user\0a", b"user\0a\0", b"user\0a\0\0x", b"user\0a\0\0\0"] {
            assert_eq!(Startup::parse(V3, bad), Err(StartupError::Layout), "{bad:?}");
        }
        assert!(Startup::parse(V3, b"\0").unwrap().parameters.is_empty());
    }

    #[test]
    fn a_missing_or_empty_user_is_refused_in_postgres_words() {
        for rest in [b"\0".as_slice(), b"user\0\0\0", b"user\0a\0user\0\0\0"] {
            let report = Startup::parse(V3, rest).unwrap().user().unwrap_err().report().unwrap();
            assert_eq!(report.message, "no PostgreSQL user name specified in startup packet");
            assert_eq!(report.sqlstate.0, "28000");
        }
    }

    #[test]
    fn other_major_versions_are_refused_in_postgres_words() {
        let report = Startup::parse(2 << 16, b"\0").unwrap_err().report().unwrap();
        assert_eq!(report.message, "unsupported frontend protocol 2.0: server supports 3.0 to 3.2");
        assert_eq!(report.sqlstate.0, "0A000");
    }

    #[test]
    fn text_that_is_not_utf8_is_refused_except_as_application_name() {
        let error = Startup::parse(V3, b"user\0caf\xe9\0\0").unwrap_err();
        assert_eq!(error, StartupError::NotUtf8("user".to_owned()));
        assert_eq!(error.report().unwrap().sqlstate.0, "22021");
        let startup = Startup::parse(V3, b"application_name\0caf\xe9\0\0").unwrap();
        assert_eq!(startup.get("application_name"), Some("caf?"));
    }

    #[test]
    fn negotiation_names_the_whole_version_and_the_unknown_options() {
        let mut out = BytesMut::new();
        encode_negotiation(Protocol::V3_2, &["_pq_.a".to_owned()], &mut out);
        assert_eq!(&out[..], b"v\0\0\0\x13\0\x03\0\x02\0\0\0\x01_pq_.a\0");
        assert_eq!(Protocol::at_most(1), Protocol::V3_0);
        assert_eq!(Protocol::at_most(9999), Protocol::V3_2);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parsers_panic(
            first in any::<[u8; 8]>(), version in any::<u32>(), rest in prop::collection::vec(any::<u8>(), 0..600)
        ) {
            let _ = Announced::parse(first);
            let _ = CancelKey::parse(&rest);
            for version in [version, V3] {
                if let Ok(startup) = Startup::parse(version, &rest) {
                    prop_assert_eq!(startup.user().is_ok(), startup.get("user").is_some_and(|u| !u.is_empty()));
                }
            }
        }

        #[test]
        fn a_startup_message_survives_the_round_trip(
            minor in any::<u16>(), parameters in prop::collection::vec(("[^\0]{1,20}", "[^\0]{0,40}"), 0..20)
        ) {
            let startup = Startup { minor, parameters };
            let mut out = BytesMut::new();
            startup.encode(&mut out);
            let (first, rest) = out.split_first_chunk::<8>().unwrap();
            let Ok(Announced::Startup { version, rest: announced }) = Announced::parse(*first) else { panic!("{first:?}") };
            prop_assert_eq!(announced, rest.len());
            prop_assert_eq!(Startup::parse(version, rest), Ok(startup));
        }
    }
}
