//! Between JSON and the frames of gRPC: a flag, four bytes of length, a message.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use dts_common::error::{Code, Error};
use http_body_util::{BodyExt as _, Full, Limited};
use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor, MethodDescriptor};
use tonic::body::Body;
use tonic::codegen::http::request::Parts;
use tonic::codegen::http::{HeaderMap, HeaderValue, Request, Response, Version, header};
use tonic::{Code as GrpcCode, Status};

use super::text;
use crate::api::status;

/// Of a request; the same as a gRPC message may have.
const LARGEST: usize = 4 << 20;
const HEAD: usize = 5;
/// Who is refused is not listened to for longer.
const HEARD_WITHIN: Duration = Duration::from_secs(5);
/// What a call may say besides its message.
const KEPT: [&str; 2] = [dts_common::telemetry::HEADER, "user-agent"];

pub(super) fn wrong(what: impl Into<String>) -> Status {
    status(Error::new(Code::InvalidRequest, what))
}

fn internal(what: String) -> Status {
    status(Error::new(Code::Internal, what))
}

/// A flag, a length, a message.
pub(super) fn framed(flag: u8, message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD + message.len());
    frame.put_u8(flag);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

/// Takes a whole frame off the front.
pub(super) fn cut(buffer: &mut BytesMut) -> Option<(u8, Bytes)> {
    let mut head = buffer.get(..HEAD)?;
    let (flag, length) = (head.get_u8(), usize::try_from(head.get_u32()).ok()?);
    if buffer.len() - HEAD < length {
        return None;
    }
    buffer.advance(HEAD);
    Some((flag, buffer.split_to(length).freeze()))
}

/// Reads what is not looked at: over HTTP/2 a client that is answered before it was heard may take that for a broken stream.
pub(super) async fn discard(mut body: Body) {
    let heard = async {
        let mut left = LARGEST;
        while let Some(Ok(frame)) = body.frame().await {
            match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    let _heard_or_not = tokio::time::timeout(HEARD_WITHIN, heard).await;
}

/// The whole body of a request.
pub(super) async fn body(parts: &Parts, body: Body) -> Result<Bytes, Status> {
    let encoded = |name| text(&parts.headers, name).filter(|encoding| *encoding != "identity");
    if let Some(encoding) = encoded("content-encoding").or_else(|| encoded("connect-content-encoding")) {
        discard(body).await;
        return Err(Status::unimplemented(format!("encoding {encoding:?} is not taken: send it plain")));
    }
    let read = Limited::new(body, LARGEST).collect().await;
    Ok(read.map_err(|error| wrong(format!("the body, of at most {LARGEST} bytes: {error}")))?.to_bytes())
}

/// The gRPC call that a message stands for. Nothing else of the request goes on: no header can pretend to be a coordinator's.
pub(super) fn call(parts: Parts, method: &MethodDescriptor, json: &[u8]) -> Result<Request<Body>, Status> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let message = DynamicMessage::deserialize(method.input(), &mut reader)
        .and_then(|message| reader.end().map(|()| message))
        .map_err(|error| wrong(format!("{}: {error}", method.input().name())))?;
    let mut request = Request::new(Body::new(Full::from(framed(0, &message.encode_to_vec()))));
    for name in KEPT {
        if let Some(value) = parts.headers.get(name) {
            request.headers_mut().insert(name, value.clone());
        }
    }
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(super::GRPC));
    request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    if let Some(limit) = text(&parts.headers, "connect-timeout-ms") {
        let known = (1..=8).contains(&limit.len()) && limit.bytes().all(|digit| digit.is_ascii_digit());
        let value = HeaderValue::from_str(&format!("{limit}m")).ok().filter(|_| known);
        request.headers_mut().insert("grpc-timeout", value.ok_or_else(|| wrong("Connect-Timeout-Ms: 1 to 8 digits"))?);
    }
    *request.method_mut() = parts.method;
    *request.uri_mut() = parts.uri;
    *request.version_mut() = Version::HTTP_2;
    *request.extensions_mut() = parts.extensions;
    Ok(request)
}

/// The messages of an answer, as JSON.
pub(super) struct Messages {
    output: MessageDescriptor,
    body: Body,
    buffer: BytesMut,
    /// What the headers said already, or the trailers in the end.
    status: Option<Status>,
}

impl Messages {
    pub(super) fn of(answer: Response<Body>, output: MessageDescriptor) -> Self {
        let (parts, body) = answer.into_parts();
        let status = Status::from_header_map(&parts.headers);
        Self { output, body, buffer: BytesMut::new(), status }
    }

    /// The next one; `None` once the call has ended well.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Status> {
        loop {
            if let Some((flag, message)) = cut(&mut self.buffer) {
                return if flag == 0 { self.json(message).map(Some) } else { Err(internal("a packed message".into())) };
            }
            match self.body.frame().await {
                Some(frame) => match frame?.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => self.end(frame.into_trailers().unwrap_or_default()),
                },
                None => {
                    return match self.status.take() {
                        Some(status) if status.code() == GrpcCode::Ok => Ok(None),
                        Some(status) => Err(status),
                        None => Err(internal("the answer has no end".into())),
                    };
                }
            }
        }
    }

    fn end(&mut self, trailers: HeaderMap) {
        self.status = Status::from_header_map(&trailers);
    }

    fn json(&self, message: Bytes) -> Result<Vec<u8>, Status> {
        let message = DynamicMessage::decode(self.output.clone(), message);
        let message = message.map_err(|error| internal(format!("the answer: {error}")))?;
        serde_json::to_vec(&message).map_err(|error| internal(format!("the answer: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_cut_off_once_it_is_whole() {
        let whole = framed(2, b"abc");
        let mut buffer = BytesMut::new();
        for at in 0..whole.len() {
            assert_eq!(cut(&mut buffer), None);
            buffer.extend_from_slice(&whole[at..=at]);
        }
        buffer.extend_from_slice(b"x");
        assert_eq!(cut(&mut buffer), Some((2, Bytes::from_static(b"abc"))));
        assert_eq!(&buffer[..], b"x");
    }
}
