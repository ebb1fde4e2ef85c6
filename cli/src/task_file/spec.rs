//! A task file's fields, and the spec that they come to. docs/task-file.md tells of each.

use std::collections::HashMap;

use dts_proto::v1::{
    BorderPolicy, CrossSlot, Endpoint, Filter, FlushPolicy, Limits, Mode, Ring, RingServer, SourceKind, Strays,
    TargetFence, TargetGuard, TaskSpec, Topology,
};

use super::reader::{Fields, Reader};
use super::server::{NODE, TARGET};
use super::tree::Node;

pub(super) const TASK: &[&str] = &[
    "version",
    "name",
    "mode",
    "complete",
    "source",
    "target",
    "filter",
    "db_map",
    "on_flush",
    "on_cross_slot",
    "allow_downgrade",
    "share_sources",
    "target_guard",
    "target_fence",
    "limits",
];
pub(super) const SOURCE: &[&str] =
    &["access", "nodes", "kind", "found_by", "sentinels", "master_names", "codis_slots", "ring", "strays"];
pub(super) const RING: &[&str] = &["hash", "hash_tag", "distribution", "servers"];
pub(super) const RING_SERVER: &[&str] = &["name", "weight"];
pub(super) const FILTER: &[&str] = &[
    "include_patterns",
    "include_prefixes",
    "exclude_patterns",
    "exclude_prefixes",
    "databases",
    "types",
    "exclude_commands",
    "on_border",
    "trust_scripts",
];
pub(super) const LIMITS: &[&str] = &["spool_memory", "spool_disk", "retry_window", "read_rate", "write_rate"];
pub(super) const MODES: &[(&str, Mode)] = &[("sync", Mode::Sync), ("migrate", Mode::Migrate)];
pub(super) const COMPLETE: &[(&str, bool)] = &[("when-asked", false), ("when-caught-up", true)];
pub(super) const FLUSH: &[(&str, FlushPolicy)] =
    &[("pass", FlushPolicy::Pass), ("ignore", FlushPolicy::Ignore), ("stop", FlushPolicy::Stop)];
pub(super) const CROSS_SLOT: &[(&str, CrossSlot)] = &[("stop", CrossSlot::Stop), ("skip", CrossSlot::Skip)];
pub(super) const GUARD: &[(&str, TargetGuard)] =
    &[("watch", TargetGuard::Watch), ("acl", TargetGuard::Acl), ("off", TargetGuard::Off)];
pub(super) const FENCE: &[(&str, TargetFence)] = &[("auto", TargetFence::Auto), ("user", TargetFence::User)];
pub(super) const BORDER: &[(&str, BorderPolicy)] = &[("stop", BorderPolicy::Stop), ("skip", BorderPolicy::Skip)];
pub(super) const STRAYS: &[(&str, Strays)] = &[("stop", Strays::Stop), ("drop", Strays::Drop)];
pub(super) const KINDS: &[(&str, SourceKind)] = &[
    ("standalone", SourceKind::Standalone),
    ("cluster", SourceKind::Cluster),
    ("codis", SourceKind::Codis),
    ("twemproxy", SourceKind::Twemproxy),
    ("sentinel", SourceKind::Sentinel),
];
pub(super) const TYPES: &[&str] = &["string", "list", "set", "zset", "hash", "stream", "array", "module"];
pub(super) const VERSION: u32 = 1;
const LONGEST_NAME: usize = 128;
const LAST_DB: u32 = i32::MAX.unsigned_abs();

impl Reader {
    pub(super) fn task(&mut self, root: &Node) -> TaskSpec {
        let Some(fields) = self.fields("", root, TASK) else { return TaskSpec::default() };
        let version = self.required("the task", fields, "version", "1");
        version.and_then(|node| self.number("version", node, VERSION, VERSION));
        let name = self.required("the task", fields, "name", "orders");
        let name = name.and_then(|node| {
            self.parsed("name", node, |text| match text.len() {
                1..=LONGEST_NAME => Ok(text.to_owned()),
                _ => Err(format!("1 to {LONGEST_NAME} bytes")),
            })
        });
        let mut spec = TaskSpec { name: name.unwrap_or_default(), ..TaskSpec::default() };
        self.ends(fields, &mut spec);
        self.options(fields, &mut spec);
        spec
    }

