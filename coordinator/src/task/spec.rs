//! What a task's spec may say.

use std::collections::HashSet;

use dts_common::error::{Code, Error, Result};
use dts_common::selection::Selection;
use dts_proto::v1::{Endpoint, Mode, TargetFence, TargetGuard, TaskSpec};

use super::check_tls;
use crate::placement;

const LONGEST_NAME: usize = 128;
const MOST_SHARDS: usize = 1024;

/// Fails if a field is wrong. Without any server it is a task that is being set up.
pub fn check_spec(spec: &TaskSpec, request_id: &str) -> Result<()> {
    let wrong = |what: String| Err(Error::new(Code::InvalidRequest, what));
    if spec.name.is_empty() || spec.name.len() > LONGEST_NAME {
        return wrong(format!("spec.name has to have 1 to {LONGEST_NAME} bytes"));
    }
    if request_id.len() > LONGEST_NAME {
        return wrong(format!("request_id may have at most {LONGEST_NAME} bytes"));
    }
    if spec.sources.is_empty() && spec.target.is_none() {
        return Ok(());
    }
    if spec.sources.is_empty() || spec.sources.len() > MOST_SHARDS {
        return wrong(format!("spec.sources has {} entries; 1 to {MOST_SHARDS} are taken", spec.sources.len()));
    }
    let Some(target) = &spec.target else { return wrong("spec.target is missing".into()) };
    let mut seen = HashSet::new();
    let named = |(index, source)| (format!("spec.sources[{index}]"), source);
    let sources = spec.sources.iter().enumerate().map(named);
    for (field, Endpoint { host, port, tls, instance_id, .. }) in sources.chain([("spec.target".to_owned(), target)]) {
        if field != "spec.target" && !seen.insert((host, port)) {
            return wrong(format!("{field}: {host}:{port} is listed twice"));
        }
        if host.is_empty() {
            return wrong(format!("{field}.host is missing"));
        }
        if !(1..=65535).contains(port) {
            return wrong(format!("{field}.port has to be 1 to 65535"));
        }
        if instance_id.len() > LONGEST_NAME {
            return wrong(format!("{field}.instance_id may have at most {LONGEST_NAME} bytes"));
        }
        if let Some(tls) = tls {
            check_tls(&format!("{field}.tls"), tls)?;
        }
    }
    if !matches!(Mode::try_from(spec.mode), Ok(Mode::Migrate | Mode::Sync)) {
        return wrong("spec.mode has to be MODE_MIGRATE or MODE_SYNC".into());
    }
    if TargetGuard::try_from(spec.target_guard).is_err() {
        return wrong("spec.target_guard has to be one of TARGET_GUARD_WATCH, _ACL and _OFF".into());
    }
    if TargetFence::try_from(spec.target_fence).is_err() {
        return wrong("spec.target_fence has to be one of TARGET_FENCE_AUTO and _USER".into());
    }
    placement::check(spec)?;
    Selection::new(spec.filter.as_ref(), &spec.db_map, spec.on_flush).map(drop)
}

/// Fails if the task is still being set up.
pub fn check_complete(spec: &TaskSpec) -> Result<()> {
    if spec.target.is_some() {
        return Ok(());
    }
    let message = "spec.sources and spec.target are missing: name them by UpdateTask first";
    Err(Error::new(Code::InvalidRequest, message))
}

#[cfg(test)]
mod tests {
    use dts_proto::v1::Tls;

    use super::*;

    #[test]
    fn a_task_may_be_named_before_it_is_set_up() {
        let named = TaskSpec { name: "n".into(), ..TaskSpec::default() };
        assert!(check_spec(&named, "").is_ok() && check_complete(&named).is_err());
    }

    #[test]
    fn a_wrong_field_is_named() {
        let end = |host: &str, port| Endpoint { host: host.into(), port, ..Endpoint::default() };
        let good = TaskSpec {
            name: "n".into(),
            sources: vec![end("a", 1)],
            target: Some(end("b", 2)),
            mode: Mode::Sync.into(),
            ..TaskSpec::default()
        };
        check_spec(&good, "").unwrap();
        let with = |tls: Tls| Some(Endpoint { tls: Some(tls), ..end("b", 2) });
        let skips = Tls { ca_file: "ca".into(), insecure_skip_verify: true, ..Tls::default() };
        for (bad, field) in [
            (TaskSpec { name: String::new(), ..good.clone() }, "spec.name"),
            (TaskSpec { sources: vec![], ..good.clone() }, "spec.sources"),
            (
                TaskSpec { sources: vec![end("a", 1), end("a", 1)], ..good.clone() },
                "spec.sources[1]: a:1 is listed twice",
            ),
            (TaskSpec { target: None, ..good.clone() }, "spec.target"),
            (TaskSpec { target: Some(end("b", 70000)), ..good.clone() }, "spec.target.port"),
            (TaskSpec { sources: vec![end("", 1)], ..good.clone() }, "spec.sources[0].host"),
            (
                TaskSpec { target: with(Tls { key_file: "k".into(), ..Tls::default() }), ..good.clone() },
                "spec.target.tls: certificate_file",
            ),
            (TaskSpec { target: with(skips), ..good.clone() }, "spec.target.tls: insecure_skip_verify"),
            (
                TaskSpec { target: Some(Endpoint { instance_id: "i".repeat(129), ..end("b", 2) }), ..good.clone() },
                "spec.target.instance_id",
            ),
            (TaskSpec { mode: 0, ..good.clone() }, "spec.mode"),
        ] {
            assert!(check_spec(&bad, "").unwrap_err().message.contains(field), "{field}");
        }
    }
}
