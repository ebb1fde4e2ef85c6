//! One Redis server and how to log in to it, secrets resolved.

use std::fmt;
use std::path::PathBuf;

use secrecy::SecretString;

/// Where a server is and who we are there.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// ACL user; `None` is the default user.
    pub username: Option<String>,
    /// `None`: the server asks for no password.
    pub password: Option<SecretString>,
    /// `None`: not encrypted.
    pub tls: Option<Tls>,
    /// A proxy or the like: it takes commands of one key, and tells nothing of what stands behind it.
    pub routes: bool,
}

/// How to speak TLS; files are read at every connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Whom to believe; `None`: the authorities that this host trusts.
    pub ca: Option<PathBuf>,
    /// Certificate chain and key that we show.
    pub client: Option<(PathBuf, PathBuf)>,
    /// What the server's certificate has to be for; `None`: the host.
    pub server_name: Option<String>,
    /// Takes any certificate.
    pub skip_verify: bool,
}

impl Endpoint {
    /// True if both name one address.
    pub fn is_at(&self, other: &Self) -> bool {
        (self.port, &self.host) == (other.port, &other.host)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Which end of the pipeline a server is: decides the error rows of what goes wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The data comes from here.
    Source,
    /// The data goes here.
    Target,
}
