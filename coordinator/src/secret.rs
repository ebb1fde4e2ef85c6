//! Passwords that came inline are sealed before they are stored; the key lies beside the store in a file of its own.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use dts_common::error::{Code, Error, Result};
use dts_common::hex::hex;
use dts_proto::v1::credential::Secret;
use dts_proto::v1::{Credential, TaskSpec};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};

const MARK: &str = "sealed:";
const PROOF: &str = "the sealing key of this store";

/// Seals and opens passwords.
pub struct Sealer {
    key: LessSafeKey,
    random: SystemRandom,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer")
    }
}

impl Sealer {
    /// Reads a key that somebody else made: all coordinators of a store have the same.
    pub fn read(path: &Path) -> Result<Self> {
        let wrong = |why: String| Error::new(Code::InvalidRequest, format!("sealing key {}: {why}", path.display()));
        let key = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        let key = UnboundKey::new(&CHACHA20_POLY1305, &key).map_err(|_| wrong("it has to have 32 bytes".into()))?;
        Ok(Self { key: LessSafeKey::new(key), random: SystemRandom::new() })
    }

    /// Reads the key, or makes one that only the owner may read.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| Error::new(Code::AgentDisk, format!("{}: {error}", path.display()));
        let random = SystemRandom::new();
        let mut key = [0u8; 32];
        match OpenOptions::new().read(true).open(path) {
            Ok(mut file) => file.read_exact(&mut key).map_err(failed)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                random.fill(&mut key).map_err(|_| broken())?;
                let mut file =
                    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
                file.write_all(&key).and_then(|()| file.sync_all()).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        let key = UnboundKey::new(&CHACHA20_POLY1305, &key).map_err(|_| broken())?;
        Ok(Self { key: LessSafeKey::new(key), random })
    }

    /// For the store.
    pub fn seal(&self, spec: &mut TaskSpec) -> Result<()> {
        for_each_password(spec, |password| self.seal_text(password))
    }

    pub(crate) fn seal_text(&self, text: &str) -> Result<String> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| broken())?;
        let mut bytes = text.as_bytes().to_vec();
        let unique = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(unique, Aad::empty(), &mut bytes).map_err(|_| broken())?;
        Ok(format!("{MARK}{}", hex(nonce.into_iter().chain(bytes))))
    }

    /// Something that only this key opens.
    pub fn proof(&self) -> Result<Vec<u8>> {
        Ok(self.seal_text(PROOF)?.into_bytes())
    }

    /// Fails if another key made the proof.
    pub fn proves(&self, proof: &[u8]) -> Result<()> {
        let opened = self.open_text(std::str::from_utf8(proof).map_err(|_| broken())?)?;
        if opened == PROOF { Ok(()) } else { Err(broken()) }
    }

    /// For an agent.
    pub fn unseal(&self, spec: &mut TaskSpec) -> Result<()> {
        for_each_password(spec, |sealed| self.open_text(sealed))
    }

    pub(crate) fn open_text(&self, sealed: &str) -> Result<String> {
        let hex = sealed.strip_prefix(MARK).ok_or_else(broken)?;
        let pair = |at: usize| {
            hex.get(2 * at..2 * at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or_else(broken)
        };
        let mut bytes = (0..hex.len() / 2).map(pair).collect::<Result<Vec<u8>>>()?;
        if bytes.len() < NONCE_LEN {
            return Err(broken());
        }
        let mut sealed = bytes.split_off(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&bytes).map_err(|_| broken())?;
        let opened = self.key.open_in_place(nonce, Aad::empty(), &mut sealed).map_err(|_| broken())?;
        String::from_utf8(opened.to_vec()).map_err(|_| broken())
    }
}

/// For an answer: says only that there is one.
pub fn redact(spec: &mut TaskSpec) {
    for credential in credentials(spec) {
        if matches!(credential.secret, Some(Secret::Password(_))) {
            credential.secret = None;
            credential.password_set = true;
        }
    }
}

fn credentials(spec: &mut TaskSpec) -> impl Iterator<Item = &mut Credential> {
    let sentinels = spec.topology.iter_mut().flat_map(|topology| &mut topology.sentinels);
    let endpoints = spec.sources.iter_mut().chain(&mut spec.target).chain(sentinels);
    endpoints.filter_map(|endpoint| endpoint.credential.as_mut())
}

fn for_each_password(spec: &mut TaskSpec, change: impl Fn(&str) -> Result<String>) -> Result<()> {
    for credential in credentials(spec) {
        if let Some(Secret::Password(password)) = &mut credential.secret {
            *password = change(password)?;
        }
    }
    Ok(())
}

fn broken() -> Error {
    Error::new(
        Code::SecretUnavailable,
        "what is stored cannot be opened with this sealing key: every coordinator of a store needs the same one",
    )
}

#[cfg(test)]
mod tests {
    use dts_proto::v1::Endpoint;

    use super::*;

    #[test]
    fn a_sealed_password_opens_again_and_is_nowhere_in_clear() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret.key");
        let credential = Credential { secret: Some(Secret::Password("hunter2".into())), ..Default::default() };
        let plain = TaskSpec {
            target: Some(Endpoint { credential: Some(credential), ..Default::default() }),
            ..Default::default()
        };
        let mut spec = plain.clone();
        Sealer::open(&path).unwrap().seal(&mut spec).unwrap();
        assert!(!format!("{spec:?}").contains("hunter2"));
        Sealer::open(&path).unwrap().unseal(&mut spec).unwrap();
        assert_eq!(spec, plain);
        redact(&mut spec);
        assert!(!format!("{spec:?}").contains("hunter2") && format!("{spec:?}").contains("password_set: true"));
    }
}
