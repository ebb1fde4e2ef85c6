//! The items of a check as data. docs/checks.md is compared with the table.

use std::time::Duration;

use dts_proto::v1::Severity;

/// One thing to look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    /// Frozen.
    pub(super) id: &'static str,
    /// What it means if it fails; a finding may be less or more severe.
    pub(super) severity: Severity,
    /// No look takes longer.
    pub(super) limit: Duration,
    /// What holds if it passes.
    pub(super) title: &'static str,
    /// What to do if it does not; a row of the error table may know better.
    pub(super) remedy: &'static str,
}

const fn item(id: &'static str, severity: Severity, seconds: u64, title: &'static str, remedy: &'static str) -> Item {
    Item { id, severity, limit: Duration::from_secs(seconds), title, remedy }
}

use Severity::{Blocks, Informs, Warns};

/// The connectivity test.
pub(super) const TEST: &[Item] = &[
    item(
        "src.reach",
        Blocks,
        25,
        "the source answers",
        "look at address, port, firewall and TLS between the agent and the source",
    ),
    item("src.auth", Blocks, 25, "the source takes the login", "correct user and password of the source"),
    item(
        "dst.reach",
        Blocks,
        25,
        "the target answers",
        "look at address, port, firewall and TLS between the agent and the target",
    ),
    item("dst.auth", Blocks, 25, "the target takes the login", "correct user and password of the target"),
];

