//! How to speak TLS: what of it may be asked for, and changing it. Certificates change places while tasks live.

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{Endpoint, TaskSpec, Tls};

/// What of it contradicts itself is named.
pub fn check_tls(field: &str, tls: &Tls) -> Result<()> {
    let wrong = |what: &str| Err(Error::new(Code::InvalidRequest, format!("{field}: {what}")));
    if tls.certificate_file.is_empty() != tls.key_file.is_empty() {
        return wrong("certificate_file and key_file go together");
    }
    if tls.insecure_skip_verify && !(tls.ca_file.is_empty() && tls.server_name.is_empty()) {
        return wrong("insecure_skip_verify verifies nothing: leave ca_file and server_name out, or it");
    }
    Ok(())
}

/// Takes the target's over.
pub(super) fn update_target(spec: &mut TaskSpec, from: &TaskSpec) -> Result<()> {
    match (&mut spec.target, &from.target) {
        (Some(target), Some(given)) => take("target", target, given),
        _ => Err(Error::new(Code::InvalidRequest, "update_mask names target.tls, and spec.target is missing")),
    }
}

/// Takes that of every source over.
pub(super) fn update_sources(spec: &mut TaskSpec, from: &TaskSpec) -> Result<()> {
    if spec.sources.len() != from.sources.len() {
        let message = format!("update_mask names sources.tls: give all {} sources", spec.sources.len());
        return Err(Error::new(Code::InvalidRequest, message));
    }
    let pairs = spec.sources.iter_mut().zip(&from.sources).enumerate();
    pairs.into_iter().try_for_each(|(index, (source, given))| take(&format!("sources[{index}]"), source, given))
}

fn take(field: &str, held: &mut Endpoint, given: &Endpoint) -> Result<()> {
    if (&held.host, held.port) != (&given.host, given.port) {
        let message = format!("spec.{field} has to stay {}:{}; only its tls can be changed", held.host, held.port);
        return Err(Error::new(Code::InvalidRequest, message));
    }
    if let Some(tls) = &given.tls {
        check_tls(&format!("spec.{field}.tls"), tls)?;
    }
    held.tls.clone_from(&given.tls);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(port: u32, ca_file: &str) -> TaskSpec {
        let tls = Some(Tls { ca_file: ca_file.into(), ..Tls::default() });
        let end = Endpoint { host: "h".into(), port, tls, ..Endpoint::default() };
        TaskSpec { sources: vec![end.clone()], target: Some(end), ..TaskSpec::default() }
    }

    #[test]
    fn certificates_change_and_servers_do_not() {
        let mut held = spec(1, "old");
        update_target(&mut held, &spec(1, "new")).unwrap();
        let ca = |end: &Endpoint| end.tls.as_ref().unwrap().ca_file.clone();
        assert_eq!((ca(held.target.as_ref().unwrap()), ca(&held.sources[0])), ("new".into(), "old".into()));
        update_sources(&mut held, &spec(1, "new")).unwrap();
        assert_eq!(ca(&held.sources[0]), "new");
        for wrong in [spec(2, "new"), TaskSpec::default()] {
            assert!(update_target(&mut held, &wrong).is_err() && update_sources(&mut held, &wrong).is_err());
        }
        let half = Tls { key_file: "k".into(), ..Tls::default() };
        let half = Endpoint { tls: Some(half), ..held.sources[0].clone() };
        let error = update_sources(&mut held, &TaskSpec { sources: vec![half], ..TaskSpec::default() }).unwrap_err();
        assert!(error.message.contains("spec.sources[0].tls"), "{}", error.message);
    }
}
