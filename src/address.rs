//! Networks of addresses, as lists of who may do what have them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A network in CIDR notation, or a single address. As in PostgreSQL's `cidr`, no bits are set to the right of the mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network(IpNet);

/// What is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Neither an address nor a network.
    #[error("\"{0}\" is neither an address nor a network such as 10.0.0.0/8")]
    Syntax(String),
    /// An address with a mask that does not cover all of it.
    #[error("\"{given}\" has bits set to the right of its mask; the network is {network}")]
    HostBits {
        /// As given.
        given: String,
        /// What may be meant.
        network: IpNet,
    },
}

impl Network {
    /// Whether the address lies in it. An IPv4 address counts as such in whichever form a socket gives it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let syntax = || NetworkError::Syntax(text.chars().take(64).collect());
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse::<IpNet>().map_err(|_| syntax())?,
        };
        if network.addr() == network.network() {
            return Ok(Self(network));
        }
        Err(NetworkError::HostBits { given: text.to_owned(), network: network.trunc() })
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_contains_its_addresses_in_whichever_form_they_come() {
        let ten = network("10.0.0.0/8");
        assert!(ten.contains("10.255.0.1".parse().unwrap()) && ten.contains("::ffff:10.0.0.1".parse().unwrap()));
        assert!(!ten.contains("11.0.0.1".parse().unwrap()) && !ten.contains("::a00:1".parse().unwrap()));
        assert!(network("2001:db8::/32").contains("2001:db8::7".parse().unwrap()));
        assert!(network("0.0.0.0/0").contains("1.2.3.4".parse().unwrap()));
        assert!(!network("0.0.0.0/0").contains("::1".parse().unwrap()));
    }

    #[test]
    fn a_single_address_is_a_network_of_one() {
        let one = network("192.0.2.1");
        assert_eq!(one.to_string(), "192.0.2.1/32");
        assert!(one.contains("192.0.2.1".parse().unwrap()) && !one.contains("192.0.2.2".parse().unwrap()));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "10", "10.0.0.0/33", "10.0.0.0/8/8", "example.com", "10.0.0.0 /8"] {
            assert!(matches!(text.parse::<Network>(), Err(NetworkError::Syntax(_))), "{text}");
        }
        let error = "10.0.0.1/8".parse::<Network>().unwrap_err().to_string();
        assert_eq!(error, "\"10.0.0.1/8\" has bits set to the right of its mask; the network is 10.0.0.0/8");
    }
}