/// What a check looks at besides: the first that blocks is the task's reason.
pub(super) const CHECK: &[Item] = &[
    item(
        "src.topology",
        Blocks,
        30,
        "the listed sources are the whole source, each part once",
        "list one node of every shard (`dts discover`)",
    ),
    item(
        "src.slots",
        Blocks,
        30,
        "no slot of the source is on its way between nodes",
        "let the move of slots end, then check again",
    ),
    item(
        "id.distinct",
        Blocks,
        15,
        "source and target are two independent instances",
        "name two instances of which none replicates the other",
    ),
    item(
        "src.running",
        Blocks,
        15,
        "the source serves: it is not loading, its link and its last save are well",
        "wait until it has loaded and its link is up; for a failed save look at its log (directory, permissions, memory), then BGSAVE",
    ),
    item(
        "src.rights",
        Blocks,
        15,
        "the source knows SYNC or PSYNC and lets this user replicate",
        "let the user run PSYNC, SYNC, REPLCONF and PING, or take one that may",
    ),
    item(
        "dst.role",
        Blocks,
        15,
        "the target is a master, or a cluster with an owner for every slot",
        "name the master, or mend the cluster",
    ),
    item(
        "dst.accepts",
        Blocks,
        15,
        "the target takes writes: its saves are well and it has the replicas that it asks for",
        "mend its saves (see its log), or its replicas (min-replicas-to-write)",
    ),
    item(
        "dst.empty",
        Blocks,
        30,
        "the target is empty, or holds what this task began",
        "empty the target, or name another one",
    ),
    item(
        "dst.databases",
        Blocks,
        15,
        "every database of the source has a place on the target",
        "raise `databases` on the target, or map the databases (`--db-map`)",
    ),
    item(
        "kind.version",
        Blocks,
        15,
        "the target is at least of the source's version, or a downgrade is allowed",
        "take a newer target, or allow the downgrade after reading docs/versions.md",
    ),
    item(
        "dst.rights",
        Blocks,
        15,
        "the target lets this user write, restore and use transactions",
        "let the user run what the message names",
    ),
    item(
        "dst.reload",
        Warns,
        15,
        "the target has its transactions again when it is restarted",
        "let the user default run everything, and switch it off or give it a password; or take a release that loads its file with all rights",
    ),
    item(
        "dst.eviction",
        Warns,
        15,
        "the target evicts no keys",
        "CONFIG SET maxmemory-policy noeviction on the target",
    ),
    item(
        "dst.memory",
        Warns,
        30,
        "the target has the memory for the source's data",
        "raise maxmemory of the target, or take a larger one",
    ),
    item(
        "dst.slots",
        Blocks,
        20,
        "no slot of the target is on its way between nodes",
        "let the move of slots end, then check again; a start waits for it",
    ),
    item(
        "dst.writers",
        Warns,
        20,
        "nobody else writes to the target",
        "stop whoever writes to it: it has to be read-only for everybody else while the task runs",
    ),
    item(
        "dst.fence",
        Informs,
        15,
        "a writer that was replaced cannot write any more",
        "take the servers behind the endpoint as the target: docs/routing-endpoints.md",
    ),
    item(
        "dst.guard",
        Informs,
        15,
        "others can be kept from writing to the target, as far as the task asks for it",
        "let our user run ACL WHOAMI, LIST and SETUSER on the target (6.0 or newer), or take --target-guard watch",
    ),
    item(
        "src.failover",
        Informs,
        15,
        "a replica of the source that takes over continues the stream",
        "plan for a new copy after a failover: before 4.0 there is no PSYNC2",
    ),
    item(
        "src.reserved",
        Warns,
        30,
        "no key of the source begins with __dts:",
        "rename or delete them: that prefix is ours, and they are not moved",
    ),
    item(
        "src.big_keys",
        Informs,
        20,
        "no sampled key of the source takes 256 MiB or more",
        "look with redis-cli --bigkeys: a large key is moved in parts and takes its time",
    ),
    item(
        "src.modules",
        Warns,
        15,
        "the target has loaded every module that the source has",
        "load them on the target; if no key and no command is theirs, nothing is lost",
    ),
    item(
        "src.cross_slot",
        Warns,
        15,
        "the source has run no command that a cluster as the target refuses or takes slowly",
        "give their keys a common {tag}, or let them be left out (--skip-cross-slot): docs/cluster-targets.md",
    ),
    item(
        "src.fork",
        Warns,
        15,
        "the source's host has the memory for a fork",
        "read a replica that has it, copy at a quiet hour, or add memory",
    ),
    item(
        "src.backlog",
        Warns,
        20,
        "the source's backlog outlasts a short interruption",
        "raise repl-backlog-size on the source: after a longer interruption everything is copied again",
    ),
    item(
        "src.output_buffer",
        Warns,
        20,
        "the source's output buffer for replicas holds what is written during the copy",
        "CONFIG SET client-output-buffer-limit \"replica 0 0 0\" on the source until the copy is done",
    ),
    item(
        "src.timeout",
        Warns,
        15,
        "the source bears the silence of a replica for a while",
        "CONFIG SET repl-timeout 60 or more on the source",
    ),
    item(
        "net.clocks",
        Warns,
        15,
        "the clocks of source, target and agent agree within 2 s",
        "set the clocks by NTP: keys expire on the target by its own clock",
    ),
    item(
        "net.quality",
        Warns,
        20,
        "both ways carry at least twice what the source writes",
        "place the agent nearer, widen the line, or wait for a quieter hour",
    ),
    item(
        "net.catch_up",
        Warns,
        20,
        "the target can get and stay in step with the source",
        "raise write_bytes_per_second, or bring agent and target nearer to each other",
    ),
    item(
        "agent.disk",
        Warns,
        20,
        "the agent's volume has room for the spool",
        "free space on the agent's volume, or give it another --state-dir",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_documented_once_with_its_severity_limit_and_remedy() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/checks.md");
        let text = std::fs::read_to_string(path).unwrap();
        let mut seen = std::collections::HashSet::new();
        for item in TEST.iter().chain(CHECK) {
            assert!(seen.insert(item.id), "{} stands twice", item.id);
            let severity = item.severity.as_str_name().trim_start_matches("SEVERITY_").to_lowercase();
            let limit = item.limit.as_secs();
            let row = format!("| `{}` | {severity} | {limit} s | {} | {} |", item.id, item.title, item.remedy);
            assert!(text.lines().any(|line| line == row), "docs/checks.md lacks: {row}");
        }
    }
}
