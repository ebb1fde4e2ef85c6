//! Why there is no TLS, in words that say what to do.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

/// What it says of a server that answers, but not in TLS.
pub(super) const NOT_TLS: &str = "the server does not speak TLS on this port: give its TLS port, or redis:// instead of rediss:// (no tls in the API)";

/// `None`: it is not TLS that failed.
pub(super) fn of_tls(error: &io::Error) -> Option<String> {
    error.get_ref()?.downcast_ref::<Error>().map(words)
}

fn words(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "the server's certificate is not signed by an authority that we trust: give its authority as CA file".into()
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => {
            format!("{error}: connect by a name in the certificate, or give one as server name")
        }
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            format!("the server's certificate has expired: renew it ({error})")
        }
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            format!("the server's certificate is not valid yet: check the clock of this host ({error})")
        }
        Error::InvalidCertificate(why) => {
            format!(
                "the server's certificate cannot be verified ({why}): give the server one for its name, signed by a CA"
            )
        }
        Error::AlertReceived(alert) => of_alert(*alert),
        Error::InvalidMessage(_) => NOT_TLS.into(),
        Error::PeerIncompatible(why) => {
            format!(
                "the server offers nothing that we accept ({why:?}): it needs TLS 1.2 or newer with forward secrecy"
            )
        }
        other => format!("no TLS with the server: {other}"),
    }
}

fn of_alert(alert: AlertDescription) -> String {
    use AlertDescription as Alert;
    match alert {
        Alert::CertificateRequired | Alert::NoCertificate => {
            "the server asks for a client certificate: give one with its key".into()
        }
        // What servers of TLS 1.2 say for the same, and for having nothing in common.
        Alert::HandshakeFailure => {
            "the server ends the handshake (HandshakeFailure): it may ask for a client certificate, or have no cipher in common".into()
        }
        Alert::UnknownCA => {
            "the server does not trust our client certificate: give one that its CA has signed (UnknownCA)".into()
        }
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::AccessDenied
        | Alert::DecryptError => format!("the server does not accept our client certificate ({alert:?})"),
        Alert::ProtocolVersion => "the server knows no TLS that we accept: it needs TLS 1.2 or newer".into(),
        Alert::UnrecognisedName => "the server does not know this server name: give one that it does".into(),
        other => format!("the server ends the TLS session ({other:?})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_of_tls_says_what_to_give_and_other_faults_are_left_alone() {
        let of = |error: Error| of_tls(&io::Error::new(io::ErrorKind::InvalidData, error)).unwrap();
        for (error, word) in [
            (Error::InvalidCertificate(CertificateError::UnknownIssuer), "CA file"),
            (Error::InvalidCertificate(CertificateError::NotValidForName), "server name"),
            (Error::InvalidCertificate(CertificateError::Expired), "expired"),
            (Error::InvalidCertificate(CertificateError::NotValidYet), "clock"),
            (Error::AlertReceived(AlertDescription::CertificateRequired), "client certificate"),
            (Error::AlertReceived(AlertDescription::UnknownCA), "trust our client certificate"),
            (Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType), "redis://"),
        ] {
            let said = of(error);
            assert!(said.contains(word), "{said}");
        }
        assert_eq!(of_tls(&io::Error::from(io::ErrorKind::ConnectionReset)), None);
    }
}
