//! What an edit changes, as the field mask that says no more than that: a running task takes some changes and not others.

use dts_proto::v1::{Endpoint, Filter, TaskSpec};

/// Paths for `UpdateTask`.
pub(super) fn paths(before: &TaskSpec, after: &TaskSpec) -> Vec<String> {
    let mut paths = Vec::new();
    let mut differs = |path: &str, differs: bool| {
        if differs {
            paths.push(path.to_owned());
        }
    };
    differs("name", before.name != after.name);
    differs("mode", before.mode != after.mode);
    differs("topology", before.topology != after.topology);
    differs("db_map", before.db_map != after.db_map);
    differs("share_sources", before.share_sources != after.share_sources);
    differs("target_guard", before.target_guard != after.target_guard);
    differs("target_fence", before.target_fence != after.target_fence);
    differs("complete_when_caught_up", before.complete_when_caught_up != after.complete_when_caught_up);
    differs("allow_downgrade", before.allow_downgrade != after.allow_downgrade);
    differs("on_flush", before.on_flush != after.on_flush);
    differs("cross_slot", before.cross_slot != after.cross_slot);

    let ends = |spec: &TaskSpec| (spec.sources.iter().map(without_tls).collect::<Vec<_>>(), tls(&spec.sources));
    let ((ends_before, tls_before), (ends_after, tls_after)) = (ends(before), ends(after));
    differs("sources", ends_before != ends_after);
    differs("sources.tls", ends_before == ends_after && tls_before != tls_after);
    let target = |spec: &TaskSpec| spec.target.as_ref().map(without_tls);
    differs("target", target(before) != target(after));
    let of_tls = |spec: &TaskSpec| spec.target.as_ref().and_then(|target| target.tls.clone());
    differs("target.tls", target(before) == target(after) && of_tls(before) != of_tls(after));

    let (filter_before, filter_after) =
        (before.filter.clone().unwrap_or_default(), after.filter.clone().unwrap_or_default());
    let fixed = |filter: &Filter| Filter { on_border: 0, trust_scripts: false, ..filter.clone() };
    let moves = fixed(&filter_before) != fixed(&filter_after);
    differs("filter", moves);
    differs("filter.on_border", !moves && filter_before.on_border != filter_after.on_border);
    differs("filter.trust_scripts", !moves && filter_before.trust_scripts != filter_after.trust_scripts);

    let (limits_before, limits_after) = (before.limits.unwrap_or_default(), after.limits.unwrap_or_default());
    for (path, before, after) in [
        ("limits.spool_memory_bytes", limits_before.spool_memory_bytes, limits_after.spool_memory_bytes),
        ("limits.spool_disk_bytes", limits_before.spool_disk_bytes, limits_after.spool_disk_bytes),
        ("limits.read_bytes_per_second", limits_before.read_bytes_per_second, limits_after.read_bytes_per_second),
        ("limits.write_bytes_per_second", limits_before.write_bytes_per_second, limits_after.write_bytes_per_second),
        (
            "limits.retry_window_seconds",
            limits_before.retry_window_seconds.into(),
            limits_after.retry_window_seconds.into(),
        ),
    ] {
        differs(path, before != after);
    }
    paths
}

fn without_tls(end: &Endpoint) -> Endpoint {
    Endpoint { tls: None, ..end.clone() }
}

fn tls(ends: &[Endpoint]) -> Vec<Option<dts_proto::v1::Tls>> {
    ends.iter().map(|end| end.tls.clone()).collect()
}
