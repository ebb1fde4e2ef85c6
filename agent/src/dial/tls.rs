//! What an endpoint says of TLS, made into a connector. Files are read anew each time: who replaces a certificate need
//! not restart anything.

use std::path::Path;
use std::sync::Arc;

use dts_common::pem;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

use crate::endpoint::{Endpoint, Tls};

type Result<T> = std::result::Result<T, String>;

/// What the server's certificate has to be for.
pub(super) fn server_name(endpoint: &Endpoint, tls: &Tls) -> Result<ServerName<'static>> {
    let name = tls.server_name.as_ref().unwrap_or(&endpoint.host);
    ServerName::try_from(name.clone()).map_err(|_| format!("{name:?} is neither a host name nor an address"))
}

/// Reads the files and makes a connector of them.
pub(super) async fn connector(tls: &Tls) -> Result<TlsConnector> {
    let tls = tls.clone();
    let made = tokio::task::spawn_blocking(move || config(&tls)).await.map_err(|error| error.to_string())?;
    Ok(TlsConnector::from(Arc::new(made?)))
}

fn config(tls: &Tls) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let verifier: Arc<dyn ServerCertVerifier> = if tls.skip_verify {
        Arc::new(AnyCertificate(provider.clone()))
    } else {
        let roots = Arc::new(roots(tls.ca.as_deref())?);
        WebPkiServerVerifier::builder_with_provider(roots, provider).build().map_err(|error| error.to_string())?
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match &tls.client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let wrong =
                |error| format!("client certificate {} with key {}: {error}", certificate.display(), key.display());
            let private = pem::key("client key", key)?;
            builder
                .with_client_auth_cert(pem::certificates("client certificate", certificate)?, private)
                .map_err(wrong)?
        }
    };
    // Every connection has its own configuration: nothing could be resumed.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore> {
    match ca {
        Some(path) => pem::authorities("CA file", path),
        None => {
            let mut roots = RootCertStore::empty();
            // A host's collection may hold a few that no longer parse.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err("this host trusts no certificate authority: give a CA file".into());
            }
            Ok(roots)
        }
    }
}

/// Takes any certificate whose key the server has.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
