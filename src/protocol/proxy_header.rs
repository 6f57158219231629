//! The header of the PROXY protocol, version 2, by which a balancer says from whom a connection is (HAProxy's proxy-protocol.txt, 2.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of the part that every header has.
pub const PROXY_HEADER_BYTES: usize = 16;
/// Most bytes that may follow them: addresses, and what a balancer adds in TLVs, of which a client certificate's name is the longest.
const PROXY_REST_BYTES_MAX: u16 = 4096;

/// The bytes that no PostgreSQL client can begin with: as a length word they would announce 220 MB.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// High half of the thirteenth byte.
const VERSION: u8 = 0x20;
const LOCAL: u8 = 0;
const PROXY: u8 = 1;
const UNSPECIFIED: u8 = 0x00;
const TCP_4: u8 = 0x11;
const TCP_6: u8 = 0x21;
const UNIX_STREAM: u8 = 0x31;

/// What is no header that could be acted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderError {
    /// Other bytes; perhaps a client without a balancer.
    #[error("no PROXY protocol header")]
    Signature,
    /// A version or command of another protocol than ours.
    #[error("PROXY protocol version and command {0:#04x} are not known")]
    Command(u8),
    /// A family in which there are no connections such as this.
    #[error("PROXY protocol address family {0:#04x} is not one of TCP")]
    Family(u8),
    /// More than anybody has to say.
    #[error("PROXY protocol header of {0} bytes is longer than {PROXY_REST_BYTES_MAX}")]
    Length(u16),
    /// Less than the family's addresses need.
    #[error("PROXY protocol header is too short for its addresses")]
    Short,
}

/// The part of a header that every header has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    is_local: bool,
    family: u8,
    /// How many bytes follow.
    pub rest: u16,
}

impl ProxyHeader {
    /// Reads the first bytes of a connection.
    ///
    /// # Errors
    /// [`ProxyHeaderError`].
    pub fn parse(bytes: &[u8; PROXY_HEADER_BYTES]) -> Result<Self, ProxyHeaderError> {
        let [signature @ .., command, family, high, low] = bytes;
        if signature != SIGNATURE {
            return Err(ProxyHeaderError::Signature);
        }
        let is_local = match command ^ VERSION {
            LOCAL => true,
            PROXY => false,
            _ => return Err(ProxyHeaderError::Command(*command)),
        };
        // A balancer's own connection may say anything of addresses, which are then to be passed over.
        if !is_local && ![UNSPECIFIED, TCP_4, TCP_6, UNIX_STREAM].contains(family) {
            return Err(ProxyHeaderError::Family(*family));
        }
        let rest = u16::from_be_bytes([*high, *low]);
        if rest > PROXY_REST_BYTES_MAX {
            return Err(ProxyHeaderError::Length(rest));
        }
        Ok(Self { is_local, family: *family, rest })
    }

    /// The client's address out of what follows. None for a connection of the balancer's own, such as a health check, and for a
    /// client that has no such address: then it is the balancer's that counts.
    ///
    /// # Errors
    /// [`ProxyHeaderError::Short`].
    pub fn source(self, rest: &[u8]) -> Result<Option<SocketAddr>, ProxyHeaderError> {
        let (address, port): (IpAddr, _) = match self.family {
            TCP_4 if !self.is_local => {
                let (address, rest) = rest.split_first_chunk::<4>().ok_or(ProxyHeaderError::Short)?;
                (Ipv4Addr::from(*address).into(), rest.get(4..8))
            }
            TCP_6 if !self.is_local => {
                let (address, rest) = rest.split_first_chunk::<16>().ok_or(ProxyHeaderError::Short)?;
                (Ipv6Addr::from(*address).into(), rest.get(16..20))
            }
            _ => return Ok(None),
        };
        let Some([high, low, ..]) = port else { return Err(ProxyHeaderError::Short) };
        Ok(Some(SocketAddr::new(address.to_canonical(), u16::from_be_bytes([*high, *low]))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Option<SocketAddr>, ProxyHeaderError> {
        let (first, rest) = bytes.split_first_chunk::<PROXY_HEADER_BYTES>().unwrap();
        ProxyHeader::parse(first)?.source(rest)
    }

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE.as_slice(), &[command, family], &length, rest].concat()
    }

    #[test]
    fn a_header_tells_the_clients_address_and_what_else_it_says_is_passed_over() {
        let four = [&[192, 0, 2, 1, 10, 0, 0, 1, 0xc0, 0, 0x15, 0x38][..], b"\x03\0\x01x"].concat();
        assert_eq!(read(&header(0x21, 0x11, &four)), Ok(Some("192.0.2.1:49152".parse().unwrap())));
        let mut six = [0; 36];
        (six[0], six[1], six[15], six[33]) = (0x20, 0x01, 9, 7);
        assert_eq!(read(&header(0x21, 0x21, &six)), Ok(Some("[2001::9]:7".parse().unwrap())));
        let mapped = [&[0; 10][..], &[255, 255, 192, 0, 2, 1], &[0; 16], &[0, 7, 0, 8]].concat();
        assert_eq!(read(&header(0x21, 0x21, &mapped)), Ok(Some("192.0.2.1:7".parse().unwrap())));
    }

    #[test]
    fn a_balancers_own_connection_and_one_without_such_an_address_tell_none() {
        assert_eq!(read(&header(0x20, 0, b"")), Ok(None));
        assert_eq!(read(&header(0x20, 0x11, &[1; 12])), Ok(None));
        assert_eq!(read(&header(0x21, 0, b"")), Ok(None));
        assert_eq!(read(&header(0x21, 0x31, &[b'x'; 216])), Ok(None));
    }

    #[test]
    fn what_is_no_header_is_refused() {
        assert_eq!(read(&[0; 16]), Err(ProxyHeaderError::Signature));
        assert_eq!(read(&header(0x11, 0x11, &[1; 12])), Err(ProxyHeaderError::Command(0x11)));
        assert_eq!(read(&header(0x22, 0x11, &[1; 12])), Err(ProxyHeaderError::Command(0x22)));
        assert_eq!(read(&header(0x21, 0x12, &[1; 12])), Err(ProxyHeaderError::Family(0x12)));
        assert_eq!(read(&header(0x21, 0x11, &[1; 11])), Err(ProxyHeaderError::Short));
        assert_eq!(read(&header(0x21, 0x21, &[1; 35])), Err(ProxyHeaderError::Short));
        let long = PROXY_REST_BYTES_MAX + 1;
        assert_eq!(read(&header(0x21, 0x11, &vec![0; long.into()])), Err(ProxyHeaderError::Length(long)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            command in any::<u8>(), family in any::<u8>(), rest in prop::collection::vec(any::<u8>(), 0..300)
        ) {
            let told = read(&header(command, family, &rest));
            prop_assert!(matches!(told, Ok(Some(_))) <= (command == 0x21));
        }
    }
}