    /// Source, target and mode: all of them, or, of a task that is still being set up, none.
    fn ends(&mut self, fields: Fields<'_>, spec: &mut TaskSpec) {
        if ["source", "target", "mode"].iter().all(|name| fields.get(name).is_none()) {
            return;
        }
        if let Some(mode) = self.required("the task", fields, "mode", "sync") {
            spec.mode = self.one_of("mode", mode, MODES).unwrap_or_default().into();
        }
        if let Some(target) = self.required("the task", fields, "target", "{address: 10.0.0.9, port: 6379}") {
            spec.target = self.server("target", target, TARGET, None);
        }
        if let Some(source) = self.required("the task", fields, "source", "{nodes: [{address: 10.0.0.5, port: 6379}]}")
        {
            self.source(source, spec);
        }
    }

    fn source(&mut self, node: &Node, spec: &mut TaskSpec) {
        let Some(fields) = self.fields("source", node, SOURCE) else { return };
        let access = fields.get("access").and_then(|node| self.access(node));
        let Some(nodes) = self.required("source", fields, "nodes", "[{address: 10.0.0.5, port: 6379}]") else { return };
        let listed = self.list("nodes", nodes);
        if listed.is_empty() {
            self.wrong(nodes.at, "source.nodes needs at least one node: `- {address: 10.0.0.5, port: 6379}`");
        }
        for node in listed {
            let Some(end) = self.server("a node", node, NODE, access.as_ref()) else { continue };
            if spec.sources.iter().any(|other: &Endpoint| (&other.host, other.port) == (&end.host, end.port)) {
                self.wrong(node.at, format!("{}:{} is listed twice", end.host, end.port));
            }
            spec.sources.push(end);
        }
        let topology = self.topology(fields);
        spec.topology = (topology != Topology::default()).then_some(topology);
    }

    fn topology(&mut self, fields: Fields<'_>) -> Topology {
        let mut topology = Topology::default();
        if let Some(node) = fields.get("kind") {
            topology.kind = self.one_of("kind", node, KINDS).unwrap_or_default().into();
        }
        if let Some(node) = fields.get("strays") {
            topology.strays = self.one_of("strays", node, STRAYS).unwrap_or_default().into();
        }
        if let Some(node) = fields.get("found_by") {
            topology.found_by = self.text("found_by", node).unwrap_or_default().to_owned();
        }
        if let Some(node) = fields.get("sentinels") {
            let listed = self.list("sentinels", node);
            topology.sentinels = listed.iter().filter_map(|node| self.server("a sentinel", node, NODE, None)).collect();
        }
        if let Some(node) = fields.get("master_names") {
            topology.master_names = self.texts("master_names", node);
        }
        if let Some(node) = fields.get("codis_slots") {
            topology.codis_slots = self.texts("codis_slots", node);
        }
        topology.ring = fields.get("ring").and_then(|node| self.ring(node));
        topology
    }

    fn ring(&mut self, node: &Node) -> Option<Ring> {
        let fields = self.fields("ring", node, RING)?;
        let mut ring = Ring::default();
        for (name, value) in
            [("hash", &mut ring.hash), ("hash_tag", &mut ring.hash_tag), ("distribution", &mut ring.distribution)]
        {
            let found = fields.get(name).and_then(|node| self.text(name, node));
            *value = found.unwrap_or_default().to_owned();
        }
        let servers = fields.get("servers").map(|node| self.list("servers", node)).unwrap_or_default();
        for node in servers {
            let Some(fields) = self.fields("a server of the ring", node, RING_SERVER) else { continue };
            let name = self.required("a server of the ring", fields, "name", "one");
            let name = name.and_then(|node| self.text("name", node)).unwrap_or_default().to_owned();
            let weight = self.required("a server of the ring", fields, "weight", "1");
            let weight = weight.and_then(|node| self.number("weight", node, 0, u32::MAX)).unwrap_or_default();
            ring.servers.push(RingServer { name, weight });
        }
        Some(ring)
    }

