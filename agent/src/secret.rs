//! Passwords, by reference: resolved on the agent's host, when a shard starts, never stored.

use std::collections::HashMap;

use dts_common::error::{Code, Error, Result};
use dts_proto::v1;
use dts_proto::v1::credential::Secret;
use secrecy::SecretString;

use crate::endpoint::{Endpoint, Tls};

/// The secrets that an agent was started with.
#[derive(Clone, Debug, Default)]
pub struct Secrets(HashMap<String, SecretString>);

impl Secrets {
    /// Makes a secret known under a name.
    pub fn insert(&mut self, name: impl Into<String>, value: SecretString) {
        self.0.insert(name.into(), value);
    }

    /// An endpoint of the wire with its secret looked up.
    pub fn resolve(&self, endpoint: &v1::Endpoint) -> Result<Endpoint> {
        let port = u16::try_from(endpoint.port)
            .map_err(|_| Error::new(Code::InvalidRequest, format!("port {} is above 65535", endpoint.port)))?;
        let credential = endpoint.credential.as_ref();
        let username = credential.map(|credential| credential.username.clone()).filter(|name| !name.is_empty());
        let password =
            credential.and_then(|credential| credential.secret.as_ref()).map(|secret| self.find(secret)).transpose()?;
        let tls = endpoint.tls.as_ref().map(tls).transpose()?;
        Ok(Endpoint {
            host: endpoint.host.clone(),
            port,
            username,
            password: password.flatten(),
            tls,
            routes: endpoint.routes,
        })
    }

    /// An empty password is none.
    fn find(&self, secret: &Secret) -> Result<Option<SecretString>> {
        let unavailable = |what: String| Error::new(Code::SecretUnavailable, what);
        let text = match secret {
            Secret::Password(password) => password.clone(),
            Secret::PasswordEnv(name) => std::env::var(name).map_err(|_| {
                unavailable(format!("environment variable {name} is not set for the agent, or not UTF-8"))
            })?,
            Secret::PasswordFile(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| unavailable(format!("password file {path}: {error}")))?;
                text.strip_suffix('\n').map(str::to_owned).unwrap_or(text)
            }
            Secret::AgentSecret(name) => {
                return match self.0.get(name) {
                    Some(secret) => Ok(Some(secret.clone())),
                    None => Err(unavailable(format!("the agent was not started with a secret named {name}"))),
                };
            }
        };
        Ok((!text.is_empty()).then(|| SecretString::from(text)))
    }
}

/// Of the wire, where an empty text is none.
fn tls(wire: &v1::Tls) -> Result<Tls> {
    let some = |text: &String| (!text.is_empty()).then(|| text.clone());
    let client = match (some(&wire.certificate_file), some(&wire.key_file)) {
        (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
        (None, None) => None,
        _ => {
            return Err(Error::new(
                Code::InvalidRequest,
                "a client certificate needs its key, and a key its certificate",
            ));
        }
    };
    Ok(Tls {
        ca: some(&wire.ca_file).map(Into::into),
        client,
        server_name: some(&wire.server_name),
        skip_verify: wire.insecure_skip_verify,
    })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn endpoint(secret: Secret) -> v1::Endpoint {
        let credential = v1::Credential { username: String::new(), secret: Some(secret), password_set: false };
        v1::Endpoint { host: "h".into(), port: 6379, credential: Some(credential), ..v1::Endpoint::default() }
    }

    #[test]
    fn a_password_file_loses_one_newline() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "pa ss\n").unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let found = Secrets::default().resolve(&endpoint(Secret::PasswordFile(path))).unwrap();
        assert_eq!(found.password.unwrap().expose_secret(), "pa ss");
    }

    #[test]
    fn a_missing_secret_is_named() {
        let error = Secrets::default().resolve(&endpoint(Secret::AgentSecret("vault".into()))).unwrap_err();
        assert_eq!(error.code, Code::SecretUnavailable);
        assert!(error.message.contains("vault"));
    }

    #[test]
    fn a_secret_does_not_show_in_debug_output() {
        let mut secrets = Secrets::default();
        secrets.insert("source", SecretString::from("hunter2"));
        let found = secrets.resolve(&endpoint(Secret::AgentSecret("source".into()))).unwrap();
        assert!(!format!("{secrets:?} {found:?}").contains("hunter2"));
    }
}
