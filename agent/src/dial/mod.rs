//! From an address to a connection, with or without TLS. Every step is bounded in time.

mod tls;
mod words;

use std::io;
use std::time::Duration;

use dts_common::error::{Error, Result};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::endpoint::{Endpoint, Side, Tls};

/// How long connecting may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a look at what a server speaks may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection: plain or TLS.
pub type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;
/// Its reading half.
pub type ReadHalf = Either<OwnedReadHalf, tokio::io::ReadHalf<Box<TlsStream<TcpStream>>>>;
/// Its writing half.
pub type WriteHalf = Either<OwnedWriteHalf, tokio::io::WriteHalf<Box<TlsStream<TcpStream>>>>;

/// Connects, with Nagle off, and speaks TLS where the endpoint does.
pub async fn dial(endpoint: &Endpoint, side: Side) -> Result<Stream> {
    let stream = connect(endpoint).await.map_err(|why| unreachable(endpoint, side, &why))?;
    match &endpoint.tls {
        None => Ok(Either::Left(stream)),
        Some(tls) => Ok(Either::Right(Box::new(shake_hands(endpoint, tls, side, stream).await?))),
    }
}

/// For a task that reads and one that writes. Plain halves share no lock.
pub fn split(stream: Stream) -> (ReadHalf, WriteHalf) {
    match stream {
        Either::Left(plain) => {
            let (read, write) = plain.into_split();
            (Either::Left(read), Either::Left(write))
        }
        Either::Right(tls) => {
            let (read, write) = tokio::io::split(tls);
            (Either::Right(read), Either::Right(write))
        }
    }
}

/// Writes all of it, and leaves none of it in the TLS session.
pub async fn send(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// The error for a connection that broke: that a server of TLS 1.3 does not accept our certificate shows only here.
pub fn broken(side: Side, name: &str, error: &io::Error) -> Error {
    match words::of_tls(error) {
        Some(why) => Error::new(side.tls(), format!("{name}: {why}")),
        None => Error::new(side.lost(), format!("lost {name}: {error}")),
    }
}

/// Finds out why a server closes before it has said anything, and leaves every other error as it is.
pub async fn explain(endpoint: &Endpoint, side: Side, error: Error) -> Error {
    if error.code != side.lost() {
        return error;
    }
    match &endpoint.tls {
        None if speaks_tls(endpoint).await => Error::new(
            side.tls(),
            format!("{endpoint} expects TLS: give rediss:// instead of redis:// (tls in the API)"),
        ),
        None => error,
        // It may have reset the connection over what we sent before we could read why.
        Some(_) => match dial(endpoint, side).await {
            Ok(mut stream) => match timeout(LOOK_TIMEOUT, stream.read_u8()).await {
                Ok(Err(why)) if words::of_tls(&why).is_some() => broken(side, &endpoint.to_string(), &why),
                _ => error,
            },
            Err(why) if why.code == side.tls() => why,
            Err(_) => error,
        },
    }
}

fn unreachable(endpoint: &Endpoint, side: Side, why: &str) -> Error {
    Error::new(side.unreachable(), format!("cannot connect to {endpoint}: {why}"))
}

async fn connect(endpoint: &Endpoint) -> std::result::Result<TcpStream, String> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect((endpoint.host.as_str(), endpoint.port)))
        .await
        .map_err(|_| format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()))?
        .map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    Ok(stream)
}

async fn shake_hands(endpoint: &Endpoint, tls: &Tls, side: Side, stream: TcpStream) -> Result<TlsStream<TcpStream>> {
    let no_tls = |why: String| Error::new(side.tls(), format!("{endpoint}: {why}"));
    let name = tls::server_name(endpoint, tls).map_err(no_tls)?;
    let connector = tls::connector(tls).await.map_err(no_tls)?;
    let mut handshake = Box::pin(connector.connect(name, stream));
    let mut ended = timeout(LOOK_TIMEOUT, &mut handshake).await;
    // A Redis takes the beginning of a handshake for a command whose end it waits for.
    if ended.is_err() {
        if speaks_plain(endpoint).await {
            return Err(no_tls(words::NOT_TLS.into()));
        }
        ended = timeout(HANDSHAKE_TIMEOUT, handshake).await;
    }
    match ended {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(match words::of_tls(&error) {
            Some(why) => no_tls(why),
            None => unreachable(endpoint, side, &format!("it ends the connection in the TLS handshake ({error})")),
        }),
        Err(_) => {
            let why = format!("no end of the TLS handshake within {} s", HANDSHAKE_TIMEOUT.as_secs());
            Err(unreachable(endpoint, side, &why))
        }
    }
}

/// True if the server answers a PING that is not encrypted. It says nothing of us.
async fn speaks_plain(endpoint: &Endpoint) -> bool {
    let look = async {
        let mut stream = connect(endpoint).await.ok()?;
        stream.write_all(b"PING\r\n").await.ok()?;
        stream.read_u8().await.ok()
    };
    matches!(timeout(LOOK_TIMEOUT, look).await, Ok(Some(b'+' | b'-')))
}

/// True if the server answers the beginning of a TLS handshake in TLS. It says nothing of us, and believes nothing.
async fn speaks_tls(endpoint: &Endpoint) -> bool {
    let tls = Tls { skip_verify: true, ..Tls::default() };
    let look = async {
        let (name, connector) = (tls::server_name(endpoint, &tls).ok()?, tls::connector(&tls).await.ok()?);
        match connector.connect(name, connect(endpoint).await.ok()?).await {
            Ok(_) => Some(()),
            Err(error) => words::of_tls(&error).filter(|why| why != words::NOT_TLS).map(drop),
        }
    };
    matches!(timeout(LOOK_TIMEOUT, look).await, Ok(Some(())))
}
