//! The console's pages. They are part of the program, hold nothing of anybody's, and load nothing from elsewhere.

use http_body_util::Full;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderValue, Method, Request, Response, StatusCode, header};

use super::failure::failed;
use crate::console::ASSETS;

/// Scripts, styles and calls come from here and nowhere else; nothing inline runs; nobody shows us in a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn answer(request: &Request<Body>) -> Response<Body> {
    let path = request.uri().path();
    let Some(asset) = ASSETS.iter().find(|asset| asset.path == path) else {
        return failed(
            &Status::unimplemented("there is no such page; the console is at /"),
            Some(StatusCode::NOT_FOUND),
        );
    };
    let body = if request.method() == Method::HEAD { Body::empty() } else { Body::new(Full::from(asset.body)) };
    let mut answer = Response::new(body);
    for (name, value) in [
        (header::CONTENT_TYPE, asset.kind),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}
