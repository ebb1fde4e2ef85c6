//! Tokens with which agents get their certificates: single use, expiring, stored as hashes.

use std::time::{Duration, SystemTime};

use dts_common::error::{Code, Error, Result};
use dts_common::hex::hex;
use dts_proto::v1::Token;
use prost::Message as _;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};

use super::{Engine, lost_race};
use crate::access::authority::{Authority, Signed, check_name};
use crate::audit;
use crate::store::{Store, Transaction};

/// Under it stand the tokens, by id.
const TOKEN: &str = "token/";
const MARK: &str = "dts1";
const LIFETIME: u32 = 3600;
const LIFETIMES: std::ops::RangeInclusive<u32> = 60..=604_800;
/// More are not kept at a time.
const MOST: usize = 10_000;

/// A token as it is stored.
#[derive(Clone, PartialEq, prost::Message)]
struct Kept {
    #[prost(bytes = "vec", tag = "1")]
    hash: Vec<u8>,
    #[prost(string, tag = "2")]
    agent_id: String,
    #[prost(message, optional, tag = "3")]
    expires_at: Option<prost_types::Timestamp>,
    #[prost(string, tag = "4")]
    created_by: String,
}

impl Kept {
    fn lives(&self) -> bool {
        let expires = self.expires_at.and_then(|at| SystemTime::try_from(at).ok());
        expires.is_some_and(|at| SystemTime::now() < at)
    }

    fn shown(&self, id: &str) -> Token {
        Token {
            id: id.to_owned(),
            agent_id: self.agent_id.clone(),
            expires_at: self.expires_at,
            created_by: self.created_by.clone(),
            token: String::new(),
        }
    }
}

fn hash(secret: &str) -> Vec<u8> {
    digest(&SHA256, secret.as_bytes()).as_ref().to_vec()
}

fn refused() -> Error {
    // Whoever guesses learns nothing from it.
    Error::new(Code::TokenRefused, "the token is not known, spent, expired, or for another agent")
}

impl<S: Store> Engine<S> {
    /// A token for this agent; the secret is nowhere but in the answer.
    pub async fn create_token(&self, agent_id: &str, ttl_seconds: u32, by: String) -> Result<Token> {
        audit::about(format!("agent {agent_id}"));
        check_name(agent_id)?;
        let ttl = if ttl_seconds == 0 { LIFETIME } else { ttl_seconds };
        if !LIFETIMES.contains(&ttl) {
            let message = format!("ttl_seconds has to be {} to {}", LIFETIMES.start(), LIFETIMES.end());
            return Err(Error::new(Code::InvalidRequest, message));
        }
        let all = self.tokens_kept().await?;
        let (live, dead): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, kept, _)| kept.lives());
        if live.len() >= MOST {
            return Err(Error::new(Code::InvalidRequest, format!("{MOST} tokens wait to be used: revoke some")));
        }
        let mut bytes = [0u8; 32];
        let no_random = |_| Error::new(Code::Internal, "this host gives no random bytes");
        SystemRandom::new().fill(&mut bytes).map_err(no_random)?;
        let secret = hex(bytes);
        let id = uuid::Uuid::new_v4().simple().to_string();
        let expires = SystemTime::now() + Duration::from_secs(ttl.into());
        let kept = Kept {
            hash: hash(&secret),
            agent_id: agent_id.to_owned(),
            expires_at: Some(expires.into()),
            created_by: by,
        };
        let mut writes = vec![(format!("{TOKEN}{id}"), Some(kept.encode_to_vec()))];
        writes.extend(dead.into_iter().take(100).map(|(id, ..)| (format!("{TOKEN}{id}"), None)));
        self.store.commit(Transaction { writes, ..Transaction::default() }).await?.ok_or_else(lost_race)?;
        Ok(Token { token: format!("{MARK}.{id}.{secret}"), ..kept.shown(&id) })
    }

    /// Id, token, revision.
    async fn tokens_kept(&self) -> Result<Vec<(String, Kept, u64)>> {
        let mut all = Vec::new();
        for (key, found) in self.store.list(TOKEN).await? {
            let kept = Kept::decode(found.value.as_slice())
                .map_err(|error| Error::new(Code::Internal, format!("what is stored at {key}: {error}")))?;
            all.push((key[TOKEN.len()..].to_owned(), kept, found.revision));
        }
        Ok(all)
    }

    /// Those that can still be used.
    pub async fn tokens(&self) -> Result<Vec<Token>> {
        let all = self.tokens_kept().await?;
        Ok(all.iter().filter(|(_, kept, _)| kept.lives()).map(|(id, kept, _)| kept.shown(id)).collect())
    }

    /// Makes a token worthless.
    pub async fn revoke_token(&self, id: &str) -> Result<()> {
        audit::about(format!("token {id}"));
        let writes = vec![(format!("{TOKEN}{id}"), None)];
        self.store.commit(Transaction { writes, ..Transaction::default() }).await?.ok_or_else(lost_race)?;
        Ok(())
    }

    /// Spends the token on a certificate. Of two that come with the same one gets it.
    pub async fn enrol(&self, token: &str, agent_id: &str, request_pem: &str, authority: &Authority) -> Result<Signed> {
        audit::about(format!("agent {agent_id}"));
        let parts: Vec<&str> = token.trim().split('.').collect();
        let [MARK, id, secret] = parts.as_slice() else { return Err(refused()) };
        let key = format!("{TOKEN}{id}");
        let found = self.store.get(&key).await?.ok_or_else(refused)?;
        let kept = Kept::decode(found.value.as_slice()).map_err(|_| refused())?;
        if kept.hash != hash(secret) || kept.agent_id != agent_id || !kept.lives() {
            return Err(refused());
        }
        let signed = authority.sign(agent_id, request_pem)?;
        let spend = Transaction {
            compares: vec![(key.clone(), found.revision)],
            writes: vec![(key, None)],
            ..Transaction::default()
        };
        self.store.commit(spend).await?.ok_or_else(refused)?;
        tracing::info!(agent = agent_id, token = id, "enrolled");
        Ok(signed)
    }
}
