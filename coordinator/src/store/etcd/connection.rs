//! One client a member, and the member that answered last.

use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dts_common::backoff::Backoff;
use dts_common::error::{Code, Error, Result};
use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};

use super::Refusal;

/// A member that is silent for so long is passed over.
const ATTEMPT: Duration = Duration::from_millis(1500);
/// A call that no member answered for so long has failed.
const CALL: Duration = Duration::from_secs(4);
/// A silent connection is noticed after the two together; etcd bears no more frequent pings.
const PING: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3));

/// How to reach etcd.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `http://host:2379` or `https://…`, one a member.
    pub endpoints: Vec<String>,
    /// All our keys lie under it.
    pub prefix: String,
    /// User and password.
    pub login: Option<(String, secrecy::SecretString)>,
    /// Certificate authority of the members; without it the system's are trusted.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

pub(super) struct Members {
    options: ConnectOptions,
    members: Vec<(String, OnceCell<Client>)>,
    /// Index of the member that is asked first.
    at: AtomicUsize,
}

impl std::fmt::Debug for Members {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.members.iter().map(|(endpoint, _)| endpoint)).finish()
    }
}

impl Members {
    pub(super) fn new(config: Config) -> Result<Self> {
        let wrong = |what: String| Error::new(Code::InvalidRequest, what);
        let read = |path: &PathBuf| std::fs::read(path).map_err(|error| wrong(format!("{}: {error}", path.display())));
        let mut options = ConnectOptions::new()
            .with_connect_timeout(ATTEMPT)
            .with_keep_alive(PING.0, PING.1)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if config.endpoints.is_empty() {
            return Err(wrong("no etcd endpoint is given".into()));
        }
        let secure = config.endpoints.iter().filter(|endpoint| endpoint.starts_with("https://")).count();
        if secure != 0 && secure != config.endpoints.len() {
            return Err(wrong("etcd endpoints have to be all https:// or all http://".into()));
        }
        if secure == 0 && (config.ca.is_some() || config.identity.is_some()) {
            return Err(wrong("certificates for etcd need https:// endpoints".into()));
        }
        if secure != 0 {
            let mut tls = TlsOptions::new();
            tls = match &config.ca {
                Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
                None => tls.with_native_roots(),
            };
            if let Some((certificate, key)) = &config.identity {
                tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
            }
            options = options.with_tls(tls);
        }
        if let Some((user, password)) = config.login {
            options = options.with_user(user, secrecy::ExposeSecret::expose_secret(&password));
        }
        let members = config.endpoints.into_iter().map(|endpoint| (endpoint, OnceCell::new())).collect();
        Ok(Self { options, members, at: AtomicUsize::new(0) })
    }

    /// Index of the member to ask.
    pub(super) fn present(&self) -> usize {
        self.at.load(Ordering::Relaxed) % self.members.len()
    }

    async fn client(&self, at: usize) -> std::result::Result<Client, etcd_client::Error> {
        let (endpoint, cell) = &self.members[at];
        // With a password this asks the member for a token, so it may fail; then it is tried again.
        let client = cell.get_or_try_init(|| Client::connect([endpoint], Some(self.options.clone()))).await?;
        Ok(client.clone())
    }

    /// Passes a member over, if nobody has done so yet.
    pub(super) fn pass_over(&self, at: usize) {
        let next = (at + 1) % self.members.len();
        let _others_did = self.at.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// One bounded attempt at the present member.
    pub(super) async fn attempt<T, F>(&self, ask: impl FnOnce(Client) -> F) -> std::result::Result<T, Refusal>
    where
        F: Future<Output = std::result::Result<T, etcd_client::Error>>,
    {
        let at = self.present();
        let asked = timeout(ATTEMPT, async { ask(self.client(at).await?).await }).await;
        let refusal = match asked {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error.into(),
            Err(_) => Refusal::ForNow(format!("no answer within {} ms", ATTEMPT.as_millis())),
        };
        if matches!(refusal, Refusal::ForNow(_)) {
            self.pass_over(at);
        }
        Err(refusal)
    }

    /// Asks member after member until one answers, for a bounded time.
    pub(super) async fn call<T, F>(&self, what: &str, ask: impl Fn(Client) -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, etcd_client::Error>>,
    {
        let deadline = Instant::now() + CALL;
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        loop {
            match self.attempt(&ask).await {
                Ok(answer) => return Ok(answer),
                Err(Refusal::ForGood(error)) => return Err(error),
                Err(Refusal::ForNow(why)) => {
                    let delay = backoff.next_delay();
                    if Instant::now() + delay > deadline {
                        return Err(Error::new(Code::StoreUnavailable, format!("etcd, {what}: {why}")));
                    }
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }
}
