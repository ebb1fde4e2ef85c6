//! The agent's own certificate: made with a token, kept in one file of the state directory, renewed before it expires.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use dts_common::backoff::Backoff;
use dts_common::error::{Code, Error, Result};
use dts_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use dts_proto::v1::{EnrolRequest, Enrolled, RenewRequest};
use rcgen::{CertificateParams, KeyPair};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code as GrpcCode, Status};
use x509_parser::parse_x509_certificate;

use crate::coordinator::{Coordinator, reasons};

const ANSWER: Duration = Duration::from_secs(10);
/// A certificate is looked at so often.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
/// Between two that are renewed.
const SHORTEST_SLEEP: Duration = Duration::from_secs(1);

/// Certificate and key in one file: both are replaced in one step.
pub fn identity_file(state_dir: &Path) -> PathBuf {
    state_dir.join("identity.pem")
}

/// How long a certificate lives, and how much of that is over.
#[derive(Clone, Copy, Debug)]
struct Validity {
    from: SystemTime,
    until: SystemTime,
}

impl Validity {
    fn read(path: &Path) -> Result<Self> {
        let wrong = |why: String| Error::new(Code::AgentDisk, format!("{}: {why}", path.display()));
        let chain = dts_common::pem::certificates("identity", path).map_err(wrong)?;
        let first = chain.first().ok_or_else(|| wrong("no certificate".into()))?;
        let (_, certificate) = parse_x509_certificate(first).map_err(|error| wrong(error.to_string()))?;
        let at =
            |seconds: i64| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
        let validity = certificate.validity();
        let both = at(validity.not_before.timestamp()).zip(at(validity.not_after.timestamp()));
        let (from, until) = both.ok_or_else(|| wrong("its times are out of range".into()))?;
        Ok(Self { from, until })
    }

    /// When two thirds of it are over.
    fn renew_at(self) -> SystemTime {
        let whole = self.until.duration_since(self.from).unwrap_or_default();
        self.from + whole * 2 / 3
    }
}

/// Gets a certificate with a token, unless there is one that is still worth something.
pub async fn enrol(coordinators: &[Coordinator], id: &str, token: &str, state_dir: &Path) -> Result<()> {
    let path = identity_file(state_dir);
    if Validity::read(&path).is_ok_and(|validity| SystemTime::now() < validity.until) {
        tracing::info!(agent = id, "it has a certificate already; the token is not used");
        return Ok(());
    }
    let (key, request_pem) = request(id)?;
    let request = EnrolRequest { token: token.trim().to_owned(), agent_id: id.to_owned(), request_pem };
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
    let mut last = Status::unavailable("no coordinator's address is given");
    for round in 0..5 {
        if round > 0 {
            tokio::time::sleep(backoff.next_delay()).await;
        }
        for coordinator in coordinators {
            let called = async {
                let mut client = EnrolmentServiceClient::new(connect(coordinator).await?);
                bounded(client.enrol(request.clone())).await
            };
            match called.await {
                Ok(enrolled) => return keep(&path, &key, &enrolled),
                Err(status) if status.code() == GrpcCode::Unavailable => last = status,
                Err(status) => return Err(refused(&status)),
            }
        }
    }
    Err(refused(&last))
}

/// Renews the certificate for as long as the agent lives. A new key each time.
pub async fn keep_renewed(coordinators: &[Coordinator], id: &str, state_dir: &Path, cancel: &CancellationToken) {
    let path = identity_file(state_dir);
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
    loop {
        let due = match Validity::read(&path) {
            Ok(validity) => validity.renew_at().duration_since(SystemTime::now()).unwrap_or_default(),
            Err(error) => {
                tracing::error!(%error, "the agent's certificate cannot be read");
                LONGEST_SLEEP
            }
        };
        let wait = if due.is_zero() {
            match renew(coordinators, id, &path).await {
                Ok(()) => {
                    tracing::info!(agent = id, "certificate renewed");
                    backoff.reset();
                    SHORTEST_SLEEP
                }
                Err(error) => {
                    tracing::warn!(%error, "the agent's certificate is not renewed yet");
                    backoff.next_delay()
                }
            }
        } else {
            due.min(LONGEST_SLEEP)
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = cancel.cancelled() => return,
        }
    }
}

async fn renew(coordinators: &[Coordinator], id: &str, path: &Path) -> Result<()> {
    let (key, request_pem) = request(id)?;
    let mut last = Status::unavailable("no coordinator's address is given");
    for coordinator in coordinators {
        let called = async {
            let mut client = EnrolmentServiceClient::new(connect(coordinator).await?);
            bounded(client.renew(RenewRequest { request_pem: request_pem.clone() })).await
        };
        match called.await {
            Ok(enrolled) => return keep(path, &key, &enrolled),
            Err(status) => last = status,
        }
    }
    Err(refused(&last))
}

/// A new key, and the request for it.
fn request(id: &str) -> Result<(KeyPair, String)> {
    let wrong = |error: rcgen::Error| Error::new(Code::InvalidRequest, format!("a certificate for {id:?}: {error}"));
    let key = KeyPair::generate().map_err(wrong)?;
    let params = CertificateParams::new(vec![id.to_owned()]).map_err(wrong)?;
    let request = params.serialize_request(&key).and_then(|request| request.pem()).map_err(wrong)?;
    Ok((key, request))
}

async fn connect(coordinator: &Coordinator) -> std::result::Result<Channel, Status> {
    let endpoint = coordinator.endpoint().map_err(|error| Status::invalid_argument(error.message))?;
    match timeout(ANSWER, endpoint.connect()).await {
        Ok(connected) => connected.map_err(|error| Status::unavailable(reasons(&error))),
        Err(_) => Err(Status::unavailable("no connection in time")),
    }
}

async fn bounded(
    call: impl Future<Output = std::result::Result<tonic::Response<Enrolled>, Status>>,
) -> std::result::Result<Enrolled, Status> {
    match timeout(ANSWER, call).await {
        Ok(answered) => Ok(answered?.into_inner()),
        Err(_) => Err(Status::unavailable("no answer in time")),
    }
}

fn keep(path: &Path, key: &KeyPair, enrolled: &Enrolled) -> Result<()> {
    let failed = |error: std::io::Error| Error::new(Code::AgentDisk, format!("{}: {error}", path.display()));
    let new = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(failed)?;
    let text = format!("{}{}", enrolled.certificate_pem, key.serialize_pem());
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&new, path).map_err(failed)
}

fn refused(status: &Status) -> Error {
    let code = match status.code() {
        GrpcCode::Unavailable => Code::NoLeader,
        _ => Code::TokenRefused,
    };
    Error::new(code, format!("no certificate from the coordinator: {}", status.message()))
}