    fn options(&mut self, fields: Fields<'_>, spec: &mut TaskSpec) {
        if let Some(node) = fields.get("complete") {
            spec.complete_when_caught_up = self.one_of("complete", node, COMPLETE).unwrap_or_default();
        }
        if let Some(node) = fields.get("on_flush") {
            spec.on_flush = self.one_of("on_flush", node, FLUSH).unwrap_or_default().into();
        }
        if let Some(node) = fields.get("on_cross_slot") {
            spec.cross_slot = self.one_of("on_cross_slot", node, CROSS_SLOT).unwrap_or_default().into();
        }
        if let Some(node) = fields.get("allow_downgrade") {
            spec.allow_downgrade = self.flag("allow_downgrade", node).unwrap_or_default();
        }
        if let Some(node) = fields.get("share_sources") {
            spec.share_sources = self.flag("share_sources", node).unwrap_or_default();
        }
        if let Some(node) = fields.get("target_guard") {
            spec.target_guard = self.one_of("target_guard", node, GUARD).unwrap_or_default().into();
        }
        if let Some(node) = fields.get("target_fence") {
            spec.target_fence = self.one_of("target_fence", node, FENCE).unwrap_or_default().into();
        }
        spec.filter = fields.get("filter").and_then(|node| self.filter(node));
        spec.limits = fields.get("limits").and_then(|node| self.limits(node));
        if let Some(node) = fields.get("db_map") {
            spec.db_map = self.db_map(node);
        }
    }

    fn filter(&mut self, node: &Node) -> Option<Filter> {
        let fields = self.fields("filter", node, FILTER)?;
        let mut filter = Filter::default();
        for (name, values) in [
            ("include_patterns", &mut filter.include_patterns),
            ("include_prefixes", &mut filter.include_prefixes),
            ("exclude_patterns", &mut filter.exclude_patterns),
            ("exclude_prefixes", &mut filter.exclude_prefixes),
            ("exclude_commands", &mut filter.exclude_commands),
        ] {
            *values = fields.get(name).map(|node| self.texts(name, node)).unwrap_or_default();
        }
        let types: Vec<_> = TYPES.iter().map(|name| (*name, *name)).collect();
        for node in fields.get("types").map(|node| self.list("types", node)).unwrap_or_default() {
            filter.types.extend(self.one_of("types", node, &types).map(str::to_owned));
        }
        for node in fields.get("databases").map(|node| self.list("databases", node)).unwrap_or_default() {
            filter.databases.extend(self.number("databases", node, 0, LAST_DB));
        }
        if let Some(node) = fields.get("on_border") {
            filter.on_border = self.one_of("on_border", node, BORDER).unwrap_or_default().into();
        }
        if let Some(node) = fields.get("trust_scripts") {
            filter.trust_scripts = self.flag("trust_scripts", node).unwrap_or_default();
        }
        Some(filter)
    }

    fn limits(&mut self, node: &Node) -> Option<Limits> {
        let fields = self.fields("limits", node, LIMITS)?;
        let mut bytes = |name: &str| fields.get(name).and_then(|node| self.bytes(name, node)).unwrap_or_default();
        Some(Limits {
            spool_memory_bytes: bytes("spool_memory"),
            spool_disk_bytes: bytes("spool_disk"),
            read_bytes_per_second: bytes("read_rate"),
            write_bytes_per_second: bytes("write_rate"),
            retry_window_seconds: fields
                .get("retry_window")
                .and_then(|node| self.seconds("retry_window", node))
                .unwrap_or_default(),
        })
    }

    fn db_map(&mut self, node: &Node) -> HashMap<u32, u32> {
        let mut map = HashMap::new();
        let Some(fields) = self.map("db_map", node) else { return map };
        for entry in fields.entries() {
            let Ok(from) = entry.name.parse() else {
                self.wrong(entry.at, format!("db_map takes numbers of databases, as `3: 4`, not {:?}", entry.name));
                continue;
            };
            if let Some(to) = self.number("db_map", &entry.value, 0, LAST_DB) {
                map.insert(from, to);
            }
        }
        map
    }
}
