//! `rediss://` and the options that go with it.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use dts_agent::coordinator::Coordinator;
use dts_proto::v1::{Endpoint, TaskSpec, Tls};

/// TLS to both servers; files are PEM on the agent's host, read at every connection.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "TLS (rediss://); PEM files on the agent's host, read at every connection")]
pub(crate) struct TlsArguments {
    /// The authorities that may have signed the source's certificate; else those that the host trusts.
    #[arg(long, value_name = "FILE")]
    source_tls_ca: Option<String>,
    /// Our certificate, for a source that asks for one.
    #[arg(long, value_name = "FILE", requires = "source_tls_key")]
    source_tls_cert: Option<String>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "source_tls_cert")]
    source_tls_key: Option<String>,
    /// The name that the source's certificate is for, if it is not the host.
    #[arg(long, value_name = "NAME")]
    source_tls_server_name: Option<String>,
    /// Take any certificate of the source: whoever sits between can read and alter everything.
    #[arg(long, conflicts_with_all = ["source_tls_ca", "source_tls_server_name"])]
    source_tls_insecure_skip_verify: bool,
    /// The authorities that may have signed the target's certificate; else those that the host trusts.
    #[arg(long, value_name = "FILE")]
    target_tls_ca: Option<String>,
    /// Our certificate, for a target that asks for one.
    #[arg(long, value_name = "FILE", requires = "target_tls_key")]
    target_tls_cert: Option<String>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "target_tls_cert")]
    target_tls_key: Option<String>,
    /// The name that the target's certificate is for, if it is not the host.
    #[arg(long, value_name = "NAME")]
    target_tls_server_name: Option<String>,
    /// Take any certificate of the target: whoever sits between can read and alter everything.
    #[arg(long, conflicts_with_all = ["target_tls_ca", "target_tls_server_name"])]
    target_tls_insecure_skip_verify: bool,
}

impl TlsArguments {
    /// For a source, whose URL says `rediss://` if `on`.
    pub(crate) fn source(&self, on: bool) -> Result<Option<Tls>> {
        let tls = Tls {
            ca_file: self.source_tls_ca.clone().unwrap_or_default(),
            certificate_file: self.source_tls_cert.clone().unwrap_or_default(),
            key_file: self.source_tls_key.clone().unwrap_or_default(),
            server_name: self.source_tls_server_name.clone().unwrap_or_default(),
            insecure_skip_verify: self.source_tls_insecure_skip_verify,
        };
        fitting("source", tls, on)
    }

    /// For the target.
    pub(crate) fn target(&self, on: bool) -> Result<Option<Tls>> {
        let tls = Tls {
            ca_file: self.target_tls_ca.clone().unwrap_or_default(),
            certificate_file: self.target_tls_cert.clone().unwrap_or_default(),
            key_file: self.target_tls_key.clone().unwrap_or_default(),
            server_name: self.target_tls_server_name.clone().unwrap_or_default(),
            insecure_skip_verify: self.target_tls_insecure_skip_verify,
        };
        fitting("target", tls, on)
    }
}

fn fitting(side: &str, tls: Tls, on: bool) -> Result<Option<Tls>> {
    if !on && tls != Tls::default() {
        bail!("--{side}-tls-… goes with --{side} rediss://…");
    }
    Ok(on.then_some(tls))
}

/// TLS to a coordinator whose address is `https://…`; files are PEM, read at every connection.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct CoordinatorTls {
    /// The authorities that may have signed the coordinator's certificate; else those that this host trusts.
    #[arg(long, global = true, value_name = "FILE", env = "DTS_TLS_CA")]
    tls_ca: Option<PathBuf>,
    /// Our certificate, for a coordinator that asks for one.
    #[arg(long, global = true, value_name = "FILE", env = "DTS_TLS_CERT")]
    tls_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, global = true, value_name = "FILE", env = "DTS_TLS_KEY")]
    tls_key: Option<PathBuf>,
}

impl CoordinatorTls {
    /// The coordinator at this address.
    pub(crate) fn at(self, address: &str) -> Result<Coordinator> {
        if !address.starts_with("https://") {
            return Ok(Coordinator::plain(address));
        }
        let client = match (self.tls_cert, self.tls_key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => bail!("--tls-cert and --tls-key go together"),
        };
        Ok(Coordinator { address: address.to_owned(), tls: dts_agent::coordinator::Tls { ca: self.tls_ca, client } })
    }
}

/// The options that say the same again.
pub(crate) fn options(spec: &TaskSpec) -> String {
    let of = |side, end: Option<&Endpoint>| {
        end.and_then(|end| end.tls.as_ref()).map(|tls| options_of(side, tls)).unwrap_or_default()
    };
    of("source", spec.sources.first()) + &of("target", spec.target.as_ref())
}

fn options_of(side: &str, tls: &Tls) -> String {
    let files = [
        ("ca", &tls.ca_file),
        ("cert", &tls.certificate_file),
        ("key", &tls.key_file),
        ("server-name", &tls.server_name),
    ];
    let given = files.iter().filter(|(_, value)| !value.is_empty());
    let mut text: String = given.map(|(name, value)| format!(" --{side}-tls-{name} {value}")).collect();
    if tls.insecure_skip_verify {
        text += &format!(" --{side}-tls-insecure-skip-verify");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_tls_need_a_url_of_tls() {
        let arguments = TlsArguments { source_tls_ca: Some("ca.pem".into()), ..TlsArguments::default() };
        assert!(format!("{}", arguments.source(false).unwrap_err()).contains("rediss://"));
        let tls = arguments.source(true).unwrap().unwrap();
        assert_eq!(options_of("source", &tls), " --source-tls-ca ca.pem");
        assert_eq!(arguments.target(false).unwrap(), None);
        assert_eq!(arguments.target(true).unwrap(), Some(Tls::default()));
    }
}
