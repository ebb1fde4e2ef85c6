//! The error table: what went wrong, whose matter it is, whether trying again helps, and what to do next.
//!
//! Codes are frozen: programs match on them. Adding a row is fine; changing or removing one is not.

use std::fmt;

/// Whose matter an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The request or configuration.
    User,
    /// The source Redis, or the way to it.
    Source,
    /// The target Redis, or the way to it.
    Target,
    /// The agent's host.
    Agent,
    /// A defect of ours.
    Internal,
}

impl Scope {
    /// The scope as it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Source => "source",
            Self::Target => "target",
            Self::Agent => "agent",
            Self::Internal => "internal",
        }
    }
}

macro_rules! table {
    ($($(#[doc = $doc:literal])+ $name:ident, $code:literal, $scope:ident, $retry:literal, $fix:literal;)+) => {
        /// A row of the error table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[doc = $doc])+ $name,)+ }

        impl Code {
            /// Every row, in order.
            pub const ALL: &'static [Code] = &[$(Code::$name,)+];

            /// The frozen code.
            pub fn as_str(self) -> &'static str { match self { $(Code::$name => $code,)+ } }
            /// Whose matter it is.
            pub fn scope(self) -> Scope { match self { $(Code::$name => Scope::$scope,)+ } }
            /// Whether trying again may help with nobody doing anything.
            pub fn retry(self) -> bool { match self { $(Code::$name => $retry,)+ } }
            /// What went wrong, in general.
            pub fn meaning(self) -> &'static str { match self { $(Code::$name => concat!($($doc),+).trim_ascii(),)+ } }
            /// What to do next.
            pub fn fix(self) -> &'static str { match self { $(Code::$name => $fix,)+ } }
        }
    };
}

table! {
    /// A request is malformed or asks for what does not exist in this version.
    InvalidRequest, "INVALID_REQUEST", User, false, "correct the request; the message names the field";
    /// The task does not exist.
    TaskNotFound, "TASK_NOT_FOUND", User, false, "list the tasks and use one of their ids";
    /// The alarm policy does not exist.
    AlarmPolicyNotFound, "ALARM_POLICY_NOT_FOUND", User, false, "list the alarm policies and use one of their ids";
    /// The state does not allow the action.
    ActionNotAllowed, "ACTION_NOT_ALLOWED", User, false, "use one of the task's allowed_actions";
    /// The caller acted on an older revision.
    RevisionConflict, "REVISION_CONFLICT", User, false, "read the task again and repeat the request with its revision";
    /// Another task that runs has one of the servers.
    InstanceBusy, "INSTANCE_BUSY", User, false, "complete or cancel the other task first; sources may be read by several tasks if all of them say share_sources";
    /// The check warns of something that nobody has taken upon themselves.
    AcknowledgementNeeded, "ACKNOWLEDGEMENT_NEEDED", User, false, "look at the check (`dts task check --show`), then acknowledge its warnings (`dts task ack`) or mend what they name and check again";
    /// A password was named that cannot be read.
    SecretUnavailable, "SECRET_UNAVAILABLE", User, false, "make the named environment variable, file or secret readable for the agent";

    /// No connection to the source.
    SourceUnreachable, "SOURCE_UNREACHABLE", Source, true, "check host, port, network and that the source is running";
    /// No TLS with the source, or a certificate is not accepted.
    SourceTls, "SOURCE_TLS", Source, true, "correct the source's TLS settings as the message says (docs/tls.md), then start again";
    /// The source refuses user or password.
    SourceAuth, "SOURCE_AUTH", Source, false, "correct the source's user and password";
    /// The source does not let this user replicate.
    SourcePermission, "SOURCE_PERMISSION", Source, false, "grant the user +psync +sync +replconf +ping +info on the source";
    /// The source cannot serve a replica now: loading, busy, its own link down, or its save failed.
    SourceBusy, "SOURCE_BUSY", Source, true, "wait; if it stays, look at the source's log for why it cannot save or replicate";
    /// The source knows neither PSYNC nor SYNC.
    SourceNoReplication, "SOURCE_NO_REPLICATION", Source, false, "enable SYNC or PSYNC on the source (renamed commands?), or use one of its replicas";
    /// The source closed or broke the link.
    SourceLost, "SOURCE_LOST", Source, true, "nothing, if it comes back; else look at the source's log and its client-output-buffer-limit for replicas";
    /// What the source sent is not the protocol.
    SourceProtocol, "SOURCE_PROTOCOL", Source, true, "check that the address is a Redis, and that nothing between alters the traffic";
    /// The snapshot is damaged.
    SnapshotCorrupt, "SNAPSHOT_CORRUPT", Source, true, "check the network path; if it repeats, check the source's memory and data with redis-check-rdb";
    /// The snapshot holds something that this version does not know.
    SnapshotUnknown, "SNAPSHOT_UNKNOWN", Source, false, "upgrade dts, or remove the named data from the source";

    /// The listed sources are not one whole source: a node is missing, listed twice, or not a node.
    SourceTopology, "SOURCE_TOPOLOGY", Source, false, "list one node of every master, each once, with its own address; `dts discover` prints them";
    /// Slots move between the source's masters.
    SourceResharded, "SOURCE_RESHARDED", Source, true, "nothing, if the move ends soon: what it touched is copied again then; if it takes longer than the retry window, start the task again when it is over";
    /// A source holds keys that another source has, or owns by the map of keys.
    SourceStrays, "SOURCE_STRAYS", Source, false, "if they are old copies that clients do not see, start again with --strays drop (topology.strays), which needs the map of keys (nutcracker.yml); if not, correct the map or the list of sources";
    /// Another node has the data of this shard now.
    SourceFailedOver, "SOURCE_FAILED_OVER", Source, true, "nothing: the shard goes on at the node that took over";

    /// No connection to the target.
    TargetUnreachable, "TARGET_UNREACHABLE", Target, true, "check host, port, network and that the target is running";
    /// No TLS with the target, or a certificate is not accepted.
    TargetTls, "TARGET_TLS", Target, true, "correct the target's TLS settings as the message says (docs/tls.md), then start again";
    /// The target refuses user or password.
    TargetAuth, "TARGET_AUTH", Target, false, "correct the target's user and password";
    /// The target refuses a command that we need.
    TargetPermission, "TARGET_PERMISSION", Target, false, "grant the user all write commands and +multi +exec +watch +select +restore on all keys of the target";
    /// The target cannot serve now.
    TargetBusy, "TARGET_BUSY", Target, true, "wait until the target has loaded its data or ended its script";
    /// The target closed or broke the link.
    TargetLost, "TARGET_LOST", Target, true, "nothing, if it comes back; else look at the target's log";
    /// The target is a replica, or otherwise not a master that takes writes.
    TargetRole, "TARGET_ROLE", Target, false, "give a standalone master, or nodes of a whole cluster, as the target";
    /// The target holds keys that are not this task's.
    TargetNotEmpty, "TARGET_NOT_EMPTY", Target, false, "give an empty target, or empty this one; an interrupted migration goes on with its own --state-dir";
    /// The copy would have to be repeated, on a target where what is gone since cannot be found.
    CopyNotRepeatable, "COPY_NOT_REPEATABLE", Target, false, "empty the servers behind the target's endpoint, then start again; a longer backlog on the source (repl-backlog-size) makes this rarer";
    /// The target has no room.
    TargetFull, "TARGET_FULL", Target, false, "raise maxmemory on the target (CONFIG SET maxmemory), then start again with the same --state-dir";
    /// The target cannot hold what the source has.
    TargetUnsupported, "TARGET_UNSUPPORTED", Target, false, "use a target of at least the source's version, with the same modules and databases";
    /// The target is older than the source.
    Downgrade, "DOWNGRADE", User, false, "use a target of at least the source's version, or start again with --allow-downgrade (allow_downgrade in the task)";
    /// A command moves data over the border of the filter: what it does to the keys inside cannot be known.
    FilterBorder, "FILTER_BORDER", User, false, "move the command's keys together: widen the filter in a new task; or leave such commands out (on_border: skip)";
    /// FLUSHALL or FLUSHDB on the source, and the task says to stop then.
    FlushStopped, "FLUSH_STOPPED", User, false, "if the source was meant to be emptied, start again with on_flush pass; else ignore, or restore the source first";
    /// The target refused a write that succeeded on the source.
    Diverged, "DIVERGED", Target, false, "find out who else writes to the target, then copy again into an empty target";
    /// The target's record is older than what it confirmed, or a transaction cannot be repeated: begin again from the record.
    TargetRewound, "TARGET_REWOUND", Target, true, "nothing: the agent reads the position again and goes on from there";
    /// Somebody with a higher epoch, or an unknown writer, holds this target.
    Fenced, "FENCED", Target, false, "nothing: another agent has taken over this shard";

    /// The way back cannot go on where it began.
    WayBackLost, "WAY_BACK_LOST", Source, false, "resync the task (`dts task resync`): everything of the new side is copied over the old one, and what that has alone is deleted; or cancel it, and the way back is given up";
    /// Two tasks write to each other's sources.
    GoesRound, "GOES_ROUND", User, false, "end one of the two tasks: they carry every change round between two servers";
    /// Source and target are one instance, or replicas of each other.
    SameInstance, "SAME_INSTANCE", User, false, "give two independent instances";
    /// The spool's disk bound is reached, or its disk failed.
    SpoolFull, "SPOOL_FULL", Agent, false, "give the spool more disk (spool_disk_bytes or a larger volume), or a faster target";
    /// The agent's disk failed.
    AgentDisk, "AGENT_DISK", Agent, false, "check the state directory's volume: space, permissions, errors";
    /// No coordinator has heard of the agent for nearly a lease, and nothing on the target says that it may write there.
    CoordinatorLost, "COORDINATOR_LOST", Agent, true, "nothing is lost, and it goes on by itself when the agent reaches a coordinator again: check the network between them";
    /// No agent can take a shard.
    NoAgent, "NO_AGENT", Agent, true, "start an agent that fits, and check that it reaches the coordinator; `dts fleet list` shows labels, room and who is cordoned";
    /// The agent does not exist.
    AgentNotFound, "AGENT_NOT_FOUND", User, false, "list the agents (`dts fleet list`) and use one of their names";
    /// The role of the caller does not allow it, or the caller is an agent.
    PermissionDenied, "PERMISSION_DENIED", User, false, "ask an administrator for the role that it takes (docs/tls.md), or use another certificate";
    /// No certificate was shown.
    Unauthenticated, "UNAUTHENTICATED", User, false, "show a certificate: --tls-cert and --tls-key";
    /// A token does not serve.
    TokenRefused, "TOKEN_REFUSED", User, false, "make a new token: `dts fleet token NAME`; each serves once, for one agent, for a limited time";
    /// A Redis that one runs oneself on a cloud virtual machine would leave its region.
    CrossRegion, "CROSS_REGION", User, false, "use a target in the source's region, and name the region of both; or reach the source by another network (public, dc, vpn, ccn)";
    /// The store of the coordinators does not answer. Shards go on.
    StoreUnavailable, "STORE_UNAVAILABLE", Internal, true, "nothing, if it comes back: running shards go on without it; else check etcd's health, and --etcd, --etcd-ca and the network of the coordinators";
    /// The store of the coordinators refuses them.
    StoreRefused, "STORE_REFUSED", User, false, "correct --etcd-user and its password, or grant that user readwrite on the prefix (--etcd-prefix)";
    /// No coordinator leads now. Shards go on.
    NoLeader, "NO_LEADER", Internal, true, "try again: another coordinator leads within seconds, if etcd has a quorum; running shards go on";
    /// A defect of ours.
    Internal, "INTERNAL", Internal, false, "report this, with the log";
}

impl Code {
    /// What the source is, not whether it is there.
    pub fn is_of_topology(self) -> bool {
        matches!(self, Self::SourceTopology | Self::SourceResharded | Self::SourceStrays | Self::SourceFailedOver)
    }
}

/// A row of the table with the particulars. `detail` may name a key of the user and therefore never goes to a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The row.
    pub code: Code,
    /// What happened, in words, without user data and without secrets.
    pub message: String,
    /// Which key, if one; shown to the operator, kept out of logs.
    pub detail: Option<String>,
}

impl Error {
    /// An error of this row.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), detail: None }
    }

    /// Names the key that the error is about.
    #[must_use]
    pub fn about_key(mut self, key: &[u8]) -> Self {
        const LONGEST: usize = 128;
        let shown = String::from_utf8_lossy(&key[..key.len().min(LONGEST)]).escape_debug().to_string();
        self.detail = Some(format!("key \"{shown}\"{}", if key.len() > LONGEST { " (cut)" } else { "" }));
        self
    }

    /// Adds what a server said, which may quote data.
    #[must_use]
    pub fn quoting(mut self, said: &str) -> Self {
        let before = self.detail.take().map(|detail| format!("{detail}; ")).unwrap_or_default();
        self.detail = Some(format!("{before}it says: {}", said.escape_debug()));
        self
    }

    /// For the operator: with the detail.
    pub fn for_operator(&self) -> String {
        match &self.detail {
            Some(detail) => format!("{}: {detail}", self.message),
            None => self.message.clone(),
        }
    }
}

impl fmt::Display for Error {
    /// For logs: without the detail.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)
    }
}

impl std::error::Error for Error {}

/// Short for results of this table.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_its_own_code_and_a_way_out() {
        let mut seen = std::collections::HashSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{} stands twice", code.as_str());
            assert!(!code.fix().is_empty());
        }
    }

    #[test]
    fn a_key_is_shown_to_the_operator_and_not_in_a_log() {
        let error = Error::new(Code::SnapshotUnknown, "unknown type 99").about_key(b"user:1\n");
        assert!(error.for_operator().contains(r#"user:1\n"#));
        assert!(!error.to_string().contains("user:1"));
    }
}
