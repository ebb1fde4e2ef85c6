//! A small HTTP client: one POST, the status counts.

use std::sync::Arc;

use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::crypto::ring;
use tonic::codegen::http::{Request, header};

/// Redirects are not followed: a signed message goes where it was meant to go.
#[derive(Clone, Debug)]
pub(crate) struct Http(Client<HttpsConnector<HttpConnector>, Full<bytes::Bytes>>);

impl Http {
    /// Trusts the authorities that this host trusts.
    pub(crate) fn new() -> std::io::Result<Self> {
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(Arc::new(ring::default_provider()))?
            .https_or_http()
            .enable_http1()
            .build();
        // Every message has a connection of its own: the next one may be hours away.
        Ok(Self(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector)))
    }

    /// Ok if it was taken. The URL may hold a secret, so it is not in the error.
    pub(super) async fn post(&self, url: &str, body: String, headers: &[(&str, String)]) -> Result<(), String> {
        let mut request = Request::post(url).header(header::CONTENT_TYPE, "application/json");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let agent = concat!("dts/", env!("CARGO_PKG_VERSION"));
        let request = request.header(header::USER_AGENT, agent).body(Full::new(body.into()));
        let request = request.map_err(|_| "the address is not one".to_owned())?;
        let answer = self.0.request(request).await.map_err(|error| reasons(&error))?;
        match answer.status() {
            taken if taken.is_success() => Ok(()),
            refused => Err(format!("answered {refused}")),
        }
    }
}

/// An error with all that lies beneath it.
pub(super) fn reasons(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(beneath) = source {
        text = format!("{text}: {beneath}");
        source = beneath.source();
    }
    text
}
