//! What of a task's spec may be changed after its creation, by field mask.

use dts_common::error::{Code, Error, Result};
use dts_common::selection::Selection;
use dts_proto::v1::{Endpoint, TaskSpec};

use super::tls;

/// Takes the named fields of `from` over into `spec`: all of them, or none.
pub fn update(spec: &mut TaskSpec, from: &TaskSpec, paths: &[String]) -> Result<()> {
    if paths.is_empty() {
        return Err(Error::new(Code::InvalidRequest, "update_mask names no field"));
    }
    let given = from.limits.unwrap_or_default();
    let mut changed = spec.clone();
    for path in paths {
        let limits = changed.limits.get_or_insert_default();
        match path.as_str() {
            "limits" => *limits = given,
            "limits.spool_memory_bytes" => limits.spool_memory_bytes = given.spool_memory_bytes,
            "limits.spool_disk_bytes" => limits.spool_disk_bytes = given.spool_disk_bytes,
            "limits.retry_window_seconds" => limits.retry_window_seconds = given.retry_window_seconds,
            "limits.read_bytes_per_second" => limits.read_bytes_per_second = given.read_bytes_per_second,
            "limits.write_bytes_per_second" => limits.write_bytes_per_second = given.write_bytes_per_second,
            "complete_when_caught_up" => changed.complete_when_caught_up = from.complete_when_caught_up,
            "allow_downgrade" => changed.allow_downgrade = from.allow_downgrade,
            "cross_slot" => changed.cross_slot = from.cross_slot,
            "sources.tls" => tls::update_sources(&mut changed, from)?,
            "target.tls" => tls::update_target(&mut changed, from)?,
            "on_flush" => changed.on_flush = from.on_flush,
            "filter.on_border" => {
                let given = from.filter.clone().unwrap_or_default();
                changed.filter.get_or_insert_default().on_border = given.on_border;
            }
            "filter.trust_scripts" => {
                let given = from.filter.clone().unwrap_or_default();
                changed.filter.get_or_insert_default().trust_scripts = given.trust_scripts;
            }
            other => {
                let message = format!(
                    "update_mask: {other:?} cannot be changed; limits, limits.<field>, complete_when_caught_up, allow_downgrade, cross_slot, on_flush, filter.on_border, filter.trust_scripts, sources.tls and target.tls can"
                );
                return Err(Error::new(Code::InvalidRequest, message));
            }
        }
    }
    Selection::new(changed.filter.as_ref(), &changed.db_map, changed.on_flush)?;
    *spec = changed;
    Ok(())
}

/// Takes the named fields of `from` over into the spec of a task that was not started: any, or all of them by `*`. A login that is
/// given without its secret keeps the one that is held for the same server.
pub fn edit(spec: &mut TaskSpec, from: &TaskSpec, paths: &[String]) -> Result<()> {
    if paths.is_empty() {
        return Err(Error::new(Code::InvalidRequest, "update_mask names no field"));
    }
    let held = spec.clone();
    let mut changed = spec.clone();
    for path in paths {
        let from = from.clone();
        match path.as_str() {
            "*" => changed = from,
            "name" => changed.name = from.name,
            "sources" => changed.sources = from.sources,
            "target" => changed.target = from.target,
            "mode" => changed.mode = from.mode,
            "filter" => changed.filter = from.filter,
            "db_map" => changed.db_map = from.db_map,
            "cross_slot" => changed.cross_slot = from.cross_slot,
            "topology" => changed.topology = from.topology,
            "share_sources" => changed.share_sources = from.share_sources,
            "target_guard" => changed.target_guard = from.target_guard,
            "target_fence" => changed.target_fence = from.target_fence,
            _ => update(&mut changed, &from, std::slice::from_ref(path))?,
        }
    }
    for end in changed.sources.iter_mut().chain(&mut changed.target) {
        let same = |other: &&Endpoint| (&other.host, other.port) == (&end.host, end.port);
        let Some(login) = &mut end.credential else { continue };
        let before = held.sources.iter().chain(&held.target).find(same).and_then(|other| other.credential.clone());
        if let Some(before) = before.filter(|before| login.password_set && before.username == login.username) {
            login.secret = login.secret.take().or(before.secret);
        }
        login.password_set = false;
    }
    *spec = changed;
    Ok(())
}

#[cfg(test)]
mod tests {
    use dts_proto::v1::Limits;

    use super::*;

    #[test]
    fn only_the_named_fields_change() {
        let limits = Limits { spool_disk_bytes: 5, write_bytes_per_second: 7, ..Limits::default() };
        let from = TaskSpec { limits: Some(limits), complete_when_caught_up: true, ..TaskSpec::default() };
        let mut spec = TaskSpec { name: "kept".into(), ..TaskSpec::default() };
        update(&mut spec, &from, &["limits.write_bytes_per_second".into()]).unwrap();
        assert_eq!(spec.limits, Some(Limits { write_bytes_per_second: 7, ..Limits::default() }));
        assert!(!spec.complete_when_caught_up);
        update(&mut spec, &from, &["limits".into(), "complete_when_caught_up".into()]).unwrap();
        assert!(spec.limits == from.limits && spec.complete_when_caught_up && spec.name == "kept");
    }

    #[test]
    fn what_may_not_change_is_named() {
        let error = update(&mut TaskSpec::default(), &TaskSpec::default(), &["sources".into()]).unwrap_err();
        assert!(error.message.contains("sources"));
        assert!(update(&mut TaskSpec::default(), &TaskSpec::default(), &[]).is_err());
        let from = TaskSpec { complete_when_caught_up: true, ..TaskSpec::default() };
        let mut spec = TaskSpec::default();
        assert!(update(&mut spec, &from, &["complete_when_caught_up".into(), "name".into()]).is_err());
        assert!(!spec.complete_when_caught_up, "a refused request changed a part");
    }

    #[test]
    fn before_the_start_everything_may_change_and_a_password_that_is_not_given_stays() {
        use dts_proto::v1::{Credential, credential::Secret};
        let end = |port, secret: Option<&str>| Endpoint {
            host: "h".into(),
            port,
            credential: Some(Credential {
                secret: secret.map(|secret| Secret::Password(secret.into())),
                password_set: secret.is_none(),
                ..Credential::default()
            }),
            ..Endpoint::default()
        };
        let mut spec = TaskSpec { target: Some(end(1, Some("kept"))), name: "n".into(), ..TaskSpec::default() };
        let from = TaskSpec { target: Some(end(1, None)), sources: vec![end(2, None)], ..TaskSpec::default() };
        edit(&mut spec, &from, &["target".into(), "sources".into()]).unwrap();
        let password = |end: &Endpoint| end.credential.as_ref().and_then(|login| login.secret.clone());
        assert_eq!(password(spec.target.as_ref().unwrap()), Some(Secret::Password("kept".into())));
        assert_eq!(password(&spec.sources[0]), None, "another server got the password");
        assert_eq!(spec.name, "n");
        assert!(edit(&mut spec, &from, &["nonsense".into()]).is_err());
    }
}
