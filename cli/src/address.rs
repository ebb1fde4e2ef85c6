//! `redis://[user:password@]host[:port]`, or `rediss://` for TLS.

use anyhow::{Context as _, Result, bail};
use url::Url;

/// Where a server is; the password is kept apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// `rediss://`.
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u32,
    pub(crate) username: String,
    pub(crate) password: Option<String>,
}

const PORT: u16 = 6379;

impl Address {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let url = Url::parse(text).context("not a URL of the form redis://[user:password@]host:port")?;
        let tls = match url.scheme() {
            "redis" => false,
            "rediss" => true,
            other => bail!("{other}:// is neither redis:// nor rediss://"),
        };
        if !matches!(url.path(), "" | "/") {
            bail!("a database in the URL is not supported: all databases are moved");
        }
        let decode =
            |text: &str| percent_decode(text).context("user or password is not valid percent-encoding of UTF-8");
        let host = url.host_str().context("the URL names no host")?;
        Ok(Self {
            tls,
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: url.port().unwrap_or(PORT).into(),
            username: decode(url.username())?,
            password: url.password().map(decode).transpose()?,
        })
    }
}

/// The URL with its password taken out, if it has one.
pub(crate) fn without_password(text: &str) -> Option<(String, String)> {
    let address = Address::parse(text).ok()?;
    let mut url = Url::parse(text).ok()?;
    let password = address.password?;
    url.set_password(None).ok()?;
    Some((url.to_string(), password))
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_url_is_found() {
        let address = Address::parse("redis://me:p%40ss@[::1]:7000").unwrap();
        let expected = Address {
            tls: false,
            host: "::1".into(),
            port: 7000,
            username: "me".into(),
            password: Some("p@ss".into()),
        };
        assert_eq!(address, expected);
        assert_eq!(Address::parse("redis://host").unwrap().port, 6379);
        assert_eq!(Address::parse("rediss://me:p%40ss@[::1]:7000").unwrap(), Address { tls: true, ..address });
    }

    #[test]
    fn what_is_not_supported_is_said() {
        for (url, word) in [("http://h", "redis://"), ("redis://h/3", "database"), ("h:1", "redis://")] {
            assert!(format!("{:#}", Address::parse(url).unwrap_err()).contains(word), "{url}");
        }
    }

    #[test]
    fn a_password_is_taken_out_of_a_url() {
        let (url, password) = without_password("redis://me:hunter2@h:1").unwrap();
        assert_eq!((url.as_str(), password.as_str()), ("redis://me@h:1", "hunter2"));
        let (url, password) = without_password("rediss://me:hunter2@h:1").unwrap();
        assert_eq!((url.as_str(), password.as_str()), ("rediss://me@h:1", "hunter2"));
        assert_eq!(without_password("redis://h:1"), None);
    }
}
